use super::*;

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

#[test]
fn no_window_of_a_minute_lets_more_than_the_limit_pass_even_across_an_edge() {
    let rule = RateLimit { rpm: Some(10), ..rule() };
    let mut counters = Counters::default();
    let base = 1_000 * MINUTE_MS;
    let count = |counters: &mut Counters, at| {
        (0..50).filter(|_| passes(counters, &rule, 0, base + at)).count()
    };
    assert_eq!(count(&mut counters, MINUTE_MS - 1), 10);
    assert_eq!(count(&mut counters, MINUTE_MS), 0, "the edge gives nothing");
    assert_eq!(count(&mut counters, MINUTE_MS + MINUTE_MS / 2), 5);
    assert_eq!(count(&mut counters, 2 * MINUTE_MS + MINUTE_MS / 2), 7);
    assert_eq!(count(&mut counters, 9 * MINUTE_MS), 10);
}

#[test]
fn the_reset_that_is_told_is_when_a_request_passes() {
    let rule = RateLimit { rpm: Some(3), ..rule() };
    for at in [0, 1, 20_000, 59_999] {
        let mut counters = Counters::default();
        let mut now = 77 * MINUTE_MS + at;
        while passes(&mut counters, &rule, 0, now) {}
        let limited = counters.check(&rule, 0, now).expect_err("it is reached");
        assert_eq!((limited.counter, limited.limit), ("rpm", 3));
        assert!(counters.check(&rule, 0, now + limited.reset_ms - 2).is_err(), "too early at {at}");
        now += limited.reset_ms + 1;
        assert!(counters.check(&rule, 0, now).is_ok(), "too late at {at}");
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
    let rule = RateLimit { rpd: Some(10), ..rule() };
    let mut counters = Counters::default();
    counters.remember(6, 8);
    counters.remember(7, 3);
    let noon = 7 * DAY_MS + DAY_MS / 2;
    assert_eq!((0..20).filter(|_| passes(&mut counters, &rule, 0, noon)).count(), 3);
}

#[test]
fn what_a_long_request_did_not_use_is_taken_from_its_own_window_and_no_other() {
    let rule = RateLimit { total_tokens: Some(100), ..rule() };
    let mut counters = Counters::default();
    assert!(passes(&mut counters, &rule, 90, 0));
    // A minute later nine tenths of the first reservation are still held against the user.
    let later = MINUTE_MS + MINUTE_MS / 10;
    assert!(passes(&mut counters, &rule, 19, later));
    assert!(!passes(&mut counters, &rule, 1, later));
    counters.leave(90, 10, 0);
    assert_eq!(counters.levels(&rule, later)[2], 9 + 19);
    assert!(passes(&mut counters, &rule, 72, later));
    assert!(!passes(&mut counters, &rule, 1, later), "the later ones still count");
    // What ends when its window is long over changes nothing.
    counters.leave(19, 19, later);
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
    assert!(!passes(&mut counters, &day, 1, now + DAY_MS), "still a day's");
    assert!(passes(&mut counters, &day, 100, now + 2 * DAY_MS), "and no longer");
    assert!(passes(&mut counters, &minute, 0, now + 2 * DAY_MS));
}
