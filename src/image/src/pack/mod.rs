//! Packing: a tree of files, or what a container changed of its image, into an archive.
//!
//! ```text
//! Layers (one folder, or several over each other) ──┐
//!                                                   ├─> Walk ──> changes: a list        `diff`
//! Layers below, to compare with ────────────────────┘        ├─> layer archive          `commit`
//!                                                            └─> flat archive           `export`, `cp`
//! ```
//!
//! - [`Layers`] shows layers as overlayfs would, without mounting anything: so a container's own files can be read while
//!   it runs and when it does not, and never those of its volumes.
//! - The walk goes in the order of names, so that one tree gives one archive. It holds the names of the folders on
//!   its way and nothing else, whatever the size of the tree.
//! - Files may change while they are read: each is held by its inode; one that shrinks is filled up with zeros, and
//!   [`Packed::left_out`] says so.
//!
//! Layers follow image-spec layer.md; archives are in POSIX pax form.

mod archive;
mod changes;
mod error;
mod layers;
mod sparse;
mod walk;
mod write;

pub use changes::{Change, ChangeKind, changes};
pub use error::{LeftOut, LeftOuts, PackError};
pub use layers::Layers;
pub use walk::Excluded;
pub use write::{Packed, pack_layer, pack_path, pack_tree};
