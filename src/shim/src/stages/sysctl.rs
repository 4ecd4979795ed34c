//! Kernel settings of the container's namespaces, written through its own /proc before that becomes read-only.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use crate::failure::{During, Failure};
use crate::rootfs::{Links, Rootfs};

/// Writes each setting.
pub fn write(settings: &[(PathBuf, String)], root: &Rootfs) -> Result<(), Failure> {
    for (path, value) in settings {
        let what = format!("set {} to {value:?}", path.display());
        let path = Path::new("/proc/sys").join(path);
        let mut file = File::from(root.open(&path, OFlag::O_WRONLY, Links::Refuse).during(&what)?);
        // The file must be the kernel's, not one that was mounted over it (CVE-2025-52881).
        if fstatfs(&file).during(&what)?.filesystem_type() != PROC_SUPER_MAGIC {
            return Err(Failure::new(format!("failed to {what}: it is not on a proc file system")));
        }
        file.write_all(value.as_bytes()).during(&what)?;
    }
    Ok(())
}
