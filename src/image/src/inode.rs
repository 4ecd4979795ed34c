//! One inode, held by a descriptor that opens nothing (`O_PATH`): looking at it has no effect on devices and fifos, and
//! whatever becomes of its name meanwhile, everything that is read is of the same file.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, StatxFlags};
use rustix::io::Errno;

use crate::unpack::metadata::{self, Attributes};
use crate::unpack::tree;

type Result<T> = std::result::Result<T, Errno>;

#[derive(Debug)]
pub(crate) struct Inode {
    fd: OwnedFd,
    pub(crate) stat: Stat,
}

impl Inode {
    /// What a name in a folder stands for now; a link is not followed.
    pub(crate) fn open(folder: BorrowedFd<'_>, name: &[u8]) -> Result<Inode> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Inode::of(rustix::fs::openat(folder, name, flags, Mode::empty())?)
    }

    /// What a descriptor is of.
    pub(crate) fn of(fd: OwnedFd) -> Result<Inode> {
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Inode { fd, stat })
    }

    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    pub(crate) fn is_folder(&self) -> bool {
        tree::is_folder(&self.stat)
    }

    /// Permission bits with setuid, setgid and sticky.
    pub(crate) fn mode(&self) -> u32 {
        self.stat.st_mode & 0o7777
    }

    /// Names an inode among all of the machine.
    pub(crate) fn id(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }

    /// The target of a symbolic link.
    pub(crate) fn target(&self) -> Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.fd, "", Vec::new())?.into_bytes())
    }

    /// Opens a regular file for reading.
    pub(crate) fn file(&self) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::open(self.own_name(), flags, Mode::empty()).map(File::from)
    }

    /// Opens a folder for listing.
    pub(crate) fn folder(&self) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, ".", flags, Mode::empty())
    }

    /// The attributes that belong to an image, sorted by name.
    pub(crate) fn attributes(&self) -> Result<Attributes> {
        let mut found = Vec::new();
        for name in self.attribute_names()?.into_iter().filter(|name| metadata::is_kept(name)) {
            let own = self.own_name();
            let size = || rustix::fs::getxattr_query(&own, &name[..]);
            match read_sized(size, |buffer| rustix::fs::getxattr(&own, &name[..], buffer)) {
                Ok(value) => found.push((name, value)),
                // Removed since the names were listed.
                Err(Errno::NODATA) => {}
                Err(error) => return Err(error),
            }
        }
        found.sort();
        Ok(found)
    }

    /// The names of all its attributes, overlayfs's marks too.
    pub(crate) fn attribute_names(&self) -> Result<Vec<Vec<u8>>> {
        let own = self.own_name();
        let list = match read_sized(
            || rustix::fs::listxattr_query(&own),
            |buffer| rustix::fs::listxattr(&own, buffer),
        ) {
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            other => other?,
        };
        let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        Ok(names.map(<[u8]>::to_vec).collect())
    }

    /// The kernel's own name for the open inode, which leads to it and no further.
    fn own_name(&self) -> String {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd())
    }
}

/// Names the mount that a descriptor is in.
pub(crate) fn mount_id(fd: impl AsFd) -> Result<u64> {
    Ok(rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id)
}

impl AsFd for Inode {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What a name in a folder stands for, links not followed; `None` when there is nothing.
pub(crate) fn find(folder: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Inode>> {
    match Inode::open(folder, name) {
        Ok(inode) => Ok(Some(inode)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads what the kernel tells the size of: mostly nothing, for which no room is made.
fn read_sized(
    size: impl Fn() -> Result<usize>,
    read: impl Fn(&mut [u8]) -> Result<usize>,
) -> Result<Vec<u8>> {
    loop {
        let mut bytes = vec![0; size()?];
        if bytes.is_empty() {
            return Ok(bytes);
        }
        match read(&mut bytes) {
            // It grew between the two calls.
            Err(Errno::RANGE) => {}
            Err(error) => return Err(error),
            Ok(length) => {
                bytes.truncate(length);
                return Ok(bytes);
            }
        }
    }
}
