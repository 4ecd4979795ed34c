//! The order of the steps of attach, detach and reset, and why.
//!
//! attach: lease, port records, bridge and shared rules, the container's rules, pair, container's side.
//! detach: rules, port records, pair, lease. So as long as anything of a container exists, its lease
//! does, and as long as its rules may exist, its port records do.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;

use rtnetlink::Handle;

use crate::iptables::Iptables;
use crate::lease::LeaseTable;
use crate::name::{check_id, host_link, id_of_alias, link_alias, mac, mac_text};
use crate::netlink::{self, Link, outside_event_loop};
use crate::port::{PortTable, PublishedPort};
use crate::rule::RuleSet;
use crate::state::{StateDir, StateLock, record_names, remove_record};
use crate::{
    AttachSpec, Attachment, NetworkConfig, NetworkError, PortMapping, bridge, conntrack, sysctl, veth,
};

/// One host's container network. Holds no state: any number of processes may use the same
/// configuration at once.
///
/// Every operation acts on the network namespace of the calling thread and blocks; it may be called
/// from asynchronous code, at the price of a thread.
#[derive(Debug)]
pub struct Network {
    config: NetworkConfig,
    state: StateDir,
    leases: LeaseTable,
    ports: PortTable,
    rules: RuleSet,
    iptables: Iptables,
}

impl Network {
    /// Checks the configuration; touches nothing.
    ///
    /// # Errors
    /// [`NetworkError::InvalidBridgeName`], [`NetworkError::InvalidSubnet`].
    pub fn new(config: NetworkConfig) -> Result<Self, NetworkError> {
        config.check()?;
        let state = StateDir::new(config.run_root.clone());
        Ok(Self {
            leases: LeaseTable::new(state.leases(), config.subnet, config.gateway()),
            ports: PortTable::new(state.ports()),
            rules: RuleSet::new(&config.bridge, config.subnet),
            iptables: Iptables::new(config.iptables.as_deref()),
            state,
            config,
        })
    }

    /// Joins the network namespace `netns`, such as an open `/proc/PID/ns/net`, to the network:
    /// `eth0` with a leased address and a default route, `lo` up, the asked ports published.
    ///
    /// If it fails, nothing of the attempt is left.
    ///
    /// # Errors
    /// [`NetworkError::HostNamespace`] if `netns` is the caller's own;
    /// [`NetworkError::AlreadyAttached`] if anything is leased to `id`; [`NetworkError::PortTaken`]
    /// and its kin for ports; [`NetworkError::NoFreeAddress`]; and what the kernel and iptables refuse.
    pub fn attach(
        &self,
        id: &str,
        netns: BorrowedFd<'_>,
        spec: &AttachSpec,
    ) -> Result<Attachment, NetworkError> {
        check_id(id)?;
        veth::refuse_own_namespace(id, netns)?;
        outside_event_loop(|| {
            let lock = self.state.lock()?;
            if self.leases.find(id)?.is_some() {
                return Err(NetworkError::AlreadyAttached { id: id.to_owned() });
            }
            let ip = self.leases.allocate(&lock, id)?;
            self.attach_leased(lock, id, ip, netns, spec).inspect_err(|_| {
                if let Err(error) = self.detach_now(id) {
                    tracing::warn!(id, %error, "failed to undo a failed attach");
                }
            })
        })
    }

    fn attach_leased(
        &self,
        lock: StateLock,
        id: &str,
        ip: Ipv4Addr,
        netns: BorrowedFd<'_>,
        spec: &AttachSpec,
    ) -> Result<Attachment, NetworkError> {
        netlink::run(async |handle| {
            let ports = self.ports.reserve(&lock, id, ip, &spec.ports)?;
            let bridge = self.ensure_rules(&handle, &lock, id, &ports).await?;
            drop(lock);
            warn_of(id, conntrack::forget_unanswered_for(&ports));

            let (name, mac) = (host_link(id), mac(ip));
            veth::create(&handle, &name, &link_alias(id), &bridge, netns, mac).await?;
            let (prefix_len, gateway) = (self.config.subnet.prefix_len(), self.config.gateway());
            veth::configure_container(netns, ip, prefix_len, gateway)?;
            // The pair's carrier brings the bridge its own. Without the wait, a container's first packet
            // may be lost, and sent again after a second.
            netlink::wait_until_up(&handle, &name).await?;
            netlink::wait_until_up(&handle, &self.config.bridge).await?;
            Ok(Attachment {
                ip,
                prefix_len,
                gateway,
                mac: mac_text(mac),
                ports: resolved(&spec.ports, &ports),
                bridge: self.config.bridge.clone(),
                host_interface: name,
                container_interface: veth::CONTAINER_INTERFACE.to_owned(),
            })
        })
    }

    /// The bridge, with the shared rules and those of `ports` in place.
    async fn ensure_rules(
        &self,
        handle: &Handle,
        lock: &StateLock,
        id: &str,
        ports: &[PublishedPort],
    ) -> Result<Link, NetworkError> {
        let ready = bridge::ready_alias(&self.rules.identity());
        let found = netlink::find_link(handle, &self.config.bridge).await?;
        if let Some(link) = found.filter(|link| link.alias.as_deref() == Some(&ready)) {
            if ports.is_empty() {
                return Ok(link);
            }
            match self.iptables.restore(lock, &RuleSet::publish(id, ports)) {
                Ok(()) => return Ok(link),
                // Someone flushed our chains or jumps: everything anew.
                Err(NetworkError::Iptables { message, .. }) => {
                    tracing::warn!(id, message, "rules are not as they were left, repairing them");
                }
                Err(error) => return Err(error),
            }
        }
        self.rebuild(handle, lock, &ready).await
    }

    /// Bridge, settings, and the whole rule set from the records.
    async fn rebuild(&self, handle: &Handle, lock: &StateLock, ready: &str) -> Result<Link, NetworkError> {
        let link = bridge::ensure(handle, &self.config).await?;
        let saved = self.iptables.save()?;
        self.iptables.restore(lock, &self.rules.full(&self.ports.all()?, &saved))?;
        // Not before the rules that make it safe.
        sysctl::allow_loopback_routes(&self.config.bridge)?;
        sysctl::enable_forwarding(&self.state, lock)?;
        bridge::set_ready(handle, &link, ready).await?;
        Ok(link)
    }

    /// Puts bridge, settings and every rule back in place, whatever someone else did to them.
    ///
    /// # Errors
    /// What the kernel and iptables refuse.
    pub fn repair(&self) -> Result<(), NetworkError> {
        outside_event_loop(|| {
            netlink::run(async |handle| {
                let lock = self.state.lock()?;
                let ready = bridge::ready_alias(&self.rules.identity());
                self.rebuild(&handle, &lock, &ready).await.map(|_| ())
            })
        })
    }

    /// Removes everything the container has in the network, however far its attach came. Safe to
    /// repeat; an id that has nothing is no error.
    ///
    /// # Errors
    /// What the kernel and iptables refuse; what could not be removed is still recorded.
    pub fn detach(&self, id: &str) -> Result<(), NetworkError> {
        check_id(id)?;
        outside_event_loop(|| self.detach_now(id))
    }

    fn detach_now(&self, id: &str) -> Result<(), NetworkError> {
        let lock = self.state.lock()?;
        let ports = self.ports.of(id)?;
        if !ports.is_empty() || self.leases.find(id)?.is_none() {
            self.withdraw(&lock, id, !ports.is_empty())?;
        }
        warn_of(id, conntrack::forget_answered_by(&ports));
        self.ports.release(&lock, id)?;
        drop(lock);
        // Removing a link waits for every processor to be done with it: not under the lock.
        netlink::run(async |handle| netlink::delete_link(&handle, &host_link(id)).await)?;
        let lock = self.state.lock()?;
        self.leases.release(&lock, id)
    }

    /// Removes the container's rules. Without a record of ports they are looked for.
    fn withdraw(&self, lock: &StateLock, id: &str, published: bool) -> Result<(), NetworkError> {
        if published && self.iptables.restore(lock, &RuleSet::withdraw(id)).is_ok() {
            return Ok(());
        }
        let saved = match self.iptables.save() {
            // Without the program, no rule was ever made.
            Err(NetworkError::IptablesMissing { .. }) => return Ok(()),
            saved => saved?,
        };
        match RuleSet::withdraw_found(id, &saved) {
            Some(script) => self.iptables.restore(lock, &script),
            None => Ok(()),
        }
    }

    /// The ids that own a lease, a port, a link or a rule, sorted; to find what was left behind.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn attached(&self) -> Result<Vec<String>, NetworkError> {
        outside_event_loop(|| {
            let mut ids = BTreeSet::new();
            ids.extend(self.leases.holders()?.into_iter().map(|(_, id)| id));
            ids.extend(self.ports.all()?.into_iter().map(|port| port.id));
            ids.extend(self.linked()?);
            match self.iptables.save() {
                Ok(saved) => ids.extend(RuleSet::ids(&saved)),
                // Without the program, no rule was ever made.
                Err(NetworkError::IptablesMissing { .. }) => {}
                Err(error) => return Err(error),
            }
            Ok(ids.into_iter().collect())
        })
    }

    /// The ids that have a host link.
    fn linked(&self) -> Result<Vec<String>, NetworkError> {
        let links = netlink::run(async |handle| netlink::links(&handle).await)?;
        Ok(links.iter().filter_map(|link| id_of_alias(link.alias.as_deref()?)).map(str::to_owned).collect())
    }

    /// Takes the whole network down: links, bridge, rules, records, and the settings of the host
    /// that were changed for it, which go back to what they were.
    ///
    /// # Errors
    /// What the kernel and iptables refuse.
    pub fn remove_all(&self) -> Result<(), NetworkError> {
        outside_event_loop(|| {
            let lock = self.state.lock()?;
            let mut ids: BTreeSet<String> = self.linked()?.into_iter().collect();
            ids.extend(self.leases.holders()?.into_iter().map(|(_, id)| id));
            netlink::run(async |handle| {
                for id in &ids {
                    netlink::delete_link(&handle, &host_link(id)).await?;
                }
                netlink::delete_link(&handle, &self.config.bridge).await
            })?;
            match self.iptables.save() {
                Ok(saved) => {
                    if let Some(script) = RuleSet::remove_all(&saved) {
                        self.iptables.restore(&lock, &script)?;
                    }
                }
                // Without the program, no rule was ever made.
                Err(NetworkError::IptablesMissing { .. }) => {}
                Err(error) => return Err(error),
            }
            sysctl::restore(&self.state, &lock)?;
            for dir in [self.state.ports(), self.state.leases()] {
                for name in record_names(&dir)? {
                    remove_record(&lock, &dir.join(name))?;
                }
            }
            Ok(())
        })
    }
}

/// A kernel may lack the interface to connection tracking; old flows then end by timeout.
fn warn_of(id: &str, forgotten: Result<(), NetworkError>) {
    if let Err(error) = forgotten {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        tracing::warn!(id, %error, source, "stale UDP flows may remain");
    }
}

/// The asked mappings with the host ports that were reserved for them, in order.
fn resolved(wanted: &[PortMapping], reserved: &[PublishedPort]) -> Vec<PortMapping> {
    let pairs = wanted.iter().zip(reserved);
    pairs.map(|(asked, port)| PortMapping { host_port: port.host_port, ..*asked }).collect()
}
