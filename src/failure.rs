//! How an attempt at an upstream dies. Plain data, made where the attempt is made, read by the
//! retry decision and turned into a refusal at the edge.

/// Why bytes could not be laid aside, or not be had again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unstored {
    /// So much is laid aside already, or waits for it.
    Busy,
    /// The disk is full, or failed.
    Failed,
}

/// One attempt's end without a usable reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Where the attempt stood.
    pub phase: Phase,
    /// How much of the request may have reached the upstream.
    pub sent: Sent,
    /// What happened.
    pub cause: Cause,
    /// The connection had already served another request, and not a byte of this answer came.
    pub reused: bool,
    /// Milliseconds from the end of sending, or the beginning of the phase, to the failure.
    pub after_ms: u64,
}

/// Steps of an attempt, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Looking up the host name.
    Resolve,
    /// Opening the connection, a proxy's CONNECT included.
    Connect,
    /// TLS handshake.
    Tls,
    /// Writing the request.
    Send,
    /// Waiting for the response head.
    AwaitHead,
    /// Reading the response body.
    Relay,
}

/// How much of the request was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Not a byte.
    Nothing,
    /// Some bytes, or all of them.
    Part,
}

/// Why an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The host name does not exist or cannot be looked up.
    NoSuchHost,
    /// The connection was refused, reset, or cannot be routed.
    Unreachable,
    /// Every address of the host is one that the provider may not reach.
    Fenced,
    /// The time limit of the phase passed.
    TimedOut,
    /// The peer's certificate or handshake was not acceptable.
    TlsRefused,
    /// This process has no descriptor, port or memory left for a connection.
    Exhausted,
    /// The account of the credential gets no access token.
    NoToken,
    /// It gets none since it is not accepted where tokens are given.
    AccountRefused,
    /// The proxy did not let us through.
    ProxyRefused,
    /// The connection ended before the answer did.
    Disconnected,
    /// The bytes were not HTTP, or broke a rule of its framing or our limits.
    Malformed,
    /// Our own downstream went away, so the attempt was given up.
    DownstreamGone,
    /// The process is shutting down.
    ShuttingDown,
    /// Another attempt of the same request spoke first.
    Overtaken,
    /// Nothing came for a while, as was wished to be told; the attempt goes on.
    Quiet,
}
