//! What would happen to a request, gate by gate, calling nobody.
//!
//! Takes the same functions in the same order as a request does: who calls, path, body, route,
//! dialect, permission; then what is known of quotas and limits. It stops at the first gate that is
//! shut and says what the caller would read.

use serde_json::{Map, Value, json};

use crate::dialect::ask::{self, Ask};
use crate::dialect::endpoint::{ENDPOINTS, ModelPlace};
use crate::dialect::path::{self, PathError, Route};
use crate::dialect::refusal::Refusal;
use crate::dialect::{Dialect, live, models, resource};
use crate::edge;
use crate::route::listing;
use crate::route::plan::{self, Chosen, Need, RouteError, Target};
use crate::route::quota::{Spent, Standing};
use crate::route::rate::{IN_FLIGHT, Limited};
use crate::route::snapshot::{Key, Provider, Snapshot, User};
use crate::wire::WireError;

/// The gate that asks them.
const ROOM: &str = "quota and limits";

/// A request that might be made.
#[derive(Debug, Default)]
pub struct Question<'q> {
    /// Its method.
    pub method: &'q str,
    /// Its path and query.
    pub path: &'q str,
    /// Who calls; `None`: nobody who may.
    pub user: Option<usize>,
    /// With which of his keys, where that is known.
    pub key: Option<usize>,
    /// How his quotas and limits stand, where the books are at hand.
    pub standing: Option<&'q Standing>,
    /// Its body.
    pub body: Vec<u8>,
    /// The model that it names, where that is known without its body.
    pub model: Option<&'q str>,
}

/// Everything that was decided about a request.
#[derive(Debug, Default)]
pub struct Decision {
    /// Name of each gate, and what was found there.
    pub steps: Vec<(&'static str, String)>,
    /// The same for programs.
    pub facts: Map<String, Value>,
    /// What the caller would be told; `None`: it would be served.
    pub refusal: Option<Refusal>,
}

/// What is known of a request that was made.
#[derive(Debug, Default)]
pub struct Past<'p> {
    /// Whose it was.
    pub user: Option<usize>,
    /// How his quotas and limits stand now.
    pub standing: Option<&'p Standing>,
    /// Name of its endpoint.
    pub operation: &'p str,
    /// The model as it was asked for; empty: none was.
    pub model: &'p str,
    /// Who served it, or was to; empty: that is not known.
    pub provider: &'p str,
    /// Its method and its path with the query, where they were logged.
    pub logged: Option<(&'p str, &'p str)>,
}

/// Decides about a request.
pub fn decide(snapshot: &Snapshot, question: Question<'_>) -> Decision {
    let mut decision = Decision::default();
    decision.refusal = pass(snapshot, question, &mut decision).err();
    decision
}

/// Decides, as it would be now, about a request that was made; `None`: too little is known of it.
pub fn again(snapshot: &Snapshot, past: &Past<'_>) -> Option<Decision> {
    let is_provider = |name: &str| snapshot.provider_named(name).is_some();
    let Past { user, standing, .. } = *past;
    let question = |method, path, model| Question {
        method,
        path,
        user,
        key: None,
        standing,
        body: Vec::new(),
        model,
    };
    let logged = past.logged.filter(|(method, path)| {
        // What a socket's path would be otherwise is no answer.
        !(*method == "GET" && matches!(live::parse(path, &is_provider), Ok(Some(_))))
            && (past.model.is_empty() || path::parse(method, path, &is_provider).is_ok())
    });
    let model = Some(past.model).filter(|model| !model.is_empty());
    let decided = |question| {
        let mut decision = decide(snapshot, question);
        if past.user.is_none() {
            decision.step("key", "whose it was is not here any more, or is disabled".to_owned());
        }
        decision
    };
    if let Some((method, path)) = logged {
        return Some(decided(question(method, path, model)));
    }
    let (model, path) = (model?, usual_path(past.operation, past.model)?);
    // Where it was called is not known: a name that none knows was asked of one provider.
    let is_scoped = plan::resolve(snapshot, None, model).is_err() && is_provider(past.provider);
    let scope = if is_scoped { format!("/{}", past.provider) } else { String::new() };
    Some(decided(question("POST", &format!("{scope}{path}"), Some(model))))
}

/// A path at which the endpoint is called.
fn usual_path(operation: &str, model: &str) -> Option<String> {
    let endpoint = ENDPOINTS.iter().find(|endpoint| endpoint.name == operation)?;
    if !endpoint.model.is_in_path() {
        return Some(format!("/v1/{}", endpoint.tail));
    }
    let spelled = model.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    });
    Some(format!("/v1beta/models/{}:{}", spelled.collect::<String>(), endpoint.tail))
}

impl Decision {
    fn step(&mut self, name: &'static str, says: String) {
        self.steps.push((name, says));
    }

    fn fact(&mut self, name: &str, value: impl Into<Value>) {
        self.facts.insert(name.to_owned(), value.into());
    }

    /// All of it for programs.
    pub fn to_json(&self) -> Map<String, Value> {
        let step = |(name, says): &(&str, String)| json!({ "step": name, "says": says });
        let mut all = self.facts.clone();
        all.insert("served".to_owned(), self.refusal.is_none().into());
        all.insert("steps".to_owned(), self.steps.iter().map(step).collect());
        if let Some(refusal) = &self.refusal {
            all.insert("status".to_owned(), refusal.status.into());
            all.insert("message".to_owned(), refusal.message.as_ref().into());
        }
        all
    }
}

/// The gates in their order.
fn pass(
    snapshot: &Snapshot,
    mut question: Question<'_>,
    decision: &mut Decision,
) -> Result<(), Refusal> {
    let user = question.user.ok_or_else(Refusal::unauthorized)?;
    let name = &snapshot.users[user].name;
    decision.step("key", format!("of the user {name:?}"));
    decision.fact("user", name.as_str());

    let is_provider = |name: &str| snapshot.provider_named(name).is_some();
    let route = match path::parse(question.method, question.path, &is_provider) {
        Ok(route) => route,
        Err(error) => return pass_nameless(snapshot, &question, user, error, decision),
    };
    note_route(&route, decision);
    if let Some(asked) = question.model {
        return pass_model(snapshot, user, &route, (asked, None), question, decision);
    }
    if route.endpoint.model == ModelPlace::Multipart {
        let says = "stands in the form's field `model`, which is not read here".to_owned();
        decision.step("model", says);
        return pass_room(snapshot, user, &question, "", decision);
    }
    if question.body.len() as u64 > snapshot.limits.body_bytes_max {
        return Err(WireError::BodyTooLong.into());
    }
    let deployment = route.deployment.as_deref();
    let ask = ask::scan_deployed(route.endpoint, &mut question.body, deployment)?;
    let named = match route.endpoint.model {
        ModelPlace::Resource => ask.model.clone().map(path::normal_name),
        _ => ask.model.clone(),
    };
    let asked = named.as_deref().or(route.model.as_deref()).unwrap_or_default();
    if asked.is_empty() {
        let scope = scope_of(snapshot, &route);
        let dialect = route.endpoint.dialect;
        return pass_choice(snapshot, user, (scope, dialect, Need::Every), &question, decision);
    }
    pass_model(snapshot, user, &route, (asked, Some(&ask)), question, decision)
}

/// The gates of a call that names a model.
fn pass_model(
    snapshot: &Snapshot,
    user: usize,
    route: &Route<'_>,
    (asked, ask): (&str, Option<&Ask>),
    mut question: Question<'_>,
    decision: &mut Decision,
) -> Result<(), Refusal> {
    let is_stream = ask.is_some_and(|ask| ask.stream);
    let stream = if is_stream { ", as a stream" } else { "" };
    decision.step("model", format!("{asked:?}{stream}"));
    decision.fact("model_asked", asked);
    if ask.is_some() {
        decision.fact("stream", is_stream);
    }

    let about = |error| Refusal::from(error).about_model(asked);
    let scope = match scope_of(snapshot, route) {
        scope if plan::is_vendors(snapshot, scope, asked, route.endpoint) => {
            Some(chosen(snapshot, user, (scope, route.endpoint.dialect, Need::Any))?)
        }
        scope => scope,
    };
    let first = plan::resolve(snapshot, scope, asked).map_err(about)?;
    let dialect = route.endpoint.dialect;
    let target = first_of(snapshot, user, scope, asked, dialect, decision).unwrap_or(first);
    note_target(snapshot, &target, decision);
    let place = plan::admit_call(snapshot, user, &target, route.endpoint).map_err(about)?;
    if route.endpoint.is_batch() {
        plan::admit_unmetered(snapshot, user)?;
    }
    let (permitted, name) = (target.permission_name, &snapshot.users[user].name);
    decision.step("permission", format!("{permitted:?} is permitted to {name:?}"));

    if let Some(ask) = ask {
        rewrite(ask, route, &target, std::mem::take(&mut question.body))?;
    }
    pass_room(snapshot, user, &question, permitted, decision)?;
    let provider = &snapshot.providers[target.provider];
    if provider.is_echo() {
        decision.step("upstream", "none: the channel echo answers by itself".to_owned());
        return Ok(());
    }
    let (rest, served) = (&route.query_to(place.is_dated()), target.model_served);
    let url = place.url(route.endpoint, route.version, served, route.collection, rest, is_stream);
    let with = match (place.auth.header(), provider.credentials.len()) {
        (Some((header, _)), 1..) => format!(" with a credential in `{header}`"),
        _ => " without a credential".to_owned(),
    };
    decision.step("upstream", format!("{} {url}{with}", question.method));
    decision.fact("url", url);
    note_headers(provider, decision);
    note_hedge(provider.hedges(route.endpoint), decision);
    Ok(())
}

/// Which headers of the caller's go up for being named in the provider's settings.
fn note_headers(provider: &Provider, decision: &mut Decision) {
    let named = &provider.forward_headers;
    if !named.is_empty() && !provider.is_echo() {
        decision.step("headers", format!("also up, where they are sent: {}", named.join(", ")));
        decision.fact("forward_headers", named.as_slice());
    }
}

/// That a second credential may be asked.
fn note_hedge(floor_ms: Option<u64>, decision: &mut Decision) {
    let Some(floor_ms) = floor_ms else { return };
    let says =
        format!("another credential when silent for longer than usual, and for {floor_ms} ms");
    decision.step("hedge", says);
    decision.fact("hedge_ms_min", floor_ms);
}

fn scope_of(snapshot: &Snapshot, route: &Route<'_>) -> Option<usize> {
    route.scope.as_deref().and_then(|name| snapshot.provider_named(name))
}

/// The gates of a call that names no model, or asks for the list of them.
fn pass_nameless(
    snapshot: &Snapshot,
    question: &Question<'_>,
    user: usize,
    error: PathError,
    decision: &mut Decision,
) -> Result<(), Refusal> {
    let is_provider = |name: &str| snapshot.provider_named(name).is_some();
    let family = path::family(question.path, &|_| false);
    if let Some(listing) = models::parse(question.method, question.path, family, &is_provider) {
        let listing = listing?;
        let scope = listing.scope.as_deref().and_then(|name| snapshot.provider_named(name));
        let count = listing::entries(snapshot, &listing::Live::new(), user, scope).len();
        decision.step("path", format!("models: {count} may be called, and the gateway answers"));
        decision.fact("endpoint", "models");
        return Ok(());
    }
    let call = match resource::parse(question.method, question.path, family, &is_provider) {
        Ok(call) => call,
        Err(PathError::NotFound) => return Err(error.into()),
        Err(other) => return Err(other.into()),
    };
    let endpoint = &call.resource.endpoint;
    decision.step("path", format!("{} ({}), no model", endpoint.name, endpoint.dialect.name()));
    decision.fact("endpoint", endpoint.name);
    decision.fact("dialect", endpoint.dialect.name());
    let scope = call.scope.as_deref().and_then(|name| snapshot.provider_named(name));
    let need = match call.resource {
        resource if resource.is_file => Need::Files,
        resource if resource.unseen && question.method != "GET" => Need::Every,
        _ => Need::Any,
    };
    if resource::is_unmetered(call.resource, question.method) {
        plan::admit_unmetered(snapshot, user)?;
    }
    pass_choice(snapshot, user, (scope, endpoint.dialect, need), question, decision)
}

/// The gate "quota and limits".
fn pass_room(
    snapshot: &Snapshot,
    user: usize,
    question: &Question<'_>,
    name: &str,
    decision: &mut Decision,
) -> Result<(), Refusal> {
    let user = &snapshot.users[user];
    let key = question.key.and_then(|at| user.keys.get(at));
    let says = find_room(user, key, name, question.standing)?;
    decision.step(ROOM, says.to_owned());
    Ok(())
}

/// Whether the user's quotas and limits have room for a call of this name, which is said. Where
/// nothing is known of the books only what allows nothing is shut.
pub fn find_room(
    user: &User,
    key: Option<&Key>,
    name: &str,
    standing: Option<&Standing>,
) -> Result<&'static str, Refusal> {
    let of_key = key.and_then(|key| Some((key, key.in_flight?)));
    let rules = user.rate_limits.iter().enumerate();
    let rules: Vec<_> = rules.filter(|(_, rule)| rule.pattern.matches(name)).collect();
    if user.quotas.is_empty() && rules.is_empty() && of_key.is_none() {
        return Ok("none counts this call");
    }
    for (at, quota) in user.quotas.iter().enumerate() {
        let known = standing.and_then(|standing| standing.quotas.get(at));
        let [used, reserved] = known.map_or([0, 0], |known| [known.used, known.reserved]);
        let ceiling = known.map_or(quota.ceiling, |known| known.ceiling);
        if used.saturating_add(reserved) >= ceiling {
            return Err(Spent { window: quota.window, used, reserved, ceiling }.into());
        }
    }
    let limited = |pattern: &str, of_key, counter, limit| {
        Err(edge::reached(Limited {
            pattern: pattern.into(),
            of_key,
            counter,
            limit,
            reset_ms: None,
        }))
    };
    for (at, rule) in rules {
        let known = standing.and_then(|standing| standing.limits.get(at));
        let limits = [rule.rpm, rule.rpd, rule.total_tokens, rule.in_flight];
        let counters = ["rpm", "rpd", "total_tokens", IN_FLIGHT].into_iter().zip(limits);
        for ((counter, limit), level) in counters.zip(known.copied().unwrap_or_default()) {
            if let Some(limit) = limit.filter(|limit| level >= *limit) {
                return limited(rule.pattern.as_str(), false, counter, limit);
            }
        }
    }
    match of_key {
        Some((key, 0)) => limited(&key.shown, true, IN_FLIGHT, 0),
        _ if standing.is_none() => Ok("not tested here"),
        _ => Ok("there is room"),
    }
}

/// The gates of a call without a model; no header names its provider here.
fn pass_choice(
    snapshot: &Snapshot,
    user: usize,
    which: (Option<usize>, Dialect, Need),
    question: &Question<'_>,
    decision: &mut Decision,
) -> Result<(), Refusal> {
    let name = |at: usize| snapshot.providers[at].name.as_str();
    let provider = chosen(snapshot, user, which)?;
    decision.step("route", format!("{} and permitted", name(provider)));
    decision.fact("provider", name(provider));
    pass_room(snapshot, user, question, "", decision)?;
    note_headers(&snapshot.providers[provider], decision);
    Ok(())
}

/// The provider of a call that does not say it.
fn chosen(
    snapshot: &Snapshot,
    user: usize,
    (scope, dialect, need): (Option<usize>, Dialect, Need),
) -> Result<usize, Refusal> {
    match plan::choose(snapshot, user, scope, None, dialect, need)? {
        Chosen::One(provider) => Ok(provider),
        Chosen::Several(providers) => {
            let name = |at: usize| snapshot.providers[at].name.as_str();
            Err(Refusal::which_provider(providers.into_iter().map(name)))
        }
    }
}

/// The target of an alias that would be asked first, of several. The first turn is shown.
fn first_of<'t>(
    snapshot: &'t Snapshot,
    user: usize,
    scope: Option<usize>,
    asked: &'t str,
    dialect: Dialect,
    decision: &mut Decision,
) -> Option<Target<'t>> {
    let targets = plan::targets(snapshot, scope, asked, |_| 0);
    let mut first = None;
    let mut facts = Vec::new();
    for target in targets {
        let provider = &snapshot.providers[target.provider].name;
        let name = format!("{provider}/{}", target.model_served);
        let found = plan::admit(snapshot, user, &target, dialect);
        let says = match found {
            Ok(_) if first.is_none() => "is asked first",
            Ok(_) => "is asked when those before it fail",
            Err(RouteError::Forbidden) => "is skipped: not permitted",
            Err(_) => "is skipped: it does not speak the dialect",
        };
        decision.step("target", format!("{name} {says}"));
        facts.push(json!({ "target": name, "asked": found.is_ok() }));
        if found.is_ok() {
            first.get_or_insert(target);
        }
    }
    if !facts.is_empty() {
        decision.fact("targets", facts);
    }
    first
}

/// A body that names another model than the path is found when it is rewritten.
fn rewrite(
    ask: &Ask,
    route: &Route<'_>,
    target: &Target<'_>,
    body: Vec<u8>,
) -> Result<(), Refusal> {
    let mut body = body;
    let served = target.model_served;
    match (route.endpoint.model, &route.model) {
        (ModelPlace::Path, Some(asked)) => {
            ask.rewrite(&mut body, None, Some((asked, served)), false)?;
        }
        _ => ask.rewrite(&mut body, Some(served), None, false)?,
    }
    Ok(())
}

fn note_route(route: &Route<'_>, decision: &mut Decision) {
    let endpoint = route.endpoint;
    let scope = match route.scope.as_deref() {
        Some(provider) => format!("in the scope of {provider}"),
        None => "for every provider".to_owned(),
    };
    decision.step("path", format!("{} ({}), {scope}", endpoint.name, endpoint.dialect.name()));
    decision.fact("endpoint", endpoint.name);
    decision.fact("dialect", endpoint.dialect.name());
    decision.fact("scope", route.scope.as_deref());
}

fn note_target(snapshot: &Snapshot, target: &Target<'_>, decision: &mut Decision) {
    let provider = &snapshot.providers[target.provider];
    let (name, channel, served) = (&provider.name, provider.channel.name, target.model_served);
    let reply = if target.renamed {
        format!("the reply says {:?}", target.model_asked)
    } else {
        "the reply passes untouched".to_owned()
    };
    decision.step("route", format!("{served:?} at {name} on channel {channel}; {reply}"));
    decision.fact("provider", name.as_str());
    decision.fact("channel", channel);
    decision.fact("model_served", served);
    decision.fact("renamed", target.renamed);
    decision.fact("permission_name", target.permission_name);
}

#[cfg(test)]
mod tests;
