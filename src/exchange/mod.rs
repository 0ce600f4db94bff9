//! The data path: one downstream request from its head to its note.
//!
//! `serve` is the whole life of a request and reads from top to bottom. It is generic over its two
//! ends and its clock, each with exactly two implementations: the real one in `io` and the
//! simulated one in the tests. Nothing here names a socket, a file or a library that does.
//!
//! Before the first byte goes downstream (the commit) any failure may become a retry or an error
//! response. After it never: the stream ends with its dialect's error event, or visibly broken.

mod affinity;
mod answer;
mod api;
mod attempt;
mod awaited;
mod batch;
mod caller;
mod cascade;
mod counting;
mod crowd;
mod early;
mod errand;
mod guesses;
mod hedge;
mod incoming;
mod lists;
mod mask;
mod nameless;
mod note;
pub mod office;
mod pace;
mod packed;
mod pool;
mod recorder;
mod refusals;
mod relay;
mod session;
mod settlement;
mod stumbles;
mod tokens;
mod trace;
mod trial;
mod tunnel;
mod turns;
mod upload;
mod uses;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use crate::admin::{self, Reader};
use crate::dialect::ask::{self, AskError};
use crate::dialect::endpoint::{Endpoint, ModelPlace};
use crate::dialect::listed::Listed;
use crate::dialect::live;
use crate::dialect::path::{self, PathError, Route};
use crate::dialect::refusal::Refusal;
use crate::dialect::{Dialect, Family};
use crate::failure::{Failure, Unstored};
use crate::metrics::{Gauge, Metrics};
use crate::route::channel::Destination;
use crate::route::listing::Live;
use crate::route::plan::{self, Need, RouteError, Target};
use crate::route::snapshot::{KeyError, Provider, Snapshot, Timeouts};
use crate::wire::coding::CodingError;
use crate::wire::head::Head;
use crate::wire::multipart::FormError;
use crate::wire::websocket::{self, HandshakeError};

pub use api::{Api, ApiRequest};
pub use attempt::UpHeaders;
pub use awaited::Awaited;
use awaited::Awaiting;
use caller::caller_of;
use crowd::{Crowd, Full, SCARCE, Scarce, Share};
use early::Early;
pub use early::Waiting;
pub use errand::Errand;
use guesses::Guesses;
pub use guesses::network_of;
pub use hedge::{Beside, Hedge, Raced, speaks};
use incoming::{Incoming, Load};
pub use incoming::{Source, SourceBroken, Spool};
pub use lists::ListFailure;
use lists::Lists;
pub use note::{Note, RequestId};
pub use office::{Desk, Unanswered, Work, through};
use pace::Paces;
pub use pool::{Pool, Seen};
pub use recorder::{Recording, Recordings};
pub use refusals::{Refusals, Refused};
use session::Body;
pub use session::{Arrival, Session, turned_away};
pub use settlement::Books;
pub use stumbles::{Stumble, Stumbles};
use tokens::Tokens;
use trace::Trace;
pub use trial::{Question, Trial};
use uses::Uses;

/// The caller's end of a connection, as bytes.
pub trait Downstream {
    /// Reads some bytes, waiting until `until` at most. `Ok(0)`: the downstream ended its side.
    fn read(&mut self, buf: &mut [u8], until: Instant) -> Result<usize, Stop>;
    /// Reads what is there; `Ok(None)`: nothing now.
    fn read_now(&mut self, buf: &mut [u8]) -> Result<Option<usize>, Stop>;
    /// Writes what there is room for now, and says how much.
    fn write_now(&mut self, bytes: &[u8]) -> Result<usize, Stop>;
    /// Writes all of `bytes`; fails when the downstream makes no progress for too long.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Stop>;
    /// The address of its other end, where it can be told.
    fn peer(&self) -> Option<IpAddr>;
    /// Whether it speaks TLS with us.
    fn is_secure(&self) -> bool;
    /// Ends our side, so that the downstream sees the end of the last answer.
    fn shut_write(&mut self);
    /// Resets the connection when it is dropped: an end that nobody can take for a whole answer.
    fn abort(&mut self);
}

/// Why bytes no longer flow downstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Nothing happened until the deadline.
    TimedOut,
    /// The downstream has gone.
    Gone,
    /// The process ends and waits for nobody any longer.
    ShuttingDown,
}

/// Something that can be called.
pub trait Upstream {
    /// What a call yields.
    type Reply: Reply;
    /// Whether the downstream is known to have left.
    fn has_left(&mut self) -> bool;
    /// Waits a little, for what others will bring. Whether the downstream is still there.
    fn pause(&mut self, pause: Duration) -> bool;
    /// Has work done that would block a worker, and waits until it is. See [`office::ask`].
    fn consult(&mut self, desk: Desk, work: Work) -> Result<(), Unanswered>;
    /// A place on disk for bytes that memory should not hold. It is empty, and goes when dropped.
    fn spool(&mut self) -> Result<Box<dyn Spool>, Unstored>;
    /// Makes one attempt: sends the request and waits for the head of the reply.
    fn call(&mut self, call: &Call<'_>) -> Result<Self::Reply, Failure>;
    /// The same, and one beside it when it is silent for too long: the first that speaks counts.
    fn race(&mut self, call: &Call<'_>, hedge: &dyn Hedge) -> Raced<Self::Reply>;
    /// Makes a call of our own, and reads its reply to the end.
    fn fetch(&mut self, fetch: &Fetch<'_>) -> Result<Fetched, Failure>;
}

/// A call of our own, in nobody's name.
pub struct Fetch<'a> {
    /// Whose proxy and limits of time count.
    pub provider: &'a Provider,
    /// `GET` or `POST`.
    pub method: &'a str,
    /// Full URL.
    pub url: &'a str,
    /// Header fields, without `host` and `content-length`.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body of a `POST`.
    pub body: &'a [u8],
    /// A longer reply is none.
    pub bytes_max: usize,
    /// From its beginning to its reply's end; a slower one is none.
    pub ms_max: u64,
}

/// The reply to a [`Fetch`].
pub struct Fetched {
    /// HTTP status.
    pub status: u16,
    /// All of the body.
    pub body: Vec<u8>,
}

/// A reply whose head is there and whose body may still be coming.
pub trait Reply {
    /// HTTP status, 200 or above.
    fn status(&self) -> u16;
    /// Every header field, names in lower case.
    fn headers(&self) -> impl Iterator<Item = (&str, &[u8])>;
    /// The declared length of the body.
    fn length(&self) -> Option<u64>;
    /// A piece of the body, or its end, is there without waiting.
    fn is_ready(&mut self) -> bool;
    /// The downstream has left: whether the body may be read on without it, for a while.
    fn reads_on(&mut self) -> bool;
    /// The downstream is known to have left, and the body is read on.
    fn is_orphaned(&self) -> bool;
    /// The next piece of the body, as it came; an empty one is its proper end.
    fn piece(&mut self) -> Result<&[u8], Failure>;
    /// Something has just gone downstream. Silence of that length towards it ends [`Reply::piece`]
    /// with [`Cause::Quiet`], after which it may be called again.
    ///
    /// [`Cause::Quiet`]: crate::failure::Cause::Quiet
    fn keep_alive(&mut self, every: Duration);
    /// The connection itself, once it has switched protocols.
    fn pipe(&mut self) -> Option<&mut dyn Pipe>;
}

/// The upstream's end of a WebSocket, as bytes.
pub trait Pipe {
    /// Reads what is there; `Ok(None)`: nothing now.
    fn read(&mut self, buf: &mut [u8]) -> Result<Option<usize>, Stop>;
    /// Writes what there is room for now, and says how much. No bytes: what was held back leaves.
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Stop>;
    /// Waits until either end, the downstream's too, has moved: when nothing could be read from
    /// it, or written to it, that now may be.
    fn wait(&mut self, until: Instant);
    /// Whether the downstream has ended its side, also behind bytes that nobody has read.
    fn has_left(&mut self) -> bool;
    /// Lets others have their turn now and then.
    fn give_way(&mut self);
    /// A mask for a frame, which nobody can guess.
    fn mask(&mut self) -> [u8; 4];
}

/// The time, as the core sees it.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Instant;
    /// Milliseconds since 1970, UTC.
    fn unix_ms(&self) -> i64;
}

/// What an attempt sends.
pub struct Call<'a> {
    /// Who is called.
    pub provider: &'a Provider,
    /// Its limits in time, less what was spent on attempts before.
    pub timeouts: Timeouts,
    /// HTTP method.
    pub method: &'a str,
    /// Full URL.
    pub url: &'a str,
    /// Header fields, without `host` and `content-length`.
    pub headers: &'a UpHeaders<'a>,
    /// The body, with the model's name as the upstream knows it.
    pub body: &'a [u8],
    /// A body that is not held: it is read from here, and `body` is empty.
    pub source: Option<&'a dyn Source>,
    /// The call, for the built-in channel.
    pub endpoint: &'static Endpoint,
    /// The model that the upstream is asked for.
    pub model_served: &'a str,
    /// The downstream asked for a stream.
    pub stream: bool,
    /// `alt=sse` was in the query.
    pub alt_sse: bool,
    /// The upstream is asked for usage in the stream.
    pub wants_usage: bool,
    /// A WebSocket is wanted, with these subprotocols.
    pub upgrade: Option<&'a str>,
    /// Who is told while the reply's first byte is awaited.
    pub waiting: Option<&'a dyn Waiting>,
}

/// What all exchanges share.
pub struct Core {
    snapshot: RwLock<Arc<Snapshot>>,
    // Counts the tables that were put in place.
    swaps: AtomicU64,
    /// Counters and gauges.
    pub metrics: Arc<Metrics>,
    clock: Box<dyn Clock>,
    books: Option<Arc<Books>>,
    api: OnceLock<Arc<dyn Api>>,
    draining: AtomicBool,
    cut: AtomicBool,
    awaiting: Awaiting,
    ids: AtomicU64,
    /// What is known of credentials.
    pub pool: Pool,
    /// What is left of streams that ended badly.
    pub recordings: Recordings,
    id_prefix: u64,
    tokens: Tokens,
    // How soon upstreams begin to answer.
    paces: Paces,
    lists: Lists,
    /// What was refused lately.
    pub refusals: Refusals,
    /// Attempts that came to nothing lately.
    pub stumbles: Stumbles,
    // What administrators want to know of upstreams.
    asked: Mutex<Vec<Errand>>,
    // Who takes most of what runs out.
    crowds: [Arc<Crowd>; SCARCE],
    // Who sends wrong keys.
    guesses: Guesses,
    // When keys are used.
    uses: Uses,
}

impl Core {
    /// A core that begins with `snapshot`. `id_prefix` makes request ids differ between processes.
    pub fn new(mut snapshot: Snapshot, clock: Box<dyn Clock>, id_prefix: u64) -> Core {
        let pool = Pool::default();
        pool.adopt(&mut snapshot);
        Core {
            snapshot: RwLock::new(Arc::new(snapshot)),
            swaps: AtomicU64::new(0),
            metrics: Arc::new(Metrics::default()),
            clock,
            books: None,
            api: OnceLock::new(),
            draining: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            crowds: Default::default(),
            awaiting: Awaiting::default(),
            guesses: Guesses::default(),
            uses: Uses::default(),
            ids: AtomicU64::new(0),
            pool,
            recordings: Recordings::default(),
            id_prefix,
            tokens: Tokens::default(),
            paces: Paces::default(),
            lists: Lists::default(),
            refusals: Refusals::default(),
            stumbles: Stumbles::default(),
            asked: Mutex::default(),
        }
    }

    /// The same, with books: without any, nothing is counted, limited or charged.
    pub fn with_books(self, books: Arc<Books>) -> Core {
        self.pool.keep_in(books.clone());
        Core { books: Some(books), ..self }
    }

    /// From now on `api` answers the administration interface. Once is enough.
    pub fn administer(&self, api: Arc<dyn Api>) {
        assert!(self.api.set(api).is_ok(), "there is one interface");
    }

    /// Milliseconds since 1970, by the core's clock.
    pub fn unix_ms(&self) -> i64 {
        self.clock.unix_ms()
    }

    /// Why requests are better sent elsewhere now.
    fn unready(&self) -> Option<&'static str> {
        let ledger = self.books.as_ref().and_then(|books| books.ledger.as_ref());
        match ledger {
            _ if self.is_draining() => Some("draining\n"),
            Some(ledger) if !ledger.is_healthy() => Some("usage cannot be written\n"),
            _ => None,
        }
    }

    /// The tables of now; an exchange keeps the ones with which it began.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.read().clone()
    }

    /// Measures what nobody counts, once a second: rows that wait for the books.
    pub fn measure(&self) {
        self.tick();
        let Some(books) = &self.books else { return };
        let Some(ledger) = &books.ledger else { return };
        self.metrics.measure(Gauge::LedgerRows, ledger.taken() as i64);
        for (user, day, cost) in ledger.foreign() {
            books.accounts.spend(user, day, cost);
        }
    }

    /// Puts new tables in place of the old ones, one after the other.
    pub fn swap(&self, mut snapshot: Snapshot) {
        self.pool.adopt(&mut snapshot);
        uses::carry_on(&self.snapshot(), &mut snapshot);
        if let Some(ledger) = self.books.as_ref().and_then(|books| books.ledger.as_ref()) {
            ledger.retain(snapshot.retention);
        }
        let new = Arc::new(snapshot);
        let old = std::mem::replace(&mut *self.snapshot.write(), new.clone());
        self.tokens.keep_those_of(&new);
        self.lists.swapped(&old, &new);
        self.swaps.fetch_add(1, Ordering::Release);
    }

    fn live(&self) -> Arc<Live> {
        self.lists.live()
    }

    /// Every upstream's list of models is fetched anew.
    pub fn renew_lists(&self) {
        self.lists.renew();
    }

    /// From now on every answer closes its connection.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the process is shutting down.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// A request is awaited from one more connection while what comes back lives.
    pub fn await_one(&self) -> Awaited {
        self.awaiting.one()
    }

    /// How many such connections there are.
    pub fn awaited(&self) -> usize {
        self.awaiting.count()
    }

    /// From now on requests are refused: those that are open end at their next wait.
    pub fn cut(&self) {
        self.drain();
        self.cut.store(true, Ordering::SeqCst);
    }

    /// Whether requests that are open have to end.
    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// Now, by the core's clock.
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// The list of models that a provider's upstream gives, in the order of the ids.
    pub fn pull<U: Upstream>(
        &self,
        provider: usize,
        up: &mut U,
    ) -> Result<Vec<Listed>, ListFailure> {
        lists::fetch(self, up, &self.snapshot().providers[provider])
    }

    fn next_id(&self) -> RequestId {
        RequestId::new(self.id_prefix, self.ids.fetch_add(1, Ordering::Relaxed))
    }
}

/// What becomes of the connection after an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another request may follow.
    Again,
    /// Nothing came for a while: the connection can wait without a coroutine.
    Park,
    /// It ends.
    Close,
}

/// How an exchange ended before its proper end.
#[derive(Debug)]
pub enum Ended {
    /// Nothing was sent: the downstream is told why.
    Refused(Refusal),
    /// The answer broke off after its first byte.
    Cut,
    /// The downstream was told this within its session, which ends.
    Told(Refusal),
    /// The downstream left.
    Gone,
}

macro_rules! refused_by {
    ($($error:ty),*) => {
        $(impl From<$error> for Ended {
            fn from(error: $error) -> Ended {
                Ended::Refused(Refusal::from(error))
            }
        })*
    };
}

refused_by!(
    Refusal,
    PathError,
    AskError,
    FormError,
    HandshakeError,
    CodingError,
    Unstored,
    KeyError
);

/// Serves the next request of a connection. Every exit passes through the note, which records
/// itself when it is dropped, also while a panic unwinds.
pub fn serve<D: Downstream, U: Upstream>(
    core: &Core,
    session: &mut Session<D>,
    up: &mut U,
) -> Next {
    let swaps = core.swaps.load(Ordering::Acquire);
    let mut snapshot = core.snapshot();
    let head = match session.read_head(core, &snapshot.limits) {
        Arrival::Head(head) => head,
        Arrival::Idle => return Next::Park,
        Arrival::Closed => return Next::Close,
        Arrival::Broken(refusal) => {
            let was_answered = tell_broken(core, snapshot, session, refusal);
            return session.next(core, was_answered);
        }
    };
    // What was changed while the connection was silent counts for this request already.
    if core.swaps.load(Ordering::Acquire) != swaps {
        snapshot = core.snapshot();
    }
    let _in_flight = core.metrics.clone().hold(Gauge::RequestsInFlight, 1);
    session.awaited = None;
    // What is left on the connection is waited for by nobody's quota or clock.
    let was_answered = exchange(core, snapshot, session, up, &head);
    session.next(core, was_answered)
}

/// One exchange with its note, which has gone when this returns. Whether it had an answer.
fn exchange<D: Downstream, U: Upstream>(
    core: &Core,
    snapshot: Arc<Snapshot>,
    session: &mut Session<D>,
    up: &mut U,
    head: &Head,
) -> bool {
    let mut note = Note::begin(core, snapshot.clone(), head.method(), path::split(head.target()).0);
    note.trace = begin_trace(core, &snapshot, Some(head));
    note.allow_origin = admin::allowed_origin(&snapshot, head);
    let family = path::family(head.target(), &|name| head.headers.has(name));
    session.speaks(family);
    let mut result = answer(core, &snapshot, session, up, head, &mut note);
    if let Err(Ended::Refused(refusal)) = result {
        result = Err(Ended::Refused(refusal.at(head.authority())));
    }
    session.conclude(core, Some(head), family, result, &mut note)
}

/// The same for what is no request. Its frame, with a note of its own, stays out of its caller's.
#[inline(never)]
fn tell_broken<D: Downstream>(
    core: &Core,
    snapshot: Arc<Snapshot>,
    session: &mut Session<D>,
    refusal: Refusal,
) -> bool {
    let trace = begin_trace(core, &snapshot, None);
    let mut note = Note::begin(core, snapshot, "", "");
    note.trace = trace;
    session.conclude(core, None, Family::Openai, Err(refusal.into()), &mut note)
}

/// What gathers the logs of an exchange, if there are to be any.
fn begin_trace(core: &Core, snapshot: &Snapshot, head: Option<&Head>) -> Option<Box<Trace>> {
    if !snapshot.logging.logs_any() {
        return None;
    }
    Trace::begin(core, snapshot, head)
}

/// Whether one more request is served, and one more of this user's.
fn find_room(core: &Core, note: &mut Note) -> Result<(), Refusal> {
    let mut place = Share::new(core, Scarce::Requests);
    place.take(core, note, 1).map_err(Full::refusal)?;
    note.place = Some(place);
    Ok(())
}

/// The steps between a head and a reply, each of which may refuse.
fn answer<D: Downstream, U: Upstream>(
    core: &Core,
    snapshot: &Arc<Snapshot>,
    session: &mut Session<D>,
    up: &mut U,
    head: &Head,
    note: &mut Note,
) -> Result<(), Ended> {
    let reader = Reader {
        peer: &|| session.down.peer(),
        caller: &|| caller_of(core, snapshot, session, head),
    };
    if let Some(page) = admin::page(&core.metrics, core.unready(), snapshot, head, &reader) {
        return session.send_page(core, head, page?, note);
    }
    if api::is_ours(head.target()) {
        return api::answer(core, snapshot, session, up, head, note);
    }
    let caller = caller_of(core, snapshot, session, head)?;
    let user = caller.user;
    note.called_by(Some(caller));
    if core.is_cut() {
        return Err(Refusal::shutting_down().into());
    }
    find_room(core, note)?;
    let is_provider = |name: &str| snapshot.provider_named(name).is_some();
    if websocket::is_asked(head)
        && let Some(call) = live::parse(head.target(), &is_provider)?
    {
        return tunnel::answer(core, snapshot, session, up, head, note, &call);
    }
    if let Some(page) = admin::models(snapshot, &|| core.live(), user, session.family(), head) {
        return session.send_page(core, head, page?, note);
    }
    let route = match path::parse(head.method(), head.target(), &is_provider) {
        Ok(route) => route,
        Err(error) => return nameless::answer(core, snapshot, session, up, head, note, error),
    };
    note.endpoint = route.endpoint.name;
    if route.endpoint.model == ModelPlace::Multipart && !is_json(head) {
        return nameless::form(core, snapshot, session, up, head, note, &route);
    }
    let mut body = held_body(core, session, up, head, note)?;
    let ask = ask::scan_deployed(route.endpoint, &mut body.bytes, route.deployment.as_deref())?;
    let asked = match route.endpoint.model {
        ModelPlace::Path => route.model.clone().map(Cow::into_owned),
        ModelPlace::Resource => ask.model.clone().map(path::normal_name),
        _ => ask.model.clone(),
    };
    let asked = asked.unwrap_or_default();
    let scope = scope_of(snapshot, head, &route, &asked, note)?;
    let target = if asked.is_empty() {
        let dialect = route.endpoint.dialect;
        nameless::target(snapshot, scope, head, note, dialect, Need::Every)?
    } else {
        target(snapshot, scope, &asked, note, route.endpoint.dialect)?
    };
    let all = plan::targets(snapshot, scope, &asked, |place| core.pool.turn(place));
    let providers = all.iter().map(|one| one.provider).chain([target.provider]);
    admit_others(snapshot, user, providers, &ask.others)?;
    if !all.is_empty() {
        return cascade::answer(core, snapshot, session, up, head, &route, &ask, &all, body, note);
    }
    let destination = admit(snapshot, user, &target, route.endpoint)?;
    let provider = &snapshot.providers[target.provider];
    let plan = attempt::Plan::new(provider, destination, head, &route, &target, &ask);
    plan.rewrite(&ask, &mut body.bytes)?;
    carry(core, snapshot, session, up, head, &plan, Load::Held(body), note)
}

/// The provider that the path names, or that made what is asked after.
fn scope_of(
    snapshot: &Snapshot,
    head: &Head,
    route: &Route<'_>,
    asked: &str,
    note: &mut Note,
) -> Result<Option<usize>, Refusal> {
    let scope = route.scope.as_deref().and_then(|name| snapshot.provider_named(name));
    if !plan::is_vendors(snapshot, scope, asked, route.endpoint) {
        return Ok(scope);
    }
    nameless::provider(snapshot, scope, head, note, route.endpoint.dialect, Need::Any).map(Some)
}

/// The whole body, unpacked.
fn held_body<D: Downstream, U: Upstream>(
    core: &Core,
    session: &mut Session<D>,
    up: &mut U,
    head: &Head,
    note: &mut Note,
) -> Result<Body, Ended> {
    let mut body = session.read_body(core, head, note)?;
    if head.headers.has("content-encoding") {
        packed::unpack(core, up, head, &mut body, note)?;
    }
    note.bytes_in = body.bytes.len() as u64;
    if let Some(trace) = &mut note.trace {
        trace.request_body(&body.bytes);
    }
    Ok(body)
}

/// Calls that take a form take JSON too, with addresses in the place of files. Of two types an
/// upstream could believe the other one.
fn is_json(head: &Head) -> bool {
    let mut types = head.headers.all("content-type");
    let (Some(content_type), None) = (types.next(), types.next()) else { return false };
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

/// The way up and the way down: the last part of every request that has an upstream.
#[allow(clippy::too_many_arguments)]
fn carry<D: Downstream, U: Upstream>(
    core: &Core,
    snapshot: &Snapshot,
    session: &mut Session<D>,
    up: &mut U,
    head: &Head,
    plan: &attempt::Plan<'_>,
    load: Load,
    note: &mut Note,
) -> Result<(), Ended> {
    settlement::admit(core, snapshot, up, std::slice::from_ref(plan), note)?;
    let (held, incoming, early) = match load {
        Load::Held(body) => {
            (Some(body), None, Early::of(core, session, std::slice::from_ref(plan), note))
        }
        Load::Coming { begun, length, form } => {
            (None, Some(Incoming::new(core, session, begun, length, form)), None)
        }
    };
    let bytes = held.as_ref().map_or(&[][..], |body| &body.bytes);
    if plan.endpoint.counts_tokens {
        return counting::answer(core, snapshot, session, up, head, plan, bytes, note);
    }
    let sending = attempt::Sending {
        source: incoming.as_ref().map(|incoming| incoming as &dyn Source),
        waiting: early.as_ref().map(|early| early as &dyn Waiting),
        ..attempt::Sending::held(snapshot, bytes)
    };
    let result = attempt::ask(core, up, plan, sending, note);
    drop(held);
    if let Some(early) = early {
        early.end(note);
    }
    if let Some(incoming) = incoming {
        let (bytes, broken) = incoming.outcome();
        note.bytes_in = bytes;
        // What is wrong with it counts for more than what the upstream made of its half.
        if let Some(refusal) = broken {
            return Err(refusal.into());
        }
    }
    relay::relay(core, snapshot, session, head, plan, result?, note)
}

/// Finds who serves the model: of several targets the first that the caller may ask for it.
fn target<'t>(
    snapshot: &'t Snapshot,
    scope: Option<usize>,
    asked: &'t str,
    note: &mut Note,
    dialect: Dialect,
) -> Result<Target<'t>, Refusal> {
    note.model_asked = asked.to_owned();
    let user = note.user.unwrap_or_default();
    let may = |target: &Target<'_>| plan::admit(snapshot, user, target, dialect).is_ok();
    let target = plan::first_that(snapshot, scope, asked, may);
    let target = target.map_err(|error| about(error, asked))?;
    note.provider = Some(target.provider);
    note.model_served = target.model_served.to_owned();
    Ok(target)
}

/// The last gates of a target; whether it may be called without a model was asked before.
fn admit<'s>(
    snapshot: &'s Snapshot,
    user: usize,
    target: &Target<'_>,
    endpoint: &Endpoint,
) -> Result<&'s Destination, Refusal> {
    let provider = &snapshot.providers[target.provider];
    if let (true, Some(found)) =
        (target.model_asked.is_empty(), provider.destination(endpoint.dialect))
    {
        return Ok(found);
    }
    let admitted = plan::admit_call(snapshot, user, target, endpoint);
    if admitted.is_ok() && endpoint.is_batch() {
        plan::admit_unmetered(snapshot, user)?;
    }
    admitted.map_err(|error| about(error, target.model_asked))
}

/// Models to fall back to, or for a tool to ask, go up as they stand: who is not permitted to call
/// them by those names has not to name them.
fn admit_others(
    snapshot: &Snapshot,
    user: usize,
    mut providers: impl Iterator<Item = usize>,
    names: &[String],
) -> Result<(), Refusal> {
    let may = |provider: usize, name: &String| snapshot.permits(user, provider, name);
    let forbidden = providers
        .find_map(|provider| names.iter().find(|name| !may(provider, name)))
        .map(|name| about(RouteError::Forbidden, name));
    forbidden.map_or(Ok(()), Err)
}

fn about(error: RouteError, model: &str) -> Refusal {
    Refusal::from(error).about_model(model)
}
