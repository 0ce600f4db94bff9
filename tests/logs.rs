//! The request logs: which rows each flag yields, what stands in them, and what never does.

use std::path::Path;

use crate::support;
use crate::support::client::post;
use crate::support::{ADMIN_KEY, Config, Gateway, Upstream, request, wait_for};
use rusqlite::Connection;

const SECRETS: [&str; 5] = [
    "upstream-credential-5f2a",
    ADMIN_KEY,
    "cookie-secret-9c1d",
    "query-secret-77aa",
    "of-the-proxy-before-us-31e8",
];

/// Quotes the credential that it was given, in a field and in its body, and fails once.
fn quoting() -> Upstream {
    Upstream::answering(|conn, seen| {
        let auth = seen.header("authorization").unwrap_or_default().to_owned();
        let fields = format!("content-type: application/json\r\nx-seen: {auth}\r\n");
        let big = "x".repeat(70_000);
        let model = seen.json()["model"].as_str().unwrap_or_default().to_owned();
        match model.as_str() {
            "big" => conn.whole_with(200, &fields, format!("{{\"big\":\"{big}\"}}")),
            "edge" => {
                let begin = "y".repeat(64 * 1024 - 10);
                conn.whole_with(200, &fields, format!("{begin}upstream-credential-5f2a"))
            }
            _ => conn.whole_with(200, &fields, format!("{{\"model\":\"m\",\"seen\":\"{auth}\"}}")),
        };
    })
}

fn flags(upstream: bool, upstream_body: bool, downstream: bool, downstream_body: bool) -> String {
    format!(
        "enable_upstream_log = {upstream}\nenable_upstream_log_body = {upstream_body}\n\
         enable_downstream_log = {downstream}\nenable_downstream_log_body = {downstream_body}\n"
    )
}

/// Two calls, one of them refused, and one of our own pages.
fn calls(gateway: &Gateway) {
    let body = r#"{"model":"router/m","messages":[{"role":"user","content":"prompt"}]}"#;
    let key = format!("Bearer {ADMIN_KEY}");
    let headers = [
        ("authorization", key.as_str()),
        ("cookie", "session=cookie-secret-9c1d"),
        ("ocp-apim-subscription-key", "of-the-proxy-before-us-31e8"),
        ("x-note", "query-secret-77aa is no name of a secret"),
        ("content-type", "application/json"),
    ];
    let target = "/v1/chat/completions?trace=1&key=query-secret-77aa";
    let reply = gateway.connect().ask(&request("POST", target, &headers, body.as_bytes()));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let reply = gateway.connect().ask(&post("/v1/chat/completions", "{\"model\":\"none\"}"));
    assert_eq!(reply.status, 400);
    assert_eq!(gateway.connect().ask(&request("GET", "/version", &[], b"")).status, 200);
}

fn count(folder: &Path, table: &str, condition: &str) -> i64 {
    let Ok(logs) = Connection::open(folder.join("data/gproxy-logs.db")) else { return 0 };
    let count = format!("SELECT count(*) FROM {table} WHERE {condition}");
    logs.query_row(&count, [], |row| row.get(0)).unwrap_or(0)
}

#[test]
fn each_combination_of_flags_yields_its_rows_and_no_secret() {
    let upstream = quoting();
    for combination in 0..16 {
        let on = |bit: u32| combination & (1 << bit) != 0;
        let (up, up_body, down, down_body) = (on(0), on(1), on(2), on(3));
        let global = flags(up, up_body, down, down_body);
        let mut gateway = Gateway::start(&Config::to(&upstream).global(&global).text());
        calls(&gateway);
        gateway.sigterm();
        assert!(gateway.wait_exit().success());
        let folder = gateway.folder();
        let rows = |table, condition| count(folder, table, condition);
        // The health page that the start waited for is logged too.
        let down_rows = rows("downstream_requests", "request_path <> '/healthz'");
        assert_eq!(down_rows, if down { 3 } else { 0 }, "{global}");
        let internal = rows("downstream_requests", "internal = 1 AND request_path = '/version'");
        assert_eq!(internal, i64::from(down), "{global}");
        assert_eq!(rows("upstream_requests", "1"), i64::from(up), "{global}");
        let bodies = "internal = 0 AND request_body IS NOT NULL AND response_body IS NOT NULL";
        assert_eq!(rows("upstream_requests", bodies), i64::from(up && up_body), "{global}");
        let expected = if down && down_body { 2 } else { 0 };
        assert_eq!(rows("downstream_requests", bodies), expected, "{global}");
        let with_body = "internal = 1 AND request_body IS NOT NULL";
        assert_eq!(rows("downstream_requests", with_body), 0, "{global}");
        let joined = "downstream_trace_id IN (SELECT trace_id FROM downstream_requests)";
        assert_eq!(rows("upstream_requests", joined), i64::from(up && down), "{global}");
        for file in ["gproxy-logs.db", "gproxy-logs.db-wal", "gproxy.db", "gproxy.db-wal"] {
            let bytes = std::fs::read(folder.join("data").join(file)).unwrap_or_default();
            for secret in SECRETS {
                // One stands in a field that has nothing secret about it.
                let found = String::from_utf8_lossy(&bytes).matches(secret).count();
                assert_eq!(found, 0, "{secret} in {file} with\n{global}");
            }
        }
    }
}

#[test]
fn a_row_tells_both_ways_and_a_long_body_is_cut_with_a_mark() {
    let upstream = quoting();
    let global = flags(true, true, true, true);
    let mut gateway = Gateway::start(&Config::to(&upstream).global(&global).text());
    calls(&gateway);
    let ask = |model: &str| {
        let body = format!("{{\"model\":\"router/{model}\",\"messages\":[]}}");
        gateway.connect().ask(&post("/v1/chat/completions", body))
    };
    assert_eq!((ask("big").status, ask("edge").status), (200, 200));
    wait_for("the rows", || (count(gateway.folder(), "upstream_requests", "1") == 3).then_some(()));
    gateway.sigterm();
    assert!(gateway.wait_exit().success());
    let logs = Connection::open(gateway.folder().join("data/gproxy-logs.db")).expect("a file");
    let text = |select: &str| -> String {
        logs.query_row(select, [], |row| row.get(0)).unwrap_or_else(|why| panic!("{select}: {why}"))
    };
    let first = "FROM downstream_requests WHERE request_query LIKE '%trace%'";
    assert_eq!(text(&format!("SELECT request_query {first}")), "trace=1&key=***");
    let headers = text(&format!("SELECT request_headers_json {first}"));
    for part in [r#"["authorization","***"]"#, r#"["cookie","***"]"#, r#"["x-note","***"#] {
        assert!(headers.contains(part), "{headers}");
    }
    let answer = text(&format!("SELECT response_body {first}"));
    assert_eq!(answer, "{\"model\":\"router/m\",\"seen\":\"Bearer ***\"}");
    let up = "FROM upstream_requests ORDER BY id LIMIT 1";
    assert_eq!(
        text(&format!("SELECT response_body {up}")),
        "{\"model\":\"m\",\"seen\":\"Bearer ***\"}"
    );
    let url = format!("http://127.0.0.1:{}/v1/chat/completions?trace=1", upstream.port);
    assert_eq!(text(&format!("SELECT request_url {up}")), url);
    assert!(
        text(&format!("SELECT request_body {up}")).contains("\"model\":\"m\""),
        "as it went up"
    );
    let told = "SELECT end_reason || ' ' || attempt || ' ' || credential_id || ' ' || \
        response_status || ' ' || (total_latency_ms >= initial_latency_ms) ";
    assert_eq!(text(&format!("{told}{up}")), "ok 1 0 200 1");
    let big = "FROM upstream_requests WHERE response_body_truncated";
    assert_eq!(text(&format!("SELECT count(*) || '' {big}")), "2");
    assert_eq!(text(&format!("SELECT max(length(response_body)) || '' {big}")), "65536");
    assert!(
        text(&format!("SELECT min(response_body) {big}")).ends_with("y***"),
        "cut, then masked"
    );
}

#[test]
fn an_attempt_that_failed_says_why_and_a_caller_who_left_has_a_row_too() {
    let dead = format!("http://127.0.0.1:{}", support::gateway::free_port());
    let config = Config::to_url(&dead).global(&flags(true, false, true, false));
    let mut gateway = Gateway::start(&config.text());
    let reply = gateway
        .connect()
        .ask(&post("/v1/chat/completions", "{\"model\":\"router/m\",\"messages\":[]}"));
    assert_eq!(reply.status, 502);
    gateway.sigterm();
    assert!(gateway.wait_exit().success());
    let folder = gateway.folder();
    let failed = "end_reason = 'Connect Unreachable' AND response_status IS NULL";
    assert_eq!(count(folder, "upstream_requests", failed), 1);
    assert_eq!(count(folder, "downstream_requests", "response_status = 502"), 1);
}
