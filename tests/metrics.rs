//! What the metrics tell of each provider.

use crate::support::admin::admin;
use crate::support::client::post;
use crate::support::{Config, Gateway, Upstream, wait_for};
use serde_json::{Value, json};

const PRICED: &str = "[[models]]\nprovider_name = \"router\"\nmodel_id = \"m\"\n\
    price_tiers = [{ input_tokens_up_to = 0, price_input_tokens = \"2\", \
    price_output_tokens = \"10\" }]\n";

fn call(gateway: &Gateway, provider: &str) -> u16 {
    let body = format!(r#"{{"model":"{provider}/m","max_tokens":9,"messages":[]}}"#);
    gateway.connect().ask(&post("/v1/chat/completions", &body)).status
}

/// Numbers of this provider, without the label.
fn of(gateway: &Gateway, provider: &str) -> Vec<(String, f64)> {
    let label = format!("provider=\"{provider}\"");
    let all = gateway.metrics().into_iter().filter(|(name, _)| name.contains(&label));
    let mut all: Vec<_> = all.collect();
    all.sort_by(|one, other| one.0.cmp(&other.0));
    all
}

fn number(gateway: &Gateway, name: &str) -> f64 {
    *gateway.metrics().get(name).unwrap_or_else(|| panic!("there is no {name}"))
}

#[test]
fn requests_errors_tokens_cost_and_times_are_told_by_provider_and_go_with_it() {
    let good = Upstream::answering(|conn, _| {
        conn.whole(200, r#"{"usage":{"prompt_tokens":7,"completion_tokens":3}}"#);
    });
    let bad = Upstream::answering(|conn, _| {
        conn.whole(400, r#"{"error":{"message":"no"}}"#);
    });
    let config = Config::to(&good).global("allow_private_upstreams = true").tail(PRICED);
    let gateway = Gateway::start(&config.text());
    let made = json!({
        "name": "made", "channel": "custom", "credentials": [{ "api_key": "upstream-secret-1" }],
        "settings": {
            "base_url": format!("http://127.0.0.1:{}", bad.port), "dialects": ["openai_chat"]
        }
    });
    admin(&gateway, "POST", "providers", made, 201);
    for _ in 0..3 {
        assert_eq!(call(&gateway, "router"), 200);
    }
    for _ in 0..2 {
        assert_eq!(call(&gateway, "made"), 400);
    }
    // An answer is whole before its numbers are counted.
    let count = |provider: &str| {
        number(
            &gateway,
            &format!("gproxy_provider_request_seconds_count{{provider=\"{provider}\"}}"),
        )
    };
    wait_for("the last request to be counted", || {
        (count("router") == 3.0 && count("made") == 2.0).then_some(())
    });
    for (name, expected) in [
        ("requests_total{provider=\"router\",class=\"2xx\"}", 3.0),
        ("requests_total{provider=\"router\",class=\"4xx\"}", 0.0),
        ("attempts_total{provider=\"router\"}", 3.0),
        ("attempts_failed_total{provider=\"router\"}", 0.0),
        ("tokens_total{provider=\"router\",kind=\"input\"}", 21.0),
        ("tokens_total{provider=\"router\",kind=\"output\"}", 9.0),
        ("cost_usd_total{provider=\"router\"}", 0.000_132),
        ("first_byte_seconds_count{provider=\"router\"}", 3.0),
        ("requests_total{provider=\"made\",class=\"4xx\"}", 2.0),
        ("requests_total{provider=\"made\",class=\"2xx\"}", 0.0),
        ("attempts_total{provider=\"made\"}", 2.0),
        ("requests_total{provider=\"openai-main\",class=\"2xx\"}", 0.0),
    ] {
        assert_eq!(number(&gateway, &format!("gproxy_provider_{name}")), expected, "{name}");
    }
    // What is changed elsewhere loses nothing of it.
    let before = of(&gateway, "router");
    admin(&gateway, "POST", "reload", Value::Null, 200);
    assert_eq!(of(&gateway, "router"), before);
    admin(&gateway, "DELETE", "providers/made", Value::Null, 204);
    assert_eq!(of(&gateway, "made"), []);
    assert_eq!(of(&gateway, "router"), before);
}
