//! The settings in force and who says so: the file, a flag, the database, or nobody.
//!
//! What the file declares changes in the file. The switches of the logs and how long what is kept
//! may be set here where the file says nothing of them.

use serde_json::{Map, Value, json};

use super::answer::{Answer, Fault};
use super::route::Route;
use super::store::Kept;
use super::{Call, entities};
use crate::config::declared::{Declared, SETTINGS};
use crate::config::made;
use crate::ledger::entities::{Change, Edit, Record};
use crate::route::fence::Fence;
use crate::route::snapshot::{Retention, Snapshot, Timeouts};

/// As the file says it that there is no proxy.
const DIRECT: &str = "direct";
const GIB: u64 = 1024 * 1024 * 1024;

/// Settings that may be set here: table, key, the most that a number may be, and what it does.
const WRITABLE: [(&str, &str, Option<u64>, &str); 8] = [
    ("global", "enable_upstream_log", None, "Attempts at upstreams are logged."),
    ("global", "enable_upstream_log_body", None, "With their bodies."),
    ("global", "enable_downstream_log", None, "Requests of callers are logged."),
    ("global", "enable_downstream_log_body", None, "With their bodies."),
    ("ledger", "usage_days", Some(36_500), "Older rows of the books go; 0: never."),
    ("ledger", "usage_bytes", Some(1024 * GIB), "The oldest rows go past so many; 0: never."),
    ("ledger", "log_days", Some(36_500), "Older logged requests go; 0: never."),
    ("ledger", "log_bytes", Some(1024 * GIB), "The oldest go past so many; 0: never."),
];

/// Settings that are fixed for the life of the process.
const OF_THE_START: [&str; 5] =
    ["global.host", "global.port", "global.workers", "global.data_dir", "ledger.synchronous"];

pub(super) fn routes() -> Vec<Route> {
    let item = json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "description": "Its table in the file, and its key." },
            "value": { "description": "In force." },
            "from": {
                "type": "string", "enum": ["file", "database", "default", "flag"],
                "description": "Who says so."
            },
            "line": { "type": "integer", "description": "In the file." },
            "by": { "type": "string", "description": "The flag or the variable." },
            "writable": { "type": "boolean", "description": "May be set here." },
            "needs_restart": { "type": "boolean", "description": "A change counts after one." },
            "says": { "type": "string", "description": "What it does." }
        },
        "required": ["name", "value", "from", "writable", "needs_restart"]
    });
    let shown = json!({
        "type": "object", "required": ["items", "seals_secrets"],
        "properties": {
            "items": { "type": "array", "items": item },
            "seals_secrets": { "type": "boolean", "description": "There is a master key." }
        }
    });
    let mut asked = Map::new();
    for (_, key, most, says) in WRITABLE {
        let schema = match most {
            Some(most) => json!({ "type": "integer", "minimum": 0, "maximum": most }),
            None => json!({ "type": "boolean" }),
        };
        let either = json!({ "anyOf": [schema, { "type": "null" }], "description": says });
        asked.insert(key.to_owned(), either);
    }
    let asked = json!({
        "type": "object", "properties": asked, "additionalProperties": false
    });
    let path = "/admin/api/settings";
    let says = "The settings in force, and who says so.";
    let changes = "Sets what the file says nothing of; null takes a setting back to its default.";
    vec![
        Route::new("GET", path, "settings", says, show).answers(200, shown.clone()),
        Route::new("PATCH", path, "change_settings", changes, change)
            .takes(asked)
            .answers(200, shown),
    ]
}

fn show(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    Ok(told(call))
}

fn told(call: &Call<'_>) -> Answer {
    let seals_secrets = call.api.sealer.is_some();
    Answer::ok(json!({ "items": items(call), "seals_secrets": seals_secrets }))
}

fn items(call: &Call<'_>) -> Vec<Value> {
    let snapshot = call.api.core.snapshot();
    let state = call.api.state.lock();
    let declared: Vec<&Declared> =
        state.declared.iter().filter(|row| row.section == SETTINGS).collect();
    let overridden = call.api.source.overridden();
    let item = |name: String, value: Value| {
        let line = declared.iter().find(|row| Call::text(&row.value, "name") == Some(&name));
        let line = line.map(|row| row.line);
        let by = overridden.iter().find(|(known, _)| *known == name).map(|(_, by)| *by);
        let is_kept = state.kept.iter().any(|row| row.section == SETTINGS && row.id == name);
        let says = WRITABLE.into_iter().find(|(table, key, ..)| is_named(&name, table, key));
        let from = match (by, line) {
            (Some(_), _) => "flag",
            (None, Some(_)) => "file",
            (None, None) if is_kept => "database",
            (None, None) => "default",
        };
        let mut item = json!({
            "name": name, "value": value, "from": from,
            "writable": says.is_some() && line.is_none(),
            "needs_restart": OF_THE_START.contains(&name.as_str())
        });
        let more = [
            ("line", line.map(Value::from)),
            ("by", by.map(Value::from)),
            ("says", says.map(|(.., says)| Value::from(says))),
        ];
        for (name, value) in more {
            if let Some(value) = value {
                item[name] = value;
            }
        }
        item
    };
    let in_force = in_force(call, &snapshot).into_iter().flat_map(|(table, keys)| {
        let keys = keys.as_object().cloned().unwrap_or_default().into_iter();
        keys.map(move |(key, value)| (format!("{table}.{key}"), value))
    });
    in_force.map(|(name, value)| item(name, value)).collect()
}

fn is_named(name: &str, table: &str, key: &str) -> bool {
    name.split_once('.') == Some((table, key))
}

/// The values that are in force, by table: every key of the file that is no array's, whoever says
/// something of it.
fn in_force(call: &Call<'_>, snapshot: &Snapshot) -> [(&'static str, Value); 5] {
    let (settings, logging) = (&call.api.settings, &snapshot.logging);
    let (limits, billing) = (&snapshot.limits, &snapshot.billing);
    let networks = snapshot.trusted_proxies.iter();
    let networks = networks.map(|network| format!("{}/{}", network.address, network.bits));
    let Retention { usage_days, usage_bytes, log_days, log_bytes } = snapshot.retention;
    let global = json!({
        "host": settings.host.to_string(), "port": settings.port, "workers": settings.workers,
        "data_dir": settings.data_dir, "proxy": snapshot.proxy.as_deref().unwrap_or(DIRECT),
        "enable_usage": logging.enable_usage,
        "enable_upstream_log": logging.enable_upstream_log,
        "enable_upstream_log_body": logging.enable_upstream_log_body,
        "enable_downstream_log": logging.enable_downstream_log,
        "enable_downstream_log_body": logging.enable_downstream_log_body,
        "receipts": billing.receipts, "stream_receipts": billing.stream_receipts,
        "quota_ends_streams": billing.quota_ends_streams, "list_prices": billing.list_prices,
        "metrics_open": snapshot.metrics_open,
        "allow_private_upstreams": snapshot.made_fence == Fence::Local,
        "cors_origins": snapshot.cors_origins, "trusted_proxies": networks.collect::<Vec<_>>(),
        "extra_ca_file": snapshot.extra_ca_file
    });
    let limits = json!({
        "head_bytes_max": limits.head_bytes_max, "body_bytes_max": limits.body_bytes_max,
        "upload_bytes_max": limits.upload_bytes_max, "held_bytes_max": limits.held_bytes_max,
        "event_bytes_max": limits.event_bytes_max, "connections_max": limits.connections_max,
        "in_flight_max": limits.in_flight_max, "attempts_max": limits.attempts_max,
        "recorder_bytes": limits.recorder_bytes, "key_guesses_max": limits.key_guesses_max
    });
    let ledger = json!({
        "unbilled": logging.unbilled(),
        "unmetered": if logging.serve_unmetered { "serve" } else { "refuse" },
        "synchronous": if settings.synchronous_full { "full" } else { "normal" },
        "usage_days": usage_days, "usage_bytes": usage_bytes, "log_days": log_days,
        "log_bytes": log_bytes
    });
    let (timeouts, tls) = (timeouts(snapshot), tls(snapshot));
    [
        ("global", global),
        ("ledger", ledger),
        ("limits", limits),
        ("timeouts", timeouts),
        ("tls", tls),
    ]
}

fn timeouts(snapshot: &Snapshot) -> Value {
    let Timeouts { resolve_ms, connect_ms, tls_ms, first_byte_ms, between_bytes_ms, total_ms } =
        snapshot.timeouts;
    json!({
        "resolve_ms": resolve_ms, "connect_ms": connect_ms, "tls_ms": tls_ms,
        "first_byte_ms": first_byte_ms, "between_bytes_ms": between_bytes_ms,
        "total_ms": total_ms, "drain_ms": snapshot.drain_ms
    })
}

/// Names of files; `null`: there is none.
fn tls(snapshot: &Snapshot) -> Value {
    let tls = snapshot.tls.as_ref();
    json!({
        "certificate_file": tls.map(|tls| tls.certificate_file.as_str()),
        "key_file": tls.map(|tls| tls.key_file.as_str()),
        "client_ca_file": tls.and_then(|tls| tls.client_ca_file.as_deref())
    })
}

fn change(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    let now_ms = call.api.core.unix_ms();
    let mut state = call.api.state.lock();
    let mut kept = state.kept.clone();
    let (mut edits, mut names) = (Vec::new(), Vec::new());
    let (mut before, mut after) = (Map::new(), Map::new());
    for (key, value) in &call.body {
        let found = made::SETTINGS.into_iter().find(|(_, known)| known == key);
        let (table, _) = found.ok_or_else(Fault::not_found)?;
        let name = format!("{table}.{key}");
        let is_it = |row: &&Declared| {
            row.section == SETTINGS && Call::text(&row.value, "name") == Some(name.as_str())
        };
        // What the database says in vain may be taken back.
        if let Some(row) = state.declared.iter().find(is_it).filter(|_| !value.is_null()) {
            let why = format!("the file declares this on line {}: change it there", row.line);
            let field = Some(key.clone());
            return Err(Fault { code: "declared", field, ..Fault::new(409, why) });
        }
        let was = kept.iter().position(|row| row.section == SETTINGS && row.id == name);
        let made_ms = was.map_or(now_ms, |at| kept[at].made_ms);
        if let Some(at) = was {
            let old = kept.remove(at).value.remove("value");
            before.insert(key.clone(), old.unwrap_or_default());
        }
        match value {
            Value::Null if was.is_none() => continue,
            Value::Null => edits.push(Edit::Delete { section: SETTINGS, id: name.clone() }),
            value => {
                let row = [("name", Value::from(name.as_str())), ("value", value.clone())];
                let row = row.map(|(name, value)| (name.to_owned(), value));
                let row = Map::from_iter(row);
                edits.push(super::store::put(SETTINGS, &name, &row));
                let id = name.clone();
                kept.push(Kept { section: SETTINGS, id, value: row, made_ms, changed_ms: now_ms });
                after.insert(key.clone(), value.clone());
            }
        }
        names.push(name);
    }
    if !edits.is_empty() {
        let text = |map: Map<String, Value>| Some(Value::from(map).to_string());
        let record = Record {
            at_ms: now_ms,
            before: text(before),
            after: text(after),
            ..entities::record(call, "change", (SETTINGS, &names.join(", ")))
        };
        let about = names.last().map(|name| (SETTINGS, name.as_str()));
        entities::commit(
            call.api,
            &mut state,
            kept,
            Change { edits, records: vec![record] },
            about,
        )?;
    }
    drop(state);
    Ok(told(call))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_set_here_is_what_the_database_may_say() {
        let writable = WRITABLE.map(|(table, key, ..)| (table, key));
        assert_eq!(writable, made::SETTINGS);
    }
}
