//! Whoever guesses at keys is slowed by his address, and nobody else is.

use crate::support::{ADMIN_KEY, ALICE_KEY, Config, Gateway, Reply, Upstream, request};

const HOME: &str = "198.51.100.7";
const ELSEWHERE: &str = "203.0.113.9";
const CHAT: &[u8] = br#"{"model":"openai-main/gpt-4.1-mini","max_tokens":9,"messages":[]}"#;
const CLAUDE: &[u8] = br#"{"model":"router/m","max_tokens":9,"messages":[]}"#;
const GEMINI: &[u8] = br#"{"contents":[]}"#;
const GEMINI_PATH: &str = "/v1beta/models/gemini-default:generateContent";

fn start(more: impl Fn(Config) -> Config) -> (Upstream, Gateway) {
    let upstream = Upstream::answering(|conn, _| {
        conn.whole(200, "{}");
    });
    let config = Config::to(&upstream).global("trusted_proxies = [\"127.0.0.1\"]");
    let gateway = Gateway::start(&more(config).text());
    (upstream, gateway)
}

/// What is asked with this key from there, as a trusted proxy tells it.
fn ask(gateway: &Gateway, from: &str, key: &str, path: &str, body: &[u8]) -> Reply {
    let key = format!("Bearer {key}");
    let fields = [
        ("authorization", key.as_str()),
        ("x-forwarded-for", from),
        ("content-type", "application/json"),
    ];
    let method = if body.is_empty() { "GET" } else { "POST" };
    gateway.connect().ask(&request(method, path, &fields, body))
}

fn chat(gateway: &Gateway, from: &str, key: &str) -> Reply {
    ask(gateway, from, key, "/v1/chat/completions", CHAT)
}

/// Sends so many wrong keys, and checks that each is told to be wrong.
#[track_caller]
fn guess(gateway: &Gateway, from: &str, count: usize) {
    for number in 0..count {
        let reply = chat(gateway, from, &format!("sk-guess-{number}"));
        assert_eq!(reply.status, 401, "guess {number}: {}", reply.text());
    }
}

#[track_caller]
fn is_slowed(reply: &Reply) {
    assert_eq!(reply.status, 429, "{}", reply.text());
    let wait: u32 = reply.header("retry-after").expect("a time").parse().expect("a number");
    assert!((1..=60).contains(&wait), "{wait}");
    assert!(reply.text().contains("too many wrong API keys"), "{}", reply.text());
}

#[test]
fn beyond_some_wrong_keys_of_an_address_none_is_let_in_there_that_was_not_before() {
    let (upstream, gateway) = start(|config| config);
    assert_eq!(chat(&gateway, HOME, ALICE_KEY).status, 200);
    guess(&gateway, HOME, 20);
    // One and the same wrong key is no new guess, however often it comes.
    for _ in 0..30 {
        assert_eq!(chat(&gateway, HOME, "sk-guess-19").status, 401);
    }
    is_slowed(&chat(&gateway, HOME, "sk-guess-20"));
    // On every way in, each in its own shape, and for a right key that nobody used there as well.
    let called = upstream.count();
    for key in ["sk-guess-21", ADMIN_KEY] {
        let openai = chat(&gateway, HOME, key);
        is_slowed(&openai);
        assert_eq!(openai.json()["error"]["code"], "rate_limit_exceeded");
        let claude = ask(&gateway, HOME, key, "/v1/messages", CLAUDE);
        is_slowed(&claude);
        assert_eq!(claude.json()["error"]["type"], "rate_limit_error");
        let gemini = ask(&gateway, HOME, key, GEMINI_PATH, GEMINI);
        is_slowed(&gemini);
        assert_eq!(gemini.json()["error"]["status"], "RESOURCE_EXHAUSTED");
        let api = ask(&gateway, HOME, key, "/admin/api/users", b"");
        is_slowed(&api);
        assert_eq!(api.json()["error"]["code"], "rate_limited");
        is_slowed(&ask(&gateway, HOME, key, "/metrics", b""));
        is_slowed(&ask(&gateway, HOME, key, "/v1/models", b""));
        let in_query = format!("{GEMINI_PATH}?key={key}");
        let fields = [("x-forwarded-for", HOME), ("content-type", "application/json")];
        is_slowed(&gateway.connect().ask(&request("POST", &in_query, &fields, GEMINI)));
    }
    assert_eq!(upstream.count(), called, "nothing of it went up");
    // Who was there before goes on, and elsewhere nobody notices.
    assert_eq!(chat(&gateway, HOME, ALICE_KEY).status, 200);
    assert_eq!(chat(&gateway, ELSEWHERE, ADMIN_KEY).status, 200);
    assert_eq!(chat(&gateway, ELSEWHERE, "sk-guess-22").status, 401);
    let line = gateway.wait_for_line("wrong API keys within a minute");
    assert!(line.contains(HOME) && !line.contains("sk-guess"), "{line}");
    let metrics = gateway.metrics();
    let slowed = metrics["gproxy_guesses_slowed_total"];
    assert_eq!(slowed as u64, 1 + 2 * 7);
    assert_eq!(metrics["gproxy_keys_wrong_total"] as u64, 20 + 30 + 1 + 7 + 1);
}

#[test]
fn an_open_connection_goes_on_and_the_address_of_its_other_end_counts_without_a_proxy() {
    let upstream = Upstream::answering(|conn, _| {
        conn.whole(200, "{}");
    });
    let config = Config::to(&upstream).limit("key_guesses_max = 2");
    let gateway = Gateway::start(&config.text());
    let admin = format!("Bearer {ADMIN_KEY}");
    let fields = [("authorization", admin.as_str()), ("content-type", "application/json")];
    let mut open = gateway.connect();
    let call = request("POST", "/v1/chat/completions", &fields, CHAT);
    assert_eq!(open.ask(&call).status, 200);
    // What nobody is trusted to tell does not count.
    guess(&gateway, HOME, 1);
    guess(&gateway, ELSEWHERE, 2);
    is_slowed(&chat(&gateway, "192.0.2.1", "sk-guess-3"));
    is_slowed(&chat(&gateway, "192.0.2.2", ALICE_KEY));
    for _ in 0..3 {
        assert_eq!(open.ask(&call).status, 200);
        assert_eq!(gateway.connect().ask(&call).status, 200);
    }
}

#[test]
fn nobody_is_slowed_where_the_setting_says_so() {
    let (_upstream, gateway) = start(|config| config.limit("key_guesses_max = 0"));
    guess(&gateway, HOME, 60);
    assert_eq!(chat(&gateway, HOME, ADMIN_KEY).status, 200);
    assert_eq!(gateway.gauge("gproxy_guesses_slowed_total"), 0.0);
}
