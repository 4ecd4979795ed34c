//! Times and sizes in words, as docker's tables have them.

use jiff::{SignedDuration, Timestamp};

/// `2 minutes ago`.
pub(crate) fn ago(then: Timestamp, now: Timestamp) -> String {
    format!("{} ago", span(now.duration_since(then)))
}

/// A span in its largest fitting unit: `Less than a second`, `About a minute`, `3 hours`. A negative one, from
/// a clock that was set back, is less than a second.
pub(crate) fn span(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3600 => format!("{minutes} minutes"),
        3600..5400 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 14 => format!("{} days", hours / 24),
        _ if hours < 24 * 60 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// Bytes in decimal units with three digits: `988B`, `1.23kB`, `63.1MB`.
pub(crate) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "kB", "MB", "GB", "TB", "PB"].iter();
    let mut unit = units.next().expect("six of them");
    // 999.5 would be shown as 1000, with a fourth digit.
    while value >= 999.5 {
        match units.next() {
            Some(next) => (value, unit) = (value / 1000.0, next),
            None => break,
        }
    }
    let decimals = match value {
        _ if *unit == "B" => 0,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    let number = format!("{value:.decimals$}");
    let number = if decimals > 0 { number.trim_end_matches('0').trim_end_matches('.') } else { &number };
    format!("{number}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_worded_as_docker_words_them() {
        let check = |seconds: i64, expected: &str| {
            assert_eq!(span(SignedDuration::from_secs(seconds)), expected, "{seconds}");
        };
        check(-5, "Less than a second");
        check(0, "Less than a second");
        check(1, "1 second");
        check(59, "59 seconds");
        check(60, "About a minute");
        check(120, "2 minutes");
        check(3599, "59 minutes");
        check(3600, "About an hour");
        check(5400, "2 hours");
        check(47 * 3600, "47 hours");
        check(48 * 3600, "2 days");
        check(20 * 86400, "2 weeks");
        check(70 * 86400, "2 months");
        check(800 * 86400, "2 years");
        assert_eq!(
            ago(Timestamp::UNIX_EPOCH, Timestamp::from_second(125).expect("in range")),
            "2 minutes ago"
        );
    }

    #[test]
    fn sizes_have_three_digits() {
        let check = |bytes: u64, expected: &str| assert_eq!(size(bytes), expected, "{bytes}");
        check(0, "0B");
        check(988, "988B");
        check(1000, "1kB");
        check(1234, "1.23kB");
        check(63_100_000, "63.1MB");
        check(999_400, "999kB");
        check(999_600, "1MB");
        check(124_000_000_000, "124GB");
        check(u64::MAX, "18447PB");
    }
}
