//! The size of a terminal (ioctl_tty(2)): `TIOCGWINSZ` and `TIOCSWINSZ`, which nix does not offer.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The size of a terminal in character cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// Rows of the terminal.
    pub rows: u16,
    /// Columns of the terminal.
    pub cols: u16,
}

/// The size of the terminal `fd`; fails with `ENOTTY` when it is none.
pub fn window_size(fd: BorrowedFd<'_>) -> io::Result<WindowSize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: `fd` is open for as long as it is borrowed, and TIOCGWINSZ writes one `winsize`, to which the
    // pointer is valid and exclusive during the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(WindowSize { rows: size.ws_row, cols: size.ws_col })
}

/// Gives the terminal `fd` (either side of a pty) a size; its foreground process group gets `SIGWINCH` when
/// that is a change.
pub fn set_window_size(fd: BorrowedFd<'_>, size: WindowSize) -> io::Result<()> {
    let size = libc::winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: `fd` is open for as long as it is borrowed, and TIOCSWINSZ reads one `winsize`, which the pointer
    // refers to during the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_size_is_read_back_from_the_other_side() {
        let pty = nix::pty::openpty(None, None).expect("a pty");
        let size = WindowSize { rows: 24, cols: 132 };
        set_window_size(pty.master.as_fd(), size).expect("set");
        assert_eq!(window_size(pty.slave.as_fd()).expect("read"), size);
    }

    #[test]
    fn what_is_no_terminal_has_no_size() {
        let null = std::fs::File::open("/dev/null").expect("a device");
        assert_eq!(window_size(null.as_fd()).expect_err("no terminal").raw_os_error(), Some(libc::ENOTTY));
    }
}
