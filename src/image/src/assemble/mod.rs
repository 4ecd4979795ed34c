//! An image out of its documents and layers, wherever their bytes are: in the store already, in an archive that was
//! just read into it, or at a registry.
//!
//! ```text
//! store or ingest ─┐
//! registry: feed ──┴─> chunks ─> decompress ─> unpack ─> settle, sync, rename ─> the image's record
//! ```

mod chunks;
mod decompress;
mod feed;
mod layers;
pub(crate) mod remake;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use api::trace::Tracer;
use jiff::Timestamp;
use tokio::sync::mpsc;

pub(crate) use self::feed::Sources;
use self::layers::{Fetch, LayerPlan};
use crate::digest::{Algorithm, Digest};
use crate::error::{ImageError, Result};
use crate::manifest::{ConfigFacts, Manifest};
use crate::progress::{LayerState, PullProgress};
use crate::store::layout;
use crate::store::lock::Lock;
use crate::store::record::{ImageRecord, LayerRecord, OtherRecord};
use crate::store::work::Work;
use crate::store::{Image, ImageStore, layer};
use crate::unpack::{Limits, tree};

/// An image that is known, but not here yet.
#[derive(Debug)]
pub(crate) struct Assembly {
    /// The canonical reference it gets; none for an image without a name.
    pub(crate) name: Option<String>,
    /// Whether the name is given here, so that no registry knows the image by it and [`digest`](Assembly::digest).
    pub(crate) local: bool,
    /// What the name stands for: the index's digest where there is one.
    pub(crate) digest: Digest,
    pub(crate) variant: ImageVariant,
    /// What the index has for other machines, when that is wanted too: kept, but not unpacked.
    pub(crate) others: Vec<ImageVariant>,
    /// Indexes, manifests and configurations, byte for byte, checked against their digests.
    pub(crate) documents: Vec<(Digest, Vec<u8>)>,
}

/// The image for one kind of machine.
#[derive(Debug, Clone)]
pub(crate) struct ImageVariant {
    pub(crate) digest: Digest,
    pub(crate) manifest: Manifest,
    pub(crate) config: ConfigFacts,
}

/// How layers are made.
#[derive(Debug, Clone)]
pub(crate) struct AssemblyOptions {
    /// How many layers are fetched and unpacked at once.
    pub(crate) parallel: usize,
    /// How much one layer may be.
    pub(crate) limits: Limits,
}

/// Makes images; what it counts on is not removed meanwhile, and what it leaves unfinished is.
pub(crate) struct Assembler<'s> {
    store: &'s ImageStore,
    work: Arc<SharedWork>,
    all_gone: mpsc::Receiver<()>,
    /// What the image's name must still stand for when it is made.
    expected: Option<ImageRecord>,
}

/// The work of an assembler, shared with the threads that write to its folder, which is not removed under them.
pub(crate) struct SharedWork {
    work: Work,
    /// Whether there may be content in the store that was not synced since it came, be it from a pull that was killed.
    unsynced: AtomicBool,
    /// Closed when the last of them is done, after the work is gone.
    _gone: mpsc::Sender<()>,
}

impl std::ops::Deref for SharedWork {
    type Target = Work;

    fn deref(&self) -> &Work {
        &self.work
    }
}

impl SharedWork {
    /// Says that content came into the store.
    fn brought(&self) {
        self.unsynced.store(true, Ordering::SeqCst);
    }

    /// Puts all content on disk that came into the store so far.
    fn sync(&self) -> Result<()> {
        if self.unsynced.swap(false, Ordering::SeqCst) {
            let folder = self.work.path("");
            let root =
                tree::open_root(&folder).map_err(|error| ImageError::io("open", &folder)(error.into()))?;
            rustix::fs::syncfs(&root).map_err(|error| ImageError::io("sync", &folder)(error.into()))?;
        }
        Ok(())
    }
}

impl<'s> Assembler<'s> {
    /// Begins, without counting on anything yet.
    pub(crate) fn begin(store: &'s ImageStore) -> Result<Assembler<'s>> {
        store.layout.prepare()?;
        let (gone, all_gone) = mpsc::channel(1);
        let work = Work::begin(&store.layout, [])?;
        let work = Arc::new(SharedWork { work, unsynced: AtomicBool::new(true), _gone: gone });
        Ok(Assembler { store, work, all_gone, expected: None })
    }

    /// Makes the image only if its name still stands for just this then.
    pub(crate) fn only_instead_of(&mut self, record: &ImageRecord) {
        self.expected = Some(record.clone());
    }

    /// A path in a folder of its own, on the store's file system.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.work.path(name)
    }

    /// Keeps the folder as long as the result lives: for a thread that writes to it.
    pub(crate) fn hold(&self) -> Arc<SharedWork> {
        Arc::clone(&self.work)
    }

    /// Makes a file of [`path`](Assembler::path), whose content has this digest, a blob of the store.
    pub(crate) fn adopt(&self, from: &Path, digest: &Digest) -> Result<()> {
        self.work.need(&self.store.layout, [*digest])?;
        // It may take the place of one that an image counts on, and which is on disk.
        layout::sync_file(from)?;
        layout::rename(from, &self.store.layout.blob(digest))
    }

    /// Brings the layers of an image into the store, from there or from `sources`, and makes it visible.
    pub(crate) async fn assemble(
        &self,
        assembly: &Assembly,
        sources: &Sources,
        options: &AssemblyOptions,
        progress: &dyn PullProgress,
        tracer: &Tracer,
    ) -> Result<Image> {
        let plans = layers::plan(&assembly.variant);
        let foreign = layers::foreign(assembly, &plans);
        let (layout, work) = (&self.store.layout, &self.work);
        work.need(layout, needs(assembly, &plans))?;
        let documents = self.write_documents(assembly)?;
        let fetch =
            Fetch { layout, work, sources, plans: &plans, foreign: &foreign, options, progress, tracer };
        let facts = fetch.run().await?;

        let mut step = tracer.step("image", "image.commit");
        let config = &assembly.variant.config;
        let layers = plans
            .iter()
            .zip(&facts)
            .map(|(plan, facts)| LayerRecord {
                blob: plan.layer.digest,
                chain: plan.chain,
                compressed: plan.layer.size,
                size: facts.size,
            })
            .collect();
        let others = assembly.others.iter().map(|other| OtherRecord {
            manifest: other.digest,
            config: other.manifest.config.digest,
            platform: other.config.platform.clone(),
            blobs: other.manifest.layers.iter().map(|layer| layer.digest).collect(),
        });
        let record = ImageRecord {
            reference: assembly.name.clone(),
            digest: assembly.digest,
            manifest: assembly.variant.digest,
            config: assembly.variant.manifest.config.digest,
            platform: config.platform.clone(),
            layers,
            others: others.collect(),
            created: config.created.clone(),
            pulled: Timestamp::now(),
            local: assembly.local,
        };
        step.fact("id", record.config).fact("digest", record.digest).fact("layers", record.layers.len());
        step.fact("bytes", record.size());
        self.commit(&record, &documents)?;
        self.store.image(&record)
    }

    /// Waits until nobody is at work any more, and removes what is left of it. What came into the store and no image
    /// counts on is removed with `sweep`.
    pub(crate) async fn end(mut self, sweep: bool) -> Result<()> {
        drop(self.work);
        // When it failed, threads may still be at work for a moment.
        while self.all_gone.recv().await.is_some() {}
        if sweep { self.store.sweep() } else { Ok(()) }
    }

    /// Writes the documents that are not in the store into the work folder, synced.
    fn write_documents(&self, assembly: &Assembly) -> Result<Vec<Digest>> {
        let mut written = Vec::new();
        for (digest, bytes) in &assembly.documents {
            if self.store.layout.document(digest).is_none() && !written.contains(digest) {
                layout::write_synced(&self.work.path(&digest.hex()), bytes)?;
                written.push(*digest);
            }
        }
        Ok(written)
    }

    /// Makes the image visible under its name, at one moment, and lets go what its name stood for before.
    fn commit(&self, record: &ImageRecord, documents: &[Digest]) -> Result<()> {
        let layout = &self.store.layout;
        self.work.sync()?;
        let hold = Lock::hold(&layout.store_lock())?;
        if let (Some(expected), Some(name)) = (&self.expected, &record.reference)
            && ImageRecord::find_or_mend(layout, name)?.as_ref() != Some(expected)
        {
            let reason = format!("{name} has become another image meanwhile");
            return Err(ImageError::Damaged { path: layout.images(), reason });
        }
        for digest in documents {
            layout::rename(&self.work.path(&digest.hex()), &layout.blob(digest))?;
        }
        let went = |path| ImageError::Damaged { path, reason: "it went while the image was made".to_owned() };
        for chain in record.chains() {
            if layer::find(layout, &chain)?.is_none() {
                return Err(went(layout.layer(&chain)));
            }
        }
        if let Some(blob) = record.blobs().map(|digest| layout.blob(&digest)).find(|blob| !blob.exists()) {
            return Err(went(blob));
        }
        for algorithm in Algorithm::ALL {
            layout::sync_folder(&layout.blobs(algorithm))?;
        }
        layout::sync_folder(&layout.links())?;
        layout::sync_folder(&layout.layers())?;
        record.take_name(layout, &self.work.work)?;
        drop(hold);
        Ok(())
    }
}

impl ImageStore {
    /// The record of a name that stands for just this image already, with all that belongs to it.
    pub(crate) fn unchanged(
        &self,
        assembly: &Assembly,
        progress: &dyn PullProgress,
    ) -> Result<Option<ImageRecord>> {
        let Some(name) = &assembly.name else { return Ok(None) };
        let plans = layers::plan(&assembly.variant);
        // While the lock is held nothing is taken away.
        self.layout.prepare()?;
        let _hold = Lock::hold(&self.layout.store_lock())?;
        let Some(record) = ImageRecord::find_or_mend(&self.layout, name)? else { return Ok(None) };
        let others = assembly.others.iter().map(|other| other.digest);
        // A registry that has it makes more of a name that was given here.
        let same = (assembly.local || !record.local)
            && record.digest == assembly.digest
            && record.manifest == assembly.variant.digest
            && others.eq(record.others.iter().map(|other| other.manifest));
        if !same || !record.blobs().all(|digest| self.layout.blob(&digest).exists()) {
            return Ok(None);
        }
        for plan in &plans {
            if layer::find(&self.layout, &plan.chain)?.is_none() {
                return Ok(None);
            }
        }
        for (index, plan) in plans.iter().enumerate() {
            progress.layer(index, &plan.layer.digest, plan.layer.size);
            progress.state(index, LayerState::Exists);
        }
        Ok(Some(record))
    }

    /// Removes content that no image and no work under way needs: what a killed pull had completed.
    fn sweep(&self) -> Result<()> {
        let trash = Work::begin(&self.layout, [])?;
        let hold = Lock::hold(&self.layout.store_lock())?;
        crate::store::sweep(&self.layout, &trash)?;
        drop(hold);
        trash.finish()
    }
}

/// Everything an image counts on, which no removal may take meanwhile.
fn needs(assembly: &Assembly, plans: &[LayerPlan]) -> Vec<Digest> {
    let documents = assembly.documents.iter().map(|(digest, _)| *digest);
    let others =
        assembly.others.iter().flat_map(|other| other.manifest.layers.iter().map(|layer| layer.digest));
    documents.chain(others).chain(plans.iter().flat_map(|plan| [plan.layer.digest, plan.chain])).collect()
}
