//! The books: one row for each admitted request, its cost, and what quotas and limits refuse.

use std::collections::BTreeMap;
use std::process::Command;

use crate::support;
use crate::support::client::post;
use crate::support::{ADMIN_KEY, ALICE_KEY, Config, Gateway, Upstream, request, wait_for};
use rusqlite::Connection;

const PRICES: &str = "[[models]]\nprovider_name = \"router\"\nmodel_id = \"priced\"\n\
    max_output_tokens = 1000\n\
    price_tiers = [{ input_tokens_up_to = 0, price_input_tokens = \"2\", \
    price_output_tokens = \"8\", price_cache_read_input_tokens = \"0.5\" }]\n";

const CHAT: &str = r#"{"id":"c","object":"chat.completion","model":"priced","choices":[{"index":0,
    "message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{
    "prompt_tokens":1000,"completion_tokens":500,"total_tokens":1500,
    "prompt_tokens_details":{"cached_tokens":400}}}"#;
/// 600 * 2 + 400 * 0.5 + 500 * 8 millionths of a dollar.
const CHAT_COST: i64 = 5_400_000_000;

type Found = BTreeMap<String, (String, i64, i64, i64, i64, i64, i64)>;

/// Rows by model: outcome, status, input, cache read, output, cost, and whether there is a price.
fn rows(gateway: Gateway, expected: usize) -> (Found, Vec<String>, i64) {
    let folder = gateway.folder().to_path_buf();
    // The folder goes with the gateway, so the books are looked at before it ends.
    let path = wait_for("the rows to be written", || {
        let path = find_database(&folder)?;
        let books = Connection::open(&path).ok()?;
        let count = "SELECT count(*) FROM usages";
        let count: i64 = books.query_row(count, [], |row| row.get(0)).ok()?;
        (count == expected as i64).then_some(path)
    });
    let books = Connection::open(path).expect("a database");
    let columns = "SELECT model, outcome, status, input_tokens, cache_read_input_tokens, \
        output_tokens, cost, price IS NOT NULL, usage_source FROM usages ORDER BY request_id";
    let mut statement = books.prepare(columns).expect("our table");
    let (mut found, mut sources) = (Found::new(), Vec::new());
    let mut rows = statement.query([]).expect("our table");
    while let Some(row) = rows.next().expect("rows") {
        let number = |at| row.get::<_, i64>(at).expect("a number");
        let text = |at| row.get::<_, String>(at).expect("a text");
        let numbers = (number(2), number(3), number(4), number(5), number(6), number(7));
        let (a, b, c, d, e, f) = numbers;
        found.insert(text(0), (text(1), a, b, c, d, e, f));
        sources.push(text(8));
    }
    let spent = "SELECT coalesce(sum(cost), 0) FROM spendings";
    let spent = books.query_row(spent, [], |row| row.get(0)).expect("our table");
    drop(gateway);
    (found, sources, spent)
}

fn find_database(folder: &std::path::Path) -> Option<std::path::PathBuf> {
    for entry in std::fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = find_database(&path) {
                return Some(found);
            }
        } else if path.file_name().is_some_and(|name| name == "gproxy.db") {
            return Some(path);
        }
    }
    None
}

/// Answers by the model's name.
fn vendor() -> Upstream {
    Upstream::answering(|conn, seen| {
        let model = seen.json()["model"].as_str().unwrap_or_default().to_owned();
        let json = "content-type: application/json\r\n";
        match model.as_str() {
            "fails" => {
                conn.whole_with(500, json, "{\"error\":{\"message\":\"no\"}}");
            }
            "streams" | "cut" => {
                conn.stream_head();
                let chunk = "data: {\"choices\":[{\"delta\":{\"content\":\"12345678\"}}]}\n\n";
                conn.piece(chunk);
                if model == "cut" {
                    conn.cut();
                    return;
                }
                conn.piece(
                    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\
                    \"completion_tokens\":3}}\n\ndata: [DONE]\n\n",
                );
                conn.end();
            }
            _ => {
                conn.whole_with(200, json, CHAT);
            }
        }
    })
}

fn body(model: &str, stream: bool) -> String {
    format!(r#"{{"model":"router/{model}","stream":{stream},"max_tokens":500,"messages":[]}}"#)
}

#[test]
fn every_admitted_request_has_one_row_with_what_it_used_and_cost() {
    let upstream = vendor();
    let gateway = Gateway::start(&Config::to(&upstream).tail(PRICES).text());
    let ask = |model: &str, stream| {
        gateway.connect().ask(&post("/v1/chat/completions", body(model, stream)))
    };
    let reply = ask("priced", false);
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(ask("free", false).status, 200);
    assert_eq!(ask("fails", false).status, 500);
    let reply = ask("streams", true);
    assert!(!reply.text().contains("usage"), "it was not asked for");
    let mut client = gateway.connect();
    client.send(&post("/v1/chat/completions", body("cut", true)));
    assert!(client.reply().is_ok_and(|reply| !reply.complete));
    // Refused ones have no row.
    assert_eq!(gateway.connect().ask(&post("/v1/chat/completions", "{}")).status, 400);
    let (rows, sources, spent) = rows(gateway, 5);
    let row = |model: &str| rows[&format!("router/{model}")].clone();
    assert_eq!(row("priced"), ("ok".into(), 200, 600, 400, 500, CHAT_COST, 1));
    assert_eq!(row("free"), ("ok".into(), 200, 600, 400, 500, 0, 0));
    assert_eq!(row("fails"), ("ok".into(), 500, 0, 0, 0, 0, 0));
    assert_eq!(row("streams"), ("ok".into(), 200, 7, 0, 3, 0, 0));
    let (outcome, _, _, _, output, _, _) = row("cut");
    assert_eq!((outcome.as_str(), output), ("cut", 2), "eight bytes are two tokens");
    assert_eq!(sources, ["upstream", "upstream", "none", "upstream", "estimated"]);
    assert_eq!(spent, CHAT_COST, "the sum of the rows is what was spent");
}

#[test]
fn a_spent_quota_is_402_and_stays_so_after_a_restart() {
    let upstream = vendor();
    let quota = "[[quotas]]\nuser_name = \"admin\"\nquota = \"0.0200\"\nwindow = \"month\"\n";
    let shared = std::env::temp_dir().join(format!("gproxy-usage-{}", std::process::id()));
    // One worker has settled a call before it begins with the next one.
    let config = Config::to(&upstream).workers(1).tail(PRICES).tail(quota).text();
    let config = config.replace("DATA_DIR", &shared.display().to_string());
    let gateway = Gateway::start(&config);
    let mut statuses = Vec::new();
    for _ in 0..8 {
        let reply = gateway.connect().ask(&post("/v1/chat/completions", body("priced", false)));
        if reply.status == 402 {
            let message = reply.error_message();
            assert!(message.starts_with("quota_exceeded: 0.0162 USD used"), "{message}");
            assert!(message.ends_with("of 0.02 USD a month"), "{message}");
            assert_eq!(reply.json()["error"]["type"], "insufficient_quota");
        }
        statuses.push(reply.status);
    }
    // A call reserves 0.0041 and costs 0.0054 USD.
    assert_eq!(statuses, [200, 200, 200, 402, 402, 402, 402, 402]);
    let version = [("x-api-key", ADMIN_KEY), ("anthropic-version", "2023-06-01")];
    let ask = request(
        "POST",
        "/router/v1/messages",
        &version,
        br#"{"model":"priced","max_tokens":900,"messages":[]}"#,
    );
    let reply = gateway.connect().ask(&ask);
    assert_eq!((reply.status, &reply.json()["error"]["type"]), (402, &"billing_error".into()));
    assert_eq!(upstream.count(), 3);
    gateway.stop();
    let gateway = Gateway::start(&config);
    let reply = gateway.connect().ask(&post("/v1/chat/completions", body("priced", false)));
    assert_eq!(reply.status, 402, "{}", reply.text());
    gateway.stop();
    let books = Connection::open(shared.join("gproxy.db")).expect("a database");
    let sums = "SELECT count(*), sum(cost), (SELECT sum(cost) FROM spendings) FROM usages";
    let sums = books.query_row(sums, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    assert_eq!(sums.expect("our tables"), (3, 3 * CHAT_COST, 3 * CHAT_COST));
    let file = shared.join("config.toml");
    std::fs::write(&file, config.replace("port = 0", "port = 1")).expect("a file");
    let audit = || {
        let mut audit = Command::new(env!("CARGO_BIN_EXE_gproxy"));
        let out = audit
            .arg("audit")
            .arg("-c")
            .arg(&file)
            .output()
            .expect("cargo built the binary for this test");
        (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    assert_eq!(audit(), (Some(0), "3 rows, 0.0162 USD, 0 faults\n".to_owned()));
    books.execute_batch("UPDATE usage_rows SET cost = 0 WHERE id = 2").expect("our tables");
    let (code, told) = audit();
    assert!(code == Some(1) && told.contains("(2): it was changed"), "{told}");
    std::fs::remove_dir_all(shared).expect("it is there");
}

#[test]
fn a_reached_limit_is_429_and_names_the_rule_and_when_it_clears() {
    let upstream = vendor();
    let limits = "[[rate_limits]]\nuser_name = \"admin\"\nmodel_pattern = \"pri*\"\nrpm = 3\n\
        [[rate_limits]]\nuser_name = \"admin\"\nmodel_pattern = \"day-*\"\nrpd = 1\n";
    let gateway = Gateway::start(&Config::to(&upstream).tail(limits).text());
    let ask =
        |model: &str| gateway.connect().ask(&post("/v1/chat/completions", body(model, false)));
    let statuses: Vec<u16> = (0..5).map(|_| ask("priced").status).collect();
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    let reply = ask("priced");
    let message = reply.error_message();
    assert!(message.starts_with("rate_limited: the rule for `pri*` allows rpm = 3;"), "{message}");
    let seconds: u32 = reply.header("retry-after").and_then(|text| text.parse().ok()).unwrap_or(0);
    assert!((1..=60).contains(&seconds), "{seconds}");
    assert_eq!(ask("other").status, 200, "another rule");
    assert_eq!(ask("day-1").status, 200);
    let reply = ask("day-1");
    assert_eq!((reply.status, reply.header("x-should-retry")), (429, Some("false")));
    // Another user's limits are his own.
    let alice = format!("Bearer {ALICE_KEY}");
    let fields = [("authorization", alice.as_str())];
    let other = r#"{"model":"openai-main/gpt-x","messages":[]}"#;
    let other = request("POST", "/v1/chat/completions", &fields, other.as_bytes());
    assert_eq!(gateway.connect().ask(&other).status, 200);
}

#[test]
fn a_second_process_on_the_same_books_ends_and_the_first_goes_on() {
    let upstream = vendor();
    let text = Config::to(&upstream).text();
    let first = Gateway::start(&text);
    let folder = find_database(first.folder()).expect("the books");
    let shared = folder.parent().expect("a folder").display().to_string();
    let mut second = Gateway::spawn(&text.replace("DATA_DIR", &shared), &[]);
    assert_eq!(second.wait_exit().code(), Some(1));
    let line = second.wait_for_line("in use by another process");
    assert!(line.contains("gproxy.db"), "{line}");
    assert_eq!(first.connect().ask(&request("GET", "/readyz", &[], b"")).status, 200);
}

const IMAGES: &str = "[[models]]\nprovider_name = \"router\"\nmodel_id = \"painter\"\n\
    price_each_image = \"0.04\"\nprice_tiers = [{ price_input_tokens = \"0\" }]\n";

#[test]
fn images_are_counted_and_billed_and_held_before_they_are_made() {
    let upstream = Upstream::answering(|conn, seen| {
        let json = "content-type: application/json\r\n";
        let made = match seen.target.contains(":predict") {
            true => r#"{"predictions":[{"mimeType":"image/png","bytesBase64Encoded":"AA=="}]}"#,
            false => r#"{"created":1,"data":[{"b64_json":"AA=="},{"b64_json":"AA=="}]}"#,
        };
        conn.whole_with(200, json, made);
    });
    let quota = "[[quotas]]\nuser_name = \"admin\"\nquota = \"0.25\"\n";
    let gateway = Gateway::start(&Config::to(&upstream).tail(IMAGES).tail(quota).text());
    let made = |n: u64| {
        let body = format!(r#"{{"model":"router/painter","prompt":"a fish","n":{n}}}"#);
        gateway.connect().ask(&post("/v1/images/generations", body))
    };
    let reply = made(2);
    assert_eq!((reply.status, reply.header("x-gproxy-images")), (200, Some("2")));
    assert_eq!(reply.header("x-gproxy-cost-usd"), Some("0.08"));
    // Where nobody says how many, Google makes four at most.
    let predict =
        |body: &str| gateway.connect().ask(&post("/v1beta/models/router/painter:predict", body));
    assert_eq!(predict(r#"{"instances":[{}]}"#).header("x-gproxy-images"), Some("1"));
    // 0.12 of 0.25 USD are spent.
    assert_eq!(predict(r#"{"instances":[{}]}"#).status, 402);
    assert_eq!(predict(r#"{"instances":[{}],"parameters":{"sampleCount":2}}"#).status, 200);
    assert_eq!(made(3).status, 402);
    assert_eq!(made(u64::MAX).status, 402);
    assert_eq!(made(2).status, 200);
    let folder = gateway.folder().to_path_buf();
    let rows = wait_for("the rows to be written", || {
        support::books::rows(&folder).filter(|rows| rows.len() == 4)
    });
    let told = |row: &support::books::Row| (row.number("images"), row.number("cost"));
    let cost = |images: i64| (images, images * 40_000_000_000);
    assert_eq!(rows.iter().map(told).collect::<Vec<_>>(), [2, 1, 1, 2].map(cost));
    assert!(rows.iter().all(|row| row.text("usage_source") == "upstream"));
    let admin = [("authorization", &*format!("Bearer {ADMIN_KEY}"))];
    let ask = |path: &str| gateway.connect().ask(&request("GET", path, &admin, b"")).json();
    let sums = ask("/admin/api/usage/sums");
    let sum = &sums["items"][0];
    assert_eq!((&sum["images"], &sum["cost"]), (&6.into(), &"0.24".into()));
    assert_eq!(ask("/admin/api/usage")["items"][0]["images"], 2);
    let written = gateway.folder().join("config.toml");
    let mut export = Command::new(env!("CARGO_BIN_EXE_gproxy"));
    let export = export.args(["usage", "export", "--json", "-c"]).arg(&written).output();
    let text = String::from_utf8_lossy(&export.expect("cargo built it").stdout).into_owned();
    assert_eq!(text.matches("\"images\":").count(), 4, "{text}");
    assert_eq!(support::books::audit(&folder), "4 rows, 0.24 USD, 0 faults\n");
}

#[test]
fn a_model_without_a_price_costs_what_its_vendors_list_says_where_that_is_switched_on() {
    let upstream = vendor();
    let vendors = format!(
        "[[providers]]\nname = \"vendors\"\nchannel = \"openai\"\ncredentials = [{{ api_key = \
         \"k\" }}]\nsettings = {{ base_url = \"http://127.0.0.1:{}\" }}\n",
        upstream.port
    );
    for (setting, cost, priced) in [("list_prices = true", "0.00108", true), ("", "0", false)] {
        let config = Config::to(&upstream).global(setting).tail(&vendors).text();
        let gateway = Gateway::start(&config);
        let body = r#"{"model":"vendors/gpt-4.1-mini","messages":[]}"#;
        let reply = gateway.connect().ask(&post("/v1/chat/completions", body));
        assert_eq!(reply.header("x-gproxy-cost-usd"), Some(cost), "{setting}");
        let admin = [("authorization", &*format!("Bearer {ADMIN_KEY}"))];
        let path = "/admin/api/prices?provider_name=vendors&model_id=gpt-4.1-mini";
        let told = gateway.connect().ask(&request("GET", path, &admin, b"")).json();
        let source = &told["items"][0]["source"];
        assert_eq!(source.as_str(), priced.then_some("list"), "{told}");
        let row = wait_for("the row to be written", || {
            let path = "/admin/api/usage?provider_name=vendors";
            let told = gateway.connect().ask(&request("GET", path, &admin, b"")).json();
            told["items"].get(0).cloned()
        });
        assert_eq!(row["priced"], priced, "{row}");
    }
}
