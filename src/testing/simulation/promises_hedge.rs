//! What the path promises about a second credential beside a silent one, one promise to a test.

use super::connection::{CONFIG, Connection, Step, chat};
use super::ends::{End, Outcome, Script, Wire};
use crate::failure::{Cause, Failure, Phase, Sent};
use crate::limits;
use crate::metrics::Count;
use crate::route::health::Why;

const JSON: &str = "application/json";
/// Each quick answer takes so long.
const QUICK_MS: u64 = 200;
/// Answers after which the pace counts as known.
const LEARNED: usize = limits::PACE_SEEN_MIN as usize;

fn answer(silent_ms: u64, status: u16, body: &str) -> Outcome {
    let script = Script::new(status, JSON, body.as_bytes()).sized();
    Outcome::Answer(Script { silent_ms, ..script })
}

fn fail(after_ms: u64, cause: Cause) -> Outcome {
    let (phase, sent, reused) = (Phase::AwaitHead, Sent::Part, false);
    Outcome::Fail(Failure { phase, sent, cause, reused, after_ms })
}

/// A gateway that may hedge, knows how soon its upstream answers, and gets one more request.
fn hedged(setting: &str, outcomes: Vec<Outcome>) -> Connection {
    let config = CONFIG.replace("attempts_max = 1", "attempts_max = 4").replacen(
        "keepalive_ms = 0",
        &format!("keepalive_ms = 0, {setting}"),
        1,
    );
    let mut wire = Wire::new(chat().repeat(LEARNED + 1).as_bytes(), 1);
    wire.released = chat().len();
    let mut asked = 0;
    let mut outcomes = outcomes.into_iter();
    let author = Box::new(move |_: &super::ends::Seen, _: &crate::exchange::Core| {
        asked += 1;
        if asked <= LEARNED {
            return answer(QUICK_MS, 200, "{\"model\":\"gpt-x\"}");
        }
        outcomes.next().expect("a call too many")
    });
    let mut connection = Connection::new(&config, wire, 1, author);
    for _ in 0..LEARNED {
        assert_eq!(next(&mut connection), Step::Again);
    }
    assert_eq!(connection.core.metrics.counted(Count::Hedges), 0);
    connection.wire.borrow_mut().out.clear();
    connection.seen.borrow_mut().drain(..LEARNED - 1);
    connection
}

fn next(connection: &mut Connection) -> Step {
    let step = connection.step();
    let mut wire = connection.wire.borrow_mut();
    wire.released = (wire.released + chat().len()).min(wire.input.len());
    step
}

/// What one more request came to: its status and body, its calls, hedges and those that won.
#[track_caller]
fn last(connection: &mut Connection) -> (u16, String, usize, [u64; 2]) {
    let before = connection.seen.borrow().len();
    connection.step();
    let metrics = &connection.core.metrics;
    for gauge in [crate::metrics::Gauge::UpstreamInFlight, crate::metrics::Gauge::HeldBytes] {
        assert_eq!(metrics.level(gauge), 0, "{gauge:?}");
    }
    assert_eq!(metrics.counted(Count::Requests), metrics.counted(Count::Ended));
    let calls = connection.seen.borrow().len() - before;
    assert_eq!(metrics.counted(Count::Attempts), (LEARNED + calls) as u64);
    let snapshot = connection.core.snapshot();
    let provider = &snapshot.providers[snapshot.provider_named("alpha").expect("it is there")];
    let seen = connection.core.pool.seen(provider, 0);
    assert!(seen.iter().all(|seen| seen.in_flight == 0), "a seat was not given back");
    let hedges = [Count::Hedges, Count::HedgesWon].map(|count| metrics.counted(count));
    let mut answers = connection.answers();
    let (status, body) = match answers.pop() {
        Some(answer) => (answer.status, String::from_utf8_lossy(&answer.body).into_owned()),
        None => (0, String::new()),
    };
    (status, body, calls, hedges)
}

/// Why each credential rests.
fn rests(connection: &Connection) -> [Vec<Why>; 2] {
    let snapshot = connection.core.snapshot();
    let provider = &snapshot.providers[snapshot.provider_named("alpha").expect("it is there")];
    let seen = connection.core.pool.seen(provider, 0);
    [0, 1].map(|at| seen[at].circuits.iter().map(|circuit| circuit.why).collect())
}

const HEDGE: &str = "hedge = true, rotation_strategy = \"sticky\"";
const FIRST: &str = "{\"model\":\"gpt-x\",\"by\":1}";
const SECOND: &str = "{\"model\":\"gpt-x\",\"by\":2}";

#[track_caller]
fn check(first: Outcome, second: Outcome, expected: (u16, &str, [u64; 2])) -> Connection {
    let mut connection = hedged(HEDGE, vec![first, second]);
    let begun = connection.clock.now_ms();
    let (status, body, calls, hedges) = last(&mut connection);
    let (expected_status, by, expected_hedges) = expected;
    assert_eq!((status, hedges), (expected_status, expected_hedges), "{body}");
    assert!(body.contains(by), "{body}");
    assert_eq!(calls, 1 + hedges[0] as usize);
    assert!(connection.clock.now_ms() - begun < 30_000);
    connection
}

#[test]
fn the_second_speaks_first_and_the_first_is_given_up_without_blame() {
    let connection =
        check(answer(600_000, 200, FIRST), answer(50, 200, SECOND), (200, "\"by\":2", [1, 1]));
    assert_eq!(rests(&connection), [vec![], vec![]]);
    let seen = connection.seen.borrow();
    let [first, second] = [&seen[1], &seen[2]];
    assert_eq!((&first.url, &first.body), (&second.url, &second.body));
    let keys = [first, second].map(|call| call.header("authorization").map(str::to_owned));
    assert_ne!(keys[0], keys[1]);
    let others = |call: &super::ends::Seen| {
        let fields = call.headers.iter().filter(|(name, _)| name != "authorization");
        fields.cloned().collect::<Vec<_>>()
    };
    assert_eq!(others(first), others(second));
}

#[test]
fn the_first_speaks_after_all_and_the_second_is_given_up() {
    let connection =
        check(answer(1_000, 200, FIRST), answer(60_000, 200, SECOND), (200, "\"by\":1", [1, 0]));
    assert_eq!(rests(&connection), [vec![], vec![]]);
}

#[test]
fn what_is_no_slower_than_usual_is_not_hedged() {
    let mut connection = hedged(HEDGE, vec![answer(QUICK_MS, 200, FIRST)]);
    let (status, _, calls, hedges) = last(&mut connection);
    assert_eq!((status, calls, hedges), (200, 1, [0, 0]));
}

#[test]
fn nothing_is_hedged_unless_it_is_asked_for_nor_before_the_floor() {
    for setting in ["hedge = false", "hedge_ms_min = 1", "hedge = true, hedge_ms_min = 60000"] {
        let mut connection = hedged(setting, vec![answer(20_000, 200, FIRST)]);
        let (status, _, calls, hedges) = last(&mut connection);
        assert_eq!((status, calls, hedges), (200, 1, [0, 0]), "{setting}");
    }
}

#[test]
fn a_refusal_is_no_speaking_while_the_other_is_under_way() {
    let connection =
        check(answer(2_000, 200, FIRST), answer(10, 429, "{}"), (200, "\"by\":1", [1, 0]));
    assert_eq!(rests(&connection), [vec![], vec![Why::Limited]], "it is learned all the same");
    let connection =
        check(answer(1_000, 503, "{}"), answer(5_000, 200, SECOND), (200, "\"by\":2", [1, 1]));
    assert_eq!(rests(&connection), [vec![Why::Failed], vec![]]);
}

#[test]
fn a_failure_waits_for_the_other_one() {
    let connection = check(
        fail(1_000, Cause::Disconnected),
        answer(5_000, 200, SECOND),
        (200, "\"by\":2", [1, 1]),
    );
    assert_eq!(rests(&connection), [vec![Why::Failed], vec![]]);
    let connection =
        check(answer(5_000, 200, FIRST), fail(10, Cause::Disconnected), (200, "\"by\":1", [1, 0]));
    assert_eq!(rests(&connection), [vec![], vec![Why::Failed]]);
}

#[test]
fn where_both_fail_nothing_more_is_asked_after_one_that_may_have_been_served() {
    for (first, second) in [
        (fail(1_000, Cause::Disconnected), answer(10, 429, "{}")),
        (answer(1_000, 429, "{}"), fail(10, Cause::Disconnected)),
        (fail(1_000, Cause::Disconnected), fail(5_000, Cause::TimedOut)),
    ] {
        let mut connection = hedged(HEDGE, vec![first, second]);
        let (status, body, calls, _) = last(&mut connection);
        assert!(matches!(status, 502 | 504), "{status} {body}");
        assert_eq!(calls, 2);
    }
    // Both refused: the caller gets what an upstream said.
    let mut connection =
        hedged(HEDGE, vec![answer(1_000, 429, "{\"error\":1}"), answer(10, 429, "{\"error\":2}")]);
    let (status, _, calls, hedges) = last(&mut connection);
    assert_eq!((status, calls, hedges), (429, 2, [1, 0]));
    assert_eq!(rests(&connection), [vec![Why::Limited], vec![Why::Limited]]);
}

#[test]
fn a_caller_who_leaves_ends_both() {
    let mut connection =
        hedged(HEDGE, vec![fail(1_000, Cause::DownstreamGone), answer(60_000, 200, SECOND)]);
    let (status, _, calls, hedges) = last(&mut connection);
    assert_eq!((status, calls, hedges), (0, 2, [1, 0]));
    assert_eq!(connection.core.metrics.counted(Count::DownstreamsGone), 1);
    assert_eq!(rests(&connection), [vec![], vec![]]);
}

#[test]
fn an_answer_that_breaks_off_behind_its_head_is_not_hedged_again() {
    let broken = Script { silent_ms: 10, ..Script::new(200, "text/plain", b"0123456789") };
    let failure = Failure {
        phase: Phase::Relay,
        sent: Sent::Part,
        cause: Cause::Disconnected,
        reused: false,
        after_ms: 1,
    };
    let broken = Script { end: End::Fails(5, failure), ..broken };
    let mut connection = hedged(HEDGE, vec![answer(60_000, 200, FIRST), Outcome::Answer(broken)]);
    let (_, _, calls, hedges) = last(&mut connection);
    assert_eq!((calls, hedges), (2, [1, 1]));
}

#[test]
fn no_more_than_so_many_rivals_are_under_way_at_once() {
    use crate::metrics::Gauge;
    let mut connection = hedged(HEDGE, vec![answer(20_000, 200, FIRST)]);
    let others = connection.core.metrics.clone().hold(Gauge::Rivals, limits::RIVALS_MAX);
    let (status, _, calls, hedges) = last(&mut connection);
    assert_eq!((status, calls, hedges), (200, 1, [0, 0]));
    drop(others);
    let mut connection = hedged(HEDGE, vec![answer(20_000, 200, FIRST), answer(9, 200, SECOND)]);
    let others = connection.core.metrics.clone().hold(Gauge::Rivals, limits::RIVALS_MAX - 1);
    let (status, _, calls, hedges) = last(&mut connection);
    assert_eq!((status, calls, hedges), (200, 2, [1, 1]));
    drop(others);
    assert_eq!(connection.core.metrics.level(Gauge::Rivals), 0);
}

#[test]
fn an_outage_does_not_double_the_load() {
    let slow = || (0..80).map(|_| answer(5_000, 200, FIRST));
    let mut connection = hedged(HEDGE, slow().collect());
    {
        let mut wire = connection.wire.borrow_mut();
        wire.input = chat().repeat(LEARNED + 61).into_bytes();
    }
    for _ in 0..60 {
        next(&mut connection);
    }
    let hedges = connection.core.metrics.counted(Count::Hedges) as usize;
    let most = (LEARNED + 60) * limits::HEDGE_PERCENT_MAX as usize / 100;
    assert!((1..=most).contains(&hedges), "{hedges} of {most}");
}
