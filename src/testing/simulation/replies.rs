//! Replies by chance, sound and broken, each with what has to come of it downstream.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::connection::{CREDENTIAL, EVENT_BYTES_MAX, config_without_keys, snapshot};
use super::ends::{End, LAST, Outcome, Script, Seen};
use super::pair::{Pair, Style, literal, marker, markers, shuffle, spelled};
use super::requests::{Called, Shape};
use crate::exchange::Core;
use crate::failure::{Cause, Failure, Phase, Sent};
use crate::testing::prng::Prng;

/// What the caller has to see of one call.
pub(super) enum Told {
    /// The call died in a way that allows another one.
    Again,
    /// A refusal of ours.
    Refused(u16),
    /// Nothing: the caller has gone, or a panic came through.
    Nothing,
    /// A reply, to its end or to its break.
    Reply(Box<Expected>),
}

/// A reply as the caller has to see it.
pub(super) struct Expected {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    /// A cut must lie between two of these, at the caller's end.
    pub(super) pieces: Vec<Vec<u8>>,
    /// Of them, so many came whole, and nothing broke after the last.
    pub(super) pieces_whole: usize,
    /// Bytes beyond the whole pieces that may have come too.
    pub(super) bytes_beyond: Vec<u8>,
    /// It breaks: by a failure that the caller is told of, or in silence.
    pub(super) breaks: Option<Break>,
    /// A stream of events, of which only whole ones come, and at the break one that tells.
    pub(super) is_stream: bool,
    /// Where each piece ends at the provider's end.
    pub(super) ends: Vec<usize>,
    pub(super) pace: Pace,
    /// The length is known from the beginning, and nothing changes it.
    pub(super) length: Option<usize>,
    pub(super) has_request_id: bool,
}

/// What has to be downstream while the gateway waits for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Every byte.
    Bytes,
    /// Every whole piece.
    Pieces,
    /// Nothing: what is small is held.
    Held,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Break {
    /// Refused with this status when nothing was sent yet.
    Told(u16),
    /// The caller has gone, or a panic came through.
    Silent,
}

impl Expected {
    pub(super) fn body(&self) -> Vec<u8> {
        self.pieces.concat()
    }
}

/// What was said to each call, and what may be said.
pub(super) struct Desk {
    pub(super) calls: HashMap<usize, Called>,
    /// Number of the request, and what its caller has to see.
    pub(super) told: Vec<(usize, Told)>,
    /// During the call of this request the process begins to drain.
    pub(super) drains_in: Option<usize>,
    /// During the call of this request a reload takes every key away.
    pub(super) reloads_in: Option<usize>,
    pub(super) prng: Prng,
}

impl Desk {
    /// The author of what a shared desk says.
    pub(super) fn author(desk: &Rc<RefCell<Desk>>) -> super::ends::Author {
        let desk = desk.clone();
        Box::new(move |seen, core| desk.borrow_mut().answer(seen, core))
    }

    fn answer(&mut self, seen: &Seen, core: &Core) -> Outcome {
        let marks = markers(seen.header("x-marker").unwrap_or_default().as_bytes());
        let number = marks.first().copied().unwrap_or(usize::MAX);
        if self.drains_in == Some(number) {
            core.drain();
        }
        if self.reloads_in == Some(number) {
            core.swap(snapshot(&config_without_keys()));
        }
        let attempt = 1 + self.told.iter().filter(|(other, _)| *other == number).count();
        let prng = &mut self.prng;
        let Some(called) = self.calls.get(&number) else {
            // A request that chance has changed: any reply will do.
            self.told.push((number, Told::Nothing));
            return Outcome::Answer(Script::new(200, "application/json", b"{}"));
        };
        let (outcome, told) = match prng.below(24) {
            0 => (Outcome::Panic, Told::Nothing),
            1..6 => {
                let failure = failure(prng);
                let told = match status_of(failure.cause) {
                    _ if may_retry(&failure, attempt) => Told::Again,
                    Some(status) => Told::Refused(status),
                    None => Told::Nothing,
                };
                (Outcome::Fail(failure), told)
            }
            _ => {
                let (script, expected) = reply(number, called, &credential_of(seen), prng);
                (Outcome::Answer(script), Told::Reply(Box::new(expected)))
            }
        };
        self.told.push((number, told));
        outcome
    }
}

/// The credential that a call carried.
pub(super) fn credential_of(seen: &Seen) -> String {
    let text = seen.headers.iter().map(|(_, value)| value.as_str());
    let found = text.filter_map(|value| value.find(CREDENTIAL).map(|at| &value[at..]));
    found.map(str::to_owned).next().unwrap_or_default()
}

/// Before the reply's head.
fn failure(prng: &mut Prng) -> Failure {
    const CAUSES: &[Cause] = &[
        Cause::NoSuchHost,
        Cause::Unreachable,
        Cause::Unreachable,
        Cause::TimedOut,
        Cause::TlsRefused,
        Cause::Fenced,
        Cause::ProxyRefused,
        Cause::Disconnected,
        Cause::Disconnected,
        Cause::Disconnected,
        Cause::Malformed,
        Cause::DownstreamGone,
        Cause::ShuttingDown,
    ];
    Failure {
        phase: *prng.pick(&[
            Phase::Resolve,
            Phase::Connect,
            Phase::Tls,
            Phase::Send,
            Phase::Send,
            Phase::AwaitHead,
            Phase::AwaitHead,
        ]),
        sent: *prng.pick(&[Sent::Nothing, Sent::Part]),
        cause: *prng.pick(CAUSES),
        reused: prng.one_in(2),
        after_ms: *prng.pick(&[0, 1, 250, 251, 5_000, 600_000]),
    }
}

/// What a failure is to the caller; `None`: he has gone.
pub(super) fn status_of(cause: Cause) -> Option<u16> {
    match cause {
        Cause::DownstreamGone => None,
        Cause::TimedOut => Some(504),
        Cause::ShuttingDown => Some(503),
        _ => Some(502),
    }
}

/// The retry rule of the decisions, said again.
fn may_retry(failure: &Failure, attempt: usize) -> bool {
    let died = [Cause::Disconnected, Cause::Unreachable].contains(&failure.cause);
    let on_the_way = [Phase::Send, Phase::AwaitHead].contains(&failure.phase);
    let at_once = failure.sent == Sent::Nothing || failure.after_ms <= 250;
    attempt == 1 && failure.reused && died && on_the_way && at_once
}

/// A body while it is made: pieces at both ends.
#[derive(Default)]
struct Draft {
    pieces: Vec<Pair>,
    /// The piece that is longer than may be held.
    too_long: Option<usize>,
}

impl Draft {
    fn push(&mut self, pair: Pair) {
        self.pieces.push(pair);
    }
}

/// How the bytes of a reply are to be treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Untouched.
    Other,
    /// A document in which a model may be restored.
    Json,
    /// Events.
    Stream,
    /// An error, in which a credential may stand.
    Error,
}

fn reply(number: usize, called: &Called, credential: &str, prng: &mut Prng) -> (Script, Expected) {
    let wants_events = called.alt_sse || called.stream;
    let (status, content_type, kind, draft) = match prng.below(20) {
        0..3 => error(number, credential, prng),
        3 => bodiless(prng),
        4 => (200, "application/octet-stream", Kind::Other, noise(number, prng)),
        5 => (302, "text/html", Kind::Other, noise(number, prng)),
        6 => {
            // Packed, although it was asked not to: passes as it is.
            let untouched = Called { restored: None, hide_usage: false, ..called.clone() };
            let types = ["application/json", "text/event-stream"];
            let draft = document(number, &untouched, prng);
            (200, *prng.pick(&types), Kind::Other, draft)
        }
        7..19 if wants_events => {
            let types = ["text/event-stream", "text/event-stream; charset=utf-8"];
            (200, *prng.pick(&types), Kind::Stream, stream(number, called, prng))
        }
        _ => {
            let types =
                ["application/json", "application/json; charset=UTF-8", "application/a+json"];
            let is_array = called.row.tail == "streamGenerateContent";
            let draft = match is_array {
                true => array(number, called, prng),
                false => document(number, called, prng),
            };
            (200, *prng.pick(&types), Kind::Json, draft)
        }
    };
    let packed = kind == Kind::Other && status == 200 && content_type != "application/octet-stream";
    let up: Vec<u8> = draft.pieces.iter().flat_map(|pair| pair.up.clone()).collect();
    let end = end(up.len(), prng);
    let is_sized =
        prng.one_in(2) && !matches!(end, End::Fails(at, _) | End::Panics(at) if at == up.len());
    let length = is_sized.then_some(up.len() as u64);
    let changes = match kind {
        Kind::Other => false,
        Kind::Json => called.restored.is_some() && called.row.shape != Shape::Plain,
        Kind::Stream | Kind::Error => true,
    };
    let is_array = kind == Kind::Json && called.row.tail == "streamGenerateContent";
    let pace = match kind {
        Kind::Stream => Pace::Pieces,
        _ if is_array => Pace::Pieces,
        _ if changes => Pace::Held,
        _ => Pace::Bytes,
    };
    let expected = Expected {
        status,
        content_type,
        pace,
        is_stream: kind == Kind::Stream,
        length: is_sized.then_some(up.len()).filter(|_| !changes),
        has_request_id: prng.one_in(3),
        ..expected(&draft, end)
    };
    let waits_one_in = *prng.pick(&[0, 1, 2, 5]);
    // An error that takes too long is none: `promises_pool.rs`.
    let waits_ms: &[u64] = if kind == Kind::Error { &[0, 1] } else { &[0, 1, 100, 100_000] };
    let script = Script {
        status,
        headers: headers(number, content_type, packed, &expected, credential, length, prng),
        length,
        end,
        body: up,
        piece_max: *prng.pick(&[1, 3, 16, 200, usize::MAX]).max(&(draft_len(&draft) / 2_000)),
        silent_ms: 0,
        waits_first: prng.one_in(2),
        waits_one_in,
        wait_ms: *prng.pick(waits_ms),
        session: Vec::new(),
    };
    (script, expected)
}

fn draft_len(draft: &Draft) -> usize {
    draft.pieces.iter().map(|pair| pair.up.len()).sum()
}

fn end(len: usize, prng: &mut Prng) -> End {
    let at = prng.below(len + 1);
    match prng.below(20) {
        0 => End::Panics(at),
        1..5 => {
            let causes = [Cause::Disconnected, Cause::TimedOut, Cause::Malformed];
            let cause = *prng.pick(&causes);
            let cause = if prng.one_in(6) { Cause::DownstreamGone } else { cause };
            let (phase, sent) = (Phase::Relay, Sent::Part);
            End::Fails(at, Failure { phase, sent, cause, reused: prng.one_in(2), after_ms: 100 })
        }
        _ => End::Proper,
    }
}

/// What comes of the pieces with this end.
fn expected(draft: &Draft, end: End) -> Expected {
    let (stop, mut breaks) = match end {
        End::Proper => (usize::MAX, None),
        End::Fails(at, failure) => match status_of(failure.cause) {
            Some(status) => (at, Some(Break::Told(status))),
            None => (at, Some(Break::Silent)),
        },
        End::Panics(at) => (at, Some(Break::Silent)),
    };
    let mut pieces_whole = 0;
    let mut at = 0;
    let ends = draft.pieces.iter().scan(0, |end, pair| {
        *end += pair.up.len();
        Some(*end)
    });
    let ends = ends.collect();
    for (index, pair) in draft.pieces.iter().enumerate() {
        if draft.too_long == Some(index) && stop > at + EVENT_BYTES_MAX {
            breaks = Some(Break::Told(502));
            break;
        }
        at += pair.up.len();
        if at > stop {
            break;
        }
        pieces_whole = index + 1;
    }
    let pieces: Vec<Vec<u8>> = draft.pieces.iter().map(|pair| pair.down.clone()).collect();
    let bytes_beyond = pieces.get(pieces_whole).cloned().unwrap_or_default();
    Expected {
        status: 0,
        content_type: "",
        pieces,
        pieces_whole,
        bytes_beyond,
        breaks,
        is_stream: false,
        ends,
        pace: Pace::Held,
        length: None,
        has_request_id: false,
    }
}

fn headers(
    number: usize,
    content_type: &str,
    packed: bool,
    expected: &Expected,
    credential: &str,
    length: Option<u64>,
    prng: &mut Prng,
) -> Vec<(String, String)> {
    let mut headers: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, value: &str| headers.push((name.into(), value.into()));
    add("content-type", content_type);
    add("x-marker-reply", &marker(number));
    match length {
        Some(length) => add("content-length", &length.to_string()),
        None => add("transfer-encoding", "chunked"),
    }
    if packed {
        add("content-encoding", "gzip");
    }
    if expected.has_request_id {
        add("x-request-id", "req-of-the-upstream");
    }
    if expected.status == 302 {
        add("location", "https://elsewhere.example/");
    }
    if expected.status >= 400 {
        add("retry-after", "3");
        add("x-error", &format!("the key {credential} is bad"));
    }
    const LITTER: &[(&str, &str)] = &[
        ("set-cookie", "a=b"),
        ("connection", "close, x-hop"),
        ("x-gproxy-source", "forged"),
        ("x-gproxy-overhead-us", "1"),
        ("access-control-allow-origin", "*"),
        ("strict-transport-security", "max-age=1"),
        ("keep-alive", "timeout=5"),
    ];
    for _ in 0..prng.below(4) {
        let (name, value) = *prng.pick(LITTER);
        add(name, value);
        if name == "connection" {
            add("x-hop", "1");
        }
    }
    shuffle(&mut headers, prng);
    headers
}

type Made = (u16, &'static str, Kind, Draft);

fn error(number: usize, credential: &str, prng: &mut Prng) -> Made {
    let status = *prng.pick(&[400, 401, 403, 404, 429, 500, 503, 529]);
    let types = ["application/json", "text/event-stream", "text/html"];
    let mut pair = Pair::default();
    pair.both(&format!("{{\"error\":{{\"model\":\"x\",\"message\":\"{} ", marker(number)));
    for _ in 0..prng.below(3) {
        pair.both(&"e".repeat(prng.below(30)));
        pair.each("***", credential);
    }
    pair.both("\"}}");
    let draft = Draft { pieces: vec![pair], too_long: None };
    (status, *prng.pick(&types), Kind::Error, draft)
}

fn bodiless(prng: &mut Prng) -> Made {
    (*prng.pick(&[204, 304]), "application/json", Kind::Other, Draft::default())
}

/// Bytes in which nothing may be recognised.
fn noise(number: usize, prng: &mut Prng) -> Draft {
    let mut bytes = format!("{} {{\"model\":\"gpt\"}} data: ", marker(number)).into_bytes();
    let size = if prng.one_in(15) { 90_000 } else { prng.below(1_000) };
    bytes.extend((0..size).map(|_| prng.next_u64() as u8 | 0x80));
    let pair = Pair { down: bytes.clone(), up: bytes };
    Draft { pieces: vec![pair], too_long: None }
}

/// The model's value as the upstream writes it, and as the caller has to see it.
fn model(called: &Called, prng: &mut Prng) -> Pair {
    let mut pair = Pair::default();
    let dated = format!("{}-2026-01-31", called.served);
    let name = if prng.one_in(2) { &called.served } else { &dated };
    let up = match prng.below(12) {
        0 => "null".to_owned(),
        1 => "{\"model\":\"inner\",\"modelVersion\":[]}".to_owned(),
        _ => spelled(name, prng),
    };
    match &called.restored {
        Some(asked) if up.starts_with('"') => pair.each(&literal(asked), &up),
        _ => pair.both(&up),
    }
    pair
}

type Members = Vec<(String, Pair)>;

fn member(key: &str, value: &str) -> (String, Pair) {
    (format!("\"{key}\""), Pair::from(value))
}

/// Members that hold what looks like a model and is none.
fn decoys(number: usize, size: usize, prng: &mut Prng) -> Members {
    let text = format!("{} \\\"model\\\":\\\"x\\\" \\u00e9 é", marker(number));
    let filler = "f".repeat(size);
    let mut members = vec![
        member("choices", &format!("[{{\"delta\":{{\"content\":\"{text}\"}},\"model\":\"in\"}}]")),
        member("created", "1.70e+9"),
    ];
    if prng.one_in(2) {
        members.push(member("extra", &format!("{{\"modelVersion\":\"y\",\"x\":\"{filler}\"}}")));
    }
    members
}

/// The object that names the model where this endpoint's replies do.
fn named(called: &Called, in_stream: bool, mut members: Members, prng: &mut Prng) -> Members {
    if prng.one_in(10) {
        return members;
    }
    let model = model(called, prng);
    let key = match called.row.shape {
        Shape::Gemini if prng.one_in(8) => "\"model\\u0056ersion\"",
        Shape::Gemini => "\"modelVersion\"",
        Shape::Plain => return members,
        _ if prng.one_in(8) => "\"\\u006dodel\"",
        _ => "\"model\"",
    };
    match (called.row.shape, in_stream) {
        (Shape::Responses | Shape::Messages, true) => {
            let inner = vec![(key.to_owned(), model), member("status", "null")];
            let outer = if called.row.shape == Shape::Responses { "response" } else { "message" };
            members.push((format!("\"{outer}\""), Pair::object(&inner, Style::Tight)));
            members.push(member("model", "\"outer\""));
        }
        _ => members.push((key.to_owned(), model)),
    }
    members
}

fn document(number: usize, called: &Called, prng: &mut Prng) -> Draft {
    let size = if prng.one_in(30) { 40_000 + prng.below(80_000) } else { prng.below(600) };
    let decoys = decoys(number, size, prng);
    let mut members = named(called, false, decoys, prng);
    shuffle(&mut members, prng);
    let mut pair = Pair::object(&members, Style::any(prng));
    pair.both(*prng.pick(&["", "\n"]));
    Draft { pieces: vec![pair], too_long: None }
}

/// Gemini's other form of a stream: one array, an element at a time.
fn array(number: usize, called: &Called, prng: &mut Prng) -> Draft {
    let mut draft = Draft::default();
    for index in 0..1 + prng.below(4) {
        let mut pair = Pair::from(if index == 0 { "[" } else { "\n,\r\n" });
        let mut members = named(called, true, decoys(number, 50, prng), prng);
        shuffle(&mut members, prng);
        pair.add(&Pair::object(&members, Style::any(prng)));
        draft.push(pair);
    }
    draft.push(Pair::from("\n]"));
    draft
}

/// A stream of events with all that its grammar allows.
fn stream(number: usize, called: &Called, prng: &mut Prng) -> Draft {
    let line = *prng.pick(&["\n", "\n", "\r\n", "\r"]);
    let mut draft = Draft::default();
    for index in 0..1 + prng.below(6) {
        let size = if prng.one_in(60) { EVENT_BYTES_MAX } else { prng.below(200) };
        let mut members = named(called, true, decoys(number, 10, prng), prng);
        shuffle(&mut members, prng);
        let mut data = Pair::object(&members, *prng.pick(&[Style::Tight, Style::Python]));
        let is_chat = called.row.shape == Shape::Chat;
        if is_chat && called.wants_usage && prng.one_in(2) {
            data = with_null_usage(data, called.hide_usage, prng);
        } else if prng.one_in(8) {
            data = over_two_lines(data, line);
        }
        let mut pair = Pair::default();
        if index == 0 && prng.one_in(10) {
            pair.both("\u{feff}");
        } else if prng.one_in(4) {
            draft.push(Pair::from(format!(": still here{line}").as_str()));
        }
        pair.both(&format!("event: something{line}").repeat(prng.below(2)));
        if size == EVENT_BYTES_MAX {
            draft.too_long = draft.too_long.or(Some(draft.pieces.len()));
            pair.both(&format!("id: {}{line}", "i".repeat(size)));
        }
        pair.both(*prng.pick(&["data: ", "data:"]));
        pair.add(&data);
        pair.both(&format!("{line}{line}"));
        draft.push(pair);
        if prng.one_in(8) {
            draft.push(Pair::from(format!("data: no \"model\": \"json\"{line}{line}").as_str()));
        }
    }
    if called.row.shape == Shape::Chat && called.wants_usage {
        let usage =
            format!("data: {{\"choices\":[],\"usage\":{{\"total_tokens\":1}}}}{line}{line}");
        let mut pair = Pair::default();
        pair.each(if called.hide_usage { "" } else { &usage }, &usage);
        draft.push(pair);
    }
    let last = match called.row.shape {
        // The last event need not have its blank line.
        Shape::Chat if prng.one_in(2) => format!("data: [DONE]{}", line.repeat(prng.below(3))),
        _ => LAST.replace('\n', line),
    };
    draft.push(Pair::from(last.as_str()));
    draft
}

/// A usage that is null, in front or at the end, hidden from the caller if need be.
fn with_null_usage(data: Pair, hide: bool, prng: &mut Prng) -> Pair {
    let (in_front, at_end) = ("\"usage\":null,", ",\"usage\":null");
    let mut pair = Pair::from("{");
    let in_front = if prng.one_in(2) { in_front } else { "" };
    let at_end = if in_front.is_empty() { at_end } else { "" };
    pair.each(if hide { "" } else { in_front }, in_front);
    pair.down.extend_from_slice(&data.down[1..data.down.len() - 1]);
    pair.up.extend_from_slice(&data.up[1..data.up.len() - 1]);
    pair.each(if hide { "" } else { at_end }, at_end);
    pair.both("}");
    pair
}

/// The same document in two data lines.
fn over_two_lines(data: Pair, line: &str) -> Pair {
    let mut pair = Pair::from(format!("{{{line}data: ").as_str());
    pair.down.extend_from_slice(&data.down[1..]);
    pair.up.extend_from_slice(&data.up[1..]);
    pair
}
