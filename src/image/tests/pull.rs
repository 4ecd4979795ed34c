//! Pulling from a real registry, and what is then in the store. Needs root, docker-registry, skopeo and umoci.

#[path = "pull/bytes.rs"]
mod bytes;
#[path = "pull/faults.rs"]
mod faults;
#[path = "pull/layout.rs"]
mod layout;
#[path = "pull/registry.rs"]
mod registry;
#[path = "pull/removal.rs"]
mod removal;
#[path = "pull/saving.rs"]
mod saving;
#[path = "pull/tree.rs"]
#[allow(dead_code, reason = "the stacks' test asks more")]
mod tree;

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use api::trace::Tracer;
use image::{
    Digest, Image, ImageError, ImageStore, LayerState, PullOptions, PullProgress, Reference, Silent,
};
use tar::EntryType;
use tempfile::TempDir;

use layout::{Layer, Layout, Packing};
use registry::{HOST, Registry, own_network, run};

/// A store of its own, whose configuration knows the registry of the test.
struct Node {
    folder: TempDir,
    store: ImageStore,
}

impl Node {
    fn new() -> Node {
        let folder = tempfile::tempdir().expect("a folder");
        let store =
            ImageStore::open(&folder.path().join("root"), &folder.path().join("etc")).expect("opened");
        let node = Node { folder, store };
        node.configure(&format!("[host.\"{HOST}\"]\nplain-http = true\n"));
        node
    }

    fn configure(&self, text: &str) {
        let folder = self.folder.path().join("etc/registries.d");
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("test.toml"), text).expect("written");
    }

    fn pull(&self, name: &str) -> Result<Image, ImageError> {
        self.pull_with(name, &PullOptions::default(), &Silent)
    }

    fn pull_with(
        &self,
        name: &str,
        options: &PullOptions,
        progress: &dyn PullProgress,
    ) -> Result<Image, ImageError> {
        let reference: Reference = name.parse().expect("a reference");
        let tracer = Tracer::new(&self.rings(), &reference.to_string());
        block_on(self.store.pull(&reference, options, progress, &tracer))
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn rings(&self) -> PathBuf {
        self.folder.path().join("trace")
    }

    /// The names in a folder of the store.
    fn names(&self, folder: &str) -> Vec<String> {
        let path = self.root().join(folder);
        let mut names: Vec<String> = match fs::read_dir(path) {
            Ok(entries) => {
                entries.map(|entry| entry.expect("one").file_name().into_string().expect("text")).collect()
            }
            Err(_) => Vec::new(),
        };
        names.sort();
        names
    }

    /// Nothing is left of any image, nor of the work on it.
    fn assert_empty(&self) {
        assert_eq!(self.names("layers"), ["l"]);
        for folder in ["layers/l", "content/blobs/sha256", "content/ingest", "images", "tmp", "locks"] {
            assert_eq!(self.names(folder), Vec::<String>::new(), "{folder}");
        }
    }
}

/// Runs on this thread, which is the one that has the test's network.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// Keeps what a pull says.
#[derive(Default)]
struct Heard {
    states: Mutex<BTreeMap<usize, Vec<LayerState>>>,
    bytes: Mutex<BTreeMap<usize, (u64, u64)>>,
}

impl PullProgress for Heard {
    fn layer(&self, index: usize, _: &Digest, bytes: u64) {
        self.bytes.lock().expect("unpoisoned").insert(index, (0, bytes));
    }

    fn state(&self, index: usize, state: LayerState) {
        self.states.lock().expect("unpoisoned").entry(index).or_default().push(state);
    }

    fn bytes(&self, index: usize, bytes: u64) {
        self.bytes.lock().expect("unpoisoned").entry(index).or_default().0 = bytes;
    }
}

impl Heard {
    fn downloads(&self) -> usize {
        self.count(LayerState::Downloading)
    }

    /// How many layers were unpacked.
    fn made(&self) -> usize {
        self.count(LayerState::Done)
    }

    fn count(&self, wanted: LayerState) -> usize {
        let states = self.states.lock().expect("unpoisoned");
        states.values().flatten().filter(|state| **state == wanted).count()
    }
}

/// Three layers that use all there is to layers.
fn rich_layers() -> [Vec<u8>; 3] {
    let base = Layer::new()
        .folder("./", 0o755)
        .folder("usr/", 0o750)
        .folder("usr/lib/", 0o755)
        .symlink("lib", "usr/lib")
        .file("usr/lib/libc.so", 0o755, &vec![7; 300_000])
        .folder("etc/", 0o755)
        .file("etc/passwd", 0o644, b"root:x:0:0\n")
        .file("etc/gone", 0o644, b"x")
        .folder("etc/opaque/", 0o700)
        .file("etc/opaque/old", 0o644, b"x")
        .folder("etc/deep/", 0o711)
        .folder("etc/deep/deeper/", 0o711)
        .file("etc/deep/deeper/file", 0o600, b"x")
        .folder("swap-folder/", 0o755)
        .file("swap-folder/x", 0o644, b"x")
        .file("swap-file", 0o644, b"x")
        .folder("tmp/", 0o1777)
        .folder("dev/", 0o755)
        .device(EntryType::Char, "dev/null", 1, 3)
        .device(EntryType::Block, "dev/loop9", 7, 9)
        .device(EntryType::Fifo, "dev/pipe", 0, 0)
        .file("su", 0o4755, b"#!")
        .file("sg", 0o2755, b"#!")
        .hardlink("also-su", "su")
        .hardlink("usr/lib/third-su", "also-su")
        .pax(&[
            ("mtime", b"1400000000.987654321"),
            ("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
            ("SCHILY.xattr.user.note", b"two=2"),
        ])
        .file("ping", 0o755, b"ping")
        .pax(&[("SCHILY.xattr.user.folder", b"yes"), ("mtime", b"1300000000.5")])
        .folder("noted/", 0o755)
        .file(&format!("long/{}/{}", "a".repeat(90), "b".repeat(120)), 0o644, b"long")
        .symlink("dangling", "/no/where")
        .end();
    let middle = Layer::new()
        .whiteout("etc/.wh.gone")
        .whiteout("etc/.wh.never")
        .folder("etc/opaque/", 0o701)
        .file("etc/opaque/new", 0o644, b"new")
        .whiteout("etc/opaque/.wh..wh..opq")
        .whiteout(".wh.swap-folder")
        .file("swap-folder", 0o644, b"a file now")
        .whiteout(".wh.swap-file")
        .folder("swap-file/", 0o755)
        .file("swap-file/inside", 0o644, b"x")
        .file("etc/deep/deeper/added", 0o644, b"added")
        .file("lib/through", 0o644, b"through a link below")
        .file("ping", 0o755, b"pong")
        .end();
    let top = Layer::new()
        .file("usr/local/bin/app", 0o755, b"app")
        .file("etc/passwd", 0o640, b"root:x:0:0\nuser:x:1:1\n")
        .whiteout("etc/deep/deeper/.wh.file")
        .folder("tmp/", 0o1777)
        .folder("gone-again/", 0o755)
        .end();
    [base, middle, top]
}

/// What umoci makes of the image of a layout.
fn umoci(layout: &Path, look: impl FnOnce(&Path)) {
    let bundle = tempfile::tempdir().expect("a folder");
    let image = format!("{}:t", layout.display());
    run(Command::new("umoci").args(["unpack", "--image", &image]).arg(bundle.path().join("b")));
    look(&bundle.path().join("b/rootfs"));
}

#[test]
fn the_pulled_tree_is_what_umoci_unpacks() {
    own_network();
    let registry = Registry::start(false);
    let layers = rich_layers();
    let gzip: Vec<(&[u8], Packing)> = layers.iter().map(|layer| (&layer[..], Packing::Gzip)).collect();
    let layout = Layout::new(&gzip, "rich");
    registry.push(layout.path(), "t", "rich/image:1", &[]);
    let node = Node::new();
    let heard = Heard::default();
    let image =
        node.pull_with(&format!("{HOST}/rich/image:1"), &PullOptions::default(), &heard).expect("pulled");
    assert_eq!(image.id, layout.config_digest());
    assert_eq!(image.chain.len(), 3);
    assert_eq!(heard.downloads(), 3);
    let states = heard.states.lock().expect("unpoisoned");
    assert!(states.values().all(|states| states.last() == Some(&LayerState::Done)), "{states:?}");
    let bytes = heard.bytes.lock().expect("unpoisoned");
    assert!(bytes.values().all(|(came, promised)| came == promised), "{bytes:?}");
    let mut ours = tree::mounted(&node.store, &image, tree::read);
    umoci(layout.path(), |theirs| {
        let mut theirs = tree::read(theirs);
        // Folders nobody describes have the time of their making; and those in which umoci made or deleted
        // something have the time of that.
        let deep = format!("long/{}", "a".repeat(90));
        for path in ["usr/local", "usr/local/bin", "long", &deep, "", "usr"] {
            for tree in [&mut ours, &mut theirs] {
                tree.get_mut(Path::new(path)).expect("there").without_time();
            }
        }
        tree::assert_equal(&ours, &theirs);
    });
    assert_eq!(node.names("tmp"), Vec::<String>::new());
    assert_eq!(node.names("locks"), Vec::<String>::new());
}

#[test]
fn every_packing_and_both_schemas_give_the_same_layers() {
    own_network();
    let registry = Registry::start(false);
    let layers = rich_layers();
    let node = Node::new();
    let mut chains = Vec::new();
    for (name, packing, options) in [
        ("oci-gzip", Packing::Gzip, &[][..]),
        ("oci-zstd", Packing::Zstd, &[]),
        ("oci-plain", Packing::Plain, &["--dest-decompress"]),
        ("docker", Packing::Gzip, &["--format=v2s2"]),
    ] {
        let packed: Vec<(&[u8], Packing)> = layers.iter().map(|layer| (&layer[..], packing)).collect();
        let layout = Layout::new(&packed, name);
        registry.push(layout.path(), "t", name, options);
        let own = Node::new();
        let image = own.pull(&format!("{HOST}/{name}")).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        chains.push(image.chain.clone());
        let heard = Heard::default();
        let again =
            node.pull_with(&format!("{HOST}/{name}"), &PullOptions::default(), &heard).expect("pulled");
        assert_eq!(again.chain, image.chain);
        // The first image brought the layers; of other packings only the bytes are wanted, to be pushed or saved on.
        assert_eq!(heard.downloads(), if name == "docker" { 0 } else { 3 }, "{name}");
        assert_eq!(heard.made(), if chains.len() == 1 { 3 } else { 0 }, "{name}");
        let blob = |digest: &str| node.root().join("content/blobs").join(digest.replace(':', "/"));
        let manifest = fs::read(blob(&again.manifest.to_string())).expect("the manifest");
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
        for layer in manifest["layers"].as_array().expect("layers") {
            assert!(blob(layer["digest"].as_str().expect("a digest")).exists(), "{name}: {layer}");
        }
    }
    chains.dedup();
    assert_eq!(chains.len(), 1, "chain ids are those of the plain archives");
}

#[test]
fn an_index_gives_the_image_of_the_platform() {
    own_network();
    let registry = Registry::start(false);
    let layer = Layer::new().file("x", 0o644, b"x").end();
    let layout = Layout::new(&[(&layer, Packing::Gzip)], "indexed").behind_index();
    registry.push(layout.path(), "t", "indexed", &["--all"]);
    let node = Node::new();
    let name = format!("{HOST}/indexed");
    let image = node.pull(&name).expect("pulled");
    assert_eq!(
        (image.id.as_str(), image.manifest.to_string()),
        (layout.config_digest(), layout.manifest_digest.clone())
    );
    assert_ne!(image.digest, image.manifest, "the name stands for the index");

    let by_digest = node.pull(&format!("{name}@{}", image.digest)).expect("pulled");
    assert_eq!(by_digest.id, image.id);
    let arm =
        PullOptions { platform: Some("linux/arm64".parse().expect("a platform")), ..PullOptions::default() };
    let error = node.pull_with(&name, &arm, &Silent).expect_err("its configuration says amd64").to_string();
    assert!(error.contains("linux/arm64"), "{error}");
    let none =
        PullOptions { platform: Some("linux/s390x".parse().expect("a platform")), ..PullOptions::default() };
    let error = node.pull_with(&name, &none, &Silent).expect_err("not offered").to_string();
    assert!(error.contains("linux/s390x") && error.contains("linux/amd64"), "{error}");
}

#[test]
fn a_second_pull_fetches_nothing_and_a_moved_tag_is_followed() {
    own_network();
    let registry = Registry::start(false);
    let base = Layer::new().file("base", 0o644, b"x").end();
    let (one, two) =
        (Layer::new().file("one", 0o644, b"1").end(), Layer::new().file("two", 0o644, b"2").end());
    let first = Layout::new(&[(&base, Packing::Gzip), (&one, Packing::Gzip)], "1");
    registry.push(first.path(), "t", "app:1", &[]);
    let node = Node::new();
    let name = format!("{HOST}/app:1");
    let image = node.pull(&name).expect("pulled");
    let heard = Heard::default();
    let again = node.pull_with(&name, &PullOptions::default(), &heard).expect("pulled");
    assert_eq!((again.id, heard.downloads()), (image.id.clone(), 0));
    assert!(heard.states.lock().expect("unpoisoned").values().all(|states| *states == [LayerState::Exists]));

    let second = Layout::new(&[(&base, Packing::Gzip), (&two, Packing::Gzip)], "2");
    registry.push(second.path(), "t", "app:1", &[]);
    let heard = Heard::default();
    let moved = node.pull_with(&name, &PullOptions::default(), &heard).expect("pulled");
    assert_eq!((moved.id.as_str(), heard.downloads()), (second.config_digest(), 1));
    // What had the name before stays, without one, for the containers that use it.
    let listed = node.store.list().expect("listed");
    assert_eq!(listed.iter().filter(|image| image.reference.is_none()).count(), 1);
    let old = node.store.resolve(&image.id).expect("readable").expect("still there");
    assert_eq!((old.references.len(), old.reference), (0, None));
    assert!(node.store.layer_dirs(&image).iter().all(|folder| folder.is_dir()));
}

#[test]
fn names_and_ids_are_found_and_nothing_else_is() {
    own_network();
    let registry = Registry::start(false);
    let layer = Layer::new().file("x", 0o644, b"x").end();
    let layout = Layout::new(&[(&layer, Packing::Gzip)], "found");
    registry.push(layout.path(), "t", "found:1", &[]);
    let node = Node::new();
    assert!(node.store.resolve("app").expect("an empty store").is_none());
    let name = format!("{HOST}/found:1");
    let image = node.pull(&name).expect("pulled");
    let hex = image.id.strip_prefix("sha256:").expect("sha256").to_owned();
    let pinned = format!("{HOST}/found@{}", image.digest);
    for text in [&name, &image.id, &hex, &hex[..12], &pinned] {
        let begun = std::time::Instant::now();
        let found = node.store.resolve(text).expect("readable");
        assert_eq!(found.map(|found| found.id).as_ref(), Some(&image.id), "{text}");
        assert!(begun.elapsed().as_millis() < 20, "{text} took {:?}", begun.elapsed());
    }
    for text in [&format!("{HOST}/found:2"), "sha256:0000", "found"] {
        assert!(node.store.resolve(text).expect("readable").is_none(), "{text}");
    }
    assert!(node.store.resolve("Not A Name").expect_err("no name").is_invalid_reference());
    let summary = &node.store.list().expect("listed")[0];
    assert_eq!((summary.reference.as_deref(), summary.layers, summary.size), (Some(&*name), 1, 1));
    assert_eq!((summary.repository(), summary.tag()), (Some(format!("{HOST}/found")), Some("1".into())));
    assert_eq!(summary.created.expect("said").to_string(), "2020-01-02T03:04:05Z");
}

#[test]
fn nobody_else_can_look_into_the_store() {
    own_network();
    let registry = Registry::start(false);
    let layer = Layer::new().folder("./", 0o755).file("su", 0o4755, b"#!").end();
    let layout = Layout::new(&[(&layer, Packing::Gzip)], "private");
    registry.push(layout.path(), "t", "private", &[]);
    let node = Node::new();
    let image = node.pull(&format!("{HOST}/private")).expect("pulled");
    let layer = image.chain[0].hex();
    let mode = |path: &str| fs::metadata(node.root().join(path)).expect(path).permissions().mode() & 0o7777;
    for folder in ["", "content", "content/blobs", "content/blobs/sha256", "layers", "images", "tmp", "locks"]
    {
        assert_eq!(mode(folder), 0o700, "{folder}");
    }
    assert_eq!(mode(&format!("layers/{layer}")), 0o700);
    assert_eq!(mode(&format!("layers/{layer}/fs")), 0o755, "as the image says");
    assert_eq!(mode(&format!("layers/{layer}/fs/su")), 0o4755);
    for blob in node.names("content/blobs/sha256") {
        assert_eq!(mode(&format!("content/blobs/sha256/{blob}")), 0o600, "{blob}");
    }
}

#[test]
fn every_step_of_a_pull_leaves_a_record() {
    own_network();
    let registry = Registry::start(false);
    let layer = Layer::new().file("x", 0o644, b"x").end();
    let layout = Layout::new(&[(&layer, Packing::Gzip)], "traced");
    registry.push(layout.path(), "t", "traced:1", &[]);
    let node = Node::new();
    let name = format!("{HOST}/traced:1");
    node.pull(&name).expect("pulled");
    let records = api::trace::read(&node.rings(), &name).expect("a trace");
    let steps: Vec<&str> = records.iter().map(|record| record.step.as_str()).collect();
    assert_eq!(steps, ["manifest.resolve", "config.fetch", "layer.unpack", "layers.commit", "image.commit"]);
    assert!(records.iter().all(|record| record.part == "image" && record.duration_ns > 0));
    assert_eq!(records[2].facts["layer"], layout.layers[0]);
}

#[test]
fn two_pulls_at_once_share_the_work() {
    own_network();
    let registry = Registry::start(false);
    let big: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let base = Layer::new().file("base", 0o644, &big).end();
    let others: Vec<Vec<u8>> =
        (0..6).map(|at| Layer::new().file(&format!("f{at}"), 0o644, b"x").end()).collect();
    let layers: Vec<(&[u8], Packing)> =
        [&base].into_iter().chain(&others).map(|layer| (&layer[..], Packing::Gzip)).collect();
    let layout = Layout::new(&layers, "shared");
    registry.push(layout.path(), "t", "shared:1", &[]);
    registry.push(layout.path(), "t", "shared:2", &[]);
    let node = Node::new();
    let names: [Reference; 2] = [format!("{HOST}/shared:1"), format!("{HOST}/shared:2")]
        .map(|name| name.parse().expect("a reference"));
    let (options, tracer) = (PullOptions::default(), Tracer::disabled());
    let heard = [Heard::default(), Heard::default()];
    let (first, second) = block_on(async {
        tokio::join!(
            node.store.pull(&names[0], &options, &heard[0], &tracer),
            node.store.pull(&names[1], &options, &heard[1], &tracer)
        )
    });
    let (first, second) = (first.expect("pulled"), second.expect("pulled"));
    assert_eq!(first.chain, second.chain);
    assert_eq!(heard[0].downloads() + heard[1].downloads(), layers.len(), "each layer is fetched once");
    assert_eq!(node.names("layers").len(), layers.len() + 1);
    assert_eq!(node.names("tmp"), Vec::<String>::new());
}

#[test]
fn a_pull_that_is_dropped_leaves_only_what_the_next_one_removes() {
    own_network();
    let registry = Registry::start(false);
    let big: Vec<u8> =
        (0..8_000_000_u32).flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let layer = Layer::new().file("big", 0o644, &big).end();
    let layout = Layout::new(&[(&layer, Packing::Plain)], "dropped");
    registry.push(layout.path(), "t", "dropped", &["--dest-decompress"]);
    let node = Node::new();
    let reference: Reference = format!("{HOST}/dropped").parse().expect("a reference");
    let (options, tracer) = (PullOptions::default(), Tracer::disabled());

    struct Begun(tokio::sync::Notify);
    impl PullProgress for Begun {
        fn bytes(&self, _: usize, _: u64) {
            self.0.notify_one();
        }
    }
    let begun = Begun(tokio::sync::Notify::new());
    block_on(async {
        tokio::select! {
            _ = node.store.pull(&reference, &options, &begun, &tracer) => panic!("it is dropped before its end"),
            () = begun.0.notified() => {}
        }
    });
    assert_eq!(node.names("layers"), ["l"], "nothing half made is visible");
    assert_eq!(node.names("images"), Vec::<String>::new());
    node.pull(&reference.to_string()).expect("pulled");
    assert_eq!(node.names("tmp"), Vec::<String>::new());
}
