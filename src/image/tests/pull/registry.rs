//! A real registry (Debian's docker-registry) on the loopback of a network namespace of the test's own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

/// The address every registry of a test listens on: its network is its own.
pub const HOST: &str = "127.0.0.1:5000";
/// `user:secret` for the registry with passwords, as htpasswd's bcrypt has it.
const HTPASSWD: &str = "user:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// Moves this thread, and what it starts from now on, into an empty network with a loopback.
pub fn own_network() {
    unshare(CloneFlags::CLONE_NEWNET).expect("tests run as root");
    run(Command::new("ip").args(["link", "set", "lo", "up"]));
}

/// A registry that ends with the test.
pub struct Registry {
    child: Child,
    folder: TempDir,
}

impl Registry {
    /// Starts a registry, with passwords or without, and waits until it listens.
    pub fn start(passwords: bool) -> Registry {
        Registry::start_with(passwords, None)
    }

    /// The same, with TLS when a certificate and its key are given.
    pub fn start_with(passwords: bool, tls: Option<(&Path, &Path)>) -> Registry {
        Registry::listen(HOST, passwords, tls)
    }

    /// One without either at another address.
    pub fn start_at(host: &str) -> Registry {
        Registry::listen(host, false, None)
    }

    fn listen(host: &str, passwords: bool, tls: Option<(&Path, &Path)>) -> Registry {
        let folder = tempfile::tempdir().expect("a folder");
        let tls = tls.map_or(String::new(), |(certificate, key)| {
            format!(", tls: {{certificate: {}, key: {}}}", certificate.display(), key.display())
        });
        let auth = if passwords {
            let file = folder.path().join("htpasswd");
            fs::write(&file, HTPASSWD).expect("written");
            format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", file.display())
        } else {
            String::new()
        };
        let config = folder.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp: {{addr: {host}{tls}}}\n{auth}",
            folder.path().join("data").display()
        );
        fs::write(&config, text).expect("written");
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry is installed");
        let errors = child.stderr.take().expect("piped");
        let log = std::thread::spawn(move || {
            BufReader::new(errors).lines().map_while(Result::ok).collect::<Vec<_>>()
        });
        let begun = Instant::now();
        while TcpStream::connect(host).is_err() {
            if child.try_wait().expect("our child").is_some() || begun.elapsed() > Duration::from_secs(20) {
                drop(child.kill());
                panic!("the registry did not start: {:?}", log.join());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Registry { child, folder }
    }

    /// The file that holds a blob, to be tampered with.
    pub fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").expect("sha256");
        self.folder.path().join("data/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }

    /// Copies an image of an OCI layout to `HOST/NAME` with skopeo.
    pub fn push(&self, layout: &Path, tag: &str, name: &str, options: &[&str]) {
        run(Command::new("skopeo")
            .args([
                "copy",
                "--quiet",
                "--insecure-policy",
                "--dest-tls-verify=false",
                "--dest-creds=user:secret",
            ])
            .args(options)
            .arg(format!("oci:{}:{tag}", layout.display()))
            .arg(format!("docker://{HOST}/{name}")));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs a command that must succeed, and returns what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
