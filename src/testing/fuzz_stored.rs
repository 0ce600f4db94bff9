//! Laws of calls that name no model: where they lead, and what is exchanged in their replies.

use super::fuzz_json::rewritten;
use super::{prng::Prng, splits};
use crate::dialect::Family;
use crate::dialect::endpoint::{ENDPOINTS, Step};
use crate::dialect::live;
use crate::dialect::models;
use crate::dialect::path::{self, RESERVED, VERSIONS};
use crate::dialect::resource::{self, Call, RESOURCES, Resource};
use crate::dialect::rewrite::{Change, Rewriter};
use crate::dialect::stored::{Exchange, Front, Places};
use crate::limits::MODEL_BYTES_MAX;
use serde_json::Value;

const PROVIDER: &str = "prov\"ider";
const BASE: &str = "http://here:1/a";
const SHARED: &str = "/v1/messages/batches/";
/// The most that is held of a string.
const HELD_BYTES_MAX: usize = 4_096;

/// What is exchanged does not depend on cuts and stands in its place; nothing else changes. The
/// first byte chooses the call, the second the form of its reply.
pub fn stored(data: &[u8]) {
    let [choice, form, body @ ..] = data else { return };
    let rows: Vec<&Resource> =
        RESOURCES.iter().filter(|row| !matches!(row.endpoint.places, Places::Nothing)).collect();
    let row = rows[usize::from(*choice) % rows.len()];
    let exchange = match row.endpoint.places {
        Places::Addresses => Exchange::Address {
            base: BASE.to_owned(),
            query: if form & 2 == 2 { "p=q".to_owned() } else { String::new() },
        },
        _ => Exchange::Name(front(form & 2 == 2)),
    };
    match form & 5 {
        0 => in_document(row, &exchange, body),
        1 => in_lines(row, &exchange, body),
        _ => in_stream(front(form & 2 == 2), body),
    }
}

fn front(in_collection: bool) -> Front {
    Front { provider: PROVIDER.to_owned(), in_collection }
}

fn exchanged(row: &'static Resource, exchange: &Exchange, in_lines: bool, body: &[u8]) -> Vec<u8> {
    let rewriter = || Rewriter::strings(&row.endpoint, exchange.clone(), in_lines);
    let out = rewritten(rewriter(), &[body]);
    assert_eq!(out, rewritten(rewriter(), &splits::bytewise(body)));
    let mut prng = Prng::new(body.len() as u64);
    assert_eq!(out, rewritten(rewriter(), &splits::at_random(body, &mut prng)));
    out
}

fn in_document(row: &'static Resource, exchange: &Exchange, body: &[u8]) {
    let out = exchanged(row, exchange, false, body);
    let Ok(before) = serde_json::from_slice::<Value>(body) else { return };
    let after = serde_json::from_slice(&out).expect("it stays JSON");
    compare(before, after, row, exchange);
}

fn in_lines(row: &'static Resource, exchange: &Exchange, body: &[u8]) {
    let out = exchanged(row, exchange, true, body);
    let lines = |text: &[u8]| text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let (before, after): (Vec<Vec<u8>>, Vec<Vec<u8>>) = (lines(body), lines(&out));
    assert_eq!(before.len(), after.len());
    for (before, after) in before.iter().zip(after) {
        let Ok(before) = serde_json::from_slice::<Value>(before) else { continue };
        let after = serde_json::from_slice(&after).expect("it stays JSON");
        compare(before, after, row, exchange);
    }
}

/// Outside of the places all is as before; a string at one is what it has to become.
fn compare(mut before: Value, mut after: Value, row: &Resource, exchange: &Exchange) {
    let paths: &[&[Step]] = match row.endpoint.places {
        Places::Nothing => &[],
        Places::Addresses => &[
            &[Step::Key("results_url")],
            &[Step::Key("data"), Step::Each, Step::Key("results_url")],
        ],
        Places::Models(paths) => paths,
    };
    for path in paths {
        let (mut olds, mut news) = (Vec::new(), Vec::new());
        taken(&mut before, path, &mut olds);
        taken(&mut after, path, &mut news);
        assert_eq!(olds.len(), news.len());
        olds.iter().zip(&news).for_each(|(old, new)| judge(old, new, exchange));
    }
    assert_eq!(before, after);
}

/// Takes the strings at a path out of a document.
fn taken(value: &mut Value, path: &[Step], out: &mut Vec<String>) {
    match (path.split_first(), value) {
        (None, Value::String(text)) => out.push(std::mem::take(text)),
        (Some((Step::Key(key), rest)), Value::Object(members)) => {
            if let Some(member) = members.get_mut(*key) {
                taken(member, rest, out);
            }
        }
        (Some((Step::Each, rest)), Value::Array(elements)) => {
            elements.iter_mut().for_each(|element| taken(element, rest, out));
        }
        _ => {}
    }
}

fn judge(old: &str, new: &str, exchange: &Exchange) {
    // What is long may pass as it is.
    if old.is_empty() || (old.len() > HELD_BYTES_MAX / 6 && old == new) {
        return assert_eq!(old, new);
    }
    match exchange {
        Exchange::Name(front) => {
            let provider = format!("{}/", front.provider);
            let (collection, model) = new.split_once(&provider).expect("it has its provider");
            let fits = ["", "models/", "tunedModels/"].contains(&collection);
            assert!(fits && (front.in_collection || collection.is_empty()), "{new}");
            assert!(old.ends_with(&format!("{collection}{model}")), "{old} {new}");
            assert!(!collection.is_empty() || old == model, "{old} {new}");
        }
        Exchange::Address { query, .. } => match old.find(SHARED) {
            None => assert_eq!(old, new),
            Some(at) => {
                let own = new.strip_prefix(BASE).expect("it leads here");
                let rest = own.strip_prefix(&old[at..]).expect("below it all is the same");
                assert_eq!(rest.get(1..).unwrap_or_default(), query);
            }
        },
    }
}

/// A stored answer as the stream that it was.
fn in_stream(front: Front, body: &[u8]) {
    let endpoint = ENDPOINTS.iter().find(|one| one.name == "responses").expect("a row");
    let rewriter = || {
        let change = Change { front: Some(front.clone()), ..Change::default() };
        Rewriter::stream(endpoint, change, usize::MAX)
    };
    let out = rewritten(rewriter(), &[body]);
    assert_eq!(out, rewritten(rewriter(), &splits::bytewise(body)));
    let (before, after) = (super::naive::sse_events(body), super::naive::sse_events(&out));
    assert_eq!(before.len(), after.len());
    for ((name, before), (new_name, after)) in before.iter().zip(&after) {
        assert_eq!(name, new_name);
        let Ok(mut before) = serde_json::from_slice::<Value>(before) else { continue };
        let mut after = serde_json::from_slice(after).expect("it stays JSON");
        let (mut olds, mut news) = (Vec::new(), Vec::new());
        taken(&mut before, endpoint.event_model, &mut olds);
        taken(&mut after, endpoint.event_model, &mut news);
        let exchange = Exchange::Name(front.clone());
        olds.iter().zip(&news).for_each(|(old, new)| judge(old, new, &exchange));
        assert_eq!((before, olds.len()), (after, news.len()));
    }
}

/// Providers that the fuzzed targets can name.
fn is_provider(name: &str) -> bool {
    ["openai-main", "vertex-main", "router"].contains(&name)
}

/// A path leads where its canonical spelling does, keeps its provider, and what goes up of it can
/// stand in a URL. The first byte chooses the method and the caller's family; the rest is the
/// target of a call that names no model, of a list of models, or of a session.
pub fn resource(data: &[u8]) {
    let Some((choice, target)) = data.split_first() else { return };
    let Ok(target) = std::str::from_utf8(target) else { return };
    let method = ["GET", "POST", "DELETE", "PATCH", "PUT", "HEAD"][usize::from(choice & 7) % 6];
    let family = [Family::Openai, Family::Anthropic, Family::Gemini][usize::from(choice >> 3) % 3];
    if let Ok(call) = resource::parse(method, target, family, &is_provider) {
        assert!(call.resource.methods.split(", ").any(|one| one == method));
        assert!(VERSIONS.contains(&call.version));
        is_sendable(&call);
        again(method, family, &call);
    }
    if let Some(call) = resource::raw(target, &is_provider) {
        assert!(call.scope.is_some());
        is_sendable(&call);
    }
    if let Some(Ok(listing)) = models::parse(method, target, family, &is_provider) {
        assert!(matches!(method, "GET" | "HEAD"));
        is_of(listing.scope.as_deref());
        let id = listing.id.as_deref().unwrap_or("-");
        assert!((1..=MODEL_BYTES_MAX).contains(&id.len()) && !is_forbidden(id), "{id}");
        let _ = listing.page(&[]);
    }
    session(target);
}

/// A provider, and a name that is not ours.
fn is_of(scope: Option<&str>) {
    assert!(scope.is_none_or(|scope| is_provider(scope) && !RESERVED.contains(&scope)));
}

/// What nothing may hold that goes into a path.
fn is_forbidden(text: &str) -> bool {
    text.split('/').any(|part| part == "." || part == "..")
        || text.chars().any(|char| char.is_control() || char == '\\')
}

fn is_sendable(call: &Call<'_>) {
    is_of(call.scope.as_deref());
    let decoded = path::decode(&call.tail).expect("its segments decode");
    assert!(!is_forbidden(&decoded) && !call.tail.starts_with('/'), "{}", call.tail);
    assert!(!call.tail.contains(['?', '#', '<', '>', '`']), "{}", call.tail);
    assert!(call.query.rest.bytes().all(|byte| byte.is_ascii_graphic()));
    assert!(path::query_key(&format!("/?{}", call.query.rest)).is_none(), "a key goes up");
}

fn again(method: &str, family: Family, call: &Call<'_>) {
    let upload = if call.is_upload { "/upload" } else { "" };
    let scope = call.scope.as_deref().map(|scope| format!("/{scope}")).unwrap_or_default();
    let (tail, rest) = (&call.tail, &call.query.rest);
    assert!(!tail.contains("//") && !tail.ends_with('/') && !tail.is_empty(), "{tail}");
    let target = format!("{scope}{upload}/{}/{tail}?{rest}", call.version);
    let twice = resource::parse(method, &target, family, &is_provider);
    let twice = twice.expect("a canonical target is accepted");
    assert!(std::ptr::eq(twice.resource, call.resource), "{target}");
    assert_eq!((&twice.tail, &twice.scope, twice.version), (tail, &call.scope, call.version));
    assert_eq!((&twice.query.rest, twice.is_upload), (rest, call.is_upload));
}

fn session(target: &str) {
    let Ok(Some(call)) = live::parse(target, &is_provider) else { return };
    is_of(call.scope.as_deref());
    if let Ok(Some(model)) = call.model() {
        assert!((1..=MODEL_BYTES_MAX).contains(&model.len()));
        assert!(!model.chars().any(char::is_control));
    }
    let rest = call.rest();
    assert!(path::query_key(&format!("/?{rest}")).is_none(), "a key goes up");
    assert!(rest.bytes().all(|byte| byte.is_ascii_graphic()));
    assert!(!call.live.in_query || path::parameter(&rest, "model").is_none());
}

#[cfg(test)]
mod tests {
    use crate::testing::{fuzz_path, mutate};

    #[test]
    fn laws_of_exchanges_hold_for_damaged_replies() {
        let samples: [&[u8]; 6] = [
            b"\x00\x00{\"data\":[{\"model\":\"a/b\"},{\"model\":\"models/c\"}],\"model\":\"x\"}",
            b"\x01\x02{\"model\":\"projects/p/models/c\",\"a\":{\"model\":\"x\"}}",
            b"\x01\x01{\"model\":\"a\"}\r\n{\"model\":\"b\n{\"model\":\"c\"}",
            b"\x07\x02{\"data\":[{\"results_url\":\"https:\\/\\/x\\/v1\\/messages\\/batches\\/\
              b\"}]}",
            b"\x08\x00{\"results_url\":\"https://x/p/v1/messages/batches/b/results?a=b\"}",
            b"\x00\x04event: x\ndata: {\"response\":{\"model\":\"a\"}}\n\n\
              data: {\"response\":{}}\n\n",
        ];
        let spices: [&[u8]; 16] = [
            b"\"model\":",
            b"\"results_url\":",
            b"\"/v1/messages/batches/\"",
            b"models/",
            b"tunedModels/",
            b"\"data\":[",
            b"{",
            b"}",
            b"\"",
            b"\\\"",
            b"\\u0065",
            b"\\ud800",
            b"\n",
            b"\n\ndata: ",
            b"\xEF\xBB\xBF",
            b"\xFF",
        ];
        mutate::run(&samples, &spices, 3_000, super::stored);
    }

    #[test]
    fn laws_of_resources_hold_for_damaged_targets() {
        let samples: [&[u8]; 10] = [
            b"\x00/v1/files?limit=2&key=secret",
            b"\x01/openai-main/v1/vector_stores/vs_1/files",
            b"\x0A/v1/messages/batches/b_1",
            b"\x11/upload/v1beta/files?uploadType=resumable",
            b"\x10/v1beta/projects/p/locations/l/cachedContents/c",
            b"\x10/vertex-main/v1beta1/publishers/google/models?pageSize=2",
            b"\x00/v1/models/meta-llama/llama",
            b"\x00/v1/realtime?model=m&key=k",
            b"\x10/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent",
            b"\x10/v1beta/models/router/m:BidiGenerateContent",
        ];
        mutate::run(&samples, fuzz_path::SPICES, 3_000, super::resource);
    }
}
