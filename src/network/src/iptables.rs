//! Runs `iptables-restore` and `iptables-save`, of either back end, in the calling thread's network
//! namespace.

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::NetworkError;
use crate::state::StateLock;

/// Where the programs are looked for besides `PATH`, which often lacks these for non-login shells.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// The iptables programs of one back end.
#[derive(Debug)]
pub(crate) struct Iptables {
    prefix: PathBuf,
}

impl Iptables {
    pub(crate) fn new(prefix: Option<&Path>) -> Self {
        Self { prefix: prefix.unwrap_or(Path::new("iptables")).to_owned() }
    }

    /// Applies a script to what is there, each table at once or not at all. Waits for the
    /// xtables lock as long as another program holds it.
    ///
    /// The program inherits our own lock, as its unused standard output: if this process is killed,
    /// whoever cleans up after it waits until the orphan has changed what it was told to.
    pub(crate) fn restore(&self, lock: &StateLock, script: &str) -> Result<(), NetworkError> {
        let program = self.program("-restore")?;
        let mut command = Command::new(&program);
        command.args(["--noflush", "-w"]).stdin(Stdio::piped()).stdout(lock.share()?);
        run(&program, &mut command, script).map(|_| ())
    }

    /// The rules of every table in use.
    pub(crate) fn save(&self) -> Result<String, NetworkError> {
        let program = self.program("-save")?;
        let output = run(&program, Command::new(&program).stdin(Stdio::null()).stdout(Stdio::piped()), "")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn program(&self, suffix: &str) -> Result<PathBuf, NetworkError> {
        let mut name = self.prefix.clone().into_os_string();
        name.push(suffix);
        let name = PathBuf::from(name);
        if name.components().count() > 1 {
            return Some(name.clone())
                .filter(|path| path.is_file())
                .ok_or(NetworkError::IptablesMissing { program: name });
        }
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path)
            .chain(SYSTEM_DIRECTORIES.iter().map(PathBuf::from))
            .map(|directory| directory.join(&name))
            .find(|candidate| candidate.is_file())
            .ok_or(NetworkError::IptablesMissing { program: name })
    }
}

fn run(program: &Path, command: &mut Command, input: &str) -> Result<Output, NetworkError> {
    let failed = |source| NetworkError::IptablesSpawn { program: program.to_owned(), source };
    let mut child = command.stderr(Stdio::piped()).spawn().map_err(failed)?;
    // A program that dies early leaves a broken pipe; what it said on standard error tells more.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        written.map_err(failed)?;
        return Ok(output);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> =
        stderr.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
    let message = if lines.is_empty() { output.status.to_string() } else { lines.join("; ") };
    Err(NetworkError::Iptables { program: program.to_owned(), message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named() {
        let error = Iptables::new(Some(Path::new("/nonexistent/iptables"))).save().unwrap_err();
        assert_eq!(
            error.to_string(),
            "/nonexistent/iptables-save was not found: install the package iptables"
        );
    }
}
