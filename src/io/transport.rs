//! Connections to upstreams: opened by ureq's chain of connectors over our own sockets, and kept.
//!
//! The only user of `ureq::unversioned`, which may change in a minor release of ureq. The chain
//! goes through a proxy where one is set, then through TLS. What is spoken on a connection is
//! `http`'s business; whoever has read a body to its end gives the connection back to the pool, one
//! per worker and proxy.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ureq::Agent;
use ureq::config::Config;
use ureq::http::Uri;

/// Why a transport failed.
pub use ureq::Error;

/// The part of ureq that may change in a minor release, named here and nowhere else.
pub use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
pub use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, Either, NextTimeout, Transport,
    TransportAdapter, time,
};

use crate::failure::{Cause, Phase};
use crate::io::resolver::Stub;
use crate::io::tls::TlsConnector;
use crate::io::watch::Watch;
use crate::io::worker::Sock;
use crate::limits;

/// Room for request bytes before they are written: most requests fit and leave in one write.
const OUTPUT_BYTES: usize = 4 * 1024;
/// Room for received bytes, until a read fills it; then as much as a head may take.
const INPUT_BYTES: usize = 4 * 1024;
/// Room for the rest of a request that did not.
const OUTPUT_BYTES_MORE: usize = 64 * 1024;
/// A pooled connection keeps its buffers for so long: a busy one is spared two allocations.
const SHED_AFTER: Duration = Duration::from_secs(1);
/// A write happens when less than this is left.
const OUTPUT_LOW: usize = 1024;

/// Idle connections of one worker through one proxy (or none).
#[derive(Default)]
pub struct Pool {
    origins: Mutex<Vec<Origin>>,
}

struct Origin {
    secure: bool,
    authority: Arc<str>,
    // Oldest first; connections are taken from the back.
    idle: Vec<Idle>,
}

struct Idle {
    since: Instant,
    // Its buffers were given back.
    is_bare: bool,
    transport: Box<dyn Idler>,
}

/// A connection that can wait in the pool.
pub trait Idler: Transport {
    /// Gives back the buffers, which come again when they are needed. Nothing may be in them.
    fn shed(&mut self);
}

/// A tunnel through a proxy: what is inside ureq stays there.
impl Idler for Box<dyn Transport> {
    fn shed(&mut self) {}
}

/// The beginning of a chain of connectors.
impl Idler for () {
    fn shed(&mut self) {}
}

impl<A: Idler, B: Idler> Idler for Either<A, B> {
    fn shed(&mut self) {
        match self {
            Either::A(transport) => transport.shed(),
            Either::B(transport) => transport.shed(),
        }
    }
}

impl Pool {
    /// Takes the most recently used connection that is still open and silent.
    pub fn take(self: &Arc<Self>, secure: bool, authority: &str) -> Option<Pooled> {
        loop {
            let (mut idle, authority) = {
                let mut origins = self.origins.lock();
                let origin = origins
                    .iter_mut()
                    .find(|origin| origin.secure == secure && *origin.authority == *authority)?;
                (origin.idle.pop()?, origin.authority.clone())
            };
            let age = idle.since.elapsed();
            if age < Duration::from_millis(limits::POOL_IDLE_MS_MAX) && idle.transport.is_open() {
                return Some(Pooled::new(idle.transport, self, secure, authority));
            }
        }
    }

    fn put(&self, secure: bool, authority: Arc<str>, transport: Box<dyn Idler>) {
        let idle = Idle { since: Instant::now(), is_bare: false, transport };
        let mut origins = self.origins.lock();
        let at = origins
            .iter()
            .position(|origin| origin.secure == secure && origin.authority == authority);
        let origin = match at {
            Some(at) => &mut origins[at],
            None => {
                origins.push(Origin { secure, authority, idle: Vec::new() });
                let last = origins.len() - 1;
                &mut origins[last]
            }
        };
        let oldest =
            (origin.idle.len() >= limits::POOL_PER_ORIGIN_MAX).then(|| origin.idle.remove(0));
        origin.idle.push(idle);
        drop(origins);
        drop(oldest);
    }

    /// Closes what has been idle for too long, and takes the buffers of what has been idle for a
    /// while. Called now and then from the listener's thread.
    pub fn sweep(&self) {
        let max = Duration::from_millis(limits::POOL_IDLE_MS_MAX);
        let mut old = Vec::new();
        let mut origins = self.origins.lock();
        for origin in origins.iter_mut() {
            let keep = origin.idle.partition_point(|idle| idle.since.elapsed() >= max);
            old.extend(origin.idle.drain(..keep));
            let is_ripe = |idle: &&mut Idle| idle.since.elapsed() >= SHED_AFTER && !idle.is_bare;
            for idle in origin.idle.iter_mut().filter(is_ripe) {
                idle.transport.shed();
                idle.is_bare = true;
            }
        }
        origins.retain(|origin| !origin.idle.is_empty());
        drop(origins);
        drop(old);
    }

    /// Number of idle connections.
    pub fn len(&self) -> usize {
        self.origins.lock().iter().map(|origin| origin.idle.len()).sum()
    }

    /// Whether nothing is idle.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

type Chain = Arc<dyn Connector<(), Out = Box<dyn Idler>>>;

/// Opens connections, through one proxy or none.
pub struct Opener {
    config: Config,
    chain: Chain,
}

impl Opener {
    /// `proxy` is an URL; those of the environment are ignored.
    pub fn new(proxy: Option<&str>) -> Result<Opener, Error> {
        let proxy = proxy.map(ureq::Proxy::new).transpose()?;
        let config = Agent::config_builder().proxy(proxy).build();
        let chain = ().chain(ConnectProxyConnector::default()).chain(Tcp).chain(TlsConnector);
        Ok(Opener { config, chain: Arc::new(chain.chain(Boxing)) })
    }

    /// Resolves, connects, and shakes hands; the watch has the limits.
    pub fn open(&self, url: &str) -> Result<Box<dyn Idler>, Error> {
        let uri = Uri::try_from(origin(url)).map_err(|_| Error::HostNotFound)?;
        let resolver = Stub;
        // A proxy resolves the name itself.
        let addrs = match self.config.proxy() {
            Some(_) => resolver.empty(),
            None => resolver.resolve(&uri, &self.config, UNLIMITED)?,
        };
        let chain = self.chain.clone();
        let details = ConnectionDetails {
            uri: &uri,
            addrs,
            config: &self.config,
            request_level: false,
            resolver: &resolver,
            now: time::Instant::now(),
            timeout: UNLIMITED,
            current_time: Arc::new(time::Instant::now),
            // How the chain reaches the proxy itself.
            run_connector: Arc::new(move |details: &ConnectionDetails<'_>| {
                let transport = chain.connect(details, None)?.ok_or(Error::ConnectionFailed)?;
                Ok(Box::new(transport) as Box<dyn Transport>)
            }),
            register_shutdown: Arc::new(|_| Ok(())),
        };
        let transport = self.chain.connect(&details, None)?.ok_or(Error::ConnectionFailed)?;
        match details.needs_tls() && !transport.is_tls() {
            true => Err(Error::TlsRequired),
            false => Ok(transport),
        }
    }
}

/// Scheme and authority of an URL. What follows is nothing that a connection is opened by, and may
/// hold what only an upstream understands.
fn origin(url: &str) -> &str {
    let authority = url.find("://").map_or(0, |at| at + "://".len());
    let end = url[authority..].find(['/', '?', '#']).map_or(url.len(), |at| authority + at);
    &url[..end]
}

/// A connection in use, and where it goes afterwards.
pub struct Pooled {
    transport: Box<dyn Idler>,
    pool: Arc<Pool>,
    secure: bool,
    authority: Arc<str>,
}

impl Pooled {
    /// A new connection.
    pub fn new(
        transport: Box<dyn Idler>,
        pool: &Arc<Pool>,
        secure: bool,
        authority: Arc<str>,
    ) -> Pooled {
        Pooled { transport, pool: pool.clone(), secure, authority }
    }

    /// Back to the pool: the last body was read to its end, and nothing came behind it.
    pub fn give_back(self) {
        self.pool.put(self.secure, self.authority, self.transport);
    }

    /// Queues bytes of a request; they leave at the latest when an answer is awaited.
    pub fn send(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let room = self.transport.buffers().output();
            let count = room.len().min(bytes.len());
            room[..count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            self.transport.transmit_output(count, UNLIMITED)?;
        }
        Ok(())
    }

    /// Bytes that were received and not yet taken.
    pub fn unread(&mut self) -> &[u8] {
        self.transport.buffers().input()
    }

    /// Takes the first of the unread bytes away.
    pub fn take(&mut self, count: usize) {
        self.transport.buffers().input_consume(count);
    }

    /// Waits for bytes. `Ok(false)`: the upstream ended the connection.
    pub fn receive(&mut self) -> Result<bool, Error> {
        self.transport.await_input(UNLIMITED)
    }
}

/// No limit: the watch has them all.
const UNLIMITED: NextTimeout = NextTimeout {
    after: time::Duration::NotHappening,
    reason: ureq::Timeout::Global,
    per_read: None,
    per_write: None,
};

#[derive(Debug)]
struct Boxing;

impl<In: Idler> Connector<In> for Boxing {
    type Out = Box<dyn Idler>;

    fn connect(
        &self,
        _: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Box<dyn Idler>>, Error> {
        Ok(chained.map(|transport| Box::new(transport) as Box<dyn Idler>))
    }
}

/// Opens TCP connections on worker sockets.
#[derive(Debug)]
struct Tcp;

impl<In: Transport> Connector<In> for Tcp {
    type Out = Either<In, Plain>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        if let Some(transport) = chained {
            return Ok(Some(Either::A(transport)));
        }
        let watch = Watch::current().ok_or(Error::ConnectionFailed)?;
        let sock = open(&details.addrs, &watch).map_err(|_| Error::ConnectionFailed)?;
        Ok(Some(Either::B(Plain::new(sock, !details.needs_tls()))))
    }
}

/// Connects to the first address that answers, of those that the fence lets through.
pub fn open(addresses: &[SocketAddr], watch: &Watch) -> Result<Sock, Cause> {
    watch.enter(Phase::Connect);
    let deadline = watch.deadline();
    let begun = Instant::now();
    let addresses: Vec<SocketAddr> =
        addresses.iter().copied().filter(|at| watch.fence.lets_address(at.ip())).collect();
    if addresses.is_empty() {
        watch.died(Cause::Fenced);
        return Err(Cause::Fenced);
    }
    // Each address gets its share of the limit, so that a dead first one is not the end.
    let share = deadline.saturating_duration_since(begun) / addresses.len().max(1) as u32;
    let mut until = begun;
    let mut cause = Cause::Unreachable;
    for address in addresses {
        until += share;
        match connect_one(address, watch, until) {
            Ok(sock) => return Ok(sock),
            Err(Cause::DownstreamGone) => break,
            Err(Cause::Exhausted) => cause = Cause::Exhausted,
            Err(_) => {}
        }
    }
    if Instant::now() >= deadline {
        cause = Cause::TimedOut;
    }
    watch.died(cause);
    Err(cause)
}

/// Why a socket cannot be opened: it may be ourselves who have none left.
pub fn cause_of(error: &io::Error) -> Cause {
    use rustix::io::Errno;
    const OURS: [Errno; 4] = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    match Errno::from_io_error(error) {
        Some(errno) if OURS.contains(&errno) => Cause::Exhausted,
        _ => Cause::Unreachable,
    }
}

/// No local port is left towards it. Of version 6 the same error says that there is none here.
fn is_out_of_ports(error: &io::Error, address: SocketAddr) -> bool {
    use rustix::io::Errno;
    address.is_ipv4() && Errno::from_io_error(error) == Some(Errno::ADDRNOTAVAIL)
}

fn connect_one(address: SocketAddr, watch: &Watch, until: Instant) -> Result<Sock, Cause> {
    let connected = Sock::connect(address, watch.worker);
    let mut sock = connected.map_err(|error| match is_out_of_ports(&error, address) {
        true => Cause::Exhausted,
        false => cause_of(&error),
    })?;
    loop {
        let wait = watch.wait_until(until)?;
        if sock.is_connected(wait).map_err(|_| Cause::Unreachable)? {
            return Ok(sock);
        }
    }
}

/// HTTP over a plain socket. Head and body leave in one write when they fit.
pub struct Plain {
    sock: Sock,
    buffers: Room,
    broken: bool,
}

impl Plain {
    fn new(sock: Sock, is_clear: bool) -> Plain {
        Plain { sock, buffers: Room::new(is_clear), broken: false }
    }

    fn flush(&mut self, watch: &Watch) -> Result<(), Error> {
        let mut done = 0;
        while done < self.buffers.queued {
            let wait = watch.next_wait().map_err(stopped)?;
            match self.sock.write(&self.buffers.output[done..self.buffers.queued], wait) {
                Ok(count) => {
                    done += count;
                    watch.sent();
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(error) => {
                    self.broken = true;
                    // What cannot leave must not keep anybody from reading what came before.
                    self.buffers.queued = 0;
                    watch.died(Cause::Disconnected);
                    return Err(Error::Io(error));
                }
            }
        }
        self.buffers.queued = 0;
        Ok(())
    }
}

impl Transport for Plain {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), Error> {
        // That it takes no more was told; what TLS still has to write goes nowhere.
        if self.broken {
            return Ok(());
        }
        self.buffers.queued += amount;
        if self.buffers.output.len() - self.buffers.queued < OUTPUT_LOW {
            let watch = Watch::current().ok_or(Error::ConnectionFailed)?;
            self.flush(&watch)?;
            self.buffers.output.resize(OUTPUT_BYTES_MORE, 0);
        }
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, Error> {
        let watch = Watch::current().ok_or(Error::ConnectionFailed)?;
        if self.buffers.queued > 0
            && let Err(error) = self.flush(&watch)
            && !self.broken
        {
            return Err(error);
        }
        // All of it has left: just now, or before, when that filled the buffer.
        if !self.broken {
            self.buffers.release_output();
            watch.request_written();
        }
        // It may have answered before it took all of the request, but not before it took any.
        if self.broken && !watch.has_sent() {
            return Err(Error::Io(io::ErrorKind::BrokenPipe.into()));
        }
        loop {
            let wait = watch.next_wait().map_err(stopped)?;
            let room = self.buffers.input_append_buf();
            match self.sock.read(room, wait) {
                Ok(count) => {
                    self.buffers.input_appended(count);
                    match count {
                        0 => watch.ended(false),
                        count => watch.received(count),
                    }
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(error) => {
                    self.broken = true;
                    watch.ended(true);
                    watch.died(Cause::Disconnected);
                    return Err(Error::Io(error));
                }
            }
        }
    }

    fn is_open(&mut self) -> bool {
        !self.broken && self.buffers.input().is_empty() && self.sock.is_quiet()
    }
}

impl Idler for Plain {
    fn shed(&mut self) {
        self.buffers.shed();
    }
}

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plain")
    }
}

/// What a chain of connectors sees when the watch ends a wait; the cause stands in the watch.
pub fn stopped(_: Cause) -> Error {
    // An interrupted read is one that TLS repeats by itself, for ever.
    Error::Io(io::ErrorKind::TimedOut.into())
}

/// Buffers that come when they are needed, and go when a connection has been idle for a while;
/// those beneath TLS go as soon as they are empty, since TLS has its own.
#[derive(Default)]
pub struct Room {
    input: Vec<u8>,
    start: usize,
    end: usize,
    output: Vec<u8>,
    queued: usize,
    progress: bool,
    is_clear: bool,
    // The last read filled all the room there was.
    was_full: bool,
}

impl Room {
    /// Empty. `is_clear`: these bytes are HTTP, not the ciphertext beneath it.
    pub fn new(is_clear: bool) -> Room {
        Room { is_clear, ..Room::default() }
    }

    /// Gives back room that the next request may not need.
    pub fn release_output(&mut self) {
        if self.queued == 0 && (self.output.len() > OUTPUT_BYTES || !self.is_clear) {
            self.output = Vec::new();
        }
    }

    /// Gives back all room while nothing is in it.
    pub fn shed(&mut self) {
        if self.start == self.end && self.queued == 0 {
            self.input = Vec::new();
            self.output = Vec::new();
        }
    }
}

impl Buffers for Room {
    fn output(&mut self) -> &mut [u8] {
        if self.output.is_empty() {
            self.output.resize(OUTPUT_BYTES, 0);
        }
        &mut self.output[self.queued..]
    }

    fn input(&self) -> &[u8] {
        &self.input[self.start..self.end]
    }

    fn input_append_buf(&mut self) -> &mut [u8] {
        if self.input.is_empty() {
            self.input.resize(INPUT_BYTES, 0);
        } else if std::mem::take(&mut self.was_full) {
            self.input.resize(limits::UPSTREAM_HEAD_BYTES_MAX, 0);
        }
        if self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.input[self.end..]
    }

    fn input_appended(&mut self, amount: usize) {
        self.end += amount;
        self.was_full = self.end == self.input.len();
        debug_assert!(self.end <= self.input.len());
    }

    fn input_consume(&mut self, amount: usize) {
        self.progress = amount > 0;
        self.start += amount;
        debug_assert!(self.start <= self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            if !self.is_clear {
                self.input = Vec::new();
            }
        }
    }

    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        self.input_append_buf();
        self.output();
        (&mut self.input[self.end..], &mut self.output[self.queued..])
    }

    fn can_use_input(&self) -> bool {
        self.start < self.end && self.progress
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_are_used_up_are_no_fault_of_the_upstream() {
        use rustix::io::Errno;
        let error = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        let [four, six] = ["192.0.2.1:443", "[2001:db8::1]:443"].map(|text| text.parse().unwrap());
        assert!(is_out_of_ports(&error(Errno::ADDRNOTAVAIL), four));
        assert!(!is_out_of_ports(&error(Errno::ADDRNOTAVAIL), six));
        assert!(!is_out_of_ports(&error(Errno::CONNREFUSED), four));
    }

    #[test]
    fn a_connection_is_opened_by_scheme_and_authority_alone() {
        for rest in ["", "/", "/v1/<`id`>", "?a=<b>", "/a?b=//c"] {
            for authority in ["https://host", "http://[::1]:8080", "http://127.0.0.1:1"] {
                let url = format!("{authority}{rest}");
                assert_eq!(origin(&url), authority);
                assert!(Uri::try_from(origin(&url)).is_ok(), "{url}");
            }
        }
    }
}
