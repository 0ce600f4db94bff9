//! The route table: every call we serve, as data.
//!
//! A new endpoint is a new row. `path.rs` finds the row for a request, `ask.rs` and `rewrite.rs`
//! read from it where the model's name stands.

use super::Dialect;
use super::stored::Places;
pub use crate::wire::json::Step;

/// One call of one API family.
#[derive(Debug)]
pub struct Endpoint {
    /// Name for logs and `explain`, such as `chat.completions`.
    pub name: &'static str,
    /// The dialect that the upstream must speak.
    pub dialect: Dialect,
    /// Path below the version segment without slashes at its ends, such as `chat/completions`.
    /// For [`ModelPlace::Path`] the verb after the colon, such as `generateContent`.
    pub tail: &'static str,
    /// Where the request names the model.
    pub model: ModelPlace,
    /// Paths, in the request's JSON, of further names of the same model (with `models/` in front).
    pub body_models: &'static [&'static [Step]],
    /// Where a whole JSON reply names the model; empty when it does not.
    pub reply_model: &'static [Step],
    /// Where an event of a streamed reply names the model; empty when the call cannot stream.
    pub event_model: &'static [Step],
    /// The upstream is asked for `stream_options.include_usage` (OpenAI chat streams).
    pub usage_option: bool,
    /// It counts the tokens of a prompt, which no vendor bills.
    pub counts_tokens: bool,
    /// No vendor bills it: it asks after something, or counts.
    pub free: bool,
    /// What is exchanged where replies tell of things made earlier.
    pub places: Places,
    /// Where a whole JSON reply has each image that was made, for calls that make nothing else.
    pub images: &'static [Step],
}

impl Endpoint {
    /// Its answers are made later, and what they cost is told where nobody reads it.
    pub fn is_batch(&self) -> bool {
        matches!(self.tail, "batchGenerateContent" | "asyncBatchEmbedContent")
    }

    /// It asks after something that was made earlier, under the vendor's name for the model.
    pub fn asks_after(&self) -> bool {
        self.tail == "fetchPredictOperation"
    }
}

/// Where a request names its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelPlace {
    /// The top-level `model` of the JSON body.
    Body,
    /// The same, or nowhere: the vendor has a usual one.
    MaybeBody,
    /// The top-level `model` of the JSON body, with its collection in front: `models/{model}`.
    Resource,
    /// The path: `models/{model}:{verb}`.
    Path,
    /// The field `model` of a `multipart/form-data` body, or like [`ModelPlace::MaybeBody`] when
    /// the body is JSON.
    Multipart,
    /// The query or an event of a WebSocket: see `live.rs`.
    Event,
    /// Nowhere: see `resource.rs`.
    Nowhere,
}

const MODEL: &[Step] = &[Step::Key("model")];
const MODEL_VERSION: &[Step] = &[Step::Key("modelVersion")];
/// Of a batch of Gemini's, with its collection in front.
const BATCH_MODEL: &[Step] = &[Step::Key("metadata"), Step::Key("model")];
/// Each request of a batch may name the model again. Google's servers read both spellings.
const BATCH_MODELS: &[&[Step]] = &[
    &[
        Step::Key("batch"),
        Step::Key("inputConfig"),
        Step::Key("requests"),
        Step::Key("requests"),
        Step::Each,
        Step::Key("request"),
        Step::Key("model"),
    ],
    &[
        Step::Key("batch"),
        Step::Key("input_config"),
        Step::Key("requests"),
        Step::Key("requests"),
        Step::Each,
        Step::Key("request"),
        Step::Key("model"),
    ],
];
const NONE: &[Step] = &[];
const DATA: &[Step] = &[Step::Key("data"), Step::Each];
/// One that was held back has none. Vectors have none either.
const PREDICTED: &[Step] = &[Step::Key("predictions"), Step::Each, Step::Key("mimeType")];

impl ModelPlace {
    /// The path is `models/{model}:{verb}`, and not a fixed one.
    pub fn is_in_path(self) -> bool {
        self == ModelPlace::Path
    }
}

/// Every endpoint.
pub static ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        name: "chat.completions",
        dialect: Dialect::OpenaiChat,
        tail: "chat/completions",
        model: ModelPlace::Body,
        body_models: &[],
        reply_model: MODEL,
        event_model: MODEL,
        usage_option: true,
        counts_tokens: false,
        free: false,
        places: Places::Nothing,
        images: NONE,
    },
    Endpoint {
        name: "completions",
        dialect: Dialect::OpenaiChat,
        tail: "completions",
        model: ModelPlace::Body,
        body_models: &[],
        reply_model: MODEL,
        event_model: MODEL,
        usage_option: true,
        counts_tokens: false,
        free: false,
        places: Places::Nothing,
        images: NONE,
    },
    Endpoint {
        name: "responses",
        dialect: Dialect::OpenaiResponses,
        tail: "responses",
        model: ModelPlace::Body,
        body_models: &[],
        reply_model: MODEL,
        event_model: &[Step::Key("response"), Step::Key("model")],
        usage_option: false,
        counts_tokens: false,
        free: false,
        places: Places::Nothing,
        images: NONE,
    },
    Endpoint {
        name: "embeddings",
        dialect: Dialect::OpenaiEmbeddings,
        tail: "embeddings",
        model: ModelPlace::Body,
        body_models: &[],
        reply_model: MODEL,
        event_model: NONE,
        usage_option: false,
        counts_tokens: false,
        free: false,
        places: Places::Nothing,
        images: NONE,
    },
    Endpoint {
        name: "messages",
        dialect: Dialect::Anthropic,
        tail: "messages",
        model: ModelPlace::Body,
        body_models: &[],
        reply_model: MODEL,
        event_model: &[Step::Key("message"), Step::Key("model")],
        usage_option: false,
        counts_tokens: false,
        free: false,
        places: Places::Nothing,
        images: NONE,
    },
    Endpoint {
        name: "messages.count_tokens",
        dialect: Dialect::Anthropic,
        tail: "messages/count_tokens",
        model: ModelPlace::Body,
        body_models: &[],
        reply_model: NONE,
        event_model: NONE,
        usage_option: false,
        counts_tokens: true,
        free: false,
        places: Places::Nothing,
        images: NONE,
    },
    in_body("responses.compact", Dialect::OpenaiResponses, "responses/compact", MODEL),
    Endpoint {
        counts_tokens: true,
        ..in_body(
            "responses.input_tokens",
            Dialect::OpenaiResponses,
            "responses/input_tokens",
            NONE,
        )
    },
    Endpoint {
        model: ModelPlace::MaybeBody,
        ..in_body("moderations", Dialect::OpenaiChat, "moderations", MODEL)
    },
    Endpoint {
        model: ModelPlace::MaybeBody,
        images: DATA,
        ..in_body("images.generations", Dialect::OpenaiChat, "images/generations", NONE)
    },
    in_body("audio.speech", Dialect::OpenaiChat, "audio/speech", NONE),
    Endpoint { reply_model: MODEL, ..in_form("videos", "videos") },
    Endpoint { images: DATA, ..in_form("images.edits", "images/edits") },
    Endpoint { images: DATA, ..in_form("images.variations", "images/variations") },
    in_form("audio.transcriptions", "audio/transcriptions"),
    in_form("audio.translations", "audio/translations"),
    gemini("generateContent", &[], MODEL_VERSION),
    gemini("streamGenerateContent", &[], MODEL_VERSION),
    Endpoint {
        counts_tokens: true,
        ..gemini("countTokens", &[&[Step::Key("generateContentRequest"), Step::Key("model")]], NONE)
    },
    gemini("embedContent", &[&[Step::Key("model")]], NONE),
    gemini("batchEmbedContents", &[&[Step::Key("requests"), Step::Each, Step::Key("model")]], NONE),
    Endpoint { images: PREDICTED, ..gemini("predict", &[], NONE) },
    gemini("predictLongRunning", &[], NONE),
    gemini("batchGenerateContent", BATCH_MODELS, BATCH_MODEL),
    gemini("asyncBatchEmbedContent", BATCH_MODELS, BATCH_MODEL),
    Endpoint {
        model: ModelPlace::Resource,
        ..in_body("cachedContents.create", Dialect::Gemini, "cachedContents", MODEL)
    },
    Endpoint { free: true, ..gemini("computeTokens", &[], NONE) },
    Endpoint { free: true, ..gemini("fetchPredictOperation", &[], NONE) },
];

/// A call with a JSON body that does not stream.
const fn in_body(
    name: &'static str,
    dialect: Dialect,
    tail: &'static str,
    reply_model: &'static [Step],
) -> Endpoint {
    Endpoint { model: ModelPlace::Body, reply_model, ..nameless(name, dialect, tail) }
}

/// A call whose body is a form with a file in it.
const fn in_form(name: &'static str, tail: &'static str) -> Endpoint {
    Endpoint { model: ModelPlace::Multipart, ..nameless(name, Dialect::OpenaiChat, tail) }
}

/// A call that passes as it is and names no model.
pub(super) const fn nameless(name: &'static str, dialect: Dialect, tail: &'static str) -> Endpoint {
    Endpoint {
        name,
        dialect,
        tail,
        model: ModelPlace::Nowhere,
        body_models: &[],
        reply_model: NONE,
        event_model: NONE,
        usage_option: false,
        counts_tokens: false,
        free: false,
        places: Places::Nothing,
        images: NONE,
    }
}

const fn gemini(
    verb: &'static str,
    body_models: &'static [&'static [Step]],
    model: &'static [Step],
) -> Endpoint {
    Endpoint {
        name: verb,
        dialect: Dialect::Gemini,
        tail: verb,
        model: ModelPlace::Path,
        body_models,
        reply_model: model,
        event_model: model,
        usage_option: false,
        counts_tokens: false,
        free: false,
        places: Places::Nothing,
        images: NONE,
    }
}
