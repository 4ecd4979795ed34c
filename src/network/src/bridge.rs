//! The bridge, made on demand.
//!
//! Its alias says which shared rules were put in place after it was made. Bridge and rules both live
//! as long as the network namespace does, so the alias is right where a file could be stale, and an
//! attach needs one netlink request to know that nothing is to do.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use ipnet::Ipv4Net;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::LinkAttribute;
use nix::errno::Errno;
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec};

use crate::name::{mac, short_hash};
use crate::netlink::{self, Link};
use crate::{NetworkConfig, NetworkError, sysctl};

/// The alias of a bridge whose shared rules are those of `identity`.
pub(crate) fn ready_alias(identity: &str) -> String {
    format!("agent bridge, rules {}", short_hash(identity, 16))
}

/// The bridge, with address and settings but not yet up; a bridge of that name is taken over.
pub(crate) async fn ensure(handle: &Handle, config: &NetworkConfig) -> Result<Link, NetworkError> {
    let name = &config.bridge;
    let gateway = config.gateway();
    let bridge = match netlink::find_link(handle, name).await? {
        Some(link) => link,
        None => create(handle, config).await?,
    };
    if !bridge.is_bridge {
        return Err(NetworkError::NotABridge { name: name.clone() });
    }
    sysctl::refuse_router_advertisements(name)?;
    handle
        .address()
        .add(bridge.index, IpAddr::V4(gateway), config.subnet.prefix_len())
        .replace()
        .execute()
        .await
        .map_err(|source| netlink::error(format!("give {gateway} to bridge {name}"), source))?;
    Ok(bridge)
}

async fn create(handle: &Handle, config: &NetworkConfig) -> Result<Link, NetworkError> {
    let name = &config.bridge;
    refuse_used_subnet(handle, config.subnet).await?;
    // An address of its own, or it would change to the lowest of its ports' at every attach.
    let message = LinkBridge::new(name).address(mac(config.gateway()).to_vec()).build();
    match handle.link().add(message).execute().await {
        // Made by someone else just now; what it is, is looked at next.
        Err(source) if !netlink::is_errno(&source, Errno::EEXIST) => {
            return Err(netlink::error(format!("create bridge {name}"), source));
        }
        _ => {}
    }
    match netlink::find_link(handle, name).await? {
        Some(link) => Ok(link),
        None => Err(NetworkError::NotABridge { name: name.clone() }),
    }
}

/// Two interfaces with addresses of one subnet make the kernel choose between them by age.
async fn refuse_used_subnet(handle: &Handle, subnet: Ipv4Net) -> Result<(), NetworkError> {
    let mut addresses = handle.address().get().execute();
    let listing = |source| netlink::error("list addresses", source);
    while let Some(message) = addresses.try_next().await.map_err(listing)? {
        if message.header.family != AddressFamily::Inet {
            continue;
        }
        let mut label = None;
        let mut inside = false;
        for attribute in message.attributes {
            match attribute {
                AddressAttribute::Label(name) => label = Some(name),
                AddressAttribute::Local(IpAddr::V4(ip)) => inside = contains(subnet, ip),
                _ => {}
            }
        }
        if inside {
            let interface = label.unwrap_or_else(|| message.header.index.to_string());
            return Err(NetworkError::SubnetInUse { subnet, interface });
        }
    }
    Ok(())
}

fn contains(subnet: Ipv4Net, ip: Ipv4Addr) -> bool {
    subnet.contains(&ip)
}

/// Sets the bridge up and notes in its alias that `alias`'s rules stand.
pub(crate) async fn set_ready(handle: &Handle, bridge: &Link, alias: &str) -> Result<(), NetworkError> {
    let message = LinkMessageBuilder::<LinkUnspec>::new()
        .index(bridge.index)
        .up()
        .append_extra_attribute(LinkAttribute::IfAlias(alias.to_owned()))
        .build();
    handle
        .link()
        .set(message)
        .execute()
        .await
        .map_err(|source| netlink::error(format!("set bridge {} up", bridge.name), source))
}
