//! The capability bounding set beyond the capabilities this program has names for.

#![allow(unsafe_code)]

use std::io;

/// Drops from the calling thread's bounding set every capability numbered `first` or higher. A kernel newer than
/// the names we know would otherwise leave them to a container whose process runs as root.
///
/// # Errors
/// EPERM without CAP_SETPCAP, when the kernel has such a capability and the set holds it.
pub fn drop_bounding_from(first: u8) -> io::Result<()> {
    for number in libc::c_ulong::from(first)..64 {
        // SAFETY: PR_CAPBSET_READ takes a number and touches no memory; EINVAL for one the kernel does not know.
        let held = unsafe { libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) };
        match held {
            0 => continue,
            1 => (),
            // The first unknown number ends the kernel's list.
            _ => return Ok(()),
        }
        // SAFETY: PR_CAPBSET_DROP takes a number and touches no memory.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
