//! `agent reset`: takes everything of agent off this machine but its configuration and its programs.

use anyhow::{Result, bail};
use clap::Args;
use runtime::Runtime;

use crate::exit::Exit;

/// Remove all containers, images, volumes, networks and cgroups of agent
#[derive(Debug, Args)]
pub(crate) struct Reset {
    /// Yes, everything
    #[arg(short, long)]
    force: bool,
}

impl Reset {
    pub(crate) fn run(self, runtime: Runtime) -> Result<Exit> {
        if !self.force {
            bail!(
                "this removes every container, image and volume: say `agent reset --force` if that is meant"
            );
        }
        runtime.reset()?;
        Ok(Exit::Success)
    }
}
