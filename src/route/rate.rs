//! Rate limits: sliding windows, tokens that are reserved, requests side by side.
//!
//! Pure, over a time in milliseconds.

mod sliding;
#[cfg(test)]
mod tests;

use self::sliding::Sliding;
use crate::dialect::ratelimit::{Standing, Window};
use crate::route::glob::Glob;
use crate::route::snapshot::{Key, User};

/// Milliseconds of a minute.
pub const MINUTE_MS: i64 = 60_000;
/// The name of the limit of requests side by side.
pub const IN_FLIGHT: &str = "in_flight";
/// When there may be room again under one: nobody knows.
pub const IN_FLIGHT_MS: Option<i64> = Some(1_000);
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
    /// When there may be room again, in milliseconds; at least 1. `None`: never for this request.
    pub reset_ms: Option<i64>,
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
    /// Requests of a day that came before the process did. Days come in their order.
    pub fn remember(&mut self, day: i64, requests: u64) {
        self.day.remember(day, DAY_MS, requests);
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
            if limit == 0 || sliding.level(now_ms, limit).saturating_add(wanted) > limit {
                return limited(counter, limit, sliding.reset_ms(now_ms, limit, wanted));
            }
        }
        match rule.in_flight {
            Some(0) => limited(IN_FLIGHT, 0, None),
            Some(limit) if self.in_flight >= limit => limited(IN_FLIGHT, limit, IN_FLIGHT_MS),
            _ => Ok(()),
        }
    }

    /// Requests of the minute and of the day, tokens of the rule's window, requests under way.
    pub fn levels(&mut self, rule: &RateLimit, now_ms: i64) -> [u64; 4] {
        let windows = [
            (rule.rpm, &mut self.minute, MINUTE_MS),
            (rule.rpd, &mut self.day, DAY_MS),
            (rule.total_tokens, &mut self.tokens, rule.window_ms),
        ];
        let [minute, day, tokens] = windows.map(|(limit, sliding, window_ms)| {
            sliding.turn(now_ms, window_ms);
            sliding.level(now_ms, limit.unwrap_or(u64::MAX))
        });
        [minute, day, tokens, self.in_flight]
    }

    /// Adds how this rule stands.
    pub fn stand(&mut self, rule: &RateLimit, now_ms: i64, standing: &mut Standing) {
        let requests = [(rule.rpm, &mut self.minute, MINUTE_MS), (rule.rpd, &mut self.day, DAY_MS)];
        for (limit, sliding, window_ms) in requests {
            let Some(limit) = limit else { continue };
            sliding.turn(now_ms, window_ms);
            let window = sliding.window(now_ms, limit);
            standing.requests = Window::tighter(standing.requests, window);
        }
        if let Some(limit) = rule.total_tokens {
            self.tokens.turn(now_ms, rule.window_ms);
            let window = self.tokens.window(now_ms, limit);
            standing.tokens = Window::tighter(standing.tokens, window);
        }
    }

    /// Counts a request that was checked.
    pub fn enter(&mut self, rule: &RateLimit, tokens: u64, now_ms: i64) {
        self.add(rule, 1, tokens, now_ms);
        self.in_flight += 1;
    }

    /// Counts requests and tokens that come within one that was entered.
    pub fn add(&mut self, rule: &RateLimit, requests: u64, tokens: u64, now_ms: i64) {
        self.minute.turn(now_ms, MINUTE_MS);
        self.day.turn(now_ms, DAY_MS);
        self.tokens.turn(now_ms, rule.window_ms);
        self.minute.add(now_ms, requests);
        self.day.add(now_ms, requests);
        self.tokens.add(now_ms, tokens);
    }

    /// Takes back what was reserved beyond what was used, or adds what was used beyond it. `at_ms`:
    /// when the request was entered.
    pub fn leave(&mut self, reserved: u64, used: u64, at_ms: i64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.tokens.settle(reserved, used, at_ms);
    }
}
