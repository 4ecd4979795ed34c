//! Layers made by hand, entry by entry: also such as no honest program makes.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

/// When everything in these layers was last changed, unless an entry says otherwise.
pub const MTIME: u64 = 1_700_000_000;

/// A layer's archive under construction. Names are written as given, byte for byte.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    tar: Vec<u8>,
    claimed_diff_id: Option<String>,
    transferred: Option<Vec<u8>>,
}

/// One entry of an archive.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// Its name.
    pub path: &'a str,
    /// What it is.
    pub kind: EntryType,
    /// Permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u64,
    /// Its group.
    pub gid: u64,
    /// Seconds since 1970.
    pub mtime: u64,
    /// Where a link points.
    pub link: &'a str,
    /// A device's numbers.
    pub device: (u32, u32),
    /// A file's content.
    pub content: &'a [u8],
    /// Extended attributes.
    pub xattrs: &'a [(&'a str, &'a [u8])],
}

impl Default for Entry<'_> {
    fn default() -> Self {
        Entry {
            path: "",
            kind: EntryType::Regular,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: MTIME,
            link: "",
            device: (0, 0),
            content: b"",
            xattrs: &[],
        }
    }
}

impl Layer {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// A file that belongs to root.
    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.entry(&Entry { path, content: content.as_ref(), ..Entry::default() })
    }

    /// A program that belongs to root.
    pub fn program(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.entry(&Entry { path, content: content.as_ref(), mode: 0o755, ..Entry::default() })
    }

    /// A directory.
    pub fn dir(self, path: &str) -> Self {
        self.entry(&Entry { path, kind: EntryType::Directory, mode: 0o755, ..Entry::default() })
    }

    /// A symbolic link.
    pub fn symlink(self, path: &str, link: &str) -> Self {
        self.entry(&Entry { path, link, kind: EntryType::Symlink, mode: 0o777, ..Entry::default() })
    }

    /// Another name for an entry before it.
    pub fn hardlink(self, path: &str, link: &str) -> Self {
        self.entry(&Entry { path, link, kind: EntryType::Link, ..Entry::default() })
    }

    /// What takes `name` in `folder` away from the layers below.
    pub fn whiteout(self, folder: &str, name: &str) -> Self {
        self.file(&format!("{folder}.wh.{name}"), "")
    }

    /// What takes everything in `folder` away from the layers below.
    pub fn opaque(self, folder: &str) -> Self {
        self.file(&format!("{folder}.wh..wh..opq"), "")
    }

    /// Any entry.
    ///
    /// # Panics
    /// When a name is longer than the 100 bytes of the header.
    pub fn entry(mut self, entry: &Entry<'_>) -> Self {
        if !entry.xattrs.is_empty() {
            let mut records = Vec::new();
            for (name, value) in entry.xattrs {
                records.extend(pax_record(&format!("SCHILY.xattr.{name}"), value));
            }
            self.append(&Entry {
                path: "PaxHeaders/entry",
                kind: EntryType::XHeader,
                content: &records,
                ..Entry::default()
            });
        }
        self.append(entry);
        self
    }

    fn append(&mut self, entry: &Entry<'_>) {
        let mut header = Header::new_ustar();
        let old = header.as_old_mut();
        assert!(entry.path.len() <= old.name.len() && entry.link.len() <= old.linkname.len());
        old.name[..entry.path.len()].copy_from_slice(entry.path.as_bytes());
        old.linkname[..entry.link.len()].copy_from_slice(entry.link.as_bytes());
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(entry.uid);
        header.set_gid(entry.gid);
        header.set_mtime(entry.mtime);
        header.set_size(entry.content.len() as u64);
        header.set_device_major(entry.device.0).expect("this kind of header has it");
        header.set_device_minor(entry.device.1).expect("this kind of header has it");
        header.set_cksum();
        self.tar.extend_from_slice(header.as_bytes());
        self.tar.extend_from_slice(entry.content);
        self.tar.resize(self.tar.len().next_multiple_of(512), 0);
    }

    /// Lets the image's configuration promise another content.
    pub fn claiming_diff_id(mut self, diff_id: &str) -> Self {
        self.claimed_diff_id = Some(diff_id.to_owned());
        self
    }

    /// Lets these bytes be transferred instead of the packed archive.
    pub fn replaced_by(mut self, transferred: Vec<u8>) -> Self {
        self.transferred = Some(transferred);
        self
    }

    /// The finished archive.
    pub fn archive(&self) -> Vec<u8> {
        [&self.tar[..], &[0; 1024]].concat()
    }

    /// The digest of the archive, or the other one that the configuration is to promise.
    pub fn diff_id(&self) -> String {
        self.claimed_diff_id.clone().unwrap_or_else(|| digest(&self.archive()))
    }

    /// The archive as it is transferred.
    pub fn compressed(&self) -> Vec<u8> {
        if let Some(bytes) = &self.transferred {
            return bytes.clone();
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&self.archive()).and_then(|()| encoder.finish()).expect("memory takes it")
    }
}

/// `sha256:` and the digits.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A record of an extended header, which begins with its own length (POSIX pax, "Extended Header").
fn pax_record(name: &str, value: &[u8]) -> Vec<u8> {
    let rest = name.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    [format!("{length} {name}=").as_bytes(), value, b"\n"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extended_header_counts_itself() {
        assert_eq!(pax_record("a", b"b"), b"6 a=b\n");
        let long = pax_record("name", &[b'x'; 90]);
        assert!(long.starts_with(b"100 ") || long.starts_with(b"99 "));
        assert_eq!(long.len().to_string().as_bytes(), long.split(|byte| *byte == b' ').next().unwrap());
    }

    #[test]
    fn tar_reads_what_is_written() {
        let layer = Layer::new().dir("d").file("d/f", "text").symlink("s", "d/f");
        let layer = layer.entry(&Entry { path: "x", xattrs: &[("user.a", b"1")], ..Entry::default() });
        let archive = layer.archive();
        let mut reader = tar::Archive::new(&archive[..]);
        let names: Vec<String> = reader
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["d", "d/f", "s", "x"]);
    }
}
