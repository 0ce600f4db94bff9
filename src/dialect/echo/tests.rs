use super::*;
use crate::dialect::endpoint::{ENDPOINTS, ModelPlace};
use serde_json::Value;

fn endpoint(name: &str) -> &'static Endpoint {
    ENDPOINTS.iter().find(|endpoint| endpoint.name == name).expect("an endpoint of that name")
}

fn ask(name: &str, body: &str, stream: bool, alt_sse: bool, wants_usage: bool) -> EchoReply {
    let settings = EchoSettings::default();
    answer(endpoint(name), "m\"1", body.as_bytes(), stream, alt_sse, wants_usage, &settings)
}

#[track_caller]
fn json(reply: &EchoReply) -> Value {
    assert_eq!(reply.pieces.len(), 1);
    serde_json::from_slice(&reply.pieces[0]).expect("a whole reply is JSON")
}

/// The data of each event, parsed, and its name; `[DONE]` is `null`.
#[track_caller]
fn events(reply: &EchoReply) -> Vec<(String, Value)> {
    assert!(reply.content_type.starts_with("text/event-stream"));
    let read = |piece: &Vec<u8>| {
        let text = std::str::from_utf8(piece).expect("an event is text");
        let lines: Vec<&str> = text.lines().collect();
        let (name, data) = match lines[..] {
            [name, data, ""] => (name.strip_prefix("event: ").expect("an event's name"), data),
            [data, ""] => ("", data),
            _ => panic!("one event a piece: {text:?}"),
        };
        let data = data.strip_prefix("data: ").expect("an event's data");
        let json = match data {
            "[DONE]" => Value::Null,
            data => serde_json::from_str(data).expect("an event's data is JSON"),
        };
        (name.to_owned(), json)
    };
    reply.pieces.iter().map(read).collect()
}

const CHAT: &str = r#"{"model":"m","messages":[{"role":"system","content":"be kind"},
    {"content":[{"type":"text","text":"first"},{"type":"text","text":"Hi \"é\" there"},
    {"type":"image_url","image_url":{"url":"x"}}],"role":"user"},
    {"role":"assistant","content":"no"}]}"#;
const SAID: &str = "Hi \"é\" there";

/// The text of a streamed reply, put together.
fn joined(events: &[(String, Value)], path: &str) -> String {
    events.iter().filter_map(|(_, event)| event.pointer(path).and_then(Value::as_str)).collect()
}

#[test]
fn chat_is_whole_or_streamed_in_the_vendors_order() {
    let reply = json(&ask("chat.completions", CHAT, false, false, false));
    assert_eq!(reply["object"], "chat.completion");
    assert_eq!(reply["model"], "m\"1");
    assert_eq!(reply["choices"][0]["message"]["content"], SAID);
    assert_eq!(reply["choices"][0]["finish_reason"], "stop");
    let usage = &reply["usage"];
    let sum = usage["prompt_tokens"].as_u64().zip(usage["completion_tokens"].as_u64());
    assert_eq!(usage["total_tokens"].as_u64(), sum.map(|(prompt, completion)| prompt + completion));

    let all = events(&ask("chat.completions", CHAT, true, false, true));
    assert_eq!(joined(&all, "/choices/0/delta/content"), SAID);
    assert_eq!(all[0].1["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(all.last().map(|(_, event)| event), Some(&Value::Null));
    let (chunks, usage) = all[..all.len() - 1].split_at(all.len() - 2);
    assert_eq!(usage[0].1["choices"], Value::Array(Vec::new()));
    assert_eq!(usage[0].1["usage"], reply["usage"]);
    for (name, chunk) in chunks {
        assert!(name.is_empty() && chunk["object"] == "chat.completion.chunk");
        assert!(chunk["model"] == "m\"1" && chunk.get("usage") == Some(&Value::Null));
    }
    let last = &chunks[chunks.len() - 1].1;
    assert_eq!(last["choices"][0]["finish_reason"], "stop");

    let unasked = events(&ask("chat.completions", CHAT, true, false, false));
    assert_eq!(unasked.len(), all.len() - 1);
    assert!(unasked.iter().all(|(_, event)| event.get("usage").is_none()));
}

#[test]
fn completions_echo_the_prompt() {
    for (prompt, said) in [(r#""a b""#, "a b"), (r#"["x","y z"]"#, "y z"), ("[1,2]", NO_TEXT)] {
        let body = format!(r#"{{"model":"m","prompt":{prompt}}}"#);
        let reply = json(&ask("completions", &body, false, false, false));
        assert_eq!(reply["object"], "text_completion");
        assert_eq!(reply["choices"][0]["text"], said);
        let all = events(&ask("completions", &body, true, false, true));
        assert_eq!(joined(&all, "/choices/0/text"), said);
        assert_eq!(all[all.len() - 2].1["usage"], reply["usage"]);
    }
}

#[test]
fn responses_come_with_every_event_in_order() {
    let items = r#"{"input":[{"role":"user","content":[{"type":"input_text","text":"Hi"}]}]}"#;
    for body in [r#"{"input":"Hi","model":"m"}"#, items] {
        let reply = json(&ask("responses", body, false, false, false));
        assert_eq!(reply["output"][0]["content"][0]["text"], "Hi");
        assert_eq!((&reply["status"], &reply["model"]), (&"completed".into(), &"m\"1".into()));
        let all = events(&ask("responses", body, true, false, false));
        let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
        let expected = [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ];
        assert_eq!(names, expected);
        for (number, (name, event)) in all.iter().enumerate() {
            assert_eq!(event["type"], **name);
            assert_eq!(event["sequence_number"], number);
        }
        assert_eq!(joined(&all, "/delta"), "Hi");
        assert_eq!(all[0].1["response"]["model"], "m\"1");
        assert_eq!(all[0].1["response"]["usage"], Value::Null);
        assert_eq!(all[9].1["response"]["usage"]["total_tokens"], reply["usage"]["total_tokens"]);
    }
}

#[test]
fn messages_come_with_every_event_in_order() {
    let reply = json(&ask("messages", CHAT, false, false, false));
    assert_eq!(reply["content"][0]["text"], SAID);
    assert_eq!((&reply["type"], &reply["model"]), (&"message".into(), &"m\"1".into()));
    let all = events(&ask("messages", CHAT, true, false, false));
    let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    let delta = "content_block_delta";
    let ends = ["content_block_stop", "message_delta", "message_stop"];
    assert_eq!(names[..3], ["message_start", "content_block_start", "ping"]);
    assert_eq!(names[3..7], [delta; 4]);
    assert_eq!(names[7..], ends);
    assert!(all.iter().all(|(name, event)| event["type"] == **name));
    assert_eq!(joined(&all, "/delta/text"), SAID);
    assert_eq!(all[0].1["message"]["model"], "m\"1");
    assert_eq!(all[0].1["message"]["usage"]["input_tokens"], reply["usage"]["input_tokens"]);
    assert_eq!(all[8].1["usage"]["output_tokens"], reply["usage"]["output_tokens"]);
}

#[test]
fn gemini_is_whole_an_array_or_events_that_end_in_crlf() {
    let body = r#"{"contents":[{"parts":[{"text":"Hi\u2028 \u0085é"},{"inlineData":{}}]}]}"#;
    let said = "Hi\u{2028} \u{85}é";
    let reply = json(&ask("generateContent", body, false, false, false));
    let text = "/candidates/0/content/parts/0/text";
    assert_eq!(reply.pointer(text), Some(&said.into()));
    assert_eq!(
        (&reply["modelVersion"], &reply["responseId"]),
        (&"m\"1".into(), &reply["responseId"])
    );
    assert_eq!(reply["candidates"][0]["finishReason"], "STOP");

    let stream = ask("streamGenerateContent", body, true, true, false);
    for piece in &stream.pieces {
        let piece = std::str::from_utf8(piece).expect("text");
        assert!(piece.starts_with("data: {") && piece.ends_with("}\r\n\r\n"), "{piece:?}");
        // Line readers of Python would break the event here.
        assert!(!piece.contains(['\u{2028}', '\u{85}']) && piece.lines().count() == 2);
    }
    let all = events(&stream);
    assert_eq!(joined(&all, text), said);
    assert!(all.iter().all(|(_, event)| event["modelVersion"] == "m\"1"));
    let last = &all[all.len() - 1].1;
    assert_eq!(last["usageMetadata"], reply["usageMetadata"]);
    assert_eq!(last["candidates"][0]["finishReason"], "STOP");

    let array = ask("streamGenerateContent", body, true, false, false);
    assert!(array.content_type.starts_with("application/json"));
    let array: Value = serde_json::from_slice(&array.pieces.concat()).expect("one JSON array");
    let parts: Vec<&Value> = array.as_array().expect("an array").iter().collect();
    assert_eq!(parts, all.iter().map(|(_, event)| event).collect::<Vec<_>>());
}

#[test]
fn embeddings_honour_count_format_and_dimensions() {
    let vectors = |body: &str| json(&ask("embeddings", body, false, false, false));
    let float = vectors(r#"{"model":"m","input":["a",["b"],"c"],"dimensions":5}"#);
    assert_eq!(float["data"].as_array().map(Vec::len), Some(3));
    assert_eq!(float["data"][2]["index"], 2);
    assert_eq!(float["data"][0]["embedding"].as_array().map(Vec::len), Some(5));
    assert_ne!(float["data"][0]["embedding"], float["data"][1]["embedding"]);
    for body in [r#"{"input":"a"}"#, r#"{"input":[1,2,3]}"#, "{}", ""] {
        assert_eq!(vectors(body)["data"].as_array().map(Vec::len), Some(1), "{body}");
    }
    let packed = vectors(r#"{"input":"a","encoding_format":"base64","dimensions":2}"#);
    let packed = packed["data"][0]["embedding"].as_str().expect("base64 is text");
    assert_eq!((packed.len(), packed.ends_with('=')), (12, true));
    let wide = vectors(r#"{"input":"a","dimensions":99999999}"#);
    assert_eq!(wide["data"][0]["embedding"].as_array().map(Vec::len), Some(read::VALUES_MAX));
    let bad = vectors(r#"{"input":"a","dimensions":-1}"#);
    assert_eq!(bad["data"][0]["embedding"].as_array().map(Vec::len), Some(8));
}

#[test]
fn base64_agrees_with_known_vectors() {
    // 1.0 is 00 00 80 3f, 0.5 is 00 00 00 3f, 2.0 is 00 00 00 40.
    assert_eq!(openai::base64(&[1.0]), "AACAPw==");
    assert_eq!(openai::base64(&[1.0, 0.5]), "AACAPwAAAD8=");
    assert_eq!(openai::base64(&[1.0, 0.5, 2.0]), "AACAPwAAAD8AAABA");
    assert_eq!(openai::base64(&[]), "");
}

#[test]
fn gemini_embeddings_come_one_by_one_or_in_a_batch() {
    let body = r#"{"content":{"parts":[{"text":"a"}]},"outputDimensionality":3}"#;
    let one = json(&ask("embedContent", body, false, false, false));
    assert_eq!(one["embedding"]["values"].as_array().map(Vec::len), Some(3));
    let batch = r#"{"requests":[{"content":{}},{"content":{}}]}"#;
    let two = json(&ask("batchEmbedContents", batch, false, false, false));
    assert_eq!(two["embeddings"].as_array().map(Vec::len), Some(2));
    assert_eq!(two["embeddings"][1]["values"].as_array().map(Vec::len), Some(8));
}

#[test]
fn size_and_events_are_settings() {
    let run = |reply_bytes, events, stream| {
        let settings = EchoSettings { reply_bytes, events, ..EchoSettings::default() };
        let chat = endpoint("chat.completions");
        answer(chat, "m", CHAT.as_bytes(), stream, false, false, &settings)
    };
    for size in [0, 1, 45, 46, 10_000] {
        let reply = json(&run(Some(size), 4, false));
        let text = reply["choices"][0]["message"]["content"].as_str().expect("a text");
        assert_eq!(text.len(), size);
    }
    for (events_wanted, found) in [(0, 1), (1, 1), (20, 20), (1_000, 200)] {
        let all = events(&run(Some(200), events_wanted, true));
        // The role, the end and `[DONE]` stand beside the text.
        assert_eq!(all.len(), found + 3);
        assert_eq!(joined(&all, "/choices/0/delta/content").len(), 200);
    }
    // Characters are never cut.
    let all = events(&run(None, 100, true));
    assert_eq!(joined(&all, "/choices/0/delta/content"), SAID);
}

#[test]
fn long_texts_are_echoed_in_part() {
    let body = format!(r#"{{"messages":[{{"role":"user","content":"{}"}}]}}"#, "é".repeat(40_000));
    let reply = json(&ask("chat.completions", &body, false, false, false));
    let text = reply["choices"][0]["message"]["content"].as_str().expect("a text");
    assert_eq!(text.len(), ECHO_BYTES_MAX);
}

#[test]
fn the_same_request_gives_the_same_answer() {
    for endpoint in ENDPOINTS {
        let run = |body: &str| {
            let settings = EchoSettings::default();
            answer(endpoint, "m", body.as_bytes(), true, true, true, &settings)
        };
        assert_eq!(run(CHAT), run(CHAT));
    }
    let id = |body: &str| json(&ask("chat.completions", body, false, false, false))["id"].clone();
    assert_ne!(id(CHAT), id("{}"));
}

#[test]
fn any_body_gets_an_answer() {
    let deep = format!("{{\"messages\":{}", "[".repeat(100_000));
    let bodies =
        ["", "null", "[", "\u{0}", "{\"messages\":[{\"content\":\"a", "{\"input\":{}}", &deep];
    let odd = [r#"{"messages":[{"role":"user","content":"\ud800"}]}"#, r#"{"prompt":""}"#];
    for body in bodies.into_iter().chain(odd) {
        for endpoint in ENDPOINTS {
            for stream in [false, true] {
                let settings = EchoSettings::default();
                let reply = answer(endpoint, "m", body.as_bytes(), stream, false, true, &settings);
                // It keeps nothing, a cache neither.
                let is_kept = endpoint.model == ModelPlace::Resource;
                assert_eq!(reply.status, if is_kept { 501 } else { 200 });
                assert!(!reply.pieces.is_empty());
            }
        }
        let reply = json(&ask("chat.completions", body, false, false, false));
        assert_eq!(reply["choices"][0]["message"]["content"], NO_TEXT, "{body:.40}");
    }
}
