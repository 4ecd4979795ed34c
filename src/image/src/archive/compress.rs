//! The compression of a whole file: told by its first bytes, never by its name; bounded where it is undone.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Chain, Cursor, Read, Write};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use crate::manifest::Packing;
use crate::unpack::{Limits, UnpackError};

/// Bytes that are read from a file or a decompressor at once.
pub(super) const BUFFER: usize = 256 << 10;
/// As many first bytes tell every compression that is known.
pub(super) const MAGIC: usize = 6;
/// zstd's own default: three times as fast as gzip's, for a smaller result.
const ZSTD_LEVEL: i32 = 3;

/// How a saved file is compressed as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all: its layers are compressed already.
    #[default]
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// Zstandard (RFC 8878).
    Zstd,
}

/// The plain bytes of a file that may be compressed. Every read is held against the limits; what breaks them comes
/// out as an error that carries an [`UnpackError`].
pub(super) struct Plain<'a, R: BufRead> {
    decoder: Decoder<Counted<Chain<Cursor<Vec<u8>>, R>>>,
    packing: Packing,
    limits: &'a Limits,
    compressed: Rc<Cell<u64>>,
    plain: u64,
}

enum Decoder<R: BufRead> {
    Plain(R),
    Gzip(Box<BufReader<MultiGzDecoder<R>>>),
    Zstd(BufReader<zstd::stream::read::Decoder<'static, R>>),
}

/// Counts what is read.
struct Counted<R> {
    reader: R,
    bytes: Rc<Cell<u64>>,
}

impl<'a, R: BufRead> Plain<'a, R> {
    /// Begins to read, in whatever way the file is compressed.
    pub(super) fn new(mut reader: R, limits: &'a Limits) -> Result<Self, UnpackError> {
        let mut first = Vec::new();
        reader
            .by_ref()
            .take(MAGIC as u64)
            .read_to_end(&mut first)
            .map_err(|source| UnpackError::Read { source })?;
        let packing = Packing::sniff(&first).map_err(|name| {
            UnpackError::archive(format!(
                "it is compressed with {name}, which is not supported; give it plain or with gzip or zstd"
            ))
        })?;
        let bytes = Rc::new(Cell::new(0));
        let reader = Counted { reader: Cursor::new(first).chain(reader), bytes: Rc::clone(&bytes) };
        let decoder = match packing {
            Packing::Plain => Decoder::Plain(reader),
            Packing::Gzip => {
                let decoder = MultiGzDecoder::new(reader);
                Decoder::Gzip(Box::new(BufReader::with_capacity(BUFFER, decoder)))
            }
            Packing::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(reader)
                    .map_err(|source| UnpackError::Decompress { source })?;
                Decoder::Zstd(BufReader::with_capacity(BUFFER, decoder))
            }
        };
        Ok(Plain { decoder, packing, limits, compressed: bytes, plain: 0 })
    }

    /// How it is compressed.
    pub(super) fn packing(&self) -> Packing {
        self.packing
    }
}

impl<R: BufRead> BufRead for Plain<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        // What a decompressor gives at once is small, so it is enough to look before each.
        let packed = !matches!(self.decoder, Decoder::Plain(_));
        let ratio_over = if packed { self.compressed.get() } else { u64::MAX };
        self.limits.check_bytes(self.plain, ratio_over).map_err(io::Error::other)?;
        let filled = match &mut self.decoder {
            Decoder::Plain(reader) => reader.fill_buf(),
            Decoder::Gzip(reader) => reader.fill_buf(),
            Decoder::Zstd(reader) => reader.fill_buf(),
        };
        // Only the kernel gives errors with numbers: those come from below.
        filled.map_err(|error| match error.raw_os_error() {
            None if packed => io::Error::other(UnpackError::Decompress { source: error }),
            _ => error,
        })
    }

    fn consume(&mut self, bytes: usize) {
        self.plain += bytes as u64;
        match &mut self.decoder {
            Decoder::Plain(reader) => reader.consume(bytes),
            Decoder::Gzip(reader) => reader.consume(bytes),
            Decoder::Zstd(reader) => reader.consume(bytes),
        }
    }
}

impl<R: BufRead> Read for Plain<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let some = self.fill_buf()?;
        let bytes = some.len().min(into.len());
        into[..bytes].copy_from_slice(&some[..bytes]);
        self.consume(bytes);
        Ok(bytes)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.reader.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
        self.reader.consume(bytes);
    }
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let bytes = self.reader.read(into)?;
        self.bytes.set(self.bytes.get() + bytes as u64);
        Ok(bytes)
    }
}

/// Compresses a whole file as it is written.
pub(super) enum Encoder<W: Write> {
    None(W),
    Gzip(GzEncoder<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    pub(super) fn new(writer: W, compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Encoder::None(writer),
            Compression::Gzip => Encoder::Gzip(GzEncoder::new(writer, flate2::Compression::default())),
            Compression::Zstd => Encoder::Zstd(zstd::stream::write::Encoder::new(writer, ZSTD_LEVEL)?),
        })
    }

    /// Writes what is still held back, and gives the writer back.
    pub(super) fn finish(self) -> io::Result<W> {
        match self {
            Encoder::None(writer) => Ok(writer),
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Encoder::None(writer) => writer.write(bytes),
            Encoder::Gzip(encoder) => encoder.write(bytes),
            Encoder::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Encoder::None(writer) => writer.flush(),
            Encoder::Gzip(encoder) => encoder.flush(),
            Encoder::Zstd(encoder) => encoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(bytes: &[u8], compression: Compression) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new(), compression).expect("in memory");
        encoder.write_all(bytes).expect("in memory");
        encoder.finish().expect("in memory")
    }

    fn unpacked(bytes: &[u8], limits: &Limits) -> Result<Vec<u8>, String> {
        let mut all = Vec::new();
        // One byte at a time, as a pipe may give them.
        let reader = BufReader::with_capacity(1, bytes);
        let mut plain = Plain::new(reader, limits).map_err(|error| error.to_string())?;
        match plain.read_to_end(&mut all) {
            Ok(_) => Ok(all),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn every_compression_is_told_by_its_first_bytes() {
        let text = b"some text, and some more".repeat(40_000);
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let found = unpacked(&packed(&text, compression), &Limits::default());
            assert!(found == Ok(text.clone()), "{compression:?}");
        }
        assert_eq!(unpacked(b"", &Limits::default()), Ok(Vec::new()));
        assert_eq!(unpacked(b"abc", &Limits::default()), Ok(b"abc".to_vec()));
        for (bytes, name) in [(&b"\xfd7zXZ\0\0"[..], "xz"), (b"BZh91AY", "bzip2"), (b"PK\x03\x04", "zip")] {
            let line = unpacked(bytes, &Limits::default()).expect_err(name);
            assert!(line.contains(&format!("compressed with {name}")), "{line}");
        }
    }

    #[test]
    fn bombs_end_early_and_damage_is_named() {
        let small = Limits { bytes: 10 << 20, ratio_from: 1 << 20, ratio: 100, ..Limits::default() };
        let zeros = vec![0; 20 << 20];
        for compression in [Compression::Gzip, Compression::Zstd] {
            let line = unpacked(&packed(&zeros, compression), &small).expect_err("a bomb");
            assert!(line.contains("for a compressed one"), "{line}");
        }
        let line = unpacked(&zeros, &small).expect_err("too long");
        assert!(line.contains("limit of 10485760 unpacked bytes"), "{line}");
        for compression in [Compression::Gzip, Compression::Zstd] {
            let whole = packed(b"some text", compression);
            let line = unpacked(&whole[..whole.len() - 2], &small).expect_err("cut short");
            assert!(line.contains("failed to decompress"), "{compression:?}: {line}");
        }
    }
}
