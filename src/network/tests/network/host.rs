//! A host under test: a network namespace with an uplink to a neighbour, and containers in it.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use network::{AttachSpec, Attachment, Network, NetworkConfig, PortMapping, Protocol};
use nix::sched::{CloneFlags, setns, unshare};

/// The host's address on its uplink, and the neighbour's.
pub(crate) const HOST_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const NEIGHBOUR_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// How long an answer may take, a packet sent again included.
const PATIENCE: Duration = Duration::from_millis(2500);

/// How long what must not answer is listened for; what may, does within a few milliseconds.
const DOUBT: Duration = Duration::from_millis(300);

/// A network namespace held open by descriptor.
#[derive(Debug)]
pub(crate) struct Namespace {
    file: File,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let create = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        let file = thread::scope(|scope| scope.spawn(create).join().unwrap());
        let namespace = Self { file };
        namespace.shell("ip link set lo up");
        namespace
    }

    pub(crate) fn open(path: &Path) -> Self {
        Self { file: File::open(path).unwrap() }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// A path by which a child of this process can open it.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// Runs `work` on a thread inside.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        thread::scope(|scope| {
            scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a shell line inside and returns what it printed.
    pub(crate) fn shell(&self, line: &str) -> String {
        let output = self.run(|| Command::new("sh").args(["-ec", line]).output().unwrap());
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Serves TCP on `address`: every client is told `name` and the address it came from.
    pub(crate) fn serve(&self, name: &'static str, address: &str) {
        let listener = self.run(|| TcpListener::bind(address).unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let peer = stream.peer_addr().unwrap().ip();
                // A client that left early is its own affair.
                let _ = write!(stream, "{name} {peer}");
            }
        });
    }

    /// What a TCP server at `ip`:`port` says; an error if nobody answers in time.
    pub(crate) fn ask(&self, ip: Ipv4Addr, port: u16) -> io::Result<String> {
        self.run(|| {
            let mut stream = TcpStream::connect_timeout(&SocketAddr::from((ip, port)), PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        })
    }

    /// Asserts that connections to `ip`:`port` vanish, without an answer of any kind.
    pub(crate) fn gets_nothing(&self, ip: Ipv4Addr, port: u16) {
        let connect = || TcpStream::connect_timeout(&SocketAddr::from((ip, port)), DOUBT);
        let error = self.run(connect).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{ip}:{port}");
    }

    /// Asserts that `ip` can be reached: it answers a connection to a closed port by refusing it.
    pub(crate) fn reaches(&self, ip: Ipv4Addr) {
        let error = self.ask(ip, 9).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{ip}");
    }
}

/// A host with a neighbour, and the network under test on it.
pub(crate) struct Host {
    pub(crate) namespace: Namespace,
    pub(crate) neighbour: Namespace,
    pub(crate) network: Network,
    pub(crate) config: NetworkConfig,
    prefix: PathBuf,
    _scratch: tempfile::TempDir,
}

/// What can be seen of a host's network from outside the crate.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    links: String,
    rules: Vec<String>,
    records: Vec<PathBuf>,
    forwarding: String,
}

impl Host {
    pub(crate) fn new(prefix: &Path) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let mut config = NetworkConfig::new(scratch.path().join("run"));
        config.iptables = Some(prefix.to_owned());
        let (namespace, neighbour) = (Namespace::new(), Namespace::new());
        namespace.shell(&format!(
            "ip link add up0 type veth peer name eth0 netns {}
             ip addr add {HOST_IP}/24 dev up0; ip link set up0 up
             echo 0 >/proc/sys/net/ipv4/ip_forward",
            neighbour.path().display()
        ));
        neighbour.shell(&format!("ip addr add {NEIGHBOUR_IP}/24 dev eth0; ip link set eth0 up"));
        Self {
            namespace,
            neighbour,
            network: Network::new(config.clone()).unwrap(),
            config,
            prefix: prefix.to_owned(),
            _scratch: scratch,
        }
    }

    /// Attaches a new container.
    pub(crate) fn container(&self, id: &str, ports: &[PortMapping]) -> (Namespace, Attachment) {
        let container = Namespace::new();
        let spec = AttachSpec { ports: ports.to_vec() };
        let attachment = self.namespace.run(|| self.network.attach(id, container.fd(), &spec)).unwrap();
        (container, attachment)
    }

    pub(crate) fn detach(&self, id: &str) {
        self.namespace.run(|| self.network.detach(id)).unwrap();
    }

    pub(crate) fn attached(&self) -> Vec<String> {
        self.namespace.run(|| self.network.attached()).unwrap()
    }

    pub(crate) fn rules(&self) -> Vec<String> {
        let saved = self.namespace.shell(&format!("{}-save", self.prefix.display()));
        // Counters and dates change by themselves; tables and the kernel's own chains stay
        // once they have been looked at.
        saved
            .lines()
            .filter(|line| line.starts_with("-A") || line.starts_with(":AGENT"))
            .map(|line| line.split(" [").next().unwrap().to_owned())
            .collect()
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            links: self.namespace.shell("ip -o -4 addr show; ip -o link show | cut -d' ' -f2"),
            rules: self.rules(),
            records: records(&self.config.run_root),
            forwarding: self.namespace.shell("cat /proc/sys/net/ipv4/ip_forward"),
        }
    }
}

/// The records under `root`.
fn records(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for dir in ["leases", "ports", "sysctls"] {
        let Ok(entries) = fs::read_dir(root.join(dir)) else { continue };
        let paths = entries.map(|entry| entry.unwrap().path());
        found.extend(paths.filter(|p| !p.file_name().unwrap().to_str().unwrap().starts_with('.')));
    }
    found.sort();
    found
}

/// The iptables back ends of this machine.
pub(crate) fn back_ends() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for back_end in ["nft", "legacy"] {
        let prefix = format!("/usr/sbin/iptables-{back_end}");
        if Path::new(&format!("{prefix}-restore")).is_file() {
            found.push(prefix.into());
        } else {
            eprintln!("SKIP iptables-{back_end}: {prefix}-restore is not installed");
        }
    }
    assert!(!found.is_empty(), "no iptables at all");
    found
}

pub(crate) fn publish(host_port: u16, container_port: u16) -> PortMapping {
    PortMapping { host_ip: None, host_port, container_port, protocol: Protocol::Tcp }
}

pub(crate) fn publish_at(ip: Ipv4Addr, host_port: u16, container_port: u16) -> PortMapping {
    PortMapping { host_ip: Some(IpAddr::V4(ip)), ..publish(host_port, container_port) }
}
