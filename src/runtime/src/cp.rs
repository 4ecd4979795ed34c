//! `cp`: files from a container and into it, through an archive, as docker has it: one end packs, the other extracts.

use std::io::{self, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use image::extract::{Destination, Keep, Way, extract};
use image::pack::{Packed, pack_path};

use crate::error::RuntimeError;
use crate::place::{Refusal, Source, Target, Tree};
use crate::root::RootView;
use crate::runtime::Runtime;

/// How files are copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// Keep owners, all permissions and attributes.
    pub archive: bool,
    /// Copy what the source links to, and not the link.
    pub follow: bool,
}

impl Runtime {
    /// Copies a file or folder from a container to this machine.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`]; [`RuntimeError::Copied`] with the path where it cannot be had or put. What was
    /// copied before stays.
    pub fn copy_from(
        &self,
        name: &str,
        from: &Path,
        to: &Path,
        options: CopyOptions,
    ) -> Result<Packed, RuntimeError> {
        self.with_root(name, |tree| {
            let host = Tree::host().map_err(|source| failed("/", source.into()))?;
            let source =
                tree.source(from, options.follow).map_err(|error| named(name, from, error.into()))?;
            let target = host.target(to, &source).map_err(|error| failed(to, error))?;
            copy(source, target, options.archive)
        })
    }

    /// Copies a file or folder of this machine to a container.
    ///
    /// # Errors
    /// As [`Runtime::copy_from`].
    pub fn copy_to(
        &self,
        name: &str,
        from: &Path,
        to: &Path,
        options: CopyOptions,
    ) -> Result<Packed, RuntimeError> {
        let host = Tree::host().map_err(|source| failed("/", source.into()))?;
        let source = host.source(from, options.follow).map_err(|error| failed(from, error.into()))?;
        self.with_root(name, |tree| {
            let target = tree.target(to, &source).map_err(|error| named(name, to, error))?;
            copy(source, target, options.archive)
        })
    }

    /// Writes a file or folder of a container as an archive.
    ///
    /// # Errors
    /// As [`Runtime::copy_from`].
    pub fn copy_out(
        &self,
        name: &str,
        from: &Path,
        follow: bool,
        out: impl Write,
    ) -> Result<Packed, RuntimeError> {
        self.with_root(name, |tree| {
            let source = tree.source(from, follow).map_err(|error| named(name, from, error.into()))?;
            let called = source.name.map(PathBuf::from).unwrap_or_default();
            Ok(pack_path(source.file, &called, out)?)
        })
    }

    /// Extracts an archive in a folder of a container, whose links are followed inside it. Owners and all else are those
    /// of the archive.
    ///
    /// # Errors
    /// As [`Runtime::copy_from`].
    pub fn copy_in(&self, name: &str, archive: impl Read, to: &Path) -> Result<(), RuntimeError> {
        self.with_root(name, |tree| {
            let folder = tree.folder(to).map_err(|error| named(name, to, error))?;
            let root = tree.root().try_clone().map_err(|error| named(name, to, error.into()))?;
            let to = Destination { folder, way: Way::InRoot(root, to.to_owned()) };
            extract(BufReader::with_capacity(BUFFER, archive), &to, Keep::All)?;
            // With everything kept, nothing is left out.
            Ok(())
        })
    }

    fn with_root<T>(
        &self,
        name: &str,
        copy: impl FnOnce(&Tree) -> Result<T, RuntimeError>,
    ) -> Result<T, RuntimeError> {
        let view: RootView = self.open_root(name)?;
        let root: io::Result<OwnedFd> = view.root();
        let copied =
            root.map_err(|source| failed("/", source.into())).and_then(|root| copy(&Tree::container(root)));
        // Whatever came of it, the container is let go; the first error is the one to tell.
        let closed = view.close();
        copied.and_then(|copied| closed.map(|()| copied))
    }
}

const BUFFER: usize = 256 << 10;

fn copy(source: Source, target: Target, archive: bool) -> Result<Packed, RuntimeError> {
    let name = target.name.map(PathBuf::from).unwrap_or_default();
    let to = Destination { folder: target.folder, way: Way::Real };
    let keep = if archive { Keep::All } else { Keep::Plain };
    let (reader, writer) = io::pipe().map_err(|source| failed("a pipe", source.into()))?;
    std::thread::scope(|scope| {
        let packing = scope.spawn(move || pack_path(source.file, &name, writer));
        let extracted = extract(BufReader::with_capacity(BUFFER, reader), &to, keep);
        match (packing.join().expect("packing does not panic"), extracted) {
            // Nobody reads on where extracting has failed.
            (Err(error), Err(cause)) if error.is_broken_pipe() => Err(cause.into()),
            // Where packing has failed, what came was cut off.
            (Err(error), _) => Err(error.into()),
            (Ok(_), Err(error)) => Err(error.into()),
            (Ok(mut packed), Ok(left_out)) => {
                packed.left_out.extend(left_out);
                Ok(packed)
            }
        }
    })
}

fn failed(path: impl AsRef<Path>, reason: Refusal) -> RuntimeError {
    RuntimeError::Copied { path: path.as_ref().display().to_string(), source: Box::new(reason) }
}

fn named(container: &str, path: &Path, reason: Refusal) -> RuntimeError {
    RuntimeError::Copied { path: format!("{container}:{}", path.display()), source: Box::new(reason) }
}
