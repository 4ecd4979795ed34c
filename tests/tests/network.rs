//! The container network: who reaches whom, what is published, and what goes with the container.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::json;
use tests::support::node::{HOST_IP, json};
use tests::support::program::tool;
use tests::{Node, PROBE};

/// How long what must not answer is listened for.
const DOUBT: Duration = Duration::from_millis(500);
/// How long what must answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the payload's echo server in a container of this name.
fn listen(node: &Node, name: &str, options: &[&str], port: &str, more: &[&str]) -> Ipv4Addr {
    node.detached(&[&["--name", name], options, &[PROBE, "listen", port], more].concat());
    node.log_with(name, "listening");
    node.ip(name)
}

#[test]
fn containers_reach_each_other_and_their_host() {
    let node = Node::new();
    let one = listen(&node, "one", &[], "80", &[]);
    let told = node.probe(&[], &["connect", &one.to_string(), "80"]);
    assert_eq!((&told["connected"], &told["reply"]), (&json!(true), &json!("probe\n")));
    // Under its own address, not the host's.
    let peer = told["local"].as_str().and_then(|local| local.split(':').next()).expect("it had an address");
    assert!(node.agent(&["logs", "one"]).ok().contains(&format!("{{\"peer\":\"{peer}:")));
    let two = listen(&node, "two", &[], "80", &["--udp"]);
    assert_eq!(node.probe(&[], &["connect", &two.to_string(), "80", "--udp"])["reply"], "probe\n");
    assert_ne!(one, two);

    // The host's own server, from a container; a name for the container itself.
    let _neighbour = node.neighbour();
    let listener = node.netns.listen(Ipv4Addr::UNSPECIFIED, 0).expect("a free port");
    let port = listener.local_addr().expect("it listens").port().to_string();
    let server = std::thread::spawn(move || listener.accept().map(|(_, peer)| peer.ip().to_string()));
    node.agent(&["run", "--rm", PROBE, "connect", &HOST_IP.to_string(), &port]);
    let peer = server.join().expect("it does not panic").expect("a connection came");
    let beginning = |ip: String| ip.split('.').take(2).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(beginning(peer), beginning(one.to_string()));
}

#[test]
fn published_ports_choose_address_protocol_and_number() {
    let node = Node::new();
    let neighbour = node.neighbour();
    listen(&node, "local", &["-p", "127.0.0.1:8080:80"], "80", &[]);
    node.netns.connect(Ipv4Addr::LOCALHOST, 8080, PATIENCE).expect("published at loopback");
    node.netns.connect(HOST_IP, 8080, DOUBT).expect_err("published at loopback only");
    neighbour.connect(HOST_IP, 8080, DOUBT).expect_err("published at loopback only");

    listen(&node, "any", &["-p", "80"], "80", &[]);
    let told = node.inspect("any")["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"].take();
    let port: u16 = told.as_str().and_then(|port| port.parse().ok()).expect("it has a port");
    neighbour.connect(HOST_IP, port, PATIENCE).expect("published everywhere");

    listen(&node, "datagrams", &["-p", "5300:53/udp"], "53", &["--udp"]);
    let probe = tests::support::node::binary("probe");
    let words = [&HOST_IP.to_string(), "5300", "--udp"];
    let mut client = neighbour.command(probe.to_str().expect("it is plain"));
    let output = tests::support::program::run(client.arg("connect").args(words), b"", PATIENCE * 2);
    assert_eq!(json(&output.ok())["reply"], "probe\n");
}

#[test]
fn a_port_that_is_taken_is_said_in_one_line() {
    let node = Node::new();
    let id = node.detached(&["--name", "first", "-p", "8080:80", PROBE, "listen", "80"]);
    let line = node.agent(&["run", "-d", "--name", "second", "-p", "8080:80", PROBE, "wait"]).refused(125);
    assert!(line.contains("8080") && line.contains("in use") && line.contains(&id[..12]), "{line}");
    // By somebody else's socket.
    let listener = node.netns.listen(Ipv4Addr::UNSPECIFIED, 9090).expect("the port is free");
    let line = node.agent(&["run", "-d", "-p", "9090:80", PROBE, "wait"]).refused(125);
    assert!(line.contains("9090") && line.contains("in use"), "{line}");
    drop(listener);
    assert_eq!(node.agent(&["ps", "-aq", "--no-trunc"]).ok(), id, "the refused ones are gone");
    assert_eq!(node.agent(&["rm", "-f", "first"]).ok(), "first");
    // Now both are free.
    node.detached(&["-p", "8080:80", "-p", "9090:81", PROBE, "wait"]);
}

#[test]
fn loopback_of_the_host_is_its_own() {
    let node = Node::new();
    let neighbour = node.neighbour();
    let listener = node.netns.listen(Ipv4Addr::LOCALHOST, 0).expect("a free port");
    let port = listener.local_addr().expect("it listens").port();
    let published = listen(&node, "published", &["-p", "127.0.0.1:8080:80"], "80", &[]);
    // CVE-2020-8558: a neighbour that sends 127.0.0.1 to this host by its hardware address.
    neighbour.shell(&format!(
        "sysctl -qw net.ipv4.conf.all.route_localnet=1 net.ipv4.conf.up0.route_localnet=1
         ip addr del 127.0.0.1/8 dev lo
         ip route add 127.0.0.0/8 via {HOST_IP} dev up0"
    ));
    for port in [port, 8080] {
        let error = neighbour.connect(Ipv4Addr::LOCALHOST, port, DOUBT).expect_err("a martian");
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{port}");
    }
    let told = node.agent(&["run", "--rm", PROBE, "connect", "127.0.0.1", &port.to_string()]);
    assert_eq!(json(&told.stdout)["connected"], false, "a container has a loopback of its own");
    // A neighbour that routes to the containers' network through this host reaches published ports only.
    neighbour.shell(&format!("ip route add {published}/32 via {HOST_IP} dev up0"));
    neighbour.connect(published, 80, DOUBT).expect_err("not published to it");
    node.netns.connect(published, 80, PATIENCE).expect("the host itself may");
}

#[test]
fn containers_go_out_under_the_hosts_address() {
    let node = Node::new();
    let neighbour = node.neighbour();
    let listener = neighbour.listen(Ipv4Addr::UNSPECIFIED, 0).expect("a free port");
    let address = listener.local_addr().expect("it listens");
    let server = std::thread::spawn(move || listener.accept().map(|(_, peer)| peer.ip()));
    let target = tests::support::node::NEIGHBOUR_IP.to_string();
    node.agent(&["run", "--rm", PROBE, "connect", &target, &address.port().to_string()]);
    let peer = server.join().expect("it does not panic").expect("a connection came");
    assert_eq!(peer, HOST_IP);
}

#[test]
fn nothing_on_the_network_outlives_its_container() {
    let node = Node::new();
    let rules = || -> Vec<String> {
        let text = node.netns.shell("iptables-save 2>/dev/null");
        text.lines().filter(|line| line.starts_with('-')).map(str::to_owned).collect()
    };
    node.detached(&["--name", "first", PROBE, "wait"]);
    let (links, before) = (node.netns.shell("ip -o link show type veth | wc -l"), rules());
    assert_eq!(links.trim(), "1");
    for round in 0..3 {
        listen(&node, "second", &["-p", "8080:80", "-p", "8081:81/udp"], "80", &[]);
        assert!(rules().len() > before.len());
        match round {
            0 => drop(node.agent(&["rm", "-f", "second"]).ok()),
            1 => {
                assert_eq!(node.agent(&["stop", "second"]).ok(), "second");
                // It has ended, so nothing is published any more; its name is still its own.
                assert_eq!(rules(), before);
                drop(node.agent(&["rm", "second"]).ok());
            }
            _ => {
                // Its process ends by itself, as by somebody's hand.
                let pid = nix::unistd::Pid::from_raw(node.pid("second"));
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it runs");
                assert_eq!(node.agent(&["wait", "second"]).ok(), "137");
                drop(node.agent(&["rm", "second"]).ok());
            }
        }
        assert_eq!(rules(), before, "round {round}");
        assert_eq!(node.netns.shell("ip -o link show type veth | wc -l"), links, "round {round}");
    }
}

#[test]
fn rules_that_somebody_flushed_come_back() {
    let node = Node::new();
    listen(&node, "one", &["-p", "8080:80"], "80", &[]);
    node.netns.shell("iptables -t nat -F; iptables -t filter -F; iptables -t raw -F");
    node.netns.connect(Ipv4Addr::LOCALHOST, 8080, DOUBT).expect_err("its rules are gone");
    // The next container that publishes anything finds them missing.
    listen(&node, "two", &["-p", "8081:80"], "80", &[]);
    for port in [8080, 8081] {
        node.netns.connect(Ipv4Addr::LOCALHOST, port, PATIENCE).expect("published again");
    }
}

/// A namespace with a name, until dropped.
struct Named(String);

impl Named {
    fn new() -> Self {
        let name = format!("agent-test-{}", std::process::id());
        let _ = tool(["ip", "netns", "add", &name]);
        Named(name)
    }

    fn links(&self) -> String {
        tool(["ip", "-n", &self.0, "-o", "link"])
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = tool(["ip", "netns", "del", &self.0]);
    }
}

#[test]
fn a_named_namespace_is_as_good() {
    // As a user makes it; the others of these tests are held by descriptor.
    let node = Node::new();
    let named = Named::new();
    let path = format!("/run/netns/{}", named.0);
    let inside = |words: &[&str]| node.agent(&[&["--netns", path.as_str()], words].concat());
    let id = inside(&["run", "-d", "--name", "box", PROBE, "listen", "80"]).ok();
    let links = named.links();
    assert!(links.contains("agent0") && links.contains(": ve"), "{links}");
    let report = json(&inside(&["exec", &id, "/probe"]).ok());
    assert_eq!(report["interfaces"].as_array().map(Vec::len), Some(2));
    assert_eq!(inside(&["rm", "-f", "box"]).ok(), "box");
    let links = named.links();
    assert!(!links.contains(": ve"), "{links}");
}
