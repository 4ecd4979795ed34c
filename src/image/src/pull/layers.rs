//! The layers of one pull: several on their way at once, made visible bottom first.
//!
//! A layer is unpacked on its own, in the work folder. When all below it are there it is settled on top of
//! them, and all layers that are ready then are synced at once and renamed into place, so that a layer that
//! is visible is complete on disk and so is everything below it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use api::trace::Tracer;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;

use super::chunks::NETWORK_PIECES;
use super::decompress::{self, Promise};
use super::resolve::Resolved;
use super::{PullOptions, SharedWork};
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::manifest::Layer;
use crate::progress::{LayerState, PullProgress};
use crate::registry::broken;
use crate::store::layer::{self, LayerFacts};
use crate::store::layout::{self, Layout};
use crate::store::lock::Lock;
use crate::unpack::below::Below;
use crate::unpack::{Unpacked, tree};

/// One layer of the image.
#[derive(Debug, Clone)]
pub(super) struct LayerPlan {
    pub(super) layer: Layer,
    pub(super) diff_id: Digest,
    pub(super) chain: Digest,
    pub(super) parent: Option<Digest>,
}

/// The layers of an image, bottom first.
pub(super) fn plan(resolved: &Resolved) -> Vec<LayerPlan> {
    let mut parent = None;
    let mut plans = Vec::new();
    for (layer, diff_id) in resolved.manifest.layers.iter().zip(&resolved.config.diff_ids) {
        let chain = Digest::chained(parent.as_ref(), diff_id);
        plans.push(LayerPlan { layer: layer.clone(), diff_id: *diff_id, chain, parent });
        parent = Some(chain);
    }
    plans
}

/// A layer on its way to being visible.
enum Ready {
    Exists(LayerFacts),
    Made(Box<Made>),
}

struct Made {
    unpacked: Unpacked,
    folder: PathBuf,
    blob: PathBuf,
    _lock: Lock,
}

/// What all layers of a pull share.
struct Fetch<'a> {
    layout: &'a Layout,
    work: &'a Arc<SharedWork>,
    resolved: &'a Resolved,
    plans: &'a [LayerPlan],
    options: &'a PullOptions,
    progress: &'a dyn PullProgress,
    tracer: &'a Tracer,
}

/// Brings every layer into the store and returns the facts of each, bottom first.
pub(super) async fn fetch(
    layout: &Layout,
    work: &Arc<SharedWork>,
    resolved: &Resolved,
    plans: &[LayerPlan],
    options: &PullOptions,
    progress: &dyn PullProgress,
    tracer: &Tracer,
) -> Result<Vec<LayerFacts>> {
    let fetch = Fetch { layout, work, resolved, plans, options, progress, tracer };
    let (ready, coming) = mpsc::channel(plans.len().max(1));
    let making = async {
        let layers = (0..plans.len()).map(|index| fetch.make(index, ready.clone()));
        let mut layers = futures_util::stream::iter(layers).buffer_unordered(options.parallel.max(1));
        while let Some(made) = layers.next().await {
            made?;
        }
        Ok(())
    };
    let ((), facts) = tokio::try_join!(making, fetch.commit_in_order(coming))?;
    Ok(facts)
}

impl Fetch<'_> {
    /// Makes one layer, unless it is there or somebody else makes it meanwhile.
    async fn make(&self, index: usize, ready: mpsc::Sender<(usize, Ready)>) -> Result<()> {
        let plan = &self.plans[index];
        let mut step = self.tracer.step("image", "layer.unpack");
        step.fact("layer", plan.layer.digest).fact("chain", plan.chain);
        let layer = match layer::find(self.layout, &plan.chain)? {
            Some(facts) => Ready::Exists(facts),
            None => {
                self.progress.state(index, LayerState::Waiting);
                let lock = Lock::passing(&self.layout.layer_lock(&plan.chain)).await?;
                match layer::find(self.layout, &plan.chain)? {
                    Some(facts) => Ready::Exists(facts),
                    None => Ready::Made(Box::new(self.unpack(index, lock).await?)),
                }
            }
        };
        match &layer {
            Ready::Exists(_) => {
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

    /// Fetches a layer and unpacks it as it comes.
    async fn unpack(&self, index: usize, lock: Lock) -> Result<Made> {
        let plan = &self.plans[index];
        let digest = plan.layer.digest;
        self.progress.state(index, LayerState::Downloading);
        let folder = self.work.path(&format!("layer-{index}"));
        layout::make_folder(&folder.join("fs"))?;
        let blob = self.work.path(&format!("blob-{index}"));
        let kept = layout::new_file(&blob)?;

        let (pieces, coming) = mpsc::channel(NETWORK_PIECES);
        let promise =
            Promise { layer: plan.layer.clone(), diff_id: plan.diff_id, limits: self.options.limits.clone() };
        let (path, fs, work) = (blob.clone(), folder.join("fs"), Arc::clone(self.work));
        let unpacking = tokio::task::spawn_blocking(move || {
            let unpacked = decompress::run(coming, &promise, kept, &path, &fs);
            drop(work);
            unpacked
        });
        let fed = self.feed(index, pieces).await;
        let unpacked = unpacking.await.expect("unpacking does not panic");
        if let Err(failure) = fed {
            let endpoint = self.resolved.registry.endpoint();
            let attempts = vec![failure.attempt(endpoint)?];
            let what = format!("failed to fetch layer {digest} of {}", self.resolved.reference);
            return Err(ImageError::Registry { what, attempts });
        }
        Ok(Made { unpacked: unpacked?, folder, blob, _lock: lock })
    }

    /// Hands the bytes of a layer over as they come, until all came or nobody wants them any more.
    async fn feed(
        &self,
        index: usize,
        pieces: mpsc::Sender<bytes::Bytes>,
    ) -> crate::registry::EndpointResult<()> {
        let layer = &self.plans[index].layer;
        let mut stream = self.resolved.registry.blob(&layer.digest).await?;
        let mut total = 0;
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|error| broken(&error))?;
            total += piece.len() as u64;
            self.progress.bytes(index, total);
            // One piece too many is enough to see that the layer is longer than promised.
            if pieces.send(piece).await.is_err() || total > layer.size {
                return Ok(());
            }
        }
        self.progress.state(index, LayerState::Extracting);
        Ok(())
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
                let committed = commit(&layout, &plans, first, group);
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
fn commit(layout: &Layout, plans: &[LayerPlan], first: usize, group: Vec<Ready>) -> Result<Vec<LayerFacts>> {
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
                let Made { unpacked, folder, blob, _lock } = *layer;
                let found = settle(plan, unpacked, &folder, &below)?;
                below.push(folder.join("fs"));
                facts.push(found);
                made.push((plan, folder, blob, _lock));
            }
        }
    }
    let Some((_, folder, _, _)) = made.first() else { return Ok(facts) };
    let root = tree::open_root(folder).map_err(|error| ImageError::io("open", folder)(error.into()))?;
    rustix::fs::syncfs(&root).map_err(|error| ImageError::io("sync", folder)(error.into()))?;
    for (plan, folder, blob, lock) in made {
        layout::rename(&blob, &layout.blob(&plan.layer.digest))?;
        layer::commit(layout, &plan.chain, &folder)?;
        drop(lock);
    }
    Ok(facts)
}

fn settle(
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
