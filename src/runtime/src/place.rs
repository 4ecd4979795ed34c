//! The two ends of a copy: a path in a tree of files, ours or a container's, resolved once and then held by descriptor.
//!
//! The rules are those of `docker cp`: what the path of a source or destination means, by its end and by what is there.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};

/// As many links as the kernel follows in one path.
const LINKS_MAX: usize = 40;

/// A tree of files.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
    /// Whether it is a container's: magic links of /proc lead out of it then, so none is followed.
    foreign: bool,
}

/// What is to be copied.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) file: OwnedFd,
    pub(crate) is_folder: bool,
    /// Its name at the destination; none where what is in it is meant, and not itself.
    pub(crate) name: Option<OsString>,
}

/// Where it goes: into a folder, under a name, or what is in it straight into the folder.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) folder: OwnedFd,
    pub(crate) name: Option<OsString>,
}

impl Tree {
    /// This process's own files.
    pub(crate) fn host() -> io::Result<Self> {
        Ok(Tree { root: std::fs::File::open("/")?.into(), foreign: false })
    }

    /// A container's, below its root.
    pub(crate) fn container(root: OwnedFd) -> Self {
        Tree { root, foreign: true }
    }

    pub(crate) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Resolves a source; with `follow`, a link at its end.
    pub(crate) fn source(&self, path: &Path, follow: bool) -> io::Result<Source> {
        let text = path.as_os_str().as_bytes();
        let ends = End::of(text);
        let nofollow = if follow || ends != End::Name { OFlag::empty() } else { OFlag::O_NOFOLLOW };
        let file = self.open(path, OFlag::O_PATH | nofollow)?;
        let is_folder = is_folder(&fstat(&file)?);
        if ends == End::Slash && !is_folder {
            return Err(Errno::ENOTDIR.into());
        }
        // `/`, `x/..` and `x/.` have no name of their own.
        let name = if ends == End::Dot { None } else { path.file_name().map(OsStr::to_owned) };
        Ok(Source { file, is_folder, name })
    }

    /// Resolves a destination for a source.
    pub(crate) fn target(&self, path: &Path, source: &Source) -> Result<Target, Refusal> {
        let text = path.as_os_str().as_bytes();
        match self.open(path, OFlag::O_PATH) {
            Ok(there) if is_folder(&fstat(&there)?) => {
                return Ok(Target { folder: readable(&there)?, name: source.name.clone() });
            }
            Ok(_) if source.is_folder => return Err(Refusal::FolderToFile),
            Ok(_) if End::of(text) != End::Name => return Err(Errno::ENOTDIR.into()),
            // What else has a name is no content: a device or pipe would have to make room for a file.
            Ok(there) if kind(&fstat(&there)?) != SFlag::S_IFREG => return Err(Refusal::NoFile),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !source.is_folder && End::of(text) != End::Name {
                    return Err(Refusal::NoSuchFolder);
                }
            }
            Err(error) => return Err(error.into()),
        }
        let (folder, name) = self.place(path)?;
        Ok(Target { folder, name: Some(name) })
    }

    /// The folder of an existing destination, for a stream.
    pub(crate) fn folder(&self, path: &Path) -> Result<OwnedFd, Refusal> {
        let there = self.open(path, OFlag::O_PATH)?;
        match is_folder(&fstat(&there)?) {
            true => Ok(readable(&there)?),
            false => Err(Refusal::NoFolder),
        }
    }

    /// The real folder that a path's last component is in, or is to be made in, and that component. Where it is a link,
    /// what it leads to is meant.
    fn place(&self, path: &Path) -> Result<(OwnedFd, OsString), Refusal> {
        let mut path = path.to_owned();
        for _ in 0..LINKS_MAX {
            let Some(name) = path.file_name().map(OsStr::to_owned) else { return Err(Errno::EINVAL.into()) };
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent: PathBuf =
                parent.unwrap_or(Path::new(if self.foreign { "/" } else { "." })).to_owned();
            let folder = match self.open(&parent, OFlag::O_PATH | OFlag::O_DIRECTORY) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Refusal::NoSuchFolder),
                other => readable(&other?)?,
            };
            match readlinkat(&folder, &*name) {
                Ok(target) => path = parent.join(target),
                Err(Errno::EINVAL | Errno::ENOENT) => return Ok((folder, name)),
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(Errno::ELOOP.into())
    }

    fn open(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        let flags = flags | OFlag::O_CLOEXEC;
        if !self.foreign {
            return Ok(nix::fcntl::open(path, flags, Mode::empty())?);
        }
        let how = OpenHow::new()
            .flags(flags)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        // Relative ones are relative to the root, as docker has it.
        let path = if path.as_os_str().is_empty() { Path::new("/") } else { path };
        loop {
            match openat2(&self.root, path, how) {
                // A rename or mount raced with the walk; the kernel asks to walk again.
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                other => return Ok(other?),
            }
        }
    }
}

/// Why something cannot be copied there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("cannot copy a directory to a file")]
    FolderToFile,
    #[error("no such directory")]
    NoSuchFolder,
    #[error("it must be a directory")]
    NoFolder,
    #[error("it must be a directory or a regular file")]
    NoFile,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Refusal::Io(errno.into())
    }
}

/// How a path ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Name,
    /// With a slash: a folder is meant.
    Slash,
    /// With `/.`: what is in it is meant.
    Dot,
}

impl End {
    fn of(path: &[u8]) -> Self {
        match path {
            b"." => End::Dot,
            _ if path.ends_with(b"/.") => End::Dot,
            _ if path.ends_with(b"/") => End::Slash,
            _ => End::Name,
        }
    }
}

fn is_folder(stat: &FileStat) -> bool {
    kind(stat) == SFlag::S_IFDIR
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// Opens a folder, of which an `O_PATH` descriptor is held, for use.
fn readable(folder: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::openat(folder.as_fd(), ".", flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Says where a copy would go: the folder's real path below the root, and the name.
    fn check(root: &Path, from: &str, to: &str) -> Result<(String, Option<String>), String> {
        let tree = Tree::container(fs::File::open(root).unwrap().into());
        let source = tree.source(Path::new(from), false).map_err(|error| error.to_string())?;
        let target = tree.target(Path::new(to), &source).map_err(|error| error.to_string())?;
        let real = fs::read_link(format!("/proc/self/fd/{}", target.folder.as_raw_fd())).unwrap();
        let real = real.strip_prefix(root).unwrap_or(&real).display().to_string();
        Ok((real, target.name.map(|name| name.into_string().unwrap())))
    }

    #[test]
    fn a_copy_goes_where_dockers_goes() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for folder in ["dir/sub", "other"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for file in ["file", "dir/file", "other/there"] {
            fs::write(root.join(file), "x").unwrap();
        }
        for (target, link) in [
            ("/other", "to-dir"),
            ("/other/there", "to-file"),
            ("other/new", "dangling"),
            ("/../../../other", "out"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        let to = |folder: &str, name: &str| Ok((folder.to_owned(), Some(name.to_owned())));
        let into = |folder: &str| Ok((folder.to_owned(), None));
        let no = |text: &str| Err(text.to_owned());
        for (from, destination, expected) in [
            ("file", "new", to("", "new")),
            ("/file", "/other/new", to("other", "new")),
            ("file", "new/", no("no such directory")),
            ("file", "missing/new", no("no such directory")),
            ("file", "other/there", to("other", "there")),
            ("file", "other/there/", no("Not a directory (os error 20)")),
            ("file", "other", to("other", "file")),
            ("file", "other/", to("other", "file")),
            ("file", "other/.", to("other", "file")),
            ("dir", "new", to("", "new")),
            ("dir", "new/", to("", "new")),
            ("dir", "file", no("cannot copy a directory to a file")),
            ("dir", "other", to("other", "dir")),
            ("dir/", "other", to("other", "dir")),
            ("dir/.", "other", into("other")),
            ("dir/.", "new", to("", "new")),
            ("/", "other", into("other")),
            ("dir/sub/..", "other", into("other")),
            ("file/", "other", no("Not a directory (os error 20)")),
            ("missing", "other", no("No such file or directory (os error 2)")),
            // Links at the end: of a source they are copied, of a destination followed, inside.
            ("to-dir", "other", to("other", "to-dir")),
            ("to-dir/", "dir", to("dir", "to-dir")),
            ("to-dir/.", "dir", into("dir")),
            ("file", "to-dir", to("other", "file")),
            ("file", "to-file", to("other", "there")),
            ("file", "dangling", to("other", "new")),
            ("file", "out/x", to("other", "x")),
            ("file", "../../x", to("", "x")),
        ] {
            let found = check(&root, from, destination);
            assert_eq!(found, expected, "{from} {destination}");
        }
    }
}
