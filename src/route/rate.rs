//! Rate limits: sliding windows of two buckets, tokens that are reserved, requests side by side.
//!
//! Pure, over a time in milliseconds. The bucket before counts by the part of it that the window
//! still covers, so that no edge lets a double rate pass. Where requests came unevenly within that
//! bucket, the estimate errs by at most what came in it.

#[cfg(test)]
mod tests;

use crate::dialect::ratelimit::{Standing, Window};
use crate::route::glob::Glob;
use crate::route::snapshot::{Key, User};

/// Milliseconds of a minute.
pub const MINUTE_MS: i64 = 60_000;
/// The name of the limit of requests side by side.
pub const IN_FLIGHT: &str = "in_flight";
/// When there may be room again under one: nobody knows.
pub const IN_FLIGHT_MS: i64 = 1_000;
/// Milliseconds of a day; windows of a day begin at midnight UTC.
pub const DAY_MS: i64 = 86_400_000;

/// One rule of a user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Models, by the name as asked without its provider's prefix.
    pub pattern: Glob,
    /// Requests in a minute.
    pub rpm: Option<u64>,
    /// Requests in a day.
    pub rpd: Option<u64>,
    /// Tokens in `window_ms`.
    pub total_tokens: Option<u64>,
    /// Of `total_tokens`.
    pub window_ms: i64,
    /// Requests side by side.
    pub in_flight: Option<u64>,
}

impl User {
    /// Whether any quota or limit is asked before he calls with this key.
    pub fn is_limited(&self, key: Option<&Key>) -> bool {
        let of_key = key.is_some_and(|key| key.in_flight.is_some());
        of_key || !(self.quotas.is_empty() && self.rate_limits.is_empty())
    }
}

/// A rule that a request would break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limited {
    /// The rule's pattern; of a key's limit what people call the key.
    pub pattern: Box<str>,
    /// It is a limit of the key and not a rule of the user's.
    pub of_key: bool,
    /// `rpm`, `rpd`, `total_tokens` or `in_flight`.
    pub counter: &'static str,
    /// What it allows.
    pub limit: u64,
    /// When there may be room again, in milliseconds; at least 1.
    pub reset_ms: i64,
}

/// A count over a sliding window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sliding {
    bucket: i64,
    before: u64,
    now: u64,
    /// Of the buckets; 0: nothing was counted yet.
    window_ms: i64,
}

impl Sliding {
    /// Moves to the bucket of `now_ms`. Where a rule has another window now, what counted in the
    /// old one counts as if it had just come.
    fn turn(&mut self, now_ms: i64, window_ms: i64) {
        let bucket = now_ms.div_euclid(window_ms);
        if self.window_ms != window_ms {
            let old_ms = self.window_ms;
            if old_ms > 0 {
                self.turn(now_ms, old_ms);
                self.now = self.level(now_ms, old_ms);
            }
            *self = Sliding { bucket, before: 0, now: self.now, window_ms };
        }
        if bucket > self.bucket {
            self.before = if bucket == self.bucket + 1 { self.now } else { 0 };
            self.now = 0;
            self.bucket = bucket;
        }
    }

    /// What counts in the window that ends now, rounded up.
    fn level(&self, now_ms: i64, window_ms: i64) -> u64 {
        let left = (window_ms - now_ms.rem_euclid(window_ms)) as u64;
        let before = match self.before.checked_mul(left) {
            Some(before) => before.div_ceil(window_ms as u64),
            // So many that it takes the double width.
            None => (u128::from(self.before) * u128::from(left)).div_ceil(window_ms as u128) as u64,
        };
        self.now.saturating_add(before)
    }

    /// How it stands under a limit.
    fn window(&self, now_ms: i64, window_ms: i64, limit: u64) -> Window {
        let left = window_ms - now_ms.rem_euclid(window_ms);
        let reset_ms = match (self.now, self.before) {
            (0, 0) => 0,
            (0, _) => left,
            _ => left + window_ms,
        };
        Window { limit, remaining: limit.saturating_sub(self.level(now_ms, window_ms)), reset_ms }
    }

    /// Puts what was used in the place of what was reserved at `at_ms`, in the bucket of then. What
    /// is older than both buckets counts no more.
    fn settle(&mut self, reserved: u64, used: u64, at_ms: i64) {
        let count = match self.bucket - at_ms.div_euclid(self.window_ms.max(1)) {
            ..=0 => &mut self.now,
            1 => &mut self.before,
            _ => return,
        };
        *count = count.saturating_add(used).saturating_sub(reserved);
    }

    /// When the level will have fallen such that `wanted` more fit below `limit`.
    fn reset_ms(&self, now_ms: i64, window_ms: i64, limit: u64, wanted: u64) -> i64 {
        let left = window_ms - now_ms.rem_euclid(window_ms);
        let room = limit.saturating_sub(wanted);
        if self.now <= room && self.before > 0 {
            // Within this bucket: the part of the one before must shrink to what is left of it.
            let covered = i128::from(room - self.now) * i128::from(window_ms);
            let covered = (covered / i128::from(self.before)) as i64;
            return (left - covered).clamp(1, left);
        }
        let covered = i128::from(room.min(self.now)) * i128::from(window_ms);
        let covered = (covered / i128::from(self.now.max(1))) as i64;
        (left + window_ms - covered).max(1)
    }
}

/// The counters of one rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    minute: Sliding,
    day: Sliding,
    tokens: Sliding,
    in_flight: u64,
}

impl Counters {
    /// Requests of a day that came before the process did.
    pub fn remember(&mut self, day: i64, requests: u64) {
        self.day.turn(day * DAY_MS, DAY_MS);
        if self.day.bucket == day {
            self.day.now += requests;
        } else if self.day.bucket == day + 1 {
            self.day.before += requests;
        }
    }

    /// Whether one more request of so many tokens may pass; nothing is counted yet.
    pub fn check(&mut self, rule: &RateLimit, tokens: u64, now_ms: i64) -> Result<(), Limited> {
        let limited = |counter, limit, reset_ms| {
            let pattern = rule.pattern.as_str().into();
            Err(Limited { pattern, of_key: false, counter, limit, reset_ms })
        };
        let windows = [
            ("rpm", rule.rpm, &mut self.minute, MINUTE_MS, 1),
            ("rpd", rule.rpd, &mut self.day, DAY_MS, 1),
            ("total_tokens", rule.total_tokens, &mut self.tokens, rule.window_ms, tokens),
        ];
        for (counter, limit, sliding, window_ms, wanted) in windows {
            let Some(limit) = limit else { continue };
            sliding.turn(now_ms, window_ms);
            if sliding.level(now_ms, window_ms).saturating_add(wanted) > limit {
                let reset_ms = sliding.reset_ms(now_ms, window_ms, limit, wanted);
                return limited(counter, limit, reset_ms);
            }
        }
        match rule.in_flight {
            Some(limit) if self.in_flight >= limit => limited(IN_FLIGHT, limit, IN_FLIGHT_MS),
            _ => Ok(()),
        }
    }

    /// Requests of the minute and of the day, tokens of the rule's window, requests under way.
    pub fn levels(&mut self, rule: &RateLimit, now_ms: i64) -> [u64; 4] {
        let windows = [
            (&mut self.minute, MINUTE_MS),
            (&mut self.day, DAY_MS),
            (&mut self.tokens, rule.window_ms),
        ];
        let [minute, day, tokens] = windows.map(|(sliding, window_ms)| {
            sliding.turn(now_ms, window_ms);
            sliding.level(now_ms, window_ms)
        });
        [minute, day, tokens, self.in_flight]
    }

    /// Adds how this rule stands.
    pub fn stand(&mut self, rule: &RateLimit, now_ms: i64, standing: &mut Standing) {
        let requests = [(rule.rpm, &mut self.minute, MINUTE_MS), (rule.rpd, &mut self.day, DAY_MS)];
        for (limit, sliding, window_ms) in requests {
            let Some(limit) = limit else { continue };
            sliding.turn(now_ms, window_ms);
            let window = sliding.window(now_ms, window_ms, limit);
            standing.requests = Window::tighter(standing.requests, window);
        }
        if let Some(limit) = rule.total_tokens {
            self.tokens.turn(now_ms, rule.window_ms);
            let window = self.tokens.window(now_ms, rule.window_ms, limit);
            standing.tokens = Window::tighter(standing.tokens, window);
        }
    }

    /// Counts a request that was checked.
    pub fn enter(&mut self, rule: &RateLimit, tokens: u64, now_ms: i64) {
        self.minute.turn(now_ms, MINUTE_MS);
        self.day.turn(now_ms, DAY_MS);
        self.tokens.turn(now_ms, rule.window_ms);
        self.minute.now += 1;
        self.day.now += 1;
        self.tokens.now = self.tokens.now.saturating_add(tokens);
        self.in_flight += 1;
    }

    /// Takes back what was reserved beyond what was used, or adds what was used beyond it. `at_ms`:
    /// when the request was entered.
    pub fn leave(&mut self, reserved: u64, used: u64, at_ms: i64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.tokens.settle(reserved, used, at_ms);
    }
}
