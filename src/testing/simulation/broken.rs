//! Requests that break a rule: heads, framings, bodies, and sound ones that chance has changed.

use super::connection::{BODY_BYTES_MAX, HEAD_BYTES_MAX};
use super::requests::{self, Draft, Expect, Follow, Sent};
use crate::dialect::Family;
use crate::limits::CHUNK_EXTRA_BYTES_MAX;
use crate::testing::fuzz_http::SPICES;
use crate::testing::mutate::mutate;
use crate::testing::prng::Prng;

/// Heads that no one may read in two ways, and what their sender is told. `{LONG}` is longer than
/// a head may be.
const HEADS: &[(&str, u16)] = &[
    ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
    ("GET /\r\n\r\n", 400),
    ("GET  / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET / HTTP/1.1\nHost: h\n\n", 400),
    ("GET / HTTP/1.1\r\nHost: h\n\r\n", 400),
    ("GET / HTTP/1.1\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost : h\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: h\r\nX-A: a\r\n b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: h\r\nX-A: a\0b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: h\r\nno colon\r\n\r\n", 400),
    ("GET /#top HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET h:80 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET * HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET http://u@h/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\n\r\nhello", 400),
    ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5, 5\r\n\r\nhello", 400),
    ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
    ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 18446744073709551616\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\n", 400),
    (
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n\
         0\r\n\r\n",
        400,
    ),
    ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\n\r\n", 501),
    (
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\
         Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    ("POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: h\r\nExpect: 200-ok\r\nContent-Length: 1\r\n\r\n1", 417),
    ("GET /{LONG} HTTP/1.1\r\nHost: h\r\n\r\n", 414),
    ("GET / HTTP/1.1\r\nHost: h\r\nX-Long: {LONG}\r\n\r\n", 431),
    ("GET / HTTP/1.1\r\nHost: h\r\n{MANY}\r\n\r\n", 431),
    ("\x16\x03\x01\x02\r\n\r\n", 400),
    ("\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
];

/// A head that breaks a rule.
pub(super) fn head(number: usize, prng: &mut Prng) -> Sent {
    let (text, status) = *prng.pick(HEADS);
    let text = text
        .replace("{LONG}", &"l".repeat(HEAD_BYTES_MAX))
        .replace("{MANY}", &"A:b\r\n".repeat(140));
    raw(number, text.into_bytes(), Expect::Broken(status))
}

fn raw(number: usize, bytes: Vec<u8>, expect: Expect) -> Sent {
    Sent {
        number,
        body_at: bytes.len(),
        bytes,
        is_head: false,
        http11: true,
        says_close: false,
        expects: false,
        awaits: false,
        faults: Vec::new(),
        expect,
        follow: Follow::Ends,
        family: Some(Family::Openai),
    }
}

/// A sound request that chance has changed in a few places. Nobody knows what it is then.
pub(super) fn mutated(number: usize, prng: &mut Prng) -> Sent {
    let (draft, _, row) = requests::call_draft(number, prng);
    let sent = Sent::of(number, draft, Expect::Unknown, prng);
    let bytes = mutate(&sent.bytes, SPICES, prng);
    Sent { family: Some(row.dialect.family()), ..raw(number, bytes, Expect::Unknown) }
}

/// A way to break the framing of a body, behind a head that is sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// A length above the ceiling.
    TooLong,
    /// Chunks above the ceiling, of which the last is only announced.
    ChunksTooLong,
    /// Something that is no chunk, after a few that are.
    Chunk(&'static str),
    /// More extensions than anybody needs.
    Extensions,
    /// More trailers.
    Trailers,
}

const CHUNKS: &[&str] = &[
    "x\r\n",
    "\r\n",
    "-1\r\n",
    "+1\r\na\r\n",
    " 1\r\na\r\n",
    "0x1\r\na\r\n",
    "1\na\r\n",
    "1\r\nab\r\n",
    "1\r\na\n",
    "1;a\0\r\na\r\n",
    "1;a\nb\r\na\r\n",
    "1 \r\na\r\n",
    "11111111111111111\r\n",
    "ffffffffffffffff\r\n",
    "0\r\nX A: 1\r\n\r\n",
    "0\r\n: 1\r\n\r\n",
    "0\r\nX: 1\n\r\n",
    "0\r\n\n",
];

impl Body {
    pub(super) fn any(prng: &mut Prng) -> Body {
        match prng.below(12) {
            0 => Body::TooLong,
            1 => Body::ChunksTooLong,
            2 => Body::Extensions,
            3 => Body::Trailers,
            _ => Body::Chunk(*prng.pick(CHUNKS)),
        }
    }

    pub(super) fn status(self) -> u16 {
        match self {
            Body::TooLong | Body::ChunksTooLong | Body::Chunk("ffffffffffffffff\r\n") => 413,
            Body::Chunk(_) | Body::Extensions | Body::Trailers => 400,
        }
    }

    /// Writes the body, and adds to the head what announces it.
    pub(super) fn write(self, draft: &mut Draft, framed: &mut Vec<u8>, prng: &mut Prng) {
        if self == Body::TooLong {
            draft.header("Content-Length", &(BODY_BYTES_MAX + 1 + prng.below(9)).to_string());
            framed.extend_from_slice(&draft.body);
            return;
        }
        draft.header("Transfer-Encoding", "chunked");
        framed.extend_from_slice(b"3\r\n{} \r\n");
        match self {
            Body::Chunk(text) => framed.extend_from_slice(text.as_bytes()),
            Body::Extensions => {
                let extension = ";e".repeat(CHUNK_EXTRA_BYTES_MAX / 2 + 1);
                framed.extend(format!("1{extension}\r\n \r\n0\r\n\r\n").bytes());
            }
            Body::Trailers => {
                let trailer = "t:".repeat(CHUNK_EXTRA_BYTES_MAX / 2 + 1);
                framed.extend(format!("0\r\nx:{trailer}\r\n\r\n").bytes());
            }
            Body::TooLong | Body::ChunksTooLong => {
                framed.extend(format!("{:x}\r\n{{", BODY_BYTES_MAX).bytes());
            }
        }
    }
}

/// Bodies for an endpoint that names the model in the body. `{DEEP}` is deeper than is followed,
/// `{LONG}` longer than a name may be.
pub(super) const BODIES: &[&str] = &[
    "",
    " ",
    "x",
    "{",
    "[]",
    "\"model\"",
    "{}",
    "{\"model\":\"alpha/a\"",
    "{\"model\":\"alpha/a\"}}",
    "{\"model\":\"alpha/a\"} x",
    "{\"model\":\"alpha/a\",}",
    "{\"model\":\"alpha/a\",\"model\":\"alpha/a\"}",
    "{\"model\":\"alpha/a\",\"mod\\u0065l\":\"alpha/a\"}",
    "{\"model\":1}",
    "{\"model\":null}",
    "{\"model\":\"\"}",
    "{\"model\":\"alpha/a\\u0000\"}",
    "{\"model\":\"alpha/\\ud800\"}",
    "{\"model\":\"alpha/{LONG}\"}",
    "{\"a\":{DEEP}",
    "{\"model\":\"alpha/a\",\"stream\":true,\"stream\":false}",
    "{\"model\":\"alpha/a\",\"stream_options\":null,\"stream_options\":{}}",
    "{\"messages\":[{\"model\":\"alpha/a\"}]}",
];

/// Bodies for `/v1beta/models/alpha/m:embedContent`.
pub(super) const PATH_BODIES: &[&str] = &[
    "x",
    "{",
    "{\"model\":\"models/other\"}",
    "{\"model\":\"other/m\"}",
    "{\"model\":7}",
    "{\"model\":\"models/alpha/m\",\"model\":\"models/alpha/m\"}",
    "{\"content\":{DEEP}",
];

pub(super) fn body(text: &str) -> Vec<u8> {
    let text = text.replace("{LONG}", &"l".repeat(300)).replace("{DEEP}", &"[".repeat(200));
    text.into_bytes()
}
