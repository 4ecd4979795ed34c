//! Our terminal in raw mode, and back.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// The terminal that the panic hook restores: release builds abort on a panic and drop nothing.
static RESTORE_ON_PANIC: OnceLock<OwnedFd> = OnceLock::new();

/// A terminal that passes every key on at once and shows nothing by itself (cfmakeraw(3)), until this is
/// dropped or the program panics.
#[derive(Debug)]
pub(crate) struct RawMode {
    terminal: OwnedFd,
    before: Termios,
}

impl RawMode {
    /// Puts `terminal` in raw mode.
    pub(crate) fn enter(terminal: &impl AsFd) -> io::Result<Self> {
        let terminal = terminal.as_fd().try_clone_to_owned()?;
        let before = tcgetattr(&terminal)?;
        restore_on_panic(&terminal, &before)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&terminal, SetArg::TCSADRAIN, &raw)?;
        Ok(RawMode { terminal, before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing is left to be done when this fails: the terminal has gone.
        let _ = tcsetattr(&self.terminal, SetArg::TCSADRAIN, &self.before);
    }
}

fn restore_on_panic(terminal: &OwnedFd, before: &Termios) -> io::Result<()> {
    if RESTORE_ON_PANIC.set(terminal.try_clone()?).is_ok() {
        let before: nix::libc::termios = before.clone().into();
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if let Some(terminal) = RESTORE_ON_PANIC.get() {
                let _ = tcsetattr(terminal, SetArg::TCSANOW, &Termios::from(before));
            }
            print(panic);
        }));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::termios::LocalFlags;

    #[test]
    fn a_terminal_is_raw_until_dropped() {
        let pty = nix::pty::openpty(None, None).expect("a pty");
        let cooked = |fd: &OwnedFd| {
            tcgetattr(fd).expect("a terminal").local_flags.contains(LocalFlags::ICANON | LocalFlags::ECHO)
        };
        assert!(cooked(&pty.slave));
        let raw = RawMode::enter(&pty.slave).expect("raw");
        assert!(!cooked(&pty.slave));
        drop(raw);
        assert!(cooked(&pty.slave));
    }

    #[test]
    fn what_is_no_terminal_is_refused() {
        let null = std::fs::File::open("/dev/null").expect("a device");
        assert!(RawMode::enter(&null).is_err());
    }
}
