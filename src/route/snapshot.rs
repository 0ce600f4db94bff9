//! The tables that one exchange sees, from its first byte to its last.
//!
//! Built by the configuration, swapped whole, never changed. An index into `providers` or `users`
//! is valid for the snapshot that gave it and for no other.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use crate::dialect::Dialect;
use crate::dialect::echo::EchoSettings;
use crate::dialect::endpoint::{Endpoint, ModelPlace};
use crate::dialect::listed::Form;
use crate::limits;
use crate::metrics::Tally;
use crate::password::Password;
use crate::route::account::Account;
use crate::route::channel::{self, Channel, Destination, Dialects};
use crate::route::fence::Fence;
use crate::route::glob::Glob;
use crate::route::price::{PriceRow, PriceSource};
use crate::route::quota::Quota;
use crate::route::rate::RateLimit;
use crate::route::sheet::List;
pub use crate::route::times::Timeouts;
use crate::secret::{Digest, KeyId, Secret};
use crate::wire::head::Head;

/// Everything that a decision depends on.
pub struct Snapshot {
    /// Upstreams, the disabled ones too.
    pub providers: Vec<Provider>,
    /// Callers, the disabled ones too.
    pub users: Vec<User>,
    /// Ceilings on our own resources.
    pub limits: Limits,
    /// What is written to the books and the request logs.
    pub logging: Logging,
    /// What callers see of their bills.
    pub billing: Billing,
    /// How long it is kept.
    pub retention: Retention,
    /// URL of the proxy of providers that name none; `None`: they are called directly.
    pub proxy: Option<String>,
    /// Limits of an attempt in time where its provider says nothing else.
    pub timeouts: Timeouts,
    /// How long open exchanges may go on after the signal to stop.
    pub drain_ms: u64,
    /// Origins that a browser may call from; empty: CORS is off.
    pub cors_origins: Vec<String>,
    /// Networks whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
    /// File with further root certificates.
    pub extra_ca_file: Option<String>,
    /// What callers' TLS is made of; `None`: they are not asked for any.
    pub tls: Option<Tls>,
    /// Anybody may read the metrics.
    pub metrics_open: bool,
    /// Which addresses providers may have that are made through the interface.
    pub made_fence: Fence,
    /// Names of all providers.
    names: HashMap<String, usize>,
    aliases: HashMap<String, Alias>,
    /// Some alias stands for several.
    pub has_targets: bool,
    /// Enabled keys of enabled users.
    keys: HashMap<Digest, Caller>,
}

/// What a snapshot is made of. Invariant, kept by the configuration: names and digests occur once,
/// and every index is in range.
pub struct Tables {
    /// See [`Snapshot::providers`].
    pub providers: Vec<Provider>,
    /// See [`Snapshot::users`].
    pub users: Vec<User>,
    /// Enabled keys and whose they are.
    pub keys: Vec<(Digest, Caller)>,
    /// Public names of models.
    pub aliases: Vec<(String, Alias)>,
    /// See [`Snapshot::limits`].
    pub limits: Limits,
    /// See [`Snapshot::logging`].
    pub logging: Logging,
    /// See [`Snapshot::billing`].
    pub billing: Billing,
    /// See [`Snapshot::retention`].
    pub retention: Retention,
    /// See [`Snapshot::proxy`].
    pub proxy: Option<String>,
    /// See [`Snapshot::timeouts`].
    pub timeouts: Timeouts,
    /// See [`Snapshot::drain_ms`].
    pub drain_ms: u64,
    /// See [`Snapshot::cors_origins`].
    pub cors_origins: Vec<String>,
    /// See [`Snapshot::trusted_proxies`].
    pub trusted_proxies: Vec<Network>,
    /// See [`Snapshot::extra_ca_file`].
    pub extra_ca_file: Option<String>,
    /// See [`Snapshot::tls`].
    pub tls: Option<Tls>,
    /// See [`Snapshot::metrics_open`].
    pub metrics_open: bool,
    /// See [`Snapshot::made_fence`].
    pub made_fence: Fence,
}

/// Files, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Our certificate, and those that vouch for it.
    pub certificate_file: String,
    /// Its key.
    pub key_file: String,
    /// Who vouches for callers; `None`: they need no certificate.
    pub client_ca_file: Option<String>,
}

/// One named upstream.
pub struct Provider {
    /// Scope in paths and prefix of models.
    pub name: String,
    /// Name for people.
    pub label: Option<String>,
    /// A disabled provider does not exist for callers.
    pub enabled: bool,
    /// The kind of upstream.
    pub channel: &'static Channel,
    /// As typed or the channel's; empty on `echo`.
    pub base_url: String,
    /// Where each dialect is served, by the dialect's place in [`Dialect::ALL`].
    pub destinations: [Option<Destination>; Dialect::ALL.len()],
    /// What to present upstream; may be empty.
    pub credentials: Vec<Credential>,
    /// Which of them is taken.
    pub strategy: Strategy,
    /// Its own place among what is known of credentials, see [`Credential::place`].
    pub place: usize,
    /// Declared models by id. Others may be called too.
    pub models: BTreeMap<String, Model>,
    /// What models cost that have no price of their own, the longest pattern first.
    pub price_patterns: Vec<(Glob, Arc<PriceRow>)>,
    /// List prices of its vendor, where they are switched on.
    pub list_prices: Option<&'static List>,
    /// What all others cost.
    pub price_default: Option<Arc<PriceRow>>,
    /// OpenAI-style streams are asked for usage.
    pub include_usage: bool,
    /// Headers of the client that go up although they are dropped otherwise, in lower case.
    pub forward_headers: Vec<String>,
    /// Limits of an attempt in time.
    pub timeouts: Timeouts,
    /// A silent stream is kept alive towards the downstream at this interval; 0: it is not.
    pub keepalive_ms: u64,
    /// A stream's head goes down after so long a silence of its upstream; 0: with its first byte.
    pub early_headers_ms: u64,
    /// A silent call is hedged, not before so many milliseconds; `None`: it is not.
    pub hedge: Option<u64>,
    /// URL of the proxy to go through, the global one already considered.
    pub proxy: Option<String>,
    /// Which addresses it may have.
    pub fence: Fence,
    /// Which its proxy may have; the global one is the file's.
    pub proxy_fence: Fence,
    /// Requests that we do not know go up as they are.
    pub passthrough: bool,
    /// Which models its list has.
    pub lists: ListSource,
    /// A reply whose caller has left is read on; `None`: the call is given up.
    pub drain: Option<Drain>,
    /// How the channel `echo` answers.
    pub echo: EchoSettings,
    /// What it was asked, and what came of it.
    pub tally: Arc<Tally>,
}

/// Which models a provider's list has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListSource {
    /// Those that are declared.
    Static,
    /// Those that the upstream lists.
    Upstream,
    /// Both.
    Both,
}

/// How far a reply is read on for its true bill when its caller has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Milliseconds.
    pub ms_max: u64,
    /// Picodollars that may be generated meanwhile, as far as can be told.
    pub cost_max: i64,
}

/// A secret that a provider presents upstream.
pub struct Credential {
    /// Sent in the header of [`Destination::auth`]; empty when it is an account's.
    pub api_key: Secret,
    /// Gets access tokens, which are sent in its place.
    pub account: Option<Arc<Account>>,
    /// Share of the requests among the provider's credentials.
    pub weight: u32,
    /// How much may pass through it. The pattern fits every model.
    pub ceilings: Option<RateLimit>,
    /// Where it stands among what is known of credentials; given when the snapshot is put in
    /// place, and [`NO_PLACE`] before.
    pub place: usize,
}

/// Of it nothing is known.
pub const NO_PLACE: usize = usize::MAX;

/// How a credential is chosen among those that may be called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Each in turn, by weight.
    #[default]
    RoundRobin,
    /// One, until it fails.
    Sticky,
    /// The one with the fewest requests under way for its weight.
    LeastInFlight,
    /// The one that was asked about the same beginning of a prompt before.
    CacheAffinity,
}

impl Strategy {
    /// All of them, the default first.
    pub const ALL: [Strategy; 4] =
        [Strategy::RoundRobin, Strategy::Sticky, Strategy::LeastInFlight, Strategy::CacheAffinity];

    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Strategy::RoundRobin => "round_robin",
            Strategy::Sticky => "sticky",
            Strategy::LeastInFlight => "least_in_flight",
            Strategy::CacheAffinity => "cache_affinity",
        }
    }
}

/// A declared model.
pub struct Model {
    /// A disabled model does not exist for callers.
    pub enabled: bool,
    /// Name for people, in lists.
    pub display_name: Option<String>,
    /// The longest prompt, in tokens.
    pub max_input_tokens: Option<u64>,
    /// The longest answer, in tokens.
    pub max_output_tokens: Option<u64>,
    /// What it costs.
    pub price: Option<Arc<PriceRow>>,
    /// Those of its attempts; absent: its provider's.
    pub timeouts: Option<Timeouts>,
}

/// A public name for a provider's model.
pub struct Alias {
    /// Who serves it.
    pub provider: usize,
    /// The provider's name for it.
    pub model_id: String,
    /// A disabled alias does not exist for callers.
    pub enabled: bool,
    /// Who else may serve it, the first one included, by tier; empty: nobody.
    pub targets: Vec<AliasTarget>,
    /// Where its turns are counted, see [`Credential::place`].
    pub place: usize,
}

/// One of several that an alias stands for.
pub struct AliasTarget {
    /// Who serves it.
    pub provider: usize,
    /// The provider's name for it.
    pub model_id: String,
    /// Share of the requests that it is asked for first, within its tier.
    pub weight: u32,
    /// Lower ones are asked before.
    pub tier: u32,
}

impl Alias {
    /// All that it stands for: providers and their names for it.
    pub fn all(&self) -> impl Iterator<Item = (usize, &str)> {
        let one = self.targets.is_empty().then_some((self.provider, self.model_id.as_str()));
        let many = self.targets.iter().map(|target| (target.provider, target.model_id.as_str()));
        one.into_iter().chain(many)
    }

    /// The provider is one of those that serve it.
    pub fn is_at(&self, provider: usize) -> bool {
        self.all().any(|(at, _)| at == provider)
    }
}

/// Who calls us.
pub struct User {
    /// Name for logs.
    pub name: String,
    /// May use the administration interface. Gives no access to models.
    pub is_admin: bool,
    /// A disabled user's keys are unknown.
    pub enabled: bool,
    /// What opens a session.
    pub password: Option<Password>,
    /// The keys, the disabled ones too.
    pub keys: Vec<Key>,
    /// What may be called; nothing else may.
    pub permissions: Vec<Permission>,
    /// Providers whose files may be read and written.
    pub file_permissions: Vec<usize>,
    /// How often the user may call.
    pub rate_limits: Vec<RateLimit>,
    /// How much the user may spend.
    pub quotas: Vec<Quota>,
    /// Picodollars that were spent before the books began.
    pub cost_used: i64,
}

/// A user, and with which of his keys he calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// An index into [`Snapshot::users`].
    pub user: usize,
    /// An index into [`User::keys`].
    pub key: usize,
}

/// Why a key lets nobody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// It is missing, unknown or disabled.
    Unknown,
    /// Its time is over.
    Expired,
    /// It may not be used from this address.
    Elsewhere,
    /// It stands in the address of a page that a browser opens.
    Opened,
    /// Too many wrong ones came from its address; it may try again after so long.
    Slowed {
        /// At least 1.
        seconds: u32,
    },
}

/// When, and where from, a key lets its user in.
pub struct Terms {
    /// Milliseconds since 1970 from which on it does not; `None`: it always does.
    pub expires_ms: Option<i64>,
    /// From there alone; empty: from everywhere.
    pub networks: Vec<Network>,
}

/// What is known of a request before its caller is, for those who have to know.
pub struct Origin<'a> {
    /// The other end of its connection, as far as can be told.
    pub peer: &'a dyn Fn() -> Option<IpAddr>,
    /// What proxies may have told.
    pub head: Option<&'a Head>,
    /// Now, in milliseconds since 1970.
    pub now_ms: &'a dyn Fn() -> i64,
}

/// A key as people may see it.
pub struct Key {
    /// Its name in rows.
    pub id: KeyId,
    /// The label, or the key's last characters.
    pub shown: String,
    /// A disabled key is unknown.
    pub enabled: bool,
    /// `None`: always and from everywhere.
    pub terms: Option<Terms>,
    /// Requests side by side; `None`: as many as the user may.
    pub in_flight: Option<u64>,
    /// When it let somebody in last, in milliseconds since 1970; 0: never.
    pub used: Arc<AtomicI64>,
}

/// One row of what a user may call.
pub struct Permission {
    /// At this provider only.
    pub provider: Option<usize>,
    /// Models, by the name as sent without its provider prefix.
    pub pattern: Glob,
}

/// Ceilings on our own resources; the defaults are in [`crate::limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Request line and headers.
    pub head_bytes_max: usize,
    /// A request body.
    pub body_bytes_max: u64,
    /// A request body of files, audio or images.
    pub upload_bytes_max: u64,
    /// All bodies and events held at once.
    pub held_bytes_max: u64,
    /// One event of a stream.
    pub event_bytes_max: usize,
    /// Open connections.
    pub connections_max: usize,
    /// Requests being served.
    pub in_flight_max: usize,
    /// Credentials and targets that one request is sent to.
    pub attempts_max: usize,
    /// So much of each stream is remembered, and kept when it ends badly; 0: nothing.
    pub recorder_bytes: usize,
    /// Different wrong keys of one address in a minute; beyond them 429. 0: nobody is slowed.
    pub key_guesses_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            head_bytes_max: limits::HEAD_BYTES_MAX,
            body_bytes_max: limits::BODY_BYTES_MAX,
            upload_bytes_max: limits::UPLOAD_BYTES_MAX,
            held_bytes_max: limits::HELD_BYTES_MAX,
            event_bytes_max: limits::EVENT_BYTES_MAX,
            connections_max: limits::CONNECTIONS_MAX,
            in_flight_max: limits::IN_FLIGHT_MAX,
            attempts_max: limits::ATTEMPTS_MAX,
            recorder_bytes: limits::RECORDER_BYTES,
            key_guesses_max: limits::KEY_GUESSES_MAX,
        }
    }
}

/// What is logged of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logging {
    /// Usage is recorded.
    pub enable_usage: bool,
    /// What cannot be recorded is served all the same, and charged to nobody.
    pub serve_unbilled: bool,
    /// Users with a quota may make calls of which no reply tells what they cost.
    pub serve_unmetered: bool,
    /// Attempts are logged.
    pub enable_upstream_log: bool,
    /// With their bodies.
    pub enable_upstream_log_body: bool,
    /// Requests are logged.
    pub enable_downstream_log: bool,
    /// With their bodies.
    pub enable_downstream_log_body: bool,
}

/// What callers see of their bills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Billing {
    /// Whole replies carry their cost in header fields.
    pub receipts: bool,
    /// Streams carry it in a comment at their end.
    pub stream_receipts: bool,
    /// A stream ends when its user's quota does.
    pub quota_ends_streams: bool,
    /// What has no price of its own costs what its vendor's list says.
    pub list_prices: bool,
}

/// What is kept of the books and the logs. 0: no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Age of a usage row.
    pub usage_days: u64,
    /// Size of the books.
    pub usage_bytes: u64,
    /// Age of a logged request.
    pub log_days: u64,
    /// Size of the logs.
    pub log_bytes: u64,
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Any address of the range.
    pub address: IpAddr,
    /// How many leading bits count.
    pub bits: u8,
}

/// A caller's address: behind proxies that are trusted the one that they tell. `None`: one of them
/// tells something else, such as `unknown`; the caller is not where his proxy is.
pub fn forwarded(peer: IpAddr, told: &str, trusted: &[Network]) -> Option<IpAddr> {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut address = peer;
    for told in told.rsplit(',').map(str::trim).filter(|told| !told.is_empty()) {
        if !is_trusted(address) {
            break;
        }
        address = told_address(told)?;
    }
    Some(address)
}

/// Whom to count a request with: its caller's address, or that of the proxy that does not tell it.
pub fn counted_with(peer: IpAddr, told: &str, trusted: &[Network]) -> IpAddr {
    forwarded(peer, told, trusted).unwrap_or(peer)
}

/// An address as proxies write it: some add brackets, or the port.
fn told_address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let six = || bare?.parse().ok().map(IpAddr::V6);
    // A zone is known to one machine only.
    let of_all = Some(text).filter(|text| !text.contains('%'));
    let with_port = || of_all?.parse::<SocketAddr>().ok().map(|told| told.ip());
    text.parse().ok().or_else(six).or_else(with_port)
}

impl Retention {
    /// Everything is kept.
    pub const NONE: Retention =
        Retention { usage_days: 0, usage_bytes: 0, log_days: 0, log_bytes: 0 };
}

impl Logging {
    /// What becomes of requests while rows cannot be written, in the configuration's word.
    pub fn unbilled(&self) -> &'static str {
        if self.serve_unbilled { "serve" } else { "refuse" }
    }

    /// Requests or attempts are logged.
    pub fn logs_any(&self) -> bool {
        self.enable_upstream_log || self.enable_downstream_log
    }
}

impl Network {
    /// Reads `10.0.0.0/8` or a single address.
    pub fn parse(text: &str) -> Option<Network> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => bits.parse().ok()?,
            Some(_) => return None,
            None => bits_max,
        };
        (bits <= bits_max).then_some(Network { address, bits })
    }

    /// Whether the address is in the range. An IPv4 address written as IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let differing = match (self.address.to_canonical(), address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(other)) => {
                (ours.to_bits() ^ other.to_bits()).leading_zeros()
            }
            (IpAddr::V6(ours), IpAddr::V6(other)) => {
                (ours.to_bits() ^ other.to_bits()).leading_zeros()
            }
            _ => return false,
        };
        differing >= u32::from(self.bits)
    }
}

impl Provider {
    /// Which addresses may be connected for its calls: its own, or its proxy's.
    pub fn dial_fence(&self) -> Fence {
        if self.proxy.is_some() { self.proxy_fence } else { self.fence }
    }

    /// Where it serves the dialect; `None`: it does not speak it.
    pub fn destination(&self, dialect: Dialect) -> Option<&Destination> {
        self.destinations[dialect as usize].as_ref()
    }

    /// The dialects that it speaks.
    pub fn dialects(&self) -> Dialects {
        Dialect::ALL.into_iter().filter(|dialect| self.destination(*dialect).is_some()).collect()
    }

    /// After so many milliseconds, and not before they are more than usual, a silent call of this
    /// endpoint is hedged; `None`: it never is. A token endpoint is waited for, so accounts have no
    /// part in it.
    pub fn hedges(&self, endpoint: &Endpoint) -> Option<u64> {
        let plain = self.credentials.iter().filter(|credential| credential.account.is_none());
        let generates = match endpoint.model {
            ModelPlace::Body | ModelPlace::MaybeBody | ModelPlace::Path | ModelPlace::Resource => {
                !endpoint.counts_tokens
            }
            ModelPlace::Multipart | ModelPlace::Event | ModelPlace::Nowhere => false,
        };
        self.hedge.filter(|_| generates && plain.count() > 1)
    }

    /// The prices of a model: those of the name that was asked for, of the model that serves, of
    /// the longest pattern, of the vendor's list, of all others.
    pub fn price(&self, asked: &str, served: &str) -> Option<&Arc<PriceRow>> {
        self.priced(asked, served).map(|(_, row)| row)
    }

    /// The same, and which of them it is.
    pub fn priced(&self, asked: &str, served: &str) -> Option<(PriceSource<'_>, &Arc<PriceRow>)> {
        let own = |name| self.models.get(name).and_then(|model| model.price.as_ref());
        if let Some(row) = own(asked).filter(|_| asked != served) {
            return Some((PriceSource::Alias, row));
        }
        if let Some(row) = own(served) {
            return Some((PriceSource::Model, row));
        }
        if let Some((at, row)) = self.price_patterns.iter().find(|(at, _)| at.matches(served)) {
            return Some((PriceSource::Pattern(at.as_str()), row));
        }
        if let Some(row) = self.list_prices.and_then(|list| list.price(served)) {
            return Some((PriceSource::List, row));
        }
        self.price_default.as_ref().map(|row| (PriceSource::Default, row))
    }

    /// Its upstream's list of models is wanted.
    pub fn has_live_list(&self) -> bool {
        self.enabled && self.lists != ListSource::Static && !self.is_echo()
    }

    /// Where its upstream's list of models is, and how it looks.
    pub fn live_list(&self) -> Option<(Form, &Destination)> {
        let spoken = self.dialects();
        let first = || Some(Form::of(spoken.iter().next()?.family()));
        let form = self.channel.list.or_else(first).filter(|_| !self.is_echo())?;
        let dialect = spoken.iter().find(|dialect| dialect.family() == form.family())?;
        Some((form, self.destination(dialect)?))
    }

    /// Whether it answers by itself, without an upstream.
    pub fn is_echo(&self) -> bool {
        self.channel.name == channel::ECHO
    }
}

impl Snapshot {
    /// Indexes the tables.
    pub fn new(tables: Tables) -> Snapshot {
        let Tables { providers, users, keys, aliases, .. } = tables;
        let has =
            |caller: &Caller| users.get(caller.user).is_some_and(|u| caller.key < u.keys.len());
        assert!(keys.iter().all(|(_, caller)| has(caller)), "a key belongs to a user");
        assert!(
            aliases.iter().all(|(_, alias)| alias.all().all(|(at, _)| at < providers.len())),
            "an alias belongs to a provider"
        );
        let names = providers
            .iter()
            .enumerate()
            .map(|(index, provider)| (provider.name.clone(), index))
            .collect();
        let keys = keys.into_iter().filter(|(_, caller)| users[caller.user].enabled);
        Snapshot {
            keys: keys.collect(),
            names,
            has_targets: aliases.iter().any(|(_, alias)| !alias.targets.is_empty()),
            aliases: aliases.into_iter().collect(),
            providers,
            users,
            limits: tables.limits,
            logging: tables.logging,
            billing: tables.billing,
            retention: tables.retention,
            proxy: tables.proxy,
            timeouts: tables.timeouts,
            drain_ms: tables.drain_ms,
            cors_origins: tables.cors_origins,
            trusted_proxies: tables.trusted_proxies,
            extra_ca_file: tables.extra_ca_file,
            tls: tables.tls,
            metrics_open: tables.metrics_open,
            made_fence: tables.made_fence,
        }
    }

    /// The enabled provider of that name.
    pub fn provider_named(&self, name: &str) -> Option<usize> {
        self.any_provider_named(name).filter(|index| self.providers[*index].enabled)
    }

    /// The provider of that name, a disabled one too.
    pub(super) fn any_provider_named(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied()
    }

    /// The alias of that name, a disabled one too.
    pub(super) fn alias_named(&self, name: &str) -> Option<&Alias> {
        self.aliases.get(name)
    }

    /// The same, to be given their places.
    pub fn aliases_mut(&mut self) -> impl Iterator<Item = (&String, &mut Alias)> {
        self.aliases.iter_mut()
    }

    /// The model exists at the provider, and both are enabled.
    pub fn is_enabled(&self, provider: usize, model: &str) -> bool {
        let provider = &self.providers[provider];
        provider.enabled && provider.models.get(model).is_none_or(|model| model.enabled)
    }

    /// Names of all aliases and what they stand for, sorted.
    pub fn aliases(&self) -> Vec<(&str, &Alias)> {
        let mut all: Vec<_> =
            self.aliases.iter().map(|(name, alias)| (name.as_str(), alias)).collect();
        all.sort_by_key(|(name, _)| *name);
        all
    }

    /// Whose key this is. Unknown, disabled and a disabled user's key look alike, and take the same
    /// time: the table is keyed by the digest.
    pub fn authenticate(&self, key: &[u8]) -> Option<Caller> {
        self.caller_of(&Digest::of(key))
    }

    /// The same for a key's digest.
    pub fn caller_of(&self, key: &Digest) -> Option<Caller> {
        self.keys.get(key).copied()
    }

    /// The same caller, if his key lets him in now and from there.
    pub fn let_in(&self, caller: Caller, origin: &Origin<'_>) -> Result<Caller, KeyError> {
        let Some(terms) = &self.key(caller).terms else { return Ok(caller) };
        if terms.expires_ms.is_some_and(|at| at <= (origin.now_ms)()) {
            return Err(KeyError::Expired);
        }
        let told = origin.head.and_then(|head| head.headers.list("x-forwarded-for"));
        let told = told.unwrap_or_default();
        let address = || forwarded((origin.peer)()?, &told, &self.trusted_proxies);
        let is_in = |address| terms.networks.iter().any(|network| network.contains(address));
        match terms.networks.is_empty() || address().is_some_and(is_in) {
            true => Ok(caller),
            false => Err(KeyError::Elsewhere),
        }
    }

    /// The key of this name that lets somebody in: its digest, and whom.
    pub fn key_named(&self, id: &str) -> Option<(&Digest, Caller)> {
        let is_it = |caller: &Caller| self.key(*caller).id.as_str() == id;
        let found = self.keys.iter().find(|(_, caller)| is_it(caller));
        found.map(|(digest, caller)| (digest, *caller))
    }

    /// The key that the caller presented.
    pub fn key(&self, caller: Caller) -> &Key {
        &self.users[caller.user].keys[caller.key]
    }

    /// Whether the user may call the model at the provider. `name` is what was sent, without its
    /// provider prefix: an alias is permitted under its own name.
    pub fn permits(&self, user: usize, provider: usize, name: &str) -> bool {
        self.users[user].permissions.iter().any(|permission| {
            permission.provider.is_none_or(|only| only == provider)
                && permission.pattern.matches(name)
        })
    }

    /// Whether the user may call some model at the provider.
    pub fn permits_any(&self, user: usize, provider: usize) -> bool {
        let at = |permission: &Permission| permission.provider.is_none_or(|only| only == provider);
        self.users[user].permissions.iter().any(at)
    }

    /// Whether the user may call every model at the provider: the pattern `*` says so.
    pub fn permits_every(&self, user: usize, provider: usize) -> bool {
        self.users[user].permissions.iter().any(|permission| {
            permission.provider.is_none_or(|only| only == provider)
                && permission.pattern.as_str() == "*"
        })
    }

    /// Whether the user may read and write files at the provider.
    pub fn permits_files(&self, user: usize, provider: usize) -> bool {
        self.users[user].file_permissions.contains(&provider)
    }
}

#[cfg(test)]
mod tests;
