//! `agent commit` makes an image of a container, which runs, is saved and pushed like any other.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use tests::support::node::json as parse;
use tests::support::{program, tree};
use tests::{BASE, Node, within};

/// A path as text.
fn text(path: &Path) -> &str {
    path.to_str().expect("the folders of tests have plain names")
}

const SCRIPT: &str = "echo changed >/etc/debian_version; rm /bin/ls; mkdir /new; echo x >/new/file; rm -rf /usr/share/doc; \
    chmod 4711 /opt; ln /bin/true /true; mkfifo -m 600 /new/fifo; rm -rf /usr/share/base-files; \
    mkdir /usr/share/base-files; echo new >/usr/share/base-files/only; echo 1.2.3.4 x >>/etc/hosts; \
    echo x >/volume/x; echo x >/memory/x; mkdir -p /deep/er/mount; echo done";

/// The files of a container as they would be in an image.
fn exported(node: &Node, container: &str) -> tree::Tree {
    let archive = node.dir().join(format!("{container}.tar"));
    let root = node.dir().join(format!("{container}-root"));
    fs::create_dir(&root).expect("the folder is ours");
    assert_eq!(node.agent(&["export", "-o", text(&archive), container]).ok(), "");
    let words = [
        "tar",
        "-xpf",
        text(&archive),
        "--numeric-owner",
        "--xattrs",
        "--xattrs-include=*",
        "-C",
        text(&root),
    ];
    let _ = program::tool(words);
    let own = [
        "proc",
        "sys",
        "dev",
        "etc/hosts",
        "etc/hostname",
        "etc/resolv.conf",
        "etc/mtab",
        "volume",
        "memory",
    ];
    let mut tree = tree::read(&root, &own).expect("root may look");
    // Those that the container's own files and mounts lie in.
    for folder in ["", "etc"] {
        if let Some(words) = tree.get_mut(Path::new(folder)) {
            *words = words.split(", changed ").next().unwrap_or_default().to_owned();
        }
    }
    tree
}

fn check(driver: &str) {
    let mut node = Node::new();
    node.pull(BASE);
    node.set("AGENT_ROOTFS_DRIVER", driver);
    let options =
        ["--name", "made", "-v", "kept:/volume", "--tmpfs", "/memory", "-e", "ADDED=1", "--label", "l=v"];
    let run = [&["run"], &options[..], &["-w", "/new", "-p", "8080:80", BASE, "sh", "-c", SCRIPT]].concat();
    assert_eq!(node.agent(&run).ok(), "done");
    let words = [
        "commit",
        "-a",
        "Jane",
        "-m",
        "a comment",
        "-c",
        "CMD cat file",
        "-c",
        "ENV MORE=2",
        "made",
        "mine:1",
    ];
    let id = node.agent(&words).ok();
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");

    // It runs, has what was changed and nothing of what was only mounted, and changed nothing yet.
    assert_eq!(node.agent(&["run", "--name", "of-it", "mine:1"]).ok(), "x");
    assert_eq!(node.agent(&["diff", "of-it"]).ok(), "");
    let mounts = "ls -A /volume /memory 2>/dev/null; cat /etc/debian_version; test ! -e /usr/bin/ls && echo $MORE $ADDED";
    let output = node.agent(&["run", "--rm", "mine:1", "sh", "-c", mounts]).ok();
    assert_eq!(output, "changed\n2 1");
    tree::assert_equal(&exported(&node, "of-it"), &exported(&node, "made"));

    let image = node.inspect("mine:1");
    assert_eq!(image["Id"], json!(id));
    let config = &image["Config"];
    assert_eq!(config["WorkingDir"], "/new");
    assert_eq!(config["Labels"]["l"], "v");
    assert_eq!(config["ExposedPorts"], json!({"80/tcp": {}}));
    assert_eq!(config["Cmd"], json!(["/bin/sh", "-c", "cat file"]));
    assert_eq!(image["Author"], "Jane");
    let base = node.inspect(BASE);
    let layers = |image: &serde_json::Value| image["RootFS"]["Layers"].as_array().expect("layers").clone();
    assert_eq!(layers(&image)[..layers(&base).len()], layers(&base));
    assert_eq!(layers(&image).len(), layers(&base).len() + 1);

    // Others read it as we do.
    let archive = node.dir().join("saved");
    let words = ["save", "--format", "oci-dir", "-o", text(&archive), "mine:1"];
    assert_eq!(node.agent(&words).ok(), "");
    let described =
        parse(&program::tool(["skopeo", "inspect", "--config", &format!("oci:{}", text(&archive))]));
    let last = described["history"].as_array().and_then(|all| all.last()).expect("a history");
    assert_eq!((&last["author"], &last["comment"]), (&json!("Jane"), &json!("a comment")));
    assert!(last["created_by"].as_str().is_some_and(|by| by.starts_with("sh -c echo changed")), "{last}");
    let bundle: PathBuf = node.dir().join("bundle");
    let tag = parse(&fs::read_to_string(archive.join("index.json")).expect("a layout"));
    let tag =
        tag["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"].as_str().map(str::to_owned);
    let name = format!("{}:{}", text(&archive), tag.expect("a name"));
    let _ = program::tool(["umoci", "unpack", "--image", &name, text(&bundle)]);
    let theirs = fs::read_to_string(bundle.join("rootfs/usr/share/base-files/only")).expect("a file");
    let count = fs::read_dir(bundle.join("rootfs/usr/share/base-files")).expect("a folder").count();
    assert_eq!((theirs.as_str(), count), ("new\n", 1));
    assert!(!bundle.join("rootfs/usr/bin/ls").exists() && !bundle.join("rootfs/usr/share/doc").exists());

    // And again on top of it, without a name.
    let second = node.agent(&["commit", "of-it"]).ok();
    assert_eq!(node.agent(&["run", "--rm", &second, "cat", "file"]).ok(), "x");
}

#[test]
fn a_container_becomes_an_image() {
    check("overlay");
}

#[test]
fn a_copied_container_becomes_an_image() {
    check("copy");
}

#[test]
fn what_was_made_is_pushed_and_pulled_again() {
    let node = Node::new();
    node.pull(BASE);
    let _ = node.agent(&["run", "--name", "made", BASE, "sh", "-c", "echo kept >/file; rm /bin/ls"]).ok();
    let name = format!("{}/mine:1", node.registry().host());
    let id = node.agent(&["commit", "made", &name]).ok();
    assert_eq!(node.agent(&["push", "-q", &name]).ok(), name);
    let _ = node.agent(&["rm", "made"]).ok();
    let _ = node.agent(&["rmi", &name]).ok();
    assert_eq!(node.agent(&["pull", "-q", &name]).ok(), name);
    assert_eq!(node.inspect(&name)["Id"], json!(id));
    let output =
        node.agent(&["run", "--rm", &name, "sh", "-c", "cat /file; test -e /bin/ls || echo gone"]).ok();
    assert_eq!(output, "kept\ngone");
}

#[test]
fn what_cannot_be_done_leaves_nothing() {
    let node = Node::new();
    let _ = node.agent(&["run", "--name", "there", tests::PROBE, "report"]).ok();
    let before = node.agent(&["images", "-q"]).ok();
    for (words, expected) in [
        (&["commit", "missing"][..], "no such container: missing"),
        (&["commit", "-c", "RUN x", "there"], "RUN"),
        (&["commit", "there", "Bad Name"], "invalid image reference"),
        (&["commit", "there", &format!("x@sha256:{}", "0".repeat(64))], "pinned to a digest"),
    ] {
        let refused = node.agent(words).refused(1);
        assert!(refused.contains(expected), "{words:?}: {refused}");
    }
    assert_eq!(node.agent(&["images", "-q"]).ok(), before);
    let left: Vec<_> = fs::read_dir(node.root().join("tmp")).expect("a folder").collect();
    assert!(left.is_empty(), "{left:?}");
}

/// The state of a container's freezer: cgroup v1's words.
fn frozen(node: &Node, id: &str) -> bool {
    let folder = node.cgroup_folder("freezer", id);
    let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default();
    read("freezer.state").trim() == "FROZEN" || read("cgroup.events").contains("frozen 1")
}

#[test]
fn it_stands_still_meanwhile_and_goes_on_whatever_becomes_of_us() {
    let node = Node::new();
    node.pull(BASE);
    // Large enough that the reading of it can be seen.
    let script = "dd if=/dev/urandom of=/large bs=1M count=200 2>/dev/null; : >/first; : >/second; echo ready; \
        while :; do echo x >>/first; echo x >>/second; done";
    let id = node.detached(&["--name", "busy", BASE, "sh", "-c", script]);
    node.log_with("busy", "ready");
    let committing = node.start(&["commit", "busy", "busy:1"]);
    within(program::LIMIT, "the container to stand still", || frozen(&node, &id).then_some(()));
    let _ = committing.finish().ok();
    within(program::LIMIT, "the container to go on", || (!frozen(&node, &id)).then_some(()));
    // Between the two is at most one step.
    let lines = |file: &str| -> i64 {
        node.agent(&["run", "--rm", "busy:1", "sh", "-c", &format!("wc -l <{file}")])
            .ok()
            .parse()
            .expect("a number")
    };
    let (first, second) = (lines("/first"), lines("/second"));
    assert!(first == second || first == second + 1, "{first} {second}");

    // Killed in the middle of it, nobody stands still.
    let committing = node.start(&["commit", "busy", "busy:2"]);
    within(program::LIMIT, "the container to stand still", || frozen(&node, &id).then_some(()));
    committing.signal(nix::sys::signal::Signal::SIGKILL);
    drop(committing);
    within(program::LIMIT, "the container to go on", || (!frozen(&node, &id)).then_some(()));

    // Asked not to, it does not.
    let committing = node.start(&["commit", "--pause=false", "busy", "busy:3"]);
    let output = committing.finish();
    assert_eq!(output.code, 0, "{}", output.stderr);
    let _ = node.agent(&["run", "--rm", "busy:3", "true"]).ok();
    let _ = node.agent(&["rm", "-f", "busy"]).ok();
}

#[test]
fn a_container_that_is_removed_meanwhile_becomes_no_image() {
    let node = Node::new();
    node.pull(BASE);
    // Large enough that the reading of it can be seen.
    let script = "dd if=/dev/urandom of=/large bs=1M count=200 2>/dev/null";
    let _ = node.agent(&["run", "--name", "there", BASE, "sh", "-c", script]).ok();
    let before = node.agent(&["images", "-q"]).ok();
    let committing = node.start(&["commit", "there", "it:1"]);
    within(program::LIMIT, "its files to be read", || {
        let works = fs::read_dir(node.root().join("tmp")).ok()?;
        works.flatten().find(|work| work.path().join("changes").exists()).map(drop)
    });
    let _ = node.agent(&["rm", "there"]).ok();
    let refused = committing.finish().refused(1);
    assert!(refused.contains("no such container: there"), "{refused}");
    assert_eq!(node.agent(&["images", "-q"]).ok(), before);
    let left: Vec<_> = fs::read_dir(node.root().join("tmp")).expect("a folder").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn one_that_does_not_read_its_input_stands_still_as_well() {
    let node = Node::new();
    node.pull(BASE);
    let file = node.dir().join("input");
    fs::write(&file, vec![b'\n'; 1 << 20]).expect("the folder is ours");
    let mut command = node.command();
    let script = "read line; echo ready; exec sleep 1000";
    command.args(["run", "-i", "--name", "deaf", BASE, "sh", "-c", script]);
    let file = fs::File::open(&file).expect("ours");
    let fed = command.stdin(file).stdout(std::process::Stdio::null()).spawn();
    let mut fed = fed.expect("agent starts");
    within(program::LIMIT, "the first line to be read", || {
        node.agent(&["logs", "deaf"]).stdout.contains("ready").then_some(())
    });
    let _ = node.agent(&["commit", "deaf", "deaf:1"]).ok();
    let _ = node.agent(&["rm", "-f", "deaf"]).ok();
    let _ = fed.wait().expect("it is our child");
}
