//! Why a process could not be started: one line, and the exit code that docker's users expect.

use std::fmt::Display;

use container::FailedStart;

/// A start that failed.
#[derive(Debug)]
pub struct Failure {
    code: i32,
    message: String,
}

/// The runtime failed.
pub const RUNTIME: i32 = 125;
/// The command is there and cannot be executed.
pub const NOT_EXECUTABLE: i32 = 126;
/// The command is not there.
pub const NOT_FOUND: i32 = 127;

impl Failure {
    /// A failure of our own.
    pub fn new(message: impl Into<String>) -> Self {
        Failure { code: RUNTIME, message: message.into() }
    }

    /// One with an exit code of its own.
    pub fn with_code(code: i32, message: impl Into<String>) -> Self {
        Failure { code, message: message.into() }
    }

    /// As the parent is told.
    pub fn into_failed_start(self) -> FailedStart {
        FailedStart { exit_code: self.code, message: self.message }
    }
}

/// Says what was being done when something failed.
pub trait During<T> {
    /// Wraps the error, with its whole chain of causes in one line.
    fn during(self, what: impl Display) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> During<T> for Result<T, E> {
    fn during(self, what: impl Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(format!("failed to {what}: {:#}", error.into())))
    }
}
