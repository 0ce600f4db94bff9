//! Lists, makes, changes and deletes what can be made: the same five calls for every section.

use std::sync::atomic::Ordering;

use serde_json::{Map, Value, json};

use super::answer::{Answer, Fault};
use super::kind::{self, Is, Kind, Shape};
use super::route::{Param, Route};
use super::seal;
use super::store::{self, Kept, State, put};
use super::{Call, Interface, standing};
use crate::config::declared::{self, Declared};
use crate::ledger::entities::{Change, Edit, Record};
use crate::limits;
use crate::password;
use crate::route::quota::Window;
use crate::route::snapshot::{Key, Snapshot};
use crate::secret::Digest;

/// A row for people.
pub(super) struct Shown {
    pub(super) id: String,
    /// The line of the file that declares it.
    pub(super) line: Option<usize>,
    pub(super) value: Map<String, Value>,
    times: Option<(i64, i64)>,
}

/// Whether this row may be changed, or why not.
type May<'m> = &'m dyn Fn(&Map<String, Value>) -> Result<(), Fault>;

/// The routes of a section.
pub(super) fn routes(kind: &'static Kind) -> Vec<Route> {
    let list = format!("/admin/api/{}", kind.section);
    let one = format!("{list}/{{id}}");
    let (name, section) = (kind.one, kind.section);
    let route = |method, path: &str, verb: &str, says: String, run| {
        let name = format!("{verb}_{}", section.trim_end_matches('s'));
        Route { kind: Some(kind), ..Route::new(method, path, &name, &says, run) }
    };
    let shown = || kind.shown();
    let mut made = kind.written();
    if section == "user_keys" {
        made["properties"]["api_key"] =
            json!({ "type": "string", "description": "The key, shown this once." });
    }
    let mut all = vec![
        Route {
            name: format!("list_{section}"),
            ..route("GET", &list, "", format!("Every {name}."), self::list)
        }
        .asks(params(kind))
        .answers(200, list_of(shown())),
        route("POST", &list, "make", format!("Makes a {name}."), create)
            .takes(kind.asked(false))
            .answers(201, made),
        route("GET", &one, "show", format!("One {name}."), get).answers(200, shown()),
        route("DELETE", &one, "delete", format!("Deletes a {name}, and what hangs on it."), delete)
            .answers(204, Value::Null),
    ];
    let change = kind.asked(true);
    if change["properties"].as_object().is_some_and(|fields| !fields.is_empty()) {
        let says = format!("Changes a {name}; null takes a field back to its default.");
        all.push(
            route("PATCH", &one, "change", says, patch).takes(change).answers(200, kind.written()),
        );
    }
    all
}

/// A page of a list of names.
pub(super) fn list_of(item: Value) -> Value {
    list_by(item, "string")
}

/// A page of a list with a cursor of that type.
pub(super) fn list_by(item: Value, cursor: &str) -> Value {
    json!({
        "type": "object",
        "properties": {
            "items": { "type": "array", "items": item },
            "next_cursor": { "type": [cursor, "null"], "description": "For the next page." }
        },
        "required": ["items", "next_cursor"]
    })
}

/// Parameters of every list.
pub(super) fn paging() -> Vec<Param> {
    vec![
        Param::count("limit", 1, limits::API_ITEMS_MAX as i64, "Items of a page; 100."),
        Param::text("cursor", "Where the last page ended."),
    ]
}

fn params(kind: &Kind) -> Vec<Param> {
    let mut all = paging();
    for field in kind.fields {
        match field.name {
            "user_name" | "provider_name" | "channel" => {
                all.push(Param::text(field.name, "Those with exactly this."));
            }
            "enabled" => all.push(Param::flag("enabled", "Those that are, or are not.")),
            _ => {}
        }
    }
    all.push(Param::flag("declared", "Those of the file, or those made here."));
    all
}

fn kind_of(route: &Route) -> Result<&'static Kind, Fault> {
    route.kind.ok_or_else(Fault::not_found)
}

/// Every row of a section, declared and made, by name.
pub(super) fn rows(state: &State, kind: &Kind) -> Vec<Shown> {
    let mut rows: Vec<Shown> = Vec::new();
    let mut counts = std::collections::HashMap::new();
    for Declared { section, line, value, .. } in &state.declared {
        if *section != kind.section {
            continue;
        }
        let id = match *section {
            "credentials" => {
                let provider = Call::text(value, "provider_name").unwrap_or_default();
                let count: &mut usize = counts.entry(provider).or_default();
                *count += 1;
                format!("{provider}:{count}")
            }
            _ => kind.id(value),
        };
        rows.push(Shown { id, line: Some(*line), value: value.clone(), times: None });
    }
    for kept in state.kept.iter().filter(|kept| kept.section == kind.section) {
        let times = Some((kept.made_ms, kept.changed_ms));
        let mut value = kept.value.clone();
        if kind.section == "users" {
            value.insert("has_password".into(), value.contains_key("password").into());
        }
        rows.push(Shown { id: kept.id.clone(), line: None, value, times });
    }
    for row in &mut rows {
        row.value.retain(|name, value| {
            let secret = kind.field(name).is_some_and(|field| field.is == Is::Secret);
            !secret && name != "api_key" && !value.is_null()
        });
        // The file may write an amount as a number; here all are text.
        for (name, value) in row.value.iter_mut().filter(|(_, value)| value.is_number()) {
            if kind.field(name).is_some_and(|field| matches!(field.shape, Shape::Money)) {
                *value = Value::from(value.to_string());
            }
        }
        if kind.fields.iter().any(|field| field.name == "enabled") {
            row.value.entry("enabled").or_insert(true.into());
        }
    }
    rows.sort_by(|one, other| one.id.cmp(&other.id));
    rows
}

impl Shown {
    pub(super) fn json(mut self, call: &Call<'_>, kind: &Kind) -> Value {
        standing::fill_in(call, kind, &self.id, &mut self.value);
        let mut value = self.value;
        value.insert("id".into(), self.id.into());
        value.insert("declared".into(), self.line.is_some().into());
        if let Some(line) = self.line {
            value.insert("line".into(), line.into());
        }
        if let Some((made_ms, changed_ms)) = self.times {
            value.insert("made_at".into(), made_ms.into());
            value.insert("changed_at".into(), changed_ms.into());
        }
        Value::Object(value)
    }
}

/// A page of `rows`, which are sorted by name, of those that pass the query.
pub(super) fn page(call: &Call<'_>, kind: &Kind, rows: Vec<Shown>) -> Answer {
    let limit = call.query.get("limit").and_then(Value::as_u64).unwrap_or(100) as usize;
    let cursor = Call::text(&call.query, "cursor").unwrap_or_default();
    let passes = |row: &Shown| {
        call.query.iter().all(|(name, wanted)| match name.as_str() {
            "limit" | "cursor" => true,
            "declared" => wanted.as_bool() == Some(row.line.is_some()),
            name => row.value.get(name) == Some(wanted),
        })
    };
    let mut rows = rows.into_iter().filter(|row| row.id.as_str() > cursor && passes(row));
    let items: Vec<Shown> = rows.by_ref().take(limit).collect();
    let more = rows.next().is_some();
    let next = items.last().filter(|_| more).map(|row| row.id.clone());
    let items: Vec<Value> = items.into_iter().map(|row| row.json(call, kind)).collect();
    Answer::ok(json!({ "items": items, "next_cursor": next }))
}

fn list(route: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    let kind = kind_of(route)?;
    let rows = rows(&call.api.state.lock(), kind);
    Ok(page(call, kind, rows))
}

fn get(route: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    let kind = kind_of(route)?;
    Ok(Answer::ok(shown(call, kind, &call.id)?))
}

fn shown(call: &Call<'_>, kind: &Kind, id: &str) -> Result<Value, Fault> {
    let rows = rows(&call.api.state.lock(), kind);
    let row = rows.into_iter().find(|row| row.id == id).ok_or_else(Fault::not_found)?;
    Ok(row.json(call, kind))
}

pub(super) fn create(route: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    make(kind_of(route)?, call, call.body.clone(), &|_| Ok(()))
}

/// Makes a row of what was sent, if it may stand beside those that were made.
pub(super) fn make(
    kind: &'static Kind,
    call: &Call<'_>,
    mut value: Map<String, Value>,
    may: &dyn Fn(&[Kept]) -> Result<(), Fault>,
) -> Result<Answer, Fault> {
    let mut key = None;
    if kind.section == "user_keys" {
        let made = seal::new_key().ok_or_else(|| Fault::new(503, "no randomness"))?;
        value.insert("api_key".into(), Digest::of(made.as_bytes()).to_text().into());
        value.insert("hint".into(), declared::hint(&made).into());
        key = Some(made);
    }
    let first = value.remove("credentials");
    let id = match kind.section {
        "credentials" => {
            let providers = kind::named("providers").ok_or_else(Fault::not_found)?;
            let provider = Call::text(&value, "provider_name").unwrap_or_default();
            own(&call.api.state.lock(), providers, provider).map_err(|fault| {
                match fault.status {
                    404 => {
                        let fault = Fault::new(409, "there is no such provider");
                        Fault { field: Some("provider_name".to_owned()), ..fault }
                    }
                    _ => fault,
                }
            })?;
            credential_id(&value)?
        }
        _ => kind.id(&value),
    };
    hide(kind, call.api, &id, &mut value)?;
    let mut added = vec![(kind.section, id.clone(), value)];
    for credential in first.as_ref().and_then(Value::as_array).into_iter().flatten() {
        let Value::Object(mut value) = credential.clone() else { continue };
        value.insert("provider_name".into(), id.clone().into());
        let of = credential_id(&value)?;
        let kind = kind::named("credentials").ok_or_else(Fault::not_found)?;
        hide(kind, call.api, &of, &mut value)?;
        added.push(("credentials", of, value));
    }
    let mut state = call.api.state.lock();
    may(&state.kept)?;
    if rows(&state, kind).iter().any(|row| row.id == id) {
        return Err(Fault::new(409, format!("this {} exists already", kind.one)));
    }
    let now_ms = call.api.core.unix_ms();
    let mut kept = state.kept.clone();
    let mut edits = Vec::new();
    for (section, id, value) in added {
        edits.push(put(section, &id, &value));
        kept.push(Kept { section, id, value, made_ms: now_ms, changed_ms: now_ms });
    }
    let is_it = |row: &&Kept| row.section == kind.section && row.id == id;
    // The file's quota of that name, or one that an older version deleted, has left some.
    let quotas: Vec<(String, Window)> =
        kept.iter().filter(is_it).filter_map(standing::quota_in).collect();
    edits.extend(standing::forgetting(&quotas));
    let change = change(call, "create", kind, &id, None, kept.iter().find(is_it));
    let about = Some((kind.section, id.as_str()));
    let warnings = commit(call.api, &mut state, kept, Change { edits, ..change }, about)?;
    standing::forget(call, &mut state, &quotas);
    drop(state);
    // The tables of the request are those of before: what is live shows at the next look.
    let mut made = written(call, kind, &id, warnings)?;
    if let Some(key) = key {
        made["api_key"] = key.into();
    }
    Ok(Answer::made(made))
}

fn credential_id(value: &Map<String, Value>) -> Result<String, Fault> {
    let provider = Call::text(value, "provider_name").unwrap_or_default();
    let number = seal::random::<5>().ok_or_else(|| Fault::new(503, "no randomness"))?;
    Ok(format!("{provider}:{}", seal::hex(&number)))
}

/// Puts what may be kept in the place of what may not.
fn hide(
    kind: &Kind,
    api: &Interface,
    id: &str,
    value: &mut Map<String, Value>,
) -> Result<(), Fault> {
    if let Some(password) = Call::text(value, "password") {
        let hash = match password::is_hash(password) {
            true => Some(password.to_owned()),
            false => password::hash(password),
        };
        let hash = hash.ok_or_else(|| Fault::new(503, "no randomness"))?;
        value.insert("password".into(), hash.into());
    }
    match kind.section {
        "credentials" => hide_credential(api, id, value),
        _ => Ok(()),
    }
}

/// The same for a credential: its secret becomes a text, sealed where there is a master key.
fn hide_credential(api: &Interface, id: &str, value: &mut Map<String, Value>) -> Result<(), Fault> {
    let (name, secret, hint) = match (value.get("api_key"), value.get(store::ACCOUNT)) {
        (Some(_), Some(_)) => {
            let why = "a credential has either an api_key or a service_account";
            return Err(Fault::invalid(store::ACCOUNT, why));
        }
        (Some(Value::String(key)), None) => {
            if key.starts_with("env:") || seal::is_sealed(key) {
                let why = "write the secret itself: variables are read for the file alone";
                return Err(Fault::invalid("api_key", why));
            }
            ("api_key", key.clone(), declared::hint(key))
        }
        (None, Some(Value::Object(account))) => {
            let text = Value::from(account.clone()).to_string();
            if text.len() as u64 > limits::ACCOUNT_BYTES_MAX {
                return Err(Fault::invalid(store::ACCOUNT, "is longer than such a file is"));
            }
            let email = Call::text(account, "client_email").unwrap_or_default();
            (store::ACCOUNT, text, email.chars().take(256).collect())
        }
        _ => return Ok(()),
    };
    value.insert("hint".into(), hint.into());
    let kept = match &api.sealer {
        None => secret,
        Some(sealer) => sealer.seal(&secret, id).ok_or_else(|| Fault::new(503, "no randomness"))?,
    };
    value.insert(name.into(), kept.into());
    Ok(())
}

/// A row that was made here, or why it cannot be changed.
fn own(state: &State, kind: &Kind, id: &str) -> Result<usize, Fault> {
    let own = state.kept.iter().position(|row| row.section == kind.section && row.id == id);
    own.ok_or_else(|| {
        let declared = rows(state, kind).into_iter().find(|row| row.id == id);
        match declared.and_then(|row| row.line) {
            Some(line) => {
                let why = format!("the file declares this on line {line}: change it there");
                Fault { code: "declared", ..Fault::new(409, why) }
            }
            None => Fault::not_found(),
        }
    })
}

pub(super) fn patch(route: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    let kind = kind_of(route)?;
    change_one(kind, call, &call.id, &|_| Ok(()))
}

/// Changes the row of that name, if it may be.
pub(super) fn change_one(
    kind: &'static Kind,
    call: &Call<'_>,
    id: &str,
    may: May<'_>,
) -> Result<Answer, Fault> {
    let mut told = call.body.clone();
    hide(kind, call.api, id, &mut told)?;
    let mut state = call.api.state.lock();
    let at = own(&state, kind, id)?;
    may(&state.kept[at].value)?;
    let mut kept = state.kept.clone();
    let before = kept[at].clone();
    if store::SECRETS.iter().any(|name| told.contains_key(*name)) {
        // The one that is told takes the place of the one that was.
        kept[at].value.retain(|name, _| !store::SECRETS.contains(&name.as_str()));
    }
    for (name, value) in told {
        match value {
            Value::Null => kept[at].value.remove(&name),
            value => kept[at].value.insert(name, value),
        };
    }
    kept[at].changed_ms = call.api.core.unix_ms();
    let edits = vec![put(kind.section, id, &kept[at].value)];
    let change = change(call, "change", kind, id, Some(&before), kept.get(at));
    let about = Some((kind.section, id));
    let warnings = commit(call.api, &mut state, kept, Change { edits, ..change }, about)?;
    drop(state);
    if kind.section == "users" && call.body.contains_key("password") {
        call.api.sessions.close_all(id);
    }
    Ok(Answer::ok(written(call, kind, id, warnings)?))
}

/// One that was just made or changed, and what the configuration's rules warn of in it.
fn written(call: &Call<'_>, kind: &Kind, id: &str, warnings: Vec<String>) -> Result<Value, Fault> {
    let mut row = shown(call, kind, id)?;
    if !warnings.is_empty() {
        row["warnings"] = warnings.into();
    }
    Ok(row)
}

pub(super) fn delete(route: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    delete_one(kind_of(route)?, call, &call.id, &|_| Ok(()))
}

/// Deletes the row of that name, if it may be, and what would mean nothing without it.
pub(super) fn delete_one(
    kind: &'static Kind,
    call: &Call<'_>,
    id: &str,
    may: May<'_>,
) -> Result<Answer, Fault> {
    let mut state = call.api.state.lock();
    let at = own(&state, kind, id)?;
    may(&state.kept[at].value)?;
    let goes = |row: &Kept| {
        (row.section == kind.section && row.id == id) || row.hangs_on(kind.section, id)
    };
    let (gone, kept): (Vec<Kept>, Vec<Kept>) = state.kept.iter().cloned().partition(goes);
    let edit = |row: &Kept| Edit::Delete { section: row.section, id: row.id.clone() };
    let mut edits: Vec<Edit> = gone.iter().map(edit).collect();
    // A quota of the same name that is made later is another one.
    let quotas: Vec<(String, Window)> = gone.iter().filter_map(standing::quota_in).collect();
    edits.extend(standing::forgetting(&quotas));
    let went_with = gone.iter().filter(|row| (row.section, row.id.as_str()) != (kind.section, id));
    let mut records: Vec<Record> = went_with
        .map(|row| Record {
            before: Some(without_secrets(row)),
            ..record(call, "delete", (row.section, &row.id))
        })
        .collect();
    records.extend(change(call, "delete", kind, id, state.kept.get(at), None).records);
    commit(call.api, &mut state, kept, Change { edits, records }, None)?;
    standing::forget(call, &mut state, &quotas);
    drop(state);
    if kind.section == "users" {
        call.api.sessions.close_all(id);
    }
    Ok(Answer::nothing())
}

/// A change without its edits.
fn change(
    call: &Call<'_>,
    action: &'static str,
    kind: &Kind,
    id: &str,
    before: Option<&Kept>,
    after: Option<&Kept>,
) -> Change {
    let record = Record {
        before: before.map(without_secrets),
        after: after.map(without_secrets),
        ..record(call, action, (kind.section, id))
    };
    Change { edits: Vec::new(), records: vec![record] }
}

/// A row as the audit keeps it.
fn without_secrets(row: &Kept) -> String {
    let mut value = row.value.clone();
    for name in ["api_key", "password", store::ACCOUNT] {
        if value.contains_key(name) {
            value.insert(name.into(), "***".into());
        }
    }
    Value::from(value).to_string()
}

/// Checks the rows by the configuration's rules, writes the change, and puts the tables in place.
/// What they warn of in the row `about` comes back.
pub(super) fn commit(
    api: &Interface,
    state: &mut State,
    kept: Vec<Kept>,
    mut change: Change,
    about: Option<(&str, &str)>,
) -> Result<Vec<String>, Fault> {
    if kept.len() > limits::API_ROWS_MAX {
        return Err(Fault::new(409, "there are too many rows"));
    }
    let made = store::made(&kept, api.sealer.as_ref())?;
    let own = about.and_then(|(section, id)| store::place_of(&kept, section, id));
    let loaded = api.source.load(state.text.expose(), &made, &mut state.named);
    let loaded = loaded.map_err(|errors| Fault::of_config(&errors, own))?;
    if let Some(fault) = Fault::of_fence(&loaded.fenced, own) {
        return Err(fault);
    }
    if loaded.forbidden.iter().any(|error| own.is_some() && error.row == own) {
        return Err(Fault::of_config(&loaded.forbidden, own));
    }
    // What hangs on nothing any more would be left behind.
    if loaded.forbidden.len() > state.idle {
        return Err(Fault::of_config(&loaded.forbidden, None));
    }
    has_admin(&loaded.snapshot)?;
    leaves_a_way_in(api, &loaded.snapshot)?;
    let unseen = state.unseen(&loaded);
    change.edits.extend(unseen.edits());
    write(api, change)?;
    state.see(unseen, &api.books.accounts);
    state.kept = kept;
    state.idle = loaded.forbidden.len();
    api.core.swap(loaded.snapshot);
    let mine = loaded.made_warnings.into_iter().filter(|one| own.is_some() && one.row == own);
    Ok(mine.map(|one| format!("{}: {}", one.key, one.why)).collect())
}

/// Whether the tables have somebody who may use the interface.
pub(super) fn has_admin(snapshot: &Snapshot) -> Result<(), Fault> {
    let has_one = snapshot.users.iter().any(|user| user.enabled && user.is_admin);
    let why = "nobody would be left who may use this interface: an administrator has to stay";
    has_one.then_some(()).ok_or_else(|| Fault::new(409, why))
}

/// Whether an administrator can still call or log in after a change, if one can before it.
fn leaves_a_way_in(api: &Interface, after: &Snapshot) -> Result<(), Fault> {
    let now_ms = api.core.unix_ms();
    let opens = |key: &Key| {
        let expires_ms = key.terms.as_ref().and_then(|terms| terms.expires_ms);
        key.enabled && expires_ms.is_none_or(|at| at > now_ms)
    };
    let has_one = |snapshot: &Snapshot| {
        let mut admins = snapshot.users.iter().filter(|user| user.enabled && user.is_admin);
        admins.any(|user| user.password.is_some() || user.keys.iter().any(opens))
    };
    let why = "nobody would be left who can log in here: an administrator with a key or a \
               password has to stay";
    // Where none can, users still change what is their own.
    let is_left = has_one(after) || !has_one(&api.core.snapshot());
    is_left.then_some(()).ok_or_else(|| Fault::new(409, why))
}

/// Who does what, now, to what: without what it was and is.
pub(super) fn record(call: &Call<'_>, action: &'static str, about: (&'static str, &str)) -> Record {
    Record::new(call.api.core.unix_ms(), &call.who(), action, about)
}

/// Writes down who did what changes no row. It is done already, so a failure is only logged.
pub(super) fn note(api: &Interface, record: Record) {
    let what = format!("{} of {:?}", record.action, record.entity);
    if let Err(fault) = write(api, Change { edits: Vec::new(), records: vec![record] }) {
        log::error!(target: "gproxy::api", "{what} is not noted: {}", fault.message);
    }
}

/// Writes a change, or says that the books cannot be written now.
pub(super) fn write(api: &Interface, change: Change) -> Result<(), Fault> {
    if api.stands_still.load(Ordering::Acquire) {
        let fields = vec![("retry-after", "1".to_owned())];
        let message = "another process takes over from this one; try again in a moment";
        return Err(Fault { fields, ..Fault::new(503, message) });
    }
    api.ledger.change(change).map_err(|why| {
        log::error!(target: "gproxy::api", "a change cannot be written: {why}");
        Fault::new(503, "the database cannot be written now; nothing was changed")
    })
}
