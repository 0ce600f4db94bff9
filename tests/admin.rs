//! The administration interface, on the running program: what is made there counts at once and
//! stays, what the file declares is its own, and nobody reaches what is another's.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::support;
use crate::support::admin::{admin, call, on};
use crate::support::{ADMIN_KEY, ALICE_KEY, Client, Config, Gateway, Reply, request, wait_for};
use serde_json::{Value, json};

const PASSWORD: &str = "correct horse battery";

fn chat(gateway: &Gateway, key: &str, model: &str) -> Reply {
    let body = json!({ "model": model, "max_tokens": 5, "messages": [] });
    call(gateway, key, "POST", "/v1/chat/completions", &body)
}

/// A configuration whose data outlives a gateway.
struct Shared {
    folder: PathBuf,
    config: String,
}

impl Shared {
    fn new(name: &str, config: &str) -> Shared {
        let folder =
            std::env::temp_dir().join(format!("gproxy-admin-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        let config = config.replace("DATA_DIR", &folder.display().to_string());
        Shared { folder, config }
    }

    fn start(&self) -> Gateway {
        Gateway::start(&self.config)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn config() -> Config {
    Config::to_url("http://127.0.0.1:9")
}

/// A provider that answers by itself, with a model of 0.40 USD a call, and bob, who has 1 USD.
fn make_bob(gateway: &Gateway) -> String {
    let settings = json!({ "reply_bytes": 10 });
    let provider = json!({ "name": "made", "channel": "echo", "settings": settings });
    admin(gateway, "POST", "providers", provider, 201);
    let model = json!({ "provider_name": "made", "model_id": "m", "price_each_call": "0.40" });
    admin(gateway, "POST", "models", model, 201);
    let user = admin(gateway, "POST", "users", json!({ "name": "bob", "password": PASSWORD }), 201);
    assert_eq!(user["has_password"], true);
    assert!(user.get("password").is_none());
    let rule = json!({ "user_name": "bob", "provider_name": "made", "model_pattern": "m*" });
    let rule = admin(gateway, "POST", "permissions", rule, 201);
    assert_eq!(rule["id"], "bob:made:m*");
    let limit = json!({ "user_name": "bob", "model_pattern": "*", "rpm": 100 });
    admin(gateway, "POST", "rate_limits", limit, 201);
    admin(gateway, "POST", "quotas", json!({ "user_name": "bob", "quota": "1.00" }), 201);
    let key = admin(gateway, "POST", "user_keys", json!({ "user_name": "bob" }), 201);
    let text = key["api_key"].as_str().expect("the key is shown once");
    assert!(text.starts_with("sk-gp-") && text.len() == 6 + 64, "{text}");
    text.to_owned()
}

#[test]
fn what_is_made_counts_at_once_is_spent_topped_up_and_survives_a_restart() {
    let shared = Shared::new("life", &config().text());
    let gateway = shared.start();
    let key = make_bob(&gateway);
    assert_eq!(chat(&gateway, &key, "made/m").status, 200);
    assert_eq!(chat(&gateway, &key, "made/other").status, 403);
    assert_eq!(chat(&gateway, &key, "made/m").status, 200);
    let refused = chat(&gateway, &key, "made/m");
    assert_eq!(refused.status, 402, "{}", refused.text());
    assert!(refused.error_message().starts_with("quota_exceeded: 0.8 USD used"));

    let quota = admin(&gateway, "GET", "quotas/bob:total", Value::Null, 200);
    let parts = ["quota", "used", "reserved", "topped_up", "ceiling"].map(|part| &quota[part]);
    assert_eq!(parts, ["1.00", "0.8", "0", "0", "1"], "{quota}");
    let limit = admin(&gateway, "GET", "rate_limits/bob:*", Value::Null, 200);
    assert_eq!(limit["fill"]["rpm"], 2, "{limit}");

    let top_up = json!({ "amount": "0.50", "why": "march" });
    let quota = admin(&gateway, "POST", "quotas/bob:total/top_ups", top_up, 201);
    assert_eq!((&quota["topped_up"], &quota["ceiling"]), (&json!("0.5"), &json!("1.5")));
    assert_eq!(chat(&gateway, &key, "made/m").status, 200, "a top-up counts at once");
    assert_eq!(chat(&gateway, &key, "made/m").status, 402);

    assert!(gateway.stop().success());
    let gateway = shared.start();
    assert_eq!(chat(&gateway, &key, "made/m").status, 402, "spending and top-up are kept");
    let listed = admin(&gateway, "GET", "quotas/bob:total/top_ups", Value::Null, 200);
    assert_eq!(
        (&listed["items"][0]["why"], &listed["items"][0]["made_by"]),
        (&json!("march"), &json!("admin"))
    );
    admin(&gateway, "PATCH", "quotas/bob:total", json!({ "quota": "5" }), 200);
    assert_eq!(chat(&gateway, &key, "made/m").status, 200);

    admin(&gateway, "PATCH", "users/bob", json!({ "enabled": false }), 200);
    assert_eq!(chat(&gateway, &key, "made/m").status, 401);
    admin(&gateway, "PATCH", "users/bob", json!({ "enabled": null }), 200);
    assert_eq!(chat(&gateway, &key, "made/m").status, 200);
    admin(&gateway, "DELETE", "users/bob", Value::Null, 204);
    assert_eq!(chat(&gateway, &key, "made/m").status, 401);

    // The rows say the same: five calls of 0.40 USD.
    let sums = wait_for("the rows to be written", || {
        let sums = admin(&gateway, "GET", "usage/sums?by=user,model", Value::Null, 200);
        (sums["items"][0]["requests"] == 5).then_some(sums)
    });
    assert_eq!(
        (&sums["items"][0]["user"], &sums["items"][0]["cost"]),
        (&json!("bob"), &json!("2"))
    );
    let rows = admin(&gateway, "GET", "usage?user_name=bob&limit=3", Value::Null, 200);
    assert_eq!(rows["items"].as_array().map(Vec::len), Some(3));
    let next = format!("usage?user_name=bob&limit=3&cursor={}", rows["next_cursor"]);
    let rest = admin(&gateway, "GET", &next, Value::Null, 200);
    assert_eq!(rest["items"].as_array().map(Vec::len), Some(2));
    assert_eq!(rest["next_cursor"], Value::Null);
    let hers = call(&gateway, ALICE_KEY, "GET", "/user/api/usage", &Value::Null).json();
    assert_eq!(hers["items"], json!([]), "everybody sees his own");
    let all = "/user/api/usage?user_name=bob";
    assert_eq!(call(&gateway, ALICE_KEY, "GET", all, &Value::Null).status, 400);
    let left = admin(&gateway, "GET", "permissions?user_name=bob", Value::Null, 200);
    assert_eq!(left["items"], json!([]), "what hangs on a user goes with him");

    let prices = admin(&gateway, "GET", "prices?provider_name=made", Value::Null, 200);
    let price = &prices["items"][0];
    assert_eq!((&price["from"], &price["price"]["price_each_call"]), (&json!("m"), &json!("0.4")));

    // Who, what, when; no secret.
    let changes = admin(&gateway, "GET", "changes?limit=1000", Value::Null, 200);
    let actions: Vec<_> = changes["items"].as_array().expect("a list").iter().collect();
    assert_eq!((&actions[0]["action"], &actions[0]["entity"]), (&json!("delete"), &json!("bob")));
    assert!(actions.iter().all(|change| change["made_by"] == "admin"));
    assert!(actions.iter().any(|change| change["action"] == "top_up"));
    let all = changes.to_string();
    assert!(!all.contains(&key) && !all.contains("argon2") && !all.contains("sha256:"), "{all}");
}

#[test]
fn a_quota_of_the_file_is_reopened_by_a_top_up() {
    let quota = "[[quotas]]\nuser_name = \"alice\"\nquota = \"1.00\"\ncost_used = \"1.00\"\n\
        [[providers]]\nname = \"local\"\nchannel = \"echo\"\n\
        [[permissions]]\nuser_name = \"alice\"\nmodel_pattern = \"*\"\n";
    let shared = Shared::new("file", &config().tail(quota).text());
    let gateway = shared.start();
    assert_eq!(chat(&gateway, ALICE_KEY, "local/m").status, 402);
    let top_up = json!({ "amount": "1" });
    admin(&gateway, "POST", "quotas/alice:total/top_ups", top_up, 201);
    assert_eq!(chat(&gateway, ALICE_KEY, "local/m").status, 200);
    assert!(gateway.stop().success());
    // What the file says was used before counts once, however often it is read.
    let gateway = shared.start();
    assert_eq!(chat(&gateway, ALICE_KEY, "local/m").status, 200);
    admin(&gateway, "POST", "quotas/alice:total/top_ups", json!({ "amount": "-1" }), 201);
    assert_eq!(chat(&gateway, ALICE_KEY, "local/m").status, 402, "a mistake can be taken back");
}

#[test]
fn what_was_spent_elsewhere_counts_once_for_users_who_come_later_too() {
    let local = "[[providers]]\nname = \"local\"\nchannel = \"echo\"\n";
    let config = config().tail(local).text();
    let shared = Shared::new("seen", &config);
    let gateway = shared.start();
    let used = |gateway: &Gateway, id: &str| {
        admin(gateway, "GET", &format!("quotas/{id}"), Value::Null, 200)["used"].clone()
    };
    // Made here: with his first quota.
    admin(&gateway, "POST", "users", json!({ "name": "bob" }), 201);
    let quota = json!({ "user_name": "bob", "quota": "5", "cost_used": "2.5" });
    admin(&gateway, "POST", "quotas", quota.clone(), 201);
    let month = json!({ "user_name": "bob", "window": "month", "quota": "5", "cost_used": "4" });
    admin(&gateway, "POST", "quotas", month, 201);
    assert_eq!(used(&gateway, "bob:total"), "2.5", "once");
    assert_eq!(used(&gateway, "bob:month"), "0", "nobody knows when");
    admin(&gateway, "DELETE", "quotas/bob:total", Value::Null, 204);
    admin(&gateway, "POST", "quotas", quota, 201);
    // In the file, which is read again.
    let carol = "[[users]]\nname = \"carol\"\n[[quotas]]\nuser_name = \"carol\"\n\
        quota = \"9\"\ncost_used = \"3\"\n";
    gateway.rewrite_config(&format!("{}{carol}", shared.config));
    admin(&gateway, "POST", "reload", Value::Null, 200);
    gateway.rewrite_config(&format!("{}{}", shared.config, carol.replace("\"3\"", "\"4\"")));
    admin(&gateway, "POST", "reload", Value::Null, 200);
    let quotas = |gateway: &Gateway| ["bob:total", "carol:total"].map(|id| used(gateway, id));
    assert_eq!(quotas(&gateway), ["2.5", "3"]);
    assert!(gateway.stop().success());
    let gateway = Gateway::start(&format!("{}{carol}", shared.config));
    assert_eq!(quotas(&gateway), ["2.5", "3"], "a restart counts nothing again");
    let file = gateway.folder().join("config.toml");
    let audit = Command::new(env!("CARGO_BIN_EXE_gproxy"))
        .args(["audit", "--config"])
        .arg(file)
        .output()
        .expect("cargo built the binary for this test");
    assert_eq!(String::from_utf8_lossy(&audit.stdout), "0 rows, 0 USD, 0 faults\n");
}

#[test]
fn what_the_file_declares_is_shown_and_read_only() {
    let gateway = Gateway::start(&config().text());
    let user = admin(&gateway, "GET", "users/alice", Value::Null, 200);
    assert_eq!((&user["declared"], &user["enabled"]), (&json!(true), &json!(true)));
    let fault = admin(&gateway, "PATCH", "users/alice", json!({ "is_admin": true }), 409);
    assert_eq!(fault["error"]["code"], "declared");
    let line = format!("on line {}", user["line"]);
    assert!(fault["error"]["message"].as_str().is_some_and(|text| text.contains(&line)), "{fault}");
    admin(&gateway, "DELETE", "users/alice", Value::Null, 409);
    admin(&gateway, "POST", "users", json!({ "name": "alice" }), 409);
    let keys = admin(&gateway, "GET", "user_keys?user_name=alice", Value::Null, 200);
    assert_eq!(keys["items"].as_array().map(Vec::len), Some(2), "{keys}");
    // A key that is made here may belong to a user of the file.
    let key = admin(&gateway, "POST", "user_keys", json!({ "user_name": "alice" }), 201);
    let (id, key) = (key["id"].as_str().expect("a name"), key["api_key"].as_str().expect("a key"));
    let models = call(&gateway, key, "GET", "/v1/models", &Value::Null);
    assert_eq!(models.status, 200);
    admin(&gateway, "PATCH", &format!("user_keys/{id}"), json!({ "enabled": false }), 200);
    assert_eq!(call(&gateway, key, "GET", "/v1/models", &Value::Null).status, 401);

    // A file that declares what was made here is refused, and says so.
    admin(&gateway, "POST", "users", json!({ "name": "bob" }), 201);
    gateway.rewrite_config(&config().tail("[[users]]\nname = \"bob\"\n").text());
    let fault = admin(&gateway, "POST", "reload", Value::Null, 409);
    let message = fault["error"]["message"].as_str().expect("a text");
    assert!(
        message.contains("gproxy.db: user bob: name: \"bob\" is declared on line"),
        "{message}"
    );
    gateway.rewrite_config(&config().tail("[[users]]\nname = \"carol\"\n").text());
    let report = admin(&gateway, "POST", "reload", Value::Null, 200);
    assert_eq!(report["users"], 5, "{report}");
}

#[test]
fn a_name_in_both_is_an_error_at_start() {
    let shared = Shared::new("both", &config().text());
    let gateway = shared.start();
    admin(&gateway, "POST", "users", json!({ "name": "bob" }), 201);
    assert!(gateway.stop().success());
    let both = format!("{}[[users]]\nname = \"bob\"\n", shared.config);
    let mut gateway = Gateway::spawn(&both, &[]);
    assert_eq!(gateway.wait_exit().code(), Some(2), "as any mistake of the configuration");
    gateway.wait_for_line("gproxy.db: user bob: name: \"bob\" is declared on line");
}

#[test]
fn every_path_needs_its_caller_whatever_its_spelling_and_method() {
    let gateway = Gateway::start(&config().text());
    let paths = [
        "/admin/api",
        "/admin/api/",
        "/admin/api/users",
        "/admin/api/users/alice",
        "/admin/api/%75sers",
        "/admin/api//users",
        "/admin/api/./users",
        "/admin/api/nothing",
        "/admin/api/openapi.json",
        "/admin/api/quotas/alice:total/top_ups",
        "/admin/api/../api/users",
        "/admin/api/users?key=sk-admin-1",
    ];
    for path in paths {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"] {
            let bytes = request(method, path, &[], b"");
            assert_eq!(gateway.connect().ask(&bytes).status, 401, "{method} {path}");
            let reply = call(&gateway, ALICE_KEY, method, path, &Value::Null);
            assert_eq!(reply.status, 403, "{method} {path}: {}", reply.text());
            let reply = call(&gateway, "sk-unknown", method, path, &Value::Null);
            assert_eq!(reply.status, 401, "{method} {path}");
        }
    }
    for (method, path, status) in [
        ("GET", "/admin/api/nothing", 404),
        ("GET", "/admin/api//users", 404),
        ("GET", "/admin/api/%75sers", 404),
        ("PUT", "/admin/api/users", 405),
        // There is no deletion of many, with or without a filter.
        ("DELETE", "/admin/api/users", 405),
        ("DELETE", "/admin/api/users?user_name=alice", 405),
        ("DELETE", "/admin/api/users/", 404),
        ("GET", "/admin/api/users?nobody=1", 400),
        ("HEAD", "/admin/api/users", 200),
    ] {
        let reply = call(&gateway, ADMIN_KEY, method, path, &Value::Null);
        assert_eq!(reply.status, status, "{method} {path}");
        if status == 405 {
            assert!(reply.header("allow").is_some_and(|allow| allow.contains("GET")));
        }
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert!(reply.header("content-security-policy").is_some());
    }
}

#[test]
fn what_is_probably_not_meant_so_is_told_with_what_was_made_or_changed() {
    let gateway = Gateway::start(&config().text());
    let limit = json!({ "user_name": "alice", "model_pattern": "openai-main/*", "rpm": 1 });
    let made = admin(&gateway, "POST", "rate_limits", limit, 201);
    let path = "rate_limits/alice:openai-main%2F*";
    let changed = admin(&gateway, "PATCH", path, json!({ "rpm": 2 }), 200);
    for row in [&made, &changed] {
        assert_eq!(row["warnings"].as_array().map(Vec::len), Some(1), "{row}");
        let warning = row["warnings"][0].as_str().expect("a text");
        assert!(warning.starts_with("model_pattern: patterns are tested on"), "{warning}");
    }
    assert!(admin(&gateway, "GET", path, Value::Null, 200).get("warnings").is_none());
    let limit = json!({ "user_name": "alice", "model_pattern": "gpt-*", "rpm": 1 });
    assert!(admin(&gateway, "POST", "rate_limits", limit, 201).get("warnings").is_none());
    let limit = json!({ "user_name": "alice", "model_pattern": "gpt-*|o1-*", "rpm": 1 });
    let refused = admin(&gateway, "POST", "rate_limits", limit, 400);
    assert_eq!(refused["error"]["field"], "model_pattern");
    let row = json!({ "provider_name": "openai-main", "model_id": "gpt-4*", "display_name": "x" });
    admin(&gateway, "POST", "models", row, 400);
}

#[test]
fn a_mistake_names_its_field_and_changes_nothing() {
    let gateway = Gateway::start(&config().text());
    let rows = [
        ("users", json!({ "nam": "x" }), 400, "nam"),
        ("users", json!({}), 400, "name"),
        ("users", json!({ "name": "x", "is_admin": "yes" }), 400, "is_admin"),
        ("users", json!({ "name": "x", "has_password": true }), 400, "has_password"),
        ("users", json!({ "name": "x", "password": "short" }), 400, "password"),
        ("users", json!({ "name": "x\ny" }), 400, "name"),
        ("user_keys", json!({ "user_name": "nobody" }), 409, "user_name"),
        ("user_keys", json!({ "user_name": "alice", "api_key": "sk-1" }), 400, "api_key"),
        ("providers", json!({ "name": "v1", "channel": "echo" }), 400, "name"),
        ("providers", json!({ "name": "x", "channel": "nonsense" }), 400, "channel"),
        (
            "providers",
            json!({ "name": "x", "channel": "custom", "settings": { "base_url": "file:///etc" } }),
            400,
            "settings.base_url",
        ),
        (
            "providers",
            json!({ "name": "x", "channel": "custom", "settings": { "base_url": "http://[::1]" } }),
            409,
            "settings.base_url",
        ),
        ("credentials", json!({ "provider_name": "openai-main", "api_key": "k" }), 409, ""),
        (
            "models",
            json!({ "provider_name": "router", "model_id": "m", "price_each_call": "-1" }),
            400,
            "price_each_call",
        ),
        (
            "permissions",
            json!({ "user_name": "alice", "provider_name": "x", "model_pattern": "*" }),
            409,
            "provider_name",
        ),
        ("rate_limits", json!({ "user_name": "alice", "model_pattern": "*" }), 400, ""),
        ("quotas", json!({ "user_name": "alice", "quota": "9999999" }), 400, "quota"),
        ("quotas", json!({ "user_name": "alice", "quota": "1", "window": "year" }), 400, "window"),
    ];
    for (section, body, status, field) in rows {
        let reply = call(&gateway, ADMIN_KEY, "POST", &format!("/admin/api/{section}"), &body);
        assert_eq!(reply.status, status, "{section} {body}: {}", reply.text());
        let told = reply.json()["error"]["field"].as_str().unwrap_or_default().to_owned();
        assert_eq!(told, field, "{section} {body}: {}", reply.text());
    }
    let changes = admin(&gateway, "GET", "changes", Value::Null, 200);
    assert_eq!(changes["items"], json!([]));
    let key = format!("Bearer {ADMIN_KEY}");
    let headers = [("authorization", key.as_str()), ("content-type", "text/plain")];
    let reply = gateway.connect().ask(&request("POST", "/admin/api/users", &headers, b"{}"));
    assert_eq!(reply.status, 415, "a form of another site cannot say that it is JSON");
    let long = json!({ "name": "x".repeat(1_100_000) });
    assert_eq!(call(&gateway, ADMIN_KEY, "POST", "/admin/api/users", &long).status, 413);
}

/// Logs in; gives the cookie and the word against forgery.
fn log_in(
    gateway: &Gateway,
    area: &str,
    name: &str,
    password: &str,
) -> Result<(String, String), u16> {
    let body = json!({ "user_name": name, "password": password }).to_string();
    let headers = [("content-type", "application/json")];
    let path = format!("/{area}/api/session");
    let reply = gateway.connect().ask(&request("POST", &path, &headers, body.as_bytes()));
    if reply.status != 201 {
        return Err(reply.status);
    }
    let cookie = reply.header("set-cookie").expect("a cookie");
    assert!(cookie.contains("; HttpOnly; SameSite=Strict"), "{cookie}");
    assert!(!cookie.contains("Secure"), "no TLS here");
    let pair = cookie.split(';').next().expect("a pair").to_owned();
    Ok((pair, reply.json()["csrf"].as_str().expect("a word").to_owned()))
}

#[test]
fn a_session_opens_with_a_password_writes_with_its_word_and_ends() {
    let gateway = Gateway::start(&config().text());
    let user = json!({ "name": "bob", "password": PASSWORD, "is_admin": true });
    admin(&gateway, "POST", "users", user, 201);
    assert_eq!(log_in(&gateway, "admin", "bob", "wrong"), Err(401));
    assert_eq!(log_in(&gateway, "admin", "alice", ""), Err(401));
    let (cookie, csrf) = log_in(&gateway, "admin", "bob", PASSWORD).expect("it is right");
    let ask = |method: &str, path: &str, word: Option<&str>, body: &str| {
        let mut headers = vec![("cookie", cookie.as_str()), ("content-type", "application/json")];
        headers.extend(word.map(|word| ("x-gproxy-csrf", word)));
        gateway.connect().ask(&request(method, path, &headers, body.as_bytes())).status
    };
    assert_eq!(ask("GET", "/admin/api/users", None, ""), 200);
    assert_eq!(ask("GET", "/v1/models", None, ""), 401, "a cookie calls no model");
    let (users, body) = ("/admin/api/users", r#"{"name":"carol"}"#);
    assert_eq!(ask("POST", users, None, body), 403);
    assert_eq!(ask("POST", users, Some("wrong"), body), 403);
    assert_eq!(ask("POST", users, Some(&csrf), body), 201);
    assert_eq!(ask("DELETE", "/user/api/sessions", Some(&csrf), ""), 204);
    assert_eq!(ask("GET", "/admin/api/users", None, ""), 401);

    // Another password ends what the old one opened.
    let (cookie, _) = log_in(&gateway, "admin", "bob", PASSWORD).expect("it is right");
    let other = json!({ "password": "another password" });
    admin(&gateway, "PATCH", "users/bob", other, 200);
    let headers = [("cookie", cookie.as_str())];
    let reply = gateway.connect().ask(&request("GET", users, &headers, b""));
    assert_eq!(reply.status, 401);

    // Five wrong ones in a minute are enough, for a right one too.
    for _ in 0..6 {
        let _ = log_in(&gateway, "user", "bob", "wrong");
    }
    assert_eq!(log_in(&gateway, "user", "bob", "another password"), Err(429));
    // Keys do not guess.
    admin(&gateway, "GET", "version", Value::Null, 200);
}

/// A gateway whose one administrator stands in the database, and his key.
fn alone(shared: &Shared) -> (Gateway, String) {
    assert!(shared.start().stop().success());
    let folder = shared.folder.display().to_string();
    let file = std::env::temp_dir().join(format!("gproxy-last-{}.toml", std::process::id()));
    std::fs::write(&file, &shared.config).expect("a file");
    let reset = Command::new(env!("CARGO_BIN_EXE_gproxy"))
        .args(["reset-admin", "--data-dir", &folder, "--config"])
        .arg(&file)
        .output()
        .expect("the binary runs");
    let _ = std::fs::remove_file(&file);
    assert!(reset.status.success(), "{}", String::from_utf8_lossy(&reset.stderr));
    let key = String::from_utf8(reset.stdout).expect("a key");
    (shared.start(), key.trim().to_owned())
}

#[test]
fn the_last_administrator_stays() {
    let shared = Shared::new("last", "[global]\nport = 0\ndata_dir = \"DATA_DIR\"\n");
    let (gateway, key) = alone(&shared);
    let reply = call(&gateway, &key, "GET", "/admin/api/users", &Value::Null);
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json()["items"][0]["id"], "admin");
    let reply = call(&gateway, &key, "DELETE", "/admin/api/users/admin", &Value::Null);
    assert_eq!(reply.status, 409, "{}", reply.text());
    assert!(reply.error_message().contains("nobody would be left"));
}

#[test]
fn the_last_key_of_the_last_administrator_stays_unless_he_has_a_password() {
    let shared = Shared::new("key", "[global]\nport = 0\ndata_dir = \"DATA_DIR\"\n");
    let (gateway, key) = alone(&shared);
    let ask = |method: &str, path: &str, body: Value, status: u16| {
        let reply = call(&gateway, &key, method, path, &body);
        assert_eq!(reply.status, status, "{method} {path} {body}: {}", reply.text());
        let left = reply.text().contains("nobody would be left");
        assert_eq!(left, status == 409, "{}", reply.text());
        if status == 204 { Value::Null } else { reply.json() }
    };
    let keys = ask("GET", "/user/api/keys", Value::Null, 200);
    let end = format!("...{}", &key[key.len() - 4..]);
    let (mine, others): (Vec<_>, Vec<_>) =
        keys["items"].as_array().expect("a list").iter().partition(|one| one["hint"] == end);
    let mine = mine[0]["id"].as_str().expect("a name");
    for other in others {
        let path = format!("/admin/api/user_keys/{}", other["id"].as_str().expect("a name"));
        ask("DELETE", &path, Value::Null, 204);
    }
    for path in ["/admin/api/user_keys", "/user/api/keys"].map(|path| format!("{path}/{mine}")) {
        ask("DELETE", &path, Value::Null, 409);
        ask("PATCH", &path, json!({ "enabled": false }), 409);
        ask("PATCH", &path, json!({ "expires_at": "2020-01-01T00:00:00Z" }), 409);
    }
    // Another administrator who cannot come in is none who stays.
    ask("POST", "/admin/api/users", json!({ "name": "bob", "is_admin": true }), 201);
    ask("DELETE", "/admin/api/users/admin", Value::Null, 409);
    ask("PATCH", "/admin/api/users/bob", json!({ "password": PASSWORD }), 200);
    ask("DELETE", &format!("/user/api/keys/{mine}"), Value::Null, 204);
    let (cookie, csrf) = log_in(&gateway, "admin", "bob", PASSWORD).expect("it is right");
    let headers = [
        ("cookie", cookie.as_str()),
        ("x-gproxy-csrf", csrf.as_str()),
        ("content-type", "application/json"),
    ];
    let patch = request("PATCH", "/admin/api/users/bob", &headers, br#"{"password":null}"#);
    assert_eq!(gateway.connect().ask(&patch).status, 409);
}

#[test]
fn everybody_sees_his_own_and_nothing_else() {
    let gateway = Gateway::start(&config().text());
    let bob = make_bob(&gateway);
    let own = |key: &str, method: &str, path: &str, body: Value| {
        call(&gateway, key, method, &format!("/user/api/{path}"), &body)
    };
    let mine = own(&bob, "POST", "keys", json!({ "label": "second" }));
    assert_eq!(mine.status, 201, "{}", mine.text());
    let mine = mine.json()["id"].as_str().expect("a name").to_owned();
    let keys = own(&bob, "GET", "keys", Value::Null).json();
    assert_eq!(keys["items"].as_array().map(Vec::len), Some(2));
    assert_eq!(own(&bob, "GET", "quotas", Value::Null).json()["items"][0]["id"], "bob:total");
    assert_eq!(own(&bob, "GET", "models", Value::Null).json()["items"][0]["id"], "made/m");
    assert_eq!(own(&bob, "GET", "session", Value::Null).json()["is_admin"], false);
    // Alice reaches none of it, whatever she writes.
    for (method, path) in [
        ("PATCH", format!("keys/{mine}")),
        ("DELETE", format!("keys/{mine}")),
        ("GET", "keys?user_name=bob".to_owned()),
        ("GET", "quotas?user_name=bob".to_owned()),
        ("GET", format!("../../admin/api/user_keys/{mine}")),
    ] {
        let body = if method == "PATCH" { json!({ "enabled": false }) } else { Value::Null };
        let reply = own(ALICE_KEY, method, &path, body);
        assert!((400..=404).contains(&reply.status), "{method} {path}: {}", reply.text());
    }
    let reply = own(ALICE_KEY, "POST", "keys", json!({ "user_name": "bob" }));
    assert_eq!(reply.status, 400, "a key is the caller's own");
    let keys = own(ALICE_KEY, "GET", "keys", Value::Null).json();
    let hers = keys["items"].as_array().expect("a list");
    assert!(hers.iter().all(|key| key["user_name"] == "alice"));
    assert_eq!(
        own(&bob, "PATCH", &format!("keys/{mine}"), json!({ "enabled": false })).status,
        200
    );
    assert_eq!(own(&bob, "DELETE", &format!("keys/{mine}"), Value::Null).status, 204);
}

#[test]
fn secrets_stand_in_no_answer_and_no_log_and_are_sealed_on_disk() {
    let shared = Shared::new("sealed", &config().text());
    let master = ("GPROXY_MASTER_KEY", "0123456789abcdef0123456789abcdef");
    let secret = "upstream-secret-4242424242";
    let gateway = Gateway::start_with(&shared.config, &[master]);
    let provider = json!({
        "name": "paid", "channel": "custom", "credentials": [{ "api_key": secret }],
        "settings": {
            "base_url": "http://paid.example:9", "dialects": ["openai_chat"]
        }
    });
    let mut told = admin(&gateway, "POST", "providers", provider, 201).to_string();
    let user = json!({ "name": "bob", "password": PASSWORD });
    told += &admin(&gateway, "POST", "users", user, 201).to_string();
    for path in ["providers", "credentials", "users", "user_keys", "changes", "settings"] {
        told += &admin(&gateway, "GET", path, Value::Null, 200).to_string();
    }
    for hidden in [secret, PASSWORD, "argon2", "sha256:", "sealed:", support::UPSTREAM_KEY] {
        assert!(!told.contains(hidden), "{hidden} in {told}");
    }
    assert!(told.contains("...4242"));
    let log = gateway.stderr().join("\n");
    assert!(!log.contains(secret) && !log.contains(PASSWORD), "{log}");
    assert!(gateway.stop().success());
    let disk = std::fs::read(shared.folder.join("gproxy.db")).expect("the database");
    assert!(support::client::find(&disk, secret.as_bytes()).is_none(), "it stands there in clear");
    // Without its key the secret cannot be had, and the start says so.
    let mut gateway = Gateway::spawn(&shared.config, &[]);
    assert_eq!(gateway.wait_exit().code(), Some(1));
    gateway.wait_for_line("GPROXY_MASTER_KEY");
    drop(gateway);
    let gateway = Gateway::start_with(&shared.config, &[master]);
    let provider = admin(&gateway, "GET", "providers/paid", Value::Null, 200);
    assert_eq!(provider["urls"]["openai_chat"], "http://paid.example:9/v1/chat/completions");
}

#[test]
fn the_audit_of_a_creation_shows_what_was_made_and_nothing_of_its_name_elsewhere() {
    let gateway = Gateway::start(&config().text());
    let settings = json!({ "reply_bytes": 10 });
    let provider = json!({ "name": "made", "channel": "echo", "settings": settings });
    admin(&gateway, "POST", "providers", provider.clone(), 201);
    admin(&gateway, "POST", "users", json!({ "name": "made", "is_admin": true }), 201);
    let changes = admin(&gateway, "GET", "changes?limit=2", Value::Null, 200);
    let [user, of_provider] = [0, 1].map(|at| changes["items"][at].clone());
    assert_eq!(user["section"], "users");
    assert_eq!(user["after"], json!({ "name": "made", "is_admin": true }));
    assert_eq!(of_provider["after"], provider);
}

#[test]
fn a_name_that_no_path_can_have_is_refused() {
    let gateway = Gateway::start(&config().text());
    for name in [".", ".."] {
        let alias = json!({ "alias": name, "provider_name": "openai-main", "model_id": "m" });
        for (section, row, field) in
            [("users", json!({ "name": name }), "name"), ("model_aliases", alias, "alias")]
        {
            let fault = admin(&gateway, "POST", section, row, 400);
            assert_eq!(fault["error"]["field"], field, "{fault}");
            let message = fault["error"]["message"].as_str().expect("a text");
            assert!(message.contains("must be none of"), "{message}");
        }
    }
    admin(&gateway, "POST", "users", json!({ "name": "..." }), 201);
    admin(&gateway, "DELETE", "users/...", Value::Null, 204);
}

#[test]
fn a_change_counts_for_connections_that_are_open_already() {
    let gateway = Gateway::start(&config().text());
    let mut early = gateway.connect();
    assert_eq!(on(&mut early, "sk-later", "GET", "/v1/models", &Value::Null).status, 401);
    let key = admin(&gateway, "POST", "user_keys", json!({ "user_name": "alice" }), 201);
    let key = key["api_key"].as_str().expect("a key").to_owned();
    assert_eq!(on(&mut early, &key, "GET", "/v1/models", &Value::Null).status, 200);
}

/// Who may do something when it is done is asked then, not when its head came.
#[test]
fn who_is_deleted_while_his_body_comes_changes_nothing() {
    let gateway = Gateway::start(&config().text());
    let user = json!({ "name": "mallory", "is_admin": true });
    let user = admin(&gateway, "POST", "users", user, 201);
    let key = admin(&gateway, "POST", "user_keys", json!({ "user_name": "mallory" }), 201);
    let bearer = format!("Bearer {}", key["api_key"].as_str().expect("a key"));
    let body = json!({ "name": "backdoor", "is_admin": true }).to_string();
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let bytes = request("POST", "/admin/api/users", &headers, body.as_bytes());
    let mut client = gateway.connect();
    client.send(&bytes[..bytes.len() - 1]);
    let in_flight = || gateway.gauge("gproxy_requests_in_flight");
    wait_for("the head to be read", || (in_flight() > 1.0).then_some(()));
    let path = format!("users/{}", user["id"].as_str().expect("an id"));
    admin(&gateway, "DELETE", &path, Value::Null, 204);
    assert_eq!(client.ask(&bytes[bytes.len() - 1..]).status, 401);
    let users = admin(&gateway, "GET", "users", Value::Null, 200).to_string();
    assert!(!users.contains("backdoor"), "{users}");
}

#[test]
fn behind_a_trusted_proxy_the_forwarded_address_counts_and_cookies_are_secure() {
    let gateway = Gateway::start(&config().global("trusted_proxies = [\"127.0.0.0/8\"]").text());
    let user = json!({ "name": "bob", "password": PASSWORD });
    admin(&gateway, "POST", "users", user, 201);
    let log_in = |from: &str, password: &str| {
        let body = json!({ "user_name": "bob", "password": password }).to_string();
        let headers = [
            ("content-type", "application/json"),
            ("x-forwarded-for", from),
            ("x-forwarded-proto", "https"),
        ];
        let bytes = request("POST", "/user/api/session", &headers, body.as_bytes());
        gateway.connect().ask(&bytes)
    };
    for _ in 0..5 {
        assert_eq!(log_in("6.6.6.6, 198.51.100.1", "wrong").status, 401);
    }
    let limited = log_in("198.51.100.1", PASSWORD);
    assert_eq!(limited.status, 429);
    assert!(limited.header("retry-after").is_some());
    let other = log_in("198.51.100.2", PASSWORD);
    assert_eq!(other.status, 201, "one guesser locks nobody else out");
    assert!(other.header("set-cookie").is_some_and(|cookie| cookie.ends_with("; Secure")));
}

/// Starts the binary and gives what it says on standard output, and its first administrator's view.
fn first_words(shared: &Shared) -> (Vec<String>, u16) {
    let port = support::gateway::free_port();
    let file = shared.folder.with_extension("toml");
    let config = shared.config.replacen("port = 0", &format!("port = {port}"), 1);
    std::fs::write(&file, config).expect("a file");
    let mut child = Command::new(env!("CARGO_BIN_EXE_gproxy"))
        .arg("--config")
        .arg(&file)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let mut client = wait_for("a connection", || Client::try_connect(port).ok());
    let mut out = BufReader::new(child.stdout.take().expect("it was asked for"));
    // What is said is said before the first connection is taken.
    let ready = client.ask(&request("GET", "/readyz", &[], b""));
    assert_eq!(ready.status, 200);
    let pid = rustix::process::Pid::from_child(&child);
    let mut words = Vec::new();
    let mut status = 0;
    if !shared.folder.join("told").exists() {
        let mut line = String::new();
        while words.len() < 2 && out.read_line(&mut line).is_ok_and(|count| count > 0) {
            words.push(std::mem::take(&mut line).trim().to_owned());
        }
        let key = words.last().expect("a key").clone();
        status = on(&mut client, &key, "GET", "/admin/api/users", &Value::Null).status;
        std::fs::write(shared.folder.join("told"), "").expect("the folder is there");
    }
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    words.extend(out.lines().map_while(Result::ok));
    child.wait().expect("it ends");
    let _ = std::fs::remove_file(&file);
    (words, status)
}

#[test]
fn the_first_start_makes_an_administrator_and_says_his_key_once() {
    let shared = Shared::new("first", "[global]\nport = 0\ndata_dir = \"DATA_DIR\"\n");
    let (words, status) = first_words(&shared);
    assert_eq!((words.len(), status), (2, 200), "{words:?}");
    assert!(words[0].contains("\"admin\"") && words[1].starts_with("sk-gp-"), "{words:?}");
    assert_eq!(first_words(&shared).0, [""; 0], "never again");
}
