//! Unpacking one layer into a folder of its own, the way overlayfs wants it.
//!
//! A layer is unpacked without those below it, so that all layers of an image can be unpacked at once:
//!
//! 1. [`unpack`] writes every entry by descriptor (`tree`) and turns whiteouts into overlayfs's marks;
//! 2. what depends on the layers below, when they are there, is settled by [`Unpacked::settle`] (`below`):
//!    the attributes of folders that the archive left out, paths through links of lower layers, hard links
//!    to their files, and whiteouts of nothing.
//!
//! The measure for the result is `umoci unpack` of the same layers.

pub(crate) mod archive;
pub mod below;
mod error;
mod files;
mod folders;
mod limits;
mod links;
pub(crate) mod metadata;
mod noted;
pub(crate) mod pax;
mod settle;
#[cfg(test)]
mod tests;
pub(crate) mod tree;
mod whiteouts;
mod write;

pub use error::UnpackError;
pub use limits::Limits;
pub use settle::Settled;
pub use write::{Unpacked, unpack};
