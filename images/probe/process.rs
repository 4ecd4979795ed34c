//! Signals and orphans: what a container's first process is told and what it inherits.

use std::io::Read;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, getpid, getppid};
use serde_json::json;

/// The name under which `orphan` starts the process that ends at once.
pub(crate) const MIDDLE: &str = "orphan-middle";
/// The name under which that one starts the process that becomes an orphan.
pub(crate) const ORPHAN: &str = "orphan-child";

/// How long to wait for what must come at once.
const SOON: Duration = Duration::from_secs(10);

/// A command that runs this same program.
pub(crate) fn again() -> Command {
    Command::new("/proc/self/exe")
}

/// Blocks the signals that can be waited for. As pid 1 this also makes the kernel deliver them: those
/// without a handler are thrown away there, blocked ones never (pid_namespaces(7)).
pub(crate) fn hold_signals() -> Result<SigSet> {
    let mut waited = SigSet::all();
    // Children that end are no news, and faults must stay fatal.
    for kept in [
        Signal::SIGCHLD,
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGILL,
        Signal::SIGFPE,
        Signal::SIGABRT,
        Signal::SIGSYS,
        Signal::SIGPIPE,
    ] {
        waited.remove(kept);
    }
    waited.thread_block()?;
    Ok(waited)
}

/// Prints each signal that comes; SIGTERM, SIGINT and SIGQUIT end it with 0 unless told to ignore them.
pub(crate) fn wait(ignore_term: bool) -> Result<()> {
    let waited = hold_signals()?;
    println!("{}", json!({ "ready": true, "pid": getpid().as_raw() }));
    loop {
        let signal = waited.wait()?;
        println!("{}", json!({ "signal": signal.as_str() }));
        if !ignore_term && matches!(signal, Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT) {
            return Ok(());
        }
    }
}

/// Makes an orphan and prints who became its parent, and whether it could be reaped from here.
pub(crate) fn orphan() -> Result<()> {
    let (mut from_orphan, to_us) = std::io::pipe()?;
    // The command holds our end of the pipe: it must be gone before the pipe can end.
    let mut middle = again().arg(MIDDLE).stdout(to_us).spawn()?;
    middle.wait()?;
    let mut line = String::new();
    from_orphan.read_to_string(&mut line)?;
    let mut told: serde_json::Value = serde_json::from_str(&line)?;
    let orphan = told["orphan_pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    told["reaped_here"] = json!(orphan.is_some_and(|pid| waitpid(Pid::from_raw(pid), None).is_ok()));
    println!("{told}");
    Ok(())
}

/// Starts the orphan-to-be and ends.
pub(crate) fn middle() -> Result<()> {
    again().arg(ORPHAN).arg(getpid().to_string()).spawn()?;
    Ok(())
}

/// Waits until its parent is another process, and tells which.
pub(crate) fn orphaned(parent: i32) -> Result<()> {
    let start = Instant::now();
    while getppid().as_raw() == parent {
        if start.elapsed() > SOON {
            bail!("still a child of {parent} after {SOON:?}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    println!(
        "{}",
        json!({
            "orphan_pid": getpid().as_raw(),
            "parent_was": parent,
            "reparented_to": getppid().as_raw(),
        })
    );
    Ok(())
}
