//! What a file says otherwise than the one before it: rows that came, that went, that changed.
//!
//! Values are told as they are written, but for secrets: of those it is said that they changed.
//! A file may change in every line, so what is told has a bound, and the rest is counted.

use std::collections::{HashMap, VecDeque};

use serde_json::{Map, Value, json};

use super::Call;
use super::kind;
use crate::config::declared::{Declared, SETTINGS};
use crate::limits;

/// A value that is longer is cut.
const VALUE_CHARS: usize = 120;
/// Fields of one row that are told.
const FIELDS_MAX: usize = 16;
/// Fields that say again what another one says.
const SHOWN_ONLY: [&str; 3] = ["api_key", "has_password", "hint"];
/// In this order it is told.
const ORDER: [&str; 11] = [
    SETTINGS,
    "providers",
    "credentials",
    "models",
    "model_aliases",
    "users",
    "user_keys",
    "permissions",
    "file_permissions",
    "rate_limits",
    "quotas",
];

/// All that differs.
#[derive(Default)]
pub(super) struct Difference {
    /// The first ones.
    rows: Vec<Row>,
    /// How many there are.
    pub(super) count: usize,
}

/// One row that differs.
struct Row {
    action: &'static str,
    section: &'static str,
    id: String,
    /// For people, where the name says nothing to them.
    label: String,
    /// Where it stands, or stood.
    line: usize,
    fields: Vec<Field>,
}

/// A field that differs; without its values it is a secret.
struct Field {
    name: String,
    values: Option<(Value, Value)>,
}

/// A row of a file and its name.
struct Named<'d> {
    id: String,
    row: &'d Declared,
}

/// What `new` says otherwise than `old`.
pub(super) fn between(old: &[Declared], new: &[Declared]) -> Difference {
    let (old, new) = (named(old), named(new));
    let mut rows = Vec::new();
    for pair in pairs(&old, &new) {
        rows.extend(match pair {
            (Some(old), Some(new)) => changed(old, new),
            (Some(old), None) => Some(row("removed", old, own_value(old, false))),
            (None, Some(new)) => Some(row("added", new, own_value(new, true))),
            (None, None) => None,
        });
    }
    let place = |row: &Row| ORDER.iter().position(|section| *section == row.section);
    rows.sort_by(|one, other| (place(one), &one.id).cmp(&(place(other), &other.id)));
    let count = rows.len();
    rows.truncate(limits::DIFFERENCE_ROWS_MAX);
    Difference { rows, count }
}

/// The rows with their names. A provider's credentials are numbered.
fn named(declared: &[Declared]) -> Vec<Named<'_>> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let mut name = |row| -> Named<'_> {
        let Declared { section, value, .. }: &Declared = row;
        let id = match *section {
            "credentials" => {
                let provider = Call::text(value, "provider_name").unwrap_or_default();
                let count = counts.entry(provider).or_default();
                *count += 1;
                format!("{provider}:{count}")
            }
            SETTINGS => Call::text(value, "name").unwrap_or_default().to_owned(),
            section => kind::named(section).map_or_else(String::new, |kind| kind.id(value)),
        };
        Named { id, row }
    };
    declared.iter().map(&mut name).collect()
}

type Pair<'p, 'd> = (Option<&'p Named<'d>>, Option<&'p Named<'d>>);

/// Which row has become which. Credentials are the same while their secret is, wherever they
/// stand; what is left of them is compared by number.
fn pairs<'p, 'd>(old: &'p [Named<'d>], new: &'p [Named<'d>]) -> Vec<Pair<'p, 'd>> {
    let by_secret = |named: &Named<'_>| match (named.row.section, named.row.hidden) {
        ("credentials", Some((_, digest))) => {
            let provider = Call::text(&named.row.value, "provider_name").unwrap_or_default();
            format!("{provider}:{}", digest.to_text())
        }
        _ => named.id.clone(),
    };
    let mut all = Vec::new();
    let (old, new) = take_pairs(old.iter().collect(), new.iter().collect(), &by_secret, &mut all);
    let by_name = |named: &Named<'_>| named.id.clone();
    let (old, new) = take_pairs(old, new, &by_name, &mut all);
    all.extend(old.into_iter().map(|old| (Some(old), None)));
    all.extend(new.into_iter().map(|new| (None, Some(new))));
    all
}

/// Moves those of one key to `all`, each once, in their order; what is left on either side.
fn take_pairs<'p, 'd>(
    old: Vec<&'p Named<'d>>,
    new: Vec<&'p Named<'d>>,
    key: &dyn Fn(&Named<'_>) -> String,
    all: &mut Vec<Pair<'p, 'd>>,
) -> (Vec<&'p Named<'d>>, Vec<&'p Named<'d>>) {
    let mut known: HashMap<(&str, String), VecDeque<usize>> = HashMap::new();
    for (at, named) in old.iter().enumerate() {
        known.entry((named.row.section, key(named))).or_default().push_back(at);
    }
    let mut is_left = vec![true; old.len()];
    let mut rest = Vec::new();
    for named in new {
        let found = known.get_mut(&(named.row.section, key(named))).and_then(VecDeque::pop_front);
        match found {
            Some(at) => {
                is_left[at] = false;
                all.push((Some(old[at]), Some(named)));
            }
            None => rest.push(named),
        }
    }
    let old = old.into_iter().zip(is_left).filter(|(_, is_left)| *is_left);
    (old.map(|(named, _)| named).collect(), rest)
}

fn row(action: &'static str, named: &Named<'_>, fields: Vec<Field>) -> Row {
    let Declared { section, line, value, .. } = named.row;
    let text = |name| Call::text(value, name).unwrap_or_default();
    let label = match *section {
        "user_keys" => [text("label"), "of", text("user_name")].join(" ").trim().to_owned(),
        _ => String::new(),
    };
    Row { action, section, id: named.id.clone(), label, line: *line, fields }
}

/// What a setting that came or went is or was; of other rows the name says enough.
fn own_value(named: &Named<'_>, is_added: bool) -> Vec<Field> {
    if named.row.section != SETTINGS {
        return Vec::new();
    }
    let value = named.row.value.get("value").cloned().unwrap_or_default();
    let values = if is_added { (Value::Null, value) } else { (value, Value::Null) };
    vec![Field { name: "value".to_owned(), values: Some(values) }]
}

/// The fields that differ, if any does.
fn changed(old: &Named<'_>, new: &Named<'_>) -> Option<Row> {
    let (before, after) = (flat(&old.row.value), flat(&new.row.value));
    let mut names: Vec<&str> = before.iter().chain(&after).map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let of = |fields: &[(String, Value)], name: &str| {
        let found = fields.iter().find(|(known, _)| known == name);
        found.map_or(Value::Null, |(_, value)| value.clone())
    };
    let mut fields = Vec::new();
    for name in names.into_iter().filter(|name| !SHOWN_ONLY.contains(name)) {
        let (before, after) = (of(&before, name), of(&after, name));
        if before != after {
            fields.push(Field { name: name.to_owned(), values: Some((before, after)) });
        }
    }
    let digest = |named: &Named<'_>| named.row.hidden.map(|(_, digest)| digest);
    let hidden = new.row.hidden.or(old.row.hidden);
    if let (Some((name, _)), true) = (hidden, digest(old) != digest(new)) {
        fields.push(Field { name: name.to_owned(), values: None });
    }
    (!fields.is_empty()).then(|| row("changed", new, fields))
}

/// The fields of a row, those of an object within with its name before them.
fn flat(value: &Map<String, Value>) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for (name, value) in value {
        match value {
            Value::Object(within) => {
                let within = flat(within).into_iter();
                all.extend(within.map(|(inner, value)| (format!("{name}.{inner}"), value)));
            }
            value => all.push((name.clone(), value.clone())),
        }
    }
    all
}

/// A value that is not endless; `null`: nothing is written there.
fn short(value: &Value) -> Value {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Array(_) => value.to_string(),
        value => return value.clone(),
    };
    match text.char_indices().nth(VALUE_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]).into(),
        None => value.clone(),
    }
}

impl Difference {
    /// For programs.
    pub(super) fn json(&self) -> Value {
        self.rows.iter().map(Row::json).collect()
    }

    /// The schema of that.
    pub(super) fn schema() -> Value {
        let field = json!({
            "type": "object", "required": ["field"],
            "properties": {
                "field": { "type": "string" },
                "before": { "description": "As it was written; not told of a secret." },
                "after": { "description": "As it is written; not told of a secret." }
            }
        });
        json!({ "type": "array", "items": {
            "type": "object", "required": ["action", "section", "id", "line", "fields", "says"],
            "properties": {
                "action": { "type": "string", "enum": ["added", "removed", "changed"] },
                "section": { "type": "string", "enum": ORDER },
                "id": { "type": "string", "description": "Its name in the section." },
                "line": { "type": "integer", "description": "Where it stands, or stood." },
                "fields": { "type": "array", "items": field },
                "says": { "type": "string", "description": "All of it in a line." }
            }
        } })
    }

    /// For the log, a row a line.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.rows.iter().map(Row::line).collect();
        if self.count > self.rows.len() {
            lines.push(format!("and {} more", self.count - self.rows.len()));
        }
        lines
    }
}

impl Row {
    fn json(&self) -> Value {
        let field = |field: &Field| match &field.values {
            Some((before, after)) => json!({
                "field": field.name, "before": short(before), "after": short(after)
            }),
            None => json!({ "field": field.name }),
        };
        let fields: Vec<Value> = self.fields.iter().take(FIELDS_MAX).map(field).collect();
        json!({
            "action": self.action, "section": self.section, "id": self.id, "line": self.line,
            "fields": fields, "says": self.line()
        })
    }

    fn line(&self) -> String {
        let one = kind::named(self.section).map_or("setting", |kind| kind.one);
        let id = self.id.escape_debug();
        let label = match self.label.as_str() {
            "" => String::new(),
            label => format!(" ({})", label.escape_debug()),
        };
        let mut line = format!("{} {one} {id}{label}, line {}", self.action, self.line);
        let told = |value: &Value| match value {
            Value::Null => "unset".to_owned(),
            value => short(value).to_string(),
        };
        for (at, field) in self.fields.iter().take(FIELDS_MAX).enumerate() {
            line.push_str(if at == 0 { ": " } else { ", " });
            let name = field.name.escape_debug();
            line.push_str(&match &field.values {
                Some((before, after)) => format!("{name} {} -> {}", told(before), told(after)),
                None => format!("{name}"),
            });
        }
        match self.fields.len().checked_sub(FIELDS_MAX) {
            Some(more @ 1..) => line + &format!(", and {more} more"),
            _ => line,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn declared(text: &str) -> Vec<Declared> {
        let environment = |name: &str| (name == "NAME").then(|| "up-of-NAME-0123456789".into());
        match config::load(text, "f", &environment) {
            Ok(loaded) => loaded.declared,
            Err(errors) => panic!("{errors:?}"),
        }
    }

    const FILE: &str = r#"
        limits = { connections_max = 100 }
        global = { proxy = "http://proxy:1" }
        [[providers]]
        name = "p"
        channel = "openai"
        credentials = [{ api_key = "up-first-secret-1111" }, { api_key = "up-second-secret-22" }]
        [[providers]]
        name = "q"
        channel = "echo"
        [[models]]
        provider_name = "p"
        model_id = "m"
        price_each_call = "0.40"
        [[users]]
        name = "alice"
        password = "a-long-password"
        [[users.keys]]
        api_key = "sk-first-secret-3333"
        label = "laptop"
        [[permissions]]
        user_name = "alice"
        model_pattern = "*"
    "#;

    #[track_caller]
    fn check(edits: &[(&str, &str)], expected: &[&str]) {
        let mut text = FILE.to_owned();
        for (old, new) in edits {
            assert!(text.contains(old), "{old}");
            text = text.replacen(old, new, 1);
        }
        let difference = between(&declared(FILE), &declared(&text));
        let lines = difference.lines();
        assert_eq!(lines.len(), expected.len(), "{lines:?}");
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.starts_with(expected), "{expected} in {lines:?}");
        }
        let told = difference.json().to_string() + &lines.join("\n");
        assert!(!told.contains("secret") && !told.contains("password\":\"a"), "{told}");
        let rows = difference.json().as_array().map_or(0, Vec::len);
        assert_eq!((difference.count, rows), (expected.len(), expected.len()));
    }

    #[test]
    fn nothing_differs_where_only_lines_moved() {
        check(&[], &[]);
        check(&[("[[users]]", "\n\n[[users]]")], &[]);
    }

    #[test]
    fn a_field_is_told_with_both_values_and_a_secret_without() {
        check(
            &[("\"0.40\"", "\"0.50\"")],
            &["changed model p:m, line 11: price_each_call \"0.40\" -> \"0.50\""],
        );
        check(&[("up-second", "up-third")], &["changed credential p:2, line 4: api_key"]);
        check(&[("a-long", "another-long")], &["changed user alice, line 15: password"]);
        let proxy = "changed setting global.proxy, line 3: value \"http://proxy:1\" -> ";
        check(&[("proxy:1", "proxy:2")], &[proxy]);
        let setting = "changed setting limits.connections_max, line 2: value 100 -> 200";
        check(&[("100", "200")], &[setting]);
        let added = "added setting limits.in_flight_max, line 2: value unset -> 7";
        check(&[("= 100 }", "= 100, in_flight_max = 7 }")], &[added]);
    }

    #[test]
    fn a_key_is_known_by_its_digest_and_a_credential_by_its_secret_wherever_it_stands() {
        let lines = ["added user key ", "removed user key "];
        let mut text = FILE.replacen("sk-first-secret", "sk-other-secret", 1);
        let rows = between(&declared(FILE), &declared(&text)).lines();
        for line in lines {
            let found = rows.iter().find(|row| row.starts_with(line)).expect(line);
            assert!(found.contains("(laptop of alice), line 15"), "{found}");
        }
        let first = "{ api_key = \"up-first-secret-1111\" }, ";
        check(&[(first, "")], &["removed credential p:1, line 4"]);
        let weight = "{ weight = 2, api_key = \"up-second";
        check(
            &[(first, ""), ("{ api_key = \"up-second", weight)],
            &[
                "changed credential p:1, line 4: weight unset -> 2",
                "removed credential p:1, line 4",
            ],
        );
        text = FILE.replacen("up-first-secret-1111", "env:NAME", 1);
        let rows = between(&declared(FILE), &declared(&text)).lines();
        assert_eq!(rows, ["changed credential p:1, line 4: api_key"]);
    }

    #[test]
    fn what_came_and_what_went_is_told_in_the_order_of_the_sections() {
        check(
            &[
                ("name = \"alice\"", "name = \"bob\""),
                ("user_name = \"alice\"", "user_name = \"bob\""),
            ],
            &[
                "removed user alice, line 15",
                "added user bob, line 15",
                "changed user key ",
                "removed permission alice::*",
                "added permission bob::*",
            ],
        );
    }

    #[test]
    fn many_rows_are_counted_and_a_long_value_is_cut() {
        let user = |number: usize| format!("[[users]]\nname = \"u{number}\"\n");
        let many = limits::DIFFERENCE_ROWS_MAX + 5;
        let text: String = (0..many).map(user).collect();
        let difference = between(&[], &declared(&text));
        assert_eq!(difference.count, many);
        assert_eq!(difference.json().as_array().map(Vec::len), Some(limits::DIFFERENCE_ROWS_MAX));
        assert_eq!(difference.lines().last().map(String::as_str), Some("and 5 more"));

        let label = |letter: &str| {
            let label = letter.repeat(250);
            format!("[[providers]]\nname = \"p\"\nchannel = \"echo\"\nlabel = \"{label}\"\n")
        };
        let difference = between(&declared(&label("a")), &declared(&label("b")));
        let line = difference.lines().join("\n");
        assert!(line.len() < 400 && line.contains(&format!("{}...", "b".repeat(120))), "{line}");
    }
}
