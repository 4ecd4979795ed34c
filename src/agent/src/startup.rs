//! What is done before any verb: rights, the network namespace, the log, and the runtime on its folders.

use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use runtime::{Runtime, RuntimeConfig};
use tracing::Level;

use crate::cli::{Global, LogFormat, LogLevel, Verb};

/// Opens the runtime for `verb`. Call it on the main thread before any other is started: a network namespace
/// belongs to a thread and is inherited by those it starts.
pub(crate) fn open(global: &Global, verb: &Verb) -> Result<Runtime> {
    if !nix::unistd::geteuid().is_root() {
        bail!("must be run as root: try `sudo agent …`");
    }
    begin(global, verb)?;
    Ok(Runtime::open(config(global)?)?)
}

/// The part of it that anyone can do: the log, and the network namespace if one is named.
pub(crate) fn begin(global: &Global, verb: &Verb) -> Result<()> {
    log_to_stderr(global);
    match &global.netns {
        // It is started by a container's monitor, which is in the namespace already; the path may have gone.
        Some(_) if matches!(verb, Verb::Cleanup(_)) => {}
        Some(path) => {
            let netns = File::open(path)
                .with_context(|| format!("failed to open the network namespace {}", path.display()))?;
            setns(netns, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("failed to enter the network namespace {}", path.display()))?;
        }
        None => {}
    }
    Ok(())
}

/// The folders and programs that the runtime works with, all absolute.
fn config(global: &Global) -> Result<RuntimeConfig> {
    let absolute = |path: &PathBuf| {
        std::path::absolute(path).with_context(|| format!("failed to make {} absolute", path.display()))
    };
    let (root, run_root, config_root) =
        (absolute(&global.root)?, absolute(&global.run_root)?, absolute(&global.config_root)?);
    let agent = std::env::current_exe().context("failed to find out where the agent's own program lies")?;
    let shim = match &global.shim {
        Some(shim) => absolute(shim)?,
        None => agent.with_file_name("shim"),
    };
    let mut cleanup_command = vec![agent.into_os_string()];
    for (flag, value) in [
        ("--root", root.as_os_str()),
        ("--run-root", run_root.as_os_str()),
        ("--config-root", config_root.as_os_str()),
        ("--cgroup-parent", global.cgroup_parent.as_ref()),
        ("--shim", shim.as_os_str()),
    ] {
        cleanup_command.extend([OsString::from(flag), value.to_owned()]);
    }
    cleanup_command.push("cleanup".into());
    let cgroup_parent = global.cgroup_parent.clone();
    Ok(RuntimeConfig { root, run_root, config_root, cgroup_parent, shim, cleanup_command })
}

fn log_to_stderr(global: &Global) {
    let level = match global.log_level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    };
    let log = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr);
    match global.log_format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().init(),
    }
}
