//! What can go wrong, in terms of the operation that failed.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::Ipv4Net;

use crate::Protocol;

/// Who holds a port that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortHolder {
    /// A container of ours, by id.
    Container(String),
    /// A socket of the host.
    OtherProgram,
}

impl fmt::Display for PortHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container(id) => write!(f, "container {id}"),
            Self::OtherProgram => f.write_str("another program"),
        }
    }
}

/// A failed operation on the container network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The id cannot be used in names and comments.
    #[error("invalid network id {id:?}: want 1 to 128 letters, digits, `_`, `.` or `-`")]
    InvalidId {
        /// As given.
        id: String,
    },
    /// The bridge's name is not an interface name.
    #[error("invalid bridge name {name:?}: want 1 to 15 letters, digits, `_` or `-`")]
    InvalidBridgeName {
        /// As given.
        name: String,
    },
    /// The subnet holds no container, or half the Internet.
    #[error("invalid container subnet {subnet}: want a prefix of 8 to 30 bits")]
    InvalidSubnet {
        /// As given.
        subnet: Ipv4Net,
    },
    /// Another interface already has an address of the container subnet.
    #[error("container subnet {subnet} is already in use by interface {interface}: choose another")]
    SubnetInUse {
        /// The container subnet.
        subnet: Ipv4Net,
        /// The interface that has an address in it.
        interface: String,
    },
    /// An interface of the bridge's name is not a bridge.
    #[error("interface {name} exists and is not a bridge")]
    NotABridge {
        /// The configured bridge's name.
        name: String,
    },
    /// The namespace to attach is the host's: its process is gone and another has its number.
    #[error("cannot attach container {id}: its network namespace is the host's own")]
    HostNamespace {
        /// The container's id.
        id: String,
    },
    /// The id already has an address; detach it first.
    #[error("container {id} is already attached to the network")]
    AlreadyAttached {
        /// The container's id.
        id: String,
    },
    /// Every address of the subnet is leased.
    #[error("no free address in container subnet {subnet}")]
    NoFreeAddress {
        /// The container subnet.
        subnet: Ipv4Net,
    },
    /// Publishing at IPv6 addresses is not supported.
    #[error("cannot publish port {port}/{protocol} on {address}: only IPv4 host addresses are supported")]
    Ipv6HostAddress {
        /// The host's port.
        port: u16,
        /// The protocol.
        protocol: Protocol,
        /// The address asked for.
        address: IpAddr,
    },
    /// The container port is 0.
    #[error("cannot publish container port 0/{protocol}")]
    ContainerPortZero {
        /// The protocol.
        protocol: Protocol,
    },
    /// The port is held by someone.
    #[error("port {port}/{protocol} on {address} is already in use by {holder}")]
    PortTaken {
        /// The host's port.
        port: u16,
        /// The protocol.
        protocol: Protocol,
        /// The address asked for.
        address: IpAddr,
        /// Who has it.
        holder: PortHolder,
    },
    /// One container asks for the same host port twice.
    #[error("port {port}/{protocol} on {address} is published twice")]
    PortRepeated {
        /// The host's port.
        port: u16,
        /// The protocol.
        protocol: Protocol,
        /// The address asked for.
        address: IpAddr,
    },
    /// The host has no free port for `host_port: 0`.
    #[error("no free {protocol} port on {address}")]
    NoFreePort {
        /// The protocol.
        protocol: Protocol,
        /// The address asked for.
        address: IpAddr,
    },
    /// The port cannot be bound for another reason, such as an address that is not the host's.
    #[error("cannot use port {port}/{protocol} on {address}")]
    PortUnusable {
        /// The host's port.
        port: u16,
        /// The protocol.
        protocol: Protocol,
        /// The address asked for.
        address: IpAddr,
        /// Why `bind` refused.
        source: io::Error,
    },
    /// A record, its directory or the lock could not be read or written.
    #[error("failed to {operation} {}", path.display())]
    State {
        /// What was tried.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A record does not say what it should.
    #[error("record {} is damaged: {reason}", path.display())]
    DamagedRecord {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A kernel setting could not be read or written.
    #[error("failed to {operation} kernel setting {}", path.display())]
    Sysctl {
        /// What was tried.
        operation: &'static str,
        /// The file under /proc/sys.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel refused a netlink request.
    #[error("failed to {operation}")]
    Netlink {
        /// What was tried, with the interface's name.
        operation: String,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// A netlink socket or a namespace could not be used.
    #[error("failed to {operation}")]
    Namespace {
        /// What was tried.
        operation: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// An interface was set up and did not come up.
    #[error("interface {name} has no carrier")]
    NoCarrier {
        /// The interface.
        name: String,
    },
    /// Connection tracking could not be read or changed.
    #[error("failed to {operation}")]
    Conntrack {
        /// What was tried.
        operation: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// No iptables program was found.
    #[error("{program} was not found: install the package iptables")]
    IptablesMissing {
        /// The program looked for.
        program: PathBuf,
    },
    /// An iptables program could not be run.
    #[error("failed to run {}", program.display())]
    IptablesSpawn {
        /// The program.
        program: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// An iptables program refused.
    #[error("{} failed: {message}", program.display())]
    Iptables {
        /// The program.
        program: PathBuf,
        /// What it wrote to standard error.
        message: String,
    },
}
