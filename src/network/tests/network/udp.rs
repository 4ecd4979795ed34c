//! UDP flows that go on for longer than the container they went to.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use network::{PortMapping, Protocol};

use crate::host::{HOST_IP, Host, Namespace, back_ends, publish};

/// Answers every datagram with `name`.
fn serve(namespace: &Namespace, name: &'static str) {
    let socket = namespace.run(|| UdpSocket::bind("0.0.0.0:53").unwrap());
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, client)) = socket.recv_from(&mut buffer) {
            // The client's port is closed when the test ends.
            let _ = socket.send_to(name.as_bytes(), client);
        }
    });
}

/// Sends from the one socket until an answer comes, or for `patience`.
fn ask(client: &UdpSocket, to: SocketAddr, patience: Duration) -> Option<String> {
    let mut buffer = [0; 64];
    // Answers to earlier questions that were asked more than once.
    client.set_nonblocking(true).unwrap();
    while client.recv_from(&mut buffer).is_ok() {}
    client.set_nonblocking(false).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let start = Instant::now();
    while start.elapsed() < patience {
        client.send_to(b"?", to).unwrap();
        if let Ok((length, _)) = client.recv_from(&mut buffer) {
            return Some(String::from_utf8(buffer[..length].to_vec()).unwrap());
        }
    }
    None
}

#[test]
fn a_client_that_never_stops_sending_follows_the_published_port() {
    for back_end in back_ends() {
        let host = Host::new(&back_end);
        // Tracking starts with the first rules.
        let _other = host.container("other", &[publish(2600, 80)]);
        let port = PortMapping { protocol: Protocol::Udp, ..publish(2580, 53) };
        let (short, long) = (Duration::from_millis(300), Duration::from_secs(3));
        let clients = [
            (host.neighbour.run(|| UdpSocket::bind("0.0.0.0:5000").unwrap()), HOST_IP),
            (host.namespace.run(|| UdpSocket::bind("127.0.0.1:5001").unwrap()), Ipv4Addr::LOCALHOST),
        ];
        let ask_all = |patience| {
            clients.each_ref().map(|(client, ip)| ask(client, SocketAddr::from((*ip, 2580)), patience))
        };
        let all = |name: &str| [Some(name.to_owned()), Some(name.to_owned())];

        assert_eq!(ask_all(short), [None, None]);
        let (first, _) = host.container("first", &[port]);
        serve(&first, "first");
        assert_eq!(ask_all(long), all("first"));
        host.detach("first");
        assert_eq!(ask_all(short), [None, None]);
        let (second, _) = host.container("second", &[port]);
        serve(&second, "second");
        assert_eq!(ask_all(long), all("second"));
    }
}
