//! What an operator sees of the running gateway and does to it, on the running program.

use crate::support::admin::{admin, call};
use crate::support::{ADMIN_KEY, ALICE_KEY, Gateway, Reply, Upstream, request};
use serde_json::{Value, json};

const OK: &str = r#"{"model":"m"}"#;
const FIRST: &str = "cred-first-0123456789";
const SECOND: &str = "cred-second-0123456789";

/// One provider of the file with two credentials.
fn config(upstream: &Upstream, more: &str) -> String {
    format!(
        "[global]\nport = 0\nworkers = 1\ndata_dir = \"DATA_DIR\"\n{more}\n\
         [[providers]]\nname = \"p\"\nchannel = \"custom\"\n\
         credentials = [{{ api_key = \"{FIRST}\", rpm = 50 }}, {{ api_key = \"{SECOND}\" }}]\n\
         [providers.settings]\nbase_url = \"http://127.0.0.1:{}\"\n\
         [[users]]\nname = \"admin\"\nis_admin = true\n\
         keys = [{{ api_key = \"{ADMIN_KEY}\" }}]\n\
         [[users]]\nname = \"alice\"\nkeys = [{{ api_key = \"{ALICE_KEY}\" }}]\n\
         [[permissions]]\nuser_name = \"admin\"\nmodel_pattern = \"*\"\n",
        upstream.port
    )
}

fn chat(gateway: &Gateway, model: &str) -> Reply {
    let body = json!({ "model": model, "max_tokens": 5, "messages": [] });
    call(gateway, ADMIN_KEY, "POST", "/v1/chat/completions", &body)
}

fn health(gateway: &Gateway) -> Vec<Value> {
    let health = admin(gateway, "GET", "health?provider_name=p", Value::Null, 200);
    health["items"].as_array().expect("a list").clone()
}

/// The first credential is limited for one model, all else is well.
fn half_limited() -> Upstream {
    Upstream::answering(|conn, seen| {
        let is_first = seen.header("authorization").is_some_and(|key| key.contains(FIRST));
        match is_first && seen.text().contains("\"tired\"") {
            true => conn.whole_with(
                429,
                "content-type: application/json\r\nretry-after: 300\r\n",
                r#"{"error":{"message":"slow down"}}"#,
            ),
            false => conn.whole(200, OK),
        };
    })
}

#[test]
fn a_resting_credential_is_shown_with_reason_and_end_and_is_brought_back() {
    let upstream = half_limited();
    let gateway = Gateway::start(&config(&upstream, ""));
    assert_eq!(chat(&gateway, "p/tired").status, 200, "the second one serves");
    let seen = health(&gateway);
    assert_eq!((seen.len(), &seen[0]["id"], &seen[1]["id"]), (2, &json!("p:1"), &json!("p:2")));
    let circuit = &seen[0]["circuits"][0];
    assert_eq!(circuit["why"], "limited", "{seen:?}");
    let (since, until) = (&circuit["since"], &circuit["until"]);
    let rest = until.as_i64().expect("an end") - since.as_i64().expect("a beginning");
    assert_eq!(rest, 300_000, "{circuit}");
    assert_eq!(seen[1]["circuits"], json!([]));
    assert_eq!(seen[0]["fill"]["rpm"], json!({ "used": 1, "of": 50 }));
    assert!(!seen[0]["hint"].as_str().expect("a hint").contains("first"));

    let back = admin(&gateway, "POST", "credentials/p:1/reset", Value::Null, 200);
    assert_eq!((&back["state"], &back["circuits"]), (&json!("ok"), &json!([])));
    admin(&gateway, "POST", "credentials/p:3/reset", Value::Null, 404);
    let changes = admin(&gateway, "GET", "changes", Value::Null, 200);
    assert_eq!(changes["items"][0]["action"], "reset");
    assert_eq!(changes["items"][0]["entity"], "p:1");
}

#[test]
fn a_paused_credential_rests_until_it_is_reset_through_reload_and_restart() {
    let upstream = half_limited();
    let folder = std::env::temp_dir().join(format!("gproxy-paused-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    let config = config(&upstream, "").replace("DATA_DIR", &folder.display().to_string());
    let used_first = || {
        let all = upstream.seen();
        all.iter().filter(|seen| seen.header("authorization").unwrap_or("").contains(FIRST)).count()
    };
    let gateway = Gateway::start(&config);
    let paused = admin(&gateway, "POST", "credentials/p:1/pause", Value::Null, 200);
    assert_eq!(
        (&paused["state"], &paused["circuits"][0]["until"]),
        (&json!("paused"), &Value::Null)
    );
    admin(&gateway, "POST", "reload", Value::Null, 200);
    for _ in 0..4 {
        assert_eq!(chat(&gateway, "p/m").status, 200);
    }
    assert!(gateway.stop().success());
    let gateway = Gateway::start(&config);
    assert_eq!(health(&gateway)[0]["state"], "paused");
    admin(&gateway, "POST", "credentials/p:2/pause", Value::Null, 200);
    assert_eq!(chat(&gateway, "p/m").status, 503, "nobody is left, not as a last resort either");
    assert_eq!(used_first(), 0);
    admin(&gateway, "POST", "credentials/p:1/reset", Value::Null, 200);
    assert_eq!(chat(&gateway, "p/m").status, 200);
    assert_eq!(used_first(), 1);
    drop(gateway);
    let _ = std::fs::remove_dir_all(&folder);
}

#[test]
fn a_credential_that_is_made_here_has_ceilings_at_once_and_after_a_restart() {
    let upstream = Upstream::answering(|conn, _| {
        conn.whole(200, OK);
    });
    let folder = std::env::temp_dir().join(format!("gproxy-ceilings-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    let config = config(&upstream, "allow_private_upstreams = true");
    let config = config.replace("DATA_DIR", &folder.display().to_string());
    let gateway = Gateway::start(&config);
    let base_url = format!("http://127.0.0.1:{}", upstream.port);
    let first = json!({ "api_key": "up-0123456789-1", "rpm": 1, "tpm": 1_000_000, "in_flight": 3 });
    let provider = json!({
        "name": "made", "channel": "custom", "settings": { "base_url": base_url },
        "credentials": [first]
    });
    admin(&gateway, "POST", "providers", provider, 201);
    let ask = || chat(&gateway, "made/m").status;
    assert_eq!([ask(), ask()], [200, 503]);
    let second =
        json!({ "provider_name": "made", "api_key": "up-0123456789-2", "rpm": 2, "in_flight": 4 });
    let second = admin(&gateway, "POST", "credentials", second, 201);
    assert_eq!((&second["rpm"], &second["in_flight"]), (&json!(2), &json!(4)), "{second}");
    assert_eq!([ask(), ask(), ask()], [200, 200, 503]);

    let path = format!("credentials/{}", second["id"].as_str().expect("a name"));
    let change = json!({ "rpm": null, "tpm": 5_000 });
    let changed = admin(&gateway, "PATCH", &path, change, 200);
    assert_eq!(
        (changed.get("rpm"), &changed["tpm"], &changed["in_flight"]),
        (None, &json!(5_000), &json!(4)),
        "{changed}"
    );
    assert_eq!([ask(), ask(), ask()], [200; 3]);
    for (field, value) in [("in_flight", json!(0)), ("rpm", json!(-1)), ("tpm", json!("many"))] {
        let fault = admin(&gateway, "PATCH", &path, json!({ field: value }), 400);
        assert_eq!(fault["error"]["field"], field, "{fault}");
    }
    let rows = admin(&gateway, "GET", "credentials", Value::Null, 200);
    let ceilings = |row: &Value| ["rpm", "tpm", "in_flight"].map(|name| row[name].as_u64());
    let rows: Vec<_> = rows["items"].as_array().expect("a list").iter().map(ceilings).collect();
    for shown in [[Some(1), Some(1_000_000), Some(3)], [None, Some(5_000), Some(4)]] {
        assert!(rows.contains(&shown), "{rows:?}");
    }
    assert!(rows.contains(&[Some(50), None, None]), "the file's too: {rows:?}");

    assert!(gateway.stop().success());
    let gateway = Gateway::start(&config);
    let health = admin(&gateway, "GET", "health?provider_name=made", Value::Null, 200);
    let of = |at: usize| {
        let fill = &health["items"][at]["fill"];
        ["rpm", "tpm", "in_flight"].map(|name| fill[name]["of"].as_u64())
    };
    assert_eq!(of(0), [Some(1), Some(1_000_000), Some(3)], "{health}");
    assert_eq!(of(1), [None, Some(5_000), Some(4)], "{health}");
    drop(gateway);
    let _ = std::fs::remove_dir_all(&folder);
}

#[test]
fn a_test_call_says_what_the_upstream_says_without_the_credential() {
    let upstream = Upstream::answering(|conn, seen| match seen.path() {
        "/v1/models" => {
            let key = seen.header("authorization").unwrap_or_default();
            match key.ends_with(SECOND) {
                true => conn.whole(200, r#"{"data":[{"id":"known"},{"id":"new"}]}"#),
                false => conn.whole(401, format!(r#"{{"error":"bad key {key}"}}"#)),
            };
        }
        _ => {
            conn.whole(200, OK);
        }
    });
    let known = "[[models]]\nprovider_name = \"p\"\nmodel_id = \"known\"\n\
                 [[providers]]\nname = \"nowhere\"\nchannel = \"echo\"\n";
    let gateway = Gateway::start(&(config(&upstream, "") + known));
    let tried = admin(&gateway, "POST", "providers/p/test", json!({}), 200);
    assert_eq!((&tried["ok"], &tried["status"]), (&json!(false), &json!(401)), "{tried}");
    assert_eq!(tried["text"], r#"{"error":"bad key Bearer ***"}"#);
    let tried = admin(&gateway, "POST", "providers/p/test", json!({ "credential": "p:2" }), 200);
    assert_eq!((&tried["ok"], &tried["method"]), (&json!(true), &json!("GET")), "{tried}");
    let tried = admin(&gateway, "POST", "providers/p/test", json!({ "model": "m" }), 200);
    assert_eq!((&tried["ok"], &tried["method"]), (&json!(true), &json!("POST")), "{tried}");
    assert_eq!(upstream.last().json()["model"], "m");
    admin(&gateway, "POST", "providers/p/test", json!({ "credential": "q:1" }), 400);
    admin(&gateway, "POST", "providers/q/test", json!({}), 404);

    // The first credential gets no list, so the second one is asked.
    let list = admin(&gateway, "POST", "providers/p/pull", Value::Null, 200);
    assert_eq!(list["new"], 1, "{list}");
    let ids: Vec<_> = list["items"].as_array().expect("a list").iter().collect();
    assert_eq!((&ids[0]["id"], &ids[0]["declared"]), (&json!("known"), &json!(true)));
    assert_eq!((&ids[1]["id"], &ids[1]["declared"]), (&json!("new"), &json!(false)));
    let nowhere = admin(&gateway, "POST", "providers/nowhere/pull", Value::Null, 409);
    assert_eq!(nowhere["error"]["message"], "the provider has no upstream");
    // A test call is nobody's bill, and nothing is learned from it.
    let sums = admin(&gateway, "GET", "usage/sums", Value::Null, 200);
    assert_eq!(sums["items"][0]["requests"], Value::Null, "{sums}");
    assert!(health(&gateway).iter().all(|one| one["circuits"] == json!([])));
}

/// What one account keeps another does not find.
#[test]
fn calls_that_name_no_model_stay_with_the_first_credential() {
    let upstream = Upstream::answering(|conn, _| {
        conn.whole(200, "{}");
    });
    let gateway = Gateway::start(&config(&upstream, ""));
    let key = format!("Bearer {ADMIN_KEY}");
    for target in ["/p/v1/batches", "/p/v1/batches/b", "/p/v1/evals", "/p/v1/batches/b"] {
        let ask = request("GET", target, &[("authorization", key.as_str())], b"");
        assert_eq!(gateway.connect().ask(&ask).status, 200, "{target}");
        let first = format!("Bearer {FIRST}");
        assert_eq!(upstream.last().header("authorization"), Some(first.as_str()), "{target}");
    }
}
