//! `diff`, `export`: the files of a container as its layers have them, read without a mount, whether it runs or not.

use std::io::Write;
use std::path::{Path, PathBuf};

use container::monitor::RootfsSpec;
use image::pack::{self, Change, Excluded, Layers, Packed};

use crate::error::{FileContext, RuntimeError};
use crate::layout::Bundle;
use crate::record::Record;
use crate::runtime::Runtime;

/// What is the container's alone and no change of its image: files of its init layer, and places that the kernel's file
/// systems are mounted at.
const OWN: [&str; 6] = ["/dev", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/proc", "/sys"];

/// The files of a container, and of what it was made from.
#[derive(Debug)]
pub(crate) struct ContainerFiles {
    /// Those it changed; all it has where its driver copies.
    pub(crate) top: Layers,
    /// What it began with.
    pub(crate) below: Layers,
    /// What counts as no change.
    pub(crate) excluded: Excluded,
}

impl Runtime {
    /// What the container changed of its image, in the order of names.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`], and what cannot be read.
    pub fn diff(&self, name_or_id: &str) -> Result<Vec<Change>, RuntimeError> {
        let (record, bundle) = self.record(name_or_id)?;
        let files = self.files(&record, &bundle)?;
        Ok(pack::changes(&files.top, &files.below, &files.excluded)?)
    }

    /// Writes all files of the container as an archive, without those of its mounts.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`], and what cannot be read or written.
    pub fn export(&self, name_or_id: &str, out: impl Write) -> Result<Packed, RuntimeError> {
        let (record, bundle) = self.record(name_or_id)?;
        let tracer = self.tracer(&record.id);
        let mut step = tracer.step("runtime", "container.export");
        let all = match &record.rootfs {
            RootfsSpec::Ready => open_plain(&bundle.rootfs())?,
            RootfsSpec::Overlay { lower, links, upper, .. } => {
                let mut layers = vec![upper.clone()];
                layers.extend(lower.iter().map(|layer| links.join(layer)));
                open(&layers)?
            }
        };
        let packed = pack::pack_tree(&all, Path::new(""), out);
        // Removed meanwhile, some of it was not there any more to be read; its record goes first.
        if Record::read(&bundle)?.is_none() {
            drop(step);
            return Err(self.removed_meanwhile(name_or_id, &record.id)?);
        }
        let packed = packed?;
        step.fact("entries", packed.entries).fact("bytes", packed.bytes);
        Ok(packed)
    }

    /// What to say when a container was removed while we read it. What we traced since then goes with it.
    pub(crate) fn removed_meanwhile(&self, name: &str, id: &str) -> Result<RuntimeError, RuntimeError> {
        let rings = self.layout.trace();
        api::trace::remove(&rings, id).file("remove a trace below", &rings)?;
        Ok(RuntimeError::NotFound { name: name.to_owned() })
    }

    /// The record of a container that is complete.
    pub(crate) fn record(&self, name_or_id: &str) -> Result<(Record, Bundle), RuntimeError> {
        let id = self.find(name_or_id)?.id;
        let bundle = self.layout.bundle(&id);
        let record = Record::read(&bundle)?;
        let record = record.ok_or_else(|| RuntimeError::NotFound { name: name_or_id.to_owned() })?;
        Ok((record, bundle))
    }

    pub(crate) fn files(&self, record: &Record, bundle: &Bundle) -> Result<ContainerFiles, RuntimeError> {
        let (top, below) = match &record.rootfs {
            RootfsSpec::Overlay { lower, links, upper, .. } => {
                let below: Vec<PathBuf> = lower.iter().map(|layer| links.join(layer)).collect();
                (open(std::slice::from_ref(upper))?, below)
            }
            RootfsSpec::Ready => {
                let image = self.images().resolve(&record.image_id)?.ok_or_else(|| {
                    // Its layers went with it: nothing tells what the copy of them was.
                    RuntimeError::ImageGone { name: record.name.clone(), image: record.options.image.clone() }
                })?;
                let mut below = vec![bundle.init_layer()];
                below.extend(self.images().layer_dirs(&image));
                (open_plain(&bundle.rootfs())?, below)
            }
        };
        let mounts = record.options.mounts.iter().map(|mount| mount.target().as_os_str().as_encoded_bytes());
        let excluded = OWN.iter().map(|path| path.as_bytes()).chain(mounts).collect();
        Ok(ContainerFiles { top, below: open(&below)?, excluded })
    }
}

fn open(layers: &[PathBuf]) -> Result<Layers, RuntimeError> {
    Layers::open(layers)
        .file("open the layers below", layers.first().map_or(Path::new("/"), PathBuf::as_path))
}

fn open_plain(root: &Path) -> Result<Layers, RuntimeError> {
    Layers::plain_at(root).file("open", root)
}
