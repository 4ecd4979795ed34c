//! Ids and made-up names.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{FileContext, RuntimeError};

const RANDOM: &str = "/dev/urandom";

const QUALITIES: [&str; 48] = [
    "able", "agile", "amber", "bold", "brave", "brisk", "calm", "clear", "clever", "cosy", "crisp", "deft",
    "eager", "early", "fair", "fast", "fine", "fresh", "gentle", "glad", "golden", "grand", "green", "happy",
    "hardy", "jolly", "keen", "kind", "light", "lively", "lucid", "merry", "mild", "neat", "nimble", "noble",
    "plain", "proud", "quick", "quiet", "rapid", "ready", "sharp", "silent", "steady", "sunny", "swift",
    "warm",
];

const THINGS: [&str; 48] = [
    "acorn", "alder", "anchor", "badger", "beacon", "birch", "bridge", "brook", "cedar", "cliff", "comet",
    "coral", "crane", "delta", "ember", "falcon", "fern", "finch", "fjord", "forge", "gale", "glade",
    "harbor", "hazel", "heron", "island", "juniper", "kestrel", "lagoon", "lantern", "larch", "maple",
    "meadow", "orchid", "otter", "pebble", "pine", "prairie", "quartz", "raven", "reef", "river", "sparrow",
    "summit", "thistle", "tundra", "willow", "wren",
];

/// A new id: 64 hexadecimal digits, of which no two containers have the same.
pub(crate) fn new_id() -> Result<String, RuntimeError> {
    Ok(hex::encode(random::<32>()?))
}

/// A made-up name, `quick_otter`. With `longer`, one of so many that it will be free: `quick_otter_3f2a`.
pub(crate) fn new_name(longer: bool) -> Result<String, RuntimeError> {
    let [quality, thing, tail @ ..] = random::<4>()?;
    let quality = QUALITIES[usize::from(quality) % QUALITIES.len()];
    let thing = THINGS[usize::from(thing) % THINGS.len()];
    Ok(if longer { format!("{quality}_{thing}_{}", hex::encode(tail)) } else { format!("{quality}_{thing}") })
}

/// A short random word for a file's name.
pub(crate) fn new_word() -> Result<String, RuntimeError> {
    Ok(hex::encode(random::<6>()?))
}

/// Whether it is written like an id of ours.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() == 64 && is_hex(text)
}

/// Whether it is nothing but hexadecimal digits, as we write them.
pub(crate) fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// docker's grammar: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`; and no longer than a file's name may be.
pub(crate) fn is_name(text: &str) -> bool {
    (2..=200).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        && text.as_bytes()[0].is_ascii_alphanumeric()
}

fn random<const N: usize>() -> Result<[u8; N], RuntimeError> {
    let path = Path::new(RANDOM);
    let mut bytes = [0; N];
    File::open(path).and_then(|mut file| file.read_exact(&mut bytes)).file("read", path)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_follow_their_grammar() {
        let id = new_id().unwrap();
        assert!(is_id(&id), "{id}");
        assert_ne!(id, new_id().unwrap());
        for longer in [false, true] {
            let name = new_name(longer).unwrap();
            assert!(is_name(&name), "{name}");
        }
    }

    #[test]
    fn names_outside_the_grammar_are_refused() {
        for (name, expected) in [
            ("app", true),
            ("a1", true),
            ("0_.-", true),
            ("a", false),
            ("", false),
            ("-app", false),
            (".app", false),
            ("..", false),
            ("a/b", false),
            ("a b", false),
            ("ä1", false),
        ] {
            assert_eq!(is_name(name), expected, "{name:?}");
        }
        assert!(!is_name(&"a".repeat(201)));
    }
}
