//! Paths of the kernel that a container may not see or not write.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use container::plan::Plan;
use nix::fcntl::OFlag;
use nix::sys::stat::SFlag;
use sys::mount::{AttributeChange, FileSystem, attr};

use super::devices;
use super::mounts::Made;
use crate::failure::{During, Failure};
use crate::rootfs::{Links, Rootfs, kind_of};

/// Covers the masked paths and makes the read-only ones so. A path that is not there needs nothing.
pub fn apply(plan: &Plan, root: &Rootfs, made: &Made) -> Result<(), Failure> {
    for path in &plan.read_only {
        let Some(place) = open(root, path)? else { continue };
        let tree = sys::mount::copy_tree(&place, true).during(format_args!("bind {}", path.display()))?;
        let change = AttributeChange { set: attr::RDONLY, recursive: true, ..Default::default() };
        sys::mount::set_attributes(&tree, change)
            .during(format_args!("make {} read-only", path.display()))?;
        sys::mount::attach(&tree, &place).during(format_args!("bind {}", path.display()))?;
    }
    let mut null = None;
    // One empty folder covers them all: it is made once and copied.
    let mut empty = None;
    for path in &plan.masked {
        let Some(place) = open(root, path)? else { continue };
        let is_folder = kind_of(&place).during(format_args!("look at {}", path.display()))? == SFlag::S_IFDIR;
        let cover =
            if is_folder { cached(&mut empty, make_empty)? } else { cached(&mut null, || null_of(made))? };
        let tree = sys::mount::copy_tree(cover, false).during(format_args!("cover {}", path.display()))?;
        sys::mount::attach(&tree, &place).during(format_args!("cover {}", path.display()))?;
    }
    Ok(())
}

/// Opens a path without following any link; `None` when it is not there.
fn open(root: &Rootfs, path: &Path) -> Result<Option<OwnedFd>, Failure> {
    match root.open(path, OFlag::O_PATH, Links::Refuse) {
        Ok(place) => Ok(Some(place)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error).during(format_args!("open {} in the container", path.display())),
    }
}

fn cached(
    slot: &mut Option<OwnedFd>,
    make: impl FnOnce() -> Result<OwnedFd, Failure>,
) -> Result<&OwnedFd, Failure> {
    match slot {
        Some(made) => Ok(made),
        None => Ok(slot.insert(make()?)),
    }
}

fn null_of(made: &Made) -> Result<OwnedFd, Failure> {
    let dev =
        made.dev.as_ref().ok_or_else(|| Failure::new("masked files need a /dev of the container's own"))?;
    devices::open_null(dev)
}

fn make_empty() -> Result<OwnedFd, Failure> {
    let empty = FileSystem::open("tmpfs").during("open a tmpfs")?;
    empty.set("size=0").during("set its size")?;
    empty.set("mode=755").during("set its mode")?;
    empty.mount(attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC).during("make a tmpfs")
}
