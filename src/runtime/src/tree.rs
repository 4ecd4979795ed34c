//! Removal of a folder with everything in it, however deep a container made it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// How deep a path may lead: so many names of the greatest length still make a path the kernel takes.
const DEPTH: usize = 12;

/// Removes the folder; it is no error when there is none. Links are not followed. Nobody else may be at work in it.
///
/// What lies deeper than [`DEPTH`] is moved up to the folder's top and removed from there, since a walk to the bottom
/// would need a descriptor or a stack frame for every level.
pub(crate) fn remove(root: &Path) -> io::Result<()> {
    let mut removal = Removal { root, raised: BTreeSet::new(), names: 0 };
    match removal.empty(root, 0) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !root.exists() => return Ok(()),
        other => other?,
    }
    while let Some(folder) = removal.raised.pop_first() {
        removal.empty(&folder, 1)?;
        fs::remove_dir(&folder)?;
    }
    fs::remove_dir(root)
}

struct Removal<'a> {
    root: &'a Path,
    /// Folders that were moved up, still to be emptied.
    raised: BTreeSet<PathBuf>,
    names: u64,
}

impl Removal<'_> {
    fn empty(&mut self, folder: &Path, depth: usize) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            if !entry.file_type()?.is_dir() {
                fs::remove_file(path)?;
            } else if depth == 0 && self.raised.contains(&path) {
                // Moved up while its new parent was being read; its turn comes.
            } else if depth < DEPTH {
                self.empty(&path, depth + 1)?;
                fs::remove_dir(path)?;
            } else {
                self.raise(&path)?;
            }
        }
        Ok(())
    }

    fn raise(&mut self, folder: &Path) -> io::Result<()> {
        let raised = loop {
            self.names += 1;
            let raised = self.root.join(format!(".removed-{}", self.names));
            if fs::symlink_metadata(&raised).is_err() {
                break raised;
            }
        };
        fs::rename(folder, &raised)?;
        self.raised.insert(raised);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_a_link_points_at_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("file"), "").unwrap();
        symlink(&outside, root.join("a/link")).unwrap();
        fs::write(root.join("a/b/c"), "").unwrap();
        remove(&root).unwrap();
        remove(&root).unwrap();
        assert!(!root.exists());
        assert!(outside.join("file").exists());
    }

    #[test]
    fn a_tree_too_deep_for_descriptors_and_paths_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir(&root).unwrap();
        // From the inside out, so that no path grows long: each new folder takes the last one in.
        let (inner, outer) = (root.join("inner"), root.join("outer"));
        fs::create_dir(&inner).unwrap();
        for _ in 0..1500 {
            fs::create_dir(&outer).unwrap();
            fs::rename(&inner, outer.join("d".repeat(200))).unwrap();
            fs::rename(&outer, &inner).unwrap();
        }
        fs::create_dir(root.join(".removed-1")).unwrap();
        remove(&root).unwrap();
        assert!(!root.exists());
    }
}
