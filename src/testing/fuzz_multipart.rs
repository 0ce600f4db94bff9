//! Laws of forms: what the scanner accepts, every reader that an upstream may have takes alike.

use super::fuzz_http::prng;
use super::prng::Prng;
use super::splits;
use crate::wire::multipart::{self, FormError, Scanner};
use std::ops::Range;

/// The name that is put in the place of the one in the form.
const NAME: &str = "neu/\u{e9}";

type Found = Result<Option<Range<usize>>, FormError>;

/// Where the model stands in a form that arrives in these pieces.
fn scanned(boundary: &[u8], pieces: &[&[u8]]) -> Found {
    let mut scanner = Scanner::new(boundary);
    pieces.iter().try_for_each(|piece| scanner.feed(piece))?;
    scanner.finish()?;
    Ok(scanner.model().map(|range| range.start as usize..range.end as usize))
}

/// The first line is the content type, the rest the form. What is found depends on no cut, all
/// lenient readers find it too and nothing else, and it can be exchanged.
pub fn form(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (content_type, body) = (&data[..end], &data[(end + 1).min(data.len())..]);
    let Ok(boundary) = multipart::boundary([content_type].into_iter()) else { return };
    for found in lenient_boundaries(content_type) {
        assert_eq!(found, boundary, "another boundary could be read");
    }
    let whole = scanned(boundary, &[body]);
    assert_eq!(whole, scanned(boundary, &splits::bytewise(body)));
    let mut prng = prng(data);
    assert_eq!(whole, scanned(boundary, &splits::at_random(body, &mut prng)));
    sound(boundary, body, &mut prng);
    let Ok(model) = whole else { return };
    check(boundary, body, model.as_ref());
    let Some(model) = model else { return };
    let mut scanner = Scanner::new(boundary);
    assert_eq!(scanner.feed(body), Ok(()));
    match scanner.renamed(NAME) {
        Ok(Some((place, text))) => {
            exchanged(boundary, body, &model, place.start as usize..place.end as usize, &text);
        }
        refused => assert_eq!(refused, Err(FormError::ModelField), "only what must be ASCII"),
    }
}

/// With another model the form is the same, but for that name and the length that it gives itself.
fn exchanged(boundary: &[u8], body: &[u8], model: &Range<usize>, place: Range<usize>, text: &[u8]) {
    let mut renamed = body.to_vec();
    renamed.splice(place.clone(), text.iter().copied());
    let end = place.start + text.len();
    let name = end - NAME.len()..end;
    assert_eq!(&renamed[name.clone()], NAME.as_bytes());
    assert_eq!(scanned(boundary, &[&renamed]), Ok(Some(name.clone())));
    assert_eq!(
        (&renamed[..place.start], &renamed[end..]),
        (&body[..place.start], &body[model.end..])
    );
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (before, after) = (&body[place.start..model.start], &renamed[place.start..name.start]);
    assert_eq!(before[digits(before)..], after[digits(after)..]);
    check(boundary, &renamed, Some(&name));
}

/// Every reader finds the model at this place, and no other one.
fn check(boundary: &[u8], body: &[u8], model: Option<&Range<usize>>) {
    let dashed = [b"--", boundary].concat();
    for parts in [Parts::Anywhere, Parts::Lines, Parts::Strict] {
        let parts = split(parts, &dashed, body);
        for read in READERS {
            let named = parts.iter().filter(|part| {
                let name = read(&body[part.head.clone()]);
                name.is_some_and(|name| plain(&name) == b"model")
            });
            let found: Vec<_> = named.map(|part| part.data.clone()).collect();
            assert_eq!(found, model.cloned().into_iter().collect::<Vec<_>>());
        }
    }
}

/// As far as somebody may simplify a name.
fn plain(name: &[u8]) -> Vec<u8> {
    let name = name.split(|byte| matches!(byte, b'[' | b'\0')).next().unwrap_or_default();
    let mut name = name.trim_ascii().to_ascii_lowercase();
    name.retain(|byte| !matches!(byte, b'\\' | b'\'' | b'"'));
    name
}

#[derive(Clone, Copy)]
enum Parts {
    /// A boundary counts wherever it stands.
    Anywhere,
    /// A line may end with LF or CR alone.
    Lines,
    /// RFC 2046.
    Strict,
}

struct Part {
    head: Range<usize>,
    data: Range<usize>,
}

/// Splits a whole form; what has no end ends with the form.
fn split(parts: Parts, dashed: &[u8], body: &[u8]) -> Vec<Part> {
    let is_line_end = |byte: Option<&u8>| matches!(byte, Some(b'\r' | b'\n'));
    let mut delimiters: Vec<usize> = Vec::new();
    for at in memchr::memmem::find_iter(body, dashed) {
        let before = &body[..at];
        let behind = &body[at + dashed.len()..];
        let counts = match parts {
            Parts::Anywhere => true,
            Parts::Lines => at == 0 || is_line_end(before.last()),
            Parts::Strict => {
                (at == 0 || before.ends_with(b"\r\n"))
                    && (behind.starts_with(b"--") || behind.trim_ascii_start() != behind)
            }
        };
        if counts {
            delimiters.push(at);
        }
    }
    let mut found = Vec::new();
    for (index, at) in delimiters.iter().enumerate() {
        let start = at + dashed.len();
        if body[start..].starts_with(b"--") {
            // Some read on, but nothing may follow that they could take for a part.
            continue;
        }
        let next = delimiters.get(index + 1).copied().unwrap_or(body.len());
        let piece = &body[start..next];
        let empty_line = |line: &[u8]| memchr::memmem::find(piece, line).map(|at| at + line.len());
        let head = match parts {
            Parts::Strict => empty_line(b"\r\n\r\n"),
            _ => [&b"\r\n\r\n"[..], b"\n\n", b"\r\r", b"\n\r\n"]
                .into_iter()
                .filter_map(empty_line)
                .min(),
        };
        let Some(head) = head else { continue };
        let is_closed = piece[head..].ends_with(b"\r\n");
        let end = if is_closed { next - 2 } else { next };
        found.push(Part { head: start..start + head, data: start + head..end.max(start + head) });
    }
    found
}

/// The lines of a head whose name may be this, in the eyes of one who trims.
fn values<'h>(head: &'h [u8], name: &str) -> Vec<&'h [u8]> {
    let lines = head.split(|byte| matches!(byte, b'\r' | b'\n'));
    let fields = lines.filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let is_it = line[..colon].trim_ascii().eq_ignore_ascii_case(name.as_bytes());
        is_it.then_some(&line[colon + 1..])
    });
    fields.collect()
}

/// How one reader finds the name of a part, in its head.
type Reader = fn(&[u8]) -> Option<Vec<u8>>;

const READERS: &[Reader] = &[
    |head| first(pairs(values(head, "content-disposition").first()?, Quotes::Escaped)),
    |head| last(pairs(values(head, "content-disposition").last()?, Quotes::Escaped)),
    |head| first(pairs(values(head, "content-disposition").first()?, Quotes::Literal)),
    |head| last(pairs(values(head, "content-disposition").last()?, Quotes::Literal)),
    |head| first(pairs(values(head, "content-disposition").first()?, Quotes::Counted)),
    |head| last(pairs(values(head, "content-disposition").last()?, Quotes::Counted)),
    |head| first(pairs(values(head, "content-disposition").first()?, Quotes::None)),
    |head| last(pairs(values(head, "content-disposition").last()?, Quotes::None)),
    searched,
];

fn first(pairs: Vec<(Vec<u8>, Vec<u8>)>) -> Option<Vec<u8>> {
    pairs.into_iter().find(|(name, _)| is_name(name)).map(|(_, value)| value)
}

fn last(pairs: Vec<(Vec<u8>, Vec<u8>)>) -> Option<Vec<u8>> {
    pairs.into_iter().rfind(|(name, _)| is_name(name)).map(|(_, value)| value)
}

fn is_name(name: &[u8]) -> bool {
    let stem = name.split(|byte| *byte == b'*').next().unwrap_or_default();
    stem.trim_ascii().eq_ignore_ascii_case(b"name")
}

/// Looks for `name="` behind a blank or semicolon, as a regular expression would.
fn searched(head: &[u8]) -> Option<Vec<u8>> {
    let disposition = *values(head, "content-disposition").first()?;
    let lower = disposition.to_ascii_lowercase();
    let at = (1..lower.len()).find(|at| {
        lower[*at..].starts_with(b"name=") && matches!(lower[at - 1], b' ' | b'\t' | b';')
    })?;
    let value = &disposition[at + b"name=".len()..];
    let value = match value.strip_prefix(b"\"") {
        Some(quoted) => quoted.split(|byte| *byte == b'"').next(),
        None => value.split(|byte| matches!(byte, b';' | b' ')).next(),
    };
    value.map(<[u8]>::to_vec)
}

/// What keeps a semicolon from ending a parameter.
#[derive(Clone, Copy, PartialEq)]
enum Quotes {
    /// Quotes, and a backslash in them takes the next byte.
    Escaped,
    /// Quotes; a backslash is one.
    Literal,
    /// Quotes, unless a backslash stands before them, be it escaped itself.
    Counted,
    /// Nothing.
    None,
}

fn pairs(value: &[u8], quotes: Quotes) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut pieces: Vec<Vec<u8>> = vec![Vec::new()];
    let (mut in_quotes, mut before) = (false, 0);
    for &byte in value {
        let is_escaped = before == b'\\' && in_quotes;
        match byte {
            b'"' if quotes == Quotes::Literal || !is_escaped => in_quotes = !in_quotes,
            b';' if !in_quotes || quotes == Quotes::None => pieces.push(Vec::new()),
            _ => {}
        }
        if let (true, Some(piece)) = (byte != b';' || in_quotes, pieces.last_mut()) {
            piece.push(byte);
        }
        let takes_two = quotes == Quotes::Escaped && is_escaped;
        before = if takes_two { 0 } else { byte };
    }
    let pair = |piece: Vec<u8>| {
        let equals = piece.iter().position(|byte| *byte == b'=')?;
        let value = piece[equals + 1..].trim_ascii();
        let value = value.strip_prefix(b"\"").unwrap_or(value);
        let end = match quotes {
            Quotes::Literal => value.iter().position(|byte| *byte == b'"').unwrap_or(value.len()),
            _ => value.len() - usize::from(value.ends_with(b"\"")),
        };
        Some((piece[..equals].trim_ascii().to_vec(), value[..end].to_vec()))
    };
    pieces.into_iter().filter_map(pair).collect()
}

/// The boundaries that others would read.
fn lenient_boundaries(content_type: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for quotes in [Quotes::Escaped, Quotes::Literal, Quotes::Counted, Quotes::None] {
        let pairs = pairs(content_type, quotes);
        let is_it = |name: &[u8]| name.to_ascii_lowercase().starts_with(b"boundary");
        found.extend(pairs.into_iter().filter(|(name, _)| is_it(name)).map(|(_, value)| value));
    }
    // A regular expression, and PHP.
    let lower = content_type.to_ascii_lowercase();
    let at = memchr::memmem::find(&lower, b"boundary").expect("there is one");
    let equals = content_type[at..].iter().position(|byte| *byte == b'=').expect("one") + at;
    let value = &content_type[equals + 1..];
    let value = match value.strip_prefix(b"\"") {
        Some(quoted) => quoted.split(|byte| *byte == b'"').next(),
        None => value.split(|byte| matches!(byte, b';' | b',')).next(),
    };
    found.extend(value.map(|value| value.trim_ascii().to_vec()));
    found
}

/// A form as the usual clients write it is accepted, whatever is in its file.
fn sound(boundary: &[u8], file: &[u8], prng: &mut Prng) {
    if memchr::memmem::find(file, &[b"--", boundary].concat()).is_some() {
        return;
    }
    let before = [b"--", boundary, b"\r\n"].concat();
    let field = [
        &before[..],
        b"Content-Disposition: form-data; name=\"model\"\r\n\r\n",
        NAME.as_bytes(),
        b"\r\n",
    ]
    .concat();
    // What stands in a name of a file: some escape quotes with backslashes, some do not.
    let mut name = Vec::new();
    for &byte in file.iter().take(40).filter(|byte| **byte >= b' ' && **byte != 0x7f) {
        match byte {
            b'"' if prng.one_in(2) => name.extend_from_slice(b"%22"),
            b'"' | b'\\' => name.extend_from_slice(&[b'\\', byte]),
            b';' | b'=' => name.push(b','),
            _ => name.push(byte),
        }
    }
    let part = [
        &before[..],
        b"Content-Disposition: form-data; name=\"file\"; filename=\"",
        &name,
        b"\"\r\nContent-Type: audio/wav\r\n\r\n",
        file,
        b"\r\n",
    ]
    .concat();
    let is_in_head = memchr::memmem::find(&name, &[b"--", boundary].concat()).is_some();
    if is_in_head {
        return;
    }
    let mut parts = [&field[..], &part];
    if prng.one_in(2) {
        parts.reverse();
    }
    let whole = [parts[0], parts[1], &before[..before.len() - 2], b"--\r\n"].concat();
    let found = scanned(boundary, &[&whole]).map(|found| found.map(|range| &whole[range]));
    assert_eq!(found, Ok(Some(NAME.as_bytes())), "{:?}", String::from_utf8_lossy(&whole));
}

/// Forms to begin from, behind their content types.
pub const FORMS: &[&[u8]] = &[
    b"multipart/form-data; boundary=b\n--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\
      \r\ngpt-4\r\n--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\
      Content-Type: audio/wav\r\n\r\n--a\r\nname=\"model\"\r\n--b--\r\n",
    b"multipart/form-data; boundary=\"a b\"\n\r\n--a b\r\nContent-Disposition: form-data; \
      name=file; filename=\"a\\\"b.wav\"\r\n\r\nRIFF\r\n--a b\r\ncontent-disposition: form-data; \
      name=model\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\r\nm\r\n--a b--\r\nend",
    b"multipart/form-data; charset=utf-8; boundary=--x\n----x\r\nContent-Length: 1\r\n\
      Content-Disposition: form-data; name=\"image[]\"; filename=\"a;b\"; filename*=utf-8''a\r\n\
      \r\nx\r\n----x--",
];

/// What mutations put in.
pub const SPICES: &[&[u8]] = &[
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"--b",
    b"\r\n--b\r\n",
    b"\r\n--b--",
    b"--",
    b" ",
    b"\t",
    b"\"",
    b"\\",
    b"\\\"",
    b"\\\\\"",
    b";",
    b"; ",
    b"=",
    b"*",
    b"%",
    b"[",
    b"]",
    b"'",
    b",",
    b"; name=\"model\"",
    b"; name=model",
    b"; name=\"file\"",
    b"; filename=\"",
    b"; filename=\"a\\\"; name=\"model\"; x=\"",
    b"; name*=utf-8''model",
    b" x=\"a\\\"b\";",
    b"model",
    b"Content-Disposition: form-data; name=\"model\"\r\n",
    b"Content-Disposition: form-data; name=\"model\"\r\n\r\nx\r\n--b\r\n",
    b"Content-Length: 2\r\n",
    b"Content-Type: text/plain\r\n",
    b"; boundary=b",
    b"boundary=",
    b"\0",
    b"\xff",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::mutate;

    #[test]
    fn form_laws_hold_for_mutated_forms() {
        mutate::run(FORMS, SPICES, 5_000, form);
    }
}
