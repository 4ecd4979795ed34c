//! The folders on the way to the current entry, open, and what each must be when it is left.
//!
//! A folder gets its description when it is left, not when its entry comes: what is made in it would inherit
//! its group and access list, and move its time. One that is entered again is left as it was found. So a layer
//! of any number of folders needs memory for one path of them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::error::{Result, UnpackError};
use super::metadata::{self, Metadata};
use super::pax::Time;

/// The access list that a folder hands down to what is made in it.
const HANDED_DOWN: &str = "system.posix_acl_default";

/// The root of a layer and a path of real folders below it.
#[derive(Debug)]
pub(crate) struct Folders {
    open: Vec<Folder>,
    left_out: u64,
}

#[derive(Debug)]
struct Folder {
    name: Vec<u8>,
    fd: OwnedFd,
    /// Made on this visit: it has no attributes that an earlier entry may have set.
    new: bool,
    changed: bool,
    /// What it gets when it is left; its time goes with the description or, without one, after any change.
    described: Option<Metadata>,
    time: Option<Time>,
    handed_down: Option<Vec<u8>>,
}

impl Folders {
    pub(crate) fn new(root: OwnedFd) -> Self {
        let root = Folder {
            name: Vec::new(),
            fd: root,
            new: false,
            changed: false,
            described: None,
            time: None,
            handed_down: None,
        };
        Folders { open: vec![root], left_out: 0 }
    }

    /// How many attributes were left out so far.
    pub(crate) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// How many are open below the root.
    pub(crate) fn depth(&self) -> usize {
        self.open.len() - 1
    }

    /// The folder at a depth, to look at; 0 is the root.
    pub(crate) fn at(&self, depth: usize) -> BorrowedFd<'_> {
        self.open[depth].fd.as_fd()
    }

    /// The folder at a depth, to make or remove something in.
    pub(crate) fn change(&mut self, depth: usize) -> BorrowedFd<'_> {
        self.open[depth].changed = true;
        self.open[depth].fd.as_fd()
    }

    /// The path of real folders to a depth, with a name in the last: `usr/lib/name`.
    pub(crate) fn path(&self, depth: usize, name: &[u8]) -> Vec<u8> {
        let mut path = Vec::new();
        for folder in &self.open[1..=depth] {
            path.extend_from_slice(&folder.name);
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    /// The path of the folder at a depth.
    pub(crate) fn path_of(&self, depth: usize) -> Vec<u8> {
        match depth.checked_sub(1) {
            None => Vec::new(),
            Some(above) => self.path(above, &self.open[depth].name),
        }
    }

    /// Whether the folder of this name in the folder at `depth` is open.
    pub(crate) fn is_open(&self, depth: usize, name: &[u8]) -> bool {
        self.open.get(depth + 1).is_some_and(|folder| folder.name == name)
    }

    /// Enters a folder that was just made in the one at `depth`; those that were open there are left.
    pub(crate) fn push_new(&mut self, depth: usize, name: &[u8], fd: OwnedFd) -> Result<()> {
        self.leave(depth)?;
        let name = name.to_vec();
        let (described, time, handed_down) = (None, None, None);
        self.open.push(Folder { name, fd, new: true, changed: false, described, time, handed_down });
        Ok(())
    }

    /// Enters a folder that was there already.
    pub(crate) fn push(&mut self, depth: usize, name: &[u8], fd: OwnedFd) -> Result<()> {
        self.leave(depth)?;
        let failed = |error: Errno| UnpackError::io("look at", name)(error);
        let time = Some(metadata::mtime(&rustix::fs::fstat(&fd).map_err(failed)?));
        let handed_down = metadata::attribute(fd.as_fd(), HANDED_DOWN.as_bytes()).map_err(failed)?;
        if handed_down.is_some() {
            rustix::fs::fremovexattr(&fd, HANDED_DOWN).map_err(failed)?;
        }
        let name = name.to_vec();
        self.open.push(Folder { name, fd, new: false, changed: false, described: None, time, handed_down });
        Ok(())
    }

    /// Says what the folder at a depth is to be.
    pub(crate) fn describe(&mut self, depth: usize, metadata: Metadata, time: Time) {
        let folder = &mut self.open[depth];
        folder.described = Some(metadata);
        folder.time = Some(time);
        folder.handed_down = None;
    }

    /// Forgets an open folder that was removed, and those in it.
    pub(crate) fn forget(&mut self, depth: usize, name: &[u8]) {
        if self.is_open(depth, name) {
            self.open.truncate(depth + 1);
        }
    }

    /// Leaves all folders below a depth.
    pub(crate) fn leave(&mut self, depth: usize) -> Result<()> {
        while self.depth() > depth {
            self.finish(self.depth())?;
            self.open.pop();
        }
        Ok(())
    }

    /// Leaves all folders and describes the root. Returns how many attributes were left out.
    pub(crate) fn end(mut self) -> Result<u64> {
        self.leave(0)?;
        self.finish(0)?;
        Ok(self.left_out)
    }

    fn finish(&mut self, depth: usize) -> Result<()> {
        let path = || self.path_of(depth);
        let Folder { fd, new, changed, described, time, handed_down, .. } = &self.open[depth];
        let mut left_out = 0;
        if let Some(metadata) = described {
            if !new {
                metadata::clear_attributes(fd.as_fd())
                    .map_err(UnpackError::io("clear the attributes of", &path()))?;
            }
            left_out = metadata::apply(fd.as_fd(), metadata, &path())?;
        } else if let Some(list) = handed_down {
            rustix::fs::fsetxattr(fd, HANDED_DOWN, list, XattrFlags::empty())
                .map_err(UnpackError::io("set the access list of", &path()))?;
        }
        if let Some(time) = time
            && (*changed || described.is_some())
        {
            rustix::fs::futimens(fd, &metadata::times(*time))
                .map_err(UnpackError::io("set the time of", &path()))?;
        }
        self.left_out += left_out;
        Ok(())
    }
}
