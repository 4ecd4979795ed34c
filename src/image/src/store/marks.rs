//! What is remembered of images beside their content: when each was last used, and which are pinned.
//!
//! A last use is the time of an empty file, so that noting one is a single call; a lost one costs nothing but a guess.
//! A pin belongs to a name and so outlives a new image under that name; an image without one is pinned by its id.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use jiff::Timestamp;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;

use super::ImageStore;
use super::layout::{self, Layout};
use super::lock::Lock;
use super::record::{self, ImageRecord};
use super::{Image, work::Work};
use crate::digest::Digest;
use crate::error::{ImageError, Result};

impl ImageStore {
    /// Says that a container is about to be made from an image: that is its last use so far.
    ///
    /// Fails when the image has gone since it was found. Whoever has written down where a removal looks for users
    /// that it uses the image, and then succeeds here, keeps it.
    pub fn claim(&self, image: &Image) -> Result<()> {
        let _hold = Lock::share(&self.layout.store_lock())?;
        let same = |record: &ImageRecord| record.config.to_string() == image.id;
        let named = match &image.reference {
            Some(name) => ImageRecord::find(&self.layout, name)?,
            None => None,
        };
        if !named.as_ref().is_some_and(same) && !ImageRecord::all(&self.layout)?.iter().any(same) {
            let name = image.reference.clone().unwrap_or_else(|| image.id.clone());
            return Err(ImageError::NoSuchImage { name });
        }
        if self.mark_used(&image.id)? {
            return Ok(());
        }
        layout::make_folder(&self.layout.used())?;
        match self.used_file(&image.id).map(|path| layout::new_file(&path)) {
            Some(Err(ImageError::Io { source, .. })) if source.kind() == io::ErrorKind::AlreadyExists => {
                Ok(())
            }
            Some(Err(error)) => Err(error),
            Some(Ok(_)) | None => Ok(()),
        }
    }

    /// Says that an image that some container was made from is used now, unless it is gone; returns whether.
    pub fn mark_used(&self, id: &str) -> Result<bool> {
        let Some(path) = self.used_file(id) else { return Ok(false) };
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        match rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(ImageError::io("set the time of", path)(error.into())),
        }
    }

    fn used_file(&self, id: &str) -> Option<std::path::PathBuf> {
        Some(self.layout.used().join(id.parse::<Digest>().ok()?.hex()))
    }

    /// Spares a name's image, whichever it is, from garbage collection and pruning until it is unpinned or the name
    /// removed; an image without a name by its id. Returns what was pinned.
    pub fn pin(&self, name: &str) -> Result<String> {
        let (work, hold) = self.change()?;
        let pinned = self.pin_of(name)?;
        let path = self.layout.pinned().join(record::file_name(&pinned));
        let scratch = work.path("pin");
        layout::write_synced(&scratch, pinned.as_bytes())?;
        layout::rename(&scratch, &path)?;
        layout::sync_folder(&self.layout.pinned())?;
        drop(hold);
        work.finish()?;
        Ok(pinned)
    }

    /// Takes a pin back. Returns what was pinned; none when it was not.
    pub fn unpin(&self, name: &str) -> Result<Option<String>> {
        let (work, hold) = self.change()?;
        let pinned = self.pin_of(name)?;
        let was = pins(&self.layout)?.contains(&pinned);
        unpin(&self.layout, &pinned)?;
        drop(hold);
        work.finish()?;
        Ok(was.then_some(pinned))
    }

    fn change(&self) -> Result<(Work, Lock)> {
        self.layout.prepare()?;
        Ok((Work::begin(&self.layout, [])?, Lock::hold(&self.layout.store_lock())?))
    }

    /// What a pin of this name is of: the record's reference when that is what it was found by, else its id.
    fn pin_of(&self, name: &str) -> Result<String> {
        let missing = || ImageError::NoSuchImage { name: name.to_owned() };
        let (record, by_reference) = self.find(name)?.ok_or_else(missing)?;
        let id = record.config.to_string();
        Ok(record.reference.filter(|_| by_reference).unwrap_or(id))
    }
}

/// When an image was last used, as far as is known.
pub(crate) fn last_used(layout: &Layout, id: &Digest) -> Option<Timestamp> {
    let metadata = fs::metadata(layout.used().join(id.hex())).ok()?;
    Timestamp::try_from(metadata.modified().ok()?).ok()
}

/// Everything that is pinned: canonical references and ids.
pub(crate) fn pins(layout: &Layout) -> Result<BTreeSet<String>> {
    let folder = layout.pinned();
    let mut pins = BTreeSet::new();
    for file in layout::names_in(&folder)? {
        let path = folder.join(file);
        pins.insert(fs::read_to_string(&path).map_err(ImageError::io("read", path))?);
    }
    Ok(pins)
}

/// Whether an image with these records is pinned, by a name or by its id.
pub(crate) fn is_pinned(pins: &BTreeSet<String>, records: &[ImageRecord]) -> bool {
    let named = |record: &ImageRecord| record.reference.as_ref().is_some_and(|name| pins.contains(name));
    records.iter().any(|record| named(record) || pins.contains(&record.config.to_string()))
}

/// Takes a pin back, if there is one. The store's lock must be held.
pub(crate) fn unpin(layout: &Layout, pinned: &str) -> Result<()> {
    layout::remove_file(&layout.pinned().join(record::file_name(pinned)))
}

/// Forgets the last uses and the pins by id of images that are not there. The store's lock must be held.
pub(crate) fn sweep(layout: &Layout, there: &BTreeSet<Digest>) -> Result<()> {
    for name in layout::names_in(&layout.used())? {
        if !Digest::from_hex(&name).is_some_and(|id| there.contains(&id)) {
            layout::remove_file(&layout.used().join(name))?;
        }
    }
    for pinned in pins(layout)? {
        if pinned.parse::<Digest>().is_ok_and(|id| !there.contains(&id)) {
            unpin(layout, &pinned)?;
        }
    }
    Ok(())
}
