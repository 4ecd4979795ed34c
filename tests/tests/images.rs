//! `agent pull`, `images`, `rmi`, `inspect` of an image, and `run --pull`.

use std::fs;

use serde_json::{Value, json};
use tests::support::node::json;
use tests::{APP, BASE, Image, Layer, Node, PROBE};

#[test]
fn a_pull_tells_what_came() {
    let node = Node::fresh();
    let output = node.agent(&["pull", PROBE]);
    let lines: Vec<&str> = output.stdout.lines().collect();
    let [digest, status, name] = lines[..] else { panic!("{output:?}") };
    assert!(
        digest.starts_with("Digest: sha256:") && digest.len() == "Digest: sha256:".len() + 64,
        "{digest}"
    );
    assert!(status.starts_with("Status: Downloaded newer image for"), "{status}");
    assert_eq!(name, PROBE);
    assert!(output.stderr.starts_with(&format!("pulling {PROBE}\n")), "{}", output.stderr);
    let again = node.agent(&["pull", PROBE]).ok();
    assert!(again.contains("Status: Image is up to date for"), "{again}");
    assert_eq!(
        node.agent(&["pull", "-q", PROBE]),
        tests::Output { code: 0, stdout: format!("{PROBE}\n"), stderr: String::new() }
    );
    // The same by its digest, which no registry can change.
    let pinned = format!("registry.test/probe@{}", digest.trim_start_matches("Digest: "));
    node.pull(&pinned);
    assert_eq!(node.agent(&["run", "--rm", &pinned, "out", "pinned"]).ok(), "pinned");
    let ids = node.agent(&["images", "-q"]).ok();
    assert_eq!(ids.lines().count(), 1, "{ids}");
    let wrong = format!("registry.test/probe@sha256:{}", "0".repeat(64));
    node.agent(&["pull", "-q", &wrong]).refused(1);
}

#[test]
fn layers_are_shared_and_kept_while_somebody_needs_them() {
    let node = Node::fresh();
    let layers = || {
        let all = fs::read_dir(node.root().join("layers")).into_iter().flatten().flatten();
        all.filter(|entry| entry.file_name() != "l").count()
    };
    node.pull(APP);
    assert_eq!(layers(), 2);
    let output = node.agent(&["pull", BASE]);
    assert!(output.stderr.contains("already here") && !output.stderr.contains("downloading"), "{output:?}");
    assert_eq!(layers(), 2);
    let table = node.agent(&["images"]).ok();
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows.len(), 3, "{table}");
    for heading in ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"] {
        assert!(rows[0].contains(heading), "{table}");
    }
    let row = json(&node.agent(&["images", "--format", "json", "registry.test/base"]).ok());
    assert_eq!(
        (row["Repository"].as_str(), row["Tag"].as_str()),
        (Some("registry.test/base"), Some("latest"))
    );

    // One that a container was made from stays, until it is forced to lose its name.
    node.detached(&["--name", "app", APP]);
    let line = node.agent(&["rmi", APP]).refused(1);
    assert!(line.contains("in use"), "{line}");
    let removed = node.agent(&["rmi", BASE]).ok();
    assert!(removed.contains("Untagged: registry.test/base:latest"), "{removed}");
    assert_eq!(layers(), 2, "the app stands on it");
    assert_eq!(node.agent(&["exec", "app", "cat", "/proc/1/comm"]).ok(), "app");
    assert_eq!(node.agent(&["rm", "-f", "app"]).ok(), "app");
    let _ = node.agent(&["rmi", APP]).ok();
    assert_eq!((layers(), node.agent(&["images", "-q"]).ok().as_str()), (0, ""));
    let blobs = fs::read_dir(node.root().join("content/blobs/sha256")).into_iter().flatten().count();
    assert_eq!(blobs, 0);
}

#[test]
fn an_image_is_told_in_dockers_words() {
    let node = Node::new();
    let told = node.inspect(PROBE);
    assert!(told["Id"].as_str().is_some_and(|id| id.starts_with("sha256:") && id.len() == 71), "{told}");
    assert_eq!(told["RepoTags"][0], PROBE);
    assert_eq!((told["Os"].as_str(), told["Architecture"].as_str()), (Some("linux"), Some("amd64")));
    assert_eq!(told["Config"]["Entrypoint"][0], "/probe");
    assert_eq!(told["RootFS"]["Layers"].as_array().map(Vec::len), Some(1));
    // Its id, or the beginning of it, stands for it.
    let id = told["Id"].as_str().expect("it was just seen").trim_start_matches("sha256:");
    assert_eq!(node.agent(&["run", "--rm", &id[..12], "out", "by id"]).ok(), "by id");
}

#[test]
fn many_layers_lie_under_one_container() {
    let node = Node::new();
    let image = (0..100).fold(Image::on("probe"), |image, at| {
        image.layer(Layer::new().file(&format!("layer-{at}"), format!("{at}")).file("top", format!("{at}")))
    });
    let name = node.push_and_pull("many", &image);
    let report = json(&node.agent(&["run", "--rm", &name, "report", "/layer-0", "/layer-99", "/top"]).ok());
    assert_eq!(report["paths"]["/layer-0"]["content"], "0");
    assert_eq!(report["paths"]["/layer-99"]["content"], "99");
    assert_eq!(report["paths"]["/top"]["content"], "99");
}

#[test]
fn images_are_pulled_when_asked_for() {
    let mut node = Node::fresh();
    let line = node.agent(&["run", "--rm", "--pull", "never", PROBE, "out", "x"]).refused(125);
    assert!(line.contains(PROBE), "{line}");
    assert_eq!(node.agent(&["run", "--rm", PROBE, "out", "x"]).ok(), "x");
    let images = node.agent(&["images"]).ok();
    assert!(images.lines().nth(1).is_some_and(|row| row.contains("registry.test/probe")), "{images}");

    // A new image under the old name is seen by those who ask for it.
    let first = node.agent(&["images", "-q"]).ok();
    let other = Image::on("probe").set("Env", json!(["PATH=/", "SECOND=yes"]));
    node.push("probe", &other);
    assert_eq!(node.probe(&[], &[])["env"]["SECOND"], Value::Null);
    assert_eq!(node.probe(&["--pull", "missing"], &[])["env"]["SECOND"], Value::Null);
    assert_eq!(node.probe(&["--pull", "always"], &[])["env"]["SECOND"], "yes");
    assert_ne!(node.agent(&["images", "-q", PROBE]).ok(), first);
    node.stop_registry();
    assert_eq!(node.agent(&["run", "--rm", "--pull", "never", PROBE, "out", "x"]).ok(), "x");
    assert_eq!(node.agent(&["run", "--rm", PROBE, "out", "x"]).ok(), "x");
    let line = node.agent(&["run", "--rm", "--pull", "always", PROBE, "out", "x"]).refused(125);
    assert!(line.contains("127.0.0.1"), "{line}");

    for id in node.agent(&["images", "-q"]).ok().lines() {
        let _ = node.agent(&["rmi", "-f", id]).ok();
    }
    assert_eq!(node.agent(&["images", "-q"]).ok(), "");
    let layers = fs::read_dir(node.root().join("layers")).expect("it is there");
    let left: Vec<_> = layers.flatten().map(|entry| entry.file_name()).filter(|name| name != "l").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_private_registry_asks_who_is_there() {
    let mut node = Node::offline();
    tests::support::storage::fill(node.dir());
    node.serve(tests::Registry::start_private(&node.netns, node.dir()));
    let line = node.agent(&["pull", PROBE]).refused(1);
    assert!(line.contains("refused access"), "{line}");
    let host = node.registry().host();
    let configure = |password: &str| {
        let text = format!(
            "[host.\"registry.test\"]\nmirrors = [\"{host}\"]\n\n\
             [host.\"{host}\"]\nplain-http = true\nusername = \"reader\"\npassword = \"{password}\"\n"
        );
        fs::write(node.config_root().join("registries.d/test.toml"), text).expect("the folder is ours");
    };
    configure("wrong");
    let line = node.agent(&["pull", PROBE]).refused(1);
    assert!(line.contains("refused access") && !line.contains("wrong"), "{line}");
    configure("secret");
    assert_eq!(node.agent(&["run", "--rm", PROBE, "out", "let in"]).ok(), "let in");
}
