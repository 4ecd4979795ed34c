//! Where everything of the image store lies, relative to the movable root.
//!
//! ```text
//! content/blobs/ALGORITHM/HEX  manifests, configurations and compressed layers, byte for byte as received
//! content/ingest/HEX         what came of a blob so far
//! layers/CHAIN/fs            one unpacked layer, as overlayfs wants it (whiteouts are 0:0 devices)
//! layers/CHAIN/layer.json    what it is; present in every visible layer
//! layers/l/SHORT             -> ../CHAIN/fs, so that many layers fit into one mount option
//! images/NAME                one small file per reference
//! tmp/NAME                   work under way, each held by a lock; what nobody holds is removed
//! locks/HEX                  held while a layer is being made
//! locks/blob-HEX             held while a blob is being fetched
//! marks/used/HEX             when an image was last used: the file's time
//! marks/pinned/NAME          names and ids that garbage collection spares
//! lock                       held for the moment in which names and references to content change
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::digest::{Algorithm, Digest};
use crate::error::{ImageError, Result};
use crate::manifest::DOCUMENT_MAX;

/// How many hexadecimal digits of a chain id name its short link: 96 bits, and some 150 layers in a page.
const LINK_DIGITS: usize = 24;

#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: &Path) -> Self {
        Layout { root: root.to_owned() }
    }

    pub(crate) fn blobs(&self, algorithm: Algorithm) -> PathBuf {
        self.root.join("content/blobs").join(algorithm.name())
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs(digest.algorithm()).join(digest.hex())
    }

    /// The bytes of a document that is in the store and is what its name says.
    pub(crate) fn document(&self, digest: &Digest) -> Option<Vec<u8>> {
        // One that cannot be read, is damaged, or is no document, is fetched again, and judged then.
        let path = self.blob(digest);
        fs::metadata(&path).ok().filter(|found| found.len() <= DOCUMENT_MAX)?;
        fs::read(path).ok().filter(|bytes| digest.check(bytes).is_ok())
    }

    pub(crate) fn ingest(&self) -> PathBuf {
        self.root.join("content/ingest")
    }

    pub(crate) fn partial(&self, digest: &Digest) -> PathBuf {
        self.ingest().join(digest.hex())
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(crate) fn layer(&self, chain: &Digest) -> PathBuf {
        self.layers().join(chain.hex())
    }

    pub(crate) fn layer_fs(&self, chain: &Digest) -> PathBuf {
        self.layer(chain).join("fs")
    }

    pub(crate) fn links(&self) -> PathBuf {
        self.layers().join("l")
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Empty files by the id of an image; their time is that of its last use.
    pub(crate) fn used(&self) -> PathBuf {
        self.root.join("marks/used")
    }

    pub(crate) fn pinned(&self) -> PathBuf {
        self.root.join("marks/pinned")
    }

    pub(crate) fn locks(&self) -> PathBuf {
        self.root.join("locks")
    }

    pub(crate) fn layer_lock(&self, chain: &Digest) -> PathBuf {
        self.locks().join(chain.hex())
    }

    pub(crate) fn blob_lock(&self, digest: &Digest) -> PathBuf {
        self.locks().join(format!("blob-{}", digest.hex()))
    }

    pub(crate) fn store_lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// Makes every folder that is missing, each 0700: layers hold setuid files of others (CVE-2024-25621).
    pub(crate) fn prepare(&self) -> Result<()> {
        for algorithm in Algorithm::ALL {
            make_folder(&self.blobs(algorithm))?;
        }
        for folder in
            [self.ingest(), self.links(), self.images(), self.used(), self.pinned(), self.tmp(), self.locks()]
        {
            make_folder(&folder)?;
        }
        Ok(())
    }
}

/// The name of a layer's short link.
pub(crate) fn link_name(chain: &Digest) -> String {
    let mut name = chain.hex();
    name.truncate(LINK_DIGITS);
    name
}

/// Makes a folder and those above it, 0700; it is no error when it is there.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(ImageError::io("make the folder", path))
}

/// Makes a new file that only we may read.
pub(crate) fn new_file(path: &Path) -> Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(ImageError::io("create", path))
}

/// Writes a new file and syncs it.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = new_file(path)?;
    file.write_all(bytes).map_err(ImageError::io("write", path))?;
    file.sync_all().map_err(ImageError::io("sync", path))
}

/// Makes the content of a file durable.
pub(crate) fn sync_file(path: &Path) -> Result<()> {
    let file = File::open(path).map_err(ImageError::io("open", path))?;
    file.sync_all().map_err(ImageError::io("sync", path))
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    let folder = File::open(path).map_err(ImageError::io("open", path))?;
    folder.sync_all().map_err(ImageError::io("sync", path))
}

pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(ImageError::io("rename into place", to))
}

/// Removes a file; it is no error when there is none.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ImageError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes a folder and all in it; it is no error when there is none.
pub(crate) fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ImageError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The names in a folder, sorted; none when it is missing.
pub(crate) fn names_in(path: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(ImageError::io("list", path))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(ImageError::io("list", path))?;
        if let Ok(name) = entry.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
