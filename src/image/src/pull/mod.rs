//! Pulling an image: resolve its name, fetch and unpack the layers that are missing, make it visible.

mod chunks;
mod decompress;
mod layers;
mod resolve;

use std::sync::Arc;

use api::trace::Tracer;
use jiff::Timestamp;
use tokio::sync::mpsc;

use self::layers::LayerPlan;
use self::resolve::Resolved;
use crate::digest::{Algorithm, Digest};
use crate::error::{ImageError, Result};
use crate::platform::Platform;
use crate::progress::{LayerState, PullProgress};
use crate::reference::Reference;
use crate::registries::Registries;
use crate::store::layout::{self, Layout};
use crate::store::record::{ImageRecord, LayerRecord};
use crate::store::work::Work;
use crate::store::{Image, ImageStore, layer, lock::Lock};
use crate::unpack::Limits;

/// How an image is pulled.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// The platform to pull for; the host's when none is given.
    pub platform: Option<Platform>,
    /// How many layers are fetched and unpacked at once.
    pub parallel: usize,
    /// How much one layer may be.
    pub limits: Limits,
}

impl Default for PullOptions {
    fn default() -> Self {
        PullOptions { platform: None, parallel: 3, limits: Limits::default() }
    }
}

impl ImageStore {
    /// Pulls what a reference stands for at its registry, or at the first mirror that has it, and gives it
    /// that name here.
    ///
    /// Layers that are here already, or that another process is making, are not fetched. When it fails, or is
    /// dropped, only layers that are complete and verified remain, for the next attempt.
    pub async fn pull(
        &self,
        reference: &Reference,
        options: &PullOptions,
        progress: &dyn PullProgress,
        tracer: &Tracer,
    ) -> Result<Image> {
        let registries = Registries::read(&self.config_root)?;
        let name = reference.to_string();
        progress.resolving(&name);
        let resolved = resolve::resolve(&self.layout, &registries, reference, options, tracer).await?;
        self.layout.prepare()?;

        let plans = layers::plan(&resolved);
        for (index, plan) in plans.iter().enumerate() {
            progress.layer(index, &plan.layer.digest, plan.layer.size);
        }
        if let Some(record) = self.unchanged(&name, &resolved, &plans)? {
            for index in 0..plans.len() {
                progress.state(index, LayerState::Exists);
            }
            return self.image(&record);
        }
        let needs = needs(&resolved, &plans);
        let (gone, mut all_gone) = mpsc::channel(1);
        let work = Arc::new(SharedWork { work: Work::begin(&self.layout, needs)?, _gone: gone });
        let pulled = self.fetch_and_commit(name, &resolved, &plans, &work, options, progress, tracer).await;
        drop(work);
        // When it failed, threads may still be at work for a moment.
        while all_gone.recv().await.is_some() {}
        // What is complete is of use to the next attempt, if there can be one that does better.
        if !matches!(pulled, Err(ImageError::Registry { .. })) {
            self.sweep()?;
        }
        self.image(&pulled?)
    }

    /// The record of a name that stands for just this image already, with all that belongs to it.
    fn unchanged(&self, name: &str, resolved: &Resolved, plans: &[LayerPlan]) -> Result<Option<ImageRecord>> {
        // While the lock is held nothing is taken away.
        let _hold = Lock::hold(&self.layout.store_lock())?;
        let Some(record) = find_or_mend(&self.layout, name)? else { return Ok(None) };
        let same = record.digest == resolved.digest && record.manifest == resolved.manifest_digest;
        if !same || !resolved.documents.iter().all(|(digest, _)| self.layout.blob(digest).exists()) {
            return Ok(None);
        }
        for plan in plans {
            if layer::find(&self.layout, &plan.chain)?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(record))
    }

    #[expect(clippy::too_many_arguments, reason = "one step of `pull`, set apart for what comes after it")]
    async fn fetch_and_commit(
        &self,
        name: String,
        resolved: &Resolved,
        plans: &[LayerPlan],
        work: &Arc<SharedWork>,
        options: &PullOptions,
        progress: &dyn PullProgress,
        tracer: &Tracer,
    ) -> Result<ImageRecord> {
        let documents = self.write_documents(resolved, work)?;
        let facts = layers::fetch(&self.layout, work, resolved, plans, options, progress, tracer).await?;

        let mut step = tracer.step("image", "image.commit");
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
        let record = ImageRecord {
            reference: Some(name),
            digest: resolved.digest,
            manifest: resolved.manifest_digest,
            config: resolved.manifest.config.digest,
            platform: resolved.config.platform.clone(),
            layers,
            created: resolved.config.created.clone(),
            pulled: Timestamp::now(),
        };
        step.fact("id", record.config).fact("digest", record.digest).fact("layers", record.layers.len());
        step.fact("bytes", record.size());
        self.commit(&record, &documents, work)?;
        Ok(record)
    }

    /// Writes the documents that are not in the store into the work folder, synced.
    fn write_documents(&self, resolved: &Resolved, work: &Work) -> Result<Vec<Digest>> {
        let mut written = Vec::new();
        for (digest, bytes) in &resolved.documents {
            if !self.layout.blob(digest).exists() && !written.contains(digest) {
                layout::write_synced(&work.path(&digest.hex()), bytes)?;
                written.push(*digest);
            }
        }
        Ok(written)
    }

    /// Makes the image visible under its name, at one moment, and lets go what its name stood for before.
    fn commit(&self, record: &ImageRecord, documents: &[Digest], work: &Work) -> Result<()> {
        let hold = Lock::hold(&self.layout.store_lock())?;
        for digest in documents {
            layout::rename(&work.path(&digest.hex()), &self.layout.blob(digest))?;
        }
        for chain in record.chains() {
            if layer::find(&self.layout, &chain)?.is_none() {
                let path = self.layout.layer(&chain);
                return Err(ImageError::Damaged {
                    path,
                    reason: "it went while the image was pulled".to_owned(),
                });
            }
        }
        for algorithm in Algorithm::ALL {
            layout::sync_folder(&self.layout.blobs(algorithm))?;
        }
        layout::sync_folder(&self.layout.links())?;
        layout::sync_folder(&self.layout.layers())?;
        let name = record.reference.as_deref().expect("a pulled image has a name");
        let before = find_or_mend(&self.layout, name)?;
        let all = if before.is_some() { ImageRecord::all(&self.layout)? } else { Vec::new() };
        if let Some(before) = before.filter(|before| before.config != record.config) {
            // A container may still use it, and it may be wanted again: it stays, without a name.
            if all.iter().filter(|other| other.config == before.config).count() == 1 {
                let unnamed = ImageRecord { reference: None, ..before };
                unnamed.commit(&self.layout, &work.path("unnamed"))?;
            }
        }
        record.commit(&self.layout, &work.path("record"))?;
        // The image has a name again.
        for other in ImageRecord::all(&self.layout)? {
            if other.reference.is_none() && other.config == record.config {
                other.remove(&self.layout)?;
            }
        }
        drop(hold);
        Ok(())
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

/// The record of a name; a damaged one counts as none, because it is about to be written again.
fn find_or_mend(layout: &Layout, name: &str) -> Result<Option<ImageRecord>> {
    ImageRecord::find(layout, name).or_else(|error| match error {
        ImageError::Damaged { .. } => Ok(None),
        error => Err(error),
    })
}

/// The work of a pull, shared with the threads that write to its folder, which is not removed under them.
pub(super) struct SharedWork {
    work: Work,
    /// Closed when the last of them is done, after the work is gone.
    _gone: mpsc::Sender<()>,
}

impl std::ops::Deref for SharedWork {
    type Target = Work;

    fn deref(&self) -> &Work {
        &self.work
    }
}

/// Everything a pull counts on, which no removal may take meanwhile.
fn needs(resolved: &Resolved, plans: &[LayerPlan]) -> Vec<Digest> {
    let documents = resolved.documents.iter().map(|(digest, _)| *digest);
    documents.chain(plans.iter().flat_map(|plan| [plan.layer.digest, plan.chain])).collect()
}
