//! Taking names and content away: what no image and no work under way needs goes, the rest stays.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use super::ingest;
use super::layout::{self, Layout, link_name};
use super::lock::Lock;
use super::record::ImageRecord;
use super::work::{self, Work};
use super::{ImageStore, ImageSummary, layer, marks};
use crate::digest::{Algorithm, Digest};
use crate::error::{ImageError, Result};

/// Says which container uses the image of an id, if one does. It is asked while nobody can begin to use one.
pub type InUse<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// What a removal did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that stand for nothing any more, those by digest that went with them too.
    pub untagged: Vec<String>,
    /// The ids of the images and the chain ids of the layers that went.
    pub deleted: Vec<String>,
    /// Bytes of the layers and blobs that went.
    pub bytes: u64,
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
        let same = ImageRecord::images(&self.layout)?.remove(&record.config).ok_or_else(missing)?;
        if !by_reference && same.len() > 1 && !force {
            let names = same.into_iter().filter_map(|record| record.reference).collect();
            return Err(ImageError::SeveralNames { image: name.to_owned(), names });
        }
        let (going, staying) = match by_reference {
            true => same.into_iter().partition(|other| *other == record),
            false => (same, Vec::new()),
        };
        let user = if staying.is_empty() { in_use(&record.config.to_string()) } else { None };
        if let (Some(container), false) = (&user, force) {
            return Err(ImageError::InUse { image: name.to_owned(), container: container.clone() });
        }
        let mut removed = Removed::default();
        if user.is_some() {
            let kept = ImageRecord { reference: None, ..record };
            kept.commit(&self.layout, &trash.path("record"))?;
            removed.untag(&self.layout, &going, std::slice::from_ref(&kept))?;
        } else {
            removed.untag(&self.layout, &going, &staying)?;
        }
        removed.finish(&self.layout, trash, hold)?;
        Ok(removed)
    }

    /// Removes every image that `choose` wants, no container uses and nobody has pinned, with all its names; and what
    /// came of blobs that nobody fetches any more.
    ///
    /// `choose` sees an image by one of its names; by none when it has none.
    pub fn prune(
        &self,
        choose: &mut dyn FnMut(&ImageSummary) -> Result<bool>,
        in_use: &InUse<'_>,
    ) -> Result<Removed> {
        self.layout.prepare()?;
        let trash = Work::begin(&self.layout, [])?;
        let hold = Lock::hold(&self.layout.store_lock())?;
        let pins = marks::pins(&self.layout)?;
        let mut removed = Removed::default();
        for (id, records) in ImageRecord::images(&self.layout)? {
            let Some(first) = ImageRecord::foremost(&records).map(ImageSummary::of) else { continue };
            let spared = marks::is_pinned(&pins, &records) || !choose(&first)?;
            if !spared && in_use(&id.to_string()).is_none() {
                removed.untag(&self.layout, &records, &[])?;
            }
        }
        removed.finish(&self.layout, trash, hold)?;
        removed.bytes += ingest::remove_abandoned(&self.layout, Duration::ZERO)?;
        Ok(removed)
    }
}

impl Removed {
    /// Takes the records of one image away, of which `staying` are what stays.
    fn untag(&mut self, layout: &Layout, going: &[ImageRecord], staying: &[ImageRecord]) -> Result<()> {
        let mut by_digest: BTreeSet<String> = going.iter().filter_map(ImageRecord::repo_digest).collect();
        for record in going {
            if let Some(name) = &record.reference {
                self.untagged.push(name.clone());
                marks::unpin(layout, name)?;
            }
            if !staying.iter().any(|other| other.reference == record.reference) {
                record.remove(layout)?;
            }
        }
        by_digest.retain(|name| !self.untagged.contains(name));
        for name in staying.iter().filter_map(ImageRecord::repo_digest) {
            by_digest.remove(&name);
        }
        self.untagged.extend(by_digest);
        if let (Some(record), []) = (going.first(), staying) {
            self.deleted.push(record.config.to_string());
        }
        Ok(())
    }

    /// Takes away what nothing needs any more, and lets go of the store.
    fn finish(&mut self, layout: &Layout, trash: Work, hold: Lock) -> Result<()> {
        let swept = sweep(layout, &trash)?;
        self.deleted.extend(swept.layers.iter().map(Digest::to_string));
        self.bytes += swept.bytes;
        drop(hold);
        trash.finish()
    }
}

/// What a sweep took away.
#[derive(Debug, Default)]
pub(crate) struct Swept {
    /// Chain ids.
    pub(crate) layers: Vec<Digest>,
    /// Bytes of layers and blobs.
    pub(crate) bytes: u64,
}

/// Moves what nothing needs into `trash`. The store's lock must be held; the trash is emptied after it.
pub(crate) fn sweep(layout: &Layout, trash: &Work) -> Result<Swept> {
    let mut needed = work::needs(layout)?;
    let mut there = BTreeSet::new();
    for record in ImageRecord::all(layout)? {
        needed.extend(record.blobs());
        needed.extend(record.chains());
        there.insert(record.config);
    }
    let mut swept = Swept::default();
    for algorithm in Algorithm::ALL {
        let blobs = layout.blobs(algorithm);
        for name in layout::names_in(&blobs)? {
            if !is_needed(&name, &needed) {
                let path = blobs.join(name);
                swept.bytes += fs::metadata(&path).map_err(ImageError::io("look at", &path))?.len();
                layout::remove_file(&path)?;
            }
        }
    }
    swept.bytes += ingest::remove_abandoned(layout, ingest::ABANDONED)?;
    let links = layout.links();
    for name in layout::names_in(&layout.layers())? {
        if name == "l" || is_needed(&name, &needed) {
            continue;
        }
        let chain = Digest::from_hex(&name);
        if let Some(chain) = &chain {
            // One that is damaged goes as well as another.
            swept.bytes += layer::read(layout, chain).ok().flatten().map_or(0, |facts| facts.size);
        }
        layout::rename(&layout.layers().join(&name), &trash.path(&format!("gone-{name}")))?;
        if let Some(chain) = chain {
            layout::remove_file(&links.join(link_name(&chain)))?;
            swept.layers.push(chain);
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
    marks::sweep(layout, &there)?;
    Ok(swept)
}

fn is_needed(name: &str, needed: &BTreeSet<Digest>) -> bool {
    Digest::from_hex(name).is_some_and(|digest| needed.contains(&digest))
}
