//! Simulation of the data path: `exchange::serve` over ends and a clock that live in memory.
//!
//! 1. One seed decides everything: the requests of a connection (sound ones over all endpoints and
//!    both routing modes, and every way to break one), how their bytes are cut, where the caller
//!    stalls, ends, resets or stops reading, what each call to an upstream comes to, when the clock
//!    leaps, and when the process drains or reloads.
//! 2. What has to come of each request is built beside it from tables of its own, never computed
//!    from its bytes. Replies are written twice at once, as the upstream has them and as the caller
//!    must see them.
//! 3. After the run the laws are checked (`laws.rs`): what came back parses, by a reader that
//!    shares nothing with ours, as the answers in their order, or ends in a clean break; every
//!    answer is the one that was due and holds nothing of another; the upstream saw what it had to
//!    see and nothing else; nothing is left over.
//! 4. A failing seed is printed. `SIMULATION_SEED=n cargo test simulation::seeds` runs it alone and
//!    prints what was sent and what came back; `SIMULATION_SEEDS=n` runs so many.
//!
//! The same ends carry the tests of single promises (`promises_*.rs`) and the golden exchanges
//! (`golden.rs`).

mod broken;
mod connection;
mod ends;
mod golden;
mod laws;
mod logs;
mod pair;
mod pipe;
mod promises_down;
mod promises_hedge;
mod promises_live;
mod promises_pool;
mod promises_up;
mod replies;
mod requests;
mod responses;
mod run;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;
use std::thread::ThreadId;

use parking_lot::Mutex;

use run::Run;

/// Seeds of an ordinary test run.
const SEEDS: u64 = 4_000;

fn number_of(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// Speaks when it is dropped, which only a failure does.
struct Failing(u64);

impl Drop for Failing {
    fn drop(&mut self) {
        eprintln!("seed {0} failed; SIMULATION_SEED={0} cargo test simulation::seeds", self.0);
    }
}

#[test]
fn seeds() {
    if let Some(seed) = number_of("SIMULATION_SEED") {
        let run = Run::of(seed);
        eprintln!("{}", run.transcript());
        laws::check(&run);
        return;
    }
    let first = number_of("SIMULATION_FIRST").unwrap_or(0);
    let mut tally: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in first..first + number_of("SIMULATION_SEEDS").unwrap_or(SEEDS) {
        let failing = Failing(seed);
        let run = Run::of(seed);
        for what in laws::check(&run) {
            *tally.entry(what).or_default() += 1;
        }
        std::mem::forget(failing);
    }
    eprintln!("{tally:#?}");
    for what in laws::KINDS {
        assert!(tally.get(what).is_some_and(|count| *count >= 3), "{what} hardly ever happens");
    }
}

/// A checker that cannot fail proves nothing: what came back is spoiled in ways that a client would
/// suffer from, and each has to be noticed.
#[test]
fn a_spoiled_answer_is_noticed() {
    for spoil in laws::SPOILS {
        let spoiled = (0..2_000).map(Run::of).filter_map(|mut run| {
            let is_spoiled = spoil.spoils(&mut run);
            is_spoiled.then_some(run)
        });
        let noticed: Vec<bool> =
            spoiled.take(20).map(|run| quietly(|| drop(laws::check(&run))).is_err()).collect();
        assert_eq!(noticed, [true; 20], "{spoil:?}");
    }
}

/// Catches a panic that is expected; those of other threads are printed meanwhile.
fn quietly(check: impl FnOnce()) -> std::thread::Result<()> {
    static INSTALL: Once = Once::new();
    static QUIET: Mutex<Option<ThreadId>> = Mutex::new(None);
    INSTALL.call_once(|| {
        let hook = take_hook();
        set_hook(Box::new(move |info| {
            if *QUIET.lock() != Some(std::thread::current().id()) {
                hook(info);
            }
        }));
    });
    *QUIET.lock() = Some(std::thread::current().id());
    let result = catch_unwind(AssertUnwindSafe(check));
    *QUIET.lock() = None;
    result
}
