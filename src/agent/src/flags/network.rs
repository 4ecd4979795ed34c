//! `--network`: which network a container has.

use runtime::NetworkMode;

use super::Parsed;

/// Parses `bridge`, `host` or `none`.
pub(crate) fn parse_network(text: &str) -> Parsed<NetworkMode> {
    match text {
        "bridge" | "default" => Ok(NetworkMode::Bridge),
        "host" => Ok(NetworkMode::Host),
        "none" => Ok(NetworkMode::None),
        other => Err(format!("'{other}' is no network: use bridge, host or none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_three_networks() {
        assert_eq!(parse_network("bridge"), Ok(NetworkMode::Bridge));
        assert_eq!(parse_network("host"), Ok(NetworkMode::Host));
        assert_eq!(parse_network("none"), Ok(NetworkMode::None));
        assert!(parse_network("container:x").is_err());
    }
}
