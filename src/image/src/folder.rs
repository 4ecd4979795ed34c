//! Folders at paths of real folders below a root: opened by openat2(2), which follows no link and cannot leave the
//! root, so that only a handful of descriptors is open at a time, however deep the tree.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Bytes of a path that the kernel takes in one call (PATH_MAX without the null byte).
const PATH_BYTES: usize = 4095;

/// Whether the way to a folder may lead into another mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mounts {
    /// It may not: that fails with EXDEV.
    Refuse,
    /// It may.
    Cross,
}

/// Opens the folder at a path of real folders below a root; the root itself is "".
pub(crate) fn open_below(
    root: BorrowedFd<'_>,
    path: &[u8],
    mounts: Mounts,
) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    if mounts == Mounts::Refuse {
        resolve |= ResolveFlags::NO_XDEV;
    }
    let open = |at: BorrowedFd<'_>, part: &[u8]| loop {
        let part = if part.is_empty() { b"." } else { part };
        match rustix::fs::openat2(at, part, flags, Mode::empty(), resolve) {
            // A rename or mount raced with the walk; the kernel asks to walk again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    };
    let (mut part, mut rest) = head(path);
    let mut folder = open(root, part)?;
    while !rest.is_empty() {
        (part, rest) = head(rest);
        folder = open(folder.as_fd(), part)?;
    }
    Ok(folder)
}

/// As much of a path as the kernel takes at once, and the rest.
fn head(path: &[u8]) -> (&[u8], &[u8]) {
    if path.len() <= PATH_BYTES {
        return (path, b"");
    }
    // A name is at most 255 bytes long.
    let slash = path[..=PATH_BYTES].iter().rposition(|byte| *byte == b'/').unwrap_or(PATH_BYTES);
    (&path[..slash], &path[slash + 1..])
}

/// A path's folder and last name.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// The path of a name in a folder.
pub(crate) fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}
