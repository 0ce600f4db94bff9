//! Laws of what upstreams say besides their answers: why they refuse, for how long, and which
//! models they have; for any bytes.

use super::prng::Prng;
use crate::dialect::Family;
use crate::dialect::listed::{Form, Listed, Page};
use crate::dialect::models::{self, Entry};
use crate::dialect::path;
use crate::dialect::ratelimit::{self, Standing, Window};
use crate::dialect::trouble::{self, Trouble};
use crate::limits::{
    COOLDOWN_MS_MAX, COOLDOWN_MS_MIN, LIST_CURSOR_BYTES_MAX, LIST_MODELS_MAX, MODEL_BYTES_MAX,
    MODEL_TOKENS_MAX,
};
use crate::route::health::{Health, Why, lesson_of};
use serde_json::{Value, json};
use std::borrow::Cow;

/// Within 2023.
const NOW_MS: i64 = 1_700_000_000_000;
/// No wait is longer, whatever is said.
const WAIT_MS_MAX: i64 = 9_000_000_000_000_000;
const MODEL: &str = "gpt-4o";

/// What a refusal says is read without a panic, and no upstream rests longer for it than the
/// ceiling. The first byte chooses: lines of headers, an empty one and a body; or our own limits,
/// which are read as we write them.
pub fn trouble(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else { return };
    match choice & 1 {
        0 => refusal(data),
        _ => standing(if choice & 2 == 0 { Family::Openai } else { Family::Anthropic }, data),
    }
}

fn refusal(data: &[u8]) {
    let border = memchr::memmem::find(data, b"\n\n");
    let (head, body) = border.map_or((data, &b""[..]), |at| (&data[..at], &data[at + 2..]));
    let fields: Vec<(&str, &[u8])> = head.split(|byte| *byte == b'\n').filter_map(field).collect();
    let read = |body: &[u8]| trouble::read(fields.iter().copied(), body, MODEL, NOW_MS);
    let found = read(body);
    for wait in [found.asked_ms, found.window_ms].into_iter().flatten() {
        assert!((0..=WAIT_MS_MAX).contains(&wait), "{wait}");
    }
    if let Some(said) = trouble::said(body) {
        assert!((1..=1_000).contains(&said.len()));
    }
    if let Some(expected) = asked_plainly(&fields) {
        assert_eq!(found.asked_ms, Some(expected));
    }
    rests(found);

    // What stands elsewhere may be the caller's own words.
    let Ok(mut value) = serde_json::from_slice::<Value>(body) else { return };
    let plain = read(value.to_string().as_bytes());
    if value.is_object() {
        value["prompt"] = json!({"message": "my account is flagged: insufficient_quota"});
        assert_eq!(read(value.to_string().as_bytes()), plain);
    }
}

/// A header's lower-case name and its value.
fn field(line: &[u8]) -> Option<(&str, &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let name = std::str::from_utf8(&line[..colon]).ok()?;
    let is_lower = !name.bytes().any(|byte| byte.is_ascii_uppercase());
    Some((name, &line[colon + 1..])).filter(|_| is_lower)
}

/// For how long the headers ask to be left alone, where all who say so write plain numbers.
fn asked_plainly(fields: &[(&str, &[u8])]) -> Option<i64> {
    let of = |wanted: &str| {
        let all = fields.iter().filter(move |(name, _)| *name == wanted);
        all.map(|(_, value)| {
            let text = std::str::from_utf8(value).ok()?.trim();
            let is_plain = text.len() <= 9 && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<i64>().ok().filter(|_| is_plain)
        })
        .collect::<Option<Vec<i64>>>()
    };
    let (finer, usual) = (of("retry-after-ms")?, of("retry-after")?);
    finer.last().copied().or_else(|| usual.first().map(|seconds| seconds * 1_000))
}

/// Whatever the status, a credential rests within the ceiling, or until somebody lets it back.
fn rests(found: Trouble) {
    for status in [200, 400, 401, 402, 403, 404, 408, 429, 500, 503, 529, 599, 999] {
        let mut health = Health::default();
        health.learn(MODEL, lesson_of(status, found), NOW_MS, NOW_MS);
        for circuit in health.circuits().iter().filter(|circuit| circuit.why != Why::Denied) {
            let rest_ms = circuit.until_ms - NOW_MS;
            assert!((COOLDOWN_MS_MIN..=COOLDOWN_MS_MAX).contains(&rest_ms), "{status}: {rest_ms}");
        }
        assert!(status >= 400 || health.is_sound());
    }
}

/// How a caller stands under our limits, as a client reads it: our own reader is one.
fn standing(family: Family, data: &[u8]) {
    let mut words = data
        .chunks(8)
        .map(|word| word.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)));
    let mut next = || words.next().unwrap_or_default();
    let mut window = || Window {
        limit: next(),
        remaining: next(),
        reset_ms: Some(next() as i64).filter(|reset| *reset >= 0),
    };
    let standing = Standing { requests: Some(window()), tokens: Some(window()) };
    let mut out = Vec::new();
    ratelimit::write(&standing, family, NOW_MS, &mut out);
    let text = String::from_utf8(out).expect("headers are text");
    let fields: Vec<(&str, &[u8])> =
        text.lines().filter_map(|line| field(line.as_bytes())).collect();
    assert_eq!(fields.len(), text.lines().count());
    assert!(fields.iter().all(|(name, _)| ratelimit::is_one(name)));

    let windows = [standing.requests, standing.tokens];
    let windows = || windows.into_iter().flatten();
    // Beyond it, a year has more than four digits.
    if windows().any(|window| window.reset_ms.is_some_and(|reset| reset > 200_000_000_000_000)) {
        return;
    }
    let read = |window: Window| {
        let whole = |ms: i64| (ms + 999) / 1_000 * 1_000;
        window.reset_ms.map(|reset| match family {
            Family::Anthropic => whole(NOW_MS + reset) - NOW_MS,
            _ if reset < 1_000 => reset,
            _ => whole(reset),
        })
    };
    let spent = windows().filter(|window| window.remaining == 0).filter_map(read).max();
    let expected = spent.or_else(|| windows().filter_map(read).min());
    assert_eq!(trouble::read(fields.into_iter(), b"", MODEL, NOW_MS).window_ms, expected);
}

const FORMS: [Form; 4] = [Form::Openai, Form::Anthropic, Form::Gemini, Form::Vertex];

/// A list holds models that can be called, as many as a tree has; and from our own list of them,
/// page by page, an upstream's reader reads the same. The first byte chooses the shape.
pub fn listed(data: &[u8]) {
    let Some((&choice, body)) = data.split_first() else { return };
    let form = FORMS[usize::from(choice) % FORMS.len()];
    if let Some(page) = form.read(body) {
        sound(form, &page);
        of_ours(form, &page.models);
    }
    // Spelt anew, no member stands there twice.
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return };
    let page = form.read(value.to_string().as_bytes());
    let expected = ids(form, &value);
    assert_eq!(page.is_some(), expected.is_some());
    if let (Some(page), Some(expected)) = (page, expected) {
        assert!(page.models.iter().map(|model| &*model.id).eq(expected), "{value}");
    }
}

fn sound(form: Form, page: &Page) {
    assert!(page.models.len() <= LIST_MODELS_MAX);
    for model in &page.models {
        assert!((1..=MODEL_BYTES_MAX).contains(&model.id.len()));
        let name = model.display_name.as_deref().unwrap_or("-");
        assert!((1..=MODEL_BYTES_MAX).contains(&name.len()));
        assert!(!model.id.chars().chain(name.chars()).any(char::is_control));
        for tokens in [model.max_input_tokens, model.max_output_tokens].into_iter().flatten() {
            assert!((1..=MODEL_TOKENS_MAX).contains(&tokens));
        }
    }
    let Some(next) = &page.next else { return };
    assert!((1..=LIST_CURSOR_BYTES_MAX).contains(&next.len()) && form != Form::Openai);
    let query = form.query(Some(next));
    assert!(query.bytes().all(|byte| byte.is_ascii_graphic() && !b"#\"<>".contains(&byte)));
    assert_eq!(query.matches('&').count(), 1, "it leaves its place in no query");
}

/// The names that a tree has, in order; `None`: it is no list.
fn ids(form: Form, value: &Value) -> Option<Vec<&str>> {
    let (list, id) = match form {
        Form::Openai | Form::Anthropic => ("data", "id"),
        Form::Gemini => ("models", "name"),
        Form::Vertex => ("publisherModels", "name"),
    };
    let models = value.get(list)?.as_array()?;
    let names = models.iter().filter_map(|model| model.get(id)?.as_str()).map(|name| {
        let front = ["publishers/google/models/", "models/"];
        front.into_iter().find_map(|front| name.strip_prefix(front)).unwrap_or(name)
    });
    let can_be_called = |name: &&str| {
        let is_plain = name.trim() == *name && !name.chars().any(char::is_control);
        is_plain
            && (1..=MODEL_BYTES_MAX).contains(&name.len())
            && !name.split('/').any(str::is_empty)
            && !name.split(['/', '\\']).any(|part| part == "." || part == "..")
    };
    Some(names.filter(can_be_called).take(LIST_MODELS_MAX).collect())
}

fn of_ours(form: Form, models: &[Listed]) {
    let is_plain = |form: &Form| matches!(form, Form::Openai | Form::Anthropic);
    let mut seen = std::collections::HashSet::new();
    let mut models: Vec<&Listed> = models.iter().filter(|one| seen.insert(&*one.id)).collect();
    // With its collection in front a name is read as one of Google's.
    models.retain(|model| !is_plain(&form) || !model.id.contains("models/"));
    let entries: Vec<Entry<'_>> = models
        .iter()
        .map(|model| Entry {
            id: Cow::Borrowed(&*model.id),
            owner: "us",
            display_name: model.display_name.as_deref(),
            max_input_tokens: model.max_input_tokens,
            max_output_tokens: model.max_output_tokens,
        })
        .collect();
    let (place, size) = match form {
        Form::Openai => ("/v1/models", ""),
        Form::Anthropic => ("/v1/models", "limit"),
        Form::Gemini => ("/v1beta/models", "pageSize"),
        Form::Vertex => ("/v1beta1/publishers/google/models", "pageSize"),
    };
    let few = (1 + Prng::new(entries.len() as u64).below(4)).to_string();
    let (mut read, mut next) = (Vec::new(), None);
    loop {
        let query = path::with_parameter(&form.query(next.as_deref()), size, &few);
        let target = format!("{place}?{query}");
        let listing = models::parse("GET", &target, form.family(), &|_| false);
        let listing = listing.expect("it asks for a list").expect("its path is sound");
        let page = listing.page(&entries).expect("it asks for a page that there is");
        let page = form.read(&page).expect("our list is one");
        read.extend(page.models);
        assert!(read.len() <= entries.len(), "a page came twice");
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    assert_eq!(read.len(), models.len());
    for (read, model) in read.iter().zip(models) {
        assert_eq!(read.id, model.id);
        if matches!(form, Form::Anthropic | Form::Gemini) {
            assert_eq!(read.display_name.as_ref().unwrap_or(&read.id), name_of(model));
            assert_eq!(read.max_input_tokens, model.max_input_tokens);
            assert_eq!(read.max_output_tokens, model.max_output_tokens);
        }
    }
}

fn name_of(model: &Listed) -> &String {
    model.display_name.as_ref().unwrap_or(&model.id)
}

#[cfg(test)]
mod tests {
    use crate::testing::mutate;

    #[test]
    fn laws_of_refusals_hold_for_damaged_ones() {
        let samples: [&[u8]; 5] = [
            b"\0retry-after: 7\nx-ratelimit-reset-tokens: 6m0s\nx-ratelimit-remaining-tokens: 0\n\n\
              {\"error\":{\"message\":\"Rate limit reached for gpt-4o\",\"code\":\"x\"}}",
            b"\0anthropic-ratelimit-tokens-reset: 2023-11-25T09:00:00Z\n\n\
              {\"type\":\"error\",\"error\":{\"type\":\"x\",\"message\":\"credit balance\"}}",
            b"\0retry-after: Wed, 21 Oct 2025 07:28:00 GMT\n\n[{\"error\":{\"status\":\"X\",\
              \"details\":[{\"reason\":\"BILLING_DISABLED\"},{\"retryDelay\":\"34.5s\"}]}}]",
            b"\x01\0\0\0\0\0\0\0\x3C\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xEA\x60",
            b"\x03\0\0\0\0\0\0\0\x3C\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x7F\0\0\0\0\0\0\0\x3C",
        ];
        let spices: [&[u8]; 16] = [
            b"retry-after: ",
            b"retry-after-ms: 250\n",
            b"x-ratelimit-reset: 1700000009\n",
            b"anthropic-ratelimit-unified-status: rejected\n",
            b"\n",
            b"99999999999999999999",
            b"-1",
            b"1e308",
            b"1h2m3.5s",
            b"Fri, 31 Dec 9999 23:59:60 GMT",
            b"9999-12-31T23:59:60Z",
            b"\"error\":",
            b"\"message\":\"flagged\",",
            b"\"retryDelay\":\"999999999999999999d\",",
            b"gpt-4o",
            b"\xEF\xBB\xBF",
        ];
        mutate::run(&samples, &spices, 2_000, super::trouble);
    }

    #[test]
    fn laws_of_lists_hold_for_damaged_ones() {
        let samples: [&[u8]; 4] = [
            b"\0{\"object\":\"list\",\"data\":[{\"id\":\"a\",\"name\":\"A\",\"context_length\":9},\
              {\"id\":\"b/c:free\"},{\"id\":\"models/d\"}]}",
            b"\x01{\"data\":[{\"id\":\"a\",\"display_name\":\"A\",\"max_input_tokens\":9},\
              {\"id\":\"b\",\"max_tokens\":7},{\"id\":\"c\"}],\"has_more\":true,\"last_id\":\"c\"}",
            b"\x02{\"models\":[{\"name\":\"models/a\",\"displayName\":\"A\",\
              \"inputTokenLimit\":1},{\"name\":\"models/b\"}],\"nextPageToken\":\"t&1\"}",
            b"\x03{\"publisherModels\":[{\"name\":\"publishers/google/models/a\"},\
              {\"name\":\"publishers/google/models/b\"}]}",
        ];
        let spices: [&[u8]; 16] = [
            b"{\"id\":\"x\"},",
            b"{\"name\":\"models/x\"},",
            b"publishers/google/models/",
            b"models/",
            b"\"data\":[",
            b"..",
            b"/",
            b"\\\\",
            b"%2F",
            b"\\u0000",
            b"\\u0065",
            b" ",
            b"\xC3\xA9",
            b"1e5",
            b"\"last_id\":\"a\",",
            b"\xEF\xBB\xBF",
        ];
        mutate::run(&samples, &spices, 2_000, super::listed);
    }
}
