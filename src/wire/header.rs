//! Field names and values: which belong to one connection only, and how lines are written.
//!
//! Everything is written into a caller's buffer; nothing here allocates. A name or value that could
//! break out of its line is refused by [`field`], whatever its caller believed of it.

/// Fields that concern one connection and never travel on, in lower case. `Connection` can name
/// more of them: see [`is_named`].
pub const HOP_BY_HOP: &[&str] =
    &["connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

/// The field concerns one connection only. `name` is compared without regard to case.
pub fn is_hop_by_hop(name: &str) -> bool {
    HOP_BY_HOP.iter().any(|known| name.eq_ignore_ascii_case(known)) || starts_with(name, "proxy-")
}

/// `name` begins with `prefix`, which is in lower case; the name's case does not matter.
pub fn starts_with(name: &str, prefix: &str) -> bool {
    name.as_bytes()
        .get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
}

/// The elements of a comma list, blanks trimmed, empty ones left out.
pub fn elements(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// The value of a `Connection` field names `name`.
pub fn is_named(connection: &[u8], name: &str) -> bool {
    elements(connection).any(|element| element.eq_ignore_ascii_case(name.as_bytes()))
}

/// Bytes of tokens, by their value: every field of every head is looked up here.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
};

/// A byte of a token, of which methods and field names are made.
pub fn is_token_byte(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

/// A legal field name.
pub fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().copied().all(is_token_byte)
}

/// A legal field value: no control byte but the tabulator.
pub fn is_value(value: &[u8]) -> bool {
    // Without an early way out, so that many bytes are looked at in one go.
    !value.iter().fold(false, |bad, &byte| bad | (byte < b' ' && byte != b'\t') | (byte == 0x7f))
}

/// Writes one field line and says whether it did: a name or value that is not legal is left out.
pub fn field(name: &str, value: &[u8], out: &mut Vec<u8>) -> bool {
    if !is_name(name.as_bytes()) || !is_value(value) {
        return false;
    }
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
    true
}

/// Writes one field line with a number.
pub fn field_number(name: &str, value: u64, out: &mut Vec<u8>) {
    let mut digits = [0; DIGITS_MAX];
    field(name, decimal(value, &mut digits), out);
}

/// Reads a plain decimal number: digits only, no sign, no blank, no list, nothing that `u64` cannot
/// hold.
pub fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// Decimal digits of `u64::MAX`.
const DIGITS_MAX: usize = 20;

fn decimal(mut value: u64, digits: &mut [u8; DIGITS_MAX]) -> &[u8] {
    let mut at = DIGITS_MAX;
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return &digits[at..];
        }
    }
}

/// Writes the status line. The response is always HTTP/1.1, to HTTP/1.0 callers too, as RFC 9110
/// section 6.2 wants it.
pub fn status_line(status: u16, out: &mut Vec<u8>) {
    debug_assert!((100..=999).contains(&status));
    out.extend_from_slice(b"HTTP/1.1 ");
    let mut digits = [0; DIGITS_MAX];
    out.extend_from_slice(decimal(u64::from(status), &mut digits));
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The reason phrase of a status, or nothing for one that has none.
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        499 => "Client Closed Request",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        529 => "Overloaded",
        _ => "",
    }
}

/// A response with this status, to a request with this method, has no body, whatever it declares.
pub fn is_bodiless(method: &str, status: u16) -> bool {
    method == "HEAD" || status < 200 || status == 204 || status == 304
}

/// Writes the fields that keep whatever is on the way from gathering a stream, or packing it.
pub fn stream_fields(out: &mut Vec<u8>) {
    field("cache-control", b"no-cache, no-transform", out);
    field("x-accel-buffering", b"no", out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hop_by_hop_fields_are_known_in_any_case() {
        for name in ["Connection", "KEEP-ALIVE", "te", "Trailer", "Transfer-Encoding", "upgrade"] {
            assert!(is_hop_by_hop(name), "{name}");
        }
        for name in ["Proxy-Authorization", "proxy-connection", "PROXY-anything"] {
            assert!(is_hop_by_hop(name), "{name}");
        }
        for name in ["content-type", "tea", "proxy", "x-proxy-id", ""] {
            assert!(!is_hop_by_hop(name), "{name}");
        }
    }

    #[test]
    fn connection_names_fields_in_any_list_and_case() {
        assert!(is_named(b"close, X-Mine", "x-mine"));
        assert!(is_named(b" ,\tCLOSE ,", "close"));
        assert!(!is_named(b"closer, x", "close"));
        assert!(!is_named(b"", "close"));
    }

    #[test]
    fn forbids_line_breaks_in_written_fields() {
        let mut out = Vec::new();
        for value in [&b"a\r\nb: c"[..], b"a\nb", b"a\0", b"\x7f"] {
            assert!(!field("x-a", value, &mut out), "{value:?}");
        }
        for name in ["", "x a", "x:", "x\r\n", "é"] {
            assert!(!field(name, b"v", &mut out), "{name:?}");
        }
        assert!(out.is_empty());
    }

    #[test]
    fn allows_tabs_and_bytes_beyond_ascii_in_written_fields() {
        let mut out = Vec::new();
        assert!(field("X-A", b"a\tb \xff", &mut out));
        field_number("content-length", u64::MAX, &mut out);
        field_number("age", 0, &mut out);
        let expected: &[u8] =
            b"X-A: a\tb \xff\r\ncontent-length: 18446744073709551615\r\nage: 0\r\n";
        assert_eq!(out, expected);
    }

    #[test]
    fn status_line_of_an_unknown_status_has_an_empty_reason() {
        let mut out = Vec::new();
        status_line(200, &mut out);
        status_line(599, &mut out);
        assert_eq!(out, b"HTTP/1.1 200 OK\r\nHTTP/1.1 599 \r\n");
    }

    #[test]
    fn bodiless_answers_are_known() {
        assert!(is_bodiless("HEAD", 200));
        assert!(is_bodiless("GET", 204) && is_bodiless("GET", 304) && is_bodiless("GET", 100));
        assert!(!is_bodiless("POST", 200));
    }
}
