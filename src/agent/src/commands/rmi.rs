//! `agent rmi`: takes names from images, and images from the store.

use anyhow::Result;
use clap::Args;
use runtime::Runtime;

use crate::commands::{familiar, for_each};
use crate::exit::Exit;

/// Remove images
#[derive(Debug, Args)]
pub(crate) struct Rmi {
    /// Even with several names, or in use by a container, which then keeps its content
    #[arg(short, long)]
    force: bool,
    /// References or ids
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl Rmi {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        for_each(&self.images, |name| {
            let in_use = |id: &str| runtime.image_in_use(id);
            let removed = runtime.images().remove(name, &in_use, self.force)?;
            let untagged = removed.untagged.iter().map(|name| format!("Untagged: {}", familiar(name)));
            let deleted = removed.deleted.iter().map(|id| format!("Deleted: {id}"));
            Ok(untagged.chain(deleted).collect::<Vec<_>>().join("\n"))
        })
    }
}
