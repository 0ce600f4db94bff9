//! Ends a stream as its vendor ends one that has become long enough.
//!
//! For a stream that may cost no more: its client sees the end that it knows from a reached
//! `max_tokens`. What such an end has to repeat (ids, the model, the open block) is remembered
//! while the stream passes. Surprising: the last event of the Responses API, which holds the whole
//! answer elsewhere, holds none of the text here, since no stream is kept.

#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

use super::Dialect;
use super::endpoint::Endpoint;
use super::usage::Usage;
use crate::wire::json::{Event, Scanner, Step, Watch};
use crate::wire::sse;

/// A first event up to this size is remembered; of a longer one, nothing.
const FIRST_BYTES_MAX: usize = 256 * 1024;
/// Choices of one chat that are ended.
const CHOICES_MAX: u64 = 128;
/// Where a chunk says which choice it is about, and which candidate at Gemini's.
const CHOICE_INDEX: &[Step] = &[Step::Key("choices"), Step::Each, Step::Key("index")];
const CANDIDATE_INDEX: &[Step] = &[Step::Key("candidates"), Step::Each, Step::Key("index")];

/// What the end of a stream has to repeat. Has no `Debug`: it holds parts of a prompt.
#[derive(Default)]
pub struct Memory {
    first: Vec<u8>,
    /// The block of an Anthropic message that is open.
    block: Option<u64>,
    /// The last event's number in the Responses API.
    sequence: u64,
    /// The last of a chat's choices, or of Gemini's candidates.
    choice: u64,
}

/// Whether streams of this endpoint have such an end.
pub fn has_one(endpoint: &Endpoint) -> bool {
    ["chat/completions", "completions", "responses", "messages", "streamGenerateContent"]
        .contains(&endpoint.tail)
}

impl Memory {
    /// Takes note of one whole piece of a stream.
    pub fn piece(&mut self, dialect: Dialect, piece: &[u8]) {
        if self.first.is_empty() {
            let data = data_of(piece);
            if data.starts_with(b"{") && data.len() <= FIRST_BYTES_MAX {
                self.first = data;
            }
        }
        match dialect {
            Dialect::Anthropic => {
                // In a text these names stand with escaped quotes.
                if has(piece, b"\"content_block_start\"") {
                    self.block = number_after(piece, b"\"index\":");
                } else if has(piece, b"\"content_block_stop\"") {
                    self.block = None;
                }
            }
            Dialect::OpenaiResponses => {
                let number = number_after(piece, b"\"sequence_number\":");
                self.sequence = number.unwrap_or(self.sequence);
            }
            Dialect::OpenaiChat => self.choices(piece, CHOICE_INDEX),
            Dialect::Gemini => self.choices(piece, CANDIDATE_INDEX),
            Dialect::OpenaiEmbeddings => {}
        }
    }

    /// Takes note of the choices of a chunk. Where their numbers stand differs: a chat's come
    /// first, those of a legacy completion behind its text, and calls of tools have numbers too. So
    /// a chunk is read where one of its numbers is new.
    fn choices(&mut self, piece: &[u8], index: &'static [Step]) {
        let is_new = |number| number > self.choice;
        if self.choice == CHOICES_MAX - 1 || !numbers(piece, b"\"index\"").any(is_new) {
            return;
        }
        let data = data_of(piece);
        let mut begun = 0;
        let _ = Scanner::new(Watch::of(&[index])).feed(&data, &mut |event| match event {
            Event::Begins { at, .. } => begun = at as usize,
            Event::Ends { end, .. } => {
                let number = whole_number(&data[begun..end as usize]).unwrap_or(0);
                self.choice = self.choice.max(number.min(CHOICES_MAX - 1));
            }
            Event::Repeats { .. } | Event::Misspelt { .. } => {}
        });
    }

    /// The events that end the stream. `model`: the name to show, where it is not the upstream's.
    /// `usage`: what was used, as far as can be told; `asked`: a chat's client wants it told.
    pub fn finish(
        &self,
        endpoint: &Endpoint,
        model: Option<&str>,
        usage: &Usage,
        asked: bool,
    ) -> Vec<u8> {
        let first = serde_json::from_slice(&self.first).unwrap_or_default();
        let mut out = Vec::with_capacity(1_024);
        match endpoint.dialect {
            Dialect::OpenaiChat | Dialect::OpenaiEmbeddings => {
                self.chat(endpoint, &first, model, usage, asked, &mut out);
            }
            Dialect::OpenaiResponses => self.responses(&first, model, usage, &mut out),
            Dialect::Anthropic => self.anthropic(usage, &mut out),
            Dialect::Gemini => self.gemini(&first, model, usage, &mut out),
        }
        out
    }

    fn chat(
        &self,
        endpoint: &Endpoint,
        first: &Map<String, Value>,
        model: Option<&str>,
        usage: &Usage,
        asked: bool,
        out: &mut Vec<u8>,
    ) {
        let is_chat = endpoint.tail == "chat/completions";
        let mut chunk = kept(first, &["id", "object", "created", "model", "system_fingerprint"]);
        name(&mut chunk, "model", model);
        if asked {
            chunk.insert("usage".into(), Value::Null);
        }
        for index in 0..=self.choice {
            let choice = match is_chat {
                true => json!({"index": index, "delta": {}, "finish_reason": "length"}),
                false => json!({"index": index, "text": "", "finish_reason": "length"}),
            };
            chunk.insert("choices".into(), json!([choice]));
            event(None, &chunk, b"\n\n", out);
        }
        if asked {
            chunk.insert("choices".into(), json!([]));
            chunk.insert("usage".into(), openai_usage(usage, "prompt_tokens", "completion_tokens"));
            event(None, &chunk, b"\n\n", out);
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }

    fn responses(
        &self,
        first: &Map<String, Value>,
        model: Option<&str>,
        usage: &Usage,
        out: &mut Vec<u8>,
    ) {
        let known = first.get("response").and_then(Value::as_object);
        let mut response = known.cloned().unwrap_or_default();
        response.insert("object".into(), json!("response"));
        response.insert("status".into(), json!("incomplete"));
        response.insert("incomplete_details".into(), json!({"reason": "max_output_tokens"}));
        response.insert("usage".into(), openai_usage(usage, "input_tokens", "output_tokens"));
        response.entry("output").or_insert_with(|| json!([]));
        name(&mut response, "model", model);
        let kind = "response.incomplete";
        let mut last = Map::new();
        last.insert("type".into(), json!(kind));
        last.insert("sequence_number".into(), json!(self.sequence + 1));
        last.insert("response".into(), Value::Object(response));
        event(Some(kind), &last, b"\n\n", out);
    }

    fn anthropic(&self, usage: &Usage, out: &mut Vec<u8>) {
        let mut tell = |kind: &str, mut fields: Map<String, Value>| {
            fields.insert("type".into(), json!(kind));
            event(Some(kind), &fields, b"\n\n", out);
        };
        if let Some(index) = self.block {
            tell("content_block_stop", [("index".to_owned(), json!(index))].into_iter().collect());
        }
        let delta = json!({"stop_reason": "max_tokens", "stop_sequence": null});
        let usage = json!({"output_tokens": usage.output_tokens});
        let fields = [("delta".to_owned(), delta), ("usage".to_owned(), usage)];
        tell("message_delta", fields.into_iter().collect());
        tell("message_stop", Map::new());
    }

    /// Only `data: ` and CRLF, as the upstream writes them.
    fn gemini(
        &self,
        first: &Map<String, Value>,
        model: Option<&str>,
        usage: &Usage,
        out: &mut Vec<u8>,
    ) {
        let mut last = kept(first, &["modelVersion", "responseId"]);
        name(&mut last, "modelVersion", model);
        let input = usage.input_tokens.saturating_add(usage.cache_read_input_tokens);
        let text = json!({"parts": [{"text": ""}], "role": "model"});
        let candidate =
            |index| json!({"content": text, "finishReason": "MAX_TOKENS", "index": index});
        last.insert("candidates".into(), (0..=self.choice).map(candidate).collect());
        last.insert(
            "usageMetadata".into(),
            json!({
                "promptTokenCount": input,
                "candidatesTokenCount": usage.output_tokens,
                "totalTokenCount": input.saturating_add(usage.output_tokens),
            }),
        );
        event(None, &last, b"\r\n\r\n", out);
    }
}

fn openai_usage(usage: &Usage, input: &str, output: &str) -> Value {
    let all = usage
        .input_tokens
        .saturating_add(usage.cache_read_input_tokens)
        .saturating_add(usage.cache_creation_input_tokens_5min);
    json!({
        input: all,
        output: usage.output_tokens,
        "total_tokens": all.saturating_add(usage.output_tokens),
    })
}

fn kept(first: &Map<String, Value>, names: &[&str]) -> Map<String, Value> {
    let kept =
        names.iter().filter_map(|name| Some(((*name).to_owned(), first.get(*name)?.clone())));
    kept.collect()
}

fn name(object: &mut Map<String, Value>, key: &str, model: Option<&str>) {
    if let Some(model) = model {
        object.insert(key.to_owned(), json!(model));
    }
}

fn event(kind: Option<&str>, data: &Map<String, Value>, end: &[u8], out: &mut Vec<u8>) {
    if let Some(kind) = kind {
        out.extend_from_slice(format!("event: {kind}\n").as_bytes());
    }
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(json!(data).to_string().as_bytes());
    out.extend_from_slice(end);
}

fn has(piece: &[u8], name: &[u8]) -> bool {
    memchr::memmem::find(piece, name).is_some()
}

/// The data of an event.
fn data_of(piece: &[u8]) -> Vec<u8> {
    let lead = if piece.starts_with(sse::BOM) { sse::BOM.len() } else { 0 };
    let lines = sse::data_lines(&piece[lead..]);
    let lines: Vec<&[u8]> = lines.map(|at| &piece[lead + at.start..lead + at.end]).collect();
    lines.join(&b'\n')
}

/// The whole number behind the first place of `name`.
fn number_after(piece: &[u8], name: &[u8]) -> Option<u64> {
    let at = memchr::memmem::find(piece, name)? + name.len();
    whole_number(piece[at..].trim_ascii_start())
}

/// The whole numbers of the members of that name.
fn numbers(piece: &[u8], name: &[u8]) -> impl Iterator<Item = u64> {
    memchr::memmem::find_iter(piece, name).filter_map(move |at| {
        let value = piece[at + name.len()..].trim_ascii_start().strip_prefix(b":")?;
        whole_number(value.trim_ascii_start())
    })
}

/// The whole number that a text begins with, as far as it matters.
fn whole_number(text: &[u8]) -> Option<u64> {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    std::str::from_utf8(&text[..end.min(18)]).ok()?.parse().ok()
}
