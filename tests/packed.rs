//! Request bodies that come compressed.

use std::io::Write;

use crate::support::client::chat_body;
use crate::support::{ADMIN_KEY, Config, Gateway, Reply, Upstream, request};
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

fn packed(coding: &str, bytes: &[u8]) -> Vec<u8> {
    match coding {
        "gzip" => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(bytes).expect("memory");
            encoder.finish().expect("memory")
        }
        "deflate" => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(bytes).expect("memory");
            encoder.finish().expect("memory")
        }
        "zstd" => compress_to_vec(bytes, CompressionLevel::Fastest),
        _ => bytes.to_vec(),
    }
}

fn ask(gateway: &Gateway, target: &str, coding: &str, body: &[u8]) -> Reply {
    let bearer = format!("Bearer {ADMIN_KEY}");
    let fields = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        ("content-encoding", coding),
    ];
    gateway.connect().ask(&request("POST", target, &fields, body))
}

#[test]
fn a_packed_body_is_read_and_goes_up_unpacked() {
    let upstream = Upstream::vendor();
    let gateway = Gateway::start(&Config::to(&upstream).text());
    let body = chat_body("chat-default", false);
    for coding in ["gzip", "deflate", "zstd", "identity"] {
        let reply = ask(&gateway, "/v1/chat/completions", coding, &packed(coding, body.as_bytes()));
        assert_eq!(reply.status, 200, "{coding}: {}", reply.text());
        assert_eq!(reply.json()["model"], "chat-default");
        let seen = upstream.last();
        assert_eq!(seen.header("content-encoding"), None, "{coding}");
        assert_eq!(seen.text(), body.replace("chat-default", "gpt-4.1-mini"));
    }
    let body = br#"{"contents":[]}"#;
    let target = "/v1beta/models/gemini-default:generateContent";
    assert_eq!(ask(&gateway, target, "zstd", &packed("zstd", body)).status, 200);
    assert_eq!(upstream.last().body, body);
    // Nothing is held any more.
    assert_eq!(gateway.gauge("gproxy_held_bytes"), 0.0);
}

#[test]
fn a_bomb_is_refused_and_the_connection_lives() {
    let upstream = Upstream::vendor();
    let gateway = Gateway::start(&Config::to(&upstream).limit("body_bytes_max = 100000").text());
    let bearer = format!("Bearer {ADMIN_KEY}");
    let mut client = gateway.connect();
    for coding in ["gzip", "deflate", "zstd"] {
        let bomb = packed(coding, &vec![b' '; 20_000_000]);
        // Within the limit as it comes.
        assert!(bomb.len() < 100_000, "{coding}: {}", bomb.len());
        let fields = [("authorization", bearer.as_str()), ("content-encoding", coding)];
        let reply = client.ask(&request("POST", "/v1/messages", &fields, &bomb));
        assert_eq!(reply.status, 413, "{coding}: {}", reply.text());
        assert_eq!(reply.json()["error"]["type"], "request_too_large");
    }
    assert_eq!(upstream.count(), 0);
}

#[test]
fn an_unknown_coding_is_415_and_a_broken_body_400() {
    let upstream = Upstream::vendor();
    let gateway = Gateway::start(&Config::to(&upstream).text());
    let body = chat_body("chat-default", false);
    for coding in ["br", "gzip, gzip", "aes128gcm"] {
        let reply = ask(&gateway, "/v1/chat/completions", coding, body.as_bytes());
        assert_eq!(reply.status, 415, "{coding}");
        assert!(reply.error_message().contains("gzip, zstd or deflate"), "{}", reply.text());
    }
    for coding in ["gzip", "deflate", "zstd"] {
        let reply = ask(&gateway, "/v1/chat/completions", coding, body.as_bytes());
        assert_eq!(reply.status, 400, "{coding}");
        let half = &packed(coding, body.as_bytes())[..20];
        assert_eq!(ask(&gateway, "/v1/chat/completions", coding, half).status, 400, "{coding}");
    }
    assert_eq!(upstream.count(), 0);
}

/// A form with a file of so many bytes, and the model where it is wanted.
fn form(model: &str, file_bytes: usize, model_first: bool) -> Vec<u8> {
    let field = format!("--b\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n");
    let file = b"--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n";
    let bytes: Vec<u8> = (0..file_bytes).map(|at| (at * at / 7) as u8).collect();
    let file = [&file[..], &bytes, b"\r\n"].concat();
    match model_first {
        true => [field.as_bytes(), &file, b"--b--\r\n"].concat(),
        false => [&file, field.as_bytes(), b"--b--\r\n"].concat(),
    }
}

fn send_form(gateway: &Gateway, coding: &str, body: &[u8]) -> Reply {
    let bearer = format!("Bearer {ADMIN_KEY}");
    let fields = [
        ("authorization", bearer.as_str()),
        ("content-type", "multipart/form-data; boundary=b"),
        ("content-encoding", coding),
    ];
    let target = "/v1/audio/transcriptions";
    gateway.connect().ask(&request("POST", target, &fields, body))
}

#[test]
fn a_packed_form_goes_up_unpacked_with_the_model_that_serves() {
    let upstream = Upstream::answering(|conn, _| {
        conn.whole(200, "{}");
    });
    let gateway = Gateway::start(&Config::to(&upstream).text());
    for coding in ["gzip", "deflate", "zstd"] {
        // In memory, on disk once it is unpacked, and on disk before.
        for (file_bytes, model_first) in
            [(10, true), (10, false), (200_000, true), (900_000, false)]
        {
            let body = packed(coding, &form("chat-default", file_bytes, model_first));
            let reply = send_form(&gateway, coding, &body);
            assert_eq!(reply.status, 200, "{coding} {file_bytes}: {}", reply.text());
            let seen = upstream.last();
            let plain = form("gpt-4.1-mini", file_bytes, model_first);
            assert!(seen.body == plain, "{coding} {file_bytes}: {} bytes", seen.body.len());
            assert_eq!(seen.header("content-length"), Some(plain.len().to_string().as_str()));
            assert_eq!(seen.header("content-encoding"), None);
        }
    }
    assert_eq!(gateway.gauge("gproxy_held_bytes"), 0.0);
}

#[test]
fn a_packed_form_is_refused_before_anybody_is_called() {
    let upstream = Upstream::vendor();
    let limit = "upload_bytes_max = 1048576";
    let gateway = Gateway::start(&Config::to(&upstream).limit(limit).text());
    for coding in ["gzip", "deflate", "zstd"] {
        let sound = packed(coding, &form("chat-default", 5_000, true));
        let bomb = [form("chat-default", 10, true), vec![b' '; 20_000_000]].concat();
        let bomb = packed(coding, &bomb);
        assert!(bomb.len() < 100_000, "{coding}: {}", bomb.len());
        let garbage = [&sound[..], b"garbage"].concat();
        let twice = [form("chat-default", 10, true), form("gpt-4.1-mini", 10, true)].concat();
        let twice = String::from_utf8(twice).unwrap().replacen("--b--\r\n", "", 1);
        for (body, status) in [
            (&bomb[..], 413),
            (&sound[..sound.len() / 2], 400),
            (&garbage, 400),
            (b"--b--\r\n", 400),
            (&packed(coding, twice.as_bytes()), 400),
            (&packed(coding, &form("nobody/has-it", 10, false)), 400),
        ] {
            let reply = send_form(&gateway, coding, body);
            assert_eq!(reply.status, status, "{coding}, {} bytes: {}", body.len(), reply.text());
        }
    }
    assert_eq!(send_form(&gateway, "br", b"x").status, 415);
    assert_eq!(upstream.count(), 0);
    assert_eq!(gateway.gauge("gproxy_held_bytes"), 0.0);
}

#[test]
fn a_packed_form_of_any_size_is_not_held() {
    let megabytes = 300;
    let upstream = Upstream::scripted(|conn| {
        while let Some(seen) = conn.request_head() {
            let length: usize = seen.header("content-length").unwrap().parse().unwrap();
            let read = conn.discard(length);
            conn.whole(200, format!("{{\"bytes\":{read}}}"));
        }
    });
    let gateway = Gateway::start(&Config::to(&upstream).text());
    let before = gateway.resident_peak_kib();
    for coding in ["gzip", "zstd"] {
        let mut plain = form("chat-default", 10, true);
        plain.resize(megabytes << 20, b' ');
        let reply = send_form(&gateway, coding, &packed(coding, &plain));
        let served = plain.len() - "chat-default".len() + "gpt-4.1-mini".len();
        assert_eq!(reply.json()["bytes"], served, "{coding}: {}", reply.text());
    }
    let grown = gateway.resident_peak_kib() - before;
    assert!(grown < 40 * 1024, "{grown} KiB more at the peak");
}

#[test]
fn what_names_no_model_passes_packed() {
    let upstream = Upstream::vendor();
    let gateway = Gateway::start(&Config::to(&upstream).text());
    let body = packed("gzip", br#"{"endpoint":"/v1/responses"}"#);
    ask(&gateway, "/openai-main/v1/batches", "gzip", &body);
    let seen = upstream.last();
    assert_eq!(seen.header("content-encoding"), Some("gzip"));
    assert_eq!(seen.body, body);
}
