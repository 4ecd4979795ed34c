//! One line of a log: `2026-01-02T03:04:05.000000006Z stdout F text`.
//!
//! The format is that of the kubelet's log design (kubernetes/design-proposals-archive,
//! node/kubelet-cri-logging.md): a time, the stream, then tags separated by `:`, of which the first says
//! whether the line is full (`F`) or only a part of one (`P`), and the text.

use std::fmt;

/// Which stream a container wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Its standard output, or its terminal.
    Stdout,
    /// Its standard error.
    Stderr,
}

/// A line of the log, taken apart; it borrows from the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    /// When it was written, RFC 3339 with nanoseconds.
    pub(crate) time: &'a str,
    /// Where it was written to.
    pub(crate) stream: Stream,
    /// Whether what was written goes on in the stream's next entry.
    pub(crate) partial: bool,
    /// What was written, without the end of the line.
    pub(crate) text: &'a [u8],
}

/// A line that is not of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the line is not in the CRI's log format")
    }
}

impl std::error::Error for Malformed {}

impl<'a> Entry<'a> {
    /// Takes `line`, without its end, apart.
    pub(crate) fn parse(line: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        let mut field = || fields.next().ok_or(Malformed);
        let time = std::str::from_utf8(field()?).map_err(|_| Malformed)?;
        let stream = match field()? {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return Err(Malformed),
        };
        let partial = match field()?.split(|byte| *byte == b':').next() {
            Some(b"F") => false,
            Some(b"P") => true,
            _ => return Err(Malformed),
        };
        Ok(Entry { time, stream, partial, text: field()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        let entry = |stream, partial, text| Entry { time: "2026-01-02T03:04:05.6Z", stream, partial, text };
        let check = |rest: &str, expected: Result<Entry<'_>, Malformed>| {
            assert_eq!(Entry::parse(format!("2026-01-02T03:04:05.6Z {rest}").as_bytes()), expected, "{rest}");
        };
        check("stdout F hello  world", Ok(entry(Stream::Stdout, false, b"hello  world")));
        check("stderr P part", Ok(entry(Stream::Stderr, true, b"part")));
        check("stdout F:x ", Ok(entry(Stream::Stdout, false, b"")));
        check("stdout F", Err(Malformed));
        check("stdlog F x", Err(Malformed));
        check("stdout X x", Err(Malformed));
        assert_eq!(Entry::parse(b""), Err(Malformed));
    }
}
