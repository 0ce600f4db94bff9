//! Replies in the shapes of the vendors, with the dated model names that they send.

use serde_json::json;

use super::upstream::{Conn, Seen, Upstream};

impl Upstream {
    /// Answers every call of every dialect as its vendor would.
    pub fn vendor() -> Upstream {
        Upstream::answering(answer)
    }
}

/// The name that the vendor's replies carry for a model that was asked.
pub fn dated(model: &str) -> String {
    format!("{model}-2025-04-14")
}

/// The model that a request names, from its body or its path.
pub fn model_of(seen: &Seen) -> String {
    if let Some(name) = seen.json()["model"].as_str() {
        return name.to_owned();
    }
    let path = seen.path();
    let begin = path.rfind("/models/").map_or(0, |at| at + "/models/".len());
    let end = path.rfind(':').filter(|end| *end > begin).unwrap_or(path.len());
    path[begin..end].to_owned()
}

/// Answers one request.
pub fn answer(conn: &mut Conn, seen: &Seen) {
    let path = seen.path().to_owned();
    let verb = path.rsplit(':').next().unwrap_or("").to_owned();
    let model = dated(&model_of(seen));
    let stream = seen.json()["stream"] == true;
    let usage = seen.json()["stream_options"]["include_usage"] == true;
    match verb.as_str() {
        "streamGenerateContent" if seen.query().contains("alt=sse") => {
            conn.stream(gemini_stream(&model));
        }
        "streamGenerateContent" => {
            conn.whole(200, gemini_array(&model));
        }
        "generateContent" => {
            conn.whole(200, gemini(&model));
        }
        "countTokens" => {
            conn.whole(200, "{\n  \"totalTokens\": 3\n}\n");
        }
        "embedContent" => {
            conn.whole(200, r#"{"embedding":{"values":[0.5,-0.25]}}"#);
        }
        "batchEmbedContents" => {
            conn.whole(200, r#"{"embeddings":[{"values":[0.5,-0.25]}]}"#);
        }
        _ if path.ends_with("/messages/count_tokens") => {
            conn.whole(200, r#"{"input_tokens":3}"#);
        }
        _ if path.ends_with("/messages") && stream => {
            conn.stream(anthropic_stream(&model));
        }
        _ if path.ends_with("/messages") => {
            conn.whole(200, anthropic(&model));
        }
        _ if path.ends_with("/responses") && stream => {
            conn.stream(responses_stream(&model));
        }
        _ if path.ends_with("/responses") => {
            conn.whole(200, responses(&model, "completed"));
        }
        _ if path.ends_with("/embeddings") => {
            conn.whole(200, embeddings(&model));
        }
        _ if path.ends_with("/completions") && stream => {
            conn.stream(chat_stream(&model, usage));
        }
        _ if path.ends_with("/completions") => {
            conn.whole(200, chat(&model));
        }
        _ => {
            conn.whole(404, r#"{"error":{"message":"no such path","type":"x","code":null}}"#);
        }
    }
}

/// A chat completion whose text and arguments name models, too.
pub fn chat(model: &str) -> String {
    let arguments = format!("{{\"model\":\"{model}\"}}");
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1_744_600_000, "model": model,
        "choices": [{"index": 0, "finish_reason": "stop", "message": {
            "role": "assistant", "content": format!("I am \"model\":\"{model}\", indeed."),
            "tool_calls": [{"id": "c", "type": "function",
                "function": {"name": "f", "arguments": arguments}}]}}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        "metadata": {"model": model},
    })
    .to_string()
}

/// A chat stream; with `usage` as a vendor sends it to somebody who asked.
pub fn chat_stream(model: &str, usage: bool) -> String {
    let null = if usage { r#","usage":null"# } else { "" };
    let chunk = |choices: &str, tail: &str| {
        format!(
            "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\
             \"created\":1744600000,\"model\":\"{model}\",\"choices\":{choices}{tail}}}\n\n"
        )
    };
    let mut text = chunk(r#"[{"index":0,"delta":{"role":"assistant","content":""}}]"#, null);
    for word in ["Hello", " wörld", " \u{1F600}"] {
        let choices = format!(r#"[{{"index":0,"delta":{{"content":"{word}"}}}}]"#);
        text += &chunk(&choices, null);
    }
    text += &chunk(r#"[{"index":0,"delta":{},"finish_reason":"stop"}]"#, null);
    if usage {
        let sums = r#"{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}"#;
        text += &chunk("[]", &format!(",\"usage\":{sums}"));
    }
    text + "data: [DONE]\n\n"
}

/// A response object of the Responses API.
pub fn responses(model: &str, status: &str) -> String {
    json!({
        "id": "resp_1", "object": "response", "created_at": 1_744_600_000, "status": status,
        "model": model, "metadata": {"model": "untouched"}, "instructions": null, "error": null,
        "incomplete_details": null, "parallel_tool_calls": true, "temperature": 1.0, "tools": [],
        "tool_choice": "auto", "top_p": 1.0,
        "output": [{"id": "msg_1", "type": "message", "status": "completed", "role": "assistant",
            "content": [{"type": "output_text", "text": "Hello", "annotations": []}]}],
        "usage": {"input_tokens": 3, "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 5},
    })
    .to_string()
}

/// A stream of the Responses API.
pub fn responses_stream(model: &str) -> String {
    let mut text = String::new();
    for (number, (kind, body)) in [
        ("response.created", format!(r#""response":{}"#, responses(model, "in_progress"))),
        (
            "response.output_text.delta",
            r#""item_id":"msg_1","output_index":0,"content_index":0,"delta":"Hello""#.to_owned(),
        ),
        ("response.completed", format!(r#""response":{}"#, responses(model, "completed"))),
    ]
    .into_iter()
    .enumerate()
    {
        text += &format!(
            "event: {kind}\ndata: {{\"type\":\"{kind}\",\"sequence_number\":{number},{body}}}\n\n"
        );
    }
    text
}

/// An embedding as the SDKs ask for it.
pub fn embeddings(model: &str) -> String {
    json!({
        "object": "list", "model": model,
        "data": [{"object": "embedding", "index": 0, "embedding": "AAAAPwAAgL4="}],
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    })
    .to_string()
}

/// An Anthropic message.
pub fn anthropic(model: &str) -> String {
    json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": model,
        "content": [{"type": "text", "text": "Hello from \"model\""}],
        "stop_reason": "end_turn", "stop_sequence": null,
        "usage": {"input_tokens": 3, "output_tokens": 2},
    })
    .to_string()
}

/// An Anthropic stream.
pub fn anthropic_stream(model: &str) -> String {
    let message = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": [],
        "stop_reason": null, "stop_sequence": null,
        "usage": {"input_tokens": 3, "output_tokens": 1},
    });
    [
        ("message_start", format!(r#","message":{message}"#)),
        (
            "content_block_start",
            r#","index":0,"content_block":{"type":"text","text":""}"#.to_owned(),
        ),
        ("ping", String::new()),
        (
            "content_block_delta",
            r#","index":0,"delta":{"type":"text_delta","text":"Hello"}"#.to_owned(),
        ),
        ("content_block_stop", r#","index":0"#.to_owned()),
        (
            "message_delta",
            r#","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":2}"#.to_owned(),
        ),
        ("message_stop", String::new()),
    ]
    .iter()
    .map(|(kind, body)| format!("event: {kind}\ndata: {{\"type\":\"{kind}\"{body}}}\n\n"))
    .collect()
}

/// A Gemini reply, printed prettily as Google does.
pub fn gemini(model: &str) -> String {
    let reply = json!({
        "candidates": [{"content": {"parts": [{"text": "Hello"}], "role": "model"},
            "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5},
        "modelVersion": model, "responseId": "r1",
    });
    format!("{reply:#}\n")
}

/// A Gemini event stream with CRLF line ends.
pub fn gemini_stream(model: &str) -> String {
    [("Hel", ""), ("lö", ",\"finishReason\": \"STOP\"")]
        .iter()
        .map(|(text, end)| {
            format!(
                "data: {{\"candidates\": [{{\"content\": {{\"parts\": [{{\"text\": \"{text}\"}}],\
                 \"role\": \"model\"}}{end}}}],\"usageMetadata\": {{\"promptTokenCount\": 3,\
                 \"totalTokenCount\": 5}},\"modelVersion\": \"{model}\"}}\r\n\r\n"
            )
        })
        .collect()
}

/// A Gemini stream in its older form: one array.
pub fn gemini_array(model: &str) -> String {
    format!("[{}\n,\r\n{}\n]\n", gemini(model).trim_end(), gemini(model).trim_end())
}
