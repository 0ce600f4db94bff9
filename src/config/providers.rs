//! `[[providers]]`, `[[models]]` and `[[model_aliases]]`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::address::Use;
use super::clouds::Cloud;
use super::error::{At, Place, Report, hint, shown};
use super::global::{attempt_timeouts, choice, url};
use super::reader::Table;
use super::sources::Sources;
use crate::dialect::echo::EchoSettings;
use crate::dialect::endpoint::ENDPOINTS;
use crate::dialect::{Dialect, ask, path};
use crate::limits;
use crate::money;
use crate::route::channel::{self, CHANNELS, Channel, Dialects};
use crate::route::fence::Fence;
use crate::route::glob::{Glob, GlobError};
use crate::route::price::{PriceRow, Tier};
use crate::route::rate::{MINUTE_MS, RateLimit};
use crate::route::sheet::sheet;
use crate::route::snapshot::{
    Alias, AliasTarget, Credential, Drain, ListSource, Model, NO_PLACE, Provider, Strategy,
    Timeouts,
};
use crate::secret::Secret;

/// What a provider inherits.
pub(super) struct Defaults {
    pub(super) proxy: Option<String>,
    pub(super) timeouts: Timeouts,
    /// Where it may stand when the database declares it.
    pub(super) made_fence: Fence,
    /// What has no price of its own costs what its vendor's list says.
    pub(super) list_prices: bool,
}

/// Index of each name that was declared so far, and the line where.
pub(super) type Names = HashMap<String, (usize, usize)>;

pub(super) fn read(
    root: &mut Table<'_>,
    report: &mut Report<'_>,
    sources: &Sources<'_>,
    defaults: &Defaults,
) -> (Vec<Provider>, Names) {
    let (mut providers, mut names) = (Vec::new(), Names::new());
    for mut table in root.tables(report, "providers") {
        let name = table.required(report, "name");
        if let Some(At { value, place }) = &name {
            check_name(report, value, place);
            declare(report, &mut names, value, place, providers.len());
        }
        let name = name.map_or_else(String::new, |name| name.value.to_owned());
        providers.push(read_provider(name, table, report, sources, defaults));
    }
    (providers, names)
}

/// Notes a name that must be the only one of its kind.
pub(super) fn declare(
    report: &mut Report<'_>,
    names: &mut Names,
    name: &str,
    place: &Place,
    index: usize,
) {
    declare_as(report, names, name, &format!("\"{}\"", shown(name)), place, index);
}

/// The same for what has no name of its own: `shown` is what people call it.
pub(super) fn declare_as(
    report: &mut Report<'_>,
    names: &mut Names,
    name: &str,
    shown: &str,
    place: &Place,
    index: usize,
) {
    match names.get(name) {
        Some((_, line)) => {
            let at = report.whereabouts(*line);
            report.error(place, format!("{shown} is declared {at} too"));
        }
        None => {
            names.insert(name.to_owned(), (index, place.line));
        }
    }
}

/// The index of a declared name; reports an unknown one. A row of the database outlives whom it is
/// for where the file declared him: then it has no effect.
pub(super) fn declared(
    report: &mut Report<'_>,
    names: &Names,
    kind: &str,
    name: &At<&str>,
) -> Option<usize> {
    let known = names.get(name.value).map(|(index, _)| *index);
    if known.is_none() {
        let hint = hint(name.value, names.keys().map(String::as_str));
        let shown = shown(name.value);
        report.forbid(&name.place, &format!("there is no {kind} \"{shown}\"{hint}"));
    }
    known
}

fn check_name(report: &mut Report<'_>, name: &str, place: &Place) {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fits = (1..=64).contains(&name.len())
        && name.bytes().next().is_some_and(plain)
        && name.bytes().all(|byte| plain(byte) || matches!(byte, b'.' | b'_' | b'-'));
    if !fits {
        report.error(
            place,
            "must be 1 to 64 of a-z, 0-9, '.', '_' and '-', and begin with a letter or digit: \
             it stands in paths and in front of model names",
        );
    } else if path::RESERVED.contains(&name) {
        report.error(
            place,
            format!("\"{name}\" is reserved: paths begin with it; choose another name"),
        );
    }
}

fn read_provider(
    name: String,
    mut table: Table<'_>,
    report: &mut Report<'_>,
    sources: &Sources<'_>,
    defaults: &Defaults,
) -> Provider {
    let label = table.text(report, "label").map(|label| label.value.to_owned());
    let enabled = table.flag(report, "enabled", true);
    let channel = read_channel(&mut table, report);
    let known_channel = channel.unwrap_or_else(custom);
    let fence = if report.is_made(table.place.line) { defaults.made_fence } else { Fence::Open };
    // What is not called may stand there.
    let written = if enabled { fence } else { Fence::Open };
    let place = table.place_of(report, "settings");
    let mut settings = table.table(report, "settings");
    let cloud = settings.as_mut().map(|one| Cloud::read(one, report, known_channel, written));
    let mut cloud = cloud.unwrap_or_default();
    cloud.fence = written;
    // What stands in the wrong place is reported there, and not as missing too.
    let is_misplaced = table.holds_no_array("credentials")
        || table.holds("api_key")
        || settings.as_ref().is_some_and(|one| one.holds("credentials") || one.holds("api_key"));
    let is_base_misplaced = table.holds("base_url");
    let credentials =
        read_credentials(&mut table, report, sources, (enabled, known_channel), &cloud);
    let lacks_credential = credentials.is_empty() && !is_misplaced;
    if known_channel.needs_credential && enabled && lacks_credential {
        let name = known_channel.name;
        let what = if name == channel::VERTEX {
            "service_account = \"FILE\""
        } else {
            "api_key = \"env:NAME\""
        };
        let why = format!("the channel {name} needs one; write credentials = [{{ {what} }}]");
        report.error(&table.place_of(report, "credentials"), why);
    }
    table.finish(report);
    let mut provider = blank(name, label, enabled, known_channel, defaults);
    provider.fence = fence;
    provider.credentials = credentials.into_iter().flatten().collect();
    let mut base_given = false;
    let mut spoken = known_channel.dialects();
    if let Some(mut settings) = settings {
        base_given = read_base_url(&mut settings, report, &mut provider, written);
        spoken = read_dialects(&mut settings, report, known_channel).unwrap_or(spoken);
        read_proxy(&mut settings, report, &mut provider, written);
        read_settings(&mut settings, report, &mut provider, defaults);
        settings.finish(report);
    }
    let lacks_base_url = !base_given && !is_base_misplaced;
    if channel.is_some() && known_channel.needs_base_url() && lacks_base_url {
        let place = Place { line: place.line, key: format!("{}.base_url", place.key) };
        let name = known_channel.name;
        let why = format!("this key is missing; the channel {name} has no address of its own");
        report.error(&place, why);
    }
    for surface in known_channel.surfaces {
        provider.destinations[surface.dialect as usize] =
            channel::join(&provider.base_url, known_channel, surface.dialect, spoken);
    }
    if known_channel.is_cloud() {
        provider.destinations = Default::default();
        cloud.place(report, &mut provider, base_given, &place);
    }
    provider
}

/// A provider of which nothing is known but what every one has.
fn blank(
    name: String,
    label: Option<String>,
    enabled: bool,
    channel: &'static Channel,
    defaults: &Defaults,
) -> Provider {
    Provider {
        name,
        label,
        enabled,
        channel,
        base_url: channel.base_url.unwrap_or_default().to_owned(),
        destinations: [const { None }; Dialect::ALL.len()],
        credentials: Vec::new(),
        strategy: Strategy::default(),
        place: NO_PLACE,
        models: BTreeMap::new(),
        price_patterns: Vec::new(),
        list_prices: defaults.list_prices.then(|| sheet().list(channel.name)).flatten(),
        price_default: None,
        include_usage: true,
        forward_headers: Vec::new(),
        timeouts: defaults.timeouts,
        keepalive_ms: limits::KEEPALIVE_MS,
        early_headers_ms: 0,
        hedge: None,
        proxy: defaults.proxy.clone(),
        fence: Fence::Open,
        proxy_fence: Fence::Open,
        passthrough: false,
        drain: None,
        lists: ListSource::Static,
        echo: EchoSettings { delay_ms: 0, event_delay_ms: 0, reply_bytes: None, events: 4 },
        tally: Arc::default(),
    }
}

/// Stands in for a channel that is unknown, so that the rest is checked all the same.
fn custom() -> &'static Channel {
    Channel::named(channel::CUSTOM).unwrap_or(&CHANNELS[0])
}

fn read_channel(table: &mut Table<'_>, report: &mut Report<'_>) -> Option<&'static Channel> {
    let At { value, place } = table.required(report, "channel")?;
    let channel = Channel::named(value);
    if channel.is_none() {
        let hint = hint(value, CHANNELS.iter().map(|channel| channel.name));
        report.error(&place, format!("there is no channel \"{}\"{hint}", shown(value)));
    }
    channel
}

/// One entry for each that was written; empty ones were reported. The variables of a disabled
/// provider need not be set.
fn read_credentials(
    table: &mut Table<'_>,
    report: &mut Report<'_>,
    sources: &Sources<'_>,
    (enabled, channel): (bool, &Channel),
    cloud: &Cloud<'_>,
) -> Vec<Option<Credential>> {
    let mut credentials = Vec::new();
    for mut table in table.tables(report, "credentials") {
        let secret = if channel.name == channel::VERTEX {
            let account = cloud.account(&mut table, report, sources, enabled);
            account.map(|account| (Secret::new(""), Some(account)))
        } else {
            let written = table.required(report, "api_key");
            let written = written.filter(|one| enabled || !one.value.starts_with("env:"));
            let api_key = written.and_then(|written| sources.secret(report, &written));
            api_key.map(|api_key| (api_key, None))
        };
        let weight = table.number_or(report, "weight", 1..=1_000_000, 1) as u32;
        let ceilings = read_ceilings(&mut table, report);
        table.finish(report);
        let place = NO_PLACE;
        credentials.push(secret.map(|(api_key, account)| Credential {
            api_key,
            account,
            weight,
            ceilings,
            place,
        }));
    }
    credentials
}

/// How much may pass through a credential; `None`: as much as comes.
fn read_ceilings(table: &mut Table<'_>, report: &mut Report<'_>) -> Option<RateLimit> {
    let mut ceiling = |key| Some(table.number(report, key, 1..=1_000_000_000_000)?.value);
    let rule = RateLimit {
        pattern: Glob::any(),
        rpm: ceiling("rpm"),
        rpd: None,
        total_tokens: ceiling("tpm"),
        window_ms: MINUTE_MS,
        in_flight: ceiling("in_flight"),
    };
    let is_any = rule.rpm.is_some() || rule.total_tokens.is_some() || rule.in_flight.is_some();
    is_any.then_some(rule)
}

/// Whether one was written.
fn read_base_url(
    settings: &mut Table<'_>,
    report: &mut Report<'_>,
    provider: &mut Provider,
    fence: Fence,
) -> bool {
    let Some(At { value, place }) = settings.text(report, "base_url") else { return false };
    if provider.is_echo() {
        report.error(&place, "the channel echo answers by itself and has no address");
        return true;
    }
    let Some(url) = url(report, value, &place, Use::Upstream) else { return true };
    let bodies = ENDPOINTS.iter().filter(|endpoint| !endpoint.model.is_in_path());
    for tail in bodies.map(|endpoint| endpoint.tail) {
        if url.strip_suffix(tail).is_some_and(|before| before.ends_with('/')) {
            report.error(&place, format!("must end before \"/{tail}\": it is added to each call"));
            return true;
        }
    }
    if !fence.lets_url(&url) {
        report.fence(&place, fence.reason());
    }
    provider.base_url = url;
    true
}

fn read_proxy(
    settings: &mut Table<'_>,
    report: &mut Report<'_>,
    provider: &mut Provider,
    fence: Fence,
) {
    let Some(At { value, place }) = settings.text(report, "proxy") else { return };
    provider.proxy = match value {
        "direct" => None,
        text => url(report, text, &place, Use::Proxy),
    };
    provider.proxy_fence = provider.fence;
    if provider.proxy.as_ref().is_some_and(|proxy| !fence.lets_url(proxy)) {
        report.fence(&place, fence.reason());
    }
}

fn read_dialects(
    settings: &mut Table<'_>,
    report: &mut Report<'_>,
    channel: &Channel,
) -> Option<Dialects> {
    let place = settings.place_of(report, "dialects");
    if !settings.holds("dialects") {
        return None;
    }
    let mut spoken = Vec::new();
    let written = settings.texts(report, "dialects");
    if written.is_empty() {
        report.error(&place, "must name at least one dialect");
    }
    for At { value, place } in written {
        match Dialect::named(value) {
            Some(dialect) => spoken.push(dialect),
            None => {
                let hint = hint(value, Dialect::ALL.into_iter().map(Dialect::name));
                report.error(&place, format!("there is no dialect \"{}\"{hint}", shown(value)));
            }
        }
    }
    if channel.name != channel::CUSTOM {
        let (name, spoken) = (channel.name, channel.dialects());
        report.error(
            &place,
            format!("only the channel custom has this setting; {name} speaks {spoken}"),
        );
        return None;
    }
    Some(spoken.into_iter().collect())
}

fn read_settings(
    settings: &mut Table<'_>,
    report: &mut Report<'_>,
    provider: &mut Provider,
    defaults: &Defaults,
) {
    let strategy =
        choice(settings, report, "rotation_strategy", &Strategy::ALL.map(Strategy::name));
    if let Some(At { value, .. }) = strategy {
        let named = Strategy::ALL.into_iter().find(|strategy| strategy.name() == value);
        provider.strategy = named.unwrap_or_default();
    }
    let every = settings.number_or(report, "keepalive_ms", 0..=86_400_000, limits::KEEPALIVE_MS);
    provider.keepalive_ms = every;
    provider.early_headers_ms = settings.number_or(report, "early_headers_ms", 0..=86_400_000, 0);
    let floor_ms = settings.number_or(report, "hedge_ms_min", 0..=86_400_000, limits::HEDGE_MS_MIN);
    provider.hedge = settings.flag(report, "hedge", false).then_some(floor_ms);
    let place = settings.place_of(report, "hedge");
    let alone = provider.credentials.len() < 2 && !report.is_made(place.line);
    if alone && provider.hedge.is_some() && provider.enabled {
        report.warn(&place, "has no effect with fewer than two credentials");
    }
    provider.include_usage = settings.flag(report, "include_usage", true);
    provider.passthrough = settings.flag(report, "passthrough", false);
    let lists = choice(settings, report, "models", &["static", "upstream", "both"]);
    provider.lists = match lists.map_or("static", |chosen| chosen.value) {
        "upstream" => ListSource::Upstream,
        "both" => ListSource::Both,
        _ => ListSource::Static,
    };
    provider.drain = read_drain(settings, report);
    for At { value, place } in settings.texts(report, "forward_headers") {
        match check_header(value) {
            Ok(name) => provider.forward_headers.push(name),
            Err(why) => report.error(&place, why),
        }
    }
    if let Some(mut timeouts) = settings.table(report, "timeouts") {
        provider.timeouts = attempt_timeouts(&mut timeouts, report, defaults.timeouts);
        timeouts.finish(report);
    }
    if provider.is_echo() {
        read_echo(settings, report, &mut provider.echo);
    }
}

/// What becomes of a reply whose caller leaves.
fn read_drain(settings: &mut Table<'_>, report: &mut Report<'_>) -> Option<Drain> {
    let on_abort = choice(settings, report, "on_abort", &["cancel", "drain"]);
    let ms_max = settings.number_or(report, "drain_ms_max", 0..=86_400_000, 60_000);
    let cost_max = settings.money(report, "drain_usd_max", money::DOLLARS_MAX);
    let cost_max = cost_max.map_or(money::DOLLAR / 10, |cost| cost.value);
    on_abort.filter(|chosen| chosen.value == "drain").map(|_| Drain { ms_max, cost_max })
}

fn read_echo(settings: &mut Table<'_>, report: &mut Report<'_>, echo: &mut EchoSettings) {
    const DELAY_MS_MAX: u64 = 3_600_000;
    echo.delay_ms = settings.number_or(report, "delay_ms", 0..=DELAY_MS_MAX, 0);
    echo.event_delay_ms = settings.number_or(report, "event_delay_ms", 0..=DELAY_MS_MAX, 0);
    echo.reply_bytes = settings
        .number(report, "reply_bytes", 0..=limits::EVENT_BYTES_MAX as u64)
        .map(|bytes| bytes.value as usize);
    echo.events = settings.number_or(report, "events", 1..=100_000, 4) as usize;
}

/// Headers that would open a hole or break the framing if they went up.
fn check_header(name: &str) -> Result<String, &'static str> {
    const OURS: &[&str] = &[
        "authorization",
        "x-api-key",
        "x-goog-api-key",
        "api-key",
        "cookie",
        "host",
        "connection",
        "content-length",
        "transfer-encoding",
        "te",
        "trailer",
        "upgrade",
        "keep-alive",
        "expect",
        "accept-encoding",
        "proxy-authorization",
        "proxy-connection",
    ];
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || name.len() > 128 || !name.bytes().all(token) {
        return Err("must be the name of a header, such as \"OpenAI-Organization\"");
    }
    let name = name.to_ascii_lowercase();
    if OURS.contains(&name.as_str()) || name.starts_with("x-gproxy-") {
        return Err("this header belongs to the connection or to the gateway and cannot go up");
    }
    Ok(name)
}

pub(super) fn read_models(
    root: &mut Table<'_>,
    report: &mut Report<'_>,
    providers: &mut [Provider],
    names: &Names,
) {
    let mut seen = Names::new();
    for mut table in root.tables(report, "models") {
        let provider_name = table.required(report, "provider_name");
        let provider =
            provider_name.as_ref().and_then(|name| declared(report, names, "provider", name));
        let model_id = table.required(report, "model_id");
        let enabled = table.flag(report, "enabled", true);
        let display_name = table.text(report, "display_name").map(|name| name.value.to_owned());
        let mut tokens = |key| Some(table.number(report, key, 1..=limits::MODEL_TOKENS_MAX)?.value);
        let max_input_tokens = tokens("max_input_tokens");
        let max_output_tokens = tokens("max_output_tokens");
        let before = report.errors.len();
        let price = read_prices(&mut table, report);
        let is_sound = report.errors.len() == before;
        let timeouts = table.table(report, "timeouts").zip(provider).map(|(mut table, at)| {
            let timeouts = attempt_timeouts(&mut table, report, providers[at].timeouts);
            table.finish(report);
            timeouts
        });
        if let (Some(provider), Some(At { value, place })) = (provider, model_id)
            && check_model_name(report, value, &place)
        {
            // One name for the pair: a provider's name holds no slash.
            let pair = format!("{}/{value}", providers[provider].name);
            declare(report, &mut seen, &pair, &place, 0);
            let model = Model {
                enabled,
                display_name,
                max_input_tokens,
                max_output_tokens,
                price,
                timeouts,
            };
            let provider = &mut providers[provider];
            put_model(&table, report, provider, At { value, place }, model, is_sound);
        }
        table.finish(report);
    }
}

/// A row of a model, or one for prices alone: of a pattern, or of all that have no other.
fn put_model(
    table: &Table<'_>,
    report: &mut Report<'_>,
    provider: &mut Provider,
    model_id: At<&str>,
    model: Model,
    has_sound_prices: bool,
) {
    let At { value, place } = model_id;
    let pattern = Glob::parse(value);
    if value == "default" && model.price.is_some() {
        forbid_more_than_prices(table, report, model.enabled, "the row \"default\"");
        provider.price_default = model.price;
        return;
    }
    if !value.contains(['*', '?']) {
        // Brackets are known to stand in names.
        if let Err(why @ GlobError::Special(found)) = pattern
            && !matches!(found, '[' | ']')
        {
            report.warn(&place, format_args!("no model is called so: {why}"));
        }
        provider.models.insert(value.to_owned(), model);
        return;
    }
    forbid_more_than_prices(table, report, model.enabled, "a pattern");
    match (pattern, model.price) {
        (Err(why @ GlobError::Special(_)), _) => report.forbid(&place, &why.to_string()),
        (Err(why), _) => report.error(&place, why.to_string()),
        (Ok(_), None) if !has_sound_prices => {}
        (Ok(_), None) => report.forbid(
            &place,
            "a pattern only gives prices, and this row has none; write price_tiers, or the \
             model's whole name",
        ),
        (Ok(pattern), Some(price)) => {
            // The longest pattern that fits counts.
            let is_shorter =
                |(other, _): &(Glob, Arc<PriceRow>)| other.as_str().len() < pattern.as_str().len();
            let rows = &mut provider.price_patterns;
            let at = rows.iter().position(is_shorter).unwrap_or(rows.len());
            rows.insert(at, (pattern, price));
        }
    }
}

/// What has no effect in a row that only gives prices.
fn forbid_more_than_prices(table: &Table<'_>, report: &mut Report<'_>, enabled: bool, what: &str) {
    let disabled = (!enabled).then_some("enabled");
    let others = ["display_name", "max_input_tokens", "max_output_tokens", "timeouts"];
    let others = others.into_iter().filter(|key| table.holds(key));
    for key in disabled.into_iter().chain(others) {
        let why = format!(
            "has no effect here: {what} only gives prices; write it in a row with the model's \
             whole name"
        );
        report.forbid(&table.place_of(report, key), &why);
    }
}

/// Whether the name can be that of a model.
pub(super) fn check_model_name(report: &mut Report<'_>, name: &str, place: &Place) -> bool {
    let most = limits::MODEL_BYTES_MAX;
    let fits = (1..=most).contains(&name.len())
        && !name.chars().any(char::is_control)
        && name.trim() == name
        && !ask::has_dot_segments(name);
    if !fits {
        report.error(
            place,
            format!(
                "must be 1 to {most} bytes without control characters, outer white space and dot \
                 segments"
            ),
        );
    }
    fits
}

/// The prices of a row; `None`: there are none.
fn read_prices(table: &mut Table<'_>, report: &mut Report<'_>) -> Option<Arc<PriceRow>> {
    const CALLS: [&str; 4] = [
        "price_each_call",
        "flex_price_each_call",
        "scale_price_each_call",
        "priority_price_each_call",
    ];
    const TIERS: [&str; 4] =
        ["price_tiers", "flex_price_tiers", "scale_price_tiers", "priority_price_tiers"];
    let mut money = |key| Some(table.money(report, key, money::DOLLARS_MAX)?.value);
    let mut row = PriceRow {
        each_tool_call: money("price_each_tool_call"),
        input_audio: money("price_input_audio_tokens"),
        output_audio: money("price_output_audio_tokens"),
        each_image: money("price_each_image"),
        input_image: money("price_input_image_tokens"),
        output_image: money("price_output_image_tokens"),
        ..PriceRow::default()
    };
    for (at, (call, tiers)) in CALLS.into_iter().zip(TIERS).enumerate() {
        row.modes[at].each_call =
            table.money(report, call, money::DOLLARS_MAX).map(|price| price.value);
        row.modes[at].tiers = read_tiers(table, report, tiers);
    }
    (!row.is_empty()).then(|| Arc::new(row))
}

fn read_tiers(table: &mut Table<'_>, report: &mut Report<'_>, key: &'static str) -> Vec<Tier> {
    let mut previous: Option<u64> = None;
    let (mut tiers, mut places) = (Vec::new(), Vec::new());
    for mut tier in table.tables(report, key) {
        let bound = tier.number(report, "input_tokens_up_to", 0..=1_000_000_000_000);
        let bound = bound.map_or(0, |bound| bound.value);
        let mut money = |key| Some(tier.money(report, key, money::DOLLARS_MAX)?.value);
        let unsplit = money("price_cache_creation_input_tokens");
        tiers.push(Tier {
            input_tokens_up_to: bound,
            input: money("price_input_tokens"),
            output: money("price_output_tokens"),
            cache_read: money("price_cache_read_input_tokens"),
            cache_write_5min: money("price_cache_creation_input_tokens_5min").or(unsplit),
            cache_write_1h: money("price_cache_creation_input_tokens_1h").or(unsplit),
            input_audio: money("price_input_audio_tokens"),
            output_audio: money("price_output_audio_tokens"),
            each_tool_call: money("price_each_tool_call"),
            each_image: money("price_each_image"),
            input_image: money("price_input_image_tokens"),
            output_image: money("price_output_image_tokens"),
        });
        // 0 has no bound, so it comes last.
        let reach = if bound == 0 { u64::MAX } else { bound };
        if previous.is_some_and(|previous| reach <= previous) {
            let place = tier.place_of(report, "input_tokens_up_to");
            report.error(&place, "tiers must be in ascending order; 0 (no bound) is the last one");
        }
        previous = Some(reach);
        places.push(tier.place.clone());
        tier.finish(report);
    }
    warn_of_free_tiers(report, &tiers, &places);
    tiers
}

/// A tier costs nothing for what it has no price for.
fn warn_of_free_tiers(report: &mut Report<'_>, tiers: &[Tier], places: &[Place]) {
    type Price = fn(&Tier) -> Option<i64>;
    let prices: [(&str, Price); 2] =
        [("price_input_tokens", |tier| tier.input), ("price_output_tokens", |tier| tier.output)];
    for (key, price) in prices {
        let is_priced = tiers.iter().any(|tier| price(tier).is_some());
        for (_, place) in tiers.iter().zip(places).filter(|(tier, _)| price(tier).is_none()) {
            if is_priced {
                let why = format!(
                    "has no {key}, which another tier has: they cost nothing here; write it, \
                     \"0\" if that is meant"
                );
                report.warn(place, why);
            }
        }
    }
}

pub(super) fn read_aliases(
    root: &mut Table<'_>,
    report: &mut Report<'_>,
    providers: &[Provider],
    names: &Names,
) -> Vec<(String, Alias)> {
    let (mut aliases, mut seen) = (Vec::new(), Names::new());
    for mut table in root.tables(report, "model_aliases") {
        let alias = table.required(report, "alias");
        let enabled = table.flag(report, "enabled", true);
        let known = if enabled { providers } else { &[] };
        let targets = read_targets(&mut table, report, known, names);
        let one = match targets.is_empty() && !table.holds("targets") {
            true => read_target(&mut table, report, known, names),
            false => targets.first().map(|target| (target.provider, target.model_id.clone())),
        };
        table.finish(report);
        let Some(At { value: alias, place }) = alias else { continue };
        if !check_model_name(report, alias, &place) {
            continue;
        }
        declare(report, &mut seen, alias, &place, 0);
        if let Some((provider, model_id)) = one {
            let place = NO_PLACE;
            let row = Alias { provider, model_id, enabled, targets, place };
            aliases.push((alias.to_owned(), row));
        }
    }
    aliases
}

/// A provider and its name for a model; `None` was reported. One that is disabled, of those that
/// are `known`, is warned of.
fn read_target(
    table: &mut Table<'_>,
    report: &mut Report<'_>,
    known: &[Provider],
    names: &Names,
) -> Option<(usize, String)> {
    let provider_name = table.required(report, "provider_name");
    let provider =
        provider_name.as_ref().and_then(|name| declared(report, names, "provider", name));
    let At { value, place } = table.required(report, "model_id")?;
    if !check_model_name(report, value, &place) {
        return None;
    }
    let provider = provider?;
    let served = known.get(provider);
    if let (Some(served), Some(named)) = (served.filter(|served| !served.enabled), provider_name) {
        let why = format!("the provider \"{}\" is disabled: this leads nowhere", served.name);
        report.warn(&named.place, why);
    }
    let model = served.and_then(|served| served.models.get(value));
    if model.is_some_and(|model| !model.enabled) {
        let why = format!("the model \"{}\" is disabled: this leads nowhere", shown(value));
        report.warn(&place, why);
    }
    Some((provider, value.to_owned()))
}

/// The targets of an alias that has several, by tier.
fn read_targets(
    table: &mut Table<'_>,
    report: &mut Report<'_>,
    known: &[Provider],
    names: &Names,
) -> Vec<AliasTarget> {
    let place = table.place_of(report, "targets");
    let mut targets = Vec::new();
    let was_written = table.holds("targets");
    let reported = report.forbidden.len();
    for mut target in table.tables(report, "targets") {
        let found = read_target(&mut target, report, known, names);
        let weight = target.number_or(report, "weight", 1..=1_000_000, 1) as u32;
        let tier = target.number_or(report, "tier", 1..=1_000, 1) as u32;
        target.finish(report);
        let row = |(provider, model_id)| AliasTarget { provider, model_id, weight, tier };
        targets.extend(found.map(row));
    }
    let is_cut = report.forbidden.len() > reported;
    if was_written && (targets.is_empty() && !is_cut || targets.len() > limits::TARGETS_MAX) {
        report.error(&place, format!("must name 1 to {} targets", limits::TARGETS_MAX));
    }
    if was_written && (table.holds("provider_name") || table.holds("model_id")) {
        report.error(&place, "stands in the place of provider_name and model_id; write either");
    }
    targets.sort_by_key(|target| target.tier);
    targets
}
