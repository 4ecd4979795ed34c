//! `agent image prune`: removes images that nobody uses.

use std::io::{BufRead, IsTerminal};

use anyhow::{Context, Result, bail};
use clap::Args;
use runtime::Runtime;

use crate::commands::familiar;
use crate::commands::images::filter::{Filter, Filters, parse_prune_filter};
use crate::exit::Exit;
use crate::print;

/// Remove images that have no name, and with --all every one that no container uses; pinned ones stay
#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// Also those that have a name, if no container uses them
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only those that this fits: until=TIME (built before), label=KEY[=VALUE], label!=KEY[=VALUE]
    #[arg(long = "filter", value_name = "KEY=VALUE", value_parser = parse_prune_filter)]
    filters: Vec<Filter>,
}

impl Prune {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        if !self.force && !self.confirmed()? {
            return Ok(Exit::Success);
        }
        let store = runtime.images();
        let filters = Filters::new(store, self.filters)?;
        // What cannot be asked of an image is no reason to remove it.
        let mut failed = None;
        let mut choose = |image: &image::ImageSummary| {
            let dangling = image.reference.is_none();
            let fits = (self.all || dangling)
                && filters.fit(image).unwrap_or_else(|error| {
                    failed.get_or_insert(error);
                    false
                });
            Ok(fits)
        };
        let removed = store.prune(&mut choose, &|id| runtime.image_in_use(id))?;
        let mut text = String::new();
        if !removed.deleted.is_empty() {
            text.push_str("Deleted Images:\n");
            text.extend(removed.untagged.iter().map(|name| format!("untagged: {}\n", familiar(name))));
            text.extend(removed.deleted.iter().map(|id| format!("deleted: {id}\n")));
            text.push('\n');
        }
        print::out(&format!("{text}Total reclaimed space: {}\n", print::size(removed.bytes)))?;
        match failed {
            Some(error) => Err(error.context("an image was left because it cannot be read")),
            None => Ok(Exit::Success),
        }
    }

    /// Whether the user says yes; without a terminal nobody can.
    fn confirmed(&self) -> Result<bool> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            bail!("this removes images, and there is no terminal to ask on: say `agent image prune --force`");
        }
        let which =
            if self.all { "all images without at least one container" } else { "all dangling images" };
        let question = "Are you sure you want to continue? [y/N] ";
        print::out(&format!("WARNING! This will remove {which}.\n{question}"))?;
        let mut answer = String::new();
        stdin.lock().read_line(&mut answer).context("failed to read the answer")?;
        Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }
}
