//! Docker's own archive of images: `manifest.json`, and files that it names in any way it likes (moby's
//! `image/tarexport`; `docker save` since 1.10, `podman save`, `skopeo copy docker-archive:`).
//!
//! It has no manifest in the sense of a registry, so one is made.

use std::fs::File;
use std::io::Read;

use serde::{Deserialize, Serialize};

use super::compress::MAGIC;
use super::oci::{Offer, check_pinned};
use super::source::{Kept, Source, missing};
use super::{IMAGES_MAX, MANIFEST, made, refused, too_many};
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::manifest::{self, Document, Packing};
use crate::reference::Reference;

/// One image of `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Listed {
    /// The file of the configuration.
    pub(super) config: String,
    /// Its names; older versions of docker write null where there is none.
    #[serde(default)]
    pub(super) repo_tags: Option<Vec<String>>,
    /// The files of its layers, bottom first.
    #[serde(default)]
    pub(super) layers: Option<Vec<String>>,
}

/// The images of an archive, as `manifest.json` lists them; none when it has no such file.
pub(super) fn list(source: &mut Source, what: &str) -> Result<Option<Vec<Listed>>> {
    let Some(bytes) = source.document(MANIFEST, what)? else { return Ok(None) };
    let images: Vec<Listed> = serde_json::from_slice(&bytes)
        .map_err(|error| refused(what, format!("its {MANIFEST} cannot be read: {error}")))?;
    let names = images.iter().map(|image| image.repo_tags.iter().flatten().count().max(1));
    match names.sum::<usize>() > IMAGES_MAX {
        true => Err(too_many(what)),
        false => Ok(Some(images)),
    }
}

impl Listed {
    /// Reads and checks everything that belongs to the image, but for what is inside its layers.
    pub(super) fn open(&self, source: &mut Source, what: &str) -> Result<Offer> {
        let config = source.document(&self.config, what)?.ok_or_else(|| missing(&self.config, what))?;
        if self.layers.iter().flatten().count() > manifest::LAYERS_MAX {
            return Err(refused(
                what,
                format!("an image of it has more than {} layers", manifest::LAYERS_MAX),
            ));
        }
        let mut layers = Vec::new();
        for name in self.layers.iter().flatten() {
            let kept = source.file(name, what)?;
            let packing = packing(&kept, name, what)?;
            layers.push((name, packing, kept));
        }
        let bytes = made::manifest(&config, layers.iter().map(|(_, packing, kept)| (kept, *packing)));
        let Document::Manifest(manifest) = manifest::parse(&bytes, None, what)? else {
            unreachable!("it was just made a manifest");
        };
        let facts = manifest::config(&config, &manifest, what)?;
        for ((name, packing, kept), diff_id) in layers.iter().zip(&facts.diff_ids) {
            // Of a compressed one it is told when it is unpacked.
            if *packing == Packing::Plain
                && kept.digest.algorithm() == diff_id.algorithm()
                && kept.digest != *diff_id
            {
                let what = format!("{name} of {what}");
                return Err(ImageError::DigestMismatch { what, expected: *diff_id, actual: kept.digest });
            }
        }
        let digest = Digest::of(&bytes);
        let names = self.repo_tags.iter().flatten().map(|name| name.parse::<Reference>());
        let names = names.collect::<Result<Vec<_>>>()?;
        check_pinned(&names, &[digest], what)?;
        Ok(Offer {
            names,
            digest,
            manifest_digest: digest,
            documents: vec![(digest, bytes), (manifest.config.digest, config)],
            manifest,
            config: facts,
            layers: layers.into_iter().map(|(_, _, kept)| kept).collect(),
        })
    }
}

/// How a layer is packed, by its first bytes.
fn packing(kept: &Kept, name: &str, what: &str) -> Result<Packing> {
    let mut first = Vec::new();
    File::open(&kept.path)
        .and_then(|file| file.take(MAGIC as u64).read_to_end(&mut first))
        .map_err(ImageError::io("read", &kept.path))?;
    Packing::sniff(&first).map_err(|packing| {
        refused(what, format!("its {name} is compressed with {packing}, which is not supported"))
    })
}
