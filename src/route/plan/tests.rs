use super::*;
use crate::config;

const TEXT: &str = r#"
    [[providers]]
    name = "openai-main"
    channel = "echo"
    [[providers]]
    name = "router"
    channel = "custom"
    settings = { base_url = "http://127.0.0.1:1", dialects = ["openai_chat", "anthropic"] }
    [[providers]]
    name = "gone"
    channel = "openai"
    enabled = false
    [[models]]
    provider_name = "openai-main"
    model_id = "retired"
    enabled = false
    [[models]]
    provider_name = "router"
    model_id = "router/auto"
    [[model_aliases]]
    alias = "chat-default"
    provider_name = "openai-main"
    model_id = "gpt-4.1-mini"
    [[model_aliases]]
    alias = "openai-main/special"
    provider_name = "router"
    model_id = "special"
    [[model_aliases]]
    alias = "off"
    provider_name = "openai-main"
    model_id = "gpt-4.1-mini"
    enabled = false
    [[model_aliases]]
    alias = "to-retired"
    provider_name = "openai-main"
    model_id = "retired"
    [[model_aliases]]
    alias = "to-gone"
    provider_name = "gone"
    model_id = "m"
    [[users]]
    name = "alice"
    keys = [{ api_key = "sk-alice" }, { api_key = "sk-old", enabled = false }]
    [[users]]
    name = "bob"
    enabled = false
    keys = [{ api_key = "sk-bob" }]
    [[permissions]]
    user_name = "alice"
    model_pattern = "chat-*"
    [[permissions]]
    user_name = "alice"
    provider_name = "router"
    model_pattern = "gpt-?"
"#;

fn snapshot() -> Snapshot {
    match config::load(TEXT, "test.toml", &|_| None) {
        Ok(loaded) => loaded.snapshot,
        Err(errors) => panic!("{errors:?}"),
    }
}

/// Served as (provider, model, renamed, name for permissions), or refused.
type Row = (
    &'static str,
    &'static str,
    Result<(&'static str, &'static str, bool, &'static str), RouteError>,
);

#[track_caller]
fn check(rows: &[Row]) {
    let snapshot = snapshot();
    for (scope, asked, expected) in rows {
        let scope = snapshot.provider_named(scope);
        let target = resolve(&snapshot, scope, asked);
        let found = target.as_ref().map_err(|error| *error).map(|target| {
            assert_eq!(target.model_asked, *asked);
            (
                snapshot.providers[target.provider].name.as_str(),
                target.model_served,
                target.renamed,
                target.permission_name,
            )
        });
        assert_eq!(found, *expected, "{asked} in scope {scope:?}");
    }
}

const PREFIX: RouteError = RouteError::ProviderPrefix;
const GONE: RouteError = RouteError::NoSuchModel;

#[test]
fn without_a_scope_an_alias_or_a_prefix_names_the_provider() {
    check(&[
        ("", "openai-main/gpt-4.1-mini", Ok(("openai-main", "gpt-4.1-mini", true, "gpt-4.1-mini"))),
        (
            "",
            "router/meta-llama/llama-3-70b:free",
            Ok(("router", "meta-llama/llama-3-70b:free", true, "meta-llama/llama-3-70b:free")),
        ),
        ("", "chat-default", Ok(("openai-main", "gpt-4.1-mini", true, "chat-default"))),
        ("", "gpt-4.1-mini", Err(PREFIX)),
        ("", "unknown/gpt-4.1-mini", Err(PREFIX)),
        ("", "/gpt-4.1-mini", Err(PREFIX)),
        ("", "OPENAI-MAIN/gpt", Err(PREFIX)),
        ("", "", Err(PREFIX)),
        ("", "openai-main/", Err(GONE)),
    ]);
}

#[test]
fn an_exact_alias_wins_over_a_prefix() {
    check(&[
        ("", "openai-main/special", Ok(("router", "special", true, "openai-main/special"))),
        ("", "openai-main/special2", Ok(("openai-main", "special2", true, "special2"))),
    ]);
}

#[test]
fn an_alias_behind_its_own_prefix_is_still_the_alias() {
    check(&[
        ("", "openai-main/chat-default", Ok(("openai-main", "gpt-4.1-mini", true, "chat-default"))),
        (
            "openai-main",
            "openai-main/chat-default",
            Ok(("openai-main", "gpt-4.1-mini", true, "chat-default")),
        ),
        ("", "router/chat-default", Ok(("router", "chat-default", true, "chat-default"))),
    ]);
}

#[test]
fn in_a_scope_a_raw_name_passes_untouched() {
    check(&[
        ("openai-main", "gpt-4.1-mini", Ok(("openai-main", "gpt-4.1-mini", false, "gpt-4.1-mini"))),
        ("router", "a/b/c:free", Ok(("router", "a/b/c:free", false, "a/b/c:free"))),
        ("router", "openai-main/gpt", Ok(("router", "openai-main/gpt", false, "openai-main/gpt"))),
    ]);
}

#[test]
fn in_a_scope_its_own_alias_wins_and_a_foreign_one_does_not_leak_in() {
    check(&[
        ("openai-main", "chat-default", Ok(("openai-main", "gpt-4.1-mini", true, "chat-default"))),
        ("router", "chat-default", Ok(("router", "chat-default", false, "chat-default"))),
        ("openai-main", "openai-main/special", Ok(("openai-main", "special", true, "special"))),
        ("router", "openai-main/special", Ok(("router", "special", true, "openai-main/special"))),
    ]);
}

#[test]
fn in_a_scope_the_own_prefix_goes_unless_the_id_is_declared_so() {
    check(&[
        ("openai-main", "openai-main/gpt", Ok(("openai-main", "gpt", true, "gpt"))),
        ("router", "router/auto", Ok(("router", "router/auto", false, "router/auto"))),
        ("router", "router/other", Ok(("router", "other", true, "other"))),
        ("", "router/router/auto", Ok(("router", "router/auto", true, "router/auto"))),
        ("", "router/auto", Ok(("router", "auto", true, "auto"))),
    ]);
}

#[test]
fn what_is_disabled_does_not_exist() {
    check(&[
        ("", "off", Err(GONE)),
        ("openai-main", "off", Err(GONE)),
        ("", "openai-main/off", Err(GONE)),
        ("", "to-retired", Err(GONE)),
        ("", "to-gone", Err(GONE)),
        ("", "openai-main/retired", Err(GONE)),
        ("openai-main", "retired", Err(GONE)),
        ("openai-main", "openai-main/retired", Err(GONE)),
        ("", "gone/m", Err(GONE)),
    ]);
    assert_eq!(snapshot().provider_named("gone"), None);
}

#[test]
fn keys_open_for_enabled_users_only() {
    let snapshot = snapshot();
    let rows =
        [("sk-alice", Some(0)), ("sk-old", None), ("sk-bob", None), ("sk-x", None), ("", None)];
    for (key, expected) in rows {
        let caller = snapshot.authenticate(key.as_bytes());
        assert_eq!(caller.map(|caller| caller.user), expected, "{key}");
    }
}

#[test]
fn permissions_are_tested_on_the_name_as_sent() {
    let snapshot = snapshot();
    let rows = [
        ("chat-default", Dialect::OpenaiChat, Ok(())),
        ("openai-main/gpt-4.1-mini", Dialect::OpenaiChat, Err(RouteError::Forbidden)),
        ("openai-main/chat-x", Dialect::Gemini, Ok(())),
        ("router/gpt-4", Dialect::Anthropic, Ok(())),
        ("router/gpt-41", Dialect::Anthropic, Err(RouteError::Forbidden)),
        ("openai-main/gpt-4", Dialect::OpenaiChat, Err(RouteError::Forbidden)),
    ];
    for (asked, dialect, expected) in rows {
        let target = resolve(&snapshot, None, asked).expect("somebody serves it");
        assert_eq!(admit(&snapshot, 0, &target, dialect).map(|_| ()), expected, "{asked}");
    }
    assert!(!snapshot.permits(1, 0, "chat-default"), "nothing is permitted by default");
}

#[test]
fn a_dialect_that_is_not_spoken_is_refused_with_those_that_are() {
    let snapshot = snapshot();
    let target = resolve(&snapshot, None, "router/gpt-4").expect("somebody serves it");
    let Err(RouteError::DialectNotSpoken(spoken)) =
        admit(&snapshot, 0, &target, Dialect::Gemini).map(|_| ())
    else {
        panic!("the router does not speak Gemini");
    };
    assert_eq!(spoken.to_string(), "openai_chat, anthropic");
}
