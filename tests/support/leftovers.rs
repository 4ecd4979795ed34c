//! What containers have on a machine, looked for in the kernel and on disk and never by asking the product.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::netns::Netns;

/// The links that are no container's.
const SHARED_LINKS: [&str; 3] = ["lo", "up0", "agent0"];
/// How the names of containers' own chains begin; the chains without it are shared by all.
const CHAIN_PREFIX: &str = "AGENT-P-";

/// What was found.
#[derive(Debug, Default)]
pub struct Leftovers {
    mounts: Vec<PathBuf>,
    /// Cgroups below the parent.
    cgroups: Vec<PathBuf>,
    /// The parent's own folders, which may stay.
    parents: Vec<PathBuf>,
    processes: Vec<(i32, String)>,
    /// Links, rules and files, each in words.
    others: Vec<String>,
}

impl Leftovers {
    /// Looks for what belongs to the node with these roots, this cgroup and this network. Of the processes inside,
    /// `known` are the test's own.
    pub fn find(dir: &Path, cgroup: &str, netns: &Netns, known: &BTreeSet<u32>) -> Self {
        let mut found = Leftovers { mounts: mounts(dir), ..Self::default() };
        for controller in controllers() {
            let parent = controller.join(cgroup.trim_start_matches('/'));
            if parent.is_dir() {
                collect_folders(&parent, &mut found.cgroups);
                found.parents.push(parent);
            }
        }
        found.processes = processes(dir, &netns.identity(), &found.in_cgroups(), known);
        found.others = [links(netns), rules(netns), records(dir)].concat();
        found
    }

    /// The processes in the cgroups found.
    fn in_cgroups(&self) -> BTreeSet<i32> {
        let mut inside = BTreeSet::new();
        for folder in self.cgroups.iter().chain(&self.parents) {
            let pids = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            inside.extend(pids.lines().filter_map(|pid| pid.parse::<i32>().ok()));
        }
        inside
    }

    /// Leaves out what a container that does not run may keep: its record and its name.
    pub fn besides_records(mut self) -> Self {
        self.others.retain(|other| {
            !other.starts_with("file: lib/containers/") && !other.starts_with("file: lib/names/")
        });
        // Its trace stays with it.
        self.others.retain(|other| !other.starts_with("file: run/trace/"));
        self
    }

    /// Whether no container has anything.
    pub fn is_empty(&self) -> bool {
        self.mounts.is_empty()
            && self.cgroups.is_empty()
            && self.processes.is_empty()
            && self.others.is_empty()
    }

    /// Takes away what would outlive the test's folder and network; what goes not is told.
    pub fn clear(&self) {
        for (pid, _) in &self.processes {
            // Whoever has ended meanwhile is as wanted.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        for mount in &self.mounts {
            if let Err(error) = umount2(mount, MntFlags::MNT_DETACH) {
                eprintln!("failed to unmount {}: {error}", mount.display());
            }
        }
        for folder in self.cgroups.iter().chain(&self.parents) {
            let start = std::time::Instant::now();
            while let Err(error) = fs::remove_dir(folder) {
                // Killed processes leave their cgroup a moment later.
                if start.elapsed() > std::time::Duration::from_secs(5) {
                    eprintln!("failed to remove {}: {error}", folder.display());
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
    }
}

impl fmt::Display for Leftovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.mounts.iter().try_for_each(|mount| writeln!(f, "mount: {}", mount.display()))?;
        self.cgroups.iter().try_for_each(|folder| writeln!(f, "cgroup: {}", folder.display()))?;
        self.processes.iter().try_for_each(|(pid, command)| writeln!(f, "process: {pid} {command}"))?;
        self.others.iter().try_for_each(|other| writeln!(f, "{other}"))
    }
}

/// The mount points below the node's folder, or that show something of it; the innermost first.
fn mounts(dir: &Path) -> Vec<PathBuf> {
    let dir = dir.to_string_lossy();
    let table = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    let ours = table.lines().filter(|line| line.contains(&*dir));
    let mut found: Vec<PathBuf> = ours.filter_map(|line| Some(line.split(' ').nth(4)?.into())).collect();
    found.reverse();
    found
}

fn controllers() -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    let mut all = vec![root.clone()];
    for entry in fs::read_dir(&root).into_iter().flatten().flatten() {
        // On a hybrid machine each controller is a folder; some are links to others.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            all.push(entry.path());
        }
    }
    all
}

/// Every folder below, the innermost first.
fn collect_folders(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_folders(&entry.path(), into);
            into.push(entry.path());
        }
    }
}

/// Those that are `inside`, those that were told of the folder, and those in the network; with their arguments.
pub fn processes(
    dir: &Path,
    netns: &str,
    inside: &BTreeSet<i32>,
    known: &BTreeSet<u32>,
) -> Vec<(i32, String)> {
    let dir = dir.to_string_lossy();
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc is mounted").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if pid.unsigned_abs() == std::process::id() || known.contains(&pid.unsigned_abs()) {
            continue;
        }
        let read = |name: &str| {
            let bytes = fs::read(entry.path().join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        };
        // What has ended and is about to be waited for has neither arguments nor a namespace.
        let command = read("cmdline");
        let told = command.contains(&*dir) || read("environ").contains(&*dir);
        let joined = fs::read_link(entry.path().join("ns/net")).is_ok_and(|link| link.as_os_str() == netns);
        if inside.contains(&pid) || told || joined {
            all.push((pid, command));
        }
    }
    all
}

/// Everything of the product's that no container owns, and that only a reset takes away: the bridge, shared chains,
/// the parent of the cgroups, the roots.
pub fn shared(dir: &Path, cgroup: &str, netns: &Netns) -> Vec<String> {
    let links = netns.shell("ip -o link show");
    let bridge = links.lines().filter(|line| line.contains(": agent0:")).map(|_| "link: agent0".to_owned());
    let rules = netns.shell("iptables-save 2>/dev/null");
    let rules = rules.lines().filter(|line| line.contains("AGENT")).map(|line| format!("rule: {line}"));
    let parents = controllers().into_iter().map(|folder| folder.join(cgroup.trim_start_matches('/')));
    let roots = ["lib", "run"].map(|name| dir.join(name));
    let folders = parents.chain(roots).filter(|folder| folder.exists());
    bridge.chain(rules).chain(folders.map(|folder| format!("folder: {}", folder.display()))).collect()
}

fn links(netns: &Netns) -> Vec<String> {
    let text = netns.shell("ip -o link show");
    let name = |line: &str| line.split([':', '@']).nth(1).unwrap_or_default().trim().to_owned();
    let names = text.lines().map(name).filter(|name| !SHARED_LINKS.contains(&name.as_str()));
    names.map(|name| format!("link: {name}")).collect()
}

fn rules(netns: &Netns) -> Vec<String> {
    let text = netns.shell("iptables-save 2>/dev/null");
    let ours = text.lines().filter(|line| line.contains(CHAIN_PREFIX));
    ours.map(|line| format!("rule: {line}")).collect()
}

/// The files that stand for a container, its name, its address, its ports, or work of a pull.
fn records(dir: &Path) -> Vec<String> {
    let folders =
        ["lib/containers", "lib/names", "lib/tmp", "lib/locks", "run/containers", "run/leases", "run/ports"];
    let mut all = Vec::new();
    for folder in folders {
        for entry in fs::read_dir(dir.join(folder)).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // The lease given last is remembered; a record half written is written over by the next.
            if !(folder.starts_with("run/") && name.starts_with('.')) {
                all.push(format!("file: {folder}/{name}"));
            }
        }
    }
    // The trace of a container goes with it; those of images stay.
    for entry in fs::read_dir(dir.join("run/trace")).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().trim_end_matches(".jsonl").to_owned();
        if name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            all.push(format!("file: run/trace/{name}"));
        }
    }
    all
}
