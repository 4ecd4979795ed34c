//! `agent login`: shows a registry who we are, and keeps that for later.

use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Args;
use image::credentials::Kept;
use image::login::{Login as Registry, registry_host};
use nix::sys::signal::Signal;

use crate::attach::RawMode;
use crate::exit::Exit;
use crate::{complain, print};

/// Bytes of a password on standard input.
const PASSWORD_MAX: u64 = 64 << 10;

/// Log in to a registry
#[derive(Debug, Args)]
pub(crate) struct Login {
    /// The user's name; asked for on a terminal where it is missing
    #[arg(short, long, value_name = "USER")]
    username: Option<String>,
    /// The password, which others can see in the list of processes: better use --password-stdin
    #[arg(short, long, value_name = "PASSWORD", conflicts_with = "password_stdin")]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
    /// The registry
    #[arg(value_name = "HOST", default_value = "docker.io", value_parser = registry_host)]
    host: String,
}

impl Login {
    pub(crate) fn run(&self, config_root: &Path) -> Result<Exit> {
        let registry = Registry::prepare(config_root, &self.host)?;
        let threads = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("failed to prepare for the network")?;
        if self.username.is_none() && self.password.is_none() && registry.is_known() {
            match threads.block_on(registry.again()) {
                Ok(()) => return succeeded(),
                Err(error) if error.is_unauthorized() && io::stdin().is_terminal() => {
                    complain(&format!("{:#}", anyhow::Error::from(error)));
                }
                Err(error) => return Err(error.into()),
            }
        }
        let username = match &self.username {
            Some(username) => username.clone(),
            None => ask("Username: ")?,
        };
        if username.is_empty() || username.contains(':') {
            bail!("a user's name is not empty and has no colon");
        }
        let password = match &self.password {
            Some(password) => {
                complain("others can see a --password in the list of processes: better use --password-stdin");
                password.clone()
            }
            None if self.password_stdin => from_stdin()?,
            None => match ask_secret("Password: ")? {
                Some(password) => password,
                None => return Ok(Exit::Signalled(Signal::SIGINT)),
            },
        };
        if password.is_empty() {
            bail!("the password is empty");
        }
        if let Kept::File(path) = threads.block_on(registry.with(&username, &password))? {
            let path = path.display();
            complain(&format!(
                "credentials are kept unencrypted in {path}; a credsStore there would keep them safer"
            ));
        }
        succeeded()
    }
}

fn succeeded() -> Result<Exit> {
    print::line("Login Succeeded")?;
    Ok(Exit::Success)
}

/// The password as a program gives it, without the end of its line.
fn from_stdin() -> Result<String> {
    let mut text = String::new();
    io::stdin().take(PASSWORD_MAX + 1).read_to_string(&mut text).context("failed to read the password")?;
    if text.len() as u64 > PASSWORD_MAX {
        bail!("the password on standard input is longer than {PASSWORD_MAX} bytes");
    }
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// Refuses to ask where nobody sits.
fn terminal() -> Result<()> {
    match io::stdin().is_terminal() {
        true => Ok(()),
        false => bail!("standard input is no terminal to ask at: give --username and --password-stdin"),
    }
}

fn prompt(question: &str) -> Result<()> {
    let mut stderr = io::stderr();
    write!(stderr, "{question}").and_then(|()| stderr.flush()).context("failed to ask at the terminal")
}

fn ask(question: &str) -> Result<String> {
    terminal()?;
    prompt(question)?;
    let mut line = String::new();
    io::stdin().read_line(&mut line).context("failed to read from the terminal")?;
    Ok(line.trim().to_owned())
}

/// Reads a line that is not shown; none when whoever types it gives up (Ctrl-C).
fn ask_secret(question: &str) -> Result<Option<String>> {
    terminal()?;
    // Before the question, so that nothing that is typed at once is shown.
    let raw = RawMode::enter(&io::stdin()).context("failed to hide what is typed")?;
    prompt(question)?;
    let typed = secret(io::stdin().lock().bytes());
    drop(raw);
    // What was typed has not ended the line.
    drop(writeln!(io::stderr()));
    typed.context("failed to read from the terminal")
}

/// A line of keys of a terminal in raw mode, with its few ways to correct it.
fn secret(keys: impl Iterator<Item = io::Result<u8>>) -> io::Result<Option<String>> {
    const INTERRUPT: u8 = 0x03;
    const END: u8 = 0x04;
    const BACKSPACE: u8 = 0x08;
    const KILL: u8 = 0x15;
    const DELETE: u8 = 0x7f;
    let mut typed = Vec::new();
    for key in keys {
        match key? {
            b'\r' | b'\n' | END => break,
            INTERRUPT => return Ok(None),
            KILL => typed.clear(),
            BACKSPACE | DELETE => {
                // A character is as many bytes as UTF-8 has for it.
                while typed.pop().is_some_and(|byte: u8| byte & 0xc0 == 0x80) {}
            }
            byte => typed.push(byte),
        }
    }
    String::from_utf8(typed).map(Some).map_err(|_| io::Error::other("it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_line_can_be_corrected_and_given_up() {
        for (keys, expected) in [
            ("pw\r", Some("pw")),
            ("pw\nmore", Some("pw")),
            ("pä\u{7f}w\r", Some("pw")),
            ("\u{8}no\u{15}pw\u{4}", Some("pw")),
            ("p\u{3}w\r", None),
            ("", Some("")),
        ] {
            let typed = secret(keys.bytes().map(Ok)).expect("UTF-8");
            assert_eq!(typed.as_deref(), expected, "{keys:?}");
        }
    }
}
