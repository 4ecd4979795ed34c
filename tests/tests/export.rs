//! `agent export` gives all files of a container, without those of its mounts: the same as umoci and podman give.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::support::image::layout_of;
use tests::support::program::{self, LIMIT};
use tests::support::terminal::Terminal;
use tests::support::{extent, tree};
use tests::{BASE, Node};

/// What a container has of its own.
const OWN: [&str; 7] = ["proc", "sys", "dev", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab"];

const SCRIPT: &str = "echo changed >/etc/debian_version; rm /bin/ls; mkdir /new; echo x >/new/file; rm -rf /usr/share/doc; \
    chmod 4711 /opt; ln /bin/true /true; mkfifo -m 600 /new/fifo; ln -s /a/b /link; truncate -s 3M /new/holes; \
    setfattr -n user.x -v 1 /new/file 2>/dev/null; rm -r /srv; chown -h 7:8 /link; touch -hd @1.5 /new/file /new /link";

fn by_tar(node: &Node, archive: &Path, name: &str) -> PathBuf {
    let root = node.dir().join(name);
    fs::create_dir(&root).expect("the folder is ours");
    let (archive, folder) = (archive.to_str().expect("plain"), root.to_str().expect("plain"));
    let words = ["tar", "-xpf", archive, "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", folder];
    let _ = program::tool(words);
    root
}

fn read(root: &Path) -> tree::Tree {
    let mut tree = tree::read(root, &OWN).expect("root may look");
    // Those that the container's own files lie in.
    for folder in ["", "etc"] {
        if let Some(words) = tree.get_mut(Path::new(folder)) {
            *words = words.split(", changed ").next().unwrap_or_default().to_owned();
        }
    }
    tree
}

/// One that runs, with files in its mounts, and the root that it sees.
fn check(driver: &str) {
    let mut node = Node::new();
    node.pull(BASE);
    node.set("AGENT_ROOTFS_DRIVER", driver);
    let script = format!("{SCRIPT}; echo x >/volume/x; echo x >/memory/x; echo done; exec sleep 1000");
    let options = ["--name", "busy", "-v", "kept:/volume", "--tmpfs", "/memory"];
    node.detached(&[&options[..], &[BASE, "sh", "-c", &script]].concat());
    node.log_with("busy", "done");
    let archive = node.dir().join("busy.tar");
    let to_stdout = Command::new("sh")
        .args(["-c", "exec \"$0\" export busy >busy.tar"])
        .arg(tests::support::node::binary("agent"))
        .current_dir(node.dir())
        .envs(node.command().get_envs().filter_map(|(name, value)| Some((name, value?))))
        .status();
    assert!(to_stdout.expect("a shell").success());
    let found = read(&by_tar(&node, &archive, "busy"));
    let live = PathBuf::from(format!("/proc/{}/root", node.pid("busy")));
    let mut expected = read(&live);
    for mounted in ["volume", "memory"] {
        assert!(found[Path::new(mounted)].starts_with("directory"), "an empty place");
        expected.retain(|path, _| !path.starts_with(mounted) || path == Path::new(mounted));
        expected.insert(mounted.into(), found[Path::new(mounted)].clone());
    }
    tree::assert_equal(&found, &expected);
}

#[test]
fn an_overlay_is_exported_whole() {
    check("overlay");
}

#[test]
fn a_copy_is_exported_whole() {
    check("copy");
}

#[test]
fn an_unchanged_container_is_its_image_as_by_umoci() {
    let node = Node::new();
    node.pull(BASE);
    let _ = node.agent(&["run", "--name", "plain", BASE, "true"]).ok();
    let archive = node.dir().join("plain.tar");
    assert_eq!(node.agent(&["export", "-o", archive.to_str().expect("plain"), "plain"]).ok(), "");
    let bundle = node.dir().join("bundle");
    let layout = format!("{}:latest", layout_of("base").display());
    let _ = program::tool(["umoci", "unpack", "--image", &layout, bundle.to_str().expect("plain")]);
    tree::assert_equal(&read(&by_tar(&node, &archive, "plain")), &read(&bundle.join("rootfs")));
}

#[test]
fn podman_exports_the_same() {
    if Command::new("podman").arg("--version").output().is_err() {
        assert!(!extent::all(), "podman is not installed: scripts/setup --all");
        eprintln!("skipped: podman is not installed");
        return;
    }
    let node = Node::new();
    node.pull(BASE);
    let _ = node.agent(&["run", "--name", "ours", BASE, "sh", "-c", SCRIPT]).ok();
    let archive = node.dir().join("ours.tar");
    assert_eq!(node.agent(&["export", "-o", archive.to_str().expect("plain"), "ours"]).ok(), "");

    let podman = |words: &[&str]| {
        let mut command = Command::new("podman");
        command
            .arg("--root")
            .arg(node.dir().join("podman"))
            .arg("--runroot")
            .arg(node.dir().join("podman-run"));
        command.args([
            "--storage-driver",
            "overlay",
            "--cgroup-manager",
            "cgroupfs",
            "--events-backend",
            "none",
        ]);
        program::run(command.args(words), b"", LIMIT).ok()
    };
    let layout = fs::canonicalize(layout_of("base")).expect("it is there");
    let id = podman(&["pull", "-q", &format!("oci:{}", layout.display())]);
    podman(&["create", "--name", "theirs", "--network", "none", &id, "sh"]);
    // It needs more to run one than every machine has; a shell in its root does the same to it.
    let root = podman(&["mount", "theirs"]);
    let _ = program::tool(["chroot", &root, "sh", "-c", SCRIPT]);
    podman(&["umount", "theirs"]);
    let theirs = node.dir().join("theirs.tar");
    podman(&["export", "-o", theirs.to_str().expect("plain"), "theirs"]);
    podman(&["rm", "-f", "theirs"]);
    podman(&["rmi", "-f", &id]);
    let [mut ours, mut theirs] =
        [by_tar(&node, &archive, "by-us"), by_tar(&node, &theirs, "by-podman")].map(|root| read(&root));
    for tree in [&mut ours, &mut theirs] {
        // It has no entry for the root, cuts times to the second, which differ by the run, and keeps no attributes.
        tree.remove(Path::new(""));
        for words in tree.values_mut() {
            let link = words.split_once(", the same as").map(|(_, link)| link.to_owned());
            *words = words.split(", changed ").next().unwrap_or_default().to_owned();
            words.extend(link);
        }
    }
    tree::assert_equal(&ours, &theirs);
}

#[test]
fn a_file_is_written_whole_or_not_at_all() {
    let node = Node::new();
    let file = node.dir().join("out.tar");
    fs::write(&file, "before").expect("the folder is ours");
    let refused = node.agent(&["export", "-o", file.to_str().expect("plain"), "missing"]).refused(1);
    assert!(refused.contains("no such container: missing"), "{refused}");
    assert_eq!(fs::read_to_string(&file).expect("untouched"), "before");
    let _ = node.agent(&["run", "--name", "there", tests::PROBE, "report"]).ok();
    let nowhere = node.dir().join("no/such/folder.tar");
    let refused = node.agent(&["export", "-o", nowhere.to_str().expect("plain"), "there"]).refused(1);
    assert!(refused.contains("failed to write") && refused.contains("folder.tar"), "{refused}");
    // A device stays one.
    assert_eq!(node.agent(&["export", "-o", "/dev/null", "there"]).ok(), "");
    // Nor to somebody who looks at it.
    let mut command = node.command();
    let (code, shown) = Terminal::start(command.args(["export", "there"]), 24, 80).finish();
    assert!(code == 1 && shown.contains("not written to a terminal"), "{shown}");
    let names: Vec<_> = fs::read_dir(node.dir())
        .expect("ours")
        .map(|entry| entry.expect("ours").file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("tar"))
        .collect();
    assert_eq!(names, ["out.tar"]);
}

#[test]
fn a_container_that_is_removed_meanwhile_is_not_exported() {
    let node = Node::new();
    node.pull(BASE);
    let _ = node.agent(&["run", "--name", "there", BASE, "true"]).ok();
    let mut command = Command::new("bash");
    node.environment(&mut command);
    // Most of it does not fit into the pipe, and is still to be read when the container goes.
    let line = "set -o pipefail; \"$AGENT\" export there | (head -c 512 >/dev/null; \"$AGENT\" rm there >/dev/null; cat >/dev/null)";
    let agent = tests::support::node::binary("agent");
    let output = program::run(command.args(["-c", line]).env("AGENT", agent), b"", LIMIT);
    let refused = output.refused(1);
    assert!(refused.contains("no such container"), "{refused}");
}
