//! Reads usage from a reply while it passes, whole or as a stream.
//!
//! Only the spans of the values that count are copied, so a reply of any size costs nothing. Most
//! events of a stream hold no usage; they are told from the others by a search for the name.

use super::{Node, Told, count};
use crate::dialect::Dialect;
use crate::dialect::endpoint::Endpoint;
use crate::dialect::finish::Memory;
use crate::wire::json::{Event, Kind, Scanner, Step, Watch};
use crate::wire::sse;

/// A usage object or a tier that is longer is none of a vendor's.
const VALUE_BYTES_MAX: usize = 16 * 1024;

const fn key(name: &'static str) -> Step {
    Step::Key(name)
}

type Path = &'static [Step];

/// What a watched value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    /// Counts.
    Usage,
    /// Counts as a message begins with them.
    Begun,
    /// The name of the tier that served.
    Tier,
    /// The type of an item that was made: a tool's run, or something else.
    Item,
    /// What a tool did in its run.
    Action,
    /// The name of the model that served.
    Model,
    /// Tokens of one text of several.
    Tokens,
}

type Watched = &'static [(Holds, Path)];
const USAGE: (Holds, Path) = (Holds::Usage, &[key("usage")]);
const TIER: (Holds, Path) = (Holds::Tier, &[key("service_tier")]);
const MODEL: (Holds, Path) = (Holds::Model, &[key("model")]);
const CHAT: Watched = &[USAGE, TIER, MODEL, (Holds::Usage, &[key("x_groq"), key("usage")])];
const RESPONSES: Watched = &[
    USAGE,
    TIER,
    MODEL,
    (Holds::Model, &[key("response"), key("model")]),
    (Holds::Usage, &[key("response"), key("usage")]),
    (Holds::Tier, &[key("response"), key("service_tier")]),
    (Holds::Item, &[key("output"), Step::Each, key("type")]),
    (Holds::Action, &[key("output"), Step::Each, key("action"), key("type")]),
    (Holds::Item, &[key("response"), key("output"), Step::Each, key("type")]),
    (Holds::Action, &[key("response"), key("output"), Step::Each, key("action"), key("type")]),
    (Holds::Item, &[key("item"), key("type")]),
    (Holds::Action, &[key("item"), key("action"), key("type")]),
];
const ANTHROPIC: Watched = &[
    USAGE,
    MODEL,
    (Holds::Model, &[key("message"), key("model")]),
    (Holds::Begun, &[key("message"), key("usage")]),
];
/// Vertex tells of vectors text by text.
const TEXT_TOKENS: Path =
    &[key("predictions"), Step::Each, key("embeddings"), key("statistics"), key("token_count")];
const GEMINI: Watched = &[
    (Holds::Usage, &[key("usageMetadata")]),
    (Holds::Usage, &[Step::Each, key("usageMetadata")]),
    (Holds::Tokens, TEXT_TOKENS),
];

/// Items of the Responses API that are billed by the call, and those that are images.
const TOOLS: [&str; 2] = ["web_search_call", "file_search_call"];
const IMAGE_TOOL: &str = "image_generation_call";
/// What a search does besides searching, which is not billed.
const LOOKS: [&str; 3] = ["open_page", "find_in_page", "find"];
const ITEM_DONE: &[u8] = b"event: response.output_item.done";
/// Types of the events that end an image of a stream.
const IMAGE_DONE: [&[u8]; 2] = [b"\"image_generation.completed\"", b"\"image_edit.completed\""];

/// What stands in front of generated text, by dialect: for the estimate of a stream that breaks off
/// before it told its usage.
const OPENAI_TEXT: &[&[u8]] = &[b"\"content\":\"", b"\"arguments\":\"", b"\"refusal\":\""];
/// Thoughts, under the names that vendors have for them. Some say the same under several, so the
/// longest counts. A legacy call has its text there.
const THOUGHTS: &[&[u8]] = &[b"\"reasoning_content\":\"", b"\"reasoning\":\"", b"\"text\":\""];
/// What came in deltas is said again, whole, at the end of each part, of each item and of all.
const RESPONSES_TEXT: &[&[u8]] = &[b"\"delta\":\"", b"\"delta\": \""];
const ANTHROPIC_TEXT: &[&[u8]] = &[b"\"text\":\"", b"\"partial_json\":\"", b"\"thinking\":\""];
const GEMINI_TEXT: &[&[u8]] = &[b"\"text\": \"", b"\"text\":\""];

/// Watches one reply go by.
pub struct Tap {
    /// Its own, unless another scans the reply for it.
    scanner: Option<Scanner>,
    reader: Reader,
    text_bytes: u64,
    /// Kept for a stream that may have to be ended early.
    memory: Option<Box<Memory>>,
}

/// What takes the news of the watched paths.
struct Reader {
    dialect: Dialect,
    watched: Watched,
    /// The endpoint's path of images; it has the index behind all others. None, where it is empty.
    images: Path,
    /// The value that is being read: its path, and its bytes of earlier feeds.
    open: Option<(usize, Vec<u8>)>,
    /// Where it begins in this feed.
    from: usize,
    /// The document is broken or over.
    done: bool,
    told: Told,
    /// Who served is asked for.
    seeks: bool,
    model: Option<String>,
    /// What the document has of things that are counted, and what had been told before it.
    here: Things,
    before: Things,
    /// It tells of one that is done, and does not list all.
    adds: bool,
}

impl Tap {
    /// A tap on a reply of this endpoint.
    pub fn new(endpoint: &Endpoint) -> Tap {
        let mut tap = Tap::beside(endpoint);
        let paths = tap.paths().enumerate();
        let watch = paths.fold(Watch::of(&[]), |watch, (at, path)| watch.with(at, path));
        tap.scanner = Some(Scanner::new(watch).behind_mark());
        tap
    }

    /// The same for a reply that another scans, who watches [`Tap::paths`] too and brings the news
    /// of them.
    pub fn beside(endpoint: &Endpoint) -> Tap {
        let reader = Reader {
            dialect: endpoint.dialect,
            watched: watched(endpoint.dialect),
            images: endpoint.images,
            open: None,
            from: 0,
            done: false,
            told: Told::default(),
            seeks: false,
            model: None,
            here: Things::default(),
            before: Things::default(),
            adds: false,
        };
        Tap { scanner: None, reader, text_bytes: 0, memory: None }
    }

    /// The paths that matter, in the order of their indices.
    pub fn paths(&self) -> impl Iterator<Item = Path> + use<> {
        let images = Some(self.reader.images).filter(|path| !path.is_empty());
        self.reader.watched.iter().map(|(_, path)| *path).chain(images)
    }

    /// News of one of them. `base`: the offset of the first byte of `input`.
    pub fn note(&mut self, event: Event, input: &[u8], base: u64) {
        self.reader.note(event, input, base);
    }

    /// All of `input` was scanned, or what can be.
    pub fn piece_ends(&mut self, input: &[u8]) {
        self.reader.piece_ends(input);
    }

    /// Remembers what an early end of the stream would have to repeat.
    pub fn remember(&mut self) {
        self.memory = Some(Box::default());
    }

    /// What was remembered, if it was asked for.
    pub fn memory(&self) -> Option<&Memory> {
        self.memory.as_deref()
    }

    /// Asks for the model that served, too, where it could be one of several.
    pub fn seek_model(&mut self) {
        self.reader.seeks = true;
    }

    /// The model that served, as it was told last, if it was asked for.
    pub fn model(&self) -> Option<&str> {
        self.reader.model.as_deref()
    }

    /// What was told so far.
    pub fn told(&self) -> Told {
        self.reader.told
    }

    /// Bytes of generated text that went by in a stream, as they were written in JSON.
    pub fn text_bytes(&self) -> u64 {
        self.text_bytes
    }

    /// Reads on in a JSON reply.
    pub fn feed(&mut self, input: &[u8]) {
        let Some(scanner) = self.scanner.as_mut().filter(|_| !self.reader.done) else { return };
        let base = scanner.offset();
        let reader = &mut self.reader;
        let result = scanner.feed(input, &mut |event| reader.note(event, input, base));
        self.reader.piece_ends(input);
        self.reader.done = result.is_err();
    }

    /// Reads one whole piece of a stream.
    pub fn piece(&mut self, piece: &[u8]) {
        let dialect = self.reader.dialect;
        self.text_bytes += text_bytes(dialect, piece);
        if let Some(memory) = &mut self.memory {
            memory.piece(dialect, piece);
        }
        self.reader.count_images(piece);
        let name: &[u8] = match dialect {
            Dialect::Gemini => b"\"usageMetadata\"",
            _ => b"\"usage\"",
        };
        let has = |name: &[u8]| memchr::memmem::find(piece, name).is_some();
        let has_tier = dialect != Dialect::Gemini && has(b"\"service_tier\"");
        let has_model = self.reader.seeks && has(b"\"model\"");
        let adds = dialect == Dialect::OpenaiResponses && piece.starts_with(ITEM_DONE);
        if !adds && !has_tier && !has_model && !has(name) {
            return;
        }
        if let Some(scanner) = &mut self.scanner {
            scanner.reset();
        }
        self.reader.begin(adds);
        let lead = if piece.starts_with(sse::BOM) { sse::BOM.len() } else { 0 };
        for value in sse::data_lines(&piece[lead..]) {
            self.feed(&piece[lead + value.start..lead + value.end]);
            self.feed(b"\n");
        }
    }
}

impl Reader {
    /// Another document begins, behind those that were read.
    fn begin(&mut self, adds: bool) {
        self.adds = adds;
        (self.here, self.before) = (Things::default(), Things::of(&self.told));
        self.done = false;
        self.open = None;
    }

    fn note(&mut self, event: Event, input: &[u8], base: u64) {
        match event {
            Event::Begins { path, .. } if path == self.watched.len() => self.here.images += 1,
            Event::Begins {
                path, kind: Kind::Object | Kind::String | Kind::Number, at, ..
            } => {
                self.open = Some((path, Vec::new()));
                self.from = (at - base) as usize;
            }
            Event::Ends { path, end } => {
                let Some((_, mut value)) = self.open.take_if(|(opened, _)| *opened == path) else {
                    return;
                };
                let rest = &input[self.from..(end - base) as usize];
                // Most values come in one piece, and are read where they are.
                if value.is_empty() {
                    self.read(path, rest);
                } else {
                    take(&mut value, rest);
                    self.read(path, &value);
                }
            }
            _ => {}
        }
    }

    fn piece_ends(&mut self, input: &[u8]) {
        if let Some((_, value)) = &mut self.open {
            take(value, &input[self.from..]);
        }
        self.from = 0;
        self.count();
    }

    /// Reads a value.
    fn read(&mut self, path: usize, value: &[u8]) {
        if value.len() > VALUE_BYTES_MAX {
            return;
        }
        let Ok(value) = serde_json::from_slice::<Node<'_>>(value) else { return };
        let word = value.as_str().unwrap_or_default();
        let (holds, here, told) = (self.watched[path].0, &mut self.here, &mut self.told);
        match holds {
            Holds::Tier => told.served(word),
            Holds::Model if self.seeks => self.model = Some(word.to_owned()),
            Holds::Model => {}
            Holds::Tokens => here.tokens = here.tokens.saturating_add(count(&value)),
            Holds::Item => {
                here.calls += u64::from(TOOLS.contains(&word));
                here.images += u64::from(word == IMAGE_TOOL);
            }
            Holds::Action => here.looks += u64::from(LOOKS.contains(&word)),
            Holds::Usage | Holds::Begun => {
                told.add(self.dialect, &value);
                // What a message begins with is a placeholder; the top level has the last word.
                told.output |= self.dialect == Dialect::Anthropic && holds == Holds::Usage;
            }
        }
    }

    /// A document that lists all that was made replaces what was counted before.
    fn count(&mut self) {
        let Things { calls, looks, images, tokens } = self.here;
        let usage = &mut self.told.usage;
        let total =
            |before: u64, here: u64| if self.adds { before + here } else { before.max(here) };
        if calls > 0 {
            usage.tool_calls = total(self.before.calls, calls.saturating_sub(looks));
        }
        if tokens > 0 {
            usage.input_tokens = tokens;
            self.told.any = true;
        }
        if images > 0 {
            usage.images = total(self.before.images, images);
            // A vendor that bills by the image may tell nothing else.
            self.told.any |= !self.images.is_empty();
        }
    }

    /// Counts an image that an event says is done.
    fn count_images(&mut self, piece: &[u8]) {
        let holds = |text: &[u8]| memchr::memmem::find(piece, text).is_some();
        if !self.images.is_empty() && IMAGE_DONE.into_iter().any(holds) {
            self.told.usage.images += 1;
            self.told.any = true;
        }
    }
}

/// Things that are counted one by one.
#[derive(Clone, Copy, Debug, Default)]
struct Things {
    /// Runs of tools.
    calls: u64,
    /// Of which the vendor bills not.
    looks: u64,
    images: u64,
    tokens: u64,
}

impl Things {
    fn of(told: &Told) -> Things {
        Things { calls: told.usage.tool_calls, images: told.usage.images, ..Things::default() }
    }
}

fn watched(dialect: Dialect) -> Watched {
    match dialect {
        Dialect::Anthropic => ANTHROPIC,
        Dialect::Gemini => GEMINI,
        Dialect::OpenaiResponses => RESPONSES,
        Dialect::OpenaiChat | Dialect::OpenaiEmbeddings => CHAT,
    }
}

fn take(value: &mut Vec<u8>, bytes: &[u8]) {
    let room = (VALUE_BYTES_MAX + 1).saturating_sub(value.len());
    value.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

/// Bytes of the strings that hold generated text. A search, not a reading: it serves an estimate.
pub(in crate::dialect) fn text_bytes(dialect: Dialect, piece: &[u8]) -> u64 {
    let marks = match dialect {
        Dialect::Anthropic => ANTHROPIC_TEXT,
        Dialect::Gemini => GEMINI_TEXT,
        Dialect::OpenaiResponses => RESPONSES_TEXT,
        Dialect::OpenaiChat | Dialect::OpenaiEmbeddings => OPENAI_TEXT,
    };
    let bytes: u64 = marks.iter().map(|mark| marked_bytes(mark, piece)).sum();
    match dialect {
        Dialect::OpenaiChat | Dialect::OpenaiEmbeddings => {
            let thoughts = THOUGHTS.iter().map(|mark| marked_bytes(mark, piece)).max();
            bytes + thoughts.unwrap_or(0)
        }
        _ => bytes,
    }
}

/// Bytes of the strings behind this mark.
fn marked_bytes(mark: &[u8], piece: &[u8]) -> u64 {
    let (mut bytes, mut rest) = (0, piece);
    while let Some(at) = memchr::memmem::find(rest, mark) {
        rest = &rest[at + mark.len()..];
        let mut end = 0;
        while let Some(found) = memchr::memchr2(b'"', b'\\', &rest[end..]) {
            end += found;
            if rest[end] == b'"' {
                break;
            }
            end = (end + 2).min(rest.len());
        }
        bytes += end as u64;
        rest = &rest[end..];
    }
    bytes
}
