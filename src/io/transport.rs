//! ureq over our own sockets: connector, transport and connection pool.
//!
//! The only user of `ureq::unversioned`, which may change in a minor release of ureq. ureq's own
//! pool is switched off (it walks all idle connections under one mutex at every call); a connection
//! that ureq gives back after a body was read to its end falls into ours, one per worker and proxy.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ureq::Error;
use ureq::http::uri::Scheme;

/// The part of ureq that may change in a minor release, named here and nowhere else.
pub use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
pub use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, Either, NextTimeout, Transport,
    TransportAdapter,
};

use crate::failure::{Cause, Phase};
use crate::io::tls::TlsConnector;
use crate::io::watch::Watch;
use crate::io::worker::Sock;
use crate::limits;

/// Room for request bytes before they are written: most requests fit and leave in one write.
const OUTPUT_BYTES: usize = 4 * 1024;
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
                return Some(Pooled::shared(idle.transport, self, secure, authority));
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

type Fresh = Box<dyn Connector<(), Out = Box<dyn Idler>>>;

/// The connector that an agent of ours uses: the pool first, then a new connection.
pub struct Pooling {
    pool: Arc<Pool>,
    fresh: Fresh,
    through_proxy: bool,
}

impl Pooling {
    /// A connector over `pool`. `through_proxy` says that the agent has a proxy set.
    pub fn new(pool: Arc<Pool>, through_proxy: bool) -> Pooling {
        let fresh = ().chain(ConnectProxyConnector::default()).chain(Tcp).chain(TlsConnector);
        Pooling { pool, fresh: Box::new(fresh.chain(Boxing)), through_proxy }
    }
}

impl Connector<()> for Pooling {
    type Out = Pooled;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<()>,
    ) -> Result<Option<Pooled>, Error> {
        // The connection to the proxy itself, beneath a tunnel, is never shared.
        let beneath_tunnel = self.through_proxy && details.config.proxy().is_none();
        let secure = details.uri.scheme() == Some(&Scheme::HTTPS);
        let authority = match details.uri.authority() {
            Some(authority) if !beneath_tunnel => authority,
            _ => {
                let transport = self.fresh.connect(details, chained)?;
                return Ok(transport.map(Pooled::unshared));
            }
        };
        let authority = authority.as_str();
        let watch = Watch::current();
        if let Some(pooled) = self.pool.take(secure, authority) {
            if let Some(watch) = watch {
                watch.reused();
                watch.enter(Phase::Send);
            }
            return Ok(Some(pooled));
        }
        let Some(transport) = self.fresh.connect(details, chained)? else { return Ok(None) };
        if let Some(watch) = watch {
            watch.enter(Phase::Send);
        }
        Ok(Some(Pooled::shared(transport, &self.pool, secure, authority.into())))
    }
}

impl fmt::Debug for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pooling")
    }
}

/// A connection that returns to the pool when whoever read a body to its end says so: ureq offers
/// it to its own (empty) pool and drops it, others call [`Pooled::give_back`].
pub struct Pooled {
    transport: Option<Box<dyn Idler>>,
    home: Weak<Pool>,
    secure: bool,
    authority: Option<Arc<str>>,
    // `Connection::reuse` of ureq asks `is_open` just before it offers the connection; any use
    // afterwards takes the mark back.
    offered: bool,
}

impl Pooled {
    fn unshared(transport: Box<dyn Idler>) -> Pooled {
        Pooled {
            transport: Some(transport),
            home: Weak::new(),
            secure: false,
            authority: None,
            offered: false,
        }
    }

    fn shared(
        transport: Box<dyn Idler>,
        pool: &Arc<Pool>,
        secure: bool,
        authority: Arc<str>,
    ) -> Pooled {
        Pooled {
            transport: Some(transport),
            home: Arc::downgrade(pool),
            secure,
            authority: Some(authority),
            offered: false,
        }
    }

    /// Back to the pool: the last body was read to its end, and nothing came behind it.
    pub fn give_back(mut self) {
        self.offered = true;
    }

    fn transport(&mut self) -> &mut Box<dyn Idler> {
        self.transport.as_mut().expect("taken only by drop")
    }
}

impl Transport for Pooled {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.transport().buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.offered = false;
        self.transport().transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.offered = false;
        self.transport().await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.offered = true;
        true
    }

    fn is_tls(&self) -> bool {
        self.transport.as_ref().is_some_and(|transport| transport.is_tls())
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let (Some(transport), Some(authority)) = (self.transport.take(), self.authority.take())
        else {
            return;
        };
        if let Some(pool) = self.home.upgrade().filter(|_| self.offered) {
            pool.put(self.secure, authority, transport);
        }
    }
}

impl fmt::Debug for Pooled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pooled")
    }
}

/// No limit: the watch has them all.
const UNLIMITED: NextTimeout = NextTimeout {
    after: ureq::unversioned::transport::time::Duration::NotHappening,
    reason: ureq::Timeout::Global,
    per_read: None,
    per_write: None,
};

/// Queues bytes of a request; they leave at the latest when an answer is awaited.
pub fn send(connection: &mut Pooled, mut bytes: &[u8]) -> Result<(), Error> {
    let transport = connection.transport();
    while !bytes.is_empty() {
        let room = transport.buffers().output();
        let count = room.len().min(bytes.len());
        room[..count].copy_from_slice(&bytes[..count]);
        bytes = &bytes[count..];
        transport.transmit_output(count, UNLIMITED)?;
    }
    Ok(())
}

/// Bytes that were received and not yet taken.
pub fn unread(connection: &mut Pooled) -> &[u8] {
    connection.transport().buffers().input()
}

/// Takes the first of the unread bytes away.
pub fn take(connection: &mut Pooled, count: usize) {
    connection.transport().buffers().input_consume(count);
}

/// Waits for bytes. `Ok(false)`: the upstream ended the connection.
pub fn receive(connection: &mut Pooled) -> Result<bool, Error> {
    connection.transport().await_input(UNLIMITED)
}

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

/// Connects to the first address that answers.
pub fn open(addresses: &[SocketAddr], watch: &Watch) -> Result<Sock, Cause> {
    watch.enter(Phase::Connect);
    let deadline = watch.deadline();
    let begun = Instant::now();
    // Each address gets its share of the limit, so that a dead first one is not the end.
    let share = deadline.saturating_duration_since(begun) / addresses.len().max(1) as u32;
    let mut until = begun;
    for address in addresses {
        until += share;
        match connect_one(*address, watch, until) {
            Ok(sock) => return Ok(sock),
            Err(Cause::DownstreamGone) => break,
            Err(_) => {}
        }
    }
    let cause = if Instant::now() >= deadline { Cause::TimedOut } else { Cause::Unreachable };
    watch.died(cause);
    Err(cause)
}

fn connect_one(address: SocketAddr, watch: &Watch, until: Instant) -> Result<Sock, Cause> {
    let mut sock = Sock::connect(address, watch.worker).map_err(|_| Cause::Unreachable)?;
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
    fn new(sock: Sock, reports: bool) -> Plain {
        Plain { sock, buffers: Room::new(reports), broken: false }
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
        if self.buffers.queued > 0 {
            self.flush(&watch)?;
            self.buffers.release_output();
            watch.request_written();
        }
        self.buffers.report_to(&watch);
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

/// What ureq sees when the watch ends a wait; the cause stands in the watch.
pub fn stopped(_: Cause) -> Error {
    Error::Io(io::ErrorKind::Interrupted.into())
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
    reports: bool,
    watch: Option<Weak<Watch>>,
}

impl Room {
    /// Empty. `reports`: these are the bytes that ureq parses, not the ciphertext beneath them.
    pub fn new(reports: bool) -> Room {
        Room { reports, ..Room::default() }
    }

    /// Gives back room that the next request may not need.
    pub fn release_output(&mut self) {
        if self.queued == 0 && (self.output.len() > OUTPUT_BYTES || !self.reports) {
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

    /// Tells `watch`, from now on, how many bytes wait unread.
    pub fn report_to(&mut self, watch: &Arc<Watch>) {
        if self.reports {
            self.watch = Some(Arc::downgrade(watch));
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
        debug_assert!(self.end <= self.input.len());
    }

    fn input_consume(&mut self, amount: usize) {
        self.progress = amount > 0;
        self.start += amount;
        debug_assert!(self.start <= self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            if !self.reports {
                self.input = Vec::new();
            }
        }
        if let Some(watch) = self.watch.as_ref().and_then(Weak::upgrade) {
            watch.buffered(self.end - self.start);
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
