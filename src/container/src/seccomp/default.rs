//! The profile of a container that names none: what is equivalent to moby's `profiles/seccomp` of 2026, an allow
//! list that widens with the container's capabilities.
//!
//! Source of the facts: moby's default.json. Calls of other machines than x86 are left out.

use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg,
    LinuxSeccompArgBuilder, LinuxSeccompBuilder, LinuxSeccompOperator as Operator, LinuxSyscall,
    LinuxSyscallBuilder,
};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

/// Personalities that change nothing an attacker could use: PER_LINUX, PER_LINUX32, both with UNAME26, and "ask".
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The smallest socket family past the ones allowed without a gap, from AF_UNIX to AF_ROSE.
const FIRST_GAP_IN_FAMILIES: u64 = 12;

/// Further socket families, AF_NETBEUI to AF_MCTP. Left out: AF_ALG (38) and AF_VSOCK (40), which reach the
/// kernel's cryptography and the hypervisor and are not confined by the network namespace, and families the
/// kernel has removed.
const FAMILIES: &[u64] =
    &[13, 14, 15, 16, 17, 18, 21, 22, 24, 26, 27, 28, 29, 30, 31, 32, 33, 35, 36, 39, 41, 42, 43, 44, 45];

/// The default profile for a container whose bounding set is `bounding`.
#[must_use]
pub fn default_profile(bounding: &Capabilities) -> LinuxSeccomp {
    let has = |capability| bounding.contains(&capability);
    let mut rules = vec![allow(ALWAYS)];
    rules.push(allow_if("socket", 0, Operator::ScmpCmpLt, FIRST_GAP_IN_FAMILIES));
    rules.extend(FAMILIES.iter().map(|family| allow_if("socket", 0, Operator::ScmpCmpEq, *family)));
    rules.extend(
        PERSONALITIES.iter().map(|persona| allow_if("personality", 0, Operator::ScmpCmpEq, *persona)),
    );
    rules.extend(
        WITH_CAPABILITY.iter().filter(|(capability, _)| has(*capability)).map(|(_, names)| allow(names)),
    );
    if !has(Capability::SysAdmin) {
        rules.push(allow_if("clone", 0, Operator::ScmpCmpMaskedEq, NEW_NAMESPACES));
        // Its flags are behind a pointer, where a filter cannot look; libc falls back to clone.
        rules.push(rule("clone3", Action::ScmpActErrno, Some(ENOSYS), None));
    }
    LinuxSeccompBuilder::default()
        .default_action(Action::ScmpActErrno)
        .default_errno_ret(EPERM)
        .architectures(vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32])
        .syscalls(rules)
        .build()
        .expect("every field has a default")
}

fn allow(names: &str) -> LinuxSyscall {
    rule(names, Action::ScmpActAllow, None, None)
}

fn allow_if(name: &str, index: usize, operator: Operator, value: u64) -> LinuxSyscall {
    let mut condition = LinuxSeccompArgBuilder::default().index(index).value(value).op(operator);
    if operator == Operator::ScmpCmpMaskedEq {
        condition = condition.value_two(0u64);
    }
    let condition = condition.build().expect("every field has a default");
    rule(name, Action::ScmpActAllow, None, Some(condition))
}

fn rule(names: &str, action: Action, errno: Option<u32>, condition: Option<LinuxSeccompArg>) -> LinuxSyscall {
    let mut rule = LinuxSyscallBuilder::default()
        .names(names.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .action(action);
    if let Some(errno) = errno {
        rule = rule.errno_ret(errno);
    }
    if let Some(condition) = condition {
        rule = rule.args(vec![condition]);
    }
    rule.build().expect("every field has a default")
}

/// Calls that come with a capability.
const WITH_CAPABILITY: &[(Capability, &str)] = &[
    (Capability::DacReadSearch, "open_by_handle_at"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open \
         quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "delete_module finit_module init_module"),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise"),
    (Capability::SysRawio, "ioperm iopl"),
    (Capability::SysTime, "clock_settime clock_settime64 settimeofday stime"),
    (Capability::SysTtyConfig, "vhangup"),
    (Capability::SysNice, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];

/// Calls allowed whatever the capabilities and arguments. ptrace and its like are among them because the least
/// kernel is past 4.8, from which a filter cannot be escaped through ptrace.
const ALWAYS: &str = "\
    accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown \
    chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 \
    clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 \
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old \
    eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 \
    fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 \
    fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs \
    fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv \
    futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid \
    getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid \
    getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit \
    getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr getxattrat \
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents \
    io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc kill \
    landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link \
    linkat listen listmount listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat \
    lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod \
    mknodat mlock mlock2 mlockall mmap mmap2 modify_ldt mprotect mq_getsetattr mq_notify mq_open \
    mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl \
    msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep _newselect \
    newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free \
    pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease \
    process_vm_readv process_vm_writev pselect6 pselect6_time64 ptrace pwrite64 pwritev pwritev2 read \
    readahead readlink readlinkat readv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages \
    removexattr removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction \
    rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait \
    rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min \
    sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval \
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler \
    sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 sendfile sendfile64 \
    sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid \
    setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 \
    setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid \
    setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 \
    sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statmount statx \
    symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete \
    timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create \
    timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 \
    ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork \
    vmsplice wait4 waitid waitpid write writev";
