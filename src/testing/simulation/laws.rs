//! What has to be true of a run, whatever happened in it.

use std::collections::HashSet;
use std::ops::Range;

use super::connection::{ADA, BOB, CREDENTIAL, DISABLED, Step};
use super::ends::{Fault, Seen};
use super::logs;
use super::pair::{marker, markers};
use super::replies::{Break, Expected, Pace, Told};
use super::requests::{Called, Expect, Follow, Sent, UpBody};
use super::responses::{self, Framing, Response, Responses};
use super::run::{Round, Run};
use crate::dialect::{Dialect, Family};
use crate::exchange::Stop;
use crate::limits;
use crate::metrics::{Count, Gauge};
use crate::testing::naive;

/// What happens often enough in many runs, or the simulation has stopped to simulate it.
pub(super) const KINDS: &[&str] = &[
    "a page",
    "a refusal before the body",
    "a refusal after the body",
    "a broken head or framing",
    "a changed request",
    "a whole reply",
    "a whole reply in chunks",
    "a whole reply until the close",
    "a cut reply",
    "a cut stream with its error event",
    "a break before the commit",
    "an aborted connection",
    "a refused call",
    "an estimate",
    "a second call",
    "a caller who has gone",
    "a panic",
    "100 Continue",
    "a late request",
    "a request that ends too early",
    "a failed write",
    "an answer while draining",
    "an answer after a reload",
    "an answer under pressure",
];

/// What has to come back for one request.
#[derive(Clone, Copy)]
enum Want<'r> {
    Nothing,
    /// An answer of our own.
    Ours(u16),
    /// A reply; broken off when there is no other way.
    Reply(&'r Expected),
}

/// Checks all laws; says what happened.
pub(super) fn check(run: &Run) -> Vec<&'static str> {
    let mut kinds = Vec::new();
    run.connection.check_balance();
    let wire = run.connection.wire.borrow();
    let found = answers(&run.sents, &wire.out);
    check_secrets(&wire.out);
    check_fields(&found.all);
    let seen = run.connection.seen.borrow();
    check_calls(run, &seen, &mut kinds);
    check_lines(run, &found);
    let desk = run.desk.borrow();
    let mut all = found.all.iter().peekable();
    for (number, round) in run.rounds.iter().enumerate() {
        let answer = all.next_if(|answer| answer.span.start == round.out.start);
        let sent = run.sents.get(number);
        if let Some(answer) = answer {
            assert!(markers(&wire.out[answer.span.clone()]).iter().all(|mark| *mark == number));
        }
        match sent {
            Some(sent) if !matches!(sent.expect, Expect::Unknown) => {
                if let Some(answer) = answer {
                    assert_eq!(answer.span, round.out, "one round, one answer");
                }
                let told = desk.told.iter().rev().find(|(other, _)| *other == number);
                let exchange = Exchange { run, sent, round, told: told.map(|(_, told)| told) };
                exchange.check(answer, &mut kinds);
            }
            Some(_) => {
                kinds.push("a changed request");
                break;
            }
            None => assert!(answer.is_none() && round.out.is_empty(), "an answer to nothing"),
        }
    }
    let failed = wire.write_failed.is_some() || found.rest == 0;
    assert!(failed || run.rounds.last().is_some_and(|round| round.step == Step::Panicked));
    if wire.aborted {
        kinds.push("an aborted connection");
    }
    if let Some(stop) = wire.write_failed.filter(|_| wire.write_stop.is_some()) {
        kinds.push("a failed write");
        let until_close = found.all.last().is_some_and(|last| last.framing == Framing::UntilClose);
        assert!(!until_close || wire.aborted || stop == Stop::Gone, "a cut that looks whole");
    }
    kinds
}

fn answers(sents: &[Sent], out: &[u8]) -> Responses {
    responses::read(out, |number, status| {
        let is_head = sents.get(number).is_some_and(|sent| sent.is_head);
        // A request whose head never came whole was not known to be a HEAD.
        is_head && ![400, 408].contains(&status)
    })
}

fn check_secrets(out: &[u8]) {
    let text = String::from_utf8_lossy(out);
    for secret in [CREDENTIAL, ADA, BOB] {
        assert!(!text.contains(secret), "a secret came back");
    }
}

/// One line for each request, true in what it says, and silent about secrets and prompts.
fn check_lines(run: &Run, found: &Responses) {
    for line in &run.lines {
        let secrets = [CREDENTIAL, ADA, BOB, DISABLED[0], DISABLED[1], " says ", "session=mine"];
        assert!(!secrets.iter().any(|secret| line.contains(secret)), "{line}");
    }
    let lines = logs::of_requests(&run.lines);
    let ended = run.connection.core.metrics.counted(Count::Ended);
    assert_eq!(lines.len() as u64, ended, "one line for each request");
    let write_failed = run.connection.wire.borrow().write_failed.is_some();
    let mut told: Vec<&Response> = found.all.iter().collect();
    for line in lines {
        let status = logs::value(line, "status");
        if status == "0" {
            continue;
        }
        if told.is_empty() && write_failed {
            return;
        }
        let answer = told.remove(0);
        assert_eq!(status, answer.status.to_string(), "{line}");
        let id = answer.field("x-gproxy-request-id").unwrap_or_default();
        assert!(line.starts_with(&format!("id={id} ")), "{line}");
        let bytes = logs::value(line, "bytes_out");
        // When a write failed, more was handed over than arrived.
        let may_differ = !answer.is_whole || write_failed;
        assert!(bytes == answer.body.len().to_string() || may_differ, "{line}");
        let is_ours = ["ok", "refused"].contains(&logs::value(line, "end"));
        assert!(is_ours || !answer.is_ours() || write_failed, "{line}");
    }
    assert!(told.is_empty(), "an answer without a line");
}

/// What every answer carries, and what none does.
fn check_fields(answers: &[Response]) {
    let mut ids = HashSet::new();
    for answer in answers {
        let id = answer.field("x-gproxy-request-id").expect("every answer has an id");
        assert!(id.len() == 24 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        assert!(ids.insert(id.to_owned()), "an id twice");
        let overhead = answer.field("x-gproxy-overhead-us").expect("every answer says its time");
        assert!(overhead.parse::<u64>().is_ok());
        for name in ["set-cookie", "strict-transport-security", "keep-alive", "x-hop"] {
            assert!(answer.field(name).is_none(), "{name} came down");
        }
        assert!(answer.field("access-control-allow-origin").is_none(), "CORS is off");
        assert!(answer.continues <= 1);
        let has_length = answer.field("content-length").is_some();
        assert!(answer.status != 204 || !has_length, "no content has no length");
    }
}

/// What the upstream saw: what it had to see, whole, and nothing else.
fn check_calls(run: &Run, seen: &[Seen], kinds: &mut Vec<&'static str>) {
    let mut numbers = Vec::new();
    for call in seen {
        check_call_headers(call);
        let marks = markers(call.header("x-marker").unwrap_or_default().as_bytes());
        let Some(sent) = marks.first().and_then(|number| run.sents.get(*number)) else {
            let last = run.sents.last().map(|sent| &sent.expect);
            assert!(matches!(last, Some(Expect::Unknown)), "a call for nobody");
            continue;
        };
        numbers.push(sent.number);
        match &sent.expect {
            Expect::Called(called) => check_call(called, call),
            Expect::Unknown => {}
            _ => panic!("a call that had to be refused: {}", call.url),
        }
    }
    assert!(numbers.is_sorted(), "answers in their order need calls in theirs");
    let desk = run.desk.borrow();
    for (index, (number, told)) in desk.told.iter().enumerate() {
        let before = desk.told[..index].iter().filter(|(other, _)| other == number).count();
        let is_last = !desk.told[index + 1..].iter().any(|(other, _)| other == number);
        assert_eq!(matches!(told, Told::Again), !is_last, "a second call only where it is allowed");
        if before > 0 && matches!(run.sents[*number].expect, Expect::Called(_)) {
            kinds.push("a second call");
            assert_eq!(before, 1, "two calls at most");
            assert_eq!(seen[index - 1].out_before, seen[index].out_before, "not after a commit");
        }
    }
}

fn check_call_headers(call: &Seen) {
    const NEVER: &[&str] = &[
        "connection",
        "cookie",
        "te",
        "host",
        "keep-alive",
        "content-length",
        "transfer-encoding",
        "expect",
        "api-key",
        "x-forwarded-for",
        "proxy-authorization",
    ];
    for (name, value) in &call.headers {
        assert!(!NEVER.contains(&name.as_str()), "{name} went up");
        assert!(!name.starts_with("x-gproxy-"), "{name} went up");
        assert!(!value.contains(ADA) && !value.contains(BOB), "a key went up in {name}");
    }
    assert!(!call.url.contains(ADA) && !call.url.contains(BOB), "a key went up in the URL");
    assert_eq!(call.header("accept-encoding"), Some("identity"));
    assert_eq!(call.method, "POST");
}

fn check_call(called: &Called, call: &Seen) {
    assert_eq!(call.provider, called.provider);
    assert_eq!(call.url, called.url);
    assert!(call.header("x-hop").is_none(), "what `connection` names stays here");
    match &called.body {
        UpBody::Exact(body) => {
            assert!(call.body == *body, "{}\n{}", call.body.escape_ascii(), body.escape_ascii());
        }
        UpBody::Json(value) => {
            let sent: serde_json::Value = serde_json::from_slice(&call.body).expect("JSON goes up");
            assert_eq!(sent, *value);
        }
    }
    let (name, scheme) = match called.row.dialect {
        Dialect::Anthropic => ("x-api-key", ""),
        Dialect::Gemini => ("x-goog-api-key", ""),
        _ => ("authorization", "Bearer "),
    };
    let credential = call.header(name).expect("a credential goes up");
    let whose = format!("{scheme}{CREDENTIAL}{}", called.provider);
    assert!(credential.starts_with(&whose), "{credential}");
    for other in ["authorization", "x-api-key", "x-goog-api-key"] {
        let count = call.headers.iter().filter(|(name, _)| name == other).count();
        assert_eq!(count, usize::from(other == name), "{other}");
    }
    let organization = call.header("openai-organization").is_none();
    assert!(organization || called.provider == "beta", "only where the provider says so");
    let is_anthropic = called.row.dialect == Dialect::Anthropic;
    assert_eq!(call.header("anthropic-version").is_some(), is_anthropic);
}

/// A count of tokens that the upstream did not make.
fn is_estimated(called: &Called, told: Option<&Told>) -> bool {
    let counts = called.row.tail.ends_with("count_tokens") || called.row.tail == "countTokens";
    counts
        && match told {
            Some(Told::Refused(_)) => true,
            Some(Told::Reply(reply)) => match reply.status {
                404 | 405 => true,
                // A refusal is read whole before anything is done about it.
                429 | 500.. => !matches!(reply.breaks, Some(Break::Silent)),
                401..=403 => matches!(reply.breaks, Some(Break::Told(_))),
                _ => false,
            },
            _ => false,
        }
}

fn is_count(body: &[u8]) -> bool {
    let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    ["input_tokens", "totalTokens"].iter().any(|name| value[name].is_u64())
}

/// One request, what came of it, and what was allowed to.
struct Exchange<'r> {
    run: &'r Run,
    sent: &'r Sent,
    round: &'r Round,
    told: Option<&'r Told>,
}

/// What the caller's own fault does to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    None,
    /// It may take longer than a drain waits.
    Slow,
    /// It never comes whole.
    Late,
    Early,
    Gone,
}

impl<'r> Exchange<'r> {
    fn span(&self) -> &Range<usize> {
        &self.run.spans[self.sent.number]
    }

    fn reads_body(&self) -> bool {
        !matches!(self.sent.expect, Expect::Page(_) | Expect::Refused { body_read: false, .. })
    }

    fn harm(&self) -> Harm {
        let span = self.span();
        let Some((place, fault)) = self.run.fault else { return Harm::None };
        if !span.contains(&place) {
            return Harm::None;
        }
        let in_head = place < span.start + self.sent.body_at;
        let is_needed = in_head || self.reads_body();
        match fault {
            Fault::Stall(300) => Harm::None,
            Fault::Stall(5_000) => Harm::Slow,
            _ if !is_needed => Harm::Slow,
            Fault::Stall(_) if place == span.start => Harm::Slow,
            Fault::Close if place == span.start => Harm::Gone,
            Fault::Stall(_) | Fault::Silence | Fault::AwaitContinue => Harm::Late,
            Fault::Close => Harm::Early,
            Fault::Reset => Harm::Gone,
        }
    }

    /// Everything that may come back.
    fn wants(&self) -> Vec<Want<'r>> {
        let number = self.sent.number;
        let mut wants = match &self.sent.expect {
            Expect::Page(status) | Expect::Refused { status, .. } | Expect::Broken(status) => {
                vec![Want::Ours(*status)]
            }
            // Tokens are counted here where the upstream does not count them.
            Expect::Called(called) if is_estimated(called, self.told) => vec![Want::Ours(200)],
            Expect::Called(_) => match self.told {
                Some(Told::Refused(status)) => vec![Want::Ours(*status)],
                Some(Told::Nothing) => vec![Want::Nothing],
                Some(Told::Reply(expected)) => match expected.breaks {
                    Some(Break::Told(status)) => vec![Want::Ours(status), Want::Reply(expected)],
                    Some(Break::Silent) => vec![Want::Nothing, Want::Reply(expected)],
                    None => vec![Want::Reply(expected)],
                },
                Some(Told::Again) | None => Vec::new(),
            },
            Expect::Unknown => Vec::new(),
        };
        let is_broken = matches!(self.sent.expect, Expect::Broken(_));
        let harmed = match self.harm() {
            Harm::None | Harm::Slow => None,
            Harm::Late => Some(Want::Ours(408)),
            Harm::Early => Some(Want::Ours(400)),
            Harm::Gone => Some(Want::Nothing),
        };
        if let Some(harmed) = harmed {
            if !is_broken {
                assert!(self.told.is_none(), "a request went up that did not come whole");
                wants.clear();
            }
            wants.push(harmed);
        }
        if self.run.leaps {
            wants.push(Want::Ours(408));
        }
        if self.run.reloads_at.is_some_and(|at| at < number) {
            wants.push(Want::Ours(401));
        }
        if self.run.pressure.is_some() {
            wants.push(Want::Ours(503));
        }
        wants
    }

    fn check(&self, answer: Option<&Response>, kinds: &mut Vec<&'static str>) {
        let wire = self.run.connection.wire.borrow();
        let is_last = self.run.rounds.last().is_some_and(|last| std::ptr::eq(last, self.round));
        let write_failed = is_last && wire.write_failed.is_some() && wire.write_stop.is_some();
        let wants = self.wants();
        let matching = wants.iter().copied().find(|want| match (want, answer) {
            (Want::Nothing, None) => true,
            (Want::Ours(status), Some(answer)) => answer.is_ours() && answer.status == *status,
            (Want::Reply(expected), Some(answer)) => {
                !answer.is_ours() && answer.status == expected.status
            }
            _ => false,
        });
        let Some(matching) = matching else {
            assert!(answer.is_none() && write_failed, "unexpected answer: {answer:?}");
            assert_eq!(self.round.step, Step::Close);
            return;
        };
        match (matching, answer) {
            (Want::Reply(expected), Some(answer)) => {
                self.check_reply(expected, answer, write_failed, kinds);
            }
            (Want::Ours(_), Some(answer)) => self.check_own(answer, write_failed, kinds),
            _ => kinds.push(match self.round.step {
                Step::Panicked => "a panic",
                _ => "a caller who has gone",
            }),
        }
        if let Some(answer) = answer {
            let overhead = answer.field("x-gproxy-overhead-us").map(|text| text.parse::<u64>());
            let is_calm = self.run.fault.is_none() && !self.run.leaps;
            let is_short = matches!(overhead, Some(Ok(0..500_000)));
            assert!(is_short || !is_calm, "the upstream's time is not ours: {overhead:?}");
            if answer.continues > 0 {
                kinds.push("100 Continue");
                assert!(self.sent.expects && self.reads_body());
            }
            let is_called = matches!(self.sent.expect, Expect::Called(_));
            let is_easy = answer.is_whole && self.harm() == Harm::None && !self.run.leaps;
            if self.sent.awaits && is_called && is_easy && self.told.is_some() {
                assert_eq!(answer.continues, 1, "a body came that nobody asked for");
            }
        }
        self.check_step(matching, answer, write_failed, kinds);
    }

    /// An answer of our own: whole, readable, and in the family's shape.
    fn check_own(&self, answer: &Response, write_failed: bool, kinds: &mut Vec<&'static str>) {
        assert!(answer.is_whole || write_failed, "an answer of our own broke off");
        kinds.push(match (&self.sent.expect, answer.status) {
            (_, 408) => "a late request",
            (_, 503) if self.run.pressure.is_some() => "an answer under pressure",
            (_, 400) if self.harm() == Harm::Early => "a request that ends too early",
            (Expect::Page(_), _) => "a page",
            (Expect::Refused { body_read: false, .. }, _) => "a refusal before the body",
            (Expect::Refused { .. }, _) => "a refusal after the body",
            (Expect::Called(_), 200) => "an estimate",
            (Expect::Broken(_), _) => "a broken head or framing",
            _ => match self.told {
                Some(Told::Reply(_)) => "a break before the commit",
                Some(_) => "a refused call",
                None => "an answer after a reload",
            },
        });
        if !answer.is_whole || self.sent.is_head {
            return;
        }
        if answer.status < 400 {
            let is_estimate = matches!(self.sent.expect, Expect::Called(_));
            return assert!(!is_estimate || is_count(&answer.body), "no count of tokens");
        }
        assert_eq!(answer.field("content-type"), Some("application/json"));
        let value: serde_json::Value =
            serde_json::from_slice(&answer.body).expect("a refusal is JSON");
        let error = &value["error"];
        assert!(error["message"].is_string(), "{value}");
        let is_broken_head = self.sent.body_at == self.sent.bytes.len();
        let is_plain = answer.status != 408 && !is_broken_head && self.harm() == Harm::None;
        match self.sent.family.filter(|_| is_plain) {
            Some(Family::Openai) => assert!(error["type"].is_string(), "{value}"),
            Some(Family::Anthropic) => assert!(value["type"] == "error", "{value}"),
            Some(Family::Gemini) => assert_eq!(error["code"], answer.status, "{value}"),
            None => {}
        }
    }

    fn check_reply(
        &self,
        expected: &Expected,
        answer: &Response,
        write_failed: bool,
        kinds: &mut Vec<&'static str>,
    ) {
        self.check_reply_head(expected, answer);
        self.check_pace(expected, answer);
        let wire = self.run.connection.wire.borrow();
        let is_bodiless = answer.framing == Framing::Bodiless;
        let until_close = answer.framing == Framing::UntilClose;
        let left = wire.gone && expected.breaks == Some(Break::Silent);
        let closed_badly = until_close && (wire.aborted || left || write_failed);
        let body = expected.body();
        if answer.is_whole && !closed_badly {
            assert!(is_bodiless || expected.breaks.is_none(), "a cut reply ends as a whole one");
            assert!(answer.body == body || is_bodiless, "{}", answer.body.escape_ascii());
            kinds.push(match answer.framing {
                Framing::Chunked => "a whole reply in chunks",
                Framing::UntilClose => "a whole reply until the close",
                Framing::Sized(_) | Framing::Bodiless => "a whole reply",
            });
            self.check_by_tree(answer);
            return;
        }
        assert!(write_failed || expected.breaks.is_some(), "a sound reply was cut");
        kinds.push("a cut reply");
        if !expected.is_stream {
            assert!(body.starts_with(&answer.body), "{}", answer.body.escape_ascii());
            return;
        }
        let fits = |count: usize| {
            let whole = expected.pieces[..count].concat();
            let rest = answer.body.strip_prefix(whole.as_slice())?;
            let is_told = matches!(expected.breaks, Some(Break::Told(_)));
            (rest.is_empty() || is_told && self.is_error_event(rest)).then_some(rest.len())
        };
        let whole = expected.pieces_whole;
        // What a write cut off, or a silent end left over.
        if write_failed || expected.breaks == Some(Break::Silent) {
            let told = [fits(whole), whole.checked_sub(1).and_then(fits)];
            let is_told = told.iter().flatten().any(|rest| *rest > 0);
            let beyond = [&expected.pieces[..whole].concat()[..], &expected.bytes_beyond].concat();
            let begins = body.starts_with(&answer.body) || beyond.starts_with(&answer.body);
            assert!(begins || is_told || write_failed, "{}", answer.body.escape_ascii());
            return;
        }
        let told = fits(whole).or_else(|| whole.checked_sub(1).and_then(fits));
        let told = told.unwrap_or_else(|| panic!("no border: {}", answer.body.escape_ascii()));
        assert!(told > 0, "a break that nobody was told of");
        kinds.push("a cut stream with its error event");
    }

    /// What has come is not kept back while the gateway waits for more.
    fn check_pace(&self, expected: &Expected, answer: &Response) {
        let wire = self.run.connection.wire.borrow();
        let desk = self.run.desk.borrow();
        let call = desk.told.iter().rposition(|(number, _)| *number == self.sent.number);
        if answer.framing == Framing::Bodiless || expected.pace == Pace::Held {
            return;
        }
        for wait in wire.waits.iter().filter(|wait| Some(wait.call) == call) {
            let so_far = responses::read(&wire.out[answer.span.start..wait.went], |_, _| false);
            let so_far = so_far.all.first().expect("the head leaves before the first wait");
            let whole = expected.ends.iter().filter(|end| **end <= wait.came).count();
            let least = match expected.pace {
                Pace::Bytes => wait.came,
                // After a carriage return nobody knows whether a line feed follows.
                _ if expected.is_stream => {
                    expected.pieces[..whole.saturating_sub(1)].concat().len()
                }
                _ => expected.pieces[..whole].concat().len(),
            };
            assert!(so_far.body.len() >= least, "{} of {least} bytes", so_far.body.len());
        }
    }

    fn check_reply_head(&self, expected: &Expected, answer: &Response) {
        assert_eq!(answer.field("content-type"), Some(expected.content_type));
        assert_eq!(answer.field("x-marker-reply"), Some(&*marker(self.sent.number)));
        let source = (expected.status >= 400).then_some("upstream");
        assert_eq!(answer.field("x-gproxy-source"), source);
        assert_eq!(answer.field("location").is_some(), expected.status == 302);
        if expected.status >= 400 {
            assert_eq!(answer.field("x-error"), Some("the key *** is bad"));
            assert_eq!(answer.field("retry-after"), Some("3"));
        }
        let Expect::Called(called) = &self.sent.expect else { panic!("a reply to no call") };
        let ours = answer.field("x-gproxy-request-id");
        let theirs = Some("req-of-the-upstream").filter(|_| expected.has_request_id);
        // Anthropic's clients look for another name than the upstream's.
        let (id, other) = match called.row.dialect {
            Dialect::Anthropic => (ours, theirs),
            _ => (None, theirs.or(ours)),
        };
        assert_eq!((answer.field("request-id"), answer.field("x-request-id")), (id, other));
        match answer.framing {
            Framing::Bodiless => {}
            Framing::Sized(length) => {
                assert!(expected.length.is_none_or(|known| known == length));
                assert!(!expected.is_stream, "a stream has no length");
            }
            framing => {
                assert_eq!(expected.length, None, "a length was known");
                let until_close = framing == Framing::UntilClose;
                assert_eq!(until_close, !self.sent.http11, "HTTP/1.0 knows no chunks");
                let is_small = expected.body().len() < limits::REPLY_HELD_BYTES_MAX / 2;
                let is_held = expected.status >= 400 && expected.breaks.is_none();
                assert!(!(is_small && is_held), "a small error keeps an exact length");
            }
        }
    }

    /// The same judgement once more, by way of trees: the model stands where it should, and nothing
    /// else was touched.
    fn check_by_tree(&self, answer: &Response) {
        let Expect::Called(called) = &self.sent.expect else { return };
        let is_events = answer.field("content-type").is_some_and(|text| text.contains("event"));
        if answer.status != 200 || answer.field("content-encoding").is_some() {
            return;
        }
        let Some(asked) = &called.restored else { return };
        let path = called.row.model_path(is_events);
        let documents: Vec<Vec<u8>> = match is_events {
            true => naive::sse_events(&answer.body).into_iter().map(|(_, data)| data).collect(),
            false => vec![answer.body.clone()],
        };
        for document in documents {
            let Ok(value) = serde_json::from_slice::<serde_json::Value>(&document) else {
                continue;
            };
            let all = value.as_array().cloned().unwrap_or_else(|| vec![value]);
            for value in all {
                let found = path.iter().try_fold(&value, |value, key| value.get(key));
                if let Some(text) = found.and_then(|found| found.as_str()) {
                    assert_eq!(text, asked, "the model was not restored");
                }
            }
        }
    }

    fn is_error_event(&self, rest: &[u8]) -> bool {
        let Expect::Called(called) = &self.sent.expect else { return false };
        let events = naive::sse_events(rest);
        let [(name, data)] = &events[..] else { return false };
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(data) else { return false };
        match called.row.dialect {
            Dialect::OpenaiChat | Dialect::OpenaiEmbeddings => {
                value["error"]["message"].is_string()
            }
            Dialect::OpenaiResponses => name == b"error" && value["message"].is_string(),
            Dialect::Anthropic => name == b"error" && value["error"]["message"].is_string(),
            Dialect::Gemini => value["error"]["code"].is_number(),
        }
    }

    /// What becomes of the connection, and whether the answer said so.
    fn check_step(
        &self,
        matching: Want<'_>,
        answer: Option<&Response>,
        write_failed: bool,
        kinds: &mut Vec<&'static str>,
    ) {
        let (run, step) = (self.run, self.round.step);
        let drains = self.round.drains || run.connection.core.is_draining();
        let is_broken_off = match matching {
            Want::Nothing => true,
            Want::Reply(expected) => {
                expected.breaks.is_some() && answer.is_some_and(|a| a.framing != Framing::Bodiless)
            }
            Want::Ours(408) => true,
            Want::Ours(status) => {
                matches!(self.sent.expect, Expect::Broken(_))
                    || self.harm() == Harm::Early && status == 400
                    || status == 503 && matches!(self.told, Some(Told::Refused(503)))
            }
        };
        let ends = is_broken_off || write_failed || self.sent.follow == Follow::Ends;
        if ends || self.round.drains {
            assert_ne!(step, Step::Again, "the connection goes on");
        } else if self.harm() == Harm::None && !run.leaps && run.pressure.is_none() && !drains {
            let reloaded = run.reloads_at.is_some_and(|at| at < self.sent.number);
            assert!(step == Step::Again || reloaded, "the connection ends");
        }
        let Some(answer) = answer else { return };
        let says_close = answer.field("connection").is_some_and(|value| value == "close");
        assert!(answer.field("connection").is_none() || says_close);
        assert!(step != Step::Again || !says_close, "the connection goes on after its end");
        let must_say = self.sent.says_close || !self.sent.http11 || self.round.drains;
        let must_say =
            must_say || matches!(matching, Want::Ours(408)) || is_broken_head(matching, self);
        assert!(says_close || !must_say, "the connection ends without a word");
        if self.round.drains {
            kinds.push("an answer while draining");
        }
        let wire = run.connection.wire.borrow();
        if step == Step::Close && answer.is_whole && !wire.aborted && !write_failed && !wire.gone {
            assert!(wire.shut, "the last answer is followed by its end");
        }
    }
}

fn is_broken_head(matching: Want<'_>, exchange: &Exchange<'_>) -> bool {
    let is_broken = matches!(exchange.sent.expect, Expect::Broken(_));
    is_broken && matches!(matching, Want::Ours(400 | 413 | 414 | 417 | 431 | 501 | 505))
}

/// Ways to spoil what came of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoil {
    /// The last byte of a whole answer is another.
    LastByte,
    /// A text of another request.
    Marker,
    /// The model's own name.
    Model,
    /// A cut that ends like a whole reply.
    PoliteEnd,
    /// A credential in a refusal.
    Credential,
    /// A byte is still held.
    Gauge,
    /// A key in a header that went up.
    Key,
    /// Half of a body went up.
    HalfBody,
}

pub(super) const SPOILS: &[Spoil] = &[
    Spoil::LastByte,
    Spoil::Marker,
    Spoil::Model,
    Spoil::PoliteEnd,
    Spoil::Credential,
    Spoil::Gauge,
    Spoil::Key,
    Spoil::HalfBody,
];

impl Spoil {
    /// Spoils the run, if it holds what can be spoiled.
    pub(super) fn spoils(self, run: &mut Run) -> bool {
        let mut wire = run.connection.wire.borrow_mut();
        let mut seen = run.connection.seen.borrow_mut();
        match self {
            Spoil::LastByte => {
                let Some(round) = run.rounds.last().filter(|round| !round.out.is_empty()) else {
                    return false;
                };
                let sent = run.sents.get(run.rounds.len() - 1);
                let is_known = sent.is_some_and(|sent| !matches!(sent.expect, Expect::Unknown));
                let last = round.out.end - 1;
                wire.out[last] = b'#';
                is_known && round.step == Step::Again
            }
            Spoil::Marker => {
                let is_known = !matches!(run.sents[0].expect, Expect::Unknown);
                let is_readable = is_known && wire.write_stop.is_none();
                is_readable && replace(&mut wire.out, b"mark-0-end", b"mark-9-end")
            }
            Spoil::Model => replace(&mut wire.out, b"\"alpha/", b"\"alphb/"),
            Spoil::PoliteEnd => {
                let answers = answers(&run.sents, &wire.out).all;
                let is_cut = |last: &Response| last.framing == Framing::Chunked && !last.is_whole;
                let is_cut = wire.write_failed.is_none() && answers.last().is_some_and(is_cut);
                if let Some(round) = run.rounds.last_mut().filter(|_| is_cut) {
                    wire.out.extend_from_slice(b"0\r\n\r\n");
                    round.out.end += 5;
                }
                is_cut
            }
            Spoil::Credential => {
                replace(&mut wire.out, b"the API key is missing", b"cred-upstream-alpha-1.")
            }
            Spoil::Gauge => {
                run.connection.core.metrics.add(Gauge::HeldBytes, 1);
                true
            }
            Spoil::Key => match seen.first_mut() {
                Some(call) => {
                    call.headers.push(("x-key".into(), ADA.into()));
                    true
                }
                None => false,
            },
            Spoil::HalfBody => match seen.first_mut().filter(|call| call.body.len() > 2) {
                Some(call) if call.header("x-marker").is_some() => {
                    let half = call.body.len() / 2;
                    call.body.truncate(half);
                    !matches!(run.sents[0].expect, Expect::Unknown)
                        && run.desk.borrow().calls.contains_key(&0)
                }
                _ => false,
            },
        }
    }
}

fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) -> bool {
    let found = memchr::memmem::find(bytes, from);
    if let Some(at) = found {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
    found.is_some()
}
