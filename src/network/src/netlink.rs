//! Route netlink from synchronous code: a socket of the calling thread's network namespace and a
//! small event loop, both for the length of one operation.

use std::thread;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage, State};
use nix::errno::Errno;
use rtnetlink::{Handle, MulticastGroup};

use crate::NetworkError;

/// How long a link may take to come up; the kernel puts it off by a second at most.
const CARRIER_PATIENCE: Duration = Duration::from_secs(5);

/// Runs one operation against the calling thread's network namespace.
pub(crate) fn run<T>(
    operation: impl AsyncFnOnce(Handle) -> Result<T, NetworkError>,
) -> Result<T, NetworkError> {
    let open = |source| NetworkError::Namespace { operation: "open a netlink socket", source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(open)?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(open)?;
        tokio::spawn(connection);
        operation(handle).await
    })
}

/// Runs `work` where an event loop may be started: not on a thread that is inside one already. A
/// new thread is in its parent's network namespace.
pub(crate) fn outside_event_loop<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    if tokio::runtime::Handle::try_current().is_err() {
        return work();
    }
    thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

pub(crate) fn error(operation: impl Into<String>, source: rtnetlink::Error) -> NetworkError {
    NetworkError::Netlink { operation: operation.into(), source }
}

/// Whether the kernel answered with this error number.
pub(crate) fn is_errno(error: &rtnetlink::Error, errno: Errno) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message)
        if message.raw_code() == -(errno as i32))
}

/// A link as the kernel reports it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) alias: Option<String>,
    pub(crate) is_bridge: bool,
    pub(crate) is_up: bool,
    pub(crate) name: String,
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            alias: None,
            is_bridge: false,
            is_up: false,
            name: String::new(),
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::OperState(state) => link.is_up = state == State::Up,
                LinkAttribute::LinkInfo(info) => {
                    link.is_bridge = info.contains(&LinkInfo::Kind(InfoKind::Bridge));
                }
                _ => {}
            }
        }
        link
    }
}

/// The link of this name, if there is one.
pub(crate) async fn find_link(handle: &Handle, name: &str) -> Result<Option<Link>, NetworkError> {
    match handle.link().get().match_name(name).execute().try_next().await {
        Ok(message) => Ok(message.map(Link::from)),
        Err(source) if is_errno(&source, Errno::ENODEV) => Ok(None),
        Err(source) => Err(error(format!("look up interface {name}"), source)),
    }
}

/// Every link of the namespace.
pub(crate) async fn links(handle: &Handle) -> Result<Vec<Link>, NetworkError> {
    handle
        .link()
        .get()
        .execute()
        .map_ok(Link::from)
        .try_collect()
        .await
        .map_err(|source| error("list interfaces", source))
}

/// Waits until the kernel has taken note of the link's carrier; before, it drops what is sent there.
/// From Linux 6.8 on asking for the link makes it do so; an older kernel does so soon by itself and
/// then sends an event.
pub(crate) async fn wait_until_up(handle: &Handle, name: &str) -> Result<(), NetworkError> {
    if is_up(handle, name).await? {
        return Ok(());
    }
    let (connection, _handle, mut events) = rtnetlink::new_multicast_connection(&[MulticastGroup::Link])
        .map_err(|source| NetworkError::Namespace { operation: "listen for interface events", source })?;
    tokio::spawn(connection);
    let wait = async {
        while !is_up(handle, name).await? {
            if events.next().await.is_none() {
                break;
            }
        }
        Ok(())
    };
    tokio::time::timeout(CARRIER_PATIENCE, wait)
        .await
        .unwrap_or_else(|_| Err(NetworkError::NoCarrier { name: name.to_owned() }))
}

async fn is_up(handle: &Handle, name: &str) -> Result<bool, NetworkError> {
    Ok(find_link(handle, name).await?.is_some_and(|link| link.is_up))
}

/// Removes a link, and with a veth its peer. One that is gone already is as wanted.
pub(crate) async fn delete_link(handle: &Handle, name: &str) -> Result<(), NetworkError> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    match handle.link().del_with_message(message).execute().await {
        Err(source) if !is_errno(&source, Errno::ENODEV) => {
            Err(error(format!("remove interface {name}"), source))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};
    use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

    use super::*;

    /// Sets the link up from another thread of the same namespace, and wakes `run`'s event loop no more
    /// than another process would.
    fn set_up_elsewhere(name: &'static str) -> thread::JoinHandle<()> {
        thread::spawn(move || {
            let message = LinkMessageBuilder::<LinkUnspec>::new().name(name).up().build();
            let set = async |handle: Handle| {
                handle.link().change(message).execute().await.unwrap();
                Ok(())
            };
            run(set).unwrap();
        })
    }

    #[test]
    fn a_link_is_waited_for_until_its_carrier_comes() {
        thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            run(async |handle| {
                let pair = LinkVeth::new("here", "there").up().build();
                handle.link().add(pair).execute().await.unwrap();
                assert!(!is_up(&handle, "here").await?);
                let elsewhere = set_up_elsewhere("there");
                wait_until_up(&handle, "here").await?;
                elsewhere.join().unwrap();
                Ok(())
            })
            .unwrap();
        })
        .join()
        .unwrap();
    }
}
