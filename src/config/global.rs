//! `[global]`, `[limits]` and `[timeouts]`.

use std::net::{IpAddr, Ipv4Addr};

use log::LevelFilter;

use super::Settings;
use super::address::{self, Use};
use super::error::{At, Place, Report, hint, shown};
use super::reader::Table;
use super::sources::Sources;
use crate::limits;
use crate::route::fence::Fence;
use crate::route::snapshot::{Billing, Limits, Logging, Network, Retention, Timeouts, Tls};

/// What `[global]` says, flags and variables already considered.
pub(super) struct Global {
    pub(super) settings: Settings,
    pub(super) proxy: Option<String>,
    pub(super) logging: Logging,
    pub(super) billing: Billing,
    pub(super) cors_origins: Vec<String>,
    pub(super) trusted_proxies: Vec<Network>,
    pub(super) extra_ca_file: Option<String>,
    pub(super) metrics_open: bool,
    /// Where providers may stand that the database declares.
    pub(super) made_fence: Fence,
    /// Where `enable_usage` stands when it is off.
    pub(super) usage_off: Option<Place>,
}

/// A day: no wait is longer.
const WAIT_MS_MAX: u64 = 86_400_000;
const PORT: u16 = 8787;
const WORKERS_MAX: u64 = limits::WORKERS_MAX as u64;

/// Keys of v1 that mean nothing now.
pub(super) const RETIRED: &[(&str, &str)] = &[
    ("dsn", "the database is a file in `data_dir`"),
    ("spoof_emulation", "requests go up as what they are"),
    ("update_channel", "updating is the package manager's business"),
];

/// Variables of v1 that mean nothing now.
const RETIRED_VARIABLES: &[(&str, &str)] = &[
    ("GPROXY_ADMIN_USER", "declare the user in the file, with is_admin = true"),
    ("GPROXY_ADMIN_PASSWORD", "declare the user in the file, with is_admin = true"),
    ("GPROXY_ADMIN_API_KEY", "declare the user's key in the file as \"env:NAME\""),
    ("GPROXY_DSN", "the database is a file in the data directory"),
    ("GPROXY_SPOOF", "requests go up as what they are"),
    ("GPROXY_REDIS_URL", "there is no shared store"),
];

pub(super) fn read(mut table: Table<'_>, report: &mut Report<'_>, sources: &Sources<'_>) -> Global {
    let settings = read_settings(&mut table, report, sources);
    let upstream = table.flag(report, "enable_upstream_log", false);
    let downstream = table.flag(report, "enable_downstream_log", false);
    let logging = Logging {
        enable_usage: table.flag(report, "enable_usage", true),
        serve_unbilled: false,
        serve_unmetered: false,
        enable_upstream_log: upstream,
        enable_upstream_log_body: table.flag(report, "enable_upstream_log_body", false),
        enable_downstream_log: downstream,
        enable_downstream_log_body: table.flag(report, "enable_downstream_log_body", false),
    };
    let billing = Billing {
        receipts: table.flag(report, "receipts", true),
        stream_receipts: table.flag(report, "stream_receipts", false),
        quota_ends_streams: table.flag(report, "quota_ends_streams", true),
        list_prices: table.flag(report, "list_prices", false),
    };
    let usage_off = (!logging.enable_usage).then(|| table.place_of(report, "enable_usage"));
    for (key, enabled, envelope) in [
        ("enable_upstream_log_body", logging.enable_upstream_log_body, upstream),
        ("enable_downstream_log_body", logging.enable_downstream_log_body, downstream),
    ] {
        if enabled && !envelope {
            let place = table.place_of(report, key);
            report.warn(&place, "has no effect without the flag of the same name without `_body`");
        }
    }
    let global = Global {
        settings,
        proxy: read_proxy(&mut table, report, sources),
        logging,
        billing,
        cors_origins: read_origins(&mut table, report),
        trusted_proxies: read_networks(&mut table, report, "trusted_proxies"),
        extra_ca_file: table.text(report, "extra_ca_file").map(|file| file.value.to_owned()),
        metrics_open: table.flag(report, "metrics_open", false),
        made_fence: match table.flag(report, "allow_private_upstreams", false) {
            true => Fence::Local,
            false => Fence::Public,
        },
        usage_off,
    };
    table.retired(report, RETIRED);
    table.finish(report);
    for (variable, why) in RETIRED_VARIABLES {
        if (sources.environment)(variable).is_some() {
            report.warnings.push(format!("{variable}: this variable of v1 is ignored: {why}"));
        }
    }
    global
}

fn read_settings(
    table: &mut Table<'_>,
    report: &mut Report<'_>,
    sources: &Sources<'_>,
) -> Settings {
    let flags = sources.overrides;
    let file_host = table.text(report, "host").map(owned);
    let host = sources.find("--host", &flags.host, "GPROXY_HOST").or(file_host).map(|host| {
        address::parse_host(&host.value).unwrap_or_else(|| {
            report.error(
                &host.place,
                "must be an IP address to listen on, such as \"127.0.0.1\", \"0.0.0.0\" or \"::\"",
            );
            LOOPBACK
        })
    });
    let file_port = table.number(report, "port", 0..=65535).map(|port| port.value);
    let port = sources
        .find("--port", &flags.port, "GPROXY_PORT")
        .and_then(|port| whole_number(report, &port, 65535))
        .or(file_port)
        .and_then(|port| u16::try_from(port).ok());
    let file_workers = table.number(report, "workers", 0..=WORKERS_MAX).map(|count| count.value);
    let workers = sources
        .find("--workers", &flags.workers, "GPROXY_WORKERS")
        .and_then(|workers| whole_number(report, &workers, WORKERS_MAX))
        .or(file_workers);
    let file_data = table.text(report, "data_dir").map(owned);
    let data_dir = sources.find("--data-dir", &flags.data_dir, "GPROXY_DATA_DIR").or(file_data);
    if let Some(At { value, place }) = &data_dir
        && (value.is_empty() || value.contains('\0'))
    {
        report.error(place, "must be the path of a folder");
    }
    let log_level = sources.find("--log-level", &flags.log_level, "GPROXY_LOG").map(|level| {
        level.value.parse::<LevelFilter>().unwrap_or_else(|_| {
            report.error(&level.place, "must be off, error, warn, info, debug or trace");
            LevelFilter::Info
        })
    });
    Settings {
        host: host.unwrap_or(LOOPBACK),
        port: port.unwrap_or(PORT),
        workers: workers.unwrap_or(0) as usize,
        data_dir: data_dir.map_or_else(|| "./data".to_owned(), |folder| folder.value),
        log_level: log_level.unwrap_or(LevelFilter::Info),
        synchronous_full: false,
    }
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn owned(text: At<&str>) -> At<String> {
    At { value: text.value.to_owned(), place: text.place }
}

/// A number out of a flag or a variable.
fn whole_number(report: &mut Report<'_>, text: &At<String>, most: u64) -> Option<u64> {
    let digits = text.value.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.value.parse().ok().filter(|number| digits && *number <= most);
    if number.is_none() {
        report.error(&text.place, format!("must be a whole number from 0 to {most}"));
    }
    number
}

fn read_proxy(
    table: &mut Table<'_>,
    report: &mut Report<'_>,
    sources: &Sources<'_>,
) -> Option<String> {
    let in_file = table.text(report, "proxy").map(owned);
    let proxy = sources.find("--proxy", &sources.overrides.proxy, "GPROXY_PROXY").or(in_file)?;
    match proxy.value.as_str() {
        "direct" => None,
        text => url(report, text, &proxy.place, Use::Proxy),
    }
}

/// A checked URL; reports what is wrong with it.
pub(super) fn url(
    report: &mut Report<'_>,
    text: &str,
    place: &Place,
    purpose: Use,
) -> Option<String> {
    match address::parse_url(text, purpose) {
        Ok(url) => Some(url),
        Err(why) => {
            report.error(place, why);
            None
        }
    }
}

fn read_origins(table: &mut Table<'_>, report: &mut Report<'_>) -> Vec<String> {
    let mut origins = Vec::new();
    for At { value, place } in table.texts(report, "cors_origins") {
        if value == "*" {
            origins.push(value.to_owned());
        } else {
            origins.extend(url(report, value, &place, Use::Origin));
        }
    }
    origins
}

pub(super) fn read_networks(
    table: &mut Table<'_>,
    report: &mut Report<'_>,
    key: &'static str,
) -> Vec<Network> {
    let mut networks = Vec::new();
    for At { value, place } in table.texts(report, key) {
        match Network::parse(value) {
            Some(network) => networks.push(network),
            None => report.error(&place, "must be a network such as \"10.0.0.0/8\" or an address"),
        }
    }
    networks
}

/// What `[tls]` names; the files themselves are the shell's business.
pub(super) fn read_tls(root: &mut Table<'_>, report: &mut Report<'_>) -> Option<Tls> {
    let mut table = root.table(report, "tls")?;
    let certificate = table.required(report, "certificate_file");
    let key = table.required(report, "key_file");
    let client_ca = table.text(report, "client_ca_file").map(|file| file.value.to_owned());
    table.finish(report);
    Some(Tls {
        certificate_file: certificate?.value.to_owned(),
        key_file: key?.value.to_owned(),
        client_ca_file: client_ca,
    })
}

pub(super) fn read_limits(root: &mut Table<'_>, report: &mut Report<'_>) -> Limits {
    const KIB: u64 = 1024;
    const GIB: u64 = KIB * KIB * KIB;
    let mut limits = Limits::default();
    let Some(mut table) = root.table(report, "limits") else { return limits };
    let size = |default: usize| default as u64;
    let mut read = |key, least, most, default| table.number_or(report, key, least..=most, default);
    let head = read("head_bytes_max", KIB, KIB * KIB, size(limits.head_bytes_max));
    let event = read("event_bytes_max", 4 * KIB, GIB, size(limits.event_bytes_max));
    let connections = read("connections_max", 1, 10_000_000, size(limits.connections_max));
    let in_flight = read("in_flight_max", 1, 10_000_000, size(limits.in_flight_max));
    let attempts =
        read("attempts_max", 1, size(limits::ATTEMPTS_MAX_MAX), size(limits.attempts_max));
    limits.attempts_max = attempts as usize;
    let recorder =
        read("recorder_bytes", 0, size(limits::RECORDER_BYTES_MAX), size(limits.recorder_bytes));
    limits.recorder_bytes = recorder as usize;
    limits.key_guesses_max = read("key_guesses_max", 0, 1_000_000, limits.key_guesses_max);
    limits.body_bytes_max = read("body_bytes_max", 64, 64 * GIB, limits.body_bytes_max);
    limits.upload_bytes_max = read("upload_bytes_max", KIB, 1024 * GIB, limits.upload_bytes_max);
    limits.held_bytes_max = read("held_bytes_max", 64 * KIB, 1024 * GIB, limits.held_bytes_max);
    limits.head_bytes_max = head as usize;
    limits.event_bytes_max = event as usize;
    limits.connections_max = connections as usize;
    limits.in_flight_max = in_flight as usize;
    for (key, bytes) in [("body_bytes_max", limits.body_bytes_max), ("event_bytes_max", event)] {
        if bytes > limits.held_bytes_max {
            let place = table.place_of(report, key);
            let most = limits.held_bytes_max;
            report.error(&place, format!("must be at most held_bytes_max, which is {most}"));
        }
    }
    table.finish(report);
    limits
}

/// What `[ledger]` says: how long what is kept, and what happens when the disk refuses. The rest of
/// it goes to `global`.
pub(super) fn read_ledger(
    root: &mut Table<'_>,
    report: &mut Report<'_>,
    global: &mut Global,
) -> Retention {
    const GIB: u64 = 1024 * 1024 * 1024;
    let mut retention =
        Retention { usage_days: 400, usage_bytes: 20 * GIB, log_days: 7, log_bytes: GIB };
    let Some(mut table) = root.table(report, "ledger") else { return retention };
    let unbilled = choice(&mut table, report, "unbilled", &["refuse", "serve"]);
    let unmetered = choice(&mut table, report, "unmetered", &["refuse", "serve"]);
    let synchronous = choice(&mut table, report, "synchronous", &["normal", "full"]);
    global.logging.serve_unmetered = unmetered.is_some_and(|word| word.value == "serve");
    global.logging.serve_unbilled = unbilled.is_some_and(|word| word.value == "serve");
    global.settings.synchronous_full = synchronous.is_some_and(|word| word.value == "full");
    let mut read = |key, most, default| table.number_or(report, key, 0..=most, default);
    retention.usage_days = read("usage_days", 36_500, retention.usage_days);
    retention.usage_bytes = read("usage_bytes", 1024 * GIB, retention.usage_bytes);
    retention.log_days = read("log_days", 36_500, retention.log_days);
    retention.log_bytes = read("log_bytes", 1024 * GIB, retention.log_bytes);
    table.finish(report);
    retention
}

/// The default timeouts, and how long open exchanges may go on after the signal to stop.
pub(super) fn read_timeouts(root: &mut Table<'_>, report: &mut Report<'_>) -> (Timeouts, u64) {
    let defaults = Timeouts {
        resolve_ms: 5_000,
        connect_ms: 5_000,
        tls_ms: 10_000,
        first_byte_ms: 600_000,
        between_bytes_ms: 120_000,
        total_ms: 0,
    };
    let drain_ms = 30_000;
    let Some(mut table) = root.table(report, "timeouts") else { return (defaults, drain_ms) };
    let timeouts = attempt_timeouts(&mut table, report, defaults);
    let drain_ms = table.number_or(report, "drain_ms", 0..=WAIT_MS_MAX, drain_ms);
    table.finish(report);
    (timeouts, drain_ms)
}

/// The timeouts of one attempt; what is not said is as in `defaults`.
pub(super) fn attempt_timeouts(
    table: &mut Table<'_>,
    report: &mut Report<'_>,
    defaults: Timeouts,
) -> Timeouts {
    let mut read = |key, least, default| {
        let value: u64 = table.number_or(report, key, least..=WAIT_MS_MAX, default);
        value
    };
    Timeouts {
        resolve_ms: read("resolve_ms", 1, defaults.resolve_ms),
        connect_ms: read("connect_ms", 1, defaults.connect_ms),
        tls_ms: read("tls_ms", 1, defaults.tls_ms),
        first_byte_ms: read("first_byte_ms", 1, defaults.first_byte_ms),
        between_bytes_ms: read("between_bytes_ms", 1, defaults.between_bytes_ms),
        total_ms: read("total_ms", 0, defaults.total_ms),
    }
}

/// One of a few words.
pub(super) fn choice(
    table: &mut Table<'_>,
    report: &mut Report<'_>,
    key: &'static str,
    choices: &[&'static str],
) -> Option<At<&'static str>> {
    let At { value, place } = table.text(report, key)?;
    match choices.iter().find(|choice| **choice == value) {
        Some(choice) => Some(At { value: choice, place }),
        None => {
            let hint = hint(value, choices.iter().copied());
            report.error(&place, format!("unknown value \"{}\"{hint}", shown(value)));
            None
        }
    }
}
