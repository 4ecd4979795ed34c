//! One JSON object a line, for programs:
//!
//! ```text
//! {"event":"pulling","reference":"docker.io/library/debian:12"}
//! {"event":"layer","layer":0,"digest":"sha256:…","total":49286520}
//! {"event":"state","layer":0,"state":"downloading"}
//! {"event":"bytes","layer":0,"current":1048576,"total":49286520,"rate":10485760,"left":4.6}
//! {"event":"retry","layer":0,"reason":"…","after":0.4}
//! ```
//!
//! `rate` is in bytes a second, `left` and `after` are in seconds.

use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use image::{Digest, LayerState, PullProgress};
use serde_json::{Value, json};

use super::lock;

/// A layer's bytes are told as often at most.
const EVERY: Duration = Duration::from_millis(250);

/// What is known of a layer.
struct Layer {
    total: u64,
    /// When its bytes began to come, and how many there were.
    begun: Option<(Instant, u64)>,
    told: Option<Instant>,
}

pub(super) struct Json<W> {
    to: Mutex<W>,
    layers: Mutex<Vec<Layer>>,
}

impl<W: Write + Send> Json<W> {
    pub(super) fn new(to: W) -> Self {
        Json { to: Mutex::new(to), layers: Mutex::default() }
    }

    fn say(&self, event: &Value) {
        // Who does not read the progress still gets the image.
        drop(writeln!(lock(&self.to), "{event}"));
    }
}

impl<W: Write + Send> PullProgress for Json<W> {
    fn resolving(&self, reference: &str) {
        self.say(&json!({"event": "pulling", "reference": reference}));
    }

    fn layer(&self, index: usize, digest: &Digest, bytes: u64) {
        lock(&self.layers).push(Layer { total: bytes, begun: None, told: None });
        self.say(&json!({"event": "layer", "layer": index, "digest": digest.to_string(), "total": bytes}));
    }

    fn state(&self, index: usize, state: LayerState) {
        let word = match state {
            LayerState::Exists => "exists",
            LayerState::Waiting => "waiting",
            LayerState::Downloading => "downloading",
            LayerState::Extracting => "extracting",
            LayerState::Present => "present",
            LayerState::Uploading => "uploading",
            LayerState::Done => "done",
        };
        if let Some(layer) = lock(&self.layers).get_mut(index).filter(|_| moves(state)) {
            (layer.begun, layer.told) = (None, None);
        }
        self.say(&json!({"event": "state", "layer": index, "state": word}));
    }

    fn retrying(&self, index: usize, reason: &str, after: Duration) {
        self.say(&json!({"event": "retry", "layer": index, "reason": reason, "after": after.as_secs_f64()}));
    }

    fn bytes(&self, index: usize, bytes: u64) {
        let now = Instant::now();
        let mut layers = lock(&self.layers);
        let Some(layer) = layers.get_mut(index) else { return };
        let (begun, before) = *layer.begun.get_or_insert((now, bytes));
        let due = layer.told.is_none_or(|told| now.duration_since(told) >= EVERY) || bytes >= layer.total;
        if !due {
            return;
        }
        layer.told = Some(now);
        let seconds = now.duration_since(begun).as_secs_f64();
        let rate = if seconds > 0.0 { (bytes - before) as f64 / seconds } else { 0.0 };
        let left = (rate > 0.0).then(|| layer.total.saturating_sub(bytes) as f64 / rate);
        self.say(&json!({
            "event": "bytes", "layer": index, "current": bytes, "total": layer.total,
            "rate": rate as u64, "left": left,
        }));
    }
}

/// Whether bytes come or go from now on.
fn moves(state: LayerState) -> bool {
    matches!(state, LayerState::Downloading | LayerState::Uploading)
}

#[cfg(test)]
mod tests {
    use super::super::digest;
    use super::*;

    #[test]
    fn events_are_objects_and_bytes_are_told_now_and_then() {
        let json = Json::new(Vec::new());
        json.resolving("h/app:1");
        json.layer(0, &digest('a'), 1000);
        json.state(0, LayerState::Downloading);
        for bytes in 100..1000 {
            json.bytes(0, bytes);
        }
        json.bytes(0, 1000);
        json.retrying(0, "it \"broke\"", Duration::from_millis(500));
        let text = String::from_utf8(json.to.into_inner().expect("whole")).expect("text");
        let events: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
        assert_eq!(events[1]["total"], 1000);
        assert_eq!(events[3]["current"], 100, "the first bytes are told at once");
        let last = &events[events.len() - 2];
        assert_eq!((&last["current"], &last["left"]), (&json!(1000), &json!(0.0)));
        assert_eq!(events[events.len() - 1]["reason"], "it \"broke\"");
    }
}
