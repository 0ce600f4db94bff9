//! Answers within a session over WebSocket: each is admitted, priced and recorded for itself.

use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use crate::support;
use crate::support::books::{self, Row};
use crate::support::config::ALICE_KEY;
use crate::support::websocket::{CLOSE, PONG, frame};
use crate::support::{ADMIN_KEY, Client, Config, Gateway, UPSTREAM_KEY, Upstream, wait_for};
use serde_json::{Value, json};

const GEMINI: &str =
    "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent";

fn model(id: &str, tiers: &str) -> String {
    format!(
        "[[models]]\nprovider_name = \"router\"\nmodel_id = \"{id}\"\n\
         max_input_tokens = 1000\nmax_output_tokens = 100\nprice_tiers = [{tiers}]\n"
    )
}

fn tier(up_to: u64, input: &str, output: &str) -> String {
    format!(
        "{{ input_tokens_up_to = {up_to}, price_input_tokens = \"{input}\", \
         price_output_tokens = \"{output}\" }}"
    )
}

/// Two models at one provider, the second dear beyond a hundred tokens.
fn models() -> String {
    let steps = format!("{}, {}", tier(100, "20", "80"), tier(0, "200", "800"));
    model("cheap", &tier(0, "2", "8"))
        + &model("dear", &steps)
        + "[[model_aliases]]\nalias = \"precious\"\nprovider_name = \"router\"\n\
         model_id = \"dear\"\n"
}

/// Answers each `response.create` with what it used: 100 tokens in, 10 out. `input` may hold an
/// event that is told instead.
fn vendor() -> Upstream {
    Upstream::answering(|conn, seen| {
        assert!(conn.switch(seen, ""));
        while let Some(heard) = conn.frame() {
            if heard.opcode == CLOSE {
                conn.raw(frame(128 | CLOSE, &heard.payload, false));
                break;
            }
            let event = heard.json();
            if event.get("setup").is_some() {
                conn.tell(&json!({"setupComplete": {}, "model": event["setup"]["model"]}));
                continue;
            }
            if event.get("clientContent").is_some() {
                let usage = json!({"promptTokenCount": 100, "responseTokenCount": 10});
                let over = json!({"turnComplete": true});
                conn.tell(&json!({"serverContent": over, "usageMetadata": usage}));
                continue;
            }
            if event["input"].is_object() {
                conn.tell(&event["input"]);
                continue;
            }
            let model = format!("{}-dated", event["model"].as_str().unwrap_or("unnamed"));
            let usage = json!({"input_tokens": 100, "output_tokens": 10});
            let response = json!({"model": model, "usage": usage,
                "service_tier": event["service_tier"]});
            conn.tell(&json!({"type": "response.created", "response": {"model": model}}));
            conn.tell(&json!({"type": "response.completed", "response": response}));
        }
        conn.cut();
    })
}

fn dial(gateway: &Gateway, target: &str, key: &str) -> Client {
    let mut client = gateway.connect();
    let bearer = format!("Bearer {key}");
    client.dial(target, &[("authorization", &bearer)]);
    client
}

/// Asks for an answer; what came of it, less its beginning.
#[track_caller]
fn ask(client: &mut Client, event: &Value) -> Value {
    client.tell(event);
    match client.event() {
        event if event["type"] == "response.created" => client.event(),
        event => event,
    }
}

fn create(model: &str) -> Value {
    json!({"type": "response.create", "model": model})
}

#[track_caller]
fn part(mut client: Client) {
    client.send(&frame(128 | CLOSE, b"\x03\xe8", true));
    assert_eq!(client.close().code(), 1000);
    assert!(client.is_closed());
}

/// The rows, once there are so many; they stand up to an audit.
fn rows(gateway: &Gateway, count: usize) -> Vec<Row> {
    let rows = wait_for("the rows to be written", || {
        books::rows(gateway.folder()).filter(|rows| rows.len() == count)
    });
    let cost: i64 = rows.iter().map(|row| row.number("cost")).sum();
    wait_for("what was spent to be written", || {
        (books::spent(gateway.folder()) == cost).then_some(())
    });
    books::audit(gateway.folder());
    rows
}

const MICRODOLLAR: i64 = 1_000_000;

#[test]
fn one_session_is_served_by_several_models_of_its_provider() {
    let upstream = vendor();
    let gateway = Gateway::start(&Config::to(&upstream).tail(&models()).text());
    let mut client = dial(&gateway, "/v1/responses", ADMIN_KEY);
    for name in ["router/cheap", "precious", "router/cheap", "router/dear"] {
        let done = ask(&mut client, &create(name));
        assert_eq!(done["type"], "response.completed", "{done}");
        assert_eq!(done["response"]["model"], name);
    }
    // Of another provider, retired, or nobody's.
    for name in ["openai-main/gpt-4.1-mini", "chat-default", "nothing"] {
        let error = ask(&mut client, &create(name));
        assert_eq!((&error["type"], &error["status"]), (&json!("error"), &json!(400)));
    }
    part(client);
    let rows = rows(&gateway, 4);
    let told: Vec<_> = rows
        .iter()
        .map(|row| (row.text("model"), row.text("model_served"), row.number("cost") / MICRODOLLAR))
        .collect();
    let cheap = ("router/cheap", "cheap", 280);
    let dear = |name| (name, "dear", 2_800);
    assert_eq!(told, [cheap, dear("precious"), cheap, dear("router/dear")]);
    assert_eq!(upstream.accepted(), 1);
}

#[test]
fn another_model_is_for_those_who_may_call_it() {
    let upstream = vendor();
    let permission = "[[permissions]]\nuser_name = \"alice\"\nprovider_name = \"router\"\n\
        model_pattern = \"cheap\"\n";
    let config = Config::to(&upstream).tail(&models()).tail(permission);
    let gateway = Gateway::start(&config.text());
    let mut client = dial(&gateway, "/router/v1/responses", ALICE_KEY);
    assert_eq!(ask(&mut client, &create("cheap"))["response"]["model"], "cheap-dated");
    assert_eq!(ask(&mut client, &create("dear"))["status"], 400);
    assert_eq!(ask(&mut client, &create("cheap"))["type"], "response.completed");
    part(client);
    rows(&gateway, 2);
}

#[test]
fn each_answer_is_priced_by_its_own_size_and_tier() {
    let upstream = vendor();
    let flex = models().replace(
        "price_tiers = [{ input_tokens_up_to = 0, price_input_tokens = \"2\"",
        "flex_price_tiers = [{ input_tokens_up_to = 0, price_input_tokens = \"1\", \
         price_output_tokens = \"1\" }]\n\
         price_tiers = [{ input_tokens_up_to = 0, price_input_tokens = \"2\"",
    );
    let gateway = Gateway::start(&Config::to(&upstream).tail(&flex).text());
    let mut client = dial(&gateway, "/v1/responses", ADMIN_KEY);
    for name in ["router/dear", "router/dear", "router/cheap"] {
        ask(&mut client, &create(name));
    }
    let mut flexible = create("router/cheap");
    flexible["service_tier"] = json!("flex");
    ask(&mut client, &flexible);
    part(client);
    let rows = rows(&gateway, 4);
    let told: Vec<_> = rows
        .iter()
        .map(|row| (row.text("service_tier"), row.number("cost") / MICRODOLLAR))
        .collect();
    // Two of a hundred tokens each are not one of two hundred.
    let expected = [("default", 2_800), ("default", 2_800), ("default", 280), ("flex", 110)];
    assert_eq!(told, expected);
}

/// A gateway that sticks to the first of two credentials, with these ceilings.
fn with_ceilings(upstream: &Upstream, first: &str, second: &str) -> Gateway {
    let config = Config::to(upstream).setting("rotation_strategy = \"sticky\"").tail(&models());
    let credentials =
        format!("{{ api_key = \"cred-1\"{first} }}, {{ api_key = \"cred-2\"{second} }}");
    let one = format!("{{ api_key = \"{UPSTREAM_KEY}\" }}");
    Gateway::start(&config.text().replace(&one, &credentials))
}

/// What the last session was opened with.
fn opened_with(upstream: &Upstream) -> String {
    upstream.last().header("authorization").unwrap_or_default().to_owned()
}

#[test]
fn a_session_is_under_way_at_its_credential_until_it_ends() {
    let upstream = vendor();
    let gateway = with_ceilings(&upstream, ", in_flight = 1", ", in_flight = 1");
    let begin = || {
        let mut client = dial(&gateway, "/v1/responses", ADMIN_KEY);
        let done = ask(&mut client, &create("router/cheap"));
        (client, done)
    };
    let (first, done) = begin();
    assert_eq!((done["type"].as_str(), &*opened_with(&upstream)), DONE_BY_FIRST);
    let (second, _) = begin();
    assert_eq!(opened_with(&upstream), "Bearer cred-2");
    let (_, error) = begin();
    assert_eq!((&error["type"], &error["status"]), (&json!("error"), &json!(503)), "{error}");
    assert_eq!(upstream.count(), 2);
    part(first);
    wait_for("the place to be free", || {
        let (client, event) = begin();
        let is_done = event["type"] == "response.completed";
        is_done.then(|| part(client))
    });
    assert_eq!(opened_with(&upstream), "Bearer cred-1");
    part(second);
}

const DONE_BY_FIRST: (Option<&str>, &str) = (Some("response.completed"), "Bearer cred-1");

#[test]
fn the_answers_of_a_session_count_at_the_ceilings_of_its_credential() {
    // Each of its answers uses 110 tokens.
    for (ceiling, answers) in [("rpm = 2", 2), ("tpm = 150", 2)] {
        let upstream = vendor();
        let gateway = with_ceilings(&upstream, &format!(", {ceiling}"), "");
        let mut client = dial(&gateway, "/v1/responses", ADMIN_KEY);
        for _ in 0..answers {
            let done = ask(&mut client, &create("router/cheap"));
            assert_eq!((done["type"].as_str(), &*opened_with(&upstream)), DONE_BY_FIRST);
        }
        let mut other = dial(&gateway, "/v1/responses", ADMIN_KEY);
        assert_eq!(ask(&mut other, &create("router/cheap"))["type"], "response.completed");
        assert_eq!(opened_with(&upstream), "Bearer cred-2", "{ceiling}");
        // The session that is open goes on.
        assert_eq!(ask(&mut client, &create("router/cheap"))["type"], "response.completed");
        part(client);
        part(other);
        rows(&gateway, answers + 2);
    }
}

#[test]
fn a_spent_quota_ends_a_session_in_its_dialects_way() {
    let upstream = vendor();
    // One answer is held with 1,000 tokens in and 100 out at most, and costs 280 microdollars.
    let quota = "[[quotas]]\nuser_name = \"admin\"\nquota = \"0.00285\"\n";
    let gateway = Gateway::start(&Config::to(&upstream).tail(&models()).tail(quota).text());
    let mut client = dial(&gateway, "/v1/responses", ADMIN_KEY);
    let (mut answers, mut error) = (0, Value::Null);
    while answers < 20 && error.is_null() {
        match ask(&mut client, &create("router/cheap")) {
            event if event["type"] == "error" => error = event,
            _ => answers += 1,
        }
    }
    assert!((1..20).contains(&answers), "{answers}");
    assert_eq!(
        (&error["status"], &error["error"]["code"]),
        (&json!(402), &json!("insufficient_quota"))
    );
    let close = client.close();
    assert_eq!(close.code(), 1008);
    assert!(close.reason().starts_with("quota_exceeded"), "{}", close.reason());
    gateway.wait_for_line("end=quota");
    let spent: i64 = rows(&gateway, answers).iter().map(|row| row.number("cost")).sum();
    assert!(spent <= 2_850 * MICRODOLLAR, "{spent}");

    let mut client = dial(&gateway, &format!("{GEMINI}?key={ADMIN_KEY}"), ADMIN_KEY);
    client.tell(&json!({"setup": {"model": "models/router/cheap"}}));
    let close = match client.frame().expect("an event or the close") {
        frame if frame.opcode == CLOSE => frame,
        _ => loop {
            client.tell(&json!({"clientContent": {"turns": []}}));
            let frame = client.frame().expect("an event or the close");
            if frame.opcode == CLOSE {
                break frame;
            }
        },
    };
    assert_eq!(close.code(), 1008);
    assert!(close.reason().starts_with("quota_exceeded"), "{}", close.reason());
}

#[test]
fn limits_count_answers_and_the_session_goes_on() {
    let upstream = vendor();
    let limit = "[[rate_limits]]\nuser_name = \"admin\"\nmodel_pattern = \"cheap\"\nrpm = 2\n";
    let gateway = Gateway::start(&Config::to(&upstream).tail(&models()).tail(limit).text());
    let mut client = dial(&gateway, "/v1/responses", ADMIN_KEY);
    for _ in 0..2 {
        assert_eq!(ask(&mut client, &create("router/cheap"))["type"], "response.completed");
    }
    let error = ask(&mut client, &create("router/cheap"));
    assert_eq!(
        (&error["status"], &error["error"]["type"]),
        (&json!(429), &json!("rate_limit_error"))
    );
    // The limit is another model's.
    assert_eq!(ask(&mut client, &create("router/dear"))["type"], "response.completed");
    part(client);
    rows(&gateway, 3);
}

#[test]
fn what_the_upstream_refuses_is_a_row_without_usage_and_takes_no_name() {
    let upstream = vendor();
    let gateway = Gateway::start(&Config::to(&upstream).tail(&models()).text());
    let mut client = dial(&gateway, "/v1/responses", ADMIN_KEY);
    assert_eq!(ask(&mut client, &create("precious"))["response"]["model"], "precious");
    let mut refused = create("router/cheap");
    refused["input"] = json!({"type": "error", "status": 404, "error": {"message": "no"}});
    assert_eq!(ask(&mut client, &refused)["status"], 404);
    assert_eq!(ask(&mut client, &create("precious"))["response"]["model"], "precious");
    // What begins and goes no further leaves its name to nobody either.
    let mut broken = create("router/cheap");
    broken["input"] = json!({"type": "response.created", "response": {}});
    client.tell(&broken);
    assert_eq!(client.event()["type"], "response.created");
    assert_eq!(ask(&mut client, &create("precious"))["response"]["model"], "precious");
    part(client);
    let rows = rows(&gateway, 5);
    assert_eq!((rows[3].text("outcome"), rows[3].number("cost")), ("cut", 0));
    assert_eq!((rows[3].text("model_served"), rows[4].text("model")), ("cheap", "precious"));
    assert_eq!((rows[1].number("status"), rows[1].number("cost")), (404, 0));
    assert_eq!(rows[1].text("model_served"), "cheap");
    assert!(rows[2].number("cost") > 0);
}

/// Its text went by, and nobody will say what it used.
#[test]
fn an_answer_that_is_left_before_its_end_is_estimated() {
    let upstream = vendor();
    let gateway = Gateway::start(&Config::to(&upstream).tail(&models()).text());
    let delta = |text: &str| json!({"type": "response.output_text.delta", "delta": text});
    for text in ["12345678", "1234567890123456"] {
        let mut client = dial(&gateway, "/v1/responses", ADMIN_KEY);
        let mut begun = create("router/cheap");
        begun["input"] = json!({"type": "response.created", "response": {}});
        client.tell(&begun);
        assert_eq!(client.event()["type"], "response.created");
        client.tell(&json!({"type": "x", "input": delta(text)}));
        assert_eq!(client.event(), delta(text));
        part(client);
    }
    let rows = rows(&gateway, 2);
    let outputs: Vec<_> = rows.iter().map(|row| row.number("output_tokens")).collect();
    assert_eq!(outputs, [2, 4]);
    assert!(rows.iter().all(|row| row.text("usage_source") == "estimated"));
    assert!(rows.iter().all(|row| row.number("input_tokens") > 0 && row.number("cost") > 0));
}

#[test]
fn a_transcript_is_charged_as_its_own_models() {
    let upstream = vendor();
    let whisper = model("whisper-x", &tier(0, "3", "5"));
    let permission = "[[permissions]]\nuser_name = \"alice\"\nprovider_name = \"router\"\n\
        model_pattern = \"cheap\"\n";
    let config = Config::to(&upstream).tail(&models()).tail(&whisper).tail(permission);
    let gateway = Gateway::start(&config.text());
    let mut client = dial(&gateway, "/v1/realtime?model=router/cheap", ADMIN_KEY);
    let transcription = json!({"input": {"transcription": {"model": "whisper-x"}}});
    let session = json!({"type": "realtime", "audio": transcription});
    let usage = json!({"type": "tokens", "input_tokens": 50, "output_tokens": 4});
    for told in [
        json!({"type": "session.updated", "session": session}),
        json!({"type": "conversation.item.input_audio_transcription.completed", "usage": usage}),
    ] {
        client.tell(&json!({"type": "x", "input": told}));
        assert_eq!(client.event(), told);
    }
    ask(&mut client, &json!({"type": "response.create"}));
    part(client);
    let rows = rows(&gateway, 2);
    let transcript = rows.iter().find(|row| row.text("model") == "whisper-x").expect("its row");
    assert_eq!(transcript.number("cost"), (50 * 3 + 4 * 5) * MICRODOLLAR);
    let answer = rows.iter().find(|row| row.text("model") == "router/cheap").expect("its row");
    assert_eq!(answer.number("cost"), 280 * MICRODOLLAR);

    // Who may not call that model cannot be heard by it either.
    let mut client = dial(&gateway, "/v1/realtime?model=router/cheap", ALICE_KEY);
    let update = json!({"type": "session.update", "session": session});
    let error = ask(&mut client, &update);
    assert_eq!(
        (&error["status"], &error["error"]["code"]),
        (&json!(403), &json!("model_not_allowed"))
    );
    assert_eq!(upstream.count(), 2);
}

#[test]
fn gemini_live_is_dialled_at_a_models_path() {
    let upstream = vendor();
    let gateway = Gateway::start(&Config::to(&upstream).text());
    for (target, setup) in [
        ("/vertex-main/v1beta/models/gemini-1.5-flash", json!({})),
        (
            "/vertex-main/v1beta/models/gemini-1.5-flash:BidiGenerateContent",
            json!({"model": "models/gemini-1.5-flash"}),
        ),
        ("/v1beta/models/vertex-main/gemini-1.5-flash:bidiGenerateContent", json!({"x": 1})),
        ("/v1beta/models/gemini-default:BidiGenerateContent", json!({"model": "gemini-default"})),
    ] {
        let mut client = dial(&gateway, target, ADMIN_KEY);
        assert_eq!(upstream.last().target, GEMINI, "{target}");
        client.tell(&json!({"setup": setup}));
        assert_eq!(client.event()["model"], "models/gemini-1.5-flash", "{target}");
        client.tell(&json!({"setup": {"model": "models/other"}}));
        assert_eq!(client.close().code(), 1008);
    }
    let refused = "/vertex-main/v1beta/models/gemini-1.5-flash:BidiGenerateContent";
    let bearer = format!("Bearer {ALICE_KEY}");
    let fields = [("authorization", bearer.as_str())];
    let reply = gateway.connect().ask(&support::websocket::handshake(refused, &fields));
    assert_eq!(
        (reply.status, reply.json()["error"]["status"].as_str()),
        (403, Some("PERMISSION_DENIED"))
    );
}

#[test]
fn the_built_in_channel_answers_sessions_with_usage() {
    let upstream = Upstream::vendor();
    let echo = "[[providers]]\nname = \"echoes\"\nchannel = \"echo\"\n";
    let gateway = Gateway::start(&Config::to(&upstream).tail(echo).text());
    let mut client = dial(&gateway, "/v1/realtime?model=echoes/talk", ADMIN_KEY);
    assert_eq!(client.event()["session"]["model"], "echoes/talk");
    let until = |client: &mut Client, last: &str| {
        let mut text = String::new();
        loop {
            let event = client.event();
            text += event["delta"].as_str().unwrap_or_default();
            if event["type"] == last {
                return text;
            }
        }
    };
    for _ in 0..2 {
        let content = json!([{"type": "input_text", "text": "hello there"}]);
        let item = json!({"type": "message", "role": "user", "content": content});
        client.tell(&json!({"type": "conversation.item.create", "item": item}));
        client.tell(&json!({"type": "response.create"}));
        assert_eq!(until(&mut client, "response.done"), "hello there");
    }
    client.send(&frame(128 | 9, b"there?", true));
    let pong = client.frame().expect("a pong");
    assert_eq!((pong.opcode, &pong.payload[..]), (PONG, &b"there?"[..]));
    part(client);

    let mut client = dial(&gateway, "/v1/responses", ADMIN_KEY);
    client.tell(&json!({"type": "response.create", "model": "echoes/m", "input": "and here"}));
    assert_eq!(until(&mut client, "response.completed"), "and here");
    part(client);

    let mut client = dial(&gateway, &format!("/echoes{GEMINI}"), ADMIN_KEY);
    client.tell(&json!({"setup": {"model": "models/g"}}));
    assert_eq!(client.event(), json!({"setupComplete": {}}));
    let turns = json!([{"role": "user", "parts": [{"text": "and live"}]}]);
    client.tell(&json!({"clientContent": {"turns": turns, "turnComplete": true}}));
    let mut text = String::new();
    loop {
        let event = client.event();
        let content = &event["serverContent"];
        text += content["modelTurn"]["parts"][0]["text"].as_str().unwrap_or_default();
        if content["turnComplete"] == true {
            break;
        }
    }
    assert_eq!(text, "and live");
    part(client);
    for row in rows(&gateway, 4) {
        assert!(row.number("input_tokens") > 0 && row.number("output_tokens") > 0);
        assert_eq!(row.text("usage_source"), "upstream");
    }
    assert_eq!(upstream.count(), 0);
    // Nobody is left waiting.
    wait_for("no call", || (gateway.gauge("gproxy_upstream_in_flight") == 0.0).then_some(()));
}

/// Begins an answer to each `response.create`, and ends it when the test says so.
fn slow_vendor() -> (Upstream, Sender<()>) {
    let (go_on, may_go_on) = channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let upstream = Upstream::answering(move |conn, seen| {
        assert!(conn.switch(seen, ""));
        while let Some(heard) = conn.frame().filter(|heard| heard.opcode != CLOSE) {
            assert_eq!(heard.json()["type"], "response.create");
            conn.tell(&json!({"type": "response.created", "response": {}}));
            if may_go_on.lock().expect("never poisoned").recv().is_ok() {
                let usage = json!({"input_tokens": 100, "output_tokens": 10});
                conn.tell(&json!({"type": "response.completed", "response": {"usage": usage}}));
            }
        }
        conn.cut();
    });
    (upstream, go_on)
}

#[test]
fn a_process_that_ends_waits_for_the_answer_that_is_open() {
    let (upstream, go_on) = slow_vendor();
    let mut gateway = Gateway::start(&Config::to(&upstream).tail(&models()).text());
    let mut client = dial(&gateway, "/v1/responses", ADMIN_KEY);
    client.tell(&create("router/cheap"));
    assert_eq!(client.event()["type"], "response.created");
    gateway.sigterm();
    assert!(client.is_silent(Duration::from_millis(2_500)), "it is not cut");
    go_on.send(()).expect("the upstream waits");
    assert_eq!(client.event()["type"], "response.completed");
    assert_eq!(client.close().code(), 1001);
    drop(client);
    assert!(gateway.wait_exit().success());
    let rows = rows(&gateway, 1);
    assert_eq!((rows[0].text("outcome"), rows[0].number("input_tokens")), ("ok", 100));
}

#[test]
fn an_answer_that_is_open_at_the_drain_limit_is_told_so_and_is_no_whole_one() {
    let (upstream, go_on) = slow_vendor();
    let config = Config::to(&upstream).tail(&models()).timeout("drain_ms = 300");
    let mut gateway = Gateway::start(&config.text());
    let mut client = dial(&gateway, "/v1/responses", ADMIN_KEY);
    client.tell(&create("router/cheap"));
    assert_eq!(client.event()["type"], "response.created");
    gateway.sigterm();
    let error = client.event();
    assert_eq!((&error["type"], &error["status"]), (&json!("error"), &json!(503)));
    let close = client.close();
    assert_eq!(close.code(), 1001);
    assert!(close.reason().contains("shutting down"), "{}", close.reason());
    drop((client, go_on));
    assert!(gateway.wait_exit().success());
    assert_eq!(rows(&gateway, 1)[0].text("outcome"), "cut");
}
