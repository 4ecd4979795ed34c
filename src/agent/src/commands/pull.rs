//! `agent pull`: an image from its registry into the store.

use anyhow::{Context, Result};
use clap::Args;
use image::{Image, Platform, PullOptions, Reference};
use runtime::Runtime;

use crate::exit::Exit;
use crate::{print, progress};

/// Pull an image from a registry
#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// Print the reference only
    #[arg(short, long)]
    quiet: bool,
    /// The image for this platform, such as linux/arm64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// What to pull, as `[REGISTRY/]NAME[:TAG][@DIGEST]`
    #[arg(value_name = "IMAGE")]
    reference: Reference,
}

impl Pull {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        let name = self.reference.to_string();
        let before = runtime.images().resolve(&name)?.map(|image| image.digest);
        let image = pull(runtime, &self.reference, self.platform, self.quiet)?;
        if !self.quiet {
            let status = match before == Some(image.digest) {
                true => "Image is up to date",
                false => "Downloaded newer image",
            };
            print::line(&format!(
                "Digest: {}\nStatus: {status} for {}",
                image.digest,
                self.reference.familiar()
            ))?;
        }
        print::line(&name)?;
        Ok(Exit::Success)
    }
}

/// Pulls with progress on standard error. Threads are started here and nowhere else in this program.
pub(crate) fn pull(
    runtime: &Runtime,
    reference: &Reference,
    platform: Option<Platform>,
    quiet: bool,
) -> Result<Image> {
    let threads = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the threads that pull")?;
    let tracer = runtime.tracer(&reference.to_string());
    let progress = progress::for_stderr(quiet);
    let options = PullOptions { platform, ..PullOptions::default() };
    Ok(threads.block_on(runtime.images().pull(reference, &options, progress.as_ref(), &tracer))?)
}
