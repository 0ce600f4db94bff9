//! Connections from which a request is awaited: those that were accepted and have asked nothing
//! yet, and those that have begun a head. A process that stops does not leave them at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many there are.
#[derive(Default)]
pub(super) struct Awaiting(Arc<AtomicUsize>);

/// One of them, for as long as it lives. What follows is counted before this one ends, so whoever
/// finds none here finds their requests among those in flight.
pub struct Awaited(Arc<AtomicUsize>);

impl Awaiting {
    /// One more.
    pub(super) fn one(&self) -> Awaited {
        self.0.fetch_add(1, Ordering::AcqRel);
        Awaited(self.0.clone())
    }

    /// How many there are now.
    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
