//! Who we are to a registry, and where that is kept.
//!
//! | module | idea |
//! | --- | --- |
//! | `docker` | docker's `config.json`: whose credentials are for which host and repository |
//! | `edit` | one entry of that file changed, all else left as it is |
//! | `helper` | `docker-credential-NAME`, which keeps secrets elsewhere |
//!
//! Credentials belong to the host they are written for and are sent to no other.

mod docker;
mod edit;
mod helper;

use std::fmt;

pub(crate) use self::docker::DockerConfig;
pub use self::edit::Kept;

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
