//! What `exec` passes between its own standard input, output and error and the process's. The process gets pipes, never
//! our descriptors: those may be files or a terminal of the host, which it could write, change or keep.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};

use crate::failure::{During, Failure};
use crate::start::{Stdio, set_nonblocking};

/// What a pipe takes without blocking when poll(2) says that it takes anything.
const CHUNK: usize = libc::PIPE_BUF;

/// One direction: read from here, written there, a chunk at a time.
#[derive(Debug)]
struct Flow<'a> {
    from: Option<End<'a>>,
    to: Option<End<'a>>,
    chunk: Vec<u8>,
}

/// A descriptor of ours, or one end of a pipe to the process, which closes with this.
#[derive(Debug)]
enum End<'a> {
    Ours(BorrowedFd<'a>),
    Pipe(OwnedFd),
}

impl AsFd for End<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            End::Ours(fd) => fd.as_fd(),
            End::Pipe(fd) => fd.as_fd(),
        }
    }
}

/// The three directions.
#[derive(Debug)]
pub struct Pump<'a> {
    flows: Vec<Flow<'a>>,
}

impl<'a> Pump<'a> {
    /// Makes pipes for a process; returns what it gets, and the pump of our ends.
    pub fn new(
        stdin: &'a io::Stdin,
        stdout: &'a io::Stdout,
        stderr: &'a io::Stderr,
    ) -> Result<(Stdio, Self), Failure> {
        let pipe = || io::pipe().during("make a pipe");
        let (childs_stdin, input) = pipe()?;
        let (output, childs_stdout) = pipe()?;
        let (errors, childs_stderr) = pipe()?;
        let (input, output, errors) = (OwnedFd::from(input), OwnedFd::from(output), OwnedFd::from(errors));
        for fd in [&input, &output, &errors] {
            set_nonblocking(fd)?;
        }
        let flow = |from, to| Flow { from: Some(from), to: Some(to), chunk: Vec::new() };
        let flows = vec![
            flow(End::Ours(stdin.as_fd()), End::Pipe(input)),
            flow(End::Pipe(output), End::Ours(stdout.as_fd())),
            flow(End::Pipe(errors), End::Ours(stderr.as_fd())),
        ];
        let stdio = Stdio::Pipes {
            stdin: childs_stdin.into(),
            stdout: childs_stdout.into(),
            stderr: childs_stderr.into(),
        };
        Ok((stdio, Pump { flows }))
    }

    /// What to wait for: for each flow at most one descriptor, in the order of [`Pump::turn`]'s argument.
    pub fn watch(&self) -> Vec<PollFd<'_>> {
        self.flows.iter().filter_map(Flow::watch).collect()
    }

    /// Moves what can be moved; `ready` says, for each descriptor of [`Pump::watch`], whether something happened to it.
    pub fn turn(&mut self, ready: &[bool]) -> Result<(), Failure> {
        let watched: Vec<usize> =
            (0..self.flows.len()).filter(|at| self.flows[*at].watch().is_some()).collect();
        for (at, ready) in watched.into_iter().zip(ready) {
            if *ready {
                self.flows[at].step()?;
            }
        }
        Ok(())
    }

    /// The process has ended: passes on the output that is still in its pipes, waiting for our readers. What a process that
    /// it left behind may write later is not waited for.
    pub fn drain(mut self) -> Result<(), Failure> {
        self.flows.remove(0);
        for flow in &mut self.flows {
            loop {
                // What was read comes before what there may be to read: the end closes the flow.
                while flow.to.is_some() && !flow.chunk.is_empty() {
                    flow.empty()?;
                }
                if flow.to.is_none() || !flow.fill()? {
                    break;
                }
            }
        }
        Ok(())
    }
}

impl Flow<'_> {
    fn watch(&self) -> Option<PollFd<'_>> {
        let to = self.to.as_ref()?;
        if self.chunk.is_empty() {
            let from = self.from.as_ref()?;
            Some(PollFd::new(from.as_fd(), PollFlags::POLLIN))
        } else {
            Some(PollFd::new(to.as_fd(), PollFlags::POLLOUT))
        }
    }

    fn step(&mut self) -> Result<(), Failure> {
        if self.chunk.is_empty() { self.fill().map(drop) } else { self.empty() }
    }

    /// Reads a chunk; whether there was one.
    fn fill(&mut self) -> Result<bool, Failure> {
        let Some(from) = &self.from else { return Ok(false) };
        let mut buffer = [0; CHUNK];
        match nix::unistd::read(from, &mut buffer) {
            // The end goes on: a pipe to the process closes, an output of ours stays as it is.
            Ok(0) => {
                (self.from, self.to) = (None, None);
                Ok(false)
            }
            Ok(length) => {
                self.chunk.extend_from_slice(&buffer[..length]);
                Ok(true)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(false),
            // A terminal that went away, or that is not ours to read.
            Err(Errno::EIO) => {
                (self.from, self.to) = (None, None);
                Ok(false)
            }
            Err(errno) => Err(errno).during("read standard input or the process's output"),
        }
    }

    /// Writes what waits, as far as it goes.
    fn empty(&mut self) -> Result<(), Failure> {
        let Some(to) = &self.to else { return Ok(()) };
        match nix::unistd::write(to, &self.chunk) {
            Ok(length) => drop(self.chunk.drain(..length)),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // Nobody reads there any more: whoever writes on the other side learns it by its own SIGPIPE.
            Err(Errno::EPIPE | Errno::EIO) => {
                (self.from, self.to) = (None, None);
                self.chunk.clear();
            }
            Err(errno) => return Err(errno).during("write the process's input or output"),
        }
        Ok(())
    }
}
