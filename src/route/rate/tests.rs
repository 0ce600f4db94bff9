use super::sliding::RECENT_MAX;
use super::*;
use crate::testing::prng::Prng;

fn rule() -> RateLimit {
    let pattern = Glob::any();
    let window_ms = MINUTE_MS;
    RateLimit { pattern, rpm: None, rpd: None, total_tokens: None, window_ms, in_flight: None }
}

fn passes(counters: &mut Counters, rule: &RateLimit, tokens: u64, now_ms: i64) -> bool {
    let passes = counters.check(rule, tokens, now_ms).is_ok();
    if passes {
        counters.enter(rule, tokens, now_ms);
    }
    passes
}

/// Every count with its time: what a window holds is what it says.
#[derive(Default)]
struct Naive(Vec<(i64, u64)>);

impl Naive {
    fn level(&self, now_ms: i64, window_ms: i64) -> u64 {
        let held = self.0.iter().filter(|(at_ms, _)| now_ms - at_ms < window_ms);
        held.map(|(_, count)| count).sum()
    }
}

#[test]
fn a_small_limit_lets_exactly_what_a_list_of_all_times_lets() {
    for seed in 0..50 {
        let mut prng = Prng::new(seed);
        let limit = 1 + prng.below(RECENT_MAX) as u64;
        let rule = RateLimit { rpm: Some(limit), ..rule() };
        let (mut counters, mut naive) = (Counters::default(), Naive::default());
        let mut now = 1_000 * MINUTE_MS;
        for _ in 0..400 {
            let gap_ms = *prng.pick(&[1, 5_000, 20_000, 70_000]);
            now += prng.below(gap_ms) as i64;
            let level = naive.level(now, MINUTE_MS);
            let checked = counters.check(&rule, 0, now);
            assert_eq!(checked.is_ok(), level < limit, "seed {seed} at {now}");
            assert_eq!(counters.levels(&rule, now)[0], level, "seed {seed} at {now}");
            let Err(limited) = checked else {
                counters.enter(&rule, 0, now);
                naive.0.push((now, 1));
                continue;
            };
            let reset_ms = limited.reset_ms.expect("there is room some time");
            let at = |ms| naive.level(now + ms, MINUTE_MS) < limit;
            assert!(at(reset_ms) && !at(reset_ms - 1), "seed {seed} at {now}: {reset_ms}");
        }
    }
}

#[test]
fn no_wait_is_longer_than_a_window_since_the_last_that_counted_whatever_the_limit() {
    for seed in 0..50 {
        let mut prng = Prng::new(seed);
        let limit = 1 + prng.below(60) as u64;
        let rule = RateLimit { rpm: Some(limit), ..rule() };
        let mut counters = Counters::default();
        let (mut now, mut last) = (1_000 * MINUTE_MS, 0);
        for _ in 0..1_000 {
            let gap_ms = *prng.pick(&[1, 50, 3_000, 70_000]);
            now += prng.below(gap_ms) as i64;
            let Err(limited) = counters.check(&rule, 0, now) else {
                counters.enter(&rule, 0, now);
                last = now;
                continue;
            };
            let reset_ms = limited.reset_ms.expect("there is room some time");
            assert!((1..=last + MINUTE_MS - now).contains(&reset_ms), "seed {seed} at {now}");
            let mut later = counters.clone();
            assert!(later.check(&rule, 0, now + reset_ms).is_ok(), "seed {seed} at {now}");
            let mut sooner = counters.clone();
            let sooner = sooner.check(&rule, 0, now + reset_ms - 1);
            assert!(sooner.is_err(), "seed {seed} at {now}: there is room before {reset_ms}");
            let mut standing = Standing::default();
            counters.stand(&rule, now, &mut standing);
            let told = standing.requests.and_then(|window| window.reset_ms);
            assert_eq!(told, Some(last + MINUTE_MS - now), "seed {seed} at {now}");
        }
        assert_eq!(counters.levels(&rule, last + MINUTE_MS)[0], 0, "seed {seed}");
    }
}

#[test]
fn one_call_a_minute_waits_for_what_is_left_of_its_minute() {
    let rule = RateLimit { rpm: Some(1), ..rule() };
    let mut counters = Counters::default();
    let now = 1_000 * MINUTE_MS + 500;
    assert!(passes(&mut counters, &rule, 0, now));
    let limited = counters.check(&rule, 0, now + 20_000).expect_err("it is reached");
    assert_eq!(limited.reset_ms, Some(40_000));
    assert!(!passes(&mut counters, &rule, 0, now + MINUTE_MS - 1));
    assert!(passes(&mut counters, &rule, 0, now + MINUTE_MS));
}

#[test]
fn no_edge_lets_more_than_the_limit_pass_where_the_times_are_too_many_to_keep() {
    let rule = RateLimit { rpm: Some(100), ..rule() };
    let mut counters = Counters::default();
    let base = 1_000 * MINUTE_MS;
    let mut count = |range: std::ops::Range<i64>| {
        range.filter(|at| passes(&mut counters, &rule, 0, base + at)).count()
    };
    assert_eq!(count(MINUTE_MS - 200..MINUTE_MS), 100);
    assert_eq!(count(MINUTE_MS..MINUTE_MS + 500), 0, "the edge gives nothing");
    let half = MINUTE_MS + MINUTE_MS / 2;
    assert_eq!(count(half..half + 200), 50, "half of the bucket before counts");
    assert_eq!(count(9 * MINUTE_MS..9 * MINUTE_MS + 300), 100);
    // One whose clock was read before another turned to the next bucket.
    let mut counters = Counters::default();
    (0..100).for_each(|at| counters.enter(&rule, 0, base + MINUTE_MS - 200 + at));
    assert!(!passes(&mut counters, &rule, 0, base + MINUTE_MS + 2));
    assert!(!passes(&mut counters, &rule, 0, base + MINUTE_MS - 1));
}

#[test]
fn a_limit_of_nothing_is_never_open_and_nor_is_one_for_what_is_larger_than_it() {
    let none = [
        RateLimit { rpm: Some(0), ..rule() },
        RateLimit { rpd: Some(0), ..rule() },
        RateLimit { total_tokens: Some(0), ..rule() },
        RateLimit { in_flight: Some(0), ..rule() },
    ];
    for rule in none {
        let limited = Counters::default().check(&rule, 0, 5).expect_err("it is never open");
        assert_eq!((limited.limit, limited.reset_ms), (0, None), "{rule:?}");
        let mut standing = Standing::default();
        Counters::default().stand(&rule, 5, &mut standing);
        let window = standing.requests.or(standing.tokens);
        assert!(window.is_none_or(|window| window.reset_ms.is_none()), "{rule:?}");
    }
    let rule = RateLimit { total_tokens: Some(100), ..rule() };
    let reset_ms = |tokens| Counters::default().check(&rule, tokens, 5).map_err(|it| it.reset_ms);
    assert_eq!((reset_ms(100), reset_ms(101)), (Ok(()), Err(None)));
}

#[test]
fn a_clock_that_is_set_back_holds_nothing_for_longer_than_a_window() {
    for limit in [3, 30] {
        let rule = RateLimit { rpm: Some(limit), ..rule() };
        let mut counters = Counters::default();
        let now = 1_000 * MINUTE_MS;
        (0..limit).for_each(|at| counters.enter(&rule, 0, now + at as i64));
        let before = now - 90 * MINUTE_MS;
        let limited = counters.check(&rule, 0, before).expect_err("it is reached");
        assert_eq!(limited.reset_ms, Some(MINUTE_MS));
        assert!(!passes(&mut counters, &rule, 0, before + MINUTE_MS - 1));
        assert!(passes(&mut counters, &rule, 0, before + MINUTE_MS));
    }
}

#[test]
fn tokens_are_reserved_and_settled_to_what_was_used() {
    let rule = RateLimit { total_tokens: Some(100), ..rule() };
    let mut counters = Counters::default();
    assert!(passes(&mut counters, &rule, 80, 0));
    assert!(!passes(&mut counters, &rule, 30, 0));
    counters.leave(80, 10, 0);
    assert!(passes(&mut counters, &rule, 30, 0));
    counters.leave(30, 500, 0);
    let limited = counters.check(&rule, 1, 0).expect_err("it used more than it said");
    assert_eq!(limited.counter, "total_tokens");
}

#[test]
fn requests_side_by_side_are_counted_until_they_end() {
    let rule = RateLimit { in_flight: Some(2), ..rule() };
    let mut counters = Counters::default();
    assert!(passes(&mut counters, &rule, 0, 0) && passes(&mut counters, &rule, 0, 0));
    assert!(!passes(&mut counters, &rule, 0, 0));
    counters.leave(0, 0, 0);
    assert!(passes(&mut counters, &rule, 0, 0));
}

#[test]
fn requests_of_the_day_before_the_start_count() {
    let noon = 7 * DAY_MS + DAY_MS / 2;
    let check = |limit, expected, later| {
        let rule = RateLimit { rpd: Some(limit), ..rule() };
        let mut counters = Counters::default();
        counters.remember(6, 8);
        counters.remember(7, 2);
        counters.remember(7, 1);
        let mut count =
            |at| (0..limit).filter(|_| passes(&mut counters, &rule, 0, at)).count() as u64;
        assert_eq!(count(noon), expected, "{limit}");
        // Those of today count as if they had come when they were met first.
        assert_eq!(count(noon + DAY_MS - 1), later, "{limit}");
        assert_eq!(count(noon + DAY_MS), limit - later, "{limit}");
    };
    // Half of yesterday's, or all where the limit is small, since any may have come last.
    check(20, 13, 11);
    check(16, 5, 8);
    check(11, 0, 8);
}

#[test]
fn what_a_long_request_did_not_use_is_taken_from_its_own_window_and_no_other() {
    let rule = RateLimit { total_tokens: Some(100), ..rule() };
    let mut counters = Counters::default();
    assert!(passes(&mut counters, &rule, 90, 0));
    // Within a minute all of the first reservation is held against the user.
    let later = MINUTE_MS - MINUTE_MS / 10;
    assert!(passes(&mut counters, &rule, 10, later));
    assert!(!passes(&mut counters, &rule, 1, later));
    counters.leave(90, 10, 0);
    assert_eq!(counters.levels(&rule, later)[2], 10 + 10);
    assert!(passes(&mut counters, &rule, 80, later));
    assert!(!passes(&mut counters, &rule, 1, later), "the later ones still count");
    // What ends when its window is long over changes nothing.
    counters.leave(10, 10, later);
    let mut counters = Counters::default();
    assert!(passes(&mut counters, &rule, 90, 0) && passes(&mut counters, &rule, 60, 3 * MINUTE_MS));
    counters.leave(90, 5, 0);
    assert_eq!(counters.levels(&rule, 3 * MINUTE_MS)[2], 60);
}

#[test]
fn another_window_of_a_rule_begins_with_what_was_counted_in_the_old_one() {
    let minute = RateLimit { total_tokens: Some(100), ..rule() };
    let day = RateLimit { window_ms: DAY_MS, ..minute.clone() };
    let mut counters = Counters::default();
    let now = 20_000 * DAY_MS;
    assert!(passes(&mut counters, &minute, 60, now));
    assert!(!passes(&mut counters, &day, 60, now));
    assert!(passes(&mut counters, &day, 40, now));
    assert!(!passes(&mut counters, &day, 1, now + DAY_MS - 1), "still a day's");
    assert!(passes(&mut counters, &day, 100, now + DAY_MS), "and no longer");
    assert!(!passes(&mut counters, &minute, 1, now + DAY_MS + MINUTE_MS - 1));
    assert!(passes(&mut counters, &minute, 1, now + DAY_MS + MINUTE_MS));
}

#[test]
fn a_reservation_that_is_settled_leaves_what_was_used_and_no_more() {
    for seed in 0..50 {
        let mut prng = Prng::new(seed);
        let rule = RateLimit { total_tokens: Some(1_000), ..rule() };
        let (mut counters, mut naive) = (Counters::default(), Naive::default());
        let mut open: Vec<(u64, i64)> = Vec::new();
        let mut now = 1_000 * MINUTE_MS;
        // So few that every time is kept.
        for _ in 0..RECENT_MAX {
            now += prng.below(12_000) as i64;
            let tokens = prng.below(400) as u64;
            let level = naive.level(now, MINUTE_MS);
            assert_eq!(counters.levels(&rule, now)[2], level, "seed {seed} at {now}");
            let is_room = level + tokens <= 1_000;
            assert_eq!(passes(&mut counters, &rule, tokens, now), is_room, "seed {seed} at {now}");
            if is_room {
                naive.0.push((now, tokens));
                open.push((tokens, now));
            }
            while !open.is_empty() && prng.one_in(2) {
                let (reserved, at_ms) = open.swap_remove(prng.below(open.len()));
                let used = prng.below(500) as u64;
                counters.leave(reserved, used, at_ms);
                naive.0.iter_mut().find(|one| **one == (at_ms, reserved)).expect("entered").1 =
                    used;
            }
        }
    }
}

#[test]
fn what_is_settled_of_many_leaves_nothing_where_nothing_was_used() {
    let rule = RateLimit { total_tokens: Some(100_000), ..rule() };
    let mut counters = Counters::default();
    let now = 1_000 * MINUTE_MS + 30_000;
    (0..900).for_each(|at| counters.enter(&rule, 100, now + at));
    assert_eq!(counters.levels(&rule, now + 900)[2], 90_000);
    (0..900).rev().for_each(|at| counters.leave(100, 0, now + at));
    assert_eq!(counters.levels(&rule, now + 900)[2], 0);
    counters.enter(&rule, 7, now + 31_000);
    counters.enter(&rule, 0, now + 31_001);
    counters.leave(0, 500, now + 31_001);
    assert_eq!(counters.levels(&rule, now + 31_002)[2], 507, "what used more than it said too");
    assert_eq!(counters.levels(&rule, now + 31_001 + MINUTE_MS)[2], 0);
}
