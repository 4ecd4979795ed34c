//! Who we are to an endpoint: nobody, a name and a password, or the bearer of a token.
//!
//! Nothing is sent before the endpoint asks (401 with `WWW-Authenticate`). A token is for one repository and what is
//! done with it (distribution, "Token Authentication Specification"), is kept until shortly before it expires, and is
//! asked for with the endpoint's credentials only where these may go: the endpoint's own host, a host of the same
//! domain, or one that the configuration names. Elsewhere a token is asked for anonymously.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_auth::ChallengeRef;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::failure::{EndpointResult, Failure};
use super::transport::{Ask, Transport};
use crate::credentials::Credentials;
use crate::error::Fault;

/// Who asks for tokens.
const CLIENT_ID: &str = "agent";
/// How long a token lasts that does not say it.
const LIFE: Duration = Duration::from_secs(60);
/// A token is renewed so long before its end, which is counted from before it was asked for.
const MARGIN: Duration = Duration::from_secs(5);
const TOKEN_BYTES: usize = 1 << 20;

/// What is done with a repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Scope {
    pub(crate) repository: String,
    /// `pull`, or `pull,push`.
    pub(crate) actions: &'static str,
}

impl Scope {
    fn text(&self) -> String {
        format!("repository:{}:{}", self.repository, self.actions)
    }
}

/// What was granted so far, by what it is for.
#[derive(Debug, Default)]
pub(crate) struct Auth {
    granted: Mutex<BTreeMap<Vec<Scope>, Granted>>,
    /// Why a token server was not shown the credentials.
    withheld: OnceLock<String>,
}

#[derive(Debug, Clone)]
struct Granted {
    header: HeaderValue,
    expires: Option<Instant>,
}

impl Granted {
    fn holds(&self) -> bool {
        self.expires.is_none_or(|expires| Instant::now() < expires)
    }
}

/// What a token server answers.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
    refresh_token: Option<String>,
}

/// A demand of the endpoint.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Auth {
    /// The header for requests of this scope, if one was granted and still holds.
    pub(crate) async fn header(&self, scopes: &[Scope]) -> Option<HeaderValue> {
        let granted = self.granted.lock().await;
        granted.get(scopes).filter(|granted| granted.holds()).map(|granted| granted.header.clone())
    }

    /// Answers a 401 to a request that carried `used`: the header to try again with.
    pub(crate) async fn answer(
        &self,
        transport: &Transport,
        scopes: &[Scope],
        demand: &HeaderMap,
        used: Option<&HeaderValue>,
    ) -> EndpointResult<HeaderValue> {
        let mut granted = self.granted.lock().await;
        // While this waited, another request of the same scope may have answered.
        let is_new = |known: &&Granted| known.holds() && Some(&known.header) != used;
        if let Some(known) = granted.get(scopes).filter(is_new) {
            return Ok(known.header.clone());
        }
        let challenge = challenge(demand)
            .ok_or_else(|| Failure::lasting(Fault::Failed, "it wants credentials of an unknown kind"))?;
        let new = match challenge {
            Challenge::Basic => basic(transport)?,
            Challenge::Bearer { .. }
                if matches!(credentials(transport), Some(Credentials::RegistryToken(_))) =>
            {
                ready_token(transport)?
            }
            Challenge::Bearer { realm, service, scope } => {
                let own = scopes.iter().map(Scope::text);
                let asked = scope.iter().flat_map(|scope| scope.split(' ')).map(str::to_owned);
                let scopes: BTreeSet<String> = own.chain(asked).filter(|scope| !scope.is_empty()).collect();
                let asked_at = Instant::now();
                let answer = self.token(transport, &realm, service.as_deref(), &scopes, false).await?;
                let life = answer.expires_in.map_or(LIFE, Duration::from_secs);
                Granted {
                    header: bearer(answer.token.or(answer.access_token))?,
                    expires: Some(asked_at + life.saturating_sub(MARGIN)),
                }
            }
        };
        if Some(&new.header) == used {
            return Err(self.refused(transport));
        }
        let header = new.header.clone();
        granted.insert(scopes.to_vec(), new);
        Ok(header)
    }

    /// Shows the endpoint's credentials to whoever judges them, and returns the identity token that they may be
    /// kept as from now on, where the token server gives one.
    pub(crate) async fn login(&self, transport: &Transport) -> EndpointResult<Option<String>> {
        let ask = Ask::get(transport.url(""));
        let response = transport.send(&ask, None).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            // It asks nobody.
            return match response.status().is_success() {
                true => Ok(None),
                false => Err(Failure::answered(response).await),
            };
        }
        let challenge = challenge(response.headers())
            .ok_or_else(|| Failure::lasting(Fault::Failed, "it wants credentials of an unknown kind"))?;
        let (header, identity) = match challenge {
            Challenge::Basic => (basic(transport)?.header, None),
            Challenge::Bearer { realm, service, .. } => {
                let answer =
                    self.token(transport, &realm, service.as_deref(), &BTreeSet::new(), true).await?;
                if self.withheld.get().is_some() {
                    // Anybody's token says nothing of our credentials.
                    return Err(self.refused(transport));
                }
                (bearer(answer.token.or(answer.access_token))?, answer.refresh_token)
            }
        };
        let response = transport.send(&ask, Some(&header)).await?;
        match response.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(refused(transport)),
            status if status.is_success() => Ok(identity),
            _ => Err(Failure::answered(response).await),
        }
    }

    /// Asks a token server; `lasting` also for an identity token.
    async fn token(
        &self,
        transport: &Transport,
        realm: &str,
        service: Option<&str>,
        scopes: &BTreeSet<String>,
        lasting: bool,
    ) -> EndpointResult<TokenAnswer> {
        let mut url = Url::parse(realm)
            .map_err(|_| Failure::lasting(Fault::Failed, "the address of its token server is malformed"))?;
        let trusted = may_see_credentials(transport, &url);
        let known = credentials(transport).filter(|_| trusted);
        if credentials(transport).is_some() && !trusted {
            self.withheld.get_or_init(|| untrusted(transport, &url));
        }
        let mut authorization = None;
        let ask = if let Some(Credentials::IdentityToken(refresh)) = known {
            let mut form = Url::parse("form:").expect("a constant address");
            let mut pairs = form.query_pairs_mut();
            pairs.append_pair("grant_type", "refresh_token");
            pairs.append_pair("client_id", CLIENT_ID).append_pair("refresh_token", refresh);
            pairs.extend_pairs(service.map(|service| ("service", service)));
            let all: Vec<&str> = scopes.iter().map(String::as_str).collect();
            pairs.append_pair("scope", &all.join(" "));
            drop(pairs);
            let mut ask = Ask::new(Method::POST, url.clone());
            ask.body = form.query().unwrap_or_default().to_owned().into();
            let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
            ask.headers.insert(CONTENT_TYPE, kind);
            ask
        } else {
            let mut pairs = url.query_pairs_mut();
            pairs.extend_pairs(service.map(|service| ("service", service)));
            pairs.extend_pairs(scopes.iter().map(|scope| ("scope", scope)));
            if let Some(Credentials::Basic { username, password }) = known {
                authorization = Some(basic_header(username, password)?);
                pairs.append_pair("account", username);
                if lasting {
                    pairs.append_pair("client_id", CLIENT_ID).append_pair("offline_token", "true");
                }
            }
            drop(pairs);
            Ask::get(url.clone())
        };
        let response = transport.send_trusting(&ask, authorization.as_ref()).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                return Err(self.refused(transport));
            }
            _ => return Err(Failure::answered(response).await),
        }
        let bytes = super::body(response, TOKEN_BYTES, transport.endpoint().stall)
            .await?
            .ok_or_else(|| Failure::lasting(Fault::Failed, "the answer of its token server is too long"))?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Failure::lasting(Fault::Failed, format!("its token server gave no token: {error}"))
        })
    }

    /// The endpoint does not let us in with what it or its token server was shown.
    pub(super) fn refused(&self, transport: &Transport) -> Failure {
        match self.withheld.get() {
            Some(reason) => Failure::lasting(Fault::Unauthorized, reason),
            None => refused(transport),
        }
    }
}

fn credentials(transport: &Transport) -> Option<&Credentials> {
    transport.endpoint().credentials.as_ref()
}

/// The endpoint does not let us in with what we have.
fn refused(transport: &Transport) -> Failure {
    let host = &transport.endpoint().host;
    let reason = match credentials(transport) {
        None => format!(
            "it wants credentials; give them by `agent login {host}` or for host {host:?} in registries.d"
        ),
        Some(_) => format!("it does not accept the configured credentials for host {host:?}"),
    };
    Failure::lasting(Fault::Unauthorized, reason)
}

fn basic(transport: &Transport) -> EndpointResult<Granted> {
    match credentials(transport) {
        Some(Credentials::Basic { username, password }) => {
            Ok(Granted { header: basic_header(username, password)?, expires: None })
        }
        _ => Err(refused(transport)),
    }
}

fn ready_token(transport: &Transport) -> EndpointResult<Granted> {
    match credentials(transport) {
        Some(Credentials::RegistryToken(token)) => {
            Ok(Granted { header: bearer(Some(token.clone()))?, expires: None })
        }
        _ => Err(refused(transport)),
    }
}

fn basic_header(username: &str, password: &str) -> EndpointResult<HeaderValue> {
    secret_header(format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
}

fn bearer(token: Option<String>) -> EndpointResult<HeaderValue> {
    let token = token.ok_or_else(|| Failure::lasting(Fault::Failed, "its token server gave no token"))?;
    secret_header(format!("Bearer {token}"))
}

fn secret_header(text: String) -> EndpointResult<HeaderValue> {
    let mut header = HeaderValue::try_from(text)
        .map_err(|_| Failure::lasting(Fault::Failed, "its token cannot be sent in a header"))?;
    header.set_sensitive(true);
    Ok(header)
}

fn untrusted(transport: &Transport, realm: &Url) -> String {
    let (host, realm) = (&transport.endpoint().host, realm.host_str().unwrap_or_default());
    format!(
        "its token server {realm} wants credentials, and those for host {host:?} are not sent there; \
         if they may be, add token-hosts = [\"{realm}\"] to that host in registries.d"
    )
}

/// Whether a token server may be shown the endpoint's credentials.
fn may_see_credentials(transport: &Transport, realm: &Url) -> bool {
    let endpoint = transport.endpoint();
    let Some(host) = realm.host_str() else { return false };
    let with_port = realm.port().map(|port| format!("{host}:{port}"));
    if endpoint.token_hosts.iter().any(|named| named == host || Some(named) == with_port.as_ref()) {
        return true;
    }
    let own = transport.url("");
    let own = own.host_str().unwrap_or_default();
    host == own || share_domain(own, host)
}

/// Whether two names end in the same two labels at least; addresses have no domain.
fn share_domain(one: &str, other: &str) -> bool {
    let is_name = |host: &str| host.bytes().any(|byte| byte.is_ascii_alphabetic()) && !host.contains(':');
    let labels = |host: &str| -> Vec<String> {
        host.trim_end_matches('.').rsplit('.').map(str::to_ascii_lowercase).collect()
    };
    let (first, second) = (labels(one), labels(other));
    is_name(one) && is_name(other) && first.len() >= 2 && second.len() >= 2 && first[..2] == second[..2]
}

/// The demand that is answered: a token where one is offered, else a password.
fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    let found: Vec<Challenge> = texts
        .flat_map(|text| http_auth::parse_challenges(text).unwrap_or_default())
        .filter_map(|challenge| read(&challenge))
        .collect();
    let bearer = |challenge: &Challenge| matches!(challenge, Challenge::Bearer { .. });
    let (mut bearers, mut others): (Vec<_>, Vec<_>) = found.into_iter().partition(bearer);
    bearers.drain(..).next().or_else(|| others.drain(..).next())
}

fn read(challenge: &ChallengeRef<'_>) -> Option<Challenge> {
    let parameter = |wanted: &str| {
        let mut all = challenge.params.iter();
        all.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.to_unescaped())
    };
    if challenge.scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !challenge.scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    Some(Challenge::Bearer {
        realm: parameter("realm")?,
        service: parameter("service"),
        scope: parameter("scope"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_preferred_to_a_password() {
        let headers = |texts: &[&'static str]| {
            let values = texts.iter().map(|text| (WWW_AUTHENTICATE, HeaderValue::from_static(text)));
            values.fold(HeaderMap::new(), |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            })
        };
        let bearer = Challenge::Bearer {
            realm: "https://a.b/t?x=1".into(),
            service: Some("s, s".into()),
            scope: Some("repository:a/b:pull".into()),
        };
        let text = r#"Bearer realm="https://a.b/t?x=1",service="s, s",scope="repository:a/b:pull",error="x""#;
        assert_eq!(challenge(&headers(&["Basic realm=\"x\"", text])), Some(bearer));
        assert_eq!(challenge(&headers(&["basic realm=\"x\""])), Some(Challenge::Basic));
        assert_eq!(challenge(&headers(&["Negotiate", "Bearer service=\"no realm\""])), None);
    }

    #[test]
    fn only_names_of_one_domain_share_it() {
        for (one, other, shared) in [
            ("registry-1.docker.io", "auth.docker.io", true),
            ("registry.gitlab.com", "gitlab.com", true),
            ("registry.cn-hangzhou.aliyuncs.com", "dockerauth.cn-hangzhou.aliyuncs.com", true),
            ("a.example.com", "a.example.org", false),
            ("registry.example.com", "com", false),
            ("localhost", "localhost.evil.com", false),
            ("10.0.0.1", "11.1.0.1", false),
            ("a.evil.com", "b.notevil.com", false),
        ] {
            assert_eq!(share_domain(one, other), shared, "{one} {other}");
        }
    }
}
