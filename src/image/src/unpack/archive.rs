//! The entries of a tar archive, as a stream: V7, ustar, GNU and PAX.
//!
//! Header fields are read by the `tar` crate; the order of headers, PAX values and sparse maps are read
//! here, because a layer's digest covers every byte while the crate's reader cannot give binary PAX values.
//! File data is handed on as slices of the caller's own buffers, never copied.

use std::io::{self, BufRead};

use tar::{EntryType, GnuExtSparseHeader, Header};

use super::error::{Result, UnpackError};
use super::limits::Limits;
use super::metadata::Metadata;
use super::pax::{self, Pax, Time, decimal};

const BLOCK: u64 = 512;

/// What kind of file an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Folder,
    Symlink,
    Hardlink,
    Character,
    Block,
    Fifo,
}

/// A piece of a file that has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// One entry; its data is read from the archive before the next entry is.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// The target of a symlink or hard link.
    pub(crate) link: Vec<u8>,
    pub(crate) metadata: Metadata,
    pub(crate) mtime: Time,
    /// Major and minor number.
    pub(crate) device: (u32, u32),
    /// Bytes of the file, holes included.
    pub(crate) size: u64,
    /// The pieces that have data, in order; one for a file without holes.
    pub(crate) pieces: Vec<Piece>,
}

/// A tar archive that is read once, front to back.
#[derive(Debug)]
pub(crate) struct Archive<'a, R> {
    reader: R,
    limits: &'a Limits,
    /// Bytes of the current entry that were not read yet, and the padding after them.
    left: u64,
    padding: u64,
    ended: bool,
}

impl<'a, R: BufRead> Archive<'a, R> {
    pub(crate) fn new(reader: R, limits: &'a Limits) -> Self {
        Archive { reader, limits, left: 0, padding: 0, ended: false }
    }

    /// The next entry; none at the end of the archive, after which the reader's other bytes are skipped too.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        let mut long_path = None;
        let mut long_link = None;
        let mut pax: Option<Pax> = None;
        loop {
            self.skip(self.left + self.padding)?;
            (self.left, self.padding) = (0, 0);
            let Some(header) = self.header()? else {
                if long_path.is_some() || long_link.is_some() || pax.is_some() {
                    return Err(UnpackError::archive("it ends after an extended header"));
                }
                return Ok(None);
            };
            let size = header.entry_size().map_err(field("size"))?;
            match header.entry_type() {
                EntryType::GNULongName => long_path = Some(self.long_name(size)?),
                EntryType::GNULongLink => long_link = Some(self.long_name(size)?),
                EntryType::XHeader => pax = Some(pax::parse(&self.body(size)?)?),
                // Defaults for all entries, such as git's commit id. Builders put nothing else into them, and
                // Go's reader, by which images are made and compared, does not apply them.
                EntryType::XGlobalHeader => drop(pax::parse(&self.body(size)?)?),
                _ => {
                    return self.entry(&header, long_path, long_link, pax.unwrap_or_default()).map(Some);
                }
            }
        }
    }

    /// The next slice of the current entry's data; empty at its end.
    pub(crate) fn data(&mut self) -> Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let slice = self.reader.fill_buf().map_err(read)?;
        if slice.is_empty() {
            return Err(UnpackError::archive("it ends within a file"));
        }
        Ok(&slice[..slice.len().min(left)])
    }

    /// Says that so many bytes of the last slice are done with.
    pub(crate) fn consume(&mut self, bytes: usize) {
        self.reader.consume(bytes);
        self.left -= bytes as u64;
    }

    fn entry(
        &mut self,
        header: &Header,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
        pax: Pax,
    ) -> Result<Entry> {
        let path = pax.sparse.name.clone().or(long_path).or(pax.path.clone());
        let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
        if path.len() > self.limits.path {
            return Err(UnpackError::entry(
                &path,
                format!("has a path of more than {} bytes", self.limits.path),
            ));
        }
        let link = long_link.or(pax.link);
        let link = link.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
        let kind = match header.entry_type() {
            // Before ustar a slash at the end was all that told a folder, and no file had a type.
            EntryType::Regular if header.as_old().linkflag == [0] && path.ends_with(b"/") => Kind::Folder,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
            EntryType::Directory => Kind::Folder,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Link => Kind::Hardlink,
            EntryType::Char => Kind::Character,
            EntryType::Block => Kind::Block,
            EntryType::Fifo => Kind::Fifo,
            other => {
                let reason = format!("is of the unknown type {:?}", char::from(other.as_byte()));
                return Err(UnpackError::entry(&path, reason));
            }
        };
        let stored = match pax.size {
            Some(size) => size,
            None => header.entry_size().map_err(field("size"))?,
        };
        // As in Go's reader, only files have data, whatever the size field of the others says.
        let stored = if kind == Kind::File { stored } else { 0 };
        self.left = stored;
        self.padding = stored.wrapping_neg() % BLOCK;

        let (size, pieces) = if kind != Kind::File {
            (0, Vec::new())
        } else if header.entry_type() == EntryType::GNUSparse {
            let (size, numbers) = self.gnu_sparse(header)?;
            (size, self.pieces(&path, size, &numbers)?)
        } else if pax.sparse.is_sparse() {
            let numbers = if pax.sparse.map_in_data { self.sparse_map()? } else { pax.sparse.map };
            let size =
                pax.sparse.real_size.ok_or_else(|| UnpackError::entry(&path, "is sparse without a size"))?;
            (size, self.pieces(&path, size, &numbers)?)
        } else {
            (stored, vec![Piece { offset: 0, length: stored }])
        };
        // Other kinds may have anything in these fields.
        let device = match kind {
            Kind::Character | Kind::Block => (
                number(header.device_major(), "major number")?,
                number(header.device_minor(), "minor number")?,
            ),
            _ => (0, 0),
        };
        let mtime = match pax.mtime {
            Some(mtime) => mtime,
            None => header_time(header)?,
        };
        Ok(Entry {
            kind,
            link,
            metadata: Metadata {
                mode: header.mode().map_err(field("mode"))? & 0o7777,
                uid: pax.uid.map_or_else(|| id(header.uid(), &path), Ok)?,
                gid: pax.gid.map_or_else(|| id(header.gid(), &path), Ok)?,
                xattrs: pax.xattrs,
            },
            mtime,
            device,
            size,
            pieces,
            path,
        })
    }

    /// The next header; none at the end, when the rest of the reader is skipped as well.
    fn header(&mut self) -> Result<Option<Header>> {
        if self.ended {
            return Ok(None);
        }
        let mut header = Header::new_old();
        let mut zero = false;
        loop {
            let got = self.block(header.as_mut_bytes())?;
            let empty = header.as_bytes().iter().all(|byte| *byte == 0);
            match (got, empty, zero) {
                (false, _, _) | (true, true, true) => {
                    self.ended = true;
                    self.drain()?;
                    return Ok(None);
                }
                (true, true, false) => zero = true,
                // Some readers would stop at the empty block and others go on.
                (true, false, true) => return Err(UnpackError::archive("it goes on after an empty block")),
                (true, false, false) => break,
            }
        }
        let bytes = header.as_bytes();
        // The field itself counts as spaces. Some old programs took the other bytes as signed.
        let summed = || bytes[..148].iter().chain(&bytes[156..]).copied();
        let unsigned = 8 * 32 + summed().map(u32::from).sum::<u32>();
        let signed = 8 * 32 + summed().map(|byte| i32::from(byte.cast_signed())).sum::<i32>();
        match header.cksum() {
            Ok(sum) if sum == unsigned || i32::try_from(sum) == Ok(signed) => Ok(Some(header)),
            _ => Err(UnpackError::archive("a header has a wrong checksum")),
        }
    }

    /// Reads a whole block; false when the reader has ended before it.
    fn block(&mut self, block: &mut [u8; BLOCK as usize]) -> Result<bool> {
        let mut filled = 0;
        while filled < block.len() {
            match self.reader.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(UnpackError::archive("it ends within a header")),
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(read(error)),
            }
        }
        Ok(true)
    }

    /// Reads the data of an extended header.
    fn body(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > self.limits.header {
            return Err(UnpackError::Limit {
                what: "bytes of an extended header",
                limit: self.limits.header,
            });
        }
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK;
        let mut body = Vec::new();
        while self.left > 0 {
            let slice = self.data()?;
            body.extend_from_slice(slice);
            let bytes = slice.len();
            self.consume(bytes);
        }
        Ok(body)
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>> {
        let mut name = self.body(size)?;
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        name.truncate(end);
        Ok(name)
    }

    /// The map of an old GNU sparse file: four pieces in its header, more in blocks that follow it.
    fn gnu_sparse(&mut self, header: &Header) -> Result<(u64, Vec<u64>)> {
        let gnu = header.as_gnu().ok_or_else(|| UnpackError::archive("a sparse file has no GNU header"))?;
        let size = gnu.real_size().map_err(field("real size"))?;
        let mut numbers = Vec::new();
        let mut push = |piece: &tar::GnuSparseHeader| -> Result<()> {
            if !piece.is_empty() {
                numbers.push(piece.offset().map_err(field("offset"))?);
                numbers.push(piece.length().map_err(field("length"))?);
            }
            Ok(())
        };
        gnu.sparse.iter().try_for_each(&mut push)?;
        let mut more = gnu.is_extended();
        let mut blocks = 0;
        while more {
            let mut extended = GnuExtSparseHeader::new();
            if !self.block(extended.as_mut_bytes())? {
                return Err(UnpackError::archive("it ends within a sparse map"));
            }
            extended.sparse().iter().try_for_each(&mut push)?;
            more = extended.is_extended();
            blocks += 1;
            if blocks > self.limits.pieces / extended.sparse().len() {
                return Err(UnpackError::Limit {
                    what: "pieces of a sparse file",
                    limit: self.limits.pieces as u64,
                });
            }
        }
        Ok((size, numbers))
    }

    /// The map of a PAX 1.0 sparse file: decimal lines at the beginning of its data, padded to a block.
    fn sparse_map(&mut self) -> Result<Vec<u64>> {
        let mut taken = 0_u64;
        let mut line = |archive: &mut Self| -> Result<u64> {
            let mut text = Vec::new();
            loop {
                let byte = *archive
                    .data()?
                    .first()
                    .ok_or_else(|| UnpackError::archive("a sparse map is cut short"))?;
                archive.consume(1);
                taken += 1;
                match byte {
                    b'\n' => break,
                    _ if text.len() > 20 => return Err(UnpackError::archive("a sparse map is malformed")),
                    byte => text.push(byte),
                }
            }
            decimal(&text).ok_or_else(|| UnpackError::archive("a sparse map is malformed"))
        };
        let count = line(self)?;
        if count > self.limits.pieces as u64 {
            return Err(UnpackError::Limit {
                what: "pieces of a sparse file",
                limit: self.limits.pieces as u64,
            });
        }
        let mut numbers = Vec::new();
        for _ in 0..count * 2 {
            numbers.push(line(self)?);
        }
        let padding = taken.wrapping_neg() % BLOCK;
        if padding > self.left {
            return Err(UnpackError::archive("a sparse map is cut short"));
        }
        self.skip(padding)?;
        self.left -= padding;
        Ok(numbers)
    }

    /// Checks a map: in order, inside the file, and of exactly the data that is stored.
    fn pieces(&self, path: &[u8], size: u64, numbers: &[u64]) -> Result<Vec<Piece>> {
        let wrong = || UnpackError::entry(path, "has a sparse map that does not fit its data");
        if !numbers.len().is_multiple_of(2) || numbers.len() / 2 > self.limits.pieces {
            return Err(wrong());
        }
        let mut pieces = Vec::with_capacity(numbers.len() / 2);
        let (mut end, mut stored) = (0_u64, 0_u64);
        for pair in numbers.chunks_exact(2) {
            let piece = Piece { offset: pair[0], length: pair[1] };
            if piece.offset < end {
                return Err(wrong());
            }
            end = piece.offset.checked_add(piece.length).filter(|end| *end <= size).ok_or_else(wrong)?;
            stored = stored.checked_add(piece.length).ok_or_else(wrong)?;
            pieces.push(piece);
        }
        match stored == self.left {
            true => Ok(pieces),
            false => Err(wrong()),
        }
    }

    fn skip(&mut self, mut bytes: u64) -> Result<()> {
        while bytes > 0 {
            let slice = self.reader.fill_buf().map_err(read)?;
            if slice.is_empty() {
                return Err(UnpackError::archive("it ends within a file"));
            }
            let some = slice.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
            self.reader.consume(some);
            bytes -= some as u64;
        }
        Ok(())
    }

    /// Reads what comes after the end of the archive, which its digest covers too.
    fn drain(&mut self) -> Result<()> {
        loop {
            let some = self.reader.fill_buf().map_err(read)?.len();
            if some == 0 {
                return Ok(());
            }
            self.reader.consume(some);
        }
    }
}

/// An error that the reader carries for us comes out as what it is.
fn read(source: io::Error) -> UnpackError {
    match source.downcast::<UnpackError>() {
        Ok(error) => error,
        Err(source) => UnpackError::Read { source },
    }
}

fn field(name: &'static str) -> impl Fn(io::Error) -> UnpackError {
    move |_| UnpackError::archive(format!("a header has a bad {name}"))
}

fn number(value: io::Result<Option<u32>>, name: &'static str) -> Result<u32> {
    Ok(value.map_err(field(name))?.unwrap_or(0))
}

fn id(value: io::Result<u64>, path: &[u8]) -> Result<u32> {
    let value = value.map_err(field("owner"))?;
    // The highest number means "unchanged" to chown.
    match u32::try_from(value).ok().filter(|id| *id != u32::MAX) {
        Some(id) => Ok(id),
        None => Err(UnpackError::entry(path, format!("has the impossible owner {value}"))),
    }
}

/// The time of a header: octal seconds, or GNU's base-256 number, which may be negative.
fn header_time(header: &Header) -> Result<Time> {
    let field_bytes = header.as_old().mtime;
    let seconds = if field_bytes[0] == 0xff {
        // Negative: two's complement of the whole field; its last eight bytes say all that fits.
        i64::from_be_bytes(field_bytes[4..].try_into().expect("the field has twelve bytes"))
    } else {
        let seconds = header.mtime().map_err(field("time"))?;
        i64::try_from(seconds).map_err(|_| UnpackError::archive("a header has a bad time"))?
    };
    Ok(Time { seconds, nanoseconds: 0 })
}
