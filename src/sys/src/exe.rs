//! Running a program from a mount that cannot be written, so that what runs inside a container cannot reach the
//! program's file through /proc/PID/exe (CVE-2019-5736).

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::mount::{self, AttributeChange, attr};

/// A descriptor of the program at `path` on a detached read-only mount of its own. Executing
/// `/proc/self/fd/N` runs the program from there; opening that process's `exe` for writing fails with `EROFS`.
pub fn read_only(path: &Path) -> io::Result<OwnedFd> {
    let file = File::open(path)?;
    let mount = mount::copy_tree(&file, false)?;
    mount::set_attributes(&mount, AttributeChange { set: attr::RDONLY, ..Default::default() })?;
    Ok(mount)
}

/// The path by which a descriptor of this process is executed.
pub fn path_of(fd: &OwnedFd) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_program_run_from_there_cannot_be_written_through_its_exe() {
        // A copy of its own, which nobody else is running meanwhile.
        let folder = tempfile::tempdir().expect("a folder");
        let copy = folder.path().join("sleep");
        std::fs::copy("/bin/sleep", &copy).expect("copied");
        let program = read_only(&copy).expect("root can copy a mount");
        let mut child = Command::new(path_of(&program)).arg("1000").spawn().expect("it runs");
        drop(program);
        let exe = format!("/proc/{}/exe", child.id());
        let handle =
            std::fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&exe).expect("there");
        child.kill().expect("ours");
        child.wait().expect("ours");
        // The program no longer runs, so that ETXTBSY does not stand in for what is tested.
        let error =
            std::fs::OpenOptions::new().write(true).open(path_of(&handle.into())).expect_err("read-only");
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    }
}
