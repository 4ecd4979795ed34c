//! Pseudoterminals of a given devpts file system: the container's own.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// Unlocks the terminal whose master this is, and opens its other end, without a path that could be exchanged. See
/// TIOCSPTLCK and TIOCGPTPEER in ioctl_tty(2).
pub fn open_peer(master: impl AsFd) -> io::Result<OwnedFd> {
    let master = master.as_fd().as_raw_fd();
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads an int, which outlives the call.
    Errno::result(unsafe { libc::ioctl(master, libc::TIOCSPTLCK, &raw const unlocked) })?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes an integer and makes a new descriptor.
    let raw = Errno::result(unsafe { libc::ioctl(master, libc::TIOCGPTPEER, flags) })?;
    // SAFETY: the call has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
