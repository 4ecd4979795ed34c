//! `agent tag`: another name for an image.

use anyhow::Result;
use clap::Args;
use image::Reference;
use runtime::Runtime;

use crate::exit::Exit;

/// Give an image another name
#[derive(Debug, Args)]
pub(crate) struct Tag {
    /// The image, by a reference or id
    #[arg(value_name = "SOURCE")]
    source: String,
    /// The name it gets too, as `[REGISTRY/]NAME[:TAG]`
    #[arg(value_name = "TARGET")]
    target: Reference,
}

impl Tag {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        runtime.images().tag(&self.source, &self.target)?;
        Ok(Exit::Success)
    }
}
