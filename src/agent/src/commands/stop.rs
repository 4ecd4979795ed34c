//! `agent stop`: the container's stop signal, and after a time of grace SIGKILL.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use runtime::{ContainerState, Runtime};

use crate::commands::for_each;
use crate::exit::Exit;

/// Stop containers
#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// Seconds to wait before killing them
    #[arg(short, long, visible_alias = "timeout", value_name = "SECONDS", default_value_t = 10)]
    time: u32,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Stop {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        let grace = Duration::from_secs(self.time.into());
        for_each(&self.containers, |name| {
            let view = runtime.find(name)?;
            // Stopping what has stopped is no failure, as with docker.
            if matches!(view.state, ContainerState::Running { .. }) {
                runtime.stop(&view.id, grace)?;
            }
            Ok(name.to_owned())
        })
    }
}
