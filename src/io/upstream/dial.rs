//! A WebSocket to an upstream: connection, opening handshake, and then bytes without waiting.
//!
//! ureq cannot switch protocols, so the handshake is made by hand over the same sockets, proxies
//! and TLS. Once it is open, one coroutine serves both ends: it reads and writes what can be read
//! and written, and waits for whichever end moves first.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ring::rand::SecureRandom;
use ureq::http::uri::Authority;

use super::{Answer, Body, Caller, Fields};
use crate::exchange::{Call, Pipe, Stop};
use crate::failure::{Cause, Failure, Phase};
use crate::io::http::{self, Address};
use crate::io::tls::Sealed;
use crate::io::watch::Watch;
use crate::io::worker::{Both, Sock};
use crate::io::{resolver, transport, worker};
use crate::limits;
use crate::metrics::Held;
use crate::wire::body::Decoder;
use crate::wire::reply::{self, Framing, ReplyHead};
use crate::wire::{head, header, websocket};

/// Dials, and answers with what the upstream said: 101 and an open pipe, or its refusal.
pub(super) fn dial(
    caller: &Caller,
    call: &Call<'_>,
    protocols: &str,
    guard: Held,
) -> Result<Answer, Failure> {
    let fence = call.provider.dial_fence();
    let watch = Watch::begin(caller.worker, fence, caller.downstream.clone(), call.timeouts, None);
    let result = shake(caller, call, protocols, &watch);
    worker::attach(None);
    let (ReplyHead { status, headers, .. }, body) = result.map_err(|cause| watch.failure(cause))?;
    let length = match &body {
        Body::Held { bytes, broken: None, .. } => Some(bytes.len() as u64),
        _ => None,
    };
    Ok(Answer { status, fields: Fields::Spans(headers), length, body, _guard: guard })
}

fn shake(
    caller: &Caller,
    call: &Call<'_>,
    protocols: &str,
    watch: &Watch,
) -> Result<(ReplyHead, Body), Cause> {
    if !call.provider.fence.lets_url(call.url) {
        return Err(Cause::Fenced);
    }
    let address = Address::of(call.url).ok_or(Cause::Malformed)?;
    let mut wire = connect(&address, call.provider.proxy.as_deref(), watch)?;
    watch.enter(Phase::Send);
    let mut random = [0; 16];
    fill(&mut random);
    let key = websocket::key(random);
    let request = request(&address, call, protocols, &key).ok_or(Cause::Malformed)?;
    wire.send(&request, watch)?;
    watch.request_written();
    let (head, rest) = wire.head(watch)?;
    watch.enter(Phase::Relay);
    if head.status != 101 {
        let mut bytes = Vec::new();
        let read = wire.body(head.framing, rest, &mut bytes, watch);
        let broken = read.err().map(|cause| watch.failure(cause));
        return Ok((head, Body::Held { bytes, is_read: false, broken }));
    }
    let is_switch = head.headers.get("upgrade").is_some_and(|to| header::is_named(to, "websocket"));
    let accepted = head.headers.get("sec-websocket-accept");
    let is_sound = is_switch
        && accepted == Some(websocket::accept_of(key.as_bytes()).as_bytes())
        && !head.headers.has("sec-websocket-extensions");
    if !is_sound {
        return Err(Cause::Malformed);
    }
    let downstream = caller.downstream.as_ref().ok_or(Cause::DownstreamGone)?;
    let both = Both::of(caller.worker, &[downstream, &wire.sock.shared()]);
    let both = both.map_err(|_| Cause::Unreachable)?;
    let pipe = Open { wire, rest, taken: 0, both, downstream: downstream.clone() };
    Ok((head, Body::Pipe(Box::new(pipe))))
}

fn connect(address: &Address<'_>, proxy: Option<&str>, watch: &Watch) -> Result<Wire, Cause> {
    let authority: Authority = address.authority.parse().map_err(|_| Cause::Malformed)?;
    let host = resolver::bare(authority.host());
    let port = authority.port_u16().unwrap_or(if address.secure { 443 } else { 80 });
    let mut sock = match proxy.map(|proxy| proxy.trim_start_matches("http://").parse()) {
        None => open(host, port, watch)?,
        Some(proxy) => {
            let proxy: Authority = proxy.map_err(|_| Cause::ProxyRefused)?;
            let mut sock =
                open(resolver::bare(proxy.host()), proxy.port_u16().unwrap_or(80), watch)?;
            let target = format!("{}:{port}", authority.host());
            tunnel(&mut sock, &target, watch)?;
            sock
        }
    };
    let mut tls = None;
    if address.secure {
        watch.enter(Phase::Tls);
        tls = Some(Sealed::open(host, &mut Patient::new(&mut sock, watch))?);
    }
    Ok(Wire { sock, tls })
}

fn open(host: &str, port: u16, watch: &Watch) -> Result<Sock, Cause> {
    watch.enter(Phase::Resolve);
    let addresses = resolver::look_up(host, watch)?;
    let addresses: Vec<_> =
        addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect();
    transport::open(&addresses, watch)
}

/// Asks a proxy to let us through.
fn tunnel(sock: &mut Sock, target: &str, watch: &Watch) -> Result<(), Cause> {
    let ask = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n");
    let mut patient = Patient::new(sock, watch);
    patient.write_all(ask.as_bytes()).map_err(|_| Cause::ProxyRefused)?;
    match read_head(&mut patient) {
        Ok((ReplyHead { status: 200..=299, .. }, rest)) if rest.is_empty() => Ok(()),
        _ => Err(Cause::ProxyRefused),
    }
}

fn request(address: &Address<'_>, call: &Call<'_>, protocols: &str, key: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(1_024);
    if !http::request_head(call, address, &mut out) {
        return None;
    }
    // Ours stand in front of the empty line.
    out.truncate(out.len() - 2);
    header::field("connection", b"Upgrade", &mut out);
    header::field("upgrade", b"websocket", &mut out);
    header::field("sec-websocket-version", b"13", &mut out);
    header::field("sec-websocket-key", key.as_bytes(), &mut out);
    if !protocols.is_empty() {
        header::field("sec-websocket-protocol", protocols.as_bytes(), &mut out);
    }
    out.extend_from_slice(b"\r\n");
    Some(out)
}

pub(super) fn fill(random: &mut [u8]) {
    let filled = ring::rand::SystemRandom::new().fill(random);
    filled.expect("the system gives random bytes, or TLS could not work either");
}

/// A connection, sealed or not.
struct Wire {
    sock: Sock,
    tls: Option<Box<Sealed>>,
}

impl Wire {
    fn send(&mut self, bytes: &[u8], watch: &Watch) -> Result<(), Cause> {
        let mut patient = Patient::new(&mut self.sock, watch);
        let sent = match &mut self.tls {
            None => patient.write_all(bytes),
            Some(tls) => tls.write(bytes, &mut patient).and_then(|count| match count {
                count if count == bytes.len() => Ok(()),
                // Unreachable but for a head that is longer than what TLS buffers.
                _ => Err(io::ErrorKind::WriteZero.into()),
            }),
        };
        sent.map_err(cause_of)
    }

    fn head(&mut self, watch: &Watch) -> Result<(ReplyHead, Vec<u8>), Cause> {
        let mut patient = Patient::new(&mut self.sock, watch);
        match &mut self.tls {
            None => read_head(&mut patient),
            Some(tls) => read_head(&mut tls.through(&mut patient)),
        }
        .map_err(cause_of)
    }

    /// The body of a refusal, within what a reply may be held and the time that it has.
    fn body(
        &mut self,
        framing: Framing,
        begun: Vec<u8>,
        body: &mut Vec<u8>,
        watch: &Watch,
    ) -> Result<(), Cause> {
        let until = Some(Instant::now() + Duration::from_millis(limits::REFUSAL_MS_MAX));
        let mut patient = Patient { until, ..Patient::new(&mut self.sock, watch) };
        match &mut self.tls {
            None => read_body(framing, begun, body, &mut patient),
            Some(tls) => read_body(framing, begun, body, &mut tls.through(&mut patient)),
        }
        .map_err(cause_of)
    }
}

/// The watch knows better, where it ended the wait.
fn cause_of(error: io::Error) -> Cause {
    match error.kind() {
        io::ErrorKind::InvalidData => Cause::Malformed,
        _ => Cause::Disconnected,
    }
}

fn malformed() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// The head of the answer, and what came behind it.
fn read_head(from: &mut dyn Read) -> io::Result<(ReplyHead, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut piece = [0; 1_024];
    loop {
        let (head, used) = reply::parse_switch(&bytes).map_err(|_| malformed())?;
        bytes.drain(..used);
        if let Some(head) = head {
            return Ok((head, bytes));
        }
        if bytes.len() > limits::UPSTREAM_HEAD_BYTES_MAX {
            return Err(malformed());
        }
        match from.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => bytes.extend_from_slice(&piece[..count]),
        }
    }
}

fn read_body(
    framing: Framing,
    begun: Vec<u8>,
    body: &mut Vec<u8>,
    from: &mut dyn Read,
) -> io::Result<()> {
    let framing = match framing {
        Framing::Length(length) => Some(head::Framing::Length(length)),
        Framing::Chunked => Some(head::Framing::Chunked),
        Framing::UntilClose => None,
    };
    let bytes_max = limits::REPLY_HELD_BYTES_MAX as u64;
    let decoder = framing.map(|framing| Decoder::new(framing, bytes_max));
    let mut decoder = decoder.transpose().map_err(|_| malformed())?;
    let mut piece = begun;
    loop {
        match &mut decoder {
            Some(decoder) => {
                decoder.feed(&piece, body).map_err(|_| malformed())?;
                if decoder.is_done() {
                    return Ok(());
                }
            }
            None => body.extend_from_slice(&piece),
        }
        if body.len() as u64 > bytes_max {
            return Err(malformed());
        }
        piece.resize(1_024, 0);
        match from.read(&mut piece)? {
            0 if decoder.is_none() => return Ok(()),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => piece.truncate(count),
        }
    }
}

/// Reads and writes that wait, within the limits of the watch.
struct Patient<'a> {
    sock: &'a mut Sock,
    watch: &'a Watch,
    // At the latest; `None`: as long as the watch allows.
    until: Option<Instant>,
}

impl<'a> Patient<'a> {
    fn new(sock: &'a mut Sock, watch: &'a Watch) -> Patient<'a> {
        Patient { sock, watch, until: None }
    }

    fn wait(&self) -> io::Result<Duration> {
        let wait = match self.until {
            None => self.watch.next_wait(),
            Some(until) => {
                let until = until.min(self.watch.deadline());
                self.watch.wait_until(until).inspect_err(|cause| self.watch.died(*cause))
            }
        };
        // Not `Interrupted`, which the standard library would try again.
        wait.map_err(|_| io::ErrorKind::ConnectionAborted.into())
    }
}

impl Read for Patient<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.sock.read(buf, self.wait()?) {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Ok(count) => {
                    self.watch.received(count);
                    return Ok(count);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.sock.write(bytes, self.wait()?) {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Ok(count) => {
                    self.watch.sent();
                    return Ok(count);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads and writes that never wait.
pub(in crate::io) struct Hasty<'a>(pub(in crate::io) &'a Sock);

impl Read for Hasty<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_now(buf)
    }
}

impl Write for Hasty<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_now(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An open WebSocket.
struct Open {
    wire: Wire,
    // Came behind the answer's head; so much of it was read.
    rest: Vec<u8>,
    taken: usize,
    both: Both,
    downstream: Arc<OwnedFd>,
}

impl Pipe for Open {
    fn read(&mut self, buf: &mut [u8]) -> Result<Option<usize>, Stop> {
        if self.taken < self.rest.len() {
            let count = buf.len().min(self.rest.len() - self.taken);
            buf[..count].copy_from_slice(&self.rest[self.taken..self.taken + count]);
            self.taken += count;
            return Ok(Some(count));
        }
        let mut hasty = Hasty(&self.wire.sock);
        now(match &mut self.wire.tls {
            None => hasty.read(buf),
            Some(tls) => tls.read(buf, &mut hasty),
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, Stop> {
        let mut hasty = Hasty(&self.wire.sock);
        let written = now(match &mut self.wire.tls {
            None => hasty.write(bytes),
            Some(tls) => tls.write(bytes, &mut hasty),
        });
        written.map(Option::unwrap_or_default)
    }

    fn wait(&mut self, until: Instant) {
        wait(&mut self.both, until);
    }

    fn has_left(&mut self) -> bool {
        worker::has_left(&self.downstream)
    }

    fn give_way(&mut self) {
        self.both.give_way();
    }

    fn mask(&mut self) -> [u8; 4] {
        let mut mask = [0; 4];
        fill(&mut mask);
        mask
    }
}

/// Waits until one of them has moved.
pub(super) fn wait(both: &mut Both, until: Instant) {
    while let Some(slice) = worker::slice_until(until, Instant::now()) {
        match both.wait(slice) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
            _ => return,
        }
    }
}

/// What can be had now. `Ok(None)`: nothing yet.
pub(in crate::io) fn now(result: io::Result<usize>) -> Result<Option<usize>, Stop> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(_) => Err(Stop::Gone),
    }
}
