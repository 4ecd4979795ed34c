//! A file system of the test's own, as small as wanted.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A small file system, there until dropped.
#[derive(Debug)]
pub struct Disk(PathBuf);

impl Disk {
    /// Mounts one of this size, such as `60m`.
    ///
    /// # Panics
    /// Without root.
    pub fn mount(at: &Path, size: &str) -> Self {
        fs::create_dir_all(at).expect("root may");
        let options = format!("size={size},mode=700");
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).expect("root may");
        Disk(at.to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).expect("it is mounted");
    }
}
