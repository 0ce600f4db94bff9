//! The head of an upstream's reply: found, checked, and kept in two allocations.
//!
//! httparse splits the lines and is as lenient with them as its defaults; the framing is decided
//! once, from this head. A reply that two readers could frame differently is no reply.

use std::mem::MaybeUninit;

use super::head::Headers;
use super::header;
use crate::limits::HEADER_COUNT_MAX;

/// How the body of a reply ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After that many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    UntilClose,
}

/// The head of a reply, 200 or above, or 101.
#[derive(Debug)]
pub struct ReplyHead {
    /// The status.
    pub status: u16,
    /// The fields.
    pub headers: Headers,
    /// How the body ends, where there is one.
    pub framing: Framing,
    /// The upstream lets the connection live on.
    pub keep_alive: bool,
}

/// The bytes are no reply, or one that could be framed in two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads one head from the front of `buf`, passing over interim ones (1xx).
///
/// `Ok((None, used))`: more bytes are needed behind those that follow the first `used`.
/// `Ok((Some(head), used))`: what follows is the body. A switch of protocols is malformed: nobody
/// asked for one.
pub fn parse(buf: &[u8]) -> Result<(Option<ReplyHead>, usize), Malformed> {
    parse_any(buf, false)
}

/// The same, where somebody asked for a switch of protocols: a 101 is a head too.
pub fn parse_switch(buf: &[u8]) -> Result<(Option<ReplyHead>, usize), Malformed> {
    parse_any(buf, true)
}

fn parse_any(buf: &[u8], switches: bool) -> Result<(Option<ReplyHead>, usize), Malformed> {
    let mut used = 0;
    loop {
        let mut fields = [const { MaybeUninit::uninit() }; HEADER_COUNT_MAX];
        let mut reply = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let parsed =
            config.parse_response_with_uninit_headers(&mut reply, &buf[used..], &mut fields);
        let length = match parsed.map_err(|_| Malformed)? {
            httparse::Status::Complete(length) => length,
            httparse::Status::Partial => return Ok((None, used)),
        };
        let text = &buf[used..used + length];
        if has_bare_line_feed(text) {
            return Err(Malformed);
        }
        used += length;
        match (reply.code, reply.version) {
            (Some(100 | 102..=199), _) => {}
            (Some(status), Some(minor)) if status >= 200 || (switches && status == 101) => {
                let head = head(status, minor == 1, text, reply.headers)?;
                return Ok((Some(head), used));
            }
            _ => return Err(Malformed),
        }
    }
}

/// Some readers take it for the end of a line, and some for a part of one.
fn has_bare_line_feed(text: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', text).any(|at| at == 0 || text[at - 1] != b'\r')
}

fn head(
    status: u16,
    http11: bool,
    text: &[u8],
    fields: &[httparse::Header<'_>],
) -> Result<ReplyHead, Malformed> {
    let headers = Headers::of(text, fields);
    let framing = framing(headers.all("content-length"), headers.all("transfer-encoding"))?;
    let named = |name| headers.all("connection").any(|value| header::is_named(value, name));
    let keep_alive = if http11 { !named("close") } else { !named("close") && named("keep-alive") };
    Ok(ReplyHead { status, headers, framing, keep_alive })
}

/// The framing that a head declares.
pub fn framing<'a>(
    mut lengths: impl Iterator<Item = &'a [u8]>,
    mut codings: impl Iterator<Item = &'a [u8]>,
) -> Result<Framing, Malformed> {
    match (lengths.next(), codings.next()) {
        (None, None) => Ok(Framing::UntilClose),
        (None, Some(coding)) if codings.next().is_none() => {
            let is_chunked = coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
            if is_chunked { Ok(Framing::Chunked) } else { Err(Malformed) }
        }
        (Some(length), None) if lengths.next().is_none() => {
            header::number(length).map(Framing::Length).ok_or(Malformed)
        }
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The head of these bytes, which must be the same wherever they are cut.
    #[track_caller]
    fn read(text: &str) -> Result<Option<(u16, Framing, bool)>, Malformed> {
        let bytes = text.as_bytes();
        let whole = parse(bytes);
        for cut in 0..bytes.len() {
            match parse(&bytes[..cut]) {
                Ok((None, used)) => assert!(used <= cut),
                Ok((Some(_), used)) => assert!(whole.as_ref().is_ok_and(|(_, all)| *all == used)),
                Err(Malformed) => assert!(whole.is_err(), "{cut} of {text:?}"),
            }
        }
        let (head, _) = whole?;
        Ok(head.map(|head| (head.status, head.framing, head.keep_alive)))
    }

    #[test]
    fn status_framing_and_life_are_read() {
        let rows = [
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", 200, Framing::Length(5), true),
            ("HTTP/1.1 429 \r\nContent-Length:0\r\n\r\n", 429, Framing::Length(0), true),
            ("HTTP/1.1 200\r\nTransfer-Encoding: Chunked\r\n\r\n", 200, Framing::Chunked, true),
            ("HTTP/1.1 200 OK\r\nconnection: x, Close\r\n\r\n", 200, Framing::UntilClose, false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n", 200, Framing::Length(1), false),
            (
                "HTTP/1.0 200 OK\r\ncontent-length: 1\r\nconnection: keep-alive\r\n\r\n",
                200,
                Framing::Length(1),
                true,
            ),
        ];
        for (text, status, framing, keep_alive) in rows {
            assert_eq!(read(text), Ok(Some((status, framing, keep_alive))), "{text:?}");
        }
    }

    #[test]
    fn interim_heads_are_passed_over() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\n\
                    HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(read(text), Ok(Some((204, Framing::UntilClose, true))));
        let (head, used) = parse(&text.as_bytes()[..30]).unwrap();
        assert!(head.is_none());
        assert_eq!(used, "HTTP/1.1 100 Continue\r\n\r\n".len());
    }

    #[test]
    fn forbids_what_could_be_framed_in_two_ways() {
        for fields in [
            "content-length: 5\r\ncontent-length: 5\r\n",
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
            "content-length: +5\r\n",
            "content-length: 5, 5\r\n",
            "content-length: 99999999999999999999\r\n",
            "content-length:\r\n",
            "transfer-encoding: gzip\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        ] {
            let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            assert!(matches!(parse(text.as_bytes()), Err(Malformed)), "{fields:?}");
        }
    }

    #[test]
    fn forbids_what_is_no_reply() {
        for text in [
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\n\r\n",
            "HTTP/1.1 099 Less\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\n name: folded\r\n\r\n",
            "HTTP/1.1 200 OK\r\nname: value\nother: value\r\n\r\n",
            "HTTP/1.1 200 OK\n\n",
            "GET / HTTP/1.1\r\n\r\n",
        ] {
            assert!(matches!(parse(text.as_bytes()), Err(Malformed)), "{text:?}");
        }
        let many = "a: b\r\n".repeat(HEADER_COUNT_MAX + 1);
        assert!(parse(format!("HTTP/1.1 200 OK\r\n{many}\r\n").as_bytes()).is_err());
    }
}
