//! `agent image`: the verbs for images under one word, as docker has them. Each is the very verb that stands alone too.

mod gc;
mod pin;
mod prune;
mod verify;

use anyhow::Result;
use clap::{Args, Subcommand};
use runtime::Runtime;

use self::gc::Gc;
use self::pin::{Pin, Unpin};
use self::prune::Prune;
use self::verify::Verify;
use super::history::History;
use super::images::Images;
use super::import::Import;
use super::inspect::{Inspection, Kind};
use super::load::Load;
use super::pull::Pull;
use super::push::Push;
use super::rmi::Rmi;
use super::save::Save;
use super::tag::Tag;
use crate::exit::Exit;

/// Manage images
#[derive(Debug, Args)]
pub(crate) struct ImageCommand {
    #[command(subcommand)]
    verb: ImageVerb,
}

#[derive(Debug, Subcommand)]
enum ImageVerb {
    #[command(visible_alias = "list")]
    Ls(Images),
    #[command(visible_alias = "remove")]
    Rm(Rmi),
    Pull(Pull),
    Push(Push),
    Save(Save),
    Load(Load),
    Import(Import),
    Tag(Tag),
    History(History),
    /// Show all that is known of images
    Inspect(Inspection),
    Prune(Prune),
    Gc(Gc),
    Pin(Pin),
    Unpin(Unpin),
    Verify(Verify),
}

impl ImageCommand {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        match self.verb {
            ImageVerb::Ls(verb) => verb.run(runtime),
            ImageVerb::Rm(verb) => verb.run(runtime),
            ImageVerb::Pull(verb) => verb.run(runtime),
            ImageVerb::Push(verb) => verb.run(runtime),
            ImageVerb::Save(verb) => verb.run(runtime),
            ImageVerb::Load(verb) => verb.run(runtime),
            ImageVerb::Import(verb) => verb.run(runtime),
            ImageVerb::Tag(verb) => verb.run(runtime),
            ImageVerb::History(verb) => verb.run(runtime),
            ImageVerb::Inspect(verb) => verb.run(runtime, Some(Kind::Image)),
            ImageVerb::Prune(verb) => verb.run(runtime),
            ImageVerb::Gc(verb) => verb.run(runtime),
            ImageVerb::Pin(verb) => verb.run(runtime),
            ImageVerb::Unpin(verb) => verb.run(runtime),
            ImageVerb::Verify(verb) => verb.run(runtime),
        }
    }
}
