//! Address leases: one record per address, named by it and holding the container's id.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;

use crate::NetworkError;
use crate::state::{StateLock, read_record, record_names, remove_record, write_record};

/// Remembers the address leased last, so that the next lease takes another: caches of neighbours
/// and resolvers do not lead to a successor.
const LAST: &str = ".last";

/// The leases of one subnet.
#[derive(Debug)]
pub(crate) struct LeaseTable {
    dir: PathBuf,
    subnet: Ipv4Net,
    gateway: Ipv4Addr,
}

impl LeaseTable {
    pub(crate) fn new(dir: PathBuf, subnet: Ipv4Net, gateway: Ipv4Addr) -> Self {
        Self { dir, subnet, gateway }
    }

    /// Leases the next free address to `id`.
    pub(crate) fn allocate(&self, lock: &StateLock, id: &str) -> Result<Ipv4Addr, NetworkError> {
        let taken: HashSet<Ipv4Addr> =
            record_names(&self.dir)?.iter().filter_map(|name| name.parse().ok()).collect();
        let last = read_record(&self.dir.join(LAST))?.and_then(|text| text.parse().ok());
        let address = next_free(self.subnet, self.gateway, last, |ip| taken.contains(&ip))
            .ok_or(NetworkError::NoFreeAddress { subnet: self.subnet })?;
        write_record(lock, &self.dir, &address.to_string(), id)?;
        write_record(lock, &self.dir, LAST, &address.to_string())?;
        Ok(address)
    }

    /// The address leased to `id`, if any.
    pub(crate) fn find(&self, id: &str) -> Result<Option<Ipv4Addr>, NetworkError> {
        Ok(self.holders()?.into_iter().find(|(_, holder)| holder == id).map(|(ip, _)| ip))
    }

    /// Gives back whatever `id` holds.
    pub(crate) fn release(&self, lock: &StateLock, id: &str) -> Result<(), NetworkError> {
        for (address, holder) in self.holders()? {
            if holder == id {
                remove_record(lock, &self.dir.join(address.to_string()))?;
            }
        }
        Ok(())
    }

    /// Every lease with its holder.
    pub(crate) fn holders(&self) -> Result<Vec<(Ipv4Addr, String)>, NetworkError> {
        let mut holders = Vec::new();
        for name in record_names(&self.dir)? {
            let path = self.dir.join(&name);
            let Ok(address) = name.parse() else {
                let reason = "its name is not an IPv4 address".to_owned();
                return Err(NetworkError::DamagedRecord { path, reason });
            };
            // A lease may be released while the others are read.
            if let Some(id) = read_record(&path)? {
                holders.push((address, id));
            }
        }
        Ok(holders)
    }
}

/// The first address after `last`, round the subnet, that is neither taken nor special.
fn next_free(
    subnet: Ipv4Net,
    gateway: Ipv4Addr,
    last: Option<Ipv4Addr>,
    taken: impl Fn(Ipv4Addr) -> bool,
) -> Option<Ipv4Addr> {
    let first = subnet.network().to_bits() + 1;
    let end = subnet.broadcast().to_bits();
    let last = last.map(Ipv4Addr::to_bits).filter(|bits| (first..end).contains(bits));
    let start = last.map_or(first, |bits| bits + 1);
    (start..end)
        .chain(first..start)
        .map(Ipv4Addr::from_bits)
        .find(|&address| address != gateway && !taken(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::StateDir;

    #[test]
    fn next_address_goes_round_and_skips_special_ones() {
        let check = |last: Option<&str>, taken: &[&str], expected: Option<&str>| {
            let taken: Vec<Ipv4Addr> = taken.iter().map(|ip| ip.parse().unwrap()).collect();
            let last = last.map(|ip| ip.parse().unwrap());
            let gateway = "10.0.0.1".parse().unwrap();
            let subnet = "10.0.0.0/29".parse().unwrap();
            let found = next_free(subnet, gateway, last, |ip| taken.contains(&ip));
            assert_eq!(found, expected.map(|ip| ip.parse().unwrap()), "{last:?} {taken:?}");
        };
        let all = ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"];
        check(None, &[], Some("10.0.0.2"));
        check(Some("10.0.0.2"), &[], Some("10.0.0.3"));
        check(Some("10.0.0.2"), &["10.0.0.3"], Some("10.0.0.4"));
        check(Some("10.0.0.6"), &[], Some("10.0.0.2"));
        check(Some("10.0.0.6"), &all[..4], Some("10.0.0.6"));
        check(Some("10.0.0.4"), &all, None);
        // Remembered from another subnet.
        check(Some("192.168.0.9"), &[], Some("10.0.0.2"));
        check(Some("10.0.0.7"), &[], Some("10.0.0.2"));
    }

    #[test]
    fn leases_are_distinct_found_by_id_and_released() {
        let scratch = tempfile::tempdir().unwrap();
        let state = StateDir::new(scratch.path().to_owned());
        let subnet = "10.0.0.0/29".parse().unwrap();
        let leases = LeaseTable::new(state.leases(), subnet, "10.0.0.1".parse().unwrap());
        let lock = state.lock().unwrap();
        let mut given = HashSet::new();
        for id in ["a", "b", "c", "d", "e"] {
            assert!(given.insert(leases.allocate(&lock, id).unwrap()));
        }
        assert!(matches!(leases.allocate(&lock, "f"), Err(NetworkError::NoFreeAddress { .. })));
        let freed = leases.find("c").unwrap().unwrap();
        leases.release(&lock, "c").unwrap();
        leases.release(&lock, "c").unwrap();
        assert_eq!(leases.find("c").unwrap(), None);
        assert_eq!(leases.allocate(&lock, "f").unwrap(), freed);
    }
}
