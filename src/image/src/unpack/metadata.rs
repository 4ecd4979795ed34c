//! Owners, modes, extended attributes and times, set through descriptors of the very inode.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::error::{Result, UnpackError};
use super::pax::Time;

/// Extended attributes: names and values, both of any bytes.
pub(crate) type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// What is set on a new file besides its content.
#[derive(Debug, Clone)]
pub(crate) struct Metadata<'a> {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
    pub(crate) xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// Whether an attribute of an image is set at all.
///
/// `trusted.*` steers the kernel, and overlayfs above all; `user.overlay.*` is the same for mounts inside a
/// user namespace; the rest of what is left out describes the machine that built the image, not the file.
pub(crate) fn is_kept(name: &[u8]) -> bool {
    let dropped: [&[u8]; 6] = [
        b"trusted.",
        b"user.overlay.",
        b"security.selinux",
        b"security.ima",
        b"security.evm",
        b"system.nfs4_acl",
    ];
    !dropped.iter().any(|prefix| name.starts_with(prefix))
}

/// Sets owner, mode and attributes of an open file or folder. The owner comes first, because changing it
/// clears setuid bits and file capabilities. Returns how many attributes were left out.
pub(crate) fn apply(file: BorrowedFd<'_>, metadata: &Metadata<'_>, path: &[u8]) -> Result<u64> {
    rustix::fs::fchown(file, Some(Uid::from_raw(metadata.uid)), Some(Gid::from_raw(metadata.gid)))
        .map_err(UnpackError::io("change the owner of", path))?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(metadata.mode))
        .map_err(UnpackError::io("change the mode of", path))?;
    let mut left_out = 0;
    for (name, value) in metadata.xattrs {
        if !is_kept(name) {
            left_out += 1;
            continue;
        }
        let set = rustix::fs::fsetxattr(file, &name[..], value, XattrFlags::empty());
        left_out += unsupported(set, path)?;
    }
    Ok(left_out)
}

/// The same for what cannot be opened without effect: links, devices, fifos. `name` was just made in `folder`.
pub(crate) fn apply_special(
    folder: BorrowedFd<'_>,
    name: &[u8],
    link: bool,
    metadata: &Metadata<'_>,
) -> Result<u64> {
    // Bound to the inode, whatever becomes of its name.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file: OwnedFd =
        rustix::fs::openat(folder, name, flags, Mode::empty()).map_err(UnpackError::io("open", name))?;
    let owner = (Some(Uid::from_raw(metadata.uid)), Some(Gid::from_raw(metadata.gid)));
    rustix::fs::chownat(&file, "", owner.0, owner.1, AtFlags::EMPTY_PATH)
        .map_err(UnpackError::io("change the owner of", name))?;
    // The kernel's own name for the open inode, which leads to it and no further.
    let own = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    if !link {
        rustix::fs::chmodat(rustix::fs::CWD, &own, Mode::from_raw_mode(metadata.mode), AtFlags::empty())
            .map_err(UnpackError::io("change the mode of", name))?;
    }
    let mut left_out = 0;
    for (attribute, value) in metadata.xattrs {
        if !is_kept(attribute) {
            left_out += 1;
            continue;
        }
        left_out += match rustix::fs::setxattr(&own, &attribute[..], value, XattrFlags::empty()) {
            // `user.*` is only for files and folders (xattr(7)).
            Err(Errno::PERM) if attribute.starts_with(b"user.") => 1,
            set => unsupported(set, name)?,
        };
    }
    Ok(left_out)
}

/// An attribute that the file system cannot hold is left out and counted, as other tools do.
fn unsupported(set: std::result::Result<(), Errno>, path: &[u8]) -> Result<u64> {
    match set {
        Ok(()) => Ok(0),
        Err(Errno::OPNOTSUPP) => Ok(1),
        Err(error) => Err(UnpackError::io("set an extended attribute of", path)(error)),
    }
}

/// The attributes of an open file or folder that belong to the image.
pub(crate) fn attributes(file: BorrowedFd<'_>) -> std::result::Result<Attributes, Errno> {
    let mut list = vec![0_u8; 64 << 10];
    let bytes = match rustix::fs::flistxattr(file, &mut list[..]) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for name in list[..bytes].split(|byte| *byte == 0).filter(|name| !name.is_empty() && is_kept(name)) {
        let mut value = vec![0_u8; 64 << 10];
        let bytes = rustix::fs::fgetxattr(file, name, &mut value[..])?;
        value.truncate(bytes);
        found.push((name.to_vec(), value));
    }
    Ok(found)
}

/// Removes the attributes that an earlier entry of the same folder set.
pub(crate) fn clear_attributes(file: BorrowedFd<'_>) -> std::result::Result<(), Errno> {
    for (name, _) in attributes(file)? {
        rustix::fs::fremovexattr(file, &name[..])?;
    }
    Ok(())
}

/// Access and modification time at once: an image knows only one.
pub(crate) fn times(time: Time) -> Timestamps {
    let time = Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// The modification time of what was looked at.
pub(crate) fn mtime(stat: &Stat) -> Time {
    Time { seconds: stat.st_mtime, nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) }
}
