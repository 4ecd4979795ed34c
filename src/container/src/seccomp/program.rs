//! Resolved rules as a program: the architecture, then a binary search over ranges of call numbers that share a
//! verdict, then conditions on arguments.
//!
//! Only loads of the architecture and number come before a verdict without conditions, so the kernel can work such
//! verdicts out once and skip the program for them (its constant-action bitmap, since Linux 5.11).
//!
//! i386 arguments are 32 bits wide and compared with the lower half of the profile's value, as by libseccomp. x32
//! arguments are whole registers to the kernel, so they are compared whole.

use oci_spec::runtime::LinuxSeccompOperator as Operator;
use sys::seccomp::Instruction;

use super::assemble::{Assembler, Target, Test};
use super::rules::{Clause, Condition, Rules, Verdict};
use super::syscalls::Abi;

const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const AUDIT_ARCH_I386: u32 = 0x4000_0003;
/// Marks the numbers of x32 calls, which come under the x86_64 architecture.
const X32_BIT: u32 = 0x4000_0000;
/// The number of a call a tracer cancelled, or of a mistaken syscall(-1).
const NO_CALL: u32 = u32::MAX;
const KILL_PROCESS: u32 = 0x8000_0000;

pub(super) fn write(rules: &Rules) -> Vec<Instruction> {
    let mut writer = Writer { assembler: Assembler::default(), rules };
    let kill = Target::Return(KILL_PROCESS);
    let foreign = match writer.table(Abi::I386) {
        Some(table) => {
            let number = writer.assembler.load(NUMBER, table);
            writer.assembler.branch(Test::Equal, AUDIT_ARCH_I386, number, kill)
        }
        None => kill,
    };
    let marked = writer.table(Abi::X32).unwrap_or_else(|| {
        let no_call = writer.past_last(Abi::X86_64);
        writer.assembler.branch(Test::Equal, NO_CALL, no_call, kill)
    });
    let native = writer.table(Abi::X86_64).unwrap_or(kill);
    let number = writer.assembler.branch(Test::GreaterOrEqual, X32_BIT, marked, native);
    let native = writer.assembler.load(NUMBER, number);
    let architecture = writer.assembler.branch(Test::Equal, AUDIT_ARCH_X86_64, native, foreign);
    let entry = writer.assembler.load(ARCHITECTURE, architecture);
    writer.assembler.finish(entry)
}

struct Writer<'r> {
    assembler: Assembler,
    rules: &'r Rules,
}

/// Call numbers from `start` to the next range's, and what they get.
#[derive(Clone, Copy)]
struct Range<'r> {
    start: u32,
    leaf: Leaf<'r>,
}

#[derive(Clone, Copy, PartialEq)]
enum Leaf<'r> {
    Answer(u32),
    FirstOf(&'r [Clause]),
}

impl<'r> Writer<'r> {
    /// Writes the search for the accumulator's number in one convention's verdicts; `None` if the profile leaves
    /// the convention out.
    fn table(&mut self, abi: Abi) -> Option<Target> {
        let table = self.rules.abi(abi)?;
        let marker = if abi == Abi::X32 { X32_BIT } else { 0 };
        let mut ranges: Vec<Range<'r>> = Vec::new();
        let known = table.last.map_or(0, |last| usize::from(last) + 1);
        for (number, verdict) in (0..).zip(&table.verdicts[..known]) {
            let leaf = match verdict {
                Verdict::Default => Leaf::Answer(self.rules.default),
                Verdict::Always(answer) => Leaf::Answer(*answer),
                Verdict::FirstOf(clauses) => Leaf::FirstOf(clauses),
            };
            if ranges.last().is_none_or(|range| range.leaf != leaf) {
                ranges.push(Range { start: marker + number, leaf });
            }
        }
        let known = u32::try_from(known).expect("numbers are 16 bits");
        ranges.push(Range { start: marker + known, leaf: Leaf::Answer(self.rules.past_last(abi)) });
        Some(self.search(&ranges, abi))
    }

    fn past_last(&self, abi: Abi) -> Target {
        Target::Return(self.rules.past_last(abi))
    }

    fn search(&mut self, ranges: &[Range<'r>], abi: Abi) -> Target {
        if let [range] = ranges {
            return match range.leaf {
                Leaf::Answer(answer) => Target::Return(answer),
                Leaf::FirstOf(clauses) => self.first_of(clauses, abi),
            };
        }
        let (below, from) = ranges.split_at(ranges.len() / 2);
        let start = from[0].start;
        let from = self.search(from, abi);
        let below = self.search(below, abi);
        self.assembler.branch(Test::GreaterOrEqual, start, from, below)
    }

    fn first_of(&mut self, clauses: &[Clause], abi: Abi) -> Target {
        let mut next = Target::Return(self.rules.default);
        for run in clauses.chunk_by(Clause::shares_load).rev() {
            next = match run {
                [clause] => self.clause(clause, next, abi),
                _ => self.equalities(run, next, abi),
            };
        }
        next
    }

    /// All conditions of `clause`, one after the other.
    fn clause(&mut self, clause: &Clause, otherwise: Target, abi: Abi) -> Target {
        let mut next = Target::Return(clause.answer);
        for condition in clause.conditions.iter().rev() {
            next = self.condition(condition, next, otherwise, abi);
        }
        next
    }

    /// Clauses that compare one argument with several values: each half of it is loaded once.
    fn equalities(&mut self, run: &[Clause], otherwise: Target, abi: Abi) -> Target {
        let first = run[0].conditions[0];
        let mut next = otherwise;
        for clause in run.iter().rev() {
            let value = low(clause.conditions[0].value);
            next = self.assembler.branch(Test::Equal, value, Target::Return(clause.answer), next);
        }
        let (lower, upper) = first.words();
        next = self.assembler.load(lower, next);
        if abi != Abi::I386 {
            next = self.assembler.branch(Test::Equal, high(first.value), next, otherwise);
            next = self.assembler.load(upper, next);
        }
        next
    }

    fn condition(&mut self, condition: &Condition, yes: Target, no: Target, abi: Abi) -> Target {
        let value = condition.value;
        match condition.operator {
            Operator::ScmpCmpEq => self.equal(condition, u64::MAX, value, yes, no, abi),
            Operator::ScmpCmpNe => self.equal(condition, u64::MAX, value, no, yes, abi),
            Operator::ScmpCmpMaskedEq => self.equal(condition, value, condition.masked, yes, no, abi),
            Operator::ScmpCmpGt => self.ordered(condition, Test::Greater, yes, no, abi),
            Operator::ScmpCmpLe => self.ordered(condition, Test::Greater, no, yes, abi),
            Operator::ScmpCmpGe => self.ordered(condition, Test::GreaterOrEqual, yes, no, abi),
            Operator::ScmpCmpLt => self.ordered(condition, Test::GreaterOrEqual, no, yes, abi),
        }
    }

    fn equal(
        &mut self,
        condition: &Condition,
        mask: u64,
        value: u64,
        yes: Target,
        no: Target,
        abi: Abi,
    ) -> Target {
        let (lower, upper) = condition.words();
        let next = self.equal_word(lower, low(mask), low(value), yes, no);
        if abi == Abi::I386 {
            return next;
        }
        self.equal_word(upper, high(mask), high(value), next, no)
    }

    fn equal_word(&mut self, word: u32, mask: u32, value: u32, yes: Target, no: Target) -> Target {
        if mask == 0 && value == 0 {
            return yes;
        }
        let mut next = self.assembler.branch(Test::Equal, value, yes, no);
        if mask != u32::MAX {
            next = self.assembler.and(mask, next);
        }
        self.assembler.load(word, next)
    }

    fn ordered(&mut self, condition: &Condition, test: Test, yes: Target, no: Target, abi: Abi) -> Target {
        let (lower, upper) = condition.words();
        let next = self.assembler.branch(test, low(condition.value), yes, no);
        let next = self.assembler.load(lower, next);
        if abi == Abi::I386 {
            return next;
        }
        // The upper half decides unless it is equal.
        let next = self.assembler.branch(Test::Equal, high(condition.value), next, no);
        let next = self.assembler.branch(Test::Greater, high(condition.value), yes, next);
        self.assembler.load(upper, next)
    }
}

impl Clause {
    /// Whether both only compare the same argument with a value, and the values differ in the lower half alone.
    fn shares_load(&self, other: &Clause) -> bool {
        match (&self.conditions[..], &other.conditions[..]) {
            ([a], [b]) => {
                a.operator == Operator::ScmpCmpEq
                    && b.operator == Operator::ScmpCmpEq
                    && a.argument == b.argument
                    && high(a.value) == high(b.value)
            }
            _ => false,
        }
    }
}

impl Condition {
    /// Offsets of the argument's lower and upper half.
    fn words(&self) -> (u32, u32) {
        let lower = ARGUMENTS + 8 * u32::from(self.argument);
        (lower, lower + 4)
    }
}

fn low(value: u64) -> u32 {
    (value & u64::from(u32::MAX)) as u32
}

fn high(value: u64) -> u32 {
    (value >> 32) as u32
}
