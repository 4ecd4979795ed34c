//! Limits against archives made to fill the machine: generous to every image there is, and counted as the
//! archive is read, so that a bomb ends early.

use super::error::{Result, UnpackError};

/// How much one layer may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the unpacked archive.
    pub bytes: u64,
    /// Unpacked bytes for one compressed byte. Deflate gives at most 1032, real files a hundredth of it.
    pub ratio: u64,
    /// Unpacked bytes below which the ratio does not matter.
    pub ratio_from: u64,
    /// Files, folders and links, those made on the way included.
    pub entries: u64,
    /// Bytes of a path (PATH_MAX of the kernel).
    pub path: usize,
    /// Components of a path; each open folder on the way takes a descriptor.
    pub depth: usize,
    /// Bytes of one extended header.
    pub header: u64,
    /// Pieces of one sparse file.
    pub pieces: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            bytes: 256 << 30,
            ratio: 400,
            ratio_from: 1 << 30,
            entries: 5_000_000,
            path: 4096,
            depth: 200,
            header: 1 << 20,
            // With their map a dozen MiB, which a pull must be able to spare.
            pieces: 1 << 18,
        }
    }
}

impl Limits {
    /// Checks how many bytes came out of how many.
    pub(crate) fn check_bytes(&self, unpacked: u64, compressed: u64) -> Result<()> {
        if unpacked > self.bytes {
            return Err(UnpackError::Limit { what: "unpacked bytes", limit: self.bytes });
        }
        if unpacked > self.ratio_from && unpacked / self.ratio > compressed {
            return Err(UnpackError::Limit {
                what: "unpacked bytes for a compressed one",
                limit: self.ratio,
            });
        }
        Ok(())
    }

    pub(crate) fn check_entries(&self, entries: u64) -> Result<()> {
        match entries > self.entries {
            true => Err(UnpackError::Limit { what: "entries", limit: self.entries }),
            false => Ok(()),
        }
    }
}
