//! The numbers of one provider, and their text.
//!
//! A provider has its own, which stand beside each other in its own lines of the cache; they go
//! with it when it is taken out of the configuration, so there are never more labels than
//! providers.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{CLASSES, Sum, TOKENS, class_of};
use crate::money;

/// What one provider was asked, and what came of it.
#[derive(Default)]
#[repr(align(64))]
pub struct Tally {
    attempts: AtomicU64,
    attempts_failed: AtomicU64,
    classes: [AtomicU64; CLASSES.len()],
    sums: [AtomicU64; TOKENS.len() + 1],
    total_ms: AtomicU64,
    first_bytes: AtomicU64,
    first_byte_ms: AtomicU64,
}

/// A name, its type, what it says, and how it is written for one provider.
type Family = (&'static str, &'static str, &'static str, fn(&Tally, &str, &str, &mut String));

const FAMILIES: [Family; 7] = [
    ("gproxy_provider_requests_total", "counter", "Requests that called it.", requests),
    ("gproxy_provider_attempts_total", "counter", "Attempts at it.", attempts),
    ("gproxy_provider_attempts_failed_total", "counter", "Those without a usable reply.", failed),
    ("gproxy_provider_tokens_total", "counter", "Tokens by kind.", tokens),
    ("gproxy_provider_cost_usd_total", "counter", "USD.", cost),
    ("gproxy_provider_request_seconds", "summary", "Requests that called it.", request_seconds),
    ("gproxy_provider_first_byte_seconds", "summary", "To the reply's head.", first_byte_seconds),
];

impl Tally {
    /// An attempt begins.
    pub fn attempted(&self) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
    }

    /// One ended without a usable reply.
    pub fn failed(&self) {
        self.attempts_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds to a sum.
    pub fn sum(&self, sum: Sum, by: u64) {
        if by > 0 {
            self.sums[sum as usize].fetch_add(by, Ordering::Relaxed);
        }
    }

    /// A request ended that had called it. `status`: what its caller was sent; 0: nothing.
    pub fn ended(&self, status: u16, total_ms: u64, first_byte_ms: Option<u64>) {
        self.classes[class_of(status)].fetch_add(1, Ordering::Relaxed);
        self.total_ms.fetch_add(total_ms, Ordering::Relaxed);
        if let Some(ms) = first_byte_ms {
            self.first_bytes.fetch_add(1, Ordering::Relaxed);
            self.first_byte_ms.fetch_add(ms, Ordering::Relaxed);
        }
    }
}

/// The numbers of all providers, by name.
pub(super) fn write(tallies: &[(&str, &Tally)], text: &mut String) {
    for (name, kind, help, one) in FAMILIES {
        let _ = writeln!(text, "# HELP {name} By provider: {help}\n# TYPE {name} {kind}");
        for (provider, tally) in tallies {
            one(tally, name, provider, text);
        }
    }
}

fn load(number: &AtomicU64) -> u64 {
    number.load(Ordering::Relaxed)
}

// A provider's name needs no escape: see the configuration.
fn line(text: &mut String, name: &str, provider: &str, value: impl std::fmt::Display) {
    let _ = writeln!(text, "{name}{{provider=\"{provider}\"}} {value}");
}

fn requests(tally: &Tally, name: &str, provider: &str, text: &mut String) {
    for (class, number) in CLASSES.iter().zip(&tally.classes) {
        let number = load(number);
        let _ = writeln!(text, "{name}{{provider=\"{provider}\",class=\"{class}\"}} {number}");
    }
}

fn attempts(tally: &Tally, name: &str, provider: &str, text: &mut String) {
    line(text, name, provider, load(&tally.attempts));
}

fn failed(tally: &Tally, name: &str, provider: &str, text: &mut String) {
    line(text, name, provider, load(&tally.attempts_failed));
}

fn tokens(tally: &Tally, name: &str, provider: &str, text: &mut String) {
    for (sum, kind) in TOKENS {
        let total = load(&tally.sums[sum as usize]);
        let _ = writeln!(text, "{name}{{provider=\"{provider}\",kind=\"{kind}\"}} {total}");
    }
}

fn cost(tally: &Tally, name: &str, provider: &str, text: &mut String) {
    let cost = i64::try_from(load(&tally.sums[Sum::Cost as usize])).unwrap_or(i64::MAX);
    line(text, name, provider, money::text(cost));
}

fn request_seconds(tally: &Tally, name: &str, provider: &str, text: &mut String) {
    let count = tally.classes.iter().map(load).sum();
    seconds(text, name, provider, load(&tally.total_ms), count);
}

fn first_byte_seconds(tally: &Tally, name: &str, provider: &str, text: &mut String) {
    seconds(text, name, provider, load(&tally.first_byte_ms), load(&tally.first_bytes));
}

fn seconds(text: &mut String, name: &str, provider: &str, ms: u64, count: u64) {
    let sum = format!("{}.{:03}", ms / 1_000, ms % 1_000);
    line(text, &format!("{name}_sum"), provider, sum);
    line(text, &format!("{name}_count"), provider, count);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_provider_has_its_numbers_under_its_name() {
        let (one, other) = (Tally::default(), Tally::default());
        one.attempted();
        one.attempted();
        one.failed();
        one.ended(200, 1_250, Some(250));
        one.ended(0, 1, None);
        one.sum(Sum::Cost, 5_400_000_000);
        one.sum(Sum::CacheRead, 9);
        other.ended(503, 7, None);
        let mut text = String::new();
        write(&[("one", &one), ("other", &other)], &mut text);
        for line in [
            "gproxy_provider_requests_total{provider=\"one\",class=\"2xx\"} 1",
            "gproxy_provider_requests_total{provider=\"one\",class=\"none\"} 1",
            "gproxy_provider_requests_total{provider=\"other\",class=\"5xx\"} 1",
            "gproxy_provider_attempts_total{provider=\"one\"} 2",
            "gproxy_provider_attempts_failed_total{provider=\"one\"} 1",
            "gproxy_provider_tokens_total{provider=\"one\",kind=\"cache_read\"} 9",
            "gproxy_provider_cost_usd_total{provider=\"one\"} 0.0054",
            "gproxy_provider_request_seconds_sum{provider=\"one\"} 1.251",
            "gproxy_provider_request_seconds_count{provider=\"one\"} 2",
            "gproxy_provider_first_byte_seconds_sum{provider=\"one\"} 0.250",
            "gproxy_provider_first_byte_seconds_count{provider=\"one\"} 1",
            "gproxy_provider_first_byte_seconds_count{provider=\"other\"} 0",
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{line} is not in {text}");
        }
        assert_eq!(text.matches("# TYPE").count(), FAMILIES.len());
    }
}
