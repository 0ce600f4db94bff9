//! Sessions over WebSocket: gates, handshakes on both sides, and events in both directions.
//!
//! A session is an exchange like the others. Where the query names the model, every gate stands
//! before the handshake; where the first event does, we shake hands ourselves, read it, and tell of
//! a refusal within the session. What is answered in it is counted by `turns.rs`. One coroutine
//! serves both ends. It reads from one only when all
//! that it owes the other has been taken, so that a slow reader slows the writer down; of each
//! direction at most one message is held.

use std::time::{Duration, Instant};

use super::attempt::{self, Plan, Sending};
use super::crowd::{Scarce, Share};
use super::note::Note;
use super::session::Session;
use super::turns::Turns;
use super::{Core, Downstream, Ended, Pipe, Reply, Stop, Upstream, nameless, relay, settlement};
use crate::dialect::ask::AskError;
use crate::dialect::headers;
use crate::dialect::live::{self, Call, Live};
use crate::dialect::refusal::Refusal;
use crate::failure::{Cause, Failure, Phase, Sent};
use crate::limits;
use crate::metrics::Count;
use crate::route::channel::Destination;
use crate::route::plan::{Need, Target};
use crate::route::snapshot::Snapshot;
use crate::wire::head::Head;
use crate::wire::header;
use crate::wire::websocket::{self, FrameError, Kind, Reader, Unit};

/// How often a silent session looks whether the process is draining.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Codes of closes: RFC 6455 section 7.4.1 and the registry that it opened.
const GOING_AWAY: u16 = 1001;
const REFUSED: u16 = 1008;
const BROKEN: u16 = 1011;
const TRY_LATER: u16 = 1013;

/// Answers a handshake for a path of a session. Its frame stays out of its caller's.
#[inline(never)]
pub(super) fn answer<D: Downstream, U: Upstream>(
    core: &Core,
    snapshot: &Snapshot,
    session: &mut Session<D>,
    up: &mut U,
    head: &Head,
    note: &mut Note,
    call: &Call<'_>,
) -> Result<(), Ended> {
    note.endpoint = call.live.endpoint.name;
    let key = websocket::key_of(head)?;
    if core.is_draining() {
        return Err(Refusal::shutting_down().into());
    }
    let offered = live::protocols_up(head.headers.all("sec-websocket-protocol"));
    let hands = Hands { core, snapshot, head, call, key, offered };
    if call.is_named_before() {
        return hands.by_query(session, up, note);
    }
    hands.greet(session, None::<&U::Reply>, note)?;
    hands.by_event(session, up, note)
}

/// What both kinds of handshakes need.
pub(super) struct Hands<'a> {
    pub(super) core: &'a Core,
    pub(super) snapshot: &'a Snapshot,
    pub(super) call: &'a Call<'a>,
    head: &'a Head,
    key: &'a [u8],
    offered: Vec<&'a str>,
}

impl Hands<'_> {
    /// The query or the path names the model, or nothing does.
    fn by_query<D: Downstream, U: Upstream>(
        &self,
        session: &mut Session<D>,
        up: &mut U,
        note: &mut Note,
    ) -> Result<(), Ended> {
        let asked = self.call.model()?.unwrap_or_default();
        let target = self.target(&asked, note)?;
        let protocols = self.offered.join(", ");
        let plan = self.plan(&target, &protocols, note)?;
        settlement::admit(self.core, self.snapshot, up, std::slice::from_ref(&plan), note)?;
        let sending = Sending::held(self.snapshot, &[]);
        let mut reply = attempt::ask(self.core, up, &plan, sending, note)?;
        if reply.status() != 101 {
            return relay::relay(self.core, self.snapshot, session, self.head, &plan, reply, note);
        }
        self.greet(session, Some(&reply), note)?;
        let mut tunnel = Tunnel::new(self.core, self.snapshot, session, self.call.live, note);
        tunnel.turns = Some(Turns::of(self, &plan, tunnel.note));
        let result = tunnel.run(&mut reply);
        tunnel.end(result)
    }

    /// The first event names the model. A refusal is told within the session.
    fn by_event<D: Downstream, U: Upstream>(
        &self,
        session: &mut Session<D>,
        up: &mut U,
        note: &mut Note,
    ) -> Result<(), Ended> {
        let mut tunnel = Tunnel::new(self.core, self.snapshot, session, self.call.live, note);
        let result = match tunnel.first_event() {
            Ok(Some(first)) => match self.open(&mut tunnel, up, first) {
                Err(Ended::Refused(refusal)) => {
                    let code = if refusal.status < 500 { REFUSED } else { BROKEN };
                    Err(tunnel.refuse(refusal, code))
                }
                result => result,
            },
            Ok(None) => Ok(()),
            Err(ended) => Err(ended),
        };
        tunnel.end(result)
    }

    /// Opens the session that this event asks for, and passes events on until it ends. The answer
    /// of the handshake lives as long, and its credential's seat with it.
    fn open<'h, D: Downstream, U: Upstream>(
        &'h self,
        tunnel: &mut Tunnel<'h, D>,
        up: &mut U,
        first: Unit,
    ) -> Result<(), Ended> {
        let asked = live::first(self.call.live, &first.payload)?;
        let target = self.target(&asked, tunnel.note)?;
        let protocols = self.offered.join(", ");
        let plan = self.plan(&target, &protocols, tunnel.note)?;
        settlement::admit(self.core, self.snapshot, up, std::slice::from_ref(&plan), tunnel.note)?;
        let sending = Sending::held(self.snapshot, &[]);
        let mut answer = attempt::ask(self.core, up, &plan, sending, tunnel.note)?;
        if answer.status() != 101 {
            return Err(Refusal::not_opened(answer.status()).into());
        }
        tunnel.turns = Some(Turns::of(self, &plan, tunnel.note));
        tunnel.run_from(first, &mut answer)
    }

    /// The provider that the path names.
    pub(super) fn scope(&self) -> Option<usize> {
        self.call.scope.as_deref().and_then(|name| self.snapshot.provider_named(name))
    }

    fn target<'t>(&'t self, asked: &'t str, note: &mut Note) -> Result<Target<'t>, Refusal> {
        let scope = self.scope();
        let dialect = self.call.live.endpoint.dialect;
        if !asked.is_empty() {
            return super::target(self.snapshot, scope, asked, note, dialect);
        }
        nameless::target(self.snapshot, scope, self.head, note, dialect, Need::Every)
    }

    /// The way to a model, once the last gates are passed.
    pub(super) fn plan<'t>(
        &'t self,
        target: &'t Target<'t>,
        protocols: &'t str,
        note: &Note,
    ) -> Result<Plan<'t>, Refusal> {
        let user = note.user.unwrap_or_default();
        let destination = super::admit(self.snapshot, user, target, &self.call.live.endpoint)?;
        Ok(self.plan_to(destination, target, protocols))
    }

    /// The same without gates; `None`: the provider does not speak this.
    pub(super) fn ungated<'t>(&'t self, target: &'t Target<'t>) -> Option<Plan<'t>> {
        let provider = &self.snapshot.providers[target.provider];
        let destination = provider.destination(self.call.live.endpoint.dialect)?;
        Some(self.plan_to(destination, target, ""))
    }

    fn plan_to<'t>(
        &'t self,
        destination: &'t Destination,
        target: &'t Target<'t>,
        protocols: &'t str,
    ) -> Plan<'t> {
        let live: &'static Live = self.call.live;
        let endpoint = &live.endpoint;
        let provider = &self.snapshot.providers[target.provider];
        let model = target.model_served;
        let model = (live.in_query && !model.is_empty()).then_some(model);
        let url = destination.live_url(endpoint, self.call.version, model, &self.call.rest());
        let plain = Plan::plain(provider, destination, self.head, endpoint, target, url);
        plain.upgraded(protocols)
    }

    /// Sends our half of the handshake with the caller: from here on this is a session.
    fn greet<D: Downstream, R: Reply>(
        &self,
        session: &mut Session<D>,
        reply: Option<&R>,
        note: &mut Note,
    ) -> Result<(), Ended> {
        let mut out = Vec::with_capacity(512);
        header::status_line(101, &mut out);
        header::field("connection", b"Upgrade", &mut out);
        header::field("upgrade", b"websocket", &mut out);
        let accept = websocket::accept_of(self.key);
        header::field("sec-websocket-accept", accept.as_bytes(), &mut out);
        // A browser gives up when it offered some and none is chosen.
        let mut chosen = self.offered.first().copied();
        if let Some(reply) = reply {
            headers::forward_down(|| reply.headers(), &mut out);
            let theirs = reply.headers().find(|(name, _)| *name == "sec-websocket-protocol");
            let theirs = theirs.and_then(|(_, value)| str::from_utf8(value).ok());
            let is_theirs = |offered: &&&str| theirs == Some(**offered);
            chosen = self.offered.iter().find(is_theirs).copied().or(chosen);
        }
        if let Some(protocol) = chosen {
            header::field("sec-websocket-protocol", protocol.as_bytes(), &mut out);
        }
        header::field("x-gproxy-request-id", note.id.as_str().as_bytes(), &mut out);
        let family = self.call.live.endpoint.dialect.family();
        relay::write_id(family, reply.into_iter().flat_map(R::headers), note, &mut out);
        let overhead_us = note.overhead_us(self.core.now());
        header::field_number("x-gproxy-overhead-us", overhead_us, &mut out);
        out.extend_from_slice(b"\r\n");
        session.close_after();
        note.status = 101;
        session.send(&out)
    }
}

/// What one end sends, and what it is owed.
struct Side {
    reader: Reader,
    out: Vec<u8>,
    sent: usize,
    /// It has said its last word.
    has_closed: bool,
    /// Our last word to it stands in `out`, or has left.
    was_closed: bool,
}

impl Side {
    fn new(masked: bool, event_bytes_max: usize) -> Side {
        let reader = Reader::new(masked, event_bytes_max);
        Side { reader, out: Vec::new(), sent: 0, has_closed: false, was_closed: false }
    }

    fn put(&mut self, kind: Kind, payload: &[u8], mask: Option<[u8; 4]>) {
        if !self.was_closed {
            websocket::write(kind, payload, mask, &mut self.out);
            self.was_closed = kind == Kind::Close;
        }
    }

    fn owed(&self) -> &[u8] {
        &self.out[self.sent..]
    }

    /// So many bytes left.
    fn gave(&mut self, count: usize) -> bool {
        self.sent += count;
        if self.sent == self.out.len() {
            self.sent = 0;
            self.out.clear();
            self.out.shrink_to(limits::EVENT_KEPT_BYTES_MAX);
        }
        count > 0
    }

    fn held(&self) -> usize {
        self.reader.held() + self.out.capacity()
    }

    /// Nothing more is read of it, and what was is forgotten.
    fn deafen(&mut self) {
        self.has_closed = true;
        self.reader = Reader::new(false, 0);
    }
}

/// A session after the handshake with its caller.
struct Tunnel<'a, D: Downstream> {
    core: &'a Core,
    session: &'a mut Session<D>,
    note: &'a mut Note,
    live: &'static Live,
    turns: Option<Turns<'a>>,
    down: Side,
    up: Side,
    input: Vec<u8>,
    share: Share,
    // When the caller took some of what he is owed, or was owed nothing.
    taken_at: Instant,
    // When the upstream said something, or could not since the caller takes nothing.
    heard_at: Instant,
    // From our last words on: until when the ends have time for theirs.
    closing_until: Option<Instant>,
    // He is owed an answer of ours, which he has to read before he is read again.
    answered: bool,
    // It did not end as both wished.
    broke: bool,
    // Nothing more can be written to the upstream.
    is_lost: bool,
    // How it ended, in a word.
    outcome: &'static str,
}

/// However the session ends, by a panic too, what is open in it is settled.
impl<D: Downstream> Drop for Tunnel<'_, D> {
    fn drop(&mut self) {
        if let Some(turns) = &mut self.turns {
            turns.leave(self.note, self.outcome);
        }
    }
}

impl<'a, D: Downstream> Tunnel<'a, D> {
    fn new(
        core: &'a Core,
        snapshot: &Snapshot,
        session: &'a mut Session<D>,
        live: &'static Live,
        note: &'a mut Note,
    ) -> Tunnel<'a, D> {
        let event_bytes_max = snapshot.limits.event_bytes_max;
        Tunnel {
            core,
            session,
            note,
            live,
            turns: None,
            down: Side::new(true, event_bytes_max),
            up: Side::new(false, event_bytes_max),
            input: vec![0; limits::RELAY_BYTES],
            share: Share::new(core, Scarce::Bytes),
            taken_at: core.now(),
            heard_at: core.now(),
            closing_until: None,
            answered: false,
            broke: false,
            is_lost: false,
            outcome: "panic",
        }
    }

    /// Waits for the first event; `None`: the session ended before one.
    fn first_event(&mut self) -> Result<Option<Unit>, Ended> {
        let idle_until = self.core.now() + Duration::from_millis(limits::TUNNEL_IDLE_MS_MAX);
        loop {
            // Whatever came behind the first event is read when there is somebody to tell it to.
            let (used, unit) = match self.down.reader.feed(self.session.unread()) {
                Ok(fed) => fed,
                Err(error) => return Err(self.leave(error.close_code(), "")),
            };
            self.session.used(used);
            match unit {
                Some(Unit { kind: Kind::Close, payload }) => {
                    self.down.put(Kind::Close, &payload, None);
                    return self.tell().map(|()| None);
                }
                Some(Unit { kind: Kind::Ping, payload }) => {
                    self.down.put(Kind::Pong, &payload, None);
                    self.tell()?;
                    continue;
                }
                Some(Unit { kind: Kind::Pong, .. }) => continue,
                Some(unit) => return Ok(Some(unit)),
                None => {}
            }
            if !self.has_room() {
                self.down.deafen();
                return Err(self.refuse(Refusal::overloaded(), TRY_LATER));
            }
            let now = self.core.now();
            if self.core.is_draining() || now >= idle_until {
                return Err(self.leave(GOING_AWAY, "no event came"));
            }
            match self.session.fill(idle_until.min(now + LOOK_EVERY)) {
                Ok(0) | Err(Stop::Gone) => return Err(Ended::Gone),
                Ok(_) | Err(Stop::TimedOut | Stop::ShuttingDown) => {}
            }
        }
    }

    /// Tells the caller what it is owed, and waits for that.
    fn tell(&mut self) -> Result<(), Ended> {
        let sent = self.session.send(self.down.owed());
        let count = self.down.owed().len();
        self.down.gave(count);
        sent
    }

    fn leave(&mut self, code: u16, reason: &str) -> Ended {
        self.down.put(Kind::Close, &websocket::close(code, reason), None);
        match self.tell() {
            Ok(()) => Ended::Cut,
            Err(gone) => gone,
        }
    }

    /// Ends a session that leads nowhere.
    fn refuse(&mut self, refusal: Refusal, code: u16) -> Ended {
        self.put_error(&refusal);
        self.note.status = refusal.status;
        match self.leave(code, &refusal.message) {
            Ended::Cut => Ended::Told(refusal),
            gone => gone,
        }
    }

    /// Says it in an event, where the dialect has one for it.
    fn put_error(&mut self, refusal: &Refusal) {
        let event = live::error_event(self.live, refusal, self.note.id.as_str());
        if let Some(event) = &event {
            self.note.bytes_out += event.len() as u64;
            self.down.put(Kind::Text, event, None);
        }
    }

    /// Our last words are to arrive.
    fn end(mut self, result: Result<(), Ended>) -> Result<(), Ended> {
        self.outcome = match &result {
            Ok(()) => "ok",
            Err(Ended::Gone) => "gone",
            Err(_) => "cut",
        };
        self.session.lingers = matches!(result, Err(Ended::Cut | Ended::Told(_)));
        result
    }

    fn run_from<R: Reply>(&mut self, first: Unit, reply: &mut R) -> Result<(), Ended> {
        if let Some(pipe) = reply.pipe() {
            self.pass_up(pipe, first);
        }
        self.run(reply)
    }

    /// Passes events on in both directions until the session ends.
    fn run<R: Reply>(&mut self, reply: &mut R) -> Result<(), Ended> {
        let pipe = reply.pipe().expect("the caller has seen that it switched protocols");
        let mut moved_at = self.core.now();
        let pause = Duration::from_millis(limits::WRITE_PAUSE_MS_MAX);
        loop {
            let now = self.core.now();
            let moved = self.pump(pipe, now)?;
            if self.is_over(now) {
                return if self.broke { Err(Ended::Cut) } else { Ok(()) };
            }
            // Who does not read cannot be told anything either.
            if now.saturating_duration_since(self.taken_at) >= pause {
                return Err(Ended::Gone);
            }
            moved_at = if moved { now } else { moved_at };
            if let Some((refusal, code)) = self.reason(now, moved_at) {
                self.give_up(pipe, &refusal, code);
            }
            if moved {
                pipe.give_way();
                continue;
            }
            // While the upstream takes nothing, nothing is read from the caller, his end neither.
            let is_stuck = !self.up.owed().is_empty();
            let silent = now.saturating_duration_since(moved_at);
            if is_stuck && silent >= LOOK_EVERY && pipe.has_left() {
                return Err(Ended::Gone);
            }
            pipe.wait(self.closing_until.unwrap_or(now + LOOK_EVERY).min(now + LOOK_EVERY));
        }
    }

    /// Why the session cannot go on, if so, and the code of its close. `moved_at`: when either end
    /// said or took something.
    fn reason(&self, now: Instant, moved_at: Instant) -> Option<(Refusal, u16)> {
        let silent = now.saturating_duration_since(moved_at);
        let drains = self.core.is_draining() && silent >= LOOK_EVERY && !self.is_answering();
        if drains || self.core.is_cut() {
            Some((Refusal::shutting_down(), GOING_AWAY))
        } else if let Some(phase) = self.overdue(now) {
            Some((Refusal::from(broken(phase, Cause::TimedOut)), BROKEN))
        } else if silent >= Duration::from_millis(limits::TUNNEL_IDLE_MS_MAX) {
            Some((Refusal::from(broken(Phase::Relay, Cause::TimedOut)), GOING_AWAY))
        } else {
            None
        }
    }

    /// The phase of an answer in which the upstream is silent for too long.
    fn overdue(&self, now: Instant) -> Option<Phase> {
        let (since, phase, limit) = self.turns.as_ref()?.awaited()?;
        let silent = now.saturating_duration_since(since.max(self.heard_at));
        (silent >= limit).then_some(phase)
    }

    /// The caller waits for an answer, or for more of one.
    fn is_answering(&self) -> bool {
        self.turns.as_ref().is_some_and(Turns::is_open)
    }

    /// Ends a session that cannot go on; of an answer that is open the caller is told why.
    fn give_up(&mut self, pipe: &mut dyn Pipe, refusal: &Refusal, code: u16) {
        if self.closing_until.is_none() && self.is_answering() {
            self.broke = true;
            self.put_error(refusal);
            self.down.put(Kind::Close, &websocket::close(code, &refusal.message), None);
        }
        self.close(pipe, code, GOING_AWAY);
    }

    /// Both have said their last words and heard ours, or had time enough for it.
    fn is_over(&self, now: Instant) -> bool {
        let quiet = |side: &Side| side.was_closed && side.owed().is_empty();
        let done = quiet(&self.down) && quiet(&self.up);
        let heard = self.down.has_closed && self.up.has_closed;
        (done && heard) || self.closing_until.is_some_and(|until| now >= until)
    }

    /// Moves what can be moved now. Whether something was.
    fn pump(&mut self, pipe: &mut dyn Pipe, now: Instant) -> Result<bool, Ended> {
        // Also when nothing is owed: TLS may hold back what it took.
        let count = self.session.down.write_now(self.down.owed()).map_err(|_| Ended::Gone)?;
        let mut moved = self.down.gave(count);
        if moved || self.down.owed().is_empty() {
            self.taken_at = now;
        }
        if !self.is_lost {
            match pipe.write(self.up.owed()) {
                Ok(count) => moved |= self.up.gave(count),
                Err(_) => self.lost(),
            }
        }
        self.answered &= !self.down.owed().is_empty();
        if self.up.owed().is_empty() && !self.answered && !self.down.has_closed {
            moved |= self.read_down(pipe)?;
        }
        let is_free = self.down.owed().is_empty();
        let heard = is_free && !self.up.has_closed && self.read_up(pipe);
        if heard || !is_free {
            self.heard_at = now;
        }
        moved |= heard;
        if !self.has_room() {
            self.broke = true;
            self.down.deafen();
            self.up.deafen();
            self.end_by(pipe, &Refusal::overloaded());
        }
        Ok(moved)
    }

    fn read_down(&mut self, pipe: &mut dyn Pipe) -> Result<bool, Ended> {
        let mut input = std::mem::take(&mut self.input);
        // What came with the handshake comes first.
        let begun = self.session.unread().len().min(input.len());
        let count = match begun {
            0 => self.session.down.read_now(&mut input),
            _ => {
                input[..begun].copy_from_slice(&self.session.unread()[..begun]);
                self.session.used(begun);
                Ok(Some(begun))
            }
        };
        let result = match count {
            Ok(None) => Ok(false),
            Ok(Some(count @ 1..)) => {
                self.feed_down(pipe, &input[..count]);
                Ok(true)
            }
            Ok(Some(0)) | Err(_) if self.closing_until.is_some() => {
                self.down.has_closed = true;
                Ok(true)
            }
            Ok(Some(_)) | Err(_) => Err(Ended::Gone),
        };
        self.input = input;
        result
    }

    fn feed_down(&mut self, pipe: &mut dyn Pipe, mut rest: &[u8]) {
        while !self.down.has_closed {
            match self.down.reader.feed(rest) {
                Ok((used, Some(unit))) => {
                    rest = &rest[used..];
                    self.pass_up(pipe, unit);
                }
                Ok((_, None)) => return,
                Err(error) => return self.misspoke(pipe, error, true),
            }
        }
    }

    fn read_up(&mut self, pipe: &mut dyn Pipe) -> bool {
        let mut input = std::mem::take(&mut self.input);
        let moved = match pipe.read(&mut input) {
            Ok(None) => false,
            Ok(Some(count @ 1..)) => {
                self.feed_up(pipe, &input[..count]);
                true
            }
            Ok(Some(0)) | Err(_) => {
                self.lost();
                true
            }
        };
        self.input = input;
        moved
    }

    fn feed_up(&mut self, pipe: &mut dyn Pipe, mut rest: &[u8]) {
        while !self.up.has_closed {
            match self.up.reader.feed(rest) {
                Ok((used, Some(unit))) => {
                    rest = &rest[used..];
                    self.pass_down(pipe, unit);
                }
                Ok((_, None)) => return,
                Err(error) => return self.misspoke(pipe, error, false),
            }
        }
    }

    /// One whole message or control frame of the caller's.
    fn pass_up(&mut self, pipe: &mut dyn Pipe, mut unit: Unit) {
        match unit.kind {
            Kind::Text | Kind::Binary => {
                self.note.bytes_in += unit.payload.len() as u64;
                let result = match &mut self.turns {
                    Some(turns) => turns.up(self.note, &mut unit.payload),
                    None => Err(AskError::ModelMissing.into()),
                };
                if let Err(refusal) = result {
                    return self.not_sent(pipe, &refusal);
                }
            }
            Kind::Close => {
                self.down.has_closed = true;
                self.begin_closing();
            }
            Kind::Ping | Kind::Pong => {}
        }
        self.up.put(unit.kind, &unit.payload, Some(pipe.mask()));
    }

    /// An event that must not go up: its caller is told, and may go on where it can be told, unless
    /// he has spent what he had.
    fn not_sent(&mut self, pipe: &mut dyn Pipe, refusal: &Refusal) {
        if live::has_events(self.live) && refusal.status != 402 {
            self.put_error(refusal);
        } else {
            self.end_by(pipe, refusal);
        }
        self.answered = true;
    }

    /// The session cannot go on: in the dialect's words, if it has some, and in the close.
    fn end_by(&mut self, pipe: &mut dyn Pipe, refusal: &Refusal) {
        self.put_error(refusal);
        let code = if refusal.status < 500 { REFUSED } else { TRY_LATER };
        self.down.put(Kind::Close, &websocket::close(code, &refusal.message), None);
        self.close(pipe, code, GOING_AWAY);
        if refusal.status == 402 {
            self.note.quota_ended = true;
            self.core.metrics.count(Count::StreamsEnded);
        }
    }

    /// One whole message or control frame of the upstream's.
    fn pass_down(&mut self, pipe: &mut dyn Pipe, mut unit: Unit) {
        match unit.kind {
            Kind::Text | Kind::Binary => {
                let refused = match &mut self.turns {
                    Some(turns) => turns.down(self.note, &mut unit.payload).err(),
                    None => None,
                };
                self.note.bytes_out += unit.payload.len() as u64;
                if let Some(refusal) = refused {
                    self.down.put(unit.kind, &unit.payload, None);
                    return self.end_by(pipe, &refusal);
                }
            }
            Kind::Close => {
                self.up.has_closed = true;
                self.begin_closing();
            }
            Kind::Ping | Kind::Pong => {}
        }
        self.down.put(unit.kind, &unit.payload, None);
    }

    fn begin_closing(&mut self) {
        let time = Duration::from_millis(limits::TUNNEL_CLOSE_MS_MAX);
        self.closing_until.get_or_insert(self.core.now() + time);
    }

    /// Our last words to both.
    fn close(&mut self, pipe: &mut dyn Pipe, down: u16, up: u16) {
        self.down.put(Kind::Close, &websocket::close(down, ""), None);
        self.up.put(Kind::Close, &websocket::close(up, ""), Some(pipe.mask()));
        self.begin_closing();
    }

    /// An end broke a rule: nothing more can be read from it.
    fn misspoke(&mut self, pipe: &mut dyn Pipe, error: FrameError, is_down: bool) {
        self.broke = true;
        let code = error.close_code();
        match is_down {
            true => {
                self.down.has_closed = true;
                self.close(pipe, code, GOING_AWAY);
            }
            false => {
                self.up.has_closed = true;
                self.close(pipe, if code == 1009 { code } else { BROKEN }, code);
            }
        }
    }

    /// The upstream has gone. Without a last word of anybody's, ours says so.
    fn lost(&mut self) {
        if self.closing_until.is_none() {
            self.broke = true;
            let refusal = Refusal::from(broken(Phase::Relay, Cause::Disconnected));
            self.put_error(&refusal);
            self.down.put(Kind::Close, &websocket::close(BROKEN, &refusal.message), None);
            self.begin_closing();
        }
        self.down.put(Kind::Close, &websocket::close(GOING_AWAY, ""), None);
        self.is_lost = true;
        self.up.has_closed = true;
        self.up.was_closed = true;
        let count = self.up.owed().len();
        self.up.gave(count);
    }

    /// Counts what is held, and whether there is room for what has come in addition. A little is
    /// always let pass.
    fn has_room(&mut self) -> bool {
        let held = self.down.held() + self.up.held();
        self.share.set(self.core, self.note, held).is_ok() || held <= limits::RELAY_BYTES
    }
}

/// How an upstream fails within a session.
fn broken(phase: Phase, cause: Cause) -> Failure {
    Failure { phase, sent: Sent::Part, cause, reused: false, after_ms: 0 }
}
