//! Lists of models: who sees what, under which name, in whose shape.

use crate::support::config::ALICE_KEY;
use crate::support::{ADMIN_KEY, Config, Gateway, Reply, Upstream, request, wait_for};
use rustix::process::Signal;
use serde_json::json;

struct Fixture {
    upstream: Upstream,
    gateway: Gateway,
}

fn start() -> Fixture {
    let upstream = Upstream::vendor();
    let gateway = Gateway::start(&Config::to(&upstream).text());
    Fixture { upstream, gateway }
}

impl Fixture {
    fn get(&self, target: &str, key: &str, headers: &[(&str, &str)]) -> Reply {
        let bearer = format!("Bearer {key}");
        let mut fields = vec![("authorization", bearer.as_str())];
        fields.extend(headers);
        self.gateway.connect().ask(&request("GET", target, &fields, b""))
    }

    #[track_caller]
    fn ids(&self, target: &str, key: &str) -> Vec<String> {
        let reply = self.get(target, key, &[]);
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.header("x-gproxy-source"), Some("gateway"));
        let data = reply.json()["data"].as_array().expect("a list").clone();
        data.iter().map(|model| model["id"].as_str().expect("an id").to_owned()).collect()
    }
}

#[test]
fn the_aggregated_list_has_every_enabled_model_and_alias_by_the_name_to_call_it() {
    let fixture = start();
    let expected = [
        "openai-main/gpt-4.1-mini",
        "anthropic-main/claude-3-5-sonnet-latest",
        "vertex-main/gemini-1.5-flash",
        "router/router/auto",
        "chat-default",
        "gemini-default",
        "openai-main/fast",
    ];
    for target in ["/v1/models", "/models", "/v1/v1/models/", "//v1/models?limit=1"] {
        assert_eq!(fixture.ids(target, ADMIN_KEY), expected, "{target}");
    }
    assert_eq!(fixture.upstream.count(), 0, "it is answered here");
}

#[test]
fn a_scoped_list_has_raw_ids_and_the_aliases_of_that_provider() {
    let fixture = start();
    let rows: [(&str, &[&str]); 4] = [
        ("/openai-main/v1/models", &["gpt-4.1-mini", "chat-default"]),
        ("/router/v1/models", &["router/auto", "openai-main/fast"]),
        ("/vertex-main/v1/models", &["gemini-1.5-flash", "gemini-default"]),
        ("/anthropic-main/models", &["claude-3-5-sonnet-latest"]),
    ];
    for (target, expected) in rows {
        assert_eq!(fixture.ids(target, ADMIN_KEY), expected, "{target}");
    }
}

#[test]
fn what_a_user_may_not_call_does_not_exist_for_him() {
    let fixture = start();
    assert_eq!(fixture.ids("/v1/models", ALICE_KEY), ["openai-main/gpt-4.1-mini"]);
    assert_eq!(fixture.ids("/anthropic-main/v1/models", ALICE_KEY), [] as [&str; 0]);
    let unknown = [
        "/v1/models/chat-default",
        "/v1/models/anthropic-main/claude-3-5-sonnet-latest",
        "/v1/models/openai-main/gpt-retired",
        "/v1/models/openai-main/gpt-undeclared",
        "/v1/models/gpt-4.1-mini",
        "/v1/models/nobody/gpt-4.1-mini",
    ];
    for target in unknown {
        let reply = fixture.get(target, ALICE_KEY, &[]);
        assert_eq!(reply.status, 404, "{target}: {}", reply.text());
        assert_eq!(reply.json()["error"]["code"], "model_not_found", "{target}");
    }
    let reply = fixture.gateway.connect().ask(&request("GET", "/v1/models", &[], b""));
    assert_eq!(reply.status, 401);
    assert_eq!(fixture.get("/v1/models", "sk-wrong", &[]).status, 401);
}

#[test]
fn one_model_is_found_by_every_spelling_of_its_name() {
    let fixture = start();
    let rows = [
        ("/v1/models/openai-main%2Fgpt-4.1-mini", "openai-main/gpt-4.1-mini"),
        ("/v1/models/openai-main/gpt-4.1-mini", "openai-main/gpt-4.1-mini"),
        ("/openai-main/v1/models/gpt-4.1-mini", "gpt-4.1-mini"),
        ("/openai-main/v1/models/openai-main%2Fgpt-4.1-mini", "openai-main/gpt-4.1-mini"),
        ("/v1/models/chat-default", "chat-default"),
        ("/openai-main/models/chat-default", "chat-default"),
        ("/v1/models/router/router/auto", "router/router/auto"),
        ("/v1/models/openai-main%2Ffast", "openai-main/fast"),
    ];
    for (target, id) in rows {
        let reply = fixture.get(target, ADMIN_KEY, &[]);
        assert_eq!(reply.status, 200, "{target}: {}", reply.text());
        assert_eq!(reply.json()["id"], id, "{target}");
    }
}

#[test]
fn the_caller_decides_the_shape() {
    let fixture = start();
    let version = [("anthropic-version", "2023-06-01")];
    let list = fixture.get("/v1/models?limit=2", ADMIN_KEY, &version).json();
    assert_eq!((&list["has_more"], &list["first_id"]), (&json!(true), &list["data"][0]["id"]));
    assert_eq!(list["data"][0]["type"], "model");
    let last = list["last_id"].as_str().expect("an id").replace('/', "%2F");
    let rest = fixture.get(&format!("/v1/models?after_id={last}"), ADMIN_KEY, &version).json();
    assert_eq!(
        (&rest["has_more"], rest["data"].as_array().map(Vec::len)),
        (&json!(false), Some(5))
    );

    let list = fixture.get("/v1beta/models?pageSize=3", ADMIN_KEY, &[]).json();
    assert_eq!(list["models"][2]["name"], "models/vertex-main/gemini-1.5-flash");
    assert_eq!(list["nextPageToken"], "vertex-main/gemini-1.5-flash");
    let one = fixture.get("/vertex-main/v1beta/models/gemini-1.5-flash", ADMIN_KEY, &[]).json();
    assert_eq!(one["name"], "models/gemini-1.5-flash");

    // Errors too.
    let wrong = fixture.get("/v1/models?limit=0", ADMIN_KEY, &version);
    assert_eq!((wrong.status, &wrong.json()["type"]), (400, &json!("error")));
    let missing = fixture.get("/v1beta/models/none", ADMIN_KEY, &[]);
    assert_eq!((missing.status, &missing.json()["error"]["status"]), (404, &json!("NOT_FOUND")));
}

#[test]
fn a_head_request_tells_the_length_alone() {
    let fixture = start();
    let bearer = format!("Bearer {ADMIN_KEY}");
    let head = request("HEAD", "/v1/models", &[("authorization", &bearer)], b"");
    let reply = fixture.gateway.connect().ask(&head);
    assert_eq!((reply.status, reply.body.len()), (200, 0));
    let length = fixture.get("/v1/models", ADMIN_KEY, &[]).body.len();
    assert_eq!(reply.header("content-length"), Some(length.to_string().as_str()));
}

#[test]
fn a_reload_changes_the_list_at_once() {
    let upstream = Upstream::vendor();
    let config = Config::to(&upstream);
    let gateway = Gateway::start(&config.text());
    let more = "[[models]]\nprovider_name = \"router\"\nmodel_id = \"new-1\"\n\
                display_name = \"New <1>\"\nmax_input_tokens = 1000\n";
    gateway.rewrite_config(&config.tail(more).text());
    gateway.signal(Signal::HUP);
    let bearer = format!("Bearer {ADMIN_KEY}");
    let fields = [("authorization", bearer.as_str()), ("anthropic-version", "2023-06-01")];
    let ask = request("GET", "/v1/models/router/new-1", &fields, b"");
    let reply = wait_for("the model to exist", || {
        Some(gateway.connect().ask(&ask)).filter(|reply| reply.status == 200)
    });
    let expected = json!({"type": "model", "id": "router/new-1", "display_name": "New <1>",
        "created_at": "2025-01-01T00:00:00Z", "max_input_tokens": 1000});
    assert_eq!(reply.json(), expected);
}
