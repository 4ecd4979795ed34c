//! What the program's exit code tells, as docker's does.

use std::process::ExitCode;

use nix::sys::signal::Signal;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: all was done.
    Success,
    /// 1: something was not done; a line on standard error says what and why. Wrong arguments too, except those
    /// of `run` and `exec`.
    Failure,
    /// 125: `run` or `exec` itself failed, wrong arguments among the reasons; no process of the user's ran.
    AgentFailed,
    /// 126: the command of `run` or `exec` was found and cannot be executed.
    NotExecutable,
    /// 127: the command of `run` or `exec` was not found.
    NotFound,
    /// What the command of `run` or `exec` ended with: its exit code, or 128 plus the number of the signal that
    /// ended it.
    Command(u8),
    /// 128 plus the number of the signal that ended us and not the command, which may still run. `SIGPIPE`: our
    /// output has no reader any more.
    Signalled(Signal),
}

impl Exit {
    /// What a command that ended with `status` (0 to 255; of others the low byte counts, as for wait(2)) says.
    pub(crate) fn of_command(status: i32) -> Self {
        match status.to_le_bytes()[0] {
            0 => Exit::Success,
            code => Exit::Command(code),
        }
    }

    /// Success when `all` went well.
    pub(crate) fn all(all: bool) -> Self {
        if all { Exit::Success } else { Exit::Failure }
    }

    /// The number itself.
    pub(crate) fn code(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::Failure => 1,
            Exit::AgentFailed => 125,
            Exit::NotExecutable => 126,
            Exit::NotFound => 127,
            Exit::Command(code) => code,
            // Signals are numbered below 65.
            Exit::Signalled(signal) => 128 + signal as u8,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_dockers() {
        let check = |exit: Exit, code: u8| assert_eq!(exit.code(), code, "{exit:?}");
        check(Exit::of_command(0), 0);
        check(Exit::of_command(3), 3);
        check(Exit::of_command(137), 137);
        check(Exit::of_command(256 + 7), 7);
        check(Exit::all(false), 1);
        check(Exit::AgentFailed, 125);
        check(Exit::NotExecutable, 126);
        check(Exit::NotFound, 127);
        check(Exit::Signalled(Signal::SIGTERM), 143);
    }
}
