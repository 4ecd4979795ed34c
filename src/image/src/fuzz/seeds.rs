//! Inputs to begin with: what is well formed, and what is known to be hostile.

use serde_json::json;
use tar::{EntryType, GnuExtSparseHeader, Header};

use crate::archive::hostile;

pub(super) fn references() -> Vec<Vec<u8>> {
    let hex = "0123456789abcdef".repeat(4);
    let texts = [
        "debian".into(),
        "library/debian:12".into(),
        "docker.io/library/debian:latest".into(),
        "localhost:5000/a/b__c.d-e:tag_1.2-3".into(),
        "[::1]:443/x".into(),
        "Registry.example.com/name".into(),
        format!("registry.test/x:1@sha256:{hex}"),
        format!("x@sha512:{hex}{hex}"),
        format!("{}/x", "a.".repeat(60)),
        "http://registry/x".into(),
    ];
    texts.map(String::into_bytes).to_vec()
}

pub(super) fn documents() -> Vec<Vec<u8>> {
    let layer = hostile::layer("x");
    let config = hostile::config(&[&layer]);
    let manifest = hostile::manifest(&config, &[&layer]);
    let mut entry = hostile::descriptor("manifest.v1+json", manifest.as_bytes());
    entry["platform"] = json!({"os": "linux", "architecture": "amd64", "variant": "v1"});
    let index = json!({"schemaVersion": 2, "manifests": [entry, entry]}).to_string();
    let both = manifest.replacen('{', r#"{"manifests":[],"#, 1);
    [manifest, index, both, config].map(String::into_bytes).to_vec()
}

/// Archives of images, sound and hostile; the longest are left out, for changes would not meet what matters.
pub(super) fn images() -> Vec<Vec<u8>> {
    let layer = hostile::layer("x");
    let config = hostile::config(&[&layer]);
    let list = hostile::listed("c.json", &["l"]);
    let docker =
        hostile::Tar::default().file("c.json", &config).file("l", &layer).json("manifest.json", &list);
    let hostile = hostile::all().into_iter().map(|case| case.bytes).filter(|bytes| bytes.len() < 32 << 10);
    [docker.end(), hostile::layout(|_| ()).end()].into_iter().chain(hostile).collect()
}

/// Layers with every kind of header.
pub(super) fn layers() -> Vec<Vec<u8>> {
    let plain = |tar: hostile::Tar| {
        tar.entry(EntryType::Directory, "d/", "", b"")
            .file("d/f", "text")
            .file("d/.wh.e", "")
            .symlink("s", "d")
            .file("s/x", "y")
            .hardlink("d/h", "d/f")
            .hardlink("below", "l/f")
            .file("l/new", "z")
            .entry(EntryType::Fifo, "p", "", b"")
            .entry(EntryType::Char, "c", "", b"")
            .file("d/.wh..wh..opq", "")
    };
    let records =
        b"30 mtime=1400000000.123456789\n12 path=q/r\n26 SCHILY.xattr.user.a=b\nc\n19 linkpath=d/f.....\n";
    let pax = hostile::Tar::default().entry(EntryType::XHeader, "pax", "", records).file("short", "x");
    let long = hostile::Tar::default()
        .entry(EntryType::GNULongName, "././@LongLink", "", &[b"n/".repeat(120), b"\0".to_vec()].concat())
        .entry(EntryType::GNULongLink, "././@LongLink", "", b"d/f\0")
        .hardlink("cut", "cut");
    let forms: [(&[u8], &[u8]); 3] = [
        (b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n27 GNU.sparse.realsize=520\n", b"1\n8\n512\n"),
        (b"22 GNU.sparse.size=10\n25 GNU.sparse.offset=6\n27 GNU.sparse.numbytes=4\n", b"data"),
        (b"22 GNU.sparse.size=10\n22 GNU.sparse.map=6,4\n", b"data"),
    ];
    let mut all = vec![plain(hostile::Tar::default()).end(), plain(pax).end(), plain(long).end()];
    for (records, data) in forms {
        let mut data = data.to_vec();
        if data.starts_with(b"1\n") {
            data.resize(1024, 0);
        }
        let tar = hostile::Tar::default().entry(EntryType::XHeader, "pax", "", records);
        all.push(tar.entry(EntryType::Regular, "sparse", "", &data).end());
    }
    all.push(old_sparse());
    all
}

fn old_sparse() -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.as_old_mut().name[..6].copy_from_slice(b"sparse");
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(8);
    let gnu = header.as_gnu_mut().expect("it is one");
    gnu.realsize[..11].copy_from_slice(b"00000002000");
    gnu.isextended = [1];
    gnu.sparse[0].offset[..11].copy_from_slice(b"00000000000");
    gnu.sparse[0].numbytes[..11].copy_from_slice(b"00000000004");
    header.set_cksum();
    let mut extended = GnuExtSparseHeader::new();
    extended.as_mut_bytes()[..11].copy_from_slice(b"00000001774");
    extended.as_mut_bytes()[12..23].copy_from_slice(b"00000000004");
    let mut bytes = [header.as_bytes(), extended.as_bytes(), &b"datadata"[..]].concat();
    bytes.resize(bytes.len().next_multiple_of(512) + 1024, 0);
    bytes
}
