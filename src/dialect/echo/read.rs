//! What an echo wants to know of a request: the last words of its user, and what an embedding
//! should look like. Read with the push scanner, without a tree; a broken body gives what was read
//! before the break.

use crate::dialect::Dialect;
use crate::dialect::endpoint::{Endpoint, Step};
use crate::wire::json::{Event, Kind, Scanner, Watch, unescape};

/// Inputs of one embeddings call; OpenAI takes no more either.
const INPUTS_MAX: usize = 2_048;
/// Numbers of an embedding, where the request does not say.
const DIMENSIONS: usize = 8;
/// Numbers of all embeddings of one reply.
pub(super) const VALUES_MAX: usize = 65_536;

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// The last text of the user.
    pub(super) text: Option<String>,
    /// Texts to embed, `1..=INPUTS_MAX`.
    pub(super) inputs: usize,
    /// Numbers of an embedding, as wanted.
    pub(super) dimensions: usize,
    /// Embeddings are wanted packed.
    pub(super) base64: bool,
}

type Path = &'static [Step];

/// What each watched path means, by index.
const ITEM: usize = 0;
const ROLE: usize = 1;
const TEXT: usize = 2;
const PART: usize = 3;
const DIRECT: usize = 4;
const LISTED: usize = 5;
const DIMENSION: usize = 6;
const ENCODING: usize = 7;

const fn key(name: &'static str) -> Step {
    Step::Key(name)
}

/// The text of one part of a message.
const PART_TEXT: &[Path] = &[&[key("text")]];

/// A path that no request of the endpoint has.
const NOWHERE: Path = &[key("\n")];

const MESSAGES: [Path; 8] = [
    &[key("messages"), Step::Each],
    &[key("messages"), Step::Each, key("role")],
    &[key("messages"), Step::Each, key("content")],
    &[key("messages"), Step::Each, key("content"), Step::Each],
    NOWHERE,
    NOWHERE,
    NOWHERE,
    NOWHERE,
];

const INPUT: [Path; 8] = [
    &[key("input"), Step::Each],
    &[key("input"), Step::Each, key("role")],
    &[key("input"), Step::Each, key("content")],
    &[key("input"), Step::Each, key("content"), Step::Each],
    &[key("input")],
    NOWHERE,
    NOWHERE,
    NOWHERE,
];

const PROMPT: [Path; 8] = [
    NOWHERE,
    NOWHERE,
    NOWHERE,
    NOWHERE,
    &[key("prompt")],
    &[key("prompt"), Step::Each],
    NOWHERE,
    NOWHERE,
];

const CONTENTS: [Path; 8] = [
    &[key("contents"), Step::Each],
    &[key("contents"), Step::Each, key("role")],
    NOWHERE,
    &[key("contents"), Step::Each, key("parts"), Step::Each],
    NOWHERE,
    &[key("requests"), Step::Each],
    &[key("outputDimensionality")],
    NOWHERE,
];

const EMBEDDING: [Path; 8] = [
    NOWHERE,
    NOWHERE,
    NOWHERE,
    NOWHERE,
    &[key("input")],
    &[key("input"), Step::Each],
    &[key("dimensions")],
    &[key("encoding_format")],
];

fn paths(endpoint: &Endpoint) -> &'static [Path; 8] {
    match (endpoint.dialect, endpoint.tail) {
        (Dialect::OpenaiChat, "completions") => &PROMPT,
        (Dialect::OpenaiChat | Dialect::Anthropic, _) => &MESSAGES,
        (Dialect::OpenaiResponses, _) => &INPUT,
        (Dialect::OpenaiEmbeddings, _) => &EMBEDDING,
        (Dialect::Gemini, _) => &CONTENTS,
    }
}

/// First byte of a value and one past its last.
type Span = (usize, usize);

/// State while the scanner runs.
struct Reader<'b> {
    body: &'b [u8],
    /// First byte of the string that is read at each path.
    begins: [Option<usize>; 8],
    /// The role and last text of the message that is read.
    role: Option<Span>,
    candidate: Option<Span>,
    text: Option<Span>,
    listed: usize,
    dimensions: usize,
    base64: bool,
}

/// Reads a request.
pub(super) fn read(endpoint: &Endpoint, body: &[u8]) -> Reading {
    let mut reader = Reader {
        body,
        begins: [None; 8],
        role: None,
        candidate: None,
        text: None,
        listed: 0,
        dimensions: DIMENSIONS,
        base64: false,
    };
    // An error ends the reading where the body breaks; what was read until then counts.
    let _ = Scanner::new(Watch::of(paths(endpoint))).feed(body, &mut |event| reader.on(event));
    let (start, end) = reader.text.unwrap_or_default();
    Reading {
        text: unescape(&body[start..end]).filter(|text| !text.is_empty()),
        inputs: reader.listed.clamp(1, INPUTS_MAX),
        dimensions: reader.dimensions,
        base64: reader.base64,
    }
}

impl Reader<'_> {
    fn on(&mut self, event: Event) {
        match event {
            Event::Begins { path, kind, at, .. } => self.begin(path, kind, at as usize),
            Event::Ends { path: ITEM, .. } => self.item_ends(),
            Event::Ends { path, end } => {
                if let Some(start) = self.begins[path].take() {
                    self.value_ends(path, (start, end as usize));
                }
            }
            Event::Repeats { .. } | Event::Misspelt { .. } => {}
        }
    }

    fn begin(&mut self, path: usize, kind: Kind, at: usize) {
        if path == ITEM {
            (self.role, self.candidate) = (None, None);
        }
        // A list of numbers is one text in tokens.
        if path == LISTED && matches!(kind, Kind::String | Kind::Array | Kind::Object) {
            self.listed += 1;
        }
        let counts = match path {
            PART => kind == Kind::Object,
            DIMENSION => kind == Kind::Number,
            _ => kind == Kind::String,
        };
        self.begins[path] = counts.then_some(at);
    }

    fn value_ends(&mut self, path: usize, span: Span) {
        match path {
            ROLE => self.role = Some(span),
            TEXT => self.candidate = Some(span),
            PART => self.candidate = self.part_text(span).or(self.candidate),
            DIRECT | LISTED => self.text = Some(span),
            DIMENSION => {
                let digits = std::str::from_utf8(&self.body[span.0..span.1]).unwrap_or_default();
                self.dimensions = digits.parse().unwrap_or(DIMENSIONS);
            }
            ENCODING => self.base64 = &self.body[span.0..span.1] == b"\"base64\"",
            _ => {}
        }
    }

    /// Parts without a text are images, files and tool results.
    fn part_text(&self, (start, end): Span) -> Option<Span> {
        let mut begin = None;
        let mut text = None;
        let mut on = |event| match event {
            Event::Begins { kind, at, .. } => {
                begin = (kind == Kind::String).then_some(start + at as usize);
            }
            Event::Ends { end, .. } => text = begin.map(|begin| (begin, start + end as usize)),
            Event::Repeats { .. } | Event::Misspelt { .. } => {}
        };
        let _ = Scanner::new(Watch::of(PART_TEXT)).feed(&self.body[start..end], &mut on);
        text
    }

    /// A message without a role is the user's: so Gemini has it.
    fn item_ends(&mut self) {
        let is_user = self.role.is_none_or(|(start, end)| &self.body[start..end] == b"\"user\"");
        if is_user && self.candidate.is_some() {
            self.text = self.candidate;
        }
        (self.role, self.candidate) = (None, None);
    }
}
