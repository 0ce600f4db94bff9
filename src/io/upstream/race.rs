//! Two calls for one request: the second in a coroutine of its own, on the same worker.
//!
//! The second coroutine only moves bytes: it owns all that it needs, and leaves what came of its
//! call where the first one finds it. The first looks there while it waits for its own upstream,
//! every few milliseconds, since a coroutine waits on one descriptor; calls that are looked after
//! so are few. Whoever is given up sees it at his next slice of a wait, and closes his connection.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::{Answer, Attached, Caller, Ways, let_live};
use crate::exchange::{Beside, Call, Hedge, Raced, Waiting, speaks};
use crate::failure::{Cause, Failure, Phase, Sent};
use crate::io::http::{self, Address, Incoming};
use crate::io::watch::Watch;
use crate::io::worker::{self, Timer};
use crate::limits;
use crate::metrics::{Count, Gauge, Held, Metrics};
use crate::route::retry;
use crate::wire::reply::ReplyHead;

const POLL: Duration = Duration::from_millis(limits::HEDGE_POLL_MS);

/// Makes the call, and one beside it when it is silent for too long.
pub(super) fn race(caller: &Caller, call: &Call<'_>, hedge: &dyn Hedge) -> Raced<Answer> {
    let (waiting, rival) = (call.waiting, RefCell::new(None));
    let rivalry = Rivalry { caller, waiting, hedge, rival };
    let first = caller.http(&Call { waiting: Some(&rivalry), ..*call });
    let is_over = match &first {
        Ok(_) => speaks(&first),
        Err(failure) => {
            matches!(failure.cause, Cause::Overtaken | Cause::DownstreamGone | Cause::ShuttingDown)
        }
    };
    if !is_over {
        rivalry.outlast();
    }
    let Some(rival) = rivalry.rival.into_inner() else { return Raced::alone(first) };
    let second = rival.into_result();
    let is_overtaken = matches!(&first, Err(Failure { cause: Cause::Overtaken, .. }));
    // One of them is read from here on.
    let speaks = !speaks(&first) && second.as_ref().is_some_and(Second::speaks);
    let is_read = speaks || first.is_err();
    let second =
        second.map(|second| second.result.map(|ended| ended.answer(caller, call, is_read)));
    Raced { first: (!is_overtaken).then_some(first), second }
}

/// Who waits for the first of two calls.
struct Rivalry<'a> {
    caller: &'a Caller,
    // Who waits for either.
    waiting: Option<&'a dyn Waiting>,
    hedge: &'a dyn Hedge,
    rival: RefCell<Option<Rival>>,
}

impl Waiting for Rivalry<'_> {
    fn patience(&self) -> Duration {
        let own = self.waiting.map_or(Duration::ZERO, |waiting| waiting.patience());
        let of_hedge = match &*self.rival.borrow() {
            None => self.hedge.patience(),
            Some(rival) if rival.is_under_way() || rival.speaks() => POLL,
            Some(_) => Duration::ZERO,
        };
        match (own.is_zero(), of_hedge.is_zero()) {
            (false, false) => own.min(of_hedge),
            _ => own.max(of_hedge),
        }
    }

    fn tell(&self) -> Result<(), Cause> {
        self.tell_whoever_waits()?;
        let mut rival = self.rival.borrow_mut();
        match &*rival {
            Some(rival) if rival.speaks() => return Err(Cause::Overtaken),
            None if is_due(self.hedge.patience()) => {
                *rival = self.hedge.begin().map(|beside| Rival::start(self.caller, beside));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Nobody's patience is shorter than this once it has ended.
fn is_due(patience: Duration) -> bool {
    !patience.is_zero() && patience <= Duration::from_millis(1)
}

impl Rivalry<'_> {
    fn tell_whoever_waits(&self) -> Result<(), Cause> {
        match self.waiting {
            Some(waiting) if is_due(waiting.patience()) => waiting.tell(),
            _ => Ok(()),
        }
    }

    /// The first call has not served: waits for what comes of the second. Its own limits end it.
    fn outlast(&self) {
        let is_under_way = || self.rival.borrow().as_ref().is_some_and(Rival::is_under_way);
        if !is_under_way() {
            return;
        }
        // Without a timer it is given up.
        let Ok(mut timer) = Timer::new(self.caller.worker) else { return };
        while is_under_way() {
            if timer.sleep(POLL).is_err() || self.tell_whoever_waits().is_err() {
                return;
            }
        }
    }
}

/// The second call, as the first one sees it. It is given up when this is dropped before its end.
struct Rival {
    cell: Arc<Mutex<State>>,
    given_up: Arc<AtomicBool>,
}

enum State {
    UnderWay,
    Ended(Box<Second>),
    Taken,
}

/// What came of the second call.
struct Second {
    result: Result<Ended, Failure>,
}

struct Ended {
    head: ReplyHead,
    incoming: Incoming,
    guard: Held,
}

impl Second {
    fn speaks(&self) -> bool {
        self.result.as_ref().is_ok_and(|ended| !retry::is_refused(ended.head.status))
    }
}

impl Ended {
    /// As a reply of the current coroutine; `is_read`: it is the one that is read next.
    fn answer(self, caller: &Caller, call: &Call<'_>, is_read: bool) -> Answer {
        let Ended { head, incoming, guard } = self;
        let watch = incoming.shared_watch();
        if let Some(drain) = call.provider.drain {
            watch.drains(drain, caller.metrics.clone());
        }
        if is_read {
            worker::attach(Some(watch.clone()));
        }
        Answer::of(head, incoming, Attached(watch), guard)
    }
}

impl Rival {
    /// Starts it.
    fn start(caller: &Caller, beside: Beside) -> Rival {
        let cell = Arc::new(Mutex::new(State::UnderWay));
        let given_up = Arc::new(AtomicBool::new(false));
        let rival = Rival { cell: cell.clone(), given_up: given_up.clone() };
        let own = Own {
            worker: caller.worker,
            ways: caller.ways.clone(),
            downstream: caller.downstream.clone(),
            metrics: caller.metrics.clone(),
            given_up,
        };
        let outcome = Outcome { cell, metrics: caller.metrics.clone() };
        let spawned = worker::spawn_on(caller.worker, move || {
            let result = beside.with(|call| own.call(call));
            worker::attach(None);
            outcome.put(result);
        });
        // Where none starts, its work was dropped, which is an end as well.
        drop(spawned);
        rival
    }

    fn is_under_way(&self) -> bool {
        matches!(&*self.cell.lock(), State::UnderWay)
    }

    fn speaks(&self) -> bool {
        matches!(&*self.cell.lock(), State::Ended(second) if second.speaks())
    }

    /// What came of it; `None`: it is given up.
    fn into_result(self) -> Option<Second> {
        let mut state = self.cell.lock();
        if matches!(&*state, State::UnderWay) {
            return None;
        }
        match std::mem::replace(&mut *state, State::Taken) {
            State::Ended(second) => Some(*second),
            State::UnderWay | State::Taken => None,
        }
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        // What has ended may be in use.
        if self.is_under_way() {
            self.given_up.store(true, Ordering::Relaxed);
        }
    }
}

/// Where the second call's end is put, by a panic too.
struct Outcome {
    cell: Arc<Mutex<State>>,
    metrics: Arc<Metrics>,
}

impl Outcome {
    fn put(&self, result: Result<Ended, Failure>) {
        *self.cell.lock() = State::Ended(Box::new(Second { result }));
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        if matches!(&*self.cell.lock(), State::UnderWay) {
            self.metrics.count(Count::Panics);
            let (phase, sent, cause) = (Phase::Send, Sent::Part, Cause::Disconnected);
            self.put(Err(Failure { phase, sent, cause, reused: false, after_ms: 0 }));
        }
    }
}

/// What the second coroutine has of its own.
struct Own {
    worker: usize,
    ways: Arc<Ways>,
    downstream: Option<Arc<OwnedFd>>,
    metrics: Arc<Metrics>,
    given_up: Arc<AtomicBool>,
}

impl Own {
    fn call(self, call: &Call<'_>) -> Result<Ended, Failure> {
        let Own { worker, ways, downstream, metrics, given_up } = self;
        let guard = metrics.hold(Gauge::UpstreamInFlight, 1);
        let provider = call.provider;
        let way = ways.of(provider)?;
        let watch =
            Watch::beside(worker, provider.dial_fence(), downstream, call.timeouts, given_up);
        let malformed = || watch.failure(Cause::Malformed);
        let address = Address::of(call.url).ok_or_else(malformed)?;
        let connection = way.connection(call.url, &address, provider, &watch)?;
        let (head, incoming) = http::call(connection, &address, call, watch.clone())?;
        let_live(call, &head, &watch);
        Ok(Ended { head, incoming, guard })
    }
}
