//! What each API family says: paths, bodies, streams and errors.
//!
//! Pure: bytes in, bytes or plain data out. Knows nothing of providers, users or sockets.

pub mod ask;
pub mod batch;
pub mod count;
pub mod echo;
pub mod endpoint;
pub mod finish;
pub mod headers;
pub mod listed;
pub mod live;
pub mod models;
pub mod path;
pub mod ratelimit;
pub mod refusal;
pub mod resource;
pub mod rewrite;
pub mod stored;
pub mod terminal;
pub mod trouble;
pub mod usage;

/// A family of request, stream and error shapes that an upstream can speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// OpenAI Chat Completions and legacy completions.
    OpenaiChat,
    /// OpenAI Responses.
    OpenaiResponses,
    /// OpenAI embeddings.
    OpenaiEmbeddings,
    /// Anthropic Messages.
    Anthropic,
    /// Gemini `generateContent` and its siblings.
    Gemini,
}

/// Whose error shape a caller expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// `{"error":{"message","type","param","code"}}`
    Openai,
    /// `{"type":"error","error":{"type","message"}}`
    Anthropic,
    /// `{"error":{"code","message","status"}}`
    Gemini,
}

impl Dialect {
    /// What may stand between two events of a stream and says nothing; empty where clients would
    /// not take it. A comment is one line without a blank one behind it: to older versions of the
    /// official client in Go a blank line always ends an event, be it an empty one, which is no
    /// JSON, and to the one in Python it does so once an event had an `id`.
    pub fn keep_alive(self) -> &'static [u8] {
        match self {
            Dialect::OpenaiChat | Dialect::OpenaiResponses | Dialect::OpenaiEmbeddings => {
                b": keep-alive\n"
            }
            Dialect::Anthropic => b"event: ping\ndata: {\"type\": \"ping\"}\n\n",
            Dialect::Gemini => b"",
        }
    }

    /// Every dialect, in the order in which they are listed to people.
    pub const ALL: [Dialect; 5] = [
        Dialect::OpenaiChat,
        Dialect::OpenaiResponses,
        Dialect::OpenaiEmbeddings,
        Dialect::Anthropic,
        Dialect::Gemini,
    ];

    /// The name used in `settings.dialects` and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Dialect::OpenaiChat => "openai_chat",
            Dialect::OpenaiResponses => "openai_responses",
            Dialect::OpenaiEmbeddings => "openai_embeddings",
            Dialect::Anthropic => "anthropic",
            Dialect::Gemini => "gemini",
        }
    }

    /// The dialect of that name.
    pub fn named(name: &str) -> Option<Dialect> {
        Dialect::ALL.into_iter().find(|dialect| dialect.name() == name)
    }

    /// The error shape of its callers.
    pub fn family(self) -> Family {
        match self {
            Dialect::OpenaiChat | Dialect::OpenaiResponses | Dialect::OpenaiEmbeddings => {
                Family::Openai
            }
            Dialect::Anthropic => Family::Anthropic,
            Dialect::Gemini => Family::Gemini,
        }
    }
}

impl Family {
    /// The header in which its clients look for the id of a request.
    pub fn request_id_field(self) -> &'static str {
        match self {
            Family::Anthropic => "request-id",
            Family::Openai | Family::Gemini => "x-request-id",
        }
    }
}
