//! Writing the entries of a layer's archive into a folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::archive::{Archive, Entry, Kind};
use super::error::{Result, UnpackError};
use super::limits::Limits;
use super::metadata::{self, Metadata};
use super::pax::Time;
use super::tree::{self, Obstacle, Tree, components, give_up, is_folder, is_whiteout};

/// OCI image-spec layer.md, "Whiteouts".
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
/// Files that aufs once kept for itself.
const AUFS: &[u8] = b".wh..wh.";

/// The mode of folders that an archive uses but does not have.
const MADE_MODE: Mode = Mode::from_raw_mode(0o755);

/// A layer whose entries are all written. Paths are of real folders, relative to its root; the root is "".
#[derive(Debug)]
pub struct Unpacked {
    pub(super) tree: Tree,
    pub(super) limits: Limits,
    /// Files, folders and links made.
    pub(super) entries: u64,
    /// Bytes of files.
    pub(super) bytes: u64,
    /// Extended attributes that were not set.
    pub(super) left_out: u64,
    /// Times of folders, set last because every change in a folder moves its time.
    pub(super) times: BTreeMap<Vec<u8>, Time>,
    /// Folders the archive did not have: their attributes are those of the layer below.
    pub(super) made: BTreeSet<Vec<u8>>,
    /// Folders that hide those below.
    pub(super) opaque: BTreeSet<Vec<u8>>,
    /// Names marked as deleted.
    pub(super) whiteouts: BTreeSet<Vec<u8>>,
    /// Hard links whose target must be in a layer below: the new path and the target as the archive says.
    pub(super) links: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Unpacks the archive into the folder, which must be empty and on the store's file system.
pub fn unpack<R: BufRead>(archive: R, folder: &Path, limits: &Limits) -> Result<Unpacked> {
    let root =
        tree::open_root(folder).map_err(UnpackError::io("open", folder.as_os_str().as_encoded_bytes()))?;
    // As any folder that no entry describes: the caller's folder is private, the container's root is not.
    rustix::fs::fchmod(&root, MADE_MODE).map_err(UnpackError::io("change the mode of", b"/"))?;
    let mut unpacked = Unpacked::new(root, limits.clone());
    let mut archive = Archive::new(archive, limits);
    while let Some(entry) = archive.next()? {
        unpacked.entry(&entry, &mut archive)?;
    }
    unpacked.tree.forget_all();
    Ok(unpacked)
}

impl Unpacked {
    fn new(root: OwnedFd, limits: Limits) -> Self {
        Unpacked {
            tree: Tree::new(root),
            limits,
            entries: 0,
            bytes: 0,
            left_out: 0,
            times: BTreeMap::new(),
            made: BTreeSet::from([Vec::new()]),
            opaque: BTreeSet::new(),
            whiteouts: BTreeSet::new(),
            links: BTreeMap::new(),
        }
    }

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
        !(self.made.is_empty() && self.whiteouts.is_empty() && self.links.is_empty())
    }

    /// How many extended attributes were not set.
    pub fn attributes_left_out(&self) -> u64 {
        self.left_out
    }

    fn entry<R: BufRead>(&mut self, entry: &Entry, archive: &mut Archive<'_, R>) -> Result<()> {
        let path = components(&entry.path);
        if path.len() > self.limits.depth {
            return Err(UnpackError::Limit { what: "folders in a path", limit: self.limits.depth as u64 });
        }
        if entry.path.contains(&0) {
            return Err(UnpackError::entry(&entry.path, "has a zero byte in its name"));
        }
        let Some((name, parents)) = path.split_last() else { return self.root(entry) };
        self.count()?;
        let depth = self.enter(parents, &entry.path)?;
        if name.starts_with(WHITEOUT) {
            return self.whiteout(depth, name, &entry.path);
        }
        match entry.kind {
            Kind::File => self.file(depth, name, entry, archive),
            Kind::Folder => self.folder(depth, name, entry),
            Kind::Hardlink => self.hardlink(parents, name, entry),
            Kind::Symlink | Kind::Character | Kind::Block | Kind::Fifo => self.special(depth, name, entry),
        }
    }

    fn count(&mut self) -> Result<()> {
        self.entries += 1;
        self.limits.check_entries(self.entries)
    }

    /// Walks to a folder, making what is missing of it.
    pub(super) fn enter(&mut self, parents: &[&[u8]], path: &[u8]) -> Result<usize> {
        let Unpacked { tree, entries, limits, made, opaque, whiteouts, .. } = self;
        let depth = tree.walk(parents, &mut |tree, depth, name, obstacle| {
            let here = tree.path(depth, name);
            match obstacle {
                Obstacle::File => {
                    let reason =
                        format!("lies below {:?}, which is no folder", String::from_utf8_lossy(&here));
                    return Err(UnpackError::entry(path, reason));
                }
                Obstacle::Whiteout => {
                    // Deleted below and new here: nothing of the old one shines through.
                    tree::remove(tree.at(depth), name).map_err(UnpackError::io("remove", &here))?;
                    whiteouts.remove(&here);
                }
                Obstacle::Missing => {}
            }
            *entries += 1;
            limits.check_entries(*entries)?;
            if depth >= limits.depth {
                return Err(UnpackError::Limit { what: "folders in a path", limit: limits.depth as u64 });
            }
            rustix::fs::mkdirat(tree.at(depth), name, MADE_MODE)
                .map_err(UnpackError::io("make the folder", &here))?;
            let folder = tree::open_folder(tree.at(depth), name).map_err(UnpackError::io("open", &here))?;
            rustix::fs::fchmod(&folder, MADE_MODE).map_err(UnpackError::io("change the mode of", &here))?;
            if obstacle == Obstacle::Whiteout {
                tree::set_opaque(folder.as_fd()).map_err(UnpackError::io("mark as opaque", &here))?;
                opaque.insert(here.clone());
            }
            made.insert(here);
            Ok(true)
        })?;
        Ok(depth.expect("the mend above never gives up"))
    }

    /// The archive's own entry for the layer's root.
    fn root(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != Kind::Folder {
            return Err(UnpackError::entry(&entry.path, "would replace the root"));
        }
        self.made.remove(&b""[..]);
        self.describe_folder(0, entry)?;
        self.times.insert(Vec::new(), entry.mtime);
        Ok(())
    }

    fn folder(&mut self, depth: usize, name: &[u8], entry: &Entry) -> Result<()> {
        let here = self.tree.path(depth, name);
        let parent = self.tree.at(depth);
        let mut hides = false;
        if let Err(error) = rustix::fs::mkdirat(parent, name, Mode::RWXU) {
            if error != Errno::EXIST {
                return Err(UnpackError::io("make the folder", &here)(error));
            }
            let found = tree::stat(parent, name).map_err(UnpackError::io("look at", &here))?;
            if !is_folder(&found) {
                // Whatever it replaces had hidden a folder of this name below; the new one must go on so.
                hides = true;
                self.remove(depth, name, &here)?;
                rustix::fs::mkdirat(self.tree.at(depth), name, Mode::RWXU)
                    .map_err(UnpackError::io("make the folder", &here))?;
            }
        }
        let known = self.tree.path_is_open(depth, name);
        if !known {
            let folder =
                tree::open_folder(self.tree.at(depth), name).map_err(UnpackError::io("open", &here))?;
            self.tree.push(depth, name, folder);
        }
        self.describe_folder(depth + 1, entry)?;
        if hides {
            tree::set_opaque(self.tree.at(depth + 1)).map_err(UnpackError::io("mark as opaque", &here))?;
            self.opaque.insert(here.clone());
        }
        self.made.remove(&here);
        self.times.insert(here, entry.mtime);
        Ok(())
    }

    fn describe_folder(&mut self, depth: usize, entry: &Entry) -> Result<()> {
        let folder = self.tree.at(depth);
        metadata::clear_attributes(folder)
            .map_err(UnpackError::io("clear the attributes of", &entry.path))?;
        self.left_out += metadata::apply(folder, &described(entry), &entry.path)?;
        Ok(())
    }

    fn file<R: BufRead>(
        &mut self,
        depth: usize,
        name: &[u8],
        entry: &Entry,
        archive: &mut Archive<'_, R>,
    ) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let made =
            self.make(depth, name, &entry.path, |parent| rustix::fs::openat(parent, name, flags, mode))?;
        let mut file = File::from(made);
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
        self.bytes += entry.pieces.iter().map(|piece| piece.length).sum::<u64>();
        self.left_out += metadata::apply(file.as_fd(), &described(entry), &entry.path)?;
        rustix::fs::futimens(&file, &metadata::times(entry.mtime))
            .map_err(UnpackError::io("set the time of", &entry.path))
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
            let mode = Mode::RUSR | Mode::WUSR;
            self.make(depth, name, &entry.path, |parent| {
                rustix::fs::mknodat(parent, name, kind, mode, device)
            })?;
        }
        let parent = self.tree.at(depth);
        self.left_out +=
            metadata::apply_special(parent, name, entry.kind == Kind::Symlink, &described(entry))?;
        rustix::fs::utimensat(parent, name, &metadata::times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(UnpackError::io("set the time of", &entry.path))
    }

    fn hardlink(&mut self, parents: &[&[u8]], name: &[u8], entry: &Entry) -> Result<()> {
        let target = components(&entry.link);
        let Some((target_name, target_parents)) = target.split_last() else {
            return Err(UnpackError::entry(&entry.path, "is a hard link to the root"));
        };
        if entry.link.contains(&0) || target.len() > self.limits.depth {
            return Err(UnpackError::entry(&entry.path, "is a hard link to an impossible name"));
        }
        let found = match self.tree.walk(target_parents, &mut give_up)? {
            None => None,
            Some(depth) => {
                let folder =
                    self.tree.at(depth).try_clone_to_owned().map_err(UnpackError::io("open", &entry.link))?;
                match tree::stat(folder.as_fd(), target_name) {
                    Ok(stat) => Some((folder, stat, self.tree.path(depth, target_name))),
                    Err(Errno::NOENT) => None,
                    Err(error) => return Err(UnpackError::io("look at", &entry.link)(error)),
                }
            }
        };
        let depth = self.enter(parents, &entry.path)?;
        let here = self.tree.path(depth, name);
        let Some((folder, stat, there)) = found else {
            // It must be a file of a layer below; this name is free for it until then.
            if tree::stat(self.tree.at(depth), name).is_ok() {
                self.remove(depth, name, &here)?;
            }
            self.links.insert(here, entry.link.clone());
            return Ok(());
        };
        let named = || String::from_utf8_lossy(&entry.link).into_owned();
        if is_folder(&stat) {
            return Err(UnpackError::entry(
                &entry.path,
                format!("is a hard link to the folder {:?}", named()),
            ));
        }
        if is_whiteout(&stat) {
            return Err(UnpackError::entry(
                &entry.path,
                format!("is a hard link to {:?}, which is deleted", named()),
            ));
        }
        if here == there {
            return Ok(());
        }
        self.make(depth, name, &entry.path, |parent| {
            rustix::fs::linkat(&folder, *target_name, parent, name, AtFlags::empty())
        })?;
        Ok(())
    }

    /// The marker of something deleted below. It never deletes anything here: a layer's own entries stay,
    /// whether they come before their marker or after it.
    fn whiteout(&mut self, depth: usize, name: &[u8], path: &[u8]) -> Result<()> {
        if name == OPAQUE_MARKER {
            let here = self.tree.path(depth, b"");
            tree::set_opaque(self.tree.at(depth)).map_err(UnpackError::io("mark as opaque", &here))?;
            self.opaque.insert(here.strip_suffix(b"/").unwrap_or(&here).to_vec());
            return Ok(());
        }
        if name.starts_with(AUFS) {
            return Ok(());
        }
        let deleted = &name[WHITEOUT.len()..];
        if matches!(deleted, b"" | b"." | b"..") {
            return Err(UnpackError::entry(path, "would delete a folder from within"));
        }
        let here = self.tree.path(depth, deleted);
        match tree::stat(self.tree.at(depth), deleted) {
            Ok(found) if is_folder(&found) => {
                let folder = tree::open_folder(self.tree.at(depth), deleted)
                    .map_err(UnpackError::io("open", &here))?;
                tree::set_opaque(folder.as_fd()).map_err(UnpackError::io("mark as opaque", &here))?;
                self.opaque.insert(here);
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(Errno::NOENT) => {
                let mode = Mode::empty();
                rustix::fs::mknodat(self.tree.at(depth), deleted, FileType::CharacterDevice, mode, 0)
                    .map_err(UnpackError::io("mark as deleted", &here))?;
                self.whiteouts.insert(here);
                Ok(())
            }
            Err(error) => Err(UnpackError::io("look at", &here)(error)),
        }
    }

    /// Makes something of this name, in place of what has it: the last entry of a name counts.
    fn make<T>(
        &mut self,
        depth: usize,
        name: &[u8],
        path: &[u8],
        make: impl Fn(std::os::fd::BorrowedFd<'_>) -> std::result::Result<T, Errno>,
    ) -> Result<T> {
        match make(self.tree.at(depth)) {
            Err(Errno::EXIST) => {
                let here = self.tree.path(depth, name);
                self.remove(depth, name, &here)?;
                make(self.tree.at(depth)).map_err(UnpackError::io("make", path))
            }
            other => other.map_err(UnpackError::io("make", path)),
        }
    }

    /// Removes what has this name, and all that was noted about it.
    fn remove(&mut self, depth: usize, name: &[u8], here: &[u8]) -> Result<()> {
        self.tree.forget(depth, name);
        tree::remove(self.tree.at(depth), name).map_err(UnpackError::io("replace", here))?;
        drop(split_below(&mut self.times, here));
        drop(split_below(&mut self.links, here));
        drop(split_set_below(&mut self.made, here));
        drop(split_set_below(&mut self.opaque, here));
        drop(split_set_below(&mut self.whiteouts, here));
        Ok(())
    }
}

fn described(entry: &Entry) -> Metadata<'_> {
    Metadata { uid: entry.uid, gid: entry.gid, mode: entry.mode, xattrs: &entry.xattrs }
}

/// Takes out what is noted about a path and all below it.
pub(super) fn split_below<T>(map: &mut BTreeMap<Vec<u8>, T>, path: &[u8]) -> Vec<(Vec<u8>, T)> {
    let mut keys: Vec<Vec<u8>> = map.contains_key(path).then(|| path.to_vec()).into_iter().collect();
    // The slash is followed by the digit zero in ASCII.
    let (from, to) = ([path, b"/"].concat(), [path, b"0"].concat());
    keys.extend(map.range(from..to).map(|(key, _)| key.clone()));
    keys.into_iter().filter_map(|key| map.remove_entry(&key)).collect()
}

/// The same for a set.
pub(super) fn split_set_below(set: &mut BTreeSet<Vec<u8>>, path: &[u8]) -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = set.contains(path).then(|| path.to_vec()).into_iter().collect();
    let (from, to) = ([path, b"/"].concat(), [path, b"0"].concat());
    keys.extend(set.range(from..to).cloned());
    keys.into_iter().filter_map(|key| set.take(&key)).collect()
}
