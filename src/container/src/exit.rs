//! How a container ended: written once, by its monitor, and never changed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The end of a container's first process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitRecord {
    /// What the shell would call `$?`: the exit code, or 128 plus the number of the signal.
    pub exit_code: i32,
    /// The signal that ended the process, when one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether the kernel killed a process of the container for its memory limit.
    pub oom_killed: bool,
    /// When the process was started.
    pub started_at: Timestamp,
    /// When its end was seen.
    pub finished_at: Timestamp,
    /// Why there is no exit status, when the monitor did not live to see one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl ExitRecord {
    /// A record with this exit code, for tests.
    #[doc(hidden)]
    pub fn for_test(exit_code: i32) -> Self {
        let time = Timestamp::UNIX_EPOCH;
        ExitRecord {
            exit_code,
            signal: None,
            oom_killed: false,
            started_at: time,
            finished_at: time,
            error: None,
        }
    }
}
