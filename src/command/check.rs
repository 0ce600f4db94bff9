//! `gproxy check`: what a configuration means, once it has no mistakes.
//!
//! Prints no secret: credentials are counted, keys are shown by label or by their last characters.

use std::io::{self, Write};

use super::arguments::Arguments;
use super::{EXIT_MISTAKE, EXIT_WELL, Terminal};
use crate::api::Sealer;
use crate::config::declared::{Declared, SETTINGS};
use crate::config::{Loaded, Settings};
use crate::dialect::endpoint::ENDPOINTS;
use crate::dialect::path::Collection;
use crate::money;
use crate::route::quota::{Quota, Window};
use crate::route::rate::RateLimit;
use crate::route::snapshot::{AliasTarget, Provider, Snapshot, User};

/// Prints what it means, or all that would stop the start.
pub fn run(arguments: &Arguments, terminal: &mut Terminal<'_>) -> io::Result<u8> {
    let master = check_master_key(arguments, terminal.environment);
    if let Err(why) = &master {
        writeln!(terminal.error, "{why}")?;
    }
    let Some(loaded) = super::load(arguments, terminal)? else { return Ok(EXIT_MISTAKE) };
    for warning in arguments.warnings.iter().chain(&loaded.warnings) {
        writeln!(terminal.error, "warning: {warning}")?;
    }
    let mistakes = write_certificate_mistakes(&loaded, arguments, terminal)?;
    if master.is_err() || mistakes > 0 {
        return Ok(EXIT_MISTAKE);
    }
    write(&loaded, terminal.out)?;
    Ok(EXIT_WELL)
}

/// Prints all that is wrong with the certificates that are named; how much that is.
pub(super) fn write_certificate_mistakes(
    loaded: &Loaded,
    arguments: &Arguments,
    terminal: &mut Terminal<'_>,
) -> io::Result<usize> {
    let mistakes = (terminal.read_certificates)(&loaded.snapshot);
    let file = arguments.config_file(terminal.environment);
    for (key, why) in &mistakes {
        let name = |row: &Declared| row.value.get("name").is_some_and(|name| name == *key);
        let rows = loaded.declared.iter();
        let line = rows.filter(|row| row.section == SETTINGS).find(|row| name(row));
        let line = line.map_or_else(String::new, |row| format!("{}:", row.line));
        writeln!(terminal.error, "{file}:{line} {key}: {why}")?;
    }
    Ok(mistakes.len())
}

/// Whether the master key can be read and is long enough.
fn check_master_key(
    arguments: &Arguments,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<(), String> {
    let master = super::master_key(arguments, environment)?;
    if master.is_none_or(|master| Sealer::new(master.expose()).is_some()) {
        return Ok(());
    }
    let place = match &arguments.master_key_file {
        Some(file) => format!("--master-key-file: {file}"),
        None => "GPROXY_MASTER_KEY".to_owned(),
    };
    Err(format!(
        "{place}: the master key must have at least 32 characters; `openssl rand -hex 32` \
         prints one"
    ))
}

/// Writes everything.
pub fn write(loaded: &Loaded, out: &mut dyn Write) -> io::Result<()> {
    let snapshot = &loaded.snapshot;
    write_settings(&loaded.settings, snapshot, out)?;
    for provider in &snapshot.providers {
        writeln!(out)?;
        write_provider(provider, out)?;
    }
    let aliases = snapshot.aliases();
    if !aliases.is_empty() {
        writeln!(out)?;
    }
    for (name, alias) in aliases {
        let state = state(alias.enabled);
        let provider = |at: usize| &snapshot.providers[at].name;
        if alias.targets.is_empty() {
            let (provider, model) = (provider(alias.provider), &alias.model_id);
            writeln!(out, "alias {name} is {provider}/{model}{state}")?;
            continue;
        }
        writeln!(out, "alias {name}{state} is the first that serves of")?;
        for AliasTarget { provider: at, model_id, weight, tier } in &alias.targets {
            writeln!(out, "  {}/{model_id}, tier {tier}, weight {weight}", provider(*at))?;
        }
    }
    for user in &snapshot.users {
        writeln!(out)?;
        write_user(snapshot, user, out)?;
    }
    writeln!(out, "\nno mistakes")
}

fn write_settings(settings: &Settings, snapshot: &Snapshot, out: &mut dyn Write) -> io::Result<()> {
    let address = std::net::SocketAddr::new(settings.host, settings.port);
    let scheme = if snapshot.tls.is_some() { "https" } else { "http" };
    let workers = match settings.workers {
        0 => "a worker for each core".to_owned(),
        1 => "1 worker".to_owned(),
        count => format!("{count} workers"),
    };
    writeln!(out, "listens on {scheme}://{address} with {workers}, data in {}", settings.data_dir)
}

fn write_provider(provider: &Provider, out: &mut dyn Write) -> io::Result<()> {
    let state = state(provider.enabled);
    write!(out, "provider {} on channel {}{state}", provider.name, provider.channel.name)?;
    if let Some(label) = &provider.label {
        write!(out, ", \"{label}\"")?;
    }
    if provider.is_echo() {
        return writeln!(out, "\n  answers {} by itself", provider.dialects());
    }
    match provider.credentials.len() {
        0 => write!(out, ", no credential")?,
        1 => write!(out, ", 1 credential")?,
        count => write!(out, ", {count} credentials")?,
    }
    match &provider.proxy {
        Some(proxy) => writeln!(out, ", through {proxy}")?,
        None => writeln!(out)?,
    }
    if !provider.forward_headers.is_empty() {
        let named = provider.forward_headers.join(", ");
        writeln!(out, "  callers' headers that go up too: {named}")?;
    }
    if let Some(floor_ms) = provider.hedge {
        writeln!(out, "  hedged when silent for longer than usual, and for {floor_ms} ms")?;
    }
    for account in provider.credentials.iter().filter_map(|one| one.account.as_ref()) {
        let from = &account.token_uri;
        writeln!(out, "  account {}, tokens from {from}", account.client_email)?;
    }
    for dialect in provider.dialects().iter() {
        let endpoint = ENDPOINTS.iter().find(|endpoint| endpoint.dialect == dialect);
        if let (Some(place), Some(endpoint)) = (provider.destination(dialect), endpoint) {
            let url = place.url(endpoint, "v1beta", "MODEL", Collection::Models, "", false);
            writeln!(out, "  {:<18} {url}", dialect.name())?;
        }
    }
    Ok(())
}

fn write_user(snapshot: &Snapshot, user: &User, out: &mut dyn Write) -> io::Result<()> {
    let admin = if user.is_admin { ", administrator" } else { "" };
    writeln!(out, "user {}{admin}{}", user.name, state(user.enabled))?;
    for key in &user.keys {
        write!(out, "  key {}{}", key.shown, state(key.enabled))?;
        match key.in_flight {
            Some(most) => writeln!(out, ", {most} calls side by side")?,
            None => writeln!(out)?,
        }
    }
    if user.permissions.is_empty() {
        writeln!(out, "  may call nothing")?;
    }
    for permission in &user.permissions {
        let pattern = permission.pattern.as_str();
        match permission.provider {
            Some(index) => {
                writeln!(out, "  may call {pattern} at {}", snapshot.providers[index].name)?;
            }
            None => writeln!(out, "  may call {pattern} at every provider")?,
        }
    }
    for Quota { window, ceiling } in &user.quotas {
        let each = match window {
            Window::Day | Window::Week | Window::Month => format!("a {}", window.name()),
            Window::Total => "in all".to_owned(),
        };
        writeln!(out, "  may spend {} USD {each}", money::text(*ceiling))?;
    }
    for limit in &user.rate_limits {
        writeln!(out, "  limit of {}: {}", limit.pattern.as_str(), counters(limit).join(", "))?;
    }
    Ok(())
}

/// What a rule lets through.
fn counters(limit: &RateLimit) -> Vec<String> {
    let seconds = limit.window_ms / 1_000;
    let all = [
        limit.rpm.map(|most| format!("{most} calls a minute")),
        limit.rpd.map(|most| format!("{most} calls a day")),
        limit.total_tokens.map(|most| format!("{most} tokens in {seconds} s")),
        limit.in_flight.map(|most| format!("{most} calls side by side")),
    ];
    all.into_iter().flatten().collect()
}

fn state(enabled: bool) -> &'static str {
    if enabled { "" } else { " (disabled)" }
}
