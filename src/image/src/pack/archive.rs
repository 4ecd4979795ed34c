//! Writing the entries of a tar archive in POSIX pax form: a ustar header, before it an extended one for what that has no
//! room for. Sources: POSIX `pax`; GNU tar manual, "Sparse Formats" (PAX 1.0); libarchive `tar(5)` for SCHILY.xattr.

use std::io::{self, Write};

use tar::{EntryType, Header};

use crate::unpack::metadata::Attributes;
use crate::unpack::pax::Time;

const BLOCK: u64 = 512;

/// The largest numbers of a header's octal fields of 8 and 12 bytes, which end with a null byte.
const OCTAL_8: u64 = 0o7_777_777;
const OCTAL_12: u64 = 0o77_777_777_777;

/// One entry.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    /// A folder's without a slash at its end.
    pub(super) path: &'a [u8],
    pub(super) kind: EntryType,
    /// The target of a symbolic or hard link.
    pub(super) link: &'a [u8],
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Time,
    /// Major and minor number.
    pub(super) device: (u32, u32),
    pub(super) xattrs: &'a Attributes,
    /// Bytes of a file, holes included.
    pub(super) size: u64,
    /// The pieces of a sparse file that are stored, each an offset and a length; `None` when all of it is.
    pub(super) pieces: Option<&'a [(u64, u64)]>,
}

/// An archive that is being written. Dropped without [`Archive::finish`], it is cut off.
#[derive(Debug)]
pub(super) struct Archive<W: Write> {
    out: W,
    /// Bytes since the last whole block.
    partial: u64,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Archive { out, partial: 0 }
    }

    /// Writes what comes before an entry's data, which the caller then gives to [`Archive::data`], exactly as much as
    /// was said.
    pub(super) fn entry(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        self.pad()?;
        let mut path = entry.path.to_vec();
        if entry.kind == EntryType::Directory {
            path.push(b'/');
        }
        let map = entry.pieces.map(sparse_map);
        let size = match (&map, entry.pieces) {
            (Some(map), Some(pieces)) => {
                map.len() as u64 + pieces.iter().map(|(_, length)| length).sum::<u64>()
            }
            _ => entry.size,
        };
        let mut records = Records::default();
        let mut header = Header::new_ustar();
        let name = if map.is_some() {
            records.add(b"GNU.sparse.major", b"1");
            records.add(b"GNU.sparse.minor", b"0");
            records.add(b"GNU.sparse.name", &path);
            records.add(b"GNU.sparse.realsize", entry.size.to_string().as_bytes());
            // What a reader that knows nothing of it would make: beside the file, not in its place.
            named_in(&path, b"GNUSparseFile.0")
        } else {
            path.clone()
        };
        if !fit(&mut header.as_old_mut().name, &name) && map.is_none() {
            records.add(b"path", &path);
        }
        if !fit(&mut header.as_old_mut().linkname, entry.link) {
            records.add(b"linkpath", entry.link);
        }
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(records.number(b"uid", entry.uid.into(), OCTAL_8));
        header.set_gid(records.number(b"gid", entry.gid.into(), OCTAL_8));
        header.set_size(records.number(b"size", size, OCTAL_12));
        header.set_mtime(records.time(entry.mtime));
        header.set_device_major(entry.device.0)?;
        header.set_device_minor(entry.device.1)?;
        for (name, value) in entry.xattrs {
            records.add(&[b"SCHILY.xattr.", &name[..]].concat(), value);
        }
        if !records.0.is_empty() {
            self.extended(&path, &records.0)?;
        }
        self.header(&mut header)?;
        map.map_or(Ok(()), |map| self.data(&map))
    }

    /// Writes data of the last entry.
    pub(super) fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.partial = (self.partial + bytes.len() as u64) % BLOCK;
        Ok(())
    }

    /// Ends the archive and gives back what it was written to.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.pad()?;
        self.out.write_all(&[0; 2 * BLOCK as usize])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn extended(&mut self, path: &[u8], records: &[u8]) -> io::Result<()> {
        let mut header = Header::new_ustar();
        fit(&mut header.as_old_mut().name, &named_in(path, b"PaxHeaders.0"));
        header.set_entry_type(EntryType::XHeader);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(records.len() as u64);
        header.set_device_major(0)?;
        header.set_device_minor(0)?;
        self.header(&mut header)?;
        self.data(records)?;
        self.pad()
    }

    fn header(&mut self, header: &mut Header) -> io::Result<()> {
        header.set_cksum();
        self.out.write_all(header.as_bytes())
    }

    /// Fills up the block that the last entry's data ends in.
    fn pad(&mut self) -> io::Result<()> {
        let rest = (BLOCK - self.partial) % BLOCK;
        self.out.write_all(&[0; BLOCK as usize][..rest as usize])?;
        self.partial = 0;
        Ok(())
    }
}

/// The records of an extended header.
#[derive(Default)]
struct Records(Vec<u8>);

impl Records {
    /// Adds `LENGTH KEY=VALUE\n`, where the length counts its own digits.
    fn add(&mut self, key: &[u8], value: &[u8]) {
        let bare = key.len() + value.len() + 3;
        let mut length = bare + 1;
        while length != bare + length.to_string().len() {
            length = bare + length.to_string().len();
        }
        self.0.extend_from_slice(length.to_string().as_bytes());
        for part in [b" ", key, b"=", value, b"\n"] {
            self.0.extend_from_slice(part);
        }
    }

    /// What goes into a header's field for a number: that, or nothing when only a record holds it.
    fn number(&mut self, key: &[u8], value: u64, limit: u64) -> u64 {
        if value <= limit {
            return value;
        }
        self.add(key, value.to_string().as_bytes());
        0
    }

    fn time(&mut self, time: Time) -> u64 {
        let seconds = u64::try_from(time.seconds).ok().filter(|seconds| *seconds <= OCTAL_12);
        if seconds.is_none() || time.nanoseconds != 0 {
            self.add(b"mtime", decimal_time(time).as_bytes());
        }
        seconds.unwrap_or(0)
    }
}

/// `[-]SECONDS[.FRACTION]`, exactly.
fn decimal_time(time: Time) -> String {
    let nanoseconds = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let (seconds, fraction) =
        (nanoseconds.unsigned_abs() / 1_000_000_000, nanoseconds.unsigned_abs() % 1_000_000_000);
    let text = format!("{sign}{seconds}.{fraction:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Puts a name into a field of the header as far as it goes; whether all of it went.
fn fit(field: &mut [u8], name: &[u8]) -> bool {
    let length = name.len().min(field.len());
    field[..length].copy_from_slice(&name[..length]);
    length == name.len()
}

/// The name of something that belongs to a path: its last component in another folder.
fn named_in(path: &[u8], folder: &[u8]) -> Vec<u8> {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let (parent, name) = crate::folder::split(path);
    let folder = crate::folder::join(parent, folder);
    let mut name = crate::folder::join(&folder, name);
    name.truncate(100);
    name
}

/// The map of a sparse file, before its data: decimal lines, filled up to a block.
fn sparse_map(pieces: &[(u64, u64)]) -> Vec<u8> {
    let mut map = format!("{}\n", pieces.len());
    for (offset, length) in pieces {
        map.push_str(&format!("{offset}\n{length}\n"));
    }
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(BLOCK as usize), 0);
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_exactly() {
        for (seconds, nanoseconds, expected) in [
            (0, 0, "0"),
            (1, 500_000_000, "1.5"),
            (1_700_000_000, 1, "1700000000.000000001"),
            (100, 0, "100"),
            (-2, 750_000_000, "-1.25"),
            (-3, 0, "-3"),
            (-1, 1, "-0.999999999"),
        ] {
            assert_eq!(decimal_time(Time { seconds, nanoseconds }), expected);
        }
    }

    #[test]
    fn a_record_counts_itself() {
        for length in [0, 5, 90, 91, 92, 93, 990, 9988] {
            let mut records = Records::default();
            records.add(b"key", &vec![b'x'; length]);
            let text = String::from_utf8(records.0).expect("plain");
            let said: usize = text.split(' ').next().expect("a length").parse().expect("a number");
            assert_eq!(said, text.len());
        }
    }
}
