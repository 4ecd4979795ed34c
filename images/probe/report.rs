//! What a process sees from where it runs, read from the kernel: never from what it was told.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use anyhow::{Context, Result};
use caps::CapSet;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::unistd;
use serde::Serialize;

use crate::net::{Interface, Route};
use crate::paths::{self, Access};

#[derive(Serialize)]
struct Report {
    pid: i32,
    ppid: i32,
    pgid: i32,
    sid: i32,
    /// Every process that /proc shows.
    pids: Vec<i32>,
    uid: u32,
    euid: u32,
    gid: u32,
    egid: u32,
    groups: Vec<u32>,
    /// Octal, as /proc prints it: `0022`.
    umask: String,
    cwd: String,
    exe: String,
    hostname: String,
    domainname: String,
    argv: Vec<String>,
    env: BTreeMap<String, String>,
    /// From the entry's name to its identity: `"mnt": "mnt:[4026532270]"`.
    namespaces: BTreeMap<String, String>,
    mounts: Vec<Mount>,
    capabilities: BTreeMap<&'static str, Vec<String>>,
    no_new_privs: bool,
    /// 0 off, 1 strict, 2 filter (proc_pid_status(5)).
    seccomp: u32,
    oom_score_adj: i32,
    rlimits: BTreeMap<&'static str, Limit>,
    /// Every open descriptor but the one that lists them, with what it points to.
    fds: BTreeMap<i32, String>,
    cgroups: Vec<Cgroup>,
    devices: Vec<Device>,
    interfaces: Vec<Interface>,
    routes: Vec<Route>,
    /// `null` where the name is absent or cannot be read.
    sysctls: BTreeMap<&'static str, Option<String>>,
    paths: BTreeMap<String, Access>,
}

/// A line of mountinfo (proc_pid_mountinfo(5)).
#[derive(Serialize)]
struct Mount {
    id: u32,
    parent: u32,
    root: String,
    mountpoint: String,
    options: Vec<String>,
    /// The optional fields: `shared:1`, `master:2`; empty for a private mount.
    propagation: Vec<String>,
    fstype: String,
    source: String,
    super_options: Vec<String>,
}

/// `null` means without limit.
#[derive(Serialize)]
struct Limit {
    soft: Option<u64>,
    hard: Option<u64>,
}

#[derive(Serialize)]
struct Cgroup {
    hierarchy: u32,
    controllers: Vec<String>,
    path: String,
}

#[derive(Serialize)]
struct Device {
    path: String,
    kind: &'static str,
    major: u64,
    minor: u64,
    mode: String,
    uid: u32,
    gid: u32,
    /// Where a symbolic link points.
    target: Option<String>,
}

/// Prints the report as one line of JSON, with `paths` probed too.
pub(crate) fn print(paths: &[&str]) -> Result<()> {
    // First of all, so that nothing opened below is listed as handed down.
    let fds = open_descriptors()?;
    let status = Status::read()?;
    let report = Report {
        pid: unistd::getpid().as_raw(),
        ppid: unistd::getppid().as_raw(),
        pgid: unistd::getpgrp().as_raw(),
        sid: unistd::getsid(None)?.as_raw(),
        pids: visible_pids()?,
        uid: unistd::getuid().as_raw(),
        euid: unistd::geteuid().as_raw(),
        gid: unistd::getgid().as_raw(),
        egid: unistd::getegid().as_raw(),
        groups: status.field("Groups")?.split_whitespace().map(str::parse).collect::<Result<_, _>>()?,
        umask: status.field("Umask")?.to_owned(),
        cwd: unistd::getcwd()?.to_string_lossy().into_owned(),
        exe: link("/proc/self/exe"),
        hostname: unistd::gethostname()?.to_string_lossy().into_owned(),
        domainname: text("/proc/sys/kernel/domainname").unwrap_or_default(),
        argv: std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect(),
        env: std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
            .collect(),
        namespaces: namespaces()?,
        mounts: mounts()?,
        capabilities: capabilities()?,
        no_new_privs: status.field("NoNewPrivs")? == "1",
        seccomp: status.field("Seccomp")?.parse()?,
        oom_score_adj: fs::read_to_string("/proc/self/oom_score_adj")?.trim().parse()?,
        rlimits: rlimits()?,
        fds,
        cgroups: cgroups()?,
        devices: devices()?,
        interfaces: crate::net::interfaces()?,
        routes: crate::net::routes()?,
        sysctls: SYSCTLS.iter().map(|name| (*name, sysctl(name))).collect(),
        paths: paths.iter().map(|path| ((*path).to_owned(), paths::probe(path.as_ref()))).collect(),
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// /proc/self/status: where the kernel tells what has no call to ask by.
struct Status(String);

impl Status {
    fn read() -> Result<Self> {
        Ok(Self(fs::read_to_string("/proc/self/status").context("failed to read /proc/self/status")?))
    }

    fn field(&self, name: &str) -> Result<&str> {
        self.0
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
            .with_context(|| format!("/proc/self/status has no {name}"))
    }
}

fn open_descriptors() -> Result<BTreeMap<i32, String>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let target = link(&entry.path().to_string_lossy());
        // The directory being read is this function's own.
        if target != format!("/proc/{}/fd", std::process::id()) {
            found.insert(entry.file_name().to_string_lossy().parse()?, target);
        }
    }
    Ok(found)
}

fn visible_pids() -> Result<Vec<i32>> {
    let mut pids: Vec<i32> =
        fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    Ok(pids)
}

fn namespaces() -> Result<BTreeMap<String, String>> {
    fs::read_dir("/proc/self/ns")?
        .map(|entry| {
            let entry = entry?;
            let identity = fs::read_link(entry.path())?;
            Ok((entry.file_name().to_string_lossy().into_owned(), identity.to_string_lossy().into_owned()))
        })
        .collect()
}

fn mounts() -> Result<Vec<Mount>> {
    fs::read_to_string("/proc/self/mountinfo")?.lines().map(mount).collect()
}

fn mount(line: &str) -> Result<Mount> {
    let words: Vec<&str> = line.split(' ').collect();
    let dash = words.iter().position(|word| *word == "-").context("mountinfo line without a dash")?;
    let at = |index: usize| words.get(index).copied().unwrap_or_default().to_owned();
    let list = |text: &str| text.split(',').map(str::to_owned).collect();
    Ok(Mount {
        id: at(0).parse()?,
        parent: at(1).parse()?,
        root: at(3),
        mountpoint: at(4),
        options: list(&at(5)),
        propagation: words[6..dash].iter().map(|word| (*word).to_owned()).collect(),
        fstype: at(dash + 1),
        source: at(dash + 2),
        super_options: list(&at(dash + 3)),
    })
}

fn capabilities() -> Result<BTreeMap<&'static str, Vec<String>>> {
    [
        ("inheritable", CapSet::Inheritable),
        ("permitted", CapSet::Permitted),
        ("effective", CapSet::Effective),
        ("bounding", CapSet::Bounding),
        ("ambient", CapSet::Ambient),
    ]
    .into_iter()
    .map(|(name, set)| {
        let mut held: Vec<String> = caps::read(None, set)?.iter().map(ToString::to_string).collect();
        held.sort();
        Ok((name, held))
    })
    .collect()
}

fn rlimits() -> Result<BTreeMap<&'static str, Limit>> {
    let finite = |value| (value != RLIM_INFINITY).then_some(value);
    [
        ("RLIMIT_AS", Resource::RLIMIT_AS),
        ("RLIMIT_CORE", Resource::RLIMIT_CORE),
        ("RLIMIT_CPU", Resource::RLIMIT_CPU),
        ("RLIMIT_DATA", Resource::RLIMIT_DATA),
        ("RLIMIT_FSIZE", Resource::RLIMIT_FSIZE),
        ("RLIMIT_LOCKS", Resource::RLIMIT_LOCKS),
        ("RLIMIT_MEMLOCK", Resource::RLIMIT_MEMLOCK),
        ("RLIMIT_MSGQUEUE", Resource::RLIMIT_MSGQUEUE),
        ("RLIMIT_NICE", Resource::RLIMIT_NICE),
        ("RLIMIT_NOFILE", Resource::RLIMIT_NOFILE),
        ("RLIMIT_NPROC", Resource::RLIMIT_NPROC),
        ("RLIMIT_RSS", Resource::RLIMIT_RSS),
        ("RLIMIT_RTPRIO", Resource::RLIMIT_RTPRIO),
        ("RLIMIT_RTTIME", Resource::RLIMIT_RTTIME),
        ("RLIMIT_SIGPENDING", Resource::RLIMIT_SIGPENDING),
        ("RLIMIT_STACK", Resource::RLIMIT_STACK),
    ]
    .into_iter()
    .map(|(name, resource)| {
        let (soft, hard) = getrlimit(resource)?;
        Ok((name, Limit { soft: finite(soft), hard: finite(hard) }))
    })
    .collect()
}

fn cgroups() -> Result<Vec<Cgroup>> {
    fs::read_to_string("/proc/self/cgroup")?
        .lines()
        .map(|line| {
            let mut words = line.splitn(3, ':');
            let mut next = || words.next().context("/proc/self/cgroup line with less than three fields");
            Ok(Cgroup {
                hierarchy: next()?.parse()?,
                controllers: next()?.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
                path: next()?.to_owned(),
            })
        })
        .collect()
}

fn devices() -> Result<Vec<Device>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/dev")? {
        let path = entry?.path();
        let meta = fs::symlink_metadata(&path)?;
        let kind = meta.file_type();
        let rdev = meta.rdev();
        found.push(Device {
            kind: match () {
                () if kind.is_char_device() => "char",
                () if kind.is_block_device() => "block",
                () if kind.is_symlink() => "symlink",
                () if kind.is_dir() => "directory",
                () if kind.is_fifo() => "fifo",
                () if kind.is_socket() => "socket",
                () => "file",
            },
            major: nix::sys::stat::major(rdev),
            minor: nix::sys::stat::minor(rdev),
            mode: format!("{:04o}", meta.permissions().mode() & 0o7777),
            uid: meta.uid(),
            gid: meta.gid(),
            target: kind.is_symlink().then(|| link(&path.to_string_lossy())),
            path: path.to_string_lossy().into_owned(),
        });
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(found)
}

/// Those that a runtime sets, keeps out of reach or leaves to its own namespaces.
const SYSCTLS: &[&str] = &[
    "fs.mqueue.msg_max",
    "kernel.core_pattern",
    "kernel.domainname",
    "kernel.hostname",
    "kernel.msgmax",
    "kernel.ns_last_pid",
    "kernel.panic",
    "kernel.shmmax",
    "net.core.somaxconn",
    "net.ipv4.ip_forward",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv6.conf.all.accept_ra",
    "net.ipv6.conf.all.disable_ipv6",
    "vm.overcommit_memory",
];

fn sysctl(name: &str) -> Option<String> {
    text(&format!("/proc/sys/{}", name.replace('.', "/")))
}

fn text(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn link(path: &str) -> String {
    fs::read_link(path)
        .map_or_else(|error| format!("?{error}"), |target| target.to_string_lossy().into_owned())
}
