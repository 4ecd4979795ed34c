//! Waiting for a log to grow (inotify(7)), until something else says that it will not.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

/// Watches one log.
#[derive(Debug)]
pub(crate) struct Follower {
    changes: Inotify,
    ended: OwnedFd,
}

impl Follower {
    /// Watches `log` from now on; `ended` becomes readable (or is closed at its other end) once nothing more
    /// will be written.
    pub(crate) fn new(log: &Path, ended: OwnedFd) -> io::Result<Self> {
        let changes = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        changes.add_watch(log, AddWatchFlags::IN_MODIFY)?;
        Ok(Follower { changes, ended })
    }

    /// Waits until the log may have grown: true; or until it has reached its end: false, and then what was
    /// written before is to be read once more.
    pub(crate) fn wait(&mut self) -> io::Result<bool> {
        let mut polled = [
            PollFd::new(self.changes.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.ended.as_fd(), PollFlags::POLLIN),
        ];
        loop {
            match poll(&mut polled, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(_) => break,
            }
        }
        if polled[1].any().unwrap_or(true) {
            return Ok(false);
        }
        match self.changes.read_events() {
            Ok(_) | Err(Errno::EAGAIN) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn growth_and_the_end_are_told() {
        let mut log = tempfile::NamedTempFile::new().expect("a file");
        let (ended, ends) = nix::unistd::pipe().expect("a pipe");
        let mut follower = Follower::new(log.path(), ended).expect("watched");
        log.write_all(b"x").expect("written");
        assert!(follower.wait().expect("waited"));
        drop(ends);
        assert!(!follower.wait().expect("waited"));
    }
}
