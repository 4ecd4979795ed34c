//! The progress of a pull on standard error: bars on a terminal, else a line for each change, or JSON on request.

mod bars;
mod json;
mod lines;

use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};

use clap::ValueEnum;
use image::{Digest, LayerState, PullProgress, Silent};

use self::bars::Bars;
use self::json::Json;
use self::lines::Lines;

/// How progress is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressStyle {
    /// Bars on a terminal, lines elsewhere
    #[default]
    Auto,
    /// A line for each change
    Plain,
    /// One JSON object a line
    Json,
    /// Nothing
    None,
}

/// The progress that suits our standard error.
pub(crate) fn for_stderr(style: ProgressStyle) -> Box<dyn PullProgress> {
    match style {
        ProgressStyle::None => Box::new(Silent),
        ProgressStyle::Json => Box::new(Json::new(std::io::stderr())),
        ProgressStyle::Auto if std::io::stderr().is_terminal() => Box::new(Bars::new()),
        ProgressStyle::Auto | ProgressStyle::Plain => Box::new(Lines::new(std::io::stderr())),
    }
}

/// The word for a state.
fn word(state: LayerState) -> &'static str {
    match state {
        LayerState::Exists => "already here",
        LayerState::Waiting => "waiting",
        LayerState::Downloading => "downloading",
        LayerState::Extracting => "extracting",
        LayerState::Present => "already there",
        LayerState::Uploading => "uploading",
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

#[cfg(test)]
fn digest(byte: char) -> Digest {
    format!("sha256:{}", byte.to_string().repeat(64)).parse().expect("a digest")
}
