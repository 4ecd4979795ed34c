//! The layers of one image: several on their way at once, made visible bottom first.
//!
//! A layer is unpacked on its own, in the work folder. When all below it are there it is settled on top of
//! them, and all layers that are ready then are synced at once and renamed into place, so that a layer that
//! is visible is complete on disk and so is everything below it.
//!
//! Two locks order those who want the same. That of a chain is held until the layer is visible, and whoever holds it
//! waits for layers below it alone; that of a blob until all its bytes are here, and whoever holds it waits for nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::trace::Tracer;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;

use super::chunks::{Incoming, NETWORK_PIECES};
use super::decompress::{self, Promise};
use super::feed::{Feed, Sources};
use super::{Assembly, AssemblyOptions, ImageVariant, SharedWork};
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::manifest::Layer;
use crate::progress::{LayerState, PullProgress};
use crate::store::ingest::{self, Held, Partial};
use crate::store::layer::{self, LayerFacts};
use crate::store::layout::{self, Layout};
use crate::store::lock::Lock;
use crate::unpack::Unpacked;
use crate::unpack::below::Below;

/// One layer of the image.
#[derive(Debug, Clone)]
pub(crate) struct LayerPlan {
    pub(crate) layer: Layer,
    pub(crate) diff_id: Digest,
    pub(crate) chain: Digest,
    pub(crate) parent: Option<Digest>,
}

/// The layers of an image, bottom first.
pub(super) fn plan(variant: &ImageVariant) -> Vec<LayerPlan> {
    let mut parent = None;
    let mut plans = Vec::new();
    for (layer, diff_id) in variant.manifest.layers.iter().zip(&variant.config.diff_ids) {
        let chain = Digest::chained(parent.as_ref(), diff_id);
        plans.push(LayerPlan { layer: layer.clone(), diff_id: *diff_id, chain, parent });
        parent = Some(chain);
    }
    plans
}

/// The layers that only the images for other machines have.
pub(super) fn foreign(assembly: &Assembly, plans: &[LayerPlan]) -> Vec<Layer> {
    let mut seen: BTreeSet<Digest> = plans.iter().map(|plan| plan.layer.digest).collect();
    let all = assembly.others.iter().flat_map(|other| &other.manifest.layers);
    all.filter(|layer| seen.insert(layer.digest)).cloned().collect()
}

/// A layer on its way to being visible.
enum Ready {
    Exists(LayerFacts),
    Made(Box<Made>),
}

struct Made {
    unpacked: Unpacked,
    folder: PathBuf,
    _lock: Lock,
}

/// What all layers of an image share.
pub(super) struct Fetch<'a> {
    pub(super) layout: &'a Layout,
    pub(super) work: &'a Arc<SharedWork>,
    pub(super) sources: &'a Sources,
    pub(super) plans: &'a [LayerPlan],
    /// Layers whose blobs are wanted and nothing else of them.
    pub(super) foreign: &'a [Layer],
    pub(super) options: &'a AssemblyOptions,
    pub(super) progress: &'a dyn PullProgress,
    pub(super) tracer: &'a Tracer,
}

impl Fetch<'_> {
    /// Brings every layer into the store and returns the facts of each of the image's own, bottom first.
    pub(super) async fn run(&self) -> Result<Vec<LayerFacts>> {
        let layers = self.plans.iter().map(|plan| &plan.layer).chain(self.foreign);
        for (index, layer) in layers.enumerate() {
            self.progress.layer(index, &layer.digest, layer.size);
        }
        let (ready, coming) = mpsc::channel(self.plans.len().max(1));
        let making = async {
            let all = 0..self.plans.len() + self.foreign.len();
            let layers = all.map(|index| self.layer(index, ready.clone()));
            let mut layers =
                futures_util::stream::iter(layers).buffer_unordered(self.options.parallel.max(1));
            while let Some(made) = layers.next().await {
                made?;
            }
            Ok(())
        };
        let ((), facts) = tokio::try_join!(making, self.commit_in_order(coming))?;
        Ok(facts)
    }

    async fn layer(&self, index: usize, ready: mpsc::Sender<(usize, Ready)>) -> Result<()> {
        match self.plans.get(index) {
            Some(plan) => self.make(index, plan, ready).await,
            None => {
                let layer = &self.foreign[index - self.plans.len()];
                let fetched = self.keep(index, layer).await?;
                self.progress.state(index, if fetched { LayerState::Done } else { LayerState::Exists });
                Ok(())
            }
        }
    }

    /// Makes one layer, unless it is there or somebody else makes it meanwhile.
    async fn make(&self, index: usize, plan: &LayerPlan, ready: mpsc::Sender<(usize, Ready)>) -> Result<()> {
        let mut step = self.tracer.step("image", "layer.unpack");
        step.fact("layer", plan.layer.digest).fact("chain", plan.chain);
        let layer = match layer::find(self.layout, &plan.chain)? {
            Some(facts) => Ready::Exists(facts),
            None => {
                self.progress.state(index, LayerState::Waiting);
                let lock = Lock::passing(&self.layout.layer_lock(&plan.chain)).await?;
                match layer::find(self.layout, &plan.chain)? {
                    Some(facts) => Ready::Exists(facts),
                    None => Ready::Made(Box::new(self.unpack(index, plan, lock).await?)),
                }
            }
        };
        match &layer {
            Ready::Exists(_) => {
                // The same layer may have come in another compression.
                self.keep(index, &plan.layer).await?;
                step.fact("exists", true);
                self.progress.state(index, LayerState::Exists);
            }
            Ready::Made(made) => {
                step.fact("compressed", plan.layer.size).fact("bytes", made.unpacked.bytes());
                step.fact("entries", made.unpacked.entries());
                let left_out = made.unpacked.attributes_left_out();
                if left_out > 0 {
                    step.fact("attributes left out", left_out);
                }
            }
        }
        drop(step);
        ready.send((index, layer)).await.expect("the commit of all layers runs beside this");
        Ok(())
    }

    /// Unpacks a layer as its bytes come.
    async fn unpack(&self, index: usize, plan: &LayerPlan, lock: Lock) -> Result<Made> {
        let promise =
            Promise { layer: plan.layer.clone(), diff_id: plan.diff_id, limits: self.options.limits.clone() };
        let folder = self.work.path(&format!("layer-{index}"));
        let into = folder.clone();
        let unpacked = self
            .read(index, &plan.layer, move |incoming, path| {
                // A first try may have left something.
                layout::remove_folder(&into)?;
                layout::make_folder(&into.join("fs"))?;
                decompress::run(incoming, &promise, path, &into.join("fs"))
            })
            .await?;
        Ok(Made { unpacked, folder, _lock: lock })
    }

    /// Brings the bytes of a layer into the store, unless they are there; whether they were fetched.
    async fn keep(&self, index: usize, layer: &Layer) -> Result<bool> {
        if self.layout.blob(&layer.digest).exists() {
            // By somebody else, perhaps, who has not synced it yet.
            self.work.brought();
            return Ok(false);
        }
        let promised = layer.clone();
        self.read(index, layer, move |incoming, path| {
            decompress::verify(incoming, &promised, path)?;
            // Nobody reads it before an image counts on it, who would see that a power cut has damaged it.
            layout::sync_file(path)
        })
        .await?;
        Ok(true)
    }

    /// Reads a layer by `read`, on a thread of its own, from wherever its bytes are. What turns out to be damaged of
    /// those that were here is fetched again.
    async fn read<T: Send + 'static>(
        &self,
        index: usize,
        layer: &Layer,
        read: impl Fn(Incoming, &Path) -> Result<T> + Clone + Send + 'static,
    ) -> Result<T> {
        let blob = self.layout.blob(&layer.digest);
        let is_local = self.sources.registries.is_empty();
        // What the sources before gave that was not what was promised: that says more than that others are down.
        let (mut passed_over, mut wrong) = (0, None);
        let mut held = Held::wait(self.layout, &layer.digest).await?;
        loop {
            held = match held {
                Held::Whole(file) => {
                    self.progress.state(index, LayerState::Extracting);
                    let (_, nothing) = mpsc::channel(1);
                    let incoming = Incoming::new(Some(file), nothing, None, layer.digest.algorithm());
                    let (read, path, work) = (read.clone(), blob.clone(), Arc::clone(self.work));
                    let reading = tokio::task::spawn_blocking(move || {
                        let done = read(incoming, &path);
                        drop(work);
                        done
                    });
                    match reading.await.expect("unpacking does not panic") {
                        Err(error) if error.is_refused() && !is_local => {
                            // It may be the image that is wrong, and not the blob, which others may count on.
                            if !ingest::remove_damaged(self.layout, &layer.digest).await? {
                                return Err(error);
                            }
                            Held::wait(self.layout, &layer.digest).await?
                        }
                        done => return done,
                    }
                }
                Held::Partial(_) if is_local => {
                    return Err(ImageError::Damaged { path: blob, reason: "it is missing".to_owned() });
                }
                Held::Partial(mut partial) => {
                    if partial.bytes() > layer.size {
                        partial.restart()?;
                    }
                    let resumed = partial.bytes() > 0;
                    let fetched = self.fetch(index, layer, partial, passed_over, read.clone()).await;
                    let (done, mut partial) = fetched.map_err(|error| wrong.take().unwrap_or(error))?;
                    match done {
                        Ok(done) => {
                            partial.complete(self.layout)?;
                            self.work.brought();
                            return Ok(done);
                        }
                        // What is here stays for when there is room again, say.
                        Err(error) if !error.is_refused() => return Err(error),
                        Err(error) => {
                            partial.restart()?;
                            let is_other = matches!(
                                error,
                                ImageError::DigestMismatch { .. } | ImageError::SizeMismatch { .. }
                            );
                            if !resumed {
                                passed_over += 1;
                                if !is_other || passed_over == self.sources.registries.len() {
                                    return Err(wrong.unwrap_or(error));
                                }
                                wrong.get_or_insert(error);
                            }
                            Held::Partial(partial)
                        }
                    }
                }
            }
        }
    }

    /// Reads what is here of a layer and then what comes of it, which is kept.
    async fn fetch<T: Send + 'static>(
        &self,
        index: usize,
        layer: &Layer,
        partial: Partial,
        passed_over: usize,
        read: impl Fn(Incoming, &Path) -> Result<T> + Send + 'static,
    ) -> Result<(Result<T>, Partial)> {
        let (pieces, coming) = mpsc::channel(NETWORK_PIECES);
        let (sources, progress, at) = (self.sources, self.progress, partial.bytes());
        let incoming = Incoming::new(partial.here()?, coming, Some(partial.end()?), layer.digest.algorithm());
        let work = Arc::clone(self.work);
        let reading = tokio::task::spawn_blocking(move || {
            let done = read(incoming, partial.path());
            drop(work);
            (done, partial)
        });
        let fed = Feed { sources, layer, index, progress, passed_over, at }.run(pieces).await;
        let read = reading.await.expect("unpacking does not panic");
        // What is here stays for the next attempt.
        fed?;
        self.progress.state(index, LayerState::Extracting);
        Ok(read)
    }

    /// Makes layers visible, bottom first, all that are ready at a time.
    async fn commit_in_order(&self, mut coming: mpsc::Receiver<(usize, Ready)>) -> Result<Vec<LayerFacts>> {
        let mut waiting = BTreeMap::new();
        let mut facts: Vec<LayerFacts> = Vec::new();
        while facts.len() < self.plans.len() {
            while !waiting.contains_key(&facts.len()) {
                // The makers have failed; their error ends this too.
                let Some((index, layer)) = coming.recv().await else {
                    return std::future::pending().await;
                };
                waiting.insert(index, layer);
            }
            while let Ok((index, layer)) = coming.try_recv() {
                waiting.insert(index, layer);
            }
            let first = facts.len();
            let mut group = Vec::new();
            while let Some(layer) = waiting.remove(&(first + group.len())) {
                group.push(layer);
            }
            let made: Vec<bool> = group.iter().map(|layer| matches!(layer, Ready::Made(_))).collect();
            let mut step = made.contains(&true).then(|| self.tracer.step("image", "layers.commit"));
            let (layout, plans) = (self.layout.clone(), self.plans.to_vec());
            let work = Arc::clone(self.work);
            let committing = tokio::task::spawn_blocking(move || {
                let committed = commit(&layout, &work, &plans, first, group);
                drop(work);
                committed
            });
            facts.extend(committing.await.expect("committing does not panic")?);
            if let Some(step) = &mut step {
                step.fact("layers", made.len()).fact("first", first);
            }
            for (offset, made) in made.into_iter().enumerate() {
                if made {
                    self.progress.state(first + offset, LayerState::Done);
                }
            }
        }
        Ok(facts)
    }
}

/// Settles a group of neighbouring layers on those below, syncs them at once and renames them into place.
fn commit(
    layout: &Layout,
    work: &SharedWork,
    plans: &[LayerPlan],
    first: usize,
    group: Vec<Ready>,
) -> Result<Vec<LayerFacts>> {
    let mut facts = Vec::with_capacity(group.len());
    let mut below: Vec<PathBuf> = plans[..first].iter().map(|plan| layout.layer_fs(&plan.chain)).collect();
    let mut made = Vec::new();
    for (plan, layer) in plans[first..].iter().zip(group) {
        match layer {
            Ready::Exists(found) => {
                below.push(layout.layer_fs(&plan.chain));
                facts.push(found);
            }
            Ready::Made(layer) => {
                let Made { unpacked, folder, _lock } = *layer;
                let found = settle(plan, unpacked, &folder, &below)?;
                below.push(folder.join("fs"));
                facts.push(found);
                made.push((plan, folder, _lock));
                work.brought();
            }
        }
    }
    if !made.is_empty() {
        work.sync()?;
    }
    for (plan, folder, lock) in made {
        layer::commit(layout, &plan.chain, &folder)?;
        drop(lock);
    }
    Ok(facts)
}

pub(super) fn settle(
    plan: &LayerPlan,
    unpacked: Unpacked,
    folder: &std::path::Path,
    below: &[PathBuf],
) -> Result<LayerFacts> {
    let top_first: Vec<PathBuf> = below.iter().rev().cloned().collect();
    let below = if unpacked.needs_below() {
        Below::open(&top_first).map_err(ImageError::io("open the layers below", folder))?
    } else {
        Below::nothing()
    };
    let layer = plan.layer.digest;
    let settled = unpacked.settle(&below).map_err(|source| ImageError::Unpack { layer, source })?;
    let facts = LayerFacts {
        diff_id: plan.diff_id,
        parent: plan.parent,
        size: settled.bytes,
        entries: settled.entries,
    };
    let bytes = serde_json::to_vec(&facts).expect("facts have only string keys");
    let path = folder.join("layer.json");
    let mut file = layout::new_file(&path)?;
    std::io::Write::write_all(&mut file, &bytes).map_err(ImageError::io("write", path))?;
    Ok(facts)
}
