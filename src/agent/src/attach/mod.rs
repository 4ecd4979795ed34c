//! Attaching: our standard streams and signals on one side, a container's or an exec'ed process's on the
//! other, pumped by one thread with poll(2).
//!
//! Nothing is buffered beyond one frame in each direction: while our output blocks, no more is read from
//! the container, which then blocks in turn; while the container does not read, our input is not read.

mod container;
mod detach;
mod outlet;
mod process;
mod signals;
mod terminal;

pub(crate) use container::{ContainerPump, Ended};
pub(crate) use process::{ProcessEnded, ProcessPump};
pub(crate) use signals::Signals;
pub(crate) use terminal::RawMode;
