//! Content digests: the only name content has in the store.
//!
//! A digest from the network is text until it has been parsed here; a [`Digest`] is therefore always safe
//! to use as a file name. Only sha256 is stored so far (`algorithm:hex`, OCI image-spec descriptor.md).

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

/// Why a text is no digest that this store can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `algorithm:` before the value.
    #[error("a digest is written sha256:HEX")]
    Form,
    /// An algorithm that is not supported.
    #[error("the digest algorithm {algorithm:?} is not supported, only sha256 is")]
    Algorithm {
        /// What was asked for.
        algorithm: String,
    },
    /// Not exactly 64 lower-case hexadecimal digits.
    #[error("a sha256 digest has 64 lower-case hexadecimal digits")]
    Hex,
}

/// A sha256 digest of exact bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Digest(sha2::Sha256::digest(bytes).into())
    }

    /// The 64 hexadecimal digits without the algorithm: the name of the file that holds the content.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The chain id of a layer on top of `parent` (image-spec config.md, "Layer ChainID").
    pub fn chained(parent: Option<&Digest>, diff_id: &Digest) -> Digest {
        match parent {
            None => *diff_id,
            Some(parent) => Digest::of(format!("{parent} {diff_id}").as_bytes()),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, value) = text.split_once(':').ok_or(DigestError::Form)?;
        if algorithm != "sha256" {
            return Err(DigestError::Algorithm { algorithm: algorithm.to_owned() });
        }
        if value.len() != 64 || !value.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(DigestError::Hex);
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(value, &mut bytes).map_err(|_| DigestError::Hex)?;
        Ok(Digest(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Digests what is written to it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Digester {
    state: sha2::Sha256,
    bytes: u64,
}

impl Digester {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// How many bytes were digested.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn finish(self) -> Digest {
        Digest(self.state.finalize().into())
    }
}

impl Write for Digester {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn only_well_formed_sha256_is_read() {
        assert_eq!(EMPTY.parse::<Digest>().expect("well formed"), Digest::of(b""));
        for (text, expected) in [
            ("", DigestError::Form),
            ("e3b0", DigestError::Form),
            ("md5:d41d8cd98f00b204e9800998ecf8427e", DigestError::Algorithm { algorithm: "md5".into() }),
            ("sha256:e3b0", DigestError::Hex),
            ("sha256:../../../../etc/passwd", DigestError::Hex),
            (&EMPTY.to_uppercase().replace("SHA256", "sha256"), DigestError::Hex),
        ] {
            assert_eq!(text.parse::<Digest>(), Err(expected), "{text}");
        }
    }

    #[test]
    fn chain_ids_are_those_of_the_specification() {
        let base = Digest::of(b"a");
        let upper = Digest::of(b"b");
        assert_eq!(Digest::chained(None, &base), base);
        assert_eq!(
            Digest::chained(Some(&base), &upper),
            Digest::of(format!("sha256:{} sha256:{}", base.hex(), upper.hex()).as_bytes())
        );
    }
}
