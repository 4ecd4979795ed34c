//! `agent push`: what a registry has afterwards is what was here, and nothing is sent that it had already. And
//! `agent pull --all-tags`, which reads what several pushes wrote.

use std::fs;

use serde_json::Value;
use tests::support::faults::Seen;
use tests::support::layer::digest;
use tests::support::program::{self, LIMIT};
use tests::support::random::Random;
use tests::support::registry::{PASSWORD, USER};
use tests::{Fault, Faults, Image, Layer, Node, Registry, RegistrySpec, TokenServer, TokenSpec};

const MIB: u64 = 1 << 20;

/// A machine with an image of two small layers in its registry and its store; its reference.
fn pulled(node: &Node, registry: &Registry) -> String {
    allow_plain(node, &[&registry.host()], "");
    let layout = node.dir().join("layout");
    let image = Image::new().layer(Layer::new().file("one", "1")).layer(Layer::new().file("two", "2"));
    image.write(&layout);
    registry.push(&node.netns, &layout, "app");
    let name = format!("{}/app:latest", registry.host());
    node.pull(&name);
    name
}

fn allow_plain(node: &Node, hosts: &[&str], more: &str) {
    let tables: Vec<String> =
        hosts.iter().map(|host| format!("[host.\"{host}\"]\nplain-http = true\n{more}\n")).collect();
    node.configure(&tables.concat());
}

/// What skopeo says of an image at its registry: the document its name stands for, byte for byte.
fn raw(node: &Node, name: &str) -> String {
    let mut skopeo = node.netns.command("skopeo");
    skopeo.args(["inspect", "--raw", "--tls-verify=false", "--creds", &format!("{USER}:{PASSWORD}")]);
    program::run(skopeo.arg(format!("docker://{name}")), b"", LIMIT).ok()
}

fn count(seen: &[Seen], method: &str) -> usize {
    seen.iter().filter(|seen| seen.method == method).count()
}

#[test]
fn what_is_pushed_is_byte_for_byte_what_was_pulled() {
    let node = Node::offline();
    let registry = Registry::start(&node.netns, node.dir());
    let other = Registry::start(&node.netns, &node.dir().join("other"));
    let faults = Faults::start(&node.netns, other.port());
    let name = pulled(&node, &registry);
    allow_plain(&node, &[&registry.host(), &faults.host()], "");
    let to = format!("{}/team/app:v1", faults.host());

    let output = node.agent(&["push", &name, &to]);
    assert!(output.stderr.contains("uploading") && output.stderr.contains("done"), "{output:?}");
    let document = raw(&node, &name);
    assert_eq!(output.ok(), format!("v1: digest: {} size: {}", digest(document.as_bytes()), document.len()));
    assert_eq!(raw(&node, &to), document);
    // Skopeo verifies every layer as it copies.
    let mut skopeo = node.netns.command("skopeo");
    skopeo.args([
        "copy",
        "--quiet",
        "--insecure-policy",
        "--src-tls-verify=false",
        &format!("docker://{to}"),
    ]);
    program::run(skopeo.arg(format!("oci:{}:x", node.dir().join("copy").display())), b"", LIMIT).ok();

    // What is there is not sent again.
    faults.take_seen("");
    assert_eq!(node.agent(&["push", "-q", &name, &to]).ok(), to);
    let seen = faults.take_seen("/blobs/");
    assert_eq!((count(&seen, "HEAD"), seen.len()), (3, 3), "{seen:#?}");

    // Under a name of its own it is pushed there.
    let _ = node.agent(&["tag", &name, &to]).ok();
    assert_eq!(node.agent(&["push", "-q", &to]).ok(), to);
    let digests = node.agent(&["images", "--digests"]).ok();
    assert!(!digests.contains("<none>"), "{digests}");
}

#[test]
fn an_index_is_pushed_with_all_it_names() {
    let node = Node::offline();
    let registry = Registry::start(&node.netns, node.dir());
    let images = [("amd64", None), ("arm64", Some("v8"))].map(|(architecture, variant)| {
        Image::new().platform(architecture, variant).layer(Layer::new().file("for", architecture))
    });
    let layout = node.dir().join("layout");
    Image::write_index(&images, &layout);
    registry.push(&node.netns, &layout, "many");
    let other = Registry::start(&node.netns, &node.dir().join("other"));
    allow_plain(&node, &[&registry.host(), &other.host()], "");
    let (name, to) = (format!("{}/many:latest", registry.host()), format!("{}/many:all", other.host()));
    let _ = node.agent(&["pull", "-q", "--all-platforms", &name]).ok();
    let _ = node.agent(&["push", &name, &to]).ok();
    assert_eq!(raw(&node, &to), raw(&node, &name));
    let _ = node.agent(&["rmi", &name]).ok();
    let _ = node.agent(&["pull", "-q", "--platform", "linux/arm64", &to]).ok();

    // Of one platform alone there is no index to push.
    let _ = node.agent(&["rmi", &to]).ok();
    node.pull(&name);
    let one = format!("{}/many:one", other.host());
    let _ = node.agent(&["push", &name, &one]).ok();
    let document: Value = serde_json::from_str(&raw(&node, &one)).expect("JSON");
    assert!(document["config"].is_object(), "{document}");
}

#[test]
fn a_blob_of_another_repository_is_not_sent_again() {
    let node = Node::offline();
    let registry = Registry::start(&node.netns, node.dir());
    let _ = pulled(&node, &registry);
    let faults = Faults::start(&node.netns, registry.port());
    allow_plain(&node, &[&faults.host()], "");
    let name = format!("{}/app:latest", faults.host());
    node.pull(&name);
    faults.take_seen("");
    let to = format!("{}/elsewhere/app:latest", faults.host());
    let output = node.agent(&["push", &name, &to]);
    assert!(output.stderr.contains("already there"), "{output:?}");
    let seen = faults.take_seen("/blobs/");
    assert_eq!((count(&seen, "POST"), count(&seen, "PUT"), count(&seen, "PATCH")), (3, 0, 0), "{seen:#?}");
    let mounts = seen.iter().filter(|seen| seen.target.contains("from=app") && seen.status == 201);
    assert_eq!(mounts.count(), 3, "{seen:#?}");
    assert_eq!(raw(&node, &to), raw(&node, &name));
}

#[test]
fn a_push_asks_for_the_right_to_push() {
    let node = Node::offline();
    let open = Registry::start(&node.netns, node.dir());
    let name = pulled(&node, &open);
    let tokens = TokenServer::start(&node.netns, node.dir(), TokenSpec::default());
    let spec = RegistrySpec { tokens: Some(&tokens), ..RegistrySpec::default() };
    let closed = Registry::start_as(&node.netns, &node.dir().join("closed"), &spec);
    let configure = |password: &str| {
        allow_plain(&node, &[&closed.host()], &format!("username = \"{USER}\"\npassword = \"{password}\""));
    };
    let to = |repository: &str| format!("{}/{repository}:latest", closed.host());
    configure("wrong-one");
    let line = node.agent(&["push", "-q", &name, &to("team/app")]).refused(1);
    assert!(line.contains("refused access") && !line.contains("wrong-one"), "{line}");
    configure(PASSWORD);
    tokens.take_asked();
    let _ = node.agent(&["push", "-q", &name, &to("team/app")]).ok();
    let asked = tokens.take_asked();
    let pushes = |scopes: &[String]| {
        scopes
            .iter()
            .any(|scope| scope == "repository:team/app:pull,push" || scope == "repository:team/app:push,pull")
    };
    assert!(!asked.is_empty() && asked.iter().all(|asked| pushes(&asked.scopes)), "{asked:?}");
    let line = node.agent(&["push", "-q", &name, &to("forbidden/app")]).refused(1);
    assert!(line.contains("refused access"), "{line}");
    allow_plain(&node, &[&closed.host()], "");
    let line = node.agent(&["push", "-q", &name, &to("team/app")]).refused(1);
    assert!(line.contains("agent login"), "{line}");
}

#[test]
fn a_large_layer_goes_in_parts_that_are_taken_up_where_they_broke_off() {
    let node = Node::offline();
    let registry = Registry::start(&node.netns, node.dir());
    let layer = Layer::new().file("large", Random::seeded().bytes(10 << 20));
    let size = layer.compressed().len() as u64;
    let layout = node.dir().join("layout");
    let layers = Image::new().layer(layer).write(&layout).layers;
    registry.push(&node.netns, &layout, "app");
    let other = Registry::start(&node.netns, &node.dir().join("other"));
    let faults = Faults::start(&node.netns, other.port());
    allow_plain(&node, &[&registry.host(), &faults.host()], "");
    let (name, to) = (format!("{}/app:latest", registry.host()), format!("{}/app:latest", faults.host()));
    node.pull(&name);

    faults.on_method("POST", "/uploads/", 1, Fault::Answer(503, Vec::new()));
    faults.on_method("PATCH", "/uploads/", 2, Fault::CutRequest(MIB));
    faults.on_method("PATCH", "/uploads/", 1, Fault::Answer(500, Vec::new()));
    faults.on_method("PUT", layers[0].replace(':', "%3A"), 1, Fault::Answer(502, Vec::new()));
    faults.on_method("PUT", "/manifests/", 1, Fault::Answer(429, Vec::new()));
    let output = node.agent(&["push", &name, &to]);
    assert!(output.stderr.contains("trying again"), "{output:?}");
    let _ = output.ok();
    assert_eq!(raw(&node, &to), raw(&node, &name));
    assert_eq!(fs::metadata(other.blob(&layers[0])).expect("it is there").len(), size);
    let seen = faults.take_seen("/uploads/");
    assert!(count(&seen, "PATCH") >= 5 && count(&seen, "GET") >= 3, "{seen:#?}");
    // What was heard of the two parts that were cut is not sent again; the configuration is less than a KiB.
    let whole: u64 =
        seen.iter().filter(|seen| (200..300).contains(&seen.status)).map(|seen| seen.received).sum();
    assert!(whole <= size + 1024, "{whole} of {size}: {seen:#?}");
}

#[test]
fn a_push_that_cannot_be_is_told_in_one_line() {
    let node = Node::offline();
    let registry = Registry::start(&node.netns, node.dir());
    let name = pulled(&node, &registry);
    let id = node.agent(&["images", "-q", "--no-trunc"]).ok();
    let pinned = format!("{}/app@{}", registry.host(), digest(raw(&node, &name).as_bytes()));
    let busy = Faults::start(&node.netns, registry.port());
    busy.on_method("HEAD", "", usize::MAX, Fault::Answer(503, Vec::new()));
    allow_plain(&node, &["127.0.0.1:1", &registry.host(), &busy.host()], "retries = 1");
    for (words, word) in [
        (vec!["no/such:image"], "no such image"),
        (vec![&*id], "give the name"),
        (vec![&*name, "127.0.0.1:1/app"], "cannot reach registry 127.0.0.1:1"),
        (vec![&*name, &*pinned], "leave out the digest"),
        (vec![&*name, "UPPER"], "lower case"),
        (vec![&*name, &*format!("{}/app", busy.host())], "503"),
    ] {
        let line = node.agent(&[&["push", "-q"], &words[..]].concat()).refused(1);
        assert!(line.contains(word), "{words:?}: {line}");
    }
    // What has rotted here is not passed on.
    let layers = raw(&node, &name);
    let layers: Value = serde_json::from_str(&layers).expect("JSON");
    let layer = layers["layers"][0]["digest"].as_str().expect("a digest").to_owned();
    let blob = node.root().join("content/blobs/sha256").join(&layer[7..]);
    let mut bytes = fs::read(&blob).expect("the store keeps layers as they came");
    bytes[20] ^= 1;
    fs::write(&blob, &bytes).expect("ours to spoil");
    let empty = Registry::start(&node.netns, &node.dir().join("empty"));
    allow_plain(&node, &[&empty.host()], "retries = 0");
    let to = format!("{}/app", empty.host());
    let line = node.agent(&["push", "-q", &name, &to]).refused(1);
    assert!(line.contains("igest"), "{line}");
    fs::remove_file(&blob).expect("ours to spoil");
    let line = node.agent(&["push", "-q", &name, &to]).refused(1);
    assert!(line.contains(&layer[7..]) && line.contains("missing"), "{line}");
}

#[test]
fn all_tags_of_a_repository_are_pulled() {
    let node = Node::offline();
    let registry = Registry::start(&node.netns, node.dir());
    let name = pulled(&node, &registry);
    let repository = format!("{}/team/app", registry.host());
    let tags = ["1", "2.0", "latest"];
    for tag in tags {
        let _ = node.agent(&["push", "-q", &name, &format!("{repository}:{tag}")]).ok();
    }
    let _ = node.agent(&["rmi", &name]).ok();
    let names = node.agent(&["pull", "-q", "--all-tags", &repository]).ok();
    let expected = tags.map(|tag| format!("{repository}:{tag}"));
    // In what order they are listed is the registry's affair.
    let mut names: Vec<&str> = names.lines().collect();
    names.sort_unstable();
    assert_eq!(names, expected);
    for name in &expected {
        assert_eq!(node.inspect(name)["RootFS"]["Layers"].as_array().map(Vec::len), Some(2));
    }
    let line = node.agent(&["pull", "-a", &format!("{repository}:1")]).refused(1);
    assert!(line.contains("tag"), "{line}");
}
