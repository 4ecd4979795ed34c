//! `agent kill`: a signal for the container's first process.

use anyhow::Result;
use clap::Args;
use runtime::Runtime;

use crate::commands::for_each;
use crate::exit::Exit;
use crate::flags::parse_signal;

/// Send a signal to containers
#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// The signal: a name such as TERM or SIGHUP, or a number
    #[arg(short, long, default_value = "KILL", value_parser = parse_signal)]
    signal: i32,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Kill {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        for_each(&self.containers, |name| {
            runtime.kill(&runtime.find(name)?.id, self.signal)?;
            Ok(name.to_owned())
        })
    }
}
