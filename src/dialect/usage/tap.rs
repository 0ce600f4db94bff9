//! Reads usage from a reply while it passes, whole or as a stream.
//!
//! Only the spans of the values that count are copied, so a reply of any size costs nothing. Most
//! events of a stream hold no usage; they are told from the others by a search for the name.

use super::{Node, Told};
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
const TIERS: [Path; 2] = [&[key("service_tier")], &[key("response"), key("service_tier")]];
const OPENAI: [Path; 5] = [
    &[key("usage")],
    &[key("x_groq"), key("usage")],
    &[key("response"), key("usage")],
    TIERS[0],
    TIERS[1],
];
const ANTHROPIC: [Path; 2] = [&[key("usage")], &[key("message"), key("usage")]];
const GEMINI: [Path; 2] = [&[key("usageMetadata")], &[Step::Each, key("usageMetadata")]];

/// What stands in front of generated text, by dialect: for the estimate of a stream that breaks off
/// before it told its usage.
const OPENAI_TEXT: &[&[u8]] =
    &[b"\"content\":\"", b"\"arguments\":\"", b"\"delta\":\"", b"\"text\":\""];
const ANTHROPIC_TEXT: &[&[u8]] = &[b"\"text\":\"", b"\"partial_json\":\"", b"\"thinking\":\""];
const GEMINI_TEXT: &[&[u8]] = &[b"\"text\": \"", b"\"text\":\""];

/// Watches one reply go by.
pub struct Tap {
    dialect: Dialect,
    scanner: Scanner,
    /// The value that is being read: its path, and its bytes of earlier feeds.
    open: Option<(usize, Vec<u8>)>,
    /// The document is broken or over.
    done: bool,
    told: Told,
    text_bytes: u64,
    /// Kept for a stream that may have to be ended early.
    memory: Option<Box<Memory>>,
}

impl Tap {
    /// A tap on a reply of this endpoint.
    pub fn new(endpoint: &Endpoint) -> Tap {
        let scanner = Scanner::new(Watch::of(paths(endpoint.dialect)));
        Tap {
            dialect: endpoint.dialect,
            scanner,
            open: None,
            done: false,
            told: Told::default(),
            text_bytes: 0,
            memory: None,
        }
    }

    /// Remembers what an early end of the stream would have to repeat.
    pub fn remember(&mut self) {
        self.memory = Some(Box::default());
    }

    /// What was remembered, if it was asked for.
    pub fn memory(&self) -> Option<&Memory> {
        self.memory.as_deref()
    }

    /// What was told so far.
    pub fn told(&self) -> Told {
        self.told
    }

    /// Bytes of generated text that went by in a stream, as they were written in JSON.
    pub fn text_bytes(&self) -> u64 {
        self.text_bytes
    }

    /// Reads on in a JSON reply.
    pub fn feed(&mut self, input: &[u8]) {
        if self.done {
            return;
        }
        let base = self.scanner.offset();
        let (dialect, open, told) = (self.dialect, &mut self.open, &mut self.told);
        let mut from = 0;
        let result = self.scanner.feed(input, &mut |event| match event {
            Event::Begins { path, kind: Kind::Object | Kind::String, at, .. } => {
                *open = Some((path, Vec::new()));
                from = (at - base) as usize;
            }
            Event::Ends { path, end } => {
                let end = (end - base) as usize;
                if let Some((_, mut value)) = open.take_if(|(opened, _)| *opened == path) {
                    take(&mut value, &input[from..end]);
                    note(dialect, path, &value, told);
                }
            }
            _ => {}
        });
        self.done = result.is_err();
        if let Some((_, value)) = open {
            take(value, &input[from..]);
        }
    }

    /// Reads one whole piece of a stream.
    pub fn piece(&mut self, piece: &[u8]) {
        self.text_bytes += text_bytes(self.dialect, piece);
        if let Some(memory) = &mut self.memory {
            memory.piece(self.dialect, piece);
        }
        let name: &[u8] = match self.dialect {
            Dialect::Gemini => b"\"usageMetadata\"",
            _ => b"\"usage\"",
        };
        let has_tier = self.dialect != Dialect::Gemini
            && memchr::memmem::find(piece, b"\"service_tier\"").is_some();
        if !has_tier && memchr::memmem::find(piece, name).is_none() {
            return;
        }
        self.scanner.reset();
        self.done = false;
        self.open = None;
        let lead = if piece.starts_with(sse::BOM) { sse::BOM.len() } else { 0 };
        for value in sse::data_lines(&piece[lead..]) {
            self.feed(&piece[lead + value.start..lead + value.end]);
            self.feed(b"\n");
        }
    }
}

fn paths(dialect: Dialect) -> &'static [Path] {
    match dialect {
        Dialect::Anthropic => &ANTHROPIC,
        Dialect::Gemini => &GEMINI,
        Dialect::OpenaiChat | Dialect::OpenaiResponses | Dialect::OpenaiEmbeddings => &OPENAI,
    }
}

fn take(value: &mut Vec<u8>, bytes: &[u8]) {
    let room = (VALUE_BYTES_MAX + 1).saturating_sub(value.len());
    value.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

fn note(dialect: Dialect, path: usize, value: &[u8], told: &mut Told) {
    if value.len() > VALUE_BYTES_MAX {
        return;
    }
    let Ok(value) = serde_json::from_slice::<Node<'_>>(value) else { return };
    if TIERS.contains(&paths(dialect)[path]) {
        told.served(value.as_str().unwrap_or_default());
    } else {
        told.add(dialect, &value);
        // What a message begins with is a placeholder; the top level has the last word.
        told.output |= dialect == Dialect::Anthropic && path == 0;
    }
}

/// Bytes of the strings that hold generated text. A search, not a reading: it serves an estimate.
fn text_bytes(dialect: Dialect, piece: &[u8]) -> u64 {
    let marks = match dialect {
        Dialect::Anthropic => ANTHROPIC_TEXT,
        Dialect::Gemini => GEMINI_TEXT,
        Dialect::OpenaiChat | Dialect::OpenaiResponses | Dialect::OpenaiEmbeddings => OPENAI_TEXT,
    };
    let mut bytes = 0;
    for mark in marks {
        let mut rest = piece;
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
    }
    bytes
}
