//! Sessions of browsers: what opened one has to stand for as long as it lasts, and nobody ends
//! another's.

mod support;

use serde_json::{Value, json};
use support::admin::{admin, call};
use support::{Config, Gateway, Reply, request};

const PASSWORD: &str = "correct horse battery";
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
