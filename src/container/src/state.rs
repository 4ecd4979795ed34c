//! Whether a container's process lives: told by the kernel at each read, never by a file.
//!
//! A pid alone does not name a process, since pids are used again; a pid with its start time does.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The file in a container's run folder that holds its [`ProcessRecord`].
pub const PROCESS_FILE: &str = "pid";

/// Names one process of this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessRecord {
    /// Its pid in our pid namespace.
    pub pid: i32,
    /// Its start time in clock ticks since boot: field 22 of /proc/PID/stat, proc(5).
    pub start_ticks: u64,
    /// When it was started, for people.
    pub started_at: Timestamp,
}

impl ProcessRecord {
    /// Describes the living process `pid`.
    pub fn of(pid: i32) -> io::Result<Self> {
        let (_, start_ticks) = stat(pid)?;
        Ok(ProcessRecord { pid, start_ticks, started_at: Timestamp::now() })
    }

    /// Writes it into a container's run folder, whole or not at all.
    pub fn write(&self, run_dir: &Path) -> io::Result<()> {
        let temporary = run_dir.join(".pid.tmp");
        fs::write(&temporary, serde_json::to_vec(self)?)?;
        fs::rename(temporary, run_dir.join(PROCESS_FILE))
    }

    /// Reads it from a container's run folder; `None` when no process was ever started there.
    pub fn read(run_dir: &Path) -> io::Result<Option<Self>> {
        match fs::read(run_dir.join(PROCESS_FILE)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A descriptor of the process if it lives and is no zombie.
    pub fn open(&self) -> io::Result<Option<OwnedFd>> {
        let pidfd = match sys::process::pidfd_open(self.pid) {
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ESRCH as i32) => return Ok(None),
            other => other?,
        };
        // The descriptor is held before the start time is read, so the pid cannot change hands in between.
        match stat(self.pid) {
            Ok((state, ticks)) if ticks == self.start_ticks && !matches!(state, b'Z' | b'X') => {
                Ok(Some(pidfd))
            }
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ESRCH as i32) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// State letter and start time of a process, from /proc/PID/stat.
fn stat(pid: i32) -> io::Result<(u8, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, format!("malformed /proc/{pid}/stat"));
    // The command name is in parentheses and may itself hold spaces and parentheses: the last one ends it.
    let rest = &text[text.rfind(')').ok_or_else(malformed)? + 1..];
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next().and_then(|field| field.bytes().next()).ok_or_else(malformed)?;
    let ticks = fields.nth(18).and_then(|field| field.parse().ok()).ok_or_else(malformed)?;
    Ok((state, ticks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_is_found_and_another_with_its_pid_is_not() {
        let own = ProcessRecord::of(std::process::id() as i32).expect("we live");
        assert!(own.open().expect("readable").is_some());
        let other = ProcessRecord { start_ticks: own.start_ticks + 1, ..own };
        assert!(other.open().expect("readable").is_none());
    }

    #[test]
    fn a_zombie_does_not_live() {
        let mut child = std::process::Command::new("true").spawn().expect("spawned");
        let record = ProcessRecord::of(child.id() as i32).expect("not reaped yet");
        let pidfd = sys::process::pidfd_open(record.pid).expect("not reaped yet");
        sys::process::wait_readable(&pidfd).expect("it ends");
        assert!(record.open().expect("readable").is_none());
        child.wait().expect("reaped");
        assert!(record.open().expect("readable").is_none());
    }
}
