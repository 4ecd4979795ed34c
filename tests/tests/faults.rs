//! Layers on bad lines: cut, stalled, corrupted, refused for a while. What came is not fetched again, and nothing wrong
//! ever becomes an image.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use tests::support::faults::Seen;
use tests::support::random::Random;
use tests::support::wait::within;
use tests::{Fault, Faults, Image, Layer, Node, Registry};

const MIB: u64 = 1 << 20;

/// A machine, its registry, and the faults before that; the registry holds `app` of layers that do not compress.
struct Line {
    faults: Faults,
    _registry: Registry,
    node: Node,
    /// The layers' digests.
    layers: Vec<String>,
    name: String,
}

impl Line {
    /// One image of so many layers of so many bytes.
    fn new(layers: usize, bytes: u64) -> Self {
        let node = Node::offline();
        let mut random = Random::seeded();
        let image = (0..layers).fold(Image::new(), |image, at| {
            let content = random.bytes(usize::try_from(bytes).expect("it fits"));
            image.layer(Layer::new().file(&format!("file-{at}"), content))
        });
        let layout = node.dir().join("layout");
        let layers = image.write(&layout).layers;
        let registry = Registry::start(&node.netns, node.dir());
        registry.push(&node.netns, &layout, "app");
        let faults = Faults::start(&node.netns, registry.port());
        let name = format!("{}/app:latest", faults.host());
        let line = Line { faults, node, _registry: registry, layers, name };
        line.configure("");
        line
    }

    /// More lines for the configuration of the registry.
    fn configure(&self, more: &str) {
        self.node.configure(&format!("[host.\"{}\"]\nplain-http = true\n{more}\n", self.faults.host()));
    }

    /// The path of a layer's blob.
    fn blob(&self, at: usize) -> String {
        format!("/blobs/{}", self.layers[at])
    }

    /// Asserts that the image is here, as it was pushed.
    #[track_caller]
    fn assert_pulled(&self) {
        let images = self.node.agent(&["images", "-q"]).ok();
        assert_eq!(images.lines().count(), 1, "{images}");
        let layers = &self.node.inspect(&self.name)["RootFS"]["Layers"];
        assert_eq!(layers.as_array().map(Vec::len), Some(self.layers.len()), "{layers}");
    }

    /// Waits until nearly all of so many bytes of a blob are kept.
    fn wait_until_kept(&self, bytes: u64) {
        within(Duration::from_secs(20), "a pull to keep what it was sent", || {
            (!self.kept(bytes - bytes / 20).is_empty()).then_some(())
        });
    }

    /// The files of at least so many bytes in the store that are content as it came.
    fn kept(&self, least: u64) -> Vec<PathBuf> {
        large_files(&self.node.root().join("content"), least)
    }
}

/// Bytes of a blob that were sent in all.
fn sent(seen: &[Seen]) -> u64 {
    seen.iter().map(|seen| seen.sent).sum()
}

#[track_caller]
fn assert_little_twice(seen: &[Seen], size: u64) {
    let sent = sent(seen);
    assert!(sent >= size && sent < size + size / 10, "{sent} bytes of {size}: {seen:#?}");
}

/// Files of some size below a folder.
fn large_files(folder: &Path, least: u64) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(facts) = entry.metadata() else { continue };
        if facts.is_dir() {
            found.extend(large_files(&entry.path(), least));
        } else if facts.is_file() && facts.len() >= least {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn a_connection_that_is_cut_is_taken_up_where_it_broke_off() {
    let line = Line::new(2, 4 * MIB);
    line.faults.on(line.blob(0), 3, Fault::Cut(MIB));
    line.node.pull(&line.name);
    line.assert_pulled();
    let seen = line.faults.take_seen(&line.blob(0));
    assert_little_twice(&seen, 4 * MIB);
    assert_eq!(seen.len(), 4, "{seen:#?}");
    assert_eq!(seen[0].range, None);
    assert!(seen[1..].iter().all(|seen| seen.range.is_some() && seen.status == 206), "{seen:#?}");
}

#[test]
fn a_pull_goes_on_where_a_killed_one_ended() {
    let line = Line::new(1, 6 * MIB);
    line.faults.on(line.blob(0), 1, Fault::Stall(4 * MIB));
    let pull = line.node.start(&["pull", "-q", &line.name]);
    line.faults.wait_for_stall();
    line.wait_until_kept(4 * MIB);
    pull.signal(Signal::SIGKILL);
    pull.finish();
    assert_eq!(line.node.agent(&["images", "-q"]).ok(), "");
    line.node.pull(&line.name);
    line.assert_pulled();
    let seen = line.faults.take_seen(&line.blob(0));
    assert_little_twice(&seen, 6 * MIB);
    assert!(seen.len() == 2 && seen[1].range.is_some(), "{seen:#?}");
}

#[test]
fn two_who_want_the_same_layer_fetch_it_once() {
    let line = Line::new(2, 2 * MIB);
    for at in 0..2 {
        // Slow enough that the other one comes meanwhile.
        line.faults.on(line.blob(at), 1, Fault::Drip(64 << 10, Duration::from_millis(50)));
    }
    let pulls = [(); 2].map(|()| line.node.start(&["pull", "-q", &line.name]));
    for pull in pulls {
        assert_eq!(pull.finish().ok(), line.name);
    }
    line.assert_pulled();
    let seen = line.faults.take_seen("/blobs/");
    for layer in &line.layers {
        let of_layer: Vec<Seen> = seen.iter().filter(|seen| seen.target.contains(layer)).cloned().collect();
        assert_eq!(of_layer.len(), 1, "{of_layer:#?}");
    }
}

#[test]
fn one_who_waits_for_a_layer_goes_on_with_it_when_the_other_is_killed() {
    let line = Line::new(1, 6 * MIB);
    line.faults.on(line.blob(0), 1, Fault::Stall(4 * MIB));
    let first = line.node.start(&["pull", "-q", &line.name]);
    line.faults.wait_for_stall();
    let second = line.node.start(&["pull", "-q", &line.name]);
    line.wait_until_kept(4 * MIB);
    first.signal(Signal::SIGKILL);
    first.finish();
    assert_eq!(second.finish().ok(), line.name);
    line.assert_pulled();
    let seen = line.faults.take_seen(&line.blob(0));
    assert_little_twice(&seen, 6 * MIB);
    assert!(seen.iter().skip(1).all(|seen| seen.range.is_some()), "{seen:#?}");
}

#[test]
fn a_server_that_is_busy_or_broken_for_a_moment_is_asked_again() {
    let line = Line::new(1, MIB);
    line.faults.on("/manifests/", 1, Fault::Answer(503, Vec::new()));
    line.faults.on(line.blob(0), 1, Fault::Answer(429, vec![("retry-after", "1".into())]));
    line.faults.on(line.blob(0), 1, Fault::Answer(429, Vec::new()));
    line.faults.on(line.blob(0), 1, Fault::Answer(500, Vec::new()));
    line.node.pull(&line.name);
    line.assert_pulled();
    let seen = line.faults.take_seen("");
    let statuses = |part: &str| -> Vec<u16> {
        let of_part = seen.iter().filter(|seen| seen.target.contains(part));
        of_part.map(|seen| seen.status).collect()
    };
    assert_eq!(statuses(&line.blob(0)), [429, 429, 500, 200]);
    assert_eq!(statuses("/manifests/")[..2], [503, 200]);
}

#[test]
fn patience_ends_as_configured() {
    let line = Line::new(1, MIB);
    for (retries, expected) in [(0, 1), (2, 3)] {
        line.configure(&format!("retries = {retries}"));
        line.faults.on(line.blob(0), usize::MAX, Fault::Answer(503, Vec::new()));
        let said = line.node.agent(&["pull", "-q", &line.name]).refused(1);
        assert!(said.contains("503"), "{said}");
        let seen = line.faults.take_seen(&line.blob(0));
        assert_eq!(seen.len(), expected, "{seen:#?}");
        line.faults.behave();
    }
    // What will not pass is not asked for again.
    line.configure("");
    line.faults.on(line.blob(0), usize::MAX, Fault::Answer(404, Vec::new()));
    line.node.agent(&["pull", "-q", &line.name]).refused(1);
    assert_eq!(line.faults.take_seen(&line.blob(0)).len(), 1);
}

#[test]
fn a_stall_is_noticed_and_the_rest_asked_for_again() {
    let line = Line::new(1, 4 * MIB);
    line.configure("stall-seconds = 1");
    line.faults.on(line.blob(0), 2, Fault::Stall(MIB));
    line.node.pull(&line.name);
    line.assert_pulled();
    let seen = line.faults.take_seen(&line.blob(0));
    assert_little_twice(&seen, 4 * MIB);
    assert_eq!(seen.len(), 3, "{seen:#?}");

    let line = Line::new(1, MIB);
    line.configure("stall-seconds = 1\nretries = 1");
    line.faults.on(line.blob(0), usize::MAX, Fault::Stall(0));
    let said = line.node.agent(&["pull", "-q", &line.name]).refused(1);
    assert!(said.contains("stall") || said.contains("in time"), "{said}");
    // One that is slow and never silent is waited for.
    line.configure("stall-seconds = 3");
    line.faults.behave();
    line.faults.on(line.blob(0), 1, Fault::Drip(128 << 10, Duration::from_millis(500)));
    line.faults.take_seen("");
    line.node.pull(&line.name);
    assert_eq!(line.faults.take_seen(&line.blob(0)).len(), 1);
}

#[test]
fn no_more_layers_are_fetched_at_once_than_the_registry_allows() {
    for (limit, expected) in [("max-parallel = 1", 1), ("max-parallel = 2", 2)] {
        let line = Line::new(5, 128 << 10);
        line.configure(limit);
        line.faults.on("/blobs/", usize::MAX, Fault::Drip(32 << 10, Duration::from_millis(50)));
        line.node.pull(&line.name);
        assert_eq!(line.faults.most_blobs(), expected);
    }
}

#[test]
fn what_is_corrupted_on_its_way_is_refused_and_nothing_of_it_stays() {
    let line = Line::new(2, 2 * MIB);
    for (what, fault) in [("in the middle", Fault::Corrupt(MIB)), ("at the end", Fault::Corrupt(2 * MIB))] {
        line.faults.on(line.blob(1), usize::MAX, fault);
        let said = line.node.agent(&["pull", "-q", &line.name]).refused(1);
        assert!(said.contains(&line.layers[1]) || said.contains(&line.layers[1][7..19]), "{what}: {said}");
        assert_eq!(line.node.agent(&["images", "-q"]).ok(), "", "{what}");
        let whole = line.node.root().join("content/blobs/sha256").join(&line.layers[1][7..]);
        assert!(!whole.exists(), "{what}");
        line.faults.behave();
    }
    // What is short is whole with the rest of it.
    line.faults.on(line.blob(1), usize::MAX, Fault::Shorten(MIB));
    line.node.pull(&line.name);
    line.assert_pulled();
}

#[test]
fn a_part_that_has_rotted_is_not_kept_for_ever() {
    let line = Line::new(1, 6 * MIB);
    line.faults.on(line.blob(0), 1, Fault::Stall(4 * MIB));
    let pull = line.node.start(&["pull", "-q", &line.name]);
    line.faults.wait_for_stall();
    line.wait_until_kept(4 * MIB);
    pull.signal(Signal::SIGKILL);
    pull.finish();
    let parts = line.kept(3 * MIB);
    assert!(!parts.is_empty(), "something is kept of a killed pull");
    for part in parts {
        let mut bytes = fs::read(&part).expect("it was just found");
        bytes[2 << 20] ^= 0x10;
        fs::write(&part, bytes).expect("ours to spoil");
    }
    let first = line.node.agent(&["pull", "-q", &line.name]);
    if first.code != 0 {
        // It may say so, once.
        first.refused(1);
        line.node.pull(&line.name);
    }
    line.assert_pulled();
}

#[test]
fn parts_that_were_not_asked_for_do_no_harm() {
    let line = Line::new(1, 4 * MIB);
    line.faults.on(line.blob(0), 1, Fault::Cut(MIB));
    line.faults.on(line.blob(0), 1, Fault::IgnoreRange);
    line.node.pull(&line.name);
    line.assert_pulled();
    let seen = line.faults.take_seen(&line.blob(0));
    assert_eq!(seen.len(), 2, "{seen:#?}");
    assert_eq!(line.node.agent(&["rmi", &line.name]).code, 0);

    line.faults.on(line.blob(0), 1, Fault::Cut(MIB));
    line.faults.on(line.blob(0), 1, Fault::WrongRange);
    line.node.pull(&line.name);
    line.assert_pulled();
}
