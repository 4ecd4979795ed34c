//! What was pulled, saved: an index goes on whole when it is here whole, else the one image of it that is here.

use image::{ArchiveInput, SaveOptions, Target};

use super::*;

#[test]
fn an_index_is_saved_as_it_was_pulled() {
    own_network();
    let registry = Registry::start(false);
    let layer = Layer::new().file("x", 0o644, b"x").end();
    let layout = Layout::new(&[(&layer, Packing::Zstd)], "index").behind_index();
    registry.push(layout.path(), "t", "index", &["--all"]);
    let name = format!("{HOST}/index");
    let node = Node::new();
    let file = node.root().with_file_name("saved.tar");
    for all_platforms in [false, true] {
        let options = PullOptions { all_platforms, ..PullOptions::default() };
        let pulled = node.pull_with(&name, &options, &Silent).expect("pulled");
        let target = Target::Path(file.clone());
        node.store.save(std::slice::from_ref(&name), &SaveOptions::default(), target).expect("saved");

        // Others find the same, and are content with what is there.
        let archive = format!("oci-archive:{}:{name}:latest", file.display());
        let copied = tempfile::tempdir().expect("a folder");
        let to = format!("oci:{}:t", copied.path().display());
        run(Command::new("skopeo").args(["copy", "-q", "--all", "--insecure-policy", &archive, &to]));
        let index = fs::read(copied.path().join("index.json")).expect("a layout");
        let index: serde_json::Value = serde_json::from_slice(&index).expect("JSON");
        let expected = if all_platforms { pulled.digest } else { pulled.manifest };
        assert_eq!(index["manifests"][0]["digest"], expected.to_string());
        let docker = format!("docker-archive:{}:{name}:latest", file.display());
        run(Command::new("skopeo").args(["inspect", &docker]));

        // So does another store.
        let other = Node::new();
        let tracer = Tracer::new(&other.rings(), "load");
        let mut loaded = Vec::new();
        let input = ArchiveInput::open(&file).expect("there");
        let mut hear = |image| loaded.push(image);
        block_on(other.store.load(input, &options, &Silent, &tracer, &mut hear)).expect("loaded");
        let [image] = &loaded[..] else { panic!("one image") };
        assert_eq!((&image.image.id, image.image.manifest), (&pulled.id, pulled.manifest));
        assert_eq!((image.image.digest, image.names[0].to_string()), (expected, format!("{name}:latest")));
    }
}
