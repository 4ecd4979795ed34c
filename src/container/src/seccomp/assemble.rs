//! Writes classic BPF back to front.
//!
//! A classic BPF jump only goes forward, and a conditional one at most 255 instructions. Written from its end, a
//! program's jump targets are all known when a jump is written, so its reach is seen at once and a stepping stone
//! (a copy of the return, or an unconditional jump) is put in only where it is needed.

use sys::seccomp::Instruction;

/// Comparisons of the accumulator with a constant.
#[derive(Clone, Copy, Debug)]
pub(super) enum Test {
    Equal,
    Greater,
    GreaterOrEqual,
}

impl Test {
    fn code(self) -> u16 {
        // BPF_JMP | BPF_J* | BPF_K
        match self {
            Test::Equal => 0x15,
            Test::Greater => 0x25,
            Test::GreaterOrEqual => 0x35,
        }
    }
}

const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const RETURN: u16 = 0x06; // BPF_RET | BPF_K
const REACH: usize = u8::MAX as usize;

/// Where a jump goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// An instruction already written, counted from the program's end.
    At(usize),
    /// An answer to the kernel (`SECCOMP_RET_*`).
    Return(u32),
}

/// A program under construction; the last instruction written is the first to run.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    reversed: Vec<Instruction>,
    /// The latest return written for each answer.
    returns: Vec<(u32, usize)>,
}

impl Assembler {
    /// Loads the word at `offset` of `struct seccomp_data`, then goes on at `next`.
    pub(super) fn load(&mut self, offset: u32, next: Target) -> Target {
        self.fall_to(next);
        self.push(LOAD_WORD, 0, 0, offset)
    }

    /// Masks the accumulator, then goes on at `next`.
    pub(super) fn and(&mut self, mask: u32, next: Target) -> Target {
        self.fall_to(next);
        self.push(AND, 0, 0, mask)
    }

    /// Compares the accumulator with `constant` and goes on at one of two targets.
    pub(super) fn branch(&mut self, test: Test, constant: u32, yes: Target, no: Target) -> Target {
        // A stone laid for `no` moves `yes` one further away, hence the slack.
        let yes = self.near(yes, 1);
        let no = self.near(no, 0);
        let (jt, jf) = (self.skip(yes), self.skip(no));
        self.push(test.code(), jt, jf, constant)
    }

    /// The program in running order, starting at `entry`.
    pub(super) fn finish(mut self, entry: Target) -> Vec<Instruction> {
        self.fall_to(entry);
        self.reversed.reverse();
        self.reversed
    }

    /// Makes `target` what runs after the instruction written next.
    fn fall_to(&mut self, target: Target) {
        match target {
            Target::At(at) if at + 1 == self.reversed.len() => (),
            Target::At(at) => self.jump(at),
            Target::Return(answer) => self.answer(answer),
        }
    }

    fn jump(&mut self, at: usize) {
        let skipped =
            u32::try_from(self.reversed.len() - 1 - at).expect("a program is far shorter than 2^32");
        self.push(JUMP, 0, 0, skipped);
    }

    fn answer(&mut self, answer: u32) {
        let at = self.reversed.len();
        match self.returns.iter_mut().find(|known| known.0 == answer) {
            Some(known) => known.1 = at,
            None => self.returns.push((answer, at)),
        }
        self.push(RETURN, 0, 0, answer);
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Target {
        self.reversed.push(Instruction { code, jt, jf, k });
        Target::At(self.reversed.len() - 1)
    }

    /// An index no further than a conditional jump reaches from the next instruction, with `slack` to spare.
    fn near(&mut self, target: Target, slack: usize) -> usize {
        let known = match target {
            Target::At(at) => Some(at),
            Target::Return(answer) => {
                self.returns.iter().find(|known| known.0 == answer).map(|known| known.1)
            }
        };
        if let Some(at) = known
            && self.reversed.len() - 1 - at + slack <= REACH
        {
            return at;
        }
        match target {
            Target::At(at) => self.jump(at),
            Target::Return(answer) => self.answer(answer),
        }
        self.reversed.len() - 1
    }

    fn skip(&self, at: usize) -> u8 {
        u8::try_from(self.reversed.len() - 1 - at).expect("near() brought the target within reach")
    }
}

#[cfg(test)]
mod tests {
    use super::super::interpret::{Call, run};
    use super::*;

    #[test]
    fn targets_beyond_reach_get_stepping_stones() {
        // A chain of 1000 tests of the call number, every miss going to the far end of the program.
        let mut assembler = Assembler::default();
        let mut next = Target::Return(7);
        for number in (0..1000).rev() {
            let test = assembler.branch(Test::Equal, number, Target::Return(number % 3), next);
            next = assembler.load(0, test);
        }
        let program = assembler.finish(next);
        for number in 0..1010 {
            let expected = if number < 1000 { number % 3 } else { 7 };
            assert_eq!(run(&program, &Call { number, ..Call::default() }), expected, "{number}");
        }
    }

    #[test]
    fn both_targets_may_be_at_the_edge_of_reach() {
        for filler in 245..265 {
            let mut assembler = Assembler::default();
            let first = assembler.branch(Test::Equal, 1, Target::Return(10), Target::Return(11));
            let second = assembler.branch(Test::Equal, 2, Target::Return(20), Target::Return(21));
            let mut last = second;
            for _ in 0..filler {
                last = assembler.and(u32::MAX, last);
            }
            let choice = assembler.branch(Test::Greater, 1, second, first);
            let entry = assembler.load(0, choice);
            let program = assembler.finish(entry);
            for (number, expected) in [(0, 11), (1, 10), (2, 20), (3, 21)] {
                assert_eq!(run(&program, &Call { number, ..Call::default() }), expected, "{filler} {number}");
            }
        }
    }

    #[test]
    fn a_bare_return_is_a_program() {
        assert_eq!(run(&Assembler::default().finish(Target::Return(3)), &Call::default()), 3);
    }
}
