//! Credentials in use: which one a call takes, and what all workers know of it.
//!
//! What is known lives longer than a snapshot, so it stands here and the snapshot's credentials
//! have a place in it. A sound credential costs a call two loads and a count; a lock is taken only
//! where something is wrong or has ceilings, for a moment, and never across a wait.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::affinity::{Affinity, Beginnings};
use super::{Books, Core, settlement};
use crate::dialect::trouble;
use crate::limits;
use crate::metrics::Count;
use crate::route::health::{Change, Circuit, Health, Leave, Lesson};
use crate::route::rate::{Counters, RateLimit};
use crate::route::snapshot::{Credential, NO_PLACE, Provider, Snapshot, Strategy};
use crate::secret::Digest;

const BLOCK: usize = 128;
const BLOCKS: usize = limits::SEATS_MAX / BLOCK;
/// Bytes of a prompt that are taken for one token.
const BYTES_PER_TOKEN: u64 = 4;

/// What is known of every credential, and of each provider as a whole.
pub struct Pool {
    // Filled in order and never emptied, so that a place is found without a lock.
    blocks: [OnceLock<Box<[Status; BLOCK]>>; BLOCKS],
    places: Mutex<HashMap<String, usize>>,
    affinity: OnceLock<Affinity>,
    books: OnceLock<Arc<Books>>,
}

/// What is known of one credential, or of one provider.
#[derive(Default)]
struct Status {
    /// Something is open in `health`.
    is_troubled: AtomicBool,
    health: Mutex<Health>,
    counters: Mutex<Counters>,
    in_flight: AtomicU64,
    /// Of a provider: whose turn it is, and who is stuck to.
    turns: AtomicU64,
    current: AtomicUsize,
}

/// How a credential stands, for those who want to see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What is open.
    pub circuits: Vec<Circuit>,
    /// Calls under way.
    pub in_flight: u64,
    /// How full its ceilings are: requests of the minute, tokens of the minute, calls side by side.
    pub fill: Option<[u64; 3]>,
}

/// The name under which the health of a credential is kept: nothing of the secret can be read
/// from it. With another key or another address it is another one, of which nothing is known.
fn identity(provider: &Provider, credential: Option<&Credential>) -> String {
    let account = credential.and_then(|credential| credential.account.as_ref());
    let id = account.map(|account| account.id.to_text());
    let key = credential.map_or("", |credential| credential.api_key.expose());
    let key = id.as_deref().unwrap_or(key);
    Digest::of(format!("{}\0{}\0{key}", provider.name, provider.base_url).as_bytes()).to_text()
}

impl Default for Pool {
    fn default() -> Pool {
        Pool {
            blocks: [const { OnceLock::new() }; BLOCKS],
            places: Mutex::default(),
            affinity: OnceLock::new(),
            books: OnceLock::new(),
        }
    }
}

impl Pool {
    /// Gives the snapshot's providers, credentials and aliases their places.
    pub(super) fn adopt(&self, snapshot: &mut Snapshot) {
        for (name, alias) in snapshot.aliases_mut().filter(|(_, alias)| !alias.targets.is_empty()) {
            alias.place = self.place(format!("alias {name}"));
        }
        for provider in &mut snapshot.providers {
            provider.place = self.place(identity(provider, None));
            for at in 0..provider.credentials.len() {
                let identity = identity(provider, Some(&provider.credentials[at]));
                provider.credentials[at].place = self.place(identity);
            }
        }
    }

    /// What was disabled gets another try: somebody asks for it who may have mended it elsewhere.
    pub fn revive(&self, snapshot: &Snapshot) {
        for provider in &snapshot.providers {
            for credential in provider.credentials.iter().map(Some).chain([None]) {
                self.change(provider, credential, Health::enable);
            }
        }
    }

    /// A number that grows by one each time, for each place.
    pub(super) fn turn(&self, place: usize) -> u64 {
        self.at(place).map_or(0, |status| status.turns.fetch_add(1, Ordering::Relaxed))
    }

    fn place(&self, identity: String) -> usize {
        let mut places = self.places.lock();
        let next = places.len();
        if next >= limits::SEATS_MAX && !places.contains_key(&identity) {
            return NO_PLACE;
        }
        let place = *places.entry(identity).or_insert(next);
        self.blocks[place / BLOCK]
            .get_or_init(|| Box::new(std::array::from_fn(|_| Status::default())));
        place
    }

    /// Made when the first provider asks for it.
    fn affinity(&self) -> &Affinity {
        self.affinity.get_or_init(Affinity::default)
    }

    fn at(&self, place: usize) -> Option<&Status> {
        Some(&self.blocks.get(place / BLOCK)?.get()?[place % BLOCK])
    }

    /// From now on what is known is kept in the books.
    pub(super) fn keep_in(&self, books: Arc<Books>) {
        let _ = self.books.set(books);
    }

    /// Takes up what was kept.
    pub fn restore(&self, statuses: Vec<(String, Circuit)>, now_ms: i64) {
        for (identity, circuit) in statuses {
            let place = self.places.lock().get(&identity).copied();
            if let Some(status) = place.and_then(|place| self.at(place)) {
                status.health.lock().restore(circuit, now_ms);
                status.is_troubled.store(true, Ordering::Relaxed);
            }
        }
    }

    fn keep(&self, provider: &Provider, credential: Option<&Credential>, circuits: Vec<Circuit>) {
        if let Some(ledger) = self.books.get().and_then(|books| books.ledger.as_ref()) {
            ledger.keep(identity(provider, credential), circuits);
        }
    }

    /// Changes what is known of a provider's credential, or of a provider without one, and keeps
    /// it. Whether anything changed.
    fn change(
        &self,
        provider: &Provider,
        credential: Option<&Credential>,
        change: impl FnOnce(&mut Health) -> bool,
    ) -> bool {
        let place = credential.map_or(provider.place, |credential| credential.place);
        let Some(status) = self.at(place) else { return false };
        let mut health = status.health.lock();
        if !change(&mut health) {
            return false;
        }
        status.is_troubled.store(!health.is_sound(), Ordering::Relaxed);
        let circuits = health.circuits().to_vec();
        drop(health);
        self.keep(provider, credential, circuits);
        true
    }

    /// Changes what is held against a provider's credential of this number, from 0; 0 too for a
    /// provider without one. Whether there is such a credential.
    fn hold(
        &self,
        snapshot: &Snapshot,
        (provider, credential): (usize, usize),
        change: impl FnOnce(&mut Health),
    ) -> bool {
        let Some(provider) = snapshot.providers.get(provider) else { return false };
        let held = provider.credentials.get(credential);
        if held.is_none() && !(provider.credentials.is_empty() && credential == 0) {
            return false;
        }
        self.change(provider, held, |health| {
            change(health);
            true
        })
    }

    /// Forgets what is held against a credential, that it is paused too.
    pub fn reset(&self, snapshot: &Snapshot, credential: (usize, usize)) -> bool {
        self.hold(snapshot, credential, |health| *health = Health::default())
    }

    /// Takes a credential out of its pool, through restarts too, until it is reset.
    pub fn pause(&self, snapshot: &Snapshot, credential: (usize, usize), now_ms: i64) -> bool {
        self.hold(snapshot, credential, |health| health.pause(now_ms))
    }

    /// Whether a credential was taken out of its pool.
    pub(super) fn is_paused(&self, credential: &Credential) -> bool {
        self.at(credential.place).is_some_and(|status| {
            status.is_troubled.load(Ordering::Relaxed) && status.health.lock().is_paused()
        })
    }

    /// How each credential of a provider stands; of a provider without one, how it does.
    pub fn seen(&self, provider: &Provider, now_ms: i64) -> Vec<Seen> {
        let seen = |place, ceilings: Option<&RateLimit>| {
            let Some(status) = self.at(place) else {
                return Seen { circuits: Vec::new(), in_flight: 0, fill: None };
            };
            let fill = ceilings.map(|rule| {
                let [rpm, _, tokens, in_flight] = status.counters.lock().levels(rule, now_ms);
                [rpm, tokens, in_flight]
            });
            let circuits = status.health.lock().circuits().to_vec();
            Seen { circuits, in_flight: status.in_flight.load(Ordering::Relaxed), fill }
        };
        if provider.credentials.is_empty() {
            return vec![seen(provider.place, None)];
        }
        let all = provider.credentials.iter();
        all.map(|credential| seen(credential.place, credential.ceilings.as_ref())).collect()
    }
}

/// A provider's credential, or that it needs none, while a call is made with it.
pub(super) struct Seat<'a> {
    core: &'a Core,
    provider: &'a Provider,
    model: &'a str,
    /// Which of the provider's credentials it is, from 0.
    pub(super) index: usize,
    /// `None`: the provider has none.
    pub(super) credential: Option<&'a Credential>,
    status: Option<&'a Status>,
    // 0: nothing was wrong, so nobody looked at the clock.
    begun_ms: i64,
    is_probe: bool,
    beginnings: Beginnings,
    // It helps another one out, which stays the one that is stuck to.
    is_beside: bool,
    // It refused the request, and by that a circuit opened at this time; 0: it was open before.
    refused_ms: Option<i64>,
    // Tokens that were counted at the ceilings, those that were really used, and since when.
    tokens: Option<(u64, u64, i64)>,
}

/// What a call may be made with.
pub(super) struct Search<'a> {
    pub(super) core: &'a Core,
    pub(super) provider: &'a Provider,
    /// As the upstream knows it.
    pub(super) model: &'a str,
    pub(super) body_bytes: u64,
    pub(super) beginnings: Beginnings,
    /// One bit for each credential that was called already; the last one for all from there on.
    pub(super) tried: u64,
    /// Where nothing may be called, what returns first is called all the same.
    pub(super) is_last_resort: bool,
    refused: Option<Refused>,
}

/// A credential that refused the request, and did not say that it is at fault itself.
struct Refused {
    at: usize,
    since_ms: i64,
    said: Option<String>,
}

impl<'a> Search<'a> {
    /// A search that begins.
    pub(super) fn new(
        core: &'a Core,
        provider: &'a Provider,
        model: &'a str,
        body: &[u8],
    ) -> Search<'a> {
        let beginnings = match provider.strategy {
            Strategy::CacheAffinity => Beginnings::of(provider.place, model, body),
            _ => Beginnings::default(),
        };
        let body_bytes = body.len() as u64;
        Search {
            core,
            provider,
            model,
            body_bytes,
            beginnings,
            tried: 0,
            is_last_resort: false,
            refused: None,
        }
    }

    /// Takes the credential whose turn it is; where that may not be called, one of the others by
    /// the same rule, so that they share its part as they share everything.
    pub(super) fn seat(&self) -> Option<Seat<'a>> {
        let count = self.provider.credentials.len().max(1);
        let mut turn = None;
        let first = self.first(count, &mut turn) % count;
        let fresh = |at: &usize| self.tried & bit(*at) == 0;
        if fresh(&first)
            && let Some(seat) = self.enter(first, false)
        {
            return Some(seat);
        }
        let behind = (1..count).map(|step| (first + step) % count);
        let mut left: Vec<usize> = behind.clone().filter(fresh).collect();
        while !left.is_empty() {
            let at = left.remove(self.next(&left, &mut turn));
            if let Some(seat) = self.enter(at, false) {
                return Some(seat);
            }
        }
        if !self.is_last_resort {
            return None;
        }
        let mut all: Vec<usize> = [first].into_iter().chain(behind).filter(fresh).collect();
        all.sort_by_key(|at| {
            self.status(*at).map_or(i64::MIN, |status| status.health.lock().returns_at(self.model))
        });
        all.into_iter().find_map(|at| self.enter(at, true))
    }

    /// The credential of this number once more, whatever is known of it.
    pub(super) fn seat_at(&self, at: usize) -> Option<Seat<'a>> {
        self.enter(at, true)
    }

    /// An attempt was answered. Two credentials that refuse in the same words refuse the request:
    /// nothing is held against either.
    pub(super) fn compare(&mut self, seat: Option<&Seat<'_>>, body: &[u8]) {
        let Some(seat) = seat else { return };
        let Some(since_ms) = seat.refused_ms else { return };
        let second = Refused { at: seat.index, since_ms, said: trouble::said(body) };
        let first = match self.refused.take() {
            Some(first) if first.said == second.said => first,
            _ => return self.refused = Some(second),
        };
        let (provider, model) = (self.provider, self.model);
        for Refused { at, since_ms, .. } in [first, second] {
            let pardon = |health: &mut Health| health.pardon(model, since_ms);
            if self.core.pool.change(provider, provider.credentials.get(at), pardon) {
                log::info!(
                    target: "gproxy::credential",
                    "credential {} of {} is back: another one refuses the request too",
                    at + 1,
                    provider.name
                );
            }
        }
    }

    fn status(&self, at: usize) -> Option<&'a Status> {
        let credential = self.provider.credentials.get(at);
        self.core.pool.at(credential.map_or(self.provider.place, |credential| credential.place))
    }

    /// Whose turn it is among all of them.
    fn first(&self, count: usize, turn: &mut Option<u64>) -> usize {
        match self.provider.strategy {
            _ if count == 1 => 0,
            // Files, batches and the like are one account's, and so is whoever asks for them.
            _ if self.model.is_empty() => 0,
            Strategy::Sticky => {
                let own = self.core.pool.at(self.provider.place);
                own.map_or(0, |own| own.current.load(Ordering::Relaxed))
            }
            Strategy::LeastInFlight => self.least_in_flight(0..count, turn),
            Strategy::RoundRobin => self.in_turn(0..count, turn),
            Strategy::CacheAffinity => {
                let now_ms = self.core.clock.unix_ms();
                let bound = self.core.pool.affinity().find(&self.beginnings, now_ms);
                let bound = bound.filter(|at| *at < count);
                bound.unwrap_or_else(|| self.in_turn(0..count, turn))
            }
        }
    }

    /// Whose turn it is among those that are left: the place in the list.
    fn next(&self, left: &[usize], turn: &mut Option<u64>) -> usize {
        let left = left.iter().copied();
        match self.provider.strategy {
            Strategy::Sticky => 0,
            Strategy::LeastInFlight => self.least_in_flight(left, turn),
            Strategy::RoundRobin | Strategy::CacheAffinity => self.in_turn(left, turn),
        }
    }

    /// By weight. The turn is taken when it is first asked for.
    fn in_turn(&self, list: impl Iterator<Item = usize> + Clone, turn: &mut Option<u64>) -> usize {
        let turn = turn.get_or_insert_with(|| self.core.pool.turn(self.provider.place));
        pick(list.map(|at| u64::from(self.provider.credentials[at].weight)), turn)
    }

    /// By what is under way; in turn where that is the same.
    fn least_in_flight(
        &self,
        list: impl Iterator<Item = usize> + Clone,
        turn: &mut Option<u64>,
    ) -> usize {
        let load = |at: usize| {
            let open = self.status(at).map_or(0, |status| status.in_flight.load(Ordering::Relaxed));
            // In parts of a weight, so that the heavier of two idle ones is no better.
            (open * 1_000_000) / u64::from(self.provider.credentials[at].weight.max(1))
        };
        let begin = self.in_turn(list.clone(), turn);
        let list = list.enumerate();
        let ring = list.clone().skip(begin).chain(list.take(begin));
        ring.min_by_key(|(_, at)| load(*at)).map_or(0, |(place, _)| place)
    }

    /// What the request is taken for at a ceiling until its usage is known. A picture has many more
    /// bytes than tokens: no more than the model reads, nor so much that it would never pass.
    fn tokens(&self, rule: &RateLimit) -> u64 {
        let read_max = settlement::input_max(self.provider.models.get(self.model));
        let tokens = (self.body_bytes / BYTES_PER_TOKEN).min(read_max);
        tokens.min(rule.total_tokens.unwrap_or(u64::MAX))
    }

    /// Takes one credential, if it may be called.
    fn enter(&self, at: usize, forced: bool) -> Option<Seat<'a>> {
        let Search { core, provider, model, .. } = *self;
        let credential = provider.credentials.get(at);
        let status = self.status(at);
        let mut seat = Seat {
            core,
            provider,
            model,
            index: at,
            credential,
            status,
            begun_ms: 0,
            is_probe: false,
            beginnings: self.beginnings,
            is_beside: false,
            refused_ms: None,
            tokens: None,
        };
        let Some(status) = status else { return Some(seat) };
        // What is not entered after all is dropped, and counts down again.
        status.in_flight.fetch_add(1, Ordering::Relaxed);
        if status.is_troubled.load(Ordering::Relaxed) {
            seat.begun_ms = core.clock.unix_ms();
            match status.health.lock().ask(model, seat.begun_ms) {
                Leave::Free => {}
                Leave::Probe => seat.is_probe = true,
                Leave::From(_) | Leave::Disabled if forced => {}
                Leave::From(_) | Leave::Disabled | Leave::Paused => return None,
            }
        }
        if let Some(rule) = credential.and_then(|credential| credential.ceilings.as_ref()) {
            let tokens = self.tokens(rule);
            let now_ms = core.clock.unix_ms();
            let mut counters = status.counters.lock();
            counters.check(rule, tokens, now_ms).ok()?;
            counters.enter(rule, tokens, now_ms);
            seat.tokens = Some((tokens, tokens, now_ms));
        }
        Some(seat)
    }
}

/// The credential's place in [`Search::tried`].
pub(super) fn bit(at: usize) -> u64 {
    1 << at.min(63)
}

/// Whose turn it is, by weight. Of the turn remains how many it has had before, so that those who
/// take them over for it do so in turn.
fn pick(weights: impl Iterator<Item = u64> + Clone, turn: &mut u64) -> usize {
    let total: u64 = weights.clone().sum();
    let Some(mut at) = turn.checked_rem(total) else { return 0 };
    let rounds = *turn / total;
    for (place, weight) in weights.enumerate() {
        if at < weight {
            *turn = rounds * weight + at;
            return place;
        }
        at -= weight;
    }
    0
}

impl Seat<'_> {
    /// Learns what a call has shown.
    pub(super) fn learn(&mut self, lesson: Lesson) {
        let Some(status) = self.status else { return };
        let is_fine = matches!(lesson, Lesson::Works | Lesson::Nothing);
        if is_fine && !status.is_troubled.load(Ordering::Relaxed) {
            return self.settle_on(lesson);
        }
        let now_ms = self.core.clock.unix_ms();
        let mut health = status.health.lock();
        let change = match self.is_probe {
            true => health.learn_from_probe(self.model, lesson, self.begun_ms, now_ms),
            false => health.learn(self.model, lesson, self.begun_ms, now_ms),
        };
        status.is_troubled.store(!health.is_sound(), Ordering::Relaxed);
        if let Lesson::Refused(_) = lesson {
            self.refused_ms = Some(change.map_or(0, |_| now_ms));
        }
        if change.is_some() {
            let circuits = health.circuits().to_vec();
            self.core.pool.keep(self.provider, self.credential, circuits);
        }
        let model = health.circuits().iter().find(|circuit| circuit.since_ms == now_ms);
        let model = model.map(|circuit| circuit.model.clone()).unwrap_or_default();
        drop(health);
        self.is_probe &= lesson == Lesson::Nothing;
        match change {
            Some(change) => self.tell(change, &model, now_ms),
            None if is_fine => self.settle_on(lesson),
            None => {}
        }
        if !is_fine && self.provider.strategy == Strategy::CacheAffinity {
            self.core.pool.affinity().forget(&self.beginnings);
        }
    }

    /// A credential that works is stuck to.
    fn settle_on(&self, lesson: Lesson) {
        match self.provider.strategy {
            _ if lesson != Lesson::Works || self.is_beside => {}
            Strategy::RoundRobin | Strategy::LeastInFlight => {}
            Strategy::Sticky => {
                if let Some(own) = self.core.pool.at(self.provider.place)
                    && own.current.load(Ordering::Relaxed) != self.index
                {
                    own.current.store(self.index, Ordering::Relaxed);
                }
            }
            Strategy::CacheAffinity => {
                let now_ms = self.core.clock.unix_ms();
                self.core.pool.affinity().bind(&self.beginnings, self.index, now_ms);
            }
        }
    }

    fn tell(&self, change: Change, model: &str, now_ms: i64) {
        let provider = &self.provider.name;
        let number = self.index + 1;
        let of = if model.is_empty() { "" } else { " for " };
        let health = self.status.map(|status| status.health.lock());
        match change {
            Change::Disabled => {
                self.core.metrics.count(Count::CredentialsDisabled);
                log::warn!(
                    target: "gproxy::credential",
                    "credential {number} of {provider} is disabled{of}{model}: the upstream does \
                     not accept it; another key or address, or a reload, brings it back"
                );
            }
            Change::Cools(why) => {
                self.core.metrics.count(Count::CredentialsCooled);
                let until = health.as_ref().map_or(now_ms, |health| health.returns_at(self.model));
                let rest_ms = until.saturating_sub(now_ms);
                log::info!(
                    target: "gproxy::credential",
                    "credential {number} of {provider} rests{of}{model} for {rest_ms} ms: {}",
                    why.name()
                );
            }
            Change::Recovered => {
                let target = "gproxy::credential";
                log::info!(target: target, "credential {number} of {provider} is back");
            }
        }
    }

    /// The same, beside another one.
    pub(super) fn beside(mut self) -> Self {
        self.is_beside = true;
        self
    }

    /// Tells what was really used.
    pub(super) fn used(&mut self, tokens: u64) {
        if let Some((_, used, _)) = &mut self.tokens {
            *used = tokens;
        }
    }

    /// Tokens are counted at a ceiling.
    pub(super) fn wants_tokens(&self) -> bool {
        self.tokens.is_some()
    }
}

/// The ceilings of a credential that a session has a seat at. What it uses counts when it comes: at
/// the session's end its beginning may be long past.
pub(super) struct Meter<'a> {
    core: &'a Core,
    status: &'a Status,
    rule: &'a RateLimit,
}

impl<'a> Meter<'a> {
    /// `None`: it has no ceilings.
    pub(super) fn of(core: &'a Core, credential: &'a Credential) -> Option<Meter<'a>> {
        let rule = credential.ceilings.as_ref()?;
        Some(Meter { core, status: core.pool.at(credential.place)?, rule })
    }

    /// Counts further requests and tokens.
    pub(super) fn add(&self, requests: u64, tokens: u64) {
        let now_ms = self.core.clock.unix_ms();
        self.status.counters.lock().add(self.rule, requests, tokens, now_ms);
    }
}

/// However a call ends, by a panic too, its place is free again.
impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let Some(status) = self.status else { return };
        if self.is_probe {
            status.health.lock().release(self.model);
        }
        status.in_flight.fetch_sub(1, Ordering::Relaxed);
        if let Some((reserved, used, at_ms)) = self.tokens {
            status.counters.lock().leave(reserved, used, at_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_take_turns_by_weight() {
        let picked = (0..6).map(|turn| pick([1, 0, 2].into_iter(), &mut { turn }));
        assert_eq!(picked.collect::<Vec<_>>(), [0, 2, 2, 0, 2, 2]);
        assert_eq!(pick([].into_iter(), &mut 3), 0);
    }

    /// As often as the weights of those that are left say, and one as well mixed as the other.
    #[test]
    fn the_turns_of_those_that_may_not_be_called_are_shared_by_weight() {
        let weights = [9_u64, 1, 9, 2, 3];
        for dead in [vec![], vec![0], vec![2], vec![0, 2], vec![4, 0, 1]] {
            let alive: u64 = (0..5).filter(|at| !dead.contains(at)).map(|at| weights[at]).sum();
            let rounds = 24 * 24 * 24;
            let mut shares = [0_u64; 5];
            for turn in 0..rounds {
                let (mut left, mut turn): (Vec<usize>, u64) = ((0..5).collect(), turn);
                let at = loop {
                    let place = pick(left.iter().map(|at| weights[*at]), &mut turn);
                    let at = left.remove(place);
                    if !dead.contains(&at) {
                        break at;
                    }
                };
                shares[at] += 1;
            }
            for at in (0..5).filter(|at| !dead.contains(at)) {
                let expected = rounds * weights[at] / alive;
                assert!(shares[at].abs_diff(expected) <= 30, "{dead:?}: {shares:?}");
            }
        }
    }
}
