//! The container's /dev: the devices every container has (runtime-spec, config-linux.md), and its terminal.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, SFlag, fstat, makedev, mknodat};
use nix::unistd::symlinkat;

use sys::tty::{WindowSize, set_window_size};

use super::mounts::Made;
use crate::failure::{During, Failure};
use crate::rootfs::{Links, Place, Rootfs, open_in};

const NODES: [(&str, u64, u64); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", "/proc/kcore"),
];

/// Fills a fresh /dev.
pub fn populate(dev: &OwnedFd) -> Result<(), Failure> {
    // The mode is meant as it stands.
    let umask = nix::sys::stat::umask(Mode::empty());
    for (name, major, minor) in NODES {
        let mode = Mode::from_bits_truncate(0o666);
        mknodat(dev, name, SFlag::S_IFCHR, mode, makedev(major, minor))
            .during(format_args!("make /dev/{name}"))?;
    }
    for (name, target) in LINKS {
        symlinkat(target, dev, name).during(format_args!("make /dev/{name}"))?;
    }
    nix::sys::stat::umask(umask);
    Ok(())
}

/// Opens the null device in the container's own /dev, and makes sure that it is the null device.
pub fn open_null(dev: &OwnedFd) -> Result<OwnedFd, Failure> {
    let null = open_in(dev.as_fd(), Path::new("null"), OFlag::O_PATH, Links::Refuse)
        .during("open the container's /dev/null")?;
    let stat = fstat(&null).during("look at the container's /dev/null")?;
    let is_character = stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFCHR.bits();
    if !is_character || stat.st_rdev != makedev(1, 3) {
        return Err(Failure::new("the container's /dev/null is not the null device"));
    }
    Ok(null)
}

/// Makes a terminal in the container's devpts, and its other end the container's console. Returns master and slave.
pub fn open_console(
    devpts: &OwnedFd,
    made: &Made,
    root: &Rootfs,
    size: Option<(u16, u16)>,
) -> Result<(OwnedFd, OwnedFd), Failure> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
    let master =
        open_in(devpts.as_fd(), Path::new("ptmx"), flags, Links::Refuse).during("open a terminal")?;
    let slave = open_slave(&master, size)?;
    if made.dev.is_some() {
        let console = root
            .place(Path::new("/dev/console"), Place::File, Links::Refuse)
            .during("open /dev/console in the container")?;
        let tree = sys::mount::copy_tree(&slave, false).during("bind the terminal")?;
        sys::mount::attach(&tree, &console).during("bind the terminal to /dev/console")?;
    }
    Ok((master, slave))
}

/// Opens the other end of a terminal and gives it a size: rows, columns.
pub fn open_slave(master: &OwnedFd, size: Option<(u16, u16)>) -> Result<OwnedFd, Failure> {
    let slave = sys::pty::open_peer(master).during("open the terminal's other end")?;
    if let Some((rows, cols)) = size {
        set_window_size(slave.as_fd(), WindowSize { rows, cols }).during("set the terminal's size")?;
    }
    Ok(slave)
}
