//! Guessing at keys, slowed by address.
//!
//! A few wrong keys of one address are told to be wrong. Beyond them every key from there is
//! answered alike until the minute is over, a right one too: otherwise the answers would go on
//! telling which is which. Only a key that was let in from that address before is not held up, so
//! people behind one address go on working while somebody there guesses.
//!
//! Nothing here grows with the guesses: addresses are counted in a table with a ceiling, and who
//! was let in is remembered in slots, where a newer pair takes an older one's place. A right key
//! costs a look at its slot, and on the same connection nothing.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::limits;
use crate::secret::Digest;

/// How long wrong keys are held against an address.
const WINDOW: Duration = Duration::from_secs(60);
/// Wrong keys of one address that are known again. To send one of them again is no new guess.
const TOLD_AGAIN: usize = 4;

/// Who has guessed lately, and who need not.
pub(super) struct Guesses {
    wrong: Mutex<HashMap<IpAddr, Wrong>>,
    // Some address has guessed too often, so that right keys are looked at as well.
    alarmed: AtomicBool,
    // Pairs of a key and an address, by a number that nobody outside can foresee.
    known: Box<[AtomicU64]>,
    numbers: RandomState,
}

/// The wrong keys of one address.
struct Wrong {
    since: Instant,
    count: u64,
    last: [u64; TOLD_AGAIN],
}

/// An address has guessed too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slowed {
    /// Until it may try again; at least 1.
    pub(super) seconds: u32,
    /// It is the first time in this minute.
    pub(super) is_news: bool,
}

impl Default for Guesses {
    fn default() -> Guesses {
        Guesses {
            wrong: Mutex::default(),
            alarmed: AtomicBool::new(false),
            known: (0..limits::KNOWN_CALLERS_MAX).map(|_| AtomicU64::new(0)).collect(),
            numbers: RandomState::new(),
        }
    }
}

impl Guesses {
    /// Counts a wrong key. `most`: so many of one address are told that they are wrong.
    pub(super) fn wrong(
        &self,
        from: IpAddr,
        key: &Digest,
        most: u64,
        now: Instant,
    ) -> Result<(), Slowed> {
        let from = network_of(from);
        let mut all = self.wrong.lock();
        if all.get(&from).is_some_and(|wrong| wrong.is_over(now)) {
            all.remove(&from);
        }
        make_room(&mut all, from, now);
        let wrong = all.entry(from).or_insert(Wrong { since: now, count: 0, last: [0; 4] });
        let before = wrong.count;
        wrong.add(key.prefix());
        if wrong.count <= most {
            return Ok(());
        }
        self.alarmed.store(true, Ordering::Release);
        Err(wrong.slowed(now, before <= most))
    }

    /// Whether a right key is let in from there now.
    pub(super) fn may(
        &self,
        from: IpAddr,
        key: &Digest,
        most: u64,
        now: Instant,
    ) -> Result<(), Slowed> {
        if !self.alarmed.load(Ordering::Acquire) || self.is_known(from, key) {
            return Ok(());
        }
        let all = self.wrong.lock();
        let is_slow = |wrong: &Wrong| wrong.count > most && !wrong.is_over(now);
        if let Some(wrong) = all.get(&network_of(from)).filter(|wrong| is_slow(wrong)) {
            return Err(wrong.slowed(now, false));
        }
        if !all.values().any(is_slow) {
            self.alarmed.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// From now on this key is not held up there.
    pub(super) fn remember(&self, from: IpAddr, key: &Digest) {
        let (slot, number) = self.slot(from, key);
        // Most often it is there: a slot that nobody writes stays in every core's cache.
        if slot.load(Ordering::Relaxed) != number {
            slot.store(number, Ordering::Relaxed);
        }
    }

    fn is_known(&self, from: IpAddr, key: &Digest) -> bool {
        let (slot, number) = self.slot(from, key);
        slot.load(Ordering::Relaxed) == number
    }

    fn slot(&self, from: IpAddr, key: &Digest) -> (&AtomicU64, u64) {
        let number = self.numbers.hash_one((key, network_of(from)));
        (&self.known[number as usize % self.known.len()], number)
    }
}

impl Wrong {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= WINDOW
    }

    fn add(&mut self, key: u64) {
        if !self.last.contains(&key) || self.count == 0 {
            self.last.rotate_right(1);
            self.last[0] = key;
            self.count += 1;
        }
    }

    fn slowed(&self, now: Instant, is_news: bool) -> Slowed {
        let left = WINDOW.saturating_sub(now.saturating_duration_since(self.since));
        Slowed { seconds: left.as_secs() as u32 + 1, is_news }
    }
}

/// Never all are forgotten: where there is no room, who has guessed least makes some.
fn make_room(all: &mut HashMap<IpAddr, Wrong>, from: IpAddr, now: Instant) {
    if all.len() < limits::GUESSERS_MAX || all.contains_key(&from) {
        return;
    }
    all.retain(|_, wrong| !wrong.is_over(now));
    if all.len() >= limits::GUESSERS_MAX {
        let least = all.iter().min_by_key(|(_, wrong)| wrong.count);
        if let Some(address) = least.map(|(address, _)| *address) {
            all.remove(&address);
        }
    }
}

/// Who guesses from there: one subscriber has a whole IPv6 network of 64 bits.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::from((address.to_bits() & !u128::from(u64::MAX)).to_be_bytes())
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u64 = 3;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    fn key(number: u64) -> Digest {
        Digest::of(&number.to_be_bytes())
    }

    #[test]
    fn beyond_some_wrong_keys_only_a_known_one_is_let_in_from_there_until_a_minute_is_over() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        let home = ip("192.0.2.1");
        guesses.remember(home, &key(100));
        for number in 0..MOST {
            assert_eq!(guesses.wrong(home, &key(number), MOST, now), Ok(()));
            assert_eq!(guesses.may(home, &key(101), MOST, now), Ok(()));
        }
        let later = now + Duration::from_secs(20);
        let slowed = |is_news| Err(Slowed { seconds: 41, is_news });
        assert_eq!(guesses.wrong(home, &key(4), MOST, later), slowed(true));
        assert_eq!(guesses.wrong(home, &key(5), MOST, later), slowed(false));
        // Right or wrong, what was never let in from there is told the same.
        assert_eq!(guesses.may(home, &key(101), MOST, later), slowed(false));
        assert_eq!(guesses.may(home, &key(100), MOST, later), Ok(()));
        // Nobody elsewhere is held up, and what is known here is not known there.
        assert_eq!(guesses.may(ip("192.0.2.2"), &key(101), MOST, later), Ok(()));
        let over = now + WINDOW;
        assert_eq!(guesses.may(home, &key(101), MOST, over), Ok(()));
        assert!(!guesses.alarmed.load(Ordering::Acquire));
        assert_eq!(guesses.wrong(home, &key(6), MOST, over), Ok(()));
    }

    #[test]
    fn the_same_wrong_keys_again_are_no_guesses() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        for number in 0..1_000 {
            assert_eq!(guesses.wrong(ip("192.0.2.1"), &key(number % MOST), MOST, now), Ok(()));
        }
        assert!(guesses.wrong(ip("192.0.2.1"), &key(MOST), MOST, now).is_err());
    }

    #[test]
    fn an_ipv6_network_of_64_bits_is_one_guesser() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        for number in 0..MOST {
            let from = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, number as u16]);
            assert_eq!(guesses.wrong(from, &key(number), MOST, now), Ok(()));
        }
        assert!(guesses.wrong(ip("2001:db8::ffff:1"), &key(9), MOST, now).is_err());
        assert_eq!(guesses.wrong(ip("2001:db8:0:1::1"), &key(9), MOST, now), Ok(()));
    }

    #[test]
    fn more_guessers_than_there_is_room_for_push_nobody_out_who_has_reached_his_limit() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        let first = ip("2001:db8::1");
        for number in 0..=MOST {
            let _ = guesses.wrong(first, &key(number), MOST, now);
        }
        for number in 0..2 * limits::GUESSERS_MAX as u32 {
            let from = IpAddr::from(number.to_be_bytes());
            assert_eq!(guesses.wrong(from, &key(number.into()), MOST, now), Ok(()));
        }
        assert!(guesses.may(first, &key(9), MOST, now).is_err());
        assert!(guesses.wrong.lock().len() <= limits::GUESSERS_MAX);
        // Of those who were let in, the last are remembered.
        for number in 0..4 * limits::KNOWN_CALLERS_MAX as u64 {
            guesses.remember(first, &key(number));
            assert!(guesses.is_known(first, &key(number)));
        }
    }
}
