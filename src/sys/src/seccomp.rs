//! Seccomp filters: one classic BPF instruction as the kernel reads it, and seccomp(2) to load a program of
//! them into the calling thread.
//!
//! Sources: seccomp(2), `linux/filter.h`, `linux/seccomp.h`.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// The longest program the kernel takes, in instructions (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// One classic BPF instruction, laid out as `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation, operand size and addressing mode.
    pub code: u16,
    /// How many instructions a conditional jump skips when true.
    pub jt: u8,
    /// How many instructions a conditional jump skips when false.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

const _: () = assert!(size_of::<Instruction>() == size_of::<libc::sock_filter>());
const _: () = assert!(align_of::<Instruction>() == align_of::<libc::sock_filter>());

/// Bits of the flags argument of seccomp(2) that a container profile may ask for.
pub mod flag {
    /// Give the filter to every thread of the process.
    pub const TSYNC: u32 = 1 << 0;
    /// Log every verdict but "allow".
    pub const LOG: u32 = 1 << 1;
    /// Leave the speculative store bypass mitigation off.
    pub const SPEC_ALLOW: u32 = 1 << 2;
    /// A thread waiting for its supervisor's answer takes fatal signals only.
    pub const WAIT_KILLABLE_RECV: u32 = 1 << 5;
    /// Return a descriptor for notifications; set by [`super::install_with_listener`] alone.
    pub(super) const NEW_LISTENER: u32 = 1 << 3;
    /// Report a thread that could not be synchronised as ESRCH, so that the return value can be a descriptor.
    pub(super) const TSYNC_ESRCH: u32 = 1 << 4;
}

const SET_MODE_FILTER: libc::c_ulong = 1;

/// Loads `program` into the calling thread; it holds from here on, across execve, and cannot be removed.
///
/// # Errors
/// EACCES without no_new_privs or CAP_SYS_ADMIN; EINVAL for a program the kernel refuses or flags it does not
/// know; ESRCH when a thread could not be synchronised under [`flag::TSYNC`].
pub fn install(program: &[Instruction], flags: u32) -> io::Result<()> {
    let flags = if flags & flag::TSYNC != 0 { flags | flag::TSYNC_ESRCH } else { flags };
    set_filter(program, flags).map(drop)
}

/// As [`install`], and returns the descriptor on which a supervisor receives the calls the program answers
/// with "notify" (seccomp_unotify(2)). The descriptor is close-on-exec.
pub fn install_with_listener(program: &[Instruction], flags: u32) -> io::Result<OwnedFd> {
    let flags = if flags & flag::TSYNC != 0 { flags | flag::TSYNC_ESRCH } else { flags };
    let fd = set_filter(program, flags | flag::NEW_LISTENER)?;
    // SAFETY: with NEW_LISTENER a non-negative result is a descriptor just made for this call, owned by no one.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set_filter(program: &[Instruction], flags: u32) -> io::Result<i32> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program =
        libc::sock_fprog { len: length, filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut() };
    // SAFETY: the kernel reads `len` instructions at `filter`, which is the slice borrowed above, of the layout
    // asserted above; it writes nothing through the pointer and keeps none after the call.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, libc::c_ulong::from(flags), &raw const program)
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i32::try_from(result).expect("a descriptor fits an int"))
}
