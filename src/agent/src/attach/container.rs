//! The pump between our streams and a container's monitor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::socket::MsgFlags;
use runtime::{ExitRecord, FRAME_BYTES, FailedStart, Frame, StdioSocket};

use super::detach::DetachKeys;
use super::outlet::Outlet;
use super::signals::Signals;

/// Bytes of standard input read and sent at a time.
const INPUT_BYTES: usize = 16 * 1024;
/// So many `SIGINT` and `SIGTERM` mean that the user wants us gone, whatever the container makes of them.
const PATIENCE: u32 = 3;

/// Why a pump ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Ended {
    /// The container has ended and all its output was written.
    Exited(ExitRecord),
    /// The container did not start.
    Failed(FailedStart),
    /// The monitor closed the connection and did not say how the container ended.
    Lost,
    /// The detach keys were pressed.
    Detached,
    /// Whoever read our standard output or error has gone.
    OutputClosed,
    /// With a terminal: this signal was meant for us.
    Signalled(Signal),
    /// The container takes no notice of our being told to end again and again.
    Impatient,
}

/// What is pumped between what.
#[derive(Debug)]
pub(crate) struct ContainerPump<'a> {
    /// The container's monitor.
    pub(crate) monitor: &'a StdioSocket,
    /// Our standard input, where the container gets it.
    pub(crate) stdin: Option<BorrowedFd<'a>>,
    /// Where the container's standard output goes.
    pub(crate) stdout: BorrowedFd<'a>,
    /// Where its standard error goes.
    pub(crate) stderr: BorrowedFd<'a>,
    /// Whether it has a terminal: then keys may detach, and signals are ours.
    pub(crate) tty: bool,
    /// Our terminal, whose size the container's is to have.
    pub(crate) terminal: Option<BorrowedFd<'a>>,
    /// Our signals.
    pub(crate) signals: &'a Signals,
}

/// What is to be sent to the monitor.
#[derive(Debug, Default)]
struct Outgoing {
    resize: bool,
    input: Vec<u8>,
    end: bool,
}

impl Outgoing {
    fn is_empty(&self) -> bool {
        !self.resize && self.input.is_empty() && !self.end
    }
}

impl ContainerPump<'_> {
    /// Pumps until one of the ends of [`Ended`]; `forward` sends a signal to the container.
    pub(crate) fn run(&self, mut forward: impl FnMut(Signal) -> Result<()>) -> Result<Ended> {
        let mut stdin = self.stdin;
        let mut stdout = Outlet::new(self.stdout);
        let mut stderr = Outlet::new(self.stderr);
        let mut outgoing = Outgoing { resize: self.terminal.is_some(), end: false, input: Vec::new() };
        let mut keys = DetachKeys::default();
        let mut frame = vec![0; FRAME_BYTES + 1];
        let mut told = 0;
        loop {
            let writing = stdout.is_pending() || stderr.is_pending();
            let mut monitor_events = PollFlags::empty();
            monitor_events.set(PollFlags::POLLIN, !writing);
            monitor_events.set(PollFlags::POLLOUT, !outgoing.is_empty());
            let reading = stdin.filter(|_| outgoing.input.is_empty());
            let sources = [
                Some((self.signals.as_fd(), PollFlags::POLLIN)),
                (!monitor_events.is_empty()).then_some((self.monitor.as_fd(), monitor_events)),
                reading.map(|fd| (fd, PollFlags::POLLIN)),
                stdout.is_pending().then_some((self.stdout, PollFlags::POLLOUT)),
                stderr.is_pending().then_some((self.stderr, PollFlags::POLLOUT)),
            ];
            let [signal, monitor, typed, out, err] = ready(sources)?;

            if signal {
                while let Some(signal) = self.signals.next().context("failed to read a signal")? {
                    match signal {
                        Signal::SIGWINCH => outgoing.resize = self.terminal.is_some(),
                        own if self.tty => return Ok(Ended::Signalled(own)),
                        other => {
                            told += u32::from(matches!(other, Signal::SIGINT | Signal::SIGTERM));
                            if told == PATIENCE {
                                return Ok(Ended::Impatient);
                            }
                            forward(other)?;
                        }
                    }
                }
            }
            for (outlet, ready) in [(&mut stdout, out), (&mut stderr, err)] {
                if ready && let Err(error) = outlet.write_some() {
                    return match error.kind() {
                        io::ErrorKind::BrokenPipe => Ok(Ended::OutputClosed),
                        _ => Err(error).context("failed to write the container's output"),
                    };
                }
            }
            if typed && let Some(fd) = reading {
                let mut bytes = [0; INPUT_BYTES];
                let count = read(fd, &mut bytes).context("failed to read standard input")?;
                if count == Some(0) {
                    (stdin, outgoing.end) = (None, true);
                }
                let bytes = &bytes[..count.unwrap_or(0)];
                if !self.tty {
                    outgoing.input.extend_from_slice(bytes);
                } else if keys.filter(bytes, &mut outgoing.input) {
                    return Ok(Ended::Detached);
                }
            }
            if !outgoing.is_empty() && !self.send(&mut outgoing)? {
                (stdin, outgoing) = (None, Outgoing::default());
            }
            if monitor && !writing {
                match self.monitor.receive(&mut frame, MsgFlags::MSG_DONTWAIT) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error).context("failed to read from the container's monitor"),
                    Ok(None) => return Ok(Ended::Lost),
                    Ok(Some(Frame::Stdout(bytes))) => stdout.push(bytes),
                    Ok(Some(Frame::Stderr(bytes))) => stderr.push(bytes),
                    Ok(Some(Frame::Exited(record))) => return Ok(Ended::Exited(record)),
                    Ok(Some(Frame::Failed(failed))) => return Ok(Ended::Failed(failed)),
                    // The start was awaited before; the others are ours to say.
                    Ok(Some(
                        Frame::Started(_)
                        | Frame::Attach
                        | Frame::Finish
                        | Frame::Freeze
                        | Frame::Stdin(_)
                        | Frame::StdinEnd
                        | Frame::Resize { .. },
                    )) => {}
                }
            }
        }
    }

    /// Sends as much as there is room for; false when the monitor takes no more, because it has closed.
    fn send(&self, outgoing: &mut Outgoing) -> Result<bool> {
        let send = |frame: &Frame<'_>| match self.monitor.send(frame, MsgFlags::MSG_DONTWAIT) {
            Ok(()) => Ok(Some(true)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => Ok(Some(false)),
                // What the monitor had still to say is to be read, so this is no error.
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Ok(None),
                _ => Err(error).context("failed to write to the container's monitor"),
            },
        };
        if outgoing.resize
            && let Some(terminal) = self.terminal
        {
            let size = sys::tty::window_size(terminal).context("failed to read our terminal's size")?;
            match send(&Frame::Resize { rows: size.rows, cols: size.cols })? {
                None => return Ok(false),
                Some(sent) => outgoing.resize = !sent,
            }
        }
        if !outgoing.input.is_empty() {
            match send(&Frame::Stdin(&outgoing.input))? {
                None => return Ok(false),
                Some(true) => outgoing.input.clear(),
                Some(false) => {}
            }
        }
        if outgoing.end && outgoing.input.is_empty() {
            match send(&Frame::StdinEnd)? {
                None => return Ok(false),
                Some(sent) => outgoing.end = !sent,
            }
        }
        Ok(true)
    }
}

/// Waits for one of the sources (those that are wanted) and says which are ready, in their order.
pub(super) fn ready<const N: usize>(sources: [Option<(BorrowedFd<'_>, PollFlags)>; N]) -> Result<[bool; N]> {
    let mut polled: Vec<PollFd<'_>> =
        sources.iter().flatten().map(|(fd, events)| PollFd::new(*fd, *events)).collect();
    loop {
        match poll(&mut polled, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("failed to wait for input"),
            Ok(_) => break,
        }
    }
    let mut answers = polled.iter().map(|source| source.any().unwrap_or(true));
    Ok(sources.map(|source| source.is_some() && answers.next().unwrap_or(false)))
}

/// Reads once; `None` when there was nothing after all.
pub(super) fn read(fd: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<Option<usize>> {
    match nix::unistd::read(fd, bytes) {
        Ok(count) => Ok(Some(count)),
        Err(nix::errno::Errno::EINTR | nix::errno::Errno::EAGAIN) => Ok(None),
        // A terminal that has hung up.
        Err(nix::errno::Errno::EIO) => Ok(Some(0)),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;
    use std::thread;

    struct Case {
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
        tty: bool,
    }

    /// Runs a pump whose monitor's side `monitor` plays in a thread of its own.
    fn pump<T: Send>(case: Case, monitor: impl FnOnce(StdioSocket) -> T + Send) -> (Ended, T) {
        pump_with(case, |signal| panic!("an unexpected {signal}"), monitor)
    }

    fn pump_with<T: Send>(
        case: Case,
        forward: impl FnMut(Signal) -> Result<()>,
        monitor: impl FnOnce(StdioSocket) -> T + Send,
    ) -> (Ended, T) {
        let (ours, theirs) = StdioSocket::pair().expect("a socket pair");
        let signals = Signals::queue().expect("queued");
        thread::scope(|scope| {
            let monitor = scope.spawn(|| monitor(theirs));
            let pump = ContainerPump {
                monitor: &ours,
                stdin: case.stdin.as_ref().map(AsFd::as_fd),
                stdout: case.stdout.as_fd(),
                stderr: case.stderr.as_fd(),
                tty: case.tty,
                terminal: None,
                signals: &signals,
            };
            let ended = pump.run(forward);
            drop((ours, case));
            (ended.expect("pumped"), monitor.join().expect("the monitor's side"))
        })
    }

    fn null() -> OwnedFd {
        File::options().read(true).write(true).open("/dev/null").expect("a device").into()
    }

    fn pipe_with(bytes: &[u8]) -> OwnedFd {
        let (read, write) = nix::unistd::pipe().expect("a pipe");
        File::from(write).write_all(bytes).expect("written");
        read
    }

    fn receive(socket: &StdioSocket) -> Option<Vec<u8>> {
        let mut buffer = vec![0; FRAME_BYTES + 1];
        match socket.receive(&mut buffer, MsgFlags::empty()).expect("received")? {
            Frame::Stdin(bytes) => Some(bytes.to_vec()),
            Frame::StdinEnd => Some(b"<end>".to_vec()),
            other => panic!("unexpected {other:?}"),
        }
    }

    #[test]
    fn output_goes_to_its_stream_and_the_exit_ends_it() {
        let (out_read, out) = nix::unistd::pipe().expect("a pipe");
        let (err_read, err) = nix::unistd::pipe().expect("a pipe");
        let case = Case { stdin: None, stdout: out, stderr: err, tty: false };
        let (ended, ()) = pump(case, |monitor| {
            for frame in [Frame::Stdout(b"one "), Frame::Stderr(b"bad"), Frame::Stdout(b"two")] {
                monitor.send(&frame, MsgFlags::empty()).expect("sent");
            }
            monitor.send(&Frame::Exited(ExitRecord::for_test(3)), MsgFlags::empty()).expect("sent");
        });
        assert_eq!(ended, Ended::Exited(ExitRecord::for_test(3)));
        assert_eq!(io::read_to_string(File::from(out_read)).expect("text"), "one two");
        assert_eq!(io::read_to_string(File::from(err_read)).expect("text"), "bad");
    }

    #[test]
    fn input_is_sent_and_its_end_told() {
        let case = Case { stdin: Some(pipe_with(b"typed")), stdout: null(), stderr: null(), tty: false };
        let (ended, got) = pump(case, |monitor| (receive(&monitor), receive(&monitor)));
        assert_eq!(got, (Some(b"typed".to_vec()), Some(b"<end>".to_vec())));
        assert_eq!(ended, Ended::Lost);
    }

    #[test]
    fn much_input_waits_for_a_slow_container() {
        let bytes: Vec<u8> = (0..3_000_000u32).map(|at| at as u8).collect();
        let (read, write) = nix::unistd::pipe().expect("a pipe");
        let writer = thread::spawn({
            let bytes = bytes.clone();
            move || File::from(write).write_all(&bytes).expect("written")
        });
        let case = Case { stdin: Some(read), stdout: null(), stderr: null(), tty: false };
        let (_, got) = pump(case, |monitor| {
            let mut got = Vec::new();
            while let Some(bytes) = receive(&monitor).filter(|bytes| bytes != b"<end>") {
                got.extend(bytes);
            }
            got
        });
        writer.join().expect("written");
        assert!(got == bytes, "{} bytes arrived of {}", got.len(), bytes.len());
    }

    #[test]
    fn blocked_output_holds_the_container_back() {
        let (out_read, out) = nix::unistd::pipe().expect("a pipe");
        let case = Case { stdin: None, stdout: out, stderr: null(), tty: false };
        let chunk = vec![b'x'; FRAME_BYTES];
        let (ended, (at_once, all)) = pump(case, move |monitor| {
            // Nobody reads: the pipe, the pump's one frame and the socket fill up, and then there is no room.
            let mut sent = 0;
            let full = PollFlags::POLLOUT;
            let room = || {
                let mut polled = [PollFd::new(monitor.as_fd(), full)];
                poll(&mut polled, 300u16).expect("polled") > 0
            };
            while room() && monitor.send(&Frame::Stdout(&chunk), MsgFlags::MSG_DONTWAIT).is_ok() {
                sent += chunk.len();
            }
            let reader = thread::spawn(move || {
                let mut all = Vec::new();
                File::from(out_read).read_to_end(&mut all).expect("readable");
                all.len()
            });
            monitor.send(&Frame::Exited(ExitRecord::for_test(0)), MsgFlags::empty()).expect("sent");
            (sent, reader)
        });
        assert_eq!(ended, Ended::Exited(ExitRecord::for_test(0)));
        assert!(at_once < 1 << 20, "{at_once} bytes were taken while nobody read");
        assert_eq!(all.join().expect("read"), at_once);
    }

    #[test]
    fn a_reader_that_has_gone_ends_it() {
        let (out_read, out) = nix::unistd::pipe().expect("a pipe");
        drop(out_read);
        let case = Case { stdin: None, stdout: out, stderr: null(), tty: false };
        let (ended, ()) = pump(case, |monitor| {
            monitor.send(&Frame::Stdout(b"x"), MsgFlags::empty()).expect("sent");
            assert_eq!(receive(&monitor), None);
        });
        assert_eq!(ended, Ended::OutputClosed);
    }

    #[test]
    fn the_keys_detach_only_from_a_terminal() {
        let case = |tty| Case { stdin: Some(pipe_with(b"a\x10\x11b")), stdout: null(), stderr: null(), tty };
        assert_eq!(pump(case(true), |monitor| receive(&monitor)).0, Ended::Detached);
        let (ended, got) = pump(case(false), |monitor| receive(&monitor));
        assert_eq!((ended, got), (Ended::Lost, Some(b"a\x10\x11b".to_vec())));
    }

    #[test]
    fn signals_are_forwarded_until_patience_ends() {
        use nix::sys::pthread::{pthread_kill, pthread_self};
        use std::sync::mpsc;

        // The pump polls in this thread: only here are the signals blocked.
        let pump_thread = pthread_self();
        let check = |tty: bool, sent: &'static [Signal], forwarded: usize, expected: Ended| {
            let case = Case { stdin: None, stdout: null(), stderr: null(), tty };
            let (told, tells) = mpsc::channel();
            let play = move |monitor: StdioSocket| {
                for (at, signal) in sent.iter().enumerate() {
                    pthread_kill(pump_thread, *signal).expect("sent");
                    if at < forwarded {
                        assert_eq!(tells.recv(), Ok(*signal));
                    }
                }
                if forwarded == sent.len() {
                    monitor.send(&Frame::Exited(ExitRecord::for_test(0)), MsgFlags::empty()).expect("sent");
                }
                assert_eq!(receive(&monitor), None);
            };
            let (ended, ()) = pump_with(case, |signal| Ok(told.send(signal)?), play);
            assert_eq!(ended, expected, "{sent:?}");
        };
        let exited = Ended::Exited(ExitRecord::for_test(0));
        check(false, &[Signal::SIGUSR1, Signal::SIGTERM, Signal::SIGUSR1], 3, exited);
        check(false, &[Signal::SIGINT, Signal::SIGTERM, Signal::SIGINT], 2, Ended::Impatient);
        check(true, &[Signal::SIGTERM], 0, Ended::Signalled(Signal::SIGTERM));
    }
}
