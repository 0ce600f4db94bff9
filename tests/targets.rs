//! Aliases that several may serve: who is asked, who is skipped, and who is charged.

use std::collections::HashMap;
use std::process::Command;

use crate::support;
use crate::support::admin::admin;
use crate::support::client::{chat, post, request};
use crate::support::upstream::{Conn, Seen};
use crate::support::websocket::TEXT;
use crate::support::{ADMIN_KEY, ALICE_KEY, Client, Gateway, Reply, Upstream, gateway, wait_for};
use serde_json::json;

/// Providers `one` and `two` with one credential each, and the alias `either` on both.
fn config(ports: [u16; 2], targets: &str, more: &str) -> String {
    let provider = |name: &str, port: u16| {
        format!(
            "[[providers]]\nname = \"{name}\"\nchannel = \"custom\"\n\
             credentials = [{{ api_key = \"cred-{name}\" }}]\n\
             settings = {{ base_url = \"http://127.0.0.1:{port}\" }}\n\
             [[models]]\nprovider_name = \"{name}\"\nmodel_id = \"m-{name}\"\n\
             price_each_call = \"{}\"\n",
            if name == "one" { "1" } else { "2" }
        )
    };
    format!(
        "[global]\nport = 0\nworkers = 1\ndata_dir = \"DATA_DIR\"\n{}{}\
         [[model_aliases]]\nalias = \"either\"\ntargets = [{targets}]\n\
         [[users]]\nname = \"admin\"\nis_admin = true\nkeys = [{{ api_key = \"{ADMIN_KEY}\" }}]\n\
         [[permissions]]\nuser_name = \"admin\"\nmodel_pattern = \"*\"\n\
         [[users]]\nname = \"alice\"\nkeys = [{{ api_key = \"{ALICE_KEY}\" }}]\n{more}",
        provider("one", ports[0]),
        provider("two", ports[1]),
    )
}

const IN_ORDER: &str = "{ provider_name = \"two\", model_id = \"m-two\", tier = 2 }, \
    { provider_name = \"one\", model_id = \"m-one\" }";

fn answers(status: u16) -> Upstream {
    Upstream::answering(move |conn: &mut Conn, seen: &Seen| {
        let model = seen.json()["model"].as_str().unwrap_or_default().to_owned();
        conn.whole(status, format!("{{\"model\":\"{model}\"}}"));
    })
}

#[test]
fn the_next_target_serves_when_the_first_fails_in_any_way() {
    for failure in ["refused", "no such host", "401", "403", "429", "500", "503"] {
        let two = answers(200);
        let one = answers(failure.parse().unwrap_or(200));
        let port = if failure == "refused" { gateway::free_port() } else { one.port };
        let mut text = config([port, two.port], IN_ORDER, "");
        if failure == "no such host" {
            let url = format!("http://127.0.0.1:{}", one.port);
            text = text.replacen(&url, "http://nowhere.invalid", 1);
        }
        let gateway = Gateway::start(&text);
        let mut client = gateway.connect();
        for _ in 0..20 {
            let reply = client.ask(&chat("either", false));
            assert_eq!((reply.status, reply.text().as_str()), (200, r#"{"model":"either"}"#));
        }
        assert_eq!(two.count(), 20, "{failure}");
        assert_eq!(two.last().json()["model"], "m-two");
        let line = gateway.wait_for_line("provider=\"two\"");
        assert!(line.contains("model_served=\"m-two\""), "{line}");
    }
}

/// Four credentials in the place of the first target's one.
fn with_four(text: &str) -> String {
    let four: Vec<String> =
        (1..=4).map(|number| format!("{{ api_key = \"cred-one-{number}\" }}")).collect();
    text.replace("{ api_key = \"cred-one\" }", &four.join(", "))
}

#[test]
fn a_target_with_many_credentials_leaves_attempts_to_those_behind_it() {
    // How often each kind of failure is met before the next target is asked.
    for (failure, tries) in [("refused", 2), ("401", 3), ("429", 3), ("403", 2), ("500", 2)] {
        let two = answers(200);
        let one = answers(failure.parse().unwrap_or(200));
        let port = if failure == "refused" { gateway::free_port() } else { one.port };
        let gateway = Gateway::start(&with_four(&config([port, two.port], IN_ORDER, "")));
        let reply = gateway.connect().ask(&chat("either", false));
        assert_eq!((reply.status, reply.text().as_str()), (200, r#"{"model":"either"}"#));
        assert_eq!(two.count(), 1, "{failure}");
        assert_eq!(gateway.gauge("gproxy_attempts_total") as usize, tries + 1, "{failure}");
    }
}

#[test]
fn what_targets_leave_to_each_other_is_within_the_ceiling() {
    for most in [1, 2] {
        let (one, two) = (answers(429), answers(200));
        let limits = format!("[limits]\nattempts_max = {most}\n");
        let text = with_four(&config([one.port, two.port], IN_ORDER, &limits));
        let gateway = Gateway::start(&text);
        let status = gateway.connect().ask(&chat("either", false)).status;
        assert_eq!((status, one.count()), (if most == 1 { 429 } else { 200 }, 1));
        assert_eq!(two.count(), most - 1);
    }
}

/// "Refused" and the resets of a thousand calls, where the two credentials are two providers'.
#[test]
fn a_thousand_calls_see_nothing_of_a_target_that_refuses_connections() {
    let two = answers(200);
    let gateway = Gateway::start(&config([gateway::free_port(), two.port], IN_ORDER, ""));
    let mut client = gateway.connect();
    let begun = std::time::Instant::now();
    for call in 0..1_000 {
        let reply = client.ask(&chat("either", call % 2 == 1));
        assert_eq!(reply.status, 200, "call {call}: {}", reply.text());
    }
    let attempts = gateway.metrics()["gproxy_attempts_total"] as usize;
    let failed = gateway.metrics()["gproxy_attempts_failed_total"] as usize;
    assert_eq!(attempts - failed, 1_000);
    assert!((1..=1 + begun.elapsed().as_secs() as usize).contains(&failed), "{failed}");
}

#[test]
fn a_healthy_first_target_keeps_all_to_itself() {
    let (one, two) = (answers(200), answers(200));
    let gateway = Gateway::start(&config([one.port, two.port], IN_ORDER, ""));
    let mut client = gateway.connect();
    for _ in 0..10 {
        assert_eq!(client.ask(&chat("either", false)).status, 200);
    }
    assert_eq!((one.count(), two.count()), (10, 0));
}

#[test]
fn targets_of_one_tier_are_first_by_weight() {
    let (one, two) = (answers(200), answers(200));
    let targets = "{ provider_name = \"one\", model_id = \"m-one\", weight = 3 }, \
        { provider_name = \"two\", model_id = \"m-two\" }";
    let gateway = Gateway::start(&config([one.port, two.port], targets, ""));
    let mut client = gateway.connect();
    for _ in 0..12 {
        assert_eq!(client.ask(&chat("either", false)).status, 200);
    }
    assert_eq!((one.count(), two.count()), (9, 3));
}

#[test]
fn a_request_at_fault_is_asked_once() {
    let (one, two) = (answers(400), answers(200));
    let gateway = Gateway::start(&config([one.port, two.port], IN_ORDER, ""));
    assert_eq!(gateway.connect().ask(&chat("either", false)).status, 400);
    assert_eq!((one.count(), two.count()), (1, 0));
}

#[test]
fn when_all_targets_fail_the_last_answer_is_told() {
    let (one, two) = (answers(503), answers(429));
    let gateway = Gateway::start(&config([one.port, two.port], IN_ORDER, ""));
    let reply = gateway.connect().ask(&chat("either", false));
    assert_eq!((reply.status, reply.header("x-gproxy-source")), (429, Some("upstream")));
    // A dead one behind a real answer changes nothing.
    let gateway = Gateway::start(&config([one.port, gateway::free_port()], IN_ORDER, ""));
    assert_eq!(gateway.connect().ask(&chat("either", false)).status, 503);
    gateway.wait_for_line("provider=\"one\"");
}

#[test]
fn the_row_names_the_credential_that_got_the_answer_that_is_told() {
    let one = answers(429);
    let text = config([one.port, gateway::free_port()], IN_ORDER, "");
    let two = "{ api_key = \"cred-one-1\" }, { api_key = \"cred-one-2\" }";
    let gateway = Gateway::start(&text.replace("{ api_key = \"cred-one\" }", two));
    assert_eq!(gateway.connect().ask(&chat("either", false)).status, 429);
    let row = wait_for("the row", || support::books::rows(gateway.folder())?.pop());
    let told = one.last().header("authorization").map(str::to_owned);
    assert_eq!((told.as_deref(), row.text("provider")), (Some("Bearer cred-one-2"), "one"));
    assert_eq!((row.number("credential_id"), row.number("attempts")), (1, 3));
}

#[test]
fn a_target_that_the_user_may_not_call_is_skipped() {
    let ask = |key: &str| {
        let key = format!("Bearer {key}");
        let body = r#"{"model":"either","messages":[]}"#;
        request("POST", "/v1/chat/completions", &[("authorization", &key)], body.as_bytes())
    };
    let permission = |provider: &str| {
        format!(
            "[[permissions]]\nuser_name = \"alice\"\nprovider_name = \"{provider}\"\n\
             model_pattern = \"either\"\n"
        )
    };
    let (one, two) = (answers(200), answers(200));
    let gateway = Gateway::start(&config([one.port, two.port], IN_ORDER, &permission("two")));
    assert_eq!(gateway.connect().ask(&ask(ALICE_KEY)).status, 200);
    assert_eq!((one.count(), two.count()), (0, 1));
    // The one that is permitted fails: the other is not asked for all that.
    let (one, two) = (answers(500), answers(200));
    let gateway = Gateway::start(&config([one.port, two.port], IN_ORDER, &permission("one")));
    assert_eq!(gateway.connect().ask(&ask(ALICE_KEY)).status, 500);
    assert_eq!(two.count(), 0);
    let gateway = Gateway::start(&config([one.port, two.port], IN_ORDER, ""));
    assert_eq!(gateway.connect().ask(&ask(ALICE_KEY)).status, 403);
}

#[test]
fn in_a_providers_scope_only_its_own_targets_count() {
    let (one, two) = (answers(500), answers(200));
    let gateway = Gateway::start(&config([one.port, two.port], IN_ORDER, ""));
    let body = r#"{"model":"either","messages":[]}"#;
    let reply = gateway.connect().ask(&post("/two/v1/chat/completions", body));
    assert_eq!((reply.status, one.count()), (200, 0));
    let reply = gateway.connect().ask(&post("/one/v1/chat/completions", body));
    assert_eq!((reply.status, two.count()), (500, 1));
}

fn ask_as(gateway: &Gateway, key: &str, method: &str, target: &str, body: &str) -> Reply {
    let key = format!("Bearer {key}");
    let mut fields = vec![("authorization", key.as_str())];
    if body.starts_with("--b") {
        fields.push(("content-type", "multipart/form-data; boundary=b"));
    }
    gateway.connect().ask(&request(method, target, &fields, body.as_bytes()))
}

#[test]
fn where_one_target_is_asked_it_is_the_first_that_the_caller_may_call() {
    let (one, two) = (answers(200), answers(200));
    let permission = "[[permissions]]\nuser_name = \"alice\"\nprovider_name = \"two\"\n\
        model_pattern = \"either\"\n";
    let gateway = Gateway::start(&config([one.port, two.port], IN_ORDER, permission));
    let alice = |method: &str, target: &str, body: &str| {
        let reply = ask_as(&gateway, ALICE_KEY, method, target, body);
        assert_eq!(reply.status, 200, "{target}: {}", reply.text());
        reply
    };
    // What the list shows is found by its name.
    assert_eq!(alice("GET", "/v1/models", "").json()["data"][0]["id"], "either");
    assert_eq!(alice("GET", "/v1/models/either", "").json()["owned_by"], "two");
    let form = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\neither\r\n--b--\r\n";
    alice("POST", "/v1/audio/transcriptions", form);
    assert_eq!(two.last().text(), form.replace("either", "m-two"));
    alice("GET", "/v1/chat/completions?model=either", "");
    assert_eq!(two.last().query(), "model=m-two");
    let batch = |models: &[&str]| {
        let one = |model: &&str| json!({ "params": { "model": model } });
        json!({ "requests": models.iter().map(one).collect::<Vec<_>>() })
    };
    alice("POST", "/v1/messages/batches", &batch(&["either"]).to_string());
    assert_eq!(two.last().json(), batch(&["m-two"]));
    assert_eq!(one.count(), 0);
    // One provider serves a batch: that of the names before it.
    let both = batch(&["two/m-two", "either"]).to_string();
    let reply = ask_as(&gateway, ADMIN_KEY, "POST", "/v1/messages/batches", &both);
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(two.last().json(), batch(&["m-two", "m-two"]));
}

/// Answers each event of a session with the model that it names.
fn sessions() -> Upstream {
    Upstream::answering(|conn, seen| {
        conn.switch(seen, "");
        while let Some(frame) = conn.frame().filter(|frame| frame.opcode == TEXT) {
            let model = frame.json()["model"].clone();
            conn.tell(&json!({ "type": "response.completed", "response": { "heard": model } }));
        }
    })
}

#[test]
fn a_session_is_opened_where_its_dialect_is_spoken_and_stays_there() {
    let (one, two) = (sessions(), sessions());
    let ports = [one.port, two.port];
    let both = config(ports, IN_ORDER, "");
    let speaks = |dialect: &str, port: u16| {
        (format!("{port}\" }}"), format!("{port}\", dialects = [\"{dialect}\"] }}"))
    };
    let mut apart = both.clone();
    for (from, to) in [speaks("anthropic", one.port), speaks("openai_responses", two.port)] {
        apart = apart.replacen(&from, &to, 1);
    }
    for (text, names) in [(apart, ["either", "either"]), (both, ["two/m-two", "either"])] {
        let gateway = Gateway::start(&text);
        let mut client: Client = gateway.connect();
        client.dial("/v1/responses", &[("authorization", &format!("Bearer {ADMIN_KEY}"))]);
        for name in names {
            client.tell(&json!({ "type": "response.create", "model": name }));
            let event = client.event();
            assert_eq!(event["response"]["heard"], "m-two", "{names:?}: {event}");
        }
    }
    assert_eq!((one.count(), two.count()), (0, 2));
}

/// The rows of the books, as `gproxy usage --json` prints them.
fn rows(gateway: Gateway, folder: &std::path::Path) -> Vec<HashMap<String, serde_json::Value>> {
    let config = gateway.folder().join("config.toml");
    let text = std::fs::read_to_string(&config).expect("it was written for this test");
    let copy = folder.join("config.toml");
    std::fs::write(&copy, text).expect("the folder was just made");
    assert!(gateway.stop().success());
    let mut command = Command::new(env!("CARGO_BIN_EXE_gproxy"));
    let output = command.args(["usage", "--json", "--config"]).arg(&copy).output();
    let output = output.expect("cargo built the binary for this test");
    let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("a row is JSON")).collect()
}

#[test]
fn the_row_and_the_price_are_those_of_the_target_that_served() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("targets-books");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("cargo made the folder above");
    let (one, two) = (answers(500), answers(200));
    let text = config([one.port, two.port], IN_ORDER, "");
    let text = text.replace("DATA_DIR", &folder.display().to_string());
    let gateway = Gateway::start(&text);
    assert_eq!(gateway.connect().ask(&chat("either", false)).status, 200);
    let rows = rows(gateway, &folder);
    assert_eq!(rows.len(), 1, "{rows:?}");
    let row = &rows[0];
    assert_eq!((&row["provider"], &row["model_served"]), (&"two".into(), &"m-two".into()));
    assert_eq!((&row["model"], &row["attempts"]), (&"either".into(), &2.into()));
    assert_eq!(row["cost"].to_string().trim_matches('"').parse::<f64>().ok(), Some(2.0), "{row:?}");
}

#[test]
fn a_quota_reserves_for_the_dearest_target() {
    let (one, two) = (answers(200), answers(200));
    let quota = "[[quotas]]\nuser_name = \"admin\"\nquota = \"1.50\"\n";
    let gateway = Gateway::start(&config([one.port, two.port], IN_ORDER, quota));
    assert_eq!(gateway.connect().ask(&chat("either", false)).status, 402);
    assert_eq!(gateway.connect().ask(&chat("one/m-one", false)).status, 200);
}

#[test]
fn explain_and_check_show_the_order() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("targets-explain");
    std::fs::create_dir_all(&folder).expect("cargo made the folder above");
    let file = folder.join("config.toml");
    let text = config(
        [9, 9],
        IN_ORDER,
        "[[permissions]]\nuser_name = \"alice\"\nprovider_name = \"two\"\nmodel_pattern = \"*\"\n",
    );
    std::fs::write(&file, text).expect("the folder was just made");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gproxy"));
        let output = command.args(arguments).arg("--config").arg(&file).output();
        String::from_utf8_lossy(&output.expect("it runs").stdout).into_owned()
    };
    let check = run(&["check"]);
    let order = "alias either is the first that serves of\n  one/m-one, tier 1, weight 1\n  \
                 two/m-two, tier 2, weight 1\n";
    assert!(check.contains(order), "{check}");
    let body = folder.join("body.json");
    std::fs::write(&body, r#"{"model":"either"}"#).expect("the folder was just made");
    let body = body.display().to_string();
    let explain = |key: &str| {
        run(&["explain", "--path", "/v1/chat/completions", "--key", key, "--body", &body])
    };
    let all = explain(ADMIN_KEY);
    assert!(all.contains("target      one/m-one is asked first\n"), "{all}");
    assert!(all.contains("target      two/m-two is asked when those before it fail\n"), "{all}");
    let some = explain(ALICE_KEY);
    assert!(some.contains("one/m-one is skipped: not permitted\n"), "{some}");
    assert!(some.contains("route       \"m-two\" at two"), "{some}");
}

#[test]
fn an_alias_with_targets_is_made_and_changed_through_the_interface_too() {
    let two = answers(200);
    let gateway = Gateway::start(&config([gateway::free_port(), two.port], IN_ORDER, ""));
    let target = |name: &str, tier: u32| {
        let model = format!("m-{name}");
        json!({ "provider_name": name, "model_id": model, "tier": tier })
    };
    let made = json!({ "alias": "made", "targets": [target("one", 1), target("two", 2)] });
    let alias = admin(&gateway, "POST", "model_aliases", made.clone(), 201);
    assert_eq!(alias["targets"], made["targets"]);
    let reply = gateway.connect().ask(&chat("made", false));
    assert_eq!((reply.status, two.last().json()["model"].as_str()), (200, Some("m-two")));

    for (body, field) in [
        (json!({ "alias": "x", "targets": [] }), "targets"),
        (json!({ "alias": "x", "targets": [{ "provider_name": "one" }] }), "targets"),
        (json!({ "alias": "x", "targets": [target("one", 0)] }), "targets"),
        (json!({ "alias": "x", "model_id": "m" }), "provider_name"),
        (json!({ "alias": "x", "model_id": "m", "targets": [target("one", 1)] }), "targets"),
    ] {
        let fault = admin(&gateway, "POST", "model_aliases", body.clone(), 400);
        assert_eq!(fault["error"]["field"], field, "{body}: {fault}");
    }
    let one = json!({ "targets": null, "provider_name": "two", "model_id": "other" });
    let alias = admin(&gateway, "PATCH", "model_aliases/made", one, 200);
    assert!(alias.get("targets").is_none(), "{alias}");
    assert_eq!(gateway.connect().ask(&chat("made", false)).status, 200);
    assert_eq!(two.last().json()["model"], "other");
}
