//! What can go wrong with images, each as one line that says what and how to mend it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::digest::{Digest, DigestError};
use crate::pack::PackError;
use crate::platform::Platform;
use crate::unpack::UnpackError;

/// An operation on images failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// A text that is no image reference.
    #[error("invalid image reference {reference:?}: {reason}")]
    InvalidReference {
        /// What was given.
        reference: String,
        /// The rule it breaks.
        reason: String,
    },
    /// A text that is no digest.
    #[error("invalid digest {text:?}")]
    InvalidDigest {
        /// What was given.
        text: String,
        /// The rule it breaks.
        source: DigestError,
    },
    /// No image here has this name or id.
    #[error("no such image: {name}")]
    NoSuchImage {
        /// What was asked for.
        name: String,
    },
    /// An id prefix that several images share.
    #[error("image id {prefix} is ambiguous: {count} images begin with it; give more of its digits")]
    AmbiguousId {
        /// What was given.
        prefix: String,
        /// How many images it fits.
        count: usize,
    },
    /// A configuration file that cannot be used.
    #[error("{path}: {reason}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong in it, with the key.
        reason: String,
    },
    /// A program that keeps credentials did not do its part.
    #[error("credential helper {program} failed for {server}: {reason}")]
    CredentialHelper {
        /// `docker-credential-NAME`.
        program: String,
        /// The host whose credentials it was asked for.
        server: String,
        /// Why, in its own words where it has any.
        reason: String,
    },
    /// No endpoint of the registry served what was asked for.
    #[error("{}", attempts_line(.what, .attempts))]
    Registry {
        /// What was to be fetched.
        what: String,
        /// Each endpoint that was tried, in order.
        attempts: Vec<Attempt>,
    },
    /// The image is not made for the platform asked for.
    #[error("{reference} has no image for {wanted}, only for {}", list(.available))]
    NoPlatform {
        /// The reference.
        reference: String,
        /// The platform asked for.
        wanted: Platform,
        /// What the index offers.
        available: Vec<Platform>,
    },
    /// A manifest, index or configuration that breaks its specification, or a limit of ours.
    #[error("refused {what}: {reason}")]
    Refused {
        /// The document.
        what: String,
        /// Why.
        reason: String,
    },
    /// Content that is not what its digest says.
    #[error("refused {what}: its content has digest {actual}, {expected} was promised")]
    DigestMismatch {
        /// What was being read.
        what: String,
        /// The digest asked for.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// Content that is longer or shorter than its descriptor says.
    #[error("refused {what}: {actual} bytes came, {expected} were promised")]
    SizeMismatch {
        /// What was being read.
        what: String,
        /// Bytes promised.
        expected: u64,
        /// Bytes that came; one more than promised stands for any larger number.
        actual: u64,
    },
    /// A layer that cannot be unpacked.
    #[error("failed to unpack layer {layer}")]
    Unpack {
        /// The layer's compressed digest.
        layer: Digest,
        /// Why.
        source: UnpackError,
    },
    /// A file with images, or with a root file system, that cannot be read.
    #[error("failed to read {what}")]
    Archive {
        /// The file.
        what: String,
        /// Why.
        source: UnpackError,
    },
    /// A container's changes could not be packed.
    #[error("failed to make a layer of the container's changes")]
    Pack {
        /// Why.
        source: PackError,
    },
    /// The image is used by a container.
    #[error("image {image} is in use by container {container}; remove the container first, or use --force")]
    InUse {
        /// The image as it was named.
        image: String,
        /// The container that uses it.
        container: String,
    },
    /// An id that has several names cannot be removed by the id alone.
    #[error("image {image} has several names ({}); remove them one by one, or use --force", .names.join(", "))]
    SeveralNames {
        /// The image as it was named.
        image: String,
        /// Its names.
        names: Vec<String>,
    },
    /// Something in the store is not what this program wrote.
    #[error(
        "{path} in the image store is damaged: {reason}; pull the image again, or say `agent image verify --repair`"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file operation in the store failed.
    #[error("failed to {operation} {path}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// One endpoint of a registry that was tried in vain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The endpoint, as `host[:port][/prefix]`.
    pub endpoint: String,
    /// What kind of failure it was.
    pub fault: Fault,
    /// The reason in words.
    pub reason: String,
}

/// The kinds of failure of a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No connection, no name, no trust, or no answer in time.
    Unreachable,
    /// It wants other credentials.
    Unauthorized,
    /// It has no such repository, tag or blob.
    NotFound,
    /// It answered, but not as a registry should.
    Failed,
}

impl Attempt {
    fn line(&self) -> String {
        let Attempt { endpoint, reason, .. } = self;
        match self.fault {
            Fault::Unreachable => format!("cannot reach registry {endpoint}: {reason}"),
            Fault::Unauthorized => format!("registry {endpoint} refused access: {reason}"),
            Fault::NotFound => format!("registry {endpoint} has no such image: {reason}"),
            Fault::Failed => format!("registry {endpoint} failed: {reason}"),
        }
    }
}

fn attempts_line(what: &str, attempts: &[Attempt]) -> String {
    let lines: Vec<String> = attempts.iter().map(Attempt::line).collect();
    format!("{what}: {}", lines.join("; "))
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    let texts: Vec<String> = items.iter().map(T::to_string).collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
}

impl ImageError {
    /// Neither the store nor any endpoint has it.
    pub fn is_not_found(&self) -> bool {
        match self {
            ImageError::NoSuchImage { .. } => true,
            ImageError::Registry { attempts, .. } => {
                attempts.iter().all(|attempt| attempt.fault == Fault::NotFound)
            }
            _ => false,
        }
    }

    /// An endpoint that may have it wants other credentials.
    pub fn is_unauthorized(&self) -> bool {
        self.any(Fault::Unauthorized)
    }

    /// An endpoint that may have it could not be reached.
    pub fn is_unreachable(&self) -> bool {
        !self.is_unauthorized() && self.any(Fault::Unreachable)
    }

    /// The reference itself is wrong.
    pub fn is_invalid_reference(&self) -> bool {
        matches!(self, ImageError::InvalidReference { .. })
    }

    /// A container uses it.
    pub fn is_in_use(&self) -> bool {
        matches!(self, ImageError::InUse { .. })
    }

    /// Something in the store is not what it was.
    pub fn is_damaged(&self) -> bool {
        matches!(self, ImageError::Damaged { .. })
    }

    /// What came is not what was promised, or is hostile: trying again will not help.
    pub fn is_refused(&self) -> bool {
        if let ImageError::Unpack { source, .. } = self {
            // A full disk, say, is not the layer's fault.
            return !matches!(source, UnpackError::Io { .. } | UnpackError::Read { .. });
        }
        matches!(
            self,
            ImageError::Refused { .. }
                | ImageError::DigestMismatch { .. }
                | ImageError::SizeMismatch { .. }
                | ImageError::Archive { .. }
        )
    }

    fn any(&self, fault: Fault) -> bool {
        match self {
            ImageError::Registry { attempts, .. } => attempts.iter().any(|attempt| attempt.fault == fault),
            _ => false,
        }
    }

    pub(crate) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> ImageError {
        let path = path.into();
        move |source| ImageError::Io { operation, path, source }
    }
}

/// What operations on images return.
pub type Result<T> = std::result::Result<T, ImageError>;
