//! Laws of the path parser, against a reader that knows nothing of segments.

use crate::dialect::endpoint::ModelPlace;
use crate::dialect::path::{self, Collection, Query, RESERVED, Route};
use crate::limits::MODEL_BYTES_MAX;

/// Providers that the fuzzed targets can name.
const PROVIDERS: [&str; 3] = ["openai-main", "vertex-main", "router"];

fn is_provider(name: &str) -> bool {
    PROVIDERS.contains(&name)
}

/// The first byte chooses the method, the rest is the target.
pub fn path(data: &[u8]) {
    let Some((choice, target)) = data.split_first() else { return };
    let target = String::from_utf8_lossy(target);
    let method = ["POST", "GET", "DELETE", "post"][usize::from(*choice) % 4];
    path::family(&target, &|_| choice.is_ascii_uppercase());
    query(&target);

    let (local, _) = path::split(&target);
    match path::parse(method, &target, &is_provider) {
        Ok(route) => {
            assert_eq!(method, "POST");
            let text = decoded(local).expect("an accepted path decodes");
            assert!(!is_forbidden(&text), "{text:?} must not pass");
            check_route(&route, &text);
            check_again(&route);
        }
        Err(path::PathError::MethodNotAllowed(_)) => assert_ne!(method, "POST"),
        Err(_) => {}
    }
}

/// What no accepted path may hold once it is decoded.
fn is_forbidden(text: &str) -> bool {
    text.split('/').any(|part| part == "." || part == "..")
        || text.chars().any(|char| char.is_control() || char == '\\')
}

/// The whole path percent-decoded at once, or nothing when that fails.
fn decoded(path: &str) -> Option<String> {
    let mut parts = path.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

fn check_route(route: &Route<'_>, text: &str) {
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
    let mended = parts.join("/");
    if let Some(scope) = &route.scope {
        assert!(is_provider(scope) && !RESERVED.contains(&&**scope));
        assert_eq!(parts[0], &**scope);
    }
    if let Some(deployment) = &route.deployment {
        assert!(!deployment.is_empty() && deployment.len() <= MODEL_BYTES_MAX);
        let sent = format!("/deployments/{deployment}/{}", route.endpoint.tail);
        assert!(mended.ends_with(&sent), "{mended} {sent}");
    }
    match (&route.model, route.endpoint.model) {
        (None, place) if !place.is_in_path() => assert!(mended.ends_with(route.endpoint.tail)),
        (Some(model), ModelPlace::Path) => {
            assert!(!model.is_empty() && model.len() <= MODEL_BYTES_MAX);
            assert!(!is_forbidden(model));
            assert!(!model.split('/').any(str::is_empty));
            // What was sent ends in the model, unless a publisher was folded into it.
            let sent = format!("{model}:{}", route.endpoint.tail);
            let unfolded = sent.replacen('/', "/models/", 1);
            let folded = format!("publishers/{unfolded}");
            assert!(mended.ends_with(&sent) || mended.ends_with(&folded), "{mended} {sent}");
        }
        (model, place) => panic!("{model:?} and {place:?} do not fit"),
    }
}

/// The canonical spelling of a route leads to the same route.
fn check_again(route: &Route<'_>) {
    let mut target = String::new();
    if let Some(scope) = &route.scope {
        target = format!("/{scope}");
    }
    target.push_str(&format!("/{}/", route.version));
    let encode = |name: &str, target: &mut String| {
        name.bytes().for_each(|byte| target.push_str(&format!("%{byte:02x}")));
    };
    if let Some(deployment) = &route.deployment {
        target.push_str("openai/deployments/");
        encode(deployment, &mut target);
        target.push('/');
    }
    match &route.model {
        None => target.push_str(route.endpoint.tail),
        Some(model) => {
            target.push_str(match route.collection {
                Collection::Models => "models/",
                Collection::TunedModels => "tunedModels/",
            });
            encode(model, &mut target);
            target.push_str(&format!("%3a{}", route.endpoint.tail));
        }
    }
    target.push_str(&format!("?{}", route.query.rest));
    let again = path::parse("POST", &target, &is_provider).expect("a canonical target is accepted");
    assert_eq!(again.scope, route.scope);
    assert_eq!(again.endpoint.name, route.endpoint.name);
    assert_eq!(again.version, route.version);
    assert_eq!(again.model, route.model);
    assert_eq!(again.collection, route.collection);
    assert_eq!(again.deployment, route.deployment);
    assert_eq!(again.query, route.query);
}

/// What is ours leaves a query, nothing else does, and what stays can stand in a URL.
fn query(target: &str) {
    let (_, raw) = path::split(target);
    let Query { rest, .. } = Query::parse(raw);
    assert!(path::query_key(&format!("/?{rest}")).is_none());
    assert!(rest.bytes().all(|byte| byte.is_ascii_graphic()));
    let is_plain = raw.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"=&.-".contains(&byte));
    if is_plain {
        let ours = ["key", path::PROVIDER, path::UPLOAD_SESSION];
        let is_ours = |part: &str| ours.contains(&part.split('=').next().unwrap_or_default());
        if raw.split('&').any(is_ours) {
            let kept: Vec<&str> = raw.split('&').filter(|part| !is_ours(part)).collect();
            assert_eq!(*rest, *kept.join("&").trim_start_matches('&'));
        } else {
            assert_eq!(rest, raw);
        }
    }
}

/// Sound inputs to begin from.
pub const SAMPLES: &[&[u8]] = &[
    b"\0/v1/chat/completions",
    b"\0/openai-main/v1/chat/completions?key=sk&alt=sse",
    b"\0/v1/messages/count_tokens?beta=true",
    b"\0/v1beta/models/vertex-main/gemini-1.5-flash:streamGenerateContent?alt=sse",
    b"\0/v1beta/models/vertex-main%2Fgemini%3AgenerateContent",
    b"\0/v1beta1/publishers/vertex-main/models/g:generateContent",
    b"\0/v1beta1/publishers/google/models/g:countTokens",
    b"\0/v1beta/tunedModels/x:embedContent",
    b"\0/v1beta/vertex-main/g:batchEmbedContents",
    b"\0/vertex-main/models/%E6%A8%A1:generateContent",
    b"\0/router/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
    b"\0/openai/deployments/router/gpt%2F4o/embeddings?api-version=preview",
    b"\0/router/v1/openai/v1/responses",
    b"\x01/v1/models/meta-llama/llama-3-70b:free",
    b"\0http://127.0.0.1:8787/v1/v1/embeddings/",
];

/// What mutations put in.
pub const SPICES: &[&[u8]] = &[
    b"/",
    b"//",
    b"%2F",
    b"%2f",
    b"..",
    b"%2e",
    b"%",
    b"%25",
    b"%00",
    b"%5C",
    b":",
    b"%3A",
    b"v1/",
    b"v1beta/",
    b"models/",
    b"tunedModels/",
    b"publishers/",
    b"router/",
    b"?",
    b"&key=",
    b"key=a&",
    b"#",
    b"\\",
    b"\xff",
    b":generateContent",
    b"google/",
    b"chat/completions",
    b"%C3%A9",
    b"$key=",
];

#[cfg(test)]
mod tests {
    use crate::testing::mutate;

    #[test]
    fn path_laws_hold_for_mutated_targets() {
        mutate::run(super::SAMPLES, super::SPICES, 10_000, super::path);
    }
}
