//! JSON read as it arrives: where do values at a few watched paths begin and end?
//!
//! One engine for request bodies, whole replies and the data of stream events. It is pushed bytes
//! in pieces of any size and tells its caller about the watched paths by [`Event`]; it keeps a few
//! words of state, builds no tree, never allocates, never recurses and never looks at a byte twice.
//!
//! The structure is RFC 8259 to the letter. The inside of a string is passed over at the speed of
//! `memchr`: escapes are checked, but control bytes and broken UTF-8 pass, as they may upstream.
//! Keys are compared by what they spell, so `"mod\u0065l"` is `model`.
//!
//! Surprising: a number has no last byte, so its end is known one byte late, or from
//! [`Scanner::finish`].

mod text;

#[cfg(test)]
mod tests;

use std::ops::Range;

use super::sse::BOM;
use crate::limits::JSON_DEPTH_MAX;

pub use text::{escape, unescape};

/// Paths of one [`Watch`], at most.
pub const PATHS_MAX: usize = 15;
/// Steps of one path.
pub const STEPS_MAX: usize = 7;

/// One step of a path into a JSON document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The member of that name. ASCII only.
    Key(&'static str),
    /// Any element of an array.
    Each,
}

/// What broke, named by the place where it broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonError {
    /// This byte begins no value.
    Value,
    /// A misspelt `true`, `false` or `null`.
    Word,
    /// A number such as `01`, `-` or `1.e5`.
    Number,
    /// After a backslash stands something that is not an escape.
    Escape,
    /// A member does not begin with a string.
    Key,
    /// No colon after a key.
    Colon,
    /// Neither comma nor the right closing bracket after a value.
    Comma,
    /// Something stands behind the document.
    Trailing,
    /// More than [`JSON_DEPTH_MAX`] open brackets.
    Depth,
    /// The document ended too early.
    Truncated,
}

/// What sort of value stands somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `"..."`
    String,
    /// `-1.5e3`
    Number,
    /// `true`
    True,
    /// `false`
    False,
    /// `null`
    Null,
    /// `{...}`
    Object,
    /// `[...]`
    Array,
}

/// News of a watched path. `path` is its index in the [`Watch`]; offsets count all bytes fed and
/// skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A value begins.
    Begins {
        /// Index of the path.
        path: usize,
        /// Known from the first byte on.
        kind: Kind,
        /// Its first byte.
        at: u64,
        /// The comma or bracket in front of the member or element; `at` for the root.
        after: u64,
    },
    /// The value that began last at this path ends.
    Ends {
        /// Index of the path.
        path: usize,
        /// One past its last byte.
        end: u64,
    },
    /// An object has a second member of a name that leads along this path. Comes before the
    /// second value's `Begins`, when that stands at the path's end.
    Repeats {
        /// Index of the path.
        path: usize,
    },
    /// A key that would lead along this path if the case of its letters did not matter; it does
    /// not lead there. Only with [`Watch::in_any_case`].
    Misspelt {
        /// Index of the path.
        path: usize,
    },
}

impl Event {
    /// The same news for whoever watches the paths from index `from` on; `None`: it is of another.
    pub fn from(self, from: usize) -> Option<Event> {
        let mut event = self;
        let (Event::Begins { path, .. }
        | Event::Ends { path, .. }
        | Event::Repeats { path }
        | Event::Misspelt { path }) = &mut event;
        *path = path.checked_sub(from)?;
        Some(event)
    }
}

/// A set of paths, a bit for each.
type Paths = u16;

/// Paths to watch, prepared for matching.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    steps: [&'static [Step]; PATHS_MAX],
    /// Paths whose steps stand behind one more: any element of an array at the root.
    in_array: Paths,
    /// `[n]`: paths of exactly `n` steps.
    whole: [Paths; STEPS_MAX + 1],
    /// `[n]`: paths whose step `n` is a key.
    keys: [Paths; STEPS_MAX],
    /// `[n]`: paths whose step `n` is any element.
    each: [Paths; STEPS_MAX],
    any_case: bool,
}

impl Watch {
    /// Watches these paths; the empty path is the root value. Panics on more than [`PATHS_MAX`]
    /// paths or [`STEPS_MAX`] steps: paths are constants of the program, never input.
    pub fn of(paths: &[&'static [Step]]) -> Watch {
        let mut watch = Watch {
            steps: [&[]; PATHS_MAX],
            in_array: 0,
            whole: [0; STEPS_MAX + 1],
            keys: [0; STEPS_MAX],
            each: [0; STEPS_MAX],
            any_case: false,
        };
        for (path, steps) in paths.iter().enumerate() {
            watch.add(path, steps, 0);
        }
        watch
    }

    /// The same, with one more path, of that index.
    pub fn with(mut self, path: usize, steps: &'static [Step]) -> Watch {
        self.add(path, steps, 0);
        self
    }

    /// The same, with a path of that index whose steps begin at any element of the root.
    pub fn in_array(mut self, path: usize, steps: &'static [Step]) -> Watch {
        self.add(path, steps, 1);
        self
    }

    fn add(&mut self, path: usize, steps: &'static [Step], lead: usize) {
        assert!(path < PATHS_MAX);
        let bit = 1 << path;
        self.steps[path] = steps;
        self.whole[steps.len() + lead] |= bit;
        if lead > 0 {
            self.in_array |= bit;
            self.each[0] |= bit;
        }
        for (depth, step) in steps.iter().enumerate() {
            match step {
                Step::Key(name) => {
                    assert!(name.is_ascii() && name.len() < usize::from(u8::MAX));
                    self.keys[depth + lead] |= bit;
                }
                Step::Each => self.each[depth + lead] |= bit,
            }
        }
    }

    /// The same, with news of keys that some readers would take for watched ones.
    pub fn in_any_case(self) -> Watch {
        Watch { any_case: true, ..self }
    }

    /// The paths among `keys` whose key at `depth` has `byte` at `index` (`None`: ends there), and
    /// those of them that have it in the other case.
    fn narrowed(
        &self,
        keys: Paths,
        depth: usize,
        index: usize,
        byte: Option<u8>,
    ) -> (Paths, Paths) {
        let (mut left, mut odd) = (0, 0);
        for path in bits(keys) {
            let at = depth - usize::from(self.in_array >> path & 1 == 1);
            let Step::Key(name) = self.steps[path][at] else { continue };
            let own = name.as_bytes().get(index).copied();
            if own == byte {
                left |= 1 << path;
            } else if self.any_case && same_letter(own, byte) {
                left |= 1 << path;
                odd |= 1 << path;
            }
        }
        (left, odd)
    }
}

fn same_letter(one: Option<u8>, other: Option<u8>) -> bool {
    one.zip(other).is_some_and(|(one, other)| one.eq_ignore_ascii_case(&other))
}

/// The indices of the set bits.
fn bits(mut mask: Paths) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let index = mask.trailing_zeros() as usize;
        mask &= mask.checked_sub(1)?;
        Some(index)
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A value must begin, or the next byte of a byte order mark.
    Mark {
        seen: u8,
    },
    /// A value must begin.
    Value,
    /// After `[`: a value or the end.
    FirstValue,
    /// After a comma in an object: a key.
    Key,
    /// After `{`: a key or the end.
    FirstKey,
    Colon,
    /// After a value inside a container.
    After,
    /// Inside a string, `in_key` says which sort.
    Text,
    /// After a backslash.
    Escape,
    /// Inside `\uXXXX`.
    Hex {
        left: u8,
        code: u16,
    },
    Number(Digits),
    /// Inside `true`, `false` or `null`.
    Word {
        kind: Kind,
        matched: u8,
    },
    /// The root value is complete.
    End,
    Failed(JsonError),
}

/// What was read of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Digits {
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    Power,
}

impl Digits {
    /// The state after one more byte; `None` when the byte does not belong to the number.
    fn next(self, byte: u8) -> Option<Digits> {
        Some(match (self, byte) {
            (Digits::Minus, b'0') => Digits::Zero,
            (Digits::Minus | Digits::Integer, b'0'..=b'9') => Digits::Integer,
            (Digits::Zero | Digits::Integer, b'.') => Digits::Point,
            (Digits::Point | Digits::Fraction, b'0'..=b'9') => Digits::Fraction,
            (Digits::Zero | Digits::Integer | Digits::Fraction, b'e' | b'E') => Digits::Exponent,
            (Digits::Exponent, b'+' | b'-') => Digits::ExponentSign,
            (Digits::Exponent | Digits::ExponentSign | Digits::Power, b'0'..=b'9') => Digits::Power,
            _ => return None,
        })
    }

    /// A number may end here.
    fn is_whole(self) -> bool {
        matches!(self, Digits::Zero | Digits::Integer | Digits::Fraction | Digits::Power)
    }
}

/// Bits of the stack of open containers.
const DEPTH_WORDS: usize = JSON_DEPTH_MAX.div_ceil(64);

/// The push scanner. See the module's header.
#[derive(Clone, Debug)]
pub struct Scanner {
    watch: Watch,
    state: State,
    /// Bytes fed and skipped.
    offset: u64,
    /// Open containers, `0..=JSON_DEPTH_MAX`.
    depth: usize,
    /// Bit `n`: open container `n` is an object.
    objects: [u64; DEPTH_WORDS],
    /// `[n]`: paths that may go on inside open container `n`.
    live: [Paths; STEPS_MAX],
    /// `[n]`: paths whose key was met in open container `n`.
    seen: [Paths; STEPS_MAX],
    /// `[n]`: paths that end at open container `n`.
    found: [Paths; STEPS_MAX + 1],
    /// Paths whose first `depth` steps lead to the value that is read or comes next.
    here: Paths,
    /// The string that is read is a key.
    in_key: bool,
    /// Paths that the key, as far as it was read, can still lead along.
    keys: Paths,
    /// Of these, those of which it has a letter in the other case.
    odd: Paths,
    /// Decoded bytes of the key that were compared.
    matched: usize,
    /// The comma or bracket before the value that is read or comes next.
    after: u64,
}

impl Scanner {
    /// A scanner before the first byte of a document.
    pub fn new(watch: Watch) -> Scanner {
        Scanner {
            here: watch.whole.iter().fold(0, |all, some| all | some),
            watch,
            state: State::Value,
            offset: 0,
            depth: 0,
            objects: [0; DEPTH_WORDS],
            live: [0; STEPS_MAX],
            seen: [0; STEPS_MAX],
            found: [0; STEPS_MAX + 1],
            in_key: false,
            keys: 0,
            odd: 0,
            matched: 0,
            after: 0,
        }
    }

    /// The same before a reply: a byte order mark may stand in front, which many clients pass over.
    /// Not for requests, which two readers must not take differently.
    pub fn behind_mark(self) -> Scanner {
        Scanner { state: State::Mark { seen: 0 }, ..self }
    }

    /// Starts over with the same paths, at offset 0 and without a mark.
    pub fn reset(&mut self) {
        self.here = self.watch.whole.iter().fold(0, |all, some| all | some);
        self.state = State::Value;
        self.offset = 0;
        self.depth = 0;
        self.in_key = false;
        self.keys = 0;
        self.after = 0;
    }

    /// Bytes fed and skipped so far; after an error, the offset of the byte at fault.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Counts bytes that stand between two pieces of the document and are no part of it.
    pub fn skip(&mut self, bytes: u64) {
        self.offset += bytes;
    }

    /// One complete value was read (a bare number at the root: only [`Scanner::finish`] knows).
    pub fn is_done(&self) -> bool {
        self.state == State::End
    }

    /// Reads all of `input`. An error stays: every later call returns it again.
    pub fn feed<F: FnMut(Event)>(&mut self, input: &[u8], on: &mut F) -> Result<(), JsonError> {
        let mut cursor = Cursor { input, at: 0, base: self.offset };
        let result = self.run(&mut cursor, on);
        self.offset = cursor.offset();
        if let Err(error) = result {
            self.state = State::Failed(error);
        }
        result
    }

    /// The document has no more bytes.
    pub fn finish<F: FnMut(Event)>(&mut self, on: &mut F) -> Result<(), JsonError> {
        match self.state {
            State::Number(digits) if self.depth == 0 && digits.is_whole() => {
                self.value_ends(self.offset, on);
            }
            State::End => {}
            State::Failed(error) => return Err(error),
            _ => self.state = State::Failed(JsonError::Truncated),
        }
        if self.is_done() { Ok(()) } else { Err(JsonError::Truncated) }
    }

    /// The loop over states: each turn moves the cursor or leaves a state that consumes nothing.
    fn run<F: FnMut(Event)>(
        &mut self,
        cursor: &mut Cursor<'_>,
        on: &mut F,
    ) -> Result<(), JsonError> {
        while let Some(byte) = cursor.peek() {
            match self.state {
                State::Text => {
                    self.text(cursor, on);
                    continue;
                }
                State::Number(digits) => {
                    self.number(digits, cursor, on)?;
                    continue;
                }
                State::Word { kind, matched } => {
                    self.word(kind, matched, cursor, on)?;
                    continue;
                }
                State::Escape => self.escape(byte)?,
                State::Hex { left, code } => self.hex(byte, left, code)?,
                State::Failed(error) => return Err(error),
                State::Mark { seen } if BOM[usize::from(seen)] == byte => {
                    let is_last = usize::from(seen) + 1 == BOM.len();
                    self.state =
                        if is_last { State::Value } else { State::Mark { seen: seen + 1 } };
                }
                State::Mark { seen: 0 } => {
                    self.state = State::Value;
                    continue;
                }
                State::Mark { .. } => return Err(JsonError::Value),
                _ if matches!(byte, b' ' | b'\n' | b'\r' | b'\t') => {}
                State::Value => self.value_begins(byte, cursor.offset(), on)?,
                State::FirstValue if byte == b']' => self.close(cursor.offset(), on),
                State::FirstValue => self.value_begins(byte, cursor.offset(), on)?,
                State::FirstKey if byte == b'}' => self.close(cursor.offset(), on),
                State::Key | State::FirstKey => self.key_begins(byte)?,
                State::Colon if byte == b':' => self.state = State::Value,
                State::Colon => return Err(JsonError::Colon),
                State::After => self.after(byte, cursor.offset(), on)?,
                State::End => return Err(JsonError::Trailing),
            }
            cursor.at += 1;
        }
        Ok(())
    }

    /// The first byte of a value.
    fn value_begins<F: FnMut(Event)>(
        &mut self,
        byte: u8,
        at: u64,
        on: &mut F,
    ) -> Result<(), JsonError> {
        let (kind, state) = match byte {
            b'"' => (Kind::String, State::Text),
            b'{' => (Kind::Object, State::FirstKey),
            b'[' => (Kind::Array, State::FirstValue),
            b'-' => (Kind::Number, State::Number(Digits::Minus)),
            b'0' => (Kind::Number, State::Number(Digits::Zero)),
            b'1'..=b'9' => (Kind::Number, State::Number(Digits::Integer)),
            b't' => (Kind::True, State::Word { kind: Kind::True, matched: 1 }),
            b'f' => (Kind::False, State::Word { kind: Kind::False, matched: 1 }),
            b'n' => (Kind::Null, State::Word { kind: Kind::Null, matched: 1 }),
            _ => return Err(JsonError::Value),
        };
        let container = matches!(kind, Kind::Object | Kind::Array);
        if container && self.depth == JSON_DEPTH_MAX {
            return Err(JsonError::Depth);
        }
        if self.here != 0 {
            let after = if self.depth == 0 { at } else { self.after };
            for path in bits(self.here & self.watch.whole[self.depth]) {
                on(Event::Begins { path, kind, at, after });
            }
        }
        if container {
            self.open(kind == Kind::Object, at);
        }
        self.state = state;
        Ok(())
    }

    /// Goes one container deeper.
    fn open(&mut self, object: bool, at: u64) {
        let level = self.depth;
        let bit = 1u64 << (level % 64);
        if object {
            self.objects[level / 64] |= bit;
        } else {
            self.objects[level / 64] &= !bit;
        }
        if level <= STEPS_MAX {
            self.found[level] = self.here & self.watch.whole[level];
        }
        if level < STEPS_MAX {
            let steps = if object { self.watch.keys[level] } else { self.watch.each[level] };
            self.live[level] = self.here & steps;
            self.seen[level] = 0;
        }
        self.depth = level + 1;
        self.after = at;
        self.here = self.inside();
    }

    /// Paths that may go on inside the innermost open container.
    fn inside(&self) -> Paths {
        self.live.get(self.depth.wrapping_sub(1)).copied().unwrap_or(0)
    }

    fn in_object(&self) -> bool {
        let level = self.depth - 1;
        self.objects[level / 64] & (1u64 << (level % 64)) != 0
    }

    /// A byte after a value inside a container.
    fn after<F: FnMut(Event)>(&mut self, byte: u8, at: u64, on: &mut F) -> Result<(), JsonError> {
        let object = self.in_object();
        match byte {
            b',' => {
                self.after = at;
                if object {
                    self.state = State::Key;
                } else {
                    self.here = self.inside();
                    self.state = State::Value;
                }
            }
            b'}' if object => self.close(at, on),
            b']' if !object => self.close(at, on),
            _ => return Err(JsonError::Comma),
        }
        Ok(())
    }

    /// The bracket at `at` closes the innermost container.
    fn close<F: FnMut(Event)>(&mut self, at: u64, on: &mut F) {
        self.depth -= 1;
        if let Some(&found) = self.found.get(self.depth) {
            for path in bits(found) {
                on(Event::Ends { path, end: at + 1 });
            }
        }
        self.state = if self.depth == 0 { State::End } else { State::After };
    }

    /// A string, number or word ends before `end`.
    fn value_ends<F: FnMut(Event)>(&mut self, end: u64, on: &mut F) {
        if self.here != 0 {
            for path in bits(self.here & self.watch.whole[self.depth]) {
                on(Event::Ends { path, end });
            }
        }
        self.state = if self.depth == 0 { State::End } else { State::After };
    }

    fn key_begins(&mut self, byte: u8) -> Result<(), JsonError> {
        if byte != b'"' {
            return Err(JsonError::Key);
        }
        self.in_key = true;
        self.keys = self.inside();
        self.odd = 0;
        self.matched = 0;
        self.state = State::Text;
        Ok(())
    }

    fn key_ends<F: FnMut(Event)>(&mut self, on: &mut F) {
        self.in_key = false;
        self.here = 0;
        if self.keys != 0 {
            let level = self.depth - 1;
            let (here, _) = self.watch.narrowed(self.keys, level, self.matched, None);
            for path in bits(here & self.odd) {
                on(Event::Misspelt { path });
            }
            self.here = here & !self.odd;
            for path in bits(self.here & self.seen[level]) {
                on(Event::Repeats { path });
            }
            self.seen[level] |= self.here;
            self.keys = 0;
        }
        self.state = State::Colon;
    }

    /// Compares one decoded byte of a key.
    fn key_byte(&mut self, byte: u8) {
        let (keys, odd) = self.watch.narrowed(self.keys, self.depth - 1, self.matched, Some(byte));
        self.keys = keys;
        self.odd |= odd;
        self.matched += 1;
    }

    /// Inside a string, up to its end, a backslash or the end of the input.
    fn text<F: FnMut(Event)>(&mut self, cursor: &mut Cursor<'_>, on: &mut F) {
        while self.keys != 0 {
            match cursor.peek() {
                None | Some(b'"' | b'\\') => break,
                Some(byte) => self.key_byte(byte),
            }
            cursor.at += 1;
        }
        cursor.at += plain_bytes(cursor.rest());
        let Some(byte) = cursor.peek() else { return };
        cursor.at += 1;
        if byte == b'\\' {
            self.state = State::Escape;
        } else if self.in_key {
            self.key_ends(on);
        } else {
            self.value_ends(cursor.offset(), on);
        }
    }

    fn escape(&mut self, byte: u8) -> Result<(), JsonError> {
        if byte == b'u' {
            self.state = State::Hex { left: 4, code: 0 };
            return Ok(());
        }
        let decoded = text::short_escape(byte).ok_or(JsonError::Escape)?;
        if self.keys != 0 {
            self.key_byte(decoded);
        }
        self.state = State::Text;
        Ok(())
    }

    fn hex(&mut self, byte: u8, left: u8, code: u16) -> Result<(), JsonError> {
        let digit = text::hex_digit(byte).ok_or(JsonError::Escape)?;
        let code = code << 4 | u16::from(digit);
        if left > 1 {
            self.state = State::Hex { left: left - 1, code };
            return Ok(());
        }
        if self.keys != 0 {
            match u8::try_from(code) {
                Ok(byte) if byte.is_ascii() => self.key_byte(byte),
                // Watched keys are ASCII.
                _ => self.keys = 0,
            }
        }
        self.state = State::Text;
        Ok(())
    }

    /// Inside a number, up to the byte behind it or the end of the input.
    fn number<F: FnMut(Event)>(
        &mut self,
        mut digits: Digits,
        cursor: &mut Cursor<'_>,
        on: &mut F,
    ) -> Result<(), JsonError> {
        while let Some(byte) = cursor.peek() {
            match digits.next(byte) {
                Some(next) => digits = next,
                None if digits.is_whole() => {
                    self.value_ends(cursor.offset(), on);
                    return Ok(());
                }
                None => return Err(JsonError::Number),
            }
            cursor.at += 1;
        }
        self.state = State::Number(digits);
        Ok(())
    }

    /// Inside a word, up to its end or the end of the input.
    fn word<F: FnMut(Event)>(
        &mut self,
        kind: Kind,
        matched: u8,
        cursor: &mut Cursor<'_>,
        on: &mut F,
    ) -> Result<(), JsonError> {
        let word: &[u8] = match kind {
            Kind::True => b"true",
            Kind::False => b"false",
            _ => b"null",
        };
        let rest = &word[usize::from(matched)..];
        let same = rest.iter().zip(cursor.rest()).take_while(|(a, b)| a == b).count();
        cursor.at += same;
        if same == rest.len() {
            self.value_ends(cursor.offset(), on);
        } else if cursor.peek().is_some() {
            return Err(JsonError::Word);
        } else {
            self.state = State::Word { kind, matched: matched + same as u8 };
        }
        Ok(())
    }
}

/// The input of one `feed`.
struct Cursor<'a> {
    input: &'a [u8],
    /// `0..=input.len()`
    at: usize,
    /// Offset of the input's first byte.
    base: u64,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.input.get(self.at).copied()
    }

    fn rest(&self) -> &'a [u8] {
        &self.input[self.at..]
    }

    /// Of the byte at the cursor.
    fn offset(&self) -> u64 {
        self.base + self.at as u64
    }
}

/// Bytes before the first quote or backslash. Most strings of an API call are short, where a plain
/// loop beats the call of `memchr2`; the long ones hold images and must go at its speed.
fn plain_bytes(input: &[u8]) -> usize {
    const NEAR: usize = 16;
    let near = &input[..input.len().min(NEAR)];
    match near.iter().position(|byte| matches!(byte, b'"' | b'\\')) {
        Some(index) => index,
        None => {
            let far = &input[near.len()..];
            near.len() + memchr::memchr2(b'"', b'\\', far).unwrap_or(far.len())
        }
    }
}

/// Where the texts and numbers at the paths stand in a small reply: of each the first.
pub fn values<const N: usize>(
    paths: &[&'static [Step]; N],
    body: &[u8],
) -> Result<[Option<Range<usize>>; N], JsonError> {
    let mut found: [Option<Range<usize>>; N] = [const { None }; N];
    let mut at = [None; N];
    let mut on = |event| match event {
        Event::Begins { path, kind, at: begins, .. } => {
            let is_plain = matches!(kind, Kind::String | Kind::Number);
            at[path] = Some(begins as usize).filter(|_| is_plain && found[path].is_none());
        }
        Event::Ends { path, end } => {
            if let Some(begins) = at[path].take() {
                found[path] = Some(begins..end as usize);
            }
        }
        Event::Repeats { .. } | Event::Misspelt { .. } => {}
    };
    let mut scanner = Scanner::new(Watch::of(paths)).behind_mark();
    scanner.feed(body, &mut on)?;
    scanner.finish(&mut on)?;
    Ok(found)
}
