//! Containers of this machine: image, container and network composed, without a daemon.
//!
//! A container is its bundle (`ROOT/containers/ID`, what outlives a reboot) and, while anything of it exists outside
//! the bundle, its life-line (`RUN_ROOT/containers/ID`). What is true of it is read from the kernel each time; on
//! disk is what happened once.
//!
//! | module | idea |
//! | --- | --- |
//! | [`options`](ContainerOptions), [`view`](ContainerView) | what is asked, what is seen |
//! | `check`, `process`, `oci` | pure: what is asked, refused or made an OCI configuration |
//! | `layout`, `record`, `names`, `id` | what is on disk, and where |
//! | `root`, `place` | a container's files as its processes see them, and paths among them |
//! | `init_layer`, `rootfs`, `tree` | the files a container begins with, and their removal |
//! | `lifeline` | who sees to a container, and how others learn that nobody does |
//! | `create`, `start`, `stop`, `remove`, `exec`, `find`, `files`, `cp`, `commit`, `usage`, `reset` | the verbs |
//! | `monitor` | our side of the container's monitor |
//! | `cleanup` | the end of a container, however it came: its own, a failure, a kill -9, a reboot |

#![forbid(unsafe_code)]

mod check;
mod cleanup;
mod commit;
mod cp;
mod create;
mod error;
mod exec;
mod files;
mod find;
mod id;
mod init_layer;
mod layout;
mod lifeline;
mod monitor;
mod names;
mod oci;
mod options;
mod place;
mod process;
mod record;
mod remove;
mod reset;
mod root;
mod rootfs;
mod runtime;
mod signal;
mod start;
mod stop;
mod tree;
mod usage;
mod view;

pub use container::stdio::FRAME_BYTES;
pub use container::{ExitRecord, FailedStart, Frame, StdioSocket};
pub use image;
pub use image::{Image, ImageStore};
pub use network::{Attachment, NetworkError, PortHolder, PortMapping, Protocol};

pub use cp::CopyOptions;
pub use error::RuntimeError;
pub use exec::ExecProcess;
pub use options::{ContainerOptions, ExecOptions, Limits, MountOption, NetworkMode, TerminalSize};
pub use runtime::{Runtime, RuntimeConfig};
pub use signal::number as signal_number;
pub use start::RunningContainer;
pub use usage::VolumeUsage;
pub use view::{ContainerState, ContainerView};
