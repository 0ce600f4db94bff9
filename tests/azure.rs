//! The channel `azure`: deployments and versions in the address, its own header, its first chunk.

use crate::support::{ADMIN_KEY, Config, Gateway, Reply, Seen, Upstream, request};

const MULTIPART: &str = "multipart/form-data; boundary=b";

fn start(setting: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::answering(|conn, seen| {
        if seen.json()["stream"] == true {
            conn.stream(STREAM);
        } else {
            conn.whole(200, r#"{"id":"c","object":"x","model":"gpt-4o-2024-08-06","choices":[]}"#);
        }
    });
    let provider = format!(
        "[[providers]]\nname = \"azure-main\"\nchannel = \"azure\"\n\
         credentials = [{{ api_key = \"azure-key-1\" }}]\n[providers.settings]\n\
         base_url = \"http://127.0.0.1:{}\"\n{setting}\n",
        upstream.port
    );
    let gateway = Gateway::start(&Config::to(&upstream).tail(&provider).text());
    (upstream, gateway)
}

fn post(gateway: &Gateway, target: &str, content_type: &str, body: &str) -> Reply {
    let bearer = format!("Bearer {ADMIN_KEY}");
    let headers = [("authorization", bearer.as_str()), ("content-type", content_type)];
    gateway.connect().ask(&request("POST", target, &headers, body.as_bytes()))
}

#[track_caller]
fn check(upstream: &Upstream, target: &str) -> Seen {
    let seen = upstream.last();
    assert_eq!(seen.target, target);
    assert_eq!(seen.header("api-key"), Some("azure-key-1"));
    assert_eq!(seen.header("authorization"), None, "the caller's key stays here");
    seen
}

#[test]
fn classic_endpoints_have_the_deployment_in_the_path() {
    let (upstream, gateway) = start("api_version = \"2024-10-21\"");
    let json = "application/json";
    let body = r#"{"model":"azure-main/gpt-4o","input":"x","messages":[]}"#;
    let form = "--b\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nazure-main/gpt-4o\r\n\
                --b--\r\n";
    for (path, content_type, body) in [
        ("chat/completions", json, body),
        ("completions", json, body),
        ("embeddings", json, body),
        ("audio/speech", json, body),
        ("images/generations", json, body),
        ("audio/transcriptions", MULTIPART, form),
        ("images/edits", MULTIPART, form),
    ] {
        let reply = post(&gateway, &format!("/v1/{path}"), content_type, body);
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        check(&upstream, &format!("/openai/deployments/gpt-4o/{path}?api-version=2024-10-21"));
    }
    let reply = post(&gateway, "/v1/chat/completions", json, body);
    assert_eq!(reply.json()["model"], "azure-main/gpt-4o");
    post(&gateway, "/v1/responses", json, body);
    let seen = check(&upstream, "/openai/responses?api-version=2024-10-21");
    assert_eq!(seen.json()["model"], "gpt-4o");
}

#[test]
fn the_newer_surface_has_the_model_in_the_body_alone() {
    let (upstream, gateway) = start("");
    let body = r#"{"model":"azure-main/gpt-4o","input":"x","messages":[]}"#;
    for path in ["chat/completions", "embeddings", "responses"] {
        let reply = post(&gateway, &format!("/v1/{path}"), "application/json", body);
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        let seen = check(&upstream, &format!("/openai/v1/{path}"));
        assert_eq!(seen.json()["model"], "gpt-4o");
    }
}

/// As Azure sends it: the first chunk has no choice and an empty model.
const STREAM: &str = "data: {\"id\":\"\",\"model\":\"\",\"choices\":[],\
    \"prompt_filter_results\":[{\"prompt_index\":0}]}\n\n\
    data: {\"id\":\"c\",\"model\":\"gpt-4o-2024-08-06\",\
    \"choices\":[{\"delta\":{\"content\":\"a\"}}],\
    \"usage\":null}\n\n\
    data: {\"id\":\"c\",\"model\":\"gpt-4o-2024-08-06\",\"choices\":[],\
    \"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1,\"total_tokens\":2}}\n\n\
    data: [DONE]\n\n";

#[test]
fn the_first_chunk_of_a_stream_keeps_its_filter_results() {
    let (upstream, gateway) = start("api_version = \"2024-10-21\"");
    let body = r#"{"model":"azure-main/gpt-4o","stream":true,"messages":[]}"#;
    let reply = post(&gateway, "/v1/chat/completions", "application/json", body);
    let events = reply.events();
    assert_eq!(events.len(), 2, "usage that nobody asked for is hidden: {}", reply.text());
    assert_eq!(events[0]["prompt_filter_results"][0]["prompt_index"], 0);
    for event in events {
        assert_eq!(event["model"], "azure-main/gpt-4o");
    }
    assert_eq!(upstream.last().json()["stream_options"]["include_usage"], true);
}

fn ask(gateway: &Gateway, target: &str, content_type: &str, body: &str) -> Reply {
    // As Azure's clients send a key.
    let headers = [("api-key", ADMIN_KEY), ("content-type", content_type)];
    gateway.connect().ask(&request("POST", target, &headers, body.as_bytes()))
}

#[test]
fn azures_clients_may_call_any_provider() {
    let (upstream, gateway) = start("api_version = \"2024-10-21\"");
    let deployed = "/openai/deployments/gpt-4o/chat/completions";
    let (dated, ours) = ("?api-version=2025-01-01", "?api-version=2024-10-21");
    for (target, asked, up) in [
        (format!("/azure-main{deployed}{dated}"), "gpt-4o", format!("{deployed}{dated}")),
        (format!("/azure-main{deployed}"), "", format!("{deployed}{ours}")),
        ("/azure-main/openai/v1/chat/completions".into(), "gpt-4o", format!("{deployed}{ours}")),
        (format!("/router{deployed}{dated}&x=1"), "", "/v1/chat/completions?x=1".into()),
        (format!("/router/openai/responses{dated}"), "gpt-4o", "/v1/responses".into()),
        (
            "/openai/deployments/azure-main/gpt-4o/embeddings".into(),
            "azure-main/gpt-4o",
            format!("/openai/deployments/gpt-4o/embeddings{ours}"),
        ),
        ("/openai/deployments/router%2Fgpt-4o/embeddings".into(), "", "/v1/embeddings".into()),
    ] {
        let model = if asked.is_empty() { String::new() } else { format!(r#""model":"{asked}","#) };
        let reply = ask(&gateway, &target, "application/json", &format!(r#"{{{model}"n":1}}"#));
        assert_eq!(reply.status, 200, "{target}: {}", reply.text());
        let seen = upstream.last();
        assert_eq!((seen.target.as_str(), &seen.json()["model"]), (up.as_str(), &"gpt-4o".into()));
    }
    let field = "--b\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\ngpt-4o\r\n\
                 --b--\r\n";
    let transcribe = "/azure-main/openai/deployments/gpt-4o/audio/transcriptions";
    assert_eq!(ask(&gateway, transcribe, MULTIPART, field).status, 200);
    check(&upstream, &format!("/openai/deployments/gpt-4o/audio/transcriptions{ours}"));
}

#[test]
fn a_deployment_and_a_body_name_one_model() {
    let (upstream, gateway) = start("api_version = \"2024-10-21\"");
    let form = |name: &str| {
        let head = format!("--b\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n");
        format!("{head}other\r\n--b--\r\n")
    };
    let json = "application/json";
    let at = "/azure-main/openai/deployments/gpt-4o";
    for (target, content_type, body, status) in [
        (format!("{at}/chat/completions"), json, r#"{"model":"other"}"#.to_owned(), 400),
        (format!("{at}/chat/completions"), json, "[]".into(), 400),
        (format!("{at}/audio/transcriptions"), MULTIPART, form("model"), 400),
        (format!("{at}/audio/transcriptions"), MULTIPART, form("prompt"), 400),
        ("/nobody/openai/deployments/gpt-4o/embeddings".into(), json, "{}".into(), 404),
        // Without a provider this could be anybody's.
        ("/openai/chat/completions".into(), json, r#"{"model":"azure-main/x"}"#.into(), 404),
        ("/openai/deployments/gpt-4o/embeddings".into(), json, "{}".into(), 400),
    ] {
        let reply = ask(&gateway, &target, content_type, &body);
        assert_eq!(reply.status, status, "{target} {body}: {}", reply.text());
    }
    assert_eq!(upstream.count(), 0);
}
