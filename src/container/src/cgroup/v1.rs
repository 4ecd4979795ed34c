//! cgroup v1, one hierarchy a controller; also the hybrid layout, where an empty v2 hierarchy lies beside them.

use std::fs;
use std::path::PathBuf;

use cgroups_rs::hierarchies;

use super::{CONTROLLERS, CgroupError, Hierarchy};

/// The v1 hierarchies that are mounted.
#[derive(Debug)]
pub struct V1 {
    /// Controller and mount point; a controller mounted together with others has their mount point.
    mounts: Vec<(&'static str, PathBuf)>,
}

impl V1 {
    /// Finds out where they are mounted.
    pub fn mounted() -> Self {
        let mountinfo = hierarchies::mountinfo_self();
        let mounts = CONTROLLERS
            .iter()
            .filter_map(|controller| {
                let mount = mountinfo
                    .iter()
                    .find(|mount| mount.super_opts.iter().any(|option| option == controller))?;
                Some((*controller, mount.mount_point.clone()))
            })
            .collect();
        V1 { mounts }
    }

    /// Controller and mount point of each.
    pub fn mounts(&self) -> &[(&'static str, PathBuf)] {
        &self.mounts
    }

    fn folder(&self, controller: &str, path: &str) -> Option<PathBuf> {
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

    fn oom_kills(&self, path: &str) -> Result<u64, CgroupError> {
        let Some(folder) = self.folder("memory", path) else { return Ok(0) };
        super::v2::counter(&folder.join("memory.oom_control"), "oom_kill")
    }

    fn restricts_devices(&self) -> bool {
        self.mounts.iter().any(|(controller, _)| *controller == "devices")
    }
}
