//! What system calls a container may make: an OCI seccomp profile, compiled to the classic BPF program the kernel
//! runs before every call.
//!
//! [`default_profile`] is the profile of a container that names none, [`load`] reads one from a file, [`compile`]
//! turns either into a [`Filter`], and the container's first process calls [`Filter::install`] last before exec.
//! Each profile means what it means to runc and libseccomp; the tests compare the two verdict by verdict. Where we
//! differ, it is on purpose: a calling convention the profile leaves out kills the process, not one thread; x32
//! arguments are compared whole; the i386 multiplexers socketcall and ipc cannot be used to go around a rule.
//!
//! Source: the runtime specification's `linux.seccomp`, seccomp(2), and the kernel's `seccomp_filter.rst`.

mod assemble;
mod default;
#[cfg(test)]
mod interpret;
mod load;
mod program;
#[cfg(test)]
mod reference;
mod rules;
mod syscalls;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompFilterFlag};
use sys::seccomp::{Instruction, MAX_INSTRUCTIONS, flag};

pub use default::default_profile;
pub use load::{Kernel, load, parse};

/// Why a seccomp profile cannot be had. None of these ever means "run without one".
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The profile's file cannot be read.
    #[error("failed to read seccomp profile {path}")]
    Read {
        /// The file as it was named.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file holds something other than a profile.
    #[error("failed to parse seccomp profile {path}")]
    Parse {
        /// The file as it was named.
        path: PathBuf,
        /// What and where.
        source: serde_json::Error,
    },
    /// The file is empty, or lacks a default action.
    #[error(
        "seccomp profile {path} is empty; give it a \"defaultAction\", or ask for \"unconfined\" if no profile is wanted"
    )]
    Empty {
        /// The file as it was named.
        path: PathBuf,
    },
    /// The profile contradicts itself or asks for what the kernel has not.
    #[error("seccomp profile is not valid: {reason}")]
    Invalid {
        /// What is wrong, with the call or field it is about.
        reason: String,
    },
    /// The program would be longer than the kernel takes.
    #[error("seccomp profile needs {instructions} instructions; the kernel takes at most {MAX_INSTRUCTIONS}")]
    TooLarge {
        /// Length of the program.
        instructions: usize,
    },
    /// The running kernel's release could not be read, so `minKernel` cannot be decided.
    #[error("failed to read the kernel's release")]
    KernelRelease {
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused the program.
    #[error("failed to install the seccomp filter")]
    Install {
        /// What the kernel said.
        source: io::Error,
    },
}

/// A compiled profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The program, in running order.
    pub program: Vec<Instruction>,
    /// Bits of [`sys::seccomp::flag`].
    pub flags: u32,
    /// Whether a rule hands calls to a supervisor, so that the filter comes with a descriptor.
    pub notifies: bool,
}

impl Filter {
    /// Loads the filter into the calling thread, for good. Returns the descriptor its supervisor listens on if it
    /// has one.
    ///
    /// # Errors
    /// [`SeccompError::Install`]; the usual cause is neither no_new_privs nor CAP_SYS_ADMIN.
    pub fn install(&self) -> Result<Option<OwnedFd>, SeccompError> {
        let installed = if self.notifies {
            sys::seccomp::install_with_listener(&self.program, self.flags).map(Some)
        } else {
            sys::seccomp::install(&self.program, self.flags).map(|()| None)
        };
        installed.map_err(|source| SeccompError::Install { source })
    }
}

/// Compiles a profile. Calls it names that no x86 kernel up to 6.18 has are skipped, as runc does.
///
/// # Errors
/// [`SeccompError::Invalid`] or [`SeccompError::TooLarge`].
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter, SeccompError> {
    let rules = rules::resolve(profile)?;
    let program = program::write(&rules);
    if program.len() > MAX_INSTRUCTIONS {
        return Err(SeccompError::TooLarge { instructions: program.len() });
    }
    let flags = profile.flags().iter().flatten().fold(0, |bits, flag| {
        bits | match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => flag::LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => flag::TSYNC,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => flag::SPEC_ALLOW,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => flag::WAIT_KILLABLE_RECV,
        }
    });
    Ok(Filter { program, flags, notifies: rules.notifies })
}

fn invalid(reason: impl Into<String>) -> SeccompError {
    SeccompError::Invalid { reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::process::Command;
    use std::{env, fs};

    use oci_spec::runtime::{Capabilities, Capability};

    use super::interpret::{Call, I386, run};
    use super::*;

    const KERNEL: Kernel = Kernel { version: 6, patch_level: 1 };

    fn compiled(json: &str) -> Result<Filter, SeccompError> {
        compile(&parse(json, &Capabilities::new(), KERNEL)?)
    }

    #[test]
    fn profiles_that_cannot_be_meant_are_refused() {
        let check = |json: &str, expected: &str| {
            let error = compiled(json).expect_err(json);
            let text = format!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string));
            assert!(text.contains(expected), "{json}: {text}");
        };
        check("", "is empty");
        check(" \n", "is empty");
        check("null", "is empty");
        check("{}", "is empty");
        check(r#"{"syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"}]}"#, "is empty");
        check("[]", "failed to parse");
        check("{", "failed to parse");
        check(r#"{"defaultAction":"SCMP_ACT_DENY"}"#, "SCMP_ACT_DENY");
        check(r#"{"defaultAction":""}"#, "failed to parse");
        check(r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_Z80"]}"#, "SCMP_ARCH_Z80");
        check(r#"{"defaultAction":"SCMP_ACT_ERRNO","flags":["FAST"]}"#, "FAST");
        check(r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":4096}"#, "4096");
        check(r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#, "cannot be the default");
        let rule = |rest: &str| format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{{rest}}}]}}"#);
        check(&rule(r#""names":["read"]"#), "action");
        check(&rule(r#""names":["read"],"action":"SCMP_ACT_MAYBE""#), "SCMP_ACT_MAYBE");
        check(&rule(r#""names":["read"],"name":"write","action":"SCMP_ACT_ALLOW""#), "both name and names");
        check(&rule(r#""names":["read"],"action":"SCMP_ACT_TRACE","errnoRet":65536"#), "65536 of read");
        check(&rule(r#""names":["read"],"action":"SCMP_ACT_NOTIFY""#), "listenerPath");
        check(&rule(r#""names":["write"],"action":"SCMP_ACT_NOTIFY""#), "for write");
        check(
            &rule(
                r#""names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]"#,
            ),
            "index 6 of read",
        );
        check(
            &rule(
                r#""names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":0,"op":"SCMP_CMP_IS"}]"#,
            ),
            "SCMP_CMP_IS",
        );
        check(
            &rule(r#""names":["read"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"new"}"#),
            "minKernel",
        );
        check(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64"],
                "archMap":[{"architecture":"SCMP_ARCH_X86_64"}]}"#,
            "both architectures and archMap",
        );
    }

    #[test]
    fn a_program_past_the_kernels_limit_is_refused() {
        let profile = |values: u64| {
            let rules: Vec<String> = (0..values)
                .map(|value| {
                    let value = value << 32;
                    format!(
                        r#"{{"names":["ioctl"],"action":"SCMP_ACT_ALLOW",
                            "args":[{{"index":1,"value":{value},"op":"SCMP_CMP_EQ"}}]}}"#
                    )
                })
                .collect();
            format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{}]}}"#, rules.join(","))
        };
        let filter = compiled(&profile(900)).unwrap();
        let call = |value| Call { number: 16, args: [0, value, 0, 0, 0, 0], ..Call::default() };
        for (value, expected) in
            [(0, 0x7fff_0000), (899 << 32, 0x7fff_0000), (900 << 32, 0x5_0001), (1, 0x5_0001)]
        {
            assert_eq!(run(&filter.program, &call(value)), expected, "{value:#x}");
        }
        assert!(matches!(compiled(&profile(2000)), Err(SeccompError::TooLarge { instructions: 4097.. })));
    }

    #[test]
    fn flags_and_notifications_are_passed_on() {
        let filter = compiled(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/run/seccomp.sock",
                "flags":["SECCOMP_FILTER_FLAG_TSYNC","SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
                "syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}"#,
        )
        .unwrap();
        assert_eq!(filter.flags, flag::TSYNC | flag::LOG | flag::SPEC_ALLOW);
        assert!(filter.notifies);
        assert_eq!(run(&filter.program, &Call { number: 83, ..Call::default() }), 0x7fc0_0000);
        let filter = compiled(r#"{"defaultAction":"SCMP_ACT_LOG"}"#).unwrap();
        assert_eq!((filter.flags, filter.notifies), (0, false));
    }

    #[test]
    fn conventions_left_out_are_killed() {
        let check = |architectures: &str, expected: [u32; 4]| {
            let json = format!(
                r#"{{"defaultAction":"SCMP_ACT_ERRNO","architectures":[{architectures}],
                     "syscalls":[{{"names":["getpid"],"action":"SCMP_ACT_ALLOW"}}]}}"#
            );
            let program = compiled(&json).unwrap().program;
            let calls = [
                Call { number: 39, ..Call::default() },
                Call { number: 39 | 0x4000_0000, ..Call::default() },
                Call { number: 20, arch: I386, ..Call::default() },
                Call { number: 39, arch: 0xc000_00b7, ..Call::default() },
            ];
            assert_eq!(calls.map(|call| run(&program, &call)), expected, "{architectures}");
        };
        let (allow, kill) = (0x7fff_0000, 0x8000_0000);
        check("", [allow, kill, kill, kill]);
        check(r#""SCMP_ARCH_X86_64""#, [allow, kill, kill, kill]);
        check(r#""SCMP_ARCH_X32""#, [allow, allow, kill, kill]);
        check(r#""SCMP_ARCH_X86","SCMP_ARCH_AARCH64""#, [allow, kill, allow, kill]);
        check(r#""SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32""#, [allow, allow, allow, kill]);
    }

    #[test]
    fn i386_cannot_go_around_a_rule_through_socketcall_or_ipc() {
        let filter = compiled(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"syscalls":[
                {"names":["send","shmget"],"action":"SCMP_ACT_ERRNO"},
                {"names":["socket"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":40,"op":"SCMP_CMP_EQ"}]}]}"#,
        )
        .unwrap();
        let check = |number, selector, expected| {
            let call = Call { number, arch: I386, args: [selector, 0, 0, 0, 0, 0] };
            assert_eq!(run(&filter.program, &call), expected, "{number} {selector:#x}");
        };
        let (allow, errno) = (0x7fff_0000, 0x5_0001);
        check(102, 9, errno); // send
        check(102, 1, errno); // socket, whose family cannot be seen
        check(102, 2, allow); // bind
        check(117, 23, errno); // shmget
        check(117, 0x1_0017, errno); // shmget with a version
        check(117, 21, allow); // shmat
        check(359, 40, errno);
        check(359, 2, allow);
    }

    #[test]
    fn the_default_profile_follows_the_capabilities() {
        let check = |capabilities: &[Capability], call: Call, expected: u32| {
            let filter = compile(&default_profile(&capabilities.iter().copied().collect())).unwrap();
            assert_eq!(run(&filter.program, &call), expected, "{capabilities:?} {call:x?}");
            assert!(filter.program.len() < 1000, "{}", filter.program.len());
        };
        let call = |number: u32, first: u64| Call { number, args: [first, 0, 0, 0, 0, 0], ..Call::default() };
        let (allow, eperm, enosys) = (0x7fff_0000, 0x5_0001, 0x5_0026);
        let admin = &[Capability::SysAdmin][..];
        check(&[], call(0, 0), allow); // read
        check(&[], call(165, 0), eperm); // mount
        check(admin, call(165, 0), allow);
        check(&[], call(56, 0x11), allow); // clone, as fork
        check(&[], call(56, 0x1000_0000), eperm); // CLONE_NEWUSER
        check(&[], call(56, 0x0200_0000), eperm); // CLONE_NEWCGROUP
        check(&[], call(56, 0xffff_ffff_0000_0011), allow); // the kernel looks at the lower half alone
        check(admin, call(56, 0x1000_0000), allow);
        check(&[], call(435, 0), enosys); // clone3
        check(admin, call(435, 0), allow);
        check(&[], call(272, 0), eperm); // unshare
        check(&[], call(135, 0), allow); // personality
        check(&[], call(135, 0xffff_ffff), allow);
        check(&[], call(135, 0x0040_0000), eperm); // READ_IMPLIES_EXEC
        check(&[], call(41, 1), allow); // socket(AF_UNIX)
        check(&[], call(41, 10), allow); // AF_INET6
        check(&[], call(41, 12), eperm); // AF_DECnet
        check(&[], call(41, 38), eperm); // AF_ALG
        check(admin, call(41, 40), eperm); // AF_VSOCK
        check(admin, call(41, 0x1_0000_0028), eperm); // AF_VSOCK to the kernel, with a bit no rule names
        check(&[], call(41, 44), allow); // AF_XDP
        check(&[], call(101, 0), allow); // ptrace
        check(&[], call(161, 0), eperm); // chroot
        check(&[Capability::SysChroot], call(161, 0), allow);
        check(&[], call(425, 0), eperm); // io_uring_setup
        check(&[], call(250, 0), eperm); // keyctl
        check(&[], call(468, 0), enosys); // newer than the profile
        check(&[], call(10_000, 0), enosys);
    }

    /// Runs the test called `name` of this module again, in a process of its own, and returns what it printed.
    fn again(name: &str) -> String {
        let output = Command::new(env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "--test-threads=1", &format!("seccomp::tests::{name}")])
            .env(IN_CHILD, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    const IN_CHILD: &str = "AGENT_TEST_SECCOMP_CHILD";

    #[test]
    fn an_installed_filter_answers_calls() {
        if env::var_os(IN_CHILD).is_none() {
            assert!(again("an_installed_filter_answers_calls").contains("verdicts seen"));
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let filter = compiled(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
                {"names":["mkdir"],"action":"SCMP_ACT_ERRNO"},
                {"names":["symlink"],"action":"SCMP_ACT_ERRNO","errnoRet":95}]}"#,
        )
        .unwrap();
        assert!(filter.install().unwrap().is_none());
        let code = |result: io::Result<()>| result.err().and_then(|error| error.raw_os_error());
        assert_eq!(code(fs::create_dir(directory.path().join("new"))), Some(1));
        assert_eq!(code(std::os::unix::fs::symlink("a", directory.path().join("link"))), Some(95));
        assert_eq!(code(fs::write(directory.path().join("file"), "text")), None);
        println!("verdicts seen");
    }

    #[test]
    fn the_default_profile_lets_an_ordinary_program_run() {
        if env::var_os(IN_CHILD).is_none() {
            assert!(again("the_default_profile_lets_an_ordinary_program_run").contains("unshare: EPERM"));
            return;
        }
        let bounding: Capabilities = crate::capability::DEFAULT.into_iter().collect();
        compile(&default_profile(&bounding)).unwrap().install().unwrap();
        let seen = Command::new("sh")
            .args(["-c", "echo a | cat; grep Seccomp: /proc/self/status"])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(seen.stdout).unwrap(), "a\nSeccomp:\t2\n");
        let refused = Command::new("unshare").args(["--mount", "true"]).output().unwrap();
        assert!(!refused.status.success());
        assert!(String::from_utf8(refused.stderr).unwrap().contains("Operation not permitted"));
        println!("unshare: EPERM");
    }

    #[test]
    fn a_notifying_filter_comes_with_its_descriptor() {
        if env::var_os(IN_CHILD).is_none() {
            assert!(again("a_notifying_filter_comes_with_its_descriptor").contains("seccomp notify"));
            return;
        }
        let filter = compiled(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x","flags":["SECCOMP_FILTER_FLAG_TSYNC"],
                "syscalls":[{"names":["swapon"],"action":"SCMP_ACT_NOTIFY"}]}"#,
        )
        .unwrap();
        let listener = filter.install().unwrap().expect("a rule notifies");
        let number = std::os::fd::AsRawFd::as_raw_fd(&listener);
        println!("{}", fs::read_link(format!("/proc/self/fd/{number}")).unwrap().display());
        // The whole process has it, not the test's thread alone.
        let filtered: HashSet<String> = fs::read_dir("/proc/self/task")
            .unwrap()
            .map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap())
            .map(|status| status.lines().find(|line| line.starts_with("Seccomp:")).unwrap().to_owned())
            .collect();
        assert_eq!(filtered, HashSet::from(["Seccomp:\t2".to_owned()]));
    }

    #[test]
    fn the_kernel_refuses_what_is_no_program() {
        let filter = Filter { program: Vec::new(), flags: 0, notifies: false };
        assert!(
            matches!(filter.install(), Err(SeccompError::Install { source }) if source.raw_os_error() == Some(22))
        );
    }
}
