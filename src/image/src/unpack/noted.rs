//! What is noted about a layer while its entries are written, because it depends on the layers below. Paths
//! are of real folders, relative to the layer's root; the root is "".

use std::collections::{BTreeMap, BTreeSet};

use super::links::LinkBelow;

#[derive(Debug, Default)]
pub(super) struct Noted {
    /// Folders the archive did not have: they are those of the layers below.
    pub(super) made: BTreeMap<Vec<u8>, Made>,
    /// Folders that hide those below.
    pub(super) opaque: BTreeSet<Vec<u8>>,
    /// Names marked as deleted.
    pub(super) whiteouts: BTreeSet<Vec<u8>>,
    /// Hard links whose target must be in a layer below, by their own path.
    pub(super) links: BTreeMap<Vec<u8>, LinkBelow>,
    /// How many of `made` nothing needs yet.
    unneeded: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Made {
    /// Something other than a whiteout is in it.
    pub(super) needed: bool,
    /// What has its name below is deleted: a folder, or a link that was gone through before.
    pub(super) deleted: bool,
}

impl Noted {
    /// Whether the layer means the same on all others.
    pub(super) fn is_empty(&self) -> bool {
        self.made.is_empty() && self.opaque.is_empty() && self.whiteouts.is_empty() && self.links.is_empty()
    }

    /// Notes a folder that the archive did not have.
    pub(super) fn made(&mut self, path: Vec<u8>, needed: bool) {
        self.unneeded += usize::from(!needed);
        self.made.insert(path, Made { needed, deleted: false });
    }

    /// Whether this layer hides whatever is below in a folder.
    pub(super) fn hides(&self, folder: &[u8]) -> bool {
        if self.opaque.is_empty() {
            return false;
        }
        let mut above = Some(folder);
        while let Some(here) = above {
            if self.opaque.contains(here) {
                return true;
            }
            above = parent(here);
        }
        false
    }

    /// Takes out the first of the folders that were made.
    pub(super) fn pop_made(&mut self) -> Option<(Vec<u8>, Made)> {
        let (path, made) = self.made.pop_first()?;
        self.unneeded -= usize::from(!made.needed);
        Some((path, made))
    }

    /// The archive has this folder after all.
    pub(super) fn described(&mut self, path: &[u8]) {
        if self.made.remove(path).is_some_and(|made| !made.needed) {
            self.unneeded -= 1;
        }
    }

    pub(super) fn has_unneeded(&self) -> bool {
        self.unneeded > 0
    }

    /// Something other than a whiteout lies in this folder. Where all below was hidden meanwhile, it is new.
    pub(super) fn need(&mut self, path: &[u8]) {
        if self.made.get(path).is_none_or(|made| made.needed) {
            return;
        }
        self.described(path);
        if !parent(path).is_some_and(|parent| self.hides(parent)) {
            self.made(path.to_vec(), true);
        }
    }

    /// Forgets a path and all below it.
    pub(super) fn forget(&mut self, path: &[u8]) {
        let made = take_below(&mut self.made, path);
        self.unneeded -= made.iter().filter(|(_, made)| !made.needed).count();
        drop(take_below(&mut self.links, path));
        for set in [&mut self.opaque, &mut self.whiteouts] {
            drop(take_set_below(set, path));
        }
    }

    /// Something was moved, with all below it. Links are settled before anything is.
    pub(super) fn rename(&mut self, from: &[u8], to: &[u8]) {
        let moved = |path: Vec<u8>| [to, &path[from.len()..]].concat();
        for (path, made) in take_below(&mut self.made, from) {
            self.made.insert(moved(path), made);
        }
        for set in [&mut self.opaque, &mut self.whiteouts] {
            let paths = take_set_below(set, from);
            set.extend(paths.into_iter().map(moved));
        }
    }
}

/// The folder that a path lies in; none of the root.
pub(super) fn parent(path: &[u8]) -> Option<&[u8]> {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => Some(&path[..at]),
        None if path.is_empty() => None,
        None => Some(b""),
    }
}

/// Takes out what is noted about a path and all below it.
fn take_below<T>(map: &mut BTreeMap<Vec<u8>, T>, path: &[u8]) -> Vec<(Vec<u8>, T)> {
    if map.is_empty() {
        return Vec::new();
    }
    let mut keys: Vec<Vec<u8>> = map.contains_key(path).then(|| path.to_vec()).into_iter().collect();
    let (from, to) = below(path);
    keys.extend(map.range(from..to).map(|(key, _)| key.clone()));
    keys.into_iter().filter_map(|key| map.remove_entry(&key)).collect()
}

/// The same for a set.
fn take_set_below(set: &mut BTreeSet<Vec<u8>>, path: &[u8]) -> Vec<Vec<u8>> {
    if set.is_empty() {
        return Vec::new();
    }
    let mut keys: Vec<Vec<u8>> = set.contains(path).then(|| path.to_vec()).into_iter().collect();
    let (from, to) = below(path);
    keys.extend(set.range(from..to).cloned());
    keys.into_iter().filter_map(|key| set.take(&key)).collect()
}

/// The bounds of all paths below one: the slash is followed by the digit zero in ASCII.
fn below(path: &[u8]) -> (Vec<u8>, Vec<u8>) {
    ([path, b"/"].concat(), [path, b"0"].concat())
}
