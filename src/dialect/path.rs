//! From a request target to the endpoint, the provider's scope and the model that it names.
//!
//! Base URLs are typed slightly wrong all the time, so a missing or doubled version and doubled or
//! trailing slashes are put right. Everything that two readers could take for different paths is
//! refused instead: dot segments, backslashes, controls, and slashes that were encoded outside a
//! model's id. Percent-encoding is decoded once, and what is routed is what goes upstream, because
//! the upstream's path is built from the route and never copied from the target.
//!
//! Nothing is allocated unless the target needs decoding or mending.

use super::Family;
use super::endpoint::{ENDPOINTS, Endpoint};
use crate::limits::MODEL_BYTES_MAX;
use crate::secret::Secret;
use crate::wire::head::absolute;
use std::borrow::Cow;

/// First path segments that never name a provider: versions, our own pages, and the first segment
/// of every endpoint, present or planned.
pub const RESERVED: &[&str] = &[
    "v1",
    "v1beta",
    "v1beta1",
    "v1alpha",
    "upload",
    "admin",
    "user",
    "console",
    "login",
    "ws",
    "healthz",
    "readyz",
    "metrics",
    "version",
    "assistants",
    "audio",
    "auth_tokens",
    "batches",
    "cachedcontents",
    "chat",
    "chatkit",
    "completions",
    "containers",
    "conversations",
    "deployments",
    "embeddings",
    "engines",
    "evals",
    "files",
    "filesearchstores",
    "fine_tuning",
    "images",
    "interactions",
    "messages",
    "models",
    "moderations",
    "operations",
    "organization",
    "projects",
    "publishers",
    "realtime",
    "responses",
    "skills",
    "threads",
    "tunedmodels",
    "uploads",
    "vector_stores",
    "videos",
];

/// Version segments that clients send.
pub const VERSIONS: [&str; 4] = ["v1", "v1beta", "v1beta1", "v1alpha"];

/// Parameter of our own addresses for uploads: who may send the bytes.
pub const UPLOAD_SESSION: &str = "gproxy_session";

/// Parameter that names the provider of a call whose path names none, as the header of this name
/// does. Addresses of ours hold it.
pub const PROVIDER: &str = "x-gproxy-provider";

/// The one method of every endpoint so far, and the `Allow` of a 405.
const METHOD: &str = "POST";

/// What a target means.
#[derive(Clone, Debug)]
pub struct Route<'t> {
    /// The provider that the path names; `None` in aggregated mode.
    pub scope: Option<Cow<'t, str>>,
    /// The row of the route table.
    pub endpoint: &'static Endpoint,
    /// The version as sent, the last one when there are several; when there is none, the dialect's
    /// usual one.
    pub version: &'static str,
    /// The model of a [`ModelPlace::Path`] endpoint, decoded, without `models/` in front. A
    /// publisher other than Google stands in front of it, as the prefix that it once was.
    pub model: Option<Cow<'t, str>>,
    /// The collection that the model belongs to.
    pub collection: Collection,
    /// The model of an endpoint that has it in the body, where the path names it too, as Azure's
    /// clients have it: `openai/deployments/{model}/...`.
    pub deployment: Option<Cow<'t, str>>,
    /// The path is of Azure's form.
    is_azure: bool,
    /// The query, less what was meant for us.
    pub query: Query<'t>,
}

impl Route<'_> {
    /// The query for an upstream. The version that Azure's clients name is of nobody's interface
    /// but Azure's dated ones.
    pub fn query_to(&self, is_dated: bool) -> Cow<'_, str> {
        let rest = &*self.query.rest;
        if is_dated || !self.is_azure {
            return Cow::Borrowed(rest);
        }
        let is_version = |part: &&str| parameters(part).any(|(name, _)| name == "api-version");
        let kept: Vec<&str> = rest.split('&').filter(|part| !is_version(part)).collect();
        Cow::Owned(kept.join("&"))
    }
}

/// Collection that holds a Gemini model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collection {
    /// `models/`
    Models,
    /// `tunedModels/`
    TunedModels,
}

/// A query string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query<'t> {
    /// The parameters for the upstream as they were sent, without `key` and without a leading `?`.
    /// Bytes that no query may hold are percent-encoded.
    pub rest: Cow<'t, str>,
    /// `alt=sse`: a Gemini stream is wanted as events.
    pub alt_sse: bool,
}

/// Why a target leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// A percent sign without two hexadecimal digits.
    Percent,
    /// The decoded bytes are no UTF-8.
    NotUtf8,
    /// A control character, a backslash, or a fragment.
    Character,
    /// A segment `.` or `..`, in any spelling.
    DotSegment,
    /// An encoded slash outside a model's id, or one that leaves a part of the id empty.
    EncodedSlash,
    /// There is no model between the slash and the colon.
    ModelEmpty,
    /// The model has more than [`MODEL_BYTES_MAX`] bytes.
    ModelTooLong,
    /// No endpoint has this path.
    NotFound,
    /// An endpoint has this path, but the segment in front of it names no provider.
    UnknownScope,
    /// The path is an endpoint's, the method is not; holds the methods that are.
    MethodNotAllowed(&'static str),
}

impl PathError {
    /// Every variant, for tables and golden files.
    pub const ALL: [PathError; 10] = [
        PathError::Percent,
        PathError::NotUtf8,
        PathError::Character,
        PathError::DotSegment,
        PathError::EncodedSlash,
        PathError::ModelEmpty,
        PathError::ModelTooLong,
        PathError::NotFound,
        PathError::UnknownScope,
        PathError::MethodNotAllowed(METHOD),
    ];
}

/// Path and raw query of a target in origin-form or absolute-form. `http://host` has the path `/`.
pub fn split(target: &str) -> (&str, &str) {
    let local = absolute(target).map_or(target, |(_, local)| local);
    let (path, query) = local.split_once('?').unwrap_or((local, ""));
    (if path.is_empty() { "/" } else { path }, query)
}

/// Finds the endpoint. `is_provider` knows the providers' names.
pub fn parse<'t>(
    method: &str,
    target: &'t str,
    is_provider: &dyn Fn(&str) -> bool,
) -> Result<Route<'t>, PathError> {
    let (path, query) = split(target);
    check(path)?;
    let Some((first, below)) = segment(path) else { return Err(PathError::NotFound) };
    let first = decode(first)?;
    let is_reserved = RESERVED.contains(&&*first);
    let is_scope = !is_reserved && is_provider(&first);
    let found = place(method, if is_scope { below } else { path }, is_scope);
    let place = match found {
        Err(PathError::NotFound) if has_stray_slash(path) => return Err(PathError::EncodedSlash),
        Err(PathError::NotFound) if !is_scope && !is_reserved && is_served(method, below) => {
            return Err(PathError::UnknownScope);
        }
        found => found?,
    };
    let version = place.version.unwrap_or(usual_version(place.endpoint.dialect.family()));
    Ok(Route {
        scope: is_scope.then_some(first),
        endpoint: place.endpoint,
        version,
        model: place.model,
        collection: place.collection,
        deployment: place.deployment,
        is_azure: place.is_azure,
        query: Query::parse(query),
    })
}

/// The version that a family's clients send, for a path that has none.
pub(super) fn usual_version(family: Family) -> &'static str {
    match family {
        Family::Gemini => "v1beta",
        Family::Openai | Family::Anthropic => "v1",
    }
}

/// A route without its scope and query.
struct Place<'t> {
    endpoint: &'static Endpoint,
    version: Option<&'static str>,
    model: Option<Cow<'t, str>>,
    collection: Collection,
    deployment: Option<Cow<'t, str>>,
    is_azure: bool,
}

impl<'t> Place<'t> {
    /// Of an endpoint that names no model in its path.
    fn of(endpoint: &'static Endpoint, version: Option<&'static str>) -> Place<'t> {
        let collection = Collection::Models;
        Place { endpoint, version, model: None, collection, deployment: None, is_azure: false }
    }
}

/// Finds the endpoint of a path below the scope.
fn place<'t>(method: &str, path: &'t str, scoped: bool) -> Result<Place<'t>, PathError> {
    let (version, path) = skip_versions(path)?;
    if let Some(place) = azure_place(path, version, scoped)? {
        check_method(method)?;
        return Ok(place);
    }
    let path = skip_project(path)?;
    if let Some(endpoint) = fixed(path)? {
        check_method(method)?;
        return Ok(Place::of(endpoint, version));
    }
    let (first, below) = segment(path).ok_or(PathError::NotFound)?;
    let (id, publisher, collection) = match &*decode(first)? {
        "models" => (below, None, Collection::Models),
        "tunedModels" => (below, None, Collection::TunedModels),
        "publishers" => {
            let (publisher, id) = split_publisher(below)?;
            (id, publisher, Collection::Models)
        }
        // The AI SDK leaves `models/` out when the id has a slash. Without a version or a scope in
        // front this could be anything.
        _ if scoped || version.is_some() => (path, None, Collection::Models),
        _ => return Err(PathError::NotFound),
    };
    // Only POST has verbs: in `GET /v1/models/llama:free` the colon belongs to the id, and there no
    // suffix is one of our verbs.
    let (model, endpoint) = split_verb(decode_id(id)?).ok_or(PathError::NotFound)?;
    check_method(method)?;
    let (model, collection) = normal(model, publisher, collection);
    check_model(&model)?;
    Ok(Place { model: Some(model), collection, ..Place::of(endpoint, version) })
}

/// The endpoint whose path this is.
fn fixed(path: &str) -> Result<Option<&'static Endpoint>, PathError> {
    for endpoint in ENDPOINTS.iter().filter(|endpoint| !endpoint.model.is_in_path()) {
        if is_tail(path, endpoint.tail)? {
            return Ok(Some(endpoint));
        }
    }
    Ok(None)
}

/// The endpoint of a path as Azure's clients send it: `openai/deployments/{model}/{endpoint}`, and
/// below a scope `openai/{endpoint}`, too. Without a scope that would be a provider's.
fn azure_place<'t>(
    path: &'t str,
    version: Option<&'static str>,
    scoped: bool,
) -> Result<Option<Place<'t>>, PathError> {
    let below = match segment(path) {
        Some((first, below)) if decode(first)? == "openai" => below,
        _ => return Ok(None),
    };
    let (inner, below) = skip_versions(below)?;
    let version = inner.or(version);
    let of_openai = |endpoint: &&Endpoint| {
        endpoint.dialect.family() == Family::Openai && !endpoint.model.is_in_path()
    };
    if let Some(("deployments", rest)) = segment(below) {
        let rest = rest.trim_end_matches('/');
        let name = |endpoint: &&Endpoint| rest.strip_suffix(endpoint.tail)?.strip_suffix('/');
        // The longer of two tails stands first.
        let found = ENDPOINTS.iter().filter(of_openai).find_map(|one| Some((one, name(&one)?)));
        let Some((endpoint, name)) = found else { return Ok(None) };
        let deployment = decode_id(name)?;
        check_model(&deployment)?;
        let place = Place::of(endpoint, version);
        return Ok(Some(Place { deployment: Some(deployment), is_azure: true, ..place }));
    }
    let endpoint = if scoped { fixed(below)?.filter(of_openai) } else { None };
    Ok(endpoint.map(|endpoint| Place { is_azure: true, ..Place::of(endpoint, version) }))
}

/// The path would be an endpoint's if the segment before it named a provider.
fn is_served(method: &str, path: &str) -> bool {
    matches!(place(method, path, true), Ok(_) | Err(PathError::MethodNotAllowed(_)))
}

fn check_method(method: &str) -> Result<(), PathError> {
    if method == METHOD { Ok(()) } else { Err(PathError::MethodNotAllowed(METHOD)) }
}

/// The first segment that is not empty, raw, and what follows it.
pub(super) fn segment(path: &str) -> Option<(&str, &str)> {
    let path = path.trim_start_matches('/');
    if path.is_empty() {
        return None;
    }
    Some(path.split_once('/').unwrap_or((path, "")))
}

/// Passes over version segments, of which a mended base URL may have several; the last one counts.
pub(super) fn skip_versions(mut path: &str) -> Result<(Option<&'static str>, &str), PathError> {
    let mut version = None;
    while let Some((first, below)) = segment(path) {
        let first = decode(first)?;
        let Some(known) = VERSIONS.into_iter().find(|known| *known == first) else { break };
        version = Some(known);
        path = below;
    }
    Ok((version, path))
}

/// Passes over `projects/{project}/locations/{location}`, which clients in Vertex's mode send: the
/// provider has its own.
pub(super) fn skip_project(path: &str) -> Result<&str, PathError> {
    let mut rest = path;
    for expected in [Some("projects"), None, Some("locations"), None] {
        match segment(rest) {
            Some((first, below)) => match expected {
                Some(name) if decode(first)? != name => return Ok(path),
                _ => rest = below,
            },
            None => return Ok(path),
        }
    }
    Ok(rest)
}

/// The segments of `path`, decoded, are those of `tail`.
fn is_tail(mut path: &str, tail: &str) -> Result<bool, PathError> {
    for expected in tail.split('/') {
        match segment(path) {
            Some((first, below)) if decode(first)? == expected => path = below,
            _ => return Ok(false),
        }
    }
    Ok(segment(path).is_none())
}

/// `{publisher}/models/{id}`. Google is no prefix: that is where Vertex keeps its own models.
pub(super) fn split_publisher(path: &str) -> Result<(Option<Cow<'_, str>>, &str), PathError> {
    let (publisher, below) = segment(path).ok_or(PathError::NotFound)?;
    let (models, id) = segment(below).ok_or(PathError::NotFound)?;
    if decode(models)? != "models" {
        return Err(PathError::NotFound);
    }
    let publisher = decode(publisher)?;
    if publisher.contains('/') {
        return Err(PathError::EncodedSlash);
    }
    Ok((Some(publisher).filter(|publisher| publisher != "google"), id))
}

/// A model's id and its verb, decoded. Doubled slashes are mended before, so that only those that
/// were written plainly are.
pub(super) fn decode_id(raw: &str) -> Result<Cow<'_, str>, PathError> {
    let raw = raw.trim_matches('/');
    if !raw.contains("//") {
        return decode(raw);
    }
    let mut mended = String::with_capacity(raw.len());
    for part in raw.split('/').filter(|part| !part.is_empty()) {
        if !mended.is_empty() {
            mended.push('/');
        }
        mended.push_str(part);
    }
    Ok(Cow::Owned(decode(&mended)?.into_owned()))
}

/// Splits at the last colon, since ids may have colons of their own.
fn split_verb(text: Cow<'_, str>) -> Option<(Cow<'_, str>, &'static Endpoint)> {
    let colon = text.rfind(':')?;
    let endpoint = endpoint_of_verb(&text[colon + 1..])?;
    let model = match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[..colon]),
        Cow::Owned(mut text) => {
            text.truncate(colon);
            Cow::Owned(text)
        }
    };
    Some((model, endpoint))
}

fn endpoint_of_verb(verb: &str) -> Option<&'static Endpoint> {
    ENDPOINTS.iter().find(|endpoint| endpoint.model.is_in_path() && endpoint.tail == verb)
}

/// Folds the publisher in, and takes off the collection that clients write in front of a model
/// wherever one is asked for.
fn normal<'t>(
    model: Cow<'t, str>,
    publisher: Option<Cow<'t, str>>,
    collection: Collection,
) -> (Cow<'t, str>, Collection) {
    let mut model = match publisher {
        Some(publisher) => Cow::Owned(format!("{publisher}/{model}")),
        None => model,
    };
    let mut collection = collection;
    while collection == Collection::Models {
        if model.starts_with("models/") {
            model = without_front(model, "models/".len());
        } else if model.starts_with("tunedModels/") {
            model = without_front(model, "tunedModels/".len());
            collection = Collection::TunedModels;
        } else {
            break;
        }
    }
    (model, collection)
}

/// A model's id without the collection that clients write in front of it.
pub(super) fn normal_id(id: Cow<'_, str>) -> Cow<'_, str> {
    normal(id, None, Collection::Models).0
}

/// A name in a body without the collections that Google's clients write in front of it. A publisher
/// other than Google is the prefix that it once was.
pub fn normal_name(name: String) -> String {
    let local = match name.split_once("publishers/") {
        Some((front, local)) if front.is_empty() || front.starts_with("projects/") => local,
        _ => return normal_id(Cow::Owned(name)).into_owned(),
    };
    match local.split_once("/models/") {
        Some(("google", id)) => id.to_owned(),
        Some((publisher, id)) => format!("{publisher}/{id}"),
        None => name,
    }
}

fn without_front(text: Cow<'_, str>, len: usize) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[len..]),
        Cow::Owned(mut text) => {
            text.drain(..len);
            Cow::Owned(text)
        }
    }
}

pub(super) fn check_model(model: &str) -> Result<(), PathError> {
    if model.is_empty() || model.ends_with('/') {
        return Err(PathError::ModelEmpty);
    }
    if model.len() > MODEL_BYTES_MAX {
        return Err(PathError::ModelTooLong);
    }
    // The verb stood behind the last part, so that part could not be judged as a segment.
    check_parts(model)?;
    if model.split('/').any(str::is_empty) { Err(PathError::EncodedSlash) } else { Ok(()) }
}

fn check_parts(text: &str) -> Result<(), PathError> {
    let is_dots = |part: &str| part == "." || part == "..";
    if text.split('/').any(is_dots) { Err(PathError::DotSegment) } else { Ok(()) }
}

/// What is refused in every path, whether we serve it or not.
pub(super) fn check(path: &str) -> Result<(), PathError> {
    if path.contains('#') {
        return Err(PathError::Character);
    }
    for raw in path.split('/') {
        let segment = decode(raw)?;
        if segment.chars().any(|char| char.is_control() || char == '\\') {
            return Err(PathError::Character);
        }
        check_parts(&segment)?;
    }
    Ok(())
}

/// A slash was encoded before any model's id.
fn has_stray_slash(path: &str) -> bool {
    path.split('/')
        .take_while(|segment| !matches!(*segment, "models" | "tunedModels"))
        .any(|segment| segment.contains("%2F") || segment.contains("%2f"))
}

/// Percent-decodes, once.
pub fn decode(raw: &str) -> Result<Cow<'_, str>, PathError> {
    if !raw.contains('%') {
        return Ok(Cow::Borrowed(raw));
    }
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let [high, low, after @ ..] = rest else { return Err(PathError::Percent) };
        rest = after;
        let digit = |byte: u8| (byte as char).to_digit(16).ok_or(PathError::Percent);
        bytes.push((digit(*high)? << 4 | digit(*low)?) as u8);
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| PathError::NotUtf8)
}

impl<'t> Query<'t> {
    /// Reads a raw query string, without its `?`.
    pub fn parse(query: &'t str) -> Query<'t> {
        let alt_sse = parameters(query)
            .filter(|(name, _)| matches!(&**name, "alt" | "$alt"))
            .last()
            .is_some_and(|(_, value)| decode(value).is_ok_and(|value| value == "sse"));
        let is_clean = query.bytes().all(may_stand_in_query);
        let is_ours = |name: &str| is_key(name) || [UPLOAD_SESSION, PROVIDER].contains(&name);
        if is_clean && !parameters(query).any(|(name, _)| is_ours(&name)) {
            return Query { rest: Cow::Borrowed(query), alt_sse };
        }
        let mut rest = String::with_capacity(query.len());
        for parameter in query.split('&') {
            if parameters(parameter).any(|(name, _)| is_ours(&name)) {
                continue;
            }
            if !rest.is_empty() {
                rest.push('&');
            }
            for byte in parameter.bytes() {
                match byte {
                    _ if may_stand_in_query(byte) => rest.push(byte as char),
                    _ => rest.push_str(&format!("%{byte:02X}")),
                }
            }
        }
        Query { rest: Cow::Owned(rest), alt_sse }
    }
}

/// Decoded names and raw values of a query's parameters. A name that cannot be decoded stays as it
/// is: it is the upstream's to judge.
pub(super) fn parameters(query: &str) -> impl Iterator<Item = (Cow<'_, str>, &str)> {
    query.split('&').filter(|parameter| !parameter.is_empty()).map(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        (decode(name).unwrap_or(Cow::Borrowed(name)), value)
    })
}

/// The decoded value of a parameter; `None`: it is not there, or cannot be decoded.
pub fn parameter<'t>(query: &'t str, wanted: &str) -> Option<Cow<'t, str>> {
    let (_, value) = parameters(query).find(|(name, _)| name == wanted)?;
    decode(value).ok()
}

/// The query with another value for a parameter.
pub fn with_parameter(query: &str, wanted: &str, value: &str) -> String {
    let is_it = |parameter: &str| parameters(parameter).any(|(name, _)| name == wanted);
    let mut all = Vec::new();
    for parameter in query.split('&') {
        all.push(match is_it(parameter) {
            true => format!("{wanted}={}", encode(value)),
            false => parameter.to_owned(),
        });
    }
    all.join("&")
}

/// A value as it may stand in a query.
fn encode(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' => {
                text.push(byte as char);
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// The provider that a target's query names, for a call whose path names none.
pub fn provider(target: &str) -> Option<Cow<'_, str>> {
    parameter(split(target).1, PROVIDER)
}

/// Google reads a key under both names.
fn is_key(name: &str) -> bool {
    matches!(name, "key" | "$key")
}

/// What a URL may hold behind its `?`, and what clients put there and servers take.
fn may_stand_in_query(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"\"<>#".contains(&byte)
}

/// The key in the query, for authentication.
pub fn query_key(target: &str) -> Option<Secret> {
    parameters(split(target).1)
        .find(|(name, value)| is_key(name) && !value.is_empty())
        .and_then(|(_, value)| decode(value).ok())
        .map(|key| Secret::new(&*key))
}

/// Whose error shape a caller expects, whatever is wrong with the request: its path says so, else
/// its headers. `has_header` is asked for names in lower case.
pub fn family(target: &str, has_header: &dyn Fn(&str) -> bool) -> Family {
    let (path, query) = split(target);
    let mut gemini = false;
    for segment in path.split('/') {
        match segment {
            "messages" => return Family::Anthropic,
            "chat" | "completions" | "responses" | "embeddings" | "realtime" => {
                return Family::Openai;
            }
            "v1beta" | "v1beta1" | "v1alpha" | "publishers" | "tunedModels" | "ws" => gemini = true,
            // What follows is a model's id.
            "models" => break,
            _ => {}
        }
    }
    let verb = path.trim_end_matches('/').rsplit_once(':').map(|(_, verb)| verb);
    if gemini || verb.and_then(endpoint_of_verb).is_some() {
        return Family::Gemini;
    }
    if has_header("x-goog-api-key") || parameters(query).any(|(name, _)| is_key(&name)) {
        return Family::Gemini;
    }
    // An `x-api-key` alone is a curl call to Anthropic: OpenAI's clients never send it.
    if ["anthropic-version", "anthropic-beta", "x-api-key"].into_iter().any(has_header) {
        return Family::Anthropic;
    }
    Family::Openai
}

/// Path of the base URL that a family's clients want: for all providers, and for one.
pub fn base_paths(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::Openai => ("/v1", "/{provider}/v1"),
        Family::Anthropic | Family::Gemini => ("", "/{provider}"),
    }
}

#[cfg(test)]
mod tests;
