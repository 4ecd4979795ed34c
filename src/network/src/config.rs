//! How a host's container network is laid out; plain data, checked without side effects.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;

use crate::NetworkError;

/// The bridge's name unless configured.
pub const DEFAULT_BRIDGE: &str = "agent0";

/// The subnet unless configured.
pub const DEFAULT_SUBNET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 86, 0, 0), 16);

/// The longest interface name the kernel takes (`IFNAMSIZ` less its NUL).
const LONGEST_INTERFACE_NAME: usize = 15;

/// Settings of one host's container network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Where leases and port records live: on a file system that ends with the machine's uptime
    /// (`/run/agent`), and one for each network namespace, whose addresses and rules they describe.
    pub run_root: PathBuf,
    /// Name of the bridge, made on demand.
    pub bridge: String,
    /// Addresses are leased from here; its first address is the bridge's.
    pub subnet: Ipv4Net,
    /// The iptables programs, as a prefix: `/usr/sbin/iptables-legacy` stands for
    /// `/usr/sbin/iptables-legacy-restore` and `-save`. `None`: `iptables` as the search path has it.
    pub iptables: Option<PathBuf>,
}

impl NetworkConfig {
    /// The default layout with its records under `run_root`.
    pub fn new(run_root: impl Into<PathBuf>) -> Self {
        Self {
            run_root: run_root.into(),
            bridge: DEFAULT_BRIDGE.to_owned(),
            subnet: DEFAULT_SUBNET,
            iptables: None,
        }
    }

    /// The bridge's address: the first of the subnet.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.subnet.network().to_bits() + 1)
    }

    /// Refuses what could not be built or would not be safe to quote in a rule.
    pub(crate) fn check(&self) -> Result<(), NetworkError> {
        let name_ok = (1..=LONGEST_INTERFACE_NAME).contains(&self.bridge.len())
            && self.bridge.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        if !name_ok || self.bridge.starts_with('-') {
            return Err(NetworkError::InvalidBridgeName { name: self.bridge.clone() });
        }
        // A /30 is the least that has a gateway and one container.
        if !(8..=30).contains(&self.subnet.prefix_len()) {
            return Err(NetworkError::InvalidSubnet { subnet: self.subnet });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_subnets_that_cannot_work_are_refused() {
        let check = |bridge: &str, subnet: &str| {
            let mut config = NetworkConfig::new("/nowhere");
            config.bridge = bridge.to_owned();
            config.subnet = subnet.parse().unwrap();
            config.check().is_ok()
        };
        for (bridge, subnet, expected) in [
            ("agent0", "10.86.0.0/16", true),
            ("br-x_1", "192.168.1.0/30", true),
            ("", "10.86.0.0/16", false),
            ("-j", "10.86.0.0/16", false),
            ("a b", "10.86.0.0/16", false),
            ("a/b", "10.86.0.0/16", false),
            ("sixteen-letters-", "10.86.0.0/16", false),
            ("agent0", "10.86.0.0/31", false),
            ("agent0", "0.0.0.0/0", false),
        ] {
            assert_eq!(check(bridge, subnet), expected, "{bridge:?} {subnet}");
        }
    }

    #[test]
    fn gateway_is_the_first_address_even_of_a_host_form_subnet() {
        let mut config = NetworkConfig::new("/nowhere");
        config.subnet = "10.1.2.3/24".parse().unwrap();
        assert_eq!(config.gateway(), Ipv4Addr::new(10, 1, 2, 1));
    }
}
