//! Who gets a port.

use std::net::{Ipv4Addr, TcpListener};

use network::{AttachSpec, PortMapping, Protocol};

use crate::host::{Host, Namespace, back_ends, publish, publish_at};

#[test]
fn a_taken_port_is_refused_by_name_and_nothing_is_left() {
    let host = Host::new(&back_ends()[0]);
    let _web = host.container("web", &[publish(2580, 80)]);
    let listener = host.namespace.run(|| TcpListener::bind("127.0.0.1:2600").unwrap());
    let before = host.snapshot();
    let udp = PortMapping { protocol: Protocol::Udp, ..publish(2580, 80) };
    let check = |ports: &[PortMapping], expected: &str| {
        let container = Namespace::new();
        let spec = AttachSpec { ports: ports.to_vec() };
        let attach = || host.network.attach("late", container.fd(), &spec);
        assert_eq!(host.namespace.run(attach).unwrap_err().to_string(), expected);
        assert_eq!(host.snapshot(), before);
    };
    let by_web = "is already in use by container web";
    check(&[publish(2580, 80)], &format!("port 2580/tcp on 0.0.0.0 {by_web}"));
    check(&[udp, publish(2580, 80)], &format!("port 2580/tcp on 0.0.0.0 {by_web}"));
    check(&[publish_at(Ipv4Addr::LOCALHOST, 2580, 80)], &format!("port 2580/tcp on 127.0.0.1 {by_web}"));
    check(&[publish(2600, 80)], "port 2600/tcp on 0.0.0.0 is already in use by another program");
    check(&[publish(2700, 80), publish(2700, 81)], "port 2700/tcp on 0.0.0.0 is published twice");

    drop(listener);
    host.detach("web");
    let _late = host.container("late", &[publish(2580, 80), publish(2600, 80), udp]);
}

#[test]
fn an_attached_id_is_refused_and_stays_attached() {
    let host = Host::new(&back_ends()[0]);
    let (web, at) = host.container("web", &[publish(2580, 80)]);
    let before = host.snapshot();
    let again = host.namespace.run(|| host.network.attach("web", web.fd(), &AttachSpec::default()));
    assert_eq!(again.unwrap_err().to_string(), "container web is already attached to the network");
    assert_eq!(host.snapshot(), before);
    web.reaches(at.gateway);
}

#[test]
fn a_subnet_that_another_interface_has_is_refused() {
    let host = Host::new(&back_ends()[0]);
    host.namespace.shell("ip addr add 10.86.7.1/24 dev up0");
    let container = Namespace::new();
    let attach = || host.network.attach("web", container.fd(), &AttachSpec::default());
    assert_eq!(
        host.namespace.run(attach).unwrap_err().to_string(),
        "container subnet 10.86.0.0/16 is already in use by interface up0: choose another"
    );
}
