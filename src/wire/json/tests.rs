use super::*;
use crate::testing::fuzz_json::{self, scanned};
use crate::testing::{documents, prng::Prng, splits};

const MODEL: &[&[Step]] = &[&[Step::Key("model")]];

/// Each watched value of a valid document, as (path, kind, text), whatever the cuts.
#[track_caller]
fn check(document: &str, watch: &[&'static [Step]], expected: &[(usize, Kind, &str)]) {
    splits::each_split(document.as_bytes(), |pieces| {
        let (events, result) = scanned(pieces, watch);
        assert_eq!(result, Ok(()), "{document}");
        let mut values: Vec<(usize, Kind, &str)> = Vec::new();
        let mut open: Vec<(usize, usize, u64)> = Vec::new();
        for event in events {
            match event {
                Event::Begins { path, kind, at, .. } => {
                    open.push((path, values.len(), at));
                    values.push((path, kind, ""));
                }
                Event::Ends { path, end } => {
                    let last = open.iter().rposition(|value| value.0 == path);
                    let (_, index, at) = open.remove(last.expect("begun"));
                    values[index].2 = &document[at as usize..end as usize];
                }
                Event::Repeats { .. } | Event::Misspelt { .. } => {}
            }
        }
        assert!(open.is_empty(), "{document}");
        assert_eq!(values, expected, "{document}");
    });
}

#[track_caller]
fn check_error(document: &[u8], error: JsonError, offset: usize) {
    splits::each_split(document, |pieces| {
        let (_, result) = scanned(pieces, MODEL);
        assert_eq!(result, Err((error, offset as u64)), "{}", document.escape_ascii());
    });
}

#[test]
fn finds_the_model_wherever_it_stands() {
    let found = |text| [(0, Kind::String, text)];
    check(r#"{"model":"a"}"#, MODEL, &found(r#""a""#));
    check(" {\r\n\t\"model\" :\n\"a\" } ", MODEL, &found(r#""a""#));
    check(r#"{"messages":[{"model":"x"}],"model":"a\"b"}"#, MODEL, &found(r#""a\"b""#));
    check(r#"{"a":{"model":"x"},"b":[["model"]],"model":"a"}"#, MODEL, &found(r#""a""#));
    check(r#"{"a":"\"model\":\"x\"","model":"a"}"#, MODEL, &found(r#""a""#));
    check(r#"{"n":-1.5e+3,"model":"a","t":true}"#, MODEL, &found(r#""a""#));
}

#[test]
fn compares_keys_by_what_they_spell() {
    for key in [r"mod\u0065l", r"\u006D\u006f\u0064\u0065\u006C", r"\u006dodel"] {
        check(&format!(r#"{{"{key}":"a"}}"#), MODEL, &[(0, Kind::String, r#""a""#)]);
    }
    for key in ["Model", "mode", "models", r"model\u0000", r"\u016dodel", r"mod\/el", "mödel", ""]
    {
        check(&format!(r#"{{"{key}":"a"}}"#), MODEL, &[]);
    }
    let slashed: &[&[Step]] = &[&[Step::Key("a/\n\"")]];
    check(r#"{"a\/\n\"":1}"#, slashed, &[(0, Kind::Number, "1")]);
}

#[test]
fn reports_every_kind_with_its_end() {
    let kinds = [
        (r#""s""#, Kind::String),
        ("-0.5E-7", Kind::Number),
        ("0", Kind::Number),
        ("true", Kind::True),
        ("false", Kind::False),
        ("null", Kind::Null),
        (r#"{"model":{"model":[]}}"#, Kind::Object),
        (r#"[1,[{}],"]"]"#, Kind::Array),
    ];
    for (value, kind) in kinds {
        check(&format!(r#"{{"model":{value}}}"#), MODEL, &[(0, kind, value)]);
        check(&format!("{{\"model\": {value} ,\"b\":0}}"), MODEL, &[(0, kind, value)]);
        check(value, &[&[]], &[(0, kind, value)]);
    }
}

#[test]
fn follows_paths_through_members_and_elements() {
    let watch: &[&[Step]] = &[
        &[Step::Key("response"), Step::Key("model")],
        &[Step::Key("requests"), Step::Each, Step::Key("model")],
        &[Step::Each, Step::Key("model")],
        &[Step::Key("requests")],
    ];
    check(
        r#"{"response":{"x":{"model":1},"model":2},"model":3}"#,
        watch,
        &[(0, Kind::Number, "2")],
    );
    check(
        r#"{"requests":[{"model":1},[{"model":2}],{"a":[],"model":3}]}"#,
        watch,
        &[
            (3, Kind::Array, r#"[{"model":1},[{"model":2}],{"a":[],"model":3}]"#),
            (1, Kind::Number, "1"),
            (1, Kind::Number, "3"),
        ],
    );
    check(
        "[{\"model\":1}\n,\r\n{\"b\":{\"model\":2}},{\"model\":3}]",
        watch,
        &[(2, Kind::Number, "1"), (2, Kind::Number, "3")],
    );
    check(
        r#"{"requests":{"model":1},"response":[{"model":2}]}"#,
        watch,
        &[(3, Kind::Object, r#"{"model":1}"#)],
    );
}

#[test]
fn reports_a_repeated_key_however_it_is_spelled() {
    let watch: &[&[Step]] =
        &[&[Step::Key("model")], &[Step::Key("a"), Step::Each, Step::Key("model")]];
    let cases: &[(&str, &[usize])] = &[
        (r#"{"model":1,"model":1}"#, &[0]),
        (r#"{"model":1,"b":{},"mod\u0065l":{"model":1}}"#, &[0]),
        (r#"{"a":[{"model":1},{"model":1}],"model":1}"#, &[]),
        (r#"{"a":[{"model":1,"model":1}]}"#, &[1]),
        (r#"{"a":0,"a":[{"model":1}]}"#, &[1]),
        (r#"{"b":{"model":1,"model":1}}"#, &[]),
    ];
    for (document, expected) in cases {
        splits::each_split(document.as_bytes(), |pieces| {
            let (events, result) = scanned(pieces, watch);
            assert_eq!(result, Ok(()));
            let repeated: Vec<usize> = events
                .iter()
                .filter_map(|event| match event {
                    Event::Repeats { path } => Some(*path),
                    _ => None,
                })
                .collect();
            assert_eq!(&repeated, expected, "{document}");
        });
    }
}

#[test]
fn tells_of_keys_in_another_case_where_that_is_wanted() {
    let cases: [(&str, &[usize]); 5] = [
        (r#"{"Model":1,"model":2}"#, &[0]),
        (r#"{"mode\u004c":1}"#, &[0]),
        (r#"{"model":1,"models":2,"mo":3,"m0del":4}"#, &[]),
        (r#"{"A":1,"a":[{"MODEL":{"model":1}}]}"#, &[1, 1]),
        (r#"{"b":{"Model":1}}"#, &[]),
    ];
    let watch: &[&[Step]] =
        &[&[Step::Key("model")], &[Step::Key("a"), Step::Each, Step::Key("model")]];
    for (document, expected) in cases {
        splits::each_split(document.as_bytes(), |pieces| {
            let mut misspelt = Vec::new();
            let mut scanner = Scanner::new(Watch::of(watch).in_any_case());
            for piece in pieces {
                let fed = scanner.feed(piece, &mut |event| match event {
                    Event::Misspelt { path } => misspelt.push(path),
                    // The key in the other case leads nowhere.
                    Event::Begins { at, .. } => assert!(document[..at as usize].ends_with("el\":")),
                    _ => {}
                });
                assert_eq!(fed, Ok(()));
            }
            assert_eq!(&misspelt, expected, "{document}");
            let (events, _) = scanned(pieces, watch);
            assert!(!events.iter().any(|event| matches!(event, Event::Misspelt { .. })));
        });
    }
}

#[test]
fn tells_what_stands_before_a_member() {
    let (events, _) = scanned(&[br#"{"a":[1,2], "model":1,"b":0}"#], MODEL);
    let begins = Event::Begins { path: 0, kind: Kind::Number, at: 20, after: 10 };
    assert_eq!(events, [begins, Event::Ends { path: 0, end: 21 }]);
    let (events, _) = scanned(&[br#" [ {"model":1}]"#], &[&[Step::Each, Step::Key("model")]]);
    assert!(matches!(events[0], Event::Begins { at: 12, after: 3, .. }));
}

#[test]
fn names_the_place_of_each_error() {
    check_error(br#"{"a":?}"#, JsonError::Value, 5);
    check_error(b"[1,]", JsonError::Value, 3);
    check_error(b"\xEF\xBB\xBF{}", JsonError::Value, 0);
    check_error(b"[nulL]", JsonError::Word, 4);
    check_error(b"[01]", JsonError::Comma, 2);
    check_error(b"[-]", JsonError::Number, 2);
    check_error(b"[1.]", JsonError::Number, 3);
    check_error(b"[1e+]", JsonError::Number, 4);
    check_error(br#"["\q"]"#, JsonError::Escape, 3);
    check_error(br#"["\u00g0"]"#, JsonError::Escape, 6);
    check_error(br#"{"mod\el":1}"#, JsonError::Escape, 6);
    check_error(b"{a:1}", JsonError::Key, 1);
    check_error(br#"{"a":1,}"#, JsonError::Key, 7);
    check_error(br#"{"a" 1}"#, JsonError::Colon, 5);
    check_error(br#"{"a":1]"#, JsonError::Comma, 6);
    check_error(b"[1}", JsonError::Comma, 2);
    check_error(b"[1 2]", JsonError::Comma, 3);
    check_error(br#"{"model":"a"}{"model":"b"}"#, JsonError::Trailing, 13);
    check_error(b"1 1", JsonError::Trailing, 2);
    for truncated in
        ["", " ", "{", "[1", r#"{"model""#, r#"{"model":"a"#, "tru", "-", "1e", "\"\\u0"]
    {
        check_error(truncated.as_bytes(), JsonError::Truncated, truncated.len());
    }
}

#[test]
fn an_error_stays() {
    let mut scanner = Scanner::new(Watch::of(MODEL));
    assert_eq!(scanner.feed(b"{?", &mut |_| {}), Err(JsonError::Key));
    assert_eq!(scanner.feed(b"\"a\":1}", &mut |_| {}), Err(JsonError::Key));
    assert_eq!(scanner.finish(&mut |_| {}), Err(JsonError::Key));
    assert_eq!(scanner.offset(), 1);
}

#[test]
fn forbids_control_bytes_between_values() {
    check_error(b"[\x0B1]", JsonError::Value, 1);
    check_error(b"[1\x00]", JsonError::Comma, 2);
}

#[test]
fn allows_control_bytes_and_broken_utf8_inside_strings() {
    let document = b"{\"a\":\"\x00\n\xFF\xC0\",\"model\":\"\xE4\"}";
    let (events, result) = scanned(&[document], MODEL);
    assert_eq!((events.len(), result), (2, Ok(())));
}

#[test]
fn depth_ends_at_its_ceiling() {
    for (open, close) in [("[", "]"), ("{\"model\":", "}")] {
        let nested = |depth: usize| {
            let inside = if open == "[" { "" } else { "0" };
            format!("{}{inside}{}", open.repeat(depth), close.repeat(depth))
        };
        let deepest = nested(JSON_DEPTH_MAX);
        assert_eq!(scanned(&[deepest.as_bytes()], MODEL).1, Ok(()));
        assert_eq!(scanned(&splits::bytewise(deepest.as_bytes()), MODEL).1, Ok(()));
        let too_deep = nested(JSON_DEPTH_MAX + 1);
        let at = (JSON_DEPTH_MAX * open.len()) as u64;
        assert_eq!(scanned(&[too_deep.as_bytes()], MODEL).1, Err((JsonError::Depth, at)));
        let hopeless = open.repeat(100_000);
        assert_eq!(scanned(&[hopeless.as_bytes()], MODEL).1, Err((JsonError::Depth, at)));
    }
}

#[test]
fn remembers_which_of_many_open_containers_are_objects() {
    let open: String = (0..64).map(|_| "[{\"a\":").collect();
    let close = "}]".repeat(64);
    let document = format!("{open}1{close}");
    assert_eq!(scanned(&[document.as_bytes()], MODEL).1, Ok(()));
    let swapped = format!("{open}1{}", close.replacen("}]", "]}", 1));
    assert!(matches!(scanned(&[swapped.as_bytes()], MODEL).1, Err((JsonError::Comma, _))));
}

#[test]
fn a_huge_string_is_passed_over() {
    let mut document = b"{\"image\":\"".to_vec();
    document.resize(8 << 20, b'A');
    let at = document.len() as u64 + 10;
    document.extend_from_slice(b"\",\"model\":\"a\"}");
    let (events, result) = scanned(&[&document], MODEL);
    assert_eq!(result, Ok(()));
    assert_eq!(events[1], Event::Ends { path: 0, end: at + 3 });
}

#[test]
fn skipped_bytes_count_but_are_not_read() {
    let mut events = Vec::new();
    let mut scanner = Scanner::new(Watch::of(MODEL));
    scanner.skip(6);
    assert_eq!(scanner.feed(b"{\"mod", &mut |event| events.push(event)), Ok(()));
    scanner.skip(100);
    assert_eq!(scanner.feed(b"el\":1}", &mut |event| events.push(event)), Ok(()));
    assert!(scanner.is_done());
    assert_eq!(events[1], Event::Ends { path: 0, end: 116 });
    scanner.reset();
    assert_eq!((scanner.offset(), scanner.is_done()), (0, false));
    assert_eq!(scanner.feed(b"{}", &mut |_| {}), Ok(()));
    assert!(scanner.is_done());
}

#[test]
fn a_mark_in_front_is_passed_over_where_it_may_stand() {
    let read = |document: &[u8]| {
        let mut results = Vec::new();
        splits::each_split(document, |pieces| {
            let mut scanner = Scanner::new(Watch::of(MODEL)).behind_mark();
            let mut on = |_| {};
            let fed = pieces.iter().try_for_each(|piece| scanner.feed(piece, &mut on));
            let result = fed.and_then(|()| scanner.finish(&mut on));
            results.push((result, scanner.offset()));
        });
        assert!(results.iter().all(|result| *result == results[0]));
        results[0]
    };
    assert_eq!(read(b"\xEF\xBB\xBF{}"), (Ok(()), 5));
    assert_eq!(read(b" {}"), (Ok(()), 3));
    assert_eq!(read(b"\xEF\xBB{}"), (Err(JsonError::Value), 2));
    assert_eq!(read(b"\xEF\xBB\xBF\xEF{}"), (Err(JsonError::Value), 3));
    assert_eq!(read(b"\xEF"), (Err(JsonError::Truncated), 1));
    assert_eq!(scanned(&[b"\xEF\xBB\xBF{}"], MODEL).1, Err((JsonError::Value, 0)));
}

#[test]
fn unescape_takes_literals_only() {
    let cases = [
        (r#""""#, Some("")),
        (r#""a\/b\\\"\b\f\n\r\t""#, Some("a/b\\\"\u{8}\u{c}\n\r\t")),
        (r#""\u00e9\uD83E\udd80é""#, Some("é🦀é")),
        (r#""\uD83E""#, None),
        (r#""\udd80""#, None),
        (r#""\uD83E\u0041""#, None),
        (r#""\uD83Ex""#, None),
        (r#""\u12""#, None),
        (r#""\q""#, None),
        (r#""\""#, None),
        (r#"""#, None),
        (r#""a"b""#, None),
        ("a", None),
        ("", None),
    ];
    for (literal, text) in cases {
        assert_eq!(unescape(literal.as_bytes()).as_deref(), text, "{literal}");
    }
    assert_eq!(unescape(b"\"\xFF\""), None);
}

#[test]
fn escape_leaves_no_character_that_ends_a_line() {
    let mut out = Vec::new();
    escape("a\"\\\n\r\t\0\u{1b}\u{7f}\u{85}\u{2028}\u{2029}é", &mut out);
    let expected = r#""a\"\\\n\r\t\u0000\u001b\u007f\u0085\u2028\u2029é""#;
    assert_eq!(String::from_utf8(out).as_deref(), Ok(expected));
}

#[test]
fn agrees_with_the_naive_reader_on_random_documents() {
    for seed in 0..3_000 {
        let mut prng = Prng::new(seed);
        let document = documents::json(&mut prng);
        let mutated = documents::mutated(document.clone(), &mut prng);
        let outcome = std::panic::catch_unwind(|| {
            assert_eq!(scanned(&[&document], MODEL).1, Ok(()));
            fuzz_json::scanner(&document);
            fuzz_json::scanner(&mutated);
            fuzz_json::literal(&mutated);
        });
        assert!(outcome.is_ok(), "seed {seed}: {}", document.escape_ascii());
    }
}
