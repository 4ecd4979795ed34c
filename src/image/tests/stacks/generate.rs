//! Layer stacks of few short names, so that entries often meet: every kind replaces every other, links lead
//! into other layers, and whiteouts come before and after what they must spare.
//!
//! Kept out, because umoci is no measure for it:
//! - what umoci refuses: a file of a lower layer as a folder, links to what is missing, attributes of links;
//! - the character device 0:0, and attributes that we leave out on purpose (`trusted.*` and the like);
//! - a layer that goes through a lower layer's link and then replaces that link, or comes to the same place by
//!   both ways: there umoci goes by the order of the entries, and we by what the archive says by its own path;
//!   or that goes on through a link of its own which it made there, as if that lay where the archive says;
//! - hard links to one of several names that a lower layer has for a file: a copy-up cannot take the others along;
//!   and those to a lower layer's link that the layer also goes through, by either name;
//! - folders that no entry describes, in one that hands down its group or access list: umoci lets them inherit.

use tar::EntryType;

use super::archive::{Entry, archive};
use super::model::{Kind, Model, Place, Real};
use super::random::Random;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const TIMES: [&str; 6] = ["0", "1500000000", "1500000001.25", "-1.5", "-100", "1400000000.123456789"];
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Owner rwx, user 7 r--, group r-x, mask r-x, others none (linux/posix_acl_xattr.h).
const ACCESS_LIST: [u8; 44] = [
    2, 0, 0, 0, 1, 0, 7, 0, 0xff, 0xff, 0xff, 0xff, 2, 0, 4, 0, 7, 0, 0, 0, 4, 0, 5, 0, 0xff, 0xff, 0xff,
    0xff, 16, 0, 5, 0, 0xff, 0xff, 0xff, 0xff, 32, 0, 0, 0, 0xff, 0xff, 0xff, 0xff,
];

/// The entries of each layer, bottom first.
pub fn stack(random: &mut Random) -> Vec<Vec<Entry>> {
    let mut model = Model::default();
    (0..2 + random.below(3)).map(|_| layer(&mut model, random)).collect()
}

/// The archives of a stack.
pub fn archives(stack: &[Vec<Entry>], random: &mut Random) -> Vec<Vec<u8>> {
    stack.iter().map(|entries| archive(entries, random)).collect()
}

fn layer(model: &mut Model, random: &mut Random) -> Vec<Entry> {
    model.next_layer();
    let mut entries = Vec::new();
    if random.once_in(2) {
        // The root's own entry; it changes nothing that the model knows of.
        let mut root = entry(random, EntryType::Directory);
        root.mode &= 0o5777;
        root.path = random.of(&["./", "/", "."]).to_string();
        entries.push(root);
    }
    for _ in 0..5 + random.below(25) {
        entries.extend(next(model, random));
    }
    entries
}

fn path(random: &mut Random) -> Vec<&'static str> {
    (0..1 + random.below(3)).map(|_| *random.of(&NAMES)).collect()
}

/// The next entry, unless the chosen one may not be.
fn next(model: &mut Model, random: &mut Random) -> Option<Entry> {
    let words = path(random);
    let (name, parents) = words.split_last().expect("one at least");
    let folder = model.follow(&parents.join("/"))?;
    let real: Real = [&folder.real[..], &[(*name).to_owned()]].concat();
    let written = match random.below(6) {
        0 => format!("/{}", words.join("/")),
        1 => format!("./{}", words.join("/")),
        2 => format!("x/../{}", words.join("/")),
        _ => words.join("/"),
    };
    if random.once_in(6) {
        return deletion(model, random, &folder, &real, &parents.join("/"));
    }
    if model.is_tangled(&folder, &real) || model.hands_down(&folder.real) {
        return None;
    }
    let kind = *random.of(&[
        EntryType::Regular,
        EntryType::Regular,
        EntryType::Directory,
        EntryType::Directory,
        EntryType::Directory,
        EntryType::Symlink,
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Link,
        EntryType::Fifo,
        EntryType::Char,
        EntryType::Block,
    ]);
    let mut entry = entry(random, kind);
    entry.path = if kind == EntryType::Directory && random.once_in(2) { written + "/" } else { written };
    match kind {
        EntryType::Directory => {
            let kind = Kind::Folder { hands_down_its_group: entry.mode & 0o2000 != 0 };
            model.put(&folder, &real, kind, "", None);
        }
        EntryType::Symlink => {
            let target = path(random).join("/");
            entry.link = format!("{}{target}", random.of(&["", "", "/", "../", "../../", "./"]));
            model.put(&folder, &real, Kind::Symlink, &entry.link, None);
        }
        EntryType::Link => {
            let target = path(random);
            let (last, parents) = target.split_last().expect("one at least");
            let place = model.follow(&parents.join("/"))?;
            let there: Real = [&place.real[..], &[(*last).to_owned()]].concat();
            // A link to itself is deleted first by umoci, and then missed. So is what lies below its own name.
            if there.starts_with(&real) || real.starts_with(&there) {
                return None;
            }
            if model.is_tangled(&place, &there) || !model.may_link(&there) {
                return None;
            }
            entry.link = format!("{}{}", random.of(&["", "/", "./"]), target.join("/"));
            let (kind, inode) = (model.kind(&there)?, model.inode(&there));
            let link = model.link(&there);
            model.put(&folder, &real, kind, &link, Some(inode));
        }
        _ => model.put(&folder, &real, Kind::Other, "", None),
    }
    Some(entry)
}

fn deletion(
    model: &mut Model,
    random: &mut Random,
    folder: &Place,
    real: &Real,
    parents: &str,
) -> Option<Entry> {
    let mut entry = entry(random, EntryType::Regular);
    entry.content.clear();
    entry.xattrs.clear();
    let opaque = random.once_in(3);
    let path = if opaque { &folder.real } else { real };
    if model.is_tangled(folder, path) {
        return None;
    }
    let name = if opaque { ".wh..opq" } else { real.last()? };
    entry.path = format!("{parents}/.wh.{name}");
    model.delete(folder, path, opaque);
    Some(entry)
}

fn entry(random: &mut Random, kind: EntryType) -> Entry {
    let mode = *random.of(&[0o644, 0o755, 0o600, 0o777, 0o4755, 0o2755, 0o1777, 0o000]);
    let mut xattrs = Vec::new();
    if matches!(kind, EntryType::Regular | EntryType::Directory) && random.once_in(4) {
        xattrs.push(("user.note", random.of(&[&b"text"[..], b"a\nb=c", b"\0"]).to_vec()));
    }
    if kind == EntryType::Regular && random.once_in(8) {
        xattrs.push(("security.capability", CAPABILITY.to_vec()));
    }
    if matches!(kind, EntryType::Regular | EntryType::Directory) && random.once_in(10) {
        xattrs.push(("system.posix_acl_access", ACCESS_LIST.to_vec()));
    }
    let lengths = [0, 1, 511, 512, 513, 5000, 70_000];
    let content = match kind {
        EntryType::Regular => {
            let byte = *random.of(b"xyz");
            vec![byte; *random.of(&lengths)]
        }
        _ => Vec::new(),
    };
    Entry {
        path: String::new(),
        kind,
        link: String::new(),
        mode,
        uid: *random.of(&[0, 0, 7, 100_000, 4_000_000_000]),
        gid: *random.of(&[0, 0, 8, 3_000_000_000]),
        mtime: (*random.of(&TIMES)).to_owned(),
        content,
        device: *random.of(&[(1, 3), (8, 1), (0, 7)]),
        xattrs,
    }
}
