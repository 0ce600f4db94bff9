//! Addresses of sessions over WebSocket.

use super::cloud::Layout;
use super::{Destination, VERTEX_MODELS, is_version, push_encoded};
use crate::dialect::Dialect;
use crate::dialect::endpoint::Endpoint;

impl Destination {
    /// The whole address. `model` goes into the query; `version` is the caller's.
    pub fn live_url(
        &self,
        endpoint: &Endpoint,
        version: &str,
        model: Option<&str>,
        query: &str,
    ) -> String {
        let mut url = self.base.clone();
        if endpoint.dialect == Dialect::Gemini {
            // The service's name holds the version.
            if let Some((root, _)) = self.base.rsplit_once('/').filter(|(_, last)| is_version(last))
            {
                url.truncate(root.len());
            }
            let version = self.version_of(version);
            url.push_str(&match self.is_vertex() {
                true => format!("/ws/google.cloud.aiplatform.{version}.LlmBidiService/"),
                false => format!("/ws/google.ai.generativelanguage.{version}.GenerativeService."),
            });
        } else {
            url.push('/');
        }
        url.push_str(endpoint.tail);
        let mut whole = String::new();
        if let Some(model) = model {
            // Azure's older surface has its own word for it.
            whole.push_str(match &self.layout {
                Layout::Azure { deployments: true, .. } => "deployment=",
                _ => "model=",
            });
            push_encoded(model, &mut whole);
            if !query.is_empty() {
                whole.push('&');
            }
        }
        whole.push_str(query);
        self.layout.push_query(&mut url, &whole);
        url
    }

    /// A model as an event, or a body, names it where a path does not.
    pub fn full_name(&self, endpoint: &Endpoint, model_served: &str) -> String {
        match endpoint.dialect {
            Dialect::Gemini => format!("{}/{model_served}", self.models),
            _ => model_served.to_owned(),
        }
    }

    fn is_vertex(&self) -> bool {
        self.models.ends_with(VERTEX_MODELS)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Channel, cloud, join};
    use super::*;
    use crate::dialect::live;

    #[track_caller]
    fn check(place: &Destination, target: &str, expected: &str) {
        let call = live::parse(target, &|_| false).expect("a sound path").expect("a session");
        let model = call.live.in_query.then_some("m/x y");
        let url = place.live_url(&call.live.endpoint, call.version, model, &call.rest());
        assert_eq!(url, expected);
    }

    #[test]
    fn every_vendor_has_its_own_address() {
        let place = |channel, base_url, dialect| {
            let channel = Channel::named(channel).expect("channel exists");
            join(base_url, channel, dialect, channel.dialects()).expect("it is spoken")
        };
        let openai = place("openai", "https://api.openai.com", Dialect::OpenaiChat);
        let realtime = "/v1/realtime?a=b&model=z";
        check(&openai, realtime, "https://api.openai.com/v1/realtime?model=m/x%20y&a=b");
        check(&openai, "/v1/responses", "https://api.openai.com/v1/responses");
        let service = |name, version| {
            format!("/ws/google.{name}.{version}.GenerativeService.BidiGenerateContent")
        };
        let studio = service("ai.generativelanguage", "v1beta");
        let vertex = "/ws/google.cloud.aiplatform.v1beta1.LlmBidiService/BidiGenerateContent";
        for base in ["https://g.test", "https://g.test/v1beta/"] {
            let google = place("aistudio", base, Dialect::Gemini);
            check(&google, &studio, &format!("https://g.test{studio}"));
            check(&google, vertex, &format!("https://g.test{studio}"));
            let alpha = service("ai.generativelanguage", "v1alpha");
            check(&google, &format!("{alpha}?x=1"), &format!("https://g.test{alpha}?x=1"));
        }
        let express = place("vertexexpress", "https://v.test", Dialect::Gemini);
        check(&express, &studio, &format!("https://v.test{vertex}"));
        let endpoint =
            &live::parse(&studio, &|_| false).expect("sound").expect("one").live.endpoint;
        assert_eq!(express.full_name(endpoint, "m"), "publishers/google/models/m");
        let azure = cloud::azure("https://r.test", Some("2024-10-01-preview"));
        let query = "deployment=m/x%20y&a=b&api-version=2024-10-01-preview";
        check(&azure, realtime, &format!("https://r.test/openai/realtime?{query}"));
        let azure = cloud::azure("https://r.test", None);
        check(&azure, realtime, "https://r.test/openai/v1/realtime?model=m/x%20y&a=b");
    }
}
