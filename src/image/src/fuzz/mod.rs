//! Fuzz targets: functions that take any bytes, and assert what must hold whatever they are.
//!
//! A fuzzer that finds inputs by coverage needs a nightly compiler; `cargo fuzz` builds the crate with
//! `--cfg fuzzing`, which makes these targets public for it. In the tests' normal run they get inputs that were
//! made from good and hostile ones by random changes (`mutate`), which pass the checksums of archives.

#[cfg(test)]
mod mutate;
#[cfg(test)]
mod seeds;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::archive::ArchiveInput;
use crate::manifest::{self, Document, LAYERS_MAX, OCI_INDEX, OCI_MANIFEST};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::unpack::archive::Archive;
use crate::unpack::below::Below;
use crate::unpack::{Limits, unpack};

/// Small enough that no input holds a run up.
fn limits() -> Limits {
    Limits { bytes: 1 << 20, entries: 200, depth: 20, pieces: 64, header: 64 << 10, ..Limits::default() }
}

/// What is read as a reference is printed as one that is read the same, in both forms.
pub fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(read) = text.parse::<Reference>() else { return };
    for printed in [read.to_string(), read.familiar()] {
        assert_eq!(printed.parse::<Reference>().ok().as_ref(), Some(&read), "{text:?} as {printed:?}");
    }
    // It becomes part of a URL and of a file's name.
    let path = read.repository();
    assert!(path.split('/').all(|part| !part.is_empty() && !part.starts_with('.')), "{text:?}");
    assert!(!read.to_string().contains(|c: char| c.is_whitespace() || c.is_control()), "{text:?}");
}

/// No document is an index to one reader and a manifest to another (GHSA-5j5w-g665-5m35).
pub fn document(data: &[u8]) {
    let read = |media_type| manifest::parse(data, media_type, "it").ok();
    let plain = read(None);
    for (media_type, is_index) in [(OCI_INDEX, true), (OCI_MANIFEST, false)] {
        if let Some(read) = read(Some(media_type)) {
            assert_eq!(matches!(read, Document::Index(_)), is_index);
            assert_eq!(Some(read), plain);
        }
    }
    match plain {
        Some(Document::Manifest(manifest)) => {
            assert!(manifest.layers.len() <= LAYERS_MAX);
            if let Ok(facts) = manifest::config(data, &manifest, "it") {
                assert_eq!(facts.diff_ids.len(), manifest.layers.len());
            }
        }
        Some(Document::Index(entries)) => {
            let name = "registry.test/x".parse::<Reference>().expect("a reference");
            let chosen = manifest::choose(&entries, &Platform::host(), &name).ok();
            assert!(chosen.is_none_or(|chosen| entries.iter().any(|entry| entry.descriptor == chosen)));
        }
        None => {}
    }
}

/// A configuration is read within its manifest's promises.
pub fn config(data: &[u8]) {
    for layers in 0..3 {
        let digest = crate::Digest::of(b"");
        let layer = manifest::Layer { digest, size: 1, packing: manifest::Packing::Plain };
        let config = manifest::Descriptor { digest, size: data.len() as u64 };
        let manifest = manifest::Manifest { config, layers: vec![layer; layers] };
        if let Ok(facts) = manifest::config(data, &manifest, "it") {
            assert_eq!(facts.diff_ids.len(), layers);
        }
    }
}

/// The entries of an archive promise no more than it holds, and stay within the limits.
pub fn entries(data: &[u8]) {
    let limits = limits();
    let mut archive = Archive::new(data, &limits);
    let mut stored = 0_u64;
    while let Ok(Some(entry)) = archive.next() {
        assert!(entry.path.len() <= limits.path && entry.pieces.len() <= limits.pieces);
        assert!(entry.metadata.mode <= 0o7777 && entry.metadata.uid != u32::MAX);
        let mut end = 0;
        for piece in &entry.pieces {
            assert!(piece.offset >= end);
            end = piece.offset + piece.length;
        }
        assert!(end <= entry.size);
        while let Ok(bytes) = archive.data().map(<[u8]>::len) {
            if bytes == 0 {
                break;
            }
            archive.consume(bytes);
            stored += bytes as u64;
        }
    }
    assert!(stored <= data.len() as u64);
}

/// A layer that is unpacked into `place`, an empty folder of the caller's, on another layer changes nothing
/// outside its folder, leaves no marks of its own making there, and counts what it makes.
pub fn layer(data: &[u8], place: &Path) {
    let outside = place.join("outside");
    fs::write(&outside, "outside").expect("the folder is ours");
    let (lower, upper) = (place.join("lower"), place.join("upper"));
    fs::create_dir_all(lower.join("d/e")).expect("the folder is ours");
    fs::create_dir(&upper).expect("the folder is ours");
    fs::write(lower.join("d/f"), "below").expect("the folder is ours");
    for (link, target) in [("l", "d"), ("up", "../../.."), ("out", "/outside"), ("loop", "loop")] {
        std::os::unix::fs::symlink(target, lower.join(link)).expect("the folder is ours");
    }
    let before = lower_state(&lower);
    let below = Below::open(std::slice::from_ref(&lower)).expect("it is there");
    let settled = unpack(data, &upper, &limits()).and_then(|unpacked| unpacked.settle(&below));
    let mut found = 0;
    let mut ahead = vec![upper.clone()];
    while let Some(folder) = ahead.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let stat = fs::symlink_metadata(&path).expect("there");
            let whiteout = stat.file_type().is_char_device() && stat.rdev() == 0;
            let name = path.file_name().expect("it has one").as_encoded_bytes();
            assert!(!name.starts_with(b".wh."), "{}", path.display());
            found += u64::from(!whiteout);
            if stat.is_dir() {
                ahead.push(path);
            } else if stat.is_file() {
                let mut value = [0_u8; 8];
                for forged in
                    ["trusted.overlay.opaque", "trusted.overlay.metacopy", "trusted.overlay.redirect"]
                {
                    let got = rustix::fs::lgetxattr(&path, forged, &mut value);
                    assert!(got.is_err(), "{} has {forged}", path.display());
                }
            }
        }
    }
    if let Ok(settled) = settled {
        assert!(found <= settled.entries, "{found} of {}", settled.entries);
    }
    assert_eq!(fs::read(&outside).expect("still there"), b"outside");
    assert_eq!(fs::read_dir(place).expect("a folder").count(), 3);
    assert_eq!(lower_state(&lower), before);
}

/// All that a change of the lower layer would show in.
fn lower_state(lower: &Path) -> BTreeSet<(u64, i64, i64, u64, u32)> {
    let names = ["", "d", "d/e", "d/f", "l", "up", "out", "loop"];
    let stats = names.map(|name| fs::symlink_metadata(lower.join(name)).expect("still there"));
    stats
        .iter()
        .map(|stat| (stat.ino(), stat.ctime(), stat.ctime_nsec(), stat.nlink(), stat.mode()))
        .collect()
}

/// An archive of images is read into `place`, an empty folder, or refused in one line.
pub fn images(data: &[u8], place: &Path) {
    let input = ArchiveInput::stream("it", std::io::Cursor::new(data.to_vec()));
    if let Err(error) = input.check(place, &Platform::host(), &limits()) {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        assert!(!text.contains('\n'), "{text}");
    }
}
