//! What a user asked for, checked before anything is made: every refusal names the option and how to mend it.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use container::capability;
use container::users::LARGEST_ID;
use oci_spec::runtime::Capability;

use crate::error::RuntimeError;
use crate::id;
use crate::options::{ContainerOptions, ExecOptions, Limits, MountOption, NetworkMode};

/// The least memory a container can be made in; docker's.
const LEAST_MEMORY: u64 = 6 << 20;

/// The least processor time: the kernel takes no quota under 1 ms of a 100 ms period.
const LEAST_CPU_MILLI: u64 = 10;

/// The longest host name the kernel takes (`HOST_NAME_MAX`).
const LONGEST_HOSTNAME: usize = 64;

/// Options of a tmpfs without a value, and those with one.
const TMPFS_FLAGS: [&str; 12] = [
    "ro",
    "rw",
    "exec",
    "noexec",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "noatime",
    "relatime",
    "strictatime",
    "defaults",
];
const TMPFS_VALUES: [&str; 6] = ["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks"];

/// Why a device cannot be had where the machine cannot say which devices a container may open.
const NO_DEVICES: &str = "this machine's cgroups cannot restrict devices (cgroup v2, or v1 without its devices controller), \
     so containers get none: leave it out";

/// Refuses what no container can have. `restricts_devices` says whether a cgroup decides which devices can be opened.
pub(crate) fn container(options: &ContainerOptions, restricts_devices: bool) -> Result<(), RuntimeError> {
    if let Some(name) = &options.name
        && !id::is_name(name)
    {
        return Err(RuntimeError::option(
            format!("container name {name:?}"),
            "want two or more letters, digits, `_`, `.` or `-`, beginning with a letter or digit",
        ));
    }
    environment(&options.env)?;
    if let Some(workdir) = &options.workdir {
        absolute("working directory", Path::new(workdir))?;
    }
    if let Some(user) = &options.user {
        self::user(user)?;
    }
    if let Some(hostname) = &options.hostname {
        self::hostname(hostname)?;
    }
    limits(&options.limits)?;
    mounts(&options.mounts)?;
    if !restricts_devices {
        no_devices(options)?;
    }
    if options.network != NetworkMode::Bridge && !options.ports.is_empty() {
        return Err(RuntimeError::option(
            "published ports",
            "only a container on the bridge can publish ports: leave them out or use the network `bridge`",
        ));
    }
    no_nul("command", options.command.iter().chain(options.entrypoint.iter().flatten()))
}

/// Refuses what no further process of a container can have.
pub(crate) fn exec(options: &ExecOptions) -> Result<(), RuntimeError> {
    if options.command.is_empty() {
        return Err(RuntimeError::option("command", "give one"));
    }
    if options.detach && options.tty {
        let reason = "nobody would hold the terminal of a detached command: leave one of the two out";
        return Err(RuntimeError::option("terminal", reason));
    }
    environment(&options.env)?;
    if let Some(workdir) = &options.workdir {
        absolute("working directory", Path::new(workdir))?;
    }
    if let Some(user) = &options.user {
        self::user(user)?;
    }
    no_nul("command", &options.command)
}

fn environment(env: &[String]) -> Result<(), RuntimeError> {
    for variable in env {
        let name = variable.split_once('=').map(|(name, _)| name);
        if name.is_none_or(str::is_empty) || variable.contains('\0') {
            return Err(RuntimeError::option(
                format!("environment variable {variable:?}"),
                "want NAME=value",
            ));
        }
    }
    Ok(())
}

/// Names can only be looked up inside the container; numbers and the form are checked here.
fn user(spec: &str) -> Result<(), RuntimeError> {
    let bad = |reason: String| Err(RuntimeError::option(format!("user {spec:?}"), reason));
    let parts: Vec<&str> = spec.split(':').collect();
    if spec.is_empty() || parts.len() > 2 || spec.contains(['\0', '\n']) {
        return bad("want USER or USER:GROUP".to_owned());
    }
    for part in parts {
        let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if digits && !part.parse::<u32>().is_ok_and(|id| id <= LARGEST_ID) {
            return bad(format!("the largest id is {LARGEST_ID}"));
        }
    }
    Ok(())
}

fn hostname(name: &str) -> Result<(), RuntimeError> {
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > LONGEST_HOSTNAME || !name.split('.').all(label) {
        return Err(RuntimeError::option(
            format!("host name {name:?}"),
            "want at most 64 letters, digits, `-` and dots between them",
        ));
    }
    Ok(())
}

fn limits(limits: &Limits) -> Result<(), RuntimeError> {
    if let Some(milli) = limits.cpu_milli
        && (milli < LEAST_CPU_MILLI
            || i64::try_from(milli).ok().and_then(|milli| milli.checked_mul(100)).is_none())
    {
        return Err(RuntimeError::option("processor limit", "the least is 0.01 of a processor"));
    }
    if let Some(memory) = limits.memory
        && (memory < LEAST_MEMORY
            || i64::try_from(memory).ok().and_then(|memory| memory.checked_mul(2)).is_none())
    {
        return Err(RuntimeError::option(format!("memory limit {memory}"), "the least is 6 MiB"));
    }
    if let Some(pids) = limits.pids
        && (pids == 0 || i64::try_from(pids).is_err())
    {
        return Err(RuntimeError::option(format!("process limit {pids}"), "the least is 1"));
    }
    Ok(())
}

/// Refuses what would let a container open whatever device it likes.
fn no_devices(options: &ContainerOptions) -> Result<(), RuntimeError> {
    // Names that are none are refused where they are looked up.
    let mknod = |name: &&String| capability::parse(name).is_ok_and(|parsed| parsed == Capability::Mknod);
    if let Some(name) = options.cap_add.iter().find(mknod) {
        return Err(RuntimeError::option(format!("capability {name}"), NO_DEVICES));
    }
    for mount in &options.mounts {
        if let MountOption::Tmpfs { options, .. } = mount
            && options.iter().any(|option| option == "dev")
        {
            return Err(RuntimeError::option("tmpfs option \"dev\"", NO_DEVICES));
        }
    }
    Ok(())
}

fn mounts(mounts: &[MountOption]) -> Result<(), RuntimeError> {
    let mut targets = BTreeSet::new();
    for mount in mounts {
        match mount {
            MountOption::Bind { source, .. } => {
                absolute("bind mount source", source)?;
            }
            MountOption::Volume { name, .. } if !id::is_name(name) => {
                return Err(RuntimeError::option(
                    format!("volume name {name:?}"),
                    "want two or more letters, digits, `_`, `.` or `-`; a folder of the host begins with `/`",
                ));
            }
            MountOption::Tmpfs { options, .. } => tmpfs_options(options)?,
            MountOption::Volume { .. } => {}
        }
        let target = target(mount.target())?;
        let refused =
            |reason: &str| Err(RuntimeError::option(format!("mount target {}", target.display()), reason));
        if target == Path::new("/") {
            return refused("the container's root cannot be mounted over");
        }
        if target.starts_with("/proc") {
            return refused("nothing can be mounted over or in /proc");
        }
        if target == Path::new("/dev") || target == Path::new("/sys") {
            return refused("containers have their own: mount what is needed at a place in it");
        }
        if targets.contains(&target) {
            return refused("two mounts have this target");
        }
        targets.insert(target);
    }
    Ok(())
}

fn tmpfs_options(options: &[String]) -> Result<(), RuntimeError> {
    for option in options {
        let known = match option.split_once('=') {
            Some((name, value)) => {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'%';
                TMPFS_VALUES.contains(&name) && !value.is_empty() && value.bytes().all(plain)
            }
            None => TMPFS_FLAGS.contains(&option.as_str()),
        };
        if !known {
            return Err(RuntimeError::option(
                format!("tmpfs option {option:?}"),
                format!("want one of {}, or {}=…", TMPFS_FLAGS.join(", "), TMPFS_VALUES.join("=…, ")),
            ));
        }
    }
    Ok(())
}

impl MountOption {
    /// Where it is mounted, as the user wrote it.
    pub(crate) fn target(&self) -> &Path {
        match self {
            MountOption::Bind { target, .. }
            | MountOption::Volume { target, .. }
            | MountOption::Tmpfs { target, .. } => target,
        }
    }
}

/// A mount's place in the container, plain: no `.`, no doubled slash.
pub(crate) fn target(target: &Path) -> Result<PathBuf, RuntimeError> {
    absolute("mount target", target)
}

/// An absolute path without `..` and `.`.
fn absolute(what: &str, path: &Path) -> Result<PathBuf, RuntimeError> {
    let bad = |reason| Err(RuntimeError::option(format!("{what} {:?}", path.display().to_string()), reason));
    if !path.is_absolute() {
        return bad("want an absolute path");
    }
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return bad("a path has no null byte");
    }
    if path.components().any(|component| component == Component::ParentDir) {
        return bad("`..` is not allowed");
    }
    Ok(path.components().collect())
}

fn no_nul<'s>(what: &str, words: impl IntoIterator<Item = &'s String>) -> Result<(), RuntimeError> {
    match words.into_iter().find(|word| word.contains('\0')) {
        Some(word) => Err(RuntimeError::option(format!("{what} {word:?}"), "an argument has no null byte")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use network::{PortMapping, Protocol};

    use super::*;

    fn refusal(change: impl FnOnce(&mut ContainerOptions)) -> Option<String> {
        let mut options = ContainerOptions::default();
        change(&mut options);
        container(&options, true).err().map(|error| error.to_string())
    }

    fn tmpfs(target: &str, options: &[&str]) -> MountOption {
        MountOption::Tmpfs {
            target: target.into(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        }
    }

    #[test]
    fn what_can_be_had_passes() {
        assert_eq!(
            refusal(|options| {
                options.name = Some("app-1".to_owned());
                options.env = vec!["A=".to_owned(), "B=c=d".to_owned()];
                options.workdir = Some("/srv".to_owned());
                options.user = Some("www-data:33".to_owned());
                options.hostname = Some("a.b-c".to_owned());
                options.limits = Limits { cpu_milli: Some(10), memory: Some(6 << 20), pids: Some(1) };
                options.mounts = vec![
                    tmpfs("/run", &["size=64m", "mode=1777", "exec"]),
                    tmpfs("/dev/shm", &["dev"]),
                    MountOption::Volume { name: "data".to_owned(), target: "/data".into(), read_only: false },
                    MountOption::Bind { source: "/srv".into(), target: "/data/srv".into(), read_only: true },
                ];
            }),
            None
        );
    }

    #[test]
    fn what_cannot_be_had_is_refused_by_name() {
        type Change = fn(&mut ContainerOptions);
        let cases: [(Change, &str); 24] = [
            (|o| o.name = Some("-x".to_owned()), "container name"),
            (|o| o.env = vec!["A".to_owned()], "environment variable"),
            (|o| o.env = vec!["=A".to_owned()], "environment variable"),
            (|o| o.workdir = Some("srv".to_owned()), "working directory"),
            (|o| o.workdir = Some("/srv/../..".to_owned()), "working directory"),
            (|o| o.user = Some("a:b:c".to_owned()), "user"),
            (|o| o.user = Some("4294967296".to_owned()), "user"),
            (|o| o.user = Some("0:2147483648".to_owned()), "user"),
            (|o| o.hostname = Some("a..b".to_owned()), "host name"),
            (|o| o.hostname = Some("a".repeat(65)), "host name"),
            (|o| o.limits.cpu_milli = Some(9), "processor limit"),
            (|o| o.limits.memory = Some(1 << 20), "memory limit"),
            (|o| o.limits.memory = Some(u64::MAX), "memory limit"),
            (|o| o.limits.pids = Some(0), "process limit"),
            (|o| o.mounts = vec![tmpfs("/", &[])], "mount target /"),
            (|o| o.mounts = vec![tmpfs("run", &[])], "mount target"),
            (|o| o.mounts = vec![tmpfs("/proc/sys", &[])], "mount target /proc/sys"),
            (|o| o.mounts = vec![tmpfs("/dev/", &[])], "mount target /dev"),
            (|o| o.mounts = vec![tmpfs("//sys", &[])], "mount target /sys"),
            (|o| o.mounts = vec![tmpfs("/a//b", &[]), tmpfs("/a/b/.", &[])], "two mounts"),
            (|o| o.mounts = vec![tmpfs("/a", &["size=1,uid=0"])], "tmpfs option"),
            (
                |o| {
                    o.mounts = vec![MountOption::Bind {
                        source: "here".into(),
                        target: "/a".into(),
                        read_only: false,
                    }];
                },
                "bind mount source",
            ),
            (
                |o| {
                    o.mounts = vec![MountOption::Volume {
                        name: "../x".to_owned(),
                        target: "/a".into(),
                        read_only: false,
                    }];
                },
                "volume name",
            ),
            (
                |o| {
                    o.network = NetworkMode::Host;
                    o.ports = vec![PortMapping {
                        host_ip: None,
                        host_port: 1,
                        container_port: 1,
                        protocol: Protocol::Tcp,
                    }];
                },
                "published ports",
            ),
        ];
        for (change, expected) in cases {
            let error = refusal(change).unwrap_or_else(|| panic!("{expected} passed"));
            assert!(error.contains(expected), "{error} does not say {expected}");
        }
    }

    #[test]
    fn where_devices_are_not_restricted_nothing_that_opens_them_is_given() {
        let with = |add: &[&str], mounts: Vec<MountOption>| {
            let cap_add = add.iter().map(|name| (*name).to_owned()).collect();
            let options = ContainerOptions { cap_add, mounts, ..Default::default() };
            assert!(container(&options, true).is_ok(), "{options:?}");
            container(&options, false).err().map(|error| error.to_string())
        };
        for name in ["MKNOD", "cap_mknod"] {
            let error = with(&["CHOWN", name], vec![]).expect("refused");
            assert!(
                error.contains(&format!("capability {name}: ")) && error.contains("leave it out"),
                "{error}"
            );
        }
        let error = with(&[], vec![tmpfs("/run", &["nodev", "dev"])]).expect("refused");
        assert!(error.contains("tmpfs option \"dev\""), "{error}");
        assert_eq!(with(&["ALL", "SYS_ADMIN"], vec![tmpfs("/run", &["exec"])]), None);
    }
}
