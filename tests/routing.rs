//! From path and body to a provider and a model, and what the reply calls it.

use crate::support;
use crate::support::client::{chat_body, post};
use crate::support::config::provider;
use crate::support::vendor::dated;
use crate::support::{ADMIN_KEY, Config, Gateway, Reply, Upstream, request};
use serde_json::Value;

/// A request, and what has to come of it.
struct Case<'a> {
    target: &'a str,
    /// Model of the body; for Gemini paths it stands in the path and this is empty.
    model: &'a str,
    stream: bool,
    /// Path and query that the upstream sees.
    path: &'a str,
    /// Model that the upstream sees.
    served: &'a str,
    /// Model of the reply.
    replied: &'a str,
}

fn start() -> (Upstream, Gateway) {
    let upstream = Upstream::vendor();
    let gateway = Gateway::start(&Config::to(&upstream).text());
    (upstream, gateway)
}

/// A body that every endpoint understands.
fn body_of(case: &Case<'_>) -> String {
    let stream = case.stream;
    if case.model.is_empty() {
        return r#"{"contents":[{"parts":[{"text":"Hello"}]}]}"#.to_owned();
    }
    let model = case.model;
    if case.target.contains("messages") {
        return format!(
            "{{\"max_tokens\":9,\"messages\":[{{\"role\":\"user\",\"content\":\"Hello\"}}],\
             \"stream\":{stream},\"model\":\"{model}\"}}"
        );
    }
    if case.target.contains("responses") || case.target.contains("embeddings") {
        return format!(r#"{{"input":"Hello","stream":{stream},"model":"{model}"}}"#);
    }
    chat_body(model, stream)
}

/// Every model that a reply names, wherever its dialect has a place for one.
fn models_in(reply: &Reply) -> Vec<String> {
    let is_stream =
        reply.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
    let documents = if is_stream { reply.events() } else { vec![reply.json()] };
    let mut models = Vec::new();
    for document in documents {
        let elements = match document {
            Value::Array(elements) => elements,
            other => vec![other],
        };
        for element in elements {
            for place in ["/model", "/modelVersion", "/response/model", "/message/model"] {
                models.extend(element.pointer(place).and_then(Value::as_str).map(str::to_owned));
            }
        }
    }
    models
}

#[track_caller]
fn check(upstream: &Upstream, gateway: &Gateway, case: &Case<'_>) {
    let reply = gateway.connect().ask(&post(case.target, body_of(case)));
    let name = format!("{} {:?}", case.target, case.model);
    assert_eq!(reply.status, 200, "{name}: {}", reply.text());
    assert!(reply.complete, "{name}");
    let seen = upstream.last();
    assert_eq!(seen.target, case.path, "{name}");
    if !case.model.is_empty() {
        assert_eq!(seen.json()["model"], case.served, "{name}: {}", seen.text());
    }
    let models = models_in(&reply);
    assert!(!models.is_empty(), "{name}: no model in {}", reply.text());
    for model in models {
        assert_eq!(model, case.replied, "{name}: {}", reply.text());
    }
}

#[test]
fn each_row_of_the_routing_table_holds_whole_and_streamed() {
    let (upstream, gateway) = start();
    let mini = dated("gpt-4.1-mini");
    let claude = dated("claude-3-5-sonnet-latest");
    let llama = "meta-llama/llama-3-70b:free";
    let prefixed_llama = "router/meta-llama/llama-3-70b:free";
    let rows = [
        // target, model asked, upstream path, model served, model in the reply
        ["/v1/chat/completions", "openai-main/gpt-4.1-mini", "gpt-4.1-mini", ""],
        ["/v1/chat/completions", prefixed_llama, llama, ""],
        ["/openai-main/v1/chat/completions", "gpt-4.1-mini", "gpt-4.1-mini", &mini],
        ["/v1/chat/completions", "chat-default", "gpt-4.1-mini", ""],
        ["/openai-main/v1/chat/completions", "chat-default", "gpt-4.1-mini", ""],
        ["/v1/completions", "openai-main/gpt-4.1-mini", "gpt-4.1-mini", ""],
        ["/v1/responses", "openai-main/gpt-4.1-mini", "gpt-4.1-mini", ""],
        ["/openai-main/v1/responses", "gpt-4.1-mini", "gpt-4.1-mini", &mini],
        ["/v1/messages", "anthropic-main/claude-3-5-sonnet-latest", "claude-3-5-sonnet-latest", ""],
        [
            "/anthropic-main/v1/messages",
            "claude-3-5-sonnet-latest",
            "claude-3-5-sonnet-latest",
            &claude,
        ],
    ];
    for [target, model, served, replied] in rows {
        let path = target.strip_prefix("/openai-main").unwrap_or(target);
        let path = path.strip_prefix("/anthropic-main").unwrap_or(path);
        let replied = if replied.is_empty() { model } else { replied };
        for stream in [false, true] {
            let case = Case { target, model, stream, path, served, replied };
            check(&upstream, &gateway, &case);
        }
    }
}

#[test]
fn embeddings_keep_their_data_and_restore_their_model() {
    let (upstream, gateway) = start();
    let case = Case {
        target: "/v1/embeddings",
        model: "openai-main/text-embedding-3-small",
        stream: false,
        path: "/v1/embeddings",
        served: "text-embedding-3-small",
        replied: "openai-main/text-embedding-3-small",
    };
    check(&upstream, &gateway, &case);
    let reply = gateway.connect().ask(&post(case.target, body_of(&case)));
    assert_eq!(reply.json()["data"][0]["embedding"], "AAAAPwAAgL4=");
}

#[test]
fn gemini_paths_find_their_provider_wherever_clients_put_it() {
    let (upstream, gateway) = start();
    let asked = "vertex-main/gemini-1.5-flash";
    let flash = dated("gemini-1.5-flash");
    let base = "/v1beta/models/gemini-1.5-flash";
    let rows = [
        ("/v1beta/models/vertex-main/gemini-1.5-flash", base, asked),
        ("/v1beta/models/vertex-main%2Fgemini-1.5-flash", base, asked),
        ("/v1beta/models/vertex-main%2fgemini%2D1%2E5-flash", base, asked),
        ("/vertex-main/v1beta/models/gemini-1.5-flash", base, flash.as_str()),
        ("/v1beta/vertex-main/gemini-1.5-flash", base, asked),
        ("/v1/models/vertex-main/gemini-1.5-flash", "/v1/models/gemini-1.5-flash", asked),
        ("/models/vertex-main/gemini-1.5-flash", base, asked),
        ("/v1beta/models/gemini-default", base, "gemini-default"),
        ("/vertex-main/v1beta/models/gemini-default", base, "gemini-default"),
    ];
    for (target, path, replied) in rows {
        for verb in [
            ":generateContent",
            ":streamGenerateContent?alt=sse",
            ":streamGenerateContent",
            "%3AgenerateContent",
        ] {
            let sent = verb.replace("%3A", ":");
            let (target, path) = (format!("{target}{verb}"), format!("{path}{sent}"));
            let case = Case {
                target: &target,
                model: "",
                stream: false,
                path: &path,
                served: "",
                replied,
            };
            check(&upstream, &gateway, &case);
        }
    }
}

#[test]
fn vertex_mode_of_the_gemini_sdks_finds_the_provider_among_the_publishers() {
    let (upstream, gateway) = start();
    let target = "/v1beta1/publishers/vertex-main/models/gemini-1.5-flash:generateContent";
    let reply = gateway.connect().ask(&post(target, r#"{"contents":[]}"#));
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json()["modelVersion"], "vertex-main/gemini-1.5-flash");
    let seen = upstream.last();
    assert!(seen.path().ends_with("/models/gemini-1.5-flash:generateContent"), "{}", seen.target);
    assert!(!seen.path().contains("vertex-main"), "{}", seen.target);
}

#[test]
fn a_tuned_model_stays_in_its_collection() {
    let (upstream, gateway) = start();
    let target = "/vertex-main/v1beta/tunedModels/mine:generateContent";
    let reply = gateway.connect().ask(&post(target, r#"{"contents":[]}"#));
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(upstream.last().target, "/v1beta/tunedModels/mine:generateContent");
}

#[test]
fn models_inside_a_gemini_body_follow_the_path() {
    let (upstream, gateway) = start();
    let target = "/v1beta/models/vertex-main/text-embedding-004:batchEmbedContents";
    let body = |model: &str| {
        format!(
            "{{\"requests\":[ {{\"model\" : \"{model}\",\"content\":{{\"parts\":[{{\"text\":\
             \"models/vertex-main/text-embedding-004\"}}]}}}},{{\"model\":\"{model}\"}}]}}"
        )
    };
    let asked = body("models/vertex-main/text-embedding-004");
    let reply = gateway.connect().ask(&post(target, asked));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = upstream.last();
    assert_eq!(seen.target, "/v1beta/models/text-embedding-004:batchEmbedContents");
    assert_eq!(seen.text(), body("models/text-embedding-004"));
}

#[test]
fn a_gemini_body_that_names_another_model_than_its_path_is_refused() {
    let (upstream, gateway) = start();
    let target = "/v1beta/models/vertex-main/text-embedding-004:embedContent";
    let body = r#"{"model":"models/expensive","content":{"parts":[{"text":"x"}]}}"#;
    let reply = gateway.connect().ask(&post(target, body));
    assert_eq!(reply.status, 400, "{}", reply.text());
    assert!(upstream.seen().is_empty());
}

#[test]
fn count_calls_without_a_model_in_their_reply_pass_untouched() {
    let (upstream, gateway) = start();
    let mut client = gateway.connect();
    let body = r#"{"model":"anthropic-main/claude-3-5-sonnet-latest","messages":[]}"#;
    let reply = client.ask(&post("/v1/messages/count_tokens", body));
    assert_eq!((reply.status, reply.text().as_str()), (200, r#"{"input_tokens":3}"#));
    assert_eq!(upstream.last().json()["model"], "claude-3-5-sonnet-latest");
    let target = "/v1beta/models/vertex-main/gemini-1.5-flash:countTokens";
    let reply = client.ask(&post(target, r#"{"contents":[]}"#));
    assert_eq!((reply.status, reply.text().as_str()), (200, "{\n  \"totalTokens\": 3\n}\n"));
    assert_eq!(upstream.last().target, "/v1beta/models/gemini-1.5-flash:countTokens");
}

#[test]
fn a_base_url_typed_slightly_wrong_still_works() {
    let (upstream, gateway) = start();
    let openai = "openai-main/gpt-4.1-mini";
    let mini = dated("gpt-4.1-mini");
    let claude = "anthropic-main/claude-3-5-sonnet-latest";
    let rows = [
        ("/chat/completions", openai, "/v1/chat/completions", openai),
        ("/v1/v1/chat/completions", openai, "/v1/chat/completions", openai),
        ("//v1//chat/completions", openai, "/v1/chat/completions", openai),
        ("/v1/chat/completions/", openai, "/v1/chat/completions", openai),
        ("/openai-main/chat/completions", "gpt-4.1-mini", "/v1/chat/completions", &mini),
        ("/openai-main/v1/v1/chat/completions", "gpt-4.1-mini", "/v1/chat/completions", &mini),
        ("/openai-main//v1/chat/completions/", "gpt-4.1-mini", "/v1/chat/completions", &mini),
        ("/messages", claude, "/v1/messages", claude),
        ("/v1/v1/messages", claude, "/v1/messages", claude),
        ("/v1/messages/", claude, "/v1/messages", claude),
        ("/responses", openai, "/v1/responses", openai),
        ("http://elsewhere.test/v1/chat/completions", openai, "/v1/chat/completions", openai),
    ];
    for (target, model, path, replied) in rows {
        let served = model.rsplit('/').next().unwrap_or(model);
        let case = Case { target, model, stream: false, path, served, replied };
        check(&upstream, &gateway, &case);
    }
}

#[test]
fn an_exact_alias_wins_over_a_provider_prefix() {
    let (upstream, gateway) = start();
    let case = Case {
        target: "/v1/chat/completions",
        model: "openai-main/fast",
        stream: true,
        path: "/v1/chat/completions",
        served: "swift-1",
        replied: "openai-main/fast",
    };
    check(&upstream, &gateway, &case);
}

#[test]
fn scoped_names_lose_their_own_prefix_unless_they_are_declared_with_it() {
    let (upstream, gateway) = start();
    let mini = "openai-main/gpt-4.1-mini";
    let auto = dated("router/auto");
    let foreign = dated("chat-default");
    let rows = [
        ("/openai-main/v1/chat/completions", mini, "gpt-4.1-mini", mini),
        ("/router/v1/chat/completions", "router/auto", "router/auto", auto.as_str()),
        // An alias that points to another provider does not leak into this one's scope.
        ("/router/v1/chat/completions", "chat-default", "chat-default", foreign.as_str()),
    ];
    for (target, model, served, replied) in rows {
        let path = "/v1/chat/completions";
        check(&upstream, &gateway, &Case { target, model, stream: false, path, served, replied });
    }
}

#[test]
fn a_model_without_provider_or_alias_is_told_the_three_ways_out() {
    let (upstream, gateway) = start();
    let reply =
        gateway.connect().ask(&post("/v1/chat/completions", chat_body("gpt-4.1-mini", true)));
    assert_eq!(reply.status, 400);
    let message = reply.error_message();
    for word in ["provider", "prefix", "scoped", "alias"] {
        assert!(message.contains(word), "{word:?} in {message:?}");
    }
    assert!(upstream.seen().is_empty());
}

#[test]
fn a_disabled_model_does_not_exist() {
    let (upstream, gateway) = start();
    for (target, model) in [
        ("/v1/chat/completions", "openai-main/gpt-retired"),
        ("/openai-main/v1/chat/completions", "gpt-retired"),
    ] {
        let reply = gateway.connect().ask(&post(target, chat_body(model, false)));
        assert_eq!(reply.status, 404, "{target} {model}: {}", reply.text());
    }
    assert!(upstream.seen().is_empty());
}

#[test]
fn a_dialect_that_the_provider_does_not_speak_is_named_with_those_it_does() {
    let (upstream, gateway) = start();
    let body = r#"{"model":"openai-main/gpt-4.1-mini","max_tokens":9,"messages":[]}"#;
    let reply = gateway.connect().ask(&post("/v1/messages", body));
    assert_eq!(reply.status, 400, "{}", reply.text());
    assert_eq!(reply.json()["type"], "error");
    assert_eq!(reply.json()["error"]["type"], "invalid_request_error");
    let message = reply.error_message();
    assert!(message.contains("openai_chat"), "{message}");
    assert!(upstream.seen().is_empty());
}

#[test]
fn an_unknown_path_is_told_the_right_base_url() {
    let (upstream, gateway) = start();
    for target in ["/v1/nothing", "/nowhere/v1/chat/completions", "/v2/chat/completions"] {
        let reply = gateway.connect().ask(&post(target, chat_body("chat-default", false)));
        assert_eq!(reply.status, 404, "{target}: {}", reply.text());
        assert!(reply.error_message().contains("/v1"), "{target}: {}", reply.text());
        assert_eq!(reply.json()["error"]["type"], "invalid_request_error", "{target}");
    }
    assert!(upstream.seen().is_empty());
}

#[test]
fn a_known_path_with_another_method_is_told_the_allowed_one() {
    let (_upstream, gateway) = start();
    let key = format!("Bearer {ADMIN_KEY}");
    let headers = [("authorization", key.as_str())];
    for target in ["/v1/embeddings", "/v1/messages", "/openai-main/v1/responses"] {
        let reply = gateway.connect().ask(&request("DELETE", target, &headers, b""));
        assert_eq!(reply.status, 405, "{target}: {}", reply.text());
        assert!(reply.header("allow").is_some_and(|allow| allow.contains("POST")), "{target}");
    }
}

#[test]
fn dot_segments_and_hidden_separators_are_refused() {
    let (upstream, gateway) = start();
    for target in [
        "/v1/../v1/chat/completions",
        "/v1/./chat/completions",
        "/v1/%2e%2e/v1/chat/completions",
        "/v1/.%2E/v1/chat/completions",
        "/openai-main/%2e%2e/openai-main/v1/chat/completions",
        "/v1%5cchat%5ccompletions",
        "/v1/chat/completions%00",
        "/v1%2Fchat/completions",
        "/v1/chat/completions%zz",
        "/v1/chat/completions%f",
        "/vertex-main/v1beta/models/%2e%2e:generateContent",
        "/vertex-main/v1beta/models/a%2F..%2Fb:generateContent",
        "/vertex-main/v1beta/models/a%0d%0ab:generateContent",
    ] {
        let reply = gateway.connect().ask(&post(target, chat_body("chat-default", false)));
        assert!(matches!(reply.status, 400 | 404), "{target}: {} {}", reply.status, reply.text());
    }
    assert!(upstream.seen().is_empty(), "{:?}", upstream.last().target);
}

#[test]
fn a_path_is_decoded_exactly_once() {
    let (upstream, gateway) = start();
    let target = "/vertex-main/v1beta/models/a%252Fb:generateContent";
    let reply = gateway.connect().ask(&post(target, r#"{"contents":[]}"#));
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(upstream.last().target, "/v1beta/models/a%252Fb:generateContent");
}

#[test]
fn model_names_of_every_form_reach_the_upstream() {
    let (upstream, gateway) = start();
    for model in [
        "accounts/fireworks/models/x",
        "anthropic.claude-opus-4-20250514-v1:0",
        "ft:gpt-4o:org::id",
        "claude-3-5-sonnet@20240620",
        "模型-é",
        "Qwen2.5",
    ] {
        let asked = format!("router/{model}");
        let replied = dated(model);
        let path = "/v1/chat/completions";
        let mut case = Case {
            target: path,
            model: &asked,
            stream: true,
            path,
            served: model,
            replied: &asked,
        };
        check(&upstream, &gateway, &case);
        case = Case { target: "/router/v1/chat/completions", model, replied: &replied, ..case };
        check(&upstream, &gateway, &case);
    }
}

#[test]
fn a_gemini_model_with_colons_is_split_at_the_last_one() {
    let (upstream, gateway) = start();
    let target = "/v1beta/models/router/ft:gemini:org::id:generateContent";
    let reply = gateway.connect().ask(&post(target, r#"{"contents":[]}"#));
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json()["modelVersion"], "router/ft:gemini:org::id");
    assert_eq!(upstream.last().target, "/v1beta/models/ft:gemini:org::id:generateContent");
}

#[test]
fn the_query_goes_up_byte_for_byte_without_the_key() {
    let (upstream, gateway) = start();
    let claude = r#"{"model":"anthropic-main/claude-3-5-sonnet-latest","messages":[]}"#;
    let flash = "/v1beta/models/vertex-main/gemini-1.5-flash:streamGenerateContent";
    let rows = [
        ("/v1/messages?beta=true", claude, "beta=true"),
        (
            &format!("/v1/messages?beta=true&key={ADMIN_KEY}&x=%2F%20y"),
            claude,
            "beta=true&x=%2F%20y",
        ),
        (&format!("{flash}?key={ADMIN_KEY}&alt=sse"), "{}", "alt=sse"),
        (&format!("{flash}?alt=sse&key={ADMIN_KEY}"), "{}", "alt=sse"),
        (&format!("{flash}?$alt=sse&alt=sse&empty=&flag"), "{}", "$alt=sse&alt=sse&empty=&flag"),
        (&format!("{flash}?key={ADMIN_KEY}"), "{}", ""),
    ];
    for (target, body, query) in rows {
        let reply = gateway.connect().ask(&post(target, body));
        assert_eq!(reply.status, 200, "{target}: {}", reply.text());
        assert_eq!(upstream.last().query(), query, "{target}");
        assert!(!upstream.last().target.contains(ADMIN_KEY), "{target}");
    }
}

#[test]
fn a_base_url_with_a_version_or_a_path_never_doubles_the_version() {
    let upstream = Upstream::vendor();
    let root = format!("http://127.0.0.1:{}", upstream.port);
    let mut config = Config::to(&upstream);
    let all = r#""openai_chat", "anthropic", "gemini""#;
    let bases = [
        ("plain", "", "/v1", "/v1beta"),
        ("slash", "/", "/v1", "/v1beta"),
        ("versioned", "/v1", "/v1", ""),
        ("groq", "/openai/v1", "/openai/v1", ""),
        ("openrouter", "/api/v1/", "/api/v1", ""),
        ("google", "/v1beta", "", "/v1beta"),
    ];
    for (name, base, ..) in bases {
        config = config.tail(&provider(name, &format!("{root}{base}"), all, ""));
    }
    let gateway = Gateway::start(&config.text());
    for (name, _, openai, gemini) in bases {
        let calls = [
            (openai, "v1/chat/completions", "/chat/completions"),
            (openai, "v1/messages", "/messages"),
            (gemini, "v1beta/models/m:generateContent", "/models/m:generateContent"),
        ];
        for (base, sent, path) in calls.into_iter().filter(|(base, ..)| !base.is_empty()) {
            let reply =
                gateway.connect().ask(&post(&format!("/{name}/{sent}"), chat_body("m", false)));
            assert_eq!(upstream.last().target, format!("{base}{path}"), "{name}");
            assert_eq!(reply.status, 200, "{name} {sent}: {}", reply.text());
        }
    }
}

/// Whatever else a body names could be called instead.
#[test]
fn further_models_in_a_body_have_to_be_permitted_too() {
    let (upstream, gateway) = start();
    let key = format!("Bearer {}", support::ALICE_KEY);
    let headers = [("authorization", key.as_str()), ("content-type", "application/json")];
    let ask = |rest: &str| {
        let body = format!(r#"{{"model":"openai-main/gpt-4.1-mini","messages":[],{rest}}}"#);
        let request = request("POST", "/v1/chat/completions", &headers, body.as_bytes());
        gateway.connect().ask(&request)
    };
    for rest in [
        r#""models":["gpt-4o","o3"]"#,
        r#""fallbacks":[{"model":"o3"}]"#,
        r#""tools":[{"type":"openrouter:advisor","parameters":{"model":"o3"}}]"#,
    ] {
        let reply = ask(rest);
        assert_eq!(reply.status, 403, "{rest}: {}", reply.text());
        assert!(reply.error_message().contains("o3"), "{}", reply.text());
    }
    assert!(upstream.seen().is_empty(), "nothing goes up");
    assert_eq!(ask(r#""models":["gpt-4o"]"#).status, 200);
    assert!(upstream.last().text().contains(r#""models":["gpt-4o"]"#));
}
