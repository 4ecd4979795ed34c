//! A bar for each layer, with its rate and the time that is left.

use std::sync::Mutex;
use std::time::Duration;

use image::{Digest, LayerState, PullProgress};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{lock, short, word};

/// How a bar looks while bytes come in.
const COMING: &str =
    "{prefix}: {msg:<11} [{bar:30}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";
/// How it looks before and after.
const STANDING: &str = "{prefix}: {msg}";
/// How often a bar that hears nothing shows that it lives.
const TICK: Duration = Duration::from_millis(200);

/// A bar for each layer.
pub(super) struct Bars {
    screen: MultiProgress,
    bars: Mutex<Vec<ProgressBar>>,
    coming: ProgressStyle,
    standing: ProgressStyle,
}

impl Bars {
    pub(super) fn new() -> Self {
        let style = |template| {
            ProgressStyle::with_template(template).expect("the template is a constant, and tested")
        };
        Bars {
            screen: MultiProgress::new(),
            bars: Mutex::new(Vec::new()),
            coming: style(COMING).progress_chars("=> "),
            standing: style(STANDING),
        }
    }

    fn with(&self, index: usize, act: impl FnOnce(&ProgressBar)) {
        if let Some(bar) = lock(&self.bars).get(index) {
            act(bar);
        }
    }
}

impl PullProgress for Bars {
    fn resolving(&self, reference: &str) {
        // A terminal that cannot be written to shows no progress.
        drop(self.screen.println(format!("pulling {reference}")));
    }

    fn layer(&self, index: usize, digest: &Digest, bytes: u64) {
        let mut bars = lock(&self.bars);
        debug_assert_eq!(index, bars.len(), "layers are told bottom first, each once");
        let bar = self.screen.add(ProgressBar::new(bytes));
        bar.set_style(self.standing.clone());
        bar.set_prefix(short(digest));
        bars.push(bar);
    }

    fn state(&self, index: usize, state: LayerState) {
        self.with(index, |bar| {
            bar.set_message(word(state));
            match state {
                LayerState::Exists | LayerState::Present | LayerState::Waiting => {
                    bar.set_style(self.standing.clone());
                }
                LayerState::Downloading | LayerState::Uploading => {
                    bar.set_style(self.coming.clone());
                    bar.enable_steady_tick(TICK);
                    // What was here before did not come at any rate.
                    bar.reset_eta();
                }
                LayerState::Extracting => bar.set_style(self.coming.clone()),
                LayerState::Done => {
                    bar.set_style(self.standing.clone());
                    bar.disable_steady_tick();
                    bar.finish();
                }
            }
            if matches!(state, LayerState::Exists | LayerState::Present) {
                bar.finish();
            }
        });
    }

    fn retrying(&self, index: usize, reason: &str, after: Duration) {
        self.with(index, |bar| {
            bar.set_style(self.standing.clone());
            bar.set_message(format!("{reason}; trying again in {:.1} s", after.as_secs_f32()));
        });
    }

    fn bytes(&self, index: usize, bytes: u64) {
        self.with(index, |bar| bar.set_position(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::super::digest;
    use super::*;

    #[test]
    fn bars_follow_their_layers() {
        let bars = Bars::new();
        bars.screen.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        bars.layer(0, &digest('a'), 10);
        bars.state(0, LayerState::Downloading);
        bars.bytes(0, 7);
        bars.state(9, LayerState::Done);
        let bar = lock(&bars.bars)[0].clone();
        assert_eq!((bar.position(), bar.length(), bar.message().as_str()), (7, Some(10), "downloading"));
        bars.state(0, LayerState::Done);
        assert!(bar.is_finished());
    }
}
