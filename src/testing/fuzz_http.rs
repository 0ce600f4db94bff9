//! Laws of request heads and bodies, against readers that see the whole input at once.

use super::prng::Prng;
use super::splits::at_random;
use crate::limits::{CHUNK_EXTRA_BYTES_MAX, HEAD_BYTES_MAX, HEADER_COUNT_MAX};
use crate::wire::WireError;
use crate::wire::body::{CHUNK_CLOSE, Decoder, LAST_CHUNK, chunk_open};
use crate::wire::head::{self, Framing, Head};
use crate::wire::header;

/// Bodies above this are refused.
const BODY_BYTES_MAX: u64 = 4_096;

/// A seed out of the input, so that cuts depend on nothing else.
pub(super) fn prng(data: &[u8]) -> Prng {
    Prng::new(
        data.iter().fold(data.len() as u64, |seed, byte| {
            seed.wrapping_mul(31).wrapping_add(u64::from(*byte))
        }),
    )
}

/// A request head: the answer does not depend on cuts, and a naive reader agrees with it.
pub fn request_head(data: &[u8]) {
    let whole = head::parse(data, &mut 0, HEAD_BYTES_MAX);
    let mut end = 0;
    let mut searched = 0;
    let mut cut = Ok(None);
    for piece in at_random(data, &mut prng(data)) {
        end += piece.len();
        cut = head::parse(&data[..end], &mut searched, HEAD_BYTES_MAX);
        if !matches!(cut, Ok(None)) {
            break;
        }
    }
    assert_eq!(seen(&cut), seen(&whole));
    if let Ok(Some((head, used))) = &whole {
        check_head(head, &data[..*used]);
    }
}

/// A head in a form that can be compared.
fn seen(result: &Result<Option<(Head, usize)>, WireError>) -> Result<Option<String>, WireError> {
    match result {
        Ok(found) => Ok(found.as_ref().map(|(head, used)| format!("{used} {head:?}"))),
        Err(error) => Err(*error),
    }
}

/// What a reader that only splits lines makes of the same bytes.
fn check_head(head: &Head, text: &[u8]) {
    let text = text.trim_ascii_start();
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    let [line, fields @ .., b"\r", b""] = &lines[..] else { panic!("the head's end is wrong") };
    let version = if head.http11 { "1.1" } else { "1.0" };
    assert_eq!(*line, format!("{} {} HTTP/{version}\r", head.method(), head.target()).as_bytes());
    assert!(head.target().bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'));
    assert!(fields.len() == head.headers.len() && fields.len() <= HEADER_COUNT_MAX);
    for (line, (name, value)) in fields.iter().zip(head.headers.iter()) {
        let colon = line.iter().position(|byte| *byte == b':').expect("a field has a colon");
        assert_eq!(line[..colon].to_ascii_lowercase(), name.as_bytes());
        let after = line[colon + 1..].strip_suffix(b"\r").expect("a field ends in CRLF");
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let start = after.iter().position(|byte| !blank(byte)).unwrap_or(after.len());
        let end = after.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
        assert_eq!(&after[start..end], value);
        assert!(header::is_name(name.as_bytes()) && header::is_value(value));
    }
    let all = |name: &'static str| head.headers.all(name).collect::<Vec<_>>();
    let framing = match (&all("content-length")[..], &all("transfer-encoding")[..]) {
        ([], []) => Framing::None,
        ([length], []) => {
            let text = std::str::from_utf8(length).expect("digits");
            assert!(text.bytes().all(|byte| byte.is_ascii_digit()));
            Framing::Length(text.parse().expect("a number"))
        }
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => Framing::Chunked,
        other => panic!("ambiguous framing passed: {other:?}"),
    };
    assert_eq!(head.framing, framing);
    assert!(all("host").len() == 1 || (!head.http11 && all("host").is_empty()));
    assert!(head.http11 || (!head.keep_alive && !head.expects_continue));
}

/// A chunked body: the answer does not depend on cuts, a naive reader finds the same body, and
/// what is encoded comes back.
pub fn chunked_body(data: &[u8]) {
    let mut prng = prng(data);
    let whole = decode([data]);
    assert_eq!(decode(at_random(data, &mut prng)), whole);
    match (&whole, naive(data)) {
        (Ok((body, used, true)), Some((expected, expected_used))) => {
            assert_eq!((body, *used), (&expected, expected_used));
        }
        (Ok((_, _, true)), None) => panic!("only the decoder found an end"),
        (Ok((_, used, false)), found) => {
            assert!(found.is_none() && *used == data.len(), "only the naive reader found an end");
        }
        (Err(error), found) => assert!(found.is_none(), "{error:?}"),
    }
    encode_and_decode(&data[..data.len().min(BODY_BYTES_MAX as usize)], &mut prng);
}

type Decoded = Result<(Vec<u8>, usize, bool), WireError>;

fn decode<'d>(pieces: impl IntoIterator<Item = &'d [u8]>) -> Decoded {
    let mut decoder = Decoder::new(Framing::Chunked, BODY_BYTES_MAX)?;
    let mut body = Vec::new();
    let mut used = 0;
    for piece in pieces {
        used += decoder.feed(piece, &mut body)?;
        if decoder.is_done() {
            break;
        }
    }
    Ok((body, used, decoder.is_done()))
}

/// Splits line by line; `None` when there is no whole legal body.
fn naive(data: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut body = Vec::new();
    let mut rest = data;
    let mut extras = 0;
    loop {
        let line = line(&mut rest)?;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        if digits == 0 || digits > 16 {
            return None;
        }
        let (digits, extension) = line.split_at(digits);
        let is_extension = extension.trim_ascii_start().starts_with(b";");
        if !extension.is_empty() && (!is_extension || !header::is_value(extension)) {
            return None;
        }
        extras += extension.len();
        let size = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        if size > BODY_BYTES_MAX - body.len() as u64 || extras > CHUNK_EXTRA_BYTES_MAX {
            return None;
        }
        if size == 0 {
            break;
        }
        let (data, after) = rest.split_at_checked(size as usize)?;
        body.extend_from_slice(data);
        rest = after.strip_prefix(b"\r\n")?;
    }
    let mut trailers = 0;
    loop {
        let line = line(&mut rest)?;
        if line.is_empty() {
            return Some((body, data.len() - rest.len()));
        }
        trailers += line.len() + 1;
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if !header::is_name(name) || !header::is_value(value) || trailers > CHUNK_EXTRA_BYTES_MAX {
            return None;
        }
    }
}

/// The next line without its CRLF, which is the only line end that a line may hold.
fn line<'d>(rest: &mut &'d [u8]) -> Option<&'d [u8]> {
    let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n'))?;
    let (line, after) = rest.split_at(end);
    *rest = after.strip_prefix(b"\r\n")?;
    Some(line)
}

fn encode_and_decode(body: &[u8], prng: &mut Prng) {
    let mut encoded = Vec::new();
    for chunk in at_random(body, prng).into_iter().filter(|chunk| !chunk.is_empty()) {
        chunk_open(chunk.len(), &mut encoded);
        encoded.extend_from_slice(chunk);
        encoded.extend_from_slice(CHUNK_CLOSE);
    }
    encoded.extend_from_slice(LAST_CHUNK);
    let used = encoded.len();
    encoded.extend_from_slice(b"GET /");
    assert_eq!(decode([&encoded[..]]), Ok((body.to_vec(), used, true)));
}

/// Sound heads to begin from.
pub const HEADS: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"\r\nPOST /v1/messages?beta=true HTTP/1.1\r\nHost: h:8787\r\nContent-Length: 5\r\n\r\nhello",
    b"POST http://a/v1 HTTP/1.1\r\nhost: [::1]:80\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: h\r\nConnection: close, x\r\nExpect: 100-continue\r\n\r\n",
    b"GET /a HTTP/1.0\r\nX-A:\t v \t\r\nx-b:\r\n\r\nGET /b HTTP/1.0\r\n\r\n",
];

/// Sound chunked bodies to begin from.
pub const BODIES: &[&[u8]] = &[
    b"0\r\n\r\n",
    b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\nGET / HTTP/1.1\r\n",
    b"A;a=b ; c=\"d\"\r\n0123456789\r\n00 ;x\r\nTrailer: 1\r\nX:\r\n\r\n",
    b"0000000000000001\r\na\r\n0\r\n\r\n",
];

/// What mutations put in.
pub const SPICES: &[&[u8]] = &[
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"0",
    b"f",
    b"\xff",
    b"Content-Length: 1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: x\r\n",
    b"HTTP/1.1",
    b"0\r\n\r\n",
    b"1\r\n",
    b"chunked",
    b"a: b\r\n",
    b"+",
    b"x",
    b"#",
    b"http://",
    b"\x7f",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::mutate;

    #[test]
    fn head_laws_hold_for_mutated_heads() {
        mutate::run(HEADS, SPICES, 20_000, request_head);
    }

    #[test]
    fn body_laws_hold_for_mutated_bodies() {
        mutate::run(BODIES, SPICES, 20_000, chunked_body);
    }
}
