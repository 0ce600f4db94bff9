use super::*;

/// What a command answers: exit code, standard output, standard error.
fn answer(line: &str, input: &str) -> (Option<u8>, String, String) {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let arguments = arguments::parse(&words).unwrap_or_else(|error| panic!("{error}"));
    let (mut out, mut error) = (Vec::new(), Vec::new());
    let mut terminal = Terminal {
        input: &mut input.as_bytes(),
        interactive: false,
        out: &mut out,
        error: &mut error,
        environment: &|_| None,
        read_certificates: &|snapshot| match &snapshot.extra_ca_file {
            Some(file) => vec![
                ("global.extra_ca_file", format!("{file}: unread")),
                ("tls.key_file", "key.pem: unread".to_owned()),
            ],
            None => Vec::new(),
        },
    };
    let code = run(&arguments, &mut terminal).expect("memory can be written to");
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    (code, text(out), text(error))
}

fn checked(text: &str) -> String {
    let keys = |name: &str| (name == "KEY").then(|| "credential-in-variable".to_owned());
    let loaded = config::load(text, "c.toml", &keys).unwrap_or_else(|e| panic!("{e:#?}"));
    let mut out = Vec::new();
    check::write(&loaded, &mut out).expect("memory can be written to");
    String::from_utf8(out).expect("output is UTF-8")
}

#[test]
fn check_prints_final_addresses_and_what_each_user_may_call_and_spend() {
    let text = r#"
        [[providers]]
        name = "claude"
        label = "Team"
        channel = "anthropic"
        credentials = [{ api_key = "env:KEY" }]
        [providers.settings]
        base_url = "https://proxy.example/v1/"
        proxy = "http://out.example:3128"
        forward_headers = ["Via", "X-Forwarded-For"]
        [[providers]]
        name = "google"
        channel = "vertexexpress"
        enabled = false
        settings = { base_url = "https://vertex.example" }
        [[providers]]
        name = "demo"
        channel = "echo"
        [[model_aliases]]
        alias = "chat-default"
        provider_name = "claude"
        model_id = "claude-x"
        [[users]]
        name = "alice"
        is_admin = true
        [[users.keys]]
        api_key = "sk-a-very-long-key-1234"
        [[users.keys]]
        api_key = "sk-b"
        label = "old laptop"
        enabled = false
        in_flight = 2
        [[permissions]]
        user_name = "alice"
        model_pattern = "chat-*"
        [[permissions]]
        user_name = "alice"
        provider_name = "demo"
        model_pattern = "*"
        [[quotas]]
        user_name = "alice"
        quota = 100
        [[quotas]]
        user_name = "alice"
        quota = "2.50"
        window = "day"
        [[rate_limits]]
        user_name = "alice"
        model_pattern = "chat-*"
        rpm = 60
        rpd = 900
        total_tokens = 20000
        window_s = 30
        in_flight = 3
        [[users]]
        name = "bob"
        enabled = false
    "#;
    let expected = "\
listens on http://127.0.0.1:8787 with a worker for each core, data in ./data

provider claude on channel anthropic, \"Team\", 1 credential, through http://out.example:3128
  callers' headers that go up too: via, x-forwarded-for
  openai_chat        https://proxy.example/v1/chat/completions
  anthropic          https://proxy.example/v1/messages

provider google on channel vertexexpress (disabled), no credential
  gemini             https://vertex.example/v1beta1/publishers/google/models/MODEL:generateContent

provider demo on channel echo
  answers openai_chat, openai_responses, openai_embeddings, anthropic, gemini by itself

alias chat-default is claude/claude-x

user alice, administrator
  key ...1234
  key old laptop (disabled), 2 calls side by side
  may call chat-* at every provider
  may call * at demo
  may spend 100 USD in all
  may spend 2.5 USD a day
  limit of chat-*: 60 calls a minute, 900 calls a day, 20000 tokens in 30 s, 3 calls side by side

user bob (disabled)
  may call nothing

no mistakes
";
    assert_eq!(checked(text), expected);
}

#[test]
fn check_shows_no_secret() {
    let text = "[[providers]]\nname = 'p'\nchannel = 'openai'\n\
                credentials = [{ api_key = 'env:KEY' }]\n\
                [[users]]\nname = 'u'\n[[users.keys]]\napi_key = 'my-own-secret-key'";
    let shown = checked(text);
    assert!(!shown.contains("credential-in-variable") && !shown.contains("my-own"), "{shown}");
}

#[test]
fn check_of_the_shipped_file_is_well() {
    let (code, out, error) = answer("check --config config.toml", "");
    assert_eq!((code, error.as_str()), (Some(EXIT_WELL), ""));
    assert!(out.contains("provider openai-main on channel echo"), "{out}");
}

#[test]
fn check_prints_every_mistake_and_exits_with_two() {
    let (code, out, error) = answer("check --config config.toml --host 0.0.0.0 --port x", "");
    assert_eq!((code, out.as_str()), (Some(EXIT_MISTAKE), ""));
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 3, "{error}");
    assert!(lines[0].starts_with("--port: "), "{error}");
    assert!(lines[1].contains("users[0].keys[0].api_key"), "{error}");
    assert!(lines[2].contains("2 mistakes"), "{error}");
}

#[test]
fn check_reads_the_certificates_that_are_named() {
    let file = std::env::temp_dir().join(format!("gproxy-check-{}.toml", std::process::id()));
    std::fs::write(&file, "[global]\nextra_ca_file = 'ca.pem'\n").expect("a file");
    let (code, out, error) = answer(&format!("check --config {}", file.display()), "");
    std::fs::remove_file(&file).expect("a file");
    assert_eq!((code, out.as_str()), (Some(EXIT_MISTAKE), ""));
    let name = file.display();
    let expected = format!(
        "\n{name}:2: global.extra_ca_file: ca.pem: unread\n{name}: tls.key_file: key.pem: unread\n"
    );
    assert!(error.ends_with(&expected), "{error}");
}

#[test]
fn check_finds_a_master_key_that_would_stop_the_start() {
    let folder = std::env::temp_dir();
    let file = folder.join(format!("gproxy-master-{}", std::process::id()));
    let line = format!("check --config config.toml --master-key-file {}", file.display());
    for (text, expected) in [
        (None, Some("cannot be read: ")),
        (Some("a-short-one\n"), Some("the master key must have at least 32 characters")),
        (Some("0123456789abcdef0123456789abcdef\n"), None),
        (Some("\n"), None),
    ] {
        if let Some(text) = text {
            std::fs::write(&file, text).expect("a file");
        }
        let (code, out, error) = answer(&line, "");
        let place = format!("--master-key-file: {}: ", file.display());
        match expected {
            Some(why) => {
                assert_eq!((code, out.as_str()), (Some(EXIT_MISTAKE), ""));
                assert!(error.starts_with(&format!("{place}{why}")), "{error}");
            }
            None => assert_eq!((code, error.as_str()), (Some(EXIT_WELL), "")),
        }
    }
    std::fs::remove_file(&file).expect("a file");
}

#[test]
fn a_file_that_is_not_there_is_a_mistake() {
    let (code, _, error) = answer("check --config no-such.toml", "");
    assert_eq!(code, Some(EXIT_MISTAKE));
    assert!(error.starts_with("no-such.toml: cannot be read"), "{error}");
}

#[test]
fn a_hashed_key_stands_for_the_key() {
    for input in ["sk-alice", "sk-alice\n", "sk-alice\r\nrest"] {
        let (code, out, _) = answer("hash-key", input);
        assert_eq!(code, Some(EXIT_WELL));
        let text = format!("[[users]]\nname = 'u'\nkeys = [{{ api_key = '{}' }}]", out.trim_end());
        let loaded = config::load(&text, "c.toml", &|_| None).unwrap_or_else(|e| panic!("{e:?}"));
        assert!(loaded.snapshot.authenticate(b"sk-alice").is_some());
    }
}

#[test]
fn forbids_keys_that_no_header_can_carry() {
    for input in ["", "\n", "two words", "schlüssel", "sha256:00", &"x".repeat(5000)] {
        let (code, out, _) = answer("hash-key", input);
        assert_eq!((code, out.as_str()), (Some(EXIT_MISTAKE), ""), "{input}");
    }
}

#[test]
fn version_and_help_are_printed() {
    assert_eq!(answer("--version", "").1, format!("gproxy {}\n", env!("CARGO_PKG_VERSION")));
    assert!(answer("--help", "").1.starts_with("GPROXY"));
    assert_eq!(answer("serve", "").0, None);
}
