//! `agent import`: a root file system becomes an image.

use std::path::Path;

use anyhow::{Result, bail};
use clap::Args;
use image::{ArchiveInput, Change, ImportOptions, Platform, Reference};
use runtime::Runtime;

use crate::commands::load::stdin;
use crate::commands::pull::threads;
use crate::exit::Exit;
use crate::print;

/// Make an image of one layer out of an archive of a root file system
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// Change its configuration by an instruction of a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL,
    /// USER, VOLUME or WORKDIR
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    changes: Vec<Change>,
    /// A comment for its history
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// What machine it is for, such as linux/arm64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// The archive (tar, plain or compressed by gzip or zstd); `-` is standard input
    #[arg(value_name = "FILE|-")]
    file: String,
    /// The name of the image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    reference: Option<Reference>,
}

impl Import {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        if let Some(reference) = self.reference.as_ref().filter(|reference| reference.digest().is_some()) {
            bail!("{reference} is pinned to a digest, which no new image has: leave out what follows the @");
        }
        let input = match self.file.as_str() {
            "-" => stdin("import", "FILE")?,
            url if ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)) => {
                bail!("nothing is fetched from {url}: use `curl -fL {url} | agent import -`")
            }
            path => ArchiveInput::open(Path::new(path))?,
        };
        let options = ImportOptions {
            reference: self.reference,
            changes: self.changes,
            message: self.message,
            platform: self.platform,
        };
        let tracer = runtime.tracer("import");
        let importing = runtime.images().import(input, &options, &tracer);
        let image = threads()?.block_on(importing)?;
        print::line(&image.id)?;
        Ok(Exit::Success)
    }
}
