//! Layers copied to one folder, compared entry by entry with what a real overlay mount of them shows. Needs root.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, makedev};
use tempfile::TempDir;

#[path = "pull/tree.rs"]
#[allow(dead_code, reason = "the other test looks at images of a store")]
mod tree;

const OPAQUE: (&str, &[u8]) = ("trusted.overlay.opaque", b"y");

/// A file capability of version 2: cap_net_raw, permitted and effective.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// An access list (and its default form): user 7 may read, the mask is `r-x`.
const ACCESS_LIST: [u8; 44] = [
    2, 0, 0, 0, // version
    1, 0, 7, 0, 0xff, 0xff, 0xff, 0xff, // owner rwx
    2, 0, 4, 0, 7, 0, 0, 0, // user 7 r--
    4, 0, 5, 0, 0xff, 0xff, 0xff, 0xff, // group r-x
    16, 0, 5, 0, 0xff, 0xff, 0xff, 0xff, // mask r-x
    32, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, // others ---
];

/// Layers being made by hand, top first, and a folder for their copy.
struct Scene {
    folder: TempDir,
    layers: Vec<PathBuf>,
}

impl Scene {
    fn new(layers: usize) -> Scene {
        let folder = tempfile::tempdir().expect("a folder");
        let layers: Vec<PathBuf> = (0..layers).map(|at| folder.path().join(at.to_string())).collect();
        for folder in layers.iter().chain([&folder.path().join("copy"), &folder.path().join("mount")]) {
            fs::create_dir(folder).expect("a folder");
        }
        Scene { folder, layers }
    }

    fn at(&self, layer: usize, path: &str) -> PathBuf {
        let path = self.layers[layer].join(path);
        fs::create_dir_all(path.parent().expect("below the layer")).expect("folders");
        path
    }

    fn file(&self, layer: usize, path: &str, text: &str) -> PathBuf {
        let path = self.at(layer, path);
        fs::write(&path, text).expect("a file");
        path
    }

    fn folder(&self, layer: usize, path: &str, mode: u32) -> PathBuf {
        let path = self.at(layer, path);
        fs::create_dir_all(&path).expect("a folder");
        chmod(&path, mode);
        path
    }

    fn node(&self, layer: usize, path: &str, kind: FileType, device: (u32, u32)) -> PathBuf {
        let path = self.at(layer, path);
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(CWD, &path, kind, mode, makedev(device.0, device.1)).expect("a device");
        path
    }

    fn whiteout(&self, layer: usize, path: &str) {
        self.node(layer, path, FileType::CharacterDevice, (0, 0));
    }

    fn opaque(&self, layer: usize, path: &str) {
        set_xattr(&self.folder(layer, path, 0o755), OPAQUE.0, OPAQUE.1);
    }

    fn copy(&self) -> PathBuf {
        let copy = self.folder.path().join("copy");
        image::copy_rootfs(&self.layers, &copy).expect("copied");
        copy
    }

    /// Lets `look` see the layers' mount.
    fn mounted<T>(&self, look: impl FnOnce(&Path) -> T) -> T {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).expect("tests run as root");
        let nothing = None::<&str>;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).expect("private");
        let lower: Vec<String> = self.layers.iter().map(|layer| layer.display().to_string()).collect();
        let options = format!("lowerdir={}", lower.join(":"));
        let place = self.folder.path().join("mount");
        mount(Some("overlay"), &place, Some("overlay"), MsFlags::MS_RDONLY, Some(&*options))
            .expect("mounted");
        let seen = look(&place);
        umount2(&place, MntFlags::MNT_DETACH).expect("unmounted");
        seen
    }

    fn assert_copied(&self) {
        let copy = tree::read(&self.copy());
        tree::assert_equal(&copy, &self.mounted(tree::read));
    }
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).expect("an attribute");
}

fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("a time");
}

#[test]
fn every_kind_of_entry_is_as_a_mount_shows_it() {
    let scene = Scene::new(2);
    let plain = scene.file(1, "dir/plain", "text");
    chown(&plain, Some(1234), Some(70_000)).expect("an owner");
    chmod(&plain, 0o4755);
    set_xattr(&plain, "security.capability", &CAPABILITY);
    set_xattr(&plain, "user.note", b"with\0zero");
    set_xattr(&plain, "trusted.overlay.origin", b"x");
    scene.file(1, "dir/empty", "");
    chmod(&scene.file(1, "dir/none", "no bits"), 0);
    for (name, device) in [("zero", (1, 5)), ("large", (4000, 70_000))] {
        let path = scene.node(1, &format!("dev/{name}"), FileType::CharacterDevice, device);
        lchown(&path, Some(3), Some(4)).expect("an owner");
        chmod(&path, 0o666);
        set_xattr(&path, "security.note", name.as_bytes());
    }
    scene.node(1, "dev/disk", FileType::BlockDevice, (0, 0));
    chmod(&scene.node(1, "dev/fifo", FileType::Fifo, (0, 0)), 0o1622);
    scene.node(1, "dev/socket", FileType::Socket, (0, 0));
    let outside = scene.folder.path().join("outside");
    fs::write(&outside, "untouched").expect("a file");
    symlink(&outside, scene.at(1, "links/out")).expect("a link");
    symlink("../dir", scene.at(1, "links/dir")).expect("a link");
    symlink("x".repeat(4000), scene.at(1, "links/long")).expect("a link");
    let link = scene.at(1, "links/owned");
    symlink("nowhere", &link).expect("a link");
    lchown(&link, Some(5), Some(6)).expect("an owner");
    set_xattr(&link, "security.note", b"of the link itself");
    set_time(&link, 7, 8);
    for name in ["\u{fffd}", "a\nb", ".wh.kept", "-rf", &"n".repeat(255)] {
        scene.file(1, &format!("names/{name}"), name);
    }
    let listed = scene.folder(1, "acl", 0o2750);
    scene.file(1, "acl/new", "its parent hands its access list down");
    set_xattr(&listed, "system.posix_acl_access", &ACCESS_LIST);
    set_xattr(&listed, "system.posix_acl_default", &ACCESS_LIST);
    scene.folder(1, "tmp", 0o1777);
    scene.folder(1, "closed", 0);
    set_time(&plain, -5, 999_999_999);
    set_time(&scene.layers[1].join("dev/zero"), 1 << 33, 1);
    for folder in ["dir", "links", "acl", "tmp", ""] {
        set_time(&scene.layers[1].join(folder), 1_000_000_000, 123_456_789);
    }
    // The copy's own folder must not hand anything down either.
    set_xattr(&scene.folder.path().join("copy"), "system.posix_acl_default", &ACCESS_LIST);
    scene.assert_copied();
    assert_eq!(fs::read_to_string(outside).expect("there"), "untouched");
}

#[test]
fn hidden_replaced_and_merged_entries_are_as_a_mount_shows_them() {
    let scene = Scene::new(4);
    // Deleted, and back again above it.
    scene.file(3, "gone/file", "old");
    scene.file(3, "gone/folder/file", "old");
    scene.whiteout(2, "gone/file");
    scene.whiteout(2, "gone/folder");
    scene.file(3, "back/file", "old");
    scene.whiteout(2, "back/file");
    scene.file(1, "back/file", "new");
    scene.file(3, "back/folder/old", "");
    scene.whiteout(2, "back/folder");
    scene.file(1, "back/folder/new", "");
    scene.file(3, "whole/a", "");
    scene.whiteout(0, "whole");
    // Opaque, with layers above and below.
    scene.file(3, "opaque/a/below", "");
    scene.file(2, "opaque/a/own", "");
    scene.opaque(2, "opaque/a");
    scene.file(1, "opaque/a/above", "");
    scene.file(3, "opaque/a/deep/er", "");
    scene.file(1, "opaque/a/deep/new", "");
    set_xattr(&scene.folder(1, "opaque/not", 0o755), OPAQUE.0, b"n");
    scene.file(3, "opaque/not/shown", "");
    // One kind in place of another.
    scene.file(3, "kinds/file", "");
    scene.folder(2, "kinds/file", 0o700);
    scene.file(3, "kinds/folder/hidden", "");
    scene.file(2, "kinds/folder", "");
    symlink("/etc", scene.at(3, "kinds/link")).expect("a link");
    scene.file(1, "kinds/link/passwd", "");
    scene.file(3, "kinds/device/hidden", "");
    scene.node(1, "kinds/device", FileType::CharacterDevice, (1, 3));
    // A file between two folders parts them.
    scene.file(3, "between/hidden", "");
    scene.file(2, "between", "");
    scene.file(1, "between/shown", "");
    // So does something deleted.
    scene.file(3, "parted/deep/hidden", "");
    scene.whiteout(2, "parted/deep");
    scene.file(1, "parted/deep/shown", "");
    // A merged folder is described by its topmost layer.
    for (layer, mode) in [(3, 0o700), (2, 0o711), (1, 0o1777)] {
        let folder = scene.folder(layer, "merged", mode);
        scene.file(layer, &format!("merged/{layer}"), "");
        scene.file(layer, "merged/same", &layer.to_string());
        chown(&folder, Some(layer as u32), Some(9)).expect("an owner");
        set_xattr(&folder, "user.layer", layer.to_string().as_bytes());
        set_time(&folder, layer as i64, 5);
    }
    // A mount does not heed the mark of its root.
    scene.file(3, "root/below", "");
    set_xattr(&scene.layers[2], OPAQUE.0, OPAQUE.1);
    chmod(&scene.layers[0], 0o750);
    set_time(&scene.layers[0], 77, 88);
    scene.assert_copied();
}

#[test]
fn what_is_deleted_where_nothing_is_stays_invisible() {
    let scene = Scene::new(2);
    scene.whiteout(1, "lowest/x");
    scene.file(1, "opaque/old", "");
    scene.opaque(0, "opaque");
    scene.whiteout(0, "opaque/x");
    let copy = scene.copy();
    scene.mounted(|mount| {
        for root in [&copy, mount] {
            for path in ["lowest/x", "opaque/x", "opaque/old"] {
                let error = fs::symlink_metadata(root.join(path)).expect_err(path);
                assert_eq!(error.kind(), io::ErrorKind::NotFound, "{path}");
            }
        }
    });
    assert_eq!(fs::read_dir(copy.join("lowest")).expect("a folder").count(), 0);
}

#[test]
fn names_of_one_inode_stay_together_within_their_layer() {
    let scene = Scene::new(2);
    let first = scene.file(1, "a/first", "shared");
    for name in ["a/second", "b/c/third", "b/hidden"] {
        fs::hard_link(&first, scene.at(1, name)).expect("a link");
    }
    scene.whiteout(0, "b/hidden");
    // The one that comes first may be the hidden one.
    for at in 0..20 {
        let name = format!("pairs/{at}");
        let one = scene.file(1, &format!("{name}/one"), &name);
        fs::hard_link(one, scene.at(1, &format!("{name}/other"))).expect("a link");
        scene.file(0, &format!("{name}/{}", if at % 2 == 0 { "one" } else { "other" }), "new");
    }
    let fifo = scene.node(1, "fifo", FileType::Fifo, (0, 0));
    fs::hard_link(fifo, scene.at(1, "again/fifo")).expect("a link");
    let link = scene.at(1, "link");
    symlink("target", &link).expect("a link");
    rustix::fs::linkat(CWD, &link, CWD, scene.at(1, "again/link"), AtFlags::empty()).expect("a link");
    scene.assert_copied();
    let inode = |name: &str| {
        let stat = fs::symlink_metadata(scene.folder.path().join("copy").join(name)).expect("there");
        (stat.ino(), stat.nlink())
    };
    assert_eq!(inode("a/first"), inode("b/c/third"));
    assert_eq!(inode("a/first").1, 3, "the hidden name is not counted");
    assert_eq!(inode("link"), inode("again/link"));
    let layer = fs::metadata(&first).expect("there");
    assert_ne!(layer.ino(), inode("a/first").0, "the layer's own file is another");
    assert_eq!(layer.nlink(), 4);
}

#[test]
fn holes_stay_holes() {
    let scene = Scene::new(2);
    let sparse = fs::File::create(scene.at(1, "sparse")).expect("a file");
    sparse.set_len(1 << 40).expect("a size");
    for at in [0, 10 << 20, (1 << 40) - 3] {
        sparse.write_all_at(b"abc", at).expect("written");
    }
    fs::File::create(scene.at(1, "hole")).expect("a file").set_len(5 << 20).expect("a size");
    let copy = scene.copy();
    for (name, blocks) in [("sparse", 64), ("hole", 0)] {
        let of = |root: &Path| fs::metadata(root.join(name)).expect("there");
        assert_eq!(of(&copy).size(), of(&scene.layers[1]).size(), "{name}");
        assert!(of(&copy).blocks() <= blocks, "{name}: {} blocks", of(&copy).blocks());
    }
    let sparse = fs::File::open(copy.join("sparse")).expect("there");
    for (at, expected) in [(0, b"abc\0"), (10 << 20, b"abc\0"), ((1 << 40) - 4, b"\0abc"), (1 << 30, &[0; 4])]
    {
        let mut read = [1; 4];
        sparse.read_exact_at(&mut read, at).expect("read");
        assert_eq!(&read, expected, "at {at}");
    }
}

#[test]
fn a_tree_too_deep_for_descriptors_and_paths_is_copied() {
    const DEPTH: usize = 600;
    let scene = Scene::new(2);
    // From the inside out, so that no path grows long: each new folder takes the last one in.
    let (inner, outer) = (scene.layers[1].join("inner"), scene.layers[1].join("outer"));
    fs::create_dir(&inner).expect("a folder");
    fs::write(inner.join("bottom"), "x").expect("a file");
    fs::hard_link(inner.join("bottom"), inner.join("again")).expect("a link");
    let name = "d".repeat(200);
    for _ in 0..DEPTH {
        fs::create_dir(&outer).expect("a folder");
        fs::rename(&inner, outer.join(&name)).expect("moved");
        fs::rename(&outer, &inner).expect("moved");
    }
    let copy = scene.copy();
    let mut at =
        rustix::fs::open(copy.join("inner"), rustix::fs::OFlags::PATH, Mode::empty()).expect("there");
    for depth in 0..DEPTH {
        at = rustix::fs::openat(&at, &name, rustix::fs::OFlags::PATH, Mode::empty())
            .unwrap_or_else(|error| panic!("at {depth}: {error}"));
    }
    let stat = rustix::fs::statat(&at, "again", AtFlags::SYMLINK_NOFOLLOW).expect("there");
    assert_eq!(stat.st_nlink, 2);
    for folder in [&copy, &scene.layers[1]] {
        let removed = std::process::Command::new("rm").arg("-rf").arg(folder).status().expect("it runs");
        assert!(removed.success());
    }
}

#[test]
fn only_an_empty_folder_is_filled() {
    let scene = Scene::new(2);
    let copy = scene.folder.path().join("copy");
    fs::write(copy.join("mine"), "").expect("a file");
    let error = image::copy_rootfs(&scene.layers, &copy).expect_err("it is not empty");
    assert!(error.to_string().contains("copy") && !error.to_string().contains("not empty"), "{error}");
    let source = std::error::Error::source(&error).expect("why").to_string();
    assert!(source.contains("not empty"), "{source}");
    assert!(
        image::copy_rootfs(&[scene.folder.path().join("no")], &scene.folder.path().join("mount")).is_err()
    );
}
