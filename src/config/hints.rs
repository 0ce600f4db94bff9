//! Where a key belongs that stands in a table that does not know it, and what was probably meant
//! where the syntax is wrong.

use std::ops::Range;

use super::error::shown;

/// Keys of a credential.
const CREDENTIAL: &[&str] = &["api_key", "service_account", "weight", "rpm", "tpm", "in_flight"];
/// Keys of a tier of prices that a model does not have too.
const TIER: &[&str] = &[
    "input_tokens_up_to",
    "price_input_tokens",
    "price_output_tokens",
    "price_cache_read_input_tokens",
    "price_cache_creation_input_tokens",
    "price_cache_creation_input_tokens_5min",
    "price_cache_creation_input_tokens_1h",
];
/// Keys of a provider's settings.
const SETTINGS: &[&str] = &[
    "base_url",
    "dialects",
    "api_version",
    "project",
    "location",
    "token_uri",
    "proxy",
    "include_usage",
    "forward_headers",
    "timeouts",
    "passthrough",
    "keepalive_ms",
    "early_headers_ms",
    "hedge",
    "hedge_ms_min",
    "rotation_strategy",
    "models",
    "on_abort",
    "drain_ms_max",
    "drain_usd_max",
    "delay_ms",
    "event_delay_ms",
    "reply_bytes",
    "events",
];
/// Keys of a provider.
const PROVIDER: &[&str] = &["name", "channel", "label", "enabled", "credentials"];
/// Keys of a user's key that the user does not have too.
const KEY: &[&str] = &["api_key", "label", "expires_at", "networks", "in_flight"];

const IN_CREDENTIALS: &str = "it stands in credentials: credentials = [{ api_key = \"env:NAME\" }]";
const IN_CREDENTIALS_ABOVE: &str = "it stands in credentials, above [providers.settings]: \
    credentials = [{ api_key = \"env:NAME\" }]";

/// A table by its path without indices, keys that do not belong there, and where they do.
const ROWS: &[(&str, &[&str], &str)] = &[
    ("models", TIER, "it stands in price_tiers: price_tiers = [{ price_input_tokens = \"0.40\" }]"),
    ("providers", SETTINGS, "it stands in [providers.settings]"),
    ("providers", CREDENTIAL, IN_CREDENTIALS),
    ("providers.settings", CREDENTIAL, IN_CREDENTIALS_ABOVE),
    ("providers.settings", PROVIDER, "it stands in [[providers]], above [providers.settings]"),
    ("users", KEY, "it stands in [[users.keys]]"),
];

/// Where a key belongs that the table at this path does not know.
pub(super) fn belongs(path: &str, key: &str) -> Option<&'static str> {
    let path = without_indices(path);
    let fits = |(table, keys, _): &&(&str, &[&str], &str)| *table == path && keys.contains(&key);
    ROWS.iter().find(fits).map(|(.., place)| *place)
}

/// The path of a table as its header has it: `models[3].price_tiers` is `models.price_tiers`.
pub(super) fn without_indices(path: &str) -> String {
    let parts = path.split('.').map(|part| part.split('[').next().unwrap_or_default());
    parts.collect::<Vec<_>>().join(".")
}

/// What was probably meant where the syntax is wrong, or else what the parser says. No value is
/// quoted, since it may be a secret.
pub(super) fn syntax(text: &str, message: &str, span: Range<usize>) -> String {
    let before = text.get(..span.start).unwrap_or_default();
    let begin = before.rfind('\n').map_or(0, |at| at + 1);
    if message.starts_with("duplicate key") || message.starts_with("cannot extend") {
        let key = text.get(span).unwrap_or_default().trim();
        let lines = before[..begin].lines().enumerate();
        let first = lines.filter(|(_, line)| gives(line, key)).last();
        let at = first.map_or_else(String::new, |(index, _)| {
            format!(", which stands on line {} too: write either", index + 1)
        });
        return format!("{message}: \"{}\"{at}", shown(key));
    }
    let line = text.get(begin..).and_then(|rest| rest.lines().next()).unwrap_or_default();
    let Some((key, value)) = line.split_once('=') else { return message.to_owned() };
    let is_key = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if !key.trim().bytes().all(is_key) {
        // What stands before the first equals sign may be a value already.
        return message.to_owned();
    }
    let (key, value) = (shown(key.trim()), value.trim());
    let is_word = |words: &[&str]| words.iter().any(|word| value.eq_ignore_ascii_case(word));
    if is_word(&["true", "false", "yes", "no", "on", "off"]) {
        return format!("must be {key} = true or {key} = false, in small letters");
    }
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit() || b"+-_.".contains(&byte))
        && value.matches('.').count() < 2;
    if is_number || value.starts_with(['"', '\'', '[', '{', '#']) {
        return message.to_owned();
    }
    format!("text needs quotes: {key} = \"...\"")
}

/// Whether a line gives the key a value, or begins a table of that name.
fn gives(line: &str, key: &str) -> bool {
    let line = line.trim_start();
    let header = line.strip_prefix('[').and_then(|rest| rest.split(']').next());
    let name = header.and_then(|path| path.rsplit(['.', '[']).next());
    let value = line.strip_prefix(key).map(str::trim_start);
    name.map(str::trim) == Some(key) || value.is_some_and(|rest| rest.starts_with('='))
}
