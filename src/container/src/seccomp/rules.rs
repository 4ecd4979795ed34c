//! A profile as a table: for each calling convention, what each call number gets.
//!
//! The meaning is runc's and libseccomp's. A rule whose action is the default's changes nothing. A rule without
//! conditions outweighs every rule with some, and the first such rule every later one. Conditional rules are tried
//! in the profile's order; several conditions on one argument of a rule are alternatives (runc issue 2735), on
//! different arguments they hold together.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Operator,
};

use super::syscalls::{self, Abi};
use super::{SeccompError, invalid};

/// `SECCOMP_RET_ERRNO | ENOSYS`.
pub(super) const NO_SUCH_CALL: u32 = 0x0005_0000 | 38;

/// The kernel's `MAX_ERRNO`.
const LARGEST_ERRNO: u32 = 4095;

/// What a number gets.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) enum Verdict {
    /// The profile's default.
    #[default]
    Default,
    /// Always this answer.
    Always(u32),
    /// The answer of the first matching clause, else the default.
    FirstOf(Vec<Clause>),
}

/// Conditions that hold together, and the answer then given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Clause {
    pub(super) conditions: Vec<Condition>,
    pub(super) answer: u32,
}

/// One argument compared with a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) argument: u8,
    pub(super) operator: Operator,
    pub(super) value: u64,
    /// The value expected under the mask `value`; only for `MaskedEq`.
    pub(super) masked: u64,
}

/// Verdicts of one calling convention.
#[derive(Clone, Debug)]
pub(super) struct AbiRules {
    pub(super) abi: Abi,
    /// By call number.
    pub(super) verdicts: Vec<Verdict>,
    /// The largest number the profile names. Calls past it did not exist for the profile's author; they get
    /// [`NO_SUCH_CALL`], so that a newer libc falls back to an older call instead of failing, as under runc.
    pub(super) last: Option<u16>,
}

/// A profile, resolved.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) default: u32,
    /// What calls past [`AbiRules::last`] get.
    unknown: u32,
    /// The native convention first.
    pub(super) abis: Vec<AbiRules>,
    pub(super) notifies: bool,
}

pub(super) fn resolve(profile: &LinuxSeccomp) -> Result<Rules, SeccompError> {
    let default = answer(profile.default_action(), profile.default_errno_ret(), "the default action")?;
    if profile.default_action() == Action::ScmpActNotify {
        // It would cover the write(2) that hands the descriptor to the supervisor.
        return Err(invalid("SCMP_ACT_NOTIFY cannot be the default action"));
    }
    let permissive =
        matches!(profile.default_action(), Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace);
    let mut rules = Rules {
        default,
        unknown: if permissive { default } else { NO_SUCH_CALL },
        abis: abis(profile.architectures().as_deref().unwrap_or_default()),
        notifies: false,
    };
    for rule in profile.syscalls().iter().flatten() {
        let names = rule.names();
        let subject = names.first().map_or("a rule without names", String::as_str);
        let answer = answer(rule.action(), rule.errno_ret(), subject)?;
        let clauses = clauses(rule.args().as_deref().unwrap_or_default(), answer, subject)?;
        if rule.action() == Action::ScmpActNotify {
            if names.iter().any(|name| name == "write") {
                return Err(invalid("SCMP_ACT_NOTIFY cannot be used for write"));
            }
            if profile.listener_path().is_none() {
                return Err(invalid("SCMP_ACT_NOTIFY needs a listenerPath"));
            }
            rules.notifies = true;
        }
        for name in names {
            let numbers = syscalls::numbers(name);
            for abi in &mut rules.abis {
                if let Some(number) = numbers.and_then(|numbers| numbers.get(abi.abi)) {
                    abi.last = abi.last.max(Some(number));
                    if answer != default {
                        abi.verdicts[usize::from(number)].add(&clauses, answer);
                    }
                }
                if abi.abi == Abi::I386 && answer != default {
                    abi.add_multiplexed(name, &clauses, answer, permissive);
                }
            }
        }
    }
    Ok(rules)
}

impl Rules {
    /// The verdicts of one convention; `None` if the profile leaves it out.
    pub(super) fn abi(&self, abi: Abi) -> Option<&AbiRules> {
        self.abis.iter().find(|table| table.abi == abi)
    }

    /// What calls past the last one named get. A profile that names none says nothing about its author's kernel.
    pub(super) fn past_last(&self, abi: Abi) -> u32 {
        match self.abi(abi) {
            Some(AbiRules { last: Some(_), .. }) => self.unknown,
            _ => self.default,
        }
    }
}

impl Verdict {
    fn add(&mut self, clauses: &[Clause], answer: u32) {
        match self {
            Verdict::Always(_) => (),
            _ if clauses.is_empty() => *self = Verdict::Always(answer),
            Verdict::Default => *self = Verdict::FirstOf(clauses.to_vec()),
            Verdict::FirstOf(known) => known.extend_from_slice(clauses),
        }
    }
}

impl AbiRules {
    /// i386 programs reach socket and System V IPC calls also through socketcall and ipc, whose first argument
    /// selects the call and whose others the filter cannot see behind a pointer. A rule for such a call therefore
    /// also counts for its number there: always if it has no conditions, and, where the default lets calls
    /// through, also if it has (better too strict than a way around it).
    fn add_multiplexed(&mut self, name: &str, clauses: &[Clause], answer: u32, permissive: bool) {
        if !clauses.is_empty() && !permissive {
            return;
        }
        let Some((_, multiplexer, selector)) = MULTIPLEXED.iter().find(|row| row.0 == name) else { return };
        let mut conditions = vec![Condition {
            argument: 0,
            operator: Operator::ScmpCmpEq,
            value: u64::from(*selector),
            masked: 0,
        }];
        if *multiplexer == IPC {
            // Its upper half is a version the kernel only uses to read old msgrcv arguments.
            conditions[0] = Condition {
                operator: Operator::ScmpCmpMaskedEq,
                value: 0xffff,
                masked: u64::from(*selector),
                ..conditions[0]
            };
        }
        self.verdicts[usize::from(*multiplexer)].add(&[Clause { conditions, answer }], answer);
    }
}

const SOCKETCALL: u16 = 102;
const IPC: u16 = 117;

/// Call, the i386 call that carries it, and its selector there (`linux/net.h`, `linux/ipc.h`).
const MULTIPLEXED: &[(&str, u16, u16)] = &[
    ("socket", SOCKETCALL, 1),
    ("bind", SOCKETCALL, 2),
    ("connect", SOCKETCALL, 3),
    ("listen", SOCKETCALL, 4),
    ("accept", SOCKETCALL, 5),
    ("getsockname", SOCKETCALL, 6),
    ("getpeername", SOCKETCALL, 7),
    ("socketpair", SOCKETCALL, 8),
    ("send", SOCKETCALL, 9),
    ("recv", SOCKETCALL, 10),
    ("sendto", SOCKETCALL, 11),
    ("recvfrom", SOCKETCALL, 12),
    ("shutdown", SOCKETCALL, 13),
    ("setsockopt", SOCKETCALL, 14),
    ("getsockopt", SOCKETCALL, 15),
    ("sendmsg", SOCKETCALL, 16),
    ("recvmsg", SOCKETCALL, 17),
    ("accept4", SOCKETCALL, 18),
    ("recvmmsg", SOCKETCALL, 19),
    ("sendmmsg", SOCKETCALL, 20),
    ("semop", IPC, 1),
    ("semget", IPC, 2),
    ("semctl", IPC, 3),
    ("semtimedop", IPC, 4),
    ("msgsnd", IPC, 11),
    ("msgrcv", IPC, 12),
    ("msgget", IPC, 13),
    ("msgctl", IPC, 14),
    ("shmat", IPC, 21),
    ("shmdt", IPC, 22),
    ("shmget", IPC, 23),
    ("shmctl", IPC, 24),
];

/// Whether i386 carries the call inside another, where its arguments cannot be seen.
#[cfg(test)]
pub(super) fn multiplexed(name: &str) -> bool {
    matches!(name, "socketcall" | "ipc") || MULTIPLEXED.iter().any(|row| row.0 == name)
}

/// The native convention and those of the profile's other architectures that run on this machine; what is left
/// out, by name or by being of another machine, is killed.
fn abis(architectures: &[Arch]) -> Vec<AbiRules> {
    let wanted = [
        (Abi::X86_64, true),
        (Abi::X32, architectures.contains(&Arch::ScmpArchX32)),
        (Abi::I386, architectures.contains(&Arch::ScmpArchX86)),
    ];
    wanted
        .into_iter()
        .filter(|(_, wanted)| *wanted)
        .map(|(abi, _)| AbiRules {
            abi,
            verdicts: vec![Verdict::Default; usize::from(syscalls::END)],
            last: None,
        })
        .collect()
}

fn answer(action: Action, value: Option<u32>, subject: &str) -> Result<u32, SeccompError> {
    let largest = match action {
        Action::ScmpActErrno => LARGEST_ERRNO,
        Action::ScmpActTrace => u32::from(u16::MAX),
        // Other actions carry no value; one that is given is ignored, as by runc.
        _ => return Ok(action.as_u32(None)),
    };
    match value {
        Some(value) if value > largest => {
            Err(invalid(format!("errnoRet {value} of {subject} is beyond the largest, {largest}")))
        }
        _ => Ok(action.as_u32(value)),
    }
}

fn clauses(args: &[LinuxSeccompArg], answer: u32, subject: &str) -> Result<Vec<Clause>, SeccompError> {
    let mut seen = 0u8;
    let mut repeated = false;
    let mut conditions = Vec::with_capacity(args.len());
    for arg in args {
        let argument = u8::try_from(arg.index()).ok().filter(|index| *index < 6).ok_or_else(|| {
            invalid(format!("argument index {} of {subject} is beyond the last, 5", arg.index()))
        })?;
        repeated |= seen & 1 << argument != 0;
        seen |= 1 << argument;
        conditions.push(Condition {
            argument,
            operator: arg.op(),
            value: arg.value(),
            masked: arg.value_two().unwrap_or(0),
        });
    }
    Ok(if conditions.is_empty() {
        Vec::new()
    } else if repeated {
        let alone = |condition| Clause { conditions: vec![condition], answer };
        conditions.into_iter().map(alone).collect()
    } else {
        vec![Clause { conditions, answer }]
    })
}
