//! Providers made through the interface stay out of the gateway's own network: what is fenced off
//! cannot be written, and what was written, or resolves so, is not connected.

use crate::support::admin::{admin, call};
use crate::support::{ADMIN_KEY, Config, Gateway, Reply, Upstream};
use rustix::process::Signal;
use serde_json::{Value, json};

const REPLY: &str = r#"{"model":"m","choices":[]}"#;

fn upstream() -> Upstream {
    Upstream::answering(|conn, _| {
        conn.whole(200, REPLY);
    })
}

/// The file's own providers are on loopback.
fn config(upstream: &Upstream, allows: bool) -> Config {
    let config = Config::to(upstream).workers(1);
    if allows { config.global("allow_private_upstreams = true") } else { config }
}

fn provider(name: &str, settings: Value) -> Value {
    let mut settings = settings;
    if settings.get("base_url").is_none() {
        settings["base_url"] = json!("https://api.example");
    }
    json!({
        "name": name, "channel": "custom", "settings": settings,
        "credentials": [{ "api_key": "upstream-key-a" }, { "api_key": "upstream-key-b" }]
    })
}

fn chat(gateway: &Gateway, model: &str) -> Reply {
    let body = json!({ "model": model, "max_tokens": 5, "messages": [] });
    call(gateway, ADMIN_KEY, "POST", "/v1/chat/completions", &body)
}

/// What the interface says to a provider: nothing, or the code and the field.
fn made(gateway: &Gateway, method: &str, path: &str, body: &Value) -> Option<(String, String)> {
    let reply = call(gateway, ADMIN_KEY, method, &format!("/admin/api/{path}"), body);
    let error = reply.json()["error"].clone();
    assert_eq!(error.is_null(), matches!(reply.status, 200 | 201), "{body}: {}", reply.text());
    if error.is_null() {
        return None;
    }
    assert_eq!(reply.status, 409, "{body}: {}", reply.text());
    Some((error["code"].to_string(), error["field"].to_string()))
}

#[test]
fn an_address_that_is_written_out_is_refused_where_it_is_written() {
    let upstream = upstream();
    let (own, cloud) = ("127.0.0.1", "169.254.169.254");
    let private = [own, "10.1.2.3", "[::1]", "[::ffff:192.168.0.1]", "localhost", "0.0.0.0"];
    let never = [cloud, "[fe80::1]", "[::ffff:169.254.1.1]", "metadata.google.internal"];
    for allows in [false, true] {
        let gateway = Gateway::start(&config(&upstream, allows).text());
        let fenced = |field: &str| Some(("\"fenced\"".to_owned(), format!("\"settings.{field}\"")));
        for (index, host) in private.iter().chain(&never).enumerate() {
            let expected = |field| {
                let stops = !allows || never.contains(host);
                if stops { fenced(field) } else { None }
            };
            let name = format!("base{index}");
            let body = provider(&name, json!({ "base_url": format!("http://{host}:8000/v1") }));
            assert_eq!(made(&gateway, "POST", "providers", &body), expected("base_url"), "{host}");
            let name = format!("proxy{index}");
            let body = provider(&name, json!({ "proxy": format!("http://{host}:3128") }));
            assert_eq!(made(&gateway, "POST", "providers", &body), expected("proxy"), "{host}");
        }
        // Who looks for the setting finds it, and that only the file can change it.
        let settings = admin(&gateway, "GET", "settings", Value::Null, 200);
        let items = settings["items"].as_array().expect("a list");
        let own = items.iter().find(|item| item["name"] == "global.allow_private_upstreams");
        let own = own.expect("it is listed");
        assert_eq!((&own["value"], &own["writable"]), (&json!(allows), &json!(false)));
        let change = json!({ "allow_private_upstreams": true });
        let reply = call(&gateway, ADMIN_KEY, "PATCH", "/admin/api/settings", &change);
        assert_eq!(reply.status, 400, "{}", reply.text());
        // Neither by a change, nor by enabling what stood there disabled.
        let mut body = provider("later", json!({}));
        assert_eq!(made(&gateway, "POST", "providers", &body), None);
        let bad = json!({ "settings": { "base_url": format!("http://{cloud}/latest") } });
        assert_eq!(made(&gateway, "PATCH", "providers/later", &bad), fenced("base_url"));
        body = provider("off", json!({ "base_url": format!("http://{cloud}") }));
        body["enabled"] = json!(false);
        assert_eq!(made(&gateway, "POST", "providers", &body), None);
        let on = json!({ "enabled": true });
        assert_eq!(made(&gateway, "PATCH", "providers/off", &on), fenced("base_url"));
    }
    assert_eq!(upstream.accepted(), 0);
}

#[test]
fn what_was_written_before_is_not_connected_once_the_file_says_so() {
    let upstream = upstream();
    let gateway = Gateway::start(&config(&upstream, true).text());
    let base = format!("http://127.0.0.1:{}", upstream.port);
    admin(&gateway, "POST", "providers", provider("made", json!({ "base_url": base })), 201);
    assert_eq!(chat(&gateway, "made/m").status, 200);
    assert_eq!(chat(&gateway, "openai-main/m").status, 200);
    // Both leave a connection behind that is kept, to the same place.
    let accepted = upstream.accepted();
    assert_eq!(accepted, 2, "those within a fence are not shared with those without");

    gateway.rewrite_config(&config(&upstream, false).text());
    gateway.signal(Signal::HUP);
    gateway.wait_for_line("made: settings.base_url: is not called");
    let count = upstream.count();
    for dialect in ["/v1/chat/completions", "/made/v1/messages", "/v1/messages"] {
        let body = json!({ "model": "made/m", "max_tokens": 5, "messages": [] });
        let reply = call(&gateway, ADMIN_KEY, "POST", dialect, &body);
        assert_eq!(reply.status, 502, "{}", reply.text());
        assert!(reply.error_message().starts_with("upstream fenced"), "{}", reply.text());
        assert_eq!(reply.header("x-gproxy-source"), Some("gateway"));
        assert_eq!(reply.header("x-should-retry"), Some("false"));
    }
    assert_eq!((upstream.count(), upstream.accepted()), (count, accepted));
    // One line for all of them, and none of their credentials is blamed or asked in vain.
    let told = gateway.wait_for_line("gproxy::fence");
    assert!(told.contains("allow_private_upstreams = true"), "{told}");
    assert_eq!(gateway.gauge("gproxy_calls_fenced_total"), 3.0);
    assert_eq!(gateway.gauge("gproxy_attempts_total"), 2.0 + 3.0);
    let lines = gateway.stderr();
    assert_eq!(lines.iter().filter(|line| line.contains("gproxy::fence")).count(), 1);
    let health = admin(&gateway, "GET", "health", Value::Null, 200).to_string();
    assert!(!health.contains("resting") && !health.contains("disabled"), "{health}");
    // The file's own are where they were.
    assert_eq!(chat(&gateway, "openai-main/m").status, 200);
}

/// A name of the system's files that leads to this machine, and is not known for it.
fn own_name() -> Option<String> {
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or_default());
    let names = lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        let address: std::net::IpAddr = words.next()?.parse().ok()?;
        address.is_loopback().then(|| words.map(str::to_owned).collect::<Vec<_>>())
    });
    names.flatten().find(|name| !name.contains("localhost"))
}

#[test]
fn a_name_that_leads_to_this_machine_is_not_connected() {
    let upstream = upstream();
    let gateway = Gateway::start(&config(&upstream, false).text());
    let Some(name) = own_name() else {
        eprintln!("no such name in the system's files; what an address does is tested elsewhere");
        return;
    };
    let base = format!("http://{name}:{}", upstream.port);
    let body = provider("named", json!({ "base_url": base, "passthrough": true }));
    assert_eq!(made(&gateway, "POST", "providers", &body), None, "it is not known before");
    let reply = chat(&gateway, "named/m");
    assert_eq!(reply.status, 502, "{}", reply.text());
    assert!(reply.error_message().starts_with("upstream fenced"), "{}", reply.text());
    // Nor by other ways: a test, a list, a proxy.
    let tested = admin(&gateway, "POST", "providers/named/test", json!({}), 200);
    assert!(tested.to_string().contains("Fenced"), "{tested}");
    let reply = call(&gateway, ADMIN_KEY, "POST", "/admin/api/providers/named/pull", &Value::Null);
    assert!(reply.text().contains("Fenced"), "{}", reply.text());
    let proxy = format!("http://{name}:{}", upstream.port);
    let body = provider("through", json!({ "base_url": "http://api.example", "proxy": proxy }));
    assert_eq!(made(&gateway, "POST", "providers", &body), None);
    let reply = chat(&gateway, "through/m");
    assert!(reply.error_message().starts_with("upstream fenced"), "{}", reply.text());
    assert_eq!(upstream.accepted(), 0);
    assert!(gateway.gauge("gproxy_calls_fenced_total") >= 4.0);
}

/// A redirect is the caller's to follow: the gateway goes nowhere that its upstream names.
#[test]
fn a_redirect_into_the_network_is_passed_and_not_followed() {
    let inside = upstream();
    let location = format!("location: http://127.0.0.1:{}/\r\n", inside.port);
    let outside = Upstream::answering(move |conn, _| {
        conn.whole_with(307, &location, "");
    });
    let gateway = Gateway::start(&config(&outside, false).text());
    assert_eq!(chat(&gateway, "openai-main/m").status, 307);
    assert_eq!(inside.accepted(), 0);
}
