//! The clients of a container's stdio. A slow one holds the container's output back, as a pipe would; one that is gone is
//! forgotten.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use container::stdio::FRAME_BYTES;
use container::{ExitRecord, Frame, StdioSocket};
use nix::sys::socket::MsgFlags;

use super::log::Stream;

/// One client.
#[derive(Debug)]
pub struct Client {
    socket: StdioSocket,
    /// Whether it wants output.
    attached: bool,
    /// Whether the container is to stand still while it is here.
    freezes: bool,
    /// Whether it has sent input.
    gives_input: bool,
    /// What there was no room for.
    pending: Option<Pending>,
    /// It hung up; what it sent before may still be there to read.
    hung_up: bool,
    gone: bool,
}

/// A frame that waits for room.
#[derive(Debug)]
enum Pending {
    Output(Stream, Vec<u8>),
    Exited(ExitRecord),
}

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Write this to the container's standard input.
    Input(Vec<u8>),
    /// Close the container's standard input.
    InputEnd,
    /// Give the container's terminal this size: rows, columns.
    Resize(u16, u16),
    /// Wait for no client any more.
    Finish,
    /// Nothing that the monitor need do.
    Nothing,
}

impl Client {
    /// A client that gets the output from the start (`attached`), or once it asks for it.
    pub fn new(socket: StdioSocket, attached: bool) -> Self {
        Client {
            socket,
            attached,
            freezes: false,
            gives_input: false,
            pending: None,
            hung_up: false,
            gone: false,
        }
    }

    /// Whether it has left.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// Whether the container is to stand still for it.
    pub fn freezes(&self) -> bool {
        self.freezes && !self.gone && !self.hung_up
    }

    /// Whether it is one of those that give input.
    pub fn gives_input(&self) -> bool {
        self.gives_input
    }

    /// Whether output waits for it.
    pub fn is_blocked(&self) -> bool {
        self.pending.is_some()
    }

    /// Whether it hung up.
    pub fn has_hung_up(&self) -> bool {
        self.hung_up
    }

    /// Notes that it hung up: nothing can be sent to it any more.
    pub fn hang_up(&mut self) {
        self.hung_up = true;
        self.pending = None;
    }

    /// Sends the first frame; a client that has no room for that is gone.
    pub fn started(&mut self, pid: i32) {
        if self.socket.send(&Frame::Started(pid), MsgFlags::MSG_DONTWAIT).is_err() {
            self.gone = true;
        }
    }

    /// Sends the last frame, now or when there is room.
    pub fn exited(&mut self, exit: &ExitRecord) {
        self.send(Pending::Exited(exit.clone()));
    }

    /// Gives up on it.
    pub fn drop_pending(&mut self) {
        if self.pending.take().is_some() {
            self.gone = true;
        }
    }

    /// Sends output, now or when there is room.
    pub fn output(&mut self, stream: Stream, bytes: &[u8]) {
        if self.attached {
            self.send(Pending::Output(stream, bytes.to_vec()));
        }
    }

    /// Tries again to send what waits.
    pub fn flush(&mut self) {
        if let Some(pending) = self.pending.take() {
            self.send(pending);
        }
    }

    fn send(&mut self, pending: Pending) {
        if self.gone || self.hung_up {
            return;
        }
        let frame = match &pending {
            Pending::Output(Stream::Stdout, bytes) => Frame::Stdout(bytes),
            Pending::Output(Stream::Stderr, bytes) => Frame::Stderr(bytes),
            Pending::Exited(exit) => Frame::Exited(exit.clone()),
        };
        match self.socket.send(&frame, MsgFlags::MSG_DONTWAIT) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.pending = Some(pending),
            // It may have sent something before it hung up, which is still read.
            Err(_) => self.hung_up = true,
        }
    }

    /// Reads one request.
    pub fn receive(&mut self) -> Request {
        let mut buffer = [0; FRAME_BYTES + 1];
        match self.socket.receive(&mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(Some(Frame::Stdin(bytes))) => {
                self.gives_input = true;
                return Request::Input(bytes.to_vec());
            }
            Ok(Some(Frame::StdinEnd)) => return Request::InputEnd,
            Ok(Some(Frame::Resize { rows, cols })) => return Request::Resize(rows, cols),
            Ok(Some(Frame::Attach)) => self.attached = true,
            Ok(Some(Frame::Freeze)) => self.freezes = true,
            Ok(Some(Frame::Finish)) => return Request::Finish,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The end, an error, or a frame that is not a client's to send.
            _ => self.gone = true,
        }
        Request::Nothing
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
