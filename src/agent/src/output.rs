//! Where an archive goes: to a file, which is there whole or not at all, or to standard output.

use std::fs::{self, File, OpenOptions};
use std::io::{self, StdoutLock};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use runtime::RuntimeError;

/// Lets `write` write a file, which takes its name when it is complete.
pub(crate) fn to_file<T>(path: &Path, write: impl FnOnce(&File) -> Result<T>) -> Result<T> {
    let failed = || format!("failed to write {}", path.display());
    // What is no file, such as a device or a pipe, cannot be replaced by one.
    let kind = fs::metadata(path).map(|metadata| metadata.file_type());
    if kind.is_ok_and(|kind| kind.is_char_device() || kind.is_block_device() || kind.is_fifo()) {
        return write(&OpenOptions::new().write(true).open(path).with_context(failed)?);
    }
    let unfinished = Unfinished(beside(path));
    let file = OpenOptions::new().write(true).create_new(true).open(&unfinished.0).with_context(failed)?;
    let result = write(&file).with_context(failed)?;
    fs::rename(&unfinished.0, path).with_context(failed)?;
    Ok(result)
}

/// Lets `write` write to standard output; `None` when nobody reads that any more.
pub(crate) fn to_stdout<T>(write: impl FnOnce(&mut StdoutLock<'static>) -> Result<T>) -> Result<Option<T>> {
    match write(&mut io::stdout().lock()) {
        Err(error) if is_broken_pipe(&error) => Ok(None),
        other => other.map(Some),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(RuntimeError::Pack(error)) if error.is_broken_pipe())
}

/// A name in the same folder, of this process alone.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    path.with_file_name(name)
}

/// A file that goes unless it was renamed.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Gone already when it is complete.
        drop(fs::remove_file(&self.0));
    }
}
