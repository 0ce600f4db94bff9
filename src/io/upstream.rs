//! One attempt at an upstream through ureq: open, send, response head, body reads.

mod dial;

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

pub(super) use dial::now;

use bytes::Bytes;
use parking_lot::Mutex;
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use ureq::{Agent, SendBody};

use crate::dialect::echo;
use crate::exchange::{Call, Desk, Pipe, Reply, Source, SourceBroken, Unanswered, Upstream, Work};
use crate::failure::{Cause, Failure, Phase, Sent};
use crate::io::direct::{self, Address, Direct, takes_body};
use crate::io::office::Office;
use crate::io::resolver::Stub;
use crate::io::transport::{Pool, Pooling};
use crate::io::watch::{End, Watch};
use crate::io::worker::{self, Peek, Timer};
use crate::limits;
use crate::metrics::{Gauge, Held, Metrics};
use crate::wire::head::Headers;
use crate::wire::reply::{self, Framing};

/// Room for the values of a request's header fields, at first.
const VALUES_BYTES: usize = 1_024;

/// The agents of one worker, one for each proxy in use. Agents never meet across workers: their
/// connections belong to the worker's descriptor class.
#[derive(Default)]
pub struct Agents {
    list: Mutex<Vec<Arc<Entry>>>,
}

struct Entry {
    proxy: Option<String>,
    agent: Agent,
    pool: Arc<Pool>,
}

impl Agents {
    /// The agent that goes through `proxy`; made when it is first asked for.
    fn through(&self, proxy: Option<&str>) -> Result<Arc<Entry>, Failure> {
        let mut list = self.list.lock();
        if let Some(entry) = list.iter().find(|entry| entry.proxy.as_deref() == proxy) {
            return Ok(entry.clone());
        }
        let pool = Arc::new(Pool::default());
        let agent = agent(proxy, pool.clone())?;
        let proxy = proxy.map(str::to_owned);
        let entry = Arc::new(Entry { proxy, agent, pool });
        list.push(entry.clone());
        Ok(entry)
    }

    /// Closes what has been idle for too long.
    pub fn sweep(&self) {
        let pools: Vec<_> = self.list.lock().iter().map(|entry| entry.pool.clone()).collect();
        pools.iter().for_each(|pool| pool.sweep());
    }

    /// Idle connections of this worker.
    pub fn idle(&self) -> usize {
        self.list.lock().iter().map(|entry| entry.pool.len()).sum()
    }
}

/// Every option of ureq, spelled out. Time limits are the watch's, so ureq has none.
fn agent(proxy: Option<&str>, pool: Arc<Pool>) -> Result<Agent, Failure> {
    let proxy = proxy.map(ureq::Proxy::new).transpose().map_err(|_| Failure {
        phase: Phase::Connect,
        sent: Sent::Nothing,
        cause: Cause::ProxyRefused,
        reused: false,
        after_ms: 0,
    })?;
    let through_proxy = proxy.is_some();
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .https_only(false)
        .proxy(proxy)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .save_redirect_history(false)
        .user_agent("")
        .accept("")
        .accept_encoding("")
        .allow_non_standard_methods(true)
        .max_response_header_size(limits::UPSTREAM_HEAD_BYTES_MAX)
        .max_idle_connections(0)
        .max_idle_connections_per_host(0)
        .max_idle_age(Duration::from_secs(1))
        .timeout_global(None)
        .timeout_per_call(None)
        .timeout_resolve(None)
        .timeout_connect(None)
        .timeout_send_request(None)
        .timeout_await_100(None)
        .timeout_send_body(None)
        .timeout_recv_response(None)
        .timeout_recv_body(None)
        .build();
    Ok(Agent::with_parts(config, Pooling::new(pool, through_proxy), Stub))
}

/// The upstream side of one downstream connection.
pub struct Caller {
    /// The worker of the connection.
    pub worker: usize,
    /// That worker's agents.
    pub agents: Arc<Agents>,
    /// The downstream's socket, to see it leave while the upstream is silent.
    pub downstream: Arc<OwnedFd>,
    /// Who does what would block the worker.
    pub office: Arc<Office>,
    /// Where calls under way are counted.
    pub metrics: Arc<Metrics>,
}

impl Upstream for Caller {
    type Reply = Answer;

    fn pause(&mut self, pause: Duration) {
        // Without a timer the caller's patience ends sooner.
        if let Ok(mut timer) = Timer::new(self.worker) {
            let _ = timer.sleep(pause);
        }
    }

    fn consult(&mut self, desk: Desk, work: Work) -> Result<(), Unanswered> {
        self.office.wait(self.worker, desk, work)
    }

    fn call(&mut self, call: &Call<'_>) -> Result<Answer, Failure> {
        let guard = self.metrics.clone().hold(Gauge::UpstreamInFlight, 1);
        if call.provider.is_echo() {
            return Echoed::begin(self, call, guard);
        }
        if let Some(protocols) = call.upgrade {
            return dial::dial(self, call, protocols, guard);
        }
        let entry = self.agents.through(call.provider.proxy.as_deref())?;
        let downstream = Some(self.downstream.clone());
        let watch = Watch::begin(self.worker, downstream, call.provider.timeouts);
        let attached = Attached;
        if call.source.is_none()
            && let Some(address) = Address::of(call.url)
            && let Some(connection) = entry.pool.take(address.secure, address.authority)
        {
            let (head, direct) = direct::call(connection, &address, call, watch.clone())?;
            let length = match head.framing {
                Framing::Length(length) => Some(length),
                Framing::Chunked | Framing::UntilClose => None,
            };
            if call.stream {
                watch.streams();
            }
            let body = Body::Direct(direct, attached);
            let fields = Fields::Spans(head.headers);
            return Ok(Answer { status: head.status, fields, length, body, _guard: guard });
        }
        through_ureq(&entry.agent, call, watch, attached, guard)
    }
}

/// The first request on a connection, and bodies that are not held.
#[inline(never)]
fn through_ureq(
    agent: &Agent,
    call: &Call<'_>,
    watch: Arc<Watch>,
    attached: Attached,
    guard: Held,
) -> Result<Answer, Failure> {
    let malformed = || watch.failure(Cause::Malformed);
    let result = if call.source.is_none() && takes_body(call.method) {
        agent.run(request(call, call.body).map_err(|()| malformed())?)
    } else {
        run_other(agent, call).map_err(|()| malformed())?
    };
    let response = result.map_err(|error| watch.failure(cause_of(&error)))?;
    let (parts, body) = response.into_parts();
    let all = |name| parts.headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let framing = reply::framing(all("content-length"), all("transfer-encoding"));
    let framing = framing.map_err(|reply::Malformed| malformed())?;
    if parts.status.as_u16() < 200 {
        return Err(malformed());
    }
    watch.enter(Phase::Relay);
    if call.stream {
        watch.streams();
    }
    let until_close = framing == Framing::UntilClose;
    let length = match framing {
        Framing::Length(length) => Some(length),
        Framing::Chunked | Framing::UntilClose => None,
    };
    let reader = Box::new(body.into_reader());
    let body =
        Body::Http(Http { reader, watch, until_close, piece: Vec::new(), _attached: attached });
    let status = parts.status.as_u16();
    Ok(Answer { status, fields: Fields::Map(parts.headers), length, body, _guard: guard })
}

/// A call with a body that is not held, or with none. Apart, so that the usual call stays small.
#[inline(never)]
fn run_other(agent: &Agent, call: &Call<'_>) -> Result<RunResult, ()> {
    let Some(source) = call.source else { return Ok(agent.run(request(call, ())?)) };
    let mut reader = Reader(source);
    let mut request = request(call, SendBody::from_reader(&mut reader))?;
    if let Some(length) = source.length() {
        request.headers_mut().insert("content-length", HeaderValue::from(length));
    }
    Ok(agent.run(request))
}

/// What ureq makes of a request.
type RunResult = Result<ureq::http::Response<ureq::Body>, ureq::Error>;

/// A body as ureq reads it.
struct Reader<'a>(&'a dyn Source);

impl Read for Reader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf).map_err(|SourceBroken| io::ErrorKind::ConnectionAborted.into())
    }
}

fn request<B>(call: &Call<'_>, body: B) -> Result<Request<B>, ()> {
    let mut request = Request::new(body);
    *request.method_mut() = call.method.parse().map_err(|_| ())?;
    *request.uri_mut() = Uri::try_from(call.url).map_err(|_| ())?;
    // All values stand in one block, of which each field takes a slice.
    let mut names = Vec::with_capacity(call.headers.count_hint());
    let mut values = Vec::with_capacity(VALUES_BYTES);
    call.headers.each(&mut |name, value| {
        names.push((HeaderName::from_bytes(name.as_bytes()), value.len()));
        values.extend_from_slice(value);
    });
    let mut values = Bytes::from(values);
    let headers = request.headers_mut();
    headers.reserve(names.len());
    for (name, length) in names {
        let value = HeaderValue::from_maybe_shared(values.split_to(length));
        headers.append(name.map_err(|_| ())?, value.map_err(|_| ())?);
    }
    Ok(request)
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
    Map(HeaderMap),
    Spans(Headers),
}

enum Body {
    Direct(Direct, #[allow(dead_code)] Attached),
    Http(Http),
    Echo(Echoed),
    /// The refusal of a handshake, held.
    Whole {
        bytes: Vec<u8>,
        is_read: bool,
    },
    Pipe(Box<dyn Pipe>),
}

/// While it lives, the watch hangs on the coroutine.
struct Attached;

impl Drop for Attached {
    fn drop(&mut self) {
        worker::attach(None);
    }
}

impl Reply for Answer {
    fn status(&self) -> u16 {
        self.status
    }

    fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let (map, spans) = match &self.fields {
            Fields::Map(map) => (Some(map), None),
            Fields::Spans(spans) => (None, Some(spans)),
        };
        let map = map.into_iter().flatten();
        let map = map.map(|(name, value)| (name.as_str(), value.as_bytes()));
        map.chain(spans.into_iter().flat_map(Headers::iter))
    }

    fn length(&self) -> Option<u64> {
        self.length
    }

    fn is_ready(&mut self) -> bool {
        match &mut self.body {
            Body::Direct(direct, _) => direct.is_ready(),
            Body::Http(http) => http.watch.has_buffered(),
            Body::Echo(echo) => echo.is_ready(),
            Body::Whole { .. } | Body::Pipe(_) => true,
        }
    }

    fn piece(&mut self) -> Result<&[u8], Failure> {
        match &mut self.body {
            Body::Direct(direct, _) => direct.piece(),
            Body::Http(http) => http.piece(),
            Body::Echo(echo) => echo.piece(),
            Body::Whole { bytes, is_read } => {
                let is_read = std::mem::replace(is_read, true);
                Ok(if is_read { &[] } else { bytes })
            }
            Body::Pipe(_) => Ok(&[]),
        }
    }

    fn pipe(&mut self) -> Option<&mut dyn Pipe> {
        match &mut self.body {
            Body::Pipe(pipe) => Some(&mut **pipe),
            Body::Direct(..) | Body::Http(_) | Body::Echo(_) | Body::Whole { .. } => None,
        }
    }
}

/// The body of an upstream's reply, as ureq reads it.
struct Http {
    reader: Box<ureq::BodyReader<'static>>,
    watch: Arc<Watch>,
    until_close: bool,
    piece: Vec<u8>,
    _attached: Attached,
}

impl Http {
    fn piece(&mut self) -> Result<&[u8], Failure> {
        self.piece.resize(limits::RELAY_BYTES, 0);
        match self.reader.read(&mut self.piece) {
            // ureq takes some ends for proper ones that are none: a reset in place of a close, a
            // close in place of the last line of a chunked body.
            Ok(0) => match self.watch.end() {
                End::Open => Ok(&[]),
                End::Closed if self.until_close => Ok(&[]),
                End::Closed | End::Reset => Err(self.watch.failure(Cause::Disconnected)),
            },
            Ok(count) => Ok(&self.piece[..count]),
            Err(_) => Err(self.watch.failure(Cause::Disconnected)),
        }
    }
}

/// A reply of the built-in channel, with its pauses.
struct Echoed {
    pieces: Vec<Vec<u8>>,
    next: usize,
    pause: Duration,
    timer: Option<Timer>,
    downstream: Arc<OwnedFd>,
    worker: usize,
}

impl Echoed {
    fn begin(caller: &Caller, call: &Call<'_>, guard: Held) -> Result<Answer, Failure> {
        let settings = &call.provider.echo;
        let mut scrap = [0; 4096];
        while call.source.is_some_and(|source| source.read(&mut scrap).is_ok_and(|got| got > 0)) {}
        let reply = echo::answer(
            call.endpoint,
            call.model_served,
            call.body,
            call.stream,
            call.alt_sse,
            call.wants_usage,
            settings,
        );
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static(reply.content_type));
        let length = match reply.pieces.as_slice() {
            [only] => Some(only.len() as u64),
            _ => None,
        };
        let mut echoed = Echoed {
            pieces: reply.pieces,
            next: 0,
            pause: Duration::from_millis(settings.event_delay_ms),
            timer: None,
            downstream: caller.downstream.clone(),
            worker: caller.worker,
        };
        echoed.sleep(Duration::from_millis(settings.delay_ms), Phase::AwaitHead)?;
        let body = Body::Echo(echoed);
        let fields = Fields::Map(headers);
        Ok(Answer { status: reply.status, fields, length, body, _guard: guard })
    }

    fn is_ready(&self) -> bool {
        self.next == 0 || self.pause.is_zero()
    }

    fn piece(&mut self) -> Result<&[u8], Failure> {
        if self.next == self.pieces.len() {
            return Ok(&[]);
        }
        if self.next > 0 && !self.pause.is_zero() {
            self.sleep(self.pause, Phase::Relay)?;
        }
        self.next += 1;
        Ok(&self.pieces[self.next - 1])
    }

    /// Pauses in slices, so that a downstream that leaves is noticed.
    fn sleep(&mut self, pause: Duration, phase: Phase) -> Result<(), Failure> {
        let mut left = pause;
        while !left.is_zero() {
            let slice = left.min(Duration::from_millis(limits::HANG_UP_POLL_MS));
            if self.timer.is_none() {
                self.timer = Some(Timer::new(self.worker).map_err(|_| echo_failure(phase))?);
            }
            if let Some(timer) = &mut self.timer {
                timer.sleep(slice).map_err(|_| echo_failure(phase))?;
            }
            left -= slice;
            if worker::peek(&self.downstream) == Peek::Gone {
                return Err(Failure { cause: Cause::DownstreamGone, ..echo_failure(phase) });
            }
            if worker::is_cut() {
                return Err(Failure { cause: Cause::ShuttingDown, ..echo_failure(phase) });
            }
        }
        Ok(())
    }
}

fn echo_failure(phase: Phase) -> Failure {
    let cause = Cause::Unreachable;
    Failure { phase, sent: Sent::Nothing, cause, reused: false, after_ms: 0 }
}
