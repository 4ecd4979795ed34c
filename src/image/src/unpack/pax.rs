//! PAX extended headers: `LENGTH KEY=VALUE\n` records (POSIX pax, "pax Extended Header").
//!
//! Values are taken by their length, because those of `SCHILY.xattr.*` are bytes that may hold newlines
//! (a file capability often does); the tar crate's own iterator splits at newlines.

use super::error::{Result, UnpackError};
use super::metadata::Attributes;

/// One time, as `tv_sec` and `tv_nsec`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// The records that matter to the next entry.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Pax {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) mtime: Option<Time>,
    /// Names without their `SCHILY.xattr.` prefix.
    pub(crate) xattrs: Attributes,
    pub(crate) sparse: SparseRecords,
}

/// GNU tar's sparse files in PAX form, versions 0.0, 0.1 and 1.0.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct SparseRecords {
    /// Version 1.0: the map comes before the file's data.
    pub(crate) map_in_data: bool,
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) real_size: Option<u64>,
    /// Offsets and lengths, alternating.
    pub(crate) map: Vec<u64>,
}

impl SparseRecords {
    pub(crate) fn is_sparse(&self) -> bool {
        self.map_in_data || self.real_size.is_some()
    }
}

/// Reads the body of an extended header.
pub(crate) fn parse(mut body: &[u8]) -> Result<Pax> {
    let mut pax = Pax::default();
    while !body.is_empty() {
        let (key, value, rest) =
            record(body).ok_or_else(|| UnpackError::archive("a PAX header is malformed"))?;
        pax.set(key, value)?;
        body = rest;
    }
    Ok(pax)
}

/// Splits off the first record.
fn record(body: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = body.iter().position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&body[..space])?).ok()?;
    if length > body.len() || length < space + 2 || body[length - 1] != b'\n' {
        return None;
    }
    let line = &body[space + 1..length - 1];
    let equals = line.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
    Some((&line[..equals], &line[equals + 1..], &body[length..]))
}

impl Pax {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let wrong = || {
            UnpackError::archive(format!("the PAX record {:?} has a bad value", String::from_utf8_lossy(key)))
        };
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            // The last record of a name counts, and one without a value takes back those before it (POSIX pax).
            self.xattrs.retain(|(known, _)| known != name);
            if !value.is_empty() {
                self.xattrs.push((name.to_vec(), value.to_vec()));
            }
            return Ok(());
        }
        let bytes = || Some(value.to_vec()).filter(|value| !value.is_empty());
        let number = || decimal(value).ok_or_else(wrong);
        // The highest number means "unchanged" to chown.
        let known = |value: u64| u32::try_from(value).ok().filter(|id| *id != u32::MAX);
        let id = || number().and_then(|value| known(value).ok_or_else(wrong));
        if value.contains(&0) {
            return Err(wrong());
        }
        match key {
            b"path" => self.path = bytes(),
            b"linkpath" => self.link = bytes(),
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(id()?),
            b"gid" => self.gid = Some(id()?),
            b"mtime" => self.mtime = Some(time(value).ok_or_else(wrong)?),
            b"GNU.sparse.major" => self.sparse.map_in_data = value == b"1",
            b"GNU.sparse.name" => self.sparse.name = bytes(),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.real_size = Some(number()?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse.map.push(number()?),
            b"GNU.sparse.map" => {
                let numbers = value.split(|byte| *byte == b',').map(decimal);
                self.sparse.map = numbers.collect::<Option<_>>().ok_or_else(wrong)?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// An unsigned decimal number and nothing else.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `[-]SECONDS[.FRACTION]`; digits past the nanosecond are cut.
fn time(value: &[u8]) -> Option<Time> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let (whole, fraction) = match value.iter().position(|byte| *byte == b'.') {
        Some(at) => (&value[..at], &value[at + 1..]),
        None => (value, &b""[..]),
    };
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let mut nanoseconds = 0;
    for at in 0..9 {
        nanoseconds = nanoseconds * 10 + fraction.get(at).map_or(0, |digit| u32::from(digit - b'0'));
    }
    Some(match (negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds: 0 },
        (true, _) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(key: &str, value: &[u8]) -> Vec<u8> {
        let bare = key.len() + value.len() + 3;
        let mut length = bare + 1;
        while length != bare + length.to_string().len() {
            length = bare + length.to_string().len();
        }
        [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
    }

    #[test]
    fn values_are_taken_by_length() {
        let body = [
            line("path", "ä/b=c".as_bytes()),
            line("SCHILY.xattr.security.capability", b"\x01\n\n\0=x"),
            line("SCHILY.xattr.user.gone", b"x"),
            line("SCHILY.xattr.user.gone", b""),
            line("mtime", b"1700000000.123456789"),
            line("uid", b"4000000000"),
            line("comment", b"ignored"),
        ]
        .concat();
        let pax = parse(&body).expect("well formed");
        assert_eq!(pax.path.as_deref(), Some("ä/b=c".as_bytes()));
        assert_eq!(pax.xattrs, [(b"security.capability".to_vec(), b"\x01\n\n\0=x".to_vec())]);
        assert_eq!(pax.mtime, Some(Time { seconds: 1_700_000_000, nanoseconds: 123_456_789 }));
        assert_eq!(pax.uid, Some(4_000_000_000));
    }

    #[test]
    fn times_have_fractions_and_signs() {
        for (text, expected) in [
            ("0", Some((0, 0))),
            ("1.5", Some((1, 500_000_000))),
            ("1.1234567899", Some((1, 123_456_789))),
            ("-1.25", Some((-2, 750_000_000))),
            ("-3", Some((-3, 0))),
            ("1.x", None),
            ("", None),
            ("+1", None),
        ] {
            let found = time(text.as_bytes()).map(|time| (time.seconds, time.nanoseconds));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        for body in [
            &b"9 a=b\n"[..],
            b"6 a=bx",
            b"99999999999999999999 a=b\n",
            b"x a=b\n",
            b"5 =bc\n",
            b"2 a=b\n",
            b"11 uid=abc\n",
            b"18 gid=4294967295\n",
            b"12 path=a\0b\n",
        ] {
            assert!(parse(body).is_err(), "{}", String::from_utf8_lossy(body));
        }
    }
}
