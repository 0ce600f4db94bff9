//! Sessions, what everybody may see and change of his own, and the process itself.

use serde_json::{Map, Value, json};

use super::answer::{Answer, Fault};
use super::kind::{self, Kind};
use super::route::{Area, Param, Route};
use super::session::Opener;
use super::store::Kept;
use super::{Call, Caller, entities, session, user_named};
use crate::dialect::trouble;
use crate::ledger::entities::changes;
use crate::limits;
use crate::metrics::Count;
use crate::password;
use crate::route::listing;

pub(super) fn routes() -> Vec<Route> {
    let mut all = session_routes();
    all.extend(own_routes());
    all.extend(process_routes());
    all
}

fn object(properties: Value, required: &[&str]) -> Value {
    json!({ "type": "object", "properties": properties, "required": required })
}

fn session_routes() -> Vec<Route> {
    let asked = json!({
        "type": "object",
        "properties": {
            "user_name": { "type": "string", "minLength": 1, "maxLength": 128 },
            "password": { "type": "string", "maxLength": 1024 },
            "api_key": { "type": "string", "maxLength": 4096, "description": "In their place." }
        },
        "additionalProperties": false
    });
    let told = object(
        json!({
            "user_name": { "type": "string" },
            "is_admin": { "type": "boolean" },
            "by": { "type": "string", "enum": ["key", "session"] },
            "csrf": {
                "type": "string",
                "description": "For the header x-gproxy-csrf of every write with the cookie."
            }
        }),
        &["user_name", "is_admin", "by"],
    );
    let mut all = Vec::new();
    for (area, who) in [("admin", "an administrator"), ("user", "anybody")] {
        let path = format!("/{area}/api/session");
        let name = |verb| format!("{area}_{verb}");
        let says = format!("Logs {who} in; the answer sets a cookie.");
        all.push(
            Route::new("POST", &path, &name("login"), &says, login)
                .takes(asked.clone())
                .answers(201, told.clone())
                .open(),
        );
        let says = "Who calls, and how that is known.";
        all.push(
            Route::new("GET", &path, &name("session"), says, who_calls).answers(200, told.clone()),
        );
        let says = "Ends the session of the cookie.";
        all.push(
            Route::new("DELETE", &path, &name("logout"), says, logout).answers(204, Value::Null),
        );
    }
    let says = "Ends every session of the caller.";
    all.push(
        Route::new("DELETE", "/user/api/sessions", "logout_everywhere", says, logout_everywhere)
            .answers(204, Value::Null),
    );
    let says = "Ends every session of a user.";
    let path = "/admin/api/users/{id}/sessions";
    all.push(
        Route::new("DELETE", path, "end_sessions", says, end_sessions).answers(204, Value::Null),
    );
    all
}

fn own_routes() -> Vec<Route> {
    let mut all = Vec::new();
    for (path, section, name, says) in [
        ("keys", "user_keys", "own_keys", "The caller's keys."),
        ("quotas", "quotas", "own_quotas", "The caller's quotas and how they stand."),
        (
            "rate_limits",
            "rate_limits",
            "own_rate_limits",
            "The caller's limits and how full they are.",
        ),
        ("permissions", "permissions", "own_permissions", "What the caller may call."),
    ] {
        let Some(kind) = kind::named(section) else { continue };
        let path = format!("/user/api/{path}");
        let route = Route::new("GET", &path, name, says, own_list).asks(entities::paging());
        all.push(Route { kind: Some(kind), ..route }.answers(200, entities::list_of(kind.shown())));
    }
    let Some(kind) = kind::named("user_keys") else { return all };
    let mut asked = kind.asked(false);
    if let Some(fields) = asked["properties"].as_object_mut() {
        fields.remove("user_name");
    }
    if let Some(fields) = asked.as_object_mut() {
        fields.remove("required");
    }
    let mut made = kind.shown();
    made["properties"]["api_key"] = json!({ "type": "string", "description": "Shown this once." });
    let (list, one) = ("/user/api/keys", "/user/api/keys/{id}");
    let key = |method, path, name, says, run| Route {
        kind: Some(kind),
        ..Route::new(method, path, name, says, run)
    };
    let says = "Makes a key. A caller's key that has limits of its own makes none.";
    let make = key("POST", list, "make_own_key", says, own_make);
    all.push(make.takes(asked).answers(201, made));
    let says = "Names, disables or limits a key. An administrator enables it again, or loosens \
                its limits.";
    let change = key("PATCH", one, "change_own_key", says, own_change);
    all.push(change.takes(kind.asked(true)).answers(200, kind.shown()));
    let delete = key("DELETE", one, "delete_own_key", "Deletes a key.", own_delete);
    all.push(delete.answers(204, Value::Null));
    let item = object(
        json!({ "id": { "type": "string" }, "display_name": { "type": "string" } }),
        &["id"],
    );
    let says = "The models that the caller may call.";
    all.push(
        Route::new("GET", "/user/api/models", "own_models", says, own_models).answers(
            200,
            object(json!({ "items": { "type": "array", "items": item } }), &["items"]),
        ),
    );
    all
}

fn process_routes() -> Vec<Route> {
    let change = object(
        json!({
            "number": { "type": "integer" }, "at": { "type": "integer" },
            "made_by": { "type": "string" }, "action": { "type": "string" },
            "section": { "type": "string" }, "entity": { "type": "string" },
            "before": {}, "after": {}
        }),
        &["number", "at", "made_by", "action", "section", "entity"],
    );
    let version = object(
        json!({ "version": { "type": "string" }, "started_at": { "type": "integer" } }),
        &["version", "started_at"],
    );
    let route = Route::new;
    vec![
        route(
            "GET",
            "/admin/api/changes",
            "list_changes",
            "What was changed here, the last first.",
            changes_made,
        )
        .asks(vec![
            Param::count("limit", 1, limits::API_ITEMS_MAX as i64, "Rows of a page; 100."),
            Param::count("cursor", 0, i64::MAX, "Where the last page ended."),
        ])
        .answers(200, entities::list_by(change, "integer")),
        route("GET", "/admin/api/version", "version", "This program.", self::version)
            .answers(200, version),
    ]
}

fn login(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    let (api, request) = (call.api, call.request);
    let now_ms = api.core.unix_ms();
    let from =
        session::counted_with(request).ok_or_else(|| Fault::new(503, "who calls is not known"))?;
    api.sessions.guess(from, now_ms).map_err(|wait_s| {
        api.core.metrics.count(Count::GuessesSlowed);
        let fields = vec![("retry-after", wait_s.to_string())];
        let message = format!("too many attempts; try again in {wait_s} s");
        Fault { fields, ..Fault::new(429, message) }
    })?;
    let snapshot = &request.snapshot;
    let mut used = None;
    let user = match Call::text(&call.body, "api_key") {
        Some(key) => {
            // The caller is not where a proxy is that does not tell of him.
            let address = session::address(request);
            let lets_in = |caller: &_| session::lets_in(snapshot, *caller, address, now_ms);
            let caller = snapshot.authenticate(key.as_bytes()).filter(lets_in);
            caller.map(|caller| {
                api.core.use_key(snapshot, caller);
                used = Some(Opener::Key(snapshot.key(caller).id));
                caller.user
            })
        }
        None => {
            let name = Call::text(&call.body, "user_name").unwrap_or_default();
            let given = Call::text(&call.body, "password").unwrap_or_default();
            let user = user_named(snapshot, name);
            let password = user.and_then(|user| snapshot.users[user].password.as_ref());
            user.filter(|_| password::is_right(password, given))
                .or_else(|| hesitate(user.is_none(), given))
        }
    };
    let user = user.ok_or_else(|| Fault::new(401, "this user and password do not go together"))?;
    let user = &snapshot.users[user];
    api.sessions.forgive(from);
    if call.area == Area::Admin && !user.is_admin {
        return Err(Fault::new(403, "this needs an administrator"));
    }
    let session = used
        .or_else(|| user.password.as_ref().map(Opener::password))
        .and_then(|opener| api.sessions.open(&user.name, opener, now_ms));
    let (token, session) =
        session.ok_or_else(|| Fault::new(503, "the system has no randomness"))?;
    let cookie = session::cookie(&token, session::is_secure(request));
    let body = json!({
        "user_name": user.name, "is_admin": user.is_admin, "by": "session", "csrf": session.csrf
    });
    Ok(Answer { fields: vec![("set-cookie", cookie)], ..Answer::made(body) })
}

/// No user takes as long as a wrong password.
fn hesitate(is_unknown: bool, given: &str) -> Option<usize> {
    if is_unknown {
        password::is_right(None, given);
    }
    None
}

fn who_calls(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    let user = call.user()?;
    let mut told = json!({ "user_name": user.name, "is_admin": user.is_admin, "by": "key" });
    if let Some(Caller { session: Some(session), .. }) = &call.caller {
        told["by"] = json!("session");
        told["csrf"] = json!(session.csrf);
    }
    Ok(Answer::ok(told))
}

fn logged_out(call: &Call<'_>) -> Answer {
    let cookie = session::cookie("", session::is_secure(call.request));
    Answer { fields: vec![("set-cookie", cookie)], ..Answer::nothing() }
}

fn logout(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    call.api.sessions.close(call.request);
    Ok(logged_out(call))
}

fn logout_everywhere(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    call.api.sessions.close_all(&call.user()?.name);
    Ok(logged_out(call))
}

fn end_sessions(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    let mut users = call.request.snapshot.users.iter();
    users.find(|user| user.name == call.id).ok_or_else(Fault::not_found)?;
    call.api.sessions.close_all(&call.id);
    let record = entities::record(call, "end_sessions", ("users", &call.id));
    entities::note(call.api, record);
    Ok(Answer::nothing())
}

fn own_kind(route: &Route) -> Result<&'static Kind, Fault> {
    route.kind.ok_or_else(Fault::not_found)
}

fn own_list(route: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    let (kind, name) = (own_kind(route)?, call.user()?.name.clone());
    let mut rows = entities::rows(&call.api.state.lock(), kind);
    rows.retain(|row| Call::text(&row.value, "user_name") == Some(name.as_str()));
    Ok(entities::page(call, kind, rows))
}

/// A limited key makes and changes none: its limits would be no limits.
fn is_free(call: &Call<'_>) -> Result<(), Fault> {
    let key = call.caller.as_ref().and_then(|caller| caller.key);
    let user = call.user()?;
    match key.map(|key| &user.keys[key]) {
        Some(key) if key.terms.is_some() || key.in_flight.is_some() => {
            let why = "a key with expires_at, networks or in_flight makes, changes and deletes no \
                       keys: use a password or another key, or ask an administrator";
            Err(Fault::new(403, why))
        }
        _ => Ok(()),
    }
}

fn is_own(call: &Call<'_>, value: &Map<String, Value>) -> Result<(), Fault> {
    let is_own = Call::text(value, "user_name") == Some(call.user()?.name.as_str());
    is_own.then_some(()).ok_or_else(Fault::not_found)
}

/// Whether what is told of a key takes back nothing that limits it.
fn only_tightens(before: &Map<String, Value>, told: &Map<String, Value>) -> Result<(), Fault> {
    let instant = |value: &Value| trouble::timestamp(value.as_str()?);
    for (name, new) in told {
        let stands = before.get(name).filter(|old| match old {
            Value::Null | Value::Bool(true) => false,
            Value::Array(items) => !items.is_empty(),
            _ => true,
        });
        let Some(old) = stands.filter(|_| name != "label") else { continue };
        let is_tighter = match name.as_str() {
            // What is no time is refused by the configuration's rules.
            "expires_at" => {
                new.is_string() && instant(new).is_none_or(|at| Some(at) <= instant(old))
            }
            "networks" => {
                let (new, old) = (new.as_array(), old.as_array());
                let is_in = |new: &Value| old.is_some_and(|old| old.contains(new));
                new.is_some_and(|new| !new.is_empty() && new.iter().all(is_in))
            }
            "in_flight" => new.as_u64().is_some_and(|new| Some(new) <= old.as_u64()),
            _ => new == old,
        };
        if !is_tighter {
            let why = "only an administrator enables a key again or loosens its limits";
            return Err(Fault { field: Some(name.clone()), ..Fault::new(403, why) });
        }
    }
    Ok(())
}

fn own_make(route: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    is_free(call)?;
    let name = call.user()?.name.clone();
    let has_room = |kept: &[Kept]| {
        let is_his = |row: &&Kept| {
            row.section == "user_keys" && Call::text(&row.value, "user_name") == Some(&name)
        };
        let most = limits::OWN_KEYS_MAX;
        if kept.iter().filter(is_his).count() < most {
            return Ok(());
        }
        let why = format!("you have {most} keys: delete one first, or ask an administrator");
        Err(Fault::new(409, why))
    };
    let mut value = call.body.clone();
    value.insert("user_name".into(), name.clone().into());
    entities::make(own_kind(route)?, call, value, &has_room)
}

fn own_change(route: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    is_free(call)?;
    let may = |value: &Map<String, Value>| {
        is_own(call, value)?;
        only_tightens(value, &call.body)
    };
    entities::change_one(own_kind(route)?, call, &call.id, &may)
}

fn own_delete(route: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    is_free(call)?;
    entities::delete_one(own_kind(route)?, call, &call.id, &|value| is_own(call, value))
}

fn own_models(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    let user = call.caller.as_ref().map(|caller| caller.user).ok_or_else(Fault::not_found)?;
    let entries = listing::entries(&call.request.snapshot, &call.request.live, user, None);
    let items: Vec<Value> = entries
        .iter()
        .map(|entry| match entry.display_name {
            Some(name) => json!({ "id": entry.id, "display_name": name }),
            None => json!({ "id": entry.id }),
        })
        .collect();
    Ok(Answer::ok(json!({ "items": items })))
}

fn changes_made(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    let limit = call.query.get("limit").and_then(Value::as_u64).unwrap_or(100) as usize;
    let before = call.query.get("cursor").and_then(Value::as_i64).unwrap_or(i64::MAX);
    let mut rows = changes(&call.api.folder, before, limit + 1).map_err(|why| {
        log::error!(target: "gproxy::api", "{why}");
        Fault::new(503, "the database cannot be read now")
    })?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|row| row.number);
    let items = rows.into_iter().map(|row| {
        let [made_by, action, section, entity, before, after] = row.texts;
        let value = |text: Option<String>| {
            text.and_then(|text| serde_json::from_str::<Value>(&text).ok()).unwrap_or_default()
        };
        json!({
            "number": row.number, "at": row.at_ms, "made_by": made_by, "action": action,
            "section": section, "entity": entity, "before": value(before), "after": value(after)
        })
    });
    let items: Vec<Value> = items.collect();
    Ok(Answer::ok(json!({ "items": items, "next_cursor": next })))
}

fn version(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    let started_at = call.api.started_ms;
    Ok(Answer::ok(json!({ "version": env!("CARGO_PKG_VERSION"), "started_at": started_at })))
}
