//! Whiteouts: OCI's markers in archives, and overlayfs's in layers.

use std::os::fd::AsFd;

use rustix::fs::{FileType, Mode};
use rustix::io::Errno;

use super::below::{Below, Found};
use super::error::{Result, UnpackError};
use super::tree::{self, components, is_folder};
use super::write::Unpacked;

/// OCI image-spec layer.md, "Whiteouts".
pub(super) const WHITEOUT: &[u8] = b".wh.";
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
/// Files that aufs once kept for itself.
const AUFS: &[u8] = b".wh..wh.";

impl Unpacked {
    /// The marker of something deleted below. It never deletes anything here: a layer's own entries stay,
    /// whether they come before their marker or after it.
    pub(super) fn whiteout(&mut self, parents: &[&[u8]], name: &[u8], path: &[u8]) -> Result<()> {
        let deleted = &name[WHITEOUT.len()..];
        if !name.starts_with(AUFS) && matches!(deleted, b"" | b"." | b"..") {
            return Err(UnpackError::entry(path, "would delete a folder from within"));
        }
        if name.starts_with(AUFS) && name != OPAQUE_MARKER {
            return Ok(());
        }
        // In what is deleted already, or no folder, there is nothing to delete.
        let Some(depth) = self.enter_to_delete(parents)? else { return Ok(()) };
        if name == OPAQUE_MARKER {
            let here = self.folders.path_of(depth);
            // A mount would not heed the mark of a root, so this is settled name by name.
            if depth > 0 {
                tree::set_opaque(self.folders.at(depth)).map_err(UnpackError::io("mark as opaque", &here))?;
            }
            self.noted.opaque.insert(here);
            return Ok(());
        }
        let here = self.folders.path(depth, deleted);
        if self.noted.made.get(&here).is_some_and(|made| !made.needed) {
            // Made for the whiteouts in it alone.
            self.remove(depth, deleted)?;
        }
        match tree::stat(self.folders.at(depth), deleted) {
            Ok(found) if is_folder(&found) => {
                let folder = tree::open_folder(self.folders.at(depth), deleted)
                    .map_err(UnpackError::io("open", &here))?;
                tree::set_opaque(folder.as_fd()).map_err(UnpackError::io("mark as opaque", &here))?;
                if let Some(made) = self.noted.made.get_mut(&here) {
                    made.deleted = true;
                }
                self.noted.opaque.insert(here);
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(Errno::NOENT) if self.noted.links.contains_key(&here) => Ok(()),
            Err(Errno::NOENT) => {
                self.mark_deleted(depth, deleted, &here)?;
                self.noted.whiteouts.insert(here);
                Ok(())
            }
            Err(error) => Err(UnpackError::io("look at", &here)(error)),
        }
    }

    pub(super) fn mark_deleted(&mut self, depth: usize, name: &[u8], path: &[u8]) -> Result<()> {
        let parent = self.folders.change(depth);
        rustix::fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0)
            .map_err(UnpackError::io("mark as deleted", path))
    }

    /// A whiteout of nothing is nothing; overlayfs would even show it where folders are not merged.
    pub(super) fn settle_whiteouts(&mut self, below: &Below) -> Result<()> {
        for path in std::mem::take(&mut self.noted.whiteouts) {
            if matches!(self.find_below(&path, below)?, Found::Absent) {
                let own = components(&path);
                let (name, parents) = own.split_last().expect("the root is never a whiteout");
                let depth = self.enter(parents, &path)?;
                self.remove(depth, name)?;
            }
        }
        if self.noted.opaque.contains(&b""[..]) {
            self.hide_all(below)?;
        }
        Ok(())
    }

    /// Hides all that the layers below show at their root.
    fn hide_all(&mut self, below: &Below) -> Result<()> {
        for name in below.names().map_err(UnpackError::io("list below", b"/"))? {
            match tree::stat(self.folders.at(0), &name) {
                Ok(found) if is_folder(&found) => {
                    let folder = tree::open_folder(self.folders.at(0), &name)
                        .map_err(UnpackError::io("open", &name))?;
                    tree::set_opaque(folder.as_fd()).map_err(UnpackError::io("mark as opaque", &name))?;
                }
                Ok(_) => {}
                Err(Errno::NOENT) => self.mark_deleted(0, &name, &name)?,
                Err(error) => return Err(UnpackError::io("look at", &name)(error)),
            }
        }
        Ok(())
    }
}
