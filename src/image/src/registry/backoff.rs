//! How long to wait before a request is repeated: longer each time, and never in step with others.

use std::time::Duration;

use super::failure::{Again, Failure};

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(15);

/// The waits of one request that is repeated.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    left: u32,
    done: u32,
    /// Whether the endpoint is known to have answered a moment ago.
    answered: bool,
}

impl Backoff {
    /// At most so many repetitions.
    pub(crate) fn new(retries: u32) -> Self {
        Backoff { left: retries, done: 0, answered: false }
    }

    /// The same, of an endpoint that answered a moment ago.
    pub(crate) fn after_an_answer(retries: u32) -> Self {
        Backoff { answered: true, ..Backoff::new(retries) }
    }

    /// How long to wait after this failure; none when it is final.
    pub(crate) fn after(&mut self, failure: &Failure) -> Option<Duration> {
        let Failure::Endpoint { again, .. } = failure else { return None };
        let least = match again {
            Again::No => return None,
            Again::Hardly if !self.answered => return None,
            Again::Hardly | Again::Yes => Duration::ZERO,
            Again::After(wait) => *wait,
        };
        self.left = self.left.checked_sub(1)?;
        let step = FIRST.saturating_mul(1 << self.done.min(10)).min(LONGEST);
        self.done += 1;
        // Between half and the whole, so that those who failed together do not come again together.
        Some(least.max(step / 2 + step.mul_f64(fraction() / 2.0)))
    }
}

/// A number from 0 to 1 that differs between processes and calls.
fn fraction() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    // Keyed anew by the system's random numbers for every state.
    (RandomState::new().hash_one(()) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Fault;

    #[test]
    fn waits_grow_within_bounds_and_end() {
        let failure = Failure::passing(Fault::Failed, "x");
        let mut backoff = Backoff::new(8);
        for done in 0..8_u32 {
            let step = FIRST.saturating_mul(1 << done).min(LONGEST);
            let wait = backoff.after(&failure).expect("tries are left");
            assert!(wait >= step / 2 && wait <= step, "{done}: {wait:?}");
        }
        assert_eq!(backoff.after(&failure), None);
    }

    #[test]
    fn what_lasts_is_not_tried_again_and_what_the_server_says_is_heeded() {
        let mut backoff = Backoff::new(3);
        assert_eq!(backoff.after(&Failure::lasting(Fault::NotFound, "x")), None);
        let down =
            || Failure::Endpoint { fault: Fault::Unreachable, reason: String::new(), again: Again::Hardly };
        assert_eq!(backoff.after(&down()), None);
        assert!(Backoff::after_an_answer(1).after(&down()).is_some(), "it may be restarting");
        let wait = Duration::from_secs(40);
        let busy =
            Failure::Endpoint { fault: Fault::Failed, reason: String::new(), again: Again::After(wait) };
        assert_eq!(backoff.after(&busy), Some(wait));
    }
}
