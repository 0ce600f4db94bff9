//! Bytes per second of the request scanner and the reply rewriter, pathological inputs included.
//!
//!     cargo run --release --manifest-path bench/Cargo.toml --bin micro
//!
//! Each case runs for a fixed time and its result is asserted inside the loop; the best of the rounds
//! counts, since everything else on the machine can only slow a round down.

use std::hint::black_box;
use std::time::{Duration, Instant};

use gproxy::dialect::ask;
use gproxy::dialect::endpoint::{ENDPOINTS, Endpoint};
use gproxy::dialect::rewrite::{Change, Rewriter};

const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(200);
const EVENT_BYTES_MAX: usize = 16 * 1024 * 1024;

fn main() {
    println!("| case | bytes | ns a pass | MB/s |\n| --- | --- | --- | --- |");
    scans();
    wholes();
    streams();
}

fn endpoint(name: &str) -> &'static Endpoint {
    ENDPOINTS.iter().find(|endpoint| endpoint.name == name).expect("the table has it")
}

/// Runs `pass` for some rounds and prints the best one.
fn report(name: &str, bytes: usize, mut pass: impl FnMut()) {
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let mut passes = 0_u32;
        while begun.elapsed() < ROUND {
            pass();
            passes += 1;
        }
        best = best.min(begun.elapsed().as_nanos() as f64 / f64::from(passes));
    }
    println!("| {name} | {bytes} | {best:.0} | {:.0} |", bytes as f64 * 1_000.0 / best);
}

fn scans() {
    let chat = endpoint("chat.completions");
    let turn = r#"{"role":"user","content":"Tell me, in \"plain\" words, what a gateway does."},"#;
    let cases = [
        ("scan: small chat", messages(turn, 2)),
        ("scan: long chat", messages(turn, 12_000)),
        ("scan: one 8 MiB string", messages(&image(8 << 20), 1)),
        ("scan: 20 MB, model last", messages(&image(20_000_000), 1)),
        ("scan: depth at the ceiling", messages(&deep(), 2_000)),
        ("scan: numbers", messages(&numbers(), 200)),
    ];
    for (name, body) in cases {
        report(name, body.len(), || {
            let ask = ask::scan(chat, black_box(&body)).expect("it is JSON");
            assert_eq!(ask.model.as_deref(), Some("gpt-4.1-mini"));
        });
    }
}

fn messages(turn: &str, count: usize) -> Vec<u8> {
    let turns = turn.repeat(count);
    let turns = turns.trim_end_matches(',');
    format!(r#"{{"messages":[{turns}],"model":"gpt-4.1-mini"}}"#).into_bytes()
}

fn image(bytes: usize) -> String {
    format!(r#"{{"role":"user","content":"{}"}},"#, "iVBORw0KGgo".repeat(bytes / 11))
}

fn deep() -> String {
    let depth = 120;
    format!("{}1{},", "[".repeat(depth), "]".repeat(depth))
}

fn numbers() -> String {
    "[0.0123456789,-1.5e-7,1234567890],".repeat(100)
}

fn wholes() {
    let chat = endpoint("chat.completions");
    let text = "All that is gold does not glitter. ".repeat(2_000);
    for (name, reply) in [
        ("whole: small reply", reply("Hello there, how can I help you today?")),
        ("whole: 70 kB reply", reply(&text)),
    ] {
        report(name, reply.len(), || {
            let mut out = Vec::with_capacity(reply.len() + 64);
            let mut rewriter = Rewriter::whole(chat, change());
            for piece in reply.chunks(8 * 1024) {
                rewriter.feed(black_box(piece), &mut out).expect("no event is too long");
            }
            rewriter.finish(&mut out);
            assert_eq!(out.len(), reply.len() - "gpt-4.1-mini-2025-04-14".len() + "fast".len());
        });
    }
}

fn reply(text: &str) -> Vec<u8> {
    format!(
        r#"{{"id":"chatcmpl-1","object":"chat.completion","model":"gpt-4.1-mini-2025-04-14","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":12,"completion_tokens":10,"total_tokens":22}}}}"#
    )
    .into_bytes()
}

fn change() -> Change {
    Change { model: Some("fast".into()), ..Change::default() }
}

fn streams() {
    let chat = endpoint("chat.completions");
    let event = concat!(
        r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"#,
        r#""model":"gpt-4.1-mini-2025-04-14","choices":[{"index":0,"delta":{"content":" the"},"#,
        r#""logprobs":null,"finish_reason":null}],"usage":null}"#,
        "\n\n"
    );
    let stream = event.repeat(20).into_bytes();
    let hide = Change { hide_usage: true, ..change() };
    let nothing = Change::default();
    let cases = [
        ("stream: 20 events, nothing changes", stream.len(), nothing),
        ("stream: 20 events, model", stream.len(), change()),
        ("stream: 20 events, model and usage", stream.len(), hide),
        ("stream: 20 events, byte by byte", 1, change()),
    ];
    for (name, cut, change) in cases {
        report(name, stream.len(), || {
            let mut out = Vec::with_capacity(stream.len());
            let change = change.clone();
            let mut rewriter = Rewriter::stream(chat, change, EVENT_BYTES_MAX);
            for piece in stream.chunks(cut) {
                rewriter.feed(black_box(piece), &mut out).expect("no event is too long");
            }
            rewriter.finish(&mut out);
            assert!(out.ends_with(b"\n\n") && out.len() <= stream.len());
        });
    }
}
