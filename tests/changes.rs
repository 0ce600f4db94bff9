//! What the audit keeps of changes, what they take with them, and what they do not depend on.

use crate::support::admin::admin;
use crate::support::{Config, Gateway};
use serde_json::{Value, json};

fn config() -> Config {
    Config::to_url("http://127.0.0.1:9")
}

/// Makes rows, one after the other; the names of the last one of each call come back.
fn make(gateway: &Gateway, rows: &[(&str, Value)]) -> Vec<String> {
    let make = |(section, row): &(&str, Value)| {
        let made = admin(gateway, "POST", section, row.clone(), 201);
        format!("{section} {}", made["id"].as_str().expect("a name"))
    };
    rows.iter().map(make).collect()
}

/// What the audit says of the last changes, the last first: action, section and name.
fn audit(gateway: &Gateway, count: usize) -> (Vec<String>, Value) {
    let changes = admin(gateway, "GET", &format!("changes?limit={count}"), Value::Null, 200);
    let text = |row: &Value, name: &str| row[name].as_str().expect("a text").to_owned();
    let rows = changes["items"].as_array().expect("a list").iter();
    let rows = rows.map(|row| {
        assert!(row["before"].is_object(), "{row}");
        format!("{} {} {}", text(row, "action"), text(row, "section"), text(row, "entity"))
    });
    (rows.collect(), changes["items"].clone())
}

#[test]
fn the_audit_lists_what_went_with_a_user_or_a_provider() {
    let gateway = Gateway::start(&config().text());
    let user = [
        ("user_keys", json!({ "user_name": "bob", "label": "laptop" })),
        ("permissions", json!({ "user_name": "bob", "model_pattern": "m*" })),
        ("rate_limits", json!({ "user_name": "bob", "model_pattern": "*", "rpm": 3 })),
        ("quotas", json!({ "user_name": "bob", "quota": "7" })),
    ];
    let settings = json!({ "base_url": "http://paid.example:9", "dialects": ["openai_chat"] });
    let provider = json!({ "name": "paid", "channel": "custom", "settings": settings });
    let secret = "upstream-secret-4242424242";
    let paid = [
        ("credentials", json!({ "provider_name": "paid", "api_key": secret })),
        ("models", json!({ "provider_name": "paid", "model_id": "m", "price_each_call": "2" })),
        ("model_aliases", json!({ "alias": "a", "provider_name": "paid", "model_id": "m" })),
    ];
    for (section, head, name, rows) in [
        ("users", json!({ "name": "bob", "is_admin": true }), "bob", &user[..]),
        ("providers", provider, "paid", &paid[..]),
    ] {
        make(&gateway, &[(section, head)]);
        let mut made = make(&gateway, rows);
        admin(&gateway, "DELETE", &format!("{section}/{name}"), Value::Null, 204);
        let (mut told, all) = audit(&gateway, rows.len() + 1);
        assert_eq!(told.remove(0), format!("delete {section} {name}"), "the head comes last");
        told.sort();
        made.iter_mut().for_each(|row| row.insert_str(0, "delete "));
        made.sort();
        assert_eq!(told, made);
        let all = all.to_string();
        assert!(!all.contains(secret) && !all.contains("sha256:"), "{all}");
        let part = if name == "bob" { r#""quota":"7""# } else { r#""price_each_call":"2""# };
        assert!(all.contains(part), "{all}");
    }
}

/// What stands as topped up of a quota, and the number of its top-ups.
fn topped_up(gateway: &Gateway, quota: &str) -> (String, usize) {
    let path = format!("quotas/{quota}");
    let quota = admin(gateway, "GET", &path, Value::Null, 200);
    let items = admin(gateway, "GET", &format!("{path}/top_ups"), Value::Null, 200);
    let count = items["items"].as_array().map(Vec::len).expect("a list");
    (quota["topped_up"].as_str().expect("an amount").to_owned(), count)
}

/// Spending is what the books say of a user, under whatever quota; a top-up was for that quota.
#[test]
fn a_quota_that_is_made_anew_has_no_top_ups_of_the_one_before() {
    let mut gateway = Gateway::start(&config().text());
    let quota = |window: &str| json!({ "user_name": "bob", "quota": "1", "window": window });
    let top_up = json!({ "amount": "5", "why": "march" });
    let stands = |gateway: &Gateway, window: &str| topped_up(gateway, &format!("bob:{window}"));
    make(&gateway, &[("users", json!({ "name": "bob" }))]);
    for window in ["total", "month"] {
        make(&gateway, &[("quotas", quota(window))]);
        admin(&gateway, "POST", &format!("quotas/bob:{window}/top_ups"), top_up.clone(), 201);
    }
    admin(&gateway, "DELETE", "quotas/bob:month", Value::Null, 204);
    make(&gateway, &[("quotas", quota("month"))]);
    assert_eq!(stands(&gateway, "month"), ("0".to_owned(), 0));
    assert_eq!(stands(&gateway, "total"), ("5".to_owned(), 1), "that one was never away");
    admin(&gateway, "DELETE", "users/bob", Value::Null, 204);
    make(&gateway, &[("users", json!({ "name": "bob" })), ("quotas", quota("total"))]);
    assert_eq!(stands(&gateway, "total"), ("0".to_owned(), 0));
    let changes = admin(&gateway, "GET", "changes?limit=100", Value::Null, 200).to_string();
    assert_eq!(changes.matches(r#""action":"top_up""#).count(), 2, "{changes}");
    gateway.sigterm();
    assert!(gateway.wait_exit().success());
    let text = std::fs::read_to_string(gateway.folder().join("config.toml")).expect("our file");
    let again = Gateway::start(&text.replacen(&format!("port = {}", gateway.port), "port = 0", 1));
    for window in ["total", "month"] {
        if window == "month" {
            make(&again, &[("quotas", quota(window))]);
        }
        assert_eq!(stands(&again, window), ("0".to_owned(), 0), "a restart brings nothing back");
    }
}

#[test]
fn top_ups_wait_for_the_files_quota_and_one_that_is_made_begins_without() {
    let without = config().text();
    let quota = "[[quotas]]\nuser_name = \"alice\"\nquota = \"1\"\n";
    let with = config().tail(quota).text();
    let gateway = Gateway::start(&with);
    let load = |text: &str| {
        gateway.rewrite_config(text);
        admin(&gateway, "POST", "reload", Value::Null, 200);
    };
    admin(&gateway, "POST", "quotas/alice:total/top_ups", json!({ "amount": "5" }), 201);
    load(&without);
    load(&with);
    assert_eq!(topped_up(&gateway, "alice:total"), ("5".to_owned(), 1));
    load(&without);
    make(&gateway, &[("quotas", json!({ "user_name": "alice", "quota": "1" }))]);
    assert_eq!(topped_up(&gateway, "alice:total"), ("0".to_owned(), 0));
}
