//! What a caller is told when we answer ourselves, in the shape that his client can read.
//!
//! A refusal is plain data; here it becomes each family's JSON or a stream's error event, so that
//! the official clients raise their typed exceptions with the message readable. Whatever a message
//! quotes is escaped. Which error becomes which refusal is `edge.rs`'s to say.

use super::path::base_paths;
use super::{Dialect, Family};
use crate::wire::header;
use crate::wire::json::escape;
use std::borrow::Cow;

/// Who has to change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The caller.
    Downstream,
    /// The provider.
    Upstream,
    /// We, or whoever runs us.
    Gateway,
}

/// Sorts of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The request broke a rule.
    BadRequest,
    /// The model's name leads to no provider.
    ProviderPrefix,
    /// The provider does not speak the caller's dialect.
    DialectNotSpoken,
    /// No key that counts.
    Unauthorized,
    /// The user's quota is spent.
    QuotaExceeded,
    /// The user may not call the model.
    Forbidden,
    /// The model does not exist.
    ModelNotFound,
    /// The path does not exist.
    PathNotFound,
    /// The path exists, for other methods.
    MethodNotAllowed,
    /// The request came too slowly.
    Timeout,
    /// The body is too large.
    BodyTooLarge,
    /// The target is too long.
    TargetTooLong,
    /// The body is in a coding that we do not unpack.
    CodingUnknown,
    /// We meet no such expectation.
    ExpectationFailed,
    /// A rate limit was reached.
    RateLimited,
    /// The head is too large.
    HeadTooLarge,
    /// The caller left before he was answered; for the log alone.
    DownstreamGone,
    /// We broke.
    Internal,
    /// We do not do that.
    NotImplemented,
    /// There is no way to the upstream.
    UpstreamUnreachable,
    /// The provider's address is one that we may not call.
    UpstreamFenced,
    /// The upstream's answer was none.
    UpstreamBroken,
    /// We have no room for one more.
    Overloaded,
    /// We are stopping.
    ShuttingDown,
    /// The upstream did not answer in time.
    UpstreamTimeout,
    /// We do not speak that version of HTTP.
    VersionNotSupported,
}

/// How a code looks: for logs, and to each family.
struct Look {
    code: Code,
    status: u16,
    fault: Fault,
    name: &'static str,
    native: &'static Native,
}

/// The words that each family has for a sort of refusal.
struct Native {
    openai_type: &'static str,
    openai_code: Option<&'static str>,
    anthropic: &'static str,
    gemini: &'static str,
}

const fn native(
    openai_type: &'static str,
    openai_code: Option<&'static str>,
    anthropic: &'static str,
    gemini: &'static str,
) -> Native {
    Native { openai_type, openai_code, anthropic, gemini }
}

const REQUEST: &str = "invalid_request_error";
const SERVER: &str = "server_error";
const QUOTA: &str = "insufficient_quota";
const RATE: &str = "rate_limit_error";
const SLOW: &str = "timeout_error";
const LATE: &str = "DEADLINE_EXCEEDED";

static BAD: Native = native(REQUEST, None, REQUEST, "INVALID_ARGUMENT");
static NO_KEY: Native =
    native(REQUEST, Some("invalid_api_key"), "authentication_error", "UNAUTHENTICATED");
static SPENT: Native = native(QUOTA, Some(QUOTA), "billing_error", "FAILED_PRECONDITION");
static NOT_YOURS: Native =
    native(REQUEST, Some("model_not_allowed"), "permission_error", "PERMISSION_DENIED");
static NOT_THERE: Native = native(REQUEST, Some("model_not_found"), "not_found_error", "NOT_FOUND");
static TOO_SLOW: Native = native(REQUEST, None, SLOW, LATE);
static TOO_LARGE: Native = native(REQUEST, None, "request_too_large", "INVALID_ARGUMENT");
static TOO_OFTEN: Native = native(RATE, Some("rate_limit_exceeded"), RATE, "RESOURCE_EXHAUSTED");
static GONE: Native = native(REQUEST, None, REQUEST, "CANCELLED");
static BROKEN: Native = native(SERVER, None, "api_error", "INTERNAL");
static NOT_DONE: Native = native(REQUEST, None, REQUEST, "UNIMPLEMENTED");
static UPSTREAM: Native = native(SERVER, None, "api_error", "UNAVAILABLE");
static BUSY: Native = native(SERVER, None, "overloaded_error", "UNAVAILABLE");
static UPSTREAM_SLOW: Native = native(SERVER, None, SLOW, LATE);

/// In the order of [`Code::ALL`].
static LOOKS: [Look; Code::ALL.len()] = {
    use Fault::{Downstream, Gateway, Upstream};
    [
        look(Code::BadRequest, 400, Downstream, "bad_request", &BAD),
        look(Code::ProviderPrefix, 400, Downstream, "provider_prefix", &BAD),
        look(Code::DialectNotSpoken, 400, Downstream, "dialect_not_spoken", &BAD),
        look(Code::Unauthorized, 401, Downstream, "unauthorized", &NO_KEY),
        look(Code::QuotaExceeded, 402, Downstream, "quota_exceeded", &SPENT),
        look(Code::Forbidden, 403, Downstream, "forbidden", &NOT_YOURS),
        look(Code::ModelNotFound, 404, Downstream, "model_not_found", &NOT_THERE),
        look(Code::PathNotFound, 404, Downstream, "path_not_found", &NOT_THERE),
        look(Code::MethodNotAllowed, 405, Downstream, "method_not_allowed", &BAD),
        look(Code::Timeout, 408, Downstream, "timeout", &TOO_SLOW),
        look(Code::BodyTooLarge, 413, Downstream, "body_too_large", &TOO_LARGE),
        look(Code::TargetTooLong, 414, Downstream, "target_too_long", &BAD),
        look(Code::CodingUnknown, 415, Downstream, "coding_unknown", &BAD),
        look(Code::ExpectationFailed, 417, Downstream, "expectation_failed", &BAD),
        look(Code::RateLimited, 429, Downstream, "rate_limited", &TOO_OFTEN),
        look(Code::HeadTooLarge, 431, Downstream, "head_too_large", &BAD),
        look(Code::DownstreamGone, 499, Downstream, "downstream_gone", &GONE),
        look(Code::Internal, 500, Gateway, "internal", &BROKEN),
        look(Code::NotImplemented, 501, Downstream, "not_implemented", &NOT_DONE),
        look(Code::UpstreamUnreachable, 502, Upstream, "upstream_unreachable", &UPSTREAM),
        look(Code::UpstreamFenced, 502, Upstream, "upstream_fenced", &UPSTREAM),
        look(Code::UpstreamBroken, 502, Upstream, "upstream_broken", &UPSTREAM),
        look(Code::Overloaded, 503, Gateway, "overloaded", &BUSY),
        look(Code::ShuttingDown, 503, Gateway, "shutting_down", &BUSY),
        look(Code::UpstreamTimeout, 504, Upstream, "upstream_timeout", &UPSTREAM_SLOW),
        look(Code::VersionNotSupported, 505, Downstream, "version_not_supported", &BAD),
    ]
};

const fn look(
    code: Code,
    status: u16,
    fault: Fault,
    name: &'static str,
    native: &'static Native,
) -> Look {
    Look { code, status, fault, name, native }
}

impl Code {
    /// Every code.
    pub const ALL: [Code; 26] = [
        Code::BadRequest,
        Code::ProviderPrefix,
        Code::DialectNotSpoken,
        Code::Unauthorized,
        Code::QuotaExceeded,
        Code::Forbidden,
        Code::ModelNotFound,
        Code::PathNotFound,
        Code::MethodNotAllowed,
        Code::Timeout,
        Code::BodyTooLarge,
        Code::TargetTooLong,
        Code::CodingUnknown,
        Code::ExpectationFailed,
        Code::RateLimited,
        Code::HeadTooLarge,
        Code::DownstreamGone,
        Code::Internal,
        Code::NotImplemented,
        Code::UpstreamUnreachable,
        Code::UpstreamFenced,
        Code::UpstreamBroken,
        Code::Overloaded,
        Code::ShuttingDown,
        Code::UpstreamTimeout,
        Code::VersionNotSupported,
    ];

    /// The HTTP status.
    pub fn status(self) -> u16 {
        self.look().status
    }

    /// A name for logs and metrics.
    pub fn name(self) -> &'static str {
        self.look().name
    }

    fn look(self) -> &'static Look {
        let look = &LOOKS[self as usize];
        debug_assert!(look.code == self);
        look
    }
}

/// A request that we answer ourselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Who has to change something.
    pub fault: Fault,
    /// The HTTP status.
    pub status: u16,
    /// Which sort it is.
    pub code: Code,
    /// The sentence for people; its first words are documented and stay.
    pub message: Cow<'static, str>,
    /// `retry-after`, in seconds.
    pub retry_after_s: Option<u32>,
    /// `x-should-retry`: `false` where repeating cannot help, though a client would by itself.
    pub should_retry: Option<bool>,
    /// `allow`, for a 405.
    pub allow: Option<&'static str>,
    /// Nothing more can be read on this connection.
    pub close: bool,
    /// What the caller called us, for the base URL that a 404 names.
    pub authority: Option<Box<str>>,
}

/// From this `retry-after` on, a client is told not to wait: some would wait for hours.
const RETRY_AFTER_S_MAX: u32 = 60;

impl Refusal {
    /// A refusal with its code's usual status and fault, and nothing else.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Refusal {
        let Look { status, fault, .. } = *code.look();
        Refusal {
            fault,
            status,
            code,
            message: message.into(),
            retry_after_s: None,
            should_retry: None,
            allow: None,
            close: false,
            authority: None,
        }
    }

    /// One text for a missing, an unknown and a disabled key.
    pub fn unauthorized() -> Refusal {
        Refusal::new(
            Code::Unauthorized,
            "unauthorized: the API key is missing, unknown or disabled",
        )
    }

    /// Every place is taken: connections, requests in flight, or memory.
    pub fn overloaded() -> Refusal {
        Refusal {
            retry_after_s: Some(1),
            ..Refusal::new(Code::Overloaded, "overloaded: the gateway has no room for this request")
        }
    }

    /// There is no descriptor for a connection to the provider.
    pub fn exhausted() -> Refusal {
        Refusal {
            message: "overloaded: the gateway has no descriptor for another connection".into(),
            ..Refusal::overloaded()
        }
    }

    /// The connection is one too many.
    pub fn too_many_connections() -> Refusal {
        Refusal {
            message: "overloaded: too many connections".into(),
            close: true,
            ..Refusal::overloaded()
        }
    }

    /// The process stops. The next connection may reach another one.
    pub fn shutting_down() -> Refusal {
        Refusal {
            retry_after_s: Some(1),
            close: true,
            ..Refusal::new(Code::ShuttingDown, "the gateway is shutting down")
        }
    }

    /// The request did not arrive in time.
    pub fn timeout() -> Refusal {
        Refusal {
            close: true,
            ..Refusal::new(Code::Timeout, "timeout: the request took too long to arrive")
        }
    }

    /// Too many wrong keys came from the caller's address, for so many seconds more.
    pub fn slowed(retry_after_s: u32) -> Refusal {
        let message = format!(
            "rate_limited: too many wrong API keys came from this address; try again in \
             {retry_after_s} s"
        );
        Refusal { retry_after_s: Some(retry_after_s), ..Refusal::new(Code::RateLimited, message) }
    }

    /// What `rule` names, of the user's or of his key, is reached for `retry_after_s` seconds.
    pub fn rate_limited(rule: &str, counter: &str, limit: u64, retry_after_s: u32) -> Refusal {
        let message = format!(
            "rate_limited: {rule} allows {counter} = {limit}; there may be room in \
             {retry_after_s} s"
        );
        Refusal {
            retry_after_s: Some(retry_after_s),
            should_retry: (retry_after_s > RETRY_AFTER_S_MAX).then_some(false),
            ..Refusal::new(Code::RateLimited, message)
        }
    }

    /// What `rule` names is reached; for how long is not known.
    pub fn limit_reached(rule: &str, counter: &str, limit: u64) -> Refusal {
        let message = format!("rate_limited: {rule} allows {counter} = {limit}, which is reached");
        Refusal::new(Code::RateLimited, message)
    }

    /// What `rule` names has no room for such a request, now or later.
    pub fn never_allowed(rule: &str, counter: &str, limit: u64) -> Refusal {
        let message = match limit {
            0 => format!("rate_limited: {rule} allows none ({counter} = 0)"),
            _ => format!(
                "rate_limited: {rule} allows {counter} = {limit}, and this request may use more"
            ),
        };
        Refusal { should_retry: Some(false), ..Refusal::new(Code::RateLimited, message) }
    }

    /// The request names no model, and several providers could serve it.
    pub fn which_provider<'n>(names: impl Iterator<Item = &'n str>) -> Refusal {
        let names: Vec<&str> = names.collect();
        let message = format!(
            "provider missing: this request names no model; send the header \
             `x-gproxy-provider` or use a scoped path (`/{{provider}}/v1/...`); these fit: {}",
            names.join(", ")
        );
        Refusal::new(Code::ProviderPrefix, message)
    }

    /// The upstream refused a handshake, which a caller within a session cannot be shown.
    pub fn not_opened(status: u16) -> Refusal {
        let message = format!("the upstream refused the connection with status {status}");
        Refusal::new(Code::UpstreamBroken, message)
    }

    /// What an upstream answered to a request whose stream had begun before.
    pub fn answered(status: u16, said: Option<&str>) -> Refusal {
        let code = match status {
            429 => Code::RateLimited,
            503 | 529 => Code::Overloaded,
            400..=499 => Code::BadRequest,
            _ => Code::UpstreamBroken,
        };
        let message = match said {
            _ if status < 400 => "the upstream answered with something else than a stream".into(),
            Some(said) => format!("the upstream answered {status}: {said}"),
            None => format!("the upstream answered {status}"),
        };
        let status = if status < 400 { code.status() } else { status };
        Refusal { status, fault: Fault::Upstream, ..Refusal::new(code, message) }
    }

    /// Something of ours broke. The same request would most likely break it again.
    pub fn internal() -> Refusal {
        Refusal {
            should_retry: Some(false),
            ..Refusal::new(Code::Internal, "internal error of the gateway")
        }
    }

    /// The same, with the model that it is about quoted.
    pub fn about_model(mut self, model: &str) -> Refusal {
        self.message = Cow::Owned(format!("{} (model: `{model}`)", self.message));
        self
    }

    /// The same, with the host and port that the caller knows us by.
    pub fn at(mut self, authority: Option<&str>) -> Refusal {
        self.authority = authority.map(Box::from);
        self
    }

    /// The JSON body in a family's shape.
    pub fn body(&self, family: Family, request_id: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        let message = self.text(family);
        match family {
            Family::Openai => self.openai(&message, &mut out),
            Family::Anthropic => self.anthropic(&message, Some(request_id), &mut out),
            Family::Gemini => self.gemini(&message, &mut out),
        }
        out
    }

    /// The event that ends a stream of this dialect which has already begun.
    pub fn event(&self, dialect: Dialect) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        let message = self.text(dialect.family());
        match dialect {
            Dialect::OpenaiChat | Dialect::OpenaiEmbeddings => {
                out.extend_from_slice(b"data: ");
                self.openai(&message, &mut out);
                out.extend_from_slice(b"\n\n");
            }
            Dialect::OpenaiResponses => {
                let Native { openai_type, openai_code, .. } = self.code.look().native;
                out.extend_from_slice(b"event: error\ndata: {\"type\":\"error\",\"code\":");
                escape(openai_code.unwrap_or(openai_type), &mut out);
                out.extend_from_slice(b",\"message\":");
                escape(&message, &mut out);
                out.extend_from_slice(b",\"param\":null,\"sequence_number\":0}\n\n");
            }
            Dialect::Anthropic => {
                out.extend_from_slice(b"event: error\ndata: ");
                self.anthropic(&message, None, &mut out);
                out.extend_from_slice(b"\n\n");
            }
            // Only `data: ` and CRLF, as the upstream writes them: its clients know nothing else.
            Dialect::Gemini => {
                out.extend_from_slice(b"data: ");
                self.gemini(&message, &mut out);
                out.extend_from_slice(b"\r\n\r\n");
            }
        }
        out
    }

    /// Writes the fields that belong to this answer. Request ids, `content-length` and `connection`
    /// are the caller's to add.
    pub fn fields(&self, out: &mut Vec<u8>) {
        header::field("content-type", b"application/json", out);
        header::field("x-gproxy-source", b"gateway", out);
        if let Some(seconds) = self.retry_after_s {
            header::field_number("retry-after", u64::from(seconds), out);
        }
        if let Some(should) = self.should_retry {
            header::field("x-should-retry", if should { b"true" } else { b"false" }, out);
        }
        if let Some(methods) = self.allow {
            header::field("allow", methods.as_bytes(), out);
        }
    }

    /// The message; of an unknown path it goes on with the base URL that the family's clients want.
    fn text(&self, family: Family) -> Cow<'_, str> {
        if self.code != Code::PathNotFound {
            return Cow::Borrowed(&self.message);
        }
        let clients = match family {
            Family::Openai => "OpenAI",
            Family::Anthropic => "Anthropic",
            Family::Gemini => "Gemini",
        };
        let authority = self.authority.as_deref().unwrap_or("<this gateway>");
        let (all, one) = base_paths(family);
        Cow::Owned(format!(
            "{}: the base URL for {clients} clients is http://{authority}{all} for every provider, \
             http://{authority}{one} for one",
            self.message
        ))
    }

    fn openai(&self, message: &str, out: &mut Vec<u8>) {
        let Native { openai_type, openai_code, .. } = self.code.look().native;
        out.extend_from_slice(b"{\"error\":{\"message\":");
        escape(message, out);
        out.extend_from_slice(b",\"type\":");
        escape(openai_type, out);
        out.extend_from_slice(b",\"param\":null,\"code\":");
        match openai_code {
            Some(code) => escape(code, out),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b"}}");
    }

    fn anthropic(&self, message: &str, request_id: Option<&str>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"type\":\"error\",\"error\":{\"type\":");
        escape(self.code.look().native.anthropic, out);
        out.extend_from_slice(b",\"message\":");
        escape(message, out);
        out.push(b'}');
        if let Some(request_id) = request_id {
            out.extend_from_slice(b",\"request_id\":");
            escape(request_id, out);
        }
        out.push(b'}');
    }

    fn gemini(&self, message: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("{{\"error\":{{\"code\":{}", self.status).as_bytes());
        out.extend_from_slice(b",\"message\":");
        escape(message, out);
        out.extend_from_slice(b",\"status\":");
        escape(self.code.look().native.gemini, out);
        out.extend_from_slice(b"}}");
    }
}

#[cfg(test)]
mod tests;
