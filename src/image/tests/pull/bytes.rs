//! Where a layer's bytes come from: what is here, whole or in part, is not fetched, and not trusted.

use super::*;

/// A layer that does not compress, behind a registry, and the image's name.
fn image(registry: &Registry, name: &str) -> (Layout, String) {
    let data: Vec<u8> =
        (0..400_000_u32).flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let layer = Layer::new().file("x", 0o644, &data).end();
    let layout = Layout::new(&[(&layer, Packing::Gzip)], name);
    registry.push(layout.path(), "t", name, &[]);
    (layout, format!("{HOST}/{name}"))
}

fn hex(digest: &str) -> &str {
    digest.strip_prefix("sha256:").expect("sha256")
}

/// Puts what came of a layer into the store, as a killed pull leaves it.
fn leave(node: &Node, layout: &Layout, bytes: &[u8]) {
    let folder = node.root().join("content/ingest");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join(hex(&layout.layers[0])), bytes).expect("written");
}

#[test]
fn what_came_before_is_not_fetched_again() {
    own_network();
    let registry = Registry::start(false);
    let (layout, name) = image(&registry, "cut");
    let path = registry.blob(&layout.layers[0]);
    let good = fs::read(&path).expect("the blob");
    let half = good.len() / 2;
    let node = Node::new();
    leave(&node, &layout, &good[..half]);
    // Whoever asks for the first half, too, gets it wrong.
    fs::write(&path, [&vec![0; half], &good[half..]].concat()).expect("tampered");
    let heard = Heard::default();
    node.pull_with(&name, &PullOptions::default(), &heard).expect("pulled");
    assert_eq!(node.names("content/ingest"), Vec::<String>::new());
    let stored = node.root().join("content/blobs/sha256").join(hex(&layout.layers[0]));
    assert!(fs::read(stored).expect("the blob") == good);
}

#[test]
fn what_came_wrong_is_fetched_again() {
    own_network();
    let registry = Registry::start(false);
    let (layout, name) = image(&registry, "wrong");
    let good = fs::read(registry.blob(&layout.layers[0])).expect("the blob");
    for bytes in [&vec![7; good.len() / 2], &vec![7; good.len()], &[&good[..], b"more"].concat()] {
        let node = Node::new();
        leave(&node, &layout, bytes);
        node.pull(&name).expect("pulled");
        assert_eq!(node.names("content/ingest"), Vec::<String>::new());
    }
}

#[test]
fn a_blob_that_is_here_needs_no_registry_and_one_that_is_damaged_is_mended() {
    own_network();
    let registry = Registry::start(false);
    let (layout, name) = image(&registry, "here");
    let served = registry.blob(&layout.layers[0]);
    let node = Node::new();
    let image = node.pull(&name).expect("pulled");
    let (layer, blob) = (
        node.root().join("layers").join(image.chain[0].hex()),
        node.root().join("content/blobs/sha256").join(hex(&layout.layers[0])),
    );

    fs::remove_dir_all(&layer).expect("removed");
    let good = fs::read(&served).expect("the blob");
    fs::remove_file(&served).expect("removed");
    node.pull(&name).expect("its blob is here");
    assert!(layer.join("fs/x").exists());

    fs::write(&served, &good).expect("mended");
    fs::remove_dir_all(&layer).expect("removed");
    fs::write(&blob, &good[1..]).expect("damaged");
    node.pull(&name).expect("fetched again");
    assert!(fs::read(&blob).expect("the blob") == good && layer.join("fs/x").exists());

    fs::remove_file(&blob).expect("removed");
    node.pull(&name).expect("fetched again");
    assert!(fs::read(&blob).expect("the blob") == good);
}

#[test]
fn an_image_that_lies_about_a_blob_takes_it_from_no_other() {
    own_network();
    let registry = Registry::start(false);
    let (layout, name) = image(&registry, "honest");
    let liar = Layout::lying(&layout, &Digest::of(b"another layer").to_string());
    registry.push(liar.path(), "t", "liar", &["--preserve-digests"]);
    let node = Node::new();
    node.pull(&name).expect("pulled");
    // Nor can it be had again.
    fs::remove_file(registry.blob(&layout.layers[0])).expect("removed");
    let error = node.pull(&format!("{HOST}/liar")).expect_err("a wrong diffID");
    assert!(error.is_refused(), "{error}");
    assert!(node.root().join("content/blobs/sha256").join(hex(&layout.layers[0])).exists());
    node.pull(&name).expect("whole");
}

#[test]
fn all_platforms_are_kept_on_request_and_go_with_the_image() {
    own_network();
    let registry = Registry::start(false);
    let layer = Layer::new().file("x", 0o644, b"x").end();
    let layout = Layout::new(&[(&layer, Packing::Gzip)], "all").behind_index();
    registry.push(layout.path(), "t", "all", &["--all"]);
    let node = Node::new();
    let name = format!("{HOST}/all");
    let one = node.pull(&name).expect("pulled");
    // Index, manifest, configuration, layer.
    assert_eq!(node.names("content/blobs/sha256").len(), 4);
    let options = PullOptions { all_platforms: true, ..PullOptions::default() };
    let all = node.pull_with(&name, &options, &Silent).expect("pulled");
    assert_eq!((all.id, all.digest), (one.id, one.digest));
    assert_eq!(node.names("content/blobs/sha256").len(), 6, "and another manifest and configuration");
    node.store.remove(&name, &|_| None, false).expect("removed");
    node.assert_empty();
}
