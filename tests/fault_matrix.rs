//! Every fault of an upstream, in every dialect, whole and streamed, before and after the first
//! byte: what the client gets, what the pool learns, and what the books hold.
//!
//! Each row of the table is one fault. A pool of two credentials meets it with the first; the
//! metrics show whether that credential was given a rest, and the books of each gateway balance.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::client::post;
use crate::support::upstream::Conn;
use crate::support::vendor;
use crate::support::{ADMIN_KEY, Gateway, Reply, Upstream};
use serde_json::Value;

/// One call of a dialect, whole or streamed.
struct Case {
    name: &'static str,
    target: &'static str,
    body: &'static str,
    stream: bool,
    /// What the dialect's error looks like in a stream.
    event: &'static str,
    /// The vendor's answer says what was used.
    tells_usage: bool,
}

const CASES: [Case; 13] = [
    whole("chat", "/v1/chat/completions", r#"{"model":"p/m","messages":[]}"#),
    stream(
        "chat stream",
        "/v1/chat/completions",
        r#"{"model":"p/m","stream":true,"messages":[]}"#,
        "data: {\"error\":{\"message\":",
    ),
    whole("completions", "/v1/completions", r#"{"model":"p/m","prompt":"x"}"#),
    stream(
        "completions stream",
        "/v1/completions",
        r#"{"model":"p/m","stream":true,"prompt":"x"}"#,
        "data: {\"error\":{\"message\":",
    ),
    whole("responses", "/v1/responses", r#"{"model":"p/m","input":"x"}"#),
    stream(
        "responses stream",
        "/v1/responses",
        r#"{"model":"p/m","stream":true,"input":"x"}"#,
        "event: error\ndata: {\"type\":\"error\",\"code\":",
    ),
    whole("messages", "/v1/messages", r#"{"model":"p/m","max_tokens":9,"messages":[]}"#),
    stream(
        "messages stream",
        "/v1/messages",
        r#"{"model":"p/m","max_tokens":9,"stream":true,"messages":[]}"#,
        "event: error\ndata: {\"type\":\"error\",\"error\":",
    ),
    whole("gemini", "/v1beta/models/p/m:generateContent", "{}"),
    stream(
        "gemini stream",
        "/v1beta/models/p/m:streamGenerateContent?alt=sse",
        "{}",
        "data: {\"error\":{\"code\":",
    ),
    // Gemini's other form of a stream, one JSON array: nothing in it could be an error.
    whole("gemini array", "/v1beta/models/p/m:streamGenerateContent", "{}"),
    whole("embeddings", "/v1/embeddings", r#"{"model":"p/m","input":"x"}"#),
    Case {
        tells_usage: false,
        ..whole("gemini embeddings", "/v1beta/models/p/m:embedContent", "{}")
    },
];

const fn whole(name: &'static str, target: &'static str, body: &'static str) -> Case {
    Case { name, target, body, stream: false, event: "", tells_usage: true }
}

const fn stream(
    name: &'static str,
    target: &'static str,
    body: &'static str,
    event: &'static str,
) -> Case {
    Case { name, target, body, stream: true, event, tells_usage: true }
}

/// What an upstream does.
#[derive(Clone, Copy)]
enum Fault {
    /// Closes or resets before a byte of the answer.
    EndsBefore { reset: bool },
    /// Says nothing.
    Silent,
    /// Sends bytes that are no answer.
    Garbage(&'static str),
    /// Refuses with this status.
    Status(u16),
    /// Refuses with this status, and breaks off or falls silent within its answer.
    BrokenStatus { status: u16, silent: bool },
    /// Sends the beginning of a sound answer, and closes or resets.
    EndsWithin { reset: bool },
    /// Announces more bytes than it sends, and closes.
    Short,
    /// Sends the beginning of a sound answer, and nothing more.
    SilentWithin,
    /// Sends the beginning, and then a chunk that is none.
    GarbageWithin,
}

/// What comes of it.
struct Row {
    fault: Fault,
    what: &'static str,
    client: Client,
    /// The credential that met it rests, or is disabled: the next calls go to the other.
    rests: bool,
    /// Attempts of the first call.
    attempts: u64,
    outcome: &'static str,
}

/// What the client gets.
#[derive(Clone, Copy, PartialEq)]
enum Client {
    /// The other credential's answer: nothing of the fault.
    Served,
    /// An error of ours.
    Ours(u16),
    /// The upstream's error, as it came.
    Theirs(u16),
    /// The beginning, then a visible break: in a stream behind the dialect's error event.
    Cut,
}

const ROWS: &[Row] = &[
    row(Fault::EndsBefore { reset: false }, "closes", Client::Ours(502), true, 1, "refused"),
    row(Fault::EndsBefore { reset: true }, "resets", Client::Ours(502), true, 1, "refused"),
    row(Fault::Silent, "silent", Client::Ours(504), true, 1, "refused"),
    row(Fault::Garbage("nonsense\r\n\r\n"), "no HTTP", Client::Ours(502), true, 1, "refused"),
    row(
        Fault::Garbage("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx"),
        "two lengths",
        Client::Ours(502),
        true,
        1,
        "refused",
    ),
    row(Fault::Status(400), "400", Client::Theirs(400), false, 1, "ok"),
    row(Fault::Status(404), "404", Client::Theirs(404), false, 1, "ok"),
    row(Fault::Status(422), "422", Client::Theirs(422), false, 1, "ok"),
    row(Fault::Status(501), "501", Client::Theirs(501), false, 1, "ok"),
    row(Fault::Status(401), "401", Client::Served, true, 2, "ok"),
    row(Fault::Status(402), "402", Client::Served, true, 2, "ok"),
    row(Fault::Status(403), "403", Client::Served, true, 2, "ok"),
    row(Fault::Status(429), "429", Client::Served, true, 2, "ok"),
    row(Fault::Status(500), "500", Client::Served, true, 2, "ok"),
    row(Fault::Status(503), "503", Client::Served, true, 2, "ok"),
    row(Fault::Status(529), "529", Client::Served, true, 2, "ok"),
    row(
        Fault::BrokenStatus { status: 500, silent: false },
        "500 cut",
        Client::Served,
        true,
        2,
        "ok",
    ),
    row(
        Fault::BrokenStatus { status: 429, silent: true },
        "429 silent",
        Client::Served,
        true,
        2,
        "ok",
    ),
    row(Fault::EndsWithin { reset: false }, "closes within", Client::Cut, false, 1, "cut"),
    row(Fault::EndsWithin { reset: true }, "resets within", Client::Cut, false, 1, "cut"),
    row(Fault::Short, "short", Client::Cut, false, 1, "cut"),
    row(Fault::SilentWithin, "silent within", Client::Cut, false, 1, "cut"),
    row(Fault::GarbageWithin, "garbage within", Client::Cut, false, 1, "cut"),
];

const fn row(
    fault: Fault,
    what: &'static str,
    client: Client,
    rests: bool,
    attempts: u64,
    outcome: &'static str,
) -> Row {
    Row { fault, what, client, rests, attempts, outcome }
}

/// The first part of a sound answer of this kind; more would follow.
fn beginning(conn: &mut Conn, stream: bool) {
    if stream {
        conn.stream_head();
        conn.piece("data: {\"begun\":1}\n\ndata: {\"ha");
    } else {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
                    transfer-encoding: chunked\r\n\r\n";
        conn.raw(head);
        // Longer than what is held for an exact length.
        conn.piece(format!("{{\"text\":\"{}", "x".repeat(100_000)));
    }
}

fn commit(fault: Fault, conn: &mut Conn, stream: bool) {
    match fault {
        Fault::EndsBefore { reset } => conn.break_off(reset),
        Fault::Silent => drop(conn.wait_closed()),
        Fault::Garbage(bytes) => {
            conn.raw(bytes);
            conn.cut();
        }
        Fault::Status(status) => {
            conn.whole(status, r#"{"error":{"message":"no","type":"x"}}"#);
        }
        Fault::BrokenStatus { status, silent } => {
            conn.raw(format!("HTTP/1.1 {status} No\r\ncontent-length: 100\r\n\r\n{{\"error\":"));
            match silent {
                true => drop(conn.wait_closed()),
                false => conn.cut(),
            }
        }
        Fault::Short => {
            let kind = if stream { "text/event-stream" } else { "application/json" };
            let begun = match stream {
                true => "data: {\"begun\":1}\n\ndata: {\"ha".to_owned(),
                false => format!("{{\"text\":\"{}", "x".repeat(100_000)),
            };
            let head = format!("content-type: {kind}\r\ncontent-length: 200000\r\n\r\n");
            conn.raw(format!("HTTP/1.1 200 OK\r\n{head}{begun}"));
            conn.cut();
        }
        Fault::EndsWithin { reset } => {
            beginning(conn, stream);
            conn.break_off(reset);
        }
        Fault::SilentWithin => {
            beginning(conn, stream);
            conn.wait_closed();
        }
        Fault::GarbageWithin => {
            beginning(conn, stream);
            conn.raw("zz\r\nno chunk\r\n");
            conn.cut();
        }
    }
}

const FAULTY: &str = "cred-faulty";

/// Meets every call with the first credential with the fault, and serves the second's.
fn upstream(fault: Fault, stream: bool) -> Upstream {
    Upstream::answering(move |conn, seen| {
        let fields = ["authorization", "x-api-key", "x-goog-api-key"];
        let is_faulty = fields
            .iter()
            .any(|name| seen.header(name).is_some_and(|value| value.ends_with(FAULTY)));
        match is_faulty {
            true => commit(fault, conn, stream),
            false => vendor::answer(conn, seen),
        }
    })
}

fn config(port: u16, folder: &Path, fault: Fault) -> String {
    let is_silent = matches!(
        fault,
        Fault::Silent | Fault::SilentWithin | Fault::BrokenStatus { silent: true, .. }
    );
    // Where nobody is silent a busy machine must not be taken for somebody who is.
    let wait_ms = if is_silent { 300 } else { 60_000 };
    format!(
        "[global]\nport = 0\nworkers = 1\ndata_dir = \"{}\"\n\
         [timeouts]\nfirst_byte_ms = {wait_ms}\nbetween_bytes_ms = {wait_ms}\n\
         [[providers]]\nname = \"p\"\nchannel = \"custom\"\n\
         credentials = [{{ api_key = \"{FAULTY}\" }}, {{ api_key = \"cred-sound\" }}]\n\
         settings = {{ base_url = \"http://127.0.0.1:{port}\" }}\n\
         [[users]]\nname = \"admin\"\nis_admin = true\nkeys = [{{ api_key = \"{ADMIN_KEY}\" }}]\n\
         [[permissions]]\nuser_name = \"admin\"\nmodel_pattern = \"*\"\n",
        folder.display()
    )
}

#[track_caller]
fn check_client(row: &Row, case: &Case, reply: &Reply) {
    let what = format!("{}, {}: {} {}", row.what, case.name, reply.status, reply.text());
    let what = &what[..what.len().min(400)];
    match row.client {
        Client::Served => assert_eq!((reply.status, reply.complete), (200, true), "{what}"),
        Client::Ours(status) => {
            assert_eq!((reply.status, reply.complete), (status, true), "{what}");
            assert_eq!(reply.header("x-gproxy-source"), Some("gateway"), "{what}");
            assert!(!reply.error_message().is_empty(), "{what}");
        }
        Client::Theirs(status) => {
            assert_eq!((reply.status, reply.complete), (status, true), "{what}");
            assert_eq!(reply.header("x-gproxy-source"), Some("upstream"), "{what}");
            assert_eq!(reply.error_message(), "no", "{what}");
        }
        // The break may come before anything of the answer was passed on.
        Client::Cut if reply.complete => {
            assert!(matches!(reply.status, 502 | 504), "{what}");
            assert_eq!(reply.header("x-gproxy-source"), Some("gateway"), "{what}");
        }
        Client::Cut => {
            assert_eq!((reply.status, reply.complete), (200, false), "{what}");
            if case.stream {
                let begun = "data: {\"begun\":1}\n\n";
                let text = reply.text();
                let rest = text.strip_prefix(begun).unwrap_or_else(|| panic!("{what}"));
                assert!(rest.starts_with(case.event), "{what}");
                assert!(rest.trim_end().ends_with('}') && !text.contains("[DONE]"), "{what}");
            }
        }
    }
}

/// The rows of the books, as `gproxy usage --json` prints them.
fn books(folder: &Path, text: &str) -> Vec<Value> {
    let file = folder.join("config.toml");
    std::fs::write(&file, text).expect("the folder is ours");
    let told = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gproxy"));
        let output = command.args(arguments).arg("--config").arg(&file).output();
        output.expect("cargo built the binary for this test")
    };
    let audit = told(&["audit"]);
    assert!(audit.status.success(), "the books balance: {audit:?}");
    let output = told(&["usage", "--json"]);
    let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("a row is JSON")).collect()
}

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("cargo made the folder above");
    folder
}

fn check(row: &Row, case: &Case) {
    let name = format!("matrix-{}-{}", row.what, case.name).replace(' ', "-");
    let folder = folder(&name);
    let upstream = upstream(row.fault, case.stream);
    let text = config(upstream.port, &folder, row.fault);
    let gateway = Gateway::start(&text);
    let what = format!("{}, {}", row.what, case.name);

    let reply = gateway.connect().ask(&post(case.target, case.body));
    check_client(row, case, &reply);
    let metrics = gateway.metrics();
    assert_eq!(metrics["gproxy_attempts_total"] as u64, row.attempts, "{what}");
    let learned =
        metrics["gproxy_credentials_cooled_total"] + metrics["gproxy_credentials_disabled_total"];
    assert_eq!(learned as u64, u64::from(row.rests), "what the pool learned: {what}");

    assert!(gateway.stop().success());
    let rows = books(&folder, &text);
    assert_eq!(rows.len(), 1, "one row for the request: {what}: {rows:?}");
    let outcome = match row.client {
        Client::Cut if reply.complete => "refused",
        _ => row.outcome,
    };
    let expected: [Value; 3] = [reply.status.into(), outcome.into(), row.attempts.into()];
    let found = ["status", "outcome", "attempts"].map(|key| rows[0][key].clone());
    assert_eq!(found, expected, "{what}: {:?}", rows[0]);
    let source = rows[0]["usage_source"].as_str().unwrap_or_default();
    match row.client {
        Client::Served if case.tells_usage => assert_eq!(source, "upstream", "{what}"),
        Client::Served => assert_ne!(source, "upstream", "{what}"),
        // An answer that broke off counts what went by of it, whatever that is.
        Client::Cut => assert!(["estimated", "partial", "none"].contains(&source), "{what}"),
        Client::Ours(_) | Client::Theirs(_) => assert_eq!(source, "none", "{what}"),
    }
    let _ = std::fs::remove_dir_all(&folder);
}

/// The dialects side by side, one fault after the other.
fn check_all(chosen: impl Fn(&&Row) -> bool) {
    for row in ROWS.iter().filter(chosen) {
        std::thread::scope(|scope| {
            CASES.iter().for_each(|case| drop(scope.spawn(|| check(row, case))));
        });
    }
}

#[test]
fn each_fault_before_the_first_byte_in_each_dialect() {
    check_all(|row| row.client != Client::Cut);
}

#[test]
fn each_fault_after_the_first_byte_in_each_dialect() {
    check_all(|row| row.client == Client::Cut);
}
