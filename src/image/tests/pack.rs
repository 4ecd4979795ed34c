//! What is packed is unpacked again the same: by us, by GNU tar, by umoci. Over trees and changes that are made up from
//! a seed, and over Debian's own files. Needs root.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use image::pack::{ChangeKind, Excluded, Layers, Packed, changes, pack_layer, pack_tree};
use image::unpack::below::Below;
use image::unpack::{Limits, unpack};
use tempfile::TempDir;

#[path = "pack/generate.rs"]
mod generate;
#[path = "pack/mounted.rs"]
mod mounted;
#[path = "pull/tree.rs"]
#[allow(dead_code, reason = "another test looks at images of a store")]
mod tree;
#[path = "pack/umoci.rs"]
mod umoci;

use generate::Generator;

type Tree = BTreeMap<PathBuf, tree::Node>;

/// How many seeds are tried.
fn rounds() -> u64 {
    let all = std::env::var_os("AGENT_TEST_ALL").is_some_and(|value| value != "0" && !value.is_empty());
    if all { 60 } else { 8 }
}

/// Runs a test for each seed, or for the one that the variable gives.
fn for_each_seed(test: impl Fn(&mut Generator)) {
    let seeds = match std::env::var("AGENT_TEST_SEED") {
        Ok(text) => vec![text.parse().expect("a number")],
        Err(_) => (0..rounds()).collect::<Vec<u64>>(),
    };
    for seed in seeds {
        eprintln!("AGENT_TEST_SEED={seed} repeats what comes now");
        test(&mut Generator::new(seed));
    }
}

fn folder(path: &Path) -> PathBuf {
    fs::create_dir_all(path).expect("a folder");
    path.to_owned()
}

fn plain(root: &Path) -> Layers {
    Layers::plain(OwnedFd::from(File::open(root).expect("a folder")))
}

/// Packs a tree and says where the archive is.
fn packed(root: &Path, archive: &Path) -> Packed {
    let out = File::create(archive).expect("a file");
    pack_tree(&plain(root), Path::new(""), out).expect("packed")
}

/// Unpacks an archive over the layers below, top first.
fn unpacked(archive: &Path, to: &Path, below: &[PathBuf]) -> PathBuf {
    let to = folder(to);
    let archive = BufReader::new(File::open(archive).expect("an archive"));
    let below = Below::open(below).expect("layers");
    unpack(archive, &to, &Limits::default()).expect("unpacked").settle(&below).expect("settled");
    to
}

fn by_gnu_tar(archive: &Path, to: &Path) -> PathBuf {
    let to = folder(to);
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--preserve-permissions", "--numeric-owner", "--xattrs", "--xattrs-include=*"]);
    // A file of holes alone is not filled with zeros.
    let status = tar.arg("--file").arg(archive).arg("--directory").arg(&to).output().expect("GNU tar");
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    to
}

#[test]
fn generated_trees_come_back_the_same() {
    for_each_seed(|generator| {
        let dir = TempDir::new().expect("a folder");
        let root = folder(&dir.path().join("root"));
        generator.fill(&root);
        let archive = dir.path().join("archive");
        let told = packed(&root, &archive);
        assert_eq!(told.left_out.told, []);
        let again = dir.path().join("again");
        assert_eq!(packed(&root, &again), told);
        assert!(fs::read(&archive).expect("read") == fs::read(&again).expect("read"), "not the same twice");
        let expected = tree::read(&root);
        tree::assert_equal(&tree::read(&unpacked(&archive, &dir.path().join("ours"), &[])), &expected);
        tree::assert_equal(&tree::read(&by_gnu_tar(&archive, &dir.path().join("gnu"))), &expected);
    });
}

#[test]
fn umoci_reads_what_is_packed() {
    for_each_seed(|generator| {
        let dir = TempDir::new().expect("a folder");
        let root = folder(&dir.path().join("root"));
        generator.fill(&root);
        let archive = dir.path().join("archive");
        packed(&root, &archive);
        let theirs = tree::read(&umoci::unpack(&[&archive], dir.path()));
        let expected = tree::read(&root);
        tree::assert_equal(&theirs, &expected);
    });
}

#[test]
fn debian_comes_back_the_same() {
    let dir = TempDir::new().expect("a folder");
    let root = umoci::unpack_image("base", dir.path());
    let archive = dir.path().join("archive");
    assert_eq!(packed(&root, &archive).left_out.told, []);
    let expected = tree::read(&root);
    assert!(expected.len() > 3000, "it is a whole system");
    tree::assert_equal(&tree::read(&unpacked(&archive, &dir.path().join("ours"), &[])), &expected);
    tree::assert_equal(&tree::read(&by_gnu_tar(&archive, &dir.path().join("gnu"))), &expected);
}

/// What a container sees of its image and changes, and the layer that is made of that, laid over the image again.
fn check_layer(generator: &mut Generator, make: impl Fn(&mut Generator, &Path, &Path) -> (Tree, Layers)) {
    let dir = TempDir::new().expect("a folder");
    let image = folder(&dir.path().join("image"));
    generator.fill(&image);
    let (expected, top) = make(generator, &image, dir.path());
    let below = Layers::open(std::slice::from_ref(&image)).expect("a layer");
    let archive = dir.path().join("layer");
    let out = File::create(&archive).expect("a file");
    let told = pack_layer(&top, &below, &Excluded::default(), out).expect("packed");
    assert_eq!(told.left_out.told, []);

    let layer = unpacked(&archive, &dir.path().join("layer-unpacked"), std::slice::from_ref(&image));
    let layers = [layer, image];
    let found = mounted::look(&layers, tree::read);
    tree::assert_equal(&found, &expected);
    // umoci has no overlay: what it makes of both layers is one folder.
    let bottom = dir.path().join("bottom");
    packed(&layers[1], &bottom);
    let theirs = tree::read(&umoci::unpack(&[&bottom, &archive], dir.path()));
    tree::assert_equal(&theirs, &found);

    // The list tells of the same changes.
    let list = changes(&top, &below, &Excluded::default()).expect("compared");
    let before = tree::read(&layers[1]);
    for change in &list {
        let path = change.path.strip_prefix("/").expect("absolute");
        let there = (before.contains_key(path), expected.contains_key(path));
        let right = match change.kind {
            ChangeKind::Added => there == (false, true),
            ChangeKind::Modified => there == (true, true),
            ChangeKind::Deleted => there == (true, false),
        };
        assert!(right, "{change:?}");
    }
    assert!(list.is_sorted_by(|a, b| a.path.components().lt(b.path.components())), "{list:?}");
    let listed = |path: &PathBuf| list.iter().any(|change| change.path == Path::new("/").join(path));
    for path in before.keys().filter(|path| !expected.contains_key(*path)) {
        let parent_went = path
            .ancestors()
            .skip(1)
            .any(|above| !expected.contains_key(above) || !above_is_folder(&expected, above));
        assert!(listed(path) || parent_went, "{} went", path.display());
    }
    for path in expected.keys().filter(|path| !before.contains_key(*path)) {
        assert!(listed(path), "{} is new", path.display());
    }
}

fn above_is_folder(tree: &Tree, path: &Path) -> bool {
    tree.get(path).is_some_and(|node| node.mode & 0o170_000 == 0o040_000)
}

#[test]
fn the_changes_of_an_overlay_are_a_layer() {
    for_each_seed(|generator| {
        check_layer(generator, |generator, image, dir| {
            let upper = folder(&dir.join("upper"));
            let tree = mounted::change(image, &upper, &folder(&dir.join("work")), |root| {
                generator.change(root);
                tree::read(root)
            });
            (tree, Layers::open(&[upper]).expect("a layer"))
        });
    });
}

#[test]
fn the_changes_of_a_copy_are_a_layer() {
    for_each_seed(|generator| {
        check_layer(generator, |generator, image, dir| {
            let copy = folder(&dir.join("copy"));
            image::copy_rootfs(&[image.to_owned()], &copy).expect("copied");
            generator.change(&copy);
            (tree::read(&copy), Layers::plain_at(&copy).expect("a folder"))
        });
    });
}

#[test]
fn layers_over_each_other_are_packed_as_one() {
    for_each_seed(|generator| {
        let dir = TempDir::new().expect("a folder");
        let image = folder(&dir.path().join("image"));
        generator.fill(&image);
        let upper = folder(&dir.path().join("upper"));
        let expected = mounted::change(&image, &upper, &folder(&dir.path().join("work")), |root| {
            generator.change(root);
            tree::read(root)
        });
        let archive = dir.path().join("archive");
        let layers = Layers::open(&[upper, image]).expect("layers");
        pack_tree(&layers, Path::new(""), File::create(&archive).expect("a file")).expect("packed");
        tree::assert_equal(&tree::read(&unpacked(&archive, &dir.path().join("ours"), &[])), &expected);
    });
}

#[test]
fn what_an_archive_cannot_hold_is_left_out_and_told() {
    let dir = TempDir::new().expect("a folder");
    let (upper, image) = (folder(&dir.path().join("upper")), folder(&dir.path().join("image")));
    fs::write(upper.join(".wh.name"), "x").expect("a file");
    fs::write(upper.join("kept"), "x").expect("a file");
    let _socket = std::os::unix::net::UnixListener::bind(upper.join("socket")).expect("a socket");
    fs::create_dir(upper.join("hidden")).expect("a folder");
    fs::write(upper.join("hidden/file"), "x").expect("a file");
    let below = Layers::open(&[image]).expect("layers");
    let archive = dir.path().join("layer");
    let excluded: Excluded = ["/hidden", "nothing"].into_iter().collect();
    let top = Layers::open(&[upper]).expect("layers");
    let told = pack_layer(&top, &below, &excluded, File::create(&archive).expect("a file")).expect("packed");
    let paths: Vec<&str> = told.left_out.told.iter().map(|left| left.path.as_str()).collect();
    assert_eq!((paths, told.left_out.count), (vec![".wh.name", "socket"], 2));
    let there = tree::read(&unpacked(&archive, &dir.path().join("ours"), &[]));
    let names: Vec<&PathBuf> = there.keys().collect();
    assert_eq!(names, [Path::new(""), Path::new("kept")]);
    let list = changes(&top, &below, &excluded).expect("compared");
    let listed: Vec<&str> = list.iter().map(|change| change.path.to_str().expect("plain")).collect();
    assert_eq!(listed, ["/.wh.name", "/kept", "/socket"]);
}

#[test]
fn marks_that_stand_for_other_layers_are_refused() {
    let dir = TempDir::new().expect("a folder");
    let (upper, image) = (folder(&dir.path().join("upper")), folder(&dir.path().join("image")));
    let moved = folder(&upper.join("moved"));
    let empty = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&moved, "trusted.overlay.redirect", b"/was", empty).expect("root may");
    let (top, below) = (Layers::open(&[upper]).expect("layers"), Layers::open(&[image]).expect("layers"));
    let refused = changes(&top, &below, &Excluded::default()).expect_err("a mark");
    assert!(refused.to_string().contains("trusted.overlay.redirect"), "{refused}");
}

#[test]
fn a_file_that_shrinks_while_it_is_read_leaves_a_whole_archive() {
    /// Cuts a file as soon as the archive reaches it.
    struct Cutting(Vec<u8>, PathBuf);
    impl Write for Cutting {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let file = File::options().write(true).open(&self.1)?;
            file.set_len(1000)?;
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let dir = TempDir::new().expect("a folder");
    let root = folder(&dir.path().join("root"));
    let file = root.join("file");
    fs::write(&file, vec![b'x'; 8 << 20]).expect("a file");
    fs::write(root.join("next"), "after").expect("a file");
    let mut out = Cutting(Vec::new(), file);
    let told = pack_tree(&plain(&root), Path::new(""), &mut out).expect("packed");
    assert_eq!(told.left_out.count, 1, "{told:?}");
    let archive = dir.path().join("archive");
    fs::write(&archive, &out.0).expect("a file");
    let there = unpacked(&archive, &dir.path().join("ours"), &[]);
    let content = fs::read(there.join("file")).expect("a file");
    assert_eq!((content.len(), content.last()), (8 << 20, Some(&0)));
    assert_eq!(fs::read_to_string(there.join("next")).expect("a file"), "after");
}

#[test]
fn files_of_more_than_8_gib_of_data_or_holes_are_whole() {
    let dir = TempDir::new().expect("a folder");
    let root = folder(&dir.path().join("root"));
    let file = File::create(root.join("holes")).expect("a file");
    file.set_len(9 << 30).expect("room");
    for at in [0, 3 << 30, (9 << 30) - 3] {
        std::os::unix::fs::FileExt::write_all_at(&file, b"abc", at).expect("room");
    }
    let archive = dir.path().join("archive");
    packed(&root, &archive);
    assert!(fs::metadata(&archive).expect("there").len() < 1 << 20, "holes are not stored");
    for there in
        [unpacked(&archive, &dir.path().join("ours"), &[]), by_gnu_tar(&archive, &dir.path().join("gnu"))]
    {
        let file = File::open(there.join("holes")).expect("a file");
        assert_eq!(file.metadata().expect("there").len(), 9 << 30);
        for (at, expected) in [(0, b"abc\0"), (3 << 30, b"abc\0"), ((9 << 30) - 4, b"\0abc")] {
            let mut found = [0; 4];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut found, at).expect("data");
            assert_eq!(&found, expected);
        }
    }
}

#[test]
fn a_deep_tree_needs_few_descriptors_and_no_deep_stack() {
    const DEPTH: usize = 3000;
    let dir = TempDir::new().expect("a folder");
    let root = folder(&dir.path().join("root"));
    let mut at = OwnedFd::from(File::open(&root).expect("a folder"));
    let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    for _ in 0..DEPTH {
        rustix::fs::mkdirat(&at, "folder", rustix::fs::Mode::RWXU).expect("a folder");
        at = rustix::fs::openat(&at, "folder", flags, rustix::fs::Mode::empty()).expect("a folder");
    }
    let told = pack_tree(&plain(&root), Path::new(""), std::io::sink()).expect("packed");
    assert_eq!(told.entries, DEPTH as u64 + 1);
}
