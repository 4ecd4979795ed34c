//! Saving images: their documents and layers out of the store, byte for byte where the format allows it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};

use serde::Serialize;

use super::compress::{BUFFER, Compression, Encoder, Plain};
use super::oci::{CONTAINERD_NAME, REF_NAME};
use super::sink::{Archive, NewFolder, Sink};
use super::source::blob_name;
use super::{INDEX, LAYOUT, MANIFEST, Target, docker, refused};
use crate::digest::{Digest, Digester};
use crate::error::{ImageError, Result};
use crate::manifest::{self, Document, Manifest};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::ImageStore;
use crate::store::layout::Layout;
use crate::store::record::ImageRecord;
use crate::store::work::Work;
use crate::unpack::{Limits, UnpackError};

/// What is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SaveFormat {
    /// One archive that is both a layout and docker's: it loads everywhere, and keeps digests.
    #[default]
    Both,
    /// Docker's archive alone, of plain layers, as docker wrote it from 1.10 to 24.
    DockerArchive,
    /// The image specification's layout alone.
    OciArchive,
    /// The layout as a folder.
    OciFolder,
}

/// How images are saved.
#[derive(Debug, Clone, Default)]
pub struct SaveOptions {
    /// What is written.
    pub format: SaveFormat,
    /// How it is compressed as a whole.
    pub compression: Compression,
}

/// An image that is to be saved, with the names that it gets.
struct Chosen {
    record: ImageRecord,
    names: Vec<Reference>,
}

/// An image whose documents were read and checked.
struct Ready {
    names: Vec<Reference>,
    /// The manifest; where the store has the images of other platforms too, their index.
    whole: Written,
    /// Everything that is written as it is: documents and layers, each with its length.
    blobs: Vec<(Digest, u64)>,
    manifest: Manifest,
    config: Vec<u8>,
    diff_ids: Vec<Digest>,
    /// None of an index.
    platform: Option<Platform>,
}

/// A document that names an image as a whole.
struct Written {
    digest: Digest,
    media_type: String,
    size: usize,
}

impl ImageStore {
    /// Writes images, each given by name or id, into one file. An image that is given by its id has no name in it.
    ///
    /// Every byte is verified on its way. When it fails, a file that was there before stays as it was.
    pub fn save(&self, names: &[String], options: &SaveOptions, target: Target) -> Result<()> {
        self.layout.prepare()?;
        let before = self.choose(names)?;
        // From here on nothing of them is taken away; what went just before is missed now.
        let needs: Vec<Digest> = before.iter().flat_map(|image| image.record.blobs()).collect();
        let work = Work::begin(&self.layout, needs)?;
        let chosen = self.choose(names)?;
        let images = chosen.into_iter().map(|image| self.ready(image)).collect::<Result<Vec<_>>>()?;

        let mut sink = match (options.format, target) {
            (SaveFormat::OciFolder, Target::Path(path)) => Sink::Folder(NewFolder::begin(&path)?),
            (SaveFormat::OciFolder, Target::Stream(_)) => {
                return Err(refused("standard output", "a folder cannot be written to it; name one".into()));
            }
            (_, target) => {
                let writing = target.begin()?;
                let shown = writing.shown().to_owned();
                let encoder =
                    Encoder::new(writing, options.compression).map_err(ImageError::io("write", &shown))?;
                Sink::Archive(Box::new(Archive::new(encoder, &shown)))
            }
        };
        if options.format != SaveFormat::DockerArchive {
            sink.bytes(LAYOUT, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
            sink.bytes(INDEX, &index(&images))?;
        }
        if matches!(options.format, SaveFormat::DockerArchive | SaveFormat::Both) {
            sink.bytes(MANIFEST, &manifest_json(&images, options.format))?;
        }
        for image in &images {
            match options.format {
                SaveFormat::DockerArchive => image.write_plain(&self.layout, &mut sink)?,
                _ => image.write_blobs(&self.layout, &mut sink)?,
            }
        }
        sink.finish()?;
        work.finish()
    }

    /// The images that names stand for, each once, in the order in which they were given.
    fn choose(&self, names: &[String]) -> Result<Vec<Chosen>> {
        let mut chosen: Vec<Chosen> = Vec::new();
        for name in names {
            let (record, by_reference) =
                self.find(name)?.ok_or_else(|| ImageError::NoSuchImage { name: name.to_owned() })?;
            let own = record.reference.as_deref().filter(|_| by_reference).and_then(tagged);
            let at = chosen.iter().position(|known| known.record.manifest == record.manifest);
            let at = at.unwrap_or_else(|| {
                chosen.push(Chosen { record, names: Vec::new() });
                chosen.len() - 1
            });
            let names = &mut chosen[at].names;
            names.extend(own.filter(|own| !names.contains(own)));
        }
        Ok(chosen)
    }

    /// Reads an image's documents.
    fn ready(&self, image: Chosen) -> Result<Ready> {
        let Chosen { record, names } = image;
        let mut blobs = Vec::new();
        let (manifest, config) = self.documents(&record.manifest, &mut blobs)?;
        let facts = manifest::config(&config, &manifest, &record.config.to_string())?;
        for other in &record.others {
            self.documents(&other.manifest, &mut blobs)?;
        }
        let (digest, platform) = match record.others.is_empty() {
            true => (record.manifest, Some(facts.platform)),
            false => (record.digest, None),
        };
        let bytes = self.whole(&digest)?;
        if platform.is_none() {
            blobs.insert(0, (digest, bytes.len() as u64));
        }
        let implied = if platform.is_none() { manifest::OCI_INDEX } else { manifest::OCI_MANIFEST };
        let media_type = manifest::media_type(&bytes, implied);
        let whole = Written { digest, media_type, size: bytes.len() };
        Ok(Ready { names, whole, blobs, manifest, config, diff_ids: facts.diff_ids, platform })
    }

    /// A manifest and its configuration; and all that belongs to it is added to `blobs`.
    fn documents(&self, digest: &Digest, blobs: &mut Vec<(Digest, u64)>) -> Result<(Manifest, Vec<u8>)> {
        let bytes = self.whole(digest)?;
        let Document::Manifest(manifest) = manifest::parse(&bytes, None, &digest.to_string())? else {
            return Err(damaged(&self.layout, digest, "it is no manifest"));
        };
        let config = self.whole(&manifest.config.digest)?;
        blobs.push((*digest, bytes.len() as u64));
        blobs.push((manifest.config.digest, config.len() as u64));
        blobs.extend(manifest.layers.iter().map(|layer| (layer.digest, layer.size)));
        Ok((manifest, config))
    }

    fn whole(&self, digest: &Digest) -> Result<Vec<u8>> {
        let missing =
            || damaged(&self.layout, digest, "it is missing, or its content is not what its name says");
        self.layout.document(digest).ok_or_else(missing)
    }
}

/// The tag of a name; a name by digest alone has none, and whoever loads it could not check it.
fn tagged(name: &str) -> Option<Reference> {
    let reference: Reference = name.parse().ok()?;
    reference.tag()?;
    name.split('@').next()?.parse().ok()
}

fn damaged(layout: &Layout, digest: &Digest, reason: &str) -> ImageError {
    ImageError::Damaged { path: layout.blob(digest), reason: reason.to_owned() }
}

impl Ready {
    /// Writes documents and layers as they are.
    fn write_blobs(&self, layout: &Layout, sink: &mut Sink) -> Result<()> {
        for (digest, size) in &self.blobs {
            let name = blob_name(digest);
            if !sink.has(&name) {
                let mut blob =
                    Verified { reader: open(layout, digest)?, digester: Digester::new(digest.algorithm()) };
                sink.file(&name, *size, &mut blob)?;
                blob.verify(layout, digest, digest)?;
            }
        }
        Ok(())
    }

    /// Writes the configuration, and the layers as plain archives.
    fn write_plain(&self, layout: &Layout, sink: &mut Sink) -> Result<()> {
        let name = config_name(&self.manifest.config.digest);
        if !sink.has(&name) {
            sink.bytes(&name, &self.config)?;
        }
        for (layer, diff_id) in self.manifest.layers.iter().zip(&self.diff_ids) {
            let name = layer_name(diff_id);
            if sink.has(&name) {
                continue;
            }
            // An entry begins with its length, so it is decompressed twice: once to count, once to write.
            let limits = Limits::default();
            let plain = || -> Result<Plain<'_, BufReader<File>>> {
                Plain::new(open(layout, &layer.digest)?, &limits)
                    .map_err(|error| damaged(layout, &layer.digest, &error.to_string()))
            };
            let size = io::copy(&mut plain()?, &mut io::sink()).map_err(|error| {
                match error.downcast::<UnpackError>() {
                    Ok(error) => damaged(layout, &layer.digest, &error.to_string()),
                    Err(error) => ImageError::io("read", layout.blob(&layer.digest))(error),
                }
            })?;
            let mut content = Verified { reader: plain()?, digester: Digester::new(diff_id.algorithm()) };
            sink.file(&name, size, &mut content)?;
            content.verify(layout, &layer.digest, diff_id)?;
        }
        Ok(())
    }
}

fn config_name(digest: &Digest) -> String {
    format!("{}.json", digest.hex())
}

fn layer_name(diff_id: &Digest) -> String {
    format!("{}.tar", diff_id.hex())
}

fn open(layout: &Layout, digest: &Digest) -> Result<BufReader<File>> {
    match File::open(layout.blob(digest)) {
        Ok(file) => Ok(BufReader::with_capacity(BUFFER, file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(damaged(layout, digest, "it is missing"))
        }
        Err(error) => Err(ImageError::io("open", layout.blob(digest))(error)),
    }
}

/// Digests what is read.
struct Verified<R> {
    reader: R,
    digester: Digester,
}

impl<R> Verified<R> {
    /// Fails when what was read of a blob has another digest.
    fn verify(self, layout: &Layout, blob: &Digest, expected: &Digest) -> Result<()> {
        match self.digester.finish() == *expected {
            true => Ok(()),
            false => Err(damaged(layout, blob, "its content is not what its name says")),
        }
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let bytes = self.reader.read(into)?;
        self.digester.update(&into[..bytes]);
        Ok(bytes)
    }
}

/// `index.json`: an entry for each name, and one for each image without a name.
fn index(images: &[Ready]) -> Vec<u8> {
    let mut manifests = Vec::new();
    for image in images {
        let annotations = image.names.iter().map(|name| {
            let name = name.to_string();
            Some(BTreeMap::from([(CONTAINERD_NAME, name.clone()), (REF_NAME, name)]))
        });
        let annotations: Vec<_> = match image.names.is_empty() {
            true => vec![None],
            false => annotations.collect(),
        };
        for annotations in annotations {
            manifests.push(Entry {
                media_type: &image.whole.media_type,
                digest: image.whole.digest,
                size: image.whole.size,
                annotations,
                platform: image.platform.as_ref(),
            });
        }
    }
    let index = Index { schema_version: 2, media_type: manifest::OCI_INDEX, manifests };
    serde_json::to_vec(&index).expect("an index has only string keys")
}

/// `manifest.json`: an entry for each image.
fn manifest_json(images: &[Ready], format: SaveFormat) -> Vec<u8> {
    let plain = format == SaveFormat::DockerArchive;
    let listed = images.iter().map(|image| {
        let layers = image.manifest.layers.iter().zip(&image.diff_ids);
        let names: Vec<String> = image.names.iter().map(Reference::to_string).collect();
        let config = &image.manifest.config.digest;
        docker::Listed {
            config: if plain { config_name(config) } else { blob_name(config) },
            repo_tags: (!names.is_empty()).then_some(names),
            layers: Some(
                layers
                    .map(
                        |(layer, diff_id)| if plain { layer_name(diff_id) } else { blob_name(&layer.digest) },
                    )
                    .collect(),
            ),
        }
    });
    let listed: Vec<docker::Listed> = listed.collect();
    serde_json::to_vec(&listed).expect("a list has only string keys")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index<'a> {
    schema_version: u32,
    media_type: &'static str,
    manifests: Vec<Entry<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    media_type: &'a str,
    digest: Digest,
    size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<BTreeMap<&'static str, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<&'a Platform>,
}
