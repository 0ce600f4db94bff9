//! What the path promises to callers and about their bytes, one promise to a test.

use std::time::Duration;

use super::connection::{
    ADA, CONFIG, Connection, HELD_BYTES_MAX, Step, answer, chat, chat_stream, config_without_keys,
    connect, in_turn, post, post_with, snapshot,
};
use super::ends::{CONTINUE, Fault, LAST, Outcome, Script, Wire};
use super::responses::{self, Response};
use crate::exchange::Stop;
use crate::limits;
use crate::metrics::{Count, Gauge};

const PAGE: &str = "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n";

fn ok() -> Outcome {
    Outcome::Answer(Script::new(200, "application/json", b"{\"model\":\"gpt-x\"}").sized())
}

fn nobody() -> super::ends::Author {
    in_turn(Vec::new())
}

/// Serves a connection on which the caller's bytes come with these faults.
fn faulty(input: &str, faults: &[(usize, Fault)]) -> (Vec<Step>, Connection) {
    let mut wire = Wire::new(input.as_bytes(), 1);
    wire.faults = faults.to_vec().into();
    let mut connection = Connection::new(CONFIG, wire, 1, in_turn(vec![ok(), ok()]));
    let steps = connection.run();
    connection.check_balance();
    (steps, connection)
}

fn statuses(connection: &Connection) -> Vec<u16> {
    connection.answers().iter().map(|response| response.status).collect()
}

#[test]
fn a_head_has_the_length_of_its_page_and_no_body() {
    let input = format!("HEAD /healthz HTTP/1.1\r\nHost: h\r\n\r\n{PAGE}");
    let mut connection = connect(&input, nobody());
    assert_eq!(connection.run(), [Step::Again, Step::Again, Step::Park]);
    let answers = responses::read(&connection.wire.borrow().out, |number, _| number == 0).all;
    assert_eq!(answers[0].field("content-length"), answers[1].field("content-length"));
    assert!(answers[0].body.is_empty());
    assert_eq!(answers[1].body, b"ok\n");
}

#[test]
fn a_head_is_refused_without_a_body() {
    let input = format!("HEAD /v1/messages HTTP/1.1\r\nHost: h\r\nx-api-key: {ADA}\r\n\r\n");
    let mut connection = connect(&input, nobody());
    connection.run();
    let answers = responses::read(&connection.wire.borrow().out, |_, _| true);
    assert_eq!((answers.all[0].status, answers.rest), (405, 0));
    assert!(answers.all[0].field("content-length").is_some());
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let last = post("/v1/messages", "{\"model\":\"beta/claude-x\"}");
    let input = format!("{}{PAGE}{last}", chat());
    for piece_max in [1, 7, 100, usize::MAX] {
        let mut wire = Wire::new(input.as_bytes(), 3);
        wire.piece_max = piece_max;
        let outcome = Outcome::Answer(Script::new(404, "application/json", b"{}"));
        let mut connection = Connection::new(CONFIG, wire, 3, in_turn(vec![ok(), outcome]));
        assert_eq!(connection.run(), [Step::Again, Step::Again, Step::Again, Step::Park]);
        assert_eq!(statuses(&connection), [200, 200, 404]);
        connection.check_balance();
    }
}

#[test]
fn a_short_unread_body_is_drained_and_never_read_as_a_request() {
    let inner = "GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n";
    let length = inner.len();
    let unread =
        format!("POST /healthz HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{inner}");
    let chunks = "POST /v1/responses HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
                  5\r\nGET /\r\n0\r\n\r\n";
    let mut connection = connect(&format!("{unread}{chunks}{PAGE}"), nobody());
    assert_eq!(connection.run(), [Step::Again, Step::Again, Step::Again, Step::Park]);
    assert_eq!(statuses(&connection), [405, 401, 200]);
}

#[test]
fn a_long_unread_body_ends_the_connection() {
    for (framing, says_so) in
        [("Content-Length: 70000", true), ("Transfer-Encoding: chunked", false)]
    {
        let head = format!("POST /v1/responses HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n");
        let body = if says_so { "x".repeat(70_000) } else { "1\r\nx\r\n".repeat(15_000) };
        let mut connection = connect(&format!("{head}{body}{PAGE}"), nobody());
        assert_eq!(connection.run(), [Step::Close]);
        let answers = connection.answers();
        assert_eq!(answers.len(), 1);
        assert_eq!(answers[0].status, 401);
        assert_eq!(answers[0].field("connection").is_some(), says_so);
        assert!(connection.wire.borrow().shut);
    }
}

/// The sum of a timing, in milliseconds.
fn summed_ms(connection: &Connection, name: &str) -> u64 {
    let text = connection.core.metrics.text(&[]);
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}_sum ")));
    let seconds: f64 = line.expect("a line").parse().expect("a number");
    (seconds * 1_000.0).round() as u64
}

#[test]
fn an_exchange_is_over_before_its_connection_lingers() {
    let request =
        post_with("/v1/chat/completions", "Connection: close\r\n", "{\"model\":\"alpha/m\"}");
    for (outcome, status) in
        [(ok(), 200), (Outcome::Answer(Script::new(404, "application/json", b"{}")), 404)]
    {
        let mut connection = connect(&request, in_turn(vec![outcome]));
        assert_eq!(connection.run(), [Step::Close]);
        assert_eq!(statuses(&connection), [status]);
        assert!(connection.clock.now_ms() >= limits::DRAIN_MS_MAX, "the caller does not close");
        assert!(summed_ms(&connection, "gproxy_request_seconds") < 100);
    }
}

#[test]
fn a_caller_is_asked_to_continue_when_its_body_is_wanted() {
    let request = post_with(
        "/v1/chat/completions",
        "Expect: 100-continue\r\n",
        "{\"model\":\"alpha/gpt-x\"}",
    );
    let body_at = request.find("\r\n\r\n").expect("it has a head") + 4;
    let (steps, connection) = faulty(&request, &[(body_at, Fault::AwaitContinue)]);
    assert_eq!(steps, [Step::Again, Step::Park]);
    assert!(connection.text().starts_with(&String::from_utf8_lossy(CONTINUE).into_owned()));
    assert_eq!(connection.answers()[0].continues, 1);

    // Who has sent the body already is not asked, and HTTP/1.0 never is.
    for request in [request.clone(), request.replace("HTTP/1.1", "HTTP/1.0")] {
        let (_, connection) = faulty(&request, &[]);
        assert_eq!((statuses(&connection), connection.answers()[0].continues), (vec![200], 0));
    }
}

#[test]
fn a_caller_that_is_refused_is_not_asked_to_continue() {
    let request = post_with("/v1/chat/completions", "Expect: 100-continue\r\n", "{}");
    let request = request.replace(ADA, "sk-nobody");
    let body_at = request.len() - 2;
    let (steps, connection) = faulty(&request, &[(body_at, Fault::AwaitContinue)]);
    assert_eq!(steps, [Step::Close]);
    let answers = connection.answers();
    assert_eq!((answers[0].status, answers[0].continues), (401, 0));
    assert_eq!(answers[0].field("connection"), Some("close"));
}

fn is_overloaded(response: &Response) -> bool {
    response.status == 503 && response.field("retry-after") == Some("1")
}

#[test]
fn a_body_for_which_there_is_no_memory_is_refused() {
    let mut connection = connect(&chat(), in_turn(vec![ok()]));
    let held = connection.core.metrics.clone().hold(Gauge::HeldBytes, HELD_BYTES_MAX);
    assert_eq!(connection.step(), Step::Close);
    assert!(is_overloaded(&connection.answers()[0]));
    assert_eq!(connection.core.metrics.counted(Count::HeldFull), 1);
    drop(held);
    connection.check_balance();
}

#[test]
fn a_caller_that_does_not_read_is_told_from_one_that_has_left() {
    for (stop, stalled) in [(Stop::TimedOut, 1), (Stop::Gone, 0)] {
        let mut connection = connect(&chat(), in_turn(vec![ok()]));
        connection.wire.borrow_mut().write_stop = Some((10, stop));
        assert_eq!(connection.run(), [Step::Close]);
        let metrics = &connection.core.metrics;
        assert_eq!(metrics.counted(Count::DownstreamsGone), 1);
        assert_eq!(metrics.counted(Count::DownstreamsStalled), stalled);
        connection.check_balance();
    }
}

#[test]
fn a_request_too_many_is_refused_and_the_next_may_be_taken() {
    let input = chat().repeat(2);
    let mut connection = connect(&input, in_turn(vec![ok()]));
    let others = connection.core.metrics.clone().hold(Gauge::PlacesTaken, 10);
    assert_eq!(connection.step(), Step::Again);
    drop(others);
    assert_eq!(connection.step(), Step::Again);
    let answers = connection.answers();
    assert!(is_overloaded(&answers[0]));
    assert_eq!(answers[1].status, 200);
    connection.check_balance();
}

#[test]
fn while_draining_every_answer_is_the_last() {
    let mut connection = connect(&(chat() + PAGE), in_turn(vec![ok()]));
    connection.core.drain();
    assert_eq!(connection.run(), [Step::Close]);
    let answers = connection.answers();
    assert_eq!((answers.len(), answers[0].status), (1, 200));
    assert_eq!(answers[0].field("connection"), Some("close"));

    let mut idle = connect("", nobody());
    idle.core.drain();
    assert_eq!(idle.run(), [Step::Close]);
    assert_eq!(idle.text(), "");
}

#[test]
fn an_exchange_keeps_the_tables_with_which_it_began() {
    let event = format!("data: {{\"model\":\"gpt-x\",\"a\":\"{}\"}}\n\n", "x".repeat(5_000)) + LAST;
    let expected = event.replace("gpt-x", "alpha/gpt-x");
    let author: super::ends::Author = Box::new(move |_, core| {
        core.swap(snapshot(&config_without_keys()));
        Outcome::Answer(Script::new(200, "text/event-stream", event.as_bytes()))
    });
    let mut connection = connect(&chat_stream().repeat(2), author);
    assert_eq!(connection.run(), [Step::Again, Step::Again, Step::Park]);
    assert_eq!(statuses(&connection), [200, 401]);
    assert_eq!(connection.answers()[0].body, expected.as_bytes());
}

/// Ends of waiting, in milliseconds, with the second that a caller has to read its last answer.
#[track_caller]
fn ends_after(connection: &Connection, ms: u64) {
    let now = connection.clock.now_ms();
    assert!((ms..ms + limits::DRAIN_MS_MAX + 500).contains(&now), "{now} and not {ms}");
}

#[test]
fn a_head_has_ten_seconds_however_it_drips() {
    let input = chat();
    let faults: Vec<_> = (1..50).map(|place| (place, Fault::Stall(700))).collect();
    let (steps, connection) = faulty(&input, &faults);
    assert_eq!((steps, statuses(&connection)), (vec![Step::Close], vec![408]));
    ends_after(&connection, limits::HEAD_MS_MAX);
    assert!(connection.seen.borrow().is_empty());
}

#[test]
fn a_body_may_pause_for_thirty_seconds_and_take_five_minutes() {
    let long = format!("{{\"model\":\"alpha/gpt-x\",\"a\":\"{}\"}}", "x".repeat(100));
    let input = post("/v1/chat/completions", &long);
    let body_at = input.len() - long.len();
    let faults = |count: usize, ms| -> Vec<_> {
        (1..=count).map(|place| (body_at + place, Fault::Stall(ms))).collect()
    };
    let (_, connection) = faulty(&input, &faults(1, 29_000));
    assert_eq!(statuses(&connection), [200]);
    let (_, connection) = faulty(&input, &faults(1, 31_000));
    assert_eq!(statuses(&connection), [408]);
    ends_after(&connection, limits::BODY_PAUSE_MS_MAX);
    let (steps, connection) = faulty(&input, &faults(20, 20_000));
    assert_eq!((steps, statuses(&connection)), (vec![Step::Close], vec![408]));
    ends_after(&connection, limits::BODY_MS_MAX);
}

#[test]
fn a_form_whose_model_does_not_come_has_five_minutes_for_it() {
    let file = "--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n";
    let field = "\r\n--b\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\n\
                 alpha/m\r\n--b--\r\n";
    let form = format!("{file}{}{field}", "x".repeat(100));
    let lines = "Content-Type: multipart/form-data; boundary=b\r\n";
    let input = post_with("/v1/audio/transcriptions", lines, &form);
    let body_at = input.len() - form.len();
    let faults: Vec<_> = (1..=20).map(|place| (body_at + place, Fault::Stall(20_000))).collect();
    let (_, connection) = faulty(&input, &faults[..10]);
    assert_eq!(statuses(&connection), [200]);
    let (steps, connection) = faulty(&input, &faults);
    assert_eq!((steps, statuses(&connection)), (vec![Step::Close], vec![408]));
    ends_after(&connection, limits::BODY_MS_MAX);
}

#[test]
fn a_silent_connection_is_parked_and_wakes_where_it_was() {
    let input = chat() + PAGE;
    let place = chat().len();
    let mut wire = Wire::new(input.as_bytes(), 1);
    wire.faults = vec![(place, Fault::Stall(5_000))].into();
    let mut connection = Connection::new(CONFIG, wire, 1, in_turn(vec![ok()]));
    assert_eq!(connection.run(), [Step::Again, Step::Park]);
    let parked_at = connection.clock.now_ms();
    assert!((limits::PARK_AFTER_MS..limits::PARK_AFTER_MS + 100).contains(&parked_at));
    assert_eq!(connection.run(), [Step::Park]);
    assert_eq!(connection.run(), [Step::Again, Step::Park]);
    assert_eq!(statuses(&connection), [200, 200]);
}

#[test]
fn a_connection_that_ends_between_requests_leaves_no_trace() {
    for end in [Fault::Close, Fault::Reset] {
        let mut connection = connect("", nobody());
        connection.wire.borrow_mut().end = end;
        assert_eq!(connection.run(), [Step::Close]);
        assert_eq!(connection.core.metrics.counted(Count::Requests), 0);
        assert_eq!(connection.text(), "");
    }
}

#[test]
fn nothing_behind_a_broken_framing_is_read() {
    let framings = [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: -1",
        "Transfer-Encoding: chunked, chunked",
        "Content-Length : 5",
    ];
    for framing in framings {
        let head = format!("POST /healthz HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n");
        let mut connection = connect(&format!("{head}0\r\n\r\n{}{PAGE}", chat()), nobody());
        assert_eq!(connection.run(), [Step::Close], "{framing}");
        let answers = connection.answers();
        assert_eq!(answers.len(), 1, "{framing}");
        assert!([400, 501].contains(&answers[0].status), "{framing}");
        assert_eq!(answers[0].field("connection"), Some("close"));
        assert!(connection.wire.borrow().shut);
    }
}

#[test]
fn a_request_that_ends_too_early_never_goes_up() {
    let input = chat();
    for place in 1..input.len() {
        for (fault, status) in [(Fault::Close, Some(400)), (Fault::Reset, None)] {
            let (steps, connection) = faulty(&input, &[(place, fault)]);
            assert_eq!(steps, [Step::Close], "{fault:?} at {place}");
            assert_eq!(statuses(&connection), Vec::from_iter(status), "{fault:?} at {place}");
            assert!(connection.seen.borrow().is_empty(), "{fault:?} at {place}");
        }
    }
}

#[test]
fn a_clock_that_leaps_ends_waiting_and_nothing_else() {
    for looks in 0..40 {
        let mut connection = connect(&chat(), in_turn(vec![ok()]));
        connection.clock.leap(looks, Duration::from_secs(86_400));
        let mut steps = connection.run();
        while steps.last() == Some(&Step::Park) && connection.answers().is_empty() {
            steps.extend(connection.run());
        }
        connection.check_balance();
        let found = statuses(&connection);
        assert!([vec![200], vec![408]].contains(&found), "{looks}: {found:?}");
    }
}

#[test]
fn every_page_says_what_every_answer_says() {
    let (response, ..) = answer(PAGE, nobody());
    assert!(response.is_ours());
    for name in ["x-gproxy-request-id", "x-gproxy-overhead-us"] {
        assert!(response.field(name).is_some(), "{name}");
    }
}
