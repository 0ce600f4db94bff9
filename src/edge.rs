//! Every error of a layer below, as what the caller is told: the only mapping, and no other file
//! writes error text.
//!
//! Each `match` is exhaustive without a catch-all, so that a new error cannot be forgotten here. No
//! text names an upstream's address, a credential or a key.

use crate::dialect::ask::AskError;
use crate::dialect::models::ListError;
use crate::dialect::path::PathError;
use crate::dialect::refusal::{Code, Refusal};
use crate::dialect::rewrite::StreamError;
use crate::failure::{Cause, Failure, Phase, Unstored};
use crate::money;
use crate::route::plan::RouteError;
use crate::route::quota::{Spent, Window};
use crate::route::rate::Limited;
use crate::route::snapshot::KeyError;
use crate::wire::WireError;
use crate::wire::coding::CodingError;
use crate::wire::multipart::FormError;
use crate::wire::websocket::HandshakeError;

/// After an error of the grammar nothing on the connection can be trusted.
impl From<WireError> for Refusal {
    fn from(error: WireError) -> Refusal {
        let (code, message) = match error {
            WireError::RequestLine => (Code::BadRequest, "the request line is malformed"),
            WireError::TargetTooLong => (Code::TargetTooLong, "the request line is too long"),
            WireError::Target => (Code::BadRequest, "the target has bytes that no URL may have"),
            WireError::TargetForm => (Code::BadRequest, "this is no proxy for other hosts"),
            WireError::Version => {
                (Code::VersionNotSupported, "only HTTP/1.0 and HTTP/1.1 are spoken here")
            }
            WireError::HeadTooLong => (Code::HeadTooLarge, "the request's head is too large"),
            WireError::TooManyFields => (Code::HeadTooLarge, "the request has too many headers"),
            WireError::LineEnd => (Code::BadRequest, "a line of the head does not end in CRLF"),
            WireError::FieldName => (Code::BadRequest, "a header's name is malformed"),
            WireError::FieldValue => (Code::BadRequest, "a header's value has a control character"),
            WireError::HostMissing => (Code::BadRequest, "the header `host` is missing"),
            WireError::HostTwice => (Code::BadRequest, "the header `host` stands there twice"),
            WireError::Host => (Code::BadRequest, "the host is malformed"),
            WireError::Length => (Code::BadRequest, "`content-length` is not a number"),
            WireError::LengthTwice => (Code::BadRequest, "`content-length` stands there twice"),
            WireError::LengthWithCoding => {
                (Code::BadRequest, "`content-length` and `transfer-encoding` exclude each other")
            }
            WireError::CodingInHttp10 => (Code::BadRequest, "HTTP/1.0 has no `transfer-encoding`"),
            WireError::CodingTwice => (Code::BadRequest, "`transfer-encoding` stands there twice"),
            WireError::Coding => (Code::NotImplemented, "the only transfer coding is `chunked`"),
            WireError::Expectation => {
                (Code::ExpectationFailed, "the only expectation is `100-continue`")
            }
            WireError::BodyTooLong => (Code::BodyTooLarge, "the request's body is too large"),
            WireError::ChunkSize => (Code::BadRequest, "a chunk's size is malformed"),
            WireError::ChunkLine => (Code::BadRequest, "a chunk's first line is malformed"),
            WireError::ChunkEnd => (Code::BadRequest, "a chunk does not end in CRLF"),
            WireError::ExtensionsTooLong => {
                (Code::BadRequest, "the chunk extensions are too large")
            }
            WireError::TrailersTooLong => (Code::BadRequest, "the trailers are too large"),
            WireError::Trailer => (Code::BadRequest, "a trailer is malformed"),
            WireError::Truncated => (Code::BadRequest, "the request ends before it is whole"),
        };
        // Clients repeat every 5xx by themselves; these two would fail for ever.
        let should_retry = (code.status() >= 500).then_some(false);
        Refusal { close: true, should_retry, ..Refusal::new(code, message) }
    }
}

impl From<KeyError> for Refusal {
    fn from(error: KeyError) -> Refusal {
        let message = match error {
            KeyError::Unknown => return Refusal::unauthorized(),
            KeyError::Slowed { seconds } => return Refusal::slowed(seconds),
            KeyError::Expired => "unauthorized: the API key has expired",
            KeyError::Elsewhere => "unauthorized: the API key may not be used from this address",
            KeyError::Opened => {
                "unauthorized: a reply is not opened as a page; send the API key in a header"
            }
        };
        Refusal::new(Code::Unauthorized, message)
    }
}

impl From<PathError> for Refusal {
    fn from(error: PathError) -> Refusal {
        let (code, message, allow) = match error {
            PathError::Percent => (Code::BadRequest, "the path's percent-encoding is broken", None),
            PathError::NotUtf8 => (Code::BadRequest, "the path is not UTF-8", None),
            PathError::Character => {
                (Code::BadRequest, "the path has a control character, backslash or fragment", None)
            }
            PathError::DotSegment => (Code::BadRequest, "the path has a segment `.` or `..`", None),
            PathError::EncodedSlash => {
                (Code::BadRequest, "the path has an encoded slash outside a model's id", None)
            }
            PathError::ModelEmpty => (Code::BadRequest, "the path names no model", None),
            PathError::ModelTooLong => (Code::BadRequest, "the model's name is too long", None),
            PathError::NotFound => (Code::PathNotFound, "there is no such path", None),
            PathError::UnknownScope => {
                (Code::PathNotFound, "the path begins with no provider's name", None)
            }
            PathError::MethodNotAllowed(methods) => {
                (Code::MethodNotAllowed, "this path has other methods, see `allow`", Some(methods))
            }
        };
        Refusal { allow, ..Refusal::new(code, message) }
    }
}

impl From<AskError> for Refusal {
    fn from(error: AskError) -> Refusal {
        let message = match error {
            AskError::Empty => "the body is empty; this path needs JSON",
            AskError::NotJson => "the body is not JSON",
            AskError::NotAnObject => "the body is not a JSON object",
            AskError::Truncated => "the body ends inside its JSON",
            AskError::TooDeep => "the body's JSON is nested too deeply",
            AskError::BodyNotTaken => "this method takes no body here",
            AskError::ModelMissing => "the body has no `model`",
            AskError::ModelTwice => "the body names a model twice",
            AskError::ModelNotText => "the model's name is not a string",
            AskError::ModelEmpty => "the model's name is empty",
            AskError::ModelTooLong => "the model's name is too long",
            AskError::ModelControl => "the model's name has a control character",
            AskError::ModelDots => "the model's name has a segment `.` or `..`",
            AskError::StreamTwice => "the body has `stream` twice",
            AskError::StreamOptionsTwice => "the body has `stream_options` twice",
            AskError::KeyMisspelt => {
                "the body has a key in another case than this API writes it, such as `Model`"
            }
            AskError::BodyModelMismatch => "the body names another model than the path",
            AskError::OtherModel => "this connection serves another model; open one for each",
            AskError::TooManyModels => "the body names too many models",
            AskError::OtherProvider => {
                "the models of a batch are served by one provider; make a batch for each"
            }
        };
        Refusal::new(Code::BadRequest, message)
    }
}

impl From<Unstored> for Refusal {
    fn from(unstored: Unstored) -> Refusal {
        match unstored {
            Unstored::Busy => Refusal::overloaded(),
            Unstored::Failed => Refusal {
                close: true,
                message: "overloaded: the gateway's disk has no room for this form; put its field \
                          `model` before the file"
                    .into(),
                ..Refusal::overloaded()
            },
        }
    }
}

impl From<CodingError> for Refusal {
    fn from(error: CodingError) -> Refusal {
        match error {
            CodingError::Unknown => Refusal::new(
                Code::CodingUnknown,
                "a request's body may be compressed with gzip, zstd or deflate, once",
            ),
            CodingError::Broken => {
                Refusal::new(Code::BadRequest, "the body is not what its `content-encoding` says")
            }
            CodingError::TooLong => {
                Refusal::new(Code::BodyTooLarge, "the request's body is too large, unpacked")
            }
        }
    }
}

impl From<HandshakeError> for Refusal {
    fn from(error: HandshakeError) -> Refusal {
        let message = match error {
            HandshakeError::NoUpgrade => {
                "a WebSocket needs HTTP/1.1, `connection: upgrade` and no body"
            }
            HandshakeError::Version => "the only version of WebSocket is 13",
            HandshakeError::Key => "`sec-websocket-key` is missing or malformed",
        };
        Refusal::new(Code::BadRequest, message)
    }
}

impl From<FormError> for Refusal {
    fn from(error: FormError) -> Refusal {
        let message = match error {
            FormError::Boundary => {
                "this path needs a body of the type multipart/form-data, said once, with one \
                 boundary as RFC 2046 has it"
            }
            FormError::Delimiter => {
                "the form's boundary may stand only at its beginning or behind CRLF, and only `--` \
                 or CRLF may follow it: choose one that no part holds, and end lines with CRLF"
            }
            FormError::PartHead => {
                "the head of a part of the form is malformed or too long, or could be read in two \
                 ways: it has one `content-disposition: form-data` with one plain `name`, and its \
                 lines end with CRLF"
            }
            FormError::FileName => {
                "the name of a file in the form could be read in two ways: write it behind the \
                 part's `name`, without a backslash before a quote or at its end (`%22` is a \
                 quote), and without `name` behind a semicolon"
            }
            FormError::ModelTwice => "the form names a model twice",
            FormError::ModelField => {
                "the form's field `model` must be plain text in UTF-8: no file, not encoded, of no \
                 other type than text/plain"
            }
            FormError::Unclosed => "the form ends without its last boundary",
        };
        Refusal { close: true, ..Refusal::new(Code::BadRequest, message) }
    }
}

impl From<RouteError> for Refusal {
    fn from(error: RouteError) -> Refusal {
        match error {
            RouteError::ProviderPrefix => Refusal::new(
                Code::ProviderPrefix,
                "provider prefix missing: write the model as `provider/model`, use a scoped path \
                 (`/{provider}/v1/...`), or define an alias for this name",
            ),
            RouteError::NoSuchModel => Refusal::new(Code::ModelNotFound, "there is no such model"),
            RouteError::Forbidden => {
                Refusal::new(Code::Forbidden, "forbidden: model not permitted for this user")
            }
            RouteError::ForbiddenFiles => Refusal::new(
                Code::Forbidden,
                "forbidden: files of this provider are not permitted for this user",
            ),
            RouteError::ForbiddenProvider => Refusal::new(
                Code::Forbidden,
                "forbidden: model not named, and not every model of this provider is permitted \
                 for this user",
            ),
            RouteError::Unmetered => Refusal::new(
                Code::Forbidden,
                "forbidden: no reply to this call tells what it costs, so the quota of this user \
                 could not count it; `unmetered = \"serve\"` in [ledger] lets it pass uncounted",
            ),
            RouteError::NoSuchProvider => Refusal::new(
                Code::ProviderPrefix,
                "there is no provider of the name in `x-gproxy-provider`",
            ),
            RouteError::DialectNotSpoken(spoken) => Refusal::new(
                Code::DialectNotSpoken,
                format!(
                    "the provider of this model does not speak this path's dialect; it speaks: \
                     {spoken}"
                ),
            ),
        }
    }
}

impl From<Spent> for Refusal {
    fn from(spent: Spent) -> Refusal {
        let [used, reserved, ceiling] =
            [spent.used, spent.reserved, spent.ceiling].map(money::text);
        let window = match spent.window {
            Window::Total => "in all".to_owned(),
            window => format!("a {}", window.name()),
        };
        let message = format!(
            "quota_exceeded: {used} USD used and {reserved} USD reserved of {ceiling} USD {window}"
        );
        Refusal::new(Code::QuotaExceeded, message)
    }
}

impl From<Limited> for Refusal {
    fn from(limited: Limited) -> Refusal {
        let rule = rule_of(&limited);
        let Limited { counter, limit, reset_ms, .. } = limited;
        let Some(reset_ms) = reset_ms.filter(|_| limit > 0) else {
            return Refusal::never_allowed(&rule, counter, limit);
        };
        let seconds = u32::try_from(reset_ms.max(1).unsigned_abs().div_ceil(1_000));
        Refusal::rate_limited(&rule, counter, limit, seconds.unwrap_or(u32::MAX))
    }
}

fn rule_of(limited: &Limited) -> String {
    match limited.of_key {
        true => format!("the API key `{}`", limited.pattern),
        false => format!("the rule for `{}`", limited.pattern),
    }
}

/// A limit that is reached, told to somebody who calls nobody and waits for nothing.
pub fn reached(limited: Limited) -> Refusal {
    match limited.limit {
        0 => limited.into(),
        limit => Refusal::limit_reached(&rule_of(&limited), limited.counter, limit),
    }
}

impl From<ListError> for Refusal {
    fn from(error: ListError) -> Refusal {
        let message = match error {
            ListError::PageSize => "the page's size must be a number from 1 to 1000",
            ListError::Cursor => "the page begins at a model that is not in the list",
            ListError::TwoCursors => "`after_id` and `before_id` exclude each other",
        };
        Refusal::new(Code::BadRequest, message)
    }
}

impl From<StreamError> for Refusal {
    fn from(error: StreamError) -> Refusal {
        let (code, message) = match error {
            StreamError::EventTooLong => {
                (Code::UpstreamBroken, "an event of the upstream's stream is too large")
            }
            StreamError::Unfinished => {
                (Code::UpstreamBroken, "the upstream's stream ended without its last event")
            }
        };
        Refusal { should_retry: Some(false), ..Refusal::new(code, message) }
    }
}

const NO_TOKEN: &str = "upstream unreachable: the provider's account gets no access token";

/// Clients repeat a 5xx by themselves. They are told not to where the next attempt would end the
/// same way, or where the upstream may have served, and billed, the one before.
impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        let never = Some(false);
        let (code, should_retry, message) = match failure.cause {
            Cause::NoSuchHost => {
                (Code::UpstreamUnreachable, never, "upstream unreachable: its host is not found")
            }
            Cause::Unreachable => {
                (Code::UpstreamUnreachable, None, "upstream unreachable: no connection")
            }
            Cause::Fenced => (
                Code::UpstreamFenced,
                never,
                "upstream fenced: the provider's address may not be called",
            ),
            Cause::TlsRefused => {
                (Code::UpstreamUnreachable, never, "upstream unreachable: no trusted TLS session")
            }
            Cause::ProxyRefused => (
                Code::UpstreamUnreachable,
                never,
                "upstream unreachable: the outbound proxy refused",
            ),
            Cause::Exhausted => return Refusal::exhausted(),
            Cause::NoToken => (Code::UpstreamUnreachable, None, NO_TOKEN),
            // Until somebody mends it.
            Cause::AccountRefused => (Code::UpstreamUnreachable, never, NO_TOKEN),
            // The last two are unreachable: whoever wishes to be told goes on reading, and what was
            // overtaken is told by what overtook it.
            Cause::TimedOut | Cause::Quiet | Cause::Overtaken => return timed_out(failure.phase),
            Cause::Disconnected => match failure.phase {
                Phase::Relay => {
                    (Code::UpstreamBroken, None, "the upstream broke off within its answer")
                }
                Phase::Resolve | Phase::Connect | Phase::Tls => {
                    (Code::UpstreamUnreachable, None, "upstream unreachable: no connection")
                }
                Phase::Send | Phase::AwaitHead => {
                    (Code::UpstreamBroken, None, "the upstream closed the connection unanswered")
                }
            },
            Cause::Malformed => {
                (Code::UpstreamBroken, never, "the upstream's answer is not sound HTTP")
            }
            Cause::DownstreamGone => {
                (Code::DownstreamGone, None, "the caller left before the answer")
            }
            Cause::ShuttingDown => return Refusal::shutting_down(),
        };
        let close = code == Code::DownstreamGone;
        Refusal { should_retry, close, ..Refusal::new(code, message) }
    }
}

fn timed_out(phase: Phase) -> Refusal {
    let (should_retry, message) = match phase {
        Phase::Resolve => (None, "upstream too slow: its host was not resolved in time"),
        Phase::Connect => (None, "upstream too slow: no connection in time"),
        Phase::Tls => (None, "upstream too slow: no TLS session in time"),
        Phase::Send => (None, "upstream too slow: it did not take the request in time"),
        Phase::AwaitHead => (Some(false), "upstream too slow: it did not answer in time"),
        Phase::Relay => (Some(false), "upstream too slow: it fell silent within its answer"),
    };
    Refusal { should_retry, ..Refusal::new(Code::UpstreamTimeout, message) }
}

#[cfg(test)]
mod tests;
