//! What every integration test stands on: the real binary, a scripted upstream, a raw client.
//!
//! Nothing here knows how the gateway works inside; it starts the program, speaks bytes to it from
//! both ends and waits for facts with a deadline. Nothing sleeps in the hope that things settle.

#![allow(unreachable_pub, clippy::unwrap_used)]

pub mod admin;
pub mod books;
pub mod client;
pub mod config;
pub mod gateway;
pub mod pool;
pub mod tls;
pub mod upstream;
pub mod vendor;
pub mod websocket;

use std::time::{Duration, Instant};

pub use client::{Client, Reply, replies_in, request, send_raw};
pub use config::{ADMIN_KEY, ALICE_KEY, Config, UPSTREAM_KEY};
pub use gateway::Gateway;
pub use upstream::{Conn, Seen, Upstream};

/// The longest that a test waits for something that has to happen. Not a promise of speed.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Asks again and again until `probe` has an answer, and panics with `what` at the deadline.
#[track_caller]
pub fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(begun.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The larger number when `SLOW=1` is set, the one for every day otherwise.
pub fn size(everyday: usize, slow: usize) -> usize {
    if std::env::var("SLOW").is_ok_and(|value| value == "1") { slow } else { everyday }
}

/// A small generator (xorshift64*): the same seed gives the same storm.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    /// A generator that begins at `seed`.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound
    }
}
