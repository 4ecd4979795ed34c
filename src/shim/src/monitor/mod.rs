//! `shim monitor`: one a container. It starts the container's first process and stays beside it: keeps its output,
//! serves its clients, and records how it ended. See `container::monitor` for what it hears and says.

mod clients;
mod log;
mod serve;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use container::cgroup::Cgroup;
use container::monitor::{ControlSocket, FromMonitor, MonitorSpec, ToMonitor};
use container::plan::Plan;
use container::state::ProcessRecord;
use container::{ExitRecord, Frame, StdioListener, StdioSocket};
use nix::sys::socket::MsgFlags;
use sys::process::CloneOptions;

use crate::failure::{During, Failure};
use crate::stages;
use crate::start::{Started, Starting, Stdio};
use serve::Streams;

/// The verb.
pub fn main() -> ExitCode {
    let control = match sys::fd::take_stdin() {
        Ok(fd) => ControlSocket::from_fd(fd),
        Err(error) => {
            eprintln!("shim: failed to take the control socket: {error}");
            return ExitCode::from(125);
        }
    };
    let (spec, mut fds) = match control.receive() {
        Ok(Some((ToMonitor::Begin(spec), fds))) if !fds.is_empty() => (spec, fds),
        Ok(_) => {
            eprintln!("shim: the first message on the control socket is not Begin with a lock");
            return ExitCode::from(125);
        }
        Err(error) => {
            eprintln!("shim: failed to read the control socket on standard input: {error}");
            return ExitCode::from(125);
        }
    };
    // Held open, and so held locked, until the container has ended and its clients know.
    let lock = fds.remove(0);
    let client = fds.pop().map(StdioSocket::from_fd);
    let monitor = Monitor { spec, control };
    let result = monitor.run(client);
    // From here on whoever cleans up may: the parent, the command that we become, or somebody else.
    drop(lock);
    monitor.hand_over(result)
}

struct Monitor {
    spec: Box<MonitorSpec>,
    control: ControlSocket,
}

impl Monitor {
    /// From the first message to the end of the container.
    fn run(&self, client: Option<StdioSocket>) -> Result<(), Failure> {
        match self.start() {
            Ok((cgroup, listener, streams, started)) => {
                let record = ProcessRecord::of(started.pid).during("describe the first process")?;
                record.write(&self.spec.run_dir).during("record the first process")?;
                let log = log::Log::open(&self.spec.log_path).during("open the container's log")?;
                self.tell(&FromMonitor::Started { pid: started.pid });
                let mut serving = serve::Serving::new(listener, streams, log, client, started.pid)?;
                let status = serving.until_end(&started.pidfd, &cgroup)?;
                let exit = self.end(&cgroup, record, status)?;
                serving.finish(&exit)
            }
            Err(failure) => {
                let failed = failure.into_failed_start();
                if let Some(client) = client {
                    // A client that has gone needs no answer.
                    drop(client.send(&Frame::Failed(failed.clone()), MsgFlags::MSG_DONTWAIT));
                }
                self.tell(&FromMonitor::Failed(failed));
                Ok(())
            }
        }
    }

    /// Makes the cgroup and starts the first process. What was made is undone when it fails.
    fn start(&self) -> Result<(Cgroup, StdioListener, Streams, Started), Failure> {
        let spec = &self.spec;
        // A session of its own, so that what happens to the terminal of the parent is nothing to us.
        nix::unistd::setsid().during("begin a session")?;
        nix::unistd::chdir("/").during("leave the working directory")?;
        let plan = Plan::load(&spec.bundle).during("prepare the container")?;
        let cgroup = Cgroup::at(&plan.cgroup).during("name the container's cgroup")?;
        let began = (std::time::SystemTime::now(), std::time::Instant::now());
        cgroup.create(plan.resources.as_ref()).during("create the container's cgroup")?;
        self.stage("cgroup.create", began, &cgroup);
        let listener = StdioListener::bind(&spec.run_dir.join("attach.sock")).during("listen for clients");
        let started = listener.and_then(|listener| {
            let (streams, stdio) = streams(&plan, spec.stdin)?;
            self.start_in(&plan, &cgroup, stdio).map(|started| (listener, streams, started))
        });
        match started {
            Ok((listener, mut streams, mut started)) => {
                if let Some(terminal) = started.terminal.take() {
                    streams = Streams::terminal(terminal)?;
                }
                Ok((cgroup, listener, streams, started))
            }
            Err(failure) => {
                cgroup.remove().during("remove the cgroup of a container that did not start")?;
                Err(failure)
            }
        }
    }

    fn start_in(&self, plan: &Plan, cgroup: &Cgroup, stdio: Stdio) -> Result<Started, Failure> {
        let spec = &self.spec;
        let birth = cgroup.birth_folder().during("open the container's cgroup")?;
        let options = CloneOptions {
            namespaces: plan.namespaces & !(libc::CLONE_NEWCGROUP as u64),
            cgroup: birth.as_ref().map(AsFd::as_fd),
        };
        let starting = Starting::clone(&options, |channel| {
            stages::run(plan, &spec.rootfs, cgroup, spec.wait_for_network, stdio, channel)
        })?;
        if spec.wait_for_network {
            self.tell(&FromMonitor::Namespaces { pid: starting.pid });
            starting.wait_for(&self.control)?;
            match self.control.receive() {
                Ok(Some((ToMonitor::Continue, _))) => starting.go_on()?,
                _ => {
                    starting.abandon();
                    return Err(Failure::new("the parent ended before the network was connected"));
                }
            }
        }
        starting.finish(|stage| self.tell(&FromMonitor::Stage(stage)))
    }

    /// The container has ended: its exit record is written before anybody is told, and its cgroup goes.
    fn end(
        &self,
        cgroup: &Cgroup,
        started: ProcessRecord,
        status: nix::sys::wait::WaitStatus,
    ) -> Result<ExitRecord, Failure> {
        let (exit_code, signal) = crate::start::exit_code(status);
        let mut error = None;
        let oom_killed = match cgroup.oom_kills() {
            Ok(kills) => kills > 0,
            Err(failed) => {
                error = Some(format!("{failed}"));
                false
            }
        };
        let mut record = ExitRecord {
            exit_code,
            signal,
            oom_killed,
            started_at: started.started_at,
            finished_at: jiff::Timestamp::now(),
            error,
        };
        // Neither may keep the container's clients from hearing of its end, nor the other from being done.
        let recorded = record
            .write(&self.spec.exit_path, self.spec.sync_exit)
            .during(format_args!("record the container's end at {}", self.spec.exit_path.display()));
        let removed = cgroup.remove().during("remove the container's cgroup");
        for failure in [recorded.err(), removed.err()].into_iter().flatten() {
            let message = failure.into_failed_start().message;
            eprintln!("shim: {message}");
            record.error.get_or_insert(message);
        }
        Ok(record)
    }

    /// Tells the parent, if it is still there: a container goes on without it.
    fn tell(&self, message: &FromMonitor) {
        drop(self.control.send(message, &[]));
    }

    fn stage(&self, step: &str, began: (std::time::SystemTime, std::time::Instant), cgroup: &Cgroup) {
        let mut report = stages::report(step, began);
        report.facts.insert("path".to_owned(), cgroup.path().to_owned());
        report.facts.insert("version".to_owned(), cgroup.version().to_owned());
        self.tell(&FromMonitor::Stage(report));
    }

    /// The last act: exits when the parent cleans up, else becomes the clean-up command.
    fn hand_over(self, result: Result<(), Failure>) -> ExitCode {
        let code = match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                let failed = failure.into_failed_start();
                eprintln!("shim: {}", failed.message);
                self.tell(&FromMonitor::Failed(failed));
                ExitCode::from(125)
            }
        };
        if let Ok(Some((ToMonitor::Released, _))) = self.control.receive() {
            return code;
        }
        let Some((program, args)) = self.spec.cleanup_command.split_first() else { return code };
        use std::os::unix::process::CommandExt;
        let error = std::process::Command::new(program).args(args).arg(&self.spec.id).exec();
        // What is left then, the next command of ours finds: the run folder is there and nobody holds its lock.
        eprintln!("shim: failed to run {program} to clean up after container {}: {error}", self.spec.id);
        ExitCode::from(125)
    }
}

/// Our ends of the first process's stdio, and its own. With a terminal both come later, from inside.
fn streams(plan: &Plan, stdin: bool) -> Result<(Streams, Stdio), Failure> {
    if plan.process.terminal {
        return Ok((Streams::none(), Stdio::null()?));
    }
    let pipe = || io::pipe().during("make a pipe");
    let (stdout, childs_stdout) = pipe()?;
    let (stderr, childs_stderr) = pipe()?;
    let (childs_stdin, stdin): (OwnedFd, Option<OwnedFd>) = if stdin {
        let (reader, writer) = pipe()?;
        (reader.into(), Some(writer.into()))
    } else {
        (File::open("/dev/null").during("open /dev/null")?.into(), None)
    };
    let streams = Streams::pipes(stdin, stdout.into(), stderr.into())?;
    let stdio =
        Stdio::Pipes { stdin: childs_stdin, stdout: childs_stdout.into(), stderr: childs_stderr.into() };
    Ok((streams, stdio))
}
