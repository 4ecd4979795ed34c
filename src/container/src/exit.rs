//! How a container ended: written once, by its monitor, and never changed.
//!
//! Its room on the disk is reserved when the container is made, since containers fill disks.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The end of a container's first process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitRecord {
    /// What the shell would call `$?`: the exit code, or 128 plus the number of the signal.
    pub exit_code: i32,
    /// The signal that ended the process, when one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether the kernel killed a process of the container for its memory limit.
    pub oom_killed: bool,
    /// When the process was started.
    pub started_at: Timestamp,
    /// When its end was seen.
    pub finished_at: Timestamp,
    /// Why there is no exit status, when the monitor did not live to see one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What is reserved for a record, in bytes: more than any takes.
const RESERVED: i64 = 4096;

impl ExitRecord {
    /// Reserves room for the record that will be written to `path`, so that it can be on a full disk.
    ///
    /// # Errors
    /// When there is no room now.
    pub fn reserve(path: &Path) -> io::Result<()> {
        let file = open(&path.with_extension("tmp"))?;
        Ok(nix::fcntl::posix_fallocate(&file, 0, RESERVED)?)
    }

    /// Writes the record to `path`, whole or not at all; with `sync`, so that it outlives a power cut.
    ///
    /// # Errors
    /// What the file system refuses.
    pub fn write(&self, path: &Path, sync: bool) -> io::Result<()> {
        let bytes = serde_json::to_vec(self)?;
        let temporary = path.with_extension("tmp");
        // What is reserved is written over, and cut to length after that.
        let mut file = open(&temporary)?;
        file.write_all(&bytes)?;
        file.set_len(bytes.len() as u64)?;
        if sync {
            file.sync_all()?;
        }
        std::fs::rename(&temporary, path)?;
        if sync && let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }

    /// A record with this exit code, for tests.
    #[doc(hidden)]
    pub fn for_test(exit_code: i32) -> Self {
        let time = Timestamp::UNIX_EPOCH;
        ExitRecord {
            exit_code,
            signal: None,
            oom_killed: false,
            started_at: time,
            finished_at: time,
            error: None,
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_takes_the_place_of_what_was_reserved() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("exit.json");
        ExitRecord::reserve(&path).expect("there is room");
        assert!(!path.exists());
        let record = ExitRecord::for_test(7);
        record.write(&path, true).expect("written");
        let bytes = std::fs::read(&path).expect("read");
        assert_eq!(serde_json::from_slice::<ExitRecord>(&bytes).expect("json"), record);
        assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 1);
    }
}
