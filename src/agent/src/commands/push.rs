//! `agent push`: an image from the store to its registry.

use anyhow::Result;
use clap::Args;
use image::{PushOptions, Reference};
use runtime::Runtime;

use crate::commands::pull::threads;
use crate::exit::Exit;
use crate::print;
use crate::progress::{self, ProgressStyle};

/// Push an image to a registry
#[derive(Debug, Args)]
pub(crate) struct Push {
    /// Print the reference only
    #[arg(short, long)]
    quiet: bool,
    /// How progress is shown on standard error
    #[arg(long, value_name = "STYLE", value_enum, default_value_t, conflicts_with = "quiet")]
    progress: ProgressStyle,
    /// How many layers are sent at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    parallel: Option<u16>,
    /// The image's reference or id
    #[arg(value_name = "IMAGE")]
    image: String,
    /// What it is to be called at its registry, as `[REGISTRY/]NAME[:TAG]`; else as it is called here
    #[arg(value_name = "DESTINATION")]
    to: Option<String>,
}

impl Push {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        let to: Option<Reference> = self.to.as_deref().map(str::parse).transpose()?;
        let style = if self.quiet { ProgressStyle::None } else { self.progress };
        let mut options = PushOptions::default();
        if let Some(parallel) = self.parallel {
            options.parallel = parallel.into();
        }
        let progress = progress::for_stderr(style);
        let push = runtime.images().push(&self.image, to.as_ref(), &options, progress.as_ref());
        let pushed = threads()?.block_on(push)?;
        match (self.quiet, pushed.reference.tag()) {
            (false, Some(tag)) => {
                print::line(&format!("{tag}: digest: {} size: {}", pushed.digest, pushed.bytes))?;
            }
            _ => print::line(&pushed.reference.to_string())?,
        }
        Ok(Exit::Success)
    }
}
