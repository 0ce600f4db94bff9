//! The configuration of the tests: the providers of the README, all on one scripted upstream.

use super::upstream::Upstream;

/// Key of a user who may call everything and read the metrics.
pub const ADMIN_KEY: &str = "sk-admin-1";
/// Key of a user who may call `gpt-*` of `openai-main` only.
pub const ALICE_KEY: &str = "sk-alice-0123456789abcdef0123456789abcdef";
/// A key that exists and is switched off.
pub const DISABLED_KEY: &str = "sk-disabled-0123456789abcdef0123456789abcdef";
/// What the gateway presents to the upstream.
pub const UPSTREAM_KEY: &str = "upstream-credential-5f2a";

/// Parts of a configuration file; `text` puts them together.
#[derive(Clone)]
pub struct Config {
    base_url: String,
    workers: usize,
    global: String,
    limits: String,
    timeouts: String,
    settings: String,
    tail: String,
}

impl Config {
    /// Every provider leads to `upstream`.
    pub fn to(upstream: &Upstream) -> Config {
        Config::to_url(&format!("http://127.0.0.1:{}", upstream.port))
    }

    /// Every provider has this base URL.
    pub fn to_url(base_url: &str) -> Config {
        Config {
            base_url: base_url.to_owned(),
            workers: 2,
            global: String::new(),
            limits: String::new(),
            timeouts: String::new(),
            settings: String::new(),
            tail: String::new(),
        }
    }

    /// Number of worker threads (2 unless said).
    pub fn workers(mut self, workers: usize) -> Config {
        self.workers = workers;
        self
    }

    /// Adds a line to `[global]`.
    pub fn global(mut self, line: &str) -> Config {
        self.global += line;
        self.global.push('\n');
        self
    }

    /// Adds a line to `[limits]`.
    pub fn limit(mut self, line: &str) -> Config {
        self.limits += line;
        self.limits.push('\n');
        self
    }

    /// Adds a line to `[timeouts]`.
    pub fn timeout(mut self, line: &str) -> Config {
        self.timeouts += line;
        self.timeouts.push('\n');
        self
    }

    /// Adds a line to the settings of every provider.
    pub fn setting(mut self, line: &str) -> Config {
        self.settings += line;
        self.settings.push('\n');
        self
    }

    /// Adds text at the end of the file.
    pub fn tail(mut self, text: &str) -> Config {
        self.tail += text;
        self.tail.push('\n');
        self
    }

    /// The file. `Gateway::start` fills in the port and the data folder.
    pub fn text(&self) -> String {
        let mut text = format!(
            "[global]\nhost = \"127.0.0.1\"\nport = 0\nworkers = {}\ndata_dir = \"DATA_DIR\"\n{}\n\
             [limits]\n{}\n[timeouts]\n{}\n",
            self.workers, self.global, self.limits, self.timeouts
        );
        for (name, dialects) in [
            ("openai-main", r#""openai_chat", "openai_responses", "openai_embeddings""#),
            ("anthropic-main", r#""anthropic""#),
            ("vertex-main", r#""gemini""#),
            (
                "router",
                r#""openai_chat", "openai_responses", "openai_embeddings", "anthropic", "gemini""#,
            ),
        ] {
            text += &provider(name, &self.base_url, dialects, &self.settings);
        }
        text + TABLES + &self.tail
    }
}

/// A `custom` provider.
pub fn provider(name: &str, base_url: &str, dialects: &str, settings: &str) -> String {
    format!(
        "[[providers]]\nname = \"{name}\"\nchannel = \"custom\"\n\
         credentials = [{{ api_key = \"{UPSTREAM_KEY}\" }}]\n\
         [providers.settings]\nbase_url = \"{base_url}\"\ndialects = [{dialects}]\n{settings}\n"
    )
}

const TABLES: &str = r#"
[[models]]
provider_name = "openai-main"
model_id = "gpt-4.1-mini"
[[models]]
provider_name = "openai-main"
model_id = "gpt-retired"
enabled = false
[[models]]
provider_name = "anthropic-main"
model_id = "claude-3-5-sonnet-latest"
[[models]]
provider_name = "vertex-main"
model_id = "gemini-1.5-flash"
[[models]]
provider_name = "router"
model_id = "router/auto"

[[model_aliases]]
alias = "chat-default"
provider_name = "openai-main"
model_id = "gpt-4.1-mini"
[[model_aliases]]
alias = "openai-main/fast"
provider_name = "router"
model_id = "swift-1"
[[model_aliases]]
alias = "gemini-default"
provider_name = "vertex-main"
model_id = "gemini-1.5-flash"

[[users]]
name = "admin"
is_admin = true
[[users.keys]]
api_key = "sk-admin-1"

[[users]]
name = "alice"
[[users.keys]]
api_key = "sk-alice-0123456789abcdef0123456789abcdef"
[[users.keys]]
api_key = "sk-disabled-0123456789abcdef0123456789abcdef"
enabled = false

[[users]]
name = "gone"
enabled = false
[[users.keys]]
api_key = "sk-gone-0123456789abcdef0123456789abcdef00"

[[permissions]]
user_name = "admin"
model_pattern = "*"
[[permissions]]
user_name = "alice"
provider_name = "openai-main"
model_pattern = "gpt-*"
"#;
