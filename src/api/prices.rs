//! What models cost, and which row says so.

use serde_json::{Value, json};

use super::Call;
use super::answer::{Answer, Fault};
use super::entities;
use super::route::{Param, Route};
use crate::dialect::usage::{ServiceTier, Usage};
use crate::limits;
use crate::route::price::PriceSource;
use crate::route::sheet::sheet;
use crate::route::snapshot::Provider;

pub(super) fn routes() -> Vec<Route> {
    let item = json!({
        "type": "object",
        "properties": {
            "provider_name": { "type": "string" },
            "model_id": { "type": "string" },
            "priced": { "type": "boolean" },
            "source": { "enum": ["alias", "model", "pattern", "list", "default"] },
            "from": { "type": "string", "description": "Which row, or list, it is." },
            "price": {
                "type": "object",
                "description": "USD, first tier, default service, by the file's names."
            }
        },
        "required": ["provider_name", "model_id", "priced"]
    });
    let asked = vec![
        Param::count("limit", 1, limits::API_ITEMS_MAX as i64, "Items of a page; 100."),
        Param::count("cursor", 0, i64::MAX, "Where the last page ended."),
        Param::text("provider_name", "Of exactly this provider."),
        Param::text("model_id", "Of exactly this model, declared or not; needs provider_name."),
    ];
    let says = "What models cost, and where that stands.";
    let route = Route::new("GET", "/admin/api/prices", "list_prices", says, list);
    vec![route.asks(asked).answers(200, entities::list_by(item, "integer"))]
}

fn list(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    let number = |name: &str, default| {
        call.query.get(name).and_then(Value::as_u64).unwrap_or(default) as usize
    };
    let (limit, cursor) = (number("limit", 100), number("cursor", 0));
    let wanted = Call::text(&call.query, "provider_name");
    let providers = call.request.snapshot.providers.iter();
    let providers = providers.filter(|provider| wanted.is_none_or(|name| name == provider.name));
    let mut all: Vec<(&Provider, &str)> = Vec::new();
    for provider in providers {
        match (Call::text(&call.query, "model_id"), wanted) {
            (Some(model), Some(_)) => all.push((provider, model)),
            (Some(_), None) => {}
            _ => all.extend(provider.models.keys().map(|model| (provider, model.as_str()))),
        }
    }
    let items: Vec<Value> = all.iter().skip(cursor).take(limit).map(item).collect();
    let end = cursor.saturating_add(limit);
    let next = (end < all.len()).then_some(end);
    Ok(Answer::ok(json!({ "items": items, "next_cursor": next })))
}

fn item(&(provider, model): &(&Provider, &str)) -> Value {
    let mut item = json!({ "provider_name": provider.name, "model_id": model, "priced": false });
    if let Some((source, row)) = provider.priced(model, model) {
        let applied = row.applied(&Usage::default(), ServiceTier::Default);
        let price = serde_json::from_str::<Value>(&applied.to_json()).unwrap_or_default();
        let from = match source {
            PriceSource::Alias | PriceSource::Model => model.to_owned(),
            PriceSource::Pattern(pattern) => pattern.to_owned(),
            PriceSource::List => format!("list prices of {}", sheet().taken_on),
            PriceSource::Default => "default".to_owned(),
        };
        item["priced"] = true.into();
        item["source"] = source.name().into();
        item["from"] = from.into();
        item["price"] = price;
    }
    item
}
