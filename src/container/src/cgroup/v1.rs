//! cgroup v1, one hierarchy a controller; also the hybrid layout, where an empty v2 hierarchy lies beside them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use cgroups_rs::hierarchies;

use super::{CONTROLLERS, CgroupError, Hierarchy, is_gone};

/// Options of a hierarchy that name no controller: cgroup1_show_options in kernel/cgroup/cgroup-v1.c.
const OTHER_OPTIONS: [&str; 7] =
    ["rw", "ro", "noprefix", "xattr", "cpuset_v2_mode", "favordynmods", "clone_children"];

/// The v1 hierarchies that are mounted.
#[derive(Debug)]
pub struct V1 {
    /// Controller and mount point; a controller mounted together with others has their mount point.
    mounts: Vec<(&'static str, PathBuf)>,
    /// Every controller of each hierarchy that has one of ours.
    groups: Vec<Vec<String>>,
}

impl V1 {
    /// Finds out where they are mounted.
    pub fn mounted() -> Self {
        let mounts = hierarchies::mountinfo_self().into_iter();
        Self::of(mounts.map(|mount| (mount.mount_point, mount.super_opts)).collect())
    }

    /// From mount points and their options.
    fn of(mountinfo: Vec<(PathBuf, Vec<String>)>) -> Self {
        let (mut mounts, mut groups): (_, Vec<Vec<String>>) = (Vec::new(), Vec::new());
        for controller in CONTROLLERS {
            let has =
                |(_, options): &&(PathBuf, Vec<String>)| options.iter().any(|option| option == controller);
            let Some((mount_point, options)) = mountinfo.iter().find(has) else { continue };
            mounts.push((controller, mount_point.clone()));
            if !groups.iter().flatten().any(|known| known == controller) {
                let names =
                    |option: &&String| !OTHER_OPTIONS.contains(&option.as_str()) && !option.contains('=');
                groups.push(options.iter().filter(names).cloned().collect());
            }
        }
        V1 { mounts, groups }
    }

    /// The controllers of each hierarchy that has one a container gets a cgroup in. Those of one hierarchy can only be
    /// mounted together.
    pub fn groups(&self) -> &[Vec<String>] {
        &self.groups
    }

    pub(super) fn folder(&self, controller: &str, path: &str) -> Option<PathBuf> {
        self.mounts.iter().find(|(name, _)| *name == controller).map(|(_, mount)| mount.join(path))
    }
}

impl Hierarchy for V1 {
    fn version(&self) -> &'static str {
        "v1"
    }

    fn handle(&self) -> Box<dyn cgroups_rs::Hierarchy> {
        Box::new(hierarchies::V1::new())
    }

    fn controllers(&self) -> Vec<String> {
        self.mounts.iter().map(|(controller, _)| (*controller).to_owned()).collect()
    }

    fn make(&self, path: &str, _: &[&str]) -> Result<Vec<String>, CgroupError> {
        for folder in self.folders(path) {
            fs::create_dir_all(&folder).map_err(|source| CgroupError::Create { path: folder, source })?;
        }
        Ok(self.controllers())
    }

    fn folders(&self, path: &str) -> Vec<PathBuf> {
        let mut folders: Vec<PathBuf> = self.mounts.iter().map(|(_, mount)| mount.join(path)).collect();
        folders.dedup();
        folders
    }

    fn birth_folder(&self, _: &str) -> Option<PathBuf> {
        None
    }

    fn enter(&self, path: &str) -> Result<(), CgroupError> {
        for folder in self.folders(path) {
            // A process with one thread that moves itself by `tasks` spares the kernel the lock over all thread
            // groups, whose taking waits for an RCU grace period (cgroup_procs_write_start in kernel/cgroup/cgroup.c).
            fs::write(folder.join("tasks"), "0")
                .map_err(|source| CgroupError::Enter { path: folder, source })?;
        }
        Ok(())
    }

    fn freeze(&self, path: &str) -> Result<(), CgroupError> {
        let Some(folder) = self.folder("freezer", path) else {
            return Err(CgroupError::NoController { what: "pause".to_owned(), controller: "freezer" });
        };
        write_state(&folder, "FROZEN").map_err(|source| CgroupError::Freeze { path: folder, source })
    }

    fn is_frozen(&self, path: &str) -> Result<bool, CgroupError> {
        let Some(folder) = self.folder("freezer", path) else { return Ok(false) };
        // Between the two it is FREEZING.
        let path = folder.join("freezer.state");
        match fs::read_to_string(&path) {
            Ok(state) => Ok(state.trim() == "FROZEN"),
            Err(error) if is_gone(&error) => Ok(false),
            Err(source) => Err(CgroupError::Read { path, source }),
        }
    }

    fn thaw(&self, path: &str) -> Result<(), CgroupError> {
        match self.folder("freezer", path) {
            Some(folder) => thaw(&folder),
            None => Ok(()),
        }
    }

    fn oom_kills(&self, path: &str) -> Result<u64, CgroupError> {
        let Some(folder) = self.folder("memory", path) else { return Ok(0) };
        super::v2::counter(&folder.join("memory.oom_control"), "oom_kill")
    }

    fn restricts_devices(&self) -> bool {
        self.mounts.iter().any(|(controller, _)| *controller == "devices")
    }
}

/// Opened, never made: the folder may be gone.
fn write_state(folder: &Path, state: &str) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(folder.join("freezer.state"))?;
    file.write_all(state.as_bytes())
}

/// Thaws a folder of the freezer and those below it, outermost first: what is below a frozen one is frozen too.
fn thaw(folder: &Path) -> Result<(), CgroupError> {
    let failed = |source| CgroupError::Thaw { path: folder.to_owned(), source };
    match write_state(folder, "THAWED") {
        Err(error) if is_gone(&error) => return Ok(()),
        other => other.map_err(failed)?,
    }
    match fs::read_dir(folder) {
        Err(error) if is_gone(&error) => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(mut entries) => entries.try_for_each(|entry| {
            let entry = entry.map_err(failed)?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) { thaw(&entry.path()) } else { Ok(()) }
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_that_share_a_hierarchy_are_one_group() {
        let mount = |point: &str, options: &str| {
            (PathBuf::from(point), options.split(',').map(str::to_owned).collect::<Vec<_>>())
        };
        let systemd = V1::of(vec![
            mount("/sys/fs/cgroup/systemd", "rw,xattr,name=systemd"),
            mount("/sys/fs/cgroup/net_cls,net_prio", "rw,net_cls,net_prio"),
            mount("/sys/fs/cgroup/cpu,cpuacct", "rw,cpu,cpuacct"),
            mount("/sys/fs/cgroup/memory", "rw,memory,clone_children,release_agent=/x"),
            mount("/elsewhere", "rw,cpu,cpuacct"),
        ]);
        assert_eq!(systemd.groups(), [vec!["cpu", "cpuacct"], vec!["memory"]]);
        assert_eq!(systemd.controllers(), ["cpu", "cpuacct", "memory"]);
        assert_eq!(
            systemd.folders("a/b"),
            [Path::new("/sys/fs/cgroup/cpu,cpuacct/a/b"), Path::new("/sys/fs/cgroup/memory/a/b")]
        );
        assert!(!systemd.restricts_devices());

        let apart = V1::of(vec![
            mount("/c/pids", "rw,pids"),
            mount("/c/devices", "rw,devices"),
            mount("/c/cpu", "rw,cpu"),
        ]);
        assert_eq!(apart.groups(), [["cpu"], ["pids"], ["devices"]]);
        assert!(apart.restricts_devices());
        // One that has controllers we do not use must still be named whole.
        let foreign = V1::of(vec![mount("/c/all", "rw,cpuset,cpu,memory")]);
        assert_eq!(foreign.groups(), [["cpuset", "cpu", "memory"]]);
    }
}
