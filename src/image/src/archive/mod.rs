//! Images as files: archives and folders of them, read and written.
//!
//! ```text
//! load:    file ──> compress ──> spool ──┐
//!          folder ───────────────────────┴─> source ──> oci | docker | dir ──> offers ──> the store
//! import:  file ──> compress ──> one layer ─────────────────────────────────────^
//! save:    the store ──> sink (archive | folder) ──> target
//! ```
//!
//! Two formats are known, each compressed as a whole by gzip, zstd or not at all, and told by its content:
//!
//! - the layout of the image specification, `index.json` over blobs by digest (`oci`);
//! - docker's, `manifest.json` over files of any name (`docker`); and skopeo's folder of that name (`dir`).
//!
//! An archive that is both, as docker itself writes them since version 25, is read as a layout, which keeps digests.
//! It is also what is saved unless another format is asked for: what loads one of the two loads it.

mod compress;
mod dir;
mod docker;
#[cfg(test)]
pub(crate) mod hostile;
mod import;
mod load;
pub(crate) mod made;
mod oci;
mod save;
mod sink;
mod source;
mod spool;
mod target;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

pub use self::compress::Compression;
pub use self::import::ImportOptions;
pub use self::load::Loaded;
use self::oci::Offer;
pub use self::save::{SaveFormat, SaveOptions};
use self::source::{Folder, Source};
use self::spool::Spool;
pub use self::target::Target;
use crate::error::{ImageError, Result};
use crate::platform::Platform;
use crate::unpack::Limits;

/// The list of images in docker's archive.
const MANIFEST: &str = "manifest.json";
/// The list of images in a layout.
const INDEX: &str = "index.json";
/// What a layout is known by.
const LAYOUT: &str = "oci-layout";
/// The names in docker's archives before version 1.10, and still beside `manifest.json`.
const REPOSITORIES: &str = "repositories";
/// Images, or names of images, of one file.
const IMAGES_MAX: usize = 1000;
/// What is read into memory, and is therefore bounded.
const DOCUMENTS: [&str; 4] = [MANIFEST, INDEX, LAYOUT, REPOSITORIES];

/// A file with images, not yet read.
pub struct ArchiveInput {
    what: String,
    origin: Origin,
}

enum Origin {
    Stream(Box<dyn Read + Send>),
    Folder(PathBuf),
}

impl ArchiveInput {
    /// A file, or a folder that is a layout.
    pub fn open(path: &Path) -> Result<ArchiveInput> {
        let file = File::open(path).map_err(ImageError::io("open", path))?;
        let metadata = file.metadata().map_err(ImageError::io("read", path))?;
        let origin = match metadata.is_dir() {
            true => Origin::Folder(path.to_owned()),
            false => Origin::Stream(Box::new(file)),
        };
        Ok(ArchiveInput { what: path.display().to_string(), origin })
    }

    /// What comes from a pipe; `what` names it in errors.
    pub fn stream(what: &str, reader: impl Read + Send + 'static) -> ArchiveInput {
        ArchiveInput { what: what.to_owned(), origin: Origin::Stream(Box::new(reader)) }
    }

    /// Only looks whether it holds images that could be loaded.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn check(self, folder: &Path, wanted: &Platform, limits: &Limits) -> Result<()> {
        self.read(folder, wanted, limits).map(drop)
    }

    /// Takes all files into `folder`, or as they are asked for, and finds the images among them.
    fn read(self, folder: &Path, wanted: &Platform, limits: &Limits) -> Result<Offers> {
        let what = self.what;
        let mut source = match self.origin {
            Origin::Folder(path) => Source::Folder(Folder::new(&path, folder, limits)),
            Origin::Stream(stream) => {
                let input = BufReader::with_capacity(compress::BUFFER, stream);
                Source::Archive(Spool::read(input, folder, limits, &what)?)
            }
        };
        let listed: Vec<Listed> = if let Some(images) = oci::list(&mut source, wanted, &what)? {
            images.into_iter().map(Listed::Oci).collect()
        } else if let Some(image) = dir::list(&mut source, &what)? {
            vec![Listed::Dir(image)]
        } else if let Some(images) = docker::list(&mut source, &what)? {
            images.into_iter().map(Listed::Docker).collect()
        } else if source.document(REPOSITORIES, &what)?.is_some() {
            let reason = "it was written by docker before 1.10; load it there and save it again";
            return Err(refused(&what, reason.into()));
        } else {
            let reason = format!(
                "it has neither {INDEX} nor {MANIFEST}, so it holds no images (for a root file system, there is \
                 `agent import`)"
            );
            return Err(refused(&what, reason));
        };
        if listed.is_empty() {
            return Err(refused(&what, "it lists no image".into()));
        }
        let mut offers = Offers { source, listed, what };
        // What can be seen to be wrong is, before anything of it becomes an image.
        for at in 0..offers.listed.len() {
            drop(offers.open(at)?);
        }
        Ok(offers)
    }
}

enum Listed {
    Oci(oci::Listed),
    Docker(docker::Listed),
    Dir(dir::Listed),
}

/// The images of a file, checked; their documents are read again for each, lest they all lie in memory.
struct Offers {
    source: Source,
    listed: Vec<Listed>,
    what: String,
}

impl Offers {
    fn open(&mut self, at: usize) -> Result<Offer> {
        match &self.listed[at] {
            Listed::Oci(image) => image.open(&mut self.source, &self.what),
            Listed::Docker(image) => image.open(&mut self.source, &self.what),
            Listed::Dir(image) => image.open(&mut self.source, &self.what),
        }
    }
}

fn refused(what: &str, reason: String) -> ImageError {
    ImageError::Refused { what: what.to_owned(), reason }
}

fn too_many(what: &str) -> ImageError {
    refused(what, format!("it lists more than {IMAGES_MAX} images"))
}
