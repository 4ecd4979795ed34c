//! The keys that leave a container running: ctrl-p, then ctrl-q, as with docker.

const CTRL_P: u8 = 0x10;
const CTRL_Q: u8 = 0x11;

/// Looks for the keys in what is typed. A ctrl-p is held back until the next key shows what it was for.
#[derive(Debug, Default)]
pub(super) struct DetachKeys {
    held: bool,
}

impl DetachKeys {
    /// Appends to `passed` what of `typed` is meant for the container; true when the keys were pressed, and
    /// then what follows them is dropped.
    pub(super) fn filter(&mut self, typed: &[u8], passed: &mut Vec<u8>) -> bool {
        for byte in typed {
            match (std::mem::take(&mut self.held), *byte) {
                (true, CTRL_Q) => return true,
                (false, CTRL_P) => self.held = true,
                (true, CTRL_P) => {
                    passed.push(CTRL_P);
                    self.held = true;
                }
                (true, other) => passed.extend([CTRL_P, other]),
                (false, other) => passed.push(other),
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_keys_in_a_row_detach() {
        let check = |reads: &[&[u8]], passed: &[u8], detached: bool| {
            let mut keys = DetachKeys::default();
            let mut out = Vec::new();
            let got = reads.iter().any(|read| keys.filter(read, &mut out));
            assert_eq!((out.as_slice(), got), (passed, detached), "{reads:?}");
        };
        check(&[b"ls\r"], b"ls\r", false);
        check(&[b"a\x10\x11b"], b"a", true);
        check(&[b"\x10", b"\x11"], b"", true);
        check(&[b"\x10", b"a\x11"], b"\x10a\x11", false);
        check(&[b"\x10\x10\x11"], b"\x10", true);
        check(&[b"\x11\x10"], b"\x11", false);
    }
}
