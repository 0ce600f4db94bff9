use super::*;
use crate::dialect::endpoint::{ENDPOINTS, Endpoint};
use crate::dialect::rewrite::{Change, Rewriter};
use crate::testing::splits;
use serde_json::{Value, json};

fn endpoint(name: &str) -> &'static Endpoint {
    ENDPOINTS.iter().find(|endpoint| endpoint.name == name).expect("a row of the table")
}

/// `[input, cache read, 5 min, 1 h, output, reasoning, audio in, audio out, tools]`
fn listed(usage: Usage) -> [u64; 9] {
    [
        usage.input_tokens,
        usage.cache_read_input_tokens,
        usage.cache_creation_input_tokens_5min,
        usage.cache_creation_input_tokens_1h,
        usage.output_tokens,
        usage.reasoning_tokens,
        usage.input_audio_tokens,
        usage.output_audio_tokens,
        usage.tool_calls,
    ]
}

#[track_caller]
fn whole(name: &str, reply: &Value, expected: [u64; 9]) -> Told {
    let text = reply.to_string();
    let mut told = Told::default();
    splits::each_split(text.as_bytes(), |pieces| {
        let mut tap = Tap::new(endpoint(name));
        pieces.iter().for_each(|piece| tap.feed(piece));
        told = tap.told();
        assert_eq!(listed(told.usage), expected, "{text}");
        assert!(told.any);
    });
    told
}

#[track_caller]
fn stream(name: &str, events: &[Value], expected: [u64; 9]) -> Tap {
    let mut tap = Tap::new(endpoint(name));
    for event in events {
        tap.piece(format!("event: x\r\ndata: {event}\r\n\r\n").as_bytes());
    }
    tap.piece(b"data: [DONE]\n\n");
    tap.piece(b": comment with \"usage\"\n");
    assert_eq!(listed(tap.told().usage), expected);
    tap
}

#[test]
fn cached_tokens_of_openai_are_taken_out_of_the_prompt() {
    let reply = json!({"model": "m", "choices": [{"message": {"content": "{\"usage\":1}",
        "usage": {"prompt_tokens": 7}}}], "service_tier": "priority", "usage": {
        "prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
        "prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 5, "cache_write_tokens": 10},
        "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 3}}});
    let told = whole("chat.completions", &reply, [30, 60, 10, 0, 50, 20, 5, 3, 0]);
    assert_eq!(told.tier, ServiceTier::Priority);
    let reply = json!({"usage": {"prompt_tokens": 10, "prompt_cache_hit_tokens": 4,
        "prompt_cache_miss_tokens": 6, "completion_tokens": 1}});
    whole("chat.completions", &reply, [6, 4, 0, 0, 1, 0, 0, 0, 0]);
    let reply = json!({"object": "response", "usage": {"input_tokens": 9, "output_tokens": 5,
        "input_tokens_details": {"cached_tokens": 2},
        "output_tokens_details": {"reasoning_tokens": 4}}});
    whole("responses", &reply, [7, 2, 0, 0, 5, 4, 0, 0, 0]);
    let reply = json!({"data": [], "usage": {"prompt_tokens": 8, "total_tokens": 8}});
    whole("embeddings", &reply, [8, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn the_last_usage_of_a_stream_counts_wherever_it_stands() {
    let usage =
        |count| json!({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": count}});
    let none = json!({"choices": [{"delta": {"content": "a\"b"}}], "usage": null});
    let tap = stream(
        "chat.completions",
        &[none.clone(), usage(1), usage(9), none.clone()],
        [3, 0, 0, 0, 9, 0, 0, 0, 0],
    );
    assert_eq!(tap.text_bytes(), 8);
    let groq = json!({"x_groq": {"usage": {"prompt_tokens": 2, "completion_tokens": 1}}});
    stream("chat.completions", &[none, groq], [2, 0, 0, 0, 1, 0, 0, 0, 0]);
    let created = json!({"type": "response.created", "response": {"usage": null}});
    let completed = json!({"type": "response.completed", "response": {"service_tier": "flex",
        "usage": {"input_tokens": 4, "output_tokens": 6}}});
    let tap = stream("responses", &[created, completed], [4, 0, 0, 0, 6, 0, 0, 0, 0]);
    assert_eq!(tap.told().tier, ServiceTier::Flex);
}

#[test]
fn counts_of_anthropic_are_disjoint_and_cumulative() {
    let start = json!({"type": "message_start", "message": {"usage": {"input_tokens": 10,
        "cache_read_input_tokens": 20, "cache_creation_input_tokens": 30, "output_tokens": 1,
        "cache_creation": {"ephemeral_5m_input_tokens": 12, "ephemeral_1h_input_tokens": 18},
        "service_tier": "standard"}}});
    let delta = json!({"type": "message_delta", "usage": {"output_tokens": 40,
        "cache_creation_input_tokens": 30, "server_tool_use": {"web_search_requests": 2},
        "output_tokens_details": {"thinking_tokens": 15}}});
    stream("messages", &[start.clone(), delta], [10, 20, 12, 18, 40, 15, 0, 0, 2]);
    stream("messages", std::slice::from_ref(&start), [10, 20, 12, 18, 1, 0, 0, 0, 0]);
    let unsplit = json!({"type": "message", "usage": {"input_tokens": 1, "output_tokens": 2,
        "cache_creation_input_tokens": 7, "speed": "fast"}});
    let told = whole("messages", &unsplit, [1, 0, 7, 0, 2, 0, 0, 0, 0]);
    assert_eq!(told.tier, ServiceTier::Priority);
}

#[test]
fn thoughts_of_gemini_are_output_and_modalities_a_breakdown() {
    let usage = |thoughts| {
        json!({"candidates": [], "usageMetadata": {"promptTokenCount": 50,
        "cachedContentTokenCount": 20, "candidatesTokenCount": 7, "thoughtsTokenCount": thoughts,
        "toolUsePromptTokenCount": 3, "totalTokenCount": 99,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 40},
            {"modality": "AUDIO", "tokenCount": 10}]}})
    };
    whole("generateContent", &usage(5), [33, 20, 0, 0, 12, 5, 10, 0, 0]);
    stream("streamGenerateContent", &[usage(1), usage(5)], [33, 20, 0, 0, 12, 5, 10, 0, 0]);
    let array = json!([usage(1), usage(5)]);
    whole("streamGenerateContent", &array, [33, 20, 0, 0, 12, 5, 10, 0, 0]);
}

#[test]
fn tokens_of_images_and_audio_are_parts_less_what_was_cached_of_them() {
    let images = |told: &Told| (told.usage.input_image_tokens, told.usage.output_image_tokens);
    let reply = json!({"data": [{"b64_json": "AA"}], "usage": {"input_tokens": 50,
        "output_tokens": 1_056, "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
        "output_tokens_details": {"image_tokens": 1_056}}});
    let told = whole("images.generations", &reply, [50, 0, 0, 0, 1_056, 0, 0, 0, 0]);
    assert_eq!(images(&told), (40, 1_056));
    let reply = json!({"usageMetadata": {"promptTokenCount": 300, "cachedContentTokenCount": 258,
        "candidatesTokenCount": 1_290, "promptTokensDetails": [
            {"modality": "IMAGE", "tokenCount": 258}, {"modality": "AUDIO", "tokenCount": 9}],
        "cacheTokensDetails": [{"modality": "IMAGE", "tokenCount": 258}],
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1_290}]}});
    let told = whole("generateContent", &reply, [42, 258, 0, 0, 1_290, 0, 9, 0, 0]);
    assert_eq!(images(&told), (0, 1_290));
    let reply = json!({"usage": {"prompt_tokens": 5, "completion_tokens": 5,
        "prompt_tokens_details": {"audio_tokens": 4, "image_tokens": 4},
        "completion_tokens_details": {"audio_tokens": 9, "image_tokens": 9}}});
    let told = whole("chat.completions", &reply, [5, 0, 0, 0, 5, 0, 4, 5, 0]);
    assert_eq!(images(&told), (1, 0), "parts are never more than the whole");
}

#[test]
fn images_are_counted_where_they_are_made() {
    let count = |name: &str, reply: &Value| {
        let text = reply.to_string();
        let mut told = Told::default();
        splits::each_split(text.as_bytes(), |pieces| {
            let mut tap = Tap::new(endpoint(name));
            pieces.iter().for_each(|piece| tap.feed(piece));
            told = tap.told();
        });
        assert_eq!(told.any, told.usage.images > 0, "{text}");
        told.usage.images
    };
    let data = json!({"created": 1, "data": [{"url": "a"}, {"b64_json": "{\"data\":[{}]}"}]});
    for (name, images) in [("images.generations", 2), ("images.edits", 2), ("embeddings", 0)] {
        assert_eq!(count(name, &data), images, "{name}");
    }
    let predictions = json!({"predictions": [
        {"bytesBase64Encoded": "AA", "mimeType": "image/png"},
        {"raiFilteredReason": "none of it is billed"}, {"mimeType": "image/png", "gcsUri": "g"}]});
    assert_eq!(count("predict", &predictions), 2);
    let vectors = json!({"predictions": [{"embeddings": {"values": [1, 2]}}]});
    assert_eq!(count("predict", &vectors), 0);

    let mut tap = Tap::new(endpoint("images.generations"));
    for kind in ["partial_image", "completed", "partial_image", "completed"] {
        let event = json!({"type": format!("image_generation.{kind}"), "b64_json": "AAAA",
            "usage": {"input_tokens": 3, "output_tokens": 7}});
        tap.piece(format!("event: image_generation.{kind}\ndata: {event}\n\n").as_bytes());
    }
    assert_eq!((tap.told().usage.images, tap.told().usage.output_tokens), (2, 7));
}

#[test]
fn searches_and_images_of_a_response_are_counted_once() {
    let items = json!([{"type": "reasoning"},
        {"type": "web_search_call", "action": {"type": "search", "query": "web_search_call"}},
        {"action": {"type": "open_page"}, "type": "web_search_call"},
        {"type": "web_search_call", "status": "completed"}, {"type": "function_call"},
        {"type": "file_search_call", "results": null},
        {"type": "image_generation_call", "result": "AA"},
        {"type": "message", "content": [{"type": "web_search_call"}]}]);
    let usage = json!({"input_tokens": 4, "output_tokens": 6});
    let reply = json!({"output": items, "usage": usage});
    let told = whole("responses", &reply, [4, 0, 0, 0, 6, 0, 0, 0, 3]);
    assert_eq!(told.usage.images, 1);

    let mut tap = Tap::new(endpoint("responses"));
    for item in items.as_array().expect("a list") {
        for step in ["added", "done"] {
            let event = json!({"type": "response.output_item", "item": item});
            let name = format!("event: response.output_item.{step}");
            tap.piece(format!("{name}\ndata: {event}\n\n").as_bytes());
        }
    }
    assert_eq!((tap.told().usage.tool_calls, tap.told().usage.images), (3, 1));
    let end = json!({"type": "response.completed", "response": {"output": items, "usage": usage}});
    tap.piece(format!("event: response.completed\ndata: {end}\n\n").as_bytes());
    assert_eq!(listed(tap.told().usage), [4, 0, 0, 0, 6, 0, 0, 0, 3]);
    assert_eq!(tap.told().usage.images, 1);
}

#[test]
fn hostile_counts_are_none_and_never_go_below_zero() {
    let reply = json!({"usage": {"prompt_tokens": 5, "completion_tokens": -3,
        "prompt_tokens_details": {"cached_tokens": 900, "cache_write_tokens": 900},
        "completion_tokens_details": {"reasoning_tokens": 1e300}}});
    whole("chat.completions", &reply, [0, 5, 0, 0, 0, 0, 0, 0, 0]);
    let reply = json!({"usage": {"prompt_tokens": "12", "completion_tokens": 12.0}});
    whole("chat.completions", &reply, [0, 0, 0, 0, 12, 0, 0, 0, 0]);
    let reply = json!({"usage": {"input_tokens": u64::MAX, "output_tokens": u64::MAX,
        "cache_creation": {"ephemeral_1h_input_tokens": u64::MAX},
        "server_tool_use": {"web_search_requests": COUNT_MAX + 1, "web_fetch_requests": 4}}});
    whole("messages", &reply, [0; 9]);
    let reply = json!({"usage": {"input_tokens": COUNT_MAX, "output_tokens": 1}});
    whole("messages", &reply, [COUNT_MAX, 0, 0, 0, 1, 0, 0, 0, 0]);
}

/// A part, an item and the whole answer say again what the deltas said.
#[test]
fn the_text_of_a_stream_of_responses_is_counted_once() {
    let said = "a".repeat(400);
    let part = json!({"type": "output_text", "text": said});
    let item = json!({"type": "message", "content": [part]});
    let mut tap = Tap::new(endpoint("responses"));
    for event in [
        json!({"type": "response.output_text.delta", "delta": said}),
        json!({"type": "response.output_text.done", "text": said}),
        json!({"type": "response.content_part.done", "part": part}),
        json!({"type": "response.output_item.done", "item": item}),
        json!({"type": "response.completed", "response": {"output": [item]}}),
    ] {
        tap.piece(format!("event: x\ndata: {event}\n\n").as_bytes());
    }
    assert_eq!(tap.text_bytes(), 400);
}

#[test]
fn a_byte_order_mark_hides_no_usage() {
    let reply = "\u{feff}{\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}";
    let chat = endpoint("chat.completions");
    splits::each_split(reply.as_bytes(), |pieces| {
        let mut tap = Tap::new(chat);
        pieces.iter().for_each(|piece| tap.feed(piece));
        assert_eq!(listed(tap.told().usage), [3, 0, 0, 0, 4, 0, 0, 0, 0]);
        let change = Change { model: Some("a".to_owned()), ..Change::default() };
        let mut rewriter = Rewriter::whole(chat, change).with_tap(chat);
        for piece in pieces {
            rewriter.feed(piece, &mut Vec::new()).expect("no ceiling is reached");
        }
        let told = rewriter.tap().expect("a tap").told();
        assert_eq!(listed(told.usage), [3, 0, 0, 0, 4, 0, 0, 0, 0]);
    });
}

#[test]
fn thoughts_are_a_part_of_what_was_generated_whatever_comes_last() {
    let usage = |output: u64, thoughts: Value| {
        json!({"type": "message_delta", "usage": {"output_tokens": output,
            "output_tokens_details": thoughts}})
    };
    let events = [usage(9, json!({"thinking_tokens": 7})), usage(4, Value::Null)];
    stream("messages", &events, [0, 0, 0, 0, 4, 4, 0, 0, 0]);
}

#[test]
fn what_is_no_usage_is_none() {
    for reply in ["{\"usage\":5}", "{\"usage\":[1]}", "not json", "", "{\"a\":{\"usage\":{}}}"] {
        let mut tap = Tap::new(endpoint("chat.completions"));
        tap.feed(reply.as_bytes());
        assert_eq!(tap.told(), Told::default(), "{reply}");
    }
    let long = format!("{{\"usage\":{{\"prompt_tokens\":1,\"x\":\"{}\"}}}}", "a".repeat(20_000));
    let mut tap = Tap::new(endpoint("chat.completions"));
    tap.feed(long.as_bytes());
    assert_eq!(tap.told(), Told::default());
}

#[test]
fn thoughts_that_stand_beside_the_output_are_added_to_it_once() {
    let reply = |total: Value| {
        json!({"usage": {"prompt_tokens": 10_120, "completion_tokens": 1_499,
            "total_tokens": total, "completion_tokens_details": {"reasoning_tokens": 2_809}}})
    };
    let outside = [10_120, 0, 0, 0, 4_308, 2_809, 0, 0, 0];
    whole("chat.completions", &reply(json!(14_428)), outside);
    let unknown = [10_120, 0, 0, 0, 1_499, 1_499, 0, 0, 0];
    whole("chat.completions", &reply(Value::Null), unknown);
    whole("chat.completions", &reply(json!(11_619)), unknown);
}

#[test]
fn what_anthropic_did_beside_the_message_is_added_once() {
    let message = json!({"type": "message", "input_tokens": 10, "output_tokens": 5});
    let beside = json!({"type": "compaction", "input_tokens": 1_000, "output_tokens": 200,
        "cache_read_input_tokens": 7, "cache_creation_input_tokens": 3});
    let usage = |list: &Value| json!({"input_tokens": 10, "output_tokens": 5, "iterations": list});
    let both = json!([beside, message]);
    let expected = [1_010, 7, 3, 0, 205, 0, 0, 0, 0];
    whole("messages", &json!({"usage": usage(&both)}), expected);
    let advised = json!([message, {"type": "advisor_message", "model": "m", "input_tokens": 1,
        "output_tokens": 2}]);
    whole("messages", &json!({"usage": usage(&advised)}), [11, 0, 0, 0, 7, 0, 0, 0, 0]);
    let plain = json!([message]);
    whole("messages", &json!({"usage": usage(&plain)}), [10, 0, 0, 0, 5, 0, 0, 0, 0]);
    let start = json!({"type": "message_start", "message": {"usage": usage(&Value::Null)}});
    let delta = json!({"type": "message_delta", "usage": usage(&both)});
    let last = json!({"type": "message_delta", "usage": {"output_tokens": 6}});
    stream("messages", &[start.clone(), delta.clone(), delta.clone()], expected);
    stream("messages", &[start, delta, last], [1_010, 7, 3, 0, 206, 0, 0, 0, 0]);
}

#[test]
fn gemini_names_its_tier_in_two_ways() {
    for (field, tier) in [
        (json!({"serviceTier": "priority"}), ServiceTier::Priority),
        (json!({"serviceTier": "SERVICE_TIER_FLEX"}), ServiceTier::Flex),
        (json!({"serviceTier": "standard"}), ServiceTier::Default),
        (json!({"trafficType": "ON_DEMAND"}), ServiceTier::Default),
        (json!({"trafficType": "ON_DEMAND_PRIORITY"}), ServiceTier::Priority),
        (json!({"trafficType": "ON_DEMAND_FLEX"}), ServiceTier::Flex),
        (json!({"trafficType": "PROVISIONED_THROUGHPUT"}), ServiceTier::Scale),
    ] {
        let mut usage = field;
        usage["promptTokenCount"] = json!(1);
        let told =
            whole("generateContent", &json!({"usageMetadata": usage}), [1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(told.tier, tier, "{usage}");
    }
}

#[test]
fn a_usage_that_counts_nothing_tells_nothing_and_takes_nothing_back() {
    let event = |usage: Value| json!({"candidates": [], "usageMetadata": usage});
    let full = event(json!({"promptTokenCount": 50, "candidatesTokenCount": 7}));
    let traffic = event(json!({"trafficType": "ON_DEMAND"}));
    let input = event(json!({"promptTokenCount": 51, "totalTokenCount": 51}));
    let told = stream(
        "streamGenerateContent",
        &[full, traffic.clone(), input],
        [51, 0, 0, 0, 7, 0, 0, 0, 0],
    );
    assert!(told.told().any);
    for (name, nothing) in [
        ("streamGenerateContent", traffic),
        ("streamGenerateContent", event(json!({}))),
        ("chat.completions", json!({"usage": {}})),
        ("chat.completions", json!({"usage": {"prompt_tokens": null}})),
    ] {
        assert!(!stream(name, &[nothing], [0; 9]).told().any, "{name}");
    }
}

#[test]
fn thoughts_and_refusals_are_text() {
    let delta = |delta: Value| json!({"choices": [{"delta": delta}], "usage": null});
    let reasoning = delta(json!({"content": null, "reasoning_content": "abcd"}));
    let refusal = delta(json!({"refusal": "ab"}));
    let tap = stream("chat.completions", &[reasoning, refusal], [0; 9]);
    assert_eq!(tap.text_bytes(), 6);
    let groq = delta(json!({"reasoning": "abcd"}));
    // OpenRouter says it twice.
    let details = json!([{"type": "reasoning.text", "text": "abcd"}]);
    let twice = delta(json!({"content": "", "reasoning": "abcd", "reasoning_details": details}));
    let legacy = json!({"choices": [{"text": "abc"}]});
    for (event, bytes) in [(groq, 4), (twice, 4), (legacy, 3)] {
        assert_eq!(stream("chat.completions", &[event], [0; 9]).text_bytes(), bytes);
    }
}

#[test]
fn who_served_is_told_where_it_is_asked() {
    for (name, first, more) in [
        ("chat.completions", json!({"model": "a", "x": {"model": "no"}}), json!({"model": "b"})),
        ("responses", json!({"response": {"model": "a"}}), json!({"response": {"model": "b"}})),
        ("messages", json!({"message": {"model": "a"}}), json!({"delta": {"model": "no"}})),
    ] {
        let told = |seeks: bool, events: &[&Value]| {
            let mut tap = Tap::new(endpoint(name));
            if seeks {
                tap.seek_model();
            }
            events.iter().for_each(|event| tap.piece(format!("data: {event}\n\n").as_bytes()));
            tap.model().map(str::to_owned)
        };
        assert_eq!(told(true, &[&first]).as_deref(), Some("a"), "{name}");
        let last = if name == "messages" { "a" } else { "b" };
        assert_eq!(told(true, &[&first, &more]).as_deref(), Some(last), "{name}");
        assert_eq!(told(false, &[&first]), None, "{name}");
        let reply = json!({"model": "claude", "usage": {}, "tools": [{"model": "no"}]}).to_string();
        splits::each_split(reply.as_bytes(), |pieces| {
            let mut tap = Tap::new(endpoint(name));
            tap.seek_model();
            pieces.iter().for_each(|piece| tap.feed(piece));
            assert_eq!(tap.model(), Some("claude"), "{name}");
        });
    }
}

#[test]
fn vectors_of_vertex_tell_their_tokens_text_by_text() {
    let one = |count: Value| {
        let statistics = json!({"token_count": count, "truncated": false});
        json!({"embeddings": {"values": [0.5], "statistics": statistics}})
    };
    let reply = json!({"predictions": [one(json!(1234)), one(json!(7.0)), one(json!("x")), {}],
        "metadata": {"billableCharacterCount": 9}});
    let told = whole("predict", &reply, [1241, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(told.usage.images, 0);
    // One at the end of what is read, with nothing behind it that would be a piece of its own.
    whole("predict", &json!({"predictions": [one(json!(3))]}), [3, 0, 0, 0, 0, 0, 0, 0, 0]);
}
