//! What a container changed of its image, as a list.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::error::Result;
use super::layers::Layers;
use super::walk::{Excluded, Sink, Walk};
use crate::inode::Inode;

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It, or something in it, is not as it was.
    Modified,
    /// It is no more.
    Deleted,
}

impl fmt::Display for ChangeKind {
    /// docker's letters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ChangeKind::Added => "A",
            ChangeKind::Modified => "C",
            ChangeKind::Deleted => "D",
        })
    }
}

/// One file that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Absolute.
    pub path: PathBuf,
    /// What became of it.
    pub kind: ChangeKind,
}

/// How the topmost layers differ from those `below`, in the order of names; a folder comes before what is in it. The
/// root itself is never listed.
///
/// # Errors
/// What cannot be read.
pub fn changes(top: &Layers, below: &Layers, excluded: &Excluded) -> Result<Vec<Change>> {
    let mut list = List(Vec::new());
    Walk { top, below: Some(below), excluded, as_layer: false }.run(&mut list)?;
    Ok(list.0)
}

struct List(Vec<Change>);

impl List {
    fn add(&mut self, path: &[u8], kind: ChangeKind) {
        if !path.is_empty() {
            let path = PathBuf::from(OsString::from_vec([b"/", path].concat()));
            self.0.push(Change { path, kind });
        }
    }
}

impl Sink for List {
    fn present(&mut self, path: &[u8], kind: ChangeKind, _: &Inode) -> Result<()> {
        self.add(path, kind);
        Ok(())
    }

    fn deleted(&mut self, path: &[u8]) -> Result<()> {
        self.add(path, ChangeKind::Deleted);
        Ok(())
    }

    fn opaque(&mut self, _: &[u8]) -> Result<()> {
        // What it hides is told name by name.
        Ok(())
    }
}
