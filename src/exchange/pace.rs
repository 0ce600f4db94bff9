//! How soon upstreams begin to answer, as it was seen, and how often that may be a reason to ask a
//! second credential.
//!
//! A model of a provider has two paces, one for streams and one for whole replies, which wait for
//! their last word. What is old counts for less and less. All workers share the numbers, which are
//! counted without a lock: a count that is lost now and then changes no percentile.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::limits;
use crate::route::snapshot::NO_PLACE;

/// Four to a doubling, from 1 ms to beyond a day.
const BUCKETS: usize = 108;
/// Places that are looked at for one pace.
const PROBES: usize = 8;
/// When so many were seen, each counts half.
const WINDOW: u32 = 2_000;
/// What a hedge costs of the credit that each call adds one to.
const COST: u32 = 100 / limits::HEDGE_PERCENT_MAX;
/// The credit that can be saved: so many hedges may follow one another.
const CREDIT_MAX: u32 = COST * limits::HEDGES_IN_A_ROW;

/// Every pace.
#[derive(Default)]
pub(super) struct Paces(OnceLock<Box<[Pace; limits::PACES_MAX]>>);

/// How soon the answers of one kind begin.
pub(super) struct Pace {
    // 0: nobody's yet.
    key: AtomicU64,
    seen: AtomicU32,
    credit: AtomicU32,
    buckets: [AtomicU32; BUCKETS],
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            key: AtomicU64::new(0),
            seen: AtomicU32::new(0),
            credit: AtomicU32::new(0),
            buckets: [const { AtomicU32::new(0) }; BUCKETS],
        }
    }
}

impl Paces {
    /// The pace of a model at the provider of this place. `None`: there is no room for it.
    pub(super) fn of(&self, place: usize, model: &str, is_stream: bool) -> Option<&Pace> {
        if place == NO_PLACE {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        (place, model, is_stream).hash(&mut hasher);
        let key = hasher.finish().max(1);
        let all = self.0.get_or_init(|| {
            // Made on the heap: as an array it would not fit a coroutine's stack.
            let all: Box<[Pace]> = (0..limits::PACES_MAX).map(|_| Pace::default()).collect();
            all.try_into().unwrap_or_else(|_| unreachable!("it is as long as it is"))
        });
        let first = (key % limits::PACES_MAX as u64) as usize;
        let places = (0..PROBES).map(|step| &all[(first + step) % limits::PACES_MAX]);
        places.into_iter().find(|pace| {
            let taken = pace.key.compare_exchange(0, key, Ordering::Relaxed, Ordering::Relaxed);
            taken.is_ok() || taken == Err(key)
        })
    }
}

impl Pace {
    /// A call begins.
    pub(super) fn earn(&self) {
        let more = |credit: u32| (credit < CREDIT_MAX).then_some(credit + 1);
        let _ = self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Whether one more call may be hedged; it counts as hedged from here on.
    pub(super) fn spend(&self) -> bool {
        let less = |credit: u32| credit.checked_sub(COST);
        self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    /// An answer began after so many milliseconds, or had not begun by then.
    pub(super) fn learn(&self, ms: u64) {
        self.buckets[bucket_of(ms)].fetch_add(1, Ordering::Relaxed);
        if self.seen.fetch_add(1, Ordering::Relaxed) + 1 < WINDOW {
            return;
        }
        let mut sum = 0;
        for bucket in &self.buckets {
            let half = bucket.load(Ordering::Relaxed) / 2;
            bucket.store(half, Ordering::Relaxed);
            sum += half;
        }
        self.seen.store(sum, Ordering::Relaxed);
    }

    /// So many milliseconds, of a hundred answers 99 have begun. `None`: too few were seen.
    pub(super) fn percentile_ms(&self) -> Option<u64> {
        let counts = || self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let sum: u64 = counts().map(u64::from).sum();
        if sum < limits::PACE_SEEN_MIN {
            return None;
        }
        let wanted = (sum * 99).div_ceil(100);
        let mut below = 0;
        let at = counts().position(|count| {
            below += u64::from(count);
            below >= wanted
        });
        at.map(|at| floor_of(at + 1))
    }
}

/// The bucket of a time.
fn bucket_of(ms: u64) -> usize {
    let Some(doublings) = ms.checked_ilog2() else { return 0 };
    // The two bits behind the first one.
    let quarter =
        if doublings >= 2 { (ms >> (doublings - 2)) & 3 } else { (ms << (2 - doublings)) & 3 };
    (doublings as usize * 4 + quarter as usize).min(BUCKETS - 1)
}

/// The shortest time that is longer than all of those below the bucket.
fn floor_of(bucket: usize) -> u64 {
    let (doublings, quarter) = (bucket as u32 / 4, bucket as u64 % 4);
    ((4 + quarter) << doublings).div_ceil(4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::prng::Prng;

    #[test]
    fn a_bucket_holds_what_lies_between_its_bounds() {
        for ms in (0..5_000).chain([86_400_000, 86_399_999, 1 << 26]) {
            let bucket = bucket_of(ms);
            assert!(bucket + 1 < BUCKETS && floor_of(bucket + 1) > ms, "{ms}");
            assert!(bucket == 0 || floor_of(bucket) <= ms.max(1), "{ms}");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    /// Against the percentile of the sorted list: never below, and within a quarter of it above.
    #[test]
    fn the_percentile_is_that_of_the_list_rounded_up() {
        let mut prng = Prng::new(7);
        for _ in 0..200 {
            let pace = Pace::default();
            let span = 1 + prng.below(5_000);
            let mut list: Vec<u64> =
                (0..100 + prng.below(1_000)).map(|_| 1 + prng.below(span) as u64).collect();
            list.iter().for_each(|ms| pace.learn(*ms));
            list.sort_unstable();
            let exact = list[(list.len() * 99).div_ceil(100) - 1];
            let told = pace.percentile_ms().expect("enough were seen");
            assert!(told > exact && told <= exact + exact / 4 + 1, "{told} for {exact}");
        }
    }

    #[test]
    fn nothing_is_known_of_few_and_what_is_old_is_forgotten() {
        let pace = Pace::default();
        (1..limits::PACE_SEEN_MIN).for_each(|_| pace.learn(10));
        assert_eq!(pace.percentile_ms(), None);
        (0..10_000).for_each(|_| pace.learn(10));
        assert_eq!(pace.percentile_ms(), Some(12));
        (0..4_000).for_each(|_| pace.learn(1_000));
        assert!(pace.percentile_ms().is_some_and(|ms| ms > 1_000));
        (0..20_000).for_each(|_| pace.learn(10));
        assert_eq!(pace.percentile_ms(), Some(12));
    }

    #[test]
    fn one_call_in_twenty_is_hedged_at_most() {
        let pace = Pace::default();
        assert!(!pace.spend(), "nothing was earned");
        let hedged = (0..1_000).filter(|_| {
            pace.earn();
            pace.spend()
        });
        assert_eq!(hedged.count(), 1_000 * limits::HEDGE_PERCENT_MAX as usize / 100);
        (0..100_000).for_each(|_| pace.earn());
        let in_a_row = (0..100).filter(|_| pace.spend()).count();
        assert_eq!(in_a_row, limits::HEDGES_IN_A_ROW as usize);
    }

    #[test]
    fn paces_are_apart_and_as_many_as_there_is_room_for() {
        let paces = Paces::default();
        let of =
            |place, model, is_stream| paces.of(place, model, is_stream).map(std::ptr::from_ref);
        let one = of(1, "m", false);
        assert!(one.is_some());
        assert_eq!(one, of(1, "m", false));
        for other in [of(2, "m", false), of(1, "n", false), of(1, "m", true)] {
            assert!(other.is_some() && other != one);
        }
        assert!(of(NO_PLACE, "m", false).is_none());
        let found = (0..4 * limits::PACES_MAX).filter(|at| of(*at, "x", true).is_some()).count();
        assert!(found <= limits::PACES_MAX, "{found}");
        assert!(found > limits::PACES_MAX / 2, "{found}");
        assert_eq!(one, of(1, "m", false), "nobody loses his");
    }
}
