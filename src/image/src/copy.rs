//! An image's layers as one plain folder, for a machine that cannot mount them over each other.
//!
//! The layers are gone through top first, so that every file is copied once and nothing is ever removed: what an
//! upper layer brought or hid is known by then, and a lower layer fills in what is left. The folders' own
//! descriptions come last, when nothing is made in them any more.
//!
//! The measure for the result is what overlayfs shows of the same layers (kernel, overlayfs.rst). That goes for the
//! mark of an opaque root too, which a mount does not heed.
//!
//! Every folder is opened by its path from a layer's root, or the copy's (`folder`).

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawMode, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use crate::folder::{self, Mounts, join, split};
use crate::holes;
use crate::inode::Inode;
use crate::unpack::UnpackError;
use crate::unpack::metadata::{self, Attributes, Metadata};
use crate::unpack::tree;

/// The layers of an image could not be copied.
#[derive(Debug, thiserror::Error)]
#[error("failed to copy the layers to {}", dest.display())]
pub struct CopyError {
    /// Where they were to go.
    pub dest: PathBuf,
    /// What failed, with the path in the image.
    pub source: UnpackError,
}

type Result<T> = std::result::Result<T, UnpackError>;

/// Copies layers in overlayfs's form, top first, to the empty folder `dest`, which then is what a mount of them
/// would show: kinds, owners, modes, times, attributes, hard links and holes included.
///
/// Attributes that are not an image's, such as those by which overlayfs marks things, are left out, as in
/// [`unpack`](crate::unpack). Nothing is synced. Nobody else may be at work in `dest`; what they do there leads nowhere
/// outside of it.
///
/// # Errors
/// What cannot be read or made; `dest` is then left half full.
pub fn copy_rootfs(layers_top_first: &[PathBuf], dest: &Path) -> std::result::Result<(), CopyError> {
    copy(layers_top_first, dest).map_err(|source| CopyError { dest: dest.to_owned(), source })
}

fn copy(layers: &[PathBuf], dest: &Path) -> Result<()> {
    let root = tree::open_root(dest).map_err(UnpackError::io("open", bytes(dest)))?;
    let there = tree::names(root.as_fd()).map_err(UnpackError::io("list", bytes(dest)))?;
    if !there.is_empty() {
        return Err(UnpackError::entry(bytes(dest), "is not empty"));
    }
    // An access list that its parent handed down would be handed on to all that is made.
    metadata::clear_attributes(root.as_fd())
        .map_err(UnpackError::io("clear the attributes of", bytes(dest)))?;
    let mut copy = Copy {
        dest: root,
        folders: HashMap::from([(Vec::new(), Folder::Open)]),
        gone: HashSet::new(),
        can_clone: true,
    };
    let mut made = vec![Vec::new()];
    let mut of_layers = Vec::new();
    for layer in layers {
        let from = open_layer(layer)?;
        copy.layer(from.as_fd(), &mut made)?;
        of_layers.push((layer, std::mem::take(&mut made)));
    }
    for (layer, folders) in of_layers {
        let from = open_layer(layer)?;
        for path in folders {
            copy.describe_folder(from.as_fd(), &path)?;
        }
    }
    Ok(())
}

/// Whether lower layers may still add to a folder of the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Folder {
    Open,
    Sealed,
}

struct Copy {
    dest: OwnedFd,
    /// The folders of the copy by path.
    folders: HashMap<Vec<u8>, Folder>,
    /// What a layer said is deleted below it.
    gone: HashSet<Vec<u8>>,
    /// Whether the file systems are not known yet to be unable to share the blocks of two files.
    can_clone: bool,
}

/// Where something is and goes.
struct Place<'a> {
    from: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
    name: &'a [u8],
    path: &'a [u8],
}

impl Copy {
    /// Adds what a layer brings; the new folders go to `made`.
    fn layer(&mut self, layer: BorrowedFd<'_>, made: &mut Vec<Vec<u8>>) -> Result<()> {
        // The first place of each inode that has several names.
        let mut inodes: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
        let mut ahead = vec![Vec::new()];
        while let Some(folder) = ahead.pop() {
            let from = open_below(layer, &folder)?;
            let to = open_below(self.dest.as_fd(), &folder)?;
            let opaque = tree::is_opaque(from.as_fd());
            // Of no effect on a root, where every layer begins.
            if opaque.map_err(UnpackError::io("look at", &folder))? {
                self.folders.insert(folder.clone(), Folder::Sealed);
            }
            for name in tree::names(from.as_fd()).map_err(UnpackError::io("list", &folder))? {
                let path = join(&folder, &name);
                let stat = tree::stat(from.as_fd(), &name).map_err(UnpackError::io("look at", &path))?;
                let known = self.folders.get(&path).copied();
                if tree::is_folder(&stat) {
                    match known {
                        Some(Folder::Sealed) => {}
                        Some(Folder::Open) => ahead.push(path),
                        None if self.gone.contains(&path) => {}
                        None => {
                            if self.folder(to.as_fd(), &name, &path)? {
                                made.push(path.clone());
                                ahead.push(path);
                            }
                        }
                    }
                } else if known.is_some() {
                    // Hidden by the folder, and itself hiding the folders of the name below it.
                    self.folders.insert(path, Folder::Sealed);
                } else if tree::is_whiteout(&stat) {
                    self.gone.insert(path);
                } else if !self.gone.contains(&path) {
                    let place = Place { from: from.as_fd(), to: to.as_fd(), name: &name, path: &path };
                    let inode = (stat.st_nlink > 1).then_some((stat.st_dev, stat.st_ino));
                    match inode.and_then(|inode| inodes.get(&inode)) {
                        Some(first) => self.hard_link(&place, first)?,
                        None => {
                            let new = match FileType::from_raw_mode(stat.st_mode) {
                                FileType::RegularFile => self.file(&place)?,
                                _ => self.special(&place, &stat)?,
                            };
                            if let (true, Some(inode)) = (new, inode) {
                                inodes.insert(inode, path);
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes a folder; false when an upper layer has something else there.
    fn folder(&mut self, to: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<bool> {
        let new = is_new(rustix::fs::mkdirat(to, name, Mode::RWXU)).map_err(UnpackError::io("make", path))?;
        if new {
            self.folders.insert(path.to_vec(), Folder::Open);
        }
        Ok(new)
    }

    /// Copies a file; false when an upper layer has something there.
    fn file(&mut self, place: &Place<'_>) -> Result<bool> {
        let &Place { from, to, name, path } = place;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let new = match rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR) {
            Err(Errno::EXIST) => return Ok(false),
            other => File::from(other.map_err(UnpackError::io("make", path))?),
        };
        // What became a fifo or device meanwhile must not hold us up.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let old = rustix::fs::openat(from, name, flags, Mode::empty());
        let old = File::from(old.map_err(UnpackError::io("open", path))?);
        let stat = rustix::fs::fstat(&old).map_err(UnpackError::io("look at", path))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(UnpackError::entry(path, "became something else while it was copied"));
        }
        self.data(&old, &new, stat.st_size.cast_unsigned()).map_err(UnpackError::io("copy", path))?;
        let xattrs = metadata::attributes(old.as_fd());
        let xattrs = xattrs.map_err(UnpackError::io("read the attributes of", path))?;
        let left_out = metadata::apply(new.as_fd(), &described(&stat, xattrs), path)?;
        all_kept(left_out, path)?;
        rustix::fs::futimens(&new, &times(&stat)).map_err(UnpackError::io("set the time of", path))?;
        Ok(true)
    }

    /// The content: shared where the file system can, else piece by piece with the holes left out.
    fn data(&mut self, old: &File, new: &File, size: u64) -> io::Result<()> {
        if self.can_clone && size > 0 {
            // Most file systems cannot. What else may be wrong, the copying finds again and says.
            match rustix::fs::ioctl_ficlone(new, old) {
                Ok(()) => return Ok(()),
                Err(_) => self.can_clone = false,
            }
        }
        holes::copy_data(old, new, size).map(drop)
    }

    /// Makes a symbolic link, device, fifo or socket; false when an upper layer has something there.
    fn special(&self, place: &Place<'_>, stat: &Stat) -> Result<bool> {
        let &Place { from, to, name, path } = place;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let made = if kind == FileType::Symlink {
            let target = rustix::fs::readlinkat(from, name, Vec::new());
            let target = target.map_err(UnpackError::io("read the link", path))?;
            rustix::fs::symlinkat(&*target, to, name)
        } else {
            rustix::fs::mknodat(to, name, kind, Mode::RUSR | Mode::WUSR, stat.st_rdev)
        };
        if !is_new(made).map_err(UnpackError::io("make", path))? {
            return Ok(false);
        }
        let xattrs = Inode::open(from, name).and_then(|inode| inode.attributes());
        let xattrs = xattrs.map_err(UnpackError::io("read the attributes of", path))?;
        let described = described(stat, xattrs);
        all_kept(metadata::apply_special(to, name, kind == FileType::Symlink, &described)?, path)?;
        rustix::fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(UnpackError::io("set the time of", path))?;
        Ok(true)
    }

    /// Gives an inode that was copied already another name, unless an upper layer has something there.
    fn hard_link(&self, place: &Place<'_>, first: &[u8]) -> Result<()> {
        let (folder, name) = split(first);
        let folder = open_below(self.dest.as_fd(), folder)?;
        is_new(rustix::fs::linkat(folder, name, place.to, place.name, AtFlags::empty()))
            .map_err(UnpackError::io("link", place.path))?;
        Ok(())
    }

    /// Gives a folder the description that it has in a layer.
    fn describe_folder(&self, layer: BorrowedFd<'_>, path: &[u8]) -> Result<()> {
        let from = open_below(layer, path)?;
        let to = open_below(self.dest.as_fd(), path)?;
        let stat = rustix::fs::fstat(&from).map_err(UnpackError::io("look at", path))?;
        let xattrs = metadata::attributes(from.as_fd());
        let xattrs = xattrs.map_err(UnpackError::io("read the attributes of", path))?;
        all_kept(metadata::apply(to.as_fd(), &described(&stat, xattrs), path)?, path)?;
        rustix::fs::futimens(&to, &times(&stat)).map_err(UnpackError::io("set the time of", path))
    }
}

fn open_layer(path: &Path) -> Result<OwnedFd> {
    tree::open_root(path).map_err(UnpackError::io("open", bytes(path)))
}

/// Opens a folder of a layer or of the copy, never in another mount, which overlayfs would not show.
fn open_below(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    folder::open_below(root, path, Mounts::Refuse).map_err(UnpackError::io("open the folder", path))
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_encoded_bytes()
}

/// Whether something was made; what is there already is an upper layer's and stays.
fn is_new(made: std::result::Result<(), Errno>) -> std::result::Result<bool, Errno> {
    match made {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

fn described(stat: &Stat, xattrs: Attributes) -> Metadata {
    // The kind of the file is not part of what is set.
    let mode: RawMode = stat.st_mode & 0o7777;
    Metadata { uid: stat.st_uid, gid: stat.st_gid, mode, xattrs }
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).expect("below a second"),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// The layer's file system held them, so a copy without them would be another file.
fn all_kept(left_out: u64, path: &[u8]) -> Result<()> {
    match left_out {
        0 => Ok(()),
        _ => {
            Err(UnpackError::entry(path, "has extended attributes that the copy's file system does not hold"))
        }
    }
}
