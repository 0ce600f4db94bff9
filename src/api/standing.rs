//! Quotas and limits as they stand, and what was added to a ceiling.

use std::sync::atomic::Ordering;

use serde_json::{Map, Value, json};

use super::answer::{Answer, Fault};
use super::kind::{self, Kind};
use super::route::Route;
use super::store::{Kept, State};
use super::{Call, entities};
use crate::dialect::endpoint::ENDPOINTS;
use crate::dialect::path::Collection;
use crate::ledger::entities::{Change, Edit, Record, TopUp};
use crate::money;
use crate::route::quota::{Standing, Window};
use crate::route::rate::DAY_MS;
use crate::route::snapshot::User;

/// Most that one top-up may add, in USD.
const USD_MAX: i64 = 1_000_000;

pub(super) fn routes() -> Vec<Route> {
    let path = "/admin/api/quotas/{id}/top_ups";
    let top_up = json!({
        "type": "object",
        "properties": {
            "at": { "type": "integer" },
            "amount": { "type": "string" },
            "made_by": { "type": "string" },
            "why": { "type": "string" }
        },
        "required": ["at", "amount", "made_by", "why"]
    });
    let asked = json!({
        "type": "object",
        "properties": {
            "amount": {
                "type": "string", "pattern": "^-?[0-9]{1,6}(\\.[0-9]{1,12})?$",
                "description": "USD; negative takes back."
            },
            "why": { "type": "string", "maxLength": 256, "description": "For the books." }
        },
        "required": ["amount"],
        "additionalProperties": false
    });
    let quota = kind::named("quotas").map_or(Value::Null, Kind::shown);
    vec![
        Route::new("GET", path, "list_top_ups", "What was added to a quota's ceiling.", list)
            .answers(
                200,
                json!({
                    "type": "object",
                    "properties": { "items": { "type": "array", "items": top_up } },
                    "required": ["items"]
                }),
            ),
        Route::new(
            "POST",
            path,
            "top_up",
            "Adds to a quota's ceiling; it counts at once.",
            top_up_now,
        )
        .takes(asked)
        .answers(201, quota),
    ]
}

/// The quota of the path: whose, and over which window.
fn quota_of(state: &State, call: &Call<'_>) -> Result<(String, Window), Fault> {
    let kind = kind::named("quotas").ok_or_else(Fault::not_found)?;
    let rows = entities::rows(state, kind);
    let row = rows.into_iter().find(|row| row.id == call.id).ok_or_else(Fault::not_found)?;
    let user = Call::text(&row.value, "user_name").unwrap_or_default().to_owned();
    Ok((user, window_of(&row.value)))
}

/// Whose quota a row is, and over which window; `None`: it is none.
pub(super) fn quota_in(row: &Kept) -> Option<(String, Window)> {
    let user = Call::text(&row.value, "user_name").filter(|_| row.section == "quotas")?;
    Some((user.to_owned(), window_of(&row.value)))
}

/// Takes away, on disk, what was added to these quotas.
pub(super) fn forgetting(quotas: &[(String, Window)]) -> impl Iterator<Item = Edit> {
    let forget = |(user, window): &(String, Window)| Edit::ForgetTopUps {
        user: user.clone(),
        window: window.name(),
    };
    quotas.iter().map(forget)
}

/// The same in memory, once that is written.
pub(super) fn forget(call: &Call<'_>, state: &mut State, quotas: &[(String, Window)]) {
    for (user, window) in quotas {
        call.api.books.accounts.forget_top_ups(user, *window);
        state.top_ups.retain(|row| (&row.user, row.window.as_str()) != (user, window.name()));
    }
}

fn window_of(value: &Map<String, Value>) -> Window {
    Call::text(value, "window").and_then(Window::named).unwrap_or(Window::Total)
}

fn list(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    let state = call.api.state.lock();
    let (user, window) = quota_of(&state, call)?;
    let own = state.top_ups.iter().filter(|row| row.user == user && row.window == window.name());
    let items: Vec<Value> = own
        .map(|row| {
            json!({
                "at": row.at_ms, "amount": money::text(row.amount), "made_by": row.made_by,
                "why": row.why
            })
        })
        .collect();
    Ok(Answer::ok(json!({ "items": items })))
}

fn top_up_now(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    // The quota must still be there when it is written.
    let mut state = call.api.state.lock();
    let (user, window) = quota_of(&state, call)?;
    let told = Call::text(&call.body, "amount").unwrap_or_default();
    let amount = money::parse(told.trim_start_matches('-'), USD_MAX)
        .map_err(|why| Fault::invalid("amount", why))?;
    let at_ms = call.api.core.unix_ms();
    let top_up = TopUp {
        at_ms,
        user,
        window: window.name().to_owned(),
        amount: if told.starts_with('-') { -amount } else { amount },
        made_by: call.who(),
        why: Call::text(&call.body, "why").unwrap_or_default().to_owned(),
    };
    let record = Record {
        at_ms,
        after: Some(json!({ "amount": money::text(top_up.amount), "why": top_up.why }).to_string()),
        ..entities::record(call, "top_up", ("quotas", &call.id))
    };
    let edits = vec![Edit::TopUp(top_up.clone())];
    entities::write(call.api, Change { edits, records: vec![record] })?;
    call.api.books.accounts.top_up(&top_up.user, window, at_ms.div_euclid(DAY_MS), top_up.amount);
    state.top_ups.push(top_up);
    let kind = kind::named("quotas").ok_or_else(Fault::not_found)?;
    let rows = entities::rows(&state, kind);
    drop(state);
    let row = rows.into_iter().find(|row| row.id == call.id).ok_or_else(Fault::not_found)?;
    Ok(Answer::made(row.json(call, kind)))
}

/// Adds how a row stands now: what is used of a quota or a limit, where a provider is reached.
pub(super) fn fill_in(call: &Call<'_>, kind: &Kind, id: &str, value: &mut Map<String, Value>) {
    if kind.section == "providers" {
        fill_in_urls(call, value);
    }
    if kind.section == "user_keys" {
        fill_in_use(call, id, value);
    }
    if !matches!(kind.section, "quotas" | "rate_limits") {
        return;
    }
    let snapshot = call.api.core.snapshot();
    let name = Call::text(value, "user_name").unwrap_or_default();
    let Some(user) = snapshot.users.iter().find(|user| user.name == name) else { return };
    let Standing { quotas, limits } = of(call, user);
    if kind.section == "quotas" {
        let window = window_of(value);
        value.insert("window".into(), window.name().into());
        if let Some(quota) = quotas.iter().find(|quota| quota.window == window) {
            let usd = |amount| Value::from(money::text(amount));
            value.insert("used".into(), usd(quota.used));
            value.insert("reserved".into(), usd(quota.reserved));
            value.insert("topped_up".into(), usd(quota.topped_up));
            value.insert("ceiling".into(), usd(quota.ceiling));
        }
    } else {
        let pattern = Call::text(value, "model_pattern").unwrap_or_default();
        let at = user.rate_limits.iter().position(|rule| rule.pattern.as_str() == pattern);
        if let Some([rpm, rpd, total_tokens, in_flight]) = at.map(|at| limits[at]) {
            value.insert(
                "fill".into(),
                json!({
                    "rpm": rpm, "rpd": rpd, "total_tokens": total_tokens, "in_flight": in_flight
                }),
            );
        }
    }
}

/// How a user's quotas and limits stand now.
pub(super) fn of(call: &Call<'_>, user: &User) -> Standing {
    call.api.books.accounts.standing(user, call.api.core.unix_ms())
}

/// How a key is used.
fn fill_in_use(call: &Call<'_>, id: &str, value: &mut Map<String, Value>) {
    let snapshot = call.api.core.snapshot();
    let name = Call::text(value, "user_name").unwrap_or_default().to_owned();
    let user = snapshot.users.iter().find(|user| user.name == name);
    let mut keys = user.into_iter().flat_map(|user| &user.keys);
    let Some(key) = keys.find(|key| key.id.as_str() == id) else { return };
    let used_ms = key.used.load(Ordering::Relaxed);
    if used_ms > 0 {
        value.insert("last_used_at".into(), used_ms.into());
    }
    if key.in_flight.is_some() {
        let now = call.api.books.accounts.in_flight(&name, key.id);
        value.insert("in_flight_now".into(), now.into());
    }
}

/// The final address of each dialect, as `gproxy check` prints it.
fn fill_in_urls(call: &Call<'_>, value: &mut Map<String, Value>) {
    let snapshot = call.api.core.snapshot();
    let name = Call::text(value, "name").unwrap_or_default();
    let Some(provider) = snapshot.providers.iter().find(|provider| provider.name == name) else {
        return;
    };
    let mut urls = Map::new();
    for dialect in provider.dialects().iter().filter(|_| !provider.is_echo()) {
        let endpoint = ENDPOINTS.iter().find(|endpoint| endpoint.dialect == dialect);
        if let (Some(place), Some(endpoint)) = (provider.destination(dialect), endpoint) {
            let url = place.url(endpoint, "v1beta", "MODEL", Collection::Models, "", false);
            urls.insert(dialect.name().to_owned(), url.into());
        }
    }
    value.insert("urls".into(), urls.into());
}
