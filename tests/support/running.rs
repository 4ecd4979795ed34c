//! A program that runs beside the test.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::program::{LIMIT, Output};

/// A running program; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Collected,
    stderr: Collected,
    shown: String,
}

/// What a stream has brought so far.
#[derive(Debug)]
struct Collected {
    state: Arc<(Mutex<Said>, Condvar)>,
}

#[derive(Debug, Default)]
struct Said {
    bytes: Vec<u8>,
    ended: bool,
}

impl Running {
    /// Starts a program with its three streams piped.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let shown = format!("{command:?}");
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("failed to start {shown}: {error}"));
        let stdin = child.stdin.take();
        let stdout = Collected::from(child.stdout.take().expect("it is piped"));
        let stderr = Collected::from(child.stderr.take().expect("it is piped"));
        Running { child, stdin, stdout, stderr, shown }
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid fits"))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        // One that has ended, but is not yet waited for, takes it and does nothing.
        kill(self.pid(), signal).expect("our own child can be signalled");
    }

    /// Writes to its standard input.
    #[track_caller]
    pub fn write(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("its input is open");
        stdin
            .write_all(text.as_bytes())
            .unwrap_or_else(|error| panic!("{} reads no more: {error}", self.shown));
    }

    /// Ends its standard input.
    pub fn end_input(&mut self) {
        self.stdin = None;
    }

    /// Waits until its standard output holds `text`, and returns all of it so far.
    #[track_caller]
    pub fn wait_for(&self, text: &str) -> String {
        match self.stdout.wait_for(text, LIMIT) {
            Ok(all) => all,
            Err(all) => panic!("{}: no {text:?} in {all:?}; stderr: {:?}", self.shown, self.said_to_stderr()),
        }
    }

    /// All of its standard error so far.
    pub fn said_to_stderr(&self) -> String {
        self.stderr.so_far()
    }

    /// Waits for its end and that of its output.
    #[track_caller]
    pub fn finish(self) -> Output {
        self.finish_within(LIMIT)
    }

    /// The same, with a limit.
    ///
    /// # Panics
    /// When it has not ended by then.
    #[track_caller]
    pub fn finish_within(mut self, limit: Duration) -> Output {
        self.stdin = None;
        let start = Instant::now();
        let status = super::wait::within(limit, &format!("the end of {}", self.shown), || {
            self.child.try_wait().expect("our own child can be waited for")
        });
        let left = limit.saturating_sub(start.elapsed()).max(Duration::from_secs(5));
        let (stdout, stderr) = (self.stdout.end(left), self.stderr.end(left));
        let [Some(stdout), Some(stderr)] = [stdout, stderr] else {
            panic!("{} has ended and somebody still holds its output open", self.shown);
        };
        Output::new(status, &stdout, &stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail when it was waited for, as is usual.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Collected {
    fn from(mut stream: impl Read + Send + 'static) -> Self {
        let state = Arc::new((Mutex::new(Said::default()), Condvar::new()));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            let mut piece = [0; 65536];
            loop {
                let count = stream.read(&mut piece).unwrap_or(0);
                let mut said = shared.0.lock().expect("nobody panics with it");
                said.bytes.extend_from_slice(&piece[..count]);
                said.ended = count == 0;
                shared.1.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
        Collected { state }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.state.0.lock().expect("nobody panics with it").bytes).into_owned()
    }

    /// All so far once it holds `text`; in the error all when it does not and has ended, or the limit is over.
    fn wait_for(&self, text: &str, limit: Duration) -> Result<String, String> {
        let said = self.state.0.lock().expect("nobody panics with it");
        let holds = |said: &Said| String::from_utf8_lossy(&said.bytes).contains(text);
        let waiting = |said: &mut Said| !said.ended && !holds(said);
        let (said, _) = self.state.1.wait_timeout_while(said, limit, waiting).expect("nobody panics with it");
        let all = String::from_utf8_lossy(&said.bytes).into_owned();
        if holds(&said) { Ok(all) } else { Err(all) }
    }

    /// Everything, at the stream's end; none when that does not come.
    fn end(&self, limit: Duration) -> Option<Vec<u8>> {
        let said = self.state.0.lock().expect("nobody panics with it");
        let (mut said, _) =
            self.state.1.wait_timeout_while(said, limit, |said| !said.ended).expect("nobody panics with it");
        if !said.ended {
            return None;
        }
        Some(std::mem::take(&mut said.bytes))
    }
}
