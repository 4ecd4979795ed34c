//! `--cpus`: a decimal number of processors.

use super::Parsed;

/// Parses `0.5` to thousandths of a processor. The least is 0.01: the kernel's quota is at least 1 ms of a
/// period of 100 ms (Documentation/scheduler/sched-bwc.rst).
pub(crate) fn parse_cpus(text: &str) -> Parsed<u64> {
    let wrong = || format!("'{text}' is not a number of processors: write a decimal such as 0.5 or 2");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return Err(wrong());
    }
    let (kept, rest) = fraction.split_at(fraction.len().min(3));
    if rest.bytes().any(|byte| byte != b'0') {
        return Err(format!("'{text}' is too exact: give at most three decimals"));
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| wrong())? };
    let fraction: u64 = format!("{kept:0<3}").parse().map_err(|_| wrong())?;
    let milli = whole.checked_mul(1000).and_then(|milli| milli.checked_add(fraction)).ok_or_else(wrong)?;
    if milli < 10 {
        return Err(format!("'{text}' is less than the 0.01 processors that the kernel can hold"));
    }
    Ok(milli)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_become_thousandths() {
        let check = |text: &str, milli: u64| assert_eq!(parse_cpus(text), Ok(milli), "{text}");
        check("0.5", 500);
        check(".5", 500);
        check("2", 2000);
        check("2.", 2000);
        check("1.250", 1250);
        check("0.01", 10);
        check("1.5000000", 1500);
    }

    #[test]
    fn what_is_no_number_of_processors_is_refused() {
        for text in ["", ".", "0", "0.009", "-1", "1,5", "half", "1e3", "1.0005", "99999999999999999999"] {
            assert!(parse_cpus(text).is_err(), "{text}");
        }
    }
}
