//! Finds the field `model` of a `multipart/form-data` body while it passes.
//!
//! Nothing is kept but the head of the present part and a delimiter's length of its body: a file of
//! any size goes by. The result does not depend on how the bytes were cut.
//!
//! Format: RFC 7578 and RFC 2046. Upstreams read more than these allow, each in its own way: some
//! end a line with LF or CR alone, some find a boundary anywhere. So two dashes and the boundary
//! may stand nowhere but where all of them see a delimiter.

mod part;
#[cfg(test)]
mod tests;

use std::ops::Range;

use memchr::memmem::Finder;

use part::Part;

/// The head of one part.
const PART_HEAD_BYTES_MAX: usize = 8 * 1024;
/// RFC 2046.
const BOUNDARY_BYTES_MAX: usize = 70;
/// RFC 2046: what a boundary is made of, letters and digits aside. With quotes, and without.
const BOUNDARY_QUOTED: &[u8] = b"'()+_,-./:=? ";
const BOUNDARY_PLAIN: &[u8] = b"'+_-.";

const LINE_END: &[u8] = b"\r\n";

/// Why a form cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormError {
    /// The content type is no form, or names no boundary.
    Boundary,
    /// The boundary stands where servers read it differently, or the form does not begin with it.
    Delimiter,
    /// The head of a part is too long or malformed, or names its field in no way or in two.
    PartHead,
    /// The name of a part's file could be read as more than one.
    FileName,
    /// Two fields name a model, or one does so in a way that servers read differently.
    ModelTwice,
    /// The field that names the model is a file, encoded, or no text.
    ModelField,
    /// The last delimiter is missing.
    Unclosed,
}

/// Where something stands in a form, and what comes there.
pub type Change = (Range<u64>, Vec<u8>);

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
    part: Part,
    // Where its body begins.
    part_at: u64,
    model: Option<Model>,
}

/// Where the model stands.
struct Model {
    name: Range<u64>,
    is_ascii: bool,
    // Where its part says how long it is, and what stands between that and the name.
    length: Option<(u64, Vec<u8>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Within the first delimiter, which may have a line end before it.
    Start,
    /// Behind a delimiter: what follows says whether another part does.
    Delimited,
    /// Between the CR and the LF that end its line.
    LineEnd,
    Head,
    /// Within a part's body.
    Data,
    /// Between the two dashes that follow the last delimiter.
    Dash,
    /// Behind both; the line may end.
    Closed,
    /// Between the CR and the LF that end the last line.
    ClosedLineEnd,
    /// Behind the last line.
    Done,
}

/// The boundary that the one field `Content-Type` names.
pub fn boundary<'a>(mut fields: impl Iterator<Item = &'a [u8]>) -> Result<&'a [u8], FormError> {
    let (Some(content_type), None) = (fields.next(), fields.next()) else {
        return Err(FormError::Boundary);
    };
    let form = b"multipart/form-data";
    let rest = content_type.trim_ascii();
    let rest = match rest.split_at_checked(form.len()) {
        Some((essence, rest)) if essence.eq_ignore_ascii_case(form) => rest,
        _ => return Err(FormError::Boundary),
    };
    let mut found = None;
    for parameter in part::parameters(rest) {
        let parameter = parameter.map_err(|_| FormError::Boundary)?;
        let (name, value) = (parameter.name, parameter.value);
        if name.eq_ignore_ascii_case(b"boundary") {
            if found.replace(parameter).is_some() {
                return Err(FormError::Boundary);
            }
        } else if holds_boundary(name) || holds_boundary(value) {
            // Some look for the word alone; and `boundary*0` is a boundary to some.
            return Err(FormError::Boundary);
        }
    }
    let Some(part::Parameter { value, is_quoted, .. }) = found else {
        return Err(FormError::Boundary);
    };
    let marks = if is_quoted { BOUNDARY_QUOTED } else { BOUNDARY_PLAIN };
    let is_legal = |byte: &u8| byte.is_ascii_alphanumeric() || marks.contains(byte);
    let fits = (1..=BOUNDARY_BYTES_MAX).contains(&value.len());
    if fits && value.iter().all(is_legal) && !value.ends_with(b" ") && !value.starts_with(b" ") {
        Ok(value)
    } else {
        Err(FormError::Boundary)
    }
}

fn holds_boundary(text: &[u8]) -> bool {
    let word = b"boundary";
    text.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word))
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
            part: Part::default(),
            part_at: 0,
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
        self.model.as_ref().map(|model| model.name.clone())
    }

    /// The form has no more bytes.
    pub fn finish(&self) -> Result<(), FormError> {
        match self.state {
            State::Closed | State::Done => Ok(()),
            _ => Err(FormError::Unclosed),
        }
    }

    /// What stands in the place of what, so that the form names this model.
    pub fn renamed(&self, name: &str) -> Result<Option<Change>, FormError> {
        let Some(model) = &self.model else { return Ok(None) };
        // Whoever chose the boundary did not know this name.
        if self.finder.find(name.as_bytes()).is_some() {
            return Err(FormError::Delimiter);
        }
        if model.is_ascii && !name.is_ascii() {
            return Err(FormError::ModelField);
        }
        let Some((at, between)) = &model.length else {
            return Ok(Some((model.name.clone(), name.as_bytes().to_vec())));
        };
        let mut text = name.len().to_string().into_bytes();
        text.extend_from_slice(between);
        text.extend_from_slice(name.as_bytes());
        Ok(Some((*at..model.name.end, text)))
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
        let found = if let Some(found) = self.finder.find(&self.tail) {
            Some((self.tail[..found].ends_with(LINE_END), found + dashed - seam))
        } else {
            let behind = self.finder.find(bytes);
            behind.map(|found| (bytes[..found].ends_with(LINE_END), found + dashed))
        };
        let used = found.map_or(bytes.len(), |(_, used)| used);
        let is_model = self.part.is_model && self.state == State::Data;
        if is_model && self.part.is_ascii && !bytes[..used].is_ascii() {
            return Err(FormError::ModelField);
        }
        let Some((is_line, _)) = found else {
            if let Some(from) = bytes.len().checked_sub(tail_max) {
                self.tail.clear();
                self.tail.extend_from_slice(&bytes[from..]);
            } else {
                self.tail.drain(..self.tail.len().saturating_sub(tail_max));
            }
            return Ok(used);
        };
        if !is_line || self.state == State::Done {
            return Err(FormError::Delimiter);
        }
        self.state = State::Delimited;
        let end = self.offset + (at + used) as u64 - (LINE_END.len() + dashed) as u64;
        // Some take the length for the end.
        let Part { is_model, is_ascii, length } = &self.part;
        if length.as_ref().is_some_and(|(length, _)| *length != end - self.part_at) {
            return Err(FormError::PartHead);
        }
        if *is_model {
            let length = length.as_ref().map(|(_, digits)| {
                let at = self.part_at - (self.head.len() - digits.start) as u64;
                (at, self.head[digits.end..].to_vec())
            });
            self.model = Some(Model { name: self.part_at..end, is_ascii: *is_ascii, length });
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
            (State::Delimited, b'\r') => State::LineEnd,
            (State::LineEnd, b'\n') => {
                self.head.clear();
                self.head.extend_from_slice(LINE_END);
                State::Head
            }
            (State::Dash, b'-') => State::Closed,
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
            self.part = part::read(&self.head)?;
            self.part_at = self.offset + at as u64 + 1;
            // Some take a field that does not end.
            if self.part.is_model && self.model.is_some() {
                return Err(FormError::ModelTwice);
            }
            self.tail.clear();
            self.state = State::Data;
        }
        Ok(())
    }
}
