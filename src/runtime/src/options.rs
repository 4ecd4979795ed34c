//! What a user asks of a container, as plain data: parsed by the command line, not yet checked against an image.

use std::collections::BTreeMap;
use std::path::PathBuf;

use network::PortMapping;
use serde::{Deserialize, Serialize};

/// Everything `run` and `create` take.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerOptions {
    /// The container's name; one is made up when absent.
    pub name: Option<String>,
    /// The image as the user wrote it.
    pub image: String,
    /// What follows the image on the command line; empty = the image's `Cmd`.
    pub command: Vec<String>,
    /// Replaces the image's `Entrypoint` and clears its `Cmd`; `Some(vec![])` clears both.
    pub entrypoint: Option<Vec<String>>,
    /// Variables, each `NAME=value`; a later one wins over an earlier one and over the image's.
    pub env: Vec<String>,
    /// The working directory, absolute inside the container.
    pub workdir: Option<String>,
    /// `user[:group]`, names or numbers.
    pub user: Option<String>,
    /// The host name inside; the short id when absent.
    pub hostname: Option<String>,
    /// Give it a terminal.
    pub tty: bool,
    /// The size that terminal has at first.
    pub terminal_size: Option<TerminalSize>,
    /// Keep its standard input open.
    pub interactive: bool,
    /// Remove it when it ends.
    pub remove: bool,
    /// Bind mounts, named volumes and tmpfs.
    pub mounts: Vec<MountOption>,
    /// Mount its root read-only.
    pub read_only: bool,
    /// Which network it has.
    pub network: NetworkMode,
    /// Published ports.
    pub ports: Vec<PortMapping>,
    /// Limits on what it may use.
    pub limits: Limits,
    /// Capabilities to add to the default set (`ALL` for all).
    pub cap_add: Vec<String>,
    /// Capabilities to take from the default set (`ALL` for all).
    pub cap_drop: Vec<String>,
    /// Labels of the container.
    pub labels: BTreeMap<String, String>,
}

/// The size of a terminal in character cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// Limits on what a container may use; an absent one is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// Processor time in thousandths of one processor (`--cpus 0.5` = 500).
    pub cpu_milli: Option<u64>,
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// A mount that the user asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum MountOption {
    /// A file or folder of the host.
    Bind {
        /// Absolute, on the host. As with `docker run -v`, a missing folder is made.
        source: PathBuf,
        /// Absolute, in the container.
        target: PathBuf,
        /// May not be written.
        read_only: bool,
    },
    /// A named volume, which outlives the container; made when it does not exist.
    Volume {
        /// Its name.
        name: String,
        /// Absolute, in the container.
        target: PathBuf,
        /// May not be written.
        read_only: bool,
    },
    /// Memory of its own.
    Tmpfs {
        /// Absolute, in the container.
        target: PathBuf,
        /// Options of mount(8), such as `size=64m,mode=1777`.
        options: Vec<String>,
    },
}

/// Which network a container has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NetworkMode {
    /// An address of its own on the bridge.
    #[default]
    Bridge,
    /// The host's.
    Host,
    /// A loopback interface alone.
    None,
}

/// What `exec` takes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecOptions {
    /// The command and its arguments; at least one.
    pub command: Vec<String>,
    /// More variables, each `NAME=value`.
    pub env: Vec<String>,
    /// The working directory; the container's when absent.
    pub workdir: Option<String>,
    /// `user[:group]`; the container's when absent.
    pub user: Option<String>,
    /// Give it a terminal.
    pub tty: bool,
    /// The size that terminal has at first.
    pub terminal_size: Option<TerminalSize>,
    /// Keep its standard input open (else it reads /dev/null).
    pub interactive: bool,
    /// Do not wait for it, and give it no standard output.
    pub detach: bool,
}
