//! The commands of the README, sent to the real binary with the shipped configuration.

mod support;

use std::fs;
use std::path::Path;

use serde_json::Value;
use support::{Gateway, Reply, request};

const OPENAI: &str = r#"{
  "model": "openai-main/gpt-4.1-mini",
  "messages": [
    { "role": "user", "content": "Say hello in one short sentence." }
  ]
}"#;
const CLAUDE: &str = r#"{
  "model": "anthropic-main/claude-3-5-sonnet-latest",
  "max_tokens": 256,
  "messages": [ { "role": "user", "content": "Hello" } ]
}"#;
const GEMINI: &str = r#"{ "contents": [ { "parts": [ { "text": "Hello" } ] } ] }"#;

fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// The shipped file as it stands, but for the port and the folder of this test.
fn start() -> Gateway {
    let text = shipped("config.toml");
    assert!(text.contains("port = 8787"), "the shipped file listens on 8787");
    let text = text.replacen("port = 8787", "port = 0", 1);
    Gateway::start(&text.replacen("\"./data\"", "\"DATA_DIR\"", 1))
}

/// Sends it as curl does.
#[track_caller]
fn curl(gateway: &Gateway, target: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let mut all = vec![("user-agent", "curl/8.14.1"), ("accept", "*/*")];
    all.extend(headers);
    all.push(("content-type", "application/json"));
    let reply = gateway.connect().ask(&request("POST", target, &all, body.as_bytes()));
    assert_eq!(reply.status, 200, "{target}: {}", reply.text());
    assert!(reply.complete, "{target}");
    reply
}

#[test]
fn the_chat_commands_of_the_first_request_page_answer() {
    let gateway = start();
    let bearer = [("authorization", "Bearer sk-admin-1")];
    let raw = OPENAI.replace("openai-main/", "");
    let alias = OPENAI.replace("openai-main/gpt-4.1-mini", "chat-default");
    for (target, body, model) in [
        ("/v1/chat/completions", OPENAI, Some("openai-main/gpt-4.1-mini")),
        ("/openai-main/v1/chat/completions", &raw, None),
        ("/v1/chat/completions", &alias, Some("chat-default")),
        ("/openai-main/v1/chat/completions", &alias, Some("chat-default")),
    ] {
        let reply = curl(&gateway, target, &bearer, body).json();
        assert_eq!(reply["object"], "chat.completion", "{reply}");
        assert!(reply["choices"][0]["message"]["content"].is_string(), "{reply}");
        assert!(reply["usage"]["total_tokens"].is_number(), "{reply}");
        match model {
            Some(model) => assert_eq!(reply["model"], model, "{target}"),
            None => assert!(reply["model"].as_str().is_some_and(|name| name.contains("gpt"))),
        }
    }
}

#[test]
fn the_streamed_alias_is_rewritten_in_every_chunk() {
    let gateway = start();
    let bearer = [("authorization", "Bearer sk-admin-1")];
    let body =
        r#"{"model":"chat-default","stream":true,"messages":[{"role":"user","content":"x"}]}"#;
    let reply = curl(&gateway, "/v1/chat/completions", &bearer, body);
    assert!(reply.text().ends_with("data: [DONE]\n\n"), "{}", reply.text());
    let events = reply.events();
    assert!(events.len() > 2, "{}", reply.text());
    for event in events {
        assert_eq!(event["model"], "chat-default");
        assert!(event["choices"].as_array().is_some_and(|choices| !choices.is_empty()), "{event}");
    }
}

#[test]
fn the_messages_commands_of_the_first_request_page_answer() {
    let gateway = start();
    let headers = [("x-api-key", "sk-admin-1"), ("anthropic-version", "2023-06-01")];
    let raw = CLAUDE.replace("anthropic-main/", "");
    let reply = curl(&gateway, "/v1/messages", &headers, CLAUDE).json();
    check_message(&reply);
    assert_eq!(reply["model"], "anthropic-main/claude-3-5-sonnet-latest");
    check_message(&curl(&gateway, "/anthropic-main/v1/messages", &headers, &raw).json());
}

#[track_caller]
fn check_message(reply: &Value) {
    assert_eq!(reply["type"], "message", "{reply}");
    assert!(reply["content"][0]["text"].is_string(), "{reply}");
    assert!(reply["usage"]["output_tokens"].is_number(), "{reply}");
}

#[test]
fn the_gemini_commands_of_the_first_request_page_answer() {
    let gateway = start();
    let headers = [("x-goog-api-key", "sk-admin-1")];
    let aggregated = "/v1beta/models/vertex-main/gemini-1.5-flash:generateContent";
    let scoped = "/vertex-main/v1beta/models/gemini-1.5-flash:generateContent";
    let reply = curl(&gateway, aggregated, &headers, GEMINI).json();
    assert_eq!(reply["modelVersion"], "vertex-main/gemini-1.5-flash");
    for reply in [reply, curl(&gateway, scoped, &headers, GEMINI).json()] {
        assert!(reply["candidates"][0]["content"]["parts"][0]["text"].is_string(), "{reply}");
        assert!(reply["usageMetadata"]["totalTokenCount"].is_number(), "{reply}");
    }
}

#[test]
fn the_refusals_of_the_first_request_page_are_the_documented_ones() {
    let gateway = start();
    let raw = OPENAI.replace("openai-main/", "");
    for (key, body, status, words) in [
        ("Bearer sk-admin-2", OPENAI, 401, "unauthorized"),
        ("Bearer sk-admin-1", raw.as_str(), 400, "prefix"),
    ] {
        let headers = [("authorization", key)];
        let bytes = request("POST", "/v1/chat/completions", &headers, body.as_bytes());
        let reply = gateway.connect().ask(&bytes);
        assert_eq!(reply.status, status, "{}", reply.text());
        assert!(reply.error_message().contains(words), "{}", reply.text());
    }
}

#[test]
fn every_curl_command_of_the_readme_answers() {
    let commands = curl_commands(&shipped("README.md"));
    for path in ["/v1/chat/completions", "/v1/messages", ":generateContent"] {
        let found = commands.iter().any(|words| words.iter().any(|word| word.ends_with(path)));
        assert!(found, "the README shows no call of {path}");
    }
    let gateway = start();
    for words in commands {
        let bytes = as_request(&words);
        let reply = gateway.connect().ask(&bytes);
        assert_eq!(reply.status, 200, "{words:?}: {}", reply.text());
    }
}

/// The words of each `curl` command inside the fenced blocks of a document.
fn curl_commands(text: &str) -> Vec<Vec<String>> {
    let blocks = text.split("```").skip(1).step_by(2);
    let mut commands = Vec::new();
    for block in blocks {
        let joined = block.replace("\\\n", " ");
        let mut rest = joined.as_str();
        while let Some(at) = rest.find("curl ") {
            let at_line_begin = at == 0 || rest.as_bytes()[at - 1] == b'\n';
            let (words, used) = shell_words(&rest[at..]);
            if at_line_begin {
                commands.push(words);
            }
            rest = &rest[at + used..];
        }
    }
    commands
}

/// Words of a command up to the end of its line, quotes respected; and how many bytes they took.
fn shell_words(text: &str) -> (Vec<String>, usize) {
    let (mut words, mut word, mut quote, mut begun) = (Vec::new(), String::new(), None, false);
    let mut end = text.len();
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            (Some(mark), _) if mark == letter => quote = None,
            (Some(_), _) => word.push(letter),
            (None, '\'' | '"') => (quote, begun) = (Some(letter), true),
            (None, '\n') => {
                end = at;
                break;
            }
            (None, ' ') if begun || !word.is_empty() => {
                words.push(std::mem::take(&mut word));
                begun = false;
            }
            (None, ' ') => {}
            (None, _) => word.push(letter),
        }
    }
    if begun || !word.is_empty() {
        words.push(word);
    }
    (words, end)
}

/// The request that curl would send.
fn as_request(words: &[String]) -> Vec<u8> {
    let (mut target, mut method, mut body) = ("", None, "");
    let mut headers = Vec::new();
    let mut rest = words.iter().skip(1);
    while let Some(word) = rest.next() {
        match word.as_str() {
            "-H" | "--header" => {
                let header = rest.next().expect("a header after -H");
                headers.push(header.split_once(": ").expect("a name and a value"));
            }
            "-d" | "--data" | "--data-binary" | "--json" => body = rest.next().expect("a body"),
            "-X" | "--request" => method = rest.next().map(String::as_str),
            flag if flag.starts_with('-') => {}
            url => {
                let path = url.splitn(4, '/').nth(3).unwrap_or("");
                target = &url[url.len() - path.len()..];
            }
        }
    }
    let method = method.unwrap_or(if body.is_empty() { "GET" } else { "POST" });
    request(method, &format!("/{target}"), &headers, body.as_bytes())
}
