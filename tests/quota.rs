//! Quotas that hold: for a thousand requests at once, and in the middle of a stream.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex};

use crate::support;
use crate::support::client::post;
use crate::support::{Client, Config, Gateway, Reply, Upstream, wait_for};
use serde_json::{Value, json};

/// Picodollars of a millionth of a dollar.
const MICRO: i64 = 1_000_000;

/// A model that is priced, with a longest answer, and a quota in USD.
fn tables(output_max: u64, quota: &str) -> String {
    format!(
        "[[models]]\nprovider_name = \"router\"\nmodel_id = \"m\"\n\
         max_output_tokens = {output_max}\nprice_tiers = [{{ price_input_tokens = \"1\", \
         price_output_tokens = \"2\" }}]\n\
         [[quotas]]\nuser_name = \"admin\"\nquota = \"{quota}\"\n"
    )
}

/// A hundred tokens of text.
fn text() -> String {
    "x".repeat(400)
}

const ENDPOINTS: [&str; 4] = ["chat/completions", "responses", "messages", "gemini"];

fn ask(endpoint: &str) -> Vec<u8> {
    let fields = if endpoint == "messages" { ",\"max_tokens\":5" } else { "" };
    let body = format!("{{\"model\":\"m\",\"stream\":true{fields}}}");
    match endpoint {
        "gemini" => post("/router/v1beta/models/m:streamGenerateContent?alt=sse", "{}"),
        _ => post(&format!("/router/v1/{endpoint}"), body),
    }
}

/// The beginning of a stream, and what follows again and again.
fn events(path: &str) -> (String, String) {
    let text = text();
    let named = |kind: &str, rest: String| {
        format!("event: {kind}\ndata: {{\"type\":\"{kind}\"{rest}}}\n\n")
    };
    match path.rsplit('/').next().unwrap_or_default() {
        "responses" => (
            named(
                "response.created",
                ",\"sequence_number\":0,\"response\":{\"id\":\"r1\",\"model\":\"dated\"}".into(),
            ),
            named(
                "response.output_text.delta",
                format!(",\"sequence_number\":1,\"delta\":\"{text}\""),
            ),
        ),
        "messages" => (
            named(
                "message_start",
                ",\"message\":{\"id\":\"m1\",\"model\":\"dated\",\"usage\":\
                 {\"input_tokens\":10,\"output_tokens\":1}}"
                    .into(),
            ) + &named(
                "content_block_start",
                ",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}".into(),
            ),
            named(
                "content_block_delta",
                format!(",\"index\":0,\"delta\":{{\"type\":\"text_delta\",\"text\":\"{text}\"}}"),
            ),
        ),
        "completions" => (
            "data: {\"id\":\"c1\",\"model\":\"dated\",\"choices\":[]}\n\n".into(),
            format!(
                "data: {{\"id\":\"c1\",\"model\":\"dated\",\"choices\":[{{\"index\":0,\
                 \"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"
            ),
        ),
        _ => (
            String::new(),
            format!(
                "data: {{\"candidates\": [{{\"content\": {{\"parts\": [{{\"text\":\
                 \"{text}\"}}]}}}}],\"modelVersion\": \"dated\"}}\r\n\r\n"
            ),
        ),
    }
}

/// Generates until it is left, as fast as it is read.
fn endless(tell: Sender<()>) -> Upstream {
    let tell = Mutex::new(tell);
    Upstream::answering(move |conn, seen| {
        let (first, next) = events(seen.path());
        conn.stream_head();
        if !first.is_empty() {
            conn.piece(first);
        }
        while conn.piece(&next) {}
        let _ = tell.lock().expect("never poisoned").send(());
    })
}

fn data(reply: &Reply) -> Vec<Value> {
    reply
        .text()
        .lines()
        .filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
        .collect()
}

#[test]
fn a_stream_whose_quota_is_spent_ends_as_one_that_is_long_enough() {
    for endpoint in ENDPOINTS {
        let (tell, told) = channel();
        let upstream = endless(tell);
        // 5,000 tokens of output, of which ten are held at first.
        let gateway = Gateway::start(&Config::to(&upstream).tail(&tables(10, "0.01")).text());
        let mut client = gateway.connect();
        let reply = client.ask(&ask(endpoint));
        assert_eq!((reply.status, reply.complete), (200, true), "{endpoint}");
        let events = data(&reply);
        let last = |back: usize| &events[events.len() - 1 - back];
        match endpoint {
            "chat/completions" => {
                assert!(reply.text().ends_with("data: [DONE]\n\n"));
                assert_eq!(last(0)["choices"][0]["finish_reason"], "length");
                assert_eq!((&last(0)["id"], &last(0)["model"]), (&json!("c1"), &json!("dated")));
            }
            "responses" => {
                assert_eq!(last(0)["type"], "response.incomplete");
                assert_eq!(last(0)["response"]["id"], "r1");
                let why = &last(0)["response"]["incomplete_details"]["reason"];
                assert_eq!(why, "max_output_tokens");
            }
            "messages" => {
                let kinds = [2, 1, 0].map(|back| last(back)["type"].clone());
                assert_eq!(kinds, ["content_block_stop", "message_delta", "message_stop"]);
                assert_eq!(last(1)["delta"]["stop_reason"], "max_tokens");
            }
            _ => assert_eq!(last(0)["candidates"][0]["finishReason"], "MAX_TOKENS"),
        }
        told.recv_timeout(support::DEADLINE).expect("the upstream call is given up");
        // The connection goes on; the quota is spent.
        let reply = client.ask(&ask(endpoint));
        assert_eq!(reply.status, 402, "{endpoint}: {}", reply.text());
        let rows = wait_for("the row", || {
            support::books::rows(gateway.folder()).filter(|rows| rows.len() == 1)
        });
        assert_eq!(rows[0].text("outcome"), "quota", "{endpoint}");
        assert_eq!(rows[0].text("usage_source"), "estimated");
        let spent = support::books::spent(gateway.folder());
        // Past the ceiling by what was read at once, at most.
        assert!((10_000 * MICRO..=18_000 * MICRO).contains(&spent), "{endpoint}: {spent}");
        assert_eq!(gateway.gauge("gproxy_streams_quota_ended_total"), 1.0);
        support::books::audit(gateway.folder());
    }
}

#[test]
fn a_stream_goes_on_past_its_quota_where_the_setting_says_so() {
    let finite = Upstream::answering(|conn, seen| {
        let (first, next) = events(seen.path());
        conn.stream(first + &next.repeat(200) + "data: [DONE]\n\n");
    });
    for (setting, complete) in [("quota_ends_streams = false", 200), ("", 200)] {
        // Without the setting the quota is large enough.
        let quota = if setting.is_empty() { "1" } else { "0.01" };
        let config = Config::to(&finite).global(setting).tail(&tables(10, quota));
        let gateway = Gateway::start(&config.text());
        let reply = gateway.connect().ask(&ask("chat/completions"));
        let whole = data(&reply)
            .iter()
            .filter(|event| event["choices"][0]["delta"]["content"].is_string())
            .count();
        assert_eq!(whole, complete, "{setting}");
    }
}

/// An upstream that answers nobody until it is told to, and bills 20 and 100 tokens.
fn gate() -> (Upstream, Arc<(Mutex<bool>, Condvar)>) {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let ours = gate.clone();
    let upstream = Upstream::answering(move |conn, _| {
        let (open, opened) = &*ours;
        let mut is_open = open.lock().expect("never poisoned");
        while !*is_open {
            is_open = opened.wait(is_open).expect("never poisoned");
        }
        drop(is_open);
        conn.whole(
            200,
            "{\"choices\":[],\"usage\":{\"prompt_tokens\":20,\"completion_tokens\":100}}",
        );
    });
    (upstream, gate)
}

/// What a call costs: 20 * 1 + 100 * 2 millionths.
const COST: i64 = 220 * MICRO;

/// A thousand requests at once: how many were served, and what was spent.
fn burst(output_max: u64, body: &str) -> (usize, i64) {
    let (upstream, gate) = gate();
    // Pays for ten.
    let gateway = Gateway::start(&Config::to(&upstream).tail(&tables(output_max, "0.0022")).text());
    let ask = post("/router/v1/chat/completions", body);
    let mut clients: Vec<Client> = (0..1_000)
        .map(|_| {
            let mut client = gateway.connect();
            client.send(&ask);
            client
        })
        .collect();
    wait_for("all to be refused or under way", || {
        let metrics = gateway.metrics();
        let refused = metrics["gproxy_requests_refused_total"];
        (refused + metrics["gproxy_upstream_in_flight"] == 1_000.0).then_some(())
    });
    let (open, opened) = &*gate;
    *open.lock().expect("never poisoned") = true;
    opened.notify_all();
    let mut served = 0;
    for client in &mut clients {
        let reply = client.reply().expect("an answer");
        assert!(matches!(reply.status, 200 | 402), "{}", reply.text());
        served += usize::from(reply.status == 200);
    }
    wait_for("every row", || {
        support::books::rows(gateway.folder()).filter(|rows| rows.len() == served)
    });
    support::books::audit(gateway.folder());
    (served, support::books::spent(gateway.folder()))
}

#[test]
fn a_thousand_at_once_never_pass_a_ceiling_with_an_asked_maximum() {
    let (served, spent) = burst(5_000, r#"{"model":"m","messages":[],"max_tokens":100}"#);
    assert!((9..=10).contains(&served), "served {served}");
    assert!(spent <= 10 * COST && spent == served as i64 * COST, "spent {spent}");
}

#[test]
fn without_a_maximum_a_ceiling_is_passed_by_the_underestimates_under_way_alone() {
    // The model says 50 tokens, and writes 100: a call is underestimated by up to 100 millionths.
    let (served, spent) = burst(50, r#"{"model":"m","messages":[]}"#);
    let over = spent - 10 * COST;
    let report = format!("served {served}, spent {spent} of {}, over by {over}", 10 * COST);
    assert!(served >= 10 && over <= served as i64 * 110 * MICRO, "{report}");
}

#[test]
fn what_nobody_can_count_is_not_for_users_with_a_quota() {
    let upstream = Upstream::answering(|conn, _| {
        conn.whole(200, "{}");
    });
    let batch = "{\"requests\":[{\"custom_id\":\"a\",\"params\":{\"model\":\"m\"}}]}";
    let calls = [
        ("/router/v1/batches", "{}"),
        ("/router/v1/threads/runs", "{}"),
        ("/router/v1beta/interactions", "{}"),
        ("/router/deployments/x/chat/completions", "{}"),
        ("/router/v1/messages/batches", batch),
        ("/router/v1beta/models/m:batchGenerateContent", "{}"),
    ];
    let quota = "[[quotas]]\nuser_name = \"admin\"\nquota = 1\n";
    let serve = "[ledger]\nunmetered = \"serve\"\n";
    for (tail, status) in
        [(quota.to_owned(), 403), (quota.to_owned() + serve, 200), ("".into(), 200)]
    {
        let config = Config::to(&upstream).setting("passthrough = true").tail(&tail);
        let gateway = Gateway::start(&config.text());
        for (path, body) in calls {
            let reply = gateway.connect().ask(&post(path, body));
            assert_eq!(reply.status, status, "{path} with {tail:?}: {}", reply.text());
            assert!(status == 200 || reply.text().contains("unmetered"), "{}", reply.text());
        }
        let get = b"GET /router/v1/batches HTTP/1.1\r\nhost: h\r\nauthorization: Bearer sk-admin-1\
            \r\n\r\n";
        assert_eq!(gateway.connect().ask(get).status, 200, "asking after them costs nothing");
    }
}
