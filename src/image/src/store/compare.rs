//! Whether a layer is still what was unpacked: entry by entry beside the same layer unpacked anew.
//!
//! Compared are kind, permissions, owners, device numbers, times of change, sizes, links and their targets, which
//! names are the same file, extended attributes and every byte. Only folders that the archive did not describe have no
//! time of their own: they have that of their making, and are given the same here.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use crate::error::{ImageError, Result};
use crate::unpack::tree;

/// Bytes of two files that are compared at a time.
const PIECE: usize = 128 << 10;

/// Compares the layer's files in `old` with those in `new`, which were made after `since`. Returns the first difference
/// in words, if there is one. Folders of `new` without a time of their own get that of `old`.
pub(super) fn compare(old: &Path, new: &Path, since: Timespec) -> Result<Option<String>> {
    let open =
        |path: &Path| tree::open_root(path).map_err(|error| ImageError::io("open", path)(error.into()));
    let mut comparison = Comparison { since, same_file: HashMap::new(), path: Vec::new(), found: None };
    let (old_root, new_root) = match open(old) {
        Ok(root) => (root, open(new)?),
        Err(error) => return Ok(Some(format!("its files cannot be read: {error}"))),
    };
    match comparison.folders(&old_root, &new_root) {
        // What a disk cannot give back is damaged too.
        Err(error) if comparison.found.is_none() => {
            Err(ImageError::io("compare the layer", old)(error.into()))
        }
        _ => Ok(comparison.found),
    }
}

struct Comparison {
    since: Timespec,
    /// The inodes that have several names: those of the old tree by those of the new.
    same_file: HashMap<u64, u64>,
    /// Where we are.
    path: Vec<u8>,
    found: Option<String>,
}

type Outcome<T> = std::result::Result<T, Errno>;

impl Comparison {
    fn differs(&mut self, what: impl FnOnce() -> String) {
        if self.found.is_none() {
            let path = String::from_utf8_lossy(&self.path);
            self.found = Some(format!("/{}: {}", path.trim_start_matches('/'), what()));
        }
    }

    /// Everything in two folders, then the folders themselves.
    fn folders(&mut self, old: &OwnedFd, new: &OwnedFd) -> Outcome<()> {
        let (mut old_names, mut new_names) = (tree::names(old.as_fd())?, tree::names(new.as_fd())?);
        old_names.sort();
        new_names.sort();
        for name in &old_names {
            if new_names.binary_search(name).is_err() {
                self.within(name, |own| {
                    own.differs(|| "it is there and should not be".to_owned());
                    Ok(())
                })?;
            }
        }
        for name in &new_names {
            let is_there = old_names.binary_search(name).is_ok();
            self.within(name, |own| match is_there {
                true => own.entries(old.as_fd(), new.as_fd(), name),
                false => {
                    own.differs(|| "it is missing".to_owned());
                    Ok(())
                }
            })?;
        }
        let (old_stat, new_stat) = (rustix::fs::fstat(old)?, rustix::fs::fstat(new)?);
        let time = |stat: &Stat| Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ };
        let made = time(&new_stat);
        if (made.tv_sec, made.tv_nsec) >= (self.since.tv_sec, self.since.tv_nsec) {
            let old = time(&old_stat);
            rustix::fs::futimens(new, &Timestamps { last_access: old, last_modification: old })?;
        }
        self.described(&old_stat, &rustix::fs::fstat(new)?);
        self.attributes(old.as_fd(), new.as_fd())
    }

    fn within(&mut self, name: &[u8], act: impl FnOnce(&mut Self) -> Outcome<()>) -> Outcome<()> {
        let before = self.path.len();
        self.path.push(b'/');
        self.path.extend_from_slice(name);
        let done = act(self);
        if let Err(error) = &done {
            self.differs(|| format!("it cannot be compared: {error}"));
        }
        self.path.truncate(before);
        done
    }

    /// The entries of one name.
    fn entries(
        &mut self,
        old_folder: BorrowedFd<'_>,
        new_folder: BorrowedFd<'_>,
        name: &[u8],
    ) -> Outcome<()> {
        let (old, new) = (tree::stat(old_folder, name)?, tree::stat(new_folder, name)?);
        let kind = FileType::from_raw_mode(new.st_mode);
        if FileType::from_raw_mode(old.st_mode) != kind {
            self.differs(|| "it is of another kind".to_owned());
            return Ok(());
        }
        if kind == FileType::Directory {
            let (old, new) = (tree::open_folder(old_folder, name)?, tree::open_folder(new_folder, name)?);
            return self.folders(&old, &new);
        }
        self.described(&old, &new);
        self.names_of_a_file(&old, &new);
        let open = |folder: BorrowedFd<'_>, flags: OFlags| {
            rustix::fs::openat(folder, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        };
        match kind {
            FileType::RegularFile => {
                let (old, new) = (open(old_folder, OFlags::RDONLY)?, open(new_folder, OFlags::RDONLY)?);
                self.attributes(old.as_fd(), new.as_fd())?;
                self.contents(old, new)
            }
            FileType::Symlink => {
                let target = |folder: BorrowedFd<'_>| rustix::fs::readlinkat(folder, name, Vec::new());
                if target(old_folder)? != target(new_folder)? {
                    self.differs(|| "it is a link to another place".to_owned());
                }
                self.attributes(
                    open(old_folder, OFlags::PATH)?.as_fd(),
                    open(new_folder, OFlags::PATH)?.as_fd(),
                )
            }
            _ => self
                .attributes(open(old_folder, OFlags::PATH)?.as_fd(), open(new_folder, OFlags::PATH)?.as_fd()),
        }
    }

    /// What stat(2) tells.
    fn described(&mut self, old: &Stat, new: &Stat) {
        let (is_folder, is_whiteout) = (tree::is_folder(new), tree::is_whiteout(new));
        let facts = |stat: &Stat| {
            // A mark of what is gone has no time but that of its making.
            let time = if is_whiteout { (0, 0) } else { (stat.st_mtime, stat.st_mtime_nsec) };
            [
                ("its permissions are", format!("{:04o}", stat.st_mode & 0o7777)),
                ("its owner is", format!("{}:{}", stat.st_uid, stat.st_gid)),
                ("its device is", stat.st_rdev.to_string()),
                // Of a folder both are the file system's affair.
                ("its size is", if is_folder { 0 } else { stat.st_size }.to_string()),
                ("its links are", if is_folder { 0 } else { stat.st_nlink }.to_string()),
                ("its time is", format!("{}.{:09}", time.0, time.1)),
            ]
        };
        for ((what, old), (_, new)) in facts(old).into_iter().zip(facts(new)) {
            if old != new {
                self.differs(|| format!("{what} {old}, not {new}"));
            }
        }
    }

    /// Names of one file must be names of one file there too.
    fn names_of_a_file(&mut self, old: &Stat, new: &Stat) {
        if new.st_nlink > 1 && *self.same_file.entry(new.st_ino).or_insert(old.st_ino) != old.st_ino {
            self.differs(|| "it is no longer the same file as its other names".to_owned());
        }
    }

    fn attributes(&mut self, old: BorrowedFd<'_>, new: BorrowedFd<'_>) -> Outcome<()> {
        if attributes(old)? != attributes(new)? {
            self.differs(|| "its extended attributes are others".to_owned());
        }
        Ok(())
    }

    fn contents(&mut self, old: OwnedFd, new: OwnedFd) -> Outcome<()> {
        let (mut old, mut new) = (File::from(old), File::from(new));
        let (mut ours, mut theirs) = (vec![0; PIECE], vec![0; PIECE]);
        let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        let mut at = 0_u64;
        loop {
            let count = fill(&mut old, &mut ours).map_err(failed)?;
            if count != fill(&mut new, &mut theirs).map_err(failed)? || ours[..count] != theirs[..count] {
                self.differs(|| format!("its content is another, from some byte after {at} on"));
                return Ok(());
            }
            if count == 0 {
                return Ok(());
            }
            at += count as u64;
        }
    }
}

fn fill(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            bytes => filled += bytes,
        }
    }
    Ok(filled)
}

/// Every extended attribute of an open file, of whatever kind and however it was opened, sorted.
fn attributes(file: BorrowedFd<'_>) -> Outcome<Vec<(Vec<u8>, Vec<u8>)>> {
    // The kernel's own name for the open inode, which leads to it and no further.
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mut list = vec![0_u8; 64 << 10];
    let bytes = match rustix::fs::listxattr(&own, &mut list[..]) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for name in list[..bytes].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0_u8; 64 << 10];
        let bytes = rustix::fs::getxattr(&own, name, &mut value[..])?;
        value.truncate(bytes);
        found.push((name.to_vec(), value));
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::time::{Duration, SystemTime};

    use super::*;

    /// Two equal trees, all of whose times are old.
    fn trees() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["old", "new"] {
            let root = folder.path().join(name);
            fs::create_dir_all(root.join("d")).expect("made");
            fs::write(root.join("d/file"), vec![b'x'; 200_000]).expect("written");
            fs::hard_link(root.join("d/file"), root.join("again")).expect("linked");
            fs::write(root.join("third"), "y").expect("written");
            symlink("d/file", root.join("link")).expect("linked");
            for path in ["d/file", "third", "d", ""] {
                age(&root.join(path));
            }
            let times = Timestamps {
                last_access: Timespec { tv_sec: 1, tv_nsec: 0 },
                last_modification: Timespec { tv_sec: 1, tv_nsec: 0 },
            };
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::utimensat(rustix::fs::CWD, root.join("link"), &times, flags).expect("set");
        }
        folder
    }

    fn age(path: &Path) {
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
        File::open(path).and_then(|file| file.set_modified(then)).expect("set");
    }

    fn difference(folder: &Path) -> Option<String> {
        let since = Timespec { tv_sec: 1_700_000_000, tv_nsec: 0 };
        compare(&folder.join("old"), &folder.join("new"), since).expect("readable")
    }

    #[test]
    fn every_kind_of_damage_is_seen() {
        let check = |word: &str, harm: &dyn Fn(&Path)| {
            let folder = trees();
            assert_eq!(difference(folder.path()), None);
            let old = folder.path().join("old");
            harm(&old);
            for path in ["d", ""] {
                age(&old.join(path));
            }
            let told = difference(folder.path()).unwrap_or_else(|| panic!("{word} is not seen"));
            assert!(told.contains(word) && !told.contains('\n'), "{word}: {told}");
        };
        check("/again: its content", &|old| {
            let mut bytes = fs::read(old.join("d/file")).expect("read");
            bytes[150_000] = b'z';
            fs::write(old.join("d/file"), bytes).expect("written");
            age(&old.join("d/file"));
        });
        check("/third: its size is 2, not 1", &|old| {
            fs::write(old.join("third"), "yy").expect("written");
            age(&old.join("third"));
        });
        check("/third: its permissions are 4755", &|old| {
            fs::set_permissions(old.join("third"), fs::Permissions::from_mode(0o4755)).expect("set");
        });
        check("/third: its owner is 7:", &|old| {
            std::os::unix::fs::chown(old.join("third"), Some(7), None).expect("set");
        });
        check("/third: its time is", &|old| {
            File::open(old.join("third")).and_then(|file| file.set_modified(SystemTime::now())).expect("set");
        });
        check("/third: it is missing", &|old| fs::remove_file(old.join("third")).expect("removed"));
        check("/more: it is there and should not be", &|old| {
            fs::write(old.join("more"), "").expect("written")
        });
        check("/link: it is a link to another place", &|old| {
            let times = fs::symlink_metadata(old.join("link")).expect("there").mtime();
            fs::remove_file(old.join("link")).expect("removed");
            symlink("d/fild", old.join("link")).expect("linked");
            let time = Timespec { tv_sec: times, tv_nsec: 0 };
            let times = Timestamps { last_access: time, last_modification: time };
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::utimensat(rustix::fs::CWD, old.join("link"), &times, flags).expect("set");
        });
        check("/third: it is of another kind", &|old| {
            fs::remove_file(old.join("third")).expect("removed");
            fs::create_dir(old.join("third")).expect("made");
        });
        check("/third: its extended attributes", &|old| {
            let none = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(old.join("third"), "trusted.overlay.opaque", b"y", none).expect("set");
        });
        check("its links are", &|old| {
            fs::remove_file(old.join("again")).expect("removed");
            fs::copy(old.join("d/file"), old.join("again")).expect("copied");
            age(&old.join("again"));
        });
        check("/: its permissions", &|old| {
            fs::set_permissions(old, fs::Permissions::from_mode(0o700)).expect("set");
        });
    }

    #[test]
    fn a_folder_without_a_time_of_its_own_takes_the_old_one() {
        let folder = trees();
        File::open(folder.path().join("new/d"))
            .and_then(|file| file.set_modified(SystemTime::now()))
            .expect("set");
        assert_eq!(difference(folder.path()), None);
        let time = |name: &str| fs::metadata(folder.path().join(name)).expect("there").mtime();
        assert_eq!(time("new/d"), time("old/d"));
    }
}
