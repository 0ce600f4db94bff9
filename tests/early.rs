//! Streams that begin before their upstream speaks, where the operator allows it.

use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use crate::support::admin::admin;
use crate::support::books;
use crate::support::client::{chat, post};
use crate::support::{ADMIN_KEY, Gateway, Upstream, vendor, wait_for};
use serde_json::Value;

const SIGN: &str = ": keep-alive\n";

/// Providers `one` and `two` with one credential each, and the alias `either` on both.
fn config(ports: [u16; 2], setting: &str) -> String {
    let provider = |name: &str, port: u16| {
        format!(
            "[[providers]]\nname = \"{name}\"\nchannel = \"custom\"\n\
             credentials = [{{ api_key = \"cred-{name}\" }}]\n\
             settings = {{ base_url = \"http://127.0.0.1:{port}\", {setting} }}\n"
        )
    };
    format!(
        "[global]\nport = 0\nworkers = 1\ndata_dir = \"DATA_DIR\"\n{}{}\
         [[model_aliases]]\nalias = \"either\"\ntargets = [\
         {{ provider_name = \"one\", model_id = \"m\" }}, \
         {{ provider_name = \"two\", model_id = \"m\", tier = 2 }}]\n\
         [[models]]\nprovider_name = \"one\"\nmodel_id = \"m\"\nprice_each_call = \"1\"\n\
         [[users]]\nname = \"admin\"\nis_admin = true\nkeys = [{{ api_key = \"{ADMIN_KEY}\" }}]\n\
         [[permissions]]\nuser_name = \"admin\"\nmodel_pattern = \"*\"\n",
        provider("one", ports[0]),
        provider("two", ports[1]),
    )
}

const EARLY: &str = "early_headers_ms = 300, keepalive_ms = 300";

/// Answers with this status when it is told to.
fn slow(status: u16) -> (Upstream, Sender<()>) {
    let (go_on, may_go_on) = channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let upstream = Upstream::answering(move |conn, seen| {
        may_go_on.lock().expect("never poisoned").recv().expect("the test says when");
        match status {
            200 => vendor::answer(conn, seen),
            status => {
                conn.whole(status, r#"{"error":{"message":"too much","type":"x"}}"#);
            }
        }
    });
    (upstream, go_on)
}

#[test]
fn a_stream_lives_before_its_upstream_speaks_and_another_target_serves_it() {
    let (one, go_on) = slow(503);
    let two = Upstream::vendor();
    let gateway = Gateway::start(&config([one.port, two.port], EARLY));
    let mut client = gateway.connect();
    client.send(&chat("either", true));
    let head = client.head().expect("a head before the upstream's");
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    let mut text = client.chunks_until(&format!("{SIGN}{SIGN}"));
    go_on.send(()).expect("the upstream waits");
    while let Some(more) = client.chunk().expect("the stream ends well") {
        text.extend(more);
    }
    let text = String::from_utf8(text).expect("UTF-8");
    let rest = text.replace(SIGN, "");
    assert!(rest.contains("\"model\":\"either\"") && rest.ends_with("data: [DONE]\n\n"), "{rest}");
    assert_eq!((one.count(), two.count()), (1, 1));
    // The connection lives on.
    two.forget();
    assert_eq!(client.ask(&chat("two/m", false)).status, 200);
}

#[test]
fn an_upstreams_refusal_behind_an_early_head_is_an_event_and_costs_nothing() {
    for (target, body, event) in [
        ("/v1/chat/completions", r#"{"model":"one/m","stream":true}"#, "data: {\"error\":"),
        ("/v1/responses", r#"{"model":"one/m","stream":true}"#, "event: error\ndata: {\"type\":"),
        ("/v1/messages", r#"{"model":"one/m","stream":true}"#, "event: error\ndata: {\"type\":"),
        ("/v1beta/models/one/m:streamGenerateContent?alt=sse", "{}", "data: {\"error\":"),
    ] {
        let (one, go_on) = slow(429);
        let gateway = Gateway::start(&config([one.port, one.port], EARLY));
        let mut client = gateway.connect();
        client.send(&post(target, body));
        assert_eq!(client.head().expect("a head before the upstream's").status, 200);
        go_on.send(()).expect("the upstream waits");
        let rest = String::from_utf8(client.read_to_close()).expect("UTF-8");
        assert!(rest.contains(event), "{rest}");
        assert!(rest.contains("the upstream answered 429: too much"), "{rest}");
        assert!(!rest.ends_with("0\r\n\r\n"), "the end is no proper one");
        let rows =
            wait_for("a row", || books::rows(gateway.folder()).filter(|all| !all.is_empty()));
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].number("status"), rows[0].text("outcome")), (200, "refused"));
        assert_eq!((rows[0].text("usage_source"), rows[0].number("cost")), ("none", 0));
        let kept = &admin(&gateway, "GET", "refusals", Value::Null, 200)["items"][0];
        assert_eq!(kept["request_id"], rows[0].text("request_id"));
        assert!(kept["message"].as_str().is_some_and(|says| rest.contains(says)), "{kept}");
    }
}

#[test]
fn without_the_setting_nothing_goes_down_before_the_upstream() {
    let (one, go_on) = slow(429);
    let gateway = Gateway::start(&config([one.port, one.port], "keepalive_ms = 1"));
    let mut client = gateway.connect();
    client.send(&chat("one/m", true));
    one.wait_for_requests(1);
    assert!(client.is_silent(std::time::Duration::from_millis(800)));
    go_on.send(()).expect("the upstream waits");
    assert_eq!(client.reply().expect("an answer").status, 429);
}
