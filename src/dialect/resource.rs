//! Calls that name no model: files, batches, stored answers and their like, as a table.
//!
//! They pass as they are, but for what `stored.rs` exchanges in their replies. A row says where a
//! call lives and what guards it; in a pattern, `*` stands for one segment, an id of the vendor's,
//! and `**` at its end for all that follows, be it nothing.

#[cfg(test)]
mod tests;

use super::endpoint::{Endpoint, nameless};
use super::path::{self, PathError, Query};
use super::stored::Places;
use super::{Dialect, Family};
use crate::wire::json::Step;
use std::borrow::Cow;

/// One address of a vendor's, and what may be done there.
#[derive(Debug)]
pub struct Resource {
    /// How it passes. Its tail is a pattern.
    pub endpoint: Endpoint,
    /// Methods of this row, with commas between them.
    pub methods: &'static str,
    /// The `Allow` of a 405: all methods of the address, those of other tables too. Empty: with
    /// another method there is no such path.
    pub allow: &'static str,
    /// Files: `[[file_permissions]]` guard it, and its bodies may be as long as an upload.
    pub is_file: bool,
    /// What is made here works with models that nobody here sees: all methods but `GET` need the
    /// permission for every model.
    pub unseen: bool,
    /// What is made here names models all the same: see `batch.rs`.
    pub models: bool,
}

impl Resource {
    fn takes(&self, method: &str) -> bool {
        self.methods.split(", ").any(|allowed| allowed == method)
    }
}

const OPENAI: Dialect = Dialect::OpenaiChat;
const RESPONSES: Dialect = Dialect::OpenaiResponses;
const ANTHROPIC: Dialect = Dialect::Anthropic;
const GEMINI: Dialect = Dialect::Gemini;

const fn row(
    name: &'static str,
    dialect: Dialect,
    tail: &'static str,
    methods: &'static str,
) -> Resource {
    let endpoint = nameless(name, dialect, tail);
    Resource { endpoint, methods, allow: methods, is_file: false, unseen: false, models: false }
}

const fn file(
    name: &'static str,
    dialect: Dialect,
    tail: &'static str,
    methods: &'static str,
) -> Resource {
    Resource { is_file: true, ..row(name, dialect, tail, methods) }
}

const fn unseen(
    name: &'static str,
    dialect: Dialect,
    tail: &'static str,
    methods: &'static str,
) -> Resource {
    Resource { unseen: true, ..row(name, dialect, tail, methods) }
}

/// Its replies hold addresses of its own.
const fn linked(resource: Resource) -> Resource {
    let endpoint = Endpoint { places: Places::Addresses, ..resource.endpoint };
    Resource { endpoint, ..resource }
}

/// Its replies name the model that served, at these places. Only where the name was exchanged on
/// its way up: what went up as it was comes back as it is.
const fn named(paths: &'static [&'static [Step]], resource: Resource) -> Resource {
    let endpoint = Endpoint { places: Places::Models(paths), ..resource.endpoint };
    Resource { endpoint, ..resource }
}

const MODEL: &[&[Step]] = &[&[Step::Key("model")]];
const LISTED: &[&[Step]] = &[&[Step::Key("data"), Step::Each, Step::Key("model")]];
const RESULT: &[&[Step]] = &[&[Step::Key("result"), Step::Key("message"), Step::Key("model")]];
const CACHES: &[&[Step]] = &[&[Step::Key("cachedContents"), Step::Each, Step::Key("model")]];
const BATCHES: &[&[Step]] =
    &[&[Step::Key("operations"), Step::Each, Step::Key("metadata"), Step::Key("model")]];
/// A batch of Gemini's tells its replies twice.
const BATCH: &[&[Step]] = &[
    &[Step::Key("metadata"), Step::Key("model")],
    &[
        Step::Key("metadata"),
        Step::Key("output"),
        Step::Key("inlinedResponses"),
        Step::Key("inlinedResponses"),
        Step::Each,
        Step::Key("response"),
        Step::Key("modelVersion"),
    ],
    &[
        Step::Key("response"),
        Step::Key("inlinedResponses"),
        Step::Key("inlinedResponses"),
        Step::Each,
        Step::Key("response"),
        Step::Key("modelVersion"),
    ],
];

/// A stored answer may come as the stream that it was.
const fn streamed(resource: Resource) -> Resource {
    let event_model = &[Step::Key("response"), Step::Key("model")];
    Resource { endpoint: Endpoint { event_model, ..resource.endpoint }, ..resource }
}

/// Of a family of addresses that the vendor still changes.
const ALL: &str = "GET, POST, PUT, PATCH, DELETE";

/// Every resource.
pub static RESOURCES: &[Resource] = &[
    // https://platform.openai.com/docs/api-reference
    Resource {
        allow: "GET, POST",
        ..named(LISTED, row("chat.completions.list", OPENAI, "chat/completions", "GET"))
    },
    named(MODEL, row("chat.completions.stored", OPENAI, "chat/completions/*", "GET, POST, DELETE")),
    row("chat.completions.messages", OPENAI, "chat/completions/*/messages", "GET"),
    streamed(named(MODEL, row("responses.stored", RESPONSES, "responses/*", "GET, DELETE"))),
    named(MODEL, row("responses.cancel", RESPONSES, "responses/*/cancel", "POST")),
    row("responses.input_items", RESPONSES, "responses/*/input_items", "GET"),
    row("conversations", RESPONSES, "conversations", "POST"),
    row("conversations.stored", RESPONSES, "conversations/*", "GET, POST, DELETE"),
    row("conversations.items", RESPONSES, "conversations/*/items", "GET, POST"),
    row("conversations.item", RESPONSES, "conversations/*/items/*", "GET, DELETE"),
    file("files", OPENAI, "files", "GET, POST"),
    file("files.stored", OPENAI, "files/*", "GET, DELETE"),
    file("files.content", OPENAI, "files/*/content", "GET"),
    file("uploads", OPENAI, "uploads", "POST"),
    file("uploads.parts", OPENAI, "uploads/*/parts", "POST"),
    file("uploads.complete", OPENAI, "uploads/*/complete", "POST"),
    file("uploads.cancel", OPENAI, "uploads/*/cancel", "POST"),
    unseen("batches", OPENAI, "batches", "GET, POST"),
    row("batches.stored", OPENAI, "batches/*", "GET"),
    row("batches.cancel", OPENAI, "batches/*/cancel", "POST"),
    unseen("fine_tuning.jobs", OPENAI, "fine_tuning/jobs", "GET, POST"),
    row("fine_tuning.job", OPENAI, "fine_tuning/jobs/*", "GET"),
    row("fine_tuning.cancel", OPENAI, "fine_tuning/jobs/*/cancel", "POST"),
    row("fine_tuning.pause", OPENAI, "fine_tuning/jobs/*/pause", "POST"),
    row("fine_tuning.resume", OPENAI, "fine_tuning/jobs/*/resume", "POST"),
    row("fine_tuning.events", OPENAI, "fine_tuning/jobs/*/events", "GET"),
    row("fine_tuning.checkpoints", OPENAI, "fine_tuning/jobs/*/checkpoints", "GET"),
    unseen("fine_tuning.permissions", OPENAI, "fine_tuning/checkpoints/**", ALL),
    unseen("fine_tuning.alpha", OPENAI, "fine_tuning/alpha/**", ALL),
    Resource { allow: "", ..unseen("models.delete", OPENAI, "models/*", "DELETE") },
    row("vector_stores", OPENAI, "vector_stores", "GET, POST"),
    row("vector_stores.stored", OPENAI, "vector_stores/*", "GET, POST, DELETE"),
    row("vector_stores.search", OPENAI, "vector_stores/*/search", "POST"),
    row("vector_stores.files", OPENAI, "vector_stores/*/files", "GET, POST"),
    row("vector_stores.file", OPENAI, "vector_stores/*/files/*", "GET, POST, DELETE"),
    row("vector_stores.content", OPENAI, "vector_stores/*/files/*/content", "GET"),
    row("vector_stores.batches", OPENAI, "vector_stores/*/file_batches", "POST"),
    row("vector_stores.batch", OPENAI, "vector_stores/*/file_batches/*", "GET"),
    row("vector_stores.batch_cancel", OPENAI, "vector_stores/*/file_batches/*/cancel", "POST"),
    row("vector_stores.batch_files", OPENAI, "vector_stores/*/file_batches/*/files", "GET"),
    unseen("realtime.client_secrets", OPENAI, "realtime/client_secrets", "POST"),
    unseen("realtime.others", OPENAI, "realtime/**", "POST"),
    Resource { allow: "GET, POST", ..named(LISTED, row("videos.list", OPENAI, "videos", "GET")) },
    named(MODEL, row("videos.stored", OPENAI, "videos/*", "GET, DELETE")),
    named(MODEL, unseen("videos.others", OPENAI, "videos/**", ALL)),
    unseen("audio.voices", OPENAI, "audio/voices/**", ALL),
    unseen("audio.voice_consents", OPENAI, "audio/voice_consents/**", ALL),
    unseen("evals", OPENAI, "evals/**", ALL),
    unseen("containers", OPENAI, "containers/**", ALL),
    unseen("skills", OPENAI, "skills/**", ALL),
    unseen("assistants", OPENAI, "assistants/**", ALL),
    unseen("threads", OPENAI, "threads/**", ALL),
    unseen("chatkit", OPENAI, "chatkit/**", ALL),
    // https://docs.anthropic.com/en/api
    Resource {
        models: true,
        ..linked(unseen("messages.batches", ANTHROPIC, "messages/batches", "GET, POST"))
    },
    linked(row("messages.batch", ANTHROPIC, "messages/batches/*", "GET, DELETE")),
    linked(row("messages.batch_cancel", ANTHROPIC, "messages/batches/*/cancel", "POST")),
    named(RESULT, row("messages.batch_results", ANTHROPIC, "messages/batches/*/results", "GET")),
    file("anthropic.files", ANTHROPIC, "files", "GET, POST"),
    file("anthropic.file", ANTHROPIC, "files/*", "GET, DELETE"),
    file("anthropic.file_content", ANTHROPIC, "files/*/content", "GET"),
    unseen("anthropic.skills", ANTHROPIC, "skills/**", ALL),
    // https://ai.google.dev/api
    file("gemini.files", GEMINI, "files", "GET, POST"),
    file("gemini.file", GEMINI, "files/*", "GET, DELETE"),
    Resource {
        allow: "GET, POST",
        ..named(CACHES, row("gemini.cached_contents", GEMINI, "cachedContents", "GET"))
    },
    named(MODEL, row("gemini.cached_content", GEMINI, "cachedContents/*", "GET, PATCH, DELETE")),
    unseen("gemini.tuned_models", GEMINI, "tunedModels", "GET, POST"),
    // A verb may stand behind the id: `tunedModels/a:cancel`.
    unseen("gemini.tuned_model", GEMINI, "tunedModels/*", "GET, POST, PATCH, DELETE"),
    named(BATCHES, row("gemini.batches", GEMINI, "batches", "GET")),
    named(BATCH, row("gemini.batch", GEMINI, "batches/*", "GET, POST, PATCH, DELETE")),
    file("gemini.file_search_stores", GEMINI, "fileSearchStores/**", ALL),
    unseen("gemini.interactions", GEMINI, "interactions/**", ALL),
    unseen("gemini.auth_tokens", GEMINI, "auth_tokens", "POST"),
    row("gemini.operation", GEMINI, "operations/*", "GET"),
    row("gemini.model_operation", GEMINI, "models/*/operations/*", "GET"),
];

/// What a provider with `passthrough` is asked for as it stands.
pub static PASSTHROUGH: Resource = row("passthrough", OPENAI, "", "");

/// Whether a call of this resource may have answers made of which nobody learns here what they
/// cost.
pub fn is_unmetered(resource: &Resource, method: &str) -> bool {
    method == "POST" && (resource.unseen || std::ptr::eq(resource, &PASSTHROUGH))
}

/// A call that names no model.
#[derive(Debug)]
pub struct Call<'t> {
    /// The provider that the path names; `None` in aggregated mode.
    pub scope: Option<Cow<'t, str>>,
    /// The row of the table.
    pub resource: &'static Resource,
    /// The version as sent, else the family's usual one.
    pub version: &'static str,
    /// `upload/` stood in front of the version: Google's way to send the bytes of a file.
    pub is_upload: bool,
    /// The path below the version, as sent, without slashes at its ends or doubled ones. Bytes that
    /// no path may hold are percent-encoded.
    pub tail: String,
    /// The query, less what was meant for us.
    pub query: Query<'t>,
}

/// Finds the resource of a target. `family` is the caller's: two vendors keep files at one address.
pub fn parse<'t>(
    method: &str,
    target: &'t str,
    family: Family,
    is_provider: &dyn Fn(&str) -> bool,
) -> Result<Call<'t>, PathError> {
    let (path, query) = path::split(target);
    path::check(path)?;
    let (scope, below) = scope_of(path, is_provider)?;
    let (is_upload, below) = match path::segment(below) {
        Some(("upload", rest)) => (true, rest),
        _ => (false, below),
    };
    let (version, below) = path::skip_versions(below)?;
    let below = path::skip_project(below)?;
    let tail = joined(below);
    let resource = find(method, &tail, family, is_upload)?.ok_or(PathError::NotFound)?;
    if !resource.takes(method) && resource.allow.is_empty() {
        return Err(PathError::NotFound);
    }
    if !resource.takes(method) {
        return Err(PathError::MethodNotAllowed(resource.allow));
    }
    let version = version.unwrap_or(path::usual_version(resource.endpoint.dialect.family()));
    Ok(Call { scope, resource, version, is_upload, tail, query: Query::parse(query) })
}

/// Everything below a provider's scope, whatever it is; `None` outside of one. The tail holds the
/// version too.
pub fn raw<'t>(target: &'t str, is_provider: &dyn Fn(&str) -> bool) -> Option<Call<'t>> {
    let (path, query) = path::split(target);
    path::check(path).ok()?;
    let (scope, below) = scope_of(path, is_provider).ok()?;
    Some(Call {
        scope: Some(scope?),
        resource: &PASSTHROUGH,
        version: "",
        is_upload: false,
        tail: plain(below.trim_start_matches('/')),
        query: Query::parse(query),
    })
}

/// The provider that a path begins with, and the rest.
pub(super) fn scope_of<'t>(
    path: &'t str,
    is_provider: &dyn Fn(&str) -> bool,
) -> Result<(Option<Cow<'t, str>>, &'t str), PathError> {
    let (first, below) = path::segment(path).ok_or(PathError::NotFound)?;
    let first = path::decode(first)?;
    let is_scope = !path::RESERVED.contains(&&*first) && is_provider(&first);
    Ok(if is_scope { (Some(first), below) } else { (None, path) })
}

/// The segments of a path with one slash between them.
fn joined(path: &str) -> String {
    let mut tail = String::with_capacity(path.len());
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        if !tail.is_empty() {
            tail.push('/');
        }
        tail.push_str(segment);
    }
    plain(&tail)
}

/// Encodes what a caller may leave as it is and some readers of URLs refuse.
fn plain(tail: &str) -> String {
    tail.replace('<', "%3C").replace('>', "%3E").replace('`', "%60")
}

/// The row that fits best: of the caller's family, and with the method.
fn find(
    method: &str,
    tail: &str,
    family: Family,
    is_upload: bool,
) -> Result<Option<&'static Resource>, PathError> {
    let mut best: Option<((bool, bool), &Resource)> = None;
    for resource in RESOURCES {
        let Endpoint { dialect, tail: pattern, .. } = resource.endpoint;
        // Only Google sends the bytes of its files to another address.
        let fits = !is_upload || (dialect == GEMINI && resource.is_file);
        if !fits || !matches(tail, pattern)? {
            continue;
        }
        let rank = (is_upload || dialect.family() == family, resource.takes(method));
        if best.is_none_or(|(other, _)| rank > other) {
            best = Some((rank, resource));
        }
    }
    Ok(best.map(|(_, resource)| resource))
}

/// Whether a path is one of the pattern. What stands in the place of an id holds no slash.
fn matches(tail: &str, pattern: &str) -> Result<bool, PathError> {
    let (pattern, is_open) = match pattern.strip_suffix("/**") {
        Some(pattern) => (pattern, true),
        None => (pattern, false),
    };
    let (mut segments, mut parts) = (tail.split('/'), pattern.split('/'));
    loop {
        match (segments.next(), parts.next()) {
            (None, None) => return Ok(true),
            (Some(segment), part) if part == Some("*") || is_open && part.is_none() => {
                if path::decode(segment)?.contains('/') {
                    return Err(PathError::EncodedSlash);
                }
            }
            (Some(segment), Some(part)) if path::decode(segment)? == part => {}
            _ => return Ok(false),
        }
    }
}
