//! A machine under test: roots, network namespace and cgroup of its own, and a registry beside it.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::image::{Image, Written};
use super::leftovers::{Leftovers, processes, shared};
use super::netns::Netns;
use super::program::{self, LIMIT, Output};
use super::registry::Registry;
use super::running::Running;
use super::storage;
use super::wait::within;

/// The image of the worked example, at a registry that a mirror stands for.
pub const APP: &str = "registry.cn-hangzhou.aliyuncs.com/kube-easy/app:latest";
/// Debian; it has a shell.
pub const BASE: &str = "registry.test/base:latest";
/// Nothing but the payload that reports what it sees.
pub const PROBE: &str = "registry.test/probe:latest";

/// The machine's address on its uplink, where it has a neighbour, and the neighbour's.
pub const HOST_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The neighbour's.
pub const NEIGHBOUR_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// How long what ends by itself may take to be cleaned up.
const SOON: Duration = Duration::from_secs(15);

/// A machine under test. Dropping it removes what is still there by the product's own command and asserts that
/// then nothing is left.
#[derive(Debug)]
pub struct Node {
    registry: Option<Registry>,
    /// Its network.
    pub netns: Netns,
    cgroup: String,
    /// Further variables of its environment.
    variables: Vec<(String, String)>,
    dir: TempDir,
}

impl Node {
    /// One whose registry has the images of this repo, and which has pulled [`PROBE`].
    ///
    /// # Panics
    /// Without root, or when the images were not built.
    pub fn new() -> Self {
        let node = Self::fresh();
        node.pull(PROBE);
        node
    }

    /// One whose registry has the images of this repo, and which has pulled none.
    ///
    /// # Panics
    /// Without root, or when the images were not built.
    pub fn fresh() -> Self {
        let mut node = Self::offline();
        storage::fill(node.dir());
        node.serve(Registry::start(&node.netns, node.dir()));
        node
    }

    /// One whose registries do not answer.
    pub fn offline() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "the tests of the whole system need root: sudo scripts/test"
        );
        // Short: sockets lie below, whose paths hold 108 bytes.
        let dir = tempfile::Builder::new().prefix("agent-test-").tempdir().expect("a folder can be made");
        // One process, as under nextest, may hold several nodes.
        let word = dir.path().file_name().expect("it has a name").to_string_lossy().replace('.', "");
        let netns = Netns::new();
        let cgroup = format!("/{word}-{}", std::process::id());
        let node = Node { registry: None, netns, cgroup, variables: Vec::new(), dir };
        fs::create_dir_all(node.config_root().join("registries.d")).expect("a folder can be made");
        node.write_mirrors("127.0.0.1:1");
        node
    }

    /// Puts a registry in the place of the machine's last one.
    pub fn serve(&mut self, registry: Registry) {
        self.write_mirrors(&registry.host());
        self.registry = Some(registry);
    }

    /// Writes the configuration of registries, in the place of what there was.
    pub fn configure(&self, text: &str) {
        fs::write(self.config_root().join("registries.d/test.toml"), text).expect("the folder is ours");
    }

    fn write_mirrors(&self, host: &str) {
        let text = format!(
            "[host.\"registry.cn-hangzhou.aliyuncs.com\"]\nmirrors = [\"{host}\"]\n\n\
             [host.\"registry.test\"]\nmirrors = [\"{host}\"]\n\n[host.\"{host}\"]\nplain-http = true\n"
        );
        self.configure(&text);
    }

    /// Sets a variable for all that is run on it from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Its registry.
    ///
    /// # Panics
    /// When it has none.
    pub fn registry(&self) -> &Registry {
        self.registry.as_ref().expect("this node has a registry")
    }

    /// Stops its registry.
    pub fn stop_registry(&mut self) {
        self.registry = None;
    }

    /// A folder of the test's own, which goes with it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `AGENT_ROOT`.
    pub fn root(&self) -> PathBuf {
        self.dir().join("lib")
    }

    /// `AGENT_RUN_ROOT`.
    pub fn run_root(&self) -> PathBuf {
        self.dir().join("run")
    }

    /// `AGENT_CONFIG_ROOT`.
    pub fn config_root(&self) -> PathBuf {
        self.dir().join("etc")
    }

    /// `AGENT_CGROUP_PARENT`.
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// Builds an image by hand, pushes it, and returns the name to run it by.
    #[track_caller]
    pub fn push(&self, name: &str, image: &Image) -> String {
        self.push_written(name, image).0
    }

    /// The same, and pulls it.
    #[track_caller]
    pub fn push_and_pull(&self, name: &str, image: &Image) -> String {
        let name = self.push(name, image);
        self.pull(&name);
        name
    }

    /// Pulls an image.
    #[track_caller]
    pub fn pull(&self, name: &str) {
        assert_eq!(self.agent(&["pull", "-q", name]).ok(), name);
    }

    /// The same as [`Self::push`], with what it consists of.
    #[track_caller]
    pub fn push_written(&self, name: &str, image: &Image) -> (String, Written) {
        let layout = self.dir().join("layouts").join(name);
        let written = image.write(&layout);
        self.registry().push(&self.netns, &layout, name);
        (format!("registry.test/{name}:latest"), written)
    }

    /// `agent` on this machine, with no arguments yet and no other environment.
    pub fn command(&self) -> Command {
        let mut command = Command::new(binary("agent"));
        self.environment(&mut command);
        command
    }

    /// Gives a program the environment that `agent` needs on this machine.
    pub fn environment(&self, command: &mut Command) {
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.dir())
            .env("AGENT_ROOT", self.root())
            .env("AGENT_RUN_ROOT", self.run_root())
            .env("AGENT_CONFIG_ROOT", self.config_root())
            .env("AGENT_NETNS", self.netns.path())
            .env("AGENT_CGROUP_PARENT", &self.cgroup)
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
    }

    /// Runs `agent` to its end.
    #[track_caller]
    pub fn agent(&self, words: &[&str]) -> Output {
        self.agent_fed(words, "")
    }

    /// The same, with something on standard input.
    #[track_caller]
    pub fn agent_fed(&self, words: &[&str], stdin: &str) -> Output {
        program::run(self.command().args(words), stdin.as_bytes(), LIMIT)
    }

    /// Starts `agent` beside the test.
    #[track_caller]
    pub fn start(&self, words: &[&str]) -> Running {
        Running::start(self.command().args(words))
    }

    /// Runs `agent run -d` with these words after it, and returns the container's id.
    #[track_caller]
    pub fn detached(&self, words: &[&str]) -> String {
        let id = self.agent(&[&["run", "-d"], words].concat()).ok();
        assert!(id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id:?} is no id");
        id
    }

    /// What `agent inspect` says of one container or image.
    #[track_caller]
    pub fn inspect(&self, name: &str) -> Value {
        let text = self.agent(&["inspect", name]).ok();
        let mut all: Value = serde_json::from_str(&text).expect("inspect prints JSON");
        all[0].take()
    }

    /// The pid of a container's first process, as the host counts.
    #[track_caller]
    pub fn pid(&self, name: &str) -> i32 {
        let pid = self.inspect(name)["State"]["Pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        pid.filter(|pid| *pid > 0).unwrap_or_else(|| panic!("{name} does not run"))
    }

    /// The address of a container.
    #[track_caller]
    pub fn ip(&self, name: &str) -> Ipv4Addr {
        let settings = &self.inspect(name)["NetworkSettings"];
        settings["IPAddress"].as_str().and_then(|ip| ip.parse().ok()).unwrap_or_else(|| panic!("{settings}"))
    }

    /// What the payload prints as JSON when it is run once with these options and arguments.
    #[track_caller]
    pub fn probe(&self, options: &[&str], arguments: &[&str]) -> Value {
        let words = [&["run", "--rm"], options, &[PROBE], arguments].concat();
        json(&self.agent(&words).ok())
    }

    /// What the log of a container holds once it holds `text`.
    #[track_caller]
    pub fn log_with(&self, name: &str, text: &str) -> String {
        within(SOON, &format!("{text:?} in the log of {name}"), || {
            let log = self.agent(&["logs", name]);
            assert_eq!(log.code, 0, "{}", log.stderr);
            (log.stdout.contains(text) || log.stderr.contains(text)).then_some(log.stdout)
        })
    }

    /// The folder of a container's cgroup, of one controller.
    pub fn cgroup_folder(&self, controller: &str, id: &str) -> PathBuf {
        let root = Path::new("/sys/fs/cgroup");
        let path = format!("{}/{id}", self.cgroup.trim_start_matches('/'));
        if root.join(controller).is_dir() { root.join(controller).join(path) } else { root.join(path) }
    }

    /// Joins it to a neighbour, a machine in the same network.
    pub fn neighbour(&self) -> Netns {
        let neighbour = Netns::new();
        self.netns.join(HOST_IP, &neighbour, NEIGHBOUR_IP);
        neighbour
    }

    /// What containers have on this machine right now.
    pub fn leftovers(&self) -> Leftovers {
        let ours: BTreeSet<u32> = self.registry.iter().map(Registry::pid).collect();
        Leftovers::find(self.dir(), &self.cgroup, &self.netns, &ours)
    }

    /// What is on this machine for all containers together.
    pub fn shared(&self) -> Vec<String> {
        shared(self.dir(), &self.cgroup, &self.netns)
    }

    /// The monitors of this machine's containers.
    pub fn monitors(&self) -> Vec<i32> {
        let found = processes(self.dir(), &self.netns.identity(), &BTreeSet::new(), &BTreeSet::new());
        // What they run is a sealed copy, under whatever name.
        let monitors = found.into_iter().filter(|(_, words)| words.trim_end().ends_with(" monitor"));
        monitors.map(|(pid, _)| pid).collect()
    }

    /// Asserts that, at once or soon, no container has anything on this machine.
    ///
    /// # Panics
    /// When one has.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        self.assert_soon_empty(|left| left);
    }

    /// The same, where containers that do not run may still be listed.
    ///
    /// # Panics
    /// When one has more than its record.
    #[track_caller]
    pub fn assert_nothing_runs(&self) {
        self.assert_soon_empty(Leftovers::besides_records);
    }

    #[track_caller]
    fn assert_soon_empty(&self, choose: impl Fn(Leftovers) -> Leftovers) {
        let start = std::time::Instant::now();
        loop {
            let left = choose(self.leftovers());
            if left.is_empty() {
                return;
            }
            assert!(start.elapsed() < SOON, "left behind on {}:\n{left}", self.dir().display());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Removes every container, as a user would.
    ///
    /// # Panics
    /// When one cannot be removed.
    #[track_caller]
    pub fn remove_containers(&self) {
        let ids = self.agent(&["ps", "-aq", "--no-trunc"]).ok();
        if !ids.is_empty() {
            let ids: Vec<&str> = ids.lines().collect();
            let _ = self.agent(&[&["rm", "-f"], &ids[..]].concat()).ok();
        }
    }
}

impl Default for Node {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The test has failed already; what is left may tell why.
            let left = self.leftovers();
            eprintln!("on {} at the failure:\n{left}", self.dir().display());
            left.clear();
            return;
        }
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.remove_containers();
            self.assert_nothing_left();
        }));
        self.leftovers().clear();
        if let Err(panic) = checked {
            std::panic::resume_unwind(panic);
        }
    }
}

/// A program of this workspace, which lies beside the tests' own.
///
/// # Panics
/// When it was not built.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a process has a program");
    // target/TRIPLE/debug/deps/TEST-HASH
    let folder = test.ancestors().nth(2).expect("tests lie two folders deep");
    let path = folder.join(name);
    assert!(path.is_file(), "{} was not built: cargo build --workspace", path.display());
    path
}

/// Reads a line of JSON.
///
/// # Panics
/// When it is none.
#[track_caller]
pub fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}
