//! Debian's docker-registry, on loopback of a network namespace.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::authority::{Authority, Identity};
use super::netns::Netns;
use super::program::{self, LIMIT};
use super::token::{ISSUER, SERVICE, TokenServer};
use super::wait::within;

/// Whom a registry with `htpasswd` lets in, and the password's bcrypt hash.
pub const USER: &str = "reader";
/// The password.
pub const PASSWORD: &str = "secret";
const HTPASSWD: &str = "reader:$2y$05$ImSWHDb5v1Ax9fOnNN7KEeoqfyXz.GsjnohcDcsENfWnZHrxVvdFm\n";

/// How a registry is reached, and whom it lets in.
#[derive(Debug, Clone, Default)]
pub struct RegistrySpec<'s> {
    /// Those who know the password only.
    pub passwords: bool,
    /// Those who have a token only.
    pub tokens: Option<&'s TokenServer>,
    /// Where it says that tokens come from, if not from there.
    pub realm: Option<String>,
    /// By TLS.
    pub identity: Option<&'s Identity>,
    /// Those only who have a certificate of this authority.
    pub clients: Option<&'s Authority>,
}

/// A running registry; killed when dropped.
#[derive(Debug)]
pub struct Registry {
    process: Child,
    port: u16,
    storage: PathBuf,
}

impl Registry {
    /// Starts one in `netns` that keeps its content in `dir/storage`, which may hold some.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(netns: &Netns, dir: &Path) -> Self {
        Self::start_as(netns, dir, &RegistrySpec::default())
    }

    /// The same, for those who know the password only.
    pub fn start_private(netns: &Netns, dir: &Path) -> Self {
        Self::start_as(netns, dir, &RegistrySpec { passwords: true, ..RegistrySpec::default() })
    }

    /// The same, as the specification has it.
    pub fn start_as(netns: &Netns, dir: &Path, spec: &RegistrySpec<'_>) -> Self {
        fs::create_dir_all(dir).expect("a temporary folder can be written");
        let auth = if spec.passwords {
            let users = dir.join("htpasswd");
            fs::write(&users, HTPASSWD).expect("a temporary folder can be written");
            format!("auth: {{ htpasswd: {{ realm: private, path: {} }} }}\n", users.display())
        } else if let Some(server) = spec.tokens {
            format!(
                "auth: {{ token: {{ realm: \"{}\", service: {SERVICE}, issuer: {ISSUER}, rootcertbundle: {} }} }}\n",
                spec.realm.clone().unwrap_or_else(|| server.realm()),
                server.certificate().display()
            )
        } else {
            String::new()
        };
        let tls = spec.identity.map_or(String::new(), |Identity { certificate, key }| {
            let clients = spec.clients.map_or(String::new(), |authority| {
                format!(", clientcas: [{}]", authority.certificate().display())
            });
            format!(", tls: {{ certificate: {}, key: {}{clients} }}", certificate.display(), key.display())
        });
        // Several may share the storage.
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("registry-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let (config, log) = (dir.join(format!("{name}.yml")), dir.join(format!("{name}.log")));
        let storage = dir.join("storage");
        fs::create_dir_all(&storage).expect("a temporary folder can be written");
        let text = format!(
            "version: 0.1\nlog: {{ level: info }}\nhttp: {{ addr: \"127.0.0.1:0\"{tls} }}\n\
             storage: {{ filesystem: {{ rootdirectory: {} }} }}\n{auth}",
            storage.display()
        );
        fs::write(&config, text).expect("a temporary folder can be written");
        let output = File::create(&log).expect("a temporary folder can be written");
        // It dies with the thread of the test that starts it, whatever becomes of that.
        let process = netns
            .command("setpriv")
            .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("an open file can be shared"))
            .stderr(output)
            .spawn()
            .expect("failed to start docker-registry");
        let mut registry = Registry { process, port: 0, storage };
        registry.port = within(Duration::from_secs(20), "docker-registry to listen", || {
            let text = fs::read_to_string(&log).ok()?;
            if let Some(status) = registry.process.try_wait().expect("our own child can be waited for") {
                panic!("docker-registry ended with {status}: {text}");
            }
            let (_, rest) = text.split_once("listening on 127.0.0.1:")?;
            rest.split(|byte: char| !byte.is_ascii_digit()).next()?.parse().ok()
        });
        registry
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The file that holds a blob.
    pub fn blob(&self, digest: &str) -> PathBuf {
        let digits = digest.trim_start_matches("sha256:");
        self.storage.join("docker/registry/v2/blobs/sha256").join(&digits[..2]).join(digits).join("data")
    }

    /// Replaces a blob's content behind the registry's back, without touching others that share the file.
    pub fn replace_blob(&self, digest: &str, content: &[u8]) {
        let path = self.blob(digest);
        fs::remove_file(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        fs::write(&path, content).expect("the storage can be written");
    }

    /// Pushes the image `latest` of an OCI layout as `name`, by skopeo.
    ///
    /// # Panics
    /// When that fails.
    pub fn push(&self, netns: &Netns, layout: &Path, name: &str) {
        let mut skopeo = netns.command("skopeo");
        skopeo.args(["copy", "--all", "--quiet", "--insecure-policy", "--dest-tls-verify=false"]);
        skopeo.args(["--dest-creds", &format!("{USER}:{PASSWORD}")]);
        skopeo.arg(format!("oci:{}:latest", layout.display()));
        skopeo.arg(format!("docker://{}/{name}", self.host()));
        let output = program::run(&mut skopeo, b"", LIMIT);
        assert_eq!(output.code, 0, "failed to push {name}: {}", output.stderr);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
