//! A container on the bridge, in a network namespace of the test's own.

use std::io::Read;
use std::net::TcpStream;
use std::process::Command;
use std::time::Instant;

use nix::sched::{CloneFlags, unshare};
use runtime::{ContainerOptions, NetworkMode, PortMapping, Protocol, RuntimeError};

use crate::node::{LIMIT, Node, named, shell};

/// Moves this test's thread into a network of its own.
pub fn own_network() {
    unshare(CloneFlags::CLONE_NEWNET).expect("as root");
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("iproute2 is installed");
    assert!(up.success());
}

fn on_bridge(options: ContainerOptions) -> ContainerOptions {
    ContainerOptions { network: NetworkMode::Bridge, ..options }
}

#[test]
fn a_container_on_the_bridge_knows_its_address_and_is_reached_at_its_port() {
    own_network();
    let node = Node::new();
    let serve = "echo $(hostname -i); exec python3 -c '
import socket
s = socket.create_server((\"\", 80))
while True:
    c, _ = s.accept()
    c.sendall(b\"hello\")
    c.close()
'";
    let publish = |name: &str, host_port| {
        let port = PortMapping { host_ip: None, host_port, container_port: 80, protocol: Protocol::Tcp };
        on_bridge(ContainerOptions { ports: vec![port], ..named(name, serve) })
    };
    let container = node.run(publish("web", 0), false).unwrap();
    let view = node.find("web");
    let attachment = view.network.expect("it is on the bridge");
    let port = attachment.ports[0].host_port;
    let begun = Instant::now();
    let mut said = String::new();
    while said != "hello" {
        assert!(begun.elapsed() < LIMIT, "nobody answers at port {port}");
        said.clear();
        // Until the server listens, the connection is refused or reset.
        if let Ok(mut connection) = TcpStream::connect(("127.0.0.1", port)) {
            drop(connection.read_to_string(&mut said));
        }
    }
    let hosts = node.path("lib/containers").join(&container.id).join("init/etc/hosts");
    let hosts = std::fs::read_to_string(hosts).unwrap();
    assert!(hosts.ends_with(&format!("{}\t{}\n", attachment.ip, view.id[..12].to_owned())), "{hosts}");

    let taken = node.run(publish("other", port), false).expect_err("the port is taken");
    assert_eq!(taken.exit_code(), 125);
    assert!(taken.to_string().contains("already in use by container"), "{taken}");
    let RuntimeError::Start(inner) = taken else { panic!("{taken:?}") };
    assert!(matches!(*inner, RuntimeError::Network(_)));

    node.runtime.remove("web", true).unwrap();
    let network = network::Network::new(network::NetworkConfig::new(node.path("run"))).unwrap();
    assert_eq!(network.attached().unwrap(), Vec::<String>::new());
    node.assert_empty();
}

#[test]
fn without_a_network_there_is_the_loopback_alone() {
    let node = Node::new();
    let ended = node.run_to_end(ContainerOptions { remove: true, ..shell("cat /proc/net/dev | tail -n +3") });
    let interfaces: Vec<&str> =
        ended.stdout.lines().map(|line| line.trim().split(':').next().unwrap()).collect();
    assert_eq!(interfaces, ["lo"]);
    node.assert_empty();
}
