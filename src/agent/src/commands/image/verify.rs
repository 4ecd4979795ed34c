//! `agent image verify`: whether images are still what they were.

use anyhow::Result;
use clap::Args;
use image::{PullOptions, Silent};
use runtime::Runtime;

use crate::commands::pull;
use crate::exit::Exit;
use crate::print;

/// Verify that images are what they were: digest every blob, and compare every layer with its blob entry by entry
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Every image, as when none is named
    #[arg(short, long, conflicts_with = "images")]
    all: bool,
    /// Fetch damaged blobs again, and unpack damaged layers again unless a container has them mounted
    #[arg(long)]
    repair: bool,
    /// References or ids
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
}

impl Verify {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        let store = runtime.images();
        let verified = store.verify(&self.images)?;
        let mut text: String = verified.damage.iter().map(|damage| format!("damaged: {damage}\n")).collect();
        let (images, blobs, layers) = (verified.images, verified.blobs, verified.layers);
        let found: Vec<_> = verified.damage.clone();
        let mut left = found.clone();
        if self.repair && !found.is_empty() {
            print::out(&text)?;
            let tracer = runtime.tracer("image verify");
            let mounted = |id: &str| runtime.image_mounted(id);
            let options = PullOptions::default();
            let repairing = store.repair(verified, &mounted, &options, &Silent, &tracer);
            left = pull::threads()?.block_on(repairing)?;
            let mended = found.iter().filter(|damage| left.iter().all(|left| left.what != damage.what));
            text = mended.map(|damage| format!("repaired: {damage}\n")).collect();
            text.extend(left.iter().map(|damage| format!("still damaged: {damage}\n")));
        }
        text.push_str(&format!("verified {images} images, {blobs} blobs, {layers} layers\n"));
        print::out(&text)?;
        Ok(Exit::all(left.is_empty()))
    }
}
