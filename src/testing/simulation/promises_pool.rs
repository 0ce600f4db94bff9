//! What the path promises about a pool of credentials, one promise to a test.

use std::cell::RefCell;
use std::rc::Rc;

use super::connection::{CONFIG, Connection, Step, chat, in_turn};
use super::ends::{Author, End, LAST, Outcome, Script, Wire};
use crate::failure::{Cause, Failure, Phase, Sent};
use crate::limits;
use crate::metrics::Gauge;
use crate::route::health::Why;

const JSON: &str = "application/json";

fn refused(status: u16, wait: &str) -> Outcome {
    let mut script = Script::new(status, JSON, b"{\"error\":{\"message\":\"no\"}}");
    script.headers.push(("retry-after".into(), wait.into()));
    Outcome::Answer(script)
}

fn ok() -> Outcome {
    Outcome::Answer(Script::new(200, JSON, b"{\"model\":\"gpt-x\"}").sized())
}

/// A gateway that may send a request to four credentials; so many chat requests come, one after
/// the other.
fn pool(requests: usize, author: Author) -> Connection {
    let config = CONFIG.replace("attempts_max = 1", "attempts_max = 4");
    let mut wire = Wire::new(chat().repeat(requests).as_bytes(), 1);
    wire.released = chat().len();
    Connection::new(&config, wire, 1, author)
}

fn next(connection: &mut Connection) -> Step {
    let step = connection.step();
    let mut wire = connection.wire.borrow_mut();
    wire.released = (wire.released + chat().len()).min(wire.input.len());
    step
}

/// Ends of the credentials that were used: `1` or `2`.
fn used(connection: &Connection) -> String {
    let seen = connection.seen.borrow();
    let all = seen.iter().filter_map(|call| call.header("authorization")?.chars().last());
    all.collect()
}

#[test]
fn a_refused_call_moves_on_and_its_credential_rests() {
    let outcomes = vec![refused(429, "5"), ok(), ok(), ok()];
    let mut connection = pool(3, in_turn(outcomes));
    for _ in 0..3 {
        assert_eq!(next(&mut connection), Step::Again);
    }
    connection.check_balance();
    assert_eq!(used(&connection), "1222");
    let seen = connection.seen.borrow();
    assert_eq!(seen[0].body, seen[1].body);
    assert_eq!(seen[0].out_before, seen[1].out_before, "nothing went down in between");
    let snapshot = connection.core.snapshot();
    let provider = &snapshot.providers[snapshot.provider_named("alpha").expect("it is there")];
    let seen = connection.core.pool.seen(provider, 0);
    assert_eq!((seen[0].circuits.len(), &seen[1].circuits[..]), (1, &[][..]));
    let circuit = &seen[0].circuits[0];
    assert_eq!((circuit.why, &*circuit.model), (Why::Limited, "gpt-x"));
    assert!(seen.iter().all(|seen| seen.in_flight == 0));
}

#[test]
fn a_fenced_address_asks_no_second_credential_and_is_held_against_none() {
    let fenced = Failure {
        phase: Phase::Connect,
        sent: Sent::Nothing,
        cause: Cause::Fenced,
        reused: false,
        after_ms: 0,
    };
    let mut connection = pool(2, in_turn(vec![Outcome::Fail(fenced), ok()]));
    assert_eq!(next(&mut connection), Step::Again);
    assert_eq!(used(&connection), "1");
    let out = String::from_utf8_lossy(&connection.wire.borrow().out).into_owned();
    assert!(out.contains(" 502 ") && out.contains("upstream fenced"), "{out}");
    let snapshot = connection.core.snapshot();
    let provider = &snapshot.providers[snapshot.provider_named("alpha").expect("it is there")];
    let seen = connection.core.pool.seen(provider, 0);
    assert!(seen.iter().all(|seen| seen.circuits.is_empty() && seen.in_flight == 0));
    assert_eq!(next(&mut connection), Step::Again);
    assert_eq!(used(&connection), "11", "it is still the one that is stuck to");
    connection.check_balance();
}

#[test]
fn a_reset_brings_a_credential_back_at_once() {
    let outcomes = vec![refused(401, ""), ok(), ok(), ok()];
    let mut connection = pool(3, in_turn(outcomes));
    next(&mut connection);
    let snapshot = connection.core.snapshot();
    let alpha = snapshot.provider_named("alpha").expect("it is there");
    let pool = &connection.core.pool;
    assert!(!pool.reset(&snapshot, (alpha, 2)));
    assert!(!pool.reset(&snapshot, (99, 0)));
    assert!(pool.reset(&snapshot, (alpha, 0)));
    let seen = pool.seen(&snapshot.providers[alpha], 0);
    assert!(seen.iter().all(|seen| seen.circuits.is_empty()));
    next(&mut connection);
    next(&mut connection);
    assert_eq!(used(&connection), "1221");
}

#[test]
fn a_paused_credential_is_never_called_not_as_the_last_one_either() {
    let mut connection = pool(4, in_turn(vec![ok(), refused(401, ""), ok(), ok()]));
    let snapshot = connection.core.snapshot();
    let alpha = snapshot.provider_named("alpha").expect("it is there");
    assert!(connection.core.pool.pause(&snapshot, (alpha, 0), 5));
    next(&mut connection);
    next(&mut connection);
    // The other one is disabled by now, and is the last resort.
    next(&mut connection);
    assert_eq!(used(&connection), "222");
    assert!(connection.core.pool.pause(&snapshot, (alpha, 1), 5));
    next(&mut connection);
    assert_eq!(used(&connection), "222", "nobody is left");
    assert!(String::from_utf8_lossy(&connection.wire.borrow().out).contains(" 503 "));
}

#[test]
fn a_probe_that_ends_in_a_panic_or_a_bad_request_leaves_its_place() {
    for probe in [Outcome::Panic, refused(400, "")] {
        let outcomes = vec![refused(429, "5"), ok(), probe, ok(), ok()];
        let mut connection = pool(4, in_turn(outcomes));
        next(&mut connection);
        connection.clock.advance_ms(6_000);
        next(&mut connection);
        // The place is free: the next one whose turn it is may probe, and closes the circuit.
        next(&mut connection);
        next(&mut connection);
        let snapshot = connection.core.snapshot();
        let alpha = snapshot.provider_named("alpha").expect("it is there");
        let seen = connection.core.pool.seen(&snapshot.providers[alpha], 0);
        let is_sound = seen.iter().all(|seen| seen.circuits.is_empty());
        assert!(is_sound, "{}", used(&connection));
    }
}

/// A refusal whose body breaks off.
fn broken(status: u16, cause: Cause) -> Outcome {
    let mut script = Script::new(status, JSON, b"{\"error\":1}");
    let (phase, sent) = (Phase::Relay, Sent::Part);
    let failure = Failure { phase, sent, cause, reused: false, after_ms: 1 };
    script.end = End::Fails(4, failure);
    script.headers.push(("retry-after".into(), "5".into()));
    Outcome::Answer(script)
}

#[test]
fn a_refusal_that_breaks_off_is_one_and_is_told_as_broken_when_nothing_better_follows() {
    let whole = || refused(503, "5");
    for (outcomes, status) in [
        (vec![broken(500, Cause::Disconnected), ok()], 200),
        (vec![broken(500, Cause::Disconnected), broken(429, Cause::TimedOut)], 504),
        (vec![broken(401, Cause::TimedOut), broken(429, Cause::Disconnected)], 502),
        (vec![whole(), broken(429, Cause::Disconnected)], 503),
        (vec![broken(429, Cause::Disconnected), whole()], 503),
    ] {
        let mut connection = pool(1, in_turn(outcomes));
        connection.run();
        connection.check_balance();
        assert_eq!(connection.answers()[0].status, status);
        assert_eq!(connection.core.metrics.level(Gauge::HeldBytes), 0);
    }
}

#[test]
fn a_refusal_that_does_not_come_on_is_waited_for_within_its_time() {
    // It comes in pieces, each so long after the one before that none of them is late.
    let mut script = Script::new(429, JSON, &[b'x'; 1_000]).sized();
    script.headers.push(("retry-after".into(), "5".into()));
    (script.waits_first, script.waits_one_in) = (true, 1);
    for (piece_max, wait_ms) in [(usize::MAX, 100_000), (1, 100)] {
        let slow = Outcome::Answer(Script { piece_max, wait_ms, ..script.clone() });
        let mut connection = pool(1, in_turn(vec![slow, ok()]));
        let begun = connection.clock.now_ms();
        connection.step();
        connection.check_balance();
        assert_eq!(connection.answers()[0].status, 200);
        let took_ms = connection.clock.now_ms() - begun;
        assert!(took_ms.abs_diff(limits::REFUSAL_MS_MAX) < 500, "{took_ms}");
    }
    // One that takes a part of that time is whole, and is told.
    let slow = Outcome::Answer(Script { wait_ms: 1_000, ..script });
    let mut connection = pool(1, in_turn(vec![slow, broken(503, Cause::Disconnected)]));
    connection.step();
    assert_eq!(connection.answers()[0].status, 429);
}

#[test]
fn what_is_held_of_a_refusal_is_accounted_for() {
    let long = Script::new(503, JSON, &vec![b'x'; 200_000]);
    let mut connection = pool(1, in_turn(vec![Outcome::Answer(long)]));
    connection.run();
    connection.check_balance();
    assert_eq!(connection.core.metrics.level(Gauge::HeldBytes), 0);
    let answer = connection.answers().remove(0);
    assert_eq!((answer.status, answer.body.len()), (503, 200_000));
}

#[test]
fn no_further_answer_is_asked_for_once_the_caller_has_left() {
    for first in [refused(429, "5"), broken(503, Cause::Disconnected)] {
        let wire: Rc<RefCell<Option<Rc<RefCell<Wire>>>>> = Rc::default();
        let (left, mut first) = (wire.clone(), Some(first));
        // He leaves while the first upstream thinks.
        let author: Author = Box::new(move |_, _| {
            if let Some(wire) = &*left.borrow() {
                wire.borrow_mut().gone = true;
            }
            first.take().expect("one call")
        });
        let mut connection = pool(1, author);
        *wire.borrow_mut() = Some(connection.wire.clone());
        assert_eq!(connection.step(), Step::Close);
        connection.check_balance();
        assert_eq!(used(&connection), "1");
        assert_eq!(connection.core.metrics.counted(crate::metrics::Count::DownstreamsGone), 1);
    }
}

/// A stream that comes in pieces, with a pause before each; what came down.
fn slow_stream(path: &str, body: &str, events: &str, piece_max: usize, wait_ms: u64) -> String {
    let config = CONFIG.replace("keepalive_ms = 0", "keepalive_ms = 15000");
    let script = Script {
        piece_max,
        waits_one_in: 1,
        wait_ms,
        ..Script::new(200, "text/event-stream", events.as_bytes())
    };
    let mut connection = Connection::new(
        &config,
        Wire::new(super::connection::post(path, body).as_bytes(), 1),
        1,
        in_turn(vec![Outcome::Answer(script)]),
    );
    connection.run();
    connection.check_balance();
    let response = connection.answers().remove(0);
    assert!(response.is_whole);
    String::from_utf8_lossy(&response.body).into_owned()
}

#[test]
fn a_silent_stream_shows_signs_of_life_between_events_in_its_dialect() {
    let event = LAST;
    for (path, body, sign, _) in STREAMS {
        let text = slow_stream(path, body, &event.repeat(2), 8, 40_000);
        if sign.is_empty() {
            assert_eq!(text, event.repeat(2), "{path}");
            continue;
        }
        let between: Vec<&str> = text.split(sign).collect();
        assert_eq!(between.concat(), event.repeat(2), "{text}");
        assert!(between.iter().all(|whole| whole.replace(event, "").is_empty()), "{text}");
        // Two in each wait of 40 seconds, and a third where nothing went down in between.
        assert!(between.len() > 6, "{text}");
    }
}

#[test]
fn an_event_that_comes_byte_by_byte_is_bridged_by_signs_of_life_in_front_of_it() {
    let event = format!("data: [\"[DONE]\",\"message_stop\"]{}\n\n", " ".repeat(12));
    // Something comes every 900 milliseconds, and the event is whole after 40.5 seconds.
    for (path, sign) in [("/v1/chat/completions", LIFE), ("/v1/messages", PING)] {
        let text = slow_stream(path, STREAM, &event.repeat(2), 1, 900);
        assert_eq!(text, format!("{}{event}", sign.repeat(2)).repeat(2));
    }
}

/// A stream of that call, from two credentials, whose head may go down after ten seconds.
fn early(path: &str, body: &str, outcomes: Vec<Outcome>) -> Connection {
    let config = CONFIG.replace("attempts_max = 1", "attempts_max = 4").replacen(
        "keepalive_ms = 0",
        "keepalive_ms = 15000, early_headers_ms = 10000",
        1,
    );
    let wire = Wire::new(super::connection::post(path, body).as_bytes(), 1);
    let mut connection = Connection::new(&config, wire, 1, in_turn(outcomes));
    connection.run();
    connection.check_balance();
    connection
}

const PING: &str = "event: ping\ndata: {\"type\": \"ping\"}\n\n";
const LIFE: &str = ": keep-alive\n";
const STREAM: &str = "{\"model\":\"alpha/m\",\"stream\":true}";
/// Each dialect's stream: path, body, sign of life, and the beginning of its error event.
const STREAMS: [(&str, &str, &str, &str); 4] = [
    ("/v1/chat/completions", STREAM, LIFE, "data: {\"error\":{\"message\":"),
    ("/v1/responses", STREAM, LIFE, "event: error\ndata: {\"type\":\"error\","),
    ("/v1/messages", STREAM, PING, "event: error\ndata: {\"type\":\"error\",\"error\":"),
    (
        "/v1beta/models/alpha/m:streamGenerateContent?alt=sse",
        "{}",
        "",
        "data: {\"error\":{\"code\":429,",
    ),
];

fn silent(silent_ms: u64, outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Answer(script) => Outcome::Answer(Script { silent_ms, ..script }),
        other => other,
    }
}

fn stream() -> Outcome {
    Outcome::Answer(Script::new(200, "text/event-stream", LAST.as_bytes()))
}

#[test]
fn a_stream_begins_before_its_upstream_where_that_is_allowed() {
    for (path, body, sign, _) in STREAMS {
        // At 10, 25 and 40 seconds.
        let outcomes = vec![silent(45_000, stream())];
        let mut connection = early(path, body, outcomes);
        let response = connection.answers().remove(0);
        assert_eq!((response.status, response.is_whole), (200, true), "{path}");
        assert_eq!(response.field("content-type"), Some("text/event-stream"));
        assert_eq!(response.field("x-accel-buffering"), Some("no"));
        let text = String::from_utf8_lossy(&response.body).into_owned();
        assert_eq!(text, format!("{}{LAST}", sign.repeat(3)), "{path}");
        assert_eq!(connection.step(), Step::Park, "the connection lives on");
        // A shorter silence changes nothing.
        let connection = early(path, body, vec![silent(9_000, stream())]);
        assert_eq!(connection.answers()[0].body, LAST.as_bytes());
    }
}

#[test]
fn the_next_credential_is_asked_behind_a_head_that_went_down_early() {
    for (path, body, sign, _) in STREAMS {
        let outcomes = vec![silent(12_000, refused(429, "5")), silent(20_000, stream())];
        let connection = early(path, body, outcomes);
        let response = connection.answers().remove(0);
        assert_eq!((response.status, response.is_whole), (200, true), "{path}");
        let text = String::from_utf8_lossy(&response.body).into_owned();
        // At 10 and 25 seconds: what was tried does not show.
        assert_eq!(text, format!("{}{LAST}", sign.repeat(2)), "{path}");
        assert_eq!(connection.seen.borrow().len(), 2);
        assert!(connection.seen.borrow()[1].out_before > 0, "the head was down before");
    }
}

#[test]
fn what_goes_wrong_behind_an_early_head_is_told_in_the_stream() {
    for (path, body, sign, event) in STREAMS {
        let outcomes = vec![silent(12_000, refused(429, "5")), refused(429, "5")];
        let connection = early(path, body, outcomes);
        let response = connection.answers().remove(0);
        assert_eq!((response.status, response.is_whole), (200, false), "{path}");
        let text = String::from_utf8_lossy(&response.body).into_owned();
        let rest = text.strip_prefix(sign).unwrap_or_else(|| panic!("{text}"));
        assert!(rest.starts_with(event), "{rest}");
        assert!(rest.contains("the upstream answered 429: no"), "{rest}");
    }
    let (path, body, ..) = STREAMS[0];
    let connection = early(path, body, vec![silent(12_000, ok())]);
    let response = connection.answers().remove(0);
    assert!(!response.is_whole && connection.text().contains("something else than a stream"));
}

#[test]
fn a_caller_who_leaves_while_a_head_is_early_is_noticed() {
    let (path, body, ..) = STREAMS[0];
    let config =
        CONFIG.replacen("keepalive_ms = 0", "keepalive_ms = 15000, early_headers_ms = 1", 1);
    let mut wire = Wire::new(super::connection::post(path, body).as_bytes(), 1);
    wire.write_stop = Some((0, crate::exchange::Stop::Gone));
    let author = in_turn(vec![silent(60_000, stream())]);
    let mut connection = Connection::new(&config, wire, 1, author);
    assert_eq!(connection.step(), Step::Close);
    connection.check_balance();
    assert_eq!(connection.core.metrics.counted(crate::metrics::Count::DownstreamsGone), 1);
    assert!(connection.clock.now_ms() < 1_000, "at once");
}
