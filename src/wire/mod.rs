//! HTTP and event streams as bytes. No IO, clock, lock, configuration or provider.
//!
//! The law of incremental parsers holds for everything here: the caller owns the buffers and the
//! parser a few words of state; any division of the input gives the same output, the same error
//! and the same remainder; no call both consumes nothing and asks for nothing; bytes past the end
//! of a message are returned, never dropped; no recursion; what two readers could understand
//! differently is refused, never repaired.

pub mod body;
pub mod coding;
pub mod head;
pub mod header;
pub mod json;
pub mod multipart;
pub mod reply;
pub mod sse;
pub mod websocket;

/// Which rule of HTTP/1.1's grammar, or which limit, a downstream broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// The request line is not `method SP target SP version`.
    RequestLine,
    /// The request line is longer than [`crate::limits::TARGET_BYTES_MAX`].
    TargetTooLong,
    /// Bytes that no target may hold: blanks, controls, fragments, anything beyond ASCII.
    Target,
    /// A target form that we do not serve: authority-form, CONNECT, `*` without OPTIONS.
    TargetForm,
    /// A version other than HTTP/1.0 and HTTP/1.1.
    Version,
    /// Request line and fields together exceed the configured ceiling.
    HeadTooLong,
    /// More fields than [`crate::limits::HEADER_COUNT_MAX`].
    TooManyFields,
    /// A line that does not end in CRLF.
    LineEnd,
    /// A field name that is not a token with its colon directly behind it, or a folded line.
    FieldName,
    /// A control byte in a field value.
    FieldValue,
    /// HTTP/1.1 without `Host`.
    HostMissing,
    /// More than one `Host`.
    HostTwice,
    /// A `Host`, or the authority of an absolute-form target, that is not a host.
    Host,
    /// A `Content-Length` that is not a plain decimal number below 2^64.
    Length,
    /// More than one `Content-Length`.
    LengthTwice,
    /// `Content-Length` beside `Transfer-Encoding`.
    LengthWithCoding,
    /// `Transfer-Encoding` in HTTP/1.0.
    CodingInHttp10,
    /// More than one `Transfer-Encoding`.
    CodingTwice,
    /// A transfer coding other than `chunked`.
    Coding,
    /// An expectation other than `100-continue`.
    Expectation,
    /// The body is, or declares itself, longer than the configured ceiling.
    BodyTooLong,
    /// A chunk size that is not 1 to 16 hexadecimal digits.
    ChunkSize,
    /// A chunk's size line does not end in CRLF, or holds a control byte.
    ChunkLine,
    /// A chunk's data is not followed by CRLF.
    ChunkEnd,
    /// All chunk extensions together exceed [`crate::limits::CHUNK_EXTRA_BYTES_MAX`].
    ExtensionsTooLong,
    /// All trailer lines together exceed [`crate::limits::CHUNK_EXTRA_BYTES_MAX`].
    TrailersTooLong,
    /// A trailer that is not a field line.
    Trailer,
    /// The downstream ended its side within a head or a body.
    Truncated,
}

impl WireError {
    /// Every variant, for tables and golden files.
    pub const ALL: [WireError; 28] = [
        WireError::RequestLine,
        WireError::TargetTooLong,
        WireError::Target,
        WireError::TargetForm,
        WireError::Version,
        WireError::HeadTooLong,
        WireError::TooManyFields,
        WireError::LineEnd,
        WireError::FieldName,
        WireError::FieldValue,
        WireError::HostMissing,
        WireError::HostTwice,
        WireError::Host,
        WireError::Length,
        WireError::LengthTwice,
        WireError::LengthWithCoding,
        WireError::CodingInHttp10,
        WireError::CodingTwice,
        WireError::Coding,
        WireError::Expectation,
        WireError::BodyTooLong,
        WireError::ChunkSize,
        WireError::ChunkLine,
        WireError::ChunkEnd,
        WireError::ExtensionsTooLong,
        WireError::TrailersTooLong,
        WireError::Trailer,
        WireError::Truncated,
    ];
}
