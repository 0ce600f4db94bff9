//! Finds the field `model` of a `multipart/form-data` body while it passes.
//!
//! Nothing is kept but the head of the present part and a delimiter's length of its body: a file of
//! any size goes by. The result does not depend on how the bytes were cut.
//!
//! Format: RFC 7578 and RFC 2046. Upstreams read more than these allow, each in its own way: some
//! end a line with LF or CR alone, some find a boundary anywhere. So two dashes and the boundary
//! may stand nowhere but where all of them see a delimiter.

#[cfg(test)]
mod tests;

use std::ops::Range;

use memchr::memmem::Finder;

/// The head of one part.
const PART_HEAD_BYTES_MAX: usize = 8 * 1024;
/// RFC 2046: a boundary has at most 70 bytes. Some clients write a little more.
const BOUNDARY_BYTES_MAX: usize = 200;
/// Transfer encodings that change nothing.
const PLAIN: [&[u8]; 3] = [b"7bit", b"8bit", b"binary"];

const LINE_END: &[u8] = b"\r\n";

/// Why a form cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormError {
    /// The content type is no form, or names no boundary.
    Boundary,
    /// The boundary stands where servers read it differently, or the form does not begin with it.
    Delimiter,
    /// The head of a part is too long or malformed.
    PartHead,
    /// Two fields name a model, or one does so in a way that servers read differently.
    ModelTwice,
}

/// Watches one form go by.
pub struct Scanner {
    // Two dashes and the boundary. Its tables are large, and a coroutine's stack is not.
    finder: Box<Finder<'static>>,
    // How much of the first delimiter, and of the line end before it, has gone by.
    matched: usize,
    // The last bytes of the present body: a delimiter may begin in them.
    tail: Vec<u8>,
    state: State,
    head: Vec<u8>,
    // Bytes fed.
    offset: u64,
    in_model: Option<u64>,
    model: Option<Range<u64>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Within the first delimiter, which may have a line end before it.
    Start,
    /// Behind a delimiter: what follows says whether another part does.
    Delimited,
    /// Behind white space that follows a delimiter.
    Padded,
    /// Between the CR and the LF that end its line.
    LineEnd,
    Head,
    /// Within a part's body.
    Data,
    /// Between the two dashes that follow the last delimiter.
    Dash,
    /// Behind both; its line may yet end.
    Closed,
    /// Between the CR and the LF that end the last line.
    ClosedLineEnd,
    /// Behind the last line.
    Done,
}

/// The boundary that a content type names.
pub fn boundary(content_type: &[u8]) -> Result<&[u8], FormError> {
    let form = b"multipart/form-data";
    let rest = content_type.trim_ascii();
    let rest = match rest.split_at_checked(form.len()) {
        Some((essence, rest)) if essence.eq_ignore_ascii_case(form) => rest,
        _ => return Err(FormError::Boundary),
    };
    let mut found = None;
    for (name, value) in parameters(rest) {
        if name.eq_ignore_ascii_case(b"boundary") && found.replace(value).is_some() {
            return Err(FormError::Boundary);
        }
    }
    let value = found.ok_or(FormError::Boundary)?;
    let fits = (1..=BOUNDARY_BYTES_MAX).contains(&value.len());
    // What could not stand in the delimiter's line as it is.
    let plain = value.iter().all(|byte| (0x20..0x7f).contains(byte) && !b"\"\\".contains(byte));
    if fits && plain { Ok(value) } else { Err(FormError::Boundary) }
}

/// Names and values behind the semicolons of a header's value; quotes are taken off.
fn parameters(mut rest: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    std::iter::from_fn(move || {
        let start = memchr::memchr(b';', rest)? + 1;
        let after = rest[start..].trim_ascii_start();
        let equals = memchr::memchr2(b'=', b';', after).unwrap_or(after.len());
        let name = after[..equals].trim_ascii();
        if after.get(equals) != Some(&b'=') {
            rest = &after[equals..];
            return Some((name, &after[..0]));
        }
        let value = &after[equals + 1..];
        if let Some(quoted) = value.strip_prefix(b"\"") {
            let mut end = 0;
            while end < quoted.len() && quoted[end] != b'"' {
                end += if quoted[end] == b'\\' { 2 } else { 1 };
            }
            let end = end.min(quoted.len());
            rest = &quoted[end..];
            return Some((name, &quoted[..end]));
        }
        let end = memchr::memchr(b';', value).unwrap_or(value.len());
        rest = &value[end..];
        Some((name, value[..end].trim_ascii()))
    })
}

impl Scanner {
    /// A scanner before the first byte of a form.
    pub fn new(boundary: &[u8]) -> Scanner {
        let dashed = [b"--", boundary].concat();
        Scanner {
            finder: Box::new(Finder::new(&dashed).into_owned()),
            matched: 0,
            tail: Vec::new(),
            state: State::Start,
            head: Vec::new(),
            offset: 0,
            in_model: None,
            model: None,
        }
    }

    /// Reads on. An error stays one: nothing more is fed.
    pub fn feed(&mut self, input: &[u8]) -> Result<(), FormError> {
        let mut at = 0;
        while at < input.len() {
            match self.state {
                State::Data | State::Done => at += self.data(&input[at..], at)?,
                _ => {
                    self.step(input[at], at)?;
                    at += 1;
                }
            }
        }
        self.offset += input.len() as u64;
        Ok(())
    }

    /// Where the model's name stands, once all of it has gone by.
    pub fn model(&self) -> Option<Range<u64>> {
        self.model.clone()
    }

    /// The last part has gone by.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Closed | State::ClosedLineEnd | State::Done)
    }

    /// Runs over a part's body, or over what follows the last one; `at` is where `bytes` stand in
    /// what is fed. How many were used.
    fn data(&mut self, bytes: &[u8], at: usize) -> Result<usize, FormError> {
        let dashed = self.finder.needle().len();
        // A delimiter with the line end before it, less its last byte.
        let tail_max = LINE_END.len() + dashed - 1;
        let seam = self.tail.len();
        self.tail.extend_from_slice(&bytes[..bytes.len().min(tail_max)]);
        // What crosses the seam comes before all that lies behind it.
        let (is_line, used) = if let Some(found) = self.finder.find(&self.tail) {
            (self.tail[..found].ends_with(LINE_END), found + dashed - seam)
        } else if let Some(found) = self.finder.find(bytes) {
            (bytes[..found].ends_with(LINE_END), found + dashed)
        } else {
            if let Some(from) = bytes.len().checked_sub(tail_max) {
                self.tail.clear();
                self.tail.extend_from_slice(&bytes[from..]);
            } else {
                self.tail.drain(..self.tail.len().saturating_sub(tail_max));
            }
            return Ok(bytes.len());
        };
        if !is_line || self.state == State::Done {
            return Err(FormError::Delimiter);
        }
        self.state = State::Delimited;
        if let Some(start) = self.in_model.take() {
            let end = self.offset + (at + used) as u64 - (LINE_END.len() + dashed) as u64;
            if self.model.replace(start..end).is_some() {
                return Err(FormError::ModelTwice);
            }
        }
        Ok(used)
    }

    fn step(&mut self, byte: u8, at: usize) -> Result<(), FormError> {
        self.state = match (self.state, byte) {
            (State::Start, byte) => {
                if self.matched == 0 && byte != b'\r' {
                    self.matched = LINE_END.len();
                }
                let dashed = self.finder.needle();
                let expected = match self.matched.checked_sub(LINE_END.len()) {
                    None => LINE_END[self.matched],
                    Some(at) => dashed[at],
                };
                if byte != expected {
                    return Err(FormError::Delimiter);
                }
                self.matched += 1;
                let is_whole = self.matched == LINE_END.len() + dashed.len();
                if is_whole { State::Delimited } else { State::Start }
            }
            (State::Delimited, b'-') => State::Dash,
            (State::Delimited | State::Padded, b' ' | b'\t') => State::Padded,
            (State::Delimited | State::Padded, b'\r') => State::LineEnd,
            (State::LineEnd, b'\n') => {
                self.head.clear();
                self.head.extend_from_slice(LINE_END);
                State::Head
            }
            (State::Dash, b'-') => State::Closed,
            (State::Closed, b' ' | b'\t') => State::Closed,
            (State::Closed, b'\r') => State::ClosedLineEnd,
            (State::ClosedLineEnd, b'\n') => {
                self.tail.clear();
                State::Done
            }
            (State::Head, byte) => return self.head(byte, at),
            _ => return Err(FormError::Delimiter),
        };
        Ok(())
    }

    /// Takes one byte of a part's head.
    fn head(&mut self, byte: u8, at: usize) -> Result<(), FormError> {
        let is_ending = self.head.last() == Some(&b'\r');
        // A line ends with both or it does not end.
        if is_ending != (byte == b'\n') || self.head.len() == PART_HEAD_BYTES_MAX {
            return Err(FormError::PartHead);
        }
        self.head.push(byte);
        if self.head.ends_with(b"\r\n\r\n") {
            if self.finder.find(&self.head).is_some() {
                return Err(FormError::Delimiter);
            }
            if names_model(&self.head)? {
                self.in_model = Some(self.offset + at as u64 + 1);
            }
            self.tail.clear();
            self.state = State::Data;
        }
        Ok(())
    }
}

/// Whether this is the head of the field `model`. `head` begins and ends with line ends.
fn names_model(head: &[u8]) -> Result<bool, FormError> {
    let mut names = 0;
    let (mut is_model, mut is_encoded) = (false, false);
    for line in head.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.first().is_some_and(|byte| matches!(byte, b' ' | b'\t')) {
            // A folded line could carry the name past us.
            return Err(FormError::PartHead);
        }
        if line.is_empty() {
            continue;
        }
        let colon = memchr::memchr(b':', line).ok_or(FormError::PartHead)?;
        let (field, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
        if field.eq_ignore_ascii_case(b"content-transfer-encoding") {
            is_encoded |= !PLAIN.iter().any(|plain| value.eq_ignore_ascii_case(plain));
        }
        if !field.eq_ignore_ascii_case(b"content-disposition") {
            continue;
        }
        for (name, value) in parameters(value) {
            if name.eq_ignore_ascii_case(b"name*") {
                return Err(FormError::PartHead);
            }
            if name.eq_ignore_ascii_case(b"name") {
                names += 1;
                let mut plain = value.to_vec();
                plain.retain(|byte| *byte != b'\\');
                let is_near = plain.eq_ignore_ascii_case(b"model");
                is_model |= value == b"model";
                if is_near && value != b"model" {
                    return Err(FormError::ModelTwice);
                }
            }
        }
    }
    // Some servers decode a field, others take it as it stands.
    if names > 1 || is_model && is_encoded {
        return Err(FormError::PartHead);
    }
    Ok(is_model)
}
