//! What outlives a change of the tables: when keys were last used, and the numbers of providers.
//!
//! Both are counted where the path already is, in a key's and a provider's own cells, which new
//! tables take over from the old ones. What is taken out of the tables is forgotten with them, so
//! nothing here grows beyond what is configured.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use super::Core;
use crate::route::health::Circuit;
use crate::route::snapshot::{Caller, Snapshot};
use crate::secret::KeyId;

/// How often the uses of keys are written down, in seconds.
const WRITE_EVERY: u32 = 60;

/// The time as it was about a second ago, and what was written down of uses.
#[derive(Default)]
pub(super) struct Uses {
    now_ms: AtomicI64,
    written_ms: AtomicI64,
    seconds: AtomicU32,
}

/// New tables count on where the old ones are.
pub(super) fn carry_on(old: &Snapshot, new: &mut Snapshot) {
    let keys = old.users.iter().flat_map(|user| &user.keys);
    let used: HashMap<KeyId, _> = keys.map(|key| (key.id, &key.used)).collect();
    for key in new.users.iter_mut().flat_map(|user| &mut user.keys) {
        if let Some(used) = used.get(&key.id) {
            key.used = (*used).clone();
        }
    }
    let tallies: HashMap<&str, _> =
        old.providers.iter().map(|provider| (provider.name.as_str(), &provider.tally)).collect();
    for provider in &mut new.providers {
        if let Some(tally) = tallies.get(provider.name.as_str()) {
            provider.tally = (*tally).clone();
        }
    }
}

impl Core {
    /// The caller's key is used now. To the second: a cell that is seldom written stays in every
    /// core's cache, and nobody asks for the time.
    pub fn use_key(&self, snapshot: &Snapshot, caller: Caller) {
        let about_ms = match self.uses.now_ms.load(Ordering::Relaxed) {
            0 => self.clock.unix_ms(),
            about_ms => about_ms,
        };
        let used = &snapshot.key(caller).used;
        if used.load(Ordering::Relaxed) < about_ms {
            used.store(about_ms, Ordering::Relaxed);
        }
    }

    /// What was known of credentials, and when keys were last used, before this process began.
    pub fn restore(&self, statuses: Vec<(String, Circuit)>, uses: Vec<(KeyId, i64)>) {
        self.pool.restore(statuses, self.clock.unix_ms());
        let snapshot = self.snapshot();
        let uses: HashMap<KeyId, i64> = uses.into_iter().collect();
        for key in snapshot.users.iter().flat_map(|user| &user.keys) {
            if let Some(at_ms) = uses.get(&key.id) {
                key.used.fetch_max(*at_ms, Ordering::Relaxed);
            }
        }
        self.uses.written_ms.store(self.clock.unix_ms(), Ordering::Relaxed);
    }

    /// A second has gone by.
    pub(super) fn tick(&self) {
        self.uses.now_ms.store(self.clock.unix_ms(), Ordering::Relaxed);
        if self.uses.seconds.fetch_add(1, Ordering::Relaxed) % WRITE_EVERY == WRITE_EVERY - 1 {
            self.write_uses();
        }
    }

    /// Has what was used since the last time written down.
    pub fn write_uses(&self) {
        let Some(ledger) = self.books.as_ref().and_then(|books| books.ledger.as_ref()) else {
            return;
        };
        // Two seconds before that time may have been used and not been seen.
        let since_ms = self.uses.written_ms.swap(self.clock.unix_ms(), Ordering::Relaxed) - 2_000;
        let snapshot = self.snapshot();
        let keys = snapshot.users.iter().flat_map(|user| &user.keys);
        let uses = keys.map(|key| (key.id, key.used.load(Ordering::Relaxed)));
        ledger.keep_uses(uses.filter(|(_, at_ms)| *at_ms > since_ms).collect());
    }
}
