//! Where a saved file goes: to a pipe, or into a file that has its name only when it is complete.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::compress::BUFFER;
use crate::error::{ImageError, Result};

/// Where an archive is written.
pub enum Target {
    /// As it comes; what reads it has to notice when it ends early.
    Stream(Box<dyn Write + Send>),
    /// Into this file, in the place of what has its name now. A layout as a folder goes into this new folder.
    Path(PathBuf),
}

/// A target that is being written.
pub(super) struct Writing {
    writer: BufWriter<Box<dyn Write + Send>>,
    /// What has no name yet, and the name it gets.
    unnamed: Option<(File, PathBuf)>,
    shown: PathBuf,
}

impl Target {
    /// Begins to write.
    pub(super) fn begin(self) -> Result<Writing> {
        let (writer, unnamed, shown): (Box<dyn Write + Send>, _, _) = match self {
            Target::Stream(writer) => (writer, None, PathBuf::from("standard output")),
            Target::Path(path) => {
                // A link stays one, and its target is replaced.
                let path = fs::canonicalize(&path).unwrap_or(path);
                match fs::metadata(&path) {
                    // A pipe or a device takes it as it comes.
                    Ok(found) if !found.is_file() => {
                        let file = File::options().write(true).open(&path);
                        (Box::new(file.map_err(ImageError::io("open", &path))?), None, path)
                    }
                    _ => {
                        let file = unnamed(&path)?;
                        let writer = file.try_clone().map_err(ImageError::io("open", &path))?;
                        (Box::new(writer), Some((file, path.clone())), path)
                    }
                }
            }
        };
        Ok(Writing { writer: BufWriter::with_capacity(BUFFER, writer), unnamed, shown })
    }
}

impl Writing {
    /// What is written to, for errors.
    pub(super) fn shown(&self) -> &Path {
        &self.shown
    }

    /// Writes what is held back and, where it is a file, puts it on disk and gives it its name.
    pub(super) fn finish(mut self) -> Result<()> {
        self.flush().map_err(ImageError::io("write", &self.shown))?;
        let Some((file, path)) = self.unnamed else { return Ok(()) };
        file.sync_all().map_err(ImageError::io("sync", &path))?;
        name(&file, &path).map_err(|error| ImageError::io("name", &path)(error.into()))
    }
}

impl Write for Writing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file without a name, which goes with whoever writes it, however that ends.
fn unnamed(path: &Path) -> Result<File> {
    let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
    // Images hold what is not everyone's to read.
    let made = rustix::fs::openat(CWD, folder_of(path), flags, Mode::RUSR | Mode::WUSR);
    made.map(File::from).map_err(|error| ImageError::io("create", path)(error.into()))
}

/// Gives a file its name; one that is taken is given over in one step.
fn name(file: &File, path: &Path) -> std::result::Result<(), Errno> {
    let own = PathBuf::from(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()));
    let link = |to: &Path| rustix::fs::linkat(CWD, &own, CWD, to, AtFlags::SYMLINK_FOLLOW);
    match link(path) {
        Err(Errno::EXIST) => {}
        other => return other,
    }
    let mut between = path.as_os_str().to_owned();
    between.push(format!(".{}.new", std::process::id()));
    let between = PathBuf::from(between);
    match link(&between) {
        // Of a namesake that was killed in between.
        Err(Errno::EXIST) => {
            rustix::fs::unlink(&between)?;
            link(&between)?;
        }
        other => other?,
    }
    rustix::fs::rename(&between, path)
}
