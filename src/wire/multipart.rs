//! Finds the field `model` of a `multipart/form-data` body while it passes.
//!
//! Nothing is kept but the head of the present part: a file of any size goes by. The result does
//! not depend on how the bytes were cut.
//!
//! Format: RFC 7578 and RFC 2046. A delimiter begins with CR, which no boundary may hold, so after
//! a mismatch only that byte can begin another.

#[cfg(test)]
mod tests;

use std::ops::Range;

/// The head of one part.
const PART_HEAD_BYTES_MAX: usize = 8 * 1024;
/// RFC 2046: a boundary has at most 70 bytes. Some clients write a little more.
const BOUNDARY_BYTES_MAX: usize = 200;

/// Why a form cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormError {
    /// The content type is no form, or names no boundary.
    Boundary,
    /// The head of a part is too long or malformed.
    PartHead,
    /// Two fields name a model, or one does so in a way that servers read differently.
    ModelTwice,
}

/// Watches one form go by.
pub struct Scanner {
    // CR, LF, two dashes, the boundary.
    delimiter: Vec<u8>,
    // How much of the delimiter the last bytes are.
    matched: usize,
    state: State,
    head: Vec<u8>,
    // Bytes fed.
    offset: u64,
    in_model: Option<u64>,
    model: Option<Range<u64>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first delimiter, or within a part's body.
    Data,
    /// Behind a delimiter: what follows says whether another part does.
    Delimited,
    Dash,
    Head,
    /// Behind the last part.
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
        Scanner {
            delimiter: [b"\r\n--", boundary].concat(),
            // The first delimiter has no line before it.
            matched: 2,
            state: State::Data,
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
                State::Done => break,
                State::Data => at = self.data(input, at)?,
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
        self.state == State::Done
    }

    /// Runs over a part's body; the place behind what was used.
    fn data(&mut self, input: &[u8], from: usize) -> Result<usize, FormError> {
        let mut at = from;
        while at < input.len() {
            if self.matched == 0 {
                match memchr::memchr(b'\r', &input[at..]) {
                    Some(skipped) => at += skipped,
                    None => return Ok(input.len()),
                }
            }
            let byte = input[at];
            at += 1;
            if byte == self.delimiter[self.matched] {
                self.matched += 1;
            } else {
                self.matched = usize::from(byte == b'\r');
            }
            if self.matched == self.delimiter.len() {
                self.matched = 0;
                self.state = State::Delimited;
                if let Some(start) = self.in_model.take() {
                    let behind = self.offset + at as u64;
                    let end = behind - self.delimiter.len() as u64;
                    if self.model.replace(start.min(end)..end).is_some() {
                        return Err(FormError::ModelTwice);
                    }
                }
                return Ok(at);
            }
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8, at: usize) -> Result<(), FormError> {
        match (self.state, byte) {
            (State::Delimited, b'-') => self.state = State::Dash,
            (State::Dash, b'-') => self.state = State::Done,
            (State::Delimited, b' ' | b'\t' | b'\r') => {}
            (State::Delimited, b'\n') => {
                self.state = State::Head;
                self.head.clear();
                self.head.extend_from_slice(b"\r\n");
            }
            (State::Head, byte) => {
                self.head.push(byte);
                if self.head.len() > PART_HEAD_BYTES_MAX {
                    return Err(FormError::PartHead);
                }
                if self.head.ends_with(b"\r\n\r\n") {
                    self.state = State::Data;
                    // An empty body has its delimiter at once behind the head.
                    self.matched = 2;
                    if names_model(&self.head)? {
                        self.in_model = Some(self.offset + at as u64 + 1);
                    }
                }
            }
            _ => return Err(FormError::PartHead),
        }
        Ok(())
    }
}

/// Whether this is the head of the field `model`. `head` begins and ends with line ends.
fn names_model(head: &[u8]) -> Result<bool, FormError> {
    let mut names = 0;
    let mut is_model = false;
    for line in head.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.first().is_some_and(|byte| matches!(byte, b' ' | b'\t')) {
            // A folded line could carry the name past us.
            return Err(FormError::PartHead);
        }
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        if !line[..colon].trim_ascii().eq_ignore_ascii_case(b"content-disposition") {
            continue;
        }
        for (name, value) in parameters(&line[colon + 1..]) {
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
    if names > 1 {
        return Err(FormError::PartHead);
    }
    Ok(is_model)
}
