//! `agent logs`: what a container has written, from its log.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use clap::Args;
use jiff::Timestamp;
use runtime::{ContainerState, Runtime};

use crate::exit::Exit;
use crate::flags::parse_since;
use crate::log::{Entry, Follower, Stream, tail_offset};

/// How we end when the reader of our output has gone.
const NOBODY_READS: Exit = Exit::Signalled(nix::sys::signal::Signal::SIGPIPE);

/// Show what a container has written
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Go on until the container ends
    #[arg(short, long)]
    follow: bool,
    /// Only so many of the last lines
    #[arg(short = 'n', long, value_name = "LINES|all", value_parser = parse_tail, default_value = "all")]
    tail: Tail,
    /// Only what was written since then: 2026-01-02T03:04:05Z, or 10m for ten minutes ago
    #[arg(long, value_name = "TIME", value_parser = |text: &str| parse_since(text, Timestamp::now()))]
    since: Option<Timestamp>,
    /// Show when each line was written
    #[arg(short, long)]
    timestamps: bool,
    /// Name or id
    container: String,
}

/// How much of the log's end is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tail {
    All,
    Lines(u64),
}

fn parse_tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" => Ok(Tail::All),
        number => number
            .parse()
            .map(Tail::Lines)
            .map_err(|_| format!("'{text}' is no number of lines, and not 'all'")),
    }
}

impl Logs {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        let view = runtime.find(&self.container)?;
        let log = match File::open(&view.log_path) {
            Ok(log) => log,
            // It was never started, so it wrote nothing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Exit::Success),
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("failed to open the log {}", view.log_path.display()));
            }
        };
        let reading = || format!("failed to read the log {}", view.log_path.display());
        let start = match self.tail {
            Tail::All => 0,
            Tail::Lines(count) => tail_offset(&log, count).with_context(reading)?,
        };
        let mut printer = Printer::new(log, start, self.since, self.timestamps).with_context(reading)?;

        if !self.follow || !matches!(view.state, ContainerState::Running { .. }) {
            return Ok(if printer.print()? { Exit::Success } else { NOBODY_READS });
        }
        let (ended, ends) = nix::unistd::pipe().context("failed to make a pipe")?;
        let mut follower = Follower::new(&view.log_path, ended).with_context(reading)?;
        std::thread::scope(|scope| {
            scope.spawn(|| wait_for_end(runtime, &view.id, ends));
            let mut follow = || {
                while printer.print()? {
                    if !follower.wait().with_context(reading)? {
                        return Ok(if printer.print()? { Exit::Success } else { NOBODY_READS });
                    }
                }
                Ok(NOBODY_READS)
            };
            match follow() {
                Ok(Exit::Success) => Ok(Exit::Success),
                // The scope would wait for the thread, and the thread for a container that may run for years.
                other => crate::leave(other),
            }
        })
    }
}

/// Closes `ends` when the container has ended, or cannot be waited for.
fn wait_for_end(runtime: &Runtime, id: &str, ends: OwnedFd) {
    // One that was removed meanwhile has ended too.
    drop(runtime.wait(id));
    drop(ends);
}

/// Prints a log from where it stands on.
struct Printer {
    log: BufReader<File>,
    since: Option<Timestamp>,
    timestamps: bool,
    /// A line of the log whose end was not yet written.
    line: Vec<u8>,
    /// Whether what was last printed to each stream was a part, so that no time comes before the next.
    within: [bool; 2],
}

impl Printer {
    fn new(mut log: File, start: u64, since: Option<Timestamp>, timestamps: bool) -> io::Result<Self> {
        log.seek(SeekFrom::Start(start))?;
        let log = BufReader::with_capacity(64 * 1024, log);
        Ok(Printer { log, since, timestamps, line: Vec::new(), within: [false; 2] })
    }

    /// Prints what is there; false when nobody reads it any more.
    fn print(&mut self) -> Result<bool> {
        let mut stdout = io::BufWriter::new(io::stdout().lock());
        let mut stderr = io::BufWriter::new(io::stderr().lock());
        let printed = self.print_to(&mut stdout, &mut stderr).and_then(|()| {
            stdout.flush()?;
            stderr.flush()
        });
        match printed {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                // What is buffered has no reader: dropping the buffers must not write it again.
                drop((stdout.into_parts(), stderr.into_parts()));
                Ok(false)
            }
            other => other.map(|()| true).context("failed to print the log"),
        }
    }

    fn print_to(&mut self, stdout: &mut impl Write, stderr: &mut impl Write) -> io::Result<()> {
        let mut last = Stream::Stdout;
        loop {
            self.log.read_until(b'\n', &mut self.line)?;
            let Some(line) = self.line.strip_suffix(b"\n") else { return Ok(()) };
            let Ok(entry) = Entry::parse(line) else {
                // Damage, such as a line torn by a power cut, is shown as it is rather than kept back.
                stderr.write_all(&self.line)?;
                self.line.clear();
                continue;
            };
            // Both may be one terminal, where the order of the lines is to be kept.
            if std::mem::replace(&mut last, entry.stream) != entry.stream {
                stdout.flush()?;
                stderr.flush()?;
            }
            let (to, within): (&mut dyn Write, _) = match entry.stream {
                Stream::Stdout => (stdout, &mut self.within[0]),
                Stream::Stderr => (stderr, &mut self.within[1]),
            };
            let old = |since: Timestamp| entry.time.parse::<Timestamp>().is_ok_and(|time| time < since);
            if !self.since.is_some_and(old) {
                if self.timestamps && !*within {
                    write!(to, "{} ", entry.time)?;
                }
                to.write_all(entry.text)?;
                if !entry.partial {
                    to.write_all(b"\n")?;
                }
                *within = entry.partial;
            }
            self.line.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
2026-01-02T03:04:05.000000001Z stdout F one
2026-01-02T03:04:06.000000001Z stderr P bad
2026-01-02T03:04:07.000000001Z stdout F two
2026-01-02T03:04:08.000000001Z stderr F  luck
torn
2026-01-02T03:04:09.000000001Z stdout P no end";

    fn printed(since: Option<&str>, timestamps: bool) -> (String, String) {
        let mut log = tempfile::tempfile().expect("a file");
        log.write_all(LOG.as_bytes()).expect("written");
        let since = since.map(|time| time.parse().expect("a time"));
        let mut printer =
            Printer::new(log.try_clone().expect("cloned"), 0, since, timestamps).expect("readable");
        let (mut out, mut err) = (Vec::new(), Vec::new());
        printer.print_to(&mut out, &mut err).expect("printed");
        // The last line gets its end while we follow.
        let end = log.metadata().expect("a file").len();
        std::os::unix::fs::FileExt::write_all_at(&log, b"!\n", end).expect("written");
        printer.log.seek(SeekFrom::Start(end)).expect("the file's offset is shared with the writer here");
        printer.print_to(&mut out, &mut err).expect("printed");
        (String::from_utf8(out).expect("text"), String::from_utf8(err).expect("text"))
    }

    #[test]
    fn each_stream_gets_its_lines() {
        let (out, err) = printed(None, false);
        assert_eq!((out.as_str(), err.as_str()), ("one\ntwo\nno end!", "bad luck\ntorn\n"));
    }

    #[test]
    fn times_stand_before_whole_lines() {
        let (out, err) = printed(Some("2026-01-02T03:04:06Z"), true);
        assert_eq!(out, "2026-01-02T03:04:07.000000001Z two\n2026-01-02T03:04:09.000000001Z no end!");
        assert_eq!(err, "2026-01-02T03:04:06.000000001Z bad luck\ntorn\n");
    }

    #[test]
    fn a_tail_is_a_number_or_all() {
        assert_eq!(parse_tail("all"), Ok(Tail::All));
        assert_eq!(parse_tail("0"), Ok(Tail::Lines(0)));
        assert!(parse_tail("-1").is_err());
    }
}
