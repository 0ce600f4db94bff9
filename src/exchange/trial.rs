//! Calls that an administrator asks for: does this provider answer, and what does it list?
//!
//! They are errands like our own: a worker makes them, and whoever asked waits elsewhere. A trial
//! is no request: nobody is charged, and nothing is learned of the credential.

use std::time::Duration;

use serde_json::json;

use super::mask::mask;
use super::{Core, Errand, Fetch, ListFailure, Upstream, errand, tokens};
use crate::dialect::endpoint::{ENDPOINTS, Endpoint};
use crate::dialect::listed::Listed;
use crate::dialect::path::Collection;
use crate::dialect::{Dialect, headers};
use crate::failure::Failure;
use crate::limits;
use crate::route::channel::Destination;
use crate::route::snapshot::{Credential, Provider};

/// What a test call showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trial {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// What was called; empty: there is nothing to call.
    pub url: String,
    /// Of the answer; 0: none came.
    pub status: u16,
    /// Why none came.
    pub failure: Option<Failure>,
    /// How long it took.
    pub ms: u64,
    /// The beginning of what an error says, without the credential.
    pub text: String,
}

/// How long a token is waited for.
const PATIENCE: Duration = Duration::from_millis(limits::FETCH_MS_MAX);

/// Where the answer to a question goes.
pub(super) type Tell<T> = Box<dyn FnOnce(T) + Send>;

/// What is asked for.
pub enum Question {
    /// A call with the credential of that place: for the list of models, or of a model.
    Trial(Option<usize>, Option<String>, Tell<Trial>),
    /// The list of models.
    List(Tell<Result<Vec<Listed>, ListFailure>>),
}

impl Core {
    /// Has a worker ask the provider of that name, within a second. False: too many ask, or there
    /// is no such provider.
    pub fn question(&self, provider: &str, question: Question) -> bool {
        let snapshot = self.snapshot();
        let Some(at) = snapshot.provider_named(provider) else { return false };
        let mut asked = self.asked.lock();
        let has_room = asked.len() < limits::QUESTIONS_MAX;
        if has_room {
            asked.push(Errand::asked(snapshot, at, question));
        }
        has_room
    }
}

impl Question {
    /// Asks.
    pub(super) fn ask<U: Upstream>(self, core: &Core, up: &mut U, provider: &Provider) {
        match self {
            Question::Trial(at, model, tell) => {
                let credential = provider.credentials.get(at.unwrap_or_default());
                tell(trial(core, up, provider, credential, model.as_deref()));
            }
            Question::List(tell) => tell(super::lists::fetch(core, up, provider)),
        }
    }
}

/// What a credential presents: a key, or the token of an account.
pub(super) fn presented<U: Upstream>(
    core: &Core,
    up: &mut U,
    provider: &Provider,
    place: &Destination,
    credential: Option<&Credential>,
) -> Result<Option<(&'static str, String, String)>, Failure> {
    let account = credential.and_then(|credential| credential.account.as_deref());
    let token =
        account.map(|account| tokens::get(core, up, provider, account, PATIENCE)).transpose()?;
    let key = credential.map(|credential| credential.api_key.expose());
    let key = token.as_ref().map(|token| token.expose()).or(key);
    Ok(match (place.auth.header(), key) {
        (Some((name, scheme)), Some(key)) => Some((name, format!("{scheme}{key}"), key.to_owned())),
        _ => None,
    })
}

fn trial<U: Upstream>(
    core: &Core,
    up: &mut U,
    provider: &Provider,
    credential: Option<&Credential>,
    model: Option<&str>,
) -> Trial {
    let Some((place, method, url, body, is_anthropic)) = plan(provider, model) else {
        return Trial::default();
    };
    let begun = core.now();
    let mut trial = Trial { method, url, ..Trial::default() };
    let since = || core.now().saturating_duration_since(begun).as_millis() as u64;
    let presented = match presented(core, up, provider, place, credential) {
        Ok(presented) => presented,
        Err(failure) => return Trial { failure: Some(failure), ms: since(), ..trial },
    };
    let mut fields = vec![("accept", "application/json")];
    if is_anthropic {
        fields.push((headers::VERSION, headers::USUAL_VERSION));
    }
    if method == "POST" {
        fields.push(("content-type", "application/json"));
    }
    if let Some((name, value, _)) = &presented {
        fields.push((name, value));
    }
    let (url, body) = (trial.url.as_str(), body.as_bytes());
    let bytes_max = limits::LIST_BYTES_MAX;
    let ms_max = limits::FETCH_MS_MAX;
    let fetch = Fetch { provider, method, url, headers: &fields, body, bytes_max, ms_max };
    match errand::fetch(up, &fetch) {
        Ok(reply) => {
            trial.status = reply.status;
            if reply.status >= 400 {
                let mut text = reply.body;
                text.truncate(limits::TRIAL_BYTES_MAX + limits::SECRET_BYTES_MAX);
                if let Some((_, _, secret)) = presented.filter(|(_, _, key)| !key.is_empty()) {
                    mask(secret.as_bytes(), &mut text, 0);
                }
                text.truncate(limits::TRIAL_BYTES_MAX);
                trial.text = String::from_utf8_lossy(&text).into_owned();
            }
        }
        Err(failure) => trial.failure = Some(failure),
    }
    trial.ms = since();
    trial
}

/// Where a test call goes and what it sends: for the list of models, which costs nothing, or for a
/// few tokens of a model.
fn plan<'p>(
    provider: &'p Provider,
    model: Option<&str>,
) -> Option<(&'p Destination, &'static str, String, String, bool)> {
    let Some(model) = model else {
        let (form, place) = provider.live_list()?;
        let is_anthropic = form.family() == Dialect::Anthropic.family();
        let url = place.list_url(form, &form.query(None));
        return Some((place, "GET", url, String::new(), is_anthropic));
    };
    let dialect = provider.dialects().iter().next().filter(|_| !provider.is_echo())?;
    let place = provider.destination(dialect)?;
    let endpoint: &Endpoint = ENDPOINTS.iter().find(|endpoint| endpoint.dialect == dialect)?;
    let said = json!([{ "role": "user", "content": "ping" }]);
    let body = match dialect {
        Dialect::OpenaiChat | Dialect::Anthropic => {
            json!({ "model": model, "messages": said, "max_tokens": 16 })
        }
        Dialect::OpenaiResponses => {
            json!({ "model": model, "input": "ping", "max_output_tokens": 16 })
        }
        Dialect::OpenaiEmbeddings => json!({ "model": model, "input": "ping" }),
        Dialect::Gemini => json!({
            "contents": [{ "role": "user", "parts": [{ "text": "ping" }] }],
            "generationConfig": { "maxOutputTokens": 16 }
        }),
    };
    let url = place.url(endpoint, "v1beta", model, Collection::Models, "", false);
    Some((place, "POST", url, body.to_string(), dialect == Dialect::Anthropic))
}
