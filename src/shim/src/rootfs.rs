//! A root filesystem held by descriptor. The image decides what lies in it, so every path in it is resolved by
//! openat2(2) inside it: `..` and absolute links stay below its root, and magic links are never followed.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};

/// The root of a container's filesystem.
#[derive(Debug)]
pub struct Rootfs(OwnedFd);

/// What a mount is put on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A folder.
    Folder,
    /// Anything that is no folder.
    File,
}

impl Rootfs {
    /// Takes an `O_PATH` descriptor of the root.
    pub fn new(root: OwnedFd) -> Self {
        Rootfs(root)
    }

    /// Opens a path inside; the last component is not followed when `follow` is false.
    pub fn open(&self, path: &Path, flags: OFlag, links: Links) -> io::Result<OwnedFd> {
        open_in(self.0.as_fd(), path, flags, links)
    }

    /// Reads a file inside, of at most `limit` bytes; `None` when it is not there.
    pub fn read(&self, path: &Path, limit: u64) -> io::Result<Option<String>> {
        use io::Read;
        let flags = OFlag::O_RDONLY | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
        let file = match self.open(path, flags, Links::Follow) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => File::from(other?),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        // One more than there is, so that the end is seen without another allocation.
        let mut bytes = Vec::with_capacity(metadata.len().min(limit) as usize + 1);
        if file.take(limit + 1).read_to_end(&mut bytes)? as u64 > limit {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {limit} bytes")));
        }
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Opens the place to mount something on (`O_PATH`), made when it is missing: folders with mode 0755, a file empty.
    pub fn place(&self, path: &Path, place: Place, links: Links) -> io::Result<OwnedFd> {
        match self.open(path, OFlag::O_PATH, links) {
            Ok(fd) => {
                let is_folder = kind_of(&fd)? == SFlag::S_IFDIR;
                return match (is_folder, place) {
                    (true, Place::Folder) | (false, Place::File) => Ok(fd),
                    (false, Place::Folder) => Err(io::Error::from(io::ErrorKind::NotADirectory)),
                    (true, Place::File) => Err(io::Error::from(io::ErrorKind::IsADirectory)),
                };
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        let parent = self.folders(parent, links)?;
        let name = Path::new(name);
        match place {
            Place::Folder => match mkdirat(&parent, name, Mode::from_bits_truncate(0o755)) {
                Err(Errno::EEXIST) | Ok(()) => {}
                Err(errno) => return Err(errno.into()),
            },
            Place::File => {
                let flags =
                    OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                match nix::fcntl::openat(&parent, name, flags, Mode::from_bits_truncate(0o644)) {
                    Err(Errno::EEXIST) | Ok(_) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        // What was a link to nowhere is still one: it is refused here rather than followed.
        open_in(parent.as_fd(), name, OFlag::O_PATH, Links::Refuse)
    }

    /// Opens a folder (`O_PATH`), made with its parents when it is missing.
    pub fn folders(&self, path: &Path, links: Links) -> io::Result<OwnedFd> {
        match self.open(path, OFlag::O_PATH | OFlag::O_DIRECTORY, links) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let mut walked = std::path::PathBuf::from("/");
        let mut folder = self.0.try_clone()?;
        for component in path.components() {
            let Component::Normal(name) = component else { continue };
            walked.push(name);
            folder = match self.open(&walked, OFlag::O_PATH | OFlag::O_DIRECTORY, links) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    match mkdirat(&folder, Path::new(name), Mode::from_bits_truncate(0o755)) {
                        Err(Errno::EEXIST) | Ok(()) => {}
                        Err(errno) => return Err(errno.into()),
                    }
                    open_in(
                        folder.as_fd(),
                        Path::new(name),
                        OFlag::O_PATH | OFlag::O_DIRECTORY,
                        Links::Refuse,
                    )?
                }
                other => other?,
            };
        }
        Ok(folder)
    }
}

impl AsFd for Rootfs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What happens at a symbolic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// It is followed, inside the root.
    Follow,
    /// It is an error.
    Refuse,
}

/// Opens a path below `root` as the container would see it.
pub fn open_in(root: BorrowedFd<'_>, path: &Path, flags: OFlag, links: Links) -> io::Result<OwnedFd> {
    let mut resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    if links == Links::Refuse {
        resolve |= ResolveFlag::RESOLVE_NO_SYMLINKS;
    }
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
    loop {
        match openat2(root, path, how) {
            // A rename or mount raced with the walk; the kernel asks to walk again.
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

/// The file type behind a descriptor.
pub fn kind_of(fd: impl AsFd) -> io::Result<SFlag> {
    let stat = fstat(fd)?;
    Ok(SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn rootfs(name: &str) -> (tempfile::TempDir, Rootfs) {
        let folder = tempfile::Builder::new().prefix(name).tempdir().expect("a folder");
        let root = File::open(folder.path()).expect("it is there");
        (folder, Rootfs::new(root.into()))
    }

    #[test]
    fn links_stay_inside_and_are_refused_on_request() {
        let (folder, root) = rootfs("links");
        fs::create_dir(folder.path().join("etc")).expect("made");
        fs::write(folder.path().join("etc/passwd"), "inside").expect("written");
        symlink("/etc/passwd", folder.path().join("absolute")).expect("made");
        symlink("../../../etc/passwd", folder.path().join("climbing")).expect("made");
        for link in ["absolute", "climbing"] {
            assert_eq!(root.read(Path::new(link), 99).expect("read").as_deref(), Some("inside"));
            assert!(root.open(Path::new(link), OFlag::O_PATH, Links::Refuse).is_err());
        }
    }

    #[test]
    fn places_are_made_inside_only() {
        let (folder, root) = rootfs("places");
        let outside = tempfile::tempdir().expect("a folder");
        symlink(outside.path(), folder.path().join("out")).expect("made");
        // Inside, the link leads nowhere.
        assert!(root.place(Path::new("/out/a/b"), Place::Folder, Links::Follow).is_err());
        assert_eq!(fs::read_dir(outside.path()).expect("readable").count(), 0);
        root.place(Path::new("/x/file"), Place::File, Links::Refuse).expect("made");
        assert!(folder.path().join("x/file").is_file());
        assert!(root.place(Path::new("/x/file"), Place::Folder, Links::Refuse).is_err());
    }

    #[test]
    fn a_dangling_link_is_not_made_real() {
        let (folder, root) = rootfs("dangling");
        symlink("/nowhere", folder.path().join("link")).expect("made");
        assert!(root.place(Path::new("/link"), Place::File, Links::Follow).is_err());
        assert!(!folder.path().join("nowhere").exists());
    }

    #[test]
    fn large_and_special_files_are_not_read() {
        let (folder, root) = rootfs("special");
        fs::write(folder.path().join("large"), vec![0; 100]).expect("written");
        nix::unistd::mkfifo(&folder.path().join("fifo"), Mode::S_IRWXU).expect("made");
        assert!(root.read(Path::new("large"), 99).is_err());
        assert!(root.read(Path::new("fifo"), 99).is_err());
        assert!(root.read(Path::new("missing"), 99).expect("fine").is_none());
    }
}
