//! Mounts by descriptor: made detached, configured, and only then attached at a place that was opened before.
//!
//! The calls are those of Linux 5.2 (fsopen, fsconfig, fsmount, open_tree, move_mount) and 5.12 (mount_setattr);
//! see their manual pages in section 2.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// Attributes of one mount, as mount_setattr(2) names them.
pub mod attr {
    /// May not be written.
    pub const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
    /// Set-user-ID bits and file capabilities do nothing.
    pub const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
    /// Device files do nothing.
    pub const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
    /// Nothing is executed.
    pub const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
    /// Access times are not kept.
    pub const NOATIME: u64 = libc::MOUNT_ATTR_NOATIME;
    /// Access times are always kept.
    pub const STRICTATIME: u64 = libc::MOUNT_ATTR_STRICTATIME;
}

const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const OPEN_TREE_CLONE: u32 = 1;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;

/// A file system being configured.
#[derive(Debug)]
pub struct FileSystem(OwnedFd);

impl FileSystem {
    /// Begins a file system of this type (`proc`, `tmpfs`, …).
    pub fn open(kind: &str) -> io::Result<Self> {
        let kind = c_string(kind)?;
        // SAFETY: the pointer is to a C string that outlives the call.
        let raw = unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) };
        Ok(FileSystem(owned(raw)?))
    }

    /// Sets an option: `name`, or `name=value`.
    pub fn set(&self, option: &str) -> io::Result<()> {
        match option.split_once('=') {
            Some((name, value)) => {
                self.config(FSCONFIG_SET_STRING, Some(&c_string(name)?), Some(&c_string(value)?))
            }
            None => self.config(FSCONFIG_SET_FLAG, Some(&c_string(option)?), None),
        }
    }

    /// Makes the file system and a detached mount of it, with attributes of [`attr`].
    pub fn mount(self, attributes: u64) -> io::Result<OwnedFd> {
        self.config(FSCONFIG_CMD_CREATE, None, None)?;
        // SAFETY: takes no pointer.
        let raw = unsafe {
            libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), FSMOUNT_CLOEXEC, attributes as u32)
        };
        owned(raw)
    }

    /// What the kernel has to say of the last failure, which errno is too narrow for.
    pub fn complaint(&self) -> Option<String> {
        let mut text = [0; 512];
        let length = nix::unistd::read(&self.0, &mut text).ok()?;
        let text = String::from_utf8_lossy(&text[..length]);
        Some(text.trim_start_matches(['e', 'w', 'i']).trim().to_owned()).filter(|text| !text.is_empty())
    }

    fn config(&self, command: u32, name: Option<&CStr>, value: Option<&CStr>) -> io::Result<()> {
        let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
        // SAFETY: each pointer is null, where the command allows it, or to a C string that outlives the call.
        let result = unsafe {
            libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, pointer(name), pointer(value), 0)
        };
        if let Err(errno) = Errno::result(result) {
            let error = io::Error::from(errno);
            return Err(match self.complaint() {
                Some(complaint) => io::Error::new(error.kind(), format!("{error}: {complaint}")),
                None => error,
            });
        }
        Ok(())
    }
}

/// A detached copy of the mount that `source` is on, showing `source` as its root; with `recursive`, of the mounts
/// below it too.
pub fn copy_tree(source: impl AsFd, recursive: bool) -> io::Result<OwnedFd> {
    let recursive = if recursive { libc::AT_RECURSIVE as u32 } else { 0 };
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as u32 | libc::AT_EMPTY_PATH as u32 | recursive;
    // SAFETY: the path is an empty C string that outlives the call.
    let raw = unsafe { libc::syscall(libc::SYS_open_tree, source.as_fd().as_raw_fd(), c"".as_ptr(), flags) };
    owned(raw)
}

/// Attaches a detached mount at `target`, a descriptor opened with `O_PATH`.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    // SAFETY: both paths are empty C strings that outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            target.as_fd().as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// What [`set_attributes`] changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AttributeChange {
    /// Attributes of [`attr`] to set.
    pub set: u64,
    /// Attributes of [`attr`] to clear.
    pub clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE`, or 0 to leave the propagation as it is.
    pub propagation: u64,
    /// Of the mounts below it too.
    pub recursive: bool,
}

/// Changes a mount, attached or not, given a descriptor of its root.
pub fn set_attributes(mount: impl AsFd, change: AttributeChange) -> io::Result<()> {
    let clear = if change.set & attr::NOATIME != 0 || change.set & attr::STRICTATIME != 0 {
        change.clear | libc::MOUNT_ATTR__ATIME
    } else {
        change.clear
    };
    let args = libc::mount_attr {
        attr_set: change.set,
        attr_clr: clear,
        propagation: change.propagation,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if change.recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, and args is valid and of the given size; both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const args,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

fn owned(raw: libc::c_long) -> io::Result<OwnedFd> {
    let raw = Errno::result(raw)?;
    // SAFETY: the system call has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(raw as i32) })
}

fn c_string(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "text with a null byte"))
}
