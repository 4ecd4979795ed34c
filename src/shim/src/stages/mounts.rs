//! The mounts of the configuration, each made detached and attached to a place that was opened inside the root.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use container::plan::{MountKind, MountPlan, Plan};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag};
use nix::unistd::symlinkat;
use sys::mount::{AttributeChange, FileSystem, attr};

use super::devices;
use crate::failure::{During, Failure};
use crate::rootfs::{Links, Place, Rootfs, kind_of};

/// What later stages use of what was mounted.
#[derive(Debug, Default)]
pub struct Made {
    /// The root of the container's own devpts.
    pub devpts: Option<OwnedFd>,
    /// The container's /dev, when it is a file system of its own.
    pub dev: Option<OwnedFd>,
}

/// Makes the mounts in order, and the device files when /dev is the container's own.
pub fn make(plan: &Plan, root: &Rootfs) -> Result<Made, Failure> {
    let mut made = Made::default();
    for mount in &plan.mounts {
        make_one(mount, root, &mut made).map_err(|error| {
            let message = error.into_failed_start().message;
            Failure::new(format!("failed to mount {} in the container: {message}", mount.target.display()))
        })?;
    }
    if let Some(dev) = &made.dev {
        devices::populate(dev)?;
    }
    Ok(made)
}

fn make_one(mount: &MountPlan, root: &Rootfs, made: &mut Made) -> Result<(), Failure> {
    let target = mount.target.as_path();
    match &mount.kind {
        MountKind::Bind { source, recursive } => {
            // Pinned once: neither the source nor the place can be exchanged from here on.
            let source = open(source, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
                .during(format_args!("open {}", source.display()))?;
            let kind = kind_of(&source).during("look at the source")?;
            let place = if kind == SFlag::S_IFDIR { Place::Folder } else { Place::File };
            let tree = sys::mount::copy_tree(&source, *recursive).during("copy the mount")?;
            set(&tree, mount, true)?;
            let place = root.place(target, place, Links::Follow).during("open the place to mount on")?;
            sys::mount::attach(&tree, &place).during("attach it")
        }
        MountKind::Cgroup => cgroups(mount, root),
        MountKind::New { file_system, options } => {
            let file = FileSystem::open(file_system).during(format_args!("open a {file_system}"))?;
            for option in options {
                file.set(option).during(format_args!("set {option}"))?;
            }
            let detached = file.mount(mount.attributes).during(format_args!("make a {file_system}"))?;
            set(&detached, &MountPlan { attributes: 0, ..mount.clone() }, false)?;
            // The image could have put a link where these belong, to have them cover something else.
            let links = match file_system.as_str() {
                "proc" | "sysfs" | "devpts" | "mqueue" => Links::Refuse,
                _ if target.starts_with("/dev") => Links::Refuse,
                _ => Links::Follow,
            };
            let place = root.place(target, Place::Folder, links).map_err(|error| ordinary(error, links))?;
            sys::mount::attach(&detached, &place).during("attach it")?;
            if file_system == "devpts" && target == Path::new("/dev/pts") {
                made.devpts = Some(detached);
            } else if target == Path::new("/dev") {
                made.dev = Some(detached);
            }
            Ok(())
        }
    }
}

fn ordinary(error: io::Error, links: Links) -> Failure {
    match (links, error.raw_os_error()) {
        (Links::Refuse, Some(libc::ELOOP)) => {
            Failure::new("the image has a symbolic link there; it must be an ordinary folder")
        }
        _ => Failure::new(format!("failed to open the place to mount on: {error}")),
    }
}

fn set(tree: &OwnedFd, mount: &MountPlan, recursive: bool) -> Result<(), Failure> {
    if mount.attributes != 0 {
        let change = AttributeChange { set: mount.attributes, recursive, ..Default::default() };
        sys::mount::set_attributes(tree, change).during("set its attributes")?;
    }
    let change = AttributeChange {
        propagation: mount.propagation,
        recursive: mount.propagation_recursive,
        ..Default::default()
    };
    sys::mount::set_attributes(tree, change).during("set its propagation")
}

/// The cgroups, as the container's cgroup namespace shows them: one file system on v2; on v1 one a hierarchy, in a small
/// tmpfs.
fn cgroups(mount: &MountPlan, root: &Rootfs) -> Result<(), Failure> {
    let place =
        |path: &Path| root.place(path, Place::Folder, Links::Refuse).during("open the place to mount on");
    if container::cgroup::hierarchy().version() == "v2" {
        let cgroup = FileSystem::open("cgroup2").during("open a cgroup2")?;
        let cgroup = cgroup.mount(mount.attributes).during("make a cgroup2")?;
        return sys::mount::attach(&cgroup, place(&mount.target)?).during("attach it");
    }
    let folder = FileSystem::open("tmpfs").during("open a tmpfs")?;
    folder.set("mode=755").during("set its mode")?;
    folder.set("size=64k").during("set its size")?;
    let folder = folder.mount(mount.attributes & !attr::RDONLY).during("make a tmpfs")?;
    sys::mount::attach(&folder, place(&mount.target)?).during("attach it")?;
    for controllers in container::cgroup::V1::mounted().groups() {
        let hierarchy = FileSystem::open("cgroup").during("open a cgroup")?;
        for controller in controllers {
            hierarchy.set(controller).during(format_args!("select {controller}"))?;
        }
        // As hosts have it: `cpu,cpuacct`, and a link for each.
        let name = controllers.join(",");
        let hierarchy = hierarchy.mount(mount.attributes).during(format_args!("make a {name} cgroup"))?;
        sys::mount::attach(&hierarchy, place(&mount.target.join(&name))?)
            .during(format_args!("attach {name}"))?;
        for controller in controllers.iter().filter(|controller| **controller != name) {
            symlinkat(name.as_str(), &folder, controller.as_str())
                .during(format_args!("make a link {controller}"))?;
        }
    }
    if mount.attributes & attr::RDONLY != 0 {
        let change = AttributeChange { set: attr::RDONLY, ..Default::default() };
        sys::mount::set_attributes(&folder, change).during("make it read-only")?;
    }
    Ok(())
}
