//! TLS towards callers: the same answers, the same patience, certificates that are renewed.

// Helpers outside `#[test]` functions may unwrap too: this whole file is a test.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support;
use crate::support::client::{chat, chat_body};
use crate::support::tls::{client_config, file, sealer};
use crate::support::websocket::{CLOSE, frame};
use crate::support::{ADMIN_KEY, Client, Config, DEADLINE, Gateway, Upstream, wait_for};
use rustix::process::Signal;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

const MODEL: &str = "openai-main/gpt-4.1-mini";

/// A gateway that speaks TLS, reached through a sealer as if it did not.
struct Sealed {
    gateway: Gateway,
    /// Where it listens itself.
    port: u16,
}

fn tables(certificate: &str, key: &str, more: &str) -> String {
    format!("[tls]\ncertificate_file = {certificate:?}\nkey_file = {key:?}\n{more}\n")
}

fn shipped(more: &str) -> String {
    let path = |name| file(name).display().to_string();
    tables(&path("leaf.pem"), &path("leaf.key"), more)
}

fn start(config: &Config, tls: &str, client: ClientConfig) -> Sealed {
    let mut gateway = Gateway::spawn(&(tls.to_owned() + &config.text()), &[]);
    gateway.wait_for_line("listening on https://");
    let port = gateway.port;
    gateway.port = sealer(port, client);
    Sealed { gateway, port }
}

fn trusting() -> ClientConfig {
    client_config("root.pem", None)
}

/// Whether a caller who trusts that root gets an answer.
fn answers(port: u16, client: ClientConfig) -> bool {
    let mut client = Client::try_connect(sealer(port, client)).unwrap();
    client.send(&chat(MODEL, false));
    client.reply().is_ok_and(|reply| reply.status == 200)
}

#[test]
fn a_sealed_connection_is_served_parked_and_woken() {
    let upstream = Upstream::vendor();
    let Sealed { gateway, .. } = start(&Config::to(&upstream), &shipped(""), trusting());
    let mut client = gateway.connect();
    for stream in [false, true] {
        let reply = client.ask(&chat(MODEL, stream));
        assert_eq!((reply.status, reply.complete), (200, true), "{}", reply.text());
        assert!(reply.text().contains(MODEL));
    }
    wait_for("a parked connection", || {
        (gateway.gauge("gproxy_connections_parked") == 1.0).then_some(())
    });
    let handshaken = gateway.gauge("gproxy_connections_accepted_total");
    let reply = client.ask(&chat(MODEL, true));
    assert_eq!((reply.status, reply.complete), (200, true));
    // Only our own look at the metrics came anew.
    assert_eq!(gateway.gauge("gproxy_connections_accepted_total"), handshaken + 1.0);
    assert_eq!(gateway.gauge("gproxy_handshakes_failed_total"), 0.0);
}

#[test]
fn long_bodies_pass_sealed_in_both_directions() {
    let upstream = Upstream::answering(|conn, seen| {
        conn.whole(200, seen.text());
    });
    let Sealed { gateway, .. } = start(&Config::to(&upstream), &shipped(""), trusting());
    let text = "x".repeat(3_000_000);
    let body = chat_body("chat-default", false).replace("\"hi\"", &format!("{text:?}"));
    let reply = gateway.connect().ask(&support::client::post("/v1/chat/completions", &body));
    assert_eq!((reply.status, reply.complete), (200, true));
    assert_eq!(reply.body.len(), body.len());
}

#[test]
fn curl_is_answered_in_http_1_1_although_it_offers_more() {
    let upstream = Upstream::vendor();
    let Sealed { gateway: _gateway, port } =
        start(&Config::to(&upstream), &shipped(""), trusting());
    let output = Command::new("curl")
        .args(["-sS", "--http2", "-w", " %{http_code} %{http_version}", "--cacert"])
        .arg(file("root.pem"))
        .args(["-H", &format!("authorization: Bearer {ADMIN_KEY}")])
        .args(["-H", "content-type: application/json", "-d", &chat_body(MODEL, false)])
        .arg(format!("https://localhost:{port}/v1/chat/completions"))
        .output()
        .expect("curl is there");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.ends_with(" 200 1.1"), "{text} {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_sealed_caller_that_leaves_frees_its_upstream() {
    let upstream = Upstream::answering(|conn, _| {
        conn.wait_closed();
    });
    let Sealed { gateway, .. } = start(&Config::to(&upstream), &shipped(""), trusting());
    let mut client = gateway.connect();
    client.send(&chat(MODEL, false));
    upstream.wait_for_requests(1);
    assert_eq!(upstream.open(), 1);
    // Its goodbye lies unread in front of the end.
    drop(client);
    wait_for("the upstream's connection to end", || (upstream.open() == 0).then_some(()));
}

#[test]
fn a_reply_that_breaks_off_ends_sealed_without_a_goodbye() {
    let upstream = Upstream::answering(|conn, _| {
        conn.raw("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n");
        conn.raw("x".repeat(80_000));
        conn.cut();
    });
    let Sealed { gateway, .. } = start(&Config::to(&upstream), &shipped(""), trusting());
    let mut client = gateway.connect();
    let reply = client.ask(&chat(MODEL, false));
    assert!(!reply.complete && reply.body.len() < 100_000, "{}", reply.body.len());
}

#[test]
fn a_websocket_is_served_through_tls() {
    let upstream = Upstream::answering(|conn, seen| {
        conn.switch(seen, "");
        while let Some(event) = conn.frame() {
            conn.raw(frame(128 | event.opcode, &event.payload, false));
        }
    });
    let Sealed { gateway, .. } = start(&Config::to(&upstream), &shipped(""), trusting());
    let mut client = gateway.connect();
    let bearer = format!("Bearer {ADMIN_KEY}");
    client.dial("/v1/realtime?model=chat-default", &[("authorization", &bearer)]);
    for length in [10, 1_000_000] {
        let event = serde_json::json!({ "data": "x".repeat(length) });
        client.tell(&event);
        assert_eq!(client.event(), event);
    }
    client.send(&frame(128 | CLOSE, &1000_u16.to_be_bytes(), true));
    assert_eq!(client.close().code(), 1000);
}

#[test]
fn slow_and_broken_handshakes_are_closed_and_hinder_nobody() {
    let upstream = Upstream::vendor();
    let Sealed { gateway, port } = start(&Config::to(&upstream), &shipped(""), trusting());
    // The first bytes of a record with a ClientHello of 512 bytes.
    let begun = [22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
    let mut slow: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.write_all(&begun).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            stream
        })
        .collect();
    // One goes on, byte by byte: each comes long before a wait is over.
    let mut dripping = slow[0].try_clone().unwrap();
    let drip = std::thread::spawn(move || {
        for _ in 0..200 {
            if dripping.write_all(&[0]).is_err() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        false
    });
    // Who speaks no TLS is told nothing, and closed.
    let mut plain = TcpStream::connect(("127.0.0.1", port)).unwrap();
    plain.write_all(&chat(MODEL, false)).unwrap();
    let mut rest = Vec::new();
    let _ = plain.read_to_end(&mut rest);
    assert!(rest.len() < 16 && !rest.starts_with(b"HTTP"), "{rest:?}");
    assert_eq!(gateway.connect().ask(&chat(MODEL, false)).status, 200);
    for stream in &mut slow {
        let mut byte = [0];
        let cut = stream.read(&mut byte);
        let is_cut = match cut {
            Ok(count) => count == 0,
            // What it sent and nobody read makes it a reset.
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        };
        assert!(is_cut, "a slow handshake is cut");
    }
    assert!(drip.join().unwrap(), "a slow handshake that goes on is cut as well");
    assert_eq!(gateway.gauge("gproxy_handshakes_failed_total"), 101.0);
}

/// Two seconds are theirs. A machine that takes half of them for these lines tells nothing.
#[test]
fn who_is_in_the_handshake_or_behind_it_is_answered_behind_the_signal() {
    let upstream = Upstream::vendor();
    let ask = chat(MODEL, false);
    for _ in 0..10 {
        let Sealed { mut gateway, port } = start(&Config::to(&upstream), &shipped(""), trusting());
        // This one says hello at once, and asks nothing.
        let mut sealed = gateway.connect();
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = ClientConnection::new(Arc::new(trusting()), name).unwrap();
        let mut hello = Vec::new();
        tls.write_tls(&mut hello).unwrap();
        let mut half = TcpStream::connect(("127.0.0.1", port)).unwrap();
        half.set_read_timeout(Some(DEADLINE)).unwrap();
        half.write_all(&hello[..50]).unwrap();
        wait_for("both", || (gateway.gauge("gproxy_connections") >= 3.0).then_some(()));

        let begun = Instant::now();
        gateway.sigterm();
        wait_for("new connections to be refused", || {
            TcpStream::connect(("127.0.0.1", port)).is_err().then_some(())
        });
        std::thread::sleep(Duration::from_millis(100));
        sealed.send(&ask);
        let sent = half.write_all(&hello[50..]);
        let mut half = StreamOwned::new(tls, half);
        let sent = sent.and_then(|()| half.write_all(&ask));
        if begun.elapsed() > Duration::from_secs(1) {
            continue;
        }
        sent.expect("it is open");
        assert_eq!(sealed.reply().expect("an answer").status, 200);
        let mut reply = Vec::new();
        let _ = half.read_to_end(&mut reply);
        assert!(reply.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&reply));
        assert!(gateway.wait_exit().success());
        return;
    }
}

#[test]
fn callers_need_a_certificate_where_one_is_asked_for() {
    let upstream = Upstream::vendor();
    let root = file("root.pem").display().to_string();
    let tls = shipped(&format!("client_ca_file = {root:?}"));
    let known = client_config("root.pem", Some("leaf"));
    let Sealed { gateway, port } = start(&Config::to(&upstream), &tls, known);
    assert_eq!(gateway.connect().ask(&chat(MODEL, false)).status, 200);
    assert!(!answers(port, trusting()), "without a certificate");
    assert!(!answers(port, client_config("root.pem", Some("other"))), "with an unknown one");
    assert_eq!(upstream.count(), 1);
}

#[test]
fn renewed_files_count_and_broken_ones_do_not() {
    let upstream = Upstream::vendor();
    let config = Config::to(&upstream);
    let tls = tables("own.pem", "own.key", "");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("renewed");
    fs::create_dir_all(&folder).unwrap();
    let put = |name: &str| {
        for kind in ["pem", "key"] {
            let there = folder.join(format!("own.{kind}"));
            fs::copy(file(&format!("{name}.{kind}")), there).unwrap();
        }
    };
    put("leaf");
    let tls = tls.replace("own.", &format!("{}/own.", folder.display()));
    let Sealed { mut gateway, port } = start(&config, &tls, trusting());
    let mut open = gateway.connect();
    assert_eq!(open.ask(&chat(MODEL, false)).status, 200);
    // A half-written file: the old one stays, and the log says why.
    fs::write(folder.join("own.pem"), "-----BEGIN CERTIFICATE-----\nMIIB").unwrap();
    gateway.wait_for_line("certificate_file: ");
    assert!(answers(port, trusting()));
    // A good one counts by itself, and the open connection goes on.
    put("other");
    let other = || client_config("other_root.pem", None);
    wait_for("the new certificate", || answers(port, other()).then_some(()));
    assert!(!answers(port, trusting()));
    assert_eq!(open.ask(&chat(MODEL, false)).status, 200);
    // A reload looks at once, and refuses what is broken.
    let front = std::mem::replace(&mut gateway.port, port);
    gateway.rewrite_config(&(shipped("") + &config.text()));
    gateway.signal(Signal::HUP);
    gateway.wait_for_line("reloaded: ");
    assert!(answers(port, trusting()));
    gateway.rewrite_config(&(tables("none.pem", "none.key", "") + &config.text()));
    gateway.signal(Signal::HUP);
    gateway.wait_for_line("tls.certificate_file: none.pem: ");
    assert!(answers(port, trusting()));
    gateway.port = front;
    assert_eq!(open.ask(&chat(MODEL, false)).status, 200);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn bad_files_end_the_start_with_a_mistake() {
    let upstream = Upstream::vendor();
    let path = |name: &str| file(name).display().to_string();
    let (leaf, key) = (path("leaf.pem"), path("leaf.key"));
    let no_root = format!("client_ca_file = {key:?}");
    let rows = [
        (tables("none.pem", &key, ""), "tls.certificate_file: none.pem: "),
        (tables(&key, &key, ""), "leaf.key: no certificate in it"),
        (tables(&leaf, &leaf, ""), "tls.key_file: "),
        (tables(&leaf, &path("other.key"), ""), "does not go with the certificate"),
        (tables(&leaf, &key, &no_root), "tls.client_ca_file: "),
        ("[tls]\ncertificate_file = \"a\"\n".to_owned(), "tls.key_file: "),
    ];
    for (tls, expected) in rows {
        let config = tls.clone() + &Config::to(&upstream).text();
        let mut gateway = Gateway::spawn(&config, &[]);
        assert_eq!(gateway.wait_exit().code(), Some(2), "{tls}");
        let said = gateway.stderr().join("\n");
        assert!(said.contains(expected), "{expected}: {said}");
    }
}
