//! `--env` and `--label`: names and values.

use std::ffi::OsString;
use std::str::FromStr;

use super::Parsed;

/// A value of `--env`; none where `NAME` alone was given and we have no such variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EnvFlag(pub(crate) Option<String>);

impl FromStr for EnvFlag {
    type Err = String;

    fn from_str(text: &str) -> Parsed<Self> {
        parse_env(text, |name| std::env::var_os(name)).map(EnvFlag)
    }
}

/// Parses `NAME=value`, or `NAME` alone, whose value `lookup` gives. `None`: `NAME` alone is not set, and
/// then, as with docker, the container does not get it either.
fn parse_env(text: &str, lookup: impl Fn(&str) -> Option<OsString>) -> Parsed<Option<String>> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    if name.is_empty() {
        return Err(format!("'{text}' has no variable's name: write NAME=value, or NAME to pass on ours"));
    }
    if text.contains('\0') {
        return Err(format!("the variable {name:?} holds a NUL byte, which no environment can carry"));
    }
    let value = match value {
        Some(value) => Some(value),
        None => match lookup(name) {
            None => None,
            Some(value) => Some(value.into_string().map_err(|_| {
                format!("the value of the variable {name} in our environment is not UTF-8: give it as {name}=value")
            })?),
        },
    };
    Ok(value.map(|value| format!("{name}={value}")))
}

/// Parses `key=value`, or `key` alone, whose value is empty.
pub(crate) fn parse_label(text: &str) -> Parsed<(String, String)> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err(format!("'{text}' has no label's key: write key=value"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(name: &str) -> Option<OsString> {
        (name == "HERE").then(|| "ours".into())
    }

    #[test]
    fn a_name_alone_takes_our_value() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(parse_env(text, ours), Ok(expected.map(str::to_owned)), "{text}");
        };
        check("A=b", Some("A=b"));
        check("A=", Some("A="));
        check("A=b=c d", Some("A=b=c d"));
        check("HERE", Some("HERE=ours"));
        check("HERE=mine", Some("HERE=mine"));
        check("GONE", None);
        assert!(parse_env("=b", ours).is_err());
        assert!(parse_env("", ours).is_err());
        assert!(parse_env("A=\0", ours).is_err());
    }

    #[test]
    fn labels_may_be_empty_but_have_a_key() {
        assert_eq!(parse_label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(parse_label("a"), Ok(("a".to_owned(), String::new())));
        assert!(parse_label("=a").is_err());
    }
}
