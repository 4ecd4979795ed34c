//! The layers of the store: one folder per chain id, visible only when complete and synced.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::layout::{self, Layout, link_name};
use crate::digest::Digest;
use crate::error::{ImageError, Result};

/// What a layer is, in `layer.json` beside its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LayerFacts {
    pub(crate) diff_id: Digest,
    /// The chain id below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<Digest>,
    /// Bytes of its files.
    pub(crate) size: u64,
    pub(crate) entries: u64,
}

/// The facts of a layer, when it is in the store; its short link is then there too.
pub(crate) fn find(layout: &Layout, chain: &Digest) -> Result<Option<LayerFacts>> {
    let facts = read(layout, chain)?;
    if facts.is_some() {
        link(layout, chain)?;
    }
    Ok(facts)
}

/// The facts of a layer, when it is in the store.
pub(crate) fn read(layout: &Layout, chain: &Digest) -> Result<Option<LayerFacts>> {
    let path = layout.layer(chain).join("layer.json");
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ImageError::io("read", path)(error)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| ImageError::Damaged { path, reason: error.to_string() })
}

/// Makes the layer whose folder is `made` visible. The folder must be synced already.
pub(crate) fn commit(layout: &Layout, chain: &Digest, made: &Path) -> Result<()> {
    link(layout, chain)?;
    layout::rename(made, &layout.layer(chain))
}

/// Makes the short link of a layer, unless it is there.
fn link(layout: &Layout, chain: &Digest) -> Result<()> {
    let path = layout.links().join(link_name(chain));
    let target = Path::new("..").join(chain.hex()).join("fs");
    match symlink(&target, &path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let found = fs::read_link(&path).map_err(ImageError::io("read", &path))?;
            if found == target {
                return Ok(());
            }
            Err(ImageError::Damaged { path, reason: format!("it leads to {}", found.display()) })
        }
        Err(error) => Err(ImageError::io("link", path)(error)),
    }
}
