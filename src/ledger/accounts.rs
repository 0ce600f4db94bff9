//! What users have spent and how often they called, shared by all workers.
//!
//! One lock, held for the arithmetic alone and never across a wait.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Opening;
use crate::dialect::ratelimit;
use crate::route::quota::{Spending, Spent, Standing, Window};
use crate::route::rate::{Counters, DAY_MS, IN_FLIGHT, IN_FLIGHT_MS, Limited, RateLimit};
use crate::route::snapshot::{Key, User};
use crate::secret::KeyId;

/// A reservation that was too small grows by this part of itself in advance.
const STEP: i64 = 8;

/// Why a request is not admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// A quota is spent.
    Spent(Spent),
    /// A limit is reached.
    Limited(Limited, Box<ratelimit::Standing>),
}

/// What was taken for a request. It has to be settled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Picodollars.
    pub cost: i64,
    /// Tokens.
    pub tokens: u64,
    // Patterns of the rules that count it.
    rules: Vec<Arc<str>>,
    // The key that counts it.
    key: Option<KeyId>,
}

#[derive(Default)]
struct Account {
    spending: Spending,
    // By pattern, so that a reload keeps what was counted.
    counters: HashMap<String, Counters>,
    // Requests under way, of keys that have a limit, while there are any.
    keys: HashMap<KeyId, u64>,
    // Requests of today and yesterday, by name: for rules that are met later.
    remembered: Vec<(String, i64, u64)>,
}

/// The accounts of all users, by name.
#[derive(Default)]
pub struct Accounts {
    all: Mutex<HashMap<String, Account>>,
}

impl Accounts {
    /// The accounts as the books have them.
    pub fn new(opening: Opening) -> Accounts {
        let mut all: HashMap<String, Account> = HashMap::new();
        for (user, day, cost) in opening.spent {
            all.entry(user).or_default().spending.spend(day, cost);
        }
        for (user, name, day, requests) in opening.requests {
            let requests = u64::try_from(requests).unwrap_or(0);
            all.entry(user).or_default().remembered.push((name, day, requests));
        }
        for top_up in opening.top_ups {
            let Some(window) = Window::named(&top_up.window) else { continue };
            let account = all.entry(top_up.user).or_default();
            account.spending.top_up(window, top_up.at_ms.div_euclid(DAY_MS), top_up.amount);
        }
        Accounts { all: Mutex::new(all) }
    }

    /// Adds to a user's ceiling over `window`, if `day` falls into it.
    pub fn top_up(&self, user: &str, window: Window, day: i64, amount: i64) {
        let mut all = self.all.lock();
        all.entry(user.to_owned()).or_default().spending.top_up(window, day, amount);
    }

    /// Takes away all that was added to a user's ceiling over `window`.
    pub fn forget_top_ups(&self, user: &str, window: Window) {
        if let Some(account) = self.all.lock().get_mut(user) {
            account.spending.forget_top_ups(window);
        }
    }

    /// Counts what was spent elsewhere.
    pub fn spend(&self, user: String, day: i64, cost: i64) {
        self.all.lock().entry(user).or_default().spending.spend(day, cost);
    }

    /// How the user's quotas and limits stand, in their order.
    pub fn standing(&self, user: &User, now_ms: i64) -> Standing {
        let mut all = self.all.lock();
        let account = all.entry(user.name.clone()).or_default();
        let day = now_ms.div_euclid(DAY_MS);
        let quotas = user.quotas.iter().map(|quota| account.spending.standing(quota, day));
        let quotas = quotas.collect();
        let limits = user.rate_limits.iter().map(|rule| {
            let counters = account.counters_of(rule.pattern.as_str(), &rule.pattern);
            counters.levels(rule, now_ms)
        });
        Standing { quotas, limits: limits.collect() }
    }

    /// Admits a request that may cost and use so much, or takes nothing at all. Tells how the user
    /// stands under the rules that count it, if any do.
    pub fn admit(
        &self,
        user: &User,
        key: Option<&Key>,
        name: &str,
        cost: i64,
        tokens: u64,
        now_ms: i64,
    ) -> Result<(Taken, Option<ratelimit::Standing>), Denied> {
        if !user.is_limited(key) {
            return Ok((Taken::default(), None));
        }
        let mut all = self.all.lock();
        if !all.contains_key(&user.name) {
            all.insert(user.name.clone(), Account::default());
        }
        let Some(account) = all.get_mut(&user.name) else { return Ok((Taken::default(), None)) };
        let day = now_ms.div_euclid(DAY_MS);
        let quotas = &user.quotas;
        account.spending.reserve(quotas, cost, day).map_err(Denied::Spent)?;
        let rules = || user.rate_limits.iter().filter(|rule| rule.pattern.matches(name));
        for rule in rules() {
            let counters = account.counters_of(rule.pattern.as_str(), &rule.pattern);
            if let Err(limited) = counters.check(rule, tokens, now_ms) {
                account.spending.settle(cost, 0, day);
                let standing = account.told(rules(), now_ms).unwrap_or_default();
                return Err(Denied::Limited(limited, Box::new(standing)));
            }
        }
        let key = key.filter(|key| key.in_flight.is_some());
        if let Err(limited) = key.map_or(Ok(()), |key| account.check(key)) {
            account.spending.settle(cost, 0, day);
            let standing = account.told(rules(), now_ms).unwrap_or_default();
            return Err(Denied::Limited(limited, Box::new(standing)));
        }
        let mut taken = Taken { cost, tokens, rules: Vec::new(), key: key.map(|key| key.id) };
        if let Some(id) = taken.key {
            *account.keys.entry(id).or_default() += 1;
        }
        for rule in rules() {
            let pattern = rule.pattern.as_str();
            account.counters_of(pattern, &rule.pattern).enter(rule, tokens, now_ms);
            taken.rules.push(rule.pattern.shared());
        }
        let standing = account.told(rules(), now_ms);
        Ok((taken, standing))
    }

    /// Holds more for a request under way that turns out to cost `cost`, and some in advance.
    /// An error: a quota of the user's has no room for it.
    pub fn extend(
        &self,
        user: &User,
        taken: &mut Taken,
        cost: i64,
        now_ms: i64,
    ) -> Result<(), Spent> {
        let mut all = self.all.lock();
        let Some(account) = all.get_mut(&user.name) else { return Ok(()) };
        let day = now_ms.div_euclid(DAY_MS);
        let mut reserve = |wanted: i64| {
            let more = wanted.saturating_sub(taken.cost).max(0);
            account.spending.reserve(&user.quotas, more, day)?;
            taken.cost += more;
            Ok(())
        };
        reserve(cost.saturating_add(cost / STEP)).or_else(|_: Spent| reserve(cost))
    }

    /// Puts what a request cost and used in the place of what was taken for it at `at_ms`.
    pub fn settle(&self, user: &str, taken: &Taken, cost: i64, tokens: u64, at_ms: i64) {
        if cost == 0 && *taken == Taken::default() {
            return;
        }
        let mut all = self.all.lock();
        if !all.contains_key(user) {
            all.insert(user.to_owned(), Account::default());
        }
        let Some(account) = all.get_mut(user) else { return };
        let day = at_ms.div_euclid(DAY_MS);
        account.spending.settle(taken.cost, cost, day);
        for pattern in &taken.rules {
            if let Some(counters) = account.counters.get_mut(&**pattern) {
                counters.leave(taken.tokens, tokens, at_ms);
            }
        }
        if let Some(id) = taken.key
            && let Some(count) = account.keys.get_mut(&id)
        {
            *count -= 1;
            if *count == 0 {
                account.keys.remove(&id);
            }
        }
    }

    /// Requests under way with a key that has a limit.
    pub fn in_flight(&self, user: &str, key: KeyId) -> u64 {
        let all = self.all.lock();
        all.get(user).and_then(|account| account.keys.get(&key)).copied().unwrap_or(0)
    }
}

impl Account {
    /// Whether one more request may pass with this key.
    fn check(&self, key: &Key) -> Result<(), Limited> {
        let now = self.keys.get(&key.id).copied().unwrap_or(0);
        match key.in_flight {
            Some(limit) if now >= limit => Err(Limited {
                pattern: key.shown.as_str().into(),
                of_key: true,
                counter: IN_FLIGHT,
                limit,
                reset_ms: IN_FLIGHT_MS,
            }),
            _ => Ok(()),
        }
    }

    /// What the caller is told of the rules that count a request.
    fn told<'r>(
        &mut self,
        rules: impl Iterator<Item = &'r RateLimit>,
        now_ms: i64,
    ) -> Option<ratelimit::Standing> {
        let mut standing: Option<ratelimit::Standing> = None;
        for rule in rules {
            let counters = self.counters_of(rule.pattern.as_str(), &rule.pattern);
            counters.stand(rule, now_ms, standing.get_or_insert_default());
        }
        standing
    }

    fn counters_of(&mut self, key: &str, pattern: &crate::route::glob::Glob) -> &mut Counters {
        if !self.counters.contains_key(key) {
            let mut counters = Counters::default();
            let matching = self.remembered.iter().filter(|(name, ..)| pattern.matches(name));
            let mut matching: Vec<_> = matching.map(|(_, day, count)| (*day, *count)).collect();
            matching.sort_unstable();
            matching.into_iter().for_each(|(day, count)| counters.remember(day, count));
            self.counters.insert(key.to_owned(), counters);
        }
        self.counters.get_mut(key).expect("it is there, or was just put there")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::glob::Glob;
    use crate::route::quota::{Quota, Window};

    const MINUTE_MS: i64 = 60_000;
    /// The beginning of a minute and of nothing longer.
    const EDGE_MS: i64 = 28_000_000 * MINUTE_MS;

    fn rule(pattern: &str, rpm: Option<u64>, rpd: Option<u64>) -> RateLimit {
        RateLimit {
            pattern: Glob::parse(pattern).expect("a pattern"),
            rpm,
            rpd,
            total_tokens: None,
            window_ms: MINUTE_MS,
            in_flight: None,
        }
    }

    fn user(rate_limits: Vec<RateLimit>, quotas: Vec<Quota>) -> User {
        User {
            name: "alice".into(),
            password: None,
            is_admin: false,
            enabled: true,
            keys: Vec::new(),
            permissions: Vec::new(),
            file_permissions: Vec::new(),
            rate_limits,
            quotas,
            cost_used: 0,
        }
    }

    /// How many of 400 calls from eight threads pass at this time.
    fn burst(accounts: &Accounts, user: &User, now_ms: i64) -> usize {
        let call = || accounts.admit(user, None, "gpt-4", 0, 0, now_ms).is_ok();
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(move || (0..50).filter(|_| call()).count())).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        })
    }

    #[test]
    fn calls_at_once_pass_exactly_as_often_as_allowed_also_across_a_windows_edge() {
        let several = vec![rule("gpt-*", Some(30), None), rule("*", Some(50), Some(70))];
        for (rules, first, later, day) in [
            (vec![rule("gpt-*", Some(30), None)], 30, 30, 30),
            (several, 30, 30, 10),
            (vec![rule("*", Some(9), None), rule("gpt-4", Some(100), None)], 9, 9, 9),
        ] {
            let (accounts, user) = (Accounts::default(), user(rules, Vec::new()));
            assert_eq!(burst(&accounts, &user, EDGE_MS - 1), first);
            // On the other side of the edge the same sixty seconds still count.
            assert_eq!(burst(&accounts, &user, EDGE_MS), 0);
            assert_eq!(burst(&accounts, &user, EDGE_MS + 1), 0);
            assert_eq!(burst(&accounts, &user, EDGE_MS + MINUTE_MS), later);
            assert_eq!(burst(&accounts, &user, EDGE_MS + 2 * MINUTE_MS - 1), 0);
            assert_eq!(burst(&accounts, &user, EDGE_MS + 3 * MINUTE_MS), day);
        }
    }

    #[test]
    fn a_reservation_grows_as_far_as_every_quota_has_room() {
        let quotas = vec![
            Quota { window: Window::Day, ceiling: 1_000 },
            Quota { window: Window::Total, ceiling: 5_000 },
        ];
        let (accounts, user) = (Accounts::default(), user(Vec::new(), quotas));
        let admit = |cost| accounts.admit(&user, None, "m", cost, 0, EDGE_MS).expect("room").0;
        let (mut one, other) = (admit(100), admit(400));
        assert!(accounts.extend(&user, &mut one, 400, EDGE_MS).is_ok());
        assert_eq!(one.cost, 450, "some in advance");
        assert!(accounts.extend(&user, &mut one, 600, EDGE_MS).is_ok());
        assert_eq!(one.cost, 600, "what is left, to the last of it");
        assert!(accounts.extend(&user, &mut one, 601, EDGE_MS).is_err());
        assert_eq!(one.cost, 600);
        // What another request gives back is there again.
        accounts.settle("alice", &other, 10, 0, EDGE_MS);
        assert!(accounts.extend(&user, &mut one, 601, EDGE_MS).is_ok());
        accounts.settle("alice", &one, 601, 0, EDGE_MS);
        assert!(accounts.admit(&user, None, "m", 389, 0, EDGE_MS).is_ok());
    }
}
