//! The most memory that callers can make a gateway take under its limits.
//!
//! A sum of ceilings, each by the buffers that stand behind it: it is never met by honest traffic,
//! since not every connection waits with half a head while every request holds all that it may.

use std::fmt;

use super::snapshot::Limits;
use crate::limits;
use crate::wire::coding::Coding;

const MIB: u64 = 1024 * 1024;
/// A record of TLS, as long as one may be.
const RECORD_BYTES: usize = 18 * 1024;
/// What a TLS connection keeps: 64 KiB that wait to be written, a record that comes in, the clear
/// bytes of another that came, and its state.
const TLS_BYTES: usize = (64 + 6) * 1024 + 2 * RECORD_BYTES;
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

/// What a gateway does that takes more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// Callers speak TLS with us.
    pub tls: bool,
    /// Some provider hedges.
    pub hedges: bool,
    /// Some provider's replies are read on when their callers have left.
    pub drains: bool,
}

impl Memory {
    /// Under these limits.
    pub fn at_most(limits: &Limits, extras: Extras) -> Memory {
        let some = |count: i64, does: bool| if does { count as usize } else { 0 };
        let stack = limits::STACK_WORDS * size_of::<usize>();
        // Room for a head is made by pieces.
        let head = limits.head_bytes_max + limits::RELAY_BYTES;
        let connection = stack + head + if extras.tls { TLS_BYTES } else { 0 };
        // Whoever has left has left his place among the connections to another.
        let drains = some(limits::DRAINS_MAX, extras.drains);
        let recorder = limits.recorder_bytes + limits.recorder_bytes / 4;
        let request = TLS_BYTES
            // The head as it is read, and what came of the upstream, in chunks and out of them.
            + limits.head_bytes_max
            + 2 * limits::UPSTREAM_HEAD_BYTES_MAX
            + limits::ERROR_HELD_BYTES_MAX
            + limits::REPLY_HELD_BYTES_MAX
            + limits::EVENT_KEPT_BYTES_MAX
            // What leaves with its head.
            + 2 * limits::RELAY_BYTES
            + recorder;
        let rivals = some(limits::RIVALS_MAX, extras.hedges);
        let kept = limits::LEDGER_ROWS_MAX * ROW_BYTES
            + limits::LOG_QUEUE_BYTES_MAX
            + limits::RECORDINGS_MAX * recorder
            + limits::REFUSALS_KEPT_MAX * limits::REFUSAL_CHARS_MAX
            + limits::SPOOLS_MAX * 2 * limits::SPOOL_PIECE_BYTES;
        // What comes out of packed bodies is counted when it is whole.
        let unpacked = limits.body_bytes_max + Coding::Zstd.state_bytes();
        Memory {
            connections: ((limits.connections_max + drains) * connection) as u64,
            requests: (limits.in_flight_max * request + rivals * (stack + request)) as u64,
            held: limits.held_bytes_max,
            rest: kept as u64 + limits::UNPACKERS as u64 * unpacked + BASE_BYTES,
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
        let memory = Memory::at_most(&limits, Extras::default());
        assert_eq!(memory.connections, 100 * 104 * 1024);
        assert_eq!(memory.held, limits.held_bytes_max);
        let twice = Limits { connections_max: 200, in_flight_max: 20, ..limits };
        let twice = Memory::at_most(&twice, Extras::default());
        assert_eq!(
            (twice.connections, twice.requests),
            (2 * memory.connections, 2 * memory.requests)
        );
        let extra = |extras| Memory::at_most(&limits, extras).sum() - memory.sum();
        assert_eq!(extra(Extras { tls: true, ..Extras::default() }), 100 * TLS_BYTES as u64);
        let hedged = extra(Extras { hedges: true, ..Extras::default() });
        assert!(hedged >= limits::RIVALS_MAX as u64 * 64 * 1024);
        let drained = extra(Extras { drains: true, ..Extras::default() });
        assert_eq!(drained, limits::DRAINS_MAX as u64 * 104 * 1024);
        let longer = Limits { body_bytes_max: limits.body_bytes_max + MIB, ..limits };
        let longer = Memory::at_most(&longer, Extras::default());
        assert_eq!(longer.rest - memory.rest, limits::UNPACKERS as u64 * MIB);
        let told = memory.to_string();
        assert!(
            told.starts_with(&format!("{} MiB (11 for connections, ", memory.sum().div_ceil(MIB)))
        );
    }
}
