//! Walking a layer's folders by descriptor, so that no name in an archive can lead out of it.
//!
//! Each component is opened relative to the folder above it and never followed; a symbolic link on the way
//! is read and walked by us from the layer's own root, as `umoci` and `chroot` would see it, and `..` goes
//! back to a descriptor that is already open. What a hostile archive or another process does to the names
//! in between can therefore only ever select an inode inside (CVE-2021-32760, CVE-2025-47290).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, XattrFlags};
use rustix::io::Errno;

use super::error::{Result, UnpackError};
use super::folders::Folders;

/// As many links as the kernel follows in one path.
const LINKS_MAX: usize = 40;

/// Marks a folder whose namesakes below do not shine through (kernel, overlayfs.rst).
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

/// What walking came to where a component is missing or no folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Obstacle {
    Missing,
    Whiteout,
    File,
}

/// Where walking came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Walked {
    /// The folder, at this depth.
    To(usize),
    /// `mend` gave up: the path of real folders to the obstacle, and what was still to be walked.
    Stopped(Vec<u8>),
}

/// Decides what to do about an obstacle of this name in the folder at this depth: true to try again.
pub(crate) type Mend<'m> = dyn FnMut(&mut Folders, usize, &[u8], Obstacle) -> Result<bool> + 'm;

impl Folders {
    /// Walks to the folder of these components and returns its depth, unless `mend` gives up.
    pub(crate) fn walk(&mut self, components: &[&[u8]], mend: &mut Mend<'_>) -> Result<Walked> {
        let whole = || components.join(&b'/');
        // Entries come folder by folder, so most of the way is open already.
        let mut depth = 0;
        while components.get(depth).is_some_and(|component| self.is_open(depth, component)) {
            depth += 1;
        }
        let mut ahead: Vec<Vec<u8>> =
            components[depth..].iter().rev().map(|component| component.to_vec()).collect();
        let mut links = 0;
        while let Some(component) = ahead.pop() {
            match &component[..] {
                b"" | b"." => continue,
                b".." => {
                    depth = depth.saturating_sub(1);
                    continue;
                }
                _ => {}
            }
            if self.is_open(depth, &component) {
                depth += 1;
                continue;
            }
            match open_folder(self.at(depth), &component) {
                Ok(folder) => {
                    self.push(depth, &component, folder)?;
                    depth += 1;
                }
                Err(Errno::NOENT) => {
                    if !mend(self, depth, &component, Obstacle::Missing)? {
                        return Ok(self.stopped(depth, &component, ahead));
                    }
                    ahead.push(component);
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let at = self.at(depth);
                    let stat = stat(at, &component).map_err(UnpackError::io("look at", &component))?;
                    if is_symlink(&stat) {
                        links += 1;
                        if links > LINKS_MAX {
                            return Err(UnpackError::entry(&whole(), "goes through too many symbolic links"));
                        }
                        let target = read_link(at, &component)
                            .map_err(UnpackError::io("read the link", &component))?;
                        if target.starts_with(b"/") {
                            depth = 0;
                        }
                        ahead.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
                        continue;
                    }
                    let obstacle = if is_whiteout(&stat) { Obstacle::Whiteout } else { Obstacle::File };
                    if !mend(self, depth, &component, obstacle)? {
                        return Ok(self.stopped(depth, &component, ahead));
                    }
                    ahead.push(component);
                }
                Err(error) => return Err(UnpackError::io("open the folder", &whole())(error)),
            }
        }
        Ok(Walked::To(depth))
    }

    fn stopped(&self, depth: usize, name: &[u8], ahead: Vec<Vec<u8>>) -> Walked {
        let mut path = self.path(depth, name);
        for component in ahead.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(component);
        }
        Walked::Stopped(path)
    }
}

/// A mend that changes nothing: what is missing stays missing.
pub(crate) fn give_up(_: &mut Folders, _: usize, _: &[u8], _: Obstacle) -> Result<bool> {
    Ok(false)
}

/// The components of an archive's name as `path.Clean("/" + name)` gives them: anchored at the root.
pub(crate) fn components(path: &[u8]) -> Vec<&[u8]> {
    let mut components = Vec::new();
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => drop(components.pop()),
            component => components.push(component),
        }
    }
    components
}

/// The target of the symbolic link at a path of real folders, where there is one.
pub(crate) type LinkAt<'l> = dyn Fn(&[&[u8]]) -> std::result::Result<Option<Vec<u8>>, Errno> + 'l;

/// The path of real folders that a path leads to, the last component's link included, where `link_at` knows
/// the links. What is missing is taken as it is written.
pub(crate) fn follow(path: &[&[u8]], link_at: &LinkAt<'_>) -> std::result::Result<Vec<Vec<u8>>, Errno> {
    let mut ahead: Vec<Vec<u8>> = path.iter().rev().map(|component| component.to_vec()).collect();
    let mut real: Vec<Vec<u8>> = Vec::new();
    let mut links = 0;
    while let Some(component) = ahead.pop() {
        match &component[..] {
            b"" | b"." => continue,
            b".." => {
                real.pop();
                continue;
            }
            _ => real.push(component),
        }
        let here: Vec<&[u8]> = real.iter().map(Vec::as_slice).collect();
        if let Some(target) = link_at(&here)? {
            links += 1;
            if links > LINKS_MAX {
                return Err(Errno::LOOP);
            }
            real.pop();
            if target.starts_with(b"/") {
                real.clear();
            }
            ahead.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
        }
    }
    Ok(real)
}

/// The target of a symbolic link.
pub(crate) fn read_link(parent: BorrowedFd<'_>, name: &[u8]) -> std::result::Result<Vec<u8>, Errno> {
    rustix::fs::readlinkat(parent, name, Vec::new()).map(std::ffi::CString::into_bytes)
}

/// Opens a folder that is no link.
pub(crate) fn open_folder(parent: BorrowedFd<'_>, name: &[u8]) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Opens the folder at a path of our own, not of an archive.
pub(crate) fn open_root(path: &std::path::Path) -> std::result::Result<OwnedFd, Errno> {
    rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// What a name stands for, links not followed.
pub(crate) fn stat(parent: BorrowedFd<'_>, name: &[u8]) -> std::result::Result<Stat, Errno> {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// Overlayfs's mark for "deleted here": a character device 0:0.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

pub(crate) fn is_symlink(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
}

pub(crate) fn is_folder(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// The names in a folder.
pub(crate) fn names(folder: BorrowedFd<'_>) -> std::result::Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

/// Removes a name and, when it is a folder, all in it; never through a link.
pub(crate) fn remove(parent: BorrowedFd<'_>, name: &[u8]) -> std::result::Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        other => return other,
    }
    // As deep as a path of an archive may be, which the limits keep small.
    let folder = open_folder(parent, name)?;
    for name in names(folder.as_fd())? {
        remove(folder.as_fd(), &name)?;
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

pub(crate) fn set_opaque(folder: BorrowedFd<'_>) -> std::result::Result<(), Errno> {
    rustix::fs::fsetxattr(folder, OPAQUE, b"y", XattrFlags::empty())
}

pub(crate) fn is_opaque(folder: BorrowedFd<'_>) -> std::result::Result<bool, Errno> {
    let mut value = [0_u8; 1];
    match rustix::fs::fgetxattr(folder, OPAQUE, &mut value) {
        Ok(bytes) => Ok(bytes == 1 && value == *b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(error) => Err(error),
    }
}
