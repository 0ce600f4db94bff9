//! What the path promises about sessions over WebSocket, one promise to a test.

use super::connection::{ADA, CONFIG, Connection, Step, once};
use super::ends::{Script, Wire};
use super::pipe::Moment;
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

const IDLE_MS: u64 = crate::limits::TUNNEL_IDLE_MS_MAX;

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
fn a_silent_session_ends_soon_when_the_process_is_to_end() {
    for moment in [Moment::Drains, Moment::Cuts] {
        let heard = session(REALTIME, &[], &[(100_000, moment)]);
        assert_eq!(heard.close, Some((1001, String::new())));
        assert!((100_000..105_000).contains(&heard.over_ms), "{}", heard.over_ms);
    }
}
