//! What goes up, what comes down, and what never does.

use crate::support::client::{chat_body, post};
use crate::support::{ADMIN_KEY, Config, Gateway, Seen, UPSTREAM_KEY, Upstream, request};

const MODEL: &str = "openai-main/gpt-4.1-mini";

/// Sends a chat request with these headers beside the key, and returns what the upstream saw.
fn seen_with(config: impl Fn(Config) -> Config, headers: &[(&str, &str)]) -> Seen {
    let upstream = Upstream::vendor();
    let gateway = Gateway::start(&config(Config::to(&upstream)).text());
    let key = format!("Bearer {ADMIN_KEY}");
    let mut all = vec![("authorization", key.as_str()), ("content-type", "application/json")];
    all.extend(headers);
    let body = chat_body(MODEL, false);
    let bytes = request("POST", "/v1/chat/completions", &all, body.as_bytes());
    let reply = gateway.connect().ask(&bytes);
    assert_eq!(reply.status, 200, "{}", reply.text());
    upstream.last()
}

#[test]
fn what_clients_say_about_themselves_and_their_request_goes_up() {
    let headers = [
        ("content-type", "application/json; charset=utf-8"),
        ("accept", "text/event-stream"),
        ("anthropic-version", "2026-10-21"),
        ("anthropic-beta", "one-2025,two-2025"),
        ("openai-beta", "responses=v1"),
        ("idempotency-key", "abc"),
        ("x-stainless-lang", "python"),
        ("x-stainless-retry-count", "0"),
        ("user-agent", "OpenAI/Python 2.0"),
        ("x-goog-api-client", "google-genai-sdk/2"),
        ("x-client-request-id", "r"),
        ("session-id", "s"),
        ("x-codex-turn-metadata", "{\"a\":[1,2]}"),
    ];
    let seen = seen_with(|config| config, &headers[1..]);
    for (name, value) in &headers[1..] {
        assert_eq!(seen.header(name), Some(*value), "{name}");
    }
    assert_eq!(seen.header("content-type"), Some("application/json"));
}

#[test]
fn repeated_beta_headers_all_go_up() {
    let seen = seen_with(|config| config, &[("anthropic-beta", "a"), ("anthropic-beta", "b")]);
    let all: Vec<&str> = seen
        .headers
        .iter()
        .filter(|(name, _)| name == "anthropic-beta")
        .flat_map(|(_, value)| value.split(','))
        .map(str::trim)
        .collect();
    assert_eq!(all, ["a", "b"]);
}

#[test]
fn credentials_cookies_and_hop_by_hop_headers_stay_here() {
    let seen = seen_with(
        |config| config,
        &[
            ("x-api-key", ADMIN_KEY),
            ("x-goog-api-key", ADMIN_KEY),
            ("api-key", ADMIN_KEY),
            ("cookie", "session=1"),
            ("connection", "keep-alive, x-named"),
            ("x-named", "by connection"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic eA=="),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("trailer", "x-sum"),
            ("upgrade", "h2c"),
            ("accept-encoding", "gzip, br, zstd"),
            ("openai-organization", "org-1"),
            ("openai-project", "proj-1"),
            ("x-gproxy-provider", "router"),
            ("x-gproxy-request-id", "forged"),
            ("x-gproxy-anything", "1"),
        ],
    );
    for name in [
        "x-api-key",
        "x-goog-api-key",
        "api-key",
        "cookie",
        "x-named",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "upgrade",
        "openai-organization",
        "openai-project",
        "x-gproxy-provider",
        "x-gproxy-request-id",
        "x-gproxy-anything",
        "transfer-encoding",
        "expect",
    ] {
        assert!(seen.header(name).is_none(), "{name}: {:?}", seen.header(name));
    }
    assert_eq!(seen.header("accept-encoding"), Some("identity"));
    assert!(!String::from_utf8_lossy(&seen.head).contains(ADMIN_KEY));
}

#[test]
fn a_provider_may_let_more_headers_through() {
    let seen = seen_with(
        |config| config.setting("forward_headers = [\"OpenAI-Organization\"]"),
        &[("openai-organization", "org-1"), ("openai-project", "proj-1")],
    );
    assert_eq!(seen.header("openai-organization"), Some("org-1"));
    assert!(seen.header("openai-project").is_none());
}

#[test]
fn the_upstream_gets_one_host_one_length_and_its_own_credential() {
    let upstream = Upstream::vendor();
    let gateway = Gateway::start(&Config::to(&upstream).text());
    let claude = r#"{"model":"anthropic-main/claude-3-5-sonnet-latest","messages":[]}"#;
    let flash = "/v1beta/models/vertex-main/gemini-1.5-flash:generateContent";
    for (target, body, name) in [
        ("/v1/chat/completions", chat_body(MODEL, false), "authorization"),
        ("/v1/messages", claude.to_owned(), "x-api-key"),
        (flash, "{}".to_owned(), "x-goog-api-key"),
    ] {
        gateway.connect().ask(&post(target, &body));
        let seen = upstream.last();
        let count = |name: &str| seen.headers.iter().filter(|(key, _)| key == name).count();
        assert_eq!((count("host"), count("content-length")), (1, 1), "{target}");
        let host = format!("127.0.0.1:{}", upstream.port);
        assert_eq!(seen.header("host"), Some(host.as_str()), "{target}");
        let credentials: Vec<&str> = ["authorization", "x-api-key", "x-goog-api-key", "api-key"]
            .into_iter()
            .filter(|name| seen.header(name).is_some())
            .collect();
        assert_eq!(credentials, [name], "{target}");
        let value = seen.header(name).unwrap_or("");
        assert_eq!(value.trim_start_matches("Bearer "), UPSTREAM_KEY, "{target}");
    }
}

#[test]
fn an_anthropic_version_is_added_only_where_it_is_missing() {
    let upstream = Upstream::vendor();
    let gateway = Gateway::start(&Config::to(&upstream).text());
    let body = br#"{"model":"anthropic-main/claude-3-5-sonnet-latest","messages":[]}"#;
    let key = [("x-api-key", ADMIN_KEY)];
    gateway.connect().ask(&request("POST", "/v1/messages", &key, body));
    assert_eq!(upstream.last().header("anthropic-version"), Some("2023-06-01"));
    let both = [("x-api-key", ADMIN_KEY), ("anthropic-version", "2026-10-21")];
    gateway.connect().ask(&request("POST", "/v1/messages", &both, body));
    assert_eq!(upstream.last().header("anthropic-version"), Some("2026-10-21"));
}

#[test]
fn useful_headers_come_down_and_those_of_the_upstreams_host_do_not() {
    let upstream = Upstream::answering(|conn, _| {
        let headers = "content-type: application/json\r\nx-request-id: req_1\r\n\
            request-id: req_2\r\nx-ratelimit-limit-requests: 9\r\nopenai-processing-ms: 5\r\n\
            anthropic-ratelimit-tokens-remaining: 7\r\nserver-timing: a;dur=1\r\n\
            set-cookie: a=b\r\nset-cookie: c=d\r\nalt-svc: h3\r\n\
            strict-transport-security: max-age=1\r\nconnection: keep-alive, x-hop\r\nx-hop: 1\r\n\
            keep-alive: timeout=5\r\nproxy-authenticate: Basic\r\nx-gproxy-source: forged\r\n\
            x-gproxy-request-id: forged\r\n";
        conn.whole_with(200, headers, r#"{"model":"m"}"#);
    });
    let gateway = Gateway::start(&Config::to(&upstream).text());
    let reply = gateway.connect().ask(&post("/v1/chat/completions", chat_body(MODEL, false)));
    for (name, value) in [
        ("content-type", "application/json"),
        ("x-request-id", "req_1"),
        ("request-id", "req_2"),
        ("x-ratelimit-limit-requests", "9"),
        ("openai-processing-ms", "5"),
        ("anthropic-ratelimit-tokens-remaining", "7"),
        ("server-timing", "a;dur=1"),
    ] {
        assert_eq!(reply.header(name), Some(value), "{name}");
    }
    for name in
        ["set-cookie", "alt-svc", "strict-transport-security", "x-hop", "proxy-authenticate"]
    {
        assert!(reply.header(name).is_none(), "{name}");
    }
    for (name, value) in &reply.headers {
        assert!(value != "forged", "{name}");
    }
    let framings = ["content-length", "transfer-encoding"];
    assert_eq!(framings.iter().filter(|name| reply.header(name).is_some()).count(), 1);
}

#[test]
fn every_answer_has_an_id_of_our_own_and_the_time_it_took() {
    let upstream = Upstream::vendor();
    let gateway = Gateway::start(&Config::to(&upstream).text());
    let mut ids = Vec::new();
    for bytes in [
        post("/v1/chat/completions", chat_body(MODEL, false)),
        post("/v1/chat/completions", chat_body(MODEL, true)),
        post("/v1/chat/completions", chat_body("nobody", false)),
        post("/v1/nothing", "{}"),
        request("POST", "/v1/messages", &[], b"{}"),
        request("GET", "/healthz", &[], b""),
        request("HEAD", "/", &[], b""),
        b"GET /bad HTTP/1.1\r\n\r\n".to_vec(),
    ] {
        let reply = gateway.connect().ask(&bytes);
        let id = reply.header("x-gproxy-request-id").expect("an id on every answer").to_owned();
        assert!(!ids.contains(&id) && !id.is_empty(), "{id}");
        let overhead = reply.header("x-gproxy-overhead-us").expect("a time on every answer");
        assert!(overhead.parse::<u64>().is_ok(), "{overhead}");
        ids.push(id);
    }
    // Where the upstream named none, the id that SDKs print is ours.
    let reply = gateway.connect().ask(&post("/v1/chat/completions", chat_body(MODEL, false)));
    assert_eq!(reply.header("x-request-id"), reply.header("x-gproxy-request-id"));
}

#[test]
fn clients_find_an_id_by_the_name_that_they_know_whatever_the_upstream_calls_its_own() {
    let claude = r#"{"model":"router/claude","messages":[]}"#.to_owned();
    for (target, body, known, other) in [
        ("/v1/messages", claude, "request-id", "x-request-id"),
        ("/v1/chat/completions", chat_body("router/m", false), "x-request-id", "request-id"),
    ] {
        for named in [known, other] {
            let upstream = Upstream::answering(move |conn, _| {
                let fields = format!("content-type: application/json\r\n{named}: req_1\r\n");
                conn.whole_with(200, &fields, r#"{"model":"m"}"#);
            });
            let gateway = Gateway::start(&Config::to(&upstream).text());
            let reply = gateway.connect().ask(&post(target, &body));
            assert_eq!(reply.header(named), Some("req_1"), "{target}");
            let ours = reply.header("x-gproxy-request-id").expect("an id on every answer");
            let expected = if named == known { "req_1" } else { ours };
            assert_eq!(reply.header(known), Some(expected), "{target}");
            assert_eq!(reply.headers.iter().filter(|(name, _)| name == known).count(), 1);
        }
    }
}
