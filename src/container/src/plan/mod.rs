//! What is to be done for one container, worked out from its OCI runtime configuration before anything is made.
//!
//! Whatever the configuration asks for and we cannot do is refused here, by name: nothing is left out silently.

mod mounts;
mod process;
mod sysctl;

use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxCapabilities, LinuxNamespaceType, LinuxResources, Process, Spec};

use crate::seccomp::{self, Filter, SeccompError};

pub use mounts::{MountKind, MountPlan};
pub use process::{ProcessPlan, ResourceLimit, UserPlan};

/// Why a configuration cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The file cannot be read.
    #[error("failed to read the container's configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no OCI runtime configuration.
    #[error("failed to parse the container's configuration {path}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What and where.
        source: serde_json::Error,
    },
    /// It lacks what every container needs.
    #[error("the container's configuration has no {what}")]
    Missing {
        /// The field.
        what: &'static str,
    },
    /// It asks for what we cannot do.
    #[error("{what} is not supported yet; leave it out of the container's configuration")]
    Unsupported {
        /// The field, with its value where that matters.
        what: String,
    },
    /// It contradicts itself.
    #[error("invalid {what}: {reason}")]
    Invalid {
        /// The field.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// Its seccomp profile cannot be had.
    #[error("failed to prepare the seccomp profile")]
    Seccomp {
        /// Why.
        #[from]
        source: SeccompError,
    },
}

/// Everything the first process of a container needs.
#[derive(Debug)]
pub struct Plan {
    /// Where the root filesystem is mounted, on the host.
    pub root: PathBuf,
    /// Whether it may not be written.
    pub root_read_only: bool,
    /// `CLONE_NEW*` flags of the namespaces to make.
    pub namespaces: u64,
    /// The host name inside, when the UTS namespace is its own.
    pub hostname: Option<String>,
    /// In the order they are mounted.
    pub mounts: Vec<MountPlan>,
    /// Paths that are covered.
    pub masked: Vec<PathBuf>,
    /// Paths that are made read-only.
    pub read_only: Vec<PathBuf>,
    /// Kernel settings of its namespaces: path below /proc/sys, value.
    pub sysctl: Vec<(PathBuf, String)>,
    /// The cgroup, below the root of the hierarchy.
    pub cgroup: String,
    /// Limits of the cgroup.
    pub resources: Option<LinuxResources>,
    /// The system calls it may make; `None` is all of them, and only when the configuration has no profile.
    pub seccomp: Option<Filter>,
    /// The process itself.
    pub process: ProcessPlan,
}

impl Plan {
    /// Reads `config.json` of a bundle.
    pub fn load(bundle: &Path) -> Result<Self, PlanError> {
        Self::from_spec(&read_spec(bundle)?, bundle)
    }

    /// Works out the plan for `spec`; relative paths are relative to `bundle`.
    pub fn from_spec(spec: &Spec, bundle: &Path) -> Result<Self, PlanError> {
        let linux = spec.linux().as_ref().ok_or(PlanError::Missing { what: "linux" })?;
        refuse_unsupported(spec, linux)?;
        let root = spec.root().as_ref().ok_or(PlanError::Missing { what: "root" })?;
        let namespaces = namespaces(linux)?;
        if spec.hostname().is_some() && namespaces & libc::CLONE_NEWUTS as u64 == 0 {
            return Err(PlanError::Invalid {
                what: "hostname".to_owned(),
                reason: "needs a UTS namespace of its own".to_owned(),
            });
        }
        let paths = |list: &Option<Vec<String>>| list.iter().flatten().map(PathBuf::from).collect();
        let process = spec.process().as_ref().ok_or(PlanError::Missing { what: "process" })?;
        Ok(Plan {
            root: bundle.join(root.path()),
            root_read_only: root.readonly() == Some(true),
            namespaces,
            hostname: spec.hostname().clone(),
            mounts: spec.mounts().iter().flatten().map(MountPlan::from_spec).collect::<Result<_, _>>()?,
            masked: paths(linux.masked_paths()),
            read_only: paths(linux.readonly_paths()),
            sysctl: sysctl::checked(linux.sysctl(), namespaces)?,
            cgroup: cgroup_path(linux)?,
            resources: linux.resources().clone(),
            seccomp: linux.seccomp().as_ref().map(seccomp::compile).transpose()?,
            process: ProcessPlan { parent_death_kills: true, ..ProcessPlan::from_spec(process)? },
        })
    }
}

/// What an additional process of a running container takes from the container's own configuration.
#[derive(Debug)]
pub struct JoinPlan {
    /// `CLONE_NEW*` flags of the namespaces that the container has of its own.
    pub namespaces: u64,
    /// The container's cgroup.
    pub cgroup: String,
    /// The container's system calls.
    pub seccomp: Option<Filter>,
    /// The process.
    pub process: ProcessPlan,
}

impl JoinPlan {
    /// Works out how `process` joins the container of this bundle.
    pub fn load(bundle: &Path, process: &Process) -> Result<Self, PlanError> {
        let spec = read_spec(bundle)?;
        let linux = spec.linux().as_ref().ok_or(PlanError::Missing { what: "linux" })?;
        Ok(JoinPlan {
            namespaces: namespaces(linux)?,
            cgroup: cgroup_path(linux)?,
            seccomp: linux.seccomp().as_ref().map(seccomp::compile).transpose()?,
            process: ProcessPlan::from_spec(process)?,
        })
    }
}

fn read_spec(bundle: &Path) -> Result<Spec, PlanError> {
    let path = bundle.join("config.json");
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(source) => return Err(PlanError::Read { path, source }),
    };
    serde_json::from_slice(&bytes).map_err(|source| PlanError::Parse { path, source })
}

fn refuse_unsupported(spec: &Spec, linux: &Linux) -> Result<(), PlanError> {
    let some = |list: &Option<Vec<_>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let hooks = spec.hooks().as_ref().is_some_and(|hooks| *hooks != oci_spec::runtime::Hooks::default());
    let refused = [
        ("hooks", hooks),
        ("domainname", spec.domainname().is_some()),
        ("linux.uidMappings", some(linux.uid_mappings())),
        ("linux.gidMappings", linux.gid_mappings().as_ref().is_some_and(|list| !list.is_empty())),
        ("linux.devices", linux.devices().as_ref().is_some_and(|list| !list.is_empty())),
        ("linux.intelRdt", linux.intel_rdt().is_some()),
        ("linux.mountLabel", linux.mount_label().is_some()),
        ("linux.personality", linux.personality().is_some()),
        ("linux.timeOffsets", linux.time_offsets().as_ref().is_some_and(|all| !all.is_empty())),
        (
            "linux.rootfsPropagation",
            linux
                .rootfs_propagation()
                .as_deref()
                .is_some_and(|name| !matches!(name, "" | "private" | "rprivate")),
        ),
    ];
    match refused.into_iter().find(|(_, asked)| *asked) {
        Some((what, _)) => Err(PlanError::Unsupported { what: what.to_owned() }),
        None => Ok(()),
    }
}

fn namespaces(linux: &Linux) -> Result<u64, PlanError> {
    let mut flags = 0;
    for namespace in linux.namespaces().iter().flatten() {
        let (name, flag) = match namespace.typ() {
            LinuxNamespaceType::Pid => ("pid", libc::CLONE_NEWPID),
            LinuxNamespaceType::Mount => ("mount", libc::CLONE_NEWNS),
            LinuxNamespaceType::Uts => ("uts", libc::CLONE_NEWUTS),
            LinuxNamespaceType::Ipc => ("ipc", libc::CLONE_NEWIPC),
            LinuxNamespaceType::Network => ("network", libc::CLONE_NEWNET),
            LinuxNamespaceType::Cgroup => ("cgroup", libc::CLONE_NEWCGROUP),
            other => return Err(PlanError::Unsupported { what: format!("a namespace of type {other:?}") }),
        };
        if namespace.path().is_some() {
            return Err(PlanError::Unsupported { what: format!("joining a {name} namespace by path") });
        }
        flags |= flag as u64;
    }
    if flags & libc::CLONE_NEWNS as u64 == 0 {
        return Err(PlanError::Missing { what: "mount namespace" });
    }
    Ok(flags)
}

fn cgroup_path(linux: &Linux) -> Result<String, PlanError> {
    let path = linux.cgroups_path().as_ref().ok_or(PlanError::Missing { what: "linux.cgroupsPath" })?;
    path.to_str().map(str::to_owned).ok_or_else(|| PlanError::Invalid {
        what: "linux.cgroupsPath".to_owned(),
        reason: "not UTF-8".to_owned(),
    })
}

/// The capability sets of a process that names none: none at all.
fn no_capabilities() -> LinuxCapabilities {
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(Default::default()))
        .set_effective(Some(Default::default()))
        .set_permitted(Some(Default::default()))
        .set_inheritable(Some(Default::default()))
        .set_ambient(Some(Default::default()));
    sets
}
