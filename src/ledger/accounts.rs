//! What users have spent and how often they called, shared by all workers.
//!
//! One lock, held for the arithmetic alone and never across a wait.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::Opening;
use crate::route::quota::{QuotaStanding, Spending, Spent, Window};
use crate::route::rate::{Counters, DAY_MS, Limited};
use crate::route::snapshot::User;

/// Why a request is not admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// A quota is spent.
    Spent(Spent),
    /// A limit is reached.
    Limited(Limited),
}

/// What was taken for a request. It has to be settled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Picodollars.
    pub cost: i64,
    /// Tokens.
    pub tokens: u64,
    // Patterns of the rules that count it.
    rules: Vec<String>,
}

/// How quotas and limits stand.
pub struct Standing {
    /// By the user's quotas.
    pub quotas: Vec<QuotaStanding>,
    /// By the user's limits: requests of the minute and of the day, tokens, requests under way.
    pub limits: Vec<[u64; 4]>,
}

#[derive(Default)]
struct Account {
    spending: Spending,
    // By pattern, so that a reload keeps what was counted.
    counters: HashMap<String, Counters>,
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

    /// Admits a request that may cost and use so much, or takes nothing at all.
    pub fn admit(
        &self,
        user: &User,
        name: &str,
        cost: i64,
        tokens: u64,
        now_ms: i64,
    ) -> Result<Taken, Denied> {
        if user.quotas.is_empty() && user.rate_limits.is_empty() {
            return Ok(Taken::default());
        }
        let mut all = self.all.lock();
        if !all.contains_key(&user.name) {
            all.insert(user.name.clone(), Account::default());
        }
        let Some(account) = all.get_mut(&user.name) else { return Ok(Taken::default()) };
        let day = now_ms.div_euclid(DAY_MS);
        let quotas = &user.quotas;
        account.spending.reserve(quotas, cost, day).map_err(Denied::Spent)?;
        let rules = || user.rate_limits.iter().filter(|rule| rule.pattern.matches(name));
        for rule in rules() {
            let counters = account.counters_of(rule.pattern.as_str(), &rule.pattern);
            if let Err(limited) = counters.check(rule, tokens, now_ms) {
                account.spending.settle(cost, 0, day);
                return Err(Denied::Limited(limited));
            }
        }
        let mut taken = Taken { cost, tokens, rules: Vec::new() };
        for rule in rules() {
            let pattern = rule.pattern.as_str();
            account.counters_of(pattern, &rule.pattern).enter(rule, tokens, now_ms);
            taken.rules.push(pattern.to_owned());
        }
        Ok(taken)
    }

    /// Puts what a request cost and used in the place of what was taken for it.
    pub fn settle(&self, user: &str, taken: &Taken, cost: i64, tokens: u64, now_ms: i64) {
        if cost == 0 && *taken == Taken::default() {
            return;
        }
        let mut all = self.all.lock();
        if !all.contains_key(user) {
            all.insert(user.to_owned(), Account::default());
        }
        let Some(account) = all.get_mut(user) else { return };
        let day = now_ms.div_euclid(DAY_MS);
        account.spending.settle(taken.cost, cost, day);
        for pattern in &taken.rules {
            if let Some(counters) = account.counters.get_mut(pattern) {
                counters.leave(taken.tokens, tokens);
            }
        }
    }
}

impl Account {
    fn counters_of(&mut self, key: &str, pattern: &crate::route::glob::Glob) -> &mut Counters {
        if !self.counters.contains_key(key) {
            let mut counters = Counters::default();
            let matching = self.remembered.iter().filter(|(name, ..)| pattern.matches(name));
            let mut matching: Vec<_> = matching.map(|(_, day, count)| (*day, *count)).collect();
            matching.sort_unstable();
            matching.into_iter().for_each(|(day, count)| counters.remember(day, count));
            self.counters.insert(key.to_owned(), counters);
        }
        self.counters.entry(key.to_owned()).or_default()
    }
}
