//! Which fields travel, in either direction, and where a caller's key stands.
//!
//! Up go all fields but those that belong to the connection, to us, or to the caller's person:
//! credentials, cookies and what proxies add. Down come all but those that belong to the
//! connection or speak for the upstream's host. A credential of the caller never leaves this
//! process, whatever the settings say.
//!
//! Everything is a filter over borrowed fields, so nothing is allocated for a field.

use super::{Dialect, live};
use crate::wire::head::Headers;
use crate::wire::header;

/// Never goes up: the caller's credentials, what frames a message, what only we may say.
const NEVER_UP: &[&str] = &[
    "accept-encoding",
    "api-key",
    "authorization",
    "content-length",
    "cookie",
    "cookie2",
    "expect",
    "host",
    "http2-settings",
    // A key may stand in the subprotocols; the rest belongs to one connection.
    "sec-websocket-accept",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-version",
    "x-api-key",
    "x-goog-api-key",
    "x-provider",
];

/// Goes up only when the provider's `forward_headers` names it: who the caller is.
const UP_WHEN_NAMED: &[&str] = &[
    "cdn-loop",
    "fly-client-ip",
    "forwarded",
    "openai-organization",
    "openai-project",
    "true-client-ip",
    "via",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-goog-user-project",
    "x-real-ip",
];

/// Fields of proxies that stay too. Cloudflare refuses what comes with its own from elsewhere.
const PROXY_PREFIXES: [&str; 2] = ["x-forwarded-", "cf-"];

/// Never comes down: what frames a message, and what speaks for the upstream's host, which a
/// downstream would take for ours.
const NEVER_DOWN: &[&str] = &[
    "alt-svc",
    "clear-site-data",
    "content-length",
    "nel",
    "report-to",
    "sec-websocket-accept",
    "sec-websocket-extensions",
    "sec-websocket-protocol",
    "set-cookie",
    "set-cookie2",
    "strict-transport-security",
    // See `exchange/upload.rs`.
    "x-goog-upload-control-url",
    "x-goog-upload-url",
];

/// Fields of ours, in both directions.
const OWN_PREFIX: &str = "x-gproxy-";

/// What we add for an Anthropic upstream when the caller gave no version: it rejects the absence.
const ANTHROPIC_VERSION: (&str, &[u8]) = (VERSION, USUAL_VERSION.as_bytes());

/// Anthropic's version, which some clouds want elsewhere.
pub const VERSION: &str = "anthropic-version";
/// The version that every client of before 2026 sends.
pub const USUAL_VERSION: &str = "2023-06-01";

/// A reply must come unpacked, or the model's name in it could not be restored.
const IDENTITY: (&str, &[u8]) = ("accept-encoding", b"identity");

/// A field of the caller's goes up. `connection` are the values of the caller's `Connection`
/// fields, `forward` the provider's `forward_headers`. Names are compared without regard to case.
pub fn goes_up<'c>(
    name: &str,
    connection: impl IntoIterator<Item = &'c [u8]>,
    forward: &[String],
) -> bool {
    if header::is_hop_by_hop(name) || is_own(name) || is_one_of(name, NEVER_UP) {
        return false;
    }
    if may_be_forwarded(name) && !forward.iter().any(|named| named.eq_ignore_ascii_case(name)) {
        return false;
    }
    !connection.into_iter().any(|value| header::is_named(value, name))
}

/// The field stays here unless a provider's `forward_headers` names it. Naming any other field
/// there changes nothing: it goes up anyway, or never.
pub fn may_be_forwarded(name: &str) -> bool {
    is_one_of(name, UP_WHEN_NAMED)
        || PROXY_PREFIXES.iter().any(|prefix| header::starts_with(name, prefix))
}

/// The fields of the request that go up, with what we add; `host`, `content-length` and the
/// credential are the caller's to add.
pub fn forward_up<'a>(
    headers: &'a Headers,
    dialect: Dialect,
    forward: &'a [String],
) -> impl Iterator<Item = (&'a str, &'a [u8])> {
    let (version, _) = ANTHROPIC_VERSION;
    // One that `Connection` names stays here, and is missing as much as one that did not come.
    let has_one = headers.has(version) && goes_up(version, headers.all("connection"), forward);
    let add_version = dialect == Dialect::Anthropic && !has_one;
    headers
        .iter()
        .filter(move |(name, _)| goes_up(name, headers.all("connection"), forward))
        .chain(add_version.then_some(ANTHROPIC_VERSION))
        .chain([IDENTITY])
}

/// A field of the upstream's comes down, unless its `Connection` names it.
pub fn comes_down(name: &str) -> bool {
    // An upstream does not decide which web pages may call this gateway.
    let is_cors = header::starts_with(name, "access-control-");
    !(header::is_hop_by_hop(name) || is_own(name) || is_cors || is_one_of(name, NEVER_DOWN))
}

/// Writes the lines of the upstream's fields that come down. How the reply is framed is the
/// caller's to say.
pub fn forward_down<'a, I>(headers: impl Fn() -> I, out: &mut Vec<u8>)
where
    I: Iterator<Item = (&'a str, &'a [u8])>,
{
    let is_connection = |name: &str| name.eq_ignore_ascii_case("connection");
    let names_fields = headers().any(|(name, _)| is_connection(name));
    for (name, value) in headers().filter(|(name, _)| comes_down(name)) {
        let is_named = names_fields
            && headers().any(|(other, list)| is_connection(other) && header::is_named(list, name));
        if !is_named {
            header::field(name, value, out);
        }
    }
}

/// The key that a caller presents, wherever it stands: `Authorization: Bearer`, then Anthropic's,
/// Google's and Azure's fields, then the subprotocols of a browser's WebSocket. The query's key is
/// for [`super::path::query_key`].
pub fn credential_of(headers: &Headers) -> Option<&[u8]> {
    let bearer = headers.get("authorization").and_then(bearer);
    let other = |name| headers.get(name).map(<[u8]>::trim_ascii);
    [bearer, other("x-api-key"), other("x-goog-api-key"), other("api-key")]
        .into_iter()
        .flatten()
        .find(|key| !key.is_empty())
        .or_else(|| headers.all("sec-websocket-protocol").find_map(live::key_of_protocols))
}

/// What follows the scheme `Bearer`.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.trim_ascii().split_at_checked("Bearer".len())?;
    let is_bearer = scheme.eq_ignore_ascii_case(b"bearer") && key.starts_with(b" ");
    is_bearer.then(|| key.trim_ascii())
}

fn is_own(name: &str) -> bool {
    header::starts_with(name, OWN_PREFIX)
}

fn is_one_of(name: &str, names: &[&str]) -> bool {
    names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::head;

    fn headers(lines: &str) -> Headers {
        let text = format!("POST / HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
        let mut searched = 0;
        let parsed = head::parse(text.as_bytes(), &mut searched, crate::limits::HEAD_BYTES_MAX);
        let (head, _) = parsed.expect("a legal head").expect("a complete head");
        head.headers
    }

    #[track_caller]
    fn goes(lines: &str, dialect: Dialect, forward: &[&str], expected: &[&str]) {
        let headers = headers(lines);
        let forward: Vec<String> = forward.iter().map(|name| name.to_string()).collect();
        let sent: Vec<String> = forward_up(&headers, dialect, &forward)
            .map(|(name, value)| format!("{name}: {}", value.escape_ascii()))
            .collect();
        assert_eq!(sent, expected);
    }

    #[test]
    fn useful_fields_go_up_in_order_and_repeated() {
        let lines = "Content-Type: multipart/form-data; boundary=\"x\"\r\n\
                     Anthropic-Version: 2026-10-21\r\nanthropic-beta: a\r\nanthropic-beta: b\r\n\
                     OpenAI-Beta: c\r\nx-stainless-lang: js\r\nUser-Agent: sdk\r\n\
                     Idempotency-Key: 1\r\nx-goog-api-client: g\r\nAccept: */*\r\n";
        let expected = [
            "content-type: multipart/form-data; boundary=\\\"x\\\"",
            "anthropic-version: 2026-10-21",
            "anthropic-beta: a",
            "anthropic-beta: b",
            "openai-beta: c",
            "x-stainless-lang: js",
            "user-agent: sdk",
            "idempotency-key: 1",
            "x-goog-api-client: g",
            "accept: */*",
            "accept-encoding: identity",
        ];
        goes(lines, Dialect::Anthropic, &[], &expected);
    }

    #[test]
    fn credentials_cookies_and_connection_fields_stay_here() {
        let lines = "Authorization: Bearer k\r\nX-Api-Key: k\r\nx-goog-api-key: k\r\napi-key: k\r\n\
                     Cookie: a=b\r\nTE: trailers\r\nTrailer: x\r\nUpgrade: h2c\r\nKeep-Alive: 5\r\n\
                     Proxy-Authorization: Basic x\r\nProxy-Connection: close\r\n\
                     Expect: 100-continue\r\n\
                     Accept-Encoding: gzip\r\nContent-Length: 0\r\nX-Gproxy-Provider: p\r\n\
                     x-gproxy-request-id: 1\r\nX-Provider: p\r\nHTTP2-Settings: x\r\n";
        goes(lines, Dialect::OpenaiChat, &[], &["accept-encoding: identity"]);
        // No setting lets them out.
        let names = ["authorization", "x-api-key", "cookie", "x-gproxy-provider", "te", "host"];
        goes(lines, Dialect::OpenaiChat, &names, &["accept-encoding: identity"]);
    }

    #[test]
    fn fields_that_connection_names_stay_here() {
        let lines = "Connection: close, X-Mine\r\nconnection: x-too\r\nX-Mine: 1\r\nX-Too: 2\r\n\
                     X-Other: 3\r\n";
        goes(lines, Dialect::Gemini, &[], &["x-other: 3", "accept-encoding: identity"]);
    }

    #[test]
    fn the_callers_person_goes_up_only_when_the_provider_says_so() {
        let lines = "OpenAI-Organization: org\r\nOpenAI-Project: p\r\nX-Forwarded-For: 1.2.3.4\r\n\
                     X-Forwarded-Proto: https\r\nX-Real-IP: 1.2.3.4\r\n\
                     Forwarded: for=x\r\nVia: 1.1 x\r\nCF-Connecting-IP: 1.2.3.4\r\n\
                     CDN-Loop: cloudflare\r\nTrue-Client-IP: 1.2.3.4\r\n";
        goes(lines, Dialect::OpenaiChat, &[], &["accept-encoding: identity"]);
        let expected = ["openai-organization: org", "accept-encoding: identity"];
        goes(lines, Dialect::OpenaiChat, &["OpenAI-Organization"], &expected);
        assert!(may_be_forwarded("X-Forwarded-For") && may_be_forwarded("openai-project"));
        assert!(!may_be_forwarded("authorization") && !may_be_forwarded("user-agent"));
    }

    #[test]
    fn anthropic_version_is_added_only_where_it_is_missing() {
        let expected = ["anthropic-version: 2023-06-01", "accept-encoding: identity"];
        goes("", Dialect::Anthropic, &[], &expected);
        goes("", Dialect::OpenaiChat, &[], &["accept-encoding: identity"]);
        let named = "Connection: anthropic-version\r\nAnthropic-Version: 2026-10-21\r\n";
        goes(named, Dialect::Anthropic, &[], &expected);
    }

    #[test]
    fn useful_fields_come_down_and_the_upstreams_own_do_not() {
        let fields: [(&str, &[u8]); 18] = [
            ("content-type", b"application/json"),
            ("X-Request-Id", b"req_1"),
            ("retry-after", b"3"),
            ("x-ratelimit-limit-requests", b"5"),
            ("connection", b"close, X-Hop"),
            ("x-hop", b"1"),
            ("content-encoding", b"gzip"),
            ("set-cookie", b"a=b"),
            ("Set-Cookie", b"c=d"),
            ("alt-svc", b"h3"),
            ("strict-transport-security", b"x"),
            ("content-length", b"5"),
            ("transfer-encoding", b"chunked"),
            ("x-gproxy-source", b"gateway"),
            ("access-control-allow-origin", b"*"),
            ("keep-alive", b"timeout=5"),
            ("openai-version", b"2020-10-01"),
            ("x-bad", b"a\r\nb: c"),
        ];
        let mut out = Vec::new();
        forward_down(|| fields.into_iter(), &mut out);
        let expected = "content-type: application/json\r\nX-Request-Id: req_1\r\nretry-after: 3\r\n\
                        x-ratelimit-limit-requests: 5\r\ncontent-encoding: gzip\r\n\
                        openai-version: 2020-10-01\r\n";
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }

    #[test]
    fn a_key_is_found_in_any_of_the_four_fields_in_their_order() {
        let key = |lines: &str| {
            let headers = headers(lines);
            credential_of(&headers).map(|key| String::from_utf8_lossy(key).into_owned())
        };
        assert_eq!(key("Authorization: Bearer a\r\nX-Api-Key: b\r\n"), Some("a".into()));
        assert_eq!(key("authorization:bEARER   a b \r\n"), Some("a b".into()));
        assert_eq!(key("api-key: d\r\nx-goog-api-key: c\r\nx-api-key: b\r\n"), Some("b".into()));
        assert_eq!(key("api-key: d\r\nx-goog-api-key: c\r\n"), Some("c".into()));
        assert_eq!(key("api-key: d\r\n"), Some("d".into()));
        // A field that holds no key does not hide one that does.
        assert_eq!(key("Authorization: Basic x\r\nx-api-key: b\r\n"), Some("b".into()));
        assert_eq!(key("Authorization: Bearer \r\nx-api-key: b\r\n"), Some("b".into()));
        for lines in ["", "Authorization: Bearera\r\n", "Authorization: a\r\n", "x-api-key:\r\n"] {
            assert_eq!(key(lines), None, "{lines:?}");
        }
    }
}
