//! Random changes of inputs, of which the same seed makes the same.

use tar::Header;

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % end.max(1) as u64).expect("less than a usize")
    }
}

/// Bytes that readers of text and numbers stumble over.
const ODD: [&[u8]; 16] = [
    b"",
    b"\0",
    b"/",
    b"..",
    b"../../",
    b"-1",
    b"0",
    b"99999999999999999999",
    b"18446744073709551615",
    b"\xff\xff",
    b"\n",
    b"=",
    b"\"",
    b"{",
    b"[",
    b".wh.",
];

/// One of the seeds with some changes.
pub(super) fn input(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..1 + random.below(4) {
        change(&mut bytes, seeds, random);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    let at = random.below(bytes.len());
    let most = [4, 16, 512, 2048][random.below(4)];
    let length = random.below(most).min(bytes.len() - at);
    match random.below(8) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
        1 if !bytes.is_empty() => bytes[at] = random.below(256).to_le_bytes()[0],
        2 => drop(bytes.splice(at..at + length, ODD[random.below(ODD.len())].iter().copied())),
        3 => drop(bytes.splice(at..at, ODD[random.below(ODD.len())].iter().copied())),
        // Over what is there, so that what comes after keeps its place.
        4 => {
            let odd = ODD[random.below(ODD.len())];
            let end = (at + odd.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&odd[..end - at]);
        }
        5 => {
            let piece = bytes[at..at + length].to_vec();
            let to = random.below(bytes.len());
            drop(bytes.splice(to..to, piece));
        }
        6 => drop(bytes.drain(at..at + length)),
        _ => {
            // Archives are made of blocks.
            let other = &seeds[random.below(seeds.len())];
            let (mine, theirs) = (random.below(bytes.len() / 512 + 1), random.below(other.len() / 512 + 1));
            let (mine, theirs) = (mine * 512, theirs * 512);
            let end = other.len().min(theirs + 512 * (1 + random.below(4)));
            drop(bytes.splice(mine..mine, other[theirs..end].iter().copied()));
        }
    }
    bytes.truncate(64 << 10);
}

/// Gives every block that looks like a header its right checksum.
pub(super) fn mend_checksums(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512) {
        // By its magic, or by the shape that the sum's own field has.
        let looks =
            block[257..262] == *b"ustar" || block[148..154].iter().all(|byte| (b'0'..=b'7').contains(byte));
        if looks {
            let mut header = Header::new_old();
            header.as_mut_bytes().copy_from_slice(block);
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
}
