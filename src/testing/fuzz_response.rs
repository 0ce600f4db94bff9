//! Laws of the heads that upstreams answer with, for any bytes.

use super::fuzz_http::prng;
use super::splits;
use crate::limits::HEADER_COUNT_MAX;
use crate::wire::header;
use crate::wire::reply::{self, Framing, Malformed, ReplyHead};

type Parse = fn(&[u8]) -> Result<(Option<ReplyHead>, usize), Malformed>;

/// What a connection makes of these pieces: the head, and how many bytes were used up to its end.
fn arrived(parse: Parse, pieces: &[&[u8]]) -> Result<(Option<ReplyHead>, usize), Malformed> {
    let (mut unread, mut taken) = (Vec::new(), 0);
    for piece in pieces {
        unread.extend_from_slice(piece);
        let (head, used) = parse(&unread)?;
        unread.drain(..used);
        taken += used;
        if head.is_some() {
            return Ok((head, taken));
        }
    }
    Ok((None, taken))
}

/// A head in a form that can be compared.
fn seen(result: &Result<(Option<ReplyHead>, usize), Malformed>) -> String {
    format!("{result:?}")
}

/// A head depends on no cut, and one that is taken is what a reader of lines takes it for.
pub fn head(data: &[u8]) {
    let whole = reply::parse(data);
    check(reply::parse, data, &whole, false);
    let switch = reply::parse_switch(data);
    check(reply::parse_switch, data, &switch, true);
    let is_switch = matches!(&switch, Ok((Some(head), _)) if head.status == 101);
    assert!(seen(&whole) == seen(&switch) || (is_switch && whole.is_err()));
}

fn check(
    parse: Parse,
    data: &[u8],
    whole: &Result<(Option<ReplyHead>, usize), Malformed>,
    switches: bool,
) {
    // Of nothing nothing comes.
    let pieces = if data.is_empty() { vec![data] } else { splits::bytewise(data) };
    assert_eq!(seen(&arrived(parse, &pieces)), seen(whole));
    let mut pieces = splits::at_random(data, &mut prng(data));
    pieces.push(b"");
    assert_eq!(seen(&arrived(parse, &pieces)), seen(whole));
    let Ok((head, used)) = whole else { return };
    let mut rest = &data[..*used];
    while !rest.is_empty() {
        // Empty lines before a head are none of it.
        rest = rest.trim_ascii_start();
        let end = memchr::memmem::find(rest, b"\r\n\r\n").expect("a head ends with a line") + 4;
        let (text, behind) = rest.split_at(end);
        rest = behind;
        match head {
            Some(head) if rest.is_empty() => lines(head, text),
            _ => interim(text, switches),
        }
    }
}

/// What comes before the head that counts.
fn interim(text: &[u8], switches: bool) {
    let status = text.get(9..12).expect("a status");
    assert!(status[0] == b'1' && (!switches || status != b"101"), "{status:?} was passed over");
}

/// Splits the same bytes at the ends of lines.
fn lines(head: &ReplyHead, text: &[u8]) {
    let all: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    let [line, fields @ .., b"\r", b""] = &all[..] else { panic!("the head's end is wrong") };
    assert!(all[..all.len() - 1].iter().all(|line| line.ends_with(b"\r")));
    let http11 = match line.get(..9) {
        Some(b"HTTP/1.1 ") => true,
        Some(b"HTTP/1.0 ") => false,
        _ => panic!("another version"),
    };
    assert_eq!(line[9..12], *head.status.to_string().as_bytes());
    assert!(matches!(line[12], b' ' | b'\r') && (head.status == 101 || head.status >= 200));
    assert!(fields.len() == head.headers.len() && fields.len() <= HEADER_COUNT_MAX);
    for (line, (name, value)) in fields.iter().zip(head.headers.iter()) {
        let colon = line.iter().position(|byte| *byte == b':').expect("a field has a colon");
        assert_eq!(line[..colon].to_ascii_lowercase(), name.as_bytes());
        let after = line[colon + 1..].strip_suffix(b"\r").expect("a field ends in CRLF");
        assert_eq!(blanks_off(after), value);
        assert!(header::is_name(name.as_bytes()) && header::is_value(value));
    }
    let all = |name: &'static str| head.headers.all(name).collect::<Vec<_>>();
    let framing = match (&all("content-length")[..], &all("transfer-encoding")[..]) {
        ([], []) => Framing::UntilClose,
        ([length], []) => {
            assert!(length.iter().all(u8::is_ascii_digit));
            let text = std::str::from_utf8(length).expect("digits");
            Framing::Length(text.parse().expect("a number"))
        }
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => Framing::Chunked,
        other => panic!("ambiguous framing passed: {other:?}"),
    };
    assert_eq!(head.framing, framing);
    let connection = all("connection").join(&b',').to_ascii_lowercase();
    let says = |what: &[u8]| {
        connection.split(|byte| *byte == b',').any(|element| element.trim_ascii() == what)
    };
    assert_eq!(head.keep_alive, !says(b"close") && (http11 || says(b"keep-alive")));
}

fn blanks_off(value: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !is_blank(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !is_blank(byte)).map_or(start, |last| last + 1);
    &value[start..end]
}

/// Sound heads to begin from.
pub const HEADS: &[&[u8]] = &[
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\ncontent-length: 2\r\n\r\n{}",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 \r\nlink: a\r\n\r\nHTTP/1.1 429\r\n\
      Transfer-Encoding: Chunked\r\nretry-after: 1\r\n\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: x, Keep-Alive\r\nX-A:\t v \t\r\nx-b:\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n\x81",
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
    b",",
    b"0",
    b"\xff",
    b"\x7f",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    b"HTTP/1.0",
    b"Content-Length: 1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"close",
    b"chunked",
    b"a: b\r\n",
    b" folded: c\r\n",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::mutate;

    #[test]
    fn laws_of_heads_hold_for_mutated_replies() {
        mutate::run(HEADS, SPICES, 5_000, head);
    }
}
