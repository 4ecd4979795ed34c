//! `agent wait`: waits until containers have ended, and prints their exit codes.

use anyhow::Result;
use clap::Args;
use runtime::Runtime;

use crate::commands::for_each;
use crate::exit::Exit;

/// Wait until containers have ended, then print their exit codes
#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Wait {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        for_each(&self.containers, |name| Ok(runtime.wait(&runtime.find(name)?.id)?.to_string()))
    }
}
