//! How each registry is reached: `CONFIG_ROOT/registries.d/*.toml`, read at every pull.
//!
//! ```toml
//! [host."registry.example.com"]
//! mirrors = ["127.0.0.1:5000", "cache.local/hub"]   # asked in this order, then the registry itself
//!
//! [host."127.0.0.1:5000"]
//! plain-http = true                 # never assumed, not even for loopback
//!
//! [host."cache.local"]
//! ca-file = "/etc/ssl/cache.pem"    # trusted besides the system's own
//! client-cert = "/etc/ssl/us.pem"   # who we are to this host, by TLS
//! client-key = "/etc/ssl/us.key"
//! username = "reader"               # sent to this host only, and to
//! password = "secret"               #  token servers of its domain or
//! token-hosts = ["auth.example"]    #  of these names
//! max-parallel = 2                  # layers fetched from it at once
//! stall-seconds = 30                # it has stalled when it says nothing for so long
//! retries = 5                       # of one request, after failures that may pass
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::credentials::{Credentials, DockerConfig};
use crate::error::{ImageError, Result};
use crate::reference::{self, Reference};

const STALL_SECONDS: u32 = 30;
const RETRIES: u32 = 5;

/// The configuration of all registries.
#[derive(Debug, Default)]
pub struct Registries {
    hosts: BTreeMap<String, HostSpec>,
    pub(crate) docker: DockerConfig,
}

/// One `host` table, as written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct HostSpec {
    #[serde(default)]
    mirrors: Vec<String>,
    #[serde(default)]
    plain_http: bool,
    ca_file: Option<PathBuf>,
    client_cert: Option<PathBuf>,
    client_key: Option<PathBuf>,
    username: Option<String>,
    password: Option<String>,
    #[serde(default)]
    token_hosts: Vec<String>,
    max_parallel: Option<NonZeroUsize>,
    stall_seconds: Option<NonZeroU32>,
    retries: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSpec {
    #[serde(default)]
    host: BTreeMap<String, HostSpec>,
}

/// One place to ask for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `host[:port]`.
    pub host: String,
    /// The repository there: the mirror's prefix, if any, and the image's own repository.
    pub repository: String,
    /// HTTP without TLS.
    pub plain_http: bool,
    /// A PEM file of authorities to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// A PEM file with the certificate to show it.
    pub client_cert: Option<PathBuf>,
    /// The PEM file of that certificate's private key; there whenever the certificate is.
    pub client_key: Option<PathBuf>,
    /// Sent only to this host, and to token servers that may have them.
    pub credentials: Option<Credentials>,
    /// `host[:port]` of token servers elsewhere that may be sent the credentials.
    pub token_hosts: Vec<String>,
    /// How many layers may be fetched from it at once; at least 1.
    pub max_parallel: Option<usize>,
    /// How long it may say nothing before it counts as stalled.
    pub stall: Duration,
    /// How often one request is repeated after failures that may pass.
    pub retries: u32,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)
    }
}

impl Registries {
    /// Reads `config_root/registries.d/*.toml` in the order of their names, and docker's `config.json`.
    pub fn read(config_root: &Path) -> Result<Registries> {
        let mut hosts: BTreeMap<String, HostSpec> = BTreeMap::new();
        let mut seen: BTreeMap<String, PathBuf> = BTreeMap::new();
        for path in files(&config_root.join("registries.d"))? {
            let text = fs::read_to_string(&path).map_err(ImageError::io("read", &path))?;
            let file = parse(&text).map_err(|reason| ImageError::Config { path: path.clone(), reason })?;
            for (host, spec) in file.host {
                if let Some(other) = seen.insert(host.clone(), path.clone()) {
                    let reason =
                        format!("host {host:?} is configured in {} too; keep one of them", other.display());
                    return Err(ImageError::Config { path, reason });
                }
                hosts.insert(host, spec);
            }
        }
        Ok(Registries { hosts, docker: DockerConfig::read()? })
    }

    /// Where to ask for an image, in order: the registry's mirrors, then the registry.
    ///
    /// # Errors
    /// When what keeps an endpoint's credentials fails.
    pub fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>> {
        let registry = reference.registry();
        let mirrors = self.hosts.get(registry).map_or(&[][..], |spec| &spec.mirrors);
        let mirrors = mirrors.iter().map(|mirror| {
            let (host, prefix) = mirror.split_once('/').unwrap_or((mirror, ""));
            let slash = if prefix.is_empty() { "" } else { "/" };
            self.endpoint(host, format!("{prefix}{slash}{}", reference.repository()))
        });
        mirrors.chain([self.origin(reference)]).collect()
    }

    /// The registry of a reference itself, without its mirrors.
    pub(crate) fn origin(&self, reference: &Reference) -> Result<Endpoint> {
        self.endpoint(reference.registry(), reference.repository().to_owned())
    }

    /// A registry itself, without its mirrors and for no repository.
    pub(crate) fn host(&self, host: &str) -> Result<Endpoint> {
        self.endpoint(host, String::new())
    }

    fn endpoint(&self, host: &str, repository: String) -> Result<Endpoint> {
        let spec = self.hosts.get(host).cloned().unwrap_or_default();
        let credentials = match spec.username.zip(spec.password) {
            Some((username, password)) => Some(Credentials::Basic { username, password }),
            None => self.docker.credentials(host, &repository)?,
        };
        Ok(Endpoint {
            host: host.to_owned(),
            repository,
            plain_http: spec.plain_http,
            ca_file: spec.ca_file,
            client_cert: spec.client_cert,
            client_key: spec.client_key,
            credentials,
            token_hosts: spec.token_hosts,
            max_parallel: spec.max_parallel.map(NonZeroUsize::get),
            stall: Duration::from_secs(spec.stall_seconds.map_or(STALL_SECONDS, NonZeroU32::get).into()),
            retries: spec.retries.unwrap_or(RETRIES),
        })
    }
}

/// The `.toml` files of a folder by name; none when it is missing.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(ImageError::io("list", folder))?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(ImageError::io("list", folder))?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn parse(text: &str) -> std::result::Result<FileSpec, String> {
    let file: FileSpec = toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        let message = error.message().trim().replace('\n', ", ");
        line.map_or(message.clone(), |line| format!("line {line}: {message}"))
    })?;
    for (host, spec) in &file.host {
        let wrong = |reason: String| format!("host {host:?}: {reason}");
        reference::check_registry(host).map_err(wrong)?;
        for mirror in &spec.mirrors {
            let wrong = |reason: String| {
                format!("host {host:?}: mirrors: {mirror:?}: {reason}; write host[:port][/prefix]")
            };
            let (registry, prefix) = mirror.split_once('/').unwrap_or((mirror, ""));
            reference::check_registry(registry).map_err(wrong)?;
            if !prefix.is_empty() {
                reference::check_repository(prefix).map_err(wrong)?;
            }
        }
        if spec.username.is_some() != spec.password.is_some() {
            return Err(wrong("username and password come together".into()));
        }
        if spec.client_cert.is_some() != spec.client_key.is_some() {
            return Err(wrong("client-cert and client-key come together".into()));
        }
        if spec.plain_http {
            let secure = [("ca-file", &spec.ca_file), ("client-cert", &spec.client_cert)];
            if let Some((key, _)) = secure.iter().find(|(_, path)| path.is_some()) {
                return Err(wrong(format!("{key} means nothing with plain-http")));
            }
        }
        for (key, path) in
            [("ca-file", &spec.ca_file), ("client-cert", &spec.client_cert), ("client-key", &spec.client_key)]
        {
            if path.as_ref().is_some_and(|path| !path.is_absolute()) {
                return Err(wrong(format!("{key}: give the file's absolute path")));
            }
        }
        for token_host in &spec.token_hosts {
            reference::check_registry(token_host).map_err(|reason| {
                wrong(format!("token-hosts: {token_host:?}: {reason}; write host[:port]"))
            })?;
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_the_mirrors_then_the_registry() {
        let file = parse(
            r#"
            [host."registry.example.com"]
            mirrors = ["127.0.0.1:5000", "cache.local/hub/x"]
            [host."127.0.0.1:5000"]
            plain-http = true
            [host."cache.local"]
            ca-file = "/ca.pem"
            client-cert = "/cert.pem"
            client-key = "/key.pem"
            username = "u"
            password = "p"
            token-hosts = ["auth.example:8443"]
            max-parallel = 2
            stall-seconds = 7
            retries = 0
            "#,
        )
        .expect("well formed");
        let registries = Registries { hosts: file.host, docker: DockerConfig::default() };
        let reference = "registry.example.com/a/b:1".parse().expect("a reference");
        let endpoints = registries.endpoints(&reference).expect("no helper is asked");
        let seen: Vec<_> = endpoints
            .iter()
            .map(|endpoint| {
                (&*endpoint.host, &*endpoint.repository, endpoint.plain_http, endpoint.credentials.is_some())
            })
            .collect();
        assert_eq!(
            seen,
            [
                ("127.0.0.1:5000", "a/b", true, false),
                ("cache.local", "hub/x/a/b", false, true),
                ("registry.example.com", "a/b", false, false)
            ]
        );
        let (mirror, registry) = (&endpoints[1], &endpoints[2]);
        assert_eq!(mirror.ca_file.as_deref(), Some(Path::new("/ca.pem")));
        let pair = (mirror.client_cert.as_deref(), mirror.client_key.as_deref());
        assert_eq!(pair, (Some(Path::new("/cert.pem")), Some(Path::new("/key.pem"))));
        assert_eq!(mirror.token_hosts, ["auth.example:8443"]);
        let limits =
            |endpoint: &Endpoint| (endpoint.max_parallel, endpoint.stall.as_secs(), endpoint.retries);
        assert_eq!((limits(mirror), limits(registry)), ((Some(2), 7, 0), (None, 30, 5)));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_key_and_line() {
        for (text, words) in [
            ("[host.\"a.b\"]\nmirror = []", ["line 2", "unknown field `mirror`"]),
            ("[hosts]\n", ["line 1", "unknown field `hosts`"]),
            ("[host.\"a b\"]", ["a b", "host name"]),
            ("[host.\"a.b\"]\nmirrors = [\"http://x\"]", ["mirrors", "http://x"]),
            ("[host.\"a.b\"]\nmirrors = [\"x.y/UP\"]", ["mirrors", "lower case"]),
            ("[host.\"a.b\"]\nplain-http = 1", ["line 2", "expected a boolean"]),
            ("[host.\"a.b\"]\nusername = \"x\"", ["a.b", "together"]),
            ("[host.\"a.b\"]\nclient-cert = \"/x\"", ["a.b", "client-key come together"]),
            ("[host.\"a.b\"]\nplain-http = true\nca-file = \"/x\"", ["ca-file", "plain-http"]),
            ("[host.\"a.b\"]\nca-file = \"x\"", ["ca-file", "absolute"]),
            ("[host.\"a.b\"]\ntoken-hosts = [\"https://x\"]", ["token-hosts", "https://x"]),
            ("[host.\"a.b\"]\nmax-parallel = 0", ["line 2", "nonzero"]),
            ("[host.\"a.b\"]\nstall-seconds = 0", ["line 2", "nonzero"]),
            ("[host.\"a.b\"]\nretries = -1", ["line 2", "-1"]),
            ("[host.\"a.b\"", ["line 1", "unclosed table"]),
        ] {
            let error = parse(text).expect_err(text);
            assert!(
                words.iter().all(|word| error.contains(word)) && !error.contains('\n'),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn a_folder_is_read_in_order_and_errors_name_the_file() {
        let root = std::env::temp_dir().join(format!("image-registries-{}", std::process::id()));
        let folder = root.join("registries.d");
        assert!(Registries::read(&root).expect("none is fine").hosts.is_empty());
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("a.toml"), "[host.\"x.y\"]\nplain-http = true").expect("written");
        fs::write(folder.join("readme.txt"), "no toml").expect("written");
        assert!(Registries::read(&root).expect("readable").hosts["x.y"].plain_http);
        fs::write(folder.join("b.toml"), "[host.\"x.y\"]").expect("written");
        let error = Registries::read(&root).expect_err("twice").to_string();
        assert!(error.contains("b.toml") && error.contains("a.toml"), "{error}");
        fs::remove_dir_all(root).expect("removable");
    }
}
