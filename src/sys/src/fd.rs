//! Descriptors that arrive: by accept(2), by `SCM_RIGHTS`; and descriptors that must not be inherited.
#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{self, ControlMessageOwned, MsgFlags, UnixAddr};

/// The most descriptors that one message may carry.
const MAX_FDS: usize = 8;

/// Accepts a connection on a listening socket; the new descriptor is close-on-exec. See accept4(2).
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let raw = socket::accept4(listener.as_raw_fd(), socket::SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: accept4 has just made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// A short path to `name` in the folder that a descriptor is of: a Unix socket's address takes 107 bytes only (unix(7)).
/// Holds while the descriptor is open.
pub fn path_in(folder: impl AsFd, name: &OsStr) -> PathBuf {
    Path::new("/proc/self/fd").join(folder.as_fd().as_raw_fd().to_string()).join(name)
}

/// Receives one message and the descriptors beside it (close-on-exec); a length of 0 is the end of the stream.
/// A message that was cut because the buffer is too small is an error. See recvmsg(2), unix(7).
pub fn receive_with_fds(
    socket: BorrowedFd<'_>,
    buffers: &mut [IoSliceMut<'_>],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = cmsg_space!([i32; MAX_FDS]);
    let message = loop {
        match socket::recvmsg::<UnixAddr>(
            socket.as_raw_fd(),
            buffers,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        ) {
            // A reset is told once, before what had arrived already: that, or the end, comes next.
            Err(Errno::EINTR | Errno::ECONNRESET) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raws) = part {
            for raw in raws {
                // SAFETY: the kernel has just installed this descriptor for us; this is its only owner.
                fds.push(unsafe { OwnedFd::from_raw_fd(raw) });
            }
        }
    }
    if message.flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message larger than its buffer"));
    }
    Ok((message.bytes, fds))
}

/// Marks every descriptor from `first` on close-on-exec, whoever opened it. See close_range(2), Linux 5.11.
pub fn cloexec_from(first: u32) -> io::Result<()> {
    // SAFETY: close_range with CLOSE_RANGE_CLOEXEC takes no pointer and closes nothing.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Makes `target` (0, 1 or 2) refer to what `source` refers to, without close-on-exec. See dup2(2).
pub fn replace_stdio(source: impl AsFd, target: i32) -> io::Result<()> {
    assert!((0..=2).contains(&target), "only standard descriptors are replaced");
    // SAFETY: the source is open, and the target is a standard descriptor, which no OwnedFd of ours holds.
    let result = unsafe { libc::dup2(source.as_fd().as_raw_fd(), target) };
    if result == target && source.as_fd().as_raw_fd() == target {
        // SAFETY: takes no pointer; clears close-on-exec, which dup2 onto itself leaves.
        Errno::result(unsafe { libc::fcntl(target, libc::F_SETFD, 0) })?;
    }
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Takes the process's standard input as an owned descriptor, leaving /dev/null in its place.
pub fn take_stdin() -> io::Result<OwnedFd> {
    let taken = io::stdin().as_fd().try_clone_to_owned()?;
    replace_stdio(std::fs::File::open("/dev/null")?, 0)?;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Read, Write};

    use super::*;

    #[test]
    fn a_descriptor_crosses_a_socket() {
        let (one, other) = socket::socketpair(
            socket::AddressFamily::Unix,
            socket::SockType::SeqPacket,
            None,
            socket::SockFlag::SOCK_CLOEXEC,
        )
        .expect("a pair");
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let raw = [writer.as_raw_fd()];
        let rights = [socket::ControlMessage::ScmRights(&raw)];
        socket::sendmsg::<UnixAddr>(one.as_raw_fd(), &[IoSlice::new(b"x")], &rights, MsgFlags::empty(), None)
            .expect("sent");
        drop(writer);
        let mut buffer = [0; 8];
        let (length, mut fds) =
            receive_with_fds(other.as_fd(), &mut [IoSliceMut::new(&mut buffer)]).expect("received");
        assert_eq!((length, fds.len()), (1, 1));
        let mut file = std::fs::File::from(fds.remove(0));
        file.write_all(b"through").expect("written");
        drop(file);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        assert_eq!(text, "through");
    }
}
