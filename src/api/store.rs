//! The rows that were made here, beside those that the file declares.

use serde_json::{Map, Value};

use super::answer::Fault;
use super::kind::{self, Is};
use super::seal::{self, Sealer};
use crate::config::declared::Declared;
use crate::config::made::{Made, Row};
use crate::ledger::entities::{Entity, TopUp};

/// One row that was made here.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) section: &'static str,
    pub(super) id: String,
    pub(super) value: Map<String, Value>,
    pub(super) made_ms: i64,
    pub(super) changed_ms: i64,
}

/// What the tables are built from.
pub(super) struct State {
    /// The file, as it was last read without mistakes.
    pub(super) text: String,
    pub(super) declared: Vec<Declared>,
    pub(super) kept: Vec<Kept>,
    pub(super) top_ups: Vec<TopUp>,
}

impl Kept {
    /// A row of the database; `None`: it is no object, which nobody writes.
    pub(super) fn read(entity: &Entity) -> Option<Kept> {
        let Entity { section, id, body, made_ms, changed_ms } = entity;
        let value = serde_json::from_str(body).ok()?;
        let (made_ms, changed_ms) = (*made_ms, *changed_ms);
        Some(Kept { section, id: id.clone(), value, made_ms, changed_ms })
    }

    fn text(&self, name: &str) -> &str {
        self.value.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether it would mean nothing without that row.
    pub(super) fn hangs_on(&self, section: &str, id: &str) -> bool {
        match section {
            "users" => self.text("user_name") == id,
            "providers" => self.text("provider_name") == id,
            _ => false,
        }
    }
}

impl State {
    pub(super) fn made(&self, sealer: Option<&Sealer>) -> Result<Made, Fault> {
        made(&self.kept, sealer)
    }
}

/// Where a row stands among [`made`]'s; a credential stands in its provider's.
pub(super) fn place_of(kept: &[Kept], section: &str, id: &str) -> Option<usize> {
    let provider = |row: &&Kept| row.section == section && row.id == id;
    let (section, id) = match section {
        "credentials" => ("providers", kept.iter().find(provider)?.text("provider_name")),
        _ => (section, id),
    };
    let mut rows = kept.iter().filter(|row| row.section != "credentials");
    rows.position(|row| row.section == section && row.id == id)
}

/// The rows in the configuration's words, secrets opened.
pub(super) fn made(kept: &[Kept], sealer: Option<&Sealer>) -> Result<Made, Fault> {
    let mut made = Made::default();
    for row in kept.iter().filter(|row| row.section != "credentials") {
        let mut value = row.value.clone();
        let kind = kind::named(row.section);
        value.retain(|name, _| {
            let field = kind.and_then(|kind| kind.field(name));
            field.is_none_or(|field| field.is != Is::Shown)
        });
        if row.section == "providers" {
            value.insert("credentials".into(), credentials(kept, &row.id, sealer)?);
        }
        let label = format!("{} {}", kind.map_or("", |kind| kind.one), row.id);
        made.rows.push(Row { section: row.section, label, value });
    }
    Ok(made)
}

fn credentials(kept: &[Kept], provider: &str, sealer: Option<&Sealer>) -> Result<Value, Fault> {
    let own = kept
        .iter()
        .filter(|row| row.section == "credentials" && row.text("provider_name") == provider);
    let mut all = Vec::new();
    for row in own {
        let key = seal::reveal(sealer, row.text("api_key"), &row.id).ok_or_else(|| {
            Fault::new(503, "a credential in the database was sealed with another master key")
        })?;
        let mut value = Map::new();
        value.insert("api_key".into(), key.into());
        if let Some(weight) = row.value.get("weight") {
            value.insert("weight".into(), weight.clone());
        }
        all.push(Value::Object(value));
    }
    Ok(Value::Array(all))
}
