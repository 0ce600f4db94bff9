//! What the path promises about sessions over WebSocket, one promise to a test.

use super::connection::{ADA, CONFIG, Connection, Step, once};
use super::ends::{Script, Wire};
use super::pipe::Moment;
use crate::exchange::Stop;
use crate::limits;
use crate::metrics::Count;
use crate::wire::websocket::{self, Kind, Reader};

/// How a session went: what the caller heard, and when it was over.
#[derive(Debug)]
struct Heard {
    events: Vec<String>,
    /// Code and reason of the close.
    close: Option<(u16, String)>,
    over_ms: u64,
}

const REALTIME: &str = "/v1/realtime?model=alpha/rt";
const GEMINI: &str = "/v1beta/models/alpha/gem:BidiGenerateContent";
/// Each way to ask for an answer, and that answer's end.
const ANSWERS: [(&str, &str, &str); 2] = [
    (REALTIME, "{\"type\":\"response.create\"}", "{\"type\":\"response.done\",\"response\":{}}"),
    (
        "/v1/responses",
        "{\"type\":\"response.create\",\"model\":\"alpha/m\"}",
        "{\"type\":\"response.completed\",\"response\":{}}",
    ),
];
const CREATED: Moment = Moment::Says("{\"type\":\"response.created\",\"response\":{}}");
const SPEAKS: Moment = Moment::Says("{\"serverContent\":{\"modelTurn\":{}}}");
const TURN_OVER: &str = "{\"serverContent\":{\"turnComplete\":true}}";

/// A session at this path. The caller sends his events at these moments; what comes at the very
/// first comes with the handshake.
fn connection(target: &str, sends: &[(u64, &str)], moments: &[(u64, Moment)]) -> Connection {
    let head = format!(
        "GET {target} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {ADA}\r\n\
         Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let (mut input, mut moments) = (head.into_bytes(), moments.to_vec());
    let mut released = input.len();
    for (at_ms, event) in sends {
        let from = input.len();
        websocket::write(Kind::Text, event.as_bytes(), Some([9, 8, 7, 6]), &mut input);
        match at_ms {
            0 => released = input.len(),
            at_ms => moments.push((*at_ms, Moment::Sends(input.len() - from))),
        }
    }
    moments.sort_by_key(|(at_ms, _)| *at_ms);
    let mut wire = Wire::new(&input, 1);
    wire.released = released;
    let script = Script { session: moments, ..Script::new(101, "text/plain", b"") };
    Connection::new(CONFIG, wire, 1, once(script))
}

/// Serves it to its end.
#[track_caller]
fn run(mut connection: Connection) -> Heard {
    assert_eq!(connection.run(), [Step::Close]);
    connection.check_balance();
    let over_ms = connection.clock.now_ms();
    let out = connection.wire.borrow().out.clone();
    let head = memchr::memmem::find(&out, b"\r\n\r\n").expect("a head") + 4;
    assert!(out.starts_with(b"HTTP/1.1 101 "), "{}", connection.text());
    let (mut reader, mut rest) = (Reader::new(false, 1 << 20), &out[head..]);
    let mut heard = Heard { events: Vec::new(), close: None, over_ms };
    while let (used, Some(unit)) = reader.feed(rest).expect("we break no rule") {
        rest = &rest[used..];
        let text = String::from_utf8_lossy(&unit.payload).into_owned();
        match unit.kind {
            Kind::Close => {
                let (code, reason) = unit.payload.split_at(2);
                let reason = String::from_utf8_lossy(reason).into_owned();
                heard.close = Some((u16::from_be_bytes([code[0], code[1]]), reason));
            }
            Kind::Text => heard.events.push(text),
            kind => panic!("{kind:?}: {text}"),
        }
    }
    heard
}

#[track_caller]
fn session(target: &str, sends: &[(u64, &str)], moments: &[(u64, Moment)]) -> Heard {
    run(connection(target, sends, moments))
}

const IDLE_MS: u64 = limits::TUNNEL_IDLE_MS_MAX;

#[test]
fn a_session_in_which_nobody_says_anything_ends_after_a_quarter_of_an_hour() {
    let hello = Moment::Says("{\"type\":\"session.created\"}");
    let heard = session(REALTIME, &[(300_000, "{}")], &[(100_000, hello)]);
    assert_eq!(heard.events, ["{\"type\":\"session.created\"}"]);
    assert_eq!(heard.close, Some((1001, String::new())));
    let silent_ms = heard.over_ms - 300_000;
    assert!((IDLE_MS..IDLE_MS + 5_000).contains(&silent_ms), "{silent_ms}");
}

#[test]
fn a_caller_who_leaves_while_his_upstream_takes_nothing_is_noticed_soon() {
    let moments = [(0, Moment::Deaf), (5_000, Moment::Leaves)];
    let heard = session(REALTIME, &[(1_000, "{}")], &moments);
    assert_eq!(heard.close, None, "there is nobody to tell");
    assert!((5_000..8_000).contains(&heard.over_ms), "{}", heard.over_ms);
}

#[test]
fn a_silent_session_ends_soon_when_the_process_is_to_end() {
    for moment in [Moment::Drains, Moment::Cuts] {
        let heard = session(REALTIME, &[], &[(100_000, moment)]);
        assert_eq!(heard.close, Some((1001, String::new())));
        assert!((100_000..105_000).contains(&heard.over_ms), "{}", heard.over_ms);
    }
}

#[test]
fn an_answer_that_is_open_when_the_process_drains_comes_to_its_end() {
    let ends = |target, ask, end, moments: &[(u64, Moment)]| {
        let moments = [moments, &[(1_000, Moment::Drains), (20_000, Moment::Says(end))]].concat();
        let heard = session(target, &[(0, ask)], &moments);
        assert_eq!(heard.events.last().map(String::as_str), Some(end), "{target}");
        assert_eq!(heard.close, Some((1001, String::new())), "{target}");
        assert!((20_000..25_000).contains(&heard.over_ms), "{target}: {}", heard.over_ms);
    };
    for (target, ask, end) in ANSWERS {
        ends(target, ask, end, &[]);
        ends(target, ask, end, &[(500, CREATED)]);
    }
    ends(GEMINI, "{\"setup\":{}}", TURN_OVER, &[(500, SPEAKS)]);
}

#[test]
fn an_answer_that_is_open_when_time_is_over_is_told_to_have_broken_off() {
    for (target, ask, _) in ANSWERS {
        for moments in [vec![], vec![(500, CREATED)]] {
            let moments = [moments, vec![(1_000, Moment::Drains), (31_000, Moment::Cuts)]].concat();
            let heard = session(target, &[(0, ask)], &moments);
            let error = heard.events.last().expect("an event");
            assert!(error.contains("\"status\":503") && error.contains("shutting down"), "{error}");
            let (code, reason) = heard.close.expect("a close");
            assert!(code == 1001 && reason.contains("shutting down"), "{code} {reason}");
            assert!((31_000..36_000).contains(&heard.over_ms), "{}", heard.over_ms);
        }
    }
    let moments = [(500, SPEAKS), (1_000, Moment::Drains), (31_000, Moment::Cuts)];
    let heard = session(GEMINI, &[(0, "{\"setup\":{}}")], &moments);
    assert_eq!(heard.events.len(), 1, "its clients know no such event");
    assert!(heard.close.is_some_and(|(_, reason)| reason.contains("shutting down")));
}

#[test]
fn an_answer_that_was_refused_or_is_over_holds_up_no_end() {
    let refused = Moment::Says("{\"type\":\"error\",\"status\":400,\"error\":{}}");
    for (target, ask, end) in ANSWERS {
        for said in [refused.clone(), Moment::Says(end)] {
            let moments = [(500, said), (1_000, Moment::Drains)];
            let heard = session(target, &[(0, ask)], &moments);
            assert_eq!(heard.close, Some((1001, String::new())), "{target}");
            assert!(heard.over_ms < 6_000, "{target}: {}", heard.over_ms);
        }
    }
}

/// A caller that goes on talking: every 20 seconds for so many.
fn talk(seconds: u64) -> Vec<(u64, &'static str)> {
    (20..=seconds).step_by(20).map(|at_s| (at_s * 1_000, "{}")).collect()
}

#[test]
fn an_upstream_that_does_not_answer_or_falls_silent_is_told_at_its_limit() {
    const FIRST_BYTE_MS: u64 = 600_000;
    const BETWEEN_BYTES_MS: u64 = 120_000;
    for (target, ask, _) in ANSWERS {
        for (moments, silent_from, limit, why) in [
            (vec![], 0, FIRST_BYTE_MS, "did not answer in time"),
            (vec![(50_000, CREATED)], 50_000, BETWEEN_BYTES_MS, "fell silent"),
        ] {
            // What the caller says meanwhile is no sign of life of the upstream's.
            let sends = [vec![(0, ask)], talk(700)].concat();
            let heard = session(target, &sends, &moments);
            let error = heard.events.last().expect("an event");
            assert!(error.contains("\"status\":504") && error.contains(why), "{error}");
            assert_eq!(heard.close.map(|(code, _)| code), Some(1011), "{target}");
            let over = silent_from + limit..silent_from + limit + 5_000;
            assert!(over.contains(&heard.over_ms), "{target}: {}", heard.over_ms);
        }
    }
    let sends = [vec![(0, "{\"setup\":{}}")], talk(200)].concat();
    let heard = session(GEMINI, &sends, &[(50_000, SPEAKS)]);
    let (code, reason) = heard.close.expect("a close");
    assert!(code == 1011 && reason.contains("fell silent"), "{code} {reason}");
    assert!((170_000..175_000).contains(&heard.over_ms), "{}", heard.over_ms);
}

#[test]
fn an_upstream_whose_turn_it_is_not_may_be_silent() {
    for said in [
        TURN_OVER,
        "{\"toolCall\":{\"functionCalls\":[]}}",
        "{\"serverContent\":{\"generationComplete\":true}}",
        "{\"serverContent\":{\"interrupted\":true}}",
    ] {
        let moments = [(1_000, SPEAKS), (50_000, Moment::Says(said))];
        let heard = session(GEMINI, &[(0, "{\"setup\":{}}")], &moments);
        assert_eq!(heard.close.map(|(code, _)| code), Some(1001), "{said}");
        let silent_ms = heard.over_ms - 50_000;
        assert!((IDLE_MS..IDLE_MS + 5_000).contains(&silent_ms), "{said}: {silent_ms}");
    }
    for (target, ask, end) in ANSWERS {
        let moments = [(500, CREATED), (50_000, Moment::Says(end))];
        let heard = session(target, &[(0, ask)], &moments);
        assert_eq!(heard.close, Some((1001, String::new())), "{target}");
        assert!(heard.over_ms > 50_000 + IDLE_MS, "{target}: {}", heard.over_ms);
    }
}

#[test]
fn a_caller_that_takes_nothing_is_hung_up_on_whatever_it_says() {
    let long = format!("{{\"data\":\"{}\"}}", "x".repeat(5_000));
    let moments = [(10_000, Moment::Says(long.leak()))];
    let connection = connection(REALTIME, &talk(200), &moments);
    connection.wire.borrow_mut().write_stop = Some((2_000, Stop::TimedOut));
    let core = connection.core.clone();
    let heard = run(connection);
    assert_eq!((heard.events.len(), heard.close), (0, None));
    assert!((70_000..75_000).contains(&heard.over_ms), "{}", heard.over_ms);
    assert_eq!(core.metrics.counted(Count::DownstreamsGone), 1);
}
