use super::*;
use crate::dialect::refusal::Code;
use serde_json::json;

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
    for target in [
        "/v1/chat/completions",
        "/v1/realtime/client_secrets",
        "/nobody/v1/realtime",
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

fn events(live: &'static Live, asked: &str, served: &str, in_event: &str) -> Events {
    Events::new(live, asked, served, in_event, asked != served)
}

#[track_caller]
fn goes_up(events: &Events, event: &str, expected: Result<&str, AskError>) {
    let mut bytes = event.as_bytes().to_vec();
    let result = events.up(&mut bytes).map(|()| String::from_utf8(bytes).expect("UTF-8"));
    assert_eq!(result, expected.map(str::to_owned), "{event}");
}

#[test]
fn events_that_go_up_name_the_served_model_and_no_other() {
    let responses = events(&RESPONSES, "chat", "gpt-4.1", "gpt-4.1");
    let create = r#"{"type":"response.create","input":[{"model":"x"}],"model":"chat"}"#;
    let served = r#"{"type":"response.create","input":[{"model":"x"}],"model":"gpt-4.1"}"#;
    goes_up(&responses, create, Ok(served));
    goes_up(&responses, served, Ok(served));
    goes_up(&responses, r#"{"type":"response.cancel"}"#, Ok(r#"{"type":"response.cancel"}"#));
    goes_up(&responses, r#"{"model":"gpt-5"}"#, Err(AskError::OtherModel));
    goes_up(&responses, r#"{"model":"chat","mod\u0065l":"gpt-5"}"#, Err(AskError::ModelTwice));
    goes_up(&responses, r#"{"model":"chat","Model":"gpt-5"}"#, Err(AskError::KeyMisspelt));
    goes_up(&responses, r#"{"model":["chat"]}"#, Err(AskError::ModelNotText));
    goes_up(&responses, r#"["chat"]"#, Err(AskError::NotAnObject));
    goes_up(&responses, r#"{"model":"chat"} {"model":"gpt-5"}"#, Err(AskError::NotJson));
    goes_up(&responses, "", Err(AskError::Truncated));

    let realtime = events(&REALTIME, "rt", "gpt-realtime", "gpt-realtime");
    let transcribes = r#"{"session":{"audio":{"transcription":{"model":"whisper-1"}}}}"#;
    goes_up(&realtime, transcribes, Ok(transcribes));
    goes_up(&realtime, r#"{"session":{"model":"other"}}"#, Err(AskError::OtherModel));
    let twice = r#"{"session":{"model":"rt"},"session":{"model":"other"}}"#;
    goes_up(&realtime, twice, Err(AskError::ModelTwice));

    let gemini = events(&GEMINI, "p/flash", "flash", "models/flash");
    let served = r#"{"setup":{"model":"models/flash"}}"#;
    for name in ["models/p/flash", "p/flash", "models/flash", "publishers/p/models/flash"] {
        goes_up(&gemini, &format!(r#"{{"setup":{{"model":"{name}"}}}}"#), Ok(served));
    }
    let vertex = r#"{"setup":{"model":"projects/a/locations/b/publishers/google/models/flash"}}"#;
    goes_up(&gemini, vertex, Ok(served));
}

#[test]
fn a_first_event_says_which_model_is_asked() {
    let asked = |live, event: &str| first(live, event.as_bytes());
    assert_eq!(asked(&GEMINI, r#"{"setup":{"model":"models/p/m"}}"#), Ok("p/m".to_owned()));
    assert_eq!(asked(&RESPONSES, r#"{"model":"models/p"}"#), Ok("models/p".to_owned()));
    assert_eq!(asked(&RESPONSES, r#"{"type":"x"}"#), Err(AskError::ModelMissing));
}

#[test]
fn names_are_restored_and_usage_is_summed_over_answers() {
    let mut events = events(&RESPONSES, "chat", "gpt", "gpt");
    let usage = json!({"input_tokens": 10, "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 2}});
    for (kind, usage) in [
        ("response.created", json!(null)),
        ("response.in_progress", usage.clone()),
        ("response.completed", usage.clone()),
        ("response.incomplete", usage),
    ] {
        let response = json!({"model": "gpt-dated", "usage": usage, "service_tier": "flex",
            "instructions": "\"model\":\"gpt-dated\""});
        let event = json!({"type": kind, "response": response, "model": "stays"});
        let mut bytes = event.to_string().into_bytes();
        events.down(&mut bytes);
        let mut expected = event;
        expected["response"]["model"] = json!("chat");
        assert_eq!(serde_json::from_slice::<Value>(&bytes).expect("JSON"), expected);
    }
    let told = events.told();
    assert_eq!((told.usage.input_tokens, told.usage.cache_read_input_tokens), (12, 8));
    assert_eq!((told.usage.output_tokens, told.usage.reasoning_tokens), (10, 4));
    assert_eq!(told.tier.name(), "flex");
    assert!(told.any && told.output);
}

#[test]
fn realtime_tells_its_details_under_names_of_its_own() {
    let mut events = events(&REALTIME, "rt", "rt", "rt");
    let usage = json!({"total_tokens": 50, "input_tokens": 40, "output_tokens": 10,
        "input_token_details": {"cached_tokens": 16, "text_tokens": 10, "audio_tokens": 30,
            "cached_tokens_details": {"audio_tokens": 12, "text_tokens": 4}},
        "output_token_details": {"text_tokens": 3, "audio_tokens": 7}});
    let event = json!({"type": "response.done", "response": {"usage": usage}});
    let sent = event.to_string().into_bytes();
    let mut bytes = sent.clone();
    events.down(&mut bytes);
    assert_eq!(bytes, sent);
    let usage = events.told().usage;
    assert_eq!((usage.input_tokens, usage.cache_read_input_tokens), (24, 16));
    assert_eq!((usage.input_audio_tokens, usage.output_audio_tokens), (18, 7));
    assert_eq!(usage.output_tokens, 10);
}

#[test]
fn within_a_turn_of_gemini_the_last_word_counts_and_turns_add_up() {
    let mut events = events(&GEMINI, "m", "m", "models/m");
    let usage = |prompt: u64, output: u64| {
        json!({"promptTokenCount": prompt, "responseTokenCount": output,
            "responseTokensDetails": [{"modality": "AUDIO", "tokenCount": output}]})
    };
    let done = json!({"turnComplete": true});
    let part = json!({"modelTurn": {"parts": []}});
    for event in [
        json!({"setupComplete": {}}),
        json!({"serverContent": part, "usageMetadata": usage(10, 1)}),
        json!({"serverContent": done, "usageMetadata": usage(10, 3)}),
        // Behind the end of its turn, and still of it.
        json!({"usageMetadata": usage(10, 4)}),
        json!({"serverContent": part, "usageMetadata": usage(20, 1)}),
        json!({"serverContent": done, "usageMetadata": usage(20, 6)}),
        json!({"toolCall": {}, "usageMetadata": usage(5, 1)}),
    ] {
        let sent = event.to_string().into_bytes();
        let mut bytes = sent.clone();
        events.down(&mut bytes);
        assert_eq!(bytes, sent);
    }
    let usage = events.told().usage;
    assert_eq!((usage.input_tokens, usage.output_tokens), (35, 11));
    assert_eq!(usage.output_audio_tokens, 11);
}

#[test]
fn what_is_no_json_comes_down_as_it_is() {
    let mut events = events(&RESPONSES, "chat", "gpt", "gpt");
    for text in ["", "\u{1}binary", r#"{"response":{"model":"gpt""#] {
        let mut bytes = text.as_bytes().to_vec();
        events.down(&mut bytes);
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
