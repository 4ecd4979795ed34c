//! The bytes of one layer from the network: asked for again from where they broke off, then of the next endpoint.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::error::{Attempt, Fault, ImageError, Result};
use crate::manifest::Layer;
use crate::progress::{LayerState, PullProgress};
use crate::registry::{Backoff, BlobAnswer, BlobBody, EndpointResult, Failure, Registry};

/// A connection that brings less than this many bytes a second has stalled.
const LEAST_RATE: u64 = 100;

/// Bytes that a connection must bring to count as progress.
const PROGRESS: u64 = 4096;

/// Where layers come from, when they are not here.
#[derive(Debug)]
pub(crate) struct Sources {
    /// In the order in which they are asked.
    pub(crate) registries: Vec<Registry>,
    /// What is being fetched, for errors.
    pub(crate) what: String,
}

impl Sources {
    /// All layers are here.
    pub(crate) fn none() -> Sources {
        Sources { registries: Vec::new(), what: String::new() }
    }
}

/// One layer on its way.
pub(super) struct Feed<'a> {
    pub(super) sources: &'a Sources,
    pub(super) layer: &'a Layer,
    pub(super) index: usize,
    pub(super) progress: &'a dyn PullProgress,
    /// How many of the sources gave something wrong, and are not asked again.
    pub(super) passed_over: usize,
    /// How many bytes are handed over, or were here before.
    pub(super) at: u64,
}

impl Feed<'_> {
    /// Hands the bytes of a layer over as they come, until all came or nobody wants them any more.
    pub(super) async fn run(mut self, pieces: mpsc::Sender<Bytes>) -> Result<()> {
        let mut attempts: Vec<Attempt> = Vec::new();
        for registry in &self.sources.registries[self.passed_over..] {
            match self.from(registry, &pieces).await {
                Ok(()) => return Ok(()),
                Err(failure) => attempts.push(failure.attempt(registry.endpoint())?),
            }
        }
        let what = format!("failed to fetch layer {} of {}", self.layer.digest, self.sources.what);
        Err(ImageError::Registry { what, attempts })
    }

    /// The rest of the layer from one endpoint, which is asked again as long as that may help.
    async fn from(&mut self, registry: &Registry, pieces: &mpsc::Sender<Bytes>) -> EndpointResult<()> {
        let retries = registry.endpoint().retries;
        // The first one gave the manifest.
        let is_first = std::ptr::eq(registry, &self.sources.registries[0]);
        let mut backoff = if is_first { Backoff::after_an_answer(retries) } else { Backoff::new(retries) };
        loop {
            let before = self.at;
            let failure = match self.once(registry, pieces).await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            // What goes on, however slowly, need not give up.
            if self.at >= before + PROGRESS {
                backoff = Backoff::after_an_answer(retries);
            }
            let Some(wait) = backoff.after(&failure) else { return Err(failure) };
            if let Failure::Endpoint { reason, .. } = &failure {
                self.progress.retrying(self.index, reason, wait);
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// What one connection brings.
    async fn once(&mut self, registry: &Registry, pieces: &mpsc::Sender<Bytes>) -> EndpointResult<()> {
        let _permit = registry.download().await;
        self.progress.state(self.index, LayerState::Downloading);
        self.progress.bytes(self.index, self.at);
        let mut body = match registry.blob(&self.layer.digest, self.at).await? {
            BlobAnswer::Body(body) => body,
            // There is no more of it; whether that is all, its length and digest will tell.
            BlobAnswer::PastEnd => return Ok(()),
        };
        let mut pace = Pace::new(registry.endpoint().stall);
        while let Some(piece) = pace.next(&mut body).await? {
            if piece.is_empty() {
                continue;
            }
            self.at += piece.len() as u64;
            self.progress.bytes(self.index, self.at);
            // One piece too many is enough to see that the layer is longer than promised.
            if pieces.send(piece).await.is_err() || self.at > self.layer.size {
                return Ok(());
            }
        }
        match self.at < self.layer.size {
            true => Err(Failure::passing(Fault::Failed, "it ended the layer early")),
            false => Ok(()),
        }
    }
}

/// Watches that bytes come fast enough; the time in which we take none does not count.
struct Pace {
    window: Duration,
    /// Waited for bytes within this window.
    waited: Duration,
    /// Bytes that came within it.
    came: u64,
}

impl Pace {
    fn new(window: Duration) -> Self {
        Pace { window, waited: Duration::ZERO, came: 0 }
    }

    /// The next bytes that are wanted, which may be none of those that came.
    async fn next(&mut self, body: &mut BlobBody) -> EndpointResult<Option<Bytes>> {
        let begun = Instant::now();
        let left = self.window.saturating_sub(self.waited);
        let Ok(piece) = tokio::time::timeout(left, body.next()).await else {
            let seconds = self.window.as_secs_f32();
            let reason = format!("the connection stalled: {} bytes in {seconds} s", self.came);
            return Err(Failure::passing(Fault::Unreachable, reason));
        };
        let piece = piece?;
        self.waited += begun.elapsed();
        self.came += piece.as_ref().map_or(0, |piece| piece.came);
        if self.came >= (self.window.as_secs_f64() * LEAST_RATE as f64) as u64 {
            (self.waited, self.came) = (Duration::ZERO, 0);
        }
        Ok(piece.map(|piece| piece.wanted))
    }
}
