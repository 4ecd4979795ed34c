//! Hard links, also to files of layers below, which are copied up as overlayfs would.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::archive::Entry;
use super::below::{Below, Found};
use super::error::{Result, UnpackError};
use super::files;
use super::metadata::{self, Metadata};
use super::noted::parent;
use super::tree::{self, Obstacle, Walked, components, is_folder, is_whiteout};
use super::write::Unpacked;
use crate::holes;
use crate::inode::Inode;

/// A hard link whose target was in no entry before it.
#[derive(Debug, Clone)]
pub(super) struct LinkBelow {
    /// Its place among the layer's entries.
    order: u64,
    /// Its target, as far as this layer's own links lead.
    target: Vec<u8>,
}

impl Unpacked {
    pub(super) fn hardlink(&mut self, parents: &[&[u8]], name: &[u8], entry: &Entry) -> Result<()> {
        let refuse = |reason: &str| {
            let target = String::from_utf8_lossy(&entry.link);
            UnpackError::entry(&entry.path, format!("is a hard link to {target:?}, {reason}"))
        };
        let target = components(&entry.link);
        let Some((target_name, target_parents)) = target.split_last() else {
            return Err(refuse("the root"));
        };
        if entry.link.contains(&0) || target.len() > self.limits.depth {
            return Err(refuse("an impossible name"));
        }
        let walked = self.folders.walk(target_parents, &mut |_, _, _, obstacle| match obstacle {
            Obstacle::Missing => Ok(false),
            Obstacle::Whiteout | Obstacle::File => Err(refuse("which does not exist")),
        })?;
        let found = match walked {
            Walked::Stopped(path) => Err([&path, *target_name].join(&b'/')),
            Walked::To(depth) => {
                let folder = self.folders.at(depth);
                match tree::stat(folder, target_name) {
                    // A folder that was made may stand for a link below.
                    Ok(stat) if is_folder(&stat) && self.is_made(depth, target_name) => {
                        Err(self.folders.path(depth, target_name))
                    }
                    Ok(stat) => {
                        let folder = folder.try_clone_to_owned();
                        Ok((folder.map_err(UnpackError::io("open", &entry.link))?, stat, depth))
                    }
                    Err(Errno::NOENT) => Err(self.folders.path(depth, target_name)),
                    Err(error) => return Err(UnpackError::io("look at", &entry.link)(error)),
                }
            }
        };
        let (folder, stat, there) = match found {
            Ok((folder, stat, depth)) => (folder, stat, self.folders.path(depth, target_name)),
            Err(target) => {
                let target = match self.noted.links.get(&target) {
                    Some(link) => link.target.clone(),
                    None if self.noted.hides(parent(&target).unwrap_or_default()) => {
                        return Err(refuse("which does not exist"));
                    }
                    None => target,
                };
                // It must be a file of a layer below; this name is free for it until then.
                let depth = self.enter(parents, &entry.path)?;
                if tree::stat(self.folders.at(depth), name).is_ok() {
                    self.remove(depth, name)?;
                }
                let link = LinkBelow { order: self.entries, target };
                self.noted.links.insert(self.folders.path(depth, name), link);
                return Ok(());
            }
        };
        if is_folder(&stat) {
            return Err(refuse("a folder"));
        }
        if is_whiteout(&stat) {
            return Err(refuse("which is deleted"));
        }
        let depth = self.enter(parents, &entry.path)?;
        if self.folders.path(depth, name) == there {
            return Ok(());
        }
        self.make(depth, name, &entry.path, |parent| {
            rustix::fs::linkat(&folder, *target_name, parent, name, AtFlags::empty())
        })
    }

    /// Makes the links to files of the layers below.
    pub(super) fn settle_links(&mut self, below: &Below) -> Result<()> {
        let mut links: Vec<(Vec<u8>, LinkBelow)> = self.noted.links.clone().into_iter().collect();
        links.sort_by_key(|(_, link)| link.order);
        // Where in this layer each file below was copied to.
        let mut copied: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for (path, LinkBelow { target, .. }) in links {
            let missing = || {
                let target = String::from_utf8_lossy(&target).into_owned();
                UnpackError::entry(&path, format!("is a hard link to {target:?}, which does not exist"))
            };
            let wanted = components(&target);
            let (name, parents) = wanted.split_last().ok_or_else(missing)?;
            let mut real = below.follow(parents).map_err(UnpackError::io("look below for", &target))?;
            real.push(name.to_vec());
            let there = real.join(&b'/');
            let source = match copied.get(&there) {
                Some(source) => source.clone(),
                None => {
                    let real: Vec<&[u8]> = real.iter().map(Vec::as_slice).collect();
                    let found = below.find(&real).map_err(UnpackError::io("look below for", &there))?;
                    let Found::Other { folder, .. } = found else { return Err(missing()) };
                    let old = Inode::open(folder.as_fd(), name).map_err(UnpackError::io("open", &there))?;
                    // Its own name gets the same inode, as long as this layer leaves that name alone.
                    let to = if self.shows(&real, &there)? { &there } else { &path };
                    let to_parts = components(to);
                    let (to_name, to_parents) = to_parts.split_last().ok_or_else(missing)?;
                    let depth = self.enter(to_parents, &path)?;
                    self.copy_up(depth, to_name, &old, to)?;
                    copied.insert(there.clone(), to.clone());
                    to.clone()
                }
            };
            self.noted.links.remove(&path);
            if source != path {
                let (folder, name) = self.real_parent(&source, &path)?;
                let (to, new) = self.real_parent(&path, &path)?;
                rustix::fs::linkat(&folder, &name[..], &to, &new[..], AtFlags::empty())
                    .map_err(UnpackError::io("link", &path))?;
            }
        }
        Ok(())
    }

    fn is_made(&self, depth: usize, name: &[u8]) -> bool {
        self.noted.made.contains_key(&self.folders.path(depth, name))
    }

    /// The folder that a path of this layer lies in, and its name there.
    fn real_parent(&mut self, path: &[u8], for_path: &[u8]) -> Result<(OwnedFd, Vec<u8>)> {
        let parts = components(path);
        let (name, parents) = parts.split_last().expect("the root is no link");
        let depth = self.enter(parents, for_path)?;
        let folder = self.folders.change(depth).try_clone_to_owned();
        Ok((folder.map_err(UnpackError::io("open", path))?, name.to_vec()))
    }

    /// Whether this layer lets a path of the layers below shine through.
    fn shows(&self, path: &[&[u8]], whole: &[u8]) -> Result<bool> {
        if self.noted.links.contains_key(whole) || self.noted.hides(parent(whole).unwrap_or_default()) {
            return Ok(false);
        }
        let mut folder: Option<OwnedFd> = None;
        for name in path {
            let at = folder.as_ref().map_or(self.folders.at(0), OwnedFd::as_fd);
            match tree::stat(at, name) {
                Err(Errno::NOENT) => return Ok(true),
                Err(error) => return Err(UnpackError::io("look at", whole)(error)),
                Ok(stat) if !is_folder(&stat) => return Ok(false),
                Ok(_) => {
                    let next = tree::open_folder(at, name).map_err(UnpackError::io("open", whole))?;
                    folder = Some(next);
                }
            }
        }
        Ok(false)
    }

    /// Copies what is no folder from a layer below into this one.
    fn copy_up(&mut self, depth: usize, name: &[u8], old: &Inode, path: &[u8]) -> Result<()> {
        let to = self.folders.change(depth);
        let time = metadata::mtime(&old.stat);
        let xattrs = old.attributes().map_err(UnpackError::io("read the attributes of", path))?;
        let metadata = Metadata { uid: old.stat.st_uid, gid: old.stat.st_gid, mode: old.mode(), xattrs };
        if old.kind() == FileType::RegularFile {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let copy = rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR);
            let copy = File::from(copy.map_err(UnpackError::io("make", path))?);
            let source = old.file().map_err(UnpackError::io("open", path))?;
            // Blocks of 512 bytes (stat(2)): a few names can ask for far more than the archive has bytes.
            let blocks = u64::try_from(old.stat.st_blocks).unwrap_or(0);
            if self.bytes.saturating_add(blocks.saturating_mul(512)) > self.limits.bytes {
                return Err(UnpackError::Limit { what: "unpacked bytes", limit: self.limits.bytes });
            }
            let size = u64::try_from(old.stat.st_size).unwrap_or(0);
            self.bytes += holes::copy_data(&source, &copy, size).map_err(UnpackError::io("copy up", path))?;
            self.left_out += files::finish(&copy, &metadata, time, path)?;
        } else {
            let link = old.kind() == FileType::Symlink;
            let made = if link {
                old.target().and_then(|target| rustix::fs::symlinkat(&target[..], to, name))
            } else {
                rustix::fs::mknodat(to, name, old.kind(), Mode::RUSR | Mode::WUSR, old.stat.st_rdev)
            };
            made.map_err(UnpackError::io("make", path))?;
            self.left_out += metadata::apply_special(to, name, link, &metadata)?;
            rustix::fs::utimensat(to, name, &metadata::times(time), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(UnpackError::io("set the time of", path))?;
        }
        self.count()
    }
}
