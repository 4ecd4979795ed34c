//! Everything netlink and netfilter for the containers of one host: a bridge, one veth pair per
//! container, leased addresses, published ports and masquerade.
//!
//! [`Network`] is the whole public face, and it is synchronous. "The host" is the network
//! namespace of the calling *thread*: netlink sockets, `/proc/sys/net` and the iptables programs
//! are all opened from it, so that an agent may itself live in a namespace.
//!
//! Nothing is remembered in memory. What belongs to a container is found again from its id alone:
//! its lease and port records by content (`lease`, `port`), its host link and its chain by a name
//! derived from the id (`name`). [`Network::detach`] can therefore finish the work of any process
//! that died half way. The lease is written first and removed last, so while anything may exist,
//! a lease says so.
//!
//! | module | idea |
//! | --- | --- |
//! | `network` | the order of the steps of attach, detach and reset |
//! | `state`, `lease`, `port` | records on disk under one lock |
//! | `rule` | rule sets computed as text; pure |
//! | `iptables` | applying and reading rule sets |
//! | `netlink`, `bridge`, `veth`, `sysctl`, `conntrack` | the kernel objects |
#![forbid(unsafe_code)]

mod attachment;
mod bridge;
mod config;
mod conntrack;
mod error;
mod iptables;
mod lease;
mod name;
mod netlink;
mod network;
mod port;
mod rule;
mod state;
mod sysctl;
mod veth;

pub use attachment::{AttachSpec, Attachment, PortMapping, Protocol};
pub use config::{DEFAULT_BRIDGE, DEFAULT_SUBNET, NetworkConfig};
pub use error::{NetworkError, PortHolder};
pub use ipnet::Ipv4Net;
pub use network::Network;
