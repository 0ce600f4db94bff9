//! Anthropic's shapes: messages.

use super::{EVENTS, EchoReply, Reply, compact, literal, named, streamed};

impl Reply {
    /// `POST /v1/messages`
    pub(super) fn message(&self, stream: bool) -> EchoReply {
        if !stream {
            let content = format!(r#"{{"type":"text","text":{}}}"#, literal(&self.text));
            let usage = self.message_usage(self.tokens_out);
            return compact(&self.message_object(&content, r#""end_turn""#, &usage));
        }
        // The first count of output tokens is a placeholder, as the vendor's is.
        let begun = self.message_object("", "null", &self.message_usage(1));
        let start = format!(r#"{{"type":"message_start","message":{begun}}}"#);
        let block =
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#;
        let mut events = vec![
            named("message_start", &start),
            named("content_block_start", block),
            named("ping", r#"{"type":"ping"}"#),
        ];
        for piece in self.pieces() {
            let delta = format!(
                r#"{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta",
                    "text":{piece}}}}}"#
            );
            events.push(named("content_block_delta", &delta));
        }
        let tokens_out = self.tokens_out;
        let end = format!(
            r#"{{"type":"message_delta","delta":{{"stop_reason":"end_turn",
                "stop_sequence":null}},"usage":{{"output_tokens":{tokens_out}}}}}"#
        );
        events.push(named("content_block_stop", r#"{"type":"content_block_stop","index":0}"#));
        events.push(named("message_delta", &end));
        events.push(named("message_stop", r#"{"type":"message_stop"}"#));
        streamed(EVENTS, events)
    }

    fn message_object(&self, content: &str, stop: &str, usage: &str) -> String {
        let Reply { id, model, .. } = self;
        format!(
            r#"{{"id":"msg_{id}","type":"message","role":"assistant","model":{model},
                "content":[{content}],"stop_reason":{stop},"stop_sequence":null,
                "usage":{usage}}}"#
        )
    }

    fn message_usage(&self, tokens_out: usize) -> String {
        let tokens_in = self.tokens_in;
        format!(
            r#"{{"input_tokens":{tokens_in},"cache_creation_input_tokens":0,
                "cache_read_input_tokens":0,"cache_creation":{{"ephemeral_5m_input_tokens":0,
                "ephemeral_1h_input_tokens":0}},"output_tokens":{tokens_out},
                "service_tier":"standard"}}"#
        )
    }
}
