use super::*;
use crate::config;

const TEXT: &str = r#"
    [[providers]]
    name = "claude"
    channel = "anthropic"
    credentials = [{ api_key = "credential" }]
    [[providers]]
    name = "google"
    channel = "aistudio"
    credentials = [{ api_key = "credential" }]
    [[model_aliases]]
    alias = "chat-default"
    provider_name = "claude"
    model_id = "claude-x"
    [[users]]
    name = "alice"
    keys = [{ api_key = "sk-alice" }]
    [[permissions]]
    user_name = "alice"
    model_pattern = "*"
"#;

/// The status, or the address, and how many gates were passed; of a request that was made.
#[track_caller]
fn check(past: Past<'_>, expected: Option<(Result<&str, u16>, usize)>) {
    let loaded = config::load(TEXT, "c.toml", &|_| None).unwrap_or_else(|e| panic!("{e:?}"));
    let told = again(&loaded.snapshot, &past).map(|told| {
        let url = told.facts.get("url").and_then(Value::as_str).unwrap_or_default().to_owned();
        let status = told.refusal.map(|refusal| refusal.status);
        (status.map_or(Ok(url), Err), told.steps.len())
    });
    let told = told.as_ref();
    let told = told.map(|(end, steps)| (end.as_deref().map_err(|status| *status), *steps));
    assert_eq!(told, expected, "{past:?}");
}

#[test]
fn a_request_that_was_made_is_decided_anew_by_what_is_known_of_it() {
    let past = |operation, model, provider| Past {
        user: Some(0),
        operation,
        model,
        provider,
        logged: None,
    };
    let messages = "https://api.anthropic.com/v1/messages";
    check(past("messages", "chat-default", "claude"), Some((Ok(messages), 6)));
    // In the scope of its provider: without it nobody knows the name.
    check(past("messages", "claude-x", "claude"), Some((Ok(messages), 6)));
    check(past("messages", "claude-x", "gone"), Some((Err(400), 3)));
    check(Past { user: None, ..past("messages", "chat-default", "claude") }, Some((Err(401), 1)));
    let google = "https://generativelanguage.googleapis.com/v1beta/models/a%20b:generateContent";
    check(past("generateContent", "google/a b", ""), Some((Ok(google), 6)));
    check(past("responses", "claude/a", ""), Some((Err(400), 4)));
    for nothing in [past("messages", "", "claude"), past("realtime", "m", ""), Past::default()] {
        check(nothing, None);
    }
}

#[test]
fn the_path_that_was_logged_is_the_one_that_is_decided_about() {
    let past = |model, logged| Past {
        user: Some(0),
        operation: "messages",
        model,
        provider: "claude",
        logged: Some(logged),
    };
    let scoped = ("POST", "/claude/v1/messages?beta=true&key=***");
    let url = "https://api.anthropic.com/v1/messages?beta=true";
    check(past("claude-x", scoped), Some((Ok(url), 6)));
    check(past("", ("GET", "/v1/models")), Some((Ok(""), 2)));
    check(past("", ("GET", "/nowhere")), Some((Err(404), 1)));
    // A socket's path: what is known else must do.
    check(past("", ("GET", "/v1/realtime?model=m")), None);
    let usual = "https://api.anthropic.com/v1/messages";
    check(past("chat-default", ("GET", "/v1/realtime")), Some((Ok(usual), 6)));
}
