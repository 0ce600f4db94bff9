//! The head of a downstream request: found, checked, and kept in two allocations.
//!
//! httparse splits the lines; every rule that it does not have stands here: line ends, target
//! forms, `Host`, and above all the framing, which is decided once, from this head, and nowhere
//! else. What two readers could frame differently is refused, never repaired.
//!
//! The head's end is looked for before anything is parsed, and the search goes on where it stopped:
//! a head that arrives byte by byte costs no more than one that arrives whole, and gives the same
//! answer.

use super::WireError;
use super::header;
use crate::limits::{HEADER_COUNT_MAX, TARGET_BYTES_MAX};
use std::borrow::Cow;
use std::mem::MaybeUninit;

/// Empty lines that are passed over before a request line (RFC 9112 section 2.2 wants one).
const EMPTY_LINES_MAX: usize = 4;

/// How the body of a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// After that many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
}

impl Framing {
    /// Nothing comes.
    pub fn is_empty(self) -> bool {
        matches!(self, Framing::None | Framing::Length(0))
    }

    /// The length that was declared.
    pub fn length(self) -> Option<u64> {
        match self {
            Framing::Length(length) => Some(length),
            Framing::None | Framing::Chunked => None,
        }
    }
}

/// A request head that broke no rule.
#[derive(Debug)]
pub struct Head {
    method: Span,
    target: Span,
    /// The version is HTTP/1.1, not HTTP/1.0.
    pub http11: bool,
    /// The fields.
    pub headers: Headers,
    /// How the body ends.
    pub framing: Framing,
    /// The downstream lets the connection live on. Never with HTTP/1.0.
    pub keep_alive: bool,
    /// The downstream waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// It came sealed. Not in the bytes: whoever read them says so.
    pub secure: bool,
}

impl Head {
    /// The method as sent; methods are case-sensitive.
    pub fn method(&self) -> &str {
        self.headers.text(self.method)
    }

    /// The target as sent, in origin-form, absolute-form, or `*`. Printable ASCII.
    pub fn target(&self) -> &str {
        self.headers.text(self.target)
    }

    /// The authority that the downstream meant: of an absolute-form target, else of `Host`.
    pub fn authority(&self) -> Option<&str> {
        match absolute(self.target()) {
            Some((authority, _)) => Some(authority),
            None => self.headers.get("host").and_then(|host| std::str::from_utf8(host).ok()),
        }
    }
}

/// The fields of a head: one buffer, and where each name and value stands in it.
#[derive(Debug)]
pub struct Headers {
    /// The head's own bytes, with field names in lower case.
    bytes: Box<[u8]>,
    fields: Box<[Field]>,
}

#[derive(Clone, Copy, Debug)]
struct Field {
    name: Span,
    value: Span,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    at: u32,
    len: u32,
}

impl Span {
    /// Where `part` stands in `text`, of which it is a part.
    fn of(part: &[u8], text: &[u8]) -> Span {
        Span { at: (part.as_ptr().addr() - text.as_ptr().addr()) as u32, len: part.len() as u32 }
    }
}

impl Headers {
    /// Keeps the fields that httparse found in `text`.
    pub(super) fn of(text: &[u8], fields: &[httparse::Header<'_>]) -> Headers {
        let field = |field: &httparse::Header<'_>| Field {
            name: Span::of(field.name.as_bytes(), text),
            value: Span::of(field.value, text),
        };
        let fields = fields.iter().map(field).collect::<Box<[Field]>>();
        let mut bytes = Box::<[u8]>::from(text);
        for Field { name, .. } in &fields {
            bytes[name.at as usize..(name.at + name.len) as usize].make_ascii_lowercase();
        }
        Headers { bytes, fields }
    }

    /// The first value of a field. `name` is in lower case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// Every value of a field, in order. `name` is in lower case.
    pub fn all<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        debug_assert!(!name.bytes().any(|byte| byte.is_ascii_uppercase()));
        self.fields
            .iter()
            .filter(move |field| self.slice(field.name) == name.as_bytes())
            .map(|field| self.slice(field.value))
    }

    /// Every value of a field that is a list, as if it had come in one line (RFC 9110, 5.3). What
    /// is no UTF-8 is replaced. `name` is in lower case.
    pub fn list<'a>(&'a self, name: &str) -> Option<Cow<'a, str>> {
        let mut all = self.all(name).map(String::from_utf8_lossy);
        let mut list = all.next()?;
        for more in all {
            list = Cow::Owned(list.into_owned() + ", " + &more);
        }
        Some(list)
    }

    /// The field is there, whatever it holds. `name` is in lower case.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Names, in lower case, and values of all fields in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> + Clone {
        self.fields.iter().map(|field| (self.text(field.name), self.slice(field.value)))
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Bytes that this head holds, for the memory account.
    pub fn bytes_held(&self) -> usize {
        self.bytes.len() + size_of_val(&*self.fields)
    }

    fn slice(&self, span: Span) -> &[u8] {
        &self.bytes[span.at as usize..span.at as usize + span.len as usize]
    }

    fn text(&self, span: Span) -> &str {
        std::str::from_utf8(self.slice(span)).expect("names, methods and targets are ASCII")
    }
}

/// Reads one head from the front of `buf`.
///
/// `Ok(None)`: more bytes are needed; call again with the same bytes and more behind them.
/// `searched` is the caller's to keep between those calls, 0 at first: how far the end was looked
/// for.
/// `Ok(Some((head, used)))`: the head took `used` bytes; what follows is its body or the next
/// request. After an error nothing on this connection can be trusted.
pub fn parse(
    buf: &[u8],
    searched: &mut usize,
    head_bytes_max: usize,
) -> Result<Option<(Head, usize)>, WireError> {
    let Some(start) = skip_empty_lines(buf)? else { return Ok(None) };
    // Spans are 32 bits wide, so no head may be longer, whatever the settings say.
    let head_bytes_max = head_bytes_max.min(u32::MAX as usize);
    match find_end(&buf[start..], searched.saturating_sub(start), head_bytes_max) {
        Ok(Search::Complete(len)) => {
            let head = parse_whole(&buf[start..start + len])?;
            Ok(Some((head, start + len)))
        }
        Ok(Search::Searched(len)) => {
            *searched = start + len;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The offset of the request line's first byte, `None` while only empty lines have come.
fn skip_empty_lines(buf: &[u8]) -> Result<Option<usize>, WireError> {
    let mut start = 0;
    loop {
        match &buf[start..] {
            [] | [b'\r'] => return Ok(None),
            [b'\r', b'\n', ..] if start < 2 * EMPTY_LINES_MAX => start += 2,
            [b'\n', ..] => return Err(WireError::LineEnd),
            // Told at once, so that a TLS hello on this port does not wait for the head's timeout.
            [first, ..] if !header::is_token_byte(*first) => return Err(WireError::RequestLine),
            _ => return Ok(Some(start)),
        }
    }
}

enum Search {
    /// The head is that long, its empty line included.
    Complete(usize),
    /// No end within that many bytes.
    Searched(usize),
}

/// Walks from line end to line end. Every rule here is tested at the offset where it breaks, so the
/// verdict cannot depend on how the bytes were cut.
fn find_end(text: &[u8], searched: usize, head_bytes_max: usize) -> Result<Search, WireError> {
    let window = &text[..text.len().min(head_bytes_max)];
    // Bytes of the request line, its CRLF not counted.
    let line_bytes_max = TARGET_BYTES_MAX.min(head_bytes_max.saturating_sub(4));
    let mut at = searched;
    while let Some(found) = memchr::memchr(b'\n', &window[at.min(window.len())..]) {
        let end = at + found;
        let line_start = memchr::memrchr(b'\n', &window[..end]).map_or(0, |previous| previous + 1);
        if line_start == 0 && end > line_bytes_max + 1 {
            return Err(WireError::TargetTooLong);
        }
        if end == line_start || window[end - 1] != b'\r' {
            return Err(WireError::LineEnd);
        }
        if end == line_start + 1 {
            return Ok(Search::Complete(end + 1));
        }
        at = end + 1;
    }
    // Asked only once per head, when the window grows past the line's ceiling.
    let crosses = searched <= line_bytes_max + 1 && window.len() > line_bytes_max + 1;
    if crosses && memchr::memchr(b'\n', window).is_none() {
        return Err(WireError::TargetTooLong);
    }
    if window.len() == head_bytes_max {
        return Err(WireError::HeadTooLong);
    }
    Ok(Search::Searched(window.len()))
}

/// `text` ends with its empty line and has no bare line feed.
fn parse_whole(text: &[u8]) -> Result<Head, WireError> {
    let mut storage = [const { MaybeUninit::uninit() }; HEADER_COUNT_MAX];
    let mut request = httparse::Request::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_request_with_uninit_headers(
        &mut request,
        text,
        &mut storage,
    );
    match parsed {
        Ok(httparse::Status::Complete(len)) if len == text.len() => {}
        // Unreachable but for a disagreement about the head's end, which must not pass.
        Ok(_) => return Err(WireError::LineEnd),
        Err(error) => return Err(explain(error, text)),
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(WireError::RequestLine);
    };
    let http11 = minor == 1;
    check_target(method, target)?;
    let facts = read_fields(request.headers, http11)?;

    let span = |part: &[u8]| Span::of(part, text);
    let (method, target) = (span(method.as_bytes()), span(target.as_bytes()));
    Ok(Head {
        method,
        target,
        http11,
        headers: Headers::of(text, request.headers),
        framing: facts.framing,
        keep_alive: http11 && !facts.close,
        expects_continue: http11 && facts.expects_continue,
        secure: false,
    })
}

/// What httparse found, in our words.
fn explain(error: httparse::Error, text: &[u8]) -> WireError {
    match error {
        httparse::Error::HeaderName => WireError::FieldName,
        httparse::Error::HeaderValue => WireError::FieldValue,
        httparse::Error::TooManyHeaders => WireError::TooManyFields,
        httparse::Error::NewLine => WireError::LineEnd,
        httparse::Error::Version if names_other_version(text) => WireError::Version,
        httparse::Error::Version | httparse::Error::Token | httparse::Error::Status => {
            WireError::RequestLine
        }
    }
}

/// The request line ends in `HTTP/digit.digit`, so it is a version and only not one of ours.
fn names_other_version(text: &[u8]) -> bool {
    let line = text.split(|byte| *byte == b'\r').next().unwrap_or(text);
    let Some((_, version)) = line.split_last_chunk::<9>() else { return false };
    let [b' ', b'H', b'T', b'T', b'P', b'/', major, b'.', minor] = version else { return false };
    let blanks = line.iter().filter(|byte| **byte == b' ').count();
    major.is_ascii_digit() && minor.is_ascii_digit() && blanks == 2
}

/// Which targets we serve. What the path means is `dialect::path`'s business.
fn check_target(method: &str, target: &str) -> Result<(), WireError> {
    // A fragment never belongs into a request; two readers may cut it off or not.
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(WireError::Target);
    }
    if method == "CONNECT" {
        return Err(WireError::TargetForm);
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok(());
    }
    match absolute(target) {
        Some((authority, _)) if is_authority(authority.as_bytes()) => Ok(()),
        Some(_) => Err(WireError::Host),
        None => Err(WireError::TargetForm),
    }
}

/// Authority and rest of an absolute-form target of the schemes that we know. The rest may be empty
/// or begin with `?`.
pub fn absolute(target: &str) -> Option<(&str, &str)> {
    let length = ["http://", "https://"]
        .iter()
        .find(|scheme| header::starts_with(target, scheme))
        .map(|scheme| scheme.len())?;
    let rest = target.get(length..)?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    Some(rest.split_at(end))
}

/// A host name, IPv4 address or bracketed IPv6 address, with an optional port. No user information.
fn is_authority(authority: &[u8]) -> bool {
    let (host, port) = match authority {
        [b'[', rest @ ..] => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
            let (inner, after) = (&rest[..end], &rest[end + 1..]);
            let legal = |byte: &u8| byte.is_ascii_hexdigit() || b":.".contains(byte);
            if inner.is_empty() || !inner.iter().all(legal) {
                return false;
            }
            (inner, after)
        }
        _ => {
            let end = authority.iter().position(|byte| *byte == b':').unwrap_or(authority.len());
            let (host, after) = authority.split_at(end);
            let legal =
                |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(byte);
            if !host.iter().all(legal) {
                return false;
            }
            (host, after)
        }
    };
    let port_is_legal = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    !host.is_empty() && port_is_legal
}

/// What the fields say about the connection and the body.
struct Facts {
    framing: Framing,
    close: bool,
    expects_continue: bool,
}

fn read_fields(fields: &[httparse::Header<'_>], http11: bool) -> Result<Facts, WireError> {
    let mut host = None;
    let mut length = None;
    let mut coding = None;
    let mut facts = Facts { framing: Framing::None, close: false, expects_continue: false };
    for field in fields {
        let name = field.name;
        if name.eq_ignore_ascii_case("host") {
            once(&mut host, field.value, WireError::HostTwice)?;
        } else if name.eq_ignore_ascii_case("content-length") {
            once(&mut length, field.value, WireError::LengthTwice)?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            once(&mut coding, field.value, WireError::CodingTwice)?;
        } else if name.eq_ignore_ascii_case("connection") {
            facts.close |= header::is_named(field.value, "close");
        } else if name.eq_ignore_ascii_case("expect") && http11 {
            if !field.value.eq_ignore_ascii_case(b"100-continue") {
                return Err(WireError::Expectation);
            }
            facts.expects_continue = true;
        }
    }
    match host {
        None if http11 => return Err(WireError::HostMissing),
        Some(host) if !is_authority(host) => return Err(WireError::Host),
        _ => {}
    }
    facts.framing = framing(length, coding, http11)?;
    Ok(facts)
}

fn once<'a>(
    slot: &mut Option<&'a [u8]>,
    value: &'a [u8],
    error: WireError,
) -> Result<(), WireError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(error),
    }
}

fn framing(
    length: Option<&[u8]>,
    coding: Option<&[u8]>,
    http11: bool,
) -> Result<Framing, WireError> {
    match (length, coding) {
        (None, None) => Ok(Framing::None),
        (Some(_), Some(_)) => Err(WireError::LengthWithCoding),
        (Some(length), None) => {
            header::number(length).map(Framing::Length).ok_or(WireError::Length)
        }
        (None, Some(_)) if !http11 => Err(WireError::CodingInHttp10),
        (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        (None, Some(_)) => Err(WireError::Coding),
    }
}

#[cfg(test)]
mod tests;
