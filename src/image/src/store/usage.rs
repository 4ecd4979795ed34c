//! What takes how much room: every layer and blob once, and which images need it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;

use jiff::Timestamp;

use super::layout::{self, Layout};
use super::record::ImageRecord;
use super::{ImageStore, ImageSummary, ingest, layer, marks};
use crate::digest::{Algorithm, Digest};
use crate::error::{ImageError, Result};

/// A piece of the store that images share. A layer that came uncompressed has the same digest as its blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Content {
    /// A layer's unpacked files, by chain id.
    Layer(Digest),
    /// Bytes as received, by their digest.
    Blob(Digest),
}

/// One image and what it needs.
#[derive(Debug, Clone)]
pub struct ImageUsage {
    /// By one of its names, or by none.
    pub summary: ImageSummary,
    /// Every name it has, canonical.
    pub names: Vec<String>,
    /// What it needs of the store.
    pub content: BTreeSet<Content>,
    /// When a container of it was last made or removed; when it came, if none ever was.
    pub last_used: Timestamp,
    /// When it came: the first of its names.
    pub added: Timestamp,
    /// Whether a name of it, or its id, is pinned.
    pub pinned: bool,
}

/// The whole store.
#[derive(Debug, Clone, Default)]
pub struct StoreUsage {
    /// Each image once, by its id.
    pub images: Vec<ImageUsage>,
    /// Bytes of all that is there: files of a layer, or of a blob. Some of it may belong to no image.
    pub content: BTreeMap<Content, u64>,
    /// What came so far of blobs that are not whole: bytes of each, and whether somebody fetches it now.
    pub partial: Vec<(u64, bool)>,
}

impl StoreUsage {
    /// Bytes of everything.
    pub fn bytes(&self) -> u64 {
        self.content.values().sum()
    }

    /// Bytes of the pieces named, those that are there.
    pub fn bytes_of<'c>(&self, content: impl IntoIterator<Item = &'c Content>) -> u64 {
        content.into_iter().filter_map(|piece| self.content.get(piece)).sum()
    }

    /// Bytes that would be free if only the images that `stays` picks were there.
    pub fn reclaimable(&self, stays: impl Fn(&ImageUsage) -> bool) -> u64 {
        let needed: BTreeSet<&Content> =
            self.images.iter().filter(|image| stays(image)).flat_map(|image| &image.content).collect();
        self.bytes() - self.bytes_of(needed)
    }

    /// Bytes that an image shares with others.
    pub fn shared(&self, image: &ImageUsage) -> u64 {
        let others = self.images.iter().filter(|other| other.summary.id != image.summary.id);
        let others: BTreeSet<&Content> = others.flat_map(|other| &other.content).collect();
        self.bytes_of(image.content.iter().filter(|piece| others.contains(piece)))
    }
}

impl ImageStore {
    /// What is there, and which images need it.
    pub fn usage(&self) -> Result<StoreUsage> {
        let pins = marks::pins(&self.layout)?;
        let partial = match self.layout.ingest().exists() {
            true => ingest::survey(&self.layout)?,
            false => Vec::new(),
        };
        let mut usage = StoreUsage { images: Vec::new(), content: content(&self.layout)?, partial };
        for (id, records) in ImageRecord::images(&self.layout)? {
            let Some(first) = ImageRecord::foremost(&records) else { continue };
            let added = records.iter().map(|record| record.pulled).min().unwrap_or(first.pulled);
            let layers = records.iter().flat_map(ImageRecord::chains).map(Content::Layer);
            let blobs = records.iter().flat_map(ImageRecord::blobs).map(Content::Blob);
            usage.images.push(ImageUsage {
                summary: ImageSummary::of(first),
                names: records.iter().filter_map(|record| record.reference.clone()).collect(),
                content: layers.chain(blobs).collect(),
                last_used: marks::last_used(&self.layout, &id).unwrap_or(added).max(added),
                added,
                pinned: marks::is_pinned(&pins, &records),
            });
        }
        Ok(usage)
    }
}

/// Everything on disk. What goes meanwhile is left out, and so is a layer that cannot say what it is.
fn content(layout: &Layout) -> Result<BTreeMap<Content, u64>> {
    let mut all = BTreeMap::new();
    for algorithm in Algorithm::ALL {
        let folder = layout.blobs(algorithm);
        for name in layout::names_in(&folder)? {
            let Some(digest) = Digest::from_hex(&name) else { continue };
            let path = folder.join(name);
            match fs::metadata(&path) {
                Ok(metadata) => drop(all.insert(Content::Blob(digest), metadata.len())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(ImageError::io("look at", path)(error)),
            }
        }
    }
    for name in layout::names_in(&layout.layers())? {
        let Some(chain) = Digest::from_hex(&name) else { continue };
        match layer::read(layout, &chain) {
            Ok(facts) => all.extend(facts.map(|facts| (Content::Layer(chain), facts.size))),
            Err(ImageError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}
