//! Attacks by class, from either side, on the running program: lines smuggled into heads, replies
//! that split, paths that climb, targets elsewhere, and crowds that take what there is of
//! descriptors and memory.

use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::support::admin::admin;
use crate::support::client::{chat, post};
use crate::support::{
    ADMIN_KEY, ALICE_KEY, Client, Config, Gateway, Reply, Upstream, replies_in, request, send_raw,
    wait_for,
};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::{Value, json};

const MODEL: &str = "openai-main/gpt-4.1-mini";
const FILES: &str =
    "[[file_permissions]]\nuser_name = \"admin\"\nprovider_name = \"openai-main\"\n";

/// An answer has no line that the other side put there.
#[track_caller]
fn check_whole(reply: &Reply, what: &str) {
    assert_eq!(reply.header("x-injected"), None, "{what}");
    assert_eq!(reply.header("set-cookie"), None, "{what}");
}

#[test]
fn nothing_that_a_caller_sends_becomes_a_line_of_a_head() {
    let upstream = Upstream::answering(|conn, _| {
        conn.whole(200, "{}");
    });
    let config = Config::to(&upstream).setting("passthrough = true").tail(FILES);
    let gateway = Gateway::start(&config.text());
    const LINE: &str = "%0d%0ax-injected:%20yes";
    let get = |target: String| {
        request("GET", &target, &[("authorization", &format!("Bearer {ADMIN_KEY}"))], b"")
    };
    let name = "openai-main/a\\r\\nx-injected: yes";
    let mut form = b"--b\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\n".to_vec();
    form.extend(b"openai-main/a\r\nx-injected: yes\r\n--b--\r\n");
    let bearer = format!("Bearer {ADMIN_KEY}");
    let typed =
        [("authorization", bearer.as_str()), ("content-type", "multipart/form-data; boundary=b")];
    for (bytes, statuses) in [
        (get(format!("/openai-main/v1/files/a{LINE}")), &[400][..]),
        (get(format!("/openai-main/v1/gadgets/a{LINE}")), &[400]),
        (get(format!("/v1/models/a{LINE}")), &[400, 404]),
        (get(format!("/openai-main{LINE}/v1/files")), &[400, 404]),
        // A query goes up as it was sent, so it stays one line.
        (get(format!("/openai-main/v1/files?after=a{LINE}")), &[200]),
        (get(format!("/v1/files?x-gproxy-provider=openai-main{LINE}")), &[400]),
        (request("GET", &format!("/v1/files?key={ADMIN_KEY}{LINE}"), &[], b""), &[401]),
        (post(&format!("/v1beta/models/vertex-main/a{LINE}:generateContent"), b"{}"), &[400, 404]),
        (post("/v1/chat/completions", format!("{{\"model\":\"{name}\"}}")), &[400]),
        (request("POST", "/v1/images/edits", &typed, &form), &[400]),
    ] {
        let what = String::from_utf8_lossy(&bytes).into_owned();
        let reply = gateway.connect().ask(&bytes);
        assert!(statuses.contains(&reply.status), "{what}: {} {}", reply.status, reply.text());
        check_whole(&reply, &what);
    }
    let seen = upstream.seen();
    assert!(seen.iter().all(|seen| seen.header("x-injected").is_none()), "{seen:?}");
    assert_eq!(seen.len(), 1);
    assert_eq!(upstream.last().query(), format!("after=a{LINE}"));
}

#[test]
fn a_reply_that_splits_is_refused_and_nothing_of_it_comes_down() {
    let splits = [
        "HTTP/1.1 200 OK\r\nx-a: b\rx-injected: yes\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nx-a: b\nx-injected: yes\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nx-a: b\r\n x-injected: yes\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nx-a: b\0x-injected: yes\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\rx-injected: yes\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nx-a\r\nx-injected: yes\r\ncontent-length: 2\r\n\r\n{}",
    ];
    for bytes in splits {
        let upstream = Upstream::answering(move |conn, _| {
            conn.raw(bytes);
            conn.cut();
        });
        let gateway = Gateway::start(&Config::to(&upstream).workers(1).text());
        let mut client = gateway.connect();
        let reply = client.ask(&chat(MODEL, false));
        assert_eq!(reply.status, 502, "{bytes:?}");
        check_whole(&reply, bytes);
        // Whatever stood behind it answers nobody.
        assert_eq!(client.ask(&request("GET", "/healthz", &[], b"")).status, 200, "{bytes:?}");
    }
}

#[test]
fn no_path_climbs_anywhere() {
    let upstream = Upstream::vendor();
    let config = Config::to(&upstream).setting("passthrough = true").tail(FILES).text();
    let gateway = Gateway::start(&config);
    let targets = [
        "/console/../config.toml",
        "/console/%2e%2e/config.toml",
        "/console/..%2fconfig.toml",
        "/console/..%5cconfig.toml",
        "/console/....//config.toml",
        "/console//config.toml",
        "/console/%00",
        "/console/./main.js/../../config.toml",
        "/../../../../etc/passwd",
        "//etc/passwd",
        "/%2fetc%2fpasswd",
        "/v1/../admin/api/users",
        "/v1/%2e%2e/admin/api/users",
        "/openai-main/../admin/api/users",
        "/openai-main/v1/files/..%2f..%2fadmin%2fapi%2fusers",
        "/openai-main/v1/gadgets/%2e%2e/%2e%2e/secret",
        "/openai-main/v1/gadgets/..;/secret",
        "/upload/../admin/api/users",
        "/healthz/../metrics",
        "/ADMIN/api/users",
        "/admin%2fapi%2fusers",
        "/%61dmin/api/users",
        "/user/api/../../admin/api/users",
    ];
    for target in targets {
        for key in [None, Some(ALICE_KEY)] {
            let bearer = key.map(|key| format!("Bearer {key}"));
            let fields: Vec<_> = bearer.iter().map(|key| ("authorization", key.as_str())).collect();
            let reply = gateway.connect().ask(&request("GET", target, &fields, b""));
            let told = reply.text();
            assert!((400..=404).contains(&reply.status), "{target}: {} {told}", reply.status);
            for secret in ["data_dir", "root:", "is_admin", "gproxy_connections"] {
                assert!(!told.contains(secret), "{target}: {told}");
            }
        }
    }
    assert_eq!(upstream.count(), 0);
}

#[test]
fn an_absolute_target_is_served_here_and_reaches_nobody_else() {
    let other = Upstream::vendor();
    let upstream = Upstream::vendor();
    let gateway = Gateway::start(&Config::to(&upstream).text());
    let elsewhere = format!("http://127.0.0.1:{}", other.port);
    let get = request("GET", &format!("{elsewhere}/secret"), &[], b"");
    assert!(matches!(gateway.connect().ask(&get).status, 401 | 404));
    let call = post(
        &format!("{elsewhere}/v1/chat/completions"),
        json!({ "model": MODEL, "messages": [] }).to_string(),
    );
    assert_eq!(gateway.connect().ask(&call).status, 200);
    let all = send_raw(gateway.port, b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nhost: a\r\n\r\n");
    assert!(replies_in(&all)[0].status >= 400);
    assert_eq!((upstream.count(), other.count()), (1, 0));
}

/// Descriptors that a process has open.
fn descriptors(gateway: &Gateway) -> u64 {
    std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).expect("it is alive").count() as u64
}

fn limit_descriptors(gateway: &Gateway, count: Option<u64>) {
    let pid = Pid::from_raw(gateway.pid() as i32).expect("a process has a number");
    let limit = Rlimit { current: count, maximum: getrlimit(Resource::Nofile).maximum };
    prlimit(Some(pid), Resource::Nofile, limit).expect("our own child");
}

#[test]
fn running_out_of_descriptors_is_survived_and_no_credential_is_blamed() {
    // Each call needs a connection of its own.
    let upstream = Upstream::scripted(|conn| {
        if conn.request().is_some() {
            conn.whole_with(200, "connection: close\r\n", "{}");
        }
    });
    let gateway = Gateway::start(&Config::to(&upstream).workers(1).text());
    let mut first = gateway.connect();
    assert_eq!(first.ask(&request("GET", "/healthz", &[], b"")).status, 200);
    limit_descriptors(&gateway, Some(descriptors(&gateway) + 2));
    let crowd: Vec<Client> = (0..8).map(|_| gateway.connect()).collect();
    gateway.wait_for_line("cannot accept");
    // Whatever was still open is closed and taken by the crowd in the end.
    let reply = wait_for("no descriptor to be left", || {
        let reply = first.ask(&chat(MODEL, false));
        (reply.status != 200).then_some(reply)
    });
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(reply.error_message().contains("no descriptor"), "{}", reply.text());
    assert_eq!(reply.header("retry-after"), Some("1"));

    drop(crowd);
    wait_for("descriptors to come back", || {
        (first.ask(&chat(MODEL, false)).status == 200).then_some(())
    });
    limit_descriptors(&gateway, getrlimit(Resource::Nofile).current);
    assert!(gateway.gauge("gproxy_accepting_paused_total") > 0.0);
    let health = admin(&gateway, "GET", "health", Value::Null, 200);
    let circuits = |item: &Value| item["circuits"].as_array().map_or(0, Vec::len);
    assert!(health["items"].as_array().expect("a list").iter().all(|item| circuits(item) == 0));
}

#[test]
fn a_stream_that_is_open_goes_on_while_there_is_no_descriptor_left() {
    const EVENTS: usize = 600;
    let (go_on, may_go_on) = channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let upstream = Upstream::answering(move |conn, _| {
        conn.stream_head();
        for number in 0..EVENTS {
            may_go_on.lock().expect("never poisoned").recv().expect("the test says when");
            conn.piece(format!("data: {{\"n\":{number}}}\n\n"));
        }
        conn.piece("data: [DONE]\n\n");
        conn.end();
    });
    let gateway = Gateway::start(&Config::to(&upstream).workers(1).text());
    let mut client = gateway.connect();
    client.send(&chat(MODEL, true));
    assert_eq!(client.head().expect("the stream begins").status, 200);
    limit_descriptors(&gateway, Some(3));
    // Each is read before the next comes: no write ever waits, nor does its coroutine.
    for number in 0..EVENTS {
        go_on.send(()).expect("the upstream waits");
        client.chunks_until(&format!("data: {{\"n\":{number}}}\n\n"));
    }
    while client.chunk().expect("a polite end").is_some() {}
    limit_descriptors(&gateway, getrlimit(Resource::Nofile).current);
}

#[test]
fn connections_stay_within_the_descriptors_of_the_system() {
    let upstream = Upstream::vendor();
    let config = Config::to(&upstream).workers(1).text();
    let mut gateway = Gateway::spawn_with_descriptors(&config, 80);
    gateway.wait_for_line("leaves room for 60 connections");
    gateway.wait_for_line("memory of at most");
    let mut held = Vec::new();
    let refused = wait_for("a connection that is refused", || {
        let mut client = gateway.connect();
        client.send(&request("GET", "/healthz", &[], b""));
        let status = client.reply().map(|reply| reply.status);
        held.push(client);
        (status.is_ok_and(|status| status == 503)).then_some(held.len())
    });
    assert_eq!(refused, 61);
    // A call finds a descriptor all the same.
    assert_eq!(held[0].ask(&chat(MODEL, false)).status, 200);
    assert!(gateway.is_alive());
}

#[test]
fn silent_connections_make_room_while_others_are_refused() {
    let upstream = Upstream::vendor();
    let gateway = Gateway::start(&Config::to(&upstream).limit("connections_max = 4").text());
    wait_for("the connections of the start to be forgotten", || {
        (gateway.gauge("gproxy_connections") <= 1.0).then_some(())
    });
    let served = |client: &mut Client| {
        client.send(&request("GET", "/healthz", &[], b""));
        client.reply().is_ok_and(|reply| reply.status == 200)
    };
    let mut silent: Vec<Client> = Vec::new();
    wait_for("four connections", || {
        let mut client = gateway.connect();
        if served(&mut client) {
            silent.push(client);
        }
        (silent.len() == 4).then_some(())
    });
    // Long before their 75 seconds are over.
    let mut other = wait_for("room for another connection", || {
        let mut client = gateway.connect();
        served(&mut client).then_some(client)
    });
    assert!(silent.iter_mut().any(Client::is_closed));
    let metrics = other.ask(&request("GET", "/metrics", &[], b"")).text();
    assert!(!metrics.contains("\ngproxy_connections_silent_closed_total 0\n"), "{metrics}");
}

#[test]
fn a_hundred_clients_that_do_not_read_cost_bounded_memory() {
    let piece = format!("data: {{\"model\":\"m\",\"x\":\"{}\"}}\n\n", "x".repeat(4_000));
    let upstream = Upstream::answering(move |conn, seen| {
        if seen.json()["stream"] == json!(true) {
            conn.stream_head();
            while conn.piece(&piece) {}
        } else {
            conn.raw(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
                 content-length: 1000000000\r\n\r\n{\"x\":\"",
            );
            while conn.raw(&piece) {}
        }
    });
    let gateway = Gateway::start(&Config::to(&upstream).text());
    let before = gateway.resident_peak_kib();
    let mut crowd: Vec<Client> = Vec::new();
    for number in 0..100 {
        let mut client = gateway.connect();
        client.send(&chat(MODEL, number % 2 == 0));
        crowd.push(client);
    }
    for client in &mut crowd {
        client.head().expect("each is served");
    }
    // Nothing moves any more when the peak has stood still for a second.
    let mut last = (0, Instant::now());
    wait_for("the crowd to be held back", || {
        let peak = gateway.resident_peak_kib();
        if peak != last.0 {
            last = (peak, Instant::now());
        }
        (last.1.elapsed() > Duration::from_secs(1)).then_some(())
    });
    let grown = last.0 - before;
    assert!(grown < 100 * 256 + 16 * 1024, "{grown} KiB more at the peak");
    assert_eq!(gateway.connect().ask(&request("GET", "/healthz", &[], b"")).status, 200);
    drop(crowd);
    wait_for("everything to come back", || {
        let metrics = gateway.metrics();
        let is_rest = |name: &str, most: f64| metrics[name] <= most;
        (is_rest("gproxy_connections", 2.0)
            && is_rest("gproxy_upstream_in_flight", 0.0)
            && is_rest("gproxy_streams", 0.0)
            && is_rest("gproxy_held_bytes", 0.0))
        .then_some(())
    });
}

#[test]
fn a_living_stream_outlives_the_limit_of_its_call() {
    let upstream = Upstream::answering(|conn, _| {
        conn.stream_head();
        for _ in 0..12 {
            conn.piece("data: {\"model\":\"m\"}\n\n");
            std::thread::sleep(Duration::from_millis(250));
        }
        conn.piece("data: [DONE]\n\n");
        conn.end();
    });
    let config = Config::to(&upstream).setting("timeouts = { total_ms = 2000 }");
    let gateway = Gateway::start(&config.text());
    let reply = gateway.connect().ask(&chat(MODEL, true));
    assert!(reply.text().ends_with("data: [DONE]\n\n"), "{}", reply.text());
    assert_eq!(reply.events().len(), 12);
}

#[test]
fn each_limit_that_is_reached_shows_in_the_metrics() {
    let upstream = Upstream::vendor();
    let gateway = Gateway::start(&Config::to(&upstream).limit("body_bytes_max = 1000").text());
    let key = format!("authorization: Bearer {ADMIN_KEY}\r\n");
    let length = "content-length: 1001\r\n";
    for (target, lines, status) in [
        ("/v1/chat/completions", format!("{key}{length}"), 413),
        (&*format!("/{}", "q".repeat(17_000)), String::new(), 414),
        ("/v1/chat/completions", "x: y\r\n".repeat(200), 431),
        ("/v1/chat/completions", length.to_owned(), 401),
    ] {
        let head = format!("POST {target} HTTP/1.1\r\nhost: a\r\n{lines}\r\n");
        assert_eq!(gateway.connect().ask(head.as_bytes()).status, status);
        let name = format!("gproxy_refusals_total{{status=\"{status}\"}}");
        assert_eq!(gateway.gauge(&name), 1.0, "{name}");
    }
    assert_eq!(gateway.gauge("gproxy_requests_refused_total"), 4.0);
    assert_eq!(gateway.gauge("gproxy_refusals_total{status=\"other\"}"), 0.0);
}

#[test]
fn what_lies_on_disk_is_its_owners_alone() {
    let upstream = Upstream::vendor();
    let config = Config::to(&upstream)
        .global("enable_downstream_log = true")
        .global("enable_downstream_log_body = true");
    let gateway = Gateway::start(&config.text());
    assert_eq!(gateway.connect().ask(&chat(MODEL, false)).status, 200);
    let data = gateway.folder().join("data");
    wait_for("the books and the log", || data.join("gproxy-logs.db").exists().then_some(()));
    for entry in std::fs::read_dir(&data).expect("it was made at the start") {
        let path = entry.expect("it is there").path();
        // A journal may go while we look.
        let Ok(about) = std::fs::metadata(&path) else { continue };
        assert_eq!(about.permissions().mode() & 0o077, 0, "{}", path.display());
    }
}
