//! Lists of models, in the shape that the caller's clients page through.
//!
//! Which models there are is not known here: a list is made of entries that somebody else chose.
//! What the entries lack is left out, except where a family's clients insist on a field.

#[cfg(test)]
mod tests;

use super::Family;
use super::path::{self, PathError};
use crate::wire::json::escape;
use std::borrow::Cow;

/// Clients insist on a date. No provider's is known here, so every model says this one: the first
/// second of 2025.
const CREATED_S: u32 = 1_735_689_600;
const CREATED_AT: &str = "2025-01-01T00:00:00Z";

/// A request for the list of models, or for one of them.
#[derive(Debug)]
pub struct Listing<'t> {
    /// The provider that the path names; `None` in aggregated mode.
    pub scope: Option<Cow<'t, str>>,
    /// The one model that is asked for.
    pub id: Option<Cow<'t, str>>,
    /// Whose shape the answer has.
    pub family: Family,
    /// Vertex's name for the collection.
    is_publisher: bool,
    query: &'t str,
}

/// One model of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'s> {
    /// The name to call it by.
    pub id: Cow<'s, str>,
    /// Whose it is.
    pub owner: &'s str,
    /// Name for people; the id where there is none.
    pub display_name: Option<&'s str>,
    /// The longest prompt, in tokens.
    pub max_input_tokens: Option<u64>,
    /// The longest answer, in tokens.
    pub max_output_tokens: Option<u64>,
}

/// Why a page of a list cannot be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListError {
    /// The page's size is no number in the range.
    PageSize,
    /// `after_id`, `before_id` or `pageToken` names no model of the list.
    Cursor,
    /// Both `after_id` and `before_id`.
    TwoCursors,
}

/// Reads the target of a `GET` or `HEAD`; `None`: it asks for no list of models.
pub fn parse<'t>(
    method: &str,
    target: &'t str,
    family: Family,
    is_provider: &dyn Fn(&str) -> bool,
) -> Option<Result<Listing<'t>, PathError>> {
    if !matches!(method, "GET" | "HEAD") {
        return None;
    }
    place(target, family, is_provider).transpose()
}

fn place<'t>(
    target: &'t str,
    family: Family,
    is_provider: &dyn Fn(&str) -> bool,
) -> Result<Option<Listing<'t>>, PathError> {
    let (path, query) = path::split(target);
    let Some((first, below)) = path::segment(path) else { return Ok(None) };
    // What no path may have is judged once it is clear that the path is ours.
    let Ok(first) = path::decode(first) else { return Ok(None) };
    let scoped = !path::RESERVED.contains(&&*first) && is_provider(&first);
    let (_, rest) = path::skip_versions(if scoped { below } else { path })?;
    let rest = path::skip_project(rest)?;
    let Some((collection, id)) = path::segment(rest) else { return Ok(None) };
    let is_publisher = collection == "publishers";
    let (publisher, id) = match collection {
        "models" => (None, id),
        "publishers" => match path::split_publisher(id) {
            Ok(found) => found,
            // Vertex has the bare collection too: `publishers/google/models`.
            Err(PathError::NotFound) if is_collection(id) => (None, ""),
            Err(error) => return Err(error),
        },
        _ => return Ok(None),
    };
    path::check(path)?;
    let id = path::decode_id(id)?;
    if family == Family::Gemini && is_operation(&id) {
        return Ok(None);
    }
    let id = match publisher {
        Some(publisher) => Cow::Owned(format!("{publisher}/{id}")),
        None => id,
    };
    let id = Some(path::normal_id(id)).filter(|id| !id.is_empty());
    if let Some(id) = &id {
        path::check_model(id)?;
    }
    let scope = scoped.then_some(first);
    Ok(Some(Listing { scope, id, family, is_publisher, query }))
}

/// What Google calls a long call of a model's: `{model}/operations/{id}`.
fn is_operation(id: &str) -> bool {
    id.rsplit('/').nth(1) == Some("operations")
}

/// `{publisher}/models`, and nothing behind it.
fn is_collection(path: &str) -> bool {
    let below = path::segment(path).and_then(|(_, below)| path::segment(below));
    below.is_some_and(|(models, rest)| models == "models" && path::segment(rest).is_none())
}

impl Listing<'_> {
    /// The answer for one model.
    pub fn one(&self, entry: &Entry<'_>) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        self.write(entry, &mut out);
        out
    }

    /// The answer for the list: the page of it that the query asks for.
    pub fn page(&self, entries: &[Entry<'_>]) -> Result<Vec<u8>, ListError> {
        let mut out = Vec::with_capacity(64 + 160 * entries.len());
        match self.family {
            // Its clients read one page.
            Family::Openai => {
                out.extend_from_slice(b"{\"object\":\"list\",\"data\":[");
                self.write_all(entries, &mut out);
                out.extend_from_slice(b"]}");
            }
            Family::Anthropic => self.anthropic_page(entries, &mut out)?,
            Family::Gemini => self.gemini_page(entries, &mut out)?,
        }
        Ok(out)
    }

    fn anthropic_page(&self, entries: &[Entry<'_>], out: &mut Vec<u8>) -> Result<(), ListError> {
        let size = self.size("limit", 20)?;
        let cursors = (self.cursor(entries, "after_id")?, self.cursor(entries, "before_id")?);
        let (start, end) = match cursors {
            (Some(_), Some(_)) => return Err(ListError::TwoCursors),
            (Some(after), None) => (after + 1, (after + 1 + size).min(entries.len())),
            (None, Some(before)) => (before.saturating_sub(size), before),
            (None, None) => (0, size.min(entries.len())),
        };
        let has_more = if cursors.1.is_some() { start > 0 } else { end < entries.len() };
        let page = &entries[start..end];
        out.extend_from_slice(b"{\"data\":[");
        self.write_all(page, out);
        let has_more = if has_more { "true" } else { "false" };
        out.extend_from_slice(format!("],\"has_more\":{has_more},\"first_id\":").as_bytes());
        write_id(page.first(), out);
        out.extend_from_slice(b",\"last_id\":");
        write_id(page.last(), out);
        out.push(b'}');
        Ok(())
    }

    fn gemini_page(&self, entries: &[Entry<'_>], out: &mut Vec<u8>) -> Result<(), ListError> {
        let size = self.size("pageSize", 50)?;
        let start = self.cursor(entries, "pageToken")?.map_or(0, |last| last + 1);
        let end = (start + size).min(entries.len());
        let name = if self.is_publisher { "publisherModels" } else { "models" };
        out.extend_from_slice(format!("{{\"{name}\":[").as_bytes());
        self.write_all(&entries[start..end], out);
        out.push(b']');
        if end < entries.len() && end > start {
            out.extend_from_slice(b",\"nextPageToken\":");
            write_id(entries.get(end - 1), out);
        }
        out.push(b'}');
        Ok(())
    }

    fn size(&self, name: &str, default: usize) -> Result<usize, ListError> {
        let Some(value) = path::parameter(self.query, name) else { return Ok(default) };
        // 0 is what Google's clients send for "your default".
        match value.parse() {
            Ok(0) if self.family == Family::Gemini => Ok(default),
            Ok(size @ 1..=1_000) => Ok(size),
            _ => Err(ListError::PageSize),
        }
    }

    /// Where the entry stands that the parameter names.
    fn cursor(&self, entries: &[Entry<'_>], name: &str) -> Result<Option<usize>, ListError> {
        let value = path::parameter(self.query, name).filter(|value| !value.is_empty());
        let Some(value) = value else { return Ok(None) };
        let at = entries.iter().position(|entry| entry.id == value).ok_or(ListError::Cursor)?;
        Ok(Some(at))
    }

    fn write_all(&self, entries: &[Entry<'_>], out: &mut Vec<u8>) {
        for (at, entry) in entries.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            self.write(entry, out);
        }
    }

    fn write(&self, entry: &Entry<'_>, out: &mut Vec<u8>) {
        match self.family {
            Family::Openai => {
                out.extend_from_slice(b"{\"id\":");
                escape(&entry.id, out);
                let rest = format!(",\"object\":\"model\",\"created\":{CREATED_S},\"owned_by\":");
                out.extend_from_slice(rest.as_bytes());
                escape(entry.owner, out);
            }
            Family::Anthropic => {
                out.extend_from_slice(b"{\"type\":\"model\",\"id\":");
                escape(&entry.id, out);
                out.extend_from_slice(b",\"display_name\":");
                escape(entry.display_name.unwrap_or(&entry.id), out);
                out.extend_from_slice(format!(",\"created_at\":\"{CREATED_AT}\"").as_bytes());
                write_number("max_input_tokens", entry.max_input_tokens, out);
                write_number("max_tokens", entry.max_output_tokens, out);
            }
            Family::Gemini => {
                let front = if self.is_publisher { "publishers/google/models" } else { "models" };
                out.extend_from_slice(b"{\"name\":");
                escape(&format!("{front}/{}", entry.id), out);
                out.extend_from_slice(b",\"version\":\"\",\"displayName\":");
                escape(entry.display_name.unwrap_or(&entry.id), out);
                write_number("inputTokenLimit", entry.max_input_tokens, out);
                write_number("outputTokenLimit", entry.max_output_tokens, out);
                out.extend_from_slice(
                    b",\"supportedGenerationMethods\":[\"generateContent\",\"countTokens\"]",
                );
            }
        }
        out.push(b'}');
    }
}

fn write_id(entry: Option<&Entry<'_>>, out: &mut Vec<u8>) {
    match entry {
        Some(entry) => escape(&entry.id, out),
        None => out.extend_from_slice(b"null"),
    }
}

fn write_number(name: &str, value: Option<u64>, out: &mut Vec<u8>) {
    if let Some(value) = value {
        out.extend_from_slice(format!(",\"{name}\":{value}").as_bytes());
    }
}
