//! How much room containers and volumes take.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::rc::Rc;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat};

use crate::error::{FileContext, RuntimeError};
use crate::layout::names_in;
use crate::options::MountOption;
use crate::runtime::Runtime;
use crate::view::ContainerView;

/// A named volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeUsage {
    /// Its name.
    pub name: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// The names of the containers that have it, running or not.
    pub containers: Vec<String>,
    /// Whether one of them runs.
    pub active: bool,
}

impl Runtime {
    /// Every container, with the bytes of all files that are its own: what it wrote, its log, its records. What of a
    /// container cannot be counted is logged.
    ///
    /// # Errors
    /// When the containers cannot be listed.
    pub fn container_usage(&self) -> Result<Vec<(ContainerView, u64)>, RuntimeError> {
        let views = self.list()?;
        let counted = views.into_iter().map(|view| {
            let bytes = self.count(self.layout.bundle(&view.id).path());
            (view, bytes)
        });
        Ok(counted.collect())
    }

    /// Every named volume.
    ///
    /// # Errors
    /// When containers or volumes cannot be listed.
    pub fn volume_usage(&self) -> Result<Vec<VolumeUsage>, RuntimeError> {
        let views = self.list()?;
        let volumes = self.layout.volumes();
        let mut names = names_in(&volumes).file("read", &volumes)?;
        names.sort();
        let counted = names.into_iter().map(|name| {
            let has = |view: &&ContainerView| {
                view.options
                    .mounts
                    .iter()
                    .any(|mount| matches!(mount, MountOption::Volume { name: other, .. } if *other == name))
            };
            let users: Vec<&ContainerView> = views.iter().filter(has).collect();
            VolumeUsage {
                bytes: self.count(&self.layout.volume_data(&name)),
                containers: users.iter().map(|view| view.name.clone()).collect(),
                active: users.iter().any(|view| view.state.word() == "running"),
                name,
            }
        });
        Ok(counted.collect())
    }

    fn count(&self, folder: &Path) -> u64 {
        bytes_below(folder).unwrap_or_else(|error| {
            tracing::warn!(folder = %folder.display(), %error, "a folder cannot be counted");
            0
        })
    }
}

/// Bytes of all files below a folder, each counted once whatever names it has. Links are not followed, and a
/// container may change everything meanwhile.
fn bytes_below(root: &Path) -> io::Result<u64> {
    const FLAGS: OFlag =
        OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(FLAGS.bits()).open(root);
    let mut folder: OwnedFd = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other?.into(),
    };
    let mut seen = BTreeSet::new();
    let mut bytes = 0;
    // A folder is open only while one of those in it waits, so that a deep tree takes few descriptors.
    let mut waiting: Vec<(Rc<OwnedFd>, std::ffi::CString)> = Vec::new();
    loop {
        let here = Rc::new(folder.as_fd().try_clone_to_owned()?);
        for entry in Dir::from_fd(folder)?.iter() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = match fstatat(&here, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Err(Errno::ENOENT) => continue,
                other => other?,
            };
            if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR {
                waiting.push((Rc::clone(&here), name.to_owned()));
            } else if stat.st_nlink == 1 || seen.insert((stat.st_dev, stat.st_ino)) {
                bytes += u64::try_from(stat.st_size).unwrap_or(0);
            }
        }
        drop(here);
        folder = loop {
            let Some((parent, name)) = waiting.pop() else { return Ok(bytes) };
            match openat(parent.as_fd(), name.as_c_str(), FLAGS, Mode::empty()) {
                // It went, or is no folder any more.
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
                other => break other?,
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_file_counts_once_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("large"), [0; 10_000]).unwrap();
        fs::write(root.join("a/b/file"), [0; 100]).unwrap();
        fs::hard_link(root.join("a/b/file"), root.join("again")).unwrap();
        fs::write(root.join("own"), [0; 20]).unwrap();
        symlink("../outside", root.join("link")).unwrap();
        // A link has the length of what it says.
        assert_eq!(bytes_below(&root).unwrap(), 100 + 20 + 10);
        assert_eq!(bytes_below(&folder.path().join("none")).unwrap(), 0);
    }

    #[test]
    fn a_tree_too_deep_for_paths_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let (inner, outer) = (folder.path().join("inner"), folder.path().join("outer"));
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("file"), [0; 7]).unwrap();
        // From the inside out, so that no path grows long.
        for _ in 0..1500 {
            fs::create_dir(&outer).unwrap();
            fs::rename(&inner, outer.join("d".repeat(200))).unwrap();
            fs::rename(&outer, &inner).unwrap();
        }
        assert_eq!(bytes_below(folder.path()).unwrap(), 7);
        crate::tree::remove(&inner).unwrap();
    }
}
