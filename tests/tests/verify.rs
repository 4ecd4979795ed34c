//! `agent image verify`: damage on the disk is found, told and repaired; and a pull mends what it comes across.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::json;
use tar::EntryType;
use tests::support::layer::Entry;
use tests::{Image, Layer, Node, PROBE};

/// An image that uses what there is to layers.
fn rich() -> Image {
    let base = Layer::new()
        .file("etc/app/conf", "one")
        .dir("data")
        .file("data/large", vec![b'x'; 300_000])
        .hardlink("data/again", "data/large")
        .file("data/gone", "x")
        .dir("hidden")
        .file("hidden/below", "x")
        .symlink("link", "data/large")
        .entry(&Entry { path: "fifo", kind: EntryType::Fifo, ..Entry::default() })
        .entry(&Entry { path: "su", mode: 0o4755, uid: 7, gid: 8, content: b"#!", ..Entry::default() })
        .entry(&Entry { path: "noted", xattrs: &[("user.note", b"1")], ..Entry::default() });
    // Folders that no archive describes, a link to a file below, and marks of what is gone.
    let top = Layer::new()
        .file("etc/app/deeper/conf", "two")
        .hardlink("etc/other", "data/large")
        .whiteout("data/", "gone")
        .opaque("hidden/")
        .file("hidden/above", "x");
    Image::on("probe").layer(base).layer(top).set("Labels", json!({"rich": "yes"}))
}

/// A file of the topmost layer that has it.
fn in_layer(node: &Node, path: &str) -> PathBuf {
    let layers = fs::read_dir(node.root().join("layers")).expect("it is there").flatten();
    let mut found = layers.map(|layer| layer.path().join("fs").join(path));
    found.find(|path| fs::symlink_metadata(path).is_ok()).unwrap_or_else(|| panic!("no layer has {path}"))
}

fn blob(node: &Node, digest: &str) -> PathBuf {
    node.root().join("content/blobs/sha256").join(digest.trim_start_matches("sha256:"))
}

/// Changes one byte of a file and nothing else that can be seen of it.
fn flip(path: &Path) {
    let before = fs::metadata(path).expect("it is there");
    let mut bytes = fs::read(path).expect("it is there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).expect("root may");
    let time = SystemTime::UNIX_EPOCH + Duration::new(before.mtime() as u64, before.mtime_nsec() as u32);
    File::options().write(true).open(path).and_then(|file| file.set_modified(time)).expect("root may");
}

#[test]
fn whole_images_are_found_whole() {
    let node = Node::new();
    let name = node.push_and_pull("rich", &rich());
    let _ = node.agent(&["run", "--rm", &name, "out", "x"]).ok();
    // Two share the layer of the probe; each has two documents.
    assert_eq!(node.agent(&["image", "verify"]).ok(), "verified 2 images, 7 blobs, 3 layers");
    assert_eq!(node.agent(&["image", "verify", PROBE]).ok(), "verified 1 images, 3 blobs, 1 layers");
    assert_eq!(
        node.agent(&["image", "verify", "--all", "--repair"]).ok(),
        "verified 2 images, 7 blobs, 3 layers"
    );
    assert!(node.agent(&["image", "verify", "registry.test/none"]).refused(1).contains("no such image"));
    node.assert_nothing_left();
}

#[test]
fn damage_is_told_and_repaired() {
    let node = Node::new();
    let layout = node.dir().join("rich");
    let written = rich().write(&layout);
    node.registry().push(&node.netns, &layout, "rich");
    let name = "registry.test/rich:latest";
    node.pull(name);
    let config = node.inspect(name)["Id"].as_str().expect("it has one").to_owned();
    let top = in_layer(&node, "etc/other").ancestors().nth(3).expect("layers/CHAIN/fs/etc").to_owned();
    let chain = top.file_name().expect("it has a name").to_string_lossy().into_owned();
    let whole = "verified 1 images, 5 blobs, 3 layers";
    let harm = |what: &str, words: &[&str], act: &dyn Fn()| {
        assert_eq!(node.agent(&["image", "verify", name]).ok(), whole, "before {what}");
        act();
        let found = node.agent(&["image", "verify", name]);
        assert_eq!((found.code, found.stderr.as_str()), (1, ""), "{what}: {found:?}");
        let lines: Vec<&str> = found.stdout.lines().filter(|line| line.starts_with("damaged: ")).collect();
        assert!(!lines.is_empty() && lines.iter().all(|line| line.contains(name)), "{what}: {found:?}");
        for word in words {
            assert!(lines.iter().any(|line| line.contains(word)), "{what}: no {word}: {found:?}");
        }
        let repaired = node.agent(&["image", "verify", "--repair", name]);
        assert_eq!(repaired.code, 0, "{what}: {repaired:?}");
        assert_eq!(repaired.stdout.matches("repaired: ").count(), lines.len(), "{what}: {repaired:?}");
        assert_eq!(node.agent(&["image", "verify", name]).ok(), whole, "after {what}");
        assert_eq!(
            node.agent(&["run", "--rm", "--pull", "never", name, "out", "x"]).ok(),
            "x",
            "after {what}"
        );
    };
    let layer = written.layers[1].as_str();
    harm("a bit of a blob", &[layer, "has digest", "cannot be judged"], &|| flip(&blob(&node, layer)));
    harm("no blob", &[layer, "missing"], &|| fs::remove_file(blob(&node, layer)).expect("it is there"));
    harm("no configuration", &[&config, "missing"], &|| {
        fs::remove_file(blob(&node, &config)).expect("it is there")
    });
    harm("a bit of a manifest", &[&written.manifest], &|| flip(&blob(&node, &written.manifest)));
    harm("a bit of a file", &["/data/again: its content"], &|| flip(&in_layer(&node, "data/large")));
    harm("other permissions", &["/su: its permissions are 0755, not 4755"], &|| {
        fs::set_permissions(in_layer(&node, "su"), fs::Permissions::from_mode(0o755)).expect("root may");
    });
    harm("no file", &["/hidden/above: it is missing"], &|| {
        fs::remove_file(in_layer(&node, "hidden/above")).expect("it is there");
    });
    harm("one file more", &["/fifo2: it is there"], &|| {
        fs::write(in_layer(&node, "fifo").with_file_name("fifo2"), "").expect("root may");
    });
    harm("other facts", &["what is recorded of it is not true"], &|| {
        let path = top.join("layer.json");
        let text = fs::read_to_string(&path).expect("it is there").replace("\"entries\":", "\"entries\":1");
        fs::write(path, text).expect("root may");
    });
    harm("a link to elsewhere", &["leads to"], &|| {
        let link = node.root().join("layers/l").join(&chain[..24]);
        fs::remove_file(&link).expect("it is there");
        symlink("/etc", link).expect("root may");
    });
    harm("no layer", &[chain.as_str(), "it is missing"], &|| fs::remove_dir_all(&top).expect("it is there"));
    harm("neither layer nor blob", &[chain.as_str(), layer], &|| {
        fs::remove_dir_all(&top).expect("it is there");
        fs::remove_file(blob(&node, layer)).expect("it is there");
    });
    harm("a torn record", &["record of"], &|| {
        fs::write(node.root().join("images/registry.test%2frich%3alatest"), "{\"refe").expect("root may");
    });
    node.assert_nothing_left();
}

#[test]
fn a_repair_brings_what_was_there_and_nothing_else() {
    let mut node = Node::new();
    let name = node.push_and_pull("rich", &rich());
    let before = node.inspect(&name);
    let config = before["Id"].as_str().expect("it has one").to_owned();
    // Meanwhile the name stands for something else at its registry.
    node.push("rich", &Image::on("probe"));
    fs::remove_file(blob(&node, &config)).expect("it is there");
    let repaired = node.agent(&["image", "verify", "--repair"]);
    assert_eq!(repaired.code, 0, "{repaired:?}");
    assert_eq!(node.inspect(&name), before);

    node.stop_registry();
    // What is unpacked can be unpacked again without anybody.
    fs::remove_file(in_layer(&node, "hidden/above")).expect("it is there");
    assert_eq!(node.agent(&["image", "verify", "--repair"]).code, 0);
    fs::remove_file(blob(&node, &config)).expect("it is there");
    let failed = node.agent(&["image", "verify", "--repair"]);
    assert_eq!(failed.code, 1, "{failed:?}");
    let line =
        failed.stdout.lines().find(|line| line.starts_with("still damaged: blob")).expect("it says so");
    assert!(line.contains(&config) && line.contains("127.0.0.1"), "{line}");
}

#[test]
fn layers_that_are_mounted_are_left() {
    let node = Node::new();
    node.detached(&["--name", "runs", PROBE, "wait"]);
    node.log_with("runs", "ready");
    fs::write(in_layer(&node, "probe").with_file_name("more"), "x").expect("root may");
    let left = node.agent(&["image", "verify", "--repair"]);
    assert_eq!(left.code, 1, "{left:?}");
    assert!(
        left.stdout.contains("still damaged: layer") && left.stdout.contains("container runs"),
        "{left:?}"
    );
    assert_eq!(node.agent(&["exec", "runs", "/probe", "exit", "6"]).code, 6);
    let _ = node.agent(&["kill", "runs"]).ok();
    // Its mounts are gone when its monitor is.
    tests::within(Duration::from_secs(20), "the repair", || {
        (node.agent(&["image", "verify", "--repair"]).code == 0).then_some(())
    });
    assert_eq!(node.agent(&["image", "verify"]).code, 0);
}

#[test]
fn a_pull_mends_what_is_missing() {
    let node = Node::new();
    let layout = node.dir().join("rich");
    let written = rich().write(&layout);
    node.registry().push(&node.netns, &layout, "rich");
    let name = "registry.test/rich:latest";
    node.pull(name);
    for act in [
        &(|| fs::remove_file(blob(&node, &written.layers[0])).expect("it is there")) as &dyn Fn(),
        &|| fs::remove_file(blob(&node, &written.manifest)).expect("it is there"),
        &|| {
            let layer =
                in_layer(&node, "etc/other").ancestors().nth(3).expect("layers/CHAIN/fs/etc").to_owned();
            fs::remove_dir_all(layer).expect("it is there");
        },
        &|| fs::write(node.root().join("images/registry.test%2frich%3alatest"), "").expect("root may"),
    ] {
        act();
        assert_eq!(node.agent(&["image", "verify", name]).code, 1);
        node.pull(name);
        assert_eq!(node.agent(&["image", "verify", name]).ok(), "verified 1 images, 5 blobs, 3 layers");
    }
}
