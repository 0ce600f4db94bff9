//! Which models a user sees: those that he may call.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use crate::dialect::listed::Listed;
use crate::dialect::models::Entry;
use crate::route::plan::{self, Target};
use crate::route::snapshot::{ListSource, Model, Provider, Snapshot};

/// The lists that upstreams gave, by the provider's name, each in the order of the ids.
pub type Live = HashMap<String, List>;
/// One of them.
pub type List = Arc<[Listed]>;

/// Every model and every alias that the user may call, under the names to call them by. In a
/// provider's scope these are its own names and aliases; else the provider's name stands in front.
/// The order is that of the configuration's providers, then of the names; aliases follow.
pub fn entries<'s>(
    snapshot: &'s Snapshot,
    live: &'s Live,
    user: usize,
    scope: Option<usize>,
) -> Vec<Entry<'s>> {
    let mut entries = Vec::new();
    for (at, provider) in snapshot.providers.iter().enumerate() {
        if !provider.enabled || scope.is_some_and(|scope| scope != at) {
            continue;
        }
        each_model(provider, live_of(provider, live), |id, model, listed| {
            // A row of that name gives an alias its price; the alias itself follows below.
            let is_alias = snapshot.alias_named(id).is_some_and(|alias| alias.is_at(at));
            let is_enabled = model.is_none_or(|model| model.enabled);
            if is_enabled && !is_alias && snapshot.permits(user, at, id) {
                let name = match scope {
                    Some(_) => Cow::Borrowed(id),
                    None => Cow::Owned(format!("{}/{id}", provider.name)),
                };
                entries.push(entry(name, provider, model, listed));
            }
        });
    }
    for (name, alias) in snapshot.aliases() {
        let fits = |(at, model): &(usize, &str)| {
            scope.is_none_or(|scope| scope == *at)
                && snapshot.is_enabled(*at, model)
                && snapshot.permits(user, *at, name)
        };
        if let Some((at, model)) = alias.all().filter(|_| alias.enabled).find(fits) {
            let provider = &snapshot.providers[at];
            let listed = listed_as(live_of(provider, live), model);
            entries.push(entry(Cow::Borrowed(name), provider, provider.models.get(model), listed));
        }
    }
    entries
}

/// The one model of that name, as a call would find it: listed or an alias, and permitted.
pub fn find<'s>(
    snapshot: &'s Snapshot,
    live: &'s Live,
    user: usize,
    scope: Option<usize>,
    id: &'s str,
) -> Option<Entry<'s>> {
    let may = |target: &Target<'_>| snapshot.permits(user, target.provider, target.permission_name);
    let target = plan::first_that(snapshot, scope, id, may).ok().filter(may)?;
    let provider = &snapshot.providers[target.provider];
    let model = provider.models.get(target.model_served);
    let list = live_of(provider, live);
    let listed = listed_as(list, target.model_served);
    let is_alias = snapshot
        .alias_named(target.permission_name)
        .is_some_and(|alias| alias.is_at(target.provider));
    let is_declared = model.is_some() && (list.is_none() || provider.lists == ListSource::Both);
    let is_listed = is_declared || listed.is_some() || is_alias;
    is_listed.then(|| entry(Cow::Borrowed(id), provider, model, listed))
}

/// The provider's live list; `None`: it wants none, or none has come yet.
fn live_of<'s>(provider: &Provider, live: &'s Live) -> Option<&'s [Listed]> {
    if provider.lists == ListSource::Static {
        return None;
    }
    live.get(&provider.name).map(|list| &**list)
}

fn listed_as<'s>(list: Option<&'s [Listed]>, id: &str) -> Option<&'s Listed> {
    let list = list?;
    let at = list.binary_search_by(|listed| listed.id.as_str().cmp(id)).ok()?;
    Some(&list[at])
}

/// Shows the models of a provider in the order of their ids: declared ones, live ones, or both.
/// Until the upstream's list has come, the declared ones stand in for it.
fn each_model<'s>(
    provider: &'s Provider,
    list: Option<&'s [Listed]>,
    mut show: impl FnMut(&'s str, Option<&'s Model>, Option<&'s Listed>),
) {
    let mut declared = provider.models.iter().peekable();
    let shows_declared = list.is_none() || provider.lists == ListSource::Both;
    for listed in list.unwrap_or_default() {
        while let Some((id, model)) = declared.next_if(|(id, _)| **id < listed.id) {
            if shows_declared {
                show(id, Some(model), None);
            }
        }
        let model = declared.next_if(|(id, _)| **id == listed.id);
        show(&listed.id, model.map(|(_, model)| model), Some(listed));
    }
    for (id, model) in declared.filter(|_| shows_declared) {
        show(id, Some(model), None);
    }
}

/// What is declared of a model counts for more than what its upstream says.
fn entry<'s>(
    id: Cow<'s, str>,
    provider: &'s Provider,
    model: Option<&'s Model>,
    listed: Option<&'s Listed>,
) -> Entry<'s> {
    let name = model.and_then(|model| model.display_name.as_deref());
    let input = model.and_then(|model| model.max_input_tokens);
    let output = model.and_then(|model| model.max_output_tokens);
    Entry {
        id,
        owner: &provider.name,
        display_name: name.or_else(|| listed?.display_name.as_deref()),
        max_input_tokens: input.or_else(|| listed?.max_input_tokens),
        max_output_tokens: output.or_else(|| listed?.max_output_tokens),
    }
}
