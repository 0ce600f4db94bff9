//! Laws of the models of a batch, for any bytes.

use super::fuzz_http::prng;
use super::fuzz_json::scanned;
use super::splits;
use crate::dialect::ask::AskError;
use crate::dialect::batch::Batch;
use crate::dialect::endpoint::Step;
use crate::limits::{BATCH_MODELS_MAX, MODEL_BYTES_MAX};
use crate::wire::json::Event;
use serde_json::Value;

const PATH: &[Step] = &[Step::Key("requests"), Step::Each, Step::Key("params"), Step::Key("model")];

/// A batch that arrives in these pieces.
fn read(pieces: &[&[u8]]) -> Result<Batch, AskError> {
    let mut batch = Batch::default();
    pieces.iter().try_for_each(|piece| batch.feed(piece))?;
    batch.finish()?;
    Ok(batch)
}

/// What becomes of a batch that arrives in these pieces, when each name is exchanged for `served`.
fn exchanged(batch: &Batch, served: &[String], pieces: &[&[u8]]) -> Vec<u8> {
    let (mut exchange, growth) = batch.exchange(served.iter().map(String::as_str));
    let mut out = Vec::new();
    for piece in pieces {
        assert_eq!(exchange.feed(piece, &mut out), Ok(()), "it was read before");
    }
    let length: usize = pieces.iter().map(|piece| piece.len()).sum();
    assert_eq!(length as i64 + growth, out.len() as i64);
    out
}

/// What is found and what is refused depends on no cut, is what a tree holds, and is exchanged
/// without a change to anything else.
pub fn names(data: &[u8]) {
    let bytewise = splits::bytewise(data);
    let at_random = splits::at_random(data, &mut prng(data));
    let whole = read(&[data]);
    let seen = |batch: &Result<Batch, AskError>| {
        batch
            .as_ref()
            .map_err(|error| *error)
            .map(|batch| batch.names().map(str::to_owned).collect::<Vec<_>>())
    };
    let names = seen(&whole);
    assert_eq!(names, seen(&read(&bytewise)));
    assert_eq!(names, seen(&read(&at_random)));
    let (Ok(batch), Ok(names)) = (whole, names) else { return };
    assert!(names.len() <= BATCH_MODELS_MAX);
    assert!(names.iter().all(|name| (1..=MODEL_BYTES_MAX).contains(&name.len())));
    assert_eq!(exchanged(&batch, &[], &bytewise), data, "silence is identity");

    let others = batch.others().to_vec();
    assert!(others.len() <= BATCH_MODELS_MAX);
    assert_eq!(read(&bytewise).map(|batch| batch.others().to_vec()), Ok(others.clone()));

    let served: Vec<String> = (0..names.len()).map(|at| format!("neu\"{at}/\u{e9}")).collect();
    let out = exchanged(&batch, &served, &[data]);
    assert_eq!(out, exchanged(&batch, &served, &bytewise));
    assert_eq!(out, exchanged(&batch, &served, &at_random));
    check_tree(data, &out, &names, &served);
    check_others(data, others);
}

/// What a tree holds at the places of further models.
fn check_others(data: &[u8], mut others: Vec<String>) {
    let Ok(tree) = serde_json::from_slice::<Value>(data) else { return };
    let each = |list: Option<&Value>| list.and_then(Value::as_array).cloned().unwrap_or_default();
    let mut found = Vec::new();
    for request in each(tree.get("requests")) {
        let Some(params) = request.get("params") else { continue };
        let fallbacks = each(params.get("fallbacks"));
        let named = fallbacks.iter().chain(&each(params.get("tools"))).cloned().collect::<Vec<_>>();
        let named = named.iter().filter_map(|one| one.get("model").cloned());
        let plain = each(params.get("models")).into_iter().chain(fallbacks);
        found.extend(plain.chain(named).filter_map(|name| name.as_str().map(str::to_owned)));
    }
    found.sort();
    found.dedup();
    others.sort();
    assert_eq!(others, found);
}

fn check_tree(data: &[u8], out: &[u8], names: &[String], served: &[String]) {
    // Of a repeated member a tree keeps the last.
    let (events, _) = scanned(&[data], &[PATH]);
    assert!(!events.iter().any(|event| matches!(event, Event::Repeats { .. })));
    let Ok(mut tree) = serde_json::from_slice::<Value>(data) else { return };
    let found: Vec<&str> =
        models(&mut tree).into_iter().filter_map(|model| model.as_str()).collect();
    // The same name may be written in two ways, and each is exchanged for its own.
    assert_eq!(once(names.iter().map(String::as_str)), once(found.into_iter()));
    let mut after: Value = serde_json::from_slice(out).expect("it stays JSON");
    for (before, after) in models(&mut tree).into_iter().zip(models(&mut after)) {
        let at = served.iter().position(|served| after.as_str() == Some(served));
        assert_eq!(before.as_str(), at.map(|at| names[at].as_str()));
        *before = after.clone();
    }
    assert_eq!(tree, after);
}

/// In the order in which each comes first.
fn once<'n>(names: impl Iterator<Item = &'n str>) -> Vec<&'n str> {
    let mut once = Vec::new();
    for name in names {
        if !once.contains(&name) {
            once.push(name);
        }
    }
    once
}

/// The place of every model in a batch.
fn models(tree: &mut Value) -> Vec<&mut Value> {
    let requests = tree.get_mut("requests").and_then(Value::as_array_mut);
    let params = requests.into_iter().flatten().filter_map(|request| request.get_mut("params"));
    params.filter_map(|params| params.get_mut("model")).collect()
}

/// Sound batches to begin from.
pub const BATCHES: &[&[u8]] = &[
    br#"{"requests":[{"custom_id":"a","params":{"model":"fast","messages":[]}},
        {"params":{"model":"p/m"}}]}"#,
    br#" {"x":{"model":1},"requests":[{"params":{"model":"\u0066ast"},"model":"stays"},
        {"params":{"model":"fast"}},{}]} "#,
    br#"{"requests":[{"params":{"model":"fast","models":["a"],"fallbacks":[{"model":"b"},"c"],
        "tools":[{"model":"d"},{}]}}]}"#,
    br#"{"requests":[],"params":{"model":"stays"},"model":[]}"#,
];

/// What mutations put in.
pub const SPICES: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\"",
    b"\\",
    b"\\u0061",
    b"\\ud800",
    b"1",
    b"null",
    b" ",
    b"\0",
    b"\xff",
    b"\"model\":",
    b"\"models\":[\"e\",{}],",
    b"\"fallbacks\":[{\"model\":\"f\"}],",
    b"\"Model\":\"a\",",
    b"\"m\\u006fdel\":\"a\",",
    b"\"params\":{\"model\":\"b\"},",
    b"\"requests\":[{\"params\":{\"model\":\"c\"}}],",
    b"{\"params\":{\"model\":\"\"}},",
    b"{\"params\":{\"model\":\"c\\nd\"}},",
    b"{\"params\":{\"model\":1}},",
    b"{\"params\":{\"model\":\"d\"}},",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::mutate;

    #[test]
    fn laws_of_batches_hold_for_mutated_batches() {
        mutate::run(BATCHES, SPICES, 10_000, names);
    }
}
