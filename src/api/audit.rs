//! Whether the books add up, asked of the running process: it takes as long as it takes, so it is
//! begun by one call and looked at by others.

use serde_json::{Value, json};

use super::Call;
use super::answer::{Answer, Fault};
use super::route::Route;
use crate::ledger::audit::{Ended, Progress};
use crate::money;

pub(super) fn routes() -> Vec<Route> {
    let instant = json!({ "type": "integer", "description": "Milliseconds since 1970, UTC." });
    let last = json!({
        "type": ["object", "null"],
        "description": "The last one of this process that ended.",
        "properties": {
            "began_at": instant, "ended_at": instant,
            "well": { "type": "boolean", "description": "The books were read and add up." },
            "rows": { "type": "integer" },
            "pruned": { "type": "integer", "description": "Rows of which the sums are left." },
            "cost": { "type": "string", "description": "USD, of all rows." },
            "faults": { "type": "array", "items": { "type": "string" } },
            "faults_count": { "type": "integer", "description": "The first ones are told." },
            "error": { "type": "string", "description": "Why the books could not be read." }
        },
        "required": ["began_at", "ended_at", "well"]
    });
    let progress = json!({
        "type": "object",
        "properties": {
            "running": { "type": "boolean" },
            "since": { "type": ["integer", "null"], "description": "When the running one began." },
            "last": last
        },
        "required": ["running", "since", "last"]
    });
    let path = "/admin/api/audit";
    let (begins, shows) = (
        "Begins to check whether the books add up, unless that is under way.",
        "How far a check of the books is, and what the last one found.",
    );
    vec![
        Route::new("POST", path, "start_audit", begins, start).answers(202, progress.clone()),
        Route::new("GET", path, "audit", shows, show).answers(200, progress),
    ]
}

fn start(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    let core = call.api.core.clone();
    let now = move || core.unix_ms();
    call.api.auditor.start(call.api.folder.clone(), now).map_err(|error| {
        log::error!(target: "gproxy::api", "no audit: {error}");
        Fault::new(503, "the system has no thread for it now")
    })?;
    Ok(Answer { status: 202, ..Answer::ok(told(&call.api.auditor.progress())) })
}

fn show(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    Ok(Answer::ok(told(&call.api.auditor.progress())))
}

fn told(progress: &Progress) -> Value {
    json!({
        "running": progress.since_ms.is_some(), "since": progress.since_ms,
        "last": progress.last.as_ref().map(ended)
    })
}

fn ended(ended: &Ended) -> Value {
    let Ended { began_ms, ended_ms, result } = ended;
    match result {
        Ok(audit) => json!({
            "began_at": began_ms, "ended_at": ended_ms, "well": audit.faults_count == 0,
            "rows": audit.rows, "pruned": audit.pruned, "cost": money::grand_text(audit.cost),
            "faults": audit.faults, "faults_count": audit.faults_count
        }),
        Err(why) => json!({
            "began_at": began_ms, "ended_at": ended_ms, "well": false, "error": why
        }),
    }
}
