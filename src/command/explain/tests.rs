use super::*;
use crate::config;
use serde_json::{Value, json};

const TEXT: &str = r#"
    [[providers]]
    name = "claude"
    channel = "anthropic"
    credentials = [{ api_key = "credential" }]
    [[providers]]
    name = "google"
    channel = "aistudio"
    credentials = [{ api_key = "credential" }, { api_key = "another" }]
    settings = { hedge = true, hedge_ms_min = 250, forward_headers = ["Via", "X-Real-IP"] }
    [[providers]]
    name = "demo"
    channel = "echo"
    [[model_aliases]]
    alias = "chat-default"
    provider_name = "claude"
    model_id = "claude-x"
    [[users]]
    name = "alice"
    keys = [{ api_key = "sk-alice" }]
    [[permissions]]
    user_name = "alice"
    model_pattern = "c*"
    [[permissions]]
    user_name = "alice"
    provider_name = "google"
    model_pattern = "*"
"#;

fn decision(key: &str, method: &str, path: &str, body: &str) -> Decision {
    decision_by(TEXT, key, method, path, body)
}

fn decision_by(text: &str, key: &str, method: &str, path: &str, body: &str) -> Decision {
    let loaded = config::load(text, "c.toml", &|_| None).unwrap_or_else(|e| panic!("{e:?}"));
    let question = Question {
        json: false,
        method: method.to_owned(),
        path: path.to_owned(),
        key: (!key.is_empty()).then(|| Secret::new(key)),
        body: None,
    };
    let key = read_key(&question, &|_| None).expect("no variable is named");
    let body = (!body.is_empty()).then(|| body.as_bytes().to_vec());
    decide(&loaded.snapshot, &question, key.as_ref(), body)
}

fn text(decision: &Decision) -> String {
    let mut out = Vec::new();
    write_text(decision, &mut out).expect("memory can be written to");
    String::from_utf8(out).expect("output is UTF-8")
}

#[test]
fn a_served_request_is_told_to_its_address() {
    let told =
        decision("sk-alice", "POST", "/v1/messages?beta=true", r#"{"model":"chat-default"}"#);
    let expected = "\
key         of the user \"alice\"
path        messages (anthropic), for every provider
model       \"chat-default\"
route       \"claude-x\" at claude on channel anthropic; the reply says \"chat-default\"
permission  \"chat-default\" is permitted to \"alice\"
quota and limits: none counts this call
upstream    POST https://api.anthropic.com/v1/messages?beta=true with a credential in `x-api-key`
verdict     it would be served
";
    assert_eq!(text(&told), expected);
}

#[test]
fn a_gemini_path_needs_no_body() {
    let path = "/google/v1beta/models/m%20x:streamGenerateContent?alt=sse&key=sk-alice";
    let told = decision("", "POST", path, "");
    assert!(told.refusal.is_none(), "{}", text(&told));
    let url = told.facts["url"].as_str().expect("there is an address");
    let (_, below) = url.split_once("googleapis.com/").expect("the host is the vendor's");
    assert_eq!(below, "v1beta/models/m%20x:streamGenerateContent?alt=sse");
    assert_eq!(told.facts["renamed"], false);
    assert_eq!(told.facts["hedge_ms_min"], 250);
    let says = "hedge       another credential when silent for longer than usual, and for 250 ms";
    assert!(text(&told).contains(says), "{}", text(&told));
    let counted = decision("", "POST", "/google/v1beta/models/m:countTokens?key=sk-alice", "{}");
    assert!(!counted.facts.contains_key("hedge_ms_min"), "{}", text(&counted));
}

#[test]
fn headers_that_go_up_for_being_named_are_told() {
    let files = "[[file_permissions]]\nuser_name = \"alice\"\nprovider_name = \"google\"\n";
    for (path, body) in [
        ("/google/v1beta/models/m:generateContent", "{}"),
        ("/v1/chat/completions", r#"{"model":"google/m"}"#),
        ("/google/v1beta/files", ""),
    ] {
        let told = decision_by(&format!("{TEXT}{files}"), "sk-alice", "POST", path, body);
        assert!(told.refusal.is_none(), "{path}: {}", text(&told));
        assert_eq!(told.facts["forward_headers"], json!(["via", "x-real-ip"]), "{path}");
        let says = "headers     also up, where they are sent: via, x-real-ip\n";
        assert!(text(&told).contains(says), "{path}: {}", text(&told));
    }
    let told = decision("sk-alice", "POST", "/v1/messages", r#"{"model":"claude/c"}"#);
    assert!(!told.facts.contains_key("forward_headers"), "{}", text(&told));
}

#[test]
fn a_gate_that_is_shut_ends_the_story() {
    let named = |model: &str| format!(r#"{{"model":"{model}"}}"#);
    let chat = "/v1/chat/completions";
    let rows = [
        ("", chat, named("chat-default"), 401, 0),
        ("sk-x", "/nowhere", String::new(), 401, 0),
        ("sk-alice", "/nowhere", String::new(), 404, 1),
        ("sk-alice", chat, String::new(), 400, 2),
        ("sk-alice", chat, r#"{"model":1}"#.to_owned(), 400, 2),
        ("sk-alice", chat, named("gpt-4"), 400, 3),
        ("sk-alice", chat, named("demo/gpt-4"), 403, 4),
        ("sk-alice", "/v1/responses", named("claude/c"), 400, 4),
    ];
    for (key, path, body, status, steps) in rows {
        let told = decision(key, "POST", path, &body);
        let found = told.refusal.as_ref().map(|refusal| refusal.status);
        assert_eq!((found, told.steps.len()), (Some(status), steps), "{path} {body}");
        assert!(text(&told).contains(&format!("refused     {status}: ")), "{}", text(&told));
    }
    let told = decision("sk-alice", "PUT", chat, "");
    assert_eq!(told.refusal.map(|refusal| refusal.status), Some(405));
}

#[test]
fn what_is_declared_as_nothing_is_refused_and_what_the_books_know_is_not_tested() {
    let limit = |what: &str| {
        format!("[[rate_limits]]\nuser_name = \"alice\"\nmodel_pattern = \"chat-*\"\n{what}\n")
    };
    let quota = |usd: &str| format!("[[quotas]]\nuser_name = \"alice\"\nquota = \"{usd}\"\n");
    let none = "rate_limited: the rule for `chat-*` allows none";
    let of_key = "rate_limited: the API key `";
    let rows = [
        (quota("0"), "quota_exceeded: 0 USD used and 0 USD reserved of 0 USD in all", 402),
        (quota("5"), "quota and limits: not tested here\n", 0),
        (limit("rpm = 0"), none, 429),
        (limit("rpm = 9\ntotal_tokens = 0"), none, 429),
        (limit("in_flight = 0"), none, 429),
        (limit("rpd = 9"), "quota and limits: not tested here\n", 0),
        (
            limit("rpd = 0").replace("chat-", "other-"),
            "quota and limits: none counts this call\n",
            0,
        ),
        ("#key".to_owned(), of_key, 429),
    ];
    for (more, says, status) in rows {
        let text = match more.as_str() {
            "#key" => TEXT.replace("\"sk-alice\" }", "\"sk-alice\", in_flight = 0 }"),
            more => format!("{TEXT}{more}"),
        };
        let told =
            decision_by(&text, "sk-alice", "POST", "/v1/messages", r#"{"model":"chat-default"}"#);
        let found = told.refusal.as_ref().map_or(0, |refusal| refusal.status);
        assert_eq!(found, status, "{more}");
        assert!(self::text(&told).contains(says), "{more}: {}", self::text(&told));
    }
}

#[test]
fn a_body_that_names_another_model_than_the_path_is_refused() {
    let path = "/google/v1beta/models/m:embedContent";
    assert!(decision("sk-alice", "POST", path, r#"{"model":"models/m"}"#).refusal.is_none());
    let told = decision("sk-alice", "POST", path, r#"{"model":"models/other"}"#);
    assert_eq!(told.refusal.map(|refusal| refusal.status), Some(400));
}

#[test]
fn json_says_the_same_to_programs() {
    let told = decision("sk-alice", "POST", "/demo/v1/chat/completions", r#"{"model":"c1"}"#);
    let mut out = Vec::new();
    write_json(&told, &mut out).expect("memory can be written to");
    let all: Value = serde_json::from_slice(&out).expect("it is JSON");
    assert_eq!(all["served"], true);
    assert_eq!((&all["provider"], &all["model_served"]), (&json!("demo"), &json!("c1")));
    assert_eq!(all["steps"].as_array().map(Vec::len), Some(told.steps.len()));

    let told = decision("sk-x", "POST", "/v1/messages", "{}");
    let mut out = Vec::new();
    write_json(&told, &mut out).expect("memory can be written to");
    let all: Value = serde_json::from_slice(&out).expect("it is JSON");
    assert_eq!((&all["served"], &all["status"]), (&json!(false), &json!(401)));
}

#[test]
fn the_key_is_never_printed() {
    let told = decision("sk-alice", "POST", "/v1/messages?key=sk-alice", r#"{"model":"claude/c"}"#);
    assert!(told.refusal.is_none());
    assert!(!text(&told).contains("sk-alice"), "{}", text(&told));
}
