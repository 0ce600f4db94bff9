//! Our own answers: who is refused, in which words, in whose dialect, and at what price.

use crate::support::client::{chat, chat_body, post};
use crate::support::config::DISABLED_KEY;
use crate::support::{ADMIN_KEY, ALICE_KEY, Config, Gateway, Reply, Upstream, request};

const GEMINI: &str = "/v1beta/models/vertex-main/gemini-1.5-flash:generateContent";

fn start() -> (Upstream, Gateway) {
    let upstream = Upstream::vendor();
    let gateway = Gateway::start(&Config::to(&upstream).text());
    (upstream, gateway)
}

/// The shape of each family's error body.
#[track_caller]
fn check_shape(reply: &Reply, target: &str, openai: &str, anthropic: &str, gemini: &str) {
    let body = reply.json();
    let error = &body["error"];
    assert!(error["message"].is_string(), "{target}: {body}");
    if target.contains("messages") {
        assert_eq!(body["type"], "error", "{target}: {body}");
        assert_eq!(error["type"], anthropic, "{target}: {body}");
    } else if target.contains("v1beta") {
        assert_eq!(error["status"], gemini, "{target}: {body}");
        assert_eq!(error["code"], reply.status, "{target}: {body}");
    } else {
        assert_eq!(error["type"], openai, "{target}: {body}");
        let object = error.as_object().expect("an object");
        assert!(object.contains_key("param") && object.contains_key("code"), "{target}: {body}");
    }
    assert_eq!(reply.header("content-type"), Some("application/json"), "{target}");
    assert_eq!(reply.header("x-gproxy-source"), Some("gateway"), "{target}");
    let length = reply.body.len().to_string();
    assert_eq!(reply.header("content-length"), Some(length.as_str()), "{target}");
}

#[test]
fn missing_unknown_and_disabled_keys_get_one_text() {
    let (upstream, gateway) = start();
    for target in ["/v1/chat/completions", "/v1/messages", GEMINI, "/openai-main/v1/responses"] {
        let mut texts = Vec::new();
        for key in [
            "",
            "sk-admin-2",
            "sk-admin-",
            DISABLED_KEY,
            "sk-gone-0123456789abcdef0123456789abcdef00",
        ] {
            let bearer = format!("Bearer {key}");
            let headers: &[(&str, &str)] =
                if key.is_empty() { &[] } else { &[("authorization", &bearer)] };
            let body = chat_body("chat-default", false);
            let reply = gateway.connect().ask(&request("POST", target, headers, body.as_bytes()));
            assert_eq!(reply.status, 401, "{target} {key:?}");
            check_shape(
                &reply,
                target,
                "invalid_request_error",
                "authentication_error",
                "UNAUTHENTICATED",
            );
            assert!(reply.error_message().starts_with("unauthorized"), "{}", reply.text());
            if !key.is_empty() {
                assert!(!reply.text().contains(key), "{}", reply.text());
            }
            texts.push(reply.error_message());
        }
        texts.dedup();
        assert_eq!(texts.len(), 1, "{texts:?}");
    }
    assert!(upstream.seen().is_empty());
}

#[test]
fn a_key_is_accepted_from_each_of_its_places_on_every_path() {
    let (_upstream, gateway) = start();
    let claude = r#"{"model":"anthropic-main/claude-3-5-sonnet-latest","messages":[]}"#;
    let chat = chat_body("chat-default", false);
    for (target, body) in
        [("/v1/chat/completions", chat.as_str()), ("/v1/messages", claude), (GEMINI, "{}")]
    {
        let bearer = format!("Bearer {ADMIN_KEY}");
        let lower = format!("bearer {ADMIN_KEY}");
        for header in [
            ("authorization", bearer.as_str()),
            ("Authorization", &lower),
            ("x-api-key", ADMIN_KEY),
            ("x-goog-api-key", ADMIN_KEY),
            ("api-key", ADMIN_KEY),
        ] {
            let reply = gateway.connect().ask(&request("POST", target, &[header], body.as_bytes()));
            assert_eq!(reply.status, 200, "{target} {header:?}: {}", reply.text());
        }
        let with_query = format!("{target}?key={ADMIN_KEY}");
        let reply = gateway.connect().ask(&request("POST", &with_query, &[], body.as_bytes()));
        assert_eq!(reply.status, 200, "{with_query}: {}", reply.text());
    }
}

#[test]
fn a_user_may_call_what_a_permission_names_and_nothing_else() {
    let (upstream, gateway) = start();
    let key = format!("Bearer {ALICE_KEY}");
    let headers = [("authorization", key.as_str())];
    let claude = r#"{"model":"anthropic-main/claude-3-5-sonnet-latest","messages":[]}"#.to_owned();
    let ask = |target: &str, body: &str| {
        gateway.connect().ask(&request("POST", target, &headers, body.as_bytes()))
    };
    for (target, model) in [
        ("/v1/chat/completions", "openai-main/gpt-4.1-mini"),
        ("/openai-main/v1/chat/completions", "gpt-4.1-mini"),
        ("/openai-main/v1/chat/completions", "openai-main/gpt-5"),
    ] {
        let reply = ask(target, &chat_body(model, false));
        assert_eq!(reply.status, 200, "{target} {model}: {}", reply.text());
    }
    upstream.forget();
    for (target, body) in [
        ("/v1/chat/completions", chat_body("router/gpt-4.1-mini", false)),
        ("/v1/chat/completions", chat_body("openai-main/o3", false)),
        // The name as sent counts: the alias leads to an allowed model and is not allowed itself.
        ("/v1/chat/completions", chat_body("chat-default", false)),
        ("/openai-main/v1/chat/completions", chat_body("o3", false)),
        ("/v1/messages", claude),
        (GEMINI, "{}".to_owned()),
    ] {
        let reply = ask(target, &body);
        assert_eq!(reply.status, 403, "{target}: {}", reply.text());
        let message = reply.error_message();
        assert!(message.starts_with("forbidden: model"), "{message}");
        check_shape(
            &reply,
            target,
            "invalid_request_error",
            "permission_error",
            "PERMISSION_DENIED",
        );
    }
    assert!(upstream.seen().is_empty());
}

#[test]
fn requests_that_cannot_be_understood_are_a_400_in_every_dialect() {
    let (upstream, gateway) = start();
    let deep = "[".repeat(100_000);
    let long = "m".repeat(300);
    for body in [
        "".to_owned(),
        "not json".to_owned(),
        "[]".to_owned(),
        "\"model\"".to_owned(),
        "{\"model\":\"chat-default\"".to_owned(),
        "{}".to_owned(),
        "{\"model\":\"\"}".to_owned(),
        "{\"model\":null}".to_owned(),
        "{\"model\":7}".to_owned(),
        "{\"model\":[\"chat-default\"]}".to_owned(),
        "{\"model\":\"a\\u0000b\"}".to_owned(),
        "{\"model\":\"a\\r\\nb\"}".to_owned(),
        "{\"nested\":{\"model\":\"chat-default\"}}".to_owned(),
        "{\"model\":\"chat-default\",\"model\":\"chat-default\"}".to_owned(),
        "{\"model\":\"chat-default\",\"mod\\u0065l\":\"openai-main/o3\"}".to_owned(),
        "{\"model\":\"chat-default\",\"stream\":true,\"stream\":false}".to_owned(),
        format!("{{\"model\":\"openai-main/{long}\"}}"),
        format!("{{\"messages\":{deep}"),
    ] {
        for target in ["/v1/chat/completions", "/v1/messages"] {
            let reply = gateway.connect().ask(&post(target, &body));
            let what = &body[..body.len().min(80)];
            assert_eq!(reply.status, 400, "{target} {what}: {}", reply.text());
            check_shape(
                &reply,
                target,
                "invalid_request_error",
                "invalid_request_error",
                "INVALID_ARGUMENT",
            );
        }
    }
    assert!(upstream.seen().is_empty());
}

#[test]
fn a_model_after_deep_but_legal_nesting_is_found() {
    let (upstream, gateway) = start();
    let (open, close) = ("[".repeat(100), "]".repeat(100));
    let body = format!("{{\"messages\":{open}{close},\"model\":\"chat-default\"}}");
    assert_eq!(gateway.connect().ask(&post("/v1/chat/completions", body)).status, 200);
    assert_eq!(upstream.last().json()["model"], "gpt-4.1-mini");
}

#[test]
fn a_refusal_quotes_what_was_sent_as_json() {
    let (_upstream, gateway) = start();
    let body = r#"{"model":"a \"quoted\" \\ <name>","messages":[]}"#;
    let reply = gateway.connect().ask(&post("/v1/chat/completions", body));
    assert_eq!(reply.status, 400);
    // Reading it as JSON is the proof.
    assert!(!reply.error_message().is_empty());
}

#[test]
fn a_refusal_keeps_the_connection() {
    let (_upstream, gateway) = start();
    let mut client = gateway.connect();
    for _ in 0..10 {
        assert_eq!(client.ask(&chat("nobody", false)).status, 400);
        assert_eq!(client.ask(&request("POST", "/v1/messages", &[], b"{}")).status, 401);
        assert_eq!(client.ask(&chat("chat-default", false)).status, 200);
    }
}

#[test]
fn the_key_is_asked_for_before_anything_is_told() {
    let (_upstream, gateway) = start();
    for target in ["/v1/chat/completions", "/v1/nothing", "/openai-main/v1/nothing"] {
        let reply = gateway.connect().ask(&request("POST", target, &[], b""));
        assert_eq!(reply.status, 401, "{target}: {}", reply.text());
    }
}

#[test]
fn metrics_are_for_admins_only() {
    let (_upstream, gateway) = start();
    let key = format!("Bearer {ALICE_KEY}");
    let headers = [("authorization", key.as_str())];
    let reply = gateway.connect().ask(&request("GET", "/metrics", &headers, b""));
    assert!(matches!(reply.status, 401 | 403), "{}", reply.status);
    // From this machine none is needed, but through a proxy.
    for (headers, status) in [
        (&[][..], 200),
        (&[("x-forwarded-for", "127.0.0.1")], 401),
        (&[("via", "1.1 proxy")], 401),
        (&[("authorization", "Bearer sk-wrong")], 401),
    ] {
        let reply = gateway.connect().ask(&request("GET", "/metrics", headers, b""));
        assert_eq!(reply.status, status, "{headers:?}");
    }
    for name in [
        "gproxy_connections",
        "gproxy_requests_in_flight",
        "gproxy_upstream_in_flight",
        "gproxy_held_bytes",
        "gproxy_coroutines",
    ] {
        assert!(gateway.metrics().contains_key(name), "{name}");
    }
}

#[test]
fn an_upgrade_that_is_not_served_gets_a_plain_answer() {
    let (_upstream, gateway) = start();
    let key = format!("Bearer {ADMIN_KEY}");
    let headers = [
        ("authorization", key.as_str()),
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let reply = gateway.connect().ask(&request("GET", "/v1/embeddings", &headers, b""));
    assert!((400..500).contains(&reply.status), "{}", reply.status);
    assert!(!reply.error_message().is_empty());
}
