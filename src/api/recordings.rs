//! What is left of streams that ended badly.

use serde_json::{Value, json};

use super::Call;
use super::answer::{Answer, Fault};
use super::route::Route;
use crate::exchange::Recording;

pub(super) fn routes() -> Vec<Route> {
    let items = json!({
        "type": "object",
        "properties": { "items": { "type": "array", "items": item_schema() } },
        "required": ["items"]
    });
    let path = "/admin/api/recordings";
    let says = "Streams that ended badly, the last first.";
    let one_says = "The last bytes of a stream that ended badly, by its request's id.";
    vec![
        Route::new("GET", path, "list_recordings", says, list).answers(200, items),
        Route::new("GET", &format!("{path}/{{id}}"), "recording", one_says, show)
            .answers(200, one_schema()),
    ]
}

fn item_schema() -> Value {
    let text = json!({ "type": "string" });
    let fields = json!({
        "request_id": text, "at": { "type": "integer" }, "user_name": text,
        "provider_name": text, "model": text, "endpoint": text,
        "why": { "type": "string", "description": "How it ended." },
        "total_ms": { "type": "integer", "description": "From the reply's head to the end." },
        "truncated": { "type": "boolean", "description": "More came before what is kept." }
    });
    let required = ["request_id", "at", "endpoint", "why", "total_ms", "truncated"];
    json!({ "type": "object", "properties": fields, "required": required })
}

/// Schema of one with its pieces.
pub(super) fn one_schema() -> Value {
    let mut one = item_schema();
    one["properties"]["pieces"] = json!({
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "at_ms": { "type": "integer", "description": "Since the reply's head." },
                "bytes": { "type": "integer" },
                "text": { "type": "string", "description": "Without what was written in it." }
            },
            "required": ["at_ms", "bytes", "text"]
        }
    });
    one
}

/// That of this request.
pub(super) fn of(call: &Call<'_>, id: &str) -> Option<Value> {
    let all = call.api.core.recordings.all();
    let found = all.iter().find(|one| one.request_id == id)?;
    let mut shown = head(found);
    shown["pieces"] = found.pieces.iter().map(piece).collect();
    Some(shown)
}

fn list(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    let items: Vec<Value> = call.api.core.recordings.all().iter().map(head).collect();
    Ok(Answer::ok(json!({ "items": items })))
}

fn show(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    of(call, &call.id).map(Answer::ok).ok_or_else(Fault::not_found)
}

fn piece((at_ms, bytes, text): &(u32, u32, String)) -> Value {
    json!({ "at_ms": at_ms, "bytes": bytes, "text": text })
}

fn head(recording: &Recording) -> Value {
    json!({
        "request_id": recording.request_id, "at": recording.at_ms,
        "user_name": recording.user, "provider_name": recording.provider,
        "model": recording.model, "endpoint": recording.endpoint, "why": recording.why,
        "total_ms": recording.total_ms, "truncated": recording.is_cut
    })
}
