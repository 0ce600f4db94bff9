//! Upstreams behind TLS, and behind an outbound proxy.
//!
//! The scripted upstream stays plain; a terminator in front of it speaks TLS with a certificate
//! whose root only `extra_ca_file` makes known, and a proxy in front of it answers CONNECT.

// Helpers outside `#[test]` functions may unwrap too: this whole file is a test.
#![allow(clippy::unwrap_used)]

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};

use crate::support::client::{chat, post};
use crate::support::tls::{file, hasty, listen, terminator};
use crate::support::websocket::{CLOSE, frame};
use crate::support::{ADMIN_KEY, Config, Gateway, UPSTREAM_KEY, Upstream};

const MODEL: &str = "openai-main/gpt-4.1-mini";

/// An outbound proxy; the request lines that it saw, and its port.
fn proxy() -> (Arc<Mutex<Vec<String>>>, u16) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let lines = seen.clone();
    let port = listen(move |mut client| {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if client.read(&mut byte).unwrap_or(0) == 0 {
                return;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let line = head.lines().next().unwrap().to_owned();
        let target = line.split(' ').nth(1).unwrap().to_owned();
        lines.lock().unwrap().push(line);
        let Ok(upstream) = TcpStream::connect(&target) else {
            let _ = client.write_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n");
            return;
        };
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
        let (mut from, mut to) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
        std::thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Both);
        });
        let (mut from, mut to) = (upstream, client);
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
    (seen, port)
}

fn trusted() -> String {
    format!("extra_ca_file = {:?}", file("root.pem"))
}

#[test]
fn an_upstream_behind_tls_answers_whole_and_streamed_on_one_connection() {
    let upstream = Upstream::vendor();
    let secure = terminator(upstream.port);
    let config = Config::to_url(&format!("https://localhost:{secure}")).workers(1);
    let gateway = Gateway::start(&config.global(&trusted()).text());
    let mut client = gateway.connect();
    for stream in [false, true, false] {
        let reply = client.ask(&chat(MODEL, stream));
        assert_eq!((reply.status, reply.complete), (200, true), "{}", reply.text());
        assert!(reply.text().contains(MODEL));
    }
    let bearer = format!("Bearer {UPSTREAM_KEY}");
    assert_eq!(upstream.last().header("authorization"), Some(bearer.as_str()));
    assert_eq!(upstream.accepted(), 1, "the connection is kept");
}

#[test]
fn a_body_that_ends_with_its_connection_passes_through_tls_if_it_says_goodbye() {
    let reply = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\n\r\n\
                 {\"model\":\"m\",\"x\":1}";
    for says_goodbye in [true, false] {
        let secure = hasty(move |stream| {
            stream.write_all(reply.as_bytes()).unwrap();
            if says_goodbye {
                stream.conn.send_close_notify();
            }
            stream.flush().unwrap();
            stream.sock.shutdown(Shutdown::Write).unwrap();
            // A socket that is dropped with unread bytes takes back what it has sent.
            let _ = stream.sock.read_to_end(&mut Vec::new());
        });
        let config = Config::to_url(&format!("https://localhost:{secure}"));
        let gateway = Gateway::start(&config.global(&trusted()).text());
        let reply = gateway.connect().ask(&chat(MODEL, false));
        if says_goodbye {
            assert_eq!((reply.status, reply.complete), (200, true), "{}", reply.text());
            assert_eq!(reply.text(), format!(r#"{{"model":"{MODEL}","x":1}}"#));
        } else {
            assert_eq!(reply.status, 502, "it may have been cut: {}", reply.text());
        }
    }
}

#[test]
fn bytes_after_an_answer_in_its_record_are_seen_by_nobody() {
    let stolen = "HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n{\"model\":\"evil!\"}";
    let upstream = Upstream::answering(move |conn, _| {
        // The answer fills the gateway's room for received bytes, so one read yields just that.
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ";
        let left = 4_096 - head.len() - "1234\r\n\r\n".len();
        let body = format!("{{\"model\":\"m\"}}{:1$}", "", left - "{\"model\":\"m\"}".len());
        let whole = format!("{head}{left}\r\n\r\n{body}");
        assert_eq!(whole.len(), 4_096);
        conn.raw(whole + stolen);
    });
    let secure = terminator(upstream.port);
    let config = Config::to_url(&format!("https://localhost:{secure}")).workers(1);
    let gateway = Gateway::start(&config.global(&trusted()).text());
    let mut client = gateway.connect();
    for round in 1..=3 {
        let reply = client.ask(&chat(MODEL, false));
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.json()["model"], MODEL, "round {round}");
        assert_eq!(upstream.accepted(), round, "the connection is not used again");
    }
}

#[test]
fn an_answer_before_the_whole_request_was_read_passes_through_tls() {
    let secure = hasty(|stream| {
        let body = r#"{"error":{"message":"too long"}}"#;
        let head = "HTTP/1.1 413 Payload Too Large\r\nconnection: close\r\ncontent-length: ";
        write!(stream, "{head}{}\r\n\r\n{body}", body.len()).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
    });
    let config = Config::to_url(&format!("https://localhost:{secure}"));
    let gateway = Gateway::start(&config.global(&trusted()).text());
    let body = format!(r#"{{"model":"{MODEL}","x":"{}"}}"#, "x".repeat(8 << 20));
    let reply = gateway.connect().ask(&post("/v1/chat/completions", body));
    assert_eq!((reply.status, reply.error_message()), (413, "too long".to_owned()));
}

#[test]
fn silence_behind_tls_is_bridged_and_ends_at_its_limit() {
    let upstream = Upstream::answering(|conn, seen| {
        if seen.json()["stream"] == true {
            conn.stream_head();
            conn.piece("data: {}\n\n");
        }
        conn.wait_closed();
    });
    let secure = terminator(upstream.port);
    let config = Config::to_url(&format!("https://localhost:{secure}"));
    let config = config.timeout("first_byte_ms = 400").timeout("between_bytes_ms = 2000");
    let config = config.setting("keepalive_ms = 500").global(&trusted());
    let gateway = Gateway::start(&config.text());
    let reply = gateway.connect().ask(&chat(MODEL, false));
    assert_eq!(reply.status, 504, "{}", reply.text());
    let reply = gateway.connect().ask(&chat(MODEL, true));
    assert_eq!((reply.status, reply.complete), (200, false));
    let text = reply.text();
    assert!(text.starts_with("data: {}\n\n: keep-alive\n: keep-alive\n"), "{text}");
    assert!(text.contains("data: {\"error\":"), "{text}");
}

#[test]
fn a_long_request_and_a_long_reply_pass_through_tls() {
    let upstream = Upstream::vendor();
    let secure = terminator(upstream.port);
    let config = Config::to_url(&format!("https://127.0.0.1:{secure}"));
    let gateway = Gateway::start(&config.global(&trusted()).text());
    let text = "x".repeat(3_000_000);
    let body =
        format!(r#"{{"messages":[{{"role":"user","content":"{text}"}}],"model":"{MODEL}"}}"#);
    let reply = gateway.connect().ask(&post("/v1/chat/completions", &body));
    assert_eq!(reply.status, 200);
    assert_eq!(upstream.last().text(), body.replace(MODEL, "gpt-4.1-mini"));
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused_and_nothing_is_sent() {
    let upstream = Upstream::vendor();
    let secure = terminator(upstream.port);
    let gateway = Gateway::start(&Config::to_url(&format!("https://localhost:{secure}")).text());
    let reply = gateway.connect().ask(&chat(MODEL, false));
    assert_eq!(reply.status, 502);
    assert!(reply.error_message().contains("TLS"), "{}", reply.text());
    assert_eq!(upstream.count(), 0);
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let upstream = Upstream::vendor();
    let secure = terminator(upstream.port);
    let config = Config::to_url(&format!("https://127.0.0.2:{secure}")).global(&trusted());
    // The terminator listens on 127.0.0.1 only: reach it through a proxy that does not mind.
    let forward = listen(move |mut client| {
        let mut head = vec![0; 4_096];
        let _ = client.read(&mut head);
        let _ = client.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        let upstream = TcpStream::connect(("127.0.0.1", secure)).unwrap();
        let (mut from, mut to) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
        std::thread::spawn(move || io::copy(&mut from, &mut to));
        let _ = io::copy(&mut { upstream }, &mut { client });
    });
    let proxy = format!("proxy = \"http://127.0.0.1:{forward}\"");
    let gateway = Gateway::start(&config.global(&proxy).text());
    let reply = gateway.connect().ask(&chat(MODEL, false));
    assert_eq!(reply.status, 502);
    assert!(reply.error_message().contains("TLS"), "{}", reply.text());
    assert_eq!(upstream.count(), 0);
}

#[test]
fn calls_go_through_the_proxy_with_connect_plain_and_secure() {
    let upstream = Upstream::vendor();
    let secure = terminator(upstream.port);
    for (scheme, port) in [("http", upstream.port), ("https", secure)] {
        let (seen, proxy) = proxy();
        let config = Config::to_url(&format!("{scheme}://127.0.0.1:{port}")).workers(1);
        let config =
            config.global(&trusted()).global(&format!("proxy = \"http://127.0.0.1:{proxy}\""));
        let gateway = Gateway::start(&config.text());
        let mut client = gateway.connect();
        for _ in 0..3 {
            let reply = client.ask(&chat(MODEL, false));
            assert_eq!(reply.status, 200, "{scheme}: {}", reply.text());
        }
        let lines = seen.lock().unwrap().clone();
        assert_eq!(lines, [format!("CONNECT 127.0.0.1:{port} HTTP/1.1")], "one tunnel, kept");
    }
}

#[test]
fn a_provider_may_go_past_the_proxy() {
    let upstream = Upstream::vendor();
    let (seen, proxy) = proxy();
    let config = Config::to(&upstream).global(&format!("proxy = \"http://127.0.0.1:{proxy}\""));
    let gateway = Gateway::start(&config.setting("proxy = \"direct\"").text());
    assert_eq!(gateway.connect().ask(&chat(MODEL, false)).status, 200);
    assert!(seen.lock().unwrap().is_empty());
}

#[test]
fn a_proxy_that_does_not_let_us_through_is_a_502() {
    let (_, proxy) = proxy();
    let config = Config::to_url("http://127.0.0.1:1");
    let config = config.global(&format!("proxy = \"http://127.0.0.1:{proxy}\""));
    let gateway = Gateway::start(&config.text());
    let reply = gateway.connect().ask(&chat(MODEL, false));
    assert_eq!(reply.status, 502);
    assert!(reply.error_message().contains("upstream"), "{}", reply.text());
}

#[test]
fn a_websocket_is_dialled_through_tls_and_the_proxy() {
    let upstream = Upstream::answering(|conn, seen| {
        conn.switch(seen, "");
        // Long enough for several records, in both directions.
        while let Some(event) = conn.frame() {
            conn.raw(frame(128 | event.opcode, &event.payload, false));
        }
    });
    let secure = terminator(upstream.port);
    let bearer = format!("Bearer {ADMIN_KEY}");
    for (scheme, port) in [("http", upstream.port), ("https", secure)] {
        let (seen, proxy) = proxy();
        let config = Config::to_url(&format!("{scheme}://127.0.0.1:{port}"));
        let config =
            config.global(&trusted()).global(&format!("proxy = \"http://127.0.0.1:{proxy}\""));
        let gateway = Gateway::start(&config.text());
        let mut client = gateway.connect();
        client.dial("/v1/realtime?model=chat-default", &[("authorization", &bearer)]);
        for length in [10, 100_000] {
            let event = serde_json::json!({ "data": "x".repeat(length) });
            client.tell(&event);
            assert_eq!(client.event(), event);
        }
        client.send(&frame(128 | CLOSE, &1000_u16.to_be_bytes(), true));
        assert_eq!(client.close().code(), 1000);
        let lines = seen.lock().unwrap().clone();
        assert_eq!(lines, [format!("CONNECT 127.0.0.1:{port} HTTP/1.1")]);
    }
}
