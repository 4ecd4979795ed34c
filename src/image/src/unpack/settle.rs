//! Settling what a layer's entries mean on top of the layers below it, which are there by now.
//!
//! In this order, because each step may make folders for the next: hard links to files below; folders that
//! the archive used without having them, which may be links below; whiteouts; the descriptions of folders.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::below::{Below, Found};
use super::error::{Result, UnpackError};
use super::metadata::{self, Metadata};
use super::noted::{Made, parent};
use super::pax::Time;
use super::tree::{self, Walked, components, give_up, is_folder, is_whiteout};
use super::write::Unpacked;
use crate::folder::join;

impl Unpacked {
    /// Finishes the layer on top of those below; afterwards it is what overlayfs wants.
    pub fn settle(mut self, below: &Below) -> Result<Settled> {
        self.settle_links(below)?;
        while self.move_through_links(below)? {}
        while let Some((path, made)) = self.noted.pop_made() {
            self.made_folder(&path, made, below)?;
        }
        self.settle_whiteouts(below)?;
        let left_out = self.left_out + self.folders.end()?;
        Ok(Settled { entries: self.entries, bytes: self.bytes, attributes_left_out: left_out })
    }

    /// What is below a path, as far as this layer lets it shine through.
    pub(super) fn find_below(&self, path: &[u8], below: &Below) -> Result<Found> {
        if parent(path).is_some_and(|parent| self.noted.hides(parent)) {
            return Ok(Found::Absent);
        }
        below.find(&components(path)).map_err(UnpackError::io("look below for", path))
    }

    /// Moves what was unpacked into folders that are links below. What that makes anew may be links below again,
    /// so it returns whether it did anything.
    fn move_through_links(&mut self, below: &Below) -> Result<bool> {
        let mut moved = false;
        let paths: Vec<Vec<u8>> = self.noted.made.keys().cloned().collect();
        for path in paths {
            // It may have been moved with the folder it lies in.
            let Some(made) = self.noted.made.get(&path).copied() else { continue };
            if let Found::Other { stat, .. } = self.stands_for(&path, made, below)?
                && tree::is_symlink(&stat)
            {
                self.move_through_link(&path, made, below)?;
                moved = true;
            }
        }
        Ok(moved)
    }

    /// What a folder that the archive used without having it is below; also where a marker after it hides what
    /// else is there.
    fn stands_for(&self, path: &[u8], made: Made, below: &Below) -> Result<Found> {
        match made.needed {
            true => below.find(&components(path)).map_err(UnpackError::io("look below for", path)),
            false => self.find_below(path, below),
        }
    }

    fn made_folder(&mut self, path: &[u8], made: Made, below: &Below) -> Result<()> {
        match self.stands_for(path, made, below)? {
            Found::Folder(folders) => {
                let depth = self.walk_to(&components(path), path)?;
                let (metadata, time) = described(folders[0].as_fd(), path)?;
                self.folders.describe(depth, metadata, time);
                Ok(())
            }
            Found::Absent | Found::Other { .. } if !made.needed => {
                // All in it is whiteouts of nothing.
                let own = components(path);
                let (name, parents) = own.split_last().expect("the root is always needed");
                let depth = self.walk_to(parents, path)?;
                self.remove(depth, name)
            }
            Found::Absent | Found::Other { .. } => Ok(()),
        }
    }

    /// Below, the folder is a symbolic link: what was unpacked into it belongs where the link leads.
    fn move_through_link(&mut self, path: &[u8], made: Made, below: &Below) -> Result<()> {
        let real = tree::follow(&components(path), &|real| self.link_at(real, below))
            .map_err(UnpackError::io("follow below", path))?;
        self.noted.described(path);
        let real: Vec<&[u8]> = real.iter().map(Vec::as_slice).collect();
        let to = real.join(&b'/');
        if to.starts_with(path) && to[path.len()..].starts_with(b"/") {
            return Err(UnpackError::entry(path, "is a link to a place within itself in a layer below"));
        }
        let source = self.open(path)?;
        let entered = match made.needed {
            true => Some(self.enter(&real, path)?),
            false => self.enter_to_delete(&real)?,
        };
        if let Some(depth) = entered {
            let target = self.folders.change(depth).try_clone_to_owned();
            let target = target.map_err(UnpackError::io("open", &to))?;
            // The folder's own mark is of what the link leads to, unless it came of the link's deletion.
            if self.noted.opaque.contains(path) && !made.deleted {
                tree::set_opaque(target.as_fd()).map_err(UnpackError::io("mark as opaque", &to))?;
                self.noted.opaque.insert(to.clone());
            }
            self.folders.leave(0)?;
            self.merge(&source, path, &target, &to)?;
        }
        let own = components(path);
        let (name, parents) = own.split_last().expect("the root is no link");
        let depth = self.walk_to(parents, path)?;
        self.remove(depth, name)?;
        if made.deleted {
            self.mark_deleted(depth, name, path)?;
        }
        Ok(())
    }

    /// The target of the symbolic link at a path of real folders, as this layer on those below shows it.
    fn link_at(&self, path: &[&[u8]], below: &Below) -> std::result::Result<Option<Vec<u8>>, Errno> {
        let whole = path.join(&b'/');
        let mut folder: Option<OwnedFd> = None;
        for (at, name) in path.iter().enumerate() {
            let here = folder.as_ref().map_or(self.folders.at(0), OwnedFd::as_fd);
            match tree::stat(here, name) {
                Err(Errno::NOENT) => break,
                Err(error) => return Err(error),
                Ok(stat) if is_folder(&stat) => {
                    if at + 1 == path.len() && !self.noted.made.contains_key(&whole) {
                        return Ok(None);
                    }
                    folder = Some(tree::open_folder(here, name)?);
                }
                Ok(stat) if at + 1 == path.len() && tree::is_symlink(&stat) => {
                    return tree::read_link(here, name).map(Some);
                }
                Ok(_) => return Ok(None),
            }
        }
        match parent(&whole).is_some_and(|parent| self.noted.hides(parent)) {
            true => Ok(None),
            false => below.link_at(path),
        }
    }

    /// Moves everything of one folder into another, and what is noted about it.
    fn merge(&mut self, source: &OwnedFd, from: &[u8], target: &OwnedFd, to: &[u8]) -> Result<()> {
        let time = rustix::fs::fstat(target).map_err(UnpackError::io("look at", to))?;
        for name in tree::names(source.as_fd()).map_err(UnpackError::io("list", from))? {
            let (old, new) = (join(from, &name), join(to, &name));
            let failed = |error| UnpackError::io("move", &old)(error);
            let ours = tree::stat(source.as_fd(), &name).map_err(failed)?;
            match tree::stat(target.as_fd(), &name) {
                Ok(theirs) if is_folder(&theirs) && is_folder(&ours) => {
                    let ours = tree::open_folder(source.as_fd(), &name).map_err(failed)?;
                    let theirs = tree::open_folder(target.as_fd(), &name).map_err(failed)?;
                    let (metadata, time) = described(ours.as_fd(), &old)?;
                    self.merge(&ours, &old, &theirs, &new)?;
                    rustix::fs::unlinkat(source, &name[..], AtFlags::REMOVEDIR).map_err(failed)?;
                    match self.noted.made.get(&old) {
                        Some(made) if made.needed => self.noted.need(&new),
                        Some(_) => {}
                        // Of two descriptions, that by the archive's own path counts; of one, that one.
                        None if self.noted.made.contains_key(&new) => {
                            self.noted.described(&new);
                            self.left_out += metadata::apply(theirs.as_fd(), &metadata, &new)?;
                            rustix::fs::futimens(&theirs, &metadata::times(time)).map_err(failed)?;
                        }
                        None => {}
                    }
                    self.noted.forget(&old);
                    continue;
                }
                // What the archive names by its own path comes before what it reaches through a link.
                Ok(theirs) if !is_whiteout(&theirs) => {
                    if is_whiteout(&ours) && is_folder(&theirs) {
                        let theirs = tree::open_folder(target.as_fd(), &name).map_err(failed)?;
                        tree::set_opaque(theirs.as_fd()).map_err(failed)?;
                        self.noted.opaque.insert(new.clone());
                    }
                    tree::remove(source.as_fd(), &name).map_err(failed)?;
                    self.noted.forget(&old);
                    continue;
                }
                Ok(_) => {
                    tree::remove(target.as_fd(), &name).map_err(failed)?;
                    self.noted.forget(&new);
                    if is_folder(&ours) {
                        let ours = tree::open_folder(source.as_fd(), &name).map_err(failed)?;
                        tree::set_opaque(ours.as_fd()).map_err(failed)?;
                        self.noted.opaque.insert(old.clone());
                        // It is new, not the one that was deleted.
                        self.noted.described(&old);
                    }
                }
                Err(Errno::NOENT) => {}
                Err(error) => return Err(failed(error)),
            }
            rustix::fs::renameat(source, &name[..], target, &name[..]).map_err(failed)?;
            self.noted.rename(&old, &new);
        }
        rustix::fs::futimens(target, &metadata::times(metadata::mtime(&time)))
            .map_err(UnpackError::io("set the time of", to))
    }

    /// Walks to a folder of this layer by its real path.
    fn walk_to(&mut self, parts: &[&[u8]], path: &[u8]) -> Result<usize> {
        match self.folders.walk(parts, &mut give_up)? {
            Walked::To(depth) => Ok(depth),
            Walked::Stopped(_) => Err(UnpackError::io("find", path)(Errno::NOENT)),
        }
    }

    fn open(&mut self, path: &[u8]) -> Result<OwnedFd> {
        let depth = self.walk_to(&components(path), path)?;
        self.folders.at(depth).try_clone_to_owned().map_err(UnpackError::io("open", path))
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

/// How a folder is described.
fn described(folder: BorrowedFd<'_>, path: &[u8]) -> Result<(Metadata, Time)> {
    let stat = rustix::fs::fstat(folder).map_err(UnpackError::io("look at", path))?;
    let xattrs = metadata::attributes(folder).map_err(UnpackError::io("read the attributes of", path))?;
    let metadata = Metadata { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777, xattrs };
    Ok((metadata, metadata::mtime(&stat)))
}
