//! Terminals: whether there is one, and what size it says it has.

use std::io::{IsTerminal, stderr, stdin, stdout};

use anyhow::Result;
use nix::sys::signal::{SigSet, Signal};
use serde_json::json;

use crate::process;

/// Prints what the three standard descriptors are; with `watch` again at every change of size, until SIGTERM.
pub(crate) fn print(watch: bool) -> Result<()> {
    // Before the first line: whoever reads it may resize at once.
    let signals = process::hold_signals()?;
    describe();
    if watch {
        until_told_to_stop(&signals)?;
    }
    Ok(())
}

fn until_told_to_stop(signals: &SigSet) -> Result<()> {
    loop {
        match signals.wait()? {
            Signal::SIGWINCH => describe(),
            Signal::SIGTERM | Signal::SIGINT => return Ok(()),
            _ => {}
        }
    }
}

fn describe() {
    let size = rustix::termios::tcgetwinsize(stdin()).ok();
    let name = nix::unistd::ttyname(stdin()).ok();
    println!(
        "{}",
        json!({
            "stdin": stdin().is_terminal(),
            "stdout": stdout().is_terminal(),
            "stderr": stderr().is_terminal(),
            "rows": size.map(|size| size.ws_row),
            "cols": size.map(|size| size.ws_col),
            "name": name.map(|name| name.to_string_lossy().into_owned()),
            "controlling": std::fs::File::open("/dev/tty").is_ok(),
            "term": std::env::var("TERM").ok(),
        })
    );
}
