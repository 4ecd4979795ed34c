//! Archives built in memory, friendly and hostile, and what is found in them.

use std::fs;
use std::io::{Cursor, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tar::EntryType;

use super::hostile::{self, Tar, config, descriptor, layer, layout, listed, manifest};
use super::oci::Offer;
use super::{ArchiveInput, Compression, Offers, compress::Encoder};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::manifest::Packing;
use crate::unpack::Limits;

/// A work folder that goes with the test.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("image-archive-{}-{count}", std::process::id()));
        fs::create_dir_all(path.join("work")).expect("a folder");
        Place(path)
    }

    fn work(&self) -> PathBuf {
        self.0.join("work")
    }

    fn read(&self, bytes: Vec<u8>, limits: &Limits) -> Result<Offers, ImageError> {
        let amd64 = "linux/amd64".parse().expect("a platform");
        ArchiveInput::stream("x.tar", Cursor::new(bytes)).read(&self.work(), &amd64, limits)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("removable");
    }
}

/// The images that are found in an archive.
fn offers(bytes: Vec<u8>) -> Vec<Offer> {
    let place = Place::new();
    let mut offers = place.read(bytes, &Limits::default()).expect("an archive of images");
    (0..offers.listed.len()).map(|at| offers.open(at).expect("checked")).collect()
}

fn names(offer: &Offer) -> Vec<String> {
    offer.names.iter().map(ToString::to_string).collect()
}

fn refusal(bytes: Vec<u8>, limits: &Limits) -> String {
    let place = Place::new();
    let Err(error) = place.read(bytes, limits) else { panic!("it was taken") };
    for entry in fs::read_dir(place.work()).expect("still there") {
        let name = entry.expect("one").file_name().into_string().expect("text");
        assert!(name.parse::<u32>().is_ok(), "{name}");
    }
    let mut line = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        line = format!("{line}: {cause}");
        source = cause.source();
    }
    assert!(!line.contains('\n') && line.len() < 500, "{line}");
    line
}

#[test]
fn hostile_archives_are_refused_in_one_line() {
    for case in hostile::all() {
        let line = refusal(case.bytes, &Limits::default());
        assert!(line.contains(case.says), "{}: {line}", case.name);
    }
}

#[test]
fn an_archive_is_bounded_by_bytes_ratio_and_count() {
    let small = Limits { bytes: 4 << 20, ratio: 20, ratio_from: 1 << 20, ..Limits::default() };
    let big = Tar::default().file("a", vec![0; 8 << 20]).end();
    let line = refusal(big.clone(), &small);
    assert!(line.contains("unpacked bytes"), "{line}");
    for compression in [Compression::Gzip, Compression::Zstd] {
        let line = refusal(packed(&big, compression), &small);
        assert!(line.contains("for a compressed one"), "{line}");
    }
    let mut many = Tar::default();
    for at in 0..100_001 {
        many = many.entry(EntryType::Directory, &format!("{at}/"), "", b"");
    }
    let line = refusal(many.end(), &Limits::default());
    assert!(line.contains("100000 entries"), "{line}");
    let long = Tar::default().entry(EntryType::GNULongName, "x", "", &[b'a'; 600]).file("x", "x").end();
    let line = refusal(long, &Limits::default());
    assert!(line.contains("more than 512 bytes"), "{line}");
}

fn packed(bytes: &[u8], compression: Compression) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), compression).expect("in memory");
    encoder.write_all(bytes).expect("in memory");
    encoder.finish().expect("in memory")
}

#[test]
fn docker_archives_get_a_manifest_of_their_own() {
    let (one, two) = (layer("one"), layer("two"));
    let config = config(&[&one, &two, &one]);
    // As docker wrote it: each layer in a folder, the same one as a link.
    let archive = Tar::default()
        .entry(EntryType::Directory, "a/", "", b"")
        .file("a/VERSION", "1.0")
        .file("a/layer.tar", &one)
        .file("b/layer.tar", packed(&two, Compression::Gzip))
        .symlink("c/layer.tar", "../a/layer.tar")
        .file("c.json", &config)
        .json("manifest.json", &listed("c.json", &["a/layer.tar", "b/layer.tar", "c/layer.tar"]))
        .json("repositories", &json!({}))
        .end();
    let first = offers(archive.clone());
    let [offer] = &first[..] else { panic!("one image") };
    assert_eq!(names(offer), ["registry.test/x:1"]);
    assert_eq!((offer.digest, offer.config.diff_ids.len()), (offer.manifest_digest, 3));
    assert_eq!(offer.manifest.config.digest, Digest::of(config.as_bytes()));
    let packings: Vec<Packing> = offer.manifest.layers.iter().map(|layer| layer.packing).collect();
    assert_eq!(packings, [Packing::Plain, Packing::Gzip, Packing::Plain]);
    assert_eq!(offer.layers[0].digest, Digest::of(&one));
    assert_eq!(offer.layers[2].path, offer.layers[0].path);
    for (digest, bytes) in &offer.documents {
        assert_eq!(*digest, Digest::of(bytes));
    }
    // However it is compressed, and whenever it is read, it is the same image.
    for compression in [Compression::Gzip, Compression::Zstd] {
        assert_eq!(offers(packed(&archive, compression))[0].digest, offer.digest);
    }
    // Hard links, too, and names as tar writes them from a folder.
    let linked = Tar::default()
        .file("./a/layer.tar", &one)
        .hardlink("./h", "./a/layer.tar")
        .file("./c.json", hostile::config(&[&one]))
        .json("./manifest.json", &listed("c.json", &["h"]))
        .end();
    assert_eq!(offers(linked)[0].layers[0].digest, Digest::of(&one));
    // An entry that comes twice and is the same is no harm.
    let twice = Tar::default()
        .file("l", &one)
        .file("l", &one)
        .file("c.json", hostile::config(&[&one]))
        .json("manifest.json", &json!([{"Config": "c.json", "RepoTags": null, "Layers": ["l"]}]))
        .end();
    assert_eq!(names(&offers(twice)[0]), Vec::<String>::new());
}

#[test]
fn layouts_are_found_with_their_names() {
    let check = |annotations: Value, expected: &[&str]| {
        let found = offers(layout(|entry| entry["annotations"] = annotations.clone()).end());
        assert_eq!(names(&found[0]), expected, "{annotations}");
    };
    let (whole, own) = ("io.containerd.image.name", "org.opencontainers.image.ref.name");
    check(json!({}), &[]);
    check(json!({own: "registry.test/a:2"}), &["registry.test/a:2"]);
    check(json!({own: "latest"}), &[]);
    check(json!({own: "debian:12"}), &["docker.io/library/debian:12"]);
    check(json!({whole: "docker.io/library/debian:12", own: "12"}), &["docker.io/library/debian:12"]);
    check(json!({own: "what: is this"}), &[]);
    // Docker's list beside it says the same; the layout keeps the digest.
    let archive = layout(|_| ()).json("manifest.json", &listed("no", &["such"])).end();
    let found = offers(archive);
    assert_eq!((found.len(), names(&found[0])), (1, vec!["registry.test/x:1".to_owned()]));
    let manifest = &found[0].documents[0];
    assert_eq!((found[0].digest, manifest.0), (Digest::of(&manifest.1), Digest::of(&manifest.1)));
}

#[test]
fn one_image_of_an_index_is_chosen() {
    let images: Vec<(String, Vec<u8>, String)> = ["amd64", "arm64"]
        .iter()
        .map(|machine| {
            let layer = layer(machine);
            let config = config(&[&layer]).replace("amd64", machine);
            let manifest = manifest(&config, &[&layer]);
            (config, layer, manifest)
        })
        .collect();
    let entry = |at: usize, machine: &str| {
        let mut entry = descriptor("manifest.v1+json", images[at].2.as_bytes());
        entry["platform"] = json!({"os": "linux", "architecture": machine});
        entry
    };
    let attestation = || {
        let mut entry = descriptor("manifest.v1+json", b"{}");
        entry["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
        entry["platform"] = json!({"os": "unknown", "architecture": "unknown"});
        entry
    };
    let index = |entries: Vec<Value>| json!({"schemaVersion": 2, "manifests": entries});
    let archive = |index: &Value, blobs: &[&str], which: &[usize]| {
        let mut tar = Tar::default().json("index.json", index);
        for bytes in blobs {
            tar = tar.blob(bytes);
        }
        for at in which {
            tar = tar.blob(&images[*at].0).blob(&images[*at].1).blob(&images[*at].2);
        }
        tar.end()
    };
    let inner = index(vec![entry(1, "arm64"), entry(0, "amd64"), attestation()]).to_string();
    let mut outer = descriptor("index.v1+json", inner.as_bytes());
    outer["annotations"] = json!({"io.containerd.image.name": "registry.test/x:1"});
    // Docker writes the whole index although it has one of the images only.
    for which in [&[0, 1][..], &[0]] {
        let found = offers(archive(&index(vec![outer.clone()]), &[&inner], which));
        let [offer] = &found[..] else { panic!("one image") };
        assert_eq!(offer.config.platform.architecture, "amd64");
        assert_eq!(offer.digest, Digest::of(inner.as_bytes()));
        assert_eq!(offer.manifest_digest, Digest::of(images[0].2.as_bytes()));
        assert_eq!(offer.documents.len(), 3);
    }
    let line = refusal(archive(&index(vec![outer.clone()]), &[&inner], &[1]), &Limits::default());
    assert!(line.contains("no image for linux/amd64, only for linux/arm64"), "{line}");
    // The layout's own index may be the image's.
    let flat = index(vec![entry(1, "arm64"), entry(0, "amd64")]);
    let found = offers(archive(&flat, &[], &[0, 1]));
    assert_eq!((found.len(), found[0].config.platform.architecture.as_str()), (1, "amd64"));
    // What stands alone is taken, as docker does it.
    let found = offers(archive(&index(vec![entry(1, "arm64")]), &[], &[1]));
    assert_eq!(found[0].config.platform.architecture, "arm64");
    // Several images, and several names of one.
    let named = |at: usize, name: &str| {
        let mut entry = descriptor("manifest.v1+json", images[at].2.as_bytes());
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        entry
    };
    let several = index(vec![named(0, "a.test/a:1"), named(0, "a.test/a:2"), named(1, "a.test/b:1")]);
    let found = offers(archive(&several, &[], &[0, 1]));
    let found: Vec<Vec<String>> = found.iter().map(names).collect();
    assert_eq!(
        found,
        [vec!["a.test/a:1".to_owned(), "a.test/a:2".to_owned()], vec!["a.test/b:1".to_owned()]]
    );
    let same = index(vec![named(0, "a.test/a:1"), named(1, "a.test/a:1")]);
    let line = refusal(archive(&same, &[], &[0, 1]), &Limits::default());
    assert!(line.contains("several images of the name a.test/a:1"), "{line}");
}

#[test]
fn a_folder_is_read_without_following_links() {
    let place = Place::new();
    let folder = place.0.join("layout");
    let mut archive = tar::Archive::new(Cursor::new(layout(|_| ()).end()));
    fs::create_dir(&folder).expect("a folder");
    archive.unpack(&folder).expect("files");
    let read = |work: &str| {
        let amd64 = "linux/amd64".parse().expect("a platform");
        let work = place.0.join(work);
        fs::create_dir(&work).expect("a folder");
        ArchiveInput::open(&folder).expect("there").read(&work, &amd64, &Limits::default()).map(|_| ())
    };
    read("friendly").expect("a layout");
    let line = |work: &str| read(work).expect_err("hostile").to_string();
    // A blob that is changed, a link in its place, and a link in the place of a folder.
    let blob = blob_of(&folder);
    let content = fs::read(&blob).expect("there");
    fs::write(&blob, "other").expect("writable");
    assert!(line("changed").contains("was promised"));
    fs::write(place.0.join("outside"), &content).expect("writable");
    fs::remove_file(&blob).expect("there");
    std::os::unix::fs::symlink(place.0.join("outside"), &blob).expect("a link");
    assert!(line("link").contains("failed to open"));
    fs::remove_file(&blob).expect("there");
    rustix::fs::mkfifoat(rustix::fs::CWD, &blob, rustix::fs::Mode::RUSR).expect("a pipe");
    assert!(line("pipe").contains("is no file"));
    fs::remove_file(&blob).expect("there");
    fs::write(&blob, &content).expect("writable");
    fs::rename(folder.join("blobs"), place.0.join("blobs")).expect("moved");
    std::os::unix::fs::symlink(place.0.join("blobs"), folder.join("blobs")).expect("a link");
    assert!(line("folder").contains("failed to open"));
}

/// The greatest blob: the layer.
fn blob_of(folder: &Path) -> PathBuf {
    let blobs = fs::read_dir(folder.join("blobs/sha256")).expect("there");
    let blobs = blobs.map(|entry| entry.expect("one").path());
    blobs.max_by_key(|path| path.metadata().expect("there").len()).expect("one")
}
