use super::*;
use crate::config;
use crate::route::quota::QuotaStanding;

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
        standing: None,
        operation,
        model,
        provider,
        logged: None,
    };
    let messages = "https://api.anthropic.com/v1/messages";
    check(past("messages", "chat-default", "claude"), Some((Ok(messages), 7)));
    // In the scope of its provider: without it nobody knows the name.
    check(past("messages", "claude-x", "claude"), Some((Ok(messages), 7)));
    check(past("messages", "claude-x", "gone"), Some((Err(400), 3)));
    check(Past { user: None, ..past("messages", "chat-default", "claude") }, Some((Err(401), 1)));
    let google = "https://generativelanguage.googleapis.com/v1beta/models/a%20b:generateContent";
    check(past("generateContent", "google/a b", ""), Some((Ok(google), 7)));
    check(past("responses", "claude/a", ""), Some((Err(400), 4)));
    for nothing in [past("messages", "", "claude"), past("realtime", "m", ""), Past::default()] {
        check(nothing, None);
    }
}

#[test]
fn the_path_that_was_logged_is_the_one_that_is_decided_about() {
    let past = |model, logged| Past {
        user: Some(0),
        standing: None,
        operation: "messages",
        model,
        provider: "claude",
        logged: Some(logged),
    };
    let scoped = ("POST", "/claude/v1/messages?beta=true&key=***");
    let url = "https://api.anthropic.com/v1/messages?beta=true";
    check(past("claude-x", scoped), Some((Ok(url), 7)));
    check(past("", ("GET", "/v1/models")), Some((Ok(""), 2)));
    check(past("", ("GET", "/nowhere")), Some((Err(404), 1)));
    // A socket's path: what is known else must do.
    check(past("", ("GET", "/v1/realtime?model=m")), None);
    let usual = "https://api.anthropic.com/v1/messages";
    check(past("chat-default", ("GET", "/v1/realtime")), Some((Ok(usual), 7)));
}

#[test]
fn a_quota_that_is_spent_and_a_limit_that_is_reached_are_told_where_they_stand_so() {
    let more = r#"
        [[quotas]]
        user_name = "alice"
        quota = "2"
        [[rate_limits]]
        user_name = "alice"
        model_pattern = "chat-*"
        rpm = 3
        in_flight = 2
    "#;
    let text = format!("{TEXT}{more}");
    let loaded = config::load(&text, "c.toml", &|_| None).unwrap_or_else(|e| panic!("{e:?}"));
    let user = &loaded.snapshot.users[0];
    let check = |name: &str, used, limits: [u64; 4], expected: Result<&str, (u16, &str)>| {
        let quota = user.quotas[0];
        let ceiling = quota.ceiling;
        let stands =
            QuotaStanding { window: quota.window, used, reserved: 1, topped_up: 0, ceiling };
        let standing = Standing { quotas: vec![stands], limits: vec![limits] };
        let found = find_room(user, None, name, Some(&standing));
        let found = found.map_err(|refusal| (refusal.status, refusal.message.into_owned()));
        let found = found.as_ref().map(|says| *says);
        let found = found.map_err(|(status, message)| (*status, message.as_str()));
        assert_eq!(found, expected, "{name} {used} {limits:?}");
    };
    let ceiling = user.quotas[0].ceiling;
    check("chat-default", ceiling - 2, [2, 9, 9, 1], Ok("there is room"));
    let spent = "quota_exceeded: 2 USD used and 0.000000000001 USD reserved of 2 USD in all";
    check("m", ceiling, [0; 4], Err((402, spent)));
    let reached = "rate_limited: the rule for `chat-*` allows rpm = 3, which is reached";
    check("chat-default", 0, [3, 0, 0, 0], Err((429, reached)));
    check("m", 0, [3, 0, 0, 0], Ok("there is room"));
    let reached = "rate_limited: the rule for `chat-*` allows in_flight = 2, which is reached";
    check("chat-default", 0, [0, 0, 0, 2], Err((429, reached)));
    assert_eq!(find_room(user, None, "chat-default", None).ok(), Some("not tested here"));
}
