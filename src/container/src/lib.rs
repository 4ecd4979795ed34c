//! One OCI container, seen from its parent: what it is told ([`monitor`]), its stdio ([`stdio`]), whether it
//! lives ([`state`]), how it ended ([`exit`]), what is to be done for it ([`plan`]), its cgroup ([`cgroup`]), and the rules for what it may do
//! ([`capability`], [`seccomp`], [`users`]). What happens between clone and exec is the `shim`'s.

pub mod capability;
pub mod cgroup;
pub mod exit;
pub mod monitor;
pub mod overlay;
pub mod plan;
pub mod seccomp;
pub mod state;
pub mod stdio;
pub mod users;

pub use exit::ExitRecord;
pub use stdio::{FailedStart, Frame, StdioListener, StdioSocket};
