//! `agent run`: a container from an image, in the foreground or behind.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use anyhow::{Context, Result, bail};
use clap::{ArgAction, Args, ValueEnum};
use image::{Image, Platform, PullOptions};
use nix::sys::signal::Signal;
use runtime::{
    ContainerOptions, ContainerState, ContainerView, ExitRecord, Limits, MountOption, NetworkMode,
    RunningContainer, Runtime, RuntimeError,
};

use crate::attach::{ContainerPump, Ended, RawMode, Signals};
use crate::commands::exec::{our_terminal, our_terminal_size};
use crate::commands::pull::pull;
use crate::exit::Exit;
use crate::flags::{
    EnvFlag, PublishFlag, parse_cpus, parse_label, parse_memory, parse_network, parse_tmpfs, parse_volume,
};
use crate::progress::ProgressStyle;

/// Run a container from an image
#[derive(Debug, Args)]
#[command(disable_help_flag = true, override_usage = "agent run [OPTIONS] IMAGE [COMMAND] [ARG]...")]
pub(crate) struct Run {
    /// Leave it running behind, and print its id
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Give it our standard input
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Remove it when it ends
    #[arg(long)]
    rm: bool,
    /// Its name; one is made up otherwise
    #[arg(long)]
    name: Option<String>,
    /// A variable: NAME=value, or NAME for our own value
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<EnvFlag>,
    /// A folder of the host, or a named volume
    #[arg(short, long = "volume", value_name = "SOURCE:PATH[:ro]", value_parser = parse_volume)]
    volumes: Vec<MountOption>,
    /// Memory of its own, mounted at a path
    #[arg(long, value_name = "PATH[:OPTIONS]", value_parser = parse_tmpfs)]
    tmpfs: Vec<MountOption>,
    /// A port of the container to be reached at the host
    #[arg(short, long, value_name = "[[IP:]HOST-PORT:]PORT[/udp]")]
    publish: Vec<PublishFlag>,
    /// Its user, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Its working directory
    #[arg(short, long, value_name = "PATH")]
    workdir: Option<String>,
    /// What to run instead of the image's entrypoint; empty for none
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Its host name
    #[arg(short = 'h', long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    /// Processor time in processors, such as 0.5
    #[arg(long, value_name = "NUMBER", value_parser = parse_cpus)]
    cpus: Option<u64>,
    /// Memory in bytes, or with b, k, m or g, such as 64m
    #[arg(short, long, value_name = "SIZE", value_parser = parse_memory)]
    pub(crate) memory: Option<u64>,
    /// Processes and threads
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pids_limit: Option<u64>,
    /// Its network: bridge, host or none
    #[arg(long, visible_alias = "net", value_name = "NETWORK", default_value = "bridge", value_parser = parse_network)]
    network: NetworkMode,
    /// A capability more than the default, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// A capability less than the default, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// Mount its root read-only
    #[arg(long)]
    read_only: bool,
    /// A label of the container
    #[arg(short, long = "label", value_name = "KEY[=VALUE]", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// When to ask the registry for the image
    #[arg(long, value_enum, default_value_t)]
    pull: PullPolicy,
    /// The image for this platform, such as linux/arm64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Show no progress of a pull
    #[arg(short, long)]
    quiet: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    /// The image, as `[REGISTRY/]NAME[:TAG][@DIGEST]` or an id; then the command and its arguments, if not the image's
    // One argument, so that everything after the image belongs to the container, dashes or not.
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE")]
    pub(crate) image_and_command: Vec<String>,
}

/// When the registry is asked for the image: each time, when it is not here, or never.
// The variants have no documentation of their own, because help would then take a line for each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum PullPolicy {
    Always,
    #[default]
    Missing,
    Never,
}

impl Run {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        let attached = !self.detach;
        if attached && self.tty && self.interactive && !io::stdin().is_terminal() {
            bail!("the input device is not a TTY: leave out -t when standard input is no terminal");
        }
        let (name, command) = self.image_and_command.split_first().context("an image is required")?;
        let image = self.image(runtime, name)?;
        let options = self.options(name, command);
        if !attached {
            let container = runtime.run(options, &image, false)?;
            crate::print::line(&container.id)?;
            return Ok(Exit::Success);
        }
        let (tty, interactive) = (options.tty, options.interactive);
        // Before the container runs, so that no signal between its start and the pump's is lost on it.
        let signals = Signals::queue().context("failed to take the signals")?;
        let container = runtime.run(options, &image, true)?;
        let ended = attach(runtime, &container, tty, interactive, &signals)?;
        conclude(runtime, &container.id, ended)
    }

    /// The image from the store, or from its registry, as `--pull` wants it.
    fn image(&self, runtime: &Runtime, name: &str) -> Result<Image> {
        let here = match self.pull {
            PullPolicy::Always => None,
            PullPolicy::Missing | PullPolicy::Never => runtime.images().resolve(name)?,
        };
        let fits =
            |image: &Image| self.platform.as_ref().is_none_or(|wanted| serves(&image.platform, wanted));
        match (here.filter(fits), self.pull) {
            (Some(image), _) => Ok(image),
            (None, PullPolicy::Never) => {
                bail!("no image {name} here, and --pull never forbids asking its registry")
            }
            (None, _) => {
                let style = if self.quiet { ProgressStyle::None } else { ProgressStyle::Auto };
                let options = PullOptions { platform: self.platform.clone(), ..PullOptions::default() };
                pull(runtime, &name.parse()?, &options, style)
            }
        }
    }

    fn options(&self, image: &str, command: &[String]) -> ContainerOptions {
        let program = |program: &str| if program.is_empty() { Vec::new() } else { vec![program.to_owned()] };
        ContainerOptions {
            name: self.name.clone(),
            image: image.to_owned(),
            command: command.to_vec(),
            entrypoint: self.entrypoint.as_deref().map(program),
            env: self.env.iter().filter_map(|flag| flag.0.clone()).collect(),
            workdir: self.workdir.clone(),
            user: self.user.clone(),
            hostname: self.hostname.clone(),
            tty: self.tty,
            terminal_size: self.tty.then(our_terminal_size).flatten(),
            interactive: self.interactive,
            remove: self.rm,
            mounts: self.volumes.iter().chain(&self.tmpfs).cloned().collect(),
            read_only: self.read_only,
            network: self.network,
            ports: self.publish.iter().flat_map(|flag| flag.0.iter().copied()).collect(),
            limits: Limits { cpu_milli: self.cpus, memory: self.memory, pids: self.pids_limit },
            cap_add: self.cap_add.clone(),
            cap_drop: self.cap_drop.clone(),
            labels: self.labels.iter().cloned().collect(),
        }
    }
}

/// Whether an image for `platform` is what `wanted` asks for; a variant is compared only where one is asked for.
fn serves(platform: &Platform, wanted: &Platform) -> bool {
    platform.os == wanted.os
        && platform.architecture == wanted.architecture
        && (wanted.variant.is_none() || platform.variant == wanted.variant)
}

/// Pumps between our streams and the container's. Our terminal is its own again when this returns.
fn attach(
    runtime: &Runtime,
    container: &RunningContainer,
    tty: bool,
    interactive: bool,
    signals: &Signals,
) -> Result<Ended> {
    let monitor =
        container.stdio.as_ref().context("the container's monitor gave no connection to its streams")?;
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let _raw = match tty && interactive {
        true => Some(RawMode::enter(&stdin).context("failed to set up the terminal")?),
        false => None,
    };
    let pump = ContainerPump {
        monitor,
        stdin: interactive.then(|| stdin.as_fd()),
        stdout: stdout.as_fd(),
        stderr: stderr.as_fd(),
        tty,
        terminal: our_terminal(&[stdout.as_fd(), stdin.as_fd()]).filter(|_| tty),
        signals,
    };
    pump.run(|signal| match runtime.kill(&container.id, signal as i32) {
        // It ends just now; the pump will hear of it.
        Err(RuntimeError::NotRunning { .. }) => Ok(()),
        other => Ok(other?),
    })
}

/// What is to be done and said after the pump.
fn conclude(runtime: &Runtime, id: &str, ended: Ended) -> Result<Exit> {
    match ended {
        Ended::Exited(record) => {
            clean_up(runtime, id);
            Ok(exit_of(&record))
        }
        Ended::Failed(failed) => {
            clean_up(runtime, id);
            Err(RuntimeError::FailedStart(failed).into())
        }
        Ended::Lost => {
            // Whatever became of the monitor, the container does not outlive it; what is left is undone, and
            // then it is on record how it ended.
            runtime.cleanup(id)?;
            match runtime.find(id) {
                Ok(ContainerView { state: ContainerState::Exited(record), .. }) => Ok(exit_of(&record)),
                Err(error) if !error.is_not_found() => Err(error.into()),
                _ => {
                    crate::complain("the container's monitor was killed, and the container with it");
                    Ok(Exit::of_command(128 + Signal::SIGKILL as i32))
                }
            }
        }
        Ended::Detached => Ok(Exit::Success),
        // As a process whose output has no reader: gone without a word. The container goes on, as with docker.
        Ended::OutputClosed => Ok(Exit::Signalled(Signal::SIGPIPE)),
        Ended::Signalled(signal) => Ok(Exit::Signalled(signal)),
        Ended::Impatient => {
            let short = &id[..12.min(id.len())];
            crate::complain(&format!(
                "the container takes no notice and goes on: end it with `agent kill {short}`"
            ));
            Ok(Exit::Failure)
        }
    }
}

/// Undoes what the container leaves behind. Its exit code is what was asked for, even when that fails.
fn clean_up(runtime: &Runtime, id: &str) {
    if let Err(error) = runtime.cleanup(id) {
        crate::complain(&format!("failed to clean up after the container: {:#}", anyhow::Error::from(error)));
    }
}

fn exit_of(record: &ExitRecord) -> Exit {
    if record.oom_killed {
        crate::complain("the kernel killed a process of the container, because it reached its memory limit");
    }
    if let Some(error) = &record.error {
        crate::complain(error);
    }
    Exit::of_command(record.exit_code)
}
