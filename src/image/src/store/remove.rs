//! Taking names and content away: what no image and no work under way needs goes, the rest stays.

use std::collections::BTreeSet;
use std::fs;

use super::ImageStore;
use super::ingest;
use super::layout::{self, Layout, link_name};
use super::lock::Lock;
use super::record::ImageRecord;
use super::work::{self, Work};
use crate::digest::{Algorithm, Digest};
use crate::error::{ImageError, Result};

/// Says which container uses the image of an id, if one does.
pub type InUse<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// What a removal did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that stand for nothing any more.
    pub untagged: Vec<String>,
    /// The image's id and the chain ids of the layers that went with it.
    pub deleted: Vec<String>,
}

impl ImageStore {
    /// Removes the name of an image; the image too when it was its last, and every layer and blob that only
    /// it had.
    ///
    /// An image of several names is removed by its id only with `force`. The last name of an image that a
    /// container uses is taken only with `force`, and its content then stays for the container.
    pub fn remove(&self, name: &str, in_use: &InUse<'_>, force: bool) -> Result<Removed> {
        let missing = || ImageError::NoSuchImage { name: name.to_owned() };
        if self.find(name)?.is_none() {
            return Err(missing());
        }
        self.layout.prepare()?;
        let trash = Work::begin(&self.layout, [])?;
        let hold = Lock::hold(&self.layout.store_lock())?;
        let (record, by_reference) = self.find(name)?.ok_or_else(missing)?;
        let same: Vec<ImageRecord> = ImageRecord::all(&self.layout)?
            .into_iter()
            .filter(|other| other.config == record.config)
            .collect();
        let names: Vec<String> = same.iter().filter_map(|record| record.reference.clone()).collect();

        let going = if by_reference { vec![record.clone()] } else { same.clone() };
        if !by_reference && names.len() > 1 && !force {
            return Err(ImageError::SeveralNames { image: name.to_owned(), names });
        }
        let last = going.len() == same.len();
        let user = if last { in_use(&record.config.to_string()) } else { None };
        if let (Some(container), false) = (&user, force) {
            return Err(ImageError::InUse { image: name.to_owned(), container: container.clone() });
        }

        let mut removed = Removed::default();
        if user.is_some() {
            let kept = ImageRecord { reference: None, ..record.clone() };
            kept.commit(&self.layout, &trash.path("record"))?;
        }
        for record in &going {
            if let Some(reference) = &record.reference {
                record.remove(&self.layout)?;
                removed.untagged.push(reference.clone());
            } else if user.is_none() {
                record.remove(&self.layout)?;
            }
        }
        if last && user.is_none() {
            removed.deleted.push(record.config.to_string());
        }
        let swept = sweep(&self.layout, &trash)?;
        removed.deleted.extend(swept.iter().map(Digest::to_string));
        drop(hold);
        trash.finish()?;
        Ok(removed)
    }
}

/// Moves what nothing needs into `trash`, and returns the chain ids of the layers among it. The store's lock
/// must be held; the trash is emptied after it.
pub(crate) fn sweep(layout: &Layout, trash: &Work) -> Result<Vec<Digest>> {
    let mut needed = work::needs(layout)?;
    for record in ImageRecord::all(layout)? {
        needed.extend(record.blobs());
        needed.extend(record.chains());
    }
    for algorithm in Algorithm::ALL {
        let blobs = layout.blobs(algorithm);
        for name in layout::names_in(&blobs)? {
            if !is_needed(&name, &needed) {
                layout::remove_file(&blobs.join(name))?;
            }
        }
    }
    ingest::remove_abandoned(layout, ingest::ABANDONED)?;
    let mut gone = Vec::new();
    let links = layout.links();
    for name in layout::names_in(&layout.layers())? {
        if name == "l" || is_needed(&name, &needed) {
            continue;
        }
        layout::rename(&layout.layers().join(&name), &trash.path(&format!("gone-{name}")))?;
        if let Some(chain) = Digest::from_hex(&name) {
            layout::remove_file(&links.join(link_name(&chain)))?;
            gone.push(chain);
        }
    }
    // Links of layers that were never finished.
    for name in layout::names_in(&links)? {
        let link = links.join(name);
        let kept = needed.iter().any(|digest| link.ends_with(link_name(digest)));
        if !kept && fs::metadata(&link).is_err() {
            layout::remove_file(&link)?;
        }
    }
    Ok(gone)
}

fn is_needed(name: &str, needed: &BTreeSet<Digest>) -> bool {
    Digest::from_hex(name).is_some_and(|digest| needed.contains(&digest))
}
