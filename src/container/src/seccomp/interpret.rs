//! For tests: runs a seccomp program as the kernel would, and checks what the kernel's verifier checks.

use sys::seccomp::{Instruction, MAX_INSTRUCTIONS};

/// `AUDIT_ARCH_X86_64`.
pub(super) const X86_64: u32 = 0xc000_003e;
/// `AUDIT_ARCH_I386`.
pub(super) const I386: u32 = 0x4000_0003;

/// `struct seccomp_data`, without the instruction pointer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) number: u32,
    pub(super) arch: u32,
    pub(super) args: [u64; 6],
}

impl Default for Call {
    fn default() -> Self {
        Call { number: 0, arch: X86_64, args: [0; 6] }
    }
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            16..64 => {
                let half = (offset - 16) / 4;
                (self.args[half as usize / 2] >> (32 * (half % 2))) as u32
            }
            _ => panic!("load of offset {offset}"),
        }
    }
}

/// The program's answer to `call`.
pub(super) fn run(program: &[Instruction], call: &Call) -> u32 {
    assert!(!program.is_empty() && program.len() <= MAX_INSTRUCTIONS);
    let mut accumulator = 0u32;
    let mut at = 0usize;
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let branch = |yes: bool| usize::from(if yes { jt } else { jf });
        match code {
            0x20 => {
                assert_eq!(k % 4, 0);
                accumulator = call.word(k);
            }
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => at += branch(accumulator == k),
            0x25 => at += branch(accumulator > k),
            0x35 => at += branch(accumulator >= k),
            0x45 => at += branch(accumulator & k != 0),
            0x06 => return k,
            _ => panic!("instruction {code:#x} at {}", at - 1),
        }
    }
}
