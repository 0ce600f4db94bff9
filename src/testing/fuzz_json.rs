//! Laws of the JSON scanner, the request scan and the rewriting of whole replies, for any bytes.

use super::{naive, prng::Prng, splits};
use crate::dialect::ask;
use crate::dialect::endpoint::{ENDPOINTS, Endpoint, ModelPlace, Step};
use crate::dialect::rewrite::{Change, Rewriter};
use crate::limits::JSON_DEPTH_MAX;
use crate::wire::json::{self, Event, JsonError, Scanner, Watch};
use crate::wire::sse::BOM;
use serde_json::{Value, json};

const WATCH: &[&[Step]] = &[
    &[],
    &[Step::Key("model")],
    &[Step::Each, Step::Key("model")],
    &[Step::Key("stream_options"), Step::Key("include_usage")],
    &[Step::Key("requests"), Step::Each, Step::Key("model")],
    &[Step::Key("stream_options")],
];

/// A name that needs escaping in JSON.
const NAME: &str = "ali\"as/\\neu\u{2028}é";

/// Events, and the error with its offset, of a document that arrives in these pieces.
pub fn scanned(
    pieces: &[&[u8]],
    watch: &[&'static [Step]],
) -> (Vec<Event>, Result<(), (JsonError, u64)>) {
    let mut events = Vec::new();
    let mut scanner = Scanner::new(Watch::of(watch));
    let mut on = |event| events.push(event);
    let mut result = Ok(());
    for piece in pieces {
        result = result.and_then(|()| scanner.feed(piece, &mut on));
    }
    result = result.and_then(|()| scanner.finish(&mut on));
    let result = result.map_err(|error| (error, scanner.offset()));
    (events, result)
}

/// The naive reader recurses: not for documents of any depth.
fn is_shallow(document: &[u8]) -> bool {
    let opens = document.iter().filter(|byte| matches!(byte, b'[' | b'{')).count();
    opens < JSON_DEPTH_MAX
}

/// The scanner cannot tell cuts, and agrees with the naive reader about acceptance and events.
pub fn scanner(data: &[u8]) {
    let whole = scanned(&[data], WATCH);
    assert_eq!(whole, scanned(&splits::bytewise(data), WATCH));
    let mut prng = Prng::new(data.len() as u64);
    assert_eq!(whole, scanned(&splits::at_random(data, &mut prng), WATCH));
    if !is_shallow(data) {
        return;
    }
    // The one leniency: control bytes pass inside strings. Without them both agree.
    let plain: Vec<u8> = data.iter().map(|&byte| byte.max(b' ')).collect();
    for document in [data, &plain] {
        let (events, result) = scanned(&[document], WATCH);
        let expected = naive::json_events(document, WATCH);
        let lenient = document.iter().any(|&byte| byte < b' ');
        assert!(lenient || result.is_ok() == expected.is_some(), "{result:?}");
        if let Some(expected) = expected {
            assert_eq!(result, Ok(()));
            assert_eq!(events, expected);
        }
    }
}

/// String literals: `unescape` agrees with `serde_json`, and undoes `escape`.
pub fn literal(data: &[u8]) {
    // Reading a document, `serde_json` takes spaces around it too.
    if data == data.trim_ascii() && !data.iter().any(|&byte| byte < b' ') {
        assert_eq!(json::unescape(data), serde_json::from_slice(data).ok());
    }
    let text = String::from_utf8_lossy(data);
    let mut literal = Vec::new();
    json::escape(&text, &mut literal);
    assert_eq!(json::unescape(&literal).as_deref(), Some(&*text));
    assert_eq!(serde_json::from_slice::<String>(&literal).ok().as_deref(), Some(&*text));
}

/// An accepted body names its model once; spliced, it names the new one, and nothing else changed.
pub fn request(data: &[u8]) {
    let Some((&choice, body)) = data.split_first() else { return };
    let endpoint = &ENDPOINTS[usize::from(choice) % ENDPOINTS.len()];
    let Ok(ask) = ask::scan(endpoint, body) else { return };
    if let Some(model) = &ask.model {
        let leads_out = |part: &str| part == "." || part == "..";
        assert!(!model.split(['/', '\\']).any(leads_out), "{model} may stand in a path");
    }
    let mut untouched = body.to_vec();
    assert_eq!(ask.rewrite(&mut untouched, None, None, false), Ok(()));
    assert_eq!(untouched, body, "silence is identity");
    match endpoint.model {
        ModelPlace::Body | ModelPlace::Resource => named_in_body(endpoint, &ask, body),
        ModelPlace::MaybeBody if ask.model.is_some() => named_in_body(endpoint, &ask, body),
        ModelPlace::MaybeBody | ModelPlace::Multipart | ModelPlace::Event | ModelPlace::Nowhere => {
        }
        ModelPlace::Path => named_in_path(endpoint, &ask, body),
    }
}

fn named_in_body(endpoint: &Endpoint, ask: &ask::Ask, body: &[u8]) {
    let mut named = body.to_vec();
    assert_eq!(ask.rewrite(&mut named, Some(NAME), None, false), Ok(()));
    let again = ask::scan(endpoint, &named).expect("what was accepted stays acceptable");
    assert_eq!(again.model.as_deref(), Some(NAME));
    let mut asking = body.to_vec();
    assert_eq!(ask.rewrite(&mut asking, Some(NAME), None, true), Ok(()));
    let again = ask::scan(endpoint, &asking).expect("what was accepted stays acceptable");
    assert_eq!(again.model.as_deref(), Some(NAME));

    let Ok(mut expected) = serde_json::from_slice::<Value>(body) else { return };
    assert_eq!(expected["model"].as_str(), ask.model.as_deref());
    assert_eq!(expected.get("stream") == Some(&Value::Bool(true)), ask.stream);
    expected["model"] = json!(NAME);
    assert_eq!(serde_json::from_slice::<Value>(&named).ok().as_ref(), Some(&expected));
    if ask.stream && endpoint.usage_option {
        match expected.get_mut("stream_options") {
            None | Some(Value::Null) => {
                expected["stream_options"] = json!({ "include_usage": true });
            }
            Some(Value::Object(options)) => {
                options.insert("include_usage".to_owned(), json!(true));
            }
            Some(_) => {}
        }
    }
    assert_eq!(serde_json::from_slice::<Value>(&asking).ok(), Some(expected));
}

fn named_in_path(endpoint: &Endpoint, ask: &ask::Ask, body: &[u8]) {
    let mut named = body.to_vec();
    if ask.rewrite(&mut named, None, Some(("gpt-4.1-mini", NAME)), true).is_err() {
        return;
    }
    let Ok(mut expected) = serde_json::from_slice::<Value>(body) else { return };
    for path in endpoint.body_models {
        naive::renamed(&mut expected, path, &format!("models/{NAME}"));
    }
    assert_eq!(serde_json::from_slice::<Value>(&named).ok(), Some(expected));
}

/// All output of a rewriter that is fed these pieces.
pub fn rewritten(mut rewriter: Rewriter, pieces: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in pieces {
        rewriter.feed(piece, &mut out).expect("no ceiling is reached");
    }
    rewriter.finish(&mut out);
    out
}

/// A whole reply comes out the same however it is cut, and only its model changed.
pub fn whole_reply(data: &[u8]) {
    let Some((&choice, body)) = data.split_first() else { return };
    let endpoint = &ENDPOINTS[usize::from(choice) % ENDPOINTS.len()];
    let change = Change { model: Some(NAME.to_owned()), hide_usage: true, ..Change::default() };
    let whole = || Rewriter::whole(endpoint, change.clone());
    let out = rewritten(whole(), &[body]);
    assert_eq!(out, rewritten(whole(), &splits::bytewise(body)));
    assert_eq!(body, rewritten(Rewriter::whole(endpoint, Change::default()), &[body]));
    if !body.starts_with(&BOM[..1]) {
        let marked = [BOM, body].concat();
        assert_eq!([BOM, &out].concat(), rewritten(whole(), &[&marked]), "a mark hides nothing");
    }

    let Ok(mut expected) = serde_json::from_slice::<Value>(body) else { return };
    if !endpoint.reply_model.is_empty() {
        naive::renamed(&mut expected, endpoint.reply_model, NAME);
        let in_array = [&[Step::Each], endpoint.reply_model].concat();
        naive::renamed(&mut expected, &in_array, NAME);
    }
    assert_eq!(serde_json::from_slice::<Value>(&out).ok(), Some(expected));
}

/// Must fail: claims that no input has the shape of a request. A rig that cannot make this one fail
/// tests nothing.
pub fn canary(data: &[u8]) {
    let endpoint = &ENDPOINTS[0];
    assert!(ask::scan(endpoint, data).is_err(), "the canary sings");
}
