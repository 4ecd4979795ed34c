//! The trace: one record per step that a part of the system took for a subject.
//!
//! A subject is anything with an identity: a container id, an image reference. Each subject has a small
//! ring of its own, a file of JSON lines that is cut to its newer half when it grows past
//! [`RING_BYTES`]. Writing never fails the step it describes: a trace that cannot be written is lost.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Past this many bytes a ring is cut to its newer half.
pub const RING_BYTES: u64 = 128 * 1024;

/// One step of one part, for one subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When the step began.
    pub time: Timestamp,
    /// How long it took, in nanoseconds.
    pub duration_ns: u64,
    /// Whom it was for: a container id, a pod's uid, an image reference.
    pub subject: String,
    /// The part of the system that took it: `image`, `runtime`, `shim`, `network`.
    pub part: String,
    /// What was done, as `object.verb`: `layer.unpack`, `rootfs.mount`.
    pub step: String,
    /// What was found or made: names, counts, kernel facts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, String>,
}

/// Appends the records of one subject to its ring. Cheap to clone; safe to use from many threads and
/// processes, because each record is one `write` to a file opened for appending.
#[derive(Debug, Clone)]
pub struct Tracer {
    ring: Option<PathBuf>,
    subject: String,
}

impl Tracer {
    /// A tracer whose ring lies in the folder `rings`, which is made (0700) when it is missing.
    pub fn new(rings: &Path, subject: &str) -> Self {
        Tracer { ring: Some(ring_path(rings, subject)), subject: subject.to_owned() }
    }

    /// A tracer that keeps nothing.
    pub fn disabled() -> Self {
        Tracer { ring: None, subject: String::new() }
    }

    /// Begins a step; it is recorded when the returned [`Step`] is finished or dropped.
    pub fn step(&self, part: &'static str, step: &str) -> Step<'_> {
        Step {
            tracer: self,
            part,
            step: step.to_owned(),
            time: SystemTime::now(),
            begun: Instant::now(),
            facts: BTreeMap::new(),
        }
    }

    /// Records a step that another process took and reported.
    pub fn record(
        &self,
        part: &str,
        step: &str,
        time: SystemTime,
        duration: Duration,
        facts: BTreeMap<String, String>,
    ) {
        let Some(ring) = &self.ring else { return };
        let record = Record {
            time: Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH),
            duration_ns: u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX),
            subject: self.subject.clone(),
            part: part.to_owned(),
            step: step.to_owned(),
            facts,
        };
        // A trace describes work; it must never be the reason that the work fails.
        drop(append(ring, &record));
    }
}

/// A step under way.
#[derive(Debug)]
pub struct Step<'a> {
    tracer: &'a Tracer,
    part: &'static str,
    step: String,
    time: SystemTime,
    begun: Instant,
    facts: BTreeMap<String, String>,
}

impl Step<'_> {
    /// Adds a fact to the record.
    pub fn fact(&mut self, name: &str, value: impl ToString) -> &mut Self {
        self.facts.insert(name.to_owned(), value.to_string());
        self
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        let facts = std::mem::take(&mut self.facts);
        self.tracer.record(self.part, &self.step, self.time, self.begun.elapsed(), facts);
    }
}

/// The records of a subject, oldest first; none when it has no ring. A torn last line is left out.
pub fn read(rings: &Path, subject: &str) -> io::Result<Vec<Record>> {
    let text = match fs::read_to_string(ring_path(rings, subject)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// Removes a subject's ring; it is no error when there is none.
pub fn remove(rings: &Path, subject: &str) -> io::Result<()> {
    match fs::remove_file(ring_path(rings, subject)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A subject's file: its name with whatever is not a plain file name character written as `%XX`.
fn ring_path(rings: &Path, subject: &str) -> PathBuf {
    let mut name = String::with_capacity(subject.len() + 6);
    for byte in subject.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => name.push(byte as char),
            other => name.push_str(&format!("%{other:02x}")),
        }
    }
    name.truncate(200);
    name.push_str(".jsonl");
    rings.join(name)
}

fn append(ring: &Path, record: &Record) -> io::Result<()> {
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    let mut file = match open_append(ring) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let rings = ring.parent().unwrap_or(Path::new("."));
            fs::DirBuilder::new().recursive(true).mode(0o700).create(rings)?;
            open_append(ring)?
        }
        other => other?,
    };
    file.write_all(&line)?;
    if file.metadata()?.len() > RING_BYTES {
        cut(ring)?;
    }
    Ok(())
}

fn open_append(ring: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(ring)
}

/// Replaces a ring by its newer half.
fn cut(ring: &Path) -> io::Result<()> {
    let text = fs::read(ring)?;
    let half = text.len() / 2;
    let start = text[half..].iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| half + at + 1);
    let shorter = ring.with_extension(format!("{}.tmp", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&shorter)?;
    file.write_all(&text[start..])?;
    fs::rename(&shorter, ring)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rings(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("trace-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&folder));
        folder
    }

    #[test]
    fn a_finished_step_is_read_back_with_its_facts() {
        let rings = rings("step");
        let tracer = Tracer::new(&rings, "registry.io:5000/a/b:1");
        tracer.step("image", "layer.unpack").fact("bytes", 12).fact("layer", "sha256:0");
        let records = read(&rings, "registry.io:5000/a/b:1").expect("the ring was written");
        assert_eq!(records.len(), 1);
        assert_eq!((records[0].part.as_str(), records[0].step.as_str()), ("image", "layer.unpack"));
        assert_eq!(records[0].facts["bytes"], "12");
        remove(&rings, "registry.io:5000/a/b:1").expect("removable");
        assert!(read(&rings, "registry.io:5000/a/b:1").expect("readable").is_empty());
        fs::remove_dir_all(rings).expect("removable");
    }

    #[test]
    fn a_ring_stays_bounded_and_keeps_the_newest() {
        let rings = rings("ring");
        let tracer = Tracer::new(&rings, "x");
        for at in 0..4000 {
            tracer.step("image", "noise").fact("at", at);
        }
        let records = read(&rings, "x").expect("the ring was written");
        assert!(fs::metadata(ring_path(&rings, "x")).expect("a file").len() <= RING_BYTES);
        assert_eq!(records.last().expect("some").facts["at"], "3999");
        fs::remove_dir_all(rings).expect("removable");
    }
}
