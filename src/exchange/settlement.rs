//! What a request is charged: taken when it is admitted, settled on every way out.
//!
//! The settlement hangs on the request's note and is consumed when the note is dropped, so no exit
//! can skip it, a panic neither.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::attempt::Plan;
use super::note::Note;
use super::{Clock, Core, Upstream};
use crate::dialect::Dialect;
use crate::dialect::endpoint::{Endpoint, ModelPlace};
use crate::dialect::refusal::Refusal;
use crate::dialect::usage::{ServiceTier, Told, Usage, UsageSource};
use crate::ledger::accounts::{Accounts, Denied, Taken};
use crate::ledger::{Kind, Ledger, Row, Slot};
use crate::metrics::{Count, Metrics, Sum, Tally};
use crate::money;
use crate::route::plan::Target;
use crate::route::price::{Applied, Mode, PriceRow};
use crate::route::quota::Spent;
use crate::route::snapshot::{Logging, Model, Snapshot, User};

/// A prompt of so many tokens is reserved where the model's limit is not known.
const INPUT_TOKENS: u64 = 200_000;
/// An answer of so many tokens is reserved where nobody said how long it may be.
const OUTPUT_TOKENS: u64 = 4_096;
/// Images that Google makes where nobody said how many.
const GEMINI_IMAGES: u64 = 4;
/// How long a request waits for a place in the books: so often, so long.
const SLOT_TRIES: usize = 40;
const SLOT_PAUSE: Duration = Duration::from_millis(50);
/// Bytes of text that are taken for one token in an estimate.
const BYTES_PER_TOKEN: u64 = 4;

/// The books and the accounts of a process.
pub struct Books {
    /// Where rows go; `None`: usage is off.
    pub ledger: Option<Arc<Ledger>>,
    /// What users have spent, and how often they called.
    pub accounts: Accounts,
}

/// What one admitted request holds until it ends.
pub(super) struct Settlement {
    books: Arc<Books>,
    slot: Option<Slot>,
    // There was no slot, and the settings say to serve all the same.
    unbilled: bool,
    taken: Taken,
    at_ms: i64,
    price: Option<Arc<PriceRow>>,
    endpoint: &'static Endpoint,
    // Where, in the name that was asked for, the one begins that limits are tested against.
    limit_name_at: usize,
    // The longest prompt that is guessed where none is told.
    input_max: u64,
    // The call goes on at the vendor's when its reply has ended, for so long an answer.
    background: Option<u64>,
}

/// The last gates: quota, rate limits, a place in the books. From here on the request is admitted.
/// Of several plans the dearest is reserved.
pub(super) fn admit<U: Upstream>(
    core: &Core,
    snapshot: &Snapshot,
    up: &mut U,
    plans: &[Plan<'_>],
    note: &mut Note,
) -> Result<(), Refusal> {
    let slot = |ledger: &_, serve_unbilled| wait_for_slot(ledger, up, serve_unbilled);
    take(core, snapshot, plans, note, slot)
}

/// The same for what comes next within a session, which does not stand still for it.
pub(super) fn admit_next(
    core: &Core,
    snapshot: &Snapshot,
    plan: &Plan<'_>,
    note: &mut Note,
) -> Result<(), Refusal> {
    take(core, snapshot, std::slice::from_ref(plan), note, |ledger, _| ledger.slot())
}

/// What happened already and has to be paid, whoever may.
pub(super) fn ungated(
    core: &Core,
    snapshot: &Snapshot,
    plan: &Plan<'_>,
    note: &Note,
) -> Option<Settlement> {
    let books = core.books.as_ref()?;
    note.user?;
    let ledger = books.ledger.as_ref().filter(|_| snapshot.logging.enable_usage);
    let slot = ledger.and_then(|ledger| ledger.slot());
    let unbilled = slot.is_none() && ledger.is_some();
    Some(Settlement::of(books, plan, slot, unbilled, Taken::default(), core.clock.unix_ms()))
}

fn take(
    core: &Core,
    snapshot: &Snapshot,
    plans: &[Plan<'_>],
    note: &mut Note,
    find_slot: impl FnOnce(&Ledger, bool) -> Option<Slot>,
) -> Result<(), Refusal> {
    let Some(plan) = plans.first() else { return Ok(()) };
    let Some(books) = &core.books else { return Ok(()) };
    let Some(user) = note.user.map(|at| &snapshot.users[at]) else { return Ok(()) };
    let Logging { enable_usage, serve_unbilled, .. } = snapshot.logging;
    let ledger = books.ledger.as_ref().filter(|_| enable_usage);
    let key = note.key().and_then(|at| user.keys.get(at));
    let is_limited = user.is_limited(key);
    if ledger.is_none() && !is_limited {
        return Ok(());
    }
    let target = plan.target;
    let name = target.permission_name;
    // Nobody asks where nothing is limited.
    let (cost, tokens) = match is_limited {
        true => at_most(plans, note.bytes_in),
        false => (0, 0),
    };
    let at_ms = core.clock.unix_ms();
    let taken = match books.accounts.admit(user, key, name, cost, tokens, at_ms) {
        Ok((taken, standing)) => {
            note.standing = standing;
            taken
        }
        Err(Denied::Spent(spent)) => return Err(Refusal::from(spent)),
        Err(Denied::Limited(limited, standing)) => {
            note.standing = Some(*standing);
            return Err(Refusal::from(limited));
        }
    };
    let slot = ledger.and_then(|ledger| find_slot(ledger, serve_unbilled));
    let unbilled = slot.is_none() && ledger.is_some();
    if unbilled && !serve_unbilled {
        books.accounts.settle(&user.name, &taken, 0, 0, at_ms);
        return Err(Refusal::overloaded());
    }
    note.settlement = Some(Settlement::of(books, plan, slot, unbilled, taken, at_ms));
    Ok(())
}

/// What the dearest of the plans may cost, whichever of its models serves, and the tokens of the
/// longest.
fn at_most(plans: &[Plan<'_>], bytes_in: u64) -> (i64, u64) {
    let (mut cost, mut tokens) = (0, 0);
    for plan in plans {
        let others = plan.others.iter().map(|name| Some(*name));
        for other in std::iter::once(None).chain(others) {
            let model = plan.provider.models.get(other.unwrap_or(plan.target.model_served));
            let expected = expected(plan, model, bytes_in);
            if let Some(price) = price_of(plan, other).filter(|_| !is_free(plan.endpoint)) {
                cost = cost.max(dearest(price, &expected, plan.hour_cache));
            }
            tokens = tokens.max(expected.tokens());
        }
    }
    (cost, tokens)
}

/// What the plan's model costs, or another that its body names, which goes up as it stands.
fn price_of<'a>(plan: &Plan<'a>, other: Option<&str>) -> Option<&'a Arc<PriceRow>> {
    match other {
        Some(name) => plan.provider.price(name, name),
        None => plan.provider.price(plan.target.permission_name, plan.target.model_served),
    }
}

/// Of several plans this one served: its price counts.
pub(super) fn served_by(note: &mut Note, plan: &Plan<'_>) {
    served_as(note, plan, None);
}

/// The same, and who served it: its model, or another that its body names.
pub(super) fn served_as(note: &mut Note, plan: &Plan<'_>, other: Option<&str>) {
    if let Some(settlement) = &mut note.settlement {
        let model = plan.provider.models.get(other.unwrap_or(plan.target.model_served));
        settlement.price = price_of(plan, other).cloned();
        settlement.input_max = input_max(model);
        settlement.background = background(plan, model);
    }
}

/// A place in the books, waiting a while for one. Not for a disk that refuses, if that would only
/// make a request late which is served anyway.
fn wait_for_slot<U: Upstream>(ledger: &Ledger, up: &mut U, serve_unbilled: bool) -> Option<Slot> {
    for _ in 0..SLOT_TRIES {
        if let Some(slot) = ledger.slot() {
            return Some(slot);
        }
        if serve_unbilled && !ledger.is_healthy() {
            return None;
        }
        if !up.pause(SLOT_PAUSE) {
            break;
        }
    }
    ledger.slot()
}

/// What the request may use at most.
fn expected(plan: &Plan<'_>, model: Option<&Model>, bytes_in: u64) -> Usage {
    if matches!(plan.endpoint.model, ModelPlace::Nowhere | ModelPlace::Resource) {
        return Usage::default();
    }
    let output_max = model.and_then(|model| model.max_output_tokens).unwrap_or(OUTPUT_TOKENS);
    let output = plan.output_max.unwrap_or(output_max);
    let makes_images = !plan.endpoint.images.is_empty();
    let usual = match plan.endpoint.dialect {
        Dialect::Gemini if makes_images => GEMINI_IMAGES,
        _ => 1,
    };
    let copies = plan.copies.unwrap_or(usual).max(1);
    Usage {
        input_tokens: (bytes_in / 3).min(input_max(model)),
        output_tokens: output.saturating_mul(copies),
        images: if makes_images { copies } else { 0 },
        ..Usage::default()
    }
}

/// How long an answer may become that is made when the reply has ended, if this is one.
fn background(plan: &Plan<'_>, model: Option<&Model>) -> Option<u64> {
    plan.background.then(|| expected(plan, model, 0).output_tokens)
}

/// The longest prompt that a model reads.
pub(super) fn input_max(model: Option<&Model>) -> u64 {
    model.and_then(|model| model.max_input_tokens).unwrap_or(INPUT_TOKENS)
}

/// The cost in the dearest mode that the request could be served in.
fn dearest(price: &PriceRow, usage: &Usage, hour_cache: bool) -> i64 {
    let tiers =
        [ServiceTier::Default, ServiceTier::Flex, ServiceTier::Scale, ServiceTier::Priority];
    let differs = |tier: &ServiceTier| price.modes[*tier as usize] != Mode::default();
    let costs = tiers.into_iter().filter(|tier| *tier == ServiceTier::Default || differs(tier));
    let costs = costs.map(|tier| price.applied(usage, tier).at_most(usage, hour_cache));
    costs.max().unwrap_or(0)
}

/// Calls that vendors do not bill, or, a cache, by the hour.
fn is_free(endpoint: &Endpoint) -> bool {
    let is_nameless = matches!(endpoint.model, ModelPlace::Nowhere | ModelPlace::Resource);
    is_nameless || endpoint.counts_tokens || endpoint.free
}

/// Whether replies of this endpoint can tell what they used.
pub(super) fn tells_usage(endpoint: &Endpoint) -> bool {
    !is_free(endpoint)
}

impl Settlement {
    fn of(
        books: &Arc<Books>,
        plan: &Plan<'_>,
        slot: Option<Slot>,
        unbilled: bool,
        taken: Taken,
        at_ms: i64,
    ) -> Settlement {
        let Target { model_asked, permission_name, model_served, .. } = *plan.target;
        let model = plan.provider.models.get(model_served);
        Settlement {
            books: books.clone(),
            slot,
            unbilled,
            taken,
            at_ms,
            price: price_of(plan, None).cloned(),
            endpoint: plan.endpoint,
            limit_name_at: model_asked.len().saturating_sub(permission_name.len()),
            input_max: input_max(model),
            background: background(plan, model),
        }
    }

    /// Nothing is guessed of what the caller sends: it is no text, or nobody was asked to read it.
    pub(super) fn guess_no_input(&mut self) {
        self.input_max = 0;
    }

    /// What a reply has cost that is still under way, as far as can be told.
    pub(super) fn cost_so_far(&self, seen: &Seen) -> i64 {
        let Some(price) = &self.price else { return 0 };
        let usage = self.so_far(seen);
        price.applied(&usage, seen.told.tier).cost(&usage)
    }

    /// Whether the reply may cost so much: what was held for it, or more that the user's quotas
    /// still have room for.
    pub(super) fn covers(
        &mut self,
        user: &User,
        cost: i64,
        clock: &dyn Clock,
    ) -> Result<(), Spent> {
        let taken = &mut self.taken;
        if cost <= taken.cost {
            return Ok(());
        }
        self.books.accounts.extend(user, taken, cost, clock.unix_ms())
    }

    /// What a call has used and costs when it ends like this.
    pub(super) fn bill(&self, seen: &Seen) -> Bill {
        let (usage, source) = self.used(seen);
        // A session that was opened has the status of its handshake.
        let served = (101..400).contains(&seen.status) && !seen.refused;
        // An answer that could not be passed on was made all the same.
        let made = source == UsageSource::Upstream && (200..400).contains(&seen.status);
        let answered = served || made || source == UsageSource::Estimated;
        let applied = self.price.as_ref().map(|price| price.applied(&usage, seen.told.tier));
        let cost = match &applied {
            Some(applied) if answered && !self.unbilled && !is_free(self.endpoint) => {
                applied.cost(&usage)
            }
            _ => 0,
        };
        Bill { usage, source, applied, cost }
    }

    /// Settles with what was seen of it in all. The row is the caller's to record.
    pub(super) fn settle(
        self,
        note: &Note,
        snapshot: &Snapshot,
        part: &Part<'_>,
    ) -> Option<(Slot, Row)> {
        let Part { model_asked, model_served, ref seen, end } = *part;
        let user = note.user.map_or("", |at| &snapshot.users[at].name);
        let Bill { usage, source, applied, cost } = self.bill(seen);
        self.books.accounts.settle(user, &self.taken, cost, usage.tokens(), self.at_ms);
        if self.unbilled {
            note.metrics().count(Count::UsageUnbilled);
            log::warn!(target: "gproxy::ledger", "id={} is served and not recorded", note.id);
        }
        let tally = note.provider.map(|at| &*snapshot.providers[at].tally);
        count_up(note.metrics(), tally, &usage, cost);
        let slot = self.slot?;
        note.metrics().count(Count::UsageRows);
        if applied.is_none() && !is_free(self.endpoint) {
            note.metrics().count(Count::UsageUnpriced);
        }
        let provider = note.provider.map_or("", |at| &snapshot.providers[at].name);
        let kind = slot.kind(&Kind {
            user,
            user_key: note.key_id(),
            provider,
            credential: note.credential.map(|at| at as i64),
            operation: self.endpoint.name,
            protocol: self.endpoint.dialect.name(),
            model: model_asked,
            limit_name_at: self.limit_name_at,
            model_served,
            usage_source: source.name(),
            service_tier: seen.told.tier.name(),
            price: applied,
            status: seen.status,
            outcome: end,
        });
        let row = Row {
            process: note.id.process,
            number: note.id.number,
            at_ms: self.at_ms,
            kind,
            usage,
            cost,
            attempts: note.attempts,
            first_byte_ms: note.first_byte_ms(),
            total_ms: note.total_ms(),
            bytes_in: note.bytes_in,
            bytes_out: note.bytes_out,
        };
        Some((slot, row))
    }
}

/// Adds what was used and what it cost to the sums of the process and of the provider.
fn count_up(metrics: &Metrics, tally: Option<&Tally>, usage: &Usage, cost: i64) {
    let written = usage.cache_creation_input_tokens_5min;
    let written = written.saturating_add(usage.cache_creation_input_tokens_1h);
    for (sum, by) in [
        (Sum::Input, usage.input_tokens),
        (Sum::CacheRead, usage.cache_read_input_tokens),
        (Sum::CacheWrite, written),
        (Sum::Output, usage.output_tokens),
        (Sum::Cost, u64::try_from(cost).unwrap_or(0)),
    ] {
        metrics.sum(sum, by);
        if let Some(tally) = tally {
            tally.sum(sum, by);
        }
    }
}

/// What a row says of its own: all of an exchange, or one answer of a session.
pub(super) struct Part<'a> {
    pub(super) model_asked: &'a str,
    pub(super) model_served: &'a str,
    pub(super) seen: Seen,
    pub(super) end: &'static str,
}

/// What was seen of a call that its bill depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// What the upstream told.
    pub(super) told: Told,
    /// Bytes of generated text that went by in a stream.
    pub(super) text_bytes: u64,
    /// Bytes of the request's body.
    pub(super) bytes_in: u64,
    /// Status of the reply; 0: there is none.
    pub(super) status: u16,
    /// The reply was read to its end.
    pub(super) whole: bool,
    /// The upstream was called, and the caller did not wait for the end.
    pub(super) left: bool,
    /// There was no answer, though the reply had begun.
    pub(super) refused: bool,
}

/// What a call costs, and by what.
pub(super) struct Bill {
    pub(super) usage: Usage,
    pub(super) source: UsageSource,
    applied: Option<Applied>,
    /// Picodollars.
    pub(super) cost: i64,
}

impl Bill {
    /// What of it is told beside the reply: names behind `x-gproxy-`, and values. The counts that
    /// few calls have are told where there are any.
    pub(super) fn receipt(&self) -> impl Iterator<Item = (&'static str, Figure)> {
        let usage = &self.usage;
        let written = usage.cache_creation_input_tokens_5min;
        let always = [
            ("cost-usd", Figure::Usd(self.cost)),
            ("input-tokens", Figure::Count(usage.input_tokens)),
            ("output-tokens", Figure::Count(usage.output_tokens)),
            ("usage-source", Figure::Word(self.source.name())),
        ];
        let some = [
            ("cache-read-input-tokens", usage.cache_read_input_tokens),
            ("cache-creation-input-tokens-5min", written),
            ("cache-creation-input-tokens-1h", usage.cache_creation_input_tokens_1h),
            ("reasoning-tokens", usage.reasoning_tokens),
            ("tool-calls", usage.tool_calls),
            ("images", usage.images),
        ];
        let some = some.into_iter().filter(|(_, count)| *count > 0);
        always.into_iter().chain(some.map(|(name, count)| (name, Figure::Count(count))))
    }
}

/// What a receipt says.
#[derive(Clone, Copy, Debug)]
pub(super) enum Figure {
    /// An amount, in picodollars; told in USD.
    Usd(i64),
    Count(u64),
    Word(&'static str),
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Figure::Usd(amount) => f.write_str(&money::text(*amount)),
            Figure::Count(count) => count.fmt(f),
            Figure::Word(word) => f.write_str(word),
        }
    }
}

/// Tokens of so much text, about.
fn guess(bytes: u64) -> u64 {
    bytes.div_ceil(BYTES_PER_TOKEN)
}

/// The prompt was counted.
fn has_prompt(usage: &Usage) -> bool {
    let cached = usage.cache_creation_input_tokens_5min | usage.cache_creation_input_tokens_1h;
    usage.input_tokens | usage.cache_read_input_tokens | cached > 0
}

impl Settlement {
    /// What was used so far: what was told, and of the rest a guess.
    pub(super) fn so_far(&self, seen: &Seen) -> Usage {
        let Told { usage, any, output, .. } = seen.told;
        // Gemini tells how far it is, and some that speak OpenAI's dialect do; here it is the last
        // word.
        let is_last =
            matches!(self.endpoint.dialect, Dialect::Anthropic | Dialect::OpenaiResponses);
        if output && is_last {
            return usage;
        }
        let mut begun = if any { usage } else { Usage::default() };
        // Some count nothing before the end.
        if !has_prompt(&begun) {
            begun.input_tokens = guess(seen.bytes_in).min(self.input_max);
        }
        Usage { output_tokens: begun.output_tokens.max(guess(seen.text_bytes)), ..begun }
    }

    /// What was used, and how that is known.
    fn used(&self, seen: &Seen) -> (Usage, UsageSource) {
        let Told { usage, any, output, .. } = seen.told;
        let is_final = match self.endpoint.dialect {
            // The count in a stream's first event is a placeholder.
            Dialect::Anthropic => output,
            Dialect::Gemini => seen.whole,
            _ => output || seen.whole,
        };
        if any && is_final {
            return (usage, UsageSource::Upstream);
        }
        if is_free(self.endpoint) || seen.status >= 400 || seen.refused {
            return (Usage::default(), UsageSource::None);
        }
        let is_begun = seen.left || (200..400).contains(&seen.status);
        if let (Some(output_tokens), true) = (self.background, is_begun && !any) {
            let so_far = self.so_far(seen);
            let output_tokens = output_tokens.max(so_far.output_tokens);
            return (Usage { output_tokens, ..so_far }, UsageSource::Estimated);
        }
        let generated = guess(seen.text_bytes);
        // The prompt is known; of the answer at least what went by.
        if any && generated <= usage.output_tokens && has_prompt(&usage) {
            return (usage, UsageSource::Partial);
        }
        // Nothing was told: of a whole answer only a stream's text says anything, and of a call
        // that the caller left, that it was made.
        if any || generated > 0 || seen.left {
            return (self.so_far(seen), UsageSource::Estimated);
        }
        (Usage::default(), UsageSource::None)
    }
}
