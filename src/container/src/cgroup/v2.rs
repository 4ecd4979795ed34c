//! cgroup v2, the unified hierarchy at /sys/fs/cgroup.

use std::fs;
use std::path::{Path, PathBuf};

use cgroups_rs::hierarchies;

use super::{CONTROLLERS, CgroupError, Hierarchy};

/// The unified hierarchy.
#[derive(Debug)]
pub struct V2;

impl Hierarchy for V2 {
    fn version(&self) -> &'static str {
        "v2"
    }

    fn handle(&self) -> Box<dyn cgroups_rs::Hierarchy> {
        Box::new(hierarchies::V2::new())
    }

    fn controllers(&self) -> Vec<String> {
        let path = Path::new(hierarchies::UNIFIED_MOUNTPOINT).join("cgroup.controllers");
        let text = fs::read_to_string(path).unwrap_or_default();
        let known = |name: &&str| CONTROLLERS.contains(name) || *name == "io";
        text.split_ascii_whitespace().filter(known).map(str::to_owned).collect()
    }

    fn folders(&self, path: &str) -> Vec<PathBuf> {
        vec![Path::new(hierarchies::UNIFIED_MOUNTPOINT).join(path)]
    }

    fn birth_folder(&self, path: &str) -> Option<PathBuf> {
        Some(Path::new(hierarchies::UNIFIED_MOUNTPOINT).join(path))
    }

    fn enter(&self, _: &str) -> Result<(), CgroupError> {
        Ok(())
    }

    fn oom_kills(&self, path: &str) -> Result<u64, CgroupError> {
        let folder = Path::new(hierarchies::UNIFIED_MOUNTPOINT).join(path);
        counter(&folder.join("memory.events"), "oom_kill")
    }

    fn restricts_devices(&self) -> bool {
        false
    }
}

/// The value behind `name` in a file of lines `name value`; 0 when it is not there.
pub(super) fn counter(path: &Path, name: &str) -> Result<u64, CgroupError> {
    let text =
        fs::read_to_string(path).map_err(|source| CgroupError::Read { path: path.to_owned(), source })?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.and_then(|value| value.trim().parse().ok()).unwrap_or(0))
}
