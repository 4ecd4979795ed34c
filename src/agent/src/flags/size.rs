//! `--memory`: a size in bytes with docker's suffixes.

use super::Parsed;

/// The least memory that a container can be given, in bytes: docker's.
const LEAST_MEMORY: u64 = 6 << 20;

/// Parses a memory limit to bytes; less than 6 MiB is refused.
pub(crate) fn parse_memory(text: &str) -> Parsed<u64> {
    let bytes = parse_size(text)?;
    if bytes < LEAST_MEMORY {
        return Err(format!("'{text}' is too little memory: give 6m or more"));
    }
    Ok(bytes)
}

/// Parses `64m`, `1.5g`, `512kb`, `1GiB`, `4096`: powers of 1024, any case, decimals rounded down to a byte.
pub(crate) fn parse_size(text: &str) -> Parsed<u64> {
    let wrong = || format!("'{text}' is not a size: write a number and one of b, k, m, g, such as 64m");
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let (number, suffix) = lower.split_at(digits);
    let shift = match suffix.trim_start() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) || fraction.len() > 9 {
        return Err(wrong());
    }
    let unit = 1u128 << shift;
    let whole = whole.parse::<u64>().map_err(|_| wrong())?;
    let part = format!("{fraction:0<9}").parse::<u64>().map_err(|_| wrong())?;
    let bytes = u128::from(whole) * unit + u128::from(part) * unit / 1_000_000_000;
    u64::try_from(bytes).map_err(|_| format!("'{text}' is more bytes than 64 bits can count"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_powers_of_1024() {
        let check = |text: &str, bytes: u64| assert_eq!(parse_size(text), Ok(bytes), "{text}");
        check("4096", 4096);
        check("10b", 10);
        check("64m", 64 << 20);
        check("64M", 64 << 20);
        check("64MB", 64 << 20);
        check("1GiB", 1 << 30);
        check("1.5g", 3 << 29);
        check("2 k", 2048);
        check("1t", 1 << 40);
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in
            ["", "m", "-1", "64x", "1.2.3", ".5m", "1 2", "99999999999999999999", "18446744073709551615k"]
        {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_limit_has_a_least_value() {
        assert_eq!(parse_memory("6m"), Ok(6 << 20));
        assert!(parse_memory("5m").is_err_and(|line| line.contains("6m")));
        assert!(parse_memory("0").is_err());
    }
}
