use super::*;
use crate::dialect::refusal::Code;
use serde_json::{Value, json};

fn call(target: &str) -> Option<Call<'_>> {
    parse(target, &|name| name == "main").expect("a sound path")
}

#[track_caller]
fn leads(target: &str, name: &str, version: &str, scope: Option<&str>) {
    let call = call(target).unwrap_or_else(|| panic!("{target} is served"));
    assert_eq!(call.live.endpoint.name, name, "{target}");
    assert_eq!(call.version, version, "{target}");
    assert_eq!(call.scope.as_deref(), scope, "{target}");
}

#[test]
fn paths_of_sessions_are_known_with_and_without_a_scope() {
    leads("/v1/realtime?model=a", "realtime", "v1", None);
    leads("/main/v1/realtime", "realtime", "v1", Some("main"));
    leads("/realtime", "realtime", "v1", None);
    leads("/v1/responses", "responses.socket", "v1", None);
    leads("/main/v1/responses/", "responses.socket", "v1", Some("main"));
    let studio = "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent";
    leads(studio, "BidiGenerateContent", "v1beta", None);
    leads(&format!("/main{studio}?key=k"), "BidiGenerateContent", "v1beta", Some("main"));
    leads(&format!("/{studio}"), "BidiGenerateContent", "v1beta", None);
    let vertex = "/ws/google.cloud.aiplatform.v1beta1.LlmBidiService/BidiGenerateContent";
    leads(vertex, "BidiGenerateContent", "v1beta1", None);
    for (target, scope) in [
        ("/main/v1beta/models/gemini-x:BidiGenerateContent?key=k", Some("main")),
        ("/main/v1beta/models/gemini-x", Some("main")),
        ("/v1beta/models/main/gemini-x:bidiGenerateContent", None),
        ("/main/models/gemini-x:BidiGenerateContent", Some("main")),
    ] {
        leads(target, "BidiGenerateContent", "v1beta", scope);
        let model = call(target).expect("is served").model().expect("a name");
        assert!(model.is_some_and(|model| model.ends_with("gemini-x")), "{target}");
    }
    for target in [
        "/v1/chat/completions",
        "/v1/realtime/client_secrets",
        "/nobody/v1/realtime",
        "/v1/models",
        "/v1/models/gemini-x",
        "/v1beta/models",
        "/",
        "/ws/google.ai.generativelanguage.v9.GenerativeService.BidiGenerateContent",
        "/ws/google.ai.generativelanguage.v1alpha.GenerativeService.BidiGenerateContentConstrained",
    ] {
        assert!(call(target).is_none(), "{target}");
    }
}

#[test]
fn the_query_gives_its_model_once_and_keeps_the_rest() {
    let call = call("/v1/realtime?intent=a%2Fb&model=p%2Fm&key=secret&x=1").expect("is served");
    assert_eq!(call.model(), Ok(Some("p/m".to_owned())));
    assert_eq!(call.rest(), "intent=a%2Fb&x=1");
    let model = |target| super::tests::call(target).expect("is served").model();
    assert_eq!(model("/v1/realtime?call_id=rtc_1"), Ok(None));
    assert_eq!(model("/v1/realtime?model="), Ok(None));
    assert_eq!(model("/v1/realtime?model=a&mod%65l=b"), Err(AskError::ModelTwice));
    assert_eq!(model("/v1/realtime?model=%ff"), Err(AskError::ModelNotText));
    assert_eq!(model("/v1/responses?model=a"), Ok(None));
}

#[test]
fn a_key_among_subprotocols_is_found_and_does_not_go_up() {
    let offered = b"realtime, openai-insecure-api-key.sk-1, openai-beta.realtime-v1";
    assert_eq!(key_of_protocols(offered), Some(&b"sk-1"[..]));
    let up = protocols_up([&offered[..], b"openai-organization.org, x"].into_iter());
    assert_eq!(up, ["realtime", "openai-beta.realtime-v1", "x"]);
    assert_eq!(key_of_protocols(b"openai-insecure-api-key."), None);
}

fn names(live: &'static Live, asked: &str, served: &str, in_event: &str) -> Names {
    Names::new(live, asked, served, in_event, asked != served)
}

/// What an event becomes that goes up in a session of this model.
#[track_caller]
fn goes_up(live: &'static Live, names: &Names, event: &str, expected: Result<&str, AskError>) {
    let mut bytes = event.as_bytes().to_vec();
    let result = Wish::read(live, &bytes).and_then(|wish| {
        if wish.model.as_ref().is_some_and(|name| !names.has(name)) {
            return Err(AskError::OtherModel);
        }
        wish.write(names, &mut bytes);
        Ok(String::from_utf8(bytes).expect("UTF-8"))
    });
    assert_eq!(result, expected.map(str::to_owned), "{event}");
}

#[test]
fn events_that_go_up_name_the_served_model_and_no_other() {
    let responses = names(&RESPONSES, "chat", "gpt-4.1", "gpt-4.1");
    let goes = |event: &str, expected| goes_up(&RESPONSES, &responses, event, expected);
    let create = r#"{"type":"response.create","input":[{"model":"x"}],"model":"chat"}"#;
    let served = r#"{"type":"response.create","input":[{"model":"x"}],"model":"gpt-4.1"}"#;
    goes(create, Ok(served));
    goes(served, Ok(served));
    goes(r#"{"type":"response.cancel"}"#, Ok(r#"{"type":"response.cancel"}"#));
    goes(r#"{"model":"gpt-5"}"#, Err(AskError::OtherModel));
    goes(r#"{"model":"chat","mod\u0065l":"gpt-5"}"#, Err(AskError::ModelTwice));
    goes(r#"{"model":"chat","Model":"gpt-5"}"#, Err(AskError::KeyMisspelt));
    goes(r#"{"type":"x","model":"chat","type":"response.create"}"#, Err(AskError::ModelTwice));
    goes(r#"{"model":["chat"]}"#, Err(AskError::ModelNotText));
    goes(r#"["chat"]"#, Err(AskError::NotAnObject));
    goes(r#"{"model":"chat"} {"model":"gpt-5"}"#, Err(AskError::NotJson));
    goes("", Err(AskError::Truncated));

    let realtime = names(&REALTIME, "rt", "gpt-realtime", "gpt-realtime");
    let goes = |event: &str, expected| goes_up(&REALTIME, &realtime, event, expected);
    let transcribes = r#"{"session":{"audio":{"input":{"transcription":{"model":"whisper-1"}}}}}"#;
    goes(transcribes, Ok(transcribes));
    goes(r#"{"session":{"model":"other"}}"#, Err(AskError::OtherModel));
    goes(r#"{"session":{"model":"rt"},"session":{"model":"other"}}"#, Err(AskError::ModelTwice));

    let gemini = names(&GEMINI, "p/flash", "flash", "models/flash");
    let goes = |event: &str, expected| goes_up(&GEMINI, &gemini, event, expected);
    let served = r#"{"setup":{"model":"models/flash"}}"#;
    for name in ["models/p/flash", "p/flash", "models/flash", "publishers/p/models/flash"] {
        goes(&format!(r#"{{"setup":{{"model":"{name}"}}}}"#), Ok(served));
    }
    let vertex = r#"{"setup":{"model":"projects/a/locations/b/publishers/google/models/flash"}}"#;
    goes(vertex, Ok(served));
    // The path has named it.
    goes(r#"{"setup":{}}"#, Ok(served));
    goes(r#"{"setup":{"x":1}}"#, Ok(r#"{"setup":{"model":"models/flash","x":1}}"#));
    goes(r#"{"clientContent":{}}"#, Ok(r#"{"clientContent":{}}"#));
}

#[test]
fn events_ask_for_answers_and_for_a_transcript() {
    let asks = |live, event: &str| Wish::read(live, event.as_bytes()).expect("sound").asks;
    assert!(asks(&RESPONSES, r#"{"type":"response.create"}"#));
    assert!(asks(&RESPONSES, r#"{"model":"m"}"#));
    assert!(asks(&REALTIME, r#"{"type":"response.create"}"#));
    assert!(!asks(&REALTIME, r#"{"type":"session.update","session":{"model":"m"}}"#));
    assert!(!asks(&GEMINI, r#"{"setup":{"model":"m"}}"#));
    for path in [r#""input_audio_transcription""#, r#""audio":{"input":{"transcription""#] {
        let close = if path.starts_with("\"audio") { "}}" } else { "" };
        let event = format!(r#"{{"session":{{{path}:{{"model":"whisper-1"}}{close}}}}}"#);
        let wish = Wish::read(&REALTIME, event.as_bytes()).expect("sound");
        assert_eq!(wish.transcriber.as_deref(), Some("whisper-1"), "{event}");
    }
    let both = |other: &str| {
        let new = r#""audio":{"input":{"transcription":{"model":"whisper-1"}}}"#;
        let old = format!(r#""input_audio_transcription":{{"model":"{other}"}}"#);
        let event = format!(r#"{{"session":{{{new},{old}}}}}"#);
        Wish::read(&REALTIME, event.as_bytes()).map(|wish| wish.transcriber)
    };
    assert_eq!(both("whisper-1"), Ok(Some("whisper-1".to_owned())));
    assert_eq!(both("other"), Err(AskError::ModelTwice));
}

#[test]
fn a_first_event_says_which_model_is_asked() {
    let asked = |live, event: &str| first(live, event.as_bytes());
    assert_eq!(asked(&GEMINI, r#"{"setup":{"model":"models/p/m"}}"#), Ok("p/m".to_owned()));
    assert_eq!(asked(&RESPONSES, r#"{"model":"models/p"}"#), Ok("models/p".to_owned()));
    assert_eq!(asked(&RESPONSES, r#"{"type":"x"}"#), Err(AskError::ModelMissing));
}

/// What a session hears, one event after the other; they come down as they were sent.
fn hear(live: &'static Live, events: &[Value]) -> Vec<News> {
    let (mut listener, names) = (Listener::new(live), names(live, "m", "m", "m"));
    let heard = events.iter().map(|event| {
        let sent = event.to_string().into_bytes();
        let mut bytes = sent.clone();
        let news = listener.hear(&mut bytes, &names);
        assert_eq!(bytes, sent);
        news
    });
    heard.collect()
}

#[test]
fn names_are_restored_and_each_answer_tells_what_it_used() {
    let (mut listener, names) = (Listener::new(&RESPONSES), names(&RESPONSES, "chat", "g", "g"));
    let usage = json!({"input_tokens": 10, "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 2}});
    for (kind, usage, begins, ends) in [
        ("response.created", json!(null), true, false),
        ("response.in_progress", usage.clone(), false, false),
        ("response.completed", usage.clone(), false, true),
        ("response.incomplete", usage, false, true),
        ("response.failed", json!(null), false, true),
    ] {
        let items = json!([{"type": "web_search_call"}, {"type": "image_generation_call"}]);
        let response = json!({"model": "gpt-dated", "usage": usage, "service_tier": "flex",
            "output": items,
            "instructions": "\"model\":\"gpt-dated\""});
        let event = json!({"type": kind, "response": response, "model": "stays"});
        let mut bytes = event.to_string().into_bytes();
        let news = listener.hear(&mut bytes, &names);
        let mut expected = event;
        expected["response"]["model"] = json!("chat");
        assert_eq!(serde_json::from_slice::<Value>(&bytes).expect("JSON"), expected);
        assert_eq!((news.begins, news.ends), (begins, ends), "{kind}");
        assert_eq!(news.told.is_some(), ends && kind != "response.failed", "{kind}");
        let Some(told) = news.told else { continue };
        assert_eq!((told.usage.input_tokens, told.usage.cache_read_input_tokens), (6, 4));
        assert_eq!((told.usage.output_tokens, told.usage.reasoning_tokens), (5, 2));
        assert_eq!((told.usage.tool_calls, told.usage.images), (1, 1));
        assert_eq!(told.tier.name(), "flex");
    }
}

#[test]
fn realtime_tells_its_details_under_names_of_its_own() {
    let usage = json!({"total_tokens": 50, "input_tokens": 40, "output_tokens": 10,
        "input_token_details": {"cached_tokens": 16, "text_tokens": 10, "audio_tokens": 30,
            "cached_tokens_details": {"audio_tokens": 12, "text_tokens": 4}},
        "output_token_details": {"text_tokens": 3, "audio_tokens": 7}});
    let event = json!({"type": "response.done", "response": {"usage": usage}});
    let usage = hear(&REALTIME, &[event])[0].told.expect("it is told").usage;
    assert_eq!((usage.input_tokens, usage.cache_read_input_tokens), (24, 16));
    assert_eq!((usage.input_audio_tokens, usage.output_audio_tokens), (18, 7));
    assert_eq!(usage.output_tokens, 10);
}

#[test]
fn realtime_says_who_transcribes_and_what_that_used() {
    let usage = json!({"type": "tokens", "input_tokens": 30, "output_tokens": 6,
        "input_token_details": {"audio_tokens": 30}});
    let news = hear(
        &REALTIME,
        &[
            json!({"type": "session.created", "session": {}}),
            json!({"type": "session.updated", "session":
                {"audio": {"input": {"transcription": {"model": "whisper-1"}}}}}),
            json!({"type": "conversation.item.input_audio_transcription.delta", "usage": usage}),
            json!({"type": "conversation.item.input_audio_transcription.completed",
                "usage": usage}),
            json!({"type": "error", "error": {"message": "no"}}),
        ],
    );
    assert_eq!(news[0].transcriber.as_deref(), Some(""));
    assert_eq!(news[1].transcriber.as_deref(), Some("whisper-1"));
    assert_eq!(news[2], News::default());
    let told = news[3].transcribed.expect("it is told").usage;
    assert_eq!((told.input_tokens, told.input_audio_tokens, told.output_tokens), (30, 30, 6));
    assert_eq!(news[4].failed, Some(400));
}

#[test]
fn within_a_turn_of_gemini_the_last_word_counts() {
    let usage = |prompt: u64, output: u64| {
        json!({"promptTokenCount": prompt, "responseTokenCount": output,
            "responseTokensDetails": [{"modality": "AUDIO", "tokenCount": output}]})
    };
    let done = json!({"turnComplete": true});
    let part = json!({"modelTurn": {"parts": []}});
    let news = hear(
        &GEMINI,
        &[
            json!({"setupComplete": {}}),
            json!({"serverContent": part, "usageMetadata": usage(10, 1)}),
            json!({"serverContent": done, "usageMetadata": usage(10, 3)}),
            // Behind the end of its turn, and still of it.
            json!({"usageMetadata": usage(10, 4)}),
            json!({"serverContent": part, "usageMetadata": usage(20, 1)}),
            json!({"serverContent": done}),
            json!({"toolCall": {}, "usageMetadata": usage(5, 1)}),
        ],
    );
    let begins: Vec<bool> = news.iter().map(|news| news.begins).collect();
    assert_eq!(begins, [false, true, false, false, true, false, true]);
    let told: Vec<_> = news.iter().map(|news| news.told.map(|told| told.usage)).collect();
    let counts = told.iter().flatten().map(|usage| (usage.input_tokens, usage.output_tokens));
    assert!(counts.eq([(10, 1), (10, 3), (10, 4), (20, 1), (5, 1)]));
    assert!(told.iter().flatten().all(|usage| usage.output_audio_tokens == usage.output_tokens));
}

#[test]
fn what_is_no_json_comes_down_as_it_is() {
    let (mut listener, names) = (Listener::new(&RESPONSES), names(&RESPONSES, "chat", "g", "g"));
    for text in ["", "\u{1}binary", r#"{"response":{"model":"gpt""#] {
        let mut bytes = text.as_bytes().to_vec();
        assert_eq!(listener.hear(&mut bytes, &names), News::default());
        assert_eq!(bytes, text.as_bytes());
    }
}

#[test]
fn a_refusal_becomes_an_event_where_the_dialect_has_one() {
    let refusal = Refusal::new(Code::Forbidden, "forbidden: no");
    let event = error_event(&RESPONSES, &refusal, "r-1").expect("an event");
    let event: Value = serde_json::from_slice(&event).expect("JSON");
    let error = json!({"message": "forbidden: no", "type": "invalid_request_error", "param": null,
        "code": "model_not_allowed"});
    assert_eq!(event, json!({"type": "error", "status": 403, "event_id": "r-1", "error": error}));
    assert!(error_event(&GEMINI, &refusal, "r-1").is_none());
}
