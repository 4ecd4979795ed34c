//! Published ports: one record per host port, so that two containers never get the same one, and so
//! that the whole rule set can be computed again from the records.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::state::{StateLock, read_record, record_names, remove_record, write_record};
use crate::{NetworkError, PortHolder, PortMapping, Protocol};

/// How often another free port is tried when ours meets a record.
const FREE_PORT_TRIES: usize = 64;

/// A host port and the container behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PublishedPort {
    pub(crate) id: String,
    pub(crate) protocol: Protocol,
    /// `0.0.0.0` for every address.
    pub(crate) host_ip: Ipv4Addr,
    pub(crate) host_port: u16,
    pub(crate) container_ip: Ipv4Addr,
    pub(crate) container_port: u16,
}

impl PublishedPort {
    fn record_name(&self) -> String {
        format!("{}-{}-{}", self.protocol, self.host_port, self.host_ip)
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && self.host_port == other.host_port
            && (self.host_ip == other.host_ip
                || self.host_ip.is_unspecified()
                || other.host_ip.is_unspecified())
    }
}

/// The records of published ports.
#[derive(Debug)]
pub(crate) struct PortTable {
    dir: PathBuf,
}

impl PortTable {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Reserves all `wanted` ports for `id`, in order, and says which host ports they are. What was
    /// reserved before an error stays, for [`Self::release`].
    pub(crate) fn reserve(
        &self,
        lock: &StateLock,
        id: &str,
        container_ip: Ipv4Addr,
        wanted: &[PortMapping],
    ) -> Result<Vec<PublishedPort>, NetworkError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let mut taken = self.all()?;
        let mut reserved = Vec::with_capacity(wanted.len());
        for mapping in wanted {
            let port = choose(&taken, id, container_ip, mapping)?;
            let text = serde_json::to_string(&port).expect("a flat struct serialises");
            write_record(lock, &self.dir, &port.record_name(), &text)?;
            taken.push(port.clone());
            reserved.push(port);
        }
        Ok(reserved)
    }

    /// What `id` has published.
    pub(crate) fn of(&self, id: &str) -> Result<Vec<PublishedPort>, NetworkError> {
        Ok(self.all()?.into_iter().filter(|port| port.id == id).collect())
    }

    /// Gives back whatever `id` has reserved.
    pub(crate) fn release(&self, lock: &StateLock, id: &str) -> Result<(), NetworkError> {
        for port in self.of(id)? {
            remove_record(lock, &self.dir.join(port.record_name()))?;
        }
        Ok(())
    }

    /// Every published port of the host.
    pub(crate) fn all(&self) -> Result<Vec<PublishedPort>, NetworkError> {
        let mut ports = Vec::new();
        for name in record_names(&self.dir)? {
            let path = self.dir.join(name);
            let Some(text) = read_record(&path)? else { continue };
            match serde_json::from_str(&text) {
                Ok(port) => ports.push(port),
                Err(error) => {
                    return Err(NetworkError::DamagedRecord { path, reason: error.to_string() });
                }
            }
        }
        Ok(ports)
    }
}

/// Picks the host port of one mapping, or says who is in the way.
fn choose(
    taken: &[PublishedPort],
    id: &str,
    container_ip: Ipv4Addr,
    mapping: &PortMapping,
) -> Result<PublishedPort, NetworkError> {
    let PortMapping { host_port, container_port, protocol, .. } = *mapping;
    let host_ip = match mapping.host_ip {
        None => Ipv4Addr::UNSPECIFIED,
        Some(IpAddr::V4(ip)) => ip,
        Some(address @ IpAddr::V6(_)) => {
            return Err(NetworkError::Ipv6HostAddress { port: host_port, protocol, address });
        }
    };
    if container_port == 0 {
        return Err(NetworkError::ContainerPortZero { protocol });
    }
    let address = IpAddr::V4(host_ip);
    let candidate = |host_port| PublishedPort {
        id: id.to_owned(),
        protocol,
        host_ip,
        host_port,
        container_ip,
        container_port,
    };
    if host_port == 0 {
        for _ in 0..FREE_PORT_TRIES {
            let port = candidate(probe(protocol, host_ip, 0)?);
            if !taken.iter().any(|other| other.overlaps(&port)) {
                return Ok(port);
            }
        }
        return Err(NetworkError::NoFreePort { protocol, address });
    }
    let port = candidate(host_port);
    match taken.iter().find(|other| other.overlaps(&port)) {
        Some(other) if other.id == id => {
            Err(NetworkError::PortRepeated { port: host_port, protocol, address })
        }
        Some(other) => Err(NetworkError::PortTaken {
            port: host_port,
            protocol,
            address,
            holder: PortHolder::Container(other.id.clone()),
        }),
        None => probe(protocol, host_ip, host_port).map(|_| port),
    }
}

/// Binds the port for an instant, which fails if a program of the host has it; says which it was.
/// For TCP std sets `SO_REUSEADDR` and listens, so that connections in TIME_WAIT are no obstacle
/// and listeners are.
fn probe(protocol: Protocol, host_ip: Ipv4Addr, port: u16) -> Result<u16, NetworkError> {
    let address = SocketAddr::from((host_ip, port));
    let bound = match protocol {
        Protocol::Tcp => TcpListener::bind(address).and_then(|socket| socket.local_addr()),
        Protocol::Udp => UdpSocket::bind(address).and_then(|socket| socket.local_addr()),
    };
    bound.map(|address| address.port()).map_err(|source| {
        let address = IpAddr::V4(host_ip);
        if source.kind() == std::io::ErrorKind::AddrInUse {
            let holder = PortHolder::OtherProgram;
            NetworkError::PortTaken { port, protocol, address, holder }
        } else {
            NetworkError::PortUnusable { port, protocol, address, source }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(protocol: Protocol, host_ip: &str, host_port: u16) -> PublishedPort {
        PublishedPort {
            id: "other".to_owned(),
            protocol,
            host_ip: host_ip.parse().unwrap(),
            host_port,
            container_ip: Ipv4Addr::new(10, 86, 0, 2),
            container_port: 80,
        }
    }

    #[test]
    fn ports_overlap_by_protocol_number_and_address() {
        let check = |(pa, a, na), (pb, b, nb), expected| {
            let (one, two) = (published(pa, a, na), published(pb, b, nb));
            assert_eq!(one.overlaps(&two), expected, "{one:?} {two:?}");
            assert_eq!(two.overlaps(&one), expected, "{two:?} {one:?}");
        };
        use Protocol::{Tcp, Udp};
        check((Tcp, "0.0.0.0", 80), (Tcp, "0.0.0.0", 80), true);
        check((Tcp, "0.0.0.0", 80), (Tcp, "127.0.0.1", 80), true);
        check((Tcp, "10.0.0.1", 80), (Tcp, "127.0.0.1", 80), false);
        check((Tcp, "0.0.0.0", 80), (Udp, "0.0.0.0", 80), false);
        check((Tcp, "0.0.0.0", 80), (Tcp, "0.0.0.0", 81), false);
    }

    #[test]
    fn what_cannot_be_published_is_refused_in_one_clear_line() {
        let check = |host_ip: Option<&str>, host_port, container_port, expected: &str| {
            let taken = [published(Protocol::Tcp, "0.0.0.0", 2580)];
            let mapping = PortMapping {
                host_ip: host_ip.map(|ip| ip.parse().unwrap()),
                host_port,
                container_port,
                protocol: Protocol::Tcp,
            };
            let ip = Ipv4Addr::new(10, 86, 0, 3);
            let error = choose(&taken, "me", ip, &mapping).unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
        let busy = TcpListener::bind("127.0.0.1:0").unwrap();
        let busy_port = busy.local_addr().unwrap().port();
        let busy_text = format!("port {busy_port}/tcp on 127.0.0.1 is already in use by another program");
        check(Some("127.0.0.1"), busy_port, 80, &busy_text);
        check(None, 2580, 80, "port 2580/tcp on 0.0.0.0 is already in use by container other");
        check(Some("127.0.0.1"), 2580, 80, "port 2580/tcp on 127.0.0.1 is already in use by container other");
        check(
            Some("::1"),
            80,
            80,
            "cannot publish port 80/tcp on ::1: only IPv4 host addresses are supported",
        );
        check(None, 80, 0, "cannot publish container port 0/tcp");
        check(Some("192.0.2.1"), 80, 80, "cannot use port 80/tcp on 192.0.2.1");
    }

    #[test]
    fn port_zero_takes_a_free_one() {
        let mapping = PortMapping {
            host_ip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            host_port: 0,
            container_port: 80,
            protocol: Protocol::Udp,
        };
        let port = choose(&[], "me", Ipv4Addr::new(10, 86, 0, 3), &mapping).unwrap();
        assert_ne!(port.host_port, 0);
    }
}
