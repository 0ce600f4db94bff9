//! Restores the model's name in a reply and hides usage that the client did not ask for.
//!
//! Bytes in, bytes out: what does not have to change leaves as it came, and with nothing to change
//! output equals input. Nothing is parsed into a tree and printed again, since printing would alter
//! what clients depend on (escapes, spacing, order, spelling of numbers).
//!
//! A whole reply leaves as it arrives; only the model's value is swallowed while its replacement is
//! already on its way. A stream leaves piece by piece (see `wire::sse`), so that a cut upstream
//! never leaves half an event downstream; at most one piece is held. Both give the same output
//! however the input is cut. Surprising: in broken JSON, what was found before the break stays
//! changed.

#[cfg(test)]
mod tests;

use super::endpoint::{Endpoint, Step};
use super::stored::{Exchange, Front, Strings};
use super::terminal::Terminal;
use super::usage::Tap;
use crate::limits::EVENT_KEPT_BYTES_MAX;
use crate::wire::json::{self, Event, Kind, Scanner, Watch};
use crate::wire::sse::{self, Splitter};
use std::ops::Range;

/// Why a stream cannot be relayed any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamError {
    /// One event is longer than we may hold.
    EventTooLong,
    /// It ended without the event that ends it.
    Unfinished,
}

/// What has to change in a reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The model's name as the client sent it; `None` when nothing was renamed.
    pub model: Option<String>,
    /// Where none was sent: the provider to put in front of the name that stands there.
    pub front: Option<Front>,
    /// Take the usage out of an OpenAI chat stream again.
    pub hide_usage: bool,
}

/// Rewrites one reply. Has no `Debug`: what it holds is somebody's completion.
pub struct Rewriter {
    mode: Mode,
    /// Reads the usage of what has no tap of its own.
    tap: Option<Box<Tap>>,
}

enum Mode {
    Identity,
    Whole(Box<Whole>),
    Strings(Box<Strings>),
    Stream(Box<Stream>),
}

impl Rewriter {
    /// Passes every byte: binary replies, types unknown to us.
    pub fn identity() -> Rewriter {
        Rewriter { mode: Mode::Identity, tap: None }
    }

    /// For a JSON reply: one document, or an array of them (Gemini's other form of a stream).
    pub fn whole(endpoint: &'static Endpoint, change: Change) -> Rewriter {
        let Some(name) = change.model.filter(|_| !endpoint.reply_model.is_empty()) else {
            return Rewriter::identity();
        };
        let mode = Mode::Whole(Box::new(Whole::new(endpoint.reply_model, &name)));
        Rewriter { mode, tap: None }
    }

    /// For a JSON reply, or one of lines, that tells of things made earlier.
    pub fn strings(endpoint: &'static Endpoint, exchange: Exchange, in_lines: bool) -> Rewriter {
        let strings = Strings::new(endpoint.places, exchange, in_lines);
        Rewriter { mode: Mode::Strings(Box::new(strings)), tap: None }
    }

    /// For a `text/event-stream` reply.
    pub fn stream(endpoint: &'static Endpoint, change: Change, event_bytes_max: usize) -> Rewriter {
        let mode = Mode::Stream(Box::new(Stream::new(endpoint, change, event_bytes_max)));
        Rewriter { mode, tap: None }
    }

    /// Reads usage too, of the reply as the upstream wrote it.
    pub fn with_tap(mut self, endpoint: &Endpoint) -> Rewriter {
        match &mut self.mode {
            Mode::Stream(stream) => stream.tap = Some(Box::new(Tap::new(endpoint))),
            Mode::Whole(whole) => whole.read_usage(endpoint),
            Mode::Identity | Mode::Strings(_) => self.tap = Some(Box::new(Tap::new(endpoint))),
        }
        self
    }

    /// Makes the tap tell who served.
    pub fn seek_model(&mut self) {
        let tap = match &mut self.mode {
            Mode::Stream(stream) => stream.tap.as_deref_mut(),
            Mode::Whole(whole) => whole.tap.as_mut(),
            Mode::Identity | Mode::Strings(_) => self.tap.as_deref_mut(),
        };
        if let Some(tap) = tap {
            tap.seek_model();
        }
    }

    /// Makes the tap of a stream remember what an early end would have to repeat.
    pub fn remember(&mut self) {
        if let Mode::Stream(stream) = &mut self.mode
            && let Some(tap) = &mut stream.tap
        {
            tap.remember();
        }
    }

    /// What reads usage, if anything does.
    pub fn tap(&self) -> Option<&Tap> {
        match &self.mode {
            Mode::Stream(stream) => stream.tap.as_deref(),
            Mode::Whole(whole) => whole.tap.as_ref(),
            Mode::Identity | Mode::Strings(_) => self.tap.as_deref(),
        }
    }

    /// Reads all of `input` and appends to `out` what may leave now. An error stays.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), StreamError> {
        if let Some(tap) = &mut self.tap {
            tap.feed(input);
        }
        match &mut self.mode {
            Mode::Identity => out.extend_from_slice(input),
            Mode::Whole(whole) => whole.feed(input, out),
            Mode::Strings(strings) => strings.feed(input, out),
            Mode::Stream(stream) => return stream.feed(input, out),
        }
        Ok(())
    }

    /// The upstream has ended, and it is a stream whose last event did not come.
    pub fn lacks_end(&self) -> bool {
        match &self.mode {
            Mode::Stream(stream) => stream.terminal.is_missing(&stream.held),
            Mode::Identity | Mode::Whole(_) | Mode::Strings(_) => false,
        }
    }

    /// The upstream ended properly. A held piece that lacks its blank line leaves without it.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        match &mut self.mode {
            Mode::Stream(stream) => stream.finish(out),
            Mode::Strings(strings) => strings.finish(out),
            Mode::Identity | Mode::Whole(_) => {}
        }
    }

    /// Bytes fed that have not left.
    pub fn held(&self) -> usize {
        match &self.mode {
            Mode::Identity | Mode::Whole(_) => 0,
            Mode::Strings(strings) => strings.held(),
            Mode::Stream(stream) => stream.held.len(),
        }
    }

    /// Memory that is taken for what has not left.
    pub fn room(&self) -> usize {
        match &self.mode {
            Mode::Stream(stream) => stream.held.capacity(),
            Mode::Identity | Mode::Whole(_) | Mode::Strings(_) => self.held(),
        }
    }

    /// Forgets what has not left. Nothing more can be fed to a stream.
    pub fn forget(&mut self) {
        if let Mode::Stream(stream) = &mut self.mode {
            stream.fail();
        }
    }

    /// Nothing was handed out by half: an error event may follow.
    pub fn at_event_border(&self) -> bool {
        self.is_stream()
    }

    /// The reply is a stream of events.
    pub fn is_stream(&self) -> bool {
        matches!(self.mode, Mode::Stream(_))
    }
}

/// A JSON reply.
struct Whole {
    scanner: Scanner,
    /// The name to restore, as a literal.
    name: Vec<u8>,
    /// Inside a value that was replaced.
    swallows: bool,
    /// The document is over or broken: the rest passes.
    passes: bool,
    /// Reads the usage by the same scanner.
    tap: Option<Tap>,
    model: &'static [Step],
}

/// Paths of a whole reply that name its model: those behind are the tap's.
const MODELS: usize = 2;

impl Whole {
    fn new(model: &'static [Step], name: &str) -> Whole {
        let watch = Watch::of(&[model]).in_array(1, model);
        let (scanner, name) = (Scanner::new(watch).behind_mark(), literal(name));
        Whole { scanner, name, swallows: false, passes: false, tap: None, model }
    }

    fn read_usage(&mut self, endpoint: &Endpoint) {
        let tap = Tap::beside(endpoint);
        let watch = Watch::of(&[self.model]).in_array(1, self.model);
        let paths = tap.paths().enumerate();
        let watch = paths.fold(watch, |watch, (at, path)| watch.with(MODELS + at, path));
        self.scanner = Scanner::new(watch).behind_mark();
        self.tap = Some(tap);
    }

    fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) {
        if self.passes {
            out.extend_from_slice(input);
            return;
        }
        let base = self.scanner.offset();
        let (name, swallows, tap) = (&self.name, &mut self.swallows, &mut self.tap);
        // Invariant: `input[..kept]` was dealt with.
        let mut kept = 0;
        let result = self.scanner.feed(input, &mut |event| match event {
            _ if let Some(event) = event.from(MODELS) => {
                if let Some(tap) = tap {
                    tap.note(event, input, base);
                }
            }
            Event::Begins { kind: Kind::String, at, .. } => {
                let at = (at - base) as usize;
                out.extend_from_slice(&input[kept..at]);
                out.extend_from_slice(name);
                kept = at;
                *swallows = true;
            }
            Event::Ends { end, .. } if *swallows => {
                kept = (end - base) as usize;
                *swallows = false;
            }
            _ => {}
        });
        if let Some(tap) = &mut self.tap {
            tap.piece_ends(input);
        }
        if result.is_err() {
            self.passes = true;
            if self.swallows {
                kept = (self.scanner.offset() - base) as usize;
                self.swallows = false;
            }
        }
        if !self.swallows {
            out.extend_from_slice(&input[kept..]);
        }
    }
}

/// An SSE reply.
struct Stream {
    splitter: Splitter,
    /// The current piece as far as it came in earlier feeds.
    held: Vec<u8>,
    event_bytes_max: usize,
    /// A piece was too long.
    failed: bool,
    /// `None`: nothing has to change.
    editor: Option<Editor>,
    tap: Option<Box<Tap>>,
    terminal: Terminal,
}

impl Stream {
    fn new(endpoint: &'static Endpoint, change: Change, event_bytes_max: usize) -> Stream {
        Stream {
            splitter: Splitter::new(),
            held: Vec::new(),
            event_bytes_max,
            failed: false,
            editor: Editor::new(endpoint.event_model, change),
            tap: None,
            terminal: Terminal::of(endpoint),
        }
    }

    fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), StreamError> {
        if self.failed {
            return Err(StreamError::EventTooLong);
        }
        let mut rest = input;
        while let Some(length) = self.splitter.feed(rest) {
            let (piece, tail) = rest.split_at(length);
            self.check_room(piece.len())?;
            if self.held.is_empty() {
                self.terminal.piece(piece);
                pass(&mut self.tap, &mut self.editor, piece, out);
            } else {
                self.hold(piece);
                self.release(out);
            }
            rest = tail;
        }
        self.check_room(rest.len())?;
        self.hold(rest);
        Ok(())
    }

    fn check_room(&mut self, bytes: usize) -> Result<(), StreamError> {
        if bytes > self.event_bytes_max - self.held.len() {
            self.fail();
            return Err(StreamError::EventTooLong);
        }
        Ok(())
    }

    fn fail(&mut self) {
        self.failed = true;
        self.held = Vec::new();
    }

    /// Holds more of a piece. Of one that is long, room for an eighth more is taken and not for as
    /// much again: what is taken counts.
    fn hold(&mut self, bytes: &[u8]) {
        let length = self.held.len() + bytes.len();
        if length > self.held.capacity() && length > EVENT_KEPT_BYTES_MAX {
            self.held.reserve_exact(bytes.len() + length / 8);
        }
        self.held.extend_from_slice(bytes);
    }

    /// Hands out what is held, as one piece.
    fn release(&mut self, out: &mut Vec<u8>) {
        if self.held.len() > EVENT_KEPT_BYTES_MAX {
            // With room for what follows at once, which would double it otherwise.
            out.reserve_exact(self.held.len() + 2 * EVENT_KEPT_BYTES_MAX);
        }
        self.terminal.piece(&self.held);
        pass(&mut self.tap, &mut self.editor, &self.held, out);
        self.held.clear();
        if self.held.capacity() > EVENT_KEPT_BYTES_MAX {
            self.held = Vec::new();
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        if !self.held.is_empty() {
            self.release(out);
        }
    }
}

/// Hands out one piece.
fn pass(tap: &mut Option<Box<Tap>>, editor: &mut Option<Editor>, piece: &[u8], out: &mut Vec<u8>) {
    if let Some(tap) = tap {
        tap.piece(piece);
    }
    match editor {
        None => out.extend_from_slice(piece),
        Some(editor) => editor.pass(piece, out),
    }
}

const USAGE: usize = 0;
const CHOICES: usize = 1;
const CHOICE: usize = 2;
/// Last, since not every endpoint has it.
const MODEL: usize = 3;

const USAGE_PATH: &[Step] = &[Step::Key("usage")];
const CHOICES_PATH: &[Step] = &[Step::Key("choices")];
const CHOICE_PATH: &[Step] = &[Step::Key("choices"), Step::Each];

/// What stands in the place of a model's name.
enum Name {
    /// This literal.
    Restored(Vec<u8>),
    /// What was there, with its provider in front.
    Fronted(Front),
}

/// Changes single pieces of a stream.
struct Editor {
    scanner: Scanner,
    name: Name,
    hide_usage: bool,
    /// No piece came yet, so that a byte order mark may.
    first: bool,
    /// Reused from piece to piece.
    edits: Vec<Edit>,
}

/// A span of a piece that is left out; the model's name may stand in its place.
#[derive(Clone, Debug)]
struct Edit {
    span: Range<usize>,
    is_model: bool,
}

/// What the data of one piece turned out to hold.
#[derive(Default)]
struct Findings {
    model_at: Option<usize>,
    usage: Option<Kind>,
    /// The comma or bracket before `usage`.
    usage_after: usize,
    usage_repeats: bool,
    /// Where `"usage":null` ends.
    null_ends: Option<usize>,
    has_choices: bool,
    has_choice: bool,
}

impl Editor {
    fn new(event_model: &'static [Step], change: Change) -> Option<Editor> {
        let name = match (change.model, change.front) {
            _ if event_model.is_empty() => None,
            (Some(name), _) => Some(Name::Restored(literal(&name))),
            (None, front) => front.map(Name::Fronted),
        };
        if name.is_none() && !change.hide_usage {
            return None;
        }
        let paths = [USAGE_PATH, CHOICES_PATH, CHOICE_PATH, event_model];
        let watched = if name.is_some() { paths.len() } else { MODEL };
        Some(Editor {
            scanner: Scanner::new(Watch::of(&paths[..watched])),
            name: name.unwrap_or(Name::Restored(Vec::new())),
            hide_usage: change.hide_usage,
            first: true,
            edits: Vec::new(),
        })
    }

    /// Appends the piece to `out`, changed where it must be, or drops it.
    fn pass(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let first = std::mem::replace(&mut self.first, false);
        let lead = if first && piece.starts_with(sse::BOM) { sse::BOM.len() } else { 0 };
        if self.find(piece, lead) {
            return;
        }
        let mut kept = 0;
        for edit in self.edits.drain(..) {
            out.extend_from_slice(&piece[kept..edit.span.start]);
            match &self.name {
                _ if !edit.is_model => {}
                Name::Restored(literal) => out.extend_from_slice(literal),
                Name::Fronted(front) => front.write(&piece[edit.span.clone()], out),
            }
            kept = edit.span.end;
        }
        out.extend_from_slice(&piece[kept..]);
    }

    /// Collects the edits of one piece, in order; true when the piece is to be dropped whole.
    fn find(&mut self, piece: &[u8], lead: usize) -> bool {
        self.edits.clear();
        let mut findings = Findings::default();
        let edits = &mut self.edits;
        let hide_usage = self.hide_usage;
        let mut on = |event| findings.note(event, piece, hide_usage, edits);
        if !read(&mut self.scanner, piece, lead, &mut on) || !hide_usage {
            return false;
        }
        if findings.has_choices && !findings.has_choice && findings.usage == Some(Kind::Object) {
            return true;
        }
        if let Some(end) = findings.null_ends.filter(|_| !findings.usage_repeats)
            && let Some(span) = member_span(piece, findings.usage_after, end)
        {
            let index = edits.partition_point(|edit| edit.span.start < span.start);
            edits.insert(index, Edit { span, is_model: false });
        }
        false
    }
}

impl Findings {
    fn note(&mut self, event: Event, piece: &[u8], hide_usage: bool, edits: &mut Vec<Edit>) {
        match event {
            Event::Begins { path: MODEL, kind, at, .. } => {
                self.model_at = (kind == Kind::String).then_some(at as usize);
            }
            Event::Ends { path: MODEL, end } => {
                if let Some(at) = self.model_at.take() {
                    let span = at..end as usize;
                    // A literal over two data lines is no JSON, and its line border must stay.
                    if is_one_line(&piece[span.clone()]) {
                        edits.push(Edit { span, is_model: true });
                    }
                }
            }
            _ if !hide_usage => {}
            Event::Begins { path: USAGE, kind, after, .. } => {
                self.usage = Some(kind);
                self.usage_after = after as usize;
            }
            Event::Ends { path: USAGE, end } if self.usage == Some(Kind::Null) => {
                self.null_ends = Some(end as usize);
            }
            Event::Repeats { path: USAGE } => self.usage_repeats = true,
            Event::Begins { path: CHOICES, kind, .. } => self.has_choices = kind == Kind::Array,
            Event::Begins { path: CHOICE, .. } => self.has_choice = true,
            _ => {}
        }
    }
}

/// Feeds the data of a piece to the scanner, such that its offsets are those of the piece. True
/// when the data is one complete document.
fn read(scanner: &mut Scanner, piece: &[u8], lead: usize, on: &mut impl FnMut(Event)) -> bool {
    scanner.reset();
    scanner.skip(lead as u64);
    let mut line_before = false;
    for value in sse::data_lines(&piece[lead..]) {
        // The line end is one byte at least, so that counting stays behind `value.start`.
        if line_before && scanner.feed(b"\n", on).is_err() {
            return false;
        }
        line_before = true;
        let value = lead + value.start..lead + value.end;
        scanner.skip(value.start as u64 - scanner.offset());
        if scanner.feed(&piece[value], on).is_err() {
            return false;
        }
    }
    line_before && scanner.finish(on).is_ok()
}

/// The member that stands behind the comma or bracket at `after` and whose value ends at `end`,
/// together with one comma. `None` when it runs over two lines.
fn member_span(piece: &[u8], after: usize, end: usize) -> Option<Range<usize>> {
    let span = if piece[after] == b',' {
        after..end
    } else {
        let rest = &piece[end..];
        let spaces = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        match rest.get(spaces)? {
            b',' => after + 1..end + spaces + 1,
            b'}' => after + 1..end,
            _ => return None,
        }
    };
    is_one_line(&piece[span.clone()]).then_some(span)
}

fn is_one_line(bytes: &[u8]) -> bool {
    memchr::memchr2(b'\n', b'\r', bytes).is_none()
}

fn literal(name: &str) -> Vec<u8> {
    let mut literal = Vec::new();
    json::escape(name, &mut literal);
    literal
}
