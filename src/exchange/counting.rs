//! Calls that count tokens: always answered, by the upstream when it can, else here.

use super::attempt::{self, Plan, Sending};
use super::note::Note;
use super::relay;
use super::session::Session;
use super::{Core, Downstream, Ended, Reply, Upstream};
use crate::admin::Page;
use crate::dialect::count;
use crate::metrics::Count;
use crate::route::snapshot::Snapshot;
use crate::wire::head::Head;

/// Answers an admitted call. Its frame stays out of its caller's.
#[allow(clippy::too_many_arguments)]
#[inline(never)]
pub(super) fn answer<D: Downstream, U: Upstream>(
    core: &Core,
    snapshot: &Snapshot,
    session: &mut Session<D>,
    up: &mut U,
    head: &Head,
    plan: &Plan<'_>,
    body: &[u8],
    note: &mut Note,
) -> Result<(), Ended> {
    if !plan.provider.is_echo() {
        match attempt::ask(core, up, plan, Sending::held(snapshot, body), note) {
            Ok(reply) if counts(reply.status()) => {
                return relay::relay(core, snapshot, session, head, plan, reply, note);
            }
            Err(Ended::Gone) => return Err(Ended::Gone),
            Ok(_) | Err(_) => {}
        }
    }
    core.metrics.count(Count::TokensEstimated);
    let page = Page {
        name: plan.endpoint.name,
        status: 200,
        content_type: "application/json",
        body: count::reply(plan.endpoint, count::estimate(body)),
        fields: vec![("x-gproxy-estimated", "true".to_owned())],
    };
    session.send_page(core, head, page, note)
}

/// Whether a reply of that status is the upstream's word on the request. Otherwise it does not know
/// the call, has no room for it, or is broken.
fn counts(status: u16) -> bool {
    !matches!(status, 404 | 405 | 429 | 500..)
}
