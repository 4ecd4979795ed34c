//! What can go wrong with a container, and the exit codes that docker's users expect of it.

use std::io;
use std::path::{Path, PathBuf};

use container::FailedStart;
use container::capability::CapabilityError;
use container::cgroup::CgroupError;
use image::pack::PackError;
use image::unpack::UnpackError;
use image::{CopyError, ImageError};
use network::NetworkError;

/// A failed operation on a container.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// `run` or `create` failed before the container's command was reached.
    #[error(transparent)]
    Start(Box<RuntimeError>),
    /// The container could not be started; the shim says why.
    #[error("{}", .0.message)]
    FailedStart(FailedStart),
    /// An option cannot be had as it was given.
    #[error("invalid {option}: {reason}")]
    Option {
        /// The option as on the command line, with its value.
        option: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Neither the user nor the image says what to run.
    #[error("no command given and the image {image} has none")]
    NoCommand {
        /// The image.
        image: String,
    },
    /// The name is somebody's.
    #[error("the name {name} is in use by container {holder}: remove it or choose another name")]
    NameTaken {
        /// The name.
        name: String,
        /// Id of the container that has it.
        holder: String,
    },
    /// No container has this name or id.
    #[error("no such container: {name}")]
    NotFound {
        /// As given.
        name: String,
    },
    /// Several containers' ids begin like this.
    #[error("{prefix} is the beginning of more than one container's id: give more of it")]
    Ambiguous {
        /// As given.
        prefix: String,
    },
    /// The image of a container is no longer here.
    #[error(
        "the image {image} of container {name} is gone, so that nothing can be compared with it: pull it again"
    )]
    ImageGone {
        /// The container's name.
        name: String,
        /// The image as it was named.
        image: String,
    },
    /// The container's processes do not stand still.
    #[error(
        "container {name} cannot be paused: some of its processes do not stop; try again, or with --pause=false"
    )]
    NotPaused {
        /// Its name.
        name: String,
    },
    /// Another process has the container's files, and does not let go of them.
    #[error("container {name} is being copied to or from, started or cleaned up: try again")]
    Busy {
        /// Its name.
        name: String,
    },
    /// The container does not run.
    #[error("container {name} is not running")]
    NotRunning {
        /// Its name.
        name: String,
    },
    /// The container runs, so it cannot be removed.
    #[error("cannot remove container {name}: it is running: stop it first or remove it with force")]
    Running {
        /// Its name.
        name: String,
    },
    /// Another process is starting the container right now.
    #[error("cannot remove container {name}: it is being started: try again")]
    Starting {
        /// Its name.
        name: String,
    },
    /// SIGKILL did not end the container's process.
    #[error("container {name} does not end: process {pid} has not gone {seconds} s after SIGKILL")]
    Unkillable {
        /// Its name.
        name: String,
        /// Its process.
        pid: i32,
        /// How long was waited.
        seconds: u64,
    },
    /// A file of ours does not say what it should.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The file system refused.
    #[error("failed to {operation} {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The shim could not be run.
    #[error("failed to run the shim {}", path.display())]
    Shim {
        /// The program.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The monitor could not be spoken to.
    #[error("failed to {operation} the monitor of container {id}")]
    Monitor {
        /// What was tried.
        operation: &'static str,
        /// The container.
        id: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The monitor ended before the container's command ran.
    #[error("the monitor of container {id} ended before the container was started{}", after_colon(said))]
    MonitorGone {
        /// The container.
        id: String,
        /// The last line it wrote, if any.
        said: String,
    },
    /// A process could not be reached.
    #[error("failed to {operation} process {pid} of container {name}")]
    Process {
        /// What was tried.
        operation: &'static str,
        /// The process.
        pid: i32,
        /// The container's name.
        name: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A setting of the environment is not understood.
    #[error("invalid {variable}={value}: want {want}")]
    Variable {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        want: &'static str,
    },
    /// The network refused.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Capabilities cannot be had as they were asked for.
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    /// The image store refused.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The image's layers could not be copied.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// A path cannot be copied, or copied to.
    #[error("{path}")]
    Copied {
        /// The path; with the container before a colon where it is in one.
        path: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What was to be copied could not be written.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// The container's files could not be packed.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The cgroup could not be had or removed.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

fn after_colon(line: &str) -> String {
    if line.is_empty() { String::new() } else { format!(": {line}") }
}

impl RuntimeError {
    /// The exit code of a command that ends with this error, as docker has them: 125 when `run` or `create` failed,
    /// 126 when the command cannot be executed, 127 when it was not found, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            RuntimeError::Start(inner) => match inner.as_ref() {
                RuntimeError::FailedStart(failed) => u8::try_from(failed.exit_code).unwrap_or(125),
                _ => 125,
            },
            RuntimeError::FailedStart(failed) => u8::try_from(failed.exit_code).unwrap_or(125),
            _ => 1,
        }
    }

    /// Whether it says that there is no such container.
    pub fn is_not_found(&self) -> bool {
        matches!(self, RuntimeError::NotFound { .. })
    }

    /// Says that it was `run` or `create` that failed.
    pub(crate) fn at_start(self) -> Self {
        match self {
            start @ RuntimeError::Start(_) => start,
            other => RuntimeError::Start(Box::new(other)),
        }
    }

    pub(crate) fn option(option: impl Into<String>, reason: impl Into<String>) -> Self {
        RuntimeError::Option { option: option.into(), reason: reason.into() }
    }
}

/// Names the operation and the file that an error of the system is about.
pub(crate) trait FileContext<T> {
    fn file(self, operation: &'static str, path: &Path) -> Result<T, RuntimeError>;
}

impl<T> FileContext<T> for io::Result<T> {
    fn file(self, operation: &'static str, path: &Path) -> Result<T, RuntimeError> {
        self.map_err(|source| RuntimeError::File { operation, path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_dockers() {
        let failed = |exit_code| RuntimeError::FailedStart(FailedStart { exit_code, message: String::new() });
        let missing = || RuntimeError::NotFound { name: "x".to_owned() };
        for (error, expected) in [
            (missing(), 1),
            (missing().at_start(), 125),
            (missing().at_start().at_start(), 125),
            (failed(127).at_start(), 127),
            (failed(126), 126),
            (failed(-1), 125),
        ] {
            assert_eq!(error.exit_code(), expected, "{error:?}");
        }
    }
}
