//! Ceilings on spending: windows of UTC days, and what is spent and reserved in them.
//!
//! Pure. A request reserves what it may cost at most before it runs, so that requests side by side
//! cannot pass a ceiling together.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

/// A ceiling of a user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Over which time.
    pub window: Window,
    /// Picodollars; 0 lets nothing pass.
    pub ceiling: i64,
}

/// Time over which spending is summed, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Since midnight.
    Day,
    /// Since Monday.
    Week,
    /// Since the first of the month.
    Month,
    /// Since the beginning.
    Total,
}

impl Window {
    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Window::Day => "day",
            Window::Week => "week",
            Window::Month => "month",
            Window::Total => "total",
        }
    }

    /// The window of that name.
    pub fn named(name: &str) -> Option<Window> {
        let all = [Window::Day, Window::Week, Window::Month, Window::Total];
        all.into_iter().find(|window| window.name() == name)
    }

    /// Its first day when today is `today`, in days since 1970.
    pub fn first_day(self, today: i64) -> i64 {
        match self {
            Window::Day => today,
            // The first of January 1970 was a Thursday.
            Window::Week => today - (today + 3).rem_euclid(7),
            Window::Month => today + 1 - day_of_month(today),
            Window::Total => i64::MIN,
        }
    }
}

/// The day of the month, from 1, of a day since 1970 in the Gregorian calendar.
fn day_of_month(day: i64) -> i64 {
    // Years from March, so that the leap day is a year's last, in eras of 400 of them.
    let of_era = (day + 719_468).rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    // Months from March have 31, 30, 31, 30, 31 days, again and again.
    let month = (5 * of_year + 2) / 153;
    of_year - (153 * month + 2) / 5 + 1
}

/// What one user has spent and reserved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spending {
    by_day: BTreeMap<i64, i64>,
    reserved: i64,
    // What was added to ceilings: over which time, on which day, how much.
    top_ups: Vec<(Window, i64, i64)>,
}

/// How a quota stands. Picodollars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaStanding {
    /// Which of the user's.
    pub window: Window,
    /// Spent in it.
    pub used: i64,
    /// Held for requests under way.
    pub reserved: i64,
    /// Added to the quota in it.
    pub topped_up: i64,
    /// The quota and what was added.
    pub ceiling: i64,
}

/// How a user's quotas and limits stand, each in their order.
#[derive(Debug, Default)]
pub struct Standing {
    /// By his quotas.
    pub quotas: Vec<QuotaStanding>,
    /// By his limits: requests of the minute and of the day, tokens, requests under way.
    pub limits: Vec<[u64; 4]>,
}

/// A ceiling that a request would pass. Picodollars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Which of the user's.
    pub window: Window,
    /// Spent in it.
    pub used: i64,
    /// Held for requests under way.
    pub reserved: i64,
    /// The ceiling.
    pub ceiling: i64,
}

impl Spending {
    /// Adds what was spent on a day.
    pub fn spend(&mut self, day: i64, cost: i64) {
        let spent = self.by_day.entry(day).or_default();
        *spent = spent.saturating_add(cost);
    }

    /// What was spent in the window that holds today.
    pub fn used(&self, window: Window, today: i64) -> i64 {
        let days = self.by_day.range(window.first_day(today)..);
        days.map(|(_, cost)| *cost).fold(0, i64::saturating_add)
    }

    /// Adds to the ceiling of a window on a day: for as long as the day falls into the window.
    pub fn top_up(&mut self, window: Window, day: i64, amount: i64) {
        self.top_ups.push((window, day, amount));
    }

    /// Takes away what was added to the ceiling of a window.
    pub fn forget_top_ups(&mut self, window: Window) {
        self.top_ups.retain(|(of, _, _)| *of != window);
    }

    /// How a quota stands today.
    pub fn standing(&self, quota: &Quota, today: i64) -> QuotaStanding {
        let window = quota.window;
        let first_day = window.first_day(today);
        let added = self.top_ups.iter().filter(|(of, day, _)| *of == window && *day >= first_day);
        let topped_up = added.map(|(_, _, amount)| *amount).fold(0, i64::saturating_add);
        let ceiling = quota.ceiling.saturating_add(topped_up).max(0);
        let (used, reserved) = (self.used(window, today), self.reserved);
        QuotaStanding { window, used, reserved, topped_up, ceiling }
    }

    /// Holds `amount` for a request, unless a ceiling would be passed.
    pub fn reserve(&mut self, quotas: &[Quota], amount: i64, today: i64) -> Result<(), Spent> {
        for quota in quotas {
            let QuotaStanding { window, used, reserved, ceiling, .. } = self.standing(quota, today);
            let held = used.saturating_add(reserved);
            // At the ceiling nothing passes, what costs nothing neither.
            if held >= ceiling || held.saturating_add(amount) > ceiling {
                return Err(Spent { window, used, reserved, ceiling });
            }
        }
        self.reserved = self.reserved.saturating_add(amount);
        Ok(())
    }

    /// Puts what a request really cost in the place of what was held for it.
    pub fn settle(&mut self, reserved: i64, cost: i64, day: i64) {
        self.reserved = self.reserved.saturating_sub(reserved);
        if cost != 0 {
            self.spend(day, cost);
        }
    }
}
