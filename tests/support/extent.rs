//! How far the tests go: the normal run, or the long form.

/// Whether the long form of the tests was asked for (`scripts/test --all`).
pub fn all() -> bool {
    std::env::var_os("AGENT_TEST_ALL").is_some_and(|value| value != "0" && !value.is_empty())
}

/// A count that is larger in the long form.
pub fn count(usual: usize, long: usize) -> usize {
    if all() { long } else { usual }
}
