use super::*;

fn is_provider(name: &str) -> bool {
    matches!(name, "openai-main" | "router")
}

#[track_caller]
fn check(method: &str, target: &str, family: Family, expected: &str) {
    let found = match parse(method, target, family, &is_provider) {
        Ok(call) => {
            let scope = call.scope.as_deref().unwrap_or("-");
            let upload = if call.is_upload { "upload " } else { "" };
            let Call { resource, version, tail, .. } = &call;
            format!("{scope} {} {upload}{version} {tail}", resource.endpoint.name)
        }
        Err(error) => format!("{error:?}"),
    };
    assert_eq!(found, expected, "{method} {target}");
}

#[test]
fn every_resource_is_reached_in_both_modes() {
    for resource in RESOURCES {
        let family = resource.endpoint.dialect.family();
        let tail = resource.endpoint.tail.replace("**", "x/y/z/*/*").replace('*', "id_1:x");
        for method in resource.methods.split(", ") {
            for prefix in ["/v1/", "/openai-main/v1/"] {
                let target = format!("{prefix}{tail}?limit=2");
                let found = parse(method, &target, family, &is_provider);
                let found = found.unwrap_or_else(|error| panic!("{method} {target}: {error:?}"));
                assert_eq!(found.resource.endpoint.name, resource.endpoint.name, "{target}");
                assert_eq!((&found.tail, &*found.query.rest), (&tail, "limit=2"));
            }
        }
        let is_allowed = |method| resource.allow.is_empty() || resource.allow.contains(method);
        assert!(resource.methods.split(", ").all(is_allowed));
        let first = resource.endpoint.tail.split('/').next().expect("a segment").to_lowercase();
        assert!(path::RESERVED.contains(&first.as_str()), "{first} could name a provider");
    }
}

#[test]
fn the_caller_decides_whose_files_these_are() {
    check("GET", "/v1/files", Family::Openai, "- files v1 files");
    check("GET", "/v1/files", Family::Anthropic, "- anthropic.files v1 files");
    check("GET", "/v1beta/files", Family::Gemini, "- gemini.files v1beta files");
    check("GET", "/openai-main/files/a", Family::Openai, "openai-main files.stored v1 files/a");
    check("POST", "/upload/v1beta/files", Family::Gemini, "- gemini.files upload v1beta files");
    check("POST", "/upload/v1/batches", Family::Gemini, "NotFound");
    check("GET", "/v1/vector_stores", Family::Anthropic, "- vector_stores v1 vector_stores");
}

#[test]
fn ids_pass_as_they_were_sent() {
    check(
        "GET",
        "/v1//responses//resp_%41b%20/",
        Family::Openai,
        "- responses.stored v1 responses/resp_%41b%20",
    );
    check("GET", "/v1/%72esponses/a", Family::Openai, "- responses.stored v1 %72esponses/a");
    check("GET", "/v1/files/<`a`>", Family::Openai, "- files.stored v1 files/%3C%60a%60%3E");
}

#[test]
fn forbids_what_is_no_resource() {
    let openai = Family::Openai;
    check("PUT", "/v1/files", openai, "MethodNotAllowed(\"GET, POST\")");
    check("DELETE", "/v1/chat/completions", openai, "MethodNotAllowed(\"GET, POST\")");
    check("GET", "/v1/files/a/b/c", openai, "NotFound");
    check("GET", "/v1/files/..", openai, "DotSegment");
    check("GET", "/v1/files/%2e%2e", openai, "DotSegment");
    check("GET", "/v1/files/a%2Fcontent", openai, "EncodedSlash");
    check("GET", "/v1/files/a%5cb", openai, "Character");
    check("GET", "/nobody/v1/files", openai, "NotFound");
}

#[test]
fn anything_in_a_scope_can_pass_raw_and_nothing_outside_of_one() {
    let call = raw("/router/api//x%2Fy/?a=1&key=k", &is_provider).expect("a scope");
    assert_eq!((call.scope.as_deref(), call.tail.as_str()), (Some("router"), "api//x%2Fy/"));
    assert_eq!(&*call.query.rest, "a=1");
    let call = raw("/router/<id>", &is_provider).expect("a scope");
    assert_eq!(call.tail, "%3Cid%3E");
    assert!(raw("/v1/x", &is_provider).is_none());
    assert!(raw("/router/../x", &is_provider).is_none());
}

/// Google's clients in Vertex's mode say where a thing is as its maker's reply did.
#[test]
fn a_project_in_front_of_a_cache_is_passed_over() {
    for prefix in ["/v1beta1", "/openai-main/v1beta1"] {
        let scope = if prefix.starts_with("/openai") { "openai-main" } else { "-" };
        for method in ["GET", "PATCH", "DELETE"] {
            let target = format!("{prefix}/projects/p/locations/l/cachedContents/1");
            let expected = format!("{scope} gemini.cached_content v1beta1 cachedContents/1");
            check(method, &target, Family::Gemini, &expected);
        }
    }
}
