//! `stop`, `kill`, `wait`: a container's first process signalled, and its end awaited.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use container::cgroup::Cgroup;
use container::state::ProcessRecord;
use container::stdio::FRAME_BYTES;
use container::{Frame, StdioSocket};
use nix::errno::Errno;
use nix::sys::socket::MsgFlags;

use crate::cleanup::Fate;
use crate::error::{FileContext, RuntimeError};
use crate::record::Record;
use crate::runtime::Runtime;
use crate::view::{ContainerState, ContainerView};
use crate::{oci, signal};

/// How long a process may take to be gone after SIGKILL: one that hangs in the kernel stays.
const KILL_LIMIT: Duration = Duration::from_secs(10);

impl Runtime {
    /// Asks the container's first process to end by its stop signal, and kills it when it has not after `grace`.
    /// Returns when the container is cleaned up; that it does not run is fine.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`], [`RuntimeError::Unkillable`], and what clean-up meets.
    pub fn stop(&self, name_or_id: &str, grace: Duration) -> Result<(), RuntimeError> {
        self.reap()?;
        let view = self.find(name_or_id)?;
        let Some((process, pidfd)) = self.living(&view)? else { return Ok(()) };
        let stop_signal =
            Record::read(&self.layout.bundle(&view.id))?.map_or(signal::TERM, |r| r.stop_signal);
        let tracer = self.tracer(&view.id);
        let mut step = tracer.step("runtime", "container.stop");
        step.fact("signal", stop_signal);
        send(&view.name, &process, &pidfd, stop_signal)?;
        let ended = sys::process::wait_readable_for(&pidfd, grace);
        if !ended.map_err(|source| process_error("wait for", &process, &view.name, source))? {
            step.fact("killed", true);
            self.end(&view, &process, &pidfd)?;
        }
        drop(step);
        self.hurry(&view.id)?;
        self.finish(&view.id, Fate::AsRecorded)
    }

    /// Sends a signal to the container's first process.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`], [`RuntimeError::NotRunning`].
    pub fn kill(&self, name_or_id: &str, signal: i32) -> Result<(), RuntimeError> {
        let view = self.find(name_or_id)?;
        match self.living(&view)? {
            Some((process, pidfd)) => send(&view.name, &process, &pidfd, signal),
            None => Err(RuntimeError::NotRunning { name: view.name }),
        }
    }

    /// Waits until the container has ended; returns its exit code. One that was never started has 0, as docker has
    /// it.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`], also when it was removed before anybody could see how it ended.
    pub fn wait(&self, name_or_id: &str) -> Result<i32, RuntimeError> {
        let view = self.find(name_or_id)?;
        match view.state {
            ContainerState::Created => return Ok(0),
            ContainerState::Exited(exit) => return Ok(exit.exit_code),
            ContainerState::Running { .. } => {}
        }
        if let Some(code) = self.exit_from_monitor(&view)? {
            return Ok(code);
        }
        // The monitor is gone or going: when its life-line is free, how the container ended is on disk.
        self.finish(&view.id, Fate::AsRecorded)?;
        match self.find(&view.id)?.state {
            ContainerState::Exited(exit) => Ok(exit.exit_code),
            ContainerState::Created | ContainerState::Running { .. } => {
                Err(RuntimeError::NotFound { name: name_or_id.to_owned() })
            }
        }
    }

    /// The exit code as the monitor tells its clients; `None` when it does not answer.
    fn exit_from_monitor(&self, view: &ContainerView) -> Result<Option<i32>, RuntimeError> {
        let Some(socket) = self.connect_monitor(&view.id)? else { return Ok(None) };
        let mut buffer = vec![0; FRAME_BYTES + 1];
        loop {
            match socket.receive(&mut buffer, MsgFlags::empty()) {
                Ok(Some(Frame::Exited(exit))) => return Ok(Some(exit.exit_code)),
                Ok(Some(Frame::Failed(failed))) => return Ok(Some(failed.exit_code)),
                Ok(Some(_)) => {}
                Ok(None) => return Ok(None),
                Err(source) => {
                    let id = view.id.clone();
                    return Err(RuntimeError::Monitor { operation: "hear from", id, source });
                }
            }
        }
    }

    /// Tells the monitor of a container that has ended not to wait for clients that do not read.
    pub(crate) fn hurry(&self, id: &str) -> Result<(), RuntimeError> {
        if let Some(socket) = self.connect_monitor(id)? {
            // One that has gone meanwhile waits for nobody.
            drop(socket.send(&Frame::Finish, MsgFlags::empty()));
        }
        Ok(())
    }

    /// Connects to a container's monitor; `None` when there is none.
    pub(crate) fn connect_monitor(&self, id: &str) -> Result<Option<StdioSocket>, RuntimeError> {
        let run_dir = self.layout.run_dir(id);
        let gone = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
        };
        match StdioSocket::connect(&run_dir.join("attach.sock")) {
            Err(error) if gone(&error) => Ok(None),
            Err(source) => Err(RuntimeError::Monitor { operation: "connect to", id: id.to_owned(), source }),
            Ok(socket) => Ok(Some(socket)),
        }
    }

    /// The container's first process, if it lives.
    pub(crate) fn living(
        &self,
        view: &ContainerView,
    ) -> Result<Option<(ProcessRecord, OwnedFd)>, RuntimeError> {
        let run_dir = self.layout.run_dir(&view.id);
        let record = ProcessRecord::read(&run_dir).file("read the process record in", &run_dir)?;
        let Some(process) = record else { return Ok(None) };
        let pidfd = process.open().file("inspect the process recorded in", &run_dir)?;
        Ok(pidfd.map(|pidfd| (process, pidfd)))
    }

    /// Kills the container's first process if it lives and waits until it has gone.
    pub(crate) fn end_process(&self, view: &ContainerView) -> Result<(), RuntimeError> {
        match self.living(view)? {
            Some((process, pidfd)) => self.end(view, &process, &pidfd),
            None => Ok(()),
        }
    }

    fn end(
        &self,
        view: &ContainerView,
        process: &ProcessRecord,
        pidfd: &OwnedFd,
    ) -> Result<(), RuntimeError> {
        send(&view.name, process, pidfd, signal::KILL)?;
        // On cgroup v1 a frozen process does not even die.
        Cgroup::at(&oci::cgroup_path(&self.config.cgroup_parent, &view.id))?.thaw()?;
        let ended = sys::process::wait_readable_for(pidfd, KILL_LIMIT);
        if ended.map_err(|source| process_error("wait for", process, &view.name, source))? {
            return Ok(());
        }
        let (name, seconds) = (view.name.clone(), KILL_LIMIT.as_secs());
        Err(RuntimeError::Unkillable { name, pid: process.pid, seconds })
    }
}

fn send(name: &str, process: &ProcessRecord, pidfd: &OwnedFd, signal: i32) -> Result<(), RuntimeError> {
    match sys::process::pidfd_send_signal(pidfd, signal) {
        // It ended meanwhile.
        Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => Ok(()),
        other => other.map_err(|source| process_error("signal", process, name, source)),
    }
}

fn process_error(
    operation: &'static str,
    process: &ProcessRecord,
    name: &str,
    source: io::Error,
) -> RuntimeError {
    RuntimeError::Process { operation, pid: process.pid, name: name.to_owned(), source }
}
