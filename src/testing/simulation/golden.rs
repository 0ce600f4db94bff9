//! Golden exchanges: what goes in at both ends, and every byte that comes out, on file.
//!
//! `tests/golden/<dialect>/<case>.request` is what the caller sends, `.upstream` what the provider
//! answers (absent: nobody may be called), `.call` what the provider was sent, and `.response` what
//! the caller gets. The gateway is configured by `tests/golden/gateway.toml`. `UPDATE_GOLDEN=1`
//! rewrites the last two; the difference is there to be reviewed.
//!
//! On file, lines of heads end in LF, `content-length` is added where a body has none, and the line
//! end that closes a file is no part of its body. A carriage return that is left is shown as `␍`.
//! What differs from run to run is replaced by `<id>` and `<us>`.
//!
//! An `.upstream` file holds one block for each call, separated by a line `# then`. A block begins
//! with directives: `# fails <phase> <cause>` instead of a reply, with `# reused` when the
//! connection was; `# breaks <cause>` behind the body; `# crlf` when its lines end so; `# slow`
//! when each piece keeps the gateway waiting.

use std::fs;
use std::path::{Path, PathBuf};

use super::connection::{Connection, Step, in_turn};
use super::ends::{End, Outcome, Script, Seen, Wire};
use super::responses::Framing;
use crate::failure::{Cause, Failure, Phase, Sent};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every case, as a path without its extension.
fn cases() -> Vec<PathBuf> {
    let list = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).expect("the folder is there");
        entries.map(|entry| entry.expect("it can be read").path()).collect()
    };
    let folders = list(&folder()).into_iter().filter(|path| path.is_dir());
    let mut cases: Vec<PathBuf> = folders
        .flat_map(|folder| list(&folder))
        .filter(|path| path.extension().is_some_and(|extension| extension == "request"))
        .map(|path| path.with_extension(""))
        .collect();
    cases.sort();
    cases
}

/// Start line, header lines, and body of a message on file.
fn split(text: &str) -> (&str, Vec<(String, String)>, &str) {
    let (head, body) = text.split_once("\n\n").unwrap_or((text.trim_end(), ""));
    let mut lines = head.lines();
    let start = lines.next().expect("a message has a first line");
    let fields = lines.map(|line| {
        let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("no field: {line}"));
        (name.to_owned(), value.to_owned())
    });
    (start, fields.collect(), body.strip_suffix('\n').unwrap_or(body))
}

fn request(text: &str) -> Vec<u8> {
    let (start, mut fields, body) = split(text);
    let is_framed = fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("transfer-encoding"));
    if !body.is_empty() && !is_framed {
        fields.push(("content-length".into(), body.len().to_string()));
    }
    let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{start}\r\n{lines}\r\n{body}").into_bytes()
}

fn outcome(block: &str) -> Outcome {
    let (directives, message): (Vec<&str>, Vec<&str>) =
        block.split_inclusive('\n').partition(|line| line.starts_with("# "));
    let mut failure = Failure {
        phase: Phase::AwaitHead,
        sent: Sent::Part,
        cause: Cause::Disconnected,
        reused: false,
        after_ms: 5,
    };
    let (mut fails, mut breaks, mut crlf, mut slow) = (false, false, false, false);
    for directive in directives {
        let words: Vec<&str> = directive.split_whitespace().collect();
        match words[1..] {
            ["fails", phase, cause] => {
                (failure.phase, failure.cause) = (phase_of(phase), cause_of(cause));
                fails = true;
            }
            ["breaks", cause] => {
                (failure.phase, failure.cause) = (Phase::Relay, cause_of(cause));
                breaks = true;
            }
            ["reused"] => failure.reused = true,
            ["crlf"] => crlf = true,
            ["slow"] => slow = true,
            _ => panic!("unknown directive: {directive}"),
        }
    }
    if fails {
        return Outcome::Fail(failure);
    }
    let message = message.concat();
    let (start, headers, body) = split(&message);
    let status = start.split(' ').nth(1).expect("a status").parse().expect("a number");
    let body = if crlf { body.replace('\n', "\r\n") } else { body.to_owned() };
    let mut script = Script::new(status, "", body.as_bytes());
    let is_sized = headers.iter().any(|(name, _)| name == "content-length");
    script.length = is_sized.then_some(body.len() as u64);
    script.headers = headers;
    script.end = if breaks { End::Fails(body.len(), failure) } else { End::Proper };
    script.waits_first = slow;
    Outcome::Answer(script)
}

fn phase_of(name: &str) -> Phase {
    match name {
        "resolve" => Phase::Resolve,
        "connect" => Phase::Connect,
        "await_head" => Phase::AwaitHead,
        _ => panic!("unknown phase: {name}"),
    }
}

fn cause_of(name: &str) -> Cause {
    match name {
        "no_such_host" => Cause::NoSuchHost,
        "unreachable" => Cause::Unreachable,
        "timed_out" => Cause::TimedOut,
        "disconnected" => Cause::Disconnected,
        _ => panic!("unknown cause: {name}"),
    }
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace('\r', "␍")
}

fn call(seen: &Seen) -> String {
    let mut text = format!("{} {} {}\n", seen.provider, seen.method, seen.url);
    for (name, value) in &seen.headers {
        text.push_str(&format!("{name}: {value}\n"));
    }
    format!("{text}\n{}\n", shown(&seen.body))
}

fn response(connection: &Connection, step: Step) -> String {
    let mut answers = connection.answers();
    assert_eq!(answers.len(), 1, "{}", connection.text());
    let answer = answers.remove(0);
    let id = answer.field("x-gproxy-request-id").expect("it is there").to_owned();
    let framing = match answer.framing {
        Framing::Bodiless => "without a body",
        Framing::Sized(_) => "with a length",
        Framing::Chunked => "in chunks",
        Framing::UntilClose => "until the close",
    };
    let end = if answer.is_whole { "whole" } else { "cut" };
    let then = if step == Step::Again { "goes on" } else { "ends" };
    let mut text =
        format!("# {end}, {framing}; the connection {then}\nHTTP/1.1 {}\n", answer.status);
    for (name, value) in &answer.fields {
        let value = if name == "x-gproxy-overhead-us" { "<us>" } else { value };
        text.push_str(&format!("{name}: {value}\n"));
    }
    format!("{text}\n{}\n", shown(&answer.body)).replace(&id, "<id>")
}

/// Compares with what is on file, or puts it there.
fn check(path: &Path, found: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        match found {
            "" => drop(fs::remove_file(path)),
            _ => fs::write(path, found).expect("it can be written"),
        }
        return;
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    let path = path.display();
    assert_eq!(found, expected, "in {path}; UPDATE_GOLDEN=1 rewrites it");
}

#[test]
fn exchanges_are_as_on_file() {
    let config = read(&folder().join("gateway.toml"));
    let cases = cases();
    assert!(cases.len() >= 30, "{} cases", cases.len());
    for case in cases {
        let upstream = case.with_extension("upstream");
        let blocks = if upstream.exists() { read(&upstream) } else { String::new() };
        let blocks = blocks.split("# then\n").filter(|block| !block.is_empty());
        let author = in_turn(blocks.map(outcome).collect());
        let wire = Wire::new(&request(&read(&case.with_extension("request"))), 0);
        let mut connection = Connection::new(&config, wire, 0, author);
        let step = connection.step();
        connection.check_balance();
        let calls: Vec<String> = connection.seen.borrow().iter().map(call).collect();
        check(&case.with_extension("call"), &calls.join("# then\n"));
        check(&case.with_extension("response"), &response(&connection, step));
    }
}
