//! A container's log, as its monitor writes it (the CRI's format), read for people.

mod entry;
mod follow;
mod tail;

pub(crate) use entry::{Entry, Stream};
pub(crate) use follow::Follower;
pub(crate) use tail::tail_offset;
