//! `exec`: a further process in a running container, by `shim exec`, which stands for it among our children.

use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use container::FailedStart;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::Process;
use serde::Deserialize;

use crate::error::{FileContext, RuntimeError};
use crate::monitor::shim_command;
use crate::options::ExecOptions;
use crate::runtime::Runtime;
use crate::view::ContainerView;
use crate::{check, id, process, record};

/// A further process of a container. Dropped without [`ExecProcess::wait`], it goes on by itself.
#[derive(Debug)]
pub struct ExecProcess {
    name: String,
    child: Child,
    pidfd: OwnedFd,
    terminal: Option<OwnedFd>,
    /// Told the shim what to run; the shim removes it when it has read it.
    file: PathBuf,
}

/// The part of the OCI configuration that matters here.
#[derive(Deserialize)]
struct Config {
    process: Process,
}

impl Runtime {
    /// Runs a command in the container. Without a terminal it has our standard output and error, and with
    /// `interactive` our standard input. With `detach` it returns when the command runs.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`], [`RuntimeError::NotRunning`], and options that cannot be had. A command that cannot
    /// be executed is told by the exit code (126, 127), after the shim's message on standard error; a detached one by
    /// [`RuntimeError::FailedStart`].
    pub fn exec(&self, name_or_id: &str, options: &ExecOptions) -> Result<ExecProcess, RuntimeError> {
        check::exec(options)?;
        let view = self.find(name_or_id)?;
        if self.living(&view)?.is_none() {
            return Err(RuntimeError::NotRunning { name: view.name });
        }
        let tracer = self.tracer(&view.id);
        let mut step = tracer.step("runtime", "exec.spawn");
        step.fact("command", &options.command[0]);
        let config_path = self.layout.bundle(&view.id).config();
        let first = record::read::<Config>(&config_path)?
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
            .file("read", &config_path)?
            .process;
        let word = id::new_word()?;
        let run_dir = self.layout.run_dir(&view.id);
        let file = Removed(run_dir.join(format!("exec-{word}.json")));
        record::write(&file.0, &process::further(&first, options), false)?;
        let console = options.tty.then(|| Console::listen(&run_dir, &word)).transpose()?;

        let said = options.detach.then(|| nameless(&run_dir, &word)).transpose()?;
        let child = self.spawn_exec(&view, options, &file.0, console.as_ref(), said.as_ref())?;
        let mut exec = ExecProcess::of(view.name, child, file)?;
        if let Some(console) = console {
            exec.terminal = console.receive(&exec)?;
        }
        if let Some(said) = said {
            exec.confirm(&said)?;
        }
        Ok(exec)
    }

    fn spawn_exec(
        &self,
        view: &ContainerView,
        options: &ExecOptions,
        file: &Path,
        console: Option<&Console>,
        said: Option<&File>,
    ) -> Result<Child, RuntimeError> {
        let shim = &self.config.shim;
        let mut command = shim_command(shim)?;
        command.arg("exec").arg("--bundle").arg(self.layout.bundle(&view.id).path());
        command.arg("--run-dir").arg(self.layout.run_dir(&view.id)).arg("--process").arg(file);
        if let Some(console) = console {
            command.arg("--console-socket").arg(&console.path);
        }
        if options.detach {
            command.arg("--detach");
        }
        let own_stdio = !options.tty && !options.detach;
        let pass = |own: bool| if own { Stdio::inherit() } else { Stdio::null() };
        command.stdin(pass(own_stdio && options.interactive)).stdout(pass(own_stdio));
        // What the shim itself has to say comes by standard error, whoever has the command's.
        match said {
            Some(said) => command.stderr(said.try_clone().file("copy a descriptor of a file in", file)?),
            None => command.stderr(Stdio::inherit()),
        };
        command.spawn().map_err(|source| RuntimeError::Shim { path: shim.clone(), source })
    }
}

impl ExecProcess {
    fn of(name: String, mut child: Child, file: Removed) -> Result<Self, RuntimeError> {
        let pid = child.id().cast_signed();
        match sys::process::pidfd_open(pid) {
            Ok(pidfd) => Ok(ExecProcess { name, child, pidfd, terminal: None, file: file.leave() }),
            Err(source) => {
                drop(child.kill());
                drop(child.wait());
                Err(RuntimeError::Process { operation: "open", pid, name, source })
            }
        }
    }

    /// Waits until the shim has started a detached command and exited; else the error is what it said.
    fn confirm(&mut self, said: &File) -> Result<(), RuntimeError> {
        let status = self.child.wait().map_err(|source| self.error("wait for", source))?;
        if status.success() {
            return Ok(());
        }
        let mut text = [0; 4096];
        let length = said.read_at(&mut text, 0).map_err(|source| self.error("hear from", source))?;
        let text = String::from_utf8_lossy(&text[..length]);
        let line = text.lines().next_back().unwrap_or_default();
        let message = line.strip_prefix("agent: ").unwrap_or(line).to_owned();
        Err(RuntimeError::FailedStart(FailedStart { exit_code: status.code().unwrap_or(125), message }))
    }

    /// The master side of its terminal, if it has one.
    pub fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().map(AsFd::as_fd)
    }

    /// Can be read when it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Sends it a signal, through the shim.
    ///
    /// # Errors
    /// What the kernel refuses; that it has ended is fine.
    pub fn kill(&self, signal: i32) -> Result<(), RuntimeError> {
        match sys::process::pidfd_send_signal(&self.pidfd, signal) {
            Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => Ok(()),
            other => other.map_err(|source| self.error("signal", source)),
        }
    }

    /// Waits until it has ended; its exit code, 128 plus the signal's number when one ended it.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn wait(mut self) -> Result<i32, RuntimeError> {
        let status = self.child.wait().map_err(|source| self.error("wait for", source))?;
        // Of a shim that could not read it. It goes with the container in any case.
        drop(fs::remove_file(&self.file));
        Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()))
    }

    fn error(&self, operation: &'static str, source: io::Error) -> RuntimeError {
        let pid = self.child.id().cast_signed();
        RuntimeError::Process { operation, pid, name: self.name.clone(), source }
    }
}

/// Where the shim sends the terminal that it makes.
struct Console {
    listener: UnixListener,
    /// The socket as another process finds it, while we live.
    path: PathBuf,
    file: Removed,
    _folder: File,
}

impl Console {
    fn listen(run_dir: &Path, word: &str) -> Result<Self, RuntimeError> {
        let name = format!("exec-{word}.sock");
        let file = Removed(run_dir.join(&name));
        let folder = File::open(run_dir).file("open", run_dir)?;
        // By a descriptor of the folder: a socket's path may only be 107 bytes long.
        let listener = UnixListener::bind(sys::fd::path_in(&folder, name.as_ref())).file("bind", &file.0)?;
        let path = format!("/proc/{}/fd/{}/{name}", std::process::id(), folder.as_raw_fd());
        Ok(Console { listener, path: path.into(), file, _folder: folder })
    }

    /// Waits for the terminal; `None` when the shim has ended without sending one.
    fn receive(&self, exec: &ExecProcess) -> Result<Option<OwnedFd>, RuntimeError> {
        let mut fds = [
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(exec.pidfd(), PollFlags::POLLIN),
        ];
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                other => {
                    other.map_err(io::Error::from).file("wait for a terminal at", &self.file.0)?;
                    break;
                }
            };
        }
        if fds[0].any() != Some(true) {
            return Ok(None);
        }
        let receive = || {
            let (connection, _) = self.listener.accept()?;
            let mut name = [0; 4096];
            sys::fd::receive_with_fds(connection.as_fd(), &mut [IoSliceMut::new(&mut name)])
        };
        let (_, received) = receive().file("receive a terminal at", &self.file.0)?;
        Ok(received.into_iter().next())
    }
}

/// A file without a name, for what nobody may be left to read.
fn nameless(folder: &Path, word: &str) -> Result<File, RuntimeError> {
    let path = folder.join(format!("exec-{word}.err"));
    let file = File::options().read(true).append(true).create_new(true).open(&path).file("create", &path)?;
    fs::remove_file(&path).file("remove", &path)?;
    Ok(file)
}

/// A file that goes with this value.
struct Removed(PathBuf);

impl Removed {
    /// Lets the file be.
    fn leave(mut self) -> PathBuf {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Removed {
    fn drop(&mut self) {
        // The whole folder goes with the container in any case.
        if !self.0.as_os_str().is_empty() {
            drop(fs::remove_file(&self.0));
        }
    }
}
