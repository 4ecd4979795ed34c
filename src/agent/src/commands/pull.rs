//! `agent pull`: an image from its registry into the store.

use anyhow::{Context, Result, bail};
use clap::Args;
use image::{Image, Platform, PullOptions, Reference};
use runtime::Runtime;

use crate::exit::Exit;
use crate::print;
use crate::progress::{self, ProgressStyle};

/// Pull an image from a registry
#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// Print the reference only
    #[arg(short, long)]
    quiet: bool,
    /// How progress is shown on standard error
    #[arg(long, value_name = "STYLE", value_enum, default_value_t, conflicts_with = "quiet")]
    progress: ProgressStyle,
    /// The image for this platform, such as linux/arm64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Keep the images for all platforms, to push or save them on
    #[arg(long)]
    all_platforms: bool,
    /// Pull every tag of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// How many layers are fetched and unpacked at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    parallel: Option<u16>,
    /// What to pull, as `[REGISTRY/]NAME[:TAG][@DIGEST]`
    #[arg(value_name = "IMAGE")]
    reference: String,
}

impl Pull {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        let reference: Reference = self.reference.parse()?;
        let style = if self.quiet { ProgressStyle::None } else { self.progress };
        let mut options = PullOptions {
            platform: self.platform.clone(),
            all_platforms: self.all_platforms,
            ..PullOptions::default()
        };
        if let Some(parallel) = self.parallel {
            options.parallel = parallel.into();
        }
        if !self.all_tags {
            self.one(runtime, &reference, &options, style)?;
            return Ok(Exit::Success);
        }
        let last = self.reference.rsplit('/').next().unwrap_or_default();
        if last.contains([':', '@']) {
            bail!(
                "with --all-tags the image is a repository: leave out the tag or digest of {}",
                self.reference
            );
        }
        let tags = threads()?.block_on(runtime.images().remote_tags(&reference))?;
        if tags.is_empty() {
            bail!("{} has no tags", self.reference);
        }
        for tag in tags {
            self.one(runtime, &format!("{}:{tag}", self.reference).parse()?, &options, style)?;
        }
        Ok(Exit::Success)
    }

    fn one(
        &self,
        runtime: &Runtime,
        reference: &Reference,
        options: &PullOptions,
        style: ProgressStyle,
    ) -> Result<()> {
        let name = reference.to_string();
        // What is damaged is about to be mended.
        let before = match runtime.images().resolve(&name) {
            Err(error) if error.is_damaged() => None,
            found => found?.map(|image| image.digest),
        };
        let image = pull(runtime, reference, options, style)?;
        if !self.quiet {
            let status = match before == Some(image.digest) {
                true => "Image is up to date",
                false => "Downloaded newer image",
            };
            print::line(&format!("Digest: {}\nStatus: {status} for {}", image.digest, reference.familiar()))?;
        }
        print::line(&name)?;
        Ok(())
    }
}

/// Pulls with progress on standard error.
pub(crate) fn pull(
    runtime: &Runtime,
    reference: &Reference,
    options: &PullOptions,
    style: ProgressStyle,
) -> Result<Image> {
    let tracer = runtime.tracer(&reference.to_string());
    let progress = progress::for_stderr(style);
    Ok(threads()?.block_on(runtime.images().pull(reference, options, progress.as_ref(), &tracer))?)
}

/// The threads of what talks to registries or unpacks layers; they are started nowhere else in this program.
pub(crate) fn threads() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the threads that work on images")
}
