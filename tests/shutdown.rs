//! Ending and reloading: streams finish, nothing new begins, a bad file changes nothing.

use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use crate::support;
use crate::support::client::{chat, post};
use crate::support::{Client, Config, Gateway, Upstream, request, wait_for};
use rustix::process::Signal;

const MODEL: &str = "openai-main/gpt-4.1-mini";

/// An upstream whose streams send one event and then wait for a word.
fn held_stream() -> (Upstream, Sender<()>) {
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::answering(move |conn, _| {
        conn.stream_head();
        conn.piece("data: {\"model\":\"m\",\"choices\":[{\"n\":1}]}\n\n");
        let _ = wait.lock().expect("never poisoned").recv();
        conn.piece("data: [DONE]\n\n");
        conn.end();
    });
    (upstream, go)
}

/// A client in the middle of such a stream.
fn in_mid_stream(gateway: &Gateway) -> Client {
    let mut client = gateway.connect();
    client.send(&chat(MODEL, true));
    assert_eq!(client.head().expect("the stream begins").status, 200);
    client.chunks_until("{\"n\":1}]}\n\n");
    client
}

#[track_caller]
fn wait_until_refused(gateway: &Gateway) {
    wait_for("new connections to be refused", || {
        TcpStream::connect(("127.0.0.1", gateway.port)).is_err().then_some(())
    });
}

#[test]
fn an_open_stream_finishes_while_new_connections_are_refused() {
    for signal in [Signal::TERM, Signal::INT] {
        let (upstream, go) = held_stream();
        let mut gateway = Gateway::start(&Config::to(&upstream).text());
        let mut idle = gateway.connect();
        assert_eq!(idle.ask(&request("GET", "/healthz", &[], b"")).status, 200);
        let mut client = in_mid_stream(&gateway);
        gateway.signal(signal);
        wait_until_refused(&gateway);
        assert!(gateway.is_alive(), "the stream is still open");
        go.send(()).expect("the script waits");
        client.chunks_until("data: [DONE]\n\n");
        assert_eq!(client.chunk().expect("a polite end"), None);
        assert!(gateway.wait_exit().success());
        assert!(idle.is_closed(), "an idle connection is closed and delays nothing");
    }
}

#[test]
fn a_request_that_waits_for_its_upstream_is_answered_before_the_end() {
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::answering(move |conn, _| {
        let _ = wait.lock().expect("never poisoned").recv();
        conn.whole(200, r#"{"model":"m"}"#);
    });
    let mut gateway = Gateway::start(&Config::to(&upstream).text());
    let mut client = gateway.connect();
    client.send(&chat(MODEL, false));
    upstream.wait_for_requests(1);
    gateway.sigterm();
    wait_until_refused(&gateway);
    go.send(()).expect("the script waits");
    let reply = client.reply().expect("the answer comes");
    assert_eq!((reply.status, reply.complete), (200, true));
    assert!(gateway.wait_exit().success());
}

#[test]
fn a_gateway_with_nothing_to_do_ends_at_once_with_zero() {
    let upstream = Upstream::vendor();
    let gateway = Gateway::start(&Config::to(&upstream).text());
    let mut clients: Vec<Client> = (0..50).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.ask(&chat(MODEL, false)).status, 200);
    }
    assert!(gateway.stop().success());
}

/// Two seconds are theirs. A machine that takes half of them for these lines tells nothing.
#[test]
fn who_has_connected_or_begun_to_ask_is_answered_behind_the_signal() {
    let upstream = Upstream::vendor();
    let ask = chat(MODEL, false);
    for _ in 0..10 {
        let mut gateway = Gateway::start(&Config::to(&upstream).text());
        let mut served = gateway.connect();
        assert_eq!(served.ask(&request("GET", "/healthz", &[], b"")).status, 200);
        let (mut silent, mut half) = (gateway.connect(), gateway.connect());
        half.send(&ask[..20]);
        let begun = Instant::now();
        gateway.sigterm();
        wait_until_refused(&gateway);
        // Long enough for whoever would close them.
        std::thread::sleep(Duration::from_millis(100));
        silent.send(&ask);
        let sent = half.send_more(&ask[20..]);
        if begun.elapsed() > Duration::from_secs(1) {
            continue;
        }
        sent.expect("it is open");
        for client in [&mut silent, &mut half] {
            let reply = client.reply().expect("an answer");
            assert_eq!((reply.status, reply.closes()), (200, true), "{}", reply.text());
        }
        assert!(served.is_closed(), "it has had its answer");
        assert!(gateway.wait_exit().success());
        return;
    }
}

#[test]
fn who_says_nothing_delays_the_end_by_little() {
    let upstream = Upstream::vendor();
    let gateway = Gateway::start(&Config::to(&upstream).text());
    let (mut silent, mut half) = (gateway.connect(), gateway.connect());
    half.send(b"GET /healthz");
    assert!(gateway.stop().success());
    assert!(silent.is_closed());
    // Who has begun is told so where the process lives long enough to say it.
    if let Ok(reply) = half.reply() {
        assert_eq!((reply.status, reply.closes()), (503, true), "{}", reply.text());
    }
    assert!(half.is_closed());
}

/// One request of each sort that can be open when time runs out: a stream in each dialect, a whole
/// reply that does not come, an upload that does not go on, and a caller that reads nothing.
fn open_requests(gateway: &Gateway, upstream: &Upstream) -> Vec<Client> {
    let messages = r#"{"model":"router/m","max_tokens":9,"stream":true}"#;
    let gemini = "/v1beta/models/router/m:streamGenerateContent?alt=sse";
    let asks = [
        chat(MODEL, true),
        post("/v1/responses", format!(r#"{{"model":"{MODEL}","stream":true}}"#)),
        post("/v1/messages", messages),
        post(gemini, "{}"),
        chat("openai-main/silent", false),
    ];
    let mut clients: Vec<Client> = Vec::new();
    for (at, ask) in asks.iter().enumerate() {
        let mut client = gateway.connect();
        client.send(ask);
        if at < 4 {
            assert_eq!(client.head().expect("the stream begins").status, 200);
            client.chunks_until("\"n\":1");
        }
        clients.push(client);
    }
    let key = format!("Bearer {}", support::ADMIN_KEY);
    let fields = [("authorization", key.as_str()), ("x-gproxy-provider", "openai-main")];
    let upload = request("POST", "/v1/files", &fields, &vec![b'x'; 400_000]);
    let mut client = gateway.connect();
    client.send(&upload[..300_000]);
    clients.push(client);
    upstream.wait_for_requests(5);
    wait_for("six calls to be under way", || {
        (gateway.gauge("gproxy_upstream_in_flight") == 6.0).then_some(())
    });
    clients
}

/// Streams that say one thing and fall silent, and replies that do not come.
fn silent() -> Upstream {
    Upstream::answering(|conn, seen| {
        if seen.json()["model"] != "silent" {
            conn.stream_head();
            conn.piece(
                "data: {\"model\":\"m\",\"choices\":[{\"n\":1,\
                 \"delta\":{\"content\":\"abcd\"}}]}\n\n",
            );
        }
        let _ = conn.wait_closed();
    })
}

#[test]
fn what_is_open_at_the_drain_limit_is_told_so_and_settled() {
    for hurried in [false, true] {
        let upstream = silent();
        let limit = if hurried { "drain_ms = 600000" } else { "drain_ms = 300" };
        let files = "[[file_permissions]]\nuser_name = \"admin\"\nprovider_name = \"openai-main\"";
        let config = Config::to(&upstream).timeout(limit).tail(files);
        let mut gateway = Gateway::start(&config.text());
        let mut clients = open_requests(&gateway, &upstream);
        gateway.sigterm();
        if hurried {
            wait_until_refused(&gateway);
            gateway.sigterm();
        }
        assert!(gateway.wait_exit().success());
        let error = ["\"error\"", "event: error", "event: error", "\"status\":\"UNAVAILABLE\""];
        for (client, error) in clients.iter_mut().zip(error) {
            let rest = String::from_utf8_lossy(&client.read_to_close()).into_owned();
            assert!(rest.contains(error) && rest.contains("shutting down"), "{rest:?}");
            assert!(!rest.contains("0\r\n\r\n"), "no polite end: {rest:?}");
        }
        for client in &mut clients[4..] {
            assert_eq!(client.reply().expect("an answer").status, 503);
        }
        let rows = support::books::rows(gateway.folder()).expect("books");
        let told = |name: &str| rows.iter().filter(|row| row.text("outcome") == name).count();
        assert_eq!((rows.len(), told("cut"), told("refused")), (6, 4, 2), "hurried: {hurried}");
        let estimated = rows.iter().filter(|row| row.text("usage_source") == "estimated");
        assert!(estimated.count() >= 3, "what went by is estimated");
    }
}

#[test]
fn a_caller_that_reads_nothing_delays_the_end_by_little_and_has_its_row() {
    let upstream = Upstream::answering(|conn, _| {
        conn.stream_head();
        let event = format!("data: {{\"n\":\"{}\"}}\n\n", "x".repeat(60_000));
        while conn.piece(&event) {}
    });
    let config = Config::to(&upstream).timeout("drain_ms = 100");
    let mut gateway = Gateway::start(&config.text());
    let mut client = gateway.connect();
    client.send(&chat(MODEL, true));
    assert_eq!(client.head().expect("the stream begins").status, 200);
    gateway.sigterm();
    assert!(gateway.wait_exit().success());
    let rows = support::books::rows(gateway.folder()).expect("books");
    assert_eq!(rows.len(), 1);
}

const LATER: &str = "[[model_aliases]]\nalias = \"later\"\nprovider_name = \"router\"\n\
    model_id = \"m\"\n";

#[test]
fn a_good_new_file_counts_from_the_next_request_on() {
    let upstream = Upstream::vendor();
    let config = Config::to(&upstream);
    let gateway = Gateway::start(&config.text());
    let mut client = gateway.connect();
    assert_eq!(client.ask(&chat("later", false)).status, 400);
    gateway.rewrite_config(&config.tail(LATER).text());
    gateway.signal(Signal::HUP);
    wait_for("the alias to exist", || {
        (client.ask(&chat("later", false)).status == 200).then_some(())
    });
    assert_eq!(upstream.last().json()["model"], "m");
}

#[test]
fn a_request_in_flight_keeps_the_table_it_began_with() {
    let (upstream, go) = held_stream();
    let config = Config::to(&upstream).tail(LATER);
    let gateway = Gateway::start(&config.text());
    let mut client = gateway.connect();
    client.send(&chat("later", true));
    client.head().expect("the stream begins");
    client.chunks_until("{\"n\":1}]}\n\n");
    // The new file has no such alias, and a key by which its arrival can be told.
    let key = "[[users]]\nname = \"new\"\n[[users.keys]]\napi_key = \"sk-new-0123456789abcdef\"\n";
    gateway.rewrite_config(&Config::to(&upstream).tail(key).text());
    gateway.signal(Signal::HUP);
    let bearer = [("authorization", "Bearer sk-new-0123456789abcdef")];
    let probe = request("POST", "/v1/chat/completions", &bearer, b"{\"model\":\"nobody\"}");
    wait_for("the new file to count", || {
        (gateway.connect().ask(&probe).status == 400).then_some(())
    });
    assert_eq!(gateway.connect().ask(&chat("later", false)).status, 400);
    go.send(()).expect("the script waits");
    client.chunks_until("data: [DONE]\n\n");
    assert_eq!(client.chunk().expect("a polite end"), None);
}

#[test]
fn a_bad_new_file_changes_nothing_and_is_reported_with_its_line() {
    let upstream = Upstream::vendor();
    let config = Config::to(&upstream);
    let mut gateway = Gateway::start(&config.text());
    for (tail, word) in [
        (
            "[[model_aliases]]\nalias = \"later\"\nprovider_name = \"nobody\"\nmodel_id = \"m\"",
            "nobody",
        ),
        ("[[colours]]\nname = \"red\"", "colours"),
        ("this is no toml", "config.toml:"),
    ] {
        gateway.rewrite_config(&config.clone().tail(LATER).tail(tail).text());
        gateway.signal(Signal::HUP);
        gateway.wait_for_line(word);
        assert_eq!(gateway.connect().ask(&chat("later", false)).status, 400, "{word}");
        assert_eq!(gateway.connect().ask(&chat("chat-default", false)).status, 200, "{word}");
    }
    assert!(gateway.is_alive());
}

#[test]
fn a_new_worker_count_is_said_to_need_a_restart() {
    let upstream = Upstream::vendor();
    let config = Config::to(&upstream);
    let gateway = Gateway::start(&config.text());
    gateway.rewrite_config(&config.workers(3).tail(LATER).text());
    gateway.signal(Signal::HUP);
    gateway.wait_for_line("restart");
    wait_for("the rest of the file to count", || {
        (gateway.connect().ask(&chat("later", false)).status == 200).then_some(())
    });
}

#[test]
fn a_bad_file_at_start_ends_with_two_and_names_the_line() {
    let upstream = Upstream::vendor();
    for (tail, word) in [
        ("[[providers]]\nname = \"v1\"\nchannel = \"echo\"", "reserved"),
        ("[[providers]]\nname = \"router\"\nchannel = \"echo\"", "router"),
        (
            "[[permissions]]\nuser_name = \"admin\"\nprovider_name = \"nobody\"\n\
          model_pattern = \"*\"",
            "nobody",
        ),
        (
            "[[users]]\nname = \"x\"\n[[users.keys]]\napi_key = \"env:NOT_SET_ANYWHERE\"",
            "NOT_SET_ANYWHERE",
        ),
        ("[globall]", "globall"),
    ] {
        let mut gateway = Gateway::spawn(&Config::to(&upstream).tail(tail).text(), &[]);
        let status = gateway.wait_exit();
        let lines = gateway.stderr().join("\n");
        assert_eq!(status.code(), Some(2), "{tail}: {lines}");
        assert!(lines.contains(word), "{tail}: {lines}");
        assert!(lines.contains("config.toml:"), "file and line in {lines}");
    }
}

#[test]
fn the_demo_key_keeps_the_server_on_loopback() {
    let upstream = Upstream::vendor();
    let text = Config::to(&upstream).text().replace("127.0.0.1\"\nport", "0.0.0.0\"\nport");
    let mut gateway = Gateway::spawn(&text, &[]);
    let status = gateway.wait_exit();
    let lines = gateway.stderr().join("\n");
    assert_eq!(status.code(), Some(2), "{lines}");
    assert!(lines.contains("loopback") || lines.contains("listen on 127.0.0.1"), "{lines}");
}

#[test]
fn a_taken_port_ends_with_a_sentence_and_the_owner_does_not_notice() {
    let upstream = Upstream::vendor();
    let port = support::gateway::free_port();
    let owner = TcpListener::bind(("127.0.0.1", port)).expect("it was free a moment ago");
    let text = Config::to(&upstream).text().replacen("port = 0", &format!("port = {port}"), 1);
    let mut gateway = Gateway::spawn(&text, &[]);
    let status = gateway.wait_exit();
    let lines = gateway.stderr().join("\n");
    assert!(!status.success());
    assert!(lines.contains(&port.to_string()) && lines.contains("in use"), "{lines}");
    assert!(!lines.contains("panicked"), "{lines}");
    drop(owner);
}

#[test]
fn no_key_and_no_prompt_is_ever_logged() {
    let upstream = Upstream::vendor();
    let gateway = Gateway::start(&Config::to(&upstream).text());
    let secret_prompt = "the-prompt-nobody-may-log";
    let body = format!(
        r#"{{"model":"{MODEL}","messages":[{{"role":"user","content":"{secret_prompt}"}}]}}"#
    );
    let mut client = gateway.connect();
    assert_eq!(client.ask(&post("/v1/chat/completions", &body)).status, 200);
    let target = "/v1beta/models/vertex-main/gemini-1.5-flash:generateContent?key=sk-admin-1";
    assert_eq!(client.ask(&request("POST", target, &[], b"{}")).status, 200);
    let wrong = [("authorization", "Bearer sk-wrong-key-in-a-header")];
    assert_eq!(client.ask(&request("POST", "/v1/messages", &wrong, body.as_bytes())).status, 401);
    gateway.sigterm();
    let mut gateway = gateway;
    gateway.wait_exit();
    let lines = gateway.stderr().join("\n");
    assert!(lines.contains("openai-main"), "one line a request: {lines}");
    for secret in [secret_prompt, "?key=", "sk-wrong-key", support::UPSTREAM_KEY, "Bearer"] {
        assert!(!lines.contains(secret), "{secret}: {lines}");
    }
}
