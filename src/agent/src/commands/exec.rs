//! `agent exec`: another process in a running container.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result, bail};
use clap::Args;
use runtime::{ExecOptions, Runtime, TerminalSize};

use crate::attach::{ProcessEnded, ProcessPump, RawMode, Signals};
use crate::exit::Exit;
use crate::flags::EnvFlag;

/// Run a command in a running container
#[derive(Debug, Args)]
#[command(override_usage = "agent exec [OPTIONS] CONTAINER COMMAND [ARG]...")]
pub(crate) struct Exec {
    /// Do not wait for it
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Give it our standard input
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// A variable: NAME=value, or NAME for our own value
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<EnvFlag>,
    /// Its user, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Its working directory
    #[arg(short, long, value_name = "PATH")]
    pub(crate) workdir: Option<String>,
    /// Name or id; then the command and its arguments
    // One argument, so that everything after the container belongs to the command, dashes or not.
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_names = ["CONTAINER", "COMMAND"])]
    pub(crate) container_and_command: Vec<String>,
}

impl Exec {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        if self.tty && self.interactive && !self.detach && !io::stdin().is_terminal() {
            bail!("the input device is not a TTY: leave out -t when standard input is no terminal");
        }
        let (name, command) = self.container_and_command.split_first().context("a container is required")?;
        let id = runtime.find(name)?.id;
        let options = ExecOptions {
            command: command.to_vec(),
            env: self.env.iter().filter_map(|flag| flag.0.clone()).collect(),
            workdir: self.workdir.clone(),
            user: self.user.clone(),
            tty: self.tty,
            terminal_size: self.tty.then(our_terminal_size).flatten(),
            interactive: self.interactive,
            detach: self.detach,
        };
        if options.detach {
            runtime.exec(&id, &options)?;
            return Ok(Exit::Success);
        }
        let signals = Signals::queue().context("failed to take the signals")?;
        let process = runtime.exec(&id, &options)?;
        let (stdin, stdout) = (io::stdin(), io::stdout());
        let ended = {
            let _raw = match options.tty && options.interactive {
                true => Some(RawMode::enter(&stdin).context("failed to set up the terminal")?),
                false => None,
            };
            let pump = ProcessPump {
                ended: process.pidfd(),
                master: process.terminal(),
                stdin: options.interactive.then(|| stdin.as_fd()),
                stdout: stdout.as_fd(),
                terminal: our_terminal(&[stdout.as_fd(), stdin.as_fd()]).filter(|_| options.tty),
                signals: &signals,
            };
            pump.run(|signal| Ok(process.kill(signal as i32)?))?
        };
        match ended {
            ProcessEnded::Exited => Ok(Exit::of_command(process.wait()?)),
            ProcessEnded::OutputClosed => Ok(Exit::Signalled(nix::sys::signal::Signal::SIGPIPE)),
            // Its terminal closes with us, which tells it SIGHUP.
            ProcessEnded::Signalled(signal) => Ok(Exit::Signalled(signal)),
        }
    }
}

/// The first of our streams that is a terminal.
pub(crate) fn our_terminal<'a>(streams: &[BorrowedFd<'a>]) -> Option<BorrowedFd<'a>> {
    streams.iter().copied().find(|stream| stream.is_terminal())
}

/// The size of our terminal, if we have one.
pub(crate) fn our_terminal_size() -> Option<TerminalSize> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let terminal = our_terminal(&[stdout.as_fd(), stdin.as_fd()])?;
    // One that tells no size leaves the container's at its default.
    let size = sys::tty::window_size(terminal).ok()?;
    Some(TerminalSize { rows: size.rows, cols: size.cols })
}
