//! Where things lie: every path below the two roots, by the id or name it belongs to.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The folders of a runtime: what outlives a reboot below `root`, what does not below `run_root`.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
    run_root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: PathBuf, run_root: PathBuf) -> Self {
        Layout { root, run_root }
    }

    /// `ROOT`.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// `ROOT/containers`.
    pub(crate) fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// `ROOT/names`: a symlink per name, to the id of its container.
    pub(crate) fn names(&self) -> PathBuf {
        self.root.join("names")
    }

    /// `ROOT/volumes`: a folder for each.
    pub(crate) fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// `ROOT/volumes/NAME/data`.
    pub(crate) fn volume_data(&self, name: &str) -> PathBuf {
        self.volumes().join(name).join("data")
    }

    /// `RUN_ROOT`.
    pub(crate) fn run_root(&self) -> &Path {
        &self.run_root
    }

    /// `RUN_ROOT/swept`: exists once what the last boot left behind is swept up.
    pub(crate) fn swept(&self) -> PathBuf {
        self.run_root.join("swept")
    }

    /// `RUN_ROOT/rootfs-driver`: what the kernel said when it was asked for an overlay.
    pub(crate) fn rootfs_driver(&self) -> PathBuf {
        self.run_root.join("rootfs-driver")
    }

    /// `RUN_ROOT/containers`.
    pub(crate) fn run_containers(&self) -> PathBuf {
        self.run_root.join("containers")
    }

    /// `RUN_ROOT/trace`: the rings of the trace.
    pub(crate) fn trace(&self) -> PathBuf {
        self.run_root.join("trace")
    }

    /// The folder of a container that outlives a reboot.
    pub(crate) fn bundle(&self, id: &str) -> Bundle {
        Bundle { path: self.containers().join(id) }
    }

    /// The folder of a container while anything of it is outside its bundle.
    pub(crate) fn run_dir(&self, id: &str) -> PathBuf {
        self.run_containers().join(id)
    }

    /// Exists while the container may have anything on the network.
    pub(crate) fn network_mark(&self, id: &str) -> PathBuf {
        self.run_dir(id).join("network")
    }

    /// Where the container's place on the network is recorded.
    pub(crate) fn network_record(&self, id: &str) -> PathBuf {
        self.run_dir(id).join("network.json")
    }
}

/// `ROOT/containers/ID`.
#[derive(Debug, Clone)]
pub(crate) struct Bundle {
    path: PathBuf,
}

impl Bundle {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Our record of the container; where it is, the container is complete.
    pub(crate) fn record(&self) -> PathBuf {
        self.path.join("container.json")
    }

    /// The id of the image, while the container is being made; its record says it afterwards.
    pub(crate) fn claim(&self) -> PathBuf {
        self.path.join("image")
    }

    /// The OCI runtime configuration.
    pub(crate) fn config(&self) -> PathBuf {
        self.path.join("config.json")
    }

    /// That the container was to be started; with the time.
    pub(crate) fn start(&self) -> PathBuf {
        self.path.join("start.json")
    }

    /// How the container ended.
    pub(crate) fn exit(&self) -> PathBuf {
        self.path.join("exit.json")
    }

    /// The container's output, in the CRI log format.
    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// What the monitor has to say of itself.
    pub(crate) fn monitor_log(&self) -> PathBuf {
        self.path.join("monitor.log")
    }

    /// The layer between the image's and the writable one: our files of /etc, and mount points.
    pub(crate) fn init_layer(&self) -> PathBuf {
        self.path.join("init")
    }

    /// The writable layer.
    pub(crate) fn upper(&self) -> PathBuf {
        self.path.join("upper")
    }

    /// overlayfs's work folder.
    pub(crate) fn work(&self) -> PathBuf {
        self.path.join("work")
    }

    /// The place the root filesystem is mounted at, seen by the container's mount namespace alone; with the copy driver
    /// it is the root filesystem.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.path.join("rootfs")
    }
}

/// Makes a folder of ours, and those above it, for root's eyes only; it may exist.
pub(crate) fn make_private(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The names in a folder; none when there is no such folder.
pub(crate) fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut names = Vec::new();
    for entry in entries {
        // Whatever has no name in UTF-8 is none of ours.
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}
