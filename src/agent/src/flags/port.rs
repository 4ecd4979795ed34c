//! `--publish`: which ports of the container are reached at which of the host.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use runtime::{PortMapping, Protocol};

use super::Parsed;

/// A value of `--publish`: several mappings where it names ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublishFlag(pub(crate) Vec<PortMapping>);

impl FromStr for PublishFlag {
    type Err = String;

    fn from_str(text: &str) -> Parsed<Self> {
        parse_publish(text).map(PublishFlag)
    }
}

/// Parses `[[IP:]HOST-PORT:]CONTAINER-PORT[/tcp|/udp]`. A port may be a range (`8000-8010:80-90`, both of one
/// length); a host port left out or 0 is any free one.
fn parse_publish(text: &str) -> Parsed<Vec<PortMapping>> {
    let (ports, protocol) = match text.split_once('/') {
        None => (text, Protocol::Tcp),
        Some((ports, "tcp")) => (ports, Protocol::Tcp),
        Some((ports, "udp")) => (ports, Protocol::Udp),
        Some((_, other)) => {
            return Err(format!("'{text}' has the unknown protocol '{other}': use tcp or udp"));
        }
    };
    let (address, host, container) = match ports.rsplitn(3, ':').collect::<Vec<_>>()[..] {
        [container] => ("", "", container),
        [container, host] => ("", host, container),
        [container, host, address] => (address, host, container),
        _ => unreachable!("rsplitn(3) gives one to three parts"),
    };
    let host_ip = match address {
        "" => None,
        address => Some(IpAddr::V4(address.parse::<Ipv4Addr>().map_err(|_| {
            format!("'{address}' in '{text}' is no IPv4 address: write IP:HOST-PORT:CONTAINER-PORT")
        })?)),
    };
    let container = range(container, text)?;
    let host = if host.is_empty() { (0, 0) } else { range(host, text)? };
    if container.0 == 0 {
        return Err(format!("'{text}' names no port of the container: it is 1 to 65535"));
    }
    let count = container.1 - container.0;
    if host != (0, 0) && host.1 - host.0 != count {
        return Err(format!("'{text}' has two ranges of unlike length"));
    }
    let mapping = |at| PortMapping {
        host_ip,
        host_port: if host.0 == 0 { 0 } else { host.0 + at },
        container_port: container.0 + at,
        protocol,
    };
    Ok((0..=count).map(mapping).collect())
}

/// `80` or `80-90`: the first and the last port.
fn range(ports: &str, text: &str) -> Parsed<(u16, u16)> {
    let port = |port: &str| {
        let number =
            port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse::<u16>().ok()).flatten();
        number.ok_or_else(|| {
            format!("'{text}' is no mapping of ports: write HOST-PORT:CONTAINER-PORT, such as 8080:80")
        })
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last) = (port(first)?, port(last)?);
    if last < first || (first == 0 && last > 0) {
        return Err(format!("'{ports}' in '{text}' is no range of ports"));
    }
    Ok((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_mapped() {
        let check = |text: &str, ip: Option<&str>, ports: &[(u16, u16)], protocol: Protocol| {
            let host_ip = ip.map(|ip| ip.parse().expect("an address"));
            let mapping = |(host_port, container_port): &(u16, u16)| PortMapping {
                host_ip,
                host_port: *host_port,
                container_port: *container_port,
                protocol,
            };
            assert_eq!(parse_publish(text), Ok(ports.iter().map(mapping).collect()), "{text}");
        };
        check("8080:80", None, &[(8080, 80)], Protocol::Tcp);
        check("8080:80/tcp", None, &[(8080, 80)], Protocol::Tcp);
        check("53:5353/udp", None, &[(53, 5353)], Protocol::Udp);
        check("80", None, &[(0, 80)], Protocol::Tcp);
        check(":80", None, &[(0, 80)], Protocol::Tcp);
        check("0:80", None, &[(0, 80)], Protocol::Tcp);
        check("127.0.0.1:8080:80", Some("127.0.0.1"), &[(8080, 80)], Protocol::Tcp);
        check("127.0.0.1::80", Some("127.0.0.1"), &[(0, 80)], Protocol::Tcp);
        check("8000-8002:80-82", None, &[(8000, 80), (8001, 81), (8002, 82)], Protocol::Tcp);
        check("80-81/udp", None, &[(0, 80), (0, 81)], Protocol::Udp);
        check("1-65535:1-65535", None, &(1..=65535).map(|at| (at, at)).collect::<Vec<_>>(), Protocol::Tcp);
    }

    #[test]
    fn what_is_no_port_is_refused() {
        for text in [
            "",
            ":",
            "0",
            "80:",
            "80:0",
            "x",
            "80:x",
            "-1:80",
            "+1:80",
            "65536:80",
            "80:80/sctp",
            "80:80/",
            "a:80:80",
            "1.2.3:80:80",
            "[::1]:80:80",
            "1:2:3:4",
            "80-81:80",
            "82-80:80-82",
            "80-:80",
        ] {
            assert!(parse_publish(text).is_err(), "{text}");
        }
    }
}
