//! The network as seen from here, an echo server and a client for it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::signal::Signal;
use nix::sys::socket::SockaddrStorage;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{paths, process};

const PATIENCE: Duration = Duration::from_secs(5);
const GREETING: &[u8] = b"probe\n";

#[derive(Default, Serialize)]
pub(crate) struct Interface {
    name: String,
    mac: Option<String>,
    mtu: Option<u32>,
    up: bool,
    /// As `address/prefix length`.
    addresses: Vec<String>,
}

#[derive(Serialize)]
pub(crate) struct Route {
    interface: String,
    /// As `network/prefix length`; the default route is `0.0.0.0/0`.
    destination: String,
    gateway: Option<Ipv4Addr>,
}

/// Every interface of this network namespace, by name.
pub(crate) fn interfaces() -> Result<Vec<Interface>> {
    let mut found: BTreeMap<String, Interface> = BTreeMap::new();
    for entry in getifaddrs()? {
        let interface = found.entry(entry.interface_name.clone()).or_insert_with(|| Interface {
            mac: attribute(&entry.interface_name, "address"),
            mtu: attribute(&entry.interface_name, "mtu").and_then(|mtu| mtu.parse().ok()),
            name: entry.interface_name.clone(),
            up: entry.flags.contains(InterfaceFlags::IFF_UP),
            addresses: Vec::new(),
        });
        if let Some(address) = entry.address.as_ref().and_then(ip) {
            let prefix = entry.netmask.as_ref().and_then(ip).map_or(0, ones);
            interface.addresses.push(format!("{address}/{prefix}"));
        }
    }
    Ok(found.into_values().collect())
}

fn ip(address: &SockaddrStorage) -> Option<std::net::IpAddr> {
    let v4 = || address.as_sockaddr_in().map(|address| address.ip().into());
    let v6 = || address.as_sockaddr_in6().map(|address| address.ip().into());
    v4().or_else(v6)
}

fn ones(mask: std::net::IpAddr) -> u32 {
    match mask {
        std::net::IpAddr::V4(mask) => mask.to_bits().count_ones(),
        std::net::IpAddr::V6(mask) => mask.to_bits().count_ones(),
    }
}

/// From /sys, which may not be mounted.
fn attribute(interface: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/sys/class/net/{interface}/{name}")).ok()?;
    Some(text.trim().to_owned())
}

/// The IPv4 routes of the main table, as /proc/net/route lists them: hexadecimal, in network byte order.
pub(crate) fn routes() -> Result<Vec<Route>> {
    let text = fs::read_to_string("/proc/self/net/route").context("failed to read the routes")?;
    text.lines()
        .skip(1)
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |index: usize| -> Result<u32> {
                let word = words.get(index).with_context(|| format!("short route line {line:?}"))?;
                Ok(u32::from_be(u32::from_str_radix(word, 16)?))
            };
            let gateway = Ipv4Addr::from(number(2)?);
            Ok(Route {
                interface: words[0].to_owned(),
                destination: format!("{}/{}", Ipv4Addr::from(number(1)?), number(7)?.count_ones()),
                gateway: (!gateway.is_unspecified()).then_some(gateway),
            })
        })
        .collect()
}

/// Sends back whatever comes, telling each peer's address, until SIGTERM.
pub(crate) fn listen(port: u16, udp: bool) -> Result<()> {
    // Blocked before the first thread, which hands it on to all.
    let signals = process::hold_signals()?;
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    if udp {
        let socket = UdpSocket::bind(any)?;
        println!("{}", json!({ "listening": socket.local_addr()? }));
        std::thread::spawn(move || {
            let mut bytes = [0; 65536];
            while let Ok((length, peer)) = socket.recv_from(&mut bytes) {
                println!("{}", json!({ "peer": peer }));
                // A datagram that cannot be sent is lost, as datagrams may be.
                let _ = socket.send_to(&bytes[..length], peer);
            }
        });
    } else {
        let listener = TcpListener::bind(any)?;
        println!("{}", json!({ "listening": listener.local_addr()? }));
        std::thread::spawn(move || {
            while let Ok((stream, peer)) = listener.accept() {
                println!("{}", json!({ "peer": peer }));
                std::thread::spawn(move || echo(stream));
            }
        });
    }
    while !matches!(signals.wait()?, Signal::SIGTERM | Signal::SIGINT) {}
    Ok(())
}

fn echo(stream: TcpStream) {
    // A peer that goes away ends its own conversation only.
    let _ = std::io::copy(&mut &stream, &mut &stream);
}

/// Says hello to an echo server; prints the answer or why there is none, with 1.
pub(crate) fn connect(peer: SocketAddr, udp: bool) -> Result<ExitCode> {
    let said = if udp { greet_by_datagram(peer) } else { greet(peer) };
    let (told, code) = match said {
        Ok(told) => (told, ExitCode::SUCCESS),
        Err(error) => {
            (json!({ "connected": false, "error": paths::outcome::<()>(&Err(error)) }), ExitCode::FAILURE)
        }
    };
    println!("{told}");
    Ok(code)
}

fn greet(peer: SocketAddr) -> std::io::Result<Value> {
    let mut stream = TcpStream::connect_timeout(&peer, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(GREETING)?;
    stream.shutdown(Shutdown::Write)?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    Ok(json!({ "connected": true, "local": stream.local_addr()?, "reply": reply }))
}

fn greet_by_datagram(peer: SocketAddr) -> std::io::Result<Value> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(peer)?;
    socket.send(GREETING)?;
    let mut bytes = [0; 1500];
    let length = socket.recv(&mut bytes)?;
    let reply = String::from_utf8_lossy(&bytes[..length]);
    Ok(json!({ "connected": true, "local": socket.local_addr()?, "reply": reply }))
}
