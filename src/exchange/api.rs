//! Requests of the administration interface on their way to it.
//!
//! Its handlers read and write the database, so they never run on a worker: the request is handed
//! to a desk of the office, whole, with who its key says that it is. What is wrong with a request
//! is told in the interface's own shape.

use std::net::IpAddr;
use std::sync::Arc;

use super::caller::FORWARDED;
use super::note::Note;
use super::office::{self, Desk, Unanswered};
use super::session::Session;
use super::{Core, Downstream, Ended, Upstream, caller_of};
use crate::admin::Page;
use crate::dialect::headers;
use crate::dialect::refusal::Refusal;
use crate::limits;
use crate::route::listing::Live;
use crate::route::snapshot::{Caller, KeyError, Snapshot};
use crate::secret::Digest;
use crate::wire::head::Head;

/// Fields of a head that the interface reads.
const FIELDS: [&str; 6] =
    ["content-type", "cookie", "host", FORWARDED, "x-forwarded-proto", "x-gproxy-csrf"];

/// A request of the administration interface.
pub struct ApiRequest {
    /// HTTP method.
    pub method: String,
    /// Path and query, as sent.
    pub target: String,
    /// The body, whole.
    pub body: Vec<u8>,
    /// The tables of now.
    pub snapshot: Arc<Snapshot>,
    /// What upstreams list.
    pub live: Arc<Live>,
    /// The key that it carries, and whose: indices into the snapshot.
    pub key: Option<Caller>,
    /// The digest of the key that it carries, whosever that is.
    digest: Option<Digest>,
    /// The other end of the connection.
    pub peer: Option<IpAddr>,
    /// It came through TLS of ours.
    pub is_secure: bool,
    fields: [Option<Vec<u8>>; FIELDS.len()],
}

impl ApiRequest {
    /// It carries a key, whosever.
    pub fn has_key(&self) -> bool {
        self.digest.is_some()
    }

    /// Sees the tables of now. They may have changed while its body came and while it waited: who
    /// may do something when it is done is asked then.
    pub fn renew(&mut self, now: Arc<Snapshot>, let_in: impl Fn(&Snapshot, Caller) -> bool) {
        if Arc::ptr_eq(&now, &self.snapshot) {
            return;
        }
        let caller = self.key.and(self.digest).and_then(|digest| now.caller_of(&digest));
        self.key = caller.filter(|caller| let_in(&now, *caller));
        self.snapshot = now;
    }

    /// A field of the head, if it is text.
    pub fn field(&self, name: &str) -> Option<&str> {
        let at = FIELDS.iter().position(|known| *known == name)?;
        std::str::from_utf8(self.fields[at].as_deref()?).ok()
    }
}

/// What answers them.
pub trait Api: Send + Sync {
    /// Where such a request is answered.
    fn desk(&self, method: &str, path: &str) -> Desk;
    /// The answer.
    fn answer(&self, request: ApiRequest) -> Page;
    /// The answer to a request that did not get there, in the interface's shape.
    fn refused(&self, status: u16, message: &str) -> Page;
}

/// Whether the path is one of the interface's.
pub(super) fn is_ours(target: &str) -> bool {
    ["/admin/api", "/user/api"].into_iter().any(|prefix| {
        target
            .strip_prefix(prefix)
            .is_some_and(|rest| matches!(rest.bytes().next(), None | Some(b'/' | b'?')))
    })
}

/// Answers such a request. Its frame stays out of its caller's, which every open stream keeps.
#[inline(never)]
pub(super) fn answer<D: Downstream, U: Upstream>(
    core: &Core,
    snapshot: &Arc<Snapshot>,
    session: &mut Session<D>,
    up: &mut U,
    head: &Head,
    note: &mut Note,
) -> Result<(), Ended> {
    let Some(api) = core.api.get().cloned() else { return Err(Refusal::unauthorized().into()) };
    let digest = headers::credential_of(&head.headers).map(Digest::of);
    let caller = match digest.map(|_| caller_of(core, snapshot, session, head)) {
        None | Some(Err(KeyError::Unknown)) => None,
        Some(Ok(caller)) => Some(caller),
        Some(Err(error)) => {
            let refusal = Refusal::from(error);
            let mut page = api.refused(refusal.status, &refusal.message);
            let retry = refusal.retry_after_s.map(|seconds| ("retry-after", seconds.to_string()));
            page.fields.extend(retry);
            return session.send_page(core, head, page, note);
        }
    };
    note.called_by(caller);
    let bytes_max = snapshot.limits.body_bytes_max.min(limits::API_BODY_BYTES_MAX);
    let body =
        session.open_body(head, bytes_max).and_then(|()| session.read_body(core, head, note));
    let mut body = match body {
        Ok(body) => body,
        Err(refusal) => {
            let page = api.refused(refusal.status, &refusal.message);
            return session.send_page(core, head, page, note);
        }
    };
    note.bytes_in = body.bytes.len() as u64;
    let request = ApiRequest {
        method: head.method().to_owned(),
        target: head.target().to_owned(),
        body: std::mem::take(&mut body.bytes),
        snapshot: snapshot.clone(),
        live: core.live(),
        key: caller,
        digest,
        peer: session.down.peer(),
        is_secure: session.down.is_secure(),
        fields: FIELDS.map(|name| match name {
            FORWARDED => head.headers.list(name).map(|told| told.into_owned().into_bytes()),
            name => head.headers.get(name).map(<[u8]>::to_vec),
        }),
    };
    let path = request.target.split('?').next().unwrap_or_default();
    let desk = api.desk(&request.method, path);
    let asked = api.clone();
    let page = match office::ask(up, desk, move || asked.answer(request)) {
        Ok(page) => page,
        Err(Unanswered::Full) => api.refused(503, "too much waits; try again in a moment"),
        Err(Unanswered::Late) => api.refused(503, "it takes too long; it may still be done"),
        Err(Unanswered::Failed) => api.refused(500, "the gateway failed within this request"),
    };
    session.send_page(core, head, page, note)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interface_has_its_own_paths_and_no_neighbours() {
        let rows = [
            ("/admin/api", true),
            ("/admin/api/users", true),
            ("/admin/api?x", true),
            ("/user/api/me", true),
            ("/admin/apis", false),
            ("/admin", false),
            ("/Admin/api", false),
            ("/v1/admin/api", false),
        ];
        for (target, expected) in rows {
            assert_eq!(is_ours(target), expected, "{target}");
        }
    }
}
