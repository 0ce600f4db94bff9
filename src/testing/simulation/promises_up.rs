//! What the path promises about upstreams and their replies, one promise to a test.

use super::connection::{
    ADA, Step, answer, chat, chat_stream, connect, in_turn, once, post, post_with,
};
use super::ends::{End, Fault, LAST, Outcome, Script};
use super::responses::{Framing, Response};
use crate::exchange::Stop;
use crate::failure::{Cause, Failure, Phase, Sent};
use crate::limits;
use crate::metrics::{Count, Gauge};

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";

/// How a pooled connection looks that the upstream had already closed.
const STALE: Failure = Failure {
    phase: Phase::AwaitHead,
    sent: Sent::Part,
    cause: Cause::Disconnected,
    reused: true,
    after_ms: 3,
};

const BREAK: Failure = Failure { phase: Phase::Relay, ..STALE };

fn document(size: usize, model: &str) -> Vec<u8> {
    format!("{{\"text\":\"{}\",\"model\":\"{model}\"}}", "x".repeat(size)).into_bytes()
}

fn ok() -> Outcome {
    Outcome::Answer(Script::new(200, JSON, &document(5, "gpt-x")).sized())
}

fn as_text(response: &Response) -> String {
    String::from_utf8_lossy(&response.body).into_owned()
}

#[test]
fn a_request_is_sent_again_once_when_a_reused_connection_died() {
    let (response, steps, connection) = answer(&chat(), in_turn(vec![Outcome::Fail(STALE), ok()]));
    assert_eq!(response.status, 200);
    assert_eq!(response.body, document(5, "alpha/gpt-x"));
    assert_eq!(steps, [Step::Again, Step::Park]);
    let seen = connection.seen.borrow();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].body, seen[1].body);
    assert_eq!(connection.core.metrics.counted(Count::AttemptsFailed), 1);
}

#[test]
fn a_second_stale_connection_is_not_tried_a_third_time() {
    let author = in_turn(vec![Outcome::Fail(STALE), Outcome::Fail(STALE)]);
    let (response, ..) = answer(&chat(), author);
    assert_eq!(response.status, 502);
}

#[test]
fn no_other_failure_is_tried_again() {
    let rows = [
        (Failure { reused: false, ..STALE }, 502),
        (Failure { after_ms: limits::STALE_RETRY_MS_MAX + 1, ..STALE }, 502),
        (Failure { cause: Cause::TimedOut, ..STALE }, 504),
        (Failure { cause: Cause::Malformed, ..STALE }, 502),
        (Failure { cause: Cause::ShuttingDown, ..STALE }, 503),
        (Failure { phase: Phase::Connect, cause: Cause::Unreachable, ..STALE }, 502),
        (Failure { phase: Phase::Resolve, cause: Cause::NoSuchHost, ..STALE }, 502),
        (Failure { phase: Phase::Tls, cause: Cause::TlsRefused, ..STALE }, 502),
    ];
    for (failure, status) in rows {
        let (response, ..) = answer(&chat(), in_turn(vec![Outcome::Fail(failure)]));
        assert_eq!((response.status, response.is_ours()), (status, true), "{failure:?}");
    }
}

#[test]
fn a_break_after_the_head_is_never_tried_again() {
    let script = Script::new(200, EVENTS, b"data: {}\n\n");
    let author = once(Script { end: End::Fails(0, BREAK), waits_first: true, ..script });
    let (response, steps, connection) = answer(&chat_stream(), author);
    assert_eq!((response.status, connection.seen.borrow().len()), (200, 1));
    assert_eq!(steps, [Step::Close]);
}

#[test]
fn a_hang_up_while_the_upstream_thinks_ends_without_a_response() {
    let failure = Failure { cause: Cause::DownstreamGone, after_ms: 700, ..STALE };
    let mut connection = connect(&chat(), in_turn(vec![Outcome::Fail(failure)]));
    assert_eq!(connection.run(), [Step::Close]);
    connection.check_balance();
    assert_eq!(connection.text(), "");
    let metrics = &connection.core.metrics;
    assert_eq!(metrics.counted(Count::DownstreamsGone), 1);
    assert_eq!(metrics.counted(Count::Refused), 0);
}

#[test]
fn a_hang_up_within_a_held_reply_ends_without_a_response() {
    let failure = Failure { cause: Cause::DownstreamGone, ..BREAK };
    let script = Script::new(200, JSON, &document(50, "gpt-x"));
    let mut connection = connect(&chat(), once(Script { end: End::Fails(9, failure), ..script }));
    assert_eq!(connection.run(), [Step::Close]);
    connection.check_balance();
    assert_eq!(connection.text(), "");
}

#[test]
fn a_failure_before_the_commit_is_told_in_the_callers_dialect() {
    let failure = Failure { cause: Cause::TimedOut, ..STALE };
    let rows = [
        ("/v1/responses", "{\"model\":\"alpha/m\"}", "{\"error\":{\"message\":\"upstream too slow"),
        ("/v1/messages", "{\"model\":\"alpha/m\"}", "{\"type\":\"error\",\"error\":{\"type\":"),
        ("/v1beta/models/alpha/m:generateContent", "{}", "{\"error\":{\"code\":504,\"message\":"),
    ];
    for (path, body, start) in rows {
        let (response, steps, _) = answer(&post(path, body), in_turn(vec![Outcome::Fail(failure)]));
        assert_eq!((response.status, response.is_ours()), (504, true));
        assert!(as_text(&response).starts_with(start), "{}", as_text(&response));
        assert_eq!(response.field("content-type"), Some(JSON));
        assert_eq!(steps, [Step::Again, Step::Park], "the connection lives on");
    }
}

#[test]
fn a_small_reply_that_breaks_is_refused_whole() {
    let script = Script::new(200, JSON, &document(500, "gpt-x"));
    let author = once(Script { end: End::Fails(100, BREAK), ..script });
    let (response, steps, _) = answer(&chat(), author);
    assert_eq!((response.status, response.is_ours()), (502, true));
    assert_eq!(steps, [Step::Again, Step::Park]);
}

#[test]
fn a_long_event_is_refused_before_the_first_byte_and_told_after_it() {
    let long = format!("data: {}\n\n", "x".repeat(7_000));
    let (response, steps, _) =
        answer(&chat_stream(), once(Script::new(200, EVENTS, long.as_bytes())));
    assert_eq!((response.status, response.is_ours()), (502, true));
    assert_eq!(steps, [Step::Again, Step::Park]);

    let body = format!("data: {{\"a\":1}}\n\n{long}");
    let script = Script { waits_first: true, ..Script::new(200, EVENTS, body.as_bytes()) };
    let (response, steps, _) = answer(&chat_stream(), once(script));
    let text = as_text(&response);
    assert!(text.starts_with("data: {\"a\":1}\n\ndata: {\"error\":"), "{text}");
    assert!(text.contains("too large") && text.ends_with("\n\n"));
    assert_eq!((response.status, response.is_whole), (200, false));
    assert_eq!(steps, [Step::Close]);
}

#[test]
fn a_restored_reply_keeps_an_exact_length_up_to_64_kib() {
    for (size, is_small) in [(0, true), (60_000, true), (70_000, false), (300_000, false)] {
        let script = Script::new(200, JSON, &document(size, "gpt-x-2026-01-31")).sized();
        let (response, ..) = answer(&chat(), once(script));
        let expected = document(size, "alpha/gpt-x");
        let framing = if is_small { Framing::Sized(expected.len()) } else { Framing::Chunked };
        assert_eq!((response.framing, response.is_whole), (framing, true), "{size}");
        assert!(response.body == expected, "{size}");
    }
}

#[test]
fn a_reply_without_a_model_keeps_its_length_whatever_its_size() {
    let body = "{\"model\":\"alpha/e\",\"content\":{}}".replace("\"model\":\"alpha/e\",", "");
    for path in ["/v1beta/models/alpha/e:embedContent", "/alpha/v1beta/models/e:embedContent"] {
        let reply = document(200_000, "stays");
        let script = Script::new(200, JSON, &reply).sized();
        let (response, ..) = answer(&post(path, &body), once(script));
        assert_eq!(response.framing, Framing::Sized(reply.len()), "{path}");
        assert!(response.body == reply);
    }
}

#[test]
fn elements_of_a_gemini_array_leave_as_they_come() {
    let body = b"[{\"modelVersion\":\"g-1\"}\n,\r\n{\"modelVersion\":\"g-1\"}\n]";
    let path = "/v1beta/models/alpha/g-1:streamGenerateContent";
    for cut in 1..body.len() {
        let (first, second) = (End::Fails(cut, BREAK), Script::new(200, JSON, body));
        let author =
            once(Script { end: first, waits_first: true, waits_one_in: 1, piece_max: 5, ..second });
        let (response, steps, connection) = answer(&post(path, "{}"), author);
        assert_eq!((response.status, response.is_whole), (200, false), "cut at {cut}");
        assert_eq!(steps, [Step::Close]);
        let waits = connection.wire.borrow().waits.clone();
        let last = waits.last().expect("it waited");
        assert!(last.went > 0 && last.came <= cut);
        let expected = String::from_utf8_lossy(body).replace("g-1", "alpha/g-1");
        assert!(expected.as_bytes().starts_with(&response.body), "cut at {cut}");
        let name = "\"alpha/g-1\"".len() - 1;
        assert!(response.body.len() + name >= cut, "{} of {cut}", response.body.len());
    }
}

#[test]
fn whole_events_leave_before_the_one_that_tells_of_the_break() {
    let body = b"data: {\"model\":\"gpt-x\"}\n\n: ping\n\ndata: {\"a\":1}\n\ndata: {\"b";
    let end = End::Fails(body.len(), BREAK);
    let script = Script { end, waits_first: true, ..Script::new(200, EVENTS, body) };
    let (response, steps, _) = answer(&chat_stream(), once(script));
    let text = as_text(&response);
    let whole = "data: {\"model\":\"alpha/gpt-x\"}\n\n: ping\n\ndata: {\"a\":1}\n\n";
    assert!(text.starts_with(&format!("{whole}data: {{\"error\":")), "{text}");
    assert_eq!(steps, [Step::Close]);
}

#[test]
fn each_dialect_has_its_own_last_event() {
    let rows = [
        ("/v1/completions", "\ndata: {\"error\":{\"message\":\"the upstream broke off"),
        ("/v1/responses", "\nevent: error\ndata: {\"type\":\"error\",\"code\":\"server_error\""),
        ("/v1/messages", "\nevent: error\ndata: {\"type\":\"error\",\"error\":{\"type\":"),
        (
            "/v1beta/models/alpha/m:streamGenerateContent?alt=sse",
            "\ndata: {\"error\":{\"code\":502",
        ),
    ];
    for (path, event) in rows {
        let script = Script::new(200, EVENTS, b"data: {}\n\ndata: half");
        let script = Script { end: End::Fails(16, BREAK), waits_first: true, ..script };
        let body = "{\"model\":\"alpha/m\",\"stream\":true}";
        let body = if path.contains("models/") { "{}" } else { body };
        let (response, steps, connection) = answer(&post(path, body), once(script));
        let text = as_text(&response);
        assert!(text.contains(event) && !text.contains("half"), "{text}");
        assert!(!response.is_whole, "a cut stream has no last chunk");
        assert_eq!(steps, [Step::Close]);
        assert_eq!(connection.core.metrics.counted(Count::RepliesCut), 1);
    }
}

fn old(body: &str) -> String {
    let request = post("/v1/chat/completions", body);
    request.replace("HTTP/1.1", "HTTP/1.0")
}

#[test]
fn http_1_0_is_answered_until_the_close() {
    let stream = "{\"model\":\"alpha/gpt-x\",\"stream\":true}";
    let script = Script::new(200, EVENTS, b"data: {\"model\":\"gpt-x\"}\n\ndata: [DONE]\n\n");
    let (response, steps, connection) = answer(&old(stream), once(script));
    assert_eq!(response.framing, Framing::UntilClose);
    assert_eq!(as_text(&response), "data: {\"model\":\"alpha/gpt-x\"}\n\ndata: [DONE]\n\n");
    assert_eq!(response.field("connection"), Some("close"));
    assert_eq!(steps, [Step::Close]);
    let wire = connection.wire.borrow();
    assert!(wire.shut && !wire.aborted);
}

#[test]
fn a_cut_reply_until_the_close_is_a_reset() {
    let stream = "{\"model\":\"alpha/gpt-x\",\"stream\":true}";
    for end in [End::Fails(20, BREAK), End::Panics(20)] {
        let body = b"data: {}\n\ndata: {}\n\n";
        let script = Script { end, waits_first: true, ..Script::new(200, EVENTS, body) };
        let mut connection = connect(&old(stream), once(script));
        let steps = connection.run();
        connection.check_balance();
        assert!(connection.text().starts_with("HTTP/1.1 200 OK"));
        assert!(connection.wire.borrow().aborted, "{steps:?}");
    }
    // The caller reads no more; who reads the rest later must see that it is not all.
    let script = Script::new(200, "audio/mpeg", &[0; 50_000]);
    let mut connection = connect(&old("{\"model\":\"alpha/gpt-x\"}"), once(script));
    connection.wire.borrow_mut().write_stop = Some((20_000, Stop::TimedOut));
    assert_eq!(connection.run(), [Step::Close]);
    assert!(connection.wire.borrow().aborted);
}

#[test]
fn a_refusal_to_http_1_0_is_no_reset() {
    let stream = "{\"model\":\"alpha/gpt-x\",\"stream\":true}";
    let script = Script::new(200, EVENTS, b"data: {}\n\n");
    let author = once(Script { end: End::Fails(0, BREAK), ..script });
    let (response, _, connection) = answer(&old(stream), author);
    assert_eq!((response.status, response.is_ours()), (502, true));
    assert!(!connection.wire.borrow().aborted);
}

#[test]
fn replies_without_a_body_have_none() {
    for status in [204, 304] {
        let script = Script::new(status, JSON, b"nobody reads this").sized();
        let input = chat() + &chat();
        let mut connection =
            connect(&input, in_turn(vec![Outcome::Answer(script), Outcome::Fail(BREAK)]));
        assert_eq!(connection.run(), [Step::Again, Step::Again, Step::Park]);
        connection.check_balance();
        let answers = connection.answers();
        assert_eq!((answers[0].status, answers[1].status), (status, 502));
        assert_eq!(answers[0].framing, Framing::Bodiless);
        assert!(answers[0].field("content-length").is_none());
        assert!(answers[0].field("transfer-encoding").is_none());
    }
}

#[test]
fn usage_that_we_asked_for_is_hidden_and_usage_that_the_caller_asked_for_is_not() {
    let stream = b"data: {\"choices\":[{}],\"usage\":null}\n\n\
                   data: {\"choices\":[],\"usage\":{\"total_tokens\":3}}\n\ndata: [DONE]\n\n";
    let hidden = "data: {\"choices\":[{}]}\n\ndata: [DONE]\n\n";
    let (response, _, connection) = answer(&chat_stream(), once(Script::new(200, EVENTS, stream)));
    assert_eq!(as_text(&response), hidden);
    let sent = connection.seen.borrow()[0].body.clone();
    assert!(String::from_utf8_lossy(&sent).contains("\"include_usage\":true"));

    let asked = "{\"model\":\"alpha/gpt-x\",\"stream\":true,\
                 \"stream_options\":{\"include_usage\":true}}";
    let (response, _, connection) =
        answer(&post("/v1/chat/completions", asked), once(Script::new(200, EVENTS, stream)));
    assert_eq!(response.body, stream);
    assert_eq!(connection.seen.borrow()[0].body.len(), asked.len() - "alpha/".len());

    // Switched off for this provider: neither asked for nor hidden.
    let path = "/beta/v1/chat/completions";
    let body = "{\"model\":\"gpt-x\",\"stream\":true}";
    let (response, _, connection) =
        answer(&post(path, body), once(Script::new(200, EVENTS, stream)));
    assert_eq!(response.body, stream);
    assert_eq!(connection.seen.borrow()[0].body, body.as_bytes());
}

#[test]
fn a_credential_in_an_error_is_masked_however_it_is_cut() {
    let secret = "cred-upstream-beta";
    let body = format!("{{\"error\":\"{secret} {secret}{secret} cred-upstream-bet\"}}");
    let masked = "{\"error\":\"*** ****** cred-upstream-bet\"}";
    for piece_max in [1, 2, 5, 17, 18, 19, usize::MAX] {
        for waits_one_in in [0, 1] {
            let script = Script::new(401, JSON, body.as_bytes()).sized();
            let mut script = Script { piece_max, waits_one_in, ..script };
            script.headers.push(("x-error".into(), format!("bad key {secret}!")));
            let request = post("/beta/v1/chat/completions", "{\"model\":\"gpt-x\"}");
            let (response, ..) = answer(&request, once(script));
            assert_eq!((response.status, as_text(&response)), (401, masked.into()));
            assert_eq!(response.field("x-error"), Some("bad key ***!"));
            assert_eq!(response.field("x-gproxy-source"), Some("upstream"));
        }
    }
}

#[test]
fn a_long_error_is_masked_beyond_what_is_held() {
    let secret = "cred-upstream-beta";
    let filler = "e".repeat(1_000);
    let body = format!("{filler}{secret}").repeat(200);
    let script = Script::new(500, "text/plain", body.as_bytes());
    let request = post("/beta/v1/chat/completions", "{\"model\":\"gpt-x\"}");
    let (response, ..) = answer(&request, once(Script { piece_max: 3_000, ..script }));
    assert_eq!(response.framing, Framing::Chunked);
    assert!(as_text(&response) == format!("{filler}***").repeat(200));
}

#[test]
fn a_panic_leaves_no_gauge_raised_and_one_note() {
    let scripts = [
        Outcome::Panic,
        Outcome::Answer(Script { end: End::Panics(9), ..Script::new(200, EVENTS, &[b'x'; 99]) }),
        Outcome::Answer(Script { end: End::Panics(0), ..Script::new(500, JSON, b"{}") }),
    ];
    for outcome in scripts {
        let mut connection = connect(&chat_stream(), in_turn(vec![outcome]));
        assert_eq!(connection.run(), [Step::Panicked]);
        connection.check_balance();
        assert_eq!(connection.core.metrics.counted(Count::Ended), 1);
        assert!(!connection.text().ends_with("0\r\n\r\n"));
    }
}

#[test]
fn the_upstreams_time_is_not_the_gateways() {
    // Before the head, and while a small reply is held for its exact length.
    let slow = Failure { after_ms: 200, ..STALE };
    let script = Script::new(200, JSON, &document(100, "gpt-x"));
    let script = Script { waits_one_in: 1, wait_ms: 9_000, piece_max: 20, ..script };
    let author = in_turn(vec![Outcome::Fail(slow), Outcome::Answer(script)]);
    let (response, _, connection) = answer(&chat(), author);
    assert!(connection.clock.now_ms() > 9_000);
    let overhead = response.field("x-gproxy-overhead-us").expect("it is there");
    assert!(overhead.parse::<u64>().is_ok_and(|us| us < 50_000), "{overhead}");
}

#[test]
fn a_caller_that_reads_no_more_frees_the_upstream() {
    let body = "data: {\"x\":1}\n\n".repeat(10_000);
    let script = Script { waits_one_in: 3, ..Script::new(200, EVENTS, body.as_bytes()) };
    for stop in [Stop::TimedOut, Stop::Gone, Stop::ShuttingDown] {
        let mut connection = connect(&chat_stream(), once(script.clone()));
        connection.wire.borrow_mut().write_stop = Some((30_000, stop));
        assert_eq!(connection.run(), [Step::Close]);
        connection.check_balance();
        assert_eq!(connection.core.metrics.level(Gauge::UpstreamInFlight), 0);
        assert_eq!(connection.core.metrics.counted(Count::DownstreamsGone), 1);
        let response = connection.answers().remove(0);
        assert!(!response.is_whole && body.as_bytes().starts_with(&response.body));
    }
}

#[test]
fn what_the_caller_is_stays_here_and_what_he_says_goes_up() {
    let lines = format!(
        "Cookie: a=b\r\nX-Api-Key: {ADA}\r\nConnection: X-Mine\r\nX-Mine: 1\r\nTE: trailers\r\n\
         X-Gproxy-Provider: beta\r\nX-Forwarded-For: 1.2.3.4\r\nanthropic-beta: b1\r\n\
         x-stainless-os: Linux\r\nExpect: 100-continue\r\n"
    );
    let body = "{\"model\":\"alpha/claude-x\"}";
    let (_, _, connection) =
        answer(&post_with("/v1/messages?a=b", &lines, body), in_turn(vec![ok()]));
    let seen = connection.seen.borrow();
    let mut names: Vec<&str> = seen[0].headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let expected =
        ["accept-encoding", "anthropic-beta", "anthropic-version", "x-api-key", "x-stainless-os"];
    assert_eq!(names, expected);
    assert_eq!(seen[0].header("x-api-key"), Some("cred-upstream-alpha-1"));
    assert_eq!(seen[0].url, "https://alpha.example/v1/messages?a=b");
    assert_eq!(seen[0].body, b"{\"model\":\"claude-x\"}");
}

#[test]
fn credentials_take_turns() {
    let author = in_turn(vec![ok(), ok(), ok(), ok()]);
    let mut connection = connect(&chat().repeat(4), author);
    connection.run();
    let seen = connection.seen.borrow();
    let used: Vec<_> = seen.iter().filter_map(|call| call.header("authorization")).collect();
    let ends: Vec<_> = used.iter().map(|value| value.chars().last()).collect();
    assert_eq!(ends, [Some('1'), Some('1'), Some('2'), Some('1')]);
}

#[test]
fn a_stalled_caller_is_not_waited_for_while_the_answer_goes_out() {
    let script = Script { waits_one_in: 1, ..Script::new(200, EVENTS, LAST.as_bytes()) };
    let mut connection = connect(&chat_stream(), once(script));
    connection.wire.borrow_mut().end = Fault::Silence;
    assert_eq!(connection.step(), Step::Again);
    assert!(connection.clock.now_ms() < 100, "no read while an answer is under way");
}
