//! `agent save` and `agent load`: what others write loads here, and what is saved here loads there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tests::support::image::layout_of;
use tests::support::node::json;
use tests::support::program::{LIMIT, run, tool};
use tests::support::terminal::Terminal;
use tests::support::{extent, layer};
use tests::{Image, Layer, Node, PROBE, within};

/// A path as text.
fn text(path: &Path) -> &str {
    path.to_str().expect("the folders of tests have plain names")
}

/// A file or folder in the folder of a node's test.
fn at(node: &Node, name: &str) -> String {
    text(&node.dir().join(name)).to_owned()
}

/// Runs a line of shell with `agent` of this node in its path.
#[track_caller]
fn shell(node: &Node, line: &str) -> String {
    let agent = node.command().get_program().to_owned();
    let mut command = Command::new("bash");
    node.environment(&mut command);
    command.arg("-euo").arg("pipefail").arg("-c").arg(line).env("AGENT", agent);
    run(&mut command, b"", LIMIT).ok()
}

/// The id of an image, from its layout.
fn id_of(name: &str) -> String {
    let manifest = tool(["skopeo", "inspect", "--raw", &format!("oci:{}", text(&layout_of(name)))]);
    json(&manifest)["config"]["digest"].as_str().expect("it has one").to_owned()
}

fn digest_of(name: &str) -> String {
    let format = ["skopeo", "inspect", "--format", "{{.Digest}}", &format!("oci:{}", text(&layout_of(name)))];
    tool(format).trim().to_owned()
}

/// Whether a program that only the full setup installs is here.
fn is_here(program: &str) -> bool {
    let found = Path::new("/usr/bin").join(program).exists();
    assert!(found || !extent::all(), "{program} is not installed: scripts/setup --all");
    if !found {
        eprintln!("skipped what needs {program}: it is not installed (scripts/setup --all)");
    }
    found
}

/// Loads a file onto a machine that has nothing, and runs what it holds without any registry.
#[track_caller]
fn loads(file: &str, name: &str, id: &str) -> Node {
    let node = Node::offline();
    let output = node.agent(&["load", "-i", file]);
    assert_eq!(output.clone().ok(), format!("Loaded image: {name}"), "{file}");
    assert!(output.stderr.contains("done"), "{file}: {}", output.stderr);
    assert_eq!(node.inspect(name)["Id"], id, "{file}");
    assert_eq!(node.agent(&["run", "--rm", "--pull", "never", name, "out", "well"]).ok(), "well", "{file}");
    node
}

#[test]
fn what_others_save_loads_here() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| text(&folder.path().join(name)).to_owned();
    let from = format!("oci:{}", text(&layout_of("probe")));
    let (name, id) = ("registry.test/other:1", id_of("probe"));
    let copy = |to: &str| drop(tool(["skopeo", "copy", "-q", "--insecure-policy", &from, to]));
    copy(&format!("docker-archive:{}:{name}", path("skopeo-docker.tar")));
    copy(&format!("oci-archive:{}:{name}", path("skopeo-oci.tar")));
    copy(&format!("oci:{}:{name}", path("skopeo-layout")));
    let mut files = vec![path("skopeo-docker.tar"), path("skopeo-oci.tar"), path("skopeo-layout")];
    for file in [path("skopeo-docker.tar"), path("skopeo-oci.tar")] {
        drop(tool(["gzip", "-k", &file]));
        drop(tool(["zstd", "-q", &file]));
        // The name tells nothing.
        fs::rename(format!("{file}.zst"), format!("{file}.any")).expect("it was just made");
        files.extend([format!("{file}.gz"), format!("{file}.any")]);
    }
    if is_here("podman") {
        let podman = |words: &str| {
            let root = path("podman");
            let options = format!("--root {root}/root --runroot {root}/run --storage-driver vfs");
            drop(tool(["bash", "-c", &format!("podman {options} {words}")]));
        };
        podman(&format!("load -q -i {}", path("skopeo-oci.tar")));
        podman(&format!("save -q -o {} {name}", path("podman-docker.tar")));
        podman(&format!("save -q --format oci-archive -o {} {name}", path("podman-oci.tar")));
        files.extend([path("podman-docker.tar"), path("podman-oci.tar")]);
    }
    for file in files {
        let node = loads(&file, name, &id);
        if file.contains("oci") {
            let manifest = node.root().join("content/blobs/sha256").join(&digest_of("probe")[7..]);
            assert!(manifest.exists(), "{file}: its manifest is another");
        }
    }
    // skopeo's tag names no repository, and its folder has no names at all.
    copy(&format!("oci-archive:{}:latest", path("tag.tar")));
    copy(&format!("dir:{}", path("skopeo-folder")));
    for file in ["tag.tar", "skopeo-folder"] {
        let node = Node::offline();
        assert_eq!(node.agent(&["load", "-q", "-i", &path(file)]).ok(), format!("Loaded image ID: {id}"));
        assert_eq!(node.agent(&["run", "--rm", "--pull", "never", &id[7..19], "out", "well"]).ok(), "well");
    }
}

/// Two images that share a layer, the second with two names.
fn saved_from() -> (Node, [&'static str; 3]) {
    let node = Node::new();
    let image = Image::on("probe").layer(Layer::new().file("more", "more")).set("Env", json!(["A=b"]));
    node.push_and_pull("more", &image);
    node.push_and_pull("again", &image);
    (node, [PROBE, "registry.test/more:latest", "registry.test/again:latest"])
}

#[test]
fn what_is_saved_here_loads_elsewhere() {
    let (node, names) = saved_from();
    let manifest = |name: &str| {
        let digests = node.agent(&["images", "--digests", "--format", "json", name]).ok();
        json(&digests)["Digest"].as_str().expect("it has one").to_owned()
    };
    let config = |name: &str| node.inspect(name)["Id"].as_str().expect("it has one").to_owned();
    let skopeo = |image: &str| {
        let raw = json(&tool(["skopeo", "inspect", "--raw", image]));
        let digest = tool(["skopeo", "inspect", "--format", "{{.Digest}}", image]).trim().to_owned();
        (digest, raw["config"]["digest"].as_str().expect("it has one").to_owned())
    };
    for format in ["both", "docker-archive", "oci-archive", "oci-dir"] {
        for compress in ["none", "gzip", "zstd"] {
            if format == "oci-dir" && compress != "none" {
                continue;
            }
            let file = at(&node, &format!("{format}-{compress}"));
            let words = ["save", "-o", &file, "--format", format, "--compress", compress];
            let output = node.agent(&[&words[..], &names[..]].concat());
            assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (0, "", ""));
            // Debian's skopeo cannot read docker's archive compressed by gzip, not even its own.
            for name in names {
                if matches!(format, "both" | "docker-archive") && compress != "gzip" {
                    let (_, found) = skopeo(&format!("docker-archive:{file}:{name}"));
                    assert_eq!(found, config(name), "{file}");
                }
                if matches!(format, "both" | "oci-archive" | "oci-dir") {
                    let transport = if format == "oci-dir" { "oci" } else { "oci-archive" };
                    let found = skopeo(&format!("{transport}:{file}:{name}"));
                    assert_eq!(found, (manifest(name), config(name)), "{file}");
                }
            }
            // And here.
            let other = Node::offline();
            let loaded = other.agent(&["load", "-q", "-i", &file]).ok();
            let expected: Vec<String> = names.iter().map(|name| format!("Loaded image: {name}")).collect();
            assert_eq!(loaded.lines().collect::<Vec<_>>(), expected, "{file}");
            for name in names {
                assert_eq!(other.inspect(name)["Id"].as_str(), Some(config(name).as_str()), "{file}");
            }
            assert_eq!(other.agent(&["run", "--rm", "--pull", "never", names[2], "out", "x"]).ok(), "x");
        }
    }
    let bundle = at(&node, "bundle");
    drop(tool([
        "umoci",
        "unpack",
        "--image",
        &format!("{}:{}", at(&node, "oci-dir-none"), names[1]),
        &bundle,
    ]));
    assert_eq!(fs::read_to_string(Path::new(&bundle).join("rootfs/more")).expect("unpacked"), "more");
    engines_load(&node, &at(&node, "both-none"), &names);
}

/// Other engines load a file and have all its names then.
fn engines_load(node: &Node, file: &str, names: &[&str]) {
    if is_here("podman") {
        let root = at(node, "podman");
        let podman = format!("podman --root {root}/root --runroot {root}/run --storage-driver vfs");
        let podman = |words: &str| tool(["bash", "-c", &format!("{podman} {words}")]);
        // Debian's takes no archive of several images that is compressed by gzip.
        let single = at(node, "single");
        let _ = node.agent(&["save", "-o", &single, "--compress", "gzip", names[0]]).ok();
        for (file, names) in
            [(file.to_owned(), names), (file.replace("none", "zstd"), names), (single, &names[..1])]
        {
            drop(podman(&format!("load -q -i {file}")));
            let images = podman("images --format '{{.Repository}}:{{.Tag}}'");
            assert!(names.iter().all(|name| images.contains(name)), "{file}: {images}");
            drop(podman("rmi -af"));
        }
    }
    if is_here("containerd") {
        let folder = at(node, "containerd");
        fs::create_dir_all(&folder).expect("the folder is ours");
        let (config, socket) = (format!("{folder}/config.toml"), format!("{folder}/socket"));
        let text = format!(
            "version = 2\nroot = \"{folder}/root\"\nstate = \"{folder}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{socket}\"\n"
        );
        fs::write(&config, text).expect("the folder is ours");
        let mut containerd = Command::new("containerd");
        containerd
            .args(["-c", &config])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        let mut containerd = Ended(containerd.spawn().expect("it is installed"));
        let ctr = |words: &str| Command::new("ctr").args(["-a", &socket]).args(words.split(' ')).output();
        within(LIMIT, "containerd to answer", || {
            assert!(containerd.0.try_wait().expect("ours").is_none(), "containerd has ended");
            ctr("version").is_ok_and(|output| output.status.success()).then_some(())
        });
        let output = ctr(&format!("images import --snapshotter native {file}")).expect("it is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let images = ctr("images ls -q").expect("it is installed");
        let images = String::from_utf8_lossy(&images.stdout).into_owned();
        assert!(names.iter().all(|name| images.contains(name)), "{images}");
    }
}

/// A process that goes with the test.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn pipes_carry_images_from_machine_to_machine() {
    let (node, names) = saved_from();
    let file = at(&node, "a.tar");
    let _ = node.agent(&["save", "-o", &file, names[0], names[1]]).ok();
    // The same images make the same file, and only its owner may read it.
    for compress in ["none", "gzip", "zstd"] {
        let other = Node::offline();
        let pipe = at(&other, "pipe");
        shell(&node, &format!("$AGENT save --compress {compress} {} {} | cat > {pipe}", names[0], names[1]));
        let loaded = shell(&other, &format!("cat {pipe} | $AGENT load -q"));
        assert_eq!(loaded.lines().count(), 2, "{loaded}");
    }
    let again = at(&node, "b.tar");
    shell(&node, &format!("$AGENT save {} {} > {again}", names[0], names[1]));
    assert!(fs::read(&file).expect("saved") == fs::read(&again).expect("saved"));
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).expect("saved").permissions());
    assert_eq!(mode & 0o777, 0o600);

    // By its id it has no name; one image is one, however it is called.
    let id = node.inspect(names[1])["Id"].as_str().expect("it has one").to_owned();
    let ids = at(&node, "id.tar");
    let _ = node.agent(&["save", "-o", &ids, &id[7..19]]).ok();
    let other = Node::offline();
    assert_eq!(other.agent(&["load", "-i", &ids]).ok(), format!("Loaded image ID: {id}"));
    let list = tool(["tar", "-xOf", &ids, "manifest.json"]);
    assert_eq!(json(&list)[0]["RepoTags"], Value::Null);
    let _ = node.agent(&["save", "-o", &ids, names[1], names[2], &id]).ok();
    let list = json(&tool(["tar", "-xOf", &ids, "manifest.json"]));
    assert_eq!(list[0]["RepoTags"], json!([names[1], names[2]]));
    assert_eq!(list.as_array().map(Vec::len), Some(1));
    // What has the name of a loaded image gives it up and stays.
    let stale = other.agent(&["load", "-q", "-i", &ids]).ok();
    assert_eq!(stale.lines().count(), 2);
    let renamed = at(&node, "renamed.tar");
    let _ = tool([
        "skopeo",
        "copy",
        "-q",
        "--insecure-policy",
        &format!("oci:{}", text(&layout_of("probe"))),
        &format!("docker-archive:{renamed}:{}", names[1]),
    ]);
    let _ = other.agent(&["load", "-q", "-i", &renamed]).ok();
    assert_eq!(other.inspect(names[1])["Id"], id_of("probe").as_str());
    assert_eq!(other.inspect(names[2])["Id"], id.as_str());
}

#[test]
fn archives_are_kept_from_terminals_and_files_that_are_there() {
    let node = Node::new();
    let mut command = node.command();
    command.args(["save", PROBE]);
    let mut terminal = Terminal::start(&command, 24, 200);
    let (code, said) = terminal.finish();
    assert!(code == 1 && said.contains("--output") && said.lines().count() == 1, "{code}: {said:?}");
    let mut command = node.command();
    command.arg("load");
    let mut terminal = Terminal::start(&command, 24, 200);
    let (code, said) = terminal.finish();
    assert!(code == 1 && said.contains("--input"), "{code}: {said:?}");

    // What cannot be saved leaves what is there.
    let file = at(&node, "kept");
    fs::write(&file, "kept").expect("the folder is ours");
    let line = node.agent(&["save", "-o", &file, "registry.test/none"]).refused(1);
    assert!(line.contains("no such image"), "{line}");
    let layers = node.root().join("content/blobs/sha256");
    let greatest = |folder: &Path| -> PathBuf {
        let all = fs::read_dir(folder).expect("it is there").flatten().map(|entry| entry.path());
        all.max_by_key(|path| path.metadata().expect("it is there").len()).expect("there is one")
    };
    let blob = greatest(&layers);
    let content = fs::read(&blob).expect("it is ours");
    let mut changed = content.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    fs::write(&blob, &changed).expect("it is ours");
    for format in ["both", "docker-archive", "oci-archive"] {
        let line = node.agent(&["save", "-o", &file, "--format", format, PROBE]).refused(1);
        assert!(line.contains("damaged"), "{format}: {line}");
        assert_eq!(fs::read_to_string(&file).expect("it is there"), "kept");
    }
    let folder = at(&node, "layout");
    let line = node.agent(&["save", "-o", &folder, "--format", "oci-dir", PROBE]).refused(1);
    assert!(line.contains("damaged") && !Path::new(&folder).exists(), "{line}");
    fs::remove_file(&blob).expect("it is ours");
    let line = node.agent(&["save", "-o", &file, PROBE]).refused(1);
    assert!(line.contains("is missing"), "{line}");
    fs::write(&blob, &content).expect("it is ours");
    let line = node.agent(&["save", "-o", "/dev/full", PROBE]).refused(1);
    assert!(line.contains("No space left"), "{line}");
    let names: Vec<_> =
        fs::read_dir(node.dir()).expect("ours").flatten().map(|one| one.file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().contains("new")), "{names:?}");
    // What can replaces it, also behind a link; and goes where it comes to.
    std::os::unix::fs::symlink(&file, format!("{file}.link")).expect("the folder is ours");
    let _ = node.agent(&["save", "-o", &format!("{file}.link"), PROBE]).ok();
    assert!(fs::symlink_metadata(format!("{file}.link")).expect("there").is_symlink());
    assert!(fs::metadata(&file).expect("it is there").len() > 100_000);
    let _ = node.agent(&["save", "-o", "/dev/null", PROBE]).ok();
    // A folder that has something is not made a layout; one that was begun is.
    let line = node.agent(&["save", "-o", text(node.dir()), "--format", "oci-dir", PROBE]).refused(1);
    assert!(line.contains("not empty"), "{line}");
    fs::create_dir_all(format!("{folder}/blobs/sha256")).expect("the folder is ours");
    let _ = node.agent(&["save", "-o", &folder, "--format", "oci-dir", PROBE]).ok();
    let index = fs::read_to_string(format!("{folder}/index.json")).expect("it is a layout");
    assert_eq!(json(&index)["manifests"].as_array().map(Vec::len), Some(1));
    assert!(layer::digest(&content).contains(&text(&blob)[text(&layers).len() + 1..]));
}
