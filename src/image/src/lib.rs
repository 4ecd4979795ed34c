//! Images: what they are called, where they come from, and their files on this machine.
//!
//! ```text
//! Reference ──> Registries ──> registry client ──> manifest, configuration (checked)
//!                                    │
//!                                    └─ layers ──> decompress ──> unpack ──> ImageStore
//! ```
//!
//! - [`reference`](mod@reference): `registry/namespace/name:tag@digest`, by the distribution specification.
//! - [`registries`], [`credentials`]: how a registry is reached, and as whom.
//! - `registry`: one endpoint; `manifest`: the documents, bounded and checked.
//! - `assemble`: layers in parallel, each digested, decompressed and unpacked as it comes; [`pull`](ImageStore::pull).
//! - [`push`](ImageStore::push): what a repository lacks of an image, then its manifests.
//! - [`unpack`]: a layer's archive into an overlayfs layer, by descriptor only.
//! - `archive`: images as files: [`save`](ImageStore::save), `load`, `import`; [`change`]: changes to a configuration.
//! - [`pack`]: the other way, what a container changed or all that it has, as an archive.
//! - [`extract`]: an archive among files that are there; [`commit`](ImageStore::commit): changes as a new image.
//! - [`copy_rootfs`]: the layers as one plain folder, where they cannot be mounted.
//! - [`store`]: content by digest, layers by chain id, names on top; safe for many processes.
//!
//! Nothing in an image is ever control input: names, links and attributes only select what is inside.

#![forbid(unsafe_code)]

mod archive;
mod assemble;
pub mod change;
mod commit;
mod copy;
pub mod credentials;
pub mod digest;
pub mod error;
pub mod extract;
mod folder;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod holes;
mod inode;
pub mod login;
mod manifest;
pub mod pack;
pub mod platform;
pub mod progress;
mod pull;
mod push;
pub mod reference;
pub mod registries;
mod registry;
pub mod store;
pub mod unpack;

pub use archive::{ArchiveInput, Compression, ImportOptions, Loaded, SaveFormat, SaveOptions, Target};
pub use change::Change;
pub use commit::{CommitOptions, ContainerChanges};
pub use copy::{CopyError, copy_rootfs};
pub use digest::Digest;
pub use error::ImageError;
pub use platform::Platform;
pub use progress::{LayerState, PullProgress, Silent};
pub use pull::PullOptions;
pub use push::{PushOptions, Pushed};
pub use reference::Reference;
pub use store::{
    Collected, Content, Damage, Damaged, DiskUsage, GcImage, GcPlan, GcPolicy, GcStep, HistoryEntry, Image,
    ImageStore, ImageSummary, ImageUsage, Removed, StoreUsage, Verdict, Verified,
};
