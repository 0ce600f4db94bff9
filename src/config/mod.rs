//! `config.toml`: text to tables that need no further checking.
//!
//! Everything that can be known to be wrong is found here, all of it in one go, each mistake with
//! its line, its key and what to write instead. Nothing is read but the text, the flags, the
//! environment, and through a function the files of accounts; no network. Secrets leave only
//! inside [`crate::secret::Secret`] or an account's key pair, or as a digest, and no message quotes
//! one.

mod address;
mod clouds;
pub mod declared;
mod error;
mod gaps;
mod global;
mod hints;
pub mod made;
mod providers;
mod reader;
mod sources;
mod users;

use std::net::IpAddr;

use log::LevelFilter;
use toml::de::DeTable;

pub use self::error::{ConfigError, nearest};
pub use self::sources::{Files, Named, Overrides};

use self::declared::{Declared, Outside};
use self::error::{Place, Report};
use self::made::Made;
use self::providers::Defaults;
use self::reader::Table;
use self::sources::Sources;
use self::users::Users;
use crate::route::snapshot::{Snapshot, Tables};

/// A configuration without mistakes.
pub struct Loaded {
    /// What may change while we run.
    pub snapshot: Snapshot,
    /// What needs a restart.
    pub settings: Settings,
    /// What the file's arrays hold, for people.
    pub declared: Vec<Declared>,
    /// Addresses that rows of the database may not have, and have: they are not called.
    pub fenced: Vec<ConfigError>,
    /// What rows of the database have and may not have any more: it has no effect.
    pub forbidden: Vec<ConfigError>,
    /// What is probably not meant so, or has no effect; with file, line and key.
    pub warnings: Vec<String>,
    /// Those of them that are about rows of the database, by row.
    pub made_warnings: Vec<ConfigError>,
}

/// What is fixed for the life of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Address to listen on.
    pub host: IpAddr,
    /// Port to listen on; 0: any free one.
    pub port: u16,
    /// Worker threads; 0: one for each core.
    pub workers: usize,
    /// Folder of everything that we write.
    pub data_dir: String,
    /// Least severe message that is logged.
    pub log_level: LevelFilter,
    /// Usage rows count as written when the disk itself has them.
    pub synchronous_full: bool,
}

impl Settings {
    /// The settings that differ in `new` and have no effect before a restart.
    pub fn needs_restart(&self, new: &Settings) -> Vec<&'static str> {
        let rows = [
            ("host", self.host != new.host),
            ("port", self.port != new.port),
            ("workers", self.workers != new.workers),
            ("data_dir", self.data_dir != new.data_dir),
            ("synchronous", self.synchronous_full != new.synchronous_full),
        ];
        rows.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }
}

/// Reads a configuration without flags and without further files. See [`load_with`].
pub fn load(
    text: &str,
    file_name: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, Vec<ConfigError>> {
    let no_files = |_: &str| Err(std::io::ErrorKind::Unsupported.into());
    load_with(text, file_name, &Overrides::default(), environment, &no_files)
}

/// Reads a configuration that is all there is. See [`load_both`].
pub fn load_with(
    text: &str,
    file_name: &str,
    overrides: &Overrides,
    environment: &dyn Fn(&str) -> Option<String>,
    files: Files<'_>,
) -> Result<Loaded, Vec<ConfigError>> {
    load_both(text, file_name, &Made::default(), overrides, environment, files)
}

/// Reads a configuration and what the database declares beside it. A flag wins over its variable,
/// which wins over the file, which wins over the default. `file_name` is for messages only. The
/// errors are in the order of the file.
pub fn load_both(
    text: &str,
    file_name: &str,
    made: &Made,
    overrides: &Overrides,
    environment: &dyn Fn(&str) -> Option<String>,
    files: Files<'_>,
) -> Result<Loaded, Vec<ConfigError>> {
    let made_text = made.text();
    let mut report = Report::new(file_name, text, made, &made_text);
    let (document, mistakes) = DeTable::parse_recoverable(text);
    for mistake in &mistakes {
        let span = mistake.span().unwrap_or(0..0);
        let line = report.line_of(span.start.min(text.len()));
        // One mistake may be several to the parser.
        if report.errors.last().is_none_or(|last| last.line != line) {
            let why = hints::syntax(text, mistake.message(), span);
            report.error(&Place { line, key: String::new() }, why);
        }
    }
    if !mistakes.is_empty() {
        return Err(in_order(report));
    }
    let nothing = DeTable::new();
    // Rows come out of a JSON value, so they are TOML.
    let (beside, _) = DeTable::parse_recoverable(&made_text.toml);
    let root = Table::new(document.get_ref(), "").beside(beside.get_ref(), text.len() + 1);
    let sources = Sources { overrides, environment, files };
    let (tables, settings) = read(root, &nothing, &mut report, &sources);
    if !report.errors.is_empty() {
        return Err(in_order(report));
    }
    let line_of = |offset| report.line_of(offset);
    let outside = Outside { environment, files };
    let declared = declared::rows(document.get_ref(), &outside, &line_of);
    let Report { fenced, forbidden, warnings, made_warnings, .. } = report;
    let snapshot = Snapshot::new(tables);
    Ok(Loaded { snapshot, settings, declared, fenced, forbidden, warnings, made_warnings })
}

fn in_order(report: Report<'_>) -> Vec<ConfigError> {
    let mut errors = report.errors;
    errors.sort_by_key(|error| error.line);
    errors
}

/// Every section, in the order in which they refer to each other.
fn read<'t>(
    mut root: Table<'t>,
    nothing: &'t DeTable<'t>,
    report: &mut Report<'_>,
    sources: &Sources<'_>,
) -> (Tables, Settings) {
    let section = root.table(report, "global").unwrap_or_else(|| Table::new(nothing, "global"));
    let mut global = global::read(section, report, sources);
    let retention = global::read_ledger(&mut root, report, &mut global);
    let tls = global::read_tls(&mut root, report);
    let limits = global::read_limits(&mut root, report);
    let (timeouts, drain_ms) = global::read_timeouts(&mut root, report);
    let made_fence = global.made_fence;
    let list_prices = global.billing.list_prices;
    let defaults = Defaults { proxy: global.proxy, timeouts, made_fence, list_prices };
    let (mut providers, names) = providers::read(&mut root, report, sources, &defaults);
    providers::read_models(&mut root, report, &mut providers, &names);
    let aliases = providers::read_aliases(&mut root, report, &providers, &names);
    let mut users = users::read(&mut root, report, sources);
    users::read_made_keys(&mut root, report, &mut users, sources);
    users::read_permissions(&mut root, report, &mut users, &providers, &names);
    users::read_file_permissions(&mut root, report, &mut users, &names);
    users::read_rate_limits(&mut root, report, &mut users, &providers);
    users::read_quotas(&mut root, report, &mut users, global.usage_off);
    root.finish(report);
    check_reach(report, &users, global.settings.host, sources.overrides.bound);
    warn_of_gaps(report, &users, providers.is_empty());
    gaps::warn_of_free_calls(report, &users, &providers);
    gaps::warn_of_short_keys(report, &users, global.settings.host);
    let tables = Tables {
        providers,
        users: users.users,
        keys: users.keys,
        aliases,
        limits,
        logging: global.logging,
        billing: global.billing,
        retention,
        proxy: defaults.proxy,
        timeouts,
        drain_ms,
        cors_origins: global.cors_origins,
        trusted_proxies: global.trusted_proxies,
        extra_ca_file: global.extra_ca_file,
        tls,
        metrics_open: global.metrics_open,
        made_fence,
    };
    (tables, global.settings)
}

/// What everybody knows must not be reachable by everybody, where we are to listen and where we do.
fn check_reach(report: &mut Report<'_>, users: &Users, host: IpAddr, bound: Option<IpAddr>) {
    let is_open = |address: &IpAddr| !address::is_loopback(*address);
    let host = Some(host).filter(is_open).map(|address| format!("the host {address}"));
    let bound = bound.filter(is_open);
    let socket = || bound.map(|address| format!("the socket of {address} that is listened on"));
    let Some(reached) = host.or_else(socket) else { return };
    for (place, what) in &users.well_known {
        report.error(
            place,
            format!(
                "this is {what}, and {reached} can be reached from other machines: whoever \
                 reaches it could spend your money; write another one, or listen on loopback \
                 (127.0.0.1)"
            ),
        );
    }
}

fn warn_of_gaps(report: &mut Report<'_>, users: &Users, no_provider: bool) {
    if no_provider {
        report.warnings.push("no provider is declared: there is nobody to call".to_owned());
    }
    if users.keys.is_empty() {
        let what = if users.users.is_empty() { "user is declared" } else { "key is enabled" };
        report.warnings.push(format!("no {what}: nobody can call"));
    }
    for user in users.users.iter().filter(|user| user.enabled && user.permissions.is_empty()) {
        let name = error::shown(&user.name);
        let what = "has no permission and may call nothing; add [[permissions]]";
        report.warnings.push(format!("the user \"{name}\" {what}"));
    }
}

#[cfg(test)]
mod tests;
