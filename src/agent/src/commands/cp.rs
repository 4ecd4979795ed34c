//! `agent cp`: files from a container and into it.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use anyhow::{Result, bail};
use clap::Args;
use runtime::{CopyOptions, Runtime};

use crate::commands::export::warn_of_left_out;
use crate::exit::Exit;
use crate::{output, print};

/// Copy files between a container and this machine, also while it runs
#[derive(Debug, Args)]
#[command(override_usage = "agent cp [OPTIONS] CONTAINER:SOURCE DESTINATION|-\n       \
    agent cp [OPTIONS] SOURCE|- CONTAINER:DESTINATION")]
pub(crate) struct Cp {
    /// Keep owners, set-user-ID bits and attributes; else copies belong to root
    #[arg(short, long)]
    archive: bool,
    /// Copy what SOURCE links to, and not the link
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Do not say what was copied
    #[arg(short, long)]
    quiet: bool,
    /// A file or folder, or `-` for a tar archive on standard input; what ends with `/.` stands for what is in it
    #[arg(value_name = "SOURCE")]
    source: String,
    /// Where it goes; `-` is a tar archive on standard output
    #[arg(value_name = "DESTINATION")]
    destination: String,
}

/// One end of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End<'a> {
    Local(&'a str),
    Container(&'a str, &'a str),
}

impl Cp {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        let options = CopyOptions { archive: self.archive, follow: self.follow_link };
        let packed = match (End::of(&self.source), End::of(&self.destination)) {
            (End::Local("") | End::Container(_, ""), _) => bail!("the source is empty"),
            (_, End::Local("") | End::Container(_, "")) => bail!("the destination is empty"),
            (End::Local(_), End::Local(_)) => {
                bail!("one of the two must be in a container: CONTAINER:PATH")
            }
            (End::Container(..), End::Container(..)) => {
                bail!("copying between containers is not supported: copy to this machine first")
            }
            (End::Container(name, from), End::Local("-")) => {
                if io::stdout().is_terminal() {
                    bail!("an archive is not written to a terminal: redirect, or name a file");
                }
                let from = Path::new(from);
                let write = |stdout: &mut _| Ok(runtime.copy_out(name, from, self.follow_link, stdout)?);
                match output::to_stdout(write)? {
                    Some(packed) => warn_of_left_out(&packed),
                    None => return Ok(Exit::Signalled(nix::sys::signal::Signal::SIGPIPE)),
                }
                return Ok(Exit::Success);
            }
            (End::Local("-"), End::Container(name, to)) => {
                if io::stdin().is_terminal() {
                    bail!("an archive is not read from a terminal: redirect, or name a file");
                }
                runtime.copy_in(name, io::stdin().lock(), Path::new(to))?;
                return Ok(Exit::Success);
            }
            (End::Container(name, from), End::Local(to)) => {
                runtime.copy_from(name, Path::new(from), Path::new(to), options)?
            }
            (End::Local(from), End::Container(name, to)) => {
                runtime.copy_to(name, Path::new(from), Path::new(to), options)?
            }
        };
        warn_of_left_out(&packed);
        if !self.quiet {
            let line = format!("Successfully copied {} to {}", print::size(packed.bytes), self.destination);
            // Whether anyone reads it changes nothing.
            drop(writeln!(io::stderr(), "{line}"));
        }
        Ok(Exit::Success)
    }
}

impl<'a> End<'a> {
    /// `CONTAINER:PATH`; what begins with a slash or a dot is a path of this machine, colons or not.
    fn of(text: &'a str) -> Self {
        match text.split_once(':') {
            Some((name, path)) if !text.starts_with(['/', '.']) => End::Container(name, path),
            _ => End::Local(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_tells_a_container_but_not_in_a_path_that_is_plainly_one() {
        for (text, expected) in [
            ("c:/x", End::Container("c", "/x")),
            ("c:x:y", End::Container("c", "x:y")),
            ("/c:x", End::Local("/c:x")),
            ("./c:x", End::Local("./c:x")),
            ("../c:x", End::Local("../c:x")),
            ("x", End::Local("x")),
            ("-", End::Local("-")),
        ] {
            assert_eq!(End::of(text), expected);
        }
    }
}
