//! cgroup v2, the unified hierarchy at /sys/fs/cgroup.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use cgroups_rs::hierarchies;

use super::{CONTROLLERS, CgroupError, Hierarchy};

/// The unified hierarchy.
#[derive(Debug)]
pub struct V2 {
    root: PathBuf,
}

impl V2 {
    /// The one at its usual place.
    pub fn mounted() -> Self {
        V2 { root: hierarchies::UNIFIED_MOUNTPOINT.into() }
    }

    fn folder(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

impl Hierarchy for V2 {
    fn version(&self) -> &'static str {
        "v2"
    }

    fn handle(&self) -> Box<dyn cgroups_rs::Hierarchy> {
        Box::new(hierarchies::V2::new())
    }

    fn controllers(&self) -> Vec<String> {
        // Without a hierarchy there are none, which the caller tells.
        available(&self.root).unwrap_or_default()
    }

    fn make(&self, path: &str, needed: &[&str]) -> Result<Vec<String>, CgroupError> {
        let mut folder = self.root.clone();
        for part in path.split('/') {
            let offered = available(&folder)?;
            for controller in offered {
                match enable(&folder, &controller) {
                    // What no limit asks for may be missing: a kernel with real-time groups refuses `cpu` to some.
                    Err(source) if needed.contains(&controller.as_str()) => {
                        return Err(CgroupError::Enable { controller, path: folder, source });
                    }
                    _ => {}
                }
            }
            folder.push(part);
            match fs::create_dir(&folder) {
                // Another first container may make the same parent at this moment.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => other.map_err(|source| CgroupError::Create { path: folder.clone(), source })?,
            }
        }
        available(&folder)
    }

    fn folders(&self, path: &str) -> Vec<PathBuf> {
        vec![self.folder(path)]
    }

    fn birth_folder(&self, path: &str) -> Option<PathBuf> {
        Some(self.folder(path))
    }

    fn enter(&self, _: &str) -> Result<(), CgroupError> {
        Ok(())
    }

    /// Nothing to do: here a frozen process dies of SIGKILL (Documentation/admin-guide/cgroup-v2.rst, cgroup.freeze).
    fn freeze(&self, path: &str) -> Result<(), CgroupError> {
        let path = self.folder(path).join("cgroup.freeze");
        fs::write(&path, "1").map_err(|source| CgroupError::Freeze { path, source })
    }

    fn is_frozen(&self, path: &str) -> Result<bool, CgroupError> {
        match counter(&self.folder(path).join("cgroup.events"), "frozen") {
            Err(CgroupError::Read { source, .. }) if super::is_gone(&source) => Ok(false),
            other => Ok(other? == 1),
        }
    }

    fn thaw(&self, path: &str) -> Result<(), CgroupError> {
        let path = self.folder(path).join("cgroup.freeze");
        match fs::OpenOptions::new().write(true).open(&path).and_then(|mut file| file.write_all(b"0")) {
            Err(error) if super::is_gone(&error) => Ok(()),
            other => other.map_err(|source| CgroupError::Thaw { path, source }),
        }
    }

    fn oom_kills(&self, path: &str) -> Result<u64, CgroupError> {
        counter(&self.folder(path).join("memory.events"), "oom_kill")
    }

    fn restricts_devices(&self) -> bool {
        false
    }
}

/// Those controllers a container may get that a folder has.
fn available(folder: &Path) -> Result<Vec<String>, CgroupError> {
    let path = folder.join("cgroup.controllers");
    let text = fs::read_to_string(&path).map_err(|source| CgroupError::Read { path, source })?;
    let known = |name: &&str| CONTROLLERS.contains(name) || *name == "io";
    Ok(text.split_ascii_whitespace().filter(known).map(str::to_owned).collect())
}

/// Gives a controller to the folders below; that they have it already is fine.
fn enable(folder: &Path, controller: &str) -> io::Result<()> {
    let path = folder.join("cgroup.subtree_control");
    fs::OpenOptions::new().write(true).open(path)?.write_all(format!("+{controller}").as_bytes())
}

/// Whether the kernel counts swap: it then says so in every cgroup that has the memory controller but the root.
pub(super) fn counts_swap(root: &Path) -> bool {
    let children = fs::read_dir(root).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    match children.into_iter().find(|child| child.join("memory.max").exists()) {
        Some(child) => child.join("memory.swap.max").exists(),
        // None has the controller yet. It counts swap unless it cannot swap at all.
        None => Path::new("/proc/swaps").exists(),
    }
}

/// The value behind `name` in a file of lines `name value`; 0 when it is not there.
pub(super) fn counter(path: &Path, name: &str) -> Result<u64, CgroupError> {
    let text =
        fs::read_to_string(path).map_err(|source| CgroupError::Read { path: path.to_owned(), source })?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.and_then(|value| value.trim().parse().ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::super::Cgroup;
    use super::*;

    /// The unified hierarchy of this machine; the one without controllers in the hybrid layout.
    fn here() -> Option<V2> {
        let places = [hierarchies::UNIFIED_MOUNTPOINT, "/sys/fs/cgroup/unified"];
        let root =
            places.map(PathBuf::from).into_iter().find(|root| root.join("cgroup.controllers").exists());
        if root.is_none() {
            eprintln!("skipped: no unified hierarchy is mounted");
        }
        root.map(|root| V2 { root })
    }

    /// Needs root.
    #[test]
    fn many_make_the_same_parent_at_once() {
        let Some(V2 { root }) = here() else { return };
        let parent = format!("agent-unit-race-{}", std::process::id());
        for round in 0..20 {
            std::thread::scope(|scope| {
                for at in 0..4 {
                    let (hierarchy, path) = (V2 { root: root.clone() }, format!("{parent}/p/{round}-{at}"));
                    scope.spawn(move || hierarchy.make(&path, &[]).expect("each can"));
                }
            });
            let all = Cgroup::within(&parent, Box::new(V2 { root: root.clone() })).expect("a fine path");
            all.remove_unused().expect("nothing to do");
            assert!(root.join(&parent).exists(), "there are some below");
            all.remove().expect("removed");
            assert!(!root.join(&parent).exists());
        }
    }

    /// Needs root.
    #[test]
    fn a_frozen_process_is_killed() {
        let Some(V2 { root }) = here() else { return };
        let path = format!("agent-unit-frozen-{}", std::process::id());
        let cgroup = Cgroup::within(&path, Box::new(V2 { root: root.clone() })).expect("a fine path");
        cgroup.hierarchy.make(&path, &[]).expect("root may");
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("spawned");
        let folder = root.join(&path);
        fs::write(folder.join("cgroup.procs"), child.id().to_string()).expect("ours");
        fs::write(folder.join("cgroup.freeze"), "1").expect("ours");
        cgroup.remove().expect("emptied and removed");
        assert!(!child.wait().expect("ours").success());
    }

    #[test]
    fn swap_is_counted_where_a_cgroup_with_memory_says_so() {
        let root = tempfile::tempdir().expect("a folder");
        for (child, files, expected) in [
            ("a", &["cgroup.procs"][..], Path::new("/proc/swaps").exists()),
            ("b", &["memory.max"], false),
            ("b", &["memory.max", "memory.swap.max"], true),
        ] {
            fs::create_dir_all(root.path().join(child)).expect("made");
            for file in files {
                fs::write(root.path().join(child).join(file), "").expect("made");
            }
            assert_eq!(counts_swap(root.path()), expected, "{files:?}");
        }
    }
}
