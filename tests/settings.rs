//! What an administrator asks the running process about itself: its settings and who says so, some
//! of which he may set; whether the books add up; and who may call what, by which rule.

use std::path::PathBuf;

use crate::support::admin::{admin, call};
use crate::support::{ADMIN_KEY, ALICE_KEY, Config, Gateway, Upstream, wait_for};
use rusqlite::Connection;
use serde_json::{Value, json};

/// A folder that outlives a gateway.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let name = format!("gproxy-settings-{name}-{}", std::process::id());
        let folder = Folder(std::env::temp_dir().join(name));
        let _ = std::fs::remove_dir_all(&folder.0);
        folder
    }

    fn start(&self, config: &str) -> Gateway {
        Gateway::start(&config.replace("DATA_DIR", &self.0.display().to_string()))
    }

    /// Logged requests of that path.
    fn logged(&self, path: &str) -> i64 {
        let Ok(logs) = Connection::open(self.0.join("gproxy-logs.db")) else { return 0 };
        let count = "SELECT count(*) FROM downstream_requests WHERE request_path = ?1";
        logs.query_row(count, [path], |row| row.get(0)).unwrap_or(0)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn config() -> Config {
    Config::to_url("http://127.0.0.1:9")
}

#[track_caller]
fn setting(told: &Value, name: &str) -> (Value, String) {
    let items = told["items"].as_array().expect("a list");
    let item = items.iter().find(|item| item["name"] == name).expect(name);
    (item["value"].clone(), item["from"].as_str().expect("a word").to_owned())
}

#[test]
fn settings_are_told_with_who_says_so() {
    let text = config().limit("in_flight_max = 9").timeout("connect_ms = 77").text();
    let gateway = Gateway::start_with(&text, &[("GPROXY_WORKERS", "1")]);
    let told = admin(&gateway, "GET", "settings", Value::Null, 200);
    for (name, value, from) in [
        ("limits.in_flight_max", json!(9), "file"),
        ("timeouts.connect_ms", json!(77), "file"),
        ("global.workers", json!(1), "flag"),
        ("global.enable_usage", json!(true), "default"),
        ("ledger.usage_days", json!(400), "default"),
    ] {
        assert_eq!(setting(&told, name), (value, from.to_owned()), "{name}");
    }
    let reply = call(&gateway, ALICE_KEY, "GET", "/admin/api/settings", &Value::Null);
    assert_eq!(reply.status, 403);
}

#[test]
fn the_proxy_that_is_told_is_the_one_that_is_asked() {
    let variable = ("GPROXY_PROXY", "http://b.example:2");
    let in_file = config().global("proxy = \"http://a.example:1\"").text();
    for (text, environment, value, from) in [
        (&in_file, Some(variable), "http://b.example:2", "flag"),
        (&config().text(), Some(variable), "http://b.example:2", "flag"),
        (&in_file, Some(("GPROXY_PROXY", "direct")), "direct", "flag"),
        (&in_file, None, "http://a.example:1", "file"),
        (&config().text(), None, "direct", "default"),
    ] {
        let environment: Vec<_> = environment.into_iter().collect();
        let gateway = Gateway::start_with(text, &environment);
        let told = admin(&gateway, "GET", "settings", Value::Null, 200);
        let expected = (json!(value), from.to_owned());
        assert_eq!(setting(&told, "global.proxy"), expected, "{environment:?}");
    }
}

/// Keys of the tables that the README shows, arrays aside.
fn documented() -> Vec<String> {
    let readme = include_str!("../README.md");
    let (_, rest) = readme.split_once("### Keys of the file").expect("a heading");
    let (_, rest) = rest.split_once("```toml\n").expect("a block");
    let (mut table, mut names) = ("", Vec::new());
    for line in rest.lines().take_while(|line| *line != "```") {
        if let Some(header) = line.strip_prefix('[') {
            table = header.split(']').next().expect("a split has a first part");
        }
        let line = line.strip_prefix("# ").unwrap_or(line);
        let is_key = |key: &str| key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let key = line.split_once(" = ").map(|(key, _)| key).filter(|key| is_key(key));
        if let Some(key) = key.filter(|_| !table.contains(['[', '.'])) {
            names.push(format!("{table}.{key}"));
        }
    }
    names.sort_unstable();
    names
}

#[test]
fn every_setting_is_told_whoever_says_so_and_as_it_is_now() {
    let gateway = Gateway::start(&config().global("dsn = \"mysql://u:secret-of-v1@h/d\"").text());
    let told = admin(&gateway, "GET", "settings", Value::Null, 200);
    let items = told["items"].as_array().expect("a list");
    let mut names: Vec<&str> =
        items.iter().map(|item| item["name"].as_str().expect("a name")).collect();
    names.sort_unstable();
    assert_eq!(names, documented());
    assert!(!told.to_string().contains("secret-of-v1"), "{told}");
    for (name, value) in [
        ("timeouts.connect_ms", json!(5_000)),
        ("timeouts.total_ms", json!(0)),
        ("tls.key_file", Value::Null),
    ] {
        assert_eq!(setting(&told, name), (value, "default".to_owned()), "{name}");
    }
    gateway.rewrite_config(&config().timeout("connect_ms = 77").text());
    let report = admin(&gateway, "POST", "reload", Value::Null, 200);
    assert!(!report.to_string().contains("secret-of-v1"), "{report}");
    let told = admin(&gateway, "GET", "settings", Value::Null, 200);
    assert_eq!(setting(&told, "timeouts.connect_ms"), (json!(77), "file".to_owned()));
    assert!(!gateway.stderr().join("\n").contains("secret-of-v1"));
}

#[test]
fn a_switch_that_is_set_here_counts_from_the_next_request_on_and_after_a_restart() {
    let upstream = Upstream::vendor();
    let folder = Folder::new("switch");
    let text = Config::to(&upstream).text();
    let gateway = folder.start(&text);
    let models = |gateway: &Gateway| {
        let reply = call(gateway, ADMIN_KEY, "GET", "/v1/models", &Value::Null);
        assert_eq!(reply.status, 200);
    };
    models(&gateway);
    let set = json!({ "enable_downstream_log": true, "usage_days": 12 });
    let told = admin(&gateway, "PATCH", "settings", set, 200);
    assert_eq!(setting(&told, "global.enable_downstream_log"), (json!(true), "database".into()));
    assert_eq!(setting(&told, "ledger.usage_days"), (json!(12), "database".into()));
    models(&gateway);
    wait_for("the request to be logged", || (folder.logged("/v1/models") == 1).then_some(()));
    let changes = admin(&gateway, "GET", "changes?limit=1", Value::Null, 200);
    let change = &changes["items"][0];
    assert_eq!((&change["section"], &change["made_by"]), (&json!("settings"), &json!("admin")));
    assert_eq!(change["after"], json!({ "enable_downstream_log": true, "usage_days": 12 }));

    assert!(gateway.stop().success());
    let gateway = folder.start(&text);
    let told = admin(&gateway, "GET", "settings", Value::Null, 200);
    assert_eq!(setting(&told, "ledger.usage_days"), (json!(12), "database".into()));
    models(&gateway);
    wait_for("the request to be logged", || (folder.logged("/v1/models") == 2).then_some(()));
    admin(&gateway, "POST", "reload", Value::Null, 200);
    models(&gateway);
    wait_for("a reload to leave it", || (folder.logged("/v1/models") == 3).then_some(()));

    let told = admin(&gateway, "PATCH", "settings", json!({ "enable_downstream_log": null }), 200);
    assert_eq!(setting(&told, "global.enable_downstream_log"), (json!(false), "default".into()));
    models(&gateway);
    assert!(gateway.stop().success());
    assert_eq!(folder.logged("/v1/models"), 3);
}

#[test]
fn what_the_file_says_of_a_setting_counts_and_is_read_only() {
    let folder = Folder::new("file");
    let gateway = folder.start(&config().text());
    admin(&gateway, "PATCH", "settings", json!({ "log_days": 3 }), 200);
    assert!(gateway.stop().success());
    let ledger = "[ledger]\nlog_days = 5\n";
    let gateway = folder.start(&config().tail(ledger).text());
    gateway.wait_for_line("gproxy.db: setting ledger.log_days: log_days: the file says something");
    let told = admin(&gateway, "GET", "settings", Value::Null, 200);
    assert_eq!(setting(&told, "ledger.log_days"), (json!(5), "file".into()));
    assert_eq!(setting(&told, "ledger.usage_days"), (json!(400), "default".into()));
    let fault = admin(&gateway, "PATCH", "settings", json!({ "log_days": 4 }), 409);
    assert_eq!(
        (&fault["error"]["code"], &fault["error"]["field"]),
        (&json!("declared"), &json!("log_days"))
    );
    for (body, field) in [
        (json!({ "enable_usage": false }), "enable_usage"),
        (json!({ "usage_days": -1 }), "usage_days"),
        (json!({ "enable_downstream_log": "yes" }), "enable_downstream_log"),
    ] {
        let fault = admin(&gateway, "PATCH", "settings", body, 400);
        assert_eq!(fault["error"]["field"], field, "{fault}");
    }
    // The rest of the table may be set beside the file's.
    let told = admin(&gateway, "PATCH", "settings", json!({ "usage_days": 30 }), 200);
    assert_eq!(setting(&told, "ledger.usage_days"), (json!(30), "database".into()));
    assert_eq!(setting(&told, "ledger.log_days"), (json!(5), "file".into()));
    // What the database says in vain is taken back; nobody is warned any more.
    admin(&gateway, "PATCH", "settings", json!({ "log_days": null }), 200);
    let report = admin(&gateway, "POST", "reload", Value::Null, 200);
    assert!(!report["warnings"].to_string().contains("log_days"), "{report}");
}

#[test]
fn an_audit_is_begun_by_one_call_and_found_by_others() {
    let upstream = Upstream::vendor();
    let folder = Folder::new("audit");
    let text = Config::to(&upstream).text();
    let gateway = folder.start(&text);
    let none = admin(&gateway, "GET", "audit", Value::Null, 200);
    assert_eq!(none, json!({ "running": false, "since": null, "last": null }));
    let body = json!({ "model": "openai-main/m", "messages": [] });
    let reply = call(&gateway, ADMIN_KEY, "POST", "/v1/chat/completions", &body);
    assert_eq!(reply.status, 200);
    wait_for("the row to be written", || {
        let rows = admin(&gateway, "GET", "usage", Value::Null, 200);
        (rows["items"].as_array().map(Vec::len) == Some(1)).then_some(())
    });
    let audit = |gateway: &Gateway| {
        let begun = admin(gateway, "POST", "audit", Value::Null, 202);
        assert!(begun["running"] == true || !begun["last"].is_null(), "{begun}");
        wait_for("the audit to end", || {
            let told = admin(gateway, "GET", "audit", Value::Null, 200);
            (told["running"] == false).then(|| told["last"].clone())
        })
    };
    let last = audit(&gateway);
    assert_eq!((&last["well"], &last["rows"]), (&json!(true), &json!(1)), "{last}");
    assert_eq!((&last["faults"], &last["faults_count"]), (&json!([]), &json!(0)));
    assert!(last["began_at"].as_i64() <= last["ended_at"].as_i64(), "{last}");
    let reply = call(&gateway, ALICE_KEY, "POST", "/admin/api/audit", &Value::Null);
    assert_eq!(reply.status, 403);

    assert!(gateway.stop().success());
    let books = Connection::open(folder.0.join("gproxy.db")).expect("the books");
    books.execute_batch("UPDATE usage_rows SET output_tokens = output_tokens + 1").expect("a row");
    drop(books);
    let gateway = folder.start(&text);
    let last = audit(&gateway);
    assert_eq!((&last["well"], &last["rows"]), (&json!(false), &json!(1)), "{last}");
    let fault = last["faults"][0].as_str().expect("a fault");
    assert!(fault.contains("it was changed"), "{fault}");
}

#[test]
fn who_may_call_what_is_answered_with_the_rule() {
    let more = "[[file_permissions]]\nuser_name = \"alice\"\nprovider_name = \"router\"\n\
        [[model_aliases]]\nalias = \"two\"\ntargets = [\
        { provider_name = \"router\", model_id = \"m\" }, \
        { provider_name = \"openai-main\", model_id = \"gpt-x\", tier = 1 }]\n";
    let setting = "forward_headers = [\"OpenAI-Organization\"]";
    let gateway = Gateway::start(&config().setting(setting).tail(more).text());
    let asked = |query: &str| admin(&gateway, "GET", &format!("explain{query}"), Value::Null, 200);
    let told = asked("?user_name=alice&model=openai-main/gpt-4.1");
    assert_eq!(
        (&told["served"], &told["rule"]["id"]),
        (&json!(true), &json!("alice:openai-main:gpt-*"))
    );
    assert_eq!(told["rule"]["text"], "models gpt-* at openai-main");
    assert_eq!(told["forward_headers"], json!(["openai-organization"]));
    assert!(told["rule"]["line"].as_u64().is_some_and(|line| line > 0), "{told}");
    let told = asked("?user_name=alice&model=router/m");
    assert_eq!((&told["served"], &told["status"]), (&json!(false), &json!(403)));
    assert_eq!((&told["rule"], &told["rules_count"]), (&Value::Null, &json!(1)));
    assert_eq!(told["provider"], "router");
    // A rule that is made here has its name and no line.
    let rule = json!({ "user_name": "alice", "model_pattern": "m*" });
    admin(&gateway, "POST", "permissions", rule, 201);
    let told = asked("?user_name=alice&model=router/m");
    assert_eq!(
        (&told["rule"]["id"], &told["rule"]["declared"]),
        (&json!("alice::m*"), &json!(false))
    );

    // Of an alias's targets the permitted one is called.
    let told = asked("?user_name=alice&model=two");
    assert_eq!((&told["served"], &told["rule"]), (&json!(false), &Value::Null), "{told}");
    let rule =
        json!({ "user_name": "alice", "provider_name": "openai-main", "model_pattern": "two" });
    admin(&gateway, "POST", "permissions", rule, 201);
    let told = asked("?user_name=alice&model=two");
    assert_eq!(
        (&told["served"], &told["provider"]),
        (&json!(true), &json!("openai-main")),
        "{told}"
    );
    let targets = told["targets"].as_array().expect("both");
    let served: Vec<_> = targets.iter().map(|target| &target["served"]).collect();
    assert_eq!(served, [&json!(false), &json!(true)]);

    let told = asked("/files?user_name=alice&provider_name=router");
    assert_eq!((&told["served"], &told["rule"]["id"]), (&json!(true), &json!("alice:router")));
    let told = asked("/files?user_name=admin&provider_name=openai-main");
    assert_eq!(
        (&told["served"], &told["status"], &told["rule"]),
        (&json!(false), &json!(403), &Value::Null)
    );
    // What has no room now is not served, whoever may.
    let limit = json!({ "user_name": "alice", "model_pattern": "gpt-*", "rpm": 0 });
    admin(&gateway, "POST", "rate_limits", limit, 201);
    let told = asked("?user_name=alice&model=openai-main/gpt-4.1");
    assert_eq!((&told["served"], &told["status"]), (&json!(false), &json!(429)), "{told}");
    assert_eq!(told["message"], "rate_limited: the rule for `gpt-*` allows none (rpm = 0)");
    assert_eq!(told["rule"]["id"], "alice:openai-main:gpt-*");
    assert_eq!(asked("?user_name=alice&model=two")["quota_and_limits"], "none counts this call");
    admin(&gateway, "POST", "quotas", json!({ "user_name": "alice", "quota": "0" }), 201);
    for query in ["?user_name=alice&model=two", "/files?user_name=alice&provider_name=router"] {
        let told = asked(query);
        assert_eq!((&told["served"], &told["status"]), (&json!(false), &json!(402)), "{told}");
    }
    let top_up = json!({ "amount": "1" });
    admin(&gateway, "POST", "quotas/alice:total/top_ups", top_up, 201);
    let told = asked("?user_name=alice&model=two");
    assert_eq!(
        (&told["served"], &told["quota_and_limits"]),
        (&json!(true), &json!("there is room")),
        "{told}"
    );

    let fault =
        admin(&gateway, "GET", "explain/files?user_name=x&provider_name=router", Value::Null, 404);
    assert_eq!(fault["error"]["field"], "user_name");
}
