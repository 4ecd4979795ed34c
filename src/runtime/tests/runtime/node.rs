//! A runtime of its own for each test, with an image whose only layer is the host's own root, so that no registry is
//! needed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use image::{Digest, Platform};
use runtime::{
    ContainerOptions, ContainerState, ContainerView, ExitRecord, FRAME_BYTES, Frame, Image, NetworkMode,
    RunningContainer, Runtime, RuntimeConfig, RuntimeError, StdioSocket,
};
use serde_json::json;
use tempfile::TempDir;

/// How long anything may take before a test gives up on it.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Roots, an image and a runtime.
pub struct Node {
    folder: TempDir,
    pub image: Image,
    pub runtime: Runtime,
}

/// What a container said and how it ended.
#[derive(Debug, PartialEq)]
pub struct Ended {
    pub stdout: String,
    pub stderr: String,
    pub exit: ExitRecord,
}

impl Node {
    pub fn new() -> Self {
        Self::with_layers(short_folder("/dev/shm"), &[&|layer| symlink("/", layer).unwrap()])
    }

    /// One whose image has the layers that these make at the path they are given, top first.
    pub fn with_layers(folder: TempDir, layers: &[&dyn Fn(&Path)]) -> Self {
        let image = image(layers.len());
        let runtime = open(folder.path());
        let links = runtime.images().links_dir();
        fs::create_dir_all(&links).unwrap();
        for ((layer, link), make) in
            runtime.images().layer_dirs(&image).iter().zip(image.lower_links()).zip(layers)
        {
            fs::create_dir_all(layer.parent().unwrap()).unwrap();
            make(layer);
            symlink(layer, links.join(link)).unwrap();
        }
        let images = links.join("../../images");
        fs::create_dir_all(&images).unwrap();
        let record = json!({
            "reference": image.reference,
            "digest": image.digest,
            "manifest": image.manifest,
            "config": image.id,
            "platform": image.platform,
            "layers": [],
            "pulled": "2024-01-01T00:00:00Z",
        });
        fs::write(images.join("host"), record.to_string()).unwrap();
        Node { folder, image, runtime }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Another process's view of the same roots.
    pub fn reopened(&self) -> Runtime {
        open(self.folder.path())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn cgroup_folder(&self, controller: &str) -> PathBuf {
        Path::new("/sys/fs/cgroup").join(controller).join(cgroup_parent(self.folder.path()))
    }

    pub fn run(&self, options: ContainerOptions, attached: bool) -> Result<RunningContainer, RuntimeError> {
        self.runtime.run(options, &self.image, attached)
    }

    /// Runs attached to the end, cleaned up.
    pub fn run_to_end(&self, options: ContainerOptions) -> Ended {
        let container = self.run(options, true).unwrap();
        let ended = follow(container.stdio.as_ref().unwrap());
        self.runtime.cleanup(&container.id).unwrap();
        ended
    }

    pub fn find(&self, name: &str) -> ContainerView {
        self.runtime.find(name).unwrap()
    }

    pub fn exit_code(&self, name: &str) -> Option<i32> {
        match self.find(name).state {
            ContainerState::Exited(exit) => Some(exit.exit_code),
            _ => None,
        }
    }

    /// Asserts that no trace of any container is left, and removes the roots.
    pub fn assert_empty(self) {
        for folder in ["lib/containers", "lib/names", "run/containers", "run/trace"] {
            assert_eq!(names_in(&self.path(folder)), Vec::<String>::new(), "{folder}");
        }
        for controller in ["cpu", "memory", "pids", ""] {
            let parent = self.cgroup_folder(controller);
            if parent.exists() {
                let below = fs::read_dir(&parent).unwrap().filter_map(Result::ok);
                let left: Vec<_> = below.filter(|entry| entry.path().is_dir()).collect();
                assert!(left.is_empty(), "{left:?}");
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Of a test that failed half way.
        for view in self.runtime.list().unwrap_or_default() {
            if let Err(error) = self.runtime.remove(&view.id, true) {
                eprintln!("failed to remove container {}: {error}", view.id);
            }
        }
        let parent = cgroup_parent(self.folder.path());
        let Ok(controllers) = fs::read_dir("/sys/fs/cgroup") else { return };
        for controller in controllers.filter_map(Result::ok) {
            drop(fs::remove_dir(controller.path().join(&parent)));
        }
        drop(fs::remove_dir(Path::new("/sys/fs/cgroup").join(parent)));
    }
}

/// A folder with a short name, since a socket's path may only be 107 bytes long. On tmpfs for an image that is the
/// host's root, since an overlay's upper layer may not lie below its own lower one.
pub fn short_folder(parent: impl AsRef<Path>) -> TempDir {
    tempfile::Builder::new().prefix("r").rand_bytes(5).tempdir_in(parent).unwrap()
}

/// The image of so many layers.
pub fn image(layers: usize) -> Image {
    let digest = Digest::of(b"the host's root");
    Image {
        id: digest.to_string(),
        references: vec!["host:latest".to_owned()],
        repo_digests: Vec::new(),
        reference: Some("host:latest".to_owned()),
        digest,
        manifest: digest,
        config: serde_json::from_value(json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["FROM_IMAGE=1"], "Cmd": ["true"], "StopSignal": "SIGUSR1"},
            "rootfs": {"type": "layers", "diff_ids": []},
        }))
        .unwrap(),
        chain: (0..layers).map(|at| Digest::of(&at.to_le_bytes())).collect(),
        size: 0,
        platform: Platform::host(),
    }
}

/// Reads a container's stdio to its end.
pub fn follow(stdio: &StdioSocket) -> Ended {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; FRAME_BYTES + 1];
    loop {
        match stdio.receive(&mut buffer, nix::sys::socket::MsgFlags::empty()).unwrap() {
            Some(Frame::Stdout(bytes)) => stdout.extend_from_slice(bytes),
            Some(Frame::Stderr(bytes)) => stderr.extend_from_slice(bytes),
            Some(Frame::Exited(exit)) => {
                let text = |bytes| String::from_utf8(bytes).unwrap();
                return Ended { stdout: text(stdout), stderr: text(stderr), exit };
            }
            Some(_) => {}
            None => panic!("the monitor ended without saying how the container did"),
        }
    }
}

/// `sh -c SCRIPT`, without a network.
pub fn shell(script: &str) -> ContainerOptions {
    ContainerOptions {
        image: "host".to_owned(),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        network: NetworkMode::None,
        ..Default::default()
    }
}

pub fn named(name: &str, script: &str) -> ContainerOptions {
    ContainerOptions { name: Some(name.to_owned()), ..shell(script) }
}

pub fn names_in(folder: &Path) -> Vec<String> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect(),
        Err(_) => Vec::new(),
    }
}

pub fn open(folder: &Path) -> Runtime {
    Runtime::open(RuntimeConfig {
        root: folder.join("lib"),
        run_root: folder.join("run"),
        config_root: folder.join("etc"),
        cgroup_parent: cgroup_parent(folder),
        shim: shim(),
        // A monitor that is left alone leaves clean-up to whoever comes next.
        cleanup_command: vec!["/bin/true".into()],
    })
    .unwrap()
}

fn cgroup_parent(folder: &Path) -> String {
    format!("agent-runtime-{}", folder.file_name().unwrap().display())
}

/// The shim beside the tests; built when it is not there.
fn shim() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let shim = test.parent().and_then(Path::parent).unwrap().join("shim");
    if !shim.exists() {
        let built = Command::new(env!("CARGO")).args(["build", "--quiet", "--package", "shim"]).status();
        assert!(built.unwrap().success(), "the shim cannot be built");
    }
    shim
}
