//! Who calls: by a key, or by an address that was made for him.

use std::net::IpAddr;

use super::guesses::Slowed;
use super::session::Session;
use super::{Core, Downstream, upload};
use crate::dialect::{headers, path};
use crate::metrics::Count;
use crate::route::snapshot::{Caller, KeyError, Origin, Snapshot, counted_with};
use crate::secret::Digest;
use crate::wire::head::Head;

/// Who says that he passes a request on, and for whom: a list, one by each.
pub(super) const FORWARDED: &str = "x-forwarded-for";

/// Who calls, or why his key does not count.
pub(super) fn caller_of<D: Downstream>(
    core: &Core,
    snapshot: &Snapshot,
    session: &Session<D>,
    head: &Head,
) -> Result<Caller, KeyError> {
    let caller = recognise(core, snapshot, session, head)?;
    core.use_key(snapshot, caller);
    Ok(caller)
}

fn recognise<D: Downstream>(
    core: &Core,
    snapshot: &Snapshot,
    session: &Session<D>,
    head: &Head,
) -> Result<Caller, KeyError> {
    if head.target().contains('?') && is_opened_as_page(head) {
        return Err(KeyError::Opened);
    }
    let (peer, now_ms) = (|| session.down.peer(), || core.unix_ms());
    let origin = Origin { peer: &peer, head: Some(head), now_ms: &now_ms };
    let Some(key) = presented(head) else {
        // Nobody guesses an address: it is sealed.
        let caller = upload::caller_of(snapshot, head).ok_or(KeyError::Unknown)?;
        return snapshot.let_in(caller, &origin);
    };
    let Some(caller) = snapshot.caller_of(&key) else {
        if let Some(caller) = upload::caller_of(snapshot, head) {
            return snapshot.let_in(caller, &origin);
        }
        return Err(wrong(core, snapshot, session, head, &key));
    };
    let met = acquaintance(snapshot, head, &key);
    if session.has_met(met) {
        return snapshot.let_in(caller, &origin);
    }
    let from = address(snapshot, session, head);
    let most = snapshot.limits.key_guesses_max;
    if let (Some(from), 1..) = (from, most) {
        core.guesses.may(from, &key, most, core.now()).map_err(|slowed| told(core, slowed))?;
    }
    let caller = snapshot.let_in(caller, &origin)?;
    if let Some(from) = from {
        core.guesses.remember(from, &key);
        session.meets(met);
    }
    Ok(caller)
}

/// The key that the request carries, in a header or in the query.
fn presented(head: &Head) -> Option<Digest> {
    match headers::credential_of(&head.headers) {
        Some(key) => Some(Digest::of(key)),
        None => Some(Digest::of(path::query_key(head.target())?.expose().as_bytes())),
    }
}

/// A number for this key from that address, for as long as the connection lasts.
fn acquaintance(snapshot: &Snapshot, head: &Head, key: &Digest) -> u64 {
    let told = match snapshot.trusted_proxies.is_empty() {
        true => None,
        false => head.headers.list(FORWARDED).map(|told| Digest::of(told.as_bytes()).prefix()),
    };
    // Zero is nobody.
    (key.prefix() ^ told.unwrap_or_default().rotate_left(1)).max(1)
}

/// Where the request comes from, as far as can be told: one whose proxy does not tell it is counted
/// with the proxy.
fn address<D: Downstream>(
    snapshot: &Snapshot,
    session: &Session<D>,
    head: &Head,
) -> Option<IpAddr> {
    let told = head.headers.list(FORWARDED).unwrap_or_default();
    let peer = session.down.peer()?;
    Some(counted_with(peer, &told, &snapshot.trusted_proxies))
}

/// A key that nobody has.
fn wrong<D: Downstream>(
    core: &Core,
    snapshot: &Snapshot,
    session: &Session<D>,
    head: &Head,
    key: &Digest,
) -> KeyError {
    core.metrics.count(Count::KeysWrong);
    let most = snapshot.limits.key_guesses_max;
    let Some(from) = address(snapshot, session, head).filter(|_| most > 0) else {
        return KeyError::Unknown;
    };
    let Err(slowed) = core.guesses.wrong(from, key, most, core.now()) else {
        return KeyError::Unknown;
    };
    if slowed.is_news {
        log::warn!(
            target: "gproxy::keys",
            "from {from} came more than {most} wrong API keys within a minute; for {} s none is \
             let in from there that was not before",
            slowed.seconds
        );
    }
    told(core, slowed)
}

fn told(core: &Core, slowed: Slowed) -> KeyError {
    core.metrics.count(Count::GuessesSlowed);
    KeyError::Slowed { seconds: slowed.seconds }
}

/// A browser opens a reply as a page of its own, by a key in the address. What an upstream or a
/// file of somebody's says would run there beside the console and its session.
fn is_opened_as_page(head: &Head) -> bool {
    head.headers.get("sec-fetch-mode").is_some_and(|mode| mode.trim_ascii() == b"navigate")
        && path::query_key(head.target()).is_some()
}
