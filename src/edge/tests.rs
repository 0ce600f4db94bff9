use super::*;
use crate::dialect::endpoint::{ENDPOINTS, Endpoint};
use crate::dialect::{Dialect, Family};
use crate::failure::Sent;
use crate::route::quota::{Spent, Window};
use std::fmt::Write;

const FAMILIES: [(Family, &str); 3] =
    [(Family::Openai, "openai"), (Family::Anthropic, "anthropic"), (Family::Gemini, "gemini")];

const ASK_ERRORS: [AskError; 18] = [
    AskError::NotJson,
    AskError::NotAnObject,
    AskError::Truncated,
    AskError::TooDeep,
    AskError::ModelMissing,
    AskError::ModelTwice,
    AskError::ModelNotText,
    AskError::ModelEmpty,
    AskError::ModelTooLong,
    AskError::ModelControl,
    AskError::ModelDots,
    AskError::StreamTwice,
    AskError::StreamOptionsTwice,
    AskError::KeyMisspelt,
    AskError::BodyModelMismatch,
    AskError::OtherModel,
    AskError::TooManyModels,
    AskError::OtherProvider,
];

const PHASES: [Phase; 6] =
    [Phase::Resolve, Phase::Connect, Phase::Tls, Phase::Send, Phase::AwaitHead, Phase::Relay];

const CAUSES: [Cause; 13] = [
    Cause::NoSuchHost,
    Cause::Unreachable,
    Cause::TimedOut,
    Cause::TlsRefused,
    Cause::Fenced,
    Cause::NoToken,
    Cause::AccountRefused,
    Cause::ProxyRefused,
    Cause::Exhausted,
    Cause::Disconnected,
    Cause::Malformed,
    Cause::DownstreamGone,
    Cause::ShuttingDown,
];

fn failure(phase: Phase, cause: Cause) -> Refusal {
    Refusal::from(Failure { phase, sent: Sent::Nothing, cause, reused: false, after_ms: 0 })
}

/// Every refusal there is, with what it came from.
fn refusals() -> Vec<(String, Refusal)> {
    let mut all: Vec<(String, Refusal)> = Vec::new();
    let mut add = |name: String, refusal| all.push((name, refusal));
    for error in WireError::ALL {
        add(format!("WireError::{error:?}"), error.into());
    }
    for error in PathError::ALL {
        add(format!("PathError::{error:?}"), error.into());
    }
    for error in ASK_ERRORS {
        add(format!("AskError::{error:?}"), error.into());
    }
    for unstored in [Unstored::Busy, Unstored::Failed] {
        add(format!("Unstored::{unstored:?}"), unstored.into());
    }
    for error in CodingError::ALL {
        add(format!("CodingError::{error:?}"), error.into());
    }
    for error in HandshakeError::ALL {
        add(format!("HandshakeError::{error:?}"), error.into());
    }
    let spoken = [Dialect::OpenaiChat, Dialect::Gemini].into_iter().collect();
    for (name, error) in [
        ("ProviderPrefix", RouteError::ProviderPrefix),
        ("NoSuchModel", RouteError::NoSuchModel),
        ("Forbidden", RouteError::Forbidden),
        ("Unmetered", RouteError::Unmetered),
        ("DialectNotSpoken", RouteError::DialectNotSpoken(spoken)),
    ] {
        add(format!("RouteError::{name}"), error.into());
    }
    add("StreamError::EventTooLong".into(), StreamError::EventTooLong.into());
    add("StreamError::Unfinished".into(), StreamError::Unfinished.into());
    for cause in CAUSES {
        for phase in PHASES {
            add(format!("Failure {phase:?} {cause:?}"), failure(phase, cause));
        }
    }
    for (name, refusal) in [
        ("unauthorized", Refusal::unauthorized()),
        ("overloaded", Refusal::overloaded()),
        ("shutting_down", Refusal::shutting_down()),
        ("timeout", Refusal::timeout()),
        ("rate_limited 60", Refusal::rate_limited("the rule for `gpt-*`", "rpm", 9, 60)),
        ("rate_limited 61", Refusal::rate_limited("the rule for `*`", "rpd", 9, 61)),
        ("rate_limited now", Refusal::limit_reached("the rule for `*`", "rpd", 9)),
        ("rate_limited none", Refusal::never_allowed("the rule for `gpt-*`", "rpm", 0)),
        ("rate_limited more", Refusal::never_allowed("the rule for `*`", "total_tokens", 9)),
        ("quota_exceeded", Refusal::from(SPENT)),
        ("internal", Refusal::internal()),
        ("about_model", Refusal::from(RouteError::Forbidden).about_model("a\"\\\n\u{2028}<é>")),
        ("at", Refusal::from(PathError::NotFound).at(Some("127.0.0.1:8787"))),
    ] {
        add(name.into(), refusal);
    }
    all
}

const SPENT: Spent =
    Spent { window: Window::Day, used: 1_500_000_000_000, reserved: 1, ceiling: 2_000_000_000_000 };

/// Compares with the golden file, or rewrites it when `UPDATE_GOLDEN` is set.
#[track_caller]
fn golden(name: &str, found: &str) {
    let path = format!("{}/tests/golden/refusal/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, found).expect("the golden file can be written");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    for (found, expected) in found.lines().zip(expected.lines()) {
        assert_eq!(found, expected, "in {path}; UPDATE_GOLDEN=1 rewrites it");
    }
    assert_eq!(found.len(), expected.len(), "length of {path}");
}

#[test]
fn every_refusal_looks_native_to_every_family() {
    for (family, name) in FAMILIES {
        let mut found = String::new();
        for (source, refusal) in refusals() {
            let body = refusal.body(family, "req_1");
            let mut fields = Vec::new();
            refusal.fields(&mut fields);
            let fields = String::from_utf8_lossy(&fields).trim_end().replace("\r\n", " | ");
            let close = if refusal.close { " close" } else { "" };
            let body = String::from_utf8_lossy(&body);
            writeln!(found, "{source}\n  {}{close} | {fields}\n  {body}", refusal.status)
                .expect("a string takes everything");
        }
        golden(name, &found);
    }
}

#[test]
fn every_endpoint_has_its_error_event() {
    let mut found = String::new();
    for endpoint in ENDPOINTS {
        let event = Refusal::from(StreamError::EventTooLong).event(endpoint.dialect);
        let event = event.escape_ascii();
        writeln!(found, "{}\n  {event}", endpoint.name).expect("a string takes everything");
    }
    golden("events", &found);
}

#[test]
fn every_body_and_event_is_json_and_holds_the_message() {
    for (source, refusal) in refusals() {
        for (family, _) in FAMILIES {
            let json: serde_json::Value =
                serde_json::from_slice(&refusal.body(family, "r\"1")).expect("a body is JSON");
            let message = json["error"]["message"].as_str().unwrap_or_default();
            assert!(message.starts_with(&*refusal.message), "{source}: {message}");
            if family == Family::Anthropic {
                assert_eq!(json["request_id"], "r\"1");
            }
        }
        for endpoint in ENDPOINTS {
            let event = refusal.event(endpoint.dialect);
            let event = std::str::from_utf8(&event).expect("an event is text");
            let data = event.lines().find_map(|line| line.strip_prefix("data: "));
            let json: serde_json::Value =
                serde_json::from_str(data.expect("an event has data")).expect("data is JSON");
            let flat = endpoint.dialect == Dialect::OpenaiResponses;
            let message = if flat { &json["message"] } else { &json["error"]["message"] };
            assert!(message.as_str().unwrap_or_default().starts_with(&*refusal.message));
            assert!(event.ends_with("\n\n") || event.ends_with("\r\n\r\n"));
            assert_eq!(event.starts_with("event: error\n"), has_event_name(endpoint));
        }
    }
}

fn has_event_name(endpoint: &Endpoint) -> bool {
    matches!(endpoint.dialect, Dialect::OpenaiResponses | Dialect::Anthropic)
}

#[test]
fn messages_begin_with_the_documented_words() {
    let begins = |refusal: Refusal, status: u16, words: &str| {
        assert!(refusal.message.starts_with(words), "{}", refusal.message);
        assert_eq!(refusal.status, status);
    };
    begins(Refusal::unauthorized(), 401, "unauthorized");
    begins(RouteError::Forbidden.into(), 403, "forbidden: model");
    begins(Refusal::rate_limited("*", "rpm", 9, 1), 429, "rate_limited");
    begins(Refusal::from(SPENT), 402, "quota_exceeded");
    begins(RouteError::ProviderPrefix.into(), 400, "provider prefix");
    let message = Refusal::from(RouteError::ProviderPrefix).message;
    for way in ["provider/model", "/{provider}/v1/", "alias"] {
        assert!(message.contains(way), "{way}");
    }
}

#[test]
fn a_dialect_that_is_not_spoken_names_those_that_are() {
    let spoken = [Dialect::Anthropic, Dialect::OpenaiChat].into_iter().collect();
    let refusal = Refusal::from(RouteError::DialectNotSpoken(spoken));
    assert_eq!(refusal.status, 400);
    assert!(refusal.message.ends_with("it speaks: openai_chat, anthropic"), "{}", refusal.message);
}

#[test]
fn an_unknown_path_names_the_callers_base_url() {
    let refusal = Refusal::from(PathError::NotFound).at(Some("gw:8787"));
    for (family, all, one) in [
        (Family::Openai, "http://gw:8787/v1 ", "http://gw:8787/{provider}/v1 "),
        (Family::Anthropic, "http://gw:8787 ", "http://gw:8787/{provider} "),
        (Family::Gemini, "http://gw:8787 ", "http://gw:8787/{provider} "),
    ] {
        let body = refusal.body(family, "");
        let body = String::from_utf8_lossy(&body).into_owned();
        assert!(body.contains(all) && body.contains(one), "{body}");
    }
}

#[test]
fn repeating_is_advised_against_only_where_it_cannot_help() {
    for (source, refusal) in refusals() {
        // Clients repeat 408, 409, 429 and every 5xx; elsewhere the field would say nothing.
        if refusal.should_retry.is_some() {
            assert!(refusal.status == 429 || refusal.status >= 500, "{source}");
        }
        assert_ne!(refusal.should_retry, Some(true), "{source}");
        if matches!(refusal.status, 503 | 429) {
            // What never has room says that instead; `now` is what nobody waits for.
            let is_never = refusal.should_retry == Some(false) || source == "rate_limited now";
            assert!(refusal.retry_after_s.is_some() || is_never, "{source}");
        }
    }
    assert_eq!(failure(Phase::Connect, Cause::Unreachable).should_retry, None);
    assert_eq!(failure(Phase::Resolve, Cause::NoSuchHost).should_retry, Some(false));
    // The upstream may have thought for ten minutes, and billed them.
    assert_eq!(failure(Phase::AwaitHead, Cause::TimedOut).should_retry, Some(false));
    assert_eq!(failure(Phase::Connect, Cause::TimedOut).should_retry, None);
}

#[test]
fn broken_grammar_ends_the_connection_and_a_broken_request_does_not() {
    for error in WireError::ALL {
        assert!(Refusal::from(error).close, "{error:?}");
    }
    for error in PathError::ALL {
        assert!(!Refusal::from(error).close, "{error:?}");
    }
    for error in ASK_ERRORS {
        assert!(!Refusal::from(error).close, "{error:?}");
    }
}
