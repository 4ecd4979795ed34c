//! Content digests: the only name content has in the store.
//!
//! A digest from the network is text until it has been parsed here; a [`Digest`] is therefore always safe
//! to use as a file name. The registered algorithms are known, sha256 and sha512 (`algorithm:hex`, OCI image-spec
//! descriptor.md); what is named here and by us is always sha256.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

/// Why a text is no digest that this store can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `algorithm:` before the value.
    #[error("a digest is written sha256:HEX or sha512:HEX")]
    Form,
    /// An algorithm that is not supported.
    #[error("the digest algorithm {algorithm:?} is not supported, only sha256 and sha512 are")]
    Algorithm {
        /// What was asked for.
        algorithm: String,
    },
    /// Not exactly as many lower-case hexadecimal digits as the algorithm gives.
    #[error("a {algorithm} digest has {digits} lower-case hexadecimal digits")]
    Hex {
        /// The algorithm.
        algorithm: Algorithm,
        /// How many it must be.
        digits: usize,
    },
}

/// The algorithms of the image specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-2 of 256 bits.
    Sha256,
    /// SHA-2 of 512 bits.
    Sha512,
}

impl Algorithm {
    /// All of them.
    pub(crate) const ALL: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

    /// As it is written before the colon.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    fn digits(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The digest of exact bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Digest {
    /// By SHA-256.
    Sha256([u8; 32]),
    /// By SHA-512.
    Sha512([u8; 64]),
}

impl Digest {
    /// The sha256 digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Digest::Sha256(sha2::Sha256::digest(bytes).into())
    }

    /// Whether this is the digest of `bytes`; what their digest by the same algorithm is, when not.
    pub(crate) fn check(&self, bytes: &[u8]) -> Result<(), Digest> {
        let mut digester = Digester::new(self.algorithm());
        digester.update(bytes);
        let actual = digester.finish();
        if actual == *self { Ok(()) } else { Err(actual) }
    }

    /// The algorithm it is by.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Digest::Sha256(_) => Algorithm::Sha256,
            Digest::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The hexadecimal digits without the algorithm: the name of the file that holds the content. Their number tells
    /// the algorithm.
    pub fn hex(&self) -> String {
        match self {
            Digest::Sha256(bytes) => hex::encode(bytes),
            Digest::Sha512(bytes) => hex::encode(bytes),
        }
    }

    /// The digest whose [`hex`](Digest::hex) this is.
    pub(crate) fn from_hex(text: &str) -> Option<Digest> {
        let algorithm = Algorithm::ALL.into_iter().find(|algorithm| algorithm.digits() == text.len())?;
        Digest::parse(algorithm, text).ok()
    }

    /// The chain id of a layer on top of `parent` (image-spec config.md, "Layer ChainID").
    pub fn chained(parent: Option<&Digest>, diff_id: &Digest) -> Digest {
        match parent {
            None => *diff_id,
            Some(parent) => Digest::of(format!("{parent} {diff_id}").as_bytes()),
        }
    }

    fn parse(algorithm: Algorithm, text: &str) -> Result<Digest, DigestError> {
        let wrong = || DigestError::Hex { algorithm, digits: algorithm.digits() };
        if !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(wrong());
        }
        match algorithm {
            Algorithm::Sha256 => {
                let mut bytes = [0; 32];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| wrong())?;
                Ok(Digest::Sha256(bytes))
            }
            Algorithm::Sha512 => {
                let mut bytes = [0; 64];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| wrong())?;
                Ok(Digest::Sha512(bytes))
            }
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm(), self.hex())
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
        let (name, value) = text.split_once(':').ok_or(DigestError::Form)?;
        let algorithm = Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name);
        let algorithm = algorithm.ok_or_else(|| DigestError::Algorithm { algorithm: name.to_owned() })?;
        Digest::parse(algorithm, value)
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
#[derive(Debug, Clone)]
pub(crate) struct Digester {
    state: State,
    bytes: u64,
}

#[derive(Debug, Clone)]
enum State {
    Sha256(sha2::Sha256),
    Sha512(Box<sha2::Sha512>),
}

impl Digester {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        let state = match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Box::default()),
        };
        Digester { state, bytes: 0 }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
        self.bytes += bytes.len() as u64;
    }

    /// How many bytes were digested.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn finish(self) -> Digest {
        match self.state {
            State::Sha256(state) => Digest::Sha256(state.finalize().into()),
            State::Sha512(state) => Digest::Sha512(state.finalize().into()),
        }
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
    const HEX: DigestError = DigestError::Hex { algorithm: Algorithm::Sha256, digits: 64 };

    #[test]
    fn sha512_is_known_too() {
        let mut digester = Digester::new(Algorithm::Sha512);
        digester.update(b"abc");
        let digest = digester.finish();
        assert!(digest.to_string().starts_with("sha512:ddaf35a193617aba"), "{digest}");
        assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        assert_eq!(Digest::from_hex(&digest.hex()), Some(digest));
        assert_eq!((digest.check(b"abc"), digest.check(b"abd").is_err()), (Ok(()), true));
    }

    #[test]
    fn only_well_formed_digests_are_read() {
        assert_eq!(EMPTY.parse::<Digest>().expect("well formed"), Digest::of(b""));
        for (text, expected) in [
            ("", DigestError::Form),
            ("e3b0", DigestError::Form),
            ("md5:d41d8cd98f00b204e9800998ecf8427e", DigestError::Algorithm { algorithm: "md5".into() }),
            ("sha256:e3b0", HEX),
            ("sha256:../../../../etc/passwd", HEX),
            (&EMPTY.to_uppercase().replace("SHA256", "sha256"), HEX),
            (&EMPTY.replace("256", "512"), DigestError::Hex { algorithm: Algorithm::Sha512, digits: 128 }),
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
