//! Who reaches whom.

use std::net::Ipv4Addr;
use std::path::Path;

use crate::host::{HOST_IP, Host, NEIGHBOUR_IP, back_ends, publish, publish_at};

const BRIDGE_CALLS_IPTABLES: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

#[test]
fn containers_reach_each_other_the_host_and_the_outside() {
    for back_end in back_ends() {
        let host = Host::new(&back_end);
        // A host that forwards nothing by itself.
        host.namespace.shell(&format!("{} -P FORWARD DROP", back_end.display()));
        let (a, at_a) = host.container("a", &[]);
        let (b, at_b) = host.container("b", &[]);
        assert_eq!((at_a.prefix_len, at_a.gateway), (16, Ipv4Addr::new(10, 86, 0, 1)));
        assert_ne!(at_a.ip, at_b.ip);
        assert!(a.shell("ip link show eth0").contains(&at_a.mac));
        a.reaches(at_b.ip);
        b.reaches(at_a.gateway);
        b.serve("b", "0.0.0.0:80");
        assert_eq!(a.ask(at_b.ip, 80).unwrap(), format!("b {}", at_a.ip));
        assert_eq!(host.namespace.ask(at_b.ip, 80).unwrap(), format!("b {}", at_a.gateway));
        assert!(a.shell("ip -br link show lo").contains("UP"));

        host.neighbour.serve("outside", "0.0.0.0:80");
        assert_eq!(a.ask(NEIGHBOUR_IP, 80).unwrap(), format!("outside {HOST_IP}"));
    }
}

#[test]
fn a_published_port_is_reached_from_everywhere() {
    for back_end in back_ends() {
        let host = Host::new(&back_end);
        host.namespace.shell(&format!("{} -P FORWARD DROP", back_end.display()));
        let (web, at) = host.container("web", &[publish(2580, 80), publish(0, 81)]);
        let (other, _) = host.container("other", &[]);
        assert_eq!(at.ports[0].host_port, 2580);
        let free = at.ports[1].host_port;
        assert_ne!(free, 0);
        web.serve("web", "0.0.0.0:80");
        web.serve("second", "0.0.0.0:81");

        for bridge_filter in ["0", "1"] {
            // Where br_netfilter is loaded, bridged packets may pass iptables too.
            if Path::new(BRIDGE_CALLS_IPTABLES).exists() {
                host.namespace.shell(&format!("echo {bridge_filter} >{BRIDGE_CALLS_IPTABLES}"));
            }
            let from_host = format!("web {}", at.gateway);
            for ip in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 9, 9, 9)] {
                assert_eq!(host.namespace.ask(ip, 2580).unwrap(), from_host);
            }
            assert_eq!(host.namespace.ask(HOST_IP, 2580).unwrap(), format!("web {HOST_IP}"));
            let from_neighbour = format!("web {NEIGHBOUR_IP}");
            assert_eq!(host.neighbour.ask(HOST_IP, 2580).unwrap(), from_neighbour);
            assert_eq!(host.neighbour.ask(HOST_IP, free).unwrap(), format!("second {NEIGHBOUR_IP}"));
            for client in [&other, &web] {
                assert_eq!(client.ask(HOST_IP, 2580).unwrap(), from_host);
                assert_eq!(client.ask(at.gateway, 2580).unwrap(), from_host);
            }
        }
    }
}

#[test]
fn a_port_published_at_one_address_is_closed_at_the_others() {
    for back_end in back_ends() {
        let host = Host::new(&back_end);
        let ports = [publish_at(Ipv4Addr::LOCALHOST, 2580, 80), publish_at(HOST_IP, 2581, 80)];
        let (web, _) = host.container("web", &ports);
        web.serve("web", "0.0.0.0:80");
        host.namespace.ask(Ipv4Addr::LOCALHOST, 2580).unwrap();
        host.namespace.ask(HOST_IP, 2580).unwrap_err();
        host.neighbour.ask(HOST_IP, 2580).unwrap_err();
        host.neighbour.ask(HOST_IP, 2581).unwrap();
        host.namespace.ask(Ipv4Addr::LOCALHOST, 2581).unwrap_err();
    }
}

#[test]
fn a_neighbour_that_routes_through_the_host_reaches_published_ports_only() {
    for back_end in back_ends() {
        let host = Host::new(&back_end);
        let (web, at) = host.container("web", &[publish(2580, 80)]);
        web.serve("web", "0.0.0.0:80");
        host.neighbour.shell(&format!("ip route add 10.86.0.0/16 via {HOST_IP}"));
        host.neighbour.gets_nothing(at.ip, 80);
        host.neighbour.ask(HOST_IP, 2580).unwrap();
    }
}

#[test]
fn the_first_connection_after_an_attach_is_not_delayed() {
    for back_end in back_ends() {
        let host = Host::new(&back_end);
        host.neighbour.serve("outside", "0.0.0.0:80");
        for id in ["first", "second", "third"] {
            let (container, _) = host.container(id, &[]);
            let start = std::time::Instant::now();
            container.ask(NEIGHBOUR_IP, 80).unwrap();
            // A lost first packet would be sent again after a second.
            assert!(start.elapsed().as_millis() < 900, "{id}: {:?}", start.elapsed());
        }
    }
}
