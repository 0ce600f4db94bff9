//! Whether the books are written, how credentials stand, and what an administrator does about the
//! latter: pauses one, brings it back, tests its provider, asks for the provider's list.
//!
//! What is done to a credential here is a state of the running pool, kept through restarts, and no
//! change of who declares it: so it serves for the file's credentials too.

use std::sync::mpsc::sync_channel;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::Call;
use super::answer::{Answer, Fault};
use super::entities::{self, Shown};
use super::kind;
use super::route::{Param, Route};
use crate::dialect::listed::Listed;
use crate::exchange::{ListFailure, Question, Seen, Trial};
use crate::ledger::entities::Change;
use crate::limits;
use crate::route::health::{Circuit, Why};
use crate::route::snapshot::{Credential, Provider, Snapshot};

/// How long a question to an upstream is waited for.
const ANSWER: Duration = Duration::from_secs(25);

pub(super) fn routes() -> Vec<Route> {
    let route = Route::new;
    let strings = |names: &[&str]| -> Map<String, Value> {
        names.iter().map(|name| ((*name).to_owned(), json!({ "type": "string" }))).collect()
    };
    let circuits = json!({ "type": "array", "items": { "type": "object", "properties": {
        "model": { "type": "string", "description": "Empty: all of the credential." },
        "why": { "type": "string", "enum": Why::ALL.map(Why::name) },
        "since": { "type": "integer" },
        "until": { "type": ["integer", "null"], "description": "null: until somebody says so." },
        "strikes": { "type": "integer" }
    } } });
    let mut item = strings(&["id", "provider_name", "hint"]);
    item.insert(
        "state".into(),
        json!({
            "type": "string", "enum": ["ok", "resting", "disabled", "paused"],
            "description": "Of the credential as a whole; one model's rest stands in circuits."
        }),
    );
    item.insert("in_flight".into(), json!({ "type": "integer" }));
    item.insert("fill".into(), json!({ "type": "object", "description": "Of its ceilings." }));
    item.insert("circuits".into(), circuits);
    let item = json!({ "type": "object", "properties": item, "required": ["id", "state"] });
    let tried = json!({ "type": "object", "required": ["ok", "says", "ms"], "properties": {
        "ok": { "type": "boolean" }, "says": { "type": "string" }, "url": { "type": "string" },
        "method": { "type": "string" }, "status": { "type": "integer" },
        "ms": { "type": "integer" }, "text": { "type": "string" }
    } });
    let listed = json!({ "type": "object", "required": ["items", "new"], "properties": {
        "items": { "type": "array", "items": { "type": "object" } },
        "new": { "type": "integer", "description": "How many of them are not declared." }
    } });
    let asked = json!({ "type": "object", "additionalProperties": false, "properties": {
        "credential": { "type": "string", "maxLength": 256, "description": "Its id; the first." },
        "model": {
            "type": "string", "minLength": 1, "maxLength": 256, "pattern": super::openapi::GRAPHIC,
            "description": "A few tokens of it are asked for, unbilled here; else the list."
        }
    } });
    let says = "Whether usage rows reach the disk, and how each credential stands.";
    let pause = "Takes a credential out of its pool, through restarts too, until it is reset.";
    let reset = "Forgets what is held against a credential, and brings it back.";
    let credential = |verb: &str| format!("/admin/api/credentials/{{id}}/{verb}");
    let provider = |verb: &str| format!("/admin/api/providers/{{id}}/{verb}");
    vec![
        route("GET", "/admin/api/health", "health", says, health)
            .asks(vec![Param::text("provider_name", "Of exactly this provider.")])
            .answers(
                200,
                json!({
                    "type": "object", "required": ["items", "ledger"], "properties": {
                        "items": { "type": "array", "items": item }, "ledger": ledger_schema()
                    }
                }),
            ),
        route("POST", &credential("reset"), "reset_credential", reset, self::reset)
            .answers(200, item.clone()),
        route("POST", &credential("pause"), "pause_credential", pause, self::pause)
            .answers(200, item),
        route("POST", &provider("test"), "test_provider", "Calls the upstream once.", test)
            .takes(asked)
            .answers(200, tried),
        route("POST", &provider("pull"), "pull_models", "What the upstream lists now.", pull)
            .answers(200, listed),
    ]
}

fn ledger_schema() -> Value {
    json!({
        "type": "object", "required": ["enable_usage", "healthy", "unbilled", "rows"],
        "properties": {
            "enable_usage": { "type": "boolean", "description": "Usage is recorded." },
            "healthy": { "type": "boolean", "description": "Rows reach the disk now." },
            "unbilled": {
                "type": "string", "enum": ["refuse", "serve"],
                "description": "While they do not and there is no place for more: requests get \
                    503, or are served unrecorded and charged to nobody."
            },
            "rows": { "type": "integer", "description": "Taken and not yet written." }
        }
    })
}

/// One credential of a provider: its name here, and what is shown of it.
struct Row {
    id: String,
    hint: String,
}

/// The credentials of a provider in their order. One that needs none has one of number 0.
fn rows_of(call: &Call<'_>, provider: &Provider) -> Vec<Row> {
    if provider.credentials.is_empty() {
        return vec![Row { id: format!("{}:0", provider.name), hint: String::new() }];
    }
    let Some(kind) = kind::named("credentials") else { return Vec::new() };
    let state = call.api.state.lock();
    let mut rows = entities::rows(&state, kind);
    rows.retain(|row| Call::text(&row.value, "provider_name") == Some(&provider.name));
    // The file's are numbered, those made here stand in the order in which they were made.
    rows.sort_by_key(|row| {
        let made =
            state.kept.iter().position(|kept| kept.section == kind.section && kept.id == row.id);
        let number = row.id.rsplit(':').next().and_then(|number| number.parse::<usize>().ok());
        made.or(number).unwrap_or_default()
    });
    let row = |row: Shown| {
        let hint = Call::text(&row.value, "hint").unwrap_or_default().to_owned();
        Row { id: row.id, hint }
    };
    rows.into_iter().map(row).collect()
}

fn health(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    let snapshot = call.api.core.snapshot();
    let wanted = Call::text(&call.query, "provider_name");
    let providers = snapshot.providers.iter();
    let mut items = Vec::new();
    for provider in providers.filter(|provider| wanted.is_none_or(|name| name == provider.name)) {
        items.extend(shown(call, provider));
    }
    let (logging, ledger) = (&snapshot.logging, &call.api.ledger);
    let ledger = json!({
        "enable_usage": logging.enable_usage, "healthy": ledger.is_healthy(),
        "unbilled": logging.unbilled(), "rows": ledger.taken()
    });
    Ok(Answer::ok(json!({ "items": items, "ledger": ledger })))
}

fn shown(call: &Call<'_>, provider: &Provider) -> Vec<Value> {
    let now_ms = call.api.core.unix_ms();
    let seen = call.api.core.pool.seen(provider, now_ms);
    let rows = rows_of(call, provider).into_iter();
    let credentials = provider.credentials.iter().map(Some).chain([None]);
    rows.zip(seen)
        .zip(credentials)
        .map(|((row, seen), credential)| item(provider, row, seen, credential, now_ms))
        .collect()
}

fn item(
    provider: &Provider,
    row: Row,
    seen: Seen,
    credential: Option<&Credential>,
    now_ms: i64,
) -> Value {
    let whole = seen.circuits.iter().find(|circuit| circuit.model.is_empty());
    let state = match whole.map(|circuit| (circuit.why, circuit.until_ms > now_ms)) {
        Some((Why::Paused, _)) => "paused",
        Some((Why::Denied, _)) => "disabled",
        Some((_, true)) => "resting",
        _ => "ok",
    };
    let circuits: Vec<Value> = seen.circuits.iter().map(circuit).collect();
    let mut item = json!({
        "id": row.id, "provider_name": provider.name, "hint": row.hint, "state": state,
        "in_flight": seen.in_flight, "circuits": circuits
    });
    let ceilings = credential.and_then(|credential| credential.ceilings.as_ref());
    if let (Some(rule), Some([rpm, tpm, in_flight])) = (ceilings, seen.fill) {
        let of = |level: u64, most: Option<u64>| json!({ "used": level, "of": most });
        item["fill"] = json!({
            "rpm": of(rpm, rule.rpm), "tpm": of(tpm, rule.total_tokens),
            "in_flight": of(in_flight, rule.in_flight)
        });
    }
    item
}

fn circuit(circuit: &Circuit) -> Value {
    let ends = !matches!(circuit.why, Why::Denied | Why::Paused);
    json!({
        "model": &*circuit.model, "why": circuit.why.name(), "since": circuit.since_ms,
        "until": ends.then_some(circuit.until_ms), "strikes": circuit.strikes
    })
}

/// The credential of the path: its provider's place and its own.
fn credential_of(call: &Call<'_>, snapshot: &Snapshot, id: &str) -> Result<(usize, usize), Fault> {
    let name = id.rsplit_once(':').map_or("", |(name, _)| name);
    let provider = snapshot.provider_named(name).ok_or_else(Fault::not_found)?;
    let rows = rows_of(call, &snapshot.providers[provider]);
    let at = rows.iter().position(|row| row.id == id).ok_or_else(Fault::not_found)?;
    Ok((provider, at))
}

fn reset(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    hold(call, "reset")
}

fn pause(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    hold(call, "pause")
}

fn hold(call: &Call<'_>, action: &'static str) -> Result<Answer, Fault> {
    let (core, now_ms) = (&call.api.core, call.api.core.unix_ms());
    let snapshot = core.snapshot();
    let (provider, credential) = credential_of(call, &snapshot, &call.id)?;
    let record = entities::record(call, action, ("credentials", &call.id));
    let state = call.api.state.lock();
    entities::write(call.api, Change { edits: Vec::new(), records: vec![record] })?;
    let known = match action {
        "pause" => core.pool.pause(&snapshot, (provider, credential), now_ms),
        _ => core.pool.reset(&snapshot, (provider, credential)),
    };
    drop(state);
    let mut items = shown(call, &snapshot.providers[provider]);
    match known && credential < items.len() {
        true => Ok(Answer::ok(items.swap_remove(credential))),
        // More credentials than there are places for.
        false => Err(Fault::new(409, "nothing is kept of this credential")),
    }
}

/// Asks an upstream, and waits. Not on the desk of all other calls.
fn ask<T: Send + 'static>(
    call: &Call<'_>,
    question: impl FnOnce(Box<dyn FnOnce(T) + Send>) -> Question,
) -> Result<T, Fault> {
    let (sender, receiver) = sync_channel(1);
    let tell = Box::new(move |answer| {
        // Nobody is left to be told once the wait below is over.
        let _ = sender.try_send(answer);
    });
    if !call.api.core.question(&call.id, question(tell)) {
        return Err(match call.api.core.snapshot().provider_named(&call.id) {
            Some(_) => Fault::new(503, "too many ask upstreams now"),
            None => Fault::not_found(),
        });
    }
    let late = |_| Fault::new(503, "the upstream takes too long");
    receiver.recv_timeout(ANSWER).map_err(late)
}

fn test(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    let snapshot = call.api.core.snapshot();
    let at = match Call::text(&call.body, "credential") {
        Some(id) => {
            let found = credential_of(call, &snapshot, id)
                .map_err(|_| Fault::invalid("credential", "the provider has none of this name"))?;
            if snapshot.providers[found.0].name != call.id {
                return Err(Fault::invalid("credential", "is another provider's"));
            }
            Some(found.1)
        }
        None => None,
    };
    let model = Call::text(&call.body, "model").map(str::to_owned);
    let trial = ask(call, |tell| Question::Trial(at, model, tell))?;
    let Trial { method, url, status, failure, ms, text } = trial;
    let is_ok = (200..300).contains(&status);
    let says = match (&failure, status) {
        (Some(failure), _) => format!("no answer: {:?} in {:?}", failure.cause, failure.phase),
        _ if url.is_empty() => "there is no upstream to call".to_owned(),
        _ if is_ok => "well".to_owned(),
        (None, status) => format!("the upstream answered {status}"),
    };
    Ok(Answer::ok(json!({
        "ok": is_ok, "says": says, "method": method, "url": url, "status": status, "ms": ms,
        "text": text
    })))
}

fn pull(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    let list: Result<Vec<Listed>, ListFailure> = ask(call, Question::List)?;
    let list = list.map_err(|failure| match failure {
        ListFailure::Nowhere => Fault::new(409, failure.to_string()),
        _ => Fault::new(502, failure.to_string()),
    })?;
    let snapshot = call.api.core.snapshot();
    let provider = snapshot.provider_named(&call.id).ok_or_else(Fault::not_found)?;
    let models = &snapshot.providers[provider].models;
    let mut new = 0;
    let items = list.iter().map(|listed| {
        let is_declared = models.contains_key(&listed.id);
        new += usize::from(!is_declared);
        json!({
            "id": listed.id, "display_name": listed.display_name,
            "max_input_tokens": listed.max_input_tokens,
            "max_output_tokens": listed.max_output_tokens, "declared": is_declared
        })
    });
    let items: Vec<Value> = items.take(limits::LIST_MODELS_MAX).collect();
    Ok(Answer::ok(json!({ "items": items, "new": new })))
}
