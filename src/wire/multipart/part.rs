//! The head of one part of a form: which field it is.
//!
//! Upstreams read parameters in many ways: some take a backslash for itself, some split at
//! semicolons within quotes, some keep the first of two and some the last. A head that could give
//! two of them two names is refused.

use std::ops::Range;

use super::FormError;
use crate::wire::header;

/// Transfer encodings that change nothing.
const PLAIN: [&[u8]; 3] = [b"7bit", b"8bit", b"binary"];
/// Character sets in which the bytes of ASCII are those of UTF-8.
const CHARSETS: [&[u8]; 5] = [b"utf-8", b"utf8", b"us-ascii", b"iso-8859-1", b"windows-1252"];
/// What makes a name another one in the eyes of some.
const ODD: [&[u8]; 5] = [b"%", b"=?", b"\\", b"\"", b";"];

/// What counts of a part's head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    /// It is the field `model`.
    pub(super) is_model: bool,
    /// What is not ASCII in it is read as one pleases.
    pub(super) is_ascii: bool,
    /// The length that it gives itself, and where that stands in the head.
    pub(super) length: Option<(u64, Range<usize>)>,
}

/// A parameter of a field's value.
pub(super) struct Parameter<'v> {
    pub(super) name: &'v [u8],
    /// Between the quotes, as it stands there.
    pub(super) value: &'v [u8],
    pub(super) is_quoted: bool,
}

/// Splits what stands behind a value's first word; `Err`: the rest follows no grammar.
pub(super) fn parameters(
    mut rest: &[u8],
) -> impl Iterator<Item = Result<Parameter<'_>, FormError>> {
    std::iter::from_fn(move || {
        let mut is_open = false;
        loop {
            rest = trimmed(rest);
            match rest.split_first() {
                None => return None,
                Some((b';', after)) => (is_open, rest) = (true, after),
                Some(_) if is_open => break,
                Some(_) => {
                    rest = b"";
                    return Some(Err(FormError::PartHead));
                }
            }
        }
        let found = parameter(rest);
        rest = found.as_ref().map_or(b"", |(_, rest)| rest);
        Some(found.map(|(parameter, _)| parameter).ok_or(FormError::PartHead))
    })
}

/// The parameter that `text` begins with, and what follows it.
fn parameter(text: &[u8]) -> Option<(Parameter<'_>, &[u8])> {
    let (name, value) = text.split_at(token(text));
    let value = value.strip_prefix(b"=").filter(|_| !name.is_empty())?;
    let Some(quoted) = value.strip_prefix(b"\"") else {
        let (value, rest) = value.split_at(token(value));
        return (!value.is_empty()).then_some((Parameter { name, value, is_quoted: false }, rest));
    };
    let mut end = 0;
    while *quoted.get(end)? != b'"' {
        end += if quoted[end] == b'\\' { 2 } else { 1 };
    }
    Some((Parameter { name, value: &quoted[..end], is_quoted: true }, &quoted[end + 1..]))
}

fn trimmed(text: &[u8]) -> &[u8] {
    let blanks = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    &text[blanks..]
}

/// How long the token is that `text` begins with.
fn token(text: &[u8]) -> usize {
    text.iter().take_while(|byte| header::is_token_byte(**byte)).count()
}

/// Reads a head, which begins and ends with line ends.
pub(super) fn read(head: &[u8]) -> Result<Part, FormError> {
    let mut disposition = None;
    let mut content_type = None;
    let mut encoding = None;
    let mut length = None;
    let mut is_packed = false;
    for line in head.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let colon = memchr::memchr(b':', line).ok_or(FormError::PartHead)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        // A line that is folded has no name: it could carry something past us.
        if !header::is_name(name) || !header::is_value(value) {
            return Err(FormError::PartHead);
        }
        let place = match name.to_ascii_lowercase().as_slice() {
            b"content-disposition" => &mut disposition,
            b"content-type" => &mut content_type,
            b"content-transfer-encoding" => &mut encoding,
            b"content-length" => &mut length,
            b"content-encoding" => {
                is_packed = true;
                continue;
            }
            _ => continue,
        };
        if place.replace(value).is_some() {
            return Err(FormError::PartHead);
        }
    }
    let length = match length {
        Some(digits) => {
            let at = digits.as_ptr().addr() - head.as_ptr().addr();
            let number = header::number(digits).ok_or(FormError::PartHead)?;
            Some((number, at..at + digits.len()))
        }
        None => None,
    };
    let is_model = is_model(disposition.ok_or(FormError::PartHead)?)?;
    let is_ascii = match (is_model, content_type) {
        (true, Some(content_type)) => text_of_ascii(content_type)?,
        // Some look for parts in it.
        (false, Some(content_type)) if is_nested(content_type) => {
            return Err(FormError::PartHead);
        }
        _ => false,
    };
    let is_plain = |name: &[u8]| PLAIN.iter().any(|plain| name.eq_ignore_ascii_case(plain));
    // Some servers decode a field, others take it as it stands.
    if is_model && (is_packed || !encoding.is_none_or(is_plain)) {
        return Err(FormError::ModelField);
    }
    Ok(Part { is_model, is_ascii, length })
}

/// Without a boundary nobody finds parts in it: OkHttp writes the type of forms on their fields
/// where it is told to.
fn is_nested(content_type: &[u8]) -> bool {
    is_of(content_type, b"multipart/") && super::holds_boundary(content_type)
}

fn is_of(content_type: &[u8], word: &[u8]) -> bool {
    content_type.get(..word.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(word))
}

/// Whether a text is only the same to all readers as long as it is ASCII. Of another type than
/// text it is a file to some, and a document to others.
fn text_of_ascii(content_type: &[u8]) -> Result<bool, FormError> {
    if is_of(content_type, b"multipart/form-data") && !is_nested(content_type) {
        return Ok(true);
    }
    let end = memchr::memchr(b';', content_type).unwrap_or(content_type.len());
    if !content_type[..end].trim_ascii().eq_ignore_ascii_case(b"text/plain") {
        return Err(FormError::ModelField);
    }
    let mut charset = None;
    for parameter in parameters(&content_type[end..]) {
        let Parameter { name, value, .. } = parameter.map_err(|_| FormError::ModelField)?;
        if name.eq_ignore_ascii_case(b"charset") && charset.replace(value).is_some() {
            return Err(FormError::ModelField);
        }
    }
    let Some(charset) = charset else { return Ok(false) };
    match CHARSETS.iter().position(|known| charset.eq_ignore_ascii_case(known)) {
        Some(at) => Ok(at > 1),
        None => Err(FormError::ModelField),
    }
}

/// Whether this disposition is the field `model`'s. One that is no `form-data`, as some clients
/// write it for files, is a field to some and nothing to others: it may not be the model's.
fn is_model(disposition: &[u8]) -> Result<bool, FormError> {
    let (word, rest) = disposition.split_at(token(disposition));
    if word.is_empty() {
        return Err(FormError::PartHead);
    }
    let mut name = None;
    let (mut file, mut far_file) = (None, None);
    // One that must have been the last.
    let mut is_last = false;
    for parameter in parameters(rest) {
        let parameter = parameter?;
        if is_last {
            return Err(FormError::FileName);
        }
        let place = match parameter.name.to_ascii_lowercase().as_slice() {
            b"name" => &mut name,
            b"filename" => &mut file,
            b"filename*" => &mut far_file,
            other if other.contains(&b'*') => return Err(FormError::PartHead),
            _ => &mut None,
        };
        let value = parameter.value;
        if place.replace(value).is_some() {
            return Err(FormError::PartHead);
        }
        if hides_name(value) {
            return Err(FormError::FileName);
        }
        if let Some(quote) = escaped_quote(&parameter) {
            is_last = true;
            let behind = &value[quote..];
            let is_file = parameter.name.eq_ignore_ascii_case(b"filename") && name.is_some();
            if !is_file || behind.iter().any(|byte| matches!(byte, b';' | b'=')) {
                return Err(FormError::FileName);
            }
        }
    }
    let name = name.ok_or(FormError::PartHead)?;
    let is_model = names_model(name)?;
    if is_model && !word.eq_ignore_ascii_case(b"form-data") {
        return Err(FormError::PartHead);
    }
    // A file is no field, to many.
    if is_model && (file.is_some() || far_file.is_some()) {
        return Err(FormError::ModelField);
    }
    Ok(is_model)
}

/// Where a backslash stands before a quote, be it the closing one: some end the value there, some
/// do not.
fn escaped_quote(parameter: &Parameter<'_>) -> Option<usize> {
    let value = parameter.value;
    let inner = memchr::memmem::find(value, b"\\\"");
    inner.or((parameter.is_quoted && value.ends_with(b"\\")).then_some(value.len()))
}

/// A reader that knows no quotes would find a name behind the semicolon.
fn hides_name(value: &[u8]) -> bool {
    let Some(at) = memchr::memchr(b';', value) else { return false };
    value[at..].windows(b"name".len()).any(|word| word.eq_ignore_ascii_case(b"name"))
}

/// Whether a field of this name is the model to everybody, or to nobody.
fn names_model(name: &[u8]) -> Result<bool, FormError> {
    if name == b"model" {
        return Ok(true);
    }
    let is_odd = ODD.iter().any(|odd| memchr::memmem::find(name, odd).is_some());
    // This one would say in which character set the others are.
    if is_odd || name.is_empty() || name.eq_ignore_ascii_case(b"_charset_") {
        return Err(FormError::PartHead);
    }
    let stem = name.split(|byte| *byte == b'[').next().unwrap_or_default();
    let is_wrapped = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\'');
    let mut near = stem.to_vec();
    near.retain(|byte| !is_wrapped(byte));
    if near.eq_ignore_ascii_case(b"model") { Err(FormError::ModelTwice) } else { Ok(false) }
}
