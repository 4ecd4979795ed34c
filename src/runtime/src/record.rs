//! What is on disk of a container: its identity, written once and last of all that is created, and what happened
//! once: that it was to be started, how it ended.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use container::ExitRecord;
use container::monitor::RootfsSpec;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::error::Category;

use crate::error::{FileContext, RuntimeError};
use crate::layout::Bundle;
use crate::options::ContainerOptions;

/// Who takes care of a container; others leave it alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Owner {
    /// The user, by commands.
    User,
}

/// `container.json`: the identity of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) owner: Owner,
    /// Digest of the image's config.
    pub(crate) image_id: String,
    pub(crate) options: ContainerOptions,
    /// The arguments of the first process.
    pub(crate) args: Vec<String>,
    pub(crate) created: Timestamp,
    /// The signal that asks the first process to end.
    pub(crate) stop_signal: i32,
    /// Its host name.
    pub(crate) hostname: String,
    /// How its root filesystem comes to be.
    pub(crate) rootfs: RootfsSpec,
}

/// `start.json`: that the container was to be started. One that is to be removed at its end has none, since nobody
/// will ask what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StartRecord {
    pub(crate) time: Timestamp,
}

impl Record {
    /// Reads it; `None` when the container is not complete.
    pub(crate) fn read(bundle: &Bundle) -> Result<Option<Self>, RuntimeError> {
        read(&bundle.record())
    }

    /// Writes it: from here on the container is complete.
    pub(crate) fn write(&self, bundle: &Bundle) -> Result<(), RuntimeError> {
        write(&bundle.record(), self, !self.options.remove)
    }
}

/// Reads a file of JSON; `None` when there is no such file.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, RuntimeError> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.file("read", path)?,
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| RuntimeError::Damaged { path: path.to_owned(), source })
}

/// Whether a file is not even JSON: cut off or empty, as a power cut leaves it. Other damage may be the doing of another
/// version of ours.
pub(crate) fn is_torn(error: &serde_json::Error) -> bool {
    matches!(error.classify(), Category::Eof | Category::Syntax)
}

/// Writes a file of JSON, whole or not at all; with `sync`, so that it outlives a power cut.
pub(crate) fn write<T: Serialize>(path: &Path, value: &T, sync: bool) -> Result<(), RuntimeError> {
    let bytes = serde_json::to_vec(value)
        .map_err(|source| RuntimeError::Damaged { path: path.to_owned(), source })?;
    let temporary = path.with_extension("tmp");
    let folder = path.parent().unwrap_or(Path::new("/"));
    let written = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(&bytes)?;
        if sync {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        if sync {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    };
    written().file("write", path)
}

/// Records the end of a container whose monitor did not live to see it.
pub(crate) fn write_lost_exit(
    bundle: &Bundle,
    exit_code: i32,
    started_at: Timestamp,
    error: &str,
) -> Result<(), RuntimeError> {
    let exit = ExitRecord {
        exit_code,
        signal: None,
        oom_killed: false,
        started_at,
        finished_at: Timestamp::now(),
        error: Some(error.to_owned()),
    };
    let path = bundle.exit();
    exit.write(&path, true).file("write", &path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_absent_whole_or_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("start.json");
        assert_eq!(read::<StartRecord>(&path).unwrap(), None);
        let start = StartRecord { time: Timestamp::UNIX_EPOCH };
        write(&path, &start, true).unwrap();
        assert_eq!(read(&path).unwrap(), Some(start));
        assert!(!path.with_extension("tmp").exists());
        for (content, torn) in [("{", true), ("", true), ("\0\0\0", true), ("{\"later\":1}", false)] {
            fs::write(&path, content).unwrap();
            let Err(RuntimeError::Damaged { source, .. }) = read::<StartRecord>(&path) else {
                panic!("{content:?} was read")
            };
            assert_eq!(is_torn(&source), torn, "{content:?}");
        }
    }
}
