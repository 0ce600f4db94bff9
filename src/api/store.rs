//! The rows that were made here, beside those that the file declares.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::answer::Fault;
use super::kind::{self, Is};
use super::seal::{self, Sealer};
use crate::config::declared::Declared;
use crate::config::made::{Made, Row};
use crate::config::{Loaded, Named};
use crate::ledger::accounts::Accounts;
use crate::ledger::entities::{Change, Edit, Entity, Record, TopUp};
use crate::secret::Secret;

/// What a credential presents, or signs with: kept as text, and sealed where there is a master key.
pub(super) const SECRETS: [&str; 2] = ["api_key", ACCOUNT];
/// The one that is an object.
pub(super) const ACCOUNT: &str = "service_account";

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
    pub(super) text: Secret,
    /// The files that it names, as they were then: a change of something else reads none of them.
    pub(super) named: Named,
    pub(super) declared: Vec<Declared>,
    pub(super) kept: Vec<Kept>,
    /// Rows of the database that have no effect.
    pub(super) idle: usize,
    pub(super) top_ups: Vec<TopUp>,
    /// Users whose earlier spending was counted, or is none.
    pub(super) seen: HashSet<String>,
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

/// Users that are seen for the first time, and what they had spent elsewhere, in picodollars.
pub(super) struct Unseen(Vec<(String, i64)>);

impl Unseen {
    pub(super) fn edits(&self) -> impl Iterator<Item = Edit> {
        self.0
            .iter()
            .map(|(user, cost_used)| Edit::FirstSeen { user: user.clone(), cost_used: *cost_used })
    }

    /// The change that writes them alone; `None`: there are none.
    pub(super) fn change(&self, at_ms: i64) -> Option<Change> {
        let entity = match &self.0[..] {
            [] => return None,
            [(user, _)] => user,
            _ => "all",
        };
        let record = Record::new(at_ms, "", "first_seen", ("users", entity));
        Some(Change { edits: self.edits().collect(), records: vec![record] })
    }
}

/// What keeps a row.
pub(super) fn put(section: &'static str, id: &str, value: &Map<String, Value>) -> Edit {
    let body = Value::from(value.clone()).to_string();
    Edit::Put { section, id: id.to_owned(), body }
}

impl State {
    /// Who is seen for the first time: users of the file, and others that have a quota now.
    pub(super) fn unseen(&self, loaded: &Loaded) -> Unseen {
        let declared = loaded.declared.iter().filter(|row| row.section == "users");
        let declared: HashSet<&str> =
            declared.filter_map(|row| row.value.get("name")?.as_str()).collect();
        let users = loaded.snapshot.users.iter().filter(|user| {
            let counts = !user.quotas.is_empty() || declared.contains(user.name.as_str());
            counts && !self.seen.contains(&user.name)
        });
        Unseen(users.map(|user| (user.name.clone(), user.cost_used)).collect())
    }

    /// They were written: what they had spent counts from now on.
    pub(super) fn see(&mut self, unseen: Unseen, accounts: &Accounts) {
        for (user, cost_used) in unseen.0 {
            if cost_used > 0 {
                accounts.spend(user.clone(), 0, cost_used);
            }
            self.seen.insert(user);
        }
    }

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
        let label = format!("{} {}", kind.map_or("setting", |kind| kind.one), row.id);
        made.rows.push(Row { section: row.section, label, value });
    }
    Ok(made)
}

fn credentials(kept: &[Kept], provider: &str, sealer: Option<&Sealer>) -> Result<Value, Fault> {
    let own = kept
        .iter()
        .filter(|row| row.section == "credentials" && row.text("provider_name") == provider);
    let kind = kind::named("credentials");
    let mut all = Vec::new();
    for row in own {
        let mut value = Map::new();
        for name in SECRETS.into_iter().filter(|name| row.value.contains_key(*name)) {
            let secret = seal::reveal(sealer, row.text(name), &row.id).ok_or_else(|| {
                Fault::new(503, "a credential in the database was sealed with another master key")
            })?;
            let secret = match name {
                ACCOUNT => serde_json::from_str(secret.expose()).unwrap_or_default(),
                _ => Value::from(secret.expose()),
            };
            value.insert(name.into(), secret);
        }
        // Which provider has it and what it ends in is no part of it.
        let known = kind.into_iter().flat_map(|kind| kind.fields);
        for field in known.filter(|field| field.is == Is::Optional) {
            if let Some(told) = row.value.get(field.name) {
                value.insert(field.name.to_owned(), told.clone());
            }
        }
        all.push(Value::Object(value));
    }
    Ok(Value::Array(all))
}
