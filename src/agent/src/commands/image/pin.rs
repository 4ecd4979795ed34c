//! `agent image pin` and `unpin`: names whose images garbage collection leaves alone.

use anyhow::{Result, bail};
use clap::Args;
use runtime::Runtime;

use crate::commands::{familiar, for_each};
use crate::exit::Exit;

/// Keep images from `gc` and `prune`, whatever their names come to stand for, until they are unpinned or removed
#[derive(Debug, Args)]
pub(crate) struct Pin {
    /// References or ids
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Take pins back
#[derive(Debug, Args)]
pub(crate) struct Unpin {
    /// References or ids
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl Pin {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        for_each(&self.images, |name| Ok(familiar(&runtime.images().pin(name)?)))
    }
}

impl Unpin {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        for_each(&self.images, |name| match runtime.images().unpin(name)? {
            Some(pinned) => Ok(familiar(&pinned)),
            None => bail!("image {name} is not pinned"),
        })
    }
}
