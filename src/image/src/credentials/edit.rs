//! Changes to docker's `config.json`: one entry of `auths`, and nothing else.
//!
//! The file belongs to docker, podman and people too. Keys that mean nothing to us stay as they are written and where
//! they stand; the new file replaces the old one at one moment, for its owner alone to read.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde_json::value::{RawValue, to_raw_value};

use super::Credentials;
use super::docker::{DockerConfig, encode, place_of, server};
use crate::error::{ImageError, Result};

/// A JSON object: its keys in their order, its values as written.
type Object = IndexMap<String, Box<RawValue>>;

/// Where credentials were put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// Into this file, where whoever can read it can read them.
    File(PathBuf),
    /// To this credential helper.
    Helper(String),
}

impl DockerConfig {
    /// Keeps what a host is to be shown from now on: with its helper, or in the file. `username` is who it stands
    /// for, also where it is a token.
    pub(crate) fn keep(&self, host: &str, username: &str, credentials: &Credentials) -> Result<Kept> {
        let (entry, kept) = match self.helper(host)? {
            Some(helper) => {
                helper.store(server(host), credentials)?;
                // By this docker knows that the helper has something to be asked for.
                (serde_json::json!({}), Kept::Helper(helper.to_string()))
            }
            None => {
                let entry = match credentials {
                    Credentials::Basic { username, password } => {
                        serde_json::json!({ "auth": encode(username, password) })
                    }
                    Credentials::IdentityToken(token) => {
                        serde_json::json!({ "auth": encode(username, ""), "identitytoken": token })
                    }
                    Credentials::RegistryToken(token) => serde_json::json!({ "registrytoken": token }),
                };
                (entry, Kept::File(self.path()?.to_owned()))
            }
        };
        let entry = to_raw_value(&entry).expect("texts can be written as JSON");
        change(self.path()?, |auths| {
            auths.retain(|key, _| key == server(host) || place_of(key) != host);
            auths.insert(server(host).to_owned(), entry);
        })?;
        Ok(kept)
    }

    /// Forgets what is kept for a host; says whether anything was.
    pub(crate) fn forget(&self, host: &str) -> Result<bool> {
        let mut known = self.names(host);
        if let Some(helper) = self.helper(host)? {
            known |= helper.get(server(host))?.is_some();
            if known {
                helper.erase(server(host))?;
            }
        }
        if self.names(host) {
            change(self.path()?, |auths| auths.retain(|key, _| place_of(key) != host))?;
        }
        Ok(known)
    }

    fn path(&self) -> Result<&Path> {
        self.path.as_deref().ok_or_else(|| ImageError::Config {
            path: "config.json".into(),
            reason: "neither HOME nor DOCKER_CONFIG says where it is to be".into(),
        })
    }
}

/// Changes the `auths` of the file at `path`, which need not exist.
fn change(path: &Path, change: impl FnOnce(&mut Object)) -> Result<()> {
    // What a link leads to is changed, not the link.
    let path = match fs::canonicalize(path) {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(ImageError::io("find", path)(error)),
    };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let folder = parent.unwrap_or(Path::new("."));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(ImageError::io("make the folder", folder))?;
    // Held until the end: of two who change the file at once, the second reads what the first wrote.
    let lock = File::open(folder).map_err(ImageError::io("open", folder))?;
    lock.lock().map_err(ImageError::io("lock", folder))?;

    let (mut file, owner) = match fs::read_to_string(&path) {
        Ok(text) => {
            let file: Object = serde_json::from_str(&text)
                .map_err(|error| ImageError::Config { path: path.clone(), reason: error.to_string() })?;
            (file, Some(fs::metadata(&path).map_err(ImageError::io("examine", &path))?))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => (Object::new(), None),
        Err(error) => return Err(ImageError::io("read", path)(error)),
    };
    let mut auths: Object = match file.get("auths").filter(|auths| auths.get() != "null") {
        None => Object::new(),
        Some(auths) => serde_json::from_str(auths.get())
            .map_err(|error| ImageError::Config { path: path.clone(), reason: format!("auths: {error}") })?,
    };
    change(&mut auths);
    // Where it is new it stands first, as docker writes it.
    let auths = tabbed(&auths, 1);
    match file.get_mut("auths") {
        Some(old) => *old = auths,
        None => drop(file.shift_insert(0, "auths".into(), auths)),
    }

    let failed = |operation| ImageError::io(operation, path.clone());
    let mut new = tempfile::NamedTempFile::new_in(folder).map_err(failed("write a new"))?;
    let ours = new.as_file().metadata().map_err(failed("write a new"))?;
    if let Some(owner) = owner.filter(|owner| (owner.uid(), owner.gid()) != (ours.uid(), ours.gid())) {
        std::os::unix::fs::fchown(new.as_file(), Some(owner.uid()), Some(owner.gid()))
            .map_err(failed("keep the owner of"))?;
    }
    let text = tabbed(&file, 0);
    new.write_all(text.get().as_bytes()).and_then(|()| new.write_all(b"\n")).map_err(failed("write"))?;
    new.as_file().sync_all().map_err(failed("sync"))?;
    new.persist(&path).map_err(|error| failed("replace")(error.error))?;
    Ok(())
}

/// An object with one key a line behind tabs, as docker writes it, for a place this deep.
fn tabbed(object: &Object, depth: usize) -> Box<RawValue> {
    let mut lines = Vec::new();
    for (key, value) in object {
        let key = serde_json::to_string(key).expect("a text can be written as JSON");
        lines.push(format!("{}{key}: {}", "\t".repeat(depth + 1), value.get()));
    }
    let text = match lines.is_empty() {
        true => "{}".to_owned(),
        false => format!("{{\n{}\n{}}}", lines.join(",\n"), "\t".repeat(depth)),
    };
    RawValue::from_string(text).expect("pieces of JSON make JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn basic(password: &str) -> Credentials {
        Credentials::Basic { username: "u".into(), password: password.into() }
    }

    fn config(path: &Path) -> DockerConfig {
        DockerConfig::read_from(path.to_owned()).expect("readable")
    }

    #[test]
    fn a_file_is_made_for_its_owner_alone() {
        let home = tempfile::tempdir().expect("a folder");
        let path = home.path().join(".docker/config.json");
        assert!(!config(&path).forget("h.x").expect("nothing is no failure"));
        assert!(!path.exists());
        assert_eq!(
            config(&path).keep("docker.io", "u", &basic("p")).expect("kept"),
            Kept::File(path.clone())
        );
        let text = fs::read_to_string(&path).expect("written");
        assert_eq!(
            text,
            "{\n\t\"auths\": {\n\t\t\"https://index.docker.io/v1/\": {\"auth\":\"dTpw\"}\n\t}\n}\n"
        );
        let mode = |path: &Path| fs::metadata(path).expect("there").mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().expect("below"))), (0o600, 0o700));
        assert_eq!(config(&path).credentials("docker.io", "a").expect("no helper"), Some(basic("p")));
        let token = Credentials::IdentityToken("t".into());
        config(&path).keep("h.x", "u", &token).expect("kept");
        assert_eq!(config(&path).credentials("h.x", "a").expect("no helper"), Some(token));
    }

    #[test]
    fn everything_else_stays_as_it_is_written() {
        let home = tempfile::tempdir().expect("a folder");
        let real = home.path().join("real.json");
        let path = home.path().join("config.json");
        let before = "{\"z\": [1,  2], \"auths\": {\"b.x\": {\"auth\": \"YTpi\", \"email\": \"e\"}, \"http://h.x/v1/\": {},\
                      \"h.x/team\": {\"auth\": \"YTpi\"}}, \"HttpHeaders\": {\"B\": \"1\",\n \"A\": 1e400}}";
        fs::write(&real, before).expect("written");
        fs::set_permissions(&real, fs::Permissions::from_mode(0o644)).expect("ours");
        std::os::unix::fs::chown(&real, Some(1234), Some(1235)).expect("tests run as root");
        symlink("real.json", &path).expect("linked");
        config(&path).keep("h.x", "u", &basic("p")).expect("kept");
        let expected = "{\n\t\"z\": [1,  2],\n\t\"auths\": {\n\t\t\"b.x\": {\"auth\": \"YTpi\", \"email\": \"e\"},\n\
                        \t\t\"h.x/team\": {\"auth\": \"YTpi\"},\n\t\t\"h.x\": {\"auth\":\"dTpw\"}\n\t},\n\
                        \t\"HttpHeaders\": {\"B\": \"1\",\n \"A\": 1e400}\n}\n";
        assert_eq!(fs::read_to_string(&real).expect("written"), expected);
        let facts = fs::metadata(&real).expect("there");
        assert_eq!((facts.mode() & 0o777, facts.uid(), facts.gid()), (0o600, 1234, 1235));
        assert!(fs::symlink_metadata(&path).expect("there").is_symlink());

        assert!(config(&path).forget("h.x").expect("forgotten"));
        assert!(!config(&path).forget("h.x").expect("forgotten already"));
        let left = expected.replace(",\n\t\t\"h.x\": {\"auth\":\"dTpw\"}", "");
        assert_eq!(fs::read_to_string(&real).expect("written"), left);
        assert_eq!(fs::read_dir(home.path()).expect("a folder").count(), 2, "no new file is left over");
    }

    #[test]
    fn those_who_change_it_at_once_lose_nothing() {
        let home = tempfile::tempdir().expect("a folder");
        let path = home.path().join("config.json");
        let hosts: Vec<String> = (0..8).map(|at| format!("h{at}.x")).collect();
        std::thread::scope(|scope| {
            for host in &hosts {
                scope.spawn(|| config(&path).keep(host, "u", &basic("p")).expect("kept"));
            }
        });
        let config = config(&path);
        assert!(hosts.iter().all(|host| config.names(host)), "{config:?}");
    }

    #[test]
    fn a_file_that_is_no_json_is_left_alone() {
        let home = tempfile::tempdir().expect("a folder");
        let path = home.path().join("config.json");
        for text in ["[]", "{", "{\"auths\": 1}"] {
            fs::write(&path, text).expect("written");
            let error = change(&path, |_| {}).expect_err(text).to_string();
            assert!(error.contains("config.json"), "{error}");
            assert_eq!(fs::read_to_string(&path).expect("still there"), text);
        }
    }
}
