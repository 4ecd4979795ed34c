//! Containers run for real: by the shim, in namespaces and cgroups of this machine. Needs root.

mod exec;
mod faults;
mod lifecycle;
mod network;
mod node;
mod rootfs;
