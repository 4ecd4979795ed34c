//! What an image is asked for by: `registry/namespace/name:tag@digest`.
//!
//! The grammar is that of the distribution specification ("Pulling manifests") and of distribution's
//! `reference` package, whose defaults for Docker Hub are kept too: `debian` is
//! `docker.io/library/debian:latest`.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;
use crate::error::ImageError;

/// The registry of a reference that names none.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The namespace of a Docker Hub reference that names none.
pub const DEFAULT_NAMESPACE: &str = "library";
/// The tag of a reference that has neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";

const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// A complete reference: a registry, a repository, and a tag or a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry as `host[:port]`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository: namespaces and name, without the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; none when only a digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest the content is pinned to.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The reference as people write it: Docker Hub's registry and its `library/` are left out, where that is
    /// read as the same again.
    pub fn familiar(&self) -> String {
        self.shortened(&self.to_string())
    }

    /// The repository as people write it, without tag and digest: the REPOSITORY column of a listing.
    pub fn familiar_repository(&self) -> String {
        self.shortened(&format!("{}/{}", self.registry, self.repository))
    }

    fn shortened(&self, whole: &str) -> String {
        let hub = whole.strip_prefix("docker.io/").unwrap_or(whole);
        let short = [hub.strip_prefix("library/"), Some(hub)].into_iter().flatten().find(|short| {
            let same = |read: Reference| read.registry == self.registry && read.repository == self.repository;
            parse(short).is_ok_and(same)
        });
        short.unwrap_or(whole).to_owned()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        parse(text).map_err(|reason| ImageError::InvalidReference { reference: text.to_owned(), reason })
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    if text.is_empty() {
        return Err("it is empty; write it as [REGISTRY/]NAME[:TAG][@DIGEST]".into());
    }
    if let Some(scheme) =
        ["https://", "http://", "docker://", "oci://"].iter().find(|scheme| text.starts_with(**scheme))
    {
        return Err(format!("a reference has no scheme; leave out {scheme}"));
    }
    let (rest, digest) = match text.split_once('@') {
        None => (text, None),
        Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|error| error.to_string())?)),
    };
    // A colon after the last slash begins a tag; one before it begins a port.
    let slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match rest[slash..].find(':') {
        None => (rest, None),
        Some(at) => (&rest[..slash + at], Some(&rest[slash + at + 1..])),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let (registry, repository) = split_registry(name);
    check_registry(&registry)?;
    check_repository(&repository)?;
    let tag = match (tag, &digest) {
        (Some(tag), _) => Some(tag.to_owned()),
        (None, Some(_)) => None,
        (None, None) => Some(DEFAULT_TAG.to_owned()),
    };
    Ok(Reference { registry, repository, tag, digest })
}

/// The first component is a registry when it could not be a namespace: it has a dot, a port or an upper-case
/// letter, or is `localhost`.
fn split_registry(name: &str) -> (String, String) {
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':', '['])
                || first == "localhost"
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, name),
    };
    let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
    let repository = if registry == DEFAULT_REGISTRY && !repository.is_empty() && !repository.contains('/') {
        format!("{DEFAULT_NAMESPACE}/{repository}")
    } else {
        repository.to_owned()
    };
    (registry.to_owned(), repository)
}

/// Checks a `host[:port]`, where the host is a name, an IPv4 address or an IPv6 address in brackets.
pub(crate) fn check_registry(registry: &str) -> Result<(), String> {
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let (address, after) =
                rest.split_once(']').ok_or("the registry's IPv6 address has no closing bracket")?;
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(format!("[{address}] is no IPv6 address"));
            }
            match after {
                "" => (None, None),
                after => (
                    None,
                    Some(after.strip_prefix(':').ok_or("only a port may follow the registry's address")?),
                ),
            }
        }
        None => match registry.split_once(':') {
            None => (Some(registry), None),
            Some((host, port)) => (Some(host), Some(port)),
        },
    };
    if let Some(port) = port {
        let known = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        if !known || port.parse::<u16>().is_err() {
            return Err(format!("{port:?} is no port of a registry"));
        }
    }
    let Some(host) = host else { return Ok(()) };
    let fits = |label: &str| {
        let bytes = label.as_bytes();
        let edges = bytes.first().zip(bytes.last());
        edges.is_some_and(|(first, last)| first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric())
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
    };
    match host.split('.').all(fits) {
        true => Ok(()),
        false => Err(format!("{host:?} is no host name of a registry")),
    }
}

/// Checks the path of a repository: components of `[a-z0-9]+`, joined inside by `.`, `_`, `__` or dashes.
pub(crate) fn check_repository(repository: &str) -> Result<(), String> {
    if repository.is_empty() {
        return Err("the repository's name is missing".into());
    }
    if repository.len() > NAME_MAX {
        return Err(format!("the repository's name is longer than {NAME_MAX} characters"));
    }
    if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("the repository's name must be in lower case".into());
    }
    let bare = repository.strip_prefix("library/").unwrap_or(repository);
    if bare.len() == 64 && bare.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("64 hexadecimal digits are an image id, not a name".into());
    }
    for component in repository.split('/') {
        if component.is_empty() {
            return Err("a component between two slashes is empty".into());
        }
        check_component(component)?;
    }
    Ok(())
}

fn check_component(component: &str) -> Result<(), String> {
    let wrong = || {
        format!(
            "{component:?} may hold a-z, 0-9 and, between those, one dot, one or two underscores or dashes"
        )
    };
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let from = at;
        while at < bytes.len() && alphanumeric(bytes[at]) {
            at += 1;
        }
        if at == from {
            return Err(wrong());
        }
        if at == bytes.len() {
            return Ok(());
        }
        let from = at;
        while at < bytes.len() && !alphanumeric(bytes[at]) {
            at += 1;
        }
        let joint = &bytes[from..at];
        let dashes = joint.iter().all(|byte| *byte == b'-');
        if at == bytes.len() || !(dashes || matches!(joint, b"." | b"_" | b"__")) {
            return Err(wrong());
        }
    }
    Err(wrong())
}

/// Checks a tag.
pub(crate) fn check_tag(tag: &str) -> Result<(), String> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = tag.as_bytes();
    match bytes.first() {
        None => Err("the tag after the colon is empty".into()),
        Some(_) if bytes.len() > TAG_MAX => Err(format!("the tag is longer than {TAG_MAX} characters")),
        Some(first) if !word(*first) => {
            Err(format!("the tag {tag:?} must begin with a letter, a digit or an underscore"))
        }
        Some(_) if !bytes.iter().all(|byte| word(*byte) || matches!(byte, b'.' | b'-')) => {
            Err(format!("the tag {tag:?} may hold letters, digits, underscores, dots and dashes"))
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn references_are_completed_and_shortened() {
        for (text, canonical, familiar) in [
            ("debian", "docker.io/library/debian:latest", "debian:latest"),
            ("debian:12", "docker.io/library/debian:12", "debian:12"),
            ("kubeguide/tomcat-app:v1", "docker.io/kubeguide/tomcat-app:v1", "kubeguide/tomcat-app:v1"),
            ("docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
            ("index.docker.io/a/b", "docker.io/a/b:latest", "a/b:latest"),
            (
                "registry.cn-hangzhou.aliyuncs.com/kube-easy/app:latest",
                "registry.cn-hangzhou.aliyuncs.com/kube-easy/app:latest",
                "registry.cn-hangzhou.aliyuncs.com/kube-easy/app:latest",
            ),
            // Without `library` it would be another repository, without the registry another registry.
            ("library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
            ("docker.io/a.b/c", "docker.io/a.b/c:latest", "docker.io/a.b/c:latest"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("127.0.0.1:5000/a/b/c/d:1", "127.0.0.1:5000/a/b/c/d:1", "127.0.0.1:5000/a/b/c/d:1"),
            ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
            ("Host/app", "Host/app:latest", "Host/app:latest"),
            ("a.b/c__d/e-----f.g_h:V_1.2-3", "a.b/c__d/e-----f.g_h:V_1.2-3", "a.b/c__d/e-----f.g_h:V_1.2-3"),
        ] {
            let reference: Reference = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(reference.to_string(), canonical, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
            assert_eq!(canonical.parse::<Reference>().expect("canonical"), reference);
        }
    }

    #[test]
    fn digests_stand_alone_or_pin_a_tag() {
        let pinned: Reference = format!("debian:12@sha256:{HEX}").parse().expect("well formed");
        assert_eq!((pinned.tag(), pinned.digest().map(Digest::hex)), (Some("12"), Some(HEX.to_owned())));
        assert_eq!(pinned.to_string(), format!("docker.io/library/debian:12@sha256:{HEX}"));
        let bare: Reference = format!("h:1/debian@sha256:{HEX}").parse().expect("well formed");
        assert_eq!((bare.registry(), bare.tag()), ("h:1", None));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let long = "a".repeat(256);
        for (text, word) in [
            ("", "empty"),
            ("https://h/app", "scheme"),
            ("App", "lower case"),
            ("a//b", "empty"),
            ("/a", "empty"),
            ("a/", "empty"),
            ("a..b", "a..b"),
            ("a___b", "a___b"),
            ("-a", "-a"),
            ("a-", "a-"),
            ("a.b/", "missing"),
            ("a:", "tag after the colon"),
            ("a:-x", "must begin"),
            ("a:x y", "may hold"),
            ("h:99999/a", "port"),
            ("h:x/a", "port"),
            ("-h.x/a", "host name"),
            ("[::1/a", "bracket"),
            ("a@sha256:12", "64"),
            ("a@md5:d41d8cd98f00b204e9800998ecf8427e", "md5"),
            (HEX, "image id"),
            ("a b", "a b"),
            ("../etc/passwd", ".."),
            (&long, "longer"),
        ] {
            let error = text.parse::<Reference>().expect_err(text).to_string();
            assert!(error.contains(word), "{text:?}: {error}");
            assert!(!error.contains('\n'), "{text:?}: {error}");
        }
    }
}
