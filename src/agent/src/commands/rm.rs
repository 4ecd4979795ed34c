//! `agent rm`: removes containers that have ended, and with `-f` those that run.

use anyhow::Result;
use clap::Args;
use runtime::Runtime;

use crate::commands::for_each;
use crate::exit::Exit;

/// Remove containers
#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// Kill what still runs; what does not exist is removed already
    #[arg(short, long)]
    force: bool,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Rm {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        let (known, unknown): (Vec<String>, Vec<String>) = match self.force {
            true => self
                .containers
                .into_iter()
                .partition(|name| !runtime.find(name).is_err_and(|error| error.is_not_found())),
            false => (self.containers, Vec::new()),
        };
        for name in unknown {
            // As with docker: said, and no failure.
            crate::complain(&format!("no such container: {name}"));
        }
        for_each(&known, |name| {
            runtime.remove(&runtime.find(name)?.id, self.force)?;
            Ok(name.to_owned())
        })
    }
}
