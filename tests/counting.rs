//! Calls that count tokens: the upstream's word where it has one, else an estimate that says so.

use crate::support::{ADMIN_KEY, Config, Gateway, Reply, Upstream, request};

/// Path, body, and where the reply holds the count.
const CALLS: [(&str, &str, &str); 3] = [
    (
        "/anthropic-main/v1/messages/count_tokens?beta=true",
        r#"{"model":"claude-x","messages":[{"role":"user","content":"Hello, how are you?"}]}"#,
        "input_tokens",
    ),
    (
        "/openai-main/v1/responses/input_tokens",
        r#"{"model":"gpt-x","input":"Hello, how are you today, my friend?"}"#,
        "input_tokens",
    ),
    (
        "/vertex-main/v1beta/models/gemini-x:countTokens",
        r#"{"contents":[{"parts":[{"text":"Hello, how are you today?"}]}]}"#,
        "totalTokens",
    ),
];

fn ask(gateway: &Gateway, target: &str, body: &str) -> Reply {
    let bearer = format!("Bearer {ADMIN_KEY}");
    let fields = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    gateway.connect().ask(&request("POST", target, &fields, body.as_bytes()))
}

#[track_caller]
fn check_estimate(reply: &Reply, count: &str) {
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("x-gproxy-estimated"), Some("true"));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert!(reply.header("x-gproxy-request-id").is_some());
    let tokens = reply.json()[count].as_u64().expect("a number");
    assert!((8..=24).contains(&tokens), "{}", reply.text());
}

/// An upstream that answers with the status that the header `x-want` names.
fn obliging() -> Upstream {
    Upstream::answering(|conn, seen| {
        let status = seen.header("x-want").map_or(200, |status| status.parse().expect("a status"));
        conn.whole(status, r#"{"input_tokens":77,"totalTokens":77,"error":{"message":"theirs"}}"#);
    })
}

#[test]
fn the_upstream_counts_where_it_can_and_we_do_where_it_cannot() {
    let upstream = obliging();
    let gateway = Gateway::start(&Config::to(&upstream).text());
    let bearer = format!("Bearer {ADMIN_KEY}");
    for (target, body, count) in CALLS {
        let reply = ask(&gateway, target, body);
        assert_eq!((reply.status, &reply.json()[count]), (200, &77.into()), "{target}");
        assert_eq!(reply.header("x-gproxy-estimated"), None);
        let want = |status: u16| {
            let status = status.to_string();
            let fields = [("authorization", bearer.as_str()), ("x-want", status.as_str())];
            gateway.connect().ask(&request("POST", target, &fields, body.as_bytes()))
        };
        for status in [404, 405, 429, 500, 501, 503, 529] {
            check_estimate(&want(status), count);
        }
        // These are about the request or the credential: nobody gains by a number.
        for status in [400, 401, 403, 413] {
            let reply = want(status);
            assert_eq!((reply.status, reply.error_message()), (status, "theirs".to_owned()));
            assert_eq!(reply.header("x-gproxy-source"), Some("upstream"));
        }
    }
    let estimates = gateway.gauge("gproxy_tokens_estimated_total");
    assert_eq!(estimates, 21.0);
}

#[test]
fn an_upstream_that_cannot_be_reached_or_is_none_does_not_matter() {
    let gone = Config::to_url("http://127.0.0.1:1");
    let gateway = Gateway::start(&gone.text());
    for (target, body, count) in CALLS {
        check_estimate(&ask(&gateway, target, body), count);
    }
    let echo = "[[providers]]\nname = \"here\"\nchannel = \"echo\"\n";
    let gateway = Gateway::start(&gone.tail(echo).text());
    for (target, body, count) in CALLS {
        let (_, below) = target[1..].split_once('/').expect("a scope");
        check_estimate(&ask(&gateway, &format!("/here/{below}"), body), count);
    }
}

#[test]
fn the_gates_stand_in_front_of_an_estimate_too() {
    let gateway = Gateway::start(&Config::to_url("http://127.0.0.1:1").text());
    let (target, body, _) = CALLS[0];
    let fields = [("x-api-key", "sk-wrong")];
    let reply = gateway.connect().ask(&request("POST", target, &fields, body.as_bytes()));
    assert_eq!(reply.status, 401);
    assert_eq!(ask(&gateway, "/v1/messages/count_tokens", r#"{"model":"x"}"#).status, 400);
    assert_eq!(ask(&gateway, "/openai-main/v1/messages/count_tokens", body).status, 400);
}
