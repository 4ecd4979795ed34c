//! Removal of a folder with everything in it, however deep a container made it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Removes the folder; it is no error when there is none. Links are not followed. Nobody else may be at work in it.
pub(crate) fn remove(root: &Path) -> io::Result<()> {
    match fs::remove_dir_all(root) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // It holds a descriptor per level, so a tree may be too deep for it.
        Err(_) => flatten(root).and_then(|()| fs::remove_dir(root)),
    }
}

/// Empties the folder with paths that stay short: each folder in it is moved up to its top before it is looked into.
fn flatten(root: &Path) -> io::Result<()> {
    let mut next = 0u64;
    let mut folders: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                fs::remove_file(entry.path())?;
                continue;
            }
            let raised = loop {
                let raised = root.join(format!(".removed-{next}"));
                next += 1;
                if fs::symlink_metadata(&raised).is_err() {
                    break raised;
                }
            };
            fs::rename(entry.path(), &raised)?;
            folders.push(raised);
        }
        if folder != root {
            fs::remove_dir(&folder)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_a_link_points_at_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        for empty in [remove as fn(&Path) -> io::Result<()>, flatten] {
            fs::create_dir_all(root.join("a/b")).unwrap();
            fs::create_dir_all(&outside).unwrap();
            fs::write(outside.join("file"), "").unwrap();
            symlink(&outside, root.join("a/link")).unwrap();
            fs::write(root.join("a/b/c"), "").unwrap();
            empty(&root).unwrap();
            assert!(!root.join("a").exists());
            assert!(outside.join("file").exists());
        }
        remove(&root).unwrap();
        remove(&root).unwrap();
        assert!(!root.exists());
    }

    #[test]
    fn a_tree_deeper_than_there_are_descriptors_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir(&root).unwrap();
        // From the inside out, so that no path grows long: each new folder takes the last one in.
        let (inner, outer) = (root.join("inner"), root.join("outer"));
        fs::create_dir(&inner).unwrap();
        for _ in 0..5000 {
            fs::create_dir(&outer).unwrap();
            fs::rename(&inner, outer.join("d")).unwrap();
            fs::rename(&outer, &inner).unwrap();
        }
        remove(&root).unwrap();
        assert!(!root.exists());
    }
}
