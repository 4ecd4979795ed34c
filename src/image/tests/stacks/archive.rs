//! Entries of a layer, and their archive: now with this kind of header, now with that.

use tar::{EntryType, Header};

use super::random::Random;

/// One entry, as the generator chooses it.
#[derive(Debug, Clone)]
pub struct Entry {
    pub path: String,
    pub kind: EntryType,
    /// The target of a link.
    pub link: String,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    /// Seconds, as PAX has them: possibly negative, possibly with a fraction.
    pub mtime: String,
    pub content: Vec<u8>,
    pub device: (u32, u32),
    pub xattrs: Vec<(&'static str, Vec<u8>)>,
}

/// The archive of these entries.
pub fn archive(entries: &[Entry], random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        write(&mut bytes, entry, random);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn write(bytes: &mut Vec<u8>, entry: &Entry, random: &mut Random) {
    let mut records = Vec::new();
    for (name, value) in &entry.xattrs {
        record(&mut records, &format!("SCHILY.xattr.{name}"), value);
    }
    let mut name = entry.path.clone();
    let mut link = entry.link.clone();
    let plain_time = entry.mtime.parse::<u64>().ok();
    if plain_time.is_none() || random.once_in(4) {
        record(&mut records, "mtime", entry.mtime.as_bytes());
    }
    if random.once_in(6) {
        // Long names come in one of two ways, whatever the header says.
        let (long_name, long_link) = (std::mem::take(&mut name), std::mem::take(&mut link));
        if random.once_in(2) {
            record(&mut records, "path", long_name.as_bytes());
            if !long_link.is_empty() {
                record(&mut records, "linkpath", long_link.as_bytes());
            }
        } else {
            let body = |text: &str| [text.as_bytes(), b"\0"].concat();
            block(
                bytes,
                &header("././@LongLink", EntryType::GNULongName, long_name.len() + 1),
                &body(&long_name),
            );
            if !long_link.is_empty() {
                let header = header("././@LongLink", EntryType::GNULongLink, long_link.len() + 1);
                block(bytes, &header, &body(&long_link));
            }
        }
        (name, link) = ("cut".into(), "cut".into());
    }
    let huge = |id: u64| id > 0o777_7777;
    for (key, id) in [("uid", entry.uid), ("gid", entry.gid)] {
        if huge(id) {
            record(&mut records, key, id.to_string().as_bytes());
        }
    }
    if !records.is_empty() {
        block(bytes, &header("PaxHeaders/x", EntryType::XHeader, records.len()), &records);
    }
    let mut header = header(&name, entry.kind, entry.content.len());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_mode(entry.mode);
    header.set_uid(if huge(entry.uid) { 0 } else { entry.uid });
    header.set_gid(if huge(entry.gid) { 0 } else { entry.gid });
    header.set_mtime(plain_time.unwrap_or(0));
    header.set_device_major(entry.device.0).expect("ustar");
    header.set_device_minor(entry.device.1).expect("ustar");
    block(bytes, &header, &entry.content);
}

fn header(name: &str, kind: EntryType, size: usize) -> Header {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size as u64);
    header.set_device_major(0).expect("ustar");
    header.set_device_minor(0).expect("ustar");
    header
}

fn block(bytes: &mut Vec<u8>, header: &Header, data: &[u8]) {
    let mut header = header.clone();
    header.set_cksum();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
}

/// A record of an extended header, which begins with its own length (POSIX pax, "Extended Header").
fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    records.extend(format!("{length} {key}=").bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}
