//! Docker's `config.json`, which podman and skopeo read too: `auths`, `credHelpers`, `credsStore`.
//!
//! A key of `auths` is a host, or as podman has it a host and the beginning of a repository (`host/team`); the
//! longest that fits is taken (containers-auth.json(5)). Docker Hub's is an address, for history's sake.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::Credentials;
use super::helper::Helper;
use crate::error::{ImageError, Result};
use crate::reference::DEFAULT_REGISTRY;

/// What `docker login` calls Docker Hub.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// The part of the file that is used; other keys are other programs' business.
#[derive(Debug, Default)]
pub(crate) struct DockerConfig {
    /// Where the file is, or would be; nowhere without a home.
    pub(super) path: Option<PathBuf>,
    /// By `host` or `host/begin/of/repository`.
    auths: BTreeMap<String, Credentials>,
    /// The keys of `auths` that hold nothing: a helper keeps what belongs to them.
    empty: Vec<String>,
    /// The helper of a host; an empty name is none.
    helpers: BTreeMap<String, String>,
    /// The helper of all other hosts.
    store: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileSpec {
    auths: Option<BTreeMap<String, AuthSpec>>,
    cred_helpers: Option<BTreeMap<String, String>>,
    creds_store: Option<String>,
}

#[derive(Deserialize)]
struct AuthSpec {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl DockerConfig {
    /// Reads `$REGISTRY_AUTH_FILE`, else `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`. No file is no
    /// credentials.
    pub(crate) fn read() -> Result<DockerConfig> {
        match path_by(|name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)) {
            None => Ok(DockerConfig::default()),
            Some(path) => Self::read_from(path),
        }
    }

    pub(super) fn read_from(path: PathBuf) -> Result<DockerConfig> {
        let config = match fs::read_to_string(&path) {
            Ok(text) => parse(&text).map_err(|reason| ImageError::Config { path: path.clone(), reason })?,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                DockerConfig::default()
            }
            Err(error) => return Err(ImageError::io("read", path)(error)),
        };
        Ok(DockerConfig { path: Some(path), ..config })
    }

    /// What a repository's registry is to be shown: of the longest key that fits, or of the host's helper.
    ///
    /// # Errors
    /// When the helper fails.
    pub(crate) fn credentials(&self, host: &str, repository: &str) -> Result<Option<Credentials>> {
        let mut key = format!("{host}/{repository}");
        while let Some(slash) = key.rfind('/') {
            if let Some(found) = self.auths.get(&key) {
                return Ok(Some(found.clone()));
            }
            key.truncate(slash);
        }
        let helped = match self.helper(host)? {
            Some(helper) => helper.get(server(host))?,
            None => None,
        };
        Ok(helped.or_else(|| self.auths.get(host).cloned()))
    }

    /// The helper that keeps a host's credentials, if one does.
    pub(super) fn helper(&self, host: &str) -> Result<Option<Helper>> {
        let name = self.helpers.get(host).unwrap_or(&self.store);
        if name.is_empty() {
            return Ok(None);
        }
        let wrong = |reason| ImageError::Config { path: self.path.clone().unwrap_or_default(), reason };
        Helper::named(name).map(Some).map_err(wrong)
    }

    /// Whether the file has an entry for a host, be it empty.
    pub(super) fn names(&self, host: &str) -> bool {
        self.auths.contains_key(host) || self.empty.iter().any(|key| key == host)
    }
}

/// The file's path by the variables that are set.
fn path_by(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    variable("REGISTRY_AUTH_FILE")
        .or_else(|| variable("DOCKER_CONFIG").map(|folder| folder.join("config.json")))
        .or_else(|| variable("HOME").map(|home| home.join(Path::new(".docker/config.json"))))
}

/// What docker and its helpers call a host.
pub(super) fn server(host: &str) -> &str {
    if host == DEFAULT_REGISTRY { HUB_KEY } else { host }
}

/// What a key of the file stands for: `host`, or `host/begin/of/repository`.
pub(super) fn place_of(key: &str) -> String {
    let address = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let bare = address.unwrap_or(key).trim_end_matches('/');
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY,
        host => host,
    };
    // Addresses end in the version of the registry's interface, which is no repository.
    match address.is_some() || matches!(path, "" | "v1" | "v2") {
        true => host.to_owned(),
        false => format!("{host}/{path}"),
    }
}

fn parse(text: &str) -> std::result::Result<DockerConfig, String> {
    let file: FileSpec = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let (mut auths, mut empty) = (BTreeMap::new(), Vec::new());
    for (key, spec) in file.auths.unwrap_or_default() {
        let place = place_of(&key);
        let found = credentials(spec)
            .ok_or_else(|| format!("auths: {key:?}: auth is not the base64 of NAME:PASSWORD"))?;
        match found {
            Some(found) => drop(auths.insert(place, found)),
            None => empty.push(place),
        }
    }
    let helpers = file.cred_helpers.unwrap_or_default();
    let helpers = helpers.into_iter().map(|(key, name)| (place_of(&key), name)).collect();
    Ok(DockerConfig { path: None, auths, empty, helpers, store: file.creds_store.unwrap_or_default() })
}

/// The credentials of an entry, if it holds any; none at all when it is malformed.
fn credentials(spec: AuthSpec) -> Option<Option<Credentials>> {
    let some = |text: Option<String>| text.filter(|text| !text.is_empty());
    if let Some(token) = some(spec.registrytoken) {
        return Some(Some(Credentials::RegistryToken(token)));
    }
    if let Some(token) = some(spec.identitytoken) {
        return Some(Some(Credentials::IdentityToken(token)));
    }
    if let Some(auth) = some(spec.auth) {
        return decode(&auth).map(Some);
    }
    let pair = spec.username.zip(spec.password);
    Some(pair.map(|(username, password)| Credentials::Basic { username, password }))
}

fn decode(auth: &str) -> Option<Credentials> {
    let text = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    let (username, password) = (username.to_owned(), password.trim_end_matches('\0').to_owned());
    Some(Credentials::Basic { username, password })
}

/// The `auth` of an entry.
pub(super) fn encode(username: &str, password: &str) -> String {
    STANDARD.encode(format!("{username}:{password}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(username: &str, password: &str) -> Credentials {
        Credentials::Basic { username: username.to_owned(), password: password.to_owned() }
    }

    #[test]
    fn credentials_belong_to_their_host_and_to_the_longest_part_of_the_repository() {
        let config = parse(
            r#"{"auths": {"127.0.0.1:5000": {"auth": "dTpwOng="}, "https://index.docker.io/v1/": {"auth": "YTpi"},
                "c.d": {"username": "n", "password": "s"}, "c.d/team": {"username": "t", "password": "s"},
                "c.d/team/app": {"registrytoken": "r", "auth": "YTpi"}, "helped.io": {},
                "http://old.io/v2/": {"identitytoken": "i", "auth": "bjo="}}, "HttpHeaders": {"x": "y"}}"#,
        )
        .expect("well formed");
        for (host, repository, expected) in [
            ("127.0.0.1:5000", "x", Some(basic("u", "p:x"))),
            ("docker.io", "library/debian", Some(basic("a", "b"))),
            ("c.d", "team", Some(basic("t", "s"))),
            ("c.d", "team/app", Some(Credentials::RegistryToken("r".into()))),
            ("c.d", "team/app/x", Some(Credentials::RegistryToken("r".into()))),
            ("c.d", "team/apps", Some(basic("t", "s"))),
            ("c.d", "teams/app", Some(basic("n", "s"))),
            ("old.io", "a", Some(Credentials::IdentityToken("i".into()))),
            ("helped.io", "a", None),
            ("127.0.0.1", "x", None),
        ] {
            let found = config.credentials(host, repository).expect("no helper is asked");
            assert_eq!(found, expected, "{host}/{repository}");
        }
        assert!(config.names("helped.io") && !config.names("team"));
        let shown = format!("{config:?}");
        for secret in ["p:x", "\"r\"", "\"i\""] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }

    #[test]
    fn a_host_has_its_own_helper_or_that_of_all() {
        let config = parse(
            r#"{"auths": null, "credsStore": "all",
                "credHelpers": {"https://index.docker.io/v1/": "hub", "plain.io": "", "bad.io": "../evil"}}"#,
        )
        .expect("well formed");
        let helper = |host: &str| config.helper(host).map(|helper| helper.map(|helper| helper.to_string()));
        for (host, expected) in [
            ("docker.io", Some("docker-credential-hub")),
            ("any.io", Some("docker-credential-all")),
            ("plain.io", None),
        ] {
            assert_eq!(helper(host).expect("a name").as_deref(), expected, "{host}");
        }
        let error = helper("bad.io").expect_err("a path").to_string();
        assert!(error.contains("../evil"), "{error}");
    }

    #[test]
    fn what_is_malformed_is_named() {
        for (text, word) in [
            (r#"{"auths": {"h": {"auth": "!"}}}"#, "\"h\""),
            (r#"{"auths": {"h": {"auth": "YQ=="}}}"#, "\"h\""),
            (r#"{"auths": []}"#, "line 1"),
            ("{", "EOF"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn the_file_is_found_by_variables() {
        let all = [("REGISTRY_AUTH_FILE", "/r"), ("DOCKER_CONFIG", "/d"), ("HOME", "/h")];
        for (from, expected) in
            [(0, Some("/r")), (1, Some("/d/config.json")), (2, Some("/h/.docker/config.json")), (3, None)]
        {
            let variable = |name: &str| {
                let set = all[from..].iter().find(|(known, _)| *known == name);
                set.map(|(_, value)| PathBuf::from(value))
            };
            assert_eq!(path_by(variable), expected.map(PathBuf::from));
        }
    }
}
