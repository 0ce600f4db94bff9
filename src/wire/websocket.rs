//! WebSocket frames as bytes, and what an opening handshake must say (RFC 6455).
//!
//! Messages are put together whole, since what is read in them may stand anywhere; fragments are
//! not passed on as they came. No extension is ever agreed on, so a reserved bit is an error.

#[cfg(test)]
mod tests;

use super::head::Head;
use super::header;

/// What RFC 6455 appends to a key before it is hashed.
const ACCEPT_SALT: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The payload of a control frame.
const CONTROL_BYTES_MAX: usize = 125;
/// Two bytes, a length of eight, a mask of four.
const HEAD_BYTES_MAX: usize = 14;

/// What is wrong with an opening handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    /// HTTP/1.0, a body, or a `Connection` that does not name the upgrade.
    NoUpgrade,
    /// Another version than 13, or several.
    Version,
    /// The key is missing, repeated, or not 16 bytes in base64.
    Key,
}

impl HandshakeError {
    /// Every variant, for tables and golden files.
    pub const ALL: [HandshakeError; 3] =
        [HandshakeError::NoUpgrade, HandshakeError::Version, HandshakeError::Key];
}

/// The request asks for a WebSocket.
pub fn is_asked(head: &Head) -> bool {
    let asks = |value: &[u8]| header::is_named(value, "websocket");
    head.method() == "GET" && head.headers.all("upgrade").any(asks)
}

/// The key of an opening handshake in which nothing is wrong.
pub fn key_of(head: &Head) -> Result<&[u8], HandshakeError> {
    let names_it = |value: &[u8]| header::is_named(value, "upgrade");
    let connected = head.headers.all("connection").any(names_it);
    if !head.http11 || !head.framing.is_empty() || !connected {
        return Err(HandshakeError::NoUpgrade);
    }
    if !head.headers.all("sec-websocket-version").eq([&b"13"[..]]) {
        return Err(HandshakeError::Version);
    }
    let mut keys = head.headers.all("sec-websocket-key");
    let key = keys.next().filter(|_| keys.next().is_none()).ok_or(HandshakeError::Key)?;
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    match key.strip_suffix(b"==") {
        Some(digits) if digits.len() == 22 && digits.iter().all(is_digit) => Ok(key),
        _ => Err(HandshakeError::Key),
    }
}

/// A key for a handshake of ours, from 16 random bytes.
pub fn key(random: [u8; 16]) -> String {
    base64(&random)
}

/// The `Sec-WebSocket-Accept` that answers a key.
pub fn accept_of(key: &[u8]) -> String {
    let hash = &ring::digest::SHA1_FOR_LEGACY_USE_ONLY;
    base64(ring::digest::digest(hash, &[key, ACCEPT_SALT].concat()).as_ref())
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let at = |index: usize| u32::from(part.get(index).copied().unwrap_or(0));
        let group = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            match digit <= part.len() {
                true => text.push(DIGITS[(group >> (18 - 6 * digit)) as usize & 63].into()),
                false => text.push('='),
            }
        }
    }
    text
}

/// What came whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A message of text.
    Text,
    /// A message of bytes.
    Binary,
    /// The peer's last word.
    Close,
    /// To be answered by a pong.
    Ping,
    /// The answer to a ping, or a sign of life.
    Pong,
}

impl Kind {
    fn opcode(self) -> u8 {
        match self {
            Kind::Text => 1,
            Kind::Binary => 2,
            Kind::Close => 8,
            Kind::Ping => 9,
            Kind::Pong => 10,
        }
    }
}

/// A message or a control frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// What it is.
    pub kind: Kind,
    /// Its bytes, unmasked and joined.
    pub payload: Vec<u8>,
}

/// Which rule the peer broke. Nothing more can be read from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// A reserved bit, or an opcode that nobody has defined.
    Reserved,
    /// Masked where it must not be, or not where it must.
    Mask,
    /// A length that is not written in the shortest way, or has its highest bit set.
    Length,
    /// A control frame that is fragmented or longer than [`CONTROL_BYTES_MAX`].
    Control,
    /// A continuation of nothing, or a new message within another.
    Fragments,
    /// A close with half a code, or with one that is never sent.
    CloseCode,
    /// A message that is longer than may be held.
    TooLong,
}

impl FrameError {
    /// The code of the close that tells the peer.
    pub fn close_code(self) -> u16 {
        match self {
            FrameError::TooLong => 1009,
            FrameError::Reserved
            | FrameError::Mask
            | FrameError::Length
            | FrameError::Control
            | FrameError::Fragments
            | FrameError::CloseCode => 1002,
        }
    }
}

/// The head of a frame.
#[derive(Clone, Copy)]
struct Frame {
    last: bool,
    opcode: u8,
    length: u64,
    mask: [u8; 4],
}

impl Frame {
    fn is_control(&self) -> bool {
        self.opcode >= 8
    }
}

/// Reads the frames of one side.
pub struct Reader {
    masked: bool,
    message_bytes_max: usize,
    head: [u8; HEAD_BYTES_MAX],
    head_len: usize,
    // Within a payload: its frame, and how much of it came.
    frame: Option<(Frame, u64)>,
    // The message of which fragments came, and its kind.
    message: Vec<u8>,
    begun: Option<Kind>,
    control: Vec<u8>,
    failed: Option<FrameError>,
}

impl Reader {
    /// A reader of what a client sends, which is masked, or of what a server sends, which is not.
    pub fn new(masked: bool, message_bytes_max: usize) -> Reader {
        Reader {
            masked,
            message_bytes_max,
            head: [0; HEAD_BYTES_MAX],
            head_len: 0,
            frame: None,
            message: Vec::new(),
            begun: None,
            control: Vec::new(),
            failed: None,
        }
    }

    /// Bytes that are held of a message that is not whole.
    pub fn held(&self) -> usize {
        self.message.capacity()
    }

    /// Reads up to the end of the next message or control frame: how many bytes of `input` were
    /// used, and what came whole. An error stays.
    pub fn feed(&mut self, input: &[u8]) -> Result<(usize, Option<Unit>), FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let mut used = 0;
        loop {
            let (frame, came) = match self.frame {
                Some(open) => open,
                None => {
                    let (taken, frame) = self.read_head(&input[used..]).inspect_err(|error| {
                        self.failed = Some(*error);
                    })?;
                    used += taken;
                    let Some(frame) = frame else { return Ok((used, None)) };
                    (frame, 0)
                }
            };
            let (taken, came) = self.read_payload(&frame, came, &input[used..]);
            used += taken;
            if came < frame.length {
                self.frame = Some((frame, came));
                return Ok((used, None));
            }
            self.frame = None;
            let unit = self.end_frame(&frame).inspect_err(|error| self.failed = Some(*error))?;
            if unit.is_some() {
                return Ok((used, unit));
            }
        }
    }

    /// Collects a head; `None` while it is not whole.
    fn read_head(&mut self, input: &[u8]) -> Result<(usize, Option<Frame>), FrameError> {
        for (index, byte) in input.iter().enumerate() {
            self.head[self.head_len] = *byte;
            self.head_len += 1;
            if let Some(frame) = self.parse_head()? {
                self.head_len = 0;
                return Ok((index + 1, Some(frame)));
            }
        }
        Ok((input.len(), None))
    }

    fn parse_head(&self) -> Result<Option<Frame>, FrameError> {
        let head = &self.head[..self.head_len];
        let opcode = head[0] & 15;
        if head[0] & 0x70 != 0 || !matches!(opcode, 0..=2 | 8..=10) {
            return Err(FrameError::Reserved);
        }
        let last = head[0] & 0x80 != 0;
        let Some(second) = head.get(1) else { return Ok(None) };
        if (second & 0x80 != 0) != self.masked {
            return Err(FrameError::Mask);
        }
        let short = usize::from(second & 0x7f);
        if opcode >= 8 && (!last || short > CONTROL_BYTES_MAX) {
            return Err(FrameError::Control);
        }
        if opcode < 8 && (opcode == 0) != self.begun.is_some() {
            return Err(FrameError::Fragments);
        }
        let (bytes, least) = match short {
            126 => (2, 126),
            127 => (8, 0x1_0000),
            _ => (0, 0),
        };
        let Some(long) = head.get(2..2 + bytes) else { return Ok(None) };
        let length = match bytes {
            0 => short as u64,
            _ => long.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
        };
        if length < least || length >> 63 != 0 {
            return Err(FrameError::Length);
        }
        let room = self.message_bytes_max.saturating_sub(self.message.len()) as u64;
        if opcode < 8 && length > room {
            return Err(FrameError::TooLong);
        }
        let mut mask = [0; 4];
        if self.masked {
            let Some(bytes) = head.get(2 + bytes..6 + bytes) else { return Ok(None) };
            mask.copy_from_slice(bytes);
        }
        Ok(Some(Frame { last, opcode, length, mask }))
    }

    fn read_payload(&mut self, frame: &Frame, came: u64, input: &[u8]) -> (usize, u64) {
        let left = usize::try_from(frame.length - came).unwrap_or(usize::MAX);
        let taken = left.min(input.len());
        let to = if frame.is_control() { &mut self.control } else { &mut self.message };
        let from = to.len();
        to.extend_from_slice(&input[..taken]);
        apply(frame.mask, came, &mut to[from..]);
        (taken, came + taken as u64)
    }

    fn end_frame(&mut self, frame: &Frame) -> Result<Option<Unit>, FrameError> {
        let kind = match frame.opcode {
            8 => Kind::Close,
            9 => Kind::Ping,
            10 => Kind::Pong,
            opcode => {
                let begins = if opcode == 1 { Kind::Text } else { Kind::Binary };
                let kind = *self.begun.get_or_insert(begins);
                if !frame.last {
                    return Ok(None);
                }
                self.begun = None;
                let payload = std::mem::take(&mut self.message);
                return Ok(Some(Unit { kind, payload }));
            }
        };
        let payload = std::mem::take(&mut self.control);
        if kind == Kind::Close && !is_close(&payload) {
            return Err(FrameError::CloseCode);
        }
        Ok(Some(Unit { kind, payload }))
    }
}

/// Nothing, or a code that may be sent with its reason.
fn is_close(payload: &[u8]) -> bool {
    match payload {
        [] => true,
        [high, low, ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
        }
        [_] => false,
    }
}

/// Masks or unmasks bytes of which the first is byte `at` of its payload.
fn apply(mask: [u8; 4], at: u64, bytes: &mut [u8]) {
    if mask == [0; 4] {
        return;
    }
    let mut turned = mask;
    turned.rotate_left((at % 4) as usize);
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte ^= turned[index % 4];
    }
}

/// Writes one frame, whole; with a mask, as a client does.
pub fn write(kind: Kind, payload: &[u8], mask: Option<[u8; 4]>, out: &mut Vec<u8>) {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    out.reserve(payload.len() + HEAD_BYTES_MAX);
    out.push(0x80 | kind.opcode());
    match payload.len() {
        length @ 0..126 => out.push(masked | length as u8),
        length @ 126..0x1_0000 => {
            out.push(masked | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(masked | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let Some(mask) = mask else {
        out.extend_from_slice(payload);
        return;
    };
    out.extend_from_slice(&mask);
    let from = out.len();
    out.extend_from_slice(payload);
    apply(mask, 0, &mut out[from..]);
}

/// The payload of a close. What is too long of the reason is cut off.
pub fn close(code: u16, reason: &str) -> Vec<u8> {
    let room = CONTROL_BYTES_MAX - 2;
    let reason = &reason[..reason.floor_char_boundary(room.min(reason.len()))];
    [&code.to_be_bytes()[..], reason.as_bytes()].concat()
}
