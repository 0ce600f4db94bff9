//! Limits that hold exactly, and what a caller is told of them.

use crate::support;
use crate::support::client::{chat, post};
use crate::support::{Client, Config, Gateway, Upstream};

fn rule(pattern: &str, limits: &str) -> String {
    format!("[[rate_limits]]\nuser_name = \"admin\"\nmodel_pattern = \"{pattern}\"\n{limits}\n")
}

/// Statuses of so many calls that were all sent before the first answer was read.
fn at_once(gateway: &Gateway, count: usize, ask: &[u8]) -> usize {
    let mut clients: Vec<Client> = (0..count)
        .map(|_| {
            let mut client = gateway.connect();
            client.send(ask);
            client
        })
        .collect();
    let statuses = clients.iter_mut().map(|client| client.reply().expect("an answer").status);
    let passed: Vec<u16> = statuses.filter(|status| *status == 200).collect();
    passed.len()
}

#[test]
fn of_many_calls_at_once_exactly_as_many_pass_as_every_rule_allows() {
    let upstream = Upstream::vendor();
    for (rules, expected) in [
        (rule("gpt-*", "rpm = 37"), 37),
        (rule("gpt-*", "rpd = 41"), 41),
        (rule("gpt-*", "rpm = 50") + &rule("*", "rpd = 23") + &rule("gpt-4*", "rpm = 99"), 23),
        (rule("gpt-*", "rpm = 29") + &rule("other", "rpm = 1"), 29),
    ] {
        let gateway = Gateway::start(&Config::to(&upstream).tail(&rules).text());
        let passed = at_once(&gateway, 300, &chat("openai-main/gpt-4.1-mini", false));
        assert_eq!(passed, expected, "{rules}");
    }
}

#[test]
fn a_user_with_rules_is_told_how_he_stands_in_his_own_dialect() {
    let upstream = Upstream::answering(|conn, _| {
        let theirs = "content-type: application/json\r\nx-ratelimit-limit-requests: 9999\r\n\
            anthropic-ratelimit-tokens-limit: 9999\r\n";
        conn.whole_with(200, theirs, "{\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":5}}");
    });
    let rules = rule("m*", "rpm = 3\ntotal_tokens = 100000") + &rule("*", "rpd = 100");
    let gateway = Gateway::start(&Config::to(&upstream).tail(&rules).text());
    let body = r#"{"model":"m","messages":[],"max_tokens":10}"#;
    let reply = gateway.connect().ask(&post("/router/v1/chat/completions", body));
    let field = |name: &str| reply.header(name).unwrap_or_default().to_owned();
    assert_eq!(field("x-ratelimit-limit-requests"), "3");
    assert_eq!(field("x-ratelimit-remaining-requests"), "2");
    assert!(field("x-ratelimit-reset-requests").ends_with('s'));
    assert_eq!(field("x-ratelimit-limit-tokens"), "100000");
    let left: u64 = field("x-ratelimit-remaining-tokens").parse().expect("a number");
    assert!((99_900..100_000).contains(&left), "{left}");
    assert_eq!(field("anthropic-ratelimit-tokens-limit"), "", "the upstream's is not the user's");
    let reply = gateway.connect().ask(&post("/router/v1/messages", body));
    let field = |name: &str| reply.header(name).unwrap_or_default().to_owned();
    assert_eq!(field("anthropic-ratelimit-requests-limit"), "3");
    assert_eq!(field("anthropic-ratelimit-requests-remaining"), "1");
    assert!(field("anthropic-ratelimit-requests-reset").ends_with('Z'));
    assert_eq!(field("x-ratelimit-limit-requests"), "");
    gateway.connect().ask(&post("/router/v1/messages", body));
    let reply = gateway.connect().ask(&post("/router/v1/messages", body));
    assert_eq!(reply.status, 429);
    assert_eq!(reply.header("anthropic-ratelimit-requests-remaining"), Some("0"));
    assert!(reply.header("retry-after").is_some());
    let reply = gateway.connect().ask(&post("/router/v1/chat/completions", body));
    assert_eq!((reply.status, reply.header("x-ratelimit-remaining-requests")), (429, Some("0")));
}

#[test]
fn a_limit_of_nothing_says_so_and_promises_no_time() {
    let upstream = Upstream::answering(|conn, _| {
        conn.whole_with(200, "", "{}");
    });
    let body = r#"{"model":"m","messages":[],"max_tokens":10}"#;
    for counter in ["rpm", "rpd", "total_tokens", "in_flight"] {
        let rules = rule("m*", &format!("{counter} = 0"));
        let gateway = Gateway::start(&Config::to(&upstream).tail(&rules).text());
        for path in ["/router/v1/chat/completions", "/router/v1/messages"] {
            let reply = gateway.connect().ask(&post(path, body));
            assert_eq!((reply.status, reply.header("x-should-retry")), (429, Some("false")));
            let said = format!("rate_limited: the rule for `m*` allows none ({counter} = 0)");
            assert_eq!(reply.error_message(), said);
            let times = ["retry-after", "x-ratelimit-reset-requests", "x-ratelimit-reset-tokens"];
            for name in times {
                assert_eq!(reply.header(name), None, "{name} of {counter}");
            }
        }
    }
}

#[test]
fn a_user_without_rules_is_told_what_the_upstream_says() {
    let upstream = Upstream::answering(|conn, _| {
        conn.whole_with(200, "x-ratelimit-limit-requests: 9999\r\n", "{}");
    });
    let gateway = Gateway::start(&Config::to(&upstream).text());
    let reply = gateway.connect().ask(&chat("openai-main/gpt-4.1-mini", false));
    assert_eq!(reply.header("x-ratelimit-limit-requests"), Some("9999"));
}

#[test]
fn calls_side_by_side_are_limited_and_a_place_is_free_again_however_one_ends() {
    let upstream = Upstream::answering(|conn, _| {
        conn.stream_head();
        conn.piece("data: {\"n\":1}\n\n");
        let _ = conn.wait_closed();
    });
    let rules = rule("*", "in_flight = 2");
    let gateway = Gateway::start(&Config::to(&upstream).tail(&rules).text());
    let open = || {
        let mut client = gateway.connect();
        client.send(&chat("openai-main/gpt-4.1-mini", true));
        let status = client.head().expect("an answer").status;
        (client, status)
    };
    let (first, second, third) = (open(), open(), open());
    assert_eq!([first.1, second.1, third.1], [200, 200, 429]);
    first.0.reset();
    support::wait_for("the place to be free", || (open().1 == 200).then_some(()));
}
