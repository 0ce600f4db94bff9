//! A fixed set of counters and gauges, and their Prometheus text.

mod tally;

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::money;

pub use tally::Tally;

/// Something that goes up and down; zero when nothing is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gauge {
    /// Downstream connections, parked ones included.
    Connections,
    /// Connections that are parked without a coroutine.
    Parked,
    /// Coroutines that serve a connection.
    Coroutines,
    /// Requests between their head and their last byte.
    RequestsInFlight,
    /// Calls to upstreams that have not ended.
    UpstreamInFlight,
    /// Bytes of request bodies and held events.
    HeldBytes,
    /// Replies that are event streams and have not ended.
    Streams,
    /// Idle connections to upstreams, as of the last second.
    PoolIdle,
    /// Rows that wait for the books or whose requests are under way, as of the last second.
    LedgerRows,
    /// Bytes of memory that the process holds, as of the last second.
    ResidentBytes,
    /// Replies that are read on although their callers have left.
    Drains,
    /// Calls that were made beside a silent one and whose answers have not begun.
    Rivals,
    /// Requests of callers who are known, until they have their answers.
    PlacesTaken,
    /// Bodies that lie on disk.
    Spools,
}

/// Something that adds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    /// Tokens of prompts, uncached.
    Input,
    /// Tokens read from caches.
    CacheRead,
    /// Tokens written to caches.
    CacheWrite,
    /// Tokens that were generated.
    Output,
    /// Picodollars.
    Cost,
}

/// A time that is counted by its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// A request that called an upstream, from its head to its end.
    Total,
    /// From the first attempt to the upstream's head.
    FirstByte,
}

/// Something that only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Connections accepted.
    Accepted,
    /// Connections refused since there were too many.
    ConnectionsRefused,
    /// Connections whose TLS handshake failed or took too long.
    HandshakesFailed,
    /// Requests begun: those whose head was read, and those whose head was none.
    Requests,
    /// Requests ended, however they did. Once nothing is under way, as many as begun.
    Ended,
    /// Requests that we refused ourselves.
    Refused,
    /// Attempts at upstreams.
    Attempts,
    /// Attempts that ended without a usable reply.
    AttemptsFailed,
    /// Calls that were not made since their address was fenced off.
    CallsFenced,
    /// Second credentials asked beside a silent one.
    Hedges,
    /// Of those, that spoke first.
    HedgesWon,
    /// Replies that broke off after their first byte was sent.
    RepliesCut,
    /// Downstreams that left before their reply was whole.
    DownstreamsGone,
    /// Exchanges that ended in a panic.
    Panics,
    /// Usage rows that were handed to the books.
    UsageRows,
    /// Of those, of models without a price.
    UsageUnpriced,
    /// Counts of tokens that were estimated here.
    TokensEstimated,
    /// Times that a credential was told to rest.
    CredentialsCooled,
    /// Times that a credential was taken out of its pool.
    CredentialsDisabled,
    /// Streams that were ended since their user's quota was spent.
    StreamsEnded,
    /// Requests that were served although they could not be recorded.
    UsageUnbilled,
    /// Logged requests that were lost.
    RequestLogsDropped,
    /// Log lines that were dropped since the log could not keep up.
    LogLinesDropped,
    /// Keys that nobody has.
    KeysWrong,
    /// Requests refused since their address had sent too many of them, or too many passwords.
    GuessesSlowed,
    /// Times that accepting paused since there were no descriptors or no memory.
    AcceptingPaused,
    /// Connections closed since they were silent for too long.
    SilentClosed,
    /// Downstreams that were given up since they read nothing for too long.
    DownstreamsStalled,
    /// Times that a request found no place, or its user's part of them taken.
    PlacesFull,
    /// Times that there was no more memory for bodies and events, or its user's part was taken.
    HeldFull,
    /// Times that there was no more place on disk for a body, or its user's part was taken.
    SpoolsFull,
}

const GAUGES: [(Gauge, &str, &str); 14] = [
    (Gauge::Connections, "gproxy_connections", "Downstream connections."),
    (Gauge::Parked, "gproxy_connections_parked", "Connections parked without a coroutine."),
    (Gauge::Coroutines, "gproxy_coroutines", "Coroutines that serve a connection."),
    (Gauge::RequestsInFlight, "gproxy_requests_in_flight", "Requests being served."),
    (Gauge::UpstreamInFlight, "gproxy_upstream_in_flight", "Upstream calls under way."),
    (Gauge::HeldBytes, "gproxy_held_bytes", "Bytes of bodies and events held."),
    (Gauge::Streams, "gproxy_streams", "Event streams under way."),
    (Gauge::PoolIdle, "gproxy_upstream_idle", "Idle upstream connections."),
    (Gauge::LedgerRows, "gproxy_ledger_rows", "Usage rows taken and not yet written."),
    (Gauge::ResidentBytes, "gproxy_resident_bytes", "Resident memory."),
    (Gauge::Drains, "gproxy_drains", "Replies read on after their caller has left."),
    (Gauge::Rivals, "gproxy_rivals", "Calls beside a silent one that are silent too."),
    (Gauge::PlacesTaken, "gproxy_places_taken", "Requests of known callers being served."),
    (Gauge::Spools, "gproxy_spools", "Forms and batches that lie on disk."),
];

/// Tokens by their kind; the cost has a name of its own.
const TOKENS: [(Sum, &str); 4] = [
    (Sum::Input, "input"),
    (Sum::CacheRead, "cache_read"),
    (Sum::CacheWrite, "cache_write"),
    (Sum::Output, "output"),
];

const TIMINGS: [(Timing, &str, &str); 2] = [
    (Timing::Total, "gproxy_request_seconds", "Requests that called an upstream."),
    (Timing::FirstByte, "gproxy_first_byte_seconds", "From the first attempt to the reply's head."),
];

/// Upper bounds of the buckets, in milliseconds, and as they are written.
const BUCKETS: [(u64, &str); 14] = [
    (5, "0.005"),
    (10, "0.01"),
    (25, "0.025"),
    (50, "0.05"),
    (100, "0.1"),
    (250, "0.25"),
    (500, "0.5"),
    (1_000, "1"),
    (2_500, "2.5"),
    (5_000, "5"),
    (10_000, "10"),
    (30_000, "30"),
    (60_000, "60"),
    (300_000, "300"),
];

/// Classes of answers; the first one: none was sent.
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Statuses of our own refusals, each with its counter; further ones are `other`.
const REFUSALS: [u16; 17] =
    [400, 401, 402, 403, 404, 405, 408, 413, 414, 415, 429, 431, 500, 501, 502, 503, 504];

/// The class of a status.
fn class_of(status: u16) -> usize {
    usize::from(status / 100).min(CLASSES.len() - 1)
}

#[derive(Default)]
struct Histogram {
    // One more: beyond all bounds.
    buckets: [AtomicU64; BUCKETS.len() + 1],
    sum_ms: AtomicU64,
}

const COUNTS: [(Count, &str, &str); 31] = [
    (Count::Accepted, "gproxy_connections_accepted_total", "Connections accepted."),
    (Count::ConnectionsRefused, "gproxy_connections_refused_total", "Connections over the limit."),
    (Count::HandshakesFailed, "gproxy_handshakes_failed_total", "TLS handshakes that failed."),
    (Count::Requests, "gproxy_requests_total", "Requests begun."),
    (Count::Ended, "gproxy_requests_ended_total", "Requests ended."),
    (Count::Refused, "gproxy_requests_refused_total", "Requests refused by the gateway."),
    (Count::Attempts, "gproxy_attempts_total", "Attempts at upstreams."),
    (Count::AttemptsFailed, "gproxy_attempts_failed_total", "Attempts without a usable reply."),
    (Count::CallsFenced, "gproxy_calls_fenced_total", "Calls to addresses that are fenced off."),
    (Count::Hedges, "gproxy_hedges_total", "Credentials asked beside a silent one."),
    (Count::HedgesWon, "gproxy_hedges_won_total", "Of those, that spoke first."),
    (Count::RepliesCut, "gproxy_replies_cut_total", "Replies that broke off."),
    (Count::DownstreamsGone, "gproxy_downstreams_gone_total", "Downstreams that left early."),
    (Count::Panics, "gproxy_panics_total", "Exchanges that ended in a panic."),
    (Count::UsageRows, "gproxy_usage_rows_total", "Usage rows recorded."),
    (Count::UsageUnpriced, "gproxy_usage_unpriced_total", "Usage rows of models without a price."),
    (Count::TokensEstimated, "gproxy_tokens_estimated_total", "Counts of tokens estimated here."),
    (Count::CredentialsCooled, "gproxy_credentials_cooled_total", "Rests of credentials begun."),
    (Count::CredentialsDisabled, "gproxy_credentials_disabled_total", "Credentials disabled."),
    (Count::StreamsEnded, "gproxy_streams_quota_ended_total", "Streams ended by a spent quota."),
    (Count::UsageUnbilled, "gproxy_usage_unbilled_total", "Requests served unrecorded."),
    (Count::RequestLogsDropped, "gproxy_request_logs_dropped_total", "Logged requests lost."),
    (Count::LogLinesDropped, "gproxy_log_lines_dropped_total", "Log lines dropped."),
    (Count::KeysWrong, "gproxy_keys_wrong_total", "API keys that nobody has."),
    (Count::GuessesSlowed, "gproxy_guesses_slowed_total", "Refusals of addresses that guess."),
    (Count::AcceptingPaused, "gproxy_accepting_paused_total", "Pauses for want of descriptors."),
    (Count::SilentClosed, "gproxy_connections_silent_closed_total", "Silent connections closed."),
    (Count::DownstreamsStalled, "gproxy_downstreams_stalled_total", "Downstreams not reading."),
    (Count::PlacesFull, "gproxy_places_full_total", "Requests without a place."),
    (Count::HeldFull, "gproxy_held_full_total", "Bodies and events without memory."),
    (Count::SpoolsFull, "gproxy_spools_full_total", "Bodies without a place on disk."),
];

/// The numbers of one process.
#[derive(Default)]
pub struct Metrics {
    gauges: [AtomicI64; GAUGES.len()],
    counts: [AtomicU64; COUNTS.len()],
    sums: [AtomicU64; TOKENS.len() + 1],
    classes: [AtomicU64; CLASSES.len()],
    refusals: [AtomicU64; REFUSALS.len() + 1],
    timings: [Histogram; TIMINGS.len()],
}

impl Metrics {
    /// Adds one.
    pub fn count(&self, count: Count) {
        self.counts[count as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn counted(&self, count: Count) -> u64 {
        self.counts[count as usize].load(Ordering::Relaxed)
    }

    /// Adds to a sum.
    pub fn sum(&self, sum: Sum, by: u64) {
        if by > 0 {
            self.sums[sum as usize].fetch_add(by, Ordering::Relaxed);
        }
    }

    /// Counts an answer by its status; 0: none was sent.
    pub fn answered(&self, status: u16) {
        self.classes[class_of(status)].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a refusal of our own by its status.
    pub fn refused(&self, status: u16) {
        self.count(Count::Refused);
        let at = REFUSALS.iter().position(|known| *known == status).unwrap_or(REFUSALS.len());
        self.refusals[at].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a time.
    pub fn observe(&self, timing: Timing, ms: u64) {
        let histogram = &self.timings[timing as usize];
        let bucket = BUCKETS.iter().position(|(bound, _)| ms <= *bound);
        histogram.buckets[bucket.unwrap_or(BUCKETS.len())].fetch_add(1, Ordering::Relaxed);
        histogram.sum_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Puts a gauge where it was measured to be.
    pub fn measure(&self, gauge: Gauge, level: i64) {
        self.gauges[gauge as usize].store(level, Ordering::Relaxed);
    }

    /// Moves a gauge.
    pub fn add(&self, gauge: Gauge, by: i64) {
        self.gauges[gauge as usize].fetch_add(by, Ordering::Relaxed);
    }

    /// Where a gauge stands.
    pub fn level(&self, gauge: Gauge) -> i64 {
        self.gauges[gauge as usize].load(Ordering::Relaxed)
    }

    /// Raises a gauge until the returned guard is dropped.
    pub fn hold(self: Arc<Self>, gauge: Gauge, by: i64) -> Held {
        self.add(gauge, by);
        Held { metrics: self, gauge, by }
    }

    /// All numbers in the Prometheus text format, version 0.0.4. `providers`: names and theirs.
    pub fn text(&self, providers: &[(&str, &Tally)]) -> String {
        let mut text = String::new();
        for (gauge, name, help) in GAUGES {
            let level = self.level(gauge);
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {level}");
        }
        for (count, name, help) in COUNTS {
            let total = self.counted(count);
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {total}");
        }
        self.write_labelled(&mut text);
        self.write_timings(&mut text);
        tally::write(providers, &mut text);
        text
    }

    fn write_labelled(&self, text: &mut String) {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let name = "gproxy_responses_total";
        let _ = writeln!(text, "# HELP {name} Answers by class.\n# TYPE {name} counter");
        for (class, number) in CLASSES.iter().zip(&self.classes) {
            let _ = writeln!(text, "{name}{{class=\"{class}\"}} {}", load(number));
        }
        let name = "gproxy_refusals_total";
        let _ = writeln!(text, "# HELP {name} Refusals by status.\n# TYPE {name} counter");
        let other = self.refusals.last().map(load).unwrap_or_default();
        for (status, number) in REFUSALS.iter().zip(&self.refusals) {
            let _ = writeln!(text, "{name}{{status=\"{status}\"}} {}", load(number));
        }
        let _ = writeln!(text, "{name}{{status=\"other\"}} {other}");
        let name = "gproxy_tokens_total";
        let _ = writeln!(text, "# HELP {name} Tokens by kind.\n# TYPE {name} counter");
        for (sum, kind) in TOKENS {
            let total = load(&self.sums[sum as usize]);
            let _ = writeln!(text, "{name}{{kind=\"{kind}\"}} {total}");
        }
        let name = "gproxy_cost_usd_total";
        let cost = i64::try_from(load(&self.sums[Sum::Cost as usize])).unwrap_or(i64::MAX);
        let cost = money::text(cost);
        let _ = writeln!(text, "# HELP {name} USD.\n# TYPE {name} counter\n{name} {cost}");
    }

    fn write_timings(&self, text: &mut String) {
        for (timing, name, help) in TIMINGS {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
            let histogram = &self.timings[timing as usize];
            let mut total = 0;
            let bounds = BUCKETS.iter().map(|(_, bound)| *bound).chain(["+Inf"]);
            for (bound, number) in bounds.zip(&histogram.buckets) {
                total += number.load(Ordering::Relaxed);
                let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {total}");
            }
            let sum_ms = histogram.sum_ms.load(Ordering::Relaxed);
            let (seconds, rest) = (sum_ms / 1_000, sum_ms % 1_000);
            let _ = writeln!(text, "{name}_sum {seconds}.{rest:03}\n{name}_count {total}");
        }
    }
}

/// Keeps a gauge raised; dropping it lowers the gauge again, also while a panic unwinds.
pub struct Held {
    metrics: Arc<Metrics>,
    gauge: Gauge,
    by: i64,
}

impl Held {
    /// Raises it further.
    pub fn grow(&mut self, by: i64) {
        self.metrics.add(self.gauge, by);
        self.by += by;
    }

    /// Where the gauge stands.
    pub fn level(&self) -> i64 {
        self.metrics.level(self.gauge)
    }

    /// By how much this guard raises the gauge.
    pub fn by(&self) -> i64 {
        self.by
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.metrics.add(self.gauge, -self.by);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_stand_in_the_order_of_their_enums() {
        assert!(GAUGES.iter().enumerate().all(|(index, (gauge, ..))| *gauge as usize == index));
        assert!(COUNTS.iter().enumerate().all(|(index, (count, ..))| *count as usize == index));
    }

    #[test]
    fn a_time_falls_into_every_bucket_that_it_fits_and_a_sum_is_exact() {
        let metrics = Metrics::default();
        for ms in [0, 5, 6, 300_000, 300_001] {
            metrics.observe(Timing::FirstByte, ms);
        }
        metrics.answered(0);
        metrics.answered(404);
        metrics.answered(999);
        metrics.sum(Sum::Cost, 5_400_000_000);
        metrics.sum(Sum::Output, 7);
        let text = metrics.text(&[]);
        for line in [
            "gproxy_first_byte_seconds_bucket{le=\"0.005\"} 2",
            "gproxy_first_byte_seconds_bucket{le=\"0.01\"} 3",
            "gproxy_first_byte_seconds_bucket{le=\"60\"} 3",
            "gproxy_first_byte_seconds_bucket{le=\"300\"} 4",
            "gproxy_first_byte_seconds_bucket{le=\"+Inf\"} 5",
            "gproxy_first_byte_seconds_sum 600.012",
            "gproxy_first_byte_seconds_count 5",
            "gproxy_request_seconds_count 0",
            "gproxy_responses_total{class=\"none\"} 1",
            "gproxy_responses_total{class=\"4xx\"} 1",
            "gproxy_responses_total{class=\"5xx\"} 1",
            "gproxy_tokens_total{kind=\"output\"} 7",
            "gproxy_cost_usd_total 0.0054",
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{line} is not in {text}");
        }
    }

    #[test]
    fn a_dropped_guard_takes_back_what_it_added() {
        let metrics = Arc::new(Metrics::default());
        let mut held = metrics.clone().hold(Gauge::HeldBytes, 5);
        held.grow(7);
        assert_eq!((held.by(), metrics.level(Gauge::HeldBytes)), (12, 12));
        drop(held);
        assert_eq!(metrics.level(Gauge::HeldBytes), 0);
    }

    #[test]
    fn text_names_every_number() {
        let metrics = Metrics::default();
        metrics.count(Count::Requests);
        let text = metrics.text(&[]);
        assert!(text.contains("\ngproxy_requests_total 1\n"));
        let others = 4 + TIMINGS.len();
        let own = text.lines().filter(|line| line.starts_with("# TYPE"));
        let own = own.filter(|line| !line.contains("gproxy_provider_"));
        assert_eq!(own.count(), GAUGES.len() + COUNTS.len() + others);
    }
}
