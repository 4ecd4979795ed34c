//! `--since`: a moment, or how long ago.

use jiff::{SignedDuration, Timestamp};

use super::Parsed;

/// Parses an RFC 3339 time (`2026-01-02T03:04:05Z`), a date alone (midnight UTC), Unix seconds, or how long
/// before `now` (`90s`, `10m`, `1h30m`, `2d`).
pub(crate) fn parse_since(text: &str, now: Timestamp) -> Parsed<Timestamp> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(time) = format!("{text}T00:00:00Z").parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(seconds) = text.parse::<i64>() {
        return Timestamp::from_second(seconds).map_err(|_| format!("'{text}' is beyond all times"));
    }
    let ago = span(text).ok_or_else(|| {
        format!("'{text}' is neither a time (2026-01-02T03:04:05Z) nor a span (90s, 10m, 1h30m)")
    })?;
    now.checked_sub(ago).map_err(|_| format!("'{text}' is beyond all times"))
}

/// Parses a span of time: `90s`, `10m`, `1h30m`, `2d`, or seconds alone.
pub(crate) fn parse_span(text: &str) -> Parsed<SignedDuration> {
    let seconds = text.parse::<u32>().ok().map(|seconds| SignedDuration::from_secs(seconds.into()));
    seconds.or_else(|| span(text)).ok_or_else(|| format!("'{text}' is no span of time (90s, 10m, 1h30m)"))
}

/// `1h30m` as a duration: whole numbers, each with its unit.
fn span(text: &str) -> Option<SignedDuration> {
    let mut seconds = 0i64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: i64 = rest[..digits].parse().ok()?;
        let mut after = rest[digits..].chars();
        let unit = match after.next()? {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86400,
            _ => return None,
        };
        seconds = seconds.checked_add(number.checked_mul(unit)?)?;
        rest = after.as_str();
    }
    (!text.is_empty()).then(|| SignedDuration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_spans() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().expect("a time");
        let check = |text: &str, expected: &str| {
            assert_eq!(parse_since(text, now), Ok(expected.parse().expect("a time")), "{text}");
        };
        check("2026-02-03T04:05:06.5Z", "2026-02-03T04:05:06.5Z");
        check("2026-02-03", "2026-02-03T00:00:00Z");
        check("0", "1970-01-01T00:00:00Z");
        check("90s", "2026-03-01T11:58:30Z");
        check("1h30m", "2026-03-01T10:30:00Z");
        check("2d", "2026-02-27T12:00:00Z");
        for text in ["", "m", "1x", "1h3", "yesterday", "9999999999999999h"] {
            assert!(parse_since(text, now).is_err(), "{text}");
        }
    }
}
