//! What a request body asks for, and how its model's name is exchanged.
//!
//! [`scan`] reads the body once, front to back, without a tree; [`Ask::rewrite`] splices the few
//! spans it found and leaves every other byte where it was. Neither knows who serves the model.
//!
//! Ambiguity is refused: a body that names its model twice could be read one way here and another
//! way upstream, which is a hole. So is a body with `Model` in it, which Go's readers take for
//! `model`, and one that is no JSON to its very last byte.

pub mod cloud;
#[cfg(test)]
mod tests;

use super::Dialect;
use super::endpoint::{Endpoint, ModelPlace, Step};
use crate::limits::{BODY_MODELS_MAX, MODEL_BYTES_MAX};
use crate::wire::json::{Event, JsonError, Kind, PATHS_MAX, Scanner, Watch, escape, unescape};
use std::ops::Range;

/// What is missing or ambiguous in a request body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskError {
    /// There is a body, and the method has none.
    BodyNotTaken,
    /// There is no body, or only white space.
    Empty,
    /// The body is empty or no JSON.
    NotJson,
    /// The body is JSON, but no object.
    NotAnObject,
    /// The body ends inside its JSON.
    Truncated,
    /// More brackets are open at once than we follow.
    TooDeep,
    /// There is no top-level `model`.
    ModelMissing,
    /// A key that leads to a model stands twice in one object.
    ModelTwice,
    /// The model is no string, or no Unicode.
    ModelNotText,
    /// The model is `""`.
    ModelEmpty,
    /// The model has more than [`MODEL_BYTES_MAX`] bytes.
    ModelTooLong,
    /// The model contains a control character.
    ModelControl,
    /// The model has a segment `.` or `..`, which would lead out of its place in an address.
    ModelDots,
    /// The top level has `stream` twice.
    StreamTwice,
    /// `stream_options`, or `include_usage` in it, stands twice.
    StreamOptionsTwice,
    /// A key is one of ours but for the case of its letters, which some upstreams do not tell
    /// apart.
    KeyMisspelt,
    /// The body names another model than the path.
    BodyModelMismatch,
    /// An event names another model than its session.
    OtherModel,
    /// The body names more models than are followed.
    TooManyModels,
    /// The models of a batch are served by several providers.
    OtherProvider,
}

impl From<JsonError> for AskError {
    fn from(error: JsonError) -> AskError {
        match error {
            JsonError::Depth => AskError::TooDeep,
            JsonError::Truncated => AskError::Truncated,
            JsonError::Value
            | JsonError::Word
            | JsonError::Number
            | JsonError::Escape
            | JsonError::Key
            | JsonError::Colon
            | JsonError::Comma
            | JsonError::Trailing => AskError::NotJson,
        }
    }
}

/// A value in the body.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Value {
    kind: Kind,
    span: Range<usize>,
}

/// What one request body asks for. Holds offsets into the body that was scanned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// The model that the body names, decoded; `None` where the path names it.
    pub model: Option<String>,
    /// The body says `"stream": true`.
    pub stream: bool,
    /// The longest answer that is asked for, in tokens.
    pub output_max: Option<u64>,
    /// How many answers or images are asked for at once; `None`: what is usual.
    pub copies: Option<u64>,
    /// The prompt may be written to a cache for an hour, which costs more than for five minutes.
    pub hour_cache: bool,
    /// The reply only says that the answer is being made.
    pub background: bool,
    /// Further models that the body names: to fall back to, or for a tool to ask.
    pub others: Vec<String>,
    model_at: Range<usize>,
    /// Further names of the path's model.
    body_models: Vec<Value>,
    /// `None` when absent, or when the endpoint has no such option.
    stream_options: Option<Value>,
    include_usage: Option<Value>,
    usage_option: bool,
}

const ROOT: usize = 0;
/// Of [`ModelPlace::Body`]; a path endpoint has its body models from here on.
const MODEL: usize = 1;
const STREAM: usize = 2;
/// The first of the three names of the longest answer.
const OUTPUT: usize = 3;
/// The first of the two names of how many answers.
const COPIES: usize = 6;
const OPTIONS: usize = 8;
const INCLUDE: usize = 9;
const IN_BODY: usize = 10;
/// The first of the places of further models.
const OTHERS: usize = IN_BODY;

/// Behind them, the prompts of a legacy call.
const PROMPTS: usize = OTHERS + OTHERS_PATHS.len() + 1;

/// Each is answered by itself.
const PROMPTS_PATH: &[Step] = &[Step::Key("prompt"), Step::Each];
/// OpenRouter's two lists to fall back to, of which Anthropic has the second.
const OTHERS_PATHS: [&[Step]; 3] = [
    &[Step::Key("models"), Step::Each],
    &[Step::Key("fallbacks"), Step::Each],
    &[Step::Key("fallbacks"), Step::Each, Step::Key("model")],
];
/// Whom a tool asks: Anthropic's adviser.
const ADVISER_PATH: &[Step] = &[Step::Key("tools"), Step::Each, Step::Key("model")];
/// The same at OpenRouter.
const TOOL_MODEL_PATH: &[Step] =
    &[Step::Key("tools"), Step::Each, Step::Key("parameters"), Step::Key("model")];
const MODEL_PATH: &[Step] = &[Step::Key("model")];
const OUTPUT_PATHS: [&[Step]; 3] = [
    &[Step::Key("max_tokens")],
    &[Step::Key("max_completion_tokens")],
    &[Step::Key("max_output_tokens")],
];
/// The legacy endpoint makes the best of several, and bills all.
const COPIES_PATHS: [&[Step]; 2] = [&[Step::Key("n")], &[Step::Key("best_of")]];
/// Google's servers read every name in both ways.
const GEMINI_OUTPUT_PATHS: [&[Step]; 4] = [
    &[Step::Key("generationConfig"), Step::Key("maxOutputTokens")],
    &[Step::Key("generation_config"), Step::Key("max_output_tokens")],
    &[Step::Key("generationConfig"), Step::Key("max_output_tokens")],
    &[Step::Key("generation_config"), Step::Key("maxOutputTokens")],
];
const GEMINI_COPIES_PATHS: [&[Step]; 4] = [
    &[Step::Key("generationConfig"), Step::Key("candidateCount")],
    &[Step::Key("generation_config"), Step::Key("candidate_count")],
    &[Step::Key("generationConfig"), Step::Key("candidate_count")],
    &[Step::Key("generation_config"), Step::Key("candidateCount")],
];
const SAMPLES_PATHS: [&[Step]; 2] = [
    &[Step::Key("parameters"), Step::Key("sampleCount")],
    &[Step::Key("parameters"), Step::Key("sample_count")],
];
const STREAM_PATH: &[Step] = &[Step::Key("stream")];
const OPTIONS_PATH: &[Step] = &[Step::Key("stream_options")];
const INCLUDE_PATH: &[Step] = &[Step::Key("stream_options"), Step::Key("include_usage")];

/// Reads a whole body.
pub fn scan(endpoint: &Endpoint, body: &[u8]) -> Result<Ask, AskError> {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
    let blank = body.iter().all(is_space);
    match endpoint.model {
        ModelPlace::Event | ModelPlace::Nowhere => Ok(Ask::default()),
        ModelPlace::Path if blank => Ok(Ask::default()),
        _ if blank => Err(AskError::Empty),
        ModelPlace::Body | ModelPlace::MaybeBody | ModelPlace::Multipart | ModelPlace::Resource => {
            scan_named_in_body(endpoint, body)
        }
        ModelPlace::Path => scan_named_in_path(endpoint, body),
    }
}

/// The same where the path may name the model, too. A body that names none gets that name; one that
/// names another could be served as either.
pub fn scan_deployed(
    endpoint: &Endpoint,
    body: &mut Vec<u8>,
    deployment: Option<&str>,
) -> Result<Ask, AskError> {
    let scanned = scan(endpoint, body);
    let Some(deployment) = deployment else { return scanned };
    match scanned {
        Err(AskError::ModelMissing) => {}
        Ok(ask) if ask.model.is_none() => {}
        Ok(ask) if ask.model.as_deref() == Some(deployment) => return Ok(ask),
        Ok(_) => return Err(AskError::BodyModelMismatch),
        Err(error) => return Err(error),
    }
    // It was read: an object.
    let inside = memchr::memchr(b'{', body).map_or(0, |at| at + 1);
    let mut member = b"\"model\":".to_vec();
    escape(deployment, &mut member);
    if !body[inside..].trim_ascii_start().starts_with(b"}") {
        member.push(b',');
    }
    splice(body, &[Edit { span: inside..inside, with: &member }]);
    scan(endpoint, body)
}

fn scan_named_in_body(endpoint: &Endpoint, body: &[u8]) -> Result<Ask, AskError> {
    debug_assert!(endpoint.body_models.is_empty());
    let mut paths: [&[Step]; IN_BODY] = [&[]; IN_BODY];
    paths[MODEL..OUTPUT].copy_from_slice(&[MODEL_PATH, STREAM_PATH]);
    paths[OUTPUT..COPIES].copy_from_slice(&OUTPUT_PATHS);
    paths[COPIES..OPTIONS].copy_from_slice(&COPIES_PATHS);
    paths[OPTIONS..].copy_from_slice(&[OPTIONS_PATH, INCLUDE_PATH]);
    let watched = match (endpoint.usage_option, endpoint.images.is_empty()) {
        (true, _) => paths.len(),
        (false, false) => OPTIONS,
        (false, true) => COPIES,
    };
    let mut watch = with_others(Watch::of(&paths[..watched]), endpoint.dialect);
    if endpoint.tail == "completions" {
        watch = watch.with(PROMPTS, PROMPTS_PATH);
    }
    let mut prompts = 0;
    let mut values: [Option<Value>; IN_BODY] = [const { None }; IN_BODY];
    let (mut output_max, mut copies) = (None, None);
    let mut others = Others::default();
    let mut repeated: Option<AskError> = None;
    each_event(watch, body, |event| match event {
        // A list of numbers is one prompt, in tokens.
        Event::Begins { path: PROMPTS, kind, .. } => {
            prompts += u64::from(matches!(kind, Kind::String | Kind::Array));
        }
        Event::Ends { path: PROMPTS, .. } | Event::Repeats { path: PROMPTS } => {}
        Event::Begins { path: OTHERS.., kind, at, .. } => {
            others.at = (kind == Kind::String).then_some(at as usize);
        }
        Event::Ends { path: OTHERS.., end } => others.end(body, end as usize),
        Event::Begins { path, kind, at, .. } => {
            let at = at as usize;
            values[path] = Some(Value { kind, span: at..at });
        }
        Event::Ends { path, end } => {
            if let Some(value) = &mut values[path] {
                value.span.end = end as usize;
                let asked = || number(&body[value.span.clone()]);
                match path {
                    OUTPUT..COPIES => output_max = output_max.max(asked()),
                    COPIES..OPTIONS => copies = copies.max(asked()),
                    _ => {}
                }
            }
        }
        // Whichever of them the upstream reads, the largest is reserved.
        Event::Repeats { path } if (OUTPUT..OPTIONS).contains(&path) => {}
        Event::Misspelt { .. } => drop(repeated.get_or_insert(AskError::KeyMisspelt)),
        Event::Repeats { path } => {
            let error = match path {
                STREAM => AskError::StreamTwice,
                OPTIONS | INCLUDE => AskError::StreamOptionsTwice,
                _ => AskError::ModelTwice,
            };
            repeated.get_or_insert(error);
        }
    })?;
    let [root, model, stream, .., stream_options, include_usage] = values;
    if root.is_none_or(|root| root.kind != Kind::Object) {
        return Err(AskError::NotAnObject);
    }
    if let Some(error) = repeated {
        return Err(error);
    }
    let others = others.found?;
    if prompts > 1 {
        copies = Some(copies.unwrap_or(1).max(1).saturating_mul(prompts));
    }
    let (name, model_at) = match model {
        Some(model) if model.kind == Kind::String => {
            (Some(model_name(&body[model.span.clone()])?), model.span)
        }
        Some(_) => return Err(AskError::ModelNotText),
        None if matches!(endpoint.model, ModelPlace::Body | ModelPlace::Resource) => {
            return Err(AskError::ModelMissing);
        }
        None => (None, 0..0),
    };
    Ok(Ask {
        model: name,
        output_max,
        copies,
        hour_cache: endpoint.dialect == Dialect::Anthropic
            && memchr::memmem::find(body, b"\"1h\"").is_some(),
        background: endpoint.dialect == Dialect::OpenaiResponses
            && says_true(body, b"\"background\""),
        others,
        stream: stream.is_some_and(|stream| stream.kind == Kind::True),
        model_at,
        body_models: Vec::new(),
        stream_options,
        include_usage,
        usage_option: endpoint.usage_option,
    })
}

/// Watches the places of further models too.
fn with_others(watch: Watch, dialect: Dialect) -> Watch {
    let tool = if dialect == Dialect::Anthropic { ADVISER_PATH } else { TOOL_MODEL_PATH };
    let paths = OTHERS_PATHS.into_iter().chain([tool]).enumerate();
    paths.fold(watch, |watch, (at, path)| watch.with(OTHERS + at, path))
}

/// The further models, as far as they were read.
struct Others {
    at: Option<usize>,
    found: Result<Vec<String>, AskError>,
}

impl Default for Others {
    fn default() -> Others {
        Others { at: None, found: Ok(Vec::new()) }
    }
}

impl Others {
    /// A value at one of their places ends here. What is no text names none.
    fn end(&mut self, body: &[u8], end: usize) {
        let (Some(at), Ok(found)) = (self.at.take(), &mut self.found) else { return };
        match model_name(&body[at..end]) {
            Ok(_) if found.len() == BODY_MODELS_MAX => self.found = Err(AskError::TooManyModels),
            Ok(name) => found.push(name),
            Err(error) => self.found = Err(error),
        }
    }
}

/// Somewhere in the body this key is true. A search, not a reading: it serves an estimate.
fn says_true(body: &[u8], key: &[u8]) -> bool {
    memchr::memmem::find_iter(body, key).any(|at| {
        let value = body[at + key.len()..].trim_ascii_start().strip_prefix(b":");
        value.is_some_and(|value| value.trim_ascii_start().starts_with(b"true"))
    })
}

fn scan_named_in_path(endpoint: &Endpoint, body: &[u8]) -> Result<Ask, AskError> {
    let mut paths: [&[Step]; PATHS_MAX] = [&[]; PATHS_MAX];
    let watched = MODEL + endpoint.body_models.len();
    paths[MODEL..watched].copy_from_slice(endpoint.body_models);
    // Behind the models.
    let output = watched;
    let copied = output + GEMINI_OUTPUT_PATHS.len();
    paths[output..copied].copy_from_slice(&GEMINI_OUTPUT_PATHS);
    let copies_paths: &[&[Step]] =
        if endpoint.images.is_empty() { &GEMINI_COPIES_PATHS } else { &SAMPLES_PATHS };
    let watched = copied + copies_paths.len();
    paths[copied..watched].copy_from_slice(copies_paths);
    let (mut output_max, mut copies) = (None, None);
    let mut asked_at = 0;
    let mut body_models: Vec<Value> = Vec::new();
    let mut error: Option<AskError> = None;
    each_event(Watch::of(&paths[..watched]), body, |event| match event {
        Event::Begins { path: ROOT, .. } | Event::Ends { path: ROOT, .. } => {}
        Event::Begins { path, at, .. } if path >= output => asked_at = at as usize,
        Event::Ends { path, end } if path >= output => {
            let asked = number(&body[asked_at..end as usize]);
            let place = if path < copied { &mut output_max } else { &mut copies };
            *place = (*place).max(asked);
        }
        Event::Repeats { path } if path >= output => {}
        _ if error.is_some() => {}
        Event::Misspelt { .. } => error = Some(AskError::KeyMisspelt),
        Event::Begins { .. } if body_models.len() == BODY_MODELS_MAX => {
            error = Some(AskError::TooManyModels);
        }
        Event::Begins { kind, at, .. } => {
            let at = at as usize;
            body_models.push(Value { kind, span: at..at });
        }
        Event::Ends { end, .. } => {
            if let Some(value) = body_models.last_mut() {
                value.span.end = end as usize;
            }
        }
        Event::Repeats { .. } => error = Some(AskError::ModelTwice),
    })?;
    match error {
        Some(error) => Err(error),
        None => Ok(Ask { body_models, output_max, copies, ..Ask::default() }),
    }
}

/// A count of tokens, as far as it is one. Some servers take `4096.0`; what is between two counts
/// is the larger.
fn number(literal: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(literal).ok()?;
    let broken = || text.parse::<f64>().ok().filter(|count| *count >= 0.0).map(f64::ceil);
    // The cast saturates.
    text.parse().ok().or_else(|| broken().map(|count| count as u64))
}

fn each_event(watch: Watch, body: &[u8], mut on: impl FnMut(Event)) -> Result<(), JsonError> {
    let mut scanner = Scanner::new(watch.in_any_case());
    scanner.feed(body, &mut on)?;
    scanner.finish(&mut on)
}

/// The name that a field of a form holds, if it can be a model's. An empty one is none.
pub fn plain_name(field: &[u8]) -> Result<String, AskError> {
    let name = std::str::from_utf8(field).map_err(|_| AskError::ModelNotText)?;
    if name.is_empty() { Ok(String::new()) } else { checked(name.to_owned()) }
}

/// The name that a literal spells, if it can be a model's.
pub(super) fn model_name(literal: &[u8]) -> Result<String, AskError> {
    // One byte of a name takes at most the six of `\u0061`.
    if literal.len() > MODEL_BYTES_MAX * 6 + 2 {
        return Err(AskError::ModelTooLong);
    }
    checked(unescape(literal).ok_or(AskError::ModelNotText)?)
}

fn checked(name: String) -> Result<String, AskError> {
    if name.is_empty() {
        return Err(AskError::ModelEmpty);
    }
    if name.len() > MODEL_BYTES_MAX {
        return Err(AskError::ModelTooLong);
    }
    if name.chars().any(char::is_control) {
        return Err(AskError::ModelControl);
    }
    if has_dot_segments(&name) {
        return Err(AskError::ModelDots);
    }
    Ok(name)
}

/// Whether the name would lead elsewhere within a path. Some servers take a backslash for a slash.
pub fn has_dot_segments(name: &str) -> bool {
    name.split(['/', '\\']).any(|part| matches!(part, "." | ".."))
}

impl Ask {
    /// The client itself asked for usage in the stream, so it is not hidden from it.
    pub fn wants_usage(&self) -> bool {
        self.include_usage.as_ref().is_some_and(|value| value.kind == Kind::True)
    }

    /// Rewrites `body`, which must be the one that was scanned.
    ///
    /// `served` is the new name where the body names the model. `path_model` is the name (asked,
    /// served) where the path does: every name in the body must be the one asked, and becomes the
    /// one served. `add_usage` asks for usage in a stream, if the endpoint knows that option.
    pub fn rewrite(
        &self,
        body: &mut Vec<u8>,
        served: Option<&str>,
        path_model: Option<(&str, &str)>,
        add_usage: bool,
    ) -> Result<(), AskError> {
        if let Some((asked, served)) = path_model {
            return self.rewrite_body_models(body, asked, served);
        }
        let mut model = Vec::new();
        if let (Some(served), Some(_)) = (served, &self.model) {
            escape(served, &mut model);
        }
        let mut edits: Vec<Edit<'_>> = Vec::new();
        if !model.is_empty() {
            edits.push(Edit { span: self.model_at.clone(), with: &model });
        }
        let wanted = add_usage && self.stream && self.usage_option && self.model.is_some();
        if let Some(edit) = wanted.then(|| self.usage_edit(body)).flatten() {
            // Behind the model when it stands there: an insertion has an empty span.
            edits.push(edit);
        }
        edits.sort_by_key(|edit| edit.span.start);
        splice(body, &edits);
        Ok(())
    }

    /// The one change that makes `stream_options.include_usage` true; `None` when it is, or when
    /// `stream_options` is nothing that a member can be added to.
    fn usage_edit(&self, body: &[u8]) -> Option<Edit<'static>> {
        let Some(options) = &self.stream_options else {
            let at = self.model_at.end;
            return Some(Edit {
                span: at..at,
                with: b",\"stream_options\":{\"include_usage\":true}",
            });
        };
        match (options.kind, &self.include_usage) {
            (Kind::Null, _) => {
                Some(Edit { span: options.span.clone(), with: b"{\"include_usage\":true}" })
            }
            (Kind::Object, Some(value)) if value.kind == Kind::True => None,
            (Kind::Object, Some(value)) => Some(Edit { span: value.span.clone(), with: b"true" }),
            (Kind::Object, None) => {
                let inside = options.span.start + 1;
                let is_empty = body[inside..options.span.end].trim_ascii_start() == b"}";
                let with: &[u8] =
                    if is_empty { b"\"include_usage\":true" } else { b"\"include_usage\":true," };
                Some(Edit { span: inside..inside, with })
            }
            _ => None,
        }
    }

    fn rewrite_body_models(
        &self,
        body: &mut Vec<u8>,
        asked: &str,
        served: &str,
    ) -> Result<(), AskError> {
        let literal = |prefix: &str| {
            let mut literal = Vec::new();
            escape(&format!("{prefix}{served}"), &mut literal);
            literal
        };
        let (model, tuned_model) = (literal("models/"), literal("tunedModels/"));
        let mut edits: Vec<Edit<'_>> = Vec::new();
        for value in &self.body_models {
            if value.kind == Kind::Null {
                continue;
            }
            if value.kind != Kind::String {
                return Err(AskError::BodyModelMismatch);
            }
            let name = model_name(&body[value.span.clone()])?;
            let (bare, with) = match name.strip_prefix("tunedModels/") {
                Some(bare) => (bare, &tuned_model),
                None => (name.strip_prefix("models/").unwrap_or(&name), &model),
            };
            if bare != asked && name != asked {
                return Err(AskError::BodyModelMismatch);
            }
            if asked != served {
                edits.push(Edit { span: value.span.clone(), with });
            }
        }
        splice(body, &edits);
        Ok(())
    }
}

/// These bytes of the body become those.
struct Edit<'a> {
    span: Range<usize>,
    with: &'a [u8],
}

/// Applies edits in place, in order of their spans, moving each byte at most twice: the tail makes
/// room for all that grows, then the parts between the edits close up.
fn splice(body: &mut Vec<u8>, edits: &[Edit<'_>]) {
    let Some(first) = edits.first() else { return };
    debug_assert!(edits.windows(2).all(|pair| pair[0].span.end <= pair[1].span.start));
    let length = body.len();
    let growth: usize =
        edits.iter().map(|edit| edit.with.len().saturating_sub(edit.span.len())).sum();
    body.reserve_exact(growth);
    body.resize(length + growth, 0);
    if growth > 0 {
        body.copy_within(first.span.start..length, first.span.start + growth);
    }
    let mut target = first.span.start;
    for (index, edit) in edits.iter().enumerate() {
        body[target..target + edit.with.len()].copy_from_slice(edit.with);
        target += edit.with.len();
        let kept_end = edits.get(index + 1).map_or(length, |next| next.span.start);
        let kept = edit.span.end + growth..kept_end + growth;
        let kept_length = kept.len();
        if kept.start != target {
            body.copy_within(kept, target);
        }
        target += kept_length;
    }
    body.truncate(target);
}
