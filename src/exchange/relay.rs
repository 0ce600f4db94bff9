//! From a reply to the downstream: head, body, model name restored, and an honest end.
//!
//! A whole JSON reply in which something changes is held while it is small, so that it keeps an
//! exact length; everything else passes through in pieces. A stream leaves event by event. Whatever
//! breaks after the first byte is shown as broken: an error event where the dialect has one, then a
//! cut.

use std::time::Duration;

use super::answer::Answer;
use super::attempt::Plan;
use super::crowd::{Full, Scarce, Share};
use super::mask::Mask;
use super::note::Note;
use super::recorder::Ring;
use super::session::Session;
use super::settlement::{self, Figure, Seen};
use super::upload::{self, Upload};
use super::{Core, Downstream, Ended, Reply};
use crate::dialect::refusal::Refusal;
use crate::dialect::resource::PASSTHROUGH;
use crate::dialect::rewrite::{Change, Rewriter, StreamError};
use crate::dialect::usage::Tap;
use crate::dialect::{Dialect, Family, finish, headers, ratelimit, trouble};
use crate::failure::{Cause, Failure};
use crate::limits;
use crate::metrics::{Count, Gauge};
use crate::money;
use crate::route::snapshot::{Billing, Limits, Snapshot, User};
use crate::wire::head::Head;
use crate::wire::{body, header, sse};

/// Room in front of a chunk for its size line.
const CHUNK_LINE_MAX: usize = 18;

/// So much of a body is copied to leave with its head at once.
const COPIED_BYTES_MAX: usize = 2 * limits::RELAY_BYTES;

/// Room for what may leave, at first.
const OUT_BYTES: usize = 1_024;

/// How the end of the body is told downstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// There is no body.
    Bodiless,
    /// So many bytes.
    Sized(u64),
    /// In chunks.
    Chunked,
    /// By the end of the connection (HTTP/1.0).
    UntilClose,
}

/// One reply on its way.
struct Relay<'a, D: Downstream, R: Reply> {
    core: &'a Core,
    snapshot: &'a Snapshot,
    session: &'a mut Session<D>,
    plan: &'a Plan<'a>,
    reply: Answer<'a, R>,
    note: &'a mut Note,
    rewriter: Rewriter,
    // Some bytes of the body may differ from the upstream's.
    changes: bool,
    mask: Option<Mask>,
    // Of what is held, what is more than every reply may hold.
    share: Share,
    // There was none for what came last.
    lacks_room: bool,
    // Whose quota may end it.
    meter: Option<&'a User>,
    billing: Billing,
    limits: Limits,
    framing: Framing,
    // `CHUNK_LINE_MAX` bytes of room, then what may leave.
    out: Vec<u8>,
    // What came last, in case that it ends badly.
    ring: Option<Ring>,
    // The upstream has been silent for a while.
    is_quiet: bool,
    // The reply went down whole, or not at all.
    ends_well: bool,
}

/// What was read of the usage goes to the note.
///
/// A body that ends with the connection looks whole when the connection is closed. However else the
/// relay ends, by a panic too, the connection is reset.
impl<D: Downstream, R: Reply> Drop for Relay<'_, D, R> {
    fn drop(&mut self) {
        if let Some(tap) = self.rewriter.tap() {
            self.note.told = tap.told();
            self.note.text_bytes = tap.text_bytes();
            if self.reply.wants_tokens() && self.note.told.any {
                self.reply.used(self.note.told.usage.tokens());
            }
        }
        if self.framing == Framing::UntilClose && !self.ends_well {
            self.session.down.abort();
        }
    }
}

/// Passes a reply on, from its head to its end.
pub(super) fn relay<D: Downstream, R: Reply>(
    core: &Core,
    snapshot: &Snapshot,
    session: &mut Session<D>,
    head: &Head,
    plan: &Plan<'_>,
    reply: Answer<'_, R>,
    note: &mut Note,
) -> Result<(), Ended> {
    let status = reply.status();
    let mut out = Vec::with_capacity(OUT_BYTES);
    out.resize(CHUNK_LINE_MAX, 0);
    let (mut rewriter, changes, encoded, is_json) =
        rewriter(&reply, plan, snapshot.limits.event_bytes_max);
    let is_stream = rewriter.is_stream();
    let _open = is_stream.then(|| core.metrics.clone().hold(Gauge::Streams, 1));
    if is_stream {
        session.shed();
    }
    let is_told = (note.settlement.is_some() || reply.wants_tokens())
        && status < 400
        && !encoded
        && settlement::tells_usage(plan.endpoint);
    let is_billed = is_told && note.settlement.is_some();
    let mut billing = snapshot.billing;
    billing.receipts &= is_billed && is_json;
    let meter = meter_of(snapshot, plan, note).filter(|_| is_billed && is_stream);
    if is_told {
        rewriter = rewriter.with_tap(plan.endpoint);
    }
    if meter.is_some() {
        rewriter.remember();
    }
    if !plan.others.is_empty() {
        rewriter.seek_model();
    }
    let mask = Some(reply.presented()).filter(|secret| status >= 400 && !secret.is_empty());
    let mask = mask.map(Mask::new);
    let recorder_bytes = snapshot.limits.recorder_bytes;
    let mut relay = Relay {
        core,
        snapshot,
        session,
        plan,
        reply,
        rewriter,
        changes: changes || mask.is_some(),
        mask,
        share: Share::new(core, Scarce::Bytes),
        lacks_room: false,
        meter,
        billing,
        limits: snapshot.limits,
        framing: Framing::Chunked,
        out,
        ring: (is_stream && recorder_bytes > 0).then(|| Ring::new(recorder_bytes, core.now())),
        is_quiet: false,
        ends_well: false,
        note,
    };
    let mut result = relay.run(head);
    if matches!(result, Err(Ended::Gone)) && relay.reply.reads_on() {
        result = relay.read_on();
    }
    relay.ends_well = matches!(result, Ok(()) | Err(Ended::Refused(_)));
    result
}

/// Our id under the name by which the family's clients look for one, unless the upstream gave one.
pub(super) fn write_id<'r>(
    family: Family,
    mut upstreams: impl Iterator<Item = (&'r str, &'r [u8])>,
    note: &Note,
    out: &mut Vec<u8>,
) {
    let ours = family.request_id_field();
    if !upstreams.any(|(name, _)| name == ours) {
        header::field(ours, note.id.as_str().as_bytes(), out);
    }
}

/// How the bytes of this reply pass, by its status and type, whether some may change, whether they
/// are compressed, and whether they are JSON.
fn rewriter<R: Reply>(
    reply: &R,
    plan: &Plan<'_>,
    event_bytes_max: usize,
) -> (Rewriter, bool, bool, bool) {
    let (model, hide_usage) = (plan.restored(), plan.hide_usage);
    let change = Change { model, front: plan.front(), hide_usage };
    let mut kind = Kind::Other;
    let mut encoded = false;
    for (name, value) in reply.headers() {
        match name {
            "content-type" => kind = Kind::of(value),
            "content-encoding" => encoded = !value.eq_ignore_ascii_case(b"identity"),
            _ => {}
        }
    }
    // What an upstream compressed although it was asked not to passes as it is.
    let exchange = plan.exchange().filter(|_| reply.status() < 400 && !encoded);
    let (rewriter, changes) = match (kind, exchange) {
        (Kind::Json | Kind::Lines, Some(exchange)) => {
            (Rewriter::strings(plan.endpoint, exchange, kind == Kind::Lines), true)
        }
        _ if reply.status() >= 400 || encoded => (Rewriter::identity(), false),
        (Kind::EventStream, _) => (Rewriter::stream(plan.endpoint, change, event_bytes_max), true),
        (Kind::Json, _) if change.model.is_some() && !plan.endpoint.reply_model.is_empty() => {
            (Rewriter::whole(plan.endpoint, change), true)
        }
        (Kind::Json | Kind::Lines | Kind::Other, _) => (Rewriter::identity(), false),
    };
    (rewriter, changes, encoded, kind == Kind::Json)
}

/// The user whose quota may end a stream of this call.
fn meter_of<'s>(snapshot: &'s Snapshot, plan: &Plan<'_>, note: &Note) -> Option<&'s User> {
    let user = note.user.map(|at| &snapshot.users[at])?;
    let ends = snapshot.billing.quota_ends_streams && finish::has_one(plan.endpoint);
    (ends && !user.quotas.is_empty()).then_some(user)
}

/// The dialect of this call's events. A path that no table has is taken for what its provider
/// speaks; `None`: that is of several families.
fn dialect_of(plan: &Plan<'_>) -> Option<Dialect> {
    if !std::ptr::eq(plan.endpoint, &PASSTHROUGH.endpoint) {
        return Some(plan.endpoint.dialect);
    }
    let spoken = plan.provider.dialects();
    let first = spoken.iter().next()?;
    spoken.iter().all(|other| other.family() == first.family()).then_some(first)
}

/// How types of JSON in lines end.
const LINES: [&[u8]; 2] = [b"jsonl", b"ndjson"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    EventStream,
    Json,
    Lines,
    Other,
}

impl Kind {
    fn of(content_type: &[u8]) -> Kind {
        if sse::is_type(content_type) {
            return Kind::EventStream;
        }
        let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
        let essence = essence.trim_ascii().to_ascii_lowercase();
        match essence.as_slice() {
            b"application/json" => Kind::Json,
            essence if essence.ends_with(b"+json") => Kind::Json,
            essence if LINES.iter().any(|name| essence.ends_with(name)) => Kind::Lines,
            _ => Kind::Other,
        }
    }
}

impl<D: Downstream, R: Reply> Relay<'_, D, R> {
    fn run(&mut self, head: &Head) -> Result<(), Ended> {
        if self.session.is_early() {
            return match self.rewriter.is_stream() {
                true => self.pass_on(),
                false => Err(self.explain()),
            };
        }
        if header::is_bodiless(head.method(), self.reply.status()) {
            self.framing = Framing::Bodiless;
            return self.commit(head, true).map(drop);
        }
        let ended = self.hold_what_is_small()?;
        self.framing = self.frame(ended);
        if self.commit(head, ended)? {
            return Ok(());
        }
        self.pass_on()
    }

    /// The stream has begun, and this reply is none: what it says instead.
    fn explain(&mut self) -> Ended {
        let mut ended = Ok(false);
        while matches!(ended, Ok(false)) && self.out.len() < limits::ERROR_HELD_BYTES_MAX {
            ended = self.read();
        }
        let said = trouble::said(&self.out[CHUNK_LINE_MAX..]);
        Ended::Refused(Refusal::answered(self.reply.status(), said.as_deref()))
    }

    /// Reads the reply as long as it is small and something in it changes, or its cost is to be
    /// told in its head. Whether it ended.
    fn hold_what_is_small(&mut self) -> Result<bool, Ended> {
        let bytes_max = self.plan_to_hold();
        if self.rewriter.is_stream() || self.is_array_of_chunks() || bytes_max == 0 {
            return Ok(false);
        }
        let begun = self.core.now();
        let mut ended = Ok(false);
        while self.out.len() < bytes_max && matches!(ended, Ok(false)) {
            ended = self.read();
            if self.lacks_room {
                break;
            }
        }
        self.note.waited += self.core.now().saturating_duration_since(begun);
        ended.map_err(|broken| self.refuse(broken))
    }

    /// How much of the reply may be held.
    fn plan_to_hold(&self) -> usize {
        let fits = |length: u64| length <= self.limits.event_bytes_max as u64;
        match self.billing.receipts && self.reply.length().is_none_or(fits) {
            true => self.limits.event_bytes_max,
            false if self.changes => limits::REPLY_HELD_BYTES_MAX,
            false => 0,
        }
    }

    /// Gemini's other form of a stream: one JSON array, whose elements leave as they come.
    fn is_array_of_chunks(&self) -> bool {
        self.plan.endpoint.tail == "streamGenerateContent" && self.reply.status() < 400
    }

    fn frame(&self, ended: bool) -> Framing {
        match self.reply.length() {
            _ if ended => Framing::Sized((self.out.len() - CHUNK_LINE_MAX) as u64),
            Some(length) if !self.changes => Framing::Sized(length),
            _ if self.session.is_http11() => Framing::Chunked,
            _ => Framing::UntilClose,
        }
    }

    /// Sends the head, with what is there of the body: the commit. Whether the reply ended.
    fn commit(&mut self, head: &Head, ended: bool) -> Result<bool, Ended> {
        let mut bytes = std::mem::take(&mut self.session.scratch);
        bytes.clear();
        self.write_head(head, ended, &mut bytes);
        if let Some(trace) = &mut self.note.trace {
            trace.response_head(self.core, &bytes);
        }
        if self.framing == Framing::Bodiless {
            self.note.status = self.reply.status();
            self.check_heard()?;
            return self.session.send(&bytes).map(|()| true);
        }
        let (mut ended, mut unfinished) = (ended, None);
        if !ended && self.reply.is_ready() {
            // The first bytes are here already: they leave with the head.
            match self.gather() {
                Ok(all) => ended = all,
                // What came of the answer is worth its head.
                Err(broken @ Broken::Stream(StreamError::Unfinished)) => unfinished = Some(broken),
                Err(broken) => return Err(self.refuse(broken)),
            }
        }
        let start = self.frame_out(ended);
        self.note.status = self.reply.status();
        self.check_heard()?;
        // A copy of what is long would be counted nowhere.
        if self.out.len() - start <= COPIED_BYTES_MAX {
            bytes.extend_from_slice(&self.out[start..]);
            self.session.send(&bytes)?;
        } else {
            self.session.send(&bytes)?;
            self.session.send(&self.out[start..])?;
        }
        self.empty();
        if bytes.capacity() <= limits::RELAY_BYTES {
            self.session.scratch = bytes;
        }
        unfinished.map_or(Ok(ended), |broken| Err(self.break_off(broken)))
    }

    /// What stood in `out` has left.
    fn empty(&mut self) {
        self.out.truncate(CHUNK_LINE_MAX);
        self.out.shrink_to(limits::REPLY_HELD_BYTES_MAX);
        self.count();
    }

    /// Counts what is held of an event, and what may leave, beyond what every reply may hold.
    fn count(&mut self) {
        let event = self.rewriter.room().saturating_sub(limits::EVENT_KEPT_BYTES_MAX);
        let out = self.out.capacity().saturating_sub(limits::REPLY_HELD_BYTES_MAX);
        self.lacks_room = self.share.set(self.core, self.note, event + out).is_err();
    }

    fn write_head(&mut self, head: &Head, ended: bool, out: &mut Vec<u8>) {
        if self.framing == Framing::UntilClose {
            self.session.close_after();
        }
        header::status_line(self.reply.status(), out);
        let from = out.len();
        // What the upstream says of its limits is for us; a user with limits is told of his own.
        let hides = self.note.standing.is_some();
        let shown = |(name, _): &(&str, &[u8])| !(hides && ratelimit::is_one(name));
        headers::forward_down(|| self.reply.headers().filter(shown), out);
        if let Some(upload) = &self.plan.upload {
            self.write_upload(upload, out);
        }
        if let Some(mask) = &self.mask {
            mask.replace(out, from);
        }
        self.session.own_fields(self.core, self.note, out);
        let family = self.plan.endpoint.dialect.family();
        write_id(family, self.reply.headers(), self.note, out);
        if self.reply.status() >= 400 {
            header::field("x-gproxy-source", b"upstream", out);
        }
        let overhead_us = self.note.overhead_us(self.core.now());
        header::field_number("x-gproxy-overhead-us", overhead_us, out);
        if let Some(standing) = &self.note.standing {
            ratelimit::write(standing, family, self.core.clock.unix_ms(), out);
        }
        if ended && self.billing.receipts {
            self.write_receipt(out);
        }
        if self.rewriter.is_stream() {
            header::stream_fields(out);
        }
        match (self.framing, self.reply.length()) {
            (Framing::Sized(length), _) => header::field_number("content-length", length, out),
            (Framing::Chunked, _) => drop(header::field("transfer-encoding", b"chunked", out)),
            (Framing::Bodiless, Some(length)) if head.method() == "HEAD" => {
                header::field_number("content-length", length, out);
            }
            (Framing::Bodiless | Framing::UntilClose, _) => {}
        }
        out.extend_from_slice(b"\r\n");
    }

    fn write_upload(&self, upload: &Upload, out: &mut Vec<u8>) {
        let Some((_, url)) = self.reply.headers().find(|(name, _)| *name == upload::FIELD) else {
            return;
        };
        match upload.map(url) {
            Some(ours) => drop(header::field(upload::FIELD, ours.as_bytes(), out)),
            None => log::warn!(
                target: "gproxy::request",
                "id={}: the upload would go to another address than was called",
                self.note.id
            ),
        }
    }

    /// What the reply cost, in fields of its head. The same figures go to the row.
    fn write_receipt(&self, out: &mut Vec<u8>) {
        let Some(settlement) = &self.note.settlement else { return };
        for (name, value) in settlement.bill(&self.seen(true)).receipt() {
            out.extend_from_slice(b"x-gproxy-");
            match value {
                Figure::Count(count) => header::field_number(name, count, out),
                Figure::Usd(amount) => {
                    header::field(name, money::text(amount).as_bytes(), out);
                }
                Figure::Word(word) => {
                    header::field(name, word.as_bytes(), out);
                }
            }
        }
    }

    /// The same for a stream, as a comment behind its last event: see [`Dialect::keep_alive`].
    fn comment(&mut self) {
        let Some(settlement) = &self.note.settlement else { return };
        let bill = settlement.bill(&self.seen(!self.note.quota_ended));
        self.out.extend_from_slice(b": x-gproxy");
        for (name, value) in bill.receipt() {
            self.out.extend_from_slice(format!(" {name}={value}").as_bytes());
        }
        self.out.push(b'\n');
    }

    /// What was seen of the call so far.
    fn seen(&self, whole: bool) -> Seen {
        let tap = self.rewriter.tap();
        Seen {
            told: tap.map(Tap::told).unwrap_or_default(),
            text_bytes: tap.map_or(0, Tap::text_bytes),
            bytes_in: self.note.bytes_in,
            status: self.reply.status(),
            whole,
            left: !whole,
            refused: false,
        }
    }

    /// Whether the stream has cost more than was held for it, and its user has no more.
    fn is_spent(&mut self) -> bool {
        let Some(user) = self.meter else { return false };
        let seen = self.seen(false);
        let Some(settlement) = &mut self.note.settlement else { return false };
        let cost = settlement.cost_so_far(&seen);
        settlement.covers(user, cost, &*self.core.clock).is_err()
    }

    /// Ends the stream as its vendor ends one that is long enough.
    fn cut_short(&mut self) {
        let seen = self.seen(false);
        let settlement = self.note.settlement.as_ref();
        let usage = settlement.map(|settlement| settlement.so_far(&seen)).unwrap_or_default();
        let model = self.plan.restored();
        let asked = self.plan.wants_usage && !self.plan.hide_usage;
        if let Some(memory) = self.rewriter.tap().and_then(Tap::memory) {
            let end = memory.finish(self.plan.endpoint, model.as_deref(), &usage, asked);
            self.out.extend_from_slice(&end);
        }
        self.note.quota_ended = true;
        self.core.metrics.count(Count::StreamsEnded);
    }

    /// Passes the rest of the body on until it ends.
    fn pass_on(&mut self) -> Result<(), Ended> {
        let sign = dialect_of(self.plan).map_or(&b""[..], Dialect::keep_alive);
        let every = Duration::from_millis(self.plan.provider.keepalive_ms);
        let keeps_alive = self.rewriter.is_stream() && !every.is_zero() && !sign.is_empty();
        if keeps_alive {
            self.reply.keep_alive(every);
        }
        loop {
            let mut ended = match self.gather() {
                Ok(ended) => ended,
                Err(broken) => return Err(self.break_off(broken)),
            };
            // What a stream leaves in `out` is never half an event, so this stands between two; but
            // its end may be one.
            if std::mem::take(&mut self.is_quiet) && !ended {
                self.out.extend_from_slice(sign);
            }
            if !ended && self.is_spent() {
                self.cut_short();
                ended = true;
                if self.comments() {
                    self.comment();
                }
            }
            let start = self.frame_out(ended);
            if start < self.out.len() {
                self.check_heard()?;
                self.session.send(&self.out[start..])?;
                if keeps_alive {
                    self.reply.keep_alive(every);
                }
            }
            self.empty();
            if ended {
                return Ok(());
            }
        }
    }

    /// A first write to a caller that has left seems to succeed, so what is known counts.
    fn check_heard(&self) -> Result<(), Ended> {
        if self.reply.is_orphaned() { Err(Ended::Gone) } else { Ok(()) }
    }

    /// The caller has left: reads the rest of the reply for its usage, within the bounds.
    fn read_on(&mut self) -> Result<(), Ended> {
        let cost_max = self.plan.provider.drain.map_or(0, |drain| drain.cost_max);
        let cost_before = self.cost_so_far();
        let mut bytes = 0;
        while bytes < limits::ABORT_BYTES_MAX
            && self.cost_so_far().saturating_sub(cost_before) <= cost_max
        {
            self.empty();
            let Ok(ended) = self.read() else { break };
            bytes += (self.out.len() - CHUNK_LINE_MAX) as u64;
            if ended {
                self.note.read_on = true;
                break;
            }
        }
        Err(Ended::Gone)
    }

    /// What the reply has cost, as far as can be told.
    fn cost_so_far(&self) -> i64 {
        let settlement = self.note.settlement.as_ref();
        settlement.map_or(0, |settlement| settlement.cost_so_far(&self.seen(false)))
    }

    /// Whether the stream ends with its bill. Gemini's clients know no comments.
    fn comments(&self) -> bool {
        self.billing.stream_receipts
            && self.rewriter.is_stream()
            && self.rewriter.tap().is_some()
            && self.plan.endpoint.dialect != Dialect::Gemini
    }

    /// Reads what is there, so that pieces that arrived together leave together. Whether the reply
    /// ended.
    fn gather(&mut self) -> Result<bool, Broken> {
        loop {
            if self.read()? {
                return Ok(true);
            }
            if self.out.len() >= limits::RELAY_BYTES || !self.reply.is_ready() {
                return Ok(false);
            }
        }
    }

    /// Reads a piece of the reply and appends to `out` what may leave. Whether the reply ended.
    fn read(&mut self) -> Result<bool, Broken> {
        let piece = match self.reply.piece() {
            Ok(piece) => piece,
            Err(Failure { cause: Cause::Quiet, .. }) => {
                self.is_quiet = true;
                return Ok(false);
            }
            Err(failure) => {
                if let Some(trace) = &mut self.note.trace {
                    trace.ended(self.core, &failure);
                }
                return Err(Broken::Upstream(failure));
            }
        };
        if let Some(trace) = &mut self.note.trace {
            trace.reply_body(piece);
        }
        if let Some(ring) = &mut self.ring {
            ring.add(piece, self.core.now());
        }
        let from = self.out.len();
        let ended = piece.is_empty();
        if ended {
            if self.rewriter.lacks_end() {
                return Err(Broken::Stream(StreamError::Unfinished));
            }
            self.rewriter.finish(&mut self.out);
            // Behind half an event a comment would be a part of it.
            if self.comments() && self.out.len() == from {
                self.comment();
            }
        } else {
            let fed = self.rewriter.feed(piece, &mut self.out);
            self.name_server();
            fed.map_err(Broken::Stream)?;
        }
        if let Some(mask) = &mut self.mask {
            mask.piece(&mut self.out, from, ended);
        }
        self.count();
        match self.lacks_room && self.rewriter.is_stream() {
            true => Err(Broken::NoRoom),
            false => Ok(ended),
        }
    }

    /// Where the body names several models, the price is that of the one that served, by its own
    /// word. A name that did not go up is the vendor's for the one that was asked for.
    fn name_server(&mut self) {
        if self.plan.others.is_empty() {
            return;
        }
        let told = self.rewriter.tap().and_then(Tap::model);
        let other = self.plan.others.iter().copied().find(|name| Some(*name) == told);
        let served = other.unwrap_or(self.plan.target.model_served);
        if self.note.model_served != served {
            settlement::served_as(self.note, self.plan, other);
            served.clone_into(&mut self.note.model_served);
        }
    }

    /// Puts the chunk frame round `out` where one is needed, and the last chunk behind it at the
    /// end; the frame's first byte.
    fn frame_out(&mut self, ended: bool) -> usize {
        let len = self.out.len() - CHUNK_LINE_MAX;
        if let Some(trace) = &mut self.note.trace {
            trace.response_body(&self.out[CHUNK_LINE_MAX..]);
        }
        self.note.bytes_out += len as u64;
        if self.framing != Framing::Chunked {
            return CHUNK_LINE_MAX;
        }
        let mut start = CHUNK_LINE_MAX;
        if len > 0 {
            let mut line = Vec::with_capacity(CHUNK_LINE_MAX);
            body::chunk_open(len, &mut line);
            start -= line.len();
            self.out[start..CHUNK_LINE_MAX].copy_from_slice(&line);
            self.out.extend_from_slice(body::CHUNK_CLOSE);
        }
        if ended {
            self.out.extend_from_slice(body::LAST_CHUNK);
        }
        start
    }

    /// The end before the commit.
    fn refuse(&mut self, broken: Broken) -> Ended {
        let refusal = broken.refusal();
        if let Some(refusal) = &refusal {
            self.record(&refusal.message);
        }
        refusal.map_or(Ended::Gone, Ended::Refused)
    }

    /// What came last is kept.
    fn record(&mut self, why: &str) {
        let Some(ring) = self.ring.take() else { return };
        let ended = (why, self.core.now(), self.core.clock.unix_ms());
        let secret = self.reply.presented();
        ring.keep(&self.core.recordings, self.note, self.snapshot, secret, ended);
    }

    /// The dialect of an event of ours: where it could be one of several, the caller's.
    fn event_dialect(&self) -> Dialect {
        let family = self.session.family();
        let is_callers = |dialect: &Dialect| dialect.family() == family;
        let callers = || self.plan.provider.dialects().iter().find(is_callers);
        dialect_of(self.plan).or_else(callers).unwrap_or(self.plan.endpoint.dialect)
    }

    /// The end that nobody can take for a proper one.
    fn break_off(&mut self, broken: Broken) -> Ended {
        let Some(refusal) = broken.refusal() else { return Ended::Gone };
        self.record(&refusal.message);
        self.session.close_after();
        self.rewriter.forget();
        self.count();
        if self.rewriter.is_stream() {
            // Behind the events that came whole with the break: what a stream leaves in `out` is
            // never half an event.
            self.out.extend_from_slice(&refusal.event(self.event_dialect()));
            let start = self.frame_out(false);
            if self.session.send(&self.out[start..]).is_err() {
                return Ended::Gone;
            }
        }
        Ended::Cut
    }
}

/// How a reply breaks off.
enum Broken {
    Upstream(Failure),
    Stream(StreamError),
    /// There is no memory for what has come.
    NoRoom,
}

impl Broken {
    /// What the downstream is told; `None`: it has left.
    fn refusal(self) -> Option<Refusal> {
        match self {
            Broken::Upstream(Failure { cause: Cause::DownstreamGone, .. }) => None,
            Broken::Upstream(failure) => Some(Refusal::from(failure)),
            Broken::Stream(error) => Some(error.into()),
            Broken::NoRoom => Some(Full.refusal()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_a_reply_is_its_media_type_without_parameters() {
        assert_eq!(Kind::of(b"text/event-stream; charset=utf-8"), Kind::EventStream);
        assert_eq!(Kind::of(b"Application/JSON"), Kind::Json);
        assert_eq!(Kind::of(b"application/problem+json"), Kind::Json);
        assert_eq!(Kind::of(b"application/x-jsonl"), Kind::Lines);
        assert_eq!(Kind::of(b"audio/mpeg"), Kind::Other);
        assert_eq!(Kind::of(b""), Kind::Other);
    }
}
