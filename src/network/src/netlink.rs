//! Route netlink from synchronous code: a socket of the calling thread's network namespace and a
//! small event loop, both for the length of one operation.

use std::thread;

use futures_util::TryStreamExt;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use nix::errno::Errno;
use rtnetlink::Handle;

use crate::NetworkError;

/// Runs one operation against the calling thread's network namespace.
pub(crate) fn run<T>(
    operation: impl AsyncFnOnce(Handle) -> Result<T, NetworkError>,
) -> Result<T, NetworkError> {
    let open = |source| NetworkError::Namespace { operation: "open a netlink socket", source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(open)?;
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
    pub(crate) name: String,
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link =
            Self { index: message.header.index, alias: None, is_bridge: false, name: String::new() };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::IfName(name) => link.name = name,
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
