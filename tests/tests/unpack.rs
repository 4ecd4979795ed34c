//! The files a container finds are those of its image, entry by entry as `umoci unpack` gives them.

use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::json;
use tar::EntryType;
use tests::support::image::layout_of;
use tests::support::layer::Entry;
use tests::support::program;
use tests::support::tree;
use tests::{BASE, Image, Layer, Node};

/// What a container has of its own: mounts, and the files that every container needs.
const OWN: [&str; 7] = ["proc", "sys", "dev", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab"];

/// Unpacks an image by umoci, and returns its root.
fn by_umoci(node: &Node, layout: &Path) -> PathBuf {
    let bundle = node.dir().join(format!("bundle-{}", layout.file_name().expect("it has a name").display()));
    let image = format!("{}:latest", layout.display());
    let bundle_text = bundle.to_str().expect("it is plain");
    let _ = program::tool(["umoci", "unpack", "--image", &image, bundle_text]);
    bundle.join("rootfs")
}

/// Compares the root of a running container with what umoci unpacked. The times of folders that a container's own
/// files lie in are its own, and those of folders `undescribed` by the image are the times of their making.
#[track_caller]
fn assert_same(node: &Node, container: &str, expected: &Path, undescribed: &[&str]) {
    let root = PathBuf::from(format!("/proc/{}/root", node.pid(container)));
    let mut found = tree::read(&root, &OWN).expect("root may look");
    let mut expected = tree::read(expected, &OWN).expect("root may look");
    for timeless in ["", "etc"].iter().chain(undescribed) {
        for tree in [&mut found, &mut expected] {
            if let Some(words) = tree.get_mut(Path::new(timeless)) {
                *words = words.split(", changed ").next().unwrap_or_default().to_owned();
            }
        }
    }
    tree::assert_equal(&found, &expected);
}

#[test]
fn debian_is_the_same_as_by_umoci() {
    let node = Node::new();
    node.detached(&["--name", "base", BASE, "sleep", "1000"]);
    let expected = by_umoci(&node, &layout_of("base"));
    assert_same(&node, "base", &expected, &[]);
}

#[test]
fn every_kind_of_entry_is_the_same_as_by_umoci() {
    let node = Node::new();
    let capability: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let entry = Entry::default;
    let first = Layer::new()
        .dir("dir")
        .file("dir/plain", "text")
        .file("dir/empty", "")
        .file("dir/large", vec![b'x'; 3 << 20])
        .entry(&Entry { path: "dir/setuid", mode: 0o4755, content: b"x", ..entry() })
        .entry(&Entry { path: "dir/setgid", mode: 0o2711, gid: 50, content: b"x", ..entry() })
        .entry(&Entry { path: "dir/owned", mode: 0o600, uid: 1000, gid: 2000, content: b"x", ..entry() })
        .entry(&Entry { path: "dir/old", mtime: 1, content: b"x", ..entry() })
        .entry(&Entry { path: "sticky", kind: EntryType::Directory, mode: 0o1777, ..entry() })
        .entry(&Entry {
            path: "closed",
            kind: EntryType::Directory,
            mode: 0o000,
            uid: 7,
            mtime: 1000,
            ..entry()
        })
        .file("closed/in", "x")
        .symlink("dir/link", "plain")
        .symlink("dir/dangling", "/no/where")
        .symlink("dir/up", "../../../../etc/passwd")
        .hardlink("dir/again", "dir/plain")
        .hardlink("third", "dir/plain")
        .hardlink("dir/linkagain", "dir/link")
        .entry(&Entry { path: "fifo", kind: EntryType::Fifo, mode: 0o640, ..entry() })
        .entry(&Entry { path: "null", kind: EntryType::Char, mode: 0o666, device: (1, 3), ..entry() })
        .entry(&Entry {
            path: "disk",
            kind: EntryType::Block,
            mode: 0o660,
            device: (8, 1),
            gid: 6,
            ..entry()
        })
        .entry(&Entry {
            path: "attributes",
            content: b"x",
            xattrs: &[("user.one", b"1"), ("user.zero", b""), ("security.capability", capability)],
            ..entry()
        })
        .dir("gone")
        .file("gone/file", "x")
        .file("gone-file", "x")
        .dir("emptied")
        .file("emptied/old", "x")
        .dir("emptied/olddir")
        .file("emptied/olddir/x", "x")
        .file("becomes-dir", "x")
        .dir("becomes-file")
        .file("becomes-file/x", "x")
        .dir("kept")
        .file("kept/kept", "x")
        .dir("real")
        .symlink("alias", "real");
    let second = Layer::new()
        .whiteout("", "gone")
        .whiteout("", "gone-file")
        .dir("emptied")
        .file("emptied/new", "y")
        .opaque("emptied/")
        .dir("becomes-dir")
        .file("becomes-dir/y", "y")
        .file("becomes-file", "y")
        .entry(&Entry { path: "kept", kind: EntryType::Directory, mode: 0o700, uid: 9, ..entry() })
        .file("kept/new", "y")
        .file("dir/plain", "replaced")
        .file("parents/are/missing", "y");
    let third = Layer::new()
        .dir("gone")
        .file("gone/back", "z")
        .whiteout("kept/", "kept")
        .whiteout("", "never-there")
        .hardlink("from-below", "dir/large");
    let image = Image::on("probe").layer(first).layer(second).layer(third).set("Cmd", json!(["wait"]));
    let name = node.push("every", &image);
    node.detached(&["--name", "every", &name]);
    node.log_with("every", "ready");
    let expected = by_umoci(&node, &node.dir().join("layouts/every"));
    assert_same(&node, "every", &expected, &["parents", "parents/are"]);
    // The container's user may use what the modes say, and the device that stands for nothing.
    let told = node.agent(&["exec", "every", "/probe", "report", "/null", "/disk", "/closed"]).ok();
    let told = tests::support::node::json(&told);
    assert_eq!(
        (&told["paths"]["/null"]["write"], &told["paths"]["/disk"]["read"]),
        (&json!("ok"), &json!("EPERM"))
    );
}

#[test]
fn what_a_container_changes_does_not_reach_the_image() {
    let node = Node::new();
    let layers = |node: &Node| tree::read(&node.root().join("layers"), &[]).expect("root may look");
    node.pull(BASE);
    let before = layers(&node);
    let script = "chmod 777 /etc /etc/passwd; rm -rf /usr/share; echo >>/etc/passwd; chown 1:1 /bin/sh; \
                  mv /var /rav; setfattr -n user.x -v 1 / 2>/dev/null; ln /bin/true /true; mkdir -p /opt/a/b";
    let _ = node.agent(&["run", "--rm", BASE, "sh", "-c", script]).ok();
    tree::assert_equal(&layers(&node), &before);
    // A device made outside the image is no use either, as it lies in a layer of its own.
    let node_path = node.dir().join("zero");
    mknod(&node_path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 5)).expect("root may");
    let bind = format!("{}:/zero", node_path.display());
    let report = node.probe(&["-v", &bind], &["report", "/zero"]);
    assert_eq!(report["paths"]["/zero"]["kind"], "char");
}
