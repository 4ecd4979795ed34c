//! `agent export`: a container's files as an archive.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use runtime::Runtime;
use runtime::image::pack::Packed;

use crate::exit::Exit;
use crate::output;

/// Write a container's files, without those of its mounts, as a tar archive
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// Write to this file, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    container: String,
}

impl Export {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        let id = runtime.find(&self.container)?.id;
        let packed = match self.output {
            Some(path) => output::to_file(&path, |file| Ok(runtime.export(&id, file)?))?,
            None if std::io::stdout().is_terminal() => {
                bail!("an archive is not written to a terminal: use --output FILE, or redirect")
            }
            None => match output::to_stdout(|stdout| Ok(runtime.export(&id, stdout)?))? {
                Some(packed) => packed,
                None => return Ok(Exit::Signalled(nix::sys::signal::Signal::SIGPIPE)),
            },
        };
        warn_of_left_out(&packed);
        Ok(Exit::Success)
    }
}

/// Tells what is not in an archive as it is in the container.
pub(crate) fn warn_of_left_out(packed: &Packed) {
    for left in &packed.left_out.told {
        crate::complain(&left.to_string());
    }
    let untold = packed.left_out.count - packed.left_out.told.len() as u64;
    if untold > 0 {
        crate::complain(&format!("and so with {untold} more"));
    }
}
