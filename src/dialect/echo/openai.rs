//! OpenAI's shapes: chat, legacy completions, Responses and embeddings.

use super::{CREATED_S, EVENTS, EchoReply, Reply, data, listed, literal, named};
use super::{compact, streamed};

const DONE: &str = "data: [DONE]\n\n";

impl Reply {
    /// `POST /v1/chat/completions`
    pub(super) fn chat(&self, stream: bool, wants_usage: bool) -> EchoReply {
        if !stream {
            let text = literal(&self.text);
            let choice = format!(
                r#"{{"index":0,"message":{{"role":"assistant","content":{text},"refusal":null,
                    "annotations":[]}},"logprobs":null,"finish_reason":"stop"}}"#
            );
            let usage = format!(r#","usage":{}"#, self.chat_usage());
            return compact(&self.chat_object("chat.completion", &choice, &usage));
        }
        let nothing = if wants_usage { r#","usage":null"# } else { "" };
        let chunk = |delta: &str, finish: &str| {
            let choice = format!(
                r#"{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish}}}"#
            );
            data(&self.chat_object("chat.completion.chunk", &choice, nothing))
        };
        let mut events = vec![chunk(r#"{"role":"assistant","content":"","refusal":null}"#, "null")];
        for piece in self.pieces() {
            events.push(chunk(&format!(r#"{{"content":{piece}}}"#), "null"));
        }
        events.push(chunk("{}", r#""stop""#));
        if wants_usage {
            let usage = format!(r#","usage":{}"#, self.chat_usage());
            events.push(data(&self.chat_object("chat.completion.chunk", "", &usage)));
        }
        events.push(DONE.to_owned());
        streamed(EVENTS, events)
    }

    fn chat_object(&self, object: &str, choices: &str, usage: &str) -> String {
        let Reply { id, model, .. } = self;
        format!(
            r#"{{"id":"chatcmpl-{id}","object":"{object}","created":{CREATED_S},"model":{model},
                "service_tier":"default","system_fingerprint":"fp_echo",
                "choices":[{choices}]{usage}}}"#
        )
    }

    fn chat_usage(&self) -> String {
        let Reply { tokens_in, tokens_out, .. } = self;
        let total = tokens_in + tokens_out;
        format!(
            r#"{{"prompt_tokens":{tokens_in},"completion_tokens":{tokens_out},
                "total_tokens":{total},"prompt_tokens_details":{{"cached_tokens":0,
                "audio_tokens":0}},"completion_tokens_details":{{"reasoning_tokens":0,
                "audio_tokens":0,"accepted_prediction_tokens":0,
                "rejected_prediction_tokens":0}}}}"#
        )
    }

    /// `POST /v1/completions`
    pub(super) fn completion(&self, stream: bool, wants_usage: bool) -> EchoReply {
        let choice = |text: &str, finish: &str| {
            format!(r#"{{"text":{text},"index":0,"logprobs":null,"finish_reason":{finish}}}"#)
        };
        if !stream {
            let usage = format!(r#","usage":{}"#, self.chat_usage());
            let choice = choice(&literal(&self.text), r#""stop""#);
            return compact(&self.completion_object(&choice, &usage));
        }
        let nothing = if wants_usage { r#","usage":null"# } else { "" };
        let mut events = Vec::new();
        for piece in self.pieces() {
            events.push(data(&self.completion_object(&choice(&piece, "null"), nothing)));
        }
        events.push(data(&self.completion_object(&choice(r#""""#, r#""stop""#), nothing)));
        if wants_usage {
            let usage = format!(r#","usage":{}"#, self.chat_usage());
            events.push(data(&self.completion_object("", &usage)));
        }
        events.push(DONE.to_owned());
        streamed(EVENTS, events)
    }

    fn completion_object(&self, choices: &str, usage: &str) -> String {
        let Reply { id, model, .. } = self;
        format!(
            r#"{{"id":"cmpl-{id}","object":"text_completion","created":{CREATED_S},
                "model":{model},"choices":[{choices}]{usage}}}"#
        )
    }

    /// `POST /v1/responses`
    pub(super) fn response(&self, stream: bool) -> EchoReply {
        let text = literal(&self.text);
        let done = self.response_item("completed", &self.response_part(&text));
        let completed = self.response_object("completed", &done, &self.response_usage());
        if !stream {
            return compact(&completed);
        }
        let begun = self.response_object("in_progress", "", "null");
        let place = format!(r#""item_id":"msg_{}","output_index":0,"content_index":0"#, self.id);
        let item = |item: &str| format!(r#""output_index":0,"item":{item}"#);
        let mut parts = vec![
            ("response.created", format!(r#""response":{begun}"#)),
            ("response.in_progress", format!(r#""response":{begun}"#)),
            ("response.output_item.added", item(&self.response_item("in_progress", ""))),
            (
                "response.content_part.added",
                format!(r#"{place},"part":{}"#, self.response_part(r#""""#)),
            ),
        ];
        for piece in self.pieces() {
            let delta = format!(r#"{place},"delta":{piece},"logprobs":[]"#);
            parts.push(("response.output_text.delta", delta));
        }
        parts
            .push(("response.output_text.done", format!(r#"{place},"text":{text},"logprobs":[]"#)));
        parts.push((
            "response.content_part.done",
            format!(r#"{place},"part":{}"#, self.response_part(&text)),
        ));
        parts.push(("response.output_item.done", item(&done)));
        parts.push(("response.completed", format!(r#""response":{completed}"#)));
        let events = parts.into_iter().enumerate().map(|(number, (name, rest))| {
            named(name, &format!(r#"{{"type":"{name}","sequence_number":{number},{rest}}}"#))
        });
        streamed(EVENTS, events.collect())
    }

    fn response_part(&self, text: &str) -> String {
        format!(r#"{{"type":"output_text","annotations":[],"logprobs":[],"text":{text}}}"#)
    }

    fn response_item(&self, status: &str, content: &str) -> String {
        let id = &self.id;
        format!(
            r#"{{"id":"msg_{id}","type":"message","status":"{status}","role":"assistant",
                "content":[{content}]}}"#
        )
    }

    fn response_object(&self, status: &str, output: &str, usage: &str) -> String {
        let Reply { id, model, .. } = self;
        format!(
            r#"{{"id":"resp_{id}","object":"response","created_at":{CREATED_S},
                "status":"{status}","background":false,"error":null,"incomplete_details":null,
                "instructions":null,"max_output_tokens":null,"model":{model},
                "output":[{output}],"parallel_tool_calls":true,"previous_response_id":null,
                "reasoning":{{"effort":null,"summary":null}},"store":false,"temperature":1.0,
                "text":{{"format":{{"type":"text"}}}},"tool_choice":"auto","tools":[],
                "top_p":1.0,"truncation":"disabled","usage":{usage},"user":null,
                "metadata":{{}}}}"#
        )
    }

    fn response_usage(&self) -> String {
        let Reply { tokens_in, tokens_out, .. } = self;
        let total = tokens_in + tokens_out;
        format!(
            r#"{{"input_tokens":{tokens_in},"input_tokens_details":{{"cached_tokens":0}},
                "output_tokens":{tokens_out},"output_tokens_details":{{"reasoning_tokens":0}},
                "total_tokens":{total}}}"#
        )
    }

    /// `POST /v1/embeddings`
    pub(super) fn embeddings(&self) -> EchoReply {
        let Reply { model, tokens_in, .. } = self;
        let mut list = String::new();
        for index in 0..self.reading.inputs {
            let vector = self.vector(index);
            let vector = if self.reading.base64 {
                format!(r#""{}""#, base64(&vector))
            } else {
                format!("[{}]", listed(&vector))
            };
            let comma = if index == 0 { "" } else { "," };
            list.push_str(&format!(
                r#"{comma}{{"object":"embedding","index":{index},"embedding":{vector}}}"#
            ));
        }
        let usage = format!(r#"{{"prompt_tokens":{tokens_in},"total_tokens":{tokens_in}}}"#);
        compact(&format!(r#"{{"object":"list","data":[{list}],"model":{model},"usage":{usage}}}"#))
    }
}

/// Numbers as OpenAI packs them: little-endian `f32`, in base64 with padding.
pub(super) fn base64(values: &[f32]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            // Three bytes fill four digits, two fill three, one fills two.
            if place > chunk.len() {
                text.push('=');
            } else {
                text.push(char::from(DIGITS[(bits >> (18 - 6 * place) & 63) as usize]));
            }
        }
    }
    text
}
