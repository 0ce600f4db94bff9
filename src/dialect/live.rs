//! Sessions over WebSocket: what a dialled path means, and what the events in it name and tell.
//!
//! A session serves one model. Every event that goes up is read, since any of them may name a
//! model: one that names another is refused, or it would reach a model that nobody permitted.
//!
//! Facts: the official clients' sources. Realtime names its model in the query, Responses in each
//! `response.create`, Gemini in `setup`. Usage comes once for each answer, so here, unlike in a
//! stream of events, it is summed; Gemini repeats it within an answer, where the last word counts.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ops::Range;

use super::Dialect;
use super::ask::{self, AskError};
use super::endpoint::{Endpoint, ModelPlace, nameless};
use super::path::{self, PathError, Query};
use super::refusal::Refusal;
use super::resource::scope_of;
use super::usage::Told;
use crate::wire::json::{Event, JsonError, Kind, PATHS_MAX, Scanner, Step, Watch, escape};
use serde_json::Value;

/// A usage object that is longer is none of a vendor's.
const USAGE_BYTES_MAX: usize = 16 * 1024;

/// One kind of session.
#[derive(Debug)]
pub struct Live {
    /// How it is called.
    pub endpoint: Endpoint,
    /// The query names the model; else the first event does.
    pub in_query: bool,
    /// Where an event that goes up names the model.
    up_model: Path,
    /// Where an event that comes down does; empty when none does.
    down_model: Path,
}

type Path = &'static [Step];

const fn key(name: &'static str) -> Step {
    Step::Key(name)
}

const fn live(
    name: &'static str,
    dialect: Dialect,
    tail: &'static str,
    in_query: bool,
    up_model: Path,
    down_model: Path,
) -> Live {
    let endpoint = Endpoint { model: ModelPlace::Event, ..nameless(name, dialect, tail) };
    Live { endpoint, in_query, up_model, down_model }
}

static REALTIME: Live = live(
    "realtime",
    Dialect::OpenaiChat,
    "realtime",
    true,
    &[key("session"), key("model")],
    &[key("session"), key("model")],
);
static RESPONSES: Live = live(
    "responses.socket",
    Dialect::OpenaiResponses,
    "responses",
    false,
    &[key("model")],
    &[key("response"), key("model")],
);
static GEMINI: Live = live(
    "BidiGenerateContent",
    Dialect::Gemini,
    "BidiGenerateContent",
    false,
    &[key("setup"), key("model")],
    &[],
);

const TYPE: Path = &[key("type")];
const USAGE: Path = &[key("response"), key("usage")];
const TIER: Path = &[key("response"), key("service_tier")];
const GEMINI_PATHS: [Path; 4] = [
    &[key("usageMetadata")],
    &[key("serverContent")],
    &[key("serverContent"), key("turnComplete")],
    &[key("toolCall")],
];

/// Versions in the name of Google's service.
const SERVICE_VERSIONS: [&str; 4] = ["v1", "v1alpha", "v1beta", "v1beta1"];

/// A path that was dialled.
#[derive(Debug)]
pub struct Call<'t> {
    /// The provider that the path names; `None` in aggregated mode.
    pub scope: Option<Cow<'t, str>>,
    /// The kind of session.
    pub live: &'static Live,
    /// The version as sent, else the usual one.
    pub version: &'static str,
    query: &'t str,
}

/// Finds the session of a target; `None` when its path has none.
pub fn parse<'t>(
    target: &'t str,
    is_provider: &dyn Fn(&str) -> bool,
) -> Result<Option<Call<'t>>, PathError> {
    let (path, query) = path::split(target);
    path::check(path)?;
    let Ok((scope, below)) = scope_of(path, is_provider) else { return Ok(None) };
    let found = match path::segment(below) {
        Some(("ws", service)) => service_of(service),
        _ => {
            let (version, below) = path::skip_versions(below)?;
            let live = match below.trim_matches('/') {
                "realtime" => Some(&REALTIME),
                "responses" => Some(&RESPONSES),
                _ => None,
            };
            live.map(|live| (live, version.unwrap_or("v1")))
        }
    };
    Ok(found.map(|(live, version)| Call { scope, live, version, query }))
}

/// Google's service, by its name in either of its two APIs.
fn service_of(path: &str) -> Option<(&'static Live, &'static str)> {
    let path = path.trim_matches('/');
    let between = |front, back| path.strip_prefix(front)?.strip_suffix(back);
    let studio = between("google.ai.generativelanguage.", ".GenerativeService.BidiGenerateContent");
    let vertex = between("google.cloud.aiplatform.", ".LlmBidiService/BidiGenerateContent");
    let version = studio.or(vertex)?;
    let known = SERVICE_VERSIONS.into_iter().find(|known| *known == version)?;
    Some((&GEMINI, known))
}

impl Call<'_> {
    /// The model that the query names, if it is the place for one.
    pub fn model(&self) -> Result<Option<String>, AskError> {
        if !self.live.in_query {
            return Ok(None);
        }
        let mut names = path::parameters(self.query).filter(|(name, _)| name == "model");
        let Some((_, raw)) = names.next() else { return Ok(None) };
        if names.next().is_some() {
            return Err(AskError::ModelTwice);
        }
        let name = path::decode(raw).map_err(|_| AskError::ModelNotText)?;
        let name = ask::plain_name(name.as_bytes())?;
        Ok(Some(name).filter(|name| !name.is_empty()))
    }

    /// The query for the upstream: without a key, and without the model where the query names it.
    pub fn rest(&self) -> String {
        let query = Query::parse(self.query).rest;
        let is_model = |parameter: &&str| {
            self.live.in_query && path::parameters(parameter).any(|(name, _)| name == "model")
        };
        let kept: Vec<&str> = query.split('&').filter(|part| !is_model(part)).collect();
        kept.join("&")
    }
}

/// The subprotocols that a browser may offer in place of headers, of which one is a key.
const KEY_PROTOCOL: &str = "openai-insecure-api-key.";

/// The key among the subprotocols that a handshake offers.
pub fn key_of_protocols(offered: &[u8]) -> Option<&[u8]> {
    let mut keys = crate::wire::header::elements(offered)
        .filter_map(|protocol| protocol.strip_prefix(KEY_PROTOCOL.as_bytes()));
    keys.find(|key| !key.is_empty())
}

/// The subprotocols that go up: not those which say who the caller is.
pub fn protocols_up<'o>(offered: impl Iterator<Item = &'o [u8]>) -> Vec<&'o str> {
    let texts = offered.flat_map(crate::wire::header::elements).map(str::from_utf8);
    let personal = [KEY_PROTOCOL, "openai-organization.", "openai-project."];
    texts.flatten().filter(|text| !personal.iter().any(|front| text.starts_with(front))).collect()
}

/// What is found in one event: the first value of each path.
type Found = [Option<(Kind, Range<usize>)>; PATHS_MAX];

/// Reads an event. `odd` is told of keys that stand there twice or are misspelt.
fn read(watch: Watch, event: &[u8], mut odd: impl FnMut(Event)) -> Result<Found, JsonError> {
    let mut found: Found = [const { None }; PATHS_MAX];
    let mut scanner = Scanner::new(watch);
    let mut on = |news| match news {
        Event::Begins { path, kind, at, .. } => {
            found[path] = Some((kind, at as usize..at as usize))
        }
        Event::Ends { path, end } => {
            if let Some((_, span)) = &mut found[path] {
                span.end = end as usize;
            }
        }
        Event::Repeats { .. } | Event::Misspelt { .. } => odd(news),
    };
    scanner.feed(event, &mut on)?;
    scanner.finish(&mut on)?;
    Ok(found)
}

/// The name that an event which goes up gives the model, and where; `None` when it gives none.
fn named(live: &Live, event: &[u8]) -> Result<Option<(String, Range<usize>)>, AskError> {
    let mut error = None;
    let watch = Watch::of(&[&[], live.up_model]).in_any_case();
    let [root, model, ..] = read(watch, event, |odd| {
        error.get_or_insert(match odd {
            Event::Misspelt { .. } => AskError::KeyMisspelt,
            _ => AskError::ModelTwice,
        });
    })?;
    if root.is_none_or(|(kind, _)| kind != Kind::Object) {
        return Err(AskError::NotAnObject);
    }
    if let Some(error) = error {
        return Err(error);
    }
    match model {
        Some((Kind::String, span)) => {
            let name = ask::model_name(&event[span.clone()])?;
            Ok(Some((bare(live, name), span)))
        }
        None | Some((Kind::Null, _)) => Ok(None),
        Some(_) => Err(AskError::ModelNotText),
    }
}

/// The model that a first event names.
pub fn first(live: &Live, event: &[u8]) -> Result<String, AskError> {
    named(live, event)?.map(|(name, _)| name).ok_or(AskError::ModelMissing)
}

/// A name as it is looked up.
fn bare(live: &Live, name: String) -> String {
    match live.endpoint.dialect {
        Dialect::Gemini => path::normal_name(name),
        _ => name,
    }
}

/// What happens to the events of one session.
pub struct Events {
    live: &'static Live,
    asked: String,
    served: String,
    // As literals: the model's name for the upstream, and, where it was renamed, for the caller.
    up: Vec<u8>,
    down: Option<Vec<u8>>,
    sum: Told,
    turn: Told,
    turn_over: bool,
}

impl Events {
    /// The events of a session that asked for one model and is served by another. `in_event`: how
    /// the upstream wants that one named; `renamed`: the caller sees the name that he sent.
    pub fn new(
        live: &'static Live,
        asked: &str,
        served: &str,
        in_event: &str,
        renamed: bool,
    ) -> Events {
        let literal = |name: &str| {
            let mut literal = Vec::new();
            escape(name, &mut literal);
            literal
        };
        Events {
            live,
            asked: asked.to_owned(),
            served: served.to_owned(),
            up: literal(in_event),
            down: (renamed && !live.down_model.is_empty()).then(|| literal(asked)),
            sum: Told::default(),
            turn: Told::default(),
            turn_over: true,
        }
    }

    /// Rewrites an event that goes up.
    pub fn up(&self, event: &mut Vec<u8>) -> Result<(), AskError> {
        let Some((name, span)) = named(self.live, event)? else { return Ok(()) };
        if name != self.asked && name != self.served {
            return Err(AskError::OtherModel);
        }
        event.splice(span, self.up.iter().copied());
        Ok(())
    }

    /// Rewrites an event that comes down, and takes in what it tells. What is no JSON passes.
    pub fn down(&mut self, event: &mut Vec<u8>) {
        match self.live.endpoint.dialect {
            Dialect::Gemini => self.gemini(event),
            _ => self.openai(event),
        }
    }

    fn openai(&mut self, event: &mut Vec<u8>) {
        let paths = [TYPE, USAGE, TIER, self.live.down_model];
        let Ok([kind, usage, tier, model, ..]) = read(Watch::of(&paths), event, |_| ()) else {
            return;
        };
        let text = |value: Option<(Kind, Range<usize>)>| {
            let literal = value.map_or(&[][..], |(_, span)| &event[span]);
            serde_json::from_slice::<String>(literal).unwrap_or_default()
        };
        let ends =
            ["response.done", "response.completed", "response.incomplete", "response.failed"];
        if ends.contains(&text(kind).as_str())
            && let Some(value) = object(event, usage)
        {
            let mut told = Told::default();
            told.add(self.live.endpoint.dialect, &value);
            told.served(&text(tier));
            self.sum.plus(&told);
        }
        if let (Some(name), Some((Kind::String, span))) = (&self.down, model) {
            event.splice(span, name.iter().copied());
        }
    }

    fn gemini(&mut self, event: &[u8]) {
        let Ok([usage, content, complete, tool, ..]) =
            read(Watch::of(&GEMINI_PATHS), event, |_| ())
        else {
            return;
        };
        if self.turn_over && (content.is_some() || tool.is_some()) {
            self.turn_over = false;
            self.sum.plus(&std::mem::take(&mut self.turn));
        }
        if let Some(value) = object(event, usage) {
            self.turn.add(Dialect::Gemini, &value);
        }
        self.turn_over |= complete.is_some_and(|(kind, _)| kind == Kind::True);
    }

    /// What the session has used so far.
    pub fn told(&self) -> Told {
        let mut told = self.sum;
        told.plus(&self.turn);
        told
    }
}

fn object(event: &[u8], value: Option<(Kind, Range<usize>)>) -> Option<Value> {
    let (_, span) = value.filter(|(kind, _)| *kind == Kind::Object)?;
    let bytes = &event[span];
    if bytes.len() > USAGE_BYTES_MAX { None } else { serde_json::from_slice(bytes).ok() }
}

/// What tells a caller of a refusal once a session has begun; Gemini has only the close for it.
pub fn error_event(live: &Live, refusal: &Refusal, request_id: &str) -> Option<Vec<u8>> {
    let family = live.endpoint.dialect.family();
    if live.endpoint.dialect == Dialect::Gemini {
        return None;
    }
    let mut event = format!("{{\"type\":\"error\",\"status\":{},", refusal.status).into_bytes();
    event.extend_from_slice(b"\"event_id\":");
    escape(request_id, &mut event);
    event.push(b',');
    // An object of one member, `error`.
    event.extend_from_slice(&refusal.body(family, request_id)[1..]);
    Some(event)
}
