//! The store under many hands at once, and closed to all others.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use tests::support::extent;
use tests::support::layer::Entry;
use tests::support::random::Random;
use tests::{Image, Layer, Node, PROBE};

/// What may be said of an image that another has just removed, or that a container uses.
const FINE: [&str; 4] = ["no such image", "in use by container", "is not pinned", "has several names"];

#[test]
fn many_hands_leave_only_whole_images_and_nothing_else() {
    let node = Node::new();
    let mut random = Random::seeded();
    // They share layers, and are called alike.
    let shared = Layer::new().file("shared", random.bytes(200_000));
    let names: Vec<String> = ["one", "two", "three"]
        .into_iter()
        .map(|name| {
            let own = Layer::new().file("own", random.bytes(50_000)).file(name, name);
            node.push(name, &Image::on("probe").layer(shared.clone()).layer(own))
        })
        .collect();
    let rounds = extent::count(8, 60);
    let seeds: Vec<u64> = (0..4).map(|_| random.number()).collect();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let hands: Vec<_> = seeds
            .iter()
            .map(|seed| {
                let (node, names) = (&node, &names);
                scope.spawn(move || {
                    let mut random = Random::new(*seed);
                    for _ in 0..rounds {
                        hand(node, names, &mut random);
                    }
                })
            })
            .collect();
        let over = &over;
        let (node, names) = (&node, &names);
        // Meanwhile whatever is listed can be run, or has just gone.
        let watch = scope.spawn(move || {
            let mut runs = 0;
            while !over.load(Ordering::SeqCst) {
                for name in names {
                    let output = node.agent(&["run", "--rm", "--pull", "never", name, "out", "x"]);
                    match output.code {
                        0 => runs += 1,
                        _ => assert!(
                            output.stderr.contains("no such image") || output.stderr.contains("no image"),
                            "{output:?}"
                        ),
                    }
                }
                let verified = node.agent(&["image", "verify"]);
                assert_eq!(verified.code, 0, "{verified:?}");
            }
            runs
        });
        let hands: Vec<_> = hands.into_iter().map(|hand| hand.join()).collect();
        over.store(true, Ordering::SeqCst);
        let watched = watch.join();
        for hand in hands {
            hand.expect("no hand fails");
        }
        eprintln!(
            "{} runs of images that others pulled and removed",
            watched.expect("whatever is listed is whole")
        );
    });
    let whole = node.agent(&["image", "verify"]);
    assert_eq!(whole.code, 0, "{whole:?}");
    for id in node.agent(&["images", "-q"]).ok().lines().collect::<BTreeSet<_>>() {
        let _ = node.agent(&["rmi", "-f", id]).ok();
    }
    for folder in [
        "content/blobs/sha256",
        "content/ingest",
        "layers/l",
        "images",
        "tmp",
        "locks",
        "marks/used",
        "marks/pinned",
    ] {
        let left: Vec<_> = fs::read_dir(node.root().join(folder)).into_iter().flatten().flatten().collect();
        assert!(left.is_empty(), "{folder}: {left:?}");
    }
    node.assert_nothing_left();
}

/// One thing that somebody does.
fn hand(node: &Node, names: &[String], random: &mut Random) {
    let mut pick =
        |from: &[&str]| from[usize::try_from(random.below(from.len() as u64)).expect("small")].to_owned();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let (name, other) = (pick(&all), pick(&["a:1", "b:1", all[0]]));
    let verb = pick(&["pull", "pull", "tag", "tag", "rmi", "rmi", "prune", "gc", "pin", "unpin"]);
    let words: Vec<&str> = match verb.as_str() {
        "pull" => vec!["pull", "-q", &name],
        "tag" => vec!["tag", &name, &other],
        "rmi" => vec!["rmi", "-f", &other, &name],
        "prune" => vec!["image", "prune", "-f"],
        "gc" => vec!["image", "gc", "--high", "0", "--low", "0", "--min-age", "0s"],
        verb => vec!["image", verb, &other],
    };
    if random.below(4) == 0 {
        // Whoever is killed half way leaves nothing that the next does not mend.
        let running = node.start(&words);
        thread::sleep(random.time(Duration::from_millis(60)));
        running.signal(Signal::SIGKILL);
        let output = running.finish();
        assert!(!output.stderr.contains("panicked"), "{output:?}");
        return;
    }
    let output = node.agent(&words);
    let complaints = output.stderr.lines();
    // There is no disk that this could empty enough.
    let fine = |line: &str| {
        FINE.iter().any(|fine| line.contains(fine)) || (verb == "gc" && line.contains("the disk"))
    };
    assert!(output.code == 0 || complaints.clone().all(fine), "{words:?}: {output:?}");
}

#[test]
fn an_image_is_not_removed_from_under_a_container_that_is_being_made() {
    let node = Node::new();
    for _ in 0..extent::count(10, 100) {
        let (run, removal) = thread::scope(|scope| {
            let run = scope
                .spawn(|| node.agent(&["run", "-d", "--name", "made", "--pull", "never", PROBE, "wait"]));
            let removal = scope.spawn(|| node.agent(&["rmi", PROBE]));
            (run.join().expect("it does not panic"), removal.join().expect("it does not panic"))
        });
        match (run.code, removal.code) {
            (0, 1) => assert!(removal.stderr.contains("in use by container"), "{removal:?}"),
            (125, 0) => {
                assert!(run.stderr.contains("no such image") || run.stderr.contains("no image"), "{run:?}")
            }
            _ => panic!("{run:?} {removal:?}"),
        }
        if run.code == 0 {
            assert_eq!(node.agent(&["exec", "made", "/probe", "exit", "6"]).code, 6);
            let _ = node.agent(&["rm", "-f", "made"]).ok();
        } else {
            node.pull(PROBE);
        }
    }
}

/// Runs a command as nobody, who is in no group.
fn as_nobody(program: &str, path: &Path) -> bool {
    let mut command = Command::new(program);
    command.arg(path).uid(65534).gid(65534).env_clear().current_dir("/");
    command.output().is_ok_and(|output| output.status.success())
}

#[test]
fn nobody_else_gets_at_what_is_kept() {
    let node = Node::fresh();
    let image = Image::on("probe").layer(Layer::new().entry(&Entry {
        path: "su",
        mode: 0o4755,
        content: b"#!/bin/true\n",
        ..Entry::default()
    }));
    let name = node.push_and_pull("setuid", &image);
    let _ = node.agent(&["image", "pin", &name]).ok();
    let _ = node.agent(&["tag", &name, "other"]).ok();
    node.detached(&["--name", "made", &name, "exit", "0"]);
    // As it is in /var/lib, where all may pass.
    fs::set_permissions(node.dir(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    assert!(as_nobody("ls", node.dir()));
    let layers = fs::read_dir(node.root().join("layers")).expect("root may").flatten();
    let mut setuid = layers.map(|layer| layer.path().join("fs/su"));
    let setuid = setuid.find(|path| path.exists()).expect("a layer has it");
    assert_eq!(fs::metadata(&setuid).expect("root may").mode() & 0o7777, 0o4755);
    for program in ["ls", "stat", "cat"] {
        assert!(!as_nobody(program, &setuid), "{program}");
    }
    assert!(!as_nobody("ls", &node.root()));

    // Even if somebody opens the root: all in it is closed but what belongs to images and containers.
    let mut ours = Vec::new();
    walk(&node.root(), &mut ours);
    assert!(ours.len() > 20, "{ours:?}");
    for path in ours {
        let metadata = fs::symlink_metadata(&path).expect("root may");
        let mode = metadata.mode() & 0o7777;
        let expected = if metadata.is_dir() { 0o700 } else { 0o600 };
        assert!(metadata.is_symlink() || mode == expected, "{}: {mode:o}", path.display());
    }
}

/// Everything the store made itself.
fn walk(folder: &Path, into: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).expect("root may").flatten() {
        let path = entry.path();
        // Files of images, and bundles, which tests of containers look into.
        if path.ends_with("fs") || path.ends_with("containers") || path.ends_with("names") {
            continue;
        }
        if entry.file_type().expect("it is there").is_dir() {
            walk(&path, into);
        }
        into.push(path);
    }
}

#[test]
fn what_an_image_says_of_itself_steers_nothing() {
    // Keys by which other engines are, or were, told what to do (CVE-2026-53488).
    let keys = [
        "io.cri-containerd.pinned",
        "io.cri-containerd.image",
        "containerd.io/gc.root",
        "io.containerd.image.pinned",
        "org.criu.checkpoint.path",
        "run.oci.hooks.stdout",
        "run.oci.keep_original_groups",
        "io.kubernetes.cri.container-type",
        "agent.pinned",
        "pinned",
        "com.docker.compose.project",
    ];
    let node = Node::fresh();
    let labels: serde_json::Map<_, _> = keys.iter().map(|key| ((*key).to_owned(), json!("pinned"))).collect();
    let image = keys.iter().fold(Image::on("probe"), |image, key| image.annotate(key, "pinned"));
    let name = node.push_and_pull("telling", &image.set("Labels", json!(labels)));
    let id = node.detached(&["--name", "made", &name, "wait"]);
    let config =
        fs::read_to_string(node.root().join("containers").join(&id).join("config.json")).expect("root may");
    for key in keys {
        assert!(!config.contains(key), "{config}");
    }
    let _ = node.agent(&["rm", "-f", "made"]).ok();
    let told = node.agent(&["image", "gc", "--dry-run", "--high", "0", "--low", "0", "--min-age", "0s"]).ok();
    let row = told.lines().find(|line| line.starts_with(&name)).expect("it is listed");
    assert!(row.ends_with("goes"), "{told}");
}
