//! Logged requests, and the attempts at upstreams that were logged beside them: lists without what
//! was said.

use serde_json::{Map, Value, json};

use super::answer::{Answer, Fault};
use super::route::{Area, Param, Route};
use super::usage::{number, status_of, text, unreadable};
use super::{Call, entities};
use crate::ledger::logged::{Filter, Reader, Side};
use crate::limits;

pub(super) fn routes() -> Vec<Route> {
    let more = "A page may end before its limit; go on while there is a cursor.";
    let mut all = Vec::new();
    for (area, whose) in [("admin", "everybody's"), ("user", "the caller's")] {
        let mut asked = filters("Whose path holds this.");
        asked.push(Param::text("user_key", "With the key of exactly this id."));
        asked.push(Param::flag("internal", "For our own pages, or for everything else."));
        if area == "admin" {
            asked.push(Param::text("user_name", "Of exactly this user."));
        }
        let says = format!("Logged requests, {whose}, the last first. {more}");
        let (path, name) = (format!("/{area}/api/logs"), format!("{area}_logs"));
        let list: super::route::Run = |route, call| list(route, call, Side::Downstream);
        all.push(
            Route::new("GET", &path, &name, &says, list)
                .asks(asked)
                .answers(200, entities::list_by(row_schema(Side::Downstream), "integer")),
        );
    }
    let mut asked = filters("Whose address holds this.");
    asked.push(Param::text("provider_name", "At exactly this provider."));
    let says = format!("Logged attempts at upstreams, the last first. {more}");
    let list: super::route::Run = |route, call| list(route, call, Side::Upstream);
    all.push(
        Route::new("GET", "/admin/api/logs/attempts", "logged_attempts", &says, list)
            .asks(asked)
            .answers(200, entities::list_by(row_schema(Side::Upstream), "integer")),
    );
    all
}

fn filters(target: &'static str) -> Vec<Param> {
    vec![
        Param::count("from", 0, i64::MAX, "Begun then or later; milliseconds since 1970."),
        Param::count("to", 0, i64::MAX, "Begun before."),
        Param::text("target", target),
        Param::text("outcome", "How it ended, exactly."),
        Param::count("status_min", 0, 999, "The least status."),
        Param::count("status_max", 0, 999, "The highest status."),
        Param::count("cursor", 0, i64::MAX, "Where the last page ended."),
        Param::count("limit", 1, limits::API_ITEMS_MAX as i64, "Rows of a page; 100."),
    ]
}

/// Schema of a row of a list.
fn row_schema(side: Side) -> Value {
    let (text, number) = (json!({ "type": "string" }), json!({ "type": "integer" }));
    let maybe = |kind: &str| json!({ "type": [kind, "null"] });
    let mut properties = json!({
        "id": number, "request_id": text, "at": number, "method": text,
        "status": maybe("integer"), "initial_ms": maybe("integer"), "total_ms": number
    });
    let more = match side {
        Side::Downstream => json!({
            "internal": { "type": "boolean", "description": "For one of our own pages." },
            "user": maybe("string"), "user_key": maybe("string"), "path": text, "query": text,
            "outcome": text
        }),
        Side::Upstream => json!({
            "attempt": number, "provider": text, "credential_id": maybe("integer"), "url": text,
            "end_reason": { "type": "string", "description": "Why it ended." }
        }),
    };
    for (name, schema) in more.as_object().into_iter().flatten() {
        properties[name] = schema.clone();
    }
    json!({ "type": "object", "properties": properties, "required": ["id", "request_id", "at"] })
}

/// Schema of a row with its fields and bodies.
pub(super) fn whole_schema(side: Side) -> Value {
    let mut schema = row_schema(side);
    let fields = json!({
        "type": ["array", "null"], "description": "Pairs of names and values; secrets are `***`.",
        "items": { "type": "array", "items": { "type": "string" } }
    });
    let body = json!({ "type": ["string", "null"], "description": "Null: it was not kept." });
    for way in ["request", "response"] {
        schema["properties"][format!("{way}_headers")] = fields.clone();
        schema["properties"][format!("{way}_body")] = body.clone();
        schema["properties"][format!("{way}_body_truncated")] = json!({ "type": "boolean" });
    }
    schema
}

fn list(_: &Route, call: &Call<'_>, side: Side) -> Result<Answer, Fault> {
    let user = match call.area {
        Area::Admin => text(call, "user_name"),
        Area::User => Some(call.user()?.name.clone()),
    };
    let filter = Filter {
        from_ms: number(call, "from"),
        to_ms: number(call, "to"),
        user,
        user_key: text(call, "user_key"),
        internal: call.query.get("internal").and_then(Value::as_bool),
        provider: text(call, "provider_name"),
        target: text(call, "target"),
        end: text(call, "outcome"),
        status: status_of(call),
    };
    let limit = number(call, "limit").unwrap_or(100) as usize;
    let reader = Reader::open(&call.api.folder).map_err(unreadable)?;
    let page = reader.list(side, &filter, number(call, "cursor"), limit).map_err(unreadable)?;
    Ok(Answer::ok(json!({ "items": page.rows, "next_cursor": page.next })))
}

/// Everything that was logged of a request of the caller, or of anybody for administrators.
pub(super) fn of(call: &Call<'_>, id: &str) -> Result<Option<Map<String, Value>>, Fault> {
    let reader = Reader::open(&call.api.folder).map_err(unreadable)?;
    let logged = reader.of(id).map_err(unreadable)?;
    let mut told = Map::new();
    if call.area == Area::User {
        let name = Value::from(call.user()?.name.as_str());
        let own = logged.request.filter(|request| request.get("user") == Some(&name));
        let Some(request) = own else { return Ok(None) };
        told.insert("request".into(), request.into());
        return Ok(Some(told));
    }
    if logged.request.is_none() && logged.attempts.is_empty() {
        return Ok(None);
    }
    told.insert("request".into(), json!(logged.request));
    told.insert("attempts".into(), json!(logged.attempts));
    Ok(Some(told))
}
