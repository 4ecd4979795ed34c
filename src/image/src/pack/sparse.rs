//! Which pieces of a file have data, for files whose holes are worth leaving out.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Bytes of holes from which on a file is stored as a sparse one: every reader understands a plain file, not all a sparse
/// one.
const WORTH: u64 = 1 << 20;

/// A smaller hole is stored as data.
const SMALLEST: u64 = 64 << 10;

/// The most pieces; what comes after them is stored as data. So the map stays small.
const PIECES: usize = 1 << 14;

/// The pieces of a file of this size that have data, each an offset and a length; `None` when it is to be stored as it
/// is.
pub(super) fn pieces(file: &File, size: u64) -> Option<Vec<(u64, u64)>> {
    // In units of 512 bytes, whatever the file system's own are (stat(2)).
    let stored = file.metadata().ok()?.blocks().saturating_mul(512);
    if size < WORTH || size.saturating_sub(stored) < WORTH {
        return None;
    }
    let mut pieces: Vec<(u64, u64)> = Vec::new();
    let mut at = 0;
    while at < size {
        let begin = match seek(file, SeekFrom::Data(at)) {
            Ok(begin) => begin.min(size),
            Err(Errno::NXIO) => size,
            // A file system that does not know its holes.
            Err(_) => return None,
        };
        if begin == size {
            break;
        }
        let end = match pieces.len() + 1 >= PIECES {
            true => size,
            false => seek(file, SeekFrom::Hole(begin)).ok()?.min(size),
        };
        // One that is changed meanwhile may say anything.
        if end <= begin {
            return None;
        }
        match pieces.last_mut() {
            Some((offset, length)) if begin - (*offset + *length) < SMALLEST => *length = end - *offset,
            _ => pieces.push((begin, end - begin)),
        }
        at = end;
    }
    // A hole at the end is told by an empty piece after it, as GNU tar has it.
    if pieces.last().is_none_or(|(offset, length)| offset + length < size) {
        pieces.push((size, 0));
    }
    let data: u64 = pieces.iter().map(|(_, length)| length).sum();
    (size - data >= WORTH).then_some(pieces)
}
