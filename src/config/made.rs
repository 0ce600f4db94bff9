//! What the database declares beside the file, in the file's own words.
//!
//! A row is an element of one of the file's arrays, as JSON with the same keys. It becomes a line
//! of TOML that is read by the same code as the file, so that one rule holds for both and a mistake
//! names its row.

use serde_json::{Map, Value};
use zeroize::Zeroize;

use super::declared;

/// The arrays that rows may belong to, in the order in which they refer to each other. The last
/// two hang on users and providers and stand on their own in the database only.
pub const SECTIONS: [&str; 9] = [
    "providers",
    "models",
    "model_aliases",
    "users",
    "user_keys",
    "permissions",
    "file_permissions",
    "rate_limits",
    "quotas",
];

/// Settings that a row may stand for: table and key. The file's own word counts before it.
pub const SETTINGS: [(&str, &str); 8] = [
    ("global", "enable_upstream_log"),
    ("global", "enable_upstream_log_body"),
    ("global", "enable_downstream_log"),
    ("global", "enable_downstream_log_body"),
    ("ledger", "usage_days"),
    ("ledger", "usage_bytes"),
    ("ledger", "log_days"),
    ("ledger", "log_bytes"),
];

/// One row.
#[derive(Clone)]
pub struct Row {
    /// One of [`SECTIONS`], or [`declared::SETTINGS`]: such a row has the `value` of its key.
    ///
    /// [`declared::SETTINGS`]: super::declared::SETTINGS
    pub section: &'static str,
    /// What people call it, for messages.
    pub label: String,
    /// Its keys, as in the file.
    pub value: Map<String, Value>,
}

/// All rows.
#[derive(Clone, Default)]
pub struct Made {
    /// In any order.
    pub rows: Vec<Row>,
}

/// The rows as a document.
pub(super) struct Text {
    pub(super) toml: String,
    /// For each line, from 1, the row that stands there.
    pub(super) rows: Vec<Option<usize>>,
}

impl Made {
    /// One row a line.
    pub(super) fn text(&self) -> Text {
        let mut text = Text { toml: String::new(), rows: vec![None] };
        for section in SECTIONS {
            text.line(&format!("{section} = ["), None);
            for (index, row) in self.rows.iter().enumerate() {
                if row.section == section {
                    let mut line = String::new();
                    write_table(&row.value, &mut line);
                    line.push(',');
                    text.line(&line, Some(index));
                    line.zeroize();
                }
            }
            text.line("]", None);
        }
        for table in ["global", "ledger"] {
            text.line(&format!("[{table}]"), None);
            for (index, row) in self.rows.iter().enumerate() {
                if let Some((_, key)) = row.setting().filter(|(of, _)| *of == table) {
                    let mut line = format!("{key} = ");
                    write_value(row.value.get("value").unwrap_or(&Value::Null), &mut line);
                    text.line(&line, Some(index));
                }
            }
        }
        text
    }
}

impl Row {
    /// The table and the key that it stands for.
    fn setting(&self) -> Option<(&'static str, &'static str)> {
        let name = self.value.get("name").and_then(Value::as_str).unwrap_or_default();
        let (table, key) = name.split_once('.').filter(|_| self.section == declared::SETTINGS)?;
        SETTINGS.into_iter().find(|known| *known == (table, key))
    }
}

/// Credentials stand in both in clear.
impl Drop for Text {
    fn drop(&mut self) {
        self.toml.zeroize();
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        self.value.values_mut().for_each(wipe);
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(elements) => elements.iter_mut().for_each(wipe),
        Value::Object(table) => table.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

impl Text {
    fn line(&mut self, line: &str, row: Option<usize>) {
        self.toml.push_str(line);
        self.toml.push('\n');
        self.rows.push(row);
    }
}

fn write_table(table: &Map<String, Value>, out: &mut String) {
    out.push('{');
    // An absent value is the default.
    let written = table.iter().filter(|(_, value)| !value.is_null());
    for (index, (key, value)) in written.enumerate() {
        out.push_str(if index == 0 { " " } else { ", " });
        write_text(key, out);
        out.push_str(" = ");
        write_value(value, out);
    }
    out.push_str(" }");
}

fn write_value(value: &Value, out: &mut String) {
    match value {
        Value::Object(table) => write_table(table, out),
        Value::Array(elements) => {
            out.push('[');
            for (index, element) in elements.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                write_value(element, out);
            }
            out.push(']');
        }
        Value::String(text) => write_text(text, out),
        // TOML has no null; inside an array it is nothing that a key could want.
        Value::Null => out.push_str("{}"),
        Value::Bool(_) | Value::Number(_) => out.push_str(&value.to_string()),
    }
}

/// A JSON string is a TOML string, but for one character.
fn write_text(text: &str, out: &mut String) {
    out.push_str(&Value::from(text).to_string().replace('\u{7f}', "\\u007F"));
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use toml::de::{DeTable, DeValue};

    use super::*;

    #[test]
    fn no_text_of_a_row_outlives_it() {
        let mut value = json!({ "a": "s", "b": [{ "c": ["s", 1] }, "s"], "d": { "e": "s" } });
        wipe(&mut value);
        assert_eq!(value, json!({ "a": "", "b": [{ "c": ["", 1] }, ""], "d": { "e": "" } }));
    }

    #[test]
    fn a_row_is_a_line_that_reads_back_as_it_was() {
        let texts = ["plain", "\"\\\u{7f}\u{0}\n\r\t\u{1f}", "ü€😀", "]}#,", ""];
        for text in texts {
            let value = json!({ "name": text, "none": null, "list": [1, true, { "a b": -2.5 }] });
            let Value::Object(value) = value else { panic!("it is an object") };
            let row = |section| Row { section, label: String::new(), value: value.clone() };
            let made = Made { rows: vec![row("users"), row("providers"), row("users")] };
            let text_of = made.text();
            assert_eq!(text_of.toml.lines().count() + 1, text_of.rows.len(), "{text:?}");
            let found: Vec<_> = text_of.rows.iter().flatten().copied().collect();
            assert_eq!(found, [1, 0, 2], "{text:?}");
            let read = DeTable::parse(&text_of.toml).expect(text);
            let users = read.get_ref()["users"].get_ref().as_array().expect("an array");
            let user = users[1].get_ref().as_table().expect("a table");
            assert_eq!(user["name"].get_ref().as_str(), Some(text));
            assert!(!user.contains_key("none"));
            assert!(matches!(user["list"].get_ref(), DeValue::Array(list) if list.len() == 3));
        }
    }
}
