//! The record of one exchange: filled in on the way, written exactly once when it is dropped.

use std::time::Instant;

use super::Core;

/// What is known of one exchange. It logs itself when it goes, so no exit can skip it.
pub struct Note {
    /// The id that the downstream is told.
    pub id: String,
    /// Name of the user, once known.
    pub user: String,
    /// Name of the provider, once known.
    pub provider: String,
    /// Name of the endpoint, once known.
    pub endpoint: &'static str,
    /// The model as it was asked for.
    pub model_asked: String,
    /// The model that the upstream is asked for.
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
    /// The browser origin that may read the answer.
    pub allow_origin: Option<Vec<u8>>,
    /// When the head was complete.
    pub begun: Instant,
    /// When the first attempt began.
    pub called_at: Option<Instant>,
    /// When the upstream's head was there.
    pub answered_at: Option<Instant>,
    /// The last instant that the exchange looked at the clock.
    pub ended_at: Instant,
    method: String,
    path: String,
}

impl Note {
    /// Begins a note. `path` carries no query: a key may stand in it.
    pub fn begin(core: &Core, method: &str, path: &str) -> Note {
        let now = core.now();
        Note {
            id: core.next_id(),
            user: String::new(),
            provider: String::new(),
            endpoint: "",
            model_asked: String::new(),
            model_served: String::new(),
            status: 0,
            bytes_in: 0,
            bytes_out: 0,
            attempts: 0,
            end: "panic",
            allow_origin: None,
            begun: now,
            called_at: None,
            answered_at: None,
            ended_at: now,
            method: method.to_owned(),
            path: path.to_owned(),
        }
    }

    /// Microseconds spent in the gateway up to `now`, the upstream's time taken out.
    pub fn overhead_us(&self, now: Instant) -> u64 {
        let all = now.saturating_duration_since(self.begun);
        let upstream = match (self.called_at, self.answered_at) {
            (Some(called), Some(answered)) => answered.saturating_duration_since(called),
            _ => std::time::Duration::ZERO,
        };
        all.saturating_sub(upstream).as_micros() as u64
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        let total_ms = self.ended_at.saturating_duration_since(self.begun).as_millis();
        let first_ms = match (self.called_at, self.answered_at) {
            (Some(called), Some(answered)) => {
                answered.saturating_duration_since(called).as_millis() as i64
            }
            _ => -1,
        };
        log::info!(
            target: "gproxy::request",
            "id={} user={:?} provider={:?} endpoint={} model_asked={:?} model_served={:?} \
             method={:?} path={:?} status={} end={} attempts={} bytes_in={} bytes_out={} \
             first_byte_ms={first_ms} total_ms={total_ms}",
            self.id,
            self.user,
            self.provider,
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
    }
}
