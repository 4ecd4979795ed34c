//! The two hand-overs of a layer on its way: network or disk to decompressor, decompressor to unpacker.
//!
//! Both are bounded, so a slow disk slows the network down and memory stays small; both are read through
//! [`BufRead`], so that what comes is used where it lies.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use crate::digest::{Algorithm, Digest, Digester};

/// How many pieces of the network may wait. Each has at most some 100 KiB.
pub(super) const NETWORK_PIECES: usize = 16;
/// Decompressed bytes are handed over in pieces of this size,
const PIECE: usize = 256 << 10;
/// of which so many may wait.
const PIECES: usize = 4;

/// The compressed layer: first what of it is here already, then what comes, which is kept. All is digested while it
/// is read.
#[derive(Debug)]
pub(super) struct Incoming {
    /// What is here, until it was read.
    here: Option<File>,
    buffer: BytesMut,
    pieces: mpsc::Receiver<Bytes>,
    kept: Option<File>,
    current: Bytes,
    digester: Digester,
}

impl Incoming {
    /// Reads `here` to its end and then `pieces`, which are appended to `kept`.
    pub(super) fn new(
        here: Option<File>,
        pieces: mpsc::Receiver<Bytes>,
        kept: Option<File>,
        algorithm: Algorithm,
    ) -> Self {
        let (buffer, current) = (BytesMut::new(), Bytes::new());
        Incoming { here, buffer, pieces, kept, current, digester: Digester::new(algorithm) }
    }

    /// Bytes that came so far.
    pub(super) fn came(&self) -> u64 {
        self.digester.bytes()
    }

    /// Reads the rest and returns the digest and length of all.
    pub(super) fn finish(mut self) -> io::Result<(Digest, u64)> {
        loop {
            let some = self.fill_buf()?.len();
            if some == 0 {
                let bytes = self.digester.bytes();
                return Ok((self.digester.finish(), bytes));
            }
            self.consume(some);
        }
    }
}

impl BufRead for Incoming {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() {
            if let Some(file) = &mut self.here {
                self.buffer.resize(PIECE, 0);
                let bytes = file.read(&mut self.buffer)?;
                if bytes == 0 {
                    self.here = None;
                }
                self.current = self.buffer.split_to(bytes).freeze();
            } else {
                let Some(piece) = self.pieces.blocking_recv() else { return Ok(&[]) };
                if let Some(kept) = &mut self.kept {
                    kept.write_all(&piece)?;
                }
                self.current = piece;
            }
            self.digester.update(&self.current);
        }
        Ok(&self.current)
    }

    fn consume(&mut self, bytes: usize) {
        drop(self.current.split_to(bytes));
    }
}

impl Read for Incoming {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, into)
    }
}

/// One hand-over of decompressed bytes.
enum Piece {
    Data(Vec<u8>),
    /// All came; a sender that just goes away has failed.
    End,
}

/// The decompressor's end. Buffers come back to it when they have been read.
pub(super) struct Outgoing {
    pieces: SyncSender<Piece>,
    used: Receiver<Vec<u8>>,
}

/// The unpacker's end: the plain archive, digested while it is read.
pub(super) struct Plain {
    pieces: Receiver<Piece>,
    used: Sender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    ended: bool,
    digester: Digester,
}

/// A hand-over of decompressed bytes.
pub(super) fn hand_over(algorithm: Algorithm) -> (Outgoing, Plain) {
    let (pieces, incoming) = sync_channel(PIECES);
    let (back, used) = channel();
    let plain = Plain {
        pieces: incoming,
        used: back,
        current: Vec::new(),
        at: 0,
        ended: false,
        digester: Digester::new(algorithm),
    };
    (Outgoing { pieces, used }, plain)
}

/// The other end of a hand-over has gone away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

impl Outgoing {
    /// An empty buffer of full length to fill.
    pub(super) fn buffer(&self) -> Vec<u8> {
        let mut buffer = self.used.try_recv().unwrap_or_default();
        buffer.resize(PIECE, 0);
        buffer
    }

    pub(super) fn send(&self, buffer: Vec<u8>) -> Result<(), Gone> {
        self.pieces.send(Piece::Data(buffer)).map_err(|_| Gone)
    }

    /// Says that all has been sent.
    pub(super) fn end(self) -> Result<(), Gone> {
        self.pieces.send(Piece::End).map_err(|_| Gone)
    }
}

impl Plain {
    /// The digest of all that was read: the diffID, when that was everything.
    pub(super) fn finish(self) -> Digest {
        self.digester.finish()
    }
}

impl BufRead for Plain {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.current.len() && !self.ended {
            match self.pieces.recv() {
                Ok(Piece::Data(buffer)) => {
                    self.digester.update(&buffer);
                    // Without a decompressor nobody wants the old buffer.
                    drop(self.used.send(std::mem::replace(&mut self.current, buffer)));
                    self.at = 0;
                }
                Ok(Piece::End) => self.ended = true,
                Err(_) => return Err(io::Error::new(io::ErrorKind::BrokenPipe, "decompression stopped")),
            }
        }
        Ok(&self.current[self.at..])
    }

    fn consume(&mut self, bytes: usize) {
        self.at += bytes;
    }
}

impl Read for Plain {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, into)
    }
}

fn read_buffered(reader: &mut impl BufRead, into: &mut [u8]) -> io::Result<usize> {
    let some = reader.fill_buf()?;
    let bytes = some.len().min(into.len());
    into[..bytes].copy_from_slice(&some[..bytes]);
    reader.consume(bytes);
    Ok(bytes)
}
