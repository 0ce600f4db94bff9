use super::*;
use crate::testing::prng::Prng;

const MAX: u64 = 1 << 20;

/// Body, bytes used and whether it ended; or the error and the body bytes handed out before it.
type Outcome = Result<(Vec<u8>, usize, bool), (WireError, Vec<u8>)>;

fn decode(input: &[u8], ends: &[usize], framing: Framing, max: u64) -> Outcome {
    let mut decoder = Decoder::new(framing, max).map_err(|error| (error, Vec::new()))?;
    let mut out = Vec::new();
    let mut used = 0;
    for &end in ends {
        match decoder.feed(&input[used..end], &mut out) {
            Ok(taken) => used += taken,
            Err(error) => return Err((error, out)),
        }
        if decoder.is_done() {
            break;
        }
        assert_eq!(used, end, "only the end of the body leaves bytes unused");
    }
    Ok((out, used, decoder.is_done()))
}

/// Decodes whole, byte by byte and at every two-way cut; all must agree.
#[track_caller]
fn check_within(input: &[u8], framing: Framing, max: u64) -> Outcome {
    let whole = decode(input, &[input.len()], framing, max);
    let cuts = (0..=input.len()).map(|cut| vec![cut, input.len()]);
    for ends in cuts.chain([(0..=input.len()).collect()]) {
        assert_eq!(decode(input, &ends, framing, max), whole, "{:?}", input.escape_ascii());
    }
    whole
}

#[track_caller]
fn taken(input: impl AsRef<[u8]>, body: &str, rest: &str) {
    let input = input.as_ref();
    let expected = (body.as_bytes().to_vec(), input.len() - rest.len(), true);
    assert_eq!(check_within(input, Framing::Chunked, MAX), Ok(expected));
}

#[track_caller]
fn refused(input: impl AsRef<[u8]>, error: WireError) {
    let outcome = check_within(input.as_ref(), Framing::Chunked, MAX);
    assert_eq!(outcome.map_err(|(error, _)| error), Err(error));
}

#[test]
fn length_leaves_pipelined_request_untouched() {
    let outcome = check_within(b"helloGET /", Framing::Length(5), MAX);
    assert_eq!(outcome, Ok((b"hello".to_vec(), 5, true)));
    assert_eq!(check_within(b"hel", Framing::Length(5), MAX), Ok((b"hel".to_vec(), 3, false)));
    for framing in [Framing::None, Framing::Length(0)] {
        assert_eq!(check_within(b"GET /", framing, MAX), Ok((Vec::new(), 0, true)));
    }
}

#[test]
fn chunks_leave_pipelined_request_untouched() {
    taken("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\nGET /", "hello world", "GET /");
    taken("0\r\n\r\n\r\n", "", "\r\n");
    taken("A\r\n0123456789\r\n0a\r\n0123456789\r\n000\r\n\r\n", "01234567890123456789", "");
}

#[test]
fn unfinished_chunks_ask_for_more() {
    for input in ["", "5", "5\r\nhel", "5\r\nhello\r\n", "0\r\n", "0\r\nA: b\r\n", "0\r\n\r"] {
        let outcome = check_within(input.as_bytes(), Framing::Chunked, MAX);
        assert!(matches!(outcome, Ok((_, _, false))), "{input:?}: {outcome:?}");
    }
}

#[test]
fn forbids_sizes_that_are_not_plain_hexadecimal() {
    for size in ["", "g", "0x5", "+5", "-5", " 5", "5 ", "5 6", "5_", "\t5", "5\t"] {
        refused(format!("{size}\r\nhello\r\n0\r\n\r\n"), WireError::ChunkSize);
    }
    refused(format!("{}5\r\n", "0".repeat(16)), WireError::ChunkSize);
    refused("\r\n5\r\nhello", WireError::ChunkSize);
}

#[test]
fn allows_sizes_of_one_to_sixteen_digits_in_any_case() {
    taken(format!("{}5\r\nhello\r\n0\r\n\r\n", "0".repeat(15)), "hello", "");
    taken("b\r\nhello world\r\nB\r\nhello world\r\n0\r\n\r\n", "hello worldhello world", "");
}

#[test]
fn forbids_lines_without_crlf() {
    refused("5\nhello\r\n0\r\n\r\n", WireError::ChunkLine);
    refused("5\rhello\r\n0\r\n\r\n", WireError::ChunkLine);
    refused("5;a\nhello\r\n0\r\n\r\n", WireError::ChunkLine);
    refused("5;a\rb\r\nhello\r\n0\r\n\r\n", WireError::ChunkLine);
    refused("5;a\0\r\nhello\r\n0\r\n\r\n", WireError::ChunkLine);
    refused("5\r\nhello0\r\n\r\n", WireError::ChunkEnd);
    refused("5\r\nhello\n0\r\n\r\n", WireError::ChunkEnd);
    refused("5\r\nhello\rx0\r\n\r\n", WireError::ChunkEnd);
    refused("5\r\nhello!\r\n0\r\n\r\n", WireError::ChunkEnd);
}

#[test]
fn allows_extensions_and_drops_them() {
    taken("5;a=b;c=\"d;e\"\r\nhello\r\n0;last\r\n\r\n", "hello", "");
    taken("5 ; a = b\r\nhello\r\n5\t;\r\nworld\r\n0\r\n\r\n", "helloworld", "");
}

#[test]
fn forbids_more_extension_bytes_than_the_ceiling() {
    let body = |length: usize| format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(length - 1));
    let run = |input: String| decode(input.as_bytes(), &[input.len()], Framing::Chunked, MAX);
    assert!(run(body(CHUNK_EXTRA_BYTES_MAX)).is_ok());
    let outcome = run(body(CHUNK_EXTRA_BYTES_MAX + 1)).map_err(|(error, _)| error);
    assert_eq!(outcome, Err(WireError::ExtensionsTooLong));
    // Spread over many chunks they count as well.
    let many = "1;xxxxxxx\r\na\r\n".repeat(CHUNK_EXTRA_BYTES_MAX / 8 + 1);
    assert_eq!(run(many).map_err(|(error, _)| error), Err(WireError::ExtensionsTooLong));
}

#[test]
fn allows_trailers_and_drops_them() {
    taken("1\r\na\r\n0\r\nContent-Length: 5\r\nX:\ty \r\n\r\nrest", "a", "rest");
}

#[test]
fn forbids_trailers_that_are_not_fields_or_too_long() {
    for trailer in [": v", "a b: v", "no colon", " folded: v", "a: b\0", "a: b\rc"] {
        refused(format!("0\r\n{trailer}\r\n\r\n"), WireError::Trailer);
    }
    refused("0\r\na: b\n\r\n", WireError::Trailer);
    refused("0\r\n\n", WireError::Trailer);
    refused("0\r\n\rx", WireError::Trailer);
    let body = |length: usize| format!("0\r\na:{}\r\n\r\n", "x".repeat(length - 3));
    let run = |input: String| decode(input.as_bytes(), &[input.len()], Framing::Chunked, MAX);
    assert!(run(body(CHUNK_EXTRA_BYTES_MAX)).is_ok());
    let outcome = run(body(CHUNK_EXTRA_BYTES_MAX + 1)).map_err(|(error, _)| error);
    assert_eq!(outcome, Err(WireError::TrailersTooLong));
}

#[test]
fn ceiling_is_compared_with_what_is_announced() {
    let length = Decoder::new(Framing::Length(11), 10).err();
    assert_eq!(length, Some(WireError::BodyTooLong));
    assert!(Decoder::new(Framing::Length(10), 10).is_ok());
    let run = |input: &str| check_within(input.as_bytes(), Framing::Chunked, 10);
    assert!(run("a\r\n0123456789\r\n0\r\n\r\n").is_ok());
    assert_eq!(run("b\r\n"), Err((WireError::BodyTooLong, Vec::new())));
    assert_eq!(run("ffffffffffffffff\r\n"), Err((WireError::BodyTooLong, Vec::new())));
    let sum = run("9\r\n012345678\r\n2\r\n01\r\n0\r\n\r\n");
    assert_eq!(sum, Err((WireError::BodyTooLong, b"012345678".to_vec())));
}

#[test]
fn announced_bytes_size_the_callers_buffer() {
    let mut decoder = Decoder::new(Framing::Length(7), MAX).expect("below the ceiling");
    assert_eq!(decoder.bytes_announced(), 7);
    decoder.feed(b"abc", &mut Vec::new()).expect("legal");
    assert_eq!(decoder.bytes_announced(), 4);
    let mut decoder = Decoder::new(Framing::Chunked, MAX).expect("below the ceiling");
    assert_eq!(decoder.bytes_announced(), 0);
    decoder.feed(b"ff\r\nx", &mut Vec::new()).expect("legal");
    assert_eq!(decoder.bytes_announced(), 254);
}

#[test]
fn chunk_lines_are_written_in_hexadecimal() {
    for len in [1, 9, 10, 15, 16, 255, 256, 4096, 65_535, 1 << 20, usize::MAX] {
        let mut out = Vec::new();
        chunk_open(len, &mut out);
        assert_eq!(out, format!("{len:x}\r\n").into_bytes());
    }
}

#[test]
fn decoding_what_was_encoded_gives_the_same_bytes() {
    for seed in 0..200 {
        let mut prng = Prng::new(seed);
        let len = prng.below(2_000);
        let body: Vec<u8> = (0..len).map(|_| prng.next_u64() as u8).collect();
        let mut encoded = Vec::new();
        let mut rest = &body[..];
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(1 + prng.below(rest.len()));
            chunk_open(chunk.len(), &mut encoded);
            encoded.extend_from_slice(chunk);
            encoded.extend_from_slice(CHUNK_CLOSE);
            rest = after;
        }
        encoded.extend_from_slice(LAST_CHUNK);
        let used = encoded.len();
        encoded.extend_from_slice(b"GET /");
        let mut ends: Vec<usize> = (0..20).map(|_| prng.below(encoded.len() + 1)).collect();
        ends.push(encoded.len());
        ends.sort_unstable();
        let outcome = decode(&encoded, &ends, Framing::Chunked, MAX);
        assert_eq!(outcome, Ok((body, used, true)), "seed {seed}");
    }
}
