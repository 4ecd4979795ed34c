//! Logging in to a registry and out: whose credentials go with it from now on.

use std::path::Path;

use crate::credentials::{Credentials, DockerConfig, Kept};
use crate::error::{ImageError, Result};
use crate::reference::{self, DEFAULT_REGISTRY};
use crate::registries::{Endpoint, Registries};
use crate::registry::{Failure, Registry};

/// A registry that is about to be logged in to.
#[derive(Debug)]
pub struct Login {
    endpoint: Endpoint,
    docker: DockerConfig,
}

impl Login {
    /// Reads how `host` is reached and as whom so far; nothing is sent.
    pub fn prepare(config_root: &Path, host: &str) -> Result<Login> {
        let registries = Registries::read(config_root)?;
        Ok(Login { endpoint: registries.host(host)?, docker: registries.docker })
    }

    /// Whether there are credentials for it already.
    pub fn is_known(&self) -> bool {
        self.endpoint.credentials.is_some()
    }

    /// Shows it the credentials that are known already.
    pub async fn again(&self) -> Result<()> {
        verify(self.endpoint.clone()).await.map(drop)
    }

    /// Shows it a name and a password, and keeps them when it accepts them: in docker's `config.json`, or with the
    /// credential helper that this names. Where its token server has an identity token for us, that is kept
    /// instead of the password.
    pub async fn with(&self, username: &str, password: &str) -> Result<Kept> {
        let basic = Credentials::Basic { username: username.to_owned(), password: password.to_owned() };
        let shown = Endpoint { credentials: Some(basic.clone()), ..self.endpoint.clone() };
        let lasting = verify(shown).await?.map_or(basic, Credentials::IdentityToken);
        self.docker.keep(&self.endpoint.host, username, &lasting)
    }
}

/// Forgets what is kept for `host`; says whether anything was.
pub fn logout(host: &str) -> Result<bool> {
    DockerConfig::read()?.forget(host)
}

/// The `host[:port]` of a registry that a person names, maybe by its address: `https://HOST/v2/`.
pub fn registry_host(text: &str) -> std::result::Result<String, String> {
    let address = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let host = match address {
        Some(address) => address.split('/').next().unwrap_or(address),
        None => text.trim_end_matches('/'),
    };
    reference::check_registry(host).map_err(|reason| format!("{reason}; give host[:port]"))?;
    Ok(match host {
        "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY.to_owned(),
        host => host.to_owned(),
    })
}

async fn verify(endpoint: Endpoint) -> Result<Option<String>> {
    let failed = |failure: Failure| match failure.attempt(&endpoint) {
        Ok(attempt) => {
            let what = format!("failed to log in to {endpoint}");
            ImageError::Registry { what, attempts: vec![attempt] }
        }
        Err(error) => error,
    };
    Registry::new(endpoint.clone())?.login().await.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_named_by_host_or_address() {
        for (text, expected) in [
            ("a.b:5000", Some("a.b:5000")),
            ("https://a.b/v2/", Some("a.b")),
            ("http://127.0.0.1:1", Some("127.0.0.1:1")),
            ("https://index.docker.io/v1/", Some("docker.io")),
            ("a.b/", Some("a.b")),
            ("a.b/team", None),
            ("ftp://a.b", None),
            ("", None),
        ] {
            assert_eq!(registry_host(text).ok().as_deref(), expected, "{text}");
        }
    }
}
