//! `gproxy explain`: what would happen to a request, gate by gate, calling nobody.
//!
//! Takes the same functions in the same order as a request does: key, path, body, route, dialect,
//! permission. It stops at the first gate that is shut and prints what the caller would read.

use std::io::{self, Read, Write};

use serde_json::{Map, Value, json};

use super::arguments::{Arguments, Question};
use super::{EXIT_MISTAKE, EXIT_WELL, Terminal, load};
use crate::dialect::ask::{self, Ask};
use crate::dialect::endpoint::ModelPlace;
use crate::dialect::path::{self, PathError, Route};
use crate::dialect::refusal::Refusal;
use crate::dialect::{Dialect, models, resource};
use crate::route::listing;
use crate::route::plan::{self, Chosen, Need, RouteError, Target};
use crate::route::snapshot::Snapshot;
use crate::secret::Secret;
use crate::wire::WireError;

/// The request would be refused.
const EXIT_REFUSED: u8 = 1;

/// Everything that was decided about a request.
struct Decision {
    /// Name of each gate, and what was found there.
    steps: Vec<(&'static str, String)>,
    /// The same for programs.
    facts: Map<String, Value>,
    refusal: Option<Refusal>,
}

/// Reads what the question names, decides, prints.
pub(super) fn run(
    question: &Question,
    arguments: &Arguments,
    terminal: &mut Terminal<'_>,
) -> io::Result<u8> {
    let Some(loaded) = load(arguments, terminal)? else { return Ok(EXIT_MISTAKE) };
    let body = match read_body(question, &loaded.snapshot, terminal) {
        Ok(body) => body,
        Err(error) => {
            writeln!(terminal.error, "--body: cannot be read: {error}")?;
            return Ok(EXIT_MISTAKE);
        }
    };
    let key = match read_key(question, terminal.environment) {
        Ok(key) => key,
        Err(variable) => {
            writeln!(terminal.error, "--key: the environment variable {variable} is not set")?;
            return Ok(EXIT_MISTAKE);
        }
    };
    let mut decision = Decision { steps: Vec::new(), facts: Map::new(), refusal: None };
    let snapshot = &loaded.snapshot;
    if let Err(refusal) = decide(snapshot, question, key.as_ref(), body, &mut decision) {
        decision.refusal = Some(refusal);
    }
    if question.json {
        write_json(&decision, terminal.out)?;
    } else {
        write_text(&decision, terminal.out)?;
    }
    Ok(if decision.refusal.is_some() { EXIT_REFUSED } else { EXIT_WELL })
}

/// `None`: no body was named. Longer than a request may be is read no further.
fn read_body(
    question: &Question,
    snapshot: &Snapshot,
    terminal: &mut Terminal<'_>,
) -> io::Result<Option<Vec<u8>>> {
    let Some(file) = &question.body else { return Ok(None) };
    let most = snapshot.limits.body_bytes_max.saturating_add(1);
    let mut body = Vec::new();
    if file == "-" {
        terminal.input.take(most).read_to_end(&mut body)?;
    } else {
        std::fs::File::open(file)?.take(most).read_to_end(&mut body)?;
    }
    Ok(Some(body))
}

/// The key as typed, of a variable, or in the query; or the name of a variable that is not set.
fn read_key(
    question: &Question,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<Secret>, String> {
    let Some(written) = &question.key else { return Ok(path::query_key(&question.path)) };
    match written.expose().strip_prefix("env:") {
        Some(variable) => match environment(variable) {
            Some(key) => Ok(Some(Secret::new(key.trim()))),
            None => Err(variable.to_owned()),
        },
        None => Ok(Some(written.clone())),
    }
}

impl Decision {
    fn step(&mut self, name: &'static str, says: String) {
        self.steps.push((name, says));
    }

    fn fact(&mut self, name: &str, value: impl Into<Value>) {
        self.facts.insert(name.to_owned(), value.into());
    }
}

/// The gates in their order.
fn decide(
    snapshot: &Snapshot,
    question: &Question,
    key: Option<&Secret>,
    body: Option<Vec<u8>>,
    decision: &mut Decision,
) -> Result<(), Refusal> {
    let caller = key.and_then(|key| snapshot.authenticate(key.expose().as_bytes()));
    let user = caller.ok_or_else(Refusal::unauthorized)?.user;
    let name = &snapshot.users[user].name;
    decision.step("key", format!("of the user {name:?}"));
    decision.fact("user", name.as_str());

    let is_provider = |name: &str| snapshot.provider_named(name).is_some();
    let route = match path::parse(&question.method, &question.path, &is_provider) {
        Ok(route) => route,
        Err(error) => return decide_nameless(snapshot, question, user, error, decision),
    };
    let scope = route.scope.as_deref().and_then(|name| snapshot.provider_named(name));
    note_route(&route, decision);

    if route.endpoint.model == ModelPlace::Multipart {
        let says = "stands in the form's field `model`, which is not read here".to_owned();
        decision.step("model", says);
        return Ok(());
    }
    let body = body.unwrap_or_default();
    if body.len() as u64 > snapshot.limits.body_bytes_max {
        return Err(WireError::BodyTooLong.into());
    }
    let ask = ask::scan(route.endpoint, &body)?;
    let named = match route.endpoint.model {
        ModelPlace::Resource => ask.model.clone().map(path::normal_name),
        _ => ask.model.clone(),
    };
    let asked = named.as_deref().or(route.model.as_deref()).unwrap_or_default();
    if asked.is_empty() {
        return choose(snapshot, user, scope, route.endpoint.dialect, Need::Every, decision);
    }
    let stream = if ask.stream { ", as a stream" } else { "" };
    decision.step("model", format!("{asked:?}{stream}"));
    decision.fact("model_asked", asked);
    decision.fact("stream", ask.stream);

    let about = |error| Refusal::from(error).about_model(asked);
    let first = plan::resolve(snapshot, scope, asked).map_err(about)?;
    let dialect = route.endpoint.dialect;
    let target = first_of(snapshot, user, scope, asked, dialect, decision).unwrap_or(first);
    note_target(snapshot, &target, decision);
    let place = plan::admit(snapshot, user, &target, dialect).map_err(about)?;
    let permitted = target.permission_name;
    decision.step("permission", format!("{permitted:?} is permitted to {name:?}"));

    rewrite(&ask, &route, &target, body)?;
    let provider = &snapshot.providers[target.provider];
    if provider.is_echo() {
        decision.step("upstream", "none: the channel echo answers by itself".to_owned());
        return Ok(());
    }
    let (rest, served, stream) = (&route.query.rest, target.model_served, ask.stream);
    let url = place.url(route.endpoint, route.version, served, route.collection, rest, stream);
    let with = match (place.auth.header(), provider.credentials.len()) {
        (Some((header, _)), 1..) => format!(" with a credential in `{header}`"),
        _ => " without a credential".to_owned(),
    };
    decision.step("upstream", format!("{} {url}{with}", question.method));
    decision.fact("url", url);
    note_hedge(provider.hedges(route.endpoint), decision);
    Ok(())
}

/// That a second credential may be asked.
fn note_hedge(floor_ms: Option<u64>, decision: &mut Decision) {
    let Some(floor_ms) = floor_ms else { return };
    let says =
        format!("another credential when silent for longer than usual, and for {floor_ms} ms");
    decision.step("hedge", says);
    decision.fact("hedge_ms_min", floor_ms);
}

/// The gates of a call that names no model, or asks for the list of them.
fn decide_nameless(
    snapshot: &Snapshot,
    question: &Question,
    user: usize,
    error: PathError,
    decision: &mut Decision,
) -> Result<(), Refusal> {
    let is_provider = |name: &str| snapshot.provider_named(name).is_some();
    let family = path::family(&question.path, &|_| false);
    if let Some(listing) = models::parse(&question.method, &question.path, family, &is_provider) {
        let listing = listing?;
        let scope = listing.scope.as_deref().and_then(|name| snapshot.provider_named(name));
        let count = listing::entries(snapshot, &listing::Live::new(), user, scope).len();
        decision.step("path", format!("models: {count} may be called, and the gateway answers"));
        decision.fact("endpoint", "models");
        return Ok(());
    }
    let call = match resource::parse(&question.method, &question.path, family, &is_provider) {
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
    choose(snapshot, user, scope, endpoint.dialect, need, decision)
}

/// Finds the provider of a call without a model; no header names one here.
fn choose(
    snapshot: &Snapshot,
    user: usize,
    scope: Option<usize>,
    dialect: Dialect,
    need: Need,
    decision: &mut Decision,
) -> Result<(), Refusal> {
    let name = |at: usize| snapshot.providers[at].name.as_str();
    match plan::choose(snapshot, user, scope, None, dialect, need)? {
        Chosen::One(provider) => {
            decision.step("route", format!("{} and permitted", name(provider)));
            decision.fact("provider", name(provider));
            Ok(())
        }
        Chosen::Several(providers) => Err(Refusal::which_provider(providers.into_iter().map(name))),
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

fn write_text(decision: &Decision, out: &mut dyn Write) -> io::Result<()> {
    for (name, says) in &decision.steps {
        writeln!(out, "{name:<12}{says}")?;
    }
    match &decision.refusal {
        Some(refusal) => writeln!(out, "{:<12}{}: {}", "refused", refusal.status, refusal.message),
        None => writeln!(out, "{:<12}it would be served", "verdict"),
    }
}

fn write_json(decision: &Decision, out: &mut dyn Write) -> io::Result<()> {
    let steps: Vec<Value> =
        decision.steps.iter().map(|(name, says)| json!({ "step": name, "says": says })).collect();
    let mut all = decision.facts.clone();
    all.insert("served".to_owned(), decision.refusal.is_none().into());
    all.insert("steps".to_owned(), steps.into());
    if let Some(refusal) = &decision.refusal {
        all.insert("status".to_owned(), refusal.status.into());
        all.insert("message".to_owned(), refusal.message.as_ref().into());
    }
    serde_json::to_writer_pretty(&mut *out, &all)?;
    writeln!(out)
}

#[cfg(test)]
mod tests;
