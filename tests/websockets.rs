//! Sessions over WebSocket: gates, names in both directions, usage, and every way to end.

use std::time::Duration;

use crate::support;
use crate::support::admin;
use crate::support::books::{self, Row};
use crate::support::client::chat;
use crate::support::config::{ALICE_KEY, provider};
use crate::support::websocket::{BINARY, CLOSE, Frame, PING, PONG, TEXT, frame, handshake};
use crate::support::{
    ADMIN_KEY, Client, Config, Conn, Gateway, Seen, UPSTREAM_KEY, Upstream, wait_for,
};
use serde_json::{Value, json};

const REALTIME: &str = "/v1/realtime?model=chat-default&intent=talk";
const GEMINI: &str =
    "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent";
const PRICES: &str = "[[models]]\nprovider_name = \"router\"\nmodel_id = \"priced\"\n\
    price_tiers = [{ input_tokens_up_to = 0, price_input_tokens = \"2\", \
    price_output_tokens = \"8\" }]\n[[model_aliases]]\nalias = \"live\"\n\
    provider_name = \"router\"\nmodel_id = \"priced\"\n";

/// Serves each session with `serve`; the handshake is made and noted before.
fn sessions(serve: impl Fn(&mut Conn, &Seen) + Send + Sync + 'static) -> Upstream {
    Upstream::answering(move |conn, seen| {
        assert!(conn.switch(seen, "x-request-id: up-1\r\n"));
        serve(conn, seen);
        conn.cut();
    })
}

/// A vendor: names the model that it was asked for, dated, tells usage for each answer, and closes
/// when it is told to.
fn vendor() -> Upstream {
    sessions(|conn, seen| {
        let mut model = "gpt-4.1-mini-dated".to_owned();
        if seen.path().ends_with("/realtime") {
            conn.tell(&json!({"type": "session.created", "session": {"model": model}}));
        }
        while let Some(frame) = conn.frame() {
            if frame.opcode != TEXT {
                let opcode = if frame.opcode == PING { PONG } else { frame.opcode };
                conn.raw(support::websocket::frame(128 | opcode, &frame.payload, false));
                if opcode == CLOSE {
                    return;
                }
                continue;
            }
            let event = frame.json();
            if let Some(setup) = event.get("setup") {
                conn.tell(&json!({"setupComplete": {}, "heard": setup["model"]}));
            } else if event.get("clientContent").is_some() {
                let usage = json!({"promptTokenCount": 10, "responseTokenCount": 4});
                let event =
                    json!({"serverContent": {"turnComplete": true}, "usageMetadata": usage});
                // Google sends its events as bytes.
                let bytes = event.to_string().into_bytes();
                conn.raw(support::websocket::frame(128 | BINARY, &bytes, false));
            } else {
                model = event["model"].as_str().map_or(model, |name| format!("{name}-dated"));
                let usage = json!({"input_tokens": 100, "output_tokens": 10});
                let response = json!({"model": model, "usage": usage, "heard": event});
                let kind = if seen.path().ends_with("/realtime") { "done" } else { "completed" };
                conn.tell(&json!({"type": format!("response.{kind}"), "response": response}));
            }
        }
    })
}

fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}

fn dial(gateway: &Gateway, target: &str) -> Client {
    let mut client = gateway.connect();
    client.dial(target, &[("authorization", &bearer(ADMIN_KEY))]);
    client
}

/// Says good-bye and hears it.
#[track_caller]
fn part(client: &mut Client) {
    client.send(&frame(128 | CLOSE, b"\x03\xe8bye", true));
    let close = client.close();
    assert_eq!((close.code(), close.reason()), (1000, "bye".to_owned()));
    assert!(client.is_closed());
}

/// The rows of a gateway, once there are so many.
fn rows(gateway: &Gateway, count: usize) -> Vec<Row> {
    wait_for("the rows to be written", || {
        books::rows(gateway.folder()).filter(|rows| rows.len() == count)
    })
}

/// Nothing is under way any more.
#[track_caller]
fn is_quiet(gateway: &Gateway) {
    for name in ["gproxy_upstream_in_flight", "gproxy_held_bytes"] {
        wait_for(name, || (gateway.gauge(name) == 0.0).then_some(()));
    }
    // The request that asks is one.
    let name = "gproxy_requests_in_flight";
    wait_for(name, || (gateway.gauge(name) == 1.0).then_some(()));
}

#[test]
fn realtime_names_its_model_in_the_query_and_each_answer_is_a_row() {
    let upstream = vendor();
    let gateway = Gateway::start(&Config::to(&upstream).tail(PRICES).text());
    let mut client = gateway.connect();
    let target = "/v1/realtime?model=live&intent=talk";
    let head = client.dial(target, &[("authorization", &bearer(ADMIN_KEY))]);
    assert_eq!(head.header("x-request-id"), Some("up-1"));
    assert!(head.header("x-gproxy-request-id").is_some());
    let seen = upstream.last();
    assert_eq!(seen.target, "/v1/realtime?model=priced&intent=talk");
    assert_eq!(seen.header("authorization"), Some(&*bearer(UPSTREAM_KEY)));
    assert_eq!(seen.header("sec-websocket-extensions"), None);
    assert!(!String::from_utf8_lossy(&seen.head).contains(ADMIN_KEY));

    assert_eq!(client.event()["session"]["model"], "live");
    for _ in 0..2 {
        client.tell(&json!({"type": "response.create"}));
        let event = client.event();
        assert_eq!(event["response"]["heard"], json!({"type": "response.create"}));
    }
    part(&mut client);
    let rows = rows(&gateway, 2);
    let own = rows
        .iter()
        .filter(|row| Some(row.text("request_id")) == head.header("x-gproxy-request-id"));
    assert_eq!(own.count(), 1, "the first answer has the session's id");
    let mut cost = 0;
    for row in &rows {
        assert_eq!((row.number("input_tokens"), row.number("output_tokens")), (100, 10));
        assert_eq!(row.number("cost"), (100 * 2 + 10 * 8) * 1_000_000);
        assert_eq!((row.text("model"), row.text("model_served")), ("live", "priced"));
        assert_eq!((row.text("outcome"), row.number("status")), ("ok", 101));
        assert_eq!(row.text("usage_source"), "upstream");
        cost += row.number("cost");
    }
    assert_eq!(books::spent(gateway.folder()), cost);
    is_quiet(&gateway);
}

#[test]
fn a_handshake_is_answered_with_the_fields_of_every_answer() {
    let upstream = Upstream::answering(|conn, seen| {
        conn.switch(seen, "");
    });
    let gateway = Gateway::start(&Config::to(&upstream).text());
    // The upstream names no id, or has not been called yet.
    for target in [REALTIME, "/v1/responses", GEMINI] {
        let mut client = gateway.connect();
        let head = client.dial(target, &[("authorization", &bearer(ADMIN_KEY))]);
        let id = head.header("x-gproxy-request-id");
        assert!(id.is_some() && head.header("x-request-id") == id, "{head:?}");
        let overhead = head.header("x-gproxy-overhead-us").expect("a time on every answer");
        assert!(overhead.parse::<u64>().is_ok(), "{overhead}");
    }
}

#[test]
fn responses_name_their_model_in_the_first_event_and_no_other_later() {
    let upstream = vendor();
    let gateway = Gateway::start(&Config::to(&upstream).text());
    for target in ["/v1/responses", "/openai-main/v1/responses"] {
        let mut client = dial(&gateway, target);
        let create = json!({"type": "response.create", "model": "chat-default", "input": "hi"});
        client.tell(&create);
        let event = client.event();
        assert_eq!(event["response"]["model"], "chat-default");
        assert_eq!(event["response"]["heard"]["model"], "gpt-4.1-mini");
        assert_eq!(upstream.last().target, "/v1/responses");
        // Nobody serves that one here.
        let other = "openai-main/gpt-retired";
        client.tell(&json!({"type": "response.create", "model": other}));
        let error = client.event();
        assert_eq!((&error["type"], &error["status"]), (&json!("error"), &json!(400)));
        assert!(error["error"]["message"].as_str().unwrap_or_default().contains("another model"));
        // The session goes on, and what was refused did not go up.
        client.tell(&json!({"type": "response.create", "previous_response_id": "r"}));
        assert_eq!(client.event()["response"]["heard"]["previous_response_id"], "r");
        part(&mut client);
    }
    assert_eq!(upstream.accepted(), 2);
    is_quiet(&gateway);
}

#[test]
fn gemini_live_is_dialled_as_its_clients_do() {
    let upstream = vendor();
    let gateway = Gateway::start(&Config::to(&upstream).text());
    let rows_of = [
        (format!("{GEMINI}?key={ADMIN_KEY}"), "models/vertex-main/gemini-1.5-flash"),
        (format!("//vertex-main{GEMINI}?key={ADMIN_KEY}&x=1"), "models/gemini-1.5-flash"),
        (format!("{GEMINI}?key={ADMIN_KEY}"), "gemini-default"),
    ];
    for (target, model) in &rows_of {
        let mut client = gateway.connect();
        client.dial(target, &[]);
        client.tell(&json!({"setup": {"model": model, "generationConfig": {}}}));
        assert_eq!(client.event()["heard"], "models/gemini-1.5-flash");
        let seen = upstream.last();
        let query = if target.ends_with("x=1") { "?x=1" } else { "" };
        assert_eq!(seen.target, format!("{GEMINI}{query}"));
        assert_eq!(seen.header("x-goog-api-key"), Some(UPSTREAM_KEY));
        for _ in 0..2 {
            client.tell(&json!({"clientContent": {"turns": []}}));
            assert_eq!(client.event()["usageMetadata"]["promptTokenCount"], 10);
        }
        part(&mut client);
    }
    for row in rows(&gateway, 6) {
        assert_eq!((row.number("input_tokens"), row.number("output_tokens")), (10, 4));
        assert_eq!(row.text("operation"), "BidiGenerateContent");
    }
}

#[test]
fn a_browsers_key_stands_in_its_subprotocols_and_stays_here() {
    let upstream = vendor();
    let gateway = Gateway::start(&Config::to(&upstream).text());
    let mut client = gateway.connect();
    let offered = format!("realtime, openai-insecure-api-key.{ADMIN_KEY}, openai-beta.realtime-v1");
    let head = client.dial(REALTIME, &[("sec-websocket-protocol", &offered)]);
    assert_eq!(head.header("sec-websocket-protocol"), Some("realtime"));
    let seen = upstream.last();
    assert_eq!(seen.header("sec-websocket-protocol"), Some("realtime, openai-beta.realtime-v1"));
    assert!(!String::from_utf8_lossy(&seen.head).contains(ADMIN_KEY));
    assert_eq!(client.event()["session"]["model"], "chat-default");
}

#[test]
fn gates_before_the_handshake_answer_in_http() {
    let upstream = vendor();
    let limit = "[[rate_limits]]\nuser_name = \"admin\"\nmodel_pattern = \"limited\"\nrpm = 1\n\
        [[quotas]]\nuser_name = \"alice\"\nquota = \"0\"\n";
    let gateway = Gateway::start(&Config::to(&upstream).tail(limit).text());
    let refused = |target: &str, key: &str, more: &[(&str, &str)]| {
        let bearer = bearer(key);
        let mut fields = vec![("authorization", bearer.as_str())];
        fields.extend(more);
        let reply = gateway.connect().ask(&handshake(target, &fields));
        assert_eq!(reply.header("x-gproxy-source"), Some("gateway"), "{target}");
        (reply.status, reply.error_message())
    };
    let realtime = |model: &str| format!("/v1/realtime?model={model}");
    assert_eq!(refused(REALTIME, "sk-nobody", &[]).0, 401);
    assert_eq!(refused(&format!("{GEMINI}?key=sk-nobody"), "", &[]).0, 401);
    assert_eq!(refused("/v1/responses", "sk-nobody", &[]).0, 401);
    assert!(refused(&realtime("nothing"), ADMIN_KEY, &[]).1.contains("provider prefix"));
    assert_eq!(refused(&realtime("openai-main/gpt-retired"), ADMIN_KEY, &[]).0, 404);
    assert_eq!(refused(&realtime("router/x"), ALICE_KEY, &[]).0, 403);
    assert_eq!(refused(&realtime("openai-main/gpt-x"), ALICE_KEY, &[]).0, 402);
    assert_eq!(refused(&realtime("vertex-main/x"), ADMIN_KEY, &[]).0, 400);
    assert_eq!(refused("/v1/realtime?model=a&model=b", ADMIN_KEY, &[]).0, 400);
    assert_eq!(refused(REALTIME, ADMIN_KEY, &[("content-length", "3")]).0, 400);
    assert_eq!(refused(REALTIME, ADMIN_KEY, &[("sec-websocket-key", "x")]).0, 400);
    assert_eq!(upstream.accepted(), 0);

    let first = dial(&gateway, &realtime("router/limited"));
    let (status, message) = refused(&realtime("router/limited"), ADMIN_KEY, &[]);
    assert_eq!(status, 429, "{message}");
    drop(first);
    is_quiet(&gateway);
}

#[test]
fn an_upgrade_that_is_not_served_is_answered_like_any_request() {
    let upstream = vendor();
    let gateway = Gateway::start(&Config::to(&upstream).text());
    let fields = [("authorization", &*bearer(ADMIN_KEY))];
    for (target, status) in [("/v1/messages", 405), ("/v1/nothing", 404), ("/ws/x", 404)] {
        let mut client = gateway.connect();
        assert_eq!(client.ask(&handshake(target, &fields)).status, status, "{target}");
        // The connection is as good as before.
        assert_eq!(client.ask(&handshake("/v1/models", &fields)).status, 200);
    }
    // Another protocol is nothing to us.
    let mut client = gateway.connect();
    let h2c = [("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c"), fields[0]];
    assert_eq!(client.ask(&support::request("GET", "/v1/models", &h2c, b"")).status, 200);
}

#[test]
fn gates_behind_the_first_event_answer_within_the_session() {
    let upstream = vendor();
    let gateway = Gateway::start(&Config::to(&upstream).text());
    for (event, status, code) in [
        (json!({"type": "response.create", "model": "router/x"}), 403, 1008),
        (json!({"type": "response.create", "model": "nothing"}), 400, 1008),
        (json!({"type": "response.create"}), 400, 1008),
        (json!(["model"]), 400, 1008),
    ] {
        let mut client = gateway.connect();
        client.dial("/v1/responses", &[("authorization", &bearer(ALICE_KEY))]);
        client.tell(&event);
        let error = client.event();
        assert_eq!((&error["type"], &error["status"]), (&json!("error"), &json!(status)));
        assert_eq!(client.close().code(), code);
        assert!(client.is_closed());
    }
    let mut client = gateway.connect();
    client.dial(&format!("{GEMINI}?key={ALICE_KEY}"), &[]);
    client.tell(&json!({"setup": {"model": "models/vertex-main/x"}}));
    let close = client.close();
    assert_eq!(close.code(), 1008);
    assert!(close.reason().starts_with("forbidden: model"), "{}", close.reason());
    assert_eq!(upstream.accepted(), 0);
    gateway.wait_for_line("endpoint=responses.socket");
    is_quiet(&gateway);
}

#[test]
fn what_is_refused_within_a_session_is_kept_and_counted_like_any_refusal() {
    let upstream = vendor();
    let quota = "[[quotas]]\nuser_name = \"alice\"\nquota = \"0\"\n";
    let gateway = Gateway::start(&Config::to(&upstream).tail(quota).text());
    let mut expected = Vec::new();
    for (model, status) in [("router/x", 403), ("openai-main/gpt-x", 402)] {
        let mut client = gateway.connect();
        let head = client.dial("/v1/responses", &[("authorization", &bearer(ALICE_KEY))]);
        client.tell(&json!({"type": "response.create", "model": model}));
        let message = client.event()["error"]["message"].clone();
        assert!(client.close().code() == 1008 && client.is_closed());
        let id = head.header("x-gproxy-request-id").expect("every answer has one");
        expected.push((id.to_owned(), model, status, message));
    }
    let own = |path: &str| {
        let path = format!("/user/api/{path}");
        let reply = admin::call(&gateway, ALICE_KEY, "GET", &path, &Value::Null);
        (reply.status, reply.json())
    };
    let kept = wait_for("both refusals", || {
        let kept = own("refusals").1["items"].as_array().cloned();
        kept.filter(|kept| kept.len() == 2)
    });
    for (id, model, status, message) in &expected {
        let kept = kept.iter().find(|kept| kept["request_id"] == *id).expect("it is kept");
        assert_eq!((&kept["model"], &kept["message"]), (&json!(model), message));
        assert_eq!(kept["status"], *status);
        let (found, story) = own(&format!("requests/{id}"));
        assert_eq!((found, &story["refusal"]["status"]), (200, &json!(status)));
        let name = format!("gproxy_refusals_total{{status=\"{status}\"}}");
        assert_eq!(gateway.gauge(&name), 1.0);
    }
    assert_eq!(gateway.gauge("gproxy_requests_refused_total"), 2.0);
}

#[test]
fn an_upstreams_refusal_of_the_handshake_passes() {
    let upstream = Upstream::answering(|conn, _| {
        let body = format!("{{\"error\":{{\"message\":\"bad key {UPSTREAM_KEY}\"}}}}");
        conn.whole(401, body);
    });
    let gateway = Gateway::start(&Config::to(&upstream).text());
    let mut client = gateway.connect();
    let fields = [("authorization", &*bearer(ADMIN_KEY))];
    let reply = client.ask(&handshake(REALTIME, &fields));
    assert_eq!((reply.status, reply.error_message()), (401, "bad key ***".to_owned()));
    assert_eq!(reply.header("x-gproxy-source"), Some("upstream"));

    let mut client = dial(&gateway, "/v1/responses");
    client.tell(&json!({"model": "chat-default"}));
    let error = client.event();
    assert_eq!(error["status"], 502);
    assert!(error["error"]["message"].as_str().unwrap_or_default().contains("status 401"));
    assert_eq!(client.close().code(), 1011);
    is_quiet(&gateway);
}

/// The same with these credentials for each provider.
fn with_credentials(config: &Config, credentials: &str) -> String {
    config.text().replace(&format!("{{ api_key = \"{UPSTREAM_KEY}\" }}"), credentials)
}

const TWO: &str = "{ api_key = \"cred-1\" }, { api_key = \"cred-2\" }";

#[test]
fn the_next_credential_is_asked_when_a_refusal_of_the_handshake_breaks_off() {
    for stalls in [false, true] {
        let upstream = Upstream::answering(move |conn, seen| {
            if seen.header("authorization") == Some("Bearer cred-1") {
                conn.raw("HTTP/1.1 401 No\r\ncontent-length: 100\r\n\r\n{\"error\"");
                match stalls {
                    true => drop(conn.wait_closed()),
                    false => conn.cut(),
                }
            } else if conn.switch(seen, "") {
                conn.tell(&json!({"type": "x"}));
                conn.frame();
            }
        });
        let gateway = Gateway::start(&with_credentials(&Config::to(&upstream), TWO));
        for _ in 0..2 {
            assert_eq!(dial(&gateway, REALTIME).event()["type"], "x");
        }
        assert_eq!(upstream.count(), 3, "the first one is disabled");
    }
}

#[test]
fn an_upstream_that_does_not_switch_rightly_is_a_502() {
    let rows = [
        "HTTP/1.1 101 X\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-accept: AAAA\r\n\r\n",
        "HTTP/1.1 101 X\r\nconnection: upgrade\r\n\r\n",
        "not HTTP\r\n\r\n",
        "",
    ];
    let upstream = Upstream::answering(move |conn, _| {
        conn.raw(rows[conn.index % rows.len()]);
        conn.cut();
    });
    let gateway = Gateway::start(&Config::to(&upstream).text());
    for _ in rows {
        let fields = [("authorization", &*bearer(ADMIN_KEY))];
        assert_eq!(gateway.connect().ask(&handshake(REALTIME, &fields)).status, 502);
    }
    let silent = Config::to_url("http://127.0.0.1:1");
    let gateway = Gateway::start(&silent.text());
    let fields = [("authorization", &*bearer(ADMIN_KEY))];
    assert_eq!(gateway.connect().ask(&handshake(REALTIME, &fields)).status, 502);
}

#[test]
fn a_caller_that_leaves_frees_the_upstream_and_is_charged_what_it_heard() {
    for is_reset in [false, true] {
        let upstream = vendor();
        let gateway = Gateway::start(&Config::to(&upstream).tail(PRICES).text());
        let mut client = dial(&gateway, "/v1/realtime?model=live");
        client.event();
        client.tell(&json!({"type": "response.create"}));
        client.event();
        assert_eq!(upstream.open(), 1);
        if is_reset {
            client.reset();
        } else {
            drop(client);
        }
        wait_for("the upstream to be free", || (upstream.open() == 0).then_some(()));
        let rows = rows(&gateway, 1);
        assert_eq!(rows[0].text("outcome"), "ok", "the answer was whole");
        assert_eq!(rows[0].number("input_tokens"), 100);
        assert_eq!(rows[0].number("cost"), (100 * 2 + 10 * 8) * 1_000_000);
        is_quiet(&gateway);
    }
}

#[test]
fn an_upstream_that_breaks_off_is_told_within_the_session() {
    for with_reset in [false, true] {
        let upstream = sessions(move |conn, _| {
            conn.frame();
            // Half a frame.
            conn.raw(b"\x81\x7e\x10\x00half");
            conn.break_off(with_reset);
        });
        let gateway = Gateway::start(&Config::to(&upstream).text());
        let mut client = dial(&gateway, REALTIME);
        client.tell(&json!({"type": "response.create"}));
        assert_eq!(client.event()["error"]["type"], "server_error");
        assert_eq!(client.close().code(), 1011);
        assert_eq!(rows(&gateway, 1)[0].text("outcome"), "cut");
        is_quiet(&gateway);
    }
}

#[test]
fn an_upstream_that_falls_silent_is_told_within_the_session() {
    for begins in [false, true] {
        let upstream = sessions(move |conn, _| {
            conn.frame();
            if begins {
                conn.tell(&json!({"type": "response.created", "response": {}}));
            }
            while conn.frame().is_some_and(|frame| frame.opcode != CLOSE) {}
        });
        let limit = if begins { "between_bytes_ms = 300" } else { "first_byte_ms = 300" };
        let gateway = Gateway::start(&Config::to(&upstream).timeout(limit).text());
        let mut client = dial(&gateway, REALTIME);
        client.tell(&json!({"type": "response.create"}));
        if begins {
            assert_eq!(client.event()["type"], "response.created");
        }
        let error = client.event();
        assert_eq!((&error["type"], &error["status"]), (&json!("error"), &json!(504)));
        assert_eq!(client.close().code(), 1011);
        assert_eq!(rows(&gateway, 1)[0].text("outcome"), "cut");
        is_quiet(&gateway);
    }
}

#[test]
fn an_upstreams_close_passes_with_its_code_and_ends_both() {
    let upstream = sessions(|conn, _| {
        conn.raw(frame(128 | CLOSE, &[&3000_u16.to_be_bytes()[..], b"enough"].concat(), false));
        let answer = conn.frame().expect("the caller's close comes back");
        assert_eq!((answer.opcode, answer.code()), (CLOSE, 3000));
    });
    let gateway = Gateway::start(&Config::to(&upstream).text());
    let mut client = dial(&gateway, REALTIME);
    let close = client.close();
    assert_eq!((close.code(), close.reason()), (3000, "enough".to_owned()));
    client.send(&frame(128 | CLOSE, &3000_u16.to_be_bytes(), true));
    assert!(client.is_closed());
    assert_eq!(rows(&gateway, 1)[0].text("outcome"), "ok");
    assert_eq!(upstream.open(), 0);
}

#[test]
fn pings_pass_and_fragments_are_joined() {
    let upstream = vendor();
    let gateway = Gateway::start(&Config::to(&upstream).text());
    let mut client = dial(&gateway, REALTIME);
    client.event();
    let event = json!({"type": "response.create", "long": "x".repeat(70_000)}).to_string();
    let (front, back) = event.as_bytes().split_at(30_000);
    client.send(&frame(TEXT, front, true));
    client.send(&frame(128 | PING, b"are you there", true));
    let pong =
        Frame { last: true, opcode: PONG, masked: false, payload: b"are you there".to_vec() };
    assert_eq!(client.frame(), Some(pong));
    client.send_bytewise(&frame(0, b"", true));
    client.send(&frame(128, back, true));
    let heard = &client.event()["response"]["heard"];
    assert_eq!(heard["long"].as_str().map(str::len), Some(70_000));
    part(&mut client);
}

#[test]
fn what_breaks_a_rule_or_a_limit_is_closed_with_its_code() {
    let upstream = vendor();
    let gateway = Gateway::start(&Config::to(&upstream).limit("event_bytes_max = 65536").text());
    for (bytes, code) in [
        // One byte more than may be held; nothing of it has to come.
        (vec![0x81, 0xff, 0, 0, 0, 0, 0, 1, 0, 1], 1009),
        (frame(128 | TEXT, b"unmasked", false), 1002),
        (vec![0xc1], 1002),
    ] {
        for target in [REALTIME, "/v1/responses"] {
            let mut client = dial(&gateway, target);
            if target == REALTIME {
                client.event();
            }
            client.send(&bytes);
            assert_eq!(client.close().code(), code, "{target}");
            assert!(client.is_closed());
        }
    }
    wait_for("the upstream to be free", || (upstream.open() == 0).then_some(()));
    let upstream = sessions(|conn, _| {
        conn.frame();
        conn.raw([0x81, 127, 0, 0, 0, 0, 0, 1, 0, 1]);
        assert_eq!(conn.frame().expect("a close").code(), 1009);
    });
    let gateway = Gateway::start(&Config::to(&upstream).limit("event_bytes_max = 65536").text());
    let mut client = dial(&gateway, REALTIME);
    client.tell(&json!({}));
    assert_eq!(client.close().code(), 1009);
    is_quiet(&gateway);
}

#[test]
fn what_finds_no_memory_is_told_to_come_back_whether_its_session_has_begun_or_not() {
    let upstream = vendor();
    let config = Config::to(&upstream)
        .limit("held_bytes_max = 1200000")
        .limit("body_bytes_max = 524288")
        .limit("event_bytes_max = 524288");
    let gateway = Gateway::start(&config.text());
    let event = frame(128 | TEXT, &[b' '; 400_000], true);
    let mut running = dial(&gateway, REALTIME);
    running.event();
    let mut waiting: Vec<Client> = (0..2).map(|_| dial(&gateway, "/v1/responses")).collect();
    for (count, client) in waiting.iter_mut().enumerate() {
        client.send(&event[..399_000]);
        wait_for("it to be held", || {
            (gateway.gauge("gproxy_held_bytes") >= 399_000.0 * (count + 1) as f64).then_some(())
        });
    }
    let first = dial(&gateway, "/v1/responses");
    for mut client in [first, running] {
        client.send(&event[..20_000]);
        let told = client.event();
        assert_eq!(told["error"]["type"], "server_error", "{told}");
        assert_eq!(client.close().code(), 1013);
    }
    drop(waiting);
    is_quiet(&gateway);
}

#[test]
fn a_caller_that_does_not_read_holds_the_upstream_back() {
    const MESSAGE: usize = 256 * 1024;
    const COUNT: usize = 400;
    let (told, hear) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let upstream = sessions(move |conn, _| {
        let event = json!({"data": "x".repeat(MESSAGE)}).to_string();
        let bytes = frame(128 | TEXT, event.as_bytes(), false);
        let mut stuck = false;
        for _ in 0..COUNT {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                conn.write_timeout(Duration::from_millis(if stuck { 20_000 } else { 500 }));
                match conn.write_some(rest) {
                    Ok(count) => rest = &rest[count..],
                    Err(_) => {
                        assert!(!stuck, "the gateway takes nothing though its caller reads");
                        stuck = true;
                        told.lock().expect("never poisoned").send(()).expect("it is heard");
                    }
                }
            }
        }
        conn.frame();
    });
    let gateway = Gateway::start(&Config::to(&upstream).text());
    let mut client = dial(&gateway, REALTIME);
    hear.recv_timeout(support::DEADLINE).expect("the upstream is held back");
    assert!(gateway.gauge("gproxy_held_bytes") < 4.0 * MESSAGE as f64);
    for _ in 0..COUNT {
        assert_eq!(client.event()["data"].as_str().map(str::len), Some(MESSAGE));
    }
    drop(client);
    is_quiet(&gateway);
}

#[test]
fn a_caller_who_leaves_while_his_upstream_takes_nothing_is_noticed() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = sessions(move |_, _| {
        let _ = wait.lock().expect("never poisoned").recv();
    });
    let gateway = Gateway::start(&Config::to(&upstream).text());
    let mut client = dial(&gateway, REALTIME);
    // More than sockets hold for who does not read.
    let event = json!({"type": "x", "audio": "A".repeat(14 << 20)}).to_string();
    client.send(&frame(128 | TEXT, event.as_bytes(), true));
    drop(client);
    is_quiet(&gateway);
    drop(go);
}

#[test]
fn silent_sessions_end_when_the_process_does() {
    let upstream = vendor();
    let mut gateway = Gateway::start(&Config::to(&upstream).text());
    let mut client = dial(&gateway, REALTIME);
    client.event();
    let mut early = dial(&gateway, "/v1/responses");
    gateway.sigterm();
    assert_eq!(client.close().code(), 1001);
    assert_eq!(early.close().code(), 1001);
    drop((client, early));
    assert!(gateway.wait_exit().success());
    assert_eq!(upstream.open(), 0);
}

#[test]
fn a_session_does_not_hold_up_the_others_of_its_worker() {
    let upstream = sessions(|conn, _| {
        let event = frame(128 | TEXT, b"{\"type\":\"x\"}", false);
        let many = event.repeat(500);
        while conn.raw(&many) {}
    });
    let plain = Upstream::vendor();
    let url = format!("http://127.0.0.1:{}", plain.port);
    let other = provider("plain", &url, "\"openai_chat\"", "");
    let gateway = Gateway::start(&Config::to(&upstream).workers(1).tail(&other).text());
    let client = dial(&gateway, REALTIME);
    let reader = std::thread::spawn(move || {
        let mut client = client;
        (0..20_000).filter(|_| client.frame().is_some()).count()
    });
    for _ in 0..20 {
        assert_eq!(gateway.connect().ask(&chat("plain/m", false)).status, 200);
    }
    assert_eq!(reader.join().expect("no panic"), 20_000);
}

#[test]
fn an_event_of_a_session_without_a_model_names_none() {
    let upstream = vendor();
    let gateway = Gateway::start(&Config::to(&upstream).text());
    let mut client = dial(&gateway, "/openai-main/v1/realtime?call_id=rtc_1");
    assert_eq!(upstream.last().target, "/v1/realtime?call_id=rtc_1");
    assert_eq!(client.event()["session"]["model"], "gpt-4.1-mini-dated");
    client.tell(&json!({"type": "session.update", "session": {"model": "gpt-5"}}));
    assert_eq!(client.event()["status"], 400);
    let alice = [("authorization", &*bearer(ALICE_KEY))];
    let refused = handshake("/openai-main/v1/realtime?call_id=rtc_1", &alice);
    assert_eq!(gateway.connect().ask(&refused).status, 403);
}
