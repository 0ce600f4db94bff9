//! What is left of a stream that broke off: its last bytes with their times, for administrators.

use crate::support::client::chat;
use crate::support::{ADMIN_KEY, Config, Gateway, UPSTREAM_KEY, Upstream, request};
use serde_json::Value;

const MODEL: &str = "openai-main/m";

fn get(gateway: &Gateway, path: &str) -> (u16, Value) {
    let key = format!("Bearer {ADMIN_KEY}");
    let reply = gateway.connect().ask(&request("GET", path, &[("authorization", &key)], b""));
    (reply.status, reply.json())
}

/// Two events and the half of a third; then the connection goes.
fn breaking() -> Upstream {
    Upstream::answering(|conn, _| {
        conn.stream_head();
        conn.piece("data: {\"object\":\"chat.completion.chunk\",\"content\":\"a secret\"}\n\n");
        conn.piece(format!("data: {{\"code\":\"{UPSTREAM_KEY}\"}}\n\ndata: {{\"content\":\"ano"));
        conn.cut();
    })
}

#[test]
fn the_last_bytes_of_a_stream_that_breaks_off_are_shown_without_what_was_said() {
    let upstream = breaking();
    let gateway = Gateway::start(&Config::to(&upstream).workers(1).text());
    assert_eq!(get(&gateway, "/admin/api/recordings").1["items"], Value::Array(Vec::new()));
    let reply = gateway.connect().ask(&chat(MODEL, true));
    assert_eq!((reply.status, reply.complete), (200, false));
    let id = reply.header("x-gproxy-request-id").expect("every answer has one");

    let (status, list) = get(&gateway, "/admin/api/recordings");
    assert_eq!((status, list["items"].as_array().map(Vec::len)), (200, Some(1)));
    let told = &list["items"][0];
    assert_eq!((&told["request_id"], &told["model"]), (&Value::from(id), &Value::from("m")));
    assert_eq!(told["why"], "the upstream broke off within its answer");
    assert_eq!((&told["user_name"], &told["truncated"]), (&"admin".into(), &false.into()));

    let (status, one) = get(&gateway, &format!("/admin/api/recordings/{id}"));
    assert_eq!(status, 200);
    let pieces = one["pieces"].as_array().expect("a list");
    let text: String = pieces.iter().filter_map(|piece| piece["text"].as_str()).collect();
    let hidden = UPSTREAM_KEY.len();
    let expected = format!(
        "data: {{\"object\":\"chat.completion.chunk\",\"content\":<10 bytes>}}\n\n\
         data: {{\"code\":\"<{hidden} bytes>\"}}\n\ndata: {{\"content\":<4 bytes>"
    );
    assert_eq!(text, expected);
    assert_eq!(get(&gateway, "/admin/api/recordings/0123").0, 404);
}

#[test]
fn a_stream_that_ends_well_leaves_nothing_nor_does_one_that_is_not_to_be_remembered() {
    let vendor = Upstream::vendor();
    let gateway = Gateway::start(&Config::to(&vendor).workers(1).text());
    assert!(gateway.connect().ask(&chat(MODEL, true)).complete);
    assert_eq!(get(&gateway, "/admin/api/recordings").1["items"], Value::Array(Vec::new()));

    let upstream = breaking();
    let config = Config::to(&upstream).workers(1).limit("recorder_bytes = 0");
    let gateway = Gateway::start(&config.text());
    assert!(!gateway.connect().ask(&chat(MODEL, true)).complete);
    assert_eq!(get(&gateway, "/admin/api/recordings").1["items"], Value::Array(Vec::new()));
}
