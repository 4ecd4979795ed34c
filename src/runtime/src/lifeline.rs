//! The life-line of a container: its run folder, which exists as long as anything of the container outside its
//! bundle is not cleaned up, and the lock in it, which says that somebody sees to that.
//!
//! The lock is an exclusive flock(2) of the file `lock`. It belongs to the open file description, so a copy of the
//! descriptor that was passed to the monitor keeps it when we are gone. Nothing ever unlocks it but the closing of
//! the last copy: `LOCK_UN` would take it from the monitor too. Where the lock is free nobody lives who would
//! clean up, and whoever takes it may.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{FileContext, RuntimeError};
use crate::layout::make_private;

const LOCK: &str = "lock";

/// A container's run folder, locked by us.
#[derive(Debug)]
pub(crate) struct LifeLine {
    run_dir: PathBuf,
    lock: File,
}

/// What trying for a lock found.
#[derive(Debug)]
pub(crate) enum Tried {
    /// It is ours now.
    Locked(LifeLine),
    /// Somebody has it.
    Held,
    /// There is no run folder: all is cleaned up.
    Gone,
}

impl LifeLine {
    /// Makes the run folder where it is missing and takes its lock, however long that takes.
    pub(crate) fn create(run_dir: &Path) -> Result<Self, RuntimeError> {
        loop {
            make(run_dir)?;
            if let Some(file) = open(run_dir, true)?
                && let Some(line) = lock(run_dir, file)?
            {
                return Ok(line);
            }
        }
    }

    /// Makes the run folder where it is missing and takes its lock if it is free.
    pub(crate) fn try_create(run_dir: &Path) -> Result<Option<Self>, RuntimeError> {
        loop {
            make(run_dir)?;
            match LifeLine::try_take(run_dir)? {
                Tried::Locked(line) => return Ok(Some(line)),
                Tried::Held => return Ok(None),
                Tried::Gone => {}
            }
        }
    }

    /// Takes the lock when its holder has let go of it; `None` when the run folder is gone by then.
    pub(crate) fn wait(run_dir: &Path) -> Result<Option<Self>, RuntimeError> {
        loop {
            let Some(file) = open(run_dir, run_dir.is_dir())? else { return Ok(None) };
            if let Some(line) = lock(run_dir, file)? {
                return Ok(Some(line));
            }
        }
    }

    /// Takes the lock if it is free.
    pub(crate) fn try_take(run_dir: &Path) -> Result<Tried, RuntimeError> {
        loop {
            // A folder whose lock is missing was left by someone who was killed between making or removing the two.
            let Some(file) = open(run_dir, run_dir.is_dir())? else { return Ok(Tried::Gone) };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(Tried::Held),
                Err(TryLockError::Error(source)) => return Err(source).file("lock", &run_dir.join(LOCK)),
            }
            if is_current(run_dir, &file)? {
                return Ok(Tried::Locked(LifeLine { run_dir: run_dir.to_owned(), lock: file }));
            }
        }
    }

    /// Whether somebody holds the lock; asks without getting in the way of one who takes it.
    pub(crate) fn is_held(run_dir: &Path) -> Result<bool, RuntimeError> {
        let Some(file) = open(run_dir, false)? else { return Ok(false) };
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(source)) => Err(source).file("lock", &run_dir.join(LOCK)),
        }
    }

    pub(crate) fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// Removes the run folder: nothing of the container is left outside its bundle. The lock goes last, so that
    /// whoever is killed half way leaves a folder that others take for what it is.
    pub(crate) fn finish(self) -> Result<(), RuntimeError> {
        let run_dir = &self.run_dir;
        for entry in fs::read_dir(run_dir).file("read", run_dir)? {
            let entry = entry.file("read", run_dir)?;
            if entry.file_name() == LOCK {
                continue;
            }
            let path = entry.path();
            let removed = match entry.file_type() {
                Ok(kind) if kind.is_dir() => fs::remove_dir_all(&path),
                _ => fs::remove_file(&path),
            };
            missing_is_fine(removed).file("remove", &path)?;
        }
        let lock = run_dir.join(LOCK);
        missing_is_fine(fs::remove_file(&lock)).file("remove", &lock)?;
        match fs::remove_dir(run_dir) {
            // One who waits for the lock may take the folder as soon as the lock's name is gone; it is theirs then.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            other => missing_is_fine(other).file("remove", run_dir),
        }
    }
}

impl AsFd for LifeLine {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }
}

fn make(run_dir: &Path) -> Result<(), RuntimeError> {
    if let Some(all) = run_dir.parent() {
        make_private(all).file("create", all)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(run_dir) {
        // It is there, or was a moment ago: whoever finishes with the same container may remove it now.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.file("create", run_dir),
    }
}

fn open(run_dir: &Path, create: bool) -> Result<Option<File>, RuntimeError> {
    let path = run_dir.join(LOCK);
    match OpenOptions::new().read(true).write(true).create(create).mode(0o600).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some).file("open", &path),
    }
}

fn lock(run_dir: &Path, file: File) -> Result<Option<LifeLine>, RuntimeError> {
    loop {
        match file.lock() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other.file("lock", &run_dir.join(LOCK))?,
        }
    }
    let current = is_current(run_dir, &file)?;
    Ok(current.then(|| LifeLine { run_dir: run_dir.to_owned(), lock: file }))
}

/// Whether the file that was locked is still the one that others will find under the name.
fn is_current(run_dir: &Path, file: &File) -> Result<bool, RuntimeError> {
    let path = run_dir.join(LOCK);
    let ours = file.metadata().file("inspect", &path)?;
    match fs::metadata(&path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(source).file("inspect", &path),
    }
}

fn missing_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_until_its_last_copy_closes() {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = folder.path().join("id");
        assert!(matches!(LifeLine::try_take(&run_dir).unwrap(), Tried::Gone));
        assert!(LifeLine::wait(&run_dir).unwrap().is_none());
        assert!(!run_dir.exists());
        let line = LifeLine::create(&run_dir).unwrap();
        let copy = line.as_fd().try_clone_to_owned().unwrap();
        assert!(LifeLine::is_held(&run_dir).unwrap());
        drop(line);
        assert!(matches!(LifeLine::try_take(&run_dir).unwrap(), Tried::Held));
        drop(copy);
        assert!(!LifeLine::is_held(&run_dir).unwrap());
        assert!(matches!(LifeLine::try_take(&run_dir).unwrap(), Tried::Locked(_)));
    }

    #[test]
    fn one_who_waits_for_a_removed_lock_learns_that_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = folder.path().join("id");
        let line = LifeLine::create(&run_dir).unwrap();
        fs::write(run_dir.join("pid"), "1").unwrap();
        let waiter = std::thread::spawn({
            let run_dir = run_dir.clone();
            move || LifeLine::wait(&run_dir).unwrap().is_none()
        });
        line.finish().unwrap();
        assert!(waiter.join().unwrap(), "nothing is left to take");
        assert!(!run_dir.exists());
    }

    #[test]
    fn a_folder_without_a_lock_can_be_taken() {
        let folder = tempfile::tempdir().unwrap();
        let Tried::Locked(line) = LifeLine::try_take(folder.path()).unwrap() else { panic!("it is free") };
        line.finish().unwrap();
        assert!(!folder.path().exists());
    }

    #[test]
    fn many_takers_of_one_container_never_hold_it_together() {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = folder.path().join("id");
        let inside = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let line = LifeLine::create(&run_dir).unwrap();
                        assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        line.finish().unwrap();
                    }
                });
            }
        });
        assert!(!run_dir.exists());
    }
}
