//! The pair of interfaces that joins a container to the bridge.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::thread;

use netlink_packet_route::link::{InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth};
use nix::sched::{CloneFlags, setns};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::netlink::{self, Link};
use crate::{NetworkError, sysctl};

/// The container's end is always called this.
pub(crate) const CONTAINER_INTERFACE: &str = "eth0";

/// The loopback interface is the first of every network namespace.
const LOOPBACK_INDEX: u32 = 1;

/// Makes the pair at once in its two namespaces: `name` here, up and on the bridge, and
/// [`CONTAINER_INTERFACE`] in `netns`, down.
pub(crate) async fn create(
    handle: &Handle,
    name: &str,
    alias: &str,
    bridge: &Link,
    netns: BorrowedFd<'_>,
    mac: [u8; 6],
) -> Result<(), NetworkError> {
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(CONTAINER_INTERFACE)
        .address(mac.to_vec())
        .setns_by_fd(netns.as_raw_fd())
        .build();
    let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(name)
        .controller(bridge.index)
        .up()
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    handle
        .link()
        .add(pair)
        .execute()
        .await
        .map_err(|source| netlink::error(format!("create interface pair {name}"), source))?;
    // Where br_netfilter is on, a container's connection to its own published port is translated
    // inside the bridge and has to go back out of the port it came in by.
    let settings = LinkMessageBuilder::<LinkUnspec>::new()
        .name(name)
        .alias(alias)
        .set_port_kind(InfoPortKind::Bridge)
        .set_port_data(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)]))
        .build();
    handle
        .link()
        .change(settings)
        .execute()
        .await
        .map_err(|source| netlink::error(format!("set up interface {name}"), source))
}

/// Refuses the calling thread's own namespace, where [`configure_container`] would change the host.
pub(crate) fn refuse_own_namespace(id: &str, netns: BorrowedFd<'_>) -> Result<(), NetworkError> {
    let identity = || -> io::Result<[(u64, u64); 2]> {
        let theirs = File::from(netns.try_clone_to_owned()?).metadata()?;
        let ours = fs::metadata("/proc/thread-self/ns/net")?;
        Ok([theirs, ours].map(|namespace| (namespace.dev(), namespace.ino())))
    };
    let [theirs, ours] = identity()
        .map_err(|source| NetworkError::Namespace { operation: "identify a network namespace", source })?;
    if theirs == ours { Err(NetworkError::HostNamespace { id: id.to_owned() }) } else { Ok(()) }
}

/// Sets up the container's side: loopback, address, default route. On a thread of its own, which
/// enters `netns` and ends there.
pub(crate) fn configure_container(
    netns: BorrowedFd<'_>,
    ip: Ipv4Addr,
    prefix_len: u8,
    gateway: Ipv4Addr,
) -> Result<(), NetworkError> {
    let inside = || {
        setns(netns, CloneFlags::CLONE_NEWNET).map_err(|errno| NetworkError::Namespace {
            operation: "enter the container's network namespace",
            source: errno.into(),
        })?;
        sysctl::refuse_router_advertisements(CONTAINER_INTERFACE)?;
        netlink::run(async |handle| configure(&handle, ip, prefix_len, gateway).await)
    };
    thread::scope(|scope| scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

async fn configure(
    handle: &Handle,
    ip: Ipv4Addr,
    prefix_len: u8,
    gateway: Ipv4Addr,
) -> Result<(), NetworkError> {
    let failed = |operation: &str| {
        let operation = format!("{operation} in the container");
        move |source| netlink::error(operation, source)
    };
    let up = |index| LinkMessageBuilder::<LinkUnspec>::new().index(index).up().build();
    let Some(link) = netlink::find_link(handle, CONTAINER_INTERFACE).await? else {
        return Err(NetworkError::Namespace {
            operation: "find the container's interface eth0",
            source: io::ErrorKind::NotFound.into(),
        });
    };
    let requests = handle.link();
    requests.set(up(LOOPBACK_INDEX)).execute().await.map_err(failed("set lo up"))?;
    let address = handle.address().add(link.index, IpAddr::V4(ip), prefix_len);
    address.execute().await.map_err(failed("add an address to eth0"))?;
    requests.set(up(link.index)).execute().await.map_err(failed("set eth0 up"))?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
    handle.route().add(route).execute().await.map_err(failed("add the default route"))
}
