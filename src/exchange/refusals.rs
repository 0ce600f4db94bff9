//! What was refused lately, and what users were told: the last ones, in memory.
//!
//! The books have a row for what was admitted only. Whoever asks why a call did not pass finds the
//! reason here, without logs. Calls of nobody known are left out: anybody could push the others
//! out with them.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::note::Note;
use crate::dialect::refusal::Refusal;
use crate::limits;

/// A request of a user that was refused, before it was admitted or after.
#[derive(Clone, Debug, Default)]
pub struct Refused {
    /// The request's id.
    pub request_id: String,
    /// When, in milliseconds since 1970, UTC.
    pub at_ms: i64,
    /// Whose it was.
    pub user: String,
    /// Who was to serve it; empty: that was not known yet.
    pub provider: String,
    /// The endpoint's name, likewise.
    pub operation: &'static str,
    /// The model as it was asked for, likewise.
    pub model: String,
    /// The status that was told.
    pub status: u16,
    /// The sentence that was told.
    pub message: String,
}

/// The last of them.
#[derive(Default)]
pub struct Refusals(Mutex<VecDeque<Arc<Refused>>>);

impl Refusals {
    /// Keeps one, and lets the oldest go.
    pub(super) fn keep(&self, note: &Note, refusal: &Refusal, at_ms: i64) {
        let Some(user) = note.user_name() else { return };
        self.push(Refused {
            request_id: note.id.to_string(),
            at_ms,
            user: user.to_owned(),
            provider: note.provider_name().to_owned(),
            operation: note.endpoint,
            model: note.model_asked.clone(),
            status: refusal.status,
            message: refusal.message.chars().take(limits::REFUSAL_CHARS_MAX).collect(),
        });
    }

    fn push(&self, refused: Refused) {
        let mut all = self.0.lock();
        if all.len() >= limits::REFUSALS_KEPT_MAX {
            all.pop_front();
        }
        all.push_back(Arc::new(refused));
    }

    /// All that are kept, the last first.
    pub fn latest(&self) -> Vec<Arc<Refused>> {
        self.0.lock().iter().rev().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room_and_the_last_comes_first() {
        let refusals = Refusals::default();
        let most = limits::REFUSALS_KEPT_MAX as i64;
        for at_ms in 0..most + 5 {
            refusals.push(Refused { at_ms, ..Refused::default() });
        }
        let times: Vec<i64> = refusals.latest().iter().map(|refused| refused.at_ms).collect();
        assert_eq!(times, (5..most + 5).rev().collect::<Vec<_>>());
    }
}
