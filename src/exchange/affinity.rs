//! Beginnings of prompts, and the credentials whose vendor holds them in its cache.
//!
//! One table for all providers, of a fixed size and without a lock: an entry is one word, and what
//! falls on the same place takes it over. A wrong entry costs a cache, never an answer.

use std::hash::{DefaultHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits;

/// A prompt is known by its beginnings of these lengths, in bytes of the body; a shorter body by
/// all of it. A conversation grows at its end, so its longest beginning of before is found again.
const LENGTHS: [usize; 4] = [1_024, 4_096, 16_384, 65_536];
/// Milliseconds of one step of an entry's age.
const STEP_MS: i64 = 4_000;

/// Hashes of a prompt's beginnings, the shortest first.
#[derive(Clone, Copy, Default)]
pub(super) struct Beginnings {
    hashes: [u64; LENGTHS.len()],
    count: usize,
}

impl Beginnings {
    /// Those of a body, at this provider's place and for this model.
    pub(super) fn of(place: usize, model: &str, body: &[u8]) -> Beginnings {
        let mut hasher = DefaultHasher::new();
        hasher.write_usize(place);
        hasher.write(model.as_bytes());
        let mut all = Beginnings::default();
        let mut done = 0;
        for length in LENGTHS {
            if body.len() < length && all.count > 0 {
                break;
            }
            let end = length.min(body.len());
            hasher.write(&body[done..end]);
            done = end;
            all.hashes[all.count] = hasher.finish();
            all.count += 1;
        }
        all
    }
}

/// Which credential was used for which beginning: a part of the hash, the step, the credential's
/// number counted from 1.
pub(super) struct Affinity(Box<[AtomicU64]>);

impl Default for Affinity {
    fn default() -> Affinity {
        Affinity((0..limits::AFFINITY_MAX).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Affinity {
    fn at(&self, hash: u64) -> &AtomicU64 {
        &self.0[hash as usize % limits::AFFINITY_MAX]
    }

    /// The credential that was used last for the longest of the beginnings.
    pub(super) fn find(&self, beginnings: &Beginnings, now_ms: i64) -> Option<usize> {
        let hashes = &beginnings.hashes[..beginnings.count];
        hashes.iter().rev().find_map(|hash| {
            let entry = self.at(*hash).load(Ordering::Relaxed);
            let age = step(now_ms).wrapping_sub((entry >> 16) as u16);
            let is_young = i64::from(age) * STEP_MS <= limits::AFFINITY_MS_MAX;
            let is_it = entry >> 32 == hash >> 32 && is_young;
            is_it.then_some((entry & 0xffff) as usize).and_then(|number| number.checked_sub(1))
        })
    }

    /// The credential has seen the prompt.
    pub(super) fn bind(&self, beginnings: &Beginnings, credential: usize, now_ms: i64) {
        let number = (credential as u64 + 1).min(0xffff);
        for hash in &beginnings.hashes[..beginnings.count] {
            let entry = (hash >> 32) << 32 | u64::from(step(now_ms)) << 16 | number;
            self.at(*hash).store(entry, Ordering::Relaxed);
        }
    }

    /// Another one is to be found for the prompt.
    pub(super) fn forget(&self, beginnings: &Beginnings) {
        for hash in &beginnings.hashes[..beginnings.count] {
            self.at(*hash).store(0, Ordering::Relaxed);
        }
    }
}

fn step(now_ms: i64) -> u16 {
    (now_ms / STEP_MS) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    fn of(body: &[u8]) -> Beginnings {
        Beginnings::of(1, "m", body)
    }

    #[test]
    fn a_conversation_that_grows_finds_its_credential() {
        let affinity = Affinity::default();
        let mut body = vec![b'a'; 1_500];
        affinity.bind(&of(&body), 3, NOW);
        body.extend([b'b'; 9_000]);
        assert_eq!(affinity.find(&of(&body), NOW), Some(3));
        affinity.bind(&of(&body), 5, NOW);
        assert_eq!(affinity.find(&of(&body), NOW), Some(5));
        assert_eq!(affinity.find(&Beginnings::of(2, "m", &body), NOW), None, "another provider");
        assert_eq!(affinity.find(&Beginnings::of(1, "n", &body), NOW), None, "another model");
        affinity.forget(&of(&body));
        assert_eq!(affinity.find(&of(&body), NOW), None);
    }

    #[test]
    fn what_is_short_is_known_as_a_whole() {
        let affinity = Affinity::default();
        affinity.bind(&of(b"short"), 0, NOW);
        assert_eq!(affinity.find(&of(b"short"), NOW), Some(0));
        assert_eq!(affinity.find(&of(b"short and more"), NOW), None);
    }

    #[test]
    fn what_was_not_asked_for_a_while_is_forgotten() {
        let affinity = Affinity::default();
        affinity.bind(&of(b"x"), 7, NOW);
        assert_eq!(affinity.find(&of(b"x"), NOW + limits::AFFINITY_MS_MAX - STEP_MS), Some(7));
        assert_eq!(affinity.find(&of(b"x"), NOW + limits::AFFINITY_MS_MAX + STEP_MS), None);
    }

    #[test]
    fn a_hundred_thousand_prompts_take_no_more_room() {
        let affinity = Affinity::default();
        for number in 0..100_000_u32 {
            affinity.bind(&of(&number.to_be_bytes()), 1, NOW);
        }
        assert_eq!(affinity.0.len(), limits::AFFINITY_MAX);
        assert_eq!(affinity.find(&of(&99_999_u32.to_be_bytes()), NOW), Some(1));
    }
}
