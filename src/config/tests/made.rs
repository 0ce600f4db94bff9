//! The file and the database together.

use serde_json::{Value, json};

use super::super::made::{Made, Row};
use super::super::{ConfigError, Loaded, Overrides, load_both};
use crate::secret::Digest;

const FILE: &str = "[[providers]]\nname = 'p'\nchannel = 'echo'\n[[users]]\nname = 'u'\n\
    [[users.keys]]\napi_key = 'sk-of-the-file-0123'\n\
    [[permissions]]\nuser_name = 'u'\nmodel_pattern = 'a*'\n";

fn made(rows: &[(&'static str, Value)]) -> Made {
    let row = |(section, value): &(&'static str, Value)| {
        let Value::Object(value) = value.clone() else { panic!("a row is an object") };
        Row { section, label: format!("{section} row"), value }
    };
    Made { rows: rows.iter().map(row).collect() }
}

fn load(rows: &[(&'static str, Value)]) -> Result<Loaded, Vec<ConfigError>> {
    load_both(FILE, "c.toml", &made(rows), &Overrides::default(), &|_| None, &super::NO_FILES)
}

/// A new version starts with what an old one let pass.
#[test]
fn what_may_not_be_written_any_more_has_no_effect_and_stops_no_start() {
    let price = json!([{ "price_input_tokens": "1", "price_output_tokens": "1" }]);
    let loaded = load(&[
        ("rate_limits", json!({ "user_name": "u", "model_pattern": "gpt-*|o1-*", "rpm": 1 })),
        (
            "models",
            json!({
                "provider_name": "p", "model_id": "gpt-4*", "display_name": "x",
                "price_tiers": price
            }),
        ),
        ("models", json!({ "provider_name": "p", "model_id": "o1*" })),
    ]);
    let loaded = loaded.unwrap_or_else(|errors| panic!("{errors:?}"));
    let keys: Vec<_> = loaded.forbidden.iter().map(|error| error.key.as_str()).collect();
    assert_eq!(keys, ["display_name", "model_id", "model_pattern"]);
    assert_eq!(loaded.warnings.iter().filter(|text| text.contains("row")).count(), 3);
    assert!(loaded.snapshot.users[0].rate_limits.is_empty());
    assert!(loaded.snapshot.providers[0].price("", "gpt-4o").is_some());
}

#[test]
fn rows_of_the_database_count_like_those_of_the_file() {
    let key = Digest::of(b"sk-made").to_text();
    let loaded = load(&[
        ("permissions", json!({ "user_name": "v", "provider_name": "q", "model_pattern": "*" })),
        ("users", json!({ "name": "v", "is_admin": true })),
        ("providers", json!({ "name": "q", "channel": "echo", "settings": { "events": 7 } })),
        ("user_keys", json!({ "user_name": "u", "api_key": key, "label": "second" })),
        ("model_aliases", json!({ "alias": "x", "provider_name": "q", "model_id": "m" })),
        ("quotas", json!({ "user_name": "u", "quota": "1.5" })),
    ]);
    let loaded = loaded.unwrap_or_else(|errors| panic!("{errors:?}"));
    let snapshot = &loaded.snapshot;
    let names: Vec<_> = snapshot.users.iter().map(|user| user.name.as_str()).collect();
    assert_eq!(names, ["u", "v"]);
    assert_eq!(snapshot.users[0].keys.len(), 2);
    assert_eq!(snapshot.users[0].quotas.len(), 1);
    assert!(snapshot.users[1].is_admin && snapshot.permits(1, 1, "m"));
    assert_eq!(snapshot.providers[1].echo.events, 7);
    assert_eq!(snapshot.aliases()[0].1.provider, 1);
    // What the database declares is not shown as the file's.
    let declared: Vec<_> = loaded.declared.iter().map(|row| (row.section, row.line)).collect();
    assert_eq!(declared, [("providers", 1), ("users", 4), ("user_keys", 4), ("permissions", 8)]);
}

#[test]
fn a_mistake_in_the_database_names_its_row_and_a_clash_the_line_of_the_file() {
    let file_key = Digest::of(b"sk-of-the-file-0123").to_text();
    let rows = [
        ("users", json!({ "name": "u" }), "name", "declared on line 5 too"),
        ("users", json!({ "name": "v", "is_admin": "yes" }), "is_admin", "must be true or false"),
        ("users", json!({ "name": "v", "admin": true }), "admin", "unknown key"),
        ("users", json!({ "is_admin": true }), "name", "this key is missing"),
        ("user_keys", json!({ "user_name": "u", "api_key": file_key }), "api_key", "on line 7 too"),
        (
            "providers",
            json!({ "name": "q", "channel": "custom", "settings": { "base_url": "ftp://x" } }),
            "settings.base_url",
            "http",
        ),
        ("permissions", json!({ "user_name": "u", "model_pattern": "" }), "model_pattern", ""),
    ];
    for (section, row, key, why) in rows {
        // A sound row before it: the index is the row's own.
        let all = [("users", json!({ "name": "before" })), (section, row.clone())];
        let Err(errors) = load(&all) else { panic!("accepted: {row}") };
        let error = &errors[0];
        assert_eq!((error.row, error.key.as_str(), error.line), (Some(1), key, 0), "{error}");
        assert!(error.why.contains(why), "{row}: {error}");
        assert!(error.to_string().starts_with("gproxy.db: "), "{error}");
    }
}

/// The file may lose whom the database still has rows for: nobody is stopped by them.
#[test]
fn rows_for_who_is_not_there_any_more_have_no_effect_and_stop_no_start() {
    let key = Digest::of(b"sk-made").to_text();
    let targets = json!([{ "provider_name": "gone", "model_id": "m" }]);
    let rows = [
        ("user_keys", json!({ "user_name": "w", "api_key": key })),
        ("permissions", json!({ "user_name": "w", "model_pattern": "*" })),
        ("permissions", json!({ "user_name": "u", "provider_name": "gone", "model_pattern": "*" })),
        ("file_permissions", json!({ "user_name": "u", "provider_name": "gone" })),
        ("rate_limits", json!({ "user_name": "w", "model_pattern": "*", "rpm": 1 })),
        ("quotas", json!({ "user_name": "w", "quota": "1" })),
        ("models", json!({ "provider_name": "gone", "model_id": "m" })),
        ("model_aliases", json!({ "alias": "x", "provider_name": "gone", "model_id": "m" })),
        ("model_aliases", json!({ "alias": "y", "targets": targets })),
    ];
    let count = rows.len();
    let loaded = load(&rows).unwrap_or_else(|errors| panic!("{errors:?}"));
    assert_eq!(loaded.forbidden.len(), count, "{:?}", loaded.forbidden);
    assert!(loaded.forbidden.iter().all(|error| error.why.starts_with("there is no ")));
    assert!(loaded.snapshot.users.iter().all(|user| user.permissions.len() == 1));
    assert!(loaded.snapshot.users.iter().all(|user| user.file_permissions.is_empty()));
    assert!(loaded.snapshot.aliases().is_empty());
}
