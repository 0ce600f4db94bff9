//! Which models a user sees: those that he may call.

use std::borrow::Cow;

use crate::dialect::models::Entry;
use crate::route::plan;
use crate::route::snapshot::{Model, Provider, Snapshot};

/// Every declared model and every alias that the user may call, under the names to call them by.
/// In a provider's scope these are its own names and aliases; else the provider's name stands in
/// front. The order is that of the configuration's providers, then of the names; aliases follow.
pub fn entries(snapshot: &Snapshot, user: usize, scope: Option<usize>) -> Vec<Entry<'_>> {
    let mut entries = Vec::new();
    for (at, provider) in snapshot.providers.iter().enumerate() {
        if !provider.enabled || scope.is_some_and(|scope| scope != at) {
            continue;
        }
        for (id, model) in provider.models.iter().filter(|(_, model)| model.enabled) {
            // A row of that name gives an alias its price; the alias itself follows below.
            let is_alias = snapshot.alias_named(id).is_some_and(|alias| alias.is_at(at));
            if !is_alias && snapshot.permits(user, at, id) {
                let name = match scope {
                    Some(_) => Cow::Borrowed(id.as_str()),
                    None => Cow::Owned(format!("{}/{id}", provider.name)),
                };
                entries.push(entry(name, provider, Some(model)));
            }
        }
    }
    for (name, alias) in snapshot.aliases() {
        let fits = |(at, model): &(usize, &str)| {
            scope.is_none_or(|scope| scope == *at)
                && snapshot.is_enabled(*at, model)
                && snapshot.permits(user, *at, name)
        };
        if let Some((at, model)) = alias.all().filter(|_| alias.enabled).find(fits) {
            let provider = &snapshot.providers[at];
            entries.push(entry(Cow::Borrowed(name), provider, provider.models.get(model)));
        }
    }
    entries
}

/// The one model of that name, as a call would find it: declared or an alias, and permitted.
pub fn find<'s>(
    snapshot: &'s Snapshot,
    user: usize,
    scope: Option<usize>,
    id: &'s str,
) -> Option<Entry<'s>> {
    let target = plan::resolve(snapshot, scope, id).ok()?;
    let provider = &snapshot.providers[target.provider];
    let model = provider.models.get(target.model_served);
    let is_alias = snapshot
        .alias_named(target.permission_name)
        .is_some_and(|alias| alias.is_at(target.provider));
    let seen = (model.is_some() || is_alias)
        && snapshot.permits(user, target.provider, target.permission_name);
    seen.then(|| entry(Cow::Borrowed(id), provider, model))
}

fn entry<'s>(id: Cow<'s, str>, provider: &'s Provider, model: Option<&'s Model>) -> Entry<'s> {
    Entry {
        id,
        owner: &provider.name,
        display_name: model.and_then(|model| model.display_name.as_deref()),
        max_input_tokens: model.and_then(|model| model.max_input_tokens),
        max_output_tokens: model.and_then(|model| model.max_output_tokens),
    }
}
