//! Why a tree could not be packed, and what of one was left out.

use std::fmt;
use std::io;

/// A tree could not be packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// A file could not be read.
    #[error("failed to {operation} {path:?}")]
    Read {
        /// What was being done.
        operation: &'static str,
        /// To which path of the tree.
        path: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The archive could not be written.
    #[error("failed to write the archive")]
    Write {
        /// Why.
        source: io::Error,
    },
    /// What is to be packed is the kernel's.
    #[error(
        "{path:?} is of a file system of the kernel's, whose files hold nothing that could be copied: read them in the container"
    )]
    Kernels {
        /// Its name.
        path: String,
    },
    /// Overlayfs keeps something about the file that is not in its layer alone.
    #[error(
        "{path:?} bears overlayfs's mark {mark}, which stands for files of other layers: its redirect_dir and metacopy must be off"
    )]
    Mark {
        /// The file.
        path: String,
        /// The attribute.
        mark: String,
    },
}

impl PackError {
    pub(super) fn read<E: Into<io::Error>>(operation: &'static str, path: &[u8]) -> impl FnOnce(E) -> Self {
        let path = String::from_utf8_lossy(path).into_owned();
        move |source| PackError::Read { operation, path, source: source.into() }
    }

    pub(super) fn write(source: io::Error) -> Self {
        PackError::Write { source }
    }

    /// Whether nobody reads the archive any more.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, PackError::Write { source } if source.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// How many files that were left out are told of by name.
const TOLD: usize = 20;

/// What is not as it was where it came from.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct LeftOuts {
    /// The first of them.
    pub told: Vec<LeftOut>,
    /// How many there are in all.
    pub count: u64,
}

impl LeftOuts {
    pub(crate) fn add(&mut self, path: &[u8], reason: &'static str) {
        self.count += 1;
        if self.told.len() < TOLD {
            self.told.push(LeftOut { path: String::from_utf8_lossy(path).into_owned(), reason });
        }
    }

    /// Adds those of another step.
    pub fn extend(&mut self, more: LeftOuts) {
        self.count += more.count;
        self.told.extend(more.told);
    }
}

/// Something that is not as it was where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Where.
    pub path: String,
    /// What, and why.
    pub reason: &'static str,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.path, self.reason)
    }
}

pub(super) type Result<T> = std::result::Result<T, PackError>;
