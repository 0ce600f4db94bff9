//! What the client gets when the upstream misbehaves, and what the upstream must not get twice.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support;
use crate::support::client::{chat, find, post};
use crate::support::upstream::{Conn, STREAM_HEAD};
use crate::support::{Config, Gateway, Reply, UPSTREAM_KEY, Upstream};

const MODEL: &str = "openai-main/gpt-4.1-mini";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";

fn start(upstream: &Upstream) -> Gateway {
    Gateway::start(&Config::to(upstream).workers(1).text())
}

/// The two ways to an upstream: its first request on a connection, which ureq speaks, and one on a
/// connection that the pool kept.
const POOLED: [bool; 2] = [false, true];

/// An upstream that does `script` with each connection; where `pooled`, after it has served one
/// request there.
fn faulty(pooled: bool, script: impl Fn(&mut Conn) + Send + Sync + 'static) -> Upstream {
    Upstream::scripted(move |conn| {
        if pooled && conn.request().is_some() {
            conn.whole(200, r#"{"model":"warm"}"#);
        }
        script(conn);
    })
}

/// What the client gets from the script of a [`faulty`] upstream.
#[track_caller]
fn ask(gateway: &Gateway, pooled: bool, request: &[u8]) -> Reply {
    let mut client = gateway.connect();
    if pooled {
        assert!(client.ask(&chat(MODEL, false)).text().contains("model"), "the way is open");
    }
    client.ask(request)
}

/// A refusal of our own: the status, JSON that says something, and nothing about the upstream.
#[track_caller]
fn check_own(reply: &Reply, upstream: &Upstream, status: u16, what: &str) {
    assert_eq!(reply.status, status, "{what}: {}", reply.text());
    assert!(reply.complete, "{what}");
    assert_eq!(reply.header("x-gproxy-source"), Some("gateway"), "{what}");
    assert_eq!(reply.header("content-type"), Some("application/json"), "{what}");
    assert!(!reply.error_message().is_empty(), "{what}");
    for secret in [UPSTREAM_KEY.to_owned(), upstream.port.to_string()] {
        assert!(!reply.text().contains(&secret), "{what}: {}", reply.text());
    }
}

#[test]
fn an_upstream_that_refuses_connections_is_a_502() {
    let upstream = Upstream::vendor();
    let closed = support::gateway::free_port();
    let config = Config::to_url(&format!("http://127.0.0.1:{closed}"));
    let gateway = Gateway::start(&config.text());
    for stream in [false, true] {
        let reply = gateway.connect().ask(&chat(MODEL, stream));
        check_own(&reply, &upstream, 502, "refused");
        assert!(!reply.text().contains(&closed.to_string()), "{}", reply.text());
    }
}

#[test]
fn a_host_name_that_does_not_exist_is_a_502_and_blocks_nobody() {
    let upstream = Upstream::vendor();
    let gateway = Gateway::start(&Config::to_url("http://nowhere.invalid").text());
    let reply = gateway.connect().ask(&chat(MODEL, false));
    assert!(matches!(reply.status, 502 | 504), "{}", reply.text());
    assert!(reply.error_message().len() > 3);
    drop(upstream);
}

#[test]
fn an_upstream_that_ends_before_its_answer_is_a_502_and_is_asked_once() {
    for with_reset in [false, true] {
        for begun in ["", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\ncontent-le"] {
            let upstream = Upstream::scripted(move |conn| {
                if conn.request().is_some() {
                    conn.raw(begun);
                    conn.break_off(with_reset);
                }
            });
            let gateway = start(&upstream);
            let reply = gateway.connect().ask(&chat(MODEL, false));
            check_own(&reply, &upstream, 502, begun);
            assert_eq!(upstream.seen().len(), 1, "a fresh connection is never repeated");
        }
    }
}

#[test]
fn a_silent_upstream_is_a_504_at_its_timeout() {
    let upstream = Upstream::answering(|conn, _| {
        conn.wait_closed();
    });
    let config = Config::to(&upstream).timeout("first_byte_ms = 300");
    let gateway = Gateway::start(&config.text());
    for stream in [false, true] {
        let reply = gateway.connect().ask(&chat(MODEL, stream));
        check_own(&reply, &upstream, 504, "silent");
    }
    assert_eq!(upstream.seen().len(), 2, "what was sent whole and unanswered is not repeated");
}

#[test]
fn a_provider_has_timeouts_of_its_own() {
    let upstream = Upstream::answering(|conn, _| {
        conn.wait_closed();
    });
    let config = Config::to(&upstream).setting("timeouts = { first_byte_ms = 300 }");
    let gateway = Gateway::start(&config.text());
    let reply = gateway.connect().ask(&chat(MODEL, false));
    check_own(&reply, &upstream, 504, "silent");
}

#[test]
fn a_model_may_be_silent_for_longer_than_its_provider() {
    let upstream = Upstream::answering(|conn, request| {
        if request.text().contains("slow-model") {
            std::thread::sleep(std::time::Duration::from_millis(900));
            conn.whole(200, "{}");
        } else {
            conn.wait_closed();
        }
    });
    let own = "[[models]]\nprovider_name = \"openai-main\"\nmodel_id = \"slow-model\"\n\
               timeouts = { first_byte_ms = 60000 }";
    let config = Config::to(&upstream).setting("timeouts = { first_byte_ms = 300 }").tail(own);
    let gateway = Gateway::start(&config.text());
    let slow = gateway.connect().ask(&chat("openai-main/slow-model", false));
    assert_eq!(slow.status, 200, "{}", slow.text());
    check_own(&gateway.connect().ask(&chat(MODEL, false)), &upstream, 504, "silent");
}

#[test]
fn an_upstream_that_falls_silent_within_a_reply_is_a_visible_break() {
    for pooled in POOLED {
        let upstream = faulty(pooled, |conn| {
            if conn.request().is_some() {
                conn.stream_head();
                conn.piece("data: {\"id\":\"1\",\"model\":\"m\",\"choices\":[{\"index\":0}]}\n\n");
                conn.wait_closed();
            }
        });
        let config = Config::to(&upstream).timeout("between_bytes_ms = 300");
        let gateway = Gateway::start(&config.text());
        let reply = ask(&gateway, pooled, &chat(MODEL, true));
        assert_eq!(reply.status, 200);
        assert!(!reply.complete, "{}", reply.text());
        assert!(reply.text().contains("\"choices\":[{\"index\":0}]"), "{}", reply.text());
    }
}

/// The limit of all ends with the head of a stream, whether or not its call says that it is one.
#[test]
fn a_living_stream_is_cut_by_no_limit_of_the_whole_however_it_was_asked_for() {
    const EVENT: &str = "data: [\"[DONE]\"]\n\n";
    let upstream = Upstream::answering(|conn, _| {
        conn.stream_head();
        for _ in 0..6 {
            conn.piece(EVENT);
            std::thread::sleep(Duration::from_millis(120));
        }
        conn.end();
    });
    let config = Config::to(&upstream).timeout("total_ms = 400").setting("passthrough = true");
    let gateway = Gateway::start(&config.text());
    let bearer = format!("Bearer {}", support::ADMIN_KEY);
    let fields = [("authorization", &*bearer)];
    let get = |target: &str| support::request("GET", target, &fields, b"");
    let asks = [
        chat(MODEL, true),
        get("/openai-main/v1/responses/resp_1?stream=true"),
        post("/openai-main/v1/threads/thread_1/runs", "{\"stream\":true}"),
        get("/openai-main/v1/tomorrow"),
    ];
    for ask in asks {
        let reply = gateway.connect().ask(&ask);
        assert_eq!((reply.status, reply.complete), (200, true), "{}", reply.text());
        assert_eq!(reply.text(), EVENT.repeat(6));
    }
}

#[test]
fn a_pooled_connection_closed_while_idle_is_replaced_unnoticed() {
    let (closed, was_closed) = channel();
    let closed = Mutex::new(closed);
    let upstream = Upstream::scripted(move |conn| {
        if conn.request().is_some() {
            conn.whole(200, r#"{"model":"m"}"#);
            conn.cut();
            let _ = closed.lock().expect("never poisoned").send(());
        }
    });
    let gateway = start(&upstream);
    let mut client = gateway.connect();
    for round in 1..=5 {
        let reply = client.ask(&chat(MODEL, false));
        assert_eq!(reply.status, 200, "round {round}: {}", reply.text());
        was_closed.recv().expect("the script closes after each answer");
        assert_eq!(upstream.seen().len(), round, "each request was executed once");
    }
}

#[test]
fn a_reused_connection_that_dies_as_the_request_arrives_is_retried_once_at_most() {
    for with_reset in [false, true] {
        let upstream = Upstream::scripted(move |conn| {
            while conn.request().is_some() {
                if conn.index == 0 && conn.requests == 2 {
                    conn.break_off(with_reset);
                }
                conn.whole(200, r#"{"model":"m"}"#);
            }
        });
        let gateway = start(&upstream);
        let mut client = gateway.connect();
        assert_eq!(client.ask(&chat(MODEL, false)).status, 200);
        let reply = client.ask(&chat(MODEL, false));
        assert!(matches!(reply.status, 200 | 502), "{}", reply.text());
        let seen = upstream.seen();
        let connections: Vec<usize> = seen.iter().map(|seen| seen.connection).collect();
        match reply.status {
            200 => assert_eq!(connections, [0, 0, 1]),
            _ => assert_eq!(connections, [0, 0]),
        }
    }
}

#[test]
fn a_retry_that_dies_too_is_a_502_and_the_end() {
    let upstream = Upstream::scripted(|conn| {
        while conn.request().is_some() {
            if conn.index > 0 || conn.requests > 1 {
                return conn.reset();
            }
            conn.whole(200, r#"{"model":"m"}"#);
        }
    });
    let gateway = start(&upstream);
    let mut client = gateway.connect();
    assert_eq!(client.ask(&chat(MODEL, false)).status, 200);
    check_own(&client.ask(&chat(MODEL, false)), &upstream, 502, "twice dead");
    assert!(upstream.seen().len() <= 3, "{} requests", upstream.seen().len());
}

#[test]
fn a_truncated_body_never_ends_as_a_whole_one() {
    let long = format!(r#"{{"model":"m","text":"{}"#, "x".repeat(300_000));
    let cut_length = format!("{OK}content-length: 400000\r\n\r\n{long}");
    let short_length = format!("{OK}content-length: 100\r\n\r\n{{\"model\":\"m\"");
    let chunk = format!("{:x}\r\n{long}\r\n", long.len());
    let no_last = format!("{OK}transfer-encoding: chunked\r\n\r\n{chunk}");
    let mid_chunk = format!("{OK}transfer-encoding: chunked\r\n\r\n{chunk}50\r\nabc");
    let mid_line = format!("{OK}transfer-encoding: chunked\r\n\r\n{chunk}5");
    let bad_chunk = format!("{OK}transfer-encoding: chunked\r\n\r\n{chunk}zz\r\nabc\r\n0\r\n\r\n");
    let half_last = format!("{OK}transfer-encoding: chunked\r\n\r\n{chunk}0\r\n");
    for bytes in [cut_length, short_length, no_last, mid_chunk, mid_line, bad_chunk, half_last] {
        for (with_reset, pooled) in [(false, false), (true, false), (false, true), (true, true)] {
            let what = &bytes[bytes.len().saturating_sub(20)..].to_owned();
            let bytes = bytes.clone();
            let upstream = faulty(pooled, move |conn| {
                if conn.request().is_some() {
                    conn.raw(&bytes);
                    conn.break_off(with_reset);
                }
            });
            let gateway = start(&upstream);
            for model in [MODEL, "chat-default"] {
                let reply = ask(&gateway, pooled, &chat(model, false));
                if reply.complete {
                    let size = reply.body.len();
                    assert_eq!(reply.status, 502, "{size} bytes as a whole body: ...{what}");
                    check_own(&reply, &upstream, 502, what);
                } else {
                    assert_eq!(reply.status, 200, "{what}");
                }
            }
        }
    }
}

#[test]
fn a_body_that_ends_with_its_connection_passes() {
    let close = format!("{OK}connection: close\r\n\r\n{{\"model\":\"m\",\"x\":1}}");
    let old = "HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{\"model\":\"m\",\"x\":1}";
    for (bytes, pooled) in POOLED.into_iter().flat_map(|way| [(&*close, way), (old, way)]) {
        let bytes = bytes.to_owned();
        let upstream = faulty(pooled, move |conn| {
            if conn.request().is_some() {
                conn.raw(&bytes);
                conn.cut();
            }
        });
        let gateway = start(&upstream);
        let reply = ask(&gateway, pooled, &chat(MODEL, false));
        assert_eq!((reply.status, reply.complete), (200, true));
        assert_eq!(reply.text(), format!(r#"{{"model":"{MODEL}","x":1}}"#));
    }
}

#[test]
fn malformed_heads_are_a_502_and_their_connection_is_dropped() {
    let long = "x".repeat(20_000);
    let many = "x: y\r\n".repeat(200);
    for bytes in [
        "nonsense\r\n\r\n".to_owned(),
        "\x16\x03\x01\x02\x00\r\n\r\n".to_owned(),
        "HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\n{}".to_owned(),
        "HTTP/1.1 OK\r\ncontent-length: 2\r\n\r\n{}".to_owned(),
        "HTTP/1.1 20 OK\r\ncontent-length: 2\r\n\r\n{}".to_owned(),
        "HTTP/1.1 2000 OK\r\ncontent-length: 2\r\n\r\n{}".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length : 2\r\n\r\n{}".to_owned(),
        "HTTP/1.1 200 OK\r\nno colon\r\ncontent-length: 2\r\n\r\n{}".to_owned(),
        "HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 2\r\n\r\n{}".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\n{}".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\n{}".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\n{}".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n{}".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 1\r\n\r\n{}".to_owned(),
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n{}".to_owned(),
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
            .to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n\
         2\r\n{}\r\n0\r\n\r\n"
            .to_owned(),
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nxx"
            .to_owned(),
        format!("HTTP/1.1 200 OK\r\nx: {long}\r\ncontent-length: 2\r\n\r\n{{}}"),
        format!("HTTP/1.1 200 OK\r\n{many}content-length: 2\r\n\r\n{{}}"),
    ] {
        for pooled in POOLED {
            let what = &bytes[..bytes.len().min(120)];
            let bytes = bytes.clone();
            let upstream = faulty(pooled, move |conn| {
                if conn.request().is_some() {
                    conn.raw(&bytes);
                    conn.cut();
                }
            });
            let gateway = start(&upstream);
            check_own(&ask(&gateway, pooled, &chat(MODEL, false)), &upstream, 502, what);
            gateway.connect().ask(&chat(MODEL, false));
            assert_eq!(upstream.seen().last().map(|seen| seen.connection), Some(1), "{what}");
        }
    }
}

#[test]
fn interim_answers_are_passed_over() {
    let upstream = Upstream::answering(|conn, _| {
        conn.raw(format!(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n\
             HTTP/1.1 102 Processing\r\n\r\n{OK}content-length: 13\r\n\r\n{{\"model\":\"m\"}}"
        ));
    });
    let gateway = start(&upstream);
    for _ in POOLED {
        let reply = gateway.connect().ask(&chat(MODEL, false));
        assert_eq!((reply.status, reply.interim.len()), (200, 0));
        assert_eq!(reply.json()["model"], MODEL);
    }
    assert_eq!(upstream.accepted(), 1);
}

#[test]
fn a_status_without_a_body_waits_for_none_and_sends_none() {
    for status in ["204 No Content", "304 Not Modified"] {
        let upstream = Upstream::answering(move |conn, _| {
            conn.raw(format!("HTTP/1.1 {status}\r\nx-request-id: abc\r\n\r\n"));
        });
        let gateway = start(&upstream);
        let mut client = gateway.connect();
        for _ in 0..3 {
            let reply = client.ask(&chat(MODEL, false));
            assert_eq!(reply.status.to_string(), status[..3]);
            assert_eq!(reply.header("x-request-id"), Some("abc"));
        }
        assert_eq!(upstream.accepted(), 1, "the connection stays usable after {status}");
    }
}

#[test]
fn a_status_without_a_body_that_declares_one_ends_its_connection() {
    for status in ["204 No Content", "304 Not Modified"] {
        for field in ["content-length: 38", "transfer-encoding: chunked"] {
            let upstream = Upstream::answering(move |conn, _| {
                conn.raw(format!("HTTP/1.1 {status}\r\n{field}\r\n\r\n"));
            });
            let gateway = start(&upstream);
            let mut client = gateway.connect();
            for round in 1..=3 {
                assert_eq!(client.ask(&chat(MODEL, false)).status.to_string(), status[..3]);
                assert_eq!(upstream.accepted(), round, "{status}, {field}: it may come late");
            }
        }
    }
}

#[test]
fn bytes_after_an_answer_are_seen_by_nobody() {
    let evil = "HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n{\"model\":\"evil!\"}";
    let (sent, was_sent) = channel();
    let sent = Mutex::new(sent);
    let turn = AtomicUsize::new(0);
    let upstream = Upstream::scripted(move |conn| {
        while conn.request().is_some() {
            let whole = format!("{OK}content-length: 13\r\n\r\n{{\"model\":\"m\"}}");
            if turn.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
                // In one segment with the answer.
                conn.raw(whole + evil);
            } else {
                // Later, on an idle connection.
                conn.raw(whole);
                conn.raw(evil);
            }
            let _ = sent.lock().expect("never poisoned").send(());
        }
    });
    let gateway = start(&upstream);
    let mut client = gateway.connect();
    for round in 0..8 {
        let reply = client.ask(&chat(MODEL, false));
        assert_eq!(reply.status, 200, "round {round}");
        assert!(find(&reply.body, b"evil").is_none(), "round {round}: {}", reply.text());
        was_sent.recv().expect("the script says when it has written all");
    }
    assert_eq!(upstream.accepted(), 8, "a connection with unasked bytes is not used again");
}

#[test]
fn bytes_after_the_last_chunk_are_seen_by_nobody() {
    let upstream = Upstream::answering(|conn, _| {
        conn.raw(STREAM_HEAD);
        conn.raw("c\r\ndata: [DONE]\r\n2\r\n\n\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\nevil");
    });
    let gateway = start(&upstream);
    let mut client = gateway.connect();
    for _ in 0..4 {
        let reply = client.ask(&chat(MODEL, true));
        assert_eq!(reply.text(), "data: [DONE]\n\n");
        assert!(reply.complete);
    }
}

#[test]
fn redirects_are_never_followed() {
    let other = Upstream::vendor();
    for status in [301, 302, 303, 307, 308] {
        let location = format!("http://127.0.0.1:{}/v1/chat/completions", other.port);
        let upstream = Upstream::answering(move |conn, _| {
            conn.whole_with(status, &format!("location: {location}\r\n"), "{}");
        });
        let gateway = start(&upstream);
        let reply = gateway.connect().ask(&chat(MODEL, false));
        assert!(reply.status == status || reply.status == 502, "{}", reply.status);
        assert_eq!((other.accepted(), upstream.seen().len()), (0, 1));
    }
}

#[test]
fn a_compressed_reply_passes_unchanged_with_its_encoding() {
    let bytes = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xab, 0x56, 0xca, 0xcd];
    let upstream = Upstream::answering(move |conn, _| {
        let headers = "content-type: application/json\r\ncontent-encoding: gzip\r\n";
        conn.whole_with(200, headers, bytes);
    });
    let gateway = start(&upstream);
    let reply = gateway.connect().ask(&chat(MODEL, false));
    assert_eq!(reply.header("content-encoding"), Some("gzip"));
    assert_eq!(reply.body, bytes);
    assert_eq!(upstream.last().header("accept-encoding"), Some("identity"));
}

#[test]
fn an_error_of_the_upstream_passes_unchanged_and_the_connection_stays() {
    let body = "{ \"error\": {\"message\": \"slow  down\", \"type\":\"x\", \"code\": 1e2} }\n";
    let status = Arc::new(AtomicUsize::new(400));
    let upstream = Upstream::answering({
        let status = Arc::clone(&status);
        move |conn, _| {
            let headers = "content-type: application/json\r\nretry-after: 7\r\n\
                retry-after-ms: 6500\r\nx-should-retry: false\r\nx-request-id: req_1\r\n\
                x-ratelimit-remaining-tokens: 0\r\nset-cookie: a=b\r\n";
            conn.whole_with(status.load(Ordering::SeqCst) as u16, headers, body);
        }
    });
    let gateway = start(&upstream);
    let mut client = gateway.connect();
    for code in [400, 401, 403, 404, 409, 422, 429, 500, 502, 503, 529] {
        status.store(code, Ordering::SeqCst);
        for stream in [false, true] {
            let reply = client.ask(&chat(MODEL, stream));
            assert_eq!((reply.status as usize, reply.text().as_str()), (code, body));
            for (name, value) in [
                ("retry-after", "7"),
                ("retry-after-ms", "6500"),
                ("x-should-retry", "false"),
                ("x-request-id", "req_1"),
                ("x-ratelimit-remaining-tokens", "0"),
                ("x-gproxy-source", "upstream"),
            ] {
                assert_eq!(reply.header(name), Some(value), "{code} {name}");
            }
            assert!(reply.header("set-cookie").is_none());
        }
    }
    assert_eq!((upstream.seen().len(), upstream.accepted()), (22, 1));
}

#[test]
fn a_credential_inside_an_error_body_is_masked() {
    let upstream = Upstream::answering(|conn, seen| {
        let key = seen.header("authorization").unwrap_or("").replace("Bearer ", "");
        conn.whole(401, format!(r#"{{"error":{{"message":"wrong key: {key}, {key}."}}}}"#));
    });
    let gateway = start(&upstream);
    let reply = gateway.connect().ask(&chat(MODEL, false));
    assert_eq!(reply.status, 401);
    assert_eq!(reply.error_message(), "wrong key: ***, ***.");
}

#[test]
fn an_answer_before_the_whole_request_was_read_passes() {
    let upstream = Upstream::scripted(|conn| {
        if conn.request_head().is_some() {
            conn.whole_with(413, "connection: close\r\n", r#"{"error":{"message":"too long"}}"#);
            conn.cut();
        }
    });
    let gateway = start(&upstream);
    let body = format!(r#"{{"model":"{MODEL}","x":"{}"}}"#, "x".repeat(8 << 20));
    let reply = gateway.connect().ask(&post("/v1/chat/completions", body));
    assert_eq!((reply.status, reply.error_message()), (413, "too long".to_owned()));
}

#[test]
fn a_head_that_comes_byte_by_byte_is_read() {
    let upstream = Upstream::answering(|conn, _| {
        let bytes = format!("{OK}content-length: 13\r\n\r\n{{\"model\":\"m\"}}");
        conn.raw_in_pieces(bytes.as_bytes(), 1);
    });
    let gateway = start(&upstream);
    for _ in POOLED {
        let reply = gateway.connect().ask(&chat(MODEL, false));
        assert_eq!(reply.json()["model"], MODEL);
    }
    assert_eq!(upstream.accepted(), 1);
}

#[test]
fn proxies_named_in_the_environment_are_ignored() {
    let upstream = Upstream::vendor();
    let dead = "http://127.0.0.1:9";
    let names = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"];
    let environment = names.map(|name| (name, dead));
    let gateway = Gateway::start_with(&Config::to(&upstream).text(), &environment);
    assert_eq!(gateway.connect().ask(&chat(MODEL, false)).status, 200);
}

/// However a request fills the buffers on its way up, the wait behind it is one for the answer.
#[test]
fn a_request_of_any_size_is_waited_for_as_one_that_has_left() {
    let upstream = Upstream::answering(|conn, _| {
        std::thread::sleep(Duration::from_millis(400));
        conn.whole(200, r#"{"model":"m","usage":{"prompt_tokens":1,"completion_tokens":1}}"#);
    });
    let config = Config::to(&upstream);
    let config = config.timeout("between_bytes_ms = 150").timeout("first_byte_ms = 10000");
    let gateway = Gateway::start(&config.text());
    let sizes = (2_500..6_000).step_by(250).chain((68_000..71_000).step_by(250));
    let asked: Vec<_> = sizes
        .map(|size| {
            let body = format!(r#"{{"model":"{MODEL}","x":"{}"}}"#, "x".repeat(size));
            let mut client = gateway.connect();
            client.send(&post("/v1/chat/completions", body));
            (size, client)
        })
        .collect();
    for (size, mut client) in asked {
        let reply = client.reply().expect("an answer");
        assert_eq!(reply.status, 200, "{size}: {}", reply.text());
    }
}
