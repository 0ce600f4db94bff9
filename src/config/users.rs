//! `[[users]]`, `[[users.keys]]` and the rows that name a user: permissions, limits, quotas.

use std::fmt::Display;
use std::sync::Arc;

use super::error::{At, Place, Report, shown};
use super::global::{choice, read_networks};
use super::providers::{Names, declare, declare_as, declared};
use super::reader::Table;
use super::sources::Sources;
use crate::dialect::trouble;
use crate::money;
use crate::password::{self, Password};
use crate::route::glob::{Glob, GlobError};
use crate::route::quota::{Quota, Window};
use crate::route::rate::RateLimit;
use crate::route::snapshot::{Caller, Key, Permission, Provider, Terms, User};
use crate::secret::{Digest, KeyId, Secret};

/// The key of the shipped file. Everybody knows it, so it opens a loopback address only.
const WELL_KNOWN_KEY: &str = "sk-admin-1";
const WELL_KNOWN_PASSWORD: &str = "admin";
/// All that is shown of a key that is short.
const MASK: &str = "...";
/// The most that a limit may be.
const COUNT_MAX: u64 = 1_000_000_000_000;

/// The users and all that hangs on them.
#[derive(Default)]
pub(super) struct Users {
    pub(super) users: Vec<User>,
    pub(super) names: Names,
    /// Enabled keys.
    pub(super) keys: Vec<(Digest, Caller)>,
    /// Every key, the disabled ones too, and the line where it stands.
    seen: Vec<(Digest, usize)>,
    /// Where a key or password stands that everybody knows.
    pub(super) well_known: Vec<(Place, &'static str)>,
    /// Where a key of an administrator's stands that is as written and short.
    pub(super) short_admin_keys: Vec<Place>,
    /// Users with a quota, each once, and where the first one stands.
    pub(super) quotas: Vec<(usize, Place)>,
}

pub(super) fn read(root: &mut Table<'_>, report: &mut Report<'_>, sources: &Sources<'_>) -> Users {
    let mut all = Users::default();
    for mut table in root.tables(report, "users") {
        let index = all.users.len();
        let name = table.required(report, "name");
        if let Some(At { value, place }) = &name {
            if value.is_empty() || value.len() > 128 || value.chars().any(char::is_control) {
                report.error(place, "must be 1 to 128 bytes without control characters");
            }
            if matches!(*value, "." | "..") {
                report.forbid(place, "no address of the administration interface can name it");
            }
            declare(report, &mut all.names, value, place, index);
        }
        let enabled = table.flag(report, "enabled", true);
        let is_admin = table.flag(report, "is_admin", false);
        let written = table.text(report, "password");
        let password = written
            .and_then(|written| read_password(report, sources, &written, &mut all.well_known));
        let keys = table.tables(report, "keys");
        table.finish(report);
        let name = name.map_or_else(String::new, |name| name.value.to_owned());
        all.users.push(User {
            name,
            is_admin,
            enabled,
            password,
            keys: Vec::new(),
            permissions: Vec::new(),
            file_permissions: Vec::new(),
            rate_limits: Vec::new(),
            quotas: Vec::new(),
            cost_used: 0,
        });
        for table in keys {
            read_one_key(table, report, &mut all, sources, index);
        }
    }
    all
}

/// Keys that were made beside the file, for any user.
pub(super) fn read_made_keys(
    root: &mut Table<'_>,
    report: &mut Report<'_>,
    all: &mut Users,
    sources: &Sources<'_>,
) {
    for mut table in root.made_tables(report, "user_keys") {
        if let Some(user) = user_of(&mut table, report, &all.names) {
            read_one_key(table, report, all, sources, user);
        }
    }
}

fn read_one_key(
    mut table: Table<'_>,
    report: &mut Report<'_>,
    all: &mut Users,
    sources: &Sources<'_>,
    index: usize,
) {
    let written = table.required(report, "api_key");
    let label = table.text(report, "label").map(|label| shown(label.value));
    let key_enabled = table.flag(report, "enabled", true);
    let terms = read_terms(&mut table, report);
    let in_flight = table.number(report, "in_flight", 0..=COUNT_MAX).map(|most| most.value);
    table.finish(report);
    let Some(At { value, place }) = written else { return };
    let Some((digest, masked)) = read_key(report, sources, value, &place) else { return };
    let is_short = masked == MASK;
    if let Some((_, line)) = all.seen.iter().find(|(other, _)| *other == digest) {
        let at = report.whereabouts(*line);
        report.error(&place, format!("the same key stands {at} too"));
    }
    all.seen.push((digest, place.line));
    let user = &mut all.users[index];
    let caller = Caller { user: index, key: user.keys.len() };
    let id = KeyId::of(&digest);
    let shown = label.unwrap_or(masked);
    let (enabled, used) = (key_enabled, Arc::default());
    user.keys.push(Key { id, shown, enabled, terms, in_flight, used });
    if user.enabled && key_enabled {
        all.keys.push((digest, caller));
        if digest == Digest::of(WELL_KNOWN_KEY.as_bytes()) {
            all.well_known.push((place, "the key of the shipped file"));
        } else if user.is_admin && is_short {
            all.short_admin_keys.push(place);
        }
    }
}

/// When, and where from, a key may be used.
fn read_terms(table: &mut Table<'_>, report: &mut Report<'_>) -> Option<Terms> {
    let expires = table.text(report, "expires_at").map(|At { value, place }| {
        let is_utc = value.len() == 20 && value.ends_with('Z');
        let at = trouble::timestamp(value).filter(|_| is_utc);
        if at.is_none() {
            report.error(&place, "must be a time in UTC such as \"2027-01-31T00:00:00Z\"");
        }
        // What cannot be read opens nothing.
        at.unwrap_or(0)
    });
    let networks = read_networks(table, report, "networks");
    (expires.is_some() || !networks.is_empty()).then_some(Terms { expires_ms: expires, networks })
}

/// The key's digest, and what people may see of it.
fn read_key(
    report: &mut Report<'_>,
    sources: &Sources<'_>,
    written: &str,
    place: &Place,
) -> Option<(Digest, String)> {
    let secret = sources.secret(report, &At { value: written, place: place.clone() })?;
    let text = secret.expose();
    if text.starts_with("sha256:") {
        let digest = Digest::parse(text);
        if digest.is_none() {
            report.error(
                place,
                "after `sha256:` stand 64 hexadecimal digits; `gproxy hash-key` prints them",
            );
        }
        return digest.map(|digest| (digest, format!("{}...", &text[..15])));
    }
    // Four characters of a short key would be too much of it.
    let shown = if text.len() >= 16 { &text[text.len() - 4..] } else { "" };
    Some((Digest::of(text.as_bytes()), format!("{MASK}{shown}")))
}

/// The password as it is compared: an Argon2 hash, or as written.
fn read_password(
    report: &mut Report<'_>,
    sources: &Sources<'_>,
    written: &At<&str>,
    well_known: &mut Vec<(Place, &'static str)>,
) -> Option<Password> {
    if written.value.starts_with("$argon2") {
        if !password::is_hash(written.value) {
            report.error(
                &written.place,
                "must be a whole Argon2 hash such as \"$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH\", \
                 of at most 256 MiB, 16 passes and 4 lanes",
            );
        }
        return Some(Password::Hash(written.value.into()));
    }
    let plain = |byte: u8| byte == b' ' || !byte.is_ascii();
    let password = if written.value.bytes().any(plain) {
        Some(Secret::new(written.value))
    } else {
        sources.secret(report, written)
    }?;
    if password.expose() == WELL_KNOWN_PASSWORD {
        well_known.push((written.place.clone(), "a password that everybody tries first"));
    }
    Some(Password::Plain(password))
}

pub(super) fn read_permissions(
    root: &mut Table<'_>,
    report: &mut Report<'_>,
    all: &mut Users,
    providers: &[Provider],
    provider_names: &Names,
) {
    for mut table in root.tables(report, "permissions") {
        let user = user_of(&mut table, report, &all.names);
        let provider_name = table.text(report, "provider_name");
        let provider =
            provider_name.as_ref().map(|name| declared(report, provider_names, "provider", name));
        let pattern = read_pattern(&mut table, report);
        table.finish(report);
        let (Some(user), Some((pattern, place))) = (user, pattern) else { continue };
        if let Some((name, _)) = prefix_of(&pattern, providers, provider.flatten()) {
            let instead = format_args!("write provider_name = \"{name}\" instead");
            warn_of_prefix(report, &place, name, &instead);
        }
        // An unknown provider was reported; it must never come to mean every provider.
        if provider != Some(None) {
            let provider = provider.flatten();
            all.users[user].permissions.push(Permission { provider, pattern });
        }
    }
}

/// The provider whose prefix a pattern begins with, of all or of this one, and the rest.
fn prefix_of<'p>(
    pattern: &'p Glob,
    providers: &'p [Provider],
    only: Option<usize>,
) -> Option<(&'p str, &'p str)> {
    let named = providers.iter().enumerate();
    let mut named = named.filter(|(index, _)| only.is_none_or(|only| only == *index));
    named.find_map(|(_, provider)| {
        let rest = pattern.as_str().strip_prefix(&provider.name)?.strip_prefix('/')?;
        Some((provider.name.as_str(), rest))
    })
}

fn warn_of_prefix(report: &mut Report<'_>, place: &Place, name: &str, instead: &dyn Display) {
    report.warn(
        place,
        format_args!(
            "patterns are tested on the model's name without its provider prefix, so \"{name}/\" \
             seldom matches; {instead}"
        ),
    );
}

fn user_of(table: &mut Table<'_>, report: &mut Report<'_>, names: &Names) -> Option<usize> {
    let name = table.required(report, "user_name")?;
    declared(report, names, "user", &name)
}

fn read_pattern(table: &mut Table<'_>, report: &mut Report<'_>) -> Option<(Glob, Place)> {
    let At { value, place } = table.required(report, "model_pattern")?;
    match Glob::parse(value) {
        Ok(pattern) => Some((pattern, place)),
        Err(why @ GlobError::Special(_)) => {
            report.forbid(&place, &why.to_string());
            None
        }
        Err(why) => {
            report.error(&place, why.to_string());
            None
        }
    }
}

pub(super) fn read_file_permissions(
    root: &mut Table<'_>,
    report: &mut Report<'_>,
    all: &mut Users,
    provider_names: &Names,
) {
    for mut table in root.tables(report, "file_permissions") {
        let user = user_of(&mut table, report, &all.names);
        let provider = table.required(report, "provider_name");
        let provider =
            provider.and_then(|name| declared(report, provider_names, "provider", &name));
        if let (Some(user), Some(provider)) = (user, provider) {
            all.users[user].file_permissions.push(provider);
        }
        table.finish(report);
    }
}

pub(super) fn read_rate_limits(
    root: &mut Table<'_>,
    report: &mut Report<'_>,
    all: &mut Users,
    providers: &[Provider],
) {
    const COUNTERS: [&str; 4] = ["rpm", "rpd", "total_tokens", "in_flight"];
    let mut seen = Names::new();
    for mut table in root.tables(report, "rate_limits") {
        let user = user_of(&mut table, report, &all.names);
        let pattern = read_pattern(&mut table, report);
        let [rpm, rpd, total_tokens, in_flight] =
            COUNTERS.map(|key| Some(table.number(report, key, 0..=COUNT_MAX)?.value));
        if !COUNTERS.into_iter().any(|key| table.holds(key)) {
            let place = table.place.clone();
            report.error(&place, "limits nothing; write one of rpm, rpd, total_tokens, in_flight");
        }
        let window = table.number(report, "window_s", 1..=31 * 86_400);
        if let Some(At { place, .. }) = &window
            && !table.holds("total_tokens")
        {
            report.error(place, "is the window of total_tokens, which is missing");
        }
        if let (Some(user), Some((pattern, place))) = (user, pattern) {
            if let Some((name, rest)) = prefix_of(&pattern, providers, None) {
                let rest = if rest.is_empty() { "*" } else { rest };
                let instead = format_args!(
                    "write \"{rest}\" instead, which counts calls at every provider, or give the \
                     credentials of {name} ceilings"
                );
                warn_of_prefix(report, &place, name, &instead);
            }
            // Counters are kept by user and pattern.
            let pattern_shown = shown(pattern.as_str());
            let name = shown(&all.users[user].name);
            let name = format!("limit of the user \"{name}\" for \"{pattern_shown}\"");
            let key = format!("{user} {}", pattern.as_str());
            declare_as(report, &mut seen, &key, &name, &place, 0);
            let window_ms = window.map_or(60, |window| window.value) as i64 * 1_000;
            let limit = RateLimit { pattern, rpm, rpd, total_tokens, window_ms, in_flight };
            all.users[user].rate_limits.push(limit);
        }
        table.finish(report);
    }
}

pub(super) fn read_quotas(
    root: &mut Table<'_>,
    report: &mut Report<'_>,
    all: &mut Users,
    usage_off: Option<Place>,
) {
    let tables = root.tables(report, "quotas");
    if let (Some(place), false) = (usage_off, tables.is_empty()) {
        report.error(&place, "must be true while there are quotas: spending is counted from usage");
    }
    let mut seen = Names::new();
    for mut table in tables {
        let user = user_of(&mut table, report, &all.names);
        if !table.holds("quota") {
            report.error(&table.place_of(report, "quota"), "this key is missing");
        }
        let ceiling = table.money(report, "quota", money::DOLLARS_MAX);
        let cost_used = table.money(report, "cost_used", money::DOLLARS_MAX);
        let window = choice(&mut table, report, "window", &["total", "day", "week", "month"]);
        let window = window.map_or("total", |window| window.value);
        if let Some(index) = user {
            let place = table.place_of(report, "user_name");
            let user = &mut all.users[index];
            let name = format!("{window} quota of the user \"{}\"", shown(&user.name));
            declare_as(report, &mut seen, &format!("{window} {index}"), &name, &place, 0);
            if user.quotas.is_empty() {
                all.quotas.push((index, table.place_of(report, "quota")));
            }
            user.cost_used = user.cost_used.max(cost_used.map_or(0, |cost| cost.value));
            if let (Some(window), Some(ceiling)) = (Window::named(window), ceiling) {
                user.quotas.push(Quota { window, ceiling: ceiling.value });
            }
        }
        table.finish(report);
    }
}
