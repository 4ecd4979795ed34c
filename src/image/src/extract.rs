//! Extracting an archive among files that are there already: what `cp` does with what `pack` wrote, or with a stream
//! of the user's. Nothing in the archive has a meaning beyond files: no whiteouts.
//!
//! Others may change the tree meanwhile, a container's processes above all (CVE-2018-15664). Every name is resolved by
//! descriptor: a folder on the way is either a real one, or a link that openat2(2) follows inside the container's
//! root; the last component is never followed.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::folder::join;
use crate::inode::{self, mount_id};
use crate::pack::LeftOuts;
use crate::unpack::archive::{Archive, Entry, Kind};
use crate::unpack::metadata::{self, Metadata};
use crate::unpack::pax::Time;
use crate::unpack::tree::{self, components};
use crate::unpack::{Limits, UnpackError};

type Result<T> = std::result::Result<T, UnpackError>;

/// The mode of folders that an archive uses but does not have.
const MADE_MODE: Mode = Mode::from_raw_mode(0o755);

/// Where an archive is extracted.
#[derive(Debug)]
pub struct Destination {
    /// Its folder.
    pub folder: OwnedFd,
    /// How names below it are resolved.
    pub way: Way,
}

/// How the folders on the way to an entry are found.
#[derive(Debug)]
pub enum Way {
    /// They are real folders, else the archive is refused.
    Real,
    /// Links are followed, inside this root, where the destination is at this path.
    InRoot(OwnedFd, PathBuf),
}

/// What is kept of an archive's descriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Owner, permissions with setuid and setgid, attributes and time; devices.
    All,
    /// Permissions without those bits, and time; the rest is as of any new file of ours, and devices are left out: a
    /// program or device that was somebody's must not become root's unasked.
    Plain,
}

/// Extracts an archive. An entry for the destination itself changes nothing of it. Returns what was left out.
///
/// # Errors
/// A folder in the place of something else or the other way round, an archive that is damaged, what the kernel refuses.
/// What was extracted before stays.
pub fn extract(archive: impl BufRead, to: &Destination, keep: Keep) -> Result<LeftOuts> {
    let limits = Limits::default();
    let mut archive = Archive::new(archive, &limits);
    let mut extraction = Extraction {
        to,
        keep,
        times: Vec::new(),
        names: HashSet::new(),
        missing: HashSet::new(),
        made: 0,
        limits: &limits,
        left_out: LeftOuts::default(),
    };
    while let Some(entry) = archive.next()? {
        extraction.entry(&entry, &mut archive)?;
    }
    extraction.set_times()?;
    Ok(extraction.left_out)
}

struct Extraction<'a> {
    to: &'a Destination,
    keep: Keep,
    /// Of folders, set last because every change in a folder moves its time.
    times: Vec<(Vec<u8>, Time)>,
    /// What links may be made to, where only to what the archive has.
    names: HashSet<Vec<u8>>,
    /// What was left out; links to it are too.
    missing: HashSet<Vec<u8>>,
    made: u64,
    limits: &'a Limits,
    left_out: LeftOuts,
}

impl Extraction<'_> {
    fn entry<R: BufRead>(&mut self, entry: &Entry, archive: &mut Archive<'_, R>) -> Result<()> {
        if entry.path.contains(&0) || entry.link.contains(&0) {
            return Err(UnpackError::entry(&entry.path, "has a zero byte in its name"));
        }
        self.made += 1;
        self.limits.check_entries(self.made)?;
        let path = components(&entry.path);
        let Some((name, parents)) = path.split_last() else { return Ok(()) };
        let path = path.join(&b'/');
        if self.is_left_out(entry) {
            self.left_out.add(
                &entry.path,
                "is a device, which is copied only with its owner and permissions (--archive)",
            );
            self.missing.insert(path);
            return Ok(());
        }
        let folder = self.enter(&parents.join(&b'/'), true)?;
        self.make_room(folder.as_fd(), name, &path, entry.kind == Kind::Folder)?;
        if entry.kind != Kind::Folder && matches!(self.to.way, Way::Real) {
            self.names.insert(path.clone());
        }
        match entry.kind {
            Kind::Folder => self.folder(folder.as_fd(), name, path, entry),
            Kind::File => self.file(folder.as_fd(), name, &path, entry, archive),
            Kind::Hardlink => self.hardlink(folder.as_fd(), name, &path, entry),
            Kind::Symlink | Kind::Character | Kind::Block | Kind::Fifo => {
                self.special(folder.as_fd(), name, &path, entry)
            }
        }
    }

    fn is_left_out(&self, entry: &Entry) -> bool {
        match entry.kind {
            Kind::Character | Kind::Block => self.keep == Keep::Plain,
            Kind::Hardlink => self.missing.contains(&components(&entry.link).join(&b'/')),
            _ => false,
        }
    }

    /// Opens a folder below the destination, made where it is missing and may be.
    fn enter(&self, path: &[u8], make: bool) -> Result<OwnedFd> {
        match self.open(path) {
            Err(Errno::NOENT) if make && !path.is_empty() => {}
            other => return other.map_err(UnpackError::io("open the folder", path)),
        }
        let mut walked = Vec::new();
        let mut at = self.open(b"").map_err(UnpackError::io("open the folder", b"."))?;
        for name in path.split(|byte| *byte == b'/') {
            walked = join(&walked, name);
            at = match self.open(&walked) {
                Err(Errno::NOENT) => {
                    match rustix::fs::mkdirat(&at, name, MADE_MODE) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(UnpackError::io("make the folder", &walked)(error)),
                    }
                    tree::open_folder(at.as_fd(), name)
                }
                other => other,
            }
            .map_err(UnpackError::io("open the folder", &walked))?;
        }
        Ok(at)
    }

    fn open(&self, path: &[u8]) -> std::result::Result<OwnedFd, Errno> {
        match &self.to.way {
            Way::Real => {
                crate::folder::open_below(self.to.folder.as_fd(), path, crate::folder::Mounts::Cross)
            }
            Way::InRoot(root, base) => {
                // Most ways have no link: those stay in the folder that was opened, whatever has its name by now.
                match crate::folder::open_below(self.to.folder.as_fd(), path, crate::folder::Mounts::Cross) {
                    Err(Errno::LOOP | Errno::NOTDIR) => {}
                    other => return other,
                }
                let path = join(base.as_os_str().as_encoded_bytes(), path);
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                open_in_root(root.as_fd(), &path, flags)
            }
        }
    }

    /// Removes what has the name of an entry and may be replaced by it. A folder stays for a folder.
    fn make_room(&self, folder: BorrowedFd<'_>, name: &[u8], path: &[u8], for_folder: bool) -> Result<()> {
        let there = inode::find(folder, name).map_err(UnpackError::io("look at", path))?;
        let Some(there) = there else { return Ok(()) };
        match there.is_folder() {
            true if for_folder => Ok(()),
            true => Err(UnpackError::entry(path, "cannot overwrite a directory with a non-directory")),
            false if for_folder => {
                Err(UnpackError::entry(path, "cannot overwrite a non-directory with a directory"))
            }
            false => unlink(folder, name, &there).map_err(UnpackError::io("replace", path)),
        }
    }

    fn folder(&mut self, parent: BorrowedFd<'_>, name: &[u8], path: Vec<u8>, entry: &Entry) -> Result<()> {
        match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(UnpackError::io("make the folder", &path)(error)),
        }
        let folder = tree::open_folder(parent, name).map_err(UnpackError::io("open the folder", &path))?;
        self.describe(folder.as_fd(), entry, &path)?;
        self.times.push((path, entry.mtime));
        Ok(())
    }

    fn file<R: BufRead>(
        &self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        entry: &Entry,
        archive: &mut Archive<'_, R>,
    ) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR);
        let file = File::from(made.map_err(UnpackError::io("make", path))?);
        self.data(&file, path, entry, archive)?;
        self.describe(file.as_fd(), entry, path)?;
        rustix::fs::futimens(&file, &metadata::times(entry.mtime))
            .map_err(UnpackError::io("set the time of", path))
    }

    fn data<R: BufRead>(
        &self,
        mut file: &File,
        path: &[u8],
        entry: &Entry,
        archive: &mut Archive<'_, R>,
    ) -> Result<()> {
        for piece in &entry.pieces {
            file.seek(SeekFrom::Start(piece.offset)).map_err(UnpackError::io("write", path))?;
            let mut left = piece.length;
            while left > 0 {
                let slice = archive.data()?;
                let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(slice.len());
                file.write_all(&slice[..wanted]).map_err(UnpackError::io("write", path))?;
                archive.consume(wanted);
                left -= wanted as u64;
            }
        }
        // A hole at the end is not made by seeking.
        file.set_len(entry.size).map_err(UnpackError::io("write", path))
    }

    fn special(&self, parent: BorrowedFd<'_>, name: &[u8], path: &[u8], entry: &Entry) -> Result<()> {
        let is_link = entry.kind == Kind::Symlink;
        if is_link {
            rustix::fs::symlinkat(&entry.link[..], parent, name).map_err(UnpackError::io("make", path))?;
        } else {
            let (kind, device) = match entry.kind {
                Kind::Fifo => (FileType::Fifo, 0),
                Kind::Block => (FileType::BlockDevice, rustix::fs::makedev(entry.device.0, entry.device.1)),
                _ => (FileType::CharacterDevice, rustix::fs::makedev(entry.device.0, entry.device.1)),
            };
            rustix::fs::mknodat(parent, name, kind, Mode::RUSR | Mode::WUSR, device)
                .map_err(UnpackError::io("make", path))?;
        }
        metadata::apply_special(parent, name, is_link, &self.described(entry))?;
        rustix::fs::utimensat(parent, name, &metadata::times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(UnpackError::io("set the time of", path))
    }

    /// Another name for what was extracted; in a container's tree also for what is there, as a stream may ask.
    fn hardlink(&self, parent: BorrowedFd<'_>, name: &[u8], path: &[u8], entry: &Entry) -> Result<()> {
        let target = components(&entry.link);
        let Some((target_name, target_parents)) = target.split_last() else {
            return Err(UnpackError::entry(path, "is a hard link to the destination itself"));
        };
        if matches!(self.to.way, Way::Real) && !self.names.contains(&target.join(&b'/')) {
            return Err(UnpackError::entry(path, "is a hard link to nothing that comes before it"));
        }
        let folder = self.enter(&target_parents.join(&b'/'), false)?;
        rustix::fs::linkat(&folder, *target_name, parent, name, AtFlags::empty())
            .map_err(UnpackError::io("link", path))
    }

    fn describe(&self, file: BorrowedFd<'_>, entry: &Entry, path: &[u8]) -> Result<()> {
        metadata::apply(file, &self.described(entry), path).map(drop)
    }

    fn described<'e>(&self, entry: &'e Entry) -> Cow<'e, Metadata> {
        match self.keep {
            Keep::All => Cow::Borrowed(&entry.metadata),
            Keep::Plain => {
                let mode = entry.metadata.mode & 0o1777;
                Cow::Owned(Metadata { uid: 0, gid: 0, mode, xattrs: Vec::new() })
            }
        }
    }

    fn set_times(&self) -> Result<()> {
        for (path, time) in self.times.iter().rev() {
            let folder = match self.open(path) {
                // Somebody else has removed it, or put something in its place, which is not ours to describe.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                other => other.map_err(UnpackError::io("open the folder", path))?,
            };
            rustix::fs::futimens(folder, &metadata::times(*time))
                .map_err(UnpackError::io("set the time of", path))?;
        }
        Ok(())
    }
}

/// Removes a file. One that something is mounted on is in use: the kernel says so only to whoever is in the same mount
/// namespace, and takes the mount from all others (mount_namespaces(7)).
fn unlink(folder: BorrowedFd<'_>, name: &[u8], there: &inode::Inode) -> std::result::Result<(), Errno> {
    if mount_id(folder)? != mount_id(there)? {
        return Err(Errno::BUSY);
    }
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Opens a path as one whose root it is would: `..` and absolute links stay inside, magic links are refused.
pub(crate) fn open_in_root(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
) -> std::result::Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let path = if path.is_empty() { b"/" } else { path };
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // A rename or mount raced with the walk; the kernel asks to walk again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}
