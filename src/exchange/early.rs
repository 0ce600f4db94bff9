//! A stream that begins before its upstream speaks, so that nobody on the way takes it for dead.
//!
//! Where the provider allows it, the head goes down after a silence, and signs of life follow in
//! the dialect. Nothing of an upstream has been passed on yet: the attempts go on as though nothing
//! had been sent, and only what becomes of them in the end is told as an event.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use super::attempt::Plan;
use super::note::Note;
use super::session::Session;
use super::{Core, Downstream};
use crate::dialect::endpoint::Endpoint;
use crate::failure::Cause;
use crate::wire::body;

/// Somebody who waits for an upstream's first byte, and is told so.
pub trait Waiting {
    /// How long the upstream may stay silent before it is time to tell; zero: for ever.
    fn patience(&self) -> Duration;
    /// It was silent for so long. Why nobody waits any longer, if so.
    fn tell(&self) -> Result<(), Cause>;
}

/// The caller of a stream that may begin early.
pub(super) struct Early<'a, D: Downstream>(RefCell<State<'a, D>>);

struct State<'a, D: Downstream> {
    core: &'a Core,
    session: &'a mut Session<D>,
    endpoint: &'static Endpoint,
    head: Vec<u8>,
    // From then on it is time to tell; `None`: never again.
    due: Option<Instant>,
    every: Duration,
    signs: u64,
}

impl<'a, D: Downstream> Early<'a, D> {
    /// `None`: the answer to this request begins with its upstream's.
    pub(super) fn of(
        core: &'a Core,
        session: &'a mut Session<D>,
        plans: &[Plan<'_>],
        note: &Note,
    ) -> Option<Early<'a, D>> {
        let allows = |plan: &&Plan<'_>| plan.provider.early_headers_ms > 0;
        let plan = plans.iter().filter(allows).min_by_key(|plan| plan.provider.early_headers_ms)?;
        if !plan.is_event_stream() || !session.is_http11() {
            return None;
        }
        let (silence, every) = (plan.provider.early_headers_ms, plan.provider.keepalive_ms);
        let mut head = Vec::with_capacity(512);
        session.write_early_head(core, note, &mut head);
        Some(Early(RefCell::new(State {
            core,
            session,
            endpoint: plan.endpoint,
            head,
            due: Some(core.now() + Duration::from_millis(silence)),
            every: Duration::from_millis(every),
            signs: 0,
        })))
    }

    /// The waiting is over: what went down meanwhile is noted.
    pub(super) fn end(self, note: &mut Note) {
        let State { core, session, endpoint, head, signs, .. } = self.0.into_inner();
        if !session.is_early() {
            return;
        }
        note.status = 200;
        note.bytes_out += signs * endpoint.dialect.keep_alive().len() as u64;
        if let Some(trace) = &mut note.trace {
            trace.response_head(core, &head);
        }
    }
}

impl<D: Downstream> Waiting for Early<'_, D> {
    fn patience(&self) -> Duration {
        let state = self.0.borrow();
        let left = state.due.map(|due| due.saturating_duration_since(state.core.now()));
        left.map_or(Duration::ZERO, |left| left.max(Duration::from_millis(1)))
    }

    fn tell(&self) -> Result<(), Cause> {
        let state = &mut *self.0.borrow_mut();
        let sign = state.endpoint.dialect.keep_alive();
        let goes_on = !sign.is_empty() && !state.every.is_zero();
        state.due = goes_on.then(|| state.core.now() + state.every);
        let mut out = Vec::new();
        if !state.session.is_early() {
            out.extend_from_slice(&state.head);
            state.session.begin_early(state.endpoint);
        }
        if !sign.is_empty() {
            body::chunk_open(sign.len(), &mut out);
            out.extend_from_slice(sign);
            out.extend_from_slice(body::CHUNK_CLOSE);
            state.signs += 1;
        }
        state.session.send(&out).map_err(|_| Cause::DownstreamGone)
    }
}
