//! The folder that `skopeo copy dir:` and `podman save --format docker-dir` write: one image's manifest as
//! `manifest.json`, and its blobs by their digits. It has no name for the image.

use super::MANIFEST;
use super::oci::Offer;
use super::refused;
use super::source::{Kept, Source, missing};
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::manifest::{self, Document, Manifest};

/// The image of such a folder.
#[derive(Debug)]
pub(super) struct Listed {
    bytes: Vec<u8>,
    manifest: Manifest,
}

/// The image, when `manifest.json` is a manifest; docker's archives have a list of this name.
pub(super) fn list(source: &mut Source, what: &str) -> Result<Option<Listed>> {
    let Some(bytes) = source.document(MANIFEST, what)? else { return Ok(None) };
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Ok(None);
    }
    match manifest::parse(&bytes, None, what)? {
        Document::Manifest(manifest) => Ok(Some(Listed { bytes, manifest })),
        Document::Index(_) => Err(refused(what, format!("its {MANIFEST} is an index; copy one image of it"))),
    }
}

impl Listed {
    /// Reads and checks everything that belongs to the image, but for what is inside its layers.
    pub(super) fn open(&self, source: &mut Source, what: &str) -> Result<Offer> {
        let Listed { bytes, manifest } = self;
        let name = manifest.config.digest.hex();
        let config = source.document(&name, what)?.ok_or_else(|| missing(&name, what))?;
        let differs = |name: String, expected, actual| {
            Err(ImageError::DigestMismatch { what: format!("{name} of {what}"), expected, actual })
        };
        if let Err(actual) = manifest.config.digest.check(&config) {
            return differs(name, manifest.config.digest, actual);
        }
        let facts = manifest::config(&config, manifest, what)?;
        let mut layers: Vec<Kept> = Vec::new();
        for layer in &manifest.layers {
            let name = layer.digest.hex();
            let kept = source.file(&name, what)?;
            if kept.digest != layer.digest {
                return differs(name, layer.digest, kept.digest);
            }
            layers.push(kept);
        }
        let digest = Digest::of(bytes);
        Ok(Offer {
            names: Vec::new(),
            digest,
            manifest_digest: digest,
            documents: vec![(digest, bytes.clone()), (manifest.config.digest, config)],
            manifest: manifest.clone(),
            config: facts,
            layers,
        })
    }
}
