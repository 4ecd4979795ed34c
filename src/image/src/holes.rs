//! Copying what a file holds, and leaving its holes what they are.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use rustix::io::Errno;

/// Copies the data of the first `size` bytes of a file to a new one, which then has that size; says how much that was.
pub(crate) fn copy_data(mut old: &File, mut new: &File, size: u64) -> io::Result<u64> {
    let mut at = 0;
    let mut data = 0;
    while at < size {
        let begin = match rustix::fs::seek(old, rustix::fs::SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            // A file system that does not know its holes.
            Err(Errno::INVAL) => at,
            other => other?,
        };
        let end = match rustix::fs::seek(old, rustix::fs::SeekFrom::Hole(begin)) {
            Err(Errno::INVAL) => size,
            other => other?,
        };
        old.seek(SeekFrom::Start(begin))?;
        new.seek(SeekFrom::Start(begin))?;
        let copied = io::copy(&mut old.take(end - begin), &mut new)?;
        if copied != end - begin {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        data += copied;
        at = end;
    }
    new.set_len(size)?;
    Ok(data)
}
