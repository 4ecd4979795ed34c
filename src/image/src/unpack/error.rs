//! Why a layer could not be unpacked.

use std::io;

/// A layer was refused, or could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// The archive breaks its own format.
    #[error("its archive is damaged: {reason}")]
    Archive {
        /// Which rule it breaks.
        reason: String,
    },
    /// An entry asks for something that is not done.
    #[error("entry {path:?} {reason}")]
    Entry {
        /// The entry's name.
        path: String,
        /// What it asks for.
        reason: String,
    },
    /// A limit against archives that are made to fill the machine.
    #[error("it exceeds the limit of {limit} {what}")]
    Limit {
        /// What is limited.
        what: &'static str,
        /// How many are allowed.
        limit: u64,
    },
    /// The archive's bytes could not be had.
    #[error("failed to read its archive")]
    Read {
        /// Why.
        source: io::Error,
    },
    /// Its compressed form is damaged.
    #[error("failed to decompress it")]
    Decompress {
        /// What the decompressor says.
        source: io::Error,
    },
    /// Its compressed form is not of the kind its media type promises.
    #[error("it is not compressed as its media type says: {found} instead of {promised}")]
    Packing {
        /// By its media type.
        promised: &'static str,
        /// By its first bytes.
        found: &'static str,
    },
    /// A file operation failed.
    #[error("failed to {operation} {path:?}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To which path of the layer.
        path: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl UnpackError {
    pub(crate) fn archive(reason: impl Into<String>) -> Self {
        UnpackError::Archive { reason: reason.into() }
    }

    pub(crate) fn entry(path: &[u8], reason: impl Into<String>) -> Self {
        UnpackError::Entry { path: text(path), reason: reason.into() }
    }

    pub(crate) fn io<E: Into<io::Error>>(operation: &'static str, path: &[u8]) -> impl FnOnce(E) -> Self {
        move |source| UnpackError::Io { operation, path: text(path), source: source.into() }
    }
}

/// A path for people to read, cut where it is absurdly long.
fn text(path: &[u8]) -> String {
    const SHOWN: usize = 300;
    let shown = String::from_utf8_lossy(&path[..path.len().min(SHOWN)]).into_owned();
    if path.len() > SHOWN { shown + "…" } else { shown }
}

pub(crate) type Result<T> = std::result::Result<T, UnpackError>;
