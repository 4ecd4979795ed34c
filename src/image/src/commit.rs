//! A new image of another's layers and one more: what a container changed.
//!
//! The layer is kept gzipped at the fastest level: it lies unpacked beside that anyway, so the blob is there to be saved
//! and pushed, where a plain one would take several times the room, on disk and on the way, and the fastest level
//! takes little more time than digesting and writing that much more.

use std::any::Any;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use api::trace::Tracer;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::archive::made;
use crate::assemble::{Assembler, Assembly, AssemblyOptions, ImageVariant, Sources};
use crate::change::{self, Change, list, object};
use crate::digest::{Algorithm, Digest, Digester};
use crate::error::{ImageError, Result};
use crate::manifest::{self, Document, Layer, Manifest, Packing};
use crate::pack::{Excluded, Layers, PackError, Packed, pack_layer};
use crate::progress::Silent;
use crate::reference::Reference;
use crate::store::{Image, ImageStore, layout};
use crate::unpack::Limits;

/// The files of a container, and of what it was made from.
pub struct ContainerChanges {
    /// Those it changed.
    pub top: Layers,
    /// What it began with.
    pub below: Layers,
    /// What counts as no change.
    pub excluded: Excluded,
    /// Dropped as soon as the files are not read any more.
    pub hold: Box<dyn Any + Send>,
    /// Fails where the container was removed meanwhile, so that not all of them may have been read.
    pub still_there: Box<dyn FnOnce() -> io::Result<()> + Send>,
}

/// What the new image says of itself.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// The name it gets; none for an image without a name.
    pub reference: Option<Reference>,
    /// Who made it.
    pub author: Option<String>,
    /// The comment in its history.
    pub message: Option<String>,
    /// Changes to its configuration, after the container's.
    pub changes: Vec<Change>,
    /// What the container ran, for the history.
    pub created_by: String,
}

/// A layer that was just written.
struct Written {
    packed: Packed,
    diff_id: Digest,
    blob: Digest,
    size: u64,
}

impl ImageStore {
    /// Makes an image of the layers of `base` and the changes of a container. `configure` makes the container's
    /// configuration of the image's (image-spec config.md, "config"). Returns with it what the layer does not hold.
    ///
    /// # Errors
    /// Files that cannot be read, changes to the configuration that cannot be made; nothing is left then.
    pub async fn commit(
        &self,
        base: &Image,
        files: ContainerChanges,
        configure: impl FnOnce(&mut Map<String, Value>),
        options: &CommitOptions,
        tracer: &Tracer,
    ) -> Result<(Image, Packed)> {
        let refused = |reason| ImageError::Refused { what: "the change of the configuration".into(), reason };
        let mut whole = self.configuration(base)?;
        // What cannot be done is said before everything is read.
        let config = object(&mut whole, "config");
        configure(config);
        change::apply_all(&options.changes, config).map_err(refused)?;
        let assembler = Assembler::begin(self)?;
        let outcome = self.make(&assembler, base, files, whole, options, tracer).await;
        let ended = assembler.end(outcome.is_err()).await;
        outcome.and_then(|made| ended.map(|()| made))
    }

    async fn make(
        &self,
        assembler: &Assembler<'_>,
        base: &Image,
        files: ContainerChanges,
        mut whole: Map<String, Value>,
        options: &CommitOptions,
        tracer: &Tracer,
    ) -> Result<(Image, Packed)> {
        let (path, held) = (assembler.path("changes"), assembler.hold());
        let mut step = tracer.step("image", "layer.pack");
        let to = path.clone();
        let writing = tokio::task::spawn_blocking(move || {
            let written = write_layer(files, &to);
            drop(held);
            written
        });
        let written = writing.await.expect("packing does not panic")?;
        step.fact("entries", written.packed.entries).fact("bytes", written.packed.bytes);
        step.fact("compressed", written.size).fact("digest", written.blob);
        drop(step);
        assembler.adopt(&path, &written.blob)?;

        describe(&mut whole, base.chain.len(), &written.diff_id, options);
        let config = Value::Object(whole).to_string().into_bytes();
        let mut layers = self.manifest_of(base)?.layers;
        layers.push(Layer { digest: written.blob, size: written.size, packing: Packing::Gzip });
        let bytes = made::of_layers(&config, layers.into_iter());
        let what = "the new image";
        let Document::Manifest(manifest) = manifest::parse(&bytes, None, what)? else {
            unreachable!("it was just made a manifest");
        };
        let digest = Digest::of(&bytes);
        let facts = manifest::config(&config, &manifest, what)?;
        let documents = vec![(digest, bytes), (manifest.config.digest, config)];
        let assembly = Assembly {
            name: options.reference.as_ref().map(Reference::to_string),
            local: true,
            digest,
            variant: ImageVariant { digest, manifest, config: facts },
            others: Vec::new(),
            documents,
        };
        let making = AssemblyOptions { parallel: 1, limits: Limits::default() };
        let image = assembler.assemble(&assembly, &Sources::none(), &making, &Silent, tracer).await?;
        Ok((image, written.packed))
    }

    /// The configuration of an image, whole: also what we do not know of it.
    fn configuration(&self, image: &Image) -> Result<Map<String, Value>> {
        let digest = image.id.parse::<Digest>();
        let digest = digest.map_err(|source| ImageError::InvalidDigest { text: image.id.clone(), source })?;
        let path = self.layout.blob(&digest);
        let damaged = |reason: String| ImageError::Damaged { path: path.clone(), reason };
        let bytes = self.layout.document(&digest).ok_or_else(|| damaged("it is missing".to_owned()))?;
        serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))
    }

    fn manifest_of(&self, image: &Image) -> Result<Manifest> {
        let path = self.layout.blob(&image.manifest);
        let damaged = |reason: &str| ImageError::Damaged { path: path.clone(), reason: reason.to_owned() };
        let bytes = self.layout.document(&image.manifest).ok_or_else(|| damaged("it is missing"))?;
        match manifest::parse(&bytes, None, &image.manifest.to_string())? {
            Document::Manifest(manifest) => Ok(manifest),
            Document::Index(_) => Err(damaged("it is an index")),
        }
    }
}

/// Writes what a container changed to a new file, gzipped, and digests it both ways.
fn write_layer(files: ContainerChanges, path: &Path) -> Result<Written> {
    let ContainerChanges { top, below, excluded, hold, still_there } = files;
    let failed = |error| match error {
        PackError::Write { source } => ImageError::io("write", path)(source),
        source => ImageError::Pack { source },
    };
    let out = Digested::new(BufWriter::with_capacity(256 << 10, layout::new_file(path)?));
    let mut plain = Digested::new(GzEncoder::new(out, Compression::fast()));
    let packed = pack_layer(&top, &below, &excluded, &mut plain).map_err(failed)?;
    drop((top, below, hold));
    still_there().map_err(ImageError::io("write", path))?;
    let finish = || -> io::Result<_> {
        let (encoder, diff_id) = plain.finish();
        let (file, blob) = encoder.finish()?.finish();
        file.into_inner()?.sync_all()?;
        Ok((diff_id, blob))
    };
    let (diff_id, blob) = finish().map_err(ImageError::io("write", path))?;
    let size = path.metadata().map_err(ImageError::io("inspect", path))?.len();
    Ok(Written { packed, diff_id, blob, size })
}

/// Says in a configuration what the new layer is.
fn describe(whole: &mut Map<String, Value>, layers: usize, diff_id: &Digest, options: &CommitOptions) {
    let now = Timestamp::now().to_string();
    // Of the container that docker built the base with.
    for key in ["container", "container_config"] {
        whole.remove(key);
    }
    let before = whole.insert("created".into(), json!(now));
    match &options.author {
        Some(author) => whole.insert("author".into(), json!(author)),
        None => whole.remove("author"),
    };
    let history = list(whole, "history");
    let is_layer = |entry: &&Value| entry["empty_layer"] != json!(true);
    // One that tells of some layers must tell of all: for those of which nothing is known, that.
    for _ in history.iter().filter(is_layer).count()..layers {
        history.push(json!({"created": before}));
    }
    let mut entry = json!({"created": now, "created_by": options.created_by});
    for (key, value) in [("author", &options.author), ("comment", &options.message)] {
        if let Some(value) = value {
            entry[key] = json!(value);
        }
    }
    history.push(entry);
    list(object(whole, "rootfs"), "diff_ids").push(json!(diff_id));
}

/// Digests what goes through it.
struct Digested<W> {
    out: W,
    digester: Digester,
}

impl<W> Digested<W> {
    fn new(out: W) -> Self {
        Digested { out, digester: Digester::new(Algorithm::Sha256) }
    }

    fn finish(self) -> (W, Digest) {
        (self.out, self.digester.finish())
    }
}

impl<W: Write> Write for Digested<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.digester.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
