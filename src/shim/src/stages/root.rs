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

/// mount(2) takes a page of options, with the null byte at its end.
const MAX_OPTIONS: usize = 4095;

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
            let options = overlay_options(lower, upper, work, *volatile)?;
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

fn overlay_options(lower: &[String], upper: &Path, work: &Path, volatile: bool) -> Result<String, Failure> {
    let text = |path: &Path| {
        path.to_str().map(escape).ok_or_else(|| Failure::new(format!("path {} is not UTF-8", path.display())))
    };
    let lower: Vec<String> = lower.iter().map(|layer| escape(layer)).collect();
    let mut options =
        format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), text(upper)?, text(work)?);
    // Whatever the kernel's defaults: the upper layer holds its files whole, so that it can be read by itself.
    options.push_str(",redirect_dir=off,metacopy=off");
    if volatile {
        options.push_str(",volatile");
    }
    if options.len() > MAX_OPTIONS {
        return Err(Failure::new(format!(
            "the image has too many layers for one overlay mount: {} bytes of options, {MAX_OPTIONS} are possible",
            options.len()
        )));
    }
    Ok(options)
}

/// overlayfs parts layers at colons and options at commas, and takes a backslash before either.
fn escape(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for character in path.chars() {
        if matches!(character, ':' | ',' | '\\') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_in_paths_are_escaped_and_too_long_lists_refused() {
        let options =
            overlay_options(&["a:b".to_owned(), "c".to_owned()], Path::new("/u,p"), Path::new("/w"), true)
                .expect("short");
        assert_eq!(
            options,
            "lowerdir=a\\:b:c,upperdir=/u\\,p,workdir=/w,redirect_dir=off,metacopy=off,volatile"
        );
        let many = vec!["x".repeat(20); 300];
        assert!(overlay_options(&many, Path::new("/u"), Path::new("/w"), false).is_err());
    }
}
