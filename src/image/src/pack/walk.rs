//! The walk through a tree, compared with what lies below it, in the order of names: a folder before what is in it.

use std::collections::{BTreeSet, btree_set};
use std::io::Read;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::changes::ChangeKind;
use super::error::{PackError, Result};
use super::layers::{Folder, Found, Layers, Parts};
use crate::folder::join;
use crate::inode::Inode;

/// Paths that are not looked at, with all that is in them: mount points, and files that are the container's alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Excluded(BTreeSet<Vec<u8>>);

impl Excluded {
    fn covers(&self, path: &[u8]) -> bool {
        self.0.contains(path)
    }
}

impl<P: AsRef<[u8]>> FromIterator<P> for Excluded {
    /// Of paths from the root, with or without a slash before them.
    fn from_iter<I: IntoIterator<Item = P>>(paths: I) -> Self {
        let plain = |path: P| crate::unpack::tree::components(path.as_ref()).join(&b'/');
        Excluded(paths.into_iter().map(plain).collect())
    }
}

/// Takes what the walk finds. Paths are relative to the root, which is "".
pub(super) trait Sink {
    /// Something new, something that is not as it was below, or a folder in which something is.
    fn present(&mut self, path: &[u8], kind: ChangeKind, inode: &Inode) -> Result<()>;

    /// Something that is no more.
    fn deleted(&mut self, path: &[u8]) -> Result<()>;

    /// The last folder hides what is below it; everything in it comes as new. Only where [`Walk::as_layer`] is set.
    fn opaque(&mut self, path: &[u8]) -> Result<()>;
}

/// What is walked through and how.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    pub(super) top: &'a Layers,
    /// Nothing: everything is new.
    pub(super) below: Option<&'a Layers>,
    pub(super) excluded: &'a Excluded,
    /// Whether the result is to be laid over `below` again: folders that hide others are told as such, and files with
    /// several names as if they were changed.
    pub(super) as_layer: bool,
}

/// A folder on the way.
struct Frame {
    path: Vec<u8>,
    top: Side,
    below: Option<Side>,
    /// Whether what is not here is deleted, and not just unchanged.
    whole: bool,
    names: btree_set::IntoIter<Vec<u8>>,
    /// Itself unchanged, so not told yet: only when something in it is changed.
    untold: Option<Inode>,
}

/// A folder of one of the two trees; open only while it is the last on the way.
struct Side {
    parts: Parts,
    open: Option<Folder>,
}

impl Side {
    fn new(folder: Folder) -> Self {
        Side { parts: folder.parts(), open: Some(folder) }
    }

    /// Whether it is open now, or could be opened again.
    fn wake(&mut self, layers: &Layers, path: &[u8]) -> Result<bool> {
        if self.open.is_none() {
            self.open = layers.reopen(path, &self.parts)?;
        }
        Ok(self.open.is_some())
    }
}

impl Walk<'_> {
    pub(super) fn run(&self, sink: &mut impl Sink) -> Result<()> {
        let Some((inode, folder)) = self.top.root()? else { return Ok(()) };
        let below = self.below.map(Layers::root).transpose()?.flatten();
        let mut way = Vec::new();
        self.enter(&mut way, Vec::new(), inode, folder, below, false, sink)?;
        while let Some(frame) = way.last_mut() {
            let Some(name) = frame.names.next() else {
                way.pop();
                continue;
            };
            let path = join(&frame.path, &name);
            if self.excluded.covers(&path) {
                continue;
            }
            // What has gone since its names were read has gone.
            if !frame.top.wake(self.top, &frame.path)? {
                way.pop();
                continue;
            }
            if let (Some(side), Some(below)) = (&mut frame.below, self.below) {
                side.wake(below, &frame.path)?;
            }
            self.name(&mut way, &name, path, sink)?;
        }
        Ok(())
    }

    /// Deals with one name in the last folder on the way.
    fn name(&self, way: &mut Vec<Frame>, name: &[u8], path: Vec<u8>, sink: &mut impl Sink) -> Result<()> {
        let frame = way.last_mut().expect("the caller looks into it");
        let open = frame.top.open.as_ref().expect("the caller has opened it");
        let found = self.top.find(open, name, &path)?;
        let below = match (self.below, frame.below.as_ref().and_then(|side| side.open.as_ref())) {
            (Some(layers), Some(folder)) => layers.find(folder, name, &path)?,
            _ => Found::Absent,
        };
        let was_there = !matches!(below, Found::Absent | Found::Deleted);
        match found {
            Found::Deleted | Found::Absent => {
                let gone = matches!(found, Found::Deleted) || frame.whole;
                if gone && was_there {
                    tell_parents(way, sink)?;
                    sink.deleted(&path)?;
                }
                Ok(())
            }
            Found::Other(inode) | Found::Closed(inode) => {
                self.top.check(&inode, &path)?;
                let kind = match &below {
                    Found::Absent | Found::Deleted => ChangeKind::Added,
                    Found::Other(old) if !self.differs(&inode, old, &path)? => return Ok(()),
                    _ => ChangeKind::Modified,
                };
                tell_parents(way, sink)?;
                sink.present(&path, kind, &inode)
            }
            Found::Folder { inode, folder, opaque } => {
                self.top.check(&inode, &path)?;
                let below = match below {
                    Found::Folder { inode, folder, .. } => Some((inode, folder)),
                    _ if was_there => {
                        tell_parents(way, sink)?;
                        sink.present(&path, ChangeKind::Modified, &inode)?;
                        return self.push(way, path, folder, None, false, None);
                    }
                    _ => None,
                };
                self.enter(way, path, inode, folder, below, opaque, sink)
            }
        }
    }

    /// Tells of a folder, now or when something in it is changed, and goes into it.
    #[expect(clippy::too_many_arguments, reason = "what is known of one folder on both sides")]
    fn enter(
        &self,
        way: &mut Vec<Frame>,
        path: Vec<u8>,
        inode: Inode,
        folder: Folder,
        below: Option<(Inode, Folder)>,
        opaque: bool,
        sink: &mut impl Sink,
    ) -> Result<()> {
        let Some((old, below)) = below else {
            tell_parents(way, sink)?;
            sink.present(&path, ChangeKind::Added, &inode)?;
            return self.push(way, path, folder, None, false, None);
        };
        let hides = opaque && self.as_layer;
        let same = !self.folders_differ(&inode, &old, &path)?;
        if same && !hides {
            let below = Some(Side::new(below));
            return self.push(way, path, folder, below, opaque || !self.top.marks(), Some(inode));
        }
        tell_parents(way, sink)?;
        sink.present(&path, ChangeKind::Modified, &inode)?;
        if hides {
            sink.opaque(&path)?;
            return self.push(way, path, folder, None, false, None);
        }
        self.push(way, path, folder, Some(Side::new(below)), opaque || !self.top.marks(), None)
    }

    fn push(
        &self,
        way: &mut Vec<Frame>,
        path: Vec<u8>,
        folder: Folder,
        below: Option<Side>,
        whole: bool,
        untold: Option<Inode>,
    ) -> Result<()> {
        if let Some(parent) = way.last_mut() {
            parent.top.open = None;
            if let Some(side) = &mut parent.below {
                side.open = None;
            }
        }
        let mut names = BTreeSet::new();
        folder.names(&path, &mut names)?;
        if let Some(below) = below.as_ref().and_then(|side| side.open.as_ref()).filter(|_| whole) {
            below.names(&path, &mut names)?;
        }
        let top = Side::new(folder);
        way.push(Frame { path, top, below, whole, names: names.into_iter(), untold });
        Ok(())
    }

    /// Whether a folder is described otherwise than it was.
    fn folders_differ(&self, new: &Inode, old: &Inode, path: &[u8]) -> Result<bool> {
        let what = |inode: &Inode| (inode.mode(), inode.stat.st_uid, inode.stat.st_gid);
        let time = |inode: &Inode| (inode.stat.st_mtime, inode.stat.st_mtime_nsec);
        // It changes with what is in the folder, so that it tells people nothing.
        let times_differ = self.as_layer && time(new) != time(old);
        let differ = || Ok::<_, Errno>(what(new) != what(old) || new.attributes()? != old.attributes()?);
        Ok(times_differ || differ().map_err(PackError::read("look at", path))?)
    }

    /// Whether something that is no folder is another than it was.
    fn differs(&self, new: &Inode, old: &Inode, path: &[u8]) -> Result<bool> {
        let what = |inode: &Inode| {
            let stat = &inode.stat;
            (
                stat.st_mode,
                stat.st_uid,
                stat.st_gid,
                stat.st_mtime,
                stat.st_mtime_nsec,
                stat.st_rdev,
                stat.st_size,
            )
        };
        // Which names are of one file can only be told with the file.
        let several_names = new.stat.st_nlink > 1 || old.stat.st_nlink > 1;
        if what(new) != what(old) || (self.as_layer && several_names) {
            return Ok(true);
        }
        let differ = || -> std::result::Result<bool, Errno> {
            Ok(match new.kind() {
                FileType::Symlink if new.target()? != old.target()? => true,
                _ => new.attributes()? != old.attributes()?,
            })
        };
        if differ().map_err(PackError::read("look at", path))? {
            return Ok(true);
        }
        // The times can be set, and the clock that they are from ticks some hundred times a second only.
        Ok(new.kind() == FileType::RegularFile
            && contents_differ(new, old).map_err(PackError::read("read", path))?)
    }
}

/// Tells of the folders on the way that were not told of, because something in them is changed.
fn tell_parents(way: &mut [Frame], sink: &mut impl Sink) -> Result<()> {
    for frame in way {
        if let Some(inode) = frame.untold.take() {
            sink.present(&frame.path, ChangeKind::Modified, &inode)?;
        }
    }
    Ok(())
}

fn contents_differ(new: &Inode, old: &Inode) -> std::io::Result<bool> {
    const CHUNK: u64 = 64 << 10;
    if new.id() == old.id() || new.stat.st_size == 0 {
        return Ok(false);
    }
    let (new, old) = (new.file()?, old.file()?);
    let (mut one, mut other) = (Vec::new(), Vec::new());
    loop {
        one.clear();
        other.clear();
        (&new).take(CHUNK).read_to_end(&mut one)?;
        (&old).take(CHUNK).read_to_end(&mut other)?;
        if one != other {
            return Ok(true);
        }
        if one.is_empty() {
            return Ok(false);
        }
    }
}
