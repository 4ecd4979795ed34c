//! Overlay mounts in a mount namespace of this thread's own.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// Lets `look` see layers as the kernel shows them, top first.
pub fn look<T>(layers: &[PathBuf], look: impl FnOnce(&Path) -> T) -> T {
    let empty = tempfile::tempdir().expect("a folder");
    let lower: Vec<String> = layers.iter().map(|layer| layer.display().to_string()).collect();
    // Overlayfs without a writable layer wants two at least.
    let options = format!("lowerdir={}:{}", lower.join(":"), empty.path().display());
    with(&options, MsFlags::MS_RDONLY, look)
}

/// Lets `change` change an image through an overlay.
pub fn change<T>(image: &Path, upper: &Path, work: &Path, change: impl FnOnce(&Path) -> T) -> T {
    // As the shim mounts it.
    let options = format!(
        "lowerdir={},upperdir={},workdir={},redirect_dir=off,metacopy=off",
        image.display(),
        upper.display(),
        work.display()
    );
    with(&options, MsFlags::empty(), change)
}

fn with<T>(options: &str, flags: MsFlags, use_it: impl FnOnce(&Path) -> T) -> T {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).expect("tests run as root");
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).expect("private");
    let place = tempfile::tempdir().expect("a folder");
    mount(Some("overlay"), place.path(), Some("overlay"), flags, Some(options)).expect("mounted");
    let result = use_it(place.path());
    umount2(place.path(), MntFlags::MNT_DETACH).expect("unmounted");
    result
}
