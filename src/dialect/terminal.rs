//! Whether a stream has come to the end that its dialect knows.
//!
//! A stream may end without it although its connection says that all is well: a server that was
//! stopped, a proxy that lost the other half. SDKs then take half an answer for a whole one.
//!
//! Marks are looked for as bytes. In a text their quotes are escaped, so it cannot be taken for
//! them, except for `[DONE]`: then a stream that was broken off passes as it came.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::Dialect;
use super::endpoint::Endpoint;
use super::finish;

type Marks = LazyLock<Vec<Finder<'static>>>;

static CHAT: Marks = LazyLock::new(|| {
    // Some servers leave `[DONE]` out. A reason that is not yet known is null.
    of(&["[DONE]", "\"finish_reason\":\"", "\"finish_reason\": \"", "\"error\":"])
});
static RESPONSES: Marks = LazyLock::new(|| {
    of(&[
        "\"response.completed\"",
        "\"response.incomplete\"",
        "\"response.failed\"",
        "\"response.cancelled\"",
        "\"type\":\"error\"",
        "\"type\": \"error\"",
    ])
});
static MESSAGES: Marks =
    LazyLock::new(|| of(&["\"message_stop\"", "\"type\":\"error\"", "\"type\": \"error\""]));
static GEMINI: Marks = LazyLock::new(|| {
    of(&["\"finishReason\"", "\"finish_reason\"", "\"blockReason\"", "\"error\""])
});

fn of(marks: &[&'static str]) -> Vec<Finder<'static>> {
    marks.iter().copied().map(Finder::new).collect()
}

/// Looks for the end of one stream.
pub struct Terminal {
    /// Empty once one was found, and where the endpoint's streams have none that is known.
    marks: &'static [Finder<'static>],
}

impl Terminal {
    /// For a stream of this endpoint.
    pub fn of(endpoint: &Endpoint) -> Terminal {
        let marks: &[_] = match endpoint.dialect {
            _ if !finish::has_one(endpoint) => &[],
            Dialect::OpenaiChat => &CHAT,
            Dialect::OpenaiResponses => &RESPONSES,
            Dialect::Anthropic => &MESSAGES,
            Dialect::Gemini => &GEMINI,
            Dialect::OpenaiEmbeddings => &[],
        };
        Terminal { marks }
    }

    /// Takes note of one whole piece of the stream.
    pub fn piece(&mut self, piece: &[u8]) {
        if self.is_in(piece) {
            self.marks = &[];
        }
    }

    /// The end has not come, and is not in the bytes that are left either.
    pub fn is_missing(&self, left: &[u8]) -> bool {
        !self.marks.is_empty() && !self.is_in(left)
    }

    fn is_in(&self, piece: &[u8]) -> bool {
        self.marks.iter().any(|mark| mark.find(piece).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::endpoint::ENDPOINTS;

    #[track_caller]
    fn check(tail: &str, piece: &str, is_end: bool) {
        let endpoint = ENDPOINTS.iter().find(|endpoint| endpoint.tail == tail);
        let mut terminal = Terminal::of(endpoint.expect("an endpoint"));
        assert!(terminal.is_missing(b""), "{tail}");
        assert_eq!(terminal.is_missing(piece.as_bytes()), !is_end, "{tail} {piece}");
        terminal.piece(piece.as_bytes());
        terminal.piece(b": a comment\n\n");
        assert_eq!(terminal.is_missing(b""), !is_end, "{tail} {piece}");
    }

    #[test]
    fn each_dialect_has_its_last_events() {
        for (tail, piece, is_end) in [
            ("chat/completions", "data: [DONE]\n\n", true),
            ("chat/completions", "data: {\"choices\":[{\"finish_reason\":null}]}\n\n", false),
            ("chat/completions", "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n", true),
            ("chat/completions", "data: {\"error\":{\"message\":\"x\"}}\n\n", true),
            ("completions", "data: {\"choices\":[{\"finish_reason\": \"length\"}]}\n\n", true),
            ("chat/completions", "data: {\"x\":\"\\\"error\\\": y\"}\n\n", false),
            (
                "responses",
                "data: {\"type\":\"response.created\",\"e\":{\"error\":null}}\n\n",
                false,
            ),
            ("responses", "data: {\"type\":\"response.completed\"}\n\n", true),
            ("responses", "data: {\"type\": \"response.incomplete\"}\n\n", true),
            ("responses", "data: {\"type\":\"error\",\"message\":\"x\"}\n\n", true),
            ("messages", "data: {\"type\":\"message_delta\",\"stop_reason\":\"x\"}\n\n", false),
            ("messages", "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n", true),
            ("messages", "event: error\ndata: {\"type\":\"error\",\"error\":{}}\n\n", true),
            ("streamGenerateContent", "data: {\"candidates\":[{\"content\":{}}]}\r\n\r\n", false),
            ("streamGenerateContent", "data: {\"a\":{\"finishReason\": \"STOP\"}}\r\n\r\n", true),
            ("streamGenerateContent", "data: {\"p\":{\"blockReason\":\"SAFETY\"}}\n\n", true),
        ] {
            check(tail, piece, is_end);
        }
    }

    #[test]
    fn where_no_end_is_known_none_is_missing() {
        for endpoint in ENDPOINTS.iter().filter(|endpoint| !finish::has_one(endpoint)) {
            assert!(!Terminal::of(endpoint).is_missing(b"data: 1\n\n"), "{}", endpoint.name);
        }
    }
}
