//! A batch of requests, each of which names a model: all are found, permitted and exchanged.

use super::attempt::Plan;
use super::crowd::Full;
use super::incoming::{self, Load};
use super::note::Note;
use super::session::Session;
use super::{Core, Downstream, Ended, Upstream, nameless};
use crate::dialect::ask::AskError;
use crate::dialect::batch::{Batch, Exchange};
use crate::dialect::refusal::Refusal;
use crate::dialect::resource::Call;
use crate::route::plan::{self, Need, RouteError, Target};
use crate::route::snapshot::Snapshot;
use crate::wire::head::Head;

/// Answers it. Its frame stays out of its caller's.
#[inline(never)]
pub(super) fn answer<D: Downstream, U: Upstream>(
    core: &Core,
    snapshot: &Snapshot,
    session: &mut Session<D>,
    up: &mut U,
    head: &Head,
    note: &mut Note,
    call: &Call<'_>,
) -> Result<(), Ended> {
    plan::admit_unmetered(snapshot, note.user.unwrap_or_default()).map_err(Refusal::from)?;
    let mut batch = Batch::default();
    let load = if nameless::is_small(head) {
        let mut body = session.read_body(core, head, note)?;
        batch.feed(&body.bytes)?;
        batch.finish()?;
        let (mut exchange, _) = exchange(snapshot, head, note, call, &batch)?;
        let mut bytes = Vec::with_capacity(body.bytes.len());
        exchange.feed(&body.bytes, &mut bytes)?;
        note.bytes_in = body.bytes.len() as u64;
        body.replace(core, note, bytes).map_err(Full::refusal)?;
        if let Some(trace) = &mut note.trace {
            trace.request_body(&body.bytes);
        }
        Load::Held(body)
    } else {
        session.open_body(head, snapshot.limits.upload_bytes_max)?;
        let mut begun = incoming::begin(core, note, session, up, |piece| {
            batch.feed(piece)?;
            Ok(false)
        })?;
        batch.finish()?;
        let length = begun.length();
        let (exchange, growth) = exchange(snapshot, head, note, call, &batch)?;
        begun.exchange(exchange)?;
        Load::Coming { begun, length: Some(length.saturating_add_signed(growth)), form: None }
    };
    let provider = note.provider.unwrap_or_default();
    let target = nameless::unnamed(provider);
    let provider = &snapshot.providers[provider];
    let endpoint = &call.resource.endpoint;
    let destination = nameless::spoken(provider, endpoint.dialect).map_err(Refusal::from)?;
    let url = destination.resource_url(call.version, &call.tail, false, &call.query.rest);
    let mut plan = Plan::plain(provider, destination, head, endpoint, &target, url);
    plan.aggregated = call.scope.is_none();
    super::carry(core, snapshot, session, up, head, &plan, load, note)
}

/// The names that go up, if one provider serves them all and the user may call each.
fn exchange(
    snapshot: &Snapshot,
    head: &Head,
    note: &mut Note,
    call: &Call<'_>,
    batch: &Batch,
) -> Result<(Exchange, i64), Refusal> {
    let dialect = call.resource.endpoint.dialect;
    let user = note.user.unwrap_or_default();
    let mut scope = call.scope.as_deref().and_then(|name| snapshot.provider_named(name));
    let is_bare = |name| plan::resolve(snapshot, None, name) == Err(RouteError::ProviderPrefix);
    let is_empty = batch.names().next().is_none();
    // Names that say nothing of their provider are those of the only one that fits.
    if is_empty || nameless::named(head).is_some() || batch.names().any(is_bare) {
        let need = if is_empty { Need::Every } else { Need::Any };
        scope = Some(nameless::provider(snapshot, scope, head, note, dialect, need)?);
    }
    let mut served = Vec::new();
    for name in batch.names() {
        let about = |error| super::about(error, name);
        let at = note.provider;
        let may = |target: &Target<'_>| {
            at.is_none_or(|at| at == target.provider)
                && plan::admit(snapshot, user, target, dialect).is_ok()
        };
        let target = plan::first_that(snapshot, scope, name, may).map_err(about)?;
        if served.is_empty() {
            note.provider = Some(target.provider);
            note.model_asked = name.to_owned();
            note.model_served = target.model_served.to_owned();
        } else if note.provider != Some(target.provider) {
            return Err(AskError::OtherProvider.into());
        }
        plan::admit(snapshot, user, &target, dialect).map_err(about)?;
        served.push(target.model_served);
    }
    super::admit_others(snapshot, user, note.provider.into_iter(), batch.others())?;
    // A row and a line have place for one name.
    if served.len() > 1 {
        note.model_asked.clear();
        note.model_served.clear();
    }
    Ok(batch.exchange(served.into_iter()))
}
