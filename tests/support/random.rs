//! Random numbers that a seed repeats, so that a failure at a random point can be had again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The variable that gives the seed.
const SEED: &str = "AGENT_TEST_SEED";

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Seeded by the variable, else by the clock; prints how to have the same numbers again.
    ///
    /// # Panics
    /// When the variable is no number.
    pub fn seeded() -> Self {
        let seed = match std::env::var(SEED) {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("{SEED}={text} is no number")),
            // Short enough to be typed.
            Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.subsec_nanos().into()),
        };
        eprintln!("{SEED}={seed} repeats this run's random points");
        Random(seed)
    }

    /// The same numbers always.
    pub fn of(seed: u64) -> Self {
        Random(seed)
    }

    /// Seeded by a number of another one.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }

    /// A time below `end`, to the microsecond.
    pub fn time(&mut self, end: Duration) -> Duration {
        Duration::from_micros(self.below(u64::try_from(end.as_micros()).unwrap_or(u64::MAX).max(1)))
    }

    /// Bytes that do not compress.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count.div_ceil(8)).flat_map(|_| self.number().to_le_bytes()).take(count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_repeats_the_numbers() {
        // The generator's reference values for the seed 0.
        let mut random = Random(0);
        assert_eq!([random.number(), random.number()], [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]);
        assert_eq!(Random(7).bytes(9), Random(7).bytes(9));
        assert!(Random(7).time(Duration::from_millis(1)) < Duration::from_millis(1));
    }
}
