//! What the README says, held against the program: its calls, its commands with their output, its
//! configuration, its tables and its links.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Gateway, Reply, request, wait_for};
use gproxy::command::arguments::HELP;
use gproxy::config::{self, Loaded};
use gproxy::dialect::Family;
use gproxy::dialect::endpoint::{ENDPOINTS, ModelPlace};
use gproxy::dialect::refusal::{Code, Refusal};
use gproxy::dialect::resource::RESOURCES;
use gproxy::metrics::Metrics;
use gproxy::route::channel::CHANNELS;
use gproxy::route::memory::{Extras, Memory};
use gproxy::route::snapshot::Limits;
use serde_json::Value;

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

/// The calls of the first request page that this version serves.
const CALLS: [&str; 6] = [
    "/v1/chat/completions",
    "/openai-main/v1/chat/completions",
    "/v1/messages",
    "/anthropic-main/v1/messages",
    "/v1beta/models/vertex-main/gemini-1.5-flash:generateContent",
    "/vertex-main/v1beta/models/gemini-1.5-flash:generateContent",
];

#[test]
fn every_curl_command_of_the_readme_answers_as_shown() {
    let gateway = start();
    let mut targets = Vec::new();
    // The key that was shown last, for calls that write it as below.
    let mut key = String::new();
    for mut call in calls() {
        call.words.iter_mut().for_each(|word| *word = word.replace("sk-gp-...", &key));
        let ask = || gateway.connect().ask(&call.request());
        let has_all = |reply: &Reply| call.shown.iter().all(|part| reply.text().contains(part));
        let reply = match call.target().starts_with("/admin/api/usage") {
            // Rows are written in batches.
            true => wait_for("what is shown", || Some(ask()).filter(has_all)),
            false => ask(),
        };
        let shown = call.shown.iter().find_map(|part| {
            let (status, rest) = part.split_once(' ')?;
            Some((status.parse::<u16>().ok()?, rest))
        });
        match shown {
            Some((status, _)) => assert_eq!(reply.status, status, "{}", reply.text()),
            None => {
                assert!((200..300).contains(&reply.status), "{:?}: {}", call.words, reply.text())
            }
        }
        assert!(reply.complete, "{:?}", call.words);
        let has_body = reply.status != 204;
        assert_eq!(!call.shown.is_empty(), has_body, "its answer is shown: {:?}", call.words);
        for part in &call.shown {
            let part = shown.map_or(part.as_str(), |(_, rest)| rest);
            assert!(reply.text().contains(part), "{part} is not in {}", reply.text());
        }
        if let Some((_, rest)) = reply.text().split_once("\"api_key\":\"") {
            key = rest.split('"').next().unwrap_or_default().to_owned();
        }
        targets.push(call.target());
    }
    for target in CALLS {
        assert!(targets.iter().any(|shown| shown == target), "no call of {target} is shown");
    }
}

/// A `curl` command and the parts of its answer that are shown behind `# ->`.
struct Call {
    words: Vec<String>,
    shown: Vec<String>,
}

fn calls() -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    for block in blocks("sh") {
        let joined = block.replace("\\\n", " ");
        let mut rest = joined.as_str();
        while !rest.is_empty() {
            let used = if rest.starts_with("curl ") {
                let (words, used) = shell_words(rest);
                calls.push(Call { words, shown: Vec::new() });
                used
            } else {
                let line = rest.lines().next().unwrap_or_default();
                if let Some(part) = line.strip_prefix("# -> ") {
                    calls.last_mut().expect("a command before its answer").shown.push(part.into());
                } else {
                    assert!(line.is_empty() || line.starts_with("# "), "not understood: {line}");
                }
                line.len()
            };
            rest = rest[used..].strip_prefix('\n').unwrap_or(&rest[used..]);
        }
    }
    calls
}

impl Call {
    fn target(&self) -> String {
        let base = "http://127.0.0.1:8787/";
        let path = self.words.iter().find_map(|word| word.strip_prefix(base));
        format!("/{}", path.unwrap_or_else(|| panic!("no URL at {base}: {:?}", self.words)))
    }

    /// The request that curl would send.
    fn request(&self) -> Vec<u8> {
        let (mut body, mut headers, mut method) = ("", Vec::new(), None);
        let mut rest = self.words.iter().skip(1);
        while let Some(word) = rest.next() {
            match word.as_str() {
                "-H" => {
                    let header = rest.next().expect("a header after -H");
                    headers.push(header.split_once(": ").expect("a name and a value"));
                }
                "-d" => body = rest.next().expect("a body after -d"),
                "-X" => method = rest.next().map(String::as_str),
                "-N" => {}
                flag if flag.starts_with('-') => panic!("an option that is not known: {flag}"),
                _ => {}
            }
        }
        let method = method.unwrap_or(if body.is_empty() { "GET" } else { "POST" });
        request(method, &self.target(), &headers, body.as_bytes())
    }
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

/// The README's fenced blocks of that language.
fn blocks(language: &str) -> Vec<String> {
    let (mut blocks, mut open) = (Vec::new(), None::<(String, String)>);
    for line in shipped("README.md").lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => open = Some((language.to_owned(), String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some((_, text)), None) => *text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block without an end");
    let wanted = blocks.into_iter().filter(|(other, _)| other == language);
    wanted.map(|(_, text)| text).collect()
}

#[test]
fn every_command_prints_what_is_shown() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("readme");
    fs::create_dir_all(&folder).expect("a folder for this test");
    for block in blocks("toml") {
        if let Some(name) = block.lines().next().and_then(|line| line.strip_prefix("# my")) {
            fs::write(folder.join(format!("my{name}")), block).expect("the folder was just made");
        }
    }
    let programs = Path::new(env!("CARGO_BIN_EXE_gproxy")).parent().expect("it is in a folder");
    let paths = std::env::var("PATH").unwrap_or_default();
    let shown = blocks("console");
    assert!(shown.len() >= 4, "check, its mistakes, explain and hash-key are shown");
    for block in shown {
        let (mut script, mut expected) = ("exec 2>&1\n".to_owned(), String::new());
        for line in block.lines() {
            match line.strip_prefix("$ ") {
                Some(command) => script += &format!("{command}\n"),
                None => expected += &format!("{line}\n"),
            }
        }
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(&script).current_dir(&folder);
        shell.env("PATH", format!("{}:{paths}", programs.display()));
        let output = shell.output().expect("there is a shell");
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{script}");
    }
}

#[track_caller]
fn load(text: &str) -> Loaded {
    let environment = |name: &str| (!name.starts_with("GPROXY_")).then(|| format!("of-{name}"));
    match config::load(text, "README.md", &environment) {
        Ok(loaded) => loaded,
        Err(errors) => {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            panic!("{}\nin\n{text}", errors.join("\n"))
        }
    }
}

#[test]
fn the_configuration_that_is_shown_loads_and_its_values_are_the_defaults() {
    let all = blocks("toml").into_iter().filter(|block| !block.starts_with("# my"));
    let shown = load(&all.collect::<Vec<_>>().join("\n"));
    let bare = load(
        "[[providers]]\nname = \"a\"\nchannel = \"custom\"\n\
         settings = { base_url = \"https://api.example\" }\n\
         [[providers]]\nname = \"b\"\nchannel = \"echo\"\n",
    );
    assert_eq!(shown.settings, bare.settings);
    let (shown, warnings, bare) = (shown.snapshot, shown.warnings, bare.snapshot);
    assert_eq!(shown.limits, bare.limits);
    assert_eq!(shown.logging, bare.logging);
    assert_eq!(shown.drain_ms, bare.drain_ms);
    assert_eq!(shown.cors_origins, bare.cors_origins);
    assert_eq!(shown.providers.len(), 2);
    for (shown, bare) in shown.providers.iter().zip(&bare.providers) {
        assert_eq!(shown.enabled, bare.enabled);
        assert_eq!(shown.timeouts, bare.timeouts);
        assert_eq!(shown.proxy, bare.proxy);
        assert_eq!(shown.include_usage, bare.include_usage);
        assert_eq!(shown.forward_headers, bare.forward_headers);
        assert_eq!(shown.dialects(), bare.dialects());
        assert_eq!(shown.passthrough, bare.passthrough);
        assert_eq!(shown.echo, bare.echo);
    }
    assert_eq!(warnings, [""; 0]);
}

/// With the vendors in place of the built-in channel, as the file says.
#[test]
fn what_the_shipped_file_holds_as_comments_is_valid_too() {
    let mut text = String::new();
    let lines = shipped("config.toml");
    for line in lines.lines().filter(|line| *line != "channel = \"echo\"") {
        let setting = line.strip_prefix("# ").filter(|rest| {
            let key = rest.split(" = ").next().unwrap_or_default();
            let is_key = key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            rest.starts_with('[') || (is_key && rest.contains(" = "))
        });
        text += &format!("{}\n", setting.unwrap_or(line));
    }
    let loaded = load(&text);
    assert_eq!(loaded.warnings, [""; 0]);
    let channels: Vec<&str> =
        loaded.snapshot.providers.iter().map(|provider| provider.channel.name).collect();
    assert_eq!(channels, ["openai", "anthropic", "vertexexpress", "custom"]);
}

#[test]
fn every_row_of_the_readmes_tables_is_true_and_none_is_missing() {
    let text = shipped("README.md");
    let row = |begin: &str| {
        let line = text.lines().find(|line| line.starts_with(begin));
        line.unwrap_or_else(|| panic!("no row begins with {begin}"))
    };
    for name in Metrics::default().text(&[]).lines().filter_map(|line| line.strip_prefix("# TYPE "))
    {
        row(&format!("| `{}` |", name.split(' ').next().expect("a name")));
    }
    for endpoint in ENDPOINTS {
        let path = match endpoint.model {
            ModelPlace::Path => format!("/v1beta/models/{{model}}:{}", endpoint.tail),
            ModelPlace::Resource => format!("/v1beta/{}", endpoint.tail),
            _ => format!("/v1/{}", endpoint.tail),
        };
        row(&format!("| `{}` | `{path}` | `{}` |", endpoint.name, endpoint.dialect.name()));
    }
    for resource in RESOURCES {
        let tail = resource.endpoint.tail;
        let first = tail.split("/*").next().expect("a split has a first part");
        let paths = ["v1", "v1beta"].map(|version| format!("`/{version}/{first}"));
        assert!(paths.iter().any(|path| text.contains(path)), "no path `{tail}`");
    }
    for channel in CHANNELS {
        let row = row(&format!("| `{}` |", channel.name));
        assert!(row.contains(channel.base_url.unwrap_or("| ")), "{row}");
        let dialects = channel.dialects().to_string().replace(", ", "`, `");
        assert!(row.contains(&format!("| `{dialects}`")), "{row}");
        assert_eq!(row.contains("| needed |"), channel.needs_credential, "{row}");
    }
    let memory = |tls| {
        let extras = Extras { tls, ..Extras::default() };
        (Memory::at_most(&Limits::default(), extras).sum() as f64 / f64::from(1 << 30)).round()
    };
    let (plain, sealed) = (memory(false), memory(true));
    let told = format!("it is some {plain} GiB, with `[tls]` some {sealed} GiB");
    assert!(text.contains(&told), "{told}");
    let options = HELP.split_whitespace().filter(|word| word.starts_with("--"));
    for option in options.chain(["GPROXY_CONFIG", "GPROXY_LOG"]) {
        let of_explain = ["--method", "--help", "--version"];
        assert!(text.contains(option) || of_explain.contains(&option), "{option}");
    }
    // Nothing leads to these in this version.
    let unused = [Code::Internal, Code::DownstreamGone];
    for code in Code::ALL.into_iter().filter(|code| !unused.contains(code)) {
        let row = row(&format!("| {} |", code.status()));
        let body = |family| {
            let body = Refusal::new(code, "").body(family, "");
            serde_json::from_slice::<Value>(&body).expect("a body is JSON")
        };
        let names = [
            body(Family::Openai)["error"]["type"].clone(),
            body(Family::Anthropic)["error"]["type"].clone(),
            body(Family::Gemini)["error"]["status"].clone(),
        ];
        let names = names.map(|name| format!("`{}`", name.as_str().expect("a name")));
        assert!(row.ends_with(&format!("| {} |", names.join(" | "))), "{code:?}: {row}");
    }
}

#[test]
fn every_link_of_the_readme_leads_somewhere() {
    let text = shipped("README.md");
    let headings: Vec<String> = text
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches(['#', ' ']).to_lowercase().replace(' ', "-"))
        .collect();
    let links: Vec<&str> =
        text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    assert!(links.len() > 20);
    for link in links {
        let found = match link.strip_prefix('#') {
            Some(heading) => headings.iter().any(|known| known == heading),
            None => Path::new(env!("CARGO_MANIFEST_DIR")).join(link).exists(),
        };
        assert!(found, "{link}");
    }
}
