//! `--signal`: a signal by name or number.

use super::Parsed;

/// Parses `TERM`, `SIGTERM`, `sigterm`, `RTMIN+1`, or a number from 1 to 64.
pub(crate) fn parse_signal(text: &str) -> Parsed<i32> {
    runtime::signal_number(text)
        .ok_or_else(|| format!("'{text}' is no signal: write a name such as TERM, or a number from 1 to 64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        let check = |text: &str, number: i32| assert_eq!(parse_signal(text), Ok(number), "{text}");
        check("KILL", 9);
        check("SIGTERM", 15);
        check("sighup", 1);
        check("usr1", 10);
        check("2", 2);
        check("64", 64);
        for text in ["", "0", "65", "-9", "FOO", "SIG"] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
    }
}
