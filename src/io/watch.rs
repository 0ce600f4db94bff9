//! What the transports must know of the attempt they work for.
//!
//! ureq's connectors give them no room for a caller's context, so the watch hangs on
//! the coroutine (`worker::attach`). It carries the limits of each phase, the downstream's
//! descriptor to look at while the upstream is silent, and brings back how the attempt died.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::failure::{Cause, Failure, Phase, Sent};
use crate::io::worker;
use crate::limits;
use crate::metrics::{Gauge, Held, Metrics};
use crate::route::fence::Fence;
use crate::route::snapshot::{Drain, Timeouts};

/// One attempt, as seen from its transports.
pub struct Watch {
    /// The worker on which everything happens.
    pub worker: usize,
    /// Which addresses may be connected.
    pub fence: Fence,
    downstream: Option<Arc<OwnedFd>>,
    timeouts: Timeouts,
    begun: Instant,
    // How far the reply may be read on without its downstream, and where that is counted.
    drain: OnceLock<(Drain, Arc<Metrics>)>,
    // Set when the attempt beside this one spoke first; `None`: it is alone.
    given_up: Option<Arc<AtomicBool>>,
    // The downstream has left, and the reply is read on.
    orphaned: AtomicBool,
    // A wait has passed without anything happening since the last bytes.
    waited: AtomicBool,
    // When the downstream was looked at last, in milliseconds from `begun`.
    looked_ms: AtomicU64,
    // Silence of so many milliseconds is to be told; 0: of none.
    quiet_ms: AtomicU64,
    // It was told last.
    is_quiet: AtomicBool,
    state: Mutex<State>,
}

struct State {
    phase: Phase,
    // Set by the first wait of the phase: most phases end without one.
    phase_begun: Option<Instant>,
    sent: Sent,
    reused: bool,
    bytes_received: u64,
    cause: Option<Cause>,
    end: End,
    streams: bool,
    // When something went downstream, or silence was to be told there.
    told_at: Instant,
    /// Until when, and the reply's place among those that are read on.
    drains: Option<(Instant, [Held; 2])>,
}

/// How far an upstream's connection has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// It is open.
    Open,
    /// The upstream closed it.
    Closed,
    /// It was reset, or TLS ended without a goodbye.
    Reset,
}

impl Watch {
    /// Begins to watch an attempt of the current coroutine, on `worker`.
    pub fn begin(
        worker: usize,
        fence: Fence,
        downstream: Option<Arc<OwnedFd>>,
        timeouts: Timeouts,
        drain: Option<(Drain, Arc<Metrics>)>,
    ) -> Arc<Watch> {
        let watch = Watch::new(worker, fence, downstream, timeouts);
        let drain = drain.map(OnceLock::from).unwrap_or_default();
        Watch { drain, ..watch }.attached()
    }

    /// The same, of an attempt beside another one, which sets `given_up` when it spoke first.
    pub fn beside(
        worker: usize,
        fence: Fence,
        downstream: Option<Arc<OwnedFd>>,
        timeouts: Timeouts,
        given_up: Arc<AtomicBool>,
    ) -> Arc<Watch> {
        let watch = Watch::new(worker, fence, downstream, timeouts);
        Watch { given_up: Some(given_up), ..watch }.attached()
    }

    fn attached(self) -> Arc<Watch> {
        let watch = Arc::new(self);
        worker::attach(Some(watch.clone()));
        watch
    }

    fn new(
        worker: usize,
        fence: Fence,
        downstream: Option<Arc<OwnedFd>>,
        timeouts: Timeouts,
    ) -> Watch {
        let now = Instant::now();
        let state = State {
            phase: Phase::Resolve,
            phase_begun: Some(now),
            sent: Sent::Nothing,
            reused: false,
            bytes_received: 0,
            cause: None,
            end: End::Open,
            streams: false,
            told_at: now,
            drains: None,
        };
        Watch {
            worker,
            fence,
            downstream,
            timeouts,
            begun: now,
            drain: OnceLock::new(),
            given_up: None,
            orphaned: AtomicBool::new(false),
            waited: AtomicBool::new(false),
            looked_ms: AtomicU64::new(0),
            quiet_ms: AtomicU64::new(0),
            is_quiet: AtomicBool::new(false),
            state: Mutex::new(state),
        }
    }

    /// From now on the reply may be read on without its downstream.
    pub fn drains(&self, drain: Drain, metrics: Arc<Metrics>) {
        let _ = self.drain.set((drain, metrics));
    }

    /// The watch of the current coroutine.
    pub fn current() -> Option<Arc<Watch>> {
        worker::attached()?.downcast::<Watch>().ok()
    }

    /// Enters a phase; its limit counts from now.
    pub fn enter(&self, phase: Phase) {
        let mut state = self.state.lock();
        state.phase = phase;
        state.phase_begun = None;
    }

    /// The connection came from the pool.
    pub fn reused(&self) {
        self.state.lock().reused = true;
    }

    /// Bytes went out. Those of a handshake are none of the request's.
    pub fn sent(&self) {
        self.waited.store(false, Ordering::Relaxed);
        let mut state = self.state.lock();
        if state.phase >= Phase::Send {
            state.sent = Sent::Part;
            state.phase_begun = None;
        }
    }

    /// Some of the request went out, so what comes may be its answer.
    pub fn has_sent(&self) -> bool {
        self.state.lock().sent != Sent::Nothing
    }

    /// What was queued has been written: from here the first byte of the answer is awaited.
    pub fn request_written(&self) {
        let mut state = self.state.lock();
        if state.phase == Phase::Send {
            state.phase = Phase::AwaitHead;
            state.phase_begun = None;
        }
    }

    /// Bytes came in. Those of a handshake are none of the answer's.
    pub fn received(&self, count: usize) {
        self.waited.store(false, Ordering::Relaxed);
        let mut state = self.state.lock();
        if state.phase >= Phase::Send {
            state.bytes_received += count as u64;
        }
        if state.phase == Phase::Relay {
            state.phase_begun = None;
        }
    }

    /// Notes why the attempt dies, if nobody did before.
    pub fn died(&self, cause: Cause) {
        self.state.lock().cause.get_or_insert(cause);
    }

    /// The reply is a stream: silence alone ends it from here on.
    pub fn streams(&self) {
        self.state.lock().streams = true;
    }

    /// The connection ended, by a close or, when `reset`, without one.
    pub fn ended(&self, reset: bool) {
        let mut state = self.state.lock();
        state.end = if reset { End::Reset } else { state.end.max(End::Closed) };
    }

    /// How the connection ended, if it did.
    pub fn end(&self) -> End {
        self.state.lock().end
    }

    /// How long the transport may wait in one go in the current phase, or why it must stop.
    pub fn next_wait(&self) -> Result<Duration, Cause> {
        let now = Instant::now();
        let died = |cause: &Cause| {
            if *cause != Cause::Quiet {
                self.died(*cause);
            }
        };
        self.wait_from(now, self.deadline_from(now)).inspect_err(died)
    }

    /// Like [`Watch::next_wait`] with a deadline of the caller's.
    pub fn wait_until(&self, deadline: Instant) -> Result<Duration, Cause> {
        self.wait_from(Instant::now(), deadline)
    }

    fn wait_from(&self, now: Instant, deadline: Instant) -> Result<Duration, Cause> {
        if self.looks(now)
            && !self.is_orphaned()
            && let Some(downstream) = &self.downstream
            && worker::has_left(downstream)
            && !self.reads_on()
        {
            self.died(Cause::DownstreamGone);
            return Err(Cause::DownstreamGone);
        }
        // Who has left, be it just now, is told of nothing.
        if !self.is_orphaned() {
            self.tell_silence(now)?;
        }
        if worker::is_cut() {
            self.died(Cause::ShuttingDown);
            return Err(Cause::ShuttingDown);
        }
        let mut slice = worker::slice_until(deadline, now).ok_or(Cause::TimedOut)?;
        slice = slice.min(Duration::from_millis(limits::HANG_UP_POLL_MS));
        // Who is to be told of a short silence is told in time.
        let quiet_ms = self.quiet_ms.load(Ordering::Relaxed);
        if quiet_ms > 0 && quiet_ms < limits::HANG_UP_POLL_MS {
            slice = slice.min(worker::slice_of(Duration::from_millis(quiet_ms)));
        }
        if let Some(given_up) = &self.given_up {
            if given_up.load(Ordering::Relaxed) {
                self.died(Cause::Overtaken);
                return Err(Cause::Overtaken);
            }
            slice = slice.min(Duration::from_millis(limits::GIVEN_UP_POLL_MS));
        }
        Ok(slice)
    }

    /// Whether the downstream is looked at before this wait. The first since the last bytes begins
    /// without that: most end within microseconds. Where bytes drip in, now and then one does not.
    fn looks(&self, now: Instant) -> bool {
        let has_waited = self.waited.swap(true, Ordering::Relaxed);
        let now_ms = now.saturating_duration_since(self.begun).as_millis() as u64;
        let looked_ms = self.looked_ms.load(Ordering::Relaxed);
        let looks = has_waited || now_ms.saturating_sub(looked_ms) >= limits::HANG_UP_POLL_MS;
        if looks {
            self.looked_ms.store(now_ms, Ordering::Relaxed);
        }
        looks
    }

    /// Something has just gone downstream. Silence of that length towards it, counted from now,
    /// ends a wait with [`Cause::Quiet`], again and again, whatever the upstream sends meanwhile;
    /// zero: none does.
    pub fn keep_alive(&self, every: Duration) {
        self.quiet_ms.store(every.as_millis() as u64, Ordering::Relaxed);
        if !every.is_zero() {
            self.state.lock().told_at = Instant::now();
        }
    }

    fn tell_silence(&self, now: Instant) -> Result<(), Cause> {
        let quiet_ms = self.quiet_ms.load(Ordering::Relaxed);
        if quiet_ms == 0 {
            return Ok(());
        }
        let mut state = self.state.lock();
        // What is half written must be written.
        if state.phase < Phase::AwaitHead {
            return Ok(());
        }
        let silent = now.saturating_duration_since(state.told_at);
        if silent < Duration::from_millis(quiet_ms) {
            return Ok(());
        }
        state.told_at = now;
        self.is_quiet.store(true, Ordering::Relaxed);
        Err(Cause::Quiet)
    }

    /// The downstream has left: whether the reply is read on without it. Its place among the
    /// connections is free from here on.
    pub fn reads_on(&self) -> bool {
        let Some((drain, metrics)) = self.drain.get() else { return false };
        let mut state = self.state.lock();
        if state.phase < Phase::AwaitHead {
            return false;
        }
        if state.drains.is_none() {
            let place = metrics.clone().hold(Gauge::Drains, 1);
            if metrics.level(Gauge::Drains) > limits::DRAINS_MAX {
                return false;
            }
            let connection = metrics.clone().hold(Gauge::Connections, -1);
            let until = Instant::now() + Duration::from_millis(drain.ms_max);
            state.drains = Some((until, [place, connection]));
            self.orphaned.store(true, Ordering::Relaxed);
        }
        true
    }

    /// Whether the downstream has left and the reply is read on.
    pub fn is_orphaned(&self) -> bool {
        self.orphaned.load(Ordering::Relaxed)
    }

    /// When the current phase must have ended. The total limit ends with the head of a stream: a
    /// living stream is cut by silence only.
    pub fn deadline(&self) -> Instant {
        self.deadline_from(Instant::now())
    }

    /// A phase that has not waited yet begins `now`.
    fn deadline_from(&self, now: Instant) -> Instant {
        let mut state = self.state.lock();
        let begun = *state.phase_begun.get_or_insert(now);
        let limit_ms = match state.phase {
            Phase::Resolve => self.timeouts.resolve_ms,
            Phase::Connect => self.timeouts.connect_ms,
            Phase::Tls => self.timeouts.tls_ms,
            Phase::Send | Phase::Relay => self.timeouts.between_bytes_ms,
            Phase::AwaitHead => self.timeouts.first_byte_ms,
        };
        let mut deadline = begun + Duration::from_millis(limit_ms);
        if let Some((until, _)) = &state.drains {
            deadline = deadline.min(*until);
        }
        if self.timeouts.total_ms == 0 || state.streams {
            return deadline;
        }
        deadline.min(self.begun + Duration::from_millis(self.timeouts.total_ms))
    }

    /// The failure to report; `fallback` when no transport noted a cause.
    pub fn failure(&self, fallback: Cause) -> Failure {
        let state = self.state.lock();
        let after = state.phase_begun.unwrap_or(self.begun).elapsed();
        let is_quiet = self.is_quiet.swap(false, Ordering::Relaxed);
        let fallback = if is_quiet { Cause::Quiet } else { fallback };
        Failure {
            phase: state.phase,
            sent: state.sent,
            // However a reply without its downstream ends, nobody is told.
            cause: match self.is_orphaned() {
                true => Cause::DownstreamGone,
                false => state.cause.unwrap_or(fallback),
            },
            reused: state.reused && state.bytes_received == 0,
            after_ms: after.as_millis() as u64,
        }
    }
}
