//! `agent save`: images into a file.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use image::{Compression, SaveFormat, SaveOptions, Target};
use runtime::Runtime;

use crate::exit::Exit;

/// Save images to a file, or to standard output
#[derive(Debug, Args)]
pub(crate) struct Save {
    /// Write to this file, or for `oci-dir` to this new directory
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What to write: one archive that docker and OCI tools both load, or one of the two alone
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// How to compress the whole; layers are as they were pulled, mostly compressed already
    #[arg(long, value_enum, default_value_t)]
    compress: Compress,
    /// References or ids; what is given by its id has no name in the file
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Formats of a saved file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    #[default]
    Both,
    DockerArchive,
    OciArchive,
    OciDir,
}

/// Compressions of a saved file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Compress {
    #[default]
    None,
    Gzip,
    Zstd,
}

impl Save {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        let format = match self.format {
            Format::Both => SaveFormat::Both,
            Format::DockerArchive => SaveFormat::DockerArchive,
            Format::OciArchive => SaveFormat::OciArchive,
            Format::OciDir => SaveFormat::OciFolder,
        };
        let compression = match self.compress {
            Compress::None => Compression::None,
            Compress::Gzip => Compression::Gzip,
            Compress::Zstd => Compression::Zstd,
        };
        let target = match self.output {
            _ if format == SaveFormat::OciFolder && compression != Compression::None => {
                bail!("a directory is not compressed as a whole: leave out --compress, or use oci-archive")
            }
            Some(path) => Target::Path(path),
            None if format == SaveFormat::OciFolder => bail!("name the new directory with --output"),
            None if std::io::stdout().is_terminal() => {
                bail!("an archive is not written to a terminal: use --output FILE, or redirect")
            }
            None => Target::Stream(Box::new(std::io::stdout())),
        };
        runtime.images().save(&self.images, &SaveOptions { format, compression }, target)?;
        Ok(Exit::Success)
    }
}
