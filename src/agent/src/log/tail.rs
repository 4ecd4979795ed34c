//! Where the last lines of a log begin, found from its end, so that a long log is not read whole.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::entry::Entry;

/// Bytes read at a time.
const BLOCK: u64 = 64 * 1024;

/// The offset at which the last `count` lines of `log` begin. Parts count as one line with what they belong
/// to; what has no full end yet is a line too.
pub(crate) fn tail_offset(log: &File, count: u64) -> io::Result<u64> {
    let length = log.metadata()?.len();
    if count == 0 {
        return Ok(length);
    }
    let mut lines = BackwardLines { log, start: length, block: Vec::new() };
    let (mut begun, mut offset) = (0, length);
    while let Some((start, line)) = lines.previous()? {
        let ends = Entry::parse(&line).map_or(true, |entry| !entry.partial);
        // The newest line counts although it may be a part whose end has not come.
        if ends || offset == length {
            begun += 1;
        }
        if begun > count {
            break;
        }
        offset = start;
    }
    Ok(offset)
}

/// The lines of a file from the last to the first.
struct BackwardLines<'a> {
    log: &'a File,
    /// Where `block` begins in the file; what lies after its end was given out.
    start: u64,
    block: Vec<u8>,
}

impl BackwardLines<'_> {
    /// The line before, with the offset at which it begins and without its end.
    fn previous(&mut self) -> io::Result<Option<(u64, Vec<u8>)>> {
        loop {
            let body = self.block.strip_suffix(b"\n").unwrap_or(&self.block);
            if let Some(at) = body.iter().rposition(|byte| *byte == b'\n') {
                let line = body[at + 1..].to_vec();
                self.block.truncate(at + 1);
                return Ok(Some((self.start + at as u64 + 1, line)));
            }
            if self.start == 0 {
                let line = body.to_vec();
                let had = !self.block.is_empty();
                self.block.clear();
                return Ok(had.then_some((0, line)));
            }
            let size = self.start.min(BLOCK);
            let mut block = vec![0; usize::try_from(size).map_err(io::Error::other)?];
            self.log.read_exact_at(&mut block, self.start - size)?;
            self.start -= size;
            block.append(&mut self.block);
            self.block = block;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(text: &str) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        file
    }

    fn log(lines: &[(&str, &str)]) -> String {
        lines.iter().map(|(tag, text)| format!("2026-01-02T03:04:05.6Z stdout {tag} {text}\n")).collect()
    }

    #[test]
    fn the_last_lines_begin_there() {
        let text = log(&[("F", "one"), ("P", "tw"), ("P", "o"), ("F", "!"), ("F", "three"), ("P", "fo")]);
        let at =
            |word: &str| text.find(&format!(" {word}\n")).map(|at| text[..at].rfind("2026").expect("a time"));
        let check = |count: u64, expected: Option<usize>| {
            let expected = expected.expect("a word of the log") as u64;
            assert_eq!(tail_offset(&file(&text), count).expect("readable"), expected, "{count}");
        };
        check(0, Some(text.len()));
        check(1, at("fo"));
        check(2, at("three"));
        check(3, at("tw"));
        check(4, Some(0));
        check(9, Some(0));
        assert_eq!(tail_offset(&file(""), 3).expect("readable"), 0);
    }

    #[test]
    fn a_long_log_is_read_in_blocks() {
        let lines: Vec<String> = (0..20_000).map(|at| format!("line {at}")).collect();
        let text = log(&lines.iter().map(|line| ("F", line.as_str())).collect::<Vec<_>>());
        let offset = tail_offset(&file(&text), 7000).expect("readable");
        assert!(text[offset as usize..].starts_with("2026-01-02T03:04:05.6Z stdout F line 13000\n"));
        // A line longer than a block.
        let text = log(&[("F", "one"), ("F", &"x".repeat(200_000)), ("F", "three")]);
        let offset = tail_offset(&file(&text), 2).expect("readable");
        assert!(text[offset as usize..].starts_with("2026-01-02T03:04:05.6Z stdout F xxx"));
    }
}
