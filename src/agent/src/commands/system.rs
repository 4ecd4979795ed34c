//! `agent system`: what concerns the whole machine.

mod df;

use anyhow::Result;
use clap::{Args, Subcommand};
use runtime::Runtime;

use self::df::Df;
use crate::exit::Exit;

/// Look after the whole of it
#[derive(Debug, Args)]
pub(crate) struct SystemCommand {
    #[command(subcommand)]
    verb: SystemVerb,
}

#[derive(Debug, Subcommand)]
enum SystemVerb {
    Df(Df),
}

impl SystemCommand {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        match self.verb {
            SystemVerb::Df(verb) => verb.run(runtime),
        }
    }
}
