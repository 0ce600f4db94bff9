//! Calls of the administration interface.

use serde_json::Value;

use super::{ADMIN_KEY, Client, Gateway, Reply, request};

/// A call of the interface with a key, on a connection of its own.
pub fn call(gateway: &Gateway, key: &str, method: &str, path: &str, body: &Value) -> Reply {
    on(&mut gateway.connect(), key, method, path, body)
}

/// The same on a connection that is there.
pub fn on(client: &mut Client, key: &str, method: &str, path: &str, body: &Value) -> Reply {
    let key = format!("Bearer {key}");
    let mut headers = vec![("authorization", key.as_str())];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    if !body.is_empty() {
        headers.push(("content-type", "application/json"));
    }
    client.ask(&request(method, path, &headers, body.as_bytes()))
}

/// The same as an administrator, whose call must succeed with this status.
#[track_caller]
pub fn admin(gateway: &Gateway, method: &str, path: &str, body: Value, status: u16) -> Value {
    let reply = call(gateway, ADMIN_KEY, method, &format!("/admin/api/{path}"), &body);
    assert_eq!(reply.status, status, "{method} {path}: {}", reply.text());
    if status == 204 { Value::Null } else { reply.json() }
}
