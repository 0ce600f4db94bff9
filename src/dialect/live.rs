//! Sessions over WebSocket: what a dialled path means, and what the events in it name and tell.
//!
//! Every event that goes up is read, since any of them may name a model, which has to be permitted:
//! what nobody here has seen would reach a model that nobody permitted.
//!
//! Facts: the official clients' sources. Realtime names its model in the query, Responses in each
//! `response.create`, Gemini in `setup`. Usage comes once for each answer; Gemini repeats it within
//! an answer, and behind its end, where the last word counts.

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
use super::usage::{self, Node, Tap, Told, Usage};
use crate::wire::json::{Event, JsonError, Kind, PATHS_MAX, Scanner, Step, Watch, escape};

/// A usage object that is longer is none of a vendor's.
const USAGE_BYTES_MAX: usize = 16 * 1024;

/// One kind of session.
#[derive(Debug)]
pub struct Live {
    /// How it is called.
    pub endpoint: Endpoint,
    /// The query names the model; else the first event does.
    pub in_query: bool,
    /// Each answer may be another model's; they come one after the other.
    pub many_models: bool,
    /// Where an event that goes up names the model.
    up_model: Path,
    /// Where an event that comes down does; empty when none does.
    down_model: Path,
}

/// Where something stands in an event.
pub(super) type Path = &'static [Step];

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
    Live { endpoint, in_query, many_models: false, up_model, down_model }
}

static REALTIME: Live = live(
    "realtime",
    Dialect::OpenaiChat,
    "realtime",
    true,
    &[key("session"), key("model")],
    &[key("session"), key("model")],
);
static RESPONSES: Live = Live {
    many_models: true,
    ..live(
        "responses.socket",
        Dialect::OpenaiResponses,
        "responses",
        false,
        &[key("model")],
        &[key("response"), key("model")],
    )
};
static GEMINI: Live = live(
    "BidiGenerateContent",
    Dialect::Gemini,
    "BidiGenerateContent",
    false,
    &[key("setup"), key("model")],
    &[],
);

const TYPE: Path = &[key("type")];
const STATUS: Path = &[key("status")];
const SETUP: Path = &[key("setup")];
/// Where a Realtime session names who writes down what the caller says: before 2025-08, and since.
const TRANSCRIBER: Path = &[key("session"), key("input_audio_transcription"), key("model")];
const NEW_TRANSCRIBER: Path =
    &[key("session"), key("audio"), key("input"), key("transcription"), key("model")];
const TRANSCRIBED: &str = "conversation.item.input_audio_transcription.completed";
/// Where that one's usage stands.
const OWN_USAGE: Path = &[key("usage")];
const USAGE: Path = &[key("response"), key("usage")];
const TIER: Path = &[key("response"), key("service_tier")];
const GEMINI_PATHS: [Path; 7] = [
    &[key("usageMetadata")],
    &[key("serverContent")],
    &[key("serverContent"), key("turnComplete")],
    &[key("toolCall")],
    &[key("serverContent"), key("modelTurn")],
    &[key("serverContent"), key("generationComplete")],
    &[key("serverContent"), key("interrupted")],
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
    // Gemini: `models/{model}` in the place of the service's name.
    path_model: Option<String>,
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
        Some(("ws", service)) => service_of(service).map(|(live, version)| (live, version, None)),
        _ => {
            let (version, below) = path::skip_versions(below)?;
            match below.trim_matches('/') {
                "realtime" => Some((&REALTIME, version.unwrap_or("v1"), None)),
                "responses" => Some((&RESPONSES, version.unwrap_or("v1"), None)),
                _ => model_of(version, below)?,
            }
        }
    };
    Ok(found.map(|(live, version, path_model)| Call { scope, live, version, path_model, query }))
}

type Found<'t> = (&'static Live, &'static str, Option<String>);

/// Gemini's session by the path of a model, with its verb or, in a version of Google's, without.
fn model_of<'t>(
    version: Option<&'static str>,
    below: &'t str,
) -> Result<Option<Found<'t>>, PathError> {
    let Some(("models", id)) = path::segment(below) else { return Ok(None) };
    let id = path::decode_id(id)?.into_owned();
    let verb = GEMINI.endpoint.tail;
    let (id, has_verb) = match id.rsplit_once(':') {
        Some((id, last)) if last.eq_ignore_ascii_case(verb) => (id.to_owned(), true),
        _ => (id, false),
    };
    let is_googles = version.is_some_and(|version| version != "v1");
    if id.is_empty() || !(has_verb || is_googles) {
        return Ok(None);
    }
    Ok(Some((&GEMINI, version.unwrap_or("v1beta"), Some(path::normal_name(id)))))
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
    /// The model is named, if at all, before there is an event.
    pub fn is_named_before(&self) -> bool {
        self.live.in_query || self.path_model.is_some()
    }

    /// The model that the query names, or the path.
    pub fn model(&self) -> Result<Option<String>, AskError> {
        if let Some(name) = &self.path_model {
            return Ok(Some(ask::plain_name(name.as_bytes())?));
        }
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
pub(super) type Values = [Option<(Kind, Range<usize>)>; PATHS_MAX];

/// Reads an event. `odd` is told of keys that stand there twice or are misspelt.
fn read(watch: Watch, event: &[u8], mut odd: impl FnMut(Event)) -> Result<Values, JsonError> {
    let mut found: Values = [const { None }; PATHS_MAX];
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

/// The values at these paths, the last of each; none of an event that is no JSON.
pub(super) fn values(paths: &[Path], event: &[u8]) -> Values {
    read(Watch::of(paths), event, |_| ()).unwrap_or_default()
}

/// What an event that goes up says, as far as it matters here.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// The model that it names.
    pub model: Option<String>,
    /// It asks for an answer.
    pub asks: bool,
    /// Who is to write down what the caller says.
    pub transcriber: Option<String>,
    // Where the name stands, or where one can be put: behind the bracket of an object that has
    // other members or none.
    at: Range<usize>,
    room: Option<bool>,
}

impl Wish {
    /// Reads a whole event.
    pub fn read(live: &Live, event: &[u8]) -> Result<Wish, AskError> {
        let paths = [&[], live.up_model, TYPE, SETUP, TRANSCRIBER, NEW_TRANSCRIBER];
        let mut error = None;
        let [root, model, kind, setup, old, new, ..] =
            read(Watch::of(&paths).in_any_case(), event, |odd| {
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
        let name = |value: Option<(Kind, Range<usize>)>| match value {
            Some((Kind::String, span)) => Ok(Some((ask::model_name(&event[span.clone()])?, span))),
            None | Some((Kind::Null, _)) => Ok(None),
            Some(_) => Err(AskError::ModelNotText),
        };
        let (new, old) = (name(new)?, name(old)?);
        // Which of the two places counts is the upstream's to say.
        if let (Some((new, _)), Some((old, _))) = (&new, &old)
            && new != old
        {
            return Err(AskError::ModelTwice);
        }
        let mut wish = Wish {
            asks: string(event, kind) == "response.create",
            transcriber: new.or(old).map(|(name, _)| name),
            ..Wish::default()
        };
        if let Some((name, span)) = name(model.clone())? {
            wish.asks |= live.many_models;
            wish.model = Some(bare(live, name));
            wish.at = span;
        } else if let (Some((Kind::Object, span)), None) = (setup, model)
            && live.up_model.starts_with(SETUP)
        {
            let inside = span.start + 1;
            wish.at = inside..inside;
            wish.room = Some(event[inside..span.end].trim_ascii_start().starts_with(b"}"));
        }
        Ok(wish)
    }

    /// Names the model in the event that was read, as the upstream knows it.
    pub fn write(&self, names: &Names, event: &mut Vec<u8>) {
        match self.room {
            _ if self.model.is_some() => drop(event.splice(self.at.clone(), names.up.clone())),
            Some(is_empty) if !names.served.is_empty() => {
                let comma: &[u8] = if is_empty { b"" } else { b"," };
                let member = [b"\"model\":", &names.up[..], comma].concat();
                event.splice(self.at.clone(), member);
            }
            _ => {}
        }
    }
}

/// The text of a value; empty where it is none.
pub(super) fn string(event: &[u8], value: Option<(Kind, Range<usize>)>) -> String {
    let literal = value.map_or(&[][..], |(_, span)| &event[span]);
    serde_json::from_slice(literal).unwrap_or_default()
}

/// The model that a first event names.
pub fn first(live: &Live, event: &[u8]) -> Result<String, AskError> {
    Wish::read(live, event)?.model.ok_or(AskError::ModelMissing)
}

/// A name as it is looked up.
fn bare(live: &Live, name: String) -> String {
    match live.endpoint.dialect {
        Dialect::Gemini => path::normal_name(name),
        _ => name,
    }
}

/// One model of a session, by all its names.
#[derive(Clone, Debug)]
pub struct Names {
    /// As it was asked for.
    pub asked: String,
    /// As the upstream knows it.
    pub served: String,
    /// The caller sees the name that he sent.
    pub renamed: bool,
    // As literals: for the upstream, and, where events name it, for the caller.
    up: Vec<u8>,
    down: Option<Vec<u8>>,
}

impl Names {
    /// The names of one model. `in_event`: how the upstream wants it named there.
    pub fn new(live: &Live, asked: &str, served: &str, in_event: &str, renamed: bool) -> Names {
        let literal = |name: &str| {
            let mut literal = Vec::new();
            escape(name, &mut literal);
            literal
        };
        Names {
            asked: asked.to_owned(),
            served: served.to_owned(),
            renamed,
            up: literal(in_event),
            down: (renamed && !live.down_model.is_empty()).then(|| literal(asked)),
        }
    }

    /// The name is one of them.
    pub fn has(&self, name: &str) -> bool {
        name == self.asked || name == self.served
    }
}

/// What an event that comes down tells.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// An answer begins.
    pub begins: bool,
    /// What the last answer has used so far, or in all.
    pub told: Option<Told>,
    /// Bytes of generated text in it.
    pub text_bytes: u64,
    /// An answer ends.
    pub ends: bool,
    /// What was asked for last is refused, with this status.
    pub failed: Option<u16>,
    /// Who writes down what the caller says.
    pub transcriber: Option<String>,
    /// What was used to write some of it down.
    pub transcribed: Option<Told>,
}

/// Reads the events of a session that come down.
#[derive(Debug)]
pub struct Listener {
    live: &'static Live,
    has_begun: bool,
    turn_over: bool,
    is_speaking: bool,
}

impl Listener {
    /// One that has heard nothing yet.
    pub fn new(live: &'static Live) -> Listener {
        Listener { live, has_begun: false, turn_over: true, is_speaking: false }
    }

    /// The end of an answer is known when the next begins: its usage may come behind it.
    pub fn ends_with_the_next(&self) -> bool {
        self.live.endpoint.dialect == Dialect::Gemini
    }

    /// The last answer is over, whatever may still be told of its usage. Known where
    /// [`Listener::ends_with_the_next`].
    pub fn is_between(&self) -> bool {
        self.ends_with_the_next() && self.turn_over
    }

    /// The model is in the middle of what it says: it neither listens nor waits for a tool of the
    /// caller's. Known where [`Listener::ends_with_the_next`].
    pub fn is_speaking(&self) -> bool {
        self.is_speaking
    }

    /// Reads an event, and names its model as the caller knows it. What is no JSON passes.
    pub fn hear(&mut self, event: &mut Vec<u8>, names: &Names) -> News {
        match self.live.endpoint.dialect {
            Dialect::Gemini => self.gemini(event),
            _ => self.openai(event, names),
        }
        .unwrap_or_default()
    }

    fn openai(&self, event: &mut Vec<u8>, names: &Names) -> Option<News> {
        let model = self.live.down_model;
        let paths = [TYPE, USAGE, TIER, model, STATUS, TRANSCRIBER, NEW_TRANSCRIBER, OWN_USAGE];
        let [kind, usage, tier, model, status, old, new, own, ..] =
            read(Watch::of(&paths), event, |_| ()).ok()?;
        let told = |usage| {
            let mut told = Told::default();
            told.add(self.live.endpoint.dialect, &object(event, usage)?);
            told.served(&string(event, tier.clone()));
            Some(told)
        };
        let mut news = News::default();
        match string(event, kind).as_str() {
            "response.created" => news.begins = true,
            "response.done" | "response.completed" | "response.incomplete" | "response.failed" => {
                news.ends = true;
                news.told = told(usage).map(|mut told| {
                    let mut tap = Tap::new(&self.live.endpoint);
                    tap.feed(event);
                    let Usage { tool_calls, images, .. } = tap.told().usage;
                    told.usage = Usage { tool_calls, images, ..told.usage };
                    told
                });
            }
            "error" => {
                let literal = status.map_or(&[][..], |(_, span)| &event[span]);
                news.failed = Some(serde_json::from_slice(literal).unwrap_or(400));
            }
            "session.created" | "session.updated" => {
                news.transcriber = Some(string(event, new.or(old)));
            }
            TRANSCRIBED => news.transcribed = told(own),
            kind if is_text(kind) => {
                news.text_bytes = usage::text_bytes(Dialect::OpenaiResponses, event);
            }
            _ => {}
        }
        if let (Some(name), Some((Kind::String, span))) = (&names.down, model) {
            event.splice(span, name.iter().copied());
        }
        Some(news)
    }

    fn gemini(&mut self, event: &[u8]) -> Option<News> {
        let [usage, content, complete, tool, spoken, generated, interrupted, ..] =
            read(Watch::of(&GEMINI_PATHS), event, |_| ()).ok()?;
        let mut news = News::default();
        let usage = object(event, usage);
        let speaks = content.is_some() || tool.is_some();
        if self.turn_over && (speaks || usage.is_some() && !self.has_begun) {
            (self.turn_over, self.has_begun) = (false, true);
            news.begins = true;
        }
        news.told = usage.map(|value| {
            let mut told = Told::default();
            told.add(Dialect::Gemini, &value);
            told
        });
        let is_true = |value: Option<(Kind, _)>| value.is_some_and(|(kind, _)| kind == Kind::True);
        let is_complete = is_true(complete);
        self.turn_over |= is_complete;
        let pauses = is_complete || tool.is_some() || is_true(generated) || is_true(interrupted);
        self.is_speaking = (self.is_speaking || spoken.is_some()) && !pauses;
        Some(news)
    }
}

/// The event brings a piece of a generated text. Sound comes in others.
fn is_text(kind: &str) -> bool {
    let piece = kind.strip_prefix("response.").and_then(|kind| kind.strip_suffix(".delta"));
    piece.is_some_and(|what| !what.ends_with("audio"))
}

fn object(event: &[u8], value: Option<(Kind, Range<usize>)>) -> Option<Node<'_>> {
    let (_, span) = value.filter(|(kind, _)| *kind == Kind::Object)?;
    let bytes = &event[span];
    if bytes.len() > USAGE_BYTES_MAX { None } else { serde_json::from_slice(bytes).ok() }
}

/// Whether there are events that tell a caller of a refusal; Gemini has only the close for it.
pub fn has_events(live: &Live) -> bool {
    live.endpoint.dialect != Dialect::Gemini
}

/// What tells a caller of a refusal once a session has begun.
pub fn error_event(live: &Live, refusal: &Refusal, request_id: &str) -> Option<Vec<u8>> {
    let family = live.endpoint.dialect.family();
    if !has_events(live) {
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
