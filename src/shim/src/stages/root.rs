//! The root filesystem: mounted, and later made the root.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use container::monitor::RootfsSpec;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount as mount_at, umount2};
use nix::sys::stat::Mode;
use sys::mount::{AttributeChange, attr};

use crate::failure::{During, Failure};
use crate::rootfs::Rootfs;

/// Mounts the root filesystem at `place`, in this process's mount namespace alone.
pub fn mount(place: &Path, rootfs: &RootfsSpec) -> Result<Rootfs, Failure> {
    // What the host unmounts is let go here too, and nothing that is mounted here reaches the host.
    let slave = MsFlags::MS_SLAVE | MsFlags::MS_REC;
    mount_at(None::<&str>, "/", None::<&str>, slave, None::<&str>).during("detach from the host's mounts")?;
    // Where devices are not restricted by a cgroup, those of the image must do nothing at least.
    let harmless = !container::cgroup::hierarchy().restricts_devices();
    match rootfs {
        RootfsSpec::Ready => {
            let tree = File::open(place).during(format_args!("open {}", place.display()))?;
            let copy = sys::mount::copy_tree(&tree, true).during("bind the root filesystem")?;
            if harmless {
                let change = AttributeChange { set: attr::NODEV, recursive: true, ..Default::default() };
                sys::mount::set_attributes(&copy, change).during("keep devices from being opened")?;
            }
            sys::mount::attach(&copy, &tree).during("bind the root filesystem")?;
        }
        RootfsSpec::Overlay { lower, links, upper, work, volatile } => {
            let options = container::overlay::options(lower, upper, work, *volatile)
                .during("write down the overlay's layers")?;
            nix::unistd::chdir(links).during(format_args!("open {}", links.display()))?;
            let flags = if harmless { MsFlags::MS_NODEV } else { MsFlags::empty() };
            mount_at(Some("overlay"), place, Some("overlay"), flags, Some(options.as_str()))
                .during(format_args!("mount the overlay of {} layers at {}", lower.len(), place.display()))?;
        }
    }
    let root = open(place, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .during(format_args!("open {}", place.display()))?;
    let private = AttributeChange { propagation: libc::MS_PRIVATE, recursive: true, ..Default::default() };
    sys::mount::set_attributes(&root, private).during("make the root filesystem's mount private")?;
    Ok(Rootfs::new(root))
}

/// Makes it the root, and lets go of the old one: pivot_root, never chroot, so that there is no way back.
pub fn pivot(root: &Rootfs, read_only: bool) -> Result<(), Failure> {
    nix::unistd::fchdir(root.as_fd()).during("enter the root filesystem")?;
    // With both at the same place the old root ends up on top of the new one (pivot_root(2), NOTES).
    nix::unistd::pivot_root(".", ".").during("pivot into the root filesystem")?;
    umount2(".", MntFlags::MNT_DETACH).during("let go of the host's root")?;
    nix::unistd::chdir("/").during("enter the root filesystem")?;
    if read_only {
        let change = AttributeChange { set: attr::RDONLY, ..Default::default() };
        sys::mount::set_attributes(root, change).during("make the root filesystem read-only")?;
    }
    Ok(())
}
