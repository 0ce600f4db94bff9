//! Keys of users: which one called stands in the books and the logs, and what each may.

use crate::support;
use crate::support::{ADMIN_KEY, Client, Config, Gateway, Reply, Upstream, request, wait_for};
use rusqlite::Connection;
use serde_json::{Value, json};

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
    let mut headers = vec![("authorization", key.as_str())];
    // Some proxies put a line of their own behind the caller's.
    headers.extend(address.split('|').map(|line| ("x-forwarded-for", line)));
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
        "[[users]]\nname = \"root\"\nis_admin = true\n{}{}{}{}[[permissions]]\n\
         user_name = \"root\"\nmodel_pattern = \"*\"\n",
        key("old", "expires_at = \"2020-01-01T00:00:00Z\""),
        key("good", "expires_at = \"2999-01-01T00:00:00Z\""),
        key("home", "networks = [\"198.51.100.0/24\", \"2001:db8::/32\"]"),
        key("near", "networks = [\"127.0.0.0/8\"]")
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
        (of_file("home"), "198.51.100.7|203.0.113.9", Some(elsewhere)),
        (of_file("home"), "203.0.113.9|198.51.100.7", None),
        (of_file("home"), "198.51.100.7:40000", None),
        (of_file("near"), "", None),
        (of_file("near"), "unknown", Some(elsewhere)),
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

/// Opens a stream with this key: the connection and the status.
fn open_stream(gateway: &Gateway, key: &str) -> (Client, u16) {
    let key = format!("Bearer {key}");
    let headers = [("authorization", key.as_str()), ("content-type", "application/json")];
    let body = json!({ "model": "openai-main/gpt-4.1-mini", "stream": true, "messages": [] });
    let body = body.to_string();
    let mut client = gateway.connect();
    client.send(&request("POST", "/v1/chat/completions", &headers, body.as_bytes()));
    let status = client.head().expect("an answer").status;
    (client, status)
}

#[test]
fn as_many_calls_of_a_key_go_on_side_by_side_as_it_allows_and_no_other_key_notices() {
    let upstream = Upstream::answering(|conn, _| {
        conn.stream_head();
        conn.piece("data: {\"n\":1}\n\n");
        let _ = conn.wait_closed();
    });
    const OF_FILE: &str = "sk-of-the-file-0123456789abcdef";
    let config = Config::to(&upstream).tail(&format!(
        "[[users]]\nname = \"bob\"\n[[users.keys]]\napi_key = \"{OF_FILE}\"\nlabel = \"nightly\"\n\
         in_flight = 3\n[[permissions]]\nuser_name = \"bob\"\nmodel_pattern = \"*\"\n"
    ));
    let gateway = Gateway::start(&config.text());
    let other = make_key(&gateway, "bob", json!({ "in_flight": 5 }));
    let free = make_key(&gateway, "bob", json!({}));
    // All at once, from as many threads.
    let open_all = |key: &str, count: usize| {
        let all: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..count).map(|_| scope.spawn(|| open_stream(&gateway, key))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        let (open, refused): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(_, status): &(Client, u16)| *status == 200);
        assert!(refused.iter().all(|(_, status)| *status == 429));
        open
    };
    let mut open = open_all(OF_FILE, 12);
    assert_eq!(open.len(), 3);
    let (others, frees) = (open_all(&other.1, 12), open_all(&free.1, 8));
    assert_eq!((others.len(), frees.len()), (5, 8));
    let refused = chat(&gateway, OF_FILE, "openai-main/gpt-4.1-mini");
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    let said = "rate_limited: the API key `nightly` allows in_flight = 3;";
    assert!(refused.error_message().starts_with(said), "{}", refused.text());
    let shown = admin(&gateway, "GET", "user_keys?user_name=bob", Value::Null, 200);
    let of = |label: &str| {
        let mut keys = shown["items"].as_array().expect("keys").iter();
        keys.find(|key| key["label"] == label).expect("it is listed").clone()
    };
    let nightly = of("nightly");
    assert_eq!((&nightly["in_flight"], &nightly["in_flight_now"]), (&json!(3), &json!(3)));
    // However one ends, its place is free.
    open.pop().expect("one of three").0.reset();
    wait_for("a place", || (open_stream(&gateway, OF_FILE).1 == 200).then_some(()));
    // A change counts for the next request.
    let path = format!("user_keys/{}", other.0);
    admin(&gateway, "PATCH", &path, json!({ "in_flight": 0 }), 200);
    assert_eq!(chat(&gateway, &other.1, "openai-main/gpt-4.1-mini").status, 429);
    admin(&gateway, "PATCH", &path, json!({ "in_flight": null }), 200);
    assert_eq!(open_stream(&gateway, &other.1).1, 200);
    drop((others, frees, open));
}

#[test]
fn it_is_known_when_a_key_was_last_used_through_a_reload_and_a_restart() {
    let upstream = Upstream::answering(|conn, _| {
        conn.whole(200, "{}");
    });
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("keys-restart");
    let _ = std::fs::remove_dir_all(&folder);
    let config = Config::to(&upstream).text().replace("DATA_DIR", &folder.display().to_string());
    let now_ms = || {
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("it is later than 1970");
        since.as_millis() as i64
    };
    let used = |gateway: &Gateway, id: &str| {
        admin(gateway, "GET", &format!("user_keys/{id}"), Value::Null, 200)["last_used_at"].as_i64()
    };
    let gateway = Gateway::start(&config);
    let (id, key) = make_key(&gateway, "alice", json!({}));
    let (idle, _) = make_key(&gateway, "alice", json!({}));
    assert_eq!(used(&gateway, &id), None);
    let before_ms = now_ms();
    assert_eq!(chat(&gateway, &key, "openai-main/gpt-4.1-mini").status, 200);
    let at_ms = used(&gateway, &id).expect("it was used");
    // Kept to the second.
    assert!((before_ms - 5_000..=now_ms()).contains(&at_ms), "{at_ms} is not near {before_ms}");
    let own = call(&gateway, &key, "GET", "/user/api/keys", &Value::Null).json();
    let own = own["items"].as_array().expect("keys").iter().find(|one| one["id"] == id.as_str());
    assert!(own.expect("it is listed")["last_used_at"].as_i64() >= Some(at_ms));
    admin(&gateway, "POST", "reload", Value::Null, 200);
    let at_ms = used(&gateway, &id).expect("a reload forgets nothing");
    assert!(gateway.stop().success());
    let gateway = Gateway::start(&config);
    assert_eq!((used(&gateway, &id), used(&gateway, &idle)), (Some(at_ms), None));
    // The one that asks is the file's.
    let file = admin(&gateway, "GET", "user_keys?user_name=admin", Value::Null, 200);
    assert!(file["items"][0]["last_used_at"].as_i64() > Some(at_ms), "{file}");
}
