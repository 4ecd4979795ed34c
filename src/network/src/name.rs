//! Names of kernel objects, derived from a container's id alone.
//!
//! Interface names hold 15 bytes and chain names 28, so both carry a hash; the id itself stands
//! beside it, in the interface's alias and in the rules' comments.

use std::net::Ipv4Addr;

use sha2::{Digest, Sha256};

use crate::NetworkError;

/// What the alias of every host link begins with; the id follows.
const ALIAS_PREFIX: &str = "agent network ";

/// Begins the name of every per-container chain.
pub(crate) const PORT_CHAIN_PREFIX: &str = "AGENT-P-";

/// Refuses ids that could not be quoted in a rule, an alias or a record.
pub(crate) fn check_id(id: &str) -> Result<(), NetworkError> {
    let fits = (1..=128).contains(&id.len());
    if fits && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) {
        return Ok(());
    }
    Err(NetworkError::InvalidId { id: id.to_owned() })
}

/// The first `digits` hexadecimal digits of the SHA-256 of `text`.
pub(crate) fn short_hash(text: &str, digits: usize) -> String {
    let mut hash: String = Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    hash.truncate(digits);
    hash
}

/// The host's end of the container's pair.
pub(crate) fn host_link(id: &str) -> String {
    format!("ve{}", short_hash(id, 12))
}

/// The chain that holds the container's published ports.
pub(crate) fn port_chain(id: &str) -> String {
    format!("{PORT_CHAIN_PREFIX}{}", short_hash(id, 16))
}

/// The alias of the container's host link.
pub(crate) fn link_alias(id: &str) -> String {
    format!("{ALIAS_PREFIX}{id}")
}

/// The id in a host link's alias, if it is one of ours.
pub(crate) fn id_of_alias(alias: &str) -> Option<&str> {
    alias.strip_prefix(ALIAS_PREFIX).filter(|id| check_id(id).is_ok())
}

/// The hardware address that goes with an address: an address leased again is found under the
/// same one, so a neighbour entry is never stale. `0a:58` is locally administered.
pub(crate) fn mac(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [0x0a, 0x58, a, b, c, d]
}

/// `0a:58:…` in writing.
pub(crate) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernels_limits_and_do_not_change() {
        let id = "f".repeat(128);
        assert!(host_link(&id).len() <= 15);
        assert!(port_chain(&id).len() <= 28);
        assert!(link_alias(&id).len() < 256);
        // A newer agent must find what an older one made.
        assert_eq!(host_link("web"), "ve4b5e57f6eb2f");
        assert_eq!(port_chain("web"), "AGENT-P-4b5e57f6eb2f42b9");
    }

    #[test]
    fn ids_that_could_break_out_of_a_quoted_comment_are_refused() {
        for (id, expected) in [
            ("0123abc", true),
            ("a_b.c-d", true),
            ("", false),
            ("a\"b", false),
            ("a b", false),
            ("a\nCOMMIT", false),
            ("a/b", false),
            (&"x".repeat(129), false),
        ] {
            assert_eq!(check_id(id).is_ok(), expected, "{id:?}");
        }
    }

    #[test]
    fn aliases_of_others_are_not_ours() {
        assert_eq!(id_of_alias(&link_alias("web")), Some("web"));
        assert_eq!(id_of_alias("uplink"), None);
        assert_eq!(id_of_alias("agent network "), None);
    }

    #[test]
    fn hardware_address_follows_the_address() {
        assert_eq!(mac_text(mac(Ipv4Addr::new(10, 86, 0, 2))), "0a:58:0a:56:00:02");
    }
}
