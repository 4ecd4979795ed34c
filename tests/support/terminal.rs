//! A program on a terminal, as a person has it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use rustix::termios::tcsetwinsize;

use super::program::LIMIT;
use super::wait::within;

/// A program whose three streams are one terminal, which is its controlling one; killed when dropped.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    master: OwnedFd,
    output: Receiver<Vec<u8>>,
    said: String,
}

impl Terminal {
    /// Starts a program on a new terminal of this size.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(command: &Command, rows: u16, cols: u16) -> Self {
        let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&size), None).expect("a terminal can be made");
        let stream = || Stdio::from(pair.slave.try_clone().expect("a descriptor can be copied"));
        let mut on_terminal = Command::new("setsid");
        on_terminal.args(["--ctty", "--"]).arg(command.get_program()).args(command.get_args()).env_clear();
        for (name, value) in command.get_envs() {
            on_terminal.env(name, value.unwrap_or_default());
        }
        let child = on_terminal.stdin(stream()).stdout(stream()).stderr(stream()).spawn();
        drop(pair.slave);
        let mut reader = File::from(pair.master.try_clone().expect("a descriptor can be copied"));
        let (sender, output) = mpsc::channel();
        thread::spawn(move || {
            let mut piece = [0; 4096];
            // The end is an error: EIO once nobody has the other side open.
            while let Ok(count @ 1..) = reader.read(&mut piece) {
                if sender.send(piece[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let child = child.expect("failed to start setsid");
        Terminal { child, master: pair.master, output, said: String::new() }
    }

    /// Types.
    pub fn write(&mut self, text: &str) {
        let master = self.master.try_clone().expect("a descriptor can be copied");
        File::from(master).write_all(text.as_bytes()).expect("a terminal takes what is typed");
    }

    /// Gives it another size.
    pub fn resize(&self, rows: u16, cols: u16) {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(self.master.as_fd(), size).expect("a terminal can be resized");
    }

    /// Waits until what it shows holds `text`, and returns that up to the end of `text`. What was returned once is
    /// not looked at again.
    ///
    /// # Panics
    /// When it does not come.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        let start = Instant::now();
        loop {
            if let Some(at) = self.said.find(text) {
                let rest = self.said.split_off(at + text.len());
                return std::mem::replace(&mut self.said, rest);
            }
            let left = LIMIT.saturating_sub(start.elapsed());
            match self.output.recv_timeout(left) {
                Ok(piece) => self.said += &String::from_utf8_lossy(&piece),
                Err(_) => panic!("no {text:?} on the terminal, which shows {:?}", self.said),
            }
        }
    }

    /// Waits for the program's end; returns its exit code and what it showed last.
    ///
    /// # Panics
    /// When it does not end.
    #[track_caller]
    pub fn finish(&mut self) -> (i32, String) {
        let status = within(LIMIT, "the end of the program on the terminal", || {
            self.child.try_wait().expect("our own child can be waited for")
        });
        while let Ok(piece) = self.output.recv_timeout(Duration::from_secs(5)) {
            self.said += &String::from_utf8_lossy(&piece);
        }
        (status.code().unwrap_or(-1), std::mem::take(&mut self.said))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Both fail when it was waited for, as is usual.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
