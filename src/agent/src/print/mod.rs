//! What people read on standard output: tables, times and sizes, as docker words them.

mod human;
mod listing;
mod table;
mod template;

pub(crate) use human::{ago, size, span};
pub(crate) use listing::{Column, Format, list, parse_format};
pub(crate) use table::Table;
pub(crate) use template::Template;

use std::io::{self, Write};

/// Writes `text` to standard output at once; a reader that has gone is no error (`agent ps | head -1`).
pub(crate) fn out(text: &str) -> io::Result<()> {
    bytes(text.as_bytes())
}

/// The same with what need not be text.
pub(crate) fn bytes(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes `text` and the end of the line to standard output, as [`out`] does.
pub(crate) fn line(text: &str) -> io::Result<()> {
    out(&format!("{text}\n"))
}
