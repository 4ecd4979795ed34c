//! What the layers below a new one look like together: a lookup that honours whiteouts and opaque folders
//! as overlayfs does, without mounting anything.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::Stat;
use rustix::io::Errno;

use super::tree::{self, is_folder, is_whiteout};

/// The roots of the layers below, top first.
#[derive(Debug)]
pub struct Below {
    roots: Vec<OwnedFd>,
}

/// What a path stands for in the layers below.
#[derive(Debug)]
pub(super) enum Found {
    Absent,
    /// The folders that are merged, top first.
    Folder(Vec<OwnedFd>),
    /// Anything else: where it is, and its name there.
    Other {
        folder: OwnedFd,
        stat: Stat,
    },
}

type Result<T> = std::result::Result<T, Errno>;

impl Below {
    /// The layers with these folders, top first.
    pub fn open(folders: &[std::path::PathBuf]) -> std::io::Result<Below> {
        let roots = folders.iter().map(|folder| tree::open_root(folder)).collect::<Result<_>>()?;
        Ok(Below { roots })
    }

    /// No layers: what is unpacked is the lowest.
    pub fn nothing() -> Below {
        Below { roots: Vec::new() }
    }

    /// What a path of real folders stands for; links on the way are not followed.
    pub(super) fn find(&self, path: &[&[u8]]) -> Result<Found> {
        let mut folders = self.roots()?;
        for (at, name) in path.iter().enumerate() {
            match step(&folders, name)? {
                Found::Folder(next) => folders = next,
                other if at + 1 == path.len() => return Ok(other),
                _ => return Ok(Found::Absent),
            }
        }
        if folders.is_empty() { Ok(Found::Absent) } else { Ok(Found::Folder(folders)) }
    }

    /// The path of real folders that a path leads to when links are followed from the layers' common root,
    /// the last component's too. What is missing is taken as it is written.
    pub(super) fn follow(&self, path: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        tree::follow(path, &|real| self.link_at(real))
    }

    /// The target of the symbolic link at a path of real folders.
    pub(super) fn link_at(&self, path: &[&[u8]]) -> Result<Option<Vec<u8>>> {
        match self.find(path)? {
            Found::Other { folder, stat } if tree::is_symlink(&stat) => {
                let name = path.last().expect("the root is a folder");
                tree::read_link(folder.as_fd(), name).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The names that the merged roots show.
    pub(super) fn names(&self) -> Result<BTreeSet<Vec<u8>>> {
        let mut names = BTreeSet::new();
        for root in &self.roots {
            names.extend(tree::names(root.as_fd())?);
        }
        let mut shown = BTreeSet::new();
        for name in names {
            if !matches!(self.find(&[&name])?, Found::Absent) {
                shown.insert(name);
            }
        }
        Ok(shown)
    }

    fn roots(&self) -> Result<Vec<OwnedFd>> {
        self.roots.iter().map(|root| rustix::io::fcntl_dupfd_cloexec(root, 0)).collect()
    }
}

/// What a name stands for in merged folders.
fn step(folders: &[OwnedFd], name: &[u8]) -> Result<Found> {
    let mut merged = Vec::new();
    for folder in folders {
        let stat = match tree::stat(folder.as_fd(), name) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error),
        };
        if !is_folder(&stat) {
            if merged.is_empty() && !is_whiteout(&stat) {
                return Ok(Found::Other { folder: rustix::io::fcntl_dupfd_cloexec(folder, 0)?, stat });
            }
            break;
        }
        let next = tree::open_folder(folder.as_fd(), name)?;
        let opaque = tree::is_opaque(next.as_fd())?;
        merged.push(next);
        if opaque {
            break;
        }
    }
    if merged.is_empty() { Ok(Found::Absent) } else { Ok(Found::Folder(merged)) }
}
