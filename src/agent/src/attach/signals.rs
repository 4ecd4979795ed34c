//! Signals as something to read: blocked, and taken from a signalfd(2) in the pump's poll.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What is passed on to a container. Not in it: what tells of our own faults or children, the stop signals
/// (ctrl-z stops us, as it would any command) and `SIGPIPE`.
pub(crate) const FORWARDED: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
];

/// The forwarded signals and `SIGWINCH`, blocked and queued for reading until this is dropped. The mask is the
/// thread's: take it on the main thread, before others are started.
#[derive(Debug)]
pub(crate) struct Signals {
    queue: SignalFd,
    before: SigSet,
}

impl Signals {
    /// Blocks the signals and begins to queue them.
    pub(crate) fn queue() -> io::Result<Self> {
        let mut set: SigSet = FORWARDED.into_iter().collect();
        set.add(Signal::SIGWINCH);
        let before = SigSet::thread_get_mask()?;
        set.thread_block()?;
        let queue = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Signals { queue, before })
    }

    /// The next signal that has come.
    pub(crate) fn next(&self) -> io::Result<Option<Signal>> {
        let Some(info) = self.queue.read_signal()? else { return Ok(None) };
        let number = i32::try_from(info.ssi_signo).map_err(io::Error::other)?;
        Ok(Some(Signal::try_from(number)?))
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // A signal still queued takes its ordinary effect now, which is what its sender wants.
        let restored = self.before.thread_set_mask();
        debug_assert!(restored.is_ok(), "the mask came from the kernel");
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{SigmaskHow, pthread_sigmask};

    #[test]
    fn a_signal_is_read_instead_of_taking_effect() {
        let signals = Signals::queue().expect("queued");
        assert_eq!(signals.next().expect("readable"), None);
        // To this thread alone: other threads of the test process do not block it.
        nix::sys::pthread::pthread_kill(nix::sys::pthread::pthread_self(), Signal::SIGUSR1).expect("sent");
        assert_eq!(signals.next().expect("readable"), Some(Signal::SIGUSR1));
        drop(signals);
        let mut mask = SigSet::empty();
        pthread_sigmask(SigmaskHow::SIG_BLOCK, None, Some(&mut mask)).expect("readable");
        assert!(!mask.contains(Signal::SIGUSR1));
    }
}
