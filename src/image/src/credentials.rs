//! Who we are to a registry: `auths` of docker's `config.json`.
//!
//! Credentials belong to the host they are written for and are sent to no other.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::error::{ImageError, Result};

/// What a registry, or the token server it names, is shown. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A name and a password.
    Basic {
        /// The user's name.
        username: String,
        /// The password, or an access token that stands for it.
        password: String,
    },
    /// A refresh token of OAuth 2 (RFC 6749, 1.5), for which a token server gives tokens.
    IdentityToken(String),
    /// A token that the registry itself takes, as it is.
    RegistryToken(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credentials::Basic { username, .. } => {
                f.debug_struct("Basic").field("username", username).finish_non_exhaustive()
            }
            Credentials::IdentityToken(_) => f.debug_tuple("IdentityToken").finish_non_exhaustive(),
            Credentials::RegistryToken(_) => f.debug_tuple("RegistryToken").finish_non_exhaustive(),
        }
    }
}

/// The part of docker's `config.json` that is used; other keys are other programs' business.
#[derive(Debug, Default)]
pub(crate) struct DockerConfig {
    auths: BTreeMap<String, Credentials>,
}

#[derive(Deserialize)]
struct FileSpec {
    #[serde(default)]
    auths: BTreeMap<String, AuthSpec>,
}

#[derive(Deserialize)]
struct AuthSpec {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

impl DockerConfig {
    /// Reads `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`; no file is no credentials.
    pub(crate) fn read() -> Result<DockerConfig> {
        let folder = std::env::var_os("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker")));
        let Some(folder) = folder else { return Ok(DockerConfig::default()) };
        let path = folder.join("config.json");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(DockerConfig::default());
            }
            Err(error) => return Err(ImageError::io("read", path)(error)),
        };
        parse(&text).map_err(|reason| ImageError::Config { path, reason })
    }

    pub(crate) fn credentials(&self, host: &str) -> Option<Credentials> {
        self.auths.get(host).cloned()
    }
}

fn parse(text: &str) -> std::result::Result<DockerConfig, String> {
    let file: FileSpec = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut auths = BTreeMap::new();
    for (key, spec) in file.auths {
        let credentials = match spec {
            AuthSpec { auth: Some(auth), .. } if !auth.is_empty() => decode(&auth)
                .ok_or_else(|| format!("auths: {key:?}: auth is not the base64 of NAME:PASSWORD"))?,
            AuthSpec { username: Some(username), password: Some(password), .. } => {
                Credentials::Basic { username, password }
            }
            // What a credential helper keeps leaves an empty entry.
            _ => continue,
        };
        auths.insert(host_of(&key), credentials);
    }
    Ok(DockerConfig { auths })
}

/// `docker login` writes some keys as addresses: `https://index.docker.io/v1/`.
fn host_of(key: &str) -> String {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let host = bare.split('/').next().unwrap_or(bare);
    if matches!(host, "index.docker.io" | "registry-1.docker.io") {
        "docker.io".to_owned()
    } else {
        host.to_owned()
    }
}

fn decode(auth: &str) -> Option<Credentials> {
    let text = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    let (username, password) = (username.to_owned(), password.trim_end_matches('\0').to_owned());
    Some(Credentials::Basic { username, password })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auths_belong_to_their_host() {
        let config = parse(
            r#"{"auths": {"127.0.0.1:5000": {"auth": "dTpwOng="}, "https://index.docker.io/v1/": {"auth": "YTpi"},
                "c.d": {"username": "n", "password": "s"}, "helper.io": {}}, "credsStore": "x"}"#,
        )
        .expect("well formed");
        for (host, expected) in [
            ("127.0.0.1:5000", Some(("u", "p:x"))),
            ("docker.io", Some(("a", "b"))),
            ("c.d", Some(("n", "s"))),
            ("helper.io", None),
            ("127.0.0.1", None),
        ] {
            let found = config.credentials(host);
            let expected = expected.map(|(username, password): (&str, &str)| Credentials::Basic {
                username: username.to_owned(),
                password: password.to_owned(),
            });
            assert_eq!(found, expected, "{host}");
        }
        assert!(!format!("{config:?}").contains("p:x"));
        assert!(parse(r#"{"auths": {"h": {"auth": "!"}}}"#).expect_err("no base64").contains("\"h\""));
    }
}
