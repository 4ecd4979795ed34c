//! A container's cgroup: made with its limits, entered, read, emptied and removed, on cgroup v1 (and hybrid)
//! and on v2 through one trait, [`Hierarchy`].
//!
//! Folders are made and values written through `cgroups-rs`. A cgroup is found again from its path alone, so
//! that whoever comes after a killed process can remove it.

mod limits;
mod v1;
mod v2;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::LinuxResources;

pub use v1::V1;
pub use v2::V2;

/// How long processes that were killed may take to be gone: one that hangs in the kernel keeps its cgroup.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// The controllers a container gets a cgroup in, where the machine has them.
const CONTROLLERS: [&str; 7] = ["cpu", "cpuacct", "memory", "pids", "devices", "freezer", "blkio"];

/// What can go wrong with a cgroup.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The path is not one below the root of the hierarchy.
    #[error("invalid cgroup path {path:?}: it must name a folder below the root, without `..`")]
    Path {
        /// The path as given.
        path: String,
    },
    /// No usable hierarchy is mounted.
    #[error("no cgroup hierarchy is mounted below /sys/fs/cgroup")]
    NotMounted,
    /// A folder could not be made.
    #[error("failed to create cgroup {path}")]
    Create {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A controller that a limit needs could not be enabled for a folder's children (v2).
    #[error("failed to enable the cgroup controller {controller} below {path}")]
    Enable {
        /// The controller.
        controller: String,
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A value was refused by the kernel.
    #[error("failed to set {what} of cgroup {path}: {reason}")]
    Set {
        /// What was to be set, with its value.
        what: String,
        /// The cgroup.
        path: String,
        /// What the kernel or `cgroups-rs` says.
        reason: String,
    },
    /// The controller that a limit belongs to is not there.
    #[error("cannot set {what}: the cgroup controller {controller} is not available on this machine")]
    NoController {
        /// The limit.
        what: String,
        /// The controller.
        controller: &'static str,
    },
    /// A limit that is not supported.
    #[error("cannot set {what}: not supported yet; leave it out")]
    Unsupported {
        /// The limit.
        what: &'static str,
    },
    /// A process could not be put into the cgroup.
    #[error("failed to enter cgroup {path}")]
    Enter {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its processes could not be stopped.
    #[error("failed to freeze cgroup {path}")]
    Freeze {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its processes could not be let go on, which they must to die (v1).
    #[error("failed to thaw cgroup {path}")]
    Thaw {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something could not be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The processes in it could not be killed.
    #[error("failed to kill process {pid} of cgroup {path}")]
    Kill {
        /// The process.
        pid: i32,
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A folder could not be removed.
    #[error("failed to remove cgroup {path}")]
    Remove {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What differs between the versions of cgroups.
pub trait Hierarchy: std::fmt::Debug {
    /// `v1` or `v2`.
    fn version(&self) -> &'static str;
    /// A fresh handle of the hierarchy for `cgroups-rs`.
    fn handle(&self) -> Box<dyn cgroups_rs::Hierarchy>;
    /// The controllers a container gets a cgroup in that this machine has, by their names in `cgroups-rs`.
    fn controllers(&self) -> Vec<String>;
    /// Makes the folders of the cgroup `path`, also while others make the same, and returns those of
    /// [`Hierarchy::controllers`] that it then has; that one of `needed` could not be had is an error.
    fn make(&self, path: &str, needed: &[&str]) -> Result<Vec<String>, CgroupError>;
    /// Every folder of the cgroup `path`, one a controller on v1, one in all on v2.
    fn folders(&self, path: &str) -> Vec<PathBuf>;
    /// The folder that a process is born into, where the version can do that (v2).
    fn birth_folder(&self, path: &str) -> Option<PathBuf>;
    /// Puts the calling process, which must have one thread, into the cgroup, where birth could not (v1).
    fn enter(&self, path: &str) -> Result<(), CgroupError>;
    /// Begins to stop every process of the cgroup; whether all stand still, [`Hierarchy::is_frozen`] tells.
    fn freeze(&self, path: &str) -> Result<(), CgroupError>;
    /// Whether every process of the cgroup stands still.
    fn is_frozen(&self, path: &str) -> Result<bool, CgroupError>;
    /// Lets frozen processes of the cgroup, and of those below it, see the signals that were sent to them.
    fn thaw(&self, path: &str) -> Result<(), CgroupError>;
    /// How many processes of the cgroup the kernel killed for want of memory.
    fn oom_kills(&self, path: &str) -> Result<u64, CgroupError>;
    /// Whether devices can be restricted by the hierarchy.
    fn restricts_devices(&self) -> bool;
}

/// The hierarchy of this machine: v2 when /sys/fs/cgroup is a cgroup2 file system, else v1.
pub fn hierarchy() -> Box<dyn Hierarchy> {
    if cgroups_rs::hierarchies::is_cgroup2_unified_mode() {
        Box::new(V2::mounted())
    } else {
        Box::new(V1::mounted())
    }
}

/// One cgroup, by its path below the root of the hierarchy.
#[derive(Debug)]
pub struct Cgroup {
    path: String,
    hierarchy: Box<dyn Hierarchy>,
}

impl Cgroup {
    /// Names the cgroup at `path` (`/agent/ID`); nothing is made.
    pub fn at(path: &str) -> Result<Self, CgroupError> {
        Self::within(path, hierarchy())
    }

    /// The same in a given hierarchy.
    pub fn within(path: &str, hierarchy: Box<dyn Hierarchy>) -> Result<Self, CgroupError> {
        let trimmed = path.trim_matches('/');
        if trimmed.is_empty() || trimmed.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(CgroupError::Path { path: path.to_owned() });
        }
        Ok(Cgroup { path: trimmed.to_owned(), hierarchy })
    }

    /// Its path below the root of the hierarchy, without a leading slash.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The version of cgroups it is of.
    pub fn version(&self) -> &'static str {
        self.hierarchy.version()
    }

    /// Makes the cgroup and sets its limits.
    pub fn create(&self, resources: Option<&LinuxResources>) -> Result<(), CgroupError> {
        if self.hierarchy.controllers().is_empty() {
            return Err(CgroupError::NotMounted);
        }
        let needed = resources.map(limits::needed).unwrap_or_default();
        // Not by cgroups-rs: on v1 it only warns of a folder that it could not make, on v2 of two who make the same
        // parent one fails, and a controller that could not be enabled is left out silently.
        let controllers = self.hierarchy.make(&self.path, &needed)?;
        let cgroup = cgroups_rs::Cgroup::load_with_specified_controllers(
            self.hierarchy.handle(),
            &self.path,
            controllers,
        );
        match resources {
            Some(resources) => {
                limits::apply(&cgroup, &self.path, resources, self.hierarchy.restricts_devices())
            }
            None => Ok(()),
        }
    }

    /// The folder to clone a process into, where the kernel can do that.
    pub fn birth_folder(&self) -> Result<Option<File>, CgroupError> {
        let Some(path) = self.hierarchy.birth_folder(&self.path) else { return Ok(None) };
        File::open(&path).map(Some).map_err(|source| CgroupError::Read { path, source })
    }

    /// Puts the calling process into the cgroup. It must have one thread.
    pub fn enter(&self) -> Result<(), CgroupError> {
        self.hierarchy.enter(&self.path)
    }

    /// Puts the calling process into the cgroup of a running container, whatever the version.
    pub fn join(&self) -> Result<(), CgroupError> {
        match self.hierarchy.birth_folder(&self.path) {
            None => self.hierarchy.enter(&self.path),
            Some(folder) => fs::write(folder.join("cgroup.procs"), "0")
                .map_err(|source| CgroupError::Enter { path: folder, source }),
        }
    }

    /// How many of its processes the kernel killed for want of memory.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        self.hierarchy.oom_kills(&self.path)
    }

    /// The pids in it, as seen from our pid namespace; none when it does not exist.
    pub fn pids(&self) -> Result<Vec<i32>, CgroupError> {
        match self.hierarchy.folders(&self.path).first() {
            Some(folder) => pids(folder),
            None => Ok(Vec::new()),
        }
    }

    /// Begins to stop its processes; [`Cgroup::thaw`] lets them go on.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        self.hierarchy.freeze(&self.path)
    }

    /// Whether its processes all stand still.
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        self.hierarchy.is_frozen(&self.path)
    }

    /// Lets its processes go on if they are frozen: on v1 such a process does not even die.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        self.hierarchy.thaw(&self.path)
    }

    /// Kills every process in it and waits until they are gone.
    pub fn kill_all(&self) -> Result<(), CgroupError> {
        for folder in self.hierarchy.folders(&self.path) {
            self.kill_in(&folder)?;
        }
        Ok(())
    }

    /// Removes it and the cgroups below it, with the processes in them; that it is not there is fine.
    pub fn remove(&self) -> Result<(), CgroupError> {
        for folder in self.hierarchy.folders(&self.path) {
            self.remove_folder(&folder)?;
        }
        Ok(())
    }

    /// Removes it where nobody uses it: a folder with processes or with cgroups below it stays, and so do those.
    pub fn remove_unused(&self) -> Result<(), CgroupError> {
        use nix::errno::Errno;
        for folder in self.hierarchy.folders(&self.path) {
            match fs::remove_dir(&folder) {
                Err(error) if is_gone(&error) => {}
                Err(error)
                    if matches!(
                        error.raw_os_error().map(Errno::from_raw),
                        Some(Errno::EBUSY | Errno::ENOTEMPTY)
                    ) => {}
                other => other.map_err(|source| CgroupError::Remove { path: folder, source })?,
            }
        }
        Ok(())
    }

    fn kill_in(&self, folder: &Path) -> Result<(), CgroupError> {
        // A fork may slip between the read and the kill, so look again until nobody is left.
        loop {
            let pids = pids(folder)?;
            if pids.is_empty() {
                return Ok(());
            }
            let mut dying = Vec::with_capacity(pids.len());
            for pid in pids {
                let failed = |source| CgroupError::Kill { pid, path: folder.to_owned(), source };
                match sys::process::pidfd_open(pid) {
                    Ok(pidfd) => {
                        match sys::process::pidfd_send_signal(&pidfd, nix::sys::signal::SIGKILL as i32) {
                            Ok(()) => dying.push((pid, pidfd)),
                            Err(error) if is_gone(&error) => {}
                            Err(error) => return Err(failed(error)),
                        }
                    }
                    Err(error) if is_gone(&error) => {}
                    Err(error) => return Err(failed(error)),
                }
            }
            // The frozen die no sooner.
            self.hierarchy.thaw(&self.path)?;
            for (pid, pidfd) in dying {
                let failed = |source| CgroupError::Kill { pid, path: folder.to_owned(), source };
                if !sys::process::wait_readable_for(&pidfd, KILL_LIMIT).map_err(failed)? {
                    return Err(failed(io::Error::from(io::ErrorKind::TimedOut)));
                }
            }
        }
    }

    fn remove_folder(&self, folder: &Path) -> Result<(), CgroupError> {
        let failed = |source| CgroupError::Remove { path: folder.to_owned(), source };
        match fs::remove_dir(folder) {
            Ok(()) => return Ok(()),
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EBUSY as i32) => {}
            Err(error) => return Err(failed(error)),
        }
        match fs::read_dir(folder) {
            Ok(entries) => {
                for entry in entries {
                    let entry = entry.map_err(failed)?;
                    if entry.file_type().map_err(failed)?.is_dir() {
                        self.remove_folder(&entry.path())?;
                    }
                }
            }
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => return Err(failed(error)),
        }
        self.kill_in(folder)?;
        match fs::remove_dir(folder) {
            Err(error) if !is_gone(&error) => Err(failed(error)),
            _ => Ok(()),
        }
    }
}

/// Whether memory and swap together can be limited on this machine.
pub fn limits_swap() -> bool {
    if cgroups_rs::hierarchies::is_cgroup2_unified_mode() {
        return v2::counts_swap(Path::new(cgroups_rs::hierarchies::UNIFIED_MOUNTPOINT));
    }
    let mounts = V1::mounted();
    mounts.folder("memory", "memory.memsw.limit_in_bytes").is_some_and(|file| file.exists())
}

fn pids(folder: &Path) -> Result<Vec<i32>, CgroupError> {
    let path = folder.join("cgroup.procs");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()),
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        Err(source) => Err(CgroupError::Read { path, source }),
    }
}

/// Whether an error says that the process or folder is no longer there.
fn is_gone(error: &io::Error) -> bool {
    use nix::errno::Errno;
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOENT | Errno::ENODEV | Errno::ESRCH))
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResourcesBuilder};

    use super::*;

    #[test]
    fn paths_outside_the_hierarchy_are_refused() {
        for path in ["", "/", "..", "/a/../b", "a//b", "a/./b"] {
            assert!(matches!(Cgroup::at(path), Err(CgroupError::Path { .. })), "{path}");
        }
        assert_eq!(Cgroup::at("/agent/x/").expect("fine").path(), "agent/x");
    }

    /// Needs root.
    #[test]
    fn a_cgroup_holds_its_limits_and_its_processes_and_goes_with_them() {
        let path = format!("/agent-unit-{}/c", std::process::id());
        let cgroup = Cgroup::at(&path).expect("a fine path");
        let resources = LinuxResourcesBuilder::default()
            .cpu(LinuxCpuBuilder::default().quota(50_000).period(100_000u64).build().expect("complete"))
            .memory(LinuxMemoryBuilder::default().limit(64 << 20).build().expect("complete"))
            .pids(LinuxPidsBuilder::default().limit(7).build().expect("complete"))
            .build()
            .expect("complete");
        cgroup.create(Some(&resources)).expect("root may");
        let folders = cgroup.hierarchy.folders(cgroup.path());
        let read = |file: &str| {
            let path = folders.iter().map(|folder| folder.join(file)).find(|path| path.exists());
            path.map(|path| fs::read_to_string(path).expect("readable").trim().to_owned())
        };
        assert_eq!(read("pids.max").as_deref(), Some("7"));
        let memory = read("memory.limit_in_bytes").or(read("memory.max"));
        assert_eq!(memory.as_deref(), Some("67108864"));
        let quota = read("cpu.cfs_quota_us").or(read("cpu.max").map(|line| line.replace(" 100000", "")));
        assert_eq!(quota.as_deref(), Some("50000"));

        let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("spawned");
        for folder in &folders {
            fs::write(folder.join("cgroup.procs"), child.id().to_string()).expect("ours");
        }
        assert_eq!(cgroup.pids().expect("readable"), [child.id() as i32]);
        cgroup.remove().expect("it is emptied and removed");
        assert!(!child.wait().expect("ours").success());
        assert!(folders.iter().all(|folder| !folder.exists()));
        cgroup.remove().expect("a second time is fine");
        Cgroup::at(path.trim_end_matches("/c")).expect("fine").remove().expect("the parent goes too");
    }

    /// Needs root.
    #[test]
    fn a_frozen_cgroup_and_one_frozen_below_it_are_removed() {
        if hierarchy().version() != "v1" {
            eprintln!("skipped: the unified hierarchy has a test of its own");
            return;
        }
        for below in ["", "/below"] {
            let cgroup =
                Cgroup::at(&format!("/agent-unit-frozen-{}", std::process::id())).expect("a fine path");
            cgroup.create(None).expect("root may");
            let inner = Cgroup::at(&format!("{}{below}", cgroup.path())).expect("a fine path");
            inner.create(None).expect("root may");
            let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("spawned");
            for folder in inner.hierarchy.folders(inner.path()) {
                fs::write(folder.join("cgroup.procs"), child.id().to_string()).expect("ours");
            }
            let frozen = V1::mounted().folder("freezer", cgroup.path()).expect("mounted");
            fs::write(frozen.join("freezer.state"), "FROZEN").expect("ours");
            cgroup.remove_unused().expect("nothing to do");
            assert!(frozen.exists(), "there is somebody");
            cgroup.remove().expect("it is emptied and removed");
            assert!(!child.wait().expect("ours").success());
            assert!(!frozen.exists());
        }
    }
}
