//! May somebody do something, and by which rule: the gates that a request passes, asked by an
//! administrator, calling nobody.

use serde_json::{Map, Value, json};

use super::answer::{Answer, Fault};
use super::route::{Param, Route};
use super::{Call, entities, kind, standing, user_named};
use crate::decision;
use crate::dialect::Dialect;
use crate::dialect::refusal::Refusal;
use crate::route::plan::{self, RouteError, Target};
use crate::route::snapshot::{Permission, Snapshot};

pub(super) fn routes() -> Vec<Route> {
    let rule = json!({
        "type": ["object", "null"],
        "description": "The rule that lets it pass; null: none does.",
        "properties": {
            "section": { "type": "string" }, "id": { "type": "string" },
            "text": { "type": "string", "description": "What it says." },
            "declared": { "type": "boolean" },
            "line": { "type": "integer", "description": "In the file." }
        },
        "required": ["section", "id", "text", "declared"]
    });
    let target = json!({
        "type": "object",
        "properties": {
            "provider": { "type": "string" }, "model_served": { "type": "string" },
            "served": { "type": "boolean" }, "rule": rule
        }
    });
    let explained = |more: Value| {
        let mut properties = json!({
            "served": { "type": "boolean" },
            "status": { "type": "integer", "description": "Of the refusal." },
            "message": { "type": "string", "description": "Of the refusal." },
            "provider": { "type": "string" },
            "quota_and_limits": {
                "type": "string",
                "description": "Whether they have room now, where nothing else refuses."
            },
            "rule": rule,
            "rules_count": { "type": "integer", "description": "The user's rules of this kind." }
        });
        for (name, schema) in more.as_object().into_iter().flatten() {
            properties[name] = schema.clone();
        }
        json!({ "type": "object", "properties": properties, "required": ["served"] })
    };
    let of_models = explained(json!({
        "model_served": { "type": "string" },
        "permission": { "type": "string", "description": "The pattern that lets it pass." },
        "forward_headers": {
            "type": "array", "items": { "type": "string" },
            "description": "Headers of the caller's that go up since the provider names them."
        },
        "targets": {
            "type": "array", "items": target,
            "description": "Of an alias with several, in the order in which they are asked."
        }
    }));
    let user = || Param::text("user_name", "Who would call.").required();
    let scope = "provider_name";
    vec![
        Route::new("GET", "/admin/api/explain", "explain", "May a user call a model?", model)
            .asks(vec![
                user(),
                Param::text("model", "The model as it would be sent.").required(),
                Param::text(scope, "In this provider's scope."),
            ])
            .answers(200, of_models),
        Route::new(
            "GET",
            "/admin/api/explain/files",
            "explain_files",
            "May a user use a provider's files and batches?",
            files,
        )
        .asks(vec![user(), Param::text(scope, "Whose files.").required()])
        .answers(200, explained(json!({}))),
    ]
}

fn asked<'c>(call: &'c Call<'_>, name: &str) -> &'c str {
    Call::text(&call.query, name).unwrap_or_default()
}

fn unknown(field: &str) -> Fault {
    let why = "there is none of that name, or it is disabled";
    Fault { field: Some(field.to_owned()), ..Fault::new(404, why) }
}

fn model(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    let snapshot = &call.request.snapshot;
    let model = asked(call, "model");
    let user =
        user_named(snapshot, asked(call, "user_name")).ok_or_else(|| unknown("user_name"))?;
    let scope = match Call::text(&call.query, "provider_name") {
        Some(name) => {
            let provider = snapshot.provider_named(name);
            Some(provider.ok_or_else(|| unknown("provider_name"))?)
        }
        None => None,
    };
    let first = match plan::resolve(snapshot, scope, model) {
        Ok(target) => target,
        Err(error) => return Ok(Answer::ok(refused(call, user, error, model))),
    };
    // The order of an alias's first turn; later ones begin elsewhere.
    let targets = plan::targets(snapshot, scope, model, |_| 0);
    let served = match targets.is_empty() {
        true => Some(first).filter(|target| is_admitted(snapshot, user, target).is_ok()),
        false => targets.iter().copied().find(|one| is_admitted(snapshot, user, one).is_ok()),
    };
    let mut told = match served {
        Some(target) => {
            let rule = rule_of(snapshot, user, &target);
            let provider = &snapshot.providers[target.provider];
            let mut told = json!({
                "served": true, "provider": provider.name, "model_served": target.model_served,
                "forward_headers": provider.forward_headers,
                "permission": rule.map_or("", |rule| rule.pattern.as_str()),
                "rule": rule.map(|rule| of_models(call, user, rule)),
                "rules_count": snapshot.users[user].permissions.len()
            });
            ask_room(call, user, target.permission_name, &mut told);
            told
        }
        None => {
            let target = targets.first().unwrap_or(&first);
            let error = is_admitted(snapshot, user, target).err();
            let mut told = refused(call, user, error.unwrap_or(RouteError::Forbidden), model);
            told["provider"] = snapshot.providers[target.provider].name.as_str().into();
            told["model_served"] = target.model_served.into();
            told
        }
    };
    if !targets.is_empty() {
        let shown = |target: &Target<'_>| {
            let rule = rule_of(snapshot, user, target);
            json!({
                "provider": snapshot.providers[target.provider].name,
                "model_served": target.model_served,
                "served": is_admitted(snapshot, user, target).is_ok(),
                "rule": rule.map(|rule| of_models(call, user, rule))
            })
        };
        told["targets"] = targets.iter().map(shown).collect();
    }
    Ok(Answer::ok(told))
}

/// The last gate: what is spent and counted by now.
fn ask_room(call: &Call<'_>, user: usize, name: &str, told: &mut Value) {
    let user = &call.request.snapshot.users[user];
    let standing = standing::of(call, user);
    match decision::find_room(user, None, name, Some(&standing)) {
        Ok(says) => told["quota_and_limits"] = says.into(),
        Err(refusal) => {
            told["served"] = false.into();
            told["status"] = refusal.status.into();
            told["message"] = refusal.message.as_ref().into();
            told["quota_and_limits"] = "there is no room".into();
        }
    }
}

fn is_admitted(snapshot: &Snapshot, user: usize, target: &Target<'_>) -> Result<(), RouteError> {
    let provider = &snapshot.providers[target.provider];
    // Any dialect that it speaks: which one a call would come in is not known.
    let dialect = provider.dialects().iter().next().unwrap_or(Dialect::ALL[0]);
    plan::admit(snapshot, user, target, dialect).map(drop)
}

/// The first rule that lets the user call the target.
fn rule_of<'s>(snapshot: &'s Snapshot, user: usize, target: &Target<'_>) -> Option<&'s Permission> {
    snapshot.users[user].permissions.iter().find(|rule| {
        rule.provider.is_none_or(|only| only == target.provider)
            && rule.pattern.matches(target.permission_name)
    })
}

fn files(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    let snapshot = &call.request.snapshot;
    let user =
        user_named(snapshot, asked(call, "user_name")).ok_or_else(|| unknown("user_name"))?;
    let name = asked(call, "provider_name");
    let provider = snapshot.provider_named(name).ok_or_else(|| unknown("provider_name"))?;
    let count = snapshot.users[user].file_permissions.len();
    let mut told = match snapshot.permits_files(user, provider) {
        true => {
            let mut row = Map::new();
            row.insert("user_name".into(), snapshot.users[user].name.as_str().into());
            row.insert("provider_name".into(), name.into());
            let text = format!("files and batches at {name}");
            let rule = shown(call, "file_permissions", &row, text);
            let mut told = json!({ "served": true, "rule": rule });
            ask_room(call, user, "", &mut told);
            told
        }
        false => refused(call, user, RouteError::ForbiddenFiles, ""),
    };
    told["provider"] = name.into();
    told["rules_count"] = count.into();
    Ok(Answer::ok(told))
}

fn refused(call: &Call<'_>, user: usize, error: RouteError, model: &str) -> Value {
    let refusal = Refusal::from(error);
    let refusal = if model.is_empty() { refusal } else { refusal.about_model(model) };
    let mut told = json!({
        "served": false, "status": refusal.status, "message": refusal.message
    });
    if matches!(error, RouteError::Forbidden | RouteError::ForbiddenFiles) {
        told["rule"] = Value::Null;
        told["rules_count"] = call.request.snapshot.users[user].permissions.len().into();
    }
    told
}

/// A rule of `[[permissions]]` with its name and its place.
fn of_models(call: &Call<'_>, user: usize, rule: &Permission) -> Value {
    let snapshot = &call.request.snapshot;
    let pattern = rule.pattern.as_str();
    let mut row = Map::new();
    row.insert("user_name".into(), snapshot.users[user].name.as_str().into());
    row.insert("model_pattern".into(), pattern.into());
    let mut text = format!("models {pattern}");
    if let Some(provider) = rule.provider {
        let name = snapshot.providers[provider].name.as_str();
        row.insert("provider_name".into(), name.into());
        text.push_str(&format!(" at {name}"));
    }
    shown(call, "permissions", &row, text)
}

fn shown(call: &Call<'_>, section: &str, row: &Map<String, Value>, text: String) -> Value {
    let Some(kind) = kind::named(section) else { return Value::Null };
    let id = kind.id(row);
    let rows = entities::rows(&call.api.state.lock(), kind);
    let line = rows.iter().find(|row| row.id == id).and_then(|row| row.line);
    let mut told = json!({
        "section": section, "id": id, "text": text, "declared": line.is_some()
    });
    if let Some(line) = line {
        told["line"] = line.into();
    }
    told
}
