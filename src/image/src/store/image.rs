//! What the store says about an image.

use std::collections::BTreeSet;

use jiff::Timestamp;
use oci_spec::image::ImageConfiguration;

use super::layout::link_name;
use super::record::ImageRecord;
use crate::digest::Digest;
use crate::platform::Platform;
use crate::reference::Reference;

/// An image of the store, complete and ready to be mounted.
#[derive(Debug, Clone)]
pub struct Image {
    /// The digest of its configuration, `sha256:HEX`.
    pub id: String,
    /// Every name it has, canonical, sorted.
    pub references: Vec<String>,
    /// What registries know it by, `registry/repository@digest`, sorted; nothing for what was named here alone.
    pub repo_digests: Vec<String>,
    /// The name it was found by, or its only one; none when it has none.
    pub reference: Option<String>,
    /// What its name stands for at the registry: an index's digest where there is one, else the manifest's.
    pub digest: Digest,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// What it runs, and with what.
    pub config: ImageConfiguration,
    /// The chain ids of its layers, bottom first.
    pub chain: Vec<Digest>,
    /// Bytes of its unpacked files.
    pub size: u64,
    /// What machine it is for.
    pub platform: Platform,
}

impl Image {
    /// An image found as `record`, of whose names the records are `same`.
    pub(super) fn new(record: &ImageRecord, same: &[ImageRecord], config: ImageConfiguration) -> Image {
        let mut references: Vec<String> = same.iter().filter_map(|record| record.reference.clone()).collect();
        references.sort();
        let repo_digests: BTreeSet<String> = same.iter().filter_map(ImageRecord::repo_digest).collect();
        Image {
            id: record.config.to_string(),
            references,
            repo_digests: repo_digests.into_iter().collect(),
            reference: record.reference.clone(),
            digest: record.digest,
            manifest: record.manifest,
            config,
            chain: record.chains().collect(),
            size: record.size(),
            platform: record.platform.clone(),
        }
    }

    /// The names of its layers in [`super::ImageStore::links_dir`], top first, as overlayfs's `lowerdir` wants
    /// them.
    pub fn lower_links(&self) -> Vec<String> {
        self.chain.iter().rev().map(link_name).collect()
    }
}

/// One line of a listing.
#[derive(Debug, Clone)]
pub struct ImageSummary {
    /// The canonical reference; none for an image without a name.
    pub reference: Option<String>,
    /// The digest of its configuration, `sha256:HEX`.
    pub id: String,
    /// What the reference stands for at the registry; none when it was given here.
    pub digest: Option<Digest>,
    /// When it was built, where it says so in a form that can be read.
    pub created: Option<Timestamp>,
    /// When it was pulled.
    pub pulled: Timestamp,
    /// Bytes of its unpacked files.
    pub size: u64,
    /// How many layers it has.
    pub layers: usize,
    /// What machine it is for.
    pub platform: Platform,
}

impl ImageSummary {
    pub(super) fn of(record: &ImageRecord) -> ImageSummary {
        ImageSummary {
            reference: record.reference.clone(),
            id: record.config.to_string(),
            digest: (!record.local).then_some(record.digest),
            created: record.created.as_deref().and_then(|text| text.parse().ok()),
            pulled: record.pulled,
            size: record.size(),
            layers: record.layers.len(),
            platform: record.platform.clone(),
        }
    }

    /// The repository as people write it; none for an image without a name.
    pub fn repository(&self) -> Option<String> {
        Some(self.parsed()?.familiar_repository())
    }

    /// The tag; none for an image without a name, or one that is named by digest.
    pub fn tag(&self) -> Option<String> {
        self.parsed()?.tag().map(str::to_owned)
    }

    fn parsed(&self) -> Option<Reference> {
        self.reference.as_deref()?.parse().ok()
    }
}
