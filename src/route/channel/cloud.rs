//! Addresses of clouds, which hold more than a base and an endpoint.

use super::{Auth, Destination, VERTEX_MODELS, is_version, push_encoded, push_query};
use crate::dialect::Dialect;
use crate::dialect::endpoint::Endpoint;
use std::borrow::Cow;

/// What an address holds besides its base and its endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Nothing.
    Plain,
    /// Azure: the version in the query, and before 2025 the model, as a deployment, in the path.
    Azure { api_version: String, deployments: bool },
    /// Vertex: project and location in front of everything. `endpoints`: where tuned models are.
    Vertex { parent: String, endpoints: String },
    /// Claude on Vertex: the model in the path, its version in the body.
    VertexClaude { models: String },
}

/// What Azure keeps below a deployment; the rest names its model in the body, or none.
const DEPLOYED: &[&str] = &[
    "chat/completions",
    "completions",
    "embeddings",
    "audio/speech",
    "audio/transcriptions",
    "audio/translations",
    "images/generations",
    "images/edits",
];

const COUNT_TOKENS: &str = "messages/count_tokens";

/// Versions of Azure's newer surface, `/openai/v1`, which has no deployments in its paths.
const V1_VERSIONS: [&str; 3] = ["v1", "preview", "latest"];

/// Where Azure serves its dialects below the address of a resource. Without a version, or with one
/// of the newer surface, that is `/openai/v1`.
pub fn azure(base_url: &str, api_version: Option<&str>) -> Destination {
    let mut root = base_url.trim_end_matches('/');
    for suffix in ["/v1", "/openai"] {
        root = root.strip_suffix(suffix).unwrap_or(root);
    }
    let deployments = api_version.is_some_and(|version| !V1_VERSIONS.contains(&version));
    let layout = match api_version {
        Some(version) => Layout::Azure { api_version: version.to_owned(), deployments },
        None => Layout::Plain,
    };
    Destination {
        base: format!("{root}/openai{}", if deployments { "" } else { "/v1" }),
        auth: Auth::ApiKey,
        version_follows: false,
        models: Cow::Borrowed(""),
        layout,
    }
}

/// The host of Vertex for a location.
pub fn vertex_host(location: &str) -> String {
    match location {
        "global" => "https://aiplatform.googleapis.com".to_owned(),
        "eu" | "us" => format!("https://aiplatform.{location}.rep.googleapis.com"),
        _ => format!("https://{location}-aiplatform.googleapis.com"),
    }
}

/// Where Vertex serves a dialect: Gemini's, or Claude in Anthropic's.
pub fn vertex(base_url: &str, project: &str, location: &str, dialect: Dialect) -> Destination {
    let mut root = base_url.trim_end_matches('/');
    if let Some((before, last)) = root.rsplit_once('/')
        && is_version(last)
    {
        root = before;
    }
    let parent = format!("projects/{project}/locations/{location}");
    let auth = Auth::Bearer;
    if dialect == Dialect::Anthropic {
        let layout =
            Layout::VertexClaude { models: format!("{parent}/publishers/anthropic/models") };
        let (base, models) = (format!("{root}/v1"), Cow::Borrowed(""));
        return Destination { base, auth, version_follows: false, models, layout };
    }
    Destination {
        base: root.to_owned(),
        auth,
        version_follows: true,
        models: Cow::Owned(format!("{parent}/{VERTEX_MODELS}")),
        layout: Layout::Vertex { endpoints: format!("{parent}/endpoints"), parent },
    }
}

impl Destination {
    /// Anthropic's version goes up in the body, and not as a header.
    pub fn wants_version_in_body(&self) -> bool {
        matches!(self.layout, Layout::VertexClaude { .. })
    }

    /// The body of this call names its model all the same.
    pub fn keeps_model(&self, endpoint: &Endpoint) -> bool {
        endpoint.tail == COUNT_TOKENS
    }
}

impl Destination {
    /// A call may say which version of the interface it means, by its date.
    pub fn is_dated(&self) -> bool {
        matches!(self.layout, Layout::Azure { deployments: true, .. })
    }
}

impl Layout {
    /// What names a call that has its model in the body.
    pub(super) fn push_call(
        &self,
        url: &mut String,
        endpoint: &Endpoint,
        model: &str,
        stream: bool,
    ) {
        match self {
            Layout::VertexClaude { models } => {
                url.push_str(models);
                url.push('/');
                let is_count = endpoint.tail == COUNT_TOKENS;
                push_encoded(if is_count { "count-tokens" } else { model }, url);
                url.push_str(if stream { ":streamRawPredict" } else { ":rawPredict" });
            }
            Layout::Azure { deployments: true, .. }
                if DEPLOYED.contains(&endpoint.tail) && !model.is_empty() =>
            {
                url.push_str("deployments/");
                push_encoded(model, url);
                url.push('/');
                url.push_str(endpoint.tail);
            }
            _ => url.push_str(endpoint.tail),
        }
    }

    /// Where tuned models of Google's are.
    pub(super) fn tuned_models(&self) -> &str {
        match self {
            Layout::Vertex { endpoints, .. } => endpoints,
            _ => "tunedModels",
        }
    }

    /// Project and location.
    pub(super) fn parent(&self) -> Option<&str> {
        match self {
            Layout::Vertex { parent, .. } => Some(parent),
            _ => None,
        }
    }

    /// The caller's query. The version is ours, unless it stands there.
    pub(super) fn push_query(&self, url: &mut String, query: &str) {
        // Google refuses parameters that it does not know, and Claude's are none of its.
        if matches!(self, Layout::VertexClaude { .. }) {
            return;
        }
        push_query(url, query);
        if let Layout::Azure { api_version, .. } = self {
            let is_given = query.split('&').any(|part| part.starts_with("api-version="));
            if !is_given {
                url.push(if query.is_empty() { '?' } else { '&' });
                url.push_str("api-version=");
                url.push_str(api_version);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::endpoint::ENDPOINTS;
    use crate::dialect::path::Collection;

    #[track_caller]
    fn url(place: &Destination, name: &str, query: &str) -> String {
        let endpoint = ENDPOINTS.iter().find(|endpoint| endpoint.name == name);
        let endpoint = endpoint.expect("endpoint exists");
        place.url(endpoint, "v1beta", "gpt 4", Collection::Models, query, false)
    }

    #[test]
    fn azure_has_the_deployment_in_the_path_where_it_is_dated() {
        let dated = azure("https://r.openai.azure.com/", Some("2024-10-21"));
        let version = "?api-version=2024-10-21";
        for (name, expected) in [
            ("chat.completions", "deployments/gpt%204/chat/completions"),
            ("completions", "deployments/gpt%204/completions"),
            ("embeddings", "deployments/gpt%204/embeddings"),
            ("audio.speech", "deployments/gpt%204/audio/speech"),
            ("audio.transcriptions", "deployments/gpt%204/audio/transcriptions"),
            ("images.generations", "deployments/gpt%204/images/generations"),
            ("images.edits", "deployments/gpt%204/images/edits"),
            ("responses", "responses"),
        ] {
            let expected = format!("https://r.openai.azure.com/openai/{expected}{version}");
            assert_eq!(url(&dated, name, ""), expected);
        }
        let files = dated.resource_url("v1", "files/f-1", false, "");
        assert_eq!(files, format!("https://r.openai.azure.com/openai/files/f-1{version}"));
    }

    #[test]
    fn azure_without_a_date_is_the_newer_surface() {
        let chat = "https://r.openai.azure.com/openai/v1/chat/completions";
        for (typed, version, expected) in [
            ("https://r.openai.azure.com", None, chat.to_owned()),
            ("https://r.openai.azure.com/openai/", None, chat.to_owned()),
            ("https://r.openai.azure.com/openai/v1/", None, chat.to_owned()),
            ("https://r.openai.azure.com", Some("preview"), format!("{chat}?api-version=preview")),
        ] {
            assert_eq!(url(&azure(typed, version), "chat.completions", ""), expected);
        }
    }

    #[test]
    fn a_version_in_the_callers_query_counts() {
        let dated = azure("https://h", Some("2024-10-21"));
        let front = "https://h/openai/responses";
        for (query, expected) in [
            ("a=b", "?a=b&api-version=2024-10-21"),
            ("api-version=2025-03-01-preview", "?api-version=2025-03-01-preview"),
        ] {
            assert_eq!(url(&dated, "responses", query), format!("{front}{expected}"));
        }
    }

    #[test]
    fn vertex_has_project_and_location_in_front_of_everything() {
        let place = vertex(&vertex_host("us-central1"), "p-1", "us-central1", Dialect::Gemini);
        let endpoint = ENDPOINTS.iter().find(|endpoint| endpoint.name == "countTokens");
        let endpoint = endpoint.expect("endpoint exists");
        let host = "https://us-central1-aiplatform.googleapis.com";
        let parent = "projects/p-1/locations/us-central1";
        let model = "gemini-1.5-flash";
        for (version, goes_up) in [("v1beta", "v1"), ("v1", "v1"), ("v1beta1", "v1beta1")] {
            let found = place.url(endpoint, version, model, Collection::Models, "alt=sse", false);
            let google = "publishers/google/models/gemini-1.5-flash:countTokens?alt=sse";
            assert_eq!(found, format!("{host}/{goes_up}/{parent}/{google}"));
        }
        let tuned = place.url(endpoint, "v1", "123", Collection::TunedModels, "", false);
        assert_eq!(tuned, format!("{host}/v1/{parent}/endpoints/123:countTokens"));
        let cached = place.resource_url("v1beta", "cachedContents/1", false, "");
        assert_eq!(cached, format!("{host}/v1/{parent}/cachedContents/1"));
    }

    #[test]
    fn claude_on_vertex_has_its_model_in_the_path() {
        let place = vertex("https://h/v1", "p", "global", Dialect::Anthropic);
        let front = "https://h/v1/projects/p/locations/global/publishers/anthropic/models";
        for (name, stream, expected) in [
            ("messages", false, "claude-3-5-sonnet@20240620:rawPredict"),
            ("messages", true, "claude-3-5-sonnet@20240620:streamRawPredict"),
            ("messages.count_tokens", false, "count-tokens:rawPredict"),
        ] {
            let endpoint = ENDPOINTS.iter().find(|endpoint| endpoint.name == name);
            let endpoint = endpoint.expect("endpoint exists");
            let model = "claude-3-5-sonnet@20240620";
            let found = place.url(endpoint, "v1", model, Collection::Models, "beta=true", stream);
            assert_eq!(found, format!("{front}/{expected}"));
        }
    }

    #[test]
    fn every_location_has_its_host() {
        for (location, host) in [
            ("global", "https://aiplatform.googleapis.com"),
            ("europe-west4", "https://europe-west4-aiplatform.googleapis.com"),
            ("eu", "https://aiplatform.eu.rep.googleapis.com"),
        ] {
            assert_eq!(vertex_host(location), host);
        }
    }
}
