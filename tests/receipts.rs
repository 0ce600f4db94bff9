//! What a call cost, told with its answer: the figures of its row to the last digit.

use crate::support;
use crate::support::books::Row;
use crate::support::client::post;
use crate::support::{Client, Config, Gateway, Reply, Upstream, wait_for};

const PRICES: &str = "[[models]]\nprovider_name = \"router\"\nmodel_id = \"m\"\n\
    price_each_call = \"0.000000000001\"\n\
    price_tiers = [{ price_input_tokens = \"0.123457\", price_output_tokens = \"7.654321\" }]\n\
    [[model_aliases]]\nalias = \"nick\"\nprovider_name = \"router\"\nmodel_id = \"m\"\n";

fn asks(stream: bool) -> Vec<Vec<u8>> {
    let verb = if stream { "streamGenerateContent?alt=sse" } else { "generateContent" };
    let body = |fields: &str| format!("{{\"model\":\"m\",\"stream\":{stream}{fields}}}");
    vec![
        post("/router/v1/chat/completions", body("")),
        post("/router/v1/responses", body("")),
        post("/router/v1/messages", body(",\"max_tokens\":9")),
        post(&format!("/router/v1beta/models/m:{verb}"), "{}"),
    ]
}

fn row_of(gateway: &Gateway, reply: &Reply) -> Row {
    let id = reply.header("x-gproxy-request-id").expect("on every answer");
    wait_for("the row", || {
        let rows = support::books::rows(gateway.folder())?;
        rows.into_iter().find(|row| row.text("request_id") == id)
    })
}

/// Picodollars of decimal text.
fn picodollars(text: &str) -> i64 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = format!("{whole}{fraction:0<12}");
    assert!(fraction.len() <= 12, "{text}");
    digits.parse().expect("decimal text")
}

#[track_caller]
fn check(row: &Row, told: &dyn Fn(&str) -> Option<String>) {
    let number = |name: &str| told(name).and_then(|text| text.parse::<i64>().ok());
    let cost = told("cost-usd").expect("a cost");
    assert_eq!(picodollars(&cost), row.number("cost"));
    assert!(row.number("cost") > 0);
    assert_eq!(number("input-tokens"), Some(row.number("input_tokens")));
    assert_eq!(number("output-tokens"), Some(row.number("output_tokens")));
    assert_eq!(told("usage-source").as_deref(), Some(row.text("usage_source")));
}

#[test]
fn a_whole_reply_carries_its_cost_in_every_dialect() {
    let upstream = Upstream::vendor();
    let gateway = Gateway::start(&Config::to(&upstream).tail(PRICES).text());
    let mut client = gateway.connect();
    let mut asks = asks(false);
    asks.push(post("/v1/chat/completions", r#"{"model":"nick","messages":[]}"#));
    for ask in asks {
        let reply = client.ask(&ask);
        let told = |name: &str| reply.header(&format!("x-gproxy-{name}")).map(str::to_owned);
        check(&row_of(&gateway, &reply), &told);
        assert!(reply.header("content-length").is_some(), "it is held, so its length is known");
    }
}

#[test]
fn a_reply_that_is_too_long_to_be_held_passes_without() {
    let text = "x".repeat(200_000);
    let body =
        format!("{{\"choices\":[{{\"text\":\"{text}\"}}],\"usage\":{{\"prompt_tokens\":3}}}}");
    let upstream = Upstream::answering(move |conn, seen| {
        if seen.json()["model"] == "chunked" {
            conn.raw(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
                 transfer-encoding: chunked\r\n\r\n",
            );
            conn.piece(&body);
            conn.end();
        } else {
            conn.whole(200, &body);
        }
    });
    for (limit, is_told) in [("event_bytes_max = 65536", false), ("event_bytes_max = 400000", true)]
    {
        let gateway = Gateway::start(&Config::to(&upstream).limit(limit).tail(PRICES).text());
        for model in ["m", "chunked"] {
            let ask = format!("{{\"model\":\"{model}\",\"messages\":[]}}");
            let reply = gateway.connect().ask(&post("/router/v1/chat/completions", ask));
            assert!(reply.complete && reply.body.len() > 200_000, "{model}");
            assert_eq!(reply.header("x-gproxy-cost-usd").is_some(), is_told, "{model}, {limit}");
            assert_eq!(row_of(&gateway, &reply).number("input_tokens"), 3);
        }
    }
}

#[test]
fn a_stream_ends_with_its_cost_where_it_was_asked_for_and_never_in_geminis() {
    let upstream = Upstream::vendor();
    let config = Config::to(&upstream).global("stream_receipts = true").tail(PRICES);
    let gateway = Gateway::start(&config.text());
    let mut client: Client = gateway.connect();
    for (at, ask) in asks(true).iter().enumerate() {
        let reply = client.ask(ask);
        assert!(reply.complete && reply.status == 200);
        let text = reply.text();
        let comment = text.lines().find_map(|line| line.strip_prefix(": x-gproxy "));
        let row = row_of(&gateway, &reply);
        if at == 3 {
            assert!(comment.is_none() && !text.contains("x-gproxy"), "{text}");
            continue;
        }
        let comment = comment.unwrap_or_else(|| panic!("no comment in {text}"));
        // A blank line behind it would end an event that is none.
        assert!(text.ends_with(&format!("\n\n: x-gproxy {comment}\n")), "{text}");
        let told = |name: &str| {
            comment
                .split(' ')
                .find_map(|word| Some(word.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
        };
        check(&row, &told);
    }
}

#[test]
fn nothing_is_told_where_receipts_are_off_or_usage_is() {
    let upstream = Upstream::vendor();
    for setting in ["receipts = false", "enable_usage = false"] {
        let gateway = Gateway::start(&Config::to(&upstream).global(setting).tail(PRICES).text());
        for ask in asks(false).iter().chain(&asks(true)) {
            let reply = gateway.connect().ask(ask);
            assert_eq!(reply.status, 200);
            assert!(
                reply.header("x-gproxy-cost-usd").is_none() && !reply.text().contains("x-gproxy")
            );
        }
    }
}
