//! Settling what a layer's entries mean on top of the layers below it, which are there by now.
//!
//! In this order, because each step may make folders for the next: hard links to files below; folders that
//! the archive used without having them, which may be links below; whiteouts; the times of folders.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::below::{Below, Found};
use super::error::{Result, UnpackError};
use super::metadata::{self, Metadata};
use super::tree::{self, components, give_up, is_folder, is_whiteout};
use super::write::{Unpacked, split_below, split_set_below};

impl Unpacked {
    /// Finishes the layer on top of those below; afterwards it is what overlayfs wants.
    pub fn settle(mut self, below: &Below) -> Result<Settled> {
        while let Some((path, target)) = self.links.pop_first() {
            self.link_below(&path, &target, below)?;
        }
        while let Some(path) = self.made.pop_first() {
            self.made_folder(&path, below)?;
        }
        for path in std::mem::take(&mut self.whiteouts) {
            self.settle_whiteout(&path, below)?;
        }
        for (path, time) in std::mem::take(&mut self.times) {
            let folder = self.open(&path)?;
            rustix::fs::futimens(folder, &metadata::times(time))
                .map_err(UnpackError::io("set the time of", &path))?;
        }
        Ok(Settled { entries: self.entries, bytes: self.bytes, attributes_left_out: self.left_out })
    }

    /// Whether this layer hides whatever is below a path.
    fn hides(&self, path: &[u8]) -> bool {
        let mut above = Some(path);
        while let Some(here) = above {
            if self.opaque.contains(here) {
                return true;
            }
            above = parent(here);
        }
        false
    }

    /// What is below a path, as far as this layer lets it shine through.
    fn find_below(&self, path: &[u8], below: &Below) -> Result<Found> {
        if parent(path).is_some_and(|parent| self.hides(parent)) {
            return Ok(Found::Absent);
        }
        below.find(&components(path)).map_err(UnpackError::io("look below for", path))
    }

    /// A hard link to a file below: the file is copied up, as overlayfs would, and linked.
    fn link_below(&mut self, path: &[u8], target: &[u8], below: &Below) -> Result<()> {
        let missing = || {
            let target = String::from_utf8_lossy(target).into_owned();
            UnpackError::entry(path, format!("is a hard link to {target:?}, which does not exist"))
        };
        let wanted = components(target);
        let (name, parents) = wanted.split_last().ok_or_else(missing)?;
        let mut real = below.follow(parents).map_err(UnpackError::io("look below for", target))?;
        real.push(name.to_vec());
        let there = real.join(&b'/');
        let real: Vec<&[u8]> = real.iter().map(Vec::as_slice).collect();
        let (name, parents) = real.split_last().expect("the name was pushed");

        // A link before this one may have copied it up already.
        let depth = self.enter(parents, path)?;
        let own = tree::stat(self.tree.at(depth), name);
        match own {
            Ok(stat) if is_whiteout(&stat) || is_folder(&stat) => return Err(missing()),
            Ok(_) => {}
            Err(Errno::NOENT) => match self.find_below(&there, below)? {
                Found::Other { folder, stat } => self.copy_up(depth, name, &folder, &stat, &there)?,
                Found::Absent | Found::Folder(_) => return Err(missing()),
            },
            Err(error) => return Err(UnpackError::io("look at", &there)(error)),
        }
        let source = self.tree.at(depth).try_clone_to_owned().map_err(UnpackError::io("open", &there))?;

        let here = components(path);
        let (new, parents) = here.split_last().ok_or_else(missing)?;
        let depth = self.enter(parents, path)?;
        match tree::stat(self.tree.at(depth), new) {
            Ok(stat) if is_whiteout(&stat) => {
                tree::remove(self.tree.at(depth), new).map_err(UnpackError::io("replace", path))?;
                self.whiteouts.remove(path);
            }
            // A later entry took the name.
            Ok(_) => return Ok(()),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(UnpackError::io("look at", path)(error)),
        }
        rustix::fs::linkat(&source, *name, self.tree.at(depth), *new, AtFlags::empty())
            .map_err(UnpackError::io("link", path))
    }

    /// Copies a regular file of a layer below to the same place in this one.
    fn copy_up(
        &mut self,
        depth: usize,
        name: &[u8],
        from: &OwnedFd,
        stat: &rustix::fs::Stat,
        path: &[u8],
    ) -> Result<()> {
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(UnpackError::entry(path, "is linked to from a higher layer, but is no regular file"));
        }
        let failed = |error: io::Error| UnpackError::io("copy up", path)(error);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let source =
            rustix::fs::openat(from, name, flags, Mode::empty()).map_err(UnpackError::io("open", path))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let copy = rustix::fs::openat(self.tree.at(depth), name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(UnpackError::io("make", path))?;
        let (mut source, mut copy) = (File::from(source), File::from(copy));
        self.bytes += io::copy(&mut source, &mut copy).map_err(failed)?;
        self.entries += 1;
        let xattrs =
            metadata::attributes(source.as_fd()).map_err(UnpackError::io("read the attributes of", path))?;
        let metadata =
            Metadata { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777, xattrs: &xattrs };
        metadata::apply(copy.as_fd(), &metadata, path)?;
        rustix::fs::futimens(&copy, &metadata::times(metadata::mtime(stat)))
            .map_err(UnpackError::io("set the time of", path))
    }

    /// A folder that the archive used without having it is the one below.
    fn made_folder(&mut self, path: &[u8], below: &Below) -> Result<()> {
        match self.find_below(path, below)? {
            Found::Folder(folders) => self.describe_like(path, &folders[0]),
            Found::Other { stat, .. } if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                self.move_through_link(path, below)
            }
            Found::Absent | Found::Other { .. } => Ok(()),
        }
    }

    fn describe_like(&mut self, path: &[u8], like: &OwnedFd) -> Result<()> {
        let failed = UnpackError::io("look below for", path);
        let stat = rustix::fs::fstat(like).map_err(failed)?;
        let xattrs =
            metadata::attributes(like.as_fd()).map_err(UnpackError::io("read the attributes of", path))?;
        let metadata =
            Metadata { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777, xattrs: &xattrs };
        let folder = self.open(path)?;
        metadata::apply(folder.as_fd(), &metadata, path)?;
        self.times.insert(path.to_vec(), metadata::mtime(&stat));
        Ok(())
    }

    /// Below, the folder is a symbolic link: what was unpacked into it belongs where the link leads.
    fn move_through_link(&mut self, path: &[u8], below: &Below) -> Result<()> {
        let real = below.follow(&components(path)).map_err(UnpackError::io("follow below", path))?;
        let real: Vec<&[u8]> = real.iter().map(Vec::as_slice).collect();
        let to = real.join(&b'/');
        if to.starts_with(path) && to[path.len()..].starts_with(b"/") {
            return Err(UnpackError::entry(path, "is a link to a place within itself in a layer below"));
        }
        let depth = self.enter(&real, path)?;
        let target = self.tree.at(depth).try_clone_to_owned().map_err(UnpackError::io("open", &to))?;
        let source = self.open(path)?;
        self.merge(&source, path, &target, &to)?;
        self.tree.forget_all();
        let own = components(path);
        let (name, parents) = own.split_last().expect("the root is no link");
        let depth = self.enter(parents, path)?;
        self.tree.forget(depth, name);
        rustix::fs::unlinkat(self.tree.at(depth), *name, AtFlags::REMOVEDIR)
            .map_err(UnpackError::io("remove", path))
    }

    /// Moves everything of one folder into another, and what is noted about it.
    fn merge(&mut self, source: &OwnedFd, from: &[u8], target: &OwnedFd, to: &[u8]) -> Result<()> {
        for name in tree::names(source.as_fd()).map_err(UnpackError::io("list", from))? {
            let (old, new) = (join(from, &name), join(to, &name));
            let failed = |error| UnpackError::io("move", &old)(error);
            let ours = tree::stat(source.as_fd(), &name).map_err(failed)?;
            match tree::stat(target.as_fd(), &name) {
                Ok(theirs) if is_folder(&theirs) && is_folder(&ours) => {
                    let ours = tree::open_folder(source.as_fd(), &name).map_err(failed)?;
                    let theirs = tree::open_folder(target.as_fd(), &name).map_err(failed)?;
                    self.merge(&ours, &old, &theirs, &new)?;
                    rustix::fs::unlinkat(source, &name[..], AtFlags::REMOVEDIR).map_err(failed)?;
                    self.forget(&old);
                    continue;
                }
                // What the archive names by its own path comes before what it reaches through a link.
                Ok(theirs) if !is_whiteout(&theirs) => {
                    tree::remove(source.as_fd(), &name).map_err(failed)?;
                    self.forget(&old);
                    continue;
                }
                Ok(_) => {
                    tree::remove(target.as_fd(), &name).map_err(failed)?;
                    self.forget(&new);
                    if is_folder(&ours) {
                        let ours = tree::open_folder(source.as_fd(), &name).map_err(failed)?;
                        tree::set_opaque(ours.as_fd()).map_err(failed)?;
                        self.opaque.insert(old.clone());
                    }
                }
                Err(Errno::NOENT) => {}
                Err(error) => return Err(failed(error)),
            }
            rustix::fs::renameat(source, &name[..], target, &name[..]).map_err(failed)?;
            self.rename(&old, &new);
        }
        Ok(())
    }

    fn forget(&mut self, path: &[u8]) {
        drop(split_below(&mut self.times, path));
        for set in [&mut self.made, &mut self.opaque, &mut self.whiteouts] {
            drop(split_set_below(set, path));
        }
    }

    fn rename(&mut self, from: &[u8], to: &[u8]) {
        let moved = |path: Vec<u8>| [to, &path[from.len()..]].concat();
        for (path, time) in split_below(&mut self.times, from) {
            self.times.insert(moved(path), time);
        }
        for set in [&mut self.made, &mut self.opaque, &mut self.whiteouts] {
            let paths = split_set_below(set, from);
            set.extend(paths.into_iter().map(moved));
        }
    }

    /// A whiteout of nothing is nothing; overlayfs would even show it where folders are not merged.
    fn settle_whiteout(&mut self, path: &[u8], below: &Below) -> Result<()> {
        if !matches!(self.find_below(path, below)?, Found::Absent) {
            return Ok(());
        }
        let own = components(path);
        let (name, parents) = own.split_last().expect("the root is never a whiteout");
        let depth = self.enter(parents, path)?;
        tree::remove(self.tree.at(depth), name).map_err(UnpackError::io("remove", path))
    }

    /// Opens a folder of this layer by its real path.
    fn open(&mut self, path: &[u8]) -> Result<OwnedFd> {
        let depth = self.tree.walk(&components(path), &mut give_up)?;
        let depth = depth.ok_or_else(|| UnpackError::io("find", path)(Errno::NOENT))?;
        self.tree.at(depth).try_clone_to_owned().map_err(UnpackError::io("open", path))
    }
}

/// A layer that is complete on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Files, folders and links it has.
    pub entries: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Extended attributes that were not set.
    pub attributes_left_out: u64,
}

fn parent(path: &[u8]) -> Option<&[u8]> {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => Some(&path[..at]),
        None if path.is_empty() => None,
        None => Some(b""),
    }
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}
