//! Laws of the event splitter and of rewriting streams, for any bytes.

use super::fuzz_json::{rewritten, scanned};
use super::{naive, prng::Prng, splits};
use crate::dialect::endpoint::{ENDPOINTS, Endpoint, Step};
use crate::dialect::rewrite::{Change, Rewriter};
use crate::wire::json::Event;
use crate::wire::sse::Splitter;
use serde_json::Value;

const NAME: &str = "ali\"as/\\neu\u{2028}é";

/// The finished pieces of a stream that arrives in these parts, and what is left of it.
pub fn split(parts: &[&[u8]]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut splitter = Splitter::new();
    let (mut pieces, mut held) = (Vec::new(), Vec::new());
    for part in parts {
        let mut rest = *part;
        while let Some(length) = splitter.feed(rest) {
            let (end, tail) = rest.split_at(length);
            held.extend_from_slice(end);
            assert!(!held.is_empty(), "a piece without a byte");
            pieces.push(std::mem::take(&mut held));
            rest = tail;
        }
        held.extend_from_slice(rest);
    }
    (pieces, held)
}

/// Pieces do not depend on cuts, are the stream when joined, and keep events whole.
pub fn splitter(data: &[u8]) {
    let whole = split(&[data]);
    assert_eq!(whole, split(&splits::bytewise(data)));
    let mut prng = Prng::new(data.len() as u64);
    assert_eq!(whole, split(&splits::at_random(data, &mut prng)));
    let (pieces, held) = whole;
    assert_eq!([pieces.concat(), held.clone()].concat(), data);
    let first = usize::from(data.starts_with(b"\xEF\xBB\xBF"));
    let mut events: Vec<_> = Vec::new();
    for piece in pieces.iter().chain([&held]) {
        let of_piece = naive::sse_events(piece);
        assert!(of_piece.len() <= 1, "two events in one piece");
        events.extend(of_piece);
    }
    if first == 0 && !data.windows(3).any(|bytes| bytes == b"\xEF\xBB\xBF") {
        assert_eq!(events, naive::sse_events(data));
    }
}

/// A rewritten stream does not depend on cuts; with nothing to change it is the input; and each
/// event is what a tree would make of it.
pub fn stream(data: &[u8]) {
    let Some((&choice, body)) = data.split_first() else { return };
    let endpoint = &ENDPOINTS[usize::from(choice >> 1) % ENDPOINTS.len()];
    let hide_usage = choice & 1 == 1;
    let rewriter = || {
        let change = Change { model: Some(NAME.to_owned()), hide_usage, ..Change::default() };
        Rewriter::stream(endpoint, change, usize::MAX)
    };
    let out = rewritten(rewriter(), &[body]);
    assert_eq!(out, rewritten(rewriter(), &splits::bytewise(body)));
    let silent = Rewriter::stream(endpoint, Change::default(), usize::MAX);
    assert_eq!(body, rewritten(silent, &splits::bytewise(body)));

    let mut seen = naive::sse_events(&out).into_iter();
    for (name, data) in naive::sse_events(body) {
        if hide_usage && is_beyond(&data) {
            // It may disappear or not, so the rest cannot be matched.
            return;
        }
        let Some(expected) = expectation(endpoint, hide_usage, &data) else { continue };
        let (seen_name, seen_data) = seen.next().expect("an event is missing");
        assert_eq!(seen_name, name);
        match expected {
            Expected::Value(value) => {
                assert_eq!(serde_json::from_slice::<Value>(&seen_data).ok(), Some(value));
            }
            Expected::Bytes => assert_eq!(seen_data, data),
            Expected::Anything => {}
        }
    }
    assert_eq!(seen.next(), None);
}

/// JSON of which the oracle cannot tell whether it has a choice: of repeated members a tree keeps
/// the last, and `serde_json` refuses lone surrogates, broken UTF-8 and control bytes.
fn is_beyond(data: &[u8]) -> bool {
    let (events, result) = scanned(&[data], &[&[Step::Key("choices")]]);
    result.is_ok() && (repeats(&events) || serde_json::from_slice::<Value>(data).is_err())
}

fn repeats(events: &[Event]) -> bool {
    events.iter().any(|event| matches!(event, Event::Repeats { .. }))
}

enum Expected {
    Value(Value),
    Bytes,
    Anything,
}

/// What must become of an event with this data; `None`: it must disappear.
fn expectation(endpoint: &Endpoint, hide_usage: bool, data: &[u8]) -> Option<Expected> {
    let Ok(mut value) = serde_json::from_slice::<Value>(data) else {
        // Broken JSON may be changed up to its break; without any it must not.
        let has_json = data.iter().any(|byte| matches!(byte, b'{'));
        return Some(if has_json { Expected::Anything } else { Expected::Bytes });
    };
    if !endpoint.event_model.is_empty() {
        naive::renamed(&mut value, endpoint.event_model, NAME);
    }
    if !hide_usage {
        return Some(Expected::Value(value));
    }
    let (events, _) = scanned(&[data], &[&[Step::Key("usage")]]);
    let before = value.clone();
    let after = naive::without_usage(value)?;
    // Left alone: a repeated member, and one that runs over two data lines.
    let is_odd = before != after && (repeats(&events) || data.contains(&b'\n'));
    Some(if is_odd { Expected::Anything } else { Expected::Value(after) })
}
