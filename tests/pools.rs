//! Several credentials: what each kind of failure costs the pool, and what the client sees of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support;
use crate::support::admin::admin;
use crate::support::client::{chat, chat_body, post, request};
use crate::support::pool::{
    BAD, GOOD, OK, bad_first, both, by_key, calls_with, check_upstreams, config, half, key_of,
    refuse,
};
use crate::support::upstream::{Conn, Seen};
use crate::support::{Gateway, Upstream, wait_for};
use rustix::process::Signal;
use serde_json::Value;

/// A thousand calls, one after the other: no error, and the bad credential is called at first and
/// then once for each time that its rest is over.
#[track_caller]
fn check_thousand(upstream: &Upstream, rest: Option<Duration>, what: &str) {
    let gateway = Gateway::start(&config(upstream, &both(), ""));
    let mut client = gateway.connect();
    let begun = Instant::now();
    for call in 0..1_000 {
        let reply = client.ask(&chat("p/m", call % 2 == 1));
        assert_eq!(reply.status, 200, "{what}: call {call}: {}", reply.text());
    }
    let rests =
        rest.map_or(0, |rest| (begun.elapsed().as_secs_f64() / rest.as_secs_f64()) as usize);
    let bad = calls_with(upstream, BAD);
    assert!((1..=1 + rests).contains(&bad), "{what}: {bad} calls in {:?}", begun.elapsed());
    assert_eq!(calls_with(upstream, GOOD), 1_000, "{what}");
}

#[test]
fn a_thousand_calls_see_nothing_of_a_credential_that_is_not_accepted() {
    check_thousand(&half(refuse(401, "")), None, "401");
    let denied = half(|conn, _| {
        conn.whole(403, r#"{"error":{"message":"This organization has been disabled."}}"#);
    });
    check_thousand(&denied, None, "403 of the account");
}

#[test]
fn a_thousand_calls_see_nothing_of_a_credential_that_is_limited_or_fails() {
    let second = Some(Duration::from_secs(1));
    check_thousand(&half(refuse(429, "retry-after: 1\r\n")), second, "429");
    check_thousand(&half(refuse(429, "")), second, "429 without a word");
    check_thousand(&half(refuse(402, "")), Some(Duration::from_secs(600)), "402");
    let minute = Some(Duration::from_secs(60));
    check_thousand(&half(refuse(503, "retry-after: 60\r\n")), minute, "503 that asks for a minute");
    for status in [403, 500, 502, 503, 504, 529] {
        check_thousand(&half(refuse(status, "")), second, &status.to_string());
    }
}

#[test]
fn a_thousand_calls_see_nothing_of_a_credential_whose_calls_are_reset() {
    let upstream = half(|conn, _| conn.reset());
    check_thousand(&upstream, Some(Duration::from_secs(1)), "reset before a reply");
}

#[test]
fn when_all_fail_the_last_answer_is_what_the_client_gets() {
    for (first, second) in [(500, 503), (429, 500), (401, 429), (503, 401)] {
        let upstream = by_key((first, "{\"a\":1}"), (second, "{\"b\":2}"));
        let gateway = Gateway::start(&config(&upstream, &both(), ""));
        let reply = gateway.connect().ask(&chat("p/m", false));
        check_upstreams(&reply, second, "{\"b\":2}");
        assert_eq!(upstream.count(), 2, "each credential once");
        // All rest now; the pool behaves as though none did.
        let reply = gateway.connect().ask(&chat("p/m", false));
        assert!([first, second].contains(&reply.status), "{}", reply.text());
        assert!(upstream.count() <= 4);
    }
}

#[test]
fn a_failure_behind_an_answer_does_not_hide_it() {
    let upstream = Upstream::scripted(|conn| {
        while let Some(seen) = conn.request() {
            match key_of(&seen) {
                GOOD => {
                    conn.whole_with(429, "connection: close\r\n", "{\"a\":1}");
                    conn.cut();
                }
                // Sent whole on a fresh connection, and not answered.
                _ => conn.cut(),
            }
        }
    });
    let gateway = Gateway::start(&config(&upstream, &both(), ""));
    check_upstreams(&gateway.connect().ask(&chat("p/m", false)), 429, "{\"a\":1}");
    assert_eq!(upstream.count(), 2);
    let row = wait_for("the row", || support::books::rows(gateway.folder())?.pop());
    assert_eq!((row.number("credential_id"), row.number("attempts")), (0, 2), "who said it");
}

#[test]
fn a_request_at_fault_is_sent_once_and_cools_nobody() {
    for status in [400, 404, 409, 413, 422] {
        let upstream = half(refuse(status, "retry-after: 60\r\n"));
        let gateway = Gateway::start(&config(&upstream, &both(), ""));
        let mut client = gateway.connect();
        for _ in 0..10 {
            client.ask(&chat("p/m", false));
        }
        let (good, bad) = (calls_with(&upstream, GOOD), calls_with(&upstream, BAD));
        assert_eq!((good, bad), (5, 5), "{status}");
    }
}

#[test]
fn a_request_that_every_credential_fails_on_is_given_up_after_two() {
    let upstream = Upstream::answering(|conn, _| {
        conn.whole(500, "{}");
    });
    let credentials: Vec<String> =
        (0..4).map(|number| format!("{{ api_key = \"cred-{number}\" }}")).collect();
    let gateway = Gateway::start(&config(&upstream, &credentials.join(","), ""));
    assert_eq!(gateway.connect().ask(&chat("p/m", false)).status, 500);
    assert_eq!(upstream.count(), 2);
}

#[test]
fn a_host_that_refuses_connections_is_given_up_after_two() {
    let upstream = half(|conn, _| conn.cut());
    let credentials: Vec<String> =
        (0..4).map(|number| format!("{{ api_key = \"cred-{number}\" }}")).collect();
    let text = config(&upstream, &credentials.join(","), "");
    let nobody = support::gateway::free_port();
    let text = text.replace(&format!(":{}\"", upstream.port), &format!(":{nobody}\""));
    let gateway = Gateway::start(&text);
    assert_eq!(gateway.connect().ask(&chat("p/m", false)).status, 502);
    assert_eq!(gateway.gauge("gproxy_attempts_total") as usize, 2);
}

#[test]
fn attempts_have_a_ceiling() {
    for most in [1, 3] {
        let upstream = Upstream::answering(|conn, _| {
            conn.whole_with(429, "retry-after: 30\r\n", "{}");
        });
        let credentials: Vec<String> =
            (0..6).map(|number| format!("{{ api_key = \"cred-{number}\" }}")).collect();
        let text = config(&upstream, &credentials.join(","), "");
        let gateway = Gateway::start(&format!("{text}[limits]\nattempts_max = {most}\n"));
        assert_eq!(gateway.connect().ask(&chat("p/m", false)).status, 429);
        assert_eq!(upstream.count(), most);
    }
}

#[test]
fn attempts_have_one_budget_of_time() {
    let upstream = Upstream::answering(|conn, seen| match key_of(seen) {
        GOOD => {
            conn.whole(500, "{\"a\":1}");
        }
        _ => {
            conn.wait_closed();
        }
    });
    let more = "timeouts = { total_ms = 400 }";
    let gateway = Gateway::start(&config(&upstream, &both(), more));
    // The second attempt ends with the budget, and what the first one said is told.
    check_upstreams(&gateway.connect().ask(&chat("p/m", false)), 500, "{\"a\":1}");
    assert_eq!(upstream.count(), 2);
}

#[test]
fn a_limit_of_one_model_leaves_the_others_and_one_of_the_account_does_not() {
    let account = r#"{"error":{"code":"insufficient_quota","message":"out of money"}}"#;
    let model = r#"{"error":{"message":"Rate limit reached for m in organization o"}}"#;
    for (body, others) in [(account, 0), (model, 4)] {
        let upstream = half(move |conn, seen| {
            match seen.text().contains("\"n\"") {
                true => conn.whole(200, OK),
                false => conn.whole_with(429, "retry-after: 300\r\n", body),
            };
        });
        let gateway = Gateway::start(&config(&upstream, &both(), ""));
        let mut client = gateway.connect();
        for _ in 0..4 {
            assert_eq!(client.ask(&chat("p/m", false)).status, 200);
        }
        assert_eq!(calls_with(&upstream, BAD), 1);
        upstream.forget();
        for _ in 0..8 {
            assert_eq!(client.ask(&chat("p/n", false)).status, 200);
        }
        assert_eq!(calls_with(&upstream, BAD), others, "{body}");
    }
}

#[test]
fn a_disabled_credential_is_named_in_the_log_and_comes_back_when_it_is_changed_or_asked_for() {
    let upstream = Upstream::answering(|conn, seen| {
        let status = if key_of(seen).starts_with("cred-good") { 200 } else { 401 };
        conn.whole(status, OK);
    });
    let text = config(&upstream, &both(), "");
    let gateway = Gateway::start(&text);
    let mut client = gateway.connect();
    let mut ask = |count: usize| {
        (0..count).for_each(|_| assert_eq!(client.ask(&chat("p/m", false)).status, 200));
    };
    ask(10);
    let line = gateway.wait_for_line("is disabled");
    assert!(line.contains("credential 2 of p") && !line.contains(BAD), "{line}");
    assert_eq!(gateway.gauge("gproxy_credentials_disabled_total") as usize, 1);
    // Changes of something else give it no other try, however many there are.
    for number in 0..3 {
        let user = format!("{{\"name\":\"user-{number}\"}}");
        let made = gateway.connect().ask(&post("/admin/api/users", &user));
        assert_eq!(made.status, 201, "{}", made.text());
        ask(4);
    }
    assert_eq!(calls_with(&upstream, BAD), 1);
    // Who has the file read again may have mended the key elsewhere.
    gateway.signal(Signal::HUP);
    gateway.wait_for_line("reloaded");
    ask(10);
    assert_eq!(calls_with(&upstream, BAD), 2, "one call more, and it is out again");
    gateway.rewrite_config(&text.replace(BAD, "cred-good-3"));
    gateway.signal(Signal::HUP);
    wait_for("the new key to serve", || {
        ask(1);
        (calls_with(&upstream, "cred-good-3") > 0).then_some(())
    });
}

#[test]
fn a_provider_without_a_credential_comes_back_when_it_is_asked_for_too() {
    let turns = AtomicUsize::new(0);
    let open = Upstream::answering(move |conn, _| {
        let status = if turns.fetch_add(1, Ordering::SeqCst) == 0 { 401 } else { 200 };
        conn.whole(status, OK);
    });
    let other = Upstream::answering(|conn, _| {
        conn.whole(200, OK);
    });
    let text = format!(
        "{}[[providers]]\nname = \"q\"\nchannel = \"custom\"\n\
         settings = {{ base_url = \"http://127.0.0.1:{}\" }}\n\
         [[model_aliases]]\nalias = \"either\"\ntargets = [\
         {{ provider_name = \"p\", model_id = \"m\" }}, \
         {{ provider_name = \"q\", model_id = \"m\", tier = 2 }}]\n",
        config(&open, "", ""),
        other.port
    );
    let gateway = Gateway::start(&text);
    let mut client = gateway.connect();
    for _ in 0..3 {
        assert_eq!(client.ask(&chat("either", false)).status, 200);
    }
    assert_eq!((open.count(), other.count()), (1, 3));
    gateway.signal(Signal::HUP);
    gateway.wait_for_line("reloaded");
    for _ in 0..3 {
        assert_eq!(client.ask(&chat("either", false)).status, 200);
    }
    assert_eq!((open.count(), other.count()), (4, 3));
}

#[test]
fn one_probe_tells_whether_a_credential_is_back() {
    let turns = AtomicUsize::new(0);
    let upstream = half(move |conn, _| {
        match turns.fetch_add(1, Ordering::SeqCst) {
            0 => conn.whole_with(429, "retry-after-ms: 300\r\n", "{}"),
            _ => conn.whole(200, OK),
        };
    });
    let gateway = Gateway::start(&config(&upstream, &both(), ""));
    let mut client = gateway.connect();
    for _ in 0..2 {
        assert_eq!(client.ask(&chat("p/m", false)).status, 200);
    }
    assert_eq!(calls_with(&upstream, BAD), 1);
    wait_for("the probe", || {
        assert_eq!(client.ask(&chat("p/m", false)).status, 200);
        (calls_with(&upstream, BAD) == 2).then_some(())
    });
    upstream.forget();
    for _ in 0..10 {
        client.ask(&chat("p/m", false));
    }
    assert_eq!(calls_with(&upstream, BAD), 5, "it has its share again");
}

#[test]
fn a_probe_that_fails_in_another_way_is_not_the_last_one() {
    let (account, model) = (r#"{"error":{"code":"insufficient_quota"}}"#, "{}");
    for bodies in [[account, model], [model, account]] {
        let turns = AtomicUsize::new(0);
        let upstream = half(move |conn, _| {
            match bodies.get(turns.fetch_add(1, Ordering::SeqCst)) {
                Some(body) => conn.whole_with(429, "retry-after-ms: 300\r\n", body),
                None => conn.whole(200, OK),
            };
        });
        let gateway = Gateway::start(&config(&upstream, &both(), ""));
        let mut client = gateway.connect();
        wait_for("the second probe", || {
            assert_eq!(client.ask(&chat("p/m", false)).status, 200);
            (calls_with(&upstream, BAD) == 3).then_some(())
        });
    }
}

#[test]
fn a_call_without_a_model_costs_those_with_one_nothing() {
    for status in [403, 429, 500] {
        let upstream = half(move |conn, seen| {
            match seen.target.contains("/files") {
                true => conn.whole_with(status, "retry-after: 300\r\n", "{}"),
                false => conn.whole(200, OK),
            };
        });
        let text = config(&upstream, &bad_first(), "");
        let permitted = "[[file_permissions]]\nuser_name = \"admin\"\nprovider_name = \"p\"\n";
        let gateway = Gateway::start(&format!("{text}{permitted}"));
        let mut client = gateway.connect();
        let authorization = [("authorization", "Bearer sk-admin-1")];
        let get = request("GET", "/p/v1/files/f-1", &authorization, b"");
        for _ in 0..2 {
            assert_eq!(client.ask(&get).status, 200, "{status}: the other one serves");
        }
        assert_eq!(calls_with(&upstream, BAD), 2, "{status}: it is the first for each");
        upstream.forget();
        for _ in 0..8 {
            assert_eq!(client.ask(&chat("p/m", false)).status, 200);
        }
        assert_eq!(calls_with(&upstream, BAD), 4, "{status}");
    }
}

#[test]
fn a_file_of_another_key_is_no_fault_of_the_credential() {
    let message = "You do not have permission to access the File f or it may not exist.";
    let body = format!(r#"{{"error":{{"code":403,"message":"{message}"}}}}"#);
    let upstream = half(move |conn, seen| {
        match seen.text().contains("fileUri") {
            true => conn.whole(403, &body),
            false => conn.whole(200, OK),
        };
    });
    let gateway = Gateway::start(&config(&upstream, &both(), ""));
    let mut client = gateway.connect();
    let ask = r#"{"contents":[{"parts":[{"fileData":{"fileUri":"files/f"}}]}]}"#;
    for _ in 0..2 {
        let reply = client.ask(&post("/v1beta/models/p/m:generateContent", ask));
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    assert_eq!(calls_with(&upstream, BAD), 1);
    upstream.forget();
    let ask = r#"{"contents":[]}"#;
    for _ in 0..8 {
        client.ask(&post("/v1beta/models/p/m:generateContent", ask));
    }
    assert_eq!(calls_with(&upstream, BAD), 4);
}

/// Three credentials in turn, so that one that is out would show.
fn three() -> String {
    let credentials: Vec<String> =
        (0..3).map(|number| format!("{{ api_key = \"cred-{number}\" }}")).collect();
    credentials.join(",")
}

#[track_caller]
fn check_all_three_serve(gateway: &Gateway, upstream: &Upstream) {
    upstream.forget();
    let mut client = gateway.connect();
    for _ in 0..9 {
        assert_eq!(client.ask(&chat("p/m", false)).status, 200);
    }
    let shares = [0, 1, 2].map(|number| calls_with(upstream, &format!("cred-{number}")));
    assert_eq!(shares, [3, 3, 3]);
}

#[test]
fn a_prompt_that_is_flagged_is_held_against_no_credential() {
    let upstream = Upstream::answering(|conn, seen| {
        match seen.text().contains("wicked") {
            true => conn.whole(
                403,
                r#"{"error":{"code":403,"message":"Your chosen model requires moderation and your
                input was flagged","metadata":{"reasons":["billing"],"flagged_input":
                "wicked: insufficient_quota, my account","model_slug":"m"}}}"#,
            ),
            false => conn.whole(200, OK),
        };
    });
    let gateway = Gateway::start(&config(&upstream, &three(), ""));
    let wicked = r#"{"model":"p/m","messages":[{"role":"user","content":"wicked"}]}"#;
    for _ in 0..5 {
        let reply = gateway.connect().ask(&post("/v1/chat/completions", wicked));
        assert_eq!(reply.status, 403);
        assert_eq!(reply.header("x-gproxy-source"), Some("upstream"));
    }
    check_all_three_serve(&gateway, &upstream);
    assert_eq!(gateway.gauge("gproxy_credentials_disabled_total"), 0.0);
    assert_eq!(gateway.gauge("gproxy_credentials_cooled_total"), 0.0);
}

/// Refuses what is odd, in these words of each credential, and serves all else.
fn odd(words: [&'static str; 3]) -> Upstream {
    Upstream::answering(move |conn, seen| {
        let number: usize = key_of(seen)[5..].parse().expect("a number");
        match seen.text().contains("odd") {
            true => {
                let body = format!(r#"{{"error":{{"message":"{}"}}}}"#, words[number]);
                conn.whole(403, body);
            }
            false => {
                conn.whole(200, OK);
            }
        }
    })
}

#[test]
fn a_request_that_two_credentials_refuse_alike_is_held_against_neither() {
    let odd_one = r#"{"model":"p/m","messages":[{"role":"user","content":"odd"}]}"#;
    let odd_one = post("/v1/chat/completions", odd_one);
    let upstream = odd(["no", "no", "no"]);
    let gateway = Gateway::start(&config(&upstream, &three(), ""));
    for _ in 0..5 {
        assert_eq!(gateway.connect().ask(&odd_one).status, 403);
        assert_eq!(upstream.count(), 2);
        check_all_three_serve(&gateway, &upstream);
        upstream.forget();
    }
    // In other words it may be each one's own trouble.
    let upstream = odd(["not here", "nor there", "nowhere"]);
    let gateway = Gateway::start(&config(&upstream, &three(), ""));
    let mut client = gateway.connect();
    let begun = Instant::now();
    assert_eq!(client.ask(&odd_one).status, 403);
    upstream.forget();
    for _ in 0..6 {
        assert_eq!(client.ask(&chat("p/m", false)).status, 200);
    }
    let only = key_of(&upstream.last()).to_owned();
    let share = calls_with(&upstream, &only);
    assert!(share == 6 || begun.elapsed() > Duration::from_secs(1), "{share} at {only}");
}

#[test]
fn credentials_that_refuse_everything_rest_all_the_same() {
    let upstream = Upstream::answering(|conn, _| {
        conn.whole(403, r#"{"error":{"message":"no"}}"#);
    });
    let gateway = Gateway::start(&config(&upstream, &both(), ""));
    let mut client = gateway.connect();
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(client.ask(&chat("p/m", false)).status, 403);
    }
    // Both are asked at first and for each time that a rest is over, else one of them.
    let most = 20 + 4 + 2 * begun.elapsed().as_secs() as usize;
    assert!(upstream.count() <= most, "{} of {most}", upstream.count());
}

#[test]
fn nothing_is_tried_again_after_the_first_byte() {
    let upstream = Upstream::answering(|conn, _| {
        conn.stream_head();
        conn.piece("data: {\"model\":\"m\",\"choices\":[]}\n\n");
        conn.cut();
    });
    let gateway = Gateway::start(&config(&upstream, &both(), ""));
    let reply = gateway.connect().ask(&chat("p/m", true));
    assert_eq!((reply.status, reply.complete), (200, false));
    assert!(reply.text().contains("\"error\""), "{}", reply.text());
    assert_eq!(upstream.count(), 1);
}

#[test]
fn a_long_error_is_passed_on_at_once() {
    let body = format!("{{\"error\":\"{}\"}}", "e".repeat(200_000));
    let upstream = Upstream::answering({
        let body = body.clone();
        move |conn, _| {
            conn.whole(503, &body);
        }
    });
    let gateway = Gateway::start(&config(&upstream, &both(), ""));
    let reply = gateway.connect().ask(&chat("p/m", false));
    assert!(reply.complete && reply.text() == body, "{} bytes", reply.body.len());
    assert_eq!(upstream.count(), 1);
}

/// Refuses with this head, whose body breaks off or stalls.
fn half_refuse(head: &'static str, stalls: bool) -> impl Fn(&mut Conn, &Seen) + Send + Sync {
    move |conn, _| {
        conn.raw(format!("HTTP/1.1 {head}\r\ncontent-length: 100\r\n\r\n{{\"error\":"));
        match stalls {
            true => drop(conn.wait_closed()),
            false => conn.cut(),
        }
    }
}

#[test]
fn a_refusal_counts_by_its_head_whatever_becomes_of_its_body() {
    for (head, stalls, why, rest_ms) in [
        ("429 No\r\nretry-after: 300", false, "limited", Some(300_000)),
        ("429 No\r\nretry-after: 300", true, "limited", Some(300_000)),
        ("401 No", false, "denied", None),
        ("503 No", false, "failed", Some(1_000)),
    ] {
        let upstream = half(half_refuse(head, stalls));
        let gateway = Gateway::start(&config(&upstream, &bad_first(), ""));
        let reply = gateway.connect().ask(&chat("p/m", false));
        assert_eq!(reply.status, 200, "{head}: {}", reply.text());
        assert_eq!((calls_with(&upstream, BAD), calls_with(&upstream, GOOD)), (1, 1), "{head}");
        let health = admin(&gateway, "GET", "health", Value::Null, 200);
        let circuit = &health["items"][0]["circuits"][0];
        assert_eq!(circuit["why"], why, "{head}: {health}");
        let [since, until] = ["since", "until"].map(|name| circuit[name].as_i64());
        let rest = since.zip(until).map(|(since, until)| until - since);
        assert_eq!(rest, rest_ms, "{head}: {health}");
    }
}

#[test]
fn a_403_that_was_not_read_is_held_against_nobody() {
    let upstream = half(half_refuse("403 No", false));
    let gateway = Gateway::start(&config(&upstream, &bad_first(), ""));
    let mut client = gateway.connect();
    for _ in 0..4 {
        assert_eq!(client.ask(&chat("p/m", false)).status, 200);
    }
    assert!(calls_with(&upstream, BAD) > 1, "it has its turns");
}

#[test]
fn a_refusal_that_breaks_off_is_no_answer_to_tell() {
    let upstream = Upstream::answering(|conn, seen| match key_of(seen) {
        GOOD => {
            conn.whole(429, "{\"a\":1}");
        }
        _ => half_refuse("503 No", false)(conn, seen),
    });
    let gateway = Gateway::start(&config(&upstream, &both(), ""));
    // What an upstream said whole is told, though it is not the last.
    check_upstreams(&gateway.connect().ask(&chat("p/m", false)), 429, "{\"a\":1}");
    let only = format!("{{ api_key = \"{BAD}\" }}");
    let gateway = Gateway::start(&config(&upstream, &only, ""));
    let reply = gateway.connect().ask(&chat("p/m", false));
    assert_eq!((reply.status, reply.header("x-gproxy-source")), (502, Some("gateway")));
}

#[test]
fn a_file_on_its_way_up_is_sent_once() {
    let upstream = half(refuse(500, ""));
    let credentials = format!("{{ api_key = \"{BAD}\" }}, {{ api_key = \"{GOOD}\" }}");
    let text = config(&upstream, &credentials, "");
    let permitted = "[[file_permissions]]\nuser_name = \"admin\"\nprovider_name = \"p\"\n";
    let gateway = Gateway::start(&format!("{text}{permitted}"));
    let body = "x".repeat(400_000);
    let reply = gateway.connect().ask(&post("/p/v1/files", body));
    assert_eq!((reply.status, upstream.count()), (500, 1));
}

#[test]
fn the_ceilings_of_a_credential_send_calls_to_the_next_and_refuse_when_none_is_left() {
    let upstream = half(|conn, _| {
        conn.whole(200, OK);
    });
    let credentials =
        format!("{{ api_key = \"{GOOD}\", rpm = 3 }}, {{ api_key = \"{BAD}\", rpm = 2 }}");
    let gateway = Gateway::start(&config(&upstream, &credentials, ""));
    let mut client = gateway.connect();
    let statuses: Vec<u16> = (0..7).map(|_| client.ask(&chat("p/m", false)).status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 503, 503]);
    assert_eq!((calls_with(&upstream, GOOD), calls_with(&upstream, BAD)), (3, 2));
}

#[test]
fn tokens_count_at_the_ceiling_as_the_upstream_tells_them() {
    let upstream = half(|conn, _| {
        conn.whole(200, OK);
    });
    let usage = r#"{"model":"m","usage":{"prompt_tokens":900,"completion_tokens":50}}"#;
    let telling = Upstream::answering(move |conn, _| {
        conn.whole(200, usage);
    });
    let credentials = format!("{{ api_key = \"{GOOD}\", tpm = 1000 }}");
    for (upstream, expected) in [(&upstream, [200, 200, 200]), (&telling, [200, 200, 503])] {
        let gateway = Gateway::start(&config(upstream, &credentials, ""));
        let mut client = gateway.connect();
        let statuses = [(); 3].map(|()| client.ask(&chat("p/m", false)).status);
        assert_eq!(statuses, expected);
    }
}

#[test]
fn a_picture_passes_the_ceiling_of_an_empty_minute() {
    let usage = r#"{"model":"m","usage":{"prompt_tokens":1200,"completion_tokens":50}}"#;
    let upstream = Upstream::answering(move |conn, _| {
        conn.whole(200, usage);
    });
    let picture = "A".repeat(200_000);
    let ask = post(
        "/v1/chat/completions",
        format!(
            "{{\"model\":\"p/m\",\"messages\":[{{\"role\":\"user\",\"content\":[{{\"type\":\
             \"image_url\",\"image_url\":{{\"url\":\"data:image/png;base64,{picture}\"}}}}]}}]}}"
        ),
    );
    let credentials = format!("{{ api_key = \"{GOOD}\", tpm = 30000 }}");
    let text = config(&upstream, &credentials, "");
    let gateway = Gateway::start(&text);
    let mut client = gateway.connect();
    // The second one finds what the first one really used.
    let statuses = [(); 2].map(|()| client.ask(&ask).status);
    assert_eq!(statuses, [200, 503]);
    let model = "[[models]]\nprovider_name = \"p\"\nmodel_id = \"m\"\nmax_input_tokens = 8000\n";
    let gateway = Gateway::start(&format!("{text}{model}"));
    let mut client = gateway.connect();
    let statuses = [(); 3].map(|()| client.ask(&ask).status);
    assert_eq!(statuses, [200; 3], "no more than the model reads");
}

#[test]
fn a_sticky_pool_stays_where_it_is_until_that_fails() {
    let upstream = half(refuse(429, "retry-after: 300\r\n"));
    let credentials = format!("{{ api_key = \"{BAD}\" }}, {{ api_key = \"{GOOD}\" }}");
    let more = "rotation_strategy = \"sticky\"";
    let gateway = Gateway::start(&config(&upstream, &credentials, more));
    let mut client = gateway.connect();
    for _ in 0..10 {
        assert_eq!(client.ask(&chat("p/m", false)).status, 200);
    }
    assert_eq!((calls_with(&upstream, BAD), calls_with(&upstream, GOOD)), (1, 10));
}

#[test]
fn the_least_busy_credential_is_taken() {
    let upstream = half(|conn, seen| {
        if seen.text().contains("slow") {
            conn.wait_closed();
        }
        conn.whole(200, OK);
    });
    let credentials = format!("{{ api_key = \"{BAD}\" }}, {{ api_key = \"{GOOD}\" }}");
    let more = "rotation_strategy = \"least_in_flight\"";
    let gateway = Gateway::start(&config(&upstream, &credentials, more));
    let mut slow = gateway.connect();
    slow.send(&post("/v1/chat/completions", chat_body("p/slow", false)));
    wait_for("the slow call", || (upstream.count() == 1).then_some(()));
    let mut client = gateway.connect();
    for _ in 0..6 {
        assert_eq!(client.ask(&chat("p/m", false)).status, 200);
    }
    assert_eq!((calls_with(&upstream, BAD), calls_with(&upstream, GOOD)), (1, 6));
}

/// A chat request whose prompt begins with `begin`, long enough for a cache.
fn prompt(begin: usize, end: usize) -> Vec<u8> {
    let begin = format!("{begin:04} ").repeat(400);
    let content = format!("{begin}{end}");
    post(
        "/v1/chat/completions",
        format!(
            "{{\"model\":\"p/m\",\"messages\":[{{\"role\":\"user\",\"content\":\"{content}\"}}]}}"
        ),
    )
}

#[test]
fn a_prompt_goes_where_its_beginning_is_cached() {
    let upstream = half(|conn, _| {
        conn.whole(200, OK);
    });
    let more = "rotation_strategy = \"cache_affinity\"";
    let gateway = Gateway::start(&config(&upstream, &both(), more));
    let mut client = gateway.connect();
    let mut keys = Vec::new();
    for begin in 0..6 {
        for end in 0..5 {
            assert_eq!(client.ask(&prompt(begin, end)).status, 200);
            keys.push(key_of(&upstream.last()).to_owned());
        }
    }
    for (begin, group) in keys.chunks(5).enumerate() {
        let expected = if begin % 2 == 0 { GOOD } else { BAD };
        assert_eq!(group, [expected; 5], "prompt {begin}: new ones take turns");
    }
}

#[test]
fn the_share_of_a_dead_credential_is_shared_by_weight() {
    for strategy in ["round_robin", "cache_affinity"] {
        let upstream = half(refuse(401, ""));
        let credentials = format!(
            "{{ api_key = \"{BAD}\", weight = 9 }}, {{ api_key = \"{GOOD}\" }}, \
             {{ api_key = \"cred-heavy-3\", weight = 9 }}"
        );
        let more = format!("rotation_strategy = \"{strategy}\"");
        let gateway = Gateway::start(&config(&upstream, &credentials, &more));
        let mut client = gateway.connect();
        for begin in 0..190 {
            assert_eq!(client.ask(&prompt(begin, 0)).status, 200);
        }
        let (bad, light) = (calls_with(&upstream, BAD), calls_with(&upstream, GOOD));
        assert_eq!(bad, 1);
        assert!((17..=21).contains(&light), "{strategy}: {light} of 190 for a weight of 1 in 10");
    }
}

#[test]
fn the_neighbour_of_a_resting_credential_is_no_busier_than_the_others() {
    let upstream = half(refuse(401, ""));
    let credentials = format!(
        "{{ api_key = \"{BAD}\" }}, {{ api_key = \"{GOOD}\" }}, {{ api_key = \"cred-last-3\" }}"
    );
    let more = "rotation_strategy = \"least_in_flight\"";
    let gateway = Gateway::start(&config(&upstream, &credentials, more));
    let mut client = gateway.connect();
    for _ in 0..61 {
        assert_eq!(client.ask(&chat("p/m", false)).status, 200);
    }
    // One after the other,
    let shares = [BAD, GOOD, "cred-last-3"].map(|key| calls_with(&upstream, key));
    assert!(shares[0] == 1 && shares[1].abs_diff(shares[2]) <= 2, "{shares:?}");
    // and side by side.
    let busy = Upstream::answering(|conn, seen| match key_of(seen) {
        BAD => {
            conn.whole(401, "{}");
        }
        _ => drop(conn.wait_closed()),
    });
    let gateway = Gateway::start(&config(&busy, &credentials, more));
    let mut clients = Vec::new();
    for number in 1..=6 {
        let mut client = gateway.connect();
        client.send(&chat("p/m", false));
        clients.push(client);
        let reached = || {
            let keys = [GOOD, "cred-last-3"].map(|key| calls_with(&busy, key));
            (keys[0] + keys[1] == number).then_some(keys)
        };
        let keys = wait_for("the next call", reached);
        assert!(keys[0].abs_diff(keys[1]) <= 1, "{keys:?}");
    }
}

#[test]
fn a_prompt_whose_credential_fails_moves_and_stays() {
    let upstream = half(refuse(429, "retry-after: 1\r\n"));
    let credentials = format!("{{ api_key = \"{BAD}\" }}, {{ api_key = \"{GOOD}\" }}");
    let more = "rotation_strategy = \"cache_affinity\"";
    let gateway = Gateway::start(&config(&upstream, &credentials, more));
    let mut client = gateway.connect();
    for end in 0..20 {
        assert_eq!(client.ask(&prompt(1, end)).status, 200);
    }
    assert_eq!((calls_with(&upstream, BAD), calls_with(&upstream, GOOD)), (1, 20));
}

#[test]
fn what_is_known_of_credentials_survives_a_restart() {
    for (status, headers) in [(401, ""), (429, "retry-after: 300\r\n")] {
        let upstream = half(refuse(status, headers));
        let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("pools-restart");
        let _ = std::fs::remove_dir_all(&folder);
        let text = config(&upstream, &both(), "");
        let text = text.replace("DATA_DIR", &folder.display().to_string());
        for _ in 0..2 {
            let gateway = Gateway::start(&text);
            let mut client = gateway.connect();
            for _ in 0..10 {
                assert_eq!(client.ask(&chat("p/m", false)).status, 200);
            }
            assert!(gateway.stop().success());
            assert_eq!(calls_with(&upstream, BAD), 1, "{status}: known after the restart too");
        }
        // Another key in the same place is another credential.
        let gateway = Gateway::start(&text.replace(BAD, "cred-new-3"));
        gateway.connect().ask(&chat("p/m", false));
        gateway.connect().ask(&chat("p/m", false));
        assert_eq!(calls_with(&upstream, "cred-new-3"), 1);
    }
}
