//! `agent load`: the images of a file into the store.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use image::{ArchiveInput, Loaded, Platform, PullOptions};
use runtime::Runtime;

use crate::commands::pull::threads;
use crate::exit::Exit;
use crate::print;
use crate::progress::{self, ProgressStyle};

/// Load images from a file, as docker, podman, skopeo or `agent save` write it
#[derive(Debug, Args)]
pub(crate) struct Load {
    /// Read this file, or directory with an OCI layout, and not standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Print the names only
    #[arg(short, long)]
    quiet: bool,
    /// Of images for several platforms, that for this one, such as linux/arm64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
}

impl Load {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        let input = match &self.input {
            Some(path) => ArchiveInput::open(path)?,
            None => stdin("load", "--input FILE")?,
        };
        let style = if self.quiet { ProgressStyle::None } else { ProgressStyle::Auto };
        let tracer = runtime.tracer("load");
        let progress = progress::for_stderr(style);
        let options = PullOptions { platform: self.platform, ..PullOptions::default() };
        let mut printed = Ok(());
        let mut loaded = |loaded: Loaded| {
            let names = loaded.names.iter().map(|name| format!("Loaded image: {}", name.familiar()));
            let mut lines: Vec<String> = names.collect();
            if lines.is_empty() {
                lines.push(format!("Loaded image ID: {}", loaded.image.id));
            }
            if printed.is_ok() {
                printed = print::line(&lines.join("\n"));
            }
        };
        let loading = runtime.images().load(input, &options, progress.as_ref(), &tracer, &mut loaded);
        threads()?.block_on(loading)?;
        printed?;
        Ok(Exit::Success)
    }
}

/// Standard input, unless it is a terminal, on which nobody types an archive.
pub(super) fn stdin(verb: &str, other: &str) -> Result<ArchiveInput> {
    if std::io::stdin().is_terminal() {
        bail!("there is nothing to {verb} on standard input, which is a terminal: use {other}, or redirect");
    }
    Ok(ArchiveInput::stream("standard input", std::io::stdin()))
}
