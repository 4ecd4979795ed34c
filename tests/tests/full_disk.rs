//! A disk that fills up: what was asked for fails in one line, nothing half done stays, and the rest goes on.

use std::fs;

use tests::support::disk::Disk;
use tests::{BASE, Node, PROBE};

#[test]
fn a_pull_onto_a_full_disk_leaves_nothing() {
    let node = Node::fresh();
    let disk = Disk::mount(&node.root(), "60m");
    // Debian needs more than twice of that, unpacked.
    let line = node.agent(&["pull", "-q", BASE]).refused(1);
    assert!(line.contains("No space left on device"), "{line}");
    assert_eq!(node.agent(&["images", "-q"]).ok(), "");
    for folder in ["content/blobs/sha256", "images", "tmp", "locks", "layers/l"] {
        let left: Vec<_> = fs::read_dir(node.root().join(folder)).into_iter().flatten().flatten().collect();
        assert!(left.is_empty(), "{folder}: {left:?}");
    }
    // There is room for a small one.
    assert_eq!(node.agent(&["run", "-q", "--rm", PROBE, "out", "well"]).ok(), "well");
    drop(disk);
}

#[test]
fn a_container_that_fills_the_disk_can_be_removed() {
    let node = Node::fresh();
    let disk = Disk::mount(&node.root(), "24m");
    node.pull(PROBE);
    // Its log fills the disk. It goes on without one or ends, and how it ends is told in any case.
    node.detached(&["--name", "floods", PROBE, "flood", "60000000"]);
    let code = node.agent(&["wait", "floods"]).ok();
    assert!(["0", "2", "137", "141"].contains(&code.as_str()), "{code}");
    assert!(node.agent(&["ps", "-a"]).ok().contains(&format!("Exited ({code})")));
    assert_eq!(node.agent(&["rm", "floods"]).ok(), "floods");
    assert_eq!(node.agent(&["run", "--rm", PROBE, "out", "well"]).ok(), "well");
    drop(disk);
}
