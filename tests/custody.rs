//! What an operator is left with on a bad day: sessions that are ended, a key that was lost, and
//! secrets that came before their master key.

use std::process::Command;

use crate::support::admin::{admin, call};
use crate::support::client::{chat, find};
use crate::support::{ADMIN_KEY, Config, Gateway, Upstream, request};
use serde_json::{Value, json};

const PASSWORD: &str = "correct horse battery";
const MASTER: (&str, &str) = ("GPROXY_MASTER_KEY", "0123456789abcdef0123456789abcdef");

/// A session: its cookie, and the word for its writes.
fn log_in(gateway: &Gateway, name: &str) -> (String, String) {
    let body = json!({ "user_name": name, "password": PASSWORD }).to_string();
    let headers = [("content-type", "application/json")];
    let ask = request("POST", "/user/api/session", &headers, body.as_bytes());
    let reply = gateway.connect().ask(&ask);
    assert_eq!(reply.status, 201, "{}", reply.text());
    let cookie = reply.header("set-cookie").expect("a cookie").split(';').next().expect("a pair");
    (cookie.to_owned(), reply.json()["csrf"].as_str().expect("a word").to_owned())
}

fn status(gateway: &Gateway, method: &str, path: &str, session: &(String, String)) -> u16 {
    let headers = [("cookie", session.0.as_str()), ("x-gproxy-csrf", session.1.as_str())];
    gateway.connect().ask(&request(method, path, &headers, b"")).status
}

#[test]
fn signing_out_everywhere_ends_every_session_of_that_user_and_of_no_other() {
    let gateway = Gateway::start(&Config::to_url("http://127.0.0.1:9").text());
    for name in ["bob", "carol"] {
        admin(&gateway, "POST", "users", json!({ "name": name, "password": PASSWORD }), 201);
    }
    let open =
        |session: &(String, String)| status(&gateway, "GET", "/user/api/session", session) == 200;
    let carol = log_in(&gateway, "carol");
    let (here, there) = (log_in(&gateway, "bob"), log_in(&gateway, "bob"));
    // One at a time ends alone.
    assert_eq!(status(&gateway, "DELETE", "/user/api/session", &there), 204);
    assert!(open(&here) && !open(&there));
    let there = log_in(&gateway, "bob");
    assert_eq!(status(&gateway, "DELETE", "/user/api/sessions", &here), 204);
    assert!(!open(&here) && !open(&there) && open(&carol));
    // An administrator does it for a user, who cannot do it to others.
    let sessions = [log_in(&gateway, "bob"), log_in(&gateway, "bob")];
    assert_eq!(status(&gateway, "DELETE", "/admin/api/users/carol/sessions", &sessions[0]), 403);
    admin(&gateway, "DELETE", "users/bob/sessions", Value::Null, 204);
    assert!(!sessions.iter().any(open) && open(&carol));
    let changes = admin(&gateway, "GET", "changes?limit=1", Value::Null, 200);
    let last = ["action", "section", "entity"].map(|name| changes["items"][0][name].clone());
    assert_eq!(last, ["end_sessions", "users", "bob"], "it is noted");
    admin(&gateway, "DELETE", "users/nobody/sessions", Value::Null, 404);
    // Nobody stays in whose user is disabled or gone.
    admin(&gateway, "PATCH", "users/carol", json!({ "enabled": false }), 200);
    assert!(!open(&carol));
}

#[test]
fn an_operator_who_lost_his_key_gets_another_once_the_gateway_is_stopped() {
    let mut gateway = Gateway::start(&Config::to_url("http://127.0.0.1:9").text());
    let reset = |gateway: &Gateway| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gproxy"));
        command.arg("reset-admin").arg("--config").arg(gateway.folder().join("config.toml"));
        command.output().expect("the binary runs")
    };
    let refused = reset(&gateway);
    assert!(!refused.status.success(), "its books are in use");
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(why.contains("in use by another process") && refused.stdout.is_empty(), "{why}");
    assert!(why.contains("stop it, and start it again") && !why.contains("data_dir"), "{why}");
    gateway.sigterm();
    assert!(gateway.wait_exit().success());
    let out = reset(&gateway);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let told = String::from_utf8(out.stdout).expect("text");
    let key = told.lines().last().expect("a key").trim();
    assert!(key.starts_with("sk-gp-"), "{told}");
    let text = std::fs::read_to_string(gateway.folder().join("config.toml")).expect("our file");
    let again = Gateway::start(&text.replacen(&format!("port = {}", gateway.port), "port = 0", 1));
    let who = call(&again, key, "GET", "/admin/api/session", &Value::Null);
    assert_eq!((who.status, who.json()["user_name"].as_str()), (200, Some("admin")));
    // It is written down that it was done, without the key.
    let changes = admin(&again, "GET", "changes", Value::Null, 200);
    assert_eq!(changes["items"][0]["action"], "reset");
    assert!(!changes.to_string().contains("sk-gp-"), "{changes}");
}

/// Who makes a user by a name must not thereby make the next administrator.
#[test]
fn a_user_who_has_an_administrators_name_stays_one_of_many() {
    let reset = |gateway: &Gateway| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gproxy"));
        command.arg("reset-admin").arg("--config").arg(gateway.folder().join("config.toml"));
        command.output().expect("the binary runs")
    };
    let mut gateway = Gateway::start(&Config::to_url("http://127.0.0.1:9").text());
    admin(&gateway, "POST", "users", json!({ "name": "admin-2" }), 201);
    let key = admin(&gateway, "POST", "user_keys", json!({ "user_name": "admin-2" }), 201);
    let key = key["api_key"].as_str().expect("it is told once").to_owned();
    gateway.sigterm();
    assert!(gateway.wait_exit().success());
    // The file has no administrator any more, and no user who is called like one.
    let path = gateway.folder().join("config.toml");
    let text = std::fs::read_to_string(&path).expect("our file");
    let text = text.replace("is_admin = true", "is_admin = false");
    std::fs::write(&path, &text).expect("our folder");
    let out = reset(&gateway);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let told = String::from_utf8(out.stdout).expect("text");
    let made = told.lines().last().expect("a key").trim();
    let again = Gateway::start(&text.replacen(&format!("port = {}", gateway.port), "port = 0", 1));
    let who = call(&again, made, "GET", "/admin/api/session", &Value::Null);
    assert_eq!((who.status, who.json()["user_name"].as_str()), (200, Some("admin-3")));
    assert_eq!(call(&again, &key, "GET", "/admin/api/users", &Value::Null).status, 403);
}

#[test]
fn a_master_key_seals_what_was_kept_before_it_came() {
    let secret = "upstream-secret-4242424242";
    let upstream = Upstream::answering(move |conn, seen| {
        let is_right = seen.header("authorization") == Some(&format!("Bearer {secret}"));
        conn.whole(if is_right { 200 } else { 401 }, "{}");
    });
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("custody-sealed");
    let _ = std::fs::remove_dir_all(&folder);
    let config = Config::to_url("http://127.0.0.1:9").global("allow_private_upstreams = true");
    let config = config.text().replace("DATA_DIR", &folder.display().to_string());
    let in_clear = || {
        ["gproxy.db", "gproxy.db-wal"].iter().any(|name| {
            let disk = std::fs::read(folder.join(name)).unwrap_or_default();
            find(&disk, secret.as_bytes()).is_some()
        })
    };
    let gateway = Gateway::start(&config);
    let provider = json!({
        "name": "paid", "channel": "custom", "credentials": [{ "api_key": secret }],
        "settings": {
            "base_url": format!("http://127.0.0.1:{}", upstream.port), "dialects": ["openai_chat"]
        }
    });
    admin(&gateway, "POST", "providers", provider, 201);
    for number in 0..40 {
        let (name, pad) = (format!("other-{number}"), "x".repeat(number));
        let credentials = json!([{ "api_key": format!("{secret}-{number}{pad}") }]);
        let other = json!({
            "name": name, "channel": "custom", "credentials": credentials,
            "settings": { "base_url": "http://127.0.0.1:9", "dialects": ["openai_chat"] }
        });
        admin(&gateway, "POST", "providers", other, 201);
    }
    assert_eq!(gateway.connect().ask(&chat("paid/m", false)).status, 200);
    assert!(gateway.stop().success());
    assert!(in_clear(), "there was no master key");
    let gateway = Gateway::start(&config);
    gateway.wait_for_line("stands there in clear; give a master key to seal it");
    assert!(gateway.stop().success());
    let gateway = Gateway::start_with(&config, &[MASTER]);
    assert_eq!(gateway.connect().ask(&chat("paid/m", false)).status, 200);
    assert_eq!(admin(&gateway, "GET", "settings", Value::Null, 200)["seals_secrets"], true);
    assert!(gateway.stop().success());
    let gateway = Gateway::start_with(&config, &[MASTER]);
    let key = format!("Bearer {ADMIN_KEY}");
    let headers = [("authorization", key.as_str())];
    let models = gateway.connect().ask(&request("GET", "/v1/models", &headers, b""));
    assert_eq!(models.status, 200);
    assert_eq!(gateway.connect().ask(&chat("paid/m", false)).status, 200);
    assert!(gateway.stop().success());
    let disk = std::fs::read(folder.join("gproxy.db")).expect("the database");
    assert!(find(&disk, b"sealed:1:").is_some());
    assert!(!in_clear(), "nothing of what stood there before is left");
}
