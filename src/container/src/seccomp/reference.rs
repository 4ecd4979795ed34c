//! Tests against libseccomp: its program and ours, for the same profile, give every call the same answer.
//!
//! Needs gcc and libseccomp-dev. The profile is handed to libseccomp the way runc hands it over.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg,
    LinuxSeccompArgBuilder, LinuxSeccompBuilder, LinuxSeccompOperator as Operator, LinuxSyscall,
    LinuxSyscallBuilder,
};
use sys::seccomp::Instruction;

use super::interpret::{Call, I386, X86_64, run};
use super::rules::{self, NO_SUCH_CALL, Verdict};
use super::syscalls::{self, Abi};
use super::{compile, default_profile};

const ABIS: [Abi; 3] = [Abi::X86_64, Abi::X32, Abi::I386];
const X32_BIT: u32 = 0x4000_0000;

/// The compiled `reference.c`.
struct Reference {
    directory: tempfile::TempDir,
    /// Calls libseccomp has names for.
    known: HashSet<(usize, u32)>,
}

impl Reference {
    fn new() -> Reference {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("reference.c");
        std::fs::write(&source, include_str!("reference.c")).unwrap();
        let mut gcc = Command::new("gcc");
        gcc.args(["-Wall", "-Werror", "-o"])
            .arg(directory.path().join("reference"))
            .arg(&source)
            .arg("-lseccomp");
        check("these tests need gcc and libseccomp-dev", &gcc.output().expect("these tests need gcc"));
        let mut reference = Reference { directory, known: HashSet::new() };
        reference.known = reference.names().into_iter().map(|(abi, number, _)| (abi, number)).collect();
        reference
    }

    fn command(&self) -> Command {
        Command::new(self.directory.path().join("reference"))
    }

    /// Convention (as an index of [`ABIS`]), number and name of every call libseccomp knows.
    fn names(&self) -> Vec<(usize, u32, String)> {
        let output = self.command().arg("names").output().unwrap();
        check("names", &output);
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .map(|line| {
                let fields: Vec<&str> = line.split(' ').collect();
                (fields[0].parse().unwrap(), fields[1].parse().unwrap(), fields[2].to_owned())
            })
            .collect()
    }

    /// The lines of the script that bear on one call.
    fn about(&self, profile: &LinuxSeccomp, abi: usize, number: u32) -> String {
        let known = self.names().into_iter().find(|known| (known.0, known.1) == (abi, number));
        let name = known.map_or_else(String::new, |known| known.2);
        let script = script(profile);
        let lines =
            script.lines().filter(|line| !line.starts_with("rule") || line.split(' ').nth(2) == Some(&name));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn program(&self, profile: &LinuxSeccomp) -> Vec<Instruction> {
        let mut child = self
            .command()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The script is read whole before the program is written, so neither side waits for the other.
        child.stdin.take().unwrap().write_all(script(profile).as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        check("libseccomp", &output);
        let halves = |bytes: &[u8]| u16::from_ne_bytes(bytes.try_into().unwrap());
        output
            .stdout
            .chunks(8)
            .map(|raw| Instruction {
                code: halves(&raw[..2]),
                jt: raw[2],
                jf: raw[3],
                k: u32::from_ne_bytes(raw[4..].try_into().unwrap()),
            })
            .collect()
    }

    /// Compares both programs for every number of every convention, with arguments around the profile's values.
    fn compare(&self, profile: &LinuxSeccomp) {
        let ours = compile(profile).unwrap().program;
        let theirs = self.program(profile);
        let rules = rules::resolve(profile).unwrap();
        let mut random = Random(1);
        let samples = samples(profile);
        for (index, abi) in ABIS.into_iter().enumerate() {
            let table = rules.abi(abi);
            let last = table.and_then(|table| table.last);
            // The call -1 has no convention of its own; it is tried once, with the native one.
            let no_call = (abi != Abi::X32).then_some(u32::MAX);
            for number in (0..600).chain(no_call) {
                let conditional = table
                    .and_then(|table| table.verdicts.get(number as usize))
                    .is_some_and(|verdict| matches!(verdict, Verdict::FirstOf(_)));
                if number < 600 && !self.known.contains(&(index, number)) && rules.abi(abi).is_some() {
                    // A call newer than libseccomp, or a gap; libseccomp gives either the default.
                    if table.unwrap().verdicts.get(number as usize).is_some_and(|v| *v != Verdict::Default) {
                        continue;
                    }
                }
                for round in 0..if conditional { 150 } else { 2 } {
                    let mut args = [0; 6];
                    let same = samples[round % samples.len()];
                    for arg in &mut args {
                        *arg = if round < samples.len() { same } else { *random.pick(&samples) };
                        if abi != Abi::X86_64 {
                            *arg &= u64::from(u32::MAX);
                        }
                    }
                    if abi == Abi::I386 && number == 117 {
                        // ipc: the kernel selects by the lower 16 bits, as we do; libseccomp compares all.
                        args[0] &= 0xffff;
                    }
                    let call = Call {
                        number: if abi == Abi::X32 { number | X32_BIT } else { number },
                        arch: if abi == Abi::I386 { I386 } else { X86_64 },
                        args,
                    };
                    let found = run(&ours, &call);
                    let mut expected = run(&theirs, &call);
                    if let Some(last) = last
                        && number > u32::from(last)
                        && rules.past_last(abi) == NO_SUCH_CALL
                    {
                        expected = NO_SUCH_CALL;
                    } else if table.is_none() && found == 0x8000_0000 && expected == 0 {
                        // libseccomp kills the thread for a convention left out, we the process.
                        expected = found;
                    }
                    assert_eq!(
                        found,
                        expected,
                        "{abi:?} {number} {args:#x?}: {found:#x}, libseccomp {expected:#x}, of\n{}",
                        self.about(profile, index, number)
                    );
                }
            }
        }
    }
}

fn check(what: &str, output: &Output) {
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The profile in `reference.c`'s words, prepared as runc does: rules that repeat the default are left out, and
/// conditions on one argument become rules of their own.
fn script(profile: &LinuxSeccomp) -> String {
    let default = profile.default_action().as_u32(profile.default_errno_ret());
    let mut script = format!("init {default}\n");
    for arch in profile.architectures().iter().flatten() {
        writeln!(script, "arch {}", *arch as u32).unwrap();
    }
    for rule in profile.syscalls().iter().flatten() {
        let answer = rule.action().as_u32(rule.errno_ret());
        if answer == default {
            continue;
        }
        let args = rule.args().clone().unwrap_or_default();
        let distinct: HashSet<usize> = args.iter().map(LinuxSeccompArg::index).collect();
        let groups: Vec<&[LinuxSeccompArg]> =
            if distinct.len() < args.len() { args.chunks(1).collect() } else { vec![&args[..]] };
        for name in rule.names() {
            for group in &groups {
                write!(script, "rule {answer} {name} {}", group.len()).unwrap();
                for arg in *group {
                    let operator = arg.op() as u32;
                    let second = arg.value_two().unwrap_or(0);
                    write!(script, " {} {operator} {} {second}", arg.index(), arg.value()).unwrap();
                }
                script.push('\n');
            }
        }
    }
    script
}

/// Argument values at and around every constant of the profile.
fn samples(profile: &LinuxSeccomp) -> Vec<u64> {
    let mut samples = vec![0, 1, u64::MAX, 0x1_0000_0000, 0xffff_ffff];
    for arg in profile.syscalls().iter().flatten().flat_map(|rule| rule.args().iter().flatten()) {
        for value in [arg.value(), arg.value_two().unwrap_or(0)] {
            samples.extend([value, value.wrapping_sub(1), value.wrapping_add(1), !value]);
            samples.extend([value ^ 1 << 32, value | 1 << 63, value & 0xffff_ffff]);
        }
    }
    samples.sort_unstable();
    samples.dedup();
    samples
}

/// Numbers that are the same at every run (an LCG, Knuth's constants).
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }

    fn pick<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[self.next(from.len())]
    }
}

const EVERY_ARCH: [Arch; 3] = [Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32];

fn profile(default: Action, architectures: &[Arch], rules: Vec<LinuxSyscall>) -> LinuxSeccomp {
    LinuxSeccompBuilder::default()
        .default_action(default)
        .architectures(architectures)
        .syscalls(rules)
        .build()
        .unwrap()
}

fn rule(
    name: &str,
    action: Action,
    errno: Option<u32>,
    args: &[(usize, Operator, u64, u64)],
) -> LinuxSyscall {
    let mut rule = LinuxSyscallBuilder::default().names(vec![name.to_owned()]).action(action);
    if let Some(errno) = errno {
        rule = rule.errno_ret(errno);
    }
    let args: Vec<LinuxSeccompArg> = args
        .iter()
        .map(|(index, op, value, second)| {
            let arg = LinuxSeccompArgBuilder::default().index(*index).op(*op).value(*value);
            arg.value_two(*second).build().unwrap()
        })
        .collect();
    rule.args(args).build().unwrap()
}

#[test]
fn the_table_agrees_with_libseccomp() {
    let names = Reference::new().names();
    assert!(names.len() > 1100, "{}", names.len());
    for (abi, number, name) in names {
        let ours = syscalls::numbers(&name).and_then(|numbers| numbers.get(ABIS[abi]));
        assert_eq!(ours.map(u32::from), Some(number), "{:?} {name}", ABIS[abi]);
    }
}

#[test]
fn the_default_profile_agrees_with_libseccomp() {
    let reference = Reference::new();
    let sets: [&[Capability]; 5] = [
        &[],
        &crate::capability::DEFAULT,
        &[Capability::SysAdmin],
        &[Capability::SysPtrace, Capability::SysTime, Capability::Bpf, Capability::DacReadSearch],
        &crate::capability::all().into_iter().collect::<Vec<_>>(),
    ];
    for set in sets {
        reference.compare(&default_profile(&set.iter().copied().collect::<Capabilities>()));
    }
}

#[test]
fn every_operator_and_action_agrees_with_libseccomp() {
    use Operator::*;
    let reference = Reference::new();
    let actions = [
        (Action::ScmpActAllow, None),
        (Action::ScmpActErrno, None),
        (Action::ScmpActErrno, Some(4094)),
        (Action::ScmpActErrno, Some(0)),
        (Action::ScmpActKill, None),
        (Action::ScmpActKillThread, None),
        (Action::ScmpActKillProcess, None),
        (Action::ScmpActLog, None),
        (Action::ScmpActTrap, None),
        (Action::ScmpActTrace, Some(65535)),
    ];
    let operators = [ScmpCmpNe, ScmpCmpLt, ScmpCmpLe, ScmpCmpEq, ScmpCmpGe, ScmpCmpGt, ScmpCmpMaskedEq];
    for default in
        [Action::ScmpActErrno, Action::ScmpActAllow, Action::ScmpActKillProcess, Action::ScmpActLog]
    {
        let mut rules = Vec::new();
        for (number, operator) in operators.into_iter().enumerate() {
            let (action, errno) = actions[number % actions.len()];
            rules.push(rule(
                "ioctl",
                action,
                errno,
                &[(number % 6, operator, 0x1234_5678_9abc, 0x1000_0000_8000)],
            ));
        }
        reference.compare(&profile(default, &EVERY_ARCH[..1], rules[..1].to_vec()));
        for (action, errno) in actions {
            for operator in operators {
                let values =
                    [(0, 0), (5, 5), (0xffff_ffff, 0x10), (0x7_0000_0000, 0x1_0000_0000), (u64::MAX, 7)];
                let rules = values
                    .iter()
                    .zip(["read", "write", "dup3", "prctl", "exit_group"])
                    .map(|((value, second), name)| {
                        rule(name, action, errno, &[(2, operator, *value, *second)])
                    })
                    .collect();
                reference.compare(&profile(default, &EVERY_ARCH[..1], rules));
            }
        }
    }
}

#[test]
fn several_rules_for_one_call_agree_with_libseccomp() {
    use Operator::*;
    let reference = Reference::new();
    let (errno, allow) = (Action::ScmpActErrno, Action::ScmpActAllow);
    let sets = vec![
        // All conditions of one rule hold together.
        vec![rule(
            "mmap",
            allow,
            None,
            &[(0, ScmpCmpEq, 0, 0), (2, ScmpCmpMaskedEq, 4, 0), (5, ScmpCmpGt, 9, 0)],
        )],
        // Several on one argument are alternatives.
        vec![rule("kill", allow, None, &[(1, ScmpCmpGe, 5, 0), (1, ScmpCmpLe, 3, 0)])],
        vec![rule("kill", allow, None, &[(1, ScmpCmpEq, 5, 0), (1, ScmpCmpEq, 3, 0), (0, ScmpCmpEq, 1, 0)])],
        // Alternatives in rules of their own.
        (0..300).map(|value| rule("ioctl", allow, None, &[(1, ScmpCmpEq, value * 3, 0)])).collect(),
        (0..40)
            .map(|value| rule("ioctl", allow, None, &[(1, ScmpCmpEq, value * 3 + ((value % 3) << 32), 0)]))
            .collect(),
        vec![
            rule("prctl", allow, None, &[(0, ScmpCmpEq, 1, 0)]),
            rule("prctl", allow, None, &[(0, ScmpCmpEq, 2, 0), (1, ScmpCmpEq, 3, 0)]),
            rule("prctl", Action::ScmpActLog, None, &[(0, ScmpCmpEq, 4, 0)]),
        ],
        // One without conditions outweighs those with, wherever it stands; the first of several counts.
        vec![rule("clone", allow, None, &[(0, ScmpCmpEq, 1, 0)]), rule("clone", errno, Some(38), &[])],
        vec![rule("clone", errno, Some(38), &[]), rule("clone", allow, None, &[(0, ScmpCmpEq, 1, 0)])],
        vec![rule("clone", errno, Some(38), &[]), rule("clone", errno, Some(39), &[])],
        // What repeats the default changes nothing.
        vec![rule("clone", allow, None, &[(0, ScmpCmpEq, 1, 0)]), rule("clone", errno, Some(1), &[])],
        // Unknown names are skipped.
        vec![rule("no_such_call", allow, None, &[]), rule("read", allow, None, &[])],
        vec![],
    ];
    for rules in sets {
        let wide = |arg: &LinuxSeccompArg| arg.value() > u64::from(u32::MAX);
        if rules.iter().flat_map(|rule| rule.args().iter().flatten()).any(wide) {
            // libseccomp would compare the lower half alone for the other conventions.
            reference.compare(&profile(errno, &[], rules));
            continue;
        }
        for architectures in
            [&EVERY_ARCH[..0], &EVERY_ARCH[..1], &EVERY_ARCH[..2], &EVERY_ARCH[1..], &EVERY_ARCH]
        {
            reference.compare(&profile(errno, architectures, rules.clone()));
        }
    }
}

#[test]
fn random_profiles_agree_with_libseccomp() {
    use Operator::*;
    let reference = Reference::new();
    let operators = [ScmpCmpNe, ScmpCmpLt, ScmpCmpLe, ScmpCmpEq, ScmpCmpGe, ScmpCmpGt, ScmpCmpMaskedEq];
    let actions = [
        (Action::ScmpActAllow, None),
        (Action::ScmpActErrno, Some(13)),
        (Action::ScmpActLog, None),
        (Action::ScmpActKillThread, None),
        (Action::ScmpActTrace, Some(7)),
    ];
    let mut names: Vec<String> = reference.names().into_iter().map(|(_, _, name)| name).collect();
    names.sort();
    names.dedup();
    for seed in 0..60 {
        let mut random = Random(seed);
        let (default, _) = *random.pick(&actions);
        let architectures: Vec<Arch> = EVERY_ARCH.into_iter().filter(|_| random.next(3) > 0).collect();
        let mut rules = Vec::new();
        for name in &names {
            if random.next(3) == 0 {
                continue;
            }
            let (action, errno) = *random.pick(&actions);
            // Conditions of socketcall's and ipc's calls are where we are stricter than libseccomp on purpose.
            let plain = random.next(4) > 0 || rules::multiplexed(name);
            // libseccomp 2.5.4 answers wrongly for some sets of rules that share an argument, so they are left to
            // `random_conditions_mean_what_they_say`.
            {
                let mut args = Vec::new();
                // A 32-bit convention looks at the lower half alone, so larger values would be truncated there.
                let wide = architectures.iter().all(|arch| *arch == Arch::ScmpArchX86_64);
                for index in 0..if plain { 0 } else { 6 } {
                    if random.next(3) == 0 || (index == 5 && args.is_empty()) {
                        let limit = if wide { u64::MAX } else { u64::from(u32::MAX) };
                        let second = 0x8000_0003_8000_0003 & limit;
                        let value =
                            *random.pick(&[0, 1, 3, 0x8000_0003, 0xffff_ffff, 0x2_0000_0003, u64::MAX]);
                        args.push((index, *random.pick(&operators), value & limit, second & value));
                    }
                }
                rules.push(rule(name, action, errno, &args));
            }
        }
        reference.compare(&profile(default, &architectures, rules));
    }
}

#[test]
fn random_conditions_mean_what_they_say() {
    use Operator::*;
    let operators = [ScmpCmpNe, ScmpCmpLt, ScmpCmpLe, ScmpCmpEq, ScmpCmpGe, ScmpCmpGt, ScmpCmpMaskedEq];
    let holds = |arg: &LinuxSeccompArg, call: &Call| {
        let (found, value) = (call.args[arg.index()], arg.value());
        match arg.op() {
            ScmpCmpNe => found != value,
            ScmpCmpLt => found < value,
            ScmpCmpLe => found <= value,
            ScmpCmpEq => found == value,
            ScmpCmpGe => found >= value,
            ScmpCmpGt => found > value,
            ScmpCmpMaskedEq => found & value == arg.value_two().unwrap(),
        }
    };
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut rules = Vec::new();
        for errno in 2..2 + random.next(40) as u32 {
            let mut args = Vec::new();
            for index in 0..6 {
                if random.next(4) == 0 || (index == 5 && args.is_empty()) {
                    let value = *random.pick(&[0, 1, 2, 0x1_0000_0001, 0xffff_ffff, u64::MAX, 1 << 63]);
                    let second = *random.pick(&[0, 1, 1 << 63]);
                    // Few kinds of condition, so that runs of equalities come up too.
                    let operator = if seed % 2 == 0 { ScmpCmpEq } else { *random.pick(&operators) };
                    args.push((index, operator, value, second));
                }
            }
            rules.push(rule("read", Action::ScmpActErrno, Some(errno), &args));
        }
        let profile = profile(Action::ScmpActAllow, &EVERY_ARCH, rules);
        let program = compile(&profile).unwrap().program;
        let samples = samples(&profile);
        for number in [0, X32_BIT] {
            for _ in 0..300 {
                let args = [(); 6].map(|()| *random.pick(&samples));
                let call = Call { number, args, ..Call::default() };
                let matching = profile
                    .syscalls()
                    .iter()
                    .flatten()
                    .find(|rule| rule.args().iter().flatten().all(|arg| holds(arg, &call)));
                let expected = matching.map_or(0x7fff_0000, |rule| 0x5_0000 | rule.errno_ret().unwrap());
                assert_eq!(run(&program, &call), expected, "{call:x?}\n{}", script(&profile));
            }
        }
    }
}
