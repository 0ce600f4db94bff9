use super::*;

const NOW: i64 = 1_700_000_000_000;

const RECOVERED: Option<Change> = Some(Change::Recovered);

fn asking(scope: Scope, asked_ms: Option<i64>) -> Trouble {
    Trouble { scope, asked_ms, window_ms: None }
}

fn limited(scope: Scope, wait_ms: Option<i64>) -> Lesson {
    Lesson::Limited(asking(scope, wait_ms))
}

/// The outcome table: status, what the account and another model may do afterwards, for how long.
#[test]
fn the_outcome_table() {
    let wait = |asked_ms| asking(Scope::Model, asked_ms);
    let of_account = |asked_ms| asking(Scope::Account, asked_ms);
    let of_request = asking(Scope::Request, None);
    let window = Trouble { window_ms: Some(5_000), ..Trouble::UNSAID };
    let (free, off) = (Leave::Free, Leave::Disabled);
    let from = |ms: i64| Leave::From(NOW + ms);
    let rows = [
        (200, wait(None), free, free),
        (302, wait(None), free, free),
        (400, wait(Some(5_000)), free, free),
        (404, of_account(Some(5_000)), free, free),
        (409, wait(None), free, free),
        (413, wait(None), free, free),
        (422, wait(None), free, free),
        (401, wait(None), off, off),
        (402, wait(None), from(limits::COOLDOWN_MS_MAX), from(limits::COOLDOWN_MS_MAX)),
        (403, of_account(None), off, off),
        (403, wait(None), from(limits::BACKOFF_MS), free),
        (403, wait(Some(5_000)), from(5_000), free),
        (403, of_request, free, free),
        (429, wait(Some(5_000)), from(5_000), free),
        (429, of_account(Some(5_000)), from(5_000), from(5_000)),
        (429, of_request, from(limits::BACKOFF_MS), free),
        (429, wait(None), from(limits::BACKOFF_MS), free),
        (429, wait(Some(0)), from(limits::COOLDOWN_MS_MIN), free),
        (429, wait(Some(86_400_000)), from(limits::COOLDOWN_MS_MAX), free),
        (429, wait(Some(i64::MAX)), from(limits::COOLDOWN_MS_MAX), free),
        (500, wait(None), from(limits::BACKOFF_MS), free),
        (503, wait(None), from(limits::BACKOFF_MS), free),
        (529, wait(None), from(limits::BACKOFF_MS), free),
        (429, window, from(5_000), free),
        (503, window, from(limits::BACKOFF_MS), free),
        (503, wait(Some(5_000)), from(5_000), free),
        (503, wait(Some(10)), from(limits::BACKOFF_MS), free),
        (529, of_account(Some(5_000)), from(5_000), free),
        (529, wait(Some(i64::MAX)), from(limits::COOLDOWN_MS_MAX), free),
        (501, wait(None), free, free),
        (505, wait(None), free, free),
    ];
    for (status, trouble, model, other) in rows {
        let mut health = Health::default();
        health.learn("m", lesson_of(status, trouble), NOW, NOW);
        assert_eq!(health.ask("m", NOW), model, "{status} {trouble:?}");
        assert_eq!(health.ask("n", NOW), other, "{status} {trouble:?}");
    }
}

#[test]
fn an_account_that_gets_no_tokens_is_disabled_where_it_is_not_accepted() {
    for (cause, expected) in
        [(Cause::AccountRefused, Leave::Disabled), (Cause::NoToken, Leave::From(NOW + 1_000))]
    {
        let (phase, sent) = (Phase::Connect, crate::failure::Sent::Nothing);
        let failure = Failure { phase, sent, cause, reused: false, after_ms: 0 };
        let mut health = Health::default();
        health.learn("m", shown_by(&failure), NOW, NOW);
        assert_eq!(health.ask("n", NOW), expected, "{cause:?}");
    }
}

#[test]
fn no_connection_cools_all_of_the_credential() {
    let mut health = Health::default();
    assert_eq!(
        health.learn("m", Lesson::Unreachable, NOW, NOW),
        Some(Change::Cools(Why::Unreachable))
    );
    assert_eq!(health.ask("n", NOW), Leave::From(NOW + limits::BACKOFF_MS));
}

#[test]
fn one_probe_at_a_time_opens_the_circuit_again() {
    let mut health = Health::default();
    health.learn("m", limited(Scope::Model, Some(5_000)), NOW, NOW);
    assert_eq!(health.ask("m", NOW + 4_999), Leave::From(NOW + 5_000));
    let at = NOW + 5_000;
    assert_eq!(health.ask("m", at), Leave::Probe);
    assert_eq!(health.ask("m", at), Leave::From(at));
    // A probe that showed nothing leaves the place to the next one.
    health.release("m");
    assert_eq!(health.ask("m", at), Leave::Probe);
    assert_eq!(health.learn("m", Lesson::Works, at, at + 10), Some(Change::Recovered));
    assert_eq!(health.ask("m", at + 10), Leave::Free);
    assert!(health.is_sound());
}

/// The lesson of a probe may be about a circuit that is not the one that was probed.
#[test]
fn a_probe_that_fails_in_another_way_leaves_its_place_to_the_next_one() {
    let at = NOW + 60_000;
    for (first, second) in
        [(Lesson::Unreachable, Lesson::Failed(None)), (Lesson::Failed(None), Lesson::Unreachable)]
    {
        let mut health = Health::default();
        health.learn("m", first, NOW, NOW);
        assert_eq!(health.ask("m", at), Leave::Probe);
        health.learn_from_probe("m", second, at, at);
        assert_eq!(health.circuits().len(), 2);
        let Leave::From(until) = health.ask("m", at) else { panic!("it cools") };
        assert!(until > at);
        assert_eq!(health.ask("m", until), Leave::Probe, "{first:?}, {second:?}");
        assert_eq!(health.learn_from_probe("m", Lesson::Works, until, until + 1), RECOVERED);
        assert!(health.is_sound());
    }
    // Another model's probe is held up by that of the account no longer than it lasts.
    let mut health = Health::default();
    health.learn("m", Lesson::Unreachable, NOW, NOW);
    assert_eq!(health.ask("m", at), Leave::Probe);
    assert_eq!(health.ask("n", at), Leave::From(at));
    health.learn_from_probe("m", Lesson::Failed(None), at, at);
    assert_eq!(health.ask("n", at), Leave::Probe);
}

#[test]
fn a_call_without_a_model_teaches_only_what_is_true_of_all_of_the_credential() {
    let of_account = asking(Scope::Account, None);
    let mut health = Health::default();
    for status in [403, 429, 500, 503] {
        assert_eq!(health.learn("", lesson_of(status, Trouble::UNSAID), NOW, NOW), None);
        assert!(health.is_sound(), "{status}");
    }
    for status in [401, 402, 403, 429] {
        let mut health = Health::default();
        health.learn("", lesson_of(status, of_account), NOW, NOW);
        assert_ne!(health.ask("m", NOW), Leave::Free, "{status}");
    }
    health.learn("", Lesson::Unreachable, NOW, NOW);
    assert_eq!(health.ask("m", NOW), Leave::From(NOW + limits::BACKOFF_MS));
}

#[test]
fn a_failed_probe_doubles_the_pause_up_to_its_ceiling() {
    let mut health = Health::default();
    let mut now = NOW;
    let mut pauses = Vec::new();
    for _ in 0..9 {
        health.learn("m", Lesson::Failed(None), now, now);
        let Leave::From(until) = health.ask("m", now) else { panic!("it cools") };
        pauses.push((until - now) / 1_000);
        now = until;
        assert_eq!(health.ask("m", now), Leave::Probe);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
}

#[test]
fn who_fails_and_asks_for_less_than_the_doubled_pause_rests_as_long_as_that() {
    let mut health = Health::default();
    let mut now = NOW;
    let mut pauses = Vec::new();
    for _ in 0..4 {
        health.learn("m", Lesson::Failed(Some(3_000)), now, now);
        let Leave::From(until) = health.ask("m", now) else { panic!("it cools") };
        pauses.push((until - now) / 1_000);
        now = until;
    }
    assert_eq!(pauses, [3, 3, 4, 8]);
}

#[test]
fn a_crowd_that_fails_together_counts_once() {
    let mut health = Health::default();
    for _ in 0..100 {
        health.learn("m", Lesson::Failed(None), NOW - 50, NOW);
    }
    assert_eq!(health.circuits()[0].strikes, 1);
    assert_eq!(health.ask("m", NOW), Leave::From(NOW + limits::BACKOFF_MS));
}

#[test]
fn an_answer_to_an_older_call_closes_nothing() {
    let mut health = Health::default();
    health.learn("m", limited(Scope::Account, Some(9_000)), NOW, NOW);
    assert_eq!(health.learn("m", Lesson::Works, NOW - 1, NOW + 1), None);
    assert_eq!(health.ask("m", NOW + 1), Leave::From(NOW + 9_000));
}

#[test]
fn a_denied_credential_stays_out_until_a_success_or_until_it_is_let_go() {
    let mut health = Health::default();
    assert_eq!(health.learn("m", Lesson::Denied, NOW, NOW), Some(Change::Disabled));
    assert_eq!(health.learn("m", Lesson::Denied, NOW + 1, NOW + 1), None, "said once");
    health.learn("m", limited(Scope::Account, Some(1)), NOW + 2, NOW + 2);
    assert_eq!(health.ask("m", NOW + 86_400_000_000), Leave::Disabled);
    let mut other = health.clone();
    assert!(other.enable() && other.is_sound() && !other.enable());
    assert_eq!(health.learn("n", Lesson::Works, NOW + 5, NOW + 6), Some(Change::Recovered));
    assert!(health.is_sound());
}

#[test]
fn a_model_that_is_refused_is_asked_for_again_after_longer_and_longer_rests() {
    let mut health = Health::default();
    let refused = lesson_of(403, Trouble::UNSAID);
    assert_eq!(health.learn("m", refused, NOW, NOW), Some(Change::Cools(Why::Refused)));
    let at = NOW + limits::BACKOFF_MS;
    assert_eq!(health.ask("m", at), Leave::Probe);
    health.learn_from_probe("m", refused, at, at);
    assert_eq!(health.ask("m", at), Leave::From(at + 2 * limits::BACKOFF_MS));
    assert_eq!(health.ask("n", at), Leave::Free);
    let again = at + 2 * limits::BACKOFF_MS;
    assert_eq!(health.ask("m", again), Leave::Probe);
    assert_eq!(health.learn_from_probe("m", Lesson::Works, again, again), RECOVERED);
}

#[test]
fn a_refusal_is_taken_back_a_few_times_but_not_from_what_never_serves() {
    let mut health = Health::default();
    for _ in 0..2 {
        for at in 0..i64::from(limits::PARDONS_MAX) {
            health.learn("m", Lesson::Refused(None), 0, NOW + at);
            assert!(!health.pardon("m", NOW + at - 1), "another refusal's");
            assert!(!health.pardon("n", NOW + at), "another model's");
            assert!(health.pardon("m", NOW + at) && health.circuits().is_empty());
            assert!(!health.is_sound(), "a success has to be learned");
            assert_eq!(health.ask("m", NOW + at), Leave::Free);
        }
        health.learn("m", Lesson::Refused(None), 0, NOW + 9);
        assert!(!health.pardon("m", NOW + 9));
        let at = NOW + 9 + limits::BACKOFF_MS;
        assert_eq!(health.ask("m", at), Leave::Probe);
        assert_eq!(health.learn_from_probe("m", Lesson::Works, at, at), RECOVERED);
        assert!(health.is_sound());
    }
    // One behind another is no chance.
    health.learn("m", Lesson::Refused(None), NOW, NOW);
    health.learn("m", Lesson::Refused(None), NOW + 1, NOW + 1);
    assert!(!health.pardon("m", NOW + 1));
    // Nor is anything but a refusal.
    health.learn("n", Lesson::Failed(None), NOW, NOW);
    assert!(!health.pardon("n", NOW));
}

#[test]
fn a_request_at_fault_changes_nothing() {
    let mut health = Health::default();
    health.learn("m", Lesson::Failed(None), NOW, NOW);
    let before = health.clone();
    assert_eq!(health.learn("m", Lesson::Nothing, NOW + 5, NOW + 5), None);
    assert_eq!(health, before);
}

#[test]
fn the_longer_of_two_circuits_counts_and_the_sooner_is_the_last_resort() {
    let mut health = Health::default();
    health.learn("m", limited(Scope::Model, Some(9_000)), NOW, NOW);
    health.learn("n", limited(Scope::Account, Some(3_000)), NOW, NOW);
    assert_eq!(health.ask("m", NOW), Leave::From(NOW + 9_000));
    assert_eq!(health.ask("n", NOW), Leave::From(NOW + 3_000));
    assert_eq!((health.returns_at("m"), health.returns_at("n")), (NOW + 9_000, NOW + 3_000));
    health.restore(Circuit::kept("n", Why::Denied, NOW, NOW, 1), NOW);
    assert_eq!(health.returns_at("n"), i64::MAX);
    assert_eq!(health.ask("m", NOW + 4_000), Leave::From(NOW + 9_000));
}

#[test]
fn models_by_chance_take_bounded_room_and_never_the_accounts_place() {
    let mut health = Health::default();
    health.learn("m", limited(Scope::Account, Some(1_000)), NOW, NOW);
    for number in 0..1_000 {
        health.learn(&format!("m{number}"), Lesson::Failed(None), NOW + number, NOW + number);
    }
    assert_eq!(health.circuits().len(), limits::CIRCUITS_MAX);
    assert!(health.circuits().iter().any(|circuit| circuit.model.is_empty()));
}

#[test]
fn what_was_kept_ends_at_its_own_time_and_never_beyond_the_ceiling() {
    let mut health = Health::default();
    health.restore(Circuit::kept("m", Why::Limited, NOW, NOW + 5_000, 3), NOW);
    health.restore(Circuit::kept("n", Why::Limited, NOW, i64::MAX, 3), NOW);
    assert_eq!(health.ask("m", NOW + 4_000), Leave::From(NOW + 5_000));
    assert_eq!(health.ask("m", NOW + 6_000), Leave::Probe);
    assert_eq!(health.ask("n", NOW), Leave::From(NOW + limits::COOLDOWN_MS_MAX));
}

/// What the clock jumped back by is no rest, and no reason to learn nothing.
#[test]
fn a_clock_that_is_set_back_takes_nobody_out_for_as_long() {
    const HOUR: i64 = 3_600_000;
    let rested = |health: &mut Health, now_ms| {
        let Leave::From(until) = health.ask("m", now_ms) else { panic!("it rests") };
        until - now_ms
    };
    let mut failed = Health::default();
    failed.learn("m", Lesson::Failed(None), NOW, NOW);
    let then = NOW - HOUR;
    let mut asked = failed.clone();
    assert_eq!(rested(&mut asked, then), limits::BACKOFF_MS);
    assert_eq!(asked.ask("m", then + limits::BACKOFF_MS), Leave::Probe);
    // A call that begins after the jump counts, for well and ill.
    assert_eq!(asked.clone().learn("m", Lesson::Works, then, then + 5), RECOVERED);
    let again = asked.learn("m", Lesson::Failed(None), then, then + 5);
    assert_eq!((again, asked.circuits()[0].strikes), (Some(Change::Cools(Why::Failed)), 2));
    // What was kept may come from there too, and a wait in it that nobody would have written.
    let mut kept = Health::default();
    kept.restore(Circuit::kept("m", Why::Limited, NOW, i64::MAX, 1), then);
    assert_eq!(kept.circuits()[0].since_ms, then);
    assert_eq!(rested(&mut kept, then), limits::COOLDOWN_MS_MAX);
    // Two workers' clocks are never quite the same.
    assert_eq!(rested(&mut failed, NOW - LATE_MS_MAX), limits::BACKOFF_MS + LATE_MS_MAX);
}
