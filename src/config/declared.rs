//! What the file declares, as the administration interface shows it: as written, without secrets.

use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};

use super::global::RETIRED;
use super::made::SECTIONS;
use super::sources::{Environment, Files};
use crate::secret::Digest;

/// The section of the keys that stand in no array, such as `limits.body_bytes_max`.
pub const SETTINGS: &str = "settings";

/// One element of the file's arrays, or a key of one of its tables.
#[derive(Clone)]
pub struct Declared {
    /// One of [`super::made::SECTIONS`], `credentials`, or [`SETTINGS`].
    pub section: &'static str,
    /// Where it stands in the file.
    pub line: usize,
    /// Its keys. A user's keys and a provider's credentials are rows of their own. A setting has
    /// its `name`, and its `value`.
    pub value: Map<String, Value>,
    /// The secret that is not shown: the key where it stands, and what tells one from another.
    pub hidden: Option<(&'static str, Digest)>,
}

/// Where values come from that the file names.
pub(super) struct Outside<'e> {
    pub(super) environment: Environment<'e>,
    pub(super) files: Files<'e>,
}

impl Outside<'_> {
    /// Tells one secret from another, of a variable where one is named.
    fn digest(&self, written: &str) -> Digest {
        let value = written.strip_prefix("env:").and_then(self.environment);
        Digest::of(value.as_deref().map_or(written, str::trim).as_bytes())
    }

    /// The same of a document, which may stand in a file.
    fn document(&self, written: &Value) -> Digest {
        let Value::String(written) = written else {
            return Digest::of(written.to_string().as_bytes());
        };
        let value = written.strip_prefix("env:").and_then(self.environment);
        let text = value.as_deref().unwrap_or(written).trim();
        let file = if text.starts_with('{') { None } else { (self.files)(text).ok() };
        Digest::of(file.as_deref().unwrap_or(text).as_bytes())
    }
}

/// Every row of a file that was read without mistakes. `line_of`: the line of an offset.
pub(super) fn rows(
    root: &DeTable<'_>,
    outside: &Outside<'_>,
    line_of: &dyn Fn(usize) -> usize,
) -> Vec<Declared> {
    let mut rows = settings(root, line_of);
    for section in SECTIONS {
        let elements = root.get(section).and_then(|value| value.get_ref().as_array());
        for element in elements.into_iter().flat_map(|elements| elements.iter()) {
            let Value::Object(mut value) = json(element.get_ref()) else { continue };
            let line = line_of(element.span().start);
            let keys = take(&mut value, "keys");
            let credentials = take(&mut value, "credentials");
            let mut hidden = None;
            if let Some(Value::Object(settings)) = value.get_mut("settings")
                && let Some(Value::String(proxy)) = settings.get_mut("proxy")
            {
                *proxy = without_user(proxy);
            }
            if section == "users" {
                let password = value.remove("password");
                value.insert("has_password".into(), password.is_some().into());
                let password = password.as_ref().and_then(Value::as_str);
                hidden = password.map(|written| ("password", outside.digest(written)));
            }
            let name = value.get("name").cloned().unwrap_or_default();
            rows.push(Declared { section, line, value, hidden });
            rows.extend(keys.into_iter().map(|key| {
                let value = key_of(key, &name, outside.environment);
                Declared { section: "user_keys", line, value, hidden: None }
            }));
            let credentials = credentials.into_iter();
            rows.extend(credentials.map(|value| credential_of(value, &name, line, outside)));
        }
    }
    rows
}

fn credential_of(
    mut value: Map<String, Value>,
    provider: &Value,
    line: usize,
    outside: &Outside<'_>,
) -> Declared {
    let written = text(&value, "api_key");
    let account = value.remove("service_account");
    let hidden = match &account {
        Some(account) => ("service_account", outside.document(account)),
        None => ("api_key", outside.digest(&written)),
    };
    // The name of a variable is no secret; a file's may be a secret in its place.
    let hint = match (&account, written.starts_with("env:")) {
        (Some(Value::String(name)), _) if name.starts_with("env:") => name.clone(),
        (Some(_), _) => "service account".to_owned(),
        (None, true) => written,
        (None, false) => hint(&written),
    };
    value.remove("api_key");
    value.insert("hint".into(), hint.into());
    value.insert("provider_name".into(), provider.clone());
    Declared { section: "credentials", line, value, hidden: Some(hidden) }
}

/// The keys of the file's tables, each as a row. Those that mean nothing are none: what stands
/// there is not known, and may be the address of a database with its password.
fn settings(root: &DeTable<'_>, line_of: &dyn Fn(usize) -> usize) -> Vec<Declared> {
    let mut rows = Vec::new();
    for (table, keys) in root.iter() {
        let table: &str = table.get_ref().as_ref();
        let is_retired =
            |key: &str| table == "global" && RETIRED.iter().any(|(retired, _)| *retired == key);
        for (key, written) in keys.get_ref().as_table().into_iter().flat_map(|keys| keys.iter()) {
            if is_retired(key.get_ref()) {
                continue;
            }
            let line = line_of(key.span().start);
            let value = json(written.get_ref());
            let name = format!("{table}.{}", key.get_ref());
            let row = [("name".to_owned(), name.into()), ("value".to_owned(), value)];
            let value = Map::from_iter(row);
            rows.push(Declared { section: SETTINGS, line, value, hidden: None });
        }
    }
    rows
}

fn take(value: &mut Map<String, Value>, key: &str) -> Vec<Map<String, Value>> {
    let Some(Value::Array(elements)) = value.remove(key) else { return Vec::new() };
    let tables = elements.into_iter().filter_map(|element| match element {
        Value::Object(table) => Some(table),
        _ => None,
    });
    tables.collect()
}

fn text(value: &Map<String, Value>, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn key_of(
    mut value: Map<String, Value>,
    user: &Value,
    environment: Environment<'_>,
) -> Map<String, Value> {
    let written = text(&value, "api_key");
    let key = match written.strip_prefix("env:") {
        Some(name) => environment(name).unwrap_or_default().trim().to_owned(),
        None => written,
    };
    let digest = Digest::parse(&key).unwrap_or_else(|| Digest::of(key.as_bytes()));
    let hint = if key.starts_with("sha256:") { String::new() } else { hint(&key) };
    value.insert("api_key".into(), digest.to_text().into());
    value.insert("hint".into(), hint.into());
    value.insert("user_name".into(), user.clone());
    value
}

/// The last characters of a secret that is long enough to spare them.
pub fn hint(secret: &str) -> String {
    let shown =
        if secret.len() >= 16 && secret.is_ascii() { &secret[secret.len() - 4..] } else { "" };
    format!("...{shown}")
}

/// A URL without what stands before its host.
fn without_user(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://***@{host}"),
        _ => url.to_owned(),
    }
}

fn json(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix());
            parsed.map_or_else(|_| Value::from(number.as_str()), Value::from)
        }
        // As text, as amounts are everywhere: a float would change them.
        DeValue::Float(number) => Value::from(number.as_str()),
        DeValue::Boolean(flag) => Value::from(*flag),
        DeValue::Datetime(time) => Value::from(time.to_string()),
        DeValue::Array(elements) => {
            elements.iter().map(|element| json(element.get_ref())).collect()
        }
        DeValue::Table(table) => {
            let entries = table.iter();
            let entries =
                entries.map(|(key, value)| (key.get_ref().to_string(), json(value.get_ref())));
            Value::Object(entries.collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_shown_as_written_without_its_secrets() {
        let text = r#"
            global = { dsn = "mysql://u:of-v1@h/d", proxy = "http://p:1" }
            users = [{ name = "a", password = "hunter2-hunter2", keys = [
                { api_key = "sk-0123456789abcdef" }, { api_key = "env:K", label = "x" } ] }]
            [[providers]]
            name = "p"
            credentials = [{ api_key = "up-0123456789abcdef", weight = 2 }, { api_key = "env:P" }]
            settings = { proxy = "http://u:secret@h:1" }
            [[quotas]]
            user_name = "a"
            quota = 1.50
        "#;
        let document = DeTable::parse(text).expect("it is TOML");
        let environment = |_: &str| Some("sk-of-the-environment".to_owned());
        let files = |_: &str| Err(std::io::ErrorKind::NotFound.into());
        let outside = Outside { environment: &environment, files: &files };
        let rows = rows(document.get_ref(), &outside, &|offset| offset);
        let sections: Vec<_> = rows.iter().map(|row| row.section).collect();
        let credentials = ["settings", "providers", "credentials", "credentials"];
        assert_eq!(sections[..4], credentials);
        assert_eq!(sections[4..], ["users", "user_keys", "user_keys", "quotas"]);
        let all: Vec<String> =
            rows.iter().map(|row| Value::from(row.value.clone()).to_string()).collect();
        let all = all.join("\n");
        for secret in ["hunter2", "sk-0123", "up-0123", "secret@", "sk-of", "of-v1"] {
            assert!(!all.contains(secret), "{secret} in {all}");
        }
        for part in
            ["...cdef", "env:P", "has_password\":true", "\"quota\":\"1.50\"", "***@h:1", "//p:1"]
        {
            assert!(all.contains(part), "{part} in {all}");
        }
        assert!(all.contains(&Digest::of(b"sk-of-the-environment").to_text()));
    }
}
