//! Programs that keep secrets: `docker-credential-NAME get|store|erase` (docker-credential-helpers, "Development").
//!
//! The host, or for `store` a document, goes to their standard input. What they answer, a document or a reason, comes
//! from their standard output; how much and how late is bounded.

use std::fmt;
use std::io::{self, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Credentials;
use crate::error::{ImageError, Result};

/// How long one may take: long enough for a person to unlock what it keeps.
const PATIENCE: Duration = Duration::from_secs(120);
const OUTPUT_MAX: u64 = 1 << 20;
/// How much of a reason is repeated.
const REASON_MAX: usize = 300;
/// What every helper says that has nothing for a host.
const NOTHING: &str = "credentials not found in native keychain";
/// The name that marks a secret as an identity token.
const TOKEN: &str = "<token>";

/// A helper, by the name that the configuration has for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Helper {
    program: String,
    patience: Duration,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Secret<'s> {
    #[serde(default, rename = "ServerURL")]
    server: std::borrow::Cow<'s, str>,
    username: std::borrow::Cow<'s, str>,
    secret: std::borrow::Cow<'s, str>,
}

impl fmt::Display for Helper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.program)
    }
}

impl Helper {
    /// The helper of this name, which is looked for in `PATH` alone.
    ///
    /// # Errors
    /// When the name could lead elsewhere.
    pub(crate) fn named(name: &str) -> std::result::Result<Helper, String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        match !name.is_empty() && name.bytes().all(plain) {
            true => Ok(Helper { program: format!("docker-credential-{name}"), patience: PATIENCE }),
            false => Err(format!(
                "{name:?} is no name of a credential helper; use letters, digits, dots, dashes and underscores"
            )),
        }
    }

    /// What is kept for `server`.
    pub(crate) fn get(&self, server: &str) -> Result<Option<Credentials>> {
        let failed = |reason| self.failed(server, reason);
        let answer = match self.call("get", server.as_bytes()).map_err(failed)? {
            Answer::Done(answer) => answer,
            Answer::Refused(reason) if reason.contains(NOTHING) => return Ok(None),
            Answer::Refused(reason) => return Err(failed(reason)),
        };
        let malformed = |_| failed("its answer is no {\"Username\", \"Secret\"}".into());
        let found: Secret<'_> = serde_json::from_slice(&answer).map_err(malformed)?;
        let (username, secret) = (found.username.into_owned(), found.secret.into_owned());
        Ok(match &*username {
            _ if secret.is_empty() => None,
            TOKEN => Some(Credentials::IdentityToken(secret)),
            _ => Some(Credentials::Basic { username, password: secret }),
        })
    }

    /// Keeps what `server` is to be shown from now on.
    pub(crate) fn store(&self, server: &str, credentials: &Credentials) -> Result<()> {
        let (username, secret) = match credentials {
            Credentials::Basic { username, password } => (&**username, password),
            Credentials::IdentityToken(token) | Credentials::RegistryToken(token) => (TOKEN, token),
        };
        let kept = Secret { server: server.into(), username: username.into(), secret: secret.into() };
        let kept = serde_json::to_vec(&kept).expect("texts can be written as JSON");
        match self.call("store", &kept).map_err(|reason| self.failed(server, reason))? {
            Answer::Done(_) => Ok(()),
            Answer::Refused(reason) => Err(self.failed(server, reason)),
        }
    }

    /// Forgets what is kept for `server`; it need not be there.
    pub(crate) fn erase(&self, server: &str) -> Result<()> {
        match self.call("erase", server.as_bytes()).map_err(|reason| self.failed(server, reason))? {
            Answer::Refused(reason) if !reason.contains(NOTHING) => Err(self.failed(server, reason)),
            _ => Ok(()),
        }
    }

    fn failed(&self, server: &str, reason: String) -> ImageError {
        ImageError::CredentialHelper { program: self.program.clone(), server: server.to_owned(), reason }
    }

    fn call(&self, verb: &str, input: &[u8]) -> std::result::Result<Answer, String> {
        let streams = Command::new(&self.program)
            .arg(verb)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = streams.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "it is not installed in PATH".to_owned(),
            _ => error.to_string(),
        })?;
        let answer = converse(&mut child, input, self.patience);
        if answer.is_err() {
            // It may have ended by itself meanwhile.
            drop(child.kill());
        }
        let status = child.wait().map_err(|error| error.to_string());
        let (output, errors) = answer?;
        if output.len() as u64 > OUTPUT_MAX {
            return Err(format!("it answered with more than {OUTPUT_MAX} bytes"));
        }
        let status = status?;
        match status.success() {
            true => Ok(Answer::Done(output)),
            false => Ok(Answer::Refused(reason(&output, &errors, status))),
        }
    }
}

/// What a helper that was run to its end gave.
enum Answer {
    Done(Vec<u8>),
    Refused(String),
}

/// Gives a helper its input and takes what it writes, until both its outputs end or `patience` does. The threads
/// of a helper that does not end are left behind; we fail for its sake soon.
fn converse(
    child: &mut Child,
    input: &[u8],
    patience: Duration,
) -> std::result::Result<(Vec<u8>, Vec<u8>), String> {
    let (mut stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let input = input.to_vec();
    let (done, said) = mpsc::channel();
    let errors = thread::spawn(move || read(stderr));
    thread::spawn(move || {
        // One that wants no input closes it, which is its own affair.
        drop(stdin.as_mut().map(|stdin| stdin.write_all(&input)));
        drop(stdin);
        let output = read(stdout);
        let errors = errors.join().unwrap_or_default();
        drop(done.send((output, errors)));
    });
    said.recv_timeout(patience).map_err(|_| format!("it did not answer within {} s", patience.as_secs()))
}

/// What comes, up to one byte more than is allowed. A stream that breaks off ends there.
fn read(stream: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    drop(stream.map(|stream| stream.take(OUTPUT_MAX + 1).read_to_end(&mut bytes)));
    bytes
}

/// Why a helper failed, in its own words where it has any.
fn reason(output: &[u8], errors: &[u8], status: ExitStatus) -> String {
    let words = [output, errors].map(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        let clean = text.chars().map(|char| if char.is_control() { ' ' } else { char });
        clean.take(REASON_MAX).collect::<String>().trim().to_owned()
    });
    words.into_iter().find(|words| !words.is_empty()).unwrap_or_else(|| status.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// A helper of the test's own, as a shell script.
    fn helper(folder: &tempfile::TempDir, script: &str, patience: Duration) -> Helper {
        let path = folder.path().join("helper");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("ours");
        Helper { program: path.to_string_lossy().into_owned(), patience }
    }

    #[test]
    fn a_helper_is_no_path() {
        for name in ["", "a/b", "../x", "a b", "x\0", "é"] {
            assert!(Helper::named(name).is_err(), "{name:?}");
        }
        assert_eq!(Helper::named("ecr-login").expect("a name").to_string(), "docker-credential-ecr-login");
    }

    #[test]
    fn answers_are_understood_and_failures_told_in_one_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let get = |script: &str| {
            let got = helper(&folder, script, PATIENCE).get("h.x");
            got.map_err(|error| error.to_string())
        };
        let basic = Credentials::Basic { username: "u".into(), password: "h.x".into() };
        // It is given the host, and the verb.
        let echo = r#"[ "$1" = get ] && printf '{"ServerURL":"x","Username":"u","Secret":"%s"}' "$(cat)""#;
        assert_eq!(get(echo), Ok(Some(basic)));
        let token = r#"echo '{"Username":"<token>","Secret":"t"}'"#;
        assert_eq!(get(token), Ok(Some(Credentials::IdentityToken("t".into()))));
        assert_eq!(get("echo credentials not found in native keychain; exit 1"), Ok(None));
        for (script, word) in [
            ("echo locked; echo up >&2; exit 1", "locked"),
            ("echo 'no\nagent' >&2; exit 2", "no agent"),
            ("exit 3", "exit status: 3"),
            ("echo hello", "Username"),
            ("head -c 2000000 /dev/zero", "more than"),
        ] {
            let error = get(script).expect_err(script);
            assert!(error.contains(word) && error.contains("h.x") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn one_that_is_missing_is_named() {
        let missing = Helper::named("no-such-helper").expect("a name");
        let error = missing.get("h.x").expect_err("missing").to_string();
        assert!(
            error.contains("docker-credential-no-such-helper") && error.contains("not installed"),
            "{error}"
        );
    }

    #[test]
    fn one_that_does_not_answer_is_ended() {
        let folder = tempfile::tempdir().expect("a folder");
        let pid = folder.path().join("pid");
        let script = format!("echo $$ > {}; exec sleep 1000", pid.display());
        // Long enough that the script has begun, which is seen below.
        let error = helper(&folder, &script, Duration::from_secs(5)).get("h.x").expect_err("no answer");
        assert!(error.to_string().contains("did not answer"), "{error}");
        let pid = fs::read_to_string(pid).expect("it had begun");
        assert!(!std::path::Path::new("/proc").join(pid.trim()).exists());
    }

    #[test]
    fn secrets_are_handed_over_and_taken_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        let helper = helper(&folder, &format!("echo \"$1 $(cat)\" >> {}", log.display()), PATIENCE);
        let basic = Credentials::Basic { username: "u".into(), password: "p\"q".into() };
        helper.store("h.x", &basic).expect("stored");
        helper.store("h.x", &Credentials::IdentityToken("t".into())).expect("stored");
        helper.erase("h.x").expect("erased");
        assert_eq!(
            fs::read_to_string(log).expect("written"),
            "store {\"ServerURL\":\"h.x\",\"Username\":\"u\",\"Secret\":\"p\\\"q\"}\n\
             store {\"ServerURL\":\"h.x\",\"Username\":\"<token>\",\"Secret\":\"t\"}\n\
             erase h.x\n"
        );
    }
}
