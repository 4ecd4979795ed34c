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
pub(crate) struct Metadata {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Permission bits with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) xattrs: Attributes,
}

/// Whether an attribute of an image is set at all.
///
/// `trusted.*` steers the kernel, and overlayfs above all; `user.overlay.*` is the same for mounts inside a
/// user namespace, and the next two are for fuse-overlayfs, which takes owner and mode from them; the rest of
/// what is left out describes the machine that built the image, not the file.
pub(crate) fn is_kept(name: &[u8]) -> bool {
    let dropped: [&[u8]; 8] = [
        b"trusted.",
        b"user.overlay.",
        b"user.fuseoverlayfs.",
        b"user.containers.override_stat",
        b"security.selinux",
        b"security.ima",
        b"security.evm",
        b"system.nfs4_acl",
    ];
    !dropped.iter().any(|prefix| name.starts_with(prefix))
}

/// Sets owner, mode and attributes of an open file or folder. The owner comes first, because changing it
/// clears setuid bits and file capabilities. Returns how many attributes were left out.
///
/// Looking is ten times cheaper than changing, and most files are made with the right owner and mode.
pub(crate) fn apply(file: BorrowedFd<'_>, metadata: &Metadata, path: &[u8]) -> Result<u64> {
    let found = rustix::fs::fstat(file).map_err(UnpackError::io("look at", path))?;
    let owned = (found.st_uid, found.st_gid) == (metadata.uid, metadata.gid);
    if !owned {
        rustix::fs::fchown(file, Some(Uid::from_raw(metadata.uid)), Some(Gid::from_raw(metadata.gid)))
            .map_err(UnpackError::io("change the owner of", path))?;
    }
    if found.st_mode & 0o7777 != metadata.mode || !owned && metadata.mode & 0o6000 != 0 {
        rustix::fs::fchmod(file, Mode::from_raw_mode(metadata.mode))
            .map_err(UnpackError::io("change the mode of", path))?;
    }
    let mut left_out = 0;
    for (name, value) in &metadata.xattrs {
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
    metadata: &Metadata,
) -> Result<u64> {
    let found = super::tree::stat(folder, name).map_err(UnpackError::io("look at", name))?;
    let as_wanted = (found.st_uid, found.st_gid) == (metadata.uid, metadata.gid)
        && (link || found.st_mode & 0o7777 == metadata.mode);
    if as_wanted && metadata.xattrs.is_empty() {
        return Ok(0);
    }
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
    for (attribute, value) in &metadata.xattrs {
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
    let mut list = [0_u8; 64 << 10];
    let bytes = match rustix::fs::flistxattr(file, &mut list[..]) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for name in list[..bytes].split(|byte| *byte == 0).filter(|name| !name.is_empty() && is_kept(name)) {
        if let Some(value) = attribute(file, name)? {
            found.push((name.to_vec(), value));
        }
    }
    Ok(found)
}

/// One attribute of an open file or folder, when it has it.
pub(crate) fn attribute(file: BorrowedFd<'_>, name: &[u8]) -> std::result::Result<Option<Vec<u8>>, Errno> {
    let mut value = vec![0_u8; 256];
    let mut got = rustix::fs::fgetxattr(file, name, &mut value[..]);
    if got == Err(Errno::RANGE) {
        // The kernel's own limit (xattr(7)).
        value.resize(64 << 10, 0);
        got = rustix::fs::fgetxattr(file, name, &mut value[..]);
    }
    match got {
        Ok(bytes) => {
            value.truncate(bytes);
            Ok(Some(value))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error),
    }
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
