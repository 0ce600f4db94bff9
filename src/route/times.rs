//! How long each part of an attempt may take.

/// Limits of one attempt in time. Milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Looking up the host name.
    pub resolve_ms: u64,
    /// Opening the connection.
    pub connect_ms: u64,
    /// TLS handshake.
    pub tls_ms: u64,
    /// From the request's end to the reply's first byte.
    pub first_byte_ms: u64,
    /// Silence within the reply.
    pub between_bytes_ms: u64,
    /// All of it; ends at the first byte downstream for streams; 0 = none.
    pub total_ms: u64,
}
