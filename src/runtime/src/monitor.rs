//! Our side of a container's monitor: spawning it, and the conversation that brings a container up.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use container::StdioSocket;
use container::monitor::{ControlSocket, FromMonitor, MonitorSpec, StageReport, ToMonitor};

use crate::error::RuntimeError;
use crate::lifeline::LifeLine;
use crate::process::DEFAULT_PATH;

/// How long a monitor that has nothing left to do may take to exit.
const EXIT_LIMIT: Duration = Duration::from_secs(5);

/// A container that this process runs attached: its clean-up is ours.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) monitor: Monitor,
}

/// A monitor that we spawned.
#[derive(Debug)]
pub(crate) struct Monitor {
    id: String,
    control: ControlSocket,
    child: Child,
}

/// What the monitor says next, as far as the caller has to act.
#[derive(Debug)]
pub(crate) enum Progress {
    /// The network of this process's namespace is to be connected.
    Namespaces { pid: i32 },
    /// A stage is done.
    Stage(StageReport),
    /// The container's command runs.
    Started { pid: i32 },
}

impl Monitor {
    /// Spawns the monitor of a container; what it has to say of itself goes to the file `log`.
    pub(crate) fn spawn(shim: &Path, id: &str, log: &Path) -> Result<Self, RuntimeError> {
        let failed = |source| RuntimeError::Shim { path: shim.to_owned(), source };
        let (control, theirs) = ControlSocket::pair().map_err(failed)?;
        let log = fs::OpenOptions::new().append(true).create(true).open(log).map_err(failed)?;
        let child = shim_command(shim)?
            .arg("monitor")
            .stdin(theirs.into_fd())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(failed)?;
        Ok(Monitor { id: id.to_owned(), control, child })
    }

    /// Says what the container is to be. The lock goes with it, and the first client's socket if there is one.
    pub(crate) fn begin(
        &self,
        spec: MonitorSpec,
        line: &LifeLine,
        client: Option<StdioSocket>,
    ) -> Result<(), RuntimeError> {
        let mut fds = vec![line.as_fd()];
        fds.extend(client.as_ref().map(AsFd::as_fd));
        self.control
            .send(&ToMonitor::Begin(Box::new(spec)), &fds)
            .map_err(|source| self.error("give its task to", source))
    }

    /// The network is connected.
    pub(crate) fn go_on(&self) -> Result<(), RuntimeError> {
        self.control.send(&ToMonitor::Continue, &[]).map_err(|source| self.error("go on with", source))
    }

    /// Waits for what comes next.
    pub(crate) fn next(&self, log: &Path) -> Result<Progress, RuntimeError> {
        match self.control.receive().map_err(|source| self.error("hear from", source))? {
            Some((FromMonitor::Namespaces { pid }, _)) => Ok(Progress::Namespaces { pid }),
            Some((FromMonitor::Stage(report), _)) => Ok(Progress::Stage(report)),
            Some((FromMonitor::Started { pid }, _)) => Ok(Progress::Started { pid }),
            Some((FromMonitor::Failed(failed), _)) => Err(RuntimeError::FailedStart(failed)),
            None => Err(RuntimeError::MonitorGone { id: self.id.clone(), said: last_line(log) }),
        }
    }

    /// Lets the monitor end a container that is not to come up.
    pub(crate) fn give_up(self) -> Result<(), RuntimeError> {
        // In place of the word to go on, if it waits for that; its own end takes another.
        drop(self.control.send(&ToMonitor::Released, &[]));
        self.release()
    }

    /// Lets the monitor exit, nothing being left for it to do, and waits until it has.
    pub(crate) fn release(mut self) -> Result<(), RuntimeError> {
        // One that was killed cannot be told, and need not be.
        drop(self.control.send(&ToMonitor::Released, &[]));
        let mut waited = || -> io::Result<()> {
            let pidfd: OwnedFd = sys::process::pidfd_open(self.child.id().cast_signed())?;
            if !sys::process::wait_readable_for(&pidfd, EXIT_LIMIT)? {
                tracing::warn!(id = self.id, "the container's monitor does not exit; left alone");
                return Ok(());
            }
            self.child.wait().map(drop)
        };
        let id = self.id.clone();
        waited().map_err(|source| RuntimeError::Monitor { operation: "wait for", id, source })
    }

    fn error(&self, operation: &'static str, source: io::Error) -> RuntimeError {
        RuntimeError::Monitor { operation, id: self.id.clone(), source }
    }
}

/// The shim, to be run from a mount that cannot be written, so that what runs in the container cannot reach the
/// program's file through /proc/PID/exe (CVE-2019-5736). Of our environment it sees the search path alone.
pub(crate) fn shim_command(shim: &Path) -> Result<ShimCommand, RuntimeError> {
    let program =
        sys::exe::read_only(shim).map_err(|source| RuntimeError::Shim { path: shim.to_owned(), source })?;
    let mut command = Command::new(sys::exe::path_of(&program));
    let path = std::env::var_os("PATH");
    let default = DEFAULT_PATH.trim_start_matches("PATH=");
    // No working directory: with one, the standard library copies the whole process where it could share its memory
    // (vfork), and the shim leaves ours by itself.
    command.env_clear().env("PATH", path.unwrap_or_else(|| default.into()));
    Ok(ShimCommand { command, _program: program })
}

/// A [`Command`] whose program lives as long as it does.
pub(crate) struct ShimCommand {
    command: Command,
    _program: OwnedFd,
}

impl std::ops::Deref for ShimCommand {
    type Target = Command;

    fn deref(&self) -> &Command {
        &self.command
    }
}

impl std::ops::DerefMut for ShimCommand {
    fn deref_mut(&mut self) -> &mut Command {
        &mut self.command
    }
}

/// The last line that a monitor wrote, for an error of one line.
fn last_line(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().next_back().unwrap_or_default().trim().to_owned()
}
