//! What a container must not do, tried for real. Each attempt runs in a child of its own, so that one that
//! succeeds changes nothing for the next and one that is killed for trying (SIGSYS) is told as such. What
//! an attempt asks for does no harm where it is granted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use linux_keyutils::{KeyRing, KeyRingIdentifier};
use nix::errno::Errno;
use nix::kmod;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags};
use nix::sys::personality::{self, Persona};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::sys::{ptrace, reboot};
use nix::time::{ClockId, clock_gettime, clock_settime};
use nix::unistd::{self, Gid, Pid, Uid};
use serde_json::{Map, json};

use crate::{paths, process};

/// The name under which a child makes its one attempt.
pub(crate) const CHILD: &str = "syscall-child";

type Attempt = fn() -> io::Result<()>;

const ATTEMPTS: &[(&str, Attempt)] = &[
    ("acct", || Ok(unistd::acct::enable("/nonexistent")?)),
    ("cgroup_mkdir", || make_cgroup()),
    ("chroot", || Ok(unistd::chroot("/")?)),
    ("clock_settime", || {
        Ok(clock_settime(ClockId::CLOCK_REALTIME, clock_gettime(ClockId::CLOCK_REALTIME)?)?)
    }),
    ("delete_module", || {
        Ok(kmod::delete_module(c"no_such_module_of_probe", kmod::DeleteModuleFlags::O_NONBLOCK)?)
    }),
    ("fanotify_init", || {
        Fanotify::init(InitFlags::FAN_CLASS_CONTENT, EventFFlags::O_RDONLY)?;
        Ok(())
    }),
    ("init_module", || Ok(kmod::init_module(b"not a module", c"")?)),
    ("keyctl", || match KeyRing::from_special_id(KeyRingIdentifier::Session, true) {
        Ok(_) => Ok(()),
        Err(_) => Err(io::Error::last_os_error()),
    }),
    ("mknod", || with_node(SFlag::S_IFCHR, makedev(1, 3), |_| Ok(()))),
    ("mount", || {
        mount(Some("probe"), "/proc", Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
        Ok(umount2("/proc", MntFlags::MNT_DETACH)?)
    }),
    ("open_dev_kmsg", || open("/dev/kmsg")),
    ("open_dev_mem", || open("/dev/mem")),
    ("open_disk", || with_node(SFlag::S_IFBLK, first_disk()?, |node| File::open(node).map(drop))),
    ("oom_score_adj", || write("/proc/self/oom_score_adj", "-1000")),
    ("packet_socket", || {
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None)?;
        Ok(())
    }),
    ("personality", || {
        personality::set(Persona::READ_IMPLIES_EXEC)?;
        Ok(())
    }),
    ("pivot_root", || Ok(unistd::pivot_root("/", "/")?)),
    // Seized, not attached: the process is not stopped by it.
    ("ptrace_init", || Ok(ptrace::seize(Pid::from_raw(1), ptrace::Options::empty())?)),
    ("ptrace_parent", || Ok(ptrace::seize(unistd::getppid(), ptrace::Options::empty())?)),
    ("raise_rlimit", || {
        let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
        Ok(setrlimit(Resource::RLIMIT_MEMLOCK, soft, hard.saturating_add(1))?)
    }),
    ("raw_socket", || {
        socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Icmp)?;
        Ok(())
    }),
    ("read_kcore", || read("/proc/kcore")),
    ("read_keys", || read("/proc/keys")),
    ("read_timer_list", || read("/proc/timer_list")),
    // What init systems set at boot; asks for the same capability as a reboot.
    ("reboot", || Ok(reboot::set_cad_enabled(false)?)),
    ("remount_proc_sys", || {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
        Ok(mount(None::<&str>, "/proc/sys", None::<&str>, flags, None::<&str>)?)
    }),
    ("setgid", || Ok(unistd::setgid(Gid::from_raw(12345))?)),
    ("setgroups", || Ok(unistd::setgroups(&[Gid::from_raw(12345)])?)),
    ("sethostname", || Ok(unistd::sethostname(unistd::gethostname()?)?)),
    ("setns", || Ok(setns(File::open("/proc/1/ns/mnt")?, CloneFlags::CLONE_NEWNS)?)),
    ("setuid", || Ok(unistd::setuid(Uid::from_raw(12345))?)),
    ("unshare_cgroup", || Ok(unshare(CloneFlags::CLONE_NEWCGROUP)?)),
    ("unshare_ipc", || Ok(unshare(CloneFlags::CLONE_NEWIPC)?)),
    ("unshare_mount", || Ok(unshare(CloneFlags::CLONE_NEWNS)?)),
    ("unshare_net", || Ok(unshare(CloneFlags::CLONE_NEWNET)?)),
    ("unshare_pid", || Ok(unshare(CloneFlags::CLONE_NEWPID)?)),
    ("unshare_user", || Ok(unshare(CloneFlags::CLONE_NEWUSER)?)),
    ("unshare_uts", || Ok(unshare(CloneFlags::CLONE_NEWUTS)?)),
    ("vsock_socket", || {
        socket(AddressFamily::Vsock, SockType::Stream, SockFlag::empty(), None)?;
        Ok(())
    }),
    ("write_proc_sys", || open_for_writing("/proc/sys/kernel/panic")),
    ("write_proc_irq", || open_for_writing("/proc/irq/default_smp_affinity")),
    ("write_sysrq_trigger", || open_for_writing("/proc/sysrq-trigger")),
    ("write_sys_power", || open_for_writing("/sys/power/state")),
    ("write_core_pattern", || open_for_writing("/proc/sys/kernel/core_pattern")),
    ("write_uevent_helper", || open_for_writing("/sys/kernel/uevent_helper")),
];

/// Makes the named attempts, or all; prints `ok`, the error's name or the signal for each, by name. A file
/// that can be opened but has nothing in it, as a masked one, is told as `empty`.
pub(crate) fn print(names: &[&str]) -> Result<()> {
    for name in names {
        if find(name).is_none() {
            let known: Vec<_> = ATTEMPTS.iter().map(|(name, _)| *name).collect();
            bail!("no attempt is called {name:?}; there are {}", known.join(", "));
        }
    }
    let mut told = Map::new();
    for (name, _) in ATTEMPTS.iter().filter(|(name, _)| names.is_empty() || names.contains(name)) {
        let output = process::again()
            .args([CHILD, name])
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("failed to start the attempt {name}"))?;
        let result = match output.status.signal() {
            Some(number) => Signal::try_from(number)?.as_str().to_owned(),
            None => String::from_utf8(output.stdout)?,
        };
        told.insert((*name).to_owned(), json!(result));
    }
    println!("{}", serde_json::Value::Object(told));
    Ok(())
}

/// Makes one attempt and writes its outcome.
pub(crate) fn child(name: &str) -> Result<ExitCode> {
    let attempt = find(name).with_context(|| format!("no attempt is called {name:?}"))?;
    let outcome = match attempt() {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => "empty".to_owned(),
        other => paths::outcome(&other),
    };
    io::stdout().write_all(outcome.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn find(name: &str) -> Option<Attempt> {
    ATTEMPTS.iter().find(|(known, _)| *known == name).map(|(_, attempt)| *attempt)
}

fn open(path: &str) -> io::Result<()> {
    File::open(path).map(drop)
}

/// Opens and writes nothing.
fn open_for_writing(path: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path).map(drop)
}

fn write(path: &str, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

/// One byte, so that an empty file is an unexpected end.
fn read(path: &str) -> io::Result<()> {
    File::open(path)?.read_exact(&mut [0])
}

/// Makes a device node in /dev, lets it be used and removes it.
fn with_node(kind: SFlag, device: u64, then: fn(&Path) -> io::Result<()>) -> io::Result<()> {
    let node = PathBuf::from(format!("/dev/.probe-{}", std::process::id()));
    mknod(&node, kind, Mode::S_IRUSR, device)?;
    let used = then(&node);
    fs::remove_file(&node)?;
    used
}

/// The machine's first disk: /proc/partitions is not masked.
fn first_disk() -> io::Result<u64> {
    let partitions = fs::read_to_string("/proc/partitions")?;
    let numbers = partitions.lines().skip(2).find_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    });
    let (major, minor) = numbers.ok_or(Errno::ENODEV)?;
    Ok(makedev(major, minor))
}

/// A group below the first hierarchy that shows itself.
fn make_cgroup() -> io::Result<()> {
    let at = |folder: &str| PathBuf::from(folder).join(format!("probe-{}", std::process::id()));
    let first = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids", "/sys/fs/cgroup"]
        .into_iter()
        .find(|folder| Path::new(folder).is_dir())
        .ok_or(Errno::ENOENT)?;
    fs::create_dir(at(first))?;
    fs::remove_dir(at(first))
}
