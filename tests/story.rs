//! The story of one request: what is told of it in one answer, to whom, and what never is.

use crate::support;
use crate::support::admin::{admin, call};
use crate::support::client::post;
use crate::support::{ADMIN_KEY, ALICE_KEY, Config, Gateway, UPSTREAM_KEY, Upstream, wait_for};
use serde_json::{Value, json};

/// The first credential is refused, the second one served.
fn wavering() -> Upstream {
    Upstream::answering(|conn, seen| {
        let auth = seen.header("authorization").unwrap_or_default();
        if auth.ends_with(UPSTREAM_KEY) {
            let body = "{\"error\":{\"message\":\"busy\"}}".to_owned();
            conn.whole_with(503, "content-type: application/json\r\n", body);
        } else {
            let body = json!({
                "model": "m", "echo": auth, "choices": [],
                "usage": { "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15 }
            });
            conn.whole_with(200, "content-type: application/json\r\n", body.to_string());
        }
    })
}

fn config(upstream: &Upstream, logged: bool) -> String {
    let tail = format!(
        "[[providers]]\nname = \"twice\"\nchannel = \"custom\"\n\
         credentials = [{{ api_key = \"{UPSTREAM_KEY}\" }}, {{ api_key = \"second-91c7\" }}]\n\
         [providers.settings]\nbase_url = \"http://127.0.0.1:{}\"\ndialects = [\"openai_chat\"]\n\
         forward_headers = [\"OpenAI-Project\"]\n\
         [[models]]\nprovider_name = \"twice\"\nmodel_id = \"m\"\nprice_each_call = \"0.25\"\n\
         [[permissions]]\nuser_name = \"alice\"\nprovider_name = \"twice\"\nmodel_pattern = \"*\"\n\
         [[providers]]\nname = \"dead\"\nchannel = \"custom\"\n\
         credentials = [{{ api_key = \"third-7777\" }}]\n[providers.settings]\n\
         base_url = \"http://127.0.0.1:{}\"\ndialects = [\"openai_chat\"]\n",
        upstream.port,
        support::gateway::free_port()
    );
    let flags = [
        "enable_upstream_log",
        "enable_upstream_log_body",
        "enable_downstream_log",
        "enable_downstream_log_body",
    ];
    let config = flags
        .into_iter()
        .filter(|_| logged)
        .fold(Config::to(upstream), |config, flag| config.global(&format!("{flag} = true")));
    config.workers(1).tail(&tail).text()
}

/// Calls as alice, is served by the second credential, and gives the request's id.
fn called(gateway: &Gateway) -> String {
    let body = "{\"model\":\"twice/m\",\"messages\":[{\"content\":\"a secret\"}]}";
    let text = String::from_utf8(post("/v1/chat/completions?trace=7", body)).expect("text");
    let reply = gateway.connect().ask(text.replace(ADMIN_KEY, ALICE_KEY).as_bytes());
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.header("x-gproxy-request-id").expect("every answer has one").to_owned()
}

/// The story once its row is written, and its log where there is one.
fn story(gateway: &Gateway, id: &str, logged: bool) -> Value {
    wait_for("the request to be written", || {
        let reply =
            call(gateway, ADMIN_KEY, "GET", &format!("/admin/api/requests/{id}"), &Value::Null);
        let story = (reply.status == 200).then(|| reply.json())?;
        (!story["usage"].is_null() && story["log"].is_null() != logged).then_some(story)
    })
}

#[test]
fn a_request_is_told_whole_with_its_attempts_and_logs_and_without_a_secret() {
    let upstream = wavering();
    let gateway = Gateway::start(&config(&upstream, true));
    let id = called(&gateway);
    let story = story(&gateway, &id, true);
    assert_eq!(story["usage"]["user"], "alice");
    assert_eq!(story["usage"]["price"]["price_each_call"], "0.25");
    assert_eq!((&story["refusal"], &story["recording"]), (&Value::Null, &Value::Null));

    let decision = &story["decision"];
    assert_eq!((&decision["served"], &decision["scope"]), (&json!(true), &Value::Null));
    let steps: Vec<_> = decision["steps"].as_array().expect("steps").iter().collect();
    let names: Vec<_> = steps.iter().filter_map(|step| step["step"].as_str()).collect();
    let gates =
        ["key", "path", "model", "route", "permission", "quota and limits", "upstream", "headers"];
    assert_eq!(names, gates);
    let url = format!("http://127.0.0.1:{}/v1/chat/completions?trace=7", upstream.port);
    assert_eq!(decision["url"], json!(url), "as it was called");

    let attempts = story["attempts"].as_array().expect("attempts");
    let of = |at: usize| (&attempts[at]["credential_id"], &attempts[at]["status"]);
    assert_eq!(
        (attempts.len(), of(0), of(1)),
        (2, (&json!(0), &json!(503)), (&json!(1), &json!(200)))
    );
    assert_eq!(attempts[0]["end_reason"], "repeated");

    let log = &story["log"];
    let sent = log["request"]["request_body"].as_str().expect("bodies are kept");
    assert!(sent.contains("a secret"), "{sent}");
    assert_eq!(log["attempts"][1]["url"], json!(url));
    let fields = log["request"]["request_headers"].to_string();
    assert!(fields.contains("[\"authorization\",\"***\"]"), "{fields}");
    let answer = log["attempts"][1]["response_body"].as_str().expect("bodies are kept");
    assert!(answer.contains("\"echo\":\"Bearer ***\""), "{answer}");
    let text = story.to_string();
    for secret in [UPSTREAM_KEY, "second-91c7", ALICE_KEY] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    let missing = call(&gateway, ADMIN_KEY, "GET", "/admin/api/requests/none", &Value::Null);
    assert_eq!(missing.status, 404);
}

#[test]
fn attempts_that_came_to_nothing_are_told_without_logs_too() {
    let upstream = wavering();
    let gateway = Gateway::start(&config(&upstream, false));
    let id = called(&gateway);
    let story = story(&gateway, &id, false);
    let attempts = story["attempts"].as_array().expect("attempts");
    assert_eq!(attempts.len(), 2, "{attempts:?}");
    let expected = json!({ "attempt": 1, "provider": "twice", "credential_id": 0, "status": 503 });
    for (name, value) in expected.as_object().expect("it is one") {
        assert_eq!(&attempts[0][name], value, "{name}");
    }
    assert_eq!(
        (&attempts[0]["end_reason"], &attempts[1]["attempt"]),
        (&json!("refused"), &json!(2))
    );
    assert_eq!((&attempts[1]["credential_id"], &attempts[1]["status"]), (&json!(1), &json!(200)));
    let url = story["decision"]["url"].as_str().expect("an address");
    assert!(url.ends_with("/v1/chat/completions"), "the usual one: {url}");
    let nothing = admin(&gateway, "GET", "logs", Value::Null, 200);
    assert_eq!(nothing, json!({ "items": [], "next_cursor": null }));

    // Where nobody listens.
    let reply = gateway.connect().ask(&post("/v1/chat/completions", "{\"model\":\"dead/m\"}"));
    assert_eq!(reply.status, 502);
    let id = reply.header("x-gproxy-request-id").expect("every answer has one");
    let story = self::story(&gateway, id, false);
    let last = story["attempts"].as_array().and_then(|all| all.last()).expect("attempts");
    assert_eq!(
        (&last["status"], &last["end_reason"]),
        (&Value::Null, &json!("Connect Unreachable"))
    );
    assert!(story["refusal"]["message"].is_string(), "{story}");
}

#[test]
fn a_user_sees_his_own_requests_and_nothing_of_upstreams() {
    let upstream = wavering();
    let gateway = Gateway::start(&config(&upstream, true));
    let id = called(&gateway);
    story(&gateway, &id, true);
    let get = |key, path: &str| call(&gateway, key, "GET", path, &Value::Null);
    let own = get(ALICE_KEY, &format!("/user/api/requests/{id}"));
    assert_eq!(own.status, 200, "{}", own.text());
    let told = own.json();
    assert_eq!(told["usage"]["request_id"], json!(id));
    assert!(told["log"]["request"]["request_body"].is_string());
    for name in ["attempts", "recording"] {
        assert!(told.get(name).is_none() && told["log"].get("attempts").is_none(), "{told}");
    }
    assert!(!own.text().contains(&format!("127.0.0.1:{}", upstream.port)), "{told}");
    assert!(told["usage"].get("credential_id").is_none(), "{told}");
    let rows = get(ALICE_KEY, "/user/api/usage").json();
    assert_eq!(rows["items"][0]["request_id"], json!(id), "{rows}");
    assert!(rows["items"][0].get("credential_id").is_none(), "{rows}");
    let schemas = get(ADMIN_KEY, "/admin/api/openapi.json").json();
    for (path, operation) in schemas["paths"].as_object().expect("paths") {
        let is_users = path.starts_with("/user/");
        assert!(!(is_users && operation.to_string().contains("credential_id")), "{path}");
    }
    let served = &told["decision"];
    assert_eq!((&served["served"], served.get("url")), (&json!(true), None));
    assert!(!own.text().contains("openai-project"), "{told}");

    // The administrator's own area holds his own only.
    assert_eq!(get(ADMIN_KEY, &format!("/user/api/requests/{id}")).status, 404);
    assert_eq!(get(ALICE_KEY, &format!("/admin/api/requests/{id}")).status, 403);
    assert_eq!(get(ALICE_KEY, "/user/api/logs?user_name=admin").status, 400);
    let items = get(ALICE_KEY, "/user/api/logs?internal=false").json();
    let items = items["items"].as_array().expect("a list");
    assert!(items.iter().all(|item| item["user"] == "alice") && items.len() == 1, "{items:?}");
    assert_eq!(get(ADMIN_KEY, "/user/api/logs?internal=false").json()["items"], json!([]));
}

#[test]
fn logs_are_found_by_what_they_are_page_by_page_without_what_was_said() {
    let upstream = wavering();
    let gateway = Gateway::start(&config(&upstream, true));
    let ids: Vec<_> = (0..3).map(|_| called(&gateway)).collect();
    let refused = gateway.connect().ask(&post("/v1/chat/completions", "{\"model\":\"none\"}"));
    assert_eq!(refused.status, 400);
    let count = |path: &str| {
        let all = admin(&gateway, "GET", path, Value::Null, 200);
        all["items"].as_array().map_or(0, Vec::len)
    };
    wait_for("the logs", || (count("logs?internal=false") == 4).then_some(()));
    for (query, expected) in [
        ("logs?user_name=alice", 3),
        ("logs?user_name=alice&status_min=400", 0),
        ("logs?status_min=400&status_max=499&internal=false", 1),
        ("logs?target=completions", 4),
        ("logs?target=nowhere", 0),
        ("logs?internal=false&outcome=refused", 1),
        ("logs?from=1&to=2", 0),
        ("logs/attempts?provider_name=twice&status_min=200&status_max=200", 3),
        ("logs/attempts?outcome=ok", 3),
        ("logs/attempts?provider_name=router", 0),
    ] {
        assert_eq!(count(query), expected, "{query}");
    }
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = format!("logs?user_name=alice&limit=2{cursor}");
        let page = admin(&gateway, "GET", &page, Value::Null, 200);
        for item in page["items"].as_array().expect("a list") {
            found.push(item["request_id"].as_str().expect("a text").to_owned());
            let said = item.as_object().expect("it is one").keys();
            assert!(said.clone().all(|name| !name.contains("body")), "{item}");
        }
        match page["next_cursor"].as_i64() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(found, ids.into_iter().rev().collect::<Vec<_>>());
}
