//! What a container's first process does between clone and exec, in an order that has reasons.
//!
//! | stage | why here |
//! | --- | --- |
//! | 1 cgroup.enter | first of all, so that whatever comes later is counted and limited; before the cgroup namespace, whose root it becomes |
//! | 2 namespaces.unshare | the cgroup namespace; the others came with clone |
//! | 3 network.wait | the parent connects the network namespace and writes the hosts file of the init layer |
//! | 4 rootfs.mount | needs the mount namespace; the layers must be complete, so after 3 |
//! | 5 mounts.make | sources are opened on the host's tree, so before 7 |
//! | 6 paths.protect | covers what 5 has mounted |
//! | 7 root.pivot | after it nothing of the host can be named |
//! | 8 process.become | gives up every right, so last; seccomp at its very end |
//!
//! Until stage 8 the process is root in the host's user namespace and handles content that the image decides:
//! it resolves paths by descriptor only.

pub mod become_process;
pub mod devices;
mod mounts;
mod protect;
mod root;
mod sysctl;

use std::convert::Infallible;
use std::time::{Duration, Instant, SystemTime};

use container::cgroup::Cgroup;
use container::monitor::{ControlSocket, RootfsSpec, StageReport};
use container::plan::Plan;
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use crate::failure::{During, Failure};
use crate::start::Stdio;

/// From the first process to the monitor: `Stage`s, at most one `Terminal` among them, then `Executing` and the end of the
/// stream, which exec causes. `Failed` may come at any point and is the last; an end without `Executing` is a death.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromChild {
    /// A stage is done.
    Stage(StageReport),
    /// The master of the container's terminal travels beside this.
    Terminal,
    /// It is about to be replaced by the command.
    Executing,
    /// It cannot go on.
    Failed(container::FailedStart),
}

/// From the monitor to the first process: go on, the network is connected.
#[derive(Debug, Serialize, Deserialize)]
pub struct NetworkReady;

/// The first process, from clone to exec. Never returns but with why it failed.
pub fn run(
    plan: &Plan,
    rootfs: &RootfsSpec,
    cgroup: &Cgroup,
    wait_for_network: bool,
    stdio: Stdio,
    monitor: &ControlSocket,
) -> Result<Infallible, Failure> {
    let mut stages = Stages { monitor, began: (SystemTime::now(), Instant::now()) };

    cgroup.enter().during("enter the container's cgroup")?;
    stages.done("cgroup.enter")?;

    // CLONE_NEWCGROUP takes the current cgroup as its root, so it cannot come with clone on cgroup v1.
    if plan.namespaces & libc::CLONE_NEWCGROUP as u64 != 0 {
        unshare(CloneFlags::CLONE_NEWCGROUP).during("make a cgroup namespace")?;
    }
    if plan.namespaces & libc::CLONE_NEWNET as u64 != 0 {
        sys::link::loopback_up().during("set the loopback interface up")?;
    }
    if let Some(hostname) = &plan.hostname {
        nix::unistd::sethostname(hostname).during(format_args!("set the host name to {hostname:?}"))?;
    }
    stages.done("namespaces.unshare")?;

    if wait_for_network {
        match monitor.receive::<NetworkReady>().during("hear from the monitor")? {
            Some(_) => stages.done("network.wait")?,
            None => return Err(Failure::new("the monitor ended before the network was connected")),
        }
    }

    let root = root::mount(&plan.root, rootfs)?;
    stages.done("rootfs.mount")?;

    let made = mounts::make(plan, &root)?;
    let terminal = match (&made.devpts, plan.process.terminal) {
        (Some(devpts), true) => Some(devices::open_console(devpts, &made, &root, plan.process.console_size)?),
        (None, true) => return Err(Failure::new("a terminal needs a devpts mount at /dev/pts")),
        (_, false) => None,
    };
    sysctl::write(&plan.sysctl, &root)?;
    stages.done("mounts.make")?;

    protect::apply(plan, &root, &made)?;
    stages.done("paths.protect")?;

    root::pivot(&root, plan.root_read_only)?;
    stages.done("root.pivot")?;

    let stdio = match terminal {
        Some((master, slave)) => {
            use std::os::fd::AsFd;
            monitor.send(&FromChild::Terminal, &[master.as_fd()]).during("hand over the terminal")?;
            Stdio::Terminal(slave)
        }
        None => stdio,
    };
    become_process::run(&plan.process, plan.seccomp.as_ref(), stdio, monitor, &root)
}

/// Tells the monitor of each stage that is done.
struct Stages<'a> {
    monitor: &'a ControlSocket,
    began: (SystemTime, Instant),
}

impl Stages<'_> {
    fn done(&mut self, step: &str) -> Result<(), Failure> {
        let began = std::mem::replace(&mut self.began, (SystemTime::now(), Instant::now()));
        self.monitor.send(&FromChild::Stage(report(step, began)), &[]).during("report to the monitor")
    }
}

/// A stage that began then and is done now.
pub fn report(step: &str, began: (SystemTime, Instant)) -> StageReport {
    let nanoseconds = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    StageReport {
        step: step.to_owned(),
        began_ns: nanoseconds(began.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()),
        took_ns: nanoseconds(began.1.elapsed()),
        facts: Default::default(),
    }
}
