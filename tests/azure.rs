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
