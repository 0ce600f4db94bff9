//! The most memory that callers can make a gateway take under its limits.
//!
//! A sum of ceilings, each by the buffers that stand behind it: it is never met by honest traffic,
//! since not every connection waits with half a head while every request holds all that it may.

use std::fmt;

use super::snapshot::Limits;
use crate::limits;

const MIB: u64 = 1024 * 1024;
/// What a TLS connection keeps of records, in and out, and its state.
const TLS_BYTES: usize = 40 * 1024;
/// The program, its tables, and what its allocator keeps of memory that was given back.
const BASE_BYTES: u64 = 48 * MIB;
/// A usage row that waits.
const ROW_BYTES: usize = 512;

/// Bytes by what takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Connections of callers, each with a coroutine and the head of a request.
    pub connections: u64,
    /// Requests under way: their replies and connections to upstreams.
    pub requests: u64,
    /// Bodies and events that are held.
    pub held: u64,
    /// What waits for the disk or is kept for administrators, and the program itself.
    pub rest: u64,
}

impl Memory {
    /// Under these limits. `has_tls`: callers speak TLS with us; `hedges`: some provider does.
    pub fn at_most(limits: &Limits, has_tls: bool, hedges: bool) -> Memory {
        let stack = limits::STACK_WORDS * size_of::<usize>();
        let tls = if has_tls { TLS_BYTES } else { 0 };
        let connection = stack + limits.head_bytes_max + tls;
        let recorder = limits.recorder_bytes + limits.recorder_bytes / 4;
        let request = TLS_BYTES
            + limits::UPSTREAM_HEAD_BYTES_MAX
            + limits::REPLY_HELD_BYTES_MAX
            + limits::EVENT_KEPT_BYTES_MAX
            + 2 * limits::RELAY_BYTES
            + recorder;
        let kept = limits::LEDGER_ROWS_MAX * ROW_BYTES
            + limits::LOG_QUEUE_BYTES_MAX
            + limits::RECORDINGS_MAX * recorder
            + limits::REFUSALS_KEPT_MAX * limits::REFUSAL_CHARS_MAX;
        let rivals = if hedges { limits::RIVALS_MAX as usize * (stack + request) } else { 0 };
        Memory {
            connections: (limits.connections_max * connection) as u64,
            requests: (limits.in_flight_max * request + rivals) as u64,
            held: limits.held_bytes_max,
            rest: kept as u64 + BASE_BYTES,
        }
    }

    /// All of it.
    pub fn sum(&self) -> u64 {
        self.connections + self.requests + self.held + self.rest
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Memory { connections, requests, held, rest } = self;
        let mib = |bytes: &u64| bytes.div_ceil(MIB);
        write!(
            f,
            "{} MiB ({} for connections, {} for requests, {} for bodies and events that are held, \
             {} for the rest)",
            mib(&self.sum()),
            mib(connections),
            mib(requests),
            mib(held),
            mib(rest)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_counts_where_it_belongs() {
        let limits = Limits { connections_max: 100, in_flight_max: 10, ..Limits::default() };
        let memory = Memory::at_most(&limits, false, false);
        assert_eq!(memory.connections, 100 * 96 * 1024);
        assert_eq!(memory.held, limits.held_bytes_max);
        let twice = Limits { connections_max: 200, in_flight_max: 20, ..limits };
        let twice = Memory::at_most(&twice, false, false);
        assert_eq!(
            (twice.connections, twice.requests),
            (2 * memory.connections, 2 * memory.requests)
        );
        let by_tls = Memory::at_most(&limits, true, false).sum() - memory.sum();
        assert_eq!(by_tls, 100 * TLS_BYTES as u64);
        let hedged = Memory::at_most(&limits, false, true);
        assert!(hedged.requests - memory.requests >= limits::RIVALS_MAX as u64 * 64 * 1024);
        let told = memory.to_string();
        assert!(
            told.starts_with(&format!("{} MiB (10 for connections, ", memory.sum().div_ceil(MIB)))
        );
    }
}
