//! What the walk finds, written as an archive.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::FileType;
use rustix::io::Errno;
use tar::EntryType;

use super::archive::{Archive, Entry};
use super::changes::ChangeKind;
use super::error::{LeftOuts, PackError, Result};
use super::layers::{Layers, is_kernels};
use super::sparse;
use super::walk::{Excluded, Sink, Walk};
use crate::folder::{join, split};
use crate::inode::Inode;
use crate::unpack::metadata::{Attributes, mtime};

/// OCI image-spec layer.md, "Whiteouts".
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";

/// Bytes that are read at once.
const CHUNK: usize = 128 << 10;

/// What was packed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of the files in it.
    pub bytes: u64,
    /// What is not in it as it is in the tree.
    pub left_out: LeftOuts,
}

/// Writes the difference between `top` and the layers `below` as a layer to be laid over these.
///
/// # Errors
/// What cannot be read or written.
pub fn pack_layer(top: &Layers, below: &Layers, excluded: &Excluded, out: impl Write) -> Result<Packed> {
    let mut pack = Pack::new(out, b"", Form::Layer);
    Walk { top, below: Some(below), excluded, as_layer: true }.run(&mut pack)?;
    pack.finish()
}

/// Writes all of a tree, whose root is called `name` in the archive: "" for what is in it, with `./` for itself.
///
/// # Errors
/// What cannot be read or written.
pub fn pack_tree(top: &Layers, name: &Path, out: impl Write) -> Result<Packed> {
    let mut pack = Pack::new(out, name.as_os_str().as_bytes(), Form::Tree);
    Walk { top, below: None, excluded: &Excluded::default(), as_layer: false }.run(&mut pack)?;
    pack.finish()
}

/// Writes whatever a descriptor is of, a folder with all that is in it; it may have been opened by `O_PATH`. A folder is
/// crossed as by [`Layers::plain`]. In the archive it is called `name`, which only a folder's may be "" (see
/// [`pack_tree`]).
///
/// # Errors
/// What cannot be read or written.
pub fn pack_path(opened: OwnedFd, name: &Path, out: impl Write) -> Result<Packed> {
    let failed = |error| PackError::read::<Errno>("open", name.as_os_str().as_bytes())(error);
    let inode = Inode::of(opened).map_err(failed)?;
    if is_kernels(&inode).map_err(failed)? {
        return Err(PackError::Kernels { path: name.display().to_string() });
    }
    if inode.is_folder() {
        return pack_tree(&Layers::plain(inode.folder().map_err(failed)?), name, out);
    }
    let mut pack = Pack::new(out, name.as_os_str().as_bytes(), Form::Tree);
    pack.present(b"", ChangeKind::Added, &inode)?;
    pack.finish()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Some names have a meaning of their own.
    Layer,
    Tree,
}

struct Pack<'n, W: Write> {
    archive: Archive<BufWriter<W>>,
    /// The root's name in the archive.
    name: &'n [u8],
    form: Form,
    /// The first name of each inode that has several, and how many of its names are still to come.
    links: HashMap<(u64, u64), (Vec<u8>, u64)>,
    packed: Packed,
    buffer: Vec<u8>,
}

impl<'n, W: Write> Pack<'n, W> {
    fn new(out: W, name: &'n [u8], form: Form) -> Self {
        Pack {
            archive: Archive::new(BufWriter::with_capacity(CHUNK, out)),
            name,
            form,
            links: HashMap::new(),
            packed: Packed::default(),
            buffer: vec![0; CHUNK],
        }
    }

    fn finish(self) -> Result<Packed> {
        self.archive.finish().map_err(PackError::write)?;
        Ok(self.packed)
    }

    /// A path as the archive has it.
    fn named(&self, path: &[u8]) -> Vec<u8> {
        match (self.name.is_empty(), path.is_empty()) {
            (true, true) => b".".to_vec(),
            (_, true) => self.name.to_vec(),
            (_, false) => join(self.name, path),
        }
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        self.packed.entries += 1;
        self.archive.entry(entry).map_err(PackError::write)
    }

    /// A mark of the layer format: an empty file.
    fn mark(&mut self, path: &[u8]) -> Result<()> {
        self.entry(&Entry {
            path,
            kind: EntryType::Regular,
            link: b"",
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: crate::unpack::pax::Time { seconds: 0, nanoseconds: 0 },
            device: (0, 0),
            xattrs: &Vec::new(),
            size: 0,
            pieces: None,
        })
    }

    /// The first name of an inode, when this is another of it.
    fn first_name(&mut self, inode: &Inode, named: &[u8]) -> Option<Vec<u8>> {
        if inode.stat.st_nlink < 2 {
            return None;
        }
        match self.links.get_mut(&inode.id()) {
            None => {
                self.links.insert(inode.id(), (named.to_vec(), inode.stat.st_nlink - 1));
                None
            }
            Some((first, 1)) => {
                let first = std::mem::take(first);
                // No other will come, so that memory is spent on those that are open only.
                self.links.remove(&inode.id());
                Some(first)
            }
            Some((first, left)) => {
                *left -= 1;
                Some(first.clone())
            }
        }
    }

    fn file(&mut self, path: &[u8], inode: &Inode, entry: &Entry<'_>) -> Result<()> {
        let file = inode.file().map_err(PackError::read("open", path))?;
        let size = entry.size;
        let pieces = sparse::pieces(&file, size);
        self.entry(&Entry { pieces: pieces.as_deref(), ..*entry })?;
        let whole = [(0, size)];
        let mut missing = false;
        for (offset, length) in pieces.as_deref().unwrap_or(&whole) {
            missing |= !self.data(&file, *offset, *length, path)?;
            self.packed.bytes += length;
        }
        if missing {
            self.packed.left_out.add(path, "shrank while it was read: what was missing is zeros");
        }
        Ok(())
    }

    /// Copies a piece of a file; false when the file has ended before it, and zeros stand for the rest.
    fn data(&mut self, mut file: &File, offset: u64, mut left: u64, path: &[u8]) -> Result<bool> {
        file.seek(SeekFrom::Start(offset)).map_err(PackError::read("read", path))?;
        let mut whole = true;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let got = match file.read(&mut self.buffer[..wanted]) {
                Ok(0) => {
                    self.buffer[..wanted].fill(0);
                    whole = false;
                    wanted
                }
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(PackError::read("read", path)(error)),
            };
            self.archive.data(&self.buffer[..got]).map_err(PackError::write)?;
            left -= got as u64;
        }
        Ok(whole)
    }
}

impl<W: Write> Sink for Pack<'_, W> {
    fn present(&mut self, path: &[u8], _: ChangeKind, inode: &Inode) -> Result<()> {
        let layer = self.form == Form::Layer;
        if layer && split(path).1.starts_with(WHITEOUT) {
            self.packed.left_out.add(path, "has a name that means a deletion in a layer");
            return Ok(());
        }
        let kind = match inode.kind() {
            FileType::RegularFile => EntryType::Regular,
            FileType::Directory => EntryType::Directory,
            FileType::Symlink => EntryType::Symlink,
            FileType::Fifo => EntryType::Fifo,
            FileType::BlockDevice => EntryType::Block,
            FileType::CharacterDevice if layer && inode.stat.st_rdev == 0 => {
                self.packed.left_out.add(path, "is the device 0:0, which means a deletion in a layer");
                return Ok(());
            }
            FileType::CharacterDevice => EntryType::Char,
            FileType::Socket => {
                self.packed.left_out.add(path, "is a socket, which archives do not hold");
                return Ok(());
            }
            FileType::Unknown => {
                self.packed.left_out.add(path, "is of a kind that archives do not hold");
                return Ok(());
            }
        };
        let named = self.named(path);
        let mut xattrs = inode.attributes().map_err(PackError::read("read the attributes of", path))?;
        self.sift(&mut xattrs, path);
        let stat = &inode.stat;
        let (mut entry, link);
        entry = Entry {
            path: &named,
            kind,
            link: b"",
            mode: inode.mode(),
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: mtime(stat),
            device: (0, 0),
            xattrs: &xattrs,
            size: 0,
            pieces: None,
        };
        if kind == EntryType::Directory {
            return self.entry(&entry);
        }
        if let Some(first) = self.first_name(inode, &named) {
            let none = Vec::new();
            return self.entry(&Entry { kind: EntryType::Link, link: &first, xattrs: &none, ..entry });
        }
        match kind {
            EntryType::Regular => {
                entry.size = stat.st_size.cast_unsigned();
                self.file(path, inode, &entry)
            }
            EntryType::Symlink => {
                link = inode.target().map_err(PackError::read("read the link", path))?;
                self.entry(&Entry { link: &link, ..entry })
            }
            EntryType::Fifo => self.entry(&entry),
            _ => {
                entry.device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
                self.entry(&entry)
            }
        }
    }

    fn deleted(&mut self, path: &[u8]) -> Result<()> {
        let (folder, name) = split(path);
        self.mark(&join(folder, &[WHITEOUT, name].concat()))
    }

    fn opaque(&mut self, path: &[u8]) -> Result<()> {
        self.mark(&join(path, OPAQUE_MARKER))
    }
}

impl<W: Write> Pack<'_, W> {
    /// Leaves out the attributes whose names a record cannot hold.
    fn sift(&mut self, xattrs: &mut Attributes, path: &[u8]) {
        let before = xattrs.len();
        xattrs.retain(|(name, _)| !name.contains(&b'='));
        if xattrs.len() < before {
            self.packed.left_out.add(path, "has an attribute with an equals sign in its name");
        }
    }
}
