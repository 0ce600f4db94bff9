//! The downstream side of a connection: heads and bodies in, answers out.
//!
//! Holds what was read and not yet used between requests, so a pipelined request is answered in its
//! turn. An unread body is drained within a cap or the connection closes: it is never read as the
//! next request.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::crowd::{Full, Scarce, Share};
use super::note::Note;
use super::{Awaited, Core, Downstream, Ended, Next, Stop};
use crate::admin::Page;
use crate::dialect::Family;
use crate::dialect::endpoint::Endpoint;
use crate::dialect::ratelimit;
use crate::dialect::refusal::Refusal;
use crate::limits;
use crate::metrics::Count;
use crate::route::snapshot::Limits;
use crate::wire::body::Decoder;
use crate::wire::head::{self, Framing, Head};
use crate::wire::{WireError, body, header};

/// Room for bytes of the downstream; it grows by as much while a head does not fit.
const READ_BYTES: usize = limits::RELAY_BYTES;
/// Bytes asked of the downstream at once, at least.
const READ_BYTES_MIN: usize = 1024;

/// Room made at once for a body that announces more.
const RESERVED_BYTES: usize = 64 * 1024;

/// One downstream connection.
pub struct Session<D: Downstream> {
    /// The connection itself.
    pub down: D,
    // Invariant: `start <= end <= buffer.len()`; the bytes between are read and not yet used. The
    // rest of the buffer is room.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Room for the heads of replies, kept between requests.
    pub scratch: Vec<u8>,
    body: Option<Decoder>,
    continue_owed: bool,
    http11: bool,
    keep: bool,
    committed: bool,
    // It was given up since its downstream did not read.
    stalled: bool,
    // Last words were said that are to arrive, though it ends.
    pub(super) lingers: bool,
    // A stream's head went down before its upstream spoke.
    early: Option<&'static Endpoint>,
    family: Family,
    // See [`Session::meets`]; 0: nobody.
    met: Cell<u64>,
    /// Its next request is awaited, if the process stops now.
    pub awaited: Option<Awaited>,
}

/// What came instead of, or as, the next request.
pub enum Arrival {
    /// A head that broke no rule.
    Head(Head),
    /// Nothing, for a while.
    Idle,
    /// The downstream ended the connection between two requests.
    Closed,
    /// Something that is not a request.
    Broken(Refusal),
}

/// A request body, whole, and the memory that is counted for it.
pub struct Body {
    /// The bytes.
    pub bytes: Vec<u8>,
    share: Share,
}

impl Body {
    /// Without a byte.
    pub(super) fn empty(core: &Core) -> Body {
        Body { bytes: Vec::new(), share: Share::new(core, Scarce::Bytes) }
    }

    /// Puts other bytes in the place of these.
    pub(super) fn replace(&mut self, core: &Core, note: &Note, bytes: Vec<u8>) -> Result<(), Full> {
        self.bytes = bytes;
        trim(&mut self.bytes);
        self.count(core, note)
    }

    fn count(&mut self, core: &Core, note: &Note) -> Result<(), Full> {
        self.share.set(core, note, self.bytes.capacity())
    }
}

/// Makes room for what comes next of a body. One whose length is known takes that and no more in
/// the end, and on the way no more than twice what has come: an announcement is no body.
fn make_room(bytes: &mut Vec<u8>, length: Option<u64>, coming: usize) {
    let Some(length) = length else { return };
    let has = bytes.len();
    let left = usize::try_from(length).unwrap_or(usize::MAX).saturating_sub(has);
    if bytes.capacity() - has < left.min(coming) {
        bytes.reserve_exact(left.min(has.max(coming).max(RESERVED_BYTES)));
    }
}

/// Gives back what was taken for more than came.
fn trim(bytes: &mut Vec<u8>) {
    if bytes.capacity() - bytes.len() > RESERVED_BYTES {
        bytes.shrink_to_fit();
    }
}

impl<D: Downstream> Session<D> {
    /// A session on a connection that has just been opened or woken.
    pub fn new(down: D) -> Session<D> {
        Session {
            down,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            scratch: Vec::new(),
            body: None,
            continue_owed: false,
            http11: true,
            keep: true,
            committed: false,
            stalled: false,
            lingers: false,
            early: None,
            family: Family::Openai,
            met: Cell::new(0),
            awaited: None,
        }
    }

    /// A key was let in on this connection; `who` is a number for it and where it came from.
    pub(super) fn meets(&self, who: u64) {
        self.met.set(who);
    }

    /// Whether that was the last one that was.
    pub(super) fn has_met(&self, who: u64) -> bool {
        self.met.get() == who
    }

    /// Waits for a head. The first byte may take a while; from then on the clock runs, however
    /// slowly the rest comes.
    pub fn read_head(&mut self, core: &Core, limits: &Limits) -> Arrival {
        self.body = None;
        self.committed = false;
        self.early = None;
        let begun = core.now();
        let mut deadline = None;
        let mut searched = 0;
        loop {
            if self.start < self.end {
                let unread = &self.buffer[self.start..self.end];
                match head::parse(unread, &mut searched, limits.head_bytes_max) {
                    Ok(Some((head, used))) => {
                        self.start += used;
                        return self.begin(head, limits);
                    }
                    Ok(None) => {}
                    Err(error) => return self.broken(error.into()),
                }
                deadline.get_or_insert(core.now() + ms(limits::HEAD_MS_MAX));
                self.awaited.get_or_insert_with(|| core.await_one());
            }
            let until = deadline.unwrap_or(begun + ms(limits::PARK_AFTER_MS));
            match self.fill(until) {
                Ok(0) if deadline.is_some() => return self.broken(WireError::Truncated.into()),
                Ok(0) | Err(Stop::Gone) => return Arrival::Closed,
                Err(Stop::TimedOut) if deadline.is_some() => {
                    return self.broken(Refusal::timeout());
                }
                Err(Stop::ShuttingDown) if deadline.is_some() => {
                    return self.broken(Refusal::shutting_down());
                }
                Err(Stop::ShuttingDown) => return Arrival::Closed,
                Err(Stop::TimedOut) if core.is_draining() && self.awaited.is_none() => {
                    return Arrival::Closed;
                }
                Err(Stop::TimedOut) => return Arrival::Idle,
                Ok(_) => {}
            }
        }
    }

    fn broken(&mut self, refusal: Refusal) -> Arrival {
        self.keep = false;
        self.http11 = true;
        Arrival::Broken(refusal)
    }

    fn begin(&mut self, mut head: Head, limits: &Limits) -> Arrival {
        head.secure = self.down.is_secure();
        self.http11 = head.http11;
        self.keep = head.keep_alive;
        self.continue_owed = head.expects_continue && head.framing != Framing::None;
        match Decoder::new(head.framing, limits.body_bytes_max) {
            Ok(decoder) => {
                self.body = Some(decoder).filter(|decoder| !decoder.is_done());
                Arrival::Head(head)
            }
            // Refused when the body is asked for, so that a wrong key is told first.
            Err(_) => {
                self.keep = false;
                self.body = None;
                Arrival::Head(head)
            }
        }
    }

    /// Reads the whole body, within its limits in size and time.
    pub fn read_body(&mut self, core: &Core, head: &Head, note: &Note) -> Result<Body, Refusal> {
        let mut decoder = match self.body.take() {
            Some(decoder) => decoder,
            None => Decoder::new(head.framing, note.limits().body_bytes_max)?,
        };
        let mut body = Body::empty(core);
        if decoder.is_done() {
            return Ok(body);
        }
        self.ask_for_body()?;
        let length = head.framing.length();
        let result = self.collect(core, note, &mut decoder, &mut body, length);
        if let Err(refusal) = result {
            // Where the next request would begin is not known, or not worth waiting for.
            self.keep = false;
            return Err(refusal);
        }
        Ok(body)
    }

    /// Tells a caller who waits for it that the body is wanted.
    fn ask_for_body(&mut self) -> Result<(), Refusal> {
        if std::mem::take(&mut self.continue_owed) && self.start == self.end {
            let sent = self.down.write(b"HTTP/1.1 100 Continue\r\n\r\n");
            sent.map_err(|_| Refusal::from(WireError::Truncated))?;
        }
        Ok(())
    }

    /// Makes ready to read the body piece by piece, up to `bytes_max` in all.
    pub fn open_body(&mut self, head: &Head, bytes_max: u64) -> Result<(), Refusal> {
        let decoder = Decoder::new(head.framing, bytes_max).inspect_err(|_| self.keep = false)?;
        self.keep = head.keep_alive;
        self.body = Some(decoder).filter(|decoder| !decoder.is_done());
        Ok(())
    }

    /// Whether all of an opened body was read.
    pub fn has_read_body(&self) -> bool {
        self.body.is_none()
    }

    /// Appends the next bytes of an opened body to `out`: about `most`, none at its end. All of the
    /// body has to be there by `until`, if that is said.
    pub fn read_piece(
        &mut self,
        core: &Core,
        out: &mut Vec<u8>,
        most: usize,
        until: Option<Instant>,
    ) -> Result<(), Refusal> {
        let Some(mut decoder) = self.body.take() else { return Ok(()) };
        self.ask_for_body()?;
        let result = self.decode_piece(core, &mut decoder, out, most, until);
        match result {
            Ok(()) => self.body = Some(decoder).filter(|decoder| !decoder.is_done()),
            Err(_) => self.keep = false,
        }
        result
    }

    fn decode_piece(
        &mut self,
        core: &Core,
        decoder: &mut Decoder,
        out: &mut Vec<u8>,
        most: usize,
        until: Option<Instant>,
    ) -> Result<(), Refusal> {
        let before = out.len();
        loop {
            let end = self.end.min(self.start + most.max(1));
            let used = decoder.feed(&self.buffer[self.start..end], out)?;
            self.start += used;
            if out.len() > before || decoder.is_done() {
                return Ok(());
            }
            if self.start < self.end {
                continue;
            }
            let paused = core.now() + ms(limits::BODY_PAUSE_MS_MAX);
            match self.fill(until.map_or(paused, |until| until.min(paused))) {
                Ok(0) | Err(Stop::Gone) => return Err(Refusal::from(WireError::Truncated)),
                Err(Stop::TimedOut) => return Err(Refusal::timeout()),
                Err(Stop::ShuttingDown) => return Err(Refusal::shutting_down()),
                Ok(_) => {}
            }
        }
    }

    fn collect(
        &mut self,
        core: &Core,
        note: &Note,
        decoder: &mut Decoder,
        body: &mut Body,
        length: Option<u64>,
    ) -> Result<(), Refusal> {
        // Most bodies came with their head: no time is asked for then.
        let mut all_until = None;
        loop {
            make_room(&mut body.bytes, length, self.end - self.start);
            let used = decoder.feed(&self.buffer[self.start..self.end], &mut body.bytes)?;
            self.start += used;
            if decoder.is_done() {
                trim(&mut body.bytes);
            }
            body.count(core, note).map_err(Full::refusal)?;
            if decoder.is_done() {
                return Ok(());
            }
            let now = core.now();
            let all_until = *all_until.get_or_insert(now + ms(limits::BODY_MS_MAX));
            match self.fill(all_until.min(now + ms(limits::BODY_PAUSE_MS_MAX))) {
                Ok(0) | Err(Stop::Gone) => return Err(Refusal::from(WireError::Truncated)),
                Err(Stop::TimedOut) => return Err(Refusal::timeout()),
                Err(Stop::ShuttingDown) => return Err(Refusal::shutting_down()),
                Ok(_) => {}
            }
        }
    }

    /// Bytes that were read and not used.
    pub(super) fn unread(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// The first so many of them were used.
    pub(super) fn used(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end);
    }

    /// Reads more bytes behind the unread ones.
    pub(super) fn fill(&mut self, until: Instant) -> Result<usize, Stop> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
        if self.buffer.len() - self.end < READ_BYTES_MIN {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            let wanted = (self.end + READ_BYTES_MIN).next_multiple_of(READ_BYTES);
            if self.buffer.len() < wanted {
                self.buffer.reserve_exact(wanted - self.buffer.len());
                self.buffer.resize(wanted, 0);
            }
        }
        let count = self.down.read(&mut self.buffer[self.end..], until)?;
        self.end += count;
        Ok(count)
    }

    /// Gives the read buffer back while a long answer is under way, unless bytes wait in it.
    pub fn shed(&mut self) {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            self.buffer = Vec::new();
        }
    }

    /// Answers may be framed in chunks.
    pub fn is_http11(&self) -> bool {
        self.http11
    }

    /// The connection may live on after this answer.
    pub fn keeps(&self, core: &Core) -> bool {
        self.keep && self.http11 && !core.is_draining()
    }

    /// The connection ends with this answer.
    pub fn close_after(&mut self) {
        self.keep = false;
    }

    /// Sends bytes of an answer; the first ones are the commit.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        self.committed = true;
        self.down.write(bytes).map_err(|stop| {
            self.keep = false;
            self.stalled = stop == Stop::TimedOut;
            Ended::Gone
        })
    }

    /// The head of a stream that begins before its upstream speaks.
    pub(super) fn write_early_head(&self, core: &Core, note: &Note, out: &mut Vec<u8>) {
        header::status_line(200, out);
        self.own_fields(core, note, out);
        header::field(self.family.request_id_field(), note.id.as_str().as_bytes(), out);
        if let Some(standing) = &note.standing {
            ratelimit::write(standing, self.family, core.clock.unix_ms(), out);
        }
        header::field("content-type", b"text/event-stream", out);
        header::stream_fields(out);
        header::field("transfer-encoding", b"chunked", out);
        out.extend_from_slice(b"\r\n");
    }

    /// From now on whatever comes is an event of this endpoint's stream.
    pub(super) fn begin_early(&mut self, endpoint: &'static Endpoint) {
        self.early = Some(endpoint);
    }

    /// A stream's head went down before its upstream spoke.
    pub(super) fn is_early(&self) -> bool {
        self.early.is_some()
    }

    /// Sends one of our own pages.
    pub fn send_page(
        &mut self,
        core: &Core,
        head: &Head,
        page: Page,
        note: &mut Note,
    ) -> Result<(), Ended> {
        note.endpoint = page.name;
        if let Some(trace) = &mut note.trace {
            trace.is_internal();
        }
        note.status = page.status;
        let mut out = Vec::with_capacity(512 + page.body.len());
        header::status_line(page.status, &mut out);
        self.own_fields(core, note, &mut out);
        header::field(self.family.request_id_field(), note.id.as_str().as_bytes(), &mut out);
        header::field("x-gproxy-source", b"gateway", &mut out);
        header::field_number("x-gproxy-overhead-us", note.overhead_us(core.now()), &mut out);
        for (name, value) in &page.fields {
            header::field(name, value.as_bytes(), &mut out);
        }
        if !matches!(page.status, 204 | 304) {
            header::field("content-type", page.content_type.as_bytes(), &mut out);
            header::field_number("content-length", page.body.len() as u64, &mut out);
        }
        out.extend_from_slice(b"\r\n");
        if let Some(trace) = &mut note.trace {
            trace.response_head(core, &out);
        }
        if !header::is_bodiless(head.method(), page.status) {
            out.extend_from_slice(&page.body);
            note.bytes_out = page.body.len() as u64;
        }
        self.send(&out)
    }

    /// The fields that every answer carries.
    pub fn own_fields(&self, core: &Core, note: &Note, out: &mut Vec<u8>) {
        header::field("x-gproxy-request-id", note.id.as_str().as_bytes(), out);
        if let Some(origin) = &note.allow_origin {
            header::field("access-control-allow-origin", origin, out);
            header::field("access-control-expose-headers", b"*", out);
            header::field("vary", b"origin", out);
        }
        if !self.keeps(core) {
            header::field("connection", b"close", out);
        }
    }

    /// Whose error shape the present caller expects.
    pub fn speaks(&mut self, family: Family) {
        self.family = family;
    }

    /// The same.
    pub fn family(&self) -> Family {
        self.family
    }

    /// After a panic: tells the downstream if it can still be told.
    pub fn apologise(&mut self, core: &Core) {
        if self.committed {
            return;
        }
        self.keep = false;
        let mut note = Note::begin(core, core.snapshot(), "", "");
        let refusal = Refusal::internal();
        let family = self.family;
        let was_answered = self.conclude(core, None, family, Err(refusal.into()), &mut note);
        drop(note);
        self.next(core, was_answered);
    }

    /// The last step of every exchange: tells the downstream what went wrong if it can still be
    /// told. Whether it had an answer, for [`Session::next`].
    pub fn conclude(
        &mut self,
        core: &Core,
        head: Option<&Head>,
        family: Family,
        result: Result<(), Ended>,
        note: &mut Note,
    ) -> bool {
        let was_answered = match result {
            Ok(()) => {
                note.end = if note.quota_ended { "quota" } else { "ok" };
                true
            }
            Err(Ended::Refused(refusal)) => {
                was_refused(core, &refusal, note);
                match self.early {
                    Some(endpoint) => self.refuse_late(endpoint, &refusal, note),
                    None => self.refuse(core, head, family, &refusal, note),
                }
            }
            Err(Ended::Cut) => {
                core.metrics.count(Count::RepliesCut);
                note.end = "cut";
                false
            }
            Err(Ended::Told(refusal)) => {
                was_refused(core, &refusal, note);
                false
            }
            Err(Ended::Gone) => {
                core.metrics.count(Count::DownstreamsGone);
                note.end = "gone";
                false
            }
        };
        if std::mem::take(&mut self.stalled) {
            core.metrics.count(Count::DownstreamsStalled);
        }
        note.ended_at = core.now();
        was_answered
    }

    /// Whether the refusal was sent.
    fn refuse(
        &mut self,
        core: &Core,
        head: Option<&Head>,
        family: Family,
        refusal: &Refusal,
        note: &mut Note,
    ) -> bool {
        assert!(!self.committed, "a refusal comes before the commit");
        if refusal.close || self.body_is_in_the_way(core) {
            self.keep = false;
        }
        note.status = refusal.status;
        let body = refusal.body(family, note.id.as_str());
        let mut out = Vec::with_capacity(512 + body.len());
        header::status_line(refusal.status, &mut out);
        self.own_fields(core, note, &mut out);
        header::field(family.request_id_field(), note.id.as_str().as_bytes(), &mut out);
        header::field_number("x-gproxy-overhead-us", note.overhead_us(core.now()), &mut out);
        refusal.fields(&mut out);
        if let Some(standing) = &note.standing {
            ratelimit::write(standing, family, core.clock.unix_ms(), &mut out);
        }
        header::field_number("content-length", body.len() as u64, &mut out);
        out.extend_from_slice(b"\r\n");
        if let Some(trace) = &mut note.trace {
            trace.response_head(core, &out);
            trace.response_body(&body);
        }
        if head.is_none_or(|head| !header::is_bodiless(head.method(), refusal.status)) {
            out.extend_from_slice(&body);
            note.bytes_out = body.len() as u64;
        }
        let sent = self.send(&out).is_ok();
        if !sent {
            note.end = "gone";
        }
        sent
    }

    /// In a stream that has begun a refusal is its last event, and a cut: no answer.
    fn refuse_late(
        &mut self,
        endpoint: &'static Endpoint,
        refusal: &Refusal,
        note: &mut Note,
    ) -> bool {
        let event = refusal.event(endpoint.dialect);
        if let Some(trace) = &mut note.trace {
            trace.response_body(&event);
        }
        note.bytes_out += event.len() as u64;
        let mut out = Vec::with_capacity(32 + event.len());
        body::chunk_open(event.len(), &mut out);
        out.extend_from_slice(&event);
        out.extend_from_slice(body::CHUNK_CLOSE);
        if self.send(&out).is_err() {
            note.end = "gone";
        }
        false
    }

    /// Whether an unread body stands between this answer and the next request, and is too long or
    /// too uncertain to be drained.
    fn body_is_in_the_way(&self, _core: &Core) -> bool {
        let Some(decoder) = &self.body else { return false };
        self.continue_owed || decoder.bytes_announced() > limits::DRAIN_BYTES_MAX as u64
    }

    /// What becomes of the connection when the exchange is over, and settled. After an answer: the
    /// next request, once what is left of this one is out of the way.
    pub fn next(&mut self, core: &Core, was_answered: bool) -> Next {
        let lingers = std::mem::take(&mut self.lingers);
        if !was_answered {
            if lingers {
                self.linger(core);
            }
            return Next::Close;
        }
        if self.keeps(core) && self.drain_body(core) {
            return Next::Again;
        }
        self.linger(core);
        Next::Close
    }

    /// Reads an unread body to its end, within the caps.
    fn drain_body(&mut self, core: &Core) -> bool {
        let Some(mut decoder) = self.body.take() else { return true };
        if self.continue_owed {
            return false;
        }
        let until = core.now() + ms(limits::DRAIN_MS_MAX);
        let mut drained = Vec::new();
        let mut total = 0;
        loop {
            let Ok(used) = decoder.feed(&self.buffer[self.start..self.end], &mut drained) else {
                return false;
            };
            self.start += used;
            total += used;
            drained.clear();
            if decoder.is_done() {
                return true;
            }
            if total > limits::DRAIN_BYTES_MAX || !matches!(self.fill(until), Ok(1..)) {
                return false;
            }
        }
    }

    /// Lets the last answer arrive before the connection goes: a close with unread bytes is a
    /// reset, which may overtake it.
    fn linger(&mut self, core: &Core) {
        self.down.shut_write();
        let until = core.now() + ms(limits::DRAIN_MS_MAX);
        let mut total = 0;
        let mut scrap = vec![0; READ_BYTES_MIN];
        while total < limits::DRAIN_BYTES_MAX {
            match self.down.read(&mut scrap, until) {
                Ok(count @ 1..) => total += count,
                _ => return,
            }
        }
    }
}

/// Counts and keeps a refusal, however it is told.
fn was_refused(core: &Core, refusal: &Refusal, note: &mut Note) {
    core.metrics.refused(refusal.status);
    core.refusals.keep(note, refusal, core.unix_ms());
    (note.end, note.refused) = ("refused", true);
}

/// The answer to a connection that is one too many, of which nothing is read.
pub fn turned_away(core: &Core) -> Vec<u8> {
    let (family, id) = (Family::Openai, core.next_id());
    let refusal = Refusal::too_many_connections();
    log::info!(target: "gproxy::request", "id={id} status={} end=refused", refusal.status);
    let body = refusal.body(family, id.as_str());
    let mut out = Vec::with_capacity(512);
    header::status_line(refusal.status, &mut out);
    for name in ["x-gproxy-request-id", family.request_id_field()] {
        header::field(name, id.as_str().as_bytes(), &mut out);
    }
    header::field("connection", b"close", &mut out);
    refusal.fields(&mut out);
    header::field_number("content-length", body.len() as u64, &mut out);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(&body);
    out
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_of_a_known_length_takes_as_much_as_it_is_long() {
        const PIECE: usize = 8 * 1024;
        for length in [0, 1, 300, 100_000, 17 * 1024 * 1024] {
            let (mut bytes, mut moves) = (Vec::new(), 0);
            while bytes.len() < length {
                let coming = PIECE.min(length - bytes.len());
                let before = bytes.capacity();
                make_room(&mut bytes, Some(length as u64), PIECE);
                bytes.resize(bytes.len() + coming, b'x');
                moves += usize::from(bytes.capacity() != before);
                assert!(bytes.capacity() <= (2 * bytes.len()).max(RESERVED_BYTES + PIECE));
            }
            assert_eq!(bytes.capacity(), length);
            assert!(moves <= 10, "{moves} times for {length}");
        }
        let mut bytes = Vec::with_capacity(1_000_000);
        bytes.push(b'x');
        trim(&mut bytes);
        assert_eq!(bytes.capacity(), 1);
    }
}
