//! The built-in channel: an upstream that needs no account and no network.
//!
//! It answers every endpoint in its vendor's shape, whole and streamed, with usage: for the first
//! minutes with the program, as the null upstream of benchmarks, and as a fixture. The answer
//! depends on the request and the settings alone, so the same request gives the same bytes.

mod anthropic;
mod gemini;
mod live;
mod media;
mod openai;
mod read;

use super::Dialect;
use super::endpoint::{Endpoint, ModelPlace};
use super::refusal::{Code, Refusal};
use crate::limits::EVENT_BYTES_MAX;
use crate::wire::json::escape;
pub use live::Session;
use read::Reading;

/// Settings of a provider on the channel `echo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EchoSettings {
    /// Pause before the reply's head.
    pub delay_ms: u64,
    /// Pause before each streamed event.
    pub event_delay_ms: u64,
    /// Size of the reply's text; absent: the last user text is echoed.
    pub reply_bytes: Option<usize>,
    /// Pieces of text in a stream.
    pub events: usize,
}

impl Default for EchoSettings {
    fn default() -> EchoSettings {
        EchoSettings { delay_ms: 0, event_delay_ms: 0, reply_bytes: None, events: 4 }
    }
}

/// A reply as its vendor would send it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EchoReply {
    /// The HTTP status.
    pub status: u16,
    /// The `content-type`.
    pub content_type: &'static str,
    /// The body: one piece, or one for each event of a stream.
    pub pieces: Vec<Vec<u8>>,
}

const EVENTS: &str = "text/event-stream; charset=utf-8";

/// Said where the request has no text to echo.
const NO_TEXT: &str = "Hello from the built-in channel of this gateway.";
/// What a text of a wanted size is made of; ASCII.
const FILLER: &str = "The quick brown fox jumps over the lazy dog. ";
/// A longer text is echoed in part.
const ECHO_BYTES_MAX: usize = 64 * 1024;
/// A reply says when it was made; this one is always made in November 2023.
const CREATED_S: u64 = 1_700_000_000;
/// Pieces of one stream.
const EVENTS_MAX: usize = 100_000;

/// Answers a request, but for those that count tokens. `model` is the name that the upstream was
/// asked for; `wants_usage` is the option that OpenAI's chat streams have for it; `alt_sse` is
/// Gemini's choice of stream.
pub fn answer(
    endpoint: &Endpoint,
    model: &str,
    body: &[u8],
    stream: bool,
    alt_sse: bool,
    wants_usage: bool,
    settings: &EchoSettings,
) -> EchoReply {
    if matches!(endpoint.model, ModelPlace::Nowhere | ModelPlace::Resource) {
        return media::not_kept(endpoint);
    }
    let reply = Reply::new(endpoint, model, body, settings);
    match (endpoint.dialect, endpoint.tail) {
        (_, "moderations") => reply.moderation(),
        (_, "images/generations" | "images/edits" | "images/variations") => reply.image(),
        (_, "audio/speech") => reply.speech(),
        (_, "audio/transcriptions" | "audio/translations") => reply.transcript(),
        (_, "predict") => reply.predicted(false),
        (_, "predictLongRunning" | "batchGenerateContent" | "asyncBatchEmbedContent") => {
            reply.predicted(true)
        }
        (Dialect::OpenaiChat, "completions") => reply.completion(stream, wants_usage),
        (Dialect::OpenaiChat, _) => reply.chat(stream, wants_usage),
        (Dialect::OpenaiResponses, "responses/compact") => reply.response(false),
        (Dialect::OpenaiResponses, _) => reply.response(stream),
        (Dialect::OpenaiEmbeddings, _) => reply.embeddings(),
        (Dialect::Anthropic, _) => reply.message(stream),
        (Dialect::Gemini, "streamGenerateContent") => reply.generated_stream(alt_sse),
        (Dialect::Gemini, "embedContent") => reply.embedded(),
        (Dialect::Gemini, "batchEmbedContents") => reply.batch_embedded(),
        (Dialect::Gemini, _) => reply.generated(),
    }
}

/// What every shape is filled with.
struct Reply {
    /// Sixteen hexadecimal digits.
    id: String,
    /// The model as a JSON literal.
    model: String,
    text: String,
    /// Pieces of text in a stream.
    events: usize,
    tokens_in: usize,
    tokens_out: usize,
    reading: Reading,
    seed: u64,
}

impl Reply {
    fn new(endpoint: &Endpoint, model: &str, body: &[u8], settings: &EchoSettings) -> Reply {
        let mut reading = read::read(endpoint, body);
        let text = reading.text.take();
        Reply::saying(model, body, text, reading, settings)
    }

    /// A reply that echoes this text, if the settings want none of another size.
    fn saying(
        model: &str,
        body: &[u8],
        text: Option<String>,
        reading: Reading,
        settings: &EchoSettings,
    ) -> Reply {
        let text = match (settings.reply_bytes, text) {
            (Some(size), _) => filler(size.min(EVENT_BYTES_MAX)),
            (None, Some(mut text)) => {
                text.truncate(text.floor_char_boundary(ECHO_BYTES_MAX));
                text
            }
            (None, None) => NO_TEXT.to_owned(),
        };
        let seed = seed(model, body);
        Reply {
            id: format!("{seed:016x}"),
            model: literal(model),
            events: settings.events.clamp(1, EVENTS_MAX),
            tokens_in: tokens(body.len()),
            tokens_out: tokens(text.len()),
            text,
            reading,
            seed,
        }
    }

    /// The text in pieces as JSON literals: at least one, none empty unless the text is, together
    /// the text.
    fn pieces(&self) -> Vec<String> {
        let size = self.text.len().div_ceil(self.events).max(1);
        let mut pieces = Vec::new();
        let mut rest = self.text.as_str();
        loop {
            let (piece, after) = rest.split_at(rest.ceil_char_boundary(size.min(rest.len())));
            pieces.push(literal(piece));
            rest = after;
            if rest.is_empty() {
                return pieces;
            }
        }
    }

    /// One embedding of as many numbers as were asked for, in bounds for all of them together.
    fn vector(&self, index: usize) -> Vec<f32> {
        let length_max = (read::VALUES_MAX / self.reading.inputs).max(1);
        let length = self.reading.dimensions.clamp(1, length_max);
        let mut state = self.seed ^ index as u64;
        let value = |_| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            // 24 bits fit an f32 whole.
            (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        };
        (0..length).map(value).collect()
    }

    /// All embeddings, each written by `write`, with commas between them.
    fn vectors(&self, write: impl Fn(&[f32]) -> String) -> String {
        let written: Vec<String> =
            (0..self.reading.inputs).map(|index| write(&self.vector(index))).collect();
        written.join(",")
    }
}

/// An estimate is all that a channel without a tokenizer can give; never zero.
fn tokens(bytes: usize) -> usize {
    bytes.div_ceil(4).max(1)
}

fn filler(size: usize) -> String {
    let mut text = FILLER.repeat(size.div_ceil(FILLER.len()));
    text.truncate(size);
    text
}

/// FNV-1a over the model and what tells requests apart cheaply, however large they are.
fn seed(model: &str, body: &[u8]) -> u64 {
    const NEAR: usize = 256;
    let near = &body[..body.len().min(NEAR)];
    let far = &body[body.len().saturating_sub(NEAR)..];
    let length = body.len().to_le_bytes();
    let bytes = [model.as_bytes(), near, far, &length].concat();
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// `text` as a JSON literal, quotes included.
fn literal(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    escape(text, &mut out);
    String::from_utf8(out).expect("an escaped text is text")
}

/// Numbers with commas between them.
fn listed(values: &[f32]) -> String {
    let written: Vec<String> = values.iter().map(f32::to_string).collect();
    written.join(",")
}

fn whole(content_type: &'static str, body: String) -> EchoReply {
    EchoReply { status: 200, content_type, pieces: vec![body.into_bytes()] }
}

/// A whole reply as OpenAI and Anthropic have it.
fn compact(json: &str) -> EchoReply {
    whole("application/json", joined(json))
}

fn streamed(content_type: &'static str, pieces: Vec<String>) -> EchoReply {
    let pieces = pieces.into_iter().map(String::into_bytes).collect();
    EchoReply { status: 200, content_type, pieces }
}

/// A shape that is printed over several lines here, as one line. No line feed of a text is lost,
/// since there they are escaped.
fn joined(shape: &str) -> String {
    shape.lines().map(str::trim_start).collect()
}

/// An event with nothing but data.
fn data(json: &str) -> String {
    format!("data: {}\n\n", joined(json))
}

/// An event whose name is its data's `type`.
fn named(name: &str, json: &str) -> String {
    format!("event: {name}\ndata: {}\n\n", joined(json))
}

#[cfg(test)]
mod tests;
