//! Coroutines that never change threads, and the sockets that they may wait on.
//!
//! This is the only module that names `may`. A coroutine that waits on a descriptor is resumed by
//! the thread that polls it, and `may` polls descriptor `fd` on worker `fd % workers`. So every
//! descriptor is moved into its worker's class before it is registered, and a coroutine only ever
//! waits on descriptors of its own class: it stays on one thread for its whole life.
//!
//! What breaks this silently, and is therefore not used anywhere: `may`'s own `connect`, `accept`,
//! `bind` and `try_clone`, `coroutine::sleep`, `park_timeout`, channels and mutexes across workers,
//! `cancel`, `WaitIoWaker`. In builds with debug assertions every wait checks that it came back on
//! the thread on which it began.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use may::io::CoIo;
use rustix::event::epoll::{self, EventFlags};
use rustix::event::{PollFd, PollFlags};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use crate::limits;

/// Tries to find a descriptor number of the right class before giving up.
const CLASS_TRIES_MAX: usize = 512;
/// Reads and writes of one socket, none of which had to wait, after which its coroutine gives way.
const OPERATIONS_MAX: u32 = 256;
/// Coroutine stacks that `may` keeps for reuse.
const STACK_POOL: usize = 16;

static WORKERS: AtomicUsize = AtomicUsize::new(0);
static CUT: AtomicBool = AtomicBool::new(false);

/// Starts the scheduler's configuration: call once, before the first coroutine.
pub fn configure(workers: usize) {
    assert!(workers > 0, "a gateway has at least one worker");
    WORKERS.store(workers, Ordering::Relaxed);
    let config = may::config();
    config.set_workers(workers);
    config.set_stack_size(limits::STACK_WORDS);
    config.set_pool_capacity(STACK_POOL);
    config.set_worker_pin(true);
    // Workers sleep until an event or a timer; the default wakes each of them 100 times a second.
    config.set_timeout_ns(1_000_000_000);
}

/// Number of workers, as configured.
pub fn workers() -> usize {
    WORKERS.load(Ordering::Relaxed)
}

/// Ends every wait on a peer with its present slice: the process has no more time for them.
pub fn cut() {
    CUT.store(true, Ordering::SeqCst);
}

/// Whether [`cut`] was called.
pub fn is_cut() -> bool {
    CUT.load(Ordering::Relaxed)
}

/// Runs `work` in a new coroutine on worker `worker`.
///
/// A panic ends the coroutine; the caller of this function arranges for it to be counted.
pub fn spawn_on(worker: usize, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let builder = may::coroutine::Builder::new().id(worker);
    // SAFETY: `spawn` is unsafe since a coroutine may be resumed by another thread, which breaks
    // thread-locals, and since it has a fixed stack. The class rule above keeps it on one thread,
    // and `limits::STACK_WORDS` was measured on the longest path with margin; past it stands a
    // guard page.
    #[allow(unsafe_code)]
    let handle = unsafe { builder.spawn(work) }?;
    drop(handle);
    Ok(())
}

/// Gives memory that this thread has freed back to the system. The allocator keeps it otherwise
/// until the thread allocates again, which a worker without work never does.
pub fn release_memory() {
    // SAFETY: the call takes nothing and may come from any thread at any time; it is a foreign
    // function, and so unsafe to the compiler.
    #[allow(unsafe_code)]
    unsafe {
        libmimalloc_sys::mi_collect(true);
    };
}

/// The first descriptor that a service manager passes, see sd_listen_fds(3). Call it once, before
/// anything else is opened.
pub fn passed_by_manager() -> OwnedFd {
    // SAFETY: number 3 is what the manager says that it opened for this very process (`LISTEN_PID`
    // names it), and nobody else here has taken it over.
    #[allow(unsafe_code)]
    unsafe {
        OwnedFd::from_raw_fd(3)
    }
}

/// The class of a descriptor: the worker that polls it.
pub fn class_of(fd: &impl AsRawFd) -> usize {
    fd.as_raw_fd() as usize % workers()
}

/// Moves a descriptor into the class of `worker` by duplicating it to a fitting number.
pub fn into_class(fd: OwnedFd, worker: usize) -> io::Result<OwnedFd> {
    static HINTS: [AtomicI32; limits::WORKERS_MAX] =
        [const { AtomicI32::new(0) }; limits::WORKERS_MAX];
    let workers = workers();
    if class_of(&fd) == worker {
        return Ok(fd);
    }
    let hint = &HINTS[worker % HINTS.len()];
    let mut floor = fit(hint.load(Ordering::Relaxed).max(0), worker, workers);
    for _ in 0..CLASS_TRIES_MAX {
        let moved = match rustix::io::fcntl_dupfd_cloexec(&fd, floor) {
            Ok(moved) => moved,
            // Past the descriptor limit with this floor: start again from the bottom, once.
            Err(rustix::io::Errno::INVAL) if floor > worker as RawFd => {
                floor = worker as RawFd;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if class_of(&moved) == worker {
            // Numbers near this one are likely free again soon; stay low so that they are reused.
            hint.store((moved.as_raw_fd() - 64).max(0), Ordering::Relaxed);
            return Ok(moved);
        }
        floor = fit(moved.as_raw_fd() + 1, worker, workers);
    }
    Err(io::Error::other("no descriptor of the worker's class is free"))
}

/// The smallest number of the worker's class that is not below `floor`.
fn fit(floor: RawFd, worker: usize, workers: usize) -> RawFd {
    let over = floor as usize % workers;
    let step = (worker + workers - over) % workers;
    floor + step as RawFd
}

/// The descriptor as `CoIo` sees it. Shared, since `CoIo` drops its inner value before it takes the
/// number out of epoll, and a closed number may already belong to somebody else by then.
struct Shared {
    fd: Arc<OwnedFd>,
    // A look has just shown that nothing is there to read, and the coroutine has not waited since:
    // the next read may wait at once. (An event from before the look would be lost, one after it
    // wakes the wait.)
    quiet: bool,
    // Reads and writes since the coroutine last waited here.
    operations: u32,
}

impl Shared {
    /// The coroutine is about to wait, so its worker will see to others.
    fn nothing_yet(&mut self) -> io::Error {
        self.operations = 0;
        rustix::io::Errno::AGAIN.into()
    }
}

impl AsRawFd for Shared {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Read for Shared {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if std::mem::take(&mut self.quiet) {
            return Err(self.nothing_yet());
        }
        match rustix::io::read(&*self.fd, buf) {
            Err(rustix::io::Errno::AGAIN) => Err(self.nothing_yet()),
            result => Ok(result?),
        }
    }
}

impl Write for Shared {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        // An empty write is how `connect` waits for writability; `send` would answer it at once.
        if buf.is_empty() {
            return Err(rustix::io::Errno::AGAIN.into());
        }
        let sent = rustix::net::send(&*self.fd, buf, rustix::net::SendFlags::NOSIGNAL);
        self.quiet &= sent.is_ok();
        match sent {
            Err(rustix::io::Errno::AGAIN) => Err(self.nothing_yet()),
            sent => Ok(sent?),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A non-blocking socket of the current worker's class. Waiting on it suspends the coroutine.
pub struct Sock {
    // Invariant: dropped before `fd`, so that the number leaves epoll while it is still ours.
    io: CoIo<Shared>,
    fd: Arc<OwnedFd>,
    worker: usize,
}

impl Sock {
    /// Takes a descriptor over for coroutines of `worker`, moving it into the class when necessary.
    pub fn adopt(fd: OwnedFd, worker: usize) -> io::Result<Sock> {
        let fd = Arc::new(into_class(fd, worker)?);
        let io = CoIo::new(Shared { fd: fd.clone(), quiet: false, operations: 0 })
            .map_err(io::Error::from)?;
        Ok(Sock { io, fd, worker })
    }

    /// Begins to open a TCP connection; [`Sock::is_connected`] tells when it is open.
    pub fn connect(address: SocketAddr, worker: usize) -> io::Result<Sock> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        rustix::net::sockopt::set_tcp_nodelay(&fd, true)?;
        let fd = into_class(fd, worker)?;
        match rustix::net::connect(&fd, &address) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Sock::adopt(fd, worker),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a datagram socket to `address`.
    pub fn datagram(address: SocketAddr, worker: usize) -> io::Result<Sock> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
        let fd = into_class(fd, worker)?;
        rustix::net::connect(&fd, &address)?;
        Sock::adopt(fd, worker)
    }

    /// Waits at most `wait` for the end of a pending connect. `Ok(false)`: still pending.
    pub fn is_connected(&mut self, wait: Duration) -> io::Result<bool> {
        let home = Home::here();
        self.io.set_write_timeout(Some(wait))?;
        // A zero-byte write waits for writability and then succeeds without sending anything.
        let result = self.io.write(&[]);
        home.check();
        match result {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(false),
            Err(error) => return Err(error),
        }
        rustix::net::sockopt::socket_error(&*self.fd)?.map_err(io::Error::from)?;
        Ok(true)
    }

    /// Reads what is there, waiting at most `wait` for the first byte. `Ok(0)` is the peer's end.
    pub fn read(&mut self, buf: &mut [u8], wait: Duration) -> io::Result<usize> {
        self.give_way();
        let home = Home::here();
        self.io.set_read_timeout(Some(wait))?;
        let result = self.io.read(buf);
        home.check();
        result
    }

    /// Writes some bytes, waiting at most `wait` for room.
    pub fn write(&mut self, buf: &[u8], wait: Duration) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        self.give_way();
        let home = Home::here();
        self.io.set_write_timeout(Some(wait))?;
        let result = self.io.write(buf);
        home.check();
        result
    }

    /// Reads what is there; `WouldBlock` when that is nothing.
    pub fn read_now(&self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&*self.fd, buf)?)
    }

    /// Writes what there is room for; `WouldBlock` when that is nothing.
    pub fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(&*self.fd, bytes, rustix::net::SendFlags::NOSIGNAL)?)
    }

    /// Whether it is open and nothing is there to read. When so, and the coroutine writes next and
    /// then reads, that read waits without asking the system first.
    pub fn is_quiet(&mut self) -> bool {
        let quiet = peek(&self.fd) == Peek::Quiet;
        self.io.inner_mut().quiet = quiet;
        quiet
    }

    /// Lets the worker poll now and then, even when neither end of a relay ever makes us wait.
    /// (`yield_now` would not: a worker polls only when its queue is empty.)
    fn give_way(&mut self) {
        let shared = self.io.inner_mut();
        shared.operations += 1;
        if shared.operations < OPERATIONS_MAX {
            return;
        }
        shared.operations = 0;
        shared.quiet = false;
        give_way(self.worker);
    }

    /// The descriptor, for a look from outside ([`peek`], [`shut_down`]).
    pub fn shared(&self) -> Arc<OwnedFd> {
        self.fd.clone()
    }

    /// Takes the descriptor out of the worker's epoll, so that it can be parked elsewhere. `None`
    /// when somebody still looks at it.
    pub fn release(self) -> Option<OwnedFd> {
        let Sock { io, fd, .. } = self;
        drop(io);
        Arc::into_inner(fd)
    }
}

/// What a look at a socket shows without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peek {
    /// Open, nothing to read.
    Quiet,
    /// Bytes are waiting.
    Bytes,
    /// The peer has gone, or the socket failed.
    Gone,
}

/// Looks whether bytes wait or the peer has gone, without reading and without yielding.
pub fn peek(fd: &OwnedFd) -> Peek {
    let mut byte = [0; 1];
    match rustix::net::recv(fd, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((0, _)) => Peek::Gone,
        Ok(_) => Peek::Bytes,
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Peek::Quiet,
        Err(_) => Peek::Gone,
    }
}

/// Whether the peer has ended its side, also behind bytes that nobody has read: TLS says goodbye.
pub fn has_left(fd: &OwnedFd) -> bool {
    match peek(fd) {
        Peek::Gone => true,
        Peek::Quiet => false,
        Peek::Bytes => {
            let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
            let ends = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
            let mut polled = [PollFd::new(fd, ends)];
            rustix::event::poll(&mut polled, Some(&now)).is_ok_and(|count| count > 0)
        }
    }
}

/// Ends one or both directions of a socket; a coroutine that waits on it is woken.
pub fn shut_down(fd: &OwnedFd, how: Shutdown) {
    let how = match how {
        Shutdown::Read => rustix::net::Shutdown::Read,
        Shutdown::Write => rustix::net::Shutdown::Write,
        Shutdown::Both => rustix::net::Shutdown::Both,
    };
    // It may be closed already, which is what we want.
    let _ = rustix::net::shutdown(fd, how);
}

/// Two sockets at once, for a coroutine that serves both ends of a connection: they stand in an
/// epoll of their own, and the coroutine waits on that one's descriptor, which is of its class.
pub struct Both {
    // Invariant: dropped before `epoll`, as in `Sock`.
    io: CoIo<Moved>,
    _epoll: Arc<OwnedFd>,
    worker: usize,
    turns: u32,
}

/// The inner epoll as `CoIo` sees it: something to read from when a socket has moved.
struct Moved(Arc<OwnedFd>);

impl AsRawFd for Moved {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Read for Moved {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        let zero = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut events = [MaybeUninit::uninit(); 2];
        let (moved, _) = epoll::wait(&*self.0, &mut events, Some(&zero))?;
        if moved.is_empty() { Err(rustix::io::Errno::AGAIN.into()) } else { Ok(moved.len()) }
    }
}

impl Both {
    /// Watches both from now on, or the only one that there is. They tell of each change once, so
    /// whoever waits first reads and writes until nothing more can be.
    pub fn of(worker: usize, ends: &[&OwnedFd]) -> io::Result<Both> {
        let epoll = into_class(epoll::create(epoll::CreateFlags::CLOEXEC)?, worker)?;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        for (number, fd) in ends.iter().enumerate() {
            epoll::add(&epoll, fd, epoll::EventData::new_u64(number as u64), flags)?;
        }
        let epoll = Arc::new(epoll);
        let io = CoIo::new(Moved(epoll.clone())).map_err(io::Error::from)?;
        Ok(Both { io, _epoll: epoll, worker, turns: 0 })
    }

    /// Waits at most `wait` until one of them has moved.
    pub fn wait(&mut self, wait: Duration) -> io::Result<()> {
        self.give_way();
        let home = Home::here();
        self.io.set_read_timeout(Some(wait))?;
        let result = self.io.read(&mut [0; 1]);
        home.check();
        result.map(drop)
    }

    /// Lets the worker poll now and then, when neither ever makes us wait.
    pub fn give_way(&mut self) {
        self.turns += 1;
        if self.turns >= OPERATIONS_MAX {
            self.turns = 0;
            give_way(self.worker);
        }
    }
}

/// Suspends the coroutine until its worker has polled. Where no descriptor is left there is no
/// timer: the others wait a little longer, and nobody's connection is to blame.
fn give_way(worker: usize) {
    if let Ok(mut timer) = Timer::new(worker) {
        let _ = timer.sleep(Duration::ZERO);
    }
}

/// A one-shot timer on which coroutines of one worker may wait.
pub struct Timer {
    sock: Sock,
}

impl Timer {
    /// A timer for coroutines of `worker`.
    pub fn new(worker: usize) -> io::Result<Timer> {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Timer { sock: Sock::adopt(fd, worker)? })
    }

    /// Suspends the coroutine for `pause`.
    pub fn sleep(&mut self, pause: Duration) -> io::Result<()> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
        let value = Timespec {
            tv_sec: pause.as_secs() as i64,
            // Zero would disarm the timer.
            tv_nsec: i64::from(pause.subsec_nanos().max(1)),
        };
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = Itimerspec { it_interval: zero, it_value: value };
        timerfd_settime(&*self.sock.fd, TimerfdTimerFlags::empty(), &spec)?;
        let mut count = [0; 8];
        self.sock.read(&mut count, pause + Duration::from_secs(1)).map(|_| ())
    }
}

/// Rounds a wait down to one of a few lengths: `may` keeps one timer list for each distinct length.
/// Callers loop against an absolute deadline.
pub fn slice_of(wait: Duration) -> Duration {
    const STEPS_MS: [u64; 7] = [30_000, 5_000, 1_000, 250, 50, 10, 2];
    let wait_ms = wait.as_millis() as u64;
    let step_ms = STEPS_MS.into_iter().find(|step| *step <= wait_ms).unwrap_or(1);
    Duration::from_millis(step_ms)
}

/// What is left until `deadline`, as one slice; `None` when it has passed.
pub fn slice_until(deadline: Instant, now: Instant) -> Option<Duration> {
    let left = deadline.checked_duration_since(now)?;
    if left.is_zero() { None } else { Some(slice_of(left)) }
}

/// The thread on which a wait began.
struct Home {
    #[cfg(debug_assertions)]
    thread: rustix::thread::Pid,
}

impl Home {
    fn here() -> Home {
        Home {
            #[cfg(debug_assertions)]
            thread: rustix::thread::gettid(),
        }
    }

    /// A coroutine on a foreign thread may corrupt anything: stop at once.
    fn check(&self) {
        #[cfg(debug_assertions)]
        if self.thread != rustix::thread::gettid() {
            log::error!("a coroutine changed threads; see the rules in io/worker.rs");
            std::process::abort();
        }
    }
}

impl AsFd for Sock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

may::coroutine_local!(static ATTACHED: RefCell<Option<Arc<dyn std::any::Any + Send + Sync>>> =
    RefCell::new(None));

/// Attaches a value to the current coroutine, in place of the last one: it is how the transports
/// below ureq learn for which exchange they work.
pub fn attach(value: Option<Arc<dyn std::any::Any + Send + Sync>>) {
    ATTACHED.with(|slot| *slot.borrow_mut() = value);
}

/// Takes a value off the current coroutine, if it is the one that is attached.
pub fn detach<T>(value: &Arc<T>) {
    ATTACHED.with(|slot| {
        let mut slot = slot.borrow_mut();
        let own = Arc::as_ptr(value);
        if slot.as_ref().is_some_and(|at| std::ptr::addr_eq(Arc::as_ptr(at), own)) {
            *slot = None;
        }
    });
}

/// The value attached to the current coroutine.
pub fn attached() -> Option<Arc<dyn std::any::Any + Send + Sync>> {
    ATTACHED.with(|slot| slot.borrow().clone())
}
