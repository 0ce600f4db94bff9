//! Sessions of browsers: what opened one has to stand for as long as it lasts, and nobody ends
//! another's.

use crate::support::admin::{admin, call};
use crate::support::{ADMIN_KEY, ALICE_KEY, Config, Gateway, Reply, request};
use serde_json::{Value, json};

const HOME: &str = "198.51.100.7";
const ELSEWHERE: &str = "203.0.113.9";

/// A session: its cookie, and the word for its writes.
struct Session {
    cookie: String,
    word: String,
}

fn log_in(gateway: &Gateway, from: &str, body: &Value) -> Session {
    let headers = [("content-type", "application/json"), ("x-forwarded-for", from)];
    let body = body.to_string();
    let ask = request("POST", "/user/api/session", &headers, body.as_bytes());
    let reply = gateway.connect().ask(&ask);
    assert_eq!(reply.status, 201, "{}", reply.text());
    let cookie = reply.header("set-cookie").expect("a cookie").split(';').next().expect("a pair");
    let word = reply.json()["csrf"].as_str().expect("a word").to_owned();
    Session { cookie: cookie.to_owned(), word }
}

fn by_key(gateway: &Gateway, key: &Value) -> Session {
    log_in(gateway, HOME, &json!({ "api_key": key["api_key"] }))
}

fn by_password(gateway: &Gateway, name: &str, password: &str) -> Session {
    log_in(gateway, HOME, &json!({ "user_name": name, "password": password }))
}

impl Session {
    fn ask(&self, gateway: &Gateway, from: &str, method: &str, path: &str, body: Value) -> Reply {
        let headers = [
            ("cookie", self.cookie.as_str()),
            ("x-gproxy-csrf", self.word.as_str()),
            ("content-type", "application/json"),
            ("x-forwarded-for", from),
        ];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        gateway.connect().ask(&request(method, path, &headers, body.as_bytes()))
    }

    fn status(&self, gateway: &Gateway, from: &str) -> u16 {
        self.ask(gateway, from, "GET", "/user/api/session", Value::Null).status
    }
}

fn config() -> Config {
    Config::to_url("http://127.0.0.1:9").global("trusted_proxies = [\"127.0.0.1\"]")
}

/// A key of a user with these fields beside.
fn make_key(gateway: &Gateway, user: &str, mut more: Value) -> Value {
    more["user_name"] = user.into();
    admin(gateway, "POST", "user_keys", more, 201)
}

fn path_of(key: &Value) -> String {
    format!("user_keys/{}", key["id"].as_str().expect("an id"))
}

#[test]
fn a_session_ends_with_the_key_that_opened_it_and_counts_where_and_while_that_does() {
    let gateway = Gateway::start(&config().text());
    admin(&gateway, "POST", "users", json!({ "name": "bob" }), 201);
    let key = make_key(&gateway, "bob", json!({}));
    let session = by_key(&gateway, &key);
    assert_eq!(session.status(&gateway, HOME), 200);
    admin(&gateway, "PATCH", &path_of(&key), json!({ "enabled": false }), 200);
    assert_eq!(session.status(&gateway, HOME), 401, "its key is disabled");
    let minted = session.ask(&gateway, HOME, "POST", "/user/api/keys", json!({}));
    assert_eq!(minted.status, 401, "{}", minted.text());

    let key = make_key(&gateway, "bob", json!({}));
    let (session, other) = (by_key(&gateway, &key), make_key(&gateway, "bob", json!({})));
    let other = by_key(&gateway, &other);
    admin(&gateway, "DELETE", &path_of(&key), Value::Null, 204);
    assert_eq!(session.status(&gateway, HOME), 401, "its key is gone");
    assert_eq!(other.status(&gateway, HOME), 200, "another key's is another's");

    let terms = json!({ "networks": [HOME], "expires_at": "2999-01-01T00:00:00Z" });
    let key = make_key(&gateway, "bob", terms);
    let session = by_key(&gateway, &key);
    assert_eq!(session.status(&gateway, HOME), 200);
    assert_eq!(session.status(&gateway, ELSEWHERE), 401, "a key of one network");
    let over = json!({ "expires_at": "2020-01-01T00:00:00Z" });
    admin(&gateway, "PATCH", &path_of(&key), over, 200);
    assert_eq!(session.status(&gateway, HOME), 401, "its time is over");
}

/// A key of the proxy's own network lets nobody in of whom the proxy tells no address.
#[test]
fn a_key_opens_no_session_for_a_caller_from_nowhere() {
    let gateway = Gateway::start(&config().text());
    admin(&gateway, "POST", "users", json!({ "name": "bob" }), 201);
    let near = make_key(&gateway, "bob", json!({ "networks": ["127.0.0.0/8"] }));
    let free = make_key(&gateway, "bob", json!({}));
    for (key, from, status) in
        [(&near, "unknown", 401), (&near, "127.0.0.1", 201), (&free, "unknown", 201)]
    {
        let headers = [("content-type", "application/json"), ("x-forwarded-for", from)];
        let body = json!({ "api_key": key["api_key"] }).to_string();
        let ask = request("POST", "/user/api/session", &headers, body.as_bytes());
        let reply = gateway.connect().ask(&ask);
        assert_eq!(reply.status, status, "from {from}: {}", reply.text());
    }
}

#[test]
fn a_session_ends_when_the_file_says_another_password_or_none() {
    let users = |password: &str| {
        let more = "[[users]]\nname = \"carol\"\npassword = \"hers for ever\"\n";
        config().tail(&format!("{more}[[users]]\nname = \"bob\"\n{password}\n")).text()
    };
    let gateway = Gateway::start(&users("password = \"the first one\""));
    let carol = by_password(&gateway, "carol", "hers for ever");
    let mut password = "the first one";
    for (next, line) in [
        ("the second one", "password = \"the second one\""),
        ("the first one", "password = \"the first one\""),
        ("", ""),
    ] {
        let bob = by_password(&gateway, "bob", password);
        assert_eq!(bob.status(&gateway, HOME), 200);
        admin(&gateway, "POST", "reload", Value::Null, 200);
        assert_eq!(bob.status(&gateway, HOME), 200, "the password is what it was");
        gateway.rewrite_config(&users(line));
        admin(&gateway, "POST", "reload", Value::Null, 200);
        assert_eq!(bob.status(&gateway, HOME), 401, "another one: {line}");
        password = next;
    }
    assert_eq!(carol.status(&gateway, HOME), 200);
}

/// A call of `/user/api/keys` with a key.
fn own(gateway: &Gateway, key: &str, method: &str, path: &str, body: Value) -> Reply {
    call(gateway, key, method, &format!("/user/api/keys{path}"), &body)
}

#[track_caller]
fn check(reply: &Reply, status: u16, says: &str) {
    assert_eq!(reply.status, status, "{}", reply.text());
    assert!(reply.text().contains(says), "{}", reply.text());
}

#[test]
fn a_user_names_disables_and_limits_his_keys_and_loosens_none() {
    let gateway = Gateway::start(&config().text());
    admin(&gateway, "POST", "users", json!({ "name": "bob" }), 201);
    let free = make_key(&gateway, "bob", json!({}))["api_key"].clone();
    let free = free.as_str().expect("a key");
    let made = own(&gateway, free, "POST", "", json!({}));
    check(&made, 201, "api_key");
    let made = made.json();
    let path = format!("/{}", made["id"].as_str().expect("an id"));
    let only = "only an administrator enables a key again or loosens its limits";
    for (body, status) in [
        (json!({ "label": "mine", "enabled": true }), 200),
        (json!({ "label": null, "expires_at": null, "networks": [], "in_flight": null }), 200),
        (json!({ "expires_at": "2999-01-01T00:00:00Z" }), 200),
        (json!({ "expires_at": "2999-01-01T00:00:01Z" }), 403),
        (json!({ "expires_at": "2998-01-01 23:00:00Z" }), 400),
        (json!({ "expires_at": null }), 403),
        (json!({ "expires_at": "2998-01-01T00:00:00Z", "label": "sooner" }), 200),
        (json!({ "networks": ["10.0.0.0/8", "127.0.0.0/8"] }), 200),
        (json!({ "networks": ["0.0.0.0/0"] }), 403),
        (json!({ "networks": [] }), 403),
        (json!({ "networks": null }), 403),
        (json!({ "networks": ["127.0.0.0/8"] }), 200),
        (json!({ "in_flight": 5 }), 200),
        (json!({ "in_flight": 6 }), 403),
        (json!({ "in_flight": null }), 403),
        (json!({ "in_flight": 4 }), 200),
        (json!({ "enabled": false }), 200),
        (json!({ "enabled": true }), 403),
        (json!({ "enabled": null }), 403),
        (json!({ "label": "off", "enabled": false }), 200),
    ] {
        let reply = own(&gateway, free, "PATCH", &path, body);
        check(&reply, status, if status == 403 { only } else { "" });
    }
    admin(&gateway, "PATCH", &path_of(&made), json!({ "enabled": null, "networks": null }), 200);
    check(&own(&gateway, free, "DELETE", &path, Value::Null), 204, "");
}

#[test]
fn a_limited_key_and_its_session_make_and_change_no_key() {
    let gateway = Gateway::start(&config().text());
    admin(&gateway, "POST", "users", json!({ "name": "bob" }), 201);
    let other = make_key(&gateway, "bob", json!({}));
    let path = format!("/{}", other["id"].as_str().expect("an id"));
    let why = "a key with expires_at, networks or in_flight makes, changes and deletes no keys";
    for terms in [
        json!({ "expires_at": "2999-01-01T00:00:00Z" }),
        json!({ "networks": ["127.0.0.0/8", HOME] }),
        json!({ "in_flight": 3 }),
    ] {
        let key = make_key(&gateway, "bob", terms);
        let session = by_key(&gateway, &key);
        let key = key["api_key"].as_str().expect("a key");
        check(&own(&gateway, key, "GET", "", Value::Null), 200, "items");
        for (method, path, body) in [
            ("POST", "", json!({})),
            ("PATCH", path.as_str(), json!({ "label": "mine" })),
            ("DELETE", path.as_str(), Value::Null),
        ] {
            check(&own(&gateway, key, method, path, body.clone()), 403, why);
            let path = format!("/user/api/keys{path}");
            check(&session.ask(&gateway, HOME, method, &path, body), 403, why);
        }
    }
}

#[test]
fn nobody_ends_anothers_sessions_and_keys_of_ones_own_have_an_end() {
    let gateway = Gateway::start(&config().text());
    let user = json!({ "name": "bob" });
    admin(&gateway, "POST", "users", user, 201);
    let root = log_in(&gateway, HOME, &json!({ "api_key": ADMIN_KEY }));
    let key = make_key(&gateway, "bob", json!({}));
    let first = by_key(&gateway, &key);
    let second = by_key(&gateway, &key);
    for _ in 1..16 {
        by_key(&gateway, &key);
    }
    assert_eq!(first.status(&gateway, HOME), 401, "his oldest makes room");
    assert_eq!(second.status(&gateway, HOME), 200);
    assert_eq!(root.status(&gateway, HOME), 200);

    let key = key["api_key"].as_str().expect("a key");
    for _ in 1..64 {
        check(&own(&gateway, key, "POST", "", json!({})), 201, "");
    }
    let why = "you have 64 keys: delete one first, or ask an administrator";
    check(&own(&gateway, key, "POST", "", json!({})), 409, why);
    let more = make_key(&gateway, "bob", json!({}));
    check(&own(&gateway, ALICE_KEY, "POST", "", json!({})), 201, "");
    for key in [&more, &make_key(&gateway, "bob", json!({}))] {
        admin(&gateway, "DELETE", &path_of(key), Value::Null, 204);
    }
}
