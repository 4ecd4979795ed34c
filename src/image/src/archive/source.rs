//! Where the files of images are taken from: an archive that was spooled, or a folder.
//!
//! Both give a file only into the work folder, with its digest: what was checked is what is used, whoever may write
//! to the folder meanwhile.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::compress::BUFFER;
use super::refused;
use super::spool::{Spool, inside};
use crate::digest::{Algorithm, Digest, Digester};
use crate::error::{ImageError, Result};
use crate::manifest::{DOCUMENT_MAX, Descriptor};
use crate::store::layout;
use crate::unpack::Limits;
use crate::unpack::tree::{open_folder, open_root};

/// A file in the work folder.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) path: PathBuf,
    pub(super) size: u64,
    /// By the algorithm of its name, else sha256.
    pub(super) digest: Digest,
}

impl Kept {
    /// Itself, if it is what its name promises.
    pub(super) fn promised(self, promised: Option<Digest>, name: &str, what: &str) -> Result<Kept> {
        match promised {
            Some(expected) if expected != self.digest => Err(ImageError::DigestMismatch {
                what: format!("{name} of {what}"),
                expected,
                actual: self.digest,
            }),
            _ => Ok(self),
        }
    }
}

/// What a name like `blobs/sha256/HEX` promises of its content (image-layout.md, "Blobs").
pub(super) fn blob_digest(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

/// The name of a blob.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// The files of images.
#[derive(Debug)]
pub(super) enum Source {
    Archive(Spool),
    Folder(Folder),
}

impl Source {
    /// The file of a name, of at most so many bytes; none when there is none.
    fn find(&mut self, name: &str, at_most: u64, what: &str) -> Result<Option<Kept>> {
        let Some(inside) = inside("", name.as_bytes()) else {
            return Err(refused(what, format!("it names {name:?}, which leads out of it")));
        };
        let found = match self {
            Source::Archive(spool) => spool.find(&inside, what)?.cloned(),
            Source::Folder(folder) => folder.find(&inside, at_most, what)?,
        };
        match found {
            Some(kept) if kept.size > at_most => Err(too_long(name, at_most, what)),
            found => Ok(found),
        }
    }

    /// Whether there is a file of a name of our own, such as a blob's.
    pub(super) fn has(&self, name: &str, what: &str) -> Result<bool> {
        match self {
            Source::Archive(spool) => Ok(spool.find(name, what)?.is_some()),
            Source::Folder(folder) => Ok(folder.open(name, what)?.is_some()),
        }
    }

    /// A document; none when there is none.
    pub(super) fn document(&mut self, name: &str, what: &str) -> Result<Option<Vec<u8>>> {
        let Some(kept) = self.find(name, DOCUMENT_MAX, what)? else { return Ok(None) };
        std::fs::read(&kept.path).map(Some).map_err(ImageError::io("read", &kept.path))
    }

    /// A document by its digest and length; none when there is none.
    pub(super) fn blob_document(&mut self, descriptor: &Descriptor, what: &str) -> Result<Option<Vec<u8>>> {
        if descriptor.size > DOCUMENT_MAX {
            return Err(too_long(&descriptor.digest.to_string(), DOCUMENT_MAX, what));
        }
        let found = self.document(&blob_name(&descriptor.digest), what)?;
        match found {
            Some(bytes) if bytes.len() as u64 != descriptor.size => {
                Err(size_mismatch(descriptor, bytes.len() as u64, what))
            }
            found => Ok(found),
        }
    }

    /// A file of any length, which must be there.
    pub(super) fn file(&mut self, name: &str, what: &str) -> Result<Kept> {
        self.find(name, u64::MAX, what)?.ok_or_else(|| missing(name, what))
    }

    /// A blob, which must be there.
    pub(super) fn blob(&mut self, descriptor: &Descriptor, what: &str) -> Result<Kept> {
        let kept = self.file(&blob_name(&descriptor.digest), what)?;
        match kept.size == descriptor.size {
            true => Ok(kept),
            false => Err(size_mismatch(descriptor, kept.size, what)),
        }
    }
}

fn size_mismatch(descriptor: &Descriptor, actual: u64, what: &str) -> ImageError {
    let Descriptor { digest, size } = descriptor;
    ImageError::SizeMismatch { what: format!("{digest} of {what}"), expected: *size, actual }
}

fn too_long(name: &str, at_most: u64, what: &str) -> ImageError {
    refused(what, format!("its {name} has more than {at_most} bytes"))
}

/// What is said of a file that should be there.
pub(super) fn missing(name: &str, what: &str) -> ImageError {
    refused(what, format!("its {name} is missing"))
}

/// A folder of files.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    work: PathBuf,
    limits: Limits,
    /// What was taken from it so far.
    taken: BTreeMap<String, Kept>,
    bytes: u64,
}

impl Folder {
    pub(super) fn new(path: &Path, work: &Path, limits: &Limits) -> Folder {
        Folder {
            path: path.to_owned(),
            work: work.to_owned(),
            limits: limits.clone(),
            taken: BTreeMap::new(),
            bytes: 0,
        }
    }

    fn find(&mut self, name: &str, at_most: u64, what: &str) -> Result<Option<Kept>> {
        if let Some(kept) = self.taken.get(name) {
            return Ok(Some(kept.clone()));
        }
        let Some(mut file) = self.open(name, what)? else { return Ok(None) };
        if file.metadata().map_err(ImageError::io("read", self.path.join(name)))?.len() > at_most {
            return Err(too_long(name, at_most, what));
        }
        let promised = blob_digest(name);
        let mut digester = Digester::new(promised.map_or(Algorithm::Sha256, |digest| digest.algorithm()));
        let path = self.work.join(self.taken.len().to_string());
        let mut into = layout::new_file(&path)?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let bytes = match file.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other.map_err(ImageError::io("read", self.path.join(name)))?,
            };
            if bytes == 0 {
                break;
            }
            self.bytes += bytes as u64;
            let over = |source| ImageError::Archive { what: what.to_owned(), source };
            self.limits.check_bytes(self.bytes, u64::MAX).map_err(over)?;
            digester.update(&buffer[..bytes]);
            into.write_all(&buffer[..bytes]).map_err(ImageError::io("write", &path))?;
        }
        let kept = Kept { path, size: digester.bytes(), digest: digester.finish() };
        let kept = kept.promised(promised, name, what)?;
        self.taken.insert(name.to_owned(), kept.clone());
        Ok(Some(kept))
    }

    /// Opens a regular file by components, none of which is a link.
    fn open(&self, name: &str, what: &str) -> Result<Option<File>> {
        let whole = self.path.join(name);
        let failed = |error: Errno| ImageError::io("open", whole.clone())(error.into());
        let mut folder = open_root(&self.path).map_err(failed)?;
        let mut components: Vec<&str> = name.split('/').collect();
        let last = components.pop().unwrap_or_default();
        for component in components {
            folder = match open_folder(std::os::fd::AsFd::as_fd(&folder), component.as_bytes()) {
                Err(Errno::NOENT) => return Ok(None),
                other => other.map_err(failed)?,
            };
        }
        // Without waiting for whoever may write to a pipe of this name.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match openat(&folder, last, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => File::from(other.map_err(failed)?),
        };
        let metadata = file.metadata().map_err(ImageError::io("read", &whole))?;
        match metadata.is_file() {
            true => Ok(Some(file)),
            false => Err(refused(what, format!("its {name} is no file"))),
        }
    }
}
