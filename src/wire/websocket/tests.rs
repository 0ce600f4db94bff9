use super::*;
use crate::testing::splits;
use crate::wire::head;

const MAX: usize = 70_000;

/// Everything that comes of the pieces, or the error behind it.
fn read(masked: bool, max: usize, pieces: &[&[u8]]) -> (Vec<Unit>, Option<FrameError>) {
    let mut reader = Reader::new(masked, max);
    let mut units = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        loop {
            match reader.feed(rest) {
                Ok((used, unit)) => {
                    rest = &rest[used..];
                    match unit {
                        Some(unit) => units.push(unit),
                        None => break assert!(rest.is_empty(), "bytes were left"),
                    }
                }
                Err(error) => return (units, Some(error)),
            }
        }
    }
    (units, None)
}

#[track_caller]
fn check(masked: bool, bytes: &[u8], units: &[(Kind, &[u8])], error: Option<FrameError>) {
    let expected: Vec<Unit> = units
        .iter()
        .map(|(kind, payload)| Unit { kind: *kind, payload: payload.to_vec() })
        .collect();
    splits::each_split(bytes, |pieces| {
        assert_eq!(read(masked, MAX, pieces), (expected.clone(), error), "{pieces:?}");
    });
}

#[test]
fn the_examples_of_the_rfc_are_read() {
    check(false, b"\x81\x05Hello", &[(Kind::Text, b"Hello")], None);
    let masked = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    check(true, masked, &[(Kind::Text, b"Hello")], None);
    check(false, b"\x01\x03Hel\x80\x02lo", &[(Kind::Text, b"Hello")], None);
    check(false, b"\x89\x05Hello", &[(Kind::Ping, b"Hello")], None);
    let long = [&b"\x82\x7e\x01\x00"[..], &[7; 256]].concat();
    check(false, &long, &[(Kind::Binary, &[7; 256])], None);
}

#[test]
fn a_control_frame_may_stand_between_fragments() {
    let bytes = b"\x02\x01a\x89\x01p\x00\x01b\x8a\x00\x80\x01c\x88\x02\x03\xe8";
    let units: [(Kind, &[u8]); 4] =
        [(Kind::Ping, b"p"), (Kind::Pong, b""), (Kind::Binary, b"abc"), (Kind::Close, b"\x03\xe8")];
    check(false, bytes, &units, None);
}

#[test]
fn what_breaks_a_rule_is_named() {
    let rows: [(&[u8], FrameError); 17] = [
        (b"\xc1", FrameError::Reserved),
        (b"\x91", FrameError::Reserved),
        (b"\x83", FrameError::Reserved),
        (b"\x8b", FrameError::Reserved),
        (b"\x81\x81", FrameError::Mask),
        (b"\x09\x00", FrameError::Control),
        (b"\x89\x7e", FrameError::Control),
        (b"\x80\x00", FrameError::Fragments),
        (b"\x01\x00\x81\x00", FrameError::Fragments),
        (b"\x81\x7e\x00\x7d", FrameError::Length),
        (b"\x81\x7f\x00\x00\x00\x00\x00\x00\xff\xff", FrameError::Length),
        (b"\x81\x7f\x80\x00\x00\x00\x00\x00\x00\x00", FrameError::Length),
        (b"\x81\x7f\x00\x00\x00\x00\x00\x01\x11\x71", FrameError::TooLong),
        (b"\x88\x01\x03", FrameError::CloseCode),
        (b"\x88\x02\x03\xed", FrameError::CloseCode),
        (b"\x88\x02\x00\x00", FrameError::CloseCode),
        (b"\x88\x02\x13\x88", FrameError::CloseCode),
    ];
    for (bytes, error) in rows {
        check(false, bytes, &[], Some(error));
    }
    check(true, b"\x81\x05Hello", &[], Some(FrameError::Mask));
    assert_eq!(FrameError::TooLong.close_code(), 1009);
    assert_eq!(FrameError::Mask.close_code(), 1002);
}

#[test]
fn a_message_of_the_greatest_length_is_held_and_one_byte_more_is_not() {
    let parts =
        |length: u8| [&b"\x02\x05abcde\x80"[..], &[length], &[7; 9][..length as usize]].concat();
    let (units, error) = read(false, 8, &[&parts(3)]);
    assert_eq!((units[0].payload.len(), error), (8, None));
    assert_eq!(read(false, 8, &[&parts(4)]), (Vec::new(), Some(FrameError::TooLong)));
    // A control frame within it does not count.
    let (units, error) = read(false, 1, &[b"\x89\x02hi"]);
    assert_eq!((units.len(), error), (1, None));
}

#[test]
fn what_is_written_is_read_again() {
    for length in [0, 1, 125, 126, 127, 65_535, 65_536] {
        let payload: Vec<u8> = (0..length).map(|at| at as u8).collect();
        for mask in [None, Some([1, 2, 3, 4])] {
            let mut bytes = Vec::new();
            write(Kind::Binary, &payload, mask, &mut bytes);
            let unit = Unit { kind: Kind::Binary, payload: payload.clone() };
            let expected = (vec![unit], None);
            assert_eq!(read(mask.is_some(), MAX, &[&bytes]), expected);
            let three: Vec<&[u8]> = bytes.chunks(3).collect();
            assert_eq!(read(mask.is_some(), MAX, &three), expected);
        }
    }
}

#[test]
fn a_reason_that_is_too_long_is_cut_between_characters() {
    let payload = close(1008, &"é".repeat(80));
    assert_eq!(payload.len(), 2 + 122);
    assert!(str::from_utf8(&payload[2..]).is_ok());
    assert_eq!(close(1000, "bye"), b"\x03\xe8bye");
}

#[test]
fn keys_are_answered_as_in_the_rfc() {
    assert_eq!(accept_of(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(key([0; 16]), "AAAAAAAAAAAAAAAAAAAAAA==");
    assert_eq!(base64(b"Man"), "TWFu");
    assert_eq!(base64(b"Ma"), "TWE=");
}

fn handshake(lines: &str) -> (bool, Result<Vec<u8>, HandshakeError>) {
    let text = format!("{lines}Host: h\r\n\r\n");
    let (head, _) = head::parse(text.as_bytes(), &mut 0, 4096).expect("legal").expect("whole");
    (is_asked(&head), key_of(&head).map(<[u8]>::to_vec))
}

#[test]
fn a_handshake_is_whole_or_says_what_it_lacks() {
    const FIRST: &str = "GET /v1/realtime HTTP/1.1\r\n";
    const REST: &str =
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\n";
    let of = |lines: &str| handshake(&format!("{FIRST}{lines}"));
    let up = "Upgrade: h2c, WebSocket\r\nConnection: keep-alive, Upgrade\r\n";
    assert_eq!(of(&format!("{up}{REST}")), (true, Ok(b"AQIDBAUGBwgJCgsMDQ4PEA==".to_vec())));
    assert!(!of("Upgrade: h2c\r\nConnection: Upgrade\r\n").0);
    assert!(!handshake(&format!("POST / HTTP/1.1\r\n{up}{REST}")).0);
    let refused = |lines: &str| of(lines).1.expect_err("something is wrong");
    assert_eq!(refused(&format!("Upgrade: websocket\r\n{REST}")), HandshakeError::NoUpgrade);
    assert_eq!(refused(&format!("{up}{REST}Content-Length: 1\r\n")), HandshakeError::NoUpgrade);
    let old = handshake(&format!("GET / HTTP/1.0\r\n{up}{REST}"));
    assert_eq!(old.1, Err(HandshakeError::NoUpgrade));
    let version = REST.replace("13", "8");
    assert_eq!(refused(&format!("{up}{version}")), HandshakeError::Version);
    assert_eq!(refused(up), HandshakeError::Version);
    let twice = format!("{up}{REST}Sec-WebSocket-Version: 8\r\n");
    assert_eq!(refused(&twice), HandshakeError::Version);
    for key in ["", "AQIDBAUGBwgJCgsMDQ4P", "AQIDBAUGBwgJCgsMDQ4PE===", "AQIDBAUGBwgJ gsMDQ4PEA=="]
    {
        let rest = REST.replace("AQIDBAUGBwgJCgsMDQ4PEA==", key);
        assert_eq!(refused(&format!("{up}{rest}")), HandshakeError::Key, "{key:?}");
    }
    assert_eq!(refused(&format!("{up}{REST}Sec-WebSocket-Key: x\r\n")), HandshakeError::Key);
}
