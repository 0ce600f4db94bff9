//! Reading the file again: what it says otherwise is told, in the answer and in the log, without
//! a secret; a dry run changes nothing; a file with mistakes changes nothing either.

use crate::support::admin::{admin, call};
use crate::support::{ADMIN_KEY, ALICE_KEY, Config, Gateway, UPSTREAM_KEY};
use rustix::process::Signal;
use serde_json::{Value, json};

const NEW_KEY: &str = "sk-carol-0123456789abcdef0123456789abcdef";
const NEW_SECRET: &str = "upstream-credential-new-9b1c";

fn config() -> Config {
    Config::to_url("http://127.0.0.1:9")
}

/// A file with a user more, a model that costs, another limit, another credential and another port.
fn changed() -> String {
    let more = format!(
        "[[users]]\nname = \"carol\"\nkeys = [{{ api_key = \"{NEW_KEY}\", label = \"desk\" }}]\n\
         [[quotas]]\nuser_name = \"carol\"\nquota = 5\n"
    );
    let text = config().limit("in_flight_max = 77").tail(&more).text();
    let text = text.replacen("enabled = false", "price_each_call = \"0.40\"", 1);
    text.replacen(UPSTREAM_KEY, NEW_SECRET, 1).replacen("workers = 2", "workers = 1", 1)
}

const SAYS: [&str; 7] = [
    "changed setting global.workers, line 4: value 2 -> 1",
    "added setting limits.in_flight_max, line ",
    "changed credential openai-main:1, line ",
    "changed model openai-main:gpt-retired, line ",
    "added user carol, line ",
    "added user key ",
    "added quota carol:total, line ",
];

fn says(report: &Value) -> Vec<String> {
    let changes = report["changes"].as_array().expect("a list").iter();
    changes.map(|change| change["says"].as_str().expect("a text").to_owned()).collect()
}

fn check(report: &Value) {
    let all = says(report);
    assert_eq!(all.len(), SAYS.len(), "{all:#?}");
    for (line, expected) in all.iter().zip(SAYS) {
        assert!(line.starts_with(expected), "{expected} in {all:#?}");
    }
    assert_eq!(report["changes_count"], all.len());
    assert_eq!(report["needs_restart"], json!(["workers"]));
    let warnings = report["warnings"].as_array().expect("a list");
    assert!(warnings.contains(&json!("a changed workers needs a restart")), "{report}");
    let model = &report["changes"][3]["fields"];
    let fields = json!([
        { "field": "enabled", "before": false, "after": null },
        { "field": "price_each_call", "before": null, "after": "0.40" }
    ]);
    assert_eq!(*model, fields);
    assert_eq!(report["changes"][2]["fields"], json!([{ "field": "api_key" }]));
    assert!(all[5].contains("(desk of carol)"), "{all:#?}");
    for secret in [NEW_KEY, NEW_SECRET, UPSTREAM_KEY] {
        assert!(!report.to_string().contains(secret), "{report}");
    }
}

#[test]
fn a_dry_run_tells_what_a_reload_would_change_and_changes_nothing() {
    let gateway = Gateway::start(&config().text());
    let nothing = admin(&gateway, "POST", "reload", Value::Null, 200);
    assert_eq!((&nothing["changes"], &nothing["changes_count"]), (&json!([]), &json!(0)));
    gateway.rewrite_config(&changed());
    for _ in 0..2 {
        let report = admin(&gateway, "POST", "reload?dry_run=true", Value::Null, 200);
        assert_eq!((&report["dry_run"], &report["users"]), (&json!(true), &json!(4)));
        check(&report);
    }
    let models = |key: &str| call(&gateway, key, "GET", "/v1/models", &Value::Null).status;
    assert_eq!(models(NEW_KEY), 401, "a dry run puts nothing in place");
    admin(&gateway, "GET", "users/carol", Value::Null, 404);

    let report = admin(&gateway, "POST", "reload", Value::Null, 200);
    assert_eq!(report["dry_run"], false);
    check(&report);
    assert_eq!(models(NEW_KEY), 200);
    gateway.wait_for_line("\"admin\" has the file read again");
    gateway.wait_for_line("reload: changed credential openai-main:1, line ");
    gateway.wait_for_line("reloaded: 4 providers, 4 users, 7 changes in the file");
    let changes = admin(&gateway, "GET", "changes?limit=1000", Value::Null, 200);
    let changes = changes["items"].as_array().expect("a list");
    let mut reloads = changes.iter().filter(|change| change["action"] == "reload");
    let last = reloads.next().expect("it is noted");
    assert_eq!(
        (&last["made_by"], &last["entity"], &last["after"]["changes_count"]),
        (&json!("admin"), &json!("file"), &json!(7))
    );
    assert_eq!(reloads.count(), 1, "a dry run changes nothing");
    let again = admin(&gateway, "POST", "reload", Value::Null, 200);
    assert_eq!(again["changes"], json!([]), "it counts already");
    assert_eq!(again["needs_restart"], json!(["workers"]), "until it is done");

    gateway.rewrite_config("[[users]]\nname = 7\n");
    for path in ["reload?dry_run=true", "reload"] {
        let fault = admin(&gateway, "POST", path, Value::Null, 409);
        let message = fault["error"]["message"].as_str().expect("a text");
        assert!(message.contains("users[0].name: must be text"), "{message}");
    }
    assert_eq!(models(ADMIN_KEY), 200);
}

#[test]
fn a_signal_tells_the_same_in_the_log_without_a_secret() {
    let gateway = Gateway::start(&config().text());
    gateway.rewrite_config(&changed());
    gateway.signal(Signal::HUP);
    gateway.wait_for_line("reloaded: 4 providers, 4 users, 7 changes in the file");
    for line in SAYS {
        gateway.wait_for_line(&format!("reload: {line}"));
    }
    gateway.wait_for_line("a changed workers needs a restart");
    gateway.rewrite_config(&config().text());
    gateway.signal(Signal::HUP);
    gateway.wait_for_line("reload: removed user carol, line ");
    gateway.wait_for_line("reload: removed setting limits.in_flight_max, line ");
    let changes = admin(&gateway, "GET", "changes?limit=1000", Value::Null, 200);
    let changes = changes["items"].as_array().expect("a list").iter();
    let mut reloads = changes.filter(|change| change["action"] == "reload");
    let first = reloads.next_back().expect("it is noted");
    assert_eq!((&first["made_by"], &first["after"]["changes_count"]), (&json!(""), &json!(7)));
    let log = gateway.stderr().join("\n");
    for secret in [NEW_KEY, NEW_SECRET, UPSTREAM_KEY] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[test]
fn a_file_without_an_administrator_is_refused_and_the_running_tables_stay() {
    let gateway = Gateway::start(&config().text());
    let nobody = config().text().replace("is_admin = true", "is_admin = false");
    gateway.rewrite_config(&nobody);
    for path in ["reload?dry_run=true", "reload"] {
        let fault = admin(&gateway, "POST", path, Value::Null, 409);
        let message = fault["error"]["message"].as_str().expect("a text");
        assert!(message.contains("nobody would be left"), "{message}");
    }
    gateway.signal(Signal::HUP);
    gateway.wait_for_line("reload refused: the running configuration stays");
    // One who was made here is one too.
    admin(&gateway, "POST", "users", json!({ "name": "root", "is_admin": true }), 201);
    admin(&gateway, "POST", "reload", Value::Null, 200);
    let reply = call(&gateway, ADMIN_KEY, "GET", "/admin/api/users", &Value::Null);
    assert_eq!(reply.status, 403);
}

/// Nor does a reload that is refused for them write who has come with the file.
#[test]
fn certificates_that_cannot_be_read_are_found_by_a_dry_run_too() {
    let gateway = Gateway::start(&config().text());
    let carol = "[[users]]\nname = \"carol\"\n[[quotas]]\nuser_name = \"carol\"\nquota = 5\n\
                 cost_used = 2\n";
    let config = config().tail(carol);
    gateway.rewrite_config(&config.clone().global("extra_ca_file = \"/nowhere.pem\"").text());
    for path in ["reload?dry_run=true", "reload"] {
        let fault = admin(&gateway, "POST", path, Value::Null, 409);
        let message = fault["error"]["message"].as_str().expect("a text");
        assert!(message.contains("extra_ca_file: /nowhere.pem"), "{message}");
    }
    let seen = || {
        let changes = admin(&gateway, "GET", "changes?limit=1000", Value::Null, 200);
        let changes = changes["items"].as_array().expect("a list").clone();
        changes.iter().filter(|change| change["entity"] == "carol").count()
    };
    assert_eq!(seen(), 0, "nothing is written");
    gateway.rewrite_config(&config.text());
    admin(&gateway, "POST", "reload", Value::Null, 200);
    assert_eq!(seen(), 1);
    let quota = admin(&gateway, "GET", "quotas/carol:total", Value::Null, 200);
    assert_eq!(quota["used"], "2", "{quota}");
}

/// A user who made himself a key can still be taken out of the file.
#[test]
fn who_leaves_the_file_leaves_nothing_that_stops_a_reload_or_a_start() {
    let mut gateway = Gateway::start(&config().text());
    let made = call(&gateway, ALICE_KEY, "POST", "/user/api/keys", &json!({ "label": "own" }));
    assert_eq!(made.status, 201, "{}", made.text());
    let key = made.json()["api_key"].as_str().expect("it is told once").to_owned();
    let who =
        |gateway: &Gateway| call(gateway, &key, "GET", "/user/api/session", &Value::Null).status;
    assert_eq!(who(&gateway), 200);
    let path = gateway.folder().join("config.toml");
    let text = std::fs::read_to_string(&path).expect("our file").replace("alice", "zoe");
    std::fs::write(&path, &text).expect("our folder");
    let report = admin(&gateway, "POST", "reload", Value::Null, 200);
    let warnings = report["warnings"].to_string();
    assert!(warnings.contains("there is no user \\\"alice\\\""), "{warnings}");
    assert_eq!(who(&gateway), 401);
    // It stands in the way of no change, and nobody may write such a row now.
    admin(&gateway, "POST", "users", json!({ "name": "bob" }), 201);
    admin(&gateway, "POST", "user_keys", json!({ "user_name": "alice" }), 409);
    gateway.sigterm();
    assert!(gateway.wait_exit().success());
    let port = format!("port = {}", gateway.port);
    let again = Gateway::start(&text.replacen(&port, "port = 0", 1));
    assert_eq!(who(&again), 401);
    admin(&again, "GET", "users/bob", Value::Null, 200);
}
