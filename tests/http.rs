//! HTTP/1.1 towards clients: what is refused, what is taken, and that nothing is ever read twice.

use std::time::Duration;

use crate::support;
use crate::support::client::{chat, chat_body, find, post};
use crate::support::{
    ADMIN_KEY, Client, Config, Gateway, Upstream, replies_in, request, send_raw, wait_for,
};

/// A request that must never be executed when it stands behind or inside something refused.
const SMUGGLED: &str = "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n\
    authorization: Bearer sk-admin-1\r\ncontent-length: 46\r\n\r\n\
    {\"model\":\"openai-main/smuggled\",\"messages\":[]}";

fn start() -> (Upstream, Gateway) {
    let upstream = Upstream::vendor();
    let gateway = Gateway::start(&Config::to(&upstream).text());
    (upstream, gateway)
}

/// Sends `bytes`, and a further request behind them: there is one answer, it has one of these
/// statuses, the connection is closed, and the upstream hears nothing.
#[track_caller]
fn check_refused(gateway: &Gateway, upstream: &Upstream, bytes: &str, statuses: &[u16]) {
    upstream.forget();
    let all = send_raw(gateway.port, &[bytes.as_bytes(), SMUGGLED.as_bytes()].concat());
    let replies = replies_in(&all);
    let answers = String::from_utf8_lossy(&all);
    assert_eq!(replies.len(), 1, "answers to {bytes:?}: {answers:?}");
    assert!(statuses.contains(&replies[0].status), "{bytes:?}: {answers:?}");
    assert!(replies[0].closes(), "{bytes:?}: {answers:?}");
    assert!(upstream.seen().is_empty(), "{bytes:?} reached the upstream");
}

/// A chat request with these header lines in place of the usual framing, and these body bytes.
fn framed(lines: &str, body: &str) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {ADMIN_KEY}\r\n\
         {lines}\r\n{body}"
    )
}

fn body() -> String {
    chat_body("openai-main/gpt-4.1-mini", false)
}

#[test]
fn forbids_every_doubtful_content_length() {
    let (upstream, gateway) = start();
    for value in [
        "+5",
        "-1",
        "0x10",
        "5,6",
        "5, 5 5",
        "",
        " ",
        "five",
        "5.0",
        "5 5",
        "1e2",
        "٥",
        "18446744073709551616",
        "99999999999999999999999",
        "\u{b}5",
        "5;5",
        "\"5\"",
    ] {
        let bytes = framed(&format!("content-length: {value}\r\n"), "");
        check_refused(&gateway, &upstream, &bytes, &[400, 413]);
    }
    let two = framed("content-length: 5\r\ncontent-length: 6\r\n", "");
    check_refused(&gateway, &upstream, &two, &[400]);
    let list = framed("content-length: 5, 6\r\n", "");
    check_refused(&gateway, &upstream, &list, &[400]);
}

#[test]
fn forbids_every_transfer_encoding_but_chunked() {
    let (upstream, gateway) = start();
    let chunks = "0\r\n\r\n";
    for value in [
        "gzip",
        "chunked, gzip",
        "gzip, chunked",
        "identity",
        "xchunked",
        "chunkedx",
        "chunked;a=b",
        "chunked, chunked",
        "",
        "\"chunked\"",
        "chunked,",
        ", chunked",
        "\u{b}chunked",
        "chunked\0",
    ] {
        let bytes = framed(&format!("transfer-encoding: {value}\r\n"), chunks);
        check_refused(&gateway, &upstream, &bytes, &[400, 501]);
    }
    let two = framed("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", chunks);
    check_refused(&gateway, &upstream, &two, &[400, 501]);
    let blank = framed("transfer-encoding : chunked\r\n", chunks);
    check_refused(&gateway, &upstream, &blank, &[400]);
    let old = framed("transfer-encoding: chunked\r\n", chunks).replace("HTTP/1.1", "HTTP/1.0");
    check_refused(&gateway, &upstream, &old, &[400]);
}

#[test]
fn forbids_length_with_chunked_in_either_order() {
    let (upstream, gateway) = start();
    for lines in [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        "Transfer-Encoding: CHUNKED\r\nContent-Length: 0\r\n",
    ] {
        check_refused(&gateway, &upstream, &framed(lines, "0\r\n\r\n"), &[400]);
    }
}

#[test]
fn forbids_malformed_chunks() {
    let (upstream, gateway) = start();
    for chunks in [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhelloo\r\n0\r\n\r\n",
        "g\r\n",
        "\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        ";a=b\r\nhello\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "10000000000000000\r\n",
        "ffffffffffffffff1\r\n",
        "00000000000000005\r\nhello\r\n0\r\n\r\n",
        "0\r\na: b\nc: d\r\n\r\n",
    ] {
        let bytes = framed("transfer-encoding: chunked\r\n", chunks);
        check_refused(&gateway, &upstream, &bytes, &[400, 413]);
    }
}

#[test]
fn forbids_endless_chunk_extensions_and_trailers() {
    let (upstream, gateway) = start();
    let long = "x".repeat(20_000);
    for chunks in [
        format!("1;{long}\r\na\r\n0\r\n\r\n"),
        format!("0\r\nx: {long}\r\n\r\n"),
        format!("0\r\n{}\r\n", "x: y\r\n".repeat(4_000)),
        "1;aaaaaaaaaaaaaaaaaaaa\r\n \r\n".repeat(1_000),
    ] {
        let bytes = framed("transfer-encoding: chunked\r\n", &chunks);
        check_refused(&gateway, &upstream, &bytes, &[400, 413, 431]);
    }
}

#[test]
fn forbids_malformed_field_lines() {
    let (upstream, gateway) = start();
    for line in [
        "content-length : 0",
        "x y: z",
        "no colon at all",
        ": no name",
        " x: folded at once",
        "x: a\r\n folded: later",
        "x: a\r\n\tfolded",
        "x: a\0b",
        "x: a\rb",
        "x: a\ncontent-length: 0",
        "x(y): z",
        "x\u{7f}: y",
        "é: y",
        "\u{b}x: y",
    ] {
        let bytes = framed(&format!("{line}\r\ncontent-length: 0\r\n"), "");
        check_refused(&gateway, &upstream, &bytes, &[400]);
    }
}

#[test]
fn forbids_malformed_request_lines() {
    let (upstream, gateway) = start();
    let rest = "host: a\r\nauthorization: Bearer sk-admin-1\r\ncontent-length: 0\r\n\r\n";
    for (line, statuses) in [
        ("GET /healthz\r\n", &[400][..]),
        ("GET  /healthz HTTP/1.1\r\n", &[400]),
        ("GET /healthz  HTTP/1.1\r\n", &[400]),
        ("GET /healthz HTTP/1.1 \r\n", &[400]),
        (" GET /healthz HTTP/1.1\r\n", &[400]),
        ("GET\t/healthz\tHTTP/1.1\r\n", &[400]),
        ("GET /health z HTTP/1.1\r\n", &[400]),
        ("GET /health\x01z HTTP/1.1\r\n", &[400]),
        ("GET /health\0z HTTP/1.1\r\n", &[400]),
        ("G(T /healthz HTTP/1.1\r\n", &[400]),
        ("GET /healthz HTTP/1.1\n", &[400]),
        ("GET /healthz http/1.1\r\n", &[400]),
        ("GET /healthz HTTP/1.2\r\n", &[400, 505]),
        ("GET /healthz HTTP/2.0\r\n", &[400, 505]),
        ("GET /healthz HTTP/0.9\r\n", &[400, 505]),
        ("GET /healthz HTTP/1.1.1\r\n", &[400, 505]),
        ("GET /healthz HTTP/11\r\n", &[400, 505]),
        ("GET healthz HTTP/1.1\r\n", &[400]),
        ("GET * HTTP/1.1\r\n", &[400]),
        ("GET a:80 HTTP/1.1\r\n", &[400]),
        ("GET ftp://a/healthz HTTP/1.1\r\n", &[400]),
        ("CONNECT a:80 HTTP/1.1\r\n", &[400, 405, 501]),
        ("PRI * HTTP/2.0\r\n", &[400, 505]),
    ] {
        check_refused(&gateway, &upstream, &format!("{line}{rest}"), statuses);
    }
}

#[test]
fn forbids_a_missing_doubled_or_impossible_host() {
    let (upstream, gateway) = start();
    for hosts in ["", "host: a\r\nhost: a\r\n", "host: a b\r\n", "host: a/b\r\n", "host: a@b\r\n"] {
        let bytes = format!("GET /healthz HTTP/1.1\r\n{hosts}content-length: 0\r\n\r\n");
        check_refused(&gateway, &upstream, &bytes, &[400]);
    }
}

#[test]
fn forbids_tls_and_other_protocols_without_a_crash() {
    let (upstream, gateway) = start();
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"\0\0\0\0\0\0\0\0\r\n\r\n",
        b"\xff\xfe\xfd\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut client = gateway.connect();
        client.send(bytes);
        client.close_write();
        client.read_to_close();
    }
    assert!(upstream.seen().is_empty());
    assert_eq!(gateway.connect().ask(&request("GET", "/healthz", &[], b"")).status, 200);
}

#[test]
fn allows_what_is_merely_unusual() {
    let (upstream, gateway) = start();
    let body = body();
    let length = body.len();
    let chunks = format!("{:X}; ext=\"a;b\" ;flag\r\n{body}\r\n0\r\nx-trailer: y\r\n\r\n", length);
    let zeros = format!("{length:016x}\r\n");
    for bytes in [
        format!("\r\n{}", framed(&format!("content-length: {length}\r\n"), &body)),
        framed(&format!("CoNtEnT-LeNgTh:\t {length} \t\r\n"), &body),
        framed(&format!("content-length:{length}\r\nx-empty:\r\n"), &body),
        framed(&format!("content-length: {length}\r\nx-bytes: \u{e9}\u{4e2d}\r\n"), &body),
        framed("transfer-encoding: Chunked\r\n", &chunks),
        framed("Transfer-Encoding: chunked\r\n", &format!("{zeros}{body}\r\n000\r\n\r\n")),
        framed(&format!("content-length: 000{length}\r\n"), &body),
    ] {
        let reply = gateway.connect().ask(bytes.as_bytes());
        assert_eq!(reply.status, 200, "{bytes:?}: {}", reply.text());
        assert_eq!(upstream.last().json()["model"], "gpt-4.1-mini", "{bytes:?}");
        assert!(upstream.last().header("x-trailer").is_none());
        assert!(upstream.last().header("transfer-encoding").is_none());
    }
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let (upstream, gateway) = start();
    let body = body();
    let split: String = body.chars().map(|letter| format!("1\r\n{letter}\r\n")).collect();
    for bytes in [
        chat("openai-main/gpt-4.1-mini", false),
        framed("transfer-encoding: chunked\r\n", &format!("{split}0\r\n\r\n")).into_bytes(),
    ] {
        let mut client = gateway.connect();
        client.send_bytewise(&bytes);
        let reply = client.reply().expect("an answer");
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(
            upstream.last().text().replace("gpt-4.1-mini", "openai-main/gpt-4.1-mini"),
            body
        );
    }
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let upstream = Upstream::answering(|conn, seen| {
        let number = seen.json()["number"].clone();
        conn.whole(200, format!(r#"{{"number":{number}}}"#));
    });
    let gateway = Gateway::start(&Config::to(&upstream).text());
    let mut bytes = Vec::new();
    for number in 0..20 {
        let body = format!(r#"{{"number":{number},"model":"openai-main/m"}}"#);
        bytes.extend(post("/v1/chat/completions", body));
        bytes.extend(request("GET", "/healthz", &[], b""));
    }
    let mut client = gateway.connect();
    client.send(&bytes);
    for number in 0..20 {
        let reply = client.reply().expect("an answer for each request");
        assert_eq!(reply.json()["number"], number);
        assert_eq!(client.reply().expect("an answer for each request").status, 200);
    }
}

#[test]
fn a_connection_serves_many_requests_and_obeys_connection_close() {
    let (_upstream, gateway) = start();
    let mut client = gateway.connect();
    for _ in 0..50 {
        let reply = client.ask(&chat("openai-main/gpt-4.1-mini", false));
        assert_eq!((reply.status, reply.closes()), (200, false));
    }
    for value in ["close", "Close", "keep-alive, CLOSE", "x-nothing,close"] {
        let key = format!("Bearer {ADMIN_KEY}");
        let headers = [("authorization", key.as_str()), ("connection", value)];
        let mut bytes = request("POST", "/v1/chat/completions", &headers, body().as_bytes());
        bytes.extend(SMUGGLED.as_bytes());
        let replies = replies_in(&send_raw(gateway.port, &bytes));
        assert_eq!(replies.len(), 1, "{value}");
        assert!(replies[0].closes(), "{value}");
    }
}

#[test]
fn a_parked_connection_answers_again() {
    let (_upstream, gateway) = start();
    let mut clients: Vec<Client> = (0..20).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.ask(&chat("openai-main/gpt-4.1-mini", false)).status, 200);
    }
    wait_for("all but the asking connection to be parked", || {
        (gateway.gauge("gproxy_coroutines") < 10.0).then_some(())
    });
    assert!(gateway.gauge("gproxy_connections") >= 20.0);
    for client in &mut clients {
        assert_eq!(client.ask(&chat("openai-main/gpt-4.1-mini", true)).status, 200);
    }
}

#[test]
fn an_unread_body_is_never_read_as_the_next_request() {
    let (upstream, gateway) = start();
    let length = SMUGGLED.len();
    let key = "authorization: Bearer sk-admin-1\r\n";
    for (line, lines) in [
        ("POST /v1/chat/completions", ""),
        ("POST /v1/nothing", key),
        ("DELETE /v1/chat/completions", key),
        ("GET /healthz", ""),
        ("HEAD /", ""),
        ("OPTIONS /v1/chat/completions", ""),
        ("GET /metrics", key),
        ("GET /admin/x", ""),
        ("POST /v1/chat/completions", "authorization: Bearer wrong\r\n"),
    ] {
        for chunked in [false, true] {
            upstream.forget();
            let (framing, body) = if chunked {
                let body = format!("{length:x}\r\n{SMUGGLED}\r\n0\r\n\r\n");
                ("transfer-encoding: chunked\r\n".to_owned(), body)
            } else {
                (format!("content-length: {length}\r\n"), SMUGGLED.to_owned())
            };
            let last = "GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
            let bytes = format!("{line} HTTP/1.1\r\nhost: a\r\n{lines}{framing}\r\n{body}{last}");
            let all = send_raw(gateway.port, bytes.as_bytes());
            let heads = all.windows(9).filter(|part| part == b"HTTP/1.1 ").count();
            let text = String::from_utf8_lossy(&all);
            assert!((1..=2).contains(&heads), "{line} chunked {chunked}: {text}");
            assert!(upstream.seen().is_empty(), "{line} chunked {chunked}: {text}");
        }
    }
}

#[test]
fn a_refusal_is_readable_also_while_a_large_body_is_still_coming() {
    let (_upstream, gateway) = start();
    let large = vec![b'x'; 8 << 20];
    let mut client = gateway.connect();
    client.send(&request("POST", "/v1/chat/completions", &[], &large));
    let reply = client.reply().expect("the answer is not lost to a reset");
    assert_eq!(reply.status, 401);
}

#[test]
fn expect_continue_gets_its_interim_answer_when_the_body_is_wanted() {
    let (_upstream, gateway) = start();
    let body = body();
    let length = format!("content-length: {}\r\n", body.len());
    let mut client = gateway.connect();
    client.send(framed(&format!("{length}Expect: 100-Continue\r\n"), "").as_bytes());
    let interim = client.read_raw(25);
    assert!(interim.starts_with(b"HTTP/1.1 100 "), "{:?}", String::from_utf8_lossy(&interim));
    assert!(interim.ends_with(b"\r\n\r\n"), "{:?}", String::from_utf8_lossy(&interim));
    client.send(body.as_bytes());
    assert_eq!(client.reply().expect("the final answer").status, 200);
    // The body came along unasked: the final answer is what counts.
    let reply = client.ask(framed(&format!("{length}Expect: 100-continue\r\n"), &body).as_bytes());
    assert_eq!(reply.status, 200);
}

#[test]
fn expect_continue_gets_the_refusal_at_once() {
    let upstream = Upstream::vendor();
    let config = Config::to(&upstream).limit("body_bytes_max = 2000");
    let gateway = Gateway::start(&config.text());
    let cases = [
        (framed("content-length: 2001\r\nexpect: 100-continue\r\n", ""), 413),
        (
            framed("content-length: 10\r\nexpect: 100-continue\r\n", "").replace("admin", "none"),
            401,
        ),
        (framed("content-length: 10\r\nexpect: 100-continue\r\n", "").replace("/v1/", "/v9/"), 404),
    ];
    for (bytes, status) in cases {
        let reply = gateway.connect().ask(bytes.as_bytes());
        assert_eq!((reply.status, reply.interim.len()), (status, 0), "{bytes}");
    }
    let reply = gateway
        .connect()
        .ask(framed("content-length: 2\r\nexpect: the-unexpected\r\n", "{}").as_bytes());
    assert!(matches!(reply.status, 400 | 417), "{}", reply.status);
}

#[test]
fn http_1_0_is_never_sent_chunks_or_interim_answers_and_is_closed() {
    let (_upstream, gateway) = start();
    for stream in [false, true] {
        let body = chat_body("openai-main/gpt-4.1-mini", stream);
        let lines = format!("content-length: {}\r\nexpect: 100-continue\r\n", body.len());
        let bytes = framed(&lines, &body).replace("HTTP/1.1", "HTTP/1.0");
        let all = send_raw(gateway.port, bytes.as_bytes());
        let replies = replies_in(&all);
        assert_eq!(replies.len(), 1);
        assert_eq!(replies[0].status, 200);
        assert!(replies[0].header("transfer-encoding").is_none());
        assert_eq!(find(&replies[0].body, b"[DONE]").is_some(), stream);
    }
    let all = send_raw(gateway.port, b"GET /healthz HTTP/1.0\r\n\r\n");
    assert_eq!(replies_in(&all)[0].status, 200);
}

#[test]
fn head_and_health_need_no_key_and_head_has_no_body() {
    let (_upstream, gateway) = start();
    let mut client = gateway.connect();
    for target in ["/", "/healthz"] {
        let reply = client.ask(&request("HEAD", target, &[], b""));
        assert_eq!(reply.status, 200, "HEAD {target}");
    }
    // Claude Code looks at its base URL like this before its first call.
    let reply = client.ask(&request("HEAD", "/openai-main", &[], b""));
    assert!(reply.status < 500, "{}", reply.status);
    let reply = client.ask(&request("GET", "/healthz", &[], b""));
    assert_eq!(reply.status, 200);
    assert!(reply.header("x-gproxy-request-id").is_some());
}

#[test]
fn options_gives_nothing_away_unless_an_origin_is_configured() {
    let preflight = request(
        "OPTIONS",
        "/v1/chat/completions",
        &[
            ("origin", "https://app.test"),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,content-type"),
        ],
        b"",
    );
    let (upstream, gateway) = start();
    let reply = gateway.connect().ask(&preflight);
    assert!(reply.header("access-control-allow-origin").is_none());
    assert!(gateway.connect().ask(&request("OPTIONS", "*", &[], b"")).status < 500);

    let config = Config::to(&upstream).global("cors_origins = [\"https://app.test\"]");
    let gateway = Gateway::start(&config.text());
    let reply = gateway.connect().ask(&preflight);
    assert!(matches!(reply.status, 200 | 204), "{}", reply.status);
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://app.test"));
    let allowed = reply.header("access-control-allow-headers").unwrap_or("").to_lowercase();
    assert!(allowed.contains("authorization") || allowed == "*", "{allowed}");
    let other = String::from_utf8_lossy(&preflight).replace("app.test", "evil.test");
    let reply = gateway.connect().ask(other.as_bytes());
    assert!(reply.header("access-control-allow-origin").is_none());
}

#[test]
fn a_head_is_limited_in_every_direction() {
    let (upstream, gateway) = start();
    let get =
        |target: &str, lines: &str| format!("GET {target} HTTP/1.1\r\nhost: a\r\n{lines}\r\n");
    let query = |length: usize| format!("/healthz?{}", "q".repeat(length));
    for (bytes, status) in [
        (get(&query(8_000), ""), 200),
        (get("/healthz", &"x: y\r\n".repeat(99)), 200),
        (get("/healthz", &format!("x: {}\r\n", "y".repeat(16_000))), 200),
    ] {
        let reply = gateway.connect().ask(bytes.as_bytes());
        assert_eq!(reply.status, status, "{} bytes", bytes.len());
    }
    check_refused(&gateway, &upstream, &get(&query(17_000), ""), &[414]);
    check_refused(&gateway, &upstream, &get("/healthz", &"x: y\r\n".repeat(200)), &[431]);
    let long = format!("x: {}\r\n", "y".repeat(40_000));
    check_refused(&gateway, &upstream, &get("/healthz", &long), &[431]);
    // Without an end in sight, too.
    let endless = format!("GET /healthz HTTP/1.1\r\nhost: a\r\nx: {}", "y".repeat(60_000));
    let replies = replies_in(&send_raw(gateway.port, endless.as_bytes()));
    assert_eq!(replies[0].status, 431);
    let endless = format!("GET /{}", "y".repeat(60_000));
    let replies = replies_in(&send_raw(gateway.port, endless.as_bytes()));
    assert_eq!(replies[0].status, 414);
}

#[test]
fn an_oversized_body_gets_413_declared_or_not_in_every_dialect() {
    let upstream = Upstream::vendor();
    let config = Config::to(&upstream).limit("body_bytes_max = 2000");
    let gateway = Gateway::start(&config.text());
    let key = format!("authorization: Bearer {ADMIN_KEY}\r\n");
    let flash = "/v1beta/models/vertex-main/gemini-1.5-flash:generateContent";
    for target in ["/v1/chat/completions", "/v1/messages", flash] {
        let head = format!("POST {target} HTTP/1.1\r\nhost: a\r\n{key}");
        let declared = format!("{head}content-length: 2001\r\n\r\n");
        let reply = gateway.connect().ask(declared.as_bytes());
        assert_eq!((reply.status, reply.closes()), (413, true), "{target}");
        assert!(!reply.error_message().is_empty());
        let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
        let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n{chunk}{chunk}");
        let reply = gateway.connect().ask(chunked.as_bytes());
        assert_eq!(reply.status, 413, "{target}");
    }
    let mut fitting = body();
    fitting += &" ".repeat(2000 - fitting.len());
    let reply = gateway.connect().ask(&post("/v1/chat/completions", &fitting));
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(upstream.seen().len(), 1);
}

#[test]
fn a_client_that_ends_within_its_request_leaves_nothing_behind() {
    let (upstream, gateway) = start();
    let bytes = chat("openai-main/gpt-4.1-mini", false);
    for cut in [1, 20, bytes.len() / 2, bytes.len() - 1] {
        let mut client = gateway.connect();
        client.send(&bytes[..cut]);
        drop(client);
        let mut client = gateway.connect();
        client.send(&bytes[..cut]);
        client.reset();
    }
    assert!(upstream.seen().is_empty());
    wait_for("the connections to be forgotten", || {
        (gateway.gauge("gproxy_connections") <= 1.0).then_some(())
    });
    assert!(upstream.seen().is_empty());
}

#[test]
fn a_head_that_trickles_is_cut_off_by_an_absolute_limit() {
    let (_upstream, gateway) = start();
    let mut client = gateway.connect();
    client.send(b"GET /healthz HTTP/1.1\r\nhost: a\r\n");
    // A byte a second would keep a limit on silence away for ever.
    let cut = (0..30).any(|_| {
        let answered = !client.is_silent(Duration::from_secs(1));
        answered || client.send_more(b"x").is_err()
    });
    assert!(cut, "still waiting for the head after thirty seconds");
    let all = client.read_to_close();
    assert!(all.is_empty() || all.starts_with(b"HTTP/1.1 408 "), "{all:?}");
}

/// Some libraries and proxies write it with every method.
#[test]
fn a_body_of_no_bytes_is_none() {
    let upstream = Upstream::answering(|conn, _| {
        conn.whole(200, "{}");
    });
    let gateway = Gateway::start(&Config::to(&upstream).text());
    let list = |length: usize, body: &str| {
        let mut client = gateway.connect();
        let key = support::ADMIN_KEY;
        client.ask(
            format!(
                "GET /openai-main/v1/batches HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\
                 content-length: {length}\r\n\r\n{body}"
            )
            .as_bytes(),
        )
    };
    assert_eq!(list(0, "").status, 200);
    assert_eq!(upstream.last().header("content-length"), None);
    assert_eq!(list(1, "x").status, 400);
}
