//! A reply on its way from an attempt to the downstream.
//!
//! An upstream's refusal is read whole before it is known whether another credential is asked, so
//! that its connection is free again and nothing of it hangs on the coroutine while the next
//! attempt is made. One that breaks off or stalls is a refusal all the same: its head has said so.
//! Everything else passes as it comes.

use std::sync::Arc;
use std::time::Duration;

use super::attempt::Plan;
use super::pool::Seat;
use super::tokens::Token;
use super::{Core, Pipe, Reply};
use crate::failure::{Cause, Failure};
use crate::limits;
use crate::metrics::{Gauge, Held};
use crate::route::snapshot::Credential;

/// A reply, and the credential with which it was got.
pub(super) struct Answer<'a, R> {
    // `None`: what came of it is in `held`.
    live: Option<R>,
    held: Option<Box<Kept>>,
    // Why no more of it came.
    broken: Option<Failure>,
    // The downstream had left when it was read.
    orphaned: bool,
    seat: Option<Seat<'a>>,
    // With what it was got: the place among the provider's, and what an account presented.
    credential: Option<(usize, &'a Credential)>,
    token: Option<Arc<Token>>,
    plan: &'a Plan<'a>,
}

/// A reply that was read, as far as it was.
struct Kept {
    status: u16,
    headers: Vec<(Box<str>, Box<[u8]>)>,
    body: Vec<u8>,
    taken: usize,
    room: Held,
}

impl<'a, R: Reply> Answer<'a, R> {
    /// A reply that passes as it comes.
    pub(super) fn live(reply: R, plan: &'a Plan<'a>) -> Answer<'a, R> {
        Answer {
            live: Some(reply),
            held: None,
            broken: None,
            orphaned: false,
            seat: None,
            credential: None,
            token: None,
            plan,
        }
    }

    /// Reads a refusal to its end, or as far as may be held. Of one that breaks off or takes too
    /// long, what came counts.
    pub(super) fn hold(mut reply: R, plan: &'a Plan<'a>, core: &Core) -> Answer<'a, R> {
        let headers = reply.headers().map(|(name, value)| (name.into(), value.into())).collect();
        let room = core.metrics.clone().hold(Gauge::HeldBytes, 0);
        let (status, body) = (reply.status(), Vec::new());
        let mut held = Kept { status, headers, body, taken: 0, room };
        let until = core.now() + Duration::from_millis(limits::REFUSAL_MS_MAX);
        let (mut ended, mut broken) = (false, None);
        while !ended && broken.is_none() && held.body.len() < limits::ERROR_HELD_BYTES_MAX {
            // Once the time is over, what is there already is taken all the same.
            let left = until.saturating_duration_since(core.now());
            reply.keep_alive(left.max(Duration::from_millis(1)));
            match reply.piece() {
                Ok(piece) => {
                    ended = piece.is_empty();
                    held.body.extend_from_slice(piece);
                    held.room.grow(held.body.capacity() as i64 - held.room.by());
                }
                Err(Failure { cause: Cause::Quiet, .. }) if core.now() < until => {}
                Err(failure) => broken = Some(failure),
            }
        }
        let broken = broken.map(|failure| match failure.cause {
            Cause::Quiet => Failure { cause: Cause::TimedOut, ..failure },
            _ => failure,
        });
        reply.keep_alive(Duration::ZERO);
        let orphaned = reply.is_orphaned();
        let live = (!ended && broken.is_none()).then_some(reply);
        let held = Some(Box::new(held));
        Answer { live, held, broken, orphaned, seat: None, credential: None, token: None, plan }
    }

    /// The same, with the credential with which it was got, and the token that an account
    /// presented.
    pub(super) fn with(self, seat: Seat<'a>, token: Option<Arc<Token>>) -> Answer<'a, R> {
        let credential = seat.credential.map(|credential| (seat.index, credential));
        Answer { seat: Some(seat), credential, token, ..self }
    }

    /// The same, with the credential's place given back.
    pub(super) fn at_rest(self) -> Answer<'a, R> {
        Answer { seat: None, ..self }
    }

    /// Nothing more of it comes.
    pub(super) fn has_ended(&self) -> bool {
        self.live.is_none()
    }

    /// Why it is not whole, although nothing more of it comes.
    pub(super) fn broken(&self) -> Option<Failure> {
        self.broken
    }

    /// What was read of it.
    pub(super) fn begun(&self) -> &[u8] {
        self.held.as_ref().map_or(&[], |held| &held.body)
    }

    /// What was asked.
    pub(super) fn plan(&self) -> &'a Plan<'a> {
        self.plan
    }

    /// The place of its credential, while it has it.
    pub(super) fn seat(&self) -> Option<&Seat<'a>> {
        self.seat.as_ref()
    }

    /// The place of the credential with which it was got among the provider's.
    pub(super) fn credential(&self) -> Option<usize> {
        self.credential.map(|(at, _)| at)
    }

    /// The secret that the upstream was shown; empty: none.
    pub(super) fn presented(&self) -> &str {
        match (&self.token, self.credential) {
            (Some(token), _) => token.expose(),
            (None, Some((_, credential))) => credential.api_key.expose(),
            (None, None) => "",
        }
    }

    /// Tokens are counted at a ceiling of its credential.
    pub(super) fn wants_tokens(&self) -> bool {
        self.seat.as_ref().is_some_and(Seat::wants_tokens)
    }

    /// Tells the credential's ceiling what was used.
    pub(super) fn used(&mut self, tokens: u64) {
        if let Some(seat) = &mut self.seat {
            seat.used(tokens);
        }
    }
}

impl<R: Reply> Reply for Answer<'_, R> {
    fn pipe(&mut self) -> Option<&mut dyn Pipe> {
        self.live.as_mut()?.pipe()
    }

    fn status(&self) -> u16 {
        let live = self.live.as_ref();
        self.held.as_ref().map_or_else(|| live.map_or(0, R::status), |held| held.status)
    }

    fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let held = self.held.as_ref();
        let live = self.live.as_ref().filter(|_| held.is_none());
        let held = held.into_iter().flat_map(|held| held.headers.iter());
        held.map(|(name, value)| (&**name, &**value)).chain(live.into_iter().flat_map(R::headers))
    }

    fn length(&self) -> Option<u64> {
        match (&self.live, &self.held) {
            (Some(live), _) => live.length(),
            (None, Some(held)) => Some(held.body.len() as u64),
            (None, None) => None,
        }
    }

    fn is_ready(&mut self) -> bool {
        let has_held = self.held.as_ref().is_some_and(|held| held.taken < held.body.len());
        has_held || self.live.as_mut().is_none_or(R::is_ready)
    }

    fn reads_on(&mut self) -> bool {
        self.live.as_mut().is_some_and(R::reads_on)
    }

    fn is_orphaned(&self) -> bool {
        self.orphaned || self.live.as_ref().is_some_and(R::is_orphaned)
    }

    fn keep_alive(&mut self, every: Duration) {
        if let Some(live) = &mut self.live {
            live.keep_alive(every);
        }
    }

    fn piece(&mut self) -> Result<&[u8], Failure> {
        if let Some(held) = &mut self.held
            && (held.taken < held.body.len() || self.live.is_none())
        {
            let from = std::mem::replace(&mut held.taken, held.body.len());
            return Ok(&held.body[from..]);
        }
        self.live.as_mut().map_or(Ok(&[]), R::piece)
    }
}
