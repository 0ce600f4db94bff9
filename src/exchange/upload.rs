//! Google's resumable uploads: where the bytes of a file are sent.
//!
//! The first reply names an address for them, at Google. A client would send its bytes there, past
//! us and with its key of ours. It is told an address of ours, which leads to that one and to no
//! other: the one that we called, with the session's query.

use crate::route::channel::Destination;
use crate::wire::head::Head;

/// The header that names the address.
pub(super) const FIELD: &str = "x-goog-upload-url";

/// One address, theirs and ours, without its query.
pub(super) struct Upload {
    theirs: String,
    ours: String,
}

impl Upload {
    /// The address that `provider` is called at; `None` when the caller does not say how he calls
    /// us.
    pub(super) fn new(
        destination: &Destination,
        provider: &str,
        version: &str,
        tail: &str,
        head: &Head,
    ) -> Option<Upload> {
        let authority = head.authority()?;
        // Who lies here deceives himself.
        let secure = head.headers.get("x-forwarded-proto") == Some(b"https");
        let scheme = if secure { "https" } else { "http" };
        Some(Upload {
            theirs: destination.resource_url(version, tail, true, ""),
            ours: format!("{scheme}://{authority}/{provider}/upload/{version}/{tail}"),
        })
    }

    /// Our address for a session of theirs; `None`: it leads elsewhere.
    pub(super) fn map(&self, url: &[u8]) -> Option<String> {
        let session = str::from_utf8(url).ok()?.strip_prefix(&self.theirs)?;
        session.starts_with('?').then(|| format!("{}{session}", self.ours))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_address_that_was_called_is_ours() {
        let upload =
            Upload { theirs: "https://g.test/upload/v1beta/files".into(), ours: "o".into() };
        let of = |url: &str| upload.map(url.as_bytes());
        assert_eq!(
            of("https://g.test/upload/v1beta/files?upload_id=1"),
            Some("o?upload_id=1".into())
        );
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
