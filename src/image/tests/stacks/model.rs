//! What a stack's files are so far, as far as it decides which entries may come next: an image that umoci refuses
//! compares with nothing.

use std::collections::{BTreeMap, BTreeSet};

/// A path of real folders.
pub type Real = Vec<String>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Folder { hands_down_its_group: bool },
    Symlink,
    Other,
}

#[derive(Debug, Clone)]
struct Node {
    kind: Kind,
    link: String,
    inode: usize,
}

#[derive(Debug, Default)]
pub struct Model {
    nodes: BTreeMap<Real, Node>,
    /// What this layer's entries are, and the folders they lie in.
    touched: BTreeSet<Real>,
    /// What this layer's entries went through or came to by links of layers below.
    through: BTreeSet<Real>,
    /// Links of layers below that this layer gave another name.
    linked: BTreeSet<Real>,
    /// Inodes that this layer made.
    own: BTreeSet<usize>,
    inodes: usize,
}

/// Where the folder of an entry really is.
#[derive(Debug)]
pub struct Place {
    pub real: Real,
    /// The links of layers below on the way.
    links: Vec<Real>,
}

impl Model {
    pub fn next_layer(&mut self) {
        self.touched.clear();
        self.through.clear();
        self.linked.clear();
        self.own.clear();
    }

    /// Follows the links in a path, as a process in the container would; what is missing is taken as written.
    /// None where a file is in the way, and for loops.
    pub fn follow(&self, path: &str) -> Option<Place> {
        let mut ahead: Vec<String> = path.split('/').rev().map(String::from).collect();
        let (mut real, mut links, mut count) = (Real::new(), Vec::new(), 0);
        let mut missing = false;
        while let Some(name) = ahead.pop() {
            match &*name {
                "" | "." => continue,
                // Whether what is missing is made on the way is nobody's promise.
                ".." if missing => return None,
                ".." => {
                    real.pop();
                    continue;
                }
                _ => real.push(name),
            }
            match self.nodes.get(&real) {
                None => missing = true,
                Some(node) => match node.kind {
                    Kind::Folder { .. } => {}
                    Kind::Other => return None,
                    Kind::Symlink => {
                        count += 1;
                        let own = self.touched.contains(&real);
                        // What was put somewhere by a link below, or is met after one, counts by its own path for us.
                        if count > 20 || own && (self.through.contains(&real) || !links.is_empty()) {
                            return None;
                        }
                        if !own {
                            links.push(real.clone());
                        }
                        real.pop();
                        if node.link.starts_with('/') {
                            real.clear();
                        }
                        ahead.extend(node.link.split('/').rev().map(String::from));
                    }
                },
            }
        }
        Some(Place { real, links })
    }

    /// Whether a folder made on the way would inherit its group.
    pub fn hands_down(&self, folder: &Real) -> bool {
        let there = (0..=folder.len()).rev().map(|depth| &folder[..depth]);
        let last = there.filter_map(|path| self.nodes.get(path).map(|node| (path.len(), node.kind))).next();
        matches!(last, Some((depth, Kind::Folder { hands_down_its_group: true })) if depth < folder.len())
    }

    pub fn kind(&self, path: &Real) -> Option<Kind> {
        self.nodes.get(path).map(|node| node.kind)
    }

    /// Whether a hard link may lead there: to what is no folder and, in a layer below, has no other name yet,
    /// because a copy-up leaves the other names behind. Nor to a link that this layer went through.
    pub fn may_link(&self, path: &Real) -> bool {
        !self.through.contains(path)
            && self.nodes.get(path).is_some_and(|node| {
                let names = self.nodes.values().filter(|other| other.inode == node.inode).count();
                !matches!(node.kind, Kind::Folder { .. }) && (self.own.contains(&node.inode) || names == 1)
            })
    }

    /// The target of what was chosen to be linked to, where it is a symbolic link itself.
    pub fn link(&mut self, path: &Real) -> String {
        self.linked.insert(path.clone());
        self.nodes[path].link.clone()
    }

    pub fn inode(&self, path: &Real) -> usize {
        self.nodes[path].inode
    }

    /// Whether an entry there would meet what went through a lower link, or by one come to what this layer has.
    pub fn is_tangled(&self, folder: &Place, path: &Real) -> bool {
        let meets = self.through.iter().any(|other| other.starts_with(path))
            || folder.links.iter().any(|link| self.linked.contains(link) || link.starts_with(path));
        let came_to = |path| self.touched.contains(path) || self.linked.contains(path);
        meets || !folder.links.is_empty() && came_to(path)
    }

    /// An entry was put there: of this kind, with this link, or with the inode of something else.
    pub fn put(&mut self, folder: &Place, path: &Real, kind: Kind, link: &str, inode: Option<usize>) {
        let is_folder = |kind| matches!(kind, Kind::Folder { .. });
        if !(is_folder(kind) && self.kind(path).is_some_and(is_folder)) {
            self.remove(path, &BTreeSet::new());
        }
        for depth in 1..path.len() {
            let (parent, inode) = (path[..depth].to_vec(), self.inodes);
            let kind = Kind::Folder { hands_down_its_group: false };
            self.nodes.entry(parent).or_insert_with(|| Node { kind, link: String::new(), inode });
            self.inodes += 1;
        }
        self.inodes += 1;
        if kind == Kind::Symlink && inode.is_some_and(|inode| !self.own.contains(&inode)) {
            self.through.insert(path.clone());
        }
        let inode = inode.unwrap_or(self.inodes);
        self.own.insert(inode);
        self.nodes.insert(path.clone(), Node { kind, link: link.into(), inode });
        self.touched.extend((1..=path.len()).map(|depth| path[..depth].to_vec()));
        self.note_links(folder, path);
    }

    /// A marker deletes what the layers below have there; of a folder, all that is in it.
    pub fn delete(&mut self, folder: &Place, path: &Real, contents_only: bool) {
        let mut kept = self.touched.clone();
        if contents_only {
            kept.insert(path.clone());
        }
        self.remove(path, &kept);
        self.note_links(folder, path);
    }

    fn note_links(&mut self, folder: &Place, path: &Real) {
        if !folder.links.is_empty() {
            self.through.extend(folder.links.iter().cloned());
            self.through.insert(path.clone());
        }
    }

    fn remove(&mut self, path: &Real, kept: &BTreeSet<Real>) {
        self.nodes.retain(|other, _| !other.starts_with(path) || kept.contains(other));
    }
}
