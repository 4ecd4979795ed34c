//! The stdio of a container as its monitor offers it: a sequence of [`Frame`]s over a Unix socket.
//!
//! The socket is of type `SOCK_SEQPACKET`, so that one frame is one packet: a kind byte, then the payload.
//! From client to monitor go [`Frame::Attach`], [`Frame::Stdin`], [`Frame::StdinEnd`],
//! [`Frame::Resize`], [`Frame::Freeze`] and [`Frame::Finish`]; from monitor to
//! client [`Frame::Stdout`], [`Frame::Stderr`], [`Frame::Started`] and at last [`Frame::Exited`] or
//! [`Frame::Failed`], after which the monitor closes its end.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr};

use crate::exit::ExitRecord;

/// The most bytes of payload in one frame.
pub const FRAME_BYTES: usize = 64 * 1024;

/// What one packet says.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame<'a> {
    /// Whoever sends this has ended the container and waits for it to be cleaned up: clients that do not read are no
    /// longer waited for.
    Finish,
    /// The container's processes are to stand still as long as this client is connected.
    Freeze,
    /// From here on this client wants the container's output; one that never asks hears only of start and end.
    Attach,
    /// Bytes for the container's standard input.
    Stdin(&'a [u8]),
    /// No more standard input will come from this client.
    StdinEnd,
    /// The client's terminal has this size, in character cells.
    Resize {
        /// Rows of the terminal.
        rows: u16,
        /// Columns of the terminal.
        cols: u16,
    },
    /// Bytes the container wrote to its standard output (or to its terminal).
    Stdout(&'a [u8]),
    /// Bytes the container wrote to its standard error.
    Stderr(&'a [u8]),
    /// The container's process runs; this is its pid as the monitor sees it.
    Started(i32),
    /// The container's process has ended and all its output was sent.
    Exited(ExitRecord),
    /// The container could not be started; one line for the user.
    Failed(FailedStart),
}

/// Why a container could not be started.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FailedStart {
    /// The exit code that docker's users expect: 125 the runtime failed, 126 the command cannot be
    /// executed, 127 it was not found.
    pub exit_code: i32,
    /// One line: what failed, and how to mend it where that is known.
    pub message: String,
}

const STDIN: u8 = 0;
const STDIN_END: u8 = 1;
const RESIZE: u8 = 2;
const STDOUT: u8 = 3;
const STDERR: u8 = 4;
const STARTED: u8 = 5;
const EXITED: u8 = 6;
const FAILED: u8 = 7;
const ATTACH: u8 = 8;
const FINISH: u8 = 9;
const FREEZE: u8 = 10;

/// One end of a connection that carries frames.
#[derive(Debug)]
pub struct StdioSocket(OwnedFd);

impl StdioSocket {
    /// Connects to the monitor that listens at `path`.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = seqpacket()?;
        let (_folder, address) = address(path)?;
        socket::connect(socket.as_raw_fd(), &address)?;
        Ok(StdioSocket(socket))
    }

    /// Two ends of one connection.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) =
            socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((StdioSocket(one), StdioSocket(other)))
    }

    /// Takes a connected socket as it is.
    pub fn from_fd(socket: OwnedFd) -> Self {
        StdioSocket(socket)
    }

    /// Gives the descriptor back.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Sends one frame whole; with [`MsgFlags::MSG_DONTWAIT`] fails with `WouldBlock` when there is no room.
    pub fn send(&self, frame: &Frame<'_>, flags: MsgFlags) -> io::Result<()> {
        let mut head = [0u8; 5];
        let (head_len, payload): (usize, std::borrow::Cow<'_, [u8]>) = match frame {
            Frame::Stdin(bytes) => (kind(&mut head, STDIN), (*bytes).into()),
            Frame::StdinEnd => (kind(&mut head, STDIN_END), (&[][..]).into()),
            Frame::Attach => (kind(&mut head, ATTACH), (&[][..]).into()),
            Frame::Finish => (kind(&mut head, FINISH), (&[][..]).into()),
            Frame::Freeze => (kind(&mut head, FREEZE), (&[][..]).into()),
            Frame::Stdout(bytes) => (kind(&mut head, STDOUT), (*bytes).into()),
            Frame::Stderr(bytes) => (kind(&mut head, STDERR), (*bytes).into()),
            Frame::Resize { rows, cols } => {
                kind(&mut head, RESIZE);
                head[1..3].copy_from_slice(&rows.to_le_bytes());
                head[3..5].copy_from_slice(&cols.to_le_bytes());
                (5, (&[][..]).into())
            }
            Frame::Started(pid) => {
                kind(&mut head, STARTED);
                head[1..5].copy_from_slice(&pid.to_le_bytes());
                (5, (&[][..]).into())
            }
            Frame::Exited(record) => (kind(&mut head, EXITED), serde_json::to_vec(record)?.into()),
            Frame::Failed(failed) => (kind(&mut head, FAILED), serde_json::to_vec(failed)?.into()),
        };
        let parts = [IoSlice::new(&head[..head_len]), IoSlice::new(&payload)];
        loop {
            match socket::sendmsg::<UnixAddr>(
                self.0.as_raw_fd(),
                &parts,
                &[],
                flags | MsgFlags::MSG_NOSIGNAL,
                None,
            ) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Receives one frame into `buffer` ([`FRAME_BYTES`] + 1 bytes or more); `None` when the other side has closed.
    pub fn receive<'b>(&self, buffer: &'b mut [u8], flags: MsgFlags) -> io::Result<Option<Frame<'b>>> {
        let length = loop {
            match socket::recv(self.0.as_raw_fd(), buffer, flags) {
                // A reset is told once, when the other side closed with frames of ours unread, and before the frames that
                // it had sent: those, or the end, come next.
                Err(Errno::EINTR | Errno::ECONNRESET) => {}
                Err(errno) => return Err(errno.into()),
                Ok(length) => break length,
            }
        };
        let Some((kind, payload)) = buffer[..length].split_first() else { return Ok(None) };
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed stdio frame");
        let frame = match *kind {
            STDIN => Frame::Stdin(payload),
            STDIN_END => Frame::StdinEnd,
            ATTACH => Frame::Attach,
            FINISH => Frame::Finish,
            FREEZE => Frame::Freeze,
            STDOUT => Frame::Stdout(payload),
            STDERR => Frame::Stderr(payload),
            RESIZE => {
                let [r0, r1, c0, c1] = payload.try_into().map_err(|_| malformed())?;
                Frame::Resize { rows: u16::from_le_bytes([r0, r1]), cols: u16::from_le_bytes([c0, c1]) }
            }
            STARTED => Frame::Started(i32::from_le_bytes(payload.try_into().map_err(|_| malformed())?)),
            EXITED => Frame::Exited(serde_json::from_slice(payload)?),
            FAILED => Frame::Failed(serde_json::from_slice(payload)?),
            _ => return Err(malformed()),
        };
        Ok(Some(frame))
    }
}

impl AsFd for StdioSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A socket at `path` on which a monitor accepts clients.
#[derive(Debug)]
pub struct StdioListener(OwnedFd);

impl StdioListener {
    /// Binds and listens; an old socket at `path` is replaced.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = seqpacket()?;
        let (_folder, address) = address(path)?;
        socket::bind(socket.as_raw_fd(), &address)?;
        socket::listen(&socket, socket::Backlog::new(16)?)?;
        Ok(StdioListener(socket))
    }

    /// Accepts one client.
    pub fn accept(&self) -> io::Result<StdioSocket> {
        let fd = sys::fd::accept(self.0.as_fd())?;
        Ok(StdioSocket(fd))
    }
}

impl AsFd for StdioListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The address of the socket at `path`, however long that is; good while the folder is open.
fn address(path: &Path) -> io::Result<(File, UnixAddr)> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let folder = File::open(folder)?;
    let address = UnixAddr::new(&sys::fd::path_in(&folder, name))?;
    Ok((folder, address))
}

fn seqpacket() -> io::Result<OwnedFd> {
    Ok(socket::socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?)
}

fn kind(head: &mut [u8; 5], kind: u8) -> usize {
    head[0] = kind;
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_before_a_reset_arrives() {
        let (one, other) = StdioSocket::pair().expect("a socket pair");
        one.send(&Frame::StdinEnd, MsgFlags::empty()).expect("sent");
        other.send(&Frame::Stdout(b"out"), MsgFlags::empty()).expect("sent");
        // Closed with the first frame unread: a reset.
        drop(other);
        let mut buffer = vec![0; FRAME_BYTES + 1];
        let frame = one.receive(&mut buffer, MsgFlags::empty()).expect("received");
        assert_eq!(frame, Some(Frame::Stdout(b"out")));
        assert_eq!(one.receive(&mut buffer, MsgFlags::empty()).expect("the end"), None);
    }

    #[test]
    fn a_socket_may_lie_deep() {
        let folder = tempfile::tempdir().expect("a folder");
        let deep = folder.path().join("d".repeat(200));
        std::fs::create_dir(&deep).expect("made");
        let listener = StdioListener::bind(&deep.join("attach.sock")).expect("bound");
        let client = StdioSocket::connect(&deep.join("attach.sock")).expect("connected");
        listener.accept().expect("accepted").send(&Frame::Started(1), MsgFlags::empty()).expect("sent");
        let mut buffer = vec![0; FRAME_BYTES + 1];
        assert_eq!(
            client.receive(&mut buffer, MsgFlags::empty()).expect("received"),
            Some(Frame::Started(1))
        );
    }

    #[test]
    fn every_frame_arrives_as_it_was_sent() {
        let (one, other) = StdioSocket::pair().expect("a socket pair");
        let frames = [
            Frame::Stdin(b"abc"),
            Frame::StdinEnd,
            Frame::Attach,
            Frame::Finish,
            Frame::Resize { rows: 24, cols: 300 },
            Frame::Stdout(b""),
            Frame::Stderr(b"\0\n"),
            Frame::Started(4711),
            Frame::Exited(ExitRecord::for_test(3)),
            Frame::Failed(FailedStart { exit_code: 127, message: "no such command".to_owned() }),
        ];
        let mut buffer = vec![0; FRAME_BYTES + 1];
        for frame in &frames {
            one.send(frame, MsgFlags::empty()).expect("sent");
            let got = other.receive(&mut buffer, MsgFlags::empty()).expect("received");
            assert_eq!(got.as_ref(), Some(frame));
        }
        drop(one);
        assert_eq!(other.receive(&mut buffer, MsgFlags::empty()).expect("closed"), None);
    }
}
