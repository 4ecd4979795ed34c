//! Nothing is left behind, and what others broke is mended.

use std::fs;
use std::net::Ipv4Addr;

use network::AttachSpec;

use crate::host::{Host, back_ends, publish};

#[test]
fn detach_leaves_everything_as_it_was() {
    for back_end in back_ends() {
        let host = Host::new(&back_end);
        let (stays, _) = host.container("stays", &[publish(2600, 80)]);
        stays.serve("stays", "0.0.0.0:80");
        let before = host.snapshot();
        let (web, _) = host.container("web", &[publish(2580, 80), publish(2581, 81)]);
        assert_ne!(host.snapshot(), before);
        assert_eq!(host.attached(), ["stays", "web"]);
        host.detach("web");
        assert_eq!(host.snapshot(), before);
        assert!(!web.shell("ip -o link").contains("eth0"));
        host.detach("web");
        host.detach("never-there");
        assert_eq!(host.snapshot(), before);
        assert_eq!(host.attached(), ["stays"]);
        host.namespace.ask(Ipv4Addr::LOCALHOST, 2600).unwrap();
    }
}

#[test]
fn remove_all_leaves_the_host_as_it_was() {
    for back_end in back_ends() {
        let host = Host::new(&back_end);
        let iptables = back_end.display();
        host.namespace.shell(&format!(
            "{iptables} -t nat -N AGENTX; {iptables} -t nat -A PREROUTING -j AGENTX
             {iptables} -A FORWARD -m comment --comment 'not -j AGENT-FORWARD' -j ACCEPT"
        ));
        let before = host.snapshot();
        let (_web, _) = host.container("web", &[publish(2580, 80)]);
        let (_other, _) = host.container("other", &[]);
        assert_eq!(host.namespace.shell("cat /proc/sys/net/ipv4/ip_forward"), "1\n");
        host.namespace.run(|| host.network.remove_all()).unwrap();
        assert_eq!(host.snapshot(), before);
        host.namespace.run(|| host.network.remove_all()).unwrap();
        assert!(host.attached().is_empty());
    }
}

#[test]
fn a_container_whose_records_were_lost_is_still_found_and_removed() {
    for back_end in back_ends() {
        let host = Host::new(&back_end);
        let _stays = host.container("stays", &[]);
        let before = host.rules();
        let (_web, at) = host.container("web", &[publish(2580, 80)]);
        fs::remove_dir_all(&host.config.run_root).unwrap();
        assert_eq!(host.attached(), ["stays", "web"]);
        host.detach("web");
        assert_eq!(host.rules(), before);
        assert!(!host.namespace.shell("ip -o link").contains(&at.host_interface));
    }
}

#[test]
fn rules_flushed_by_someone_else_are_back_with_the_next_published_port() {
    for back_end in back_ends() {
        let host = Host::new(&back_end);
        let (web, _) = host.container("web", &[publish(2580, 80)]);
        web.serve("web", "0.0.0.0:80");
        let whole = host.rules();
        let iptables = back_end.display();
        let flushes = [
            "-t nat -F",
            "-t nat -F PREROUTING",
            "-F",
            "-t raw -F PREROUTING",
            "-t nat -F; for t in nat filter raw; do $I -t $t -F; $I -t $t -X; done",
        ];
        for flush in flushes {
            host.namespace.shell(&format!("I={iptables}; $I {flush}"));
            let (_next, _) = host.container("next", &[publish(2590, 80)]);
            assert_eq!(host.namespace.ask(Ipv4Addr::LOCALHOST, 2580).unwrap(), "web 10.86.0.1");
            host.detach("next");
            assert_eq!(host.rules().len(), whole.len(), "{:#?}", host.rules());
            // Removing ports that are gone already is no error either.
            let _gone = host.container("gone", &[publish(2591, 80)]);
            host.namespace.shell(&format!("I={iptables}; $I {flush}"));
            host.detach("gone");
            host.namespace.run(|| host.network.repair()).unwrap();
            assert_eq!(host.rules().len(), whole.len(), "{:#?}", host.rules());
        }
    }
}

#[test]
fn a_container_whose_namespace_is_gone_is_detached_like_any_other() {
    let host = Host::new(&back_ends()[0]);
    let _stays = host.container("stays", &[]);
    let before = host.snapshot();
    let (web, _) = host.container("web", &[publish(2580, 80)]);
    drop(web);
    host.detach("web");
    assert_eq!(host.snapshot(), before);
}

#[test]
fn the_hosts_own_namespace_is_refused() {
    let host = Host::new(&back_ends()[0]);
    let before = host.snapshot();
    let attach = || host.network.attach("web", host.namespace.fd(), &AttachSpec::default());
    assert_eq!(
        host.namespace.run(attach).unwrap_err().to_string(),
        "cannot attach container web: its network namespace is the host's own"
    );
    assert_eq!(host.snapshot(), before);
}
