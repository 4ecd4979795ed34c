//! How a pull or push says what it is doing. Whoever shows it, as bars or as lines, implements [`PullProgress`].

use std::time::Duration;

use crate::digest::Digest;

/// Where a layer is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState {
    /// It is here already; nothing is fetched.
    Exists,
    /// Another process fetches it, or its turn has not come.
    Waiting,
    /// Its bytes come in and are unpacked as they come.
    Downloading,
    /// All its bytes are here; the rest of it is being unpacked and synced.
    Extracting,
    /// The registry has it already; nothing is sent.
    Present,
    /// Its bytes are being sent.
    Uploading,
    /// It is complete and verified: on disk, or at the registry.
    Done,
}

/// Hears of the steps of a pull or push. Calls are short and come from the task that pulls, in order per layer.
pub trait PullProgress: Send + Sync {
    /// The manifest of this reference is being asked for.
    fn resolving(&self, reference: &str) {
        let _ = reference;
    }

    /// The image consists of this layer, among others; `bytes` is its compressed size. Called once per layer,
    /// bottom first, before anything else is said about it. The index tells apart layers of equal digest.
    fn layer(&self, index: usize, digest: &Digest, bytes: u64) {
        let _ = (index, digest, bytes);
    }

    /// The layer is now in this state.
    fn state(&self, index: usize, state: LayerState) {
        let _ = (index, state);
    }

    /// Moving the layer failed for this reason, and is tried again after so long.
    fn retrying(&self, index: usize, reason: &str, after: Duration) {
        let _ = (index, reason, after);
    }

    /// So many compressed bytes of the layer have come or gone in all.
    fn bytes(&self, index: usize, bytes: u64) {
        let _ = (index, bytes);
    }
}

/// Progress that nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl PullProgress for Silent {}
