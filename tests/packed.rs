//! Request bodies that come compressed.

mod support;

use std::io::Write;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use support::client::chat_body;
use support::{ADMIN_KEY, Config, Gateway, Reply, Upstream, request};

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
    let bearer = format!("Bearer {ADMIN_KEY}");
    let fields = [
        ("authorization", bearer.as_str()),
        ("content-type", "multipart/form-data; boundary=b"),
        ("content-encoding", "gzip"),
    ];
    let form = packed("gzip", b"--b--\r\n");
    let form = request("POST", "/v1/audio/transcriptions", &fields, &form);
    let form = gateway.connect().ask(&form);
    assert_eq!(form.status, 415);
    assert!(form.error_message().contains("form"), "{}", form.text());
    assert_eq!(upstream.count(), 0);
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
