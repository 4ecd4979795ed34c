//! Where a saved file goes: to a pipe, or into a file that has its name only when it is complete.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::compress::BUFFER;
use crate::error::{ImageError, Result};
use crate::store::layout;

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
    pending: Option<Pending>,
    shown: PathBuf,
}

impl Target {
    /// Begins to write.
    pub(super) fn begin(self) -> Result<Writing> {
        let (writer, pending, shown): (Box<dyn Write + Send>, _, _) = match self {
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
                        let pending = Pending::begin(&path)?;
                        let writer = pending.file.try_clone().map_err(ImageError::io("open", &path))?;
                        (Box::new(writer), Some(pending), path)
                    }
                }
            }
        };
        Ok(Writing { writer: BufWriter::with_capacity(BUFFER, writer), pending, shown })
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
        self.pending.map_or(Ok(()), Pending::finish)
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

/// A file that has not got its name yet; dropped before that, it goes.
struct Pending {
    file: File,
    path: PathBuf,
    /// The name that it has meanwhile, where the file system has no files without one (FAT, NFS).
    between: Option<PathBuf>,
}

impl Pending {
    fn begin(path: &Path) -> Result<Pending> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        // Images hold what is not everyone's to read.
        match rustix::fs::openat(CWD, folder, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => Ok(Pending { file: file.into(), path: path.to_owned(), between: None }),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => Pending::named(path),
            Err(error) => Err(ImageError::io("create", path)(error.into())),
        }
    }

    fn named(path: &Path) -> Result<Pending> {
        let between = between(path);
        // Of a namesake that was killed.
        layout::remove_file(&between)?;
        let file = layout::new_file(&between)?;
        Ok(Pending { file, path: path.to_owned(), between: Some(between) })
    }

    fn finish(mut self) -> Result<()> {
        self.file.sync_all().map_err(ImageError::io("sync", &self.path))?;
        let between = match self.between.take() {
            Some(between) => between,
            None => {
                let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                let link = |to: &Path| rustix::fs::linkat(CWD, &*own, CWD, to, AtFlags::SYMLINK_FOLLOW);
                let failed = |error: Errno| ImageError::io("name", self.path.clone())(error.into());
                match link(&self.path) {
                    Err(Errno::EXIST) => {}
                    linked => return linked.map_err(failed),
                }
                // A name that is taken is given over in one step.
                let between = between(&self.path);
                layout::remove_file(&between)?;
                link(&between).map_err(failed)?;
                between
            }
        };
        layout::rename(&between, &self.path)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(between) = &self.between {
            // What cannot be removed has a name that says what it is.
            drop(fs::remove_file(between));
        }
    }
}

fn between(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_name_when_it_is_complete() {
        let folder = std::env::temp_dir().join(format!("image-target-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("x");
        let kinds: [fn(&Path) -> Result<Pending>; 2] = [Pending::begin, Pending::named];
        for begin in kinds {
            for before in [None, Some("old")] {
                drop(fs::remove_file(&path));
                if let Some(old) = before {
                    fs::write(&path, old).expect("written");
                }
                let mut given_up = begin(&path).expect("begun");
                given_up.file.write_all(b"half").expect("written");
                drop(given_up);
                assert_eq!(fs::read_to_string(&path).ok().as_deref(), before);
                let mut pending = begin(&path).expect("begun");
                pending.file.write_all(b"new").expect("written");
                pending.finish().expect("named");
                assert_eq!(fs::read_to_string(&path).expect("there"), "new");
                assert_eq!(fs::read_dir(&folder).expect("there").count(), 1);
            }
        }
        fs::remove_dir_all(folder).expect("removable");
    }
}
