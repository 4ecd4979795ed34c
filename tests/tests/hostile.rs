//! Hostile images: refused or contained, with nothing outside touched and nothing left.
//!
//! Every row names what is on record for it (docs of the project: what must not happen).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use tar::EntryType;
use tests::support::layer::{Entry, digest};
use tests::support::node::{binary, json};
use tests::support::tree::{self, Tree};
use tests::{BASE, Image, Layer, Node, PROBE, within};

/// Something outside of every layer that must stay as it is.
struct Canary {
    folder: PathBuf,
    before: Tree,
}

impl Canary {
    fn new(node: &Node) -> Self {
        let folder = node.dir().join("canary");
        fs::create_dir_all(folder.join("below")).expect("the folder is ours");
        fs::write(folder.join("file"), "untouched").expect("the folder is ours");
        fs::write(folder.join("below/file"), "untouched").expect("the folder is ours");
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(folder.join("file"), mode).expect("it is ours");
        let before = tree::read(&folder, &[]).expect("root may look");
        Canary { folder, before }
    }

    #[track_caller]
    fn assert_untouched(&self) {
        tree::assert_equal(&tree::read(&self.folder, &[]).expect("root may look"), &self.before);
    }
}

/// Layers that try to get at the folder `out`, the one over the other.
fn attacks(out: &str) -> Vec<(&'static str, Vec<Layer>)> {
    let up = format!("{}{out}", "../".repeat(12).trim_end_matches('/'));
    let above = format!("{up}/pwned");
    let file = format!("{out}/file");
    let entry = Entry::default;
    let device = Entry { kind: EntryType::Char, mode: 0o666, device: (1, 1), ..entry() };
    vec![
        ("names with `..`", vec![Layer::new().file(&above, "x")]),
        ("`..` below a folder of its own", vec![Layer::new().dir("a").file(&format!("a/{above}"), "x")]),
        ("absolute names", vec![Layer::new().file(&format!("{out}/pwned"), "x")]),
        ("a link, and a file through it", vec![Layer::new().symlink("l", out).file("l/pwned", "x")]),
        ("a link with `..`", vec![Layer::new().symlink("l", &up).file("l/pwned", "x")]),
        ("two links", vec![Layer::new().symlink("k", "l/below").symlink("l", out).file("k/pwned", "x")]),
        (
            "a link of the layer below",
            vec![Layer::new().symlink("l", out), Layer::new().file("l/pwned", "x")],
        ),
        ("a folder over a link", vec![Layer::new().symlink("l", out).dir("l").file("l/pwned", "x")]),
        (
            "a folder's mode over a link",
            vec![Layer::new().symlink("l", out).entry(&Entry {
                path: "l",
                kind: EntryType::Directory,
                mode: 0o777,
                uid: 66,
                ..entry()
            })],
        ),
        ("a file over a link", vec![Layer::new().symlink("l", &file).file("l", "pwned")]),
        ("a hard link to an absolute name", vec![Layer::new().hardlink("h", &file)]),
        ("a hard link with `..`", vec![Layer::new().hardlink("h", &format!("{up}/file"))]),
        ("a hard link through a link", vec![Layer::new().symlink("l", out).hardlink("h", "l/file")]),
        // CVE-2021-32760: what is done to a hard link of a link follows the link.
        (
            "modes through a hard link of a link",
            vec![Layer::new().symlink("l", &file).hardlink("h", "l").entry(&Entry {
                path: "h",
                mode: 0o4777,
                uid: 66,
                content: b"pwned",
                ..entry()
            })],
        ),
        (
            "attributes over a link",
            vec![Layer::new().symlink("l", &file).entry(&Entry {
                path: "l",
                kind: EntryType::Symlink,
                link: &file,
                xattrs: &[("trusted.pwned", b"x")],
                ..entry()
            })],
        ),
        (
            "marks of overlayfs itself",
            vec![Layer::new().entry(&Entry {
                path: "d",
                kind: EntryType::Directory,
                mode: 0o755,
                xattrs: &[("trusted.overlay.redirect", out.as_bytes()), ("trusted.overlay.opaque", b"y")],
                ..entry()
            })],
        ),
        ("a whiteout of the parent", vec![Layer::new().file(".wh...", "")]),
        ("a whiteout of the root", vec![Layer::new().file(".wh..", "")]),
        ("a whiteout of nothing", vec![Layer::new().file(".wh.", "")]),
        ("a whiteout with `..`", vec![Layer::new().file(&format!("{up}/.wh.file"), "")]),
        ("a whiteout through a link", vec![Layer::new().symlink("l", out).file("l/.wh.file", "")]),
        (
            "a whiteout through a link of the layer below",
            vec![Layer::new().symlink("l", out), Layer::new().file("l/.wh.file", "")],
        ),
        ("an opaque mark through a link", vec![Layer::new().symlink("l", out).file("l/.wh..wh..opq", "")]),
        ("an opaque mark with `..`", vec![Layer::new().file(&format!("{up}/.wh..wh..opq"), "")]),
        ("a device with `..`", vec![Layer::new().entry(&Entry { path: &above, ..device.clone() })]),
        (
            "a device through a link",
            vec![Layer::new().symlink("l", out).entry(&Entry { path: "l/mem", ..device })],
        ),
        (
            "a fifo through a link",
            vec![Layer::new().symlink("l", out).entry(&Entry {
                path: "l/f",
                kind: EntryType::Fifo,
                ..entry()
            })],
        ),
        ("a link in the place of the root", vec![Layer::new().symlink(".", out).file("pwned", "x")]),
        (
            "a link in the place of the root, written `/`",
            vec![Layer::new().symlink("/", out).file("pwned", "x")],
        ),
        ("a name with a zero in it", vec![Layer::new().file("a\0/../../pwned", "x")]),
        ("an empty name", vec![Layer::new().file("", "x")]),
    ]
}

#[test]
fn layers_that_reach_out_touch_nothing() {
    let node = Node::new();
    let canary = Canary::new(&node);
    let (images, layers) = (node.agent(&["images", "-q"]).ok(), node.root().join("layers"));
    let names = || -> Vec<_> {
        let mut names: Vec<_> =
            fs::read_dir(&layers).expect("it is there").flatten().map(|e| e.file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    let out = canary.folder.to_str().expect("it is plain").to_owned();
    for (at, (what, layers)) in attacks(&out).into_iter().enumerate() {
        let image = layers.into_iter().fold(Image::on("probe"), Image::layer);
        let name = node.push(&format!("attack{at}"), &image);
        let output = node.agent(&["pull", "-q", &name]);
        canary.assert_untouched();
        if output.code == 0 {
            // Contained: it runs, and what it reaches is inside.
            let run = node.agent(&["run", "--rm", &name, "report", &out, "/l", "/h"]);
            assert_eq!(run.code, 0, "{what}: {}", run.stderr);
            assert!(!run.stdout.contains("untouched"), "{what}: {}", run.stdout);
            canary.assert_untouched();
            let _ = node.agent(&["rmi", "-f", &name]).ok();
        } else {
            let line = output.refused(1);
            assert!(line.contains("layer"), "{what}: {line}");
        }
        assert_eq!(node.agent(&["images", "-q"]).ok(), images, "{what}");
        assert_eq!(names(), before, "{what}");
        node.assert_nothing_left();
    }
}

#[test]
fn content_that_is_not_what_was_promised_is_refused() {
    let node = Node::fresh();
    let layer = || Layer::new().file("file", "x".repeat(100_000));
    let intact = layer().compressed();
    let altered = |change: fn(Vec<u8>) -> Vec<u8>| change(intact.clone());
    let flipped = altered(|mut bytes| {
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        bytes
    });
    let other = Layer::new().file("file", "y".repeat(100_000)).compressed();
    for (at, (what, content)) in [
        ("a flipped bit", flipped),
        ("another layer", other),
        ("a short one", altered(|bytes| bytes[..bytes.len() - 10].to_vec())),
        ("a longer one", altered(|bytes| [&bytes[..], b"more"].concat())),
        ("nothing", Vec::new()),
        ("no gzip", vec![b'x'; 200]),
    ]
    .into_iter()
    .enumerate()
    {
        let (name, written) = node.push_written(&format!("broken{at}"), &Image::on("probe").layer(layer()));
        node.registry().replace_blob(&written.layers[0], &content);
        let line = node.agent(&["pull", "-q", &name]).refused(1);
        assert!(line.contains("layer") || line.contains("sha256:"), "{what}: {line}");
        assert_eq!(node.agent(&["images", "-q"]).ok(), "", "{what}");
        node.assert_nothing_left();
        // Mended, it comes whole.
        node.registry().replace_blob(&written.layers[0], &intact);
        node.pull(&name);
        assert_eq!(node.agent(&["run", "--rm", &name, "out", "well"]).ok(), "well", "{what}");
        let _ = node.agent(&["rmi", "-f", &name]).ok();
    }
    // A configuration that promises another content than the layer has.
    let lying = layer().claiming_diff_id(&digest(b"something else"));
    let name = node.push("lying", &Image::on("probe").layer(lying));
    let line = node.agent(&["pull", "-q", &name]).refused(1);
    assert!(line.contains("layer"), "{line}");
    // A manifest that is not what the tag's digest says.
    let (name, written) = node.push_written("manifest", &Image::on("probe").layer(layer()));
    let text = fs::read_to_string(node.registry().blob(&written.manifest)).expect("it was pushed");
    node.registry().replace_blob(&written.manifest, text.replace("manifest", "manifesto").as_bytes());
    node.agent(&["pull", "-q", &name]).refused(1);
    assert_eq!(node.agent(&["images", "-q"]).ok(), "");
    node.assert_nothing_left();
}

#[test]
fn an_archive_that_is_none_is_refused() {
    let node = Node::fresh();
    let pack = |bytes: &[u8]| {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes it")
    };
    let whole = Layer::new().file("file", "x".repeat(5000)).archive();
    let mut wrong_sum = whole.clone();
    wrong_sum[150] ^= 1;
    for (at, (what, bytes)) in [
        ("noise", vec![0x5a; 4096]),
        ("half an archive", whole[..2000].to_vec()),
        ("a wrong checksum", wrong_sum),
    ]
    .into_iter()
    .enumerate()
    {
        // Everything about it is right but the archive: digest, size and diffID.
        let layer = Layer::new().claiming_diff_id(&digest(&bytes));
        let image = Image::on("probe").layer(layer.replaced_by(pack(&bytes)));
        let name = node.push(&format!("noise{at}"), &image);
        let line = node.agent(&["pull", "-q", &name]).refused(1);
        assert!(line.contains("archive"), "{what}: {line}");
        assert_eq!(node.agent(&["images", "-q"]).ok(), "", "{what}");
        node.assert_nothing_left();
    }
}

#[test]
fn root_file_systems_of_links_do_not_lead_out() {
    let node = Node::new();
    let canary = Canary::new(&node);
    let out = canary.folder.to_str().expect("it is plain");
    let up = format!("{}{out}", "../".repeat(12).trim_end_matches('/'));
    let links: Vec<(&str, Layer)> = vec![
        ("proc", Layer::new().symlink("proc", out)),
        ("proc to the root", Layer::new().symlink("proc", "/")),
        ("dev", Layer::new().symlink("dev", out)),
        ("dev with ..", Layer::new().symlink("dev", &up)),
        ("sys", Layer::new().symlink("sys", out)),
        ("etc", Layer::new().symlink("etc", out)),
        ("etc/hosts", Layer::new().symlink("etc/hosts", &format!("{out}/file"))),
        ("etc/resolv.conf", Layer::new().symlink("etc/resolv.conf", &format!("{out}/file"))),
        ("etc/mtab", Layer::new().symlink("etc/mtab", &format!("{out}/file"))),
        ("etc/passwd", Layer::new().symlink("etc/passwd", &format!("{out}/file"))),
        ("home", Layer::new().symlink("home", out)),
        // CVE-2025-31133, CVE-2025-52565: what is mounted over paths that the image chose.
        ("dev/null", Layer::new().dir("dev").symlink("dev/null", &format!("{out}/file"))),
        ("dev/console", Layer::new().dir("dev").symlink("dev/console", &format!("{out}/file"))),
        ("dev/pts", Layer::new().dir("dev").symlink("dev/pts", out)),
        ("dev/shm", Layer::new().dir("dev").symlink("dev/shm", out)),
        ("proc as a file", Layer::new().file("proc", "x")),
        ("dev as a file", Layer::new().file("dev", "x")),
        ("everything is here", Layer::new().dir("proc").file("proc/cpuinfo", "fake").dir("proc/self")),
    ];
    for (at, (what, layer)) in links.into_iter().enumerate() {
        let name = node.push_and_pull(&format!("links{at}"), &Image::on("probe").layer(layer));
        for options in [&["--rm"][..], &["--rm", "-t"], &["--rm", "-v", "vol:/home", "-u", "0:0"]] {
            let paths = ["report", "/home", "/etc/hosts", "/proc/self/status", "/etc/passwd"];
            let output = node.agent(&[&["run"], options, &[&name], &paths].concat());
            canary.assert_untouched();
            assert!(!output.stdout.contains("untouched"), "{what}: {}", output.stdout);
            if output.code != 0 {
                let line = output.refused(125);
                assert!(line.starts_with("agent: "), "{what}: {line}");
                continue;
            }
            let report = json(output.stdout.trim());
            assert_eq!(report["pids"], json!([1]), "{what}: /proc is its own");
            let points: Vec<_> = report["mounts"].as_array().into_iter().flatten().collect();
            for point in ["/proc", "/dev", "/sys", "/dev/pts", "/dev/shm"] {
                assert!(
                    points.iter().any(|mount| mount["mountpoint"] == point),
                    "{what}: {point} is missing"
                );
            }
        }
        node.assert_nothing_left();
    }
}

#[test]
fn volumes_do_not_follow_links_of_the_image() {
    let node = Node::new();
    let canary = Canary::new(&node);
    let out = canary.folder.to_str().expect("it is plain");
    // CVE-2021-30465: the target is a link that leads out, or into /proc.
    for (at, (link, target)) in [
        ("data", out.to_owned()),
        ("data", format!("{}{out}", "../".repeat(12).trim_end_matches('/'))),
        ("data", "/proc/self/fd".to_owned()),
        ("data", "/proc".to_owned()),
    ]
    .into_iter()
    .enumerate()
    {
        let name = node.push_and_pull(
            &format!("mounts{at}"),
            &Image::on("probe").layer(Layer::new().symlink(link, &target)),
        );
        for option in [["-v", "volume:/data"], ["-v", "volume:/data/deeper"], ["--tmpfs", "/data"]] {
            let output = node.agent(&["run", "--rm", option[0], option[1], &name, "report", "/data"]);
            canary.assert_untouched();
            assert!(!output.stdout.contains("untouched"), "{target}: {}", output.stdout);
            if output.code == 0 {
                let report = json(&output.stdout);
                assert_eq!(report["pids"], json!([1]), "{target}: /proc is its own");
            } else {
                output.refused(125);
            }
        }
        node.assert_nothing_left();
    }
}

#[test]
fn a_working_directory_outside_is_refused() {
    let node = Node::new();
    // CVE-2024-21626: a descriptor that leaked, by its number.
    for fd in 3..24 {
        let folder = format!("/proc/self/fd/{fd}");
        let output = node.agent(&["run", "--rm", "-w", &folder, PROBE]);
        if output.code == 0 {
            panic!("{folder} is a working directory: {}", output.stdout);
        }
        output.refused(125);
    }
    let image = Image::on("probe").set("WorkingDir", json!("/proc/self/fd/7/../../.."));
    let name = node.push_and_pull("escape", &image);
    node.agent(&["run", "--rm", &name]).refused(125);
    let image = Image::on("probe")
        .layer(Layer::new().symlink("work", "/proc/self/fd/9"))
        .set("WorkingDir", json!("/work"));
    let name = node.push_and_pull("linked", &image);
    let output = node.agent(&["run", "--rm", &name]);
    assert_eq!(output.code, 125, "{output:?}");
    // And into a running container.
    node.detached(&["--name", "waits", PROBE, "wait"]);
    node.log_with("waits", "ready");
    for fd in 3..24 {
        let output = node.agent(&["exec", "-w", &format!("/proc/self/fd/{fd}"), "waits", "/probe"]);
        assert_eq!(output.code, 125, "{fd}: {output:?}");
    }
}

#[test]
fn users_beyond_the_range_are_refused() {
    let node = Node::new();
    let passwd = "root:x:0:0::/:/probe\nlarge:x:4294967296:0::/:/probe\nminus:x:-1:0::/:/probe\n\
                  last:x:4294967295:0::/:/probe\nlong:x:1:99999999999999999999::/:/probe\n";
    let image = Image::on("probe").layer(Layer::new().file("etc/passwd", passwd));
    let name = node.push_and_pull("users", &image);
    // CVE-2024-40635: wrapped round, they are root.
    for user in
        ["large", "minus", "last", "long", "4294967296", "4294967295", "-1", "0x0", " 0", "1:4294967296"]
    {
        let output = node.agent(&["run", "--rm", "-u", user, &name]);
        assert_eq!(output.code, 125, "{user}: {output:?}");
        output.refused(125);
    }
    let image = Image::on("probe").set("User", json!("4294967296"));
    node.agent(&["run", "--rm", &node.push_and_pull("user", &image)]).refused(125);
}

#[test]
fn the_runtime_cannot_be_overwritten_from_inside() {
    let node = Node::new();
    let programs = [binary("shim"), binary("agent")];
    let digests = || programs.each_ref().map(|path| digest(&fs::read(path).expect("it was built")));
    let before = digests();
    // CVE-2019-5736: the image makes the runtime execute itself inside, and holds on to it.
    for entrypoint in ["/proc/self/exe", "/proc/1/exe", "/proc/thread-self/exe"] {
        let output = node.agent(&["run", "--rm", "--entrypoint", entrypoint, PROBE, "monitor"]);
        assert_ne!(output.code, 0, "{entrypoint}: {output:?}");
    }
    let script = "#!/proc/self/exe\n";
    let image =
        Image::on("probe").layer(Layer::new().program("evil", script)).set("Entrypoint", json!(["/evil"]));
    let output = node.agent(&["run", "--rm", &node.push_and_pull("evil", &image)]);
    assert_ne!(output.code, 0, "{output:?}");

    // Somebody inside waits for whoever joins, and writes to what he is made of.
    let hunt = "while :; do for exe in /proc/[0-9]*/exe; do \
                case $exe in /proc/$$/exe) continue;; esac; \
                { echo pwned >>$exe; } 2>/dev/null && echo written $(readlink $exe); \
                for fd in ${exe%exe}fd/*; do case $(readlink $fd 2>/dev/null) in */shim*|*memfd*|*/agent*) \
                { echo pwned >>$fd; } 2>/dev/null && echo written $(readlink $fd);; esac; done; done; done";
    node.detached(&["--name", "hunter", BASE, "sh", "-c", &format!("echo hunting; {hunt}")]);
    node.log_with("hunter", "hunting");
    for _ in 0..20 {
        let _ = node.agent(&["exec", "hunter", "true"]).ok();
        let output = node.agent(&["exec", "hunter", "/proc/self/exe"]);
        assert_ne!(output.code, 0, "{output:?}");
    }
    assert_eq!(digests(), before);
    let log = node.agent(&["logs", "hunter"]).ok();
    // Programs of its own it may write.
    assert!(!log.contains("shim") && !log.contains("memfd") && !log.contains("agent"), "{log}");
    assert_eq!(node.agent(&["run", "--rm", PROBE, "out", "well"]).ok(), "well");
}

#[test]
fn labels_of_an_image_control_nothing() {
    let node = Node::new();
    // CVE-2026-53488 and its kin.
    let labels = json!({
        "io.kubernetes.cri-o.userns-mode": "host",
        "run.oci.keep_original_groups": "1",
        "org.criu.config": "/etc/passwd",
        "agent.cgroup": "/",
        "com.docker.network.host": "true",
    });
    let image = Image::on("probe").set("Labels", labels).set("Volumes", json!({ "/etc": {}, "/proc": {} }));
    let report = json(&node.agent(&["run", "--rm", &node.push_and_pull("labels", &image)]).ok());
    assert_eq!(
        (&report["pid"], &report["no_new_privs"], &report["seccomp"]),
        (&json!(1), &json!(true), &json!(2))
    );
}

#[test]
fn a_log_replaced_by_a_link_is_not_followed() {
    let node = Node::new();
    let canary = Canary::new(&node);
    // CVE-2026-53489 needs somebody who may write where logs lie; what is inside a container may not.
    let id = node.detached(&["--name", "waits", PROBE, "wait"]);
    node.log_with("waits", "ready");
    let log = PathBuf::from(node.inspect(&id)["LogPath"].as_str().expect("it has a log"));
    let mode =
        fs::metadata(log.parent().expect("it lies somewhere")).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
    fs::remove_file(&log).expect("root may");
    std::os::unix::fs::symlink(canary.folder.join("file"), &log).expect("root may");
    assert_eq!(node.agent(&["kill", "-s", "USR1", "waits"]).ok(), "waits");
    assert_eq!(node.agent(&["stop", "waits"]).ok(), "waits");
    within(Duration::from_secs(5), "its end", || {
        (node.inspect(&id)["State"]["Running"] == json!(false)).then_some(())
    });
    canary.assert_untouched();
}
