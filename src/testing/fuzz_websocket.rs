//! Laws of the WebSocket reader, for any bytes.

use super::prng::Prng;
use super::splits;
use crate::wire::websocket::{self, FrameError, Kind, Reader, Unit};

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
