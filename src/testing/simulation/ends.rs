//! Both ends of the path and its clock, in memory.
//!
//! The caller's end has bytes to send, places where it stalls, ends or breaks, and a place from
//! which on it reads no more. The provider's end asks an author for each call's outcome. Time only
//! passes where something waits, so a stall of ten minutes costs nothing.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::pipe::{Moment, SimPipe};
use crate::exchange::{
    Call, Clock, Core, Desk, Downstream, Fetch, Fetched, Hedge, Pipe, Raced, Reply, Spool, Stop,
    Unanswered, Upstream, Work,
};
use crate::failure::{Cause, Failure, Phase, Sent, Unstored};
use crate::limits;
use crate::metrics::{Gauge, Held};
use crate::route::retry;
use crate::testing::prng::Prng;

/// A clock that moves when it is told to, a little at each look, and once by a leap.
#[derive(Clone)]
pub(super) struct SimClock(Arc<Time>);

struct Time {
    base: Instant,
    now_us: AtomicU64,
    looks_to_leap: AtomicI64,
    leap_us: AtomicU64,
}

impl SimClock {
    pub(super) fn new() -> SimClock {
        SimClock(Arc::new(Time {
            base: Instant::now(),
            now_us: AtomicU64::new(0),
            looks_to_leap: AtomicI64::new(-1),
            leap_us: AtomicU64::new(0),
        }))
    }

    /// The look of that number finds that much time gone, as after a machine's sleep.
    pub(super) fn leap(&self, looks: i64, leap: Duration) {
        self.0.looks_to_leap.store(looks, Ordering::Relaxed);
        self.0.leap_us.store(leap.as_micros() as u64, Ordering::Relaxed);
    }

    pub(super) fn advance_us(&self, us: u64) {
        self.0.now_us.fetch_add(us, Ordering::Relaxed);
    }

    pub(super) fn advance_ms(&self, ms: u64) {
        self.advance_us(ms * 1_000);
    }

    /// Milliseconds since the beginning.
    pub(super) fn now_ms(&self) -> u64 {
        self.0.now_us.load(Ordering::Relaxed) / 1_000
    }

    pub(super) fn at(&self) -> Instant {
        self.0.base + Duration::from_micros(self.0.now_us.load(Ordering::Relaxed))
    }

    pub(super) fn advance_to(&self, until: Instant) {
        self.advance_us(until.saturating_duration_since(self.at()).as_micros() as u64);
    }
}

impl Clock for SimClock {
    fn unix_ms(&self) -> i64 {
        1_700_000_000_000 + self.now_ms() as i64
    }

    fn now(&self) -> Instant {
        self.advance_us(1);
        if self.0.looks_to_leap.fetch_sub(1, Ordering::Relaxed) == 0 {
            self.advance_us(self.0.leap_us.load(Ordering::Relaxed));
        }
        self.at()
    }
}

/// What a caller does at a place in its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Pauses for so many milliseconds.
    Stall(u64),
    /// Sends nothing more and stays.
    Silence,
    /// Resets the connection.
    Reset,
    /// Ends its side.
    Close,
    /// Waits for `100 Continue`, for ever.
    AwaitContinue,
}

/// A moment in which the gateway waits for more of a reply.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    /// Which call it is, from 0.
    pub(super) call: usize,
    /// Bytes of the reply's body that have come.
    pub(super) came: usize,
    /// Bytes that have gone downstream, of all answers.
    pub(super) went: usize,
}

/// The last event of a stream, whatever its dialect.
pub(super) const LAST: &str =
    "data: [\"[DONE]\",\"response.completed\",\"message_stop\",\"finishReason\"]\n\n";
/// What `Expect: 100-continue` waits for.
pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The caller's end of one connection.
pub(super) struct Wire {
    /// All that the caller will send.
    pub(super) input: Vec<u8>,
    /// How much of it the caller has sent so far; a fault may stand before that.
    pub(super) released: usize,
    /// In the order of their places.
    pub(super) faults: VecDeque<(usize, Fault)>,
    /// After the last byte.
    pub(super) end: Fault,
    /// Bytes of one read, at most; without a bound, as many as fit.
    pub(super) piece_max: usize,
    /// Writing fails behind that many bytes.
    pub(super) write_stop: Option<(usize, Stop)>,
    /// All that came back.
    pub(super) out: Vec<u8>,
    /// The gateway ended its side.
    pub(super) shut: bool,
    /// The gateway will reset the connection.
    pub(super) aborted: bool,
    /// A write failed.
    pub(super) write_failed: Option<Stop>,
    /// The caller has gone.
    pub(super) gone: bool,
    /// Each time that a reply made the gateway wait.
    pub(super) waits: Vec<Wait>,
    at: usize,
    prng: Prng,
}

impl Wire {
    /// A caller that sends all at once, stays, and reads everything.
    pub(super) fn new(input: &[u8], seed: u64) -> Wire {
        Wire {
            input: input.to_vec(),
            released: input.len(),
            faults: VecDeque::new(),
            end: Fault::Silence,
            piece_max: usize::MAX,
            write_stop: None,
            out: Vec::new(),
            shut: false,
            aborted: false,
            write_failed: None,
            gone: false,
            waits: Vec::new(),
            at: 0,
            prng: Prng::new(seed),
        }
    }

    /// Bytes that the gateway has taken.
    pub(super) fn taken(&self) -> usize {
        self.at
    }

    fn read(&mut self, buf: &mut [u8], until: Instant, clock: &SimClock) -> Result<usize, Stop> {
        assert!(!buf.is_empty(), "a read without room looks like an end");
        loop {
            if self.gone {
                return Err(Stop::Gone);
            }
            if clock.at() >= until {
                return Err(Stop::TimedOut);
            }
            let fault = self.faults.front().copied();
            let stop_at = fault.map_or(self.input.len(), |(place, _)| place).min(self.released);
            if self.at < stop_at {
                clock.advance_us(self.prng.below(20) as u64);
                let room = buf.len().min(stop_at - self.at);
                let count = piece(room, self.piece_max, &mut self.prng);
                buf[..count].copy_from_slice(&self.input[self.at..self.at + count]);
                self.at += count;
                return Ok(count);
            }
            match fault {
                Some((place, fault)) if place <= self.at => self.meet(fault, until, clock)?,
                _ if self.at < self.input.len() => self.silence(until, clock)?,
                _ => match self.end {
                    Fault::Close => return Ok(0),
                    Fault::Reset => self.gone = true,
                    Fault::Stall(_) | Fault::Silence | Fault::AwaitContinue => {
                        self.silence(until, clock)?;
                    }
                },
            }
            if matches!(self.faults.front(), Some((place, Fault::Close)) if *place == self.at) {
                return Ok(0);
            }
        }
    }

    /// What has come, for a session: it has no faults.
    fn read_now(&mut self, buf: &mut [u8]) -> Option<usize> {
        let count = (self.released - self.at).min(buf.len());
        buf[..count].copy_from_slice(&self.input[self.at..self.at + count]);
        self.at += count;
        Some(count).filter(|count| *count > 0)
    }

    /// As much as the caller takes: behind `write_stop` nothing.
    fn write_now(&mut self, bytes: &[u8]) -> usize {
        let room = self.write_stop.map_or(bytes.len(), |(place, _)| {
            place.saturating_sub(self.out.len()).min(bytes.len())
        });
        self.out.extend_from_slice(&bytes[..room]);
        room
    }

    fn silence(&mut self, until: Instant, clock: &SimClock) -> Result<(), Stop> {
        clock.advance_to(until);
        Err(Stop::TimedOut)
    }

    /// Does what stands at this place, and passes it when it is over.
    fn meet(&mut self, fault: Fault, until: Instant, clock: &SimClock) -> Result<(), Stop> {
        match fault {
            Fault::Close => return Ok(()),
            Fault::Reset => self.gone = true,
            Fault::Silence => self.silence(until, clock)?,
            Fault::AwaitContinue if !self.out.ends_with(CONTINUE) => self.silence(until, clock)?,
            Fault::AwaitContinue => drop(self.faults.pop_front()),
            Fault::Stall(ms) => {
                let patience = until.saturating_duration_since(clock.at()).as_millis() as u64;
                if ms > patience {
                    self.faults[0].1 = Fault::Stall(ms - patience);
                    self.silence(until, clock)?;
                }
                clock.advance_ms(ms);
                self.faults.pop_front();
            }
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8], clock: &SimClock) -> Result<(), Stop> {
        assert!(!self.shut, "wrote after the end");
        assert!(!bytes.is_empty(), "a write of nothing is a system call of nothing");
        if let Some(stop) = self.write_failed {
            return Err(stop);
        }
        let room = match self.write_stop {
            _ if self.gone => 0,
            Some((place, _)) => place.saturating_sub(self.out.len()),
            None => bytes.len(),
        };
        if bytes.len() <= room {
            self.out.extend_from_slice(bytes);
            return Ok(());
        }
        self.out.extend_from_slice(&bytes[..room]);
        let stop = self.write_stop.map_or(Stop::Gone, |(_, stop)| stop);
        match stop {
            Stop::Gone => self.gone = true,
            Stop::TimedOut => clock.advance_ms(limits::WRITE_PAUSE_MS_MAX),
            Stop::ShuttingDown => {}
        }
        self.write_failed = Some(stop);
        Err(stop)
    }
}

/// The bytes of one read: all that fit, or a few.
fn piece(room: usize, piece_max: usize, prng: &mut Prng) -> usize {
    if piece_max == usize::MAX { room } else { 1 + prng.below(room.min(piece_max)) }
}

/// A caller, as the path sees it.
#[derive(Clone)]
pub(super) struct SimDownstream {
    pub(super) wire: Rc<RefCell<Wire>>,
    pub(super) clock: SimClock,
}

impl Downstream for SimDownstream {
    fn read(&mut self, buf: &mut [u8], until: Instant) -> Result<usize, Stop> {
        self.wire.borrow_mut().read(buf, until, &self.clock)
    }

    fn read_now(&mut self, buf: &mut [u8]) -> Result<Option<usize>, Stop> {
        Ok(self.wire.borrow_mut().read_now(buf))
    }

    fn write_now(&mut self, bytes: &[u8]) -> Result<usize, Stop> {
        Ok(self.wire.borrow_mut().write_now(bytes))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.wire.borrow_mut().write(bytes, &self.clock)
    }

    fn peer(&self) -> Option<std::net::IpAddr> {
        Some(std::net::Ipv4Addr::new(192, 0, 2, 1).into())
    }

    fn is_secure(&self) -> bool {
        false
    }

    fn shut_write(&mut self) {
        self.wire.borrow_mut().shut = true;
    }

    fn abort(&mut self) {
        self.wire.borrow_mut().aborted = true;
    }
}

/// One call, as the provider saw it.
pub(super) struct Seen {
    pub(super) provider: String,
    pub(super) method: String,
    pub(super) url: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// Bytes that had gone downstream before.
    pub(super) out_before: usize,
}

impl Seen {
    /// The first value of a header.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// What comes of a call.
pub(super) enum Outcome {
    Fail(Failure),
    Answer(Script),
    Panic,
}

/// A reply, and how its body comes.
#[derive(Clone)]
pub(super) struct Script {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    /// The declared length.
    pub(super) length: Option<u64>,
    pub(super) body: Vec<u8>,
    pub(super) end: End,
    /// Bytes of one read, at most.
    pub(super) piece_max: usize,
    /// How long the head is awaited.
    pub(super) silent_ms: u64,
    /// The gateway waits for the first piece.
    pub(super) waits_first: bool,
    /// Of so many further pieces, one makes the gateway wait; 0: none does.
    pub(super) waits_one_in: usize,
    /// How long each wait takes.
    pub(super) wait_ms: u64,
    /// What happens in a session that this reply opens.
    pub(super) session: Vec<(u64, Moment)>,
}

/// How a reply's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With its last byte.
    Proper,
    /// After that many bytes.
    Fails(usize, Failure),
    /// The same, by a panic.
    Panics(usize),
}

impl Script {
    /// A reply that comes whole and at once.
    pub(super) fn new(status: u16, content_type: &str, body: &[u8]) -> Script {
        Script {
            status,
            headers: vec![("content-type".into(), content_type.into())],
            length: None,
            body: body.to_vec(),
            end: End::Proper,
            piece_max: usize::MAX,
            silent_ms: 0,
            waits_first: false,
            waits_one_in: 0,
            wait_ms: 0,
            session: Vec::new(),
        }
    }

    /// The same, with its length declared.
    pub(super) fn sized(self) -> Script {
        Script { length: Some(self.body.len() as u64), ..self }
    }
}

/// What a scripted panic throws, so that it is told from a real one.
pub(super) struct Injected;

/// Decides what comes of each call.
pub(super) type Author = Box<dyn FnMut(&Seen, &Core) -> Outcome>;

/// The provider's end.
pub(super) struct SimUpstream {
    pub(super) core: Arc<Core>,
    pub(super) wire: Rc<RefCell<Wire>>,
    pub(super) clock: SimClock,
    pub(super) seen: Rc<RefCell<Vec<Seen>>>,
    pub(super) author: Author,
    pub(super) prng: Prng,
}

impl Upstream for SimUpstream {
    type Reply = SimReply;

    fn has_left(&mut self) -> bool {
        self.wire.borrow().gone
    }

    fn pause(&mut self, pause: Duration) -> bool {
        self.clock.advance_ms(pause.as_millis() as u64);
        !self.has_left()
    }

    fn consult(&mut self, _desk: Desk, work: Work) -> Result<(), Unanswered> {
        work();
        Ok(())
    }

    fn spool(&mut self) -> Result<Box<dyn Spool>, Unstored> {
        Ok(Box::new(SimSpool(Vec::new())))
    }

    fn fetch(&mut self, _fetch: &Fetch<'_>) -> Result<Fetched, Failure> {
        unreachable!("no provider of the simulation has an account")
    }

    fn call(&mut self, call: &Call<'_>) -> Result<SimReply, Failure> {
        let asked = self.ask(call);
        self.clock.advance_ms(self.prng.below(3) as u64);
        let left = self.wait(asked.silent_ms(), call)?;
        self.meet(asked, left)
    }

    /// Time passes for both at once: who speaks first is known from their silences.
    fn race(&mut self, call: &Call<'_>, hedge: &dyn Hedge) -> Raced<SimReply> {
        let first = self.ask(call);
        let patience = hedge.patience().as_millis() as u64;
        let first_ms = first.silent_ms();
        if patience == 0 || first_ms <= patience {
            let left = self.wait(first_ms, call);
            return Raced::alone(left.and_then(|left| self.meet(first, left)));
        }
        match self.wait(patience, call) {
            Ok(left) => self.clock.advance_ms(left),
            Err(failure) => return Raced::alone(Err(failure)),
        }
        let Some(beside) = hedge.begin() else {
            return Raced::alone(self.meet(first, first_ms - patience));
        };
        let second = beside.with(|call| self.ask(call));
        let (first_left, second_left) = (first_ms - patience, second.silent_ms());
        let [earlier, later] = [first_left.min(second_left), first_left.max(second_left)];
        let is_first = first_left <= second_left;
        let of_earlier = if is_first { &first } else { &second };
        let ends = of_earlier.speaks() || (is_first && first.is_left());
        match (is_first, ends) {
            (true, true) => Raced { first: Some(self.meet(first, earlier)), second: None },
            (false, true) => Raced { first: None, second: Some(self.meet(second, earlier)) },
            (true, false) => {
                let first = Some(self.meet(first, earlier));
                Raced { first, second: Some(self.meet(second, later - earlier)) }
            }
            (false, false) => {
                let second = Some(self.meet(second, earlier));
                Raced { first: Some(self.meet(first, later - earlier)), second }
            }
        }
    }
}

/// A call that was made, and of which nothing has come.
struct Asked {
    outcome: Outcome,
    number: usize,
    guard: Held,
}

impl Asked {
    /// How long nothing comes.
    fn silent_ms(&self) -> u64 {
        match &self.outcome {
            Outcome::Fail(failure) => failure.after_ms,
            Outcome::Answer(script) => script.silent_ms,
            Outcome::Panic => 0,
        }
    }

    fn speaks(&self) -> bool {
        let is_served = |script: &Script| !retry::is_refused(script.status);
        matches!(&self.outcome, Outcome::Answer(script) if is_served(script))
    }

    /// Its caller leaves.
    fn is_left(&self) -> bool {
        matches!(&self.outcome, Outcome::Fail(Failure { cause: Cause::DownstreamGone, .. }))
    }
}

impl SimUpstream {
    fn ask(&mut self, call: &Call<'_>) -> Asked {
        let guard = self.core.metrics.clone().hold(Gauge::UpstreamInFlight, 1);
        let mut headers = Vec::new();
        call.headers.each(&mut |name, value| {
            headers.push((name.to_owned(), String::from_utf8_lossy(value).into_owned()));
        });
        let seen = Seen {
            provider: call.provider.name.clone(),
            method: call.method.to_owned(),
            url: call.url.to_owned(),
            headers,
            body: call.body.to_vec(),
            out_before: self.wire.borrow().out.len(),
        };
        let outcome = (self.author)(&seen, &self.core);
        self.seen.borrow_mut().push(seen);
        Asked { outcome, number: self.seen.borrow().len() - 1, guard }
    }

    /// What comes after so much more silence.
    fn meet(&mut self, asked: Asked, left_ms: u64) -> Result<SimReply, Failure> {
        let Asked { outcome, number, guard } = asked;
        match outcome {
            Outcome::Panic => resume_unwind(Box::new(Injected)),
            Outcome::Fail(failure) => {
                meet(Failure { after_ms: left_ms, ..failure }, &self.wire, &self.clock);
                Err(failure)
            }
            Outcome::Answer(script) => {
                self.clock.advance_ms(left_ms);
                let (core, wire, clock) = (&self.core, &self.wire, &self.clock);
                let pipe = |moments: &Vec<_>| {
                    SimPipe::new(core.clone(), wire.clone(), clock.clone(), moments.clone())
                };
                Ok(SimReply {
                    pipe: (script.status == 101).then(|| pipe(&script.session)),
                    is_ready: !script.waits_first,
                    script,
                    call: number,
                    at: 0,
                    quiet_ms: 0,
                    told_ms: 0,
                    waited_ms: 0,
                    wire: self.wire.clone(),
                    clock: self.clock.clone(),
                    prng: Prng::new(self.prng.next_u64()),
                    _guard: guard,
                })
            }
        }
    }
}

/// A disk in memory.
struct SimSpool(Vec<u8>);

impl Spool for SimSpool {
    fn append(&mut self, bytes: Vec<u8>) -> Result<(), Unstored> {
        self.0.extend(bytes);
        Ok(())
    }

    fn read(&mut self, at: u64, count: usize) -> Result<Vec<u8>, Unstored> {
        Ok(self.0[at as usize..at as usize + count].to_vec())
    }

    fn reader(&self) -> Box<dyn std::io::Read + Send> {
        Box::new(std::io::Cursor::new(self.0.clone()))
    }
}

impl SimUpstream {
    /// Lets a silence pass as far as who waits is to be told of it; what is left of it.
    fn wait(&self, silent_ms: u64, call: &Call<'_>) -> Result<u64, Failure> {
        let mut left = silent_ms;
        while let Some(waiting) = call.waiting {
            let patience = waiting.patience().as_millis() as u64;
            if patience == 0 || patience >= left {
                break;
            }
            self.clock.advance_ms(patience);
            left -= patience;
            let (phase, sent) = (Phase::AwaitHead, Sent::Part);
            let cause = Cause::DownstreamGone;
            let gone = Failure { phase, sent, cause, reused: false, after_ms: silent_ms - left };
            waiting.tell().map_err(|_| gone)?;
        }
        Ok(left)
    }
}

/// A failure takes its time, and one that says that the caller has gone is right.
fn meet(failure: Failure, wire: &RefCell<Wire>, clock: &SimClock) -> Failure {
    clock.advance_ms(failure.after_ms);
    if failure.cause == Cause::DownstreamGone {
        wire.borrow_mut().gone = true;
    }
    failure
}

/// A reply whose body follows its script.
pub(super) struct SimReply {
    script: Script,
    call: usize,
    at: usize,
    is_ready: bool,
    // Silence of so long is told; 0: none is. When something went down, or it was told, last.
    quiet_ms: u64,
    told_ms: u64,
    // How much of the present wait has passed.
    waited_ms: u64,
    pipe: Option<SimPipe>,
    wire: Rc<RefCell<Wire>>,
    clock: SimClock,
    prng: Prng,
    _guard: Held,
}

impl Reply for SimReply {
    fn keep_alive(&mut self, every: Duration) {
        self.quiet_ms = every.as_millis() as u64;
        self.told_ms = self.clock.now_ms();
    }

    fn pipe(&mut self) -> Option<&mut dyn Pipe> {
        self.pipe.as_mut().map(|pipe| pipe as &mut dyn Pipe)
    }

    fn status(&self) -> u16 {
        self.script.status
    }

    fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.script.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()))
    }

    fn length(&self) -> Option<u64> {
        self.script.length
    }

    fn is_ready(&mut self) -> bool {
        self.is_ready
    }

    fn reads_on(&mut self) -> bool {
        true
    }

    fn is_orphaned(&self) -> bool {
        false
    }

    fn piece(&mut self) -> Result<&[u8], Failure> {
        if !self.is_ready {
            let mut wire = self.wire.borrow_mut();
            let went = wire.out.len();
            // To a caller that has left nothing is owed.
            if wire.write_failed.is_none() && !wire.gone {
                wire.waits.push(Wait { call: self.call, came: self.at, went });
            }
            let left = self.script.wait_ms - self.waited_ms;
            let patience = (self.told_ms + self.quiet_ms).saturating_sub(self.clock.now_ms());
            if self.quiet_ms > 0 && left > patience {
                self.waited_ms += patience;
                self.clock.advance_ms(patience);
                self.told_ms = self.clock.now_ms();
                let (phase, sent, cause) = (Phase::Relay, Sent::Part, Cause::Quiet);
                return Err(Failure { phase, sent, cause, reused: false, after_ms: 0 });
            }
            self.waited_ms = 0;
            self.clock.advance_ms(left);
        }
        let waits_one_in = self.script.waits_one_in;
        self.is_ready = waits_one_in == 0 || !self.prng.one_in(waits_one_in);
        let stop = match self.script.end {
            End::Proper => self.script.body.len(),
            End::Fails(after, _) | End::Panics(after) => after,
        };
        if self.at == stop {
            return match self.script.end {
                End::Proper => Ok(&[]),
                End::Fails(_, failure) => Err(meet(failure, &self.wire, &self.clock)),
                End::Panics(_) => resume_unwind(Box::new(Injected)),
            };
        }
        let room = limits::RELAY_BYTES.min(stop - self.at);
        let count = piece(room, self.script.piece_max, &mut self.prng);
        self.at += count;
        Ok(&self.script.body[self.at - count..self.at])
    }
}
