//! Everything there is to a file tree, to be compared with another.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use image::{Digest, Image, ImageStore};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// One file, folder, link or device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Type and permission bits.
    pub mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    pub size: u64,
    device: u64,
    /// The digest of its content, or the target of a link.
    content: String,
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// The first path of the same inode.
    same_as: PathBuf,
}

impl Node {
    /// Whether it is a folder whose time is not before this one, in seconds.
    pub fn is_folder_changed_since(&self, seconds: u64) -> bool {
        self.mode & 0o170_000 == 0o040_000 && u64::try_from(self.mtime.0).is_ok_and(|time| time >= seconds)
    }

    /// Forgets a time that says nothing.
    pub fn without_time(&mut self) {
        self.mtime = (0, 0);
    }
}

/// Every path below a folder, the folder itself included.
pub fn read(root: &Path) -> BTreeMap<PathBuf, Node> {
    let mut nodes = BTreeMap::new();
    let mut paths = vec![root.to_owned()];
    while let Some(path) = paths.pop() {
        let stat = fs::symlink_metadata(&path).expect("there");
        let kind = stat.file_type();
        let content = if kind.is_symlink() {
            fs::read_link(&path).expect("a link").display().to_string()
        } else if kind.is_file() {
            Digest::of(&fs::read(&path).expect("a file")).to_string()
        } else {
            String::new()
        };
        if kind.is_dir() {
            paths.extend(fs::read_dir(&path).expect("a folder").map(|entry| entry.expect("an entry").path()));
        }
        let node = Node {
            mode: stat.mode(),
            owner: (stat.uid(), stat.gid()),
            mtime: (stat.mtime(), stat.mtime_nsec()),
            size: if kind.is_dir() { 0 } else { stat.size() },
            device: stat.rdev(),
            content,
            xattrs: xattrs(&path),
            same_as: PathBuf::new(),
        };
        let key = path.strip_prefix(root).expect("below").to_owned();
        nodes.insert(key, (node, (stat.dev(), stat.ino(), kind.is_dir())));
    }
    let mut first: BTreeMap<(u64, u64, bool), PathBuf> = BTreeMap::new();
    let mut tree = BTreeMap::new();
    for (path, (mut node, inode)) in nodes {
        node.same_as = first.entry(inode).or_insert_with(|| path.clone()).clone();
        tree.insert(path, node);
    }
    tree
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut list = vec![0_u8; 64 << 10];
    let bytes = rustix::fs::llistxattr(path, &mut list[..]).expect("listable");
    let names = list[..bytes].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let name = String::from_utf8_lossy(name).into_owned();
            let mut value = vec![0_u8; 64 << 10];
            let bytes = rustix::fs::lgetxattr(path, &*name, &mut value[..]).expect("readable");
            value.truncate(bytes);
            (name, value)
        })
        .collect()
}

/// The image's tree as a container would see it: its layers under overlayfs, mounted by their short links.
pub fn mounted<T>(store: &ImageStore, image: &Image, look: impl FnOnce(&Path) -> T) -> T {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).expect("tests run as root");
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).expect("private");
    let place = tempfile::tempdir().expect("a folder");
    let empty = tempfile::tempdir().expect("a folder");
    // Overlayfs without a writable layer wants two at least.
    let options = format!("lowerdir={}:{}", image.lower_links().join(":"), empty.path().display());
    let before = std::env::current_dir().expect("a folder");
    std::env::set_current_dir(store.links_dir()).expect("the links");
    mount(Some("overlay"), place.path(), Some("overlay"), MsFlags::MS_RDONLY, Some(&*options))
        .expect("mounted");
    std::env::set_current_dir(before).expect("back");
    let seen = look(place.path());
    umount2(place.path(), MntFlags::MNT_DETACH).expect("unmounted");
    seen
}

/// Says every difference of two trees, by path.
pub fn assert_equal(ours: &BTreeMap<PathBuf, Node>, theirs: &BTreeMap<PathBuf, Node>) {
    let mut differences = Vec::new();
    for path in ours.keys().chain(theirs.keys().filter(|path| !ours.contains_key(*path))) {
        if ours.get(path) != theirs.get(path) {
            let name = String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned();
            differences.push(format!(
                "{name:?}\n  ours   {:?}\n  theirs {:?}",
                ours.get(path),
                theirs.get(path)
            ));
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}
