//! The console's files, as the running program serves them: to anybody, whole or packed, under a
//! policy that lets a browser load nothing else.

use std::io::Write;

use crate::support::{ADMIN_KEY, ALICE_KEY, Config, Gateway, Reply, request};
use serde_json::{Value, json};

fn get(gateway: &Gateway, path: &str, headers: &[(&str, &str)]) -> Reply {
    gateway.connect().ask(&request("GET", path, headers, b""))
}

#[test]
fn the_console_is_served_without_a_key_and_lets_a_browser_load_nothing_else() {
    let gateway = Gateway::start(&Config::to_url("http://127.0.0.1:9").text());
    for path in ["/console", "/console/", "/console?x"] {
        let page = get(&gateway, path, &[]);
        assert_eq!(
            (page.status, page.header("content-type")),
            (200, Some("text/html; charset=utf-8"))
        );
        assert!(page.text().starts_with("<!doctype html>"));
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
        let policy = page.header("content-security-policy").expect("a policy");
        for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"] {
            assert!(policy.contains(part), "{policy}");
        }
        assert!(!policy.contains("unsafe"));
    }
    let script = get(&gateway, "/console/main.js", &[]);
    assert_eq!(script.header("content-type"), Some("text/javascript; charset=utf-8"));
    assert_eq!(get(&gateway, "/console/other.js", &[]).status, 404);
    let wrong = gateway.connect().ask(&request("POST", "/console", &[], b""));
    assert_eq!(wrong.status, 405);
}

#[test]
fn a_file_goes_packed_to_who_takes_that_and_not_again_to_who_has_it() {
    let gateway = Gateway::start(&Config::to_url("http://127.0.0.1:9").text());
    let plain = get(&gateway, "/console/style.css", &[]);
    let packed = get(&gateway, "/console/style.css", &[("accept-encoding", "gzip, br")]);
    assert_eq!(packed.header("content-encoding"), Some("gzip"));
    assert!(packed.body.len() < plain.body.len());
    let mut unpacked = Vec::new();
    let mut decoder = flate2::write::GzDecoder::new(&mut unpacked);
    decoder.write_all(&packed.body).expect("it is gzip");
    decoder.finish().expect("it is whole");
    assert_eq!(unpacked, plain.body);

    let tag = plain.header("etag").expect("a tag").to_owned();
    let mut client = gateway.connect();
    for _ in 0..2 {
        let headers = [("if-none-match", tag.as_str())];
        let known = client.ask(&request("GET", "/console/style.css", &headers, b""));
        assert_eq!((known.status, known.body.len()), (304, 0));
    }
}

fn refusals(gateway: &Gateway, key: &str, path: &str) -> Vec<Value> {
    let key = format!("Bearer {key}");
    let reply = get(gateway, path, &[("authorization", &key)]);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["items"].as_array().expect("a list").clone()
}

#[test]
fn a_refused_call_is_found_with_its_reason_by_its_user_and_by_administrators_only() {
    let gateway = Gateway::start(&Config::to_url("http://127.0.0.1:9").text());
    let key = format!("Bearer {ALICE_KEY}");
    let headers = [("authorization", key.as_str()), ("content-type", "application/json")];
    let model = "<img src=x onerror=alert(1)>";
    let body = json!({ "model": model, "messages": [] }).to_string();
    let call = request("POST", "/v1/chat/completions", &headers, body.as_bytes());
    let told = gateway.connect().ask(&call);
    assert_eq!(told.status, 400);

    for (key, path) in [(ALICE_KEY, "/user/api/refusals"), (ADMIN_KEY, "/admin/api/refusals")] {
        let found = refusals(&gateway, key, path);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0]["user"], "alice");
        assert_eq!(found[0]["model"], model);
        assert_eq!(found[0]["message"], told.error_message());
        let id = found[0]["request_id"].as_str().expect("an id");
        assert_eq!(told.header("x-request-id"), Some(id));
        assert_eq!(refusals(&gateway, key, &format!("{path}?request_id={id}")).len(), 1);
        assert_eq!(refusals(&gateway, key, &format!("{path}?request_id=0")).len(), 0);
    }
    assert_eq!(refusals(&gateway, ADMIN_KEY, "/user/api/refusals").len(), 0);
    assert_eq!(refusals(&gateway, ADMIN_KEY, "/admin/api/refusals?user_name=bob").len(), 0);
}
