//! A manifest for an image that came without one: an OCI manifest over its layers as they were found, plain or
//! compressed, and its configuration byte for byte. The same image always gets the same manifest.

use serde::Serialize;

use super::source::Kept;
use crate::digest::Digest;
use crate::manifest::{self, Layer, Packing};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: Digest,
    size: u64,
}

/// The manifest of a configuration and layers, bottom first.
pub(super) fn manifest<'l>(config: &[u8], layers: impl Iterator<Item = (&'l Kept, Packing)>) -> Vec<u8> {
    of_layers(config, layers.map(|(kept, packing)| Layer { digest: kept.digest, size: kept.size, packing }))
}

/// The same of layers that are in the store.
pub(crate) fn of_layers(config: &[u8], layers: impl Iterator<Item = Layer>) -> Vec<u8> {
    let layers = layers.map(|layer| {
        let suffix = match layer.packing {
            Packing::Plain => "",
            Packing::Gzip => "+gzip",
            Packing::Zstd => "+zstd",
        };
        Descriptor {
            media_type: format!("{}{suffix}", manifest::OCI_LAYER),
            digest: layer.digest,
            size: layer.size,
        }
    });
    let made = Manifest {
        schema_version: 2,
        media_type: manifest::OCI_MANIFEST,
        config: Descriptor {
            media_type: manifest::OCI_CONFIG.to_owned(),
            digest: Digest::of(config),
            size: config.len() as u64,
        },
        layers: layers.collect(),
    };
    serde_json::to_vec(&made).expect("a manifest has only string keys")
}
