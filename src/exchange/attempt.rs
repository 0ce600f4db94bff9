//! From a decision to a reply: what goes up, and the only retry loop of the program.

use super::note::Note;
use super::upload::Upload;
use super::{Call, Core, Ended, Source, Upstream};
use crate::dialect::ask::{Ask, AskError};
use crate::dialect::endpoint::{Endpoint, ModelPlace};
use crate::dialect::headers;
use crate::dialect::path::Route;
use crate::dialect::refusal::Refusal;
use crate::failure::Cause;
use crate::metrics::Count;
use crate::route::channel::Destination;
use crate::route::plan::Target;
use crate::route::retry;
use crate::route::snapshot::{Credential, Provider};
use crate::wire::head::Head;

/// One call to an upstream, decided down to its bytes.
pub(super) struct Plan<'a> {
    pub(super) provider: &'a Provider,
    pub(super) endpoint: &'static Endpoint,
    pub(super) target: &'a Target<'a>,
    pub(super) credential: Option<&'a Credential>,
    /// Usage in the stream was our wish: the downstream must not see it.
    pub(super) hide_usage: bool,
    /// The longest answer that was asked for, in tokens.
    pub(super) output_max: Option<u64>,
    /// Where the bytes of a file go that is uploaded in two steps.
    pub(super) upload: Option<Upload>,
    // A WebSocket is wanted, with these subprotocols.
    upgrade: Option<&'a str>,
    destination: &'a Destination,
    head: &'a Head,
    url: String,
    stream: bool,
    alt_sse: bool,
    wants_usage: bool,
}

impl<'a> Plan<'a> {
    /// Decides where the request goes. `turn` picks the credential: each in turn, by weight.
    pub(super) fn new(
        provider: &'a Provider,
        destination: &'a Destination,
        head: &'a Head,
        route: &Route<'_>,
        target: &'a Target<'a>,
        ask: &Ask,
        turn: u64,
    ) -> Plan<'a> {
        let endpoint = route.endpoint;
        let url = destination.url(
            endpoint,
            route.version,
            target.model_served,
            route.collection,
            &route.query.rest,
        );
        let base = Plan::plain(provider, destination, head, endpoint, target, url, turn);
        let in_stream = ask.stream && endpoint.usage_option;
        let hide_usage = in_stream && provider.include_usage && !ask.wants_usage();
        Plan {
            hide_usage,
            output_max: ask.output_max,
            stream: ask.stream || endpoint.tail == "streamGenerateContent",
            alt_sse: route.query.alt_sse,
            wants_usage: hide_usage || (in_stream && ask.wants_usage()),
            ..base
        }
    }

    /// A call of which nothing is read or rewritten, at this URL.
    pub(super) fn plain(
        provider: &'a Provider,
        destination: &'a Destination,
        head: &'a Head,
        endpoint: &'static Endpoint,
        target: &'a Target<'a>,
        url: String,
        turn: u64,
    ) -> Plan<'a> {
        Plan {
            provider,
            endpoint,
            target,
            credential: pick(&provider.credentials, turn),
            hide_usage: false,
            output_max: None,
            upload: None,
            upgrade: None,
            destination,
            head,
            url,
            stream: false,
            alt_sse: false,
            wants_usage: false,
        }
    }

    /// The same, as the handshake of a WebSocket with these subprotocols.
    pub(super) fn upgraded(self, protocols: &'a str) -> Plan<'a> {
        Plan { upgrade: Some(protocols), ..self }
    }

    /// The served model with its collection, where its vendor wants that.
    pub(super) fn full_name(&self) -> String {
        self.destination.full_name(self.endpoint, self.target.model_served)
    }

    /// The name that a reply gets in place of the served one; `None`: nothing was renamed.
    pub(super) fn restored(&self) -> Option<String> {
        let Target { model_asked, renamed, .. } = *self.target;
        renamed.then(|| match self.endpoint.model {
            ModelPlace::Resource => format!("models/{model_asked}"),
            _ => model_asked.to_owned(),
        })
    }

    /// Puts the served model's name into the body, and our wish for usage.
    pub(super) fn rewrite(&self, ask: &Ask, body: &mut Vec<u8>) -> Result<(), AskError> {
        let Target { model_asked, model_served, .. } = *self.target;
        let renamed = model_asked != model_served;
        match self.endpoint.model {
            ModelPlace::Multipart | ModelPlace::Event | ModelPlace::Nowhere => Ok(()),
            ModelPlace::Body | ModelPlace::MaybeBody => {
                let served = renamed.then_some(model_served);
                ask.rewrite(body, served, None, self.hide_usage)
            }
            ModelPlace::Resource => ask.rewrite(body, Some(&self.full_name()), None, false),
            ModelPlace::Path => ask.rewrite(body, None, Some((model_asked, model_served)), false),
        }
    }
}

/// The credential whose turn it is. `None`: the provider has none.
fn pick(credentials: &[Credential], turn: u64) -> Option<&Credential> {
    let total: u64 = credentials.iter().map(|credential| u64::from(credential.weight)).sum();
    let mut at = turn.checked_rem(total)?;
    credentials.iter().find(|credential| {
        let weight = u64::from(credential.weight);
        let found = at < weight;
        at = at.saturating_sub(weight);
        found
    })
}

/// The header fields that go up, written straight into whatever carries them.
pub struct UpHeaders<'a> {
    head: &'a Head,
    provider: &'a Provider,
    endpoint: &'static Endpoint,
    destination: &'a Destination,
    credential: Option<&'a Credential>,
}

impl UpHeaders<'_> {
    /// Shows every field.
    pub fn each(&self, visit: &mut dyn FnMut(&str, &[u8])) {
        let extra = &self.provider.forward_headers;
        // What is read was unpacked before.
        let is_read = self.endpoint.model != ModelPlace::Nowhere;
        headers::forward_up(&self.head.headers, self.endpoint.dialect, extra)
            .filter(|(name, _)| !is_read || *name != "content-encoding")
            .for_each(|(name, value)| visit(name, value));
        let Some(credential) = self.credential else { return };
        let Some((name, scheme)) = self.destination.auth.header() else { return };
        let key = credential.api_key.expose();
        let mut value = String::with_capacity(scheme.len() + key.len());
        value.push_str(scheme);
        value.push_str(key);
        visit(name, value.as_bytes());
    }
}

/// Calls the upstream; again when that is safe.
pub(super) fn attempt<U: Upstream>(
    core: &Core,
    up: &mut U,
    plan: &Plan<'_>,
    body: &[u8],
    source: Option<&dyn Source>,
    note: &mut Note,
) -> Result<U::Reply, Ended> {
    let headers = UpHeaders {
        head: plan.head,
        provider: plan.provider,
        endpoint: plan.endpoint,
        destination: plan.destination,
        credential: plan.credential,
    };
    let call = Call {
        provider: plan.provider,
        method: plan.head.method(),
        url: &plan.url,
        headers: &headers,
        body,
        source,
        endpoint: plan.endpoint,
        model_served: plan.target.model_served,
        stream: plan.stream,
        alt_sse: plan.alt_sse,
        wants_usage: plan.wants_usage,
        upgrade: plan.upgrade,
    };
    note.called_at = Some(core.now());
    loop {
        note.attempts += 1;
        core.metrics.count(Count::Attempts);
        let failure = match up.call(&call) {
            Ok(reply) => {
                note.answered_at = Some(core.now());
                return Ok(reply);
            }
            Err(failure) => failure,
        };
        core.metrics.count(Count::AttemptsFailed);
        log::debug!(target: "gproxy::attempt", "id={} {failure:?}", note.id);
        if failure.cause == Cause::DownstreamGone {
            return Err(Ended::Gone);
        }
        // What was read from a source is gone.
        if source.is_some() || !retry::may_retry(&failure, note.attempts) {
            note.answered_at = Some(core.now());
            return Err(Ended::Refused(Refusal::from(failure)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn credentials_take_turns_by_weight() {
        let credential = |weight| Credential { api_key: Secret::new("k"), weight };
        let list = [credential(1), credential(0), credential(2)];
        let picked = |turn| {
            let picked = pick(&list, turn).unwrap();
            list.iter().position(|credential| std::ptr::eq(credential, picked)).unwrap()
        };
        assert_eq!((0..6).map(picked).collect::<Vec<_>>(), [0, 2, 2, 0, 2, 2]);
        assert!(pick(&[], 3).is_none());
    }
}
