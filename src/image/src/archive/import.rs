//! Importing a root file system: one archive of files becomes an image of one layer.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::ops::Range;
use std::path::PathBuf;

use api::trace::Tracer;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::compress::{BUFFER, Plain};
use super::oci::Offer;
use super::source::Kept;
use super::{ArchiveInput, Origin, load, made, refused};
use crate::assemble::Assembler;
use crate::change::{self, Change};
use crate::digest::{Algorithm, Digest, Digester};
use crate::error::{ImageError, Result};
use crate::manifest::{self, Document, Packing};
use crate::platform::Platform;
use crate::progress::Silent;
use crate::pull::PullOptions;
use crate::reference::Reference;
use crate::store::layout;
use crate::store::{Image, ImageStore};
use crate::unpack::{Limits, UnpackError};

/// What becomes of a root file system.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The name it gets; none for an image without a name.
    pub reference: Option<Reference>,
    /// What its configuration says.
    pub changes: Vec<Change>,
    /// The comment in its history; where it came from when none is given.
    pub message: Option<String>,
    /// What machine it is for; the host's when none is given.
    pub platform: Option<Platform>,
}

/// A root file system in the work folder.
struct Layer {
    kept: Kept,
    packing: Packing,
    diff_id: Digest,
}

impl ImageStore {
    /// Makes an image of one layer out of an archive of files, plain or compressed by gzip or zstd. The layer is the
    /// archive, byte for byte.
    pub async fn import(
        &self,
        input: ArchiveInput,
        options: &ImportOptions,
        tracer: &Tracer,
    ) -> Result<Image> {
        // What cannot be done is said before everything is read.
        let mut config = Map::new();
        change::apply_all(&options.changes, &mut config)
            .map_err(|reason| refused("the change of the configuration", reason))?;
        let assembler = Assembler::begin(self)?;
        let outcome = import(&assembler, input, options, config, tracer).await;
        let ended = assembler.end(outcome.is_err()).await;
        outcome.and_then(|image| ended.map(|()| image))
    }
}

async fn import(
    assembler: &Assembler<'_>,
    input: ArchiveInput,
    options: &ImportOptions,
    config: Map<String, Value>,
    tracer: &Tracer,
) -> Result<Image> {
    let pull = PullOptions::default();
    let what = input.what.clone();
    let (path, limits, held) = (assembler.path("rootfs"), pull.limits.clone(), assembler.hold());
    let reading = tokio::task::spawn_blocking(move || {
        let layer = spool(input, path, &limits);
        drop(held);
        layer
    });
    let layer = reading.await.expect("reading does not panic")?;
    let config = configuration(&layer, options, config, &what);
    let offer = offer(layer, config, options, &what)?;
    load::assemble(assembler, offer, &pull, &Silent, tracer).await
}

/// Keeps the archive as it comes, and digests what it is compressed and what it is plain.
fn spool(input: ArchiveInput, path: PathBuf, limits: &Limits) -> Result<Layer> {
    let what = input.what;
    let Origin::Stream(stream) = input.origin else {
        return Err(refused(
            &what,
            "it is a folder; give an archive of it: tar -C DIR -c . | agent import -".into(),
        ));
    };
    let failed = |source| ImageError::Archive { what: what.clone(), source };
    let mut tee = Tee {
        reader: stream,
        buffer: vec![0; BUFFER],
        unread: 0..0,
        into: layout::new_file(&path)?,
        digester: Digester::new(Algorithm::Sha256),
    };
    let mut plain = Plain::new(&mut tee, limits).map_err(failed)?;
    let packing = plain.packing();
    let mut digester = Digester::new(Algorithm::Sha256);
    io::copy(&mut plain, &mut digester).map_err(|error| match error.downcast::<UnpackError>() {
        Ok(source) => failed(source),
        Err(error) => ImageError::io("copy", &path)(error),
    })?;
    drop(plain);
    if digester.bytes() == 0 {
        return Err(refused(&what, "it is empty".into()));
    }
    let kept = Kept { path, size: tee.digester.bytes(), digest: tee.digester.finish() };
    Ok(Layer { kept, packing, diff_id: digester.finish() })
}

/// Keeps and digests all that is read.
struct Tee {
    reader: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    unread: Range<usize>,
    into: File,
    digester: Digester,
}

impl BufRead for Tee {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.unread.is_empty() {
            let bytes = self.reader.read(&mut self.buffer)?;
            self.digester.update(&self.buffer[..bytes]);
            self.into.write_all(&self.buffer[..bytes])?;
            self.unread = 0..bytes;
        }
        Ok(&self.buffer[self.unread.clone()])
    }

    fn consume(&mut self, bytes: usize) {
        self.unread.start += bytes;
    }
}

impl Read for Tee {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let some = self.fill_buf()?;
        let bytes = some.len().min(into.len());
        into[..bytes].copy_from_slice(&some[..bytes]);
        self.consume(bytes);
        Ok(bytes)
    }
}

fn configuration(layer: &Layer, options: &ImportOptions, config: Map<String, Value>, what: &str) -> Vec<u8> {
    let platform = options.platform.clone().unwrap_or_else(Platform::host);
    let now = Timestamp::now().to_string();
    let comment = options.message.clone().unwrap_or_else(|| format!("Imported from {what}"));
    let mut whole = json!({
        "created": now,
        "os": platform.os,
        "architecture": platform.architecture,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        "history": [{"created": now, "comment": comment}],
    });
    if let Some(variant) = platform.variant {
        whole["variant"] = json!(variant);
    }
    whole.to_string().into_bytes()
}

fn offer(layer: Layer, config: Vec<u8>, options: &ImportOptions, what: &str) -> Result<Offer> {
    let bytes = made::manifest(&config, [(&layer.kept, layer.packing)].into_iter());
    let Document::Manifest(manifest) = manifest::parse(&bytes, None, what)? else {
        unreachable!("it was just made a manifest");
    };
    let facts = manifest::config(&config, &manifest, what)?;
    let digest = Digest::of(&bytes);
    Ok(Offer {
        names: options.reference.iter().cloned().collect(),
        digest,
        manifest_digest: digest,
        documents: vec![(digest, bytes), (manifest.config.digest, config)],
        manifest,
        config: facts,
        layers: vec![layer.kept],
    })
}
