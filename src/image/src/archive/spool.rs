//! The files of an archive that is read once, front to back, and cannot be sought in: each is kept in a work folder
//! under a number, digested as it comes, until it is known what it is for.
//!
//! Names in the archive are only ever compared with names in the archive. Links are followed among them, never on
//! the disk.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};

use super::compress::Plain;
use super::source::{Kept, blob_digest};
use super::{DOCUMENTS, refused};
use crate::digest::{Algorithm, Digester};
use crate::error::{ImageError, Result};
use crate::manifest::DOCUMENT_MAX;
use crate::store::layout;
use crate::unpack::archive::{Archive, Entry, Kind};
use crate::unpack::{Limits, UnpackError};

/// Entries of an archive of images: some five for each layer, so thousands of images.
const ENTRIES_MAX: usize = 100_000;
/// Bytes of a name in it; `blobs/sha512/HEX` has 141.
const NAME_MAX: usize = 512;
/// Bytes of an extended header in it.
const HEADER_MAX: u64 = 16 << 10;
/// Links from name to name; docker's own go one step.
const LINKS_MAX: usize = 8;

/// What a name in the archive stands for.
#[derive(Debug)]
enum Member {
    File(Kept),
    /// To another name; none when it leads out of the archive.
    Link(Option<String>),
}

/// All files of an archive.
#[derive(Debug)]
pub(super) struct Spool {
    members: BTreeMap<String, Member>,
}

impl Spool {
    /// Reads an archive to its end; `what` names it in errors.
    pub(super) fn read(input: impl BufRead, folder: &Path, limits: &Limits, what: &str) -> Result<Spool> {
        let failed = |source| ImageError::Archive { what: what.to_owned(), source };
        let plain = Plain::new(input, limits).map_err(failed)?;
        let tar_limits =
            Limits { path: NAME_MAX, header: HEADER_MAX, pieces: 1, entries: u64::MAX, ..limits.clone() };
        let mut archive = Archive::new(plain, &tar_limits);
        let mut spool = Spool { members: BTreeMap::new() };
        let mut count = 0;
        loop {
            let entry = match archive.next() {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                Err(UnpackError::Archive { .. }) if count == 0 => {
                    return Err(refused(what, "it is no tar archive".into()));
                }
                Err(source) => return Err(failed(source)),
            };
            count += 1;
            if count > ENTRIES_MAX {
                return Err(refused(what, format!("it has more than {ENTRIES_MAX} entries")));
            }
            let Some(name) = inside("", &entry.path) else {
                let shown = String::from_utf8_lossy(&entry.path);
                return Err(refused(what, format!("its entry {shown:?} leads out of it")));
            };
            let member = match entry.kind {
                Kind::File => {
                    let path = folder.join(count.to_string());
                    Member::File(keep(&mut archive, &entry, &name, path, what)?)
                }
                Kind::Symlink => Member::Link(target(&name, &entry.link)),
                Kind::Hardlink => Member::Link(inside("", &entry.link)),
                // No image is made of anything else.
                Kind::Folder | Kind::Character | Kind::Block | Kind::Fifo => continue,
            };
            spool.add(name, member, what)?;
        }
        Ok(spool)
    }

    /// A name may stand twice for the same; else two readers would see two images.
    fn add(&mut self, name: String, member: Member, what: &str) -> Result<()> {
        match self.members.entry(name) {
            Slot::Vacant(slot) => drop(slot.insert(member)),
            Slot::Occupied(slot) => {
                let same = match (slot.get(), &member) {
                    (Member::File(first), Member::File(second)) => first.digest == second.digest,
                    (Member::Link(first), Member::Link(second)) => first == second,
                    _ => false,
                };
                if !same {
                    return Err(refused(what, format!("it has two entries {:?} that differ", slot.key())));
                }
                if let Member::File(second) = member {
                    layout::remove_file(&second.path)?;
                }
            }
        }
        Ok(())
    }

    /// The file that a name stands for, links followed; none when there is no such name.
    pub(super) fn find(&self, name: &str, what: &str) -> Result<Option<&Kept>> {
        let mut name = name;
        for _ in 0..=LINKS_MAX {
            match self.members.get(name) {
                None => return Ok(None),
                Some(Member::File(kept)) => return Ok(Some(kept)),
                Some(Member::Link(Some(target))) => name = target,
                Some(Member::Link(None)) => {
                    return Err(refused(what, format!("its link {name:?} leads out of it")));
                }
            }
        }
        Err(refused(what, format!("its entry {name:?} goes through too many links")))
    }
}

/// Keeps the data of a file entry.
fn keep<R: BufRead>(
    archive: &mut Archive<'_, R>,
    entry: &Entry,
    name: &str,
    path: PathBuf,
    what: &str,
) -> Result<Kept> {
    let failed = |source| ImageError::Archive { what: what.to_owned(), source };
    let whole = matches!(entry.pieces[..], [piece] if piece.offset == 0 && piece.length == entry.size);
    if !whole {
        return Err(failed(UnpackError::entry(&entry.path, "is sparse, as no image's file is")));
    }
    if DOCUMENTS.contains(&name) && entry.size > DOCUMENT_MAX {
        return Err(refused(what, format!("its {name} has more than {DOCUMENT_MAX} bytes")));
    }
    let promised = blob_digest(name);
    let mut digester = Digester::new(promised.map_or(Algorithm::Sha256, |digest| digest.algorithm()));
    let mut file = layout::new_file(&path)?;
    loop {
        let data = archive.data().map_err(failed)?;
        if data.is_empty() {
            break;
        }
        digester.update(data);
        file.write_all(data).map_err(ImageError::io("write", &path))?;
        let bytes = data.len();
        archive.consume(bytes);
    }
    Kept { path, size: digester.bytes(), digest: digester.finish() }.promised(promised, name, what)
}

/// The name that a path stands for, from a folder of the archive; none when it leads out.
pub(super) fn inside(folder: &str, path: &[u8]) -> Option<String> {
    let path = std::str::from_utf8(path).ok().filter(|path| !path.starts_with('/'))?;
    let mut components: Vec<&str> = folder.split('/').filter(|component| !component.is_empty()).collect();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => drop(components.pop()?),
            component => components.push(component),
        }
    }
    Some(components.join("/"))
}

/// What a symbolic link of this name leads to.
fn target(name: &str, link: &[u8]) -> Option<String> {
    inside(name.rsplit_once('/').map_or("", |(folder, _)| folder), link)
}
