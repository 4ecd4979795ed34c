//! The images of this machine: content by digest, unpacked layers by chain id, names on top.
//!
//! All of it is files, safe for many processes: content is renamed into place complete, what changes
//! together changes under one short lock, and long work lies in a folder that its owner holds.

mod compare;
mod gc;
mod history;
mod image;
pub(crate) mod ingest;
pub(crate) mod layer;
pub(crate) mod layout;
pub(crate) mod lock;
mod marks;
pub(crate) mod record;
mod remove;
mod tag;
mod usage;
pub(crate) mod verify;
pub(crate) mod work;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use gc::{Collected, DiskUsage, GcImage, GcPlan, GcPolicy, GcStep, Verdict};
pub use history::HistoryEntry;
pub use image::{Image, ImageSummary};
pub(crate) use remove::sweep;
pub use remove::{InUse, Removed};
pub use usage::{Content, ImageUsage, StoreUsage};
pub use verify::{Damage, Damaged, Verified};

use self::layout::Layout;
use self::record::ImageRecord;
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::reference::Reference;

/// The image store below one root.
#[derive(Debug, Clone)]
pub struct ImageStore {
    pub(crate) layout: Layout,
    pub(crate) config_root: PathBuf,
}

impl ImageStore {
    /// The store below `root`, with the registries that are configured below `config_root`. Nothing is read
    /// or made yet; a root without a store is one without images.
    pub fn open(root: &Path, config_root: &Path) -> Result<ImageStore> {
        let root = std::path::absolute(root).map_err(ImageError::io("find", root))?;
        Ok(ImageStore { layout: Layout::new(&root), config_root: config_root.to_owned() })
    }

    /// The image that a reference, an id or the beginning of an id stands for.
    ///
    /// A name that some image has comes before an id that begins so. Fails when the text is neither, or when
    /// several ids begin with it.
    pub fn resolve(&self, name: &str) -> Result<Option<Image>> {
        match self.find(name)? {
            Some((record, _)) => self.image(&record).map(Some),
            None => Ok(None),
        }
    }

    /// Every image name, newest first; an image without a name is listed once.
    pub fn list(&self) -> Result<Vec<ImageSummary>> {
        let mut images: Vec<ImageSummary> =
            ImageRecord::readable(&self.layout)?.iter().map(ImageSummary::of).collect();
        images.sort_by(|a, b| (&b.created, &a.reference).cmp(&(&a.created, &b.reference)));
        Ok(images)
    }

    /// The labels in the configuration of the image with this id. They are the image's to choose: they select what is
    /// listed or removed by whoever asks for them, and steer nothing.
    pub fn labels(&self, id: &str) -> Result<BTreeMap<String, String>> {
        let labels = self.resolve(id)?.and_then(|image| image.config.config().as_ref()?.labels().clone());
        Ok(labels.into_iter().flatten().collect())
    }

    /// The folder with the short links of [`Image::lower_links`]: the working directory for the mount.
    pub fn links_dir(&self) -> PathBuf {
        self.layout.links()
    }

    /// The folders of an image's layers, top first.
    pub fn layer_dirs(&self, image: &Image) -> Vec<PathBuf> {
        image.chain.iter().rev().map(|chain| self.layout.layer_fs(chain)).collect()
    }

    /// The record a name stands for, and whether it was found by its reference (else by its id).
    pub(crate) fn find(&self, name: &str) -> Result<Option<(ImageRecord, bool)>> {
        let prefixes = ["sha256:", "sha512:"];
        let digits = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
        let could_be_id = !digits.is_empty()
            && digits.len() <= 128
            && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let only_id = could_be_id && (Digest::from_hex(digits).is_some() || digits.len() < name.len());
        if !only_id {
            match name.parse::<Reference>() {
                Ok(reference) => {
                    if let Some(record) = self.find_reference(&reference)? {
                        return Ok(Some((record, true)));
                    }
                }
                Err(error) if !could_be_id => return Err(error),
                Err(_) => {}
            }
        }
        if !could_be_id {
            return Ok(None);
        }
        let mut found: Vec<ImageRecord> = ImageRecord::readable(&self.layout)?
            .into_iter()
            .filter(|record| record.config.hex().starts_with(digits))
            .collect();
        found.sort_by_key(|record| record.config);
        found.dedup_by_key(|record| record.config);
        match found.len() {
            0 | 1 => Ok(found.pop().map(|record| (record, false))),
            count => Err(ImageError::AmbiguousId { prefix: name.to_owned(), count }),
        }
    }

    /// A reference pinned to a digest is also found by any name that stands for that digest.
    fn find_reference(&self, reference: &Reference) -> Result<Option<ImageRecord>> {
        if let Some(record) = ImageRecord::find(&self.layout, &reference.to_string())? {
            return Ok(Some(record));
        }
        let Some(digest) = reference.digest() else { return Ok(None) };
        let repository = |record: &ImageRecord| {
            let named = record.reference.as_deref()?.parse::<Reference>().ok()?;
            Some((named.registry().to_owned(), named.repository().to_owned()))
        };
        let wanted = Some((reference.registry().to_owned(), reference.repository().to_owned()));
        let records = ImageRecord::readable(&self.layout)?;
        Ok(records.into_iter().find(|record| {
            (record.digest == *digest || record.manifest == *digest) && repository(record) == wanted
        }))
    }

    /// Reads what a record stands for.
    pub(crate) fn image(&self, record: &ImageRecord) -> Result<Image> {
        let path = self.layout.blob(&record.config);
        let bytes = fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                ImageError::Damaged { path: path.clone(), reason: "it is missing".to_owned() }
            }
            _ => ImageError::io("read", &path)(error),
        })?;
        if record.config.check(&bytes).is_err() {
            return Err(ImageError::Damaged {
                path,
                reason: "its content is not what its name says".to_owned(),
            });
        }
        let config = serde_json::from_slice(&bytes)
            .map_err(|error| ImageError::Damaged { path, reason: error.to_string() })?;
        let mut same = ImageRecord::readable(&self.layout)?;
        same.retain(|other| other.config == record.config);
        Ok(Image::new(record, &same, config))
    }
}
