//! Lists of models that upstreams give: fetched beside the requests, kept while an upstream fails,
//! and printed as TOML.

use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use crate::support::admin::admin;
use crate::support::{ADMIN_KEY, Conn, Gateway, Seen, Upstream, request, wait_for};
use rustix::process::Signal;
use serde_json::{Value, json};

const ALICE: &str = "sk-alice-0123456789abcdef0123456789abcdef";

/// What the scripted upstream lists; `None`: it fails.
type List = Arc<Mutex<Option<Vec<&'static str>>>>;

fn set(list: &List, ids: Option<Vec<&'static str>>) {
    *list.lock().expect("no holder of this lock panics") = ids;
}

fn listing(list: &List) -> Upstream {
    let list = list.clone();
    Upstream::answering(move |conn, _| {
        let ids = list.lock().expect("no holder of this lock panics").clone();
        match ids {
            Some(ids) => {
                let data: Vec<_> = ids.iter().map(|id| json!({ "id": id })).collect();
                conn.whole(200, json!({ "object": "list", "data": data }).to_string())
            }
            None => conn.whole(500, r#"{"error":{"message":"no"}}"#),
        };
    })
}

fn provider(upstream: &Upstream, channel: &str, settings: &str) -> String {
    let credential = "credentials = [{ api_key = \"upstream-key-1\" }]";
    let port = upstream.port;
    format!(
        "[[providers]]\nname = \"live\"\nchannel = \"{channel}\"\n{credential}\n\
         [providers.settings]\nbase_url = \"http://127.0.0.1:{port}\"\n{settings}\n"
    )
}

fn config(providers: &str) -> String {
    format!(
        "[global]\nhost = \"127.0.0.1\"\nport = 0\nworkers = 2\ndata_dir = \"DATA_DIR\"\n\
         {providers}\n\
         [[users]]\nname = \"admin\"\nis_admin = true\nkeys = [{{ api_key = \"{ADMIN_KEY}\" }}]\n\
         [[users]]\nname = \"alice\"\nkeys = [{{ api_key = \"{ALICE}\" }}]\n\
         [[permissions]]\nuser_name = \"admin\"\nmodel_pattern = \"*\"\n\
         [[permissions]]\nuser_name = \"alice\"\nmodel_pattern = \"b-*\"\n"
    )
}

fn get(gateway: &Gateway, target: &str, key: &str) -> Value {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str())];
    gateway.connect().ask(&request("GET", target, &headers, b"")).json()
}

fn ids(gateway: &Gateway, target: &str, key: &str) -> Vec<String> {
    let list = get(gateway, target, key);
    let data = list["data"].as_array().unwrap_or_else(|| panic!("no list: {list}"));
    data.iter().map(|model| model["id"].as_str().expect("an id").to_owned()).collect()
}

#[track_caller]
fn wait_for_ids(gateway: &Gateway, expected: &[&str]) {
    let mut last = Vec::new();
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_for("the upstream's list", || {
            last = ids(gateway, "/live/v1/models", ADMIN_KEY);
            (last == expected).then_some(())
        });
    }));
    assert!(found.is_ok(), "{last:?}, not {expected:?}\n{}", gateway.stderr().join("\n"));
}

const DECLARED: &str = "
[[models]]
provider_name = \"live\"
model_id = \"b-declared\"
display_name = \"Declared\"
[[models]]
provider_name = \"live\"
model_id = \"b-off\"
enabled = false
[[model_aliases]]
alias = \"b-alias\"
provider_name = \"live\"
model_id = \"c-live\"
";

#[test]
fn declared_models_and_the_upstreams_are_one_list_for_those_who_may_call_them() {
    let list = List::default();
    set(&list, Some(vec!["c-live", "b-off", "b-live", "b-live", "a/live:free"]));
    let upstream = listing(&list);
    let gateway =
        Gateway::start(&config(&(provider(&upstream, "custom", "models = \"both\"") + DECLARED)));
    wait_for_ids(&gateway, &["a/live:free", "b-declared", "b-live", "c-live", "b-alias"]);
    let all = ids(&gateway, "/v1/models", ADMIN_KEY);
    let prefixed = ["live/a/live:free", "live/b-declared", "live/b-live", "live/c-live", "b-alias"];
    assert_eq!(all, prefixed);
    assert_eq!(ids(&gateway, "/live/v1/models", ALICE), ["b-declared", "b-live", "b-alias"]);
    assert_eq!(get(&gateway, "/v1/models/live/b-live", ALICE)["id"], "live/b-live");
    assert!(get(&gateway, "/v1/models/live/c-live", ALICE)["error"].is_object());
    let seen = upstream.last();
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", "/v1/models"));
    assert_eq!(seen.header("authorization"), Some("Bearer upstream-key-1"));
    assert_eq!(upstream.count(), 1, "lists are answered here");
}

#[test]
fn with_the_upstreams_list_alone_declared_models_stand_in_until_it_comes() {
    let list = List::default();
    let upstream = listing(&list);
    let text = config(&(provider(&upstream, "openai", "models = \"upstream\"") + DECLARED));
    let gateway = Gateway::start(&text);
    upstream.wait_for_requests(1);
    wait_for_ids(&gateway, &["b-declared", "b-alias"]);
    set(&list, Some(vec!["b-live", "a-live"]));
    gateway.signal(Signal::HUP);
    wait_for_ids(&gateway, &["a-live", "b-live", "b-alias"]);
    assert!(get(&gateway, "/live/v1/models/b-declared", ADMIN_KEY)["error"].is_object());
    // The interface reads the file like the signal.
    set(&list, Some(vec!["c-live"]));
    admin(&gateway, "POST", "reload", serde_json::Value::Null, 200);
    wait_for_ids(&gateway, &["c-live", "b-alias"]);
}

#[test]
fn the_last_good_list_counts_while_the_upstream_fails() {
    let list = List::default();
    set(&list, Some(vec!["one"]));
    let upstream = listing(&list);
    let gateway = Gateway::start(&config(&provider(&upstream, "custom", "models = \"both\"")));
    wait_for_ids(&gateway, &["one"]);
    set(&list, None);
    gateway.signal(Signal::HUP);
    wait_for("the failure in the log", || {
        let log = gateway.stderr().join("\n");
        log.contains("live: no list of models, the last one counts: Status(500)").then_some(())
    });
    assert_eq!(ids(&gateway, "/live/v1/models", ADMIN_KEY), ["one"]);
    set(&list, Some(vec!["two"]));
    gateway.signal(Signal::HUP);
    wait_for_ids(&gateway, &["two"]);
}

#[test]
fn a_silent_upstream_holds_no_list_up() {
    let upstream = Upstream::scripted(|conn| {
        while let Some(_seen) = conn.request() {
            conn.wait_closed();
        }
    });
    let models = "models = \"both\"\n[[models]]\nprovider_name = \"live\"\nmodel_id = \"m\"";
    let gateway = Gateway::start(&config(&provider(&upstream, "custom", models)));
    upstream.wait_for_requests(1);
    assert_eq!(ids(&gateway, "/live/v1/models", ADMIN_KEY), ["m"]);
}

#[test]
fn hostile_lists_do_no_harm() {
    let good = r#"{"data":[{"id":"good"},{"id":"../x"},{"id":"a\u0000b"},{"id":7},{"id":""}]}"#;
    let bodies = Arc::new(Mutex::new(vec![
        "x".repeat(9 * 1024 * 1024),
        format!("{{\"data\":{}", "[".repeat(100_000)),
        "{\"data\":\"none\"}".to_owned(),
        "<html>".to_owned(),
        String::new(),
    ]));
    let rest = bodies.clone();
    let upstream = Upstream::answering(move |conn, _| {
        let body = rest.lock().expect("no holder panics").pop();
        conn.whole(200, body.unwrap_or_else(|| good.to_owned()));
    });
    let gateway = Gateway::start(&config(&provider(&upstream, "custom", "models = \"both\"")));
    for count in 1..=5 {
        upstream.wait_for_requests(count);
        assert_eq!(ids(&gateway, "/live/v1/models", ADMIN_KEY), [""; 0]);
        wait_for("the failure in the log", || {
            let lines = gateway.stderr();
            let failed = lines.iter().filter(|line| line.contains("no list of models")).count();
            (failed >= count).then_some(())
        });
        gateway.signal(Signal::HUP);
    }
    wait_for_ids(&gateway, &["good"]);
    assert_eq!(gateway.metrics()["gproxy_panics_total"], 0.0);
}

fn anthropic(conn: &mut Conn, seen: &Seen) {
    assert_eq!(seen.header("anthropic-version"), Some("2023-06-01"));
    assert_eq!(seen.header("x-api-key"), Some("upstream-key-1"));
    let page = match seen.target.as_str() {
        "/v1/models?limit=1000" => json!({
            "data": [{"type": "model", "id": "claude-b", "display_name": "Claude B"}],
            "has_more": true, "first_id": "claude-b", "last_id": "claude-b",
        }),
        "/v1/models?limit=1000&after_id=claude-b" => json!({
            "data": [{"type": "model", "id": "claude-a", "max_input_tokens": 200_000}],
            "has_more": false, "first_id": "claude-a", "last_id": "claude-a",
        }),
        other => panic!("{other} was not said"),
    };
    conn.whole(200, page.to_string());
}

fn gemini(conn: &mut Conn, seen: &Seen) {
    assert_eq!(seen.header("x-goog-api-key"), Some("upstream-key-1"));
    let page = match seen.target.as_str() {
        "/v1beta/models?pageSize=1000" => json!({
            "models": [{"name": "models/gemini-b", "displayName": "B", "inputTokenLimit": 9}],
            "nextPageToken": "a/b=",
        }),
        "/v1beta/models?pageSize=1000&pageToken=a%2Fb%3D" => {
            json!({ "models": [{"name": "models/gemini-a"}] })
        }
        other => panic!("{other} was not said"),
    };
    conn.whole(200, page.to_string());
}

#[test]
fn every_familys_pages_are_read() {
    let upstream = Upstream::answering(anthropic);
    let gateway = Gateway::start(&config(&provider(&upstream, "anthropic", "models = \"both\"")));
    wait_for_ids(&gateway, &["claude-a", "claude-b"]);
    let bearer = format!("Bearer {ADMIN_KEY}");
    let headers = [("authorization", bearer.as_str()), ("anthropic-version", "2023-06-01")];
    let target = "/live/v1/models/claude-b";
    let model = gateway.connect().ask(&request("GET", target, &headers, b"")).json();
    assert_eq!(model["display_name"], "Claude B");

    let upstream = Upstream::answering(gemini);
    let gateway = Gateway::start(&config(&provider(&upstream, "aistudio", "models = \"both\"")));
    wait_for_ids(&gateway, &["gemini-a", "gemini-b"]);
    assert_eq!(get(&gateway, "/live/v1beta/models/gemini-b", ADMIN_KEY)["inputTokenLimit"], 9);

    let list = List::default();
    set(&list, Some(vec!["gpt-4o"]));
    let upstream = listing(&list);
    let settings = "models = \"both\"\napi_version = \"2024-10-21\"";
    let gateway = Gateway::start(&config(&provider(&upstream, "azure", settings)));
    wait_for_ids(&gateway, &["gpt-4o"]);
    assert_eq!(upstream.last().target, "/openai/models?api-version=2024-10-21");
}

/// Runs `gproxy models pull`.
fn pull(text: &str, name: &str) -> Output {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("models-pull");
    std::fs::create_dir_all(&folder).expect("a folder for this test");
    let file = folder.join(format!("{name}-{}.toml", std::process::id()));
    std::fs::write(&file, text).expect("the folder was just made");
    let mut program = Command::new(env!("CARGO_BIN_EXE_gproxy"));
    program.args(["models", "pull", name, "--config"]).arg(&file).current_dir(&folder);
    program.output().expect("cargo built the binary for this test")
}

#[test]
fn what_pull_prints_can_be_declared() {
    let upstream = Upstream::answering(|conn, _| {
        let page = json!({ "data": [
            {"id": "b-declared"},
            {"id": "new/\"quoted\"", "name": "N\u{e9}w \\ one", "context_length": 4_096},
            {"id": "plain"},
        ]});
        conn.whole(200, page.to_string());
    });
    let text = config(&(provider(&upstream, "custom", "") + DECLARED));
    let output = pull(&text, "live");
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(
        printed,
        "[[models]]\nprovider_name = \"live\"\nmodel_id = \"new/\\\"quoted\\\"\"\n\
         display_name = \"N\u{e9}w \\\\ one\"\nmax_input_tokens = 4096\n\n\
         [[models]]\nprovider_name = \"live\"\nmodel_id = \"plain\"\n\n"
    );
    assert_eq!(upstream.count(), 1);
    let gateway = Gateway::start(&(text + &printed));
    let all = ids(&gateway, "/live/v1/models", ADMIN_KEY);
    assert_eq!(all, ["b-declared", "new/\"quoted\"", "plain", "b-alias"]);
    let again = config(&(provider(&upstream, "custom", "") + DECLARED + &printed));
    assert_eq!(pull(&again, "live").stdout, b"", "nothing is missing any more");
}

#[test]
fn a_pull_that_fails_says_why() {
    let upstream = Upstream::answering(|conn, _| {
        conn.whole(401, r#"{"error":{"message":"bad key upstream-key-1"}}"#);
    });
    let text = config(&provider(&upstream, "custom", ""));
    for (name, code, why) in [
        ("live", 1, "live: the upstream answered 401"),
        ("other", 2, "there is no enabled provider of that name"),
    ] {
        let output = pull(&text, name);
        assert_eq!(output.status.code(), Some(code));
        assert!(output.stdout.is_empty());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(why), "{said}");
        assert!(!said.contains("upstream-key-1"), "{said}");
    }
}
