//! Which machine an image is made for: `os/architecture[/variant]`, in Go's names (image-spec image-index.md).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An operating system, an architecture and, where it matters, a variant of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `v8`, `v7`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// The platform this program runs on.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "loongarch64" => "loong64",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            other => other,
        };
        Platform { os: "linux".into(), architecture: architecture.into(), variant: None }
    }

    /// How well an image for `self` serves whoever wants `wanted`: none, or the greater the better.
    pub(crate) fn fit(&self, wanted: &Platform) -> Option<u8> {
        if self.os != wanted.os || self.architecture != wanted.architecture {
            return None;
        }
        let default = |platform: &Platform| match (&platform.variant, platform.architecture.as_str()) {
            (Some(variant), _) => Some(variant.clone()),
            (None, "arm64") => Some("v8".to_owned()),
            (None, "arm") => Some("v7".to_owned()),
            (None, _) => None,
        };
        match (default(self), default(wanted)) {
            (own, asked) if own == asked => Some(3),
            (None, _) => Some(2),
            (Some(_), None) => Some(1),
            // An older arm runs on a newer one, and so does amd64/v1 on v3, but not the other way round.
            (Some(own), Some(asked)) if own < asked => Some(1),
            _ => None,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = String;

    /// Reads `os/architecture[/variant]`, or an architecture alone, which is then one of Linux.
    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match parts[..] {
            [architecture] => ("linux", architecture, None),
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant)),
            _ => return Err(format!("{text:?} is no platform; write it as os/architecture[/variant]")),
        };
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let plain = |part: &str| !part.is_empty() && part.bytes().all(word);
        if ![os, architecture, variant.unwrap_or("x")].into_iter().all(plain) {
            return Err(format!("{text:?} is no platform; write it as os/architecture[/variant]"));
        }
        let architecture = match architecture {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Ok(Platform { os: os.into(), architecture: architecture.into(), variant: variant.map(str::to_owned) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read_and_compared() {
        for (offered, wanted, fit) in [
            ("linux/amd64", "linux/amd64", Some(3)),
            ("linux/amd64", "x86_64", Some(3)),
            ("linux/arm64/v8", "linux/arm64", Some(3)),
            ("linux/arm64", "aarch64", Some(3)),
            ("linux/arm/v6", "linux/arm/v7", Some(1)),
            ("linux/arm/v7", "linux/arm/v6", None),
            ("linux/amd64/v3", "linux/amd64", Some(1)),
            ("windows/amd64", "linux/amd64", None),
            ("linux/386", "linux/amd64", None),
        ] {
            let offered: Platform = offered.parse().expect("a platform");
            let wanted: Platform = wanted.parse().expect("a platform");
            assert_eq!(offered.fit(&wanted), fit, "{offered} for {wanted}");
        }
        for wrong in ["", "a/b/c/d", "linux/", "lin ux/amd64"] {
            assert!(wrong.parse::<Platform>().is_err(), "{wrong}");
        }
    }
}
