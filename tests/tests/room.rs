//! Room on the disk: `agent image prune`, `gc`, `pin` and `system df`.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tests::support::disk::Disk;
use tests::support::node::json;
use tests::support::random::Random;
use tests::support::terminal::Terminal;
use tests::{Image, Layer, Node, PROBE};

/// An image with so many bytes of its own that do not compress.
fn large(random: &mut Random, name: &str, bytes: usize) -> Image {
    Image::on("probe").layer(Layer::new().file(name, random.bytes(bytes)))
}

fn names(node: &Node) -> Vec<String> {
    let text = node.agent(&["images", "--format", "{{.Repository}}"]).ok();
    let mut names: Vec<String> =
        text.lines().map(|name| name.trim_start_matches("registry.test/").to_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_prune_takes_what_nobody_uses() {
    let node = Node::new();
    let mut random = Random::seeded();
    let used = node.push_and_pull("used", &large(&mut random, "a", 1000));
    let unused =
        node.push_and_pull("unused", &large(&mut random, "b", 1000).set("Labels", json!({"keep": "yes"})));
    node.push_and_pull("moved", &large(&mut random, "c", 5_000_000));
    node.push_and_pull("moved", &large(&mut random, "d", 1000));
    node.detached(&["--name", "ended", &used, "exit", "0"]);

    let line = node.agent(&["image", "prune"]).refused(1);
    assert!(line.contains("--force"), "{line}");
    let mut terminal = Terminal::start(node.command().args(["image", "prune"]), 24, 80);
    terminal.wait_for("[y/N]");
    terminal.write("n\n");
    assert_eq!(terminal.finish().0, 0);
    assert_eq!(names(&node), ["<none>", "moved", "probe", "unused", "used"]);
    let mut terminal = Terminal::start(node.command().args(["image", "prune"]), 24, 80);
    terminal.wait_for("[y/N]");
    terminal.write("y\n");
    terminal.wait_for("Total reclaimed space: 10.");
    assert_eq!(terminal.finish().0, 0);
    assert_eq!(names(&node), ["moved", "probe", "unused", "used"]);
    let again = node.agent(&["image", "prune", "-f"]).ok();
    assert_eq!(again, "Total reclaimed space: 0B");

    let none = node
        .agent(&["image", "prune", "-af", "--filter", "until=2000-01-01", "--filter", "label!=keep"])
        .ok();
    assert!(none.contains("untagged: registry.test/probe:latest") && none.lines().count() == 6, "{none}");
    assert_eq!(names(&node), ["moved", "unused", "used"]);
    let _ = node.agent(&["image", "pin", &unused]).ok();
    let _ = node.agent(&["image", "prune", "--all", "--force"]).ok();
    assert_eq!(names(&node), ["unused", "used"]);
    assert_eq!(node.agent(&["image", "unpin", &unused]).ok(), unused);
    let _ = node.agent(&["rm", "ended"]).ok();
    let _ = node.agent(&["image", "prune", "-a", "-f"]).ok();
    assert_eq!(names(&node), Vec::<String>::new());
    let left = fs::read_dir(node.root().join("marks/used")).expect("it is there").count();
    assert_eq!(
        (left, fs::read_dir(node.root().join("content/blobs/sha256")).expect("it is there").count()),
        (0, 0)
    );
}

#[test]
fn a_pin_outlives_a_new_image_under_its_name() {
    let node = Node::new();
    assert_eq!(node.agent(&["image", "pin", PROBE]).ok(), PROBE);
    node.push("probe", &Image::on("probe").set("Env", json!(["PATH=/", "A=b"])));
    node.pull(PROBE);
    let _ = node.agent(&["image", "prune", "-af"]).ok();
    assert_eq!(names(&node), ["probe"]);
    assert!(node.agent(&["image", "pin", "registry.test/none"]).refused(1).contains("no such image"));
    assert_eq!(node.agent(&["image", "unpin", PROBE]).ok(), PROBE);
    assert!(node.agent(&["image", "unpin", PROBE]).refused(1).contains("not pinned"));
    // It goes with its name.
    let _ = node.agent(&["image", "pin", PROBE]).ok();
    let _ = node.agent(&["rmi", PROBE]).ok();
    node.pull(PROBE);
    let _ = node.agent(&["image", "prune", "-af"]).ok();
    assert_eq!(names(&node), Vec::<String>::new());
}

/// The files below a folder, their bytes.
fn bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.metadata().expect("it is there").len()).sum()
}

#[test]
fn room_is_counted_once() {
    let node = Node::new();
    let mut random = Random::seeded();
    let df = |kind: &str| -> Value {
        let lines = node.agent(&["system", "df", "--format", "json"]).ok();
        lines.lines().map(json).find(|line| line["Type"] == kind).expect("each kind has a line")
    };
    let one = node.push_and_pull("one", &large(&mut random, "a", 3_000_000));
    node.push_and_pull("two", &large(&mut random, "b", 3_000_000));
    // Blobs are files; of layers what their records say, which `run` and `umoci` agree on elsewhere.
    let layers: u64 = fs::read_dir(node.root().join("layers"))
        .expect("it is there")
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path().join("layer.json")).ok())
        .map(|text| json(&text)["size"].as_u64().expect("a number"))
        .sum();
    let whole = layers + bytes(&node.root().join("content/blobs/sha256"));
    let shown = |bytes: u64| format!("{:.1}MB", bytes as f64 / 1e6).replace(".0MB", "MB");
    let images = df("Images");
    assert_eq!((&images["TotalCount"], &images["Active"]), (&json!("3"), &json!("0")));
    assert_eq!(
        (&images["Size"], &images["Reclaimable"]),
        (&json!(shown(whole)), &json!(format!("{} (100%)", shown(whole))))
    );

    node.detached(&["--name", "cc", "-v", "data:/data", &one, "wait"]);
    let images = df("Images");
    assert_eq!((&images["Active"], &images["Size"]), (&json!("1"), &json!(shown(whole))));
    let reclaimable = images["Reclaimable"].as_str().expect("text");
    assert!(reclaimable.starts_with("6."), "what only `two` has, unpacked and as it came: {reclaimable}");
    fs::write(node.root().join("volumes/data/data/file"), vec![0; 70_000]).expect("root may");
    let volumes = df("Local Volumes");
    assert_eq!(
        (&volumes["Active"], &volumes["Size"], &volumes["Reclaimable"]),
        (&json!("1"), &json!("70kB"), &json!("0B (0%)"))
    );
    assert_eq!(df("Containers")["Active"], json!("1"));
    assert!(df("Containers")["Reclaimable"].as_str().is_some_and(|text| text.starts_with("0B")));

    let verbose = node.agent(&["system", "df", "-v"]).ok();
    for heading in [
        "Images space usage:",
        "SHARED SIZE",
        "Containers space usage:",
        "Local Volumes space usage:",
        "LINKS",
    ] {
        assert!(verbose.contains(heading), "{verbose}");
    }
    let row = verbose.lines().find(|line| line.starts_with("registry.test/two")).expect("it is listed");
    assert!(row.contains(" 6.") && row.ends_with(" 0"), "{row}");
    let _ = node.agent(&["rm", "-f", "cc"]).ok();
    assert_eq!(df("Containers")["Size"], json!("0B"));
    assert_eq!(df("Local Volumes")["Reclaimable"], json!("70kB (100%)"));
}

#[test]
fn partial_downloads_are_counted_and_pruned() {
    let node = Node::new();
    let (root, name) = (node.root(), "ab".repeat(32));
    let partial = root.join("content/ingest").join(&name);
    fs::write(&partial, vec![0; 5000]).expect("root may");
    let df = || {
        let lines = node
            .agent(&["system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}} {{.Reclaimable}}"])
            .ok();
        lines
            .lines()
            .find_map(|line| line.strip_prefix("Partial Downloads ").map(str::to_owned))
            .expect("it is told")
    };
    // Somebody fetches it.
    let lock = fs::File::create(root.join(format!("locks/blob-{name}"))).expect("root may");
    lock.lock().expect("nobody else does");
    assert_eq!(df(), "1 1 0B (0%)");
    assert_eq!(node.agent(&["image", "prune", "-f"]).ok(), "Total reclaimed space: 0B");
    drop(lock);
    assert_eq!(df(), "1 0 5kB (100%)");
    assert_eq!(node.agent(&["image", "prune", "-f"]).ok(), "Total reclaimed space: 5kB");
    assert_eq!((df().as_str(), partial.exists()), ("0 0 0B", false));
}

#[test]
fn an_image_was_last_used_when_its_last_container_went() {
    let node = Node::new();
    node.detached(&["--name", "cc", PROBE, "exit", "0"]);
    let id = node.agent(&["images", "-q", "--no-trunc"]).ok();
    let mark = node.root().join("marks/used").join(id.trim_start_matches("sha256:"));
    let long_ago = std::time::SystemTime::UNIX_EPOCH;
    let used = || fs::metadata(&mark).and_then(|found| found.modified()).expect("it is noted");
    let forget = || fs::File::open(&mark).and_then(|file| file.set_modified(long_ago)).expect("root may");
    assert_ne!(used(), long_ago);
    forget();
    let _ = node.agent(&["rm", "-f", "cc"]).ok();
    assert_ne!(used(), long_ago);
    forget();
    assert_eq!(node.agent(&["run", "--rm", PROBE, "out", "x"]).ok(), "x");
    assert_ne!(used(), long_ago);
}

#[test]
fn a_full_disk_is_freed_of_what_was_used_least_recently() {
    let node = Node::fresh();
    let mut random = Random::seeded();
    let disk = Disk::mount(&node.root(), "100m");
    // Each takes twice its bytes: as they came, and unpacked.
    let [first, pinned, used, last] = ["first", "pinned", "used", "last"]
        .map(|name| node.push_and_pull(name, &large(&mut random, name, 10_000_000)));
    let _ = node.agent(&["image", "pin", &pinned]).ok();
    node.detached(&["--name", "cc", &used, "wait"]);
    // It came first, and was used since.
    assert_eq!(node.agent(&["run", "--rm", &first, "out", "x"]).ok(), "x");
    let gc = |words: &[&str]| node.agent(&[&["image", "gc", "--min-age", "0s"], words].concat());

    let idle = gc(&["--dry-run", "--high", "100", "--low", "95"]).ok();
    assert!(idle.contains("nothing would be removed") && !idle.contains("goes"), "{idle}");
    let young =
        node.agent(&["image", "gc", "--dry-run", "--high", "50", "--low", "40", "--min-age", "1h"]).ok();
    assert_eq!(young.matches("stays: younger than About an hour").count(), 2, "{young}");
    let told = gc(&["--dry-run", "--high", "75", "--low", "70"]).ok();
    let rows: Vec<&str> = told.lines().collect();
    assert!(rows[0].starts_with("IMAGE ") && rows.len() == 6, "{told}");
    assert!(rows[1].starts_with(&last) && rows[1].contains(" 20.") && rows[1].ends_with("goes"), "{told}");
    assert!(rows[2].starts_with(&first) && rows[2].ends_with("stays: not needed"), "{told}");
    let row = |name: &str| rows.iter().find(|row| row.starts_with(name)).expect("it is listed");
    assert!(
        row(&pinned).ends_with("stays: pinned") && row(&used).ends_with("stays: in use by container cc"),
        "{told}"
    );
    assert_eq!(names(&node).len(), 4, "nothing happened");

    let done = gc(&["--high", "75", "--low", "70"]).ok();
    assert!(done.starts_with(&format!("removed {last} (20.")), "{done}");
    assert_eq!(names(&node), ["first", "pinned", "used"]);
    // Labels of an image say nothing here, and what cannot be freed is told.
    let short = gc(&["--high", "10", "--low", "5"]);
    assert_eq!(short.code, 1, "{short:?}");
    assert!(short.stdout.starts_with(&format!("removed {first}")), "{short:?}");
    assert!(short.stderr.contains("in use, pinned or too young"), "{short:?}");
    assert_eq!(names(&node), ["pinned", "used"]);
    let line = gc(&["--high", "10", "--low", "50"]).refused(1);
    assert!(line.contains("--low"), "{line}");
    let _ = node.agent(&["rm", "-f", "cc"]).ok();
    drop(disk);
}
