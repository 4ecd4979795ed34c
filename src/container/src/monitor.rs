//! What a container's monitor (`shim monitor`) is told and what it answers.
//!
//! The monitor is started with a `SOCK_SEQPACKET` socket as its standard input, the control socket. Each
//! packet on it is one JSON message; descriptors travel beside the first one.
//!
//! ```text
//! parent                                   monitor                             container's first process
//!   Begin(MonitorSpec) + lock, client ------> creates the cgroup, clones ------> joins it, unshares
//!   <------------------------ Namespaces {pid}                                   waits
//!   (connects the network)
//!   Continue -------------------------------> passes it on --------------------> root, mounts, …, exec
//!   <------------------------ Stage …        <---------------------------------- one per stage
//!   <------------------------ Started {pid} | Failed
//!   Released | (closes)                       at the container's end: exits    | runs the clean-up command
//! ```
//!
//! The lock is an open file description with an exclusive flock: as long as anybody holds it the container is
//! somebody's, and nobody else may clean up after it. At the container's end the monitor writes the exit record,
//! tells its clients, lets go of the lock, and waits for the parent: one that has cleaned up says so with
//! [`ToMonitor::Released`]; when the socket closes without it, the monitor replaces itself by the clean-up command.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::stdio::FailedStart;

/// The most bytes of one message.
pub const MESSAGE_BYTES: usize = 160 * 1024;

/// Everything a monitor needs to know of its container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MonitorSpec {
    /// The container's id.
    pub id: String,
    /// The folder with `config.json`, the container's OCI runtime configuration.
    pub bundle: PathBuf,
    /// The container's folder of the running system; the monitor writes `pid` ([`crate::state::ProcessRecord`]) and
    /// binds `attach.sock` there.
    pub run_dir: PathBuf,
    /// How the root filesystem comes to be; `config.json`'s `root.path` is the place it is mounted at.
    pub rootfs: RootfsSpec,
    /// Where the container's output is kept, in the CRI log format.
    pub log_path: PathBuf,
    /// Where the exit record is written.
    pub exit_path: PathBuf,
    /// Whether the exit record is synced to disk before clients hear of the end.
    pub sync_exit: bool,
    /// Whether the container's standard input stays open for clients to write to.
    pub stdin: bool,
    /// What the monitor runs, with the id appended, when it is left to clean up; empty = nothing.
    pub cleanup_command: Vec<String>,
    /// Whether the first process waits for [`ToMonitor::Continue`] before its root filesystem is mounted.
    pub wait_for_network: bool,
}

/// How a root filesystem comes to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "driver", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum RootfsSpec {
    /// It lies at `root.path` already.
    Ready,
    /// An overlay, mounted in the container's own mount namespace, so that it goes when the container goes.
    Overlay {
        /// The lower layers, top first; relative ones are relative to `links`.
        lower: Vec<String>,
        /// The folder that relative lower layers are looked up in.
        links: PathBuf,
        /// The writable layer.
        upper: PathBuf,
        /// overlayfs's work folder, on the file system of `upper`.
        work: PathBuf,
        /// Whether the upper layer need not survive a crash of the machine: spares its sync when it is unmounted, and
        /// forbids to mount it again.
        volatile: bool,
    },
}

/// From the parent to the monitor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToMonitor {
    /// The first message. Descriptors beside it: the lock, then
    /// (optionally) a [`crate::StdioSocket`] of a first client, which need not say [`crate::Frame::Attach`].
    Begin(Box<MonitorSpec>),
    /// The network is connected: go on.
    Continue,
    /// The parent has cleaned up after the container: just exit.
    Released,
}

/// From the monitor to the parent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromMonitor {
    /// The first process exists, in its namespaces. Sent when the parent is to connect the network.
    Namespaces {
        /// Its pid in the monitor's pid namespace.
        pid: i32,
    },
    /// A stage is done.
    Stage(StageReport),
    /// The container's command runs.
    Started {
        /// Its pid in the monitor's pid namespace.
        pid: i32,
    },
    /// It could not be started. The monitor exits once the parent closes or says [`ToMonitor::Released`].
    Failed(FailedStart),
}

/// One stage of a start, for the trace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StageReport {
    /// The stage's name, `object.verb`.
    pub step: String,
    /// When it began, in nanoseconds since the Unix epoch.
    pub began_ns: u64,
    /// How long it took, in nanoseconds.
    pub took_ns: u64,
    /// What was made.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, String>,
}

/// One end of a control socket.
#[derive(Debug)]
pub struct ControlSocket(OwnedFd);

impl ControlSocket {
    /// Two ends of one connection.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) =
            socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        for end in [&one, &other] {
            socket::setsockopt(end, socket::sockopt::SndBuf, &(2 * MESSAGE_BYTES))?;
        }
        Ok((ControlSocket(one), ControlSocket(other)))
    }

    /// Takes a connected socket as it is.
    pub fn from_fd(socket: OwnedFd) -> Self {
        ControlSocket(socket)
    }

    /// Gives the descriptor back.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Sends a message with descriptors beside it.
    pub fn send<M: Serialize>(&self, message: &M, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MESSAGE_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "control message too large"));
        }
        let raw: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &rights[..0] } else { &rights[..] };
        loop {
            match socket::sendmsg::<UnixAddr>(
                self.0.as_raw_fd(),
                &[IoSlice::new(&bytes)],
                rights,
                MsgFlags::MSG_NOSIGNAL,
                None,
            ) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Receives a message and the descriptors beside it; `None` when the other side has closed.
    pub fn receive<M: DeserializeOwned>(&self) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
        let mut bytes = vec![0; MESSAGE_BYTES];
        let (length, fds) = sys::fd::receive_with_fds(self.0.as_fd(), &mut [IoSliceMut::new(&mut bytes)])?;
        if length == 0 {
            return Ok(None);
        }
        Ok(Some((serde_json::from_slice(&bytes[..length])?, fds)))
    }
}

impl AsFd for ControlSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
