//! Running a program to its end, with a limit, and what it said.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a program may take that has no reason to take long.
pub const LIMIT: Duration = Duration::from_secs(60);

/// How a program ended and what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit code; the negative number of the signal that ended it, where one did.
    pub code: i32,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output without its last end of line, after asserting that it succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout.strip_suffix('\n').unwrap_or(&self.stdout).to_owned()
    }

    /// The one line of standard error, after asserting that it is one, that nothing was printed, and that this
    /// was the exit code.
    #[track_caller]
    pub fn refused(self, code: i32) -> String {
        assert_eq!((self.code, self.stdout.as_str()), (code, ""), "stderr: {}", self.stderr);
        let line = self.stderr.strip_suffix('\n').unwrap_or_else(|| panic!("no line: {:?}", self.stderr));
        assert!(!line.is_empty() && !line.contains('\n'), "not one line: {:?}", self.stderr);
        for noise in ["panicked", "RUST_BACKTRACE", "os error 0"] {
            assert!(!line.contains(noise), "{line}");
        }
        line.to_owned()
    }

    pub(crate) fn new(status: ExitStatus, stdout: &[u8], stderr: &[u8]) -> Self {
        Output {
            code: status.code().unwrap_or_else(|| -status.signal().unwrap_or(0)),
            stdout: String::from_utf8_lossy(stdout).into_owned(),
            stderr: String::from_utf8_lossy(stderr).into_owned(),
        }
    }
}

/// Runs a program to its end and the end of what it writes.
///
/// # Panics
/// When it cannot be started, or takes longer than `limit`: also when someone else still holds its output open.
#[track_caller]
pub fn run(command: &mut Command, stdin: &[u8], limit: Duration) -> Output {
    let shown = format!("{command:?}");
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("failed to start {shown}: {error}"));
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid fits"));
    let mut input = child.stdin.take().expect("it is piped");
    let stdin = stdin.to_owned();
    // One that does not read its input breaks the pipe, which is its own affair.
    thread::spawn(move || drop(input.write_all(&stdin)));
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || drop(sender.send(child.wait_with_output())));
    match receiver.recv_timeout(limit) {
        Ok(output) => {
            let output = output.unwrap_or_else(|error| panic!("failed to wait for {shown}: {error}"));
            Output::new(output.status, &output.stdout, &output.stderr)
        }
        Err(_) => {
            // It may have ended and left its output to another.
            let _ = kill(pid, Signal::SIGKILL);
            panic!("not at an end after {limit:?}: {shown}");
        }
    }
}

/// Runs a program that the harness itself needs, and returns what it printed.
///
/// # Panics
/// When it fails.
#[track_caller]
pub fn tool<const N: usize>(words: [&str; N]) -> String {
    let output = run(Command::new(words[0]).args(&words[1..]), b"", LIMIT);
    assert_eq!(output.code, 0, "{words:?}: {}", output.stderr);
    output.stdout
}
