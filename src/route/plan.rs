//! From a model's name, as it was sent, to the provider and model that serve it.
//!
//! An exact alias wins, then a provider's prefix; in a provider's scope its own aliases win, then
//! its redundant prefix is dropped, and any other name goes up as it is. What is disabled does not
//! exist. The order is the same for every dialect.

use crate::dialect::Dialect;
use crate::dialect::endpoint::Endpoint;
use crate::route::channel::{Destination, Dialects};
use crate::route::snapshot::{Alias, AliasTarget, Snapshot};

/// Who serves a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'t> {
    /// Index into the snapshot's providers.
    pub provider: usize,
    /// The name as it was sent.
    pub model_asked: &'t str,
    /// The name that goes up.
    pub model_served: &'t str,
    /// The reply says `model_asked`; otherwise it passes untouched.
    pub renamed: bool,
    /// What permissions are tested against: the name as sent, without its provider prefix.
    pub permission_name: &'t str,
}

/// Why nobody serves a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// Neither an alias nor a provider's prefix.
    ProviderPrefix,
    /// The model, its alias or its provider is disabled.
    NoSuchModel,
    /// The provider does not speak the caller's dialect, but these.
    DialectNotSpoken(Dialects),
    /// The user may not call it.
    Forbidden,
    /// The user may not touch files there.
    ForbiddenFiles,
    /// No model is named, and what is permitted to the user there does not cover that.
    ForbiddenProvider,
    /// The header names no provider.
    NoSuchProvider,
    /// Nobody learns what it costs, and the user has a quota.
    Unmetered,
}

/// Whether the user may make a call of which no reply tells what it costs.
pub fn admit_unmetered(snapshot: &Snapshot, user: usize) -> Result<(), RouteError> {
    let counts = !snapshot.users[user].quotas.is_empty() && !snapshot.logging.serve_unmetered;
    if counts { Err(RouteError::Unmetered) } else { Ok(()) }
}

/// Finds who serves the model. `scope`: the provider that the path named.
pub fn resolve<'t>(
    snapshot: &'t Snapshot,
    scope: Option<usize>,
    asked: &'t str,
) -> Result<Target<'t>, RouteError> {
    let target = match scope {
        Some(provider) => resolve_scoped(snapshot, provider, asked)?,
        None => resolve_aggregated(snapshot, asked)?,
    };
    let enabled = snapshot.is_enabled(target.provider, target.model_served);
    if !enabled || target.model_served.is_empty() {
        return Err(RouteError::NoSuchModel);
    }
    Ok(target)
}

fn resolve_aggregated<'t>(
    snapshot: &'t Snapshot,
    asked: &'t str,
) -> Result<Target<'t>, RouteError> {
    if let Some(alias) = snapshot.alias_named(asked) {
        if !alias.enabled {
            return Err(RouteError::NoSuchModel);
        }
        let (provider, model_id) = first(snapshot, alias, None);
        return Ok(renamed(provider, asked, model_id, asked));
    }
    let (prefix, rest) = asked.split_once('/').ok_or(RouteError::ProviderPrefix)?;
    let provider = snapshot.any_provider_named(prefix).ok_or(RouteError::ProviderPrefix)?;
    behind_prefix(snapshot, provider, asked, rest)
}

fn resolve_scoped<'t>(
    snapshot: &'t Snapshot,
    scope: usize,
    asked: &'t str,
) -> Result<Target<'t>, RouteError> {
    if let Some(served) = alias_of(snapshot, scope, asked)? {
        return Ok(renamed(scope, asked, served, asked));
    }
    let provider = &snapshot.providers[scope];
    // Ids of providers such as OpenRouter begin with a vendor's name, which may be the provider's.
    if !provider.models.contains_key(asked)
        && let Some((prefix, rest)) = asked.split_once('/')
        && prefix == provider.name
    {
        return behind_prefix(snapshot, scope, asked, rest);
    }
    Ok(Target {
        provider: scope,
        model_asked: asked,
        model_served: asked,
        renamed: false,
        permission_name: asked,
    })
}

/// The part behind a provider's prefix: one of its aliases, or its own name for a model.
fn behind_prefix<'t>(
    snapshot: &'t Snapshot,
    provider: usize,
    asked: &'t str,
    rest: &'t str,
) -> Result<Target<'t>, RouteError> {
    let served = alias_of(snapshot, provider, rest)?.unwrap_or(rest);
    Ok(renamed(provider, asked, served, rest))
}

/// What the name stands for at this provider; an alias that leads to another does not count.
fn alias_of<'s>(
    snapshot: &'s Snapshot,
    provider: usize,
    name: &str,
) -> Result<Option<&'s str>, RouteError> {
    match snapshot.alias_named(name).filter(|alias| alias.is_at(provider)) {
        Some(alias) if alias.enabled => Ok(Some(first(snapshot, alias, Some(provider)).1)),
        Some(_) => Err(RouteError::NoSuchModel),
        None => Ok(None),
    }
}

/// The first that an alias stands for and that exists, at this provider or at any.
fn first<'s>(snapshot: &Snapshot, alias: &'s Alias, at: Option<usize>) -> (usize, &'s str) {
    let mut fitting = alias.all().filter(|(provider, _)| at.is_none_or(|at| at == *provider));
    let first = fitting.next().unwrap_or((alias.provider, &alias.model_id));
    let mut all = std::iter::once(first).chain(fitting);
    all.find(|(provider, model)| snapshot.is_enabled(*provider, model)).unwrap_or(first)
}

/// All targets of an alias that has several, in the order in which they are asked; none for any
/// other name. `turn` gives the number of the alias's turn.
pub fn targets<'t>(
    snapshot: &'t Snapshot,
    scope: Option<usize>,
    asked: &'t str,
    turn: impl FnOnce(usize) -> u64,
) -> Vec<Target<'t>> {
    let alias = match snapshot.has_targets {
        true => snapshot.alias_named(asked).filter(|alias| !alias.targets.is_empty()),
        false => None,
    };
    let Some(alias) = alias else { return Vec::new() };
    let turn = turn(alias.place);
    let fits = |target: &&AliasTarget| {
        scope.is_none_or(|scope| scope == target.provider)
            && snapshot.is_enabled(target.provider, &target.model_id)
    };
    let mut all: Vec<&AliasTarget> = Vec::with_capacity(alias.targets.len());
    for tier in alias.targets.chunk_by(|one, other| one.tier == other.tier) {
        let fitting: Vec<&AliasTarget> = tier.iter().filter(fits).collect();
        let total: u64 = fitting.iter().map(|target| u64::from(target.weight)).sum();
        let mut at = turn.checked_rem(total).unwrap_or_default();
        let first = fitting.iter().position(|target| {
            let weight = u64::from(target.weight);
            let found = at < weight;
            at = at.saturating_sub(weight);
            found
        });
        let first = first.unwrap_or_default();
        all.extend(fitting[first..].iter().chain(&fitting[..first]));
    }
    all.into_iter().map(|target| renamed(target.provider, asked, &target.model_id, asked)).collect()
}

/// Who serves a call for which only one is asked: the first of an alias's targets that fits. Where
/// none does, or the name is no such alias's, as [`resolve`] says.
pub fn first_that<'t>(
    snapshot: &'t Snapshot,
    scope: Option<usize>,
    asked: &'t str,
    fits: impl Fn(&Target<'_>) -> bool,
) -> Result<Target<'t>, RouteError> {
    let first = resolve(snapshot, scope, asked)?;
    let all = targets(snapshot, scope, asked, |_| 0);
    Ok(all.into_iter().find(|target| fits(target)).unwrap_or(first))
}

fn renamed<'t>(
    provider: usize,
    model_asked: &'t str,
    model_served: &'t str,
    permission_name: &'t str,
) -> Target<'t> {
    Target { provider, model_asked, model_served, renamed: true, permission_name }
}

/// The last two gates, in their order: does the provider speak the dialect, may the user call it.
pub fn admit<'s>(
    snapshot: &'s Snapshot,
    user: usize,
    target: &Target<'_>,
    dialect: Dialect,
) -> Result<&'s Destination, RouteError> {
    let provider = &snapshot.providers[target.provider];
    let destination = provider
        .destination(dialect)
        .ok_or_else(|| RouteError::DialectNotSpoken(provider.dialects()))?;
    if !snapshot.permits(user, target.provider, target.permission_name) {
        return Err(RouteError::Forbidden);
    }
    Ok(destination)
}

/// The same for a call of this endpoint. Who asks after what was made there needs no more than
/// for anything that was: by which name it was asked for is not remembered.
pub fn admit_call<'s>(
    snapshot: &'s Snapshot,
    user: usize,
    target: &Target<'_>,
    endpoint: &Endpoint,
) -> Result<&'s Destination, RouteError> {
    let is_open = endpoint.asks_after() && snapshot.permits_any(user, target.provider);
    match snapshot.providers[target.provider].destination(endpoint.dialect) {
        Some(destination) if is_open => Ok(destination),
        _ => admit(snapshot, user, target, endpoint.dialect),
    }
}

/// The call names a model as its vendor does, which says nothing of the provider: that is found as
/// for a call that names none.
pub fn is_vendors(
    snapshot: &Snapshot,
    scope: Option<usize>,
    asked: &str,
    endpoint: &Endpoint,
) -> bool {
    let is_bare = || resolve(snapshot, None, asked) == Err(RouteError::ProviderPrefix);
    endpoint.asks_after() && scope.is_none() && is_bare()
}

/// What a call that names no model needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// `[[file_permissions]]`.
    Files,
    /// Some permission at the provider: the call works on what others made.
    Any,
    /// A permission for every model: the provider chooses which one answers.
    Every,
}

/// Who serves a call that names no model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// This provider.
    One(usize),
    /// Several could; the caller has to say which.
    Several(Vec<usize>),
}

/// Finds who serves a call that names no model: the provider of the scope, the one that the caller
/// names, or the only one that speaks the dialect and is permitted.
pub fn choose(
    snapshot: &Snapshot,
    user: usize,
    scope: Option<usize>,
    named: Option<&str>,
    dialect: Dialect,
    need: Need,
) -> Result<Chosen, RouteError> {
    let may = |provider| match need {
        Need::Files => snapshot.permits_files(user, provider),
        Need::Any => snapshot.permits_any(user, provider),
        Need::Every => snapshot.permits_every(user, provider),
    };
    let refused = match need {
        Need::Files => RouteError::ForbiddenFiles,
        Need::Any | Need::Every => RouteError::ForbiddenProvider,
    };
    let named = match (scope, named) {
        (None, Some(name)) => {
            Some(snapshot.provider_named(name).ok_or(RouteError::NoSuchProvider)?)
        }
        (scope, _) => scope,
    };
    let speaks = |provider: usize| snapshot.providers[provider].destination(dialect).is_some();
    if let Some(provider) = named {
        if !speaks(provider) {
            return Err(RouteError::DialectNotSpoken(snapshot.providers[provider].dialects()));
        }
        return if may(provider) { Ok(Chosen::One(provider)) } else { Err(refused) };
    }
    let enabled = |provider: &usize| snapshot.providers[*provider].enabled;
    let all = (0..snapshot.providers.len()).filter(enabled);
    let fitting: Vec<usize> = all.filter(|provider| speaks(*provider) && may(*provider)).collect();
    match fitting.as_slice() {
        [] => Err(refused),
        [only] => Ok(Chosen::One(*only)),
        _ => Ok(Chosen::Several(fitting)),
    }
}

#[cfg(test)]
mod tests;
