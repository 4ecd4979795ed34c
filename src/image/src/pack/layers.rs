//! Layers as overlayfs shows them together, seen without mounting anything.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::FsWord;
use rustix::io::Errno;

use super::error::{PackError, Result};
use crate::folder::{self, Mounts};
use crate::inode::{self, Inode, mount_id};
use crate::unpack::tree;

/// By these attributes overlayfs refers to files of other layers; where its `redirect_dir` and `metacopy` are on.
const MARKS: [&[u8]; 2] = [b"trusted.overlay.redirect", b"trusted.overlay.metacopy"];

/// File systems in which files are the kernel's own: no data that could be kept. From linux/magic.h.
const KERNELS: [FsWord; 10] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x27_e0eb,   // cgroup
    0x6367_7270, // cgroup2
    0x1cd1,      // devpts
    0x1980_0202, // mqueue
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
];

/// Folders over each other, the topmost first.
#[derive(Debug)]
pub struct Layers {
    roots: Vec<OwnedFd>,
    /// Whether overlayfs's marks mean what they mean to it.
    marks: bool,
    mounts: Mounts,
}

/// Some folders of one path, merged: the numbers of the layers that they are of, the topmost first.
#[derive(Debug, Clone)]
pub(super) struct Parts(Vec<usize>);

/// The same, open.
#[derive(Debug)]
pub(super) struct Folder {
    parts: Vec<(usize, OwnedFd)>,
}

/// What a name stands for.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing.
    Absent,
    /// Nothing, because the topmost layer says so.
    Deleted,
    /// A folder, with its topmost description.
    Folder { inode: Inode, folder: Folder, opaque: bool },
    /// A folder that is not to be looked into.
    Closed(Inode),
    /// Anything else.
    Other(Inode),
}

impl Layers {
    /// Layers in overlayfs's form, such as those of an image and a container's own.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn open(folders: &[PathBuf]) -> io::Result<Layers> {
        let roots =
            folders.iter().map(|folder| tree::open_root(folder)).collect::<std::result::Result<_, _>>()?;
        Ok(Layers { roots, marks: true, mounts: Mounts::Refuse })
    }

    /// One folder of plain files, with what is mounted in it, but for the kernel's file systems, which stay empty.
    pub fn plain(root: OwnedFd) -> Layers {
        Layers { roots: vec![root], marks: false, mounts: Mounts::Cross }
    }

    /// The same without what is mounted in it.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn plain_at(root: &std::path::Path) -> io::Result<Layers> {
        Ok(Layers { roots: vec![tree::open_root(root)?], marks: false, mounts: Mounts::Refuse })
    }

    /// Whether what is not in the topmost layer may still be in one below it.
    pub(super) fn marks(&self) -> bool {
        self.marks
    }

    /// The root of all; `None` of no layers.
    pub(super) fn root(&self) -> Result<Option<(Inode, Folder)>> {
        let failed = PackError::read::<Errno>("open", b"/");
        let open = || -> std::result::Result<_, Errno> {
            let mut parts = Vec::new();
            for (at, root) in self.roots.iter().enumerate() {
                parts.push((at, folder::open_below(root.as_fd(), b"", Mounts::Refuse)?));
            }
            let Some((_, top)) = parts.first() else { return Ok(None) };
            Ok(Some((Inode::open(top.as_fd(), b".")?, Folder { parts })))
        };
        open().map_err(failed)
    }

    /// Opens folders again that were open before; `None` when they have gone.
    pub(super) fn reopen(&self, path: &[u8], parts: &Parts) -> Result<Option<Folder>> {
        let mut open = Vec::new();
        for at in &parts.0 {
            match folder::open_below(self.roots[*at].as_fd(), path, self.mounts) {
                Ok(folder) => open.push((*at, folder)),
                // The container has removed it, or put something else in its place.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if *at == 0 => return Ok(None),
                Err(error) => return Err(PackError::read("open the folder", path)(error)),
            }
        }
        Ok(Some(Folder { parts: open }))
    }

    /// What a name in a folder stands for; `path` is its whole path.
    pub(super) fn find(&self, folder: &Folder, name: &[u8], path: &[u8]) -> Result<Found> {
        self.look(folder, name).map_err(PackError::read("look at", path))
    }

    fn look(&self, folder: &Folder, name: &[u8]) -> std::result::Result<Found, Errno> {
        let mut top: Option<(Inode, bool)> = None;
        let mut parts = Vec::new();
        for (at, part) in &folder.parts {
            let Some(found) = inode::find(part.as_fd(), name)? else { continue };
            if !found.is_folder() {
                match (&top, self.marks && tree::is_whiteout(&found.stat)) {
                    (Some(_), _) => break,
                    (None, true) => return Ok(Found::Deleted),
                    (None, false) => return Ok(Found::Other(found)),
                }
            }
            if self.is_closed(part, &found)? {
                return Ok(Found::Closed(found));
            }
            let open = match found.folder() {
                Ok(open) => open,
                // Removed in this moment.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error),
            };
            let opaque = self.marks && tree::is_opaque(open.as_fd())?;
            parts.push((*at, open));
            top.get_or_insert((found, opaque));
            if opaque {
                break;
            }
        }
        Ok(match top {
            None => Found::Absent,
            Some((inode, opaque)) => Found::Folder { inode, folder: Folder { parts }, opaque },
        })
    }

    /// Whether something is mounted at a folder that is not to be looked into.
    fn is_closed(&self, parent: &OwnedFd, folder: &Inode) -> std::result::Result<bool, Errno> {
        if self.marks {
            return Ok(false);
        }
        if mount_id(parent)? == mount_id(folder)? {
            return Ok(false);
        }
        if self.mounts == Mounts::Refuse {
            return Ok(true);
        }
        is_kernels(folder)
    }

    /// Refuses what has its meaning from overlayfs's own attributes.
    pub(super) fn check(&self, inode: &Inode, path: &[u8]) -> Result<()> {
        if !self.marks {
            return Ok(());
        }
        let names = inode.attribute_names().map_err(PackError::read("read the attributes of", path))?;
        match names.into_iter().find(|name| MARKS.contains(&&name[..])) {
            None => Ok(()),
            Some(mark) => Err(PackError::Mark {
                path: String::from_utf8_lossy(path).into_owned(),
                mark: String::from_utf8_lossy(&mark).into_owned(),
            }),
        }
    }
}

impl Folder {
    pub(super) fn parts(&self) -> Parts {
        Parts(self.parts.iter().map(|(at, _)| *at).collect())
    }

    /// Adds every name that a layer has here, deleted ones too.
    pub(super) fn names(&self, path: &[u8], names: &mut BTreeSet<Vec<u8>>) -> Result<()> {
        for (_, part) in &self.parts {
            names.extend(tree::names(part.as_fd()).map_err(PackError::read("list", path))?);
        }
        Ok(())
    }
}

/// Whether a file is of one of the kernel's file systems.
pub(super) fn is_kernels(inode: &Inode) -> std::result::Result<bool, Errno> {
    Ok(KERNELS.contains(&rustix::fs::fstatfs(inode)?.f_type))
}
