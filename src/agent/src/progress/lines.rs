//! A line for each change.

use std::io::Write;
use std::sync::Mutex;
use std::time::Duration;

use image::{Digest, LayerState, PullProgress};

use super::{lock, short, word};

/// A line for each change; none before the registry has answered, so that a pull that fails says one thing.
pub(super) struct Lines<W> {
    to: Mutex<W>,
    asked_for: Mutex<Option<String>>,
    names: Mutex<Vec<String>>,
}

impl<W: Write + Send> Lines<W> {
    pub(super) fn new(to: W) -> Self {
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

    fn retrying(&self, index: usize, reason: &str, after: Duration) {
        if let Some(name) = lock(&self.names).get(index) {
            self.say(&format!("{name}: {reason}; trying again in {:.1} s", after.as_secs_f32()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::digest;
    use super::*;

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
}
