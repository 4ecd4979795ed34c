//! The clients of a container's stdio. A slow one holds the container's output back, as a pipe would; one that is gone is
//! forgotten.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use container::stdio::FRAME_BYTES;
use container::{Frame, StdioSocket};
use nix::sys::socket::MsgFlags;

use super::log::Stream;

/// One client.
#[derive(Debug)]
pub struct Client {
    socket: StdioSocket,
    /// Whether it wants output.
    attached: bool,
    /// Output that there was no room for.
    pending: Option<(Stream, Vec<u8>)>,
    gone: bool,
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
    /// Nothing that the monitor need do.
    Nothing,
}

impl Client {
    /// A client that gets the output from the start (`attached`), or once it asks for it.
    pub fn new(socket: StdioSocket, attached: bool) -> Self {
        Client { socket, attached, pending: None, gone: false }
    }

    /// Whether it has left.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// Whether output waits for it.
    pub fn is_blocked(&self) -> bool {
        self.pending.is_some()
    }

    /// Sends a frame that is not output; one that has no room for it is gone.
    pub fn tell(&mut self, frame: &Frame<'_>, flags: MsgFlags) {
        if self.socket.send(frame, flags).is_err() {
            self.gone = true;
        }
    }

    /// Sends output, now or when there is room.
    pub fn output(&mut self, stream: Stream, bytes: &[u8]) {
        if !self.attached || self.gone {
            return;
        }
        match self.socket.send(&frame(stream, bytes), MsgFlags::MSG_DONTWAIT) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.pending = Some((stream, bytes.to_vec()))
            }
            Err(_) => self.gone = true,
        }
    }

    /// Tries again to send what waits.
    pub fn flush(&mut self) {
        if let Some((stream, bytes)) = self.pending.take() {
            self.output(stream, &bytes);
        }
    }

    /// Reads one request.
    pub fn receive(&mut self) -> Request {
        let mut buffer = [0; FRAME_BYTES + 1];
        match self.socket.receive(&mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(Some(Frame::Stdin(bytes))) => return Request::Input(bytes.to_vec()),
            Ok(Some(Frame::StdinEnd)) => return Request::InputEnd,
            Ok(Some(Frame::Resize { rows, cols })) => return Request::Resize(rows, cols),
            Ok(Some(Frame::Attach)) => self.attached = true,
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

fn frame(stream: Stream, bytes: &[u8]) -> Frame<'_> {
    match stream {
        Stream::Stdout => Frame::Stdout(bytes),
        Stream::Stderr => Frame::Stderr(bytes),
    }
}
