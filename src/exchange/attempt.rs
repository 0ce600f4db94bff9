//! From a decision to a reply: what goes up, and the only retry loop of the program.

use std::time::Duration;

use super::answer::Answer;
use super::hedge;
use super::note::Note;
use super::pool::{self, Search, Seat};
use super::stumbles::Fall;
use super::upload::{self, Upload};
use super::{Call, Core, Ended, Reply, Source, Upstream, Waiting, tokens};
use crate::dialect::Dialect;
use crate::dialect::ask::{self, Ask, AskError};
use crate::dialect::endpoint::{Endpoint, ModelPlace};
use crate::dialect::headers;
use crate::dialect::path::{PROVIDER, Route};
use crate::dialect::refusal::Refusal;
use crate::dialect::stored::{Exchange, Front, Places};
use crate::dialect::trouble::{self, Trouble};
use crate::failure::{Cause, Failure, Sent};
use crate::limits;
use crate::metrics::Count;
use crate::route::account::Account;
use crate::route::channel::Destination;
use crate::route::health::{self, Lesson};
use crate::route::plan::Target;
use crate::route::retry::{self, Next, Outcome};
use crate::route::snapshot::{Provider, Snapshot, Timeouts};
use crate::wire::head::Head;

/// One call to an upstream, decided down to its bytes.
pub(super) struct Plan<'a> {
    pub(super) provider: &'a Provider,
    pub(super) endpoint: &'static Endpoint,
    pub(super) target: &'a Target<'a>,
    /// Usage in the stream was our wish: the downstream must not see it.
    pub(super) hide_usage: bool,
    /// The longest answer that was asked for, in tokens.
    pub(super) output_max: Option<u64>,
    /// How many answers or images were asked for at once; `None`: what is usual.
    pub(super) copies: Option<u64>,
    /// Further models that the body names and that may serve in its place.
    pub(super) others: Vec<&'a str>,
    /// The prompt may be written to a cache for an hour.
    pub(super) hour_cache: bool,
    /// The answer is made when the reply has ended.
    pub(super) background: bool,
    /// Where the bytes of a file go that is uploaded in two steps.
    pub(super) upload: Option<Upload>,
    /// The caller reaches every provider, and named none for what was made earlier.
    pub(super) aggregated: bool,
    // A WebSocket is wanted, with these subprotocols.
    upgrade: Option<&'a str>,
    destination: &'a Destination,
    head: &'a Head,
    url: String,
    stream: bool,
    alt_sse: bool,
    pub(super) wants_usage: bool,
}

impl<'a> Plan<'a> {
    /// Decides where the request goes.
    pub(super) fn new(
        provider: &'a Provider,
        destination: &'a Destination,
        head: &'a Head,
        route: &Route<'_>,
        target: &'a Target<'a>,
        ask: &'a Ask,
    ) -> Plan<'a> {
        let endpoint = route.endpoint;
        let url = destination.url(
            endpoint,
            route.version,
            target.model_served,
            route.collection,
            &route.query_to(destination.is_dated()),
            ask.stream,
        );
        let base = Plan::plain(provider, destination, head, endpoint, target, url);
        let in_stream = ask.stream && endpoint.usage_option;
        let names = ask.others.iter().map(String::as_str);
        let hide_usage = in_stream && provider.include_usage && !ask.wants_usage();
        Plan {
            hide_usage,
            output_max: ask.output_max,
            copies: ask.copies,
            others: names.filter(|name| *name != target.model_served).collect(),
            hour_cache: ask.hour_cache,
            background: ask.background,
            stream: ask.stream || endpoint.tail == "streamGenerateContent",
            alt_sse: route.query.alt_sse,
            wants_usage: hide_usage || (in_stream && ask.wants_usage()),
            ..base
        }
    }

    /// A call of which nothing is read or rewritten, at this URL.
    pub(super) fn plain(
        provider: &'a Provider,
        destination: &'a Destination,
        head: &'a Head,
        endpoint: &'static Endpoint,
        target: &'a Target<'a>,
        url: String,
    ) -> Plan<'a> {
        Plan {
            provider,
            endpoint,
            target,
            hide_usage: false,
            output_max: None,
            copies: None,
            others: Vec::new(),
            hour_cache: false,
            background: false,
            upload: None,
            aggregated: false,
            upgrade: None,
            destination,
            head,
            url,
            stream: false,
            alt_sse: false,
            wants_usage: false,
        }
    }

    /// The same, as the handshake of a WebSocket with these subprotocols.
    pub(super) fn upgraded(self, protocols: &'a str) -> Plan<'a> {
        Plan { upgrade: Some(protocols), ..self }
    }

    /// The served model with its collection, where its vendor wants that.
    pub(super) fn full_name(&self) -> String {
        self.destination.full_name(self.endpoint, self.target.model_served)
    }

    /// The name that a reply gets in place of the served one; `None`: nothing was renamed.
    pub(super) fn restored(&self) -> Option<String> {
        let Target { model_asked, renamed, .. } = *self.target;
        // A batch is the only call that says in its reply which collection the model is in.
        let is_batch = |place| place == ModelPlace::Path && !self.endpoint.body_models.is_empty();
        renamed.then(|| match self.endpoint.model {
            ModelPlace::Resource => format!("models/{model_asked}"),
            place if is_batch(place) => format!("models/{model_asked}"),
            _ => model_asked.to_owned(),
        })
    }

    /// The provider that goes in front of a model's name that nobody sent.
    pub(super) fn front(&self) -> Option<Front> {
        let is_named = matches!(self.endpoint.places, Places::Models(_));
        (self.aggregated && is_named).then(|| Front {
            provider: self.provider.name.clone(),
            in_collection: self.endpoint.dialect == Dialect::Gemini,
        })
    }

    /// What is exchanged in a reply about things made earlier.
    pub(super) fn exchange(&self) -> Option<Exchange> {
        match self.endpoint.places {
            Places::Nothing => None,
            Places::Models(_) => self.front().map(Exchange::Name),
            Places::Addresses => Some(self.own_address()),
        }
    }

    /// Where the caller reaches what is at this provider, in the mode in which he called.
    fn own_address(&self) -> Exchange {
        let origin = upload::own_origin(self.head).unwrap_or_default();
        let provider = &self.provider.name;
        match self.aggregated {
            true => Exchange::Address { base: origin, query: format!("{PROVIDER}={provider}") },
            false => {
                let base = format!("{origin}/{provider}");
                Exchange::Address { base, query: String::new() }
            }
        }
    }

    /// Its answer is to come as server-sent events.
    pub(super) fn is_event_stream(&self) -> bool {
        self.stream && (self.alt_sse || self.endpoint.tail != "streamGenerateContent")
    }

    /// Its answer is asked for as a stream.
    pub(super) fn is_stream(&self) -> bool {
        self.stream
    }

    /// A WebSocket is wanted.
    pub(super) fn is_upgraded(&self) -> bool {
        self.upgrade.is_some()
    }

    /// The method of the call.
    pub(super) fn method(&self) -> &str {
        self.head.method()
    }

    /// Where it goes.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Puts the served model's name into the body, and our wish for usage.
    pub(super) fn rewrite(&self, ask: &Ask, body: &mut Vec<u8>) -> Result<(), AskError> {
        let Target { model_asked, model_served, .. } = *self.target;
        if self.destination.wants_version_in_body() {
            let served = self.destination.keeps_model(self.endpoint).then_some(model_served);
            return Ok(ask::cloud::rewrite_for_vertex(body, served)?);
        }
        let renamed = model_asked != model_served;
        match self.endpoint.model {
            ModelPlace::Event | ModelPlace::Nowhere => Ok(()),
            ModelPlace::Body | ModelPlace::MaybeBody | ModelPlace::Multipart => {
                let served = renamed.then_some(model_served);
                ask.rewrite(body, served, None, self.hide_usage)
            }
            ModelPlace::Resource => ask.rewrite(body, Some(&self.full_name()), None, false),
            ModelPlace::Path => ask.rewrite(body, None, Some((model_asked, model_served)), false),
        }
    }
}

/// So often a provider fails in a way that all its credentials share; then it is left alone.
const SHARED_MAX: usize = 2;

/// The header fields that go up, written straight into whatever carries them.
pub struct UpHeaders<'a>(Fields<'a>);

enum Fields<'a> {
    /// Those of a caller, with a provider's credential.
    Callers(Forwarded<'a>),
    /// Those of a call of our own.
    Own(&'a [(&'a str, &'a str)]),
    /// Those of another call, copied.
    Copied(&'a [(String, Vec<u8>)]),
}

struct Forwarded<'a> {
    head: &'a Head,
    provider: &'a Provider,
    endpoint: &'static Endpoint,
    destination: &'a Destination,
    secret: Option<&'a str>,
}

impl<'a> UpHeaders<'a> {
    /// These and no others.
    pub fn own(fields: &'a [(&'a str, &'a str)]) -> UpHeaders<'a> {
        UpHeaders(Fields::Own(fields))
    }

    /// These and no others, as they were shown.
    pub(super) fn copied(fields: &'a [(String, Vec<u8>)]) -> UpHeaders<'a> {
        UpHeaders(Fields::Copied(fields))
    }

    /// Shows every field.
    pub fn each(&self, visit: &mut dyn FnMut(&str, &[u8])) {
        match &self.0 {
            Fields::Callers(forwarded) => forwarded.each(visit),
            Fields::Own(fields) => {
                fields.iter().for_each(|(name, value)| visit(name, value.as_bytes()));
            }
            Fields::Copied(fields) => fields.iter().for_each(|(name, value)| visit(name, value)),
        }
    }
}

impl Forwarded<'_> {
    fn each(&self, visit: &mut dyn FnMut(&str, &[u8])) {
        let extra = &self.provider.forward_headers;
        // What is read was unpacked before.
        let is_read = self.endpoint.model != ModelPlace::Nowhere;
        let in_body = self.destination.wants_version_in_body();
        headers::forward_up(&self.head.headers, self.endpoint.dialect, extra)
            .filter(|(name, _)| !is_read || *name != "content-encoding")
            .filter(|(name, _)| !(in_body && name.eq_ignore_ascii_case(headers::VERSION)))
            .for_each(|(name, value)| visit(name, value));
        let Some(key) = self.secret else { return };
        let Some((name, scheme)) = self.destination.auth.header() else { return };
        let mut value = String::with_capacity(scheme.len() + key.len());
        value.push_str(scheme);
        value.push_str(key);
        visit(name, value.as_bytes());
    }
}

/// What was tried for one request, over all its targets.
pub(super) struct Tries<'a, R> {
    /// The last answer of an upstream, or the last failure while none answered.
    last: Option<Result<Answer<'a, R>, Failure>>,
    /// A request on a stale connection was sent once more.
    is_repeated: bool,
}

impl<'a, R: Reply> Tries<'a, R> {
    pub(super) fn new() -> Tries<'a, R> {
        Tries { last: None, is_repeated: false }
    }

    /// What the downstream gets when nothing more can be tried. An answer need not be the last
    /// attempt's: it was got with the credential that is noted here.
    pub(super) fn finish(self, note: &mut Note) -> Result<Answer<'a, R>, Ended> {
        match self.last {
            Some(Ok(answer)) => {
                note.credential = answer.credential();
                Ok(answer)
            }
            Some(Err(failure)) => Err(Ended::Refused(Refusal::from(failure))),
            // Every credential is at its ceilings.
            None => Err(Ended::Refused(Refusal::overloaded())),
        }
    }

    fn keep(&mut self, failure: Failure) {
        if !matches!(self.last, Some(Ok(_))) {
            self.last = Some(Err(failure));
        }
    }
}

/// What one request has to send.
#[derive(Clone, Copy)]
pub(super) struct Sending<'b> {
    pub(super) body: &'b [u8],
    /// A body that is not held: what was read of it is gone.
    pub(super) source: Option<&'b dyn Source>,
    /// Who is told while an upstream is silent.
    pub(super) waiting: Option<&'b dyn Waiting>,
    /// Credentials and targets that it may be sent to.
    pub(super) attempts_max: usize,
    /// Nobody else can be asked, so that a credential that rests is called all the same.
    pub(super) is_last_resort: bool,
}

impl<'b> Sending<'b> {
    /// A body that is held, for one provider.
    pub(super) fn held(snapshot: &Snapshot, body: &'b [u8]) -> Sending<'b> {
        let attempts_max = snapshot.limits.attempts_max;
        Sending { body, source: None, waiting: None, attempts_max, is_last_resort: true }
    }
}

/// Asks the plan's provider, and nobody else.
pub(super) fn ask<'a, U: Upstream>(
    core: &'a Core,
    up: &mut U,
    plan: &'a Plan<'a>,
    sending: Sending<'_>,
    note: &mut Note,
) -> Result<Answer<'a, U::Reply>, Ended> {
    let mut tries = Tries::new();
    match attempt(core, up, plan, sending, &mut tries, note)? {
        Some(answer) => Ok(answer),
        None => tries.finish(note),
    }
}

/// Calls the plan's provider, with one credential after the other where that is safe. `None`:
/// another target may be asked, and `tries` knows what this one came to.
pub(super) fn attempt<'a, U: Upstream>(
    core: &'a Core,
    up: &mut U,
    plan: &'a Plan<'a>,
    sending: Sending<'_>,
    tries: &mut Tries<'a, U::Reply>,
    note: &mut Note,
) -> Result<Option<Answer<'a, U::Reply>>, Ended> {
    let mut search = Search::new(core, plan.provider, plan.target.model_served, sending.body);
    search.is_last_resort = sending.is_last_resort && note.attempts == 0;
    let (mut shared, mut again) = (0, None);
    while again.is_some() || may_go_on(core, plan, sending, note) {
        // What was tried so far was not served, and nothing is bought for who has left.
        if note.called_at.is_some() && up.has_left() {
            note.reached = false;
            return Err(Ended::Gone);
        }
        let stale = again.take();
        let Some(seat) = search.seat().or_else(|| search.seat_at(stale?)) else { break };
        let index = seat.index;
        note.called_at.get_or_insert_with(|| core.now());
        search.tried |= pool::bit(index);
        search.is_last_resort = false;
        let result = match hedge::pace_of(core, plan, &seat, sending) {
            None => one(core, up, plan, seat, sending, note),
            Some(pace) => hedge::one(core, up, plan, seat, &mut search, pace, sending, note),
        };
        let outcome = match result {
            Ok(answer) if !retry::is_refused(answer.status()) || !answer.has_ended() => {
                return Ok(Some(answer));
            }
            Ok(answer) => {
                let status = answer.status();
                search.compare(answer.seat(), answer.begun());
                match answer.broken() {
                    None => tries.last = Some(Ok(answer.at_rest())),
                    Some(failure) => tries.keep(failure),
                }
                Outcome::Answered(status)
            }
            Err(Failure { cause: Cause::DownstreamGone, .. }) => return Err(Ended::Gone),
            Err(failure) => {
                tries.keep(failure);
                Outcome::Failed(failure)
            }
        };
        shared += usize::from(retry::is_shared(outcome));
        let next = retry::after(outcome, tries.is_repeated);
        if next == Next::Final || sending.source.is_some() {
            return std::mem::replace(tries, Tries::new()).finish(note).map(Some);
        }
        if next == Next::Again {
            tries.is_repeated = true;
            again = Some(index);
        }
        if shared == SHARED_MAX || next == Next::Elsewhere {
            break;
        }
    }
    Ok(None)
}

/// Attempts and time are left.
fn may_go_on(core: &Core, plan: &Plan<'_>, sending: Sending<'_>, note: &Note) -> bool {
    let is_first = note.called_at.is_none();
    let made = note.attempts as usize;
    is_first || (made < sending.attempts_max && !left(core, plan, note).is_zero())
}

/// What is left of the time in which attempts may begin.
fn left(core: &Core, plan: &Plan<'_>, note: &Note) -> Duration {
    let budget_ms = match timeouts_of(plan).total_ms {
        0 => limits::RETRY_MS_MAX,
        total_ms => total_ms,
    };
    let spent = note.called_at.map(|called_at| core.now().saturating_duration_since(called_at));
    Duration::from_millis(budget_ms).saturating_sub(spent.unwrap_or_default())
}

/// One attempt, and what it teaches.
fn one<'a, U: Upstream>(
    core: &'a Core,
    up: &mut U,
    plan: &'a Plan<'a>,
    seat: Seat<'a>,
    sending: Sending<'_>,
    note: &mut Note,
) -> Result<Answer<'a, U::Reply>, Failure> {
    note.credential = seat.credential.map(|_| seat.index);
    let result = match seat.credential.and_then(|credential| credential.account.as_deref()) {
        None => {
            let key = seat.credential.map(|credential| credential.api_key.expose());
            call(core, up, plan, key, sending, note)
        }
        Some(account) => call_as(core, up, plan, account, sending, note),
    };
    judge(core, plan, seat, result, note)
}

/// Learns what an attempt teaches. The upstream's refusal is read whole.
pub(super) fn judge<'a, R: Reply>(
    core: &'a Core,
    plan: &'a Plan<'a>,
    mut seat: Seat<'a>,
    result: Result<R, Failure>,
    note: &mut Note,
) -> Result<Answer<'a, R>, Failure> {
    let (before, token) = (note.answered_at, note.token.take());
    note.reached = match &result {
        Ok(reply) => !retry::is_refused(reply.status()),
        Err(failure) => failure.sent != Sent::Nothing,
    };
    let failure = match result {
        Ok(reply) if retry::is_refused(reply.status()) => {
            let answer = refused(core, plan, &mut seat, reply, note)?;
            return Ok(answer.with(seat, token));
        }
        Ok(reply) => {
            note.answered_at = Some(core.now());
            seat.learn(health::lesson_of(reply.status(), Trouble::UNSAID));
            return Ok(Answer::live(reply, plan).with(seat, token));
        }
        Err(failure) => failure,
    };
    note.answered_at = Some(core.now());
    count_failed(core, plan);
    core.stumbles.keep(core, plan, note, before, Fall::Failed(failure));
    log::debug!(target: "gproxy::attempt", "id={} {failure:?}", note.id);
    // A connection that was closed while it was idle says nothing of an only credential.
    let is_stale = retry::after(Outcome::Failed(failure), false) == Next::Again;
    if !is_stale || plan.provider.credentials.len() > 1 {
        seat.learn(health::shown_by(&failure));
    }
    Err(failure)
}

/// The upstream said that it did not serve: its head alone says that, whatever comes behind it.
fn refused<'a, R: Reply>(
    core: &Core,
    plan: &'a Plan<'a>,
    seat: &mut Seat<'_>,
    reply: R,
    note: &mut Note,
) -> Result<Answer<'a, R>, Failure> {
    let before = note.answered_at;
    let answer = Answer::hold(reply, plan, core);
    note.answered_at = Some(core.now());
    core.stumbles.keep(core, plan, note, before, Fall::Refused(answer.status()));
    seat.learn(shown(core, plan, &answer, answer.begun(), answer.broken().is_none()));
    if let Some(failure) = answer.broken() {
        count_failed(core, plan);
        log::debug!(target: "gproxy::attempt", "id={} {failure:?}", note.id);
        if let Some(trace) = &mut note.trace {
            trace.ended(core, &failure);
        }
        if matches!(failure.cause, Cause::DownstreamGone | Cause::ShuttingDown) {
            return Err(failure);
        }
    }
    Ok(answer)
}

/// What a refusal shows of its credential. Of a 403 that was not read nobody knows: it may be about
/// no more than a thing that the request names.
pub(super) fn shown<R: Reply>(
    core: &Core,
    plan: &Plan<'_>,
    reply: &R,
    body: &[u8],
    is_read: bool,
) -> Lesson {
    if reply.status() == 403 && !is_read {
        return Lesson::Nothing;
    }
    let now_ms = core.clock.unix_ms();
    let trouble = trouble::read(reply.headers(), body, plan.target.model_served, now_ms);
    health::lesson_of(reply.status(), trouble)
}

/// An attempt came to no usable reply.
pub(super) fn count_failed(core: &Core, plan: &Plan<'_>) {
    core.metrics.count(Count::AttemptsFailed);
    plan.provider.tally.failed();
}

/// Makes the call with an account's token; with the next one when the upstream takes this one no
/// longer, which costs nothing there.
#[inline(never)]
fn call_as<U: Upstream>(
    core: &Core,
    up: &mut U,
    plan: &Plan<'_>,
    account: &Account,
    sending: Sending<'_>,
    note: &mut Note,
) -> Result<U::Reply, Failure> {
    let mut may_repeat = sending.source.is_none();
    loop {
        let left = left(core, plan, note);
        // One that gets no token is an attempt as well.
        let token = tokens::get(core, up, plan.provider, account, left)
            .inspect_err(|_| count(core, plan, note))?;
        let reply = call(core, up, plan, Some(token.expose()), sending, note)?;
        let is_old = reply.status() == 401 && core.tokens.refused(account, &token, core.now());
        note.token = Some(token);
        if !is_old || !may_repeat || up.has_left() {
            return Ok(reply);
        }
        may_repeat = false;
    }
}

/// Makes the call.
fn call<U: Upstream>(
    core: &Core,
    up: &mut U,
    plan: &Plan<'_>,
    secret: Option<&str>,
    sending: Sending<'_>,
    note: &mut Note,
) -> Result<U::Reply, Failure> {
    let headers = headers(plan, secret);
    let timeouts = begin(core, plan, &headers, secret, sending, note);
    let result = up.call(&call_of(plan, timeouts, &headers, sending));
    noted(core, &result, note);
    result
}

/// What goes up in front of the body.
pub(super) fn headers<'p>(plan: &'p Plan<'_>, secret: Option<&'p str>) -> UpHeaders<'p> {
    UpHeaders(Fields::Callers(Forwarded {
        head: plan.head,
        provider: plan.provider,
        endpoint: plan.endpoint,
        destination: plan.destination,
        secret,
    }))
}

/// An attempt begins: it is counted and traced, and has what is left of the time.
pub(super) fn begin(
    core: &Core,
    plan: &Plan<'_>,
    headers: &UpHeaders<'_>,
    secret: Option<&str>,
    sending: Sending<'_>,
    note: &mut Note,
) -> Timeouts {
    let timeouts = timeouts(core, plan, note);
    count(core, plan, note);
    if let Some(trace) = &mut note.trace {
        trace.attempt(core, note.attempts, plan, headers, secret, sending.body);
    }
    timeouts
}

/// Those of the model, or else its provider's.
fn timeouts_of(plan: &Plan<'_>) -> Timeouts {
    let model = plan.provider.models.get(plan.target.model_served);
    model.and_then(|model| model.timeouts).unwrap_or(plan.provider.timeouts)
}

/// The limits of an attempt that begins now.
pub(super) fn timeouts(core: &Core, plan: &Plan<'_>, note: &Note) -> Timeouts {
    let mut timeouts = timeouts_of(plan);
    // What was spent on a token, and on the attempts before, is gone.
    if timeouts.total_ms > 0 {
        timeouts.total_ms = (left(core, plan, note).as_millis() as u64).max(1);
    }
    timeouts
}

/// One more attempt.
pub(super) fn count(core: &Core, plan: &Plan<'_>, note: &mut Note) {
    note.attempts += 1;
    core.metrics.count(Count::Attempts);
    plan.provider.tally.attempted();
}

/// What an upstream is asked.
pub(super) fn call_of<'c>(
    plan: &'c Plan<'_>,
    timeouts: Timeouts,
    headers: &'c UpHeaders<'c>,
    sending: Sending<'c>,
) -> Call<'c> {
    Call {
        provider: plan.provider,
        timeouts,
        method: plan.head.method(),
        url: &plan.url,
        headers,
        body: sending.body,
        source: sending.source,
        endpoint: plan.endpoint,
        model_served: plan.target.model_served,
        stream: plan.stream,
        alt_sse: plan.alt_sse,
        wants_usage: plan.wants_usage,
        upgrade: plan.upgrade,
        waiting: sending.waiting,
    }
}

/// What came of the attempt is traced.
pub(super) fn noted<R: Reply>(core: &Core, result: &Result<R, Failure>, note: &mut Note) {
    if let Some(trace) = &mut note.trace {
        match result {
            Ok(reply) => trace.replied(core, reply.status(), reply.headers()),
            Err(failure) => trace.ended(core, failure),
        }
    }
}
