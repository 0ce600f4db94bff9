//! Laws of sessions over WebSocket and of streams that end early, for any bytes.

use super::fuzz_sse::split;
use super::fuzz_usage::sound;
use super::{naive, splits};
use crate::dialect::Dialect;
use crate::dialect::endpoint::{ENDPOINTS, Endpoint, Step};
use crate::dialect::finish;
use crate::dialect::live::{self, Listener, Live, Names, Wish};
use crate::dialect::rewrite::{Change, Rewriter};
use crate::dialect::terminal::Terminal;
use crate::dialect::usage::{Tap, Usage};
use serde_json::{Value, json};

const NAME: &str = "ali\"as/\\neu\u{2028}é";

/// One kind of session, and where its events name the model, up and down.
struct Kind {
    target: &'static str,
    up: &'static [Step],
    down: &'static [Step],
}

const KINDS: [Kind; 3] = [
    Kind {
        target: "/v1/realtime",
        up: &[Step::Key("session"), Step::Key("model")],
        down: &[Step::Key("session"), Step::Key("model")],
    },
    Kind {
        target: "/v1/responses",
        up: &[Step::Key("model")],
        down: &[Step::Key("response"), Step::Key("model")],
    },
    Kind {
        target: "/v1beta/models/m:BidiGenerateContent",
        up: &[Step::Key("setup"), Step::Key("model")],
        down: &[],
    },
];

/// An event names its model once; named anew, nothing else of it changed; and what it tells of
/// tokens is sound. The first byte chooses the session and the direction; events stand in lines.
pub fn event(data: &[u8]) {
    let Some((&choice, body)) = data.split_first() else { return };
    let kind = &KINDS[usize::from(choice >> 1) % KINDS.len()];
    let call = live::parse(kind.target, &|_| false).expect("a sound path").expect("is served");
    if choice & 1 == 1 {
        body.split(|byte| *byte == b'\n').for_each(|event| up(kind, call.live, event));
    } else {
        down(kind, call.live, body);
    }
}

/// How the upstream wants it named.
fn in_event(kind: &Kind, name: &str) -> String {
    if kind.down.is_empty() { format!("models/{name}") } else { name.to_owned() }
}

fn up(kind: &Kind, live: &Live, event: &[u8]) {
    let Ok(wish) = Wish::read(live, event) else { return };
    let named = in_event(kind, NAME);
    let names = Names::new(live, "asked", NAME, &named, true);
    let mut written = event.to_vec();
    wish.write(&names, &mut written);
    let value = serde_json::from_slice::<Value>(event);
    if written == event {
        assert_eq!(wish.model.filter(|model| model != NAME), None, "a name was left");
        return;
    }
    let again = Wish::read(live, &written).expect("what was accepted stays acceptable");
    assert_eq!(again.model.as_deref(), Some(NAME));
    assert_eq!(again.transcriber, wish.transcriber);
    let Ok(mut expected) = value else { return };
    if wish.model.is_some() {
        naive::renamed(&mut expected, kind.up, &named);
    } else {
        assert!(expected["setup"].is_object(), "there is room in a setup only");
        expected["setup"]["model"] = json!(named);
    }
    assert_eq!(serde_json::from_slice::<Value>(&written).ok(), Some(expected));
}

fn down(kind: &Kind, live: &'static Live, body: &[u8]) {
    let renaming = Names::new(live, NAME, "served", &in_event(kind, "served"), true);
    let silent = Names::new(live, "m", "m", &in_event(kind, "m"), false);
    let (mut one, mut other) = (Listener::new(live), Listener::new(live));
    for event in body.split(|byte| *byte == b'\n') {
        let (mut renamed, mut kept) = (event.to_vec(), event.to_vec());
        let news = one.hear(&mut renamed, &renaming);
        assert_eq!(news, other.hear(&mut kept, &silent), "what it tells is not its model");
        assert_eq!(kept, event, "silence is identity");
        for told in [news.told, news.transcribed].into_iter().flatten() {
            sound(&told.usage, event.len());
        }
        assert!(news.text_bytes <= event.len() as u64);
        assert!(!one.is_between() || one.ends_with_the_next());
        let Ok(mut expected) = serde_json::from_slice::<Value>(event) else { continue };
        if !kind.down.is_empty() {
            naive::renamed(&mut expected, kind.down, NAME);
        }
        assert_eq!(serde_json::from_slice::<Value>(&renamed).ok(), Some(expected));
    }
}

/// Whatever came before, the end that a stream gets is whole events of its dialect, the last of
/// which ends it; and it closes each choice that was open. The first byte chooses.
pub fn early_end(data: &[u8]) {
    let Some((&choice, body)) = data.split_first() else { return };
    let ending: Vec<&Endpoint> = ENDPOINTS.iter().filter(|one| finish::has_one(one)).collect();
    let endpoint = ending[usize::from(choice >> 2) % ending.len()];
    let asked = choice & 1 == 1;
    let model = (choice & 2 == 2).then_some(NAME);
    let (sent, end, usage) = ended(endpoint, &[body], model, asked);
    let cut = ended(endpoint, &splits::bytewise(body), model, asked);
    assert_eq!((&sent, &end, usage), (&cut.0, &cut.1, cut.2));

    let events = naive::sse_events(&end);
    let all = naive::sse_events(&[&sent[..], &end].concat());
    assert!(all.ends_with(&events), "it does not stand for itself behind what was sent");
    assert!(end.ends_with(b"\n\n") || end.ends_with(b"\r\n\r\n"));
    let mut documents = Vec::new();
    for (name, data) in &events {
        if data == b"[DONE]" {
            continue;
        }
        let document: Value = serde_json::from_slice(data).expect("it is JSON");
        assert!(document.is_object());
        let kind = document["type"].as_str().unwrap_or_default();
        assert!(name.is_empty() || name == kind.as_bytes(), "its name is its type");
        documents.push(document);
    }
    let mut terminal = Terminal::of(endpoint);
    terminal.piece(&end);
    assert!(!terminal.is_missing(b""), "it ends as its dialect knows it");
    closes(endpoint, &sent, &documents);
    tells(endpoint, &end, &usage, asked);
    if let Some(name) = model.filter(|_| is_chat(endpoint)) {
        assert!(documents.iter().all(|document| document["model"] == name));
    }
}

/// What was sent of a stream, the end that it gets, and the usage that this tells.
fn ended(
    endpoint: &'static Endpoint,
    pieces: &[&[u8]],
    model: Option<&str>,
    asked: bool,
) -> (Vec<u8>, Vec<u8>, Usage) {
    let mut rewriter = Rewriter::stream(endpoint, Change::default(), usize::MAX).with_tap(endpoint);
    rewriter.remember();
    let mut sent = Vec::new();
    for piece in pieces {
        rewriter.feed(piece, &mut sent).expect("no ceiling is reached");
    }
    let tap = rewriter.tap().expect("it was made with one");
    let usage = tap.told().usage;
    let memory = tap.memory().expect("it was asked for");
    let end = memory.finish(endpoint, model, &usage, asked);
    (sent, end, usage)
}

/// A chat, or a legacy completion.
fn is_chat(endpoint: &Endpoint) -> bool {
    endpoint.dialect == Dialect::OpenaiChat
}

/// Each choice of a chat or a completion is ended once, and so is each candidate of Gemini's.
fn closes(endpoint: &Endpoint, sent: &[u8], documents: &[Value]) {
    let list = match endpoint.dialect {
        Dialect::Gemini => "candidates",
        _ => "choices",
    };
    let indices = |document: &Value| -> Vec<u64> {
        let choices = document.get(list).and_then(Value::as_array);
        let index = |choice: &Value| choice.get("index").and_then(Value::as_u64);
        choices.into_iter().flatten().filter_map(index).collect()
    };
    let closed: Vec<u64> = documents.iter().flat_map(indices).collect();
    assert!(closed.iter().copied().eq(0..closed.len() as u64), "{closed:?}");
    let has_several = is_chat(endpoint) || endpoint.dialect == Dialect::Gemini;
    assert_eq!(closed.is_empty(), !has_several);
    // Names that are spelt with escapes, and one event over several lines, are nobody's.
    if !has_several || memchr::memmem::find(sent, b"\\u").is_some() {
        return;
    }
    for (_, data) in naive::sse_events(sent).iter().filter(|(_, data)| !data.contains(&b'\n')) {
        let Ok(document) = serde_json::from_slice::<Value>(data) else { continue };
        for index in indices(&document) {
            assert!(closed.contains(&index.min(127)), "{index} is open");
        }
    }
}

/// Whoever reads the end learns what was generated.
fn tells(endpoint: &Endpoint, end: &[u8], usage: &Usage, asked: bool) {
    if is_chat(endpoint) && !asked {
        return;
    }
    let mut tap = Tap::new(endpoint);
    split(&[end]).0.iter().for_each(|event| tap.piece(event));
    if usage.output_tokens <= 1 << 28 {
        assert_eq!(tap.told().usage.output_tokens, usage.output_tokens);
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::mutate;

    const SPICES: &[&[u8]] = &[
        b"\"model\":\"m\",",
        b"\"type\":",
        b"\"session\":{",
        b"\"setup\":{",
        b"\"response\":{",
        b"\"usage\":{",
        b"\"Model\":\"x\",",
        b"\"usageMetadata\":{",
        b"\"index\":1,",
        b"\"index\" : 300",
        b"\"choices\":[{",
        b"\"sequence_number\":",
        b"\"content_block_start\"",
        b"18446744073709551615",
        b"{",
        b"}",
        b"null",
        b"true",
        b",",
        b"\n",
        b"\n\n",
        b"data: ",
        b"\\u0065",
        b"\xEF\xBB\xBF",
        b"\xFF",
    ];

    const EVENTS: &[&[u8]] = &[
        b"\x01{\"type\":\"session.update\",\"session\":{\"model\":\"m\",\"audio\":{}}}",
        b"\x00{\"type\":\"session.created\",\"session\":{\"model\":\"served\"}}\n\
          {\"type\":\"response.done\",\"response\":{\"usage\":{\"input_tokens\":3,\
          \"output_tokens\":4,\"input_token_details\":{\"audio_tokens\":2}}}}",
        b"\x03{\"type\":\"response.create\",\"model\":\"m\",\"input\":\"hello\"}",
        b"\x02{\"type\":\"response.created\",\"response\":{\"model\":\"served\"}}\n\
          {\"type\":\"response.output_text.delta\",\"delta\":\"abc\"}\n\
          {\"type\":\"response.completed\",\"response\":{\"model\":\"served\",\"output\":[],\
          \"usage\":{\"input_tokens\":3,\"output_tokens\":4}}}",
        b"\x05{\"setup\":{\"model\":\"models/m\",\"tools\":[]}}\n{\"setup\":{}}",
        b"\x04{\"serverContent\":{\"modelTurn\":{\"parts\":[]}}}\n{\"serverContent\":\
          {\"turnComplete\":true},\"usageMetadata\":{\"promptTokenCount\":3,\
          \"responseTokenCount\":4}}",
    ];

    #[test]
    fn laws_of_events_hold_for_damaged_ones() {
        mutate::run(EVENTS, SPICES, 3_000, super::event);
    }

    const STREAMS: &[&[u8]] = &[
        b"\x03data: {\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{}}]}\n\n\
          data: {\"choices\":[{\"index\":1,\"delta\":{\"tool_calls\":[{\"index\":4}]}}]}\n\n",
        b"\x06data: {\"id\":\"c\",\"choices\":[{\"text\":\"a\",\"index\":2}]}\n\ndata: {\"cut",
        b"\x08event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\
          \"response\":{\"id\":\"r\",\"model\":\"m\",\"output\":[]}}\n\n",
        b"\x0Cevent: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":1}\n\n\
          event: ping\ndata: {\"type\":\"ping\"}\n\n",
        b"\x10data: {\"modelVersion\":\"m\",\"responseId\":\"r\",\"candidates\":[{}],\
          \"usageMetadata\":{\"promptTokenCount\":5,\"candidatesTokenCount\":6}}\r\n\r\n",
    ];

    #[test]
    fn laws_of_an_early_end_hold_for_damaged_streams() {
        mutate::run(STREAMS, SPICES, 3_000, super::early_end);
    }
}
