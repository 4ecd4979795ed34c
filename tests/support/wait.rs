//! Waiting for a condition, with a limit.

use std::time::{Duration, Instant};

/// How often a condition that nobody announces is looked at.
const GLANCE: Duration = Duration::from_millis(5);

/// Looks until `condition` gives something.
///
/// # Panics
/// When it has not within `limit`; `what` names what was waited for.
pub fn within<T>(limit: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain for {what}");
        std::thread::sleep(GLANCE);
    }
}
