//! `agent cleanup`: what a container's monitor runs when the container has ended and nobody waits for it.

use anyhow::Result;
use clap::Args;
use runtime::Runtime;

use crate::exit::Exit;

/// Undo what a container that has ended leaves behind
#[derive(Debug, Args)]
pub(crate) struct Cleanup {
    /// The container's id
    id: String,
}

impl Cleanup {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        runtime.cleanup(&self.id)?;
        Ok(Exit::Success)
    }
}
