//! Signals by name, as images and users write them.

use nix::sys::signal::Signal;

/// The signal that asks a process to end.
pub(crate) const TERM: i32 = Signal::SIGTERM as i32;

/// The signal that no process survives.
pub(crate) const KILL: i32 = Signal::SIGKILL as i32;

/// The first and the last real-time signal as glibc counts them; the kernel's first two are its own.
const RT_MIN: i32 = 34;
const RT_MAX: i32 = 64;

/// The number of a signal: `SIGTERM`, `term`, `15`, `RTMIN+3`, `SIGRTMAX-1`.
pub fn number(text: &str) -> Option<i32> {
    let in_range = |number: i32| (1..=RT_MAX).contains(&number).then_some(number);
    if let Ok(number) = text.parse() {
        return in_range(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str, sign: char| match rest {
        "" => Some(0),
        rest => rest
            .strip_prefix(sign)?
            .parse::<i32>()
            .ok()
            .filter(|offset| (0..=RT_MAX - RT_MIN).contains(offset)),
    };
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return Some(RT_MIN + offset(rest, '+')?);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        return Some(RT_MAX - offset(rest, '-')?);
    }
    format!("SIG{name}").parse::<Signal>().ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number() {
        for (text, expected) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("QUIT", Some(3)),
            ("SIGRTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("rtmax-1", Some(63)),
            ("RTMIN+31", None),
            ("RTMIN+-1", None),
            ("0", None),
            ("65", None),
            ("-1", None),
            ("SIG", None),
            ("", None),
            ("WARP", None),
        ] {
            assert_eq!(number(text), expected, "{text:?}");
        }
    }
}
