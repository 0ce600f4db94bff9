//! One attempt at an upstream: a connection, kept or new, the request, the reply's head and pieces.

mod dial;
mod echoed;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

pub(super) use dial::{Hasty, now};
use echoed::Echoed;

use parking_lot::Mutex;

use crate::dialect::resource::PASSTHROUGH;
use crate::exchange::{
    Call, Desk, Fetch, Fetched, Pipe, Reply, Spool, Unanswered, UpHeaders, Upstream, Work,
};
use crate::failure::{Cause, Failure, Phase, Sent, Unstored};
use crate::io::http::{self, Address, Incoming};
use crate::io::office::Office;
use crate::io::spool;
use crate::io::transport::{Opener, Pool, Pooled};
use crate::io::watch::Watch;
use crate::io::worker::{self, Timer};
use crate::limits;
use crate::metrics::{Gauge, Held, Metrics};
use crate::route::snapshot::Timeouts;
use crate::wire::head::Headers;
use crate::wire::reply::Framing;

/// The connections of one worker to upstreams, by the proxy that they go through. They never meet
/// across workers: their descriptors belong to the worker's class.
#[derive(Default)]
pub struct Ways {
    list: Mutex<Vec<Arc<Way>>>,
}

struct Way {
    proxy: Option<String>,
    opener: Opener,
    pool: Arc<Pool>,
}

impl Ways {
    /// The way through `proxy`; made when it is first asked for.
    fn through(&self, proxy: Option<&str>) -> Result<Arc<Way>, Failure> {
        let mut list = self.list.lock();
        if let Some(way) = list.iter().find(|way| way.proxy.as_deref() == proxy) {
            return Ok(way.clone());
        }
        let opener = Opener::new(proxy).map_err(|_| Failure {
            phase: Phase::Connect,
            sent: Sent::Nothing,
            cause: Cause::ProxyRefused,
            reused: false,
            after_ms: 0,
        })?;
        let way = Way { proxy: proxy.map(str::to_owned), opener, pool: Arc::default() };
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
        watch: &Watch,
    ) -> Result<Pooled, Failure> {
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
}

impl Upstream for Caller {
    type Reply = Answer;

    fn pause(&mut self, pause: Duration) -> bool {
        // Without a timer the caller's patience ends sooner.
        if let Ok(mut timer) = Timer::new(self.worker) {
            let _ = timer.sleep(pause);
        }
        self.downstream.as_deref().is_none_or(|downstream| !worker::has_left(downstream))
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
        let Fetch { provider, method, url, headers, body, bytes_max } = *fetch;
        let way = self.ways.through(provider.proxy.as_deref())?;
        let timeouts = Timeouts { total_ms: limits::FETCH_MS_MAX, ..provider.timeouts };
        let watch = Watch::begin(self.worker, self.downstream.clone(), timeouts, None);
        let _attached = Attached;
        let malformed = || watch.failure(Cause::Malformed);
        let address = Address::of(url).ok_or_else(malformed)?;
        let connection = way.connection(url, &address, &watch)?;
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
        let guard = self.metrics.clone().hold(Gauge::UpstreamInFlight, 1);
        if call.provider.is_echo() {
            return echoed::answer(self, call, guard);
        }
        if let Some(protocols) = call.upgrade {
            return dial::dial(self, call, protocols, guard);
        }
        let way = self.ways.through(call.provider.proxy.as_deref())?;
        let drain = call.provider.drain.map(|drain| (drain, self.metrics.clone()));
        let watch = Watch::begin(self.worker, self.downstream.clone(), call.timeouts, drain);
        let attached = Attached;
        let malformed = || watch.failure(Cause::Malformed);
        let address = Address::of(call.url).ok_or_else(malformed)?;
        let connection = way.connection(call.url, &address, &watch)?;
        let (head, incoming) = http::call(connection, &address, call, watch.clone())?;
        if call.stream {
            watch.streams();
        }
        let length = match head.framing {
            Framing::Length(length) => Some(length),
            Framing::Chunked | Framing::UntilClose => None,
        };
        let body = Body::Http(incoming, attached);
        Ok(Answer {
            status: head.status,
            fields: Fields::Spans(head.headers),
            length,
            body,
            _guard: guard,
        })
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

impl Answer {
    fn watch(&self) -> Option<&Watch> {
        match &self.body {
            Body::Http(incoming, _) => Some(incoming.watch()),
            Body::Echo(_) | Body::Whole { .. } | Body::Pipe(_) => None,
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
            Body::Whole { .. } | Body::Pipe(_) => true,
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
            Body::Whole { bytes, is_read } => {
                let is_read = std::mem::replace(is_read, true);
                Ok(if is_read { &[] } else { bytes })
            }
            Body::Pipe(_) => Ok(&[]),
        }
    }

    fn keep_alive(&mut self, every: Duration) {
        match &self.body {
            Body::Http(body, _) => body.keep_alive(every),
            Body::Echo(_) | Body::Whole { .. } | Body::Pipe(_) => {}
        }
    }

    fn pipe(&mut self) -> Option<&mut dyn Pipe> {
        match &mut self.body {
            Body::Pipe(pipe) => Some(&mut **pipe),
            Body::Http(..) | Body::Echo(_) | Body::Whole { .. } => None,
        }
    }
}
