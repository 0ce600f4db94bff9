//! Laws of accounts, of what is written into a configuration by people, and of guesses about
//! prompts; for any bytes.

use crate::config;
use crate::dialect::Dialect;
use crate::dialect::ask;
use crate::dialect::count;
use crate::dialect::endpoint::ENDPOINTS;
use crate::dialect::path::{self, Collection, RESERVED};
use crate::limits::{TOKEN_BYTES_MAX, TOKEN_LIFE_S_MAX};
use crate::route::account::{self, Account};
use crate::route::channel::cloud;
use crate::wire::json;
use serde_json::{Value, json};
use std::hash::{DefaultHasher, Hash, Hasher};

/// So many bytes of a secret in a message are a leak.
const LEAK_BYTES: usize = 8;
/// Within 2023.
const NOW_S: i64 = 1_700_000_000;

/// What is no account is refused, and no message holds a part of what was written for a secret. The
/// first byte chooses: the file of an account, a secret that somebody wrote, a token's reply.
pub fn account(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else { return };
    match choice % 4 {
        0 => file(data),
        1 => written(choice, data),
        2 => token(data),
        _ => refused(data),
    }
}

/// Letters that depend on the data, so that no data can spell its own and have them quoted.
fn secret_beside(data: &[u8]) -> String {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, data).hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    };
    format!("{}{}", half(0), half(1))
}

/// Loads a configuration, of which no message may hold a part of `secret`.
fn load(text: &str, variable: &str, secret: &str) -> Option<config::Loaded> {
    let environment = |name: &str| (name == "SET").then(|| variable.to_owned());
    let loaded = config::load(text, "fuzz.toml", &environment);
    let mut messages: Vec<String> = Vec::new();
    match &loaded {
        Err(errors) => messages.extend(errors.iter().map(ToString::to_string)),
        Ok(loaded) => {
            messages.extend(loaded.warnings.iter().cloned());
            messages.extend(loaded.fenced.iter().map(ToString::to_string));
        }
    }
    for part in secret.as_bytes().windows(LEAK_BYTES) {
        let leaks = |message: &&String| memchr::memmem::find(message.as_bytes(), part).is_some();
        assert_eq!(messages.iter().find(leaks), None, "a secret leaked");
    }
    loaded.ok()
}

const VERTEX: &str = "[[providers]]\nname = 'p'\nchannel = 'vertex'\n\
    credentials = [{ service_account = 'env:SET' }]\n[providers.settings]\nproject = 'a'\n";

fn file(data: &[u8]) {
    // As it stands in a variable, with a secret in front: no file of that name is told of.
    let secret = secret_beside(data);
    let text = String::from_utf8_lossy(data);
    load(VERTEX, &format!("{secret}{text}"), &secret);

    let Ok(Value::Object(mut members)) = serde_json::from_slice::<Value>(data) else { return };
    let member = |name: &str| members.get(name)?.as_str().map(str::to_owned);
    let found = Account::read(&member, None);
    let is_account = load(VERTEX, &text, &secret).is_some();
    assert!(found.is_ok() || !is_account, "what is none is loaded");
    if let Ok(account) = found {
        assert!((1..=256).contains(&account.client_email.len()));
        assert!(account.client_email.bytes().all(|byte| byte.is_ascii_graphic()));
        claims(&account);
    }
    // With the secret around the key, whatever that was.
    let key = member("private_key").unwrap_or_default();
    for key in [format!("{secret}{key}"), format!("{key}{secret}")] {
        members.insert("private_key".to_owned(), json!(key));
        load(VERTEX, &Value::Object(members.clone()).to_string(), &secret);
    }
}

/// What goes to a token endpoint is a form with a signed claim, whatever the account is called.
fn claims(account: &Account) {
    // A damaged key may look sound and not sign.
    let Some(body) = account.claim(NOW_S) else { return };
    let (_, claim) = body.expose().split_once("&assertion=").expect("an assertion");
    assert_eq!(claim.split('.').count(), 3);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    assert!(claim.bytes().all(is_plain));
}

/// A secret that somebody wrote into the file, in the right place or in a wrong one, and whatever
/// stands behind it there.
fn written(choice: u8, data: &[u8]) {
    let secret = secret_beside(data);
    let inside = format!("{secret}{}", String::from_utf8_lossy(data));
    let provider = |channel: &str, rest: String| {
        format!("[[providers]]\nname = 'p'\nchannel = '{channel}'\n{rest}\n")
    };
    let text = match choice >> 2 & 7 {
        0 => provider("vertex", format!("credentials = [{{ service_account = '{inside}' }}]")),
        1 => provider(
            "vertex",
            format!(
                "credentials = [{{ service_account = {{ client_email = 'a@b', \
                 private_key = '{inside}' }} }}]"
            ),
        ),
        2 => provider("openai", format!("credentials = [{{ api_key = '{inside}' }}]")),
        3 => provider("openai", format!("credentials = ['{inside}']")),
        4 => provider("custom", format!("settings = {{ base_url = 'http://u:{inside}@h' }}")),
        5 => format!("[[users]]\nname = 'u'\nkeys = [{{ api_key = '{inside}' }}]\n"),
        6 => format!("[global]\nproxy = 'http://u:{inside}@h'\n"),
        _ => format!("[[users]]\nname = 'u'\npassword = '{inside}'\n"),
    };
    load(&text, "", &secret);
}

/// A token that is taken can be sent, and lives no longer than the ceiling.
fn token(body: &[u8]) {
    if let Some((token, life_s)) = account::token(body) {
        assert!((1..=TOKEN_BYTES_MAX).contains(&token.expose().len()));
        assert!(token.expose().bytes().all(|byte| byte.is_ascii_graphic()));
        assert!((1..=TOKEN_LIFE_S_MAX).contains(&life_s));
    }
    // Spelt anew, no member stands there twice.
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return };
    let found = account::token(value.to_string().as_bytes());
    let life = match value.get("expires_in") {
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.parse().ok(),
        _ => None,
    };
    let life = life.filter(|life| *life >= 1.0).map(|life| life.min(TOKEN_LIFE_S_MAX as f64));
    let is_sendable = |text: &&str| {
        (1..=TOKEN_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
    };
    let text = value.get("access_token").and_then(Value::as_str).filter(is_sendable);
    let found = found.as_ref().map(|(token, life_s)| (token.expose(), *life_s));
    assert_eq!(found, text.zip(life).map(|(text, life)| (text, life as u64)));
}

/// A token endpoint's refusal is told by a word that holds nothing else.
fn refused(body: &[u8]) {
    let word = account::refusal_word(body);
    assert!(
        word.len() <= 64
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b" _".contains(&byte))
    );
}

/// What people name is refused, or is what can be called; and a prompt's tokens are guessed within
/// bounds. The first byte chooses: a body, an address, a provider's name, a model's.
pub fn names(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else { return };
    match choice % 4 {
        0 => guess(data),
        1 => address(&String::from_utf8_lossy(data)),
        2 => provider(&String::from_utf8_lossy(data)),
        _ => model(data),
    }
}

fn guess(body: &[u8]) {
    let tokens = count::estimate(body);
    // A large picture takes more tokens than its first bytes, all else at most one for a byte.
    assert!((1..=1 + 2 * body.len() as u64).contains(&tokens), "{tokens}");
    for endpoint in ENDPOINTS.iter().filter(|endpoint| endpoint.counts_tokens) {
        let reply = count::reply(endpoint, tokens);
        let reply: Value = serde_json::from_slice(&reply).expect("it is JSON");
        let told = [reply.get("input_tokens"), reply.get("totalTokens")];
        assert_eq!(told.into_iter().flatten().next().and_then(Value::as_u64), Some(tokens));
    }
}

fn quoted(text: &str) -> String {
    let mut literal = Vec::new();
    json::escape(text, &mut literal);
    String::from_utf8(literal).expect("a literal is text")
}

/// An address that is taken has one spelling, leads nowhere else, and hides nothing.
fn address(text: &str) {
    let base_url = |text: &str| {
        let file = format!(
            "[[providers]]\nname = 'p'\nchannel = 'custom'\nsettings = {{ base_url = {} }}\n",
            quoted(text)
        );
        Some(load(&file, "", "")?.snapshot.providers.first()?.base_url.clone())
    };
    let Some(url) = base_url(text) else { return };
    assert_eq!(base_url(&url).as_ref(), Some(&url), "its spelling is not its own");
    assert!(url.bytes().all(|byte| byte.is_ascii_graphic()));
    let (scheme, rest) = url.split_once("://").expect("it has a scheme");
    assert!(["http", "https"].contains(&scheme) && !rest.ends_with('/'));
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    assert!(!host.is_empty() && !host.contains(['@', '\\']) && host == host.to_ascii_lowercase());
    assert!(!path.contains("//") && !url.contains(['?', '#', '\\', '"', '<', '>']));
    assert!(path.split('/').all(|part| part != "." && part != ".."));
}

/// A provider's name that is taken can stand in a path, and is found by itself alone.
fn provider(text: &str) {
    let file = format!("[[providers]]\nname = {}\nchannel = 'echo'\n", quoted(text));
    let Some(loaded) = load(&file, "", "") else { return };
    assert!(!text.is_empty() && !RESERVED.contains(&text), "{text}");
    assert!(!text.contains(['/', '%', '?', '#', '\\']), "{text}");
    assert!(!text.chars().any(|char| char.is_control() || char.is_whitespace()), "{text}");
    assert_eq!(loaded.snapshot.provider_named(text), Some(0));
    assert_eq!(loaded.snapshot.providers.len(), 1);
}

/// A model's name that is taken leads nowhere else in a cloud's address.
fn model(name: &[u8]) {
    let Ok(name) = ask::plain_name(name) else { return };
    if name.is_empty() {
        return;
    }
    let root = "https://cloud.example";
    for place in [
        cloud::azure(root, Some("2024-10-21")),
        cloud::vertex(root, "project", "global", Dialect::Anthropic),
        cloud::vertex(root, "project", "global", Dialect::Gemini),
    ] {
        for endpoint in ENDPOINTS {
            let url = place.url(endpoint, "v1", &name, Collection::Models, "", true);
            assert!(url.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'), "{url}");
            let (path, query) = url.split_once('?').unwrap_or((&url, ""));
            let path = path.strip_prefix(root).expect("it stays with its host");
            let path = path::decode(path).expect("it is encoded once");
            let leads_out = |part: &str| part == "." || part == "..";
            assert!(!path.split(['/', '\\']).any(leads_out), "{url}");
            assert!(!query.contains('?'), "{url}");
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::mutate;

    const PEM: &str = include_str!("../../tests/support/account/private.pem");

    #[test]
    fn laws_of_accounts_hold_for_damaged_ones() {
        let sound = serde_json::json!({"type": "service_account", "project_id": "a",
            "private_key_id": "k", "private_key": PEM, "client_email": "r@a.test",
            "token_uri": "https://oauth2.googleapis.com/token"});
        let sound = format!("\0{sound}");
        let samples: [&[u8]; 9] = [
            sound.as_bytes(),
            b"\0{\"client_email\":\"a@b\",\"private_key\":\"-----BEGIN PRIVATE KEY-----\"}",
            b"\x01-----BEGIN PRIVATE KEY-----",
            b"\x05x",
            b"\x09sk-1",
            b"\x11pw",
            b"\x15sk",
            b"\x02{\"access_token\":\"ya29.c\",\"expires_in\":3599,\"token_type\":\"Bearer\"}",
            b"\x03{\"error\":\"invalid_grant\",\"error_description\":\"x\"}",
        ];
        let spices: [&[u8]; 16] = [
            b"'",
            b"\"",
            b"'''",
            b"' }]\n",
            b"\n",
            b"${X}",
            b"env:",
            b"\\u0041",
            b"\"private_key\":\"x\",",
            b"\"token_uri\":\"http://u:p@h\",",
            b"\"type\":\"authorized_user\",",
            b"\"expires_in\":\"1e9\",",
            b"\"access_token\":\"a b\",",
            b"-1",
            b"\xEF\xBB\xBF",
            b"\xFF",
        ];
        mutate::run(&samples, &spices, 400, super::account);
    }

    #[test]
    fn laws_of_names_hold_for_damaged_ones() {
        let samples: [&[u8]; 8] = [
            b"\x03gpt-4/../b",
            b"\0{\"messages\":[{\"content\":\"The quick \\u4eba\\n brown fox 1234567\"}]}",
            b"\0{\"url\":\"data:image/png;base64,iVBORw0KGgo\",\"a\":\"\xE4\xBA\xBA\xC3\xA9\"}",
            b"\x01https://Host.example:8080/v1/a%20b",
            b"\x01http://[::1]:11434/v1",
            b"\x01HTTP://h//a///b/",
            b"\x02openai-main",
            b"\x02v1",
        ];
        let spices: [&[u8]; 20] = [
            b"/",
            b"//",
            b"..",
            b"@",
            b":",
            b":0",
            b":65536",
            b"?",
            b"#",
            b"%",
            b"[",
            b"]",
            b"\\",
            b"\"",
            b"\\u00",
            b"\xC3\xA9",
            b"\xFF",
            b" ",
            b"\n",
            b"v1beta",
        ];
        mutate::run(&samples, &spices, 1_500, super::names);
    }
}
