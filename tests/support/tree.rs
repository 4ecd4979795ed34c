//! What a tree of files holds, entry by entry, in a form that two trees can be compared in.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::layer::digest;

/// Every entry by its path below the root (the root's is empty), told in words.
pub type Tree = BTreeMap<PathBuf, String>;

/// Reads the tree below `root`, leaving out the paths `without` (relative) and all below them.
///
/// # Errors
/// What cannot be read.
pub fn read(root: &Path, without: &[&str]) -> io::Result<Tree> {
    let mut reader = Reader { root, without, links: BTreeMap::new(), tree: Tree::new() };
    reader.visit(Path::new(""))?;
    Ok(reader.tree)
}

/// Asserts that two trees are equal.
///
/// # Panics
/// With the first differences.
#[track_caller]
pub fn assert_equal(found: &Tree, expected: &Tree) {
    let paths: std::collections::BTreeSet<&PathBuf> = found.keys().chain(expected.keys()).collect();
    let none = "absent".to_owned();
    let differences: Vec<String> = paths
        .into_iter()
        .filter(|path| found.get(*path) != expected.get(*path))
        .map(|path| {
            let (found, expected) = (found.get(path).unwrap_or(&none), expected.get(path).unwrap_or(&none));
            format!("{}\n  found    {found}\n  expected {expected}", path.display())
        })
        .collect();
    let shown = differences.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
    assert!(differences.is_empty(), "{} entries differ:\n{shown}", differences.len());
}

struct Reader<'a> {
    root: &'a Path,
    without: &'a [&'a str],
    /// The first path of each file that has several.
    links: BTreeMap<(u64, u64), PathBuf>,
    tree: Tree,
}

impl Reader<'_> {
    fn visit(&mut self, path: &Path) -> io::Result<()> {
        if self.without.iter().any(|left_out| path == Path::new(left_out)) {
            return Ok(());
        }
        // The root itself with a slash behind it, so that a link to it is followed.
        let absolute = self.root.join(path);
        let metadata = fs::symlink_metadata(&absolute)?;
        let words = self.describe(path, &absolute, &metadata)?;
        self.tree.insert(path.to_owned(), words);
        if metadata.is_dir() {
            let mut names: Vec<_> =
                fs::read_dir(&absolute)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
            names.sort();
            for name in names {
                self.visit(&path.join(name))?;
            }
        }
        Ok(())
    }

    fn describe(&mut self, path: &Path, absolute: &Path, metadata: &Metadata) -> io::Result<String> {
        let kind = metadata.file_type();
        let device = || {
            let number = metadata.rdev();
            format!("{}:{}", nix::sys::stat::major(number), nix::sys::stat::minor(number))
        };
        let what = match () {
            () if kind.is_dir() => "directory".to_owned(),
            () if kind.is_symlink() => format!("link to {}", fs::read_link(absolute)?.display()),
            () if kind.is_fifo() => "fifo".to_owned(),
            () if kind.is_socket() => "socket".to_owned(),
            () if kind.is_char_device() => format!("character device {}", device()),
            () if kind.is_block_device() => format!("block device {}", device()),
            () => format!("file of {} bytes, {}", metadata.size(), digest(&fs::read(absolute)?)),
        };
        let mut words = format!(
            "{what}, mode {:04o}, owner {}:{}, changed {}.{:09}",
            metadata.permissions().mode() & 0o7777,
            metadata.uid(),
            metadata.gid(),
            metadata.mtime(),
            metadata.mtime_nsec()
        );
        if !metadata.is_dir() && metadata.nlink() > 1 {
            let first = self.links.entry((metadata.dev(), metadata.ino())).or_insert_with(|| path.to_owned());
            words += &format!(", the same as {}", first.display());
        }
        for (name, value) in attributes(absolute)? {
            words += &format!(", {name}={}", hex::encode(value));
        }
        Ok(words)
    }
}

/// The extended attributes of a file itself; what overlayfs keeps in its layers is not shown.
fn attributes(path: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut names = [0_u8; 65536];
    let length = match rustix::fs::llistxattr(path, &mut names[..]) {
        Err(error) if error == rustix::io::Errno::NOTSUP => return Ok(BTreeMap::new()),
        other => other?,
    };
    let mut found = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = [0_u8; 65536];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..])?;
        let name = std::ffi::OsStr::from_bytes(name).to_string_lossy().into_owned();
        if !name.starts_with("trusted.overlay.") {
            found.insert(name, value[..length].to_vec());
        }
    }
    Ok(found)
}
