//! Accepting, parking and waking downstream connections, on one OS thread.
//!
//! A connection that is silent costs a descriptor in this thread's epoll and nothing else. Its next
//! bytes start a coroutine on the least busy worker; when it has been silent for a while between
//! two requests, the coroutine ends and the descriptor comes back here.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::exchange::{self, Awaited, Core, Errand, Next, Session};
use crate::io::downstream::{self, Client};
use crate::io::office::Office;
use crate::io::resolver;
use crate::io::tls::{Sealed, callers};
use crate::io::upstream::{Caller, Ways};
use crate::io::worker::{self, Peek, Sock};
use crate::limits;
use crate::metrics::{Count, Gauge, Held};

const BACKLOG: i32 = 4_096;
const EVENTS_MAX: usize = 256;
/// Connections accepted in one go before parked ones are looked at.
const ACCEPTS_MAX: usize = 64;
/// Pause after running out of descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(75);
/// How often silence and pools are swept.
const TICK: Duration = Duration::from_secs(1);
/// The system's name files are read again every so many ticks.
const FILES_TICKS: u64 = 5;
/// A worker keeps the connections whose descriptor is of its class while it is at most this much
/// busier than the least busy one: a move costs a system call.
const CLASS_SLACK: usize = 2;
/// After work, memory is given back once a second brings no more requests than this, but at most
/// every so many ticks.
const QUIET_REQUESTS_MAX: u64 = 100;
const RELEASE_TICKS: u64 = 5;
const LISTENER: u64 = u64::MAX;

/// The listening socket and everything that hangs on it.
pub struct Listener {
    core: Arc<Core>,
    socket: Mutex<Option<OwnedFd>>,
    epoll: OwnedFd,
    parked: Mutex<HashMap<i32, Connection>>,
    loads: Vec<AtomicUsize>,
    ways: Vec<Arc<Ways>>,
    office: Arc<Office>,
    stopping: AtomicBool,
    closed: AtomicBool,
    // A connection was refused since the last sweep: there are too many.
    pressed: AtomicBool,
    room: usize,
    address: SocketAddr,
}

/// A downstream connection without a coroutine.
struct Connection {
    fd: OwnedFd,
    line: Line,
    since: Instant,
    // Invariant: there until a request has come, and while bytes are that may begin one.
    awaited: Option<Awaited>,
    has_asked: bool,
    _open: Held,
    parked: Option<Held>,
}

/// What a connection speaks beneath HTTP.
enum Line {
    Plain,
    /// TLS, of which nothing was said yet.
    Fresh(callers::Terms),
    Sealed(Box<Sealed>),
}

/// Binds and listens. `::` serves IPv4 too.
pub fn bind(host: IpAddr, port: u16) -> io::Result<OwnedFd> {
    let address = SocketAddr::new(host, port);
    let family = if host.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if host.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, !host.is_unspecified())?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Takes over a socket that somebody else made.
pub fn adopt(socket: OwnedFd) -> io::Result<OwnedFd> {
    if !sockopt::socket_acceptconn(&socket)? {
        return Err(io::Error::other("the socket that was passed does not listen"));
    }
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

/// Where a socket listens.
pub fn address_of(socket: &OwnedFd) -> io::Result<SocketAddr> {
    let address = rustix::net::getsockname(socket)?.try_into();
    address.map_err(|_| io::Error::other("the socket has no internet address"))
}

impl Listener {
    /// Serves on a socket that listens.
    pub fn on(core: Arc<Core>, socket: OwnedFd, workers: usize) -> io::Result<Listener> {
        let bound = address_of(&socket)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &socket, EventData::new_u64(LISTENER), EventFlags::IN)?;
        Ok(Listener {
            core,
            socket: Mutex::new(Some(socket)),
            epoll,
            parked: Mutex::new(HashMap::new()),
            loads: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
            office: Arc::new(Office::open()?),
            ways: (0..workers).map(|_| Arc::new(Ways::default())).collect(),
            stopping: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            pressed: AtomicBool::new(false),
            room: room_for_connections(),
            address: bound,
        })
    }

    /// The socket, for the next process; `None`: it is closed.
    pub fn share(&self) -> io::Result<Option<OwnedFd>> {
        self.socket.lock().as_ref().map(OwnedFd::try_clone).transpose()
    }

    /// Connections of callers that the system has room for.
    pub fn room(&self) -> usize {
        self.room
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts what waits: with the socket it would be closed.
    pub fn accept_rest(self: &Arc<Self>) {
        for _ in 0..BACKLOG as usize / ACCEPTS_MAX {
            if !matches!(self.accept_some(), Ok(true)) {
                return;
            }
        }
    }

    /// Stops accepting and closes what is parked between two requests. Open exchanges go on, and
    /// who has asked nothing yet may do so until [`Listener::close`].
    pub fn stop(self: &Arc<Self>) {
        self.stopping.store(true, Ordering::SeqCst);
        if let Some(socket) = self.socket.lock().take() {
            // Another process may have it too, so it would go on telling of connections.
            let _ = epoll::delete(&self.epoll, socket);
        }
        let between: Vec<Connection> = {
            let mut parked = self.parked.lock();
            parked.extract_if(|_, connection| connection.has_asked).map(|(_, it)| it).collect()
        };
        for mut connection in between {
            // Who has just begun to speak gets an answer yet.
            let begun = worker::peek(&connection.fd) == Peek::Bytes;
            if begun && epoll::delete(&self.epoll, &connection.fd).is_ok() {
                connection.parked = None;
                connection.awaited = Some(self.core.await_one());
                self.start(connection);
            }
        }
    }

    /// Closes all that is parked.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        drop(std::mem::take(&mut *self.parked.lock()));
    }

    /// The loop of the listener's thread; returns after [`Listener::close`].
    pub fn run(self: &Arc<Self>) {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let mut tick_at = Instant::now() + TICK;
        let mut ticks = 0_u64;
        let mut idleness = Idleness::default();
        let mut resume_at: Option<Instant> = None;
        while !self.closed.load(Ordering::SeqCst) {
            let wake_at = resume_at.map_or(tick_at, |at| at.min(tick_at));
            self.wait(&mut events, wake_at);
            for event in events.drain(..) {
                match event.data.u64() {
                    LISTENER if resume_at.is_none() => {
                        if self.accept_some().is_err() {
                            self.watch_socket(false);
                            resume_at = Some(Instant::now() + EXHAUSTED_PAUSE);
                        }
                    }
                    LISTENER => {}
                    fd => self.wake(fd as i32),
                }
            }
            let now = Instant::now();
            if resume_at.is_some_and(|at| at <= now) {
                self.watch_socket(true);
                resume_at = None;
            }
            if tick_at <= now {
                tick_at = now + TICK;
                ticks += 1;
                self.sweep(now);
                if idleness.tick(self.core.metrics.counted(Count::Requests), ticks) {
                    self.release_memory();
                }
                self.core.errands().into_iter().for_each(|errand| self.send(errand, ticks));
                if ticks.is_multiple_of(FILES_TICKS) {
                    resolver::load();
                    renew_certificate();
                }
            }
        }
    }

    fn wait(&self, events: &mut Vec<epoll::Event>, until: Instant) {
        let wait = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        let wait = rustix::time::Timespec {
            tv_sec: wait.as_secs() as i64,
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        events.clear();
        let room = rustix::buffer::spare_capacity(events);
        match epoll::wait(&self.epoll, room, Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => log::error!(target: "gproxy::listener", "epoll: {error}"),
        }
    }

    /// Turns accepting on or off.
    fn watch_socket(&self, on: bool) {
        if let Some(socket) = &*self.socket.lock() {
            let flags = if on { EventFlags::IN } else { EventFlags::empty() };
            if let Err(error) =
                epoll::modify(&self.epoll, socket, EventData::new_u64(LISTENER), flags)
            {
                log::error!(target: "gproxy::listener", "epoll: {error}");
            }
        }
    }

    /// Accepts some of what waits: whether there may be more. An error says that descriptors or
    /// memory have run out.
    fn accept_some(self: &Arc<Self>) -> Result<bool, ()> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        for _ in 0..ACCEPTS_MAX {
            let accepted = match &*self.socket.lock() {
                // It is counted before anybody can find the socket closed.
                Some(socket) => {
                    rustix::net::accept_with(socket, flags).map(|fd| (fd, self.core.await_one()))
                }
                None => return Ok(false),
            };
            match accepted {
                Ok((fd, awaited)) => self.admit(fd, awaited),
                Err(rustix::io::Errno::AGAIN) => return Ok(false),
                Err(
                    error @ (rustix::io::Errno::MFILE
                    | rustix::io::Errno::NFILE
                    | rustix::io::Errno::NOMEM
                    | rustix::io::Errno::NOBUFS),
                ) => {
                    self.core.metrics.count(Count::AcceptingPaused);
                    log::warn!(target: "gproxy::listener", "cannot accept: {error}; pausing");
                    return Err(());
                }
                // The connection died before it was accepted; the next one may be well.
                Err(_) => {}
            }
        }
        Ok(true)
    }

    fn admit(self: &Arc<Self>, fd: OwnedFd, awaited: Awaited) {
        let core = &self.core;
        core.metrics.count(Count::Accepted);
        let open = core.metrics.level(Gauge::Connections);
        if open >= core.snapshot().limits.connections_max.min(self.room) as i64 {
            core.metrics.count(Count::ConnectionsRefused);
            self.pressed.store(true, Ordering::Relaxed);
            if callers::terms().is_some() {
                return;
            }
            // Best effort: the socket's buffer is empty, so it fits or the peer has gone.
            let answer = exchange::turned_away(core);
            let _ = rustix::net::send(&fd, &answer, rustix::net::SendFlags::NOSIGNAL);
            return;
        }
        // Answers leave as they are written.
        let _ = sockopt::set_tcp_nodelay(&fd, true);
        let held = core.metrics.clone().hold(Gauge::Connections, 1);
        let has_bytes = worker::peek(&fd) == Peek::Bytes;
        let line = callers::terms().map_or(Line::Plain, Line::Fresh);
        let connection = Connection {
            fd,
            line,
            since: Instant::now(),
            awaited: Some(awaited),
            has_asked: false,
            _open: held,
            parked: None,
        };
        if has_bytes {
            self.start(connection);
        } else {
            self.park(connection);
        }
    }

    /// Keeps a silent connection until it speaks, ends, or has been silent for too long.
    fn park(&self, mut connection: Connection) {
        let mut table = self.parked.lock();
        let (stopping, closed) = (&self.stopping, &self.closed);
        if closed.load(Ordering::SeqCst) || connection.has_asked && stopping.load(Ordering::SeqCst)
        {
            return;
        }
        if connection.has_asked {
            connection.awaited = None;
        }
        let number = connection.fd.as_raw_fd();
        let flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ONESHOT;
        let data = EventData::new_u64(number as u64);
        if let Err(error) = epoll::add(&self.epoll, &connection.fd, data, flags) {
            log::error!(target: "gproxy::listener", "epoll: {error}");
            return;
        }
        connection.since = Instant::now();
        connection.parked = Some(self.core.metrics.clone().hold(Gauge::Parked, 1));
        table.insert(number, connection);
    }

    fn wake(self: &Arc<Self>, number: i32) {
        let connection = {
            let mut parked = self.parked.lock();
            parked.remove(&number).map(|mut connection| {
                connection.awaited.get_or_insert_with(|| self.core.await_one());
                connection
            })
        };
        let Some(mut connection) = connection else { return };
        if let Err(error) = epoll::delete(&self.epoll, &connection.fd) {
            log::error!(target: "gproxy::listener", "epoll: {error}");
            return;
        }
        if worker::peek(&connection.fd) == Peek::Gone {
            return;
        }
        connection.parked = None;
        self.start(connection);
    }

    fn sweep(&self, now: Instant) {
        let max = match self.pressed.swap(false, Ordering::Relaxed) {
            true => limits::KEEP_ALIVE_PRESSED_MS_MAX,
            false => limits::KEEP_ALIVE_MS_MAX,
        };
        let max = Duration::from_millis(max);
        self.parked.lock().retain(|_, connection| {
            let stays = now - connection.since < max;
            if !stays {
                self.core.metrics.count(Count::SilentClosed);
            }
            stays
        });
        self.ways.iter().for_each(|ways| ways.sweep());
        let idle: usize = self.ways.iter().map(|ways| ways.idle()).sum();
        self.core.metrics.measure(Gauge::PoolIdle, idle as i64);
        self.core.metrics.measure(Gauge::ResidentBytes, resident_bytes());
        self.core.measure();
    }

    /// Starts a coroutine for a call of our own.
    fn send(&self, errand: Errand, turn: u64) {
        let worker = (turn % self.loads.len() as u64) as usize;
        let core = self.core.clone();
        let mut up = Caller {
            worker,
            ways: self.ways[worker].clone(),
            downstream: None,
            metrics: core.metrics.clone(),
            office: self.office.clone(),
        };
        let spawned = worker::spawn_on(worker, move || {
            let run = catch_unwind(AssertUnwindSafe(|| errand.run(&core, &mut up)));
            if run.is_err() {
                core.metrics.count(Count::Panics);
            }
        });
        if let Err(error) = spawned {
            log::error!(target: "gproxy::listener", "cannot start a coroutine: {error}");
        }
    }

    /// Every thread that serves gives back what it has freed.
    fn release_memory(&self) {
        worker::release_memory();
        for worker in 0..self.loads.len() {
            if let Err(error) = worker::spawn_on(worker, worker::release_memory) {
                log::error!(target: "gproxy::listener", "cannot start a coroutine: {error}");
            }
        }
    }

    /// The least busy worker, or the descriptor's own when that is about as free.
    fn choose(&self, fd: &OwnedFd) -> usize {
        let load = |worker: usize| self.loads[worker].load(Ordering::Relaxed);
        let own = worker::class_of(fd);
        let least = (0..self.loads.len()).min_by_key(|worker| load(*worker)).unwrap_or(own);
        if load(own) <= load(least) + CLASS_SLACK { own } else { least }
    }

    /// Starts a coroutine for a connection that has something to say.
    fn start(self: &Arc<Self>, connection: Connection) {
        let worker = self.choose(&connection.fd);
        self.loads[worker].fetch_add(1, Ordering::Relaxed);
        let load = Load { listener: self.clone(), worker };
        let count = self.core.metrics.clone().hold(Gauge::Coroutines, 1);
        let spawned = worker::spawn_on(worker, move || {
            let _count = count;
            converse(&load.listener, connection, load.worker);
        });
        if let Err(error) = spawned {
            log::error!(target: "gproxy::listener", "cannot start a coroutine: {error}");
        }
    }
}

/// Raises the limit of descriptors as far as the system lets us. Three of four may be callers'
/// connections; the rest is for those to providers, and for files.
fn room_for_connections() -> usize {
    let limit = getrlimit(Resource::Nofile);
    // The limit stays as it was where this fails.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(descriptors / 4 * 3).unwrap_or(usize::MAX)
}

/// Tells when a busy time is over.
#[derive(Default)]
struct Idleness {
    // Requests so far, at the last tick and at the last release.
    seen: u64,
    released: u64,
    released_tick: u64,
}

impl Idleness {
    /// Whether it is time to give memory back, `requests` after the beginning.
    fn tick(&mut self, requests: u64, ticks: u64) -> bool {
        let quiet = requests - std::mem::replace(&mut self.seen, requests) <= QUIET_REQUESTS_MAX;
        let due = ticks >= self.released_tick + RELEASE_TICKS;
        if !quiet || !due || requests == self.released {
            return false;
        }
        (self.released, self.released_tick) = (requests, ticks);
        true
    }
}

/// Memory that the process holds; 0 where the system does not say.
fn resident_bytes() -> i64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<i64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as i64
}

/// Files that were renewed count from now on.
fn renew_certificate() {
    match callers::renew() {
        None => {}
        Some(Ok(())) => log::info!(target: "gproxy", "the files of [tls] have changed: they count"),
        Some(Err(error)) => {
            log::error!(target: "gproxy", "{error}; what was loaded before stays");
        }
    }
}

/// Counts a coroutine on its worker while it lives.
struct Load {
    listener: Arc<Listener>,
    worker: usize,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.listener.loads[self.worker].fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection's coroutine: requests in turn, until it ends or falls silent.
fn converse(listener: &Arc<Listener>, connection: Connection, worker: usize) {
    let Connection { fd, line, awaited, mut has_asked, _open, .. } = connection;
    let mut sock = match Sock::adopt(fd, worker) {
        Ok(sock) => sock,
        Err(error) => {
            log::warn!(target: "gproxy::listener", "cannot serve a connection: {error}");
            return;
        }
    };
    let core = &listener.core;
    let sealed = match line {
        Line::Plain => None,
        Line::Sealed(sealed) => Some(sealed),
        Line::Fresh(terms) => match shake(&mut sock, &terms) {
            Ok(sealed) => Some(sealed),
            Err(error) => {
                core.metrics.count(Count::HandshakesFailed);
                log::debug!(target: "gproxy::listener", "a caller's handshake failed: {error}");
                return;
            }
        },
    };
    let mut up = Caller {
        worker,
        ways: listener.ways[worker].clone(),
        office: listener.office.clone(),
        downstream: Some(sock.shared()),
        metrics: core.metrics.clone(),
    };
    let mut session = Session::new(Client::new(sock, sealed));
    session.awaited = awaited;
    loop {
        let served =
            catch_unwind(AssertUnwindSafe(|| exchange::serve(core, &mut session, &mut up)));
        match served {
            Ok(Next::Again) => has_asked = true,
            Ok(Next::Close) => return,
            Ok(Next::Park) => break,
            Err(_) => {
                core.metrics.count(Count::Panics);
                session.apologise(core);
                return;
            }
        }
    }
    drop(up);
    let Session { down, awaited, .. } = session;
    let (sock, sealed) = down.into_parts();
    let line = sealed.map_or(Line::Plain, Line::Sealed);
    if let Some(fd) = sock.release() {
        let since = Instant::now();
        listener.park(Connection { fd, line, since, awaited, has_asked, _open, parked: None });
    }
}

/// A handshake; its frames are gone before the first request comes.
#[inline(never)]
fn shake(sock: &mut Sock, terms: &callers::Terms) -> io::Result<Box<Sealed>> {
    let mut sealed = Sealed::expect(terms)?;
    downstream::shake(sock, &mut sealed)?;
    Ok(sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_back_once_after_work_and_not_in_its_midst() {
        let mut idleness = Idleness::default();
        let mut ticks = 0;
        let mut tick = |requests| {
            ticks += 1;
            idleness.tick(requests, ticks)
        };
        let busy = [0, 1_000, 2_000, 3_000, 4_000, 5_000, 6_000];
        assert!(busy.into_iter().all(|requests| !tick(requests)));
        assert!(tick(6_000));
        assert!((0..20).all(|_| !tick(6_000)));
        // A trickle counts as quiet, and is served at its own pace.
        let released = (1..=20).filter(|by| tick(6_000 + by)).count();
        assert_eq!(released, 4);
    }
}
