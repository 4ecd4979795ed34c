//! What system calls a container may make: an OCI seccomp profile, compiled to the classic BPF program the kernel
//! runs before every call.
//!
//! [`default_profile`] is the profile of a container that names none, [`load`] reads one from a file, [`compile`]
//! turns either into a [`Filter`], and the container's first process calls [`Filter::install`] last before exec.
//! Each profile means what it means to runc and libseccomp; the tests compare the two verdict by verdict.
//!
//! Source: the runtime specification's `linux.seccomp`, seccomp(2), and the kernel's `seccomp_filter.rst`.

mod assemble;
mod default;
#[cfg(test)]
mod interpret;
mod load;
mod program;
#[cfg(test)]
mod reference;
mod rules;
mod syscalls;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompFilterFlag};
use sys::seccomp::{Instruction, MAX_INSTRUCTIONS, flag};

pub use default::default_profile;
pub use load::{Kernel, load, parse};

/// Why a seccomp profile cannot be had. None of these ever means "run without one".
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The profile's file cannot be read.
    #[error("failed to read seccomp profile {path}")]
    Read {
        /// The file as it was named.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file holds something other than a profile; `path` is empty for text that came from elsewhere.
    #[error("failed to parse seccomp profile {path}")]
    Parse {
        /// The file as it was named.
        path: PathBuf,
        /// What and where.
        source: serde_json::Error,
    },
    /// The file is empty, or lacks a default action.
    #[error(
        "seccomp profile {path} is empty; give it a \"defaultAction\", or ask for \"unconfined\" if no profile is wanted"
    )]
    Empty {
        /// The file as it was named.
        path: PathBuf,
    },
    /// The profile contradicts itself or asks for what the kernel has not.
    #[error("seccomp profile is not valid: {reason}")]
    Invalid {
        /// What is wrong, with the call or field it is about.
        reason: String,
    },
    /// The program would be longer than the kernel takes.
    #[error("seccomp profile needs {instructions} instructions; the kernel takes at most {MAX_INSTRUCTIONS}")]
    TooLarge {
        /// Length of the program.
        instructions: usize,
    },
    /// The running kernel's release could not be read, so `minKernel` cannot be decided.
    #[error("failed to read the kernel's release")]
    KernelRelease {
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused the program.
    #[error("failed to install the seccomp filter")]
    Install {
        /// What the kernel said.
        source: io::Error,
    },
}

/// A compiled profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The program, in running order.
    pub program: Vec<Instruction>,
    /// Bits of [`sys::seccomp::flag`].
    pub flags: u32,
    /// Whether a rule hands calls to a supervisor, so that the filter comes with a descriptor.
    pub notifies: bool,
}

impl Filter {
    /// Loads the filter into the calling thread, for good. Returns the descriptor its supervisor listens on if it
    /// has one.
    ///
    /// # Errors
    /// [`SeccompError::Install`]; the usual cause is neither no_new_privs nor CAP_SYS_ADMIN.
    pub fn install(&self) -> Result<Option<OwnedFd>, SeccompError> {
        let installed = if self.notifies {
            sys::seccomp::install_with_listener(&self.program, self.flags).map(Some)
        } else {
            sys::seccomp::install(&self.program, self.flags).map(|()| None)
        };
        installed.map_err(|source| SeccompError::Install { source })
    }
}

/// Compiles a profile. Calls it names that no x86 kernel up to 6.18 has are skipped, as runc does.
///
/// # Errors
/// [`SeccompError::Invalid`] or [`SeccompError::TooLarge`].
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter, SeccompError> {
    let rules = rules::resolve(profile)?;
    let program = program::write(&rules);
    if program.len() > MAX_INSTRUCTIONS {
        return Err(SeccompError::TooLarge { instructions: program.len() });
    }
    let flags = profile.flags().iter().flatten().fold(0, |bits, flag| {
        bits | match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => flag::LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => flag::TSYNC,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => flag::SPEC_ALLOW,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => flag::WAIT_KILLABLE_RECV,
        }
    });
    Ok(Filter { program, flags, notifies: rules.notifies })
}

fn invalid(reason: impl Into<String>) -> SeccompError {
    SeccompError::Invalid { reason: reason.into() }
}
