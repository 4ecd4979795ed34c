//! What came of a blob so far, in `content/ingest`: it outlives whoever fetched it, and who comes next goes on from
//! there.
//!
//! The lock of the blob says who fetches it now. Nothing here is trusted: what is read of it is digested again.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::layout::{self, Layout};
use super::lock::Lock;
use crate::digest::{Digest, Digester};
use crate::error::{ImageError, Result};

/// A partial blob that nobody goes on with is removed after so long.
pub(crate) const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// Where the bytes of a blob are.
#[derive(Debug)]
pub(crate) enum Held {
    /// In the store, whole.
    Whole(File),
    /// On their way, by us alone.
    Partial(Partial),
}

/// A blob that we fetch, and nobody else meanwhile.
#[derive(Debug)]
pub(crate) struct Partial {
    path: PathBuf,
    digest: Digest,
    bytes: u64,
    _lock: Lock,
}

impl Held {
    /// The blob, once nobody else fetches it.
    pub(crate) async fn wait(layout: &Layout, digest: &Digest) -> Result<Held> {
        if let Some(file) = whole(layout, digest)? {
            return Ok(Held::Whole(file));
        }
        let lock = Lock::passing(&layout.blob_lock(digest)).await?;
        // It may have come while we waited.
        if let Some(file) = whole(layout, digest)? {
            return Ok(Held::Whole(file));
        }
        let path = layout.partial(digest);
        let bytes = match path.metadata() {
            Ok(found) => found.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(ImageError::io("look at", path)(error)),
        };
        Ok(Held::Partial(Partial { path, digest: *digest, bytes, _lock: lock }))
    }
}

impl Partial {
    /// How many bytes are here.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What is here, to be read; none when that is nothing.
    pub(crate) fn here(&self) -> Result<Option<File>> {
        match self.bytes {
            0 => Ok(None),
            _ => File::open(&self.path).map(Some).map_err(ImageError::io("open", &self.path)),
        }
    }

    /// The file, to add to its end.
    pub(crate) fn end(&self) -> Result<File> {
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.path)
            .map_err(ImageError::io("open", &self.path))
    }

    /// Makes the blob visible; its content was verified.
    pub(crate) fn complete(self, layout: &Layout) -> Result<()> {
        layout::rename(&self.path, &layout.blob(&self.digest))
    }

    /// Throws away what is here, and keeps the right to fetch it.
    pub(crate) fn restart(&mut self) -> Result<()> {
        layout::remove_file(&self.path)?;
        self.bytes = 0;
        Ok(())
    }
}

/// Every partial blob: its bytes, and whether somebody fetches it now.
pub(crate) fn survey(layout: &Layout) -> Result<Vec<(u64, bool)>> {
    let mut all = Vec::new();
    for name in layout::names_in(&layout.ingest())? {
        let Some(digest) = Digest::from_hex(&name) else { continue };
        let is_free = Lock::try_passing(&layout.blob_lock(&digest))?.is_some();
        // One that went meanwhile is none any more.
        if let Ok(found) = layout.partial(&digest).metadata() {
            all.push((found.len(), !is_free));
        }
    }
    Ok(all)
}

/// Removes the partial blobs that nobody fetches and nobody touched for so long; says how many bytes went.
pub(crate) fn remove_abandoned(layout: &Layout, unused_for: Duration) -> Result<u64> {
    let mut removed = 0;
    for name in layout::names_in(&layout.ingest())? {
        let Some(digest) = Digest::from_hex(&name) else { continue };
        let Some(_lock) = Lock::try_passing(&layout.blob_lock(&digest))? else { continue };
        let path = layout.partial(&digest);
        let Ok(found) = path.metadata() else { continue };
        let age = found.modified().ok().and_then(|then| SystemTime::now().duration_since(then).ok());
        if age.is_some_and(|age| age >= unused_for) {
            layout::remove_file(&path)?;
            removed += found.len();
        }
    }
    Ok(removed)
}

/// Removes what came of these blobs, unless somebody fetches them: of an image that was refused nothing stays.
pub(crate) fn forget(layout: &Layout, digests: impl IntoIterator<Item = Digest>) -> Result<()> {
    for digest in digests {
        if let Some(_lock) = Lock::try_passing(&layout.blob_lock(&digest))? {
            layout::remove_file(&layout.partial(&digest))?;
        }
    }
    Ok(())
}

/// Removes a blob whose content is not what its name says; whether it was so.
pub(crate) async fn remove_damaged(layout: &Layout, digest: &Digest) -> Result<bool> {
    let _lock = Lock::passing(&layout.blob_lock(digest)).await?;
    let (path, expected) = (layout.blob(digest), *digest);
    let judging = tokio::task::spawn_blocking(move || {
        let mut digester = Digester::new(expected.algorithm());
        match File::open(&path).and_then(|mut file| io::copy(&mut file, &mut digester)) {
            Ok(_) if digester.finish() == expected => Ok(false),
            Ok(_) => layout::remove_file(&path).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(ImageError::io("read", path)(error)),
        }
    });
    judging.await.expect("digesting does not panic")
}

fn whole(layout: &Layout, digest: &Digest) -> Result<Option<File>> {
    let path = layout.blob(digest);
    match File::open(&path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ImageError::io("open", path)(error)),
    }
}
