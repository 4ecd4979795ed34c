//! What can be seen of a container: its identity from disk, its state from the kernel at the time of the read.

use std::path::PathBuf;

use container::ExitRecord;
use jiff::Timestamp;
use network::Attachment;

use crate::options::ContainerOptions;

/// A container as found by one read.
#[derive(Debug, Clone)]
pub struct ContainerView {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name, without a slash.
    pub name: String,
    /// Digest of the image's config, `sha256:…`.
    pub image_id: String,
    /// What the user asked for.
    pub options: ContainerOptions,
    /// The arguments of its first process, entrypoint and command joined.
    pub args: Vec<String>,
    /// When it was created.
    pub created: Timestamp,
    /// What the kernel (or its exit record) says of it now.
    pub state: ContainerState,
    /// Its place on the network, while it runs on the bridge.
    pub network: Option<Attachment>,
    /// Its log, in the CRI format.
    pub log_path: PathBuf,
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, never started.
    Created,
    /// Its first process runs.
    Running {
        /// The pid of the first process, in our pid namespace.
        pid: i32,
        /// When it was started.
        started_at: Timestamp,
    },
    /// It has ended.
    Exited(ExitRecord),
}

impl ContainerView {
    /// The first twelve digits of the id, as tables show it.
    pub fn short_id(&self) -> &str {
        &self.id[..12.min(self.id.len())]
    }
}

impl ContainerState {
    /// docker's word for it: `created`, `running`, `exited`.
    pub fn word(&self) -> &'static str {
        match self {
            ContainerState::Created => "created",
            ContainerState::Running { .. } => "running",
            ContainerState::Exited(_) => "exited",
        }
    }
}
