use super::*;
use crate::dialect::endpoint::ModelPlace;

const PROVIDERS: [&str; 5] = ["openai-main", "anthropic-main", "vertex-main", "router", "chat"];

fn is_provider(name: &str) -> bool {
    PROVIDERS.contains(&name)
}

fn run<'t>(method: &str, target: &'t str) -> Result<Route<'t>, PathError> {
    parse(method, target, &is_provider)
}

/// A POST to `target` leads to `endpoint` with that scope and that model (`-` for none).
#[track_caller]
fn leads(target: &str, scope: &str, endpoint: &str, model: &str) {
    let route = run("POST", target).unwrap_or_else(|error| panic!("{target}: {error:?}"));
    assert_eq!(route.scope.as_deref().unwrap_or("-"), scope, "{target}");
    assert_eq!(route.endpoint.name, endpoint, "{target}");
    assert_eq!(route.model.as_deref().unwrap_or("-"), model, "{target}");
}

#[track_caller]
fn refused(target: &str, error: PathError) {
    assert_eq!(run("POST", target).err(), Some(error), "{target}");
}

#[test]
fn every_endpoint_is_reached_in_both_modes() {
    for endpoint in ENDPOINTS {
        match endpoint.model {
            ModelPlace::Path => {
                let target = format!("/v1beta/models/vertex-main/g-1.5:{}", endpoint.tail);
                leads(&target, "-", endpoint.name, "vertex-main/g-1.5");
                let scoped = format!("/vertex-main/v1beta/models/g-1.5:{}", endpoint.tail);
                leads(&scoped, "vertex-main", endpoint.name, "g-1.5");
            }
            _ => {
                leads(&format!("/v1/{}", endpoint.tail), "-", endpoint.name, "-");
                let scoped = format!("/router/v1/{}", endpoint.tail);
                leads(&scoped, "router", endpoint.name, "-");
            }
        }
    }
}

#[test]
fn base_urls_typed_slightly_wrong_still_work() {
    for target in [
        "/chat/completions",
        "/v1/v1/chat/completions",
        "//v1//chat//completions",
        "/v1/chat/completions/",
        "/v1/v1beta/v1/chat/completions//",
        "http://gateway:8787/v1/chat/completions",
        "HTTPS://h/chat/completions?x=1",
        "/v1/chat/%63ompletions",
    ] {
        leads(target, "-", "chat.completions", "-");
    }
    for target in [
        "/openai-main/chat/completions",
        "/openai-main/v1/v1/chat/completions",
        "//openai-main//chat/completions/",
        "/openai%2Dmain/v1/chat/completions",
    ] {
        leads(target, "openai-main", "chat.completions", "-");
    }
    leads("/v1/v1/messages", "-", "messages", "-");
    leads("/anthropic-main/messages/count_tokens", "anthropic-main", "messages.count_tokens", "-");
    leads("/models/g:generateContent", "-", "generateContent", "g");
    leads(
        "/v1beta//models//vertex-main//g:generateContent/",
        "-",
        "generateContent",
        "vertex-main/g",
    );
}

#[test]
fn the_version_is_kept_as_sent_or_the_usual_one() {
    for (target, version) in [
        ("/v1/chat/completions", "v1"),
        ("/chat/completions", "v1"),
        ("/messages", "v1"),
        ("/models/g:generateContent", "v1beta"),
        ("/v1/models/g:generateContent", "v1"),
        ("/v1beta/models/g:generateContent", "v1beta"),
        ("/v1/v1beta/models/g:generateContent", "v1beta"),
        ("/v1beta1/publishers/google/models/g:generateContent", "v1beta1"),
    ] {
        assert_eq!(run("POST", target).map(|route| route.version), Ok(version), "{target}");
    }
}

#[test]
fn model_ids_are_decoded_exactly_once() {
    for (id, model) in [
        ("vertex-main%2Fgemini", "vertex-main/gemini"),
        ("vertex-main/gemini", "vertex-main/gemini"),
        ("router/meta-llama/llama-3-70b:free", "router/meta-llama/llama-3-70b:free"),
        ("ft:gpt-4o:org::id", "ft:gpt-4o:org::id"),
        ("ft%3Agpt-4o%3Aorg%3A%3Aid", "ft:gpt-4o:org::id"),
        ("claude@20240620", "claude@20240620"),
        ("%E6%A8%A1%E5%9E%8B-%C3%A9", "模型-é"),
        ("a%20b", "a b"),
        ("gemini%2D1%2E5", "gemini-1.5"),
        // A second decoding would make slashes and dots of these.
        ("a%252Fb", "a%2Fb"),
        ("%252e%252e", "%2e%2e"),
        ("a+b", "a+b"),
    ] {
        leads(&format!("/v1beta/models/{id}:generateContent"), "-", "generateContent", model);
    }
    leads("/v1beta/models/g%3AgenerateContent", "-", "generateContent", "g");
}

#[test]
fn models_in_front_of_an_id_is_taken_off_wherever_it_stands() {
    leads("/v1beta/models/models/vertex-main/g:countTokens", "-", "countTokens", "vertex-main/g");
    leads("/v1beta/models/models%2Fg:countTokens", "-", "countTokens", "g");
    leads("/v1beta/models/models/models/g:countTokens", "-", "countTokens", "g");
    // Behind the prefix it may be part of the id.
    leads("/v1beta/models/a/models/g:countTokens", "-", "countTokens", "a/models/g");
}

#[test]
fn tuned_models_are_another_collection() {
    for target in
        ["/v1beta/tunedModels/x:generateContent", "/v1beta/models/tunedModels/x:generateContent"]
    {
        let route = run("POST", target).expect("a known path");
        assert_eq!(route.collection, Collection::TunedModels);
        assert_eq!(route.model.as_deref(), Some("x"));
    }
    let route = run("POST", "/v1beta/models/x:generateContent").expect("a known path");
    assert_eq!(route.collection, Collection::Models);
}

#[test]
fn publishers_are_prefixes_unless_google() {
    let verb = "streamGenerateContent";
    let target = |rest: &str| format!("{rest}:{verb}?alt=sse");
    leads(&target("/v1beta1/publishers/vertex-main/models/g"), "-", verb, "vertex-main/g");
    leads(&target("/v1beta1/publishers/google/models/g"), "-", verb, "g");
    leads(&target("/v1beta1/publishers/router/models/meta/llama"), "-", verb, "router/meta/llama");
    leads(&target("/vertex-main/v1beta1/publishers/google/models/g"), "vertex-main", verb, "g");
    refused(&target("/v1beta1/publishers/google/g"), PathError::NotFound);
    refused(&target("/v1beta1/publishers/a%2Fb/models/g"), PathError::EncodedSlash);
    refused("/v1beta1/publishers", PathError::NotFound);
}

#[test]
fn azures_clients_name_a_deployment() {
    let named = |target: &str, endpoint: &str, deployment: &str| {
        let route = run("POST", target).unwrap_or_else(|error| panic!("{target}: {error:?}"));
        assert_eq!((route.endpoint.name, route.model.is_none()), (endpoint, true), "{target}");
        assert_eq!(route.deployment.as_deref().unwrap_or("-"), deployment, "{target}");
    };
    named("/router/openai/deployments/d/chat/completions", "chat.completions", "d");
    named("/router/openai/deployments/chat/completions", "completions", "chat");
    named("/router//v1/openai/deployments//d/embeddings/", "embeddings", "d");
    named("/openai/deployments/router/a%2Fb/images/edits", "images.edits", "router/a/b");
    named("/router/openai/responses", "responses", "-");
    named("/router/openai/v1/chat/completions", "chat.completions", "-");
    for target in ["/router/openai/messages", "/router/openai/deployments/d/messages"] {
        refused(target, PathError::NotFound);
    }
    refused("/openai/responses", PathError::UnknownScope);
    refused("/nobody/openai/deployments/d/embeddings", PathError::UnknownScope);
    refused("/router/openai/deployments//embeddings", PathError::ModelEmpty);
    refused("/router/openai/deployments/d%2F/embeddings", PathError::ModelEmpty);
    refused("/router/openai/deployments/d/chat%2Fcompletions", PathError::EncodedSlash);
    let target = "/router/openai/deployments/d/embeddings?a=1&api-version=2024-10-21&b=%20";
    let route = run("POST", target).expect("a route");
    assert_eq!(route.query_to(false), "a=1&b=%20");
    assert_eq!(route.query_to(true), "a=1&api-version=2024-10-21&b=%20");
    let route = run("POST", "/router/v1/embeddings?api-version=1").expect("a route");
    assert_eq!(route.query_to(false), "api-version=1", "of others nothing is known");
}

#[test]
fn ids_without_their_collection_are_found_behind_a_version_or_scope() {
    let verb = "generateContent";
    leads(
        "/v1beta/vertex-main/gemini-1.5-flash:generateContent",
        "-",
        verb,
        "vertex-main/gemini-1.5-flash",
    );
    leads("/vertex-main/v1beta/a/b:generateContent", "vertex-main", verb, "a/b");
    leads("/vertex-main/gemini-1.5-flash:generateContent", "vertex-main", verb, "gemini-1.5-flash");
    refused("/someone/gemini-1.5-flash:generateContent", PathError::UnknownScope);
    refused("/gemini-1.5-flash:generateContent", PathError::NotFound);
}

#[test]
fn verbs_belong_to_post() {
    let free = "/v1/models/meta-llama/llama-3-70b:free";
    assert_eq!(run("GET", free).err(), Some(PathError::NotFound));
    assert_eq!(run("POST", free).err(), Some(PathError::NotFound));
    let call = "/v1beta/models/g:generateContent";
    assert_eq!(run("GET", call).err(), Some(PathError::MethodNotAllowed("POST")));
}

#[test]
fn known_paths_name_their_methods_to_others() {
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "post", "PATCH"] {
        for target in ["/v1/chat/completions", "/openai-main/v1/messages", "/models/g:embedContent"]
        {
            assert_eq!(
                run(method, target).err(),
                Some(PathError::MethodNotAllowed("POST")),
                "{target}"
            );
        }
    }
}

#[test]
fn unknown_paths_are_not_found_and_unknown_scopes_are_told() {
    for target in [
        "/",
        "",
        "/v1",
        "/v1/chat",
        "/v1/chat/completions/x",
        "/openai-main",
        "/v1/models",
        "/v1/models/x",
        "/nope",
        "*",
    ] {
        refused(target, PathError::NotFound);
    }
    for target in ["/api/v1/chat/completions", "/nope/chat/completions", "/Openai-Main/v1/messages"]
    {
        refused(target, PathError::UnknownScope);
    }
    refused("/api/openai-main/v1/chat/completions", PathError::NotFound);
}

#[test]
fn reserved_words_never_name_a_provider() {
    // The table above has a provider `chat`, which no configuration would let in.
    leads("/chat/completions", "-", "chat.completions", "-");
    refused("/chat/v1/chat/completions", PathError::NotFound);
    for endpoint in ENDPOINTS.iter().filter(|endpoint| !endpoint.model.is_in_path()) {
        let first = endpoint.tail.split('/').next().expect("a tail has a segment");
        // Names of providers are in lower case.
        assert!(RESERVED.contains(&&*first.to_ascii_lowercase()), "{first}");
    }
    for word in ["models", "v1", "v1beta", "v1beta1", "admin", "console", "healthz", "publishers"] {
        assert!(RESERVED.contains(&word), "{word}");
    }
}

#[test]
fn forbids_dot_segments_in_every_spelling_and_place() {
    for target in [
        "/v1/../admin",
        "/v1/./chat/completions",
        "/..",
        "/%2e%2e/v1/chat/completions",
        "/v1/.%2E/chat/completions",
        "/v1/%2e/chat/completions",
        "/v1/..%2Fadmin",
        "/v1beta/models/a/../b:generateContent",
        "/v1beta/models/a%2F..%2Fb:generateContent",
        "/v1beta/models/a%2F%2E%2E%2Fb:generateContent",
        "/v1beta/models/..:generateContent",
        "/v1beta/models/a/.:generateContent",
        "http://h/../v1",
        "/nope/../nope",
    ] {
        refused(target, PathError::DotSegment);
    }
}

#[test]
fn allows_dots_inside_segments() {
    leads("/v1beta/models/gemini-1.5:generateContent", "-", "generateContent", "gemini-1.5");
    leads("/v1beta/models/...:generateContent", "-", "generateContent", "...");
    leads("/v1beta/models/.a:generateContent", "-", "generateContent", ".a");
}

#[test]
fn forbids_backslashes_controls_and_fragments() {
    for part in ["\\", "%5C", "%5c", "%00", "%0a", "%0D", "%7f", "%C2%85", "#", "\0", "\u{7}"] {
        refused(&format!("/v1/chat/completions{part}"), PathError::Character);
        refused(&format!("/v1beta/models/a{part}b:generateContent"), PathError::Character);
        refused(&format!("/nope{part}/x"), PathError::Character);
    }
}

#[test]
fn forbids_encoded_slashes_outside_a_models_id() {
    for target in [
        "/openai-main%2Fv1/chat/completions",
        "/v1/chat%2Fcompletions",
        "/v1%2fchat/completions",
        "/%2Fv1/chat/completions",
    ] {
        refused(target, PathError::EncodedSlash);
    }
    for id in ["%2Fa", "a%2F%2Fb", "a/%2Fb"] {
        refused(&format!("/v1beta/models/{id}:generateContent"), PathError::EncodedSlash);
    }
    // An id that we do not serve here is not found, but its slash is no offence.
    assert_eq!(run("GET", "/v1/models/openai-main%2Fgpt").err(), Some(PathError::NotFound));
}

#[test]
fn forbids_broken_percent_encoding() {
    for part in ["%", "%4", "%zz", "%4g", "%%41", "%+1"] {
        refused(&format!("/v1/{part}"), PathError::Percent);
    }
    for part in ["%ff", "%C3", "%ED%A0%80", "%C0%AF"] {
        refused(&format!("/v1beta/models/{part}:generateContent"), PathError::NotUtf8);
    }
}

#[test]
fn forbids_models_without_a_name_or_with_too_long_a_name() {
    for id in ["", "vertex-main/", "models/", "%2F", "a%2F"] {
        refused(&format!("/v1beta/models/{id}:generateContent"), PathError::ModelEmpty);
    }
    let model = "m".repeat(MODEL_BYTES_MAX);
    leads(&format!("/v1beta/models/{model}:generateContent"), "-", "generateContent", &model);
    refused(&format!("/v1beta/models/{model}m:generateContent"), PathError::ModelTooLong);
    // Counted decoded.
    let target = format!("/v1beta/models/{}:generateContent", "%6D".repeat(MODEL_BYTES_MAX));
    leads(&target, "-", "generateContent", &model);
}

#[test]
fn plain_targets_are_borrowed() {
    let route = run("POST", "/vertex-main/v1beta/models/g:streamGenerateContent?alt=sse")
        .expect("a known path");
    assert!(matches!(route.scope, Some(Cow::Borrowed(_))));
    assert!(matches!(route.model, Some(Cow::Borrowed(_))));
    assert!(matches!(route.query.rest, Cow::Borrowed(_)));
}

#[test]
fn key_leaves_the_query_and_the_rest_stays_byte_for_byte() {
    for (query, rest, alt_sse) in [
        ("", "", false),
        ("alt=sse", "alt=sse", true),
        ("alt=sse&key=sk", "alt=sse", true),
        ("key=sk", "", false),
        ("key=a&beta=true&key=b", "beta=true", false),
        ("beta=true&%6Bey=sk&x=%2f+y", "beta=true&x=%2f+y", false),
        ("$key=sk&$alt=sse", "$alt=sse", true),
        ("key", "", false),
        ("monkey=1&keys=2&x=key", "monkey=1&keys=2&x=key", false),
        ("alt=json", "alt=json", false),
        ("a=%7Bsse&alt=%73se", "a=%7Bsse&alt=%73se", true),
        ("lifecycle[]=a&&b={}", "lifecycle[]=a&&b={}", false),
        ("a=%zz", "a=%zz", false),
        ("a=\"<é>", "a=%22%3C%C3%A9%3E", false),
    ] {
        let found = Query::parse(query);
        assert_eq!((&*found.rest, found.alt_sse), (rest, alt_sse), "{query}");
    }
}

#[test]
fn key_in_the_query_is_found_decoded() {
    let key = |target: &str| query_key(target).map(|key| key.expose().to_owned());
    assert_eq!(key("/v1beta/models?key=sk-1"), Some("sk-1".into()));
    assert_eq!(key("http://h?x=1&%6Bey=a%2Bb+c"), Some("a+b+c".into()));
    assert_eq!(key("/?key=&key=b"), Some("b".into()));
    assert_eq!(key("/?$key=a"), Some("a".into()));
    for target in ["/", "/?", "/?key", "/?key=", "/?monkey=1", "/?key=%ff", "/key=1"] {
        assert_eq!(key(target), None, "{target}");
    }
}

#[test]
fn split_reads_both_target_forms() {
    for (target, parts) in [
        ("/a/b?c=d?e", ("/a/b", "c=d?e")),
        ("/", ("/", "")),
        ("http://h", ("/", "")),
        ("http://h?x", ("/", "x")),
        ("https://h:1/a", ("/a", "")),
        ("*", ("*", "")),
    ] {
        assert_eq!(split(target), parts, "{target}");
    }
}

#[test]
fn family_follows_the_path_then_the_headers() {
    let family_with =
        |target: &str, headers: &[&str]| family(target, &|name| headers.contains(&name));
    for (target, expected) in [
        ("/v1/messages", Family::Anthropic),
        ("/anthropic-main/v1/messages/count_tokens/x", Family::Anthropic),
        ("/v1beta/models/x:generateContent", Family::Gemini),
        ("/v1/models/x:embedContent", Family::Gemini),
        ("/v1beta/anything", Family::Gemini),
        ("/vertex-main/v1beta1/publishers/google/models/x:y", Family::Gemini),
        ("/v1/chat/completions", Family::Openai),
        ("/v1beta/chat/completions", Family::Openai),
        ("/v1/models/meta-llama/llama:free", Family::Openai),
        ("/", Family::Openai),
        ("/v1/%zz", Family::Openai),
        ("/v1/models?key=sk", Family::Gemini),
        // The model's id says nothing.
        ("/v1/models/messages", Family::Openai),
    ] {
        assert_eq!(family_with(target, &[]), expected, "{target}");
    }
    assert_eq!(family_with("/v1/models", &["x-goog-api-key"]), Family::Gemini);
    assert_eq!(family_with("/v1/models", &["anthropic-version"]), Family::Anthropic);
    assert_eq!(family_with("/v1/models", &["x-api-key"]), Family::Anthropic);
    assert_eq!(family_with("/v1/models", &["authorization"]), Family::Openai);
    assert_eq!(family_with("/v1/chat/completions", &["x-api-key"]), Family::Openai);
}

#[test]
fn every_refusal_of_a_path_has_a_case() {
    let cases = [
        ("/%zz", PathError::Percent),
        ("/%ff", PathError::NotUtf8),
        ("/%00", PathError::Character),
        ("/..", PathError::DotSegment),
        ("/a%2Fb", PathError::EncodedSlash),
        ("/models/:generateContent", PathError::ModelEmpty),
        ("/", PathError::NotFound),
        ("/nope/v1/messages", PathError::UnknownScope),
    ];
    for (target, error) in cases {
        refused(target, error);
    }
    // The two that are missing above have tests of their own.
    assert_eq!(cases.len() + 2, PathError::ALL.len());
}

#[test]
fn base_paths_end_where_each_familys_clients_join() {
    assert_eq!(base_paths(Family::Openai), ("/v1", "/{provider}/v1"));
    assert_eq!(base_paths(Family::Anthropic), ("", "/{provider}"));
    assert_eq!(base_paths(Family::Gemini), ("", "/{provider}"));
}
