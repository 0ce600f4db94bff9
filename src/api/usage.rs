//! What was used and what it cost: rows with filters, and sums by what they have in common.

use serde_json::{Map, Value, json};

use super::answer::{Answer, Fault};
use super::kind::MONEY;
use super::route::{Area, Param, Route};
use super::{Call, entities};
use crate::ledger::LedgerError;
use crate::ledger::query::{Filter, Page, Reader};
use crate::ledger::sums::Group;
use crate::limits;
use crate::money;

/// By what sums can be taken.
const GROUPS: [(&str, Group); 10] = [
    ("user", Group::User),
    ("user_key", Group::Key),
    ("provider", Group::Provider),
    ("model", Group::Model),
    ("model_served", Group::ModelServed),
    ("operation", Group::Operation),
    ("status", Group::Status),
    ("outcome", Group::Outcome),
    ("hour", Group::Hour),
    ("day", Group::Day),
];

/// The column that concerns upstreams: users are not told of it.
const INTERNAL: &str = "credential_id";

pub(super) fn routes() -> Vec<Route> {
    let mut all = Vec::new();
    let names: Vec<&str> = GROUPS.iter().map(|(name, _)| *name).collect();
    let names = names.join("|");
    for (area, whose) in [("admin", "everybody's"), ("user", "the caller's")] {
        let is_admin = area == "admin";
        let path = format!("/{area}/api/usage");
        let mut asked = filters(is_admin);
        asked.extend([
            Param::spelled("cost_min", MONEY.to_owned(), "USD at least."),
            Param::text("request_id", "The request of exactly this id."),
            Param::count("cursor", 0, i64::MAX, "Where the last page ended."),
            Param::count("limit", 1, limits::API_ITEMS_MAX as i64, "Rows of a page; 100."),
        ]);
        let says = format!("Requests, {whose}, the last first.");
        all.push(
            Route::new("GET", &path, &format!("{area}_usage"), &says, rows)
                .asks(asked)
                .answers(200, entities::list_by(row_schema(is_admin), "integer")),
        );
        let mut asked = filters(is_admin);
        asked.push(Param::spelled(
            "by",
            format!("^({names})(,({names}))*$"),
            "What they have in common, with commas between.",
        ));
        let says = format!("Sums of requests, {whose}.");
        let sums = json!({
            "type": "object",
            "properties": { "items": { "type": "array", "items": { "type": "object" } } },
            "required": ["items"]
        });
        let path = format!("{path}/sums");
        all.push(
            Route::new("GET", &path, &format!("{area}_usage_sums"), &says, self::sums)
                .asks(asked)
                .answers(200, sums),
        );
    }
    all
}

fn filters(is_admin: bool) -> Vec<Param> {
    let mut all = vec![
        Param::count("from", 0, i64::MAX, "Admitted then or later; milliseconds since 1970."),
        Param::count("to", 0, i64::MAX, "Admitted before."),
        Param::text("user_key", "With the key of this id; `*` and `?` as in patterns, below too."),
        Param::text("provider_name", "At this provider."),
        Param::text("model", "The model or alias as asked for."),
        Param::text("model_served", "The model that served."),
        Param::text("operation", "The endpoint's name."),
        Param::text("outcome", "How it ended."),
        Param::count("status_min", 0, 999, "The least status."),
        Param::count("status_max", 0, 999, "The highest status."),
    ];
    if is_admin {
        all.push(Param::text("user_name", "Of exactly this user."));
    }
    all
}

/// Schema of a row. Which credential was presented is told to administrators alone.
pub(super) fn row_schema(is_admin: bool) -> Value {
    let mut properties = Map::new();
    for name in
        ["request_id", "user", "user_key", "provider", "model", "model_served", "cost", "outcome"]
    {
        properties.insert(name.to_owned(), json!({ "type": "string" }));
    }
    let counts = ["input_tokens", "output_tokens", "tool_calls", "images"];
    for name in ["at", "status", "attempts", "total_ms"].into_iter().chain(counts) {
        properties.insert(name.to_owned(), json!({ "type": "integer" }));
    }
    let says = "False: its model had no price, so it cost nothing.";
    properties.insert("priced".into(), json!({ "type": "boolean", "description": says }));
    if is_admin {
        let says = "Place of the credential that was presented among the provider's, from 0.";
        properties
            .insert(INTERNAL.into(), json!({ "type": ["integer", "null"], "description": says }));
    }
    json!({ "type": "object", "properties": properties })
}

/// A text of the query.
pub(super) fn text(call: &Call<'_>, name: &str) -> Option<String> {
    Call::text(&call.query, name).map(str::to_owned)
}

/// A number of the query.
pub(super) fn number(call: &Call<'_>, name: &str) -> Option<i64> {
    call.query.get(name).and_then(Value::as_i64)
}

/// The least and the highest status, where one of them is asked for.
pub(super) fn status_of(call: &Call<'_>) -> Option<(u16, u16)> {
    let bound = |name| number(call, name).and_then(|status| u16::try_from(status).ok());
    let (least, most) = (bound("status_min"), bound("status_max"));
    (least.is_some() || most.is_some()).then(|| (least.unwrap_or(0), most.unwrap_or(999)))
}

/// The filter of a query. Users see their own and nothing else.
fn filter(call: &Call<'_>) -> Result<Filter, Fault> {
    let (text, number) = (|name| text(call, name), |name| number(call, name));
    let user = match call.area {
        Area::Admin => text("user_name"),
        Area::User => Some(call.user()?.name.clone()),
    };
    let cost_min = text("cost_min")
        .map(|cost| money::parse(&cost, money::DOLLARS_MAX))
        .transpose()
        .map_err(|why| Fault::invalid("cost_min", why))?;
    Ok(Filter {
        from_ms: number("from"),
        to_ms: number("to"),
        user,
        user_key: text("user_key"),
        provider: text("provider_name"),
        model: text("model"),
        model_served: text("model_served"),
        operation: text("operation"),
        outcome: text("outcome"),
        status: status_of(call),
        cost_min,
        request_id: text("request_id"),
    })
}

fn reader(call: &Call<'_>) -> Result<Reader, Fault> {
    Reader::open(&call.api.folder).map_err(unreadable)
}

/// What a caller is told of books that cannot be read.
pub(super) fn unreadable(error: LedgerError) -> Fault {
    log::error!(target: "gproxy::api", "{error}");
    Fault::new(503, "the database cannot be read now")
}

/// The row of this request, the caller's own or anybody's for administrators.
pub(super) fn row_of(call: &Call<'_>, id: &str) -> Result<Option<Map<String, Value>>, Fault> {
    let filter = Filter { request_id: Some(id.to_owned()), ..filter(call)? };
    Ok(page_of(call, &filter, None, 1)?.rows.into_iter().next())
}

/// A page of rows, without what the caller is not told.
fn page_of(
    call: &Call<'_>,
    filter: &Filter,
    cursor: Option<i64>,
    limit: usize,
) -> Result<Page, Fault> {
    let mut page = reader(call)?.rows(filter, cursor, limit).map_err(unreadable)?;
    if call.area == Area::User {
        page.rows.iter_mut().for_each(|row| drop(row.remove(INTERNAL)));
    }
    Ok(page)
}

fn rows(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    let limit = call.query.get("limit").and_then(Value::as_u64).unwrap_or(100) as usize;
    let cursor = call.query.get("cursor").and_then(Value::as_i64);
    let page = page_of(call, &filter(call)?, cursor, limit)?;
    Ok(Answer::ok(json!({ "items": page.rows, "next_cursor": page.next })))
}

fn sums(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    let told = Call::text(&call.query, "by").into_iter();
    let mut by = Vec::new();
    for name in told.flat_map(|told| told.split(',')) {
        let group = GROUPS.iter().find(|(known, _)| *known == name);
        let (_, group) = group.ok_or_else(|| {
            let known: Vec<&str> = GROUPS.iter().map(|(name, _)| *name).collect();
            Fault::invalid("by", format!("must be of {}", known.join(", ")))
        })?;
        if !by.contains(group) {
            by.push(*group);
        }
    }
    let items = reader(call)?.sums(&filter(call)?, &by).map_err(unreadable)?;
    Ok(Answer::ok(json!({ "items": items })))
}
