//! The live lists of models: which upstream says that it serves what.
//!
//! Fetched by errands, never on a request's path. A list counts until the next one has come, so an
//! upstream that fails takes nothing away.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::{Core, Fetch, Upstream, errand, trial};
use crate::dialect::headers;
use crate::dialect::listed::{Form, Listed};
use crate::failure::Failure;
use crate::limits;
use crate::route::listing::Live;
use crate::route::snapshot::{Credential, Provider, Snapshot};

/// The lists, and when to fetch them again.
#[derive(Default)]
pub(super) struct Lists {
    live: RwLock<Arc<Live>>,
    // When each is fetched next.
    due: Mutex<HashMap<String, Instant>>,
}

/// Why there is no list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListFailure {
    /// The call failed.
    Call(Failure),
    /// The upstream answered with this status.
    Status(u16),
    /// What it answered is no list.
    Shape,
    /// The provider has no upstream.
    Nowhere,
}

impl fmt::Display for ListFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListFailure::Call(failure) => {
                write!(f, "the call failed: {:?} in {:?}", failure.cause, failure.phase)
            }
            ListFailure::Status(status) => write!(f, "the upstream answered {status}"),
            ListFailure::Shape => f.write_str("the upstream's answer is no list of models"),
            ListFailure::Nowhere => f.write_str("the provider has no upstream"),
        }
    }
}

impl From<Failure> for ListFailure {
    fn from(failure: Failure) -> ListFailure {
        ListFailure::Call(failure)
    }
}

impl Lists {
    /// The lists of now.
    pub(super) fn live(&self) -> Arc<Live> {
        self.live.read().clone()
    }

    /// Whether the provider's list is to be fetched, by whoever asks first.
    pub(super) fn claim(&self, provider: &Provider, now: Instant) -> bool {
        if !provider.has_live_list() {
            return false;
        }
        let mut due = self.due.lock();
        let is_due = due.get(&provider.name).is_none_or(|at| *at <= now);
        if is_due {
            // Until it is known how it ended.
            let at = now + Duration::from_millis(limits::LIST_LIFE_MS);
            due.insert(provider.name.clone(), at);
        }
        is_due
    }

    /// With new tables, what changed is fetched anew, and what is gone forgotten.
    pub(super) fn swapped(&self, old: &Snapshot, new: &Snapshot) {
        let has_list =
            |name: &str| named(new, name).is_some_and(|provider| provider.has_live_list());
        let is_same = |name: &str| match (named(old, name), named(new, name)) {
            (Some(one), Some(other)) => {
                one.base_url == other.base_url && one.credentials.len() == other.credentials.len()
            }
            _ => false,
        };
        self.due.lock().retain(|name, _| is_same(name));
        let mut live = self.live.write();
        if live.keys().any(|name| !has_list(name)) {
            let kept = live.iter().filter(|(name, _)| has_list(name));
            *live = Arc::new(kept.map(|(name, list)| (name.clone(), list.clone())).collect());
        }
    }

    /// Every list is fetched anew; until then the old ones count.
    pub(super) fn renew(&self) {
        self.due.lock().clear();
    }

    fn put(&self, name: &str, list: Option<Vec<Listed>>, due_at: Instant) {
        if let Some(list) = list {
            let mut live = self.live.write();
            let mut new = Live::clone(&live);
            new.insert(name.to_owned(), list.into());
            *live = Arc::new(new);
        }
        self.due.lock().insert(name.to_owned(), due_at);
    }
}

fn named<'s>(snapshot: &'s Snapshot, name: &str) -> Option<&'s Provider> {
    snapshot.provider_named(name).map(|at| &snapshot.providers[at])
}

/// Fetches the provider's list and puts it in place of the last one.
pub(super) fn refresh<U: Upstream>(core: &Core, up: &mut U, provider: &Provider) {
    let name = &provider.name;
    let fetched = fetch(core, up, provider);
    if named(&core.snapshot(), name).is_none_or(|now| now.base_url != provider.base_url) {
        // The name stands for somebody else by now.
        core.lists.due.lock().remove(name);
        return;
    }
    let wait_ms = match &fetched {
        Ok(list) => {
            log::info!(target: "gproxy::models", "{name}: {} models", list.len());
            limits::LIST_LIFE_MS
        }
        Err(failure) => {
            let what = "no list of models, the last one counts";
            log::warn!(target: "gproxy::models", "{name}: {what}: {failure:?}");
            limits::LIST_RETRY_MS
        }
    };
    core.lists.put(name, fetched.ok(), core.now() + Duration::from_millis(wait_ms));
}

/// Fetches the provider's list, all pages, in the order of the ids. The next credential is tried
/// when one gets none.
pub(super) fn fetch<U: Upstream>(
    core: &Core,
    up: &mut U,
    provider: &Provider,
) -> Result<Vec<Listed>, ListFailure> {
    let mut result = Err(ListFailure::Nowhere);
    let all = provider.credentials.iter();
    let usable = all.filter(|credential| !core.pool.is_paused(credential)).map(Some);
    let none = provider.credentials.is_empty().then_some(None);
    for credential in usable.chain(none).take(limits::LIST_CREDENTIALS_MAX) {
        result = pages(core, up, provider, credential);
        if result.is_ok() {
            break;
        }
    }
    let mut list = result?;
    list.sort_by(|one, other| one.id.cmp(&other.id));
    list.dedup_by(|one, other| one.id == other.id);
    Ok(list)
}

fn pages<U: Upstream>(
    core: &Core,
    up: &mut U,
    provider: &Provider,
    credential: Option<&Credential>,
) -> Result<Vec<Listed>, ListFailure> {
    let (form, place) = provider.live_list().ok_or(ListFailure::Nowhere)?;
    let (mut list, mut next) = (Vec::new(), None);
    for _ in 0..limits::LIST_PAGES_MAX {
        let presented = trial::presented(core, up, provider, place, credential)?;
        let mut fields = vec![("accept", "application/json")];
        if form == Form::Anthropic {
            fields.push((headers::VERSION, headers::USUAL_VERSION));
        }
        if let Some((name, value, _)) = &presented {
            fields.push((name, value));
        }
        let fetch = Fetch {
            provider,
            method: "GET",
            url: &place.list_url(form, &form.query(next.as_deref())),
            headers: &fields,
            body: b"",
            bytes_max: limits::LIST_BYTES_MAX,
            ms_max: limits::FETCH_MS_MAX,
        };
        let reply = errand::fetch(up, &fetch)?;
        if reply.status != 200 {
            return Err(ListFailure::Status(reply.status));
        }
        let page = form.read(&reply.body).ok_or(ListFailure::Shape)?;
        list.extend(page.models);
        list.truncate(limits::LIST_MODELS_MAX);
        // A page that leads to itself leads nowhere.
        if page.next.is_none() || page.next == next || list.len() == limits::LIST_MODELS_MAX {
            break;
        }
        next = page.next;
    }
    Ok(list)
}
