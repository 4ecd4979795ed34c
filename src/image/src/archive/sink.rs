//! What a saved image is written into: an archive, entry by entry, or a folder, file by file.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use tar::{EntryType, Header};

use super::compress::{BUFFER, Encoder};
use super::target::Writing;
use super::{INDEX, LAYOUT, refused};
use crate::error::{ImageError, Result};
use crate::store::layout;

/// The name of the entry that holds the next one's name, where that does not fit into a header (GNU tar).
const LONG_NAME: &str = "././@LongLink";

/// Takes the files of a saved image; a name that was written is not written again.
pub(super) enum Sink {
    Archive(Box<Archive>),
    Folder(NewFolder),
}

impl Sink {
    /// Writes a small file.
    pub(super) fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.file(name, bytes.len() as u64, bytes)
    }

    /// Writes a file of exactly `size` bytes, which `content` must give.
    pub(super) fn file(&mut self, name: &str, size: u64, content: impl Read) -> Result<()> {
        match self {
            Sink::Archive(archive) => archive.file(name, size, content),
            Sink::Folder(folder) => folder.file(name, size, content),
        }
    }

    /// Whether a file of this name was written.
    pub(super) fn has(&self, name: &str) -> bool {
        match self {
            Sink::Archive(archive) => archive.names.contains(name),
            Sink::Folder(folder) => folder.names.contains(name),
        }
    }

    /// Says that this is all.
    pub(super) fn finish(self) -> Result<()> {
        match self {
            Sink::Archive(archive) => archive.finish(),
            Sink::Folder(folder) => folder.finish(),
        }
    }
}

/// A tar archive. Everything in it is root's and of 1970: the same images make the same archive.
pub(super) struct Archive {
    writer: Encoder<Writing>,
    shown: PathBuf,
    names: BTreeSet<String>,
}

impl Archive {
    pub(super) fn new(writer: Encoder<Writing>, shown: &Path) -> Archive {
        Archive { writer, shown: shown.to_owned(), names: BTreeSet::new() }
    }

    fn file(&mut self, name: &str, size: u64, content: impl Read) -> Result<()> {
        // Not every reader makes the folders that are missing.
        let folders: Vec<&str> = name.match_indices('/').map(|(at, _)| &name[..=at]).collect();
        for folder in folders {
            if self.names.insert(folder.to_owned()) {
                self.header(folder, EntryType::Directory, 0o755, 0)?;
            }
        }
        self.names.insert(name.to_owned());
        self.header(name, EntryType::Regular, 0o644, size)?;
        copy_exactly(content, &mut self.writer, size, name, &self.shown)?;
        self.pad(size)
    }

    fn header(&mut self, name: &str, kind: EntryType, mode: u32, size: u64) -> Result<()> {
        let mut header = Header::new_ustar();
        if header.set_path(name).is_err() {
            // The name of a sha512 blob has 141 bytes.
            self.header(LONG_NAME, EntryType::GNULongName, 0o644, name.len() as u64)?;
            self.write(name.as_bytes())?;
            self.pad(name.len() as u64)?;
            header.set_path("long").map_err(ImageError::io("write", &self.shown))?;
        }
        // Sizes beyond 8 GiB are written in base 256, which every reader of today knows.
        header.set_size(size);
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        self.write(header.as_bytes())
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        let padding = usize::try_from(size.wrapping_neg() % 512).expect("less than a block");
        self.write(&[0; 512][..padding])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).map_err(ImageError::io("write", &self.shown))
    }

    fn finish(mut self) -> Result<()> {
        self.write(&[0; 1024])?;
        let shown = self.shown;
        self.writer.finish().map_err(ImageError::io("write", shown))?.finish()
    }
}

/// A folder that becomes a layout with its last file; without that, what was made of it goes when it is dropped. One
/// that a killed process left unfinished is gone on with.
pub(super) struct NewFolder {
    path: PathBuf,
    names: BTreeSet<String>,
    index: Option<Vec<u8>>,
    finished: bool,
}

impl NewFolder {
    pub(super) fn begin(path: &Path) -> Result<NewFolder> {
        let known = ["blobs", LAYOUT];
        if !layout::names_in(path)?.iter().all(|name| known.contains(&name.as_str())) {
            let reason = "it is not empty; give the name of a new folder";
            return Err(refused(&path.display().to_string(), reason.into()));
        }
        layout::make_folder(path)?;
        Ok(NewFolder { path: path.to_owned(), names: BTreeSet::new(), index: None, finished: false })
    }

    fn file(&mut self, name: &str, size: u64, mut content: impl Read) -> Result<()> {
        self.names.insert(name.to_owned());
        if name == INDEX {
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes).map_err(ImageError::io("read", name))?;
            self.index = Some(bytes);
            return Ok(());
        }
        let path = self.path.join(name);
        layout::make_folder(path.parent().unwrap_or(&self.path))?;
        layout::remove_file(&path)?;
        let mut file = layout::new_file(&path)?;
        copy_exactly(content, &mut file, size, name, &path)
    }

    fn finish(mut self) -> Result<()> {
        let root = fs::File::open(&self.path).map_err(ImageError::io("open", &self.path))?;
        rustix::fs::syncfs(&root).map_err(|error| ImageError::io("sync", &self.path)(error.into()))?;
        let index = self.index.take().unwrap_or_default();
        let between = self.path.join("blobs").join(INDEX);
        layout::remove_file(&between)?;
        layout::write_synced(&between, &index)?;
        layout::rename(&between, &self.path.join(INDEX))?;
        self.finished = true;
        layout::sync_folder(&self.path)
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if !self.finished {
            // What cannot be removed is no layout without its index, and gone on with by whoever comes next.
            drop(fs::remove_dir_all(self.path.join("blobs")));
            drop(layout::remove_file(&self.path.join(LAYOUT)));
            drop(fs::remove_dir(&self.path));
        }
    }
}

/// Copies all of `content`, which must be so many bytes.
fn copy_exactly(
    mut content: impl Read,
    into: &mut impl Write,
    size: u64,
    name: &str,
    shown: &Path,
) -> Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut total = 0;
    loop {
        let bytes = match content.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other.map_err(ImageError::io("read", name))?,
        };
        total += bytes as u64;
        // One byte too many is enough to see that it is longer than promised.
        if total > size || (bytes == 0 && total < size) {
            return Err(ImageError::SizeMismatch { what: name.to_owned(), expected: size, actual: total });
        }
        if bytes == 0 {
            return Ok(());
        }
        into.write_all(&buffer[..bytes]).map_err(ImageError::io("write", shown))?;
    }
}
