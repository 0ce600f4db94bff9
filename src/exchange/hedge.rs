//! A second credential beside a first one that is silent for longer than is usual.
//!
//! Where the provider allows it and nothing has come after the learned 99th percentile of first
//! bytes, the same request goes to another of its credentials. The first that speaks is passed on
//! and the other one is given up; a refusal is no speaking while the other is still under way. The
//! caller is charged for what he gets, once. Both attempts count, are logged and teach what they
//! showed; of one that was given up nothing is known, and nothing is held against it.
//!
//! The request may be executed twice: that is the price, and why it has to be asked for.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer::Answer;
use super::attempt::{self, Plan, Sending, UpHeaders};
use super::note::Note;
use super::pace::Pace;
use super::pool::{self, Search, Seat};
use super::{Call, Core, Reply, Upstream};
use crate::dialect::endpoint::Endpoint;
use crate::dialect::trouble::Trouble;
use crate::failure::{Cause, Failure};
use crate::limits;
use crate::metrics::{Count, Gauge, Held};
use crate::route::health::{self, Lesson};
use crate::route::retry::{self, Next, Outcome};
use crate::route::snapshot::{Snapshot, Timeouts};

/// Somebody who has a second credential asked while the first one is silent.
pub trait Hedge {
    /// How long the first one may still be silent; zero: for ever.
    fn patience(&self) -> Duration;
    /// It was silent for so long: what is asked beside it, if anything is.
    fn begin(&self) -> Option<Beside>;
}

/// A call with all that it needs, so that it lives without the frames of the one beside it.
pub struct Beside {
    snapshot: Arc<Snapshot>,
    provider: usize,
    timeouts: Timeouts,
    method: String,
    url: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    endpoint: &'static Endpoint,
    model_served: String,
    stream: bool,
    alt_sse: bool,
    wants_usage: bool,
    _held: [Held; 2],
}

impl Beside {
    /// Makes something of the call.
    pub fn with<T>(&self, make: impl FnOnce(&Call<'_>) -> T) -> T {
        make(&Call {
            provider: &self.snapshot.providers[self.provider],
            timeouts: self.timeouts,
            method: &self.method,
            url: &self.url,
            headers: &UpHeaders::copied(&self.headers),
            body: &self.body,
            source: None,
            endpoint: self.endpoint,
            model_served: &self.model_served,
            stream: self.stream,
            alt_sse: self.alt_sse,
            wants_usage: self.wants_usage,
            upgrade: None,
            waiting: None,
        })
    }
}

/// What came of two calls, each `None` when it was given up; the second also when it was not made.
pub struct Raced<R> {
    /// Of the one that was made first.
    pub first: Option<Result<R, Failure>>,
    /// Of the one beside it.
    pub second: Option<Result<R, Failure>>,
}

impl<R: Reply> Raced<R> {
    /// Of a call that nothing was made beside.
    pub fn alone(result: Result<R, Failure>) -> Raced<R> {
        Raced { first: Some(result), second: None }
    }
}

/// Whether a call has spoken, so that nobody waits for the one beside it.
pub fn speaks<R: Reply>(result: &Result<R, Failure>) -> bool {
    result.as_ref().is_ok_and(|reply| !retry::is_refused(reply.status()))
}

/// The pace of a call that may be hedged; `None`: it may not.
pub(super) fn pace_of<'c>(
    core: &'c Core,
    plan: &Plan<'_>,
    seat: &Seat<'_>,
    sending: Sending<'_>,
) -> Option<&'c Pace> {
    let provider = plan.provider;
    provider.hedges(plan.endpoint)?;
    let is_plain = seat.credential.is_some_and(|credential| credential.account.is_none());
    // What is read once cannot be sent twice.
    let is_held = sending.source.is_none() && is_plain && !plan.is_upgraded();
    let model = plan.target.model_served;
    is_held.then(|| core.paces.of(provider.place, model, plan.is_stream()))?
}

/// The second call, while the first one is made.
struct Second<'a, 's, 'n> {
    core: &'a Core,
    plan: &'a Plan<'a>,
    search: &'s mut Search<'a>,
    sending: Sending<'s>,
    note: &'n mut Note,
    pace: &'a Pace,
    // From then on it is time; `None`: never, or no more.
    due: Option<Instant>,
    begun: Option<(Seat<'a>, Instant)>,
}

impl Hedge for RefCell<Second<'_, '_, '_>> {
    fn patience(&self) -> Duration {
        let second = self.borrow();
        let left = second.due.map(|due| due.saturating_duration_since(second.core.now()));
        left.map_or(Duration::ZERO, |left| left.max(Duration::from_millis(1)))
    }

    fn begin(&self) -> Option<Beside> {
        let second = &mut *self.borrow_mut();
        second.due = None;
        second.begin()
    }
}

impl<'a> Second<'a, '_, '_> {
    fn begin(&mut self) -> Option<Beside> {
        let Second { core, plan, sending, .. } = *self;
        let snapshot = self.note.snapshot();
        let bytes = sending.body.len() as i64;
        let level = core.metrics.level(Gauge::HeldBytes);
        let has_room = level.saturating_add(bytes) <= snapshot.limits.held_bytes_max as i64
            && core.metrics.level(Gauge::Rivals) < limits::RIVALS_MAX;
        if (self.note.attempts as usize) >= sending.attempts_max || !has_room {
            return None;
        }
        let seat = self.search.seat()?.beside();
        // One without a key of its own is none to be sent, and the credit is for those that are.
        let credential = seat.credential.filter(|one| one.account.is_none())?;
        if !self.pace.spend() {
            return None;
        }
        self.search.tried |= pool::bit(seat.index);
        core.metrics.count(Count::Hedges);
        let secret = Some(credential.api_key.expose());
        let fields = attempt::headers(plan, secret);
        let timeouts = attempt::timeouts(core, plan, self.note);
        attempt::count(core, plan, self.note);
        let number = self.note.attempts;
        if let Some(trace) = &mut self.note.trace {
            trace.beside(core, number, plan, &fields, secret, sending.body);
        }
        let hold = |gauge, by| core.metrics.clone().hold(gauge, by);
        let held = [hold(Gauge::HeldBytes, bytes), hold(Gauge::Rivals, 1)];
        let mut headers = Vec::new();
        fields.each(&mut |name, value| headers.push((name.to_owned(), value.to_vec())));
        let call = attempt::call_of(plan, timeouts, &fields, sending);
        let beside = Beside {
            provider: plan.target.provider,
            timeouts,
            method: call.method.to_owned(),
            url: call.url.to_owned(),
            headers,
            body: call.body.to_vec(),
            endpoint: call.endpoint,
            model_served: call.model_served.to_owned(),
            stream: call.stream,
            alt_sse: call.alt_sse,
            wants_usage: call.wants_usage,
            _held: held,
            snapshot,
        };
        self.begun = Some((seat, core.now()));
        Some(beside)
    }
}

/// One attempt, and one beside it when it is silent for too long. What came of both is learned and
/// noted; what is told is what came of the one that counts.
#[allow(clippy::too_many_arguments)]
#[inline(never)]
pub(super) fn one<'a, U: Upstream>(
    core: &'a Core,
    up: &mut U,
    plan: &'a Plan<'a>,
    seat: Seat<'a>,
    search: &mut Search<'a>,
    pace: &'a Pace,
    sending: Sending<'_>,
    note: &mut Note,
) -> Result<Answer<'a, U::Reply>, Failure> {
    note.credential = Some(seat.index);
    let secret = seat.credential.map(|credential| credential.api_key.expose());
    let headers = attempt::headers(plan, secret);
    let timeouts = attempt::begin(core, plan, &headers, secret, sending, note);
    pace.earn();
    let begun = core.now();
    let floor_ms = plan.provider.hedge.unwrap_or_default();
    let wait_ms = pace.percentile_ms().map(|ms| ms.max(floor_ms));
    let due = wait_ms.map(|ms| begun + Duration::from_millis(ms));
    let second = Second { core, plan, search, sending, note, pace, due, begun: None };
    let second = RefCell::new(second);
    let Raced { first, second: other } =
        up.race(&attempt::call_of(plan, timeouts, &headers, sending), &second);
    let Second { begun: second, note, .. } = second.into_inner();
    let now = core.now();
    let ms_since = |begun: Instant| now.saturating_duration_since(begun).as_millis() as u64;
    // One that was given up had not begun by now; those that failed say nothing of the pace.
    if first.as_ref().is_none_or(speaks) {
        pace.learn(ms_since(begun));
    }
    let Some((other_seat, other_begun)) = second else {
        let result = first.unwrap_or(Err(given_up()));
        attempt::noted(core, &result, note);
        return attempt::judge(core, plan, seat, result, note);
    };
    if other.as_ref().is_some_and(speaks) {
        pace.learn(ms_since(other_begun));
    }
    let mut pair = [(seat, first), (other_seat, other)];
    let winner = winner(&pair[0].1, &pair[1].1);
    if winner == 1 {
        core.metrics.count(Count::HedgesWon);
        pair.reverse();
    }
    let [(seat, result), (lesser_seat, lesser)] = pair;
    set_aside(core, plan, lesser_seat, lesser, 1 - winner, note);
    if let Some(trace) = &mut note.trace {
        trace.turn_to_last_but(1 - winner);
    }
    note.credential = Some(seat.index);
    let result = result.unwrap_or(Err(given_up()));
    attempt::noted(core, &result, note);
    attempt::judge(core, plan, seat, result, note)
}

/// Which of two counts: the one that speaks; else the one after which nothing more may be tried;
/// else one that answered.
fn winner<R: Reply>(
    first: &Option<Result<R, Failure>>,
    second: &Option<Result<R, Failure>>,
) -> usize {
    let rank = |result: &Option<Result<R, Failure>>| match result {
        None => 0,
        Some(result) if speaks(result) => 4,
        Some(Err(Failure { cause: Cause::DownstreamGone, .. })) => 3,
        Some(Err(failure)) if retry::after(Outcome::Failed(*failure), true) == Next::Final => 2,
        Some(Ok(_)) => 1,
        Some(Err(_)) => 0,
    };
    usize::from(rank(second) > rank(first))
}

/// What the other one showed. Its refusal is not read: who has an answer does not wait for it.
fn set_aside<R: Reply>(
    core: &Core,
    plan: &Plan<'_>,
    mut seat: Seat<'_>,
    result: Option<Result<R, Failure>>,
    which: usize,
    note: &mut Note,
) {
    if let Some(trace) = &mut note.trace {
        trace.turn_to_last_but(1 - which);
    }
    if let Some(result) = &result {
        attempt::noted(core, result, note);
    }
    if let Some(trace) = &mut note.trace {
        trace.overtaken(core);
    }
    let lesson = match result {
        None => Lesson::Nothing,
        // It may be about no more than the request.
        Some(Ok(reply)) if reply.status() == 403 => Lesson::Nothing,
        Some(Ok(reply)) if retry::is_refused(reply.status()) => {
            attempt::shown(core, plan, &reply, b"", false)
        }
        Some(Ok(reply)) => health::lesson_of(reply.status(), Trouble::UNSAID),
        Some(Err(failure)) => {
            attempt::count_failed(core, plan);
            health::shown_by(&failure)
        }
    };
    seat.learn(lesson);
}

/// Unreachable because an upstream tells what came of at least one of two calls.
fn given_up() -> Failure {
    use crate::failure::{Phase, Sent};
    let (phase, sent, cause) = (Phase::AwaitHead, Sent::Part, Cause::Overtaken);
    Failure { phase, sent, cause, reused: false, after_ms: limits::HANG_UP_POLL_MS }
}
