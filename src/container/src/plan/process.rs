//! The process of a configuration: what it executes, as whom, and with which rights and limits.

use std::ffi::CString;
use std::path::PathBuf;

use oci_spec::runtime::{LinuxCapabilities, PosixRlimitType, Process, User};

use super::{PlanError, no_capabilities};

/// A process to become.
#[derive(Debug, Clone)]
pub struct ProcessPlan {
    /// Its arguments; at least one.
    pub args: Vec<CString>,
    /// Its environment, `NAME=value` each.
    pub env: Vec<String>,
    /// Its working directory, absolute in the container.
    pub cwd: PathBuf,
    /// Who it is.
    pub user: UserPlan,
    /// Its five capability sets.
    pub capabilities: LinuxCapabilities,
    /// Whether exec never gives it more rights.
    pub no_new_privileges: bool,
    /// Its limits.
    pub limits: Vec<ResourceLimit>,
    /// Its place in the order in which the kernel kills for want of memory.
    pub oom_score_adj: Option<i32>,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// The size of that terminal at first: rows, columns.
    pub console_size: Option<(u16, u16)>,
    /// Whether it is killed when its parent dies: so is the first process of a container.
    pub parent_death_kills: bool,
}

/// Who a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserPlan {
    /// By numbers.
    Ids {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
        /// More groups.
        additional_gids: Vec<u32>,
        /// File mode creation mask.
        umask: Option<u32>,
    },
    /// By `user[:group]`, looked up in the container's /etc/passwd and /etc/group once its root is there.
    Named {
        /// As the user or the image wrote it.
        spec: String,
        /// More groups.
        additional_gids: Vec<u32>,
        /// File mode creation mask.
        umask: Option<u32>,
    },
}

/// One limit of setrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceLimit {
    /// Which.
    pub kind: PosixRlimitType,
    /// The limit in force.
    pub soft: u64,
    /// How far it may be raised.
    pub hard: u64,
}

impl ProcessPlan {
    /// Works out the plan for a process of the configuration.
    pub fn from_spec(process: &Process) -> Result<Self, PlanError> {
        let refused = [
            (
                "process.apparmorProfile",
                process.apparmor_profile().as_deref().is_some_and(|name| !name.is_empty()),
            ),
            ("process.selinuxLabel", process.selinux_label().as_deref().is_some_and(|name| !name.is_empty())),
            ("process.ioPriority", process.io_priority().is_some()),
            ("process.scheduler", process.scheduler().is_some()),
            ("process.execCPUAffinity", process.exec_cpu_affinity().is_some()),
        ];
        if let Some((what, _)) = refused.into_iter().find(|(_, asked)| *asked) {
            return Err(PlanError::Unsupported { what: what.to_owned() });
        }
        let invalid = |what: &str, reason: &str| PlanError::Invalid {
            what: what.to_owned(),
            reason: reason.to_owned(),
        };
        let args: Vec<CString> = process
            .args()
            .iter()
            .flatten()
            .map(|arg| CString::new(arg.as_str()))
            .collect::<Result<_, _>>()
            .map_err(|_| invalid("process.args", "an argument has a null byte"))?;
        if args.is_empty() {
            return Err(PlanError::Missing { what: "process.args" });
        }
        let env = process.env().clone().unwrap_or_default();
        if env.iter().any(|variable| variable.contains('\0')) {
            return Err(invalid("process.env", "a variable has a null byte"));
        }
        if !process.cwd().is_absolute() {
            return Err(invalid("process.cwd", "it must be absolute"));
        }
        Ok(ProcessPlan {
            args,
            env,
            cwd: process.cwd().clone(),
            user: user(process.user()),
            capabilities: process.capabilities().clone().unwrap_or_else(no_capabilities),
            no_new_privileges: process.no_new_privileges() == Some(true),
            limits: process
                .rlimits()
                .iter()
                .flatten()
                .map(|limit| ResourceLimit { kind: limit.typ(), soft: limit.soft(), hard: limit.hard() })
                .collect(),
            oom_score_adj: process.oom_score_adj(),
            terminal: process.terminal() == Some(true),
            console_size: process.console_size().as_ref().map(size).transpose()?,
            parent_death_kills: false,
        })
    }
}

fn size(size: &oci_spec::runtime::Box) -> Result<(u16, u16), PlanError> {
    let cells = |cells: u64| {
        u16::try_from(cells).map_err(|_| PlanError::Invalid {
            what: "process.consoleSize".to_owned(),
            reason: format!("{cells} is more than {}", u16::MAX),
        })
    };
    Ok((cells(size.height())?, cells(size.width())?))
}

fn user(user: &User) -> UserPlan {
    let additional_gids = user.additional_gids().clone().unwrap_or_default();
    match user.username() {
        Some(spec) if !spec.is_empty() => {
            UserPlan::Named { spec: spec.clone(), additional_gids, umask: user.umask() }
        }
        _ => UserPlan::Ids { uid: user.uid(), gid: user.gid(), additional_gids, umask: user.umask() },
    }
}
