//! A name that several may serve: one after the other is asked until one serves.
//!
//! Each target is permitted, planned and rewritten for itself, from the body as it came. The
//! request is admitted once, at the price of the dearest of them, and settled at the price of the
//! one that served.

use super::attempt::{self, Plan, Sending, Tries};
use super::crowd::{Full, Scarce, Share};
use super::incoming::Load;
use super::note::Note;
use super::session::{Body, Session};
use super::{Core, Downstream, Early, Ended, Upstream, Waiting, relay, settlement};
use crate::dialect::ask::Ask;
use crate::dialect::path::Route;
use crate::route::plan::Target;
use crate::route::snapshot::Snapshot;
use crate::wire::head::Head;

/// Answers a request for an alias with these targets. Its frame stays out of its caller's.
#[allow(clippy::too_many_arguments)]
#[inline(never)]
pub(super) fn answer<D: Downstream, U: Upstream>(
    core: &Core,
    snapshot: &Snapshot,
    session: &mut Session<D>,
    up: &mut U,
    head: &Head,
    route: &Route<'_>,
    ask: &Ask,
    targets: &[Target<'_>],
    mut body: Body,
    note: &mut Note,
) -> Result<(), Ended> {
    let user = note.user.unwrap_or_default();
    let mut plans = Vec::with_capacity(targets.len());
    let mut refused = None;
    for target in targets {
        match super::admit(snapshot, user, target, route.endpoint) {
            Ok(destination) => {
                let provider = &snapshot.providers[target.provider];
                plans.push(Plan::new(provider, destination, head, route, target, ask));
            }
            Err(refusal) => drop(refused.get_or_insert(refusal)),
        }
    }
    let first = match (plans.as_slice(), refused) {
        ([first, ..], _) => first,
        ([], Some(refusal)) => return Err(refusal.into()),
        // Unreachable because an alias whose targets are all disabled was not found.
        ([], None) => return Err(crate::dialect::refusal::Refusal::internal().into()),
    };
    name(note, first);
    if plans.len() == 1 || route.endpoint.counts_tokens {
        first.rewrite(ask, &mut body.bytes)?;
        return super::carry(core, snapshot, session, up, head, first, Load::Held(body), note);
    }
    settlement::admit(core, snapshot, up, &plans, note)?;
    let mut tries = Tries::new();
    let early = Early::of(core, session, &plans, note);
    let sending = Sending {
        waiting: early.as_ref().map(|early| early as &dyn Waiting),
        ..Sending::held(snapshot, &body.bytes)
    };
    let answer = first_served(core, up, &plans, ask, sending, &mut tries, note);
    if let Some(early) = early {
        early.end(note);
    }
    drop(body);
    let answer = match answer? {
        Some(answer) => answer,
        None => tries.finish(note)?,
    };
    let plan = answer.plan();
    name(note, plan);
    relay::relay(core, snapshot, session, head, plan, answer, note)
}

/// Asks in turn; where all rest, the first of them once more, whatever is known of it.
fn first_served<'a, U: Upstream>(
    core: &'a Core,
    up: &mut U,
    plans: &'a [Plan<'a>],
    ask: &Ask,
    sending: Sending<'_>,
    tries: &mut Tries<'a, U::Reply>,
    note: &mut Note,
) -> Result<Option<super::answer::Answer<'a, U::Reply>>, Ended> {
    let mut copy = Share::new(core, Scarce::Bytes);
    copy.set(core, note, sending.body.len()).map_err(Full::refusal)?;
    for is_last_resort in [false, true] {
        for (at, plan) in plans.iter().enumerate() {
            if is_last_resort && note.attempts > 0 {
                return Ok(None);
            }
            let mut rewritten = sending.body.to_vec();
            plan.rewrite(ask, &mut rewritten)?;
            name(note, plan);
            let made = note.attempts as usize;
            let left = sending.attempts_max.saturating_sub(made);
            let attempts_max = made + share(left, plans.len() - 1 - at);
            let sending = Sending { body: &rewritten, attempts_max, is_last_resort, ..sending };
            let answer = attempt::attempt(core, up, plan, sending, tries, note)?;
            if answer.is_some() {
                return Ok(answer);
            }
        }
    }
    Ok(None)
}

/// How many of the attempts that are left a target may use up: each one behind it is left one, but
/// none goes without for that.
fn share(left: usize, behind: usize) -> usize {
    left.saturating_sub(behind).max(1).min(left)
}

/// Who is asked, for the log, the row and the bill.
fn name(note: &mut Note, plan: &Plan<'_>) {
    settlement::served_by(note, plan);
    note.provider = Some(plan.target.provider);
    plan.target.model_served.clone_into(&mut note.model_served);
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn each_target_leaves_one_attempt_to_each_behind_it() {
        let rows = [(4, 0, 4), (4, 1, 3), (4, 3, 1), (4, 15, 1), (1, 1, 1), (1, 0, 1), (0, 2, 0)];
        for (left, behind, expected) in rows {
            assert_eq!(share(left, behind), expected, "{left} left, {behind} behind");
        }
    }
}
