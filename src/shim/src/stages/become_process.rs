//! The last stage: the process becomes the one the configuration names. Every right goes, in the order in which
//! each is needed to give up the next.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use container::capability;
use container::monitor::ControlSocket;
use container::plan::{ProcessPlan, UserPlan};
use container::seccomp::Filter;
use container::users::{self, ResolvedUser};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, fstat, umask};
use nix::unistd::{AccessFlags, Gid, Uid};

use super::FromChild;
use crate::failure::{During, Failure, NOT_EXECUTABLE, NOT_FOUND};
use crate::rootfs::{Links, Rootfs};
use crate::start::Stdio;

/// The most of /etc/passwd or /etc/group that is read.
const ACCOUNTS_BYTES: u64 = 4 << 20;

/// Where commands are looked up when the environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Becomes the process; returns only with why it could not.
pub fn run(
    plan: &ProcessPlan,
    seccomp: Option<&Filter>,
    stdio: Stdio,
    monitor: &ControlSocket,
    root: &Rootfs,
) -> Result<Infallible, Failure> {
    let user = resolve(&plan.user, root)?;
    connect(stdio, &user)?;
    let env = environment(plan, &user)?;
    set_limits(plan)?;
    enter(&plan.cwd, root)?;
    umask(Mode::from_bits_truncate(match plan.user {
        UserPlan::Ids { umask, .. } | UserPlan::Named { umask, .. } => umask.unwrap_or(0o022),
    }));
    if plan.no_new_privileges {
        nix::sys::prctl::set_no_new_privs().during("set no_new_privs")?;
    } else if let Some(filter) = seccomp {
        // Without no_new_privs only CAP_SYS_ADMIN may install a filter, so it comes before that is given up.
        filter.install().during("install the seccomp filter")?;
    }
    capability::drop_bounding(&plan.capabilities).during("drop capabilities")?;
    capability::keep_across_setuid().during("keep capabilities")?;
    let groups: Vec<Gid> = user.additional_gids.iter().copied().map(Gid::from_raw).collect();
    nix::unistd::setgroups(&groups).during("set the supplementary groups")?;
    let gid = Gid::from_raw(user.gid);
    nix::unistd::setresgid(gid, gid, gid).during(format_args!("become group {gid}"))?;
    let uid = Uid::from_raw(user.uid);
    nix::unistd::setresuid(uid, uid, uid).during(format_args!("become user {uid}"))?;
    capability::set(&plan.capabilities).during("set capabilities")?;

    let program = find(&plan.args[0], &env)?;
    sys::process::reset_signals().during("reset signals")?;
    sys::fd::cloexec_from(3).during("close descriptors")?;
    if plan.parent_death_kills {
        // A change of user clears it, so it comes after that; a monitor that died before it is found out by the send.
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).during("tie the process to its monitor")?;
    }
    monitor.send(&FromChild::Executing, &[]).during("report to the monitor")?;
    if plan.no_new_privileges
        && let Some(filter) = seccomp
    {
        filter.install().during("install the seccomp filter")?;
    }
    match nix::unistd::execve(&program, &plan.args, &env) {
        Ok(never) => Ok(never),
        Err(errno) => Err(not_executable(&plan.args[0], errno)),
    }
}

fn resolve(user: &UserPlan, root: &Rootfs) -> Result<ResolvedUser, Failure> {
    let read = |path: &str| {
        let text = root.read(Path::new(path), ACCOUNTS_BYTES);
        text.during(format_args!("read {path} of the container")).map(Option::unwrap_or_default)
    };
    match user {
        UserPlan::Ids { uid, gid, additional_gids, .. } => {
            let spec = uid.to_string();
            let account = users::resolve(&spec, &read("/etc/passwd")?, "", &[])
                .during(format_args!("look up user {uid}"))?;
            Ok(ResolvedUser {
                uid: *uid,
                gid: *gid,
                additional_gids: additional_gids.clone(),
                home: account.home,
                name: account.name,
            })
        }
        UserPlan::Named { spec, additional_gids, .. } => {
            let groups: Vec<String> = additional_gids.iter().map(u32::to_string).collect();
            users::resolve(spec, &read("/etc/passwd")?, &read("/etc/group")?, &groups)
                .during(format_args!("look up user {spec:?}"))
        }
    }
}

/// Makes the process the leader of a session of its own, out of reach of the terminal of whoever started it, and gives
/// it its standard input, output and error.
fn connect(stdio: Stdio, user: &ResolvedUser) -> Result<(), Failure> {
    nix::unistd::setsid().during("begin a session")?;
    let replace = |source: BorrowedFd<'_>, target| {
        sys::fd::replace_stdio(source, target).during("connect standard input and output")
    };
    let owner = (Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)));
    match stdio {
        Stdio::Terminal(slave) => {
            for target in 0..3 {
                replace(slave.as_fd(), target)?;
            }
            sys::process::take_controlling_terminal().during("take the terminal")?;
            nix::unistd::fchown(&slave, owner.0, None).during("give the terminal to the user")?;
        }
        Stdio::Pipes { stdin, stdout, stderr } => {
            let pipes: [&OwnedFd; 3] = [&stdin, &stdout, &stderr];
            for (target, pipe) in (0..).zip(pipes) {
                // So that /dev/stdout can be opened again by a user who is not root; /dev/null stays root's.
                let stat = fstat(pipe).during("look at a pipe")?;
                if stat.st_mode & libc::S_IFMT == libc::S_IFIFO {
                    nix::unistd::fchown(pipe, owner.0, owner.1).during("give a pipe to the user")?;
                }
                replace(pipe.as_fd(), target)?;
            }
        }
    }
    Ok(())
}

fn environment(plan: &ProcessPlan, user: &ResolvedUser) -> Result<Vec<CString>, Failure> {
    let mut env = plan.env.clone();
    if !env.iter().any(|variable| variable.starts_with("HOME=")) {
        env.push(format!("HOME={}", user.home));
    }
    env.into_iter().map(CString::new).collect::<Result<_, _>>().during("prepare the environment")
}

fn set_limits(plan: &ProcessPlan) -> Result<(), Failure> {
    for limit in &plan.limits {
        let what = format_args!("set {} to {}:{}", limit.kind, limit.soft, limit.hard).to_string();
        let resource = resource(limit.kind);
        nix::sys::resource::setrlimit(resource, limit.soft, limit.hard).during(what)?;
    }
    if let Some(value) = plan.oom_score_adj {
        std::fs::write("/proc/self/oom_score_adj", value.to_string())
            .during(format_args!("set oom_score_adj to {value}"))?;
    }
    Ok(())
}

fn resource(kind: oci_spec::runtime::PosixRlimitType) -> nix::sys::resource::Resource {
    use nix::sys::resource::Resource;
    use oci_spec::runtime::PosixRlimitType as Type;
    match kind {
        Type::RlimitCpu => Resource::RLIMIT_CPU,
        Type::RlimitFsize => Resource::RLIMIT_FSIZE,
        Type::RlimitData => Resource::RLIMIT_DATA,
        Type::RlimitStack => Resource::RLIMIT_STACK,
        Type::RlimitCore => Resource::RLIMIT_CORE,
        Type::RlimitRss => Resource::RLIMIT_RSS,
        Type::RlimitNproc => Resource::RLIMIT_NPROC,
        Type::RlimitNofile => Resource::RLIMIT_NOFILE,
        Type::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
        Type::RlimitAs => Resource::RLIMIT_AS,
        Type::RlimitLocks => Resource::RLIMIT_LOCKS,
        Type::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
        Type::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
        Type::RlimitNice => Resource::RLIMIT_NICE,
        Type::RlimitRtprio => Resource::RLIMIT_RTPRIO,
        Type::RlimitRttime => Resource::RLIMIT_RTTIME,
    }
}

/// Enters the working directory, made when it is missing, and makes sure that it is inside (CVE-2024-21626).
fn enter(cwd: &Path, root: &Rootfs) -> Result<(), Failure> {
    let folder = root.folders(cwd, Links::Follow).map_err(|error| {
        Failure::new(format!("failed to enter working directory {}: {error}", cwd.display()))
    })?;
    nix::unistd::fchdir(&folder).during(format_args!("enter working directory {}", cwd.display()))?;
    let seen = nix::unistd::getcwd().during("see the working directory from inside")?;
    if !seen.is_absolute() {
        return Err(Failure::new(format!(
            "working directory {} is outside the container's root",
            seen.display()
        )));
    }
    Ok(())
}

/// The program that a command names, as execvp(3) would find it, and as the user that the process now is.
fn find(command: &CStr, env: &[CString]) -> Result<CString, Failure> {
    let name = command.to_string_lossy().into_owned();
    if name.is_empty() {
        return Err(Failure::with_code(NOT_FOUND, "the command is empty"));
    }
    if name.contains('/') {
        return match usable(Path::new(&name)) {
            Ok(()) => Ok(command.to_owned()),
            Err(errno) => Err(not_executable(command, errno)),
        };
    }
    let path = env
        .iter()
        .find_map(|variable| variable.to_str().ok()?.strip_prefix("PATH="))
        .filter(|path| !path.is_empty())
        .unwrap_or(DEFAULT_PATH);
    let mut denied = None;
    for folder in path.split(':') {
        let candidate = PathBuf::from(if folder.is_empty() { "." } else { folder }).join(&name);
        match usable(&candidate) {
            Ok(()) => {
                return CString::new(candidate.into_os_string().into_encoded_bytes())
                    .during("find the command");
            }
            Err(errno @ (Errno::EACCES | Errno::EISDIR)) => denied = Some(errno),
            Err(_) => {}
        }
    }
    match denied {
        Some(errno) => Err(not_executable(command, errno)),
        None => {
            Err(Failure::with_code(NOT_FOUND, format!("exec: {name:?}: executable file not found in $PATH")))
        }
    }
}

fn usable(path: &Path) -> Result<(), Errno> {
    let stat = nix::sys::stat::stat(path)?;
    if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
        return Err(Errno::EISDIR);
    }
    nix::unistd::faccessat(nix::fcntl::AT_FDCWD, path, AccessFlags::X_OK, nix::fcntl::AtFlags::AT_EACCESS)
}

fn not_executable(command: &CStr, errno: Errno) -> Failure {
    let code = match errno {
        Errno::ENOENT | Errno::ENOTDIR => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    };
    let reason = match errno {
        Errno::ENOENT => "no such file or directory (of it, or of the interpreter it names)",
        Errno::EACCES => "permission denied",
        Errno::EISDIR => "is a directory",
        Errno::ENOEXEC => "not an executable format",
        other => other.desc(),
    };
    Failure::with_code(code, format!("exec: {:?}: {reason}", command.to_string_lossy()))
}
