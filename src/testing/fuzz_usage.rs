//! Laws of what is read of the tokens that a reply took, for any bytes.

use super::{naive, prng::Prng, splits};
use crate::dialect::Dialect;
use crate::dialect::endpoint::{ENDPOINTS, Endpoint};
use crate::dialect::rewrite::{Change, Rewriter};
use crate::dialect::usage::{Tap, Told, Usage};
use crate::wire::sse::BOM;
use serde_json::Value;

/// More than this no call can use, so it is no count.
const COUNT_MAX: u64 = 1 << 28;
/// A document that spells out longer could hold a value that is too long to be read.
const ORACLE_BYTES_MAX: usize = 8 * 1024;

/// What a reply says of its tokens does not depend on cuts, nor on who reads it; parts never exceed
/// their whole; and the sums are those of a tree. The first byte chooses the call and its form.
pub fn usage(data: &[u8]) {
    let Some((&choice, body)) = data.split_first() else { return };
    let endpoint = &ENDPOINTS[usize::from(choice >> 1) % ENDPOINTS.len()];
    if choice & 1 == 1 {
        streamed(endpoint, body);
    } else {
        whole(endpoint, body);
    }
}

fn whole(endpoint: &'static Endpoint, body: &[u8]) {
    let told = tapped(endpoint, &[body]);
    sound(&told.usage, body.len());
    assert_eq!(told, tapped(endpoint, &splits::bytewise(body)));
    let mut prng = Prng::new(body.len() as u64);
    assert_eq!(told, tapped(endpoint, &splits::at_random(body, &mut prng)));
    let renaming = Change { model: Some("another".to_owned()), ..Change::default() };
    for change in [Change::default(), renaming] {
        let rewriter = Rewriter::whole(endpoint, change).with_tap(endpoint);
        assert_eq!(told, read(rewriter, &splits::bytewise(body)).0);
    }
    let mut twice = told;
    twice.plus(&told);
    sound(&twice.usage, 2 * body.len());
    assert_eq!(twice.usage.tokens(), 2 * told.usage.tokens());

    // Spelt anew, no member stands there twice.
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return };
    let spelt = value.to_string();
    if spelt.len() <= ORACLE_BYTES_MAX {
        agrees(endpoint, &value, spelt.as_bytes());
    }
}

fn tapped(endpoint: &Endpoint, pieces: &[&[u8]]) -> Told {
    let mut tap = Tap::new(endpoint);
    pieces.iter().for_each(|piece| tap.feed(piece));
    tap.told()
}

/// What the tap of a rewriter was told, and the bytes of text that it counted.
fn read(mut rewriter: Rewriter, pieces: &[&[u8]]) -> (Told, u64) {
    let mut out = Vec::new();
    for piece in pieces {
        rewriter.feed(piece, &mut out).expect("no ceiling is reached");
    }
    rewriter.finish(&mut out);
    let tap = rewriter.tap().expect("it was made with one");
    (tap.told(), tap.text_bytes())
}

fn streamed(endpoint: &'static Endpoint, body: &[u8]) {
    let rewriter = || {
        let change = Change { hide_usage: true, ..Change::default() };
        Rewriter::stream(endpoint, change, usize::MAX).with_tap(endpoint)
    };
    let (told, text_bytes) = read(rewriter(), &[body]);
    sound(&told.usage, body.len());
    assert!(text_bytes <= 5 * body.len() as u64, "each of the names ends a text once at most");
    assert_eq!((told, text_bytes), read(rewriter(), &splits::bytewise(body)));

    // Whatever was told last counts, however often it is told.
    let events = naive::sse_events(body);
    let Some((_, data)) = events.last() else { return };
    let Ok(value) = serde_json::from_slice::<Value>(data) else { return };
    let spelt = value.to_string();
    if spelt.len() <= ORACLE_BYTES_MAX && places(endpoint, &value).len() == 1 {
        let event = format!("data: {spelt}\n\n");
        let once = read(rewriter(), &[event.as_bytes()]).0.usage;
        let often = read(rewriter(), &[event.repeat(3).as_bytes()]).0.usage;
        assert_eq!(uncounted(often), uncounted(once), "nothing is summed over events");
        assert_eq!(uncounted(once), uncounted(tapped(endpoint, &[spelt.as_bytes()]).usage));
    }
}

/// Without what is counted one by one.
fn uncounted(usage: Usage) -> Usage {
    Usage { tool_calls: 0, images: 0, ..usage }
}

/// Of which of what was made of `bytes` bytes: no part exceeds its whole, and none is absurd.
pub(super) fn sound(usage: &Usage, bytes: usize) {
    assert!(usage.reasoning_tokens <= usage.output_tokens, "{usage:?}");
    assert!(usage.input_audio_tokens + usage.input_image_tokens <= usage.input_tokens, "{usage:?}");
    assert!(
        usage.output_audio_tokens + usage.output_image_tokens <= usage.output_tokens,
        "{usage:?}"
    );
    // A count needs a digit, a comma and its name.
    let ceiling = COUNT_MAX * (2 + bytes as u64 / 4);
    assert!(usage.tokens() <= ceiling && usage.tool_calls <= ceiling, "{usage:?}");
    assert!(usage.images <= bytes as u64, "{usage:?}");
}

/// The usage objects of a document, wherever its vendor has one.
fn places<'v>(endpoint: &Endpoint, value: &'v Value) -> Vec<&'v Value> {
    let found: Vec<Option<&Value>> = match endpoint.dialect {
        Dialect::OpenaiChat | Dialect::OpenaiEmbeddings => {
            vec![value.get("usage"), value.pointer("/x_groq/usage")]
        }
        Dialect::OpenaiResponses => vec![value.get("usage"), value.pointer("/response/usage")],
        Dialect::Anthropic => vec![value.get("usage"), value.pointer("/message/usage")],
        Dialect::Gemini => {
            let in_list = value.as_array().into_iter().flatten();
            let in_list = in_list.map(|one| one.get("usageMetadata"));
            [value.get("usageMetadata")].into_iter().chain(in_list).collect()
        }
    };
    found.into_iter().flatten().filter(|value| value.is_object()).collect()
}

/// What went in and came out is what a tree says, and none of it was counted twice.
fn agrees(endpoint: &Endpoint, value: &Value, spelt: &[u8]) {
    let usage = tapped(endpoint, &[spelt]).usage;
    assert_eq!(tapped(endpoint, &[BOM, spelt]).usage, usage, "a mark hides nothing");
    match places(endpoint, value)[..] {
        [] => assert_eq!(uncounted(usage), Usage::default()),
        [one] => {
            let (sum_in, sum_out) = match endpoint.dialect {
                Dialect::Anthropic if one.get("iterations").is_some() => return,
                Dialect::Anthropic => anthropic(one),
                Dialect::Gemini => gemini(one),
                _ => openai(one),
            };
            assert_eq!(usage.tokens() - usage.output_tokens, sum_in, "{one}");
            assert_eq!(usage.output_tokens, sum_out, "{one}");
        }
        _ => {}
    }
}

/// A count: what is below zero, too large for any call, or no number, counts for nothing.
fn number(value: Option<&Value>) -> u64 {
    let number = match value {
        Some(Value::Number(number)) => number.as_f64().unwrap_or(0.0),
        _ => 0.0,
    };
    if (0.0..COUNT_MAX as f64 + 1.0).contains(&number) { number as u64 } else { 0 }
}

/// The first of these members that says something.
fn first<'v>(value: &'v Value, names: &[&str]) -> Option<&'v Value> {
    names.iter().filter_map(|name| value.get(name)).find(|found| !found.is_null())
}

fn openai(usage: &Value) -> (u64, u64) {
    let all_in = number(first(usage, &["prompt_tokens", "input_tokens"]));
    let all_out = number(first(usage, &["completion_tokens", "output_tokens"]));
    let details = ["completion_tokens_details", "output_tokens_details", "output_token_details"];
    let thoughts = first(usage, &details).and_then(|details| details.get("reasoning_tokens"));
    let thoughts = number(thoughts);
    let is_beside = number(usage.get("total_tokens")) == all_in + all_out + thoughts;
    (all_in, all_out + if is_beside { thoughts } else { 0 })
}

fn anthropic(usage: &Value) -> (u64, u64) {
    let split = usage.get("cache_creation").filter(|split| split.is_object());
    let part = |name| number(split.and_then(|split| split.get(name)));
    let parts = part("ephemeral_5m_input_tokens") + part("ephemeral_1h_input_tokens");
    let total = usage.get("cache_creation_input_tokens").filter(|total| !total.is_null());
    let written = total.map_or(parts, |total| number(Some(total)));
    let read = number(usage.get("cache_read_input_tokens"));
    (number(usage.get("input_tokens")) + read + written, number(usage.get("output_tokens")))
}

fn gemini(usage: &Value) -> (u64, u64) {
    let of = |name: &str| number(usage.get(name));
    let candidates = of("candidatesTokenCount").max(of("responseTokenCount"));
    (of("promptTokenCount") + of("toolUsePromptTokenCount"), candidates + of("thoughtsTokenCount"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::mutate;

    const SPICES: &[&[u8]] = &[
        b"\"usage\":",
        b"\"usageMetadata\":",
        b"\"prompt_tokens\":",
        b"\"input_tokens\":5,",
        b"\"output_tokens\":7,",
        b"\"cached_tokens\":",
        b"\"audio_tokens\":9,",
        b"\"image_tokens\":9,",
        b"\"reasoning_tokens\":40,",
        b"\"thinking_tokens\":40,",
        b"\"total_tokens\":",
        b"\"iterations\":[",
        b"\"cache_creation_input_tokens\":3,",
        b"\"tokenCount\":",
        b"{",
        b"}",
        b"null",
        b"-1",
        b"1e308",
        b"9223372036854775808",
        b"268435456.5",
        b"\"12\"",
        b"3.5",
        b",",
        b"\n\ndata: ",
        b"\xEF\xBB\xBF",
    ];

    /// A sample for each family: the number of its call in the table, a sign of its form, a body.
    fn samples() -> Vec<Vec<u8>> {
        let call = |name: &str, is_stream: bool, body: &str| {
            let at = ENDPOINTS.iter().position(|endpoint| endpoint.name == name).expect("a row");
            let first = (at as u8) << 1 | u8::from(is_stream);
            [&[first], body.as_bytes()].concat()
        };
        vec![
            call(
                "chat.completions",
                false,
                r#"{"model":"m","choices":[],"service_tier":"flex","usage":{"prompt_tokens":30,
                "completion_tokens":20,"total_tokens":50,"prompt_tokens_details":{"cached_tokens":4,
                "audio_tokens":5},"completion_tokens_details":{"reasoning_tokens":6}}}"#,
            ),
            call(
                "chat.completions",
                true,
                "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n\
                data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\n\
                data: [DONE]\n\n",
            ),
            call(
                "responses",
                true,
                "event: response.output_item.done\n\
                data: {\"item\":{\"type\":\"web_search_call\"}}\n\n\
                event: response.completed\n\
                data: {\"response\":{\"usage\":{\"input_tokens\":3,\"output_tokens\":4}}}\n\n",
            ),
            call(
                "messages",
                false,
                r#"{"usage":{"input_tokens":3,"cache_creation":{"ephemeral_1h_input_tokens":9},
                "cache_creation_input_tokens":12,"output_tokens":8,"output_tokens_details":
                {"thinking_tokens":5},"iterations":[{"type":"compaction","input_tokens":2}]}}"#,
            ),
            call(
                "messages",
                true,
                "data: {\"message\":{\"usage\":{\"input_tokens\":3,\"output_tokens\":1}}}\n\n\
                data: {\"usage\":{\"output_tokens\":9,\"output_tokens_details\":\
                {\"thinking_tokens\":5}}}\n\ndata: {\"usage\":{\"output_tokens\":2}}\n\n",
            ),
            call(
                "generateContent",
                false,
                r#"{"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":3,
                "thoughtsTokenCount":2,"cachedContentTokenCount":4,"promptTokensDetails":
                [{"modality":"AUDIO","tokenCount":7},{"modality":"IMAGE","tokenCount":7}]}}"#,
            ),
        ]
    }

    #[test]
    fn laws_of_usage_hold_for_damaged_replies() {
        let samples = samples();
        let samples: Vec<&[u8]> = samples.iter().map(Vec::as_slice).collect();
        mutate::run(&samples, SPICES, 2_000, usage);
    }
}
