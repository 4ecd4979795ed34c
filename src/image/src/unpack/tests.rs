//! Layers built in memory, friendly and hostile, and what becomes of them on disk.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tar::{EntryType, Header};

use super::below::Below;
use super::error::UnpackError;
use super::limits::Limits;
use super::unpack;

/// A folder that goes with the test: `layer` is unpacked into, everything beside it must stay as it is.
struct Place {
    root: PathBuf,
}

impl Place {
    fn new(name: &str) -> Place {
        let root = std::env::temp_dir().join(format!("image-unpack-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&root));
        fs::create_dir_all(root.join("outside")).expect("a folder");
        fs::write(root.join("outside/secret"), "secret").expect("a file");
        Place { root }
    }

    /// Unpacks one more layer on top of those given, bottom first, and returns its folder.
    fn layer(&self, name: &str, below: &[&Path], archive: &[u8]) -> Result<PathBuf, UnpackError> {
        let folder = self.root.join(name);
        fs::create_dir(&folder).expect("a folder");
        let below: Vec<PathBuf> = below.iter().rev().map(|path| path.to_path_buf()).collect();
        let unpacked = unpack(archive, &folder, &Limits::default())?;
        unpacked.settle(&Below::open(&below).expect("layers"))?;
        Ok(folder)
    }

    fn assert_outside_untouched(&self) {
        let secret = self.root.join("outside/secret");
        assert_eq!(fs::read_to_string(&secret).expect("still there"), "secret");
        let found = fs::metadata(&secret).expect("still there");
        assert_eq!((found.nlink(), found.mode() & 0o7777, found.uid()), (1, 0o644, 0));
        assert_eq!(fs::read_dir(self.root.join("outside")).expect("a folder").count(), 1);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.root).expect("removable");
    }
}

/// Builds an archive entry by entry, with whatever names and links are asked for.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn raw(mut self, kind: EntryType, name: &str, link: &str, mode: u32, data: &[u8]) -> Tar {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        header.set_device_major(1).expect("fits");
        header.set_device_minor(3).expect("fits");
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.body(data)
    }

    fn body(mut self, data: &[u8]) -> Tar {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, data: &str) -> Tar {
        self.raw(EntryType::Regular, name, "", 0o644, data.as_bytes())
    }

    fn folder(self, name: &str) -> Tar {
        self.raw(EntryType::Directory, name, "", 0o755, b"")
    }

    fn symlink(self, name: &str, to: &str) -> Tar {
        self.raw(EntryType::Symlink, name, to, 0o777, b"")
    }

    fn hardlink(self, name: &str, to: &str) -> Tar {
        self.raw(EntryType::Link, name, to, 0o644, b"")
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Tar {
        let mut body = Vec::new();
        for (key, value) in records {
            let bare = key.len() + value.len() + 3;
            let mut length = bare + 1;
            while length != bare + length.to_string().len() {
                length = bare + length.to_string().len();
            }
            body.extend_from_slice(format!("{length} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.raw(EntryType::XHeader, "pax", "", 0o644, &body)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// Every path below a folder, with one letter for its kind (and `!` for a whiteout, `o` for an opaque folder).
fn shape(folder: &Path) -> BTreeMap<String, char> {
    fn walk(root: &Path, folder: &Path, found: &mut BTreeMap<String, char>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let stat = fs::symlink_metadata(&path).expect("there");
            let kind = stat.file_type();
            let letter = match () {
                () if kind.is_dir() && opaque(&path) => 'o',
                () if kind.is_dir() => 'd',
                () if kind.is_symlink() => 'l',
                () if kind.is_char_device() && stat.rdev() == 0 => '!',
                () if kind.is_char_device() => 'c',
                () if kind.is_fifo() => 'p',
                () => 'f',
            };
            found.insert(path.strip_prefix(root).expect("below").to_string_lossy().into_owned(), letter);
            if kind.is_dir() {
                walk(root, &path, found);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(folder, folder, &mut found);
    found
}

fn opaque(path: &Path) -> bool {
    attribute(path, "trusted.overlay.opaque").as_deref() == Some(b"y")
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0_u8; 256];
    let bytes = rustix::fs::lgetxattr(path, name, &mut value).ok()?;
    Some(value[..bytes].to_vec())
}

fn expect_shape(folder: &Path, expected: &[(&str, char)]) {
    let expected: BTreeMap<String, char> =
        expected.iter().map(|(path, kind)| ((*path).to_owned(), *kind)).collect();
    assert_eq!(shape(folder), expected);
}

#[test]
fn every_kind_of_entry_is_written_with_its_attributes() {
    let place = Place::new("kinds");
    let long = format!("deep/{}", "n".repeat(180));
    let archive = Tar::default()
        .folder("./")
        .folder("bin/")
        .raw(EntryType::Regular, "bin/su", "", 0o4755, b"#!")
        .hardlink("bin/also", "bin/su")
        .symlink("bin/sh", "/bin/su")
        .raw(EntryType::Char, "null", "", 0o666, b"")
        .raw(EntryType::Fifo, "pipe", "", 0o600, b"")
        .raw(EntryType::Directory, "tmp", "", 0o1777, b"")
        .pax(&[
            ("path", "ping".as_bytes()),
            ("mtime", b"1000000000.123456789"),
            ("uid", b"100000"),
            ("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
            ("SCHILY.xattr.user.note", b"a\nb=c"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.whiteout", b"y"),
        ])
        .file("short", "x")
        .raw(EntryType::GNULongName, "././@LongLink", "", 0, format!("{long}\0").as_bytes())
        .file("cut", "long")
        .end();
    let layer = place.layer("layer", &[], &archive).expect("unpacked");
    let see = |name: &str| fs::symlink_metadata(layer.join(name)).expect("there");
    assert_eq!(see("bin/su").mode() & 0o7777, 0o4755);
    assert_eq!((see("bin/su").uid(), see("bin/su").gid(), see("bin/su").mtime()), (7, 8, 1_000_000_000));
    assert_eq!((see("bin/su").ino(), see("bin/su").nlink()), (see("bin/also").ino(), 2));
    assert_eq!(fs::read_link(layer.join("bin/sh")).expect("a link"), Path::new("/bin/su"));
    assert_eq!((see("bin/sh").uid(), see("bin/sh").mtime()), (7, 1_000_000_000));
    assert!(see("null").file_type().is_char_device());
    assert_eq!((see("null").rdev(), see("null").mode() & 0o7777), (rustix::fs::makedev(1, 3), 0o666));
    assert!(see("pipe").file_type().is_fifo());
    assert_eq!((see("tmp").mode() & 0o7777, see("tmp").mtime()), (0o1777, 1_000_000_000));
    assert_eq!((see("bin").mtime(), see("").mtime(), see("").uid()), (1_000_000_000, 1_000_000_000, 7));
    assert_eq!((see("ping").uid(), see("ping").mtime_nsec()), (100_000, 123_456_789));
    assert_eq!(attribute(&layer.join("ping"), "security.capability").map(|value| value.len()), Some(20));
    assert_eq!(attribute(&layer.join("ping"), "user.note").as_deref(), Some(&b"a\nb=c"[..]));
    assert_eq!(attribute(&layer.join("ping"), "trusted.overlay.opaque"), None);
    assert_eq!(attribute(&layer.join("ping"), "user.overlay.whiteout"), None);
    assert_eq!(fs::read_to_string(layer.join(&long)).expect("a long name"), "long");
}

#[test]
fn names_that_lead_out_stay_inside() {
    let place = Place::new("names");
    symlink("outside", place.root.join("beside")).expect("a link");
    let archive = Tar::default()
        .file("../../outside/secret", "1")
        .file("/absolute", "2")
        .file("a/../../b", "3")
        .symlink("up", "../outside")
        .file("up/secret", "4")
        .symlink("abs", place.root.join("outside").to_str().expect("text"))
        .file("abs/secret", "5")
        .symlink("loop", "loop2")
        .symlink("loop2", "missing/deep")
        .file("loop/x", "6")
        .end();
    let layer = place.layer("layer", &[], &archive).expect("unpacked");
    place.assert_outside_untouched();
    let inside = layer.join(place.root.join("outside").strip_prefix("/").expect("absolute"));
    for (path, text) in [
        (layer.join("outside/secret"), "4"),
        (layer.join("absolute"), "2"),
        (layer.join("b"), "3"),
        (inside.join("secret"), "5"),
        (layer.join("missing/deep/x"), "6"),
    ] {
        assert_eq!(fs::read_to_string(&path).expect("inside"), text, "{}", path.display());
    }
}

#[test]
fn links_are_replaced_and_never_written_through() {
    let place = Place::new("through");
    let outside = place.root.join("outside/secret");
    let target = outside.to_str().expect("text");
    let archive = Tar::default()
        .symlink("file", target)
        .file("file", "new")
        .symlink("folder", place.root.join("outside").to_str().expect("text"))
        .folder("folder")
        .file("folder/x", "x")
        .file("a", "first")
        .hardlink("b", "a")
        .file("a", "second")
        .folder("d")
        .file("d/old", "x")
        .file("d", "file now")
        .folder("e")
        .file("e/old", "x")
        .symlink("e", "a")
        .file("self", "kept")
        .hardlink("self", "self")
        .end();
    let layer = place.layer("layer", &[], &archive).expect("unpacked");
    place.assert_outside_untouched();
    expect_shape(
        &layer,
        &[
            ("file", 'f'),
            ("folder", 'o'),
            ("folder/x", 'f'),
            ("a", 'f'),
            ("b", 'f'),
            ("d", 'f'),
            ("e", 'l'),
            ("self", 'f'),
        ],
    );
    for (name, text) in
        [("file", "new"), ("a", "second"), ("b", "first"), ("d", "file now"), ("self", "kept")]
    {
        assert_eq!(fs::read_to_string(layer.join(name)).expect("a file"), text, "{name}");
    }
}

#[test]
fn hostile_entries_are_refused_with_their_name() {
    let long = "x".repeat(5000);
    let deep = "d/".repeat(300);
    let huge = u64::MAX.to_string();
    for (what, archive, word) in [
        ("hardlink", Tar::default().hardlink("x", "../outside/secret"), "does not exist"),
        ("hardlink-abs", Tar::default().hardlink("x", "/etc/passwd"), "does not exist"),
        ("hardlink-folder", Tar::default().folder("d").hardlink("x", "d"), "a folder"),
        ("hardlink-root", Tar::default().hardlink("x", "."), "root"),
        (
            "hardlink-through",
            Tar::default().symlink("l", "/outside").hardlink("x", "l/secret"),
            "does not exist",
        ),
        ("below-file", Tar::default().file("f", "").file("f/x", ""), "no folder"),
        (
            "loop",
            Tar::default().symlink("a", "b").symlink("b", "a").file("a/x", ""),
            "too many symbolic links",
        ),
        ("whiteout-self", Tar::default().folder("d").file("d/.wh..", ""), "from within"),
        ("whiteout-parent", Tar::default().folder("d").file("d/.wh...", ""), "from within"),
        ("whiteout-nothing", Tar::default().file(".wh.", ""), "from within"),
        ("root-file", Tar::default().file("./", ""), ""),
        ("root-link", Tar::default().symlink("..", "/"), "root"),
        ("long", Tar::default().pax(&[("path", long.as_bytes())]).file("x", ""), "4096"),
        ("deep", Tar::default().pax(&[("path", deep.as_bytes())]).file("x", ""), "limit of 200"),
        ("huge", Tar::default().pax(&[("size", huge.as_bytes())]).file("x", ""), "within a file"),
        ("uid", Tar::default().pax(&[("uid", b"4294967296")]).file("x", ""), "uid"),
        ("volume", Tar::default().raw(EntryType::new(b'V'), "v", "", 0, b""), "unknown type"),
    ] {
        let place = Place::new(what);
        let refused = place.layer("layer", &[], &archive.end());
        place.assert_outside_untouched();
        if word.is_empty() {
            continue;
        }
        let error = refused.expect_err(what).to_string();
        assert!(error.contains(word) && !error.contains('\n'), "{what}: {error}");
    }
}

#[test]
fn a_device_that_forges_a_deletion_is_refused() {
    let place = Place::new("forged");
    let mut header = Header::new_ustar();
    header.set_path("x").expect("fits");
    header.set_entry_type(EntryType::Char);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header.set_device_major(0).expect("fits");
    header.set_device_minor(0).expect("fits");
    header.set_cksum();
    let error = place.layer("layer", &[], header.as_bytes()).expect_err("forged").to_string();
    assert!(error.contains("0:0"), "{error}");
}

#[test]
fn whiteouts_hide_what_is_below_and_nothing_else() {
    let place = Place::new("whiteouts");
    let base = Tar::default()
        .file("gone", "x")
        .folder("d")
        .file("d/a", "x")
        .file("d/b", "x")
        .folder("kept")
        .folder("swap")
        .file("swap/old", "x")
        .symlink("link", "d")
        .file("secret", "x")
        .end();
    let base = place.layer("base", &[], &base).expect("unpacked");
    let upper = Tar::default()
        .file(".wh.gone", "")
        .file(".wh.never", "")
        .file("link/.wh.a", "")
        .file("../.wh.secret", "")
        .file(".wh.swap", "")
        .file("swap/new", "x")
        .file(".wh..wh.plnk", "")
        .end();
    let upper = place.layer("upper", &[&base], &upper).expect("unpacked");
    place.assert_outside_untouched();
    expect_shape(
        &upper,
        &[("gone", '!'), ("d", 'd'), ("d/a", '!'), ("secret", '!'), ("swap", 'o'), ("swap/new", 'f')],
    );
    // The folder the archive did not have looks like the one below.
    let see = |layer: &Path| fs::metadata(layer.join("d")).expect("there");
    assert_eq!((see(&upper).uid(), see(&upper).mtime()), (7, 1_000_000_000));
}

#[test]
fn an_opaque_marker_means_the_same_before_and_after_its_siblings() {
    let place = Place::new("opaque");
    let base = Tar::default().folder("d").file("d/old", "x").file("d/twice", "x").end();
    let base = place.layer("base", &[], &base).expect("unpacked");
    let own = [("d", 'o'), ("d/new", 'f'), ("d/twice", 'f')];
    let before = Tar::default()
        .folder("d")
        .file("d/.wh..wh..opq", "")
        .file("d/.wh.old", "")
        .file("d/.wh.twice", "")
        .file("d/new", "x")
        .file("d/twice", "x")
        .end();
    let after = Tar::default()
        .file("d/new", "x")
        .file("d/twice", "x")
        .folder("d")
        .file("d/.wh.twice", "")
        .file("d/.wh.old", "")
        .file("d/.wh..wh..opq", "")
        .end();
    for (name, archive) in [("before", before), ("after", after)] {
        let layer = place.layer(name, &[&base], &archive).expect("unpacked");
        expect_shape(&layer, &own);
    }
}

#[test]
fn paths_through_a_lower_link_and_links_to_lower_files_are_settled() {
    let place = Place::new("settle");
    let base = Tar::default()
        .raw(EntryType::Directory, "usr", "", 0o750, b"")
        .folder("usr/lib")
        .file("usr/lib/libc", "libc")
        .symlink("lib", "usr/lib")
        .symlink("abs", "/usr/lib")
        .end();
    let base = place.layer("base", &[], &base).expect("unpacked");
    let upper = Tar::default()
        .file("lib/x/new", "new")
        .file("abs/other", "other")
        .hardlink("linked", "lib/libc")
        .hardlink("again", "usr/lib/libc")
        .file("lib/.wh.libm", "")
        .end();
    let upper = place.layer("upper", &[&base], &upper).expect("unpacked");
    expect_shape(
        &upper,
        &[
            ("again", 'f'),
            ("linked", 'f'),
            ("usr", 'd'),
            ("usr/lib", 'd'),
            ("usr/lib/libc", 'f'),
            ("usr/lib/other", 'f'),
            ("usr/lib/x", 'd'),
            ("usr/lib/x/new", 'f'),
        ],
    );
    let see = |name: &str| fs::metadata(upper.join(name)).expect("there");
    assert_eq!((see("linked").ino(), see("linked").nlink()), (see("usr/lib/libc").ino(), 3));
    assert_eq!(fs::read_to_string(upper.join("again")).expect("a file"), "libc");
    assert_eq!((see("usr").mode() & 0o7777, see("usr").uid(), see("usr").mtime()), (0o750, 7, 1_000_000_000));
}

#[test]
fn sparse_files_of_every_form_keep_their_holes() {
    let place = Place::new("sparse");
    let (hole, data) = (1_u64 << 20, "end.".repeat(128));
    let end = hole + data.len() as u64;
    let numbers = |text: String| text.into_bytes();
    let mut map = numbers(format!("1\n{hole}\n{}\n", data.len()));
    map.resize(512, 0);
    map.extend_from_slice(data.as_bytes());
    let (hole_text, length, size) = (hole.to_string(), data.len().to_string(), end.to_string());
    let archive = Tar::default()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"one"),
            ("GNU.sparse.realsize", size.as_bytes()),
        ])
        .raw(EntryType::Regular, "GNUSparseFile.0/one", "", 0o644, &map)
        .pax(&[
            ("GNU.sparse.size", size.as_bytes()),
            ("GNU.sparse.numblocks", b"1"),
            ("GNU.sparse.offset", hole_text.as_bytes()),
            ("GNU.sparse.numbytes", length.as_bytes()),
        ])
        .file("zero", &data)
        .end();
    let layer = place.layer("layer", &[], &archive).expect("unpacked");
    for name in ["one", "zero"] {
        let bytes = fs::read(layer.join(name)).expect("a file");
        assert_eq!(bytes.len() as u64, end, "{name}");
        assert!(
            bytes[..hole as usize].iter().all(|byte| *byte == 0) && bytes.ends_with(data.as_bytes()),
            "{name}"
        );
        assert!(fs::metadata(layer.join(name)).expect("there").blocks() * 512 < hole, "{name} has a hole");
    }
    let wrong =
        Tar::default().pax(&[("GNU.sparse.size", b"4"), ("GNU.sparse.map", b"2,4")]).file("x", "data").end();
    assert!(place.layer("wrong", &[], &wrong).is_err());
}

#[test]
fn what_gnu_tar_writes_is_read() {
    let place = Place::new("gnutar");
    let source = place.root.join("source");
    fs::create_dir(&source).expect("a folder");
    let long = source.join("l".repeat(200));
    fs::write(&long, "long").expect("a file");
    let mut sparse = fs::File::create(source.join("sparse")).expect("a file");
    for at in 0..30_u64 {
        std::io::Seek::seek(&mut sparse, std::io::SeekFrom::Start(at << 20)).expect("seekable");
        sparse.write_all(format!("piece {at}").as_bytes()).expect("written");
    }
    fs::set_permissions(&long, fs::Permissions::from_mode(0o640)).expect("ours");
    for (format, options) in [
        ("oldgnu", &["--sparse"][..]),
        ("gnu", &["--sparse"]),
        ("pax", &["--sparse", "--sparse-version=0.0"]),
        ("pax", &["--sparse", "--sparse-version=0.1"]),
        ("pax", &["--sparse", "--sparse-version=1.0", "--xattrs"]),
        ("v7", &[]),
        ("ustar", &[]),
    ] {
        if options.is_empty() && long.exists() {
            fs::rename(&long, source.join("short")).expect("renamed");
        }
        let output = std::process::Command::new("tar")
            .args(options)
            .args([&format!("--format={format}"), "-cf", "-", "-C"])
            .arg(&source)
            .arg(".")
            .output()
            .expect("tar runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let layer =
            place.layer(&format!("{format}{}", options.concat()), &[], &output.stdout).expect("unpacked");
        let difference = std::process::Command::new("diff")
            .arg("-r")
            .arg(&source)
            .arg(&layer)
            .output()
            .expect("diff runs");
        assert!(difference.status.success(), "{format}: {}", String::from_utf8_lossy(&difference.stdout));
    }
}

#[test]
fn a_folder_swapped_for_a_link_meanwhile_leads_nowhere() {
    let place = Place::new("swapped");
    let folder = place.root.join("layer");
    fs::create_dir(&folder).expect("a folder");
    symlink(place.root.join("outside"), folder.join("link")).expect("a link");
    let mut archive = Tar::default().folder("d");
    for at in 0..1500 {
        archive = archive.file(&format!("d/{at}"), "x").file(&format!("e/{at}"), "x").folder("d");
    }
    let archive = archive.end();
    let done = std::sync::atomic::AtomicBool::new(false);
    let swaps = std::thread::scope(|scope| {
        let swapping = scope.spawn(|| {
            let (mut swaps, swap) = (0_u64, rustix::fs::RenameFlags::EXCHANGE);
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let (from, to) = (folder.join("d"), folder.join("link"));
                let swapped = rustix::fs::renameat_with(rustix::fs::CWD, &from, rustix::fs::CWD, &to, swap);
                swaps += u64::from(swapped.is_ok());
            }
            swaps
        });
        // Whether it succeeds depends on who is faster.
        drop(unpack(&archive[..], &folder, &Limits::default()));
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        swapping.join().expect("it ends")
    });
    assert!(swaps > 0, "it was swapped");
    place.assert_outside_untouched();
}

#[test]
fn damaged_archives_are_refused() {
    let place = Place::new("damaged");
    let good = Tar::default().file("x", "data").end();
    let mut checksum = good.clone();
    checksum[0] ^= 1;
    let twice = [&good[..1024], &[0; 512], &good[..1024], &[0; 1024]].concat();
    for (name, archive) in [
        ("short", &good[..700]),
        ("header", &good[..300]),
        ("checksum", &checksum[..]),
        ("goes-on", &twice[..]),
        ("lonely", &Tar::default().pax(&[("path", b"x")]).end()[..]),
    ] {
        let error = place.layer(name, &[], archive).expect_err(name);
        assert!(matches!(error, UnpackError::Archive { .. }), "{name}: {error}");
    }
    place.layer("no-end", &[], &good[..1024]).expect("an archive may just stop, as Go's reader has it");
}

#[test]
fn limits_end_an_archive_early() {
    let place = Place::new("limits");
    let folder = place.root.join("layer");
    fs::create_dir(&folder).expect("a folder");
    let limits = Limits { entries: 3, ..Limits::default() };
    let archive = Tar::default().file("a/b/c", "").file("d", "").end();
    let error = unpack(&archive[..], &folder, &limits).expect_err("too many").to_string();
    assert!(error.contains("limit of 3 entries"), "{error}");
    let limits = Limits { bytes: 10, ratio: 4, ratio_from: 5, ..Limits::default() };
    assert!(limits.check_bytes(10, 3).is_ok());
    assert!(limits.check_bytes(11, 11).is_err());
    assert!(limits.check_bytes(10, 1).is_err());
}

#[test]
fn an_opaque_root_hides_all_layers_below() {
    let place = Place::new("opaque-root");
    let lowest = Tar::default().file("old", "x").folder("d").file("d/old", "x").file("twice", "x").end();
    let lowest = place.layer("lowest", &[], &lowest).expect("unpacked");
    let base = Tar::default().file(".wh.old", "").file("f", "x").end();
    let base = place.layer("base", &[&lowest], &base).expect("unpacked");
    let upper = Tar::default()
        .folder("d")
        .file("d/new", "x")
        .file(".wh..wh..opq", "")
        .file("twice", "y")
        .file("parent/new", "x")
        .end();
    let upper = place.layer("upper", &[&lowest, &base], &upper).expect("unpacked");
    // The kernel heeds no mark on the root itself.
    assert!(!opaque(&upper));
    expect_shape(
        &upper,
        &[("d", 'o'), ("d/new", 'f'), ("f", '!'), ("parent", 'd'), ("parent/new", 'f'), ("twice", 'f')],
    );
}

#[test]
fn whiteouts_alone_make_no_folders() {
    let place = Place::new("whiteouts-alone");
    let base = Tar::default().file("f", "x").folder("d").file("d/f", "x").end();
    let base = place.layer("base", &[], &base).expect("unpacked");
    let upper = Tar::default()
        .file("never/there/.wh.x", "")
        .file("f/.wh.x", "")
        .file("gone/.wh..wh..opq", "")
        .file("d/.wh.f", "")
        .file("d/.wh.g", "")
        .end();
    let upper = place.layer("upper", &[&base], &upper).expect("unpacked");
    expect_shape(&upper, &[("d", 'd'), ("d/f", '!')]);
}

#[test]
fn links_to_lower_links_and_devices_are_settled_in_the_archives_order() {
    let place = Place::new("links-below");
    let base = Tar::default()
        .symlink("s", "nowhere")
        .raw(EntryType::Char, "null", "", 0o666, b"")
        .file("f", "old")
        .end();
    let base = place.layer("base", &[], &base).expect("unpacked");
    let upper = Tar::default()
        .hardlink("z", "f")
        .hardlink("a", "z")
        .hardlink("s2", "s")
        .hardlink("null2", "null")
        .file("f", "new")
        .end();
    let upper = place.layer("upper", &[&base], &upper).expect("unpacked");
    let see = |name: &str| fs::symlink_metadata(upper.join(name)).expect("there");
    assert_eq!((see("a").ino(), see("a").nlink()), (see("z").ino(), 2));
    assert_eq!(fs::read_to_string(upper.join("a")).expect("a file"), "old");
    assert_eq!(fs::read_to_string(upper.join("f")).expect("a file"), "new");
    assert_eq!((see("s").ino(), see("s").nlink()), (see("s2").ino(), 2));
    assert_eq!((see("null").ino(), see("null").rdev()), (see("null2").ino(), rustix::fs::makedev(1, 3)));
}

#[test]
fn nothing_is_inherited_from_the_folder_that_something_is_in() {
    let place = Place::new("inherited");
    // Version 2; owner rwx, user 7 r--, group r-x, mask r-x, others none (linux/posix_acl_xattr.h).
    let mut list = vec![2, 0, 0, 0];
    for (tag, bits, id) in
        [(1, 7, u32::MAX), (2, 4, 7), (4, 5, u32::MAX), (16, 5, u32::MAX), (32, 0, u32::MAX)]
    {
        list.extend([tag, 0, bits, 0]);
        list.extend(u32::to_le_bytes(id));
    }
    let archive = Tar::default()
        .pax(&[("SCHILY.xattr.system.posix_acl_default", &list), ("gid", b"50")])
        .raw(EntryType::Directory, "d", "", 0o2755, b"")
        .file("d/before", "x")
        .folder("other")
        .pax(&[("gid", b"0")])
        .file("d/f", "x")
        .file("d/made/f", "x")
        .end();
    let layer = place.layer("layer", &[], &archive).expect("unpacked");
    let see = |name: &str| fs::symlink_metadata(layer.join(name)).expect("there");
    assert_eq!(attribute(&layer.join("d"), "system.posix_acl_default"), Some(list));
    assert_eq!((see("d").mode() & 0o7777, see("d").gid()), (0o2755, 50));
    for name in ["d/before", "d/f", "d/made", "d/made/f"] {
        for attribute_name in ["system.posix_acl_access", "system.posix_acl_default"] {
            assert_eq!(attribute(&layer.join(name), attribute_name), None, "{name}");
        }
    }
    assert_eq!((see("d/f").gid(), see("d/made").gid(), see("d/made").mode() & 0o7777), (0, 0, 0o755));
    assert_eq!((see("d/f").mode() & 0o7777, see("d/before").gid()), (0o644, 8));
}

#[test]
fn a_file_entry_with_a_slash_is_a_folder_only_before_ustar() {
    let place = Place::new("slash");
    let mut old = Header::new_old();
    old.as_old_mut().name[..4].copy_from_slice(b"old/");
    old.set_mode(0o750);
    old.set_uid(0);
    old.set_gid(0);
    old.set_mtime(1);
    old.set_size(0);
    old.as_old_mut().linkflag = [0];
    old.as_old_mut().name[99] = 0xe4;
    // Signed, as some old programs summed.
    let sum: i32 = old.as_bytes().iter().map(|byte| i32::from(byte.cast_signed())).sum::<i32>() + 8 * 32;
    old.as_old_mut().cksum.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let archive = [old.as_bytes(), &Tar::default().file("new/", "").end()[..]].concat();
    let layer = place.layer("layer", &[], &archive).expect("unpacked");
    expect_shape(&layer, &[("old", 'd'), ("new", 'f')]);
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let place = Place::new("full");
    let nothing = None::<&str>;
    // The test's process is its own under nextest; its mounts are made private to its thread.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("tests run as root");
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).expect("private");
    let folder = place.root.join("layer");
    fs::create_dir(&folder).expect("a folder");
    mount(Some("tmpfs"), &folder, Some("tmpfs"), MsFlags::empty(), Some("size=256k")).expect("mounted");
    // Small files, which are written beside the archive's reading: more than may wait.
    let text = "x".repeat(8 << 10);
    let archive = (0..200).fold(Tar::default(), |archive, at| archive.file(&format!("{at}"), &text)).end();
    let error = unpack(&archive[..], &folder, &Limits::default()).expect_err("no room");
    assert!(matches!(&error, UnpackError::Io { operation: "write", .. }), "{error}");
    umount2(&folder, MntFlags::MNT_DETACH).expect("unmounted");
}

#[test]
fn a_file_that_is_copied_up_keeps_its_holes_and_the_limit() {
    let place = Place::new("holes");
    let lower = place.root.join("lower");
    fs::create_dir(&lower).expect("a folder");
    let mut file = fs::File::create(lower.join("big")).expect("a file");
    file.write_all(&[7; 100_000]).expect("written");
    file.set_len(1 << 40).expect("a hole");
    let archive = Tar::default().hardlink("name", "big").end();
    let upper = place.layer("upper", &[&lower], &archive).expect("a hole takes no room");
    let found = fs::metadata(upper.join("name")).expect("copied up");
    assert_eq!((found.len(), found.nlink()), (1 << 40, 2));
    assert!(found.blocks() * 512 < 1 << 20, "{} blocks", found.blocks());

    let folder = place.root.join("limited");
    fs::create_dir(&folder).expect("a folder");
    let limits = Limits { bytes: 50_000, ..Limits::default() };
    let unpacked = unpack(&archive[..], &folder, &limits).expect("small itself");
    let error = unpacked.settle(&Below::open(&[lower]).expect("layers")).expect_err("too much");
    assert!(matches!(error, UnpackError::Limit { .. }), "{error}");
    place.assert_outside_untouched();
}
