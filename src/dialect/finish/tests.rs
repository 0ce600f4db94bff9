use super::*;
use crate::dialect::endpoint::ENDPOINTS;

/// The end of a stream of this endpoint of which these pieces have passed.
fn end(name: &str, pieces: &[&str], model: Option<&str>, asked: bool) -> String {
    let endpoint = ENDPOINTS.iter().find(|endpoint| endpoint.name == name).expect("in the table");
    let mut memory = Memory::default();
    pieces.iter().for_each(|piece| memory.piece(endpoint.dialect, piece.as_bytes()));
    let usage = Usage { input_tokens: 7, output_tokens: 9, ..Usage::default() };
    String::from_utf8(memory.finish(endpoint, model, &usage, asked)).expect("UTF-8")
}

/// The JSON of each event.
fn data(text: &str) -> Vec<Value> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
    lines.filter_map(|line| serde_json::from_str(line).ok()).collect()
}

const CHUNK: &str = "data: {\"id\":\"c1\",\"object\":\"chat.completion.chunk\",\"created\":5,\
    \"model\":\"dated\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";

#[test]
fn a_chat_ends_each_choice_with_length_and_is_done() {
    let second = CHUNK.replace("\"index\":0", "\"index\":1");
    let text = end("chat.completions", &[": hello\n", CHUNK, &second], Some("alias"), false);
    let events = data(&text);
    assert!(text.ends_with("\n\ndata: [DONE]\n\n"), "{text}");
    assert_eq!(events.len(), 2);
    for (index, event) in events.iter().enumerate() {
        assert_eq!((&event["id"], &event["model"]), (&json!("c1"), &json!("alias")));
        assert_eq!(event["choices"][0]["index"], index);
        assert_eq!(event["choices"][0]["finish_reason"], "length");
        assert!(event.get("usage").is_none());
    }
}

#[test]
fn a_chat_whose_client_wants_usage_gets_it_behind_the_last_choice() {
    let events = data(&end("chat.completions", &[CHUNK], None, true));
    assert_eq!(events.len(), 2);
    assert_eq!(events[0]["usage"], Value::Null);
    assert_eq!((&events[1]["model"], &events[1]["choices"]), (&json!("dated"), &json!([])));
    assert_eq!(events[1]["usage"]["prompt_tokens"], 7);
    assert_eq!(events[1]["usage"]["total_tokens"], 16);
}

#[test]
fn a_completion_ends_with_an_empty_text() {
    let events = data(&end("completions", &[CHUNK], None, false));
    assert_eq!(events[0]["choices"][0], json!({"index":0,"text":"","finish_reason":"length"}));
}

#[test]
fn each_choice_is_ended_wherever_its_number_stands() {
    let legacy = |index: u64| {
        let choice = json!({"text": "\"index\":9", "index": index, "finish_reason": null});
        format!("data: {}\n\n", json!({"object": "text_completion", "choices": [choice]}))
    };
    let indices = |pieces: &[&str]| -> Vec<u64> {
        let events = data(&end("completions", pieces, None, false));
        events.iter().filter_map(|event| event["choices"][0]["index"].as_u64()).collect()
    };
    assert_eq!(indices(&[&legacy(0), &legacy(2), &legacy(1)]), [0, 1, 2]);
    assert_eq!(indices(&["data: {\"choices\" : [{\"delta\":{},\"index\" : 1}]}\n\n"]), [0, 1]);
    let both = "data: {\"choices\":[{\"index\":0},{\"index\":1}]}\n\n";
    assert_eq!(indices(&[both]), [0, 1]);
    let tools =
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":3}]}}]}\n\n";
    assert_eq!(indices(&[tools]), [0]);
    assert_eq!(indices(&[&legacy(u64::MAX)]).len(), 128);
}

#[test]
fn each_candidate_of_gemini_is_ended() {
    let piece = "data: {\"candidates\": [{\"content\": {},\"index\": 1},{}]}\r\n\r\n";
    let events = data(&end("streamGenerateContent", &[piece], None, false));
    let candidates = events[0]["candidates"].as_array().expect("a list");
    assert_eq!(candidates.len(), 2);
    for (index, candidate) in candidates.iter().enumerate() {
        assert_eq!(
            (&candidate["index"], &candidate["finishReason"]),
            (&json!(index), &json!("MAX_TOKENS"))
        );
    }
}

#[test]
fn a_response_is_incomplete_under_its_own_id_and_the_next_number() {
    let created = "event: response.created\ndata: {\"type\":\"response.created\",\
        \"sequence_number\":0,\"response\":{\"id\":\"r1\",\"model\":\"dated\",\"status\":\
        \"in_progress\",\"tools\":[]}}\n\n";
    let delta = "event: response.output_text.delta\ndata: {\"type\":\"x\",\"sequence_number\": 41,\
        \"delta\":\"a\"}\n\n";
    let text = end("responses", &[created, delta], Some("alias"), false);
    assert!(text.starts_with("event: response.incomplete\ndata: "), "{text}");
    let [last] = &data(&text)[..] else { panic!("one event: {text}") };
    assert_eq!(
        (&last["type"], &last["sequence_number"]),
        (&json!("response.incomplete"), &json!(42))
    );
    let response = &last["response"];
    assert_eq!((&response["id"], &response["model"]), (&json!("r1"), &json!("alias")));
    assert_eq!(response["status"], "incomplete");
    assert_eq!(response["incomplete_details"]["reason"], "max_output_tokens");
    assert_eq!(response["usage"]["output_tokens"], 9);
}

#[test]
fn a_message_closes_its_open_block_and_stops_at_max_tokens() {
    let start = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":3,\
        \"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n";
    let text = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":3,\
        \"delta\":{\"text\":\"\\\"content_block_stop\\\"\"}}\n\n";
    let kinds = |text: &str| -> Vec<String> {
        data(text).iter().map(|event| event["type"].as_str().unwrap_or("").to_owned()).collect()
    };
    let out = end("messages", &[start, text], None, false);
    assert_eq!(kinds(&out), ["content_block_stop", "message_delta", "message_stop"]);
    assert_eq!(data(&out)[0]["index"], 3);
    assert_eq!(data(&out)[1]["delta"]["stop_reason"], "max_tokens");
    assert_eq!(data(&out)[1]["usage"]["output_tokens"], 9);
    let stop = start.replace("content_block_start", "content_block_stop");
    assert_eq!(kinds(&end("messages", &[start, &stop], None, false)), kinds(&out)[1..]);
    for event in out.split_terminator("\n\n") {
        assert!(event.starts_with("event: "), "clients skip what has no name: {event}");
    }
}

#[test]
fn gemini_ends_with_max_tokens_and_nothing_but_data() {
    let chunk =
        "data: {\"candidates\": [],\"modelVersion\": \"dated\",\"responseId\": \"g1\"}\r\n\r\n";
    let text = end("streamGenerateContent", &[chunk], None, false);
    assert!(text.starts_with("data: ") && text.ends_with("\r\n\r\n"), "{text}");
    let event = &data(&text)[0];
    assert_eq!((&event["modelVersion"], &event["responseId"]), (&json!("dated"), &json!("g1")));
    assert_eq!(event["candidates"][0]["finishReason"], "MAX_TOKENS");
    assert_eq!(event["usageMetadata"]["totalTokenCount"], 16);
}

#[test]
fn a_stream_of_which_nothing_was_understood_ends_all_the_same() {
    for name in ["chat.completions", "responses", "messages", "streamGenerateContent"] {
        let long = format!("data: {{\"a\":\"{}\"}}\n\n", "x".repeat(FIRST_BYTES_MAX));
        for pieces in [&[][..], &["data: {\"broken\n\n"], &[&long], &["data: [DONE]\n\n"]] {
            assert!(!data(&end(name, pieces, Some("m"), false)).is_empty(), "{name}");
        }
    }
}
