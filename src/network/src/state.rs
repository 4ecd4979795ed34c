//! The directories of records, and the lock that orders every change to them and to the rules.
//!
//! A record is a small file written to a temporary name, synced and renamed: it is there whole or not
//! at all. Names that begin with a dot are not records.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::NetworkError;

/// A record on its way.
const TEMPORARY: &str = ".new";

/// Where the records live.
#[derive(Debug, Clone)]
pub(crate) struct StateDir {
    root: PathBuf,
}

/// Held while records or rules change; released when dropped or when the process dies, once those it
/// was shared with have ended too.
#[derive(Debug)]
pub(crate) struct StateLock {
    file: File,
    path: PathBuf,
}

impl StateLock {
    /// The lock for a child process: it stays taken until the child has ended too.
    pub(crate) fn share(&self) -> Result<File, NetworkError> {
        self.file.try_clone().map_err(|source| state_error("share lock", &self.path, source))
    }
}

impl StateDir {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn leases(&self) -> PathBuf {
        self.root.join("leases")
    }

    pub(crate) fn ports(&self) -> PathBuf {
        self.root.join("ports")
    }

    /// The record of settings as they were before we changed them.
    pub(crate) fn sysctls(&self) -> PathBuf {
        self.root.join("sysctls")
    }

    /// Makes the directories if need be and waits for the lock.
    pub(crate) fn lock(&self) -> Result<StateLock, NetworkError> {
        for dir in [self.root.clone(), self.leases(), self.ports(), self.sysctls()] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .map_err(|source| state_error("create directory", &dir, source))?;
        }
        let path = self.root.join("network.lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| state_error("open", &path, source))?;
        file.lock().map_err(|source| state_error("lock", &path, source))?;
        Ok(StateLock { file, path })
    }
}

pub(crate) fn state_error(operation: &'static str, path: &Path, source: io::Error) -> NetworkError {
    NetworkError::State { operation, path: path.to_owned(), source }
}

/// Writes a record whole. The lock makes the temporary name ours alone; one that a killed process
/// left is written over by whoever writes next, so there is never more than one.
pub(crate) fn write_record(
    _lock: &StateLock,
    dir: &Path,
    name: &str,
    contents: &str,
) -> Result<(), NetworkError> {
    let temporary = dir.join(TEMPORARY);
    let write = || -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(contents.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| state_error("write", &temporary, source))?;
    let path = dir.join(name);
    fs::rename(&temporary, &path).map_err(|source| state_error("rename into place", &path, source))
}

/// Removes a record; one that is gone already is as wanted.
pub(crate) fn remove_record(_lock: &StateLock, path: &Path) -> Result<(), NetworkError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(state_error("remove", path, source)),
        _ => Ok(()),
    }
}

/// The names of the records in `dir`; none if there is no such directory.
pub(crate) fn record_names(dir: &Path) -> Result<Vec<String>, NetworkError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(state_error("read directory", dir, source)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| state_error("read directory", dir, source))?;
        if let Some(name) = entry.file_name().to_str().filter(|name| !name.starts_with('.')) {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// A record's text; `None` if it is not, or no longer, there.
pub(crate) fn read_record(path: &Path) -> Result<Option<String>, NetworkError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(state_error("read", path, source)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn directories_are_private_and_records_whole() {
        let scratch = tempfile::tempdir().unwrap();
        let state = StateDir::new(scratch.path().join("run"));
        let lock = state.lock().unwrap();
        for dir in [scratch.path().join("run"), state.leases(), state.ports()] {
            assert_eq!(fs::metadata(dir).unwrap().permissions().mode() & 0o777, 0o700);
        }
        fs::write(state.leases().join(TEMPORARY), "left by a killed process").unwrap();
        write_record(&lock, &state.leases(), "a", "one").unwrap();
        assert_eq!(record_names(&state.leases()).unwrap(), ["a"]);
        assert_eq!(read_record(&state.leases().join("a")).unwrap().as_deref(), Some("one"));
        remove_record(&lock, &state.leases().join("a")).unwrap();
        remove_record(&lock, &state.leases().join("a")).unwrap();
        assert_eq!(read_record(&state.leases().join("a")).unwrap(), None);
    }

    #[test]
    fn a_missing_directory_has_no_records() {
        assert!(record_names(Path::new("/nonexistent/leases")).unwrap().is_empty());
    }
}
