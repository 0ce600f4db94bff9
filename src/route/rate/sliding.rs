//! A count over a sliding window.
//!
//! Exact while the window holds few times at which something came: those are kept. Where there are
//! more, two buckets estimate: the one before counts by the part of it that the window still
//! covers, so that no edge lets a double rate pass. Where requests came unevenly within that
//! bucket, the estimate errs by at most what came in it. Either way nothing counts for longer than
//! a window.

use std::collections::VecDeque;

use crate::dialect::ratelimit::Window;

/// Times that are kept. A limit of no more than that is exact: when it has let so many pass, all
/// of them are kept.
pub(super) const RECENT_MAX: usize = 16;
/// By so much may the time of one caller be behind another's, who took the lock first. What is
/// later than that was counted by a clock that was set back, or has no time of its own.
const LATE_MS_MAX: i64 = 1_000;

/// What came within a window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sliding {
    bucket: i64,
    before: u64,
    now: u64,
    /// Of the buckets; 0: nothing was counted yet.
    window_ms: i64,
    // Invariant: at most `RECENT_MAX`, each later than the one before it, and none counts nothing.
    recent: VecDeque<(i64, u64)>,
    /// The last time that `recent` does not hold, or not truly.
    lost_ms: Option<i64>,
}

impl Sliding {
    /// Moves to the bucket of `now_ms`. Where a rule has another window now, what counted in the
    /// old one counts in its buckets as if it had just come.
    pub(super) fn turn(&mut self, now_ms: i64, window_ms: i64) {
        if self.recent.back().is_some_and(|(at_ms, _)| *at_ms > now_ms + LATE_MS_MAX) {
            self.set_back(now_ms);
        }
        let bucket = now_ms.div_euclid(window_ms);
        if self.window_ms != window_ms {
            let old_ms = self.window_ms;
            if old_ms > 0 {
                self.turn(now_ms, old_ms);
                self.now = self.estimate(now_ms);
            }
            (self.bucket, self.before, self.window_ms) = (bucket, 0, window_ms);
        }
        if bucket > self.bucket {
            self.before = if bucket == self.bucket + 1 { self.now } else { 0 };
            self.now = 0;
            self.bucket = bucket;
        }
    }

    /// What was counted later than now counts as if it had just come.
    fn set_back(&mut self, now_ms: i64) {
        let later = self.recent.partition_point(|(at_ms, _)| *at_ms <= now_ms);
        let count = self.recent.drain(later..).fold(0_u64, |sum, (_, one)| sum.saturating_add(one));
        self.keep(now_ms, count);
        self.lost_ms = self.lost_ms.map(|at_ms| at_ms.min(now_ms));
        let bucket = now_ms.div_euclid(self.window_ms.max(1));
        if bucket < self.bucket {
            self.now = self.now.saturating_add(std::mem::take(&mut self.before));
            self.bucket = bucket;
        }
    }

    /// Counts so many. It has turned to that time.
    pub(super) fn add(&mut self, at_ms: i64, count: u64) {
        self.now = self.now.saturating_add(count);
        self.keep(at_ms, count);
    }

    fn keep(&mut self, at_ms: i64, count: u64) {
        if count == 0 {
            return;
        }
        let mut place = self.recent.partition_point(|(before_ms, _)| *before_ms < at_ms);
        match self.recent.get_mut(place) {
            Some((same_ms, sum)) if *same_ms == at_ms => return *sum = sum.saturating_add(count),
            _ => {}
        }
        if self.recent.len() == RECENT_MAX {
            let oldest_ms = match place {
                0 => at_ms,
                _ => self.recent.pop_front().map_or(at_ms, |(oldest_ms, _)| oldest_ms),
            };
            self.lost_ms = self.lost_ms.max(Some(oldest_ms));
            if place == 0 {
                return;
            }
            place -= 1;
        }
        self.recent.insert(place, (at_ms, count));
    }

    /// Counts what came on a day of which no more is known, as late as it can have come. Days come
    /// in their order.
    pub(super) fn remember(&mut self, day: i64, day_ms: i64, count: u64) {
        let last_ms = (day + 1) * day_ms - 1;
        self.turn(last_ms, day_ms);
        self.add(last_ms, count);
        self.lost_ms = self.lost_ms.max(Some(last_ms));
    }

    /// Puts what was used in the place of what was reserved at `at_ms`, at the time of then. What
    /// is older than both buckets counts no more.
    pub(super) fn settle(&mut self, reserved: u64, used: u64, at_ms: i64) {
        let settled = |count: u64| count.saturating_add(used).saturating_sub(reserved);
        match self.recent.binary_search_by_key(&at_ms, |(kept_ms, _)| *kept_ms) {
            Ok(place) => {
                self.recent[place].1 = settled(self.recent[place].1);
                self.recent.retain(|(_, count)| *count > 0);
            }
            Err(_) => self.keep(at_ms, used.saturating_sub(reserved)),
        }
        match self.bucket - at_ms.div_euclid(self.window_ms.max(1)) {
            ..=0 => self.now = settled(self.now),
            1 => self.before = settled(self.before),
            _ => {}
        }
    }

    /// What counts in the window that ends now, under a limit.
    pub(super) fn level(&self, now_ms: i64, limit: u64) -> u64 {
        match self.lost_for_ms(now_ms, limit) {
            Some(_) => self.estimate(now_ms),
            None => {
                let counted = self.recent.iter().filter(|(at_ms, _)| self.holds(now_ms, *at_ms));
                counted.fold(0, |sum, (_, count)| sum.saturating_add(*count))
            }
        }
    }

    /// Whether the window that ends now holds that time.
    fn holds(&self, now_ms: i64, at_ms: i64) -> bool {
        now_ms.saturating_sub(at_ms) < self.window_ms
    }

    /// For how long the buckets have to be asked, since the times that are kept are not all.
    fn lost_for_ms(&self, now_ms: i64, limit: u64) -> Option<i64> {
        let lost_ms = self.lost_ms.filter(|at_ms| self.holds(now_ms, *at_ms))?;
        (limit > RECENT_MAX as u64).then(|| lost_ms + self.window_ms - now_ms)
    }

    /// How much of the current bucket is still to come. Who is late asks at its beginning.
    fn left_ms(&self, now_ms: i64) -> i64 {
        let begun_ms = self.bucket * self.window_ms;
        self.window_ms - now_ms.saturating_sub(begun_ms).clamp(0, self.window_ms)
    }

    /// The level by the buckets, rounded up.
    fn estimate(&self, now_ms: i64) -> u64 {
        let (left, window) = (self.left_ms(now_ms) as u64, self.window_ms.max(1) as u64);
        let before = match self.before.checked_mul(left) {
            Some(before) => before.div_ceil(window),
            // So many that it takes the double width.
            None => (u128::from(self.before) * u128::from(left)).div_ceil(window.into()) as u64,
        };
        self.now.saturating_add(before)
    }

    /// How it stands under a limit.
    pub(super) fn window(&self, now_ms: i64, limit: u64) -> Window {
        let last_ms = self.recent.back().map(|(at_ms, _)| *at_ms).max(self.lost_ms);
        let reset_ms = last_ms.map_or(0, |at_ms| at_ms + self.window_ms - now_ms);
        let reset_ms = reset_ms.clamp(0, self.window_ms);
        let remaining = limit.saturating_sub(self.level(now_ms, limit));
        Window { limit, remaining, reset_ms: (limit > 0).then_some(reset_ms) }
    }

    /// When the level will have fallen such that `wanted` more fit below `limit`; `None`: never.
    pub(super) fn reset_ms(&self, now_ms: i64, limit: u64, wanted: u64) -> Option<i64> {
        let room = limit.checked_sub(wanted)?;
        let mut sum = 0_u64;
        let too_many = self.recent.iter().rev().find(|(_, count)| {
            sum = sum.saturating_add(*count);
            sum > room
        });
        let kept_ms = too_many.map_or(0, |(at_ms, _)| at_ms + self.window_ms - now_ms);
        let reset_ms = match self.lost_for_ms(now_ms, limit) {
            None => kept_ms,
            Some(lost_ms) => match self.estimated_reset_ms(now_ms, room) {
                estimated_ms if estimated_ms < lost_ms => estimated_ms,
                _ => kept_ms.max(lost_ms),
            },
        };
        (limit > 0).then(|| reset_ms.clamp(1, self.window_ms))
    }

    /// When the estimate will have fallen to `room`.
    fn estimated_reset_ms(&self, now_ms: i64, room: u64) -> i64 {
        let left = self.left_ms(now_ms);
        if self.now <= room && self.before > 0 {
            // Within this bucket: the part of the one before must shrink to what is left of it.
            let covered = i128::from(room - self.now) * i128::from(self.window_ms);
            let covered = (covered / i128::from(self.before)) as i64;
            return left - covered;
        }
        let covered = i128::from(room.min(self.now)) * i128::from(self.window_ms);
        let covered = (covered / i128::from(self.now.max(1))) as i64;
        left + self.window_ms - covered
    }
}
