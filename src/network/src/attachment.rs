//! What a container asks of the network and what it was given.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

/// Transport protocol of a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// One port of the container made reachable at the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// The host's address it is published at; `None` and `0.0.0.0` mean every IPv4 address,
    /// 127.0.0.0/8 included.
    pub host_ip: Option<IpAddr>,
    /// The host's port; 0 asks for any free one and is replaced in [`Attachment::ports`].
    pub host_port: u16,
    /// The port the container listens on.
    pub container_port: u16,
    /// The transport protocol.
    pub protocol: Protocol,
}

/// What is wanted of [`Network::attach`](crate::Network::attach).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachSpec {
    /// Ports to publish.
    pub ports: Vec<PortMapping>,
}

/// A container's place in the network, as it was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The container's address.
    pub ip: Ipv4Addr,
    /// Length of the subnet's prefix, in bits.
    pub prefix_len: u8,
    /// The bridge's address, the container's default route.
    pub gateway: Ipv4Addr,
    /// The container interface's hardware address, `0a:58:…`.
    pub mac: String,
    /// The published ports, with the host ports that were chosen.
    pub ports: Vec<PortMapping>,
    /// The bridge on the host.
    pub bridge: String,
    /// The host's end of the pair.
    pub host_interface: String,
    /// The container's end of the pair.
    pub container_interface: String,
}
