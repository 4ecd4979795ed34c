//! `reset`: the machine as it was before us. Everything that was made for containers goes, and so does what is kept.

use std::fs;
use std::io;
use std::path::Path;

use container::cgroup::Cgroup;

use crate::error::{FileContext, RuntimeError};
use crate::runtime::Runtime;
use crate::tree;

/// What we make below the root. A root that was pointed at a folder with other things in it keeps those.
const KEPT: [&str; 9] =
    ["containers", "names", "volumes", "images", "content", "layers", "marks", "tmp", "locks"];

/// What we make below the run root.
const RUNNING: [&str; 5] = ["containers", "trace", "leases", "ports", "sysctls"];

/// Files of either; the lock files go last, since others may wait for them.
const FILES: [&str; 5] = ["swept", "rootfs-driver", "sweep.lock", "network.lock", "lock"];

impl Runtime {
    /// Removes every container, running or not, then network, cgroups, images, volumes and state. The configuration
    /// stays. Safe to repeat after a failure.
    ///
    /// # Errors
    /// What could not be removed.
    pub fn reset(self) -> Result<(), RuntimeError> {
        loop {
            let containers = self.complete_ids()?;
            if containers.is_empty() {
                break;
            }
            for id in containers {
                match self.remove(&id, true) {
                    Err(error) if error.is_not_found() => {}
                    other => other?,
                }
            }
        }
        self.reap()?;
        self.network()?.remove_all()?;
        // Another root may have containers in it.
        Cgroup::at(&self.config.cgroup_parent)?.remove_unused()?;
        clear(self.layout.run_root(), &RUNNING)?;
        clear(self.layout.root(), &KEPT)
    }
}

fn clear(root: &Path, folders: &[&str]) -> Result<(), RuntimeError> {
    for name in folders {
        let path = root.join(name);
        tree::remove(&path).file("remove", &path)?;
    }
    for name in FILES {
        let path = root.join(name);
        ignore(fs::remove_file(&path), &[io::ErrorKind::NotFound]).file("remove", &path)?;
    }
    let fine = [io::ErrorKind::NotFound, io::ErrorKind::DirectoryNotEmpty];
    ignore(fs::remove_dir(root), &fine).file("remove", root)
}

fn ignore(result: io::Result<()>, kinds: &[io::ErrorKind]) -> io::Result<()> {
    match result {
        Err(error) if kinds.contains(&error.kind()) => Ok(()),
        other => other,
    }
}
