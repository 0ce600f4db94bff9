//! Anthropic's batches: every model in them is found, permitted and exchanged.

use crate::support::config::ALICE_KEY;
use crate::support::{ADMIN_KEY, Config, Gateway, Reply, Upstream, request};
use serde_json::{Value, json};

const MORE: &str = "[[model_aliases]]\nalias = \"claude\"\nprovider_name = \"anthropic-main\"\n\
    model_id = \"claude-3-5-sonnet-latest\"\n[[models]]\nprovider_name = \"anthropic-main\"\n\
    model_id = \"claude-retired\"\nenabled = false\n[[permissions]]\nuser_name = \"alice\"\n\
    provider_name = \"anthropic-main\"\nmodel_pattern = \"claude-3-*\"\n";

fn start() -> (Upstream, Gateway) {
    let upstream = Upstream::answering(|conn, _| {
        let batch = json!({"id": "b", "type": "message_batch"});
        conn.whole(200, batch.to_string());
    });
    let gateway = Gateway::start(&Config::to(&upstream).tail(MORE).text());
    (upstream, gateway)
}

fn batch(models: &[&str]) -> Value {
    let one = |(at, model): (usize, &&str)| {
        let messages = json!([{"role": "user", "content": "\"model\":\"claude\""}]);
        json!({"custom_id": at.to_string(), "params": {"messages": messages, "model": model}})
    };
    json!({"requests": models.iter().enumerate().map(one).collect::<Vec<_>>()})
}

fn send(gateway: &Gateway, target: &str, key: &str, more: &[(&str, &str)], body: &str) -> Reply {
    let mut fields = vec![("x-api-key", key), ("anthropic-version", "2023-06-01")];
    fields.extend(more);
    gateway.connect().ask(&request("POST", target, &fields, body.as_bytes()))
}

const ALL: &str = "/v1/messages/batches";
const SCOPED: &str = "/anthropic-main/v1/messages/batches";

#[test]
fn the_models_of_a_batch_go_up_by_the_names_that_serve() {
    let (upstream, gateway) = start();
    let served = ["claude-3-5-sonnet-latest", "claude-3-haiku"];
    let header = [("x-gproxy-provider", "anthropic-main")];
    for (target, key, more, asked) in [
        (ALL, ADMIN_KEY, &[][..], ["claude", "anthropic-main/claude-3-haiku"]),
        (ALL, ADMIN_KEY, &header, ["anthropic-main/claude-3-5-sonnet-latest", "claude-3-haiku"]),
        (SCOPED, ADMIN_KEY, &[], ["claude", "claude-3-haiku"]),
        // Who may call each of them needs no more.
        (SCOPED, ALICE_KEY, &[], served),
        (ALL, ALICE_KEY, &[], ["anthropic-main/claude-3-5-sonnet-latest", "claude-3-haiku"]),
    ] {
        let reply = send(&gateway, target, key, more, &batch(&asked).to_string());
        assert_eq!(reply.status, 200, "{asked:?}: {}", reply.text());
        let seen = upstream.last();
        assert_eq!(seen.target, ALL);
        assert_eq!(seen.json(), batch(&served));
        assert_eq!(seen.header("content-length"), Some(seen.body.len().to_string().as_str()));
    }
    assert_eq!(gateway.gauge("gproxy_held_bytes"), 0.0);
}

#[test]
fn a_batch_is_refused_before_anybody_is_called() {
    let (upstream, gateway) = start();
    for (target, key, models, status, says) in [
        (SCOPED, ALICE_KEY, &["claude-3-haiku", "claude-4"][..], 403, "forbidden: model"),
        (ALL, ALICE_KEY, &["claude"], 403, "forbidden: model"),
        (SCOPED, ALICE_KEY, &[], 403, "forbidden: model"),
        (ALL, ADMIN_KEY, &["claude", "router/claude"], 400, "one provider"),
        (ALL, ADMIN_KEY, &["claude", "claude-3-haiku"], 400, "anthropic-main"),
        (SCOPED, ADMIN_KEY, &["claude-retired"], 404, "claude-retired"),
        (ALL, ADMIN_KEY, &["chat-default"], 400, "dialect"),
    ] {
        let reply = send(&gateway, target, key, &[], &batch(models).to_string());
        assert_eq!(reply.status, status, "{models:?}: {}", reply.text());
        assert!(reply.error_message().contains(says), "{}", reply.text());
    }
    let twice = r#"{"requests":[{"params":{"model":"claude","model":"claude-4"}}]}"#;
    for body in [twice, "", "[]", r#"{"requests":[{"params":{"model":"claude"}}"#] {
        assert_eq!(send(&gateway, SCOPED, ADMIN_KEY, &[], body).status, 400, "{body}");
    }
    assert_eq!(upstream.count(), 0);
    // What nobody can look into is for those who may do everything.
    let packed = [("content-encoding", "gzip")];
    assert_eq!(send(&gateway, SCOPED, ALICE_KEY, &packed, "x").status, 403);
    assert_eq!(send(&gateway, SCOPED, ADMIN_KEY, &packed, "x").status, 200);
}

#[test]
fn models_to_fall_back_to_are_permitted_like_those_of_single_calls() {
    let (upstream, gateway) = start();
    let ask = |key, params: &Value| {
        let mut batch = batch(&["claude-3-haiku", "claude-3-haiku"]);
        let second = batch["requests"][1]["params"].as_object_mut().expect("an object");
        second.extend(params.as_object().expect("an object").clone());
        (send(&gateway, SCOPED, key, &[], &batch.to_string()), batch)
    };
    for (params, name) in [
        (json!({"fallbacks": [{"model": "claude-3-opus"}, {"model": "claude-4"}]}), "claude-4"),
        (json!({"models": ["claude-5"]}), "claude-5"),
        (json!({"tools": [{"type": "advisor_20260301", "model": "claude-6"}]}), "claude-6"),
    ] {
        let (refused, _) = ask(ALICE_KEY, &params);
        assert_eq!(refused.status, 403, "{params}");
        assert!(refused.error_message().contains(name), "{}", refused.text());
        assert_eq!(upstream.count(), 0);
    }
    let (served, sent) = ask(ALICE_KEY, &json!({"fallbacks": [{"model": "claude-3-opus"}]}));
    assert_eq!(served.status, 200, "{}", served.text());
    assert_eq!(upstream.last().json(), sent, "they go up as they stand");
    assert_eq!(ask(ADMIN_KEY, &json!({"models": ["claude-4"]})).0.status, 200);
}

#[test]
fn a_long_batch_is_not_held() {
    let (upstream, gateway) = start();
    let filler = "x".repeat(4_000);
    let one = |model: &str| {
        format!("{{\"params\":{{\"messages\":[\"{filler}\"],\"model\":\"{model}\"}}}}")
    };
    let body = |models: [&str; 2]| {
        let pair = format!("{},{}", one(models[0]), one(models[1]));
        format!("{{\"requests\":[{}]}}", vec![pair; 6_000].join(","))
    };
    let before = gateway.resident_peak_kib();
    let sent = body(["claude", "claude-3-haiku"]);
    let reply = send(&gateway, SCOPED, ADMIN_KEY, &[], &sent);
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(
        upstream.last().body == body(["claude-3-5-sonnet-latest", "claude-3-haiku"]).as_bytes()
    );
    let grown = gateway.resident_peak_kib() - before;
    assert!(grown < 32 * 1024, "{grown} KiB more at the peak for {} bytes", sent.len());

    // The last name counts like the first.
    let denied = send(&gateway, SCOPED, ALICE_KEY, &[], &body(["claude-3-haiku", "claude-4"]));
    assert_eq!(denied.status, 403);
    assert_eq!(upstream.count(), 1);
}
