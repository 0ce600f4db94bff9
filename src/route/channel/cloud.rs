//! Addresses of clouds, which hold more than a base and an endpoint.

use super::{Auth, Destination, push_encoded, push_query};
use crate::dialect::endpoint::Endpoint;
use std::borrow::Cow;

/// What an address holds besides its base and its endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Nothing.
    Plain,
    /// Azure: the version in the query, and before 2025 the model, as a deployment, in the path.
    Azure { api_version: String, deployments: bool },
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

impl Layout {
    /// The model in front of an endpoint that names it in its body.
    pub(super) fn push_model(&self, url: &mut String, endpoint: &Endpoint, model: &str) {
        if let Layout::Azure { deployments: true, .. } = self
            && DEPLOYED.contains(&endpoint.tail)
            && !model.is_empty()
        {
            url.push_str("deployments/");
            push_encoded(model, url);
            url.push('/');
        }
    }

    /// The caller's query. The version is ours, unless it stands there.
    pub(super) fn push_query(&self, url: &mut String, query: &str) {
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
        place.url(endpoint, "v1beta", "gpt 4", Collection::Models, query)
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
}
