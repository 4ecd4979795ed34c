//! A token server (distribution, "Token Authentication Specification" and "OAuth 2") whose tokens docker-registry
//! takes. It remembers what it was asked, and by whom.

use std::fs;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::authority::{Authority, Identity};
use super::http::{Client, Request, Server, answer};
use super::netns::Netns;
use super::registry::{PASSWORD, USER};

/// Who it issues tokens as, and for which registry.
pub const ISSUER: &str = "test issuer";
/// The registry's name for itself.
pub const SERVICE: &str = "test registry";
/// The refresh token that it gives [`USER`].
pub const REFRESH: &str = "refresh-of-reader";
/// What docker-registry lets pass after a token's end (its package `token`, "Leeway"), in seconds.
const LEEWAY: u64 = 60;

/// How a token server behaves.
#[derive(Debug, Clone)]
pub struct TokenSpec {
    /// Its address.
    pub ip: Ipv4Addr,
    /// By TLS.
    pub identity: Option<Identity>,
    /// Seconds after which the registry takes a token no longer.
    pub life: u64,
    /// Seconds that it promises.
    pub promised: Option<u64>,
    /// It has refresh tokens for those who want them.
    pub refreshes: bool,
}

impl Default for TokenSpec {
    fn default() -> Self {
        TokenSpec {
            ip: Ipv4Addr::LOCALHOST,
            identity: None,
            life: 300,
            promised: Some(300),
            refreshes: false,
        }
    }
}

/// A request for a token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// `GET`, or `POST` of OAuth 2.
    pub method: String,
    /// `user:password`, from a header or a form.
    pub basic: Option<String>,
    /// The refresh token.
    pub refresh: Option<String>,
    /// What the token is to be for.
    pub scopes: Vec<String>,
    /// Whether a refresh token was wanted.
    pub offline: bool,
}

/// A running token server.
#[derive(Debug)]
pub struct TokenServer {
    server: Server,
    scheme: &'static str,
    signer: Identity,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl TokenServer {
    /// Starts one that keeps its key in `dir`.
    ///
    /// # Panics
    /// When that fails.
    pub fn start(netns: &Netns, dir: &Path, spec: TokenSpec) -> Self {
        let signer = Authority::new(&dir.join("tokens")).signer("signer");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (ip, identity) = (spec.ip, spec.identity.clone());
        let scheme = if identity.is_some() { "https" } else { "http" };
        let (key, log) = (signer.clone(), Arc::clone(&asked));
        let serve = move |request: Request, client: &mut Client| {
            let asked = Asked::of(&request);
            log.lock().expect("nobody panics with it").push(asked.clone());
            let stream = client.get_mut();
            if !asked.is_welcome() {
                answer(stream, 401, &[], b"{\"details\":\"wrong\"}")?;
                return Ok(true);
            }
            let token = sign(&key, &asked, spec.life)?;
            let mut body = json!({ "token": token, "access_token": token });
            if let Some(promised) = spec.promised {
                body["expires_in"] = promised.into();
            }
            if spec.refreshes && asked.offline {
                body["refresh_token"] = REFRESH.into();
            }
            answer(stream, 200, &[("content-type", "application/json")], body.to_string().as_bytes())?;
            Ok(true)
        };
        TokenServer { server: Server::start(netns, ip, identity.as_ref(), serve), scheme, signer, asked }
    }

    /// The address that a registry names as its realm.
    pub fn realm(&self) -> String {
        format!("{}://{}/token", self.scheme, self.server.host())
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// The certificate by which a registry knows its tokens.
    pub fn certificate(&self) -> &Path {
        &self.signer.certificate
    }

    /// What it was asked since the last time.
    pub fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().expect("nobody panics with it"))
    }
}

impl Asked {
    fn of(request: &Request) -> Self {
        let first = |name: &str| request.fields(name).into_iter().next();
        let header = request.header("authorization").and_then(|value| value.strip_prefix("Basic "));
        let header = header.and_then(|code| STANDARD.decode(code).ok());
        let header = header.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let form = first("username").zip(first("password")).map(|(name, word)| format!("{name}:{word}"));
        // Either several fields, or one with spaces.
        let scopes = request.fields("scope");
        let mut scopes: Vec<String> =
            scopes.iter().flat_map(|scope| scope.split_whitespace()).map(str::to_owned).collect();
        scopes.sort();
        Asked {
            method: request.method.clone(),
            basic: header.or(form),
            refresh: first("refresh_token"),
            scopes,
            offline: first("offline_token").as_deref() == Some("true")
                || first("access_type").as_deref() == Some("offline"),
        }
    }

    fn is_known(&self) -> bool {
        self.basic.is_some() || self.refresh.is_some()
    }

    fn is_welcome(&self) -> bool {
        let right = |basic: &String| *basic == format!("{USER}:{PASSWORD}");
        self.basic.as_ref().is_none_or(right)
            && self.refresh.as_ref().is_none_or(|token| token == REFRESH)
            && (self.method == "GET" || self.is_known())
    }

    /// What of it is granted: everybody reads `public/`, nobody has `forbidden/`.
    fn access(&self) -> Vec<Value> {
        let granted = |scope: &String| {
            let (kind, rest) = scope.split_once(':')?;
            let (name, actions) = rest.rsplit_once(':')?;
            let actions: Vec<&str> = match (self.is_known(), name.split('/').next()?) {
                (_, "forbidden") => return None,
                (true, _) => actions.split(',').collect(),
                (false, "public") => vec!["pull"],
                (false, _) => return None,
            };
            Some(json!({ "type": kind, "name": name, "actions": actions }))
        };
        self.scopes.iter().filter_map(granted).collect()
    }
}

/// A JSON Web Token by RS256 (RFC 7519), with the certificate of its signer in its head.
fn sign(signer: &Identity, asked: &Asked, life: u64) -> io::Result<String> {
    let pem = fs::read_to_string(&signer.certificate)?;
    let certificate: String = pem.lines().filter(|line| !line.starts_with("---")).collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?.as_secs();
    let head = json!({ "typ": "JWT", "alg": "RS256", "x5c": [certificate] });
    let claims = json!({
        "iss": ISSUER,
        "sub": USER,
        "aud": SERVICE,
        "iat": now - LEEWAY,
        "nbf": now - LEEWAY,
        "exp": now + life - LEEWAY,
        // Two of the same second are two nevertheless.
        "jti": format!("{:?}", SystemTime::now()),
        "access": asked.access(),
    });
    let [head, claims] = [head, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let signed = format!("{head}.{claims}");
    let mut openssl = Command::new("openssl")
        .args(["dgst", "-sha256", "-sign"])
        .arg(&signer.key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    openssl.stdin.take().expect("it is piped").write_all(signed.as_bytes())?;
    let signature = openssl.wait_with_output()?;
    assert!(signature.status.success(), "openssl signs nothing: {}", signature.status);
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.stdout)))
}
