//! Forms: their model is found and exchanged wherever it stands, what could be read in two ways is
//! refused, and no file is held.

use crate::resources::{FILES, ask, start, telling};
use crate::support;
use crate::support::config::ALICE_KEY;
use crate::support::upstream::Seen;
use crate::support::{ADMIN_KEY, Config, Gateway, Upstream, request, wait_for};

fn form(model: &str, file: &[u8]) -> Vec<u8> {
    let mut form = b"--bOuNd\r\nContent-Disposition: form-data; name=\"file\"; \
        filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\n"
        .to_vec();
    form.extend(file);
    let field = "\r\n--bOuNd\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n";
    form.extend(format!("{field}{model}\r\n--bOuNd--\r\n").bytes());
    form
}

const FORM: (&str, &str) = ("content-type", "multipart/form-data; boundary=\"bOuNd\"");

#[test]
fn the_model_of_a_form_is_found_behind_its_file_and_renamed() {
    let upstream = telling();
    let gateway = start(&upstream, "");
    let file: Vec<u8> = (0..300_000_u32).flat_map(|number| number.to_le_bytes()).collect();
    let rows = [
        ("/v1/audio/transcriptions", "openai-main/whisper-1", "whisper-1"),
        ("/openai-main/v1/audio/translations", "whisper-1", "whisper-1"),
        ("/v1/images/edits", "chat-default", "gpt-4.1-mini"),
    ];
    for (target, asked, served) in rows {
        let reply = ask(&gateway, "POST", target, &[FORM], &form(asked, &file));
        assert_eq!(reply.status, 200, "{target}: {}", reply.text());
        let seen: Seen = upstream.last();
        assert!(seen.body == form(served, &file), "{target}: the form came through");
        assert_eq!(seen.header("content-length"), Some(seen.body.len().to_string().as_str()));
        assert_eq!(seen.header("content-type"), Some(FORM.1));
    }
    let second = "--bOuNd\r\nContent-Disposition: form-data; name=model\r\n\r\nb\r\n--bOuNd--";
    let twice = String::from_utf8(form("openai-main/a", b"x")).unwrap();
    let twice = twice.replace("--bOuNd--", second);
    let before = upstream.count();
    let reply = ask(&gateway, "POST", "/v1/images/edits", &[FORM], twice.as_bytes());
    assert_eq!(reply.status, 400, "{}", reply.text());
    assert_eq!(upstream.count(), before, "the upstream must not take a form with two models");
    let json = [("content-type", "application/json")];
    assert_eq!(ask(&gateway, "POST", "/v1/images/edits", &json, b"{}").status, 400);
    let none = form("", b"x");
    let reply = ask(&gateway, "POST", "/openai-main/v1/images/edits", &[FORM], &none);
    assert_eq!(reply.status, 200, "the vendor has a usual model: {}", reply.text());
}

/// Upstreams that take LF for a line's end, or text before the first boundary, would read another
/// model than the one that was permitted.
#[test]
fn a_form_that_upstreams_could_read_differently_is_refused() {
    let upstream = telling();
    let gateway = start(&upstream, "");
    let own = String::from_utf8(form("openai-main/a", b"data")).unwrap();
    let other = "--bOuNd\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nforbidden\r\n";
    for ambiguous in [
        format!("junk\n{other}{own}"),
        own.replace("data", &format!("data\n{other}")),
        own.replacen("--bOuNd\r\n", "--bOuNd\n", 1),
        own.replace("--bOuNd--", &format!("--bOuNd--\r\n{other}")),
        own.replacen("\r\n\r\n", "\n\n", 1),
    ] {
        let target = "/v1/audio/transcriptions";
        let reply = ask(&gateway, "POST", target, &[FORM], ambiguous.as_bytes());
        assert_eq!(reply.status, 400, "{ambiguous:?}: {}", reply.text());
        assert!(reply.error_message().contains("CRLF"), "{}", reply.text());
    }
    assert_eq!(upstream.count(), 0);
}

#[test]
fn a_form_with_two_types_or_a_name_of_two_meanings_is_refused() {
    let upstream = telling();
    let gateway = start(&upstream, "");
    let target = "/v1/audio/transcriptions";
    let own = form("openai-main/a", b"data");
    let (other, json) = (
        ("content-type", "multipart/form-data; boundary=other"),
        ("content-type", "application/json"),
    );
    for types in [[FORM, other], [other, FORM], [FORM, json], [json, FORM], [json, json]] {
        let reply = ask(&gateway, "POST", target, &types, &own);
        assert_eq!(reply.status, 400, "{types:?}: {}", reply.text());
        assert!(reply.error_message().contains("said once"), "{}", reply.text());
    }
    let hidden = String::from_utf8(own.clone()).unwrap();
    let hidden = hidden.replace("a.wav", "a\\\"; name=model; x=\\\"");
    let reply = ask(&gateway, "POST", target, &[FORM], hidden.as_bytes());
    assert_eq!(reply.status, 400, "{}", reply.text());
    assert!(reply.error_message().contains("%22"), "{}", reply.text());
    assert_eq!(upstream.count(), 0);
    let quoted = String::from_utf8(own).unwrap().replace("a.wav", "a\\\"b\\\".wav");
    let reply = ask(&gateway, "POST", target, &[FORM], quoted.as_bytes());
    assert_eq!(reply.status, 200, "as older ones of curl write it: {}", reply.text());
}

/// Some upstreams take what came of it.
#[test]
fn a_form_that_does_not_end_is_refused_before_its_last_bytes_go_up() {
    let upstream = telling();
    let gateway = start(&upstream, "");
    let field = "--bOuNd\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n";
    let file = "--bOuNd\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n";
    let (model, long) = (format!("{field}openai-main/a\r\n"), "x".repeat(400_000));
    for form in [
        format!("{field}openai-main/a"),
        format!("{model}{file}data"),
        format!("{model}{file}{long}\r\n--bOuNd"),
        format!("{file}{long}\r\n{field}openai-main/a"),
    ] {
        let target = "/v1/audio/transcriptions";
        let reply = ask(&gateway, "POST", target, &[FORM], form.as_bytes());
        assert_eq!(reply.status, 400, "{}", reply.text());
        assert!(reply.error_message().contains("ends without"), "{}", reply.text());
    }
    assert_eq!(upstream.count(), 0, "none of them was whole");
}

#[test]
fn json_passes_where_a_form_does() {
    let upstream = telling();
    let gateway = start(&upstream, "");
    let json = [("content-type", "application/json; charset=utf-8")];
    let body = |model: &str| format!(r#"{{"prompt":"a","model":"{model}"}}"#).into_bytes();
    for (target, below) in [("/v1/videos", "/v1/videos"), ("/v1/images/edits", "/v1/images/edits")]
    {
        let reply = ask(&gateway, "POST", target, &json, &body("openai-main/sora"));
        assert_eq!((reply.status, &reply.json()["target"]), (200, &below.into()));
        assert_eq!(upstream.last().body, body("sora"));
        let reply = ask(&gateway, "POST", target, &[FORM], &form("openai-main/sora", b"x"));
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(upstream.last().body, form("sora", b"x"));
    }
    let twice = br#"{"model":"openai-main/a","Model":"b"}"#;
    assert_eq!(ask(&gateway, "POST", "/v1/videos", &json, twice).status, 400);
    assert_eq!(ask(&gateway, "POST", "/v1/videos", &json, b"").status, 400);
}

#[test]
fn a_caller_who_breaks_off_a_form_costs_the_credential_nothing() {
    let upstream = telling();
    let gateway = start(&upstream, "");
    let head = |framing: &str| {
        format!(
            "POST /v1/audio/transcriptions HTTP/1.1\r\nhost: g\r\n\
             authorization: Bearer {ADMIN_KEY}\r\n{}: {}\r\n{framing}\r\n\r\n",
            LATE.0, LATE.1
        )
    };
    let form = late_form(1_000, "chat-default", 100_000);
    let form = &form[..form.len() - 50_000];
    // A bad chunk.
    let mut client = gateway.connect();
    client.send(head("transfer-encoding: chunked").as_bytes());
    client.send(format!("{:x}\r\n", form.len()).as_bytes());
    client.send(form);
    client.send(b"\r\nzz\r\n");
    assert_eq!(client.reply().unwrap().status, 400);
    // An end before the end, and somebody who is gone.
    for is_gone in [false, true] {
        let mut client = gateway.connect();
        client.send(head("content-length: 200000").as_bytes());
        client.send(form);
        support::wait_for("the upstream call", || {
            (gateway.gauge("gproxy_upstream_in_flight") > 0.0).then_some(())
        });
        match is_gone {
            true => client.reset(),
            false => client.close_write(),
        }
        support::wait_for("the upstream call to end", || {
            (gateway.gauge("gproxy_upstream_in_flight") == 0.0).then_some(())
        });
    }
    assert_eq!(gateway.gauge("gproxy_credentials_cooled_total"), 0.0);
}

/// An upstream that takes forms and says how long they were and what model they name.
fn forms() -> Upstream {
    Upstream::answering(|conn, seen| {
        let end = b"\r\n--b--\r\n";
        let head = b"name=\"model\"\r\n\r\n";
        let at = support::client::find(&seen.body, head).map_or(0, |at| at + head.len());
        let model = String::from_utf8_lossy(&seen.body[at..]).into_owned();
        let model = model.split("\r\n").next().unwrap_or_default().to_owned();
        let sevens = seen.body.iter().filter(|byte| **byte == 7).count();
        let whole = seen.body.ends_with(end);
        let model = if model.len() < 300 { model } else { String::new() };
        let body = serde_json::json!({"model_seen": model, "sevens": sevens, "whole": whole});
        conn.whole(200, body.to_string());
    })
}

/// A form whose model comes behind a file of so many bytes, and another file behind it.
fn late_form(before: usize, model: &str, after: usize) -> Vec<u8> {
    let file = |bytes: usize| {
        let head = "--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n";
        [head.as_bytes(), &vec![7; bytes], b"\r\n"].concat()
    };
    let field = format!("--b\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n");
    [file(before), field.into_bytes(), file(after), b"--b--\r\n".to_vec()].concat()
}

const LATE: (&str, &str) = ("content-type", "multipart/form-data; boundary=b");

#[test]
fn a_forms_model_may_come_behind_any_file() {
    let upstream = forms();
    // Far beyond what may be held, however much that is.
    let config = Config::to(&upstream).limit("held_bytes_max = 1048576");
    let config = config.limit("body_bytes_max = 1048576").limit("event_bytes_max = 65536");
    let gateway = Gateway::start(&config.tail(FILES).text());
    let target = "/v1/audio/transcriptions";
    for (before, after) in
        [(1_000, 0), (65_000, 10), (66_000, 300_000), (262_144, 1), (300_000, 0), (20_000_000, 9)]
    {
        let body = late_form(before, "chat-default", after);
        let reply = ask(&gateway, "POST", target, &[LATE], &body);
        assert_eq!(reply.status, 200, "{before}: {}", reply.text());
        let told = reply.json();
        assert_eq!(told["model_seen"], "gpt-4.1-mini", "{before}");
        assert_eq!((&told["sevens"], &told["whole"]), (&(before + after).into(), &true.into()));
    }
    // Without one, and with one that is too long or not permitted.
    let no_model = late_form(300_000, "chat-default", 0);
    let at =
        support::client::find(&no_model, b"--b\r\ncontent-disposition: form-data; name=\"model\"");
    let no_model = [&no_model[..at.expect("a field")], b"--b--\r\n"].concat();
    let reply = ask(&gateway, "POST", "/openai-main/v1/images/edits", &[LATE], &no_model);
    assert_eq!(reply.json()["sevens"], 300_000, "{}", reply.text());
    let long = late_form(300_000, &"m".repeat(10_000), 0);
    assert_eq!(ask(&gateway, "POST", target, &[LATE], &long).status, 400);
    let nobody = late_form(300_000, "nobody", 0);
    assert_eq!(ask(&gateway, "POST", target, &[LATE], &nobody).status, 400);
    assert_eq!(gateway.gauge("gproxy_held_bytes"), 0.0);
    // Nothing is left on disk.
    let left = std::fs::read_dir(gateway.folder().join("data")).expect("a folder");
    let names = left.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    assert!(names.into_iter().all(|name| !name.starts_with("spool")));
    let open = std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).expect("it is alive");
    let links = open.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    assert_eq!(links.filter(|link| link.to_string_lossy().contains("deleted")).count(), 0);
}

#[test]
fn the_forms_of_one_user_leave_room_on_disk_for_anothers() {
    let upstream = forms();
    let gateway = start(&upstream, "");
    let body = late_form(100_000, "openai-main/gpt-4.1-mini", 0);
    let ask = |key: &str| {
        let bearer = format!("Bearer {key}");
        let fields = [("authorization", bearer.as_str()), LATE];
        request("POST", "/v1/audio/transcriptions", &fields, &body)
    };
    let flood = ask(ADMIN_KEY);
    let (part, rest) = flood.split_at(flood.len() - 200);
    let mut held: Vec<_> = (0..12).map(|_| gateway.connect()).collect();
    for client in &mut held {
        client.send(part);
    }
    wait_for("all of them to lie on disk", || {
        (gateway.gauge("gproxy_spools") == 12.0).then_some(())
    });
    let reply = gateway.connect().ask(&flood);
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert_eq!(gateway.gauge("gproxy_spools_full_total"), 1.0);
    let reply = gateway.connect().ask(&ask(ALICE_KEY));
    assert_eq!(reply.status, 200, "{}", reply.text());
    for client in &mut held {
        client.send_more(rest).expect("it is held");
        assert_eq!(client.reply().expect("an answer").status, 200);
    }
    assert_eq!(gateway.gauge("gproxy_spools"), 0.0);
}

#[test]
fn a_form_that_cannot_be_laid_aside_is_refused_in_the_callers_dialect() {
    let upstream = forms();
    let gateway = start(&upstream, "");
    let data = gateway.folder().join("data");
    // A folder that is gone has no room either.
    std::fs::rename(&data, gateway.folder().join("gone")).expect("it is ours");
    let body = late_form(100_000, "chat-default", 0);
    let reply = ask(&gateway, "POST", "/v1/audio/transcriptions", &[LATE], &body);
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert_eq!(reply.json()["error"]["type"], "server_error");
    assert!(reply.error_message().contains("put its field `model` before"), "{}", reply.text());
    let small = late_form(1_000, "chat-default", 0);
    assert_eq!(ask(&gateway, "POST", "/v1/audio/transcriptions", &[LATE], &small).status, 200);
    assert_eq!(upstream.count(), 1);
}
