//! What the layers below a new one look like together: a lookup that honours whiteouts and opaque folders
//! as overlayfs does, without mounting anything.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::tree::{self, is_folder, is_whiteout};

const LINKS_MAX: usize = 40;

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
        let mut ahead: Vec<Vec<u8>> = path.iter().rev().map(|component| component.to_vec()).collect();
        let mut real: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while let Some(component) = ahead.pop() {
            match &component[..] {
                b"" | b"." => continue,
                b".." => {
                    real.pop();
                    continue;
                }
                _ => {}
            }
            real.push(component);
            let here: Vec<&[u8]> = real.iter().map(Vec::as_slice).collect();
            if let Found::Other { folder, stat } = self.find(&here)?
                && FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
            {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Errno::LOOP);
                }
                let name = real.pop().expect("just pushed");
                let target = rustix::fs::readlinkat(&folder, &name[..], Vec::new())?.into_bytes();
                if target.starts_with(b"/") {
                    real.clear();
                }
                ahead.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
            }
        }
        Ok(real)
    }

    fn roots(&self) -> Result<Vec<OwnedFd>> {
        let mut folders = Vec::new();
        for root in &self.roots {
            folders.push(rustix::io::fcntl_dupfd_cloexec(root, 0)?);
            if tree::is_opaque(root.as_fd())? {
                break;
            }
        }
        Ok(folders)
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
