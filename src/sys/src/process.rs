//! Processes: made by clone3(2), named by descriptors, signalled and waited for through them.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};

/// Of clone_args, where it needs more than the 32 bits that libc's constant has.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which of the two processes after [`clone`] this one is.
#[derive(Debug)]
pub enum Cloned {
    /// The new one.
    Child,
    /// The old one.
    Parent {
        /// The child's pid in our pid namespace.
        pid: i32,
        /// The child.
        pidfd: OwnedFd,
    },
}

/// How [`clone`] makes a process.
#[derive(Debug, Default)]
pub struct CloneOptions<'a> {
    /// `CLONE_NEW*` flags: the namespaces the child has of its own.
    pub namespaces: u64,
    /// The cgroup v2 folder that the child is born into (Linux 5.7).
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Makes a child process, a copy of this one, which must have a single thread. See clone(2).
pub fn clone(options: &CloneOptions<'_>) -> io::Result<Cloned> {
    assert_eq!(threads()?, 1, "a process is only copied while it has one thread");
    let mut pidfd: i32 = -1;
    // SAFETY: clone_args is plain data, for which all zeroes is a valid value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = options.namespaces | libc::CLONE_PIDFD as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = options.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: args is valid and of the given size, pidfd outlives the call, no stack is given so that the child goes on
    // with a copy of ours, and with one thread no lock can be held by a thread that the child does not have.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    match Errno::result(pid)? {
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: clone3 has just made this descriptor for us.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid: pid as i32, pidfd })
        }
    }
}

fn threads() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// Opens a descriptor of a process. See pidfd_open(2).
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer.
    let raw = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: pidfd_open has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(raw as i32) })
}

/// Sends a signal to the process that the descriptor names. See pidfd_send_signal(2).
pub fn pidfd_send_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    let raw = pidfd.as_fd().as_raw_fd();
    // SAFETY: a null siginfo is allowed and means what kill(2) would send.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, raw, signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Waits until a descriptor can be read: of a process, until it has ended.
pub fn wait_readable(fd: impl AsFd) -> io::Result<()> {
    poll(fd.as_fd(), None).map(drop)
}

/// Waits so long at most; whether the descriptor can be read.
pub fn wait_readable_for(fd: impl AsFd, limit: Duration) -> io::Result<bool> {
    poll(fd.as_fd(), Some(Instant::now() + limit))
}

fn poll(fd: BorrowedFd<'_>, deadline: Option<Instant>) -> io::Result<bool> {
    loop {
        let timeout = match deadline {
            None => PollTimeout::NONE,
            // Rounded up, so that the last wait does not end before the deadline and spin.
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
            }
        };
        match nix::poll::poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(0) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => return Ok(false),
            Ok(0) => {}
            Ok(_) => return Ok(true),
        }
    }
}

/// Makes the terminal on standard input the controlling terminal of the calling process, which must lead a session
/// without one. See TIOCSCTTY in ioctl_tty(2).
pub fn take_controlling_terminal() -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer.
    Errno::result(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) }).map(drop).map_err(io::Error::from)
}

/// The signals that arrive at a process are reset to their defaults, and none is blocked: what exec(2) does not do by itself.
pub fn reset_signals() -> io::Result<()> {
    for signal in 1..=64 {
        // KILL and STOP cannot be changed, and glibc keeps 32 and 33 to itself.
        if matches!(signal, libc::SIGKILL | libc::SIGSTOP | 32 | 33) {
            continue;
        }
        // SAFETY: SIG_DFL is a valid disposition for every one of these signals.
        if unsafe { libc::signal(signal, libc::SIG_DFL) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    nix::sys::signal::SigSet::empty().thread_set_mask()?;
    Ok(())
}
