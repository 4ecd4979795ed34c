//! Services the host keeps on 127.0.0.1 are not reached from its neighbours, though packets from
//! there may leave by the bridge (CVE-2020-8558); and containers do not steer the host's routes
//! (CVE-2020-10749).

use std::net::Ipv4Addr;

use crate::host::{HOST_IP, Host, Namespace, back_ends, publish, publish_at};

/// Makes `from` send what is for 127.0.0.0/8 to `gateway` instead of to itself.
fn route_loopback_to(from: &Namespace, gateway: Ipv4Addr) {
    from.shell(&format!(
        "for f in all eth0; do echo 1 >/proc/sys/net/ipv4/conf/$f/route_localnet; done
         ip addr del 127.0.0.1/8 dev lo
         ip rule add pref 0 to 127.0.0.0/8 lookup 100
         ip route add default via {gateway} dev eth0 table 100
         ip route del table local local 127.0.0.0/8 dev lo 2>/dev/null || true
         ip rule add pref 32000 lookup local; ip rule del pref 0 lookup local",
    ));
    let route = from.shell("ip route get 127.0.0.1");
    assert!(route.contains("eth0"), "the attack is not one: {route}");
}

#[test]
fn what_neighbours_and_containers_send_to_loopback_is_dropped() {
    for back_end in back_ends() {
        let host = Host::new(&back_end);
        host.namespace.serve("private", "127.0.0.1:8080");
        let ports = [publish(2580, 80), publish_at(Ipv4Addr::LOCALHOST, 2581, 80)];
        let (web, _) = host.container("web", &ports);
        web.serve("web", "0.0.0.0:80");
        let (attacker, at) = host.container("attacker", &[]);
        // The uplink might be configured like this for reasons of its own.
        host.namespace.shell("echo 1 >/proc/sys/net/ipv4/conf/up0/route_localnet");

        let attackers = [&attacker, &host.neighbour];
        for (from, gateway) in attackers.into_iter().zip([at.gateway, HOST_IP]) {
            route_loopback_to(from, gateway);
            for port in [8080, 2580, 2581] {
                from.gets_nothing(Ipv4Addr::LOCALHOST, port);
            }
        }
        assert_eq!(host.namespace.ask(Ipv4Addr::LOCALHOST, 8080).unwrap(), "private 127.0.0.1");

        // The attacks get through where our rules are not.
        host.namespace.shell(&format!("{} -t raw -F AGENT-RAW", back_end.display()));
        for from in attackers {
            assert!(from.ask(Ipv4Addr::LOCALHOST, 8080).unwrap().starts_with("private"));
        }
        host.namespace.run(|| host.network.repair()).unwrap();
        for from in attackers {
            from.gets_nothing(Ipv4Addr::LOCALHOST, 8080);
        }
    }
}

#[test]
fn router_advertisements_are_refused_on_both_sides() {
    let host = Host::new(&back_ends()[0]);
    let (container, _) = host.container("a", &[]);
    let read = "cat /proc/sys/net/ipv6/conf/";
    assert_eq!(host.namespace.shell(&format!("{read}agent0/accept_ra")), "0\n");
    assert_eq!(container.shell(&format!("{read}eth0/accept_ra")), "0\n");
}
