//! Both ends of a WebSocket, frame by frame.

use serde_json::Value;

use super::client::request;
use super::{Client, Conn, Reply, Seen};

/// The key of RFC 6455's example, and its answer.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// One frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub last: bool,
    pub opcode: u8,
    pub masked: bool,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The payload as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.payload).into_owned();
        serde_json::from_str(&text).unwrap_or_else(|why| panic!("{why} in {text:?}"))
    }

    /// The code of a close, 0 when it has none.
    pub fn code(&self) -> u16 {
        self.payload.first_chunk::<2>().map_or(0, |code| u16::from_be_bytes(*code))
    }

    /// The reason of a close.
    pub fn reason(&self) -> String {
        String::from_utf8_lossy(self.payload.get(2..).unwrap_or_default()).into_owned()
    }
}

/// A frame's bytes; `first` is the opcode, with 128 for the last fragment.
pub fn frame(first: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let mut bytes = vec![first];
    let bit = if masked { 128 } else { 0 };
    match payload.len() {
        length @ 0..126 => bytes.push(bit | length as u8),
        length @ 126..65_536 => {
            bytes.push(bit | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(bit | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    if !masked {
        bytes.extend(payload);
        return bytes;
    }
    let mask = [0x1d, 0xa7, 0x00, 0x5c];
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn read(mut take: impl FnMut(usize) -> Option<Vec<u8>>) -> Option<Frame> {
    let head = take(2)?;
    let length = match head[1] & 127 {
        126 => u16::from_be_bytes(take(2)?.try_into().ok()?) as usize,
        127 => u64::from_be_bytes(take(8)?.try_into().ok()?) as usize,
        length => length as usize,
    };
    let masked = head[1] & 128 != 0;
    let mask = if masked { take(4)? } else { vec![0] };
    let payload = take(length)?;
    let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    let (last, opcode) = (head[0] & 128 != 0, head[0] & 127);
    Some(Frame { last, opcode, masked, payload: payload.collect() })
}

/// A handshake for this target.
pub fn handshake(target: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut all = vec![
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", KEY),
        ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits"),
    ];
    all.extend(fields);
    request("GET", target, &all, b"")
}

impl Client {
    /// Shakes hands; the head of the answer.
    #[track_caller]
    pub fn dial(&mut self, target: &str, fields: &[(&str, &str)]) -> Reply {
        self.send(&handshake(target, fields));
        let head = self.head().expect("an answer to the handshake");
        assert_eq!(head.status, 101, "{head:?}");
        assert_eq!(head.header("sec-websocket-accept"), Some(ACCEPT));
        assert_eq!(head.header("sec-websocket-extensions"), None);
        head
    }

    /// Sends an event.
    pub fn tell(&mut self, event: &Value) {
        self.send(&frame(128 | TEXT, event.to_string().as_bytes(), true));
    }

    /// The next frame; `None` when the connection has ended.
    pub fn frame(&mut self) -> Option<Frame> {
        let frame = read(|count| Some(self.read_raw(count)).filter(|bytes| bytes.len() == count))?;
        assert!(!frame.masked, "a server does not mask");
        Some(frame)
    }

    /// The next event.
    #[track_caller]
    pub fn event(&mut self) -> Value {
        let frame = self.frame().expect("an event");
        assert!(frame.last && matches!(frame.opcode, TEXT | BINARY), "{frame:?}");
        frame.json()
    }

    /// The close that comes next.
    #[track_caller]
    pub fn close(&mut self) -> Frame {
        let frame = self.frame().expect("a close");
        assert_eq!(frame.opcode, CLOSE, "{frame:?}");
        frame
    }
}

impl Conn {
    /// Answers a handshake.
    pub fn switch(&mut self, seen: &Seen, fields: &str) -> bool {
        let key = seen.header("sec-websocket-key").unwrap_or_default();
        let accept = gproxy::wire::websocket::accept_of(key.as_bytes());
        self.raw(format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nconnection: Upgrade\r\n\
             sec-websocket-accept: {accept}\r\n{fields}\r\n"
        ))
    }

    /// Sends an event.
    pub fn tell(&mut self, event: &Value) -> bool {
        self.raw(frame(128 | TEXT, event.to_string().as_bytes(), false))
    }

    /// The next frame; `None` when the connection has ended.
    pub fn frame(&mut self) -> Option<Frame> {
        let frame = read(|count| self.read_raw(count))?;
        assert!(frame.masked && frame.last, "a client masks, and we join fragments");
        Some(frame)
    }
}
