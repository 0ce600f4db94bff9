//! One attempt at an upstream: a connection, kept or new, the request, the reply's head and pieces.

mod dial;
mod echoed;
mod race;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) use dial::{Hasty, now};
use echoed::Echoed;

use parking_lot::Mutex;

use crate::dialect::resource::PASSTHROUGH;
use crate::exchange::{
    Call, Desk, Fetch, Fetched, Hedge, Pipe, Raced, Reply, Spool, Unanswered, UpHeaders, Upstream,
    Work,
};
use crate::failure::{Cause, Failure, Phase, Sent, Unstored};
use crate::io::http::{self, Address, Incoming};
use crate::io::office::Office;
use crate::io::spool;
use crate::io::transport::{Opener, Pool, Pooled};
use crate::io::watch::Watch;
use crate::io::worker::{self, Timer};
use crate::limits;
use crate::metrics::{Count, Gauge, Held, Metrics};
use crate::route::fence::{self, Fence};
use crate::route::snapshot::{Provider, Timeouts};
use crate::wire::head::Headers;
use crate::wire::reply::{Framing, ReplyHead};
use crate::wire::sse;

/// The connections of one worker to upstreams, by the proxy that they go through and the fence that
/// they were opened within: who may not open one may not take a kept one either. They never meet
/// across workers: their descriptors belong to the worker's class.
#[derive(Default)]
pub struct Ways {
    list: Mutex<Vec<Arc<Way>>>,
}

struct Way {
    proxy: Option<String>,
    fence: Fence,
    opener: Opener,
    pool: Arc<Pool>,
}

impl Ways {
    /// A provider's way; made when it is first asked for.
    fn of(&self, provider: &Provider) -> Result<Arc<Way>, Failure> {
        let (proxy, fence) = (provider.proxy.as_deref(), provider.dial_fence());
        let mut list = self.list.lock();
        let is_its = |way: &&Arc<Way>| way.proxy.as_deref() == proxy && way.fence == fence;
        if let Some(way) = list.iter().find(is_its) {
            return Ok(way.clone());
        }
        let opener = Opener::new(proxy).map_err(|_| Failure {
            phase: Phase::Connect,
            sent: Sent::Nothing,
            cause: Cause::ProxyRefused,
            reused: false,
            after_ms: 0,
        })?;
        let proxy = proxy.map(str::to_owned);
        let way = Way { proxy, fence, opener, pool: Arc::default() };
        let way = Arc::new(way);
        list.push(way.clone());
        Ok(way)
    }

    /// Closes what has been idle for too long.
    pub fn sweep(&self) {
        let pools: Vec<_> = self.list.lock().iter().map(|way| way.pool.clone()).collect();
        pools.iter().for_each(|pool| pool.sweep());
    }

    /// Idle connections of this worker.
    pub fn idle(&self) -> usize {
        self.list.lock().iter().map(|way| way.pool.len()).sum()
    }
}

impl Way {
    /// A connection to whom the address names.
    fn connection(
        &self,
        url: &str,
        address: &Address<'_>,
        provider: &Provider,
        watch: &Watch,
    ) -> Result<Pooled, Failure> {
        if !provider.fence.lets_url(url) {
            return Err(watch.failure(Cause::Fenced));
        }
        if let Some(kept) = self.pool.take(address.secure, address.authority) {
            watch.reused();
            return Ok(kept);
        }
        let opened = self.opener.open(url);
        let opened = opened.map_err(|error| watch.failure(cause_of(&error)))?;
        Ok(Pooled::new(opened, &self.pool, address.secure, address.authority.into()))
    }
}

/// The upstream side of one downstream connection.
pub struct Caller {
    /// The worker of the connection.
    pub worker: usize,
    /// That worker's connections to upstreams.
    pub ways: Arc<Ways>,
    /// The downstream's socket, to see it leave while the upstream is silent; `None`: the call is
    /// nobody's but ours.
    pub downstream: Option<Arc<OwnedFd>>,
    /// Who does what would block the worker.
    pub office: Arc<Office>,
    /// Where calls under way are counted.
    pub metrics: Arc<Metrics>,
}

impl Caller {
    /// The only one of its process, on the only worker.
    pub fn alone(metrics: Arc<Metrics>) -> io::Result<Caller> {
        let office = Arc::new(Office::open()?);
        let ways = Arc::new(Ways::default());
        Ok(Caller { worker: 0, ways, downstream: None, metrics, office })
    }

    /// Counts a call that the fence stopped and tells the operator of it, since nobody else knows
    /// why; not of each, since there may be many.
    fn tell(&self, provider: &Provider, url: &str, failure: &Failure) {
        static TOLD_AT: Mutex<Option<Instant>> = Mutex::new(None);
        if failure.cause != Cause::Fenced {
            return;
        }
        self.metrics.count(Count::CallsFenced);
        let now = Instant::now();
        let pause = Duration::from_millis(limits::FENCE_TOLD_MS);
        let mut told_at = TOLD_AT.lock();
        if told_at.is_some_and(|at| now < at + pause) {
            return;
        }
        *told_at = Some(now);
        drop(told_at);
        let name = &provider.name;
        let (whose, url) = match &provider.proxy {
            Some(proxy) if provider.fence.lets_url(url) => ("its proxy ", proxy.as_str()),
            _ => ("", url),
        };
        let (host, why) = (fence::host_of(url), provider.fence.reason());
        log::warn!(
            target: "gproxy::fence",
            "{name} was not called: {whose}{host} leads to an address that it may not reach: {why}"
        );
    }
}

impl Upstream for Caller {
    type Reply = Answer;

    fn has_left(&mut self) -> bool {
        self.downstream.as_deref().is_some_and(worker::has_left)
    }

    fn pause(&mut self, pause: Duration) -> bool {
        // Without a timer the caller's patience ends sooner.
        if let Ok(mut timer) = Timer::new(self.worker) {
            let _ = timer.sleep(pause);
        }
        !self.has_left()
    }

    fn consult(&mut self, desk: Desk, work: Work) -> Result<(), Unanswered> {
        self.office.wait(self.worker, desk, work)
    }

    fn spool(&mut self) -> Result<Box<dyn Spool>, Unstored> {
        spool::open(self.office.clone(), self.worker)
    }

    #[inline(never)]
    fn fetch(&mut self, fetch: &Fetch<'_>) -> Result<Fetched, Failure> {
        let _guard = self.metrics.clone().hold(Gauge::UpstreamInFlight, 1);
        let Fetch { provider, method, url, headers, body, bytes_max, ms_max } = *fetch;
        let way = self.ways.of(provider)?;
        let timeouts = Timeouts { total_ms: ms_max.max(1), ..provider.timeouts };
        let fence = provider.dial_fence();
        let watch = Watch::begin(self.worker, fence, self.downstream.clone(), timeouts, None);
        let _attached = Attached(watch.clone());
        let malformed = || watch.failure(Cause::Malformed);
        let address = Address::of(url).ok_or_else(malformed)?;
        let connection = way.connection(url, &address, provider, &watch);
        let connection = connection.inspect_err(|failure| self.tell(provider, url, failure))?;
        let call = Call {
            provider,
            timeouts,
            method,
            url,
            headers: &UpHeaders::own(headers),
            body,
            source: None,
            endpoint: &PASSTHROUGH.endpoint,
            model_served: "",
            stream: false,
            alt_sse: false,
            wants_usage: false,
            upgrade: None,
            waiting: None,
        };
        let (head, mut incoming) = http::call(connection, &address, &call, watch.clone())?;
        let mut body = Vec::new();
        loop {
            match incoming.piece()? {
                [] => return Ok(Fetched { status: head.status, body }),
                piece if body.len() + piece.len() > bytes_max => return Err(malformed()),
                piece => body.extend_from_slice(piece),
            }
        }
    }

    fn call(&mut self, call: &Call<'_>) -> Result<Answer, Failure> {
        let hold = || self.metrics.clone().hold(Gauge::UpstreamInFlight, 1);
        if call.provider.is_echo() {
            return echoed::answer(self, call, hold());
        }
        if let Some(protocols) = call.upgrade {
            let guard = hold();
            let dialled = dial::dial(self, call, protocols, guard);
            return dialled.inspect_err(|failure| self.tell(call.provider, call.url, failure));
        }
        self.http(call)
    }

    #[inline(never)]
    fn race(&mut self, call: &Call<'_>, hedge: &dyn Hedge) -> Raced<Answer> {
        if call.provider.is_echo() || call.upgrade.is_some() {
            return Raced::alone(self.call(call));
        }
        race::race(self, call, hedge)
    }
}

impl Caller {
    /// One attempt over HTTP.
    fn http(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        let guard = self.metrics.clone().hold(Gauge::UpstreamInFlight, 1);
        let way = self.ways.of(call.provider)?;
        let drain = call.provider.drain.map(|drain| (drain, self.metrics.clone()));
        let downstream = self.downstream.clone();
        let fence = call.provider.dial_fence();
        let watch = Watch::begin(self.worker, fence, downstream, call.timeouts, drain);
        let attached = Attached(watch.clone());
        let malformed = || watch.failure(Cause::Malformed);
        let address = Address::of(call.url).ok_or_else(malformed)?;
        let connection = way.connection(call.url, &address, call.provider, &watch);
        let connection =
            connection.inspect_err(|failure| self.tell(call.provider, call.url, failure))?;
        let (head, incoming) = http::call(connection, &address, call, watch.clone())?;
        let_live(call, &head, &watch);
        Ok(Answer::of(head, incoming, attached, guard))
    }
}

/// A stream is cut by silence alone, also one that nobody here has asked for in so many words.
fn let_live(call: &Call<'_>, head: &ReplyHead, watch: &Watch) {
    if call.stream || head.headers.get("content-type").is_some_and(sse::is_type) {
        watch.streams();
    }
}

/// What an error of ureq's means when no transport noted a cause.
fn cause_of(error: &ureq::Error) -> Cause {
    match error {
        ureq::Error::HostNotFound => Cause::NoSuchHost,
        ureq::Error::ConnectionFailed => Cause::Unreachable,
        ureq::Error::Tls(_) | ureq::Error::TlsRequired => Cause::TlsRefused,
        ureq::Error::ConnectProxyFailed(_) | ureq::Error::InvalidProxyUrl => Cause::ProxyRefused,
        ureq::Error::Timeout(_) => Cause::TimedOut,
        ureq::Error::Io(error) => match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => Cause::Malformed,
            _ => Cause::Disconnected,
        },
        _ => Cause::Malformed,
    }
}

/// A reply, from an upstream or from the built-in channel.
pub struct Answer {
    status: u16,
    fields: Fields,
    length: Option<u64>,
    body: Body,
    _guard: Held,
}

enum Fields {
    None,
    /// Of the built-in channel.
    ContentType(&'static str),
    Spans(Headers),
}

enum Body {
    Http(Incoming, #[allow(dead_code)] Attached),
    Echo(Echoed),
    /// The refusal of a handshake, as far as it came.
    Held {
        bytes: Vec<u8>,
        is_read: bool,
        broken: Option<Failure>,
    },
    Pipe(Box<dyn Pipe>),
}

/// While it lives, its watch hangs on the coroutine, unless another one took the place.
struct Attached(Arc<Watch>);

impl Drop for Attached {
    fn drop(&mut self) {
        worker::detach(&self.0);
    }
}

impl Answer {
    fn of(head: ReplyHead, incoming: Incoming, attached: Attached, guard: Held) -> Answer {
        let length = match head.framing {
            Framing::Length(length) => Some(length),
            Framing::Chunked | Framing::UntilClose => None,
        };
        let (status, fields) = (head.status, Fields::Spans(head.headers));
        Answer { status, fields, length, body: Body::Http(incoming, attached), _guard: guard }
    }

    fn watch(&self) -> Option<&Watch> {
        match &self.body {
            Body::Http(incoming, _) => Some(incoming.watch()),
            Body::Echo(_) | Body::Held { .. } | Body::Pipe(_) => None,
        }
    }
}

impl Reply for Answer {
    fn status(&self) -> u16 {
        self.status
    }

    fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let (own, spans) = match &self.fields {
            Fields::None => (None, None),
            Fields::ContentType(value) => (Some(("content-type", value.as_bytes())), None),
            Fields::Spans(spans) => (None, Some(spans)),
        };
        own.into_iter().chain(spans.into_iter().flat_map(Headers::iter))
    }

    fn length(&self) -> Option<u64> {
        self.length
    }

    fn is_ready(&mut self) -> bool {
        match &mut self.body {
            Body::Http(incoming, _) => incoming.is_ready(),
            Body::Echo(echo) => echo.is_ready(),
            Body::Held { .. } | Body::Pipe(_) => true,
        }
    }

    fn reads_on(&mut self) -> bool {
        self.watch().is_some_and(|watch| watch.reads_on())
    }

    fn is_orphaned(&self) -> bool {
        self.watch().is_some_and(|watch| watch.is_orphaned())
    }

    fn piece(&mut self) -> Result<&[u8], Failure> {
        match &mut self.body {
            Body::Http(incoming, _) => incoming.piece(),
            Body::Echo(echo) => echo.piece(),
            Body::Held { bytes, is_read, broken } => {
                let is_read = std::mem::replace(is_read, true) || bytes.is_empty();
                match broken {
                    _ if !is_read => Ok(bytes),
                    Some(failure) => Err(*failure),
                    None => Ok(&[]),
                }
            }
            Body::Pipe(_) => Ok(&[]),
        }
    }

    fn keep_alive(&mut self, every: Duration) {
        match &self.body {
            Body::Http(body, _) => body.keep_alive(every),
            Body::Echo(_) | Body::Held { .. } | Body::Pipe(_) => {}
        }
    }

    fn pipe(&mut self) -> Option<&mut dyn Pipe> {
        match &mut self.body {
            Body::Pipe(pipe) => Some(&mut **pipe),
            Body::Http(..) | Body::Echo(_) | Body::Held { .. } => None,
        }
    }
}
