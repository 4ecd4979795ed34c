//! A proxy as `HTTP_PROXY` and `HTTPS_PROXY` name it, which leads everyone to the same server.

use std::io::{self, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use super::http::{Request, Server};
use super::netns::Netns;

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    server: Server,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Starts one that leads to 127.0.0.1:`upstream`, whatever it is asked for: by CONNECT (RFC 9110, 9.3.6), or by a
    /// request with a whole address in it.
    pub fn start(netns: &Netns, upstream: u16) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let serve = move |client: TcpStream| relay(client, upstream, &log);
        Proxy { server: Server::accept(netns, Ipv4Addr::LOCALHOST, serve), asked }
    }

    /// Its address for the variables.
    pub fn url(&self) -> String {
        format!("http://{}", self.server.host())
    }

    /// What it was asked for since the last time: `CONNECT host:port`, or `GET http://host:port`.
    pub fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().expect("nobody panics with it"))
    }
}

/// Leads one connection on, both ways until both have ended.
fn relay(client: TcpStream, upstream: u16, asked: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let Some(request) = Request::read(&mut reader)? else { return Ok(()) };
    let Request { method, target, .. } = &request;
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, upstream))?;
    // From `http://host/path` the registry is asked for `/path`.
    let place = target.strip_prefix("http://").and_then(|rest| rest.find('/'));
    let (place, path) = target.split_at(place.map_or(target.len(), |at| at + "http://".len()));
    asked.lock().expect("nobody panics with it").push(format!("{method} {place}"));
    if method == "CONNECT" {
        (&client).write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
    } else {
        let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
        for (name, value) in request.headers.iter().filter(|(name, _)| name != "connection") {
            head += &format!("{name}: {value}\r\n");
        }
        server.write_all(&[head.as_bytes(), b"\r\n", &request.body].concat())?;
    }
    thread::scope(|scope| {
        scope.spawn(|| copy(&mut reader, &server));
        copy(&mut &server, &client);
    });
    Ok(())
}

/// Copies until the end, and passes that on; one that breaks off has ended.
fn copy(from: &mut impl io::Read, mut to: &TcpStream) {
    drop(io::copy(from, &mut to));
    drop(to.shutdown(Shutdown::Write));
}
