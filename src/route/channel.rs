//! What each kind of upstream serves, as a table, and how its addresses are put together.
//!
//! A new vendor is a new row. People type a base URL with or without its version, its slash or its
//! second dialect's prefix; all of these lead to the same address, and no version appears twice.
//! `gproxy check` prints the results.

pub mod cloud;
mod live;

use std::borrow::Cow;
use std::fmt;

use crate::dialect::Dialect;
use crate::dialect::endpoint::{Endpoint, ModelPlace};
use crate::dialect::listed::Form;
use crate::dialect::path::Collection;

/// A kind of upstream.
#[derive(Debug)]
pub struct Channel {
    /// Name in the configuration.
    pub name: &'static str,
    /// Where it is when the provider does not say; none where the provider has to, and for `echo`.
    pub base_url: Option<&'static str>,
    /// A provider without a credential cannot work.
    pub needs_credential: bool,
    /// The shape of its list of models; none: that of the first dialect that is spoken.
    pub list: Option<Form>,
    /// One entry for each dialect that it speaks.
    pub surfaces: &'static [Surface],
}

/// How one dialect is reached at a channel.
#[derive(Debug)]
pub struct Surface {
    /// The dialect.
    pub dialect: Dialect,
    /// Path between the base and the version.
    pub prefix: &'static str,
    /// Version segment; empty: none of its own (Gemini: the caller's).
    pub version: &'static str,
    /// Header that carries the credential.
    pub auth: Auth,
    /// Gemini only: path in front of a model's id.
    pub models: &'static str,
}

/// Header that carries a credential to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// `authorization: Bearer ...`
    Bearer,
    /// `x-api-key: ...`
    XApiKey,
    /// `x-goog-api-key: ...`
    XGoogApiKey,
    /// `api-key: ...`
    ApiKey,
    /// No credential is sent.
    None,
}

impl Auth {
    /// Name of the header and what stands in front of the credential.
    pub fn header(self) -> Option<(&'static str, &'static str)> {
        match self {
            Auth::Bearer => Some(("authorization", "Bearer ")),
            Auth::XApiKey => Some(("x-api-key", "")),
            Auth::XGoogApiKey => Some(("x-goog-api-key", "")),
            Auth::ApiKey => Some(("api-key", "")),
            Auth::None => None,
        }
    }
}

/// The channel that answers by itself.
pub const ECHO: &str = "echo";
/// The channel whose base URL and dialects are settings.
pub const CUSTOM: &str = "custom";
/// The channel whose addresses hold a project and a location, and whose credentials are accounts.
pub const VERTEX: &str = "vertex";
/// The channel whose addresses hold deployments and an API version.
pub const AZURE: &str = "azure";
const STUDIO_MODELS: &str = "models";
const VERTEX_MODELS: &str = "publishers/google/models";

const fn openai(dialect: Dialect, prefix: &'static str, version: &'static str) -> Surface {
    Surface { dialect, prefix, version, auth: Auth::Bearer, models: "" }
}

const fn anthropic(prefix: &'static str, auth: Auth) -> Surface {
    Surface { dialect: Dialect::Anthropic, prefix, version: "v1", auth, models: "" }
}

const fn gemini(models: &'static str) -> Surface {
    Surface { dialect: Dialect::Gemini, prefix: "", version: "", auth: Auth::XGoogApiKey, models }
}

const fn azure(dialect: Dialect) -> Surface {
    Surface { dialect, prefix: "openai", version: "", auth: Auth::ApiKey, models: "" }
}

const fn vertex(dialect: Dialect) -> Surface {
    Surface { dialect, prefix: "", version: "", auth: Auth::Bearer, models: "" }
}

const fn silent(dialect: Dialect) -> Surface {
    Surface { dialect, prefix: "", version: "", auth: Auth::None, models: STUDIO_MODELS }
}

/// Every channel.
pub static CHANNELS: &[Channel] = &[
    Channel {
        name: "openai",
        base_url: Some("https://api.openai.com"),
        needs_credential: true,
        list: Some(Form::Openai),
        surfaces: &[
            openai(Dialect::OpenaiChat, "", "v1"),
            openai(Dialect::OpenaiResponses, "", "v1"),
            openai(Dialect::OpenaiEmbeddings, "", "v1"),
        ],
    },
    // The OpenAI-compatible endpoint: https://docs.anthropic.com/en/api/openai-sdk
    Channel {
        name: "anthropic",
        base_url: Some("https://api.anthropic.com"),
        needs_credential: true,
        list: Some(Form::Anthropic),
        surfaces: &[openai(Dialect::OpenaiChat, "", "v1"), anthropic("", Auth::XApiKey)],
    },
    // The OpenAI-compatible endpoint: https://ai.google.dev/gemini-api/docs/openai
    Channel {
        name: "aistudio",
        base_url: Some("https://generativelanguage.googleapis.com"),
        needs_credential: true,
        list: Some(Form::Gemini),
        surfaces: &[
            openai(Dialect::OpenaiChat, "v1beta/openai", ""),
            openai(Dialect::OpenaiEmbeddings, "v1beta/openai", ""),
            gemini(STUDIO_MODELS),
        ],
    },
    // No project, no location: "Vertex AI in express mode REST API reference", cloud.google.com.
    Channel {
        name: "vertexexpress",
        base_url: Some("https://aiplatform.googleapis.com"),
        needs_credential: true,
        list: Some(Form::Vertex),
        surfaces: &[gemini(VERTEX_MODELS)],
    },
    // The Anthropic endpoint: https://api-docs.deepseek.com/guides/anthropic_api
    Channel {
        name: "deepseek",
        base_url: Some("https://api.deepseek.com"),
        needs_credential: true,
        list: Some(Form::Openai),
        surfaces: &[openai(Dialect::OpenaiChat, "", ""), anthropic("anthropic", Auth::XApiKey)],
    },
    // Responses: https://console.groq.com/docs/responses-api (no embeddings there).
    Channel {
        name: "groq",
        base_url: Some("https://api.groq.com/openai"),
        needs_credential: true,
        list: Some(Form::Openai),
        surfaces: &[
            openai(Dialect::OpenaiChat, "", "v1"),
            openai(Dialect::OpenaiResponses, "", "v1"),
        ],
    },
    // Bearer everywhere, messages too: https://openrouter.ai/docs/api/api-reference
    Channel {
        name: "openrouter",
        base_url: Some("https://openrouter.ai/api"),
        needs_credential: true,
        list: Some(Form::Openai),
        surfaces: &[
            openai(Dialect::OpenaiChat, "", "v1"),
            openai(Dialect::OpenaiResponses, "", "v1"),
            openai(Dialect::OpenaiEmbeddings, "", "v1"),
            anthropic("", Auth::Bearer),
        ],
    },
    Channel {
        name: "nvidia",
        base_url: Some("https://integrate.api.nvidia.com"),
        needs_credential: true,
        list: Some(Form::Openai),
        surfaces: &[
            openai(Dialect::OpenaiChat, "", "v1"),
            openai(Dialect::OpenaiEmbeddings, "", "v1"),
        ],
    },
    // Hosts by location: "Vertex AI locations"; Claude: "Use Claude models", cloud.google.com.
    Channel {
        name: VERTEX,
        base_url: Some("https://aiplatform.googleapis.com"),
        needs_credential: true,
        list: Some(Form::Vertex),
        surfaces: &[vertex(Dialect::Anthropic), vertex(Dialect::Gemini)],
    },
    // "Azure OpenAI in Azure AI Foundry Models REST API reference", learn.microsoft.com.
    Channel {
        name: AZURE,
        base_url: None,
        needs_credential: true,
        list: Some(Form::Openai),
        surfaces: &[
            azure(Dialect::OpenaiChat),
            azure(Dialect::OpenaiResponses),
            azure(Dialect::OpenaiEmbeddings),
        ],
    },
    Channel {
        name: CUSTOM,
        base_url: None,
        needs_credential: false,
        list: None,
        surfaces: &[
            openai(Dialect::OpenaiChat, "", "v1"),
            openai(Dialect::OpenaiResponses, "", "v1"),
            openai(Dialect::OpenaiEmbeddings, "", "v1"),
            anthropic("", Auth::XApiKey),
            gemini(STUDIO_MODELS),
        ],
    },
    Channel {
        name: ECHO,
        base_url: None,
        needs_credential: false,
        list: None,
        surfaces: &[
            silent(Dialect::OpenaiChat),
            silent(Dialect::OpenaiResponses),
            silent(Dialect::OpenaiEmbeddings),
            silent(Dialect::Anthropic),
            silent(Dialect::Gemini),
        ],
    },
];

impl Channel {
    /// The channel of that name.
    pub fn named(name: &str) -> Option<&'static Channel> {
        CHANNELS.iter().find(|channel| channel.name == name)
    }

    /// The provider has to say where it is.
    pub fn needs_base_url(&self) -> bool {
        self.base_url.is_none() && self.name != ECHO
    }

    /// Its addresses hold more than a base and an endpoint: see [`cloud`].
    pub fn is_cloud(&self) -> bool {
        matches!(self.name, AZURE | VERTEX)
    }

    /// Every dialect that it can speak.
    pub fn dialects(&self) -> Dialects {
        self.surfaces.iter().map(|surface| surface.dialect).collect()
    }
}

/// A set of dialects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dialects(u8);

impl Dialects {
    /// Whether the dialect is in the set.
    pub fn contains(self, dialect: Dialect) -> bool {
        self.0 & (1 << dialect as u8) != 0
    }

    /// The dialects of the set in the order in which they are listed to people.
    pub fn iter(self) -> impl Iterator<Item = Dialect> {
        Dialect::ALL.into_iter().filter(move |dialect| self.contains(*dialect))
    }
}

impl FromIterator<Dialect> for Dialects {
    fn from_iter<I: IntoIterator<Item = Dialect>>(dialects: I) -> Dialects {
        Dialects(dialects.into_iter().fold(0, |set, dialect| set | 1 << dialect as u8))
    }
}

/// The names, with commas between them.
impl fmt::Display for Dialects {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, dialect) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(out, "{comma}{}", dialect.name())?;
        }
        Ok(())
    }
}

/// Where one provider serves one dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Scheme, authority and path up to the version, without a slash at the end.
    pub base: String,
    /// Header that carries the credential.
    pub auth: Auth,
    /// The caller's version follows the base (Gemini without a version in its base URL).
    pub version_follows: bool,
    /// Gemini only: path in front of a model's id.
    models: Cow<'static, str>,
    /// What an address holds besides.
    layout: cloud::Layout,
}

/// Joins a base URL, as typed, with what the channel serves; `None` when it does not speak the
/// dialect. `spoken` is what the provider offers: a version typed for one family does not bind
/// another.
pub fn join(
    base_url: &str,
    channel: &Channel,
    dialect: Dialect,
    spoken: Dialects,
) -> Option<Destination> {
    if !spoken.contains(dialect) {
        return None;
    }
    let surface = channel.surfaces.iter().find(|surface| surface.dialect == dialect)?;
    let (root, typed) = split_base(base_url, channel);
    let mut base = root;
    if !surface.prefix.is_empty() {
        base.push('/');
        base.push_str(surface.prefix);
    }
    let version = if dialect == Dialect::Gemini {
        let alone = spoken.iter().all(|other| other == Dialect::Gemini);
        typed.filter(|version| alone || version.starts_with("v1beta"))
    } else if surface.version.is_empty() && !surface.prefix.is_empty() {
        None
    } else {
        // An OpenAI base URL ends where its endpoints begin, so a version anywhere in it was meant
        // to be there: `/v1beta/openai`. An Anthropic one stops short of the version.
        let versioned = dialect != Dialect::Anthropic
            && surface.prefix.is_empty()
            && base.split('/').skip(3).any(is_version);
        typed
            .filter(|version| !version.starts_with("v1beta"))
            .or_else(|| (!versioned && !surface.version.is_empty()).then(|| surface.version.into()))
    };
    let version_follows = dialect == Dialect::Gemini && version.is_none();
    if let Some(version) = version {
        base.push('/');
        base.push_str(&version);
    }
    let models = Cow::Borrowed(surface.models);
    let layout = cloud::Layout::Plain;
    Some(Destination { base, auth: surface.auth, version_follows, models, layout })
}

/// The base URL without its version and without a prefix that the channel adds itself, and that
/// version.
fn split_base(base_url: &str, channel: &Channel) -> (String, Option<String>) {
    let mut root = base_url.trim_end_matches('/');
    for surface in channel.surfaces.iter().filter(|surface| surface.version.is_empty()) {
        root = without_suffix(root, surface.prefix);
    }
    let mut typed = None;
    if let Some((before, last)) = root.rsplit_once('/')
        && is_version(last)
    {
        typed = Some(last.to_owned());
        root = before.trim_end_matches('/');
    }
    for surface in channel.surfaces {
        root = without_suffix(root, surface.prefix);
    }
    // `https://openrouter.ai` for `https://openrouter.ai/api`.
    let root = match channel.base_url {
        Some(whole) if whole.strip_prefix(root).is_some_and(|rest| rest.starts_with('/')) => whole,
        _ => root,
    };
    (root.to_owned(), typed)
}

fn without_suffix<'t>(root: &'t str, prefix: &str) -> &'t str {
    if prefix.is_empty() {
        return root;
    }
    match root.strip_suffix(prefix).and_then(|rest| rest.strip_suffix('/')) {
        Some(rest) => rest,
        None => root,
    }
}

/// `v1`, `v4`, `v1beta`, `v1beta1`, `v1alpha`.
fn is_version(segment: &str) -> bool {
    let Some(rest) = segment.strip_prefix('v') else { return false };
    let name = rest.trim_start_matches(|digit: char| digit.is_ascii_digit());
    if name.len() == rest.len() {
        return false;
    }
    let stage = name.trim_end_matches(|digit: char| digit.is_ascii_digit());
    name.is_empty() || stage == "beta" || stage == "alpha"
}

impl Destination {
    /// The whole address of one call.
    ///
    /// `version` is the caller's and counts for Gemini only; `query` is raw and without its `?`;
    /// `stream` says that a stream is asked for.
    pub fn url(
        &self,
        endpoint: &Endpoint,
        version: &str,
        model_served: &str,
        collection: Collection,
        query: &str,
        stream: bool,
    ) -> String {
        let mut url = String::with_capacity(self.base.len() + model_served.len() + 64);
        url.push_str(&self.base);
        url.push('/');
        match endpoint.model {
            ModelPlace::Body
            | ModelPlace::MaybeBody
            | ModelPlace::Multipart
            | ModelPlace::Event
            | ModelPlace::Nowhere => {
                self.layout.push_call(&mut url, endpoint, model_served, stream);
            }
            ModelPlace::Resource => {
                return self.resource_url(version, endpoint.tail, false, query);
            }
            ModelPlace::Path => {
                if self.version_follows {
                    url.push_str(self.version_of(version));
                    url.push('/');
                }
                url.push_str(match collection {
                    Collection::Models => &self.models,
                    Collection::TunedModels => self.layout.tuned_models(),
                });
                url.push('/');
                push_encoded(model_served, &mut url);
                url.push(':');
                url.push_str(endpoint.tail);
            }
        }
        self.layout.push_query(&mut url, query);
        url
    }

    /// The address of a call that names no model. `tail` is the path below the version, as sent;
    /// `is_upload` puts Google's `upload/` in front of the version.
    pub fn resource_url(&self, version: &str, tail: &str, is_upload: bool, query: &str) -> String {
        let mut url = self.base.clone();
        if self.version_follows {
            url.push('/');
            url.push_str(self.version_of(version));
        }
        if let Some(parent) = self.layout.parent() {
            url.push('/');
            url.push_str(parent);
        }
        if is_upload && let Some(slash) = url.rfind('/') {
            url.insert_str(slash, "/upload");
        }
        url.push('/');
        url.push_str(tail);
        self.layout.push_query(&mut url, query);
        url
    }

    /// The address of a page of the list of models.
    pub fn list_url(&self, form: Form, query: &str) -> String {
        let tail = match form {
            // Google's models are nobody's, so neither project nor location stand there.
            Form::Vertex if !self.version_follows || self.layout.parent().is_some() => {
                return format!("{}/v1beta1/{VERTEX_MODELS}?{query}", self.base);
            }
            Form::Gemini | Form::Vertex => &*self.models,
            Form::Openai | Form::Anthropic => "models",
        };
        self.resource_url("v1beta", tail, false, query)
    }

    /// The address of a path that we know nothing of. A version in it takes the place of the
    /// base's.
    pub fn raw_url(&self, path: &str, query: &str) -> String {
        let first = path.split('/').next().unwrap_or_default();
        let mut url = match self.base.rsplit_once('/') {
            Some((root, last)) if is_version(first) && is_version(last) => root.to_owned(),
            _ => self.base.clone(),
        };
        url.push('/');
        url.push_str(path);
        push_query(&mut url, query);
        url
    }

    /// The two Google hosts name the same preview version differently.
    fn version_of<'t>(&self, version: &'t str) -> &'t str {
        if self.layout.parent().is_some() {
            // Google's other API has its preview under another name; what it serves is in `v1`.
            return if version == "v1beta1" { version } else { "v1" };
        }
        match (&*self.models, version) {
            (VERTEX_MODELS, "v1beta" | "v1alpha") => "v1beta1",
            (STUDIO_MODELS, "v1beta1") => "v1beta",
            _ => version,
        }
    }
}

fn push_query(url: &mut String, query: &str) {
    if !query.is_empty() {
        url.push('?');
        url.push_str(query);
    }
}

/// Percent-encodes what cannot stand in a path; slash, colon and at sign can, and model ids hold
/// them.
fn push_encoded(text: &str, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => out.push(byte.into()),
            b'-' | b'.' | b'_' | b'~' | b'/' | b':' | b'@' => out.push(byte.into()),
            _ => {
                out.push('%');
                out.push(HEX[usize::from(byte >> 4)].into());
                out.push(HEX[usize::from(byte & 15)].into());
            }
        }
    }
}

#[cfg(test)]
mod tests;
