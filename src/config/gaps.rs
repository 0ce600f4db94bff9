//! What is no mistake and seldom meant: a quota that limits nothing, a key that can be guessed.

use std::net::IpAddr;

use super::address;
use super::error::{Report, shown};
use super::users::Users;
use crate::route::snapshot::Provider;

/// Pairs past this many are not worth reading.
const FREE_MAX: usize = 20;

/// A quota counts what calls cost, and those of a provider without prices cost nothing.
pub(super) fn warn_of_free_calls(report: &mut Report<'_>, all: &Users, providers: &[Provider]) {
    let mut count = 0;
    for (user, place) in &all.quotas {
        let user = &all.users[*user];
        for (at, provider) in providers.iter().enumerate() {
            let mut permissions = user.permissions.iter();
            let may = permissions.any(|one| one.provider.is_none_or(|only| only == at));
            if !(may && user.enabled && provider.enabled) || costs_anything(provider) {
                continue;
            }
            count += 1;
            if count <= FREE_MAX {
                let (user, provider) = (shown(&user.name), &provider.name);
                let why = format!(
                    "the user \"{user}\" has a quota, but nothing that \"{provider}\" serves has \
                     a price: its calls cost nothing"
                );
                report.warn(place, why);
            }
        }
    }
    if count > FREE_MAX {
        let rest = count - FREE_MAX;
        let why = format!("{rest} more pairs of a user with a quota and a provider without prices");
        report.warnings.push(why);
    }
}

/// Whether there is a price for anything that it serves. The channel echo bills nobody.
fn costs_anything(provider: &Provider) -> bool {
    provider.is_echo()
        || provider.list_prices.is_some()
        || provider.price_default.is_some()
        || !provider.price_patterns.is_empty()
        || provider.models.values().any(|model| model.price.is_some())
}

/// Whoever guesses the key of an administrator has everything.
pub(super) fn warn_of_short_keys(report: &mut Report<'_>, all: &Users, host: IpAddr) {
    if address::is_loopback(host) {
        return;
    }
    for place in &all.short_admin_keys {
        let why = format!(
            "the key of an administrator is shorter than 16 characters, and the host {host} can \
             be reached from other machines: it can be guessed; write a longer one, such as \
             `openssl rand -hex 24` prints"
        );
        report.warn(place, why);
    }
}
