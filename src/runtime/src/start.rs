//! `run`: a new container brought up, in the order that lets whoever is killed on the way be cleaned up after.
//!
//! bundle and life-line, monitor (which shares the life-line from its first message), network, command. Whatever
//! fails, nothing is left: not the container either.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use api::trace::Tracer;
use container::StdioSocket;
use container::monitor::{MonitorSpec, RootfsSpec, StageReport};
use container::state::ProcessRecord;
use image::Image;
use network::AttachSpec;

use crate::create::{Created, Purpose};
use crate::error::{FileContext, RuntimeError};
use crate::init_layer;
use crate::lifeline::LifeLine;
use crate::monitor::{Held, Monitor, Progress};
use crate::options::{ContainerOptions, NetworkMode};
use crate::record::{self, Record};
use crate::runtime::Runtime;

/// A container whose command runs.
#[derive(Debug)]
pub struct RunningContainer {
    /// Its id.
    pub id: String,
    /// The pid of its first process, in our pid namespace.
    pub pid: i32,
    /// Its stdio, when it was run attached.
    pub stdio: Option<StdioSocket>,
}

impl Runtime {
    /// Makes a container and starts it. Attached, the caller gets its stdio and calls [`Runtime::cleanup`] when it
    /// has ended; detached (or when this process ends before that), its monitor sees to that.
    ///
    /// # Errors
    /// What [`Runtime::create`] refuses; what the network refuses; [`RuntimeError::FailedStart`] when the shim could
    /// not bring it up. Nothing is left then.
    pub fn run(
        &self,
        options: ContainerOptions,
        image: &Image,
        attached: bool,
    ) -> Result<RunningContainer, RuntimeError> {
        let run = || {
            self.reap()?;
            let created = self.create_held(options, image, Purpose::Start)?;
            self.start(created, attached)
        };
        run().map_err(RuntimeError::at_start)
    }

    fn start(&self, created: Created, attached: bool) -> Result<RunningContainer, RuntimeError> {
        let Created { record, line } = created;
        let id = record.id.clone();
        let tracer = self.tracer(&id);
        let mut step = tracer.step("runtime", "container.start");
        let spawned = self.spawn_monitor(&record, &tracer);
        let monitor = match spawned {
            Ok(monitor) => monitor,
            Err(error) => {
                drop(step);
                self.give_up(None, line, &id);
                return Err(error);
            }
        };
        match self.bring_up(&monitor, &record, &line, attached, &tracer) {
            Ok((pid, stdio)) => {
                step.fact("pid", pid);
                if attached {
                    // The life-line is the monitor's alone now: one of us that is stopped keeps nobody from cleaning up.
                    drop(line);
                    self.held().insert(id.clone(), Held { monitor });
                }
                Ok(RunningContainer { id, pid, stdio })
            }
            Err(error) => {
                drop(step);
                self.give_up(Some(monitor), line, &id);
                Err(error)
            }
        }
    }

    fn spawn_monitor(&self, record: &Record, tracer: &Tracer) -> Result<Monitor, RuntimeError> {
        let bundle = self.layout.bundle(&record.id);
        let _step = tracer.step("runtime", "monitor.spawn");
        Monitor::spawn(&self.config.shim, &record.id, &bundle.monitor_log())
    }

    /// Talks the monitor through the start.
    fn bring_up(
        &self,
        monitor: &Monitor,
        record: &Record,
        line: &LifeLine,
        attached: bool,
        tracer: &Tracer,
    ) -> Result<(i32, Option<StdioSocket>), RuntimeError> {
        let pair = || {
            StdioSocket::pair().map_err(|source| RuntimeError::Monitor {
                operation: "connect to",
                id: record.id.clone(),
                source,
            })
        };
        let (ours, theirs) =
            if attached { pair().map(|(one, other)| (Some(one), Some(other)))? } else { (None, None) };
        monitor.begin(self.monitor_spec(record, line.run_dir())?, line, theirs)?;
        let log = self.layout.bundle(&record.id).monitor_log();
        loop {
            match monitor.next(&log)? {
                Progress::Namespaces { pid } => match self.connect(record, pid, tracer) {
                    Ok(()) => monitor.go_on()?,
                    Err(error) if has_ended(pid) => return Err(cause(monitor, &log).unwrap_or(error)),
                    Err(error) => return Err(error),
                },
                Progress::Stage(report) => trace_stage(tracer, report),
                Progress::Started { pid } => return Ok((pid, ours)),
            }
        }
    }

    fn monitor_spec(&self, record: &Record, run_dir: &Path) -> Result<MonitorSpec, RuntimeError> {
        let bundle = self.layout.bundle(&record.id);
        let word = |word: &std::ffi::OsString| {
            word.to_str().map(str::to_owned).ok_or_else(|| {
                RuntimeError::option("clean-up command", format!("{} is not UTF-8", word.display()))
            })
        };
        Ok(MonitorSpec {
            id: record.id.clone(),
            bundle: bundle.path().to_owned(),
            run_dir: run_dir.to_owned(),
            rootfs: record.rootfs.clone(),
            log_path: bundle.log(),
            exit_path: bundle.exit(),
            sync_exit: !record.options.remove,
            stdin: record.options.interactive,
            cleanup_command: self.config.cleanup_command.iter().map(word).collect::<Result<_, _>>()?,
            wait_for_network: record.options.network == NetworkMode::Bridge,
        })
    }

    /// Connects the network namespace of the waiting process `pid`.
    fn connect(&self, record: &Record, pid: i32, tracer: &Tracer) -> Result<(), RuntimeError> {
        let id = &record.id;
        let mut step = tracer.step("runtime", "network.attach");
        let path = format!("/proc/{pid}/ns/net");
        let netns = File::open(&path).file("open", Path::new(&path))?;
        // From here on clean-up looks at the network.
        let mark = self.layout.network_mark(id);
        File::create(&mark).file("create", &mark)?;
        let ports = record.options.ports.clone();
        let attachment = self.network()?.attach(id, netns.as_fd(), &AttachSpec { ports })?;
        step.fact("ip", attachment.ip).fact("interface", &attachment.host_interface);
        record::write(&self.layout.network_record(id), &attachment, false)?;
        let bundle = self.layout.bundle(id);
        let tree = match &record.rootfs {
            RootfsSpec::Overlay { .. } => bundle.init_layer(),
            // The init layer is copied already.
            RootfsSpec::Ready => bundle.rootfs(),
        };
        init_layer::write_address(&tree, attachment.ip, &record.hostname)
    }

    /// Undoes a start that failed. The first error is the one to tell, so those met here are only logged; what
    /// they leave, the next [`Runtime::reap`] finds.
    fn give_up(&self, monitor: Option<Monitor>, line: LifeLine, id: &str) {
        let undo = || {
            // Before the bundle goes, since the monitor writes to it.
            let told = monitor.map_or(Ok(()), Monitor::give_up);
            self.discard(line, id).and(told)
        };
        if let Err(error) = undo() {
            tracing::warn!(id, %error, "failed to undo a failed start");
        }
    }
}

/// Whether the process, which nobody has reaped yet, has ended.
fn has_ended(pid: i32) -> bool {
    // That it cannot be inspected says nothing of why the network could not be connected.
    match ProcessRecord::of(pid) {
        Ok(process) => matches!(process.open(), Ok(None)),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Why a process that ended while its network was connected did so, if the monitor knows: that comes before whatever its
/// end kept the network from.
fn cause(monitor: &Monitor, log: &Path) -> Option<RuntimeError> {
    // Nothing can go on any more, but the monitor looks at the process only when it may.
    monitor.go_on().ok()?;
    loop {
        match monitor.next(log) {
            Ok(Progress::Stage(_)) => {}
            Err(failed @ RuntimeError::FailedStart(_)) => return Some(failed),
            Ok(_) | Err(_) => return None,
        }
    }
}

fn trace_stage(tracer: &Tracer, report: StageReport) {
    let began = UNIX_EPOCH + Duration::from_nanos(report.began_ns);
    tracer.record("shim", &report.step, began, Duration::from_nanos(report.took_ns), report.facts);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_ended_before_it_is_reaped_and_after() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id().cast_signed();
        assert!(!has_ended(pid));
        let pidfd = sys::process::pidfd_open(pid).unwrap();
        child.kill().unwrap();
        sys::process::wait_readable(&pidfd).unwrap();
        assert!(has_ended(pid), "a zombie");
        child.wait().unwrap();
        assert!(has_ended(pid));
    }
}
