//! HTTP to one endpoint: whom it trusts, what it shows of itself, and where redirects may lead.
//!
//! `oci-distribution` has neither client certificates nor a redirect policy, so the requests are our own, by the HTTP
//! client it brings. Redirects are followed here, one by one: what identifies us (the authorization header, the
//! client certificate) goes to the endpoint's own host and port and to no other, and TLS is never left.

use std::fs;
use std::sync::{Once, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, Response, Url};

use super::SLOWEST;
use super::failure::{EndpointResult, Failure, chain};
use crate::error::{Fault, ImageError, Result};
use crate::registries::Endpoint;

const USER_AGENT: &str = concat!("agent/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const REDIRECTS_MAX: usize = 10;
/// Docker Hub's registry has another name than its images.
const DOCKER_HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// One request, which may be sent several times.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// How long the answer may take besides, for what the server has to do before.
    pub(crate) patience: Duration,
}

impl Ask {
    pub(crate) fn new(method: Method, url: Url) -> Self {
        Ask { method, url, headers: HeaderMap::new(), body: Bytes::new(), patience: Duration::ZERO }
    }

    pub(crate) fn get(url: Url) -> Self {
        Ask::new(Method::GET, url)
    }

    fn may_be_redirected(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD)
    }
}

/// The connections to one endpoint, and to where it sends us.
#[derive(Debug)]
pub(crate) struct Transport {
    endpoint: Endpoint,
    base: Url,
    /// With our client certificate.
    own: OnceLock<reqwest::Client>,
    /// Without.
    foreign: OnceLock<reqwest::Client>,
}

impl Transport {
    /// Prepares to talk to an endpoint; nothing is read or sent yet.
    pub(crate) fn new(endpoint: Endpoint) -> Result<Transport> {
        let scheme = if endpoint.plain_http { "http" } else { "https" };
        let host = if endpoint.host == DOCKER_HUB.0 { DOCKER_HUB.1 } else { &endpoint.host };
        let base = Url::parse(&format!("{scheme}://{host}/v2/")).map_err(|error| ImageError::Refused {
            what: format!("the registry {host}"),
            reason: error.to_string(),
        })?;
        Ok(Transport { endpoint, base, own: OnceLock::new(), foreign: OnceLock::new() })
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// An address below the endpoint's `/v2/`. `path` holds only what references and digests may.
    pub(crate) fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("/v2/{path}"));
        url
    }

    /// Whether an address is the endpoint itself, scheme, host and port.
    pub(crate) fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    /// Sends a request, with `authorization` where it goes to the endpoint itself, and follows where it leads.
    pub(crate) async fn send(
        &self,
        ask: &Ask,
        authorization: Option<&HeaderValue>,
    ) -> EndpointResult<Response> {
        self.follow(ask, authorization, &self.base).await
    }

    /// The same to a host that may see `authorization` although it is not the endpoint.
    pub(crate) async fn send_trusting(
        &self,
        ask: &Ask,
        authorization: Option<&HeaderValue>,
    ) -> EndpointResult<Response> {
        self.follow(ask, authorization, &ask.url).await
    }

    async fn follow(
        &self,
        ask: &Ask,
        authorization: Option<&HeaderValue>,
        home: &Url,
    ) -> EndpointResult<Response> {
        let mut url = ask.url.clone();
        for _ in 0..=REDIRECTS_MAX {
            self.check_scheme(&url)?;
            let own = self.is_own(&url);
            let client = if own { self.client(&self.own, true)? } else { self.client(&self.foreign, false)? };
            let mut request = client.request(ask.method.clone(), url.clone()).headers(ask.headers.clone());
            if !ask.body.is_empty() {
                request = request.body(ask.body.clone());
            }
            if let Some(authorization) = authorization.filter(|_| url.origin() == home.origin()) {
                request = request.header(AUTHORIZATION, authorization);
            }
            // The wait for an answer's head; that for its body is the reader's.
            let sending = Duration::from_secs(ask.body.len() as u64 / SLOWEST);
            let patience = self.endpoint.stall + sending + ask.patience;
            let answer = tokio::time::timeout(patience, request.send()).await;
            let response = answer
                .map_err(|_| Failure::passing(Fault::Unreachable, "no answer in time"))?
                .map_err(|error| Failure::unanswered(&error))?;
            if !response.status().is_redirection() || !ask.may_be_redirected() {
                return Ok(response);
            }
            url = target(&url, response.headers()).ok_or_else(|| {
                let reason = format!("it answered {} without a place to go to", response.status());
                Failure::lasting(Fault::Failed, reason)
            })?;
        }
        Err(Failure::lasting(Fault::Failed, format!("it redirected more than {REDIRECTS_MAX} times")))
    }

    fn check_scheme(&self, url: &Url) -> EndpointResult<()> {
        match url.scheme() {
            "https" => Ok(()),
            "http" if self.endpoint.plain_http => Ok(()),
            scheme => {
                let host = url.host_str().unwrap_or_default();
                let reason = format!("it leads from https to {scheme}://{host}, which is not followed");
                Err(Failure::lasting(Fault::Failed, reason))
            }
        }
    }

    fn client<'c>(
        &self,
        kept: &'c OnceLock<reqwest::Client>,
        identified: bool,
    ) -> Result<&'c reqwest::Client> {
        if let Some(client) = kept.get() {
            return Ok(client);
        }
        let client = self.build(identified)?;
        Ok(kept.get_or_init(|| client))
    }

    fn build(&self, identified: bool) -> Result<reqwest::Client> {
        install_crypto();
        let mut client = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none());
        if let Some(path) = &self.endpoint.ca_file {
            let wrong = |reason: String| ImageError::Config { path: path.clone(), reason };
            let pem = fs::read(path).map_err(ImageError::io("read the CA file", path))?;
            let authorities = reqwest::Certificate::from_pem_bundle(&pem);
            let authorities = authorities.map_err(|error| wrong(chain(&error)))?;
            if authorities.is_empty() {
                return Err(wrong("it holds no certificate".into()));
            }
            client = client.tls_certs_merge(authorities);
        }
        if let (true, Some(certificate), Some(key)) =
            (identified, &self.endpoint.client_cert, &self.endpoint.client_key)
        {
            let mut pem =
                fs::read(certificate).map_err(ImageError::io("read the client certificate", certificate))?;
            pem.push(b'\n');
            pem.extend(fs::read(key).map_err(ImageError::io("read the client key", key))?);
            let identity = reqwest::Identity::from_pem(&pem).map_err(|error| ImageError::Config {
                path: certificate.clone(),
                reason: format!("it and {} make no client certificate: {}", key.display(), chain(&error)),
            })?;
            client = client.identity(identity);
        }
        client.build().map_err(|error| ImageError::Config {
            path: self.endpoint.ca_file.clone().unwrap_or_default(),
            reason: chain(&error),
        })
    }
}

/// Where a redirect leads.
fn target(from: &Url, headers: &HeaderMap) -> Option<Url> {
    from.join(headers.get(LOCATION)?.to_str().ok()?).ok()
}

/// Rustls takes its cryptography from one provider for the whole process.
fn install_crypto() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        // Another part of the process may have installed the same one already.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    });
}
