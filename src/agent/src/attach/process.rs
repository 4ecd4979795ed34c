//! The pump between our streams and an exec'ed process: its terminal where it has one, else its signals
//! alone, because then it writes to our streams itself.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;
use nix::sys::signal::Signal;

use super::container::{read, ready};
use super::outlet::Outlet;
use super::signals::Signals;

/// Bytes read from a terminal at a time.
const CHUNK_BYTES: usize = 4096;

/// Why a pump ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProcessEnded {
    /// The process has ended; its status can be had.
    Exited,
    /// Whoever read our standard output has gone.
    OutputClosed,
    /// With a terminal: this signal was meant for us.
    Signalled(Signal),
}

/// What is pumped between what.
#[derive(Debug)]
pub(crate) struct ProcessPump<'a> {
    /// Readable once the process has ended.
    pub(crate) ended: BorrowedFd<'a>,
    /// The master side of the process's terminal.
    pub(crate) master: Option<BorrowedFd<'a>>,
    /// Our standard input, where the terminal gets it.
    pub(crate) stdin: Option<BorrowedFd<'a>>,
    /// Where the terminal's output goes.
    pub(crate) stdout: BorrowedFd<'a>,
    /// Our own terminal, whose size the process's is to have.
    pub(crate) terminal: Option<BorrowedFd<'a>>,
    /// Our signals.
    pub(crate) signals: &'a Signals,
}

impl ProcessPump<'_> {
    /// Pumps until one of the ends of [`ProcessEnded`]; `forward` sends a signal to a process without a terminal.
    pub(crate) fn run(&self, mut forward: impl FnMut(Signal) -> Result<()>) -> Result<ProcessEnded> {
        match self.master {
            Some(master) => self.pump_terminal(master),
            None => self.pump_signals(&mut forward),
        }
    }

    fn pump_signals(&self, forward: &mut impl FnMut(Signal) -> Result<()>) -> Result<ProcessEnded> {
        loop {
            let [signal, ended] = ready([
                Some((self.signals.as_fd(), PollFlags::POLLIN)),
                Some((self.ended, PollFlags::POLLIN)),
            ])?;
            if ended {
                return Ok(ProcessEnded::Exited);
            }
            if signal {
                while let Some(signal) = self.signals.next().context("failed to read a signal")? {
                    if signal != Signal::SIGWINCH {
                        forward(signal)?;
                    }
                }
            }
        }
    }

    fn pump_terminal(&self, master: BorrowedFd<'_>) -> Result<ProcessEnded> {
        // A full terminal must not stop us from reading what the process writes to it.
        fcntl(master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK | OFlag::O_RDWR))
            .context("failed to set up the process's terminal")?;
        self.resize(master)?;
        let mut stdin = self.stdin;
        let mut stdout = Outlet::new(self.stdout);
        let mut typed = Outlet::new(master);
        let (mut open, mut ended) = (true, false);
        loop {
            if ended && !stdout.is_pending() {
                // What it wrote is all there: nothing to read means the end, although a child of its own may
                // still hold the terminal.
                open = open && take(master, &mut stdout)? == Took::Some;
                if !open {
                    return Ok(ProcessEnded::Exited);
                }
            }
            let wanted = |fd, events, wanted: bool| wanted.then_some((fd, events));
            let reading = stdin.filter(|_| !typed.is_pending() && open);
            let [signal, end, output, input, room, writable] = ready([
                Some((self.signals.as_fd(), PollFlags::POLLIN)),
                wanted(self.ended, PollFlags::POLLIN, !ended),
                wanted(master, PollFlags::POLLIN, open && !stdout.is_pending()),
                reading.map(|fd| (fd, PollFlags::POLLIN)),
                wanted(master, PollFlags::POLLOUT, open && typed.is_pending()),
                wanted(self.stdout, PollFlags::POLLOUT, stdout.is_pending()),
            ])?;
            if signal {
                while let Some(signal) = self.signals.next().context("failed to read a signal")? {
                    match signal {
                        Signal::SIGWINCH => self.resize(master)?,
                        own => return Ok(ProcessEnded::Signalled(own)),
                    }
                }
            }
            if writable && let Err(error) = stdout.write_some() {
                return match error.kind() {
                    io::ErrorKind::BrokenPipe => Ok(ProcessEnded::OutputClosed),
                    _ => Err(error).context("failed to write the process's output"),
                };
            }
            if output {
                open = take(master, &mut stdout)? != Took::End;
            }
            if input && let Some(fd) = reading {
                let mut bytes = [0; CHUNK_BYTES];
                match read(fd, &mut bytes).context("failed to read standard input")? {
                    None => {}
                    Some(0) => stdin = None,
                    Some(count) => typed.push(&bytes[..count]),
                }
            }
            if room && typed.write_some().is_err() {
                stdin = None;
            }
            ended |= end;
        }
    }

    fn resize(&self, master: BorrowedFd<'_>) -> Result<()> {
        let Some(terminal) = self.terminal else { return Ok(()) };
        let size = sys::tty::window_size(terminal).context("failed to read our terminal's size")?;
        sys::tty::set_window_size(master, size).context("failed to set the process's terminal's size")
    }
}

/// What a read from a terminal gave.
#[derive(PartialEq, Eq)]
enum Took {
    Some,
    Nothing,
    End,
}

/// Moves what the terminal has to say into `outlet`.
fn take(master: BorrowedFd<'_>, outlet: &mut Outlet<'_>) -> Result<Took> {
    let mut bytes = [0; CHUNK_BYTES];
    Ok(match read(master, &mut bytes).context("failed to read from the process's terminal")? {
        None => Took::Nothing,
        Some(0) => Took::End,
        Some(count) => {
            outlet.push(&bytes[..count]);
            Took::Some
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};
    use std::thread;

    /// Runs `script` in a shell whose streams are a pty's slave, and gives what comes out.
    fn in_terminal(script: &str, typed: &str) -> (ProcessEnded, String) {
        let pty = nix::pty::openpty(None, None).expect("a pty");
        let stream = || Stdio::from(pty.slave.try_clone().expect("cloned"));
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdin(stream())
            .stdout(stream())
            .stderr(stream())
            .spawn()
            .expect("sh");
        drop(pty.slave);
        let (typed_read, typed_write) = nix::unistd::pipe().expect("a pipe");
        File::from(typed_write).write_all(typed.as_bytes()).expect("written");
        let (out_read, out) = nix::unistd::pipe().expect("a pipe");
        // A pipe whose writer closes is as readable as a pidfd whose process ends.
        let (ended, ends) = nix::unistd::pipe().expect("a pipe");
        let waiter = thread::spawn(move || {
            child.wait().expect("waited");
            drop(ends);
        });
        let reader = thread::spawn(move || {
            let mut text = String::new();
            File::from(out_read).read_to_string(&mut text).expect("text");
            text
        });
        let signals = Signals::queue().expect("queued");
        let pump = ProcessPump {
            ended: ended.as_fd(),
            master: Some(pty.master.as_fd()),
            stdin: Some(typed_read.as_fd()),
            stdout: out.as_fd(),
            terminal: None,
            signals: &signals,
        };
        let end = pump.run(|_| Ok(())).expect("pumped");
        drop(out);
        waiter.join().expect("waited");
        (end, reader.join().expect("read"))
    }

    #[test]
    fn all_output_arrives_before_the_end() {
        let (end, text) = in_terminal("seq 1 20000", "");
        assert_eq!(end, ProcessEnded::Exited);
        assert_eq!(text.lines().count(), 20000);
        assert!(text.ends_with("20000\r\n"));
    }

    #[test]
    fn what_is_typed_arrives() {
        let (_, text) = in_terminal("read line; echo got $line", "hello\n");
        assert!(text.contains("got hello\r\n"), "{text:?}");
    }

    #[test]
    fn a_child_that_keeps_the_terminal_does_not_keep_us() {
        let (_, text) = in_terminal("sleep 30 & echo $!", "");
        let pid = nix::unistd::Pid::from_raw(text.trim().parse().expect("a pid"));
        nix::sys::signal::kill(pid, Signal::SIGKILL).expect("it still ran");
    }
}
