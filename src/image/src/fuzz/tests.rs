//! The targets on changed seeds: a fixed number of inputs, the same in every run; more with `AGENT_TEST_ALL=1`,
//! and one alone with `AGENT_TEST_SEED=N`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::mutate::{Random, input, mend_checksums};
use super::seeds;

/// Runs the target on every seed, and on so many inputs made of them.
fn fuzz(seeds: &[Vec<u8>], count: u64, archive: bool, target: impl Fn(&[u8])) {
    let all = std::env::var_os("AGENT_TEST_ALL").is_some_and(|value| value != "0" && !value.is_empty());
    let inputs = match std::env::var("AGENT_TEST_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("AGENT_TEST_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..if all { count * 10 } else { count },
    };
    seeds.iter().for_each(|seed| target(seed));
    for seed in inputs {
        let mut random = Random(seed);
        let mut bytes = input(seeds, &mut random);
        // Sometimes the checksums are part of what is wrong.
        if archive && random.below(16) > 0 {
            mend_checksums(&mut bytes);
        }
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(&bytes))) {
            eprintln!("AGENT_TEST_SEED={seed} repeats this: {:?}", String::from_utf8_lossy(&bytes));
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn fuzzed_references() {
    fuzz(&seeds::references(), 20_000, false, super::reference);
}

#[test]
fn fuzzed_documents() {
    fuzz(&seeds::documents(), 10_000, false, super::document);
}

#[test]
fn fuzzed_configurations() {
    fuzz(&seeds::documents(), 5_000, false, super::config);
}

#[test]
fn fuzzed_entries() {
    fuzz(&seeds::layers(), 20_000, true, super::entries);
}

#[test]
fn fuzzed_layers() {
    fuzz(&seeds::layers(), 500, true, |data| {
        super::layer(data, tempfile::tempdir().expect("a folder").path());
    });
}

#[test]
fn fuzzed_archives_of_images() {
    fuzz(&seeds::images(), 500, true, |data| {
        super::images(data, tempfile::tempdir().expect("a folder").path());
    });
}
