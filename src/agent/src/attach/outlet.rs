//! One of our output streams, written to only when poll(2) says that this will not block.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::write;

/// What a pipe that poll(2) calls writable takes without blocking (pipe(7): `PIPE_BUF`).
const PIPE_BUF: usize = 4096;

/// A stream and what is still to be written to it. The stream stays in blocking mode, because it is shared
/// with whoever started us; so at most [`PIPE_BUF`] bytes are written at a time, except to regular files.
#[derive(Debug)]
pub(super) struct Outlet<'a> {
    stream: BorrowedFd<'a>,
    pending: Vec<u8>,
    written: usize,
    at_once: usize,
}

impl<'a> Outlet<'a> {
    /// An outlet with nothing to write.
    pub(super) fn new(stream: BorrowedFd<'a>) -> Self {
        let file = |stat: nix::sys::stat::FileStat| {
            SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG
        };
        let at_once = if fstat(stream).is_ok_and(file) { usize::MAX } else { PIPE_BUF };
        Outlet { stream, pending: Vec::new(), written: 0, at_once }
    }

    /// Adds to what is to be written.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Whether there is something to write.
    pub(super) fn is_pending(&self) -> bool {
        self.written < self.pending.len()
    }

    /// Writes once, after poll(2) found the stream writable (or broken, which the error then tells).
    pub(super) fn write_some(&mut self) -> io::Result<()> {
        let rest = &self.pending[self.written..];
        match write(self.stream, &rest[..rest.len().min(self.at_once)]) {
            Ok(count) => self.written += count,
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
        if !self.is_pending() {
            self.pending.clear();
            self.written = 0;
        }
        Ok(())
    }
}

impl AsFd for Outlet<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream
    }
}
