//! The runtime: what every verb stands on.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use api::trace::{self, Record as TraceRecord, Tracer};
use image::ImageStore;
use network::{Network, NetworkConfig};

use crate::error::{FileContext, RuntimeError};
use crate::layout::{Layout, make_private};
use crate::monitor::Held;

/// Where a runtime keeps its things and what it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// What outlives a reboot: `/var/lib/agent`.
    pub root: PathBuf,
    /// What does not: `/run/agent`.
    pub run_root: PathBuf,
    /// The configuration: `/etc/agent`.
    pub config_root: PathBuf,
    /// The cgroup that containers' cgroups are made in, below the root of the hierarchy: `/agent`.
    pub cgroup_parent: String,
    /// The shim's program.
    pub shim: PathBuf,
    /// What a monitor that is left alone runs at its container's end, with the id appended; it comes to
    /// [`Runtime::cleanup`]. In UTF-8.
    pub cleanup_command: Vec<OsString>,
}

/// The containers of this machine below one pair of roots. Any number of processes may use the same roots at once.
#[derive(Debug)]
pub struct Runtime {
    pub(crate) config: RuntimeConfig,
    pub(crate) layout: Layout,
    images: ImageStore,
    held: Mutex<HashMap<String, Held>>,
}

impl Runtime {
    /// Opens the runtime. Cheap but for the first time after a boot (or when `run_root` was removed), when what the
    /// machine's end left behind is swept up.
    ///
    /// # Errors
    /// When the folders cannot be made or read.
    pub fn open(config: RuntimeConfig) -> Result<Runtime, RuntimeError> {
        let root = std::path::absolute(&config.root).file("find", &config.root)?;
        let run_root = std::path::absolute(&config.run_root).file("find", &config.run_root)?;
        let images = ImageStore::open(&root, &config.config_root)?;
        let runtime = Runtime { layout: Layout::new(root, run_root), images, config, held: Mutex::default() };
        runtime.sweep_once()?;
        Ok(runtime)
    }

    /// The images that containers are made from.
    pub fn images(&self) -> &ImageStore {
        &self.images
    }

    /// Writes the trace of a subject: a container's id, an image's reference.
    pub fn tracer(&self, subject: &str) -> Tracer {
        Tracer::new(&self.layout.trace(), subject)
    }

    /// Reads the trace of a subject, oldest record first. A container's trace goes with the container.
    ///
    /// # Errors
    /// When the trace cannot be read.
    pub fn trace(&self, subject: &str) -> Result<Vec<TraceRecord>, RuntimeError> {
        trace::read(&self.layout.trace(), subject).file("read the trace below", &self.layout.trace())
    }

    pub(crate) fn network(&self) -> Result<Network, RuntimeError> {
        Ok(Network::new(NetworkConfig::new(self.layout.run_root()))?)
    }

    /// The containers whose clean-up is ours: those we run attached.
    pub(crate) fn held(&self) -> MutexGuard<'_, HashMap<String, Held>> {
        // Each access is one insertion or removal, so a panic elsewhere leaves the map whole.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sweeps if nobody has since the run folder was made.
    fn sweep_once(&self) -> Result<(), RuntimeError> {
        let done = self.layout.swept();
        if done.exists() {
            return Ok(());
        }
        make_private(self.layout.run_root()).file("create", self.layout.run_root())?;
        let path = self.layout.run_root().join("sweep.lock");
        let lock = File::create(&path).file("create", &path)?;
        lock.lock().file("lock", &path)?;
        if !done.exists() {
            let containers = self.layout.run_containers();
            make_private(&containers).file("create", &containers)?;
            self.sweep()?;
            // Last: a sweep that was cut short is done again.
            File::create(&done).file("create", &done)?;
        }
        Ok(())
    }
}
