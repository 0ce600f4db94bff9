use super::*;
use crate::testing::fuzz_sse::{self, split};
use crate::testing::{documents, prng::Prng, splits};

/// Pieces are divided by `|` here; what follows the last one is held.
#[track_caller]
fn check(marked: &str) {
    let mut pieces: Vec<Vec<u8>> = marked.split('|').map(|piece| piece.into()).collect();
    let held = pieces.pop().unwrap_or_default();
    let stream = marked.replace('|', "");
    splits::each_split(stream.as_bytes(), |parts| {
        assert_eq!(split(parts), (pieces.clone(), held.clone()), "{marked:?}");
    });
    fuzz_sse::splitter(stream.as_bytes());
}

#[test]
fn an_event_ends_with_its_blank_line() {
    check("data: a\n\n|data: b\n\n|");
    check("event: x\ndata: a\n\n|data: b\n");
    check("data: a\r\n\r\n|data: b\r\n\r\n|");
    check("data: a\r\r|data: b\r\r|");
    check("id\nretry: 5\n\n|");
    check("");
    check("data: a");
}

#[test]
fn line_ends_may_be_mixed() {
    check("data: a\n\r|\ndata: b\n\n|");
    check("data: a\r\n\n|data: b\r\n\r\n|");
    check("data: a\n\r|data: b\r\n\r\n|data: c\n\n|");
    check("data: a\r\r|\n");
}

#[test]
fn crlf_cut_between_reads_is_one_line_end() {
    let mut splitter = Splitter::new();
    assert_eq!(splitter.feed(b"data: a\r"), None);
    assert_eq!(splitter.feed(b"\n\r"), None);
    assert_eq!(splitter.feed(b"\ndata"), Some(1));
    let mut splitter = Splitter::new();
    assert_eq!(splitter.feed(b"data: a\r\n\r"), None);
    assert_eq!(splitter.feed(b"data"), Some(0));
    assert_eq!(splitter.feed(b"data"), None);
}

#[test]
fn a_stream_of_bare_cr_does_not_wait_for_the_next_event() {
    let mut splitter = Splitter::new();
    assert_eq!(splitter.feed(b"data: a\r\r"), Some(9));
}

#[test]
fn comments_between_events_need_not_wait() {
    check(": ping\n|\n|data: a\n\n|");
    check(": ping\r\n|: ping\r\n|data: a\n");
    check("data: a\n: inside\ndata: b\n\n|");
    check(":\r|:\r|\r|data");
}

#[test]
fn blank_lines_stand_alone() {
    check("\n|\n|data: a\n\n|\n|");
    check("data: a\r\n\r\n|\r\n|\r\n|data");
}

#[test]
fn finds_the_values_of_data_lines() {
    let cases: &[(&str, &[&str])] = &[
        ("data: a\n\n", &["a"]),
        ("data:a\r\n\r\n", &["a"]),
        ("data:  a \r\r", &[" a "]),
        ("event: x\ndata: a\nid: data: 1\ndata: b\n\n", &["a", "b"]),
        ("data\ndata:\ndata: \n\n", &["", "", ""]),
        ("datas: a\nDATA: b\n data: c\n: data: d\n\n", &[]),
        ("\ndata: a", &["a"]),
        ("data: a\r", &["a"]),
        ("", &[]),
    ];
    for (piece, expected) in cases {
        let values: Vec<&str> = data_lines(piece.as_bytes()).map(|span| &piece[span]).collect();
        assert_eq!(&values, expected, "{piece:?}");
    }
}

#[test]
fn pieces_are_events_in_random_streams() {
    for seed in 0..2_000 {
        let mut prng = Prng::new(seed);
        let stream = documents::stream(&mut prng);
        let mutated = documents::mutated(stream.clone(), &mut prng);
        let outcome = std::panic::catch_unwind(|| {
            fuzz_sse::splitter(&stream);
            fuzz_sse::splitter(&mutated);
        });
        assert!(outcome.is_ok(), "seed {seed}: {}", stream.escape_ascii());
    }
}
