//! Starting a process that runs stages: cloned from here, followed until it has become its command.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use container::monitor::{ControlSocket, StageReport};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use sys::process::{CloneOptions, Cloned};

use crate::failure::{During, Failure};
use crate::stages::{FromChild, NetworkReady};

/// What a process gets as standard input, output and error. Never what its parent has.
#[derive(Debug)]
pub enum Stdio {
    /// A terminal.
    Terminal(OwnedFd),
    /// One descriptor each.
    Pipes {
        /// Its standard input.
        stdin: OwnedFd,
        /// Its standard output.
        stdout: OwnedFd,
        /// Its standard error.
        stderr: OwnedFd,
    },
}

impl Stdio {
    /// /dev/null for all three.
    pub fn null() -> Result<Self, Failure> {
        let null: OwnedFd =
            File::options().read(true).write(true).open("/dev/null").during("open /dev/null")?.into();
        let copy = || null.try_clone().during("copy a descriptor");
        Ok(Stdio::Pipes { stdin: copy()?, stdout: copy()?, stderr: copy()? })
    }
}

/// A process on its way to become a command.
#[derive(Debug)]
pub struct Starting {
    /// Its pid in our pid namespace.
    pub pid: i32,
    /// The process.
    pub pidfd: OwnedFd,
    channel: ControlSocket,
}

/// What [`Starting::finish`] comes back with.
#[derive(Debug)]
pub struct Started {
    /// Its pid in our pid namespace.
    pub pid: i32,
    /// The process.
    pub pidfd: OwnedFd,
    /// The master of its terminal.
    pub terminal: Option<OwnedFd>,
}

impl Starting {
    /// Clones a process that runs `stages`, which gets its end of a channel to us.
    pub fn clone(
        options: &CloneOptions<'_>,
        stages: impl FnOnce(&ControlSocket) -> Result<Infallible, Failure>,
    ) -> Result<Self, Failure> {
        let (ours, childs) = ControlSocket::pair().during("make a channel to the first process")?;
        match sys::process::clone(options).during("clone the first process")? {
            Cloned::Parent { pid, pidfd } => Ok(Starting { pid, pidfd, channel: ours }),
            Cloned::Child => {
                drop(ours);
                let Err(failure) = stages(&childs);
                let failed = failure.into_failed_start();
                let code = failed.exit_code;
                // When even this cannot be sent, the monitor is gone, and nobody is left to tell.
                drop(childs.send(&FromChild::Failed(failed), &[]));
                std::process::exit(code);
            }
        }
    }

    /// Waits for `go_on`, which becomes readable when the process may go on, while watching that it lives.
    pub fn wait_for(&self, go_on: impl AsFd) -> Result<(), Failure> {
        loop {
            let mut fds = [
                PollFd::new(go_on.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                other => other.during("wait for the network")?,
            };
            if fds[0].any() == Some(true) || fds[1].any() == Some(true) {
                return Ok(());
            }
        }
    }

    /// Tells the process that the network is connected.
    pub fn go_on(&self) -> Result<(), Failure> {
        match self.channel.send(&NetworkReady, &[]) {
            // It has ended; why, its last message says.
            Err(error) if error.raw_os_error() == Some(Errno::EPIPE as i32) => Ok(()),
            other => other.during("tell the first process to go on"),
        }
    }

    /// Kills and reaps the process.
    pub fn abandon(self) {
        // It can only have ended already, which is what is wanted.
        drop(sys::process::pidfd_send_signal(&self.pidfd, libc::SIGKILL));
        drop(reap(&self.pidfd));
    }

    /// Follows the process until it has become its command; `report` hears of each stage.
    pub fn finish(self, mut report: impl FnMut(StageReport)) -> Result<Started, Failure> {
        let mut terminal = None;
        let mut executing = false;
        loop {
            match self.channel.receive::<FromChild>() {
                Ok(Some((FromChild::Stage(stage), _))) => report(stage),
                Ok(Some((FromChild::Terminal, mut fds))) => terminal = fds.pop(),
                Ok(Some((FromChild::Executing, _))) => executing = true,
                Ok(Some((FromChild::Failed(failed), _))) => {
                    reap(&self.pidfd).during("reap the first process")?;
                    return Err(Failure::with_code(failed.exit_code, failed.message));
                }
                Ok(None) if executing => return Ok(Started { pid: self.pid, pidfd: self.pidfd, terminal }),
                Ok(None) => {
                    let status = reap(&self.pidfd).during("reap the first process")?;
                    return Err(Failure::new(format!(
                        "the container's first process ended before its command was run ({}); a memory or pids limit may be \
                         too small for it to start",
                        describe(status)
                    )));
                }
                Err(error) => {
                    self.abandon();
                    return Err(error).during("hear from the first process");
                }
            }
        }
    }
}

/// Has reads and writes of a descriptor fail rather than wait.
pub fn set_nonblocking(fd: &OwnedFd) -> Result<(), Failure> {
    let flags = fcntl(fd, FcntlArg::F_GETFL).during("look at a pipe")?;
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
    fcntl(fd, FcntlArg::F_SETFL(flags)).during("set a pipe non-blocking")?;
    Ok(())
}

/// Waits for a child to end, and takes its status.
pub fn reap(pidfd: &OwnedFd) -> io::Result<WaitStatus> {
    loop {
        match waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED) {
            Err(Errno::EINTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

/// The exit code that a shell would give a status, and the signal if it was one.
pub fn exit_code(status: WaitStatus) -> (i32, Option<i32>) {
    match status {
        WaitStatus::Exited(_, code) => (code, None),
        WaitStatus::Signaled(_, signal, _) => (128 + signal as i32, Some(signal as i32)),
        // WEXITED reports nothing else.
        _ => (255, None),
    }
}

fn describe(status: WaitStatus) -> String {
    match status {
        WaitStatus::Signaled(_, signal, _) => format!("killed by {signal}"),
        other => format!("exit code {}", exit_code(other).0),
    }
}
