//! Locks between processes: `flock` on a file. The kernel frees them when their holder dies.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tokio::sync::oneshot;

use crate::error::{ImageError, Result};

/// A lock that is held until dropped. Its file goes when it is dropped, if it was made for this one use.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    passing: Option<PathBuf>,
}

impl Lock {
    /// Waits for the lock of a file that stays. Hold it for moments only.
    pub(crate) fn hold(path: &Path) -> Result<Lock> {
        let file = open(path)?;
        file.lock().map_err(ImageError::io("lock", path))?;
        Ok(Lock { file, passing: None })
    }

    /// The same, beside others that share it: nobody holds it alone meanwhile.
    pub(crate) fn share(path: &Path) -> Result<Lock> {
        let file = open(path)?;
        file.lock_shared().map_err(ImageError::io("lock", path))?;
        Ok(Lock { file, passing: None })
    }

    /// Takes the lock of a file that goes with it; none when another holds it.
    pub(crate) fn try_passing(path: &Path) -> Result<Option<Lock>> {
        loop {
            let file = open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => return Ok(None),
                Err(fs::TryLockError::Error(error)) => return Err(ImageError::io("lock", path)(error)),
            }
            if still_named(&file, path)? {
                return Ok(Some(Lock { file, passing: Some(path.to_owned()) }));
            }
        }
    }

    /// Waits for the lock of a file that goes with it, however long its holder takes.
    ///
    /// `flock` has no way to be waited for but to sit in it, so a thread of its own does; when the caller
    /// stops waiting, that thread gives the lock back as soon as it has it.
    pub(crate) async fn passing(path: &Path) -> Result<Lock> {
        if let Some(lock) = Lock::try_passing(path)? {
            return Ok(lock);
        }
        let (sender, receiver) = oneshot::channel();
        let waited = path.to_owned();
        std::thread::Builder::new()
            .name("layer lock".into())
            .spawn(move || drop(sender.send(wait_passing(&waited))))
            .map_err(ImageError::io("start a thread to lock", path))?;
        receiver.await.expect("the thread sends before it ends")
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(path) = &self.passing {
            // Removed while still held, so that whoever waits sees that its file has no name any more. When
            // it cannot be removed it stays as an empty file that the next holder uses and removes.
            drop(fs::remove_file(path));
        }
        drop(self.file.unlock());
    }
}

fn wait_passing(path: &Path) -> Result<Lock> {
    loop {
        let file = open(path)?;
        file.lock().map_err(ImageError::io("lock", path))?;
        if still_named(&file, path)? {
            return Ok(Lock { file, passing: Some(path.to_owned()) });
        }
    }
}

/// Whether the file that was locked is the one that the name stands for now.
fn still_named(file: &File, path: &Path) -> Result<bool> {
    let held = file.metadata().map_err(ImageError::io("read", path))?;
    match fs::metadata(path) {
        Ok(named) => Ok((held.dev(), held.ino()) == (named.dev(), named.ino())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(ImageError::io("read", path)(error)),
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(ImageError::io("open the lock", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_waiter_gets_a_passing_lock_and_its_file_goes() {
        let folder = std::env::temp_dir().join(format!("image-lock-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("x");
        let first = Lock::passing(&path).await.expect("free");
        assert!(Lock::try_passing(&path).expect("readable").is_none());
        let (second, ()) = tokio::join!(Lock::passing(&path), async { drop(first) });
        assert!(path.exists(), "the second holds a file of this name");
        drop(second.expect("freed"));
        assert!(!path.exists());
        fs::remove_dir(&folder).expect("empty");
    }
}
