//! Writing the entries of a layer's archive into a folder.

use std::fs::File;
use std::io::{BufRead, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::archive::{Archive, Entry, Kind};
use super::error::{Result, UnpackError};
use super::files::{self, Content, Files, SMALL};
use super::folders::Folders;
use super::limits::Limits;
use super::metadata::{self, Metadata};
use super::noted::Noted;
use super::pax::Time;
use super::tree::{self, Obstacle, Walked, components};
use super::whiteouts::WHITEOUT;

/// What folders get that an archive uses but does not have.
const MADE: Metadata = Metadata { uid: 0, gid: 0, mode: 0o755, xattrs: Vec::new() };

/// A layer whose entries are all written.
#[derive(Debug)]
pub struct Unpacked {
    pub(super) folders: Folders,
    pub(super) limits: Limits,
    /// Files, folders and links made.
    pub(super) entries: u64,
    /// Bytes of files.
    pub(super) bytes: u64,
    /// Extended attributes that were not set.
    pub(super) left_out: u64,
    pub(super) noted: Noted,
}

/// Unpacks the archive into the folder, which must be empty and on the store's file system.
pub fn unpack<R: BufRead>(archive: R, folder: &Path, limits: &Limits) -> Result<Unpacked> {
    let name = folder.as_os_str().as_encoded_bytes();
    let root = tree::open_root(folder).map_err(UnpackError::io("open", name))?;
    // As any folder that no entry describes: the caller's folder is private, the container's root is not.
    // An access list that its parent handed down would be handed on to all that is made.
    metadata::clear_attributes(root.as_fd()).map_err(UnpackError::io("clear the attributes of", name))?;
    metadata::apply(root.as_fd(), &MADE, name)?;
    let mut unpacked = Unpacked {
        folders: Folders::new(root),
        limits: limits.clone(),
        entries: 0,
        bytes: 0,
        left_out: 0,
        noted: Noted::default(),
    };
    unpacked.noted.made(Vec::new(), true);
    // That of no entry: the same in every pull.
    unpacked.folders.describe(0, MADE, Time { seconds: 0, nanoseconds: 0 });
    let mut files = Files::default();
    let written = unpacked.write_all(&mut Archive::new(archive, limits), &mut files);
    let left_out = files.end();
    written?;
    unpacked.left_out += left_out?;
    unpacked.folders.leave(0)?;
    Ok(unpacked)
}

impl Unpacked {
    /// How many files, folders and links it has.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Bytes of its files.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether what it means depends on the layers below.
    pub(crate) fn needs_below(&self) -> bool {
        !self.noted.is_empty()
    }

    /// How many extended attributes were not set.
    pub fn attributes_left_out(&self) -> u64 {
        self.left_out + self.folders.left_out()
    }

    fn write_all<R: BufRead>(&mut self, archive: &mut Archive<'_, R>, files: &mut Files) -> Result<()> {
        while let Some(entry) = archive.next()? {
            self.entry(&entry, archive, files)?;
        }
        Ok(())
    }

    fn entry<R: BufRead>(
        &mut self,
        entry: &Entry,
        archive: &mut Archive<'_, R>,
        files: &mut Files,
    ) -> Result<()> {
        let path = components(&entry.path);
        if path.len() > self.limits.depth {
            return Err(UnpackError::Limit { what: "folders in a path", limit: self.limits.depth as u64 });
        }
        if entry.path.contains(&0) {
            return Err(UnpackError::entry(&entry.path, "has a zero byte in its name"));
        }
        let Some((name, parents)) = path.split_last() else { return self.root(entry) };
        self.count()?;
        if name.starts_with(WHITEOUT) {
            return self.whiteout(parents, name, &entry.path);
        }
        if entry.kind == Kind::Hardlink {
            return self.hardlink(parents, name, entry);
        }
        let depth = self.enter(parents, &entry.path)?;
        match entry.kind {
            Kind::File => self.file(depth, name, entry, archive, files),
            Kind::Folder => self.folder(depth, name, entry),
            _ => self.special(depth, name, entry),
        }
    }

    pub(super) fn count(&mut self) -> Result<()> {
        self.entries += 1;
        self.limits.check_entries(self.entries)
    }

    /// Walks to a folder in which something is made, making what is missing of it.
    pub(super) fn enter(&mut self, parents: &[&[u8]], path: &[u8]) -> Result<usize> {
        let walked = self.walk(parents, true, |name, obstacle| {
            if obstacle == Obstacle::File {
                let name = String::from_utf8_lossy(name);
                return Err(UnpackError::entry(path, format!("lies below {name:?}, which is no folder")));
            }
            Ok(true)
        })?;
        let Walked::To(depth) = walked else { unreachable!("the mend above never gives up") };
        if self.noted.has_unneeded() {
            for depth in 1..=depth {
                self.noted.need(&self.folders.path_of(depth));
            }
        }
        Ok(depth)
    }

    /// Walks to a folder in which something below is deleted; none when there cannot be anything.
    pub(super) fn enter_to_delete(&mut self, parents: &[&[u8]]) -> Result<Option<usize>> {
        match self.walk(parents, false, |_, obstacle| Ok(obstacle == Obstacle::Missing))? {
            Walked::To(depth) => Ok(Some(depth)),
            Walked::Stopped(_) => Ok(None),
        }
    }

    /// Walks to a folder, making one where `makes` says so.
    fn walk(
        &mut self,
        parents: &[&[u8]],
        needed: bool,
        makes: impl Fn(&[u8], Obstacle) -> Result<bool>,
    ) -> Result<Walked> {
        let Unpacked { folders, entries, limits, noted, .. } = self;
        folders.walk(parents, &mut |folders, depth, name, obstacle| {
            let here = folders.path(depth, name);
            let hidden = noted.hides(&folders.path_of(depth));
            if !makes(&here, obstacle)? || !needed && hidden {
                return Ok(false);
            }
            *entries += 1;
            limits.check_entries(*entries)?;
            if depth >= limits.depth {
                return Err(UnpackError::Limit { what: "folders in a path", limit: limits.depth as u64 });
            }
            let parent = folders.change(depth);
            if obstacle == Obstacle::Whiteout {
                tree::remove(parent, name).map_err(UnpackError::io("remove", &here))?;
                noted.whiteouts.remove(&here);
            }
            let folder = make_folder(parent, name, MADE.mode, &here)?;
            metadata::apply(folder.as_fd(), &MADE, &here)?;
            folders.push_new(depth, name, folder)?;
            if obstacle == Obstacle::Whiteout || noted.links.remove(&here).is_some() {
                // Deleted below and new here: nothing of the old one shines through.
                tree::set_opaque(folders.at(depth + 1)).map_err(UnpackError::io("mark as opaque", &here))?;
                noted.opaque.insert(here);
            } else if !hidden {
                noted.made(here, needed);
            }
            Ok(true)
        })
    }

    /// The archive's own entry for the layer's root.
    fn root(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != Kind::Folder {
            return Err(UnpackError::entry(&entry.path, "would replace the root"));
        }
        self.noted.described(b"");
        self.folders.describe(0, entry.metadata.clone(), entry.mtime);
        Ok(())
    }

    fn folder(&mut self, depth: usize, name: &[u8], entry: &Entry) -> Result<()> {
        if !self.folders.is_open(depth, name) {
            match tree::open_folder(self.folders.at(depth), name) {
                Ok(folder) => self.folders.push(depth, name, folder)?,
                Err(Errno::NOENT) => self.new_folder(depth, name, entry, false)?,
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    self.remove(depth, name)?;
                    self.new_folder(depth, name, entry, true)?;
                }
                Err(error) => return Err(UnpackError::io("open", &entry.path)(error)),
            }
        }
        if !self.noted.made.is_empty() {
            self.noted.described(&self.folders.path(depth, name));
        }
        self.folders.describe(depth + 1, entry.metadata.clone(), entry.mtime);
        Ok(())
    }

    /// Makes a folder. What it replaces, if anything, had hidden what has its name below, so it must go on so.
    fn new_folder(&mut self, depth: usize, name: &[u8], entry: &Entry, mut replaces: bool) -> Result<()> {
        let folder = make_folder(self.folders.change(depth), name, entry.metadata.mode, &entry.path)?;
        self.folders.push_new(depth, name, folder)?;
        if !self.noted.links.is_empty() {
            replaces |= self.noted.links.remove(&self.folders.path(depth, name)).is_some();
        }
        if replaces {
            tree::set_opaque(self.folders.at(depth + 1))
                .map_err(UnpackError::io("mark as opaque", &entry.path))?;
            self.noted.opaque.insert(self.folders.path(depth, name));
        }
        Ok(())
    }

    fn file<R: BufRead>(
        &mut self,
        depth: usize,
        name: &[u8],
        entry: &Entry,
        archive: &mut Archive<'_, R>,
        files: &mut Files,
    ) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(entry.metadata.mode & 0o777);
        let made =
            self.make(depth, name, &entry.path, |parent| rustix::fs::openat(parent, name, flags, mode))?;
        let mut file = File::from(made);
        self.bytes += entry.pieces.iter().map(|piece| piece.length).sum::<u64>();
        let whole = matches!(entry.pieces[..], [piece] if piece.length == entry.size);
        if whole && entry.size <= SMALL {
            let mut data = Vec::with_capacity(usize::try_from(entry.size).unwrap_or_default());
            loop {
                let slice = archive.data()?;
                if slice.is_empty() {
                    break;
                }
                data.extend_from_slice(slice);
                let bytes = slice.len();
                archive.consume(bytes);
            }
            let (metadata, time, path) = (entry.metadata.clone(), entry.mtime, entry.path.clone());
            return files.write(Content { file, data, metadata, time, path });
        }
        let failed = |error| UnpackError::io("write", &entry.path)(error);
        let mut at = 0;
        // An empty piece stands for a hole at the end, which seeking alone does not make.
        for piece in entry.pieces.iter().filter(|piece| piece.length > 0) {
            if piece.offset != at {
                file.seek(SeekFrom::Start(piece.offset)).map_err(failed)?;
            }
            at = piece.offset;
            let end = piece.offset + piece.length;
            while at < end {
                let slice = archive.data()?;
                let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(slice.len());
                file.write_all(&slice[..wanted]).map_err(failed)?;
                archive.consume(wanted);
                at += wanted as u64;
            }
        }
        if at < entry.size {
            file.set_len(entry.size).map_err(failed)?;
        }
        self.left_out += files::finish(&file, &entry.metadata, entry.mtime, &entry.path)?;
        Ok(())
    }

    /// A symbolic link, device or fifo.
    fn special(&mut self, depth: usize, name: &[u8], entry: &Entry) -> Result<()> {
        let kind = match entry.kind {
            Kind::Character => FileType::CharacterDevice,
            Kind::Block => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        if entry.kind == Kind::Symlink {
            if entry.link.is_empty() || entry.link.contains(&0) {
                return Err(UnpackError::entry(&entry.path, "is a symbolic link to nowhere"));
            }
            self.make(depth, name, &entry.path, |parent| {
                rustix::fs::symlinkat(&entry.link[..], parent, name)
            })?;
        } else {
            let (major, minor) = entry.device;
            if entry.kind == Kind::Character && (major, minor) == (0, 0) {
                return Err(UnpackError::entry(
                    &entry.path,
                    "is the character device 0:0, which overlayfs would take for a deletion",
                ));
            }
            let device = if entry.kind == Kind::Fifo { 0 } else { rustix::fs::makedev(major, minor) };
            let mode = Mode::from_raw_mode(entry.metadata.mode & 0o777);
            self.make(depth, name, &entry.path, |parent| {
                rustix::fs::mknodat(parent, name, kind, mode, device)
            })?;
        }
        let parent = self.folders.at(depth);
        self.left_out += metadata::apply_special(parent, name, entry.kind == Kind::Symlink, &entry.metadata)?;
        rustix::fs::utimensat(parent, name, &metadata::times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(UnpackError::io("set the time of", &entry.path))
    }

    /// Makes something of this name, in place of what has it: the last entry of a name counts.
    pub(super) fn make<T>(
        &mut self,
        depth: usize,
        name: &[u8],
        path: &[u8],
        make: impl Fn(BorrowedFd<'_>) -> std::result::Result<T, Errno>,
    ) -> Result<T> {
        let mut made = make(self.folders.change(depth));
        if matches!(made, Err(Errno::EXIST)) {
            self.remove(depth, name)?;
            made = make(self.folders.change(depth));
        }
        // A link that was to be here, to a file of a layer below, is replaced too.
        if !self.noted.links.is_empty() {
            self.noted.links.remove(&self.folders.path(depth, name));
        }
        made.map_err(UnpackError::io("make", path))
    }

    /// Removes what has this name, and all that was noted about it.
    pub(super) fn remove(&mut self, depth: usize, name: &[u8]) -> Result<()> {
        let here = self.folders.path(depth, name);
        self.folders.forget(depth, name);
        tree::remove(self.folders.change(depth), name).map_err(UnpackError::io("replace", &here))?;
        self.noted.forget(&here);
        Ok(())
    }
}

fn make_folder(parent: BorrowedFd<'_>, name: &[u8], mode: u32, path: &[u8]) -> Result<OwnedFd> {
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(mode & 0o777))
        .map_err(UnpackError::io("make the folder", path))?;
    tree::open_folder(parent, name).map_err(UnpackError::io("open", path))
}
