//! What was refused lately, with the reason that the caller was told.

use serde_json::{Value, json};

use super::Call;
use super::answer::{Answer, Fault};
use super::route::{Area, Param, Route};
use crate::exchange::Refused;
use crate::limits;

pub(super) fn routes() -> Vec<Route> {
    let shown = json!({
        "type": "object",
        "properties": { "items": { "type": "array", "items": item_schema() } },
        "required": ["items"]
    });
    [("admin", "everybody's"), ("user", "the caller's")]
        .into_iter()
        .map(|(area, whose)| {
            let mut asked = vec![
                Param::count("limit", 1, limits::API_ITEMS_MAX as i64, "At most so many; 100."),
                Param::text("request_id", "The request of exactly this id."),
            ];
            if area == "admin" {
                asked.push(Param::text("user_name", "Of exactly this user."));
            }
            let says = format!("Requests that were refused lately, {whose}, the last first.");
            let name = format!("{area}_refusals");
            Route::new("GET", &format!("/{area}/api/refusals"), &name, &says, list)
                .asks(asked)
                .answers(200, shown.clone())
        })
        .collect()
}

/// Schema of one of them.
pub(super) fn item_schema() -> Value {
    let text = || json!({ "type": "string" });
    json!({
        "type": "object",
        "properties": {
            "request_id": text(), "at": { "type": "integer" }, "user": text(),
            "provider": text(), "operation": text(), "model": text(),
            "status": { "type": "integer" }, "message": text()
        },
        "required": ["request_id", "at", "user", "status", "message"]
    })
}

/// That of this request, the caller's own or anybody's for administrators.
pub(super) fn of(call: &Call<'_>, id: &str) -> Result<Option<Value>, Fault> {
    let own = match call.area {
        Area::Admin => None,
        Area::User => Some(call.user()?.name.as_str()),
    };
    let latest = call.api.core.refusals.latest();
    let mut latest = latest.iter().filter(|refused| own.is_none_or(|own| own == refused.user));
    Ok(latest.find(|refused| refused.request_id == id).map(|refused| told(refused)))
}

fn told(refused: &Refused) -> Value {
    json!({
        "request_id": refused.request_id, "at": refused.at_ms, "user": refused.user,
        "provider": refused.provider, "operation": refused.operation,
        "model": refused.model, "status": refused.status, "message": refused.message
    })
}

fn list(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    let limit = call.query.get("limit").and_then(Value::as_u64).unwrap_or(100) as usize;
    let user = match call.area {
        Area::Admin => Call::text(&call.query, "user_name"),
        Area::User => Some(call.user()?.name.as_str()),
    };
    let id = Call::text(&call.query, "request_id");
    let latest = call.api.core.refusals.latest();
    let passes = |refused: &&std::sync::Arc<Refused>| {
        user.is_none_or(|user| user == refused.user) && id.is_none_or(|id| id == refused.request_id)
    };
    let passing = latest.iter().filter(passes).take(limit);
    let items: Vec<Value> = passing.map(|refused| told(refused)).collect();
    Ok(Answer::ok(json!({ "items": items })))
}
