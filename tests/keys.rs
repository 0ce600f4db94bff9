//! Keys of users: which one called stands in the books and the logs, and what each may.

mod support;

use rusqlite::Connection;
use serde_json::{Value, json};
use support::{ADMIN_KEY, Config, Gateway, Reply, Upstream, request, wait_for};

/// A provider of two credentials, of which the first is refused.
const TWO: &str = "[[providers]]\nname = \"two\"\nchannel = \"custom\"\n\
    credentials = [{ api_key = \"first-upstream-key\" }, { api_key = \"second-upstream-key\" }]\n\
    [providers.settings]\nbase_url = \"BASE\"\ndialects = [\"openai_chat\"]\n\
    rotation_strategy = \"sticky\"\n";

fn call(gateway: &Gateway, key: &str, method: &str, path: &str, body: &Value) -> Reply {
    let key = format!("Bearer {key}");
    let headers = [("authorization", key.as_str()), ("content-type", "application/json")];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    gateway.connect().ask(&request(method, path, &headers, body.as_bytes()))
}

fn chat(gateway: &Gateway, key: &str, model: &str) -> Reply {
    let body = json!({ "model": model, "max_tokens": 5, "messages": [] });
    call(gateway, key, "POST", "/v1/chat/completions", &body)
}

/// A call of the administration interface, which must succeed with this status.
#[track_caller]
fn admin(gateway: &Gateway, method: &str, path: &str, body: Value, status: u16) -> Value {
    let reply = call(gateway, ADMIN_KEY, method, &format!("/admin/api/{path}"), &body);
    assert_eq!(reply.status, status, "{method} {path}: {}", reply.text());
    reply.json()
}

/// A new key of a user: its id, and in clear.
fn make_key(gateway: &Gateway, user: &str, more: Value) -> (String, String) {
    let mut asked = json!({ "user_name": user });
    for (name, value) in more.as_object().into_iter().flatten() {
        asked[name] = value.clone();
    }
    let made = admin(gateway, "POST", "user_keys", asked, 201);
    let text = |name: &str| made[name].as_str().expect("a text").to_owned();
    (text("id"), text("api_key"))
}

#[test]
fn rows_and_logs_say_which_key_called_and_which_credential_served() {
    let upstream = Upstream::answering(|conn, seen| {
        let first = seen.header("authorization") == Some("Bearer first-upstream-key");
        let status = if first { 401 } else { 200 };
        conn.whole(status, r#"{"usage":{"prompt_tokens":7,"completion_tokens":3}}"#);
    });
    let base = format!("http://127.0.0.1:{}", upstream.port);
    let config = Config::to(&upstream)
        .global("enable_downstream_log = true")
        .tail(&TWO.replace("BASE", &base));
    let mut gateway = Gateway::start(&config.text());
    let admins = admin(&gateway, "GET", "user_keys?user_name=admin", Value::Null, 200);
    let declared = admins["items"][0]["id"].as_str().expect("an id").to_owned();
    let (made, key) = make_key(&gateway, "admin", json!({ "label": "second" }));
    for (key, model) in [(ADMIN_KEY, "two/m"), (&key, "two/m"), (&key, "router/m")] {
        assert_eq!(chat(&gateway, key, model).status, 200);
    }
    let sums = wait_for("the rows", || {
        let sums = admin(&gateway, "GET", "usage/sums?by=user_key", Value::Null, 200);
        let requests = sums["items"].as_array()?.iter().filter_map(|sum| sum["requests"].as_i64());
        (requests.sum::<i64>() == 3).then_some(sums)
    });
    let mut expected = [(declared.as_str(), 1), (made.as_str(), 2)];
    expected.sort_unstable();
    for (sum, (id, requests)) in sums["items"].as_array().expect("sums").iter().zip(expected) {
        assert_eq!(
            (sum["user_key"].as_str(), sum["requests"].as_i64()),
            (Some(id), Some(requests))
        );
    }
    let path = format!("usage?user_key={made}");
    let rows = admin(&gateway, "GET", &path, Value::Null, 200);
    let rows: Vec<_> = rows["items"].as_array().expect("rows").iter().collect();
    let credentials: Vec<_> = rows.iter().map(|row| row["credential_id"].as_i64()).collect();
    assert_eq!(credentials, [Some(0), Some(1)], "the last first");
    assert_eq!(rows[0]["user_key"], json!(made));
    gateway.sigterm();
    assert!(gateway.wait_exit().success());
    let logs = Connection::open(gateway.folder().join("data/gproxy-logs.db")).expect("logs");
    let select = "SELECT count(*) FROM downstream_requests WHERE user_key_id = ?1 AND internal = 0";
    for (id, expected) in [(declared, 1), (made, 2)] {
        let count: i64 = logs.query_row(select, [id], |row| row.get(0)).expect("our table");
        assert_eq!(count, expected);
    }
    support::books::audit(gateway.folder());
}

/// What a key with these terms gets, from this address as a trusted proxy tells it.
fn from(gateway: &Gateway, key: &str, path: &str, address: &str) -> Reply {
    let key = format!("Bearer {key}");
    let headers = [("authorization", key.as_str()), ("x-forwarded-for", address)];
    gateway.connect().ask(&request("GET", path, &headers, b""))
}

#[test]
fn a_key_counts_until_its_time_is_over_and_from_its_networks_alone() {
    let upstream = Upstream::answering(|conn, _| {
        conn.whole(200, "{}");
    });
    let key = |name: &str, terms: &str| {
        format!("[[users.keys]]\napi_key = \"sk-of-the-file-{name}-0123456789\"\n{terms}\n")
    };
    let config = Config::to(&upstream).global("trusted_proxies = [\"127.0.0.1\"]").tail(&format!(
        "[[users]]\nname = \"root\"\nis_admin = true\n{}{}{}[[permissions]]\nuser_name = \"root\"\n\
         model_pattern = \"*\"\n",
        key("old", "expires_at = \"2020-01-01T00:00:00Z\""),
        key("good", "expires_at = \"2999-01-01T00:00:00Z\""),
        key("home", "networks = [\"198.51.100.0/24\", \"2001:db8::/32\"]")
    ));
    let gateway = Gateway::start(&config.text());
    let terms = json!({ "expires_at": "2020-01-01T00:00:00Z" });
    let (id, made_old) = make_key(&gateway, "root", terms);
    let terms = json!({ "networks": ["198.51.100.7"], "expires_at": "2999-01-01T00:00:00Z" });
    let made_home = make_key(&gateway, "root", terms).1;
    let of_file = |name: &str| format!("sk-of-the-file-{name}-0123456789");
    let (expired, elsewhere) = ("the API key has expired", "may not be used from this address");
    let rows = [
        (of_file("old"), "198.51.100.7", Some(expired)),
        (of_file("good"), "203.0.113.9", None),
        (of_file("home"), "198.51.100.7", None),
        (of_file("home"), "2001:db8::1", None),
        (of_file("home"), "203.0.113.9", Some(elsewhere)),
        (of_file("home"), "", Some(elsewhere)),
        (made_old.clone(), "198.51.100.7", Some(expired)),
        (made_home.clone(), "198.51.100.7", None),
        (made_home, "198.51.100.8", Some(elsewhere)),
    ];
    for (key, address, refused) in rows {
        for path in ["/v1/models", "/metrics", "/admin/api/users"] {
            let reply = from(&gateway, &key, path, address);
            let expected = if refused.is_some() { 401 } else { 200 };
            assert_eq!(reply.status, expected, "{path} from {address}: {}", reply.text());
            if let (Some(why), true) = (refused, path != "/metrics") {
                assert!(reply.text().contains(why), "{path} from {address}: {}", reply.text());
            }
        }
    }
    // What is changed counts at once.
    let path = format!("user_keys/{id}");
    admin(&gateway, "PATCH", &path, json!({ "expires_at": null }), 200);
    assert_eq!(from(&gateway, &made_old, "/v1/models", "").status, 200);
    admin(&gateway, "PATCH", &path, json!({ "networks": ["10.0.0.0/8"] }), 200);
    assert_eq!(from(&gateway, &made_old, "/v1/models", "").status, 401);
}

#[test]
fn no_reply_is_opened_as_a_page_by_a_key_in_the_address() {
    let upstream = Upstream::answering(|conn, _| {
        conn.whole(200, "{}");
    });
    let gateway = Gateway::start(&Config::to(&upstream).text());
    let target = format!("/v1beta/models/gemini-default:generateContent?key={ADMIN_KEY}");
    let opened = |mode: &str| {
        let fields = [("sec-fetch-mode", mode), ("content-type", "application/json")];
        gateway.connect().ask(&request("POST", &target, &fields, br#"{"contents":[]}"#))
    };
    let refused = opened("navigate");
    assert_eq!(refused.status, 401, "{}", refused.text());
    assert!(refused.error_message().contains("in a header"), "{}", refused.text());
    assert_eq!(upstream.count(), 0);
    assert_eq!(opened("cors").status, 200);
}
