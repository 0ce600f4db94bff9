//! Pictures, sound and judgements: the least that a client takes for one.

use super::{CREATED_S, EchoReply, NO_TEXT, Reply, compact, literal};

/// A grey PNG of one pixel, in base64.
const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNo\
    AAAAggCBd81ytgAAAABJRU5ErkJggg==";

/// A WAV file of one silent sample: 8,000 Hz, one channel, 16 bits.
const SILENCE: &[u8] = b"RIFF\x26\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\
    \x02\0\x10\0data\x02\0\0\0\0\0";

impl Reply {
    /// `POST /v1/moderations`
    pub(super) fn moderation(&self) -> EchoReply {
        let Reply { id, model, .. } = self;
        let results = r#"[{"flagged":false,"categories":{},"category_scores":{}}]"#;
        compact(&format!(r#"{{"id":"modr-{id}","model":{model},"results":{results}}}"#))
    }

    /// `POST /v1/images/...`
    pub(super) fn image(&self) -> EchoReply {
        compact(&format!(r#"{{"created":{CREATED_S},"data":[{{"b64_json":"{PIXEL}"}}]}}"#))
    }

    /// `POST /v1/audio/speech`
    pub(super) fn speech(&self) -> EchoReply {
        EchoReply { status: 200, content_type: "audio/wav", pieces: vec![SILENCE.to_vec()] }
    }

    /// `POST /v1/audio/transcriptions` and `translations`
    pub(super) fn transcript(&self) -> EchoReply {
        compact(&format!(r#"{{"text":{}}}"#, literal(NO_TEXT)))
    }

    /// Gemini's calls whose answer is a promise, or numbers that nobody can make up.
    pub(super) fn predicted(&self, is_operation: bool) -> EchoReply {
        let id = &self.id;
        compact(&match is_operation {
            true => format!(r#"{{"name":"operations/{id}","done":false}}"#),
            false => r#"{"predictions":[]}"#.to_owned(),
        })
    }
}

/// What this channel keeps nothing for: files, batches, stored answers.
pub(super) fn not_kept(endpoint: &super::Endpoint) -> EchoReply {
    let message = "the channel echo keeps nothing: files, batches and stored answers need a vendor";
    let refusal = super::Refusal::new(super::Code::NotImplemented, message);
    let body = refusal.body(endpoint.dialect.family(), "");
    EchoReply { status: 501, content_type: "application/json", pieces: vec![body] }
}
