//! The layout of the image specification, in an archive or a folder: `index.json` and blobs by digest
//! (image-layout.md).
//!
//! An entry of `index.json` is an image or an index of images for several platforms, of which one is chosen. Its name
//! is an annotation: containerd's, or the specification's where that is a whole reference. A lone word, such as
//! the tag that skopeo writes there, names no repository: such an image has no name.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::source::{Kept, Source, blob_name, missing};
use super::{IMAGES_MAX, INDEX, refused, too_many};
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::manifest::{self, ConfigFacts, Descriptor, Document, Manifest};
use crate::platform::Platform;
use crate::reference::Reference;

/// The whole reference of an image, by containerd and docker.
pub(super) const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// Its name in the layout (annotations.md); a reference, or only a tag.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// What tells an attestation of buildkit from the image beside it.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// An index in an index in an index is some builder's mistake.
const DEPTH_MAX: usize = 3;

/// An image whose files are all here; what is inside its layers was not looked at.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) names: Vec<Reference>,
    /// The index's digest where there is one, else the manifest's.
    pub(super) digest: Digest,
    pub(super) manifest_digest: Digest,
    pub(super) manifest: Manifest,
    pub(super) config: ConfigFacts,
    /// Index, manifest and configuration.
    pub(super) documents: Vec<(Digest, Vec<u8>)>,
    /// Bottom first.
    pub(super) layers: Vec<Kept>,
}

/// An image of the layout.
#[derive(Debug)]
pub(super) struct Listed {
    names: Vec<Reference>,
    index: Option<Descriptor>,
    manifest: Descriptor,
    media_type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    manifests: Vec<Entry>,
    // A document that could be read as a manifest too is refused (GHSA-5j5w-g665-5m35).
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: u64,
    platform: Option<RawPlatform>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Clone, Deserialize)]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
}

impl Entry {
    /// Attestations, signatures and artifacts are no images.
    fn is_image_or_index(&self) -> bool {
        manifest::ACCEPTED.contains(&self.media_type.as_str())
            && !self.annotations.contains_key(REFERENCE_TYPE)
    }

    fn is_index(&self) -> bool {
        matches!(self.media_type.as_str(), manifest::OCI_INDEX | manifest::DOCKER_LIST)
    }

    fn descriptor(&self) -> Descriptor {
        Descriptor { digest: self.digest, size: self.size }
    }

    fn platform(&self) -> Option<Platform> {
        self.platform.as_ref().map(|raw| Platform {
            os: raw.os.clone(),
            architecture: raw.architecture.clone(),
            variant: raw.variant.clone().filter(|variant| !variant.is_empty()),
        })
    }

    fn name(&self) -> Option<Reference> {
        let whole = self.annotations.get(CONTAINERD_NAME);
        let own = self.annotations.get(REF_NAME).filter(|name| name.contains(['/', ':']));
        // Any text may stand there; one that is no reference is none.
        whole.or(own).and_then(|name| name.parse().ok())
    }
}

/// The images of a layout; none when it is none.
pub(super) fn list(source: &mut Source, wanted: &Platform, what: &str) -> Result<Option<Vec<Listed>>> {
    let Some(bytes) = source.document(INDEX, what)? else { return Ok(None) };
    let entries = read(&bytes, INDEX, what)?;
    let mut by_name: Vec<(Option<Reference>, Vec<Entry>)> = Vec::new();
    for entry in entries {
        let name = entry.name();
        match by_name.iter_mut().find(|(known, _)| *known == name) {
            Some((_, entries)) => entries.push(entry),
            None => by_name.push((name, vec![entry])),
        }
    }
    let mut listed: Vec<Listed> = Vec::new();
    for (name, entries) in by_name {
        let chosen = choose(&entries, wanted, what)?;
        if let (Some(name), true) = (&name, chosen.len() > 1) {
            return Err(refused(what, format!("it has several images of the name {name}")));
        }
        for entry in chosen {
            let image = resolve(source, entry, wanted, what)?;
            match listed.iter_mut().find(|known| known.manifest == image.manifest) {
                Some(known) => known.names.extend(name.clone()),
                None => listed.push(Listed { names: name.iter().cloned().collect(), ..image }),
            }
        }
    }
    Ok(Some(listed))
}

fn read(bytes: &[u8], name: &str, what: &str) -> Result<Vec<Entry>> {
    let index: Index = serde_json::from_slice(bytes)
        .map_err(|error| refused(what, format!("its {name} cannot be read: {error}")))?;
    if index.schema_version != 2 || index.config.is_some() || index.layers.is_some() {
        return Err(refused(what, format!("its {name} is no index")));
    }
    if index.manifests.len() > IMAGES_MAX {
        return Err(too_many(what));
    }
    Ok(index.manifests.into_iter().filter(Entry::is_image_or_index).collect())
}

/// Those of the entries that serve `wanted` best; one that stands alone does in any case.
fn choose<'e>(entries: &'e [Entry], wanted: &Platform, what: &str) -> Result<Vec<&'e Entry>> {
    let mut different: Vec<&Entry> = Vec::new();
    for entry in entries {
        if !different.iter().any(|known| known.digest == entry.digest) {
            different.push(entry);
        }
    }
    if different.len() < 2 {
        return Ok(different);
    }
    // One that says nothing about its platform serves when none that does fits.
    let fit = |entry: &&Entry| entry.platform().map_or(Some(0), |platform| platform.fit(wanted));
    let Some(best) = different.iter().filter_map(fit).max() else {
        return Err(ImageError::NoPlatform {
            reference: what.to_owned(),
            wanted: wanted.clone(),
            available: entries.iter().filter_map(Entry::platform).collect(),
        });
    };
    Ok(different.into_iter().filter(|entry| fit(entry) == Some(best)).collect())
}

/// The image that an entry leads to.
fn resolve(source: &mut Source, entry: &Entry, wanted: &Platform, what: &str) -> Result<Listed> {
    let mut entry = entry.clone();
    let mut index = None;
    for _ in 0..=DEPTH_MAX {
        if !entry.is_index() {
            return Ok(Listed {
                names: Vec::new(),
                index,
                manifest: entry.descriptor(),
                media_type: entry.media_type,
            });
        }
        let descriptor = entry.descriptor();
        let name = blob_name(&descriptor.digest);
        let bytes = source.blob_document(&descriptor, what)?.ok_or_else(|| missing(&name, what))?;
        let mut here = Vec::new();
        let mut available = Vec::new();
        for entry in read(&bytes, &name, what)? {
            // Docker writes whole indexes, whatever it has of their images.
            if source.has(&blob_name(&entry.digest), what)? {
                available.extend(entry.platform());
                here.push(entry);
            }
        }
        let none =
            || ImageError::NoPlatform { reference: what.to_owned(), wanted: wanted.clone(), available };
        let fits = |entry: &&Entry| entry.platform().is_none_or(|own| own.fit(wanted).is_some());
        let chosen = choose(&here, wanted, what)?.into_iter().find(fits).ok_or_else(none)?;
        index = Some(descriptor);
        entry = chosen.clone();
    }
    Err(refused(what, "its indexes lie too deep in one another".into()))
}

impl Listed {
    /// Reads and checks everything that belongs to the image, but for what is inside its layers.
    pub(super) fn open(&self, source: &mut Source, what: &str) -> Result<Offer> {
        let mut document = |descriptor: &Descriptor| {
            source
                .blob_document(descriptor, what)?
                .ok_or_else(|| missing(&blob_name(&descriptor.digest), what))
        };
        let mut documents = Vec::new();
        if let Some(index) = &self.index {
            documents.push((index.digest, document(index)?));
        }
        let bytes = document(&self.manifest)?;
        let Document::Manifest(manifest) = manifest::parse(&bytes, Some(&self.media_type), what)? else {
            return Err(refused(what, format!("its {} is no manifest", self.manifest.digest)));
        };
        documents.push((self.manifest.digest, bytes));
        let bytes = document(&manifest.config)?;
        let config = manifest::config(&bytes, &manifest, what)?;
        documents.push((manifest.config.digest, bytes));
        let mut layers = Vec::new();
        for layer in &manifest.layers {
            layers.push(source.blob(&Descriptor { digest: layer.digest, size: layer.size }, what)?);
        }
        let digest = self.index.as_ref().map_or(self.manifest.digest, |index| index.digest);
        check_pinned(&self.names, &[digest, self.manifest.digest], what)?;
        Ok(Offer {
            names: self.names.clone(),
            digest,
            manifest_digest: self.manifest.digest,
            manifest,
            config,
            documents,
            layers,
        })
    }
}

/// A name that is pinned to a digest is given only to what has this digest.
pub(super) fn check_pinned(names: &[Reference], digests: &[Digest], what: &str) -> Result<()> {
    for name in names {
        if name.digest().is_some_and(|pinned| !digests.contains(pinned)) {
            return Err(refused(
                what,
                format!("it gives the name {name} to an image of digest {}", digests[0]),
            ));
        }
    }
    Ok(())
}
