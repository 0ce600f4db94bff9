//! A fixed set of counters and gauges, and their Prometheus text.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

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
}

/// Something that only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Connections accepted.
    Accepted,
    /// Connections refused since there were too many.
    ConnectionsRefused,
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
    /// Log lines that were dropped since the log could not keep up.
    LogLinesDropped,
}

const GAUGES: [(Gauge, &str, &str); 6] = [
    (Gauge::Connections, "gproxy_connections", "Downstream connections."),
    (Gauge::Parked, "gproxy_connections_parked", "Connections parked without a coroutine."),
    (Gauge::Coroutines, "gproxy_coroutines", "Coroutines that serve a connection."),
    (Gauge::RequestsInFlight, "gproxy_requests_in_flight", "Requests being served."),
    (Gauge::UpstreamInFlight, "gproxy_upstream_in_flight", "Upstream calls under way."),
    (Gauge::HeldBytes, "gproxy_held_bytes", "Bytes of bodies and events held."),
];

const COUNTS: [(Count, &str, &str); 14] = [
    (Count::Accepted, "gproxy_connections_accepted_total", "Connections accepted."),
    (Count::ConnectionsRefused, "gproxy_connections_refused_total", "Connections over the limit."),
    (Count::Requests, "gproxy_requests_total", "Requests begun."),
    (Count::Ended, "gproxy_requests_ended_total", "Requests ended."),
    (Count::Refused, "gproxy_requests_refused_total", "Requests refused by the gateway."),
    (Count::Attempts, "gproxy_attempts_total", "Attempts at upstreams."),
    (Count::AttemptsFailed, "gproxy_attempts_failed_total", "Attempts without a usable reply."),
    (Count::RepliesCut, "gproxy_replies_cut_total", "Replies that broke off."),
    (Count::DownstreamsGone, "gproxy_downstreams_gone_total", "Downstreams that left early."),
    (Count::Panics, "gproxy_panics_total", "Exchanges that ended in a panic."),
    (Count::UsageRows, "gproxy_usage_rows_total", "Usage rows recorded."),
    (Count::UsageUnpriced, "gproxy_usage_unpriced_total", "Usage rows of models without a price."),
    (Count::TokensEstimated, "gproxy_tokens_estimated_total", "Counts of tokens estimated here."),
    (Count::LogLinesDropped, "gproxy_log_lines_dropped_total", "Log lines dropped."),
];

/// The numbers of one process.
#[derive(Default)]
pub struct Metrics {
    gauges: [AtomicI64; GAUGES.len()],
    counts: [AtomicU64; COUNTS.len()],
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

    /// All numbers in the Prometheus text format, version 0.0.4.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (gauge, name, help) in GAUGES {
            let level = self.level(gauge);
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {level}");
        }
        for (count, name, help) in COUNTS {
            let total = self.counted(count);
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {total}");
        }
        text
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
        let text = metrics.text();
        assert!(text.contains("\ngproxy_requests_total 1\n"));
        assert_eq!(text.matches("# TYPE").count(), GAUGES.len() + COUNTS.len());
    }
}
