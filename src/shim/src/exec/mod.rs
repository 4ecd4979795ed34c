//! `shim exec`: one more process in a running container, between whose pipes and our standard input, output and error the
//! data is passed, or with a terminal of the container. Exits with its exit code.

mod pump;

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use container::cgroup::Cgroup;
use container::monitor::ControlSocket;
use container::plan::JoinPlan;
use container::state::ProcessRecord;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::stat::{Mode, fstat, makedev};
use nix::sys::wait::WaitStatus;
use sys::process::CloneOptions;

use crate::failure::{During, Failure};
use crate::rootfs::{Links, Rootfs};
use crate::stages::{become_process, devices};
use crate::start::{Starting, Stdio, exit_code, reap};
use pump::Pump;

/// Where statfs(2) says that a file system is devpts (linux/magic.h).
const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;

/// The code of a signal that the kernel sent, such as a terminal's (sigaction(2)).
const SI_KERNEL: i32 = 0x80;

/// The verb.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    match Arguments::parse(args).and_then(|arguments| run(&arguments)) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(255)),
        Err(failure) => {
            let failed = failure.into_failed_start();
            eprintln!("agent: {}", failed.message);
            ExitCode::from(u8::try_from(failed.exit_code).unwrap_or(125))
        }
    }
}

#[derive(Debug, Default)]
struct Arguments {
    bundle: PathBuf,
    run_dir: PathBuf,
    process: PathBuf,
    console_socket: Option<PathBuf>,
    detach: bool,
}

impl Arguments {
    fn parse(mut args: impl Iterator<Item = OsString>) -> Result<Self, Failure> {
        let mut parsed = Arguments::default();
        while let Some(name) = args.next() {
            if name == "--detach" {
                parsed.detach = true;
                continue;
            }
            let name = name.to_string_lossy().into_owned();
            let value = args.next().ok_or_else(|| Failure::new(format!("exec: {name} needs a value")))?;
            match name.as_str() {
                "--bundle" => parsed.bundle = value.into(),
                "--run-dir" => parsed.run_dir = value.into(),
                "--process" => parsed.process = value.into(),
                "--console-socket" => parsed.console_socket = Some(value.into()),
                _ => return Err(Failure::new(format!("exec: unknown flag {name}"))),
            }
        }
        for (name, path) in
            [("--bundle", &parsed.bundle), ("--run-dir", &parsed.run_dir), ("--process", &parsed.process)]
        {
            if path.as_os_str().is_empty() {
                return Err(Failure::new(format!("exec: {name} is missing")));
            }
        }
        Ok(parsed)
    }
}

fn run(arguments: &Arguments) -> Result<i32, Failure> {
    let process = std::fs::read(&arguments.process)
        .during(format_args!("read the process to run from {}", arguments.process.display()))?;
    std::fs::remove_file(&arguments.process).during("remove the process's description")?;
    let process = serde_json::from_slice(&process).during("parse the process to run")?;
    let plan = JoinPlan::load(&arguments.bundle, &process).during("prepare the process")?;
    let cgroup = Cgroup::at(&plan.cgroup).during("find the container's cgroup")?;
    let record = ProcessRecord::read(&arguments.run_dir).during("read the container's state")?;
    let container = record
        .map(|record| record.open())
        .transpose()
        .during("look at the container's process")?
        .flatten()
        .ok_or_else(|| Failure::new("the container is not running"))?;
    // Opened while its path still means what the caller meant.
    let console = match &arguments.console_socket {
        Some(path) => Some(UnixStream::connect(path).during(format_args!("connect to {}", path.display()))?),
        None => None,
    };

    // Blocked before the clone, so that a signal in between is not lost; the child unblocks all.
    let signals = SigSet::all();
    signals.thread_block().during("block signals")?;
    let signalfd = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).during("listen for signals")?;

    let namespaces = CloneFlags::from_bits_truncate(plan.namespaces as i32);
    if namespaces.contains(CloneFlags::CLONE_NEWPID) {
        // Takes effect for our child, which so is born a process of the container.
        setns(&container, CloneFlags::CLONE_NEWPID).during("join the container's pid namespace")?;
    }
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let (stdio, pump) = if console.is_some() {
        (None, None)
    } else if arguments.detach {
        (Some(Stdio::null()?), None)
    } else {
        let (stdio, pump) = Pump::new(&stdin, &stdout, &stderr)?;
        (Some(stdio), Some(pump))
    };
    let starting = Starting::clone(&CloneOptions::default(), |channel| {
        join(&plan, &cgroup, &container, namespaces, stdio, channel)
    })?;
    let started = starting.finish(|_| {})?;
    if let (Some(console), Some(terminal)) = (console, started.terminal) {
        // Not kept: when whoever has it lets go of it, the process is to hear that its terminal hung up.
        send_fd(&console, &terminal).during("hand over the terminal")?;
    }
    if arguments.detach {
        return Ok(0);
    }
    let status = follow(&started.pidfd, &signalfd, pump)?;
    Ok(exit_code(status).0)
}

/// Stays beside the process until it has ended: passes its data and our signals on.
fn follow(process: &OwnedFd, signalfd: &SignalFd, mut pump: Option<Pump<'_>>) -> Result<WaitStatus, Failure> {
    loop {
        let mut fds = vec![
            PollFd::new(process.as_fd(), PollFlags::POLLIN),
            PollFd::new(signalfd.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(pump.iter().flat_map(Pump::watch));
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other.during("wait for the process")?,
        };
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any() == Some(true)).collect();
        drop(fds);
        if ready[0] {
            let status = reap(process).during("reap the process")?;
            if let Some(pump) = pump {
                pump.drain()?;
            }
            return Ok(status);
        }
        if ready[1]
            && let Some(signal) = signalfd.read_signal().during("read a signal")?
        {
            pass_on(signal.ssi_signo as i32, signal.ssi_code, process)?;
        }
        if let Some(pump) = &mut pump {
            pump.turn(&ready[2..])?;
        }
    }
}

/// Passes a signal on that somebody sent us. What the terminal sends to its whole foreground, whoever started us gets too,
/// and passes on.
fn pass_on(signal: i32, code: i32, process: &OwnedFd) -> Result<(), Failure> {
    let ours = matches!(
        signal,
        libc::SIGCHLD | libc::SIGTTIN | libc::SIGTTOU | libc::SIGTSTP | libc::SIGCONT | libc::SIGPIPE
    );
    if ours || code == SI_KERNEL {
        return Ok(());
    }
    match sys::process::pidfd_send_signal(process, signal) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other.during("pass a signal on"),
    }
}

/// What the new process does: into the cgroup while the host's cgroup files can still be named, into the namespaces,
/// and on to its command.
fn join(
    plan: &JoinPlan,
    cgroup: &Cgroup,
    container: &OwnedFd,
    namespaces: CloneFlags,
    stdio: Option<Stdio>,
    channel: &ControlSocket,
) -> Result<Infallible, Failure> {
    cgroup.join().during("enter the container's cgroup")?;
    let rest = namespaces - CloneFlags::CLONE_NEWPID;
    setns(container, rest).during("join the container's namespaces")?;
    // The mount namespace's root is the container's, as its first process has it.
    let root = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .during("open the container's root")?;
    let root = Rootfs::new(root);
    let stdio = match stdio {
        Some(stdio) => stdio,
        None => {
            let (master, slave) = open_terminal(&root, plan.process.console_size)?;
            channel
                .send(&crate::stages::FromChild::Terminal, &[master.as_fd()])
                .during("hand over the terminal")?;
            Stdio::Terminal(slave)
        }
    };
    become_process::run(&plan.process, plan.seccomp.as_ref(), stdio, channel, &root)
}

/// Opens a terminal in the container's devpts. The container could have put anything there since it was mounted.
fn open_terminal(root: &Rootfs, size: Option<(u16, u16)>) -> Result<(OwnedFd, OwnedFd), Failure> {
    let flags = OFlag::O_PATH;
    let path = Path::new("/dev/pts/ptmx");
    let found = root.open(path, flags, Links::Refuse).during("find /dev/pts/ptmx in the container")?;
    let stat = fstat(&found).during("look at /dev/pts/ptmx")?;
    let file_system = nix::sys::statfs::fstatfs(&found).during("look at /dev/pts/ptmx")?;
    if file_system.filesystem_type().0 as i64 != DEVPTS_SUPER_MAGIC || stat.st_rdev != makedev(5, 2) {
        return Err(Failure::new("/dev/pts/ptmx in the container is not a terminal multiplexer"));
    }
    let master = root
        .open(path, OFlag::O_RDWR | OFlag::O_NOCTTY, Links::Refuse)
        .during("open a terminal in the container")?;
    let stat = fstat(&master).during("look at the terminal")?;
    if stat.st_rdev != makedev(5, 2) {
        return Err(Failure::new("/dev/pts/ptmx in the container was exchanged"));
    }
    let slave = devices::open_slave(&master, size)?;
    Ok((master, slave))
}

fn send_fd(socket: &UnixStream, fd: &OwnedFd) -> io::Result<()> {
    let raw = [fd.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&raw)];
    let name = [io::IoSlice::new(b"/dev/ptmx")];
    sendmsg::<()>(socket.as_raw_fd(), &name, &rights, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}
