//! Tests that cannot run on this machine.

/// Whether the long form of the tests was asked for (`scripts/test --all`).
pub fn all() -> bool {
    std::env::var_os("AGENT_TEST_ALL").is_some_and(|value| value != "0" && !value.is_empty())
}

/// Says why a test cannot run here; the caller then returns.
///
/// # Panics
/// In the long form, where nothing may be left out.
pub fn skip(why: &str) {
    assert!(!all(), "cannot run here: {why}");
    eprintln!("skipped: {why}");
}

/// A count that is larger in the long form.
pub fn count(usual: usize, long: usize) -> usize {
    if all() { long } else { usual }
}
