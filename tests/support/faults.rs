//! A proxy in front of a registry that does to its answers what a test wants, and counts what it sees.

use std::io::{self, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::authority::Identity;
use super::http::{self, Client, Request, Server, answer};
use super::netns::Netns;

/// What becomes of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Its head, so many bytes of its body, and the end of the connection.
    Cut(u64),
    /// So many bytes of its body, and then nothing until the client goes.
    Stall(u64),
    /// The byte at this place is another.
    Corrupt(u64),
    /// It promises a shorter body, and that comes.
    Shorten(u64),
    /// No body: an answer with this status and these headers.
    Answer(u16, Vec<(&'static str, String)>),
    /// The whole body, although a part was asked for.
    IgnoreRange,
    /// The part that was asked for, as if it were from one byte further on.
    WrongRange,
    /// The body in pieces of so many bytes, with this pause before each.
    Drip(usize, Duration),
    /// Of the request's body so many bytes get through (to a registry, as a part); then the connection ends.
    CutRequest(u64),
}

/// A request as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `GET` and the like.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// What part was asked for.
    pub range: Option<String>,
    /// The credentials that came along.
    pub authorization: Option<String>,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the answer's body that were sent.
    pub sent: u64,
    /// Of the answer.
    pub status: u16,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    seen: Vec<Seen>,
    /// Blobs under way, and the most there were.
    blobs: (usize, usize),
    /// How many answers stand still.
    stalled: usize,
}

#[derive(Debug)]
struct Rule {
    method: &'static str,
    part: String,
    times: usize,
    fault: Fault,
}

type Shared = Arc<(Mutex<State>, Condvar)>;

/// A running proxy.
#[derive(Debug)]
pub struct Faults {
    server: Server,
    state: Shared,
}

impl Faults {
    /// Starts one in front of 127.0.0.1:`upstream`, which speaks plain HTTP.
    pub fn start(netns: &Netns, upstream: u16) -> Self {
        Self::start_as(netns, Ipv4Addr::LOCALHOST, upstream, None)
    }

    /// The same, at another address, or with TLS.
    pub fn start_as(netns: &Netns, ip: Ipv4Addr, upstream: u16, identity: Option<&Identity>) -> Self {
        let state = Shared::default();
        let shared = Arc::clone(&state);
        let scheme = if identity.is_some() { "https" } else { "http" };
        let upstream = SocketAddr::from((Ipv4Addr::LOCALHOST, upstream));
        let serve =
            move |request: Request, client: &mut Client| serve(&request, client, upstream, scheme, &shared);
        Faults { server: Server::start(netns, ip, identity, serve), state }
    }

    /// `ip:port`.
    pub fn host(&self) -> String {
        self.server.host()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// Lets the next `times` answers to GET requests whose path and query hold `part` go wrong.
    pub fn on(&self, part: impl Into<String>, times: usize, fault: Fault) {
        self.on_method("GET", part, times, fault);
    }

    /// The same, of another method.
    pub fn on_method(&self, method: &'static str, part: impl Into<String>, times: usize, fault: Fault) {
        self.lock().rules.push(Rule { method, part: part.into(), times, fault });
    }

    /// From now on nothing goes wrong.
    pub fn behave(&self) {
        self.lock().rules.clear();
    }

    /// The requests since the last time whose path and query hold `part`; forgets all.
    pub fn take_seen(&self, part: &str) -> Vec<Seen> {
        let seen = std::mem::take(&mut self.lock().seen);
        seen.into_iter().filter(|seen| seen.target.contains(part)).collect()
    }

    /// The most blobs that were on their way at once.
    pub fn most_blobs(&self) -> usize {
        self.lock().blobs.1
    }

    /// Waits until an answer stands still.
    ///
    /// # Panics
    /// When none does.
    pub fn wait_for_stall(&self) {
        let limit = super::program::LIMIT;
        let none = |state: &mut State| state.stalled == 0;
        let (state, _) =
            self.state.1.wait_timeout_while(self.lock(), limit, none).expect("nobody panics with it");
        assert!(state.stalled > 0, "waited in vain for an answer that stalls: {:?}", state.seen);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.0.lock().expect("nobody panics with it")
    }
}

impl State {
    /// The fault for a request.
    fn fault(&mut self, request: &Request) -> Option<Fault> {
        let fits = |rule: &&mut Rule| {
            rule.times > 0 && rule.method == request.method && request.target.contains(&rule.part)
        };
        let rule = self.rules.iter_mut().find(fits)?;
        rule.times -= 1;
        Some(rule.fault.clone())
    }
}

/// An answer of the registry, whose body has not been read.
struct Upstream {
    status: u16,
    headers: Vec<(String, String)>,
    body: BufReader<TcpStream>,
}

fn serve(
    request: &Request,
    client: &mut Client,
    upstream: SocketAddr,
    scheme: &str,
    shared: &Shared,
) -> io::Result<bool> {
    let (lock, changed) = &**shared;
    let mut state = lock.lock().expect("nobody panics with it");
    let fault = state.fault(request);
    let blob = request.method == "GET" && request.path().contains("/blobs/");
    if blob {
        state.blobs.0 += 1;
        state.blobs.1 = state.blobs.1.max(state.blobs.0);
    }
    let at = state.seen.len();
    state.seen.push(Seen {
        method: request.method.clone(),
        target: request.target.clone(),
        range: request.header("range").map(str::to_owned),
        authorization: request.header("authorization").map(str::to_owned),
        received: request.body.len() as u64,
        sent: 0,
        status: 0,
    });
    drop(state);
    let mut note = |status: u16, sent: u64| {
        // The list may have been taken meanwhile.
        if let Some(seen) = lock.lock().expect("nobody panics with it").seen.get_mut(at) {
            (seen.status, seen.sent) = (status, sent);
        }
    };
    let result = relay(request, client, upstream, scheme, fault.as_ref(), &mut note, || {
        lock.lock().expect("nobody panics with it").stalled += 1;
        changed.notify_all();
    });
    if blob {
        lock.lock().expect("nobody panics with it").blobs.0 -= 1;
    }
    result
}

fn relay(
    request: &Request,
    client: &mut Client,
    upstream: SocketAddr,
    scheme: &str,
    fault: Option<&Fault>,
    note: &mut impl FnMut(u16, u64),
    stalls: impl FnOnce(),
) -> io::Result<bool> {
    if let Some(Fault::Answer(status, headers)) = fault {
        note(*status, 0);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, &**value)).collect();
        answer(client.get_mut(), *status, &headers, b"")?;
        return Ok(true);
    }
    let mut request = request.clone();
    if fault == Some(&Fault::IgnoreRange) {
        request.headers.retain(|(name, _)| name != "range");
    }
    if let Some(Fault::CutRequest(bytes)) = fault {
        request.body.truncate(usize::try_from(*bytes).unwrap_or(usize::MAX));
    }
    let mut from = ask(&request, upstream, scheme)?;
    if let Some(Fault::CutRequest(_)) = fault {
        // The registry is done with it before the client knows.
        io::copy(&mut from.body, &mut io::sink())?;
        return Ok(false);
    }
    let length = from.headers.iter().find(|(name, _)| name == "content-length");
    let length: Option<u64> = length.and_then(|(_, value)| value.parse().ok());
    let length = match length {
        Some(length) => length,
        None => {
            // What comes without a length is small.
            let mut all = Vec::new();
            from.body.read_to_end(&mut all)?;
            note(from.status, all.len() as u64);
            send_head(client, &from, all.len() as u64)?;
            client.get_mut().write_all(&all)?;
            client.get_mut().flush()?;
            return Ok(true);
        }
    };
    if fault == Some(&Fault::WrongRange) {
        for (name, value) in &mut from.headers {
            if name == "content-range" {
                *value = further(value);
            }
        }
    }
    let promised = match fault {
        Some(Fault::Shorten(bytes)) => length.min(*bytes),
        _ => length,
    };
    note(from.status, 0);
    send_head(client, &from, promised)?;
    if request.method == "HEAD" {
        return Ok(true);
    }
    let (piece, pause) = match fault {
        Some(Fault::Drip(piece, pause)) => (*piece, Some(*pause)),
        _ => (64 << 10, None),
    };
    let end = match fault {
        Some(Fault::Cut(bytes) | Fault::Stall(bytes)) => promised.min(*bytes),
        _ => promised,
    };
    let (mut sent, mut piece) = (0, vec![0; piece]);
    while sent < end {
        if let Some(pause) = pause {
            std::thread::sleep(pause);
        }
        let wanted = piece.len().min(usize::try_from(end - sent).unwrap_or(usize::MAX));
        let count = from.body.read(&mut piece[..wanted])?;
        if count == 0 {
            return Ok(false);
        }
        if let Some(Fault::Corrupt(place)) = fault
            && (sent..sent + count as u64).contains(place)
        {
            piece[usize::try_from(place - sent).expect("it lies within a piece")] ^= 0x55;
        }
        client.get_mut().write_all(&piece[..count])?;
        sent += count as u64;
        note(from.status, sent);
    }
    client.get_mut().flush()?;
    if let Some(Fault::Stall(_)) = fault {
        stalls();
        // Until the client goes; it says nothing more on this connection.
        let _ = client.read(&mut [0]);
        return Ok(false);
    }
    Ok(!matches!(fault, Some(Fault::Cut(_))))
}

/// Asks the registry by HTTP/1.0, which has no chunks, on a connection of its own.
fn ask(request: &Request, upstream: SocketAddr, scheme: &str) -> io::Result<Upstream> {
    let mut stream = TcpStream::connect(upstream)?;
    let mut head = format!("{} {} HTTP/1.0\r\n", request.method, request.target);
    for (name, value) in &request.headers {
        // By the host it makes addresses that lead through us again.
        if !matches!(&**name, "connection" | "transfer-encoding" | "content-length" | "x-forwarded-proto") {
            head += &format!("{name}: {value}\r\n");
        }
    }
    head += &format!("x-forwarded-proto: {scheme}\r\ncontent-length: {}\r\n\r\n", request.body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(&request.body)?;
    let mut body = BufReader::new(stream);
    let first = http::line(&mut body)?;
    let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("the registry answers {first:?}")))?;
    Ok(Upstream { status, headers: http::headers(&mut body)?, body })
}

fn send_head(client: &mut Client, from: &Upstream, length: u64) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Answer\r\n", from.status);
    for (name, value) in &from.headers {
        if !matches!(&**name, "connection" | "content-length" | "transfer-encoding") {
            head += &format!("{name}: {value}\r\n");
        }
    }
    head += &format!("content-length: {length}\r\n\r\n");
    client.get_mut().write_all(head.as_bytes())?;
    client.get_mut().flush()
}

/// `bytes 10-19/20` as `bytes 11-19/20`.
fn further(range: &str) -> String {
    let begin = range.strip_prefix("bytes ").and_then(|rest| rest.split_once('-'));
    let (begin, rest) = begin.unwrap_or_else(|| panic!("{range:?} is no range"));
    format!("bytes {}-{rest}", begin.parse::<u64>().expect("a number") + 1)
}
