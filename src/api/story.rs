//! The story of one request: everything that is known of it, in one answer.

use serde_json::{Map, Value, json};

use super::answer::{Answer, Fault};
use super::route::{Area, Route};
use super::{Call, logs, recordings, refusals, standing, usage, user_named};
use crate::decision::{self, Past};
use crate::ledger::logged::Side;

/// Steps and facts of a decision that are the gateway's own business.
const INTERNAL_STEPS: [&str; 5] = ["route", "target", "upstream", "headers", "hedge"];
const INTERNAL_FACTS: [&str; 5] = ["channel", "targets", "url", "forward_headers", "hedge_ms_min"];

/// What is told of an attempt.
const ATTEMPT: [&str; 8] = [
    "attempt",
    "at",
    "provider",
    "credential_id",
    "status",
    "end_reason",
    "initial_ms",
    "total_ms",
];

pub(super) fn routes() -> Vec<Route> {
    let maybe = |schema: Value| json!({ "anyOf": [schema, { "type": "null" }] });
    let decision = json!({
        "type": "object",
        "description": "What would be decided if it came now, as `gproxy explain` tells it.",
        "properties": {
            "served": { "type": "boolean" },
            "steps": { "type": "array", "items": {
                "type": "object",
                "properties": { "step": { "type": "string" }, "says": { "type": "string" } }
            } },
            "status": { "type": "integer" }, "message": { "type": "string" }
        },
        "required": ["served", "steps"]
    });
    let log = |area| {
        let mut log = json!({
            "type": "object", "properties": { "request": whole(Side::Downstream) }
        });
        if area == "admin" {
            let attempts = json!({ "type": "array", "items": logs::whole_schema(Side::Upstream) });
            log["properties"]["attempts"] = attempts;
        }
        log
    };
    let mut all = Vec::new();
    for (area, whose) in [("admin", "A request"), ("user", "A request of the caller")] {
        let mut properties = json!({
            "request_id": { "type": "string" },
            "usage": maybe(usage::row_schema(area == "admin")),
            "refusal": maybe(refusals::item_schema()),
            "decision": maybe(decision.clone()),
            "log": maybe(log(area))
        });
        if area == "admin" {
            properties["attempts"] = json!({ "type": "array", "items": attempt_schema() });
            properties["recording"] = maybe(recordings::one_schema());
        }
        let says = format!("{whose}, by its id: everything that is known of it.");
        let (path, name) = (format!("/{area}/api/requests/{{id}}"), format!("{area}_request"));
        all.push(Route::new("GET", &path, &name, &says, show).answers(
            200,
            json!({ "type": "object", "properties": properties, "required": ["request_id"] }),
        ));
    }
    all
}

fn whole(side: Side) -> Value {
    json!({ "anyOf": [logs::whole_schema(side), { "type": "null" }] })
}

fn attempt_schema() -> Value {
    let (text, number) = (json!({ "type": "string" }), json!({ "type": "integer" }));
    let maybe = json!({ "type": ["integer", "null"] });
    json!({
        "type": "object",
        "properties": {
            "attempt": number, "at": maybe, "provider": text, "credential_id": maybe,
            "status": maybe, "end_reason": text, "initial_ms": maybe, "total_ms": maybe
        },
        "required": ["attempt", "provider", "end_reason"]
    })
}

fn show(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    let id = call.id.as_str();
    let is_admin = call.area == Area::Admin;
    let mut row = usage::row_of(call, id)?;
    let refusal = refusals::of(call, id)?;
    let log = logs::of(call, id)?;
    let recording = if is_admin { recordings::of(call, id) } else { None };
    if row.is_none() && refusal.is_none() && log.is_none() && recording.is_none() {
        return Err(Fault::not_found());
    }
    let decision = decided(call, row.as_ref(), refusal.as_ref(), log.as_ref());
    if let Some(row) = &mut row {
        tidy(row);
    }
    let mut story = json!({
        "request_id": id, "usage": row, "refusal": refusal, "decision": decision, "log": log
    });
    if is_admin {
        story["attempts"] = attempts(call, row.as_ref(), log.as_ref());
        story["recording"] = json!(recording);
    }
    Ok(Answer::ok(story))
}

/// Prices as an object.
fn tidy(row: &mut Map<String, Value>) {
    if let Some(price) = row.get("price").and_then(Value::as_str) {
        let price = serde_json::from_str(price).unwrap_or_default();
        row.insert("price".to_owned(), price);
    }
}

/// What would be decided now.
fn decided(
    call: &Call<'_>,
    row: Option<&Map<String, Value>>,
    refusal: Option<&Value>,
    log: Option<&Map<String, Value>>,
) -> Option<Map<String, Value>> {
    let refusal = refusal.and_then(Value::as_object);
    let request = log.and_then(|log| log.get("request")).and_then(Value::as_object);
    let told = |name: &str| {
        let known = [row, refusal, request].into_iter().flatten();
        known.filter_map(|of| Call::text(of, name)).find(|text| !text.is_empty())
    };
    let snapshot = &call.request.snapshot;
    let path = request.and_then(|request| {
        let query = Call::text(request, "query").filter(|query| !query.is_empty());
        let path = Call::text(request, "path")?;
        Some(query.map_or(path.to_owned(), |query| format!("{path}?{query}")))
    });
    let user = told("user").and_then(|name| user_named(snapshot, name));
    let standing = user.map(|at| standing::of(call, &snapshot.users[at]));
    let past = Past {
        user,
        standing: standing.as_ref(),
        operation: told("operation").unwrap_or_default(),
        model: told("model").unwrap_or_default(),
        provider: told("provider").unwrap_or_default(),
        logged: told("method").zip(path.as_deref()),
    };
    let mut decision = decision::again(snapshot, &past)?;
    if call.area == Area::User {
        decision.steps.retain(|(name, _)| !INTERNAL_STEPS.contains(name));
        INTERNAL_FACTS.iter().for_each(|name| drop(decision.facts.remove(*name)));
    }
    Some(decision.to_json())
}

/// Each attempt with its times and why it ended: as logged, or else those that came to nothing
/// lately, and the last one by its row.
fn attempts(
    call: &Call<'_>,
    row: Option<&Map<String, Value>>,
    log: Option<&Map<String, Value>>,
) -> Value {
    let logged = log.and_then(|log| log.get("attempts")).and_then(Value::as_array);
    if let Some(logged) = logged.filter(|logged| !logged.is_empty()) {
        let of = |attempt: &Value| -> Map<String, Value> {
            ATTEMPT.into_iter().map(|name| (name.to_owned(), attempt[name].clone())).collect()
        };
        return logged.iter().map(of).collect();
    }
    let mut all: Vec<Value> = Vec::new();
    for stumble in call.api.core.stumbles.of(&call.id) {
        all.push(json!({
            "attempt": stumble.attempt, "at": stumble.at_ms, "provider": stumble.provider,
            "credential_id": stumble.credential,
            "status": Some(stumble.status).filter(|status| *status > 0),
            "end_reason": stumble.why, "initial_ms": null, "total_ms": stumble.total_ms
        }));
    }
    let number = |name: &str| row.and_then(|row| row.get(name)).and_then(Value::as_i64);
    let last = number("attempts").unwrap_or(0);
    if let Some(row) = row.filter(|_| last > 0)
        && all.last().is_none_or(|stumble| stumble["attempt"].as_i64() < Some(last))
    {
        // What is known of it are the whole exchange's times.
        let only = last == 1;
        let first_ms = number("first_byte_ms").filter(|ms| only && *ms >= 0);
        all.push(json!({
            "attempt": last, "at": number("at").filter(|_| only), "provider": row["provider"],
            "credential_id": row["credential_id"], "status": row["status"],
            "end_reason": row["outcome"], "initial_ms": first_ms,
            "total_ms": number("total_ms").filter(|_| only)
        }));
    }
    all.into()
}
