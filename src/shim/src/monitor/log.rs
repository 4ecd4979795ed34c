//! The container's log in the CRI format: `TIME stdout|stderr F|P TEXT`, one entry a line of output, `P` for a piece that
//! was not ended by a newline (design-proposals-archive, kubelet-cri-logging.md).

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use jiff::Timestamp;

/// Which of its streams the container wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or its terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// An open log.
#[derive(Debug)]
pub struct Log {
    file: File,
    buffer: Vec<u8>,
    /// Bytes of output that could not be written since the last that could.
    lost: u64,
    /// Whether the last line in the file is only half there.
    torn: bool,
}

impl Log {
    /// Opens the log for appending; a link in its place is not followed.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::options()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        Ok(Log { file, buffer: Vec::new(), lost: 0, torn: false })
    }

    /// Appends what was read at one time. A full disk never stops the container: what cannot be written is counted, and
    /// the count is logged once there is room again.
    pub fn append(&mut self, stream: Stream, bytes: &[u8]) {
        let now = Timestamp::now();
        self.buffer.clear();
        if self.torn {
            self.buffer.push(b'\n');
        }
        if self.lost > 0 {
            let notice =
                format!("agent: {} bytes of output were lost: the log could not be written", self.lost);
            entry(&mut self.buffer, now, Stream::Stderr, notice.as_bytes(), true);
        }
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            match piece.strip_suffix(b"\n") {
                Some(line) => entry(&mut self.buffer, now, stream, line, true),
                None => entry(&mut self.buffer, now, stream, piece, false),
            }
        }
        let mut written = 0;
        while written < self.buffer.len() {
            match self.file.write(&self.buffer[written..]) {
                Ok(length) if length > 0 => written += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        if written == self.buffer.len() {
            (self.lost, self.torn) = (0, false);
        } else {
            self.lost += bytes.len() as u64;
            if written > 0 {
                self.torn = self.buffer[written - 1] != b'\n';
            }
        }
    }
}

fn entry(buffer: &mut Vec<u8>, time: Timestamp, stream: Stream, text: &[u8], whole: bool) {
    let name = match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    let tag = if whole { 'F' } else { 'P' };
    // Writing to a vector cannot fail.
    drop(write!(buffer, "{time:.9} {name} {tag} "));
    buffer.extend_from_slice(text);
    buffer.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_pieces_are_told_apart() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let mut log = Log::open(&path).expect("opened");
        log.append(Stream::Stdout, b"one\ntwo\r\n\npart");
        log.append(Stream::Stderr, b"ial\n");
        let text = std::fs::read_to_string(&path).expect("read");
        let entries: Vec<&str> =
            text.split_terminator('\n').map(|line| line.split_once(' ').expect("a time").1).collect();
        assert_eq!(entries, ["stdout F one", "stdout F two\r", "stdout F ", "stdout P part", "stderr F ial"]);
        let time = text.split(' ').next().expect("a time");
        assert_eq!(time.len(), "2026-11-22T08:00:00.123456789Z".len());
        time.parse::<Timestamp>().expect("RFC 3339");
    }

    #[test]
    fn a_link_is_not_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        std::os::unix::fs::symlink("/dev/null", &path).expect("made");
        assert!(Log::open(&path).is_err());
    }
}
