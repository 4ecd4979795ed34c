//! The progress of a pull on standard error: bars on a terminal, else a line for each change.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use image::{Digest, LayerState, PullProgress, Silent};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// How a bar looks while bytes come in.
const COMING: &str =
    "{prefix}: {msg:<11} [{bar:30}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}";
/// How it looks before and after.
const STANDING: &str = "{prefix}: {msg}";
/// How often a bar that hears nothing shows that it lives.
const TICK: Duration = Duration::from_millis(200);

/// The progress that suits our standard error; none with `quiet`.
pub(crate) fn for_stderr(quiet: bool) -> Box<dyn PullProgress> {
    match quiet {
        true => Box::new(Silent),
        false if std::io::stderr().is_terminal() => Box::new(Bars::new()),
        false => Box::new(Lines::new(std::io::stderr())),
    }
}

/// The word for a state.
fn word(state: LayerState) -> &'static str {
    match state {
        LayerState::Exists => "already here",
        LayerState::Waiting => "waiting",
        LayerState::Downloading => "downloading",
        LayerState::Extracting => "extracting",
        LayerState::Done => "done",
    }
}

/// What a layer is called: the first twelve digits of its digest.
fn short(digest: &Digest) -> String {
    let mut hex = digest.hex();
    hex.truncate(12);
    hex
}

/// Progress says nothing that another thread's panic could have left half said.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A bar for each layer.
struct Bars {
    screen: MultiProgress,
    bars: Mutex<Vec<ProgressBar>>,
    coming: ProgressStyle,
    standing: ProgressStyle,
}

impl Bars {
    fn new() -> Self {
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
                LayerState::Exists | LayerState::Waiting => bar.set_style(self.standing.clone()),
                LayerState::Downloading | LayerState::Extracting => {
                    bar.set_style(self.coming.clone());
                    bar.enable_steady_tick(TICK);
                }
                LayerState::Done => {
                    bar.set_style(self.standing.clone());
                    bar.disable_steady_tick();
                    bar.finish();
                }
            }
            if state == LayerState::Exists {
                bar.finish();
            }
        });
    }

    fn bytes(&self, index: usize, bytes: u64) {
        self.with(index, |bar| bar.set_position(bytes));
    }
}

/// A line for each change; none before the registry has answered, so that a pull that fails says one thing.
struct Lines<W> {
    to: Mutex<W>,
    asked_for: Mutex<Option<String>>,
    names: Mutex<Vec<String>>,
}

impl<W: Write + Send> Lines<W> {
    fn new(to: W) -> Self {
        Lines { to: Mutex::new(to), asked_for: Mutex::default(), names: Mutex::default() }
    }

    fn say(&self, line: &str) {
        // Who does not read the progress still gets the image.
        drop(writeln!(lock(&self.to), "{line}"));
    }
}

impl<W: Write + Send> PullProgress for Lines<W> {
    fn resolving(&self, reference: &str) {
        *lock(&self.asked_for) = Some(reference.to_owned());
    }

    fn layer(&self, _: usize, digest: &Digest, _: u64) {
        if let Some(reference) = lock(&self.asked_for).take() {
            self.say(&format!("pulling {reference}"));
        }
        lock(&self.names).push(short(digest));
    }

    fn state(&self, index: usize, state: LayerState) {
        if let Some(name) = lock(&self.names).get(index).filter(|_| state != LayerState::Waiting) {
            self.say(&format!("{name}: {}", word(state)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(byte: char) -> Digest {
        format!("sha256:{}", byte.to_string().repeat(64)).parse().expect("a digest")
    }

    #[test]
    fn each_change_is_a_line() {
        let lines = Lines::new(Vec::new());
        lines.resolving("h/app:1");
        assert!(lock(&lines.to).is_empty());
        lines.layer(0, &digest('a'), 10);
        lines.layer(1, &digest('b'), 10);
        lines.state(0, LayerState::Exists);
        lines.state(1, LayerState::Waiting);
        lines.state(1, LayerState::Downloading);
        lines.bytes(1, 5);
        lines.state(1, LayerState::Extracting);
        lines.state(1, LayerState::Done);
        let text = String::from_utf8(lines.to.into_inner().expect("whole")).expect("text");
        let expected = "\
pulling h/app:1
aaaaaaaaaaaa: already here
bbbbbbbbbbbb: downloading
bbbbbbbbbbbb: extracting
bbbbbbbbbbbb: done
";
        assert_eq!(text, expected);
    }

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
