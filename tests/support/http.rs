//! HTTP/1.1 as far as the servers of the tests speak it (RFC 9112), over TCP or TLS.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use nix::sys::socket::{Shutdown, shutdown};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::authority::Identity;
use super::netns::Netns;

/// A connection to a client, plain or by TLS.
pub trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

/// A connection to a client, whose requests are read by lines.
pub type Client = BufReader<Box<dyn Stream>>;

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// `GET` and the like.
    pub method: String,
    /// Path and query; for proxies an address or `host:port`.
    pub target: String,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// All of its body.
    pub body: Vec<u8>,
}

impl Request {
    /// Reads the next request of a connection; none at its end.
    pub fn read(client: &mut impl BufRead) -> io::Result<Option<Request>> {
        let first = line(client)?;
        let mut words = first.split(' ').map(str::to_owned);
        let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(None) };
        let mut request = Request { method, target, headers: headers(client)?, body: Vec::new() };
        if request.header("transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
            loop {
                let size = line(client)?;
                let size = size.split(';').next().unwrap_or_default().trim();
                let size = u64::from_str_radix(size, 16).map_err(io::Error::other)?;
                client.by_ref().take(size).read_to_end(&mut request.body)?;
                line(client)?;
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = request.header("content-length") {
            let length = length.parse().map_err(io::Error::other)?;
            client.by_ref().take(length).read_to_end(&mut request.body)?;
        }
        Ok(Some(request))
    }

    /// A header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// The path, without the query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The values of a field of the query, or of a form in the body.
    pub fn fields(&self, name: &str) -> Vec<String> {
        let query = self.target.split_once('?').map(|(_, query)| query.to_owned());
        let form = String::from_utf8_lossy(&self.body).into_owned();
        let pairs = query.iter().chain([&form]).flat_map(|text| text.split('&'));
        let values = pairs.filter_map(|pair| pair.split_once('=')).filter(|(known, _)| *known == name);
        values.map(|(_, value)| unescape(value)).collect()
    }
}

/// Reads headers up to the empty line.
pub fn headers(stream: &mut impl BufRead) -> io::Result<Vec<(String, String)>> {
    let mut headers = Vec::new();
    loop {
        let line = line(stream)?;
        let Some((name, value)) = line.split_once(':') else { return Ok(headers) };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

/// A line without its end; empty at the end of the stream.
pub fn line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

/// What `%2F` and `+` of a form stand for.
fn unescape(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut plain = Vec::new();
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits: String = bytes.by_ref().take(2).map(char::from).collect();
                u8::from_str_radix(&digits, 16).unwrap_or(b'?')
            }
            byte => byte,
        });
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// Writes a whole answer.
pub fn answer(client: &mut impl Write, status: u16, headers: &[(&str, &str)], body: &[u8]) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {status} Answer\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    client.write_all(&[head.as_bytes(), b"\r\n", body].concat())?;
    client.flush()
}

/// A server on a thread of its own, with one more for every connection. It ends when dropped.
pub struct Server {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on a port of the kernel's choice inside `netns`. `serve` answers a request, and says whether the
    /// connection stays open.
    ///
    /// # Panics
    /// When it cannot listen, or the identity cannot be read.
    pub fn start(
        netns: &Netns,
        ip: Ipv4Addr,
        identity: Option<&Identity>,
        serve: impl Fn(Request, &mut Client) -> io::Result<bool> + Send + Sync + 'static,
    ) -> Self {
        let tls = identity.map(|identity| Arc::new(tls(identity)));
        Self::accept(netns, ip, move |stream| converse(stream, tls.clone(), &serve))
    }

    /// The same, of connections that `serve` is given as they are.
    pub fn accept(
        netns: &Netns,
        ip: Ipv4Addr,
        serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = Arc::new(netns.listen(ip, 0).expect("a free port"));
        let address = listener.local_addr().expect("it is bound");
        let open = Arc::new(Mutex::new(Vec::new()));
        let (serve, accepted) = (Arc::new(serve), (Arc::clone(&listener), Arc::clone(&open)));
        let accept = move || {
            for stream in accepted.0.incoming() {
                let Ok(stream) = stream else { return };
                let Ok(copy) = stream.try_clone() else { return };
                accepted.1.lock().expect("nobody panics with it").push(copy);
                let serve = Arc::clone(&serve);
                thread::spawn(move || {
                    let closing = stream.try_clone();
                    // A client that goes, or does not trust us, ends its connection.
                    drop(serve(stream));
                    // The copy above keeps it open otherwise.
                    drop(closing.map(|stream| stream.shutdown(std::net::Shutdown::Both)));
                });
            }
        };
        // Started inside, so that what it connects to is inside too.
        let thread = netns.run(|| thread::spawn(accept));
        Server { address, listener, open, thread: Some(thread) }
    }

    /// `ip:port`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Server").field(&self.address).finish()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Each of these wakes a thread of ours; one that has ended is not there to be woken.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for stream in self.open.lock().map(|mut open| std::mem::take(&mut *open)).unwrap_or_default() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn converse(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    serve: &impl Fn(Request, &mut Client) -> io::Result<bool>,
) -> io::Result<()> {
    let stream: Box<dyn Stream> = match tls {
        None => Box::new(stream),
        Some(config) => {
            let session = ServerConnection::new(config).map_err(io::Error::other)?;
            Box::new(StreamOwned::new(session, stream))
        }
    };
    let mut client = BufReader::new(stream);
    while let Some(request) = Request::read(&mut client)? {
        if !serve(request, &mut client)? {
            break;
        }
    }
    Ok(())
}

fn tls(identity: &Identity) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = CertificateDer::pem_file_iter(&identity.certificate).expect("a certificate");
    let chain = chain.collect::<Result<Vec<_>, _>>().expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(&identity.key).expect("a key");
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider knows TLS")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("the key belongs to the certificate")
}
