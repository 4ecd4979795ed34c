//! Work under way: a folder below `tmp` that its owner holds locked, and the content it counts on.
//!
//! The owner's end, however it comes, frees the lock; the next operation removes what was left. As long as
//! the lock is held, nothing that its `needs` file names is removed from the store.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::layout::{self, Layout};
use super::lock::Lock;
use crate::digest::Digest;
use crate::error::{ImageError, Result};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A folder for work under way; dropping it removes what is still in it.
#[derive(Debug)]
pub(crate) struct Work {
    folder: PathBuf,
    _lock: Lock,
}

impl Work {
    /// Begins work that counts on `needs`, blobs and chain ids, and removes what others left behind.
    pub(crate) fn begin(layout: &Layout, needs: impl IntoIterator<Item = Digest>) -> Result<Work> {
        let hold = Lock::hold(&layout.store_lock())?;
        let abandoned = abandoned(layout)?;
        let folder = new_folder(layout)?;
        let lock = Lock::try_passing(&lock_of(&folder))?.ok_or_else(|| ImageError::Io {
            operation: "lock",
            path: folder.clone(),
            source: io::ErrorKind::WouldBlock.into(),
        })?;
        let lines: Vec<String> = needs.into_iter().map(|digest| digest.to_string()).collect();
        let file = folder.join("needs");
        let mut needs = layout::new_file(&file)?;
        needs.write_all(lines.join("\n").as_bytes()).map_err(ImageError::io("write", file))?;
        drop(hold);
        for work in abandoned {
            work.finish()?;
        }
        Ok(Work { folder, _lock: lock })
    }

    /// Counts on more content from now on.
    pub(crate) fn need(&self, layout: &Layout, needs: impl IntoIterator<Item = Digest>) -> Result<()> {
        let lines: String = needs.into_iter().map(|digest| format!("\n{digest}")).collect();
        let path = self.folder.join("needs");
        let _hold = Lock::hold(&layout.store_lock())?;
        let mut file = OpenOptions::new().append(true).open(&path).map_err(ImageError::io("open", &path))?;
        file.write_all(lines.as_bytes()).map_err(ImageError::io("write", path))
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Removes the folder, and says when that fails.
    pub(crate) fn finish(self) -> Result<()> {
        layout::remove_folder(&self.folder)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // What cannot be removed now is removed by whoever begins work next.
        drop(layout::remove_folder(&self.folder));
    }
}

/// What work under way counts on. The store's lock must be held.
pub(crate) fn needs(layout: &Layout) -> Result<BTreeSet<Digest>> {
    let mut needs = BTreeSet::new();
    for name in layout::names_in(&layout.tmp())? {
        let folder = layout.tmp().join(name);
        if !folder.is_dir() {
            continue;
        }
        match fs::read_to_string(folder.join("needs")) {
            Ok(text) => needs.extend(text.lines().filter_map(|line| line.parse::<Digest>().ok())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(ImageError::io("read", folder.join("needs"))(error)),
        }
    }
    Ok(needs)
}

/// The work whose owner is gone, now held by us; and what is left of its other locks is removed. The store's lock
/// must be held.
fn abandoned(layout: &Layout) -> Result<Vec<Work>> {
    for name in layout::names_in(&layout.locks())? {
        // A free one goes as it is let go.
        drop(Lock::try_passing(&layout.locks().join(name))?);
    }
    let mut found = Vec::new();
    let names = layout::names_in(&layout.tmp())?;
    for name in &names {
        let path = layout.tmp().join(name);
        match name.strip_suffix(".lock") {
            // A lock whose folder is gone already.
            Some(folder) if !names.iter().any(|name| name == folder) => drop(Lock::try_passing(&path)?),
            Some(_) => {}
            None => {
                let lock = Lock::try_passing(&lock_of(&path))?;
                found.extend(lock.map(|lock| Work { folder: path, _lock: lock }));
            }
        }
    }
    Ok(found)
}

/// A folder that is new, whoever had our process id before.
fn new_folder(layout: &Layout) -> Result<PathBuf> {
    loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = layout.tmp().join(format!("{}-{count}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(ImageError::io("make the folder", folder)(error)),
            Ok(()) => return Ok(folder),
        }
    }
}

fn lock_of(folder: &Path) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abandoned_work_is_removed_and_held_work_is_kept() {
        let root = std::env::temp_dir().join(format!("image-work-{}", std::process::id()));
        let layout = Layout::new(&root);
        layout.prepare().expect("folders");
        let need = Digest::of(b"x");
        let held = Work::begin(&layout, [need]).expect("begun");
        let left = layout.tmp().join("1-0");
        fs::create_dir(&left).expect("a folder");
        fs::write(left.join("half"), "x").expect("a file");
        let (of_layer, held_layer) = (layout.layer_lock(&need), layout.layer_lock(&Digest::of(b"y")));
        fs::write(&of_layer, "").expect("a file");
        let lock = Lock::try_passing(&held_layer).expect("readable").expect("free");
        let other = Work::begin(&layout, []).expect("begun");
        assert!(!left.exists() && !of_layer.exists() && held_layer.exists());
        drop(lock);
        assert!(held.path("needs").exists());
        assert!(needs(&layout).expect("readable").contains(&need));
        other.finish().expect("removed");
        drop(held);
        assert!(layout::names_in(&layout.tmp()).expect("readable").is_empty());
        fs::remove_dir_all(root).expect("removable");
    }
}
