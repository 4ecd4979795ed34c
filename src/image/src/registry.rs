//! One endpoint of a registry (OCI distribution-spec), through the `oci-distribution` client.
//!
//! That client reads manifests of any length into memory, so indexes and manifests are fetched by a request
//! of our own; it does the token exchange and streams the blobs. Credentials are sent only after the endpoint
//! has refused an anonymous request, and only to it.

use std::fs;
use std::io;
use std::sync::Once;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use oci_distribution::client::{
    BlobResponse, Certificate, CertificateEncoding, ClientConfig, ClientProtocol,
};
use oci_distribution::errors::{OciDistributionError, OciErrorCode};
use oci_distribution::secrets::RegistryAuth;
use oci_distribution::{Client, Reference as OciReference, RegistryOperation};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Response, StatusCode};

use crate::credentials::Credentials;
use crate::digest::Digest;
use crate::error::{Attempt, Fault, ImageError, Result};
use crate::manifest::{ACCEPTED, DOCUMENT_MAX};
use crate::reference::Reference;
use crate::registries::Endpoint;

const USER_AGENT: &str = concat!("agent/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a server may say nothing before it counts as stalled.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// What failed at one endpoint: kind and reason.
pub(crate) type EndpointResult<T> = std::result::Result<T, Failure>;

/// A failure at one endpoint.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The next endpoint may do better.
    Endpoint(Fault, String),
    /// What came is wrong, wherever it comes from.
    Image(ImageError),
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Failure::Image(error)
    }
}

/// A document as it came: exact bytes, and what the server calls them.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) bytes: Vec<u8>,
    pub(crate) media_type: Option<String>,
}

/// A connection to one endpoint, for one repository.
pub(crate) struct Registry {
    endpoint: Endpoint,
    http: reqwest::Client,
    client: Client,
    reference: OciReference,
    auth: RegistryAuth,
    /// What our own requests carry once the endpoint asked for it.
    granted: tokio::sync::OnceCell<Granted>,
}

#[derive(Debug, Clone)]
enum Granted {
    Basic(String, String),
    Bearer(String),
}

impl Registry {
    /// Prepares to talk to an endpoint; nothing is sent yet.
    pub(crate) fn new(endpoint: Endpoint, reference: &Reference) -> Result<Registry> {
        install_crypto();
        let failed = |reason: String| ImageError::Config {
            path: endpoint.ca_file.clone().unwrap_or_default(),
            reason,
        };
        let authorities = match &endpoint.ca_file {
            None => Vec::new(),
            Some(path) => fs::read(path).map_err(ImageError::io("read the CA file", path))?,
        };
        let mut http = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT);
        let mut extra = Vec::new();
        if !authorities.is_empty() {
            let parsed =
                reqwest::Certificate::from_pem_bundle(&authorities).map_err(|error| failed(chain(&error)))?;
            if parsed.is_empty() {
                return Err(failed("it holds no certificate".into()));
            }
            http = http.tls_certs_merge(parsed);
            extra.extend(certificates(&authorities));
        }
        let http = http.build().map_err(|error| failed(chain(&error)))?;
        let protocol = if endpoint.plain_http { ClientProtocol::Http } else { ClientProtocol::Https };
        let client = Client::try_from(ClientConfig {
            protocol,
            user_agent: USER_AGENT,
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            extra_root_certificates: extra,
            ..ClientConfig::default()
        })
        .map_err(|error| failed(chain(&error)))?;
        let auth = match &endpoint.credentials {
            None => RegistryAuth::Anonymous,
            Some(Credentials::Basic { username, password }) => {
                RegistryAuth::Basic(username.clone(), password.clone())
            }
            Some(Credentials::IdentityToken(_) | Credentials::RegistryToken(_)) => {
                return Err(ImageError::Refused {
                    what: format!("the credentials for {}", endpoint.host),
                    reason: "only a name and a password can be used".into(),
                });
            }
        };
        let tag = reference.tag().unwrap_or(crate::reference::DEFAULT_TAG).to_owned();
        let reference = OciReference::with_tag(endpoint.host.clone(), endpoint.repository.clone(), tag);
        Ok(Registry { endpoint, http, client, reference, auth, granted: tokio::sync::OnceCell::new() })
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// An index or manifest by its tag or digest.
    pub(crate) async fn manifest(&self, name: &str) -> EndpointResult<Fetched> {
        let scheme = if self.endpoint.plain_http { "http" } else { "https" };
        let host = self.reference.resolve_registry();
        let url = format!("{scheme}://{host}/v2/{}/manifests/{name}", self.endpoint.repository);
        let mut response = self.get(&url).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            self.authorize().await?;
            response = self.get(&url).await?;
        }
        self.document(response).await
    }

    /// A small blob, such as a configuration.
    pub(crate) async fn small_blob(&self, digest: &Digest, size: u64) -> EndpointResult<Vec<u8>> {
        use futures_util::StreamExt as _;
        let mut stream = self.blob(digest).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = stream.next().await {
            bytes.extend_from_slice(&piece.map_err(|error| broken(&error))?);
            if bytes.len() as u64 > size {
                break;
            }
        }
        Ok(bytes)
    }

    /// The bytes of a blob as they come. They are not verified.
    pub(crate) async fn blob(
        &self,
        digest: &Digest,
    ) -> EndpointResult<BoxStream<'static, io::Result<Bytes>>> {
        let name = digest.to_string();
        // A range from the first byte on: the client leaves the verifying to us only for partial answers, and
        // every byte would be digested twice otherwise.
        match self.client.pull_blob_stream_partial(&self.reference, name.as_str(), 0, None).await {
            Ok(BlobResponse::Full(stream) | BlobResponse::Partial(stream)) => Ok(stream.stream),
            Err(error) => Err(self.failure(error)),
        }
    }

    async fn get(&self, url: &str) -> EndpointResult<Response> {
        let request = self.http.get(url).header(ACCEPT, ACCEPTED.join(", "));
        let request = match self.granted.get() {
            None => request,
            Some(Granted::Basic(username, password)) => request.basic_auth(username, Some(password)),
            Some(Granted::Bearer(token)) => request.bearer_auth(token),
        };
        request.send().await.map_err(|error| unreachable(&error))
    }

    /// Gets what the endpoint wants to see: a token for the repository, or our credentials.
    async fn authorize(&self) -> EndpointResult<()> {
        let granted = match self.client.auth(&self.reference, &self.auth, RegistryOperation::Pull).await {
            Ok(Some(token)) => Granted::Bearer(token),
            Ok(None) => match &self.auth {
                RegistryAuth::Basic(username, password) => Granted::Basic(username.clone(), password.clone()),
                _ => return Err(self.unauthorized()),
            },
            Err(OciDistributionError::AuthenticationFailure(_)) => return Err(self.unauthorized()),
            Err(error) => return Err(self.failure(error)),
        };
        // Set at most once: only the first manifest of a pull can find it missing.
        drop(self.granted.set(granted));
        Ok(())
    }

    /// Reads a document, bounded.
    async fn document(&self, mut response: Response) -> EndpointResult<Fetched> {
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(self.unauthorized()),
            StatusCode::NOT_FOUND => return Err(Failure::Endpoint(Fault::NotFound, "not found".into())),
            status => return Err(Failure::Endpoint(Fault::Failed, format!("it answered {status}"))),
        }
        let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type.map(|value| value.split(';').next().unwrap_or(value).trim().to_owned());
        let mut bytes = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| unreachable(&error))? {
            if (bytes.len() + piece.len()) as u64 > DOCUMENT_MAX {
                return Err(Failure::Image(ImageError::Refused {
                    what: format!("the manifest of {}", self.endpoint.repository),
                    reason: format!("it is longer than {DOCUMENT_MAX} bytes"),
                }));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(Fetched { bytes, media_type })
    }

    fn unauthorized(&self) -> Failure {
        let host = &self.endpoint.host;
        let reason = match &self.auth {
            RegistryAuth::Anonymous => {
                format!(
                    "it wants credentials; put them for host {host:?} into registries.d or ~/.docker/config.json"
                )
            }
            _ => format!("it does not accept the configured credentials for host {host:?}"),
        };
        Failure::Endpoint(Fault::Unauthorized, reason)
    }

    fn failure(&self, error: OciDistributionError) -> Failure {
        match error {
            OciDistributionError::UnauthorizedError { .. } => self.unauthorized(),
            OciDistributionError::ServerError { code: 401 | 403, .. } => self.unauthorized(),
            OciDistributionError::ServerError { code: 404, .. } => {
                Failure::Endpoint(Fault::NotFound, "not found".into())
            }
            OciDistributionError::ServerError { code, .. } => {
                Failure::Endpoint(Fault::Failed, format!("it answered {code}"))
            }
            OciDistributionError::RegistryError { envelope, .. } => {
                let missing = |code: &OciErrorCode| {
                    matches!(
                        code,
                        OciErrorCode::BlobUnknown
                            | OciErrorCode::ManifestUnknown
                            | OciErrorCode::NameUnknown
                            | OciErrorCode::NotFound
                    )
                };
                let fault = if envelope.errors.iter().any(|error| missing(&error.code)) {
                    Fault::NotFound
                } else {
                    Fault::Failed
                };
                let messages: Vec<&str> = envelope.errors.iter().map(|error| &*error.message).collect();
                Failure::Endpoint(fault, one_line(&messages.join(", ")))
            }
            OciDistributionError::RequestError(error) => unreachable(&error),
            other => Failure::Endpoint(Fault::Failed, chain(&other)),
        }
    }
}

impl Failure {
    /// The failure as one attempt of several; what concerns the image itself ends them all.
    pub(crate) fn attempt(self, endpoint: &Endpoint) -> Result<Attempt> {
        match self {
            Failure::Endpoint(fault, reason) => Ok(Attempt { endpoint: endpoint.to_string(), fault, reason }),
            Failure::Image(error) => Err(error),
        }
    }
}

/// The failure of a stream that had begun.
pub(crate) fn broken(error: &io::Error) -> Failure {
    Failure::Endpoint(Fault::Unreachable, format!("the connection broke: {}", cause(error)))
}

fn unreachable(error: &reqwest::Error) -> Failure {
    let reason = match error.is_timeout() {
        true => "no answer in time".to_owned(),
        false => cause(error),
    };
    Failure::Endpoint(Fault::Unreachable, reason)
}

/// The innermost reason of an error, in the words that say most.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut reason = error.to_string();
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            match error.kind() {
                io::ErrorKind::ConnectionRefused => return "connection refused (is it running?)".into(),
                io::ErrorKind::ConnectionReset => return "connection reset".into(),
                io::ErrorKind::NetworkUnreachable => return "network unreachable".into(),
                io::ErrorKind::HostUnreachable => return "host unreachable".into(),
                io::ErrorKind::TimedOut => return "no answer in time".into(),
                _ => {}
            }
        }
        reason = error.to_string();
        next = error.source();
    }
    if reason.contains("InvalidContentType") || reason.contains("corrupt message") {
        reason.push_str(" (a plain HTTP registry needs plain-http = true in registries.d)");
    }
    one_line(&reason)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    one_line(&text)
}

/// Text of a server, fit for one line of ours.
fn one_line(text: &str) -> String {
    const SHOWN: usize = 300;
    let clean: String =
        text.chars().map(|char| if char.is_control() { ' ' } else { char }).take(SHOWN).collect();
    clean.trim().to_owned()
}

/// The certificates of a PEM file, each as oci-distribution wants it.
fn certificates(pem: &[u8]) -> Vec<Certificate> {
    let text = String::from_utf8_lossy(pem);
    let end = "-----END CERTIFICATE-----";
    let blocks = text.split_inclusive(end).filter(|block| block.ends_with(end));
    blocks
        .map(|block| {
            let from = block.find("-----BEGIN").unwrap_or(0);
            Certificate { encoding: CertificateEncoding::Pem, data: block.as_bytes()[from..].to_vec() }
        })
        .collect()
}

/// Rustls takes its cryptography from one provider for the whole process.
fn install_crypto() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        // Another part of the process may have installed the same one already.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    });
}
