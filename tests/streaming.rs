//! Streams: byte for byte, event by event, never a polite end to a broken answer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support;
use crate::support::client::{chat, chat_body, find, post};
use crate::support::upstream::STREAM_HEAD;
use crate::support::vendor::{anthropic_stream, chat_stream, gemini_stream, responses_stream};
use crate::support::{Client, Config, Gateway, Reply, Upstream, wait_for};

const MODEL: &str = "openai-main/gpt-4.1-mini";
const SCOPED: &str = "/openai-main/v1/chat/completions";

fn start(upstream: &Upstream) -> Gateway {
    Gateway::start(&Config::to(upstream).text())
}

/// An upstream whose every reply is this stream, written in pieces of `size` bytes.
fn streaming(body: impl Into<Vec<u8>>, size: usize) -> Upstream {
    let body = body.into();
    Upstream::answering(move |conn, _| {
        conn.stream_head();
        body.chunks(size).all(|piece| conn.piece(piece));
        conn.end();
    })
}

/// A stream of every dialect: path, request body, and the upstream's bytes for a model.
type Dialect = (&'static str, &'static str, fn(&str) -> String);

fn chat_plain(model: &str) -> String {
    chat_stream(model, false)
}

const DIALECTS: [Dialect; 4] = [
    ("/v1/chat/completions", r#"{"model":"router/m","messages":[],"stream":true}"#, chat_plain),
    ("/v1/responses", r#"{"model":"router/m","input":"x","stream":true}"#, responses_stream),
    ("/v1/messages", r#"{"model":"router/m","messages":[],"stream":true}"#, anthropic_stream),
    ("/v1beta/models/router/m:streamGenerateContent?alt=sse", "{}", gemini_stream),
];

const LAST: &str = "data: [DONE]\n\n";

#[test]
fn a_stream_with_nothing_to_restore_is_byte_identical_however_it_is_cut() {
    let odd = "\u{feff}: hello\n\ndata: {\"model\":\"m\" , \"x\":1e2,\"id\":\"\\u00e9é\"}\r\n\r\n\
        event: a\rdata:{\"choices\":[] }\r\rid: 7\nretry: 10\n\ndata\n\nunknown: field\n\
        data: one\ndata: two\n\n\n\n: comment\n\ndata: \u{1F600}\n\ndata: [DONE]\n\n";
    let mut bytes = odd.as_bytes().to_vec();
    bytes.extend(b"data: \xff\xfe\x80 not text\n\ndata: {broken\n\ndata: unfinished");
    for size in [1, 2, 3, 5, 7, 64, 100_000] {
        let upstream = streaming(bytes.clone(), size);
        let config = Config::to(&upstream).setting("include_usage = false");
        let gateway = Gateway::start(&config.text());
        let reply = gateway.connect().ask(&post(SCOPED, chat_body("m", true)));
        assert!(reply.complete, "pieces of {size}");
        assert_eq!(reply.body, bytes, "pieces of {size}: {}", reply.text());
    }
}

#[test]
fn only_the_name_changes_in_every_dialect_however_it_is_cut() {
    for (target, body, stream) in DIALECTS {
        for size in [1, 3, 7, 100_000] {
            let upstream = streaming(stream("m-2025-04-14"), size);
            let gateway = start(&upstream);
            let reply = gateway.connect().ask(&post(target, body));
            assert_eq!(reply.text(), stream("router/m"), "{target} in pieces of {size}");
        }
    }
}

#[test]
fn a_name_is_restored_by_its_place_and_not_by_its_text() {
    let event = |model: &str| {
        format!(
            "data: {{\"choices\":[{{\"delta\":{{\"content\":\"\\\"model\\\":\\\"m-1\\\"\",\
             \"model\":\"m-1\"}}}}],\"mod\\u0065l\":{model},\"x\":{{\"model\":\"m-1\"}}}}\n\n"
        )
    };
    let upstream = streaming(event("\"m-\\u0031\"") + &event("\"\"") + &event("null") + LAST, 4);
    let gateway = start(&upstream);
    let reply = gateway.connect().ask(&chat(MODEL, true));
    let named = event(&format!("\"{MODEL}\""));
    assert_eq!(reply.text(), format!("{named}{named}{}{LAST}", event("null")));
}

#[test]
fn an_alias_with_quotes_is_written_as_json() {
    let upstream = streaming("data: {\"model\":\"m\"}\n\n", 100);
    let alias = "[[model_aliases]]\nalias = 'say \"hi\" \\'\nprovider_name = \"openai-main\"\n\
        model_id = \"m\"\n";
    let gateway = Gateway::start(&Config::to(&upstream).tail(alias).text());
    let body = r#"{"model":"say \"hi\" \\","messages":[],"stream":true}"#;
    let reply = gateway.connect().ask(&post("/v1/chat/completions", body));
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.events()[0]["model"], "say \"hi\" \\");
    assert_eq!(upstream.last().json()["model"], "m");
}

/// An upstream that writes its next piece when it is told to.
fn on_command(pieces: &'static [&'static str]) -> (Upstream, Sender<()>) {
    let (go, wait): (Sender<()>, Receiver<()>) = channel();
    let wait = Mutex::new(wait);
    let upstream = Upstream::answering(move |conn, _| {
        conn.stream_head();
        for piece in pieces {
            conn.piece(piece);
            if wait.lock().expect("never poisoned").recv().is_err() {
                return;
            }
        }
        conn.end();
    });
    (upstream, go)
}

#[test]
fn each_event_leaves_before_the_next_one_arrives() {
    let pieces = &[
        ": waiting\n\n",
        "data: {\"model\":\"m\",\"choices\":[{\"n\":1}]}\n\n",
        "data: {\"model\":\"m\",\"choices\":[{\"n\":2}]}\n\n",
        "data: [DONE]\n\n",
    ];
    for target in ["/v1/chat/completions", SCOPED] {
        let (upstream, go) = on_command(pieces);
        let gateway = start(&upstream);
        let mut client = gateway.connect();
        client.send(&post(target, chat_body(MODEL, true)));
        assert_eq!(client.head().expect("the head leaves at once").status, 200);
        for part in [": waiting\n\n", "{\"n\":1}]}\n\n", "{\"n\":2}]}\n\n", "[DONE]\n\n"] {
            client.chunks_until(part);
            go.send(()).expect("the script waits");
        }
        assert_eq!(client.chunk().expect("a polite end"), None);
    }
}

#[test]
fn the_head_leaves_before_the_first_event() {
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::answering(move |conn, _| {
        conn.stream_head();
        let _ = wait.lock().expect("never poisoned").recv();
        conn.piece("data: [DONE]\n\n");
        conn.end();
    });
    let gateway = start(&upstream);
    let mut client = gateway.connect();
    client.send(&chat(MODEL, true));
    let head = client.head().expect("the head leaves at once");
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    assert_eq!(head.header("cache-control"), Some("no-cache, no-transform"));
    assert!(head.header("content-length").is_none());
    assert!(head.header("x-gproxy-request-id").is_some());
    assert!(head.header("x-gproxy-overhead-us").is_some());
    go.send(()).expect("the script waits");
    client.chunks_until("[DONE]\n\n");
}

#[test]
fn an_upstream_that_dies_in_mid_stream_never_looks_like_an_end() {
    for (target, body, stream) in DIALECTS {
        let whole = stream("m");
        let border = whole.find("\n\n").or(whole.find("\r\n\r\n")).expect("an event") + 4;
        for at in [border - 2, border + 10, whole.len() - 3] {
            for with_reset in [false, true] {
                let part = whole[..whole.floor_char_boundary(at)].to_owned();
                let upstream = Upstream::answering(move |conn, _| {
                    conn.stream_head();
                    conn.piece(&part);
                    conn.break_off(with_reset);
                });
                let gateway = start(&upstream);
                let reply = gateway.connect().ask(&post(target, body));
                let what = format!("{target} cut at {at}, reset {with_reset}");
                check_broken(&reply, &stream("router/m"), &what);
            }
        }
    }
}

#[test]
fn a_stream_that_ends_politely_without_its_last_event_is_a_broken_one() {
    for (target, body, stream) in DIALECTS {
        let whole = stream("m");
        let border = whole.find("\n\n").or(whole.find("\r\n\r\n")).expect("an event") + 4;
        for with_head in [false, true] {
            let part = whole[..border].to_owned();
            let upstream = Upstream::answering(move |conn, _| {
                if with_head {
                    conn.stream(&part);
                    return;
                }
                conn.stream_head();
                conn.piece(&part);
                std::thread::sleep(std::time::Duration::from_millis(50));
                conn.end();
            });
            let gateway = start(&upstream);
            let reply = gateway.connect().ask(&post(target, body));
            let what = format!("{target}, all at once {with_head}");
            assert_eq!(reply.status, 200, "what came is passed on: {what}");
            check_broken(&reply, &stream("router/m"), &what);
            assert!(reply.text().contains("without its last event"), "{what}: {}", reply.text());
        }
    }
}

/// A broken stream: whole events of the true answer, then at most an error event, then a break.
#[track_caller]
fn check_broken(reply: &Reply, expected: &str, what: &str) {
    let text = reply.text();
    if reply.status == 502 {
        return assert!(!reply.error_message().is_empty(), "{what}");
    }
    assert_eq!(reply.status, 200, "{what}");
    assert!(!reply.complete, "{what} ended politely: {text}");
    let common =
        text.bytes().zip(expected.bytes()).take_while(|(left, right)| left == right).count();
    let error = &text[text.floor_char_boundary(common)..];
    if error.is_empty() {
        let at_border = text.is_empty() || text.ends_with("\n\n") || text.ends_with("\r\n\r\n");
        assert!(at_border, "{what} left half an event: {text}");
    } else {
        assert!(error.contains("error"), "{what}: {error}");
        // Every event, the last one too, is one that an SDK can read.
        reply.events();
    }
}

#[test]
fn the_error_event_of_a_broken_stream_has_the_callers_dialect() {
    for (target, body, stream) in DIALECTS {
        let whole = stream("m");
        let upstream = Upstream::answering(move |conn, _| {
            conn.stream_head();
            let first = whole.find("\n\n").map(|at| at + 2);
            let first = first.or(whole.find("\r\n\r\n").map(|at| at + 4)).expect("an event");
            conn.piece(&whole[..first]);
            conn.cut();
        });
        let gateway = start(&upstream);
        let reply = gateway.connect().ask(&post(target, body));
        assert!(!reply.complete, "{target}");
        let events = reply.events();
        if events.len() < 2 {
            continue; // A bare break is allowed.
        }
        let last = &events[events.len() - 1];
        let text = reply.text();
        if target.contains("messages") {
            assert_eq!((&last["type"], last["error"]["type"].is_string()), (&"error".into(), true));
            assert!(text.contains("event: error\n"), "{text}");
        } else if target.contains("responses") {
            assert_eq!(last["type"], "error", "{text}");
            assert!(last["message"].is_string() && text.contains("event: error\n"), "{text}");
        } else if target.contains("models") {
            assert!(last["error"]["code"].is_number() && last["error"]["status"].is_string());
        } else {
            assert!(last["error"]["message"].is_string(), "{text}");
        }
    }
}

#[test]
fn usage_is_asked_for_and_hidden_from_a_client_that_did_not_ask() {
    let upstream = Upstream::vendor();
    let gateway = start(&upstream);
    for options in [
        "",
        r#","stream_options":{}"#,
        r#","stream_options":null"#,
        r#","stream_options":{"include_usage":false}"#,
        r#","stream_options":{"include_obfuscation":false}"#,
    ] {
        let body = format!(r#"{{"model":"{MODEL}","messages":[],"stream":true{options}}}"#);
        let reply = gateway.connect().ask(&post("/v1/chat/completions", body));
        assert_eq!(reply.status, 200, "{options}: {}", reply.text());
        let seen = upstream.last().json();
        assert_eq!(seen["stream_options"]["include_usage"], true, "{options}");
        if options.contains("obfuscation") {
            assert_eq!(seen["stream_options"]["include_obfuscation"], false);
        }
        assert_eq!(reply.text(), chat_stream(MODEL, false), "{options}");
    }
}

#[test]
fn usage_is_visible_for_a_client_that_asked() {
    let upstream = Upstream::vendor();
    let gateway = start(&upstream);
    let body = format!(
        "{{\"model\":\"{MODEL}\",\"messages\":[],\"stream\":true,\
         \"stream_options\":{{\"include_usage\":true}}}}"
    );
    let reply = gateway.connect().ask(&post("/v1/chat/completions", body));
    assert_eq!(reply.text(), chat_stream(MODEL, true));
}

#[test]
fn usage_is_not_asked_for_where_the_provider_forbids_it_or_nothing_streams() {
    let upstream = Upstream::vendor();
    let gateway = start(&upstream);
    gateway.connect().ask(&chat(MODEL, false));
    assert!(upstream.last().json()["stream_options"].is_null());
    let gateway = Gateway::start(&Config::to(&upstream).setting("include_usage = false").text());
    let reply = gateway.connect().ask(&chat(MODEL, true));
    assert!(upstream.last().json()["stream_options"].is_null());
    assert_eq!(reply.text(), chat_stream(MODEL, false));
}

#[test]
fn the_first_chunk_of_azure_and_usage_beside_a_choice_stay() {
    let body = "data: {\"id\":\"\",\"model\":\"\",\"choices\":[],\"prompt_filter_results\":[]}\n\n\
        data: {\"model\":\"m\",\"choices\":[{\"index\":0}],\"usage\":{\"total_tokens\":5}}\n\n\
        data: [DONE]\n\n";
    let upstream = streaming(body, 10);
    let gateway = start(&upstream);
    let reply = gateway.connect().ask(&post(SCOPED, chat_body("m", true)));
    assert_eq!(reply.text(), body);
}

#[test]
fn an_event_of_a_megabyte_passes_whole_and_renamed() {
    let event = |model: &str| {
        format!("data: {{\"x\":\"{}\",\"model\":\"{model}\"}}\n\n", "a\\n".repeat(400_000))
    };
    let upstream = streaming(event("m") + LAST, 5_000);
    let gateway = start(&upstream);
    let reply = gateway.connect().ask(&chat(MODEL, true));
    assert!(reply.body == (event(MODEL) + LAST).as_bytes(), "{} bytes", reply.body.len());
}

#[test]
fn an_event_over_its_limit_ends_the_stream_with_an_error() {
    let body = format!("data: {{\"model\":\"m\",\"x\":\"{}\"}}\n\n", "a".repeat(100_000));
    let upstream = streaming("data: {\"model\":\"m\"}\n\n".to_owned() + &body, 1_000);
    let config = Config::to(&upstream).limit("event_bytes_max = 65536");
    let gateway = Gateway::start(&config.text());
    let reply = gateway.connect().ask(&chat(MODEL, true));
    assert!(!reply.complete, "{} bytes", reply.body.len());
    assert!(reply.text().contains("\"error\""), "{}", reply.text());
    assert!(reply.body.len() < 10_000, "{} bytes", reply.body.len());
}

#[test]
fn a_request_of_twenty_megabytes_with_the_model_at_its_end_goes_through() {
    let upstream = Upstream::vendor();
    let gateway = start(&upstream);
    let image = "QUJD".repeat(5 << 20);
    let body = |model: &str| {
        format!(
            "{{\"messages\":[{{\"content\":\"{image}\"}}], \"n\" : 1.0e+1,\"model\": \"{model}\" }}"
        )
    };
    let reply = gateway.connect().ask(&post("/v1/chat/completions", body(MODEL)));
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(upstream.last().body == body("gpt-4.1-mini").as_bytes(), "the body changed");
}

#[test]
fn a_client_that_does_not_read_holds_the_upstream_back() {
    const EVENTS: usize = 64 << 10;
    let written = Arc::new(AtomicUsize::new(0));
    let event = format!("data: {{\"model\":\"m\",\"x\":\"{}\"}}\n\n", "x".repeat(990));
    let upstream = Upstream::answering({
        let (written, event) = (Arc::clone(&written), event.clone());
        move |conn, _| {
            conn.stream_head();
            for _ in 0..EVENTS {
                if !conn.piece(&event) {
                    return;
                }
                written.fetch_add(event.len(), Ordering::SeqCst);
            }
            conn.piece(LAST);
            conn.end();
        }
    });
    let gateway = start(&upstream);
    let mut client = gateway.connect();
    client.send(&chat(MODEL, true));
    client.head().expect("the stream begins");
    // The upstream has come to a halt when its count stands still for a second.
    let mut last = (0, Instant::now());
    wait_for("the upstream to be held back", || {
        let now = written.load(Ordering::SeqCst);
        if now != last.0 {
            last = (now, Instant::now());
        }
        (now > 0 && last.1.elapsed() > Duration::from_secs(1)).then_some(())
    });
    // What the kernel holds between the three of us is not ours to limit.
    assert!(last.0 < EVENTS * event.len() / 2, "{} bytes were taken", last.0);
    assert!(gateway.gauge("gproxy_held_bytes") <= 512.0 * 1024.0);
    let mut count = 0;
    while let Some(chunk) = client.chunk().expect("the stream goes on when it is read") {
        count += chunk.len();
    }
    assert_eq!(count, EVENTS * (event.len() + MODEL.len() - 1) + LAST.len());
}

#[test]
fn what_slow_clients_are_owed_is_counted_and_an_event_too_many_ends_its_stream() {
    // Two go past half of the ceiling by less than the quarter of it that their user may have, and
    // the third does not.
    const LONG: usize = 9 << 20;
    let small = "data: {\"model\":\"m\"}\n\n";
    let long = format!("data: {{\"model\":\"m\",\"x\":\"{}\"}}\n\n", "x".repeat(LONG));
    let (heard, calls) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(1));
    let upstream = Upstream::answering({
        let (heard, long) = (Arc::clone(&heard), long.clone());
        move |conn, _| {
            let number = calls.fetch_add(1, Ordering::SeqCst);
            conn.stream_head();
            conn.piece(small);
            wait_for("the beginning to be heard", || {
                (heard.load(Ordering::SeqCst) >= number).then_some(())
            });
            if conn.piece(&long) && conn.piece(LAST) {
                conn.end();
            }
        }
    });
    let config = Config::to(&upstream).limit("held_bytes_max = 33554432");
    let gateway = Gateway::start(&config.text());
    let begin = || {
        let mut client = gateway.connect();
        client.send(&chat(MODEL, true));
        assert_eq!(client.head().expect("an answer").status, 200);
        client.chunk().expect("the first event").expect("is no end");
        heard.fetch_add(1, Ordering::SeqCst);
        client
    };
    // More than the kernel takes: the rest waits in the gateway, whose upstream has ended.
    let mut slow = Vec::new();
    for count in 1..=2 {
        slow.push(begin());
        // All of it: the level stands still.
        let mut last = (0.0, Instant::now());
        wait_for("the event to be held", || {
            let level = gateway.gauge("gproxy_held_bytes");
            if level != last.0 {
                last = (level, Instant::now());
            }
            let is_still = last.1.elapsed() > Duration::from_millis(300);
            (is_still && level >= 0.9 * (count * LONG) as f64).then_some(())
        });
    }
    let last = begin().read_to_close();
    let last = String::from_utf8_lossy(&last);
    assert!(last.contains("data: {\"error\":") && last.contains("overloaded"), "{last}");
    assert!(!last.ends_with("0\r\n\r\n"), "a polite end");
    for mut client in slow {
        let (mut count, expected) = (0, long.len() + MODEL.len() - 1 + LAST.len());
        while let Some(chunk) = client.chunk().expect("nothing of it is lost") {
            count += chunk.len();
        }
        assert_eq!(count, expected);
    }
    wait_for("the memory to be free", || (gateway.gauge("gproxy_held_bytes") == 0.0).then_some(()));
}

#[test]
fn a_client_that_hangs_up_frees_its_upstream_within_a_second() {
    // Timed three times, and the quickest counts: a machine under load proves nothing by one.
    for begun in [false, true] {
        for with_reset in [false, true] {
            let quickest = (0..3).map(|_| hang_up(begun, with_reset)).min();
            assert!(
                quickest.is_some_and(|time| time < Duration::from_secs(1)),
                "begun {begun}, reset {with_reset}: {quickest:?}"
            );
        }
    }
}

/// How long an upstream that says nothing stays open after its client has left.
fn hang_up(begun: bool, with_reset: bool) -> Duration {
    let (noticed, notice) = channel();
    let noticed = Mutex::new(noticed);
    let upstream = Upstream::answering(move |conn, _| {
        if begun {
            conn.raw(STREAM_HEAD);
            conn.piece("data: {\"model\":\"m\"}\n\n");
        }
        if conn.wait_closed().is_some() {
            let _ = noticed.lock().expect("never poisoned").send(Instant::now());
        }
    });
    let gateway = start(&upstream);
    let mut client = gateway.connect();
    client.send(&chat(MODEL, true));
    upstream.wait_for_requests(1);
    if begun {
        client.head().expect("the stream begins");
        client.chunks_until("\n\n");
    }
    let left = Instant::now();
    if with_reset {
        client.reset()
    } else {
        drop(client)
    }
    let closed = notice.recv_timeout(support::DEADLINE).expect("the upstream is let go");
    closed.saturating_duration_since(left)
}

#[test]
fn a_stream_that_is_no_stream_after_all_passes_whole() {
    let upstream = Upstream::answering(|conn, _| {
        conn.whole(200, r#"{"model":"m","choices":[]}"#);
    });
    let gateway = start(&upstream);
    let reply = gateway.connect().ask(&chat(MODEL, true));
    assert_eq!(reply.text(), format!(r#"{{"model":"{MODEL}","choices":[]}}"#));
    assert_eq!(reply.header("content-type"), Some("application/json"));
}

#[test]
fn a_connection_serves_streams_one_after_the_other() {
    let upstream = Upstream::vendor();
    let gateway = start(&upstream);
    let mut client: Client = gateway.connect();
    for round in 0..20 {
        let reply = client.ask(&chat(MODEL, true));
        assert!(reply.complete && !reply.closes(), "round {round}");
        assert_eq!(find(&reply.body, b"[DONE]\n\n").map(|at| at + 8), Some(reply.body.len()));
    }
}

#[test]
fn a_silent_upstream_is_bridged_by_signs_of_life() {
    let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
    let may_go_on = std::sync::Mutex::new(may_go_on);
    let upstream = Upstream::answering(move |conn, _| {
        conn.stream_head();
        conn.piece("data: {\"type\":\"message_stop\",\"x\":\"[DONE]\"}\n\ndata: {\"ha");
        may_go_on.lock().expect("never poisoned").recv().expect("the test says when");
        conn.piece("lf\":1}\n\n");
        conn.end();
    });
    let config = Config::to(&upstream).workers(1).setting("keepalive_ms = 300");
    let gateway = Gateway::start(&config.text());
    for (target, body, sign) in [
        ("/v1/chat/completions", chat_body("openai-main/m", true), ": keep-alive\n"),
        (
            "/v1/messages",
            r#"{"model":"anthropic-main/m","stream":true}"#.to_owned(),
            "event: ping\ndata: {\"type\": \"ping\"}\n\n",
        ),
    ] {
        // On a new connection, and on a kept one.
        for _ in 0..2 {
            let mut client = gateway.connect();
            client.send(&post(target, &body));
            assert_eq!(client.head().expect("a head").status, 200);
            let mut text = client.chunks_until(&format!("{sign}{sign}"));
            go_on.send(()).expect("the upstream waits");
            while let Some(more) = client.chunk().expect("the stream ends well") {
                text.extend(more);
            }
            let text = String::from_utf8(text).expect("UTF-8");
            let rest = text.replace(sign, "");
            assert_eq!(
                rest,
                "data: {\"type\":\"message_stop\",\"x\":\"[DONE]\"}\n\ndata: {\"half\":1}\n\n"
            );
        }
    }
}

#[test]
fn an_event_that_trickles_in_is_bridged_by_signs_of_life() {
    let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
    let may_go_on = std::sync::Mutex::new(may_go_on);
    let upstream = Upstream::answering(move |conn, _| {
        conn.stream_head();
        conn.piece("data: {\"type\":\"message_stop\",\"n\":1");
        let may_go_on = may_go_on.lock().expect("never poisoned");
        // The upstream is never silent for as long as a wait takes.
        while may_go_on.recv_timeout(Duration::from_millis(20)).is_err() && conn.piece("1") {}
        conn.piece("}\n\n");
        conn.end();
    });
    let config = Config::to(&upstream).workers(1).setting("keepalive_ms = 300");
    let gateway = Gateway::start(&config.text());
    let sign = "event: ping\ndata: {\"type\": \"ping\"}\n\n";
    let mut client = gateway.connect();
    client.send(&post("/v1/messages", r#"{"model":"anthropic-main/m","stream":true}"#));
    assert_eq!(client.head().expect("a head").status, 200);
    let mut text = client.chunks_until(&format!("{sign}{sign}"));
    go_on.send(()).expect("the upstream waits");
    while let Some(more) = client.chunk().expect("the stream ends well") {
        text.extend(more);
    }
    let text = String::from_utf8(text).expect("UTF-8");
    let event = text.replace(sign, "");
    assert!(event.contains(",\"n\":11") && event.ends_with("1}\n\n"), "{event}");
}

/// What no table has is told nothing that its clients might not take.
#[test]
fn a_stream_of_an_unknown_path_is_told_what_its_provider_speaks() {
    let (go_on, may_go_on) = channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let upstream = Upstream::answering(move |conn, _| {
        conn.stream_head();
        conn.piece("data: {}\n\n");
        may_go_on.lock().expect("never poisoned").recv().expect("the test says when");
        conn.cut();
    });
    let config = Config::to(&upstream).setting("keepalive_ms = 200\npassthrough = true");
    let gateway = Gateway::start(&config.text());
    let openai = "data: {\"error\":{\"message\":";
    let anthropic = "event: error\ndata: {\"type\":\"error\"";
    let gemini = "data: {\"error\":{\"code\":502,";
    let ping = "event: ping\ndata: {\"type\": \"ping\"}\n\n";
    for (provider, key, sign, error) in [
        ("openai-main", "api-key", ": keep-alive\n", openai),
        ("anthropic-main", "api-key", ping, anthropic),
        ("vertex-main", "api-key", "", gemini),
        // It speaks all of them: the caller's is the one to be told in, and a sign may be wrong.
        ("router", "api-key", "", openai),
        ("router", "x-goog-api-key", "", gemini),
    ] {
        let mut client = gateway.connect();
        let target = format!("/{provider}/v7/tomorrow");
        client.send(&support::request("GET", &target, &[(key, support::ADMIN_KEY)], b""));
        assert_eq!(client.head().expect("a head").status, 200, "{provider}");
        client.chunks_until("data: {}\n\n");
        match sign {
            "" => assert!(client.is_silent(Duration::from_millis(700)), "{provider}"),
            sign => drop(client.chunks_until(&sign.repeat(2))),
        }
        go_on.send(()).expect("the upstream waits");
        let rest = String::from_utf8_lossy(&client.read_to_close()).into_owned();
        assert!(rest.contains(error), "{provider}: {rest}");
    }
}
