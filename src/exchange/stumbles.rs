//! Attempts that came to nothing lately, and why: the last ones, in memory.
//!
//! A row of the books tells how many attempts a request took. Whoever asks what was wrong with
//! those before the last one finds it here, also where attempts are not logged.

use std::collections::VecDeque;
use std::time::Instant;

use parking_lot::Mutex;

use super::Core;
use super::attempt::Plan;
use super::note::Note;
use crate::failure::Failure;
use crate::limits;

/// An attempt whose reply, if there was one, the upstream refused to give.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stumble {
    /// The request's id.
    pub request_id: String,
    /// The attempt's number, from 1.
    pub attempt: u32,
    /// When it began, in milliseconds since 1970, UTC.
    pub at_ms: i64,
    /// How long it took, in milliseconds.
    pub total_ms: i64,
    /// Who was called.
    pub provider: String,
    /// The place of the credential that was presented among the provider's; `None`: none was.
    pub credential: Option<usize>,
    /// The status that came; 0: none did.
    pub status: u16,
    /// Why it came to nothing.
    pub why: String,
}

/// How an attempt fell.
#[derive(Clone, Copy)]
pub(super) enum Fall {
    /// The upstream said so.
    Refused(u16),
    /// There was no reply.
    Failed(Failure),
}

/// The last of them.
#[derive(Default)]
pub struct Stumbles(Mutex<VecDeque<Stumble>>);

impl Stumbles {
    /// Keeps one that has just ended, and lets the oldest go. `before`: when the attempt before it
    /// ended.
    #[inline(never)]
    pub(super) fn keep(
        &self,
        core: &Core,
        plan: &Plan<'_>,
        note: &Note,
        before: Option<Instant>,
        fall: Fall,
    ) {
        let ended = note.answered_at.unwrap_or_else(|| core.now());
        let begun = before.or(note.called_at).unwrap_or(ended);
        let total_ms = ended.saturating_duration_since(begun).as_millis() as i64;
        let (status, why) = match fall {
            Fall::Refused(status) => (status, "refused".to_owned()),
            Fall::Failed(failure) => (0, format!("{:?} {:?}", failure.phase, failure.cause)),
        };
        self.push(Stumble {
            request_id: note.id.to_string(),
            attempt: note.attempts,
            at_ms: core.unix_ms() - total_ms,
            total_ms,
            provider: plan.provider.name.clone(),
            credential: note.credential,
            status,
            why,
        });
    }

    fn push(&self, stumble: Stumble) {
        let mut all = self.0.lock();
        if all.len() >= limits::STUMBLES_KEPT_MAX {
            all.pop_front();
        }
        all.push_back(stumble);
    }

    /// Those of a request, the first one first.
    pub fn of(&self, request_id: &str) -> Vec<Stumble> {
        let all = self.0.lock();
        all.iter().filter(|stumble| stumble.request_id == request_id).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room_and_those_of_one_request_come_in_their_order() {
        let stumbles = Stumbles::default();
        for at in 0..limits::STUMBLES_KEPT_MAX + 4 {
            let (request_id, attempt) = ((at / 2).to_string(), at as u32 % 2 + 1);
            stumbles.push(Stumble { request_id, attempt, ..Stumble::default() });
        }
        let numbers = |id: &str| -> Vec<u32> {
            stumbles.of(id).iter().map(|stumble| stumble.attempt).collect()
        };
        assert_eq!((numbers("1"), numbers("2")), (vec![], vec![1, 2]));
    }
}
