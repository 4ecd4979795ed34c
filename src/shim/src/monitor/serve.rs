//! The monitor's loop: output from the container to the log and the clients, input from the clients to the container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use container::cgroup::Cgroup;
use container::{ExitRecord, StdioListener, StdioSocket};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::WaitStatus;
use sys::tty::{WindowSize, set_window_size};

use super::clients::{Client, Request};
use super::log::{Log, Stream};
use crate::failure::{During, Failure};
use crate::start::set_nonblocking;

/// How much output is read at once.
const CHUNK: usize = 32 * 1024;

/// Our ends of the container's stdio.
#[derive(Debug, Default)]
pub struct Streams {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    terminal: Option<Terminal>,
}

/// A terminal of the container.
#[derive(Debug)]
struct Terminal {
    master: OwnedFd,
    /// Its other end, held open so that output does not end when the container closes it for a while.
    _peer: OwnedFd,
}

impl Streams {
    /// None at all.
    pub fn none() -> Self {
        Streams::default()
    }

    /// A pipe each; nobody is kept waiting by them.
    pub fn pipes(stdin: Option<OwnedFd>, stdout: OwnedFd, stderr: OwnedFd) -> Result<Self, Failure> {
        for fd in stdin.iter().chain([&stdout, &stderr]) {
            set_nonblocking(fd)?;
        }
        Ok(Streams { stdin, stdout: Some(stdout), stderr: Some(stderr), terminal: None })
    }

    /// The master of a terminal.
    pub fn terminal(master: OwnedFd) -> Result<Self, Failure> {
        set_nonblocking(&master)?;
        let peer = sys::pty::open_peer(&master).during("open the terminal's other end")?;
        let stdout = master.try_clone().during("copy the terminal's descriptor")?;
        let stdin = master.try_clone().during("copy the terminal's descriptor")?;
        let terminal = Some(Terminal { master, _peer: peer });
        Ok(Streams { stdin: Some(stdin), stdout: Some(stdout), stderr: None, terminal })
    }

    fn output(&self, stream: Stream) -> Option<&OwnedFd> {
        match stream {
            Stream::Stdout => self.stdout.as_ref(),
            Stream::Stderr => self.stderr.as_ref(),
        }
    }
}

/// Everything the loop looks after.
#[derive(Debug)]
pub struct Serving {
    /// Closed when no more clients can be had.
    listener: Option<StdioListener>,
    streams: Streams,
    log: Log,
    clients: Vec<Client>,
    /// Input that the container has not taken yet; while there is any, no more is read from clients that gave some: it
    /// is at most a frame of each.
    input: Vec<u8>,
    /// Whether standard input is to be closed once that is taken.
    input_ends: bool,
    pid: i32,
    /// Whether clients that do not read are no longer waited for.
    hurry: bool,
    /// Whether it is for a client that the container stands still.
    frozen: bool,
}

/// What one descriptor of a poll stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    End,
    Output(Stream),
    Input,
    Listener,
    Client(usize),
}

/// What there was to pass on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pumped {
    /// Output.
    Some,
    /// None for now.
    Nothing,
    /// None any more.
    End,
}

impl Serving {
    /// Begins to serve; `client` is attached from the start.
    pub fn new(
        listener: StdioListener,
        streams: Streams,
        log: Log,
        client: Option<StdioSocket>,
        pid: i32,
    ) -> Result<Self, Failure> {
        let mut clients: Vec<Client> = client.map(|socket| Client::new(socket, true)).into_iter().collect();
        for client in &mut clients {
            client.started(pid);
        }
        let listener = Some(listener);
        let (input, input_ends, hurry, frozen) = (Vec::new(), false, false, false);
        Ok(Serving { listener, streams, log, clients, input, input_ends, pid, hurry, frozen })
    }

    /// Serves until the container's first process has ended, and takes its status.
    pub fn until_end(&mut self, pidfd: &OwnedFd, cgroup: &Cgroup) -> Result<WaitStatus, Failure> {
        loop {
            if self.turn(Some(pidfd.as_fd()))? {
                return crate::start::reap(pidfd).during("reap the first process");
            }
            self.freeze_or_thaw(cgroup);
        }
    }

    /// Lets the container stand still while a client wants it to. One that somebody else has frozen stays so.
    fn freeze_or_thaw(&mut self, cgroup: &Cgroup) {
        let wanted = self.clients.iter().any(Client::freezes);
        let done = match (wanted, self.frozen) {
            (true, false) => cgroup.is_frozen().and_then(|by_others| match by_others {
                true => Ok(false),
                false => cgroup.freeze().map(|()| true),
            }),
            (false, true) => cgroup.thaw().map(|()| false),
            _ => return,
        };
        match done {
            Ok(frozen) => self.frozen = frozen,
            // Whoever asked sees that it does not stand still; it goes on for all others.
            Err(error) => eprintln!("shim: {error}"),
        }
    }

    /// The container has ended and with it all that could write: passes on what is left of its output, then its end.
    pub fn finish(mut self, exit: &ExitRecord) -> Result<(), Failure> {
        // Whoever still held a pipe would have to be outside the container; then what is there now is all.
        while self.streams.stdout.is_some() || self.streams.stderr.is_some() {
            self.unblock()?;
            for stream in [Stream::Stdout, Stream::Stderr] {
                if !self.is_blocked() && self.pump(stream)? != Pumped::Some {
                    self.close(stream);
                }
            }
        }
        self.unblock()?;
        for client in &mut self.clients {
            client.exited(exit);
        }
        self.unblock()
    }

    /// Waits until no client is behind, or until somebody says that it is not worth waiting.
    fn unblock(&mut self) -> Result<(), Failure> {
        while self.is_blocked() {
            if self.hurry {
                self.clients.iter_mut().for_each(Client::drop_pending);
            } else {
                self.turn(None)?;
            }
        }
        Ok(())
    }

    /// Waits for something to happen and deals with it; whether the process has ended.
    fn turn(&mut self, pidfd: Option<BorrowedFd<'_>>) -> Result<bool, Failure> {
        let mut sources = Vec::with_capacity(5 + self.clients.len());
        let mut fds = Vec::with_capacity(5 + self.clients.len());
        let mut watch = |source, fd, flags| {
            sources.push(source);
            fds.push(PollFd::new(fd, flags));
        };
        if let Some(pidfd) = pidfd {
            watch(Source::End, pidfd, PollFlags::POLLIN);
        }
        let blocked = self.is_blocked();
        for stream in [Stream::Stdout, Stream::Stderr] {
            if let Some(fd) = self.streams.output(stream).filter(|_| !blocked) {
                watch(Source::Output(stream), fd.as_fd(), PollFlags::POLLIN);
            }
        }
        if let Some(stdin) = self.streams.stdin.as_ref().filter(|_| !self.input.is_empty()) {
            watch(Source::Input, stdin.as_fd(), PollFlags::POLLOUT);
        }
        if let Some(listener) = &self.listener {
            watch(Source::Listener, listener.as_fd(), PollFlags::POLLIN);
        }
        for (at, client) in self.clients.iter().enumerate() {
            // A hang-up is told whether it is asked for or not, and what was sent before it can wait.
            if client.has_hung_up() && self.is_held_back(client) {
                continue;
            }
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, !self.is_held_back(client));
            flags.set(PollFlags::POLLOUT, client.is_blocked());
            watch(Source::Client(at), client.as_fd(), flags);
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => return Ok(false),
            other => other.during("wait for the container")?,
        };
        let ready: Vec<(Source, PollFlags)> = sources
            .iter()
            .zip(&fds)
            .filter_map(|(source, fd)| {
                Some((*source, fd.revents()?)).filter(|(_, events)| !events.is_empty())
            })
            .collect();
        drop(fds);

        let mut ended = false;
        for (source, events) in ready {
            match source {
                Source::End => ended = true,
                Source::Output(stream) => {
                    if !self.is_blocked() && self.pump(stream)? == Pumped::End {
                        self.close(stream);
                    }
                }
                Source::Input => self.feed()?,
                Source::Listener => self.accept(),
                Source::Client(at) => {
                    if events.contains(PollFlags::POLLOUT) {
                        self.clients[at].flush();
                    }
                    if events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
                        self.clients[at].hang_up();
                    }
                    if !self.is_held_back(&self.clients[at]) {
                        let request = self.clients[at].receive();
                        self.serve(request)?;
                    }
                }
            }
        }
        self.clients.retain(|client| !client.is_gone());
        Ok(ended)
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        match listener.accept() {
            Ok(socket) => {
                let mut client = Client::new(socket, false);
                client.started(self.pid);
                self.clients.push(client);
            }
            Err(error) if error.raw_os_error() == Some(Errno::ECONNABORTED as i32) => {}
            // Without room for descriptors the next try would fail at once, and so on: the container matters more than
            // who may look at it. Who connects from now on is refused.
            Err(_) => self.listener = None,
        }
    }

    /// Whether a client has to wait until the container takes the input that there is. Others may want something else.
    fn is_held_back(&self, client: &Client) -> bool {
        client.gives_input() && !self.input.is_empty()
    }

    fn is_blocked(&self) -> bool {
        self.clients.iter().any(Client::is_blocked)
    }

    /// Passes on one chunk of output.
    fn pump(&mut self, stream: Stream) -> Result<Pumped, Failure> {
        let Some(fd) = self.streams.output(stream) else { return Ok(Pumped::End) };
        let mut buffer = [0; CHUNK];
        let length = match nix::unistd::read(fd, &mut buffer) {
            Ok(0) => return Ok(Pumped::End),
            Err(Errno::EAGAIN) => return Ok(Pumped::Nothing),
            Err(Errno::EINTR) => return Ok(Pumped::Some),
            other => other.during("read the container's output")?,
        };
        self.log.append(stream, &buffer[..length]);
        for client in &mut self.clients {
            client.output(stream, &buffer[..length]);
        }
        Ok(Pumped::Some)
    }

    fn close(&mut self, stream: Stream) {
        match stream {
            Stream::Stdout => self.streams.stdout = None,
            Stream::Stderr => self.streams.stderr = None,
        }
    }

    fn serve(&mut self, request: Request) -> Result<(), Failure> {
        match request {
            Request::Input(bytes) => {
                if self.streams.stdin.is_some() && !self.input_ends {
                    self.input.extend(bytes);
                    self.feed()?;
                }
            }
            Request::InputEnd => {
                self.input_ends = true;
                self.feed()?;
            }
            Request::Resize(rows, cols) => {
                if let Some(terminal) = &self.streams.terminal {
                    // A size that cannot be had leaves the old one.
                    drop(set_window_size(terminal.master.as_fd(), WindowSize { rows, cols }));
                }
            }
            Request::Finish => self.hurry = true,
            Request::Nothing => {}
        }
        Ok(())
    }

    /// Gives the container as much of the waiting input as it takes.
    fn feed(&mut self) -> Result<(), Failure> {
        let Some(stdin) = &self.streams.stdin else {
            self.input.clear();
            return Ok(());
        };
        while !self.input.is_empty() {
            match nix::unistd::write(stdin, &self.input) {
                Ok(length) => drop(self.input.drain(..length)),
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                // It has closed its standard input: nobody will read the rest.
                Err(Errno::EPIPE | Errno::EIO) => {
                    self.input.clear();
                    self.streams.stdin = None;
                    return Ok(());
                }
                Err(errno) => return Err(errno).during("write to the container's standard input"),
            }
        }
        if self.input_ends && self.streams.terminal.is_none() {
            self.streams.stdin = None;
        }
        Ok(())
    }
}
