//! Request bodies: read by length or by chunk, and chunks written.
//!
//! The decoder takes bytes as they come, appends the body's own bytes to `out` and stops at the
//! body's end: what follows is the next request and is left to the caller. Chunk extensions and
//! trailers are checked, counted and dropped; a trailer never becomes a header.
//!
//! The ceiling is compared with what a chunk *announces*, not with what has arrived.

use super::WireError;
use super::head::Framing;
use super::header::is_token_byte;
use crate::limits::CHUNK_EXTRA_BYTES_MAX;

/// Hexadecimal digits of a chunk size; as many as `u64` holds, so its value cannot overflow.
const SIZE_DIGITS_MAX: u8 = 16;

/// What ends a chunk's data.
pub const CHUNK_CLOSE: &[u8] = b"\r\n";
/// What ends a chunked body, trailers (none) included.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Reads one body.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// Body bytes that may still be announced.
    allowed: u64,
    /// Bytes of chunk extensions so far.
    extension_bytes: usize,
    /// Bytes of trailers so far.
    trailer_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// That many bytes follow; more than none.
    Length(u64),
    /// In a chunk's size, after that many digits.
    Size {
        value: u64,
        digits: u8,
    },
    /// After blanks behind the size, which only an extension may follow.
    Blank {
        size: u64,
    },
    Extension {
        size: u64,
    },
    SizeLineFeed {
        size: u64,
    },
    /// That many bytes of this chunk follow; more than none.
    Data(u64),
    DataReturn,
    DataLineFeed,
    /// At the start of a line after the last chunk.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLineFeed,
    LastLineFeed,
    Done,
}

impl Decoder {
    /// A decoder for one body. A declared length above the ceiling is refused here.
    pub fn new(framing: Framing, body_bytes_max: u64) -> Result<Decoder, WireError> {
        let state = match framing {
            Framing::Length(length) if length > body_bytes_max => {
                return Err(WireError::BodyTooLong);
            }
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size { value: 0, digits: 0 },
        };
        Ok(Decoder { state, allowed: body_bytes_max, extension_bytes: 0, trailer_bytes: 0 })
    }

    /// Reads from the front of `input`, appends body bytes to `out`, and says how many bytes of
    /// `input` it took: all of them, unless the body ended before. After an error the decoder must
    /// not be fed again.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, WireError> {
        let mut used = 0;
        while used < input.len() {
            match self.state {
                State::Done => break,
                State::Length(left) | State::Data(left) => {
                    let rest = &input[used..];
                    let taken =
                        usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
                    out.extend_from_slice(&rest[..taken]);
                    used += taken;
                    self.state = self.after_data(left - taken as u64);
                }
                _ => {
                    self.state = self.step(input[used])?;
                    used += 1;
                }
            }
        }
        debug_assert!(used == input.len() || self.is_done());
        Ok(used)
    }

    /// The body has ended.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Body bytes that are known to follow: of the whole body when its length was declared, else of
    /// the present chunk. For sizing buffers.
    pub fn bytes_announced(&self) -> u64 {
        match self.state {
            State::Length(left) | State::Data(left) => left,
            _ => 0,
        }
    }

    fn after_data(&self, left: u64) -> State {
        match (self.state, left) {
            (State::Length(_), 0) => State::Done,
            (State::Length(_), left) => State::Length(left),
            (_, 0) => State::DataReturn,
            (_, left) => State::Data(left),
        }
    }

    /// One byte of the lines between the chunks.
    fn step(&mut self, byte: u8) -> Result<State, WireError> {
        match self.state {
            State::Size { value, digits } => self.size(value, digits, byte),
            State::Blank { size } | State::Extension { size } => self.extension(size, byte),
            State::SizeLineFeed { size } => match (byte, size) {
                (b'\n', 0) => Ok(State::TrailerStart),
                (b'\n', size) => Ok(State::Data(size)),
                _ => Err(WireError::ChunkLine),
            },
            State::DataReturn if byte == b'\r' => Ok(State::DataLineFeed),
            State::DataLineFeed if byte == b'\n' => Ok(State::Size { value: 0, digits: 0 }),
            State::DataReturn | State::DataLineFeed => Err(WireError::ChunkEnd),
            State::TrailerStart | State::TrailerName | State::TrailerValue => self.trailer(byte),
            State::TrailerLineFeed if byte == b'\n' => Ok(State::TrailerStart),
            State::LastLineFeed if byte == b'\n' => Ok(State::Done),
            State::TrailerLineFeed | State::LastLineFeed => Err(WireError::Trailer),
            // Unreachable because `feed` handles these states itself.
            State::Length(_) | State::Data(_) | State::Done => Ok(self.state),
        }
    }

    fn size(&mut self, value: u64, digits: u8, byte: u8) -> Result<State, WireError> {
        if let Some(digit) = (byte as char).to_digit(16) {
            if digits == SIZE_DIGITS_MAX {
                return Err(WireError::ChunkSize);
            }
            return Ok(State::Size { value: value << 4 | u64::from(digit), digits: digits + 1 });
        }
        if digits == 0 {
            return Err(WireError::ChunkSize);
        }
        let Some(allowed) = self.allowed.checked_sub(value) else {
            return Err(WireError::BodyTooLong);
        };
        let next = match byte {
            b'\r' => State::SizeLineFeed { size: value },
            b';' => State::Extension { size: value },
            b' ' | b'\t' => State::Blank { size: value },
            b'\n' => return Err(WireError::ChunkLine),
            _ => return Err(WireError::ChunkSize),
        };
        self.allowed = allowed;
        if byte != b'\r' {
            count(&mut self.extension_bytes, WireError::ExtensionsTooLong)?;
        }
        Ok(next)
    }

    fn extension(&mut self, size: u64, byte: u8) -> Result<State, WireError> {
        let in_extension = matches!(self.state, State::Extension { .. });
        let next = match byte {
            b'\r' if in_extension => return Ok(State::SizeLineFeed { size }),
            b' ' | b'\t' => self.state,
            b';' => State::Extension { size },
            // A carriage return here stands behind blanks that belong to nothing.
            _ if !in_extension => return Err(WireError::ChunkSize),
            0x00..0x20 | 0x7f => return Err(WireError::ChunkLine),
            _ => self.state,
        };
        count(&mut self.extension_bytes, WireError::ExtensionsTooLong)?;
        Ok(next)
    }

    fn trailer(&mut self, byte: u8) -> Result<State, WireError> {
        let next = match (self.state, byte) {
            (State::TrailerStart, b'\r') => return Ok(State::LastLineFeed),
            (State::TrailerValue, b'\r') => State::TrailerLineFeed,
            (State::TrailerName, b':') => State::TrailerValue,
            (State::TrailerStart | State::TrailerName, byte) if is_token_byte(byte) => {
                State::TrailerName
            }
            (State::TrailerValue, b'\t' | b' '..=0x7e | 0x80..) => State::TrailerValue,
            _ => return Err(WireError::Trailer),
        };
        count(&mut self.trailer_bytes, WireError::TrailersTooLong)?;
        Ok(next)
    }
}

fn count(bytes: &mut usize, error: WireError) -> Result<(), WireError> {
    *bytes += 1;
    if *bytes > CHUNK_EXTRA_BYTES_MAX { Err(error) } else { Ok(()) }
}

/// Writes what stands before a chunk's data of `len` bytes; [`CHUNK_CLOSE`] stands behind it.
pub fn chunk_open(len: usize, out: &mut Vec<u8>) {
    assert!(len > 0, "an empty chunk would end the body");
    let digits = (usize::BITS - len.leading_zeros()).div_ceil(4);
    for place in (0..digits).rev() {
        let digit = len >> (4 * place) & 0xf;
        out.push(b"0123456789abcdef"[digit]);
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
