//! A layer made once more from its blob in the store, to be compared with what was made of it before.

use std::fs::File;
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use super::ImageVariant;
use super::chunks::Incoming;
use super::decompress::{self, Promise};
use super::layers;
pub(crate) use super::layers::LayerPlan;
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::manifest::{self, Document};
use crate::store::layer::LayerFacts;
use crate::store::layout::{self, Layout};
use crate::unpack::Limits;

/// The layers of an image, bottom first, by its documents in the store.
pub(crate) fn layers(layout: &Layout, manifest: &Digest, what: &str) -> Result<Vec<LayerPlan>> {
    let damaged = |digest: &Digest| ImageError::Damaged {
        path: layout.blob(digest),
        reason: "it is missing or not what its name says".to_owned(),
    };
    let bytes = layout.document(manifest).ok_or_else(|| damaged(manifest))?;
    let Document::Manifest(parsed) = manifest::parse(&bytes, None, what)? else {
        let reason = "it is an index where a manifest should be".to_owned();
        return Err(ImageError::Damaged { path: layout.blob(manifest), reason });
    };
    let config = layout.document(&parsed.config.digest).ok_or_else(|| damaged(&parsed.config.digest))?;
    let config = manifest::config(&config, &parsed, what)?;
    Ok(layers::plan(&ImageVariant { digest: *manifest, manifest: parsed, config }))
}

/// Unpacks the blob of a layer into the new folder `folder`, on top of the layers whose files are `below`, bottom first.
/// Its digests are verified on the way.
pub(crate) fn remake(
    layout: &Layout,
    plan: &LayerPlan,
    folder: &Path,
    below: &[PathBuf],
) -> Result<LayerFacts> {
    let path = layout.blob(&plan.layer.digest);
    let blob = File::open(&path).map_err(ImageError::io("open", &path))?;
    // Nothing comes from anywhere else.
    let (_, nothing) = mpsc::channel(1);
    let incoming = Incoming::new(Some(blob), nothing, None, plan.layer.digest.algorithm());
    let fs = folder.join("fs");
    layout::make_folder(&fs)?;
    let promise = Promise { layer: plan.layer.clone(), diff_id: plan.diff_id, limits: Limits::default() };
    let unpacked = decompress::run(incoming, &promise, &path, &fs)?;
    layers::settle(plan, unpacked, folder, below)
}
