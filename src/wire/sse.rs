//! Server-sent events, split from a byte stream by the WHATWG rules.
//!
//! [`Splitter`] finds the borders, [`data_lines`] finds the data inside one event. Neither decodes
//! UTF-8, joins lines or copies a byte: callers that only relay must be able to pass everything
//! through unchanged.
//!
//! The stream is cut into *pieces*: an event up to and with its blank line; a comment line that
//! stands before an event's first field, so that keep-alive comments need not wait; a blank line
//! alone. Line ends may be LF, CR or CRLF, mixed, and a CRLF may be cut by a read.
//!
//! Surprising: after the CR of a blank line nobody knows whether an LF follows. Where the line
//! before ended in CRLF (or there was none) the piece waits for it; elsewhere the piece ends at the
//! CR, and a late LF leads the next piece.
//!
//! Invariant: the pieces, joined, are the stream.

#[cfg(test)]
mod tests;

use std::ops::Range;

/// The byte order mark that may open a stream and is no part of its first line.
pub const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Whether a body of this `content-type` is such a stream.
pub fn is_type(content_type: &[u8]) -> bool {
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

/// Finds the ends of pieces. Owns no bytes.
#[derive(Clone, Copy, Debug)]
pub struct Splitter {
    line: Line,
    /// The current piece has a line that is no comment.
    has_field: bool,
    /// The last line end was a CRLF, or none came yet.
    crlf: bool,
    cr: Cr,
}

/// What the current line is, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Empty,
    Comment,
    Field,
}

/// A CR was the last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cr {
    No,
    /// It ended a line; an LF would be its second half.
    EndsLine,
    /// The same, and the piece ends there too.
    EndsPiece,
}

impl Splitter {
    /// A splitter before the first byte of a stream.
    pub fn new() -> Splitter {
        Splitter { line: Line::Empty, has_field: false, crlf: true, cr: Cr::No }
    }

    /// How many bytes of `input` still belong to the current piece, when it ends in them; the next
    /// call begins behind those. `None`: all of `input` belongs to a piece that goes on.
    ///
    /// The answer can be 0: the piece, fed before, ended with a CR that no LF follows.
    pub fn feed(&mut self, input: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            if self.cr != Cr::No {
                let ends = self.cr == Cr::EndsPiece;
                self.cr = Cr::No;
                self.crlf = byte == b'\n';
                at += usize::from(self.crlf);
                if ends {
                    return Some(at);
                }
                continue;
            }
            if self.line == Line::Empty && !matches!(byte, b'\n' | b'\r') {
                self.line = if byte == b':' { Line::Comment } else { Line::Field };
            }
            at += memchr::memchr2(b'\n', b'\r', &input[at..])? + 1;
            let ends = self.line_ends();
            if input[at - 1] == b'\n' {
                self.crlf = false;
            } else if ends && self.crlf {
                self.cr = Cr::EndsPiece;
                continue;
            } else {
                self.cr = Cr::EndsLine;
            }
            if ends {
                return Some(at);
            }
        }
        None
    }

    /// Says whether the line's end is the piece's end.
    fn line_ends(&mut self) -> bool {
        let line = std::mem::replace(&mut self.line, Line::Empty);
        match line {
            Line::Field => self.has_field = true,
            Line::Comment => return !self.has_field,
            Line::Empty => self.has_field = false,
        }
        line == Line::Empty
    }
}

impl Default for Splitter {
    fn default() -> Splitter {
        Splitter::new()
    }
}

/// Where in the bytes of one piece the values of its `data` lines stand, in order, without line
/// ends and without the one space that may follow the colon.
pub fn data_lines(piece: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut next = 0;
    std::iter::from_fn(move || {
        while next < piece.len() {
            let start = next;
            let rest = &piece[start..];
            let length = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
            next = start + length + 1;
            if piece.get(next - 1..=next) == Some(b"\r\n") {
                next += 1;
            }
            if let Some(lead) = data_lead(&rest[..length]) {
                return Some(start + lead..start + length);
            }
        }
        None
    })
}

/// Where the value of this line begins, if it is a `data` line.
fn data_lead(line: &[u8]) -> Option<usize> {
    match line.strip_prefix(b"data")? {
        [] => Some(4),
        [b':', b' ', ..] => Some(6),
        [b':', ..] => Some(5),
        _ => None,
    }
}
