//! Archives that lie, break off or are too much, killed loads and saves, full disks: one line, and nothing half done.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::json;
use tests::support::disk::Disk;
use tests::support::extent;
use tests::support::layer::{Entry, digest};
use tests::support::program::{LIMIT, Output, run};
use tests::support::random::Random;
use tests::{Image, Layer, Node};

/// Names in a folder of the store.
fn names(node: &Node, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(node.root().join(folder)).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Nothing is left of any image, nor of the work on it.
#[track_caller]
fn assert_empty(node: &Node, told: &str) {
    for folder in ["content/blobs/sha256", "content/ingest", "images", "tmp", "locks", "layers/l"] {
        assert_eq!(names(node, folder), Vec::<String>::new(), "{told}: {folder}");
    }
    assert!(names(node, "layers").iter().all(|name| name == "l"), "{told}");
}

/// An archive of files, in the folder of the test.
fn archive(node: &Node, name: &str, files: &[(&str, Vec<u8>)]) -> String {
    let archive = files.iter().fold(Layer::new(), |archive, (path, content)| archive.file(path, content));
    let path = node.dir().join(name).to_string_lossy().into_owned();
    fs::write(&path, archive.archive()).expect("the folder is ours");
    path
}

/// A configuration over these layers.
fn config(diff_ids: &[String]) -> Vec<u8> {
    json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/x"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string()
    .into_bytes()
}

fn list(images: &[(&str, &str, &str)]) -> Vec<u8> {
    let images = images.iter().map(|(name, config, layer)| {
        json!({"RepoTags": [format!("registry.test/{name}")], "Config": config, "Layers": [layer]})
    });
    json!(images.collect::<Vec<_>>()).to_string().into_bytes()
}

#[test]
fn archives_that_lie_leave_nothing() {
    let node = Node::offline();
    let good = Layer::new().file("x", "x");
    let refused = |told: &str, files: &[(&str, Vec<u8>)], word: &str| {
        let file = archive(&node, "lie.tar", files);
        let line = node.agent(&["load", "-q", "-i", &file]).refused(1);
        assert!(line.contains(word), "{told}: {line}");
        assert_empty(&node, told);
    };
    let honest = config(&[good.diff_id()]);
    let listed = || list(&[("a:1", "c.json", "l")]);
    let one = |layer: Vec<u8>, config: &[u8]| {
        vec![("manifest.json", listed()), ("c.json", config.to_vec()), ("l", layer)]
    };
    refused("a missing layer", &one(good.archive(), &honest)[..2], "its l is missing");
    refused("a missing configuration", &[("manifest.json", listed())], "its c.json is missing");
    let other = config(&[digest(b"other")]);
    refused("a layer of another diffID", &one(good.archive(), &other), "was promised");
    refused("a compressed layer of another diffID", &one(good.compressed(), &other), "was promised");
    let mut cut = good.compressed();
    cut.truncate(cut.len() - 4);
    refused("a layer that is cut", &one(cut, &honest), "failed to decompress");
    let no_tar = vec![b'x'; 2048];
    refused("a layer that is no archive", &one(no_tar.clone(), &config(&[digest(&no_tar)])), "damaged");
    let blob = format!("blobs/sha256/{}", &digest(b"x")[7..]);
    refused("a blob of another digest", &[(&blob, b"y".to_vec())], "was promised");
    let escape = Layer::new().entry(&Entry { path: "../x", content: b"x", ..Entry::default() });
    let path = node.dir().join("escape.tar");
    fs::write(&path, escape.archive()).expect("the folder is ours");
    let line = node.agent(&["load", "-i", &path.to_string_lossy()]).refused(1);
    assert!(line.contains("leads out"), "{line}");
    assert_empty(&node, "a name that leads out");

    // One that breaks off is noticed.
    let whole = archive(&node, "whole.tar", &one(good.archive(), &honest));
    let line = shell(&node, &format!("head -c 1500 {whole} | $AGENT load")).refused(1);
    assert!(line.contains("ends within"), "{line}");
    assert_empty(&node, "one that breaks off");
    // The same, honest.
    assert_eq!(node.agent(&["load", "-q", "-i", &whole]).ok(), "Loaded image: registry.test/a:1");
}

#[test]
fn images_before_a_bad_one_stay() {
    let node = Node::offline();
    let (good, bad) = (Layer::new().file("x", "x"), Layer::new().file("x", "y"));
    let file = archive(
        &node,
        "two.tar",
        &[
            ("manifest.json", list(&[("good:1", "g.json", "g"), ("bad:1", "b.json", "b")])),
            ("g.json", config(&[good.diff_id()])),
            ("g", good.compressed()),
            ("b.json", config(&[digest(b"something else")])),
            ("b", bad.compressed()),
        ],
    );
    let output = node.agent(&["load", "-q", "-i", &file]);
    assert_eq!((output.code, output.stdout.as_str()), (1, "Loaded image: registry.test/good:1\n"));
    assert!(output.stderr.contains("was promised") && output.stderr.lines().count() == 1, "{output:?}");
    assert_eq!(node.agent(&["images"]).ok().lines().count(), 2);
    // A layer, a configuration and a manifest.
    assert_eq!(names(&node, "content/blobs/sha256").len(), 3);
    assert_eq!((names(&node, "tmp").len(), names(&node, "locks").len()), (0, 0));
}

#[test]
fn archives_need_not_fit_into_memory() {
    let node = Node::offline();
    let zeros = Layer::new().file("zeros", vec![0; 200 << 20]);
    let packed = zeros.compressed();
    let file = archive(
        &node,
        "big.tar",
        &[
            ("manifest.json", list(&[("packed:1", "c.json", "packed"), ("plain:1", "c.json", "plain")])),
            ("c.json", config(&[zeros.diff_id()])),
            ("packed", packed),
            ("plain", zeros.archive()),
        ],
    );
    // Kilobytes of anonymous memory, the stacks of all threads among it.
    let limit = "ulimit -d 65536";
    let line = format!("{limit}; gzip -1 < {file} | $AGENT load -q");
    assert_eq!(shell(&node, &line).ok().lines().count(), 2);
    for format in ["both", "docker-archive"] {
        let save = format!("$AGENT save --format {format} --compress zstd");
        let line = format!("{limit}; {save} registry.test/packed:1 registry.test/plain:1 > {file}");
        assert_eq!(shell(&node, &line).ok(), "");
    }
}

/// What a line of shell says, in which `$AGENT` is this node's.
fn shell(node: &Node, line: &str) -> Output {
    let mut script = Command::new("bash");
    node.environment(&mut script);
    script.env("AGENT", node.command().get_program());
    run(script.args(["-o", "pipefail", "-c", line]), b"", LIMIT)
}

#[test]
fn full_disks_leave_nothing() {
    let node = Node::offline();
    let mut random = Random::seeded();
    let layer = Layer::new().file("noise", random.bytes(8 << 20));
    let file = archive(
        &node,
        "noise.tar",
        &[
            ("manifest.json", list(&[("noise:1", "c.json", "l")])),
            ("c.json", config(&[layer.diff_id()])),
            ("l", layer.archive()),
        ],
    );
    // Too small for the blob, and for the unpacked layer beside it.
    for size in ["4m", "12m"] {
        let disk = Disk::mount(&node.root(), size);
        for words in [&["load", "-q", "-i", &file][..], &["import", &file]] {
            if words[0] == "import" && size == "12m" {
                continue;
            }
            let line = node.agent(words).refused(1);
            assert!(line.contains("No space left on device"), "{size}: {line}");
            assert_empty(&node, &format!("{words:?} on {size}"));
        }
        drop(disk);
    }
    let _ = node.agent(&["load", "-q", "-i", &file]).ok();
    let folder = node.dir().join("small");
    let disk = Disk::mount(&folder, "4m");
    let target = folder.join("x.tar").to_string_lossy().into_owned();
    for words in [&["-o", &target][..], &["-o", &target, "--format", "oci-dir"]] {
        let line = node.agent(&[&["save", "registry.test/noise:1"], words].concat()).refused(1);
        assert!(line.contains("No space left on device"), "{line}");
        assert_eq!(fs::read_dir(&folder).expect("it is there").count(), 0);
    }
    drop(disk);
}

#[test]
fn load_and_save_survive_kill_9() {
    let node = Node::new();
    let mut random = Random::seeded();
    let mut image = Image::on("probe");
    for at in 0..4 {
        image = image.layer(Layer::new().file(&format!("file{at}"), random.bytes(2 << 20)));
    }
    let name = node.push_and_pull("big", &image);
    let folder = node.dir().join("saved");
    fs::create_dir(&folder).expect("the folder is ours");
    let file = folder.join("big.tar").to_string_lossy().into_owned();
    let save = ["save", "-o", &file, &name];
    let start = Instant::now();
    let _ = node.agent(&save).ok();
    let whole = start.elapsed();
    let expected = fs::read(&file).expect("it was saved");
    for round in 0..extent::count(10, 50) {
        if round % 2 == 0 {
            fs::remove_file(&file).expect("it is there");
        }
        let save = node.start(&save);
        thread::sleep(random.time(whole));
        save.signal(Signal::SIGKILL);
        save.finish();
        // Complete or as before, and nothing beside it but for a moment's name, which the next one takes.
        if let Ok(found) = fs::read(&file) {
            assert!(found == expected, "round {round}");
        }
        let _ = node.agent(&["save", "-o", &file, &name]).ok();
        assert_eq!(names(&node, "tmp"), Vec::<String>::new(), "round {round}");
    }
    assert!(fs::read(&file).expect("it was saved") == expected);

    let machine = Node::offline();
    let load = ["load", "-q", "-i", &file];
    let start = Instant::now();
    let _ = machine.agent(&load).ok();
    let whole = start.elapsed();
    for round in 0..extent::count(15, 100) {
        fs::remove_dir_all(machine.root()).expect("nothing uses it");
        let loading = machine.start(&load);
        thread::sleep(random.time(whole));
        loading.signal(Signal::SIGKILL);
        loading.finish();
        let run = ["run", "--rm", "--pull", "never", &name, "exit", "5"];
        if !machine.agent(&["images", "-q"]).ok().is_empty() {
            assert_eq!(machine.agent(&run).code, 5, "round {round}");
        }
        assert_eq!(machine.agent(&load).ok(), format!("Loaded image: {name}"), "round {round}");
        assert_eq!(machine.agent(&run).code, 5, "round {round}");
        assert_eq!(names(&machine, "tmp"), Vec::<String>::new(), "round {round}");
        // Five layers, their blobs, a configuration and a manifest; nothing of what was killed.
        assert_eq!((names(&machine, "layers").len(), names(&machine, "content/blobs/sha256").len()), (6, 7));
    }
}
