use super::*;
use crate::dialect::endpoint::ENDPOINTS;
use crate::testing::{documents, fuzz_json, prng::Prng};

fn endpoint(name: &str) -> &'static Endpoint {
    ENDPOINTS.iter().find(|endpoint| endpoint.name == name).expect("a row of the table")
}

#[track_caller]
fn check_error(name: &str, body: &str, error: AskError) {
    assert_eq!(scan(endpoint(name), body.as_bytes()), Err(error), "{body}");
}

/// The model becomes `served`.
#[track_caller]
fn check_model(body: &str, served: &str, expected: &str) {
    let ask = scan(endpoint("chat.completions"), body.as_bytes()).expect("a good body");
    let mut bytes = body.as_bytes().to_vec();
    assert_eq!(ask.rewrite(&mut bytes, Some(served), None, false), Ok(()));
    assert_eq!(String::from_utf8_lossy(&bytes), expected);
}

/// Usage is asked for.
#[track_caller]
fn check_usage(body: &str, expected: &str) {
    let ask = scan(endpoint("chat.completions"), body.as_bytes()).expect("a good body");
    let mut bytes = body.as_bytes().to_vec();
    assert_eq!(ask.rewrite(&mut bytes, None, None, true), Ok(()));
    assert_eq!(String::from_utf8_lossy(&bytes), expected);
}

/// The path's model `a/b` becomes `m`.
#[track_caller]
fn check_path(name: &str, body: &str, expected: Result<&str, AskError>) {
    let ask = scan(endpoint(name), body.as_bytes()).expect("a good body");
    let mut bytes = body.as_bytes().to_vec();
    let result = ask.rewrite(&mut bytes, None, Some(("a/b", "m")), true);
    let result = result.map(|()| String::from_utf8_lossy(&bytes).into_owned());
    assert_eq!(result.as_deref().map_err(|error| *error), expected);
}

#[test]
fn the_table_fits_the_scan() {
    for endpoint in ENDPOINTS {
        let no_body_models = endpoint.body_models.is_empty();
        assert!(endpoint.model == ModelPlace::Path || no_body_models, "{}", endpoint.name);
        // Beside the root, four names of the longest answer and four of how many.
        assert!(endpoint.body_models.len() + 9 <= PATHS_MAX, "{}", endpoint.name);
        assert!(scan(endpoint, b"{\"model\":\"a\"}").is_ok(), "{}", endpoint.name);
    }
}

#[test]
fn reads_model_and_stream() {
    let body = br#"{"messages":[{"stream":true}],"stream":true,"mod\u0065l":"a\/b\u00e9"}"#;
    let ask = scan(endpoint("chat.completions"), body).expect("a good body");
    assert_eq!(ask.model.as_deref(), Some("a/b\u{e9}"));
    assert!(ask.stream);
    assert!(!ask.wants_usage());
    for stream in ["false", "null", "\"true\"", "1", "[true]", "{}"] {
        let body = format!("{{\"stream\":{stream},\"model\":\"a\"}}");
        let ask = scan(endpoint("messages"), body.as_bytes()).expect("a good body");
        assert!(!ask.stream, "{body}");
    }
}

#[test]
fn splices_the_name_and_nothing_else() {
    check_model(r#"{"model":"x/gpt","n":1e0}"#, "gpt", r#"{"model":"gpt","n":1e0}"#);
    check_model(r#"{"model":"gpt"}"#, "a/much/longer:name", r#"{"model":"a/much/longer:name"}"#);
    check_model(r#"{"model":"gpt"}"#, "gqt", r#"{"model":"gqt"}"#);
    check_model(
        "{ \"a\" : \"é\u{2028}\",\n\"model\"\t:\t\"\\u0061\" }\n",
        "b",
        "{ \"a\" : \"é\u{2028}\",\n\"model\"\t:\t\"b\" }\n",
    );
    check_model(r#"{"model":"a"}"#, "q\"\\\u{2028}", r#"{"model":"q\"\\\u2028"}"#);
    let nested =
        r#"{"tools":[{"model":"a"}],"metadata":{"model":"a"},"x":"\"model\":\"a\"","model":"#;
    check_model(&format!("{nested}\"a\"}}"), "b", &format!("{nested}\"b\"}}"));
}

#[test]
fn finds_model_after_deeply_nested_messages() {
    let (open, close) = ("[".repeat(127), "]".repeat(127));
    let body = |model: &str| format!("{{\"messages\":{open}{close},\"model\":\"{model}\"}}");
    check_model(&body("x/a"), "a", &body("a"));
    let too_deep = format!("{{\"messages\":[{open}{close}],\"model\":\"a\"}}");
    check_error("responses", &too_deep, AskError::TooDeep);
}

#[test]
fn refuses_ambiguous_bodies() {
    let chat = "chat.completions";
    check_error(chat, r#"{"model":"a","model":"a"}"#, AskError::ModelTwice);
    check_error(chat, r#"{"model":"a","mod\u0065l":"b"}"#, AskError::ModelTwice);
    check_error(chat, r#"{"model":"a","model":null}"#, AskError::ModelTwice);
    for key in ["Model", "MODEL", "mode\\u004c", "Stream", "Max_Tokens", "Stream_Options"] {
        let alone = format!(r#"{{"{key}":"b"}}"#);
        check_error(chat, &alone, AskError::KeyMisspelt);
        let beside = format!(r#"{{"model":"a","{key}":"b"}}"#);
        check_error(chat, &beside, AskError::KeyMisspelt);
    }
    assert!(scan(endpoint(chat), br#"{"model":"a","tools":[{"Model":"b"}]}"#).is_ok());
    check_error(chat, r#"{"model":"a","stream":true,"stream":false}"#, AskError::StreamTwice);
    check_error(
        chat,
        r#"{"model":"a","stream_options":null,"stream_options":{}}"#,
        AskError::StreamOptionsTwice,
    );
    check_error(
        chat,
        r#"{"model":"a","stream_options":{"include_usage":true,"include_usage":false}}"#,
        AskError::StreamOptionsTwice,
    );
    check_error(chat, r#"{"model":"a"}{"model":"b"}"#, AskError::NotJson);
}

#[test]
fn refuses_names_that_are_none() {
    let chat = "chat.completions";
    for body in ["{}", r#"{"models":"a"}"#, r#"{"messages":[{"model":"a"}]}"#] {
        check_error(chat, body, AskError::ModelMissing);
    }
    for model in ["null", "1", "true", "[\"a\"]", "{\"a\":1}", r#""\ud800""#] {
        check_error(chat, &format!("{{\"model\":{model}}}"), AskError::ModelNotText);
    }
    assert_eq!(scan(endpoint(chat), b"{\"model\":\"\xFF\"}"), Err(AskError::ModelNotText));
    check_error(chat, r#"{"model":""}"#, AskError::ModelEmpty);
    for control in ["\n", "\\n", "\\u0000", "\u{7f}", "\u{85}"] {
        check_error(chat, &format!("{{\"model\":\"a{control}\"}}"), AskError::ModelControl);
    }
    // A deployment of Azure's and a Claude of Vertex's stand in the path.
    for model in ["..", "a/../b", "a/.", "./a", "a\\\\..\\\\b", "a/\\u002e\\u002E/b"] {
        check_error(chat, &format!("{{\"model\":\"{model}\"}}"), AskError::ModelDots);
    }
    for model in ["a..b", "...", "a/..b", "a.", "C:\\\\models\\\\a"] {
        assert!(scan(endpoint(chat), format!("{{\"model\":\"{model}\"}}").as_bytes()).is_ok());
    }
}

#[test]
fn measures_a_name_by_its_decoded_bytes() {
    let body = |name: &str| format!("{{\"model\":\"{name}\"}}");
    for unit in ["a", "\\u0061"] {
        assert!(scan(endpoint("messages"), body(&unit.repeat(256)).as_bytes()).is_ok());
        check_error("messages", &body(&unit.repeat(257)), AskError::ModelTooLong);
    }
    check_error("messages", &body(&"é".repeat(129)), AskError::ModelTooLong);
    check_error("messages", &body(&"a".repeat(1 << 20)), AskError::ModelTooLong);
}

#[test]
fn refuses_what_is_no_object() {
    for name in ["chat.completions", "responses", "embeddings", "messages"] {
        for body in ["", " \n"] {
            check_error(name, body, AskError::Empty);
        }
        for body in ["model=a", "{'model':'a'}", "{\"model\":\"a\",}", "\u{feff}{}"] {
            check_error(name, body, AskError::NotJson);
        }
        for body in ["[]", "\"model\"", "7", "null", "[{\"model\":\"a\"}]"] {
            check_error(name, body, AskError::NotAnObject);
        }
        for body in ["{", "{\"model\":\"a\"", "{\"model\":\"a", "tru"] {
            check_error(name, body, AskError::Truncated);
        }
    }
}

#[test]
fn asks_for_usage_in_streams() {
    check_usage(
        r#"{"stream":true,"model":"a","n":1}"#,
        r#"{"stream":true,"model":"a","stream_options":{"include_usage":true},"n":1}"#,
    );
    let cases = [
        ("null", r#"{"include_usage":true}"#),
        ("{}", r#"{"include_usage":true}"#),
        ("{ \n}", "{\"include_usage\":true \n}"),
        (r#"{"x":{}}"#, r#"{"include_usage":true,"x":{}}"#),
        (r#"{"include_usage":false,"x":1}"#, r#"{"include_usage":true,"x":1}"#),
        (r#"{"include_usage":null}"#, r#"{"include_usage":true}"#),
        (r#"{"include_usage": {"a":[1]} }"#, r#"{"include_usage": true }"#),
        (r#"{"include_usage":true}"#, r#"{"include_usage":true}"#),
        ("7", "7"),
        ("[]", "[]"),
    ];
    for (options, expected) in cases {
        for (head, tail) in [("{\"model\":\"a\",", "}"), ("{", ",\"model\":\"a\"}")] {
            let body =
                |options: &str| format!("{head}\"stream\":true,\"stream_options\":{options}{tail}");
            check_usage(&body(options), &body(expected));
        }
    }
}

#[test]
fn asks_for_usage_only_where_it_is_known() {
    let whole = r#"{"model":"a","stream":false}"#;
    check_usage(whole, whole);
    let body = br#"{"model":"a","stream":true}"#;
    for name in ["responses", "messages", "embeddings"] {
        let ask = scan(endpoint(name), body).expect("a good body");
        let mut bytes = body.to_vec();
        assert_eq!(ask.rewrite(&mut bytes, None, None, true), Ok(()));
        assert_eq!(bytes, body);
    }
}

#[test]
fn a_client_that_asks_for_usage_wants_it() {
    for (options, wants) in [
        (r#"{"include_usage":true}"#, true),
        (r#"{"include_usage":false}"#, false),
        (r#"{"x":{"include_usage":true}}"#, false),
        ("null", false),
    ] {
        let body = format!("{{\"model\":\"a\",\"stream_options\":{options}}}");
        let ask = scan(endpoint("completions"), body.as_bytes()).expect("a good body");
        assert_eq!(ask.wants_usage(), wants, "{options}");
    }
}

#[test]
fn name_and_usage_change_together() {
    let ask = |body: &str, served: &str| {
        let ask = scan(endpoint("chat.completions"), body.as_bytes()).expect("a good body");
        let mut bytes = body.as_bytes().to_vec();
        assert_eq!(ask.rewrite(&mut bytes, Some(served), None, true), Ok(()));
        String::from_utf8_lossy(&bytes).into_owned()
    };
    assert_eq!(
        ask(r#"{"model":"long/name","stream":true,"n":1}"#, "b"),
        r#"{"model":"b","stream_options":{"include_usage":true},"stream":true,"n":1}"#
    );
    assert_eq!(
        ask(r#"{"stream_options":{"include_usage":false},"stream":true,"model":"b"}"#, "long"),
        r#"{"stream_options":{"include_usage":true},"stream":true,"model":"long"}"#
    );
}

#[test]
fn names_in_a_body_follow_the_path() {
    let batch = |first: &str, second: &str| {
        format!("{{\"requests\":[{{\"model\":{first},\"c\":1}},{{\"model\":{second}}}]}}")
    };
    let name = "batchEmbedContents";
    let served = batch("\"models/m\"", "\"models/m\"");
    check_path(name, &batch("\"models/a/b\"", "\"a\\/b\""), Ok(&served));
    check_path(
        name,
        &batch("\"tunedModels/a/b\"", "null"),
        Ok(&batch("\"tunedModels/m\"", "null")),
    );
    for other in ["\"models/other\"", "\"b\"", "7", "{}", "\"publishers/x/models/a/b\""] {
        check_path(name, &batch("\"models/a/b\"", other), Err(AskError::BodyModelMismatch));
    }
    check_path(name, &batch("\"a/b\"", "\"\""), Err(AskError::ModelEmpty));
    let content = r#"{"content":{"model":"x"},"model":"models/a/b"}"#;
    check_path("embedContent", content, Ok(r#"{"content":{"model":"x"},"model":"models/m"}"#));
    let counted = r#"{"generateContentRequest":{"model":"models/a/b"},"model":"x"}"#;
    let expected = r#"{"generateContentRequest":{"model":"models/m"},"model":"x"}"#;
    check_path("countTokens", counted, Ok(expected));
}

#[test]
fn names_in_a_body_stay_when_nothing_is_renamed() {
    let body = br#"{"model":"mod\u0065ls/a"}"#;
    let ask = scan(endpoint("embedContent"), body).expect("a good body");
    let mut bytes = body.to_vec();
    assert_eq!(ask.rewrite(&mut bytes, None, Some(("a", "a")), false), Ok(()));
    assert_eq!(bytes, body);
    let other = ask.rewrite(&mut bytes, None, Some(("b", "b")), false);
    assert_eq!(other, Err(AskError::BodyModelMismatch));
}

#[test]
fn a_path_endpoint_leaves_odd_bodies_to_the_upstream() {
    for body in ["", " ", "[]", "7", "{}", "[{\"model\":1}]"] {
        check_path("generateContent", body, Ok(body));
        check_path("batchEmbedContents", body, Ok(body));
    }
    check_error("generateContent", "{", AskError::Truncated);
    check_error("generateContent", "model", AskError::NotJson);
    check_error("embedContent", r#"{"model":"a","model":"a"}"#, AskError::ModelTwice);
    check_error("embedContent", r#"{"model":"a","Model":"a"}"#, AskError::KeyMisspelt);
    check_error("batchEmbedContents", r#"{"requests":[],"requests":[]}"#, AskError::ModelTwice);
}

#[test]
fn counts_the_names_in_a_body() {
    let body = |count: usize| {
        let requests = vec![r#"{"model":"models/a/b"}"#; count].join(",");
        format!("{{\"requests\":[{requests}]}}")
    };
    let served = body(BODY_MODELS_MAX).replace("a/b", "m");
    check_path("batchEmbedContents", &body(BODY_MODELS_MAX), Ok(&served));
    let too_many = body(BODY_MODELS_MAX + 1);
    check_error("batchEmbedContents", &too_many, AskError::TooManyModels);
}

#[test]
fn a_large_body_may_name_its_model_last() {
    let image = "QUJD".repeat(5 << 20);
    let body = |model: &str| format!("{{\"messages\":[\"{image}\"],\"model\":\"{model}\"}}");
    check_model(&body("openai-main/gpt"), "gpt", &body("gpt"));
}

#[test]
fn edits_that_grow_and_shrink_leave_the_rest() {
    for seed in 0..2_000 {
        let mut prng = Prng::new(seed);
        let body: Vec<u8> = (0..prng.below(60)).map(|index| index as u8).collect();
        let filler = [255u8; 12];
        let (mut edits, mut expected, mut at) = (Vec::new(), Vec::new(), 0);
        while at < body.len() {
            let start = at + prng.below(body.len() - at + 1);
            let end = start + prng.below((body.len() - start).min(8) + 1);
            let with = &filler[..prng.below(filler.len())];
            expected.extend_from_slice(&body[at..start]);
            expected.extend_from_slice(with);
            edits.push(Edit { span: start..end, with });
            at = end.max(at + 1).min(body.len());
            expected.extend_from_slice(&body[end.min(at)..at]);
        }
        let mut spliced = body.clone();
        splice(&mut spliced, &edits);
        assert_eq!(spliced, expected, "seed {seed}");
    }
}

#[test]
fn splice_then_scan_gives_the_new_name_and_leaves_all_else() {
    for seed in 0..4_000 {
        let mut prng = Prng::new(seed);
        let document = documents::json(&mut prng);
        let mut data = vec![prng.below(256) as u8];
        // Most random documents name no model; give it a chance.
        match document.iter().position(|&byte| byte == b'{').filter(|_| prng.one_in(2)) {
            Some(at) => {
                data.extend_from_slice(&document[..=at]);
                data.extend_from_slice(b"\"model\":\"gpt-4.1-mini\",\"stream\":true,\"z\":0,");
                data.extend_from_slice(&document[at + 1..]);
            }
            None => data.extend_from_slice(&document),
        }
        let outcome = std::panic::catch_unwind(|| fuzz_json::request(&data));
        assert!(outcome.is_ok(), "seed {seed}: {}", data.escape_ascii());
    }
}

#[test]
fn canary_is_found() {
    let document = br#"{"model":"gpt-4.1-mini"}"#;
    fuzz_json::canary(b"{}");
    assert!(std::panic::catch_unwind(|| fuzz_json::canary(document)).is_err());
}

#[test]
fn googles_names_count_in_both_spellings() {
    for (config, max) in [
        ("generationConfig", "maxOutputTokens"),
        ("generation_config", "max_output_tokens"),
        ("generationConfig", "max_output_tokens"),
        ("generation_config", "maxOutputTokens"),
    ] {
        let body = format!(r#"{{"contents":[],"{config}":{{"{max}":77}}}}"#);
        let endpoint = endpoint("generateContent");
        assert_eq!(scan(endpoint, body.as_bytes()).expect("sound").output_max, Some(77), "{body}");
    }
}

#[test]
fn the_most_answers_or_images_that_are_asked_for_count() {
    for (name, body, copies) in [
        ("chat.completions", r#"{"model":"m","n":3}"#, Some(3)),
        ("chat.completions", r#"{"model":"m","\u006e":3,"messages":[{"n":9}]}"#, Some(3)),
        ("chat.completions", r#"{"n":3,"model":"m","n":2}"#, Some(3)),
        ("chat.completions", r#"{"model":"m","n":null}"#, None),
        ("completions", r#"{"model":"m","n":2,"best_of":5}"#, Some(5)),
        ("completions", r#"{"model":"m","prompt":["a","b"],"n":3}"#, Some(6)),
        ("completions", r#"{"model":"m","prompt":[[1,2],[3]]}"#, Some(2)),
        ("completions", r#"{"model":"m","prompt":[1,2,3]}"#, None),
        ("completions", r#"{"model":"m","prompt":"a"}"#, None),
        ("chat.completions", r#"{"model":"m","prompt":["a","b"]}"#, None),
        ("images.generations", r#"{"prompt":"p","n":4}"#, Some(4)),
        ("responses", r#"{"model":"m","n":4}"#, None),
        ("generateContent", r#"{"generationConfig":{"candidateCount":2}}"#, Some(2)),
        ("generateContent", r#"{"generation_config":{"candidate_count":2}}"#, Some(2)),
        ("predict", r#"{"parameters":{"sampleCount":3}}"#, Some(3)),
        ("predict", r#"{"instances":[{"sampleCount":3}]}"#, None),
    ] {
        assert_eq!(scan(endpoint(name), body.as_bytes()).expect(body).copies, copies, "{body}");
    }
}

#[test]
fn a_cache_of_an_hour_is_seen_where_there_can_be_one() {
    let body = br#"{"model":"m","system":[{"cache_control":{"ttl":"1h"}}]}"#;
    for (name, sees) in [("messages", true), ("chat.completions", false)] {
        assert_eq!(scan(endpoint(name), body).expect("sound").hour_cache, sees, "{name}");
    }
    assert!(!scan(endpoint("messages"), br#"{"model":"1"}"#).expect("sound").hour_cache);
}

#[test]
fn further_models_are_found_wherever_vendors_take_them() {
    let others = |name: &str, rest: &str| {
        let body = format!(r#"{{"model":"m",{rest}}}"#);
        scan(endpoint(name), body.as_bytes()).map(|ask| ask.others)
    };
    let names = |names: &[&str]| Ok(names.iter().map(|name| (*name).to_owned()).collect());
    for name in ["chat.completions", "messages", "responses"] {
        assert_eq!(others(name, r#""models":["a","b"]"#), names(&["a", "b"]));
        assert_eq!(others(name, r#""f\u0061llbacks":[{"model":"a"},"b"]"#), names(&["a", "b"]));
        assert_eq!(others(name, r#""models":{"a":1},"fallbacks":null"#), names(&[]));
        assert_eq!(others(name, r#""x":{"models":["a"]}"#), names(&[]));
        assert_eq!(others(name, r#""Models":["a"]"#), Err(AskError::KeyMisspelt));
        assert_eq!(others(name, r#""models":[],"models":["a"]"#), Err(AskError::ModelTwice));
        let many = vec!["\"a\""; BODY_MODELS_MAX + 1].join(",");
        assert_eq!(others(name, &format!("\"models\":[{many}]")), Err(AskError::TooManyModels));
    }
    let adviser = r#""tools":[{"name":"x"},{"type":"advisor_20260301","model":"a"}]"#;
    assert_eq!(others("messages", adviser), names(&["a"]));
    assert_eq!(others("responses", adviser), names(&[]), "a tool that draws names its own");
    let tool = r#""tools":[{"type":"openrouter:advisor","parameters":{"model":"a"}}]"#;
    assert_eq!(others("chat.completions", tool), names(&["a"]));
}

#[test]
fn a_count_may_be_written_with_a_fraction() {
    let asked = |count: &str| {
        let body = format!(r#"{{"model":"m","max_tokens":{count}}}"#);
        scan(endpoint("chat.completions"), body.as_bytes()).expect("sound").output_max
    };
    for (count, expected) in [
        ("4096.0", Some(4_096)),
        ("1e5", Some(100_000)),
        ("0.5", Some(1)),
        ("1e99", Some(u64::MAX)),
        ("-1", None),
        ("-0.5", None),
        ("null", None),
        ("\"5\"", None),
    ] {
        assert_eq!(asked(count), expected, "{count}");
    }
}

#[test]
fn a_body_gets_the_name_of_its_deployment() {
    let deployed = |name: &str, body: &str| {
        let mut bytes = body.as_bytes().to_vec();
        let ask = scan_deployed(endpoint(name), &mut bytes, Some("d\"1"))?;
        assert_eq!(ask.model.as_deref(), Some("d\"1"));
        Ok(String::from_utf8(bytes).expect("it stays text"))
    };
    let chat = |body: &str| deployed("chat.completions", body);
    assert_eq!(chat(" { } "), Ok(" {\"model\":\"d\\\"1\" } ".to_owned()));
    assert_eq!(chat(r#"{"n":{}}"#), Ok(r#"{"model":"d\"1","n":{}}"#.to_owned()));
    assert_eq!(chat(r#"{"model":"d\"1"}"#), Ok(r#"{"model":"d\"1"}"#.to_owned()));
    let drawn = deployed("images.generations", r#"{"prompt":""}"#);
    assert_eq!(drawn, Ok(r#"{"model":"d\"1","prompt":""}"#.to_owned()));
    for (body, error) in [
        (r#"{"model":"d"}"#, AskError::BodyModelMismatch),
        (r#"{"model":null}"#, AskError::ModelNotText),
        (r#"{"Model":"d"}"#, AskError::KeyMisspelt),
        ("[]", AskError::NotAnObject),
        ("", AskError::Empty),
        ("{", AskError::Truncated),
    ] {
        assert_eq!(chat(body), Err(error), "{body}");
    }
}
