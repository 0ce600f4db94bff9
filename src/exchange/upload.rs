//! Google's resumable uploads: where the bytes of a file are sent.
//!
//! The first reply names an address for them, at Google. A client would send its bytes there, past
//! us, some of them with the key of ours. It is told an address of ours, which leads to that one
//! and to no other: the one that we called, with the session's query.
//!
//! Other clients send no key with the bytes: the address itself is what lets them in. So ours says
//! for which key it was made, and is sealed with what we know of that key: it counts as long as the
//! key does, through a restart too.

use ring::hmac;

use crate::dialect::path::{self, UPLOAD_SESSION};
use crate::route::channel::Destination;
use crate::route::snapshot::{Caller, Snapshot};
use crate::secret::{Digest, KeyId};
use crate::wire::head::Head;

/// The header that names the address.
pub(super) const FIELD: &str = "x-goog-upload-url";

/// One address, theirs and ours, without its query.
pub(super) struct Upload {
    theirs: String,
    origin: String,
    path: String,
    key: KeyId,
    sealing: hmac::Key,
}

/// How the caller calls us; `None` when he does not say. Who lies here deceives himself.
pub(super) fn own_origin(head: &Head) -> Option<String> {
    let secure = head.secure || head.headers.get("x-forwarded-proto") == Some(b"https");
    let scheme = if secure { "https" } else { "http" };
    head.authority().map(|authority| format!("{scheme}://{authority}"))
}

impl Upload {
    /// The address that `provider` is called at, for who called with `key`; `None` when he does not
    /// say how he calls us.
    pub(super) fn new(
        destination: &Destination,
        provider: &str,
        version: &str,
        tail: &str,
        snapshot: &Snapshot,
        key: KeyId,
        head: &Head,
    ) -> Option<Upload> {
        let (digest, _) = snapshot.key_named(key.as_str())?;
        Some(Upload {
            theirs: destination.resource_url(version, tail, true, ""),
            origin: own_origin(head)?,
            path: format!("/{provider}/upload/{version}/{tail}"),
            key,
            sealing: sealing(digest),
        })
    }

    /// Our address for a session of theirs; `None`: it leads elsewhere.
    pub(super) fn map(&self, url: &[u8]) -> Option<String> {
        let session = str::from_utf8(url).ok()?.strip_prefix(&self.theirs)?.strip_prefix('?')?;
        let Upload { origin, path, key, .. } = self;
        let seal = hmac::sign(&self.sealing, &sealed(key.as_str(), path, session));
        let (id, seal) = (key.as_str(), hex(seal.as_ref()));
        Some(format!("{origin}{path}?{session}&{UPLOAD_SESSION}={id}-{seal}"))
    }
}

/// For whom an address of ours was made, if this is one. It is as good as the key that it was made
/// with.
pub(super) fn caller_of(snapshot: &Snapshot, head: &Head) -> Option<Caller> {
    let (path, query) = path::split(head.target());
    let (session, token) = query.rsplit_once(UPLOAD_SESSION)?;
    let session = session.strip_suffix('&')?;
    let (id, seal) = token.strip_prefix('=')?.split_once('-')?;
    let (digest, caller) = snapshot.key_named(id)?;
    hmac::verify(&sealing(digest), &sealed(id, path, session), &unhex(seal)?).ok()?;
    Some(caller)
}

/// What seals addresses for whom this key is.
fn sealing(key: &Digest) -> hmac::Key {
    let text = format!("gproxy upload 1\0{}", key.to_text());
    hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes())
}

fn sealed(id: &str, path: &str, session: &str) -> Vec<u8> {
    [id, path, session].join("\0").into_bytes()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_address_that_was_called_is_ours() {
        let upload = Upload {
            theirs: "https://g.test/upload/v1beta/files".into(),
            origin: "http://o".into(),
            path: "/p".into(),
            key: KeyId::of(&Digest::of(b"sk-1")),
            sealing: sealing(&Digest::of(b"sk-1")),
        };
        let of = |url: &str| upload.map(url.as_bytes());
        let ours = of("https://g.test/upload/v1beta/files?upload_id=1").expect("an address");
        let id = upload.key.as_str();
        let expected = format!("http://o/p?upload_id=1&gproxy_session={id}-");
        assert!(ours.starts_with(&expected), "{ours}");
        for url in [
            "http://g.test/upload/v1beta/files?upload_id=1",
            "https://g.test.evil/upload/v1beta/files?upload_id=1",
            "https://evil/upload/v1beta/files?upload_id=1",
            "https://g.test/upload/v1beta/files/x?upload_id=1",
            "https://g.test/upload/v1beta/files",
            "",
        ] {
            assert_eq!(of(url), None, "{url}");
        }
    }
}
