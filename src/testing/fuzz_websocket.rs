//! Laws of the WebSocket reader, for any bytes.

use super::prng::Prng;
use super::splits;
use crate::limits::HEAD_BYTES_MAX;
use crate::wire::head::{self, Head};
use crate::wire::websocket::{self, FrameError, HandshakeError, Kind, Reader, Unit};

const MESSAGE_BYTES_MAX: usize = 300;

/// What comes of a side that arrives in these parts, and the error behind it.
fn read(masked: bool, parts: &[&[u8]]) -> (Vec<Unit>, Option<FrameError>) {
    let mut reader = Reader::new(masked, MESSAGE_BYTES_MAX);
    let mut units = Vec::new();
    for part in parts {
        let mut rest = *part;
        loop {
            let (used, unit) = match reader.feed(rest) {
                Ok(fed) => fed,
                Err(error) => {
                    assert_eq!(reader.feed(b""), Err(error), "an error stays");
                    return (units, Some(error));
                }
            };
            rest = &rest[used..];
            let Some(unit) = unit else { break };
            units.push(unit);
        }
        assert!(rest.is_empty(), "bytes were left without a reason");
    }
    (units, None)
}

/// What is read does not depend on cuts, keeps to its limits, and is read again as it was when it
/// is written.
pub fn frames(data: &[u8]) {
    let Some((&choice, bytes)) = data.split_first() else { return };
    let masked = choice & 1 == 1;
    let whole = read(masked, &[bytes]);
    assert_eq!(whole, read(masked, &splits::bytewise(bytes)));
    let mut prng = Prng::new(data.len() as u64);
    assert_eq!(whole, read(masked, &splits::at_random(bytes, &mut prng)));
    let mut written = Vec::new();
    let mask = masked.then(|| (prng.next_u64() as u32).to_be_bytes());
    for Unit { kind, payload } in &whole.0 {
        match kind {
            Kind::Text | Kind::Binary => assert!(payload.len() <= MESSAGE_BYTES_MAX),
            Kind::Close | Kind::Ping | Kind::Pong => assert!(payload.len() <= 125),
        }
        websocket::write(*kind, payload, mask, &mut written);
    }
    assert_eq!((whole.0, None), read(masked, &[&written]));
}

/// The head of a request: an opening handshake that is accepted says each thing once.
pub fn handshake(data: &[u8]) {
    ours(data);
    let Ok(Some((head, _))) = head::parse(data, &mut 0, HEAD_BYTES_MAX) else { return };
    let says = |name: &'static str, what: &str| {
        let lists: Vec<_> = head.headers.all(name).map(String::from_utf8_lossy).collect();
        lists.join(",").split(',').any(|one| one.trim_ascii().eq_ignore_ascii_case(what))
    };
    let asks = head.method() == "GET" && says("upgrade", "websocket");
    assert_eq!(websocket::is_asked(&head), asks);
    let all = |name: &'static str| head.headers.all(name).collect::<Vec<_>>();
    match websocket::key_of(&head) {
        Ok(key) => {
            assert!(head.http11 && head.framing.is_empty() && says("connection", "upgrade"));
            assert_eq!(all("sec-websocket-version"), [b"13"]);
            assert_eq!(all("sec-websocket-key"), [key]);
            assert_eq!(bytes_of(key), Some(16), "of a key");
            assert_eq!(bytes_of(websocket::accept_of(key).as_bytes()), Some(20));
        }
        Err(HandshakeError::NoUpgrade) => {
            assert!(!head.http11 || !head.framing.is_empty() || !says("connection", "upgrade"));
        }
        Err(HandshakeError::Version) => assert_ne!(all("sec-websocket-version"), [b"13"]),
        Err(HandshakeError::Key) => {
            let keys = all("sec-websocket-key");
            assert!(keys.len() != 1 || bytes_of(keys[0]) != Some(16));
        }
    }
}

/// How many bytes this is in base64.
fn bytes_of(text: &[u8]) -> Option<usize> {
    let digits =
        text.iter().take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'));
    let count = digits.count();
    let fills = text[count..].iter().all(|byte| *byte == b'=') && text.len() - count <= 2;
    (fills && text.len().is_multiple_of(4)).then_some(count * 3 / 4)
}

/// A key of ours is one, whatever is at random.
fn ours(data: &[u8]) {
    let mut random = [0; 16];
    let count = data.len().min(16);
    random[..count].copy_from_slice(&data[..count]);
    let key = websocket::key(random);
    let text = format!(
        "GET /v1/realtime HTTP/1.1\r\nhost: h\r\nconnection: x, Upgrade\r\nupgrade: WebSocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n\r\n"
    );
    let parsed: Result<Option<(Head, usize)>, _> =
        head::parse(text.as_bytes(), &mut 0, HEAD_BYTES_MAX);
    let (head, _) = parsed.expect("it is sound").expect("it is whole");
    assert!(websocket::is_asked(&head));
    assert_eq!(websocket::key_of(&head), Ok(key.as_bytes()));
}

/// Handshakes to begin from.
pub const HANDSHAKES: &[&[u8]] = &[
    b"GET /v1/realtime HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
      Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: h\r\nconnection: keep-alive, upgrade\r\nupgrade: h2c, WebSocket\r\n\
      sec-websocket-version: 8\r\nsec-websocket-key: AAAA\r\n\r\n",
];

/// What mutations put in.
pub const SPICES: &[&[u8]] = &[
    b"\r\n",
    b",",
    b"=",
    b"+",
    b"A",
    b" ",
    b"\xff",
    b"POST",
    b"HTTP/1.0",
    b"Content-Length: 1\r\n",
    b"Sec-WebSocket-Version: 13\r\n",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    b"Connection: upgrade\r\n",
    b"Upgrade: websocket\r\n",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::mutate;

    #[test]
    fn laws_of_handshakes_hold_for_mutated_ones() {
        mutate::run(HANDSHAKES, SPICES, 20_000, handshake);
    }
}
