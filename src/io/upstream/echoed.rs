//! The built-in channel as an upstream: replies with their pauses, and sessions without.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::dial;
use super::{Answer, Body, Caller, Fields};
use crate::dialect::echo;
use crate::exchange::{Call, Pipe, Stop};
use crate::failure::{Cause, Failure, Phase, Sent};
use crate::io::worker::{self, Both, Timer};
use crate::limits;
use crate::metrics::Held;
use crate::wire::websocket::{self, Kind, Reader, Unit};

/// A reply of the built-in channel, with its pauses.
pub(super) struct Echoed {
    pieces: Vec<Vec<u8>>,
    next: usize,
    pause: Duration,
    timer: Option<Timer>,
    downstream: Option<Arc<OwnedFd>>,
    worker: usize,
}

/// Answers a call, or opens a session.
pub(super) fn answer(caller: &Caller, call: &Call<'_>, guard: Held) -> Result<Answer, Failure> {
    match call.upgrade {
        None => Echoed::begin(caller, call, guard),
        Some(_) => {
            let body = Body::Pipe(Box::new(Socket::open(caller, call)?));
            Ok(Answer { status: 101, fields: Fields::None, length: None, body, _guard: guard })
        }
    }
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
        let fields = Fields::ContentType(reply.content_type);
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
        echoed.delay(Duration::from_millis(settings.delay_ms), call)?;
        let body = Body::Echo(echoed);
        Ok(Answer { status: reply.status, fields, length, body, _guard: guard })
    }

    /// The silence before the head.
    fn delay(&mut self, delay: Duration, call: &Call<'_>) -> Result<(), Failure> {
        let mut left = delay;
        while let Some(waiting) = call.waiting {
            let patience = waiting.patience();
            if patience.is_zero() || patience >= left {
                break;
            }
            self.sleep(patience, Phase::AwaitHead)?;
            left -= patience;
            let gone = Failure { cause: Cause::DownstreamGone, ..echo_failure(Phase::AwaitHead) };
            waiting.tell().map_err(|_| gone)?;
        }
        self.sleep(left, Phase::AwaitHead)
    }

    pub(super) fn is_ready(&self) -> bool {
        self.next == 0 || self.pause.is_zero()
    }

    pub(super) fn piece(&mut self) -> Result<&[u8], Failure> {
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
            if self.downstream.as_deref().is_some_and(worker::has_left) {
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

/// The far end of a WebSocket, in this process.
struct Socket {
    session: echo::Session,
    reader: Reader,
    out: Vec<u8>,
    taken: usize,
    // Our last word stands in `out`, or has left.
    is_closed: bool,
    both: Both,
    downstream: Arc<OwnedFd>,
}

impl Socket {
    fn open(caller: &Caller, call: &Call<'_>) -> Result<Socket, Failure> {
        let downstream = caller.downstream.as_ref().ok_or(echo_failure(Phase::AwaitHead))?;
        let both = Both::of(caller.worker, &[downstream]);
        let both = both.map_err(|_| echo_failure(Phase::AwaitHead))?;
        let mut session = echo::Session::new(call.endpoint, call.model_served, &call.provider.echo);
        let mut out = Vec::new();
        for event in session.greet() {
            websocket::write(Kind::Text, &event, None, &mut out);
        }
        let reader = Reader::new(true, limits::EVENT_BYTES_MAX);
        let downstream = downstream.clone();
        Ok(Socket { session, reader, out, taken: 0, is_closed: false, both, downstream })
    }

    fn hear(&mut self, unit: &Unit) {
        let out = &mut self.out;
        match unit.kind {
            Kind::Text | Kind::Binary => {
                for event in self.session.hear(&unit.payload) {
                    websocket::write(Kind::Text, &event, None, out);
                }
            }
            Kind::Ping => websocket::write(Kind::Pong, &unit.payload, None, out),
            Kind::Pong => {}
            Kind::Close => {
                websocket::write(Kind::Close, &unit.payload, None, out);
                self.is_closed = true;
            }
        }
    }
}

impl Pipe for Socket {
    fn read(&mut self, buf: &mut [u8]) -> Result<Option<usize>, Stop> {
        let rest = &self.out[self.taken..];
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        self.taken += count;
        if self.taken == self.out.len() {
            self.out = Vec::new();
            self.taken = 0;
        }
        Ok(Some(count).filter(|count| *count > 0))
    }

    /// Takes nothing while an answer waits to be read.
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Stop> {
        let mut used = 0;
        while used < bytes.len() && self.out.is_empty() && !self.is_closed {
            // What our own side writes breaks no rule.
            let (count, unit) = self.reader.feed(&bytes[used..]).map_err(|_| Stop::Gone)?;
            used += count;
            if let Some(unit) = unit {
                self.hear(&unit);
            }
        }
        Ok(if self.is_closed { bytes.len() } else { used })
    }

    fn wait(&mut self, until: Instant) {
        dial::wait(&mut self.both, until);
    }

    fn has_left(&mut self) -> bool {
        worker::has_left(&self.downstream)
    }

    fn give_way(&mut self) {
        self.both.give_way();
    }

    fn mask(&mut self) -> [u8; 4] {
        let mut mask = [0; 4];
        dial::fill(&mut mask);
        mask
    }
}
