//! What a call is billed when its upstream says little of it, nothing, or nonsense.

use crate::support;
use crate::support::books::{self, Row};
use crate::support::client::post;
use crate::support::config::provider;
use crate::support::{Client, Config, Conn, Gateway, Seen, Upstream, wait_for};

/// Picodollars in a millionth of a dollar.
const MICRODOLLAR: i64 = 1_000_000;

const PRICES: &str = r#"
[[models]]
provider_name = "router"
model_id = "*"
price_each_call = "0.000003"
price_tiers = [{ price_input_tokens = "2", price_output_tokens = "8" }]
[[models]]
provider_name = "router"
model_id = "small"
max_input_tokens = 1000
price_tiers = [{ price_input_tokens = "2", price_output_tokens = "8" }]
[[models]]
provider_name = "vertex-main"
model_id = "veo"
price_each_call = "3.20"
"#;

fn gateway(answer: impl Fn(&mut Conn, &Seen) + Send + Sync + 'static) -> (Gateway, Upstream) {
    let upstream = Upstream::answering(answer);
    let gateway = Gateway::start(&Config::to(&upstream).tail(PRICES).text());
    (gateway, upstream)
}

/// The rows, once there are so many; they stand up to an audit.
#[track_caller]
fn rows(gateway: &Gateway, count: usize) -> Vec<Row> {
    let rows = wait_for("the rows to be written", || {
        books::rows(gateway.folder()).filter(|rows| rows.len() == count)
    });
    books::audit(gateway.folder());
    rows
}

fn json(conn: &mut Conn, body: &str) {
    conn.whole_with(200, "content-type: application/json\r\n", body);
}

#[test]
fn a_guess_is_no_longer_than_what_its_model_reads() {
    let (gateway, _upstream) = gateway(|conn, _| {
        conn.stream_head();
        conn.piece("data: {\"choices\":[{\"delta\":{\"content\":\"12345678\"}}]}\n\n");
        conn.cut();
    });
    let image = "A".repeat(400_000);
    let body =
        format!(r#"{{"model":"router/small","stream":true,"messages":[{{"i":"{image}"}}]}}"#);
    let mut client = gateway.connect();
    client.send(&post("/v1/chat/completions", body));
    assert!(client.reply().is_ok_and(|reply| !reply.complete));
    let row = &rows(&gateway, 1)[0];
    assert_eq!((row.number("input_tokens"), row.number("output_tokens")), (1000, 2));
    assert_eq!(row.text("usage_source"), "estimated");
}

#[test]
fn a_count_that_no_call_can_use_is_none_and_the_books_go_on() {
    let (gateway, _upstream) = gateway(|conn, _| {
        let usage = r#"{"prompt_tokens":5,"completion_tokens":18446744073709551615}"#;
        json(conn, &format!(r#"{{"model":"m","choices":[],"usage":{usage}}}"#));
    });
    for _ in 0..3 {
        let ask = post("/v1/chat/completions", r#"{"model":"router/m","messages":[]}"#);
        assert_eq!(gateway.connect().ask(&ask).status, 200);
    }
    let rows = rows(&gateway, 3);
    assert!(rows.iter().all(|row| row.number("cost") == 13 * MICRODOLLAR), "5 in, and the call");
    let ready = support::client::request("GET", "/readyz", &[], b"");
    assert_eq!(gateway.connect().ask(&ready).status, 200);
}

#[test]
fn an_answer_in_the_background_is_billed_as_long_as_it_may_become() {
    let (gateway, _upstream) = gateway(|conn, _| {
        json(conn, r#"{"id":"resp_1","status":"queued","background":true,"usage":null}"#);
    });
    let ask = |more: &str| {
        let body = format!(r#"{{"model":"router/m","input":"12345678"{more}}}"#);
        assert_eq!(gateway.connect().ask(&post("/v1/responses", body)).status, 200);
    };
    ask(r#","background":true,"max_output_tokens":50"#);
    ask(r#", "background" : true"#);
    ask(r#","background":false"#);
    let rows = rows(&gateway, 3);
    let outputs: Vec<_> = rows.iter().map(|row| row.number("output_tokens")).collect();
    assert_eq!(outputs, [50, 4096, 0]);
    let sources: Vec<_> = rows.iter().map(|row| row.text("usage_source")).collect();
    assert_eq!(sources, ["estimated", "estimated", "none"]);
    assert!(rows[0].number("input_tokens") > 0);
}

#[test]
fn asking_how_far_a_film_is_costs_nothing() {
    let (gateway, _upstream) = gateway(|conn, _| json(conn, r#"{"name":"operations/1"}"#));
    for verb in ["predictLongRunning", "fetchPredictOperation", "computeTokens"] {
        let target = format!("/v1beta/models/vertex-main/veo:{verb}");
        assert_eq!(gateway.connect().ask(&post(&target, "{}")).status, 200, "{verb}");
    }
    let costs: Vec<_> = rows(&gateway, 3).iter().map(|row| row.number("cost")).collect();
    assert_eq!(costs, [3_200_000 * MICRODOLLAR, 0, 0]);
}

/// The count with which a message begins is a placeholder.
#[test]
fn a_message_that_ends_before_its_count_is_estimated() {
    let (gateway, _upstream) = gateway(|conn, _| {
        let usage = r#"{"input_tokens":7,"output_tokens":1}"#;
        let text = "a".repeat(400);
        conn.stream_head();
        conn.piece(format!(
            "event: message_start\ndata: {{\"type\":\"message_start\",\"message\":\
             {{\"model\":\"m\",\"usage\":{usage}}}}}\n\n\
             event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"delta\":\
             {{\"type\":\"text_delta\",\"text\":\"{text}\"}}}}\n\n\
             event: error\ndata: {{\"type\":\"error\"}}\n\n"
        ));
        conn.end();
    });
    let ask = r#"{"model":"router/m","stream":true,"max_tokens":500,"messages":[]}"#;
    assert_eq!(gateway.connect().ask(&post("/v1/messages", ask)).status, 200);
    let row = &rows(&gateway, 1)[0];
    assert_eq!((row.number("input_tokens"), row.number("output_tokens")), (7, 100));
    assert_eq!(row.text("usage_source"), "estimated");
}

const ADMIN: &str = "Bearer sk-admin-1";

const SEVERAL: &str = r#"
[[models]]
provider_name = "router"
model_id = "cheap"
price_tiers = [{ price_input_tokens = "1", price_output_tokens = "1" }]
[[models]]
provider_name = "router"
model_id = "dear"
price_tiers = [{ price_input_tokens = "100", price_output_tokens = "100" }]
[[model_aliases]]
alias = "nick"
provider_name = "router"
model_id = "cheap"
[[quotas]]
user_name = "alice"
quota = "0.01"
[[permissions]]
user_name = "alice"
provider_name = "router"
model_pattern = "*"
"#;

#[test]
fn who_serves_of_several_models_that_a_body_names_is_paid_for() {
    let upstream = Upstream::answering(|conn, seen| {
        let served = seen.header("x-served").unwrap_or_default();
        let usage = r#"{"prompt_tokens":10,"completion_tokens":0}"#;
        let said = r#""choices":[{"delta":{"content":"12345678"}}]"#;
        match seen.header("x-way").unwrap_or_default() {
            "whole" => json(conn, &format!(r#"{{"model":"{served}","usage":{usage}}}"#)),
            way => {
                conn.stream_head();
                conn.piece(format!("data: {{\"model\":\"{served}\",{said}}}\n\n"));
                if way == "cut" {
                    return conn.cut();
                }
                conn.piece(format!("data: {{\"choices\":[],\"usage\":{usage}}}\n\n"));
                conn.piece("data: [DONE]\n\n");
                conn.end();
            }
        }
    });
    let gateway = Gateway::start(&Config::to(&upstream).tail(SEVERAL).text());
    let dear = r#","models":["other","dear"]"#;
    let rows_of = [
        ("nick", dear, "dear", "whole", "dear", 1_000),
        ("router/cheap", dear, "dear", "stream", "dear", 1_000),
        ("nick", dear, "dear", "cut", "dear", 0),
        ("nick", r#","fallbacks":[{"model":"dear"}]"#, "cheap-2025", "whole", "cheap", 10),
        ("nick", dear, "cheap", "stream", "cheap", 10),
        // Nobody named it.
        ("nick", "", "dear", "whole", "cheap", 10),
    ];
    for (model, more, served, way, ..) in rows_of {
        let stream = way != "whole";
        let body = format!(r#"{{"model":"{model}","stream":{stream},"messages":[]{more}}}"#);
        let fields = [("authorization", ADMIN), ("x-served", served), ("x-way", way)];
        let ask = support::request("POST", "/v1/chat/completions", &fields, body.as_bytes());
        let mut client = gateway.connect();
        client.send(&ask);
        assert_eq!(client.reply().is_ok_and(|reply| reply.complete), way != "cut", "{way}");
    }
    let rows = rows(&gateway, rows_of.len());
    for (row, (model, _, _, way, served, micro)) in rows.iter().zip(rows_of) {
        assert_eq!(row.text("model_served"), served, "{model} {way}");
        match way {
            // A guess, at the same price.
            "cut" => assert!(row.number("cost") >= 200 * MICRODOLLAR, "{}", row.number("cost")),
            _ => assert_eq!(row.number("cost"), micro * MICRODOLLAR, "{model} {way}"),
        }
    }
}

#[test]
fn the_dearest_model_that_a_body_names_is_reserved() {
    let upstream = Upstream::answering(|conn, _| json(conn, r#"{"model":"cheap","choices":[]}"#));
    let gateway = Gateway::start(&Config::to(&upstream).tail(SEVERAL).text());
    let key = format!("Bearer {}", support::config::ALICE_KEY);
    for (more, status) in [("", 200), (r#","models":["dear"]"#, 402), (r#","models":["x"]"#, 200)] {
        let body = format!(r#"{{"model":"nick","max_tokens":1000,"messages":[]{more}}}"#);
        let fields = [("authorization", key.as_str())];
        let ask = support::request("POST", "/v1/chat/completions", &fields, body.as_bytes());
        assert_eq!(gateway.connect().ask(&ask).status, status, "{more}");
    }
}

/// The caller leaves while the second target is silent: it is the second that he pays for.
#[test]
fn a_caller_who_leaves_a_second_target_pays_its_price() {
    let first = Upstream::answering(|conn, _| {
        conn.whole(503, "{}");
    });
    let second = Upstream::answering(|conn, _| {
        conn.wait_closed();
    });
    let url = |upstream: &Upstream| format!("http://127.0.0.1:{}", upstream.port);
    let price = |name: &str, price: u32| {
        format!(
            "[[models]]\nprovider_name = \"{name}\"\nmodel_id = \"m\"\n\
             price_tiers = [{{ price_input_tokens = {price}, price_output_tokens = {price} }}]\n"
        )
    };
    let config = Config::to(&first)
        .tail(&provider("dear", &url(&first), "\"openai_chat\"", ""))
        .tail(&provider("cheap", &url(&second), "\"openai_chat\"", ""))
        .tail(&(price("dear", 100) + &price("cheap", 1)))
        .tail(
            "[[model_aliases]]\nalias = \"either\"\ntargets = [\
             { provider_name = \"dear\", model_id = \"m\" }, \
             { provider_name = \"cheap\", model_id = \"m\", tier = 2 }]\n",
        );
    let gateway = Gateway::start(&config.text());
    let mut client: Client = gateway.connect();
    client.send(&post("/v1/chat/completions", r#"{"model":"either","messages":[]}"#));
    second.wait_for_requests(1);
    drop(client);
    let row = &rows(&gateway, 1)[0];
    assert_eq!((row.text("provider"), row.text("usage_source")), ("cheap", "estimated"));
    assert_eq!(row.number("cost"), row.number("input_tokens") * MICRODOLLAR);
}
