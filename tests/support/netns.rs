//! Network namespaces for tests, held by descriptor: they are gone with the test, however it ends.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};

use super::program::{self, LIMIT, Output};

/// A network namespace.
#[derive(Debug)]
pub struct Netns {
    file: File,
}

impl Netns {
    /// A new one, with its loopback up.
    ///
    /// # Panics
    /// Without root.
    pub fn new() -> Self {
        let create = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("failed to make a network namespace: are we root?");
            File::open("/proc/thread-self/ns/net").expect("a thread can open its namespace")
        };
        let file = thread::scope(|scope| scope.spawn(create).join()).expect("the thread does not panic");
        let netns = Netns { file };
        netns.shell("ip link set lo up");
        netns
    }

    /// A path by which other programs can open it as long as this test runs.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// What /proc/PID/ns/net of a process inside reads.
    pub fn identity(&self) -> String {
        let inode = self.file.metadata().expect("an open file has metadata").ino();
        format!("net:[{inode}]")
    }

    /// Does `work` on a thread inside; what that starts is inside too.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
            work()
        };
        thread::scope(|scope| {
            scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A command that runs `program` inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).args(["--", program]);
        command
    }

    /// Runs a shell line inside and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn shell(&self, line: &str) -> String {
        let output = program::run(self.command("sh").args(["-ec", line]), b"", LIMIT);
        assert_eq!(output.code, 0, "{line}: {}", output.stderr);
        output.stdout
    }

    /// Asks a URL by curl from inside.
    pub fn curl(&self, url: &str) -> Output {
        let mut curl = self.command("curl");
        curl.args(["--silent", "--show-error", "--max-time", "5", "--write-out", "%{http_code}", url]);
        program::run(&mut curl, b"", LIMIT)
    }

    /// Connects from inside, and closes the connection.
    pub fn connect(&self, ip: Ipv4Addr, port: u16, patience: Duration) -> io::Result<()> {
        self.run(|| TcpStream::connect_timeout(&SocketAddr::from((ip, port)), patience).map(drop))
    }

    /// Listens inside, on a port of the kernel's choice where `port` is 0.
    pub fn listen(&self, ip: Ipv4Addr, port: u16) -> io::Result<TcpListener> {
        self.run(|| TcpListener::bind((ip, port)))
    }

    /// Joins two namespaces by a cable, with these addresses of one /24 at their ends.
    pub fn join(&self, own: Ipv4Addr, other: &Netns, others: Ipv4Addr) {
        let path = other.path();
        self.shell(&format!(
            "ip link add up0 type veth peer name up0 netns {}
             ip addr add {own}/24 dev up0; ip link set up0 up",
            path.display()
        ));
        other.shell(&format!("ip addr add {others}/24 dev up0; ip link set up0 up"));
    }
}

impl Default for Netns {
    fn default() -> Self {
        Self::new()
    }
}
