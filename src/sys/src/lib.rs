//! Every raw system call of the system, and so every unsafe line: safe functions over descriptors.
//!
//! What `nix` offers safely is used from there by whoever needs it.

pub mod capability;
pub mod exe;
pub mod fd;
pub mod link;
pub mod mount;
pub mod process;
pub mod pty;
pub mod seccomp;
pub mod tty;
