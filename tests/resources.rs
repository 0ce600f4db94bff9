//! Calls that name no model: who serves them, who may make them, and bodies that pass without being
//! held.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::support;
use crate::support::config::{ALICE_KEY, UPSTREAM_KEY};
use crate::support::{ADMIN_KEY, Config, Gateway, Reply, Upstream, request};

/// The administrator has all that was made earlier.
pub(crate) const FILES: &str = "\
    [[file_permissions]]\nuser_name = \"admin\"\nprovider_name = \"openai-main\"\n\
    [[file_permissions]]\nuser_name = \"admin\"\nprovider_name = \"router\"\n\
    [[file_permissions]]\nuser_name = \"admin\"\nprovider_name = \"vertex-main\"\n";

/// An upstream that says what it was asked for.
pub(crate) fn telling() -> Upstream {
    Upstream::answering(|conn, seen| {
        let body = format!(
            "{{\"method\":\"{}\",\"target\":\"{}\",\"bytes\":{}}}",
            seen.method,
            seen.target,
            seen.body.len()
        );
        conn.whole_with(200, "content-type: application/json\r\nx-request-id: up-1\r\n", body);
    })
}

pub(crate) fn start(upstream: &Upstream, tail: &str) -> Gateway {
    Gateway::start(&Config::to(upstream).tail(FILES).tail(tail).text())
}

pub(crate) fn ask(
    gateway: &Gateway,
    method: &str,
    target: &str,
    more: &[(&str, &str)],
    body: &[u8],
) -> Reply {
    let bearer = format!("Bearer {ADMIN_KEY}");
    let mut fields = vec![("authorization", bearer.as_str())];
    fields.extend(more);
    gateway.connect().ask(&request(method, target, &fields, body))
}

#[test]
fn calls_without_a_model_reach_the_provider_of_their_scope_as_they_are() {
    let upstream = telling();
    let gateway = start(&upstream, "");
    let rows = [
        ("GET", "/openai-main/v1/files?limit=2", "/v1/files?limit=2"),
        ("GET", "/openai-main/files/file-1/content", "/v1/files/file-1/content"),
        ("DELETE", "/openai-main/v1/files/file-1", "/v1/files/file-1"),
        (
            "GET",
            "/openai-main/v1/responses/resp_1?include%5B%5D=a",
            "/v1/responses/resp_1?include%5B%5D=a",
        ),
        ("GET", "/openai-main/v1//batches/", "/v1/batches"),
        (
            "GET",
            "/openai-main/v1/chat/completions/c-1/messages",
            "/v1/chat/completions/c-1/messages",
        ),
        (
            "GET",
            "/openai-main/v1/vector_stores/vs_1/files/f%20x",
            "/v1/vector_stores/vs_1/files/f%20x",
        ),
        (
            "GET",
            "/anthropic-main/v1/messages/batches/b_1/results",
            "/v1/messages/batches/b_1/results",
        ),
        ("GET", "/vertex-main/v1beta/files/abc", "/v1beta/files/abc"),
        ("GET", "/vertex-main/v1beta/cachedContents", "/v1beta/cachedContents"),
        ("GET", "/vertex-main/v1beta/models/veo/operations/o", "/v1beta/models/veo/operations/o"),
        ("POST", "/vertex-main/v1beta/batches/b:cancel", "/v1beta/batches/b:cancel"),
        ("POST", "/vertex-main/v1alpha/auth_tokens", "/v1alpha/auth_tokens"),
        ("GET", "/openai-main/v1/evals/e/runs/r/output_items", "/v1/evals/e/runs/r/output_items"),
        ("PATCH", "/openai-main/v1/containers", "/v1/containers"),
        ("DELETE", "/openai-main/v1/models/ft:gpt:o::1", "/v1/models/ft:gpt:o::1"),
    ];
    for (method, target, expected) in rows {
        let reply = ask(&gateway, method, target, &[], b"");
        assert_eq!(reply.status, 200, "{target}: {}", reply.text());
        assert_eq!(reply.json()["method"], method, "{target}");
        assert_eq!(reply.json()["target"], expected, "{target}");
        assert_eq!(reply.header("x-request-id"), Some("up-1"));
        let last = upstream.last();
        let has_body = matches!(method, "POST" | "PATCH");
        assert_eq!(last.header("content-length"), has_body.then_some("0"), "{target}");
        let header = |name| last.header(name).unwrap_or_default().to_owned();
        let keys = header("authorization") + &header("x-api-key") + &header("x-goog-api-key");
        assert_eq!(keys.trim_start_matches("Bearer "), UPSTREAM_KEY, "{target}");
    }
    let body = br#"{"input_file_id":"f","endpoint":"/v1/responses","model":"untouched"}"#;
    let reply = ask(&gateway, "POST", "/openai-main/v1/batches", &[], body);
    assert_eq!(reply.status, 200);
    assert_eq!(upstream.last().body, body);
}

#[test]
fn aggregated_calls_take_the_provider_that_is_named_or_the_only_one_that_fits() {
    let upstream = telling();
    let gateway = start(&upstream, "");
    let reply = ask(&gateway, "GET", "/v1/files", &[], b"");
    assert_eq!(reply.status, 400);
    let message = reply.error_message();
    assert!(message.contains("x-gproxy-provider"), "{message}");
    assert!(message.ends_with("these fit: openai-main, router"), "{message}");
    for name in ["x-gproxy-provider", "X-Provider"] {
        let reply = ask(&gateway, "GET", "/v1/files", &[(name, "openai-main")], b"");
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(upstream.last().header(name).is_none());
    }
    let reply = ask(&gateway, "GET", "/v1/files", &[("x-gproxy-provider", "nobody")], b"");
    assert_eq!(reply.status, 400);
    let reply = ask(&gateway, "GET", "/v1/files", &[("x-gproxy-provider", "vertex-main")], b"");
    assert_eq!(reply.status, 400, "it does not speak that dialect");

    // Alice has a permission at one provider only.
    let alice = format!("Bearer {ALICE_KEY}");
    let get = request("GET", "/v1/batches", &[("authorization", &alice)], b"");
    assert_eq!(gateway.connect().ask(&get).status, 200);
}

#[test]
fn what_is_not_permitted_is_refused_in_the_callers_dialect() {
    let upstream = telling();
    let gateway = start(&upstream, "");
    let alice = format!("Bearer {ALICE_KEY}");
    let rows = [
        // No file permission; no permission at the provider; not every model.
        ("GET", "/openai-main/v1/files", "forbidden: files"),
        ("GET", "/router/v1/batches", "forbidden: model"),
        ("GET", "/openai-main/v1/unknown/path", ""),
        ("POST", "/openai-main/v1/moderations", "forbidden: model"),
        // What is made there works with models that the gateway does not see.
        ("POST", "/openai-main/v1/batches", "forbidden: model"),
        ("POST", "/openai-main/v1/realtime/client_secrets", "forbidden: model"),
        ("POST", "/openai-main/v1/threads/t/runs", "forbidden: model"),
        ("DELETE", "/openai-main/v1/models/ft:gpt:o::1", "forbidden: model"),
        ("POST", "/openai-main/v1/models/gpt-x", ""),
    ];
    for (method, target, message) in rows {
        let body: &[u8] = if method == "POST" { b"{\"input\":\"a\"}" } else { b"" };
        let bytes = request(method, target, &[("authorization", &alice)], body);
        let reply = gateway.connect().ask(&bytes);
        let expected = if message.is_empty() { 404 } else { 403 };
        assert_eq!(reply.status, expected, "{target}: {}", reply.text());
        assert!(reply.error_message().starts_with(message), "{target}: {}", reply.text());
    }
    let reply = ask(&gateway, "PUT", "/openai-main/v1/files", &[], b"");
    assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, POST")));
    let reply = ask(&gateway, "GET", "/openai-main/v1/files/a%2Fb", &[], b"");
    assert_eq!(reply.status, 400);
    assert_eq!(upstream.count(), 0);
}

#[test]
fn unknown_paths_pass_where_the_provider_lets_them_and_nowhere_else() {
    let upstream = telling();
    let gateway = Gateway::start(&Config::to(&upstream).setting("passthrough = true").text());
    let rows = [
        ("GET", "/openai-main/v1/gadgets/e%2F1?x=%20", "/v1/gadgets/e%2F1?x=%20"),
        ("PATCH", "/openai-main/v2/things", "/v2/things"),
        ("GET", "/openai-main/organization/costs", "/v1/organization/costs"),
    ];
    for (method, target, expected) in rows {
        let reply = ask(&gateway, method, target, &[], if method == "PATCH" { b"{}" } else { b"" });
        assert_eq!(reply.status, 200, "{target}: {}", reply.text());
        assert_eq!(reply.json()["target"], expected, "{target}");
    }
    assert_eq!(ask(&gateway, "GET", "/v1/gadgets", &[], b"").status, 404, "aggregated");
    assert_eq!(ask(&gateway, "GET", "/openai-main/v1/../x", &[], b"").status, 400);
    let alice = format!("Bearer {ALICE_KEY}");
    let get = request("GET", "/openai-main/v1/gadgets", &[("authorization", &alice)], b"");
    assert_eq!(gateway.connect().ask(&get).status, 403, "not every model is permitted");
}

#[test]
fn an_id_may_hold_what_no_path_may() {
    let upstream = telling();
    let gateway = start(&upstream, "");
    let reply = ask(&gateway, "GET", "/openai-main/v1/files/<`file_id`>", &[], b"");
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(upstream.last().path(), "/v1/files/%3C%60file_id%60%3E");
}

#[test]
fn a_delete_may_have_a_small_body_and_no_other_method_may() {
    let upstream = telling();
    let gateway = Gateway::start(&Config::to(&upstream).workers(1).tail(FILES).text());
    // The first on a new connection, the second on a kept one.
    for _ in 0..2 {
        let reply = ask(&gateway, "DELETE", "/vertex-main/v1beta/files/a", &[], b"{}");
        assert_eq!((reply.status, upstream.last().body.as_slice()), (200, &b"{}"[..]));
    }
    let long = vec![b' '; 1 << 20];
    assert_eq!(ask(&gateway, "DELETE", "/vertex-main/v1beta/files/a", &[], &long).status, 400);
    assert_eq!(ask(&gateway, "GET", "/vertex-main/v1beta/files/a", &[], b"{}").status, 400);
    assert_eq!(upstream.accepted(), 1);
}

#[test]
fn the_results_of_a_batch_are_fetched_here() {
    let upstream = Upstream::answering(|conn, seen| {
        if seen.path().ends_with("/results") {
            let line = |model| format!(r#"{{"custom_id":"a","result":{{"message":{model}}}}}"#);
            let models = [r#"{"model":"claude-a"}"#, r#"{"text":"model","model":"claude-b"}"#];
            let lines = models.map(line).join("\n");
            conn.whole_with(200, "content-type: application/x-jsonl\r\n", lines);
            return;
        }
        let url = "https://api.anthropic.com/v1/messages/batches/b_1/results";
        let batch = format!(r#"{{"id":"b_1","results_url":"{url}"}}"#);
        conn.whole(200, format!(r#"{{"data":[{batch},{{"results_url":null}}],"x":{batch}}}"#));
    });
    let gateway = start(&upstream, "");
    let named = [("x-gproxy-provider", "anthropic-main"), ("anthropic-version", "2023-06-01")];
    let behind = [("x-forwarded-proto", "https"), ("anthropic-version", "2023-06-01")];
    let tail = "/v1/messages/batches/b_1/results";
    let scoped = format!("/anthropic-main{tail}");
    let aggregated = format!("{tail}?x-gproxy-provider=anthropic-main");
    for (target, fields, scheme, results, front) in [
        ("/anthropic-main/v1/messages/batches", &named[1..], "http", &scoped, ""),
        ("/v1/messages/batches", &named[..], "http", &aggregated, "anthropic-main/"),
        ("/anthropic-main/v1/messages/batches/b_1", &behind[..], "https", &scoped, ""),
    ] {
        let reply = ask(&gateway, "GET", target, fields, b"").json();
        let own = format!("{scheme}://gateway.test{results}");
        assert_eq!(reply["data"][0]["results_url"], own, "{target}");
        assert!(reply["data"][1]["results_url"].is_null());
        assert!(reply["x"]["results_url"].as_str().unwrap().starts_with("https://api.anthropic"));

        let reply = ask(&gateway, "GET", results, &named[1..], b"");
        assert_eq!(upstream.last().target, tail, "the parameter is ours");
        let text = reply.text();
        let models: Vec<_> = text.lines().map(|line| line.split(r#""model":"#).last()).collect();
        let name = |model| format!("\"{front}{model}\"}}}}}}");
        assert_eq!(models, [Some(&*name("claude-a")), Some(&*name("claude-b"))], "{text}");
    }
}

/// What a vendor says of things made earlier, and what a caller of every provider is told.
#[test]
fn stored_things_name_a_model_that_the_caller_can_call() {
    let upstream = Upstream::answering(|conn, seen| {
        let told = seen.header("x-tells").unwrap_or_default().to_owned();
        let is_stream = told.starts_with("data: ");
        let kind = if is_stream { "text/event-stream" } else { "application/json" };
        conn.whole_with(200, &format!("content-type: {kind}\r\n"), told.replace("|", "\n"));
    });
    let gateway = start(&upstream, "");
    let one = r#"{"object":"x","metadata":{"model":"m"},"model":"m-1"}"#;
    let listed = r#"{"data":[{"model":"m-1"},{"model":null}],"model":"m"}"#;
    let event = r#"data: {"type":"response.created","response":{"model":"m-1"},"model":"m"}||"#;
    let inlined =
        r#"{"inlinedResponses":{"inlinedResponses":[{"response":{"modelVersion":"<id>"}}]}}"#;
    let batch =
        format!(r#"{{"metadata":{{"model":"<name>","output":{inlined}}},"response":{inlined}}}"#);
    let batches = r#"{"operations":[{"metadata":{"model":"<name>"}}]}"#;
    let caches = r#"{"cachedContents":[{"model":"<name>"}]}"#;
    let cloud = r#"{"model":"projects/p/locations/l/publishers/google/models/m-1"}"#;
    for (method, tail, told) in [
        ("GET", "v1/responses/r", one),
        ("GET", "v1/responses/r?stream=true", event),
        ("POST", "v1/responses/r/cancel", one),
        ("GET", "v1/chat/completions", listed),
        ("GET", "v1/chat/completions/c", one),
        ("POST", "v1/chat/completions/c", one),
        ("GET", "v1/videos", listed),
        ("GET", "v1/videos/v", one),
        ("POST", "v1/videos/v/remix", one),
        ("GET", "v1beta/batches/b", &batch),
        ("GET", "v1beta/batches", batches),
        ("GET", "v1beta/cachedContents", caches),
        ("GET", "v1beta/cachedContents/c", r#"{"model":"<name>"}"#),
        ("PATCH", "v1beta/cachedContents/c", r#"{"model":"<name>"}"#),
    ] {
        let provider = if tail.contains("beta") { "vertex-main" } else { "openai-main" };
        let theirs = told.replace("<name>", "models/m-1").replace("<id>", "m-1");
        let fields = [("x-gproxy-provider", provider), ("x-tells", &theirs)];
        let ours = theirs.replace("m-1", &format!("{provider}/m-1")).replace('|', "\n");
        let body: &[u8] = if method == "GET" { b"" } else { b"{}" };
        let reply = ask(&gateway, method, &format!("/{tail}"), &fields, body);
        assert_eq!((reply.status, reply.text()), (200, ours), "{method} {tail}");
        // Below its provider's scope the name was never another one.
        let reply = ask(&gateway, method, &format!("/{provider}/{tail}"), &fields, body);
        assert_eq!(reply.text(), theirs.replace('|', "\n"), "{method} {tail}");
    }
    let fields = [("x-gproxy-provider", "vertex-main"), ("x-tells", cloud)];
    let reply = ask(&gateway, "GET", "/v1beta/cachedContents/c", &fields, b"");
    assert_eq!(reply.json()["model"], "models/vertex-main/m-1");
    // What went up as it was comes back as it is.
    for tail in ["/v1/batches/b", "/v1/fine_tuning/jobs/j", "/v1/files/f/content"] {
        let fields = [("x-gproxy-provider", "openai-main"), ("x-tells", one)];
        assert_eq!(ask(&gateway, "GET", tail, &fields, b"").text(), one, "{tail}");
    }
}

#[test]
fn stored_chats_are_listed_by_the_name_that_is_called() {
    let upstream = telling();
    let gateway = start(&upstream, "");
    let named = [("x-gproxy-provider", "openai-main")];
    for (target, expected) in [
        ("/v1/chat/completions?model=openai-main%2Fo3&limit=2", "?model=o3&limit=2"),
        ("/v1/chat/completions?limit=2&model=chat-default", "?limit=2&model=gpt-4.1-mini"),
        ("/v1/chat/completions?model=o3", "?model=o3"),
        ("/openai-main/v1/chat/completions?model=o3", "?model=o3"),
    ] {
        let told = ask(&gateway, "GET", target, &named, b"").json();
        assert_eq!(told["target"], format!("/v1/chat/completions{expected}"), "{target}");
    }
}

#[test]
fn a_file_of_any_size_passes_both_ways_in_bounded_memory() {
    let megabytes = 500;
    let upstream = Upstream::scripted(move |conn| {
        while let Some(seen) = conn.request_head() {
            if seen.method == "POST" {
                let length: usize = seen.header("content-length").unwrap().parse().unwrap();
                let read = conn.discard(length);
                conn.whole(200, format!("{{\"bytes\":{read}}}"));
            } else {
                let length = megabytes << 20;
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\n\
                    content-length: {length}\r\n\r\n"
                );
                conn.raw(head);
                let piece = vec![7_u8; 1 << 16];
                for _ in 0..length / piece.len() {
                    if !conn.raw(&piece) {
                        return;
                    }
                }
            }
        }
    });
    let gateway = start(&upstream, "");
    let before = gateway.resident_peak_kib();
    let length = megabytes << 20;
    let mut stream = TcpStream::connect(("127.0.0.1", gateway.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let head = format!(
        "POST /openai-main/v1/files HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {ADMIN_KEY}\r\n\
         content-type: multipart/form-data; boundary=b\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let piece = vec![b'x'; 1 << 16];
    for _ in 0..length / piece.len() {
        stream.write_all(&piece).unwrap();
    }
    let mut reply = vec![0; 4096];
    let count = stream.read(&mut reply).unwrap();
    let reply = String::from_utf8_lossy(&reply[..count]).into_owned();
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    assert!(reply.contains(&format!("{{\"bytes\":{length}}}")), "{reply}");

    let get = format!(
        "GET /openai-main/v1/files/f/content HTTP/1.1\r\nhost: g\r\nconnection: close\r\n\
         authorization: Bearer {ADMIN_KEY}\r\n\r\n"
    );
    let mut stream = TcpStream::connect(("127.0.0.1", gateway.port)).unwrap();
    stream.write_all(get.as_bytes()).unwrap();
    let (mut total, mut sevens, mut buffer) = (0, 0, vec![0; 1 << 16]);
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => break,
            count => {
                total += count;
                sevens += buffer[..count].iter().filter(|byte| **byte == 7).count();
            }
        }
    }
    assert_eq!(sevens, length, "of {total} bytes");
    let grown = gateway.resident_peak_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB more at the peak");
    eprintln!("{megabytes} MB both ways: {before} KiB before, {grown} KiB more at the peak");
}

#[test]
fn an_upload_that_breaks_off_or_is_too_long_ends_its_upstream_request() {
    let upstream = telling();
    let config = Config::to(&upstream).tail(FILES).limit("upload_bytes_max = 1048576");
    let gateway = Gateway::start(&config.text());
    let long = vec![b'x'; (1 << 20) + 1];
    let form = ("content-type", "multipart/form-data; boundary=b");
    let reply = ask(&gateway, "POST", "/openai-main/v1/files", &[form], &long);
    assert_eq!(reply.status, 413, "{}", reply.text());
    let mut client = gateway.connect();
    client.send(
        format!(
            "POST /openai-main/v1/files HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {ADMIN_KEY}\
             \r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n"
        )
        .as_bytes(),
    );
    let reply = client.reply().unwrap();
    assert_eq!(reply.status, 400, "{}", reply.text());
    let mut client = gateway.connect();
    client.send(
        &request(
            "POST",
            "/openai-main/v1/files",
            &[("authorization", &format!("Bearer {ADMIN_KEY}")), ("content-type", "text/plain")],
            &vec![b'y'; 600_000],
        )[..500_000],
    );
    client.close_write();
    assert_eq!(client.reply().unwrap().status, 400);
    support::wait_for("the upstream's connections to end", || {
        (gateway.gauge("gproxy_upstream_in_flight") == 0.0).then_some(())
    });
    // A whole body in chunks goes up in chunks.
    let mut client = gateway.connect();
    client.send(
        format!(
            "POST /openai-main/v1/files HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {ADMIN_KEY}\
             \r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        )
        .as_bytes(),
    );
    assert_eq!(client.reply().unwrap().json()["bytes"], 5);
    assert_eq!(upstream.last().header("transfer-encoding"), Some("chunked"));
}

/// Google's first reply to an upload names the address for its bytes; the second step ends it.
fn uploads() -> Upstream {
    Upstream::answering(|conn, seen| {
        let command = seen.header("x-goog-upload-command").unwrap_or_default();
        if command != "start" {
            let body = format!("{{\"file\":{{\"bytes\":{}}}}}", seen.body.len());
            conn.whole_with(200, "x-goog-upload-status: final\r\n", body);
            return;
        }
        let host = match seen.text().contains("elsewhere") {
            true => "evil.test",
            false => seen.header("host").unwrap_or_default(),
        };
        let field = format!(
            "x-goog-upload-url: http://{host}/upload/v1beta/files?upload_id=s%2F1&upload_protocol=\
             resumable\r\n"
        );
        conn.whole_with(200, &field, "");
    })
}

#[test]
fn the_bytes_of_a_resumable_upload_come_to_the_gateway_and_go_to_their_session() {
    let upstream = uploads();
    let gateway = start(&upstream, "");
    let start = [("x-goog-upload-protocol", "resumable"), ("x-goog-upload-command", "start")];
    for target in ["/vertex-main/upload/v1beta/files", "/upload/v1beta/files"] {
        let mut fields = start.to_vec();
        fields.push(("x-gproxy-provider", "vertex-main"));
        let reply = ask(&gateway, "POST", target, &fields, b"{\"file\":{}}");
        let url = reply.header("x-goog-upload-url").expect("an address");
        let ours = "/vertex-main/upload/v1beta/files?upload_id=s%2F1&upload_protocol=resumable";
        let (plain, seal) = url.split_once("&gproxy_session=").expect("a seal");
        assert_eq!(plain, format!("http://gateway.test{ours}"));
        fields.push(("x-forwarded-proto", "https"));
        let secure = ask(&gateway, "POST", target, &fields, b"{\"file\":{}}");
        let secure = secure.header("x-goog-upload-url").expect("an address").to_owned();
        assert!(secure.starts_with(&format!("https://gateway.test{ours}&")), "{secure}");

        let step = [("x-goog-upload-command", "upload, finalize"), ("x-goog-upload-offset", "0")];
        // The bytes come without a key: the address is one, for this session alone.
        let send = |target: &str| gateway.connect().ask(&request("POST", target, &step, b"x"));
        let forged = seal.replace(['0', '1'], "2");
        for other in [
            ours.to_owned(),
            format!("{ours}&gproxy_session={forged}"),
            format!("{ours}&gproxy_session="),
            format!("{}&gproxy_session={seal}", ours.replace("s%2F1", "s2")),
            format!("/vertex-main/v1beta/files?{}&gproxy_session={seal}", &ours[33..]),
        ] {
            assert_eq!(send(&other).status, 401, "{other}");
        }
        let sealed = format!("{ours}&gproxy_session={seal}");
        let reply = gateway.connect().ask(&request("POST", &sealed, &step, &[7; 300_000]));
        assert_eq!(reply.json()["file"]["bytes"], 300_000, "{}", reply.text());
        assert_eq!(reply.header("x-goog-upload-status"), Some("final"));
        let seen = upstream.last();
        assert_eq!(seen.target, ours.strip_prefix("/vertex-main").unwrap_or_default());
        assert_eq!(seen.header("x-goog-api-key"), Some(UPSTREAM_KEY));
        assert!(!String::from_utf8_lossy(&seen.head).contains(ADMIN_KEY));
    }
    // An address counts as long as its user's key: in the next process too.
    let reply = ask(&gateway, "POST", "/vertex-main/upload/v1beta/files", &start, b"{}");
    let url = reply.header("x-goog-upload-url").expect("an address");
    let ours = url.strip_prefix("http://gateway.test").expect("at this host");
    let step = [("x-goog-upload-command", "upload, finalize"), ("x-goog-upload-offset", "0")];
    let config = Config::to(&upstream).tail(FILES).text();
    for (text, status) in [(config.clone(), 200), (config.replace(ADMIN_KEY, "sk-another-1"), 401)]
    {
        let next = Gateway::start(&text);
        assert_eq!(next.connect().ask(&request("POST", ours, &step, b"x")).status, status);
    }
    // What leads to another host does not come down: its key would go there.
    let body = b"{\"file\":{\"displayName\":\"elsewhere\"}}";
    let reply = ask(&gateway, "POST", "/vertex-main/upload/v1beta/files", &start, body);
    assert_eq!((reply.status, reply.header("x-goog-upload-url")), (200, None));
    gateway.wait_for_line("another address");
}

#[test]
fn a_caches_model_is_exchanged_and_restored() {
    let upstream = Upstream::answering(|conn, seen| {
        let name = seen.json()["model"].clone();
        conn.whole(200, serde_json::json!({"name": "cachedContents/1", "model": name}).to_string());
    });
    let gateway = start(&upstream, "");
    for (target, asked, replied) in [
        ("/v1beta/cachedContents", "models/gemini-default", "models/gemini-default"),
        ("/v1beta/cachedContents", "models/vertex-main/gemini-1.5-flash", ""),
        ("/cachedContents", "vertex-main/gemini-1.5-flash", "models/vertex-main/gemini-1.5-flash"),
        ("/vertex-main/v1beta/cachedContents", "models/gemini-1.5-flash", ""),
    ] {
        let body = serde_json::json!({"contents": [{"model": "stays"}], "model": asked});
        let reply = ask(&gateway, "POST", target, &[], body.to_string().as_bytes());
        assert_eq!(reply.status, 200, "{}", reply.text());
        let replied = if replied.is_empty() { asked } else { replied };
        assert_eq!(reply.json()["model"], replied, "{target}");
        let seen = upstream.last();
        assert_eq!(seen.target, "/v1beta/cachedContents");
        assert_eq!(seen.json()["model"], "models/gemini-1.5-flash");
        assert_eq!(seen.json()["contents"], body["contents"]);
    }
    let alice = format!("Bearer {ALICE_KEY}");
    let body = br#"{"model":"models/gemini-default"}"#;
    let post = request("POST", "/v1beta/cachedContents", &[("authorization", &alice)], body);
    assert_eq!(gateway.connect().ask(&post).status, 403);
    let get = ask(&gateway, "GET", "/vertex-main/v1beta/cachedContents", &[], b"");
    assert_eq!(get.status, 200);
    let put = ask(&gateway, "PUT", "/vertex-main/v1beta/cachedContents", &[], b"{}");
    assert_eq!((put.status, put.header("allow")), (405, Some("GET, POST")));
}

#[test]
fn a_film_is_asked_after_where_it_was_made_by_who_has_some_permission_there() {
    let upstream = telling();
    let film = "[[model_aliases]]\nalias = \"film\"\nprovider_name = \"vertex-main\"\n\
        model_id = \"veo-3\"\n[[permissions]]\nuser_name = \"alice\"\n\
        provider_name = \"vertex-main\"\nmodel_pattern = \"film\"\n";
    let gateway = start(&upstream, film);
    let model = "/v1beta/publishers/google/models/veo-3";
    let target = format!("{model}:fetchPredictOperation");
    let alice = format!("Bearer {ALICE_KEY}");
    let post = |target: &str, key: &str, more: &[(&str, &str)]| {
        let mut fields = vec![("authorization", key)];
        fields.extend(more);
        gateway.connect().ask(&request("POST", target, &fields, b"{}"))
    };
    let admin = format!("Bearer {ADMIN_KEY}");
    let which = post(&target, &admin, &[]);
    assert_eq!(which.status, 400, "two could have made it");
    assert!(which.text().contains("router"), "{}", which.text());
    let here = [("x-gproxy-provider", "vertex-main")];
    // By the vendor's name alice may make none.
    for (target, key, more, status) in [
        (target.as_str(), &admin, &here[..], 200),
        (&target, &alice, &here, 200),
        (&format!("/vertex-main{target}"), &alice, &[], 200),
        (&format!("/vertex-main{model}:predictLongRunning"), &alice, &[], 403),
        (&target, &alice, &[("x-gproxy-provider", "router")], 403),
    ] {
        let reply = post(target, key, more);
        assert_eq!(reply.status, status, "{target} {more:?}: {}", reply.text());
    }
    assert!(upstream.last().target.ends_with("/models/veo-3:fetchPredictOperation"));
}
