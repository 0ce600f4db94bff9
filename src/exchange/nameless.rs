//! Requests that name no model, or name it in a form: provider, permission, and a body that passes.
//!
//! Such a body is not held unless it is small. A form is read as far as its model, which is
//! restored in place; the rest follows piece by piece.

use std::borrow::Cow;

use super::attempt::Plan;
use super::incoming::{self, Begun, Load};
use super::note::Note;
use super::session::Session;
use super::upload::Upload;
use super::{Core, Downstream, Ended, Upstream, batch, packed};
use crate::dialect::Dialect;
use crate::dialect::ask::AskError;
use crate::dialect::path::{self, PathError, Route};
use crate::dialect::refusal::Refusal;
use crate::dialect::resource::{self, Call, Resource};
use crate::dialect::stored::Places;
use crate::limits;
use crate::route::channel::Destination;
use crate::route::plan::{self, Chosen, Need, RouteError, Target};
use crate::route::snapshot::{Provider, Snapshot};
use crate::wire::coding;
use crate::wire::head::{Framing, Head};
use crate::wire::multipart::{self, Scanner};

/// Headers in which a caller names the provider, the older name last. A parameter does it, too.
const PROVIDER_FIELDS: [&str; 2] = [path::PROVIDER, "x-provider"];

/// Images that vendors make of one form at most.
const FORM_IMAGES_MAX: u64 = 10;
/// Parameter by which a list is filtered.
const MODEL: &str = "model";

/// Answers what names no model at all. `error`: why it is no endpoint either.
///
/// Its frame stays out of its caller's, which every open stream keeps on its stack.
#[inline(never)]
pub(super) fn answer<D: Downstream, U: Upstream>(
    core: &Core,
    snapshot: &Snapshot,
    session: &mut Session<D>,
    up: &mut U,
    head: &Head,
    note: &mut Note,
    error: PathError,
) -> Result<(), Ended> {
    let is_provider = |name: &str| snapshot.provider_named(name).is_some();
    let family = session.family();
    let mut call = match resource::parse(head.method(), head.target(), family, &is_provider) {
        Ok(call) => call,
        Err(refused) => passthrough(snapshot, head, refused, error)?,
    };
    let endpoint = &call.resource.endpoint;
    note.endpoint = endpoint.name;
    // What comes compressed passes as it is, so nobody sees its models.
    if call.resource.models && head.method() == "POST" && !head.headers.has("content-encoding") {
        return batch::answer(core, snapshot, session, up, head, note, &call);
    }
    let is_raw = std::ptr::eq(call.resource, &resource::PASSTHROUGH);
    let need = need_of(call.resource, head.method());
    if resource::is_unmetered(call.resource, head.method()) {
        plan::admit_unmetered(snapshot, note.user.unwrap_or_default()).map_err(Refusal::from)?;
    }
    let scope = call.scope.as_deref().and_then(|name| snapshot.provider_named(name));
    let dialect = if is_raw { raw_dialect(snapshot, scope) } else { endpoint.dialect };
    let provider = provider(snapshot, scope, head, note, dialect, need)?;
    let target = unnamed(provider);
    call.query.rest = filtered(snapshot, scope, provider, &call).into();
    let provider = &snapshot.providers[provider];
    let destination = spoken(provider, dialect).map_err(Refusal::from)?;
    // Google's client in Node sends `{}` with a DELETE; what is longer is nobody's.
    let takes_body = match head.method() {
        "POST" | "PUT" | "PATCH" => true,
        "DELETE" => is_small(head),
        _ => head.framing.is_empty(),
    };
    if !takes_body {
        return Err(AskError::BodyNotTaken.into());
    }
    let url = url_of(&call, destination, is_raw);
    let mut plan = Plan::plain(provider, destination, head, endpoint, &target, url);
    plan.aggregated = call.scope.is_none();
    if call.is_upload {
        let (version, tail, name) = (call.version, &call.tail, &provider.name);
        let key = note.key_id();
        plan.upload = Upload::new(destination, name, version, tail, snapshot, key, head);
    }
    let bytes_max = match call.resource.is_file {
        true => snapshot.limits.upload_bytes_max,
        false => snapshot.limits.body_bytes_max,
    };
    let load = if is_small(head) {
        let body = session.read_body(core, head, note)?;
        note.bytes_in = body.bytes.len() as u64;
        if let Some(trace) = &mut note.trace {
            trace.request_body(&body.bytes);
        }
        Load::Held(body)
    } else {
        session.open_body(head, bytes_max)?;
        Load::Coming { begun: Begun::default(), length: head.framing.length(), form: None }
    };
    super::carry(core, snapshot, session, up, head, &plan, load, note)
}

/// What its user must be permitted.
fn need_of(resource: &Resource, method: &str) -> Need {
    let is_raw = std::ptr::eq(resource, &resource::PASSTHROUGH);
    match resource.is_file {
        true => Need::Files,
        false if is_raw || resource.unseen && method != "GET" => Need::Every,
        false => Need::Any,
    }
}

/// Answers a form that names its model in a field. Its frame, too, stays out of its caller's.
#[inline(never)]
pub(super) fn form<D: Downstream, U: Upstream>(
    core: &Core,
    snapshot: &Snapshot,
    session: &mut Session<D>,
    up: &mut U,
    head: &Head,
    note: &mut Note,
    route: &Route<'_>,
) -> Result<(), Ended> {
    let coding = coding::coding_of(head.headers.all("content-encoding"))?;
    let mut scanner = Scanner::new(multipart::boundary(head.headers.all("content-type"))?);
    session.open_body(head, snapshot.limits.upload_bytes_max)?;
    let mut begun = match coding {
        None => incoming::begin(core, note, session, up, |piece| {
            scanner.feed(piece)?;
            Ok(scanner.model().is_some())
        })?,
        Some(coding) => packed::form(core, note, session, up, coding, &mut scanner)?,
    };
    if session.has_read_body() {
        scanner.finish()?;
    }
    let place = scanner.model();
    let asked = match &place {
        Some(place) => begun.name(place)?,
        None => String::new(),
    };
    match route.deployment.as_deref() {
        Some(_) if asked.is_empty() => return Err(AskError::ModelMissing.into()),
        Some(deployment) if deployment != asked => return Err(AskError::BodyModelMismatch.into()),
        _ => {}
    }
    let scope = route.scope.as_deref().and_then(|name| snapshot.provider_named(name));
    let target = if asked.is_empty() {
        target(snapshot, scope, head, note, route.endpoint.dialect, Need::Every)?
    } else {
        super::target(snapshot, scope, &asked, note, route.endpoint.dialect)?
    };
    let user = note.user.unwrap_or_default();
    let destination = super::admit(snapshot, user, &target, route.endpoint)?;
    let unpacked = coding.map(|_| begun.length());
    let mut length = unpacked.or_else(|| head.framing.length());
    if let Some((place, text)) = scanner.renamed(target.model_served)? {
        length = length.map(|length| length - (place.end - place.start) + text.len() as u64);
        begun.replace(place, text);
    }
    let provider = &snapshot.providers[target.provider];
    let query = &route.query_to(destination.is_dated());
    let url = destination.url(
        route.endpoint,
        route.version,
        target.model_served,
        route.collection,
        query,
        false,
    );
    let mut plan = Plan::plain(provider, destination, head, route.endpoint, &target, url);
    // How many it asks for stands anywhere in it.
    plan.copies = (!route.endpoint.images.is_empty()).then_some(FORM_IMAGES_MAX);
    let load = Load::Coming { begun, length, form: Some(scanner) };
    super::carry(core, snapshot, session, up, head, &plan, load, note)
}

/// The target of a request in whose body the model is optional and absent.
pub(super) fn target(
    snapshot: &Snapshot,
    scope: Option<usize>,
    head: &Head,
    note: &mut Note,
    dialect: Dialect,
    need: Need,
) -> Result<Target<'static>, Refusal> {
    provider(snapshot, scope, head, note, dialect, need).map(unnamed)
}

/// The provider that the caller names beside the path.
pub(super) fn named(head: &Head) -> Option<Cow<'_, str>> {
    match PROVIDER_FIELDS.into_iter().find_map(|name| head.headers.get(name)) {
        Some(value) => Some(Cow::Borrowed(std::str::from_utf8(value.trim_ascii()).unwrap_or(""))),
        None => path::provider(head.target()),
    }
}

/// The provider of a request that names no model.
pub(super) fn provider(
    snapshot: &Snapshot,
    scope: Option<usize>,
    head: &Head,
    note: &mut Note,
    dialect: Dialect,
    need: Need,
) -> Result<usize, Refusal> {
    let named = named(head);
    let user = note.user.unwrap_or_default();
    let provider = match plan::choose(snapshot, user, scope, named.as_deref(), dialect, need)? {
        Chosen::One(provider) => provider,
        Chosen::Several(providers) => {
            let names = providers.iter().map(|at| snapshot.providers[*at].name.as_str());
            return Err(Refusal::which_provider(names));
        }
    };
    note.provider = Some(provider);
    Ok(provider)
}

/// A path that no table has, for a provider that takes everything.
fn passthrough<'h>(
    snapshot: &Snapshot,
    head: &'h Head,
    refused: PathError,
    error: PathError,
) -> Result<Call<'h>, PathError> {
    let is_open = |name: &str| {
        let provider = snapshot.provider_named(name).map(|at| &snapshot.providers[at]);
        provider.is_some_and(|provider| provider.passthrough)
    };
    let is_unknown = matches!(refused, PathError::NotFound | PathError::EncodedSlash);
    match resource::raw(head.target(), &is_open).filter(|_| is_unknown) {
        Some(call) => Ok(call),
        None if refused == PathError::NotFound => Err(error),
        None => Err(refused),
    }
}

/// A dialect that the provider of the scope speaks.
fn raw_dialect(snapshot: &Snapshot, scope: Option<usize>) -> Dialect {
    let spoken = scope.and_then(|at| snapshot.providers[at].dialects().iter().next());
    spoken.unwrap_or(resource::PASSTHROUGH.endpoint.dialect)
}

/// The query for the upstream. A list may be asked for the things of one model, by the name that is
/// called here.
fn filtered(snapshot: &Snapshot, scope: Option<usize>, provider: usize, call: &Call<'_>) -> String {
    let query = &call.query.rest;
    let is_named = matches!(call.resource.endpoint.places, Places::Models(_));
    let asked = path::parameter(query, MODEL).filter(|_| is_named);
    let is_there = |target: &Target<'_>| target.provider == provider;
    let found = |name| plan::first_that(snapshot, scope, name, is_there).ok();
    match asked.as_deref().and_then(found).filter(is_there) {
        Some(target) => path::with_parameter(query, MODEL, target.model_served),
        None => query.to_string(),
    }
}

pub(super) fn spoken(provider: &Provider, dialect: Dialect) -> Result<&Destination, RouteError> {
    let spoken = || RouteError::DialectNotSpoken(provider.dialects());
    provider.destination(dialect).ok_or_else(spoken)
}

fn url_of(call: &Call<'_>, destination: &Destination, is_raw: bool) -> String {
    let query = &call.query.rest;
    match is_raw {
        true => destination.raw_url(&call.tail, query),
        false => destination.resource_url(call.version, &call.tail, call.is_upload, query),
    }
}

pub(super) fn unnamed(provider: usize) -> Target<'static> {
    Target { provider, model_asked: "", model_served: "", renamed: false, permission_name: "" }
}

/// The body is held whole, so that a stale connection costs nothing.
pub(super) fn is_small(head: &Head) -> bool {
    match head.framing {
        Framing::None => true,
        Framing::Length(length) => length <= limits::NAMELESS_HELD_BYTES_MAX,
        Framing::Chunked => false,
    }
}
