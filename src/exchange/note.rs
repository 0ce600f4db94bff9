//! The record of one exchange: filled in on the way, written exactly once when it is dropped.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Core;
use super::crowd::Share;
use super::settlement::{Part, Seen, Settlement};
use super::tokens::Token;
use super::trace::Trace;
use crate::dialect::ratelimit::Standing;
use crate::dialect::usage::Told;
use crate::metrics::{Count, Metrics, Timing};
use crate::route::snapshot::{Caller, Limits, Snapshot};
use crate::secret::KeyId;

/// The id of one exchange: 24 hexadecimal digits, of which the first 14 are the process's.
#[derive(Clone, Copy)]
pub struct RequestId {
    digits: [u8; 24],
    pub(super) process: u64,
    pub(super) number: u64,
}

/// A process has 56 bits of an id.
const PROCESS_MASK: u64 = (1 << 56) - 1;

impl RequestId {
    pub(super) fn new(process: u64, number: u64) -> RequestId {
        let mut digits = [0; 24];
        for (at, digit) in digits.iter_mut().enumerate() {
            let nibble = match at {
                0..14 => process >> (4 * (13 - at)),
                _ => number >> (4 * (23 - at)),
            };
            *digit = b"0123456789abcdef"[(nibble & 15) as usize];
        }
        RequestId { digits, process: process & PROCESS_MASK, number }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.digits).expect("hexadecimal digits are ASCII")
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is known of one exchange. It logs itself when it goes, so no exit can skip it.
pub struct Note {
    /// The id that the downstream is told.
    pub id: RequestId,
    /// The user, once known: an index into the snapshot.
    pub user: Option<usize>,
    /// The key that he presented, once known: an index into the user's.
    key: Option<usize>,
    /// The provider, once known: an index into the snapshot.
    pub provider: Option<usize>,
    /// Name of the endpoint, once known.
    pub endpoint: &'static str,
    /// The model as it was asked for.
    pub model_asked: String,
    /// The model that the upstream is asked for, or another that the body names, once it served.
    pub model_served: String,
    /// Status sent downstream; 0 when none was.
    pub status: u16,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the reply's body.
    pub bytes_out: u64,
    /// Attempts made.
    pub attempts: u32,
    /// How it ended, in a word.
    pub end: &'static str,
    /// What the upstream told of its usage.
    pub told: Told,
    /// Bytes of generated text that went by in a stream.
    pub text_bytes: u64,
    /// The reply was read to its end, though its caller had left.
    pub(super) read_on: bool,
    /// It was ended since its user's quota was spent.
    pub(super) quota_ended: bool,
    /// The last attempt got so far that something of the request may have been sent, and was not
    /// refused.
    pub(super) reached: bool,
    /// It was refused: there is no answer, though a head may have gone down.
    pub(super) refused: bool,
    /// The provider's credential that the last attempt presented, or with which the answer was got
    /// that is told, by its place among them.
    pub(super) credential: Option<usize>,
    /// Its place among the requests that are served, until it has its answer.
    pub(super) place: Option<Share>,
    /// How the user stands under the rules that count it.
    pub(super) standing: Option<Standing>,
    pub(super) settlement: Option<Settlement>,
    /// The account's token that an attempt presented, until its answer has it.
    pub(super) token: Option<Arc<Token>>,
    /// What is logged of it; `None`: nothing.
    pub(super) trace: Option<Box<Trace>>,
    /// The browser origin that may read the answer.
    pub allow_origin: Option<Vec<u8>>,
    /// When the head was complete.
    pub begun: Instant,
    /// When the first attempt began, getting a token included.
    pub called_at: Option<Instant>,
    /// When the upstream's head was there.
    pub answered_at: Option<Instant>,
    /// Time spent on the body of a reply before its head was sent down.
    pub waited: Duration,
    /// The last instant that the exchange looked at the clock.
    pub ended_at: Instant,
    method: Box<str>,
    path: Box<str>,
    snapshot: Arc<Snapshot>,
    metrics: Arc<Metrics>,
}

impl Note {
    /// Begins a note. `path` carries no query: a key may stand in it.
    pub fn begin(core: &Core, snapshot: Arc<Snapshot>, method: &str, path: &str) -> Note {
        let now = core.now();
        core.metrics.count(Count::Requests);
        Note {
            id: core.next_id(),
            user: None,
            key: None,
            credential: None,
            provider: None,
            endpoint: "",
            model_asked: String::new(),
            model_served: String::new(),
            status: 0,
            bytes_in: 0,
            bytes_out: 0,
            attempts: 0,
            end: "panic",
            told: Told::default(),
            text_bytes: 0,
            read_on: false,
            quota_ended: false,
            reached: false,
            refused: false,
            standing: None,
            settlement: None,
            place: None,
            trace: None,
            allow_origin: None,
            begun: now,
            called_at: None,
            answered_at: None,
            token: None,
            waited: Duration::ZERO,
            ended_at: now,
            method: method.into(),
            path: path.into(),
            snapshot,
            metrics: core.metrics.clone(),
        }
    }

    /// Microseconds spent in the gateway up to `now`, the upstream's time taken out.
    pub fn overhead_us(&self, now: Instant) -> u64 {
        let all = now.saturating_duration_since(self.begun);
        let upstream = match (self.called_at, self.answered_at) {
            (Some(called), Some(answered)) => answered.saturating_duration_since(called),
            _ => Duration::ZERO,
        };
        all.saturating_sub(upstream + self.waited).as_micros() as u64
    }
}

impl Note {
    /// The tables that the exchange sees.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.clone()
    }

    /// The user's name, once known.
    pub(super) fn user_name(&self) -> Option<&str> {
        self.user.map(|user| self.snapshot.users[user].name.as_str())
    }

    /// Whose part of what users share it takes; `None`: there is nobody to share with. All who are
    /// not known are one.
    pub(super) fn sharer(&self) -> Option<&str> {
        let user = self.user_name();
        let is_alone = user.is_some() && self.snapshot.users.len() < 2;
        (!is_alone).then(|| user.unwrap_or_default())
    }

    /// The ceilings that hold for it.
    pub(super) fn limits(&self) -> &Limits {
        &self.snapshot.limits
    }

    /// The provider's name; empty: not known yet.
    pub(super) fn provider_name(&self) -> &str {
        self.provider.map_or("", |at| &self.snapshot.providers[at].name)
    }

    /// It is known who calls.
    pub(super) fn called_by(&mut self, caller: Option<Caller>) {
        self.user = caller.map(|caller| caller.user);
        self.key = caller.map(|caller| caller.key);
    }

    /// The key that was presented: an index into the user's.
    pub(super) fn key(&self) -> Option<usize> {
        self.key
    }

    /// The name of the key that was presented.
    pub(super) fn key_id(&self) -> KeyId {
        let (Some(user), Some(key)) = (self.user, self.key) else { return KeyId::default() };
        self.snapshot.key(Caller { user, key }).id
    }

    /// All of it, in milliseconds.
    pub(super) fn total_ms(&self) -> i64 {
        self.ended_at.saturating_duration_since(self.begun).as_millis() as i64
    }

    /// From the first attempt to the upstream's head, in milliseconds; -1: none came.
    pub(super) fn first_byte_ms(&self) -> i64 {
        match (self.called_at, self.answered_at) {
            (Some(called), Some(answered)) => {
                answered.saturating_duration_since(called).as_millis() as i64
            }
            _ => -1,
        }
    }

    /// What its bill depends on, at the end.
    pub(super) fn seen(&self) -> Seen {
        let whole = self.end == "ok" || self.read_on;
        Seen {
            told: self.told,
            text_bytes: self.text_bytes,
            bytes_in: self.bytes_in,
            status: self.status,
            whole,
            left: !whole && self.reached && !self.refused && self.end != "refused",
            refused: self.refused,
        }
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        self.metrics.count(Count::Ended);
        self.metrics.answered(self.status);
        let total_ms = self.total_ms().unsigned_abs();
        let first_byte_ms = u64::try_from(self.first_byte_ms()).ok();
        if self.called_at.is_some() {
            self.metrics.observe(Timing::Total, total_ms);
            if let Some(at) = self.provider {
                self.snapshot.providers[at].tally.ended(self.status, total_ms, first_byte_ms);
            }
        }
        if let Some(first_ms) = first_byte_ms {
            self.metrics.observe(Timing::FirstByte, first_ms);
        }
        let settlement = self.settlement.take();
        let part = Part {
            model_asked: &self.model_asked,
            model_served: &self.model_served,
            seen: self.seen(),
            end: self.end,
        };
        if let Some((slot, row)) =
            settlement.and_then(|settlement| settlement.settle(self, &self.snapshot, &part))
        {
            slot.record(row);
        }
        let (user, provider) = (self.user_name().unwrap_or_default(), self.provider_name());
        let (total_ms, first_ms) = (self.total_ms(), self.first_byte_ms());
        log::info!(
            target: "gproxy::request",
            "id={} user={user:?} provider={provider:?} endpoint={} model_asked={:?} \
             model_served={:?} method={:?} path={:?} status={} end={} attempts={} \
             bytes_in={} bytes_out={} first_byte_ms={first_ms} total_ms={total_ms}",
            self.id,
            self.endpoint,
            self.model_asked,
            self.model_served,
            self.method,
            self.path,
            self.status,
            self.end,
            self.attempts,
            self.bytes_in,
            self.bytes_out,
        );
        if let Some(trace) = self.trace.take() {
            trace.hand_over(self, &self.snapshot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_process_and_a_number() {
        let id = RequestId::new(0xffab_cdef_0123_4567, 0x1_2345_6789);
        assert_eq!(id.as_str(), "abcdef012345670123456789");
    }
}
