//! `agent commit`: a container becomes an image.

use anyhow::{Result, bail};
use clap::{ArgAction, Args};
use image::{Change, CommitOptions, Reference};
use runtime::Runtime;

use crate::commands::export::warn_of_left_out;
use crate::commands::pull::threads;
use crate::exit::Exit;
use crate::print;

/// Make an image of a container's image and what the container changed; what lies in its mounts is no part of it
#[derive(Debug, Args)]
pub(crate) struct Commit {
    /// Who made it, such as "Jane Doe <jane@example.org>"
    #[arg(short, long, value_name = "NAME")]
    author: Option<String>,
    /// Change its configuration by an instruction of a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL,
    /// USER, VOLUME or WORKDIR
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    changes: Vec<Change>,
    /// A comment for its history
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Let the container stand still while its files are read
    #[arg(
        short,
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        action = ArgAction::Set
    )]
    pause: bool,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// The name of the image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    reference: Option<Reference>,
}

impl Commit {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        if let Some(reference) = self.reference.as_ref().filter(|reference| reference.digest().is_some()) {
            bail!("{reference} is pinned to a digest, which no new image has: leave out what follows the @");
        }
        let options = CommitOptions {
            reference: self.reference,
            author: self.author,
            message: self.message,
            changes: self.changes,
            ..Default::default()
        };
        let committing = runtime.commit(&self.container, self.pause, options);
        let (image, packed) = threads()?.block_on(committing)?;
        warn_of_left_out(&packed);
        print::line(&image.id)?;
        Ok(Exit::Success)
    }
}
