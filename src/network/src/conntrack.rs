//! Stale UDP entries of connection tracking.
//!
//! A UDP "connection" lives as long as its client keeps sending, and its first packet alone decides
//! where it is translated to. So a client that never stops would go on to a container that is gone, and
//! one that sent before a port was published would never reach the container (kubernetes #139628).
//!
//! Spoken as in `linux/netfilter/nfnetlink_conntrack.h`: list all IPv4 entries, choose here, delete each
//! by its own tuple and id, so that a successor under the same tuple is left alone.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NlasIterator};
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{Socket, SocketAddr};

use crate::port::PublishedPort;
use crate::{NetworkError, Protocol};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET` and `…_DELETE`.
const CT_GET: u16 = 0x101;
const CT_DELETE: u16 = 0x102;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLA_F_NESTED: u16 = 0x8000;
const IPPROTO_UDP: u8 = 17;

/// `struct nfgenmsg`: `AF_INET`, version 0, no resource.
const IPV4_HEADER: [u8; 4] = [2, 0, 0, 0];

/// One tracked UDP flow.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Flow {
    /// Where the client sends to.
    destination: SocketAddrV4,
    /// Where answers come from, before they are translated back.
    answerer: SocketAddrV4,
    /// The attributes that name the entry, as the kernel wrote them.
    name: Vec<u8>,
}

/// Forgets the flows that end at these ports' container; for when they are withdrawn.
pub(crate) fn forget_answered_by(ports: &[PublishedPort]) -> Result<(), NetworkError> {
    forget(ports, |port, flow| flow.answerer == SocketAddrV4::new(port.container_ip, port.container_port))
}

/// Forgets the flows to these host ports that end at the host; for when they are published.
pub(crate) fn forget_unanswered_for(ports: &[PublishedPort]) -> Result<(), NetworkError> {
    forget(ports, |port, flow| {
        let ip = *flow.destination.ip();
        flow.destination.port() == port.host_port
            && flow.answerer == flow.destination
            && (port.host_ip == ip || port.host_ip.is_unspecified() && is_local(ip))
    })
}

/// Whether the address is the host's own: only then can a socket have it.
fn is_local(ip: Ipv4Addr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

fn forget(
    ports: &[PublishedPort],
    stale: impl Fn(&PublishedPort, &Flow) -> bool,
) -> Result<(), NetworkError> {
    let ports: Vec<_> = ports.iter().filter(|port| port.protocol == Protocol::Udp).collect();
    if ports.is_empty() {
        return Ok(());
    }
    let failed = |operation| move |source| NetworkError::Conntrack { operation, source };
    let mut socket = open().map_err(failed("open the connection tracking socket"))?;
    let flows = list(&mut socket).map_err(failed("list tracked connections"))?;
    for flow in flows {
        if ports.iter().any(|port| stale(port, &flow)) {
            delete(&mut socket, &flow).map_err(failed("remove a tracked connection"))?;
        }
    }
    Ok(())
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

fn list(socket: &mut Socket) -> io::Result<Vec<Flow>> {
    let mut flows = Vec::new();
    exchange(socket, CT_GET, NLM_F_DUMP, &[], |payload| flows.extend(parse_flow(payload)))?;
    Ok(flows)
}

/// Removes the flow; one that is gone already is as wanted.
fn delete(socket: &mut Socket, flow: &Flow) -> io::Result<()> {
    match exchange(socket, CT_DELETE, NLM_F_ACK, &flow.name, |_| {}) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Sends one request and hands every answer's attributes to `each`, until the kernel says it is done.
fn exchange(
    socket: &mut Socket,
    kind: u16,
    flags: u16,
    attributes: &[u8],
    mut each: impl FnMut(&[u8]),
) -> io::Result<()> {
    let mut request = vec![0; 16];
    request.extend(IPV4_HEADER);
    request.extend(attributes);
    let length = request.len() as u32;
    let mut header = NetlinkBuffer::new(&mut request);
    header.set_length(length);
    header.set_message_type(kind);
    header.set_flags(NLM_F_REQUEST | flags);
    socket.send(&request, 0)?;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            match message.message_type() {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => return acknowledged(message.payload()),
                _ => each(message.payload().get(IPV4_HEADER.len()..).unwrap_or_default()),
            }
            let aligned = (message.length() as usize).next_multiple_of(4);
            rest = rest.get(aligned..).unwrap_or_default();
        }
    }
}

/// Reads `struct nlmsgerr`: a negative error number, 0 for success.
fn acknowledged(payload: &[u8]) -> io::Result<()> {
    match payload.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The attributes of a level; a damaged one ends them, and with it the entry is not chosen.
fn attributes(buffer: &[u8]) -> impl Iterator<Item = (u16, Vec<u8>)> {
    NlasIterator::new(buffer)
        .map_while(Result::ok)
        .map(|attribute| (attribute.kind(), attribute.value().to_vec()))
}

/// The flow, if it is one of UDP over IPv4.
fn parse_flow(payload: &[u8]) -> Option<Flow> {
    let (mut destination, mut answerer, mut name) = (None, None, Vec::new());
    for (kind, value) in attributes(payload) {
        match kind {
            CTA_TUPLE_ORIG => {
                destination = Some(parse_tuple(&value)?.1);
                push_attribute(&mut name, kind | NLA_F_NESTED, &value);
            }
            CTA_TUPLE_REPLY => answerer = Some(parse_tuple(&value)?.0),
            CTA_ID | CTA_ZONE => push_attribute(&mut name, kind, &value),
            _ => {}
        }
    }
    Some(Flow { destination: destination?, answerer: answerer?, name })
}

/// Source and destination of a UDP tuple.
fn parse_tuple(tuple: &[u8]) -> Option<(SocketAddrV4, SocketAddrV4)> {
    let mut addresses = [None; 2];
    let mut ports = [None; 2];
    let mut protocol = None;
    for (kind, value) in attributes(tuple) {
        for (inner, value) in attributes(&value) {
            match (kind, inner) {
                (CTA_TUPLE_IP, CTA_IP_V4_SRC | CTA_IP_V4_DST) => {
                    addresses[usize::from(inner - CTA_IP_V4_SRC)] = value.first_chunk::<4>().copied();
                }
                (CTA_TUPLE_PROTO, CTA_PROTO_NUM) => protocol = value.first().copied(),
                (CTA_TUPLE_PROTO, CTA_PROTO_SRC_PORT | CTA_PROTO_DST_PORT) => {
                    ports[usize::from(inner - CTA_PROTO_SRC_PORT)] = value.first_chunk::<2>().copied();
                }
                _ => {}
            }
        }
    }
    let [source, destination] = [0, 1]
        .map(|end| Some(SocketAddrV4::new(Ipv4Addr::from(addresses[end]?), u16::from_be_bytes(ports[end]?))));
    (protocol == Some(IPPROTO_UDP)).then_some((source?, destination?))
}

fn push_attribute(buffer: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).expect("an attribute that was received fits one sent");
    buffer.extend(length.to_ne_bytes());
    buffer.extend(kind.to_ne_bytes());
    buffer.extend(value);
    buffer.resize(buffer.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(protocol: u8, source: &str, destination: &str) -> Vec<u8> {
        let ends = [source, destination].map(|end| end.parse::<SocketAddrV4>().unwrap());
        let (mut ip, mut proto, mut tuple) = (Vec::new(), Vec::new(), Vec::new());
        push_attribute(&mut proto, CTA_PROTO_NUM, &[protocol]);
        for (n, end) in (0..).zip(ends) {
            push_attribute(&mut ip, CTA_IP_V4_SRC + n, &end.ip().octets());
            push_attribute(&mut proto, CTA_PROTO_SRC_PORT + n, &end.port().to_be_bytes());
        }
        push_attribute(&mut tuple, CTA_TUPLE_IP | NLA_F_NESTED, &ip);
        push_attribute(&mut tuple, CTA_TUPLE_PROTO | NLA_F_NESTED, &proto);
        tuple
    }

    #[test]
    fn entries_are_read_and_what_is_not_udp_is_passed_over() {
        let entry = |protocol| {
            let mut entry = Vec::new();
            let (client, host, container) = ("192.0.2.2:5000", "192.0.2.1:2580", "10.86.0.2:53");
            let original = tuple(protocol, client, host);
            push_attribute(&mut entry, CTA_TUPLE_ORIG | NLA_F_NESTED, &original);
            let reply = tuple(protocol, container, client);
            push_attribute(&mut entry, CTA_TUPLE_REPLY | NLA_F_NESTED, &reply);
            push_attribute(&mut entry, CTA_ID, &[1, 2, 3, 4]);
            entry
        };
        let flow = parse_flow(&entry(IPPROTO_UDP)).unwrap();
        assert_eq!(flow.destination, "192.0.2.1:2580".parse().unwrap());
        assert_eq!(flow.answerer, "10.86.0.2:53".parse().unwrap());
        assert_eq!(attributes(&flow.name).map(|(kind, _)| kind).collect::<Vec<_>>(), [1, 12]);
        assert_eq!(parse_flow(&entry(6)), None);
        let whole = entry(IPPROTO_UDP);
        for length in 0..whole.len() - 8 {
            assert_eq!(parse_flow(&whole[..length]), None, "cut to {length}");
        }
    }
}
