use super::*;
use crate::dialect::endpoint::ENDPOINTS;
use crate::testing::fuzz_json::rewritten;
use crate::testing::{documents, fuzz_json, fuzz_sse, prng::Prng, splits};
use crate::wire::json::STEPS_MAX;

fn endpoint(name: &str) -> &'static Endpoint {
    ENDPOINTS.iter().find(|endpoint| endpoint.name == name).expect("a row of the table")
}

fn renaming() -> Change {
    Change { model: Some("a/b".to_owned()), ..Change::default() }
}

fn hiding() -> Change {
    Change { hide_usage: true, ..Change::default() }
}

#[test]
fn the_table_fits_the_watch_lists() {
    for endpoint in ENDPOINTS {
        assert!(endpoint.reply_model.len() < STEPS_MAX, "{}", endpoint.name);
        assert!(endpoint.event_model.len() <= STEPS_MAX, "{}", endpoint.name);
    }
}

#[track_caller]
fn check(input: &[u8], expected: &[u8], rewriter: impl Fn() -> Rewriter) {
    splits::each_split(input, |pieces| {
        let out = rewritten(rewriter(), pieces);
        assert_eq!(out.escape_ascii().to_string(), expected.escape_ascii().to_string());
    });
}

#[track_caller]
fn check_whole(name: &str, input: &str, expected: &str) {
    let rewriter = || Rewriter::whole(endpoint(name), renaming());
    check(input.as_bytes(), expected.as_bytes(), rewriter);
}

#[track_caller]
fn check_stream(name: &str, input: &str, expected: &str) {
    let rewriter = || Rewriter::stream(endpoint(name), renaming(), 4_096);
    check(input.as_bytes(), expected.as_bytes(), rewriter);
}

#[track_caller]
fn check_hidden(input: &str, expected: &str) {
    let rewriter = || Rewriter::stream(endpoint("chat.completions"), hiding(), 4_096);
    check(input.as_bytes(), expected.as_bytes(), rewriter);
}

#[test]
fn a_whole_reply_may_have_a_byte_order_mark_in_front() {
    for (input, expected) in [
        ("\u{feff}{\"model\":\"x\"}", "\u{feff}{\"model\":\"a/b\"}"),
        ("\u{feff} [{\"model\":\"x\"}]", "\u{feff} [{\"model\":\"a/b\"}]"),
        ("\u{feff}\u{feff}{\"model\":\"x\"}", "\u{feff}\u{feff}{\"model\":\"x\"}"),
        (" \u{feff}{\"model\":\"x\"}", " \u{feff}{\"model\":\"x\"}"),
    ] {
        check_whole("chat.completions", input, expected);
    }
    // Half of one is none.
    let half = b"\xEF\xBB{\"model\":\"x\"}";
    check(half, half, || Rewriter::whole(endpoint("chat.completions"), renaming()));
}

#[test]
fn whole_reply_gets_its_name_back() {
    let chat = "chat.completions";
    check_whole(chat, r#"{"id":"1","model":"gpt-2025"}"#, r#"{"id":"1","model":"a/b"}"#);
    check_whole(
        chat,
        "{\r\n \"mod\\u0065l\" : \"\\u0067\\/\\\"é\" }\n",
        "{\r\n \"mod\\u0065l\" : \"a/b\" }\n",
    );
    check_whole(chat, r#"{"model":""}"#, r#"{"model":"a/b"}"#);
    check_whole("responses", r#"{"model":"x","tools":[]}"#, r#"{"model":"a/b","tools":[]}"#);
    check_whole("messages", r#"{"model":"x","n":1E0}"#, r#"{"model":"a/b","n":1E0}"#);
    check_whole("embeddings", r#"{"data":[0.10],"model":"x"}"#, r#"{"data":[0.10],"model":"a/b"}"#);
    check_whole("generateContent", r#"{"modelVersion": "x"}"#, r#"{"modelVersion": "a/b"}"#);
}

#[test]
fn whole_reply_keeps_the_same_words_elsewhere() {
    for kept in [
        r#"{"choices":[{"message":{"content":"\"model\":\"x\"","model":"x"}}]}"#,
        r#"{"metadata":{"model":"x"}}"#,
        r#"{"model":null}"#,
        r#"{"model":{"model":"x"}}"#,
        r#"{"model":["x"]}"#,
        r#"{"response":{"model":"x"},"Model":"x"}"#,
        r#"{"error":{"message":"no model"}}"#,
        r#""model""#,
        "",
    ] {
        check_whole("chat.completions", kept, kept);
    }
    check_whole("messages.count_tokens", r#"{"model":"x"}"#, r#"{"model":"x"}"#);
}

#[test]
fn array_of_replies_gets_its_name_back_in_each() {
    let array = |first: &str, second: &str| {
        let first = format!("{{\n  \"modelVersion\": \"{first}\"\n}}");
        let second =
            format!("{{\"c\":[{{\"modelVersion\":\"x\"}}],\"modelVersion\":\"{second}\"}}");
        format!("[{first}\n,\r\n{second}\n]\n")
    };
    check_whole("streamGenerateContent", &array("x", "y"), &array("a/b", "a/b"));
}

#[test]
fn broken_reply_passes_from_its_break_on() {
    let chat = "chat.completions";
    check_whole(chat, "<html>\"model\":\"x\"</html>", "<html>\"model\":\"x\"</html>");
    check_whole(chat, r#"{"model":"x",,"model":"x"}"#, r#"{"model":"a/b",,"model":"x"}"#);
    check_whole(chat, r#"{"a":1"model":"x"}"#, r#"{"a":1"model":"x"}"#);
    check_whole(chat, r#"{"model":"x"}{"model":"x"}"#, r#"{"model":"a/b"}{"model":"x"}"#);
    check_whole(chat, r#"{"model":"x\q"}"#, r#"{"model":"a/b"q"}"#);
    check(
        b"{\"a\":\"\xFF\xC0\",\"model\":\"\xE4\"}",
        b"{\"a\":\"\xFF\xC0\",\"model\":\"a/b\"}",
        || Rewriter::whole(endpoint(chat), renaming()),
    );
}

#[test]
fn bytes_of_a_whole_reply_leave_as_they_come() {
    let mut rewriter = Rewriter::whole(endpoint("messages"), renaming());
    let mut out = Vec::new();
    for (input, expected) in [
        (&br#"{"id":"1","mo"#[..], &br#"{"id":"1","mo"#[..]),
        (br#"del": ""#, br#"del": "a/b""#),
        (b"claude", b""),
        (br#"-x","#, b","),
    ] {
        out.clear();
        assert_eq!(rewriter.feed(input, &mut out), Ok(()));
        assert_eq!(out, expected);
        assert_eq!(rewriter.held(), 0);
    }
    assert!(!rewriter.is_stream());
    assert!(!rewriter.at_event_border());
}

#[test]
fn events_get_their_name_back() {
    // `$` stands for the model.
    let cases = [
        ("chat.completions", "data: {\"id\":\"1\",\"model\":$,\"choices\":[]}\n\ndata: [DONE]\n\n"),
        ("chat.completions", "data: {\"model\":$}\n\ndata: {\"model\":$}\n\n"),
        ("responses", "event: a\r\ndata: {\"response\":{\"a\":[],\"model\":$}}\r\n\r\n"),
        ("responses", "data: {\"response\":{\"metadata\":{\"model\":1},\"model\":$}}\n\n"),
        ("messages", "event: a\ndata:{\"type\":\"a\",\"message\":{\"model\":$}}\n\n"),
        ("messages", "event: ping\ndata: {\"type\": \"ping\"}\n\n"),
        ("streamGenerateContent", "data: {\"modelVersion\": $,\"a\":\"\\u2028\"}\r\n\r\n"),
    ];
    for (name, template) in cases {
        for model in ["\"x\"", "\"\"", "\"\\u0078\\\"\\/é\""] {
            let (input, expected) =
                (template.replace('$', model), template.replace('$', "\"a/b\""));
            check_stream(name, &input, &expected);
        }
    }
    let kept = "data: {\"model\":\"x\",\"response\":{\"metadata\":{\"model\":\"x\"}}}\n\n";
    check_stream("responses", kept, kept);
}

#[test]
fn odd_events_keep_their_shape() {
    check_stream(
        "chat.completions",
        "\u{feff}data: {\"model\":\ndata\n: note\ndata:\"x\",\ndata: \"a\":1}\n\n",
        "\u{feff}data: {\"model\":\ndata\n: note\ndata:\"a/b\",\ndata: \"a\":1}\n\n",
    );
    check_stream(
        "chat.completions",
        "data:{\"model\":\"x\"}\r\r: ping\r",
        "data:{\"model\":\"a/b\"}\r\r: ping\r",
    );
    for kept in [
        ": OPENROUTER PROCESSING\n\n\n\nid: 1\nretry: 5\n\n",
        "data: {\"model\":\ndata:\"x\ndata: y\"}\n\n",
        "data: \"model\"\n\ndata: 7\n\ndata: \n\ndata\n\n",
        "data: {\"error\":{\"message\":\"x\",\"model\":\"y\"}}\n\n",
        "model: {\"model\":\"x\"}\n\n",
    ] {
        check_stream("chat.completions", kept, kept);
    }
}

#[test]
fn a_byte_order_mark_opens_a_stream_only() {
    let event = "\u{feff}data: {\"model\":\"x\"}\n\n";
    let input = event.repeat(2);
    let expected = format!("{}{event}", event.replace("\"x\"", "\"a/b\""));
    check_stream("chat.completions", &input, &expected);
}

#[test]
fn a_hostile_name_is_escaped() {
    let name = "\"}\n\ndata: {\"a\":\"\u{2028}";
    let change = Change { model: Some(name.to_owned()), ..Change::default() };
    let expected = br#"{"model":"\"}\n\ndata: {\"a\":\"\u2028"}"#;
    check(b"{\"model\":\"x\"}", expected, || Rewriter::whole(endpoint("messages"), change.clone()));
    let event = [b"data: ", &expected[..], b"\n\n"].concat();
    check(b"data: {\"model\":\"x\"}\n\n", &event, || {
        Rewriter::stream(endpoint("chat.completions"), change.clone(), 4_096)
    });
}

#[test]
fn usage_that_nobody_asked_for_disappears() {
    check_hidden(
        "data: {\"choices\":[{}],\"usage\":null}\n\ndata: [DONE]\n\n",
        "data: {\"choices\":[{}]}\n\ndata: [DONE]\n\n",
    );
    check_hidden(
        ": c\n\nevent: x\ndata: {\"choices\":[],\"usage\":{\"total_tokens\":7}}\n\ndata: 1\n\n",
        ": c\n\ndata: 1\n\n",
    );
    check_hidden(
        "data: {\"choices\":[0],\r\ndata: \"a\":1 , \"usage\" : null , \"b\":2}\r\n\r\n",
        "data: {\"choices\":[0],\r\ndata: \"a\":1  , \"b\":2}\r\n\r\n",
    );
    check_hidden("data: { \"usage\":null , \"a\":1}\n\n", "data: { \"a\":1}\n\n");
    check_hidden("data: {\"usage\":null}\n\n", "data: {}\n\n");
}

#[test]
fn usage_stays_where_it_belongs() {
    for kept in [
        "data: {\"id\":\"\",\"model\":\"\",\"choices\":[],\"prompt_filter_results\":[{}]}\n\n",
        "data: {\"choices\":[{}],\"usage\":{\"total_tokens\":7}}\n\n",
        "data: {\"choices\":null,\"usage\":{}}\n\n",
        "data: {\"usage\":{}}\n\n",
        "data: {\"choices\":[],\"x\":{\"usage\":{}}}\n\n",
        "data: {\"choices\":[{\"usage\":null}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\n\n",
        "data: {\"a\":1,\ndata: \"b\":2\ndata: ,\ndata: \"usage\":null}\n\n",
        "data: {\"usage\":null\ndata: ,\"b\":2}\n\n",
        "data: {\"usage\":null,\"usage\":null,\"b\":2}\n\n",
        "data: {\"choices\":[{}],\"choices\":[],\"usage\":{}}\n\n",
    ] {
        check_hidden(kept, kept);
    }
}

#[test]
fn name_and_usage_change_in_one_event() {
    let change = Change { hide_usage: true, ..renaming() };
    for (input, expected) in [
        ("{\"model\":\"x\",\"usage\":null}", "{\"model\":\"a/b\"}"),
        ("{\"usage\":null,\"model\":\"x\"}", "{\"model\":\"a/b\"}"),
        ("{\"a\":1,\"usage\":null,\"model\":\"x\"}", "{\"a\":1,\"model\":\"a/b\"}"),
    ] {
        let event = |data: &str| format!("data: {data}\n\n").into_bytes();
        check(&event(input), &event(expected), || {
            Rewriter::stream(endpoint("chat.completions"), change.clone(), 4_096)
        });
    }
}

#[test]
fn silence_is_identity() {
    let input = b"\xEF\xBB\xBFdata: {\"model\":\"x\",\"usage\":null}\r\r\n\n\r: c\n\ndata: \xFF\n";
    check(input, input, Rewriter::identity);
    check(input, input, || Rewriter::whole(endpoint("responses"), Change::default()));
    check(input, input, || Rewriter::stream(endpoint("completions"), Change::default(), 4_096));
    check(input, input, || Rewriter::stream(endpoint("embeddings"), renaming(), 4_096));
}

#[test]
fn an_event_leaves_with_its_last_byte_and_not_before() {
    for change in [Change::default(), renaming()] {
        let mut rewriter = Rewriter::stream(endpoint("messages"), change, 4_096);
        let mut out = Vec::new();
        assert_eq!(rewriter.feed(b"data: {\"a\":1}\n", &mut out), Ok(()));
        assert_eq!((out.len(), rewriter.held()), (0, 14));
        assert!(rewriter.at_event_border());
        assert_eq!(rewriter.feed(b"\ndata", &mut out), Ok(()));
        assert_eq!((out.as_slice(), rewriter.held()), (&b"data: {\"a\":1}\n\n"[..], 4));
        assert!(rewriter.is_stream());
    }
}

#[test]
fn an_unfinished_event_leaves_at_the_end_without_a_blank_line() {
    let input = "data: {\"model\":\"x\"}\n\ndata: {\"model\":\"x\"}";
    let expected = "data: {\"model\":\"a/b\"}\n\ndata: {\"model\":\"a/b\"}";
    check_stream("chat.completions", input, expected);
    check_stream("chat.completions", "data: {\"mod", "data: {\"mod");
}

#[test]
fn an_event_beyond_the_ceiling_ends_its_stream() {
    let events = b"data: 1\n\ndata: 22\n\ndata: 3\n\n";
    let long_line = b"data: 1\n\ndata: 2222222";
    for input in [&events[..], long_line] {
        splits::each_split(input, |pieces| {
            let mut rewriter = Rewriter::stream(endpoint("responses"), Change::default(), 9);
            let mut out = Vec::new();
            let result = pieces.iter().try_for_each(|piece| rewriter.feed(piece, &mut out));
            assert_eq!(result, Err(StreamError::EventTooLong));
            assert_eq!(out, b"data: 1\n\n");
            assert_eq!(rewriter.feed(b"data: 1\n\n", &mut out), Err(StreamError::EventTooLong));
            assert_eq!(rewriter.held(), 0);
            rewriter.finish(&mut out);
            assert_eq!(out, b"data: 1\n\n");
        });
    }
}

#[test]
fn a_megabyte_event_may_come_byte_by_byte() {
    let text = "\\u0041 text, ".repeat(90_000);
    let event = |model: &str| {
        format!("data: {{\"response\":{{\"output\":[\"{text}\"],\"model\":\"{model}\"}}}}\r\n\r\n")
    };
    let input = event("x");
    let rewriter = || Rewriter::stream(endpoint("responses"), renaming(), 2 << 20);
    let out = rewritten(rewriter(), &splits::bytewise(input.as_bytes()));
    assert!(out == event("a/b").as_bytes());
    let mut rewriter = rewriter();
    let mut out = Vec::new();
    assert_eq!(rewriter.feed(&input.as_bytes()[..1 << 20], &mut out), Ok(()));
    assert_eq!(rewriter.feed(&input.as_bytes()[1 << 20..], &mut out), Ok(()));
    assert!(out == event("a/b").as_bytes());
    assert_eq!(rewriter.held(), 0);
    let Mode::Stream(stream) = &rewriter.mode else { panic!("a stream") };
    assert_eq!(stream.held.capacity(), 0, "the buffer of a huge event is freed");
}

#[test]
fn random_replies_keep_the_laws() {
    for seed in 0..3_000 {
        let mut prng = Prng::new(seed);
        let mut whole = vec![prng.below(256) as u8];
        whole.extend(documents::json(&mut prng));
        let mut stream = vec![prng.below(256) as u8];
        stream.extend(documents::stream(&mut prng));
        let broken = documents::mutated(stream.clone(), &mut prng);
        let outcome = std::panic::catch_unwind(|| {
            fuzz_json::whole_reply(&whole);
            fuzz_sse::stream(&stream);
            fuzz_sse::stream(&broken);
        });
        assert!(outcome.is_ok(), "seed {seed}: {}", stream.escape_ascii());
    }
}
